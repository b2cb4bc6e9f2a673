"""Training: repeatable, on the rows it should see, with every limit and failure as a value."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evonas import encoding, estimate
from evonas.core import DataError, Job, RecipeError, seed_of, stream
from evonas.estimate import Augment, FinalSettings, Optimizer, Schedule, TrainSettings
from evonas.estimate import train as training
from evonas.estimate.data import prepare, stage, staged
from evonas.estimate.lookup import LookupEstimator
from evonas.estimate.train import Limits, Mode, Rows, TrainEstimator, mirrored, punched, rate, shifted, train
from evonas.marks import Marks
from evonas.phenotype import network
from evonas.task.data import Data, TaskShape
from evonas.validation import descriptions

CPU = torch.device("cpu")


def recipe(task: str = "digits", objectives: Any = ("error", "params"), **estimator: Any) -> dict[str, Any]:
    settings = TrainSettings.model_validate({"epochs": 2, "batch_size": 64, **estimator}).model_dump(mode="json")
    final = FinalSettings(epochs=2, batch_size=64).model_dump(mode="json")
    return {
        "version": 1, "name": "test", "seed": 3, "task": {"kind": task}, "encoding": {"kind": "dag"},
        "objectives": list(objectives), "estimator": settings, "final": final,
    }  # fmt: skip


def job(task: str = "digits", seed: int = 5, mutations: int = 3) -> Job:
    shape = {"digits": ((1, 8, 8), 10), "diabetes": ((10,), 1), "iris": ((4,), 3)}[task]
    space = encoding.build(encoding.TABLE["dag"](), *shape)
    rng, book = stream(seed, "test"), Marks().open()
    genome = space.random(rng, book)
    for _ in range(mutations):
        changed = space.mutate(genome, rng, book)
        genome = changed[0] if changed else genome
    return Job(7, 11, space.to_json(genome))


@pytest.fixture(scope="module")
def digits() -> Data:
    return prepare(recipe())


def loop(rows: Rows, net: nn.Module, settings: TrainSettings) -> training.Trained:
    return train(net, rows, settings, Mode(CPU, None, True), 1, Limits(None, None))


def tiny_rows(count: int = 64, kind: str = "classification") -> Rows:
    """Images whose class is the half that is bright."""
    draws = np.random.default_rng(0)
    y = draws.integers(0, 2, count)
    x = draws.integers(0, 50, (count, 8, 8, 1), dtype=np.uint8)
    for i, half in enumerate(y):
        x[i, :, 4 * half : 4 * half + 4] += 150
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    shape = TaskShape((1, 8, 8), 2, "classification", ("left", "right"))
    return Rows.on(CPU, Data(x, y, x[:32], y[:32], zero + 90, one * 70, zero, one, shape))


class Linear(nn.Module):
    """A line through the pixels; keeps every batch that it has seen in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 2)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(x.detach().clone())
        outputs: torch.Tensor = self.layer(x.flatten(1))
        return outputs


# -------------------------------------------------------------------------------------------------- learning, repeating


def test_the_loop_learns() -> None:
    trained = loop(tiny_rows(256), Linear(), TrainSettings(epochs=5, batch_size=32, optimizer=Optimizer(lr=0.05)))
    assert trained.curve[-1]["valid_error"] == 0.0
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"]
    assert [point["epoch"] for point in trained.curve] == [1, 2, 3, 4, 5]
    assert (trained.epochs, trained.samples) == (5, 5 * 256)


def test_every_row_is_seen_once_per_epoch_in_a_new_order_and_normalised() -> None:
    rows = tiny_rows(96)
    net = Linear()
    loop(rows, net, TrainSettings(epochs=2, batch_size=32))
    whole = rows.inputs(rows.x_train)
    assert torch.allclose(whole, (rows.x_train.permute(0, 3, 1, 2).float() - 90) / 70, atol=1e-6)
    first, second = torch.cat(net.seen[:3]), torch.cat(net.seen[3:])
    for epoch in (first, second):
        assert sorted(map(float, epoch.sum((1, 2, 3)))) == sorted(map(float, whole.sum((1, 2, 3))))
    assert not torch.equal(first, second)


