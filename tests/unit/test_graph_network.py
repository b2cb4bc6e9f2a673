"""A direct genome's torch module computes what neat-python does, learns, keeps a state, and becomes an ONNX file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from evonas.core import DataError, RecipeError, seed_of
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.encoding.variation import ACTIVATIONS
from evonas.marks import MarkBook
from evonas.phenotype import graph, network
from evonas.phenotype.export import Card, export_onnx
from evonas.phenotype.graph import GraphNetwork
from tests.unit.plain_genes import XOR, genes, neat_python_network, plan_of

SMOOTH = ("sigmoid", "tanh", "gauss", "softplus", "identity")


def inputs(seed: int, rows: int, width: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(rows, width, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_genes(seed: int, **settings: Any) -> dict[str, Any]:
    rng = Random(seed_of(seed, "genes"))
    return genes(rng, hidden=rng.randrange(9), density=rng.random(), **settings)


# ------------------------------------------------------------------------------------------------ neat-python's values


def test_activations_are_neat_pythons_and_have_finite_gradients() -> None:
    functions = pytest.importorskip("neat").activations.ActivationFunctionSet()
    at = torch.cat((torch.linspace(-20, 20, 801, dtype=torch.float64), torch.tensor([1e-9, -1e-9, 700.0, -1e3])))
    for name in ACTIVATIONS:
        z = at.clone().requires_grad_()
        expected = torch.tensor(
            [functions.get(name)(value) if name != "elu" or value < 700 else value for value in at.tolist()]
        )
        found = graph.activation(name, z)
        torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=1e-9)
        found.sum().backward()
        assert z.grad is not None and bool(z.grad.isfinite().all()), name


@pytest.mark.parametrize("feed_forward", [True, False])
def test_networks_compute_what_neat_python_does(feed_forward: bool) -> None:
    """In float64 to 1e-9; recurrent ones over five steps of one episode."""
    pytest.importorskip("neat")
    for seed in range(60):
        found = random_genes(seed, feed_forward=feed_forward)
        oracle, x = neat_python_network(found), inputs(seed, 5)
        expected = torch.tensor([oracle.activate(row) for row in x.tolist()], dtype=torch.float64)
        module = GraphNetwork(found, torch.float64)
        output = module(x) if feed_forward else module.sequence(x[:, None]).squeeze(1)
        torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)


def test_single_precision_stays_close() -> None:
    for seed in range(40):
        found = random_genes(seed, activations=SMOOTH)
        x = inputs(seed, 8)
        difference = GraphNetwork(found)(x.float()).double() - GraphNetwork(found, torch.float64)(x)
        assert float(difference.detach().abs().max()) < 1e-5


def test_a_node_without_enabled_links_is_its_bias_forward_and_zero_in_a_loop() -> None:
    lonely = {**XOR, "links": [[4, 3, 2, 1.0, True], [5, 0, 3, 1.0, False]]}
    x = torch.zeros(4, 2)
    assert GraphNetwork(lonely)(x).shape == (4, 1)
    bias = graph.activation("tanh", torch.tensor(-0.5))
    expected = graph.activation("sigmoid", 0.3 + bias)
    torch.testing.assert_close(GraphNetwork(lonely)(x), expected.expand(4, 1))
    looped = GraphNetwork({**lonely, "feed_forward": False})
    torch.testing.assert_close(looped(x), torch.tensor(0.3 * 5).sigmoid().expand(4, 1))
    silent = GraphNetwork({**lonely, "links": [], "feed_forward": False})
    assert silent(x).tolist() == [[0.0]] * 4 and silent.size == 0


def test_a_cycle_in_a_feed_forward_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nodes \[2, 3\] form a cycle"):
        GraphNetwork({**XOR, "links": [[4, 3, 2, 1.0, True], [5, 2, 3, 1.0, True]]})


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 3\): this network takes \(batch, 2\)"):
        GraphNetwork(XOR)(torch.zeros(4, 3))


# ------------------------------------------------------------------------------------------------------------ state


def test_steps_carry_a_state_until_reset() -> None:
    module = GraphNetwork(random_genes(3, feed_forward=False))
    x = inputs(1, 4, dtype=torch.float32)
    with torch.no_grad():
        episode = module.sequence(torch.stack([x, x, x]))
        for expected in episode:
            assert torch.equal(module.step(x), expected)
        module.reset()
        assert torch.equal(module.step(x[:2]), episode[0][:2]), "a new episode may have another batch"
        assert torch.equal(module(x), episode[0]), "forward begins with zeros, whatever was stepped before"


def test_activations_are_steps_per_input() -> None:
    found = random_genes(3, feed_forward=False)
    x = inputs(1, 4, dtype=torch.float32)
    with torch.no_grad():
        thrice = GraphNetwork({**found, "activations": 3})
        single = GraphNetwork(found)
        assert torch.equal(thrice(x), single.sequence(torch.stack([x, x, x]))[-1])
        assert torch.equal(thrice.sequence(torch.stack([x, x]))[1], single.sequence(torch.stack([x] * 6))[-1])
        assert torch.equal(thrice.step(x), thrice(x))


# --------------------------------------------------------------------------------------------- weights and gradients


@pytest.mark.parametrize("feed_forward", [True, False])
def test_gradients_are_those_of_finite_differences(feed_forward: bool) -> None:
    smooth = ("sum", "product", "mean")
    module = GraphNetwork(
        genes(Random(5), feed_forward=feed_forward, activations=SMOOTH, aggregations=smooth), torch.float64
    )
    module.response.requires_grad_()
    x = inputs(2, 3)

    def output(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(("weight", "bias", "response"), values, strict=True))
        made: torch.Tensor = torch.func.functional_call(module, named, (x,))
        return made

    start = tuple(value.detach().clone().requires_grad_() for value in (module.weight, module.bias, module.response))
    assert torch.autograd.gradcheck(output, start)


def test_a_network_learns_and_its_numbers_go_back_to_its_genes() -> None:
    built = network.build(plan_of({**XOR, "links": [[*link[:4], True] for link in XOR["links"]]}), seed=1)
    x, y = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([[0.0], [1], [1], [0]])
    trainable = [value for value in built.parameters() if value.requires_grad]
    optimiser = torch.optim.Adam(trainable, lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (built(x) - y).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    weights, nodes = graph.genes(built.get_submodule("graph"))  # type: ignore[arg-type]
    assert set(weights) == {4, 5, 6, 7, 8} and weights[7] != -3.125
    assert set(nodes) == {2, 3} and nodes[3][0] != -0.5 and nodes[3][1] == 1.0


def test_a_built_network_holds_the_genes_values_whatever_the_seed() -> None:
    plan = plan_of(XOR)
    for seed in (None, 1, 2):
        built = network.build(plan, seed=seed)
        assert built.get_parameter("graph.weight").tolist() == [1.5, 2.0, -3.125, 0.5]
        assert built.get_parameter("graph.bias").tolist() == pytest.approx([0.3, -0.5])
    assert sum(value.numel() for value in built.parameters() if value.requires_grad) == plan.params
    assert network.build(plan, None, "meta")(torch.empty(5, 2, device="meta")).shape == (5, 1)


def test_weights_belong_to_marks() -> None:
    built = network.build(plan_of(XOR))
    named = network.from_bytes(network.to_bytes(built))
    assert named["graph.link_marks"].tolist() == [4, 6, 7, 8] and named["graph.node_marks"].tolist() == [2, 3]
    other = network.build(plan_of({**XOR, "links": [[link[0] + 1, *link[1:]] for link in XOR["links"]]}))
    with pytest.raises(DataError, match=r"graph\.link_marks are not this genome's"):
        network.load(other, named)


# ------------------------------------------------------------------------------------------------------------- ONNX


def run_onnx(path: Path, **values: torch.Tensor) -> list[torch.Tensor]:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    return [torch.from_numpy(value) for value in session.run(None, {name: v.numpy() for name, v in values.items()})]


needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs evonas[onnx]",
)


@needs_onnx
def test_onnx_of_a_feed_forward_network_in_the_datas_units(tmp_path: Path) -> None:
    """Within 1e-5 of torch; measured: 3e-7."""
    found = genes(Random(1), hidden=9, density=0.2)
    built = network.build(plan_of(found)).eval()
    card = Card("regression", mean=(1.0, 2.0, 3.0), std=(2.0, 1.0, 0.5), target_mean=(5.0, 0.0), target_std=(10.0, 1.0))
    path = export_onnx(built.plan, network.to_bytes(built), tmp_path / "net.onnx", card)
    x = inputs(4, 7, dtype=torch.float32)
    with torch.no_grad():
        normal = (x - torch.tensor(card.mean)) / torch.tensor(card.std)
        expected = built(normal) * torch.tensor(card.target_std) + torch.tensor(card.target_mean)
    (output,) = run_onnx(path, input=x)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    content = path.read_bytes()
    assert b".py" not in content and str(Path.home()).encode() not in content, "no paths of this machine"


@needs_onnx
@pytest.mark.parametrize("links", ["some", "no loop"])
def test_onnx_of_a_recurrent_network_hands_its_state_on(tmp_path: Path, links: str) -> None:
    found = genes(Random(2), feed_forward=False, hidden=5)
    if links == "no loop":
        found["links"] = [link for link in found["links"] if link[1] < found["inputs"]]
    module = network.build(plan_of(found)).eval()
    path = export_onnx(module.plan, network.to_bytes(module), tmp_path / "net.onnx")
    inner = module.get_submodule("graph")
    assert isinstance(inner, GraphNetwork)
    state, x = torch.zeros(6, inner.size), inputs(4, 6, dtype=torch.float32)
    for expected in inner.sequence(torch.stack([x] * 4)).detach():
        output, state = run_onnx(path, input=x, state=state)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@needs_onnx
def test_onnx_of_a_layer_graph(tmp_path: Path) -> None:
    encoding = DagEncoding(DagSettings(), (1, 8, 8), 3)
    built = network.build(encoding.decode(encoding.random(Random(1), MarkBook())), seed=1).eval()
    path = export_onnx(built.plan, network.to_bytes(built), tmp_path / "net.onnx")
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    (output,) = run_onnx(path, input=x)
    torch.testing.assert_close(output, built(x).detach(), rtol=1e-4, atol=1e-5)


def test_without_the_extra_onnx_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evonas.phenotype.onnx.find_spec", lambda name: None)
    built = network.build(plan_of(XOR))
    with pytest.raises(RecipeError, match=r"need onnx and onnxscript: install evonas\[onnx\]"):
        export_onnx(built.plan, network.to_bytes(built), tmp_path / "net.onnx")
