"""Speciation distance, crossover and mutation of whole NEAT populations, beside neat-python in the same run.

    python tests/benchmark/breeding.py [genomes ...]

The genomes are grown by evonas to about 119 links and given to neat-python gene by gene. Least processor time of
several repeats, one thread; neat-python works on a sample, and its time per genome is compared. Goal: at least 100
times as fast as a whole."""

from __future__ import annotations

import itertools
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"

import neat
import numpy as np
from neat.innovation import InnovationTracker

from evonas import native
from evonas.encoding.breeding import BreedingSettings, distances, found, mate, mutate
from evonas.encoding.population import ACTIVATIONS, AGGREGATIONS, NeatGenome, Population
from evonas.marks import MarkBook

INPUTS, OUTPUTS, SPECIES, SAMPLE, LINKS = 8, 4, 12, 60, 119

OPTIONS = ("sigmoid", "tanh", "sin", "gauss", "relu", "identity")
NUMBER = {"draw": "gauss", "perturb": "gauss", "mutate": 0.8, "replace": 0.1, "power": 0.5, "min": -30.0, "max": 30.0}
RATES = {
    "the paper's rates": {"add_node": 0.03, "add_link": 0.05, "remove_node": 0.0, "remove_link": 0.0},
    "rates of neat-python's XOR example": {"add_node": 0.2, "add_link": 0.5, "remove_node": 0.2, "remove_link": 0.5},
}
"""Structural mutations per child; everything else is the same for both."""


def breeding(rates: dict[str, float]) -> BreedingSettings:
    return BreedingSettings.model_validate({
        "weight": NUMBER, "bias": {**NUMBER, "mutate": 0.7}, "mutate_weights": 1.0,
        "activation": {"options": OPTIONS, "mutate": 0.1}, "structure": rates,
        "distance": {"formula": "normalised", "weight": 0.5},
    })  # fmt: skip


INI = """
[NEAT]
fitness_criterion = max
fitness_threshold = {goal}
pop_size = {population}
reset_on_extinction = False
no_fitness_termination = False
[DefaultGenome]
num_inputs = {inputs}
num_outputs = {outputs}
num_hidden = 0
feed_forward = True
initial_connection = full_direct
compatibility_disjoint_coefficient = 1.0
compatibility_weight_coefficient = 0.5
activation_default = sigmoid
activation_options = {options}
activation_mutate_rate = 0.1
aggregation_default = sum
aggregation_options = sum
aggregation_mutate_rate = 0.0
enabled_default = True
enabled_mutate_rate = 0.0
[DefaultSpeciesSet]
compatibility_threshold = {threshold}
[DefaultStagnation]
[DefaultReproduction]
"""
VALUES = "".join(
    f"{name}_init_mean = {mean}\n{name}_init_stdev = 1.0\n{name}_min_value = -30\n{name}_max_value = 30\n"
    f"{name}_mutate_power = 0.5\n{name}_mutate_rate = {mutate}\n{name}_replace_rate = {replace}\n"
    for name, mean, mutate, replace in (("weight", 0.0, 0.8, 0.1), ("bias", 0.0, 0.7, 0.1), ("response", 1.0, 0.0, 0.0))
)  # fmt: skip
PEERS = {"node_add_prob": "add_node", "conn_add_prob": "add_link",
         "node_delete_prob": "remove_node", "conn_delete_prob": "remove_link"}  # fmt: skip


