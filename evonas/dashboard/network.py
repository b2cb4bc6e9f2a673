"""A network as an interactive graph: nodes and edges for cytoscape with positions of our own, so that nothing overlaps.

Layer graphs run from top to bottom, direct genomes from left to right. Genes that the individual has not from its first
parent are marked. Labels are drawn on a canvas: they are text, whatever they say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evonas.encoding.plan import Plan, Step
from evonas.report import cells, drawing
from evonas.report.cells import Box, Diagram
from evonas.report.graphs import Graph, Link, Node
from evonas.report.layout import layered
from evonas.report.plots import Theme, short
from evonas.report.views import Changes

Element = dict[str, Any]

BOX, PILL, GAP = 54.0, 24.0, 34.0
"""Pixels: heights of a layer's box and of a merge's pill, and the gap between ranks."""

FONT = "system-ui, sans-serif"
"""Cytoscape refuses names in quotes."""

LETTER = 6.3
"""Pixels that a letter of a label takes, about."""

COLUMN, ROW = 190.0, 46.0
"""Pixels from one column of a direct genome's nodes to the next, and a node's height with its gap."""

WIDE = 1200.0
"""Pixels that cells beside each other take at most."""

FEW = 24
"""Up to so many inputs are all drawn; of more, only those that have links."""

NAMED = 40
"""Up to so many links carry their marks."""


@dataclass(frozen=True)
class Drawn:
    """Elements and stylesheet for cytoscape, and the pixels that they take."""

    elements: tuple[Element, ...]
    stylesheet: tuple[dict[str, Any], ...]
    size: tuple[float, float]


def draw(plan: Plan, changes: Changes, theme: Theme) -> Drawn:
    """A plan's network."""
    if plan.is_graph:
        return _direct(Graph.of(plan.steps[-1].settings), changes, theme)
    if plan.cells is not None:
        return _cells(cells.diagrams(plan), changes, theme)
    return _layers(plan, changes, theme)


# ---------------------------------------------------------------------------------------------------- layer graphs


def _layers(plan: Plan, changes: Changes, theme: Theme) -> Drawn:
    steps = plan.steps
    labels = [label(step) for step in steps]
    heights = [BOX if drawing.mark(step) and step.op in drawing.COLOURS else PILL for step in steps]
    widths = [max(LETTER * max(map(len, words.split("\n"))) + 26, 70.0) for words in labels]
    layout = layered([step.inputs for step in steps], [width / 100 for width in widths], gap=0.36, lane=0.2)
    spans = _spans(layout.rank, heights)
    at = [(100 * layout.x[i], sum(spans[layout.rank[i]]) / 2) for i in range(len(steps))]
    nodes = [
        _node(step.name, words, at[i], (widths[i], heights[i]), _kind(step, changes), drawing.COLOURS.get(step.op, ""))
        for i, (step, words) in enumerate(zip(steps, labels, strict=True))
    ]
    edges = []
    for target, step in enumerate(steps):
        for source in dict.fromkeys(step.inputs):
            first, last = layout.rank[source], layout.rank[target]
            lane = layout.lanes[source][: last - first - 1]
            bends = [(100 * x, y) for x, span in zip(lane, spans[first + 1 :], strict=False) for y in span]
            ends = (
                (at[source][0], at[source][1] + heights[source] / 2),
                (at[target][0], at[target][1] - heights[target] / 2),
            )
            made = _edge(f"{source}-{target}", steps[source].name, step.name, ends, bends)
            if (_gene(steps[source]), _gene(step)) in changes.joined:
                made["classes"] += " new"
            edges.append(made)
    width = 100 * (max(layout.x) - min(layout.x)) + max(widths)
    return Drawn((*nodes, *edges), _style(theme), (width, spans[-1][1]))


def label(step: Step) -> str:
    """What a step's node says: mark and operation; what follows it and its shape; parameters and FLOPs."""
    name, after = drawing.describe(step)
    shape = "×".join(map(str, step.shape))
    number = drawing.mark(step)
    if not number or step.op not in drawing.COLOURS:
        return f"{name}   {shape}"
    size = [f"{step.params:,} params"] if step.params else []
    size += [f"{short(step.flops)} FLOPs"] if step.flops else []
    second = " · ".join(part for part in (after, shape) if part)
    return "\n".join(part for part in (f"{number}  {name}", second, " · ".join(size)) if part)


