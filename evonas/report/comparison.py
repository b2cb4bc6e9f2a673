"""Figures that compare arms of a study: a panel a task, a line an arm, with intervals, the baseline in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from evonas.report.figures import INK, PALETTE, SOFT, empty, short, styled
from evonas.report.tables import plain
from evonas.studies.statistics import EXACT, Curve

FEW = 4
"""Arms up to which their medians are drawn as well."""

LATE = 0.15
"""Share of the search after which everything is in view: what comes before is far away and would hide the rest."""

_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))

_AXES = {"evaluations": "evaluations", "epochs": "epochs", "seconds": "seconds of training"}


@dataclass(frozen=True, eq=False)
class Panel:
    """One task: its curves, what they show (`label`) over what, whether less is better, the baseline, the other arms'
    numbers, by which they are coloured in all panels alike, and random search in closed form as (x, mean)."""

    title: str
    curves: Sequence[Curve]
    label: str
    over: str
    less: bool
    baseline: str | None
    order: Mapping[str, int]
    exact: tuple[Sequence[float], Sequence[float]] | None = None


@styled
def draw(panels: Sequence[Panel], title: str) -> Figure:
    """A figure of all panels in rows of two, each with a legend of its own from the best arm to the worst."""
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    longest = max((len(panel.curves) for panel in panels), default=1)
    height = max(3.6, 1.1 + 0.21 * (longest + 1))
    figure = Figure(figsize=((1.0 if columns > 1 else 2.0) + 6.2 * columns, 0.4 + height * rows), layout="constrained")
    panes = figure.subplots(rows, columns, squeeze=False).ravel()
    if len(panels) > 1 or panels[0].title != title.partition(":")[0]:
        figure.suptitle(plain(title), x=0.01, ha="left", fontweight="bold")
    for ax, panel in zip(panes, panels, strict=False):
        _panel(ax, panel)
    told = "mean with its 95 % interval" + ("; dotted: median" if longest <= FEW else "")
    figure.text(0.99, 0.0, told, ha="right", va="bottom", fontsize=8, color=SOFT)
    for ax in panes[len(panels) :]:
        ax.set_axis_off()
    if len(panels) == 1 and not figure.get_suptitle():
        panes[0].set_title(plain(title))
    return figure


def _panel(ax: Axes, panel: Panel) -> None:
    ax.set_title(plain(panel.title))
    ax.set_xlabel(_AXES[panel.over])
    ax.set_ylabel(plain(panel.label))
    curves = [curve for curve in panel.curves if len(curve.x)]
    if not curves:
        empty(ax, "no search has a value yet")
        return
    medians = len(curves) <= FEW
    for curve in sorted(curves, key=lambda one: one.arm != panel.baseline):
        _line(ax, curve, panel, medians)
    if panel.exact is not None:
        ax.plot(*panel.exact, color=INK, linewidth=1.2, linestyle=(0, (5, 1.5, 1, 1.5)), label=EXACT, zorder=6)
    _view(ax, curves, medians)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=panel.over == "evaluations"))
    _legend(ax, curves, panel.less)


def _line(ax: Axes, curve: Curve, panel: Panel, medians: bool) -> None:
    """Mean, interval and, where there is room for it, the median."""
    base = curve.arm == panel.baseline
    at = panel.order.get(curve.arm, 0)
    color = SOFT if base else PALETTE[at % len(PALETTE)]
    dash = "-" if base else _DASHES[at // len(PALETTE) % len(_DASHES)]
    ax.fill_between(curve.x, curve.mean - curve.half, curve.mean + curve.half, color=color, alpha=0.16, linewidth=0,
                    zorder=2)  # fmt: skip
    ax.plot(curve.x, curve.mean, color=color, linestyle=dash, linewidth=2.2 if base else 1.7, label=plain(curve.arm),
            zorder=3 if base else 4)  # fmt: skip
    if medians:
        ax.plot(curve.x, curve.median, color=color, linestyle=(0, (1, 1.6)), linewidth=1.1, alpha=0.8, zorder=3)


def _view(ax: Axes, curves: Sequence[Curve], medians: bool) -> None:
    """Limits that show what happens after the first LATE of the search."""
    end = max(float(curve.x[-1]) for curve in curves)
    lines = [(curve.x, line) for curve in curves for line in ((curve.mean, curve.median) if medians else (curve.mean,))]
    late = np.concatenate([line[x >= LATE * end] for x, line in lines])
    room = 0.06 * (np.ptp(late) or abs(late[0]) or 1.0)
    ax.set_ylim(late.min() - room, late.max() + room)
    ax.set_xlim(0, end)


def _legend(ax: Axes, curves: Sequence[Curve], less: bool) -> None:
    """Names beside the panel in the order in which the lines end."""
    last = {plain(curve.arm): float(curve.mean[-1]) for curve in curves}
    handles, labels = ax.get_legend_handles_labels()
    named = sorted(zip(handles, labels, strict=True), key=lambda one: _rank(last, one[1], less))
    ax.legend(*zip(*named, strict=True), loc="upper left", bbox_to_anchor=(1.01, 1.02), fontsize=8.5,
              handlelength=2.6, borderaxespad=0, labelspacing=0.35, labelcolor=INK)  # fmt: skip


def _rank(last: Mapping[str, float], label: str, less: bool) -> tuple[bool, float]:
    value = last.get(label)
    return value is None, 0.0 if value is None else value if less else -value
