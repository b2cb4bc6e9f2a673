"""REINFORCE: a controller draws genomes, and the gradient of what they were rewarded with moves it.

Zoph and Le 2017, with the moving average as baseline (decay 0.9) and Adam as Dong and Yang 2020 set it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evonas.strategy import ReinforceSettings
from evonas.strategy.controller import Controlled, Ints, Student, Values


class Follower(Student):
    """A controller that takes one step of Adam per generation."""

    def climb(self, tokens: Ints, advantages: Values) -> None:
        """Up the mean of advantage times log probability. Williams 1992."""
        self.policy.ascend(tokens, lambda logs: advantages * np.ones_like(logs), self.settings.entropy)


@dataclass(frozen=True)
class Reinforce(Controlled[Follower]):
    """One gradient step for all draws of a generation."""

    settings: ReinforceSettings

    def untaught(self) -> Follower:
        """A controller that draws every choice alike."""
        return Follower(self.problem, self.settings)
