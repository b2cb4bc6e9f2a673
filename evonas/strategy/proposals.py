"""What strategies share that predict: everyone is remembered, and many are proposed of whom few are estimated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from evonas import pareto
from evonas.core import Estimate, Genome, Individual, State, generator, stream
from evonas.marks import MarkBook
from evonas.strategy import PredictingSettings
from evonas.strategy.prediction import Ints
from evonas.strategy.problem import Problem, asked, first_generation, ids_of, mutated, settle

MOST = 1000
"""Individuals that a predictor learns from, the best: with more of them a process takes seconds per step."""


@dataclass(frozen=True, eq=False)
class Past:
    """Those that did not fail, by id: losses (n, objectives), and ranks (n,), 0 for the best; who breaks a constraint
    ranks after all who keep it."""

    members: tuple[Individual, ...]
    losses: pareto.Losses
    rank: Ints

    @staticmethod
    def of(problem: Problem, state: State) -> Past:
        losses = problem.losses_of(state.estimates, ids_of(state.population))
        rank = problem.order(losses)[0]
        kept = np.sort(np.argsort(rank, kind="stable")[:MOST])
        return Past(tuple(state.population[i] for i in kept.tolist()), losses[kept], rank[kept])

    def parents(self, count: int, rng: np.random.Generator) -> list[Individual]:
        """The best by rank, drawn at random where more of one rank are as good."""
        order = np.lexsort((rng.random(len(self.rank)), self.rank))[:count]
        return [self.members[i] for i in order.tolist()]


@dataclass(frozen=True)
class Predicting(ABC):
    """A strategy that predicts how good proposals are from everyone estimated, and estimates the most promising."""

    problem: Problem
    settings: PredictingSettings

    @abstractmethod
    def promising(self, state: State, past: Past, pool: Sequence[Genome], count: int) -> list[int]:
        """Positions of the `count` of a pool that promise most, best first."""

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The first population, or the most promising of mutations of the best and of random genomes."""
        given, book = self.settings, state.marks.open()
        if state.population:
            past = Past.of(self.problem, state)
            pool = proposed(self.problem, given, state, past, book)
            chosen = self.promising(state, past, [one.genome for one in pool], min(given.offspring, len(pool)))
            born = [replace(pool[i], id=state.next_id + at) for at, i in enumerate(chosen)]
        else:
            born = first_generation(self.problem, state, given.population, book)
        return tuple(born), asked(state, born, book)

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """Everyone lives on to be learnt from, and who failed is not proposed again."""
        born = [individual for individual, estimate in scored if estimate.status == "ok"]
        lost = [individual.genome.key for individual, estimate in scored if estimate.status != "ok"]
        estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
        memory = {"failed": [*state.memory.get("failed", ()), *lost]}
        return settle(self.problem, state, scored, (*state.population, *born), estimates, memory)


def proposed(
    problem: Problem, settings: PredictingSettings, state: State, past: Past, book: MarkBook
) -> list[Individual]:
    """What could be estimated next, without ids yet: mutations of the best, and random genomes. None was estimated
    before; a copy of a parent where nothing new is found."""
    seen = {*state.memory.get("failed", ()), *(one.genome.key for one in state.population)}
    count = settings.parents or (3 if len(problem.objectives) == 1 else 10)
    adults = past.parents(count, generator(problem.seed, "parents", state.generation))
    found: list[Individual] = []
    for parent in adults:
        rng = stream(problem.seed, "proposal", state.generation, parent.id)
        for made in filter(None, [mutated(problem, parent.genome, rng, book) for _ in range(settings.children)]):
            if made[0].key not in seen:
                seen.add(made[0].key)
                found.append(Individual(-1, made[0], (parent.id,), made[1], state.generation))
    for at in range(settings.strangers):
        genome = problem.random(state.generation, at, book, partial(_known, seen), 0)
        if genome.key not in seen:
            seen.add(genome.key)
            found.append(Individual(-1, genome, birth=state.generation))
    return found or [Individual(-1, adults[0].genome, (adults[0].id,), (), state.generation)]


def _known(seen: set[str], genome: Genome) -> bool:
    return genome.key in seen
