"""Runs whose every individual, estimate, species and front is known. A golden that moves says in CHANGELOG why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import evonas
from evonas import native
from evonas.encoding import breeding

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
    "neat": ("806f7a474104c46f8d2cd819267a6d9e", {"kind": "neat", "population": 20, "generations": 8}),
    "random": ("c6ef1bd9c3b13cc4d5b3d4d5a8448f2e", {"kind": "random", "population": 20, "generations": 4}),
    "lemonade": (
        "8b5dbe6e8417bc993bc0bd70d8763bda",
        {"kind": "lemonade", "population": 6, "generations": 12, "crossover": 0.2},
    ),
    "lemonade, sizes by differences": (
        "11b566dc6b3a30fb47c577f0e31185c4",
        {"kind": "lemonade", "population": 6, "generations": 12, "crossover": 0.2, "scale": "auto"},
    ),
    "regularized": (
        "de040dc27710c60a072bf507639363cb",
        {"kind": "regularized", "population": 12, "sample": 4, "generations": 40},
    ),
    "hill climbing": ("04e636ba7850aa7fb493c57f7b0ec366", {"kind": "hill_climbing", "generations": 6}),
}
BY_MORPHISMS = {
    "nsga2": ("84a55554eaa3e58a175868f47bc7f818", {"population": 20, "generations": 12}),
    "lemonade": ("8cb54c17ea2c2e268f487a0ccdc0a6b9", {"kind": "lemonade", "population": 6, "generations": 12}),
    "lemonade, sizes by differences": (
        "8af7a0b7bb90301104b37899344c5832",
        {"kind": "lemonade", "population": 6, "generations": 12, "scale": "auto"},
    ),
}


DIRECT: dict[str, Any] = {
    **BASE,
    "task": {"kind": "iris"},
    "encoding": {"kind": "neat", "structure": {"add_node": 0.2, "add_link": 0.3, "remove_link": 0.1, "toggle": 0.1}},
    "objectives": [{"name": "params", "direction": "max"}, "depth"],
}
"""Direct genomes judged by their sizes: networks' outputs differ in their last bits from processor to processor."""
BRED = {
    "neat": ("76a353d521fb1a55e39d6427ccdec145", {"kind": "neat", "population": 30, "generations": 8}),
    "nsga2": ("773919005efb928037e89e472841ff99", {"kind": "nsga2", "population": 30, "generations": 8}),
}


@pytest.mark.parametrize("compiler", ["", "none"])
@pytest.mark.parametrize("name", BRED)
def test_direct_genomes_are_bred_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, compiler: str
) -> None:
    """With the compiled kernels and without."""
    if compiler:
        monkeypatch.setattr(native, "library", lambda name: None)
        breeding._kernels.cache_clear()
    expected, settings = BRED[name]
    try:
        run = evonas.start({**DIRECT, "strategy": settings}, name="golden", runs=tmp_path)
    finally:
        breeding._kernels.cache_clear()
    assert run.store.digest() == expected


@pytest.mark.parametrize("name", BY_MORPHISMS)
def test_morphisms_are_drawn_as_they_were(tmp_path: Path, name: str) -> None:
    expected, settings = BY_MORPHISMS[name]
    space = {**BASE["encoding"], "mutations": "morphisms", "kernels": [1, 3, 5], "dilations": [1, 2]}
    run = evonas.start({**BASE, "encoding": space, "strategy": settings}, name="golden", runs=tmp_path)
    assert run.store.digest() == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_a_run_is_what_it_was(tmp_path: Path, name: str) -> None:
    expected, settings = GOLDEN[name]
    run = evonas.start({**BASE, "strategy": settings}, name="golden", runs=tmp_path)
    assert run.store.digest() == expected
