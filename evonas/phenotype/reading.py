"""What a user's module computes, operation by operation: torch.fx records its calls, and each becomes a part.

A part is an operation that a layer can have. Whatever is none stands as unknown and is noted as a fault, so that all of
them are told at once. Reed, DeVito, He, Ussery and Ansel 2022 describe torch.fx."""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from evonas.core import DataError, seed_of
from evonas.encoding.decode import decode, group_count
from evonas.encoding.genes import RANGES, DagGenome, EdgeGene, LayerGene
from evonas.encoding.plan import Shape, Step
from evonas.marks import INPUT, OUTPUT
from evonas.phenotype.network import Thinned

__all__ = ["BLOCKS", "MERGES", "SUPPORTED", "Fault", "Part", "Reading", "Value", "read"]

BATCH = 3
"""Inputs in the example: no size of a layer is easily mistaken for it."""

SUPPORTED = (
    "Conv2d (square odd kernel, stride 1 or 2, same or no padding, groups 1; depthwise before a 1x1 one), Linear, "
    "BatchNorm1d, BatchNorm2d and GroupNorm with torch's defaults, ReLU, LeakyReLU, ELU, GELU, SiLU, Tanh, Sigmoid, "
    "ReLU6, Hardswish, MaxPool2d and AvgPool2d (stride 1 or 2), AdaptiveAvgPool2d(1) or mean over (2, 3), Flatten, "
    "view, reshape, Dropout, Identity, addition, cat along channels, multiplication by one learned number"
)
"""What a module may consist of, as modules or as functions."""


@dataclass(frozen=True)
class Part:
    """One operation of the module. `op` is a layer's, or norm, activation, depthwise, sum, concat, resize, unknown.

    `sources` are indices of earlier parts in order; `shape` is what it gives, without the batch; `genes` are attributes
    of the layer; `tensors` have the names that they will have within the layer. `inner` is a separable part's norm and
    activation between its two convolutions."""

    name: str
    op: str
    sources: tuple[int, ...]
    shape: Shape
    genes: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    inner: tuple[str, str] | None = None

    @property
    def norm(self) -> str:
        return str(self.genes.get("norm", "none"))

    @property
    def activation(self) -> str:
        return str(self.genes.get("activation", "linear"))

    @property
    def tail(self) -> tuple[str, str]:
        return self.norm, self.activation

    def with_(self, genes: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> Part:
        """The part with other attributes and more tensors."""
        return replace(self, genes={**self.genes, **genes}, tensors={**self.tensors, **(tensors or {})})


MERGES = ("sum", "concat")
BLOCKS = ("conv", "depthwise", "separable", "dense", "identity", *MERGES)
"""Parts that may have a norm and an activation behind them."""


@dataclass(frozen=True)
class Value:
    """A tensor of the module: what a part gives, averaged over the image if `pooled`, in the order of memory, as
    `shape`. So it tells flattening and global pooling apart until a layer takes it."""

    part: int
    shape: Shape
    pooled: bool = False


@dataclass(frozen=True)
class Fault:
    """A part that cannot be a layer: its place in the module, its type, and why where the type alone does not tell."""

    name: str
    kind: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}{': ' if self.why else ''}{self.why})"


class _Root(nn.Module):
    """Calls a module with one input, so that its other arguments take their defaults."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        return self.module(x)


class _Tracer(fx.Tracer):
    """Follows a module down to torch's own and to convolutions of evonas' networks."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Thinned) or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of every tensor in it."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if isinstance(found, Tensor):
            self.shapes[n] = tuple(found.shape)
        return found


@dataclass(frozen=True)
class Reading:
    """What was read of a module: its parts in order, the value of its output, what is unsupported; a batch of random
    inputs and the outputs that the module gives for them, in float64."""

    parts: Sequence[Part]
    last: Value
    faults: Sequence[Fault]
    inputs: Tensor
    outputs: Tensor


