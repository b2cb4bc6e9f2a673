"""A direct genome's network as a picture and as text: nodes and weighted links, from the settings of its plan's step.

Inputs stand left, outputs right, hidden nodes between them by their longest path. A link's colour is its weight's sign
and its width the weight's size; disabled ones are dashed, recurrent ones arc back over the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from evonas.report.figures import FAINT, INK, MARGIN, PALETTE, SOFT, breadth, headed, styled
from evonas.report.layout import layered

POSITIVE, NEGATIVE = PALETTE[0], PALETTE[1]

_HEIGHT, _GAP, _LANE, _BUNDLE, _PORTS = 0.40, 0.17, 0.17, 0.05, 0.26
"""Inches: a node's height, the gaps between nodes and between bundles of links, between links of one bundle, and the
part of a node's side where links arrive and leave."""

_FEW = 16
"""Up to so many inputs are all drawn; of more, only those that have links."""

Point = tuple[float, float]


class Node(NamedTuple):
    """A node by its mark, with its role and the numbers of its gene; an input has none."""

    mark: int
    role: str
    bias: float = 0.0
    response: float = 1.0
    activation: str = ""
    aggregation: str = ""

    @property
    def function(self) -> str:
        """What it computes: `tanh`, or `max, tanh` where it does not sum."""
        return self.activation if self.aggregation in ("", "sum") else f"{self.aggregation}, {self.activation}"


class Link(NamedTuple):
    """A link by its mark; `back` if it leads back, or sideways, and so takes the last step's value."""

    mark: int
    source: int
    target: int
    weight: float
    enabled: bool
    back: bool


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which links lead onwards, `rank` their columns; links by mark."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    rank: Mapping[int, int]
    feed_forward: bool

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Graph:
        """The graph that a plan's step `graph` holds."""
        inputs, outputs = settings["inputs"], settings["outputs"]
        genes = {row[0]: Node(row[0], "hidden" if row[0] >= inputs + outputs else "output", *row[1:])
                 for row in settings["nodes"]}  # fmt: skip
        ends = [(source, target) for _, source, target, *_ in settings["links"]]
        hidden = _onwards([mark for mark in genes if mark >= inputs + outputs], inputs, ends)
        order = [*range(inputs), *hidden, *range(inputs, inputs + outputs)]
        at = {mark: i for i, mark in enumerate(order)}
        rank = dict.fromkeys(range(inputs), 0)
        for mark in hidden:
            below = [rank[s] for s, t in ends if t == mark and at[s] < at[mark]]
            rank[mark] = max(below, default=0) + 1
        last = max(rank.values(), default=0) + 1
        rank |= dict.fromkeys(range(inputs, inputs + outputs), last)
        links = [Link(mark, s, t, weight, bool(enabled), rank[s] >= rank[t])
                 for mark, s, t, weight, enabled in settings["links"]]  # fmt: skip
        nodes = [genes.get(mark, Node(mark, "input")) for mark in order]
        return Graph(tuple(nodes), tuple(sorted(links)), rank, bool(settings["feed_forward"]))

    def words(self) -> list[str]:
        """What there is, for a heading."""
        roles = [node.role for node in self.nodes]
        off = sum(not link.enabled for link in self.links)
        counts = "  ·  ".join(f"{roles.count(role)} {role}" for role in ("input", "hidden", "output"))
        kind = "feed-forward" if self.feed_forward else "recurrent"
        return [counts, f"{len(self.links) - off} links{f', {off} disabled' if off else ''}  ·  {kind}"]


def _onwards(hidden: Sequence[int], inputs: int, ends: Sequence[tuple[int, int]]) -> list[int]:
    """Hidden nodes in topological order; of a cycle, the node nearest to the inputs first."""
    among = set(hidden)
    steps: dict[int, int] = dict.fromkeys(range(inputs), 0)
    edge = list(steps)
    while edge:
        edge = list(dict.fromkeys(t for s, t in ends if s in set(edge) and t in among and t not in steps))
        steps |= dict.fromkeys(edge, max(steps.values(), default=0) + 1)
    order: list[int] = []
    waiting = sorted(hidden, key=lambda mark: (steps.get(mark, 0), mark))
    while waiting:
        held = {t for s, t in ends if s in waiting and s != t}
        ready = [mark for mark in waiting if mark not in held] or waiting[:1]
        order += ready
        waiting = [mark for mark in waiting if mark not in ready]
    return order


