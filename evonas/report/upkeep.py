"""What `verify`, `gc` and `repair` found, as facts for people and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evonas.core import Json
from evonas.report.tables import Column, Table

if TYPE_CHECKING:
    from evonas.repair import Loss, Repaired
    from evonas.retention import Collection
    from evonas.verify import Verdict

__all__ = ["collected", "collected_json", "losses", "repaired", "repaired_json", "size", "verified", "verified_json"]

Facts = list[tuple[str, str]]


def size(count: int) -> str:
    """Bytes for people: `512 B`, `35.3 kB`, `1.2 GB`."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} B"


def verified(found: Verdict) -> Facts:
    """A verdict line by line."""
    rows = sum(found.rows.values())
    tables = sum(count > 0 for count in found.rows.values())
    facts = [
        ("run", f"{found.run}, {_many(found.generations, 'generation')}"),
        ("rows", f"{rows:,} in {tables} tables match their hashes and the ledger of {_many(found.commits, 'commit')}"),
        ("weights", _weights(found)),
        ("decisions", _decisions(found)),
    ]
    if found.ahead:
        facts.append(("under way", f"{_many(found.ahead, 'individual')} of unfinished generations follow as well"))
    if found.sound:
        facts.append(
            ("verdict", "everything follows" if not found.first else "everything that can be followed, follows")
        )
    return facts


def _weights(found: Verdict) -> str:
    if not found.weights:
        return "no file is needed" if found.sound else "no file is intact"
    spare = f", {found.unneeded} of which nobody needs: `evonas gc`" if found.unneeded else ""
    return f"{_many(found.weights, 'file')} of {size(found.weights_bytes)} match their SHA-256{spare}"


def _decisions(found: Verdict) -> str:
    counts = ", ".join(
        _many(count, name)
        for count, name in ((found.individuals, "individual"), (found.fronts, "front"), (found.states, "state"))
    )
    if not found.followed:
        return "none to follow"
    span = f"generations {found.first + 1} to {found.first + found.followed} were bred again without training: "
    late = f"; those before cannot be: {found.why_not_all}" if found.first else ""
    return f"{span}{counts} and {found.species} entries of species are as stored{late}"


def verified_json(found: Verdict) -> Mapping[str, Json]:
    """A verdict as JSON."""
    return {**dataclasses.asdict(found), "sound": found.sound}


_KINDS = {
    "weights": "weights that no policy keeps",
    "unfinished": "files left half written",
    "scratch": "scratch of workers that are gone",
    "older format": "the database as it was before a migration",
}


def collected(found: Collection, dry_run: bool) -> Facts:
    """What was deleted, or would be."""
    would = "would be " if dry_run else ""
    facts = [
        (kind, f"{_many(count, 'file')} of {size(bytes_)} {would}deleted: {_KINDS[kind]}")
        for kind, (count, bytes_) in found.by_kind.items()
    ]
    if found.spare:
        facts.append(("database", f"{size(found.spare)} that it does not use {would}given back"))
    if not facts:
        return [("nothing", f"to collect: {size(found.before)}, {_many(found.kept, 'weights file')} needed")]
    facts.append(("kept", _many(found.kept, "weights file")))
    facts.append(("size", f"{size(found.before)} before, {size(found.after)} after"))
    return facts


def collected_json(found: Collection, dry_run: bool) -> Mapping[str, Json]:
    """The same as JSON, with every path."""
    files: Sequence[Json] = [
        {"kind": one.kind, "path": str(one.path.relative_to(found.folder)), "bytes": one.bytes} for one in found.litter
    ]
    return {
        "run": found.folder.name, "dry_run": dry_run, "files": files, "spare": found.spare, "before": found.before,
        "after": found.after, "kept": found.kept,
    }  # fmt: skip


def losses(found: Repaired) -> Table:
    """What there was, what was whole, and what is there now, table by table."""
    rows: tuple[tuple[Json, ...], ...] = tuple(
        (loss.table, "?" if loss.counted is None else loss.counted, loss.whole, loss.now, _fate(found, loss))
        for loss in found.tables
        if loss.before or loss.now
    )
    columns = (
        Column("table", "table", right=False), Column("counted", "there were"), Column("whole", "whole"),
        Column("now", "now"), Column("fate", "what became of the rest", right=False),
    )  # fmt: skip
    return Table(columns, rows)


def _fate(found: Repaired, loss: Loss) -> str:
    if loss.table in ("states", "cohorts"):
        return "the newest suffice"
    if loss.now > loss.whole:
        return f"{loss.now - loss.whole} bred again"
    if loss.now < loss.before and loss.table in ("generations", "species", "fronts", "journal") and found.again:
        return f"{loss.before - loss.now} follow again when it is resumed"
    if loss.now < loss.before and loss.table == "estimates" and found.again:
        return f"{len(found.again)} made again when it is resumed"
    return f"{loss.before - loss.now} lost" if loss.now < loss.before else ""


def repaired(found: Repaired) -> Facts:
    """What was recovered, line by line."""
    facts = [
        ("damaged", f"{found.damaged}: stays as it is"),
        ("repaired", str(found.folder)),
        ("reached", f"generation {found.generations} of {found.newest}{_begun(found)}"),
    ]
    if found.again:
        cure = "a resume estimates them again and finds all the others"
        facts.append(
            ("to do", f"{_many(len(found.again), 'individual')} without estimate ({_ids(found.again)}): {cure}")
        )
    if found.lost:
        facts.append(("lost", f"the estimates of {_many(len(found.lost), 'individual')}: {_ids(found.lost)}"))
    facts.append(("weights", f"{_many(found.weights, 'file')} whole{_lost_weights(found)}"))
    return facts + [("note", note) for note in found.notes]


def _begun(found: Repaired) -> str:
    return f"; what came before generation {found.begun} cannot be bred again" if found.begun else ""


def _lost_weights(found: Repaired) -> str:
    return f"; lost are those of {', '.join(found.lost_weights[:8])}" if found.lost_weights else ""


def _ids(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return shown if len(ids) <= 8 else f"{shown} and {len(ids) - 8} more"


def repaired_json(found: Repaired) -> Mapping[str, Json]:
    """The same as JSON."""
    return {**dataclasses.asdict(found), "damaged": str(found.damaged), "folder": str(found.folder)}


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"
