"""From cells to networks: a skeleton repeats the cells, and every edge's operation becomes steps of a plan.

What the publications build is built: ReLU-Conv-BN order, no bias before a norm, factorised reductions, so that
parameters count exactly as they state them. Only what carries nothing is left out: an operation to which no way leads
from the cell's input, or from which none leads to the output. Where a cell's output is cut off, a step `zero` stands in
its place.

Every step is named by the occurrence of its cell, the mark of its edge and the operation there
(`cell3_edge130_conv_3x3`), so that equal genes have equal names whatever else the cell holds. A part of a network is
built once for each shape and copied under another name wherever it stands again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from evonas.core import Settings
from evonas.encoding.decode import window
from evonas.encoding.plan import Cells, Plan, Shape, Step, StepOp

CellOp = Literal[
    "none", "skip", "conv_1x1", "conv_3x3", "conv_5x5", "conv_1x3_3x1", "conv_1x7_7x1", "sep_conv_3x3", "sep_conv_5x5",
    "sep_conv_7x7", "dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "max_pool_5x5", "max_pool_7x7",
    "inverted_3x3_3", "inverted_5x5_6",
]  # fmt: skip


class Skeleton(Settings):
    """How cells become a network: a stem, stages of repeated cells with the image halved between them, a classifier."""

    stem: Literal["conv", "relu", "wide"] = "conv"
    """The first layer: a 3x3 convolution with batch norm to `channels`, the same with ReLU behind it (NAS-Bench-Macro),
    or one to three times as many channels (DARTS and NASNet)."""
    channels: Annotated[int, Field(ge=1, le=1024)] = 16
    """Channels of a cell's nodes in the first stage; each halving of the image doubles them."""
    repeats: Annotated[int, Field(ge=1, le=64)] = 5
    """Cells of a stage, those that halve the image not counted."""
    stages: Annotated[int, Field(ge=1, le=6)] = 3
    """Stages of equal resolution."""
    reduce: Literal["residual", "cell", "chain"] = "residual"
    """What halves the image: a residual block between stages, a reduction cell between them, or the first node of each
    stage, where a chain's nodes are divided evenly among the stages and stand there once (NAS-Bench-Macro)."""
    head: Literal["plain", "norm", "wide"] = "norm"
    """What stands before the last pool: nothing, batch norm and ReLU, or a 1x1 convolution to 1,280 channels with
    both (NAS-Bench-Macro)."""


WIDE_HEAD = 1280
"""Channels of the head `wide`: Su et al. 2021, as MobileNetV2 has it."""

Edges = tuple[tuple[int, int, int, str], ...]
"""Edges of a cell: (mark, source, target, op), sorted by target."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the nodes of a cell are joined: the earlier cells it reads, the nodes it computes, and what it hands on: its
    last node, all of them, those that no node reads, or by cell the nodes named."""

    inputs: int
    nodes: int
    output: str | tuple[tuple[int, ...], ...]


def lower(
    names: tuple[str, ...],
    cells: tuple[Edges, ...],
    skeleton: Skeleton,
    layout: Layout,
    input_shape: Shape,
    outputs: int,
) -> Plan:
    """The network of cells, whose edges are (mark, source, target, op), sorted by target; inputs come before nodes.

    `input_shape` is (channels, height, width). The first cell is the one that is repeated, the last one halves the
    image where `skeleton.reduce` is cell."""
    made = _Steps()
    now = made.add("layer0", "input", (), input_shape)
    now = made.place("stem", _stem(input_shape, skeleton.stem, skeleton.channels), (now,))
    if skeleton.reduce == "chain":
        now = _chain(made, cells[0], skeleton, now)
    else:
        now = _stages(made, cells, skeleton, layout, now)
    made.place("", _head(made.shape(now), skeleton.head, outputs), (now,))
    return Plan(tuple(_needed(made.steps)), described(names, cells, layout))


def described(names: tuple[str, ...], cells: tuple[Edges, ...], layout: Layout) -> Cells:
    """The cells as a plan has them: with the edges that do something, and the nodes handed on."""
    handed = tuple(tuple(_outputs(layout, i, _fed(cell, layout.inputs))) for i, cell in enumerate(cells))
    built = tuple(_built(cell, layout.inputs, nodes) for cell, nodes in zip(cells, handed, strict=True))
    return Cells(names, cells, built, handed, layout.inputs)


