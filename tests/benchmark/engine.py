"""Individuals per CPU second through ask, store and tell on a free estimator, and memory over the generations.

    python tests/benchmark/engine.py [population] [generations]

Goal: 2,000 individuals a second at population 1,000 on one core; memory flat."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

import evonas
from evonas.pool import Serial
from evonas.store import Store
from evonas.strategy.nsga2 import Nsga2


class Clock:
    """Adds up the seconds that wrapped functions take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return whole(*arguments, **named)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began

        setattr(owner, name, timed)


def main(population: int = 1000, generations: int = 12) -> None:
    clock = Clock()
    for owner, names in ((Nsga2, ("ask", "tell")), (Store, ("lay", "commit", "commit_generation"))):
        for name in names:
            clock.wrap(owner, name)
    clock.wrap(Serial, "arrived")
    recipe = {
        "seed": 1,
        "task": {"kind": "digits"},
        "objectives": ["params", {"name": "flops", "direction": "max"}],
        "encoding": {"bounds": {"params": "100k", "flops": "10M"}},
        "strategy": {"kind": "nsga2", "population": population, "generations": generations},
        "estimator": {"kind": "lookup"},
        "pool": {"kind": "serial"},
    }
    memory: list[float] = []
    moments: list[float] = []

    def observer(progress: Any) -> None:
        if progress.kind in ("start", "generation"):
            moments.append(time.process_time())
            memory.append(psutil.Process(os.getpid()).memory_info().rss / 1e6)

    with tempfile.TemporaryDirectory() as folder, evonas.start(recipe, runs=Path(folder), observer=observer) as run:
        layers = [len(run.genome(row).layers) for row in run.store.front()]
    seconds = moments[-1] - moments[0]
    born = population * generations
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{born / seconds:.0f} individuals per CPU second ({born} in {seconds:.1f} s)")
    print(f"networks on the front have up to {max(layers) - 2} layers")
    for name, spent in clock.seconds.items():
        print(f"  {name:18} {1e6 * spent / born:7.0f} us per individual")
    print("memory after each generation, MB: " + " ".join(f"{value:.0f}" for value in memory))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
