"""Grid search: every genome once, in order, to the end."""

from __future__ import annotations

from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import evonas
from evonas import recipe as recipes
from evonas.core import Estimate, Individual, Objective, RecipeError, State
from evonas.encoding.cell import CellEncoding, CellSettings
from evonas.simulate import Simulator
from evonas.strategy import GridSettings
from evonas.strategy.grid import Grid, Lattice
from evonas.strategy.problem import Problem, begin
from tests import tables
from tests.vectors import Vector, Vectors

ONE = (Objective("loss"),)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)


def grid(genes: int = 2, space: Any = None, screen: Any = None, **given: Any) -> Grid:
    problem = Problem(space or Vectors(genes), ONE, 1, screen or (lambda genome: True))
    return Grid(problem, GridSettings(**given))


def good(one: Individual) -> tuple[Individual, Estimate]:
    return one, Estimate(one.id, "ok", {"loss": 1.0})


def all_of(search: Grid, state: State | None = None) -> list[Individual]:
    """Everyone that is asked for until nothing is."""
    state, seen = state or begin(), []
    while True:
        born, asked = search.ask(state)
        if not born:
            return seen
        seen += born
        state = search.tell(asked, [good(one) for one in born])


@given(sizes, st.integers(1, 4), st.booleans())
def test_a_lattice_meets_each_of_its_points_once(sizes: tuple[int, ...], every: int, spread: bool) -> None:
    lattice = Lattice(sizes, every, spread)
    points = [lattice.tokens(at) for at in range(lattice.count)]
    expected = list(product(*[range(0, size, every) for size in sizes]))
    assert sorted(points) == expected
    assert spread or points == expected, "in lexicographic order"


def test_a_part_of_a_spread_grid_covers_every_choice() -> None:
    lattice = Lattice((5,) * 6, spread=True)
    part = np.array([lattice.tokens(at) for at in range(100)])
    assert all(set(column.tolist()) == set(range(5)) for column in part.T)
    first = np.sort(np.array([lattice.tokens(at)[0] for at in range(100)]))
    assert np.bincount(first).min() >= 19, "twenty each, but for the ends"


def test_it_ends_after_the_last_genome() -> None:
    seen = all_of(grid(2, population=20))
    assert len(seen) == len({one.genome.key for one in seen}) == 9**2
    assert [one.id for one in seen] == list(range(81))


def test_coarse_grids_leave_choices_out() -> None:
    genomes = {one.genome for one in all_of(grid(2, every=4))}
    assert genomes == {Vector((a, b)) for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0)}


def test_of_equal_cells_one_is_asked_for() -> None:
    """Two edges into a node may be written in two orders."""
    settings = CellSettings.model_validate({"space": "darts", "cells": ["normal"], "nodes": 1, "ops": ["skip", "none"]})
    space = CellEncoding(settings, (3, 8, 8), 10)
    keys = [one.genome.key for one in all_of(grid(space=space))]
    assert len(keys) == len(set(keys)) < space.size
    assert set(keys) == {genome.key for genome in space.all()}


def test_who_breaks_a_bound_is_passed_over() -> None:
    seen = all_of(grid(2, population=7, screen=lambda genome: sum(genome.genes) < 0.5))
    assert len(seen) == 10
    with pytest.raises(RecipeError, match=r"none of the grid's 81 genomes keeps .* raise encoding.bounds"):
        grid(2, screen=lambda genome: False).ask(begin())
    with pytest.raises(RecipeError, match="none of 100000 genomes of the grid in a row"):
        grid(6, screen=lambda genome: False).ask(begin())


def test_who_was_not_estimated_comes_next() -> None:
    """A budget may take the last ones back, and a resume may raise it."""
    search = grid(2, population=10)
    born, asked = search.ask(begin())
    state = search.tell(asked, [good(one) for one in born[:4]])
    again, _ = search.ask(state)
    assert [one.genome for one in again[:6]] == [one.genome for one in born[4:]]
    nothing = search.tell(asked, [])
    assert [one.genome for one in search.ask(nothing)[0]] == [one.genome for one in born]


def test_founders_come_first() -> None:
    founder = Vector((0.3, 0.3))
    search = grid(2, population=4)
    search = Grid(Problem(Vectors(2), ONE, 1, lambda genome: True, (founder,)), search.settings)
    born, _ = search.ask(begin())
    assert [one.genome for one in born[:2]] == [founder, Vector((0.0, 0.0))]
    assert len(born) == 4


# ------------------------------------------------------------------------------------------------------ over a table


def over_table(folder: Path, **strategy: Any) -> dict[str, Any]:
    file = tables.written(folder)
    whole = {"kind": "grid", "population": 8, **strategy}
    return tables.recipe(file, strategy=whole, budget={}, pool={"kind": "serial"})


def test_an_exhaustive_grid_finds_the_exact_optimum(tmp_path: Path) -> None:
    trace = Simulator(recipes.read(over_table(tmp_path))).search(3)
    assert sorted(trace.rows.tolist()) == list(range(27))
    early = tables.columns()["early"]
    assert trace.rows[trace.best()] == early.argmax()
    assert trace.losses.min() == 100 - early.max()


@pytest.mark.parametrize(("every", "rows"), [(1, 27), (2, 8), (3, 1)])
def test_a_run_ends_with_the_grid(tmp_path: Path, every: int, rows: int) -> None:
    run = evonas.start(over_table(tmp_path, every=every), name="grid", runs=tmp_path / "runs")
    assert rows == prod([-(-3 // every)] * 3)
    assert run.status == "finished"
    assert run.generations()[-1]["evaluations"] == rows
    assert len(run.generations()) == -(-rows // 8), "nothing is committed for an ask of nothing"
    told = {event["kind"]: event["text"] for event in run.events()}
    assert told["exhausted"] == f"the strategy asks for nothing after {rows} estimates"
    again = evonas.resume(run)
    assert again.status == "finished" and again.generations() == run.generations()
