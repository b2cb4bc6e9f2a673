"""NEAT: species share their fitness and reproduce in proportion to it. Stanley and Miikkulainen 2002.

One algorithm with two lanes: who mates with whom is planned once, as arrays; then an encoding that breeds whole
populations gets the plan as it is, and any other encoding is asked child by child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evonas.cohort import Cohort, Scored, Scores
from evonas.core import (
    Edit,
    Estimate,
    EvonasError,
    Genome,
    Individual,
    RecipeError,
    Species,
    State,
    generator,
    nearest,
    seed_of,
    stream,
)
from evonas.marks import MarkBook
from evonas.species import Flags, Ints, Reals, apportion, by_species, reproductive, shared, top
from evonas.strategy import NeatStrategySettings
from evonas.strategy.problem import ATTEMPTS, Problem, asked, columns, first_generation, ids_of, settle

ALONE = -1
"""In place of a second parent: the child has one."""


@dataclass(frozen=True, eq=False)
class Pairing:
    """The parents of one generation's children by position, (k,) each.

    `fitter` and `other` (or ALONE) are mated, `equal` where they are equally fit; then those `mutated` are."""

    fitter: Ints
    other: Ints
    equal: Flags
    mutated: Flags

    def __len__(self) -> int:
        return len(self.fitter)


@dataclass(frozen=True, eq=False)
class Ranks:
    """A population grouped by species, the fittest first: `order` (n,) positions, `starts` and `sizes` (s,)."""

    order: Ints
    starts: Ints
    sizes: Ints

    @staticmethod
    def of(fitness: Reals, home: Ints, count: int) -> Ranks:
        """Of equally fit members the earlier is first."""
        sizes = np.bincount(home, minlength=count)
        falling = np.argsort(-fitness, kind="stable")
        return Ranks(falling[by_species(home[falling], count)], np.cumsum(sizes) - sizes, sizes)


@dataclass(frozen=True)
class Neat:
    """Generations of children of the fittest in each species; the population is the last generation that was told."""

    problem: Problem
    settings: NeatStrategySettings

    # ------------------------------------------------------------------------------------------------------ ask

    def ask(self, state: State) -> tuple[Sequence[Individual], State]:
        """The first population, or the children of the current one; a cohort where the encoding breeds populations."""
        book = state.marks.open()
        pairing = self.plan(state) if state.population else None
        if pairing is None:
            self._refuse_extinct(state)
            born = self._found(state, book)
        elif hasattr(self.problem.encoding, "breed"):
            born = self._bred(state, pairing, book)
        else:
            born = [self._child(state, pairing, i, book) for i in range(len(pairing))]
        return born if isinstance(born, Cohort) else tuple(born), asked(state, born, book)

    def plan(self, state: State) -> Pairing | None:
        """Who has children with whom; None where every species has stagnated and dies out."""
        fitness = self.fitness(state)
        home = _homes(state)
        count = max(len(state.species), 1)
        ranks = Ranks.of(fitness, home, count)
        offspring = self._offspring(state, fitness, home, fitness[ranks.order[ranks.starts]])
        if offspring is None:
            return None
        rng = generator(self.problem.seed, "pairing", state.generation)
        return pair(ranks, offspring, fitness, self.settings, rng)

    def fitness(self, state: State) -> Reals:
        """What is maximised, (n,): the objective itself, or with several the fronts behind one's own plus crowding.

        Who breaks a constraint is less fit than all who keep it. Deb et al. 2002, VI."""
        losses = self.problem.losses_of(state.estimates, ids_of(state.population))
        if losses.shape[1] == 1 and not self.problem.violations(losses).any():
            return -losses[:, 0]
        rank, crowding = self.problem.order(losses)
        with np.errstate(invalid="ignore"):
            lonely = np.where(np.isinf(crowding), 1.0, crowding / (1.0 + crowding))
        return np.asarray(rank.max() - rank + 0.5 * lonely, dtype=np.float64)

    def _offspring(self, state: State, fitness: Reals, home: Ints, best: Reals) -> Ints | None:
        """How many children each species has: its shared fitness' part, nothing where it has stagnated."""
        may = np.ones(len(best), dtype=bool)
        if state.species:
            idle = np.array([state.generation - species.improved for species in state.species])
            may = reproductive(best, idle, self.settings.stagnation, self.settings.species_elitism)
        if self._stuck(state):
            may = np.isin(np.arange(len(best)), top(best, 2))
        if not may.any():
            return None
        shares = np.zeros(len(best), dtype=np.int64)
        shares[may] = apportion(shared(fitness, home, len(best))[may], self.settings.population)
        return shares

    def _stuck(self, state: State) -> bool:
        """Whether this is the time, again and again while nothing improves, for the two best species alone."""
        limit = self.settings.population_stagnation
        idle = state.generation - int(state.memory.get("improved", state.generation))
        return limit is not None and idle > 0 and idle % limit == 0

    def _refuse_extinct(self, state: State) -> None:
        if state.generation and self.settings.extinct == "stop":
            why = "all its species have stagnated" if state.population else "not one of its networks could be estimated"
            raise EvonasError(
                f"the population died out after generation {state.generation}: {why}; set strategy.extinct to "
                "'restart', or raise strategy.stagnation or strategy.species_elitism"
            )

    # ----------------------------------------------------------------------------------------------------- birth

    def _found(self, state: State, book: MarkBook) -> Sequence[Individual]:
        """The recipe's founders and new random genomes."""
        count = self.settings.population
        encoding: Any = self.problem.encoding
        if not hasattr(encoding, "found"):
            return first_generation(self.problem, state, count, book)
        named = list(self.problem.enrol(self.problem.founders, book))[:count]
        seed = seed_of(self.problem.seed, "found", state.generation)
        genomes = encoding.found(count - len(named), seed, book)
        if named:
            genomes = encoding.population([*named, *genomes])
        return _cohort(state, genomes, np.full((count, 2), ALONE, dtype=np.int64))

    def _bred(self, state: State, pairing: Pairing, book: MarkBook) -> Cohort:
        """All children at once."""
        encoding: Any = self.problem.encoding
        adults = state.population
        genomes = adults.genomes if isinstance(adults, Cohort) else encoding.population([one.genome for one in adults])
        seed = seed_of(self.problem.seed, "breed", state.generation)
        children, edits = encoding.breed(
            genomes, pairing.fitter, pairing.other, pairing.equal, pairing.mutated, seed, book
        )
        ids = ids_of(adults)
        parents = np.stack([ids[pairing.fitter], np.where(pairing.other == ALONE, ALONE, ids[pairing.other])], axis=1)
        return _cohort(state, children, parents, edits)

    def _child(self, state: State, pairing: Pairing, at: int, book: MarkBook) -> Individual:
        """One child; where what was bred does not pass the screen it is bred anew, and at last it is a copy."""
        fitter = state.population[int(pairing.fitter[at])]
        other = None if pairing.other[at] == ALONE else state.population[int(pairing.other[at])]
        rng = stream(self.problem.seed, "child", state.generation, at)
        mutated = bool(pairing.mutated[at])
        id, parents = state.next_id + at, (fitter.id,) if other is None else (fitter.id, other.id)
        if other is not None or mutated:
            for _ in range(ATTEMPTS):
                genome, edits = _varied(self.problem.encoding, fitter, other, mutated, rng, book)
                if self.problem.screen(genome):
                    return Individual(id, genome, parents, edits, state.generation)
        return Individual(id, fitter.genome, (fitter.id,), (), state.generation)

    # ------------------------------------------------------------------------------------------------------ tell

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """The generation becomes the population, without those that failed, and is divided into species."""
        survivors, estimates = self._alive(scored)
        solved = state.memory.get("solved")
        if solved is None:
            solved = self._solved(estimates, ids_of(survivors))
        settled = settle(self.problem, state, scored, survivors, estimates, {"solved": solved})
        risen = set(settled.front) - set(state.front)
        improved = state.memory.get("improved") if settled.front and not risen else settled.generation
        species = self._crowned(settled)
        if len(self.problem.objectives) > 1:
            species = tuple(_improved(one, state, settled.generation, risen) for one in species)
        return replace(settled, species=species, memory={**settled.memory, "improved": improved})

    def _crowned(self, state: State) -> tuple[Species, ...]:
        """The species with their champions: the fittest, of equals the eldest."""
        if not state.species:
            return ()
        ranks = Ranks.of(self.fitness(state), _homes(state), len(state.species))
        champions = ids_of(state.population)[ranks.order[ranks.starts]].tolist()
        return tuple(replace(one, champion=id) for one, id in zip(state.species, champions, strict=True))

    def _alive(
        self, scored: Sequence[tuple[Individual, Estimate]]
    ) -> tuple[Sequence[Individual], Mapping[int, Estimate]]:
        if not isinstance(scored, Scored):
            alive = [individual for individual, estimate in scored if estimate.status == "ok"]
            return alive, {estimate.id: estimate for _, estimate in scored}
        losses = self.problem.losses_of(scored.scores, scored.scores.ids)
        good = np.isfinite(losses).all(axis=1)
        return (scored.born, scored.scores) if good.all() else _taken(scored, np.flatnonzero(good))

    def _solved(self, estimates: Mapping[int, Estimate], ids: Ints) -> int | None:
        """The first who has reached every value of the goal, in its objective's direction; others are maximised."""
        goal = self.settings.goal
        if not goal or not len(ids):
            return None
        _refuse_unrecorded(goal, estimates)
        falling = {one.name for one in self.problem.objectives if one.direction == "min"}
        signs = np.array([-1.0 if name in falling else 1.0 for name in goal])
        reached = (columns(estimates, ids, list(goal)) * signs >= np.array(list(goal.values())) * signs).all(axis=1)
        return int(ids[reached.argmax()]) if reached.any() else None


