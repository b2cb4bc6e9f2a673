"""Figures of a search from plain data: fronts, species, hypervolume, lineages, learning curves; and figures as files.

Every function returns a matplotlib Figure of its own: no pyplot, no global state, so threads and servers may call them.
Colours are Okabe and Ito's, which colour-blind readers can tell apart."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from itertools import groupby
from pathlib import Path
from threading import RLock
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from evonas import pareto
from evonas.core import Objective, RecipeError, StorageError
from evonas.report.tables import plain

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B5B95", "#8C6D31")
INK, SOFT, FAINT, GRID = "#262A30", "#5B626C", "#9AA1AB", "#E6E8EC"

MARGIN = 0.3
"""Inches around a drawing."""

_LARGEST_PNG = 60_000
"""Agg draws at most 65,536 pixels a side; beyond this many a picture gets fewer dots per inch."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    # a run's or a genome's name is text, never a formula: '$' must not start one
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.dpi": 150,
    "savefig.facecolor": "white",
    # whole TrueType fonts: publishers refuse the Type 3 fonts that are matplotlib's default
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    # text stays text (small, searchable files), and the same figure gives the same bytes
    "svg.fonttype": "none",
    "svg.hashsalt": "evonas",
}


_SETTINGS = RLock()
_P = ParamSpec("_P")
_R = TypeVar("_R")


