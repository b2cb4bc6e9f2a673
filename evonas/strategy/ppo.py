"""Proximal policy optimisation: the controller learns several steps from one batch, none of which leads too far.

Schulman et al. 2017, equation 7; of controllers of networks Zoph et al. 2018, A.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evonas.core import Estimate, Individual, State
from evonas.strategy import PpoSettings
from evonas.strategy.controller import Baseline, Values, policy
from evonas.strategy.lessons import Learner, Lesson, Record, conceived, remembered
from evonas.strategy.problem import Problem


def slopes(logs: Values, before: Values, advantages: Values, clip: float) -> Values:
    """The clipped objective's derivative by the log probabilities, (n, places): nothing where a ratio has gone beyond
    1 +- clip the way that its advantage leads."""
    ratios = np.exp(logs - before)
    open_still = np.where(advantages > 0, ratios < 1 + clip, ratios > 1 - clip)
    return np.where(open_still, ratios * advantages, 0.0)


class Student:
    """A controller and its baseline; `epochs` steps of Adam per generation."""

    def __init__(self, problem: Problem, settings: PpoSettings) -> None:
        space: Any = problem.encoding
        self.settings, self.baseline = settings, Baseline(settings.decay)
        self.policy = policy(settings, space.choices, problem.seed)

    def learn(self, generation: int, lessons: Sequence[Lesson], record: Record) -> None:
        """Up the mean of the clipped objective over draws."""
        advantages = self.baseline.advantages(lessons, record) / len(lessons)
        tokens = np.array([lesson.tokens for lesson in lessons])
        before = self.policy.logs(tokens)
        for _ in range(self.settings.epochs):
            self.policy.ascend(
                tokens, lambda logs: slopes(logs, before, advantages, self.settings.clip), self.settings.entropy
            )


@dataclass(frozen=True)
class Ppo:
    """The reward is the rank by the first objective among all that was seen; the population is everyone who lives."""

    problem: Problem
    settings: PpoSettings

    @cached_property
    def _learner(self) -> Learner[Student]:
        return Learner(self.problem, lambda: Student(self.problem, self.settings))

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """`population` genomes drawn from the controller."""
        student, record = self._learner.of(state)
        return conceived(self.problem, self.settings, state, student.policy.draw, record)

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """Everyone is kept to learn from."""
        return remembered(self.problem, state, scored)
