"""A run's front: any two values of everyone, the front over generations, the best within a budget, hypervolume."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dash import Input, Output, Patch, State, dcc, html, no_update

from evonas.core import EvonasError, RecipeError
from evonas.dashboard.parts import (
    Column,
    Part,
    Place,
    choice,
    client,
    drawing,
    graph,
    notice,
    panel,
    person,
    table,
    tag,
    theme,
    value,
    writing,
)
from evonas.dashboard.shelf import Shelf
from evonas.report import plots, views
from evonas.report.plots import Figure
from evonas.report.tables import plain

ROWS = 200
"""Front members that the table lists."""

_CONTROLS = ("across", "up", "colour", "logs", "budget")


def body(shelf: Shelf, place: Place) -> Part:
    """The controls as the address sets them, and the places of what the callbacks fill."""
    view = shelf.front(place.run)
    query, (across, up) = place.query, view.default_axes()
    names = [(name, plain(name)) for name in view.axes]
    colours = [("", "one colour"), (views.SPECIES, "species"), *names]
    generation = _generation(query.get("generation"), len(view.fronts))
    controls = html.Div(
        [
            choice("across", "across", names, _known(query.get("across"), view.axes, across)),
            choice("up", "up", names, _known(query.get("up"), view.axes, up)),
            choice("colour", "colour", colours, _known(query.get("colour"), dict(colours), "")),
            html.Fieldset(
                [
                    html.Legend("logarithmic"),
                    dcc.Checklist(
                        [{"value": "x", "label": "across"}, {"value": "y", "label": "up"}],
                        _logs(view, query, across, up),
                        id="logs",
                        inline=True,
                        className="checks",
                    ),
                ],
                className="control",
            ),
            html.Label(
                [
                    html.Span("budget"),
                    dcc.Input(
                        id="budget",
                        value=query.get("budget", ""),
                        debounce=0.3,
                        placeholder=_example(view),
                        className="search",
                        spellCheck=False,
                    ),
                ],
                className="control",
            ),
        ],
        className="controls",
    )
    over = _known(query.get("over"), views.COSTS, "evaluations")
    costs = dcc.RadioItems(
        [{"value": k, "label": v} for k, v in views.COSTS.items()], over, id="over", inline=True, className="checks"
    )
    return html.Div([
        controls,
        html.Div(id="within", role="status"),
        html.Div([
            panel("Front", graph("scatter", height=520, label="Scatter of all individuals with the front"),
                  _slider(len(view.fronts), generation)),
            panel("Members", html.Div(id="members"), class_="narrow"),
        ], className="columns"),
        panel("Hypervolume", graph("hypervolume", height=300, label="Hypervolume over cost"), aside=costs),
        dcc.Store(id="window"), dcc.Store(id="address"),
    ])  # fmt: skip


def _slider(count: int, generation: int | None) -> Part:
    """Play and a slider over the generations; at its right end the page follows the run."""
    return html.Div([
        html.Button("play", id="play", n_clicks=0, className="button", title="play or pause the generations"),
        html.Div(dcc.Slider(id="generation", min=0, max=max(count, 1), step=1, value=generation or count, marks=None,
                            updatemode="drag", allow_direct_input=False), className="slider"),
        html.Span(id="generation-words", className="quiet num"),
    ], className="timeline")  # fmt: skip


def register(app: Any, shelf: Shelf) -> None:
    """The page's callbacks."""
    place, revision = Input("place", "data"), Input("revision", "data")
    controls = [Input(name, "value") for name in _CONTROLS]
    app.callback(Output("scatter", "figure"), place, revision, State("generation", "value"), *controls)(
        drawing(lambda place, _, generation, *controls: _scatter(shelf, place, generation, *controls))
    )
    app.callback(
        Output("scatter", "figure", allow_duplicate=True), Input("generation", "value"), State("place", "data"),
        *[State(name, "value") for name in _CONTROLS], prevent_initial_call=True,
    )(lambda generation, place, *controls: _moved(shelf, place, generation, *controls))  # fmt: skip
    app.callback(
        Output("scatter", "figure", allow_duplicate=True), Input("scatter", "relayoutData"), State("place", "data"),
        *[State(name, "value") for name in _CONTROLS], prevent_initial_call=True,
    )(lambda seen, place, *controls: _zoomed(shelf, place, seen or {}, *controls))  # fmt: skip
    app.callback(Output("members", "children"), place, revision)(
        writing(lambda place, _: _members(shelf, place["run"]))
    )
    app.callback(Output("within", "children"), place, revision, Input("budget", "value"))(
        writing(lambda place, _, budget: _within(shelf, place["run"], budget or ""))
    )
    app.callback(Output("hypervolume", "figure"), place, revision, Input("over", "value"))(
        drawing(lambda place, _, over: plots.hypervolume([shelf.trend(place["run"])], theme(), over))
    )
    app.callback(
        Output("generation", "max"), Output("generation", "value"), revision, State("place", "data"),
        State("generation", "value"), State("generation", "max"), prevent_initial_call=True,
    )(lambda _, place, at, most: _followed(shelf, place, at, most))  # fmt: skip
    client(
        app,
        "remember",
        Output("address", "data"),
        *controls,
        Input("generation", "value"),
        Input("over", "value"),
        State("generation", "max"),
    )
    client(
        app,
        "words",
        Output("generation-words", "children"),
        Input("generation", "value"),
        Input("generation", "max"),
        first=True,
    )
    client(app, "play", Output("play", "children"), Input("play", "n_clicks"), State("generation", "max"))
    client(
        app, "visit", Output("url", "href", allow_duplicate=True), Input("scatter", "clickData"), State("place", "data")
    )