def read(module: nn.Module, input_shape: Shape) -> Reading:
    """The parts of a module in evaluation mode, for inputs of (channels, height, width) or (features,).

    The module stays as it is. Raises DataError where torch.fx cannot follow it, or where it takes other inputs."""
    name, shape = type(module).__name__, tuple(input_shape)
    source = torch.Generator().manual_seed(seed_of(0, "trace"))
    x = torch.randn((BATCH, *shape), generator=source, dtype=torch.float64)
    try:
        root = _Root(copy.deepcopy(module)).to("cpu", torch.float64).eval()
        followed = fx.GraphModule(root, _Tracer().trace(root))
    except Exception as error:
        cure = "its forward must take one tensor, and not choose its way by the numbers in it"
        raise DataError(f"{name} cannot be followed by torch.fx ({_line(error)}): {cure}") from error
    followed.graph.eliminate_dead_code()
    run = _Shapes(followed)
    try:
        with torch.no_grad():
            run.run(x)
            expected = root(x)
    except Exception as error:
        cure = "build it for one tensor of that shape"
        raise DataError(f"{name} does not take inputs of {_spelt(shape)} ({_line(error)}): {cure}") from error
    _check_outputs(name, expected)
    reader = _Reader(root, run.shapes)
    last = reader.read(followed.graph)
    return Reading(reader.parts, last, reader.faults, x, expected)


def _check_outputs(name: str, found: Any) -> None:
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != BATCH:
        kind = _spelt(found.shape[1:]) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise DataError(f"{name} gives {kind} for an input: it must give one row of numbers, (batch, outputs)")
    if not found.isfinite().all():
        raise DataError(f"{name} gives outputs that are not finite: draw its weights anew, or train it again")


def _line(error: Exception) -> str:
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0][:160]}"


class _UnfitError(Exception):
    """Why an operation cannot be a layer."""


