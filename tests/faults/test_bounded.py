"""Memory, handles and disk of long runs: a hundred thousand individuals one by one, as many in whole populations, and a
soak of five thousand generations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.nursery import Nursery

SOME_MB = 6_000_000
"""Bytes that a driver's memory may differ by; its heap is not always packed alike."""
SERIAL: dict[str, Any] = {"kind": "serial"}
XOR: dict[str, Any] = {
    "task": {"kind": "xor", "bias": 1.0},
    "objectives": ["fitness"],
    "encoding": {"kind": "neat"},
    "estimator": {"kind": "population", "threads": 1},
    "pool": SERIAL,
}
LONG: dict[str, tuple[dict[str, Any], int]] = {
    "one by one": (
        {
            "task": {"kind": "iris"},
            "objectives": ["params", {"name": "depth", "direction": "max"}],
            "encoding": {"bounds": {"params": "2k", "depth": 8}},  # so that they do not grow all along
            "strategy": {"kind": "nsga2", "population": 500, "generations": 200},
            "estimator": {"kind": "lookup"},
            "pool": SERIAL,
        },
        1200,
    ),
    "whole populations": ({**XOR, "strategy": {"kind": "neat", "population": 1000, "generations": 100}}, 400),
    "five thousand generations": ({**XOR, "strategy": {"kind": "neat", "population": 20, "generations": 5000}}, 500),
}
"""A recipe of 100,000 individuals, and the bytes of its run folder that each of them may take."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", list(LONG))
def test_a_hundred_thousand_individuals_take_no_more_memory_than_twenty_thousand(
    nursery: Nursery, tmp_path: Path, kind: str
) -> None:
    recipe, allowed = LONG[kind]
    every = recipe["strategy"]["generations"] // 20
    folder, file = tmp_path / "run", tmp_path / "measured"
    driver = nursery.born(tmp_path / "log", "tests.faults.drivers:measured", recipe, str(folder), str(file), every)
    assert driver.ended(1700) == 0, driver.said()
    evaluations, memory, handles = zip(*json.loads(file.read_text()), strict=True)
    assert evaluations[-1] == 100_000
    assert max(memory[4:]) - memory[3] < SOME_MB, [round(one / 1e6, 1) for one in memory]
    assert len(set(handles[3:])) == 1, handles
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size / evaluations[-1] < allowed
    print(f"{kind}: {[round(one / 1e6, 1) for one in memory]} MB, {handles[-1]} handles, {size / 1e5:.0f} B each")
