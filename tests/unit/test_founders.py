"""What a search may begin from: the zoo, files, modules and runs; their weights; and what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import evonas
from evonas import imported, pool, zoo
from evonas import recipe as recipes
from evonas import run as engine
from evonas.core import DataError, Estimate, EvonasError, Individual, Outcome, RecipeError
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.encoding.genes import DagGenome, EdgeGene, LayerGene
from evonas.founders import Founder, Reader, Settled, settled_weights
from evonas.marks import MarkBook
from evonas.phenotype import network
from evonas.preview import preview
from evonas.store import Store
from tests.unit.test_zoo import BY_HAND, chain_and

SHAPE = (1, 8, 8)
MODULES = """
import random
import torch
from torch import nn

def plain():
    return nn.Sequential(nn.Conv2d(1, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(6, 10))

class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(*plain())

made = plain()
few = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
normed = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 10), nn.Softmax(1))
number = lambda: 3
broken = lambda: 1 / 0
"""
RECIPE: dict[str, Any] = {
    "name": "small",
    "task": {"kind": "digits", "limit": 200},
    "objectives": ["error", "params"],
    "strategy": {"kind": "nsga2", "population": 3, "generations": 2},
    "estimator": {"kind": "train", "epochs": 1},
    "pool": {"kind": "serial"},
}


def recipe(**sections: Any) -> dict[str, Any]:
    """The recipe with other values in its sections."""
    changed = {name: {**RECIPE.get(name, {}), **value} if isinstance(value, dict) else value
               for name, value in sections.items()}  # fmt: skip
    return {**RECIPE, **changed}


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(MODULES)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run."""
    folder = tmp_path_factory.mktemp("runs")
    evonas.start(RECIPE, runs=folder).close()
    return folder


def space(shape: tuple[int, ...] = SHAPE, outputs: int = 10) -> DagEncoding:
    return DagEncoding(DagSettings(), shape, outputs)


def reader(runs: Path, weights: bool = True, seed: int = 0, **changes: Any) -> Reader:
    """A reader for the task of `RECIPE`."""
    given = {"encoding": space(), "task": recipes.read(RECIPE).task.model_dump(mode="json")}
    return Reader(**{**given, "runs": runs, "seed": seed, "weights": weights, **changes})


def outputs(genome: Any, weights: bytes, x: torch.Tensor) -> torch.Tensor:
    built = network.build(space().decode(genome))
    network.load(built, network.from_bytes(weights))
    found: torch.Tensor = built.eval()(x)
    return found


# -------------------------------------------------------------------------------------------------------- each entry


def test_zoo_and_files_bring_genomes_alone(tmp_path: Path) -> None:
    lenet = zoo.load("lenet-5", space())
    (tmp_path / "mine.json").write_text(json.dumps(space().to_json(lenet)))  # type: ignore[arg-type]
    read = reader(tmp_path)
    assert read.read("lenet-5") == (Founder("lenet-5", lenet),)
    assert read.read(str(tmp_path / "mine.json"))[0].genome == lenet


@pytest.mark.parametrize("name", ["plain", "Plain", "made"])
def test_a_module_brings_its_layers_and_weights(modules: Path, tmp_path: Path, name: str) -> None:
    """A function that gives one, a class, or a module itself."""
    (founder,) = reader(tmp_path).read(f"{modules}:{name}")
    assert isinstance(founder.genome, DagGenome) and founder.weights is not None
    assert [gene.op for gene in founder.genome.layers] == ["input", "output", "conv"]
    (again,) = reader(tmp_path).read(f"{modules}:{name}")
    assert again == founder, "what a module draws is named by the recipe's seed"
    (bare,) = reader(tmp_path, weights=False).read(f"{modules}:{name}")
    assert bare == Founder(founder.source, founder.genome)


