"""Interactive figures as plotly's JSON: plain mappings that the dashboard and the report hand to plotly.js.

A view from `views` and a theme go in, a figure comes out; plotly itself is not needed here. Arrays travel as base64.
Everything is drawn as SVG: plotly's WebGL traces compile code at run time, which a strict content security policy
forbids, and `views.cloud` makes them needless."""

from __future__ import annotations

import html
import math
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonas.report import views
from evonas.report.tables import plain
from evonas.report.views import Attainment, Axis, Distances, Front, Ints, Lineage, Reals, SpeciesHistory, Trend

Figure = dict[str, Any]
"""What plotly.js draws: `data`, `layout` and, of an animation, `frames`."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure: its ground, text in three strengths, the grid, one accent, one warm mark, and a palette."""

    name: str
    ground: str
    ink: str
    soft: str
    faint: str
    grid: str
    accent: str
    warm: str
    palette: tuple[str, ...]
    scale: tuple[str, ...]


LIGHT = Theme(
    "light", "#ffffff", "#1f2328", "#59636e", "#9aa3ad", "#e8ebef", "#0b66c2", "#c2410c",
    ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B5B95", "#8C6D31"),
    ("#ead9a8", "#e6a75f", "#d2694f", "#9c3f63", "#5c2d73", "#26215c"),
)  # fmt: skip
DARK = Theme(
    "dark", "#15181d", "#e6e9ed", "#a3acb8", "#6c7683", "#2a3038", "#58a6ff", "#ff9d57",
    ("#4BA3DB", "#F0834A", "#3CC29A", "#E39AC4", "#F2BE4F", "#8CCDF2", "#A897D6", "#C7A663"),
    ("#37305f", "#6b3f86", "#a8507f", "#dd6f63", "#f2a65a", "#f7e3a1"),
)  # fmt: skip
"""Okabe and Ito's hues, which colour-blind readers can tell apart; lighter on the dark ground."""
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}

CONFIG: dict[str, Any] = {
    "displaylogo": False, "responsive": True, "showSendToCloud": False, "plotlyServerURL": "",
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]], "doubleClick": "reset",
}  # fmt: skip
"""How plotly.js is called: no button sends data anywhere."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
FRAMES = 60
"""Most frames of an animation; of more generations some are passed over."""


# ---------------------------------------------------------------------------------------------------------- front


def front(
    view: Front,
    theme: Theme,
    across: str = "",
    up: str = "",
    colour: str = "",
    *,
    log: Collection[str] | None = None,
    generation: int | None = None,
    budget: Mapping[str, float] | None = None,
    window: Mapping[str, tuple[float, float]] | None = None,
    animated: bool = False,
) -> Figure:
    """A scatter of two values: everyone faint, the front strong with its staircase, knee and budget marked.

    `log` names the axes that are logarithmic, by default those whose values span orders of magnitude; `generation`
    shows the front as it was then; `window` is what of the axes is seen, by name; `animated` adds a frame for each
    generation, with buttons and a slider. Points carry their individual's id as `customdata[0]`."""
    default = view.default_axes()
    x, y = view.axis(across or default[0]), view.axis(up or default[1])
    scene = _Scene(view, theme, x, y, colour, generation)
    logs = {one.name for one in (x, y) if views.spans_orders(view.columns[one.name])} if log is None else set(log)
    if not len(view.ids):
        return empty("no individual has been measured yet", theme)
    data = [
        scene.crowd(logs, window or {}),
        scene.newborn(generation),
        scene.stairs(generation),
        scene.members(generation),
    ]
    layout = _layout(theme, x.label, y.label)
    _scale_axes(layout, view, (x, y), logs, window or {})
    data.append(scene.knee())
    layout["shapes"], layout["annotations"] = _limits(theme, (x, y), budget or {}, logs)
    layout["uirevision"] = f"{x.name} {y.name} {sorted(logs)}"
    layout["legend"] = {**_legend(theme), "itemsizing": "constant"}
    figure: Figure = {"data": data, "layout": layout}
    if animated and len(view.fronts) > 1:
        _animate(figure, scene, theme)
    return figure


