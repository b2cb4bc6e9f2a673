"""The exported file computes what the network did, without evonas, and nothing hostile gets into its code."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evonas import zoo
from evonas.core import DataError, RecipeError, StorageError
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.encoding.genes import Activation, DagGenome, EdgeGene, LayerGene, LayerOp, Norm
from evonas.encoding.plan import Plan, Step, StepOp
from evonas.marks import MarkBook
from evonas.phenotype import network
from evonas.phenotype.export import Card, export_module, module_files
from evonas.phenotype.graph import GraphNetwork
from tests.unit.plain_genes import XOR, genes, plan_of

SHAPES = [(1, 28, 28), (3, 17, 5), (2, 1, 9), (13,), (4, 8, 8), (1,)]
HOSTILE = '"""\nimport os\nos.system("touch pwned")\n"""\\ {os} %s \u202e $x'

CHILD = """
import sys, importlib.util, pathlib, torch
from safetensors.torch import load_file

class Blocked:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == "evonas":
            raise ImportError("evonas is not here")

sys.meta_path.insert(0, Blocked())
torch.set_num_threads(1)
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    expected = load_file(path.with_suffix(".expected"))
    with torch.no_grad():
        output = module.load()(expected["x"].clone())  # in a file tensors begin anywhere, and MKL adds up accordingly
    print(path.stem, torch.equal(output, expected["y"]))
assert "evonas" not in sys.modules
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in another order give other last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(plan: Plan, seed: int = 1) -> nn.Module:
    """A network whose running statistics are not those of a new one."""
    module: nn.Module = network.build(plan, seed=seed).eval()
    draw = torch.Generator().manual_seed(seed)
    for name, value in module.named_buffers():
        if name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=draw))
        elif name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=draw) + 0.5)
    return module


def exported(plan: Plan, folder: Path, name: str) -> None:
    """Exports a network, and beside it an input with the output it should give."""
    module = trained(plan)
    x = torch.randn(3, *plan.steps[0].shape, generator=torch.Generator().manual_seed(7))
    (path, *_) = export_module(plan, network.to_bytes(module), folder, name)
    with torch.no_grad():
        save_file({"x": x, "y": module(x)}, path.with_suffix(".expected"))


def assert_equal_without_evonas(folder: Path, count: int) -> None:
    result = subprocess.run(
        [sys.executable, "-I", "-c", CHILD, str(folder)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == count
    assert [line for line in lines if not line.endswith(" True")] == []


def imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def decoded(genome: Any, shape: tuple[int, ...], outputs: int = 3) -> Plan:
    return DagEncoding(DagSettings(), shape, outputs).decode(genome)


# ------------------------------------------------------------------------------------------------- the same outputs


def test_every_zoo_genome_computes_the_same(tmp_path: Path) -> None:
    layered = [entry for entry in zoo.entries() if entry.genome["encoding"] == "dag"]
    for entry in layered:
        encoding = DagEncoding(DagSettings(), entry.input, entry.outputs)
        genome = zoo.load(entry.name, encoding)
        exported(decoded(genome, entry.input, entry.outputs), tmp_path, entry.name)
        exported(decoded(genome, (2, 7, 11)), tmp_path, f"{entry.name}-odd")
    assert_equal_without_evonas(tmp_path, 2 * len(layered))


def test_direct_genomes_compute_the_same(tmp_path: Path) -> None:
    for seed in range(6):
        found = genes(Random(seed), hidden=4 * seed, feed_forward=seed % 2 == 0)
        exported(plan_of({**found, "activations": 1 + seed % 3}), tmp_path, f"direct-{seed}")
    assert_equal_without_evonas(tmp_path, 6)


def test_an_exported_recurrent_network_steps_through_an_episode(tmp_path: Path) -> None:
    found = genes(Random(2), outputs=1, feed_forward=False)
    plan = plan_of(found)
    card = Card("control", mean=(1.0, 0.0, 0.0), std=(2.0, 1.0, 1.0))
    (path, *_) = export_module(plan, network.to_bytes(network.build(plan)), tmp_path, "walker", card)
    loaded = imported(path).load()
    x = torch.randn(3, 1, 3, generator=torch.Generator().manual_seed(1))
    expected = GraphNetwork(found).sequence((x - torch.tensor(card.mean)) / torch.tensor(card.std))
    for _ in range(2):
        assert all(torch.equal(loaded.step(now), then) for now, then in zip(x, expected, strict=True))
        loaded.reset()
    assert "a network for control" in path.read_text()


def test_a_single_output_is_a_value_not_a_class(tmp_path: Path) -> None:
    plan = plan_of(XOR)
    (path, *_) = export_module(plan, network.to_bytes(network.build(plan)), tmp_path, "xor", Card("classification"))
    assert imported(path).load().predict([[0.0, 1.0]]).shape == (1, 1)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("nodes", 0, 3), HOSTILE), (("nodes", 0, 4), "sum'"), (("nodes", 0, 0), "2"), (("nodes", 0, 1), HOSTILE),
        (("links", 0, 3), float("nan")), (("links", 0, 1), True), (("inputs",), HOSTILE), (("activations",), -1),
    ],
)  # fmt: skip
def test_hostile_genes_are_refused(where: tuple[Any, ...], value: object) -> None:
    broken = json.loads(json.dumps(XOR))
    inner: Any = broken
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    good = plan_of(XOR)
    hostile = Plan((good.steps[0], good.steps[1]._replace(settings=broken)))
    with pytest.raises(DataError, match="export: "):
        module_files(hostile, network.to_bytes(network.build(good)), "xor")


