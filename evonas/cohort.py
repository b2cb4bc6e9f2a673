"""A generation as arrays: many individuals and their estimates without an object for each of them.

`Cohort` is a sequence of individuals and `Scores` a mapping of estimates, so every strategy takes them as such; a
strategy that knows them works on their arrays instead, which is what a population of 100,000 needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from evonas import arrays
from evonas.core import DataError, Edit, Estimate, Genome, Individual, Objective, RecipeError, nearest

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cohort(Sequence[Individual]):
    """Individuals by position: `ids` (n,) ascending, `genomes` n of them, `parents` (n, 2) with -1 for none, `births`
    (n,), and `edits` of those positions that have some."""

    ids: Ids
    genomes: Sequence[Genome]
    parents: Ids
    births: Ids
    edits: Mapping[int, tuple[Edit, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, at: int) -> Individual: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Individual]: ...
    def __getitem__(self, at: int | slice) -> Individual | Sequence[Individual]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        i = range(len(self))[at]
        parents = tuple(dict.fromkeys(int(id) for id in self.parents[i] if id >= 0))
        return Individual(int(self.ids[i]), self.genomes[i], parents, tuple(self.edits.get(i, ())), int(self.births[i]))

    @staticmethod
    def of(individuals: Sequence[Individual], gather: Callable[[Sequence[Genome]], Sequence[Genome]]) -> Cohort:
        """Individuals as arrays; `gather` is their encoding's way to put genomes together."""
        parents = np.full((len(individuals), 2), -1, dtype=np.int64)
        for at, one in enumerate(individuals):
            parents[at, : len(one.parents)] = one.parents[:2]
        return Cohort(
            np.array([one.id for one in individuals], dtype=np.int64),
            gather([one.genome for one in individuals]),
            parents,
            np.array([one.birth for one in individuals], dtype=np.int64),
            {at: one.edits for at, one in enumerate(individuals) if one.edits},
        )

    def position(self, id: int) -> int:
        """Where the individual with this id is; KeyError where it is not."""
        at = int(np.searchsorted(self.ids, id))
        if at == len(self.ids) or self.ids[at] != id:
            raise KeyError(id)
        return at


@dataclass(frozen=True, eq=False)
class Scores(Mapping[int, Estimate]):
    """Estimates by id: `columns` of values by name, (n,) float64 each, NaN where one was not measured; `failed` reasons
    by position; `cost` of one individual (its share of the seconds); `others` are estimates beside the arrays."""

    ids: Ids
    columns: Mapping[str, NDArray[np.float64]]
    failed: Mapping[int, str] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    others: Mapping[int, Estimate] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids) + len(self.others)

    def __iter__(self) -> Iterator[int]:
        yield from map(int, self.ids)
        yield from self.others

    def __getitem__(self, id: int) -> Estimate:
        at = int(np.searchsorted(self.ids, id))
        if at == len(self.ids) or self.ids[at] != id:
            return self.others[id]
        if at in self.failed:
            return Estimate.failed(id, self.failed[at], self.cost)
        values = {name: float(column[at]) for name, column in self.columns.items() if not np.isnan(column[at])}
        return Estimate(id, "ok", values, cost=self.cost)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which positions of the arrays hold a finished estimate, (n,)."""
        good = np.ones(len(self.ids), dtype=bool)
        good[list(self.failed)] = False
        return good

    def checked(self, objectives: Sequence[Objective]) -> Scores:
        """These scores with a failure wherever an objective is not finite: NaN never reaches selection.

        Raises RecipeError for an objective that nobody measured."""
        failed = dict(self.failed)
        for objective in objectives:
            column = self.columns.get(objective.name)
            if column is None:
                measured = nearest(objective.name, list(self.columns))
                raise RecipeError(f"objective {objective.name!r} is not measured here; {measured}")
            for at in np.flatnonzero(~np.isfinite(column)):
                failed.setdefault(int(at), f"objective {objective.name!r} is {column[at]}")
        return self if len(failed) == len(self.failed) else replace(self, failed=failed)


@dataclass(frozen=True, eq=False)
class Scored(Sequence[tuple[Individual, Estimate]]):
    """What a strategy is told: a cohort beside its scores, position by position."""

    born: Cohort
    scores: Scores

    def __len__(self) -> int:
        return len(self.born)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        individual = self.born[at]
        return individual, self.scores[individual.id]


STATUSES = ("ok", "failed", "pruned", "waiting")
"""How it stands with an individual; one that waits has no estimate yet."""


@dataclass(frozen=True, eq=False)
class Everyone:
    """The individuals of a run, or of some generations of it, by position: `ids` (n,) ascending, `births` (n,),
    `status` (n,) an index into STATUSES, `columns` of values by name (n,), NaN where there is none, `reasons` of
    failures by position, `seconds` and `samples` (n,) that their estimates took, 0 where that was not counted."""

    ids: Ids
    births: Ids
    status: NDArray[np.uint8]
    columns: Mapping[str, NDArray[np.float64]]
    reasons: Mapping[int, str]
    seconds: NDArray[np.float64]
    samples: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def told(generation: int, scores: Scores) -> Everyone:
        """Those born in a generation that was estimated as a whole."""
        count = len(scores.ids)
        return Everyone(
            scores.ids,
            np.full(count, generation, dtype=np.int64),
            np.where(scores.ok, 0, 1).astype(np.uint8),
            scores.columns,
            scores.failed,
            np.full(count, scores.cost.get("seconds", 0.0)),
            np.zeros(count),
        )

    @staticmethod
    def joined(parts: Sequence[Everyone]) -> Everyone:
        """One after the other, ids ascending from part to part."""
        names = dict.fromkeys(name for part in parts for name in part.columns)
        starts = np.cumsum([0, *map(len, parts)]).tolist()
        return Everyone(
            np.concatenate([part.ids for part in parts]) if parts else np.zeros(0, dtype=np.int64),
            np.concatenate([part.births for part in parts]) if parts else np.zeros(0, dtype=np.int64),
            np.concatenate([part.status for part in parts]) if parts else np.zeros(0, dtype=np.uint8),
            {name: np.concatenate([_column(part, name) for part in parts]) for name in names},
            {start + at: why for part, start in zip(parts, starts, strict=False) for at, why in part.reasons.items()},
            np.concatenate([part.seconds for part in parts]) if parts else np.zeros(0),
            np.concatenate([part.samples for part in parts]) if parts else np.zeros(0),
        )

    def before(self, generation: int) -> Everyone:
        """Those born before a generation."""
        count = int(np.count_nonzero(self.births < generation))
        assert not count or self.births[:count].max() < generation, "births ascend with ids"
        return Everyone(
            self.ids[:count],
            self.births[:count],
            self.status[:count],
            {name: column[:count] for name, column in self.columns.items()},
            {at: why for at, why in self.reasons.items() if at < count},
            self.seconds[:count],
            self.samples[:count],
        )

    def positions(self, ids: Sequence[int] | Ids) -> Ids:
        """Where the individuals with these ids are; those that are not here are left out."""
        return positions(self.ids, ids)


def positions(ids: Ids, wanted: Sequence[int] | Ids) -> Ids:
    """Where `wanted` are in ascending `ids`; those that are not there are left out."""
    some = np.asarray(wanted, dtype=np.int64)
    at = np.searchsorted(ids, some)
    inside = at < len(ids)
    found: Ids = at[inside][ids[at[inside]] == some[inside]]
    return found


def _column(part: Everyone, name: str) -> NDArray[np.float64]:
    return part.columns[name] if name in part.columns else np.full(len(part), np.nan)


# ----------------------------------------------------------------------------------------------------------- as bytes


def scores_to_bytes(scores: Scores) -> bytes:
    """The arrays of scores as bytes, failures' reasons among its notes."""
    notes = {"failed": {str(at): why for at, why in scores.failed.items()}, "cost": dict(scores.cost)}
    columns = {f"value.{name}": _narrow(one) for name, one in scores.columns.items()}
    return arrays.to_bytes({"ids": scores.ids, **columns}, notes)


