"""What the nursery's processes do: follow a search and tell, for every commit that has returned, that it has."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import psutil

import evonas
from evonas import cli
from evonas.report.progress import Progress


class Told:
    """Lines of progress in a file, each written at once: what a killed process said before stands there."""

    def __init__(self, file: str) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __call__(self, progress: Progress) -> None:
        os.write(self._file, f"{progress.kind} {progress.generation} {progress.evaluations}\n".encode())


def follow(recipe: dict[str, Any], folder: str, told: str, generations: int | None = None) -> int:
    """Starts a run, or goes on with it, to its recipe's end or to a new last generation."""
    path, tell = Path(folder), Told(told)
    if (path / "run.sqlite").exists():
        evonas.resume(path, generations=generations, observer=tell).close()
    else:
        evonas.start(recipe, name=path.name, runs=path.parent, observer=tell).close()
    return 0


def command(*arguments: str) -> int:
    """A command line."""
    return cli.call(list(arguments))


def measured(recipe: dict[str, Any], folder: str, file: str, every: int) -> int:
    """Follows a run and writes, as JSON, for every so many generations: evaluations, bytes of memory, open handles."""
    path, rows, process = Path(folder), list[tuple[int, int, int]](), psutil.Process()

    def look(progress: Progress) -> None:
        if progress.kind == "generation" and progress.generation % every == 0:
            gc.collect()
            rows.append((progress.evaluations, process.memory_info().rss, process.num_fds()))

    evonas.start(recipe, name=path.name, runs=path.parent, observer=look).close()
    Path(file).write_text(json.dumps(rows))
    return 0
