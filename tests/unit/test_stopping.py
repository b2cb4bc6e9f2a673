"""Ending hopeless trainings: the rules on made curves, what they are compared with, and whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t

import evonas
from evonas import pool
from evonas import recipe as recipes
from evonas.core import Estimate, Job, RecipeError
from evonas.estimate import Stop
from evonas.estimate.stopping import FAMILIES, Finished, Judge, _below, better, finished, peers, predictions
from evonas.report.progress import Progress
from evonas.run import Interrupted

LOOKS = tuple(range(1, 21))


def falling(floor: float, height: float = 0.5, power: float = 0.8, noise: float = 0.0, seed: int = 0) -> Any:
    """A curve floor + height t^-power at LOOKS."""
    clean = floor + height * np.array(LOOKS, dtype=float) ** -power
    return clean + noise * np.random.default_rng(seed).normal(size=len(LOOKS))


def crowd(count: int = 12) -> NDArray[np.float64]:
    """Finished curves that end between 0.15 and 0.35."""
    return np.array([falling(0.1 + 0.2 * i / (count - 1), noise=0.004, seed=i) for i in range(count)])


def points(errors: Sequence[float]) -> list[dict[str, float]]:
    return [{"epoch": i + 1, "loss": 1.0, "valid_error": float(one)} for i, one in enumerate(errors)]


def judge(**settings: Any) -> Judge:
    made = Judge.of(Stop(**settings), 20, 1, crowd().tolist(), 7)
    assert made is not None
    return made


def ended(one: Judge, errors: Sequence[float]) -> int:
    """After how many looks a training is ended; 20 where it is not."""
    return next((n for n in range(1, 20) if one(points(errors[:n]))), 20)


# ------------------------------------------------------------------------------------------------------------ rules


def test_the_median_rule_ends_what_is_above_the_median_of_means() -> None:
    """Against a plain version of the rule, look by look."""
    others, one = crowd(), judge(probability=None, after=0.0)
    for errors in (falling(0.35), falling(0.1), np.full(20, 0.3), np.linspace(0.6, 0.05, 20)):
        for n in range(2, 20):
            middle = np.median([np.mean(curve[:n]) for curve in others])
            assert bool(one(points(errors[:n]))) == (min(errors[:n]) > middle)


def test_a_hopeless_curve_is_ended_and_the_best_is_not() -> None:
    one = judge(median=False)
    assert ended(one, falling(0.5)) <= 6
    assert ended(one, falling(0.08)) == 20, "it ends below all others"
    assert "P(it ends below" in one(points(falling(0.5)[:8])) and "less than 0.02" in one(points(falling(0.5)[:8]))


def test_where_others_bloomed_late_none_is_ended_early() -> None:
    """The worst of all for a while, it falls steeply: a few such among the finished make the rule careful."""
    late = [np.concatenate([np.linspace(0.8 + 0.01 * i, 0.45, 6), np.linspace(0.38, 0.05, 14)]) for i in range(5)]
    mixed = Judge.of(Stop(median=False), 20, 1, [*crowd(8).tolist(), *(one.tolist() for one in late[1:])], 7)
    assert mixed is not None
    assert ended(judge(median=False), late[0]) == 5 and ended(mixed, late[0]) == 20


def test_nothing_is_ended_early_on_at_the_end_or_beside_a_gap() -> None:
    bad = np.full(20, 0.9)
    one = judge(after=0.5)
    assert [bool(one(points(bad[:n]))) for n in (5, 10, 11, 19, 20)] == [False, False, True, True, False]
    assert not one([point for point in points(bad[:15]) if point["epoch"] != 7]), "a look without a finite error"
    birth = {"epoch": 0, "valid_error": 0.9}
    assert one([birth, *points(bad[:11])]) and not one([birth, *points(bad[:10])])


def test_too_few_or_other_curves_judge_nothing() -> None:
    curves = crowd().tolist()
    assert Judge.of(None, 20, 1, curves, 1) is None
    assert Judge.of(Stop(), 20, 0, curves, 1) is None
    assert Judge.of(Stop(), 20, 1, curves[:7], 1) is None
    assert Judge.of(Stop(), 20, 1, [curve[:10] for curve in curves], 1) is None
    sparse = Judge.of(Stop(), 20, 3, [curve[:7] for curve in curves], 1)
    assert sparse is not None and sparse.looks == (3, 6, 9, 12, 15, 18, 20)


def test_a_decision_is_the_same_again_and_in_any_order_of_the_others() -> None:
    errors, others = falling(0.2, noise=0.01)[:9], crowd()
    first = better(errors, others, LOOKS, 0.15, 3)
    assert better(errors, others, LOOKS, 0.15, 3) == first
    assert better(errors, others[::-1], LOOKS, 0.15, 3) == pytest.approx(first, rel=1e-9)
    assert 0 <= first <= 1


def test_probabilities_fall_with_the_bar_and_do_not_mind_the_unit() -> None:
    errors, others = falling(0.2, noise=0.01)[:9], crowd()
    chances = [better(errors, others, LOOKS, best, 3) for best in (0.3, 0.2, 0.15, 0.1)]
    assert chances == sorted(chances, reverse=True) and chances[0] > 0.9 > 0.1 > chances[-1]
    scaled = better(1000 * errors, 1000 * others, LOOKS, 150.0, 3)
    assert scaled == pytest.approx(better(errors, others, LOOKS, 0.15, 3), abs=0.02)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_finds_its_own_curve(name: str) -> None:
    """From the first half without noise, whatever the shape on its grid."""
    shape, grids = FAMILIES[name]
    chosen = [float(grid[len(grid) // 2]) * (20.0 if scaled else 1.0) for grid, scaled in grids]
    curve = 0.1 + 0.6 * shape(np.array(LOOKS, dtype=float), *chosen)
    ends = predictions(curve[None, :10], np.ones((1, 10)), LOOKS, np.linspace(1, 0, 20))
    assert ends[0, list(FAMILIES).index(name)] == pytest.approx(curve[-1], abs=1e-6)
    assert ends.shape == (1, len(FAMILIES) + 2) and ends[0, -1] == curve[:10].min()


def test_the_finished_curves_mean_is_a_family() -> None:
    kin = np.abs(np.sin(np.array(LOOKS))) + 0.2
    assert predictions((0.1 + 2 * kin)[None, :10], np.ones((1, 10)), LOOKS, kin)[0, -2] == pytest.approx(
        0.1 + 2 * kin[-1]
    )


def test_least_squares_are_those_of_a_plain_solver() -> None:
    """One shape, so that only offset and slope are fitted, with weights."""
    draws = np.random.default_rng(0)
    errors, weights = falling(0.2, noise=0.02)[:8], draws.random(8) + 0.1
    ends = predictions(errors[None], weights[None], LOOKS, np.linspace(1, 0, 20))
    g = 1 / np.log(np.array(LOOKS) + 1)
    root = np.sqrt(weights)[:, None]
    plain = np.linalg.lstsq(root * np.stack([np.ones(8), g[:8]], 1), root[:, 0] * errors, rcond=None)[0]
    assert ends[0, list(FAMILIES).index("ilog2")] == pytest.approx(plain @ [1.0, g[-1]], rel=1e-9)


def test_tails_are_students() -> None:
    """One family counts alone where it foretold all ends but for a known spread."""
    z = np.linspace(-9, 9, 50)
    assert _below(z) == pytest.approx(t.cdf(z, 4), abs=1e-12)


def test_the_family_that_foretold_others_counts() -> None:
    """Curves that stand still and then all halve at the end: no shape knows that, the least error so far does."""
    steps = np.where(np.array(LOOKS) > 15, 0.5, 1.0)
    others = np.linspace(0.2, 0.5, 12)[:, None] * steps
    assert (
        better(0.18 * steps[:8], others, LOOKS, 0.1, 1) > 0.95 > 0.05 > better(0.25 * steps[:8], others, LOOKS, 0.1, 1)
    )


def test_curves_without_any_fall_are_no_trouble() -> None:
    flat = np.full((12, 20), 0.5)
    assert 0 <= better(np.full(6, 0.5), flat, LOOKS, 0.5, 1) <= 1
    assert better(np.full(6, 0.9), flat, LOOKS, 0.5, 1) < 0.05
    assert np.isfinite(better(np.zeros(6), np.zeros((12, 20)), LOOKS, 0.0, 1))


# ---------------------------------------------------------------------------------------------- who is compared with


def test_an_estimate_tells_its_errors_and_how_it_was_looked_at() -> None:
    curve = ({"epoch": 0, "valid_error": 0.8}, *points([0.5, 0.4]))
    cost = {"epochs": 2.0, "inherited": 0.9, "fidelity_share": 0.5}
    told = finished(Estimate(4, "ok", {"error": 0.4}, curve=curve, cost=cost), (10.0,))
    assert told == Finished(4, (0.5, 0.4), (10.0,), heir=True, fidelity={"share": 0.5})
    assert finished(Estimate(4, "pruned", curve=curve), ()) is None
    assert finished(Estimate.failed(4, "boom"), ()) is None


def test_peers_are_those_alike_that_are_no_larger() -> None:
    def one(id: int, end: float, size: float = 1.0, heir: bool = False, **at: float) -> Finished:
        return Finished(id, (0.9, end), (size,), heir, at)

    known = [one(0, 0.3), one(1, 0.1, size=9.0), one(2, 0.2), one(3, 0.25, heir=True), one(4, 0.4, epochs=3.0)]
    assert peers(known, (1.0,), False, {}) == ((0.9, 0.2), (0.9, 0.3)), "the best first"
    assert peers(known, (9.0,), False, {}) == ((0.9, 0.1), (0.9, 0.3), (0.9, 0.2))
    assert peers(known, (1.0,), True, {}) == ((0.9, 0.25),)
    assert peers(known, (1.0,), False, {"epochs": 3.0}) == ((0.9, 0.4),)
    assert peers(known, (0.5,), False, {}) == ()
    many = [one(i, 0.5 - 0.001 * (i == 3)) for i in range(300)]
    sent = peers(many, (1.0,), False, {})
    assert len(sent) == 100 and sent[0] == (0.9, 0.499)


def test_peers_travel_with_the_job() -> None:
    job = Job(1, 2, {"g": 1}, fidelity={"epochs": 3.0}, peers=((0.5, 0.25), (0.75, 0.5)))
    assert Job.from_json(job.to_json()) == job


# ------------------------------------------------------------------------------------------------------------- runs

RUN: dict[str, Any] = {
    "seed": 3,
    "task": {"kind": "digits", "limit": 120},
    "objectives": ["error"],
    "encoding": {"kernels": [3], "bounds": {"flops": "100k"}},
    "strategy": {"kind": "regularized", "population": 6, "offspring": 3, "sample": 3, "generations": 5},
    "estimator": {"kind": "train", "epochs": 6, "stop": {"after": 0.2, "peers": 3}},
    "pool": {"kind": "serial"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> evonas.Run:
    return evonas.start(RUN, name="stops", runs=tmp_path_factory.mktemp("runs"))


def test_an_ended_training_is_pruned_and_counts_as_seen(run: evonas.Run) -> None:
    estimates = run.store.estimates()
    pruned = {id: one for id, one in estimates.items() if one.status == "pruned"}
    assert pruned and len(estimates) == 6 + 4 * 3 == run.generations()[-1]["evaluations"]
    for one in pruned.values():
        epochs = int(one.cost["epochs"])
        assert one.values == {} and one.weights is None
        assert one.reason.startswith(f"ended after {epochs} of 6 epochs: ")
        assert len(one.curve) == epochs < 6 and one.cost["epochs_saved"] == 6 - epochs
    assert not any(row["failed"] for row in run.generations()), "it is no failure"
    parents = {parent for row in run.individuals() for parent in row.parents}
    assert not pruned.keys() & parents and not pruned.keys() & {row.id for row in run.front()}


def test_the_first_generation_goes_to_its_end(run: evonas.Run) -> None:
    assert all(run.store.estimates(range(6))[id].status == "ok" for id in range(6))


def test_what_was_saved_is_told(run: evonas.Run) -> None:
    estimates = run.store.estimates().values()
    saved = run.saved()
    assert saved is not None
    assert saved.pruned == sum(one.status == "pruned" for one in estimates)
    assert saved.epochs == sum(one.cost.get("epochs_saved", 0) for one in estimates)
    assert saved.share == pytest.approx(saved.epochs / (6 * len(estimates)))
    (told,) = [event["text"] for event in run.events() if event["kind"] == "finished"]
    assert f"{saved.pruned} trainings were ended early, which saved {saved.epochs:g} epochs" in told


@pytest.mark.slow
def test_another_pool_ends_the_same_ones(run: evonas.Run, tmp_path: Path) -> None:
    other = evonas.start({**RUN, "pool": {"kind": "processes", "workers": 2}}, name="two", runs=tmp_path)
    assert [(one.id, one.status, one.reason, one.curve) for one in other.store.estimates().values()] == [
        (one.id, one.status, one.reason, one.curve) for one in run.store.estimates().values()
    ]


def test_a_run_that_was_stopped_amid_a_generation_ends_the_same_ones(
    run: evonas.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the own generation that were estimated before the stop are not among the peers. Estimates arrive one by
    one, so that two are there when the stop comes: a fast machine hands over all three at once."""
    monkeypatch.setattr(pool.Serial, "BATCH", 0.0)

    def stop(progress: Progress) -> None:
        if progress.kind == "batch" and progress.generation == 3 and progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        evonas.start(RUN, name="cut", runs=tmp_path, observer=stop)
    again = evonas.resume(tmp_path / "cut")
    assert [(one.id, one.status, one.reason) for one in again.store.estimates().values()] == [
        (one.id, one.status, one.reason) for one in run.store.estimates().values()
    ]


