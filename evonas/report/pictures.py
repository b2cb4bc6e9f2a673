"""A run's figures, as `run.plot` offers them: matplotlib Figures, and PNG, SVG or PDF files where a path is given.

    run.plot.front("front.pdf")
    run.plot.lineage(run.knee()).savefig(...)

PDF files carry their fonts and SVG files keep their text; both are drawn as vectors."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from evonas.core import Objective, RecipeError
from evonas.report import drawing, figures, tables, views
from evonas.report.figures import Kin
from evonas.report.tables import plain

if TYPE_CHECKING:
    from evonas.results import Run

Path = str | os.PathLike[str]

_CELLS = (160, 100)
"""Points that share a cell of this grid are drawn once: more would only make the file large."""


class Plot:
    """The figures of one run. Every method returns the Figure and, with a `path`, writes it: its ending (.png, .svg,
    .pdf) says how. Raises RecipeError for another ending and for what the run cannot show, StorageError."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def front(self, path: Path | None = None, *, across: str | None = None, up: str | None = None) -> Figure:
        """Two objectives of every individual, the front strong and the knee marked; by default the second across and
        the first up. RecipeError where the run has one objective."""
        run = self._run
        if len(run.objectives) < 2:
            raise RecipeError(f"{run.name} has one objective, a front is drawn over two: see run.plot.history()")
        return _kept(front(run, views.front(run), across, up), path)

    def history(self, path: Path | None = None, *, objective: str | None = None) -> Figure:
        """One objective, by default the first, over evaluations: the best so far and every individual, or the mean of
        whole populations."""
        run = self._run
        chosen = tables.find(run.objectives, objective) if objective else run.objectives[0]
        rows = run.generations()
        best = _so_far(chosen, [(row["evaluations"], row["best"].get(chosen.name)) for row in rows])
        spread = [(row["evaluations"], row.get("spread", {}).get(chosen.name)) for row in rows]
        band = [(at, one["mean"], one["deviation"]) for at, one in spread if one]
        points = [] if band else self._values(chosen)
        title = plain(f"{run.name}: {chosen.name}")
        return _kept(figures.history(chosen, best, points=points, band=band, title=title), path)

    def hypervolume(self, path: Path | None = None, *, over: str = "evaluations") -> Figure:
        """The front's hypervolume over `evaluations`, `seconds` of the run, or training `samples`."""
        run = self._run
        return _kept(hypervolume(views.trend(run, run.everyone() if over == "samples" else None), over), path)

    def species(self, path: Path | None = None) -> Figure:
        """The species' sizes over the generations, as stacked bands."""
        seen = views.species(self._run)
        sizes = [dict(zip(seen.ids, map(int, column), strict=True)) for column in seen.sizes.T]
        return _kept(figures.species(sizes, title=plain(f"{self._run.name}: species")), path)

    def lineage(self, id: int, path: Path | None = None) -> Figure:
        """An individual's ancestors, with their first objective and size over the generations; below, the edits."""
        return _kept(lineage(self._run, views.lineage(self._run, id)), path)

    def curve(
        self, ids: int | Sequence[int], path: Path | None = None, *, metrics: Sequence[str] | None = None
    ) -> Figure:
        """The learning curves of one or more individuals; those with inherited weights begin at epoch 0, the error at
        birth. RecipeError where none was trained."""
        run = self._run
        several = [ids] if isinstance(ids, int) else list(ids)
        found = {one: run.estimate(run.individual(one).id) for one in several}
        curves = {f"individual {id}": list(one.curve) for id, one in found.items() if one is not None and one.curve}
        if not curves:
            raise RecipeError(f"{run.name}: {', '.join(map(str, several))} has no learning curve: it was not trained")
        # the rate follows from the recipe alone
        keys = {key: None for curve in curves.values() for point in curve for key in point}
        metrics = metrics or [key for key in keys if key not in ("epoch", "seconds", "lr")]
        return _kept(figures.learning_curves(curves, metrics, title=plain(f"{run.name}: learning")), path)

    def network(self, id: int, path: Path | None = None) -> Figure:
        """An individual's network: layers with shapes and parameters, or nodes and weighted links."""
        run = self._run
        title = plain(f"{run.name}, individual {id}")
        return _kept(drawing.draw(run.plan(id), run.genome(id), title=title), path)

    def _values(self, objective: Objective) -> list[tuple[float, float]]:
        """The objective's value of individuals, over the order in which they were born."""
        seen = views.front(self._run)
        column = seen.columns[objective.name]
        at, _ = views.thinned(np.arange(len(column), dtype=np.float64), column, _CELLS)
        return [(float(seen.ids[i]) + 1, float(column[i])) for i in at]