def test_random_genomes_compute_the_same(tmp_path: Path) -> None:
    settings = DagSettings(
        activations=get_args(Activation), norms=get_args(Norm), reduces=("mean", "flatten"), dilations=(1, 2),
        ops=get_args(LayerOp), kernels=(1, 3, 5), pool_kernels=(2, 3, 4), channels=(4, 6, 9), initial_layers=(2, 6),
    )  # fmt: skip
    ops: set[str] = set()
    for seed in range(60):
        shape = SHAPES[seed % len(SHAPES)]
        encoding, rng, book = DagEncoding(settings, shape, 4), Random(seed), MarkBook()
        genome = encoding.random(rng, book)
        for _ in range(seed):
            child = encoding.mutate(genome, rng, book)
            genome = child[0] if child else genome
        plan = encoding.decode(genome)
        ops.update(step.op for step in plan.steps)
        exported(plan, tmp_path, f"random-{seed}")
    assert ops == set(get_args(StepOp)) - {"graph", "shift", "zero"}  # the latter are of cells: test_cell.py
    assert_equal_without_evonas(tmp_path, 60)


def test_many_inputs_of_one_layer_compute_the_same(tmp_path: Path) -> None:
    """Lines of code that are broken, and a sum that is written into what takes it."""
    layers = [LayerGene(0, "input"), *[LayerGene(m, "conv", channels=3) for m in range(2, 32)]]
    edges = [EdgeGene(100 + m, 0, m) for m in range(2, 32)] + [EdgeGene(200 + m, m, 1) for m in range(2, 32)]
    for merge, reduce in ("sum", "mean"), ("sum", "flatten"), ("concat", "mean"), ("concat", "flatten"):
        for count in 3, 30:
            kept = [edge for edge in edges if max(edge.source, edge.target if edge.target > 1 else 0) < count + 2]
            output = LayerGene(1, "output", merge=merge, reduce=reduce)
            genome = DagGenome.of([*layers[: count + 1], output], kept)
            exported(decoded(genome, (2, 5, 5)), tmp_path, f"{merge}-{reduce}-{count}")
    assert_equal_without_evonas(tmp_path, 8)
    for path in tmp_path.glob("*.py"):
        assert max(map(len, path.read_text().splitlines())) <= 120


def test_a_plan_that_no_genome_gives_keeps_the_order_of_its_sums_and_its_variables(tmp_path: Path) -> None:
    """Two tensors of one gene alive at once, and a sum within a sum."""
    identity = {"norm": "none", "activation": "relu"}
    plan = Plan((
        Step("layer0", "input", (), (4,)),
        Step("edge5", "identity", (0,), (4,), {"norm": "none", "activation": "tanh"}),
        Step("layer3_merge", "identity", (0,), (4,), identity),
        Step("layer3", "identity", (1,), (4,), identity),
        Step("layer4_merge", "sum", (2, 3), (4,)),
        Step("layer4", "sum", (1, 4), (4,)),
        Step("layer6", "identity", (5,), (4,), {"norm": "none", "activation": "linear"}),
        Step("layer1", "sum", (2, 6, 3), (4,)),
    ))  # fmt: skip
    exported(plan, tmp_path, "made")
    assert_equal_without_evonas(tmp_path, 1)


