"""The table of objectives: what recipes may say, what is measured, and what is refused in which words."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evonas import encoding, imported, objective
from evonas.core import RecipeError, stream
from evonas.encoding.plan import Plan
from evonas.marks import Marks
from evonas.objective import ObjectiveSettings, Trial, cheap_values, measure, parse, resolve
from evonas.phenotype import network
from evonas.validation import descriptions

SHAPE = (1, 8, 8)


def plan_of(mutations: int = 4, seed: int = 0) -> Plan:
    space = encoding.build(encoding.TABLE["dag"](), SHAPE, 3)
    rng, book = stream(seed, "test"), Marks().open()
    genome = space.random(rng, book)
    for _ in range(mutations):
        changed = space.mutate(genome, rng, book)
        genome = changed[0] if changed else genome
    return space.decode(genome)


def trial_of(outputs: Any, targets: Any, kind: str = "classification") -> Trial:
    plan = plan_of()
    net = network.build(plan, 1)
    device = torch.device("cpu")
    rows = (torch.tensor(outputs), torch.tensor(targets))
    return Trial(plan, net, {"rows": 3}, *rows, SHAPE, kind, device, 2.5)  # type: ignore[arg-type]


CERTAIN = [[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [1.0, 0.0, 5.0]]


# -------------------------------------------------------------------------------------------------------- in recipes


def test_a_name_is_enough() -> None:
    error, params = resolve(["error", {"name": "params", "max": "100k"}])
    assert (error.name, error.direction, error.cheap, error.measured) == ("error", "min", False, False)
    assert (params.cheap, params.max) == (True, 100_000)


def test_directions_units_and_clocks_of_the_table() -> None:
    by_name = {one.name: one for one in resolve(["accuracy", "flops", "memory", "latency", "train_seconds", "depth"])}
    assert by_name["accuracy"].direction == "max"
    assert [by_name[name].unit for name in ("flops", "memory", "latency")] == ["FLOP", "B", "ms"]
    assert {name for name, one in by_name.items() if one.measured} == {"latency", "train_seconds"}
    assert {name for name, one in by_name.items() if one.cheap} == {"flops", "memory", "depth"}


def test_two_latencies_under_names_of_their_own() -> None:
    listed: list[Any] = [{"name": "one", "kind": "latency"}, {"name": "many", "kind": "latency", "batch": 64}]
    one, many = parse(listed)
    assert (one.batch, one.threads, many.batch) == (1, 1, 64)
    assert [objective.described(each).measured for each in (one, many)] == [True, True]


def test_settings_survive_the_resolved_recipe() -> None:
    listed = ["error", {"name": "latency", "batch": 8}, {"name": "f", "function": "math:floor", "cheap": True}]
    once = parse(listed)  # type: ignore[arg-type]
    assert parse([one.model_dump(mode="json") for one in once]) == once


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (["latncy"], "objective 'latncy' is not known; did you mean 'latency'? known: error, accuracy, loss, params"),
        ([{"name": "mine", "kind": "latncy"}], "objective 'mine': kind 'latncy' is not known; did you mean 'latency'?"),
        ([], "objectives: [] is empty"),
        (["error", "error"], "objective 'error' is listed twice"),
        ([{"name": "error", "batch": 4}], "objective 'error' takes no 'batch': that belongs to latency"),
        ([{"name": "error", "cheap": True}], "objective 'error' takes no 'cheap': that belongs to function"),
        ([{"name": "params", "max": 3, "min": 5}], "min 5.0 is above max 3.0"),
        ([{"name": "f1", "metric": "torchmetrics.F1Score"}], "say direction: max or min"),
        ([{"name": "f", "function": "no_such_package.part:f"}], "no module 'no_such_package'"),
        ([{"name": "f", "function": "no_such_file.py:f"}], "no file 'no_such_file.py'"),
        ([{"name": "latency", "batch": 0}], "objective 'latency': batch: Input should be greater than or equal to 1"),
        ([{"name": "params", "maxx": 5}], "objective 'params': maxx: Extra inputs are not permitted"),
        ([{"max": 5}], "name: Field required"),
    ],
)
def test_mistakes_are_named_with_their_cure(listed: list[Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(listed)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_accuracy_of_a_regression_is_refused() -> None:
    with pytest.raises(RecipeError, match="objective 'accuracy' is for classes, the task is a regression"):
        objective.check(["error", "accuracy"], "regression")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"needs torchmetrics: pip install 'evonas\[metrics\]'"):
        resolve([{"name": "f1", "metric": "torchmetrics.F1Score", "direction": "max"}])


def test_resolving_and_screening_load_no_torch() -> None:
    code = (
        "import sys; from evonas import objective; objective.resolve(['error', {'name': 'latency', 'batch': 2}]); "
        "assert not {'torch', 'deap', 'sklearn', 'torchmetrics'} & set(sys.modules), sorted(sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


# ------------------------------------------------------------------------------------------------------------- cheap


def test_cheap_values_come_from_the_plan_alone() -> None:
    plan = plan_of()
    values = cheap_values(plan, ["error", "params", "flops", "memory", "depth", "latency"])
    assert values == {"params": plan.params, "flops": plan.flops, "memory": plan.memory, "depth": plan.depth}


def test_a_users_cheap_function_takes_the_plan(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("FACTOR = 2\n")
    body = "from helper import FACTOR\ndef steps(plan):\n    return FACTOR * len(plan.steps)\n"
    (tmp_path / "mine.py").write_text(body)
    plan = plan_of()
    listed = [{"name": "steps", "function": f"{tmp_path / 'mine.py'}:steps", "cheap": True}]
    assert resolve(listed)[0].cheap
    assert cheap_values(plan, listed) == {"steps": 2.0 * len(plan.steps)}


def test_the_screen_keeps_violators_from_training() -> None:
    space = encoding.build(encoding.TABLE["dag"](), SHAPE, 3)
    genome = space.random(stream(0, "test"), Marks().open())
    params = space.decode(genome).params
    sizes = lambda one: cheap_values(space.decode(one), ["params"])  # noqa: E731
    fits, large, small = (
        objective.Screen(sizes, ["error", {"name": "params", **limit}])
        for limit in ({"max": params}, {"max": params - 1}, {"min": params + 1})
    )
    assert fits(genome) and fits.why(genome) == ""
    assert not large(genome) and large.why(genome) == f"params {params} > {params - 1}"
    assert small.why(genome) == f"params {params} < {params + 1}"
    assert objective.Screen(sizes, ["error", {"name": "loss", "max": 1.0}])(genome), "loss is not known at birth"


# ---------------------------------------------------------------------------------------------------------- measured


def test_error_accuracy_and_loss_of_classes() -> None:
    trial = trial_of(CERTAIN, [0, 1, 2, 2])
    values, _ = measure(trial, parse(["error", "accuracy", "loss"]))
    assert values["error"] == 0.25 and values["accuracy"] == 0.75
    shares = [math.exp(row[k]) / sum(map(math.exp, row)) for row, k in zip(CERTAIN, [0, 1, 2, 2], strict=True)]
    assert values["loss"] == pytest.approx(-sum(map(math.log, shares)) / 4)


def test_error_of_a_regression_is_the_mean_square() -> None:
    values, _ = measure(trial_of([[1.0], [3.0]], [[2.0], [6.0]], "regression"), parse(["error", "loss"]))
    assert values == {"error": 5.0, "loss": 5.0}


def test_outputs_that_are_not_finite_give_nan_which_argmax_would_hide() -> None:
    values, _ = measure(trial_of([[math.nan, 0.0, 0.0]], [0]), parse(["error"]))
    assert math.isnan(values["error"])


@pytest.mark.parametrize("seed", range(8))
def test_torch_counts_the_flops_and_parameters_that_the_plan_promises(seed: int) -> None:
    plan = plan_of(mutations=4 * seed, seed=seed)
    trial = replace(trial_of(CERTAIN, [0, 1, 2, 2]), plan=plan, network=network.build(plan, 0))
    values, _ = measure(trial, parse(["flops", "params"]))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.build(plan, None, "meta").eval()(torch.empty(1, *plan.steps[0].shape, device="meta"))
    assert values["flops"] == counter.get_total_flops()
    assert values["params"] == sum(parameter.numel() for parameter in trial.network.parameters())


def test_latency_is_a_median_in_milliseconds_with_its_spread() -> None:
    class Slow(nn.Module):
        seen: tuple[int, ...] = ()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            import time

            self.seen = tuple(x.shape)
            time.sleep(0.003)
            return x

    trial = replace(trial_of(CERTAIN, [0, 1, 2, 2]), network=Slow())
    values, spreads = measure(trial, parse([{"name": "latency", "batch": 5}]))
    assert 3.0 <= values["latency"] < 30.0
    assert spreads["latency_iqr"] >= 0.0
    assert trial.network.seen == (5, *SHAPE)


def test_training_seconds_are_those_of_the_trial() -> None:
    assert measure(trial_of(CERTAIN, [0, 1, 2, 2]), parse(["train_seconds"]))[0] == {"train_seconds": 2.5}


def test_a_users_function_gets_network_and_data(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def both(network, data):\n    return len(list(network.parameters())) + data['rows'] / 10\n"
        "def text(network, data):\n    return 'much'\n"
    )
    trial = trial_of(CERTAIN, [0, 1, 2, 2])
    settings = parse([{"name": "both", "function": f"{tmp_path / 'mine.py'}:both", "direction": "max"}])
    assert measure(trial, settings)[0]["both"] == len(list(trial.network.parameters())) + 0.3
    with pytest.raises(RecipeError, match="returned str, not a number: return a float"):
        measure(trial, parse([{"name": "text", "function": f"{tmp_path / 'mine.py'}:text"}]))


def test_import_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def good(plan):\n    return 1.0\nnumber = 3\n")
    with pytest.raises(RecipeError, match=r"has no 'goood'; did you mean 'good'\?"):
        imported.load(f"{tmp_path / 'mine.py'}:goood")
    with pytest.raises(RecipeError, match="is a int: name a function"):
        imported.load(f"{tmp_path / 'mine.py'}:number")
    (tmp_path / "wrong.py").write_text("def good(:\n")
    with pytest.raises(RecipeError, match="cannot be imported: SyntaxError"):
        imported.load(f"{tmp_path / 'wrong.py'}:good")


def test_a_torchmetrics_metric_by_name() -> None:
    metrics = pytest.importorskip("torchmetrics")
    trial = trial_of(CERTAIN, [0, 1, 2, 2])
    settings = parse(
        [
            {"name": "f1", "metric": "torchmetrics.F1Score", "args": {"average": "macro"}, "direction": "max"},
            {"name": "recall", "metric": "torchmetrics.classification.MulticlassRecall", "direction": "max"},
        ]
    )
    values, _ = measure(trial, settings)
    same = metrics.F1Score(task="multiclass", num_classes=3, average="macro")
    assert values["f1"] == pytest.approx(float(same(trial.outputs, trial.targets)))
    assert values["recall"] == pytest.approx((1 + 1 + 0.5) / 3)


def test_a_metric_with_the_wrong_direction_or_name_is_refused() -> None:
    pytest.importorskip("torchmetrics")
    trial = trial_of(CERTAIN, [0, 1, 2, 2])
    with pytest.raises(RecipeError, match=r"higher torchmetrics\.F1Score is better: set direction: max"):
        measure(trial, parse([{"name": "f1", "metric": "torchmetrics.F1Score", "direction": "min"}]))
    with pytest.raises(RecipeError, match=r"torchmetrics has no 'F1Scor'; did you mean 'F1Score'\?"):
        measure(trial, parse([{"name": "f1", "metric": "torchmetrics.F1Scor", "direction": "max"}]))


def test_every_setting_is_described() -> None:
    assert set(descriptions(ObjectiveSettings)) == set(ObjectiveSettings.model_fields)
