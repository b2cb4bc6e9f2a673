"""Evaluations of networks per second against neat-python, in one process: batches, one input a step, recurrent
sequences, and the compiling of genomes into programs.

    python tests/benchmark/networks.py [population] [seed]

About 35 nodes, 88 links and six activations a network. Goals on one core, as multiples of neat-python: with a compiler
2,000 for batches of 64 and 1,024, 200 for one input, 1,000 recurrent, 300 for compiling; without one 1,000 and 50."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from neat.nn import FeedForwardNetwork

from evonas.phenotype import population as programs_of
from tests.populations import grown, neat_config, neat_genome, neat_networks

INPUTS, OUTPUTS, STEPS = 8, 4, 20


def seconds(work: Callable[[], Any], least: float = 0.4) -> float:
    """Best processor time of one call, over at least 5 calls and `least` seconds; a first call warms up."""
    work()
    times: list[float] = []
    while len(times) < 5 or sum(times) < least:
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def kernels() -> list[Any]:
    present = {"c": programs_of.chosen_kernel() == "c", "numba": importlib.util.find_spec("numba"), "torch": True}
    return [name for name, there in present.items() if there]


def main(population: int = 1000, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    workload = {"inputs": INPUTS, "outputs": OUTPUTS, "hidden": 31, "extra": 25, "disabled": 0.0}
    genes = grown(seed, population, **workload)
    loops = grown(seed, population, feed_forward=False, **workload)
    programs, cyclic = programs_of.pack(genes), programs_of.pack(loops)
    print(f"{platform.processor() or platform.machine()}, one thread, Python {platform.python_version()}, seed {seed}, "
          f"numpy {version('numpy')}, neat-python {version('neat-python')}")  # fmt: skip
    print(f"{population} networks, {len(programs.bias) / population:.1f} nodes, "
          f"{len(programs.link_slot) / population:.1f} links, {programs.level.max() + 1} levels at most")  # fmt: skip

    config, few = neat_config(genes), [neat_genome(genes, i) for i in range(20)]
    create = seconds(lambda: [FeedForwardNetwork.create(genome, config) for genome in few]) / len(few)
    peers = neat_networks(genes.take(np.arange(20)))
    row = [float(value) for value in rng.normal(size=INPUTS)]
    activate = seconds(lambda: [net.activate(row) for net in peers]) / len(peers)
    looped = neat_networks(loops.take(np.arange(20)))
    recur = seconds(lambda: [net.activate(row) for net in looped]) / len(looped)
    print(
        f"neat-python: create {1e6 * create:.0f} us, activate {1e6 * activate:.1f} us, recurrent {1e6 * recur:.1f} us"
    )

    for kernel in kernels():
        for name, each in evaluations(kernel, programs, cyclic, rng).items():
            peer = recur if "recurrent" in name else activate
            print(f"{kernel:6} {name:26} {1e-6 / each:8.2f} M/s {peer / each:7.0f}x")
    pack = seconds(lambda: programs_of.pack(genes)) / population
    plain = seconds(lambda: programs_of._pack_numpy(genes, np.arange(population))) / population
    print(f"compile: {1e6 * pack:.2f} us a genome, {create / pack:.0f}x")
    print(f"compile by NumPy: {1e6 * plain:.1f} us, {create / plain:.0f}x")


def evaluations(kernel: Any, programs: Any, cyclic: Any, rng: np.random.Generator) -> dict[str, float]:
    """Seconds of one evaluation of one network, by workload."""
    few, many, rows = (rng.normal(size=(count, INPUTS)).astype(np.float32) for count in (64, 1024, programs.n))
    series = rng.normal(size=(STEPS, 64, INPUTS)).astype(np.float32)
    stepper, walker = (programs_of.Stepper(p, kernel=kernel) for p in (programs, cyclic))
    works: dict[str, tuple[Callable[[], Any], int]] = {
        "batch 64": (lambda: programs_of.activate(programs, few, kernel=kernel), 64),
        "batch 1024": (lambda: programs_of.activate(programs, many, kernel=kernel), 1024),
        "one input": (lambda: stepper.step(rows), 1),
        "recurrent, one input": (lambda: walker.step(rows), 1),
        f"recurrent, {STEPS} steps of 64": (lambda: programs_of.sequence(cyclic, series, kernel=kernel), 64 * STEPS),
    }
    return {name: seconds(work) / programs.n / inputs for name, (work, inputs) in works.items()}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