class _Reader:
    """Turns the nodes of a graph into parts; what is not supported is noted in `faults` and stands as unknown."""

    def __init__(self, root: nn.Module, shapes: Mapping[fx.Node, tuple[int, ...]]) -> None:
        self.parts: list[Part] = []
        self.faults: list[Fault] = []
        self._root = root
        self._shapes = shapes
        self._values: dict[fx.Node, Value] = {}
        self._opaque: set[fx.Node] = set()
        self._owners: dict[int, str] = {}
        self._pools: dict[int, int] = {}

    def read(self, graph: fx.Graph) -> Value:
        """Reads every node; returns the value of the output."""
        *nodes, end = graph.nodes
        for node in nodes:
            if node in self._shapes and node.op != "get_attr":
                self._values[node] = self._value(node)
            elif node.op.startswith("call") and node.target not in _SIZES and self._sources(node):
                self._refuse(node, "it gives no single tensor")
                self._opaque.add(node)
        (last,) = end.all_input_nodes
        return self._values[last] if last in self._values else self._unknown(end, self._shapes[last][1:])

    def _value(self, node: fx.Node) -> Value:
        shape = self._shapes[node][1:]
        if node.op == "placeholder":
            return Value(self._add(Part("input", "input", (), shape)), shape)
        if self._opaque.intersection(node.all_input_nodes):
            return self._unknown(node, shape)
        try:
            if self._shapes[node][:1] != (BATCH,):
                raise _UnfitError(_MIXES)
            return self._read_call(node, shape)
        except _UnfitError as error:
            self._refuse(node, str(error))
            return self._unknown(node, shape)

    def _refuse(self, node: fx.Node, why: str) -> None:
        self.faults.append(Fault(_place(node), _kind(node, self._root), why))

    def _unknown(self, node: fx.Node, shape: Shape) -> Value:
        return Value(self._add(Part(_place(node), "unknown", self._sources(node), shape)), shape)

    def _sources(self, node: fx.Node) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self._values[one].part for one in node.all_input_nodes if one in self._values))

    def _read_call(self, node: fx.Node, shape: Shape) -> Value:
        reader = _CALLS.get(node.target) if node.op != "call_module" else None
        if reader is not None:
            return reader(self, node, shape)
        source, rest = self.operand(node)
        module = self._called(node, rest)
        layer = _MODULES.get(type(module))
        if layer is None:
            raise _UnfitError("")
        return layer(self, _Call(_place(node), module, source, shape))

    def _called(self, node: fx.Node, rest: tuple[Any, ...]) -> nn.Module | None:
        """The module that is called, or one that does what the function does."""
        if node.op == "call_module":
            return self._root.get_submodule(str(node.target))
        made = _FUNCTIONS.get(node.target)
        options = {key: value for key, value in node.kwargs.items() if key != "input"}
        try:
            return made(*rest, **options) if made else None
        except (TypeError, ValueError):
            raise _UnfitError("its arguments are not known") from None

    def operand(self, node: fx.Node) -> tuple[Value, tuple[Any, ...]]:
        """The one tensor that a call takes, and its other arguments in order."""
        args = node.args or (node.kwargs.get("input"),)
        source = self._values.get(args[0]) if isinstance(args[0], fx.Node) else None
        if source is None:
            raise _UnfitError("")
        return source, tuple(args[1:])

    def values(self, nodes: Sequence[Any]) -> list[Value]:
        """The tensors among a call's arguments."""
        return [self._values[node] for node in nodes if isinstance(node, fx.Node) and node in self._values]

    def learned(self, node: fx.Node) -> nn.Parameter | None:
        """The parameter of one number that a node stands for, None for anything else."""
        found = operator.attrgetter(str(node.target))(self._root) if node.op == "get_attr" else None
        return found if isinstance(found, nn.Parameter) and found.numel() == 1 else None

    # ------------------------------------------------------------------------------------------------- making parts

    def add(self, call: _Call, op: str, source: int, shape: Shape, genes: Mapping[str, Any],
            tensors: Mapping[str, Tensor | None] | None = None) -> int:  # fmt: skip
        """A new part made by the call of a module; tensors that are None are left out."""
        self.own(call.name, [*call.module.parameters(), *call.module.buffers()])
        given = {name: value.detach() for name, value in (tensors or {}).items() if value is not None}
        return self._add(Part(call.name, op, (source,), shape, genes, given))

    def scaled(self, name: str, value: Value, scale: nn.Parameter) -> Value:
        """A gate behind a tensor; one number may as well come before a flattening or a mean."""
        self.own(name, [scale])
        tensors = {"scale": scale.detach().reshape(1)}
        gate = Part(name, "gate", (value.part,), self.parts[value.part].shape, tensors=tensors)
        return replace(value, part=self._add(gate))

    def _add(self, part: Part) -> int:
        self.parts.append(part)
        return len(self.parts) - 1

    def own(self, name: str, tensors: Iterable[Tensor]) -> None:
        """Notes whose these weights are; raises _UnfitError where they were met before: layers share nothing."""
        for tensor in tensors:
            owner = self._owners.get(id(tensor))
            if owner is not None:
                raise _UnfitError("it is called twice" if owner == name else f"its weights are also those of {owner}")
            self._owners[id(tensor)] = name

    def merged(self, name: str, op: str, values: Sequence[Value], shape: Shape) -> Value:
        """One tensor from several. Equal reductions of equally large images may as well come after the merge; features
        and the mean over an image are merged as they are."""
        made = [self.parts[value.part].shape for value in values]
        plain = all(value.shape == one and not value.pooled for value, one in zip(values, made, strict=True))
        if plain or len(shape) != 1:
            return Value(self._join(name, op, [self.whole(value) for value in values], shape), shape)
        if len({(value.pooled, one[1:]) for value, one in zip(values, made, strict=True)}) == 1:
            channels = made[0][0] if op == "sum" else sum(one[0] for one in made)
            part = self._join(name, op, [value.part for value in values], (channels, *made[0][1:]))
            return Value(part, shape, values[0].pooled)
        mixed = any(len(one) == 1 for one in made)
        parts = [value.part if mixed and value.pooled else self.point(value) for value in values]
        return Value(self._join(name, op, parts, shape if mixed else (*shape, 1, 1)), shape)

    def _join(self, name: str, op: str, parts: Sequence[int], shape: Shape) -> int:
        sources: list[int] = []
        for part in parts:
            # two edges between the same layers are not allowed: the second goes through a layer that does nothing
            twin = part in sources
            sources.append(self._add(Part(name, "identity", (part,), self.parts[part].shape)) if twin else part)
        return self._add(Part(name, op, tuple(sources), shape)) if len(sources) > 1 else sources[0]

    # -------------------------------------------------------------------------------------------- what a layer takes

    def image(self, value: Value) -> int:
        """The part that gives the image; raises _UnfitError where the tensor is none."""
        if len(value.shape) != 3:
            raise _UnfitError(f"it gets {_spelt(value.shape)} and needs an image")
        return self.whole(value)

    def whole(self, value: Value) -> int:
        """The part that gives exactly this tensor."""
        part = self.point(value) if value.pooled else value.part
        shape = self.parts[part].shape
        if shape != value.shape:
            raise _UnfitError(f"it gets {_spelt(shape)} reshaped to {_spelt(value.shape)}")
        return part

    def single(self, value: Value) -> int:
        """The part whose numbers the tensor has, for what works number by number."""
        return self.point(value) if value.pooled else value.part

    def point(self, value: Value) -> int:
        """The part that gives the tensor as features or as an image of one pixel; global pooling becomes a layer."""
        shape = self.parts[value.part].shape
        if prod(shape[1:]) == 1:
            return value.part
        if not value.pooled:
            raise _UnfitError(f"it gets a flattened image of {_spelt(shape)}, which only Linear can take")
        if value.part not in self._pools:
            found = _window("avg_pool", shape, (1, 1), _Window(shape[1:], shape[1:]))
            if found is None:
                most = int(RANGES["kernel"][1])
                raise _UnfitError(f"behind a mean over {_spelt(shape)}: only of square images up to {most} wide")
            pool = Part(f"pooling of {self.parts[value.part].name}", "avg_pool", (value.part,), (shape[0], 1, 1), found)
            self._pools[value.part] = self._add(pool)
        return self._pools[value.part]

    def features(self, value: Value) -> tuple[int, str]:
        """The part behind a row of features, and how a layer reduces its image to them."""
        if len(value.shape) != 1:
            raise _UnfitError(f"it gets {_spelt(value.shape)} and needs features")
        single = prod(self.parts[value.part].shape[1:]) == 1
        return value.part, "mean" if value.pooled or single else "flatten"


