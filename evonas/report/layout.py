"""Positions for drawing a layered graph: ranks from top to bottom, edges that bend around nodes, few crossings.

After Sugiyama, Tagawa and Toda 1981 and Gansner et al. 1993: longest-path ranks, bends in every rank that an edge
passes, barycentre ordering, then coordinates by least squares. All edges of one node share one lane, since they carry
one tensor. Pure: lists in, a value out; no drawing library."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

_SWEEPS = 12
_PINNED = 1e6
"""The weight that keeps the longest path a straight line at x = 0."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where nodes lie: `rank` (0 at the top) and centre `x` of each; `lanes[i]` are the x, rank by rank from
    rank[i] + 1, at which edges leaving node i pass ranks that lie between their ends."""

    rank: tuple[int, ...]
    x: tuple[float, ...]
    lanes: tuple[tuple[float, ...], ...]


@dataclass(slots=True)
class _Place:
    """A node or a bend, while being placed: its neighbours in the ranks above and below, each with a weight."""

    width: float
    spine: bool = False
    bend: bool = False
    up: list[tuple[int, float]] = field(default_factory=list)
    down: list[tuple[int, float]] = field(default_factory=list)
    x: float = 0.0


def layered(
    inputs: Sequence[Sequence[int]],
    widths: Sequence[float],
    gap: float = 0.3,
    lane: float = 0.16,
    ranks: Sequence[int] | None = None,
    still: Collection[int] = (),
) -> Layout:
    """Places nodes given in topological order, `inputs[i]` being earlier nodes. `gap` keeps nodes apart sideways,
    `lane` keeps edges apart from each other; both and `widths` share the unit of the resulting x.

    `ranks` says where nodes stand instead of as high as they can; each must be below its inputs. Nodes of the ranks in
    `still` keep their order, and the longest path of a graph with given ranks need not be a straight line."""
    rank = _ranks(inputs) if ranks is None else list(ranks)
    places, lanes = _places(inputs, widths, rank, ranks is None)
    rows: list[list[int]] = [[] for _ in range(max(rank, default=-1) + 1)]
    for i, r in enumerate(rank):
        rows[r].append(i)
        for step, bend in enumerate(lanes[i], start=1):
            rows[r + step].append(bend)
    _order(rows, places, still)
    _spread(rows, places, gap, lane)
    for _ in range(2):
        _straighten(rows, places, [bends for bends in lanes if bends], gap, lane)
    x = [place.x for place in places]
    return Layout(tuple(rank), tuple(x[: len(rank)]), tuple(tuple(x[bend] for bend in bends) for bends in lanes))


def _ranks(inputs: Sequence[Sequence[int]]) -> list[int]:
    rank: list[int] = []
    for sources in inputs:
        rank.append(max((rank[s] + 1 for s in sources), default=0))
    return rank


def _spine(inputs: Sequence[Sequence[int]], rank: Sequence[int]) -> set[int]:
    """The nodes of a longest path that ends at the last node."""
    node, spine = len(inputs) - 1, {len(inputs) - 1}
    while inputs[node]:
        node = max(inputs[node], key=rank.__getitem__)
        spine.add(node)
    return spine


def _places(
    inputs: Sequence[Sequence[int]], widths: Sequence[float], rank: Sequence[int], straight: bool
) -> tuple[list[_Place], list[list[int]]]:
    """The graph with a bend in every rank that an edge passes: its places, and each node's bends from rank to rank."""
    spine = _spine(inputs, rank) if inputs and straight else set()
    places = [_Place(width, spine=i in spine) for i, width in enumerate(widths)]
    lanes: list[list[int]] = [[] for _ in inputs]

    def join(above: int, below: int, weight: float) -> None:
        places[above].down.append((below, weight))
        places[below].up.append((above, weight))

    for target, sources in enumerate(inputs):
        for source in sorted(set(sources)):
            lane = lanes[source]
            while len(lane) < rank[target] - rank[source] - 1:
                places.append(_Place(0.0, bend=True))
                # bends pull hard on each other, so that a long edge is straight
                join(lane[-1] if lane else source, len(places) - 1, 8.0 if lane else 2.0)
                lane.append(len(places) - 1)
            hops = rank[target] - rank[source] - 1
            join(lane[hops - 1] if hops else source, target, 2.0 if hops else 1.0)
    return places, lanes