def styled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Runs a drawing function under STYLE; the settings are matplotlib's global ones, hence the lock, and restored."""

    @wraps(function)
    def inner(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _SETTINGS, matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return inner


# ------------------------------------------------------------------------------------------------------------ files

_DATELESS: Mapping[str, Mapping[str, None]] = {
    "svg": {"Date": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
}


@styled
def render(figure: Figure, format: str) -> bytes:
    """A figure as the bytes of an `svg`, `png` or `pdf` file; equal figures, equal bytes. RecipeError if unknown."""
    if format not in _DATELESS:
        raise RecipeError(f"no picture format {format!r}: end the file's name with .svg, .png or .pdf")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, metadata=dict(_DATELESS[format]))
    return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure; the ending of the name says the format. RecipeError, StorageError."""
    path = Path(path)
    content = render(figure, path.suffix.lstrip(".").lower())
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"cannot write the picture {path}: {error.strerror or error}") from None
    return path


# ---------------------------------------------------------------------------------------------------------- numbers


def short(value: float) -> str:
    """A number for a label: 1234567 -> `1.23M`, 0.0512 -> `0.0512`."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,600 rounds to 1M rather than to 1000k
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def _scale(axis: Any, values: Iterable[float]) -> None:
    """Gives an axis a logarithmic scale where the values ask for one, and labels such as 20k."""
    values = tuple(values)
    if values and min(values) > 0 and max(values) / min(values) > pareto.WIDE:
        axis._set_axes_scale("log")
        wide = max(values) / min(values) > 3000
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _label(objective: Objective) -> str:
    unit = f" ({objective.unit})" if objective.unit else ""
    better = "lower" if objective.direction == "min" else "higher"
    return plain(f"{objective.name}{unit}, {better} is better")


# ---------------------------------------------------------------------------------------------------------- figures


@styled
def front(
    axes: tuple[Objective, Objective],
    points: Mapping[int, tuple[float, float]],
    front: Collection[int],
    *,
    knee: int | None = None,
    title: str = "Pareto front",
) -> Figure:
    """A scatter of two objectives: every individual faint, the front strong with its staircase, the knee marked.

    `points` maps an individual's id to its two values (those not finite are left out), `front` holds the ids on the
    front, which may come from more objectives than two: the staircase joins those that are best in the two shown. Bad
    individuals for which an axis would be far longer lie at its end, as triangles."""
    seen = {id: point for id, point in points.items() if all(map(math.isfinite, point))}
    best = {id: seen[id] for id in front if id in seen}
    others = {id: point for id, point in seen.items() if id not in best}
    figure, ax = _figure(title)
    for i, axis in enumerate((ax.xaxis, ax.yaxis)):
        axis.set_label_text(_label(axes[i]))
        _scale(axis, _column(seen, i))
    if others:
        _scatter_others(ax, axes, best, others)
    if best:
        ax.plot(*_staircase(axes, list(best.values())), color=PALETTE[0], linewidth=1.6, alpha=0.65, zorder=3)
        ax.scatter(_column(best, 0), _column(best, 1), s=38, color=PALETTE[0], edgecolors="white", linewidths=0.8,
                   zorder=4, label="front")  # fmt: skip
    if knee is not None and knee in best:
        ax.scatter(*best[knee], s=150, marker="D", color=PALETTE[1], edgecolors="white", linewidths=1.2, zorder=5,
                   label=f"knee: individual {knee}")  # fmt: skip
    _limits(ax, axes)
    if seen:
        ax.legend(loc="best")
    else:
        empty(ax, "no individual has both values yet")
    return figure


@styled
def species(history: Sequence[Mapping[int, int]], *, title: str = "Species") -> Figure:
    """Species as stacked bands over the generations; the first of `history`, generation 1, maps ids to members."""
    figure, ax = _figure(title)
    ids = sorted({id for generation in history for id in generation})
    ax.set_xlabel("generation")
    ax.set_ylabel("members (individuals)")
    if not ids:
        return empty(ax, "no species yet")
    # generation g is a bar from g - 1/2 to g + 1/2, so that a run of one generation shows something too
    edges = [g + 0.5 for g in range(len(history) + 1)]
    below = [0] * len(history)
    total = max(sum(generation.values()) for generation in history)
    # over hundreds of generations white borders would hide small species
    line = min(0.6, 30 / len(history))
    for i, id in enumerate(ids):
        sizes = [generation.get(id, 0) for generation in history]
        above = [low + size for low, size in zip(below, sizes, strict=True)]
        born, died = _span(sizes)
        here = slice(born, died)
        ax.fill_between(edges[born : died + 1], [*below[here], below[died - 1]], [*above[here], above[died - 1]],
                        step="post", color=PALETTE[i % len(PALETTE)], alpha=0.82, linewidth=line,
                        edgecolor="white")  # fmt: skip
        _name_band(ax, str(id), sizes, below, above, total)
        below = above
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, max(below) or 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(False)
    return figure


@styled
def hypervolume(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    over: str = "evaluations (individuals)",
    title: str = "Hypervolume",
) -> Figure:
    """Hypervolume over evaluations or another cost that `over` names, one line a run: `curves[name]` holds (cost,
    hypervolume) pairs, all against one reference point."""
    figure, ax = _figure(title)
    ax.set_xlabel(over)
    ax.set_ylabel("hypervolume, higher is better")
    for i, (name, curve) in enumerate(curves.items()):
        xs, ys = [x for x, _ in curve], [y for _, y in curve]
        # the front holds what it has until the next estimate arrives
        ax.step(xs, ys, where="post", color=PALETTE[i % len(PALETTE)], linewidth=1.8, label=name,
                linestyle=_dash(i), marker="o" if len(xs) <= 30 else "", markersize=3.5)  # fmt: skip
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if not any(curves.values()):
        return empty(ax, "no generation finished yet")
    if len(curves) > 1:
        ax.legend(loc="lower right")
    return figure


@styled
def learning_curves(
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    metrics: Sequence[str] | None = None,
    *,
    title: str = "Learning curves",
) -> Figure:
    """Learning curves, a panel per metric and a line per individual: `curves[name]` has one mapping per epoch, and one
    of epoch 0 where it began with inherited weights.

    `metrics` are the keys to show, all but `epoch` and `seconds` unless told. Values not finite leave a gap."""
    if metrics is None:
        keys = {key: None for curve in curves.values() for point in curve for key in point}
        metrics = [key for key in keys if key not in ("epoch", "seconds")]
    panels = max(len(metrics), 1)
    figure = Figure(figsize=(1.2 + 4.4 * panels, 4.2), layout="constrained")
    panes = figure.subplots(1, panels, sharex=True, squeeze=False)[0]
    panes[0].set_title(plain(title))
    if not metrics:
        return empty(panes[0], "nothing trained yet")
    for ax, metric in zip(panes, metrics, strict=True):
        _learning_panel(ax, curves, metric)
    if 1 < len(curves) <= len(PALETTE):
        panes[-1].legend(loc="best")
    return figure


@styled
def history(
    objective: Objective,
    best: Sequence[tuple[float, float]],
    *,
    points: Sequence[tuple[float, float]] = (),
    band: Sequence[tuple[float, float, float]] = (),
    title: str = "Progress",
) -> Figure:
    """One objective over evaluations: the best of the front as a line, individuals as faint `points` and, of whole
    populations, a `band` of (evaluations, mean, deviation)."""
    figure, ax = _figure(title)
    ax.set_xlabel("evaluations (individuals)")
    ax.set_ylabel(_label(objective))
    if not best:
        return empty(ax, "no generation finished yet")
    if points:
        xs, ys = ([point[i] for point in points] for i in (0, 1))
        ax.scatter(xs, ys, s=14, color=FAINT, alpha=0.5, linewidths=0, label="individuals")
    if band:
        xs, means, deviations = ([row[i] for row in band] for i in (0, 1, 2))
        low, high = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
        ax.fill_between(xs, low, high, color=PALETTE[5], alpha=0.25, linewidth=0, label="mean ± deviation")
        ax.plot(xs, means, color=PALETTE[5], linewidth=1.2)
    ax.step([x for x, _ in best], [y for _, y in best], where="post", color=PALETTE[0], linewidth=1.8, markersize=3.5,
            marker="o" if len(best) <= 30 else "", label="best of the front")  # fmt: skip
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    _scale(ax.yaxis, [y for _, y in (*best, *points)])
    ax.legend(loc="best")
    return figure


@dataclass(frozen=True, slots=True)
class Kin:
    """One of a family: its generation of birth, its parents, a value per objective that is shown, None where it is not
    known, the error it was born with where weights were inherited, and the edits that made it in words."""

    birth: int
    parents: tuple[int, ...]
    values: tuple[float | None, ...]
    at_birth: float | None = None
    edits: str = ""

    @property
    def origin(self) -> str:
        """What made it, in one line."""
        made = " ".join(self.edits.split())
        return made or (f"child of {', '.join(map(str, self.parents))}" if self.parents else "a founder")


@styled
def lineage(objectives: Sequence[Objective], family: Mapping[int, Kin], id: int, *, title: str = "Lineage") -> Figure:
    """The ancestors of `id` from the founders on, a panel per objective over the generation of birth.

    The line of first parents is strong and numbered, the others are faint; below stands what made each of the line.
    Where children inherited weights, a hollow mark shows the error before any training."""
    line = _first_parents(family, id)
    told = [f"{one}: {family[one].origin}" for one in line]
    told = [text if len(text) <= _TOLD else f"{text[: _TOLD - 1]}…" for text in told]
    told = told if len(told) <= _TOLD_LINES else [*told[:2], f"… {len(told) - _TOLD_LINES + 1} more …",
                                                  *told[3 - _TOLD_LINES :]]  # fmt: skip
    panels, words = max(len(objectives), 1), 0.19 * len(told) + 0.75
    height = 0.35 + 2.3 * panels + words
    figure = Figure(figsize=(7.2, height))
    panes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    # in inches; a solver's layout of text below axes differs in its last bits from call to call
    figure.subplots_adjust(left=0.95 / 7.2, right=1 - 0.15 / 7.2, top=1 - 0.35 / height, bottom=words / height)
    panes[0].set_title(plain(title))
    for i, (ax, objective) in enumerate(zip(panes, objectives, strict=True)):
        _lineage_panel(ax, family, line, i)
        ax.set_ylabel(_label(objective))
    panes[-1].set_xlabel("generation of birth")
    panes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if any(kin.at_birth is not None for kin in family.values()):
        panes[0].legend(loc="best", fontsize=9)
    below = (words - 0.6) / height
    figure.text(0.25 / 7.2, below, "\n".join(told), fontsize=8, color=SOFT, va="top", linespacing=1.5)
    return figure


# --------------------------------------------------------------------------------------------------------- drawings


@lru_cache(maxsize=4096)
def breadth(words: str, size: float, bold: bool) -> float:
    """How wide a text is, in inches."""
    if not words.strip():
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=size)
    return float(text_to_path.get_text_width_height_descent(words, font, ismath=False)[0]) / 72