# ---------------------------------------------------------------------------------------------------------- figures


def _scatter(
    shelf: Shelf,
    place: dict[str, Any],
    generation: int,
    across: str,
    up: str,
    colour: str,
    logs: Sequence[str],
    budget: str,
) -> Figure:
    view = shelf.front(place["run"])
    limits = _quietly(view, budget or "")
    return plots.front(
        view,
        theme(),
        across,
        up,
        colour or "",
        log=_named(across, up, logs),
        budget=limits,
        generation=_generation(generation, len(view.fronts)),
    )


def _moved(shelf: Shelf, place: dict[str, Any], generation: int, *controls: Any) -> Any:
    """Only the traces that differ from one generation to another: a drag of the slider asks for many."""
    try:
        whole = _scatter(shelf, place, generation, *controls)
    except EvonasError:
        return no_update
    patch = Patch()
    for at, trace in enumerate(whole["data"]):
        if at != 0:
            patch["data"][at] = trace
    return patch


def _zoomed(
    shelf: Shelf,
    place: dict[str, Any],
    seen: Mapping[str, Any],
    across: str,
    up: str,
    colour: str,
    logs: Sequence[str],
    _: str,
) -> Any:
    """The crowd again, thinned to what is seen, so that zooming in shows everyone there."""
    keys = ["xaxis.range[0]", "xaxis.range[1]", "yaxis.range[0]", "yaxis.range[1]"]
    view = shelf.front(place["run"])
    reset = seen.get("xaxis.autorange") or seen.get("yaxis.autorange")
    if len(view.ids) <= views.CLOUD or not (reset or any(key in seen for key in keys)):
        return no_update
    log = _named(across, up, logs)
    window: dict[str, tuple[float, float]] = {}
    for name, low, high in ((across, *keys[:2]), (up, *keys[2:])):
        if low in seen and high in seen:
            ends = [10.0 ** seen[key] if name in log else float(seen[key]) for key in (low, high)]
            window[name] = ends[0], ends[1]
    patch = Patch()
    patch["data"][0] = plots.front(view, theme(), across, up, colour or "", log=log, window=window)["data"][0]
    return patch


def _followed(shelf: Shelf, place: dict[str, Any], at: int, most: int) -> tuple[Any, Any]:
    """The slider's end moves on with the run; who stands at the end stays there."""
    try:
        count = max(len(shelf.front(place["run"]).fronts), 1)
    except EvonasError:
        return no_update, no_update
    return (count, count if at >= most else at) if count != most else (no_update, no_update)


# ------------------------------------------------------------------------------------------------------------ tables


