"""Predictors: against scikit-learn, explicit pairs, integration and moocore; and what they choose."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct, Matern, WhiteKernel

from evonas.strategy.prediction import (
    LENGTHS,
    NOISES,
    ByProcess,
    ByRidge,
    Distances,
    Features,
    Process,
    Ridge,
    Shape,
    Shapes,
    exclusive,
    improved,
    improvement,
    likeliest,
    milestone,
    normal_scores,
    promising,
)
from tests.vectors import Vector, Vectors

RNG = np.random.default_rng(0)
X = RNG.random((30, 4))
Y = np.sin(3 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.05 * RNG.standard_normal(30)
NEW = RNG.random((12, 4))


def gaps(a: Any, b: Any) -> Any:
    return np.linalg.norm(a[:, None] - b, axis=2)


# ---------------------------------------------------------------------------------------------------------- targets


def test_normal_scores_know_order_alone() -> None:
    losses = np.array([3.0, 1.0, 2.0, 2.0, 1e9])
    scores = normal_scores(losses)
    assert scores[1] == scores.max() and scores[4] == scores.min() and scores[2] == scores[3]
    assert np.array_equal(scores, normal_scores(np.log(losses)))
    assert scores[1] == pytest.approx(NormalDist().inv_cdf(0.9)) and scores.mean() == pytest.approx(0, abs=0.05)
    assert normal_scores([7.0]).tolist() == [0.0]


# -------------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("shape", [Shape(0.7, 0.05), Shape(2.0, 0.3), Shape(0.7, 0.05, 1.5)])
def test_a_process_is_scikit_learns(shape: Shape) -> None:
    """With the mean and variance that ours finds; the Matern kernel of 1/2 is exp(-distance / length), and the plane
    the inner product of features around their middle."""
    ours = Process.fit(gaps(X, X), Y, shape)
    kernel = ours.variance * Matern(shape.length, nu=0.5) + WhiteKernel(ours.variance * shape.noise)
    centred = X - X.mean(axis=0)
    if shape.linear:
        kernel += ours.variance * shape.linear / (centred**2).sum(axis=1).mean() * DotProduct(0.0, "fixed")
    theirs = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(centred, Y - ours.mean)
    mean, deviation = ours.predict(gaps(NEW, X))
    expected, spread = theirs.predict(NEW - X.mean(axis=0), return_std=True)
    assert mean == pytest.approx(expected + ours.mean, abs=1e-9)
    # theirs is the deviation of a measurement, with the noise
    assert deviation**2 + ours.variance * shape.noise == pytest.approx(spread**2, abs=1e-9)
    count = len(Y)
    rest = count / 2 * (1 + np.log(2 * np.pi))
    assert ours.evidence - rest == pytest.approx(theirs.log_marginal_likelihood_value_, abs=1e-6)


def test_mean_and_variance_are_the_likeliest() -> None:
    shape = Shape(0.7, 0.05)
    best = Process.fit(gaps(X, X), Y, shape)

    def likelihood(mean: float, variance: float) -> float:
        kernel = variance * Matern(shape.length, nu=0.5) + WhiteKernel(variance * shape.noise)
        fitted = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(X, Y - mean)
        return float(fitted.log_marginal_likelihood_value_)

    top = likelihood(best.mean, best.variance)
    for mean, variance in ((0.05, 1.0), (-0.05, 1.0), (0.0, 1.1), (0.0, 0.9)):
        assert likelihood(best.mean + mean, best.variance * variance) < top


def test_scores_that_are_all_equal_and_genomes_in_one_place_are_survived() -> None:
    for apart in (gaps(X, X), np.zeros((30, 30))):
        mean, deviation = Process.fit(apart, np.ones(30), Shape(1.0, 0.1, 1.0)).predict(apart)
        assert mean == pytest.approx(np.ones(30)) and (deviation > 0).all()


def test_the_likeliest_shape_is_that_of_the_data() -> None:
    """Scores drawn from a process are given its shape back, of those on the grid."""
    points = np.random.default_rng(1).random((120, 2))
    apart = gaps(points, points)
    unit = apart.sum() / (120 * 119)
    found = []
    for seed in range(12):
        kernel = np.exp(-apart / (LENGTHS[1] * unit)) + NOISES[1] * np.eye(120)
        scores = np.linalg.cholesky(kernel) @ np.random.default_rng(seed).standard_normal(120)
        found.append(likeliest(apart, scores))
    assert sum(shape.noise == NOISES[1] for shape in found) >= 10
    assert sum(shape.length in (LENGTHS[0] * unit, LENGTHS[1] * unit, LENGTHS[2] * unit) for shape in found) >= 10


def test_a_distance_that_makes_no_kernel_is_survived() -> None:
    apart = np.array([[0.0, 0.1, 9.0], [0.1, 0.0, 0.1], [9.0, 0.1, 0.0]])
    assert np.linalg.eigvalsh(np.exp(-apart)).min() < -0.01
    mean, deviation = Process.fit(apart, np.array([1.0, 0.0, -1.0]), Shape(1.0, 1e-6)).predict(apart)
    assert np.isfinite(mean).all() and (deviation > 0).all() and mean[0] > mean[2]


def test_shapes_are_looked_for_at_milestones_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones keep their ranks among themselves, whatever comes after."""
    assert [milestone(count) for count in (1, 3, 4, 5, 6, 7, 8, 10, 11)] == [1, 3, 4, 4, 6, 6, 8, 8, 11]
    asked: list[int] = []

    def counted(apart: Any, scores: Any, linear: float) -> Shape:
        asked.append(len(scores))
        return likeliest(apart, scores, linear)

    monkeypatch.setattr("evonas.strategy.prediction.likeliest", counted)
    shapes = Shapes()
    for count in range(4, 31):
        shapes.of(gaps(X[:count], X[:count]), normal_scores(-Y[:count]))
    assert asked == sorted({milestone(count) for count in range(4, 31)})
    assert Shapes().of(gaps(X, X), Y) == shapes.of(gaps(X, X), normal_scores(-Y))