def _spans(rank: Sequence[int], heights: Sequence[float]) -> list[tuple[float, float]]:
    """The top and bottom of each rank; an edge that passes one runs straight down between them."""
    tallest = [max(h for r, h in zip(rank, heights, strict=True) if r == at) for at in range(max(rank) + 1)]
    found, top = [], 0.0
    for height in tallest:
        found.append((top, top + height))
        top += height + GAP
    return found


def _gene(step: Step) -> int:
    """The mark of the layer that a step belongs to, -1 for an edge's own steps."""
    found = re.fullmatch(r"layer(\d+)(?:_.*)?", step.name)
    return int(found[1]) if found else -1


def _kind(step: Step, changes: Changes) -> str:
    number = drawing.mark(step)
    if not number:
        return "pill"
    mark = int(number)
    base = "layer" if step.op in drawing.COLOURS else "pill"
    return f"{base} new" if mark in changes.new else f"{base} changed" if mark in changes.changed else base


# ----------------------------------------------------------------------------------------------------------- cells


def _cells(shown: Sequence[Diagram], changes: Changes, theme: Theme) -> Drawn:
    """The skeleton, and beside it the cells, each under its title: one below the other where they are wide."""
    sizes = [_diagram(i, one, (0.0, 0.0), changes)[1] for i, one in enumerate(shown)]
    stacked = sum(width for width, _ in sizes[1:]) > WIDE
    elements: list[Element] = []
    x = y = right = bottom = 0.0
    for i, (one, (width, height)) in enumerate(zip(shown, sizes, strict=True)):
        elements += _diagram(i, one, (x, y), changes)[0]
        right, bottom = max(right, x + width), max(bottom, y + height)
        if stacked and i:
            y += height + GAP
        else:
            x += width + 2 * GAP
    return Drawn(tuple(elements), _style(theme), (right, bottom))


def _diagram(
    number: int, one: Diagram, corner: tuple[float, float], changes: Changes
) -> tuple[list[Element], tuple[float, float]]:
    """One drawing's elements, right of and below a corner, and its size."""
    right, down = corner[0], corner[1] + PILL + GAP
    labels = [f"{box.label}  {box.title}\n{box.detail}".strip() for box in one.boxes]
    heights = [BOX if box.colour else PILL for box in one.boxes]
    widths = [max(LETTER * max(map(len, words.split("\n"))) + 26, 70.0) for words in labels]
    layout = layered([box.inputs for box in one.boxes], [width / 100 for width in widths], gap=0.3, lane=0.2)
    spans = [(top + down, bottom + down) for top, bottom in _spans(layout.rank, heights)]
    lanes = [100 * x for lane in layout.lanes for x in lane]
    sides = [(100 * x - width / 2, 100 * x + width / 2) for x, width in zip(layout.x, widths, strict=True)]
    left, end = min([*(a for a, _ in sides), *lanes]), max([*(b for _, b in sides), *lanes])
    shift = right - left
    at = [(100 * layout.x[i] + shift, sum(spans[layout.rank[i]]) / 2) for i in range(len(one.boxes))]
    above = [(x, y - height / 2) for (x, y), height in zip(at, heights, strict=True)]
    below = [(x, y + height / 2) for (x, y), height in zip(at, heights, strict=True)]
    head = LETTER * len(one.title) + 26
    found = [_node(f"title{number}", one.title, (right + head / 2, corner[1] + PILL / 2), (head, PILL), "title", "")]
    found += [
        _node(f"{number}-{i}", words, at[i], (widths[i], heights[i]), _state(box, changes), box.colour or "")
        for i, (box, words) in enumerate(zip(one.boxes, labels, strict=True))
    ]
    for target, box in enumerate(one.boxes):
        for source in dict.fromkeys(box.inputs):
            first, last = layout.rank[source], layout.rank[target]
            lane = layout.lanes[source][: last - first - 1]
            bends = [(100 * x + shift, y) for x, span in zip(lane, spans[first + 1 :], strict=False) for y in span]
            name = f"{number}-{source}"
            found.append(_edge(f"{name}-{target}", name, f"{number}-{target}", (below[source], above[target]), bends))
    return found, (max(end - left, head), spans[-1][1] - corner[1])


