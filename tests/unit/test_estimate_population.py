"""The estimator of whole populations: values over rows and plays, failures as data, mistakes told before a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from evonas import estimate
from evonas.cohort import Cohort, Scores
from evonas.core import Job, RecipeError
from evonas.encoding.population import NeatGenome, Population, to_json
from evonas.estimate import PopulationSettings, population
from evonas.estimate.population import PopulationEstimator

XOR = {"kind": "xor"}


def recipe(task: dict[str, Any] = XOR, objectives: Sequence[Any] = ("fitness",), **estimator: Any) -> dict[str, Any]:
    return {
        "seed": 3,
        "task": task,
        "encoding": {"kind": "neat", "feed_forward": estimator.pop("feed_forward", True)},
        "objectives": list(objectives),
        "estimator": {"kind": "population", **estimator},
    }


def solver(sign: float = 1.0) -> NeatGenome:
    """Exclusive or by |x0 - x1|, exactly; with another sign its opposite."""
    nodes = [[2, 0.5 - sign / 2, 1.0, "identity", "sum"], [3, 0.0, 1.0, "abs", "sum"]]
    return NeatGenome.of(
        2, 1, True, nodes, [[4, 0, 3, 1.0, True], [5, 1, 3, -1.0, True], [6, 3, 2, sign, True], [7, 0, 2, 9.0, False]]
    )


def constant(value: float, inputs: int = 2, outputs: int = 1, feed_forward: bool = True) -> NeatGenome:
    nodes = [[inputs + o, value, 1.0, "identity", "sum"] for o in range(outputs)]
    return NeatGenome.of(inputs, outputs, feed_forward, nodes, [])


def cohort(*genomes: NeatGenome) -> Cohort:
    n = len(genomes)
    return Cohort(np.arange(n) + 10, Population.of(genomes), np.full((n, 2), -1), np.zeros(n, np.int64))


def scored(made: dict[str, Any], *genomes: NeatGenome, seed: int = 1) -> Scores:
    before = cohort(*genomes)
    after, scores = PopulationEstimator(made).score(before, seed)
    assert after is before and scores.ids is before.ids
    return scores


def columns(made: dict[str, Any], *genomes: NeatGenome) -> dict[str, list[float]]:
    return {name: column.tolist() for name, column in scored(made, *genomes).columns.items()}


# ---------------------------------------------------------------------------------------------------------- on rows


def test_values_of_exclusive_or() -> None:
    found = columns(recipe(), solver(), constant(0.5), solver(-1.0))
    assert found["fitness"] == [4, 3, 0]  # neat-python's 4 - sum of squared errors
    assert found["accuracy"] == [1, 0.5, 0]
    assert found["loss"] == found["error"] == [0, 0.25, 1]
    assert found["hidden"] == [1, 0, 1] and found["links"] == [3, 0, 3] and found["params"] == [5, 1, 5]


@pytest.mark.parametrize(
    ("fitness", "expected"),
    [("inverse_loss", [1, 0.8, 0.5]), ("accuracy", [1, 0.5, 0]), ("paper", [16, 4, 0]), ("squared_error", [4, 3, 0])],
)
def test_fitness_by_setting(fitness: str, expected: list[float]) -> None:
    found = columns(recipe(fitness=fitness), solver(), constant(0.5), solver(-1.0))
    assert found["fitness"] == pytest.approx(expected)


def test_papers_fitness_does_not_rise_beyond_the_worst() -> None:
    assert columns(recipe(fitness="paper"), constant(100.0))["fitness"] == [0]


def test_chunks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    genomes = [constant(i / 40) for i in range(40)] + [solver()]
    whole = columns(recipe(threads=1), *genomes)
    monkeypatch.setattr(population, "CHUNK", 4 * 7)
    assert columns(recipe(threads=2), *genomes) == whole


def test_torch_gives_the_same_values() -> None:
    genomes = [constant(0.3), solver(), solver(-0.5)]
    fast, slow = columns(recipe(), *genomes), columns(recipe(kernel="torch"), *genomes)
    assert fast.keys() == slow.keys()
    for name in fast:
        assert fast[name] == pytest.approx(slow[name], abs=1e-6)


def test_classes_are_scored_by_their_outputs() -> None:
    nodes = [[4 + o, o / 10, 1.0, "identity", "sum"] for o in range(3)]
    last = NeatGenome.of(4, 3, True, nodes, [])
    made = recipe({"kind": "iris"}, ["accuracy", "error", "loss"], fitness="accuracy")
    found = columns(made, last, constant(0.0, 4, 3))
    assert found["accuracy"] == pytest.approx([1 / 3, 1 / 3]) and found["error"] == pytest.approx([2 / 3, 2 / 3])
    assert found["loss"][1] == pytest.approx(np.log(3)) and found["fitness"] == found["accuracy"]
    one_hot = columns(recipe({"kind": "iris"}), constant(0.0, 4, 3))["fitness"]
    assert one_hot == [24 * 3 - 24]  # of all 24 rows the one 1 is missed


def test_regression_is_scored_in_the_targets_own_units() -> None:
    made = recipe({"kind": "diabetes"}, ["error"], fitness="inverse_loss")
    genome = constant(0.0, 10)
    estimator = PopulationEstimator(made)
    data = estimator._task.load(3)
    error = np.square(data.y_valid - data.y_train.mean()).mean()  # 0, standardised, is the mean of the training rows
    _, scores = estimator.score(cohort(genome), 0)
    assert scores.columns["error"][0] == pytest.approx(error, rel=1e-5)
    assert "accuracy" not in scores.columns


def test_rows_limits_what_is_scored_on() -> None:
    few = PopulationEstimator(recipe({"kind": "spirals"}, rows=20))
    assert len(few._rows.x) == 20 and len(few._rows.x_train) == 194
    again = PopulationEstimator(recipe({"kind": "spirals"}, rows=20))
    np.testing.assert_array_equal(few._rows.x, again._rows.x)


def test_images_are_flattened() -> None:
    assert columns(recipe({"kind": "digits"}, ["accuracy"]), constant(0.0, 64, 10))["accuracy"][0] < 0.2


def test_recurrent_networks_run_for_some_steps_on_a_row() -> None:
    nodes = [[2, 0.0, 1.0, "identity", "sum"]]
    counter = NeatGenome.of(2, 1, False, nodes, [[3, 2, 2, 1.0, True], [4, 0, 2, 1.0, True]])
    found = [columns(recipe(activations=k, feed_forward=False), counter)["loss"][0] for k in (1, 3)]
    assert found == [((0 - 0) ** 2 + 1 + 0 + 1) / 4, (0 + 1 + 2**2 + 3**2) / 4]


def test_outputs_that_are_not_finite_are_failures() -> None:
    nodes = [[2, 1e30, 1.0, "cube", "sum"]]
    scores = scored(recipe(), constant(0.5), NeatGenome.of(2, 1, True, nodes, []))
    assert scores.failed == {1: "its outputs are not finite"}
    assert scores[11].status == "failed" and scores[10].status == "ok"


def test_cheap_objectives_and_names_of_ones_own() -> None:
    objectives = ["fitness", "depth", "params", {"name": "right", "kind": "accuracy"}]
    found = columns(recipe(objectives=objectives), solver(), constant(0.5))
    assert found["depth"] == [2, 1] and found["right"] == [1, 0.5]


# ------------------------------------------------------------------------------------------------------------ plays


def test_played_tasks_give_their_own_values() -> None:
    made = recipe({"kind": "double-pole"}, ["fitness", "params"])
    found = columns(made, constant(0.5, 7), constant(0.6, 7))
    assert found["fitness"] == found["steps"] == [22, found["steps"][1]] and found["params"] == [1, 1]


def own(folder: Path, code: str, objectives: Sequence[Any] = ("fitness",), **fields: Any) -> dict[str, Any]:
    (folder / "own.py").write_text(f"import numpy as np\ndef f(networks):\n  {code}\n")
    task = {"kind": "fitness", "function": f"{folder / 'own.py'}:f", "inputs": 2, "outputs": 1, **fields}
    return recipe(task, objectives)


def test_a_users_function_with_values_by_name(tmp_path: Path) -> None:
    made = own(tmp_path, "return {'fitness': [1, 2], 'near': [3, 4]}", ["fitness", {"name": "near", "kind": "score"}])
    found = columns(made, constant(0.0), constant(1.0))
    assert found["fitness"] == [1, 2] and found["near"] == [3, 4]


def test_what_a_users_function_does_to_one_network_is_its_failure(tmp_path: Path) -> None:
    made = own(tmp_path, "return 1 / networks([0, 0])[0]", takes="network")
    scores = scored(own(tmp_path, "assert networks([0, 0])[0] > 0, 'low'; return 1", takes="network"),
                    constant(0.0), constant(1.0))  # fmt: skip
    assert "AssertionError: low" in scores.failed[0] and list(scores.failed) == [0]
    assert made["task"]["takes"] == "network" and scores[11].values["fitness"] == 1


def test_a_wrong_shape_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"fitness has shape \(1,\) for 2 networks: return an array of shape \(2,\)"):
        scored(own(tmp_path, "return [1]"), constant(0.0), constant(1.0))


class WrongShape:
    """A user's own played task, whose values are of no use."""

    def shape(self) -> Any:
        from evonas.task.data import TaskShape

        return TaskShape((2,), 1, "control")

    def rollout(self, programs: Any, seed: int, threads: int) -> dict[str, Any]:
        return {"fitness": np.zeros(programs.n + 1)}

    def test(self, programs: Any, seed: int) -> dict[str, Any]:
        return {"fitness": np.full(programs.n, 7.0)}