# ---------------------------------------------------------------------------------------------------- a file to use


def digits(card: Card, folder: Path, outputs: int = 3) -> tuple[Any, nn.Module]:
    genome = zoo.load("lenet-5", DagEncoding(DagSettings(), (1, 8, 8), outputs))
    plan = decoded(genome, (1, 8, 8), outputs)
    module = trained(plan)
    (path, *_) = export_module(plan, network.to_bytes(module), folder, "digits-7", card)
    return imported(path), module


def test_a_classifier_predicts_from_inputs_as_they_are_in_the_data(tmp_path: Path) -> None:
    facts: dict[str, str | float] = {"run": "digits", "params": 1234567.0, "error": 0.0512345678}
    card = Card(mean=[5.0], std=[2.0], labels=["zero", 'o"ne', "two"], facts=facts)
    file, module = digits(card, tmp_path)
    assert file.LABELS == ("zero", 'o"ne', "two") and file.INPUT_SHAPE == (1, 8, 8)
    assert "- run: digits\n- params: 1234567\n- error: 0.0512346\n" in file.__doc__
    assert "from digits_7 import load" in file.__doc__
    loaded: Any = file.load()
    assert not loaded.training
    assert list(loaded.state_dict()) == list(module.state_dict())
    pixels = torch.randint(0, 17, (5, 1, 8, 8), dtype=torch.uint8)
    classes, probabilities = loaded.predict(pixels.numpy())
    expected = module((pixels.float() - 5) / 2).softmax(1)
    assert torch.equal(probabilities, expected) and torch.equal(classes, expected.argmax(1))
    assert loaded.double().mean.dtype == torch.float64


def test_a_regression_predicts_values_in_their_own_units(tmp_path: Path) -> None:
    card = Card(kind="regression", target_mean=[10.0, 20.0], target_std=[3.0, 4.0])
    file, module = digits(card, tmp_path, outputs=2)
    x = torch.randn(5, 1, 8, 8)
    expected = module(x) * torch.tensor([3.0, 4.0]) + torch.tensor([10.0, 20.0])
    assert torch.equal(file.load().predict(x), expected)


def test_the_genome_lies_beside_and_is_read_again(tmp_path: Path) -> None:
    encoding = DagEncoding(DagSettings(), (30,), 2)
    genome = zoo.load("mlp", encoding)
    plan, card = decoded(genome, (30,), 2), Card(genome=zoo.entry("mlp").genome)
    paths = export_module(plan, network.to_bytes(trained(plan)), tmp_path / "new" / "folder", "mlp", card)
    assert [path.name for path in paths] == ["mlp.py", "mlp.safetensors", "mlp.genome.json"]
    assert zoo.load(paths[2], encoding) == genome
    assert sorted(tmp_path.rglob("*.*")) == sorted(paths)


def test_the_file_runs_by_itself(tmp_path: Path) -> None:
    digits(Card(mean=[0.5], std=[0.5]), tmp_path)
    command = [sys.executable, "-I", str(tmp_path / "digits_7.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("parameters: ") and "output of an input of zeros" in result.stdout


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("lenet-5", "lenet_5"), ("7", "network_7"), ("class", "class_network"), ("Torch", "Torch_network"),
        ("../../etc/passwd", "etc_passwd"), ("a" * 200, "a" * 64), ("é x", "x"),
    ],
)  # fmt: skip
def test_names_become_module_names(name: str, module: str) -> None:
    plan = Plan((Step("layer0", "input", (), (4,)), Step("layer1", "sum", (0, 0), (4,))))
    assert list(module_files(plan, network.to_bytes(trained(plan)), name)) == [f"{module}.py", f"{module}.safetensors"]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    plan = Plan((Step("layer0", "input", (), (4,)), Step("layer1", "sum", (0, 0), (4,))))
    weights = network.to_bytes(trained(plan))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file/x\.py: .*; choose another folder"):
        export_module(plan, weights, tmp_path / "file", "x")
    (tmp_path / "x.py").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*x\.py"):
        export_module(plan, weights, tmp_path, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "x.py"]
    with pytest.raises(RecipeError, match=r"the name '\.\./\.\.' has no letter or digit"):
        export_module(plan, weights, tmp_path, "../..")


# ---------------------------------------------------------------------------------------------------- hostile input

