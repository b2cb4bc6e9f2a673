"""What a network is exported to: it computes what the network did, a card says what it is, a genome is read back."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

import evonas
from evonas import cli, yaml, zoo
from evonas.core import DataError, RecipeError
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.phenotype import network, onnx
from evonas.phenotype.deployed import Deployment, program
from evonas.phenotype.export import export_program
from evonas.report import card
from evonas.results import Run
from tests import fabricated
from tests.fabricated import Made
from tests.unit.plain_genes import XOR, genes, plan_of
from tests.unit.test_export import trained

HOSTILE = "# *x* `rm` <script>alert(1)</script> | [a](b) \x1b[2J\n---\n"
TINY: dict[str, Any] = {
    "name": "tiny",
    "task": {"kind": "digits"},
    "encoding": {"kind": "dag", "channels": [2, 4], "bounds": {"params": 2000}},
    "objectives": ["error", "params"],
    "strategy": {"kind": "random", "population": 4, "generations": 2},
    "estimator": {"kind": "train", "epochs": 1, "share": 0.1},
    "pool": {"kind": "serial"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    evonas.start(TINY, runs=runs).close()
    return runs / "tiny"


@pytest.fixture
def tiny(folder: Path) -> Run:
    return evonas.open(folder)


def lenet() -> Any:
    entry = zoo.entry("lenet-5")
    space = DagEncoding(DagSettings(), entry.input, entry.outputs)
    return space.decode(zoo.load("lenet-5", space))


# ----------------------------------------------------------------------------------------------------- torch.export


def test_a_program_computes_what_the_network_does_in_the_datas_units() -> None:
    built = trained(lenet())
    deployment = Deployment.of(built, mean=[0.3], std=[2.0])  # type: ignore[arg-type]
    loaded = torch.export.load(io.BytesIO(program(deployment))).module()
    for rows in (1, 2, 9):
        x = torch.randn(rows, 1, 28, 28, generator=torch.Generator().manual_seed(rows))
        with torch.no_grad():
            assert torch.allclose(loaded(x), built((x - 0.3) / 2.0), atol=1e-5)


def test_a_recurrent_program_hands_its_state_on(tmp_path: Path) -> None:
    built = network.build(plan_of(genes(Random(2), feed_forward=False, inputs=2, outputs=1))).eval()
    path = export_program(built.plan, network.to_bytes(built), tmp_path / "net.pt2")
    step = torch.export.load(path).module()
    sequence = torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(1))
    size = built.get_submodule("graph").size
    state = torch.zeros(4, int(size))  # type: ignore[arg-type]
    built.get_submodule("graph").reset()  # type: ignore[operator]
    for x in sequence:
        output, state = step(x, state)
        assert torch.allclose(output, built.get_submodule("graph").step(x), atol=1e-6)  # type: ignore[operator]


def test_a_program_holds_nothing_that_would_be_unpickled() -> None:
    content = program(Deployment.of(trained(lenet())))  # type: ignore[arg-type]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            held = archive.read(name)
            assert not held.startswith((b"\x80", b"PK")), name
            assert b".py" not in held and str(Path.cwd()).encode() not in held, "no paths of this machine"
            if name.endswith("config.json"):
                assert not any(one["use_pickle"] for one in json.loads(held)["config"].values())


def test_what_computes_something_else_is_not_written() -> None:
    deployment = Deployment.of(trained(lenet()))  # type: ignore[arg-type]
    deployment.check(deployment.module, "the file")

    def changed(x: Tensor) -> Tensor:
        output: Tensor = deployment.module(x)
        return output + 0.01 * output.abs().max()

    for wrong in (changed, lambda x: deployment.module(x) * torch.nan):
        with pytest.raises(DataError, match="the file differs from the network"):
            deployment.check(wrong, "the file")


needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs evonas[onnx]",
)


@needs_onnx
def test_onnx_files_are_run_before_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = Deployment.of(trained(plan_of(XOR)))  # type: ignore[arg-type]
    real = onnx._session
    monkeypatch.setattr(onnx, "_session", lambda *a: lambda x: [one + 1.0 for one in real(*a)(x)])
    with pytest.raises(DataError, match="the ONNX file differs from the network by up to 1"):
        onnx.content(deployment)


# ----------------------------------------------------------------------------------------------------------- genome


def test_an_exported_genome_is_shown_and_begins_a_search(tiny: Run, tmp_path: Path, capsys: Any) -> None:
    id = tiny.front()[0].id
    path, readme = tiny.export(id, tmp_path, "genome")
    assert readme.name == "README.md" and "encoding: {initial: [tiny-" in readme.read_text()
    entry, genome, plan = zoo.decoded(path)
    assert (entry.params, entry.flops) == (plan.params, plan.flops) == (tiny.plan(id).params, tiny.plan(id).flops)
    assert genome.key == tiny.genome(id).key
    assert cli.call(["genome", str(path)]) == 0
    assert f"{plan.params:,}" in capsys.readouterr().out
    recipe = {**TINY, "name": "next", "encoding": {**TINY["encoding"], "initial": [str(path)]}}
    with evonas.start(recipe, runs=tmp_path) as run:
        assert run.plan(0).params == plan.params


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({}, "does not say what its genome is for"),
        ({"kind": "x", "input": [1, -8, 8], "outputs": 3}, "whole numbers"),
        ({"kind": "x", "input": [1, 8, 8], "outputs": "3"}, "whole numbers"),
        ({"kind": "x", "input": [4], "outputs": 3}, "no genome of this"),
    ],
)
def test_a_file_that_is_no_genome_is_told_apart(tmp_path: Path, task: dict[str, Any], told: str) -> None:
    about = {"name": "x", "about": "", "source": "", "params": 1, "flops": 1}
    (tmp_path / "x.json").write_text(json.dumps({**about, "task": task, "genome": {"encoding": "nope"}}))
    with pytest.raises(DataError, match=told):
        zoo.decoded(tmp_path / "x.json")


# ------------------------------------------------------------------------------------------------------------- card


def header(text: str) -> dict[str, Any]:
    _, head, rest = text.split("---\n", 2)
    assert rest.lstrip().startswith(card.HEAD)
    data: dict[str, Any] = yaml.parse(head).data
    return data


@pytest.mark.parametrize("to", ["module", "onnx", "torch-export", "genome"])
def test_every_export_has_a_card(tiny: Run, tmp_path: Path, to: Any) -> None:
    if to == "onnx" and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("needs evonas[onnx]")
    row = tiny.front()[0]
    *files, readme = tiny.export(row.id, tmp_path, to)
    text = readme.read_text()
    assert header(text)["pipeline_tag"] == "image-classification" and header(text)["metrics"] == ["error", "params"]
    assert files[0].name.removesuffix(".py") in text
    for fact in (
        f"{row.values['error']:,.6g}", tiny.about["task"]["fingerprint"], "1,150 train", "seed 0", row.key, "a founder",
        f"torch {tiny.about['torch']}", f"evonas export tiny {row.id} --to {to}", "the test set was never touched",
    ):  # fmt: skip
        assert card.words(fact) in text or fact in text
    (recipe,) = re.findall(r"```yaml\n(version: 1\n.*?)```", text, re.DOTALL)
    assert evonas.run.recipes.read(recipe) == tiny.recipe  # type: ignore[attr-defined]


def test_the_code_of_a_card_runs(tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = tiny.front()[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    inputs = torch.rand(3, 1, 8, 8)
    results = {}
    for to, name in (("module", "probabilities"), ("torch-export", "output")):
        *_, readme = tiny.export(row.id, tmp_path, to)  # type: ignore[arg-type]
        (code,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
        space: dict[str, Any] = {"inputs": inputs}
        exec(code, space)
        results[to] = space[name]
    assert torch.allclose(results["torch-export"].softmax(1), results["module"], atol=1e-5)


def test_somebodys_own_readme_stays(tiny: Run, tmp_path: Path) -> None:
    row = tiny.front()[0]
    (tmp_path / "README.md").write_text("mine")
    *_, written = tiny.export(row.id, tmp_path, "genome")
    assert (tmp_path / "README.md").read_text() == "mine" and written.name == f"tiny-{row.id}.md"
    again = tmp_path / "again"
    assert [tiny.export(row.id, again, "genome")[-1].name for _ in range(2)] == ["README.md", "README.md"]


def test_a_card_tells_a_test_that_was_made(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "tiny"))
    id = evonas.open(copy).front()[0].id
    with evonas.run.Store.open(copy, write=True) as store:  # type: ignore[attr-defined]
        store.record_test(id, 1, {"error": 0.125}, weights=store.weights(store.estimate(id).weights))
    text = evonas.open(copy).export(id, tmp_path / "out", "genome")[-1].read_text()
    assert "| 0.125 |" in text and "The test set was touched once" in text


def test_hostile_words_stay_words_in_a_card(tmp_path: Path) -> None:
    shown = card.words(HOSTILE)
    assert "\n" not in shown and "<" not in shown and "\x1b" not in shown
    assert all(re.search(rf"(?<!\\){re.escape(sign)}", shown) is None for sign in "*`[]|#")
    assert card.fence("```\nx\n````\n").splitlines() == ["`````", "```", "x", "````", "`````"]
    with pytest.raises(RecipeError):
        evonas.open(fabricated.write(tmp_path / "made", Made(fabricated.RECIPE))).export(0, tmp_path / "x", "module")
    assert not (tmp_path / "x").exists()
