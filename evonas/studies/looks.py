"""What a study remembers of its searches: the looks that bettered what was known before them.

That is enough for the best so far and the front at any moment, over evaluations, epochs or seconds, whatever metric or
reference point is asked for later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evonas.core import DataError, Json, Objective

if TYPE_CHECKING:
    from evonas.results import Run
    from evonas.simulate import Trace

Values = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Looks:
    """Some searches, (searches,): seeds, what each took in all, how many estimates failed, how many `counts` of its
    looks are kept. And the looks of all in order, (looks,): what had been spent before each began, the table's row (of
    a run the individual's id), the fidelity (0 where there is one only), and losses (looks, objectives)."""

    seeds: Whole
    evaluations: Whole
    epochs: Values
    seconds: Values
    failed: Whole
    counts: Whole
    before_evaluations: Whole
    before_epochs: Values
    before_seconds: Values
    rows: Whole
    fidelity: Values
    losses: Values

    def to_json(self) -> dict[str, Json]:
        """Plain lists by name; a column of zeros as a single one."""
        return {one.name: _listed(getattr(self, one.name), one.name) for one in fields(self)}

    @staticmethod
    def from_json(data: Mapping[str, Json]) -> Looks:
        """Looks that `to_json` wrote. Raises DataError."""
        try:
            searches, looks = len(data["seeds"]), sum(data["counts"])
            return Looks(
                **{
                    one.name: _array(data[one.name], one.name, searches if one.name in _PER_SEARCH else looks)
                    for one in fields(Looks)
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"a line of results is not what this evonas writes: {error!r}: use --fresh") from None

    @staticmethod
    def joined(parts: Sequence[Looks]) -> Looks:
        """Several batches as one. At least one."""
        return Looks(**{one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Looks)})

    def chosen(self, seeds: Sequence[int]) -> Looks:
        """The searches of some seeds, in ascending order; those that are not there are left out, and of two searches of
        one seed, which are the same, the first is taken."""
        _, first = np.unique(self.seeds, return_index=True)
        at = first[np.isin(self.seeds[first], np.asarray(seeds, dtype=np.int64))]
        looks = np.concatenate([np.arange(self.ends[i] - self.counts[i], self.ends[i]) for i in at] or [at[:0]])
        return Looks(
            **{
                one.name: getattr(self, one.name)[at if one.name in _PER_SEARCH else looks.astype(np.int64)]
                for one in fields(Looks)
            }
        )

    @cached_property
    def ends(self) -> Whole:
        """One past the last look of each search, (searches,)."""
        return np.cumsum(self.counts)

    def spans(self) -> Iterator[slice]:
        """Where the looks of each search stand."""
        for end, count in zip(self.ends.tolist(), self.counts.tolist(), strict=True):
            yield slice(end - count, end)

    def before(self, over: str) -> Values:
        """What had been spent before each look, (looks,)."""
        return np.asarray(getattr(self, f"before_{over}"), dtype=np.float64)

    def spent(self, over: str) -> Values:
        """What each search took in all, (searches,)."""
        return np.asarray(getattr(self, over), dtype=np.float64)


_PER_SEARCH = ("seeds", "evaluations", "epochs", "seconds", "failed", "counts")
_WHOLE = ("seeds", "evaluations", "failed", "counts", "before_evaluations", "rows")


def _listed(values: NDArray[Any], name: str) -> Json:
    short = name not in ("seeds", "counts", "losses") and len(values) and not values.any()
    return 0 if short else values.tolist()


def _array(data: Json, name: str, length: int) -> NDArray[Any]:
    kind = np.int64 if name in _WHOLE else np.float64
    values = np.zeros(length, dtype=kind) if isinstance(data, int) else np.asarray(data, dtype=kind)
    if name == "losses":
        values = values.reshape(length, -1)
    if len(values) != length:
        raise ValueError(f"{name} has {len(values)} entries in place of {length}")
    return values


# ------------------------------------------------------------------------------------------------ from searches


def of_trace(trace: Trace, seed: int, objectives: Sequence[Objective]) -> Looks:
    """What is remembered of a search in memory."""
    epochs = np.nan_to_num(trace.epochs)
    return _remembered(
        seed, objectives, np.arange(len(trace.rows)), np.cumsum(epochs), np.asarray(trace.seconds), trace.rows, epochs,
        trace.losses,
    )  # fmt: skip


