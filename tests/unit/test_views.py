"""What figures are drawn from: columns equal to rows read one by one, fronts, attainment, families, failures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evonas
from evonas.cohort import STATUSES, Everyone
from evonas.core import RecipeError
from evonas.report import views
from evonas.report.views import Axis
from evonas.results import Run
from evonas.store import Store
from tests import fabricated
from tests.fabricated import Made

ROOT = Path(__file__).resolve().parents[2]
NEAT = {
    "task": {"kind": "xor"}, "encoding": {"kind": "neat"}, "objectives": ["fitness"], "seed": 3,
    "strategy": {"kind": "neat", "population": 40, "generations": 4}, "estimator": {"kind": "population"},
}  # fmt: skip


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("runs") / "made"
    failures = ("loss is nan in epoch 1", "loss is nan in epoch 2", "killed by signal 9")
    with evonas.open(fabricated.write(folder, Made(fabricated.RECIPE, 20, 6, failures=failures, failing=0.2))) as run:
        yield run


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with evonas.start(NEAT, runs=tmp_path_factory.mktemp("runs"), name="xor") as run:
        yield run


@pytest.fixture(scope="module")
def sample() -> Iterator[Run]:
    with evonas.open(ROOT / "runs" / "sample-digits") as run:
        yield run


# --------------------------------------------------------------------------------------------------------- everyone


def test_columns_hold_what_rows_hold(layered: Run) -> None:
    everyone, rows = layered.everyone(), layered.individuals()
    assert everyone.ids.tolist() == [row.id for row in rows]
    assert everyone.births.tolist() == [row.birth for row in rows]
    assert [STATUSES[one] for one in everyone.status] == [row.status for row in rows]
    for name in ("error", "params"):
        told = [None if math.isnan(value) else value for value in everyone.columns[name].tolist()]
        assert told == [row.values.get(name) for row in rows]
    assert {int(everyone.ids[at]): why for at, why in everyone.reasons.items()} == {
        row.id: row.reason for row in rows if row.status == "failed"
    }
    assert everyone.samples.tolist() == [row.cost.get("samples", 0.0) for row in rows]


def test_a_whole_population_is_told_from_its_journal(direct: Run) -> None:
    everyone = direct.everyone()
    assert everyone.ids.tolist() == list(range(160)) and everyone.births.tolist() == [id // 40 for id in range(160)]
    kept = direct.individuals()
    assert len(kept) < len(everyone)
    for row in kept:
        assert everyone.columns["fitness"][row.id] == row.values["fitness"]


def test_later_generations_are_read_alone_and_joined_again(layered: Run, direct: Run) -> None:
    for run in (layered, direct):
        whole, late = run.everyone(), run.everyone(2)
        joined = Everyone.joined([whole.before(2), late])
        assert late.births.min() == 2
        assert joined.ids.tolist() == whole.ids.tolist() and joined.reasons == whole.reasons
        for name, column in whole.columns.items():
            np.testing.assert_array_equal(joined.columns[name], column)


def test_those_that_wait_are_told_from_those_that_failed(tmp_path: Path) -> None:
    made = Made(fabricated.RECIPE, 4, 2, failures=("no",), failing=1.0)
    folder = fabricated.write(tmp_path / "run", made)
    with Store.open(folder, write=True) as store:
        run = Run(store)
        run.store.lay([run.individual(7).__class__(8, run.genome(7), (7,), (), 2)])
        everyone = run.everyone()
    assert [STATUSES[one] for one in everyone.status] == ["failed"] * 8 + ["waiting"]
    assert np.isnan(everyone.columns.get("error", np.array([math.nan]))).all()


def test_a_lost_row_is_noticed(tmp_path: Path) -> None:
    import sqlite3

    folder = fabricated.write(tmp_path / "run", Made(fabricated.RECIPE, 4, 2))
    with sqlite3.connect(folder / "run.sqlite") as db:
        db.execute("DELETE FROM estimates WHERE id = 3")
    db.close()
    with evonas.open(folder) as run, pytest.raises(evonas.EvonasError, match="lost or gained rows"):
        run.everyone()


# ------------------------------------------------------------------------------------------------------------ front


def test_a_front_view_knows_what_the_run_knows(layered: Run) -> None:
    view = views.front(layered)
    rows = {row.id: row for row in layered.individuals()}
    assert set(view.ids.tolist()) == {id for id, row in rows.items() if row.status == "ok"}
    assert [list(ids) for ids in view.fronts] == [layered.store.front(g) for g in range(1, 7)]
    assert view.knee == layered.knee() and view.default_axes() == ("params", "error")
    known = {id: row.species for id, row in rows.items() if row.status == "ok" and row.species is not None}
    assert {int(id): int(one) for id, one in zip(view.ids, view.species, strict=True) if one} == known
    with pytest.raises(RecipeError, match="did you mean 'params'"):
        view.axis("parms")


def test_the_best_within_a_budget_is_the_best_of_those_that_keep_it(layered: Run) -> None:
    view = views.front(layered)
    for limit in (100.0, 1000.0, 20_000.0):
        able = [row for row in layered.individuals() if row.status == "ok" and row.values["params"] <= limit]
        best = min(able, key=lambda row: row.values["error"], default=None)
        assert view.best_within({"params": limit}) == (None if best is None else best.id)


def test_one_objective_is_shown_over_the_order_of_birth(direct: Run) -> None:
    view = views.front(direct)
    assert view.default_axes() == (views.ORDER, "fitness") and view.axes["fitness"].direction == "max"
    assert "hidden" in view.axes, "what a network is measured by besides is there to be drawn"


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), max_size=200), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_thinning_keeps_one_of_each_cell_and_counts_everyone(points: list[tuple[float, float]], cells: int) -> None:
    x, y = (np.array([point[i] for point in points]) for i in (0, 1))
    at, count = views.thinned(x, y, (cells, cells))
    assert int(count.sum()) == len(points)
    assert len(set(at.tolist())) == len(at) <= cells * cells
    assert len(at) > 0 or not points


def test_a_cloud_is_everyone_as_long_as_they_are_few_and_bounded_when_many() -> None:
    x, y = np.random.default_rng(1).random((2, 100_000))
    at, count = views.cloud(x, y)
    assert len(at) <= 1.25 * views.CLOUD and int(count.sum()) == len(x)
    few, ones = views.cloud(x[:500], y[:500])
    assert few.tolist() == list(range(500)) and set(ones.tolist()) == {1}


# ------------------------------------------------------------------------------------------------------- attainment


def _attained(x: float, fronts: list[tuple[list[float], list[float]]], wanted: int) -> float:
    """The least y that so many runs reach at x or below, by trying all."""
    best = sorted(min((b for a, b in zip(*front, strict=True) if a <= x), default=math.inf) for front in fronts)
    return best[wanted - 1]


@given(st.lists(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=8), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_attainment_is_what_counting_runs_gives(runs: list[list[tuple[float, float]]]) -> None:
    fronts = [([a for a, _ in run], [b for _, b in run]) for run in runs]
    arrays = [(np.array(a), np.array(b)) for a, b in fronts]
    found = views.attainment("all", arrays, (Axis("x", direction="min"), Axis("y", direction="min")))
    for x, worst, half, best in zip(found.across, found.all, found.half, found.best, strict=True):
        for value, wanted in ((worst, len(runs)), (half, math.ceil((len(runs) + 1) / 2)), (best, 1)):
            expected = _attained(float(x), fronts, wanted)
            assert (math.isinf(expected) and np.isnan(value)) or value == expected


def test_attainment_follows_the_directions_of_its_axes() -> None:
    found = views.attainment(
        "a", [(np.array([1.0, 3.0]), np.array([5.0, 9.0]))], (Axis("x", direction="min"), Axis("y", direction="max"))
    )
    assert found.across.tolist() == [1.0, 3.0] and found.best.tolist() == [5.0, 9.0]


def test_runs_that_differ_in_seed_alone_are_one_group(layered: Run) -> None:
    recipe = layered.store.recipe
    other = {**recipe, "strategy": {**recipe["strategy"], "population": 99}}
    groups = views.groups({"a-1": recipe, "b": other, "a-2": {**recipe, "seed": 5, "name": "x"}})
    assert [(one.name, one.runs) for one in groups] == [("a", ("a-1", "a-2")), ("b", ("b",))]


def test_hypervolumes_below_one_reference_can_be_compared(layered: Run) -> None:
    view, trend = views.front(layered), views.trend(layered)
    point = views.reference([view])
    again = views.below(view, trend, point)
    assert len(again.hypervolume) == len(trend.hypervolume) and (np.diff(again.hypervolume) >= -1e-12).all()
    assert again.hypervolume[-1] > 0


def test_the_trend_counts_evaluations_seconds_and_samples(layered: Run) -> None:
    everyone = layered.everyone()
    trend = views.trend(layered, everyone)
    rows = layered.generations()
    assert trend.evaluations.tolist() == [row["evaluations"] for row in rows]
    assert trend.seconds.tolist() == np.cumsum([row["seconds"] for row in rows]).tolist()
    assert trend.samples[-1] == everyone.samples.sum()
    with pytest.raises(RecipeError, match="did you mean 'samples'"):
        trend.over("sample")


# ------------------------------------------------------------------------------------------- species and lineages


def test_species_sizes_are_those_of_every_generation(layered: Run, direct: Run) -> None:
    for run in (layered, direct):
        view = views.species(run)
        for row in run.species():
            assert view.sizes[view.ids.index(row["species"]), row["generation"] - 1] == row["size"]
        assert view.sizes.sum() == sum(row["size"] for row in run.species())


def test_distances_are_the_encodings(sample: Run) -> None:
    found = views.distances(sample, views.species(sample))
    one, two = (sample.genome(id) for id in found.ids[:2])
    assert found.values[0, 1] == found.values[1, 0] == sample.encoding.distance(one, two)
    assert (np.diag(found.values) == 0).all()


def test_a_champion_stands_in_for_a_representative_that_was_not_kept(direct: Run) -> None:
    history = views.species(direct)
    found = views.distances(direct, history)
    kept = {row.id for row in direct.individuals()}
    assert found.species == tuple(sorted(one["species"] for one in history.newest))
    for one, id in zip(sorted(history.newest, key=lambda one: one["species"]), found.ids, strict=True):
        assert id == (one["representative"] if one["representative"] in kept else one["champion"])
        assert (one["species"] in found.stand_ins) == (one["representative"] not in kept)


def test_a_family_is_everyone_the_lineage_has(sample: Run) -> None:
    rows = sample.lineage(185)
    view = views.lineage(sample, 185)
    assert {one.id for one in view.members} == {row.id for row in rows}
    assert all(dict(one.values) == dict(row.values) for one, row in zip(view.members, rows, strict=True))
    trunk = [one.id for one in view.trunk]
    assert trunk[-1] == 185 and not sample.store.parents(trunk[0])
    assert all(sample.store.parents(child)[0] == parent for parent, child in pairwise(trunk))


def test_a_large_family_shows_the_nearest_and_says_how_many_more(layered: Run) -> None:
    whole = views.lineage(layered, 119)
    few = views.lineage(layered, 119, most=5)
    assert len(few.members) == max(5, len(whole.trunk)) and few.hidden == len(whole.members) - len(few.members)
    assert {one.id for one in whole.trunk} <= {one.id for one in few.members}


def test_of_a_family_beyond_reach_the_line_of_first_parents_goes_on(
    layered: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = views.lineage(layered, 119)
    monkeypatch.setattr(views, "REACH", 3)
    near = views.lineage(layered, 119)
    assert [one.id for one in near.trunk] == [one.id for one in whole.trunk]
    assert {one.id for one in near.members} < {one.id for one in whole.members}


def test_parents_that_were_not_kept_are_named(direct: Run) -> None:
    late = max(row.id for row in direct.individuals())
    view = views.lineage(direct, late)
    kept = {row.id for row in direct.individuals()}
    assert set(view.unknown).isdisjoint(kept)
    with pytest.raises(RecipeError, match="no individual 999"):
        views.lineage(direct, 999)


def test_changes_are_told_by_marks(sample: Run) -> None:
    child = next(
        one.id for one in sample.individuals() if [e.op for e in sample.individual(one.id).edits] == ["change_channels"]
    )
    (edit,) = sample.individual(child).edits
    changes = views.changes(sample, child)
    assert changes.parent == sample.store.parents(child)[0] and not changes.new and not changes.gone
    assert set(changes.changed) == set(edit.where) and "channels" in changes.changed[edit.where[0]]
    assert views.changes(sample, 0) == views.Changes()


def test_new_layers_and_links_are_new_marks(sample: Run) -> None:
    child = next(
        one.id for one in sample.individuals() if [e.op for e in sample.individual(one.id).edits] == ["add_layer"]
    )
    (edit,) = sample.individual(child).edits
    changes = views.changes(sample, child)
    assert changes.new == set(edit.made) and set(changes.gone) == set(edit.where)
    assert len(changes.joined) == 2


# --------------------------------------------------------------------------------------------------- cards, failures


def test_failures_that_differ_in_a_number_are_one(layered: Run) -> None:
    found = views.failures(layered.everyone())
    failed = [row for row in layered.individuals() if row.status == "failed"]
    assert sum(one.count for one in found) == len(failed)
    assert {one.reason for one in found} == {"loss is nan in epoch …", "killed by signal …"}
    assert [one.count for one in found] == sorted((one.count for one in found), reverse=True)


def test_a_card_tells_a_run_without_its_recipe_checked(layered: Run, direct: Run) -> None:
    card = views.card(layered.store, running=False)
    rows = layered.generations()
    assert (card.status, card.generation, card.generations) == ("finished", 6, 6)
    assert card.evaluations == rows[-1]["evaluations"] and card.failed == sum(row["failed"] for row in rows)
    assert card.best == rows[-1]["best"] and card.trend == tuple(row["hypervolume"] for row in rows)
    assert views.card(layered.store, running=True).status == "running"
    assert views.card(direct.store, running=False).task == "xor"