def _members(shelf: Shelf, run: str) -> Part:
    view = shelf.front(run)
    if not view.fronts:
        return notice("No generation has finished yet: the front is listed here as soon as one has.")
    at = view.positions(view.fronts[-1])
    first = view.axes[view.objectives[0]]
    at = at[np.argsort(first.loss(view.columns[first.name][at]), kind="stable")]
    ids = [int(id) for id in view.ids[at]]
    words = shelf.summaries(run, tuple(ids[:ROWS]))
    tested = list(dict.fromkeys(name for id in ids for name in view.tested.get(id, {})))
    columns = [
        Column("id", True),
        *(Column(plain(name), True) for name in view.objectives),
        *(Column(f"test {plain(name)}", True) for name in tested),
        Column(""),
        Column("born", True),
        Column("network", clipped=True),
    ]
    rows = [
        [
            person(run, id),
            *(value(float(view.columns[name][i])) for name in view.objectives),
            *(value(view.tested.get(id, {}).get(name)) for name in tested),
            tag("knee", "warm") if id == view.knee else "",
            str(int(view.born[i])),
            html.Span(plain(words.get(id, "not kept")), className="quiet", title=plain(words.get(id, ""))),
        ]
        for id, i in zip(ids[:ROWS], at.tolist(), strict=False)
    ]
    more = (
        html.P(f"and {len(ids) - ROWS:,} more: evonas front lists all", className="quiet") if len(ids) > ROWS else None
    )
    return [table(columns, rows, "Front", [id == view.knee for id in ids[:ROWS]]), more]


def _within(shelf: Shelf, run: str, budget: str) -> Part:
    """The best network within a budget, in one sentence."""
    if not budget.strip():
        return None
    view = shelf.front(run)
    limits = limits_of(view, budget)
    best = view.best_within(limits)
    told = " and ".join(
        f"{plain(name)} {'≥' if view.axes[name].direction == 'max' else '≤'} {value(limit)}"
        for name, limit in limits.items()
    )
    if best is None:
        return html.P(f"No network has {told}.", className="answer")
    at = view.positions([best])
    values = ", ".join(f"{plain(name)} {value(float(view.columns[name][at][0]))}" for name in view.objectives)
    return html.P(
        [f"Best within {told}: ", person(run, best, f"individual {best}"), f" ({values})"], className="answer"
    )


# --------------------------------------------------------------------------------------------------------- addresses


def limits_of(view: views.Front, text: str) -> dict[str, float]:
    """`params=20k error=0.1` (also with <= or >=) as limits by name. RecipeError for what is none."""
    limits = {}
    for part in (
        text.replace(",", " ").replace("<=", "=").replace(">=", "=").replace("<", "=").replace(">", "=").split()
    ):
        name, _, amount = part.partition("=")
        limits[view.axis(name).name] = _amount(part, amount)
    return limits


def _amount(part: str, text: str) -> float:
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1:], 1.0)
    try:
        found = float(text[:-1] if scale != 1.0 else text) * scale
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise RecipeError(f"{part!r} is no limit: write for example params=20k")
    return found


def _quietly(view: views.Front, text: str) -> dict[str, float]:
    """The limits, or none while one is being typed; the line below the controls says what is wrong."""
    try:
        return limits_of(view, text)
    except RecipeError:
        return {}


def _example(view: views.Front) -> str:
    """A budget such as a reader may write: the size that half of the individuals keep."""
    name = "params" if "params" in view.axes else view.objectives[-1]
    values = view.columns[name][np.isfinite(view.columns[name])]
    return f"{name}={value(float(f'{np.median(values):.1g}'))}" if len(values) else f"{name}=20k"


def _known(given: str | None, among: Any, default: str) -> str:
    return given if given is not None and given in among else default


def _generation(given: object, count: int) -> int | None:
    """A generation that was asked for, None for the newest."""
    number = int(given) if isinstance(given, (int, float)) or (isinstance(given, str) and given.isdigit()) else count
    return number if 1 <= number < count else None


def _logs(view: views.Front, query: Mapping[str, str], across: str, up: str) -> list[str]:
    if "logs" in query:
        return [way for way in "xy" if way in query["logs"]]
    chosen = (_known(query.get("across"), view.axes, across), _known(query.get("up"), view.axes, up))
    return [way for way, name in zip("xy", chosen, strict=True) if views.spans_orders(view.columns[name])]


def _named(across: str, up: str, logs: Sequence[str]) -> set[str]:
    return {name for way, name in (("x", across), ("y", up)) if way in (logs or ())}
