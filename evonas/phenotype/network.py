"""The phenotype: a plan as a trainable torch module whose parameters are named by the marks of their genes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn
from torch.nn import functional

from evonas import limits
from evonas.core import DataError, seed_of
from evonas.encoding.decode import group_count
from evonas.encoding.plan import Plan, Shape, Step
from evonas.phenotype.graph import GraphNetwork

Moments = Mapping[str, Mapping[str, Tensor]]
"""An optimiser's state: by its name (momentum_buffer, exp_avg, exp_avg_sq), a tensor for each parameter's name."""

MAX_PARAMS = limits.PARAMS
"""Networks with more parameters are refused before anything is allocated."""

_OPTIMIZER = "optimizer."
"""How the names of an optimiser's state begin in a weights file; the names of steps never do."""

_RELU = 2.0**0.5
_GAINS = {"linear": 1.0, "tanh": 5 / 3, "sigmoid": 1.0}
"""Gains of Kaiming initialisation where they differ from the rectifiers' square root of 2."""


class Network(nn.Module):
    """An interpreter over a plan: one submodule per step, named like it; (batch, *input shape) -> (batch, outputs).

    Tensors are dropped as soon as no later step needs them. `layer5.conv.weight` belongs to the gene with mark 5; a
    direct genome's network is one GraphNetwork, `graph`, with its marks in `graph.link_marks`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        for step in plan.steps[1:]:
            self.add_module(step.name, _module(step, plan.steps[step.inputs[0]].shape))
        self._program = _program(plan)

    def forward(self, x: Tensor) -> Tensor:
        values: list[Any] = [x]
        for module, (inputs, finished) in zip(self._modules.values(), self._program, strict=True):
            arguments = [values[i] for i in inputs]
            for i in finished:
                values[i] = None
            values.append(module(*arguments))  # type: ignore[misc]
        output: Tensor = values[-1]
        return output


class Sum(nn.Module):
    """Adds tensors of one shape."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = first + other
        return first


class Concat(nn.Module):
    """Joins tensors along the channels."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, 1)


class Gate(nn.Module):
    """Multiplies by one learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Shift(nn.Module):
    """Moves images up by `by[0]` pixels and left by `by[1]`; zeros come after them."""

    def __init__(self, by: tuple[int, int]) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        down, right = self.by
        return functional.pad(x, (-right, right, -down, down))