def front(run: Run, seen: views.Front, across: str | None = None, up: str | None = None) -> Figure:
    """Two objectives of everyone seen."""
    axes = _axes(run.objectives, across, up)
    title = plain(f"{run.name}: {len(seen.ids):,} networks")
    return figures.front(axes, _points(seen, axes), seen.fronts[-1] if seen.fronts else (), knee=seen.knee, title=title)


def hypervolume(trend: views.Trend, over: str) -> Figure:
    """A run's hypervolume over a cost. RecipeError for one that was not recorded."""
    costs = trend.over(over)
    if len(costs) and not costs.any():
        raise RecipeError(f"{trend.run} recorded no {over}: show its hypervolume over evaluations or seconds")
    curve = list(zip(costs.tolist(), trend.hypervolume.tolist(), strict=True))
    title = plain(f"{trend.run}: hypervolume")
    return figures.hypervolume({trend.run: curve}, over=views.COSTS[over], title=title)


def lineage(run: Run, seen: views.Lineage) -> Figure:
    """A family's first objective and size over the generations."""
    shown, family = kindred(run, seen)
    return figures.lineage(shown, family, seen.id, title=plain(f"{run.name}: lineage of individual {seen.id}"))


def _axes(objectives: Sequence[Objective], across: str | None, up: str | None) -> tuple[Objective, Objective]:
    """What lies across and up: the second objective and the first, unless one is named."""
    named = [tables.find(objectives, name) if name else None for name in (across, up)]
    free = [one for one in objectives if one not in named]
    vertical = named[1] or free.pop(0)
    return named[0] or free[0], vertical


def _points(seen: views.Front, axes: tuple[Objective, Objective]) -> dict[int, tuple[float, float]]:
    """Values by id, of everyone on the front and of the others one for each place in the figure."""
    x, y = (seen.columns[one.name] for one in axes)
    places = [np.log(values) if views.spans_orders(values) else values for values in (x, y)]
    at, _ = views.thinned(places[0], places[1], _CELLS)
    if seen.fronts:
        at = np.union1d(at, seen.positions(seen.fronts[-1]))
    return {int(seen.ids[i]): (float(x[i]), float(y[i])) for i in at}


def kindred(run: Run, seen: views.Lineage) -> tuple[list[Objective], dict[int, Kin]]:
    """What a lineage shows: the first objective and a size, and by id each ancestor's values."""
    first = run.objectives[0]
    size = next((one for one in run.objectives[1:] if one.cheap), Objective("params", cheap=True))
    shown = [first] if first.name == size.name else [first, size]
    family = {}
    for one in seen.members:
        values = {"params": run.plan(one.id).params, **one.values} if size.name == "params" else one.values
        edits = "; ".join(map(str, one.edits))
        at_birth = _finite(one.cost.get("birth_error")) if first.name == "error" else None
        found = tuple(_finite(values.get(objective.name)) for objective in shown)
        family[one.id] = Kin(one.born, one.parents, found, at_birth, plain(edits))
    return shown, family


def _so_far(objective: Objective, values: Iterable[tuple[float, float | None]]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for at, value in values:
        if value is not None:
            found.append((at, min([value, *(one for _, one in found[-1:])], key=objective.loss)))
    return found


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _kept(figure: Figure, path: Path | None) -> Figure:
    if path is not None:
        figures.save(figure, path)
    return figure
