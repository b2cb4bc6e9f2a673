"""REINFORCE: a controller draws genomes, and the gradient of what they were rewarded with moves it.

Zoph and Le 2017, 3.2, with the moving average as baseline (decay 0.9) and Adam as Dong and Yang 2020 set it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evonas.core import Estimate, Individual, State
from evonas.strategy import ReinforceSettings
from evonas.strategy.controller import Baseline, policy
from evonas.strategy.lessons import Learner, Lesson, Record, conceived, remembered
from evonas.strategy.problem import Problem


class Student:
    """A controller and its baseline; one step of Adam per generation."""

    def __init__(self, problem: Problem, settings: ReinforceSettings) -> None:
        space: Any = problem.encoding
        self.settings, self.baseline = settings, Baseline(settings.decay)
        self.policy = policy(settings, space.choices, problem.seed)

    def learn(self, generation: int, lessons: Sequence[Lesson], record: Record) -> None:
        """Up the mean of advantage times log probability. Williams 1992."""
        weights = self.baseline.advantages(lessons, record) / len(lessons)
        tokens = np.array([lesson.tokens for lesson in lessons])
        self.policy.ascend(tokens, lambda logs: weights * np.ones_like(logs), self.settings.entropy)


@dataclass(frozen=True)
class Reinforce:
    """The reward is the rank by the first objective among all that was seen; the population is everyone who lives."""

    problem: Problem
    settings: ReinforceSettings

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
