"""A user's module as a layer graph: a genome that computes the same, and the module's weights under the genome's names.

The parts that `reading` finds are put together as a layer does them: operation, norm, activation; a depthwise and a
pointwise convolution; a merge with the layer behind it. What stands alone becomes a layer that does nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from evonas.core import DataError
from evonas.encoding import genes
from evonas.encoding.decode import decode
from evonas.encoding.genes import DagGenome, EdgeGene, LayerGene
from evonas.encoding.plan import Shape
from evonas.marks import INPUT, OUTPUT
from evonas.phenotype import network, reading
from evonas.phenotype.reading import BLOCKS, MERGES, Fault, Part, Reading, Value

__all__ = ["Traced", "traced"]

TOLERANCE = 1e-9
"""Largest difference of outputs in float64, relative to the largest output: a wrong layer is off by far more, the
order of additions by less."""


@dataclass(frozen=True)
class Traced:
    """A module as a genome: `tensors` are its weights under the genome's names, in float32; `outputs` their number."""

    genome: DagGenome
    tensors: Mapping[str, Tensor]
    outputs: int


def traced(module: nn.Module, input_shape: Shape) -> Traced:
    """The genome and the weights of a module that takes inputs of (channels, height, width) or (features,).

    The genome's network computes what the module does in evaluation mode, which is checked in float64 on random
    inputs. The module itself stays as it is. A convolution's bias in front of a batch norm moves into its mean; where
    the module has no bias and a layer has one, that begins at 0. Raises DataError naming every part that cannot be a
    layer, or what else hinders."""
    found = reading.read(module, input_shape)
    layers, left = _layers(found.parts, found.last)
    faults = dict.fromkeys(map(str, (*found.faults, *left)))
    if faults:
        raise DataError(
            f"{type(module).__name__} cannot become a layer graph because of {'; '.join(faults)}: replace these parts "
            f"or begin from a genome file.\nSupported are {reading.SUPPORTED}"
        )
    genome, named = _written(layers)
    return Traced(genome, _checked(module, genome, named, found), found.outputs.shape[1])


# ----------------------------------------------------------------------------------------------- parts become layers


def _layers(parts: Sequence[Part], last: Value) -> tuple[list[Part], list[Fault]]:
    """The layers that parts make together, the output's last, and what is left over."""
    whole = parts[last.part].shape == last.shape and not last.pooled
    made, end = _folded(parts, last.part)
    made, end = _reachable(*_dissolved(made, end))
    faults = [fault for part in made if (fault := _leftover(part)) is not None]
    output = made[end]
    if output.op == "unknown":
        return made, faults
    if output.op != "dense" or output.tail != ("none", "linear") or not whole:
        why = f"it comes from {output.name} and must come from a Linear with nothing behind it, as logits do"
        faults.append(Fault("the output", "tensor", why))
        return made, faults
    kept = {name: value for name, value in output.genes.items() if name != "channels"}
    return [*made[:end], replace(output, op="output", genes=kept)], faults


def _folded(parts: Sequence[Part], last: int) -> tuple[list[Part], int]:
    """Norms and activations join the layer before them, pointwise convolutions the depthwise ones."""
    uses = Counter(source for part in parts for source in part.sources)
    uses[last] += 1
    made: list[Part] = []
    at: dict[int, int] = {}
    for i, part in enumerate(parts):
        part = replace(part, sources=tuple(at[source] for source in part.sources))
        joined = None
        if len(part.sources) == 1 and uses[parts[i].sources[0]] == 1:
            joined = _joined(made[part.sources[0]], part)
        if joined is None:
            at[i] = len(made)
            made.append(replace(part, op="identity") if part.op in ("norm", "activation") else part)
        else:
            at[i] = part.sources[0]
            made[at[i]] = joined
    return made, at[last]


def _joined(before: Part, part: Part) -> Part | None:
    """Two parts as one layer, None where the second begins a layer of its own."""
    bias = before.tensors.get(_BIAS.get(before.op, ""))
    if before.inner and part.op == "norm" and part.norm != before.inner[0]:
        return None  # a separable layer has one norm and one activation for both its convolutions
    if before.inner and part.op == "activation" and part.activation != before.inner[1]:
        return None
    if part.op == "norm" and before.op in BLOCKS and before.tail == ("none", "linear"):
        # what a batch norm takes away again can as well be missing from its mean; a group norm leaves some of it
        return None if bias is not None and part.norm == "group" else _with_norm(before, part, bias)
    if part.op == "activation" and before.op in BLOCKS and before.activation == "linear":
        return before.with_(part.genes)
    point = part.genes.get("kernel") == 1 and part.genes.get("stride") == 1
    if part.op == "conv" and before.op == "depthwise" and point:
        named = {name.replace("conv.", "pointwise."): value for name, value in part.tensors.items()}
        channels = {"channels": part.genes["channels"], "norm": "none", "activation": "linear"}
        made = before.with_(channels, named)
        return replace(made, op="separable", shape=part.shape, inner=before.tail)
    return None


_BIAS = {"conv": "conv.bias", "depthwise": "depthwise.bias", "separable": "pointwise.bias", "dense": "linear.bias"}


def _with_norm(before: Part, norm: Part, bias: Tensor | None) -> Part:
    tensors = dict(norm.tensors)
    if bias is not None:
        tensors["norm.running_mean"] = tensors["norm.running_mean"] - bias
    if before.op == "depthwise":
        tensors = {f"depthwise_{name}": value for name, value in tensors.items()}
    kept = {name: value for name, value in before.tensors.items() if name != _BIAS.get(before.op)}
    return replace(before, tensors=kept).with_(norm.genes, tensors)


