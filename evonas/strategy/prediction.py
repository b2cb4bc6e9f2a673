"""What is learnt of the genomes estimated so far to judge others by: Gaussian processes, and ridge regression on pairs.

NumPy alone: a process is two factorisations of a matrix as large as the search is long, which is less to keep than an
interface to a library. Everything is a function of what was seen, so a resumed run learns the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil, erfc, sqrt
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from evonas.core import Genome

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]

Apart = Callable[[Sequence[Genome], Sequence[Genome]], Reals]
"""How far genomes lie apart, a and b of them: (a, b)."""

LENGTHS = (0.5, 1.0, 2.0, 4.0)
"""Lengths that a process may have, in mean distances of what it learns from."""

NOISES = (0.01, 0.1)
"""Variances of the noise that a process may assume, as shares of the whole."""

GROWTH = 1.3
"""A process's length and noise are looked for again when it has seen so many times as much: between that they hardly
change, and the search takes a third of the time."""

KEPT = 50_000
"""Features and distances remembered at a time."""


# ---------------------------------------------------------------------------------------------------------- targets


def normal_scores(losses: Any) -> Reals:
    """Normal quantiles of the ranks, (n,) -> (n,), the greatest for the least loss; equal losses have equal ones.

    They know no unit, and how bad the bad ones are does not matter."""
    _, position, count = np.unique(np.asarray(losses), return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    quantile = NormalDist().inv_cdf
    return -np.array([quantile(share) for share in (middle / count.sum()).tolist()])[position]


# -------------------------------------------------------------------------------------------------------- predictors


class Shape(NamedTuple):
    """What a process assumes of the scores: how far they are alike, and, beside 1 for what is alike within that length,
    the variance of their noise and of a plane over the features."""

    length: float
    noise: float
    linear: float = 0.0


def likeness(apart: Reals, near: Reals, shape: Shape) -> Reals:
    """The covariance of k scores with n that are learnt of, (k, n), by their distances and by the n mean squares of the
    distances among those (n,).

    The plane's is the inner product of features around the middle of the n, in units of their mean square. It follows
    from Euclidean distances alone. Torgerson 1952 (classical scaling)."""
    kernel: Reals = np.exp(-apart / shape.length)
    if not shape.linear:
        return kernel
    squares, mean = apart**2, float(near.mean())
    products = squares.mean(axis=1)[:, None] + near - mean - squares
    return np.asarray(kernel + shape.linear * products / (mean or 1.0))


@dataclass(frozen=True, eq=False)
class Process:
    """A Gaussian process with the kernel exp(-distance / length), to which a plane may be added, and the constant mean
    and the variance that fit best.

    Rasmussen and Williams 2006. `near` are the mean squares of the distances among those learnt of, (n,); `evidence` is
    the logarithm of the likelihood up to a constant."""

    shape: Shape
    near: Reals
    mean: float
    variance: float
    inverse: Reals
    weights: Reals
    evidence: float

    @staticmethod
    def fit(apart: Reals, scores: Reals, shape: Shape) -> Process:
        """Learns n scores by distances (n, n). Where a distance makes no kernel, the noise is raised until it does."""
        count, noise, near = len(scores), shape.noise, (apart**2).mean(axis=1)
        kernel = likeness(apart, near, shape)
        while True:
            noisy = kernel + noise * np.eye(count)
            try:
                lower = np.linalg.cholesky(noisy)
                break
            except np.linalg.LinAlgError:
                noise *= 10
        inverse = np.asarray(np.linalg.inv(noisy), dtype=np.float64)
        mean = float(inverse.sum(axis=0) @ scores / inverse.sum())
        weights: Reals = inverse @ (scores - mean)
        variance = max(float(weights @ (scores - mean)) / count, 1e-12)
        evidence = -np.log(lower.diagonal()).sum() - count / 2 * np.log(variance)
        return Process(shape, near, mean, variance, inverse, weights, float(evidence))

    def predict(self, apart: Reals) -> tuple[Reals, Reals]:
        """Mean and deviation, without noise, of the scores of k genomes by distances from those learnt of (k, n)."""
        kernel, mean = likeness(apart, self.near, self.shape), float(self.near.mean())
        own = 1.0 + self.shape.linear * (2 * (apart**2).mean(axis=1) - mean) / (mean or 1.0)
        left = own - ((kernel @ self.inverse) * kernel).sum(axis=1)
        return self.mean + kernel @ self.weights, np.sqrt(self.variance * np.maximum(left, 1e-9))


class Shapes:
    """The shape of a process that has seen so much, looked for once at each milestone and remembered."""

    def __init__(self, linear: float = 0.0) -> None:
        self._linear = linear
        self._known: dict[bytes, Shape] = {}

    def of(self, apart: Reals, scores: Reals) -> Shape:
        """The likeliest for the first ones up to the last milestone, by distances (n, n) and ranks of scores (n,)."""
        count = milestone(len(scores))
        apart, ranks = apart[:count, :count], np.unique(-scores[:count], return_inverse=True)[1]
        key = blake2b(apart.tobytes() + ranks.tobytes()).digest()
        if key not in self._known:
            forgetting(self._known)
            self._known[key] = likeliest(apart, normal_scores(ranks), self._linear)
        return self._known[key]


def forgetting(known: dict[Any, Any]) -> None:
    """Empties a memory that is full."""
    if len(known) >= KEPT:
        known.clear()


def likeliest(apart: Reals, scores: Reals, linear: float = 0.0) -> Shape:
    """The length and noise of LENGTHS and NOISES under which scores are likeliest, of equals the first."""
    unit = float(apart.mean()) * len(apart) / max(len(apart) - 1, 1) or 1.0
    shapes = [Shape(length * unit, noise, linear) for length in LENGTHS for noise in NOISES]
    return max(shapes, key=lambda shape: Process.fit(apart, scores, shape).evidence)


def milestone(count: int) -> int:
    """The number seen at which a process of `count` last looked for its shape: 4, 6, 8, 11 and so on."""
    reached = min(count, 4)
    while ceil(reached * GROWTH) <= count and reached >= 4:
        reached = ceil(reached * GROWTH)
    return reached


@dataclass(frozen=True, eq=False)
class Ridge:
    """Ridge regression of scores on features, their squares and products, fitted to the differences of all pairs.

    Summed over all pairs the normal equations are those of centred features (n, f) and centred scores, so no pair is
    formed; in the dual form no product is, either. The deviation is that of what it explains badly."""

    features: Reals
    middle: Reals
    unit: float
    mean: float
    weights: Reals
    spread: float

    @staticmethod
    def fit(features: Reals, scores: Reals, ridge: float) -> Ridge:
        middle, mean = features.mean(axis=0), float(scores.mean())
        centred = features - middle
        unit = float((centred**2).sum(axis=1).mean()) or 1.0
        kernel = _products(centred, centred, unit)
        weights = np.asarray(np.linalg.solve(kernel + ridge * np.eye(len(scores)), scores - mean), dtype=np.float64)
        rest = scores - mean - kernel @ weights
        return Ridge(centred, middle, unit, mean, weights, max(float(rest.std()), 1e-6))

    def predict(self, features: Reals) -> tuple[Reals, Reals]:
        """Mean and deviation of the scores of k genomes by their features (k, f)."""
        mean = self.mean + _products(features - self.middle, self.features, self.unit) @ self.weights
        return mean, np.full(len(mean), self.spread)


def _products(a: Reals, b: Reals, unit: float) -> Reals:
    """What rows have in common in features and in products of two, (k, f) and (n, f) -> (k, n)."""
    found: Reals = (1.0 + a @ b.T / unit) ** 2
    return found


# ------------------------------------------------------------------------------------------------------------ genomes


class Features:
    """The encoding's `features` of genomes as rows, each computed once, and their distances."""

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding
        self._known: dict[str, list[float]] = {}

    def of(self, genomes: Sequence[Genome]) -> Reals:
        """The features, (n, f)."""
        forgetting(self._known)
        for genome in genomes:
            if genome.key not in self._known:
                self._known[genome.key] = self._encoding.features(genome)
        return np.array([self._known[genome.key] for genome in genomes], dtype=np.float64)

    def apart(self, some: Sequence[Genome], others: Sequence[Genome]) -> Reals:
        """Euclidean distances, (a, b)."""
        a, b = self.of(some), self.of(others)
        squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


