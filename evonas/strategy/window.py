"""Generations under way at once, so that no worker waits for the slowest estimate of each.

A strategy with a `window` of W is asked for a generation as soon as the one W before it was told. Results are told in
the order they were asked for, so what a run decides does not depend on how fast its estimates are. W = 1 is one
generation after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evonas.core import Encoding, Estimate, Individual, State, Strategy
from evonas.strategy.problem import alive, left

Flight = Sequence[Sequence[Individual]]
"""Generations that were asked for and not told yet, in order."""


@dataclass(frozen=True)
class Window:
    """How far a run of `generations` with a `budget` asks its strategy ahead.

    The state is the one last told; the ids and marks in it are those that remain after all that was asked for."""

    strategy: Strategy
    encoding: Encoding
    size: int
    generations: int
    budget: Mapping[str, float]

    @staticmethod
    def of(settings: Any, strategy: Strategy, encoding: Encoding, budget: Mapping[str, float]) -> Window:
        """The window that a recipe's strategy section states; 1 where it states none."""
        return Window(strategy, encoding, getattr(settings, "window", 1), settings.generations, budget)

    def ask(self, state: State, flight: Flight) -> tuple[Sequence[Individual], State] | None:
        """The next generation to begin beside those under way; None while the window or the budget is full, and where
        nothing is asked for. Nobody can be born before the first generation was told."""
        ahead = state.generation + len(flight)
        if ahead >= self.generations or len(flight) >= self.size or (flight and not len(state.population)):
            return None
        born, asked = self.strategy.ask(replace(state, generation=ahead))
        if (room := left(self.budget, state)) is not None:
            room = max(room - sum(map(len, flight)), 0)
            # a part of a cohort is none: its individuals are stored one by one
            born = born[:room] if room < len(born) else born
        return (born, replace(asked, generation=state.generation)) if len(born) else None

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]], flight: Flight) -> State:
        """The state after the oldest generation; `flight` is what stays under way, whose marks stay too."""
        told = self.strategy.tell(state, scored)
        behind = [one for born in flight for one in born]
        if not behind:
            return told
        living = alive(self.encoding, told.population) | alive(self.encoding, behind)
        return replace(told, marks=state.marks.living(living))
