"""A job's fidelity: fewer epochs, fewer rows, smaller images, narrower networks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from evonas import encoding, estimate
from evonas import recipe as recipes
from evonas.core import Job, RecipeError, stream
from evonas.encoding.dag import DagEncoding
from evonas.estimate import TrainSettings
from evonas.estimate.data import part, prepare
from evonas.estimate.fidelity import alike, narrowed, pooled, side, trained_at
from evonas.estimate.train import Rows, TrainEstimator
from evonas.marks import Marks

CPU = torch.device("cpu")


def recipe(task: str = "digits", objectives: Any = ("error", "params", "flops"), **estimator: Any) -> dict[str, Any]:
    settings = {"epochs": 2, "batch_size": 32, **estimator}
    resolved = recipes.read({
        "name": "test", "seed": 3, "task": {"kind": task, "limit": 150}, "objectives": list(objectives),
        "encoding": {"kind": "dag", "kernels": [3]}, "estimator": settings,
    })  # fmt: skip
    return resolved.model_dump(mode="json")


def job(shape: tuple[int, ...] = (1, 8, 8), outputs: int = 10, mutations: int = 4, **fidelity: float) -> Job:
    space = encoding.build(encoding.TABLE["dag"](kernels=(3,)), shape, outputs)
    rng, book = stream(5, "test"), Marks().open()
    genome = space.random(rng, book)
    for _ in range(mutations):
        changed = space.mutate(genome, rng, book)
        genome = changed[0] if changed else genome
    return Job(7, 11, space.to_json(genome), fidelity=fidelity)


@pytest.fixture(scope="module")
def estimator() -> TrainEstimator:
    return TrainEstimator(recipe())


# ----------------------------------------------------------------------------------------------------------- settings


def test_a_fidelity_changes_what_it_names_alone() -> None:
    settings = TrainSettings.model_validate(
        {"epochs": 8, "share": 0.8, "augment": {"shift": 2, "cutout": 4}, "inherit": {"epochs": 5}}
    )
    assert trained_at(settings, {}) == settings
    assert trained_at(settings, {"share": 0.4}) == settings.model_copy(update={"share": 0.4})
    brief = trained_at(settings, {"epochs": 3.0})
    assert brief.epochs == 3 and isinstance(brief.epochs, int)
    assert brief.inherit.epochs is None, "heirs are trained for as many"
    small = trained_at(settings, {"resolution": 0.5}).augment
    assert (small.shift, small.cutout) == (1, 2)


@pytest.mark.parametrize(
    ("fidelity", "told"),
    [
        ({"epoch": 3}, "fidelity 'epoch' is not known; did you mean 'epochs'?"),
        ({"epochs": 2.5}, "fidelity epochs 2.5"),
        ({"epochs": 0}, "fidelity epochs 0"),
        ({"share": 1.0}, "fidelity share 1 is more than estimator.share 0.5: raise that"),
        ({"share": 0.0}, "fidelity share 0"),
        ({"resolution": 1.5}, "fidelity resolution 1.5"),
        ({"width": -1.0}, "fidelity width -1"),
        ({"width": float("nan")}, "fidelity width"),
    ],
)
def test_senseless_fidelities_are_told(fidelity: dict[str, float], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        trained_at(TrainSettings(share=0.5), fidelity)
    assert told in str(caught.value)


def test_a_senseless_fidelity_fails_its_estimate_alone(estimator: TrainEstimator) -> None:
    failed = estimator.estimate(job(epochs=0.5)).estimate
    assert failed.status == "failed" and failed.reason.startswith("fidelity epochs 0.5")
    assert estimator.estimate(job()).estimate.status == "ok"


# --------------------------------------------------------------------------------------------------------- rows, images


def test_rows_of_a_smaller_share_are_among_those_of_a_larger_one() -> None:
    parts = [set(part(1000, share, 3).tolist()) for share in (0.1, 0.25, 0.7, 1.0)]
    assert [len(one) for one in parts] == [100, 250, 700, 1000]
    assert all(small < large for small, large in pairwise(parts))
    assert parts[0] != set(part(1000, 0.1, 4).tolist())


def test_a_jobs_share_is_that_of_a_recipe() -> None:
    whole = Rows.on(CPU, prepare(recipe()))
    asked, told = whole.at(0.3, 1.0, 3), Rows.on(CPU, prepare(recipe(share=0.3)))
    assert torch.equal(asked.x_train, told.x_train) and torch.equal(asked.y_train, told.y_train)
    assert torch.equal(asked.x_valid, whole.x_valid)


def test_images_are_averaged() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (5000, 6, 8, 3), dtype=np.uint8))
    small = pooled(images, 0.5)
    plain = images.view(5000, 3, 2, 4, 2, 3).double().mean((2, 4)).round()
    assert small.dtype == torch.uint8 and small.shape == (5000, 3, 4, 3)
    assert (small.double() - plain).abs().max() <= 1, "halves may round to either side"
    assert torch.equal(pooled(images, 1.0), images)
    floats = images[:4].float() / 7
    assert torch.allclose(pooled(floats, 0.5), floats.view(4, 3, 2, 4, 2, 3).mean((2, 4)), atol=1e-4)


def test_training_and_validation_images_are_reduced_alike() -> None:
    rows = Rows.on(CPU, prepare(recipe()))
    small = rows.at(1.0, 0.4, 3)
    assert small.shape.input == (1, 3, 3) and side(8, 0.4) == 3 and side(1, 0.1) == 1
    assert small.x_train.shape[1:3] == small.x_valid.shape[1:3] == (3, 3)
    assert small.inputs(small.x_valid[:2]).shape == (2, 1, 3, 3)
    assert torch.equal(rows.at(1.0, 1.0, 3).x_train, rows.x_train)


# ----------------------------------------------------------------------------------------------------------- networks


def test_a_narrow_network_has_its_share_of_channels() -> None:
    space = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    assert isinstance(space, DagEncoding)
    rng, book = stream(1, "test"), Marks().open()
    genome = space.random(rng, book)
    for i in range(40):
        for width in (0.25, 0.5, 1.0):
            small = narrowed(genome, width)
            for mark, gene in genome.layer.items():
                assert small.layer[mark].channels == (max(1, round(width * gene.channels)) if gene.channels else 0)
            plan = space.decode(small)
            assert plan.steps[-1].shape == (10,) and plan.params <= space.decode(genome).params
            assert alike(plan, space.decode(genome)) == (plan.params == space.decode(genome).params)
        changed = space.mutate(genome, stream(i, "change"), book)
        genome = changed[0] if changed else genome


def test_width_is_for_layer_graphs() -> None:
    cells = encoding.build(encoding.TABLE["cell"](), (3, 32, 32), 10)
    with pytest.raises(RecipeError, match=r"width 0.5 narrows layer graphs \(encoding dag\) only"):
        narrowed(cells.random(stream(0, "test"), Marks().open()), 0.5)


@pytest.mark.parametrize(
    "fidelity", [{"epochs": 1.0}, {"share": 0.5}, {"resolution": 0.5}, {"width": 0.5}, {"epochs": 3.0, "share": 0.4}]
)
def test_every_fidelity_is_trained_at(estimator: TrainEstimator, fidelity: dict[str, float]) -> None:
    whole, less = estimator.estimate(job()), estimator.estimate(job(**fidelity))
    again = estimator.estimate(job(**fidelity))
    assert less.estimate.status == "ok", less.estimate.reason
    assert less.weights == again.weights and less.estimate.values == again.estimate.values
    cost, usual = less.estimate.cost, whole.estimate.cost
    assert cost["epochs"] == fidelity.get("epochs", 2) == len(less.estimate.curve)
    assert {key: cost[f"fidelity_{key}"] for key in fidelity} == fidelity
    assert sum(key.startswith("fidelity_") for key in cost) == len(fidelity)
    assert not any(key.startswith("fidelity_") for key in usual)
    if "share" in fidelity:
        assert cost["samples"] / cost["epochs"] < usual["samples"] / usual["epochs"]
    for name in ("params", "flops"):
        assert less.estimate.values[name] == whole.estimate.values[name], "sizes are those of the whole network"
    assert (less.weights is None) == ("width" in fidelity), "narrow weights are of no use"


def test_the_recipe_sets_resolution_and_width_too() -> None:
    """What a recipe says and what a job asks for give the same training."""
    for key in ("resolution", "width", "share"):
        asked = TrainEstimator(recipe()).estimate(job(**{key: 0.5}))
        told = TrainEstimator(recipe(**{key: 0.5})).estimate(job())
        assert asked.estimate.values == told.estimate.values and asked.weights == told.weights
        assert f"fidelity_{key}" not in told.estimate.cost


def test_a_table_of_features_has_no_resolution() -> None:
    with pytest.raises(RecipeError, match=r"resolution 0\.5 is for images, the task has 4 plain features: set it to 1"):
        estimate.check(TrainSettings(resolution=0.5), ["error"], (4,), "classification")


def test_the_last_training_is_at_full_fidelity() -> None:
    final = recipe(resolution=0.5, width=0.5, share=0.5)["final"]
    assert (final["resolution"], final["width"], final["share"]) == (1.0, 1.0, 1.0)


def test_width_mistakes_are_told_before_the_run() -> None:
    made = recipe()
    for changes, told in (
        ({"estimator": {"width": 0.5, "inherit": "weights"}}, "leaves no weights to inherit"),
        ({"encoding": {"kind": "cell"}, "estimator": {"width": 0.5}}, "narrows layer graphs, encoding is 'cell'"),
    ):
        with pytest.raises(RecipeError, match=told):
            recipes.read({**{key: made[key] for key in ("task", "objectives")}, **changes})


def test_a_job_and_its_fidelity_travel_as_json() -> None:
    one = replace(job(share=0.5), peers=((0.5, 0.4),))
    assert Job.from_json(one.to_json()) == one
