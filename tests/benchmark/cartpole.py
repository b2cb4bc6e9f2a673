"""A whole CartPole-v1 run until a network balances 475 steps in the mean of its episodes, beside neat-python with
Gymnasium's environment in the same run.

    python tests/benchmark/cartpole.py [seeds]

Both: population 150, 10 episodes per network, new starts in every generation, one sigmoid output that pushes right
above 0.5, fully connected without hidden nodes at first; evonas with the genes and rates of neat-python's example, and
with its own in examples/cartpole.yaml. Ours is `evonas.start` with a run folder on disk. Medians over seeds of wall
and of processor time. A cold start is a new process without kernels.
Goals: 20 times as fast; compiling at most 3 seconds cold and nothing warm."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"

import gymnasium
import neat
import numpy as np

import evonas
from evonas import recipe
from tests.benchmark.breeding import RATES, breeding, configuration

POPULATION, EPISODES, GOAL, GENERATIONS = 150, 10, 475.0, 50

SIGMOID = {"default": "sigmoid", "options": ["sigmoid"]}
GENES = breeding(RATES["rates of neat-python's XOR example"]).model_dump(mode="json", exclude_unset=True)
RECIPE: dict[str, Any] = {
    "version": 1, "name": "cartpole", "task": {"kind": "cartpole", "episodes": EPISODES},
    "encoding": {"kind": "neat", **GENES, "activation": SIGMOID},
    "objectives": ["fitness"], "estimator": {"kind": "population"},
    "strategy": {"kind": "neat", "population": POPULATION, "generations": GENERATIONS, "goal": {"fitness": GOAL}},
}  # fmt: skip


OWN: dict[str, Any] = {
    **RECIPE,
    "encoding": recipe.read(Path(__file__).parents[2] / "examples" / "cartpole.yaml").encoding.model_dump(mode="json"),
}


def ours(seed: int, folder: Path, what: dict[str, Any]) -> tuple[bool, int]:
    """Whether a run solved it, and its evaluations."""
    run = evonas.start({**what, "seed": seed}, name=f"run{len(list(folder.iterdir()))}", runs=folder)
    try:
        return run.solved is not None, int(run.generations()[-1]["evaluations"])
    finally:
        run.close()


def theirs(seed: int) -> tuple[bool, int]:
    random.seed(seed)
    rates = RATES["rates of neat-python's XOR example"]
    config = configuration(rates, POPULATION, inputs=4, outputs=1, options=["sigmoid"], goal=GOAL)
    people = neat.Population(config)
    environment = gymnasium.make("CartPole-v1")
    evaluations = 0

    def played(network: Any, start: int) -> float:
        seen, _ = environment.reset(seed=start)
        total, over = 0.0, False
        while not over:
            seen, reward, fallen, late, _ = environment.step(int(network.activate(seen)[0] > 0.5))
            total += float(reward)
            over = fallen or late
        return total

    def estimate(genomes: Any, config: Any) -> None:
        nonlocal evaluations
        starts = [random.getrandbits(31) for _ in range(EPISODES)]
        for _, genome in genomes:
            network = neat.nn.FeedForwardNetwork.create(genome, config)
            genome.fitness = float(np.mean([played(network, start) for start in starts]))
        evaluations += len(genomes)

    best = people.run(estimate, GENERATIONS)
    return best.fitness >= GOAL, evaluations


def measured(ways: dict[str, Callable[[int], tuple[bool, int]]], seeds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of wall and of processor time by name, the ways in turns: a processor's speed changes."""
    rows: dict[str, list[tuple[float, float, bool, int]]] = {name: [] for name in ways}
    for seed in range(seeds + 1):
        for name, solve in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            solved, evaluations = solve(seed)
            rows[name].append((time.perf_counter() - wall, time.process_time() - cpu, solved, evaluations))
    medians = {}
    for name, own in rows.items():
        walls, cpus, solved, evaluations = np.array(own[1:]).T  # the first warms up
        medians[name] = float(np.median(walls)), float(np.median(cpus))
        print(f"{name:12} solved {solved.sum():.0f} of {seeds}, {evaluations.mean():.0f} evaluations; median "
              f"{1e3 * medians[name][0]:.0f} ms of wall ({1e3 * walls.min():.0f} to {1e3 * walls.max():.0f}), "
              f"{1e3 * medians[name][1]:.0f} ms of processor time")  # fmt: skip
    return medians


COLD = """
import time
began = time.perf_counter()
from evonas import native
for name in ("breeding", "pack", "poles"):
    native.library(name)
print(time.perf_counter() - began)
"""


def compiling(cache: str) -> float:
    """Seconds that a new process takes until it has the kernels of a run."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", COLD], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main(seeds: int = 30) -> None:
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = compiling(cache), compiling(cache)
        print(f"kernels: {cold:.2f} s to compile them in a new process, {warm:.2f} s when that was done before")
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "evonas": lambda seed: ours(seed, Path(folder), RECIPE),
            "own rates": lambda seed: ours(seed, Path(folder), OWN),
            "neat-python": theirs,
        }
        medians = measured(ways, seeds)
    peer_wall, peer_cpu = medians.pop("neat-python")
    for name, (wall, cpu) in medians.items():
        print(f"{name}: {peer_wall / wall:.1f} times as fast by wall time, {peer_cpu / cpu:.1f} by processor time")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
