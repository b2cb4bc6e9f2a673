"""Training from inherited weights: what is carried on, measured at birth, taught, and refused."""

from __future__ import annotations

import copy
import hashlib
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn

import evonas
from evonas import encoding, zoo
from evonas import recipe as recipes
from evonas.core import Edit, Estimate, Heritage, Individual, Job, Outcome, RecipeError, State, dumps, loads, stream
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.estimate import Distill, FinalSettings, Inherit, Optimizer, TrainSettings
from evonas.estimate import train as training
from evonas.estimate.data import prepare, stage
from evonas.estimate.heritage import Teacher, carry_moments, kept_moments, parents
from evonas.estimate.train import Limits, Mode, TrainEstimator, distil
from evonas.marks import Marks
from evonas.phenotype import network
from evonas.phenotype.export import module_files
from evonas.phenotype.inherit import inherit
from evonas.run import _Search
from evonas.validation import descriptions
from tests.unit.graphs import chain

CPU = torch.device("cpu")
WEIGHTS: dict[str, Any] = {"kind": "weights", "epochs": 1}
TAUGHT: dict[str, Any] = {**WEIGHTS, "distill": {"epochs": 0.5}}
ADAMW: dict[str, Any] = {"kind": "adamw", "lr": 0.01}


def recipe(task: str = "digits", final: Mapping[str, Any] | None = None, **estimator: Any) -> dict[str, Any]:
    """A resolved recipe whose children inherit weights unless told."""
    section = {"epochs": 3, "batch_size": 32, "inherit": WEIGHTS, **estimator}
    limit = {"digits": {"limit": 400}}.get(task, {})
    return {
        "version": 1, "name": "test", "seed": 3, "task": {"kind": task, **limit}, "encoding": {"kind": "dag"},
        "objectives": ["error", "params"],
        "estimator": TrainSettings.model_validate(section).model_dump(mode="json"),
        "final": FinalSettings.model_validate({"epochs": 2, **(final or {})}).model_dump(mode="json"),
    }  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A trained parent, its weights file, the marks of its run, and how its child is made."""

    space: DagEncoding
    genome: Any
    marks: Marks
    trained: Estimate
    path: Path

    @property
    def heritage(self) -> Heritage:
        sha = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return Heritage(self.space.to_json(self.genome), str(self.path), sha, 7)

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    def child(self, op: str | None = None) -> Job:
        """The job of a child by one edit of this kind; without any it goes on where its parent stopped."""
        genome, edits = (self.genome, ()) if op is None else self.changed(op)
        return Job(8, 12, self.space.to_json(genome), parents=(self.heritage,), edits=edits)

    def changed(self, op: str) -> tuple[Any, tuple[Edit, ...]]:
        """A child's genome and edits by one edit of this kind."""
        only = {**dict.fromkeys(type(self.space.settings.mutations).model_fields, 0), op: 1}
        settings = DagSettings.model_validate({"mutations": only, "edits": [1, 1], "channels": [4, 8, 12]})
        space = encoding.build(settings, self.space.input_shape, self.space.outputs)
        made = space.mutate(self.genome, stream(0, op), self.marks.open())
        assert made is not None, f"no place for {op}"
        return made


