"""Pieces of HTML from tables, facts and figures: every text is escaped, nothing is fetched, no script runs."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape as _escape
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from evonas.report import figures, tables
from evonas.report.tables import Table, plain

if TYPE_CHECKING:
    from evonas.results import Row, Run

_THEMED: Mapping[str, str] = {
    figures.INK: "ink",
    figures.SOFT: "soft",
    figures.FAINT: "faint",
    figures.GRID: "grid",
    "#ffffff": "paper",
    "#F7F8FA": "panel",
    "#EEF0F3": "panel",
    "#FDF1DC": "warm",
    **{colour: f"c{i}" for i, colour in enumerate(figures.PALETTE)},
}
"""Colours of figures that follow the page's theme, with the name of their variable."""

_ANY_THEMED = re.compile("|".join(map(re.escape, _THEMED)), re.IGNORECASE)
_NAMES = {colour.lower(): name for colour, name in _THEMED.items()}
_LOCAL = re.compile(r'(\bid="|xlink:href="#|\bhref="#|url\(#)')


def escape(value: object) -> str:
    """A value as text between tags or in a quoted attribute; control characters are spelt out."""
    return _escape(plain(value), quote=True)


def table(shown: Table, name: str = "") -> str:
    """A table with its exact short values, numbers to the right; marked rows have the class `marked`."""
    side = [' class="number"' if column.right else "" for column in shown.columns]
    heads = "".join(
        f'<th scope="col"{at}>{escape(one.title)}</th>' for one, at in zip(shown.columns, side, strict=True)
    )
    rows = []
    for i, row in enumerate(shown.shown()):
        cells = "".join(f"<td{at}>{_escape(cell)}</td>" for cell, at in zip(row, side, strict=True))
        mark = ' class="marked"' if i in shown.marked else ""
        rows.append(f"<tr{mark}>{cells}</tr>")
    caption = f"<caption>{escape(name)}</caption>" if name else ""
    return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and texts as a list of descriptions."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in pairs)}</dl>"


def drawn(figure: Figure, label: str, key: str) -> str:
    """A figure as SVG within the page: its inks follow the page's variables, its ids begin with `key`."""
    svg = figures.render(figure, "svg").decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="([0-9.]+)pt"( [^>]*?)? height="([0-9.]+)pt"', r"\1\3", svg, count=1)
    svg = _LOCAL.sub(rf"\1{key}-", svg)
    svg = _ANY_THEMED.sub(lambda found: f"var(--{_NAMES[found[0].lower()]},{found[0]})", svg)
    width = round(figure.get_figwidth() * 96)
    head = f'<svg class="figure" role="img" aria-label="{escape(label)}" style="width:{width}px"'
    return svg.replace("<svg", head, 1)


def picture(figure: Figure, label: str) -> str:
    """A figure as an image on white paper, for pages whose theme is not known."""
    data = base64.b64encode(figures.render(figure, "svg")).decode()
    return f'<img alt="{escape(label)}" style="max-width:100%;background:#fff" src="data:image/svg+xml;base64,{data}">'


# -------------------------------------------------------------------------------------------------------- notebooks

_NOTEBOOK = (
    "<style>.evonas td,.evonas th{text-align:left;padding:2px 10px;white-space:nowrap}.evonas .number{text-align:right}"
    ".evonas .marked{font-weight:bold}.evonas dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1em;margin:0}"
    ".evonas dt{opacity:.65}.evonas dd{margin:0}</style>"
)
_MANY = 60


def run(shown: Run) -> str:
    """A run as a notebook shows it: what it is, its front as a figure and as a table."""
    done, last = len(shown.generations()), shown.generations()[-1:]
    about = [
        ("run", f"{shown.name}, {shown.status}, {done} of {shown.recipe.strategy.generations} generations"),
        ("search", f"{shown.recipe.strategy.kind} on {shown.recipe.encoding.kind}, task {shown.recipe.task.kind}"),
        ("evaluated", f"{last[0]['evaluations']:,}" if last else "none yet"),
    ]
    figure = shown.plot.front() if len(shown.objectives) > 1 else shown.plot.history()
    front = shown.front()
    parts = [f"<h4>{escape(shown.name)}</h4>", facts(about), picture(figure, f"front of {shown.name}")]
    return f'{_NOTEBOOK}<div class="evonas">{"".join(parts)}{rows(front, shown)}</div>'


def rows(shown: Sequence[Row], run: Run) -> str:
    """Individuals as a table; of very many the first ones."""
    some = tables.individuals(shown[:_MANY], run.objectives)
    more = f"<p>and {len(shown) - _MANY:,} more</p>" if len(shown) > _MANY else ""
    return f'{_NOTEBOOK}<div class="evonas">{table(some)}{more}</div>'
