"""Which trainings are ended early: the median rule, and the extrapolation of learning curves.

Both look at one training's errors so far beside the curves of individuals that finished in earlier generations. These
travel with the job as plain numbers, so that a decision is the same wherever and in whatever order it is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evonas.core import Estimate, seed_of
from evonas.estimate import Stop

__all__ = ["Finished", "Judge", "better", "finished", "peers", "predictions"]

Reals = NDArray[np.float64]

MOST = 100
"""Curves that travel with a job, the newest and the best: a hundred of 20 epochs are 40 kB of JSON."""

RESAMPLES = 40
"""Bootstrap resamples of a curve's points. Ten saved as many epochs as 40 or 80, in 1.7, 2.1 and 2.5 ms a look."""


# ------------------------------------------------------------------------------------------------ those that finished


@dataclass(frozen=True, slots=True)
class Finished:
    """One training that went to its end: its errors look by look, the losses of the cheap objectives, and how closely
    it was looked at (`heir`: it began with inherited weights)."""

    id: int
    errors: tuple[float, ...]
    sizes: tuple[float, ...]
    heir: bool = False
    fidelity: Mapping[str, float] = field(default_factory=dict)


def finished(estimate: Estimate, sizes: tuple[float, ...]) -> Finished | None:
    """What an estimate tells others; None where the training did not go to its end."""
    errors = _errors(estimate.curve)
    if estimate.status != "ok" or not errors:
        return None
    prefix = "fidelity_"
    fidelity = {key.removeprefix(prefix): of for key, of in estimate.cost.items() if key.startswith(prefix)}
    return Finished(estimate.id, tuple(errors.values()), sizes, "inherited" in estimate.cost, fidelity)


def peers(
    known: Iterable[Finished], sizes: tuple[float, ...], heir: bool, fidelity: Mapping[str, float]
) -> tuple[tuple[float, ...], ...]:
    """The curves that a training is compared with: of those at its own fidelity that are at least as good in every
    cheap objective the newest and, first, the best."""
    fit = [
        one for one in known
        if one.heir == heir and one.fidelity == fidelity and all(a <= b for a, b in zip(one.sizes, sizes, strict=True))
    ]  # fmt: skip
    if not fit:
        return ()
    best = min(fit, key=lambda one: (one.errors[-1], one.id))
    newest = sorted((one for one in fit if one is not best), key=lambda one: one.id)[-(MOST - 1) :]
    return tuple(one.errors for one in (best, *newest))


def _errors(curve: Iterable[Mapping[str, float]]) -> dict[int, float]:
    """Validation errors by epoch; what was measured before the training is left out."""
    return {int(at["epoch"]): at["valid_error"] for at in curve if at.get("epoch", 0) >= 1 and "valid_error" in at}


# ------------------------------------------------------------------------------------------------------------ rules


@dataclass(frozen=True)
class Judge:
    """Judges a training under way, look by look: `looks` are the epochs after which the error is measured, the last one
    being the end, and `others` (peers, looks) the errors of finished trainings."""

    settings: Stop
    looks: tuple[int, ...]
    others: Reals
    seed: int = 0

    @staticmethod
    def of(
        settings: Stop | None, epochs: int, every: int, curves: Sequence[Sequence[float]], seed: int
    ) -> Judge | None:
        """The judge of a training of so many epochs; None where nothing is to be ended, or too few have finished."""
        if settings is None or not every:
            return None
        looks = tuple(at for at in range(1, epochs + 1) if at % every == 0 or at == epochs)
        whole = [curve for curve in curves if len(curve) == len(looks)]
        if len(whole) < settings.peers:
            return None
        return Judge(settings, looks, np.array(whole, dtype=np.float64), seed_of(seed, "stopping"))

    def __call__(self, curve: Iterable[Mapping[str, float]]) -> str:
        """Why a training with this curve so far is to be ended; empty where it goes on."""
        seen = _errors(curve)
        count = len(seen)
        # a look whose error was not finite leaves a gap: such a curve is not judged
        if tuple(seen) != self.looks[:count] or not 2 <= count < len(self.looks):
            return ""
        if self.looks[count - 1] <= self.settings.after * self.looks[-1]:
            return ""
        errors = np.array(list(seen.values()))
        when = f"ended after {self.looks[count - 1]} of {self.looks[-1]} epochs: "
        if why := self._below_median(errors) or self._hopeless(errors):
            return when + why
        return ""

    def _below_median(self, errors: Reals) -> str:
        if not self.settings.median:
            return ""
        middle = float(np.median(self.others[:, : len(errors)].mean(axis=1)))
        least = float(errors.min())
        if least <= middle:
            return ""
        return f"its least error {least:.4g} is above {middle:.4g}, the median of {len(self.others)} others' means"

    def _hopeless(self, errors: Reals) -> str:
        limit = self.settings.probability
        if limit is None or len(errors) < 3:
            return ""
        best = float(self.others[:, -1].min())
        chance = better(errors, self.others, self.looks, best, self.seed)
        return f"P(it ends below {best:.4g}) is {chance:.2g}, less than {limit:g}" if chance < limit else ""


# ---------------------------------------------------------------------------------------------------- extrapolation