def _narrow(column: NDArray[np.float64]) -> NDArray[Any]:
    """Counts as 32-bit integers: half the bytes to hash and to write for what are mostly sizes of genomes."""
    with np.errstate(invalid="ignore"):
        whole = column.astype(np.int32)
    return whole if np.array_equal(whole, column) else column


def scores_from_bytes(data: bytes) -> Scores:
    """The scores again; raises DataError for bytes that are none."""
    found, notes = arrays.from_bytes(data)
    columns = {
        name.removeprefix("value."): one.astype(np.float64) for name, one in found.items() if name.startswith("value.")
    }
    failed = {int(at): str(why) for at, why in notes.get("failed", {}).items()}
    ids = arrays.checked(found, "ids", np.int64)
    if any(one.shape != ids.shape for one in columns.values()):
        raise DataError("scores: their columns are of different lengths")
    return Scores(ids, columns, failed, notes.get("cost", {}))


def cohort_to_bytes(cohort: Cohort, pack: Callable[[Sequence[Genome]], bytes]) -> bytes:
    """A cohort as bytes; `pack` is its encoding's way to write genomes."""
    genomes = np.frombuffer(pack(cohort.genomes), dtype=np.uint8)
    edits = {str(at): [edit.to_json() for edit in made] for at, made in cohort.edits.items()}
    named: dict[str, NDArray[Any]] = {
        "ids": cohort.ids,
        "parents": cohort.parents,
        "births": cohort.births,
        "genomes": genomes,
    }
    return arrays.to_bytes(named, {"edits": edits})


def cohort_from_bytes(data: bytes, unpack: Callable[[bytes], Sequence[Genome]]) -> Cohort:
    """The cohort again; raises DataError for bytes that are none."""
    found, notes = arrays.from_bytes(data)
    ids, parents, births = (arrays.checked(found, name, np.int64) for name in ("ids", "parents", "births"))
    genomes = unpack(arrays.checked(found, "genomes", np.uint8).tobytes())
    edits = {int(at): tuple(Edit.from_json(one) for one in made) for at, made in notes.get("edits", {}).items()}
    if not len(ids) == len(genomes) == len(births) or parents.shape != (len(ids), 2):
        raise DataError("cohort: its arrays are of different lengths")
    return Cohort(ids, genomes, parents, births, edits)
