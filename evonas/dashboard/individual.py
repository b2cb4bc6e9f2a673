"""One individual: its network as a graph, objectives, edits from its parents, origin of its weights, learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dash_cytoscape as cytoscape
from dash import Input, Output, html

from evonas.core import EvonasError, Objective, RecipeError
from evonas.dashboard import network
from evonas.dashboard.parts import (
    Column,
    Part,
    Place,
    address,
    client,
    facts,
    graph,
    labelled,
    link,
    notice,
    panel,
    person,
    table,
    tag,
    theme,
    value,
)
from evonas.dashboard.shelf import Shelf
from evonas.encoding.plan import Plan
from evonas.report import cells, drawing, plots, views
from evonas.report.plots import short
from evonas.report.tables import duration, number, plain
from evonas.results import Bequest, Run

DOWNLOADS = {
    "genome": "genome (JSON)",
    "weights": "weights (safetensors)",
    "module": "PyTorch module (zip)",
    "onnx": "ONNX",
}


def body(shelf: Shelf, place: Place) -> Part:
    """The whole page: nothing of a finished individual changes."""
    assert place.id is not None
    view = shelf.front(place.run)
    with shelf.open(place.run) as run:
        if not run.store.kept([place.id]):
            return _unkept(run, view, place.id)
        plan, changes = run.plan(place.id), views.changes(run, place.id)
        estimate = run.estimate(place.id)
        curve = plots.curve(estimate.curve if estimate else (), theme())
        bequests = _bequests(run, place.id)
        head = _head(run, view, place.id)
        layered = not plan.is_graph and plan.cells is None
        layers = panel("Layers" if layered else "Genes", _layers(plan, changes, bequests, run.name))
        return html.Div(
            [
                head,
                html.Div(
                    [
                        panel("Network", _network(plan, changes), _legend(plan, changes)),
                        html.Div(
                            [
                                panel("Measured", _measured(run, view, place.id)),
                                panel("How it was made", *_made(run, changes, place.id)),
                                panel("Take it away", _downloads(place.run, place.id)),
                            ],
                            className="stack narrow",
                        ),
                    ],
                    className="columns",
                ),
                panel("Learning curve", graph("curve", curve, 280, "Learning curve"))
                if estimate and estimate.curve
                else None,
                layers,
            ]
        )


def register(app: Any, shelf: Shelf) -> None:
    """What a node or link that is clicked says."""
    client(
        app,
        "picked",
        Output("picked-gene", "children"),
        Input("network", "tapNodeData"),
        Input("network", "tapEdgeData"),
    )


# ------------------------------------------------------------------------------------------------------------- parts


def _head(run: Run, view: views.Front, id: int) -> Part:
    front = sorted(view.fronts[-1], key=lambda one: _along(view, one)) if view.fronts else []
    marks = [tag("on the front", "good")] if id in front else []
    marks += [tag("knee", "warm")] if id == view.knee else []
    marks += [tag("reached the goal", "good")] if id == run.solved else []
    steps: list[Part] = []
    if id in front:
        at = front.index(id)
        steps = [link(words, address(run.name, "individual", front[to]), "button") for words, to in
                 (("← on the front", at - 1), ("on the front →", at + 1)) if 0 <= to < len(front)]  # fmt: skip
    return html.Div([
        html.H1(f"Individual {id}"), *marks, html.Span(run.encoding.summary(run.genome(id)), className="quiet"),
        html.Span(className="grow"), *steps, link("lineage", address(run.name, "lineage", id), "button"),
    ], className="title")  # fmt: skip


def _along(view: views.Front, id: int) -> tuple[float, int]:
    at = view.positions([id])
    first = view.axes[view.objectives[0]]
    return (float(first.loss(view.columns[first.name][at])[0]) if len(at) else float("inf")), id


def _unkept(run: Run, view: views.Front, id: int) -> Part:
    """Of whole populations only some are kept one by one; RecipeError for an id that nobody has."""
    at = view.positions([id])
    if not len(at):
        run.store.birth(id)
        raise RecipeError(f"individual {id} was not kept")
    rows = [[plain(name), value(float(column[at][0]))] for name, column in view.columns.items()]
    return html.Div(
        [
            html.Div([html.H1(f"Individual {id}"), tag("not kept")], className="title"),
            notice(
                "This run estimates whole populations and keeps champions and the front one by one: of this individual "
                "its values are known, but not its network.",
                html.P(["To keep everyone, set ", html.Code("store: {individuals: all}"), " in the recipe."]),
            ),
            panel("Measured", table([Column("value"), Column("", True)], rows, "Values")),
        ]
    )


def _network(plan: Plan, changes: views.Changes) -> Part:
    drawn = network.draw(plan, changes, theme())
    height = round(min(max(drawn.size[1] * min(1.0, 760 / max(drawn.size[0], 1)) + 40, 280), 900))
    made = cytoscape.Cytoscape(
        id="network", elements=list(drawn.elements), stylesheet=list(drawn.stylesheet), responsive=True,
        layout={"name": "preset", "fit": True, "padding": 16}, style={"width": "100%", "height": f"{height}px"},
        minZoom=0.1, maxZoom=3, autoungrabify=True, boxSelectionEnabled=False,
    )  # fmt: skip
    words = "The network as a graph; the table below lists the same"
    return html.Div([labelled(html.Div(made, role="figure"), words), html.Div(id="picked-gene", className="picked")])


def _legend(plan: Plan, changes: views.Changes) -> Part:
    words: list[Part] = []
    if plan.is_graph:
        words += [
            html.Span("positive", className="key positive"),
            html.Span("negative weight", className="key negative"),
            html.Span("disabled", className="key disabled"),
            "width: size of the weight",
        ]
    if changes.parent is not None:
        words += [
            html.Span("new", className="key new"),
            html.Span(f"changed since parent {changes.parent}", className="key changed"),
        ]
    return html.Div(
        [*words, html.Span("drag to move, wheel to zoom, click for details", className="quiet")], className="legend"
    )


def _measured(run: Run, view: views.Front, id: int) -> Part:
    estimate = run.estimate(id)
    if estimate is None:
        return notice("Not estimated yet.")
    tests = [test for test in run.store.tests() if test["id"] == id]
    tested = tests[-1]["values"] if tests else {}
    rows = [[_objective(one), value(estimate.values.get(one.name)), *([value(tested.get(one.name))] if tested else [])]
            for one in run.objectives]  # fmt: skip
    known = {one.name for one in run.objectives}
    rows += [
        [plain(name), value(held), *([""] if tested else [])]
        for name, held in estimate.values.items()
        if name not in known
    ]
    columns = [Column(""), Column("search", True), *([Column("test set", True)] if tested else [])]
    parts: list[Part] = []
    if estimate.status != "ok":
        parts.append(html.P([tag(estimate.status, "bad"), " ", plain(estimate.reason)], className="reason"))
    cost = estimate.cost
    took = [("training", duration(cost["seconds"]))] if cost.get("seconds", 0) >= 0.05 else []
    took += [(name, number(cost[key])) for name, key in (("epochs", "epochs"), ("samples", "samples")) if key in cost]
    took += [("inherited", f"{cost['inherited']:.0%} of the parameters")] if "inherited" in cost else []
    took += [("error at birth", number(cost["birth_error"]))] if "birth_error" in cost else []
    return [*parts, table(columns, rows, "Values"), facts(took) if took else None]


def _objective(one: Objective) -> Part:
    better = "higher is better" if one.direction == "max" else "lower is better"
    unit = f" ({one.unit})" if one.unit else ""
    return html.Span([plain(one.name + unit), html.Span(f" {better}", className="quiet")])


def _made(run: Run, changes: views.Changes, id: int) -> list[Part]:
    """Birth, parents, edits, and what became of the first parent's genes."""
    birth = run.store.birth(id)
    kept = run.store.kept(birth.parents)
    parents: list[Part] = []
    for parent in birth.parents:
        parents += [", " if parents else "", person(run.name, parent) if parent in kept else f"{parent} (not kept)"]
    known = [
        ("born in generation", str(birth.birth)),
        ("parents", html.Span(parents or "none: a founder")),
        ("genome", html.Code(plain(birth.key[:12]))),
    ]
    edits = html.Ol([html.Li([html.B(what), " ", html.Span(plain(rest), className="quiet")])
                     for what, rest in map(views.described, birth.edits)], className="edits")  # fmt: skip
    lines: list[Part] = [facts(known), edits if birth.edits else None]
    if changes.changed:
        lines += [html.H3(f"Changed since parent {changes.parent}"), _marks(changes.changed)]
    if changes.gone:
        lines += [html.H3("Gone"), _marks(changes.gone)]
    return lines


