"""Several runs beside each other: attainment of fronts, hypervolume against cost, mean and deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dash import Input, Output, dcc, html

from evonas.core import EvonasError
from evonas.dashboard.parts import (
    Column,
    Part,
    Place,
    address,
    choice,
    client,
    drawing,
    graph,
    link,
    notice,
    panel,
    table,
    theme,
    told,
    value,
    writing,
)
from evonas.dashboard.shelf import Shelf
from evonas.report import plots, views
from evonas.report.plots import Figure
from evonas.report.tables import duration, plain

MOST = 24
"""Runs that are compared at a time."""


def body(shelf: Shelf, place: Place) -> Part:
    """The choice of runs, and what can be compared of them."""
    names = shelf.names()
    chosen = [name for name in place.query.get("run", "").split("/") if name in names][:MOST]
    picker = html.Label([html.Span("runs"), dcc.Dropdown(
        id="compared", options=[{"value": name, "label": plain(name)} for name in names], value=chosen, multi=True,
        placeholder="choose two or more", className="choice long",
    )], className="control wide")  # fmt: skip
    costs = dcc.RadioItems(
        [{"value": k, "label": v} for k, v in views.COSTS.items()],
        "evaluations",
        id="compare-over",
        inline=True,
        className="checks",
    )
    together = dcc.Checklist(
        [{"value": "seeds", "label": "seeds of one recipe together"}],
        ["seeds"],
        id="together",
        inline=True,
        className="checks",
    )
    return html.Div(
        [
            html.Div([html.H1("Compare")], className="title"),
            html.Div(
                [picker, html.Div(_axes(shelf, chosen), id="compare-axes", className="controls"), together],
                className="controls",
            ),
            html.Div(id="compare-note"),
            html.Div(
                [
                    panel(
                        "Fronts and attainment",
                        graph("attainment", height=460, label="Fronts of the runs over each other"),
                    ),
                    panel(
                        "Hypervolume",
                        graph("compare-hypervolume", height=460, label="Hypervolume of the runs over cost"),
                        aside=costs,
                    ),
                ],
                className="columns even",
            ),
            panel("Mean and deviation", html.Div(id="compare-table")),
            dcc.Store(id="compare-address"),
        ]
    )


def register(app: Any, shelf: Shelf) -> None:
    """The page's callbacks."""
    chosen, together, revision = Input("compared", "value"), Input("together", "value"), Input("revision", "data")
    app.callback(Output("compare-axes", "children"), chosen, prevent_initial_call=True)(
        writing(lambda names: _axes(shelf, names or []))
    )
    app.callback(
        Output("attainment", "figure"),
        chosen,
        together,
        Input("compare-across", "value"),
        Input("compare-up", "value"),
        revision,
    )(drawing(lambda names, together, across, up, _: _attainment(shelf, names or [], bool(together), across, up)))
    app.callback(Output("compare-hypervolume", "figure"), chosen, Input("compare-over", "value"), revision)(
        drawing(lambda names, over, _: _hypervolume(shelf, names or [], over))
    )
    app.callback(Output("compare-table", "children"), Output("compare-note", "children"), chosen, together, revision)(
        lambda names, together, _: _tabled(shelf, names or [], bool(together))
    )
    client(app, "compared", Output("compare-address", "data"), chosen)


@dataclass(frozen=True)
class _Compared:
    """Runs with the same objectives, their fronts by name, and in words who was left out and why."""

    fronts: Mapping[str, views.Front]
    left_out: tuple[str, ...] = ()


def _compared(shelf: Shelf, names: Sequence[str]) -> _Compared:
    fronts: dict[str, views.Front] = {}
    left_out = []
    for name in names[:MOST]:
        try:
            view = shelf.front(name)
        except EvonasError as error:
            left_out.append(told(error))
            continue
        first = next(iter(fronts.values()), view)
        if _kind(view) != _kind(first):
            left_out.append(f"{plain(name)} has the objectives {plain(', '.join(view.objectives))}, "
                            f"{plain(first.run)} has {plain(', '.join(first.objectives))}")  # fmt: skip
        elif not view.fronts or not view.fronts[-1]:
            left_out.append(f"{plain(name)} has no front yet")
        else:
            fronts[name] = view
    return _Compared(fronts, tuple(left_out))


def _kind(view: views.Front) -> list[tuple[str, str, str]]:
    return [(name, view.axes[name].unit, view.axes[name].direction) for name in view.objectives]