def _state(box: Box, changes: Changes) -> str:
    base = "layer" if box.colour else "pill"
    return f"{base} new" if box.mark in changes.new else f"{base} changed" if box.mark in changes.changed else base


# ---------------------------------------------------------------------------------------------------- direct genomes


def _direct(graph: Graph, changes: Changes, theme: Theme) -> Drawn:
    nodes = _shown(graph)
    index = {node.mark: i for i, node in enumerate(nodes)}
    links = [link for link in graph.links if link.source in index and link.target in index]
    onward: list[list[int]] = [[] for _ in nodes]
    for link in links:
        if not link.back:
            onward[index[link.target]].append(index[link.source])
    ranks = [graph.rank[node.mark] for node in nodes]
    layout = layered(onward, [0.4] * len(nodes), 0.2, 0.12, ranks, {0, max(ranks)})
    at = [(COLUMN * ranks[i], 100 * layout.x[i]) for i in range(len(nodes))]
    drawn = [
        _node(str(node.mark), _words(node), at[i], (66.0, 36.0), _role(node, changes), "")
        for i, node in enumerate(nodes)
    ]
    strongest = max((abs(link.weight) for link in links), default=0.0) or 1.0
    for link in links:
        bends = [
            (COLUMN * (graph.rank[link.source] + 1 + i), 100 * x)
            for i, x in enumerate(
                layout.lanes[index[link.source]][: graph.rank[link.target] - graph.rank[link.source] - 1]
            )
        ]
        drawn.append(
            _weighted(link, at[index[link.source]], at[index[link.target]], bends, strongest, changes, len(links))
        )
    height = 100 * (max(layout.x) - min(layout.x)) + 2 * ROW
    return Drawn(tuple(drawn), _style(theme), (COLUMN * (max(ranks) + 1), height))


def _shown(graph: Graph) -> tuple[Node, ...]:
    """Without the inputs that no link uses, where there are many."""
    if sum(node.role == "input" for node in graph.nodes) <= FEW:
        return graph.nodes
    used = {link.source for link in graph.links}
    return tuple(node for node in graph.nodes if node.role != "input" or node.mark in used)


def _words(node: Node) -> str:
    return f"{node.mark}\n{node.function or node.role}"


def _role(node: Node, changes: Changes) -> str:
    state = " new" if node.mark in changes.new else " changed" if node.mark in changes.changed else ""
    return f"gene {node.role}{state}"


def _weighted(
    link: Link,
    start: tuple[float, float],
    end: tuple[float, float],
    bends: Sequence[tuple[float, float]],
    strongest: float,
    changes: Changes,
    count: int,
) -> Element:
    """A link whose width is its weight's size and whose colour is its sign; disabled ones are dashed."""
    ends = (start[0] + 33, start[1]), (end[0] - 33, end[1])
    made = _edge(f"link{link.mark}", str(link.source), str(link.target), ends, [] if link.back else bends)
    state = "new" if link.mark in changes.new else "changed" if link.mark in changes.changed else ""
    sign = "positive" if link.weight >= 0 else "negative"
    kinds = ["link", sign if link.enabled else "disabled", state, "back" if link.back else ""]
    if link.back and link.source == link.target:
        kinds.append("loop")
    made["classes"] = " ".join(word for word in (*kinds, made["classes"]) if word)
    made["data"] |= {
        "mark": link.mark, "weight": link.weight, "enabled": link.enabled,
        "width": round(1.0 + 5.0 * abs(link.weight) / strongest, 2) if link.enabled else 1.0,
        "label": f"{link.mark}: {link.weight:+.3g}" if count <= NAMED else "",
    }  # fmt: skip
    return made


# ---------------------------------------------------------------------------------------------------------- elements


def _node(id: str, words: str, at: tuple[float, float], size: tuple[float, float], kind: str, colour: str) -> Element:
    data = {"id": id, "label": words, "w": round(size[0], 1), "h": size[1], "colour": colour}
    return {
        "data": data, "position": {"x": round(at[0], 1), "y": round(at[1], 1)}, "classes": kind, "grabbable": False,
    }  # fmt: skip