def headed(title: str, facts: Sequence[str], sides: tuple[float, float], bottom: float) -> tuple[Figure, Axes]:
    """A figure for a drawing whose data units are inches, y growing downwards, under a title and lines of facts.

    `sides` are the drawing's left and right end; a heading that is wider makes room for itself."""
    heading = [(plain(title), 11, True)] * bool(title) + [(fact, 9, False) for fact in facts]
    left, right = sides
    missing = max(0.0, max(breadth(*line) for line in heading) - (right - left))
    left, right = left - missing / 2, right + missing / 2
    width, height = right - left + 2 * MARGIN, bottom + MARGIN
    # patches are added as artists: the limits are known, and finding them again took half the time
    figure = Figure(figsize=(width, height), dpi=min(150, _LARGEST_PNG / max(width, height)))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(left - MARGIN, right + MARGIN)
    ax.set_ylim(height, 0)
    ax.set_axis_off()
    for i, (line, size, bold) in enumerate(heading):
        ax.text(left, MARGIN + 0.2 * i, line, fontsize=size, fontweight="bold" if bold else "normal",
                color=INK if bold else SOFT, va="top")  # fmt: skip
    return figure, ax


# ---------------------------------------------------------------------------------------------------------- details


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    ax = figure.add_subplot()
    ax.set_title(plain(title))
    return figure, ax


