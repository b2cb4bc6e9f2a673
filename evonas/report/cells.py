"""Networks of repeated cells: the skeleton, and beside it each cell with an operation on every edge; as a picture and
as text. What is told of a part holds for all places where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from matplotlib.figure import Figure

from evonas.encoding.plan import Cells, Plan, Step
from evonas.report import cards
from evonas.report.cards import COLOURS, Card, Scene, describe, extent, flops
from evonas.report.figures import INK, MARGIN, SOFT, breadth, headed, short, styled

_APART, _TITLE, _WIDE = 0.7, 0.32, 14.0
"""Inches between drawings that stand side by side, for the words above them, and which cells take together at most."""

_HUES = {"conv": "conv", "sep": "separable", "dil": "separable", "inverted": "separable", "avg": "avg_pool",
         "max": "max_pool", "skip": "identity"}  # fmt: skip

UNBUILT = "#9AA1AC"
"""The colour of operations that carry nothing and so are not built."""


class Box(NamedTuple):
    """A part of a drawing: its words, the mark of its gene or how often it stands, its colour (none: a slim pill), the
    earlier boxes that it takes, and the gene's mark."""

    title: str
    detail: str
    label: str
    colour: str | None
    inputs: tuple[int, ...]
    mark: int | None = None


class Diagram(NamedTuple):
    """One of the drawings that stand side by side."""

    title: str
    boxes: tuple[Box, ...]


def diagrams(plan: Plan) -> tuple[Diagram, ...]:
    """The skeleton, then every cell."""
    assert plan.cells is not None
    drawn = [Diagram(_name(name), tuple(_cell(plan, i))) for i, name in enumerate(plan.cells.names)]
    return (Diagram("network", tuple(_skeleton(plan))), *drawn)


def _name(name: str) -> str:
    return name if name == "cell" else f"{name} cell"


# --------------------------------------------------------------------------------------------------------- skeleton


class _Group(NamedTuple):
    """Neighbouring parts of a network that are alike: what they are, how often, and their steps."""

    title: str
    times: int
    colour: str | None
    steps: tuple[Step, ...]

    @property
    def counts(self) -> tuple[int, int]:
        """Parameters and FLOPs."""
        return sum([step.params for step in self.steps]), sum([step.flops for step in self.steps])


def _groups(plan: Plan) -> list[_Group]:
    assert plan.cells is not None
    found: list[_Group] = []
    for part, steps in groupby(plan.steps, lambda step: step.name.partition("_")[0]):
        made = _group(part, tuple(steps), plan.cells)
        last = found[-1] if found else None
        if last is not None and last.title == made.title and last.steps[-1].shape == made.steps[-1].shape:
            found[-1] = last._replace(times=last.times + 1, steps=last.steps + made.steps)
        else:
            found.append(made)
    return found


def _group(part: str, steps: tuple[Step, ...], cells: Cells) -> _Group:
    if part.startswith("cell"):
        return _Group(_name(_which(steps, cells)), 1, COLOURS["separable"], steps)
    if part.startswith("block"):
        return _Group("residual block /2", 1, COLOURS["conv"], steps)
    name, after = describe(steps[-1])
    colour = COLOURS.get(steps[-1].op) if steps[-1].params else None
    return _Group(", ".join(words for words in (name, after) if words), 1, colour, steps)


def _which(steps: Sequence[Step], cells: Cells) -> str:
    """The name of the cell that these steps are of."""
    marks = {int(found[1]) for step in steps if (found := re.search(r"_edge(\d+)_", step.name))}
    names = zip(cells.names, cells.edges, strict=True)
    return next((name for name, edges in names if marks & {edge[0] for edge in edges}), cells.names[0])


def _skeleton(plan: Plan) -> Iterator[Box]:
    for i, group in enumerate(_groups(plan)):
        params, _ = group.counts
        facts = [extent(group.steps[-1].shape), f"{params:,} params" if params else ""]
        before = (i - 1,) if i else ()
        if group.colour is None:
            yield Box(f"{group.title}   {facts[0]}", "", "", None, before)
            continue
        times = f"×{group.times}" if group.times > 1 else ""
        yield Box(group.title, "  ·  ".join(fact for fact in facts if fact), times, group.colour, before)


# ------------------------------------------------------------------------------------------------------------ cells


def _cell(plan: Plan, which: int) -> Iterator[Box]:
    """Inputs, then by node its operations and itself, then the output. A chain's nodes go without saying."""
    assert plan.cells is not None
    edges, inputs = plan.cells.edges[which], plan.cells.inputs
    at = dict(enumerate(range(inputs)))
    for node in range(inputs):
        yield Box(f"{node}   {_input(node, inputs)}", "", "", None, ())
    count = inputs
    targets = sorted({edge[2] for edge in edges})
    chained = len(targets) == len(edges) > 1
    for node in targets:
        ways = [edge for edge in edges if edge[2] == node and edge[3] != "none" and edge[1] in at]
        for way in ways:
            yield _operation(plan, which, way, at[way[1]])
        arrived = tuple(range(count, count + len(ways)))
        count += len(ways)
        if chained and arrived:
            at[node] = arrived[0]
        elif arrived or node in plan.cells.outputs[which]:
            yield Box(f"{node}   {_kind(len(arrived))}".strip(), "", "", None, arrived)
            at[node], count = count, count + 1
    handed = plan.cells.outputs[which]
    yield Box("output, joined" if len(handed) > 1 else "output", "", "", None, tuple(at[node] for node in handed))