def _dissolved(parts: Sequence[Part], last: int) -> tuple[list[Part], int]:
    """Merges become those of the layers behind them, where one does or where joining channels twice costs nothing;
    the others become layers that do nothing else."""
    made = list(parts)
    for i in [i for i, part in enumerate(parts) if part.op in MERGES]:
        made[i] = merge = _absorbed(made, i)
        users = [j for j, part in enumerate(made) if i in part.sources]
        if merge.tail == ("none", "linear") and i != last and all(_takes(made[j], i, merge, len(users)) for j in users):
            for j in users:
                made[j] = _spliced(made[j], i, merge)
            made[i] = replace(merge, sources=())  # nobody's any more: what it took is free for the merge it went into
    return [
        replace(part, op="identity", genes={**part.genes, "merge": part.op}) if part.op in MERGES else part
        for part in made
    ], last


def _absorbed(parts: Sequence[Part], i: int) -> Part:
    """A merge that brings its images to one size itself, where that is what a pool in front of it is for."""
    merge = parts[i]
    uses = Counter(source for part in parts for source in part.sources)
    sources = [
        parts[source].sources[0] if parts[source].op == "resize" and uses[source] == 1 else source
        for source in merge.sources
    ]
    sizes = [parts[source].shape[1:] for source in sources]
    fitting = all(sizes) and tuple(map(min, zip(*sizes, strict=True))) == merge.shape[1:]
    return replace(merge, sources=tuple(sources)) if fitting and len(set(sources)) == len(sources) else merge


def _takes(user: Part, i: int, merge: Part, users: int) -> bool:
    sources = _spliced(user, i, merge).sources
    if user.op in _LEFT or len(set(sources)) < len(sources):
        return False
    if merge.op == "concat":
        return user.op == "concat" or len(user.sources) == 1
    # sums are added from left to right, and once
    return users == 1 and (len(user.sources) == 1 or (user.op == "sum" and user.sources[0] == i))


def _spliced(user: Part, i: int, merge: Part) -> Part:
    sources = [one for source in user.sources for one in (merge.sources if source == i else (source,))]
    genes = user.genes if user.op in MERGES else {**user.genes, "merge": merge.op}
    return replace(user, sources=tuple(sources), genes=genes)


_LEFT = ("unknown", "depthwise", "resize")
"""Parts that are no layers."""


def _reachable(parts: Sequence[Part], last: int) -> tuple[list[Part], int]:
    """The parts that the output needs, renumbered; the input always."""
    kept, waiting = {0}, [last]
    while waiting:
        kept.add(part := waiting.pop())
        waiting += [source for source in parts[part].sources if source not in kept]
    at = {old: new for new, old in enumerate(sorted(kept))}
    made = [replace(parts[i], sources=tuple(at[source] for source in parts[i].sources)) for i in sorted(kept)]
    return made, at[last]


def _leftover(part: Part) -> Fault | None:
    if part.op == "depthwise" or (part.op == "separable" and part.inner != part.tail):
        partner = "its norm and activation and a 1x1 convolution with the same ones must follow"
        return Fault(part.name, "Conv2d", f"it has {part.tensors['depthwise.weight'].shape[0]} groups: {partner}")
    if part.op == "resize":
        return Fault(part.name, "MaxPool2d", part.genes["window"])
    return None


# ------------------------------------------------------------------------------------------------ layers become genes


def _written(layers: Sequence[Part]) -> tuple[DagGenome, dict[str, Tensor]]:
    """The genome of layers in order, input first and output last, and their tensors by the genome's names."""
    inner = len(layers) - 2
    marks = [INPUT, *range(2, 2 + inner), OUTPUT]
    made = [LayerGene(mark, part.op, **part.genes) for mark, part in zip(marks, layers, strict=True)]
    ends = [(marks[source], mark) for mark, part in zip(marks, layers, strict=True) for source in part.sources]
    # of several edges into a layer the lower mark comes first
    edges = [EdgeGene(mark, *pair) for mark, pair in enumerate(ends, start=2 + inner)]
    named = {
        f"layer{mark}.{name}": value
        for mark, part in zip(marks, layers, strict=True)
        for name, value in part.tensors.items()
    }
    genome = DagGenome.of(made, edges)
    genes.check(genome)
    return genome, named


@torch.no_grad()
def _checked(module: nn.Module, genome: DagGenome, named: Mapping[str, Tensor], found: Reading) -> dict[str, Tensor]:
    """The network's tensors, after its outputs were compared with the module's. DataError where they differ."""
    x, expected = found.inputs, found.outputs
    built = network.build(decode(genome, tuple(x.shape[1:]), expected.shape[1])).double().eval()
    own = {
        name: _cut(named[name], value) if name in named else torch.zeros_like(value)
        for name, value in built.state_dict().items()
    }
    network.load(built, own)
    difference = float((built(x) - expected).abs().max())
    largest = float(expected.abs().max())
    if not difference <= TOLERANCE * largest:
        raise DataError(
            f"{type(module).__name__} does more than its layers tell: outputs up to {largest:.2g} differ by "
            f"{difference:.2g}; remove hooks, changes in place, and what is random in evaluation mode"
        )
    return network.tensors(built)


def _cut(given: Tensor, own: Tensor) -> Tensor:
    """A kernel without the taps that never touch the image; anything else as it is."""
    if given.dim() != 4:
        return given
    rows, columns = ((a - b) // 2 for a, b in zip(given.shape[2:], own.shape[2:], strict=True))
    return given[:, :, rows : rows + own.shape[2], columns : columns + own.shape[3]]
