"""What strategies share that predict: everyone is remembered, and many are proposed of whom few are estimated."""

from __future__ import annotations

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


def begun(problem: Problem, state: State, population: int) -> tuple[tuple[Individual, ...], State]:
    """What `ask` returns while there is nothing to learn from: founders and random genomes."""
    book = state.marks.open()
    born = first_generation(problem, state, population, book)
    return tuple(born), asked(state, born, book)


def numbered(state: State, chosen: Sequence[Individual], book: MarkBook) -> tuple[tuple[Individual, ...], State]:
    """What `ask` returns: the chosen proposals with ids."""
    born = tuple(replace(one, id=state.next_id + at) for at, one in enumerate(chosen))
    return born, asked(state, born, book)


def remembered(problem: Problem, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
    """The state after a generation: everyone lives on to be learnt from, and who failed is not proposed again."""
    born = [individual for individual, estimate in scored if estimate.status == "ok"]
    lost = [individual.genome.key for individual, estimate in scored if estimate.status != "ok"]
    estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
    memory = {"failed": [*state.memory.get("failed", ()), *lost]}
    return settle(problem, state, scored, (*state.population, *born), estimates, memory)