def test_fewer_rows_than_a_batch_make_one_batch_of_all() -> None:
    net = Linear()
    loop(tiny_rows(20), net, TrainSettings(epochs=1, batch_size=512))
    assert [len(batch) for batch in net.seen] == [20]


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw", "schedule": "constant", "label_smoothing": 0.1},
        {"augment": {"shift": 1, "flip": True, "cutout": 3}, "clip": 1.0},
        {"average": 0.9, "schedule": {"kind": "warm_restarts", "period": 1}},
    ],
)
def test_equal_seeds_give_equal_bits_and_other_seeds_others(settings: dict[str, Any]) -> None:
    todo, estimator = job(), TrainEstimator(recipe(**settings))
    once, again = estimator.estimate(todo), estimator.estimate(todo)
    assert once.estimate.status == "ok", once.estimate.reason
    assert once.estimate.values == again.estimate.values
    assert once.estimate.curve == again.estimate.curve
    assert once.weights == again.weights
    assert estimator.estimate(replace(todo, seed=12)).weights != once.weights


def test_an_estimate_leaves_the_callers_random_streams_and_threads_alone() -> None:
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate(), torch.get_num_threads()
    TrainEstimator(recipe()).estimate(job())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), torch.get_num_threads()) == before[1:]


def test_the_callers_random_streams_do_not_reach_an_estimate() -> None:
    estimator, todo = TrainEstimator(recipe()), job()
    torch.manual_seed(1)
    first = estimator.estimate(todo)
    torch.manual_seed(2)
    assert estimator.estimate(todo).weights == first.weights


def test_training_works_under_torchs_deterministic_mode() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        outcome = TrainEstimator(recipe(augment={"shift": 1, "flip": True, "cutout": 3})).estimate(job())
    finally:
        torch.use_deterministic_algorithms(False)
    assert outcome.estimate.status == "ok", outcome.estimate.reason


def test_the_weights_are_those_that_were_measured() -> None:
    todo, chosen = job(), recipe(objectives=["error", "loss"], average=0.5)
    estimator = TrainEstimator(chosen)
    outcome = estimator.estimate(todo)
    space = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    plan = space.decode(space.from_json(todo.genome))
    assert outcome.weights is not None
    net = network.build(plan, None)
    network.load(net, network.from_bytes(outcome.weights))
    outputs = training.predict(net, estimator._rows, Mode(CPU, None, False))
    error = float((outputs.argmax(1) != estimator._rows.y_valid).float().mean())
    assert outcome.estimate.values["error"] == pytest.approx(error, abs=2 / len(outputs))


def test_a_regression_is_measured_in_its_own_units() -> None:
    chosen = recipe("diabetes", epochs=30, optimizer={"kind": "adamw", "lr": 0.01})
    outcome = TrainEstimator(chosen).estimate(job("diabetes"))
    assert outcome.estimate.status == "ok", outcome.estimate.reason
    spread = float(prepare(recipe("diabetes")).y_valid.var())
    assert 0.2 * spread < outcome.estimate.values["error"] < 1.5 * spread


def test_the_average_of_the_weights_is_kept_and_the_last_ones_go_on_training() -> None:
    rows = tiny_rows(256)
    settings = TrainSettings(epochs=3, batch_size=32, average=0.9, schedule=Schedule(kind="constant"))
    averaged, plain = Linear(), Linear()
    loop(rows, averaged, settings)
    loop(rows, plain, settings.model_copy(update={"average": None}))
    assert all(torch.equal(a, b) for a, b in zip(averaged.seen, plain.seen, strict=True)), "same batches"
    average, last = averaged.layer.weight.detach(), plain.layer.weight.detach()
    assert 1e-4 < float((average - last).norm() / last.norm()) < 0.5


# ----------------------------------------------------------------------------------------------------------- failures


def failed(outcome: Any) -> str:
    assert outcome.estimate.status == "failed" and outcome.weights is None
    assert "\n" not in outcome.estimate.reason
    reason: str = outcome.estimate.reason
    return reason


def test_divergence_is_a_failure_that_keeps_the_cheap_values() -> None:
    chosen = recipe(optimizer={"lr": 100.0, "weight_decay": 10.0}, epochs=20, schedule="constant")
    outcome = TrainEstimator(chosen).estimate(job())
    assert failed(outcome).startswith("diverged: the loss is ")
    assert set(outcome.estimate.values) == {"params"}
    assert outcome.estimate.cost["seconds"] > 0


