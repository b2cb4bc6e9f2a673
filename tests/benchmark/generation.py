"""Whole generations of NEAT: compiling, evaluating, dividing into species and breeding, beside neat-python in the same
run; then a population of 100,000 and what the run folder costs.

    python tests/benchmark/generation.py [genomes ...]

The genomes are grown to about 119 links and given to neat-python gene by gene, with the threshold that divides them
into about as many species. Least processor time of several generations; each of ours starts from the same state.
Goals: speciation and reproduction at least 100 times as fast; a generation of 100,000 on exclusive or in under 2
seconds and 4 GB; a generation of 10,000 not noticeably slowed by the run folder."""

from __future__ import annotations

import json
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

import neat
import numpy as np
from neat.innovation import InnovationTracker

from evonas import native
from evonas.cohort import Cohort, Scored, Scores
from evonas.core import Objective, State
from evonas.encoding.neat import NeatEncoding
from evonas.encoding.population import Population
from evonas.encoding.variation import NeatSettings
from evonas.marks import MarkBook
from evonas.phenotype.population import activate, pack
from evonas.strategy import NeatStrategySettings, SpeciationSettings
from evonas.strategy.neat import Neat
from evonas.strategy.problem import Problem
from tests.benchmark.breeding import INPUTS, OUTPUTS, RATES, SPECIES, breeding, configuration, grown, translated

ROWS = 64
"""Inputs of an evaluation."""


