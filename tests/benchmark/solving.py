"""How soon NEAT solves its classics: evaluations over seeds, by the recipes in examples/, and the paper's ablations.

    python tests/benchmark/solving.py                     xor, both double poles and the ablations, few seeds
    python tests/benchmark/solving.py xor 1000
    python tests/benchmark/solving.py double-pole 50
    python tests/benchmark/solving.py double-pole-no-velocity 20
    python tests/benchmark/solving.py ablations 50         double pole with the paper's own parameters
    python tests/benchmark/solving.py peer 10             neat-python 2.0 on XOR with its own example's settings

Seeds count from 0. Published: XOR 4,755 evaluations by the 0.5 criterion, 2.35 hidden nodes; double pole 3,600;
without velocities 33,184, 286 of 625 starts; ablations 30,239 (no growth), 25,600 (no speciation), 23,033 (random
start), 5,557 (no mating). Stanley and Miikkulainen 2002."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import numpy as np

from evonas import encoding, estimate, recipe, strategy, task
from evonas.cohort import Scored, Scores
from evonas.core import seed_of
from evonas.run import problem
from evonas.strategy.problem import begin

EXAMPLES = Path(__file__).parents[2] / "examples"
PAPER = {
    "encoding": "{kind: neat}",
    "strategy.speciation": "{threshold: 3.0, target: null}",
    "strategy.survival": "0.2",
    "strategy.mutate_only": "0.25",
    "strategy.mate_only": "0.0",
    "strategy.stagnation": "15",
}
"""The paper's parameters in place of the example's: what they leave to structure shows in the ablations."""
RANDOM = {"encoding.initial_hidden": "[1, 10]", "encoding.initial_connection": "fraction"}
ABLATIONS: dict[str, dict[str, str]] = {
    "full": {},
    "no mating": {"strategy.mutate_only": "1"},
    "random start": RANDOM,
    "no speciation": {"strategy.speciation": "null", **RANDOM},
    "no growth": {"encoding.initial_hidden": "10", "encoding.structure": "{add_node: 0, add_link: 0}"},
    "no speciation, minimal": {"strategy.speciation": "null"},
}
"""Without species a population starts with random networks, else it would have nothing to choose from; the last line
shows that it does better without them still where a task needs no hidden node."""
LIMIT = 80_000
"""Evaluations after which an ablation has failed."""


class Solved(NamedTuple):
    """When a seed reached its goal, with what; `first` is when XOR's outputs were first on the right side of 0.5."""

    evaluations: int | None
    hidden: int = 0
    links: int = 0
    generalises: float = 0.0
    first: int | None = None
    first_hidden: int = 0


def solve(name: str, changes: dict[str, str], seed: int) -> Solved:
    """One run of an example's recipe without a run folder."""
    read = recipe.read(EXAMPLES / f"{name}.yaml", {**changes, "seed": str(seed), "estimator.threads": "1"})
    shape = task.build(read.task).shape()
    space: Any = encoding.build(read.encoding, shape.input, shape.outputs)
    search = strategy.build(read.strategy, problem(read, space))
    estimator: Any = estimate.build(read.model_dump(mode="json"))
    state, first, first_hidden = begin(), None, 0
    while state.generation < read.strategy.generations and state.memory.get("solved") is None:
        born, asked = search.ask(state)
        cohort, scores = estimator.score(born, seed_of(seed, "estimate", asked.generation))
        state = search.tell(asked, Scored(cohort, scores.checked(problem_objectives(read))))
        if first is None and "accuracy" in scores.columns and (right := scores.columns["accuracy"] == 1.0).any():
            first, first_hidden = state.evaluations, int(cohort.genomes.sizes()["hidden"][right.argmax()])
    solved = state.memory.get("solved")
    if solved is None:
        return Solved(None, first=first, first_hidden=first_hidden)
    at = state.population.position(solved)  # type: ignore[attr-defined]
    sizes = state.population.genomes.sizes()  # type: ignore[attr-defined]
    assert isinstance(state.estimates, Scores)
    generalises = state.estimates.columns.get("generalises", np.zeros(at + 1))[at]
    return Solved(
        state.evaluations, int(sizes["hidden"][at]), int(sizes["links"][at]), float(generalises), first, first_hidden
    )


def problem_objectives(read: recipe.Recipe) -> Any:
    from evonas import objective

    return objective.resolve(read.objectives)


