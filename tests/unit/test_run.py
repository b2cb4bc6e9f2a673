"""A run as users see it: from a recipe to trained networks that do what the front says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evonas
from evonas import pool
from evonas.core import DataError, EvonasError, RecipeError
from evonas.report.progress import Progress
from evonas.results import Run

RECIPE: dict[str, Any] = {
    "name": "small",
    "task": {"kind": "digits", "limit": 300},
    "objectives": ["error", {"name": "params", "max": "20k"}],
    "encoding": {"bounds": {"flops": "500k"}},
    "strategy": {"kind": "nsga2", "population": 5, "generations": 3},
    "estimator": {"kind": "train", "epochs": 2, "optimizer": {"kind": "adamw", "lr": 0.01}},
    "final": {"epochs": 3},
    "pool": {"kind": "serial"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evonas.start(RECIPE, runs=tmp_path_factory.mktemp("runs")).folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    """A run of the test's own, to change as it likes."""
    shutil.copytree(finished, tmp_path / "small")
    return evonas.open(tmp_path / "small")


def errors(run: Run, id: int, x: np.ndarray, y: np.ndarray) -> float:
    data = run.task.load(run.recipe.seed)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    inputs = torch.from_numpy((x.astype(np.float32) - data.mean.reshape(shape)) / data.std.reshape(shape))
    with torch.no_grad():
        return float((run.network(id)(inputs).argmax(1).numpy() != y).mean())


def test_networks_do_what_the_front_says(run: Run) -> None:
    data = run.task.load(run.recipe.seed)
    front = run.front()
    assert front
    for row in front:
        assert errors(run, row.id, data.x_valid, data.y_valid) == pytest.approx(row.values["error"], abs=1e-9)
        assert sum(p.numel() for p in run.network(row.id).parameters()) == row.values["params"] <= 20_000


def test_the_front_is_sorted_and_nobody_on_it_is_dominated(run: Run) -> None:
    points = [(row.values["error"], row.values["params"]) for row in run.front()]
    assert points == sorted(points)
    assert [params for _, params in points] == sorted({params for _, params in points}, reverse=True)


def test_final_tests_touch_the_test_set_once(run: Run) -> None:
    chosen = [row.id for row in run.front()][:2]
    tested = evonas.test(run, chosen)
    first = {row.id: row.tested for row in tested.front() if row.tested}
    assert sorted(first) == sorted(chosen)
    x, y = tested.task.load_test(tested.recipe.seed)
    assert errors(tested, chosen[0], x, y) == pytest.approx(first[chosen[0]]["error"], abs=1e-9)
    again = evonas.test(tested, chosen)
    assert len(again.store.tests()) == len(chosen), "who was tested is not tested again"
    assert sum(event["kind"] == "tested" for event in again.events()) == len(chosen)


def test_final_trainings_tell_how_far_they_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool.Serial, "BATCH", 0.0)  # a fast machine hands over both trainings at once
    told: list[tuple[int, float, float | None]] = []

    def observe(progress: Progress) -> None:
        if progress.kind == "test":
            told.append((progress.done, progress.share, progress.eta))

    chosen = [row.id for row in run.front()][:2]
    evonas.test(run, chosen, observer=observe)
    flops = [run.encoding.decode(run.individual(id).genome).flops for id in chosen]
    assert [done for done, *_ in told] == [0, 0, 0, 0, 1, 1, 1, 1, 2], "epochs, and the end of a training"
    epochs = [0, *range(1, 4), 3, 3, 3, 3, 3], [0, 0, 0, 0, 0, *range(1, 4), 3]
    wanted = [sum(cost * made for cost, made in zip(flops, both, strict=True)) for both in zip(*epochs, strict=True)]
    assert [share for _, share, _ in told] == pytest.approx([one / (3 * sum(flops)) for one in wanted])
    etas = [eta for *_, eta in told]
    assert etas[0] is None and all(etas[1:-2]) and etas[-2:] == [0, 0]


def test_picking_spreads_over_the_front(run: Run) -> None:
    front = [row.id for row in run.front()]
    tested = evonas.test(run, pick=2)
    assert {test["id"] for test in tested.store.tests()} == {front[0], front[-1]}


def test_a_stranger_is_not_tested(run: Run) -> None:
    with pytest.raises(EvonasError, match="9999"):
        evonas.test(run, [9999])


def test_changed_data_are_refused_on_resume(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 4)).astype(np.float32), rng.integers(0, 3, 120)
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    recipe = {**RECIPE, "name": "mine", "task": {"kind": "npz", "file": str(tmp_path / "mine.npz")}}
    recipe["estimator"] = {"kind": "train", "epochs": 1}
    run = evonas.start(recipe, runs=tmp_path)
    x[3, 1] += 1
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    with pytest.raises(DataError, match=r"data of task 'npz' changed since mine began .fingerprint."):
        evonas.resume(run, generations="+1")


def test_lineage_leads_from_founders(run: Run) -> None:
    youngest = max(run.individuals(), key=lambda row: row.id)
    family = run.lineage(youngest.id)
    assert family[-1].id == youngest.id and family[0].parents == ()
    known = {row.id for row in family}
    assert all(set(row.parents) <= known for row in family)


def test_weights_of_the_dead_are_gone_and_the_message_says_so(run: Run) -> None:
    kept = {estimate.weights for estimate in run.store.estimates().values() if estimate.weights}
    files = {path.stem for path in (run.folder / "weights").iterdir()}
    assert files < kept
    dead = next(id for id, estimate in run.store.estimates().items() if estimate.weights not in files)
    with pytest.raises(RecipeError, match=r"were not kept: store.keep_weights is 'front'\); choose one of the front"):
        run.network(dead)


def test_a_name_that_is_taken_gets_a_number(run: Run) -> None:
    recipe = {**RECIPE, "objectives": ["params", "flops"], "estimator": {"kind": "lookup"}}
    assert evonas.start(recipe, runs=run.folder.parent).name == "small-2"


def test_founders_from_the_zoo_lead_the_first_generation(tmp_path: Path) -> None:
    recipe = {
        **RECIPE,
        "encoding": {"initial": ["mobilenet-small", "lenet-5"]},
        "objectives": ["params", "flops"],
        "estimator": {"kind": "lookup"},
    }
    run = evonas.start(recipe, runs=tmp_path)
    assert run.genome(0).key != run.genome(1).key
    assert [word in run.encoding.summary(run.genome(0)) for word in ("separable", "dense")] == [True, False]
    tight = {**recipe, "encoding": {"initial": "resnet-20", "bounds": {"params": "10k"}}}
    with pytest.raises(RecipeError, match=r"encoding.initial: 'resnet-20' breaks a bound: params \d+ > 10000"):
        evonas.start(tight, name="tight", runs=tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoding": {"initial": "resnet-200"}}, "resnet-200"),
        ({"encoding": {"bounds": {"params": 5}}}, "none of 50 random networks keeps the recipe's bounds"),
        ({"task": {"kind": "diabetes"}, "objectives": ["accuracy"]}, "is for classes, the task is a regression"),
        ({"task": {"kind": "iris"}, "estimator": {"augment": {"flip": True}}}, "augment is for images"),
    ],
)
def test_what_cannot_run_leaves_no_folder(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(EvonasError, match=told):
        evonas.start({**RECIPE, **changes}, runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "a/b", "con", ".hidden", "x" * 65])
def test_a_run_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    recipe = {**RECIPE, "objectives": ["params", "flops"], "estimator": {"kind": "lookup"}}
    with pytest.raises(RecipeError, match=r"run name .* is not allowed"):
        evonas.start(recipe, name=name, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