@dataclass(frozen=True)
class _Scene:
    """A front's traces; each is made for a generation, so that frames are the same traces with other numbers."""

    view: Front
    theme: Theme
    x: Axis
    y: Axis
    colour: str
    generation: int | None

    def points(self, at: Ints) -> dict[str, Any]:
        """Where individuals lie, and as `customdata` their id, birth and third value, which hover and clicks read."""
        view = self.view
        held: list[list[Any]] = [view.ids[at].tolist(), view.born[at].tolist()]
        if self.colour:
            third = view.species if self.colour == views.SPECIES else view.columns[self.colour]
            held.append([_number(value) for value in third[at].tolist()])
        return {
            "x": packed(view.columns[self.x.name][at]),
            "y": packed(view.columns[self.y.name][at]),
            "customdata": [list(one) for one in zip(*held, strict=True)],
        }

    def crowd(self, logs: Collection[str], window: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
        """Everyone, one dot where many would hide each other."""
        at = np.flatnonzero(np.isfinite(self._values(self.x)) & np.isfinite(self._values(self.y)))
        for axis in (self.x, self.y):
            if axis.name in window:
                low, high = sorted(window[axis.name])
                values = self._values(axis)[at]
                at = at[(values >= low) & (values <= high)]
        if logs:
            for axis in (self.x, self.y):
                at = at[self._values(axis)[at] > 0] if axis.name in logs else at
        scaled = [np.log(self._values(a)[at]) if a.name in logs else self._values(a)[at] for a in (self.x, self.y)]
        first, count = views.cloud(scaled[0], scaled[1])
        single = len(first) == len(at)
        at = at[first]
        # a dot that stands for more is larger: 5 pixels for one, 8 for fifty
        size: Any = 5 if single else packed(5 + np.minimum(np.log10(count) * 1.8, 4).round(1))
        marker: dict[str, Any] = {"size": size, "line": {"width": 0}, "opacity": 0.45}
        marker |= self._coloured(at) or {"color": self.theme.faint}
        points = self.points(at)
        here = np.maximum(count - 1, 0)
        return {
            "type": "scatter", "mode": "markers", "name": f"all {len(self.view.ids):,}", "marker": marker, **points,
            "text": [f"<br>and {more:,} close by" if more else "" for more in here.tolist()] if here.any() else "",
            "hovertemplate": self._hover("%{text}"), "uid": "crowd",
        }  # fmt: skip

    def newborn(self, generation: int | None) -> dict[str, Any]:
        """Those born in a generation; nobody where none is chosen."""
        at = np.flatnonzero(self.view.born == generation - 1) if generation else np.zeros(0, dtype=np.int64)
        if len(at) > 400:
            at = at[views.cloud(self._values(self.x)[at], self._values(self.y)[at], 400)[0]]
        return {
            "type": "scatter", "mode": "markers", "name": f"born in {generation}" if generation else "born",
            "showlegend": bool(generation), **self.points(at), "hovertemplate": self._hover(), "uid": "newborn",
            "marker": {"size": 6, "color": self.theme.ink, "opacity": 0.7, "line": {"width": 0}},
        }  # fmt: skip

    def stairs(self, generation: int | None) -> dict[str, Any]:
        """The border of what the front dominates, or the best so far over the order of birth."""
        xs, ys = self._border(generation)
        return {
            "type": "scatter", "mode": "lines", "x": packed(xs), "y": packed(ys), "hoverinfo": "skip", "uid": "stairs",
            "showlegend": False, "line": {"color": self.theme.accent, "width": 1.6}, "opacity": 0.65, "name": "border",
        }  # fmt: skip

    def members(self, generation: int | None) -> dict[str, Any]:
        """The front's members."""
        at = self._front(generation)
        marker = {"size": 9, "color": self.theme.accent, "line": {"width": 1.2, "color": self.theme.ground}}
        if coloured := self._coloured(at):
            marker |= {**coloured, "showscale": False, "line": {"width": 1.6, "color": self.theme.ink}}
        name = f"front ({len(at)})" if generation is None else f"front after {generation} ({len(at)})"
        return {
            "type": "scatter", "mode": "markers", "name": name, "marker": marker, **self.points(at),
            "hovertemplate": self._hover(), "uid": "front",
        }  # fmt: skip

    def knee(self) -> dict[str, Any]:
        """The best trade-off of the newest front; a trace without points where there is none, or an older one shows."""
        shown = self.view.knee is not None and self.generation is None
        at = self.view.positions([self.view.knee] if self.view.knee is not None and shown else [])
        marker = {"size": 15, "symbol": "diamond-open", "color": self.theme.warm, "line": {"width": 2}}
        return {
            "type": "scatter",
            "mode": "markers",
            "name": f"knee: {self.view.knee}",
            "marker": marker,
            **self.points(at),
            "hovertemplate": self._hover(),
            "uid": "knee",
            "visible": bool(len(at)),
        }

    def _front(self, generation: int | None) -> Ints:
        fronts = self.view.fronts
        which = len(fronts) if generation is None else min(max(generation, 1), len(fronts))
        return self.view.positions(fronts[which - 1] if fronts else ())

    def _values(self, axis: Axis) -> Reals:
        return self.view.columns[axis.name]

    def _border(self, generation: int | None) -> tuple[Reals, Reals]:
        if self.x.name in (views.ORDER, views.BORN) and self.y.direction:
            until = len(self.view.ids) if generation is None else int(np.count_nonzero(self.view.born < generation))
            return _running_best(self._values(self.x)[:until], self.y.loss(self._values(self.y)[:until]), self.y)
        if not (self.x.direction and self.y.direction):
            return np.zeros(0), np.zeros(0)
        at = self._front(generation)
        return staircase(self._values(self.x)[at], self._values(self.y)[at], (self.x, self.y))

    def _coloured(self, at: Ints) -> dict[str, Any]:
        """A marker's colours by the third value; nothing without one."""
        if not self.colour:
            return {}
        if self.colour == views.SPECIES:
            palette = [self.theme.faint, *self.theme.palette]
            index = np.where(self.view.species[at] > 0, (self.view.species[at] - 1) % len(self.theme.palette) + 1, 0)
            return {"color": [palette[i] for i in index.tolist()]}
        values = self.view.columns[self.view.axis(self.colour).name]
        wide = views.spans_orders(values)
        shown = np.log10(values) if wide else values
        good = shown[np.isfinite(shown)]
        low, high = (float(good.min()), float(good.max())) if len(good) else (0.0, 1.0)
        steps = [[i / (len(self.theme.scale) - 1), colour] for i, colour in enumerate(self.theme.scale)]
        bar: dict[str, Any] = {
            "title": {"text": text(self.colour), "side": "right"},
            "thickness": 10,
            "outlinewidth": 0,
        }
        if wide:
            ticks = [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
            bar |= {"tickvals": [math.log10(tick) for tick in ticks], "ticktext": [short(tick) for tick in ticks]}
        return {
            "color": packed(shown[at]),
            "cmin": low,
            "cmax": high,
            "colorscale": steps,
            "showscale": True,
            "colorbar": bar,
        }

    def _hover(self, more: str = "") -> str:
        lines = ["<b>%{customdata[0]:d}</b>, born in %{customdata[1]:d}"]
        lines += [
            f"{text(name)} %{{{way}:.4~g}}"
            for name, way in ((self.x.name, "x"), (self.y.name, "y"))
            if name not in (views.ORDER, views.BORN)
        ]
        if self.colour:
            lines.append(f"{text(self.colour)} %{{customdata[2]:.4~g}}")
        return "<br>".join(lines) + more + "<extra></extra>"


def _running_best(order: Reals, losses: Reals, axis: Axis) -> tuple[Reals, Reals]:
    """Where the best so far improves, as a staircase that ends at the last."""
    if not len(losses):
        return losses, losses
    best = np.minimum.accumulate(losses)
    at = np.flatnonzero(np.r_[True, best[1:] < best[:-1]])
    xs, ys = order[at], axis.loss(best[at])
    return np.r_[np.repeat(xs, 2)[1:], order[-1]], np.repeat(ys, 2)


def staircase(x: Reals, y: Reals, axes: tuple[Axis, Axis]) -> tuple[Reals, Reals]:
    """The border of what points dominate, from the best across to the best up."""
    if not len(x):
        return x, y
    order = np.lexsort((axes[1].loss(y), axes[0].loss(x)))
    x, y = x[order], y[order]
    best = np.minimum.accumulate(axes[1].loss(y))
    keep = np.r_[True, best[1:] < best[:-1]]
    x, y = x[keep], y[keep]
    return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]


def _scale_axes(
    layout: Figure,
    view: Front,
    axes: tuple[Axis, Axis],
    logs: Collection[str],
    window: Mapping[str, tuple[float, float]],
) -> None:
    for key, axis in zip(("xaxis", "yaxis"), axes, strict=True):
        values = view.columns[axis.name]
        layout[key] |= scale(values, axis.name in logs)
        if axis.name in window:
            low, high = window[axis.name]
            layout[key] |= {"range": [math.log10(low), math.log10(high)] if axis.name in logs else [low, high]}


def _limits(
    theme: Theme, axes: tuple[Axis, Axis], budget: Mapping[str, float], logs: Collection[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Dashed lines at the recipe's constraints and the reader's own budget, with their values."""
    shapes, words = [], []
    for way, axis in zip("xy", axes, strict=True):
        marks = [(limit, theme.faint, "limit") for limit in axis.limits]
        marks += [(budget[axis.name], theme.warm, "budget")] if axis.name in budget else []
        other = "y" if way == "x" else "x"
        for value, colour, name in marks:
            if axis.name in logs and value <= 0:
                continue
            line = {"color": colour, "width": 1.2, "dash": "dash"}
            shapes.append({"type": "line", f"{way}0": value, f"{way}1": value, f"{other}0": 0, f"{other}1": 1,
                           f"{other}ref": "paper", f"{way}ref": way, "line": line, "layer": "below"})  # fmt: skip
            at = math.log10(value) if axis.name in logs else value
            words.append(
                {
                    way: at,
                    other: 1,
                    f"{way}ref": way,
                    f"{other}ref": "paper",
                    "showarrow": False,
                    "text": f"{name} {short(value)}",
                    "font": {"color": colour, "size": 11},
                    "xanchor": "left" if way == "x" else "right",
                    "yanchor": "top" if way == "x" else "bottom",
                    "xshift": 3 if way == "x" else 0,
                }
            )
    return shapes, words


def _animate(figure: Figure, scene: _Scene, theme: Theme) -> None:
    count = len(scene.view.fronts)
    chosen = sorted({round(1 + i * (count - 1) / (min(count, FRAMES) - 1)) for i in range(min(count, FRAMES))})
    figure["frames"] = [{"name": str(g), "traces": [1, 2, 3], "data": frame(scene, g)} for g in chosen]
    quick = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}, "transition": {"duration": 0}}
    play = {"fromcurrent": True, "frame": {"duration": 350, "redraw": False}, "transition": {"duration": 200}}
    buttons = [("play", [None, play]), ("pause", [[None], quick])]
    style = {"font": {"color": theme.soft, "size": 11}, "bordercolor": theme.grid, "bgcolor": theme.ground}
    figure["layout"]["margin"]["b"] = 110
    figure["layout"]["updatemenus"] = [
        {
            "type": "buttons",
            "direction": "left",
            "showactive": False,
            "x": 0,
            "y": 0,
            "xanchor": "left",
            "yanchor": "top",
            "pad": {"t": 58, "r": 8},
            **style,
            "buttons": [{"label": name, "method": "animate", "args": args} for name, args in buttons],
        }
    ]
    figure["layout"]["sliders"] = [{
        "active": len(chosen) - 1, "x": 0.16, "len": 0.84, "y": 0, "pad": {"t": 50}, **style, "tickcolor": theme.grid,
        "currentvalue": {"prefix": "generation ", "font": {"color": theme.soft, "size": 11}, "xanchor": "right"},
        "steps": [{"label": str(g), "method": "animate", "args": [[str(g)], quick]} for g in chosen],
    }]  # fmt: skip


def frame(scene: _Scene, generation: int) -> list[dict[str, Any]]:
    """The traces that change from generation to generation: the newborn, the border, the front."""
    made = [scene.newborn(generation), scene.stairs(generation), scene.members(generation)]
    return [{key: one[key] for key in ("x", "y", "customdata", "name", "marker") if key in one} for one in made]


# ------------------------------------------------------------------------------------------------------ hypervolume


def hypervolume(trends: Sequence[Trend], theme: Theme, over: str = "evaluations") -> Figure:
    """Hypervolume as a staircase, a line a run, over `evaluations`, `seconds` or `samples`."""
    if not any(len(one.hypervolume) for one in trends):
        return empty("no generation has finished yet", theme)
    layout = _layout(theme, views.COSTS.get(over, over), "hypervolume, higher is better")
    data = []
    for i, one in enumerate(trends):
        cost = one.over(over)
        head = f"<b>{text(one.run)}</b><br>" if len(trends) > 1 else ""
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(cost) <= 30 else "lines",
                "name": text(one.run),
                "x": packed(cost),
                "y": packed(one.hypervolume),
                "customdata": packed(one.generations.astype(float)),
                "line": {
                    "shape": "hv",
                    "color": theme.accent if len(trends) == 1 else _colour(theme, i),
                    "width": 2,
                    "dash": _dash(theme, i),
                },
                "marker": {"size": 5},
                "hovertemplate": f"{head}generation %{{customdata:d}}<br>hypervolume %{{y:.5~g}}<br>"
                f"{views.COSTS.get(over, over)} %{{x:,.4~g}}<extra></extra>",
            }
        )
    layout["xaxis"] |= scale(np.concatenate([one.over(over) for one in trends]), False)
    layout["yaxis"] |= scale(np.concatenate([one.hypervolume for one in trends]), False)
    layout["showlegend"] = len(trends) > 1
    return {"data": data, "layout": layout}


# ---------------------------------------------------------------------------------------------------------- species


def species(view: SpeciesHistory, theme: Theme) -> Figure:
    """Species as stacked areas over generations; each carries its id as `meta` for clicks."""
    if not len(view.ids) or not view.sizes.any():
        return empty("this run has no species", theme)
    layout = _layout(theme, "generation", "members")
    data = []
    for i, id in enumerate(view.ids):
        alive = np.flatnonzero(view.sizes[i])
        if not len(alive):
            continue
        # one generation of nothing on each side, so that the area closes where the species begins and ends
        low, high = max(alive[0] - 1, 0), min(alive[-1] + 2, len(view.generations))
        data.append({
            "type": "scatter", "mode": "lines", "stackgroup": "one", "name": f"species {id}", "meta": id,
            "x": packed(view.generations[low:high].astype(float)), "y": packed(view.sizes[i, low:high].astype(float)),
            "line": {"width": 0.8, "color": theme.ground, "shape": "linear"},
            "fillcolor": _colour(theme, id - 1), "stackgaps": "infer zero", "hoveron": "points+fills",
            "hovertemplate": f"species {id}: %{{y:d}} members<extra></extra>",
        })  # fmt: skip
    layout["showlegend"] = False
    layout["xaxis"] |= {
        "showgrid": False,
        "range": [float(view.generations[0]), float(view.generations[-1])],
        "tickformat": "d",
        **_whole(view.generations.tolist()),
    }
    if len(view.generations) == 1:
        layout["xaxis"]["range"] = [0.5, 1.5]
        for one in data:
            one["mode"] = "lines+markers"
    layout["yaxis"] |= {"tickformat": "~s", "rangemode": "tozero"}
    return {"data": data, "layout": layout}


def distances(view: Distances, theme: Theme) -> Figure:
    """Distances between representatives as a matrix of squares with their values."""
    if len(view.species) < 2:
        return empty("distances need two species of whom someone was kept", theme)
    layout = _layout(theme, "", "")
    names = [f"species {id}{'*' if id in view.stand_ins else ''}" for id in view.species]
    steps = [[i / (len(theme.scale) - 1), colour] for i, colour in enumerate(theme.scale)]
    few = len(names) <= 10
    values = [[round(value, 4) for value in row] for row in view.values.tolist()]
    layout["xaxis"] |= {"showgrid": False, "side": "bottom", "tickangle": -45, "constrain": "domain"}
    layout["yaxis"] |= {"showgrid": False, "autorange": "reversed", "scaleanchor": "x", "constrain": "domain"}
    heat = {
        "type": "heatmap", "x": names, "y": names, "z": values, "colorscale": steps, "xgap": 1, "ygap": 1,
        "colorbar": {"thickness": 10, "outlinewidth": 0, "title": {"text": "distance", "side": "right"}},
        "hovertemplate": "%{y} to %{x}: %{z:.4~g}<extra></extra>",
        **({"texttemplate": "%{z:.2f}", "textfont": {"size": 12 if len(names) <= 6 else 10}} if few else {}),
    }  # fmt: skip
    return {"data": [heat], "layout": layout}


# ---------------------------------------------------------------------------------------------------- one individual


def curve(points: Sequence[Mapping[str, float]], theme: Theme) -> Figure:
    """A learning curve: every measure over the epochs, losses on an axis of their own to the right."""
    names = dict.fromkeys(name for point in points for name in point if name not in ("epoch", "seconds", "lr"))
    if not points or not names:
        return empty("nothing was trained: this network's weights are its genes", theme)
    layout = _layout(theme, "epoch", "")
    errors = [name for name in names if "loss" not in name]
    data = []
    for i, name in enumerate([*errors, *(name for name in names if "loss" in name)]):
        seen = [
            (point.get("epoch", at), point[name])
            for at, point in enumerate(points, 1)
            if math.isfinite(point.get(name, math.nan))
        ]
        right = "loss" in name and bool(errors)
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": text(name.replace("_", " ")), "x": [x for x, _ in seen],
            "y": [y for _, y in seen], "marker": {"size": 5 if len(seen) < 40 else 1}, "yaxis": "y2" if right else "y",
            "line": {"color": _colour(theme, i), "width": 2, "dash": "dot" if right else "solid"},
            "hovertemplate": f"epoch %{{x}}<br>{text(name)} %{{y:.4~g}}<extra></extra>",
        })  # fmt: skip
    layout["xaxis"] |= {"tickformat": "d", "dtick": 1 if len(points) <= 12 else None}
    layout["yaxis"]["title"]["text"] = text(", ".join(name.replace("_", " ") for name in errors)) or "loss"
    if errors and len(errors) < len(names):
        layout["yaxis2"] = {
            **layout["yaxis"],
            "title": {**layout["yaxis"]["title"], "text": "loss"},
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
            "tickmode": "auto",
            "nticks": 6,
        }
        layout["margin"]["r"] = 56
    layout["legend"] = {**_legend(theme), "y": 1.02, "yanchor": "bottom"}
    return {"data": data, "layout": layout}


def lineage(view: Lineage, theme: Theme, *, error: str = "", size: str = "") -> Figure:
    """A family tree over the generations, founders left, with an error and a size along it below.

    By default the first objective and the next value measured. Points carry their id as `customdata`."""
    names = list(view.axes)
    shown = [error or (names[0] if names else ""), size or next((name for name in names[1:]), "")]
    shown = [name for name in dict.fromkeys(shown) if name]
    layout = _layout(theme, "generation of birth", "")
    members = view.members
    heights = _heights(len({round(one.place, 1) for one in members}), len(shown))
    data = _tree(view, theme)
    places = [one.place for one in members] or [0.0]
    room = 0.3 + 0.12 * (max(places) - min(places))
    layout["yaxis"] |= {"domain": heights[0], "showticklabels": False, "showgrid": False,
                        "range": [min(places) - room, max(places) + room]}  # fmt: skip
    layout["xaxis"] |= {"anchor": f"y{len(shown) + 1}" if shown else "y", "tickformat": "d"}
    layout["xaxis"] |= _whole([one.born for one in members])
    for i, name in enumerate(shown):
        key = f"y{i + 2}"
        axis = view.axes[name]
        values = np.array([one.values.get(name, math.nan) for one in members], dtype=np.float64)
        log = views.spans_orders(values)
        layout[f"yaxis{i + 2}"] = {
            **layout["yaxis"],
            "domain": heights[i + 1],
            "showticklabels": True,
            "showgrid": True,
            "autorange": True,
            "title": {**layout["yaxis"]["title"], "text": text(name)},
            **scale(values, log),
            "nticks": 5,
        }
        data += _along(view, theme, axis, key, _colour(theme, i))
    layout["showlegend"] = False
    layout["hovermode"] = "closest"
    return {"data": data, "layout": layout}


def _whole(numbers: Sequence[int]) -> dict[str, Any]:
    """Ticks at whole numbers also where they are few."""
    return {"dtick": 1} if len(numbers) and max(numbers) - min(numbers) <= 12 else {}


def _heights(rows: int, below: int) -> list[list[float]]:
    """The part of the figure that the tree takes, and those of the values below it, from the top down."""
    tree = 1.0 if not below else min(0.62, 0.18 + 0.03 * rows)
    part = (1.0 - tree) / max(below, 1)
    found = [[1.0 - tree, 1.0]]
    return found + [[1.0 - tree - part * (i + 1), 1.0 - tree - part * i - 0.06] for i in range(below)]


def _tree(view: Lineage, theme: Theme) -> list[dict[str, Any]]:
    place = {one.id: (one.born, one.place) for one in view.members}
    trunk = {one.id for one in view.trunk}
    lines: dict[bool, tuple[list[float | None], list[float | None]]] = {False: ([], []), True: ([], [])}
    for one in view.members:
        for rank, parent in enumerate(one.parents):
            if parent in place:
                xs, ys = lines[one.id in trunk and parent in trunk and rank == 0]
                (x0, y0), (x1, y1) = place[parent], place[one.id]
                # straight along the parent's row, then over to the child's
                bend = max(x0, x1 - 1)
                xs += [x0, bend, x1, None]
                ys += [y0, y0, y1, None]
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": xs, "y": ys, "hoverinfo": "skip",
         "line": {"color": theme.accent if strong else theme.faint, "width": 2.2 if strong else 0.9},
         "opacity": 1 if strong else 0.6}
        for strong, (xs, ys) in lines.items()
    ]  # fmt: skip
    few = len(view.members) <= 40
    for strong in (False, True):
        some = [one for one in view.members if one.trunk is strong]
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text" if few or (strong and len(some) <= 30) else "markers",
                "x": [one.born for one in some],
                "y": [one.place for one in some],
                "customdata": [one.id for one in some],
                "text": [str(one.id) for one in some],
                "textposition": "top center",
                "textfont": {"size": 10, "color": theme.ink if strong else theme.soft},
                "marker": {
                    "size": [13 if one.id == view.id else 9 if strong else 6 for one in some],
                    "color": theme.accent if strong else theme.faint,
                    "line": {"width": 1, "color": theme.ground},
                },
                "hovertext": [_told(one) for one in some],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "uid": "trunk" if strong else "relatives",
            }
        )
    return data


def _told(one: views.Ancestor) -> str:
    values = "<br>".join(f"{text(name)} {value:.4g}" for name, value in list(one.values.items())[:6])
    edits = "<br>".join(text(str(edit)[:70]) for edit in one.edits[:4])
    born = f"<b>{one.id}</b>, born in {one.born}"
    parents = f"parents {', '.join(map(str, one.parents))}" if one.parents else "a founder"
    return "<br>".join(part for part in (born, parents, edits, values) if part)


def _along(view: Lineage, theme: Theme, axis: Axis, key: str, colour: str) -> list[dict[str, Any]]:
    """A value of all ancestors, and a line along first parents."""
    data = []
    for strong in (False, True):
        some = [one for one in view.members if one.trunk is strong and axis.name in one.values]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if strong else "markers",
                "x": [one.born for one in some],
                "y": [one.values[axis.name] for one in some],
                "yaxis": key,
                "customdata": [one.id for one in some],
                "marker": {
                    "size": 7 if strong else 4,
                    "color": colour if strong else theme.faint,
                    "opacity": 1 if strong else 0.6,
                },
                "line": {"color": colour, "width": 1.8},
                "hovertemplate": f"<b>%{{customdata}}</b><br>{text(axis.name)} %{{y:.4~g}}<extra></extra>",
            }
        )
    return data


# ---------------------------------------------------------------------------------------------------- several runs


def attainment(groups: Sequence[Attainment], theme: Theme) -> Figure:
    """Attainment surfaces of groups of runs: the median as a line, from the best to the worst as a band, and the
    fronts' points."""
    groups = [one for one in groups if len(one.across)]
    if not groups:
        return empty("none of these runs has a front yet", theme)
    axes = groups[0].axes
    layout = _layout(theme, axes[0].label, axes[1].label)
    hover = f"{text(axes[0].name)} %{{x:.4~g}}<br>{text(axes[1].name)} %{{y:.4~g}}"
    data: list[dict[str, Any]] = []
    for i, one in enumerate(groups):
        colour = _colour(theme, i)
        if len(one.fronts) > 1:
            data += _band(one, colour)
        x, y = _steps(one.across, one.half)
        runs = f" ({len(one.fronts)} runs)" if len(one.fronts) > 1 else ""
        data.append({
            "type": "scatter", "mode": "lines", "x": packed(x), "y": packed(y), "name": text(one.name) + runs,
            "line": {"color": colour, "width": 2.2}, "hoverinfo": "skip", "legendgroup": str(i),
        })  # fmt: skip
        points = [np.concatenate([front[way] for front in one.fronts]) for way in (0, 1)]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": packed(points[0]),
                "y": packed(points[1]),
                "showlegend": False,
                "legendgroup": str(i),
                "marker": {"size": 6, "color": colour, "opacity": 0.75, "line": {"width": 0}},
                "hovertemplate": f"<b>{text(one.name)}</b><br>{hover}<extra></extra>",
            }
        )
    for key, way in (("xaxis", 0), ("yaxis", 1)):
        values = np.concatenate([front[way] for one in groups for front in one.fronts])
        layout[key] |= scale(values, views.spans_orders(values))
    return {"data": data, "layout": layout}


def _band(one: Attainment, colour: str) -> list[dict[str, Any]]:
    """Between what the best run attains and what all do."""
    made = []
    for values, fill in ((one.all, "none"), (one.best, "tonexty")):
        x, y = _steps(one.across, values)
        made.append({
            "type": "scatter", "mode": "lines", "x": packed(x), "y": packed(y), "line": {"width": 0, "color": colour},
            "fill": fill, "fillcolor": _faded(colour, 0.18), "hoverinfo": "skip", "showlegend": False,
        })  # fmt: skip
    return made


def _steps(x: Reals, y: Reals) -> tuple[Reals, Reals]:
    good = np.isfinite(y)
    x, y = x[good], y[good]
    return (np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]) if len(x) else (x, y)