def pair(
    ranks: Ranks, offspring: Ints, fitness: Reals, settings: NeatStrategySettings, rng: np.random.Generator
) -> Pairing:
    """Parents for `offspring` (s,) children of each species, drawn from the fittest `survival` of its members.

    The champions of large species come first among its children, copied unchanged."""
    home = np.repeat(np.arange(len(offspring)), offspring)
    place = np.arange(len(home)) - np.repeat(np.cumsum(offspring) - offspring, offspring)
    elites = np.where(ranks.sizes > settings.elite_size, np.minimum(settings.elitism, ranks.sizes), 0)
    parents = np.maximum(np.ceil(settings.survival * ranks.sizes), 1).astype(np.int64)
    draws = rng.random((6, len(home)))
    copied = place < elites[home]
    one = ranks.order[ranks.starts[home] + np.where(copied, place, (draws[0] * parents[home]).astype(np.int64))]
    two, stranger = _mates(ranks, np.where(offspring > 0, parents, 0), home, one, draws[1:4], settings.interspecies)
    alone = copied | (draws[4] < settings.mutate_only) | ((parents[home] == 1) & ~stranger)
    swap = fitness[two] > fitness[one]
    fitter, other = np.where(swap & ~alone, two, one), np.where(swap, one, two)
    return Pairing(
        fitter=fitter,
        other=np.where(alone, ALONE, other),
        equal=~alone & (fitness[one] == fitness[two]),
        mutated=~copied & (alone | (draws[5] >= settings.mate_only)),
    )


