"""Modules become layer graphs that compute the same; what cannot is refused, all of it by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from evonas import zoo
from evonas.core import DataError
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.encoding.decode import decode
from evonas.encoding.genes import DagGenome
from evonas.encoding.plan import Shape
from evonas.marks import MarkBook
from evonas.phenotype import network
from evonas.phenotype.export import export_module
from evonas.phenotype.tracing import Traced, traced
from tests.unit.test_zoo import BY_HAND


def lively(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module in evaluation mode with norms and biases that all count."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.dim() == 1 and value.is_floating_point():
                shift = 1.0 if name.endswith(("weight", "var")) else 0.0
                value.copy_(shift + 0.3 * torch.rand(value.shape, generator=source))
    return module.eval()


def same(module: nn.Module, shape: Shape, training: bool = False) -> Traced:
    """Traces a module and holds its network against it in float32, also in training mode if asked."""
    found = traced(lively(module), shape)
    built = network.build(decode(found.genome, shape, found.outputs))
    network.load(built, found.tensors)
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(built.eval()(x), module(x), rtol=1e-4, atol=1e-5)
    if training:
        torch.testing.assert_close(built.train()(x), module.train()(x), rtol=1e-4, atol=1e-4)
    return found


def ops(genome: DagGenome) -> list[str]:
    return [genome.layer[mark].op for mark in genome.live[1:-1]]


# ------------------------------------------------------------------------------------------------------ architectures


@pytest.mark.parametrize("name", BY_HAND)
def test_a_published_network_becomes_the_zoo_s_genome(name: str) -> None:
    """Plain, VGG-like, residual, dense, depthwise-separable networks and a perceptron, as anyone writes them."""
    entry = zoo.entry(name)
    found = same(BY_HAND[name](), entry.input)
    space = DagEncoding(DagSettings(), entry.input, entry.outputs)
    plan, known = space.decode(found.genome), space.decode(zoo.load(name, space))  # type: ignore[arg-type]
    assert (plan.params, plan.flops, found.outputs) == (entry.params, entry.flops, entry.outputs)
    assert sorted(step.op for step in plan.steps) == sorted(step.op for step in known.steps)


class Functional(nn.Module):
    """A network whose every second step is a function or a method."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding="same", bias=False)
        self.third = nn.Conv2d(16, 12, 1)
        self.gate = nn.Parameter(torch.tensor([0.7]))
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor, unused: Tensor | None = None) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.max_pool2d(x, 2)
        y = torch.tanh(self.second(x)) * self.gate
        y += x
        y = F.leaky_relu(torch.add(y, x))
        z = F.avg_pool2d(F.gelu(torch.cat([x, y], dim=1)), 3, 2, 1, count_include_pad=False)
        z = F.dropout(F.silu(self.third(z)), 0.2, self.training)
        z = F.hardswish(F.relu6(F.elu(z)).sigmoid())
        outputs: Tensor = self.out(z.mean((2, 3)).view(z.size(0), -1))
        return outputs


def test_functions_and_methods_are_read_like_modules() -> None:
    found = same(Functional(), (3, 9, 9))
    kinds = ops(found.genome)
    assert kinds.count("gate") == 1 and kinds.count("dropout") == 1 and kinds.count("conv") == 3
    activations = {gene.activation for gene in found.genome.layers}
    assert activations == {
        "linear",
        "relu",
        "tanh",
        "leaky_relu",
        "gelu",
        "silu",
        "elu",
        "relu6",
        "sigmoid",
        "hardswish",
    }


def block(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)]


class PreActivation(nn.Module):
    """A residual block that norms first, its shortcut projected by a 1x1 convolution with a bias."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm, self.body = nn.BatchNorm2d(before), nn.Sequential(*block(before, after, 2), nn.ReLU(inplace=True))
        self.last, self.project = nn.Conv2d(after, after, 3, 1, 1), nn.Conv2d(before, after, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).relu()
        outputs: Tensor = self.last(self.body(y)) + self.project(y)
        return outputs


def test_a_residual_network_trains_as_it_did() -> None:
    """In training mode, too, the layers do what the module's did: a bias before a batch norm never counted."""
    head = [nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)]
    start = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    found = same(nn.Sequential(*start, PreActivation(8, 16), PreActivation(16, 16), *head), (3, 16, 16), training=True)
    assert [gene.merge for gene in found.genome.layers].count("concat") == 0
    assert ops(found.genome).count("conv") == 7


