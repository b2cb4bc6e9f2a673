"""Users extend evonas from outside: a recipe names `file.py:object` wherever it names a table entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import evonas
from evonas import recipe
from evonas.core import RecipeError

MINE = '''
from dataclasses import replace

import numpy as np

from evonas.core import Estimate, Outcome
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.pool import Serial
from evonas.estimate import build
from evonas.strategy.problem import asked, drawn, settle
from evonas.task.data import Data, TaskShape


class Tiny(DagEncoding):
    """Layer graphs that begin with one layer."""

    def __init__(self, settings, input_shape, outputs):
        super().__init__(DagSettings(initial_layers=(1, 1), channels=settings["channels"]), input_shape, outputs)


class Fresh:
    """Draws anew in every generation and keeps the smallest half."""

    def __init__(self, problem, settings):
        self.problem, self.settings = problem, settings

    def ask(self, state):
        book = state.marks.open()
        born = drawn(self.problem, state, self.settings.population, book, self.settings.settings["steps"])
        return tuple(born), asked(state, born, book)

    def tell(self, state, scored):
        alive = [pair for pair in scored if pair[1].status == "ok"]
        alive.sort(key=lambda pair: (pair[1].values["params"], pair[0].id))
        best = [individual for individual, _ in alive[: len(alive) // 2]]
        return settle(self.problem, state, scored, best, {estimate.id: estimate for _, estimate in scored})


class Sizes:
    """Knows every network's size at once."""

    def __init__(self, recipe, folder):
        self.encoding = Tiny(recipe["encoding"]["settings"], (3,), 2)

    def estimate(self, job):
        plan = self.encoding.decode(self.encoding.from_json(job.genome))
        return Outcome(Estimate(job.id, "ok", {"params": plan.params, "depth": plan.depth}))


class Line:
    def __init__(self, settings, recipe, scratch, final):
        self.serial = Serial(build(recipe))
        self.workers = settings.settings["workers"]

    def submit(self, jobs):
        self.serial.submit(jobs)

    def arrived(self):
        return self.serial.arrived()

    def close(self):
        pass
'''


def given(folder: Path, **rooms: Any) -> dict[str, Any]:
    (folder / "mine.py").write_text(MINE)
    return {
        "name": "mine",
        "task": {"kind": "iris"},
        "objectives": ["params", "depth"],
        "strategy": {"population": 6, "generations": 3},
        "estimator": {"kind": "lookup"},
        "pool": {"kind": "serial"},
        **rooms,
    }


def test_own_encoding_strategy_estimator_and_pool(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    encoding = {"kind": f"{file}:Tiny", "settings": {"channels": [4, 8]}, "bounds": {"params": 100}}
    strategy = {"kind": f"{file}:Fresh", "population": 8, "generations": 4, "settings": {"steps": 2}}
    whole = given(
        tmp_path,
        encoding=encoding,
        strategy=strategy,
        estimator={"kind": f"{file}:Sizes"},
        pool={"kind": f"{file}:Line", "settings": {"workers": 1}},
    )
    run = evonas.start(whole, runs=tmp_path)
    assert run.status == "finished" and len(run.generations()) == 4
    assert run.front() and all(row.values["params"] <= 100 for row in run.individuals())
    grown = evonas.resume(run, generations="+2")
    assert len(grown.generations()) == 6


@pytest.mark.parametrize("room", ["task", "encoding", "strategy", "estimator", "pool"])
def test_a_missing_file_is_told_when_the_recipe_is_read(tmp_path: Path, room: str) -> None:
    with pytest.raises(RecipeError, match=rf"{room}.kind: .*no file 'absent.py'"):
        recipe.read(given(tmp_path, **{room: {"kind": "absent.py:Thing"}}))


def test_a_missing_object_is_told_with_the_nearest(tmp_path: Path) -> None:
    wrong = given(tmp_path, strategy={"kind": f"{tmp_path / 'mine.py'}:Fresch"})
    with pytest.raises(RecipeError, match=r"has no 'Fresch'; did you mean 'Fresh'"):
        evonas.start(wrong, runs=tmp_path)