# ---------------------------------------------------------------------------------------------------------- picture


@dataclass(frozen=True, slots=True)
class _Scene:
    """Nodes' centres and columns' extents in inches, y growing downwards, and each link's way."""

    centre: Mapping[int, Point]
    width: Mapping[int, float]
    ways: Mapping[int, Curve]

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, right, top, bottom of everything."""
        xs = [x + side * self.width[mark] / 2 for mark, (x, _) in self.centre.items() for side in (-1, 1)]
        ys = [y + side * _HEIGHT / 2 for _, y in self.centre.values() for side in (-1, 1)]
        boxes = [way.get_extents() for way in self.ways.values()]
        xs += [x for box in boxes for x in (box.x0, box.x1)]
        ys += [y for box in boxes for y in (box.y0, box.y1)]
        return min(xs), max(xs), min(ys), max(ys)


@styled
def draw(settings: Mapping[str, Any], title: str = "", key: str = "") -> Figure:
    """A direct genome's network as a picture, its inputs left and its outputs right; its size follows from its own."""
    graph = _shown(Graph.of(settings))
    facts = Graph.of(settings).words()
    facts[1] += f"  ·  genome {key}" if key else ""
    strongest = max((abs(link.weight) for link in graph.links), default=0.0)
    scene = _scene(graph)
    left, right, top, bottom = scene.bounds()
    down = MARGIN + 0.2 * (len(facts) + bool(title)) + 0.5 - top
    right = max(right, left + _legend_width(graph, strongest))
    figure, ax = headed(title, facts, (left, right), bottom + down)
    _draw_legend(ax, graph, ax.get_xlim()[0] + MARGIN, down + top - 0.38, strongest)
    for link in sorted(graph.links, key=lambda link: (link.enabled, abs(link.weight))):
        _draw_link(ax, link, scene.ways[link.mark], down, strongest)
    for node in graph.nodes:
        _draw_node(ax, node, scene.width[node.mark], (scene.centre[node.mark][0], scene.centre[node.mark][1] + down))
    return figure


def _shown(graph: Graph) -> Graph:
    """Without the inputs that no link uses, where there are many."""
    if sum(node.role == "input" for node in graph.nodes) <= _FEW:
        return graph
    used = {link.source for link in graph.links}
    nodes = tuple(node for node in graph.nodes if node.role != "input" or node.mark in used)
    return Graph(nodes, graph.links, graph.rank, graph.feed_forward)


def _scene(graph: Graph) -> _Scene:
    at = {node.mark: i for i, node in enumerate(graph.nodes)}
    onward: list[list[int]] = [[] for _ in graph.nodes]
    for link in graph.links:
        if not link.back:
            onward[at[link.target]].append(at[link.source])
    ranks = [graph.rank[node.mark] for node in graph.nodes]
    layout = layered(onward, [_HEIGHT] * len(onward), _GAP, _LANE, ranks, {0, max(ranks)})
    widths = {node.mark: max(0.5, breadth(node.function, 7.5, False) + 0.16) for node in graph.nodes}
    columns = _columns(graph, [widths[node.mark] for node in graph.nodes])
    centre = {
        node.mark: (columns[rank][0], layout.x[at[node.mark]]) for node, rank in zip(graph.nodes, ranks, strict=True)
    }
    lanes = {node.mark: layout.lanes[at[node.mark]] for node in graph.nodes}
    return _Scene(centre, widths, _ways(graph, centre, widths, columns, lanes))


def _columns(graph: Graph, widths: Sequence[float]) -> list[tuple[float, float]]:
    """Centre and width of each column; the more links a gap holds, the wider it is."""
    found, x = [], 0.0
    for rank in range(max(graph.rank.values()) + 1):
        width = max(
            [w for w, node in zip(widths, graph.nodes, strict=True) if graph.rank[node.mark] == rank], default=0.5
        )
        crossing = sum(graph.rank[link.source] < rank <= graph.rank[link.target] for link in graph.links)
        x += 0.75 + min(1.5, 0.03 * crossing) if rank else 0.0
        found.append((x + width / 2, width))
        x += width
    return found