def grown(count: int, book: MarkBook) -> Population:
    """A population of related genomes with about 119 links each."""
    settings = breeding({"add_node": 0.5, "add_link": 0.6})
    population = found(settings, count, INPUTS, OUTPUTS, 1, book)
    rng = np.random.default_rng(1)
    for generation in range(200):
        # descent from few ancestors at first: species then share most genes, as they do in a run
        parents = rng.integers(0, min(count, SPECIES * (1 + generation // 10)), count)
        population, _ = mutate(population.take(parents), np.ones(count, bool), settings, book, generation)
        if len(population.link_mark) >= LINKS * count:
            break
    return population


def configuration(
    rates: dict[str, float],
    population: int = 10,
    threshold: float = 3.0,
    inputs: int = INPUTS,
    outputs: int = OUTPUTS,
    options: Sequence[str] = OPTIONS,
    goal: float = 1e9,
) -> Any:
    """neat-python's whole configuration."""
    own = "".join(f"{name} = {rates[ours]}\n" for name, ours in PEERS.items())
    text = INI.replace("[DefaultSpeciesSet]", VALUES + own + "[DefaultSpeciesSet]").format(
        goal=goal, population=population, threshold=threshold, inputs=inputs, outputs=outputs, options=" ".join(options)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "neat.ini"
        path.write_text(text, encoding="utf-8")
        return neat.Config(
            neat.DefaultGenome, neat.DefaultReproduction, neat.DefaultSpeciesSet, neat.DefaultStagnation, str(path)
        )


def translated(genome: NeatGenome, config: Any, key: int) -> Any:
    """The same genome for neat-python, which counts inputs down from -1 and outputs up from 0."""

    def name(mark: int) -> int:
        return -1 - mark if mark < INPUTS else mark - INPUTS

    made = neat.DefaultGenome(key)
    made.fitness = random.random()
    columns = (genome.node_mark, genome.bias, genome.response, genome.activation, genome.aggregation)
    for mark, bias, response, activation, aggregation in zip(*(one.tolist() for one in columns), strict=True):
        node = made.create_node(config, name(mark))
        node.bias, node.response = bias, response
        node.activation, node.aggregation = ACTIVATIONS[activation], AGGREGATIONS[aggregation]
        made.nodes[name(mark)] = node
    columns = (genome.link_mark, genome.source, genome.target, genome.weight, genome.enabled)
    for mark, source, target, weight, enabled in zip(*(one.tolist() for one in columns), strict=True):
        link = made.create_connection(config, name(source), name(target), mark)
        link.weight, link.enabled = weight, bool(enabled)
        made.connections[link.key] = link
    return made


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The least processor time of one call and some repeats."""
    times = []
    for _ in range(repeats + 1):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def theirs(population: Population, representatives: Population, rates: dict[str, float]) -> dict[str, float]:
    """Seconds per genome that neat-python takes, on a sample."""
    config = configuration(rates).genome_config
    config.innovation_tracker = InnovationTracker(int(population.link_mark.max()) + 1)
    sample = np.linspace(0, len(population) - 1, SAMPLE).astype(int).tolist()
    genomes = [translated(population[i], config, i) for i in sample]
    others = [translated(one, config, i) for i, one in enumerate(representatives)]
    ours = distances(population.take(sample), representatives, breeding(rates).distance)
    same = np.array([[one.distance(other, config) for other in others] for one in genomes])
    print(f"  largest difference of distances: {np.abs(ours - same).max():.1e}")
    highest = int(population.node_mark.max()) + 1
    pairs = [(one, random.choice(genomes)) for one in genomes]

    def speciated() -> None:
        for one in genomes:
            for other in others:
                one.distance(other, config)

    def mated() -> list[Any]:
        children = []
        for one, other in pairs:
            child = neat.DefaultGenome(0)
            child.configure_crossover(one, other, config)
            children.append(child)
        return children

    def mutated() -> None:
        config.node_indexer = itertools.count(highest)
        for child in children:
            child.mutate(config)

    found = {"distance": seconds(speciated, 3), "crossover": seconds(mated, 3)}
    times = []
    for _ in range(3):
        children = mated()
        times.append(seconds(mutated, 0))
    return {name: spent / SAMPLE for name, spent in (found | {"mutation": min(times)}).items()}


def ours(
    population: Population, representatives: Population, book: MarkBook, rates: dict[str, float]
) -> dict[str, float]:
    """Seconds per genome, in one thread."""
    settings = breeding(rates)
    count = len(population)
    rng = np.random.default_rng(2)
    fitter, other = rng.integers(0, count, count), rng.integers(0, count, count)
    unequal, all_of_them = np.zeros(count, bool), np.ones(count, bool)
    children = mate(population, fitter, other, unequal, settings, 1)
    marks = book.close()
    work: dict[str, Callable[[], object]] = {
        "distance": lambda: distances(population, representatives, settings.distance),
        "crossover": lambda: mate(population, fitter, other, unequal, settings, 1),
        "mutation": lambda: mutate(children, all_of_them, settings, marks.open(), 1),
    }
    return {name: seconds(one, 5) / count for name, one in work.items()}


def main(*counts: int) -> None:
    random.seed(1)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print("compiled kernels" if native.library("breeding") else "no compiler: NumPy")
    for count in counts or (1_000, 10_000):
        book = MarkBook()
        population = grown(count, book)
        links, nodes = len(population.link_mark) / count, len(population.node_mark) / count
        representatives = population.take(np.linspace(0, count - 1, SPECIES).astype(int))
        print(f"\n{count} genomes, {links:.0f} links and {nodes:.0f} nodes each, {SPECIES} species")
        for name, rates in RATES.items():
            print(f" {name}")
            report(theirs(population, representatives, rates), ours(population, representatives, book, rates))


def report(peer: dict[str, float], own: dict[str, float]) -> None:
    for one in (peer, own):
        one["whole"] = sum(one.values())
    for name, spent in own.items():
        ratio = peer[name] / spent
        print(f"  {name:10} {1e6 * peer[name]:8.0f} us {1e6 * spent:8.2f} us per genome: {ratio:5.0f} times as fast")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
