"""LEMONADE: the front is the population, and where its sizes are rare more children are made and more are trained.

Elsken, Metzen and Hutter 2019, algorithm 1. What a child's weights are at birth is no matter of the strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evonas import pareto
from evonas.core import Estimate, Genome, Individual, State, generator, stream
from evonas.marks import MarkBook
from evonas.strategy import LemonadeSettings
from evonas.strategy.problem import Problem, Varied, asked, first_generation, ids_of, settle, unseen

SEEN = 1000
"""Genomes that are remembered after they have died, so that they are not estimated again: of 250 estimates on
NAS-Bench-201 a seventh to a third were of known cells."""

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Density:
    """A kernel density estimate over the rows of `points` (n, d): Gaussian kernels of the points' own covariance times
    n^(-2/(d + 4)), since sizes go together: what is unlike the others may be usual on each axis. Scott 1992.

    Axes of positive values are logarithmic from `floor` up: sizes and times differ by ratios, and on a linear axis the
    largest few would always be the rare ones; with `scale` auto only those that span orders of magnitude. Axes on which
    all points agree have no width and are left out: one point alone is equally dense everywhere. Of correlations the
    share 1/n is taken off, so that few points that happen to lie on a line do not make all others infinitely rare."""

    points: Reals
    floor: Reals
    axes: Ints
    width: Reals
    whitening: Reals
    """(d, d): makes differences in units of `width` independent of each other."""

    @staticmethod
    def of(points: Reals, scale: Literal["log", "auto"] = "log") -> Density:
        low, high = points.min(axis=0), points.max(axis=0)
        floor = pareto.floors(low, high if scale == "auto" else np.full_like(high, np.inf))
        scaled = pareto.scaled(points, floor)
        axes = np.flatnonzero(np.ptp(points, axis=0) > 1e-12 * np.abs(points).max(axis=0))
        width = scaled[:, axes].std(axis=0, ddof=1) if len(axes) else np.ones(0)
        kept = (width > 0) & np.isfinite(width)  # squares of differences below 1e-160 are 0 in floats, above 1e154 inf
        axes, width = axes[kept], width[kept]
        units = (scaled[:, axes] - scaled[:, axes].mean(axis=0)) / width
        units /= np.linalg.norm(units, axis=0)  # of numbers so small that their squares are coarse, width is coarse too
        correlation = units.T @ units * (1 - 1 / len(points))
        np.fill_diagonal(correlation, 1.0)
        whitening = np.linalg.inv(np.linalg.cholesky(correlation)).T
        return Density(scaled[:, axes], floor, axes, width * len(points) ** (-1 / (len(axes) + 4)), whitening)

    def log(self, rows: Reals) -> Reals:
        """The logarithm of the density up to a constant, (k, d) -> (k,): far away the density itself is 0 in floats."""
        scaled = pareto.scaled(rows, self.floor)[:, self.axes]
        # axis by axis: with few axes a seventh of the time of matrix products (k, n, d) @ (d, d)
        columns = zip(scaled.T, self.points.T, self.width, strict=True)
        apart = [np.clip((to[:, None] - points) / width, -1e100, 1e100) for to, points, width in columns]
        squares = np.zeros((len(scaled), len(self.points)))
        for weights in self.whitening.T:
            squares += sum(gap * weight for gap, weight in zip(apart, weights, strict=True)) ** 2
        near = squares.min(axis=1)
        return np.asarray(np.log(np.exp((near[:, None] - squares) / 2).sum(axis=1)) - near / 2, dtype=np.float64)


def accepted(rarity: Reals, count: int, rng: np.random.Generator) -> Ints:
    """Positions of `count` draws without replacement in proportion to exp(rarity), (k,) -> (count,), ascending.

    The largest sums of a logarithm and Gumbel noise are such draws, however far the weights lie apart."""
    return np.sort(np.argsort(-(rarity + rng.gumbel(size=len(rarity))), kind="stable")[:count])


def _again(parent: Individual, state: State) -> Individual:
    """A child that is its parent: with inherited weights its training goes on."""
    return Individual(-1, parent.genome, (parent.id,), (), state.generation)


@dataclass(frozen=True)
class Lemonade:
    """Generations of few children accepted of many proposed; whoever is dominated leaves the population."""

    problem: Problem
    settings: LemonadeSettings

    # ------------------------------------------------------------------------------------------------------ ask

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The first population, or those of the proposed children that are accepted."""
        book = state.marks.open()
        if state.population:
            born = self._bred(state, book)
        else:
            born = first_generation(self.problem, state, self.settings.population, book)
        after = asked(state, born, book)
        if self.settings.continued:
            after = replace(after, memory={**after.memory, "trained": self._trained(state, born)})
        return tuple(born), after

    def _trained(self, state: State, born: Sequence[Individual]) -> dict[str, int]:
        """How many trainings the weights of each have had, by id, with those that these children get; one that did not
        gain by being trained on had its training all the same."""
        before = state.memory.get("trained", {})
        counts = dict(before)
        for one in born:
            count = before.get(str(one.parents[0]), 1) + 1 if one.parents else 1
            counts[str(one.id)] = count
            if one.parents and not one.edits:
                counts[str(one.parents[0])] = count
        return counts

    def _bred(self, state: State, book: MarkBook) -> list[Individual]:
        """Members that are trained on, then accepted children."""
        again = self._trained_on(state)
        born = again + self._children(state, self.settings.offspring - len(again), book)
        return [replace(one, id=state.next_id + at) for at, one in enumerate(born)]

    def _trained_on(self, state: State) -> list[Individual]:
        """Those whose weights were trained least, oldest first: they have most to gain, and no size is left behind."""
        rng = stream(self.problem.seed, "continued", state.generation)
        count = sum(rng.random() < self.settings.continued for _ in range(self.settings.offspring))
        trained = state.memory.get("trained", {})
        least = sorted(state.population, key=lambda one: (trained.get(str(one.id), 1), one.id))
        return [_again(one, state) for one in least[:count]]

    def _children(self, state: State, count: int, book: MarkBook) -> list[Individual]:
        """Both draws are in inverse proportion to one density, that of the population. Where no parent has a new child
        and nobody is trained on one is copied, since a generation is never empty."""
        if not count:
            return []
        sizes = self._sizes([state.estimates[one.id].values for one in state.population])
        density = Density.of(sizes, self.settings.scale)
        parents = self._parents(state, self._rarity(density, sizes))
        proposals = self._proposed(state, parents, book)
        if not proposals and count == self.settings.offspring:
            return [_again(parents[0][0], state)]
        rarity = self._rarity(density, self.cheap([one.genome for one in proposals]))
        rng = generator(self.problem.seed, "acceptance", state.generation)
        return [proposals[i] for i in accepted(rarity, count, rng).tolist()]

    def cheap(self, genomes: Sequence[Genome]) -> Reals:
        """Values of the cheap objectives, (genomes, objectives)."""
        return self._sizes(list(map(self.problem.cheap, genomes)))

    def _sizes(self, known: Sequence[Mapping[str, float]]) -> Reals:
        """What is known of individuals, of the cheap objectives alone, (individuals, objectives)."""
        names = [one.name for one in self.problem.objectives if one.cheap]
        rows = [[float(values[name]) for name in names] for values in known]
        return np.array(rows, dtype=np.float64).reshape(len(known), len(names))

    def _rarity(self, density: Density, sizes: Reals) -> Reals:
        """The logarithm of one over the density at cheap objectives up to a constant, (n, objectives) -> (n,)."""
        return -density.log(sizes) if self.settings.density else np.zeros(len(sizes))

    def _parents(self, state: State, rarity: Reals) -> list[tuple[Individual, Individual | None]]:
        """A parent for each proposal, and for some another to mate it with."""
        adults, count = state.population, self.settings.proposals
        rng = generator(self.problem.seed, "parents", state.generation)
        noise = rng.gumbel(size=(2, count, len(adults)))
        first = (noise[0] + rarity).argmax(axis=1)
        home = self._homes(state)
        other = (home[first][:, None] == home) & (first[:, None] != np.arange(len(adults)))
        second = np.where(other, noise[1] + rarity, -np.inf).argmax(axis=1)
        mated = (rng.random(count) < self.settings.crossover) & other.any(axis=1)
        pairs = zip(first.tolist(), second.tolist(), mated.tolist(), strict=True)
        return [(adults[one], adults[two] if both else None) for one, two, both in pairs]

    def _homes(self, state: State) -> Ints:
        """The species within which each individual mates, (n,); one for all where mating is not restricted."""
        speciation = self.settings.speciation
        if speciation is None or not speciation.restrict_mating:
            return np.zeros(len(state.population), dtype=np.int64)
        species = {id: one.id for one in state.species for id in one.members}
        return np.array([species[one.id] for one in state.population], dtype=np.int64)

    def _proposed(
        self, state: State, parents: Sequence[tuple[Individual, Individual | None]], book: MarkBook
    ) -> list[Individual]:
        """A new child of each that finds one, all without an id yet."""
        seen = {*state.memory.get("seen", ()), *(one.genome.key for one in state.population)}
        proposals: list[Individual] = []
        for at, (parent, other) in enumerate(parents):
            rng = stream(self.problem.seed, "proposal", state.generation, at)
            mated, ids = self._mated(parent, other, rng, book)
            made = unseen(partial(self._varied, mated, rng, book), seen)
            if made is not None:
                seen.add(made[0].key)
                proposals.append(Individual(-1, made[0], ids, made[1], state.generation))
        return proposals

    def _mated(
        self, parent: Individual, other: Individual | None, rng: Random, book: MarkBook
    ) -> tuple[Varied, tuple[int, ...]]:
        """What is mutated, and the ids of whom it comes from: the parent alone where the other gave it nothing."""
        if other is None:
            return (parent.genome, ()), (parent.id,)
        mated = self.problem.encoding.mate(parent.genome, other.genome, rng, book)
        return mated, (parent.id, other.id) if mated[1] else (parent.id,)

    def _varied(self, mated: Varied, rng: Random, book: MarkBook) -> Varied | None:
        """A mutation that passes the screen, all its cheap objectives being numbers; what was mated may stay as it
        is where none is possible."""
        changed = self.problem.encoding.mutate(mated[0], rng, book)
        genome, edits = mated if changed is None else (changed[0], (*mated[1], *changed[1]))
        fit = self.problem.screen(genome) and bool(np.isfinite(self.cheap([genome])).all())
        return (genome, edits) if fit else None

    # ------------------------------------------------------------------------------------------------------ tell

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """The population becomes the front over all that was estimated so far, or its `limit` least crowded.

        While nobody keeps the constraints it is the one who breaks them least, so that the search has a direction."""
        born = [individual for individual, estimate in scored if estimate.status == "ok"]
        estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
        pool = sorted((*state.population, *born), key=lambda individual: individual.id)
        # a limit may have left some of the front out of the population: it dominates all the same
        ids = np.union1d(ids_of(pool), np.array(state.front, dtype=np.int64))
        losses = self.problem.losses([estimates[id] for id in ids.tolist()])
        front = np.intersect1d(self.problem.front(ids, losses), ids_of(pool))
        if len(front):
            chosen = self._limited(front, losses[np.isin(ids, front)])
        else:
            chosen = ids[np.argsort(self.problem.violations(losses), kind="stable")[:1]]
        members = set(chosen.tolist())
        survivors = [one for one in pool if one.id in members]
        dead = {*ids_of(pool).tolist(), *(one.id for one, _ in scored)} - members
        return settle(self.problem, state, scored, survivors, estimates, self._noted(state, scored, dead))

    def _noted(self, state: State, scored: Sequence[tuple[Individual, Estimate]], dead: Set[int]) -> dict[str, object]:
        """Of those alive or under way, how often they were trained. The keys of those estimated lately, which are not
        proposed again; with inherited weights an estimate is one of many that a genome may get."""
        if self.settings.continued:
            trained = state.memory.get("trained", {}).items()
            return {"trained": {id: count for id, count in trained if int(id) not in dead}}
        if self.problem.inherits:
            return {}
        return {"seen": [*state.memory.get("seen", ()), *(one.genome.key for one, _ in scored)][-SEEN:]}

    def _limited(self, front: Ints, losses: Reals) -> Ints:
        """The `limit` least crowded, (n,), (n, objectives) -> (limit,); of equals the eldest."""
        crowding = pareto.crowding(losses, np.zeros(len(front), dtype=np.int64))
        return front[np.argsort(-crowding, kind="stable")[: self.settings.limit]]
