"""NSGA-III by DEAP: survivors spread evenly among reference directions, however many objectives there are.

Deb and Jain 2014 (part I); constraints by Jain and Deb 2014 (part II)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np
from numpy.typing import NDArray

from evonas import operators
from evonas.core import Estimate, Individual, RecipeError, State, lend_global_streams, stream
from evonas.strategy import Nsga3Settings
from evonas.strategy.nsga2 import Nursery
from evonas.strategy.problem import Problem, asked, first_generation, settle


@dataclass(frozen=True)
class Nsga3:
    """(mu + lambda) evolution with parents drawn at random. The memory's `niches` holds the ideal, the worst and the
    extreme points seen so far, by which objectives are scaled."""

    problem: Problem
    settings: Nsga3Settings

    def __post_init__(self) -> None:
        if len(self.problem.objectives) < 2:
            raise RecipeError("strategy 'nsga3' needs two objectives or more: add one, or set strategy.kind: nsga2")

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """The reference directions, (directions, objectives)."""
        inner = self.settings.inner
        return operators.directions(len(self.problem.objectives), self.settings.divisions or self._divisions, inner)

    @property
    def _divisions(self) -> int:
        """The most divisions that give no more directions than the population."""
        others = len(self.problem.objectives) - 1
        room = self.settings.population - (comb(self.settings.inner + others, others) if self.settings.inner else 0)
        divisions = 1
        while comb(divisions + 1 + others, others) <= room:
            divisions += 1
        return divisions

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The first population, or `offspring` children of parents drawn at random."""
        book = state.marks.open()
        if not state.population:
            born = first_generation(self.problem, state, self.settings.population, book)
            return tuple(born), asked(state, born, book)
        select = operators.selection("selRandom", {}, len(self.problem.objectives))
        with lend_global_streams(self.problem.seed, "breed", state.generation):
            rng = stream(self.problem.seed, "nursery", state.generation)
            estimates = [state.estimates[one.id] for one in state.population]
            adults = operators.creatures(state.population, estimates, self.problem.objectives)
            nursery = Nursery(self.problem, self.settings, state, book, adults, select, rng)
            born = nursery.fill(self.settings.offspring or self.settings.population)
        return tuple(born), asked(state, born, book)

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """Survival of `population` of parents and children: who breaks constraints only where others do not suffice."""
        fresh = [individual for individual, estimate in scored if estimate.status == "ok"]
        estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
        pool = sorted((*state.population, *fresh), key=lambda individual: individual.id)
        beyond = self.problem.violations(self.problem.losses([estimates[one.id] for one in pool]))
        kept = [one for one, much in zip(pool, beyond, strict=True) if much == 0]
        count, memory = self.settings.population, {}
        if len(kept) > count:
            known = state.memory.get("niches", {})
            creatures = operators.creatures(kept, [estimates[one.id] for one in kept], self.problem.objectives)
            with lend_global_streams(self.problem.seed, "survive", state.generation):
                chosen, known = operators.niched(creatures, count, self.points, known)
            ids, memory = {creature.id for creature in chosen}, {"niches": known}
        else:
            ids = {pool[i].id for i in np.argsort(beyond, kind="stable")[:count]}
        return settle(self.problem, state, scored, [one for one in pool if one.id in ids], estimates, memory)
