"""Species: genomes within a compatibility distance of one representative, followed over the generations.

Speciation is independent of encoding and strategy: it needs only a distance. Sharing is independent of both too: it
turns the species' fitness into numbers of offspring. Stanley and Miikkulainen 2002, 3.3."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonas.core import Genome, Individual, Species

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]
Flags = NDArray[np.bool_]

CROWD = 4
"""More than this many times the target number of species are never made: dividing a large population stays cheap while
the threshold is still far too narrow."""

TOGETHER = 16
"""Representatives that an encoding's own `distances` measures in one pass over the genomes."""


# ---------------------------------------------------------------------------------------------------------- distances


@dataclass(frozen=True)
class Gaps:
    """Distances of some genomes, by position, to representatives: `measure(positions, genomes)` gives (k, s).

    `together` is how many representatives are best measured at once."""

    measure: Callable[[Ints, Sequence[Genome]], Reals]
    together: int

    @staticmethod
    def between(encoding: Any, genomes: Sequence[Genome]) -> Gaps:
        """By the encoding's `distances` over a whole population where it has one, else pair by pair."""
        if hasattr(encoding, "distances"):
            return _batched(encoding, genomes)
        return pairwise(encoding.distance, genomes)


def pairwise(distance: Callable[[Any, Any], float], genomes: Sequence[Genome]) -> Gaps:
    """Distances one by one; a genome that has found its species is measured no further."""

    def measure(positions: Ints, representatives: Sequence[Genome]) -> Reals:
        rows = [[distance(genomes[i], one) for one in representatives] for i in positions.tolist()]
        return np.array(rows, dtype=np.float64).reshape(len(positions), len(representatives))

    return Gaps(measure, 1)


def _batched(encoding: Any, genomes: Any) -> Gaps:
    population = genomes if hasattr(genomes, "take") else encoding.population(genomes)

    def measure(positions: Ints, representatives: Sequence[Genome]) -> Reals:
        some = population if len(positions) == len(population) else population.take(positions)
        gaps: Reals = encoding.distances(some, encoding.population(representatives))
        return gaps

    return Gaps(measure, TOGETHER)


# ----------------------------------------------------------------------------------------------------------- division


@dataclass(frozen=True)
class Division:
    """Who belongs where: `home` (n,) is an index into the former species and then the `founders` (positions), `gap`
    (n,) the distance to that representative."""

    home: Ints
    gap: Reals
    founders: tuple[int, ...]


def divide(
    gaps: Gaps, count: int, known: Sequence[Genome], genomes: Sequence[Genome], threshold: float, most: float = math.inf
) -> Division:
    """Puts each of `count` genomes into the first species whose representative lies within `threshold`.

    Those near none of the `known` found new species in order of position; beyond `most` species they join the
    nearest."""
    home, gap = np.full(count, -1, dtype=np.int64), np.full(count, np.inf)
    free = np.arange(count)

    def settle(apart: Reals, homes: Ints, free: Ints) -> Ints:
        within = apart < threshold
        choice = within.argmax(axis=1)
        rows = np.arange(len(free))
        near: Flags = within[rows, choice]
        choice[~near] = apart[~near].argmin(axis=1)
        distance = apart[rows, choice]
        closer = near | (distance < gap[free])
        home[free[closer]], gap[free[closer]] = homes[choice[closer]], distance[closer]
        rest: Ints = free[~near]
        return rest

    for first in range(0, len(known), gaps.together):
        if len(free):
            block = known[first : first + gaps.together]
            free = settle(gaps.measure(free, block), first + np.arange(len(block)), free)
    founders: list[int] = []
    size = 1
    while len(free) and (room := most - len(known) - len(founders)) > 0:
        heads = free[:size].tolist()
        apart = gaps.measure(free, [genomes[i] for i in heads])
        chosen = _strangers(apart[: len(heads)], threshold, room)
        first = len(known) + len(founders)
        founders += [heads[j] for j in chosen]
        free = settle(apart[:, chosen], first + np.arange(len(chosen)), free)
        size = min(2 * size, gaps.together)
    return Division(home, gap, tuple(founders))


def _strangers(apart: Reals, threshold: float, room: float) -> list[int]:
    """Of genomes with these distances to each other, (k, k), those that are near none chosen before them."""
    chosen: list[int] = []
    for j in range(len(apart)):
        if len(chosen) < room and not (apart[j, chosen] < threshold).any():
            chosen.append(j)
    return chosen