def empty(ax: Axes, why: str) -> Figure:
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color=FAINT)
    ax.set_xticks([])
    ax.set_yticks([])
    assert isinstance(ax.figure, Figure)
    return ax.figure


_CROWD, _LONGER = 0.9, 1.5
"""Share of the others, the best of them, that an axis shows in any case, and how much longer the rest may make it."""


def _scatter_others(
    ax: Axes,
    axes: tuple[Objective, Objective],
    best: Mapping[int, tuple[float, float]],
    others: Mapping[int, tuple[float, float]],
) -> None:
    """Those that are not on the front; far worse ones at the end of their axis."""
    style: dict[str, Any] = {"color": FAINT, "alpha": 0.45, "linewidths": 0}
    shown, far = dict(others), {}
    for i, axis, marker in ((0, ax.xaxis, "<>"), (1, ax.yaxis, "v^")):
        lower = axes[i].direction == "min"
        end = _end(_column(best, i), _column(others, i), lower, axis.get_scale() == "log")
        for id, point in shown.items():
            if end is not None and (point[i] > end if lower else point[i] < end):
                shown[id] = (end, point[1]) if i == 0 else (point[0], end)
                far[id] = marker[lower]
    near = {id: point for id, point in shown.items() if id not in far}
    ax.scatter(_column(near, 0), _column(near, 1), s=16, label="others", **style)
    for number, marker in enumerate(sorted(set(far.values()))):
        placed = {id: shown[id] for id, one in far.items() if one == marker}
        label = None if number else f"{len(far):,} beyond"
        ax.scatter(_column(placed, 0), _column(placed, 1), s=26, marker=marker, label=label, **style)


def _end(best: Sequence[float], others: Sequence[float], lower: bool, logarithmic: bool) -> float | None:
    """Where an axis ends that far worse values would squeeze, in the axis' own unit; None where none do."""
    sign = 1 if lower else -1
    good, rest = (sorted(sign * (math.log10(one) if logarithmic else one) for one in of) for of in (best, others))
    most = rest[int(_CROWD * (len(rest) - 1))]
    low, high = min([*good, rest[0]]), max([*good, most])
    if high == low or rest[-1] - low <= _LONGER * (high - low):
        return None
    end = sign * (high + 0.1 * (high - low))
    return 10**end if logarithmic else end


def _column(points: Mapping[int, tuple[float, float]], index: int) -> list[float]:
    return [point[index] for point in points.values()]