@dataclass(frozen=True)
class _Call:
    """A call of a module: where, on which tensor, and the shape that it gives."""

    name: str
    module: Any
    source: Value
    shape: Shape


def _place(node: fx.Node) -> str:
    """Where in the module: `features.3`, or `features: mul` for a function called there."""
    if node.op == "call_module":
        return _named(str(node.target)) or "the module"
    stack = list(node.meta.get("nn_module_stack") or {})
    # a module that is called again stands there as `features@1`
    inside = _named(re.sub(r"@\d+", "", str(stack[-1]))) if stack else ""
    word = re.sub(r"_\d+$", "", node.name)
    return f"{inside}: {word}" if inside else word


def _named(target: str) -> str:
    """A submodule's name in the user's module, which is one in `_Root`."""
    return target.removeprefix("module").removeprefix(".")


def _kind(node: fx.Node, root: nn.Module) -> str:
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__
    return "method" if node.op == "call_method" else "function"


def _spelt(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


_MIXES = "it mixes the inputs of a batch"

# ------------------------------------------------------------------------------------------- functions and methods


def _sum(reader: _Reader, node: fx.Node, shape: Shape) -> Value:
    values = reader.values(node.args)
    if len(values) != 2 or len(node.args) != 2 or node.kwargs:
        raise _UnfitError("it adds something that is no layer's output")
    if values[0].shape != values[1].shape:
        raise _UnfitError(f"it adds {_spelt(values[0].shape)} and {_spelt(values[1].shape)}")
    return reader.merged(_place(node), "sum", values, shape)


def _concat(reader: _Reader, node: fx.Node, shape: Shape) -> Value:
    given = {**dict(zip(("tensors", "dim"), node.args, strict=False)), **node.kwargs}
    tensors, dim = given.get("tensors"), given.get("dim", 0)
    nodes = tensors if isinstance(tensors, (list, tuple)) else ()
    values = reader.values(nodes)
    if not values or len(values) != len(nodes):
        raise _UnfitError("it joins something that is no layer's output")
    if dim not in (1, -len(shape)) or len(shape) not in (1, 3):
        raise _UnfitError(f"it joins along dim {dim}: only channels or features, dim 1, are joined")
    return reader.merged(_place(node), "concat", values, shape)


def _product(reader: _Reader, node: fx.Node, shape: Shape) -> Value:
    values = reader.values(node.args)
    scales = [reader.learned(one) for one in node.args if isinstance(one, fx.Node)]
    found = [scale for scale in scales if scale is not None]
    if len(values) != 1 or len(found) != 1 or node.kwargs or values[0].shape != shape:
        raise _UnfitError("only a tensor and one learned number are multiplied")
    return reader.scaled(_place(node), values[0], found[0])


def _mean(reader: _Reader, node: fx.Node, shape: Shape) -> Value:
    source, rest = reader.operand(node)
    given = {**dict(zip(("dim", "keepdim"), rest, strict=False)), **node.kwargs}
    dims = given.get("dim")
    axes = {int(one) % 4 for one in dims} if isinstance(dims, (list, tuple)) else set()
    if axes != {2, 3} or len(source.shape) != 3 or given.get("dtype") is not None:
        raise _UnfitError("only the mean over a whole image, dim (2, 3), is a layer's")
    return Value(reader.image(source), shape, pooled=True)


def _view(reader: _Reader, node: fx.Node, shape: Shape) -> Value:
    return _reshaped(reader.operand(node)[0], shape)


def _reshaped(source: Value, shape: Shape) -> Value:
    if prod(shape) != prod(source.shape):
        raise _UnfitError(_MIXES)
    return replace(source, shape=shape)


_CALLS: Mapping[Any, Callable[[_Reader, fx.Node, Shape], Value]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _sum),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concat),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _product),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys(
        (torch.flatten, torch.reshape, torch.squeeze, "flatten", "view", "reshape", "squeeze", "contiguous"), _view
    ),
}
_SIZES = (getattr, "size", "dim")
"""What asks for a tensor's shape."""


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module:
    """The module that `functional.dropout` stands for: its `training` was read in evaluation mode."""
    return nn.Dropout(p)


