"""The estimator that trains nothing: cheap objectives from the plan, values that the user's own function knows, or the
rows of a table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import isfinite
from typing import Any

from evonas import encoding, estimate, imported, objective, task
from evonas.core import DataError, Estimate, Job, Outcome, RecipeError
from evonas.estimate import LookupSettings
from evonas.task import TabularSettings


class LookupEstimator:
    """Values by decoding alone; some thousand estimates per second."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        settings: LookupSettings = estimate.read({"lookup": LookupSettings}, recipe["estimator"], "estimator")
        shape = task.build(estimate.read(task.TABLE, recipe["task"], "task")).shape()
        self._objectives = objective.parse(recipe["objectives"])
        estimate.check(settings, self._objectives, shape.input, shape.kind)
        self._described = [objective.described(one) for one in self._objectives]
        self._known = imported.load(settings.function) if settings.function else None
        space = estimate.read(encoding.TABLE, recipe["encoding"], "encoding", encoding.ImportedEncoding)
        self._encoding = encoding.build(space, shape.input, shape.outputs)

    def estimate(self, job: Job) -> Outcome:
        """The outcome of one job; what a user's function raises becomes a failed estimate."""
        began = time.monotonic()
        try:
            genome = job.born or self._encoding.from_json(job.genome)
            plan = self._encoding.decode(genome)
            values = objective.cheap_values(plan, self._objectives)
            if self._known is not None:
                values = objective.combined({**values, **self._known(genome, plan)}, self._objectives)
            cost = {"seconds": time.monotonic() - began}
            return Outcome(Estimate(job.id, "ok", values, cost=cost).checked(self._described))
        except (Exception, SystemExit) as error:
            return Outcome(Estimate.failed(job.id, estimate.told(error), {"seconds": time.monotonic() - began}))


class TableEstimator:
    """Rows of a table; the time that an estimate costs is the table's, too.

    `final` reads what the recipe reports of networks after the search. Raises RecipeError, DataError."""

    def __init__(self, recipe: Mapping[str, Any], final: bool = False) -> None:
        chosen: TabularSettings = estimate.read({"tabular": TabularSettings}, recipe["task"], "task")
        settings: LookupSettings = estimate.read({"lookup": LookupSettings}, recipe["estimator"], "estimator")
        if final and not chosen.report:
            raise RecipeError("the table has nothing to tell of networks after the search: name columns in task.report")
        solved = task.build(chosen)
        shape = solved.shape()
        space = estimate.read(encoding.TABLE, recipe["encoding"], "encoding", encoding.ImportedEncoding)
        self.encoding = encoding.build(space, shape.input, shape.outputs)
        self.table: Any = solved.bound(self.encoding)  # type: ignore[attr-defined]
        self.listed = () if final else objective.parse(recipe["objectives"])
        self.objectives = tuple(map(objective.described, self.listed))
        self._final, self._section = final, "report" if final else "metrics"
        self.names = list(chosen.report) if final else [one.name for one in objective.sources(self.listed)]
        self.epochs = self.table.epochs(settings.epochs)
        self.table.need(self._section, self.names, self.epochs)

    def estimate(self, job: Job) -> Outcome:
        """The outcome of one job; an architecture that the table lacks is a failed estimate."""
        try:
            genome = job.born or self.encoding.from_json(job.genome)
            return Outcome(self.look(job.id, genome, job.seed, job.fidelity)[1])
        except Exception as error:
            return Outcome(Estimate.failed(job.id, estimate.told(error), {"seconds": 0.0}))

    def look(self, id: int, genome: Any, seed: int, fidelity: Mapping[str, float]) -> tuple[int, Estimate]:
        """The row of a genome, -1 where there is none, and its estimate. Raises RecipeError for a strange fidelity."""
        table, wanted = self.table, fidelity.get("epochs")
        epochs = self.epochs if wanted is None else table.epochs(wanted)
        try:
            row = table.row(genome)
        except DataError as error:
            return -1, Estimate.failed(id, str(error), {"seconds": 0.0})
        cost = {"seconds": table.seconds(row, epochs), **({} if epochs is None else {"epochs": float(epochs)})}
        cost |= {f"fidelity_{key}": float(of) for key, of in fidelity.items()}
        values = table.values(self._section, self.names, row, epochs, seed)
        if self._final and (lost := [name for name, value in values.items() if not isfinite(value)]):
            return row, Estimate.failed(id, f"the table has no {lost[0]} for {genome.key[:8]}", cost)
        values = objective.combined(values, self.listed)
        return row, Estimate(id, "ok", values, cost=cost).checked(self.objectives)