def test_another_seed_draws_other_weights_and_leaves_the_global_streams(modules: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    first, second = (reader(tmp_path, seed=seed).read(f"{modules}:plain")[0] for seed in (1, 2))
    assert first.genome == second.genome and first.weights != second.weights
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_run_brings_its_front_with_the_weights_of_the_search(runs: Path) -> None:
    run = evonas.open(runs / "small")
    front = run.store.front()
    founders = reader(runs).read("run:small")
    assert [one.source for one in founders] == [f"run:small/{id}" for id in front]
    for one, id in zip(founders, front, strict=True):
        found = run.estimate(id)
        assert one.genome == run.genome(id) and found is not None and found.weights is not None
        assert one.weights == run.store.weights(found.weights)
    (single,) = reader(runs).read(f"run:small/{front[-1]}")
    assert single == founders[-1]
    for entry in (f"run:{runs}/small", f"run:{runs / 'small'}/{front[-1]}"):
        assert reader(Path("elsewhere")).read(entry)[-1].weights == single.weights
    assert all(one.weights is None for one in reader(runs, weights=False).read("run:small"))


def test_a_last_training_does_not_count(runs: Path, tmp_path: Path) -> None:
    """It has seen the rows by which the search judges."""
    shutil.copytree(runs / "small", tmp_path / "small")
    before = reader(tmp_path).read("run:small")
    evonas.test(tmp_path / "small", pick=1).close()
    assert reader(tmp_path).read("run:small") == before


# ------------------------------------------------------------------------------------------------------------ marks


def lively(genome: DagGenome, encoding: DagEncoding) -> bytes:
    built = network.build(encoding.decode(genome), seed=1)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in built.state_dict().values():
            if value.dim() == 1 and value.is_floating_point():
                value.copy_(0.5 + torch.rand(value.shape, generator=source))
    return network.to_bytes(built, {"momentum_buffer": dict(built.named_parameters())})


@pytest.mark.parametrize("name", BY_HAND)
def test_weights_follow_their_genes_into_the_run(name: str) -> None:
    """Enrolling gives genes the run's marks; the network computes what it did, bit for bit."""
    encoding, book, rng = space((3, 16, 16)), MarkBook(), Random(3)
    for _ in range(10):
        encoding.random(rng, book)
    genomes = [genome for one in BY_HAND if isinstance(genome := zoo.load(one, encoding), DagGenome)]
    enrolled = zoo.enrol(genomes, book)
    at = list(BY_HAND).index(name)
    founder = Founder(name, genomes[at], lively(genomes[at], encoding))
    weights = settled_weights(founder, enrolled[at], encoding)
    assert founder.weights is not None and weights is not None
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    before, after = network.build(encoding.decode(genomes[at])), network.build(encoding.decode(enrolled[at]))  # type: ignore[arg-type]
    network.load(before, network.from_bytes(founder.weights))
    network.load(after, network.from_bytes(weights))
    assert torch.equal(before.eval()(x), after.eval()(x))
    moments = network.parts_from_bytes(weights)[1]["momentum_buffer"]
    assert all(torch.equal(moments[key], value) for key, value in after.named_parameters())


def test_marks_of_layers_and_edges_follow_side_by_side() -> None:
    founder = chain_and((34, 0, 2), (35, 0, 3), (36, 2, 1), (37, 3, 1))
    (enrolled,) = zoo.enrol([founder], MarkBook())
    marks = zoo.renamed(founder, enrolled)  # type: ignore[arg-type]
    assert set(marks) == founder.marks and set(marks.values()) == enrolled.marks  # type: ignore[attr-defined]
    for mark in (2, 3):
        assert enrolled.layer[marks[mark]].op == founder.layer[mark].op  # type: ignore[attr-defined]


LAYERS = (LayerGene(0, "input"), LayerGene(1, "output"), LayerGene(2, "conv", channels=2))
PROJECTED = DagGenome.of(LAYERS, [EdgeGene(24, 0, 2), EdgeGene(25, 2, 1), EdgeGene(26, 0, 1)])
"""A sum of the image and of two channels: the edge with the higher mark projects."""


def test_projections_on_edges_keep_their_weights() -> None:
    genome = PROJECTED
    founder = Founder("mine", genome, lively(genome, space()))
    (enrolled,) = zoo.enrol([genome], MarkBook())
    weights = settled_weights(founder, enrolled, space())
    assert founder.weights is not None and weights is not None
    assert {key.partition(".")[0] for key in network.from_bytes(weights)} > {"layer1"}
    assert any(key.startswith("edge") for key in network.from_bytes(weights))
    x = torch.randn(3, *SHAPE)
    assert torch.equal(outputs(genome, founder.weights, x), outputs(enrolled, weights, x))


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("run:smal", r"'run:smal': no run 'smal' in .*; did you mean 'small'\? known: small"),
        ("run:./nowhere", r"no run in nowhere: write run:./path/to/run"),
        ("run:small/999", r"'run:small/999': no individual 999 in small: the highest id is"),
        ("{file}:missing", r"'.*nets.py' has no 'missing'; .*known: .*made"),
        ("{file}:number", r"number': it gives a int: name an nn.Module"),
        ("{file}:broken", r"broken': calling it without arguments failed: ZeroDivisionError: division by zero"),
        ("{file}:few", r"few': the module has 3 outputs, this task 10: give its last Linear 10"),
        (
            "{file}:normed",
            r"normed': Sequential cannot .* because of 1 \(LayerNorm\); 3 \(Softmax\); the output|normed",
        ),
        ("nope.py:net", r"'nope.py:net' cannot be imported"),
        ("nowhere", r"no genome 'nowhere' in the zoo"),
    ],
)
def test_what_does_not_fit_is_told(runs: Path, modules: Path, entry: str, message: str) -> None:
    with pytest.raises(EvonasError, match=message):
        reader(runs).read(entry.format(file=modules))


