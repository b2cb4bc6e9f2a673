"""What a recipe will do, without training: the task's sizes, the first networks' sizes, and a reckoning of the cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from evonas import encoding, estimate, strategy, task
from evonas.estimate import PopulationSettings, TrainSettings
from evonas.recipe import Recipe, permit
from evonas.strategy.problem import begin

SAMPLE = 200
"""First networks that are drawn: enough for their range, quick for populations of thousands."""

CORE = 2.0e10
"""Floating-point operations that one CPU core does in a second of training on images."""

STEP = 1.0e-3
"""Seconds that one layer costs per training step whatever its size: launching its kernels forward and back."""

START = 0.3
"""Seconds that one estimate takes beside its training: its process, the data, the objectives."""


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest, middle and largest of some sizes."""

    low: float
    middle: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Range:
        return Range(min(values), median(values), max(values))


@dataclass(frozen=True, slots=True)
class Preview:
    """Shapes, rows, sizes of the first networks, and the cost of the whole search.

    `flops` are of one sample's forward pass. `samples` are those that all trainings together pass over; `work` is
    their floating-point operations, forward and back. `later_epochs` are those of children, fewer than `epochs` where
    they inherit weights. `seconds` is None where nothing is trained on a CPU."""

    input: tuple[int, ...]
    outputs: int
    kind: str
    rows: dict[str, int]
    params: Range
    flops: Range
    depth: Range
    drawn: int
    evaluations: int
    epochs: int
    later_epochs: int
    samples: int
    work: float
    workers: int
    seconds: float | None
    rungs: str = ""
    """Of strategies that look more and more closely, how closely: `1, 3, 9 epochs`."""


def preview(recipe: Recipe, runs: Path = Path("runs")) -> Preview:
    """Reads the task and draws the first generation. Raises RecipeError and DataError as a start of the run would.

    `runs` is where runs are found that the recipe begins from."""
    permit(recipe)
    solved = task.build(recipe.task)
    rows = {} if hasattr(solved, "rollout") else solved.sizes(recipe.seed)
    shape = solved.shape()
    estimate.check(recipe.estimator, recipe.objectives, shape.input, shape.kind)
    if isinstance(recipe.estimator, PopulationSettings):
        estimate.build(recipe.model_dump(mode="json"))  # refuses a missing GPU, and tuning what cannot be tuned
    plans = _first_plans(recipe, shape.input, shape.outputs, runs)
    evaluations, first = _evaluations(recipe), recipe.strategy.population
    epochs, later = _epochs(recipe)
    passes = _passes(recipe) or first * epochs + (evaluations - first) * later
    samples = round(rows.get("train", 0) * getattr(recipe.estimator, "share", 0.0)) * passes
    flops = Range.of([plan.flops for plan in plans])
    workers = _workers(recipe)
    # backward costs twice the forward pass
    work = 3.0 * flops.middle * samples
    return Preview(
        shape.input, shape.outputs, shape.kind, rows,
        Range.of([plan.params for plan in plans]), flops, Range.of([plan.depth for plan in plans]), len(plans),
        evaluations, epochs, later, samples, work, workers,
        _seconds(recipe, work, samples, median(plan.depth for plan in plans), evaluations, workers),
        _told_rungs(recipe),
    )  # fmt: skip


def _first_plans(recipe: Recipe, input: tuple[int, ...], outputs: int, runs: Path) -> list[Any]:
    from evonas import run

    space = encoding.build(recipe.encoding, input, outputs)
    founders = run.founders_of(recipe, space, runs)
    population = max(min(recipe.strategy.population, SAMPLE), len(founders))
    few = recipe.strategy.model_copy(update={"population": population})
    born, _ = strategy.build(few, run.problem(recipe, space, founders)).ask(begin())
    return [space.decode(one.genome) for one in born]


def _evaluations(recipe: Recipe) -> int:
    settings = recipe.strategy
    later: int = getattr(settings, "offspring", None) or settings.population
    counts = [count for count, _, _ in _rungs(recipe)]
    planned = sum(counts) or int(settings.population + (settings.generations - 1) * later)
    return min(planned, recipe.budget.evaluations or planned)


def _rungs(recipe: Recipe) -> list[tuple[int, float, float]]:
    """Of strategies with rungs, for every generation: candidates, resource, and that of the rung before where training
    goes on from there, else 0."""
    heirs = estimate.inherits(recipe.estimator)
    cycle = [
        (count, level, rungs[at - 1][1] if at and heirs else 0.0)
        for rungs in getattr(recipe.strategy, "brackets", ())
        for at, (count, level) in enumerate(rungs)
    ]
    return [cycle[i % len(cycle)] for i in range(recipe.strategy.generations)] if cycle else []


def _told_rungs(recipe: Recipe) -> str:
    levels = ", ".join(f"{level:g}" for level in getattr(recipe.strategy, "levels", ()))
    return f"{levels} {recipe.strategy.resource}" if levels else ""


def _passes(recipe: Recipe) -> int:
    """Passes over the training rows of strategies whose rungs are epochs; 0 of others."""
    if getattr(recipe.strategy, "resource", "") != "epochs":
        return 0
    return round(sum(count * (level - before) for count, level, before in _rungs(recipe)))


def _epochs(recipe: Recipe) -> tuple[int, int]:
    """Passes over the training rows from scratch and, without distillations, with inherited weights."""
    settings = recipe.estimator
    if not isinstance(settings, TrainSettings):
        passes = getattr(settings, "epochs", 0) or 0
        return passes, passes
    heirs = settings.inherit.epochs if estimate.inherits(settings) else None
    return settings.epochs, heirs or settings.epochs


def _workers(recipe: Recipe) -> int:
    workers = getattr(recipe.pool, "workers", 1)
    return (
        workers
        if isinstance(workers, int)
        else len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )


def _seconds(recipe: Recipe, work: float, samples: int, depth: float, evaluations: int, workers: int) -> float | None:
    settings = recipe.estimator
    if not isinstance(settings, TrainSettings) or settings.device not in ("auto", "cpu"):
        return None
    steps = samples / settings.batch_size
    return (work / CORE + steps * depth * STEP + evaluations * START) / workers
