"""How long a reader waits for the dashboard, in a real Chromium, beside what was set as goal.

python tests/benchmark/dashboard.py [tries]

Runs are made up and written through the store. Every figure counts from asking to the last part being drawn; `first` is
a server that has read nothing of the run yet, `again` the median of further visits. Seconds."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evonas.dashboard.parts import address
from tests import fabricated
from tests.browser.conftest import Page, browser
from tests.fabricated import Made

RUNS, GENERATIONS = 200, 100
PORT = 8765
"""One for all, so that the browser knows the scripts, as that of whoever has opened a dashboard before does."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The command itself, in a process of its own; its address."""
    command = [sys.executable, "-m", "evonas", "dashboard", str(folder), "--port", str(PORT)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    try:
        yield re.findall(r"http://\S+", process.stderr.readline())[0]
    finally:
        process.terminate()
        process.wait(30)


def waited(page: Page, act: Callable[[], object], arrived: Callable[[], object]) -> float:
    """Seconds from an act until something has arrived."""
    begin = time.perf_counter()
    act()
    page.until(arrived, seconds=120)
    return time.perf_counter() - begin


def rows(page: Page, count: int) -> Callable[[], bool]:
    return lambda: bool(page.script(f"return document.querySelectorAll('.runs tbody tr').length >= {count}"))


def front(page: Page) -> Callable[[], bool]:
    """Whether scatter, hypervolume and table are all there."""
    code = (
        "const drawn = id => { const p = document.querySelector(`#${id} .js-plotly-plot`);"
        " return p && p.querySelector('.scatterlayer .trace') };"
        "return !!(drawn('scatter') && drawn('hypervolume') && document.querySelector('#members table'))"
    )
    return lambda: bool(page.script(code))


def report(name: str, goal: float, first: float, again: list[float]) -> None:
    later = f"{statistics.median(again):8.2f}" if again else " " * 8
    reached = first < goal and (not again or statistics.median(again) < goal)
    print(f"{name:<44}{first:8.2f}{later}{goal:8.2f}   {'reached' if reached else 'MISSED'}", flush=True)


def acquainted(page: Page, place: Path) -> None:
    """Shows the browser every script, so that it keeps them compiled."""
    fabricated.write(place / "known" / "run", Made(fabricated.RECIPE, 16, 4))
    with served(place / "known") as base:
        page.base = base.rstrip("/")
        for _ in range(3):
            page.browser.get(page.base + address("run"))
            page.until(front(page), seconds=60)
            page.open(address("run", "individual", 1), "#network canvas")


def many_runs(page: Page, place: Path, tries: int) -> None:
    one = fabricated.write(place / "template", Made(fabricated.RECIPE, 16, 12))
    for i in range(RUNS):
        shutil.copytree(one, place / "runs" / f"run-{i:03}")
    with served(place / "runs") as base:
        page.base = base.rstrip("/")
        times = [waited(page, lambda: page.browser.get(base), rows(page, RUNS)) for _ in range(tries + 1)]
    report(f"first page, {RUNS} runs", 1.0, times[0], times[1:])


def large_front(page: Page, place: Path, individuals: int, goal: float, tries: int) -> None:
    fabricated.write(place / "large" / "run", Made(fabricated.RECIPE, individuals // GENERATIONS, GENERATIONS))
    with served(place / "large") as base:
        page.base = base.rstrip("/")
        path = page.base + address("run")
        times = [waited(page, lambda: page.browser.get(path), front(page)) for _ in range(tries + 1)]
        report(f"front, {individuals:,} individuals", goal, times[0], times[1:])
        clicks = [click(page, path) for _ in range(tries + 1)]
        report(f"click to individual, of {individuals:,}", 1.0, clicks[0], clicks[1:])
    shutil.rmtree(place / "large")


def click(page: Page, path: str) -> float:
    page.browser.get(path)
    page.until(front(page), seconds=60)
    x, y = page.point("scatter", "front", 3)
    page.point_at(x, y)
    drawn = "const n = document.querySelector('#network'); return !!(n && n._cyreg && n.querySelector('canvas'))"
    return waited(page, lambda: page.press(x, y), lambda: page.script(drawn))


def new_generation(page: Page, place: Path, tries: int, each: int) -> None:
    """From the commit of a generation to its front on the screen."""
    writing = fabricated.growing(place / "live" / "run", Made(fabricated.RECIPE, each, tries + 3))
    next(writing)
    with served(place / "live") as base:
        page.base = base.rstrip("/")
        page.browser.get(page.base + address("run"))
        page.until(front(page), seconds=60)
        times = []
        for generation in range(2, tries + 3):
            next(writing)
            count = generation * each
            times.append(waited(page, lambda: None, partial(shows, page, f"all {count:,}")))
    writing.close()
    report(f"a new generation of {each:,}", 3.0, times[0], times[1:])
    shutil.rmtree(place / "live")


def shows(page: Page, words: str) -> bool:
    code = "const p = document.querySelector('#scatter .js-plotly-plot'); return p.data[0].name"
    return bool(page.script(code) == words)


def main(tries: int) -> None:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("dash", "dash-cytoscape", "plotly"))
    with browser() as chromium, tempfile.TemporaryDirectory() as folder:
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}, "
              f"Chromium {chromium.capabilities['browserVersion']}")  # fmt: skip
        print(f"{'':<44}{'first':>8}{'again':>8}{'goal':>8}")
        page, place = Page(chromium, ""), Path(folder)
        acquainted(page, place)
        many_runs(page, place, tries)
        new_generation(page, place, tries, 100)
        large_front(page, place, 10_000, 2.0, tries)
        large_front(page, place, 100_000, 4.0, tries)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
