"""A run as one page of HTML that needs nothing else: figures, tables, networks, recipe, and how to get it again.

It opens from a disk, asks no server for anything (a content security policy forbids it), follows the reader's light or
dark theme and prints on white paper. Every figure is there as SVG; where plotly is installed its interactive twin takes
the place on a screen. Every text is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from evonas import yaml
from evonas.core import RecipeError
from evonas.report import html, pictures, plots, tables, views
from evonas.report.html import escape
from evonas.report.tables import Column, Table, duration, number

if TYPE_CHECKING:
    from evonas.cohort import Everyone
    from evonas.results import Row, Run

LARGEST = 400
"""Steps or links of a network that is still drawn: beyond them a drawing is neither read nor light."""

_FRAMES = 60
"""Generations up to which the front's figure holds one frame for each."""


def document(run: Run, *, interactive: bool = True) -> str:
    """The page of a run, as text: 0.2 MB, with plotly's script 5.1 MB; 1.7 and 8.1 MB for 100,000 individuals, of whom
    those that would hide each other are drawn once."""
    script = _plotly() if interactive else ""
    page = _Page(run, run.everyone(), bool(script))
    body = "".join(section(page) for section in _SECTIONS)
    scripts = [script, _SCRIPT] if page.twins else []
    data = json.dumps(page.twins, allow_nan=False).replace("<", "\\u003c")
    twins = f'<script type="application/json" id="twins">{data}</script>' if page.twins else ""
    return _HTML.format(
        policy=_policy(scripts), title=escape(run.name), style=_STYLE, body=body,
        scripts=twins + "".join(f"<script>{one}</script>" for one in scripts),
    )  # fmt: skip


def _plotly() -> str:
    """plotly.js as it comes with plotly; empty where that is not installed."""
    found = find_spec("plotly")
    if found is None or found.origin is None:
        return ""
    path = Path(found.origin).parent / "package_data" / "plotly.min.js"
    return path.read_text("utf-8").replace("</script", "<\\/script") if path.is_file() else ""


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is loaded from anywhere, and no script runs but these."""
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


class _Page:
    """What the sections share: the run, read once, and the interactive twins of its figures by name and theme."""

    def __init__(self, run: Run, everyone: Everyone, interactive: bool) -> None:
        self.run, self.everyone, self.interactive = run, everyone, interactive
        self.history = run.generations()
        self.front: list[Row] = run.front()
        self.winners = _winners(run, self.front)
        self.twins: dict[str, dict[str, Any]] = {}

    def figure(self, name: str, label: str, drawn: Figure, twin: Callable[[plots.Theme], Any] | None = None) -> str:
        """A figure with what it shows, and its twin for screens."""
        live = ""
        if twin is not None and self.interactive:
            light, dark = twin(plots.LIGHT), twin(plots.DARK)
            self.twins[name] = {"light": light, "dark": _changes(light, dark)}
            live = f'<div class="live" data-twin="{escape(name)}"></div>'
        still = f'<div class="still">{html.drawn(drawn, label, name)}</div>'
        return f"<figure>{live}{still}<figcaption>{escape(label)}</figcaption></figure>"


def _changes(one: Any, other: Any, place: tuple[str | int, ...] = ()) -> list[list[Any]]:
    """Where two figures of the same data differ, as [place, value of the other]: the data are written once."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [change for key in one for change in _changes(one[key], other[key], (*place, key))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            change for i, pair in enumerate(zip(one, other, strict=True)) for change in _changes(*pair, (*place, i))
        ]
    return [] if one == other else [[list(place), other]]


def _winners(run: Run, front: Sequence[Row]) -> list[tuple[str, Row]]:
    """Who is shown in full, with why: who reached the goal, the knee, the best of each objective, the tested."""
    chosen: dict[int, list[str]] = {}
    rows = {row.id: row for row in front}
    if run.solved is not None:
        rows[run.solved] = rows.get(run.solved) or run.rows([run.solved])[0]
        chosen.setdefault(run.solved, []).append("reached the goal")
    for row in front:
        if row.knee:
            chosen.setdefault(row.id, []).append("knee")
    for one in run.objectives[:3]:
        ordered = tables.ordered(front, one)
        if ordered:
            chosen.setdefault(ordered[0].id, []).append(f"best {one.name}")
    for row in front:
        if row.tested and len(chosen) < 6:
            chosen.setdefault(row.id, []).append("tested")
    return [(", ".join(why), rows[id]) for id, why in chosen.items()]


# --------------------------------------------------------------------------------------------------------- sections