def test_the_time_limit() -> None:
    began = time.monotonic()
    outcome = TrainEstimator(recipe(epochs=10_000, time_limit=0.3)).estimate(job())
    assert failed(outcome) == "time limit of 0.3 s passed"
    assert time.monotonic() - began < 10


def test_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter(range(0, 10**9, 40_000_000))
    monkeypatch.setattr(estimate, "private_memory", lambda: next(taken))
    monkeypatch.setattr(Limits, "INTERVAL", 0.0)
    outcome = TrainEstimator(recipe(memory_limit="100M")).estimate(job())
    assert failed(outcome) == "memory limit of 100 MB passed"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("odd\nshape"), "ValueError: odd shape"),
        (MemoryError(), "out of memory on cpu"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "out of memory on cpu"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory on cpu"),
        (SystemExit(3), "SystemExit: 3"),
        (RecursionError("too deep"), "RecursionError: too deep"),
    ],
)
def test_what_a_network_raises_is_a_failure(monkeypatch: pytest.MonkeyPatch, error: BaseException, reason: str) -> None:
    def broken(*_: object) -> None:
        raise error

    estimator = TrainEstimator(recipe())
    monkeypatch.setattr(network.Network, "forward", broken)
    assert failed(estimator.estimate(job())).startswith(reason)


