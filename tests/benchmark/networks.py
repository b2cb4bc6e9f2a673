"""Evaluations of networks per second against neat-python, in one process: batches, one input a step, recurrent
sequences, and the compiling of genomes into programs.

    python tests/benchmark/networks.py [population] [seed]

TensorNEAT is measured beside them where it is installed, its networks compiled by jax with `jit` and `vmap`. Goals on
the CPU: 100 times as fast at batch 64, 30 times with one input a step.

About 35 nodes, 88 links and six activations a network. Goals on one core, as multiples of neat-python: with a compiler
2,000 for batches of 64 and 1,024, 200 for one input, 1,000 recurrent, 300 for compiling; without one 1,000 and 50."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from neat.nn import FeedForwardNetwork

from evonas.encoding.population import ACTIVATIONS, Population
from evonas.marks import MarkBook
from evonas.phenotype import population as programs_of
from tests.benchmark.breeding import grown as bred
from tests.populations import SIX, grown, neat_config, neat_genome, neat_networks

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


def compiling(name: str, genes: Population) -> None:
    """Genes into networks or programs; both in turns, since a processor's speed changes by the second."""
    few, everyone = [neat_genome(genes, i) for i in range(20)], np.arange(len(genes))
    config = neat_config(genes)
    works: list[tuple[Callable[[], Any], int]] = [
        (lambda: [FeedForwardNetwork.create(genome, config) for genome in few], len(few)),
        (lambda: programs_of.pack(genes), len(genes)),
        (lambda: programs_of._pack_numpy(genes, everyone), len(genes)),
    ]
    times = [[seconds(work, 0.1) / count for work, count in works] for _ in range(5)]
    create, own, plain = (min(column) for column in zip(*times, strict=True))
    print(f"compile genes ({name}; {len(genes.weight) / len(genes):.0f} links): neat-python {1e6 * create:.0f} us")
    print(f"       C {1e6 * own:.2f} us {create / own:.0f}x; NumPy {1e6 * plain:.1f} us {create / plain:.0f}x")


def tensorneat(genes: Population, programs: Any, rng: np.random.Generator) -> None:
    """The same networks as TensorNEAT's padded arrays, by its own `transform` and `forward`, by wall time: jax takes as
    many threads as it likes, ours one."""
    import jax
    from tensorneat.common import ACT, State
    from tensorneat.genome import DefaultGenome, DefaultNode

    options = [getattr(ACT, "exp" if name == "gauss" else name) for name in SIX]  # it has no gauss
    most = [int(np.diff(one).max()) for one in (genes.node_offsets, genes.link_offsets)]
    node = DefaultNode(activation_options=options, activation_default=options[0])
    genome = DefaultGenome(INPUTS, OUTPUTS, INPUTS + most[0], most[1], node)
    state = genome.setup(State())
    nodes, links = padded(genes, INPUTS + most[0], most[1])
    prepared = jax.jit(jax.vmap(genome.transform, in_axes=(None, 0, 0)))(state, nodes, links)
    each = jax.vmap(genome.forward, in_axes=(None, 0, 0))
    shared = jax.vmap(jax.vmap(genome.forward, in_axes=(None, None, 0)), in_axes=(None, 0, None))
    few, rows = (rng.normal(size=(count, INPUTS)).astype(np.float32) for count in (64, len(genes)))
    stepper = programs_of.Stepper(programs)
    works = {
        "batch 64": (jax.jit(shared), few, lambda: programs_of.activate(programs, few), 64),
        "one input": (jax.jit(each), rows, lambda: stepper.step(rows), 1),
    }
    for name, (forward, x, own, inputs) in works.items():
        theirs = wall(partial(lambda f, x: f(state, prepared, x).block_until_ready(), forward, x))
        rate = 1e-6 * len(genes) * inputs / theirs
        print(f"TensorNEAT {name:12} {rate:8.3f} M/s; ours is {theirs / wall(own):.0f}x")


def padded(genes: Population, nodes: int, links: int) -> tuple[Any, Any]:
    """Nodes [key, bias, response, aggregation, activation] and links [from, to, weight] of all, NaN where none is."""
    n = len(genes)
    codes = np.array([SIX.index(name) if name in SIX else -1 for name in ACTIVATIONS])
    all_nodes, all_links = np.full((n, nodes, 5), np.nan, np.float32), np.full((n, links, 3), np.nan, np.float32)
    all_nodes[:, :INPUTS] = [(i, 0.0, 1.0, 0.0, 0.0) for i in range(INPUTS)]
    for i, genome in enumerate(genes):
        # keys are to be small: they count nodes in the order of their marks
        key = np.zeros(int(genome.node_mark.max()) + 1)
        key[:INPUTS], key[genome.node_mark] = np.arange(INPUTS), INPUTS + np.arange(len(genome.node_mark))
        own = (key[genome.node_mark], genome.bias, genome.response, 0 * genome.bias, codes[genome.activation])
        all_nodes[i, INPUTS : INPUTS + len(genome.bias)] = np.stack(own, axis=1)
        ends = (key[genome.source], key[genome.target], genome.weight)
        all_links[i, : len(genome.weight)] = np.stack(ends, axis=1)
    return all_nodes, all_links


def wall(work: Callable[[], Any]) -> float:
    """Best wall time of one call, over five."""
    work()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
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

    peers = neat_networks(genes.take(np.arange(20)))
    row = [float(value) for value in rng.normal(size=INPUTS)]
    activate = seconds(lambda: [net.activate(row) for net in peers]) / len(peers)
    looped = neat_networks(loops.take(np.arange(20)))
    recur = seconds(lambda: [net.activate(row) for net in looped]) / len(looped)
    print(f"neat-python: activate {1e6 * activate:.1f} us, recurrent {1e6 * recur:.1f} us")

    for kernel in kernels():
        for name, each in evaluations(kernel, programs, cyclic, rng).items():
            peer = recur if "recurrent" in name else activate
            print(f"{kernel:6} {name:26} {1e-6 / each:8.2f} M/s {peer / each:7.0f}x")
    compiling("these", genes)
    compiling("as NEAT breeds them", bred(population, MarkBook()))
    if importlib.util.find_spec("tensorneat"):
        tensorneat(genes, programs, rng)
    else:
        print("TensorNEAT is not installed")


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
