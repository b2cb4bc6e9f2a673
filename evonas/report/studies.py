"""Tables and figures of a study, and how far it is while it goes on. Nothing here prints; only figures' files are
written."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evonas.core import Json, RecipeError
from evonas.report.tables import Column, Table, duration, plain
from evonas.studies.statistics import Summary, What

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from evonas.studies.engine import StudyProgress
    from evonas.studies.findings import Findings

LEVEL = 0.05
"""Adjusted p values below this are told as a difference."""

_UNITS = {"evaluations": "", "epochs": " epochs", "seconds": " s"}


# ------------------------------------------------------------------------------------------------------------ tables


def table(found: Findings) -> Table:
    """A row for every arm on every task: the mean and deviation of what is told at every moment, the rank test at the
    last one; the best of each task is marked."""
    summaries = found.summaries()
    at: dict[tuple[What, str, str, float], list[Summary]] = {}
    for one in summaries:
        at.setdefault((one.what, one.name, one.over, one.at), []).append(one)
    moments = list(at)
    published = {(cell.task, cell.arm): cell.published for cell in found.cells.values()}
    several = len(found.study.tasks) > 1
    columns = [
        *([Column("task", "task", right=False)] if several else []),
        Column("arm", "arm", right=False),
        Column("n", "n"),
        *(Column(_key(*moment), _titled(*moment), _spread(at[moment])) for moment in moments),
        Column("test", f"against {found.study.baseline}", right=False),
        *([Column("published", "published", right=False)] if any(published.values()) else []),
    ]
    by_row: dict[tuple[str, str], dict[tuple[Any, ...], Summary]] = {}
    for one in summaries:
        by_row.setdefault((one.task, one.arm), {})[one.what, one.name, one.over, one.at] = one
    rows = [
        (
            *([task] if several else []), arm, _searches(list(told.values())),
            *(_pair(told.get(moment)) for moment in moments), _test(list(told.values())),
            *([published.get((task, arm), "")] if any(published.values()) else []),
        )
        for (task, arm), told in by_row.items()
    ]  # fmt: skip
    if found.study.baseline is None or not any(one.p is not None or one.away is not None for one in summaries):
        place = [column.key for column in columns].index("test")
        columns.pop(place)
        rows = [(*row[:place], *row[place + 1 :]) for row in rows]
    return Table(tuple(columns), tuple(rows), frozenset(_best(found, list(by_row), by_row)))


def long(found: Findings) -> Table:
    """A row for every arm on every task at every moment, with all that is known of it: for CSV and JSON."""
    keys = [field.name for field in dataclasses.fields(Summary)]
    rows = tuple(tuple(getattr(one, key) for key in keys) for one in found.summaries())
    return Table(tuple(Column(key, key) for key in keys), rows)


def frame(found: Findings) -> pandas.DataFrame:
    """`long` as a pandas DataFrame. RecipeError without the extra evonas[data]."""
    from evonas.report import frames

    return frames.of_table(long(found))


def _key(what: What, name: str, over: str, at: float) -> str:
    return f"{name.replace(' ', '_')}_at_{at:g}_{over}"


def _titled(what: What, name: str, over: str, at: float) -> str:
    count = f"{at:,.0f}" if at == int(at) else f"{at:g}"
    return f"{name} at {count}{_UNITS[over]}"


def _pair(one: Summary | None) -> Json:
    return None if one is None else [one.mean, one.deviation]


def _spread(summaries: Sequence[Summary]) -> Callable[[Sequence[float]], str]:
    """How the means and deviations of a column are shown: with as many decimals as suit most of the deviations."""
    deviations = sorted(one.deviation for one in summaries if one.deviation > 0)
    decimals = _decimals(deviations[len(deviations) // 2] if deviations else 0.0)
    return lambda pair: f"{pair[0]:.{decimals}f} ± {pair[1]:.{decimals}f}"


def _decimals(deviation: float) -> int:
    """Two figures of a deviation, but two decimals from 0.1 to 10."""
    if deviation <= 0:
        return 4
    return min(max(1 - math.floor(math.log10(deviation * 1.05)), 0), 8) + (0.95 <= deviation < 9.5)


def _searches(told: Sequence[Summary]) -> int | None:
    return max((one.n for one in told), default=0) or None


def _test(told: Sequence[Summary]) -> str:
    """The rank test of the last moment in words."""
    last = next((one for one in reversed(told) if one.p_holm is not None or one.away is not None), None)
    if last is None:
        return ""
    if last.away is not None:
        furthest = max(one.away for one in told if one.away is not None)
        return f"{furthest:.1f} standard errors apart"
    assert last.p_holm is not None and last.wins is not None
    chance = "p < 0.001" if last.p_holm < 0.001 else f"p = {last.p_holm:.2g}"
    if last.p_holm >= LEVEL:
        return f"no difference seen, {chance}"
    return f"{'better' if last.wins > 0.5 else 'worse'}, {chance}"


def _best(
    found: Findings,
    order: Sequence[tuple[str, str]],
    rows: Mapping[tuple[str, str], Mapping[tuple[Any, ...], Summary]],
) -> list[int]:
    """Positions of the rows with the best mean at the last moment of their task."""
    marked = []
    for task in found.tasks():
        cells = {cell.arm: cell for cell in found.arms(task)}
        last = {at: list(rows[at].values())[-1] for at in order if at[0] == task and at[1] in cells}
        if len(last) > 1:
            less = next(iter(last.values())).what == "metric" and next(iter(cells.values())).direction == "min"
            pick = min if less else max
            marked.append(order.index(pick(last, key=lambda at: last[at].mean)))
    return marked


def facts(found: Findings) -> list[tuple[str, str]]:
    """What stands above the table."""
    wanted, there = found.wanted, found.searches
    done = f"{there:,} searches" if there == wanted else f"{there:,} of {wanted:,} searches"
    failed = f", {found.failed:,} of them failed" if found.failed else ""
    tested = "two-sided Mann-Whitney U, p adjusted by Holm over the arms of a task"
    return [
        ("study", f"{found.name}, {done}, {found.evaluations:,} evaluations{failed}"),
        ("folder", str(found.folder)),
        *([("rank test", tested)] if found.study.baseline and len(found.study.arms) > 1 else []),
    ]


# ------------------------------------------------------------------------------------------------------------- plots


class Plot:
    """The figures of a study: every method returns the Figure and, with a `path`, writes it: its ending (.png, .svg,
    .pdf) says how. Raises RecipeError for another ending and for what the study cannot show, StorageError."""

    def __init__(self, found: Findings) -> None:
        self._found = found

    def best(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """The reported metric of the best so far, a panel a task: mean with its 95 % interval, the median dotted."""
        return self._drawn("metric", path)

    def hypervolume(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """The hypervolume of the fronts, a panel a task: mean with its 95 % interval, the median dotted."""
        return self._drawn("hypervolume", path)

    def _drawn(self, what: What, path: str | os.PathLike[str] | None) -> Figure:
        from evonas.report import figures

        drawn = _figure(self._found, what)
        if path is not None:
            figures.save(drawn, path)
        return drawn


def _figure(found: Findings, what: What) -> Figure:
    from evonas.report import comparison

    tasks = [task for task in found.tasks() if what in found.whats(task)]
    if not tasks:
        cure = "hypervolume needs two objectives or more" if what == "hypervolume" else "name a report.metric"
        raise RecipeError(f"{found.name} has no {what} to draw: {cure}")
    return comparison.draw([_panel(found, task, what) for task in tasks], _title(found, what))


def _title(found: Findings, what: What) -> str:
    return f"{found.name}: {'best so far' if what == 'metric' else 'hypervolume'}"


def _panel(found: Findings, task: str, what: What) -> Any:
    from evonas.report.comparison import Panel

    cells = found.arms(task)
    curves = found.curves(task, what)
    exact: tuple[Sequence[float], Sequence[float]] | None = None
    if what == "metric" and curves:
        x = max((curve.x.tolist() for curve in curves), key=len)
        told = found.exact(task, x)
        exact = (x, [mean for mean, _ in told]) if told else None
    name = found.named(cells[0], what)
    less = what == "metric" and cells[0].direction == "min"
    others = [arm for arm in found.study.arms if arm != found.study.baseline]
    return Panel(
        task or found.name, curves, f"{name}, {'lower' if less else 'higher'} is better", cells[0].report.over, less,
        found.study.baseline, {arm: i for i, arm in enumerate(others)}, exact,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- progress


def line(progress: StudyProgress) -> str:
    """How far a study is, in one line for logs and pipes."""
    at = progress.counts.get((progress.arm, progress.task))
    where = " on ".join(part for part in (progress.arm, progress.task) if part)
    parts = [
        f"{progress.done:,} of {progress.total:,} searches",
        *([f"{where}: {at[0]:,} of {at[1]:,}"] if at else []),
        duration(progress.seconds),
        *([f"about {duration(progress.eta)} left"] if progress.eta else []),
    ]
    return plain(", ".join(parts))


def panel(progress: StudyProgress) -> RenderableType:
    """A study as it is now: all searches, time left, and how many of each arm are done on each task."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table as Grid
    from rich.text import Text

    left = f", about {duration(progress.eta)} left" if progress.eta else ""
    bar = Grid.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(progress.total, progress.done, width=30),
        Text(f"{progress.done:,} of {progress.total:,} searches, {duration(progress.seconds)}{left}"),
    )
    arms = list(dict.fromkeys(arm for arm, _ in progress.counts))
    tasks = list(dict.fromkeys(task for _, task in progress.counts))
    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column("")
    for task in tasks:
        grid.add_column(Text(plain(task)), justify="right")
    for arm in arms:
        counts = [progress.counts.get((arm, task)) for task in tasks]
        grid.add_row(Text(plain(arm)), *map(_count, counts))
    parts: list[RenderableType] = [bar, Text(), grid]
    if progress.run is not None:
        trained = f"{progress.arm} {progress.task} seed {progress.seed}: generation {progress.run.generation} of "
        parts += [Text(), Text(plain(f"{trained}{progress.run.generations}, batch {progress.run.done} of "
                                     f"{progress.run.total}"), style="dim")]  # fmt: skip
    return Panel(Group(*parts), title=Text(plain(f"evonas study {progress.study}")), title_align="left", width=78)


def _count(one: tuple[int, int] | None) -> RenderableType:
    from rich.text import Text

    if one is None:
        return Text("")
    done, wanted = one
    return Text(f"{done:,}/{wanted:,}", style="green" if done == wanted else "" if done else "dim")
