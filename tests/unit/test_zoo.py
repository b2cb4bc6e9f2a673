"""The zoo: every genome is the published network, and founders enter a run with marks that mean one thing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evonas import encoding, estimate, task, zoo
from evonas import recipe as recipes
from evonas.core import DataError, Job, RecipeError, dumps
from evonas.encoding import genes
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.encoding.genes import DagGenome, EdgeGene, LayerGene
from evonas.marks import MarkBook
from evonas.phenotype import network

SHAPES = [((1, 28, 28), 10), ((3, 32, 32), 10), ((1, 8, 8), 10), ((3, 17, 5), 4), ((1, 1, 1), 2), ((13,), 3), ((1,), 1)]
GENOMES = Path(__file__).resolve().parents[2] / "genomes"


def space(input: tuple[int, ...], outputs: int) -> DagEncoding:
    return DagEncoding(DagSettings(), input, outputs)


def own_space(entry: zoo.Entry) -> DagEncoding:
    return space(entry.input, entry.outputs)


# -------------------------------------------------------------------------- the same networks, written by hand


def conv(channels: tuple[int, int], kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and batch norm."""
    layer = nn.Conv2d(*channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(channels[1])]


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for pair in ((3, 16), (16, 16)), ((16, 32), (32, 32)), ((32, 64), (64, 64)):
        for channels in pair:
            layers += [*conv(channels), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))


class Residual(nn.Module):
    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        stride = 1 if before == channels else 2
        self.branch = nn.Sequential(*conv((before, channels), 3, stride), nn.ReLU(), *conv((channels, channels)))
        self.shortcut = nn.Sequential(*conv((before, channels), 1, 2)) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.branch(x))


def resnet() -> nn.Module:
    channels = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Residual(*pair) for pair in pairwise(channels)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(*conv((3, 16)), nn.ReLU(), *blocks, *head)