def test_a_run_of_another_shape_or_on_other_rows_is_refused(runs: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"take \[1, 8, 8\] and give 10 outputs, this task has \[3, 8, 8\] and 10: name"
    ):
        reader(runs, encoding=space((3, 8, 8))).read("run:small")
    task = recipes.read(RECIPE).task.model_dump(mode="json")
    with pytest.raises(RecipeError, match=r"know rows that are kept apart here, .*: set seed: 0 as there, or"):
        reader(runs, seed=5).read("run:small")
    with pytest.raises(RecipeError, match=r"set validation: 0.2, test: null as there"):
        reader(runs, task={**task, "validation": 0.5, "test": 20}).read("run:small")
    # other data, more training rows, no weights: nothing is known that should not be
    expected = reader(runs).read("run:small")
    for other in ({**task, "limit": None}, {**task, "kind": "wine"}):
        assert reader(runs, task=other).read("run:small") == expected
    assert reader(runs, seed=5, weights=False).read("run:small")


def test_weights_of_another_edge_norm_are_refused(tmp_path: Path) -> None:
    chosen = recipes.read(RECIPE)
    with Store.create(tmp_path / "own", chosen.model_dump(mode="json"), engine.about(chosen)) as store:
        store.lay([Individual(0, PROJECTED)])
        store.commit([Outcome(Estimate(0, "ok", {"error": 0.5, "params": 1}), lively(PROJECTED, space()))])
    assert reader(tmp_path).read("run:own/0")[0].weights is not None
    plain = DagEncoding(DagSettings(edge_norm="none"), SHAPE, 10)
    with pytest.raises(DataError, match=r"'run:own/0': .*missing edge26.conv.bias.*edge_norm and the data must be as"):
        reader(tmp_path, encoding=plain).read("run:own/0")
    with pytest.raises(RecipeError, match=r"'run:own': the run has no front yet: let it run first: evonas resume own"):
        reader(tmp_path).read("run:own")


def test_weights_that_were_not_kept_are_missed(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "small", tmp_path / "small")
    shutil.rmtree(tmp_path / "small" / "weights")
    (tmp_path / "small" / "weights").mkdir()
    with pytest.raises(RecipeError, match=r"weights of individual \d+ were not kept: name one of the front"):
        reader(tmp_path).read("run:small")


def test_a_front_larger_than_the_population_is_refused(runs: Path) -> None:
    small = recipe(encoding={"initial": ["run:small", "lenet-5", "vgg-small"]}, strategy={"population": 2})
    with pytest.raises(RecipeError, match=r"genomes do not fit a population of 2"):
        evonas.start(small, runs=runs, name="next")
    assert not (runs / "next").exists()


def test_a_module_is_no_direct_genome(tmp_path: Path) -> None:
    neat = recipe(encoding={"kind": "neat", "initial": ["json:loads"]})
    with pytest.raises(RecipeError, match="'json:loads': a module becomes a layer graph, not 'neat'"):
        evonas.start(neat, runs=tmp_path)