def _order(rows: list[list[int]], places: Sequence[_Place], still: Collection[int]) -> None:
    """Sorts each row by the mean position of its neighbours, down and up in turn; keeps the least crossed order."""
    best, fewest = [list(row) for row in rows], _crossings(rows, places)
    for sweep in range(_SWEEPS):
        downward = sweep % 2 == 0
        for r in range(1, len(rows)) if downward else range(len(rows) - 2, -1, -1):
            if r in still:
                continue
            at = {place: i for i, place in enumerate(rows[r - 1] if downward else rows[r + 1])}
            here = {place: i for i, place in enumerate(rows[r])}
            middle = {}
            for place in rows[r]:
                near = [at[n] for n, _ in (places[place].up if downward else places[place].down)]
                middle[place] = sum(near) / len(near) if near else float(here[place])
            rows[r].sort(key=middle.__getitem__)
        crossings = _crossings(rows, places)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    rows[:] = best


def _crossings(rows: Sequence[Sequence[int]], places: Sequence[_Place]) -> int:
    count = 0
    for upper, lower in pairwise(rows):
        at = {place: i for i, place in enumerate(lower)}
        seen: list[int] = []
        for place in upper:
            ends = [at[n] for n, _ in places[place].down]
            count += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return count


def _spread(rows: Sequence[Sequence[int]], places: Sequence[_Place], gap: float, lane: float) -> None:
    """Gives every place its x: rows in turn move as near to their neighbours as order and distances allow."""
    for row in rows:
        _settle(row, places, [(0.0, 1.0)] * len(row), gap, lane)
    for sweep in range(2 * _SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            _settle(row, places, [_wish(places[p], places) for p in row], gap, lane)


def _wish(place: _Place, places: Sequence[_Place]) -> tuple[float, float]:
    """Where a place would like to be, and how much."""
    if place.spine:
        return 0.0, _PINNED
    near = [*place.up, *place.down]
    total = sum(weight for _, weight in near)
    return (sum(places[n].x * weight for n, weight in near) / total, total) if near else (place.x, 1.0)


def _settle(
    row: Sequence[int], places: Sequence[_Place], wishes: Sequence[tuple[float, float]], gap: float, lane: float
) -> None:
    """The x of a row that minimise the weighted squared distance to the wishes while keeping neighbours apart: isotonic
    regression (pool adjacent violators), once each place's least offset is taken off."""
    offsets, blocks = [0.0], []
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + _apart(places[left], places[right], gap, lane))
    for (wish, weight), offset in zip(wishes, offsets, strict=True):
        blocks.append([wish - offset, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, weight, size = blocks.pop()
            last = blocks[-1]
            blocks[-1] = [(last[0] * last[1] + mean * weight) / (last[1] + weight), last[1] + weight, last[2] + size]
    means = [mean for mean, _, size in blocks for _ in range(int(size))]
    for place, mean, offset in zip(row, means, offsets, strict=True):
        places[place].x = mean + offset


def _apart(left: _Place, right: _Place, gap: float, lane: float) -> float:
    """The least distance between the centres of two neighbours."""
    return (left.width + right.width) / 2 + (lane if left.bend and right.bend else gap)


def _straighten(
    rows: Sequence[Sequence[int]], places: Sequence[_Place], lanes: Sequence[Sequence[int]], gap: float, lane: float
) -> None:
    """Moves the bends of each lane onto as few different x as the neighbours, held still, leave room for."""
    sides: dict[int, tuple[int | None, int | None]] = {}
    for row in rows:
        sides |= {place: (left, right) for left, place, right in zip([None, *row], row, [*row[1:], None], strict=False)}

    def room(bend: int) -> tuple[float, float]:
        left, right = sides[bend]
        low = -inf if left is None else places[left].x + _apart(places[left], places[bend], gap, lane)
        high = inf if right is None else places[right].x - _apart(places[bend], places[right], gap, lane)
        return low, high

    for bends in lanes:
        stretch: list[int] = []
        low, high = -inf, inf
        for bend in [*bends, None]:
            bounds = room(bend) if bend is not None else (inf, -inf)
            if stretch and max(low, bounds[0]) > min(high, bounds[1]) + 1e-9:
                middle = sum(places[b].x for b in stretch) / len(stretch)
                for b in stretch:
                    places[b].x = min(max(middle, low), high)
                stretch, low, high = [], -inf, inf
            if bend is not None:
                stretch.append(bend)
                low, high = max(low, bounds[0]), min(high, bounds[1])
