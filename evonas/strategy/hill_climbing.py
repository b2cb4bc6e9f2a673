"""Hill climbing: the best of a few neighbours, some mutations away, is the next to change.

Elsken, Metzen and Hutter 2017, algorithm 1 (with network morphisms as mutations); Kwasigroch et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from evonas.core import Edit, Estimate, Genome, Individual, State, stream
from evonas.marks import MarkBook
from evonas.strategy import HillClimbingSettings
from evonas.strategy.problem import (
    ATTEMPTS,
    Problem,
    Varied,
    asked,
    first_generation,
    mutated,
    settle,
    unseen,
)


@dataclass(frozen=True)
class HillClimbing:
    """The population is the current best, by the first objective; every generation after the first is a step."""

    problem: Problem
    settings: HillClimbingSettings

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The first population, or the current best's continuation and its neighbours."""
        book = state.marks.open()
        if state.population:
            born = self._candidates(state, book)
        else:
            born = first_generation(self.problem, state, self.settings.population, book)
        return tuple(born), asked(state, born, book)

    def _candidates(self, state: State, book: MarkBook) -> list[Individual]:
        """The continuation comes first; fewer neighbours where no more new ones are found."""
        best = state.population[0]
        seen = {best.genome.key}
        made: list[Varied] = []
        for at in range(self.settings.neighbours):
            rng = stream(self.problem.seed, "neighbour", state.generation, at)
            neighbour = unseen(partial(self._walk, best.genome, rng, book), seen)
            if neighbour is not None:
                seen.add(neighbour[0].key)
                made.append(neighbour)
        if self.settings.continue_best or not made:
            made.insert(0, (best.genome, ()))
        return [
            Individual(state.next_id + at, genome, (best.id,), edits, state.generation)
            for at, (genome, edits) in enumerate(made)
        ]

    def _walk(self, genome: Genome, rng: Random, book: MarkBook) -> Varied | None:
        """A chain of mutations that all pass the screen, shorter where the attempts run out; None if there is none."""
        edits: tuple[Edit, ...] = ()
        steps = 0
        for _ in range(ATTEMPTS):
            made = mutated(self.problem, genome, rng, book)
            if made is not None:
                genome, edits, steps = made[0], (*edits, *made[1]), steps + 1
            if steps == self.settings.edits:
                break
        return (genome, edits) if steps else None

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """The best of the children becomes the current one; the former competes unless it was estimated again."""
        born = [individual for individual, estimate in scored if estimate.status == "ok"]
        estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
        again = {one.genome.key for one in born}
        pool = [*(one for one in state.population if one.genome.key not in again), *born]
        return settle(self.problem, state, scored, self.problem.best(pool, estimates), estimates)