def test_a_users_own_task_is_checked_and_tested() -> None:
    made = recipe({"kind": f"{__name__}:WrongShape"})
    with pytest.raises(RecipeError, match=r"value 'fitness' has shape \(3,\): give one number for each of 2 networks"):
        scored(made, constant(0.0), constant(1.0))
    outcome = PopulationEstimator(made, final=True).estimate(Job(1, 0, to_json(constant(0.0))))
    assert outcome.estimate.values["fitness"] == 7


# ---------------------------------------------------------------------------------------------------- one individual


def test_one_job_has_the_values_of_its_place_in_a_population() -> None:
    estimator = PopulationEstimator(recipe(objectives=["fitness", "links"]))
    outcome = estimator.estimate(Job(5, 1, to_json(solver())))
    assert outcome.weights is None and outcome.estimate.id == 5 and outcome.estimate.status == "ok"
    assert dict(outcome.estimate.values) == {k: v[0] for k, v in columns(recipe(), solver()).items()}
    born = estimator.estimate(Job(6, 1, None, born=solver()))
    assert born.estimate.values == outcome.estimate.values


def test_the_final_test_takes_the_test_rows() -> None:
    made = recipe({"kind": "spirals"}, ["accuracy"])
    final = estimate.build(made, None, final=True)
    assert isinstance(final, PopulationEstimator) and len(final._rows.x) == 192
    assert final.estimate(Job(1, 0, to_json(constant(1.0)))).estimate.values["accuracy"] == 0.5
    assert estimate.stage(made, Path("nowhere"), final=True) is None