_FUNCTIONS: Mapping[Any, Callable[..., nn.Module]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), nn.LeakyReLU),
    **dict.fromkeys((F.elu, F.elu_), nn.ELU),
    **dict.fromkeys((F.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_"), nn.Tanh),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_"), nn.Sigmoid),
    F.gelu: nn.GELU,
    F.silu: nn.SiLU,
    F.relu6: nn.ReLU6,
    F.hardswish: nn.Hardswish,
    F.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
    F.dropout: _dropout,
}
"""Functions and methods by a module that does the same and takes the same arguments."""


# ------------------------------------------------------------------------------------------------------------ modules

Pair = tuple[int, ...]
"""A number for each axis of an image, (vertical, horizontal)."""


@dataclass(frozen=True)
class _Window:
    """How a convolution or a pool moves over an image, (vertical, horizontal)."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def taps(self, axis: int, size: int, count: int) -> list[list[Pair]]:
        """Per position along an axis of `size` the taps that lie in the image, as (tap, pixel)."""
        stride, padding, dilation = self.stride[axis], self.padding[axis], self.dilation[axis]
        return [
            [(tap, at) for tap in range(self.kernel[axis]) if 0 <= (at := i * stride - padding + tap * dilation) < size]
            for i in range(count)
        ]

    def __str__(self) -> str:
        words = {"kernel": self.kernel, "stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return ", ".join(f"{word} {a if a == b else (a, b)}" for word, (a, b) in words.items())


def _window(op: str, shape: Shape, size: Pair, wanted: _Window) -> dict[str, Any] | None:
    """The attributes with which a gene's window touches the same pixels with the same taps; None where none does.

    A gene's window is cut to the taps that can touch the image, so what counts is which pixels are met."""
    kernel, dilation = max(wanted.kernel), max(wanted.dilation) if op == "conv" else 1
    if not (kernel <= RANGES["kernel"][1] and dilation <= RANGES["dilation"][1]):
        return None
    for stride in sorted((1, 2), key=lambda one: one != max(wanted.stride)):
        for padding in ("same", "valid"):
            if kernel % 2 == 0 and (op == "conv" or stride == 1):
                continue
            found: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
            found |= {"dilation": dilation} if op == "conv" else {}
            step = _step(LayerGene(2, op, channels=1 if op == "conv" else 0, **found), shape)
            if step.shape[1:] == size and _alike(op, shape, size, wanted, step):
                return found
    return None


def _step(gene: LayerGene, shape: Shape) -> Step:
    """What decoding makes of a gene on an image."""
    ends = (LayerGene(INPUT, "input"), LayerGene(OUTPUT, "output"))
    genome = DagGenome.of((*ends, gene), (EdgeGene(3, INPUT, gene.mark), EdgeGene(4, gene.mark, OUTPUT)))
    return decode(genome, shape, 1).steps[1]


def _alike(op: str, shape: Shape, size: Pair, wanted: _Window, step: Step) -> bool:
    s = step.settings
    built = _Window(s["kernel"], s["stride"], s["padding"], s.get("dilation", (1, 1)))
    for axis in (0, 1):
        a, b = (one.taps(axis, shape[1 + axis], size[axis]) for one in (wanted, built))
        # a pool does not tell its taps apart; a kernel is cut evenly on both sides
        weighs, cut = op == "conv", (wanted.kernel[axis] - built.kernel[axis]) // 2
        met = [[(tap * weighs, at) for tap, at in taps] for taps in a]
        if met != [[((tap + cut) * weighs, at) for tap, at in taps] for taps in b]:
            return False
    return True