def test_paths_are_taken_from_the_recipe_s_folder(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(MODULES)
    entries = ["nets.py:made", "run:./runs/small", "run:small/3", "mine.json", "lenet-5", "json:loads"]
    text = json.dumps(recipe(encoding={"initial": entries}, strategy={"population": 9}))
    (tmp_path / "recipe.yaml").write_text(text)
    assert recipes.read(tmp_path / "recipe.yaml").encoding.initial == (
        f"{tmp_path}/nets.py:made", f"run:{tmp_path}/runs/small", "run:small/3", f"{tmp_path}/mine.json", "lenet-5",
        "json:loads",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- in a search

INHERIT = {"epochs": 1, "inherit": {"kind": "weights", "lr": 1e-9, "moments": False}}


def test_a_search_begins_with_what_the_founders_know(runs: Path, modules: Path) -> None:
    """With a rate of nearly 0 a founder ends where it began: at the error that it had in its run."""
    entries = ["run:small", f"{modules}:made"]
    source = evonas.open(runs / "small")
    front = source.store.front()
    begun = recipe(encoding={"initial": entries}, estimator=INHERIT, strategy={"population": 6, "generations": 1})
    with evonas.start(begun, runs=runs, name="next") as run:
        for id, old in enumerate(front):
            first, trained = run.estimate(id), source.estimate(old)
            assert first is not None and trained is not None
            assert first.cost["birth_error"] == pytest.approx(trained.values["error"], abs=1e-6)
            assert first.cost["inherited"] == 1.0
        module, random = run.estimate(len(front)), run.estimate(len(front) + 1)
        data, made = run.task.load(0), imported.load(f"{modules}:made").eval()
        x = (data.x_valid - data.mean.reshape(-1, 1, 1)) / data.std.reshape(-1, 1, 1)
        error = (made(torch.from_numpy(x)).argmax(1).numpy() != data.y_valid).mean()
        assert module is not None and module.cost["birth_error"] == pytest.approx(error, abs=1e-6)
        assert random is not None and "inherited" not in random.cost
        told = next(event for event in run.events() if event["kind"] == "founders")
        assert told["text"].startswith(f"0: run:small/{front[0]} with weights; ")
        kept = {one.weights for one in map(Settled.from_json, told["data"])}
        assert not any(sha and run.store.has_weights(sha) for sha in kept), "they are collected when they are trained"
    assert preview(recipes.read(begun), runs).drawn >= len(front) + 1


def test_weights_do_not_count_without_inheritance(runs: Path) -> None:
    begun = recipe(encoding={"initial": ["run:small"]}, strategy={"population": 3, "generations": 1})
    with evonas.start(begun, runs=runs, name="none") as run:
        told = next(event for event in run.events() if event["kind"] == "founders")
        assert "their weights do not count: estimator.inherit is none" in told["text"]
        assert all("inherited" not in run.store.estimates()[id].cost for id in run.store.front())


def test_a_run_killed_before_it_noted_its_founders_reads_them_again(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "small", tmp_path / "small")
    sections = {"encoding": {"initial": ["run:small"]}, "estimator": INHERIT, "strategy": {"generations": 1}}
    begun = recipes.read(recipe(**sections))
    Store.create(tmp_path / "bare", begun.model_dump(mode="json"), engine.about(begun)).close()
    with evonas.start(begun, runs=tmp_path, name="whole") as whole, evonas.resume(tmp_path / "bare") as run:
        assert run.store.digest() == whole.store.digest()
        assert sum(event["kind"] == "founders" for event in run.events()) == 1


class Killed(BaseException):
    """Nothing in evonas expects it."""


def test_a_killed_run_needs_its_sources_no_more(
    runs: Path, modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the first generation and resumed without the run and the module that it began from."""
    shutil.copytree(runs / "small", tmp_path / "small")
    entries = ["run:small", f"{modules}:plain"]
    begun = recipe(encoding={"initial": entries}, estimator=INHERIT, strategy={"population": 6, "generations": 2})
    with evonas.start(begun, runs=tmp_path, name="whole") as run:
        digest = run.store.digest()

    serial, handed = pool.Serial.arrived, []

    def one_and_no_more(self: pool.Serial) -> list[Outcome]:
        if handed:
            raise Killed
        handed.extend(serial(self))
        return handed

    with monkeypatch.context() as patch:
        patch.setattr(pool.Serial, "arrived", one_and_no_more)
        patch.setattr(pool.Serial, "BATCH", 0.0)
        with pytest.raises(Killed):
            evonas.start(begun, runs=tmp_path, name="killed")
    assert len(Store.open(tmp_path / "killed").estimates()) == 1
    shutil.rmtree(tmp_path / "small")
    modules.unlink()
    with evonas.resume(tmp_path / "killed") as run:
        assert run.store.digest() == digest