def _fed(edges: Edges, inputs: int) -> list[tuple[int, int, int, str]]:
    """The edges that have something to carry."""
    reached = set(range(inputs))
    fed = []
    for edge in edges:
        if edge[3] != "none" and edge[1] in reached:
            reached.add(edge[2])
            fed.append(edge)
    return fed


def _built(edges: Edges, inputs: int, outputs: Sequence[int]) -> frozenset[int]:
    """Marks of the edges that have something to carry, and to somewhere."""
    heard, marks = set(outputs), set[int]()
    for mark, source, target, _ in reversed(_fed(edges, inputs)):
        if target in heard:
            heard.add(source)
            marks.add(mark)
    return frozenset(marks)


def _stages(made: _Steps, cells: tuple[Edges, ...], skeleton: Skeleton, layout: Layout, now: int) -> int:
    """Stages of cells; each cell reads the last outputs, the oldest first."""
    before = [now] * layout.inputs
    channels, number = skeleton.channels, 0
    for stage in range(skeleton.stages):
        strides = [2] * (stage > 0 and skeleton.reduce == "cell") + [1] * skeleton.repeats
        channels *= 2 if stage else 1
        if stage and skeleton.reduce == "residual":
            block = _residual(made.shape(before[-1]), channels)
            before = [*before[1:], made.place(f"block{stage}", block, before[-1:])]
        for stride in strides:
            which = len(cells) - 1 if stride > 1 else 0
            shapes = tuple([made.shape(i) for i in before])
            part = _cell(cells[which], which, layout, shapes, channels, stride)
            before = [*before[1:], made.place(f"cell{number}", part, before)]
            number += 1
    return before[-1]


