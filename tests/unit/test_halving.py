"""Successive halving and Hyperband: rungs as in the papers, promotions, what trainings go on with, NAS-Bench-201."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evonas
from evonas import agreement, strategy
from evonas import recipe as recipes
from evonas.core import Estimate, Individual, Objective, RecipeError, State
from evonas.preview import preview
from evonas.strategy import HalvingSettings, HyperbandSettings
from evonas.strategy.problem import begin
from tests.vectors import problem

ONE = (Objective("f2"),)
DATA = Path(os.environ.get("EVONAS_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
TABLE = DATA / "nasbench201" / "nasbench201.npz"


def loss(individual: Individual) -> float:
    """The best vector is 0.3 in every gene."""
    return float(sum((gene - 0.3) ** 2 for gene in individual.genome.genes))  # type: ignore[attr-defined]


def judged(individual: Individual, weights: str | None = None) -> Estimate:
    return Estimate(individual.id, "ok", {"f2": loss(individual)}, weights=weights)


def follow(
    settings: Any, rungs: int, seed: int = 1, **fields: Any
) -> list[tuple[list[Individual], list[float], State]]:
    """Generation by generation: who was born, at which fidelity, and the state after it."""
    search, state, seen = strategy.build(settings, problem(seed, ONE, **fields)), begin(), []
    for _ in range(rungs):
        born, asked = search.ask(state)
        levels = [next(iter(search.fidelity(asked, one).values())) for one in born]  # type: ignore[attr-defined]
        state = search.tell(asked, [(one, judged(one, "w" * 64)) for one in born])
        seen.append((list(born), levels, state))
    return seen


def test_the_brackets_are_those_of_the_paper() -> None:
    """Li et al. 2018, table 1: R = 81, eta = 3; its fourth bracket has 8 candidates by their formula's rounding up."""
    made = HyperbandSettings(population=81, min=1, max=81, eta=3)
    assert made.brackets == (
        ((81, 1), (27, 3), (9, 9), (3, 27), (1, 81)),
        ((34, 3), (11, 9), (3, 27), (1, 81)),
        ((15, 9), (5, 27), (1, 81)),
        ((8, 27), (2, 81)),
        ((5, 81),),
    )


def test_rungs_of_halving() -> None:
    assert HalvingSettings().brackets == (((27, 1), (9, 3), (3, 9), (1, 27)),)
    assert HalvingSettings(population=100, eta=4, rungs=(12, 200)).brackets == (((100, 12), (25, 200)),)
    assert HalvingSettings(max=20).levels == (2.0, 7.0, 20.0)
    shares = HalvingSettings(resource="share", eta=2, min=0.25)
    assert shares.levels == pytest.approx((0.25, 0.5, 1.0))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"min": 9, "max": 3}, "do not ascend"),
        ({"rungs": (3, 3)}, "do not ascend"),
        ({"rungs": (1, 2.5)}, "whole numbers"),
        ({"min": 0.2, "max": 1}, "whole numbers"),
        ({"resource": "share", "max": 3}, "share 3 is a share: at most 1"),
    ],
)
def test_senseless_rungs_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        HalvingSettings(**wrong)


def test_the_best_are_promoted_and_looked_at_more_closely() -> None:
    seen = follow(HalvingSettings(population=12, eta=3, max=9), 4)
    assert [(len(born), set(levels)) for born, levels, _ in seen] == [(12, {1}), (4, {3}), (1, {9}), (12, {1})]
    for (before, _, _), (born, _, _) in pairwise(seen[:3]):
        best = sorted(before, key=lambda one: (loss(one), one.id))[: len(born)]
        assert [(one.genome, one.parents, one.edits) for one in born] == [(one.genome, (one.id,), ()) for one in best]
    winner, population = seen[2][0][0], seen[3][2].population
    assert [one.id for one in population] == [winner.id, *(one.id for one in seen[3][0])], "who finished stays"


def test_trainings_that_go_on_train_what_a_rung_adds() -> None:
    made = HalvingSettings(population=9, eta=3, max=9)
    levels = [set(levels) for _, levels, _ in follow(made, 4, inherits=True)]
    assert levels == [{1}, {2}, {6}, {1}]
    shares = HalvingSettings(population=9, resource="share")
    assert [set(levels) for _, levels, _ in follow(shares, 3, inherits=True)] == [{1 / 9}, {1 / 3}, {1.0}]


