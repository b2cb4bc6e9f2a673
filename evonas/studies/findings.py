"""What a study found: of every arm on every task the best so far and the hypervolume, with means, deviations and ranks.

found = evonas.study("examples/studies/nasbench201.yaml")
found.table()                        # as `evonas study` prints it; found.summaries() has the exact values
found.plot.best("best.pdf")"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evonas.simulate import Simulator
from evonas.studies import Cell, Study, statistics
from evonas.studies.looks import Looks, Values, allowed
from evonas.studies.statistics import EXACT, Z95, Curve, Scale, Summary, What

if TYPE_CHECKING:
    import pandas

    from evonas.report.studies import Plot
    from evonas.report.tables import Table

At = tuple[str, str]
"""An arm on a task."""


class Findings:
    """A study's results as users see them; `failures` says which arms could not be carried out, and why."""

    def __init__(
        self,
        study: Study,
        folder: Path,
        looks: Mapping[At, Looks],
        searched: Mapping[At, Simulator | None],
        failures: Sequence[str] = (),
    ) -> None:
        self.study, self.folder, self.failures = study, folder, tuple(failures)
        self._looks, self._searched = looks, searched
        self.cells = {(one.arm, one.task): one for one in study.cells if (one.arm, one.task) in looks}

    def __repr__(self) -> str:
        return f"<evonas study {self.study.name!r}: {len(self.cells)} arms on tasks, {self.searches:,} searches>"

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.name

    @property
    def searches(self) -> int:
        """Searches that were done."""
        return sum(len(self._looks[at].seeds) for at in self.cells)

    @property
    def evaluations(self) -> int:
        """Estimates of all of them."""
        return sum(int(self._looks[at].evaluations.sum()) for at in self.cells)

    @property
    def failed(self) -> int:
        """Estimates that failed."""
        return sum(int(self._looks[at].failed.sum()) for at in self.cells)

    @property
    def wanted(self) -> int:
        """Searches that the study asks for."""
        return sum(len(one.seeds) for one in self.study.cells)

    @property
    def plot(self) -> Plot:
        """The study's figures, as matplotlib Figures and as files: `found.plot.best("best.pdf")`."""
        from evonas.report.studies import Plot

        return Plot(self)

    def table(self) -> Table:
        """A row for every arm on every task, for people."""
        from evonas.report import studies

        return studies.table(self)

    def to_frame(self) -> pandas.DataFrame:
        """`summaries()` as a pandas DataFrame (needs the extra evonas[data])."""
        from evonas.report import studies

        return studies.frame(self)

    # reading --------------------------------------------------------------------------------------------------

    def tasks(self) -> list[str]:
        """Tasks that something is known of, in the study's order."""
        known = {task for _, task in self.cells}
        return [task for task in self.study.tasks if task in known]

    def arms(self, task: str) -> list[Cell]:
        """Arms that something is known of on a task, in the study's order."""
        return [cell for cell in self.cells.values() if cell.task == task]

    def whats(self, task: str) -> list[What]:
        """What is told of a task: the metric, the hypervolume, or both."""
        cells = self.arms(task)
        metric: list[What] = ["metric"] if any(cell.metric for cell in cells) else []
        fronts: list[What] = ["hypervolume"] if any(len(cell.objectives) > 1 for cell in cells) else []
        return [*metric, *fronts]

    def looks(self, cell: Cell) -> Looks:
        """What is remembered of a cell's searches."""
        return self._looks[cell.arm, cell.task]

    def values(self, cell: Cell, what: What, points: Sequence[float]) -> Values:
        """The metric or the hypervolume of a cell's searches at some moments, (searches, points)."""
        looks, over = self.looks(cell), cell.report.over
        if what == "hypervolume":
            scale = self.scale(cell.task)
            return statistics.hypervolumes(looks, scale, over, points)
        return statistics.best_so_far(looks, self._metric(cell), over, points)

    def points(self, task: str) -> list[float]:
        """The moments that are told of a task: those of `report.at`, else the end of its longest search."""
        cells = self.arms(task)
        told = [cell.report.at for cell in cells if cell.report.at]
        if told:
            return sorted({point for at in told for point in at})
        return [max(float(self.looks(cell).spent(cell.report.over).max()) for cell in cells)]

    def summaries(self) -> list[Summary]:
        """Every arm on every task at every moment, and random search in closed form where there is one."""
        return [one for task in self.tasks() for what in self.whats(task) for one in self._summaries(task, what)]

    def _summaries(self, task: str, what: What) -> Iterable[Summary]:
        points = self.points(task)
        cells = [cell for cell in self.arms(task) if what == "hypervolume" or cell.metric]
        values = {cell.arm: self.values(cell, what, points) for cell in cells}
        for i, point in enumerate(points):
            there = {arm: column[np.isfinite(column[:, i]), i] for arm, column in values.items()}
            tests = self._tests(there, what, cells[0].direction)
            for exact in self.exact(task, [point]) if what == "metric" else ():
                baseline = there.get(self.study.baseline or "", np.zeros(0))
                yield _closed(cells[0], point, exact, baseline)
            for cell in cells:
                if len(there[cell.arm]):
                    yield _summary(cell, what, self.named(cell, what), point, there[cell.arm], tests.get(cell.arm))

    def _tests(self, values: Mapping[str, Values], what: What, direction: str) -> dict[str, tuple[float, float, float]]:
        """p, adjusted p, and the probability of being better than the baseline, of every other arm."""
        theirs = values.get(self.study.baseline or "")
        if theirs is None or not len(theirs):
            return {}
        less = what == "metric" and direction == "min"
        found = {
            arm: statistics.rank_test(ours, theirs)
            for arm, ours in values.items()
            if arm != self.study.baseline and len(ours)
        }
        adjusted = statistics.holm({arm: p for arm, (p, _) in found.items()})
        return {arm: (p, adjusted[arm], 1 - wins if less else wins) for arm, (p, wins) in found.items()}

    def named(self, cell: Cell, what: What) -> str:
        """What a value is called."""
        if what == "metric":
            return cell.metric or ""
        return "share of the front" if self.scale(cell.task).whole != 1.0 else "hypervolume"

    def curves(self, task: str, what: What, points: int = 120) -> list[Curve]:
        """The course of every arm's searches on a task, at evenly spaced moments."""
        made = []
        for cell in self.arms(task):
            if what == "metric" and not cell.metric:
                continue
            looks = self.looks(cell)
            end = float(looks.spent(cell.report.over).max())
            x = np.linspace(0, end, points + 1)[1:]
            if cell.report.over == "evaluations":
                x = np.unique(np.ceil(x))
            made.append(_curve(cell.arm, x, self.values(cell, what, x.tolist())))
        return made

    # random search in closed form -------------------------------------------------------------------------------

    def exact(self, task: str, points: Sequence[float]) -> list[tuple[float, float]]:
        """Mean and deviation of the reported metric of random search over the whole table, at each moment; nothing
        where there is no closed form: several objectives, constraints, trials, another axis, rows that are missing."""
        for cell in self.arms(task):
            searched = self._searched[cell.arm, cell.task]
            if searched is None or not _closable(cell, searched):
                continue
            losses = searched.losses()[:, 0]
            values = self._told(cell, searched)
            if np.isfinite(values[np.isfinite(losses)]).all():
                means, deviations = statistics.random_search(losses, values, points)
                return list(zip(means.tolist(), deviations.tolist(), strict=True))
        return []

    # scales -----------------------------------------------------------------------------------------------------

    def _metric(self, cell: Cell) -> Values:
        """The reported value of each kept look, (looks,)."""
        looks, searched = self.looks(cell), self._searched[cell.arm, cell.task]
        names = [one.name for one in cell.objectives]
        if cell.metric in names and cell.metric not in getattr(cell.recipe.task, "report", {}):
            at = names.index(cell.metric or "")
            return looks.losses[:, at] * cell.objectives[at].loss(1.0)
        assert searched is not None
        return self._told(cell, searched)[looks.rows]

    def _told(self, cell: Cell, searched: Simulator) -> Values:
        """The reported value of every row of a table."""
        told = searched.recipe.task.report
        if cell.metric in told:
            return searched.report(cell.metric or "")
        (at,) = [i for i, one in enumerate(cell.objectives) if one.name == cell.metric]
        return searched.losses()[:, at] * cell.objectives[at].loss(1.0)

    def scale(self, task: str) -> Scale:
        """The scale of a task's hypervolumes: one for all arms."""
        if task not in self._scales:
            self._scales[task] = self._scale(task)
        return self._scales[task]

    @cached_property
    def _scales(self) -> dict[str, Scale]:
        return {}

    def _scale(self, task: str) -> Scale:
        cells = [cell for cell in self.arms(task) if len(cell.objectives) > 1]
        cell = cells[0]
        told, goals = cell.hypervolume, cell.objectives
        signs = [one.loss(1.0) for one in goals]
        plain = statistics.plain_scale(signs, [one.name in told.log10 for one in goals])
        truth = self._truth(cell)
        if isinstance(told.reference, Mapping):
            made = statistics.below_values(plain, [one.loss(told.reference[one.name]) for one in goals])
        elif truth is not None:
            made = statistics.below_front(plain, truth, told.reference or 1.1)
        else:
            made = statistics.below_worst(plain, np.concatenate([self.looks(one).losses for one in cells]))
        return made if truth is None or not told.exact else statistics.shared(made, truth)

    def _truth(self, cell: Cell) -> Values | None:
        """The losses of all rows of a cell's table that keep the constraints, (rows, objectives)."""
        searched = self._searched[cell.arm, cell.task]
        if searched is None:
            return None
        losses = searched.losses()
        return losses[allowed(losses, cell.objectives)]


