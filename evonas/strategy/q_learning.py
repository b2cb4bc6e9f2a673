"""Tabular Q-learning with epsilon-greedy choices and experience replay: MetaQNN. Baker et al. 2017.

The only reward comes with the last choice; a value is what the best way on from a choice was found to lead to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from evonas.core import State, stream
from evonas.strategy import QLearningSettings
from evonas.strategy.lessons import Lesson, Record, Taught, Tokens, progress
from evonas.strategy.problem import Problem

UNKNOWN = 0.5
"""Every value begins at the mean reward, so that a choice not tried yet is neither sought nor shunned."""


class Values:
    """The value of every choice by state: the place, and the choices before it that count."""

    def __init__(self, problem: Problem, settings: QLearningSettings) -> None:
        space: Any = problem.encoding
        self.sizes, self.seed, self.settings = tuple(map(len, space.choices)), problem.seed, settings
        self.table: dict[tuple[int, Tokens], list[float]] = {}
        self.lessons: list[Lesson] = []

    def at(self, place: int, tokens: Sequence[int]) -> list[float]:
        """The values of the choices at a place after `tokens`."""
        first = 0 if self.settings.state == "prefix" else max(place - 1, 0)
        key = (place, tuple(tokens[first:place]))
        if key not in self.table:
            self.table[key] = [UNKNOWN] * self.sizes[place]
        return self.table[key]

    def learn(self, generation: int, lessons: Sequence[Lesson], record: Record) -> None:
        """From what is new, then from a sample of all; rewards are ranks among what is known by now."""
        self.lessons += lessons
        rng = stream(self.seed, "replay", generation)
        again = [self.lessons[int(rng.random() * len(self.lessons))] for _ in range(self.settings.replay)]
        for lesson in (*lessons, *again):
            self._update(lesson.tokens, record.reward(lesson.merit))

    def _update(self, tokens: Tokens, target: float) -> None:
        """From the last choice back to the first. Watkins and Dayan 1992; the order is that of Lin 1993."""
        rate, discount = self.settings.learning_rate, self.settings.discount
        for place in reversed(range(len(tokens))):
            values, choice = self.at(place, tokens), tokens[place]
            values[choice] += rate * (target - values[choice])
            target = discount * max(values)

    def draw(self, rng: Random, epsilon: float) -> Tokens:
        """Choice by choice: with probability epsilon any, else one of the highest value."""
        tokens: list[int] = []
        for place, size in enumerate(self.sizes):
            if rng.random() < epsilon:
                tokens.append(rng.randrange(size))
                continue
            values = self.at(place, tokens)
            best = max(values)
            tokens.append(rng.choice([choice for choice, value in enumerate(values) if value == best]))
        return tuple(tokens)


@dataclass(frozen=True)
class QLearning(Taught[Values]):
    """Epsilon-greedy draws by the values."""

    settings: QLearningSettings

    def untaught(self) -> Values:
        """Values that know no choice."""
        return Values(self.problem, self.settings)

    def source(self, model: Values, record: Record, state: State) -> Callable[[Random], Tokens]:
        """Epsilon-greedy genomes."""
        epsilon = self.epsilon(state)
        return lambda rng: model.draw(rng, epsilon)

    def epsilon(self, state: State) -> float:
        """1 while the planned search is young, then falling evenly to its least: the schedule of Baker et al. 2017."""
        over, given = progress(self.problem, self.settings, state), self.settings
        if over < given.explore:
            return 1.0
        if over >= given.settle:
            return given.epsilon
        return 1.0 - (1.0 - given.epsilon) * (over - given.explore) / (given.settle - given.explore)
