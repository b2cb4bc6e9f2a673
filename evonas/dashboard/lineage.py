"""Where an individual comes from: its family tree with error and size along it, and the line of first parents."""

from __future__ import annotations

from typing import Any

from dash import Input, Output, State, html

from evonas.dashboard.parts import (
    Column,
    Part,
    Place,
    client,
    graph,
    notice,
    panel,
    person,
    table,
    theme,
    value,
)
from evonas.dashboard.shelf import Shelf
from evonas.report import plots, views
from evonas.report.tables import plain


def body(shelf: Shelf, place: Place) -> Part:
    """The tree of the individual that the address names, or of the knee or the best one."""
    chosen = place.id if place.id is not None else _best(shelf.front(place.run))
    if chosen is None:
        return notice("Nobody has been estimated yet: family trees are drawn from the first generation on.")
    with shelf.open(place.run) as run:
        view = views.lineage(run, chosen)
    told = f"{len(view.members) - 1} ancestors and itself" if len(view.members) > 1 else "a founder"
    notes = [html.Span(told, className="quiet")]
    if view.hidden:
        notes.append(html.Span(f"at least {view.hidden:,} more are not drawn", className="quiet"))
    return html.Div(
        [
            html.Div([html.H1(["Lineage of individual ", person(place.run, chosen)]), *notes], className="title"),
            _missing(view),
            panel(
                "Family tree",
                graph(
                    "tree",
                    plots.lineage(view, theme()),
                    min(460 + 10 * len(view.members), 900),
                    "Family tree with error and size along it",
                ),
                aside=html.Span(
                    "left the founders; strong the line of first parents; click for an individual", className="quiet"
                ),
            ),
            panel("Along first parents", _trunk(view, place.run)),
        ]
    )


def register(app: Any, shelf: Shelf) -> None:
    """A click leads to the individual."""
    client(
        app, "visit", Output("url", "href", allow_duplicate=True), Input("tree", "clickData"), State("place", "data")
    )


def _best(view: views.Front) -> int | None:
    if view.knee is not None:
        return view.knee
    return view.best_within({}) if len(view.ids) else None


def _missing(view: views.Lineage) -> Part:
    if not view.unknown:
        return None
    return notice(
        f"{len(view.unknown)} parents were not kept, so the tree ends early: this run keeps champions and the front "
        "one by one; store: {individuals: all} in a recipe keeps everyone."
    )


def _trunk(view: views.Lineage, run: str) -> Part:
    names = list(view.axes)[:4]
    inherited = any("inherited" in one.cost for one in view.trunk)
    columns = [
        Column("born", True),
        Column("id", True),
        *(Column(plain(name), True) for name in names),
        *([Column("inherited", True), Column("error at birth", True)] if inherited else []),
        Column("other parents"),
        Column("edits", wide=True),
    ]
    rows = [
        [
            str(one.born),
            person(run, one.id),
            *(value(one.values.get(name)) for name in names),
            *(
                [f"{one.cost['inherited']:.0%}" if "inherited" in one.cost else "", value(one.cost.get("birth_error"))]
                if inherited
                else []
            ),
            ", ".join(map(str, one.parents[1:])),
            html.Span([_edit(*views.described(edit), last=i == len(one.edits) - 1) for i, edit in enumerate(one.edits)])
            if one.edits
            else html.Span("founder" if not one.parents else "", className="quiet"),
        ]
        for one in view.trunk
    ]
    return table(columns, rows, "Line of first parents", [one.id == view.id for one in view.trunk])


def _edit(what: str, rest: str, last: bool) -> Part:
    return html.Span([html.B(what), " ", html.Span(plain(rest), className="quiet"), "" if last else "; "])