def test_a_job_that_cannot_be_done_is_a_failed_estimate() -> None:
    estimator = PopulationEstimator(recipe())
    broken = estimator.estimate(Job(1, 0, {"encoding": "neat"})).estimate
    assert broken.status == "failed" and "format None" in broken.reason
    endless = NeatGenome.of(2, 1, True, [[2, 1e30, 1.0, "cube", "sum"]], [])
    assert estimator.estimate(Job(2, 0, to_json(endless))).estimate.reason == "its outputs are not finite"
    other = estimator.estimate(Job(3, 0, None, born=constant(0.0, inputs=5))).estimate
    assert "genomes of 5 inputs and 1 outputs do not fit the task" in other.reason


# ----------------------------------------------------------------------------------------------------------- tuning


def tuned(inherit: str, final: bool = False) -> tuple[Population, Any]:
    """A network of a trainable line, scored after gradient steps on y = 0.5, the best that a constant can do."""
    made = recipe(fine_tune={"steps": 200, "lr": 0.05, "inherit": inherit})
    before = cohort(constant(0.0), constant(0.2))
    after, scores = PopulationEstimator(made, final=final).score(before, 1)
    assert scores.columns["loss"] == pytest.approx([0.25, 0.25], abs=1e-3)
    np.testing.assert_array_equal(before.genomes[1].bias, [0.2])
    return after.genomes, before.genomes


