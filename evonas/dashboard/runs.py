"""The first page: all runs with their state, progress and best values; filtered, sorted, chosen for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import Input, Output, State, ctx, dcc, html, no_update

from evonas.dashboard.parts import (
    Column,
    Part,
    Place,
    address,
    ago,
    comparison,
    link,
    notice,
    table,
    tag,
    tick,
    value,
    writing,
)
from evonas.dashboard.shelf import Shelf
from evonas.report.tables import duration, plain
from evonas.report.views import Card

ORDERS = {
    "newest": "newest first",
    "name": "name",
    "best": "best value",
    "hypervolume": "hypervolume",
    "state": "state",
}


def body(shelf: Shelf, place: Place) -> Part:
    """The controls, and the list as it is now."""
    query = place.query
    order = query.get("order", "newest")
    controls = html.Div(
        [
            dcc.Input(
                id="filter",
                type="search",
                value=query.get("filter", ""),
                placeholder="filter: name, task, strategy, state",
                debounce=False,
                className="search",
                autoFocus=True,
            ),
            dcc.Dropdown(
                id="order",
                options=[{"value": k, "label": v} for k, v in ORDERS.items()],
                value=order if order in ORDERS else "newest",
                clearable=False,
                searchable=False,
                className="choice",
            ),
            html.Span(id="picked", className="quiet"),
            dcc.Link("compare", id="compare", href="/compare", className="button off"),
        ],
        className="controls",
    )
    return html.Div(
        [
            html.Div([html.H1("Runs"), html.Span(plain(shelf.folder), className="quiet")], className="title"),
            controls,
            dcc.Store(id="chosen"),
            html.Div(_listed(shelf, query.get("filter", ""), order), id="runs", className="runs"),
        ]
    )


def register(app: Any, shelf: Shelf) -> None:
    """The page's callbacks."""
    app.callback(
        Output("runs", "children"), Input("filter", "value"), Input("order", "value"), Input("revision", "data"),
        State("chosen", "data"), prevent_initial_call=True,
    )(writing(lambda words, order, _, chosen: _again(shelf, words or "", order, chosen or ())))  # fmt: skip
    app.callback(
        Output("compare", "href"), Output("compare", "className"), Output("picked", "children"), Input("chosen", "data")
    )(_offered)


def _again(shelf: Shelf, words: str, order: str, chosen: Sequence[str]) -> Part:
    """The list anew; a page that has just come has it already."""
    return _listed(shelf, words, order, chosen) if ctx.triggered_id else no_update


def _offered(chosen: Sequence[str] | None) -> tuple[str, str, str]:
    """Where the button leads, how it looks, and how many runs are chosen."""
    chosen = chosen or ()
    words = f"{len(chosen)} chosen" if chosen else "choose runs to compare"
    return comparison(chosen), "button" if len(chosen) > 1 else "button off", words


def _listed(shelf: Shelf, words: str, order: str, picked: Sequence[str] = ()) -> Part:
    cards = shelf.cards()
    if not cards:
        return notice(
            f"No runs in {plain(shelf.folder)} yet. This page shows them as soon as they are there.",
            html.P(
                ["Start one with ", html.Code("evonas run RECIPE"), "; ", html.Code("evonas init"), " writes a recipe."]
            ),
        )
    shown = [card for card in cards if _fits(card, words)]
    if not shown:
        return notice(f"None of {len(cards)} runs has {words!r} in its name, task, strategy, encoding or state.")
    columns = [
        Column(html.Span("compare", className="unseen")),
        Column("run"),
        Column("state"),
        Column("progress"),
        Column("evaluated", True),
        Column("failed", True),
        Column("best", wide=True),
        Column("hypervolume", True),
        Column(""),
        Column("search"),
        Column("seed", True),
        Column("took", True),
        Column("age", True),
    ]
    return table(columns, [_row(card, card.name in picked) for card in _ordered(shown, order)], "Runs")


def _fits(card: Card, words: str) -> bool:
    told = f"{card.name} {card.task} {card.strategy} {card.encoding} {card.status}".lower()
    return all(word in told for word in words.lower().split())


def _ordered(cards: Sequence[Card], order: str) -> list[Card]:
    keys: dict[str, Any] = {
        "name": lambda card: card.name,
        "best": lambda card: (not card.best, next(iter(card.best.values()), 0.0)),
        "hypervolume": lambda card: -(card.hypervolume or 0.0),
        "state": lambda card: ("running", "interrupted", "finished", "unreadable").index(card.status),
    }
    return sorted(cards, key=keys[order]) if order in keys else list(cards)


def _row(card: Card, picked: bool) -> list[Part]:
    name = plain(card.name)
    pick = tick(card.name, picked, f"compare {name}")
    if card.problem:
        problem = html.Span(plain(card.problem), className="reason")
        return ["", html.Span(name, className="name"), tag(card.status, "bad"), *[""] * 3, problem, *[""] * 6]
    best = [
        html.Span([html.Span(plain(key), className="quiet"), " ", value(held)], className="pair")
        for key, held in card.best.items()
    ]
    return [
        pick,
        link(name, address(card.name), "name"),
        tag(card.status, card.status),
        _progress(card),
        f"{card.evaluations:,}",
        f"{card.failed:,}" if card.failed else "",
        best,
        value(card.hypervolume),
        _trend(card.trend),
        html.Span(f"{plain(card.task)} · {plain(card.strategy)} · {plain(card.encoding)}", className="quiet"),
        str(card.seed),
        duration(card.seconds) if card.seconds else "",
        ago(card.started),
    ]


def _progress(card: Card) -> Part:
    share = card.generation / card.generations if card.generations else 0.0
    bar = html.Div(html.Div(style={"width": f"{100 * min(share, 1):.0f}%"}), className="bar")
    words = [bar, html.Span(f"{card.generation} of {card.generations}", className="num")]
    return html.Div([*words, tag("goal", "good")] if card.solved is not None else words, className="progress")


def _trend(points: Sequence[float]) -> Part:
    """Hypervolume by generation as a small picture."""
    step = max(1, len(points) // 60)
    seen = [*points[::step], *points[-1:]] if len(points) > 1 else []
    return {"trend": [float(f"{one:.6g}") for one in seen], "label": "hypervolume by generation"} if seen else ""