def _axes(shelf: Shelf, names: Sequence[str]) -> Part:
    fronts = _compared(shelf, names).fronts
    first = next(iter(fronts.values()), None)
    if first is None:
        return [choice("compare-across", "across", [("", "")], ""), choice("compare-up", "up", [("", "")], "")]
    options = [(name, plain(name)) for name in first.axes if all(name in view.axes for view in fronts.values())]
    across, up = first.default_axes()
    return [choice("compare-across", "across", options, across), choice("compare-up", "up", options, up)]


def _attainment(shelf: Shelf, names: Sequence[str], together: bool, across: str, up: str) -> Figure:
    fronts = _compared(shelf, names).fronts
    if not fronts or not across:
        return plots.empty("choose runs above", theme())
    first = next(iter(fronts.values()))
    axes = first.axis(across), first.axis(up)
    made = []
    for group in _groups(shelf, list(fronts), together):
        ends = []
        for name in group.runs:
            view = fronts[name]
            at = view.positions(view.fronts[-1])
            ends.append((view.columns[across][at], view.columns[up][at]))
        made.append(views.attainment(group.name, ends, axes))
    return plots.attainment(made, theme())


def _groups(shelf: Shelf, names: Sequence[str], together: bool) -> list[views.Group]:
    if not together:
        return [views.Group(name, (name,)) for name in names]
    recipes = {}
    for name in names:
        with shelf.open(name) as run:
            recipes[name] = run.store.recipe
    return views.groups(recipes)


def _hypervolume(shelf: Shelf, names: Sequence[str], over: str) -> Figure:
    fronts = _compared(shelf, names).fronts
    if not fronts:
        return plots.empty("choose runs above", theme())
    point = views.reference(list(fronts.values()))
    return plots.hypervolume(
        [views.below(view, shelf.trend(name), point) for name, view in fronts.items()], theme(), over
    )


def _tabled(shelf: Shelf, names: Sequence[str], together: bool) -> tuple[Part, Part]:
    """The table of groups, and a note on who was left out."""
    try:
        found = _compared(shelf, names)
        note = notice(f"Left out: {'; '.join(found.left_out)}.") if found.left_out else None
        if not found.fronts:
            return notice("Choose two runs or more of the same objectives: they are compared here."), note
        return _table(shelf, found.fronts, together), note
    except EvonasError as error:
        return notice(told(error)), None


def _table(shelf: Shelf, fronts: Mapping[str, views.Front], together: bool) -> Part:
    first = next(iter(fronts.values()))
    point = views.reference(list(fronts.values()))
    trends = {name: views.below(view, shelf.trend(name), point) for name, view in fronts.items()}
    cards = {name: shelf.card(name) for name in fronts}
    columns = [
        Column("runs"),
        Column("n", True),
        Column("hypervolume", True),
        *(Column(f"best {plain(name)}", True) for name in first.objectives),
        Column("front", True),
        Column("evaluated", True),
        Column("failed", True),
        Column("took", True),
    ]
    rows = []
    for group in _groups(shelf, list(fronts), together):
        some = [fronts[name] for name in group.runs]
        ends = [trends[name].hypervolume[-1] if len(trends[name].hypervolume) else np.nan for name in group.runs]
        rows.append(
            [
                _named(group),
                str(len(group.runs)),
                _spread(ends),
                *(_spread([_best(view, name) for view in some]) for name in first.objectives),
                _spread([len(view.fronts[-1]) for view in some]),
                _spread([cards[name].evaluations for name in group.runs]),
                _spread([cards[name].failed for name in group.runs]),
                duration(float(np.mean([cards[name].seconds for name in group.runs]))),
            ]
        )
    point_words = [
        f"{plain(name)} {value(first.axes[name].loss_of(loss))}"
        for name, loss in zip(first.objectives, point, strict=True)
    ]
    words = f"Hypervolume below one reference point: {', '.join(point_words)}."
    return [table(columns, rows, "Mean and deviation over seeds"), html.P(words, className="quiet")]


def _named(group: views.Group) -> Part:
    if len(group.runs) == 1:
        return link(plain(group.runs[0]), address(group.runs[0]), "name")
    parts: list[Part] = [html.B(plain(group.name)), html.Br()]
    for name in group.runs:
        parts += [link(plain(name), address(name), "quiet"), " "]
    return html.Span(parts)


def _best(view: views.Front, name: str) -> float:
    axis = view.axes[name]
    values = view.columns[name][view.positions(view.fronts[-1])]
    return float(axis.loss_of(float(axis.loss(values).min())))


def _spread(values: Sequence[Any]) -> str:
    """A mean with its standard deviation over runs."""
    known = np.array([one for one in values if one is not None and np.isfinite(one)], dtype=np.float64)
    if not len(known):
        return ""
    if len(known) == 1:
        return value(float(known[0]))
    return f"{value(float(known.mean()))} ± {value(float(known.std(ddof=1)))}"
