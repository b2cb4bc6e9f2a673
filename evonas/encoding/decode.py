"""Decoding rules: how *every* valid layer graph becomes a network for an input of any shape. Pure arithmetic on shapes.

- An image is (channels, height, width), features are (count,). On features, convolutions are linear layers and pools
  do nothing. A dense layer and the output reduce an image to features first (`reduce`).
- A window never reaches beyond the image: per axis a kernel keeps only the taps that can touch it, and an axis of
  size 1 has extent and stride 1. `valid` padding becomes `same` where the image is smaller than the kernel.
- Several inputs of a layer are first brought to one size: if any is features, images are averaged to features;
  otherwise each axis is max-pooled to its smallest size. Then they are added or concatenated, lowest edge mark first.
- A sum has the channels of its oldest edge (lowest mark), so that a later edge never changes what is there; an input
  with other channels passes a projection (1x1 convolution or linear layer, with norm) that the edge owns."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

from evonas.encoding.genes import DagGenome, EdgeGene, LayerGene
from evonas.encoding.plan import Plan, Shape, Step, StepOp
from evonas.marks import INPUT


@lru_cache(maxsize=1024)
def decode(genome: DagGenome, input_shape: Shape, outputs: int, edge_norm: str = "batch") -> Plan:
    """The plan of a valid genome; the last thousand are remembered.

    `input_shape` is (channels, height, width) or (features,); `edge_norm` normalises projections on edges."""
    builder = _Builder(outputs, edge_norm)
    builder.append((), ("layer0", "input", input_shape, {}, 0, 0))
    built = {INPUT: 0}
    layers, incoming = genome.layer, genome.incoming
    for mark in genome.live[1:]:
        edges = incoming[mark]
        if len(edges) > 1:
            edges = [edge for edge in edges if edge.source in built]
        source = built[edges[0].source]
        if len(edges) > 1:
            source = builder.merge(layers[mark], edges, [built[edge.source] for edge in edges])
        built[mark] = builder.layer(layers[mark], source)
    return Plan(tuple(builder.steps))


Made = tuple[str, StepOp, Shape, dict[str, Any], int, int]
"""A step without its inputs: name, operation, shape, settings, parameters, FLOPs."""


class _Builder:
    """Appends steps; every method returns the index of the step whose tensor it made."""

    def __init__(self, outputs: int, edge_norm: str) -> None:
        self.steps: list[Step] = []
        self._outputs = outputs
        self._edge_norm = edge_norm

    def append(self, inputs: tuple[int, ...], made: Made) -> int:
        name, op, shape, settings, params, flops = made
        self.steps.append(Step(name, op, inputs, shape, settings, params, flops))
        return len(self.steps) - 1

    def layer(self, gene: LayerGene, source: int) -> int:
        """The layer itself, behind its merged input."""
        shape = self.steps[source].shape
        if gene.op in ("dense", "output") and len(shape) > 1:
            mean = gene.reduce == "mean"
            shape = (shape[0] if mean else prod(shape),)
            op: StepOp = "global_pool" if mean else "flatten"
            source = self.append((source,), (f"layer{gene.mark}_reduce", op, shape, {}, 0, 0))
        return self.append((source,), _layer(gene, shape, self._outputs))

    def merge(self, gene: LayerGene, edges: list[EdgeGene], sources: list[int]) -> int:
        """One tensor from several inputs of a layer."""
        name, sources = f"layer{gene.mark}_merge", self._align(edges, sources)
        shapes = [self.steps[source].shape for source in sources]
        shape = shapes[0]
        if gene.merge == "concat":
            shape = (sum([other[0] for other in shapes]), *shape[1:])
            return self.append(tuple(sources), (name, "concat", shape, {}, 0, 0))
        if shapes.count(shape) < len(shapes):
            sources = [self._project(edge, source, shape[0]) for edge, source in zip(edges, sources, strict=True)]
        return self.append(tuple(sources), (name, "sum", shape, {}, 0, 0))

    def _align(self, edges: list[EdgeGene], sources: list[int]) -> list[int]:
        sizes = [self.steps[source].shape[1:] for source in sources]
        if sizes.count(sizes[0]) == len(sizes):
            return sources
        smallest = () if () in sizes else (min([size[0] for size in sizes]), min([size[1] for size in sizes]))
        return [
            source if size == smallest else self._resize(edge, source, smallest)
            for edge, source, size in zip(edges, sources, sizes, strict=True)
        ]

    def _resize(self, edge: EdgeGene, source: int, size: Shape) -> int:
        """The window that gives exactly `size`, whatever the image's size, and that every runtime has."""
        name, shape = f"edge{edge.mark}_pool", self.steps[source].shape
        if not size:
            return self.append((source,), (name, "global_pool", shape[:1], {}, 0, 0))
        stride = (shape[1] // size[0], shape[2] // size[1])
        kernel = (shape[1] - (size[0] - 1) * stride[0], shape[2] - (size[1] - 1) * stride[1])
        settings = {"kernel": kernel, "stride": stride, "padding": (0, 0), "ceil": False}
        return self.append((source,), (name, "max_pool", (shape[0], *size), settings, 0, 0))

    def _project(self, edge: EdgeGene, source: int, channels: int) -> int:
        shape = self.steps[source].shape
        if shape[0] == channels:
            return source
        gene = LayerGene(edge.mark, "conv", channels, norm=self._edge_norm)
        return self.append((source,), _conv(f"edge{edge.mark}", gene, shape))


# ----------------------------------------------------------------------------------------------------------- layers


@lru_cache(maxsize=2**12)
def _layer(gene: LayerGene, shape: Shape, outputs: int) -> Made:
    """What a gene becomes on an input shape. Remembered, as genes and shapes recur throughout a population."""
    name, op = f"layer{gene.mark}", gene.op
    if op in ("conv", "separable"):
        return _conv(name, gene, shape)
    if op in ("max_pool", "avg_pool"):
        return _pool(name, gene, shape)
    if op == "dense":
        return _linear(name, gene, shape, gene.channels)
    if op == "output":
        return _linear(name, gene, shape, outputs)
    if op == "dropout":
        return name, "dropout", shape, {"rate": gene.rate}, 0, 0
    if op == "gate":
        return name, "gate", shape, {}, 1, 0
    return _identity(name, shape, _norm(gene.norm, shape), gene.activation)


def _conv(name: str, gene: LayerGene, shape: Shape) -> Made:
    if len(shape) == 1:
        return _linear(name, gene, shape, gene.channels)
    incoming, channels = shape[0], gene.channels
    kernel, stride, padding, size = _window(gene, shape)
    taps, area = kernel[0] * kernel[1], size[0] * size[1]
    norm = _norm(gene.norm, (channels, *size))
    bias = norm == "none"
    settings = {
        "in_channels": incoming, "channels": channels, "kernel": kernel, "stride": stride, "padding": padding,
        "dilation": (gene.dilation, gene.dilation), "groups": 1, "bias": bias, "norm": norm,
        "activation": gene.activation,
    }  # fmt: skip
    params = bias * channels + _norm_params(norm, channels)
    if gene.op == "conv":
        weights = incoming * channels * taps
        return name, "conv", (channels, *size), settings, params + weights, 2 * weights * area
    weights = incoming * taps + incoming * channels
    settings["depthwise_norm"] = first = _norm(gene.norm, (incoming, *size))
    params += (first == "none") * incoming + _norm_params(first, incoming)
    return name, "separable", (channels, *size), settings, params + weights, 2 * weights * area


def _pool(name: str, gene: LayerGene, shape: Shape) -> Made:
    if len(shape) == 1:
        return _identity(name, shape, "none", "linear")
    kernel, stride, padding, size = _window(gene, shape)
    same = gene.padding == "same" or not _fits(gene, shape)
    settings = {"kernel": kernel, "stride": stride, "padding": padding, "ceil": same and gene.kernel % 2 == 0}
    op: StepOp = "max_pool" if gene.op == "max_pool" else "avg_pool"
    return name, op, (shape[0], *size), settings, 0, 0


def _linear(name: str, gene: LayerGene, shape: Shape, channels: int) -> Made:
    (incoming,), norm = shape, _norm(gene.norm, (channels,))
    bias = norm == "none"
    settings = {
        "in_channels": incoming, "channels": channels, "bias": bias, "norm": norm, "activation": gene.activation,
    }  # fmt: skip
    params = incoming * channels + bias * channels + _norm_params(norm, channels)
    return name, "linear", (channels,), settings, params, 2 * incoming * channels


def _identity(name: str, shape: Shape, norm: str, activation: str) -> Made:
    return name, "identity", shape, {"norm": norm, "activation": activation}, _norm_params(norm, shape[0]), 0


def group_count(channels: int) -> int:
    """Groups of a group norm: the largest divisor of `channels` that is at most 8 and leaves groups of 4 or more."""
    return next(groups for groups in range(max(1, min(8, channels // 4)), 0, -1) if channels % groups == 0)


Pair = tuple[int, int]


def _window(gene: LayerGene, shape: Shape) -> tuple[Pair, Pair, Pair, Pair]:
    """Kernel, stride, padding and resulting size, each (vertical, horizontal)."""
    same = gene.padding == "same" or not _fits(gene, shape)
    (k0, s0, p0, n0), (k1, s1, p1, n1) = _axis(gene, shape[1], same), _axis(gene, shape[2], same)
    return (k0, k1), (s0, s1), (p0, p1), (n0, n1)


def _axis(gene: LayerGene, size: int, same: bool) -> tuple[int, int, int, int]:
    """Kernel, stride, padding at each side and resulting size along one axis."""
    kernel, stride, dilation = gene.kernel, gene.stride, gene.dilation
    if same or size == 1:
        return window(kernel, stride, dilation, size)
    return kernel, stride, 0, (size - dilation * (kernel - 1) - 1) // stride + 1


def window(kernel: int, stride: int, dilation: int, size: int) -> tuple[int, int, int, int]:
    """Kernel, stride, padding at each side and resulting size along one axis that keeps its size but for the stride."""
    if size == 1:
        return 1, 1, 0, 1
    if kernel % 2:
        kernel = min(kernel, 2 * ((size - 1) // dilation) + 1)
    return kernel, stride, dilation * (kernel - 1) // 2, -(-size // stride)


def _fits(gene: LayerGene, shape: Shape) -> bool:
    """Whether the whole window lies within the image on every axis that it can move along."""
    extent = gene.dilation * (gene.kernel - 1) + 1
    return all(size == 1 or size >= extent for size in shape[1:])


def _norm(norm: str, shape: Shape) -> str:
    """The norm, or none where a group norm would turn a single value into 0."""
    return "none" if norm == "group" and all(size == 1 for size in shape) else norm


def _norm_params(norm: str, channels: int) -> int:
    return 0 if norm == "none" else 2 * channels