def _chain(made: _Steps, edges: Edges, skeleton: Skeleton, now: int) -> int:
    """A chain of single operations, the first of each stage halving the image. Su et al. 2021."""
    channels = skeleton.channels
    starts = {len(edges) * stage // skeleton.stages for stage in range(skeleton.stages)}
    for place, (mark, _, _, op) in enumerate(edges):
        channels *= 2 if place in starts else 1
        part = _linked(op, made.shape(now), channels, 2 if place in starts else 1)
        now = made.place(f"cell0_edge{mark}_{op}", part, (now,))
    return now


def _needed(steps: Sequence[Step]) -> Sequence[Step]:
    """The steps that lead to the output."""
    needed = [False] * len(steps)
    needed[-1] = True
    for i in range(len(steps) - 1, 0, -1):
        if needed[i]:
            for j in steps[i].inputs:
                needed[j] = True
    if all(needed):
        return steps
    place: dict[int, int] = {}
    kept: list[Step] = []
    for i, step in enumerate(steps):
        if needed[i]:
            place[i] = len(kept)
            kept.append(step._replace(inputs=tuple([place[j] for j in step.inputs])))
    return kept


# ------------------------------------------------------------------------------------------------------------ parts


class _Part(NamedTuple):
    """Steps that can be placed anywhere: an input -1 is the first tensor given from outside, -2 the second. `output` is
    the step, or the tensor given, that it hands on."""

    steps: tuple[Step, ...]
    output: int


class _Steps:
    """Steps under construction; every method returns the index of the step whose tensor it made.

    `given` are the shapes of tensors from outside, which have the indices -1, -2 ..."""

    def __init__(self, *given: Shape) -> None:
        self.steps: list[Step] = []
        self._given = given

    def shape(self, i: int) -> Shape:
        return self.steps[i].shape if i >= 0 else self._given[~i]

    def add(
        self, name: str, op: StepOp, inputs: tuple[int, ...], shape: Shape, settings: dict[str, Any] | None = None,
        params: int = 0, flops: int = 0,
    ) -> int:  # fmt: skip
        self.steps.append(Step(name, op, inputs, shape, settings or {}, params, flops))
        return len(self.steps) - 1

    def place(self, name: str, part: _Part, sources: Sequence[int]) -> int:
        """Copies a part, its names behind `name`; `sources` are the tensors that it is given."""
        first = len(self.steps)
        # at the end, so that -1 is the first source
        places: list[int] = [*range(first, first + len(part.steps)), *reversed(sources)]
        self.steps += [
            Step(f"{name}{own}", op, tuple([places[i] for i in inputs]), shape, settings, params, flops)
            for own, op, inputs, shape, settings, params, flops in part.steps
        ]
        return places[part.output]

    def part(self, output: int) -> _Part:
        return _Part(tuple(self.steps), output)

    # ----------------------------------------------------------------------------------------------------- operations

    def conv(
        self, name: str, source: int, channels: int, kernel: tuple[int, int] = (1, 1), stride: tuple[int, int] = (1, 1),
        *, dilation: int = 1, groups: int = 1, norm: str = "batch", activation: str = "linear",
    ) -> int:  # fmt: skip
        """A convolution without bias that keeps the image's size but for its stride."""
        incoming, *sizes = self.shape(source)
        axes = [window(k, s, dilation, size) for k, s, size in zip(kernel, stride, sizes, strict=True)]
        taps, strides, padding, size = zip(*axes, strict=True)
        settings = {
            "in_channels": incoming, "channels": channels, "kernel": taps, "stride": strides, "padding": padding,
            "dilation": (dilation, dilation), "groups": groups, "bias": False, "norm": norm, "activation": activation,
        }  # fmt: skip
        weights = incoming // groups * channels * taps[0] * taps[1]
        params = weights + (2 * channels if norm == "batch" else 0)
        flops = 2 * weights * size[0] * size[1]
        return self.add(name, "conv", (source,), (channels, *size), settings, params, flops)

    def pool(self, name: str, source: int, op: StepOp, kernel: int, stride: int = 1) -> int:
        """A pool that keeps the image's size but for its stride; padding never counts."""
        channels, *sizes = self.shape(source)
        taps, strides, padding, size = zip(*[window(kernel, stride, 1, size) for size in sizes], strict=True)
        settings = {"kernel": taps, "stride": strides, "padding": padding, "ceil": kernel % 2 == 0}
        return self.add(name, op, (source,), (channels, *size), settings)

    def relu(self, name: str, source: int) -> int:
        return self.add(name, "identity", (source,), self.shape(source), {"norm": "none", "activation": "relu"})

    def norm(self, name: str, source: int, activation: str = "linear") -> int:
        shape = self.shape(source)
        return self.add(name, "identity", (source,), shape, {"norm": "batch", "activation": activation}, 2 * shape[0])

    def sum(self, name: str, sources: Sequence[int]) -> int:
        """The sum of tensors of one shape; one alone is itself."""
        if len(sources) == 1:
            return sources[0]
        return self.add(name, "sum", tuple(sources), self.shape(sources[0]))

    def concat(self, name: str, sources: Sequence[int]) -> int:
        """Tensors of one image size joined by channels; one alone is itself."""
        if len(sources) == 1:
            return sources[0]
        shapes = [self.shape(source) for source in sources]
        return self.add(name, "concat", tuple(sources), (sum([shape[0] for shape in shapes]), *shapes[0][1:]))

    def zero(self, name: str, source: int, stride: int) -> int:
        """Zeros in the shape that an operation of this stride would give."""
        if stride > 1:
            source = self.pool(f"{name}_pool", source, "max_pool", 1, stride)
        return self.add(name, "zero", (source,), self.shape(source))

    def factorised(self, name: str, source: int, channels: int) -> int:
        """Halves the image: two 1x1 convolutions of stride 2, the second one pixel on, joined and normalised. `source`
        is behind its ReLU. Liu et al. 2019, as their code has it."""
        by = tuple(int(size > 1) for size in self.shape(source)[1:])
        shifted = self.add(f"{name}_shift", "shift", (source,), self.shape(source), {"by": by})
        halves = (channels // 2, channels - channels // 2)
        first = self.conv(f"{name}_first", source, halves[0], (1, 1), (2, 2), norm="none")
        second = self.conv(f"{name}_second", shifted, halves[1], (1, 1), (2, 2), norm="none")
        return self.norm(f"{name}_norm", self.concat(f"{name}_concat", (first, second)))


# -------------------------------------------------------------------------------------------------------- the skeleton


@lru_cache(maxsize=256)
def _stem(shape: Shape, kind: str, channels: int) -> _Part:
    made = _Steps(shape)
    wide, activation = 3 if kind == "wide" else 1, "relu" if kind == "relu" else "linear"
    return made.part(made.conv("", -1, wide * channels, (3, 3), activation=activation))


@lru_cache(maxsize=256)
def _head(shape: Shape, kind: str, outputs: int) -> _Part:
    made = _Steps(shape)
    now = -1
    if kind == "norm":
        now = made.norm("head", now, "relu")
    if kind == "wide":
        now = made.conv("head", now, WIDE_HEAD, activation="relu")
    features = made.shape(now)[0]
    now = made.add("layer1_reduce", "global_pool", (now,), (features,))
    settings = {"in_channels": features, "channels": outputs, "bias": True, "norm": "none", "activation": "linear"}
    params = (features + 1) * outputs
    return made.part(made.add("layer1", "linear", (now,), (outputs,), settings, params, 2 * features * outputs))


@lru_cache(maxsize=256)
def _residual(shape: Shape, channels: int) -> _Part:
    """A residual block that halves the image: two 3x3 convolutions, beside an average pool and a 1x1 convolution
    without norm. Dong and Yang 2020, section 2.1, as their code has it."""
    made = _Steps(shape)
    first = made.conv("_first", made.relu("_relu", -1), channels, (3, 3), (2, 2))
    second = made.conv("_second", made.relu("_relu2", first), channels, (3, 3))
    shortcut = made.conv("_shortcut", made.pool("_pool", -1, "avg_pool", 2, 2), channels, norm="none")
    return made.part(made.sum("", (shortcut, second)))


# ----------------------------------------------------------------------------------------------------------- the cells


@lru_cache(maxsize=4096)
def _cell(edges: Edges, which: int, layout: Layout, shapes: tuple[Shape, ...], channels: int, stride: int) -> _Part:
    """A cell given the outputs of earlier cells, the oldest first. Its nodes have `channels` channels; edges from its
    inputs have the stride."""
    made = _Steps(*shapes)
    values = _inputs(made, shapes, channels, layout.inputs)
    active: dict[int, int] = {}
    fed = _fed(edges, layout.inputs)
    for node in range(layout.inputs, layout.inputs + layout.nodes):
        sources = []
        for mark, source, _, op in [edge for edge in fed if edge[2] == node]:
            step = stride if source < layout.inputs else 1
            given = values[source]
            if _after_relu(op, step):
                if source not in active:
                    active[source] = made.relu(f"_node{source}_relu", given)
                given = active[source]
            sources.append(made.place(f"_edge{mark}_{op}", _operation(op, made.shape(given), channels, step), (given,)))
        if sources:
            values[node] = made.sum(f"_node{node}", sources)
    handed = [_handed_on(made, values, node, layout.inputs, channels, stride) for node in _outputs(layout, which, fed)]
    return made.part(made.concat("_out", handed))


def _inputs(made: _Steps, shapes: Sequence[Shape], channels: int, count: int) -> dict[int, int]:
    """Outputs of earlier cells brought to a cell's channels and, where they are twice as large, to the last one's size.
    A cell of one input takes it as it is where it fits already."""
    values = {}
    for i, shape in enumerate(shapes):
        values[i] = ~i
        if shape[1:] != shapes[-1][1:]:
            values[i] = made.factorised(f"_in{i}", made.relu(f"_in{i}_relu", ~i), channels)
        elif count > 1 or shape[0] != channels:
            values[i] = made.conv(f"_in{i}", made.relu(f"_in{i}_relu", ~i), channels)
    return values


def _outputs(layout: Layout, which: int, fed: Sequence[tuple[int, int, int, str]]) -> Sequence[int]:
    """The nodes that a cell hands on."""
    nodes = range(layout.inputs, layout.inputs + layout.nodes)
    match layout.output:
        case "last":
            return nodes[-1:]
        case "all":
            return nodes
        case "loose":
            read = {edge[1] for edge in fed}
            return [node for node in nodes if node not in read]
        case named:
            return [int(node) for node in named[which]]


def _handed_on(made: _Steps, values: dict[int, int], node: int, inputs: int, channels: int, stride: int) -> int:
    """A node's tensor as the cell's output has it: zeros where nothing leads to it, an input halved as the rest."""
    if node not in values:
        return made.zero(f"_node{node}", values[inputs - 1], stride)
    if node < inputs and stride > 1:
        return made.factorised(f"_node{node}", made.relu(f"_node{node}_out_relu", values[node]), channels)
    return values[node]


# ------------------------------------------------------------------------------------------------------- operations


def _after_relu(op: str, stride: int) -> bool:
    """Whether an operation of a cell takes its input through a ReLU."""
    return op.startswith(("conv", "sep_conv", "dil_conv")) or (op == "skip" and stride > 1)


@lru_cache(maxsize=4096)
def _operation(op: str, shape: Shape, channels: int, stride: int) -> _Part:
    """An edge's operation on a tensor of a shape, which is behind its ReLU already where it needs one."""
    made = _Steps(shape)
    kind, _, size = op.partition("_conv_" if "_conv_" in op else "_pool_" if "_pool_" in op else "_")
    return made.part(_MAKERS[kind](made, size, channels, stride))


def _conv(made: _Steps, size: str, channels: int, stride: int) -> int:
    along, _, across = size.partition("_")
    if not across:
        return made.conv("", -1, channels, _pair(along), (stride, stride))
    # along one axis, then along the other, on fewer channels where there are enough: as the code of AmoebaNet has it
    few = 3 * channels // 8 if along == "1x3" else channels // 4
    now, inner = -1, channels
    if few:
        now, inner = made.conv("_narrow", -1, few, activation="relu"), few
    now = made.conv("_along", now, inner, _pair(along), (1, stride), activation="relu")
    now = made.conv("_across", now, inner, _pair(across), (stride, 1), activation="relu" if few else "linear")
    return made.conv("_wide", now, channels) if few else now


def _separable(made: _Steps, size: str, channels: int, stride: int) -> int:
    """Depthwise and pointwise convolutions, twice."""
    incoming = made.shape(-1)[0]
    wide = made.conv("_depthwise1", -1, incoming, _pair(size), (stride, stride), groups=incoming, norm="none")
    between = made.conv("_pointwise1", wide, incoming, activation="relu")
    wide = made.conv("_depthwise2", between, incoming, _pair(size), groups=incoming, norm="none")
    return made.conv("_pointwise2", wide, channels)


def _dilated(made: _Steps, size: str, channels: int, stride: int) -> int:
    """A depthwise convolution that leaves every second pixel out, and a pointwise one."""
    incoming = made.shape(-1)[0]
    wide = made.conv(
        "_depthwise", -1, incoming, _pair(size), (stride, stride), dilation=2, groups=incoming, norm="none"
    )
    return made.conv("_pointwise", wide, channels)


def _average(made: _Steps, size: str, channels: int, stride: int) -> int:
    return _fitted(made, made.pool("", -1, "avg_pool", _pair(size)[0], stride), channels)


def _maximum(made: _Steps, size: str, channels: int, stride: int) -> int:
    return _fitted(made, made.pool("", -1, "max_pool", _pair(size)[0], stride), channels)


def _fitted(made: _Steps, source: int, channels: int) -> int:
    return source if made.shape(source)[0] == channels else made.conv("_fit", source, channels)


def _skip(made: _Steps, size: str, channels: int, stride: int) -> int:
    return -1 if stride == 1 else made.factorised("", -1, channels)


def _inverted(made: _Steps, size: str, channels: int, stride: int) -> int:
    """An inverted bottleneck: widened, convolved by channel, narrowed; with the input added where it fits. Sandler et
    al. 2018."""
    kernel, _, times = size.partition("_")
    wide = made.shape(-1)[0] * int(times)
    now = made.conv("_expand", -1, wide, activation="relu")
    now = made.conv("_depthwise", now, wide, _pair(kernel), (stride, stride), groups=wide, activation="relu")
    now = made.conv("_project", now, channels)
    return made.sum("", (-1, now)) if made.shape(now) == made.shape(-1) else now


_MAKERS = {
    "conv": _conv, "sep": _separable, "dil": _dilated, "avg": _average, "max": _maximum, "skip": _skip,
    "inverted": _inverted,
}  # fmt: skip


@lru_cache(maxsize=4096)
def _linked(op: str, shape: Shape, channels: int, stride: int) -> _Part:
    """An operation of a chain, which may change the channels. A skip that does is a 1x1 convolution with batch norm."""
    made = _Steps(shape)
    if op == "skip":
        fits = shape[0] == channels and stride == 1
        return made.part(-1 if fits else made.conv("", -1, channels, (1, 1), (stride, stride)))
    now = made.relu("_relu", -1) if _after_relu(op, stride) else -1
    return made.part(made.place("", _operation(op, shape, channels, stride), (now,)))


def _pair(size: str) -> tuple[int, int]:
    """`3x1` as (3, 1)."""
    first, _, second = size.partition("x")
    return int(first), int(second)
