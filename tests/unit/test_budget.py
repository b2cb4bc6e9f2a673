"""What a run may spend: evaluations, epochs and seconds end it, and what lies beyond does not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evonas import recipe, run
from evonas.core import Estimate, Individual
from evonas.strategy.problem import affordable, begin, exhausted, left

LOOKUP = {
    "task": {"kind": "digits"},
    "objectives": ["params"],
    "strategy": {"kind": "nsga2", "population": 4, "generations": 50},
    "estimator": {"kind": "lookup"},
    "pool": {"kind": "serial"},
}


def searched(tmp_path: Path, **budget: Any) -> run.Run:
    return run.start({**LOOKUP, "budget": budget}, name="spent", runs=tmp_path)


def test_evaluations_end_a_run_in_the_middle_of_a_generation(tmp_path: Path) -> None:
    found = searched(tmp_path, evaluations=10)
    assert [one["evaluations"] for one in found.generations()] == [4, 8, 10]


def test_a_resume_may_raise_the_budget_and_nothing_else(tmp_path: Path) -> None:
    searched(tmp_path, evaluations=10)
    assert len(run.resume(tmp_path / "spent").generations()) == 3, "a spent budget stays spent"
    more = run.resume(tmp_path / "spent", overrides={"budget.evaluations": "15"})
    assert [one["evaluations"] for one in more.generations()] == [4, 8, 10, 14, 15]


def scored(costs: list[float]) -> list[tuple[Individual, Estimate]]:
    return [(Individual(i, None), Estimate(i, "ok", cost={"seconds": cost})) for i, cost in enumerate(costs)]  # type: ignore[arg-type]


def test_the_estimate_that_passes_the_limit_still_counts() -> None:
    told = scored([4.0, 4.0, 4.0, 4.0])
    assert [one.id for one, _ in affordable({"seconds": 10.0}, begin(), told)] == [0, 1, 2]
    assert affordable({"seconds": 16.0}, begin(), told) == told
    assert affordable({"evaluations": 2}, begin(), told) == told, "evaluations are cut before they are made"


def test_a_budget_is_exhausted_when_any_limit_is_reached() -> None:
    state = begin()
    assert left({}, state) is None and left({"evaluations": 3}, state) == 3
    assert not exhausted({"evaluations": 1, "epochs": 1.0}, state) and not exhausted({}, state)


def test_epochs_of_all_trainings_count(tmp_path: Path) -> None:
    trained = {
        **LOOKUP, "objectives": ["error"], "estimator": {"kind": "train", "epochs": 2, "share": 0.1},
        "encoding": {"kind": "dag", "bounds": {"params": "2k"}}, "budget": {"epochs": 12},
    }  # fmt: skip
    found = run.start(trained, name="epochs", runs=tmp_path)
    assert [one["evaluations"] for one in found.generations()] == [4, 6]
    assert found.state().memory["spent"] == {"epochs": 12.0}  # type: ignore[union-attr]


@pytest.mark.parametrize("budget", [{"evaluations": 0}, {"seconds": -1}, {"hours": 3}])
def test_bad_budgets_are_refused(budget: dict[str, Any]) -> None:
    with pytest.raises(recipe.InvalidRecipe, match="budget"):
        recipe.read({**LOOKUP, "budget": budget})


def test_a_limit_that_nothing_counts_towards_is_refused() -> None:
    grown = {
        "task": {"kind": "xor"}, "objectives": ["fitness"], "encoding": {"kind": "neat"}, "strategy": {"kind": "neat"},
        "estimator": {"kind": "population"},
    }  # fmt: skip
    for data, key in ((LOOKUP, "epochs"), (grown, "epochs"), (grown, "seconds")):
        with pytest.raises(recipe.InvalidRecipe, match=f"budget.{key}: nothing here costs {key}"):
            recipe.read({**data, "budget": {key: 5}})
    assert recipe.read({**LOOKUP, "budget": {"seconds": 5}}).budget.seconds == 5


def test_a_strategy_without_its_face_is_refused_by_name() -> None:
    asks = {**LOOKUP, "strategy": {"kind": "local_search"}}
    told = r"'local_search' needs genomes as choices .* set encoding.kind: cell"
    with pytest.raises(recipe.InvalidRecipe, match=told):
        recipe.read(asks)