def small_resnet() -> nn.Module:
    stem = (*conv((1, 16)), nn.ReLU(), nn.MaxPool2d(2))
    blocks = [Residual(*pair) for pair in pairwise((16, 16, 32, 64))]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Dense(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(*conv((channels + 12 * i, 12)), nn.ReLU()) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat((x, layer(x)), 1)
        return x


def densenet() -> nn.Module:
    layers: list[nn.Module] = [*conv((3, 24)), nn.ReLU(), Dense(24)]
    for before, after in ((72, 36), (84, 42)):
        layers += [*conv((before, after), 1), nn.ReLU(), nn.AvgPool2d(2), Dense(after)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(90, 10))


def mobilenet() -> nn.Module:
    layers: list[nn.Module] = [*conv((3, 16)), nn.ReLU()]
    for before, after in (16, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256):
        stride = 2 if (before, after) in ((32, 64), (64, 128), (128, 256)) else 1
        layers += [*conv((before, before), 3, stride, before), nn.ReLU(), *conv((before, after), 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


BY_HAND: dict[str, Callable[[], nn.Module]] = {
    "densenet-small": densenet, "lenet-5": lenet, "mlp": mlp, "mobilenet-small": mobilenet, "resnet-20": resnet,
    "resnet-8": small_resnet, "vgg-small": vgg,
}  # fmt: skip
CHAMPIONS = {
    "cartpole-champion": ({"kind": "cartpole", "test_episodes": 100}, "fitness", 500.0),
    "double-pole-champion": ({"kind": "double-pole"}, "steps", 100_000.0),
    "double-pole-no-velocity-champion": (
        {"kind": "double-pole", "velocities": False, "check": "always"}, "generalises", 414.0
    ),
    "lunar-lander-champion": (
        {"kind": "gymnasium", "environment": "LunarLander-v3", "max_steps": 500, "test_episodes": 20}, "fitness", 120.0
    ),
    "xor-champion": ({"kind": "xor"}, "fitness", 3.99),
}  # fmt: skip
"""Direct genomes that evonas evolved: the task that each solves, and a value that it reaches there."""
PUBLISHED = {"lenet-5": 61_706, "resnet-20": 272_474}
CELLS = {
    "amoebanet-a": (3_207_106, "3.2", "2.6"), "darts-v1": (3_169_414, "3.169414", ""),
    "darts-v2": (3_349_342, "3.349342", ""), "nasbench201-best-cifar10": (1_073_466, "1.073466", ""),
    "nasbench201-best-cifar100": (1_294_356, "1.294356", ""), "nasbench201-resnet": (559_386, "0.559386", ""),
    "nasnet-a": (3_328_234, "3.3", ""),
}  # fmt: skip
"""Cells: parameters at the width they were published with, the millions that are stated in print or by the authors'
code (DARTS' log, without its auxiliary head; NAS-Bench-201's table), and those stated for 32 channels."""


def flops(module: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(x)
    return int(counter.get_total_flops())


# ---------------------------------------------------------------------------------------------------------- genomes


def test_the_zoo_is_complete() -> None:
    assert zoo.names() == tuple(sorted((*BY_HAND, *CHAMPIONS, *CELLS)))
    readme = (GENOMES / "README.md").read_text()
    for entry in zoo.entries():
        assert f"| `{entry.name}` |" in readme and f"| {entry.params:,} |" in readme


@pytest.mark.parametrize("name", CHAMPIONS)
def test_a_champion_solves_its_task(name: str) -> None:
    settings, value, reached = CHAMPIONS[name]
    if settings["kind"] == "gymnasium":
        pytest.importorskip("Box2D", reason="needs the extra evonas[control]")
    entry = zoo.entry(name)
    recipe = {
        "task": settings, "objectives": ["fitness"], "encoding": {"kind": "neat", "feed_forward": False},
        "strategy": {"kind": "neat"}, "estimator": {"kind": "population", "threads": 1},
    }  # fmt: skip
    if entry.genome["feed_forward"]:
        recipe["encoding"] = {"kind": "neat"}
    read = recipes.from_json(recipe)
    shape = task.build(read.task).shape()
    assert (shape.input, shape.outputs) == (entry.input, entry.outputs)
    space = encoding.build(read.encoding, shape.input, shape.outputs)
    genome = zoo.load(name, space)
    plan = space.decode(genome)
    assert (plan.params, plan.flops) == (entry.params, entry.flops)
    estimator = estimate.build(read.model_dump(mode="json"), final=True)
    outcome = estimator.estimate(Job(0, 1, space.to_json(genome)))
    assert outcome.estimate.values[value] >= reached


@pytest.mark.parametrize("name", BY_HAND)
def test_a_genome_is_the_network_written_by_hand(name: str) -> None:
    """Parameters, FLOPs and, with the same weights, outputs."""
    entry = zoo.entry(name)
    encoding = own_space(entry)
    plan = encoding.decode(zoo.load(name, encoding))  # type: ignore[arg-type]
    by_hand, decoded = BY_HAND[name]().eval(), network.build(plan, seed=1).eval()
    count = sum(p.numel() for p in by_hand.parameters())
    x = torch.randn(2, *entry.input, generator=torch.Generator().manual_seed(0))
    assert (entry.params, entry.flops) == (count, flops(by_hand, x) // 2)
    assert (plan.params, plan.flops) == (entry.params, entry.flops)
    assert count == PUBLISHED.get(name, count)
    # both list their tensors from input to output, a residual block its branch first
    theirs, ours = by_hand.state_dict(), decoded.state_dict()
    if name.startswith("resnet"):
        ours = {key: ours[key] for key in _branch_first(list(ours))}
    assert [t.shape for t in theirs.values()] == [t.shape for t in ours.values()]
    by_hand.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    torch.testing.assert_close(decoded(x), by_hand(x))


@pytest.mark.parametrize("name", CELLS)
def test_cells_have_the_parameters_that_were_published(name: str) -> None:
    """As whole networks, to every digit that is stated; torch counts the same."""
    params, stated, narrow = CELLS[name]
    entry, genome, plan = zoo.decoded(name)
    assert (plan.params, plan.flops) == (entry.params, entry.flops) == (params, entry.flops)
    assert sum(p.numel() for p in network.build(plan, None, "meta").parameters()) == params
    assert f"{params / 1e6:.{len(stated) - 2}f}" == stated
    if narrow:
        settings = {**entry.settings, "skeleton": {"channels": 32}}
        space = encoding.build(encoding.TABLE["cell"].model_validate(settings), entry.input, entry.outputs)
        assert f"{space.decode(genome).params / 1e6:.1f}" == narrow


def test_cells_as_darts_lists_them_have_the_parameters_it_states() -> None:
    """Liu et al. 2019, table 1: NASNet-A built by their code, whose cells join the nodes that none reads: 3.1M."""
    entry, genome, _ = zoo.decoded("nasnet-a")
    settings = {**entry.settings, "output": "loose"}
    space = encoding.build(encoding.TABLE["cell"].model_validate(settings), entry.input, entry.outputs)
    assert space.decode(genome).params == 3_061_738


def test_cells_keep_their_marks_in_a_run() -> None:
    founders = [zoo.decoded(name)[1] for name in ("darts-v1", "darts-v2")]
    assert zoo.enrol(founders, MarkBook()) == tuple(founders)


def _branch_first(names: list[str]) -> list[str]:
    """Names in genome order by mark, except that the output's come last."""
    return sorted(names, key=lambda name: (name.startswith("layer1."), int(name.split(".")[0][5:])))


@pytest.mark.parametrize("name", BY_HAND)
def test_a_genome_learns_and_survives_json(name: str) -> None:
    entry = zoo.entry(name)
    encoding = own_space(entry)
    genome = zoo.load(name, encoding)
    assert isinstance(genome, DagGenome)
    assert encoding.from_json(json.loads(dumps(encoding.to_json(genome)))) == genome
    assert entry.genome == encoding.to_json(genome)
    module = network.build(encoding.decode(genome), seed=1)
    module(torch.randn(4, *entry.input)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
@pytest.mark.parametrize("name", BY_HAND)
def test_a_genome_decodes_for_any_task(name: str, shape: tuple[int, ...], outputs: int) -> None:
    encoding = space(shape, outputs)
    plan = encoding.decode(zoo.load(name, encoding))  # type: ignore[arg-type]
    module = network.build(plan, seed=1).eval()
    assert sum(p.numel() for p in module.parameters()) == plan.params
    assert module(torch.randn(2, *shape)).shape == (2, outputs)


# ------------------------------------------------------------------------------------------------------------ files


def test_a_file_is_read_with_or_without_what_is_told_about_it(tmp_path: Path) -> None:
    encoding = space((1, 28, 28), 10)
    genome = zoo.load("lenet-5", encoding)
    told, bare = tmp_path / "told.json", tmp_path / "bare"
    shutil.copy(GENOMES / "lenet-5.json", told)
    bare.write_text(dumps(encoding.to_json(genome)))  # type: ignore[arg-type]
    assert zoo.load(told, encoding) == zoo.load(str(bare), encoding) == genome


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no genome 'lenet5' .*did you mean 'lenet-5'\? known: amoebanet"):
        zoo.load("lenet5", space((1, 28, 28), 10))
    with pytest.raises(RecipeError, match=r"cannot read the genome file .*nowhere\.json: No such file.*zoo: amoeba"):
        zoo.load("nowhere.json", space((1, 28, 28), 10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "encoding is 'list'"),
        (b'{"genome": 3}', "encoding is 'int'"),
        (b'{"encoding": "dag", "format": 1, "layers": [], "edges": []}', "input .0. and the output"),
        (b" " * (zoo.MAX_BYTES + 1), "too many for a genome"),
    ],
    ids=["empty", "binary", "deep", "list", "number", "layers", "huge"],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.json: .*{message}"):
        zoo.load(path, space((1, 28, 28), 10))


def test_an_installed_wheel_finds_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a wheel the genomes lie in the package, and a folder `genomes` beside it belongs to somebody else."""
    package = tmp_path / "evonas"
    shutil.copytree(GENOMES, package / "genomes")
    (tmp_path / "genomes").mkdir()
    monkeypatch.setattr(zoo, "files", lambda name: tmp_path / name)
    assert zoo.names() == tuple(sorted((*BY_HAND, *CHAMPIONS, *CELLS)))
    shutil.rmtree(package)
    package.mkdir()
    assert zoo.names() == ()


# ------------------------------------------------------------------------------------------------------------ marks


def founders(*names: str) -> list[DagGenome]:
    loaded = [zoo.load(name, space((3, 32, 32), 10)) for name in names]
    return [genome for genome in loaded if isinstance(genome, DagGenome)]


def path(genome: DagGenome) -> list[tuple[int, str]]:
    """Marks and operations of a chain from input to output."""
    return [(mark, genome.layer[mark].op) for mark in genome.live]


def test_founders_share_marks_until_they_part() -> None:
    lenet, vgg, resnet, again = zoo.enrol(founders("lenet-5", "vgg-small", "resnet-20", "lenet-5"), MarkBook())
    assert again == lenet
    assert lenet.marks & vgg.marks == {0, 1, 2, lenet.incoming[2][0].mark}
    # the second convolution of VGG is where the first residual block begins
    shared = [mark for mark in vgg.live if mark in resnet.layer]
    assert [vgg.layer[mark].op for mark in shared] == ["input", "conv", "conv", "output"]
    ends = {edge.mark: (edge.source, edge.target) for genome in (lenet, vgg, resnet) for edge in genome.edges}
    assert len(set(ends.values())) == len(ends)


@pytest.mark.parametrize("name", BY_HAND)
def test_enrolled_founders_compute_what_they_did(name: str) -> None:
    book = MarkBook()
    encoding = space((3, 16, 16), 10)
    rng = Random(1)
    random = [encoding.random(rng, book) for _ in range(20)]
    (genome,) = founders(name)
    first, *_, last = zoo.enrol([genome, *random, *founders(*BY_HAND), genome], book)
    assert first == last
    genes.check(first)
    before, after = encoding.decode(genome), encoding.decode(first)
    assert [step.op for step in before.steps] == [step.op for step in after.steps]
    module, enrolled = network.build(before, seed=1), network.build(after)
    tensors = dict(zip(enrolled.state_dict(), module.state_dict().values(), strict=True))
    network.load(enrolled, tensors)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(module.eval()(x), enrolled.eval()(x))
    # genes that are born later get marks of their own
    assert book.free > max(first.marks)


def test_enrolling_again_gives_the_same_marks() -> None:
    book = MarkBook()
    once = zoo.enrol(founders(*BY_HAND), book)
    free = book.free
    assert zoo.enrol(founders(*BY_HAND), book) == once
    assert book.free == free


def chain_and(*edges: tuple[int, int, int]) -> DagGenome:
    """Two parallel convolutions (2, 3) with edges as told."""
    layers = (LayerGene(0, "input"), LayerGene(1, "output", merge="concat"),
              LayerGene(2, "conv", channels=2), LayerGene(3, "max_pool", kernel=3))  # fmt: skip
    return DagGenome.of(layers, [EdgeGene(*edge) for edge in edges])


def test_the_order_of_inputs_is_kept_where_marks_would_turn_it() -> None:
    one = chain_and((4, 0, 2), (5, 0, 3), (6, 2, 1), (7, 3, 1))
    other = chain_and((4, 0, 2), (5, 0, 3), (6, 3, 1), (7, 2, 1))
    first, second = zoo.enrol([one, other], MarkBook())
    assert [first.layer[edge.source].op for edge in first.incoming[1]] == ["conv", "max_pool"]
    assert [second.layer[edge.source].op for edge in second.incoming[1]] == ["max_pool", "conv"]
    assert first.marks & second.marks == {0, 1}


def test_an_order_that_cannot_be_kept_is_refused() -> None:
    direct_first = chain_and((30, 0, 1), (31, 0, 2), (32, 0, 3), (33, 2, 1), (34, 3, 1))
    direct_last = chain_and((31, 0, 2), (32, 0, 3), (33, 2, 1), (34, 3, 1), (35, 0, 1))
    with pytest.raises(DataError, match="give it the lowest edge mark"):
        zoo.enrol([direct_first, direct_last], MarkBook())
