"""A network as a picture (SVG, PNG, PDF) and as a compact text for terminals, both from its plan.

Every step with parameters or pooling is a box: its mark, its operation, what follows it (normalisation, activation),
its output shape and its parameters. Merges and reshapes are slim pills. Edges never cross a box."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Curve

from evonas.core import Genome
from evonas.encoding.plan import Plan, Shape, Step
from evonas.report import graphs, rails
from evonas.report.figures import FAINT, MARGIN, SOFT, breadth, headed, save, short, styled
from evonas.report.layout import Layout, layered

__all__ = ["describe", "draw", "save", "text"]

COLOURS = {
    "conv": "#0072B2",
    "separable": "#3A87C8",
    "linear": "#C2571A",
    "max_pool": "#00805C",
    "avg_pool": "#2E9E7B",
    "dropout": "#8A6FB0",
    "identity": "#7C8490",
    "gate": "#7C8490",
}
"""Okabe and Ito's hues, dark enough to carry white text; related operations share a hue."""

_BOX, _PILL, _GAP, _BAR, _PAD = 0.46, 0.24, 0.27, 0.36, 0.13
"""Inches: heights of a box and a pill, the gap between ranks, the bar with the mark, padding."""

_WIRE = "#7C8490"

# ------------------------------------------------------------------------------------------------------------ words


def mark(step: Step) -> str:
    """The mark of the gene whose operation a step is (`layer5` -> `5`, `edge7` -> `7`), '' for merges and reshapes."""
    found = re.fullmatch(r"(?:layer|edge)(\d+)", step.name)
    return found[1] if found else ""


def describe(step: Step) -> tuple[str, str]:
    """A step's operation with its sizes, and what follows it: (`conv 3×3 /2, 16`, `batch norm, relu`)."""
    settings, after = step.settings, ", ".join(_after(step.settings))
    match step.op:
        case "identity" if after:
            return after, ""
        case "conv" if step.name.startswith("edge"):
            name = f"projection, {step.shape[0]}"
        case "conv" | "separable":
            name = f"{step.op} {_window(settings)}, {step.shape[0]}"
        case "max_pool" | "avg_pool":
            name = f"{'max' if step.op == 'max_pool' else 'average'} pool {_window(settings)}"
        case "linear":
            name = f"{'projection,' if step.name.startswith('edge') else 'dense'} {step.shape[0]}"
        case "dropout":
            name = f"dropout {settings['rate']:g}"
        case "global_pool":
            name = "global average pool"
        case "sum":
            name = "+"
        case _:
            name = step.op
    return name, after


def _window(settings: Mapping[str, Any]) -> str:
    """Kernel, stride and dilation where they say something: `3×3`, `3×3 /2`, `5×5 dilated 2`."""
    words = [_extent(settings["kernel"])]
    for sign, name in (("/", "stride"), ("dilated ", "dilation")):
        both = settings.get(name, (1, 1))
        if both != (1, 1):
            words.append(f"{sign}{both[0] if both[0] == both[1] else _extent(both)}")
    return " ".join(words)


def _after(settings: Mapping[str, Any]) -> list[str]:
    norm, activation = settings.get("norm", "none"), settings.get("activation", "linear")
    words = [f"{norm} norm"] if norm != "none" else []
    return words + ([activation.replace("_", " ")] if activation != "linear" else [])


def _extent(shape: Shape) -> str:
    return "×".join(map(str, shape))


# ---------------------------------------------------------------------------------------------------------- picture