# ---------------------------------------------------------------------------------------------------------- details


def empty(why: str, theme: Theme) -> Figure:
    """A figure that says in words why there is nothing to see."""
    layout = _layout(theme, "", "")
    for key in ("xaxis", "yaxis"):
        layout[key] = {"visible": False, "fixedrange": True}
    layout["annotations"] = [{
        "text": text(why), "showarrow": False, "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper",
        "font": {"color": theme.soft, "size": 14},
    }]  # fmt: skip
    return {"data": [], "layout": layout}


def text(words: str) -> str:
    """Words as plotly shows them: it reads some HTML in them, which is taken for text, and hover braces."""
    return html.escape(plain(words), quote=False).replace("%{", "%&#123;").replace("$", "&#36;")


def short(value: float) -> str:
    """A number for a label: 20000 -> `20k`."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def packed(values: NDArray[Any]) -> dict[str, str] | list[Any]:
    """An array as plotly.js reads it without parsing numbers; short ones as plain lists."""
    array = np.ascontiguousarray(values, dtype=np.float64)
    if array.size < 64:
        return (
            [[_number(v) for v in row] for row in array.tolist()]
            if array.ndim == 2
            else [_number(v) for v in array.tolist()]
        )
    shape = {"shape": ", ".join(map(str, array.shape))} if array.ndim > 1 else {}
    return {"dtype": "f8", "bdata": b64encode(array.tobytes()).decode(), **shape}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def scale(values: Reals, log: bool) -> dict[str, Any]:
    """An axis' kind and its ticks: 20k for large numbers, plain ones for small."""
    good = values[np.isfinite(values)]
    large = len(good) > 0 and np.abs(good).max() >= 1000
    found: dict[str, Any] = {"type": "log" if log else "linear", "tickformat": "~s" if large else "~g"}
    if log:
        positive = good[good > 0]
        orders = math.log10(positive.max() / positive.min()) if len(positive) else 1
        found["dtick"] = "D1" if orders < 0.8 else "D2" if orders < 3.5 else 1
    return found


