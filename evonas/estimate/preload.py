"""What the server that worker processes are forked from imports and builds once, so that a worker starts in some
milliseconds: torch with what it loads late, the estimators, and the checked settings."""

from __future__ import annotations

import gc

import psutil  # noqa: F401

from evonas import encoding, estimate, task
from evonas.core import Settings
from evonas.estimate import lookup, train, worker  # noqa: F401
from evonas.objective import ObjectiveSettings

SECTIONS: list[type[Settings]] = [estimate.FinalSettings, ObjectiveSettings]
SECTIONS += [*encoding.TABLE.values(), *estimate.TABLE.values(), *task.TABLE.values()]
for section in SECTIONS:
    section.model_rebuild()
gc.freeze()  # a collection in a worker would copy every page that it shares with the server
