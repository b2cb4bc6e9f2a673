"""Cards that stand for operations, laid out in ranks and joined by edges: what drawings of networks are made of.

A step with parameters or pooling is a box: its mark, its operation, what follows it, its output shape and its
parameters. Merges and reshapes are slim pills. Edges never cross a card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Curve

from evonas.encoding.plan import Shape, Step
from evonas.report.figures import FAINT, SOFT, breadth, short
from evonas.report.layout import Layout, layered

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
    words = [extent(settings["kernel"])]
    for sign, name in (("/", "stride"), ("dilated ", "dilation")):
        both = settings.get(name, (1, 1))
        if both != (1, 1):
            words.append(f"{sign}{both[0] if both[0] == both[1] else extent(both)}")
    return " ".join(words)


def _after(settings: Mapping[str, Any]) -> list[str]:
    norm, activation = settings.get("norm", "none"), settings.get("activation", "linear")
    words = [f"{norm} norm"] if norm != "none" else []
    return words + ([activation.replace("_", " ")] if activation != "linear" else [])


def extent(shape: Shape) -> str:
    return "×".join(map(str, shape))


def flops(count: int) -> str:
    """A count of FLOPs with its prefix: `1.2 MFLOPs`."""
    number = short(count)
    return f"{number} FLOPs" if number[-1].isdigit() else f"{number[:-1]} {number[-1]}FLOPs"


# ----------------------------------------------------------------------------------------------------------- cards


@dataclass(frozen=True, slots=True)
class Card:
    """What is written in one step's box or pill, with its size in inches."""

    title: str
    detail: str
    mark: str
    colour: str | None
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Scene:
    """What is drawn where, in inches, y growing downwards: each card's centre, and each rank's top and bottom."""

    cards: tuple[Card, ...]
    inputs: tuple[tuple[int, ...], ...]
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


def card(step: Step) -> Card:
    """A step's box or pill."""
    name, after = describe(step)
    # a pool that only brings an edge to its neighbours' size is no gene's operation
    colour = COLOURS.get(step.op) if mark(step) else None
    if colour is None:
        return pill(f"{name}   {extent(step.shape)}")
    facts = [after, extent(step.shape), f"{step.params:,} params" if step.params else ""]
    return box(name, "  ·  ".join(fact for fact in facts if fact), mark(step), colour)


def pill(title: str) -> Card:
    """A slim card of one line."""
    return Card(title, "", "", None, max(breadth(title, 8.5, False) + 0.3, 0.9), _PILL)


def box(title: str, detail: str, label: str, colour: str) -> Card:
    """A card with a title, a second line, and a coloured bar with a label."""
    bar = max(_BAR, breadth(label, 9, True) + 0.14)
    width = bar + 2 * _PAD + max(breadth(title, 10, True), breadth(detail, 8, False))
    return Card(title, detail, label, colour, max(width, 1.7), _BOX)


def scene(cards: Sequence[Card], inputs: Sequence[Sequence[int]], top: float) -> Scene:
    """Lays cards out below `top`, each under its `inputs`; a rank is as tall as its tallest card."""
    # boxes of one width make a calmer picture than boxes that fit their words
    widest = max((card.width for card in cards if card.colour), default=0.0)
    cards = [replace(card, width=widest) if card.colour else card for card in cards]
    layout = layered(inputs, [card.width for card in cards])
    heights = [0.0] * (max(layout.rank) + 1)
    for card, rank in zip(cards, layout.rank, strict=True):
        heights[rank] = max(heights[rank], card.height)
    ranks = []
    for height in heights:
        ranks.append((top, top + height))
        top += height + _GAP
    return Scene(tuple(cards), tuple(tuple(sorted(set(of))) for of in inputs), layout, tuple(ranks))


def paint(ax: Axes, scene: Scene, right: float = 0.0) -> None:
    """Draws a scene, moved to the right by so many inches."""
    targets: dict[int, list[int]] = {}
    for target, sources in enumerate(scene.inputs):
        for source in sources:
            targets.setdefault(source, []).append(target)
    for source, ends in targets.items():
        _draw_edges(ax, scene, source, ends, right)
    for i, card in enumerate(scene.cards):
        x, y = scene.centre(i)
        _draw_card(ax, card, x + right, y)


def _draw_card(ax: Axes, card: Card, x: float, y: float) -> None:
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


def _draw_edges(ax: Axes, scene: Scene, source: int, targets: Sequence[int], right: float) -> None:
    """A node's edges as a tree: one lane straight down through the ranks they pass, and a branch off to each target.

    Edges bend only in the gaps between ranks, where no box is."""
    first = scene.layout.rank[source]
    x, y = scene.centre(source)
    lane = [(x + right, y + scene.cards[source].height / 2)]
    for x, (top, bottom) in zip(scene.layout.lanes[source], scene.ranks[first + 1 :], strict=False):
        lane += [(x + right, top), (x + right, bottom)]
    if len(lane) > 1:
        ax.add_artist(PathPatch(_smooth(lane), facecolor="none", edgecolor=_WIRE, linewidth=1.2, zorder=2))
    for target in targets:
        x, y = scene.centre(target)
        start = lane[2 * (scene.layout.rank[target] - first - 1)]
        branch = _smooth([start, (x + right, y - scene.cards[target].height / 2)])
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
