"""kill -9 of the driver at random moments, two hundred times over one run: nothing committed is lost, and the finished
run is the one that nobody disturbed."""

from __future__ import annotations

import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import evonas
from tests.faults.nursery import PATIENCE, Nursery, until
from tests.unit.test_store_faults import reopened

KILLS = 200
PROCESSES: dict[str, Any] = {"kind": "processes", "workers": 2}
IRIS: dict[str, Any] = {"task": {"kind": "iris"}, "objectives": ["error", "params"], "pool": PROCESSES}
"""Trained in some milliseconds."""
RUNS: dict[str, dict[str, Any]] = {
    "neat": {
        "task": {"kind": "parity", "bits": 3},
        "objectives": ["fitness"],
        "encoding": {"kind": "neat", "structure": {"add_node": 0.1, "add_link": 0.2}},
        "strategy": {"kind": "neat", "population": 20},
        "estimator": {"kind": "population", "threads": 1},
        "pool": PROCESSES,
        "store": {"individuals": "all"},
    },
    "nsga2": {
        **IRIS,
        "encoding": {"bounds": {"params": "2k"}},
        "strategy": {"kind": "nsga2", "population": 4},
        "estimator": {"kind": "train", "epochs": 1},
    },
    "lemonade": {
        **IRIS,
        "encoding": {"bounds": {"params": "2k"}, "mutations": "morphisms"},
        "strategy": {"kind": "lemonade", "population": 4, "offspring": 3, "proposals": 6, "crossover": 0.3},
        "estimator": {"kind": "train", "epochs": 1, "inherit": {"epochs": 1}},
    },
}


def lasting(recipe: dict[str, Any], generations: int) -> dict[str, Any]:
    return {**recipe, "strategy": {**recipe["strategy"], "generations": generations}}


def standing(folder: Path) -> tuple[set[int], int]:
    """Ids with an estimate, and the newest generation, as a reader finds them."""
    if not (folder / "run.sqlite").exists():
        return set(), 0
    with reopened(folder) as store:
        return store.finished(), store.newest


def heard(told: Path, lines: int) -> bool:
    return lines == 0 or (told.exists() and told.read_bytes().count(b"\n") >= lines)


def promised(told: Path) -> tuple[int, int]:
    """How many estimates, and how many generations, were committed as the driver itself had told."""
    lines = [line.split() for line in told.read_text().splitlines()] if told.exists() else []
    return max((int(line[2]) for line in lines), default=0), max((int(line[1]) for line in lines), default=0)


def digest(folder: Path) -> str:
    with evonas.open(folder) as run:
        assert run.status == "finished"
        return run.store.digest([one.name for one in run.objectives if one.measured])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", list(RUNS))
def test_two_hundred_kills_of_the_driver_lose_nothing(nursery: Nursery, tmp_path: Path, kind: str) -> None:
    """Half of the kills come soon after the driver's start, half after it went some steps on."""
    endless, chance = lasting(RUNS[kind], 100_000), random.Random(kind)
    folder, told, log = tmp_path / "run", tmp_path / "told", tmp_path / "log"
    ids, generation = set[int](), 0
    for kill in range(KILLS):
        told.unlink(missing_ok=True)
        driver = nursery.born(log, "tests.faults.drivers:follow", endless, str(folder), str(told))
        lines = chance.randrange(1, 8) if kill % 2 else 0
        assert until(partial(heard, told, lines), PATIENCE), driver.said()
        code = driver.ended(chance.uniform(0, 0.1 if kill % 2 else 0.4))
        assert code is None, driver.said()
        driver.signalled(signal.SIGKILL)
        assert driver.ended() == -signal.SIGKILL
        before, (ids, generation) = ids, standing(folder)
        assert before <= ids, f"kill {kill} lost {sorted(before - ids)}"
        assert len(ids) >= promised(told)[0] and generation >= promised(told)[1], f"kill {kill}: told, but not there"
    assert nursery.deserted(), "no worker outlives its driver"
    driver = nursery.born(log, "tests.faults.drivers:follow", endless, str(folder), str(told), generation + 2)
    assert driver.ended() == 0, driver.said()
    whole = lasting({**RUNS[kind], "pool": {"kind": "serial"}}, generation + 2)
    calm = nursery.born(log, "tests.faults.drivers:follow", whole, str(tmp_path / "calm"), str(told))
    assert calm.ended() == 0, calm.said()
    assert generation >= KILLS // 10, "most kills came before any work"
    assert digest(folder) == digest(tmp_path / "calm")
    assert {path.name for path in folder.glob("weights/*")} == {path.name for path in tmp_path.glob("calm/weights/*")}