class Distances:
    """The encoding's `distance` of genomes, each computed once."""

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding
        self._known: dict[str, dict[str, float]] = {}

    def apart(self, some: Sequence[Genome], others: Sequence[Genome]) -> Reals:
        """The distances, (a, b)."""
        forgetting(self._known)
        return np.array([self._row(one, others) for one in some], dtype=np.float64).reshape(len(some), len(others))

    def _row(self, one: Genome, others: Sequence[Genome]) -> list[float]:
        known = self._known.setdefault(one.key, {})
        for other in others:
            if other.key not in known:
                known[other.key] = self._encoding.distance(one, other)
        return [known[other.key] for other in others]


# --------------------------------------------------------------------------------------------------------- proposals


class Model(Protocol):
    """Predicts a pool of k genomes from n known ones; `believe` makes one of the pool the next known one."""

    @property
    def size(self) -> int: ...
    def predict(self, scores: Reals) -> tuple[Reals, Reals]: ...
    def believe(self, at: int) -> None: ...


class ByProcess:
    """Predictions by Gaussian processes over distances."""

    def __init__(self, apart: Apart, known: Sequence[Genome], pool: Sequence[Genome], shapes: Shapes) -> None:
        self._apart, self._pool, self._shapes, self._seen = apart, pool, shapes, len(known)
        self._within, self._across = apart(known, known), apart(pool, known)

    @property
    def size(self) -> int:
        return len(self._pool)

    def predict(self, scores: Reals) -> tuple[Reals, Reals]:
        """Mean and deviation of the pool's scores, (k,) each, by those seen and then those believed (n,)."""
        shape = self._shapes.of(self._within[: self._seen, : self._seen], scores[: self._seen])
        return Process.fit(self._within, scores, shape).predict(self._across)

    def believe(self, at: int) -> None:
        row = self._across[at]
        self._within = np.block([[self._within, row[:, None]], [row[None], np.zeros((1, 1))]])
        self._across = np.column_stack([self._across, self._apart(self._pool, [self._pool[at]])])