def _kind(ways: int) -> str:
    return "zeros" if ways == 0 else "sum" if ways > 1 else ""


def _input(node: int, inputs: int) -> str:
    if inputs == 1:
        return "input"
    return "last cell" if node == inputs - 1 else "last cell but one"


def _operation(plan: Plan, which: int, edge: tuple[int, int, int, str], source: int) -> Box:
    assert plan.cells is not None
    mark, _, _, op = edge
    if mark not in plan.cells.built[which]:
        return Box(told(op), "leads nowhere, not built", str(mark), UNBUILT, (source,), mark)
    params = sum([step.params for step in plan.steps if f"_edge{mark}_" in step.name])
    return Box(told(op), f"{params:,} params" if params else "no params", str(mark), _hue(op), (source,), mark)


def _hue(op: str) -> str:
    return COLOURS[_HUES[op.partition("_")[0]]]


def told(op: str) -> str:
    """An operation in words: `sep conv 5×5`, `inverted 3×3, 3 times as wide`."""
    words = re.sub(r"(\d)x(\d)", r"\1×\2", op).split("_")
    return f"inverted {words[1]}, {words[2]} times as wide" if words[0] == "inverted" else " ".join(words)


# ---------------------------------------------------------------------------------------------------------- picture


@styled
def draw(plan: Plan, title: str = "", key: str = "") -> Figure:
    """The skeleton and its cells side by side, each from top to bottom."""
    facts = [f"{plan.params:,} parameters  ·  {flops(plan.flops)}", f"depth {plan.depth}"]
    facts[1] += f"  ·  genome {key}" if key else ""
    top = 0.2 * (len(facts) + bool(title)) + 0.22 + MARGIN
    shown = diagrams(plan)
    scenes, places, width = _arranged(shown, top + _TITLE)
    figure, ax = headed(title, facts, (0.0, width), max(scene.ranks[-1][1] for scene in scenes))
    for i, (one, scene, place) in enumerate(zip(shown, scenes, places, strict=True)):
        left, above = place + scene.sides()[0], scene.ranks[0][0] - _TITLE
        ax.text(left, above, one.title, fontsize=10, fontweight="bold", color=INK, va="top")
        if i == 1:
            ax.text(left + breadth(one.title, 10, True) + 0.15, above + 0.02, _TOLD, fontsize=8, color=SOFT, va="top")
        cards.paint(ax, scene, place)
    return figure


_TOLD = "params of an operation: in all places together"


def _arranged(shown: Sequence[Diagram], top: float) -> tuple[list[Scene], list[float], float]:
    """The scenes, how far right each lies, and the width of all: cells side by side, or one below the other where they
    are wide."""
    scenes = [_laid(one, top) for one in shown]
    widths = [max(right - left, breadth(one.title, 10, True)) for one, scene in zip(shown, scenes, strict=True)
              for left, right in [scene.sides()]]  # fmt: skip
    beside = widths[0] + _APART
    if sum(widths[1:]) > _WIDE:
        for i in range(2, len(shown)):
            scenes[i] = _laid(shown[i], scenes[i - 1].ranks[-1][1] + _APART + _TITLE)
        starts = [0.0, *[beside] * (len(shown) - 1)]
    else:
        starts = [sum(widths[:i]) + i * _APART for i in range(len(shown))]
    width = max(start + one for start, one in zip(starts, widths, strict=True))
    return scenes, [start - scene.sides()[0] for start, scene in zip(starts, scenes, strict=True)], width


def _laid(one: Diagram, top: float) -> Scene:
    return cards.scene([_card(box) for box in one.boxes], [box.inputs for box in one.boxes], top)


def _card(box: Box) -> Card:
    return cards.pill(box.title) if box.colour is None else cards.box(box.title, box.detail, box.label, box.colour)


# ------------------------------------------------------------------------------------------------------------- text


def text(plan: Plan) -> str:
    """Each cell node by node with what it takes, then the network part by part."""
    assert plan.cells is not None
    lines: list[str] = []
    for i, name in enumerate(plan.cells.names):
        rows = [(_name(name), "takes operation(node)")]
        for node in sorted({edge[2] for edge in plan.cells.edges[i]}):
            ways = [edge for edge in plan.cells.edges[i] if edge[2] == node and edge[3] != "none"]
            words = [f"{op}({source})" if mark in plan.cells.built[i] else f"[{op}({source})]"
                     for mark, source, _, op in ways]  # fmt: skip
            rows.append((f"node {node}", "  ".join(words) or "nothing: zeros"))
        rows.append(("output", "  ".join(f"node {node}" for node in plan.cells.outputs[i])))
        lines += [*_table(rows, right=()), ""]
    parts = [("part", "times", "shape", "params", "FLOPs")]
    for group in _groups(plan):
        params, count = group.counts
        parts.append((group.title, str(group.times) if group.times > 1 else "", extent(group.steps[-1].shape),
                      f"{params:,}" if params else "", short(count) if count else ""))  # fmt: skip
    parts.append((f"depth {plan.depth}", "", "", f"{plan.params:,}", short(plan.flops)))
    return "\n".join([*lines, *_table(parts, right=(1, 3, 4))])


def _table(rows: Sequence[tuple[str, ...]], right: Sequence[int]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