# ------------------------------------------------------------------------------------------------------------ ridge


def test_ridge_is_that_of_all_pairs() -> None:
    """Explicit products of features, explicit differences of pairs."""
    ours = Ridge.fit(X, Y, 0.5)
    middle = X.mean(axis=0)
    unit = ((X - middle) ** 2).sum(axis=1).mean()

    def products(rows: Any) -> Any:
        """A map whose inner products are (1 + a b / unit)^2."""
        z = np.column_stack([np.ones(len(rows)), (rows - middle) / np.sqrt(unit)])
        return np.einsum("ni,nj->nij", z, z).reshape(len(rows), -1)

    features = products(X)
    # without an intercept the kernel's constant feature is one more that is drawn towards nothing
    weights = np.linalg.solve(features.T @ features + 0.5 * np.eye(25), features.T @ (Y - Y.mean()))
    assert ours.predict(NEW)[0] == pytest.approx(Y.mean() + products(NEW) @ weights, abs=1e-9)
    assert (ours.predict(NEW)[1] == ours.spread).all() and ours.spread > 0


# ------------------------------------------------------------------------------------------------------------- gains


def test_expected_improvement_is_the_integral() -> None:
    mean, deviation, best = np.array([0.0, 0.5, -2.0, 1.0]), np.array([1.0, 0.2, 0.7, 0.01]), 0.4
    draws = np.random.default_rng(2).standard_normal(400_000)
    sampled = [np.maximum(m + d * draws - best, 0).mean() for m, d in zip(mean, deviation, strict=True)]
    assert improvement(mean, deviation, best) == pytest.approx(sampled, abs=3e-3)
    assert improvement(np.array([9.0]), np.array([1e-6]), best) == pytest.approx([8.6])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(0, 8), st.integers(0, 10_000), st.booleans()
)  # objectives, front, seed, few levels
def test_exclusive_volume_is_moocores(objectives: int, size: int, seed: int, few: bool) -> None:
    rng = np.random.default_rng(seed)
    points, front = rng.random((5, objectives)) * 1.3, rng.random((size, objectives)) * 1.3
    if few:
        points, front = points.round(1), front.round(1)
    reference = np.full(objectives, 1.1)

    def volume(rows: Any) -> float:
        inside = rows[(rows < reference).all(axis=1)]
        if objectives == 1:
            return float(1.1 - inside.min()) if len(inside) else 0.0
        return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0

    expected = [volume(np.vstack([front, point])) - volume(front) for point in points]
    assert exclusive(points, front, reference) == pytest.approx(expected, abs=1e-9)
    assert exclusive(np.full((1, objectives), np.inf), front, reference).tolist() == [0.0]


# ------------------------------------------------------------------------------------------------------------ choice


def vectors(rows: Any) -> list[Vector]:
    return [Vector(tuple(row)) for row in rows.tolist()]


def test_features_and_distances_are_asked_for_once() -> None:
    asked: list[str] = []

    class Counting(Vectors):
        def features(self, genome: Vector) -> list[float]:
            asked.append("features")
            return super().features(genome)

        def distance(self, a: Vector, b: Vector) -> float:
            asked.append("distance")
            return super().distance(a, b)

    some, others = vectors(X[:5]), vectors(NEW[:3])
    features, distances = Features(Counting()), Distances(Counting())
    for _ in range(2):
        assert features.apart(some, others) == pytest.approx(gaps(X[:5], NEW[:3]))
        assert distances.apart(some, others) == pytest.approx(np.abs(X[:5, None] - NEW[:3]).sum(axis=2))
    assert asked.count("features") == 8 and asked.count("distance") == 15


@pytest.mark.parametrize("kind", ["process", "ridge"])
def test_a_batch_is_chosen_as_if_predictions_came_true(kind: str) -> None:
    """One after the other by fresh models that were told what was predicted."""
    known, pool = X, np.vstack([NEW, NEW[:1] + 1e-6])
    features = Features(Vectors())
    scores = normal_scores(-Y)[:, None]
    shape = Shapes().of(gaps(X, X), scores[:, 0])

    def model() -> Any:
        if kind == "ridge":
            return ByRidge(known, pool, 0.5)
        return ByProcess(features.apart, vectors(known), vectors(pool), Shapes())

    chosen = promising(model(), scores, improved(scores), 4)
    rows, told = known, scores[:, 0]
    taken: list[int] = []
    for at in chosen:
        if kind == "ridge":
            mean, deviation = Ridge.fit(rows, told, 0.5).predict(pool)
        else:
            mean, deviation = Process.fit(gaps(rows, rows), told, shape).predict(gaps(pool, rows))
        worth = improvement(mean, deviation, max(scores.max(), *mean[taken])) if taken else None
        worth = improvement(mean, deviation, float(scores.max())) if worth is None else worth
        worth[taken] = -np.inf
        assert worth[at] == pytest.approx(worth.max(), rel=1e-6)
        taken.append(at)
        rows, told = np.vstack([rows, pool[at]]), np.append(told, mean[at])
    assert len(set(chosen)) == 4