def _edge(
    id: str,
    source: str,
    target: str,
    ends: tuple[tuple[float, float], tuple[float, float]],
    bends: Sequence[tuple[float, float]],
) -> Element:
    """An edge through its bends, which cytoscape takes as weights along the line between its ends and distances from
    it."""
    data: dict[str, Any] = {"id": id, "source": source, "target": target}
    if not bends:
        return {"data": data, "classes": "straight"}
    (x0, y0), (x1, y1) = ends
    dx, dy = x1 - x0, y1 - y0
    length = math.hypot(dx, dy) or 1.0
    data["weights"] = " ".join(f"{((x - x0) * dx + (y - y0) * dy) / length**2:.4f}" for x, y in bends)
    data["distances"] = " ".join(f"{((y - y0) * dx - (x - x0) * dy) / length:.2f}" for x, y in bends)
    return {"data": data, "classes": "bent"}


def _style(theme: Theme) -> tuple[dict[str, Any], ...]:
    quiet = {"background-color": theme.ground, "border-color": theme.faint, "color": theme.ink}
    rules: Mapping[str, Mapping[str, Any]] = {
        "node": {
            "shape": "round-rectangle",
            "width": "data(w)",
            "height": "data(h)",
            "label": "data(label)",
            "text-valign": "center",
            "text-halign": "center",
            "text-wrap": "wrap",
            "font-size": 11,
            "font-family": FONT,
            "line-height": 1.25,
            "border-width": 1,
            **quiet,
        },
        "node.pill": {"font-size": 10.5, "color": theme.soft},
        "node.title": {"border-width": 0, "background-opacity": 0, "font-size": 13, "font-weight": "bold"},
        "node.layer": {"background-color": theme.ground, "border-color": "data(colour)", "border-width": 2},
        "node.input": {"background-color": theme.grid},
        "node.output": {"background-color": theme.grid, "border-width": 2, "border-color": theme.soft},
        "node.changed": {"border-color": theme.warm, "border-width": 3, "border-style": "dashed"},
        "node.new": {"border-color": theme.warm, "border-width": 4},
        "node:selected": {"overlay-color": theme.accent, "overlay-opacity": 0.18, "overlay-padding": 4},
        "edge": {
            "width": 1.4,
            "line-color": theme.faint,
            "target-arrow-color": theme.faint,
            "target-arrow-shape": "triangle",
            "arrow-scale": 0.8,
            "curve-style": "straight",
            "source-endpoint": "0 50%",
            "target-endpoint": "0 -50%",
        },
        "edge.bent": {
            "curve-style": "segments",
            "segment-weights": "data(weights)",
            "segment-distances": "data(distances)",
            "edge-distances": "endpoints",
        },
        "edge.link": {
            "width": "data(width)",
            "source-endpoint": "50% 0",
            "target-endpoint": "-50% 0",
            "label": "data(label)",
            "font-size": 9,
            "color": theme.soft,
            "text-background-color": theme.ground,
            "text-background-opacity": 0.85,
            "text-background-padding": 2,
            "arrow-scale": 0.7,
            "font-family": FONT,
        },
        "edge.back": {
            "curve-style": "unbundled-bezier",
            "control-point-distances": 80,
            "control-point-weights": 0.5,
            "source-endpoint": "outside-to-node",
            "target-endpoint": "outside-to-node",
        },
        "edge.loop": {
            "curve-style": "bezier",
            "loop-direction": "-45deg",
            "loop-sweep": "60deg",
            "control-point-step-size": 50,
        },
        "edge.positive": {"line-color": theme.palette[0], "target-arrow-color": theme.palette[0]},
        "edge.negative": {"line-color": theme.palette[1], "target-arrow-color": theme.palette[1]},
        "edge.disabled": {"line-color": theme.faint, "target-arrow-color": theme.faint, "line-style": "dashed"},
        "edge.new, edge.changed": {"underlay-color": theme.warm, "underlay-opacity": 0.3, "underlay-padding": 4},
        "edge:selected": {"overlay-color": theme.accent, "overlay-opacity": 0.18, "overlay-padding": 3},
    }
    return tuple({"selector": selector, "style": dict(style)} for selector, style in rules.items())
