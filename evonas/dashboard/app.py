"""The dashboard as a Dash app: one shell around all pages, routed by address, live while runs go on."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from evonas.core import EvonasError
from evonas.dashboard import compare, downloads, front, guard, individual, lineage, log, runs, species
from evonas.dashboard.guard import Guard
from evonas.dashboard.parts import TABS, Part, Place, address, client, labelled, link, notice, tag, told
from evonas.dashboard.shelf import Shelf
from evonas.report.tables import plain

PAGES: dict[str, ModuleType] = {
    "runs": runs, "front": front, "species": species, "individual": individual, "lineage": lineage, "log": log,
    "compare": compare,
}  # fmt: skip

CLOCK = 1000
"""Milliseconds between two looks at whether something is new: a stat of three files each."""

_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{%title%}</title>
<link rel="icon" href="/assets/icon.svg" type="image/svg+xml">
<script src="/assets/theme.js"></script>
{%css%}
</head>
<body>
{%app_entry%}
<footer hidden>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>
"""


def build(shelf: Shelf, admitted: Guard) -> Dash:
    """The app over a folder of runs, let in by a guard."""
    app = Dash(
        "evonas",
        assets_folder=str(Path(__file__).parent / "assets"),
        assets_ignore="theme\\.js",
        title="evonas",
        update_title="",
        suppress_callback_exceptions=True,
        serve_locally=True,
        add_log_handler=False,
        index_string=_INDEX,
    )
    app.logger.setLevel(logging.ERROR)
    app.layout = _shell()
    _route(app, shelf)
    for page in PAGES.values():
        page.register(app, shelf)
    policy = guard.policy(app.csp_hashes())
    guard.install(app.server, admitted, lambda: policy)
    downloads.install(app.server, shelf)
    return app


def _shell() -> Part:
    return html.Div([
        dcc.Location(id="url", refresh="callback-nav"),
        dcc.Store(id="revision"), dcc.Store(id="place"),
        dcc.Interval(id="clock", interval=CLOCK),
        html.A("skip to content", href="#page", className="skip"),
        html.Header([
            dcc.Link("evonas", href="/", className="brand"),
            labelled(html.Nav(id="tabs"), "pages"),
            html.Div(id="state", role="status"),
            html.Button("light / dark", id="theme", n_clicks=0, className="button"),
        ]),
        html.Main(id="page", tabIndex=-1),
    ])  # fmt: skip


def _route(app: Any, shelf: Shelf) -> None:
    app.callback(
        Output("page", "children"), Output("tabs", "children"), Output("place", "data"), Output("revision", "data"),
        Output("state", "children"), Input("url", "pathname"), State("url", "search"),
    )(lambda path, search: _page(shelf, path or "/", search or ""))  # fmt: skip
    app.callback(
        Output("revision", "data", allow_duplicate=True), Output("state", "children", allow_duplicate=True),
        Input("clock", "n_intervals"), State("place", "data"), State("revision", "data"), prevent_initial_call=True,
    )(lambda _, place, seen: _tick(shelf, place, seen))  # fmt: skip
    client(app, "theme", Output("theme", "title"), Input("theme", "n_clicks"))


def _page(shelf: Shelf, path: str, search: str) -> tuple[Any, ...]:
    """A page's body, its tabs and state."""
    place = Place.of(path, search)
    revision = _revision(shelf, place.run)
    tabs = _tabs(place)
    if place.page not in PAGES:
        return (
            notice(f"There is no page {plain(path)[:200]}.", link("all runs", "/")),
            tabs,
            place.data(),
            revision,
            None,
        )
    try:
        state = _state(shelf, place.run)
        return PAGES[place.page].body(shelf, place), tabs, place.data(), revision, state
    except EvonasError as error:
        return notice(told(error), link("all runs", "/")), tabs, place.data(), revision, None


def _tick(shelf: Shelf, place: dict[str, Any] | None, seen: str | None) -> tuple[Any, Any]:
    """The revision, where it is another than the page has seen."""
    run = (place or {}).get("run", "")
    now = _revision(shelf, run)
    if place is None or now == seen:
        return no_update, no_update
    try:
        return now, _state(shelf, run)
    except EvonasError as error:
        return now, tag(told(error)[:80], "bad")


def _revision(shelf: Shelf, run: str) -> str:
    """One run's revision, or the whole shelf's, as a short text."""
    found = shelf.revision(run) if run in shelf.names() else shelf.shown()
    return hashlib.blake2b(repr(found).encode(), digest_size=8).hexdigest()


def _tabs(place: Place) -> list[Part]:
    if not place.run:
        pages = [("runs", "Runs", "/"), ("compare", "Compare", "/compare")]
        return [link(words, to, "tab here" if place.page == page else "tab") for page, words, to in pages]
    here = "front" if place.page == "individual" else place.page
    tabs = [
        link(words, address(place.run, page), "tab here" if page == here else "tab") for page, words in TABS.items()
    ]
    return [link(plain(place.run), address(place.run), "run-name"), *tabs]


def _state(shelf: Shelf, run: str) -> Part:
    """How it stands with a run, in a few words."""
    if not run:
        return None
    shelf.path(run)
    card = shelf.card(run)
    if card.problem:
        return tag("unreadable", "bad")
    words = f"{card.generation} of {card.generations} generations · {card.evaluations:,} evaluated"
    return [tag(card.status, card.status), html.Span(words, className="quiet num")]