def _closable(cell: Cell, searched: Simulator) -> bool:
    """Whether random search over a cell's table has a closed form."""
    goals = cell.objectives
    space: Any = searched.space
    return (
        len(goals) == 1
        and goals[0].max is None
        and goals[0].min is None
        and cell.report.over == "evaluations"
        and not searched.draws
        and space.size == len(searched.table.task.keys)
        and getattr(space.settings, "edges", "") != "two"
    )


def _summary(
    cell: Cell, what: What, name: str, at: float, values: Values, test: tuple[float, float, float] | None
) -> Summary:
    n = len(values)
    deviation = float(values.std(ddof=1)) if n > 1 else 0.0
    return Summary(
        cell.task, cell.arm, what, name, cell.report.over, at, n, float(values.mean()), deviation,
        deviation / float(np.sqrt(n)), float(np.median(values)), *(test or (None, None, None)),
    )  # fmt: skip


def _closed(cell: Cell, at: float, exact: tuple[float, float], baseline: Values) -> Summary:
    mean, deviation = exact
    away = None
    if len(baseline) > 1 and deviation > 0:
        away = float(abs(baseline.mean() - mean) / (deviation / np.sqrt(len(baseline))))
    return Summary(
        cell.task, EXACT, "metric", cell.metric or "", cell.report.over, at, 0, mean, deviation, 0.0, away=away
    )


def _curve(arm: str, x: Values, values: Values) -> Curve:
    """Moments at which all searches have a value, with mean, interval and median."""
    there = np.isfinite(values).all(axis=0)
    x, values = x[there], values[:, there]
    n = len(values)
    deviation = values.std(axis=0, ddof=1) if n > 1 else np.zeros(len(x))
    return Curve(arm, x, values.mean(axis=0), Z95 * deviation / np.sqrt(n), np.median(values, axis=0), n)