def grow(folder: Path, task: str = "digits", **estimator: Any) -> Family:
    """Trains a parent and writes its weights where a run would."""
    shape = {"digits": ((1, 8, 8), 10), "diabetes": ((10,), 1)}[task]
    space = encoding.build(encoding.TABLE["dag"](), *shape)
    layer = {"op": "conv", "kernel": 3} if task == "digits" else {"op": "dense"}
    book = Marks().open()
    (genome,) = zoo.enrol([chain(*[{**layer, "channels": 8, "norm": "batch"}] * 2)], book)
    outcome = TrainEstimator(recipe(task, **estimator)).estimate(Job(7, 11, space.to_json(genome)))
    assert outcome.estimate.status == "ok", outcome.estimate.reason
    assert outcome.weights is not None
    path = folder / f"{hashlib.sha256(outcome.weights).hexdigest()}.safetensors"
    path.write_bytes(outcome.weights)
    return Family(space, genome, book.close(), outcome.estimate, path)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return grow(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def estimator() -> TrainEstimator:
    return TrainEstimator(recipe())


def good(outcome: Outcome) -> Estimate:
    assert outcome.estimate.status == "ok", outcome.estimate.reason
    return outcome.estimate


def failed(outcome: Outcome) -> str:
    assert outcome.estimate.status == "failed" and outcome.weights is None
    return outcome.estimate.reason


# ------------------------------------------------------------------------------------------------------------ settings


def test_a_bare_name_or_a_section_without_a_kind_means_inherited_weights() -> None:
    def read(value: Any) -> Inherit:
        return TrainSettings.model_validate({"inherit": value}).inherit

    assert TrainSettings().inherit == read("none") == read({}) == Inherit()
    assert read("weights") == Inherit(kind="weights")
    assert read({"epochs": 4}) == Inherit(kind="weights", epochs=4)
    assert read({"kind": "none", "epochs": 4}).kind == "none", "switched off, to be compared"
    assert read({"distill": {}}).distill == Distill()


def test_the_final_training_begins_from_scratch_unless_it_says_so() -> None:
    written = {"task": {"kind": "digits"}, "objectives": ["error"], "estimator": {"inherit": TAUGHT}}
    assert recipes.read(written).final.inherit.kind == "none"
    assert recipes.read({**written, "final": {"inherit": "weights"}}).final.inherit == Inherit(kind="weights")


@pytest.mark.parametrize(
    ("inherit", "message"),
    [
        ("wieghts", "did you mean 'weights'"),
        ({"epochs": 0}, "estimator.inherit.epochs: 0 is not allowed: must be from 1"),
        ({"distill": {"temperature": 0}}, "inherit.distill.temperature: 0 is not allowed: must be more than 0"),
        ({"distill": {"epoch": 2}}, "inherit.distill.epoch: not known; did you mean 'epochs'"),
        ({"prune": "shaply"}, "did you mean 'shapley'"),
    ],
)
def test_mistakes_are_told_with_their_place(inherit: Any, message: str) -> None:
    written = {"task": {"kind": "digits"}, "objectives": ["error"], "estimator": {"inherit": inherit}}
    with pytest.raises(RecipeError, match=message):
        recipes.read(written)


@pytest.mark.parametrize("room", ["estimator", "final"])
def test_direct_genomes_have_nothing_to_inherit(room: str) -> None:
    written = {"task": {"kind": "iris"}, "objectives": ["error"], "encoding": {"kind": "neat"}}
    assert recipes.read(written)
    with pytest.raises(RecipeError, match=f"{room}.inherit: 'weights' is for layer graphs, encoding is 'neat'"):
        recipes.read({**written, room: {"inherit": "weights"}})


@pytest.mark.parametrize("settings", [Inherit, Distill])
def test_every_setting_is_described(settings: Any) -> None:
    assert set(descriptions(settings)) >= set(settings.model_fields)


def test_a_job_travels_as_json(family: Family) -> None:
    job = family.child("change_channels")
    assert Job.from_json(loads(dumps(job.to_json()))) == job
    plain = replace(job, parents=(), edits=())
    assert Job.from_json(loads(dumps(plain.to_json()))) == plain


# -------------------------------------------------------------------------------------------------- what is inherited


def test_without_inheritance_parents_change_nothing(family: Family) -> None:
    job = family.child("change_channels")
    alone = TrainEstimator(recipe(inherit="none"))
    ours, plain = alone.estimate(job), alone.estimate(replace(job, parents=(), edits=()))
    assert ours.weights == plain.weights and good(ours).curve == good(plain).curve
    assert {"inherited", "birth_error", "exact"}.isdisjoint(good(ours).cost)
    assert not any(name.startswith("optimizer.") for name in read_safetensors(ours.weights or b""))


def test_who_has_no_parents_begins_from_scratch_as_without_inheritance(family: Family) -> None:
    job = Job(8, 12, family.space.to_json(family.genome))
    founder, plain = (TrainEstimator(recipe(inherit=kind)).estimate(job) for kind in (WEIGHTS, "none"))
    assert good(founder).curve == good(plain).curve
    assert network.bare(founder.weights or b"") == plain.weights


def test_a_continuation_is_born_with_its_parents_error(family: Family, estimator: TrainEstimator) -> None:
    child = good(estimator.estimate(family.child()))
    last = family.trained.curve[-1]["valid_error"]
    assert child.cost["birth_error"] == last
    assert child.curve[0] == {"epoch": 0, "valid_error": last}
    assert (child.cost["inherited"], child.cost["exact"]) == (1.0, 1.0)
    assert 0 < child.cost["carry_seconds"] < child.cost["seconds"]


@pytest.mark.parametrize("op", ["widen", "insert_block", "skip_concat"])
def test_a_child_of_an_exact_edit_is_born_with_its_parents_error(
    family: Family, estimator: TrainEstimator, op: str
) -> None:
    child = good(estimator.estimate(family.child(op)))
    assert child.cost["birth_error"] == family.trained.curve[-1]["valid_error"]
    assert child.cost["exact"] == 1.0 and 0 < child.cost["inherited"] < 1


def test_children_train_fewer_epochs_at_their_own_rate(family: Family) -> None:
    estimator = TrainEstimator(recipe(inherit={"epochs": 2, "lr": 0.03}, schedule="constant"))
    child = good(estimator.estimate(family.child("change_channels")))
    founder = good(estimator.estimate(Job(8, 12, family.space.to_json(family.genome))))
    assert [point["epoch"] for point in child.curve] == [0, 1, 2]
    assert [point["epoch"] for point in founder.curve] == [1, 2, 3]
    assert {point["lr"] for point in child.curve[1:]} == {0.03}
    assert {point["lr"] for point in founder.curve} == {0.2}
    assert (child.cost["epochs"], founder.cost["epochs"]) == (2, 3)
    assert child.cost["samples"] == founder.cost["samples"] * 2 // 3


def test_without_numbers_of_their_own_children_train_as_founders_do(family: Family) -> None:
    child = good(TrainEstimator(recipe(inherit="weights")).estimate(family.child()))
    assert [point["epoch"] for point in child.curve] == [0, 1, 2, 3]


def test_the_birth_is_measured_even_where_only_the_end_is(family: Family) -> None:
    child = good(TrainEstimator(recipe(evaluate_every=0, inherit={"epochs": 2})).estimate(family.child()))
    assert ["valid_error" in point for point in child.curve] == [True, False, True]


def test_inherited_weights_help_after_one_epoch(family: Family, estimator: TrainEstimator) -> None:
    child = good(estimator.estimate(family.child("widen")))
    short = TrainEstimator(recipe(epochs=1, inherit="none"))
    scratch = good(short.estimate(replace(family.child("widen"), parents=(), edits=())))
    assert child.values["error"] < scratch.values["error"]


@pytest.mark.parametrize(
    "settings",
    [
        {"inherit": TAUGHT, "augment": {"shift": 1}},
        {"inherit": TAUGHT, "optimizer": ADAMW, "average": 0.9},
        {"inherit": {**TAUGHT, "moments": False}, "clip": 1.0},
    ],
)
def test_the_same_job_gives_the_same_bytes(family: Family, tmp_path: Path, settings: dict[str, Any]) -> None:
    job = family.child("change_kernel")
    stage(prepare(recipe()), tmp_path)
    once, again, staged = (TrainEstimator(recipe(**settings), where).estimate(job) for where in (None, None, tmp_path))
    assert good(once).curve == good(again).curve == good(staged).curve
    assert once.weights == again.weights == staged.weights
    assert TrainEstimator(recipe(**settings)).estimate(replace(job, seed=13)).weights != once.weights


def test_two_parents(family: Family, estimator: TrainEstimator, tmp_path: Path) -> None:
    """A mate takes the second parent's tensors for the genes in its `where`."""
    other = tmp_path / "other.safetensors"
    changed = {name: value + 1 if value.is_floating_point() else value for name, value in _tensors(family).items()}
    other.write_bytes(write_safetensors(changed))
    sha = hashlib.sha256(other.read_bytes()).hexdigest()
    mate = Edit("mate", tuple(gene.mark for gene in family.genome.layers if gene.mark > 1))
    job = family.child()
    job = replace(job, parents=(*job.parents, replace(family.heritage, path=str(other), sha256=sha)), edits=(mate,))
    child = good(estimator.estimate(job))
    assert child.cost["inherited"] == 1.0 and child.cost["exact"] == 0.0
    assert child.cost["birth_error"] != family.trained.curve[-1]["valid_error"]


def test_weights_from_elsewhere_need_no_parent_in_the_run(
    family: Family, estimator: TrainEstimator, tmp_path: Path
) -> None:
    """A founder that a user brings: a file anywhere, of the network alone."""
    anywhere = tmp_path / "mine.safetensors"
    anywhere.write_bytes(network.bare(family.content))
    sha = hashlib.sha256(anywhere.read_bytes()).hexdigest()
    mine = replace(family.heritage, id=None, path=str(anywhere), sha256=sha)
    founder = good(estimator.estimate(replace(family.child(), parents=(mine,))))
    assert founder.cost["birth_error"] == family.trained.curve[-1]["valid_error"]


@pytest.mark.parametrize("criterion", ["norm", "activation", "shapley"])
def test_narrowed_layers_keep_channels_by_the_recipes_criterion(family: Family, criterion: str) -> None:
    chosen = recipe(inherit={**WEIGHTS, "prune": criterion})
    estimator = TrainEstimator(chosen)
    child = good(estimator.estimate(family.child("narrow")))
    assert child.cost["exact"] == 0.0 and child.cost["inherited"] == 1.0
    probe = estimator._probe(estimator._rows, 12)
    assert probe.criterion == criterion and len(probe.x) == len(probe.y) == training.PROBE_ROWS


@pytest.mark.parametrize("fresh", [False, True])
def test_what_looks_at_data_sees_it_as_the_training_does(
    family: Family, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    """Small images: layers mended on whole ones lost 6.3 points at birth, not 2.7 (16 children on Fashion-MNIST)."""
    probes = []

    def watched(*given: Any) -> Any:
        probes.append(given[-1])
        return inherit(*given)

    monkeypatch.setattr(training, "inherit", watched)
    estimator = TrainEstimator(recipe(share=0.5, fresh=fresh, resolution=0.5, inherit=TAUGHT))
    good(estimator.estimate(family.child("narrow")))
    (probe,) = probes
    assert probe.x.shape == (training.PROBE_ROWS if fresh else 200, 1, 4, 4)


def test_the_final_training_goes_on_from_the_searchs_weights_and_looks_once(family: Family) -> None:
    points: list[Mapping[str, float]] = []
    begun = TrainEstimator(recipe(final={"inherit": "weights"}), final=True)
    outcome = begun.estimate(family.child(), points.append)
    child = good(outcome)
    assert network.parts_from_bytes(outcome.weights or b"")[1] == {}, "nobody inherits from it"
    assert [(point["epoch"], "valid_error" in point) for point in points] == [(1, False), (2, True)]
    assert {"birth_error", "distilled_error"}.isdisjoint(child.cost) and child.cost["inherited"] == 1.0
    scratch = good(TrainEstimator(recipe(), final=True).estimate(family.child()))
    assert child.curve[0]["loss"] < scratch.curve[0]["loss"]


# --------------------------------------------------------------------------------------------------------- distillation


def test_only_children_of_edits_that_change_the_function_are_taught(family: Family) -> None:
    estimator = TrainEstimator(recipe(inherit=TAUGHT))
    pupil, heir = (good(estimator.estimate(family.child(op))) for op in ("narrow", "widen"))
    steps = len(estimator._rows.x_train) // 32
    taught = round(0.5 * steps) * 32
    assert pupil.cost["distilled_samples"] == taught
    assert pupil.cost["samples"] - taught == heir.cost["samples"] == steps * 32
    assert pupil.cost["epochs"] == 1 + taught / (steps * 32)
    assert "distilled_error" in pupil.cost
    assert not [key for key in heir.cost if key.startswith("distilled")] and heir.cost["epochs"] == 1
    assert [point["epoch"] for point in pupil.curve] == [0, 1]
    assert pupil.curve[0]["valid_error"] == pupil.cost["birth_error"]


def test_a_child_that_lost_more_at_birth_than_the_recipe_bears_is_not_trained(family: Family) -> None:
    pupil = good(TrainEstimator(recipe(inherit=TAUGHT)).estimate(family.child("remove_layer")))
    before, at_birth = family.trained.curve[-1]["valid_error"], pupil.cost["birth_error"]
    lost = at_birth - before
    assert lost > 0
    borne = TrainEstimator(recipe(inherit={**TAUGHT, "birth_loss": 1.001 * lost}))
    assert good(borne.estimate(family.child("remove_layer"))).values == pupil.values
    strict = TrainEstimator(recipe(inherit={**TAUGHT, "birth_loss": 0.999 * lost}))
    outcome = strict.estimate(family.child("remove_layer"))
    ended = outcome.estimate
    assert ended.status == "pruned" and outcome.weights is None and set(ended.values) == {"params"}
    assert f"error {at_birth:.3g} at birth, {before:.3g} of its parent" in ended.reason
    assert ended.curve == pupil.curve[:1] and ended.cost["birth_error"] == at_birth
    assert (ended.cost["samples"], ended.cost["epochs"], ended.cost["epochs_saved"]) == (0, 0, 1.5)
    assert good(strict.estimate(family.child("widen"))).cost["exact"] == 1.0


def test_a_distillation_may_have_batches_of_its_own(family: Family) -> None:
    estimator = TrainEstimator(recipe(inherit={**WEIGHTS, "distill": {"epochs": 0.5, "batch_size": 8}}))
    pupil = good(estimator.estimate(family.child("narrow")))
    steps = len(estimator._rows.x_train) // 8
    assert pupil.cost["distilled_samples"] == round(0.5 * steps) * 8


@pytest.mark.parametrize("task", ["digits", "diabetes"])
def test_distillation_brings_a_child_near_its_parent(task: str, tmp_path: Path) -> None:
    chosen = recipe(task, optimizer=ADAMW)
    estimator, family = TrainEstimator(chosen), grow(tmp_path, task, optimizer=ADAMW)
    rows, settings = estimator._rows, estimator._settings
    teacher = network.build(family.space.decode(family.genome))
    network.load(teacher, _tensors(family))
    genome, edits = family.changed("narrow")
    plan = family.space.decode(genome)
    given = inherit(family.space, parents([family.heritage], family.space, True), edits, genome, 1, None)
    pupil = network.build(plan)
    network.load(pupil, given.tensors)
    mode = Mode(CPU, None, True)
    sage = Teacher(teacher.eval(), Distill(epochs=4, weight=1.0, lr=0.01), task == "digits")
    x = rows.inputs(rows.x_train)

    def distance() -> float:
        with torch.no_grad():
            return float(sage.loss(pupil.eval()(x), sage.outputs(x), torch.zeros(())))

    before, knowing = distance(), network.to_bytes(teacher)
    done = distil(pupil, sage, rows, settings, mode, 5, Limits(None, None))
    assert distance() < 0.5 * before
    epoch = len(x) // 32 * 32
    assert (done.samples, done.epochs) == (4 * epoch, 4)
    assert network.to_bytes(teacher) == knowing, "the parent learns nothing"


@pytest.mark.parametrize(("observed", "at_a_time", "batches"), [(512, 256, [200, 200]), (21, 10, [7, 7, 7])])
def test_norms_of_heirs_observe_what_the_final_weights_give(
    observed: int, at_a_time: int, batches: list[int], family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "OBSERVED", observed)
    monkeypatch.setattr(training, "AT_A_TIME", at_a_time)
    estimator = TrainEstimator(recipe(optimizer={"kind": "sgd", "lr": 0.5}, epochs=1))
    net = _loaded(family)
    conv, norm = net.layer2.conv, net.layer2.norm
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(_: nn.Module, given: tuple[Tensor]) -> None:
        if norm.training and not torch.is_grad_enabled():
            seen.append((given[0], conv.weight.clone()))

    norm.register_forward_pre_hook(watch)
    training.train(net, estimator._rows, estimator._settings, Mode(CPU, None, True), 5, Limits(None, None), heir=True)
    assert [len(x) for x, _ in seen] == batches
    assert all(torch.equal(weight, conv.weight) for _, weight in seen)
    means, spreads = (torch.stack([of(x, (0, 2, 3)) for x, _ in seen]).mean(0) for of in (torch.mean, torch.var))
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, spreads)
    assert norm.momentum == 0.1, "it goes on as before in a grandchild"


@pytest.mark.parametrize("average", [None, 0.5])
def test_every_look_at_an_heir_is_without_what_its_parents_norms_saw(average: float | None, family: Family) -> None:
    """With a rate that moves nothing, all looks see the same."""
    still = {"optimizer": {"kind": "sgd", "lr": 1e-12}, "epochs": 2, "evaluate_every": 1, "batch_size": 128}
    estimator, net = TrainEstimator(recipe(**still, average=average)), _loaded(family)
    net.layer2.norm.running_mean.fill_(1e6)
    rows, settings = estimator._rows, estimator._settings
    done = training.train(net, rows, settings, Mode(CPU, None, True), 5, Limits(None, None), heir=True)
    first, last = (point["valid_error"] for point in done.curve)
    assert first == last == pytest.approx(family.trained.curve[-1]["valid_error"], abs=0.05)


def test_looking_at_an_heir_does_not_change_its_training() -> None:
    layers = {"op": "conv", "channels": 8, "norm": "batch"}, {"op": "dropout", "rate": 0.5}
    plan = encoding.build(DagSettings(), (1, 8, 8), 10).decode(chain(*layers))
    dull, keen = (TrainEstimator(recipe(epochs=3, evaluate_every=every)) for every in (0, 1))
    made = []
    for estimator in (dull, keen):
        net = network.build(plan, 3)
        with training._conditions(CPU, 1, 5):
            training.train(
                net, estimator._rows, estimator._settings, Mode(CPU, None, True), 5, Limits(None, None), heir=True
            )
        made.append(network.to_bytes(net))
    assert made[0] == made[1]


def test_norms_of_founders_keep_the_average_over_their_steps(family: Family) -> None:
    estimator, net = TrainEstimator(recipe(epochs=1)), _loaded(family)
    looks: list[bool] = []
    net.layer2.norm.register_forward_pre_hook(
        lambda norm, _: looks.append(torch.is_grad_enabled()) if norm.training else None
    )
    training.train(net, estimator._rows, estimator._settings, Mode(CPU, None, True), 5, Limits(None, None))
    assert looks == [True] * (len(estimator._rows.x_train) // 32)


def test_a_pupil_drops_nothing_out_and_its_norms_are_settled() -> None:
    """With a rate that moves nothing, a pupil stays what it is: dropout would change what its norms see."""
    estimator = TrainEstimator(recipe())
    rows, mode = estimator._rows, Mode(CPU, None, True)
    torch.manual_seed(1)
    body = [nn.Conv2d(1, 8, 3), nn.Dropout(0.5), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU()]
    net = nn.Sequential(*body, nn.Flatten(), nn.LazyLinear(10))
    x = rows.inputs(rows.x_train)
    norm: Any = net[3]
    with torch.no_grad():
        norm.momentum = None
        net.train()
        net[1].eval()
        net(x)
        norm.momentum = 0.1
        before = net.eval()(x)
    sage = Teacher(copy.deepcopy(net), Distill(lr=1e-12), classes=True)
    distil(net, sage, rows, estimator._settings, mode, 5, Limits(None, None))
    with torch.no_grad():
        after = net.eval()(x)
    assert float((after - before).std() / before.std()) < 0.05


def test_the_loss_is_what_hinton_wrote() -> None:
    draws = torch.Generator().manual_seed(0)
    outputs, wanted = (torch.randn(5, 3, generator=draws, dtype=torch.float64) for _ in range(2))
    sage = Teacher(nn.Identity(), Distill(temperature=3.0, weight=0.7), classes=True)
    told, known = (outputs / 3).softmax(1), (wanted / 3).softmax(1)
    slow = sum(
        float(known[i, j]) * (math.log(float(known[i, j])) - math.log(float(told[i, j])))
        for i in range(5)
        for j in range(3)
    )
    hard = torch.tensor(2.0, dtype=torch.float64)
    assert float(sage.loss(outputs, wanted, hard)) == pytest.approx(0.7 * 9 * slow / 5 + 0.3 * 2.0)
    assert float(sage.loss(wanted, wanted, hard)) == pytest.approx(0.3 * 2.0)
    free = Teacher(nn.Identity(), Distill(weight=0.7), classes=False)
    assert float(free.loss(outputs, wanted, hard)) == pytest.approx(
        0.7 * float((outputs - wanted).square().mean()) + 0.3 * 2.0
    )


def test_a_distillation_that_diverges_is_a_failure(family: Family) -> None:
    wild = {**WEIGHTS, "distill": {"epochs": 20, "lr": 100.0}}
    chosen = recipe(inherit=wild, optimizer={"weight_decay": 10.0})
    assert failed(TrainEstimator(chosen).estimate(family.child("narrow"))).startswith("diverged: the loss is ")


# ---------------------------------------------------------------------------------------------- the optimiser's state


def test_weights_files_carry_the_optimisers_state_and_nobody_else_sees_it(family: Family) -> None:
    named = read_safetensors(family.content)
    tensors, moments = network.parts_from_bytes(family.content)
    plan = family.space.decode(family.genome)
    built = network.build(plan)
    assert set(moments) == {"momentum_buffer"}
    assert set(moments["momentum_buffer"]) == {name for name, _ in built.named_parameters()}
    assert set(named) == set(tensors) | {f"optimizer.momentum_buffer/{name}" for name in moments["momentum_buffer"]}
    network.load(built, network.from_bytes(family.content))
    assert network.bare(family.content) == network.to_bytes(built)
    assert network.parts_from_bytes(network.to_bytes(built, moments))[1].keys() == moments.keys()
    shipped = module_files(plan, family.content, "mine")["mine.safetensors"]
    assert shipped == network.to_bytes(built)


def test_without_moments_no_state_is_kept_or_taken(family: Family) -> None:
    alone = TrainEstimator(recipe(inherit={**WEIGHTS, "moments": False}))
    with_them, without = TrainEstimator(recipe()).estimate(family.child()), alone.estimate(family.child())
    assert network.parts_from_bytes(without.weights or b"")[1] == {}
    assert good(with_them).cost["birth_error"] == good(without).cost["birth_error"]
    assert good(with_them).curve[1]["loss"] != good(without).curve[1]["loss"], "the state is used"


def test_sgd_goes_on_with_its_momentum() -> None:
    layer = nn.Linear(3, 2)
    built = training.optimiser(layer, Optimizer(weight_decay=0.0, nesterov=False, lr=0.1), CPU)
    carried = {"momentum_buffer": {name: torch.full_like(p, 2.0) for name, p in layer.named_parameters()}}
    carry_moments(layer, built, carried)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    _step(layer, built, 1.0)
    for name, parameter in layer.named_parameters():
        assert torch.allclose(parameter, before[name] - 0.1 * (0.9 * 2.0 + 1.0))
    kept = kept_moments(layer, built)
    assert all(torch.allclose(one, torch.tensor(2.8)) for one in kept["momentum_buffer"].values())


def test_adamw_goes_on_with_unbiased_moments() -> None:
    layer = nn.Linear(3, 2)
    first = training.optimiser(layer, Optimizer.model_validate({**ADAMW, "weight_decay": 0.0}), CPU)
    for _ in range(3):
        _step(layer, first, 2.0)
    kept = kept_moments(layer, first)
    assert all(torch.allclose(one, torch.tensor(2.0)) for one in kept["exp_avg"].values()), "as if known for ever"
    assert all(torch.allclose(one, torch.tensor(4.0)) for one in kept["exp_avg_sq"].values())
    second = training.optimiser(layer, Optimizer.model_validate({**ADAMW, "weight_decay": 0.0}), CPU)
    carry_moments(layer, second, kept)
    again = kept_moments(layer, second)
    assert all(torch.allclose(again[state][name], kept[state][name]) for state in kept for name in kept[state])


def test_new_entries_beside_inherited_moments_take_no_leap() -> None:
    """Beside moments that count for thousands of steps the first updates would be up to 6.6 rates long."""
    layer = nn.Linear(1, 2, bias=False)
    built = training.optimiser(layer, Optimizer.model_validate({**ADAMW, "weight_decay": 0.0}), CPU)
    old = torch.tensor([[1.0], [0.0]])
    carry_moments(layer, built, {"exp_avg": {"weight": old}, "exp_avg_sq": {"weight": old}})
    longest = 0.0
    for _ in range(100):
        before = layer.weight.detach().clone()
        _step(layer, built, 1.0)
        longest = max(longest, float((layer.weight.detach() - before).abs().max()))
    assert longest <= 1.13 * 0.01


def test_carried_state_lies_in_memory_as_its_parameters_do() -> None:
    """Fused optimisers walk through both alike: channels last must not mix the entries up."""
    plain, last = (nn.Conv2d(3, 4, 3, bias=False) for _ in range(2))
    last.load_state_dict(plain.state_dict())
    last = last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    carried = {"momentum_buffer": {"weight": torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))}}
    for one in (plain, last):
        built = training.optimiser(one, Optimizer(weight_decay=0.0), CPU)
        carry_moments(one, built, carried)
        _step(one, built, 1.0)
    assert torch.equal(plain.weight, last.weight)


