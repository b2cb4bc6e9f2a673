"""What every page is made of: places and their addresses, headings, tables, tags, empty states; and the theme.

Everything that runs, recipes or genomes say goes into components as text, which React escapes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec
from urllib.parse import parse_qsl, quote, unquote, urlencode

from dash import ClientsideFunction, dcc, html
from flask import has_request_context, request

from evonas.core import EvonasError, Json
from evonas.report import plots
from evonas.report.plots import Figure, Theme
from evonas.report.tables import number, plain

_P = ParamSpec("_P")

Part = Any
"""A Dash component, text, or several."""

TABS = {"front": "Front", "species": "Species", "lineage": "Lineage", "log": "Recipe and log"}
"""Pages of a run with a tab of their own; individuals are reached from them."""


# ----------------------------------------------------------------------------------------------------------- places


@dataclass(frozen=True)
class Place:
    """Where a reader is: a page, of a run and an individual where it has them, and what the address says besides.

    Of a key that the address repeats the values are joined by `/`, which no run's name can contain."""

    page: str
    run: str = ""
    id: int | None = None
    query: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(path: str, search: str = "") -> Place:
        """The place of an address; `missing` where there is none such."""
        query: dict[str, str] = {}
        for key, held in parse_qsl(search.lstrip("?"), max_num_fields=50):
            query[key] = f"{query[key]}/{held}" if key in query else held
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts == [""]:
            return Place("runs", query=query)
        if parts == ["compare"]:
            return Place("compare", query=query)
        if parts[0] == "run" and len(parts) == 2:
            return Place("front", parts[1], query=query)
        if parts[0] == "run" and len(parts) == 3 and parts[2] in TABS:
            return Place(parts[2], parts[1], query=query)
        if parts[0] == "run" and len(parts) == 4 and parts[2] in ("individual", "lineage") and _is_id(parts[3]):
            return Place(parts[2], parts[1], int(parts[3]), query)
        return Place("missing")

    def data(self) -> dict[str, Any]:
        """For the page to hand back."""
        return {"page": self.page, "run": self.run, "id": self.id, "query": dict(self.query)}


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def address(run: str, page: str = "front", id: int | None = None, **query: str) -> str:
    """The address of a run's page; a run's name is one part of it, whatever it contains."""
    path = f"/run/{quote(run, safe='')}/{page}" + ("" if id is None else f"/{id}")
    return path + (f"?{urlencode(query)}" if query else "")


def comparison(runs: Sequence[str]) -> str:
    """The address of a comparison."""
    return "/compare?" + urlencode([("run", run) for run in runs])


def theme() -> Theme:
    """The theme that the reader chose, from a cookie."""
    name = request.cookies.get("evonas-theme", "") if has_request_context() else ""
    return plots.THEMES.get(name, plots.LIGHT)


# ------------------------------------------------------------------------------------------------------------ parts


def labelled(part: Any, label: str) -> Part:
    """A component with a name for those who do not see it."""
    setattr(part, "aria-label", label)  # no name of Python's
    return part


def client(app: Any, function: str, *parts: Any, first: bool = False) -> None:
    """A callback of the page's own script; called when a page has come only if `first`."""
    app.clientside_callback(ClientsideFunction("evonas", function), *parts, prevent_initial_call=not first)


def link(words: Part, to: str, class_: str = "") -> Part:
    """A link within the dashboard."""
    return dcc.Link(words, href=to, className=class_ or None)


def person(run: str, id: int, words: Part = None) -> Part:
    """A link to an individual."""
    return link(str(id) if words is None else words, address(run, "individual", id), "num")


def panel(title: Part, *children: Part, aside: Part = None, class_: str = "") -> Part:
    """A titled part of a page."""
    head = html.Div([html.H2(title), aside], className="panel-head")
    return html.Section([head, *flat(children)], className=f"panel {class_}".strip())


def flat(parts: Sequence[Part]) -> list[Part]:
    """Parts one level deep: Dash takes no lists within lists."""
    return [one for part in parts for one in (flat(part) if isinstance(part, (list, tuple)) else [part])]


def notice(words: str, *more: Part) -> Part:
    """Plain words where there is nothing to show."""
    return html.Div([html.P(words), *more], className="notice")


