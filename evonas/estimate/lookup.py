"""The estimator that trains nothing: cheap objectives from the plan, or values that the user's own function knows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from evonas import encoding, estimate, imported, objective, task
from evonas.core import Estimate, Job, Outcome
from evonas.estimate import LookupSettings


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
                values.update(self._known(genome, plan))
            cost = {"seconds": time.monotonic() - began}
            return Outcome(Estimate(job.id, "ok", values, cost=cost).checked(self._described))
        except (Exception, SystemExit) as error:
            return Outcome(Estimate.failed(job.id, estimate.told(error), {"seconds": time.monotonic() - began}))