def _marks(told: Mapping[int, str]) -> Part:
    shown = list(told.items())[:40]
    rest = html.Li(f"and {len(told) - 40} more", className="quiet") if len(told) > 40 else None
    return html.Ul(
        [*(html.Li([html.B(str(mark)), " ", plain(words)]) for mark, words in shown), rest], className="edits"
    )


def _downloads(run: str, id: int) -> Part:
    links = [html.A(words, href=f"/download/{kind}{address(run, 'individual', id)}", className="button", download="")
             for kind, words in DOWNLOADS.items()]  # fmt: skip
    return html.Div(links, className="downloads")


def _bequests(run: Run, id: int) -> dict[str, Bequest]:
    """Where each gene's weights came from; nothing in runs without inheritance."""
    try:
        return {one.gene: one for one in run.bequests(id)}
    except EvonasError:
        return {}


def _layers(plan: Plan, changes: views.Changes, bequests: Mapping[str, Bequest], run: str) -> Part:
    if plan.is_graph:
        return _genes(plan, changes)
    if plan.cells is not None:
        return _cells(plan, changes)
    columns = [
        Column("mark", True),
        Column("operation"),
        Column("then"),
        Column("shape"),
        Column("params", True),
        Column("FLOPs", True),
        Column("change", wide=True),
    ]
    if bequests:
        columns += [Column("weights from parent"), Column("first drawn in")]
    rows = []
    for step in plan.steps:
        name, after = drawing.describe(step)
        mark = drawing.mark(step)
        row: list[Part] = [
            mark,
            name,
            after,
            "×".join(map(str, step.shape)),
            f"{step.params:,}" if step.params else "",
            short(step.flops) if step.flops else "",
            _change(int(mark), changes) if mark else "",
        ]
        one = bequests.get(step.name)
        if bequests:
            row += [_shares(run, one.parents, "new at birth") if one else "", _shares(run, one.first) if one else ""]
        rows.append(row)
    rows.append(
        [
            "",
            html.B("all"),
            "",
            "",
            html.B(f"{plan.params:,}"),
            html.B(short(plan.flops)),
            f"depth {plan.depth}",
            *([""] * 2 if bequests else []),
        ]
    )
    return table(columns, rows, "Layers")


