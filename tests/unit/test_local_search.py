"""Local search: who is a neighbour, when it moves, when it begins anew, and that nothing is estimated twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evonas
from evonas import recipe as recipes
from evonas.core import Estimate, Individual, Objective, State
from evonas.simulate import Simulator
from evonas.strategy import LocalSearchSettings
from evonas.strategy.local_search import LocalSearch
from evonas.strategy.problem import Problem, begin
from tests import tables
from tests.vectors import LEVELS, Vector, Vectors

ONE = (Objective("loss"),)
Judge = Callable[[Individual], Estimate]


def judge(individual: Individual) -> Estimate:
    """Least, 0, where all genes are 0.75: a level of the tokens, and no other local optimum."""
    genes = np.array(individual.genome.genes)  # type: ignore[attr-defined]
    return Estimate(individual.id, "ok", {"loss": float(((genes - 0.75) ** 2).sum())})


def local(genes: int = 3, screen: Any = None, objectives: Any = ONE, seed: int = 1, **given: Any) -> LocalSearch:
    problem = Problem(Levels(genes), objectives, seed, screen or (lambda genome: True))
    return LocalSearch(problem, LocalSearchSettings(**given))


class Levels(Vectors):
    """Vectors whose random genomes lie on the levels that tokens can say."""

    def random(self, rng: Any, marks: Any) -> Vector:
        return self.from_tokens([rng.randrange(LEVELS) for _ in range(self.genes)])


def step(search: LocalSearch, state: State, judge: Judge = judge) -> tuple[State, tuple[Individual, ...]]:
    born, asked = search.ask(state)
    return search.tell(asked, [(one, judge(one)) for one in born]), born


def differing(a: Any, b: Any) -> int:
    return sum(x != y for x, y in zip(a.genes, b.genes, strict=True))


def test_neighbours_are_all_that_differ_in_one_choice() -> None:
    search = local(neighbours=None)
    state, _ = step(search, begin())
    (current,) = state.population
    born, _ = search.ask(state)
    assert len({one.genome for one in born}) == len(born) == 3 * (LEVELS - 1)
    assert all(differing(current.genome, one.genome) == 1 for one in born)
    assert all(one.parents == (current.id,) and len(one.edits) == 1 for one in born)


def test_the_best_of_all_neighbours_is_moved_to() -> None:
    search = local(neighbours=None)
    state, _ = step(search, begin())
    after, born = step(search, state)
    best = min(born, key=lambda one: judge(one).values["loss"])
    assert [one.id for one in after.population] == [best.id]


@pytest.mark.parametrize("neighbours", [1, 3])
def test_the_first_improvement_is_moved_to(neighbours: int) -> None:
    search = local(neighbours=neighbours)
    state, _ = step(search, begin())
    for _ in range(40):
        (current,) = state.population
        before = judge(current).values["loss"]
        state, born = step(search, state)
        assert len(born) <= neighbours
        losses = {one.id: judge(one).values["loss"] for one in born}
        best = min(losses, key=lambda id: (losses[id], id))
        anew = not born[0].parents
        assert state.population[0].id == (best if anew or losses[best] < before else current.id)


def test_an_equal_neighbour_is_no_improvement() -> None:
    search = local(neighbours=None)
    flat: Judge = lambda one: Estimate(one.id, "ok", {"loss": 1.0})  # noqa: E731
    state, _ = step(search, begin(), flat)
    state, _ = step(search, state, flat)
    assert [one.id for one in state.population] == [0]
    state, born = step(search, state, flat)
    assert [one.parents for one in born] == [()], "a plateau is a local optimum: it begins anew"
    assert [one.id for one in state.population] == [born[0].id]


def test_a_climb_reaches_the_only_optimum_and_then_begins_anew() -> None:
    search, beginnings = local(genes=4), 0
    state = begin()
    while beginnings < 2:
        state, born = step(search, state)
        beginnings += not born[0].parents
    assert state.estimates[state.front[0]].values["loss"] == 0.0
    assert judge(state.population[0]).values["loss"] > 0, "the new one is climbed from, however good the last was"


def test_the_best_of_several_beginnings_is_climbed_from() -> None:
    search = local(population=8)
    state, born = step(search, begin())
    assert len(born) == 8
    assert state.population[0].id == min(born, key=lambda one: judge(one).values["loss"]).id


def test_nothing_is_estimated_twice_and_the_space_is_the_end() -> None:
    """All 81 genomes, among them failed ones, and then an empty ask."""
    search, seen = local(genes=2, population=2, neighbours=5), list[str]()

    def stern(one: Individual) -> Estimate:
        return Estimate.failed(one.id, "boom") if one.id % 5 == 1 else judge(one)

    state = begin()
    while True:
        born, asked = search.ask(state)
        if not born:
            break
        seen += [one.genome.key for one in born]
        state = search.tell(asked, [(one, stern(one)) for one in born])
    assert len(seen) == len(set(seen)) == LEVELS**2


def test_who_does_not_pass_the_screen_is_no_neighbour() -> None:
    search = local(screen=lambda genome: genome.genes[0] < 0.5, neighbours=None)
    state = begin()
    for _ in range(5):
        state, born = step(search, state)
        assert all(one.genome.genes[0] < 0.5 for one in born)  # type: ignore[attr-defined]


def test_constraints_come_before_the_objective() -> None:
    search = local(objectives=(Objective("loss", min=0.2),), genes=4)
    state = begin()
    for _ in range(200):
        state, _ = step(search, state)
    assert state.estimates[state.front[0]].values["loss"] >= 0.2
    assert judge(state.population[0]).values["loss"] >= 0.2


def test_a_fresh_process_goes_on_as_this_one_does() -> None:
    search, state = local(), begin()
    for _ in range(30):
        fresh = replace(search)
        assert fresh.ask(state) == search.ask(state)
        state, _ = step(search, state)


def test_it_finds_the_optimum_of_a_table_and_the_run_ends_with_it(tmp_path: Path) -> None:
    recipe = tables.recipe(
        tables.written(tmp_path), strategy={"kind": "local_search"}, budget={}, pool={"kind": "serial"}
    )
    trace = Simulator(recipes.read(recipe)).search(2)
    assert sorted(trace.rows.tolist()) == list(range(27)), "everything once"
    assert trace.rows[trace.best()] == tables.columns()["early"].argmax()
    run = evonas.start({**recipe, "seed": 2}, name="local", runs=tmp_path / "runs")
    assert run.status == "finished" and run.generations()[-1]["evaluations"] == 27
    assert any(event["kind"] == "exhausted" for event in run.events())


def test_a_layer_graph_has_no_choices_to_make_otherwise() -> None:
    recipe = {"task": {"kind": "digits"}, "objectives": ["error"], "strategy": {"kind": "local_search"}}
    with pytest.raises(recipes.InvalidRecipe, match=r"'local_search' needs .*tokens.* which encoding 'dag' lacks"):
        recipes.read(recipe)