class Zero(nn.Module):
    """Multiplies by 0: where a network is cut off, what lies before still has its gradients, all of them 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0


class GlobalPool(nn.Module):
    """The mean of every channel, (batch, channels, height, width) -> (batch, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def build(plan: Plan, seed: int | None = None, device: str | torch.device = "cpu") -> Network:
    """A new network on `device`, initialised by `seed` alone: torch's global generators stay as they are.

    Every parameter has its own random stream, named by the seed and its name, so that equal genes of different genomes
    start equal where their shapes do. None leaves the values open, for weights that will be loaded.
    Raises DataError for more than 2**31 parameters."""
    if plan.params > MAX_PARAMS:
        raise DataError(f"network: {plan.params:,} parameters exceed {MAX_PARAMS:,}; set a bound such as `params: 1M`")
    on_meta = torch.device(device).type == "meta"
    with torch.device("meta") if on_meta else nullcontext(), torch.random.fork_rng(devices=[]):
        network = Network(plan)
    if seed is not None and not on_meta:
        initialise(network, seed)
    return network.to(device)


@torch.no_grad()
def initialise(network: Network, seed: int) -> None:
    """Kaiming-normal weights by fan-in with the gain of the activation that follows (none: 1); biases 0, norms 1 and
    0, gates 1. He et al. 2015, equation 10. A graph's numbers stay what its genes say."""
    given = {step.name for step in network.plan.steps if step.op == "graph"}
    gains = {step.name: _GAINS.get(step.settings.get("activation", "linear"), _RELU) for step in network.plan.steps}
    for name, parameter in network.named_parameters():
        if name.partition(".")[0] in given:
            continue
        if parameter.dim() == 1:
            parameter.fill_(1.0 if name.endswith(("norm.weight", ".scale")) else 0.0)
            continue
        fan_in = parameter[0].numel()
        source = torch.Generator().manual_seed(seed_of(seed, f"init/{name}"))
        values = torch.randn(parameter.shape, generator=source)
        parameter.copy_(values * (gains[name.partition(".")[0]] / fan_in**0.5))


# ---------------------------------------------------------------------------------------------------------- weights


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, as contiguous copies on the CPU, floating ones in float32."""
    return {
        name: value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        .contiguous(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }  # fmt: skip


def by_gene(named: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors grouped by the gene that owns them: {"layer5": {"conv.weight": ...}, "edge7": ...}."""
    genes: dict[str, dict[str, Tensor]] = {}
    for name, value in named.items():
        gene, _, rest = name.partition(".")
        genes.setdefault(gene, {})[rest] = value
    return genes


def load(network: nn.Module, named: Mapping[str, Tensor]) -> None:
    """Copies tensors into the network's; DataError names what is missing, unexpected or of another shape."""
    own = network.state_dict()
    problems = [f"missing {name}" for name in own if name not in named]
    problems += [f"unexpected {name}" for name in named if name not in own]
    problems += [
        f"{name} has shape {tuple(named[name].shape)}, expected {tuple(value.shape)}"
        for name, value in own.items()
        if name in named and named[name].shape != value.shape
    ]
    problems += [
        f"{name} are not this genome's"
        for name, value in own.items()
        if name.endswith("_marks") and not problems and not torch.equal(named[name].to(value.device), value)
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(f"weights: {'; '.join(problems[:5])}{more}: are they of another genome?")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(named[name])


def to_bytes(network: nn.Module, moments: Moments | None = None) -> bytes:
    """The network's tensors in safetensors format, and an optimiser's state beside them where it is given."""
    return write_safetensors({**tensors(network), **_labelled(moments or {})})


def most_bytes(plan: Plan) -> int:
    """More than a weights file of the plan's network can have: parameters, buffers, an optimiser's state, names."""
    return 100 * plan.params + 10_000 * len(plan.steps) + 100_000


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """A network's tensors by name from safetensors bytes; DataError if they are none."""
    return parts_from_bytes(data)[0]


def parts_from_bytes(data: bytes) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """A network's tensors, and the optimiser's state that was kept with them: empty where there is none.

    Raises DataError for bytes that are no safetensors file."""
    try:
        named = read_safetensors(data)
    except SafetensorError as error:
        raise DataError(f"weights: {len(data)} bytes are no safetensors file: {str(error)[:120]}") from None
    moments: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in named if name.startswith(_OPTIMIZER)]:
        state, _, parameter = name.removeprefix(_OPTIMIZER).partition("/")
        moments.setdefault(state, {})[parameter] = named.pop(name)
    return named, moments


def bare(data: bytes) -> bytes:
    """Safetensors bytes without an optimiser's state; unchanged where they hold none. DataError if they are none."""
    named, moments = parts_from_bytes(data)
    return write_safetensors(named) if moments else data


def _labelled(moments: Moments) -> dict[str, Tensor]:
    """An optimiser's state under names that no network's tensor has: `optimizer.exp_avg/layer5.conv.weight`."""
    return {
        f"{_OPTIMIZER}{state}/{parameter}": value.detach().to("cpu", torch.float32, copy=True)
        .contiguous(memory_format=torch.contiguous_format)
        for state, values in moments.items()
        for parameter, value in values.items()
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------- steps


def _program(plan: Plan) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Per step after the input: the indices of its inputs, and of those tensors that no later step needs."""
    last = {j: i for i, step in enumerate(plan.steps) for j in step.inputs}
    return [
        (step.inputs, tuple(j for j in dict.fromkeys(step.inputs) if last[j] == i))
        for i, step in enumerate(plan.steps)
        if i > 0
    ]


def _module(step: Step, source: Shape) -> nn.Module:
    settings = step.settings
    if step.op == "graph":
        return GraphNetwork(settings)
    if step.op in _BLOCKS:
        return _sequence(_BLOCKS[step.op](step, source))
    if step.op in ("max_pool", "avg_pool"):
        window = (settings["kernel"], settings["stride"], settings["padding"])
        if step.op == "max_pool":
            return nn.MaxPool2d(*window, ceil_mode=settings["ceil"])
        return nn.AvgPool2d(*window, ceil_mode=settings["ceil"], count_include_pad=False)
    if step.op == "dropout":
        return nn.Dropout(settings["rate"])
    if step.op == "shift":
        return Shift(settings["by"])
    return _PLAIN[step.op]()


_PLAIN: Mapping[str, type[nn.Module]] = {
    "gate": Gate,
    "sum": Sum,
    "concat": Concat,
    "global_pool": GlobalPool,
    "flatten": nn.Flatten,
    "zero": Zero,
}


def _conv(step: Step, source: Shape) -> dict[str, nn.Module | None]:
    return {"conv": _convolution(step, step.settings["channels"], step.settings["groups"]), **_tail(step)}


def _separable(step: Step, source: Shape) -> dict[str, nn.Module | None]:
    settings, incoming = step.settings, source[0]
    shape = (incoming, *step.shape[1:])
    return {
        "depthwise": _convolution(step, incoming, incoming, settings["depthwise_norm"] == "none"),
        "depthwise_norm": _norm(settings["depthwise_norm"], shape),
        "depthwise_activation": _activation(settings["activation"]),
        "pointwise": nn.Conv2d(incoming, settings["channels"], 1, bias=settings["bias"]),
        **_tail(step),
    }


def _linear(step: Step, source: Shape) -> dict[str, nn.Module | None]:
    settings = step.settings
    return {"linear": nn.Linear(source[0], settings["channels"], bias=settings["bias"]), **_tail(step)}


def _identity(step: Step, source: Shape) -> dict[str, nn.Module | None]:
    return _tail(step)


_BLOCKS = {"conv": _conv, "separable": _separable, "linear": _linear, "identity": _identity}


class Thinned(nn.Conv2d):
    """A convolution of one tap with a stride, over the pixels that it does not skip.

    torch 2.13 writes beyond its buffers in the backward pass of such a convolution on a CPU, channels last and their
    number no multiple of 8: the process dies, or counts wrongly. Evaluation has no such pass and stays torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        down, across = self.stride
        kept = input[..., ::down, ::across]
        return functional.conv2d(kept, self.weight, self.bias, groups=self.groups)


def _convolution(step: Step, channels: int, groups: int, bias: bool | None = None) -> nn.Conv2d:
    settings = step.settings
    thinned = settings["kernel"] == (1, 1) and settings["stride"] != (1, 1)
    return (Thinned if thinned else nn.Conv2d)(
        settings["in_channels"],
        channels,
        settings["kernel"],
        settings["stride"],
        settings["padding"],
        settings["dilation"],
        groups,
        settings["bias"] if bias is None else bias,
    )


def _tail(step: Step) -> dict[str, nn.Module | None]:
    return {
        "norm": _norm(step.settings["norm"], step.shape),
        "activation": _activation(step.settings["activation"]),
    }


def _sequence(parts: dict[str, nn.Module | None]) -> nn.Module:
    kept = OrderedDict((name, part) for name, part in parts.items() if part is not None)
    return nn.Sequential(kept) if kept else nn.Identity()


def _norm(norm: str, shape: Shape) -> nn.Module | None:
    if norm == "none":
        return None
    if norm == "group":
        return nn.GroupNorm(group_count(shape[0]), shape[0])
    return nn.BatchNorm1d(shape[0]) if len(shape) == 1 else nn.BatchNorm2d(shape[0])


def _activation(name: str) -> nn.Module | None:
    return None if name == "linear" else _ACTIVATIONS[name]()


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
}