def _head(page: _Page) -> str:
    run, recipe, last = page.run, page.run.recipe, page.history[-1:]
    shape = "×".join(map(str, run.about["task"]["input"]))
    about = (
        f"{recipe.strategy.kind} over {recipe.encoding.kind} genomes for {recipe.task.kind} (input {shape}, "
        f"{run.about['task']['outputs']} outputs), {run.status} after {len(page.history)} of "
        f"{recipe.strategy.generations} generations"
    )
    failed = sum(row["failed"] for row in page.history)
    tiles = [
        ("evaluated", f"{last[0]['evaluations']:,}" if last else "0"),
        ("failed", f"{failed:,}"),
        ("on the front", f"{len(page.front):,}"),
        *((f"best {name}", number(value)) for name, value in (last[0]["best"] if last else {}).items()),
        ("hypervolume", number(last[0]["hypervolume"]) if last and last[0]["hypervolume"] is not None else "–"),
        ("time", duration(sum(row["seconds"] or 0.0 for row in page.history))),
    ]
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in tiles)
    return f'<header><h1>{escape(run.name)}</h1><p>{escape(about)}</p><div class="tiles">{cells}</div></header>'


def _front(page: _Page) -> str:
    run, view = page.run, views.front(page.run, page.everyone)
    if len(run.objectives) < 2:
        name, drawn = f"{run.objectives[0].name} over the evaluations", run.plot.history()
    else:
        name, drawn = "the Pareto front; its knee, the best trade-off, is marked", pictures.front(run, view)
    animated = 1 < len(view.fronts) <= _FRAMES
    if not len(view.ids):
        return _section("The front", _told(page))
    figure = page.figure("front", name, drawn, lambda theme: plots.front(view, theme, animated=animated))
    table = tables.individuals(page.front, run.objectives)
    title = "The front" if len(run.objectives) > 1 else "The best"
    return _section(title, _told(page), figure, _scroll(html.table(table)) if page.front else "")


