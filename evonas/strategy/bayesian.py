"""Bayesian optimisation by a Gaussian process over a distance of genomes. Jones et al. 1998; networks: Jin et al. 2019.

The kernel is exp(-distance / length): the encoding's distance is all that is known of a genome, so it serves cells,
layer graphs and direct genomes alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from evonas.core import Genome, State
from evonas.strategy import BayesianSettings
from evonas.strategy.prediction import ByProcess, Distances, Shapes, improved, normal_scores, promising
from evonas.strategy.proposals import Past, Predicting


@dataclass(frozen=True)
class Bayesian(Predicting):
    """Who promises the largest improvement is estimated next. What is predicted are normal scores of ranks: of Pareto
    ranks where there are several objectives."""

    settings: BayesianSettings

    @cached_property
    def _distances(self) -> Distances:
        return Distances(self.problem.encoding)

    @cached_property
    def _shapes(self) -> Shapes:
        return Shapes()

    def promising(self, state: State, past: Past, pool: Sequence[Genome], count: int) -> list[int]:
        """By expected improvement of the scores."""
        model = ByProcess(self._distances.apart, [one.genome for one in past.members], pool, self._shapes)
        scores = normal_scores(past.rank)[:, None]
        return promising(model, scores, improved(scores), count)
