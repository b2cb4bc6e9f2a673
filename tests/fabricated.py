"""Runs of any size without training: births and estimates made up and written through the store, as a search does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from evonas import pareto
from evonas import recipe as recipes
from evonas.core import Edit, Estimate, Genome, Individual, Outcome, Species, State
from evonas.marks import MarkBook
from evonas.results import Run
from evonas.store import Store

ABOUT: dict[str, Any] = {
    "evonas": "0.1.0",
    "python": "3.11",
    "torch": "2.13.0",
    "numpy": "2.4.6",
    "platform": "Linux",
    "processor": "x86_64",
    "cores": 2,
    "threads": 1,
    "seed": 1,
    "started": "2026-01-01T00:00:00Z",
    "task": {
        "input": [1, 8, 8],
        "outputs": 10,
        "kind": "classification",
        "labels": list("0123456789"),
        "sizes": {"train": 1150, "validation": 288, "test": 359},
        "fingerprint": "0" * 32,
    },
}
RECIPE: dict[str, Any] = {
    "version": 1,
    "task": {"kind": "digits"},
    "encoding": {"kind": "dag"},
    "objectives": ["error", "params"],
    "strategy": {"kind": "nsga2", "population": 16, "generations": 12},
    "estimator": {"kind": "train", "epochs": 3},
}
CATALOGUE = 40
"""Different networks that a fabricated run shares out among its individuals."""


@dataclass(frozen=True)
class Made:
    """How a made-up run is: its recipe, so many individuals a generation, a share of failures with these reasons."""

    recipe: Mapping[str, Any]
    per_generation: int = 16
    generations: int = 12
    finished: int | None = None
    failures: Sequence[str] = ()
    failing: float = 0.0
    seed: int = 1


def write(folder: Path, made: Made) -> Path:
    """The run's folder."""
    for _ in growing(folder, made):
        pass
    return folder


def growing(folder: Path, made: Made) -> Iterator[int]:
    """Writes a run and pauses after each generation, telling its number; meanwhile the run is going on."""
    recipe = recipes.read({**made.recipe, "strategy": {**made.recipe["strategy"], "generations": made.generations}})
    with Store.create(folder, recipe.model_dump(mode="json"), ABOUT) as store:
        run = Run(store, recipe)
        for state, born, scored in _generations(run, made):
            store.lay(born)
            store.commit([Outcome(one) for one in scored])
            store.commit_generation(
                state, {**run.statistics(state, list(zip(born, scored, strict=True))), "seconds": 4}
            )
            yield state.generation
        if made.finished is None:
            store.event("finished", "made up")


def _generations(run: Run, made: Made) -> Iterator[tuple[State, list[Individual], list[Estimate]]]:
    """State after each generation, who was born in it, and their estimates."""
    rng, book = Random(made.seed), MarkBook()
    genomes = catalogue(run, rng, book)
    ids: list[int] = []
    front: dict[int, Estimate] = {}
    first = 0
    for generation in range(made.generations if made.finished is None else made.finished):
        born = [_born(id, genomes, ids, rng, generation) for id in range(first, first + made.per_generation)]
        scored = [_estimate(run, one, made, rng) for one in born]
        good = [one for one in [*front.values(), *scored] if one.status == "ok"]
        losses = [[o.loss(one.values[o.name]) for o in run.objectives] for one in good]
        front = {one.id: one for one, keep in zip(good, pareto.non_dominated(losses), strict=True) if keep}
        first += len(born)
        ids = [one.id for one in born]
        estimates = {one.id: one for one in scored} | front
        memory = {"reference": [2.0, *([1e6] * (len(run.objectives) - 1))]}
        yield State(generation + 1, first, tuple(born), estimates, tuple(sorted(front)), _species(born, generation),
                    book.close(), first, memory), born, scored  # fmt: skip


def catalogue(run: Run, rng: Random, book: MarkBook) -> list[Genome]:
    """Networks of the run's encoding, each made of the last by an edit."""
    genomes = [run.encoding.random(rng, book)]
    while len(genomes) < CATALOGUE:
        child = run.encoding.mutate(genomes[-1], rng, book)
        genomes.append(child[0] if child is not None and len(genomes) % 8 else run.encoding.random(rng, book))
    return genomes


def _born(id: int, genomes: Sequence[Genome], elders: Sequence[int], rng: Random, generation: int) -> Individual:
    parents = tuple(dict.fromkeys(rng.choices(elders, k=2))) if elders else ()
    edits = (Edit("add_layer", (0, 1), (id + 2,), {"op": "conv", "channels": 16}),) if elders else ()
    return Individual(id, genomes[id % len(genomes)], parents, edits, generation)


def _estimate(run: Run, one: Individual, made: Made, rng: Random) -> Estimate:
    if made.failures and rng.random() < made.failing:
        return Estimate.failed(one.id, made.failures[one.id % len(made.failures)], {"seconds": 0.1})
    size = 10 ** rng.uniform(2.5, 5)
    gain = 1 - 0.6 * one.birth / (made.generations + 1)
    error = min(0.95, 0.9 * gain * (300 / size) ** 0.35 * rng.uniform(1, 2.5) + 0.01)
    known = {"error": error, "params": float(round(size)), "flops": float(round(size * rng.uniform(20, 60)))}
    values = {o.name: known.get(o.name, 1 - error) for o in run.objectives}
    curve = [{"epoch": e, "loss": 2.5 * error + 1 / e, "valid_error": error + 0.2 / e - 0.2 / 3} for e in (1, 2, 3)]
    return Estimate(one.id, "ok", values, "", tuple(curve), {"seconds": 0.25, "epochs": 3, "samples": 3450})


def _species(born: Sequence[Individual], generation: int) -> tuple[Species, ...]:
    """Four species of changing sizes, their members by id."""
    weights = [1 + ((generation // 3 + k) % 4) * k for k in range(4)]
    cuts = [round(len(born) * sum(weights[:k]) / sum(weights)) for k in range(5)]
    parts = [born[a:b] for a, b in pairwise(cuts)]
    return tuple(
        Species(k + 1, part[0], tuple(one.id for one in part), 1, 0.5 / (k + 1), generation + 1)
        for k, part in enumerate(parts)
        if part
    )