def test_without_its_parents_weights_a_promotion_trains_anew() -> None:
    search = strategy.build(HalvingSettings(population=9, eta=3, max=9), problem(1, ONE, inherits=True))
    born, asked = search.ask(begin())
    state = search.tell(asked, [(one, judged(one)) for one in born])
    again, asked = search.ask(state)
    assert [search.fidelity(asked, one) for one in again] == [{"epochs": 3.0}] * 3  # type: ignore[attr-defined]


def test_a_rung_that_fails_ends_its_bracket() -> None:
    search = strategy.build(HalvingSettings(population=9, eta=3, max=9), problem(1, ONE))
    born, asked = search.ask(begin())
    state = search.tell(asked, [(one, judged(one)) for one in born])
    again, asked = search.ask(state)
    state = search.tell(asked, [(one, Estimate(one.id, "pruned", reason="for a test")) for one in again])
    anew, _ = search.ask(state)
    assert len(anew) == 9 and not any(one.parents for one in anew)


def test_hyperband_takes_its_brackets_in_turn() -> None:
    seen = follow(HyperbandSettings(population=9, max=9), 7)
    sizes = [(len(born), levels[0]) for born, levels, _ in seen]
    assert sizes == [(9, 1), (3, 3), (1, 9), (5, 3), (1, 9), (3, 9), (9, 1)]


def test_candidates_evolve_from_those_that_finished() -> None:
    seen = follow(HalvingSettings(population=12, eta=3, max=9, evolved=0.5), 8)
    finished: set[int] = set()
    for born, levels, _ in seen:
        if levels[0] == 1:
            children = [one for one in born if one.parents]
            assert len(children) == (6 if finished else 0)
            assert all(one.edits and set(one.parents) <= finished for one in children)
        if levels[0] == 9:
            finished |= {one.id for one in born}


def test_evolved_candidates_find_better_ones() -> None:
    """On the same number of looks; the mean of five searches."""

    def reached(evolved: float) -> float:
        made = HalvingSettings(population=12, eta=3, max=9, evolved=evolved)
        return float(
            np.mean([min(loss(one) for born, _, _ in follow(made, 60, seed) for one in born) for seed in range(5)])
        )

    assert reached(0.5) < 0.5 * reached(0.0)


# ------------------------------------------------------------------------------------------------------------- runs