class ByRidge:
    """Predictions by ridge regression on features."""

    def __init__(self, known: Reals, pool: Reals, ridge: float) -> None:
        self._known, self._pool, self._ridge = known, pool, ridge

    @property
    def size(self) -> int:
        return len(self._pool)

    def predict(self, scores: Reals) -> tuple[Reals, Reals]:
        """Mean and deviation of the pool's scores, (k,) each, by those seen and then those believed (n,)."""
        return Ridge.fit(self._known, scores, self._ridge).predict(self._pool)

    def believe(self, at: int) -> None:
        self._known = np.vstack([self._known, self._pool[at]])


Gain = Callable[[Reals, Reals, Sequence[int]], Reals]
"""What each of the pool is worth, (k,), by means and deviations of its scores, (k, e) each, with some chosen before."""


def promising(model: Model, scores: Reals, gain: Gain, count: int) -> list[int]:
    """The `count` of a pool to estimate together, best first, by the scores of those seen, (n, e).

    After the first, each is chosen as if those before had turned out as predicted. Ginsbourger, Le Riche and Carraro
    2010 (kriging believer)."""
    chosen: list[int] = []
    while True:
        made = [model.predict(column) for column in scores.T]
        nothing = np.empty((model.size, 0))
        mean, deviation = (np.column_stack([nothing, *(one[part] for one in made)]) for part in (0, 1))
        worth = gain(mean, deviation, chosen)
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
        if len(chosen) == count:
            return chosen
        model.believe(chosen[-1])
        scores = np.vstack([scores, mean[chosen[-1]]])


# ------------------------------------------------------------------------------------------------------ what is gained


def improvement(mean: Reals, deviation: Reals, best: float) -> Reals:
    """Expected improvement of a score above the best so far, (k,) -> (k,). Jones et al. 1998."""
    unit = (mean - best) / deviation
    density = np.exp(-unit * unit / 2) / np.sqrt(2 * np.pi)
    return np.asarray(deviation * (unit * _below(unit) + density))


def improved(scores: Reals) -> Gain:
    """The expected improvement of scores over the best of those seen (n, 1), and of those chosen before."""
    best = float(scores.max())

    def gain(mean: Reals, deviation: Reals, chosen: Sequence[int]) -> Reals:
        return improvement(mean[:, 0], deviation[:, 0], max([best, *mean[list(chosen), 0].tolist()]))

    return gain


def _below(unit: Reals) -> Reals:
    """The normal distribution function, (k,) -> (k,)."""
    return np.array([erfc(-u * sqrt(0.5)) / 2 for u in unit.tolist()])


def exclusive(points: Reals, front: Reals, reference: Reals) -> Reals:
    """The hypervolume that each point would add to a front below the reference, (k, m), (n, m), (m,) -> (k,).

    Slices between the front's values of the last objective have one objective less; of two objectives all slices are
    taken at once."""
    if points.shape[1] == 1:
        found: Reals = np.maximum(np.minimum(reference[0], front.min(initial=np.inf)) - points[:, 0], 0.0)
        return found
    front = front[np.argsort(front[:, -1], kind="stable")]
    ends = np.minimum(np.r_[-np.inf, front[:, -1], reference[-1]], reference[-1])
    thick = np.maximum(ends[1:] - np.maximum(ends[:-1], points[:, -1:]), 0.0)
    if points.shape[1] == 2:
        edge = np.minimum.accumulate(np.r_[reference[0], front[:, 0]])
        return np.asarray((thick * np.maximum(edge - points[:, :1], 0.0)).sum(axis=1))
    total = np.zeros(len(points))
    for i in np.flatnonzero(thick.any(axis=0)).tolist():
        some = np.flatnonzero(thick[:, i])
        total[some] += thick[some, i] * exclusive(points[some, :-1], front[:i, :-1], reference[:-1])
    return total
