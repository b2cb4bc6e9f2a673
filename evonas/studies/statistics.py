"""What is told of searches: the best so far and the hypervolume at a moment, rank tests, and random search in closed
form.

Arrays in, arrays out. A look counts at a moment if it was begun before it: so do budgets count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evonas import pareto
from evonas.studies.looks import Looks, Values

Z95 = 1.959963984540054
"""Half the width of a normal 95 % interval in standard errors."""


EXACT = "random (exact)"
"""The arm that is random search in closed form."""

What = Literal["metric", "hypervolume"]


@dataclass(frozen=True)
class Summary:
    """What an arm reached on a task after `at` of `over`: the mean of `n` searches, its standard error, the deviation
    and the median. `p` is the two-sided rank test against the baseline, `p_holm` the same adjusted for the number of
    arms, and `wins` the probability that one of its searches is better than one of the baseline's. Of the closed form,
    which has no searches, n is 0, and of the baseline beside it `away` is its distance in standard errors."""

    task: str
    arm: str
    what: What
    name: str
    over: str
    at: float
    n: int
    mean: float
    deviation: float
    error: float
    median: float | None = None
    p: float | None = None
    p_holm: float | None = None
    wins: float | None = None
    away: float | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """The course of an arm's searches: `x` (points,), and there the mean, half its 95 % interval, and the median."""

    arm: str
    x: Values
    mean: Values
    half: Values
    median: Values
    n: int


def best_so_far(looks: Looks, values: Values, over: str, points: Sequence[float]) -> Values:
    """The value of the network that is best by the first objective at each moment, (searches, points); NaN before there
    is one. `values` (looks,) are those of the kept looks."""
    result = np.full((len(looks.seeds), len(points)), np.nan)
    leads = _leads(looks)
    before = looks.before(over)
    for i, span in enumerate(looks.spans()):
        at = np.flatnonzero(leads[span]) + span.start
        last = np.searchsorted(before[at], points, side="left") - 1
        there = last >= 0
        result[i, there] = values[at[last[there]]]
    return result


def _leads(looks: Looks) -> NDArray[np.bool_]:
    """Which of the kept looks was the best by the first objective when it came, (looks,); of equal ones the first."""
    leads = np.zeros(len(looks.rows), dtype=bool)
    first, fidelity = looks.losses[:, 0], looks.fidelity
    for span in looks.spans():
        best, top = np.inf, -1.0
        for i in range(span.start, span.stop):
            if fidelity[i] > top or (fidelity[i] == top and first[i] < best):
                best, top, leads[i] = first[i], fidelity[i], True
    return leads


def hypervolumes(looks: Looks, scale: Scale, over: str, points: Sequence[float]) -> Values:
    """The hypervolume of each search's front at each moment, (searches, points); 0 before there is one."""
    losses = scale(looks.losses)
    result = np.zeros((len(looks.seeds), len(points)))
    before = looks.before(over)
    for i, span in enumerate(looks.spans()):
        counts = np.searchsorted(before[span], points, side="left")
        volumes = {
            count: _volume(losses[span], looks.fidelity[span], count, scale.reference) for count in set(counts.tolist())
        }
        result[i] = [volumes[count] for count in counts.tolist()]
    return result / scale.whole


def _volume(losses: Values, fidelity: Values, count: int, reference: Sequence[float]) -> float:
    """The hypervolume of the first `count` looks, those of the highest fidelity among them."""
    if not count:
        return 0.0
    seen = fidelity[:count] == fidelity[:count].max()
    return pareto.hypervolume(losses[:count][seen], reference)


# ------------------------------------------------------------------------------------------------------------ scales


@dataclass(frozen=True, eq=False)
class Scale:
    """How losses become what hypervolumes are measured in: a logarithm of some values, then shifted and divided.
    `signs` are -1 for what is maximised; `reference` is on the scale, and volumes are divided by `whole`."""

    signs: Values
    log10: NDArray[np.bool_]
    offset: Values
    extent: Values
    reference: tuple[float, ...] = ()
    whole: float = 1.0

    def __call__(self, losses: Values) -> Values:
        """Losses (n, objectives) on this scale; a value without a logarithm lies beyond every reference point."""
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.where(self.log10, np.log10(losses * self.signs) * self.signs, losses)
        return (np.where(np.isfinite(scaled), scaled, 1e300) - self.offset) / self.extent


def plain_scale(signs: Sequence[float], log10: Sequence[bool]) -> Scale:
    """Losses as they are, but for logarithms."""
    count = len(signs)
    return Scale(np.asarray(signs, dtype=np.float64), np.asarray(log10, dtype=bool), np.zeros(count), np.ones(count))


