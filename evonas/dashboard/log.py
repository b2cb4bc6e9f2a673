"""What a run was asked to do and what happened: recipe, versions, hardware, failures by reason, events, generations."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dash import Input, Output, dcc, html

from evonas import yaml
from evonas.dashboard.parts import Column, Part, Place, facts, notice, panel, person, table, value, writing
from evonas.dashboard.shelf import Shelf
from evonas.report.tables import duration, plain

NEWEST = 60
"""Generations that the table lists, from the newest on."""

_PROGRAMS = ("evonas", "python", "torch", "numpy", "deap", "moocore")


def body(shelf: Shelf, place: Place) -> Part:
    """The recipe as it was resolved, and the places of what goes on."""
    with shelf.open(place.run) as run:
        recipe, about = yaml.dump(run.store.recipe), run.about
    return html.Div([
        html.Div([
            html.Div([
                panel("Failures", html.Div(id="failures")),
                panel("Generations", html.Div(id="generations")),
                panel("Events", html.Div(id="events")),
            ], className="stack"),
            html.Div([
                panel("Versions and hardware", facts(_about(about))),
                panel("Recipe", html.Pre(plain_lines(recipe), id="recipe", tabIndex=0),
                      aside=dcc.Clipboard(target_id="recipe", title="copy the recipe", className="copy")),
            ], className="stack"),
        ], className="columns even"),
    ])  # fmt: skip


def register(app: Any, shelf: Shelf) -> None:
    """The page's callbacks."""
    place, revision = Input("place", "data"), Input("revision", "data")
    for id, write in (("failures", _failures), ("generations", _generations), ("events", _events)):
        app.callback(Output(id, "children"), place, revision)(_for(shelf, write))


def _for(shelf: Shelf, write: Any) -> Any:
    return writing(lambda place, _: write(shelf, place["run"]))


def plain_lines(text: str) -> str:
    """Text of several lines without control characters."""
    return "\n".join(plain(line) for line in text.split("\n"))


def _about(about: Mapping[str, Any]) -> list[tuple[str, Part]]:
    task = about.get("task", {})
    rows = [(name, about.get(name)) for name in _PROGRAMS]
    rows += [
        ("platform", about.get("platform")), ("processor", about.get("processor")), ("cores", about.get("cores")),
        ("capability", about.get("cpu_capability")), ("GPU", about.get("cuda")), ("threads", about.get("threads")),
        ("seed", about.get("seed")), ("started", about.get("started")),
        ("input", "×".join(map(str, task.get("input", ())))), ("outputs", task.get("outputs")),
        ("data", ", ".join(f"{name} {count:,}" for name, count in task.get("sizes", {}).items())),
        ("fingerprint", task.get("fingerprint")),
    ]  # fmt: skip
    return [(name, plain(str(held))) for name, held in rows if held not in (None, "")]


def _failures(shelf: Shelf, run: str) -> Part:
    found = shelf.failures(run)
    if not found:
        return notice("Nobody has failed.")
    columns = [Column("count", True), Column("reason", wide=True), Column("last in", True), Column("such as")]
    rows = []
    for one in found:
        examples: list[Part] = []
        for id in one.ids:
            examples += [" " if examples else "", person(run, id)]
        rows.append(
            [f"{one.count:,}", html.Span(plain(one.reason), className="reason"), str(one.last), html.Span(examples)]
        )
    return table(columns, rows, "Failures by reason")


def _generations(shelf: Shelf, run: str) -> Part:
    with shelf.open(run) as opened:
        passed = opened.store.history()
    if not passed:
        return notice("No generation has finished yet.")
    columns = [
        Column("gen.", True),
        Column("evaluated", True),
        Column("failed", True),
        Column("hypervolume", True),
        Column("took", True),
    ]
    rows = [
        [str(one.generation), f"{one.evaluations:,}", f"{one.failed:,}" if one.failed else "", value(one.hypervolume),
         duration(one.seconds) if one.seconds is not None else ""]
        for one in passed[: -NEWEST - 1 : -1]
    ]  # fmt: skip
    rest = (
        html.P(f"and {len(passed) - NEWEST} earlier ones: evonas show lists all", className="quiet")
        if len(passed) > NEWEST
        else None
    )
    return [table(columns, rows, "Generations"), rest]


def _events(shelf: Shelf, run: str) -> Part:
    with shelf.open(run) as opened:
        events = opened.events()
    if not events:
        return notice("Nothing happened yet beside the search itself.")
    rows = [[time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["time"])), plain(one["kind"]), plain(one["text"])]
            for one in events[-200:]]  # fmt: skip
    return table([Column("time"), Column("what"), Column("", wide=True)], rows, "Events")
