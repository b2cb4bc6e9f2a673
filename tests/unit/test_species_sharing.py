"""Fitness sharing: whole numbers of offspring in proportion to what a species shares out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evonas.species import Gaps, apportion, divide, grouped, most_species, reproductive, shared, top
from tests.vectors import Vector

WEIGHTS = st.lists(st.floats(0, 1e12), min_size=1, max_size=40)


@given(WEIGHTS, st.integers(0, 100_000))
def test_shares_sum_to_the_total_and_lie_within_one_of_their_proportion(weights: list[float], total: int) -> None:
    given = np.array(weights)
    shares = apportion(given, total)
    assert shares.sum() == total and (shares >= 0).all()
    parts = given / given.max() if given.max() > 0 else np.ones(len(given))
    assert (np.abs(shares - parts / parts.sum() * total) < 1 + 1e-6).all()


def test_equal_remainders_go_to_the_earlier() -> None:
    assert apportion(np.array([1.0, 1.0, 1.0]), 5).tolist() == [2, 2, 1]
    assert apportion(np.zeros(4), 6).tolist() == [2, 2, 1, 1]
    assert apportion(np.array([3.0, 1.0]), 8).tolist() == [6, 2]


def test_a_share_is_the_mean_fitness_whatever_the_size() -> None:
    fitness, home = np.array([4.0, 2.0, 3.0, 3.0, 3.0]), np.array([0, 0, 1, 1, 1])
    assert shared(fitness, home, 2).tolist() == [3.0, 3.0]


def test_negative_fitness_is_raised_and_an_empty_species_shares_nothing() -> None:
    assert shared(np.array([-3.0, -1.0]), np.array([0, 1]), 3).tolist() == [0.0, 2.0, 0.0]


def test_stagnant_species_have_no_children_but_the_best_are_protected() -> None:
    best, idle = np.array([1.0, 9.0, 5.0, 5.0]), np.array([15, 40, 15, 3])
    assert reproductive(best, idle, 15, 0).tolist() == [False, False, False, True]
    assert reproductive(best, idle, 15, 2).tolist() == [False, True, True, True], "of equals the earlier is protected"
    assert top(best, 2).tolist() == [1, 2]


def test_grouped_positions_ascend() -> None:
    assert [group.tolist() for group in grouped(np.array([1, 0, 1, 3]), 4)] == [[1], [0, 2], [], [3]]
    assert grouped(np.zeros(0, dtype=np.int64), 0) == []


class Line:
    """Numbers on a line that are measured together."""

    def distances(self, some: np.ndarray, representatives: np.ndarray) -> np.ndarray:
        return np.abs(np.asarray(some)[:, None] - np.asarray(representatives)[None, :])

    def population(self, genomes: list[float]) -> np.ndarray:
        return np.array(genomes)

    def distance(self, a: float, b: float) -> float:
        return abs(a - b)


class Pairs:
    distance = Line.distance


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("most", [3, 5, np.inf])
def test_measuring_together_and_pair_by_pair_divide_alike(threshold: float, most: float) -> None:
    genomes = np.random.default_rng(3).random(120)
    known = [0.2, 0.9]
    both = [
        divide(Gaps.between(encoding, genomes), len(genomes), known, genomes, threshold, most)
        for encoding in (Line(), Pairs())
    ]
    assert both[0].founders == both[1].founders
    assert (both[0].home == both[1].home).all() and (both[0].gap == both[1].gap).all()
    assert both[0].home.min() >= 0 and both[0].home.max() < max(most, 2)


def test_division_is_first_fit_in_order_of_position() -> None:
    """Against the slow obvious version."""
    values = np.random.default_rng(4).random(60).tolist()
    representatives, expected = [0.5], []
    for value in values:
        near = [i for i, one in enumerate(representatives) if abs(value - one) < 0.1]
        if not near:
            representatives.append(value)
        expected.append(near[0] if near else len(representatives) - 1)
    assert divide(Gaps.between(Pairs(), values), 60, [0.5], values, 0.1).home.tolist() == expected


def test_beyond_the_most_a_genome_joins_the_nearest() -> None:
    values = [0.0, 1.0, 0.4, 0.7]
    division = divide(Gaps.between(Pairs(), values), 4, [], values, 0.1, 2)
    assert division.home.tolist() == [0, 1, 0, 1] and division.founders == (0, 1)
    assert division.gap == pytest.approx([0.0, 0.0, 0.4, 0.3])


def test_a_target_bounds_the_number_of_species() -> None:
    assert most_species(6) == 24
    assert most_species(None) == np.inf


def test_vectors_are_measured_pair_by_pair() -> None:
    genomes = [Vector((0.0,)), Vector((0.5,))]
    from tests.vectors import Vectors

    assert Gaps.between(Vectors(), genomes).measure(np.array([1]), genomes).tolist() == [[0.5, 0.0]]