def _ways(
    graph: Graph,
    centre: Mapping[int, Point],
    width: Mapping[int, float],
    columns: Sequence[tuple[float, float]],
    lanes: Mapping[int, Sequence[float]],
) -> dict[int, Curve]:
    """Each link's curve by its mark: in lanes between the nodes of the columns it passes, or as an arc."""
    onward = [link for link in graph.links if not link.back]
    leaving = _ports(onward, "source", "target", centre)
    arriving = _ports(onward, "target", "source", centre)
    beside = _ports(
        [one for one in onward if graph.rank[one.target] - graph.rank[one.source] > 1], "source", "target", centre
    )
    middle = sum(y for _, y in centre.values()) / len(centre)
    ways = {}
    for link in graph.links:
        (x0, y0), (x1, y1) = centre[link.source], centre[link.target]
        if link.back:
            ways[link.mark] = _back(graph, link, centre, width, middle)
            continue
        points = [(x0 + width[link.source] / 2, y0 + _PORTS * leaving[link.mark][0])]
        first = graph.rank[link.source]
        for i in range(graph.rank[link.target] - first - 1):
            place, count = beside[link.mark]
            y = lanes[link.source][i] + place * min(_BUNDLE * (count - 1), _LANE)
            (x, wide) = columns[first + 1 + i]
            points += [(x - wide / 2, y), (x + wide / 2, y)]
        points.append((x1 - width[link.target] / 2 - 0.02, y1 + _PORTS * arriving[link.mark][0]))
        ways[link.mark] = _smooth(points)
    return ways


def _back(graph: Graph, link: Link, centre: Mapping[int, Point], width: Mapping[int, float], middle: float) -> Curve:
    """The curve of a recurrent link: around all that stands between its ends, on the side that is nearer."""
    start, end = centre[link.source], centre[link.target]
    first, last = graph.rank[link.target], graph.rank[link.source]
    if first == last and start != end:
        (x0, y0), (x1, y1) = start, end
        shift = 0.06 if y0 < y1 else -0.06
        return _bow((x0 + width[link.source] / 2, y0 + shift), (x1 + width[link.target] / 2, y1 - shift))
    side = -1 if (start[1] + end[1]) / 2 <= middle else 1
    between = [y * side for mark, (_, y) in centre.items() if first < graph.rank[mark] < last]
    farthest = max([*between, start[1] * side, end[1] * side])
    clear = _HEIGHT / 2 + 0.18 + 0.06 * (last - first)
    return _arc(start, end, side, side * (farthest + clear))


def _ports(links: Sequence[Link], end: str, other: str, centre: Mapping[int, Point]) -> dict[int, tuple[float, int]]:
    """Where on a node's side each link ends, -1/2 to 1/2, in the order of its other ends; and how many there are."""
    groups: dict[int, list[Link]] = {}
    for link in sorted(links, key=lambda link: (centre[getattr(link, other)][1], link.mark)):
        groups.setdefault(getattr(link, end), []).append(link)
    return {
        link.mark: ((i + 0.5) / len(group) - 0.5, len(group))
        for group in groups.values()
        for i, link in enumerate(group)
    }