def below_values(plain: Scale, reference: Sequence[float]) -> Scale:
    """Volumes below a point given as losses."""
    (point,) = plain(np.asarray([reference], dtype=np.float64))
    return replace(plain, reference=tuple(point.tolist()))


def below_worst(plain: Scale, seen: Values) -> Scale:
    """Volumes below the worst that was seen (n, objectives), and a tenth of its range more."""
    worst, spread = plain(seen).max(axis=0), np.ptp(plain(seen), axis=0)
    point = worst + 0.1 * np.where(spread > 0, spread, np.abs(worst) + 1e-9)
    return replace(plain, reference=tuple(point.tolist()))


def below_front(plain: Scale, truth: Values, times: float) -> Scale:
    """Volumes in units of a true front's extent, below `times` of it; `truth` (rows, objectives) is all there is."""
    front = plain(truth)
    front = front[pareto.non_dominated(front)]
    extent = np.ptp(front, axis=0)
    extent = np.where(extent > 0, extent, 1.0)
    return replace(plain, offset=front.min(axis=0), extent=extent, reference=(times,) * front.shape[1])


def shared(scale: Scale, truth: Values) -> Scale:
    """Volumes as shares of that of all there is."""
    return replace(scale, whole=pareto.hypervolume(scale(truth), scale.reference) or 1.0)


# ------------------------------------------------------------------------------------------------------------- tests


SMALL = 8
"""Searches of the smaller sample up to which the test is exact where there are no ties."""


def rank_test(ours: Values, theirs: Values) -> tuple[float, float]:
    """Two-sided p of the U test, and the probability that one of ours is larger than one of theirs, ties counted half.

    Exact for SMALL samples without ties, else by the normal approximation with corrections for ties and continuity.
    Mann and Whitney 1947. Written here because the library that has it takes a second to load."""
    m, n = len(ours), len(theirs)
    together = np.concatenate([ours, theirs])
    _, group, sizes = np.unique(together, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[group]
    u = float(ranks[:m].sum()) - m * (m + 1) / 2
    larger = max(u, m * n - u)
    if min(m, n) <= SMALL and len(sizes) == m + n:
        p = 2 * _tail(m, n, round(larger))
    else:
        ties = float((sizes**3 - sizes).sum()) / ((m + n) * (m + n - 1))
        variance = m * n / 12 * (m + n + 1 - ties)
        z = (larger - m * n / 2 - 0.5) / math.sqrt(variance) if variance > 0 else 0.0
        p = math.erfc(z / math.sqrt(2))
    return min(p, 1.0), u / (m * n)


def _tail(m: int, n: int, u: int) -> float:
    """The chance that U of samples of m and n is at least u: of all choices of m ranks, counted by their sum."""
    few, many = sorted((m, n))
    most = few * many
    ways = np.zeros((few + 1, most + 1))
    ways[0, 0] = 1
    for rank in range(few + many):
        for chosen in range(min(rank + 1, few), 0, -1):
            # the sum of `chosen` ranks from 0 on, less the smallest that there can be, is U
            step = rank - chosen + 1
            if step <= most:
                ways[chosen, step:] += ways[chosen - 1, : most + 1 - step]
    return float(ways[few, u:].sum() / ways[few].sum())


def holm(chances: Mapping[str, float]) -> dict[str, float]:
    """p values of a family of tests, adjusted so that the chance of any false one keeps its level. Holm 1979."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for i, (name, p) in enumerate(sorted(chances.items(), key=lambda one: one[1])):
        largest = max(largest, min(1.0, p * (len(chances) - i)))
        adjusted[name] = largest
    return adjusted


# ----------------------------------------------------------------------------------------------------- closed form


def random_search(losses: Values, values: Values, points: Sequence[float]) -> tuple[Values, Values]:
    """Mean and deviation of the value of the best of n rows drawn alike and with replacement, (points,), (points,), for
    each n in `points`; of equally good ones the first drawn is taken, every one alike.

    `losses` (rows,) say which is best, NaN for a row that fails and is never taken; `values` (rows,) are told of it.
    The chance that the best of n is among the k-th best of N is (1 - before/N)^n - (1 - upto/N)^n."""
    good = np.isfinite(losses)
    total = len(losses)
    _, group = np.unique(losses[good], return_inverse=True)
    sizes = np.bincount(group)
    means = np.bincount(group, values[good]) / sizes
    squares = np.bincount(group, values[good] ** 2) / sizes
    upto = np.cumsum(sizes)
    n = np.asarray(points, dtype=np.float64)[:, None]
    chances = (1 - (upto - sizes) / total) ** n - (1 - upto / total) ** n
    chances = chances / chances.sum(axis=1, keepdims=True)  # given that not all n failed
    mean = chances @ means
    variance = chances @ squares - mean**2
    return mean, np.sqrt(np.maximum(variance, 0.0))
