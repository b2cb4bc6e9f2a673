"""Random layer graphs with a place for a morphism, real images to show them, and arithmetic in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from evonas.core import Edit
from evonas.encoding import morph
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.encoding.genes import DagGenome
from evonas.marks import MarkBook
from evonas.phenotype import network
from evonas.phenotype.inherit import Parent, Probe

SPACE = DagEncoding(
    DagSettings(
        ops=("conv", "separable", "max_pool", "avg_pool", "identity", "dense"),
        channels=(4, 8, 12, 16),
        kernels=(1, 3, 5),
        dilations=(1, 2),
        norms=("batch", "group", "none"),
        activations=("relu", "leaky_relu", "silu", "relu6"),
        reduces=("mean", "flatten"),
        layers=(1, 60),
    ),
    (1, 8, 8),
    10,
)
"""Everything that a morphism must pass through, but dropout: its draws depend on the tensor's shape."""


@cache
def images(count: int = 24) -> Tensor:
    """Scikit-learn's digits as a network takes them, float64."""
    found = torch.from_numpy(load_digits().images[:count]).to(torch.float64)
    return found[:, None] / 8 - 1


def probe(dtype: torch.dtype = torch.float64) -> Probe:
    return Probe(images().to(dtype), torch.from_numpy(load_digits().target[:24]))


def genomes(first: int = 0) -> Iterator[tuple[DagGenome, Random, MarkBook]]:
    """Endless small graphs, grown by ordinary mutations."""
    while True:
        rng, marks = Random(first), MarkBook()
        genome = SPACE.random(rng, marks)
        for _ in range(rng.randint(0, 8)):
            changed = SPACE.mutate(genome, rng, marks)
            genome = changed[0] if changed is not None else genome
        if SPACE.decode(genome).params < 50_000:
            yield genome, rng, marks
        first += 1


def places(kind: str, count: int, first: int = 0) -> list[tuple[DagGenome, Edit]]:
    """Graphs with an edit of this kind that is possible there."""
    found: list[tuple[DagGenome, Edit]] = []
    for genome, rng, marks in genomes(first):
        edit = morph.PROPOSALS[kind](SPACE, genome, rng, marks)
        if edit is not None:
            found.append((genome, edit))
        if len(found) == count:
            return found
    return found


def lively(genome: DagGenome, dtype: torch.dtype = torch.float64, seed: int = 0) -> network.Network:
    """A network whose norms, gates and biases are not those of a new one."""
    built = network.build(SPACE.decode(genome), seed).to(dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in built.parameters():
            if value.dim() == 1:
                value += 0.2 * torch.randn(value.shape, generator=draw, dtype=dtype)
        built.train()
        for _ in range(3):
            built(images().to(dtype))
    return built.eval()


def parent(genome: DagGenome, built: nn.Module) -> Parent:
    return Parent(genome, {name: value.clone() for name, value in built.state_dict().items()})


def loaded(genome: DagGenome, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> network.Network:
    built = network.build(SPACE.decode(genome)).to(dtype)
    network.load(built, tensors)
    return built.eval()


def output(built: nn.Module, training: bool, x: Tensor) -> Tensor:
    """Outputs in training or evaluation mode; the running statistics stay as they are."""
    kept = {name: value.clone() for name, value in built.named_buffers()}
    built.train(training)
    with torch.no_grad():
        found: Tensor = built(x)
        for name, value in built.named_buffers():
            value.copy_(kept[name])
    built.eval()
    return found


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


# ------------------------------------------------------------------------------------------ sums in a fixed order


class _InOrder(nn.Module):
    """A layer whose sums run over channels and taps one by one, each channel by itself: what is multiplied by 0 adds
    exactly nothing, wherever it stands. Libraries add up in an order of their own that depends on the sizes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        one: Any = self.layer
        if isinstance(one, nn.Linear):
            return _linear(one, x)
        return _convolution(one, x) if isinstance(one, nn.Conv2d) else _normed(one, x)


def _linear(one: nn.Linear, x: Tensor) -> Tensor:
    total = torch.zeros(len(x), one.out_features, dtype=x.dtype)
    for column in range(one.in_features):
        total = total + x[:, column : column + 1] * one.weight[:, column]
    return total if one.bias is None else total + one.bias


def _convolution(one: nn.Conv2d, x: Tensor) -> Tensor:
    (ph, pw), (dh, dw), (sh, sw), (kh, kw) = one.padding, one.dilation, one.stride, one.kernel_size  # type: ignore[misc]
    padded = nn.functional.pad(x, (pw, pw, ph, ph))
    height = (padded.shape[2] - dh * (kh - 1) - 1) // sh + 1
    width = (padded.shape[3] - dw * (kw - 1) - 1) // sw + 1
    total = torch.zeros(len(x), one.out_channels, height, width, dtype=x.dtype)
    wide = one.groups > 1
    for column in range(one.weight.shape[1]):
        for i in range(kh):
            for j in range(kw):
                seen = padded[:, :, i * dh :: sh, j * dw :: sw][:, :, :height, :width]
                seen = seen if wide else seen[:, column : column + 1]
                total = total + seen * one.weight[:, column, i, j].view(1, -1, 1, 1)
    return total if one.bias is None else total + one.bias.view(1, -1, 1, 1)


def _normed(one: Any, x: Tensor) -> Tensor:
    channels = x.shape[1]
    size = channels // one.num_groups if isinstance(one, nn.GroupNorm) else 1
    parts = []
    for first in range(0, channels, size):
        part = x[:, first : first + size].contiguous()
        if isinstance(one, nn.GroupNorm):
            mean, var = part.mean((1, 2, 3), keepdim=True), part.var((1, 2, 3), unbiased=False, keepdim=True)
        elif one.training:
            axes = [axis for axis in range(x.dim()) if axis != 1]
            mean, var = part.mean(axes, keepdim=True), part.var(axes, unbiased=False, keepdim=True)
        else:
            mean, var = one.running_mean[first], one.running_var[first]
        parts.append((part - mean) / (var + one.eps).sqrt())
    shape = (1, -1, *[1] * (x.dim() - 2))
    return torch.cat(parts, 1) * one.weight.view(shape) + one.bias.view(shape)


class _MeanInOrder(nn.Module):
    """The mean of each channel, taken by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, i].contiguous().mean((1, 2)) for i in range(x.shape[1])], 1)


def in_order(built: nn.Module) -> nn.Module:
    """The network with every sum in a fixed order."""
    for name, child in built.named_children():
        if isinstance(child, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)):
            setattr(built, name, _InOrder(child))
        elif isinstance(child, network.GlobalPool):
            setattr(built, name, _MeanInOrder())
        else:
            in_order(child)
    return built
