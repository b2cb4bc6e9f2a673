"""Bayesian optimisation by a Gaussian process over a distance of genomes. Jones et al. 1998; networks: Jin et al. 2019.

The kernel is exp(-distance / length): the encoding's distance is all that is known of a genome, so it serves cells,
layer graphs and direct genomes alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from evonas.core import Estimate, Individual, State
from evonas.strategy import BayesianSettings
from evonas.strategy.prediction import ByProcess, Distances, Shapes, improved, normal_scores, promising
from evonas.strategy.problem import Problem
from evonas.strategy.proposals import Past, begun, numbered, proposed, remembered


@dataclass(frozen=True)
class Bayesian:
    """Who promises the largest improvement is estimated next. What is predicted are normal scores of ranks: of Pareto
    ranks where there are several objectives."""

    problem: Problem
    settings: BayesianSettings

    @cached_property
    def _distances(self) -> Distances:
        return Distances(self.problem.encoding)

    @cached_property
    def _shapes(self) -> Shapes:
        return Shapes()

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The first population, or the most promising of mutations of the best and of random genomes."""
        given = self.settings
        if not state.population:
            return begun(self.problem, state, given.population)
        book, past = state.marks.open(), Past.of(self.problem, state)
        pool = proposed(self.problem, given, state, past, book)
        genomes = [one.genome for one in pool]
        model = ByProcess(self._distances.apart, [one.genome for one in past.members], genomes, self._shapes)
        scores = normal_scores(past.rank)[:, None]
        chosen = promising(model, scores, improved(scores), min(given.offspring, len(pool)))
        return numbered(state, [pool[i] for i in chosen], book)

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """Everyone is kept to learn from."""
        return remembered(self.problem, state, scored)
