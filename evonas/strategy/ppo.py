"""Proximal policy optimisation: the controller learns several steps from one batch, none of which leads too far.

Schulman et al. 2017, the clipped objective; of controllers of networks Zoph et al. 2018."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evonas.strategy import PpoSettings
from evonas.strategy.controller import Controlled, Ints, Student, Values
from evonas.strategy.problem import Problem


def slopes(logs: Values, before: Values, advantages: Values, clip: float) -> Values:
    """The clipped objective's derivative by the log probabilities, (n, places): nothing where a ratio has gone beyond
    1 +- clip the way that its advantage leads."""
    ratios = np.exp(logs - before)
    open_still = np.where(advantages > 0, ratios < 1 + clip, ratios > 1 - clip)
    return np.where(open_still, ratios * advantages, 0.0)


class Careful(Student):
    """A controller that takes `epochs` steps of Adam per generation."""

    def __init__(self, problem: Problem, settings: PpoSettings) -> None:
        super().__init__(problem, settings)
        self.clip, self.epochs = settings.clip, settings.epochs

    def climb(self, tokens: Ints, advantages: Values) -> None:
        """Up the mean of the clipped objective over draws."""
        before = self.policy.logs(tokens)
        for _ in range(self.epochs):
            self.policy.ascend(tokens, lambda logs: slopes(logs, before, advantages, self.clip), self.settings.entropy)


@dataclass(frozen=True)
class Ppo(Controlled[Careful]):
    """Several clipped gradient steps for all draws of a generation."""

    settings: PpoSettings

    def untaught(self) -> Careful:
        """A controller that draws every choice alike."""
        return Careful(self.problem, self.settings)