def spent(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of one call, and what it gave."""
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


# ------------------------------------------------------------------------------------------------------------- evonas


def strategy(count: int, rates: dict[str, float], threshold: float, target: int | None = None) -> Neat:
    """NEAT as neat-python does it: every child has two parents and is mutated."""
    own = breeding(rates).model_dump(exclude_unset=True)
    speciation = SpeciationSettings(threshold=threshold, target=target, step=0.03)
    settings = NeatStrategySettings(population=count, mutate_only=0.0, interspecies=0.0, speciation=speciation)
    encoding = NeatEncoding(NeatSettings.model_validate(own), (INPUTS,), OUTPUTS)
    problem = Problem(encoding, (Objective("fitness", "max"),), 1, lambda genome: True, speciation=speciation)
    return Neat(problem, settings)


def scores_of(cohort: Cohort, seed: int = 1) -> Scores:
    return Scores(cohort.ids, {"fitness": np.random.default_rng(seed).random(len(cohort))})


def settled(genomes: Population, book: MarkBook, rates: dict[str, float]) -> tuple[Neat, State]:
    """A strategy and its state after these genomes were told, divided into about 12 species."""
    count = len(genomes)
    nobody = np.full((count, 2), -1, dtype=np.int64)
    cohort = Cohort(np.arange(count), genomes, nobody, np.zeros(count, dtype=np.int64))
    told, threshold = Scored(cohort, scores_of(cohort)), 1.0
    for _ in range(200):
        neat_ = strategy(count, rates, threshold, target=SPECIES)
        state = neat_.tell(State(0, count, (), {}, (), (), book.close()), told)
        if len(state.species) == SPECIES:
            break
        threshold = float(state.memory["threshold"])
    return strategy(count, rates, threshold), state


def ours(neat_: Neat, state: State, rounds: int) -> dict[str, float]:
    """Least seconds of each part of a generation."""
    x = np.random.default_rng(3).normal(size=(ROWS, INPUTS)).astype(np.float32)
    times: dict[str, list[float]] = {"ask": [], "pack": [], "evaluate": [], "tell": []}
    for _ in range(rounds):
        clock = [time.process_time()]
        born, asked = neat_.ask(state)
        clock.append(time.process_time())
        programs = pack(born.genomes, threads=native.cores())
        clock.append(time.process_time())
        activate(programs, x, threads=native.cores())
        clock.append(time.process_time())
        told = Scored(born, scores_of(born))
        clock.append(time.process_time())
        neat_.tell(asked, told)
        clock.append(time.process_time())
        parts = np.diff(clock)[[0, 1, 2, 4]]
        for name, part in zip(times, parts.tolist(), strict=True):
            times[name].append(part)
    least = {name: min(own) for name, own in times.items()}
    return {
        "speciation + reproduction": least["ask"] + least["tell"],
        "compile + evaluate": least["pack"] + least["evaluate"],
    }


# -------------------------------------------------------------------------------------------------------- neat-python


def theirs(genomes: Population, rates: dict[str, float], threshold: float) -> tuple[dict[str, float], int]:
    """The same parts of one generation of neat-python, and its number of species."""
    count = len(genomes)
    config = configuration(rates, count, threshold)
    people = neat.Population(config)
    people.population = {i: translated(genomes[i], config.genome_config, i) for i in range(count)}
    people.reproduction.genome_indexer = iter(range(count, 10 * count))
    people.reproduction.innovation_tracker = InnovationTracker(int(genomes.link_mark.max()) + 1)
    people.reproduction.ancestors = dict.fromkeys(people.population, ())
    config.genome_config.node_indexer = iter(range(int(genomes.node_mark.max()) + 1, 1 << 31))
    people.species = type(people.species)(config.species_set_config, people.reporters)
    people.species.speciate(config, people.population, 0)
    species = len(people.species.species)

    def bred() -> None:
        people.population = people.reproduction.reproduce(config, people.species, count, 1)
        people.species.speciate(config, people.population, 1)

    seconds, _ = spent(bred)
    sample = [people.population[key] for key in sorted(people.population)[:: max(1, count // 50)]]
    rows = np.random.default_rng(3).normal(size=(ROWS, INPUTS)).tolist()

    def run() -> None:
        for genome in sample:
            network = neat.nn.FeedForwardNetwork.create(genome, config)
            for row in rows:
                network.activate(row)

    evaluation = spent(run)[0] * count / len(sample)
    return {"speciation + reproduction": seconds, "compile + evaluate": evaluation}, species


def compared(count: int) -> None:
    book = MarkBook()
    genomes = grown(count, book)
    links, nodes = len(genomes.link_mark) / count, len(genomes.node_mark) / count
    print(f"\n{count} genomes, {links:.0f} links and {nodes:.0f} nodes each")
    for name, rates in RATES.items():
        neat_, state = settled(genomes, book, rates)
        speciation = neat_.problem.speciation
        assert speciation is not None
        own = ours(neat_, state, 5)
        peer, species = theirs(genomes, rates, speciation.threshold)
        print(f" {name}; {len(state.species)} species, neat-python {species}")
        for one in (own, peer):
            one["whole generation"] = sum(one.values())
        for part, seconds in own.items():
            ratio = peer[part] / seconds
            print(f"  {part:26} {1e3 * peer[part]:9.0f} ms {1e3 * seconds:8.2f} ms: {ratio:5.0f} times as fast")


# ---------------------------------------------------------------------------------------------------------- whole runs

RUN = """
import json, resource, sys, time
import evonas
from evonas import store

recipe, folder = json.loads(sys.argv[1]), sys.argv[2]
committed = []
plain = store.Store.commit_cohort


def timed(*arguments, **named):
    began = time.perf_counter()
    plain(*arguments, **named)
    committed.append(time.perf_counter() - began)


store.Store.commit_cohort = timed
run = evonas.start(recipe, runs=folder)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
seconds = [row["seconds"] for row in run.generations()]
print(json.dumps({"seconds": seconds, "commits": committed, "memory": memory}))
"""


def run(population: int, generations: int) -> None:
    """A run on exclusive or with its folder, in a process of its own."""
    recipe = {
        "version": 1, "name": "xor", "seed": 1, "task": {"kind": "xor"}, "encoding": {"kind": "neat"},
        "objectives": ["fitness"], "estimator": {"kind": "population"},
        "strategy": {
            "kind": "neat", "population": population, "generations": generations, "speciation": {"target": SPECIES},
        },
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-c", RUN, json.dumps(recipe), folder]
        root = str(Path(__file__).parents[2])
        done = subprocess.run(call, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    told = json.loads(done.stdout)
    seconds, commits = np.array(told["seconds"]), np.array(told["commits"])
    print(f"\nexclusive or, population {population}, {generations} generations with a run folder:")
    print(f"  {np.median(seconds):.3f} s a generation, {seconds.max():.3f} s the slowest")
    print(f"  {np.median(commits):.3f} s to commit one, {commits.sum() / seconds.sum():.1%} of all time")
    print(f"  {told['memory']:.2f} GB of memory at most, {size / 1024**2:.0f} MB of files")


def main(*counts: int) -> None:
    random.seed(1)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {native.cores()} cores")
    print("compiled kernels" if native.library("breeding") else "no compiler: NumPy")
    run(10_000, 50)  # first, as a process's peak memory counts its parent's at the start
    run(100_000, 15)
    for count in counts or (1_000, 10_000):
        compared(count)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