def test_features_and_norms_behind_global_pooling() -> None:
    layers = [*block(3, 8), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.BatchNorm1d(8), nn.Dropout(0.3)]
    found = same(nn.Sequential(*layers, nn.Linear(8, 6), nn.GroupNorm(1, 6), nn.ELU(), nn.Linear(6, 2)), (3, 7, 7))
    assert ops(found.genome) == ["conv", "avg_pool", "identity", "dropout", "dense", "identity"]


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 7, 5), (3, 1, 6), (3, 2, 2)])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 5, 2, 2), nn.Conv2d(3, 4, 3, 1, 4, dilation=4), nn.Conv2d(3, 4, 1, 2),
        nn.Conv2d(3, 4, (1, 3), 1, (0, 1)),
        nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 2, ceil_mode=True), nn.MaxPool2d(5, 1, 2),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.AvgPool2d(1, 2),
    ],
    ids=str,
)  # fmt: skip
def test_windows_on_images_of_any_size(layer: nn.Module, shape: Shape) -> None:
    """A gene's window is cut to the image: it must meet the same pixels, or it is refused."""
    channels = getattr(layer, "out_channels", 3)
    module = nn.Sequential(layer, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))
    if getattr(layer, "kernel_size", 0) == (1, 3) and shape[1] > 1:
        with pytest.raises(DataError, match=r"0 \(Conv2d: kernel \(1, 3\), stride 1, padding \(0, 1\)"):
            traced(module, shape)
    else:
        same(module, shape)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(4)], ids=str
)
@pytest.mark.parametrize("size", [8, 9])
def test_pools_round_as_the_module_does(pool: nn.Module, size: int) -> None:
    module = nn.Sequential(pool, nn.Flatten(), nn.LazyLinear(2))
    module(torch.zeros(1, 3, size, size))
    if isinstance(pool, nn.AdaptiveAvgPool2d) and size == 9:
        with pytest.raises(DataError, match=r"0 \(AdaptiveAvgPool2d: it takes \(9, 9\) to \(4, 4\)"):
            traced(module, (3, size, size))
    else:
        assert len(ops(same(module, (3, size, size)).genome)) == 1


class Branches(nn.Module):
    """Reductions of images before they are merged, and the same tensor twice."""

    def __init__(self, merge: Callable[..., Tensor], width: int) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, 2, 1)
        self.d, self.out = nn.Linear(4, 4), nn.Linear(width, 2)
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.out(self.merge(self, x))
        return outputs


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("merge", "width"),
    [
        (lambda m, x: mean(m.a(x)) + mean(m.b(x)), 4),
        (lambda m, x: torch.cat([mean(m.a(x)), mean(m.c(x))], 1), 8),
        (lambda m, x: torch.cat([m.a(x).flatten(1), m.b(x).flatten(1)], 1), 8 * 36),
        (lambda m, x: m.d(mean(m.a(x))) + mean(m.c(x)), 4),
        (lambda m, x: torch.cat([mean(m.b(x)), m.d(mean(m.a(x)))], -1), 8),
        (lambda m, x: mean((y := m.a(x)) + y + y), 4),
        (lambda m, x: mean(torch.cat([y := m.a(x), m.b(x), y], 1)), 12),
        (lambda m, x: mean(torch.cat([torch.cat([m.a(x), m.b(x)], 1).relu(), m.b(x[:, :3]) if False else x], 1)), 11),
        (lambda m, x: mean(m.a(x)).relu(), 4),
        (lambda m, x: m.b(x).squeeze(-1).flatten(1).tanh(), 4 * 36),
        (lambda m, x: m.a(x).mean((-1, -2), keepdim=True).squeeze(3).squeeze(2), 4),
    ],
)  # fmt: skip
def test_merges_keep_the_order_of_their_inputs(merge: Callable[..., Tensor], width: int) -> None:
    same(Branches(merge, width), (3, 6, 6))


def test_the_module_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    traced(module, (3,))
    assert module.training and next(module.parameters()).dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# ---------------------------------------------------------------------------------------------------------- round trips

