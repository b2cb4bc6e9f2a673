"""Random search behind the same seam as every other strategy: the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evonas.core import Estimate, Individual, State
from evonas.strategy import RandomSettings
from evonas.strategy.problem import Problem, asked, drawn, first_generation, settle


@dataclass(frozen=True)
class RandomSearch:
    """Draws every individual afresh and keeps the last batch as its population; the front is the run's result."""

    problem: Problem
    settings: RandomSettings

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """`population` random individuals; founders lead the first batch."""
        book = state.marks.open()
        make = first_generation if state.generation == 0 else drawn
        born = make(self.problem, state, self.settings.population, book, self.settings.steps)
        return tuple(born), asked(state, born, book)

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """The batch's successes become the population."""
        alive = [individual for individual, estimate in scored if estimate.status == "ok"]
        estimates = {estimate.id: estimate for _, estimate in scored}
        return settle(self.problem, state, scored, alive, estimates)