def _layout(theme: Theme, across: str, up: str) -> Figure:
    axis = {
        "gridcolor": theme.grid, "linecolor": theme.grid, "zerolinecolor": theme.grid, "zeroline": False, "ticks": "",
        "tickfont": {"color": theme.soft, "size": 11}, "automargin": True,
    }  # fmt: skip
    font = {"color": theme.soft, "size": 12}
    return {
        "paper_bgcolor": theme.ground,
        "plot_bgcolor": theme.ground,
        "font": {"family": FONT, "color": theme.ink, "size": 12},
        "margin": {"l": 56, "r": 16, "t": 28, "b": 48},
        "hovermode": "closest",
        "dragmode": "zoom",
        "hoverlabel": {
            "bgcolor": theme.ground,
            "bordercolor": theme.faint,
            "font": {"color": theme.ink, "size": 12, "family": FONT},
        },
        "xaxis": {**axis, "title": {"text": text(across), "font": font, "standoff": 8}},
        "yaxis": {**axis, "title": {"text": text(up), "font": font, "standoff": 8}},
        "legend": _legend(theme),
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": theme.faint, "activecolor": theme.accent},
        "colorway": list(theme.palette),
    }


def _legend(theme: Theme) -> dict[str, Any]:
    return {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"color": theme.soft, "size": 11},
            "bgcolor": "rgba(0,0,0,0)"}  # fmt: skip


def _colour(theme: Theme, index: int) -> str:
    return theme.palette[index % len(theme.palette)]


def _dash(theme: Theme, index: int) -> str:
    """Lines beyond the palette's length repeat its colours in another dash."""
    return ("solid", "dash", "dot", "dashdot")[index // len(theme.palette) % 4]


def _faded(colour: str, share: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"
