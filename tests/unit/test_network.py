"""The phenotype: equal to plain torch code, initialised by gene, saved and loaded without loss."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref

import pytest
import torch
from torch import Tensor, nn

from evonas.core import DataError
from evonas.encoding.decode import decode
from evonas.encoding.plan import Plan
from evonas.phenotype.network import Network, build, by_gene, from_bytes, load, tensors, to_bytes

from .graphs import Graph, chain, lenet, resnet20

CONV = {"op": "conv", "channels": 8, "kernel": 3, "norm": "batch", "activation": "relu"}


class PlainLeNet(nn.Module):
    """LeNet-5 as one writes it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.dense = nn.ModuleList([nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)])

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(self.first(x).tanh(), 2)
        x = nn.functional.avg_pool2d(self.second(x).tanh(), 2).flatten(1)
        return self.dense[2](self.dense[1](self.dense[0](x).tanh()).tanh())  # type: ignore[no-any-return]


class PlainBlock(nn.Module):
    """A residual block with a strided projection, as one writes it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.skip, self.head = nn.Conv2d(3, 8, 1, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[1](self.second(self.norms[0](self.first(x)).relu()))
        skip = self.norms[2](self.skip(nn.functional.max_pool2d(x, 2)))
        return self.head((y + skip).relu().mean((2, 3)))  # type: ignore[no-any-return]


def residual() -> Plan:
    graph = Graph()
    graph.layer("conv", channels=8, kernel=3, stride=2, norm="batch", activation="relu")
    end = graph.layer("conv", channels=8, kernel=3, norm="batch")
    graph.layer("identity", end, 0, activation="relu")
    return decode(graph.genome(), (3, 8, 8), 4)


@pytest.mark.parametrize(
    ("plan", "plain", "order"),
    [
        (decode(lenet(), (1, 28, 28), 10), PlainLeNet(), None),
        (residual(), PlainBlock(), ["layer2.conv", "layer4.conv", "layer2.norm", "layer4.norm", "edge8.norm",
                                    "edge8.conv", "layer1.linear"]),
    ],
    ids=["lenet", "residual block"],
)  # fmt: skip
def test_outputs_and_gradients_equal_plain_torch_code(plan: Plan, plain: nn.Module, order: list[str] | None) -> None:
    network = build(plan, seed=0).double().train()
    plain = plain.double().train()
    names = [name for name, _ in network.named_parameters()]
    if order:
        names = [name for part in order for name in names if name.startswith(part)]
    with torch.no_grad():
        for name, parameter in zip(names, plain.parameters(), strict=True):
            parameter.copy_(network.get_parameter(name))
    x = torch.randn(4, *plan.steps[0].shape, dtype=torch.float64)
    ours, theirs = network(x), plain(x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for name, parameter in zip(names, plain.parameters(), strict=True):
        torch.testing.assert_close(network.get_parameter(name).grad, parameter.grad, rtol=0, atol=1e-11)


def test_parameters_are_named_by_the_marks_of_their_genes() -> None:
    names = list(build(residual()).state_dict())
    assert {name.partition(".")[0] for name in names} == {"layer2", "layer4", "edge8", "layer1"}
    assert names[:6] == ["layer2.conv.weight", "layer2.norm.weight", "layer2.norm.bias", "layer2.norm.running_mean",
                         "layer2.norm.running_var", "layer2.norm.num_batches_tracked"]  # fmt: skip
    separable = decode(chain({"op": "separable", "channels": 8, "kernel": 3}), (3, 8, 8), 4)
    assert list(build(separable).state_dict()) == [
        "layer2.depthwise.weight", "layer2.depthwise.bias", "layer2.pointwise.weight", "layer2.pointwise.bias",
        "layer1.linear.weight", "layer1.linear.bias",
    ]  # fmt: skip


def test_weights_grouped_by_gene() -> None:
    genes = by_gene(tensors(build(residual())))
    assert set(genes) == {"layer2", "layer4", "edge8", "layer1"}
    assert set(genes["layer1"]) == {"linear.weight", "linear.bias"}


# --------------------------------------------------------------------------------------------------- initialisation


def test_a_seed_gives_the_same_weights_whatever_the_global_generator_and_leaves_it_alone() -> None:
    plan = decode(lenet(), (1, 28, 28), 10)
    torch.manual_seed(1)
    first = tensors(build(plan, seed=5))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = tensors(build(plan, seed=5))
    build(plan)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = tensors(build(plan, seed=6))
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))


def test_the_first_weights_of_a_gene_depend_on_nothing_but_its_mark_and_shape() -> None:
    short = tensors(build(decode(chain(CONV), (3, 8, 8), 10), seed=5))
    long = tensors(build(decode(chain(CONV, {"op": "dense", "channels": 8}), (3, 8, 8), 10), seed=5))
    assert torch.equal(short["layer2.conv.weight"], long["layer2.conv.weight"])
    assert torch.equal(short["layer1.linear.weight"], long["layer1.linear.weight"])


def test_signals_neither_vanish_nor_explode_through_depth() -> None:
    deep = chain(*[{"op": "conv", "channels": 32, "kernel": 3, "activation": "relu"}] * 20)
    network = build(decode(deep, (3, 16, 16), 10), seed=0)
    sizes: list[float] = []
    for module in network.children():
        module.register_forward_hook(lambda _m, _i, out: sizes.append(out.square().mean().item()))
    network(torch.randn(8, 3, 16, 16))
    assert 1e-3 < sizes[19] / sizes[0] < 1e3  # zero padding costs a little per layer; torch's default gives 1e-13


def test_biases_start_at_0_and_norms_at_1() -> None:
    values = tensors(build(residual(), seed=3))
    assert all((value == 0).all() for name, value in values.items() if name.endswith("bias"))
    assert all((value == 1).all() for name, value in values.items() if name.endswith("norm.weight"))


# ----------------------------------------------------------------------------------------------------- interpretation


@pytest.mark.slow
def test_tensors_are_dropped_as_soon_as_no_later_step_needs_them() -> None:
    network = build(decode(chain(*[CONV] * 6), (3, 8, 8), 10), seed=0).eval()
    alive: list[int] = []
    made: list[weakref.ref[Tensor]] = []

    def watch(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))
        made.append(weakref.ref(output))

    for module in network.children():
        module.register_forward_hook(watch)
    with torch.inference_mode():
        network(torch.randn(2, 3, 8, 8))
    assert alive[0] == 0 and max(alive) == 1


def test_a_step_may_use_a_tensor_again_later() -> None:
    plan = decode(resnet20(), (3, 16, 16), 10)
    network = build(plan, seed=0)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network(x), network(x))


def test_channels_last_changes_nothing() -> None:
    network = build(residual(), seed=0).eval()
    x = torch.randn(4, 3, 8, 8)
    expected = network(x)
    fast = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(fast(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)


def test_a_network_can_be_copied_pickled_and_moved() -> None:
    network = build(residual(), seed=0).eval()
    x = torch.randn(2, 3, 8, 8)
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert isinstance(again, Network) and torch.equal(again(x), network(x))
        again.get_parameter("layer1.linear.bias").data += 1
    assert network.double()(x.double()).dtype == torch.float64


def test_a_network_can_be_exported() -> None:
    network = build(residual(), seed=0).eval()
    x = torch.randn(2, 3, 8, 8)
    exported = torch.export.export(network, (x,))
    torch.testing.assert_close(exported.module()(x), network(x))


def test_build_on_the_meta_device_allocates_nothing() -> None:
    huge = decode(chain({"op": "dense", "channels": 8000, "reduce": "flatten"}), (3, 256, 256), 10)
    assert all(parameter.is_meta for parameter in build(huge, seed=1, device="meta").parameters())


def test_a_network_too_large_is_refused_before_it_is_allocated() -> None:
    huge = decode(chain({"op": "dense", "channels": 8192, "reduce": "flatten"}), (8, 256, 256), 10)
    with pytest.raises(DataError, match=r"4,295,\d{3},\d{3} parameters exceed 2,147,483,648; set a bound"):
        build(huge)


# ------------------------------------------------------------------------------------------------------------ weights


def test_weights_survive_bytes_with_their_buffers() -> None:
    network = build(residual(), seed=0).train()
    network(torch.randn(4, 3, 8, 8))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    saved = from_bytes(to_bytes(network))
    assert all(value.is_contiguous() for value in saved.values())
    assert saved["layer2.norm.num_batches_tracked"].item() == 1
    assert saved["layer2.norm.num_batches_tracked"].dtype == torch.int64
    again = build(residual())
    load(again, saved)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(again.eval()(x), network.eval()(x))
    assert to_bytes(again) == to_bytes(network)


def test_saved_weights_are_float32_and_copies() -> None:
    network = build(residual(), seed=0)
    half = tensors(copy.deepcopy(network).bfloat16())
    assert all(value.dtype == torch.float32 for name, value in half.items() if "tracked" not in name)
    values = tensors(network)
    values["layer1.linear.bias"] += 1
    assert (network.get_parameter("layer1.linear.bias") == 0).all()


def test_weights_that_do_not_fit_are_refused_by_name_and_change_nothing() -> None:
    network = build(residual(), seed=0)
    before = to_bytes(network)
    good = tensors(network)
    without = {name: value for name, value in good.items() if name != "layer2.conv.weight"}
    for damaged, message in (
        (without, "missing layer2.conv.weight"),
        ({**good, "layer9.conv.weight": torch.zeros(1)}, "unexpected layer9.conv.weight"),
        ({**good, "layer1.linear.bias": torch.zeros(5)}, r"layer1.linear.bias has shape \(5,\), expected \(4,\)"),
        ({}, r"missing .* and \d+ more: are they of another genome"),
    ):
        with pytest.raises(DataError, match=message):
            load(network, damaged)
    assert to_bytes(network) == before


def test_bytes_that_are_no_weights_are_refused() -> None:
    whole = to_bytes(build(residual()))
    for data in (b"", b"evonas", whole[:100], whole[:-1], b"\xff" * 64):
        with pytest.raises(DataError, match="are no safetensors file"):
            from_bytes(data)


@pytest.mark.gpu
def test_the_same_seed_gives_the_same_network_on_a_cuda_device() -> None:
    plan = residual()
    host, device = build(plan, seed=4), build(plan, seed=4, device="cuda")
    assert to_bytes(host) == to_bytes(device)
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(device.eval()(x.cuda()).cpu(), host.eval()(x), rtol=1e-3, atol=1e-4)


STRIDED = """
import torch
from evonas.phenotype.network import Thinned
torch.manual_seed(0)
plain = torch.nn.Conv2d(4, 24, 1, 2)
thinned = Thinned(4, 24, 1, 2)
thinned.load_state_dict(plain.state_dict())
x = torch.randn(64, 4, 9, 9)
assert torch.allclose(plain(x), thinned(x), atol=1e-6)
thinned = thinned.to(memory_format=torch.channels_last)
for _ in range(60):
    thinned(x.contiguous(memory_format=torch.channels_last).requires_grad_()).square().mean().backward()
"""


def test_one_tap_with_a_stride_trains_without_killing_its_process() -> None:
    """torch's own dies within some steps: in a process of its own, lest a relapse kills the tests."""
    done = subprocess.run([sys.executable, "-c", STRIDED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