def test_a_larger_network_is_not_ended_for_a_smaller_ones_sake(tmp_path: Path) -> None:
    """With the parameters among the objectives only those no larger judge."""
    two = {**RUN, "objectives": ["error", "params"]}
    found = evonas.start(two, name="sizes", runs=tmp_path)
    estimates = found.store.estimates()
    for one in estimates.values():
        if one.status == "pruned":
            assert set(one.values) == {"params"}
            born = found.individual(one.id).birth
            judges = [
                other for other in estimates.values()
                if other.status == "ok" and found.individual(other.id).birth < born
                and other.values["params"] <= one.values["params"]
            ]  # fmt: skip
            assert len(judges) >= 3


# ---------------------------------------------------------------------------------------------------------- mistakes


def mistakes(**changes: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipes.read({**RUN, **changes})
    return str(caught.value)


def test_mistakes_are_told() -> None:
    estimator = RUN["estimator"]
    assert "there are no errors to judge by" in mistakes(estimator={**estimator, "evaluate_every": 0})
    assert "'latency' is not known before a training's end" in mistakes(objectives=["error", "latency"])
    assert "both rules are off" in mistakes(estimator={**estimator, "stop": {"median": False, "probability": None}})
    assert "stop" in mistakes(final={"epochs": 3, "stop": {}})


def test_the_last_training_is_never_ended() -> None:
    assert recipes.read(RUN).final.stop is None