WIDE = DagSettings(
    kernels=(1, 3, 5, 7), pool_kernels=(2, 3, 4), dilations=(1, 2), norms=("batch", "group", "none"),
    reduces=("mean", "flatten"), activations=("relu", "gelu", "linear", "tanh"), channels=(4, 8, 12),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(3, 8, 8), (1, 6, 6), (2, 9, 5), (7,), (2, 1, 6)]))
@example(98718, (3, 8, 8))  # a separable layer without an activation, and one alone behind it
@example(101141, (1, 6, 6))  # a sum of three, the first two of which are shrunk
@example(100252, (2, 9, 5))  # means of two images that are not square are added
def test_a_network_of_evonas_traced_again_computes_the_same(seed: int, shape: Shape) -> None:
    """Any genome of layers, but for an edge that shrinks an image and projects it: in a module these are two layers,
    and no gene pools by any window. Means of images that are not square may be refused, by name, among other means."""
    space, rng, book = DagEncoding(WIDE, shape, 3), Random(seed), MarkBook()
    genome = space.random(rng, book)
    for _ in range(rng.randint(0, 10)):
        genome = (space.mutate(genome, rng, book) or (genome,))[0]
    plan = space.decode(genome)
    names = {step.name for step in plan.steps}
    assume(not any(f"{name}_pool" in names for name in names))
    averaged = [plan.steps[step.inputs[0]].shape for step in plan.steps if step.op == "global_pool"]
    try:
        found = same(network.build(plan, seed=1), shape)
    except DataError as error:
        if "only of square images" in str(error) and any(height != width for _, height, width in averaged):
            return
        raise
    assert space.decode(found.genome).flops == plan.flops


def test_an_exported_module_traced_again_computes_the_same(tmp_path: Path) -> None:
    space = DagEncoding(DagSettings(), (3, 16, 16), 10)
    plan = space.decode(zoo.load("resnet-20", space))  # type: ignore[arg-type]
    weights = network.to_bytes(lively(network.build(plan, seed=3)))
    path, *_ = export_module(plan, weights, tmp_path, "net")
    spec = importlib.util.spec_from_file_location("net", path)
    assert spec is not None and spec.loader is not None
    file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(file)
    found = traced(file.load(), (3, 16, 16))
    again = space.decode(found.genome)
    built = network.build(again)
    network.load(built, found.tensors)
    assert (again.params, again.flops) == (plan.params, plan.flops)
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(built.eval()(x), file.load()(x))


# ------------------------------------------------------------------------------------------------------------ refusals


class Odd(nn.Module):
    """Many things that no layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4), nn.LayerNorm([8, 5, 5]), nn.LeakyReLU(0.2))
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.lone = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8, eps=1e-3)
        self.attention = nn.MultiheadAttention(8, 1)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.lone(self.grouped(self.stem(x)))) * self.scale
        y, _ = self.attention(*[x.flatten(2).permute(2, 0, 1)] * 3)
        outputs: Tensor = self.out(F.max_pool2d(x + 1, 3, 3).mean((2, 3)) + y.mean(0)).softmax(1)
        return outputs


def test_everything_unsupported_is_named_at_once() -> None:
    with pytest.raises(DataError) as caught:
        traced(Odd(), (3, 8, 8))
    text = str(caught.value)
    for fault in (
        "stem.0 (Conv2d: kernel 4, stride 1, padding 0, dilation 1)",
        "stem.1 (LayerNorm)",
        "stem.2 (LeakyReLU: its negative_slope is 0.2, a layer's 0.01)",
        "grouped (Conv2d: it has 2 groups)",
        "lone (Conv2d: it has 8 groups: its norm and activation",
        "norm (BatchNorm2d: its eps is 0.001, a layer's 1e-05)",
        "mul (function: only a tensor and one learned number",
        "permute (method: it mixes the inputs of a batch)",
        "attention (MultiheadAttention: it gives no single tensor)",
        "add (function: it adds something",
        "max_pool2d (function: kernel 3, stride 3, padding 0",
        "softmax (method)",
    ):
        assert fault in text, fault
    assert "getitem" not in text  # what follows from another fault is none of its own
    assert text.startswith("Odd cannot become a layer graph") and "Supported are Conv2d" in text


def with_shared_layer() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 2))


def with_tied_weights() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second, nn.Linear(4, 2))


class InPlace(nn.Module):
    """Changes a tensor that is used again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        outputs: Tensor = self.out(torch.relu_(x) + x)
        return outputs