def better(errors: Reals, others: Reals, looks: Sequence[int], best: float, seed: int) -> float:
    """The probability that a curve (n,) ends below `best`, given finished curves (peers, looks).

    Every family foretells the end from bootstrap resamples of the curve (weights of Rubin 1981), and that of every
    finished curve as well. By how much it missed those, in ratio, on the mean and spread, says how far it may miss
    here, and how likely its misses are how much it counts: no family knows a schedule of learning rates, some do not
    mind it. Tails are those of Student's t, since now and then a training behaves like no other."""
    draws = np.random.Generator(np.random.PCG64(seed_of(seed, "bootstrap", len(errors))))
    kin, ends, known = others.mean(axis=0), others[:, -1], others[:, : len(errors)]
    weights = draws.dirichlet(np.ones(len(errors)), RESAMPLES) * len(errors)
    # errors of 0 have no ratio; and between errors much smaller than the best nothing is to be decided
    least = 0.25 * best + 0.01 * float(np.median(ends)) + 1e-12
    told = np.log(predictions(np.tile(errors, (RESAMPLES, 1)), weights, looks, kin) + least)
    missed = np.log(ends + least)[:, None] - np.log(predictions(known, np.ones_like(known), looks, kin) + least)
    spread = np.maximum(missed.std(axis=0, ddof=1) * math.sqrt(1 + 1 / len(ends)), 1e-6)
    merit = -len(ends) * np.log(spread)
    shares = np.exp(merit - merit.max())
    chances = _below((math.log(best + least) - missed.mean(axis=0) - told) / spread)
    return float(chances.mean(axis=0) @ shares / shares.sum())


def predictions(errors: Reals, weights: Reals, looks: Sequence[int], kin: Reals) -> Reals:
    """Errors at the last look by every family, (rows, n) -> (rows, families).

    A family is c + a g(t), a >= 0, with g from a grid of shapes: for each shape weighted least squares are in closed
    form (Golub and Pereyra 1973), and the best shape is the family's fit. The last two are the finished curves' own
    mean as such a shape (Chandrashekaran and Lane 2017), and the least error so far."""
    count = errors.shape[1]
    made = [
        np.clip(_fitted(errors, weights, shapes[:, :count], shapes[:, -1]), 0.0, errors.max(axis=1))
        for shapes in (*_families(tuple(looks)), kin[None])
    ]
    return np.stack([*made, errors.min(axis=1)], axis=1)


def _fitted(errors: Reals, weights: Reals, shapes: Reals, last: Reals) -> Reals:
    """The end of the best shape for each row: (r, n), (r, n), (k, n), (k,) -> (r,)."""
    total = weights.sum(axis=1, keepdims=True)
    mean_g, mean_y = weights @ shapes.T / total, (weights * errors).sum(axis=1, keepdims=True) / total
    cov = (weights * errors) @ shapes.T - total * mean_g * mean_y
    var = weights @ (shapes**2).T - total * mean_g**2
    slope = np.maximum(cov / np.maximum(var, 1e-12), 0.0)
    left = (weights * errors**2).sum(axis=1, keepdims=True) - total * mean_y**2 - 2 * slope * cov + slope**2 * var
    at = left.argmin(axis=1)
    rows = np.arange(len(errors))
    ends: Reals = mean_y[:, 0] + slope[rows, at] * (last[at] - mean_g[rows, at])
    return ends


@lru_cache(maxsize=64)
def _families(looks: tuple[int, ...]) -> tuple[Reals, ...]:
    """The shapes of every family at these epochs, (shapes, looks) each."""
    t = np.array(looks, dtype=np.float64)
    made = []
    for shape, grids in FAMILIES.values():
        axes = np.meshgrid(*[grid * (t[-1] if scaled else 1.0) for grid, scaled in grids], indexing="ij")
        values = [axis.reshape(-1, 1) for axis in axes]
        made.append(np.atleast_2d(shape(t, *values)))
    return tuple(made)


_POWERS, _TIMES = np.geomspace(0.1, 4.0, 16), np.geomspace(0.02, 3.0, 16)

FAMILIES: Mapping[str, tuple[Callable[..., Reals], tuple[tuple[Reals, bool], ...]]] = {
    "pow3": (lambda t, power: t**-power, ((_POWERS, False),)),
    "pow4": (lambda t, power, start: (t + start) ** -power, ((_POWERS, False), (_TIMES[::2], True))),
    "log power": (lambda t, power, half: 1 / (1 + (t / half) ** power), ((_POWERS, False), (_TIMES, True))),
    "exponential": (lambda t, time: np.exp(-t / time), ((_TIMES, True),)),
    "weibull": (lambda t, power, time: np.exp(-((t / time) ** power)), ((_POWERS[4:], False), (_TIMES, True))),
    "ilog2": (lambda t: 1 / np.log(t + 1), ()),
}
"""Falling shapes g(t) by name, t in epochs, after Domhan, Springenberg and Hutter 2015; with grids of their parameters,
of which times are in shares of the whole training."""


def _below(z: Reals) -> Reals:
    """The distribution function of Student's t with 4 degrees of freedom."""
    square = 1 + z**2 / 4
    part: Reals = 0.5 + 0.375 * z / np.sqrt(square) * (1 - z**2 / (12 * square))
    return part