def test_an_interrupt_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    estimator = TrainEstimator(recipe())
    monkeypatch.setattr(network.Network, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        estimator.estimate(job())


def test_a_genome_that_is_none_is_a_failure() -> None:
    assert failed(TrainEstimator(recipe()).estimate(Job(1, 1, {"layers": "none"})))


def test_a_users_objective_that_raises_or_is_nan_fails_its_individual(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def bad(network, data):\n    return 1 / 0\ndef nan(network, data):\n    return float('nan')\n"
    )
    for name, reason in (("bad", "ZeroDivisionError: division by zero"), ("nan", "objective 'nan' is nan")):
        listed = ["error", {"name": name, "function": f"{tmp_path / 'mine.py'}:{name}"}]
        assert failed(TrainEstimator(recipe(objectives=listed)).estimate(job())) == reason


@pytest.mark.parametrize(
    ("settings", "task", "message"),
    [
        ({"augment": {"flip": True}}, "iris", "augment is for images, the task has 4 plain features"),
        ({"label_smoothing": 0.1}, "diabetes", "label_smoothing 0.1 is for classes, the task is a regression"),
        ({"augment": {"cutout": 9}}, "digits", r"augment.cutout 9 is larger than the image \(8, 8\)"),
        ({"precision": "fp16"}, "digits", "precision fp16 needs cuda, the device is cpu"),
        ({"device": "cuda"}, "digits", "device 'cuda' is not usable on this machine: take auto or cpu"),
    ],
)
def test_settings_that_do_not_fit_task_or_machine(
    settings: dict[str, Any], task: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match=message):
        TrainEstimator(recipe(task, **settings))


# ------------------------------------------------------------------------------------------------------- rows and parts


def test_staged_rows_are_those_of_the_task_and_give_the_same_estimate(digits: Data, tmp_path: Path) -> None:
    stage(digits, tmp_path)
    mapped = staged(tmp_path)
    assert mapped.shape == digits.shape
    for name in ("x_train", "y_train", "x_valid", "y_valid", "mean", "std"):
        assert np.array_equal(getattr(mapped, name), getattr(digits, name))
    direct, through = (TrainEstimator(recipe(), folder).estimate(job()) for folder in (None, tmp_path))
    assert direct.weights == through.weights and direct.estimate.values == through.estimate.values


def test_damaged_staged_rows_are_noticed(digits: Data, tmp_path: Path) -> None:
    stage(digits, tmp_path)
    file = tmp_path / "x_train.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"the workers' data in .* cannot be read"):
        staged(tmp_path)


def test_a_share_is_one_subset_for_the_whole_run(digits: Data) -> None:
    half, again = prepare(recipe(share=0.5)), prepare(recipe(share=0.5))
    assert len(half.x_train) == round(0.5 * len(digits.x_train))
    assert np.array_equal(half.x_train, again.x_train)
    assert np.array_equal(half.x_valid, digits.x_valid)
    assert not np.array_equal(half.x_train, prepare({**recipe(share=0.5), "seed": 4}).x_train)


def test_a_fresh_share_is_drawn_anew_for_every_epoch_from_all_rows(digits: Data) -> None:
    assert len(prepare(recipe(share=0.5, fresh=True)).x_train) == len(digits.x_train)
    rows, net = tiny_rows(96), Linear()
    trained = loop(rows, net, TrainSettings(epochs=6, batch_size=16, share=1 / 3, fresh=True))
    assert trained.samples == 6 * 32 and [len(batch) for batch in net.seen] == [16] * 12
    every = {float(row.sum()) for row in rows.inputs(rows.x_train)}
    epochs = [{float(row.sum()) for row in torch.cat(net.seen[at : at + 2])} for at in range(0, 12, 2)]
    assert all(epoch < every for epoch in epochs)
    assert len(set.union(*epochs)) > 2 * 32 and epochs[0] != epochs[1]


def test_a_jobs_share_of_fresh_rows_is_a_share_of_all(digits: Data) -> None:
    estimator = TrainEstimator(recipe(share=0.5, fresh=True))
    asked = replace(job(), fidelity={"share": 0.25})
    cost = estimator.estimate(asked).estimate.cost
    assert cost["samples"] == 2 * (round(0.25 * len(digits.x_train)) // 64 * 64)


def test_fresh_rows_are_reduced_as_they_are_drawn_and_the_same_then(digits: Data) -> None:
    whole, positions = Rows.on(CPU, digits), torch.tensor([5, 0, 7, 5])
    early, late = whole.at(1.0, 0.5, 3), whole.at(1.0, 0.5, 3, fresh=True)
    assert late.x_train is whole.x_train and early.shape == late.shape
    assert torch.equal(early.drawn(positions), late.drawn(positions)) and late.drawn(positions).shape == (4, 4, 4, 1)
    assert torch.equal(early.x_valid, late.x_valid)


def test_only_the_final_training_meets_the_test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from evonas.task.data import SplitTask

    asked: list[int] = []
    original = SplitTask.load_test

    def load_test(self: SplitTask, seed: int) -> Any:
        asked.append(seed)
        return original(self, seed)

    monkeypatch.setattr(SplitTask, "load_test", load_test)
    search = prepare(recipe())
    assert asked == []
    final = prepare(recipe(), final=True)
    assert asked == [3]
    assert len(final.x_train) == len(search.x_train) + len(search.x_valid)
    rows = {row.tobytes() for row in final.x_train.astype(np.float32)}
    held_out = [row.tobytes() for row in final.x_valid.astype(np.float32)]
    assert sum(one in rows for one in held_out) <= 0.01 * len(held_out), "digits holds no row twice"


def test_the_final_training_follows_its_own_section_and_looks_at_the_test_set_once() -> None:
    points: list[Mapping[str, float]] = []
    outcome = training.TrainEstimator(recipe(epochs=1), final=True).estimate(Job(0, 11, job().genome), points.append)
    assert outcome.estimate.status == "ok", outcome.estimate.reason
    assert [("valid_error" in point) for point in points] == [False, True]
    assert len(outcome.estimate.curve) == 2


def test_without_its_validation_rows_the_final_training_has_the_searchs_rows(digits: Data) -> None:
    chosen = recipe()
    chosen["final"]["validation"] = False
    assert len(prepare(chosen, final=True).x_train) == len(digits.x_train)


# ------------------------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize("channels", [1, 3])
def test_shifted_crops_out_of_a_padded_image(channels: int) -> None:
    images = torch.arange(5 * 6 * 7 * channels, dtype=torch.int32).reshape(5, 6, 7, channels) + 1
    shifts = torch.tensor([[2, 2], [0, 0], [4, 4], [0, 3], [1, 4]])
    moved = shifted(images, shifts, 2)
    padded = torch.zeros(5, 10, 11, channels, dtype=torch.int32)
    padded[:, 2:8, 2:9] = images
    for i, (down, right) in enumerate(shifts.tolist()):
        assert torch.equal(moved[i], padded[i, down : down + 6, right : right + 7])


def test_mirrored_turns_the_first_half_over() -> None:
    images = torch.arange(5 * 2 * 3).reshape(5, 2, 3, 1)
    turned = mirrored(images)
    assert torch.equal(turned[:2], images[:2].flip(2)) and torch.equal(turned[2:], images[2:])


@pytest.mark.parametrize(("side", "inside"), [(1, 1), (2, 4), (3, 9), (4, 16)])
def test_punched_sets_a_square_to_the_mean(side: int, inside: int) -> None:
    holes = torch.tensor([[4, 5], [0, 0]])
    x = punched(torch.ones(2, 3, 9, 10), holes, side)
    assert (x[0] == 0).sum() == 3 * inside
    assert x[0, 0, 4, 5] == 0 and x[1, 0, 0, 0] == 0
    assert (x[1] == 0).sum() <= 3 * inside, "cut off at the border"


def test_augmentation_reaches_the_network_and_never_the_validation_rows() -> None:
    rows, plain, changed = tiny_rows(), Linear(), Linear()
    settings = TrainSettings(epochs=1, batch_size=64)
    loop(rows, plain, settings)
    before = rows.x_train.clone()
    loop(rows, changed, settings.model_copy(update={"augment": Augment(shift=2, flip=True, cutout=2)}))
    assert not torch.equal(plain.seen[0], changed.seen[0])
    assert torch.equal(rows.x_train, before), "the stored rows stay as they are"


# ------------------------------------------------------------------------------------------------------------ schedules


def test_cosine_falls_from_the_highest_to_the_floor() -> None:
    schedule = Schedule(kind="cosine", floor=0.1)
    rates = [rate(schedule, at / 10, 10) for at in range(101)]
    assert rates[0] == 1.0 and rates[50] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)


def test_warm_restarts_double_their_period() -> None:
    schedule = Schedule(kind="warm_restarts", period=1, factor=2)
    assert [rate(schedule, start, 7) for start in (0, 1, 3)] == [1.0, 1.0, 1.0]
    assert [rate(schedule, middle, 7) for middle in (0.5, 2, 5)] == pytest.approx([0.5, 0.5, 0.5])
    assert rate(schedule, 6.999, 7) < 1e-5


def test_warmup_rises_in_a_line_and_then_the_schedule_begins() -> None:
    schedule = Schedule(kind="cosine", warmup=2)
    assert [rate(schedule, at, 10) for at in (0.5, 1, 2)] == [0.25, 0.5, 1.0]
    assert rate(schedule, 6, 10) == pytest.approx(0.5)
    assert rate(Schedule(kind="constant", warmup=1), 5, 10) == 1.0


@pytest.mark.parametrize("kind", ["constant", "cosine", "warm_restarts"])
def test_rates_are_shares(kind: Any) -> None:
    schedule = Schedule(kind=kind, warmup=0.3, floor=0.05, period=0.7, factor=1.5)
    rates = [rate(schedule, at / 100, 5) for at in range(501)]
    assert all(0 <= one <= 1 for one in rates)
    assert schedule.kind != "cosine" or rates[-1] == pytest.approx(0.05)


# ------------------------------------------------------------------------------------------------------------- settings


def test_weight_decay_spares_norms_and_biases() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    built = training.optimiser(net, Optimizer(kind="adamw"), CPU)
    by_decay = {group["weight_decay"]: [tuple(one.shape) for one in group["params"]] for group in built.param_groups}
    assert by_decay == {0.05: [(2, 1, 3, 3)], 0.0: [(2,), (2,), (2,)]}


def test_a_kind_brings_its_own_defaults_and_refuses_the_others() -> None:
    adamw = TrainSettings.model_validate({"optimizer": "adamw"}).optimizer
    assert (adamw.lr, adamw.betas, adamw.momentum) == (0.01, (0.9, 0.999), None)
    assert TrainSettings.model_validate({"optimizer": {"lr": 0.5}}).optimizer.kind == "sgd"
    assert TrainSettings.model_validate(TrainSettings(optimizer=adamw).model_dump(mode="json")).optimizer == adamw
    for wrong in ({"kind": "adamw", "momentum": 0.9}, {"kind": "sgd", "betas": [0.9, 0.99]}, {"momentum": 0.0}):
        with pytest.raises(ValueError, match=r"takes no|needs a momentum"):
            TrainSettings.model_validate({"optimizer": wrong})


def test_precision_and_layout_follow_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(flops: int, **settings: Any) -> Mode:
        from evonas.encoding.plan import Plan, Step

        plan = Plan((Step("input", "input", (), (1, 8, 8), flops=flops),))
        return Mode.choose(TrainSettings.model_validate(settings), CPU, plan)

    monkeypatch.setattr(training, "_cpu_bf16", lambda device: True)
    assert chosen(20_000_000).dtype is torch.bfloat16
    assert chosen(1_000_000).dtype is None, "small networks lose by it"
    assert chosen(20_000_000, precision="fp32").dtype is None
    monkeypatch.setattr(training, "_cpu_bf16", lambda device: False)
    assert chosen(20_000_000).dtype is None
    assert chosen(1, precision="bf16").dtype is torch.bfloat16
    assert chosen(1).channels_last and not chosen(1, channels_last=False).channels_last


def test_bf16_trains() -> None:
    outcome = TrainEstimator(recipe(precision="bf16")).estimate(job())
    assert outcome.estimate.status == "ok", outcome.estimate.reason


@pytest.mark.parametrize("settings", [*estimate.TABLE.values(), FinalSettings, Optimizer, Schedule, Augment])
def test_every_setting_is_described(settings: Any) -> None:
    assert set(descriptions(settings)) >= set(settings.model_fields) - {"kind"}


def test_settings_load_no_torch() -> None:
    code = (
        "import sys; from evonas import estimate, pool; estimate.TrainSettings(); "
        "assert not {'torch', 'deap', 'sklearn', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])


# --------------------------------------------------------------------------------------------------------------- lookup


def test_lookup_gives_cheap_objectives_without_training() -> None:
    chosen = {**recipe(objectives=["params", "flops"]), "estimator": {"kind": "lookup"}}
    outcome = LookupEstimator(chosen).estimate(job())
    space = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    plan = space.decode(space.from_json(job().genome))
    assert outcome.estimate.values == {"params": plan.params, "flops": plan.flops}
    assert outcome.weights is None


def test_lookup_asks_the_users_function(tmp_path: Path) -> None:
    (tmp_path / "known.py").write_text(
        "def error(genome, plan):\n"
        "    return {'error': 1 / plan.params, 'params': plan.params + 1}\n"
        "def bad(genome, plan):\n    raise OSError('no table')\n"
        "def little(genome, plan):\n    return {}\n"
    )

    def asked(name: str) -> Any:
        section = {"kind": "lookup", "function": f"{tmp_path / 'known.py'}:{name}"}
        return LookupEstimator({**recipe(), "estimator": section}).estimate(job()).estimate

    known = asked("error")
    assert known.values["error"] == pytest.approx(1 / (known.values["params"] - 1))
    assert asked("bad").reason == "OSError: no table"
    assert asked("little").reason == "objective 'error' has no value"


def test_lookup_refuses_what_needs_training() -> None:
    with pytest.raises(RecipeError, match="objective 'error' needs training, and estimator 'lookup' does none"):
        LookupEstimator({**recipe(), "estimator": {"kind": "lookup"}})


# ----------------------------------------------------------------------------------------------------------------- cuda


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "auto"])
def test_cuda_trains_repeatably(precision: str) -> None:
    chosen = recipe(precision=precision, device="cuda", augment={"shift": 1, "flip": True, "cutout": 3}, epochs=4)
    estimator = TrainEstimator(chosen)
    once, again = estimator.estimate(job()), estimator.estimate(job())
    assert once.estimate.status == "ok", once.estimate.reason
    assert once.weights == again.weights and once.estimate.curve == again.estimate.curve


@pytest.mark.gpu
def test_no_step_waits_for_the_device() -> None:
    rows = Rows.on(torch.device("cuda"), prepare(recipe()))
    changes = Augment(shift=1, flip=True, cutout=3)
    settings = TrainSettings(epochs=1, batch_size=64, augment=changes, clip=1.0, average=0.9)
    mode = Mode(torch.device("cuda"), torch.bfloat16, True)
    space = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    net = mode.place(network.build(space.decode(space.from_json(job().genome)), seed_of(1, "weights")))
    under_way = training._Loop(net, rows, settings, mode, 1)
    under_way.epoch(0, Limits(None, None))
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = under_way.epoch(0, Limits(None, None))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(float(loss))


@pytest.mark.gpu
def test_cuda_out_of_memory_is_a_failure_and_the_next_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = TrainEstimator(recipe(device="cuda"))
    with monkeypatch.context() as patch:
        patch.setattr(network.Network, "forward", lambda self, x: torch.empty(2**46, device="cuda"))
        assert failed(estimator.estimate(job())).startswith("out of memory on cuda")
    assert estimator.estimate(job()).estimate.status == "ok"
