"""What is left of a damaged run folder: every row whose hash is right, wherever in its files it lies.

Rows are read by SQLite from a copy as far as it gets, and then off the pages of database and log one by one, without
their trees: a row's hash says which table it belongs to and that it is whole. The folder itself is only read."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evonas import yaml
from evonas.core import DataError, EvonasError, Json, dumps, loads
from evonas.store import COLUMNS, PAGE_BYTES, Row, genuine

__all__ = ["Salvage", "carved", "salvage"]

LEAF, HEADER = 0x0D, 100
"""The kind of page that holds rows of a table, and the bytes that the first page begins with."""

WAL_HEADER, FRAME_HEADER = 32, 24
LONGEST = 1 << 31
"""Bytes of the largest row that is believed."""


@dataclass
class Salvage:
    """Rows by table and key; of how many the ledger knew; weights files that are whole, and those that are not; what
    the recipe was read from."""

    folder: Path
    rows: dict[str, dict[Any, Row]] = field(default_factory=lambda: {table: {} for table in COLUMNS})
    notes: list[str] = field(default_factory=list)
    weights: dict[str, Path] = field(default_factory=dict)
    damaged_weights: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> dict[str, Json] | None:
        """The resolved recipe, None where it is lost."""
        found = self.rows["meta"].get("recipe")
        return None if found is None else dict(loads(found[1]))

    @property
    def about(self) -> dict[str, Json] | None:
        """What the run was started with, None where that is lost."""
        found = self.rows["meta"].get("about")
        return None if found is None else dict(loads(found[1]))

    @property
    def expected(self) -> Mapping[str, int] | None:
        """Rows by table as the ledger counted them; None where it is lost."""
        ledger = self.rows["ledger"].get(1)
        if ledger is None:
            return None
        return {table: entry[0] for table, entry in loads(ledger[1])["tables"].items()}

    @property
    def newest(self) -> int:
        """The newest generation that anything tells of."""
        ledger = self.rows["ledger"].get(1)
        told = [loads(ledger[1])["generation"] or 0] if ledger is not None else []
        return int(max([0, *told, *self.rows["generations"], *self.rows["journal"]]))

    def whole_individuals(self) -> dict[int, Row]:
        """Individuals whose genomes are there, too."""
        return {id: row for id, row in self.rows["individuals"].items() if row[2] in self.rows["genomes"]}


def salvage(folder: Path) -> Salvage:
    """Everything that is whole in a run folder. Raises DataError where not even a recipe is."""
    found = Salvage(folder)
    with tempfile.TemporaryDirectory(prefix="evonas-") as scratch:
        _read_by_sqlite(found, Path(scratch))
    if found.notes or not _complete(found):
        for table, row in carved(folder):
            if table == "ledger" and _commits(row) > _commits(found.rows[table].get(row[0])):
                found.rows[table][row[0]] = row
            found.rows[table].setdefault(row[0], row)
    if found.recipe is None:
        _read_recipe(found)
    _read_weights(found)
    return found


def _commits(ledger: Row | None) -> int:
    """After how many commits a ledger was written; -1 for none."""
    return -1 if ledger is None else int(loads(ledger[1])["commits"])


def _complete(found: Salvage) -> bool:
    """Whether SQLite has found every row that the ledger counted, and a state of the newest generation; a log may hold
    more behind a byte that is wrong."""
    if _bytes(found.folder / "run.sqlite-wal"):
        return False
    expected = found.expected
    counted = expected is not None and all(len(found.rows[table]) == count for table, count in expected.items())
    return counted and (not found.newest or found.newest in found.rows["states"])


def _read_by_sqlite(found: Salvage, scratch: Path) -> None:
    """Rows as SQLite finds them in a copy, into which it may roll back what was cut short."""
    for name in ("run.sqlite", "run.sqlite-wal", "run.sqlite-journal"):
        with suppress(FileNotFoundError):
            shutil.copyfile(found.folder / name, scratch / name)
    if not (scratch / "run.sqlite").exists():
        found.notes.append("run.sqlite is missing")
        return
    failed: dict[str, list[str]] = {}
    with closing(sqlite3.connect(scratch / "run.sqlite", isolation_level=None)) as db:
        for table in COLUMNS:
            if error := _read_table(db, table, found.rows[table]):
                failed.setdefault(error, []).append(table)
    if set(failed.get("no such table", ())) <= {"cohorts", "journal"} and found.rows["meta"]:
        failed.pop("no such table", None)  # format 1 has none
    for error, tables in failed.items():
        named = "all tables" if len(tables) == len(COLUMNS) else f"table {' and '.join(tables)}"
        found.notes.append(f"{named} could not be read to the end ({error}): rows were taken off single pages")


def _read_table(db: sqlite3.Connection, table: str, rows: dict[Any, Row]) -> str:
    """Adds the whole rows of a table as far as it can be read; what stopped it, empty where nothing did."""
    try:
        db.execute("PRAGMA trusted_schema=OFF")
        for key, stamp, *cells in db.execute(f"SELECT * FROM {table} NOT INDEXED"):
            if genuine(table, (key, *cells), stamp):
                rows[key] = (key, *cells)
    except (sqlite3.Error, UnicodeDecodeError, ValueError, OverflowError) as error:
        return str(error).partition(":")[0]
    return ""


def _read_recipe(found: Salvage) -> None:
    """The recipe from the copy for people, where the database has lost it."""
    try:
        data = yaml.parse((found.folder / "recipe.yaml").read_text()).data
    except (OSError, UnicodeDecodeError, EvonasError):
        data = None
    if not isinstance(data, Mapping):
        raise DataError(
            f"{found.folder} cannot be repaired: neither run.sqlite nor recipe.yaml tells its recipe any more; restore "
            "one of them from a backup"
        )
    found.rows["meta"]["recipe"] = ("recipe", dumps(data))
    found.notes.append("the recipe in run.sqlite is lost: recipe.yaml was taken")


def _read_weights(found: Salvage) -> None:
    for path in sorted((found.folder / "weights").glob("*.safetensors")):
        whole = hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
        if whole:
            found.weights[path.stem] = path
        else:
            found.damaged_weights.append(path.stem)


# --------------------------------------------------------------------------------------------------- single pages


def carved(folder: Path) -> Iterator[tuple[str, Row]]:
    """Rows with their tables off the pages of the log, the newest first, and of the database.

    SQLite's file format, sections 1.5 to 2.1 and 4.1."""
    base = _pages(_bytes(folder / "run.sqlite"))
    frames = list(_frames(_bytes(folder / "run.sqlite-wal")))
    newest = {**base, **dict(frames)}
    for number, page in [*reversed(frames), *base.items()]:
        yield from _rows(page, number, newest)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _pages(data: bytes) -> dict[int, bytes]:
    """Pages by number from 1; their size as evonas writes them, whatever the header says now."""
    size = PAGE_BYTES
    if data[:16] == b"SQLite format 3\0" and data[16:18] in (b"\x10\x00", b"\x20\x00", b"\x40\x00", b"\x80\x00"):
        size = int.from_bytes(data[16:18], "big")
    return {1 + at // size: data[at : at + size].ljust(size, b"\0") for at in range(0, len(data), size)}


def _frames(log: bytes) -> Iterator[tuple[int, bytes]]:
    """Pages of a log in the order in which they were written, checksums or not: rows have hashes of their own."""
    size = int.from_bytes(log[8:12], "big") if len(log) >= WAL_HEADER else 0
    if size not in (4096, 8192, 16384, 32768):
        size = PAGE_BYTES
    for at in range(WAL_HEADER, len(log) - FRAME_HEADER, FRAME_HEADER + size):
        number = int.from_bytes(log[at : at + 4], "big")
        yield number, log[at + FRAME_HEADER : at + FRAME_HEADER + size].ljust(size, b"\0")


def _rows(page: bytes, number: int, pages: Mapping[int, bytes]) -> Iterator[tuple[str, Row]]:
    """The whole rows of one page."""
    start = HEADER if number == 1 else 0
    if page[start] != LEAF:
        return
    count = int.from_bytes(page[start + 3 : start + 5], "big")
    for i in range(min(count, len(page) // 4)):
        at = int.from_bytes(page[start + 8 + 2 * i : start + 10 + 2 * i], "big")
        with suppress(IndexError, ValueError, struct.error, KeyError, OverflowError):
            rowid, payload = _cell(page, at, pages)
            yield from _recognised(rowid, _values(payload))


def _cell(page: bytes, at: int, pages: Mapping[int, bytes]) -> tuple[int, bytes]:
    """Rowid and payload of a cell, what does not fit the page taken from its overflow pages."""
    length, at = _varint(page, at)
    rowid, at = _varint(page, at)
    if length > LONGEST:
        raise ValueError
    usable = len(page)
    most, least = usable - 35, (usable - 12) * 32 // 255 - 23
    local = length
    if length > most:
        local = least + (length - least) % (usable - 4)
        local = local if local <= most else least
    parts, left = [page[at : at + local]], length - local
    following = int.from_bytes(page[at + local : at + local + 4], "big") if left else 0
    seen: set[int] = set()
    while left > 0:
        if following in seen:
            raise ValueError
        seen.add(following)
        overflow = pages[following]
        parts.append(overflow[4 : 4 + min(left, usable - 4)])
        left -= len(parts[-1])
        following = int.from_bytes(overflow[:4], "big")
    return rowid if rowid < 1 << 63 else rowid - (1 << 64), b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        value = value << 7 | data[at + i] & 0x7F
        if not data[at + i] & 0x80:
            return value, at + i + 1
    return value << 8 | data[at + 8], at + 9


def _values(payload: bytes) -> list[Any]:
    """The values of a record."""
    end, at = _varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values, at = [], end
    for kind in kinds:
        size = _WIDTHS[kind] if kind < 10 else (kind - 12) // 2
        values.append(_value(kind, payload[at : at + size]))
        at += size
    if at != len(payload):
        raise ValueError
    return values


_WIDTHS = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


def _value(kind: int, data: bytes) -> Any:
    if kind == 0:
        return None
    if kind < 7:
        return int.from_bytes(data, "big", signed=True)
    if kind == 7:
        return struct.unpack(">d", data)[0]
    if kind < 10:
        return kind - 8
    return data if kind % 2 == 0 else data.decode()


def _recognised(rowid: int, values: Sequence[Any]) -> Iterator[tuple[str, Row]]:
    """The table whose row this is, if its hash says so."""
    for table, columns in COLUMNS.items():
        if len(values) != len(columns) + 1:
            continue
        key = rowid if values[0] is None else values[0]
        cells = [
            float(value) if " REAL" in column and isinstance(value, int) else value
            for column, value in zip(columns[1:], values[2:], strict=True)
        ]
        if genuine(table, (key, *cells), values[1]):
            yield table, (key, *cells)
