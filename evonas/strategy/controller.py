"""Controllers: distributions over genomes as tokens that are drawn from and moved towards what was rewarded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from evonas.core import State
from evonas.strategy import ControllerSettings
from evonas.strategy.lessons import Lesson, Record, Taught, Tokens
from evonas.strategy.problem import Problem

Values = NDArray[np.float64]
Ints = NDArray[np.int64]


class Policy(Protocol):
    """A distribution over tokens. `ascend` takes one step of Adam up the sum of `weigh(logs) * logs`, the weights held
    fixed, and `entropy` times the mean entropy; `logs` are logarithms of the choices' probabilities, (n, places)."""

    def draw(self, rng: Random) -> tuple[int, ...]: ...
    def logs(self, tokens: Ints) -> Values: ...
    def ascend(self, tokens: Ints, weigh: Callable[[Values], Values], entropy: float) -> None: ...


class Table:
    """Independent logits at every place, which begin at 0; the gradients are in closed form. So are the controllers of
    Dong and Yang 2020 (their REINFORCE)."""

    def __init__(self, choices: Sequence[int], rate: float) -> None:
        most = max(choices)
        self.sizes = tuple(choices)
        self._logits = np.where(np.arange(most) < np.array(choices)[:, None], 0.0, -np.inf)
        self._rate, self._steps = rate, 0
        self._mean, self._square = np.zeros((2, *self._logits.shape))
        self._settle()

    def _settle(self) -> None:
        powers = np.exp(self._logits - self._logits.max(axis=1, keepdims=True))
        self.shares: Values = powers / powers.sum(axis=1, keepdims=True)
        self._edges: list[list[float]] | None = None

    def draw(self, rng: Random) -> tuple[int, ...]:
        """One choice per place."""
        if self._edges is None:
            self._edges = [row[: n - 1] for row, n in zip(self.shares.cumsum(axis=1).tolist(), self.sizes, strict=True)]
        return tuple([sum(map(rng.random().__ge__, edges)) for edges in self._edges])

    def logs(self, tokens: Ints) -> Values:
        """Logarithms of the probabilities of choices, (n, places) -> (n, places)."""
        found: Values = np.log(self.shares[np.arange(len(self.sizes)), tokens])
        return found

    def ascend(self, tokens: Ints, weigh: Callable[[Values], Values], entropy: float) -> None:
        """d log p(a) / d logit(k) = [a = k] - p(k), and d H / d logit(k) = -p(k) (log p(k) + H)."""
        weights = weigh(self.logs(tokens))
        slope = -self.shares * weights.sum(axis=0)[:, None]
        np.add.at(slope, (np.arange(len(self.sizes)), tokens), weights)
        if entropy:
            surprise = -np.log(np.where(self.shares > 0, self.shares, 1.0))
            slope += entropy * self.shares * (surprise - (self.shares * surprise).sum(axis=1, keepdims=True))
        self._adam(slope)

    def _adam(self, slope: Values) -> None:
        """Adam. Kingma and Ba 2015."""
        self._steps += 1
        self._mean += 0.1 * (slope - self._mean)
        self._square += 0.001 * (slope * slope - self._square)
        size = np.sqrt(self._square / (1 - 0.999**self._steps)) + 1e-8
        self._logits = self._logits + self._rate * self._mean / (1 - 0.9**self._steps) / size
        self._settle()


def policy(settings: ControllerSettings, choices: Sequence[Sequence[Any]], seed: int) -> Policy:
    """The controller that the settings name, before it has learnt anything. Only `lstm` loads torch."""
    sizes = [len(options) for options in choices]
    if settings.controller == "table":
        return Table(sizes, settings.rate)
    from evonas.strategy.lstm import Lstm

    return Lstm(sizes, settings.units, settings.rate, seed)


class Baseline:
    """What a reward is compared with: a moving average of those before it, which begins at 1/2, the mean of ranks."""

    def __init__(self, decay: float) -> None:
        self.decay, self.value = decay, 0.5

    def advantages(self, lessons: Sequence[Lesson], record: Record) -> Values:
        """How far each reward lies above the baseline, (n, 1); the baseline moves afterwards."""
        rewards = np.array([record.reward(lesson.merit) for lesson in lessons])
        above = rewards - self.value
        self.value = self.decay * self.value + (1 - self.decay) * float(rewards.mean())
        return above[:, None]


class Student(ABC):
    """A controller and the baseline of its rewards; how it climbs is the strategy's."""

    def __init__(self, problem: Problem, settings: ControllerSettings) -> None:
        space: Any = problem.encoding
        self.settings, self.baseline = settings, Baseline(settings.decay)
        self.policy = policy(settings, space.choices, problem.seed)

    @abstractmethod
    def climb(self, tokens: Ints, advantages: Values) -> None:
        """Moves the controller towards draws (n, places) of positive advantage (n, 1), a share of the mean each."""

    def learn(self, generation: int, lessons: Sequence[Lesson], record: Record) -> None:
        """What one generation teaches."""
        advantages = self.baseline.advantages(lessons, record) / len(lessons)
        self.climb(np.array([lesson.tokens for lesson in lessons]), advantages)


Studying = TypeVar("Studying", bound=Student)


class Controlled(Taught[Studying]):
    """A strategy whose genomes a controller draws."""

    def source(self, model: Studying, record: Record, state: State) -> Callable[[Random], Tokens]:
        """Draws of the controller."""
        return model.policy.draw