def _cells(plan: Plan, changes: views.Changes) -> Part:
    """Operations of the cells; what is told of one holds for all places where its cell stands."""
    assert plan.cells is not None
    columns = [Column("mark", True), Column("cell"), Column("edge"), Column("operation"), Column("params", True),
               Column("FLOPs", True), Column("change", wide=True)]  # fmt: skip
    rows: list[list[Part]] = []
    for name, edges, built in zip(plan.cells.names, plan.cells.edges, plan.cells.built, strict=True):
        for mark, source, target, op in edges:
            steps = [step for step in plan.steps if f"_edge{mark}_" in step.name]
            params, flops = sum(step.params for step in steps), sum(step.flops for step in steps)
            what = cells.told(op) + ("" if mark in built or op == "none" else " (leads nowhere, not built)")
            sizes = [f"{params:,}" if params else "", short(flops) if flops else ""]
            rows.append([str(mark), name, f"{source} → {target}", what, *sizes, _change(mark, changes)])
    total = [html.B(f"{plan.params:,}"), html.B(short(plan.flops)), f"depth {plan.depth}"]
    return table(columns, [*rows, ["", html.B("all, with the skeleton"), "", "", *total]], "Genes")


def _change(mark: int, changes: views.Changes) -> Part:
    if mark in changes.new:
        return tag("new", "warm")
    if mark in changes.changed:
        return html.Span([tag("changed", "warm"), " ", plain(changes.changed[mark])])
    return ""


def _shares(run: str, shares: Mapping[int, float], none: str = "") -> Part:
    parts: list[Part] = []
    for id, share in shares.items():
        parts += [", " if parts else "", person(run, id), f" {share:.0%}" if share < 1 else ""]
    return html.Span(parts) if parts else html.Span(none, className="quiet")


def _genes(plan: Plan, changes: views.Changes) -> Part:
    settings = plan.steps[-1].settings
    first = settings["inputs"] + settings["outputs"]
    nodes = [
        [
            str(mark),
            "hidden" if mark >= first else "output",
            "",
            "",
            number(bias),
            plain(activation),
            plain(aggregation),
            "",
            _change(mark, changes),
        ]
        for mark, bias, _, activation, aggregation in settings["nodes"]
    ]
    links = [
        [str(mark), "link", str(a), str(b), number(weight), "", "", "" if on else "disabled", _change(mark, changes)]
        for mark, a, b, weight, on in settings["links"]
    ]
    columns = [
        Column("mark", True),
        Column("gene"),
        Column("from", True),
        Column("to", True),
        Column("weight or bias", True),
        Column("activation"),
        Column("aggregation"),
        Column("state"),
        Column("change", wide=True),
    ]
    rows: Sequence[Sequence[Any]] = [*nodes, *links]
    rest = (
        html.P(f"and {len(rows) - 400} more: evonas genome lists all", className="quiet") if len(rows) > 400 else None
    )
    return html.Div([table(columns, rows[:400], "Genes"), rest])