CONV = {
    "in_channels": 1, "channels": 2, "kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1),
    "groups": 1, "bias": True, "norm": "none", "activation": "relu",
}  # fmt: skip


def small(step: Step | None = None) -> Plan:
    step = step or Step("layer2", "conv", (0,), (2, 4, 4), CONV, 20, 288)
    return Plan((Step("layer0", "input", (), (1, 4, 4)), step, Step("layer1", "global_pool", (1,), (2,))))


def structure(files: dict[str, bytes]) -> str:
    """The syntax of the Python file without the values of its literals."""
    (source,) = (content.decode() for name, content in files.items() if name.endswith(".py"))
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value, node.kind = None, None
    return ast.dump(tree)


def test_hostile_names_labels_and_facts_stay_text(tmp_path: Path) -> None:
    weights = network.to_bytes(trained(small()))
    calm = Card(labels=["a", "b"], facts={"a": "b"}, genome={"a": 1})
    hostile = Card(labels=[HOSTILE, "\ud800"], facts={HOSTILE: HOSTILE}, genome={HOSTILE: 1})
    files = module_files(small(), weights, HOSTILE, hostile)
    assert structure(files) == structure(module_files(small(), weights, "calm", calm))
    assert all(name.replace("_", "").replace(".", "").isalnum() for name in files)
    (path, *_) = export_module(small(), weights, tmp_path, HOSTILE, hostile)
    assert imported(path).LABELS == (HOSTILE, "\ud800")
    assert json.loads(files[f"{path.stem}.genome.json"]) == {HOSTILE: 1}


@pytest.mark.parametrize(
    "step",
    [
        Step("layer2 = os", "conv", (0,), (2, 4, 4), CONV),
        Step("layer2\n", "conv", (0,), (2, 4, 4), CONV),
        Step("layer٢", "conv", (0,), (2, 4, 4), CONV),
        Step("__init__", "conv", (0,), (2, 4, 4), CONV),
        Step("layer0", "conv", (0,), (2, 4, 4), CONV),
        Step("layer2", "exec", (0,), (2, 4, 4), CONV),  # type: ignore[arg-type]
        Step("layer2", "conv", (1,), (2, 4, 4), CONV),
        Step("layer2", "conv", (-1,), (2, 4, 4), CONV),
        Step("layer2", "conv", ("0",), (2, 4, 4), CONV),  # type: ignore[arg-type]
        *(Step("layer2", "conv", (0,), (2, 4, 4), {**CONV, key: "__import__('os')"}) for key in CONV if key != "bias"),
        Step("layer2", "conv", (0,), (2, 4, 4), {**CONV, "channels": True}),
        Step("layer2", "conv", (0,), (2, 4, 4), {**CONV, "kernel": (3, -3)}),
        Step("layer2", "dropout", (0,), (1, 4, 4), {"rate": "__import__('os')"}),
        Step("layer2", "dropout", (0,), (1, 4, 4), {"rate": float("nan")}),
        Step("layer2", "conv", (0,), ("2)", 4, 4), {**CONV, "norm": "batch"}),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_impossible_plans_are_refused(step: Step) -> None:
    with pytest.raises(DataError, match="export: "):
        module_files(small(step), b"", "x")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (Card(mean=[1.0, 2.0], std=[1.0, 2.0]), "mean has 2 numbers, expected 1 or none"),
        (Card(mean=[1.0]), "both or not at all"),
        (Card(mean=[float("inf")], std=[1.0]), "'inf' is no finite number"),
        (Card(mean=["os.system"], std=[1.0]), "'os.system' is no finite number"),  # type: ignore[list-item]
        (Card(target_std=[1.0]), "target_std has 1 numbers, expected 2 or none"),
    ],
)
def test_impossible_cards_are_refused(card: Card, message: str) -> None:
    with pytest.raises(DataError, match=message):
        module_files(small(), network.to_bytes(trained(small())), "x", card)


@pytest.mark.parametrize("weights", [b"", b"not safetensors", None])
def test_weights_of_another_network_are_refused(weights: bytes | None) -> None:
    other: Sequence[Step] = small(Step("layer2", "conv", (0,), (3, 4, 4), {**CONV, "channels": 3})).steps
    content = network.to_bytes(network.build(Plan(tuple(other)), seed=1)) if weights is None else weights
    with pytest.raises(DataError, match="weights: "):
        module_files(small(), content, "x")
