"""A generation as arrays: the same individuals and estimates as one by one, and the same again from bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from evonas.cohort import (
    Cohort,
    Scored,
    Scores,
    cohort_from_bytes,
    cohort_to_bytes,
    scores_from_bytes,
    scores_to_bytes,
)
from evonas.core import DataError, Edit, Estimate, Genome, Individual, Objective, RecipeError, dumps, loads
from tests.vectors import Vector


def _genome(x: float) -> Genome:
    return Vector((x,))


def _individuals() -> list[Individual]:
    edit = Edit("add_node", (4,), (7, 8, 9))
    return [
        Individual(3, _genome(0.1), (), (), 0),
        Individual(5, _genome(0.2), (1,), (edit,), 2),
        Individual(9, _genome(0.3), (1, 2), (), 2),
    ]


def _scores() -> Scores:
    columns = {"fitness": np.array([1.0, 2.0, np.nan]), "balanced": np.array([np.nan, 7.0, np.nan])}
    extra = {1: Estimate(1, "ok", {"fitness": 0.5})}
    return Scores(np.array([3, 5, 9]), columns, {2: "diverged"}, {"seconds": 0.25}, extra)


def test_a_cohort_is_its_individuals() -> None:
    cohort = Cohort.of(_individuals(), list)
    assert list(cohort) == _individuals()
    assert cohort[-1] == _individuals()[2] and cohort[1:] == _individuals()[1:]
    assert cohort.position(5) == 1
    with pytest.raises(KeyError):
        cohort.position(4)
    with pytest.raises(IndexError):
        cohort[3]


def test_scores_are_a_mapping_of_estimates() -> None:
    scores = _scores()
    assert list(scores) == [3, 5, 9, 1] and len(scores) == 4
    assert scores[3] == Estimate(3, "ok", {"fitness": 1.0}, cost={"seconds": 0.25})
    assert scores[5].values == {"fitness": 2.0, "balanced": 7.0}
    assert scores[9] == Estimate.failed(9, "diverged", {"seconds": 0.25})
    assert scores[1].values == {"fitness": 0.5}
    assert scores.ok.tolist() == [True, True, False]
    assert {**scores}[5] == scores[5]
    with pytest.raises(KeyError):
        scores[4]


def test_scored_pairs_them() -> None:
    scored = Scored(Cohort.of(_individuals(), list), _scores())
    assert [(one.id, estimate.id) for one, estimate in scored] == [(3, 3), (5, 5), (9, 9)]


def test_what_is_not_finite_becomes_a_failure() -> None:
    columns = {"fitness": np.array([1.0, math.inf, math.nan])}
    checked = Scores(np.array([0, 1, 2]), columns, {2: "diverged"}).checked([Objective("fitness")])
    assert checked.failed == {1: "objective 'fitness' is inf", 2: "diverged"}
    with pytest.raises(RecipeError, match=r"objective 'fitnes' is not measured here; did you mean 'fitness'\?"):
        checked.checked([Objective("fitnes")])


def _pack(genomes: Sequence[Genome]) -> bytes:
    return dumps([genome.genes for genome in genomes]).encode()  # type: ignore[attr-defined]


def _unpack(data: bytes) -> list[Genome]:
    return [Vector(tuple(one)) for one in loads(data)]


def test_bytes_and_back() -> None:
    cohort, scores = Cohort.of(_individuals(), list), _scores()
    assert list(cohort_from_bytes(cohort_to_bytes(cohort, _pack), _unpack)) == _individuals()
    again = scores_from_bytes(scores_to_bytes(scores))
    assert [again[id] for id in (3, 5, 9)] == [scores[id] for id in (3, 5, 9)]


def test_whole_numbers_are_kept_exactly_and_in_fewer_bytes() -> None:
    counts = np.array([0.0, 7.0, -3.0, 2.0**31 - 1])
    for column in (counts, counts + 0.5, np.array([1.0, np.nan, np.inf, 1e300]), np.array([0.0, 2.0**31, 1.0, 2.0])):
        again = scores_from_bytes(scores_to_bytes(Scores(np.arange(4), {"size": column}))).columns["size"]
        assert again.dtype == np.float64 and np.array_equal(again, column, equal_nan=True)
    few, many = (scores_to_bytes(Scores(np.arange(1000), {"size": np.arange(1000) + part})) for part in (0.0, 0.5))
    assert len(many) - len(few) == 4000


@pytest.mark.parametrize("cut", [0, 7, 60, -1])
def test_damaged_bytes_are_refused(cut: int) -> None:
    for whole, read in (
        (scores_to_bytes(_scores()), scores_from_bytes),
        (cohort_to_bytes(Cohort.of(_individuals(), list), _pack), lambda data: cohort_from_bytes(data, _unpack)),
    ):
        with pytest.raises(DataError):
            read(whole[:cut])
    with pytest.raises(DataError, match="'parents' of a run is missing"):
        cohort_from_bytes(scores_to_bytes(_scores()), _unpack)