def _dash(index: int) -> str:
    """Lines beyond the palette's length repeat its colours in another dash, and so stay apart in print as well."""
    return ("-", "--", ":", "-.")[index // len(PALETTE) % 4]


def _staircase(
    axes: tuple[Objective, Objective], points: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """The border of what the points dominate, as a polyline from the best first objective to the best second one."""
    ordered = sorted(points, key=lambda point: (axes[0].loss(point[0]), axes[1].loss(point[1])))
    corners: list[tuple[float, float]] = []
    for x, y in ordered:
        if not corners:
            corners.append((x, y))
        elif axes[1].loss(y) < axes[1].loss(corners[-1][1]):
            corners += [(x, corners[-1][1]), (x, y)]
    return [x for x, _ in corners], [y for _, y in corners]


def _limits(ax: Axes, axes: tuple[Objective, Objective]) -> None:
    """Dashed lines at the constraints that lie within view; one far away would only squeeze the points."""
    for line, view, objective in ((ax.axvline, ax.get_xlim(), axes[0]), (ax.axhline, ax.get_ylim(), axes[1])):
        for bound in (objective.min, objective.max):
            if bound is not None and view[0] <= bound <= view[1]:
                line(bound, color=PALETTE[1], linestyle="--", linewidth=1, alpha=0.7, zorder=1)


_TOLD, _TOLD_LINES = 112, 14
"""Characters and lines of what is told below a lineage."""


def _first_parents(family: Mapping[int, Kin], id: int) -> list[int]:
    """From the founder to `id` by first parents, as far as they are known."""
    line = [id]
    while parents := [one for one in family[line[0]].parents[:1] if one in family]:
        line.insert(0, parents[0])
    return line


def _lineage_panel(ax: Axes, family: Mapping[int, Kin], line: Sequence[int], index: int) -> None:
    """One value along a family: every bond to a parent, and the first parents' line with its ids."""
    at = {id: (kin.birth, value) for id, kin in family.items() if (value := kin.values[index]) is not None}
    strong = set(line)
    for id, (x, y) in at.items():
        for parent in family[id].parents:
            if parent in at:
                on = id in strong and parent in strong and family[id].parents[0] == parent
                ax.plot((at[parent][0], x), (at[parent][1], y), color=PALETTE[0] if on else FAINT,
                        linewidth=2 if on else 0.9, alpha=1 if on else 0.55, zorder=3 if on else 2)  # fmt: skip
    others = {id: point for id, point in at.items() if id not in strong}
    main = {id: at[id] for id in line if id in at}
    ax.scatter(_column(others, 0), _column(others, 1), s=18, color=FAINT, linewidths=0, zorder=3)
    ax.scatter(_column(main, 0), _column(main, 1), s=46, color=PALETTE[0], edgecolors="white", zorder=5)
    _births(ax, family, line, index)
    for id in line[:: max(1, -(-len(line) // 16))]:
        if id in main:
            # away from the mark of its birth
            below = index == 0 and (family[id].at_birth or -math.inf) >= main[id][1]
            ax.annotate(str(id), main[id], (0, -14 if below else 7), textcoords="offset points", ha="center",
                        fontsize=8, zorder=6)  # fmt: skip
    ax.margins(y=0.2)
    values = [y for _, y in at.values()]
    _scale(ax.yaxis, values)


def _births(ax: Axes, family: Mapping[int, Kin], line: Sequence[int], index: int) -> None:
    """The error that each of the line was born with, and how training moved it; in the first panel only."""
    born = [(kin.birth, kin.at_birth, kin.values[0]) for id in line if (kin := family[id]).at_birth is not None]
    if index or not born:
        return
    for x, low, high in born:
        if high is not None and low is not None:
            ax.plot((x, x), (low, high), color=PALETTE[1], linewidth=1.2, zorder=4)
    ax.scatter([x for x, _, _ in born], [y for _, y, _ in born], s=34, facecolors="white", edgecolors=PALETTE[1],
               linewidths=1.4, zorder=4.5, label="before training")  # fmt: skip


_ACROSS = 6.2
"""Inches that a figure's axes are wide, about."""


def _span(sizes: Sequence[int]) -> tuple[int, int]:
    """The first position with a member, and the one behind the last."""
    alive = [i for i, size in enumerate(sizes) if size] or [0]
    return alive[0], alive[-1] + 1


def _name_band(
    ax: Axes, name: str, sizes: Sequence[int], below: Sequence[int], above: Sequence[int], total: int
) -> None:
    """Writes a species' id into its band, in the middle of the longest thick stretch; thin bands stay unnamed."""
    thick = [size >= 0.8 * max(sizes) for size in sizes]
    stretches = [list(run) for is_thick, run in groupby(range(len(sizes)), thick.__getitem__) if is_thick]
    longest = max(stretches, key=len)
    at = longest[len(longest) // 2]
    room = _ACROSS * len(longest) / len(sizes)
    if sizes[at] * 20 >= total and room >= breadth(name, 9, True):
        ax.text(at + 1, (below[at] + above[at]) / 2, name, ha="center", va="center", color="white", fontsize=9,
                fontweight="bold", clip_on=True)  # fmt: skip


def _learning_panel(ax: Axes, curves: Mapping[str, Sequence[Mapping[str, float]]], metric: str) -> None:
    crowd = len(curves) > len(PALETTE)
    shown: list[float] = []
    for i, (name, curve) in enumerate(curves.items()):
        xs = [point.get("epoch", number) for number, point in enumerate(curve, start=1)]
        ys = [point.get(metric, math.nan) for point in curve]
        finite = [y for y in ys if math.isfinite(y)]
        shown += finite
        ax.plot(xs, ys, color=PALETTE[i % len(PALETTE)], linewidth=1 if crowd else 1.8, alpha=0.45 if crowd else 1,
                marker="" if len(finite) > 1 else "o", label=name)  # fmt: skip
        if xs and xs[0] == 0 and math.isfinite(ys[0]) and not crowd:
            ax.scatter(0, ys[0], s=34, facecolors="white", edgecolors=PALETTE[i % len(PALETTE)], linewidths=1.4,
                       zorder=3)  # fmt: skip
    ax.set_xlabel("epoch (0: at birth, before training)" if _born_with(curves, metric) else "epoch")
    ax.set_ylabel(metric)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _scale(ax.yaxis, shown)


def _born_with(curves: Mapping[str, Sequence[Mapping[str, float]]], metric: str) -> bool:
    """Whether a metric is known of someone's birth, before any training."""
    return any(curve and curve[0].get("epoch") == 0 and metric in curve[0] for curve in curves.values())