def test_lamarckian_tuning_changes_the_genes() -> None:
    after, before = tuned("lamarckian")
    np.testing.assert_allclose(after.bias, 0.5, atol=0.02)
    np.testing.assert_array_equal(after.node_mark, before.node_mark)


def test_baldwinian_tuning_keeps_the_genes() -> None:
    after, before = tuned("baldwinian")
    assert after is before


def test_the_final_test_learns_again_only_what_was_not_inherited() -> None:
    def tested(inherit: str) -> float:
        made = recipe(fine_tune={"steps": 200, "lr": 0.05, "inherit": inherit})
        outcome = PopulationEstimator(made, final=True).estimate(Job(1, 0, to_json(constant(0.0))))
        return float(outcome.estimate.values["error"])

    assert tested("lamarckian") == 0.5 and tested("baldwinian") == pytest.approx(0.25, abs=1e-3)


def test_classes_are_tuned_by_cross_entropy() -> None:
    made = recipe({"kind": "iris"}, ["loss"], fine_tune={"steps": 50, "lr": 0.1, "batch": 16})
    links = [[7 + i, i // 3, 4 + i % 3, 0.0, True] for i in range(12)]
    flat = NeatGenome.of(4, 3, True, [[4 + o, 0.0, 1.0, "identity", "sum"] for o in range(3)], links)
    after, scores = PopulationEstimator(made).score(cohort(flat), 1)
    assert scores.columns["accuracy"][0] > 0.8 and scores.columns["loss"][0] < 0.6
    again, same = PopulationEstimator(made).score(cohort(flat), 1)
    assert scores.columns["loss"].tolist() == same.columns["loss"].tolist()
    assert [g.key for g in after.genomes] == [g.key for g in again.genomes]


# ------------------------------------------------------------------------------------------------- before the run


def test_what_does_not_fit_is_told_before_the_run() -> None:
    def refused(made: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            PopulationEstimator(made)

    played = {"kind": "double-pole"}
    refused(recipe(played, ["accuracy"]), "objective 'accuracy' is for rows of data, the task is played: take fitness")
    refused(recipe(objectives=["latency"]), "objective 'latency' needs a trained network, estimator 'population'")
    refused(recipe(played, fine_tune={"steps": 3}), "fine_tune needs training rows, the task is played")
    refused(recipe({"kind": "diabetes"}, fitness="accuracy"), "fitness: accuracy is for classes or targets of 0 and 1")
    refused(recipe(feed_forward=False, fine_tune={}), "fine_tune needs networks without cycles: set encoding.feed_")
    refused({**recipe(), "encoding": {"kind": "dag"}}, "encoding 'dag' has no networks to pack .* set encoding.kind")


def test_a_played_task_needs_this_estimator() -> None:
    with pytest.raises(RecipeError, match=r"no rows to train on: set estimator\.kind: population"):
        estimate.check(estimate.TrainSettings(), ["params"], (7,), "control")


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="kernel 'c' runs on the CPU, device is cuda"):
        PopulationSettings(kernel="c", device="cuda")
    with pytest.raises(ValidationError, match="threads 0 is not allowed: give auto or 1 to 1024"):
        PopulationSettings(threads=0)
    with pytest.raises(ValidationError, match="greater than 0"):
        PopulationSettings(fine_tune={"lr": 0})


def test_genomes_of_another_task_are_refused() -> None:
    with pytest.raises(RecipeError, match="genomes of 3 inputs and 1 outputs do not fit the task, which has 2 and 1"):
        scored(recipe(), constant(0.0, inputs=3))