def tag(words: str, kind: str = "") -> Part:
    """A word in a frame, such as a state."""
    return html.Span(words, className=f"tag {kind}".strip())


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading; numbers stand to the `right`, a `wide` column takes what room is left, and a
    `clipped` one keeps to a line of it."""

    title: Part
    right: bool = False
    wide: bool = False
    clipped: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[Part]], label: str, marked: Sequence[bool] = ()) -> Part:
    """A table of components; `marked` rows stand out.

    It travels as one attribute that the page's own script draws, text as text: as components, each of which Dash keeps
    watch over, 200 rows took seconds."""
    told = {
        "label": label,
        "heads": [[_told(column.title), _class(column)] for column in columns],
        "rows": [[_told(cell) for cell in row] for row in rows],
        "marked": [at for at, stands in enumerate(marked) if stands],
    }
    made: Any = html.Div(className="scroll")
    setattr(made, "data-table", json.dumps(told, separators=(",", ":")))
    return made


def tick(value: str, on: bool, label: str) -> Part:
    """A box of a table to tick; those that are ticked become the data of the store `chosen`."""
    return {"tick": value, "on": on, "label": label}


_TAGS = {"A": "a", "Link": "a", "B": "b", "Br": "br", "Code": "code", "Div": "div", "Span": "span"}


def _told(part: Part) -> Json:
    """A component as the page's script takes it."""
    if part is None or isinstance(part, (str, dict)):
        return part or ""
    if isinstance(part, (list, tuple)):
        return [_told(one) for one in part]
    held = {"tag": _TAGS[type(part).__name__], "in": _told(getattr(part, "children", None))}
    for key, name in (("class", "className"), ("to", "href"), ("title", "title"), ("style", "style")):
        if (value := getattr(part, name, None)) is not None:
            held[key] = value
    return held


def _class(column: Column) -> str | None:
    words = (("right", column.right), ("wide", column.wide), ("clipped", column.clipped))
    return " ".join(word for word, on in words if on) or None


def facts(pairs: Sequence[tuple[str, Part]]) -> Part:
    """Names with their values."""
    return html.Dl([part for name, value in pairs for part in (html.Dt(name), html.Dd(value))], className="facts")


def graph(id: str, figure: Figure | None = None, height: int = 420, label: str = "") -> Part:
    """A figure's place; with `figure` it is drawn at once."""
    config: Any = plots.CONFIG
    drawn = dcc.Graph(id=id, figure=figure or blank(), config=config, responsive=True, style={"height": f"{height}px"})
    return labelled(html.Div(drawn, role="figure", className="figure"), label)


def blank() -> Figure:
    """A figure that is still to come."""
    return plots.empty("", theme())


def choice(id: str, label: str, options: Sequence[tuple[str, str]], value: str) -> Part:
    """A labelled choice of one; the native control, which every keyboard and screen reader knows."""
    picked = dcc.Dropdown(
        id=id, options=[{"value": name, "label": words} for name, words in options], value=value, clearable=False,
        searchable=len(options) > 8, className="choice",
    )  # fmt: skip
    return html.Label([html.Span(label), picked], className="control")


def value(of: float | None) -> str:
    """A number for a table, nothing for none."""
    return "" if of is None else number(of)


def ago(moment: float | None) -> str:
    """How long ago: `12 s`, `5 min`, `3 h`, `2 d`."""
    if moment is None:
        return ""
    seconds = max(0.0, time.time() - moment)
    for limit, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= limit:
            return f"{seconds / limit:.0f} {unit}"
    return f"{seconds:.0f} s"


def told(error: EvonasError) -> str:
    """An error's message as a page shows it."""
    return plain(" ".join(str(error).split()))


def drawing(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """A callback that draws: where a run cannot be read, its figure says why."""

    @wraps(draw)
    def inner(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        try:
            return draw(*args, **kwargs)
        except EvonasError as error:
            return plots.empty(told(error)[:160], theme())

    return inner


def writing(write: Callable[_P, Part]) -> Callable[_P, Part]:
    """A callback that gives components: where a run cannot be read, they say why."""

    @wraps(write)
    def inner(*args: _P.args, **kwargs: _P.kwargs) -> Part:
        try:
            return write(*args, **kwargs)
        except EvonasError as error:
            return notice(told(error))

    return inner
