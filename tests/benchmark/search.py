"""Searches over a table in memory beside a plain loop written by hand: what `ask` and `tell` cost.

    python tests/benchmark/search.py [seeds]

Regularised evolution (population 10, sample 3), 100 evaluations, on NAS-Bench-201 in $EVONAS_DATA or ../shared/data, by
turns, processor time of one core. The loop keeps what the algorithm needs and nothing else: no individuals, no states
to resume from, no constraints, no objectives but one. Goal: 500 searches in at most 10 s."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from evonas import recipe
from evonas.simulate import Simulator

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EVONAS_DATA", ROOT.parent / "shared" / "data")) / "nasbench201" / "nasbench201.npz"
EVALUATIONS, POPULATION, SAMPLE, ROUNDS = 100, 10, 3, 5

RECIPE = {
    "task": {
        "kind": "tabular", "file": str(DATA),
        "key": {"column": "ops", "words": ["none", "skip", "conv_1x1", "conv_3x3", "avg_pool_3x3"]},
        "metrics": {"error": {"column": {12: "cifar10_valid_12"}, "complement": 100}},
        "report": {"test": "cifar10_test_200"},
    },
    "encoding": {"kind": "cell", "space": "nasbench201"},
    "objectives": ["error"],
    "strategy": {
        "kind": "regularized", "population": POPULATION, "sample": SAMPLE, "generations": 1000, "speciation": None,
    },
    "estimator": {"kind": "lookup"},
    "budget": {"evaluations": EVALUATIONS},
}  # fmt: skip


def by_hand(errors: dict[tuple[int, ...], float], seed: int) -> float:
    """The least error that one search saw."""
    rng = Random(seed)
    living: deque[tuple[float, tuple[int, ...]]] = deque()
    best = float("inf")
    for at in range(EVALUATIONS):
        if at < POPULATION:
            genome = tuple(rng.randrange(5) for _ in range(6))
        else:
            _, parent = min(rng.choice(living) for _ in range(SAMPLE))
            place = rng.randrange(6)
            genome = (*parent[:place], (parent[place] + rng.randrange(1, 5)) % 5, *parent[place + 1 :])
        error = errors[genome]
        best = min(best, error)
        living.append((error, genome))
        if len(living) > POPULATION:
            living.popleft()
    return best


def main(seeds: int) -> None:
    if not DATA.exists():
        print(f"no table at {DATA}: set EVONAS_DATA to the folder of data sets")
        return
    with np.load(DATA) as table:
        keys = map(tuple, table["ops"].tolist())
        errors = dict(zip(keys, (100 - table["cifar10_valid_12"].astype(float)).tolist(), strict=True))
    simulator = Simulator(recipe.read(RECIPE))
    simulator.search(0)

    def searched(seed: int) -> float:
        return float(simulator.search(seed).losses.min())

    seconds: dict[str, list[float]] = {"evonas": [], "by hand": []}
    found: dict[str, list[float]] = {"evonas": [], "by hand": []}
    for round_ in range(ROUNDS):
        share = range(round_ * seeds // ROUNDS, (round_ + 1) * seeds // ROUNDS)
        sides: dict[str, Callable[[int], float]] = {"evonas": searched, "by hand": lambda seed: by_hand(errors, seed)}
        for name, one in sides.items():
            began = time.process_time()
            found[name] += [one(seed) for seed in share]
            seconds[name].append((time.process_time() - began) / len(share))
    for name, times in seconds.items():
        each = min(times)
        print(
            f"{name:8} {500 * each:5.2f} s for 500 searches, {1e3 * each / EVALUATIONS:.4f} ms per evaluation, "
            f"least error {np.mean(found[name]):.3f} in the mean of {seeds}"
        )
    print(f"ratio {min(seconds['evonas']) / min(seconds['by hand']):.1f}; goal: 500 searches in at most 10 s")
    print(f"evonas {version('evonas')}, Python {platform.python_version()}, numpy {np.__version__}, seeds from 0 on")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