def _told(page: _Page) -> str:
    """The outcome in sentences."""
    lines = []
    for why, row in page.winners:
        values = ", ".join(f"{one.name} {number(row.values[one.name])}" for one in page.run.objectives)
        tests = ", ".join(f"{name} {number(value)}" for name, value in row.tested.items())
        link = f'<a href="#network-{row.id}">individual {row.id}</a>'
        tested = f"; on the test set {escape(tests)}" if tests else ""
        lines.append(f"<li>{escape(why)}: {link} with {escape(values)}{tested}</li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else "<p>Nobody is on the front yet: no generation has finished.</p>"


def _hypervolume(page: _Page) -> str:
    trend = views.trend(page.run, page.everyone)
    if not len(trend.hypervolume):
        return ""
    costs = [cost for cost in ("evaluations", "samples", "seconds") if trend.over(cost).any()][:2]
    figures = [_volume(page, trend, cost) for cost in costs]
    return _section("Hypervolume", f'<div class="pair">{"".join(figures)}</div>')


def _volume(page: _Page, trend: views.Trend, cost: str) -> str:
    return page.figure(
        f"hypervolume-{cost}", f"hypervolume over {views.COSTS[cost]}", pictures.hypervolume(trend, cost),
        lambda theme: plots.hypervolume([trend], theme, over=cost),
    )  # fmt: skip


def _species(page: _Page) -> str:
    view = views.species(page.run)
    if not view.ids:
        return ""
    figure = page.figure(
        "species", "members of each species over the generations", page.run.plot.species(),
        lambda theme: plots.species(view, theme),
    )  # fmt: skip
    table = _without(tables.species(page.run.species(), page.run.objectives), "members")
    return _section("Species", figure, _scroll(html.table(table, "living in the last generation")))


def _networks(page: _Page) -> str:
    parts = [_network(page, why, row) for why, row in page.winners]
    return _section("Networks", f'<div class="networks">{"".join(parts)}</div>') if parts else ""


def _network(page: _Page, why: str, row: Row) -> str:
    plan = page.run.plan(row.id)
    size = len(plan.steps[-1].settings["links"]) if plan.is_graph else len(plan.steps)
    if plan.cells is not None:  # each of them is drawn once
        size = sum(map(len, plan.cells.edges))
    if size > LARGEST:
        drawn = f"<p>It has {size:,} parts, too many to draw.</p>"
    else:
        drawn = html.drawn(page.run.plot.network(row.id), f"network of individual {row.id}", f"network{row.id}")
    return f'<article id="network-{row.id}"><h3>{escape(why)}</h3><div class="wide">{drawn}</div></article>'


def _lineage(page: _Page) -> str:
    if not page.winners:
        return ""
    run, (_, row) = page.run, page.winners[0]
    view = views.lineage(run, row.id)
    if len(view.members) == 1:
        kept = "its parents were not kept" if view.unknown else "it is a founder, and has no ancestors"
        return _section("Lineage", f"<p>Of individual {row.id}: {kept}.</p>")
    size = _size(view)
    figure = page.figure(
        "lineage", f"ancestors of individual {row.id} from the founders on", pictures.lineage(run, view),
        lambda theme: plots.lineage(view, theme, size=size),
    )  # fmt: skip
    rows = run.rows([one.id for one in view.trunk])
    table = tables.lineage(rows, {one.id: one.edits for one in view.trunk}, run.objectives)
    note = "<p>Older ancestors were not kept.</p>" if view.unknown else ""
    return _section("Lineage", figure, _scroll(html.table(table, "the line of first parents")), note)


def _size(view: views.Lineage) -> str:
    """What a lineage shows as size: the parameters, where they were recorded."""
    return "params" if "params" in view.axes else ""


def _curves(page: _Page) -> str:
    ids = [row.id for _, row in page.winners][:6]
    try:
        drawn = page.run.plot.curve(ids) if ids else None
    except RecipeError:  # nobody was trained: weights are genes, or looked up
        return ""
    return (
        _section("Learning curves", page.figure("curves", "learning curves of these networks", drawn)) if drawn else ""
    )


def _failures(page: _Page) -> str:
    found = views.failures(page.everyone)
    if not found:
        return _section("Failures", "<p>No estimate failed.</p>")
    columns = (
        Column("count", "failed"),
        Column("reason", "reason", right=False),
        Column("ids", "such as", _listed, False),
    )
    table = Table(columns, tuple((one.count, one.reason, list(one.ids)) for one in found[:50]))
    return _section("Failures", _scroll(html.table(table)))


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


def _record(page: _Page) -> str:
    run, about, task = page.run, page.run.about, page.run.about["task"]
    versions = ", ".join(f"{name} {about[name]}" for name in _VERSIONS if about.get(name))
    sizes = ", ".join(f"{count:,} {part}" for part, count in task["sizes"].items())
    facts = [
        ("seed", str(run.recipe.seed)),
        ("started", str(about.get("started", "?"))),
        ("versions", versions),
        ("machine", f"{about.get('platform', '?')}, {about.get('cores', '?')} cores"),
        *([("rows", sizes)] if sizes else []),
        *_estimation(run),
        ("fingerprint of the data", task["fingerprint"]),
    ]
    recipe = yaml.dump(run.recipe.model_dump(mode="json"))
    events = "".join(f"<li>{escape(event['kind'])}: {escape(event['text'])}</li>" for event in run.events()[-40:])
    return _section(
        "Record", html.facts(facts), f'<ul class="events">{events}</ul>',
        f"<details><summary>the whole recipe</summary><pre>{_lines(recipe)}</pre></details>",
    )  # fmt: skip


def _estimation(run: Run) -> list[tuple[str, str]]:
    """What ending trainings early has saved, and how far brief looks agree with close ones."""
    facts = []
    if (saved := run.saved()) is not None:
        text = f"{saved.pruned} trainings, which saved {number(saved.epochs)} epochs ({saved.share:.0%})"
        facts.append(("ended early", text))
    facts += [("order by fidelities", one.warning or str(one)) for one in run.agreements()]
    return facts


_VERSIONS = ("evonas", "python", "torch", "numpy", "deap", "moocore")


def _again(page: _Page) -> str:
    run = page.run
    best = page.winners[0][1].id if page.winners else "ID"
    commands = [
        f"evonas run recipe.yaml --name {run.name}    # the recipe above",
        f"evonas front {run.name}",
        f"evonas export {run.name} {best} --to module",
    ]
    told = (
        "The recipe names every random stream by its seed: the same recipe, data and versions on the same kind of "
        "processor give the same networks under the same ids, however many workers there are."
    )
    return _section("How to get this again", f"<p>{told}</p><pre>{_lines(chr(10).join(commands))}</pre>")


_SECTIONS: tuple[Callable[[_Page], str], ...] = (
    _head, _front, _hypervolume, _species, _networks, _lineage, _curves, _failures, _record, _again,
)  # fmt: skip


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _scroll(content: str) -> str:
    return f'<div class="wide">{content}</div>'


def _lines(content: str) -> str:
    return "\n".join(escape(line) for line in content.split("\n"))


def _without(table: Table, key: str) -> Table:
    keep = [i for i, column in enumerate(table.columns) if column.key != key]
    rows: tuple[tuple[Any, ...], ...] = tuple(tuple(row[i] for i in keep) for row in table.rows)
    return Table(tuple(table.columns[i] for i in keep), rows, table.marked)


# ------------------------------------------------------------------------------------------------------------- page

_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} - evonas report</title><style>{style}</style></head>
<body><main>{body}</main>{scripts}</body></html>
"""


def _colours(theme: plots.Theme) -> str:
    return ";".join(f"--c{i}:{colour}" for i, colour in enumerate(theme.palette))


_STYLE = """
:root{--paper:#fff;--ink:#262a30;--soft:#5b626c;--faint:#9aa1ab;--grid:#e6e8ec;--panel:#f7f8fa;--warm:#fdf1dc;
--accent:#0b66c2;--tint:#e8f1fb}
@media(prefers-color-scheme:dark){:root{--paper:#15181d;--ink:#e6e9ed;--soft:#a3acb8;--faint:#78818d;--grid:#2a3038;
--panel:#1b1f26;--warm:#3a2f1a;--accent:#58a6ff;--tint:#16283c;DARKS}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 80px}
h1{font-size:28px;margin:0;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 12px;padding-top:10px;border-top:1px solid var(--grid)}
h3{font-size:14px;margin:0 0 6px;color:var(--soft);font-weight:600}
header p{margin:4px 0 18px;color:var(--soft);overflow-wrap:anywhere}
section{margin-top:34px}
a{color:var(--accent)}
.tiles{display:flex;flex-wrap:wrap;gap:10px}
.tiles div{background:var(--panel);border-radius:8px;padding:9px 14px;min-width:96px}
.tiles b{display:block;font-size:19px;font-variant-numeric:tabular-nums}
.tiles span{font-size:12px;color:var(--soft);overflow-wrap:anywhere}
figure{margin:12px 0;min-width:0}
figcaption{font-size:13px;color:var(--soft);margin-top:2px}
.figure{max-width:100%;height:auto;display:block;font-family:"DejaVu Sans",Verdana,sans-serif}
.live{display:none;height:460px}
.drawn>.live{display:block}
.drawn>.still{display:none}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:20px}
.pair .live{height:360px}
.networks{display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start}
article{min-width:0;max-width:100%;scroll-margin-top:12px}
article:target{outline:2px solid var(--accent);outline-offset:8px;border-radius:4px}
.wide{overflow:auto;max-height:760px}
article .wide{max-height:none}
thead th{position:sticky;top:0;background:var(--paper)}
table{border-collapse:collapse;font-size:13px;min-width:50%}
caption{text-align:left;color:var(--soft);padding:6px 0}
th,td{text-align:left;padding:4px 16px 4px 0;border-bottom:1px solid var(--grid);vertical-align:top;
overflow-wrap:break-word;max-width:46em}
td:last-child{overflow-wrap:anywhere;min-width:9em}
th{color:var(--soft);font-weight:500;white-space:nowrap;overflow-wrap:normal}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.marked td{background:var(--tint);font-weight:600}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:0 0 12px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.events{color:var(--soft);font-size:13px;padding-left:18px;overflow-wrap:anywhere}
pre{background:var(--panel);border-radius:8px;padding:12px 14px;overflow-x:auto;font-size:12.5px;line-height:1.45}
summary{cursor:pointer;color:var(--accent)}
@media print{:root{--paper:#fff;--ink:#262a30;--soft:#5b626c;--faint:#9aa1ab;--grid:#e6e8ec;--panel:#f7f8fa;
--warm:#fdf1dc;--tint:#e8f1fb;LIGHTS}
body{font-size:11pt}main{max-width:none;padding:0}
.drawn>.live{display:none}.drawn>.still{display:block}
figure,article,tr{break-inside:avoid}h2,h3{break-after:avoid}.wide{overflow:visible;max-height:none}
pre{white-space:pre-wrap;columns:2;font-size:8pt}details::details-content{content-visibility:visible}}
""".replace("DARKS", _colours(plots.DARK)).replace("LIGHTS", _colours(plots.LIGHT))

_SCRIPT = """
(function () {
  var twins = JSON.parse(document.getElementById("twins").textContent);
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  var config = CONFIG;
  Object.keys(twins).forEach(function (name) { twins[name].light = JSON.stringify(twins[name].light); });
  function put(figure, place, value) {
    place.slice(0, -1).forEach(function (key) { figure = figure[key]; });
    figure[place[place.length - 1]] = value;
  }
  function picked(event) {
    var data = event.points[0] && event.points[0].customdata;
    var shown = data && document.getElementById("network-" + (data[0] === undefined ? data : data[0]));
    if (shown) { location.hash = shown.id; }
  }
  function draw(box) {
    var twin = JSON.parse(twins[box.dataset.twin].light);
    if (dark.matches) { twins[box.dataset.twin].dark.forEach(function (change) { put(twin, change[0], change[1]); }); }
    box.parentNode.classList.add("drawn");
    Plotly.newPlot(box, twin.data, twin.layout, config).then(function (plot) {
      if (twin.frames) { Plotly.addFrames(plot, twin.frames); }
      plot.on("plotly_click", picked);
    });
  }
  function all() { document.querySelectorAll("[data-twin]").forEach(draw); }
  dark.addEventListener("change", all);
  all();
})();
""".replace("CONFIG", json.dumps(plots.CONFIG))
"""Puts the interactive twins in the places of still figures; what is printed stays still."""
