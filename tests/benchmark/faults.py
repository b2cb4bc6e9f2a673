"""What safety costs: a process for each estimate, tiny estimates that share one, and readers while a run writes.

Prints ms per estimate of a stub that does nothing, and of a commit beside no reader and ten."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from evonas.core import Job
from evonas.pool import Processes, ProcessesSettings, drain
from evonas.store import Store
from tests.unit.test_store import ABOUT, RECIPE, advance

STUB = """
from evonas.core import Estimate, Outcome

class Stub:
    def __init__(self, recipe, folder): pass
    def estimate(self, job): return Outcome(Estimate(job.id, "ok", {"error": 0.5}))
"""
READER = """
import sys, time
from pathlib import Path
from evonas.store import Store

with Store.open(Path(sys.argv[1])) as store:
    print("up", flush=True)
    while True:
        store.generations(), store.front(), store.everyone()
        time.sleep(1.0)
"""
"""As a dashboard looks: once a second."""


def overhead(folder: Path, retire: float, count: int, workers: int) -> float:
    """Milliseconds per estimate, with processes that retire after so many seconds of work."""
    (folder / "stub.py").write_text(STUB)
    recipe = {"seed": 0, "task": {"kind": "iris"}, "estimator": {"kind": f"{folder}/stub.py:Stub"}}
    pool = Processes(ProcessesSettings(workers=workers), recipe, folder / "scratch")
    pool.RETIRE = retire  # type: ignore[misc]
    try:
        list(drain(pool, [Job(id, id, {}) for id in range(4)]))  # the server is up
        began = time.perf_counter()
        list(drain(pool, [Job(id, id, {}) for id in range(count)]))
        return 1e3 * (time.perf_counter() - began) / count
    finally:
        pool.close()


def commits(folder: Path, readers: int, count: int = 300) -> float:
    """The median of milliseconds that a small commit takes."""
    with Store.create(folder, RECIPE, ABOUT) as store:
        advance(store, 20)
        command = [sys.executable, "-c", READER, str(folder)]
        looking = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(readers)]
        for one in looking:
            assert one.stdout is not None
            assert one.stdout.readline() == b"up\n"
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            store.event("tick", "one commit")
            seconds.append(time.perf_counter() - began)
            time.sleep(0.01)
        for one in looking:
            one.kill()
            one.wait()
        return 1e3 * statistics.median(seconds)


def main() -> None:
    """Prints one line for each."""
    os.environ["EVONAS_ALLOW_CODE"] = "1"
    with tempfile.TemporaryDirectory() as place:
        for workers in (1, 2):
            fresh, shared = (overhead(Path(place), *at, workers) for at in ((0.0, 100), (1e9, 3000)))
            print(f"processes, {workers} workers: {fresh:.1f} ms with a fresh process each, {shared:.3f} ms grouped")
        alone, watched = commits(Path(place) / "alone", 0), commits(Path(place) / "watched", 10)
        print(f"commit: {alone:.2f} ms alone, {watched:.2f} ms with 10 readers ({watched / alone - 1:+.0%})")


if __name__ == "__main__":
    main()
