"""Runs whose every individual, estimate, species and front is known. A golden that moves says in CHANGELOG why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import evonas

BASE: dict[str, Any] = {
    "seed": 11,
    "task": {"kind": "digits"},
    "objectives": ["params", {"name": "depth", "direction": "max"}, "memory"],
    "encoding": {"bounds": {"params": "60k", "flops": "6M"}},
    "estimator": {"kind": "lookup"},
    "pool": {"kind": "serial"},
}
GOLDEN = {
    "nsga2": ("10a9c3dbfd3a6ca73741e3cd43306283", {"population": 20, "generations": 12}),
    "nsga2 by DEAP": (
        "01060d3edeac6b2f5811e042a52177c1",
        {
            "population": 20,
            "generations": 6,
            "select": {"name": "selTournament", "settings": {"tournsize": 3}},
            "survive": {"name": "selSPEA2"},
        },
    ),
    "random": ("c6ef1bd9c3b13cc4d5b3d4d5a8448f2e", {"kind": "random", "population": 20, "generations": 4}),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_run_is_what_it_was(tmp_path: Path, name: str) -> None:
    expected, settings = GOLDEN[name]
    run = evonas.start({**BASE, "strategy": settings}, name="golden", runs=tmp_path)
    assert run.store.digest() == expected
