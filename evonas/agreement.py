"""Whether a brief look ranks networks as a close one does: the rank correlation between two fidelities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evonas.core import FIDELITIES, Estimate, Individual, Json, Objective

__all__ = ["TEST", "Agreement", "agreements", "kendall", "promoted"]

LOW, ENOUGH = 0.5, 10
"""A Kendall tau below this among so many networks is warned of: three of four pairs are then in the same order."""


TEST = "the test"
"""Name of the fidelity of a final training."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the order at one fidelity is that at another: Kendall's tau-b over `n` networks, None where there is no
    order to compare, of one network or of equal ones.

    Networks that were promoted are the best of those that were looked at briefly: among them tau is lower than among
    all."""

    low: str
    high: str
    n: int
    tau: float | None

    def __str__(self) -> str:
        told = "no order to compare" if self.tau is None else f"Kendall tau {self.tau:.2f}"
        return f"{self.low} to {self.high}: {told} (n {self.n})"

    @property
    def warning(self) -> str:
        """What to say where a brief look misleads; empty where it does not, or too few networks say so."""
        if self.tau is None or self.tau >= LOW or self.n < ENOUGH:
            return ""
        return (
            f"the order by {self.low} says little of that by {self.high}: Kendall tau {self.tau:.2f} over {self.n} "
            "networks; a higher fidelity in the search would choose better"
        )


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Kendall's tau-b of two orders of the same things, with ties; None where either has only ties. Kendall 1945."""
    x, y = (np.sign(np.subtract.outer(one, one)) for one in (np.asarray(a, float), np.asarray(b, float)))
    pairs = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / pairs) if pairs else None


def promoted(
    scored: Iterable[tuple[Individual, Estimate]], parents: Mapping[int, Estimate], objective: Objective
) -> list[Json]:
    """Who was looked at again at another fidelity, as JSON: `low` and `high` name both, `losses` are by it."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for one, high in scored:
        low = parents.get(one.parents[0]) if len(one.parents) == 1 and not one.edits else None
        if low is None or low.status != "ok" or high.status != "ok" or _told(low) == _told(high):
            continue
        losses = [objective.loss(estimate.values[objective.name]) for estimate in (low, high)]
        found.setdefault((_told(low), _told(high)), []).append(losses)
    return [{"low": low, "high": high, "losses": losses} for (low, high), losses in found.items()]


def _told(estimate: Estimate) -> str:
    """The fidelity of an estimate in words; of a training that went on what was added."""
    heir = "+" if "inherited" in estimate.cost else ""
    asked = {name: estimate.cost.get(f"fidelity_{name}") for name in FIDELITIES}
    words = [f"{heir if name == 'epochs' else ''}{of:g} {name}" for name, of in asked.items() if of is not None]
    return ", ".join(words) or "the recipe's fidelity"


def agreements(
    history: Iterable[Mapping[str, Json]], tests: Iterable[tuple[Estimate, float, float]]
) -> list[Agreement]:
    """Of a run's generations with their promotions, and of final trainings: the search's estimate, its loss and the
    test's."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for generation in history:
        for one in generation.get("promoted", ()):
            found.setdefault((one["low"], one["high"]), []).extend((low, high) for low, high in one["losses"])
    for estimate, *losses in tests:
        found.setdefault((_told(estimate), TEST), []).append((losses[0], losses[1]))
    return [
        Agreement(low, high, len(pairs), kendall(*zip(*pairs, strict=True))) for (low, high), pairs in found.items()
    ]
