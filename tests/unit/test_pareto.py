"""Pareto routines against DEAP, pymoo and slow obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from deap import base, tools
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evonas import pareto

clouds = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 40), st.integers(1, 4)), elements=st.integers(0, 6).map(lambda n: n / 2)
)


def slow_ranks(losses: np.ndarray) -> np.ndarray:
    left, rank, result = set(range(len(losses))), 0, np.zeros(len(losses), dtype=int)
    while left:
        front = {
            i for i in left
            if not any((losses[j] <= losses[i]).all() and (losses[j] < losses[i]).any() for j in left)
        }  # fmt: skip
        for i in front:
            result[i] = rank
        left -= front
        rank += 1
    return result


@given(clouds)
@settings(max_examples=150, deadline=None)
def test_ranks_equal_the_definition(losses: np.ndarray) -> None:
    assert (pareto.ranks(losses) == slow_ranks(losses)).all()


@given(clouds)
@settings(max_examples=100, deadline=None)
def test_non_dominated_is_rank_zero_without_repeats(losses: np.ndarray) -> None:
    mask = pareto.non_dominated(losses)
    first = losses[slow_ranks(losses) == 0]
    assert {tuple(row) for row in losses[mask]} == {tuple(row) for row in first}
    assert len({tuple(row) for row in losses[mask]}) == mask.sum()


def test_ranks_and_crowding_equal_deap() -> None:
    losses = np.random.default_rng(0).random((200, 3))
    fitness = type("Fitness", (base.Fitness,), {"weights": (-1.0,) * 3})

    class Member:
        def __init__(self, index: int) -> None:
            self.index, self.fitness = index, fitness(tuple(losses[index]))

    fronts = tools.sortNondominated([Member(i) for i in range(200)], 200)
    rank = pareto.ranks(losses)
    crowd = pareto.crowding(losses, rank)
    for number, front in enumerate(fronts):
        tools.emo.assignCrowdingDist(front)
        for member in front:
            assert rank[member.index] == number
            # DEAP divides by the number of objectives, Deb et al. do not.
            assert crowd[member.index] == pytest.approx(3 * member.fitness.crowding_dist, rel=1e-12)


def test_crowding_equals_pymoo() -> None:
    from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance

    losses = np.random.default_rng(1).random((60, 2))
    losses = losses[pareto.non_dominated(losses)]
    ours = pareto.crowding(losses, np.zeros(len(losses), dtype=np.int64))
    theirs = calc_crowding_distance(losses) * losses.shape[1]  # pymoo averages over the objectives
    assert np.isinf(ours).sum() == np.isinf(theirs).sum()
    inner = np.isfinite(ours)
    assert ours[inner] == pytest.approx(theirs[inner], rel=1e-12)


def test_hypervolume_in_closed_form() -> None:
    """ZDT1's front f2 = 1 - sqrt(f1) has 0.1 + 2/3 + 0.11 below (1.1, 1.1)."""
    f1 = np.linspace(0, 1, 20_001)
    assert pareto.hypervolume(np.stack([f1, 1 - np.sqrt(f1)], 1), (1.1, 1.1)) == pytest.approx(0.87667, abs=1e-4)


def test_points_beyond_the_reference_add_nothing() -> None:
    assert pareto.hypervolume([[2.0, 0.0]], (1.0, 1.0)) == 0.0
    assert pareto.hypervolume([[0.25]], (1.0,)) == 0.75


def test_knee_is_the_corner() -> None:
    losses = [[0.0, 10.0], [1.0, 1.0], [10.0, 0.0], [5.0, 0.9]]
    assert pareto.knee(losses) == 1
    assert pareto.knee(losses[:2]) is None
    assert pareto.knee([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]) is None, "a straight front has no knee"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_never_reaches_a_comparison(bad: float) -> None:
    for routine in (pareto.ranks, pareto.non_dominated, lambda losses: pareto.hypervolume(losses, (1.0, 1.0))):
        with pytest.raises(ValueError, match="failed estimate must not reach selection"):
            routine([[0.0, 1.0], [bad, 0.0]])
