"""NSGA-II with DEAP's operators on compiled Pareto routines. Deb, Pratap, Agarwal and Meyarivan 2002."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from evonas import operators
from evonas.core import Estimate, Individual, State, lend_global_streams, stream
from evonas.marks import MarkBook
from evonas.operators import Creature
from evonas.strategy import DeapSelection, Nsga2Settings, Nsga3Settings
from evonas.strategy.problem import ATTEMPTS, Problem, asked, first_generation, settle


@dataclass(frozen=True)
class Nsga2:
    """(mu + lambda) evolution on Pareto rank and crowding; ties are broken by the lower id."""

    problem: Problem
    settings: Nsga2Settings

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The first population, or `offspring` children of the current one."""
        book = state.marks.open()
        if not state.population:
            born = first_generation(self.problem, state, self.settings.population, book)
            return tuple(born), asked(state, born, book)
        with lend_global_streams(self.problem.seed, "breed", state.generation):
            rng = stream(self.problem.seed, "nursery", state.generation)
            adults = self.creatures(state.population, [state.estimates[one.id] for one in state.population])
            nursery = Nursery(self.problem, self.settings, state, book, adults, self._selection(rng), rng)
            born = nursery.fill(self.settings.offspring or self.settings.population)
        return tuple(born), asked(state, born, book)

    def _selection(self, rng: Random) -> Callable[[list[Creature], int], list[Creature]]:
        select = self.settings.select
        if isinstance(select, DeapSelection):
            return operators.selection(select.name, dict(select.settings), len(self.problem.objectives))
        return lambda creatures, k: binary_tournament(creatures, k, rng.random)

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """Survival of the best `population` of parents and children; failed estimates never take part."""
        fresh = [individual for individual, estimate in scored if estimate.status == "ok"]
        estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
        pool = sorted((*state.population, *fresh), key=lambda individual: individual.id)
        survivors = self._survive(pool, [estimates[individual.id] for individual in pool], state)
        return settle(self.problem, state, scored, survivors, estimates)

    def order(self, estimates: Sequence[Estimate]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ranks and crowding; who breaks a constraint ranks after all who keep it, by how far. Deb et al. 2002, VI."""
        return self.problem.order(self.problem.losses(estimates))

    def _survive(self, pool: list[Individual], estimates: list[Estimate], state: State) -> list[Individual]:
        count = self.settings.population
        if len(pool) <= count:
            return pool
        if isinstance(self.settings.survive, DeapSelection):
            chosen = self._survive_deap(pool, estimates, state)
        else:
            rank, crowd = self.order(estimates)
            ids = np.array([individual.id for individual in pool])
            chosen = [pool[i] for i in np.lexsort((ids, -crowd, rank))[:count]]
        return sorted(chosen, key=lambda individual: individual.id)

    def _survive_deap(self, pool: list[Individual], estimates: list[Estimate], state: State) -> list[Individual]:
        survive = self.settings.survive
        assert isinstance(survive, DeapSelection)
        select = operators.selection(survive.name, dict(survive.settings), len(self.problem.objectives))
        by_id = {individual.id: individual for individual in pool}
        with lend_global_streams(self.problem.seed, "survive", state.generation):
            chosen = select(self.creatures(pool, estimates), self.settings.population)
        return [by_id[id] for id in dict.fromkeys(creature.id for creature in chosen) if id is not None]

    def creatures(self, members: Sequence[Individual], estimates: Sequence[Estimate]) -> list[Creature]:
        """The members as DEAP sees them, crowding distance included (DEAP's `selTournamentDCD` reads it)."""
        made = operators.creatures(members, estimates, self.problem.objectives)
        rank, crowd = self.order(estimates)
        for creature, front, distance in zip(made, rank, crowd, strict=True):
            creature.fitness.rank, creature.fitness.crowding_dist = int(front), float(distance)
        return made


def binary_tournament(creatures: list[Creature], k: int, rng_key: Callable[[], float]) -> list[Creature]:
    """`k` winners of random pairs: lower rank, then larger crowding distance, then lower id. Deb et al. 2002, III-C."""
    count = len(creatures)

    def merit(creature: Creature) -> tuple[int, float, int]:
        return creature.fitness.rank, -creature.fitness.crowding_dist, creature.id or 0

    pairs = ((creatures[int(rng_key() * count)], creatures[int(rng_key() * count)]) for _ in range(k))
    return [min(pair, key=merit) for pair in pairs]


@dataclass
class Nursery:
    """Fills one generation with children that are new and pass the screen. `select` chooses parents of the adults."""

    problem: Problem
    settings: Nsga2Settings | Nsga3Settings
    state: State
    book: MarkBook
    adults: list[Creature]
    select: Callable[[list[Creature], int], list[Creature]]
    rng: Random

    def __post_init__(self) -> None:
        self.box = operators.toolbox(self.problem.encoding, self.book, self.select)
        self.species = {id: species.id for species in self.state.species for id in species.members}
        self.seen = {individual.genome.key for individual in self.state.population}

    def fill(self, count: int) -> list[Individual]:
        state = self.state
        parents = self._parents(count + count % 2)
        born: list[Individual] = []
        for first, second in zip(parents[::2], parents[1::2], strict=True):
            for child in self._children(first, second)[: count - len(born)]:
                accepted = self._accept(child, first)
                self.seen.add(accepted.genome.key)
                id = state.next_id + len(born)
                born.append(Individual(id, accepted.genome, accepted.parents, accepted.edits, state.generation))
        return born

    def _parents(self, count: int) -> list[Creature]:
        """Parents in pairs; with restricted mating the second of a pair comes from the first one's species."""
        multiple = count + (-count % 4)  # DEAP's selTournamentDCD takes multiples of four only
        chosen = self.box.select(self.adults, multiple)[:count]
        restricted = self.settings.speciation is not None and self.settings.speciation.restrict_mating
        if not restricted:
            return list(chosen)
        pairs: list[Creature] = []
        for first in chosen[::2]:
            home = self.species.get(first.id or 0)
            mates = [one for one in self.adults if self.species.get(one.id or 0) == home and one is not first]
            pairs += [first, self.rng.choice(mates) if mates else first]
        return pairs

    def _children(self, first: Creature, second: Creature) -> list[Creature]:
        one, two = self.box.clone(first), self.box.clone(second)
        mated = first.id != second.id and self.rng.random() < self.settings.crossover
        if mated:
            one, two = self.box.mate(one, two)
        return [
            self.box.mutate(child)[0] if not mated or self.rng.random() < self.settings.mutation else child
            for child in (one, two)
        ]

    def _accept(self, child: Creature, parent: Creature) -> Creature:
        return operators.accepted(child, parent, self.box, self.problem.screen, self.seen, ATTEMPTS)