def of_run(run: Run, seed: int) -> Looks:
    """What is remembered of a run: its individuals in the order of their ids; where it keeps champions only, the best
    of each generation, with what was spent until its end."""
    rows = run.individuals()
    names = [one.name for one in run.objectives]
    if run.generations() and len(rows) < run.generations()[-1]["evaluations"]:
        return _of_generations(run, seed, names)
    signs = np.array([one.loss(1.0) for one in run.objectives])
    losses = [[row.values.get(name, np.nan) if row.status == "ok" else np.nan for name in names] for row in rows]
    epochs = np.cumsum([row.cost.get("epochs", 0.0) for row in rows])
    seconds = np.cumsum([row.cost.get("seconds", 0.0) for row in rows])
    return _remembered(
        seed, run.objectives, np.arange(len(rows)), epochs, seconds, np.array([row.id for row in rows], dtype=np.int64),
        np.zeros(len(rows)), np.array(losses, dtype=np.float64).reshape(len(rows), -1) * signs,
    )  # fmt: skip


def _of_generations(run: Run, seed: int, names: Sequence[str]) -> Looks:
    rows = run.generations()
    signs = np.array([one.loss(1.0) for one in run.objectives])
    losses = np.array([[row["best"].get(name, np.nan) for name in names] for row in rows], dtype=np.float64) * signs
    counted = np.array([row["evaluations"] for row in rows], dtype=np.int64)
    seconds = np.cumsum([row["seconds"] or 0.0 for row in rows])
    looks = _remembered(
        seed, run.objectives, counted - 1, np.zeros(len(rows)), seconds, np.full(len(rows), -1), np.zeros(len(rows)),
        losses,
    )  # fmt: skip
    failed = sum(row["failed"] or 0 for row in rows)
    return Looks(**{**_columns(looks), "evaluations": counted[-1:], "failed": np.array([failed])})


def _columns(looks: Looks) -> dict[str, Any]:
    return {one.name: getattr(looks, one.name) for one in fields(looks)}


def _remembered(
    seed: int, objectives: Sequence[Objective], numbers: Whole, epochs: Values, seconds: Values, rows: Whole,
    fidelity: Values, losses: Values,
) -> Looks:  # fmt: skip
    """The looks worth keeping of one search; `epochs` and `seconds` are what was spent after each."""
    kept = np.array(list(bettering(losses, fidelity, allowed(losses, objectives))), dtype=np.int64)
    total = len(losses)
    return Looks(
        np.array([seed]), np.array([total]), _last(epochs), _last(seconds),
        np.array([int((~np.isfinite(losses).all(axis=1)).sum()) if total else 0]), np.array([len(kept)]),
        numbers[kept].astype(np.int64), _shifted(epochs)[kept], _shifted(seconds)[kept], rows[kept].astype(np.int64),
        fidelity[kept], losses[kept],
    )  # fmt: skip


def _last(values: Values) -> Values:
    return values[-1:].astype(np.float64) if len(values) else np.zeros(1)


def _shifted(values: Values) -> Values:
    """What was spent before each, of what was spent after each."""
    return np.concatenate([np.zeros(1), values[:-1]])[: len(values)]


def allowed(losses: Values, objectives: Sequence[Objective]) -> NDArray[np.bool_]:
    """Who did not fail and keeps the constraints, (n,)."""
    good = np.isfinite(losses).all(axis=1)
    for one, column in zip(objectives, losses.T, strict=True):
        value = column * one.loss(1.0)
        if one.max is not None:
            good &= value <= one.max
        if one.min is not None:
            good &= value >= one.min
    return np.asarray(good)


def bettering(losses: Values, fidelity: Values, allowed: NDArray[np.bool_]) -> Iterable[int]:
    """Positions of those that nothing before them equals or dominates at the highest fidelity so far; the first at a
    higher fidelity makes all before it count no more."""
    if losses.shape[1] == 1 and (fidelity == fidelity[:1]).all():
        best = np.minimum.accumulate(np.where(allowed, losses[:, 0], np.inf))
        before = np.concatenate([[np.inf], best[:-1]])
        return np.flatnonzero(allowed & (losses[:, 0] < before)).tolist()
    return _archived(losses.tolist(), fidelity.tolist(), allowed.tolist())


def _archived(losses: list[list[float]], fidelity: list[float], allowed: list[bool]) -> Iterator[int]:
    top, front = -1.0, list[list[float]]()
    for i, row in enumerate(losses):
        if not allowed[i] or fidelity[i] < top:
            continue
        if fidelity[i] > top:
            top, front = fidelity[i], []
        if any(_covers(other, row) for other in front):
            continue
        front = [*(other for other in front if not _covers(row, other)), row]
        yield i


def _covers(one: list[float], other: list[float]) -> bool:
    """Whether one is nowhere worse."""
    return all(a <= b for a, b in zip(one, other, strict=True))