def _convolution(reader: _Reader, call: _Call) -> Value:
    module = call.module
    alone = module.groups > 1 and module.groups == module.in_channels == module.out_channels
    if module.groups > 1 and not alone:
        raise _UnfitError(f"it has {module.groups} groups")
    if module.padding_mode != "zeros":
        raise _UnfitError(f"its padding_mode is {module.padding_mode!r}")
    source = reader.image(call.source)
    window = _Window(module.kernel_size, module.stride, _padding(module), module.dilation)
    found = _window("conv", reader.parts[source].shape, call.shape[1:], window)
    if found is None:
        raise _UnfitError(str(window))
    op = "depthwise" if alone else "conv"
    tensors = {f"{op}.weight": module.weight, f"{op}.bias": module.bias}
    return Value(reader.add(call, op, source, call.shape, found | _channels(module.out_channels), tensors), call.shape)


def _padding(module: nn.Conv2d) -> Pair:
    if module.padding == "valid":
        return 0, 0
    if isinstance(module.padding, str):
        return tuple((k - 1) * d // 2 for k, d in zip(module.kernel_size, module.dilation, strict=True))
    return module.padding


def _channels(count: int) -> dict[str, Any]:
    most = int(RANGES["channels"][1])
    if count > most:
        raise _UnfitError(f"{count} channels exceed {most}")
    return {"channels": count}


def _linear(reader: _Reader, call: _Call) -> Value:
    source, reduce = reader.features(call.source)
    genes = {**_channels(call.module.out_features), "reduce": reduce}
    tensors = {"linear.weight": call.module.weight, "linear.bias": call.module.bias}
    return Value(reader.add(call, "dense", source, call.shape, genes, tensors), call.shape)


def _batch_norm(reader: _Reader, call: _Call) -> Value:
    module = call.module
    if module.running_mean is None:
        raise _UnfitError("it keeps no running mean and variance")
    if module.momentum != 0.1:
        raise _UnfitError(f"its momentum is {module.momentum}, a layer's 0.1")
    buffers = {f"norm.{name}": value for name, value in module.named_buffers()}
    return _normed(reader, call, "batch", buffers)


def _group_norm(reader: _Reader, call: _Call) -> Value:
    module = call.module
    groups = group_count(module.num_channels)
    if module.num_groups != groups:
        channels = module.num_channels
        raise _UnfitError(f"it has {module.num_groups} groups, a layer of {channels} channels {groups}")
    return _normed(reader, call, "group", {})


def _normed(reader: _Reader, call: _Call, norm: str, buffers: Mapping[str, Tensor]) -> Value:
    module, value = call.module, call.source
    if module.eps != 1e-5:
        raise _UnfitError(f"its eps is {module.eps:g}, a layer's 1e-05")
    source = reader.image(value) if len(value.shape) == 3 else reader.point(value)
    shape = reader.parts[source].shape
    if shape[0] != value.shape[0] or len(value.shape) == 2:
        raise _UnfitError(f"it gets {_spelt(value.shape)}")
    if norm == "group" and prod(shape) == 1:
        raise _UnfitError("it norms a single value")
    like = torch.ones(shape[0], dtype=torch.float64)
    weight, bias = module.weight, module.bias
    tensors = {
        "norm.weight": like if weight is None else weight, "norm.bias": 0 * like if bias is None else bias, **buffers,
    }  # fmt: skip
    return Value(reader.add(call, "norm", source, shape, {"norm": norm}, tensors), call.shape)


def _activation(reader: _Reader, call: _Call) -> Value:
    kind, standard = _ACTIVATIONS[type(call.module)]
    for name, usual in standard.items():
        if getattr(call.module, name) != usual:
            raise _UnfitError(f"its {name} is {getattr(call.module, name)}, a layer's {usual}")
    return _each(reader, call, "activation", {"activation": kind})


def _each(reader: _Reader, call: _Call, op: str, genes: Mapping[str, Any]) -> Value:
    """What works number by number, so that a flattening may as well come after it."""
    source = reader.single(call.source)
    return Value(reader.add(call, op, source, reader.parts[source].shape, genes), call.shape)


def _drop(reader: _Reader, call: _Call) -> Value:
    rate, most = call.module.p, RANGES["rate"][1]
    if rate > most:
        raise _UnfitError(f"its rate {rate} exceeds {most}")
    return _each(reader, call, "dropout", {"rate": rate}) if rate else call.source


def _pool(reader: _Reader, call: _Call) -> Value:
    module = call.module
    window = _Window(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding),
                     _pair(getattr(module, "dilation", 1)))  # fmt: skip
    op = "max_pool" if isinstance(module, nn.MaxPool2d) else "avg_pool"
    if op == "avg_pool":
        _check_counting(module, window)
    return _pooled(reader, call, op, window)


