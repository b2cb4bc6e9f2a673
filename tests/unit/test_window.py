"""Generations under way at once: who may be born of whom, what stays of those under way, and what it is good for."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evonas
from evonas import encoding, simulate
from evonas import recipe as recipes
from evonas.core import Estimate, Individual, Objective, State
from evonas.strategy import RegularizedSettings
from evonas.strategy.problem import Problem, begin
from evonas.strategy.regularized import Regularized
from evonas.strategy.window import Window
from tests import tables
from tests.vectors import Vectors


def judged(born: Sequence[Individual]) -> list[tuple[Individual, Estimate]]:
    return [(one, Estimate(one.id, "ok", {"loss": float(one.id * 7919 % 101)})) for one in born]


def windowed(size: int, space: Any = None, generations: int = 40) -> Window:
    settings = RegularizedSettings(population=6, sample=3, generations=generations, window=size)
    problem = Problem(space or Vectors(), (Objective("loss"),), 1, lambda genome: True)
    return Window.of(settings, Regularized(problem, settings), problem.encoding, {})


def followed(window: Window) -> list[tuple[State, list[Sequence[Individual]]]]:
    """The states of a search as they were told, each with what was under way then."""
    state, flight, seen = begin(), [], []
    while state.generation < window.generations:
        while (asked := window.ask(state, flight)) is not None:
            flight.append(asked[0])
            state = asked[1]
        state = window.tell(state, judged(flight.pop(0)), flight)
        seen.append((state, list(flight)))
    return seen


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_generation_is_born_of_all_but_the_last_ones(size: int) -> None:
    told = followed(windowed(size))
    population = {state.generation: {one.id for one in state.population} for state, _ in told}
    births = {one.id: one for _, flight in told for born in flight for one in born}
    assert max(len(flight) for _, flight in told) == size - 1
    for one in births.values():
        assert set(one.parents) <= population[max(one.birth - size + 1, 1)]
    assert sorted({one.id for state, _ in told for one in state.population} | births.keys()) == list(range(6 + 39))


def test_a_mark_is_never_given_twice() -> None:
    """Not even by genomes under way, whose marks nobody alive has yet."""
    space = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    ends: dict[int, set[tuple[int, int]]] = {}
    for state, flight in followed(windowed(4, space, generations=40)):
        for one in (*state.population, *(one for born in flight for one in born)):
            for edge in one.genome.edges:  # type: ignore[attr-defined]
                ends.setdefault(edge.mark, set()).add((edge.source, edge.target))
    assert len(ends) > 20 and all(len(origins) == 1 for origins in ends.values())


def test_a_budget_counts_those_under_way() -> None:
    window = windowed(8)
    limited = Window(window.strategy, window.encoding, 8, 40, {"evaluations": 11})
    state, flight = begin(), []
    while (asked := limited.ask(state, flight)) is not None:
        flight.append(asked[0])
        state = asked[1]
    state = limited.tell(state, judged(flight.pop(0)), flight)
    while (asked := limited.ask(state, flight)) is not None:
        flight.append(asked[0])
        state = asked[1]
    assert sum(map(len, flight)) == 11 - 6


def test_a_search_in_memory_asks_ahead_as_a_run_does(tmp_path: Path) -> None:
    settings = {"kind": "regularized", "population": 5, "sample": 2, "generations": 100, "window": 4}
    recipe = tables.recipe(tables.written(tmp_path), strategy=settings, seed=3, pool={"kind": "serial"})
    run = evonas.start(recipe, name="run", runs=tmp_path)
    trace = simulate.Simulator(recipes.read(recipe)).search(3)
    losses = [run.estimate(id).values["error"] for id in range(len(trace.rows))]
    assert losses == trace.losses[:, 0].tolist()


def idle(size: int, workers: int, seed: int) -> float:
    """The share of the workers' time that a search with estimates of 1 to 10 seconds leaves unused."""
    window = windowed(size, generations=400)
    durations = np.random.default_rng(seed).uniform(1, 10, 500)
    state, flight, done, now, busy = begin(), [], {}, 0.0, [0.0] * workers
    while state.generation < window.generations:
        while (asked := window.ask(state, flight)) is not None:
            flight.append(asked[0])
            state = asked[1]
            for one in asked[0]:
                start = max(heapq.heappop(busy), now)
                done[one.id] = start + durations[one.id]
                heapq.heappush(busy, done[one.id])
        now = max([now, *(done[one.id] for one in flight[0])])
        state = window.tell(state, judged(flight.pop(0)), flight)
    return 1 - durations[: len(done)].sum() / (max(done.values()) * workers)


def test_workers_are_kept_busy_though_durations_differ_tenfold() -> None:
    assert idle(1, 4, 0) > 0.7
    assert idle(32, 4, 0) < 0.1