@dataclass(frozen=True, slots=True)
class _Card:
    """What is written in one step's box or pill, with its size in inches."""

    title: str
    detail: str
    mark: str
    colour: str | None
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is drawn where, in inches, y growing downwards: each card's centre, and each rank's top and bottom."""

    cards: tuple[_Card, ...]
    layout: Layout
    ranks: tuple[tuple[float, float], ...]

    def centre(self, i: int) -> tuple[float, float]:
        top, bottom = self.ranks[self.layout.rank[i]]
        return self.layout.x[i], (top + bottom) / 2

    def sides(self) -> tuple[float, float]:
        """The left and right end of everything."""
        xs = [(x, card.width / 2) for x, card in zip(self.layout.x, self.cards, strict=True)]
        xs += [(x, 0.0) for lane in self.layout.lanes for x in lane]
        return min(x - half for x, half in xs), max(x + half for x, half in xs)


@styled
def draw(plan: Plan, genome: Genome | None = None, *, title: str = "") -> Figure:
    """A plan as a picture from input (top) to output (bottom); its size follows from the network's.

    With its `genome`, the heading names the genome's key. A direct genome's network is drawn by `graphs.draw`."""
    if plan.steps[-1].op == "graph":
        return graphs.draw(plan.steps[-1].settings, title, genome.key[:10] if genome is not None else "")
    facts = [f"{plan.params:,} parameters  ·  {_flops(plan.flops)}", f"depth {plan.depth}"]
    if genome is not None:
        facts[1] += f"  ·  genome {genome.key[:10]}"
    scene = _scene(plan, 0.2 * (len(facts) + bool(title)) + 0.22 + MARGIN)
    figure, ax = headed(title, facts, scene.sides(), scene.ranks[-1][1])
    targets: dict[int, list[int]] = {}
    for target, step in enumerate(plan.steps):
        for source in sorted(set(step.inputs)):
            targets.setdefault(source, []).append(target)
    for source, ends in targets.items():
        _draw_edges(ax, scene, source, ends)
    for i, card in enumerate(scene.cards):
        _draw_card(ax, card, *scene.centre(i))
    return figure


def _flops(count: int) -> str:
    number = short(count)
    return f"{number} FLOPs" if number[-1].isdigit() else f"{number[:-1]} {number[-1]}FLOPs"


def _card(step: Step) -> _Card:
    name, after = describe(step)
    # a pool that only brings an edge to its neighbours' size is no gene's operation
    colour = COLOURS.get(step.op) if mark(step) else None
    if colour is None:
        title = f"{name}   {_extent(step.shape)}"
        return _Card(title, "", "", None, max(breadth(title, 8.5, False) + 0.3, 0.9), _PILL)
    facts = [after, _extent(step.shape), f"{step.params:,} params" if step.params else ""]
    detail = "  ·  ".join(fact for fact in facts if fact)
    number = mark(step)
    bar = max(_BAR, breadth(number, 9, True) + 0.14)
    width = bar + 2 * _PAD + max(breadth(name, 10, True), breadth(detail, 8, False))
    return _Card(name, detail, number, colour, max(width, 1.7), _BOX)


def _scene(plan: Plan, top: float) -> _Scene:
    """Lays a plan out below `top`; a rank is as tall as its tallest card."""
    cards = [_card(step) for step in plan.steps]
    # boxes of one width make a calmer picture than boxes that fit their words
    widest = max((card.width for card in cards if card.colour), default=0.0)
    cards = [replace(card, width=widest) if card.colour else card for card in cards]
    layout = layered([step.inputs for step in plan.steps], [card.width for card in cards])
    heights = [0.0] * (max(layout.rank) + 1)
    for card, rank in zip(cards, layout.rank, strict=True):
        heights[rank] = max(heights[rank], card.height)
    ranks = []
    for height in heights:
        ranks.append((top, top + height))
        top += height + _GAP
    return _Scene(tuple(cards), layout, tuple(ranks))


def _draw_card(ax: Axes, card: _Card, x: float, y: float) -> None:
    left, top = x - card.width / 2, y - card.height / 2
    if card.colour is None:
        round_ = f"round,pad=0,rounding_size={card.height / 2}"
        ax.add_artist(FancyBboxPatch((left, top), card.width, card.height, boxstyle=round_, facecolor="white",
                                    edgecolor=FAINT, linewidth=1, zorder=3))  # fmt: skip
        ax.text(x, y, card.title, fontsize=8.5, ha="center", va="center_baseline", zorder=4)
        return
    box = FancyBboxPatch((left, top), card.width, card.height, boxstyle="round,pad=0,rounding_size=0.07",
                         facecolor="#F7F8FA", edgecolor=card.colour, linewidth=1.2, zorder=3)  # fmt: skip
    ax.add_artist(box)
    bar = max(_BAR, breadth(card.mark, 9, True) + 0.14)
    strip = Rectangle((left, top), bar, card.height, facecolor=card.colour, linewidth=0, zorder=3.5)
    ax.add_artist(strip)
    strip.set_clip_path(box)
    ax.text(left + bar / 2, y, card.mark, fontsize=9, fontweight="bold", color="white", ha="center",
            va="center_baseline", zorder=4)  # fmt: skip
    ax.text(left + bar + _PAD, y - 0.09, card.title, fontsize=10, fontweight="bold", va="center_baseline", zorder=4)
    ax.text(left + bar + _PAD, y + 0.115, card.detail, fontsize=8, color=SOFT, va="center_baseline", zorder=4)


def _draw_edges(ax: Axes, scene: _Scene, source: int, targets: Sequence[int]) -> None:
    """A node's edges as a tree: one lane straight down through the ranks they pass, and a branch off to each target.

    Edges bend only in the gaps between ranks, where no box is."""
    first = scene.layout.rank[source]
    x, y = scene.centre(source)
    lane = [(x, y + scene.cards[source].height / 2)]
    for x, (top, bottom) in zip(scene.layout.lanes[source], scene.ranks[first + 1 :], strict=False):
        lane += [(x, top), (x, bottom)]
    if len(lane) > 1:
        ax.add_artist(PathPatch(_smooth(lane), facecolor="none", edgecolor=_WIRE, linewidth=1.2, zorder=2))
    for target in targets:
        x, y = scene.centre(target)
        start = lane[2 * (scene.layout.rank[target] - first - 1)]
        branch = _smooth([start, (x, y - scene.cards[target].height / 2)])
        ax.add_artist(FancyArrowPatch(path=branch, arrowstyle="-|>,head_length=3,head_width=1.8", mutation_scale=1,
                                      color=_WIRE, linewidth=1.2, zorder=2))  # fmt: skip


def _smooth(points: Sequence[tuple[float, float]]) -> Curve:
    """A curve through points that leaves and reaches each of them vertically."""
    vertices, codes = [points[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        vertices += [(x0, middle), (x1, middle), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    return Curve(vertices, codes)


# ------------------------------------------------------------------------------------------------------------- text


def text(plan: Plan) -> str:
    """A plan as lines of text: rails that show where tensors go, then mark, operation, shape, parameters and FLOPs; a
    direct genome's network by `graphs.text`."""
    if plan.steps[-1].op == "graph":
        return graphs.text(plan.steps[-1].settings)
    drawn = rails.drawn([step.inputs for step in plan.steps])
    rows = [("", "mark", "operation", "shape", "params", "FLOPs")]
    for step, rail in zip(plan.steps, drawn, strict=True):
        name, after = describe(step)
        rows.append((
            rail, mark(step), f"{name}{', ' if after else ''}{after}", _extent(step.shape),
            f"{step.params:,}" if step.params else "", short(step.flops) if step.flops else "",
        ))  # fmt: skip
    rows.append(("", "", f"depth {plan.depth}", "", f"{plan.params:,}", short(plan.flops)))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ("  ".join(cell.rjust(w) if i in (1, 4, 5) else cell.ljust(w)
                       for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows)  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)