def _check_counting(module: nn.AvgPool2d, window: _Window) -> None:
    if module.divisor_override is not None:
        raise _UnfitError("it has a divisor of its own")
    if module.count_include_pad and any(window.padding):
        raise _UnfitError("it counts its padding, as count_include_pad=False does not")


def _pooled(reader: _Reader, call: _Call, op: str, window: _Window) -> Value:
    source, size = reader.image(call.source), call.shape[1:]
    shape = reader.parts[source].shape
    if (
        op == "avg_pool"
        and size == (1, 1)
        and all(len(window.taps(axis, shape[1 + axis], 1)[0]) == shape[1 + axis] for axis in (0, 1))
    ):
        return Value(source, call.shape, pooled=True)
    found = _window(op, shape, size, window)
    if found is None and not (op == "max_pool" and _resizes(shape, size, window)):
        raise _UnfitError(f"{window} on {_spelt(shape)}")
    if found is None:
        return Value(
            reader.add(call, "resize", source, call.shape, {"window": f"{window} on {_spelt(shape)}"}), call.shape
        )
    part = reader.add(call, op, source, call.shape, found)
    return Value(part, call.shape)


def _resizes(shape: Shape, size: Shape, window: _Window) -> bool:
    """Whether a window is that by which decoding brings images to one size at a merge."""
    stride = tuple(n // m for n, m in zip(shape[1:], size, strict=True))
    kernel = tuple(n - (m - 1) * s for n, m, s in zip(shape[1:], size, stride, strict=True))
    return window == _Window(kernel, stride)


def _adaptive(reader: _Reader, call: _Call) -> Value:
    op = "max_pool" if isinstance(call.module, nn.AdaptiveMaxPool2d) else "avg_pool"
    shape, size = reader.parts[reader.image(call.source)].shape[1:], call.shape[1:]
    if shape == size:
        return call.source
    if any(n % m for n, m in zip(shape, size, strict=True)):
        raise _UnfitError(f"it takes {_spelt(shape)} to {_spelt(size)}: its windows differ in size")
    width = tuple(n // m for n, m in zip(shape, size, strict=True))
    return _pooled(reader, call, op, _Window(width, width))


def _pair(value: Any) -> Pair:
    first, second = value if isinstance(value, tuple) else (value, value)
    return int(first), int(second)


def _same(reader: _Reader, call: _Call) -> Value:
    return _reshaped(call.source, call.shape)


_ACTIVATIONS: Mapping[type[nn.Module], tuple[str, Mapping[str, Any]]] = {
    nn.ReLU: ("relu", {}),
    nn.LeakyReLU: ("leaky_relu", {"negative_slope": 0.01}),
    nn.ELU: ("elu", {"alpha": 1.0}),
    nn.GELU: ("gelu", {"approximate": "none"}),
    nn.SiLU: ("silu", {}),
    nn.Tanh: ("tanh", {}),
    nn.Sigmoid: ("sigmoid", {}),
    nn.ReLU6: ("relu6", {}),
    nn.Hardswish: ("hardswish", {}),
}
"""The activation of a module, and the values that its settings must have."""

_MODULES: Mapping[type, Callable[[_Reader, _Call], Value]] = {
    nn.Conv2d: _convolution,
    Thinned: _convolution,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
    **dict.fromkeys(_ACTIVATIONS, _activation),
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
    nn.AdaptiveAvgPool2d: _adaptive,
    nn.AdaptiveMaxPool2d: _adaptive,
    nn.Dropout: _drop,
    nn.Identity: _same,
    nn.Flatten: _same,
}
"""What reads a module, by its type: a class derived from one of these may do anything else."""