class Turning(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 2))
    module[0].register_forward_hook(lambda module, args, output: output * 3)
    return module


def damaged() -> nn.Module:
    module = nn.Linear(4, 2)
    nn.init.constant_(module.weight, torch.inf)
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (with_shared_layer(), r"0 \(Linear: it is called twice\)"),
        (with_tied_weights(), r"1 \(Linear: its weights are also those of 0\)"),
        (nn.Sequential(nn.Linear(4, 2), nn.Softmax(1)), r"1 \(Softmax\)"),
        (nn.Sequential(nn.Linear(4, 2), nn.ReLU()), r"the output \(tensor: it comes from 0 and must"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=None)), r"momentum is None, a layer's 0.1"),
        (nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)), r"keeps no running mean"),
        (nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(4, 8), nn.Linear(8, 2)), r"has 4 groups, a layer of 8 channels 2"),
        (nn.Sequential(nn.GELU("tanh"), nn.Linear(4, 2)), r"0 \(GELU: its approximate is tanh, a layer's none\)"),
        (nn.Sequential(nn.Dropout(0.99), nn.Linear(4, 2)), r"its rate 0.99 exceeds 0.95"),
        (nn.Sequential(nn.Linear(4, 9000), nn.Linear(9000, 2)), r"9000 channels exceed 8192"),
        (nn.Linear(5, 2), r"Linear does not take inputs of \(4\) \(RuntimeError: .*\): build it for one tensor"),
        (nn.Bilinear(4, 4, 2), r"Bilinear does not take inputs of \(4\) \(TypeError: .*missing"),
        (Turning(), r"Turning cannot be followed by torch.fx \(TraceError"),
        (nn.LSTM(4, 2), r"LSTM gives a tuple for an input: it must give one row of numbers"),
        (nn.Unflatten(1, (2, 2)), r"Unflatten gives \(2, 2\) for an input"),
        (damaged(), r"Linear gives outputs that are not finite"),
        (InPlace(), r"InPlace does more than its layers tell"),
        (hooked(), r"Sequential does more than its layers tell: outputs up to .* differ by"),
    ],
)  # fmt: skip
def test_what_hinders_is_told(module: nn.Module, message: str) -> None:
    with pytest.raises(DataError, match=message):
        traced(module, (4,))


def test_a_separable_pair_needs_one_norm_and_activation() -> None:
    """MobileNetV2 ends its pairs without an activation: that is no separable gene."""

    def pair(first: list[nn.Module], second: list[nn.Module]) -> nn.Module:
        convolutions = nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.Conv2d(6, 4, 1)
        head: list[Any] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        return nn.Sequential(convolutions[0], *first, convolutions[1], *second, *head)

    fitting: list[tuple[list[nn.Module], list[nn.Module]]] = [
        ([], []), ([nn.ReLU()], [nn.ReLU()]), ([nn.BatchNorm2d(6)], [nn.BatchNorm2d(4)]),
        ([nn.BatchNorm2d(6), nn.SiLU()], [nn.BatchNorm2d(4), nn.SiLU()]),
    ]  # fmt: skip
    for first, second in fitting:
        assert ops(same(pair(first, second), (6, 5, 5)).genome) == ["separable"]
    followed: list[tuple[list[nn.Module], list[nn.Module]]] = [
        ([], [nn.BatchNorm2d(4)]), ([], [nn.ReLU()]), ([nn.BatchNorm2d(6)], [nn.BatchNorm2d(4), nn.ReLU()]),
    ]  # fmt: skip
    for first, second in followed:
        assert ops(same(pair(first, second), (6, 5, 5)).genome) == ["separable", "identity"]
    other: list[tuple[list[nn.Module], list[nn.Module]]] = [
        ([nn.ReLU6()], []), ([nn.BatchNorm2d(6)], []), ([nn.ReLU()], [nn.Tanh()]),
    ]  # fmt: skip
    for first, second in other:
        with pytest.raises(DataError, match=r"0 \(Conv2d: it has 6 groups: its norm and activation and a 1x1"):
            traced(pair(first, second), (6, 5, 5))