def over_seeds(name: str, seeds: int, changes: dict[str, str] | None = None) -> list[Solved]:
    """One result per seed, on all cores."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
        return list(workers.map(partial(solve, name, changes or {}), range(seeds), chunksize=4))


def told(label: str, results: list[Solved]) -> None:
    done = [one for one in results if one.evaluations is not None]
    counts = [one.evaluations for one in done if one.evaluations is not None]
    line = f"{label:<24} {len(done)}/{len(results)} solved"
    if counts:
        line += f", {fmean(counts):,.0f} +- {pstdev(counts):,.0f} evaluations (worst {max(counts):,})"
        line += f", {fmean(one.hidden for one in done):.2f} hidden, {fmean(one.links for one in done):.1f} links"
    if any(one.generalises for one in done):
        line += f", generalises to {fmean(one.generalises for one in done):.0f} of 625"
    print(line, flush=True)
    halves = [one.first for one in results if one.first is not None]
    if halves:
        hidden = fmean(one.first_hidden for one in results if one.first is not None)
        mean = f"{fmean(halves):,.0f} +- {pstdev(halves):,.0f} evaluations"
        print(f"{'  by the 0.5 criterion':<24} {len(halves)}/{len(results)}, {mean}, {hidden:.2f} hidden", flush=True)


def ablations(seeds: int) -> None:
    for label, changes in ABLATIONS.items():
        limit = {"strategy.generations": str(LIMIT // 150)}
        told(label, over_seeds("double-pole", seeds, {**PAPER, **limit, **changes}))


NEAT_PYTHON = """\
[NEAT]
fitness_criterion = max
fitness_threshold = 3.9
no_fitness_termination = False
pop_size = 150
reset_on_extinction = False

[DefaultGenome]
activation_default = sigmoid
activation_mutate_rate = 0.0
activation_options = sigmoid
aggregation_default = sum
aggregation_mutate_rate = 0.0
aggregation_options = sum
bias_init_mean = 0.0
bias_init_stdev = 1.0
bias_init_type = gaussian
bias_max_value = 30.0
bias_min_value = -30.0
bias_mutate_power = 0.5
bias_mutate_rate = 0.7
bias_replace_rate = 0.1
compatibility_disjoint_coefficient = 1.0
compatibility_weight_coefficient = 0.5
conn_add_prob = 0.5
conn_delete_prob = 0.5
enabled_default = True
enabled_mutate_rate = 0.01
enabled_rate_to_true_add = 0.0
enabled_rate_to_false_add = 0.0
feed_forward = True
initial_connection = full_direct
node_add_prob = 0.2
node_delete_prob = 0.2
num_hidden = 0
num_inputs = 2
num_outputs = 1
response_init_mean = 1.0
response_init_stdev = 0.0
response_init_type = gaussian
response_max_value = 30.0
response_min_value = -30.0
response_mutate_power = 0.0
response_mutate_rate = 0.0
response_replace_rate = 0.0
single_structural_mutation = False
structural_mutation_surer = default
time_constant_init_mean = 1.0
time_constant_init_stdev = 0.0
time_constant_init_type = gaussian
time_constant_max_value = 10.0
time_constant_min_value = 0.01
time_constant_mutate_power = 0.0
time_constant_mutate_rate = 0.0
time_constant_replace_rate = 0.0
weight_init_mean = 0.0
weight_init_stdev = 1.0
weight_init_type = gaussian
weight_max_value = 30
weight_min_value = -30
weight_mutate_power = 0.5
weight_mutate_rate = 0.8
weight_replace_rate = 0.1

[DefaultSpeciesSet]
compatibility_threshold = 3.0

[DefaultStagnation]
species_fitness_func = max
max_stagnation = 20
species_elitism = 2

[DefaultReproduction]
elitism = 2
survival_threshold = 0.2
min_species_size = 2
"""
"""The settings of neat-python's XOR example."""


def peer(seeds: int) -> None:
    try:
        import neat
    except ImportError:
        print("neat-python is not installed: pip install neat-python")
        return
    rows = [((a, b), float(a != b)) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "xor.ini"
        path.write_text(NEAT_PYTHON)
        config = neat.Config(
            neat.DefaultGenome, neat.DefaultReproduction, neat.DefaultSpeciesSet, neat.DefaultStagnation, str(path)
        )
    counts = [count for seed in range(seeds) if (count := _peer_run(neat, config, rows, seed)) is not None]
    mean = f"{fmean(counts):,.0f} evaluations by fitness 3.9" if counts else "none"
    print(f"{'neat-python ' + neat.__version__ + ', XOR':<24} {len(counts)}/{seeds} in 300 generations, {mean}")


def _peer_run(neat: Any, config: Any, rows: Any, seed: int) -> int | None:
    import random

    random.seed(seed)
    evaluations = 0

    def score(genomes: Any, config: Any) -> None:
        nonlocal evaluations
        for _, genome in genomes:
            network = neat.nn.FeedForwardNetwork.create(genome, config)
            genome.fitness = 4.0 - sum((network.activate(x)[0] - y) ** 2 for x, y in rows)
            evaluations += 1

    best = neat.Population(config).run(score, 300)
    return evaluations if best.fitness >= 3.9 else None


def main(what: str = "all", seeds: int | None = None) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, seeds from 0")
    began = time.monotonic()
    for name, usual in (("xor", 100), ("double-pole", 20), ("double-pole-no-velocity", 5)):
        if what in (name, "all"):
            told(name, over_seeds(name, seeds or usual))
    if what in ("ablations", "all"):
        ablations(seeds or 10)
    if what in ("peer", "all"):
        peer(seeds or 3)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