def _smooth(points: Sequence[Point]) -> Curve:
    """A curve through points that leaves and reaches each of them horizontally."""
    vertices, codes = [points[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) / 2
        vertices += [(middle, y0), (middle, y1), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    return Curve(vertices, codes)


def _arc(start: Point, end: Point, side: int, beyond: float) -> Curve:
    """A curve from a node back to one on its left, or to itself, that passes the y `beyond` both, above (side -1) or
    below (1)."""
    (x0, y0), (x1, y1) = start, end
    edge = side * _HEIGHT / 2
    out, back = (0.09, 0.3) if start == end else (0.06, 0.06)
    # a cubic curve reaches three quarters of the way to its control points
    outer = [y + edge + (beyond - y - edge) / 0.75 for y in (y0, y1)]
    vertices = [(x0 + out, y0 + edge), (x0 + back, outer[0]), (x1 - back, outer[1]), (x1 - out, y1 + 1.1 * edge)]
    return Curve(vertices, [Curve.MOVETO, *[Curve.CURVE4] * 3])


def _bow(start: Point, end: Point) -> Curve:
    """A curve between the right sides of two nodes of one column."""
    (x0, y0), (x1, y1) = start, end
    out = max(x0, x1) + 0.25 + 0.08 * abs(y0 - y1)
    return Curve([(x0, y0), (out, y0), (out, y1), (x1 + 0.02, y1)], [Curve.MOVETO, *[Curve.CURVE4] * 3])


def _thickness(weight: float, strongest: float) -> float:
    return 0.7 + 2.6 * abs(weight) / strongest if strongest else 0.7


def _draw_link(ax: Axes, link: Link, way: Curve, down: float, strongest: float) -> None:
    way = Curve([(x, y + down) for x, y in np.asarray(way.vertices)], way.codes)
    thick = _thickness(link.weight, strongest) if link.enabled else 0.8
    colour = FAINT if not link.enabled else POSITIVE if link.weight >= 0 else NEGATIVE
    head = f"-|>,head_length={2.2 + 0.9 * thick},head_width={1.1 + 0.6 * thick}"
    ax.add_artist(FancyArrowPatch(
        path=way, arrowstyle=head, mutation_scale=1, color=colour, linewidth=thick, joinstyle="miter",
        linestyle="-" if link.enabled else (0, (3, 2.5)), zorder=2.5 if link.back else 2, capstyle="butt",
    ))  # fmt: skip


_FILL = {"input": ("#EEF0F3", FAINT), "hidden": ("white", INK), "output": ("#FDF1DC", INK)}


def _draw_node(ax: Axes, node: Node, width: float, centre: Point) -> None:
    x, y = centre
    fill, border = _FILL[node.role]
    ax.add_artist(FancyBboxPatch(
        (x - width / 2, y - _HEIGHT / 2), width, _HEIGHT, boxstyle="round,pad=0,rounding_size=0.1", facecolor=fill,
        edgecolor=border, linewidth=1.0, zorder=3,
    ))  # fmt: skip
    ax.text(x, y - 0.075, str(node.mark), fontsize=9, fontweight="bold", ha="center", va="center_baseline", zorder=4)
    ax.text(
        x, y + 0.1, node.function or node.role, fontsize=7.5, color=SOFT, ha="center", va="center_baseline", zorder=4
    )


def _legend(graph: Graph, strongest: float) -> list[tuple[str, str, Any, float]]:
    """Colour, words, dash and thickness of what is drawn."""
    on = [link.weight for link in graph.links if link.enabled]
    rows: list[tuple[str, str, Any, float]] = []
    if any(weight >= 0 for weight in on):
        rows.append((POSITIVE, "positive", "-", 2.0))
    if any(weight < 0 for weight in on):
        rows.append((NEGATIVE, "negative", "-", 2.0))
    if len(on) < len(graph.links):
        rows.append((FAINT, "disabled", (0, (3, 2.5)), 1.0))
    if on:
        rows.append((SOFT, f"|weight| = {strongest:.3g}", "-", _thickness(strongest, strongest)))
    return rows


def _legend_width(graph: Graph, strongest: float) -> float:
    return sum(0.55 + breadth(words, 8, False) for _, words, _, _ in _legend(graph, strongest))


def _draw_legend(ax: Axes, graph: Graph, x: float, y: float, strongest: float) -> None:
    for colour, words, dash, thick in _legend(graph, strongest):
        ax.plot([x, x + 0.25], [y, y], color=colour, linestyle=dash, linewidth=thick, solid_capstyle="butt")
        ax.text(x + 0.32, y, words, fontsize=8, color=SOFT, va="center_baseline")
        x += 0.55 + breadth(words, 8, False)


# ------------------------------------------------------------------------------------------------------------- text


def text(settings: Mapping[str, Any]) -> str:
    """A network as lines of text: a node a line from the outputs' sources on, and what it takes: weight and source.

    Disabled links stand in brackets; `'` marks a source whose value is the last step's."""
    graph = Graph.of(settings)
    taken: dict[int, list[str]] = {node.mark: [] for node in graph.nodes}
    for link in sorted(graph.links, key=lambda link: link.source):
        last = "'" if not graph.feed_forward and link.source >= settings["inputs"] else ""
        words = f"{link.weight:+.3g}·{link.source}{last}"
        taken[link.target].append(words if link.enabled else f"({words})")
    rows = [("mark", "node", "function", "bias", "response", "takes weight·source")]
    rows += [
        (str(node.mark), node.role, node.function, f"{node.bias:.3g}", f"{node.response:.3g}",
         "  ".join(taken[node.mark]))
        for node in graph.nodes
        if node.role != "input"
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(cell.rjust(w) if i in (0, 3, 4) else cell.ljust(w)
                       for i, (cell, w) in enumerate(zip(row, [*widths, 0], strict=True))) for row in rows]  # fmt: skip
    return "\n".join([*(line.rstrip() for line in lines), "  ·  ".join(graph.words())])