def speciate(
    population: Sequence[Individual],
    ids: Ints,
    previous: Sequence[Species],
    gaps: Gaps,
    threshold: float,
    generation: int,
    losses: Reals,
    next_id: int,
    most: float = math.inf,
) -> tuple[Species, ...]:
    """The species of a population whose `ids` ascend, living ones in the order of `previous` and then new ones.

    Species keep their id and birth; a living species' next representative is its member nearest to the last one, so
    that it drifts slowly and stays the same species. `losses` (n,), minimised, keep `best` and `improved`."""
    known = [species.representative.genome for species in previous]
    genomes = getattr(population, "genomes", None) or [individual.genome for individual in population]
    division = divide(gaps, len(ids), known, genomes, threshold, most)
    founded = [
        Species(next_id + i, population[founder], (), generation, None, generation)
        for i, founder in enumerate(division.founders)
    ]
    groups = grouped(division.home, len(previous) + len(founded))
    return tuple(
        _aged(species, population, ids, members, division.gap[members], losses[members], generation)
        for species, members in zip((*previous, *founded), groups, strict=True)
        if len(members)
    )


def by_species(home: Ints, count: int) -> Ints:
    """Positions sorted by species, in their order within each; NumPy sorts 16 bits ten times as fast as 64."""
    narrow = home.astype(np.int16) if count < 1 << 15 else home
    return np.argsort(narrow, kind="stable")


def grouped(home: Ints, count: int) -> list[Ints]:
    """Positions by species, ascending within each, (n,) -> `count` arrays."""
    order = by_species(home, count)
    return np.split(order, np.cumsum(np.bincount(home, minlength=count))[:-1]) if count else []


def _aged(
    species: Species,
    population: Sequence[Individual],
    ids: Ints,
    members: Ints,
    gap: Reals,
    losses: Reals,
    generation: int,
) -> Species:
    best = losses.min().item()
    better = species.best is None or best < species.best
    return replace(
        species,
        representative=population[int(members[gap.argmin()])],
        members=tuple(ids[members].tolist()),
        best=best if better else species.best,
        improved=generation if better else species.improved,
    )


def steer(threshold: float, count: int, target: int | None, step: float) -> float:
    """The next generation's threshold: wider when there are more species than the target, narrower when fewer.

    It takes three steps at once where there are as many species as there may be."""
    if target is None or count == target:
        return threshold
    if count >= most_species(target):
        return threshold * (1 + step) ** 3
    return threshold * (1 + step) if count > target else threshold / (1 + step)


def most_species(target: int | None) -> float:
    """How many species there may be; without a target as many as the threshold makes."""
    return math.inf if target is None else CROWD * target


# ------------------------------------------------------------------------------------------------------------ sharing


def shared(fitness: Reals, home: Ints, count: int) -> Reals:
    """Each species' sum of its members' fitness divided by its size, (n,), (n,) -> (count,), never negative.

    Negative fitness is first raised so that the worst individual's becomes 0. Explicit fitness sharing, 3.3."""
    raised = fitness - min(0.0, float(fitness.min(initial=0.0)))
    sizes = np.bincount(home, minlength=count)
    return np.bincount(home, weights=raised, minlength=count) / np.maximum(sizes, 1)


def apportion(weights: Reals, total: int) -> Ints:
    """Whole shares of `total` in proportion to `weights` >= 0, by largest remainder; they always sum to `total`.

    Equal remainders go to the earlier; weights that are all 0 count as equal."""
    scale = float(weights.max(initial=0.0))
    parts = weights / scale if scale > 0 else np.ones(len(weights))
    exact = parts / parts.sum() * total
    shares: Ints = np.floor(exact).astype(np.int64)
    largest = np.argsort(shares - exact, kind="stable")
    shares[largest[: total - int(shares.sum())]] += 1
    return shares


def reproductive(best: Reals, idle: Ints, limit: int, protected: int) -> Flags:
    """Which species may reproduce: those that improved less than `limit` generations ago, (s,), (s,) -> (s,), and the
    `protected` best ones; `best` is maximised, and of equals the earlier is better."""
    may: Flags = np.less(idle, limit)
    may[top(best, protected)] = True
    return may


def top(best: Reals, count: int) -> Ints:
    """Indices of the `count` best species; of equals the earlier."""
    order: Ints = np.argsort(-best, kind="stable")
    return order[:count]
