"""How busy workers are where durations differ tenfold: the share of their time that went into estimates.

    python tests/benchmark/utilisation.py [workers] [estimates]

Estimates sleep for 0.05 to 0.5 s, so that any number of workers can be measured on few cores. The time to start the
workers counts against the share. Goal: at least 90 % with a window."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import evonas

SLEEPER = """
import time
import numpy as np
from evonas.core import Estimate, Outcome

class Sleeper:
    def __init__(self, recipe, folder):
        pass

    def estimate(self, job):
        draw = np.random.default_rng(job.seed)
        seconds = 0.05 * 10 ** draw.random()
        time.sleep(seconds)
        values = {"error": draw.random(), "params": draw.random()}
        return Outcome(Estimate(job.id, "ok", values, cost={"slept": seconds}))
"""
STRATEGIES: dict[str, dict[str, Any]] = {
    "regularized": {"population": 20, "sample": 5},
    "lemonade": {"population": 20, "proposals": 8, "offspring": 2},
}


def share(kind: str, window: int, workers: int, estimates: int, folder: Path) -> float:
    settings = STRATEGIES[kind]
    generations = 1 + (estimates - settings["population"]) // settings.get("offspring", 1)
    recipe = {
        "task": {"kind": "digits"},
        "objectives": ["error", "params"],
        "strategy": {"kind": kind, "generations": generations, "window": window, **settings},
        "estimator": {"kind": f"{folder / 'sleeper.py'}:Sleeper"},
        "pool": {"kind": "processes", "workers": workers},
    }
    first = time.monotonic()
    run = evonas.start(recipe, name=f"{kind}-{window}", runs=folder, allow_code=True)
    wall = time.monotonic() - first
    slept = sum(run.estimate(id).cost["slept"] for id in range(estimates))
    return slept / (wall * workers)


def main(workers: int = 4, estimates: int = 320) -> None:
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {workers} workers")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "sleeper.py").write_text(SLEEPER)
        for kind in STRATEGIES:
            for window in (1, 4, 16, 32):
                print(f"{kind:12} window {window:3}: {share(kind, window, workers, estimates, folder):.1%} busy")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
