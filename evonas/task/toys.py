"""Classic small sets: exclusive or, parity, two spirals. All rows are both searched on and scored on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evonas.task.data import Array, Data, TaskShape

if TYPE_CHECKING:
    from evonas.task import ParitySettings, SpiralsSettings, ToySettings

Reals = NDArray[np.float64]
Points = tuple[Reals, Reals]


@dataclass(frozen=True, eq=False)
class ToyTask:
    """Fixed rows (x, y), y 0 or 1, that every seed trains and scores on, and others or the same to test on."""

    rows: Points
    test: Points
    bias: float | None = None

    def shape(self) -> TaskShape:
        return TaskShape((self.rows[0].shape[1] + (self.bias is not None),), 1, "regression")

    def load(self, seed: int) -> Data:
        """All rows in both parts, with mean 0 and std 1 for inputs and target, so that nothing is normalised."""
        x, y = self._arrays(self.rows)
        features, one = x.shape[1], np.ones(1, np.float32)
        zeros, ones = np.zeros(features, np.float32), np.ones(features, np.float32)
        return Data(x, y, x.copy(), y.copy(), zeros, ones, np.zeros(1, np.float32), one, self.shape())

    def load_test(self, seed: int) -> tuple[Array, Array]:
        return self._arrays(self.test)

    def sizes(self, seed: int) -> dict[str, int]:
        """Rows per part; the same ones train and validate."""
        count = len(self.rows[0])
        return {"train": count, "validation": count, "test": len(self.test[0])}

    def _arrays(self, points: Points) -> tuple[Array, Array]:
        x, y = points
        constant = [] if self.bias is None else [np.full((len(x), 1), self.bias)]
        return np.ascontiguousarray(np.hstack([x, *constant]), np.float32), y.reshape(-1, 1).astype(np.float32)


def parity(bits: int) -> Points:
    """All 2^bits rows of zeros and ones, in counting order, and whether the ones are odd in number."""
    numbers = np.arange(2**bits)
    x = (numbers[:, None] >> np.arange(bits)[::-1] & 1).astype(np.float64)
    return x, x.sum(axis=1) % 2


def spirals(steps: NDArray[np.floating[Any]]) -> Points:
    """Points of both spirals at these steps (0 outermost, 96 innermost), within 6.5 of the origin: those of one spiral
    (1), then those of the other (0). Lang and Witbrock 1988."""
    angle, radius = steps * np.pi / 16, 6.5 * (104 - steps) / 104
    one = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    return np.concatenate([one, -one]), np.repeat([1.0, 0.0], len(steps))


def _xor(settings: ToySettings) -> ToyTask:
    return ToyTask(parity(2), parity(2), settings.bias)


def _parity(settings: ParitySettings) -> ToyTask:
    return ToyTask(parity(settings.bits), parity(settings.bits), settings.bias)


def _spirals(settings: SpiralsSettings) -> ToyTask:
    return ToyTask(spirals(np.arange(97.0)), spirals(np.arange(96) + 0.5), settings.bias)


MAKERS: dict[str, Callable[[Any], ToyTask]] = {"xor": _xor, "parity": _parity, "spirals": _spirals}