def test_the_state_of_another_kind_of_optimiser_is_not_used(family: Family) -> None:
    chosen = recipe(optimizer=ADAMW)
    with_foreign, without = (
        TrainEstimator(chosen).estimate(replace(family.child(), parents=(parent,)))
        for parent in (family.heritage, _bare(family))
    )
    assert good(with_foreign).curve == good(without).curve


# ------------------------------------------------------------------------------------------------------------ failures


def test_a_damaged_file_is_a_failure_with_its_reason(family: Family, estimator: TrainEstimator, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(family.content[:-1] + b"x")
    for path, sha, reason in (
        (damaged, family.heritage.sha256, r"weights of parent 7: the \d+ bytes of .* do not have the SHA-256 "),
        (tmp_path / "gone.safetensors", family.heritage.sha256, r"weights of parent 7: cannot read .*No such file"),
    ):
        parent = replace(family.heritage, path=str(path), sha256=sha)
        assert re.match(reason, failed(estimator.estimate(replace(family.child(), parents=(parent,)))))


def test_what_is_no_weights_file_of_the_parent_is_a_failure(
    family: Family, estimator: TrainEstimator, tmp_path: Path
) -> None:
    tensors = _tensors(family)
    first = next(name for name in tensors if name.endswith("conv.weight"))
    other = write_safetensors({**tensors, first: tensors[first][:, :, :1].contiguous()})
    for content, reason in ((b"evonas", "are no safetensors file"), (other, f"lack {first}")):
        path = tmp_path / "other.safetensors"
        path.write_bytes(content)
        parent = replace(family.heritage, path=str(path), sha256=hashlib.sha256(content).hexdigest())
        assert reason in failed(estimator.estimate(replace(family.child(), parents=(parent,))))


def test_edits_that_lead_elsewhere_are_a_failure(family: Family, estimator: TrainEstimator) -> None:
    assert "are they of another parent" in failed(estimator.estimate(replace(family.child("widen"), edits=())))


def test_what_is_not_finite_is_not_recorded(tmp_path: Path) -> None:
    """A regression whose inherited outputs overflow has no error at birth, and no number that a store would refuse."""
    family = grow(tmp_path, "diabetes", optimizer=ADAMW)
    wild = {name: value * 1e30 if name == "layer1.linear.weight" else value for name, value in _tensors(family).items()}
    path = tmp_path / "wild.safetensors"
    path.write_bytes(write_safetensors(wild))
    parent = replace(family.heritage, path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    job = replace(family.child(), parents=(parent,))
    estimator = TrainEstimator(recipe("diabetes", optimizer=ADAMW))
    genome = family.space.from_json(job.genome)
    look = estimator._look(estimator._settings, genome, family.space.decode(genome))
    mode = Mode.choose(estimator._settings, CPU, look.plan)
    begun = estimator._begun(job, genome, look, mode, Limits(None, None))
    assert begun.curve == () and "birth_error" not in begun.ledger
    dumps(estimator.estimate(job).estimate.to_json())


# ----------------------------------------------------------------------------------------------------------------- runs

RUN: dict[str, Any] = {
    "task": {"kind": "digits", "limit": 120},
    "objectives": ["error", "params"],
    "encoding": {"bounds": {"flops": "100k"}},
    "strategy": {"kind": "nsga2", "population": 4, "generations": 3},
    "estimator": {"kind": "train", "epochs": 3, "inherit": {"epochs": 1}},
    "final": {"epochs": 1, "inherit": "weights"},
    "pool": {"kind": "serial"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evonas.start(RUN, name="run", runs=tmp_path_factory.mktemp("runs")).folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> evonas.Run:
    """A run of the test's own, to change as it likes."""
    return evonas.open(shutil.copytree(finished, tmp_path / "run"))


def test_the_run_tells_what_inheriting_saved(run: evonas.Run) -> None:
    estimates = run.store.estimates()
    for row in run.generations():
        born = [one.id for one in run.individuals() if one.birth == row["generation"] - 1]
        costs = [estimates[id].cost for id in born]
        ledger = row["inheritance"]
        births = [cost["birth_error"] for cost in costs if "birth_error" in cost]
        assert ledger["samples"] == sum(cost["samples"] for cost in costs)
        assert ledger["children"] == len(births) == (0 if row["generation"] == 1 else 4)
        assert ledger["epochs_saved"] == 2 * len(births)
        assert ledger["birth_error"] == (pytest.approx(sum(births) / 4) if births else None)
    plain = evonas.start({**RUN, "estimator": {"epochs": 1}}, name="plain", runs=run.folder.parent)
    assert all("inheritance" not in row for row in plain.generations())


def test_the_run_tells_whom_it_did_not_train_for_what_they_lost_at_birth(tmp_path: Path) -> None:
    strict = {"kind": "train", "epochs": 3, "inherit": {"epochs": 2, "birth_loss": 1e-9}}
    run = evonas.start({**RUN, "estimator": strict}, name="strict", runs=tmp_path)
    rows = run.individuals()
    errors = {row.id: row.values.get("error") for row in rows}
    pruned = [row for row in rows if row.status == "pruned"]
    trained = [row for row in rows if row.cost.get("exact") == 0 and row.status == "ok"]
    assert pruned and all(row.cost["birth_error"] > errors[row.parents[0]] for row in pruned)
    assert trained and all(row.cost["birth_error"] <= errors[row.parents[0]] for row in trained)
    saved = run.saved()
    assert saved is not None and (saved.pruned, saved.epochs) == (len(pruned), 2 * len(pruned))


def test_the_living_keep_their_weights_and_show_them_as_before(run: evonas.Run) -> None:
    state = run.state()
    assert state is not None
    living = {estimate.weights for estimate in state.estimates.values()}
    assert {path.stem for path in (run.folder / "weights").iterdir()} == living
    data = run.task.load(run.recipe.seed)
    x = torch.from_numpy(
        (data.x_valid.astype("float32") - data.mean.reshape(1, -1, 1, 1)) / data.std.reshape(1, -1, 1, 1)
    )
    for row in run.front():
        assert not any(name.startswith("optimizer.") for name in read_safetensors(run.weights(row.id)))
        with torch.no_grad():
            error = float((run.network(row.id)(x).argmax(1).numpy() != data.y_valid).mean())
        assert error == pytest.approx(row.values["error"], abs=1e-9)


def test_what_a_child_inherits_depends_on_the_state_alone(run: evonas.Run) -> None:
    """Weights of the dead do not count, even where their files are still there; unless the recipe keeps all."""
    state = run.state()
    assert state is not None
    parent, mate = (one.id for one in state.population[:2])
    dead = next(id for id in run.store.estimates() if id not in state.estimates)
    search = _Search(run, None, SimpleNamespace(workers=1), None, None)  # type: ignore[arg-type]

    def inherited(parents: tuple[int, ...], now: State = state) -> list[int | None]:
        child = Individual(99, run.genome(parent), parents, (Edit("mate"),), 3)
        (job,) = search.jobs([child], now)
        assert bool(job.edits) == bool(job.parents)
        return [one.id for one in job.parents]

    assert inherited((parent,)) == [parent]
    assert inherited((parent, mate)) == [parent, mate]
    assert inherited(()) == inherited((dead,)) == inherited((parent, dead)) == []
    lost = {**state.estimates, parent: Estimate.failed(parent, "for a test")}
    assert inherited((parent,), replace(state, estimates=lost)) == []


def test_the_recipe_may_keep_all_weights_for_children_to_come(tmp_path: Path) -> None:
    run = evonas.start({**RUN, "store": {"keep_weights": "all"}}, name="all", runs=tmp_path)
    state = run.state()
    assert state is not None
    dead = next(id for id in run.store.estimates() if id not in state.estimates)
    search = _Search(run, None, SimpleNamespace(workers=1), None, None)  # type: ignore[arg-type]
    (job,) = search.jobs([Individual(99, run.genome(dead), (dead,), (), 3)], state)
    assert [one.id for one in job.parents] == [dead]
    assert Path(job.parents[0].path).read_bytes() == run.store.weights(job.parents[0].sha256)


def test_final_trainings_that_go_on_need_the_weights_of_the_search(run: evonas.Run) -> None:
    best = run.front()[0].id
    tested = evonas.test(run, [best]).store.tests()
    assert tested[0]["cost"]["inherited"] == 1.0 and "birth_error" not in tested[0]["cost"]
    state = run.state()
    assert state is not None
    dead = next(id for id in run.store.estimates() if id not in state.estimates)
    with pytest.raises(RecipeError, match=rf"individual {dead} has no weights .* set final.inherit: none"):
        evonas.test(run, [dead])


# ----------------------------------------------------------------------------------------------------------------- cuda


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", [{"kind": "sgd"}, ADAMW])
def test_cuda_children_inherit_repeatably(family: Family, optimizer: dict[str, Any]) -> None:
    chosen = recipe(inherit=TAUGHT, device="cuda", optimizer=optimizer, augment={"shift": 1})
    estimator = TrainEstimator(chosen)
    for op in ("widen", "narrow"):
        once, again = estimator.estimate(family.child(op)), estimator.estimate(family.child(op))
        assert good(once).curve == good(again).curve and once.weights == again.weights
        assert network.parts_from_bytes(once.weights or b"")[1]
    born = good(estimator.estimate(family.child("widen"))).cost["birth_error"]
    assert born == pytest.approx(family.trained.curve[-1]["valid_error"], abs=0.03), "another device, other roundings"


def _tensors(family: Family) -> dict[str, Tensor]:
    return network.from_bytes(family.content)


def _loaded(family: Family) -> Any:
    """The parent's network."""
    net = network.build(family.space.decode(family.genome))
    network.load(net, _tensors(family))
    return net


def _bare(family: Family) -> Heritage:
    """The parent's weights without the optimiser's state."""
    path = family.path.with_name("bare.safetensors")
    path.write_bytes(network.bare(family.content))
    return replace(family.heritage, path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _step(layer: nn.Module, built: torch.optim.Optimizer, gradient: float) -> None:
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    built.step()
