"""The estimator of whole generations of direct genomes: packed into one program, played or run over the rows at once,
and scored in arrays; one individual costs microseconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evonas import encoding, estimate, native, objective, task
from evonas.cohort import Cohort, Scores
from evonas.core import Estimate, Job, Outcome, RecipeError, generator
from evonas.encoding.population import Population
from evonas.estimate import FineTune, PopulationSettings
from evonas.objective import Measure
from evonas.phenotype.population import Programs, activate, pack
from evonas.task.data import Array, Data, Played

Reals = NDArray[np.float64]

CHUNK = 1 << 22
"""Outputs at a time: 16 MB, so that a population of 100,000 over many rows needs no more memory than a small one."""

IMMENSE = 1e100
"""The largest size of an objective: what is told of it, such as its spread, still is a number."""


class PopulationEstimator:
    """Scores a cohort of direct genomes at once. `final` measures on the test rows, or by the task's own test."""

    def __init__(self, recipe: Mapping[str, Any], folder: Path | None = None, final: bool = False) -> None:
        self._settings: PopulationSettings = estimate.read(
            {"population": PopulationSettings}, recipe["estimator"], "estimator"
        )
        self._task: Any = task.build(estimate.read(task.TABLE, recipe["task"], "task"))
        self._objectives = objective.parse(recipe["objectives"])
        shape = self._task.shape()
        estimate.check(self._settings, self._objectives, shape.input, shape.kind)
        space: Any = encoding.build(
            estimate.read(encoding.TABLE, recipe["encoding"], "encoding", encoding.ImportedEncoding),
            shape.input,
            shape.outputs,
        )
        if not callable(getattr(space, "population", None)):
            kind = recipe["encoding"].get("kind")
            raise RecipeError(f"encoding {kind!r} has no networks to pack for 'population': set encoding.kind: neat")
        if self._settings.fine_tune is not None and not space.settings.feed_forward:
            raise RecipeError(
                "fine_tune needs networks without cycles: set encoding.feed_forward: true, or leave it out"
            )
        if self._settings.device == "cuda":
            _refuse_absent_gpu()
        self._encoding = space
        self._inputs, self._outputs = math.prod(shape.input), shape.outputs
        self._seed, self._final = int(recipe["seed"]), final
        self._threads = native.cores() if self._settings.threads == "auto" else self._settings.threads
        self._plays = callable(getattr(self._task, "rollout", None))
        if not self._plays:
            self._rows  # noqa: B018 - data that do not fit show here, not in every generation

    # ------------------------------------------------------------------------------------------------------- scoring

    def score(self, cohort: Cohort, seed: int) -> tuple[Cohort, Scores]:
        """Scores a whole generation; the cohort differs only where Lamarckian tuning changed its genes.

        `seed` is the generation's. Raises EvonasError where the task itself is wrong; what one network does wrong is
        its own failure."""
        began = time.monotonic()
        genomes: Population = self._encoding.population(cohort.genomes)
        self._refuse_misfit(genomes)
        tuned = self._tuned(genomes, seed)
        measured = self._measured(tuned, seed)
        columns = self._columns(tuned, measured)
        cost = {"seconds": (time.monotonic() - began) / max(1, len(cohort))}
        scores = Scores(cohort.ids, columns, {**self._immense(columns), **measured.failed}, cost)
        inherited = tuned is not genomes and self._tuning is not None and self._tuning.inherit == "lamarckian"
        return (replace(cohort, genomes=tuned) if inherited else cohort), scores

    def estimate(self, job: Job) -> Outcome:
        """The outcome of one job, for `evonas test` and for pools that know no populations."""
        began = time.monotonic()
        try:
            genome = job.born or self._encoding.from_json(job.genome)
            genomes: Population = self._encoding.population([genome])
            self._refuse_misfit(genomes)
            # what Lamarckian tuning gained is in the genes already
            learns = not self._final or (self._tuning is not None and self._tuning.inherit == "baldwinian")
            tuned = self._tuned(genomes, job.seed) if learns else genomes
            measured = self._measured(tuned, job.seed)
            columns = self._columns(tuned, measured)
        except (Exception, SystemExit) as error:
            return Outcome(Estimate.failed(job.id, estimate.told(error), {"seconds": time.monotonic() - began}))
        cost = {"seconds": time.monotonic() - began}
        if failed := {**self._immense(columns), **measured.failed}:
            return Outcome(Estimate.failed(job.id, failed[0], cost))
        values = {name: float(column[0]) for name, column in columns.items() if not np.isnan(column[0])}
        described = [objective.described(one) for one in self._objectives]
        return Outcome(Estimate(job.id, "ok", values, cost=cost).checked(described))

    def close(self) -> None:
        """Ends what the task may have started, such as processes of environments."""
        if callable(close := getattr(self._task, "close", None)):
            close()

    def _measured(self, genomes: Population, seed: int) -> Played:
        if not self._plays:
            return self._on_rows(genomes)
        programs = pack(genomes, threads=self._threads)
        played = self._task.test(programs, seed) if self._final else self._task.rollout(programs, seed, self._threads)
        for name, column in played.items():
            if np.shape(column) != (len(genomes),):
                cure = f"give one number for each of {len(genomes)} networks"
                raise RecipeError(f"the task's value {name!r} has shape {np.shape(column)}: {cure}")
        return Played(played, getattr(played, "failed", {}))

    def _refuse_misfit(self, genomes: Population) -> None:
        if (genomes.inputs, genomes.outputs) != (self._inputs, self._outputs):
            raise RecipeError(
                f"genomes of {genomes.inputs} inputs and {genomes.outputs} outputs do not fit the task, which has "
                f"{self._inputs} and {self._outputs}: start from genomes made for it"
            )

    # ---------------------------------------------------------------------------------------------------------- rows

    @cached_property
    def _rows(self) -> Rows:
        data: Data = self._task.load(self._seed)
        rows = Rows.of(data, self._task.load_test(self._seed) if self._final else None)
        limit = self._settings.rows
        if limit is not None and limit < len(rows.x) and not self._final:
            kept = np.sort(generator(self._seed, "rows").permutation(len(rows.x))[:limit])
            rows = replace(rows, x=rows.x[kept], y=rows.y[kept])
        if self._settings.fitness == "accuracy" and not rows.sided:
            raise RecipeError("fitness: accuracy is for classes or targets of 0 and 1: set inverse_loss")
        return rows

    def _on_rows(self, genomes: Population) -> Played:
        """Values over the rows, in chunks of networks."""
        rows = self._rows
        step = max(1, CHUNK // (len(rows.x) * rows.outputs))
        spans = [np.arange(a, min(a + step, len(genomes))) for a in range(0, len(genomes), step)]
        parts = [self._values(pack(genomes, span, self._threads)) for span in spans]
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        wrong = np.flatnonzero(~np.isfinite(values["loss"]))
        return Played(values, {int(at): "its outputs are not finite" for at in wrong})

    def _values(self, programs: Programs) -> dict[str, Reals]:
        kernel, device = self._engine
        outputs = activate(programs, self._rows.x, self._threads, kernel, self._settings.activations, device)
        with np.errstate(all="ignore"):  # what is not finite becomes a failure
            return measures(outputs.astype(np.float64), self._rows, self._settings.fitness)

    @property
    def _engine(self) -> tuple[Literal["auto", "c", "numba", "torch"], str]:
        """The kernel and torch's device."""
        if self._settings.device == "cuda":
            return "torch", "cuda"
        return self._settings.kernel, "cpu"

    # -------------------------------------------------------------------------------------------------------- tuning

    @property
    def _tuning(self) -> FineTune | None:
        return self._settings.fine_tune

    def _tuned(self, genomes: Population, seed: int) -> Population:
        """The genomes after gradient descent on the training rows, where the recipe says so."""
        tuning = self._tuning
        if tuning is None:
            return genomes
        rows = self._rows
        from evonas.phenotype.tuning import fit

        kernel, device = self._engine
        tuned, _ = fit(
            genomes,
            pack(genomes, threads=self._threads),
            rows.x_train,
            rows.y_train,
            steps=tuning.steps,
            batch=tuning.batch,
            lr=tuning.lr,
            optimizer=tuning.optimizer,
            loss="cross_entropy" if rows.classes else "mse",
            seed=seed,
            threads=self._threads,
            kernel="auto" if kernel == "numba" else kernel,
            device=device,
        )
        return tuned

    # ------------------------------------------------------------------------------------------------- by objectives

    def _columns(self, genomes: Population, measured: Played) -> dict[str, Reals]:
        """What was measured, the genomes' sizes, and both under the names that the recipe's objectives have."""
        columns = {name: np.asarray(column, dtype=np.float64) for name, column in measured.items()}
        for name, size in genomes.sizes().items():
            columns.setdefault(name, size.astype(np.float64))
        for one in objective.sources(self._objectives):
            if one.name not in columns and one.kind in columns:
                columns[one.name] = columns[one.kind]
            elif one.name not in columns and objective.is_cheap(one):
                columns[one.name] = self._of_plans(genomes, one)
            elif one.name not in columns:
                raise _unmeasured(one.name, list(measured))
        columns |= self._scalars(columns)
        if self._final:  # a test changes no size: only those that the recipe asks for
            asked = {*measured, *(one.name for one in self._objectives)}
            return {name: column for name, column in columns.items() if name in asked}
        return columns

    def _scalars(self, columns: Mapping[str, Reals]) -> dict[str, Reals]:
        """The scalar objectives, which their parts are columns of."""
        scalars = [one for one in self._objectives if one.of]
        if not scalars:
            return {}
        parts = {part.name: columns[part.name].tolist() for one in scalars for part in one.of}
        rows = [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
        made = [objective.combined(row, scalars) for row in rows]
        return {one.name: np.array([row[one.name] for row in made], dtype=np.float64) for one in scalars}

    def _immense(self, columns: Mapping[str, Reals]) -> dict[int, str]:
        """Who has an objective of a size that sums and products of it would overflow."""
        wrong: dict[int, str] = {}
        for one in self._objectives:
            column = columns[one.name]
            for at in np.flatnonzero(np.isfinite(column) & (np.abs(column) > IMMENSE)):
                wrong[int(at)] = f"objective {one.name!r} is {column[at]:g}, and {IMMENSE:g} is the most"
        return wrong

    def _of_plans(self, genomes: Population, one: Measure) -> Reals:
        """A size that only a decoded genome tells, one by one."""
        plans = map(self._encoding.decode, genomes)
        sizes = [objective.cheap_values(plan, self._objectives)[one.name] for plan in plans]
        return np.array(sizes, dtype=np.float64)


def _unmeasured(name: str, measured: Sequence[str]) -> RecipeError:
    found = ", ".join(measured) or "nothing"
    cure = f"let it measure {name}, or set objectives: [{{name: {measured[0] if measured else '...'}, kind: score}}]"
    return RecipeError(f"objective {name!r} is not what the task measures, which is {found}: {cure}")


def _refuse_absent_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise RecipeError("estimator.device is 'cuda', and torch finds no GPU here: set it to auto or cpu")


# ------------------------------------------------------------------------------------------------------ rows, values


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as networks take them: x (n, inputs) float32, normalised; y int64 (n,) classes or float64 (n, outputs), of a
    regression standardised, whose `spread` (outputs,) brings errors back to the targets' own units. `sided`: whether
    outputs are right or wrong, by class or by the side of 0.5."""

    x: Array
    y: Array
    x_train: Array
    y_train: Array
    outputs: int
    classes: bool
    sided: bool
    spread: Reals

    @staticmethod
    def of(data: Data, test: tuple[Array, Array] | None) -> Rows:
        x, y = (data.x_valid, data.y_valid) if test is None else test
        classes = data.shape.kind == "classification"
        binary = not classes and bool(np.isin(data.y_train, (0, 1)).all())
        raw = binary and not np.any(data.target_mean) and bool(np.all(data.target_std == 1))
        spread = data.target_std.astype(np.float64)

        def inputs(rows: Array) -> Array:
            axes = (-1, *[1] * (rows.ndim - 2))
            scaled = (rows.astype(np.float32) - data.mean.reshape(axes)) / data.std.reshape(axes)
            return np.ascontiguousarray(scaled.reshape(len(rows), -1), dtype=np.float32)

        def targets(rows: Array) -> Array:
            return rows if classes else (rows - data.target_mean.astype(np.float64)) / spread

        return Rows(
            inputs(x), targets(y), inputs(data.x_train), targets(data.y_train), data.shape.outputs, classes,
            classes or raw, spread,
        )  # fmt: skip


def measures(outputs: Reals, rows: Rows, fitness: str) -> dict[str, Reals]:
    """Values of networks by name, (n,) each, from their outputs (n, rows, k): fitness, loss, error and, where outputs
    are right or wrong, accuracy."""
    wanted = np.eye(rows.outputs)[rows.y] if rows.classes else rows.y
    error = outputs - wanted
    values = {"loss": _cross_entropy(outputs, rows.y)} if rows.classes else _in_units(error, rows.spread)
    if rows.sided:
        values["accuracy"] = _hits(outputs, rows)
    if rows.classes:
        values["error"] = 1.0 - values["accuracy"]
    return {"fitness": _FITNESS[fitness](error, values), **values}


def _in_units(error: Reals, spread: Reals) -> dict[str, Reals]:
    """Mean squared error in the targets' own units, which is both loss and error of a regression."""
    loss = np.square(error * spread).mean(axis=(1, 2))
    return {"loss": loss, "error": loss}


def _hits(outputs: Reals, rows: Rows) -> Reals:
    """Share of the rows that are right: the largest output is the class, or all lie on their target's side of 0.5."""
    sides = outputs.argmax(axis=2) == rows.y if rows.classes else ((outputs > 0.5) == (rows.y > 0.5)).all(axis=2)
    hits: Reals = sides.mean(axis=1)
    return hits


def _cross_entropy(outputs: Reals, classes: Array) -> Reals:
    """Mean cross-entropy of the softmax of the outputs."""
    highest = outputs.max(axis=2, keepdims=True)
    total = np.log(np.exp(outputs - highest).sum(axis=2)) + highest[:, :, 0]
    loss: Reals = (total - outputs[:, np.arange(len(classes)), classes]).mean(axis=1)
    return loss


def _squared_error(error: Reals, _: Mapping[str, Reals]) -> Reals:
    left: Reals = error[0].size - np.square(error).sum(axis=(1, 2))
    return left


def _paper(error: Reals, _: Mapping[str, Reals]) -> Reals:
    """Squared only while positive, so that a network cannot win by being far off."""
    left: Reals = np.maximum(error[0].size - np.abs(error).sum(axis=(1, 2)), 0.0)
    return left * left


def _inverse_loss(error: Reals, values: Mapping[str, Reals]) -> Reals:
    return 1.0 / (1.0 + values["loss"])


_FITNESS: Mapping[str, Callable[[Reals, Mapping[str, Reals]], Reals]] = {
    "squared_error": _squared_error,
    "inverse_loss": _inverse_loss,
    "accuracy": lambda _, values: values["accuracy"],
    "paper": _paper,
}
