"""The (mu + lambda), (mu, lambda) and generational algorithms, as DEAP has them in `deap.algorithms`.

Fortin et al. 2012 (DEAP); Back, Fogel and Michalewicz 2000; constraints by Deb 2000."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evonas import operators
from evonas.core import Estimate, Individual, State, lend_global_streams
from evonas.marks import MarkBook
from evonas.operators import Creature
from evonas.strategy import MuPlusLambdaSettings
from evonas.strategy.problem import ATTEMPTS, Problem, asked, first_generation, settle


@dataclass(frozen=True)
class MuPlusLambda:
    """Evolution by the first objective. A copy is no child but its parent once more: it is not estimated again, and the
    memory's `members` are the ids of the population with such repeats, `offspring` those of parents' copies and
    children in DEAP's order."""

    problem: Problem
    settings: MuPlusLambdaSettings

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The first population, or the children of the current one that are no copies."""
        book = state.marks.open()
        if not state.population:
            first = first_generation(self.problem, state, self.settings.population, book)
            return tuple(first), self._noted(asked(state, first, book), [one.id for one in first])
        born: list[Individual] = []
        order: list[int] = []
        for one in self._offspring(state, book):
            if one.fitness.valid:
                order.append(one.parents[0] if one.id is None else one.id)
                continue
            id = state.next_id + len(born)
            born.append(Individual(id, one.genome, one.parents, one.edits, state.generation))
            order.append(id)
        return tuple(born), self._noted(asked(state, born, book), order)

    def _noted(self, state: State, offspring: list[int]) -> State:
        return replace(state, memory={**state.memory, "offspring": offspring})

    def _offspring(self, state: State, book: MarkBook) -> list[Creature]:
        """Copies and children, of whom there is one at least: a generation of copies alone would be the run's end."""
        adults = self.creatures(state, state.memory["members"])
        box = operators.toolbox(self.problem.encoding, book, self._select)
        seen = set() if self.settings.repeats else {one.genome.key for one in adults}
        with lend_global_streams(self.problem.seed, "breed", state.generation):
            made = self._varied(adults, box)
            for _ in range(ATTEMPTS):
                if not all(one.fitness.valid for one in made):
                    break
                made = self._varied(adults, box)
            else:
                made = [box.mutate(box.clone(adults[0]))[0]]
                del made[0].fitness.values
            return [one if one.fitness.valid else self._accepted(one, adults, box, seen) for one in made]

    def _varied(self, adults: list[Creature], box: Any) -> list[Creature]:
        """DEAP's varOr or, after a selection of parents, its varAnd."""
        settings = self.settings
        if settings.algorithm == "generational":
            chosen = box.select(adults, settings.population)
            return operators.varied(chosen, box, None, settings.crossover, settings.mutation)
        couple = adults * 2 if len(adults) == 1 else adults  # varOr draws two of them at different places
        count = settings.offspring or settings.population
        return operators.varied(couple, box, count, settings.crossover, settings.mutation)

    def _accepted(self, child: Creature, adults: list[Creature], box: Any, seen: set[str]) -> Creature:
        """A child, or what it takes to make it pass the screen and be new."""
        parent = next(one for one in adults if one.id == child.parents[0])
        found = operators.accepted(child, parent, box, self.problem.screen, seen, ATTEMPTS)
        if found.fitness.valid:  # a parent that has no child which passes: estimated again
            del found.fitness.values
        if not self.settings.repeats:
            seen.add(found.genome.key)
        return found

    def _select(self, creatures: list[Creature], count: int) -> list[Creature]:
        chosen = self.settings.selection
        return operators.selection(chosen.name, dict(chosen.settings), 1)(creatures, count)

    def creatures(self, state: State, ids: Sequence[int]) -> list[Creature]:
        """The population's members by id, with repeats, as DEAP sees them: with the value of the first objective; where
        constraints are broken, worse than the worst of them all by how far they are."""
        genomes = {one.id: one for one in state.population}
        return self._weighed([genomes[id] for id in ids], [state.estimates[id] for id in ids])

    def _weighed(self, members: Sequence[Individual], estimates: Sequence[Estimate]) -> list[Creature]:
        first = self.problem.objectives[0]
        losses = self.problem.losses(estimates)
        beyond = self.problem.violations(losses)
        weighed = np.where(beyond > 0, losses[:, 0].max(initial=-np.inf) + beyond, losses[:, 0])
        fitness = operators.fitness_class([first])
        pairs = zip(members, weighed.tolist(), strict=True)
        return [operators.creature(one, [first.loss(loss)], fitness) for one, loss in pairs]

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """The next population: DEAP's survivors, or the children; and the elite in place of the worst of them."""
        known = {one.id: one for one in state.population}
        known |= {one.id: one for one, estimate in scored if estimate.status == "ok"}
        estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
        before = list(state.memory.get("members", ()))
        offspring = [id for id in state.memory["offspring"] if id in known]
        pool = before + offspring if self.settings.algorithm == "plus" or not offspring else offspring
        chosen = [id for id in pool if id in known]
        if self.settings.algorithm != "generational" and state.population:
            creatures = self._weighed([known[id] for id in pool], [estimates[id] for id in pool])
            with lend_global_streams(self.problem.seed, "survive", state.generation):
                chosen = [one.id for one in self._select(creatures, self.settings.population) if one.id is not None]
        members = self._with_elite(chosen, before, estimates)
        survivors = [known[id] for id in sorted(set(members))]
        return settle(self.problem, state, scored, survivors, estimates, {"members": members, "offspring": []})

    def _with_elite(self, chosen: list[int], before: list[int], estimates: dict[int, Estimate]) -> list[int]:
        """The chosen, the worst of them replaced by those of the best before who are not among them."""

        def merit(id: int) -> tuple[float, float, int]:
            return (*self.problem.merit(estimates[id]), id)

        elite = [id for id in sorted(set(before), key=merit)[: self.settings.elitism] if id not in chosen]
        room = max(0, self.settings.population - len(elite))
        keep = set(sorted(range(len(chosen)), key=lambda i: merit(chosen[i]))[:room])
        return [id for i, id in enumerate(chosen) if i in keep] + elite
