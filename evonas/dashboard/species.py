"""A run's species: their sizes over the generations, the living ones in a table, distances, and the members of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import Input, Output, State, dcc, html

from evonas.dashboard.parts import (
    Column,
    Part,
    Place,
    address,
    client,
    drawing,
    graph,
    link,
    notice,
    panel,
    person,
    table,
    theme,
    value,
    writing,
)
from evonas.dashboard.shelf import Shelf
from evonas.report import plots
from evonas.report.tables import plain

MOST = 120
"""Members that are listed."""


def body(shelf: Shelf, place: Place) -> Part:
    """The figures' places; a species that the address names shows its members."""
    history = shelf.species(place.run)
    if not len(history.ids):
        return notice("This run has no species yet: they are made when a generation has finished. A strategy without "
                      "speciation has none at all.")  # fmt: skip
    chosen = place.query.get("species", "")
    return html.Div(
        [
            panel(
                "Sizes",
                graph("species-areas", height=360, label="Sizes of species over generations"),
                aside=html.Span("click an area for its members", className="quiet"),
            ),
            dcc.Store(id="species", data=int(chosen) if chosen.isdigit() and len(chosen) < 10 else None),
            html.Div(id="members-of"),
            html.Div(
                [
                    panel("Living species", html.Div(id="species-table")),
                    panel(
                        "Distances between representatives",
                        graph("distances", height=380, label="Distances"),
                        html.P("* the champion's, where the representative was not kept", className="quiet")
                        if shelf.distances(place.run).stand_ins
                        else None,
                        class_="narrow",
                    ),
                ],
                className="columns",
            ),
        ]
    )


def register(app: Any, shelf: Shelf) -> None:
    """The page's callbacks."""
    place, revision = Input("place", "data"), Input("revision", "data")
    app.callback(Output("species-areas", "figure"), place, revision)(
        drawing(lambda place, _: plots.species(shelf.species(place["run"]), theme()))
    )
    app.callback(Output("distances", "figure"), place, revision)(
        drawing(lambda place, _: plots.distances(shelf.distances(place["run"]), theme()))
    )
    app.callback(Output("species-table", "children"), place, revision)(
        writing(lambda place, _: _table(shelf, place["run"]))
    )
    app.callback(Output("members-of", "children"), place, revision, Input("species", "data"))(
        writing(lambda place, _, chosen: _members(shelf, place["run"], chosen))
    )
    client(
        app, "species", Output("species", "data"), Input("species-areas", "clickData"), State("species-areas", "figure")
    )


def _table(shelf: Shelf, run: str) -> Part:
    history, view = shelf.species(run), shelf.front(run)
    if not history.newest:
        return notice("No species lives in the last generation.")
    first = view.axes[view.objectives[0]]
    newest = int(history.generations[-1])
    columns = [
        Column("species", True),
        Column("size", True),
        Column("age", True),
        Column(f"best {plain(first.name)}", True),
        Column("stagnant for", True),
        Column("representative", True),
    ]
    champions = any(one.get("champion") is not None for one in history.newest)
    columns += [Column("champion", True)] if champions else []
    rows = [
        [
            link(str(one["species"]), address(run, "species", species=str(one["species"])), "num"), f"{one['size']:,}",
            str(newest - one["born"] + 1), value(None if one["best"] is None else first.loss_of(one["best"])),
            str(newest - one["improved"]), person(run, one["representative"]),
            *([person(run, one["champion"]) if one.get("champion") is not None else ""] if champions else []),
        ]
        for one in sorted(history.newest, key=lambda one: -one["size"])
    ]  # fmt: skip
    return table(columns, rows, "Living species")


def _members(shelf: Shelf, run: str, chosen: int | None) -> Part:
    if chosen is None:
        return None
    history, view = shelf.species(run), shelf.front(run)
    if chosen not in history.ids:
        return notice(f"There is no species {chosen} in this run.")
    found = _last(shelf, run, chosen)
    ids = sorted(found["members"])
    at = {int(view.ids[i]): i for i in view.positions(ids).tolist()}
    words = shelf.summaries(run, tuple(ids[:MOST]))
    columns = [
        Column("id", True),
        *(Column(plain(name), True) for name in view.objectives),
        Column("born", True),
        Column("network", clipped=True),
    ]
    rows = [
        [person(run, id), *(value(float(view.columns[name][at[id]])) if id in at else "" for name in view.objectives),
         str(int(view.born[at[id]])) if id in at else "", html.Span(plain(words.get(id, "")), className="quiet")]
        for id in ids[:MOST]
    ]  # fmt: skip
    told = f"{found['size']:,} members after generation {found['generation']}"
    if len(ids) < found["size"]:
        told += f"; {len(ids)} of them were kept one by one"
    elif len(ids) > MOST:
        told += f"; the first {MOST} are listed"
    return panel(
        f"Species {chosen}",
        table(columns, rows, f"Members of species {chosen}"),
        aside=html.Span(told, className="quiet"),
    )


def _last(shelf: Shelf, run: str, chosen: int) -> Mapping[str, Any]:
    """A species as it was when it last lived."""
    history = shelf.species(run)
    row = history.sizes[history.ids.index(chosen)]
    generation = int(history.generations[row > 0][-1])
    with shelf.open(run) as opened:
        found: Mapping[str, Any] = next(one for one in opened.store.species(generation) if one["species"] == chosen)
    return found