RUN: dict[str, Any] = {
    "seed": 3,
    "task": {"kind": "digits", "limit": 120},
    "objectives": ["error"],
    "encoding": {"kernels": [3], "bounds": {"flops": "30k"}},
    "strategy": {"kind": "successive_halving", "population": 4, "eta": 2, "max": 4, "generations": 3},
    "estimator": {"kind": "train", "inherit": "weights"},
    "final": {"epochs": 2},
    "pool": {"kind": "serial"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> evonas.Run:
    return evonas.start(RUN, name="halves", runs=tmp_path_factory.mktemp("runs"))


def test_a_promotion_goes_on_from_its_weights(run: evonas.Run) -> None:
    estimates, rows = run.store.estimates(), run.individuals()
    assert [estimates[row.id].cost["fidelity_epochs"] for row in rows] == [1, 1, 1, 1, 1, 1, 2]
    for row in rows[4:]:
        (parent,) = row.parents
        assert row.key == run.rows([parent])[0].key
        one, before = estimates[row.id], estimates[parent]
        assert one.cost["inherited"] == 1.0
        assert one.curve[0] == {"epoch": 0, "valid_error": before.curve[-1]["valid_error"]}
        assert one.cost["epochs"] == one.cost["fidelity_epochs"]


def test_promotions_say_how_far_fidelities_agree(run: evonas.Run) -> None:
    told = run.agreements()
    assert [(one.low, one.high, one.n) for one in told] == [
        ("1 epochs", "+1 epochs", 2),
        ("+1 epochs", "+2 epochs", 1),
    ]
    estimates = run.store.estimates()
    pairs = [[estimates[one].values["error"] for one in (*run.individual(id).parents, id)] for id in (4, 5)]
    assert told[0].tau == agreement.kendall(*zip(*pairs, strict=True)) and told[1].tau is None
    assert any(event["kind"] == "agreement" and event["text"] == str(told[0]) for event in run.events())


def test_tests_say_how_far_the_search_agrees_with_them(run: evonas.Run) -> None:
    tested = evonas.test(run, [0, 1, 2])
    pairs = [(tested.estimate(test["id"]).values["error"], test["values"]["error"]) for test in tested.store.tests()]  # type: ignore[union-attr]
    one = tested.agreements()[-1]
    assert (one.low, one.high, one.n) == ("1 epochs", "the test", 3)
    assert one.tau == agreement.kendall(*zip(*pairs, strict=True))


def test_what_a_recipe_with_rungs_will_do_is_reckoned(run: evonas.Run) -> None:
    seen = preview(recipes.read(RUN))
    epochs = [one.cost["epochs"] for one in run.store.estimates().values()]
    assert seen.evaluations == len(epochs) == 7 and seen.rungs == "1, 2, 4 epochs"
    assert seen.samples == seen.rows["train"] * sum(epochs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"estimator": {"kind": "lookup"}, "objectives": ["params"]}, "estimator 'lookup' has none"),
        ({"strategy": {"kind": "hyperband", "resource": "width"}}, "'width' changes the shapes of weights"),
        (
            {"strategy": {"kind": "hyperband", "resource": "share"}, "estimator": {"share": 0.5}},
            "1 is more than estimator.s",
        ),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipes.read({**RUN, **changes})


# --------------------------------------------------------------------------------------------------- NAS-Bench-201


def table(dataset: str, **strategy_: Any) -> dict[str, Any]:
    return {
        "name": "nb",
        "task": {
            "kind": "tabular", "file": str(TABLE),
            "key": {"column": "ops", "words": ["none", "skip", "conv_1x1", "conv_3x3", "avg_pool_3x3"]},
            "metrics": {
                "error": {
                    "column": {12: f"{dataset}_valid_12", 200: f"{dataset}_valid_200_seeds"}, "complement": 100
                },
            },
            "report": {"test": f"{dataset}_test_200"},
            "cost": {"column": f"{dataset}_train_time_200", "epochs": 200},
        },
        "encoding": {"kind": "cell", "space": "nasbench201"},
        "objectives": ["error"],
        "strategy": {
            "kind": "successive_halving", "population": 100, "eta": 4, "rungs": [12, 200], "generations": 2,
            "speciation": None, **strategy_,
        },
        "estimator": {"kind": "lookup", "epochs": 12},
    }  # fmt: skip


needs_table = pytest.mark.skipif(not TABLE.exists(), reason="needs the NAS-Bench-201 table")


@needs_table
@pytest.mark.parametrize(("dataset", "kept", "regret"), [("cifar10", 0.936, 0.009), ("cifar100", 0.912, 0.029)])
def test_the_true_best_is_among_the_promoted(dataset: str, kept: float, regret: float) -> None:
    """As often as measured with plain code (reference/tabular-benchmark.md), within three standard errors."""
    from evonas.simulate import Simulator

    simulator, count = Simulator(recipes.read(table(dataset))), 100
    test, losses = simulator.report("test"), []
    for seed in range(count):
        trace = simulator.search(seed)
        assert trace.epochs.tolist() == [12] * 100 + [200] * 25
        assert set(trace.rows[100:]) <= set(trace.rows[:100])
        losses.append(test[trace.rows[:100]].max() - test[trace.rows[100:]].max())
    share = np.mean(np.array(losses) == 0)
    assert share >= kept - 3 * (kept * (1 - kept) / count) ** 0.5
    assert np.mean(losses) <= regret + 3 * np.std(losses) / count**0.5 + 0.01


@needs_table
def test_a_tables_promotions_and_tests_agree_with_the_table(tmp_path: Path) -> None:
    """Of 200 cells looked at twice; an accuracy that is reported counts the right way round."""
    run = evonas.start(table("cifar10", population=200, eta=1.0001), name="nb", runs=tmp_path)
    (one,) = run.agreements()
    assert (one.low, one.high) == ("12 epochs", "200 epochs") and one.n >= 199
    assert one.tau == pytest.approx(0.594, abs=0.1)
    brief, close = evonas.test(run, [*range(0, 200, 4), *range(200, 399, 4)]).agreements()[1:]
    assert (brief.low, close.low) == ("12 epochs", "200 epochs") and brief.high == close.high == "the test"
    assert brief.tau == pytest.approx(0.594, abs=0.2) and close.tau is not None and close.tau > brief.tau  # type: ignore[operator]


@needs_table
def test_an_unknown_fidelity_of_a_table_is_refused() -> None:
    with pytest.raises(RecipeError, match="2 epochs is no fidelity of the task's table") as caught:
        recipes.read(table("cifar10", rungs=[]))
    assert "rungs: [12, 200]" in str(caught.value)
