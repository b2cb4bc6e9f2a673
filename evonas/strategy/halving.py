"""Successive halving and Hyperband: many candidates are looked at briefly, the best of them again and more closely.

Jamieson and Talwalkar 2016; Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar 2018."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from evonas.core import Estimate, Individual, State, stream
from evonas.marks import MarkBook
from evonas.strategy import HalvingSettings, HyperbandSettings
from evonas.strategy.problem import Problem, asked, drawn, first_generation, ids_of, mutated, settle, unseen


@dataclass(frozen=True)
class Halving:
    """A generation is a rung. The population is the present bracket's individuals and those that reached the last rung
    of an earlier one, at most `population` of these.

    Candidates rank by Pareto rank, which with one objective is its value, then crowding. The front is of all that was
    estimated, whatever its fidelity. The state's memory has the bracket and rung that come next, who stands on the rung
    before (`standing`), and who finished."""

    problem: Problem
    settings: HalvingSettings | HyperbandSettings

    def _rungs(self, state: State) -> tuple[tuple[int, float], ...]:
        """Candidates and resource of every rung of the present bracket."""
        brackets = self.settings.brackets
        return brackets[state.memory.get("bracket", 0) % len(brackets)]

    # ------------------------------------------------------------------------------------------------------ ask

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The candidates of a bracket, or the best of the rung before once more."""
        book, rung = state.marks.open(), state.memory.get("rung", 0)
        count, _ = self._rungs(state)[rung]
        if rung:
            born = self._promoted(state, count)
        elif state.generation == 0:
            born = first_generation(self.problem, state, count, book, self.settings.steps)
        else:
            born = self._candidates(state, count, book)
        return tuple(born), asked(state, born, book)

    def _promoted(self, state: State, count: int) -> list[Individual]:
        best = self._ranked(state, state.memory["standing"])[:count]
        return [
            Individual(state.next_id + at, one.genome, (one.id,), (), state.generation) for at, one in enumerate(best)
        ]

    def _ranked(self, state: State, ids: Sequence[int]) -> list[Individual]:
        """Those of the population with these ids, from best to worst, of equals the eldest first."""
        chosen = set(ids)
        members = [one for one in state.population if one.id in chosen]
        if not members:
            return []
        rank, crowding = self.problem.order(self.problem.losses_of(state.estimates, ids_of(members)))
        return [members[i] for i in np.lexsort((ids_of(members), -crowding, rank)).tolist()]

    def _candidates(self, state: State, count: int, book: MarkBook) -> list[Individual]:
        """Children of those that reached a last rung, and random ones."""
        best = self._ranked(state, state.memory["finished"])
        born = self._children(state, best, round(self.settings.evolved * count), book) if best else []
        later = replace(state, next_id=state.next_id + len(born))
        return [*born, *drawn(self.problem, later, count - len(born), book, self.settings.steps)]

    def _children(self, state: State, best: Sequence[Individual], count: int, book: MarkBook) -> list[Individual]:
        """Mutated ones of binary tournaments' winners; fewer where no new ones are found."""
        seen, born = {one.genome.key for one in state.population}, list[Individual]()
        for at in range(count):
            rng = stream(self.problem.seed, "child", state.generation, at)
            parent = best[min(rng.randrange(len(best)), rng.randrange(len(best)))]
            made = unseen(partial(mutated, self.problem, parent.genome, rng, book), seen)
            if made is not None:
                seen.add(made[0].key)
                id = state.next_id + len(born)
                born.append(Individual(id, made[0], (parent.id,), made[1], state.generation))
        return born

    def fidelity(self, state: State, individual: Individual) -> Mapping[str, float]:
        """The resource of the rung that was asked for; of a training that goes on what the rung adds to the last."""
        rungs, rung = self._rungs(state), state.memory.get("rung", 0)
        level = rungs[rung][1]
        if rung and self.problem.inherits and self.settings.resource == "epochs":
            (parent,) = individual.parents
            level -= rungs[rung - 1][1] if state.estimates[parent].weights is not None else 0.0
        return {self.settings.resource: level}

    # ------------------------------------------------------------------------------------------------------ tell

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """The rung joins the bracket; after the last rung, or one that all failed, the next bracket begins."""
        alive = [individual for individual, estimate in scored if estimate.status == "ok"]
        estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
        bracket, rung = state.memory.get("bracket", 0), state.memory.get("rung", 0)
        finished = set(state.memory.get("finished", ()))
        elders = [one for one in state.population if rung or one.id in finished]
        told = replace(state, population=(*elders, *alive), estimates=estimates)
        last = rung == len(self._rungs(state)) - 1
        if last:
            ids = [*finished, *(one.id for one in alive)]
            finished = {one.id for one in self._ranked(told, ids)[: self.settings.population]}
        over = last or not alive
        memory = {
            "bracket": bracket + over,
            "rung": 0 if over else rung + 1,
            "standing": [one.id for one in alive],
            "finished": sorted(finished),
        }
        return settle(self.problem, state, scored, told.population, estimates, memory)