def _mates(ranks: Ranks, parents: Ints, home: Ints, one: Ints, draws: Reals, interspecies: float) -> tuple[Ints, Flags]:
    """A second parent for each `one`, another of its species or, seldom, a parent of another species; and which."""
    pool = np.concatenate([ranks.order[a : a + k] for a, k in zip(ranks.starts, parents, strict=True)])
    where = np.zeros(len(ranks.order), dtype=np.int64)
    where[pool] = np.arange(len(pool))
    begin, own = (np.cumsum(parents) - parents)[home], parents[home]
    within = begin + (draws[0] * (own - 1)).astype(np.int64)
    within += (within >= where[one]) & (own > 1)
    abroad = (draws[1] * (len(pool) - own)).astype(np.int64)
    abroad += np.where(abroad >= begin, own, 0)
    stranger = (draws[2] < interspecies) & (own < len(pool))
    return pool[np.where(stranger, abroad, within) % len(pool)], stranger


def _homes(state: State) -> Ints:
    """The index of each individual's species, (n,); 0 for all where there are none."""
    home = np.zeros(len(state.population), dtype=np.int64)
    if state.species:
        members = np.concatenate([np.array(one.members, dtype=np.int64) for one in state.species])
        sizes = [len(one.members) for one in state.species]
        home[np.searchsorted(ids_of(state.population), members)] = np.repeat(np.arange(len(sizes)), sizes)
    return home


def _varied(
    encoding: Any, fitter: Individual, other: Individual | None, mutated: bool, rng: Any, book: MarkBook
) -> tuple[Genome, tuple[Edit, ...]]:
    genome, edits = fitter.genome, ()
    if other is not None:
        genome, edits = encoding.mate(fitter.genome, other.genome, rng, book)
    changed = encoding.mutate(genome, rng, book) if mutated else None
    return (genome, edits) if changed is None else (changed[0], (*edits, *changed[1]))


def _cohort(state: State, genomes: Any, parents: Ints, edits: Mapping[int, tuple[Edit, ...]] | None = None) -> Cohort:
    ids = np.arange(state.next_id, state.next_id + len(genomes), dtype=np.int64)
    return Cohort(ids, genomes, parents, np.full(len(genomes), state.generation, dtype=np.int64), edits or {})


def _refuse_unrecorded(goal: Mapping[str, float], estimates: Mapping[int, Estimate]) -> None:
    """A goal that nothing measures would never be reached."""
    arrays = estimates.columns if isinstance(estimates, Scores) else {}
    recorded = arrays or dict.fromkeys(key for one in estimates.values() for key in one.values)
    for name in goal:
        if name not in recorded:
            raise RecipeError(f"strategy.goal names {name!r}, which is not recorded; {nearest(name, list(recorded))}")


def _taken(scored: Scored, at: Ints) -> tuple[Cohort, Scores]:
    """The cohort and its scores at these positions only."""
    born, scores = scored.born, scored.scores
    place = {int(old): new for new, old in enumerate(at)}
    genomes = born.genomes
    cohort = Cohort(
        born.ids[at],
        genomes.take(at) if hasattr(genomes, "take") else [genomes[i] for i in at.tolist()],
        born.parents[at],
        born.births[at],
        {place[old]: edits for old, edits in born.edits.items() if old in place},
    )
    return cohort, replace(
        scores, ids=scores.ids[at], columns={name: column[at] for name, column in scores.columns.items()}, failed={}
    )


def _improved(species: Species, state: State, generation: int, risen: set[int]) -> Species:
    """With several objectives a species improves when one of its members enters the run's front."""
    before = {one.id: one.improved for one in state.species}
    rose = not risen.isdisjoint(species.members)
    return replace(species, improved=generation if rose else before.get(species.id, generation))
