"""Regularised evolution: the best of a random sample has a child, and the oldest dies. Real et al. 2018."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from evonas.core import Estimate, Individual, State, stream
from evonas.marks import MarkBook
from evonas.strategy import RegularizedSettings
from evonas.strategy.problem import Problem, asked, first_generation, ids_of, mutated, settle, unseen


@dataclass(frozen=True)
class Regularized:
    """The population is the youngest; a generation is `offspring` of the paper's steps on one and the same population,
    and then as many of the oldest die as children live."""

    problem: Problem
    settings: RegularizedSettings

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The first population, or a mutated child of the best of each sample; a copy where no child is new."""
        book = state.marks.open()
        if state.population:
            born = self._children(state, book)
        else:
            born = first_generation(self.problem, state, self.settings.population, book)
        return tuple(born), asked(state, born, book)

    def _children(self, state: State, book: MarkBook) -> list[Individual]:
        ranking = self.ranking(state)
        seen = {one.genome.key for one in ranking}
        born: list[Individual] = []
        for at in range(self.settings.offspring):
            rng = stream(self.problem.seed, "child", state.generation, at)
            parent = ranking[min(rng.randrange(len(ranking)) for _ in range(self.settings.sample))]
            draw = partial(mutated, self.problem, parent.genome, rng, book)
            genome, edits = unseen(draw, seen) or (parent.genome, ())
            seen.add(genome.key)
            born.append(Individual(state.next_id + at, genome, (parent.id,), edits, state.generation))
        return born

    def ranking(self, state: State) -> list[Individual]:
        """The population from best to worst: by Pareto rank, which with one objective is its value, then crowding, and
        of equals the eldest."""
        if one := self.problem.scalar:
            values = {id: one.loss(estimate.values[one.name]) for id, estimate in state.estimates.items()}
            return sorted(state.population, key=lambda individual: (values[individual.id], individual.id))
        ids = ids_of(state.population)
        rank, crowding = self.problem.order(self.problem.losses_of(state.estimates, ids))
        return [state.population[i] for i in np.lexsort((ids, -crowding, rank)).tolist()]

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """The youngest survive, however good they are; who failed was never born."""
        born = [individual for individual, estimate in scored if estimate.status == "ok"]
        estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
        by_age = sorted((*state.population, *born), key=lambda individual: individual.id)
        return settle(self.problem, state, scored, by_age[-self.settings.population :], estimates)
