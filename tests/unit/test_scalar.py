"""Scalar objectives: rewards of the literature by hand, what is refused, and that every estimator knows them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evonas import encoding, estimate, objective
from evonas import recipe as recipes
from evonas.core import Job, RecipeError, stream
from evonas.marks import Marks
from evonas.objective import cheap_values, combined, described, is_cheap, parse, sources
from evonas.run import problem, start
from evonas.simulate import Simulator
from tests import tables


def whole(*of: Any, **given: Any) -> Any:
    return {"name": "reward", "kind": "scalar", "of": list(of), **given}


def value(one: Any, **parts: float) -> float:
    return combined(parts, [one])["reward"]


# ---------------------------------------------------------------------------------------------------------- the forms


def test_monas_weighs_accuracy_against_cost() -> None:
    """Hsu et al. 2018: alpha * accuracy - (1 - alpha) * energy, with the energy scaled to 0 to 1."""
    reward = whole({"name": "accuracy", "weight": 0.7}, {"name": "latency", "weight": 0.3, "range": [10, 60]})
    assert value(reward, accuracy=0.9, latency=35) == pytest.approx(0.7 * 0.9 - 0.3 * 0.5)


def test_monas_thresholds_leave_nothing_of_the_reward() -> None:
    reward = whole("accuracy", {"name": "latency", "weight": 0, "max": 50})
    assert value(reward, accuracy=0.9, latency=50) == 0.9
    assert value(reward, accuracy=0.9, latency=50.1) == 0.0
    other = whole({"name": "accuracy", "min": 0.8}, {"name": "latency", "range": [0, 100]}, otherwise=-9)
    assert value(other, accuracy=0.79, latency=1) == -9
    assert value(other, accuracy=0.8, latency=100) == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("exponent", "fast", "slow"),
    [(-0.07, 0.5**-0.07, 2**-0.07), ([0, -1], 1.0, 0.5), ([-0.07, -0.5], 0.5**-0.07, 2**-0.5)],
)
def test_mnasnet_multiplies_by_a_power_of_the_latency(exponent: Any, fast: float, slow: float) -> None:
    """Tan et al. 2019, equations 2 and 3: soft and hard targets."""
    reward = whole("accuracy", {"name": "latency", "target": 80, "exponent": exponent}, form="product")
    assert value(reward, accuracy=0.75, latency=40) == pytest.approx(0.75 * fast)
    assert value(reward, accuracy=0.75, latency=160) == pytest.approx(0.75 * slow)
    assert value(reward, accuracy=0.75, latency=80) == 0.75


def test_a_target_of_what_is_maximised_is_kept_above_it() -> None:
    reward = whole({"name": "accuracy", "target": 0.5, "exponent": [0, 2]}, form="product")
    assert value(reward, accuracy=0.9) == 1.0
    assert value(reward, accuracy=0.25) == 0.25


def test_tchebycheff_is_the_largest_weighted_distance() -> None:
    distance = whole(
        {"name": "accuracy", "target": 1.0, "weight": 2}, {"name": "params", "range": [1000, 2000], "weight": 0.5},
        form="tchebycheff",
    )  # fmt: skip
    (settings,) = parse([distance])
    assert described(settings).direction == "min"
    assert value(distance, accuracy=0.9, params=1100) == pytest.approx(0.2)
    assert value(distance, accuracy=0.99, params=1500) == pytest.approx(0.25)
    assert value(distance, accuracy=1.0, params=900) == 0.0


def test_a_minimised_sum_takes_off_what_is_maximised() -> None:
    cost = whole("error", {"name": "accuracy", "weight": 0.5}, direction="min")
    assert value(cost, error=0.4, accuracy=0.6) == pytest.approx(0.4 - 0.3)
    assert described(parse([cost])[0]).direction == "min"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_makes_no_reward(bad: float) -> None:
    reward = whole({"name": "accuracy", "min": 0.5}, "params")
    assert math.isnan(value(reward, accuracy=0.1, params=bad)), "even beyond a threshold"


@pytest.mark.parametrize("latency", [0.0, -3.0])
def test_an_impossible_power_is_no_number(latency: float) -> None:
    reward = whole("accuracy", {"name": "latency", "exponent": -0.07}, form="product")
    assert math.isnan(value(reward, accuracy=0.9, latency=latency))


# -------------------------------------------------------------------------------------------------------- in a recipe


def test_parts_are_measured_once_and_need_be_no_objectives() -> None:
    listed: Any = ["error", whole("accuracy", "params"), {**whole("params", "error"), "name": "other"}]
    assert [one.name for one in sources(listed)] == ["error", "accuracy", "params"]
    assert combined({"error": 0.5, "params": 7.0}, listed) == {"error": 0.5, "params": 7.0, "other": -7.5}


def test_a_scalar_is_cheap_and_timed_as_its_parts_are() -> None:
    cheap, trained, timed = parse(
        [
            {**whole("params", "depth"), "name": "small"}, {**whole("params", "accuracy"), "name": "good"},
            {**whole("latency", "accuracy"), "name": "fast"},
        ]
    )  # fmt: skip
    assert [is_cheap(one) for one in (cheap, trained, timed)] == [True, False, False]
    assert [described(one).cheap for one in (cheap, trained, timed)] == [True, False, False]
    assert [described(one).measured for one in (cheap, trained, timed)] == [False, False, True]


def test_settings_survive_the_resolved_recipe() -> None:
    reward = whole("accuracy", {"name": "latency", "target": 80, "exponent": [0, -1], "max": 100}, form="product")
    recipe = recipes.read({"task": {"kind": "digits"}, "objectives": [reward, "params"]})
    assert recipes.read(recipes.to_yaml(recipe)) == recipe
    assert recipe.objectives[0].of[1].exponent == (0.0, -1.0)


def test_of_is_enough_to_say_that_it_is_a_scalar() -> None:
    (one,) = parse([{"name": "reward", "of": ["accuracy"]}])
    assert (one.kind, one.form, one.goal) == ("scalar", "sum", "max")


REFUSED: list[tuple[Any, str]] = [
    ({"name": "reward", "kind": "scalar"}, "of: is missing, it lists the parts"),
    (whole("acuracy"), "'acuracy' is not known; did you mean 'accuracy'"),
    (whole("accuracy", "accuracy"), "part 'accuracy' is listed twice"),
    (whole({"name": "x", "kind": "scalar"}), "part 'x' is a scalar itself"),
    (whole({"name": "accuracy", "range": [1, 0]}), "range 1 to 0 is empty: put the lesser value first"),
    (whole({"name": "accuracy", "exponent": 2}), "sum takes no exponent: that belongs to product"),
    (whole({"name": "accuracy", "weight": 2}, form="product"), "product takes no weight: give an exponent"),
    (whole({"name": "latency", "exponent": 0.07}, form="product"), "exponent 0.07 would reward more of it"),
    (whole({"name": "accuracy", "exponent": [0, -1]}, form="product"), "would reward less of it: change its sign"),
    (whole({"name": "latency", "target": 0}, form="product"), "target 0 must be above 0"),
    (whole("accuracy", form="tchebycheff"), "tchebycheff needs its target"),
    (whole({"name": "error", "target": 0}, form="tchebycheff", direction="max"), "leave direction: max out"),
    (whole({"name": "error", "max": 0}, direction="min"), "a part has a threshold: say otherwise:"),
    ({"name": "error", "form": "sum"}, "'error' takes no 'form': that belongs to scalar"),
    ({"name": "error", "weight": 2}, "weight"),
]


@pytest.mark.parametrize(("one", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_makes_no_sense_is_refused(one: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse([one])


def test_one_name_is_measured_in_one_way() -> None:
    listed: Any = [{"name": "latency", "batch": 8}, whole("accuracy", "latency")]
    for check in (parse, lambda found: recipes.read({"task": {"kind": "digits"}, "objectives": found})):
        with pytest.raises(RecipeError, match="part 'latency' is measured in two ways"):
            check(listed)
    parse([{"name": "latency", "batch": 8}, whole("accuracy", {"name": "latency", "batch": 8})])


def test_parts_are_judged_as_objectives_are(tmp_path: Path) -> None:
    digits: dict[str, Any] = {"task": {"kind": "digits"}}
    with pytest.raises(RecipeError, match="'fitness' is recorded by estimator 'population' only"):
        recipes.read({**digits, "objectives": [whole("fitness", "params")]})
    with pytest.raises(RecipeError, match="'accuracy' needs training, and estimator 'lookup' does none"):
        recipes.read({**digits, "objectives": [whole("accuracy", "params")], "estimator": {"kind": "lookup"}})
    file = tables.written(tmp_path)
    with pytest.raises(RecipeError, match="'latency' is no metric of the task's table"):
        recipes.read(tables.recipe(file, objectives=[whole("error", "latency", direction="min")]))
    with pytest.raises(RecipeError, match="accuracy"):
        objective.check([whole("accuracy")], "regression")


def test_a_parts_function_lies_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def size(plan):\n    return plan.params / 2\n")
    file = tmp_path / "recipe.yaml"
    part = "{name: size, function: mine.py:size, cheap: true}"
    file.write_text(f"task: {{kind: digits}}\nobjectives: [{{name: cost, direction: min, of: [{part}, depth]}}]\n")
    (one,) = recipes.read(file).objectives
    space = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    plan = space.decode(space.random(stream(0, "test"), Marks().open()))
    assert cheap_values(plan, [one])["cost"] == plan.params / 2 + plan.depth


# ---------------------------------------------------------------------------------------------------- by the estimators


def test_a_table_knows_rewards_of_its_metrics(tmp_path: Path) -> None:
    reward = whole({"name": "error", "range": [0, 100]}, {"name": "params", "weight": 0.1})
    recipe = recipes.read(tables.recipe(tables.written(tmp_path), objectives=[reward], pool={"kind": "serial"}))
    held = tables.columns()
    expected = -(100 - held["early"]) / 100 - 0.1 * held["size"]
    simulator = Simulator(recipe)
    assert -simulator.losses()[:, 0] == pytest.approx(expected)
    trace = simulator.search(0)
    assert -trace.losses[:, 0] == pytest.approx(expected[trace.rows])
    run = start(recipe, name="table", runs=tmp_path / "runs")
    assert run.status == "finished"
    for row in run.front():
        values = run.estimate(row.id).values
        assert values["reward"] == pytest.approx(-values["error"] / 100 - 0.1 * values["params"])


def test_a_cheap_scalars_violators_are_never_looked_up(tmp_path: Path) -> None:
    size = {**whole({"name": "params", "weight": 2}, direction="min", max=1.5), "name": "size"}
    file = tables.written(tmp_path)
    recipe = recipes.read(tables.recipe(file, objectives=["error", size], strategy={"kind": "grid"}, budget={}))
    trace = Simulator(recipe).search(0)
    assert sorted(trace.rows.tolist()) == np.flatnonzero(2 * tables.columns()["size"] <= 1.5).tolist()
    space = encoding.build(recipe.encoding, (3, 32, 32), 10)
    posed = problem(recipe, space)
    assert posed.cheap(space.from_tokens([1, 0, 0])) == pytest.approx({"params": 0.4, "size": 0.8})


def test_a_users_lookup_gives_parts() -> None:
    reward = whole("accuracy", {"name": "params", "weight": 0.5, "range": [0, 1000]})
    recipe = {
        "task": {"kind": "digits"}, "objectives": [reward],
        "estimator": {"kind": "lookup", "function": "tests.unit.test_scalar:known"},
    }  # fmt: skip
    data = recipes.read(recipe).model_dump(mode="json")
    space = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    genome = space.random(stream(1, "test"), Marks().open())
    values = estimate.build(data).estimate(Job(3, 1, space.to_json(genome))).estimate.values
    assert values["reward"] == pytest.approx(0.8 - 0.5 * space.decode(genome).params / 1000)


def known(genome: Any, plan: Any) -> dict[str, float]:
    return {"accuracy": 0.8}


def test_training_measures_parts() -> None:
    torch.manual_seed(0)
    reward = whole("accuracy", {"name": "params", "target": 1000, "exponent": -0.07}, form="product")
    recipe = {
        "task": {"kind": "digits", "limit": 100}, "objectives": [reward],
        "estimator": {"kind": "train", "epochs": 1, "device": "cpu"},
    }  # fmt: skip
    data = recipes.read(recipe).model_dump(mode="json")
    space = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    genome = space.random(stream(1, "test"), Marks().open())
    done = estimate.build(data).estimate(Job(3, 1, space.to_json(genome))).estimate
    assert done.status == "ok", done.reason
    made = done.values["accuracy"] * (done.values["params"] / 1000) ** -0.07
    assert done.values["reward"] == pytest.approx(made) and done.values["params"] == space.decode(genome).params


def test_a_population_has_rewards_too(tmp_path: Path) -> None:
    reward = whole("fitness", {"name": "links", "weight": 0.01})
    recipe = {
        "task": {"kind": "xor"}, "objectives": [reward], "encoding": {"kind": "neat"},
        "strategy": {"kind": "neat", "population": 20, "generations": 3}, "estimator": {"kind": "population"},
    }  # fmt: skip
    run = start(recipe, name="neat", runs=tmp_path)
    (best,) = run.front()
    values = run.estimate(best.id).values
    assert values["reward"] == pytest.approx(values["fitness"] - 0.01 * values["links"])
