"""The live view of a run: a panel on a terminal, a line per generation elsewhere. Progress in, rich renderables out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evonas.core import Objective
from evonas.report.progress import Progress
from evonas.report.tables import duration, number, plain, sparkline


def line(progress: Progress) -> str:
    """A generation in one line, for logs and pipes."""
    parts = [
        f"generation {progress.generation}/{progress.generations}",
        f"{progress.evaluations} evaluated by {progress.workers} worker{'s' * (progress.workers != 1)}",
        *([f"{progress.failures} failed{_last(progress.reason)}"] if progress.failures else []),
        *(f"{name} {number(value)}" for name, value in progress.best.items()),
        *([f"hypervolume {number(progress.hypervolume)}"] if progress.hypervolume is not None else []),
        f"front {len(progress.front)}",
        f"{progress.species} species",
        duration(progress.seconds),
        *([f"about {duration(progress.eta)} left"] if progress.eta else []),
    ]
    return plain(", ".join(parts))


def _last(reason: str) -> str:
    """Why the last one failed, cut short for a line."""
    return f" (the last: {reason[:80]}{'…' * (len(reason) > 80)})" if reason else ""


def training_line(progress: Progress) -> str:
    """How many final trainings or measurements are done, in one line."""
    left = f", about {duration(progress.eta)} left" if progress.eta else ""
    share = f" ({progress.share:.0%} of the work)" if progress.done < progress.total else ""
    return f"tested: {progress.done} of {progress.total}{share}, {duration(progress.seconds)}{left}"


class View:
    """A run as it is now: its newest message, and the time that passed since then."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._at = 0.0
        self._trend: list[float] = []

    def tell(self, progress: Progress) -> None:
        """Takes a message of the run."""
        if progress.kind == "generation" and progress.hypervolume is not None:
            self._trend.append(progress.hypervolume)
        self._progress, self._at = progress, time.monotonic()

    def panel(self) -> RenderableType:
        """The panel of this moment; nothing before the first message."""
        if self._progress is None:
            return Text()
        passed = time.monotonic() - self._at
        eta = self._progress.eta
        left = None if eta is None else max(eta - passed, 0.0)
        return panel(replace(self._progress, seconds=self._progress.seconds + passed, eta=left), self._trend)


def panel(progress: Progress, trend: Sequence[float] = ()) -> Panel:
    """The whole state of a run: generation, batch, time left, best values, hypervolume, species, workers, the front."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    for label, content in _facts(progress, trend):
        facts.add_row(label, content)
    parts: list[RenderableType] = [facts]
    picture = scatter(progress.front, progress.objectives)
    if picture:
        parts += [Text(), Text("\n".join(picture), style="cyan", no_wrap=True)]
    return Panel(Group(*parts), title=Text(plain(f"evonas run {progress.run}")), title_align="left", width=78)


def _facts(progress: Progress, trend: Sequence[float]) -> list[tuple[str, RenderableType]]:
    left = f", about {duration(progress.eta)} left" if progress.eta else ""
    failed = f", {progress.failures} failed" if progress.failures else ""
    why = [("last failure", Text(plain(progress.reason), overflow="ellipsis", no_wrap=True))] if progress.reason else []
    best = "  ".join(f"{plain(name)} {number(value)}" for name, value in progress.best.items())
    if progress.kind == "test":
        return [
            ("final training", _batch(progress)),
            ("work", Text(f"{progress.share:.0%}")),
            ("time", Text(f"{duration(progress.seconds)}{left}, {progress.workers} workers")),
        ]
    volume = "-" if progress.hypervolume is None else f"{number(progress.hypervolume)}  {sparkline(trend)}"
    return [
        ("generation", Text(f"{progress.generation} of {progress.generations}, {duration(progress.seconds)}{left}")),
        ("batch", _batch(progress)),
        ("evaluated", Text(f"{progress.evaluations}{failed}, by {progress.workers} workers")),
        *why,
        ("best", Text(best or "-")),
        ("hypervolume", Text(volume)),
        ("front", Text(f"{len(progress.front)} networks, {progress.species} species")),
    ]


def _batch(progress: Progress) -> RenderableType:
    if not progress.total:
        return Text("-")
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(progress.total, progress.done, width=30), Text(f"{progress.done} of {progress.total}"))
    return grid


def scatter(
    front: Sequence[Sequence[float]], objectives: Sequence[Objective], width: int = 46, height: int = 8
) -> list[str]:
    """The front over its first two objectives as lines of text; empty where there is nothing to compare."""
    if len(objectives) < 2 or len(front) < 2:
        return []
    down, across = _Axis([row[0] for row in front], height), _Axis([row[1] for row in front], width)
    cells = [[" "] * width for _ in range(height)]
    for row in front:
        cells[height - 1 - down.cell(row[0])][across.cell(row[1])] = "●"
    labels = [number(down.high), *[""] * (height - 2), number(down.low)]
    margin = max(len(label) for label in labels)
    lines = [f"{label:>{margin}} │{''.join(cell)}" for label, cell in zip(labels, cells, strict=True)]
    low, high = number(across.low), number(across.high)
    foot = f"{low}{high:>{max(width - len(low), len(high) + 1)}}"
    names = [plain(one.name) for one in objectives[:2]]
    return [names[0], *lines, f"{'':{margin}} └{'─' * width}", f"{'':{margin}}  {foot} {names[1]}"]


class _Axis:
    """Places values in cells, by their logarithm where they are positive and span more than a factor of 10."""

    def __init__(self, values: Sequence[float], cells: int) -> None:
        self.low, self.high, self.cells = min(values), max(values), cells
        self.log = self.low > 0 and self.high / self.low > 10

    def cell(self, value: float) -> int:
        low, high = self._place(self.low), self._place(self.high)
        share = (self._place(value) - low) / (high - low) if high > low else 0.0
        return min(int(share * self.cells), self.cells - 1)

    def _place(self, value: float) -> float:
        return math.log(value) if self.log else value
