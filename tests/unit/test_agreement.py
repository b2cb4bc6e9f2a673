"""Rank correlation between fidelities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from evonas.agreement import Agreement, agreements, kendall, promoted
from evonas.core import Edit, Estimate, Individual, Objective
from tests.vectors import Vector

GENOME = Vector((0.5,))


@pytest.mark.parametrize("seed", range(20))
def test_kendall_is_scipys_tau_b(seed: int) -> None:
    draws = np.random.default_rng(seed)
    a, b = draws.integers(0, 8, (2, 30)) if seed % 2 else draws.normal(size=(2, 30))
    assert kendall(a, b) == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)


def test_orders_that_cannot_be_compared() -> None:
    assert kendall([1.0], [2.0]) is None and kendall([1, 1, 1], [1, 2, 3]) is None
    assert kendall([1, 2, 3], [10, 20, 30]) == 1.0 and kendall([1, 2, 3], [3, 2, 1]) == -1.0


def test_promotions_are_copies_at_another_fidelity() -> None:
    def seen(id: int, error: float, **cost: float) -> Estimate:
        return Estimate(id, "ok", {"error": error}, cost=cost)

    known = {0: seen(0, 0.5, fidelity_epochs=1.0), 1: Estimate.failed(1, "boom"), 2: seen(2, 0.1)}
    scored = [
        (Individual(3, GENOME, (0,)), seen(3, 0.4, fidelity_epochs=3.0)),
        (Individual(4, GENOME, (0,)), seen(4, 0.3, fidelity_epochs=2.0, inherited=1.0)),
        (Individual(5, GENOME, (0,)), seen(5, 0.3, fidelity_epochs=1.0)),
        (Individual(6, GENOME, (0,), (Edit("nudge"),)), seen(6, 0.4, fidelity_epochs=3.0)),
        (Individual(7, GENOME, (1,)), seen(7, 0.4, fidelity_epochs=3.0)),
        (Individual(8, GENOME, (0,)), Estimate(8, "pruned", cost={"fidelity_epochs": 3.0})),
        (Individual(9, GENOME, (2,)), seen(9, 0.05, fidelity_share=0.5)),
    ]
    assert promoted(scored, known, Objective("error")) == [
        {"low": "1 epochs", "high": "3 epochs", "losses": [[0.5, 0.4]]},
        {"low": "1 epochs", "high": "+2 epochs", "losses": [[0.5, 0.3]]},
        {"low": "the recipe's fidelity", "high": "0.5 share", "losses": [[0.1, 0.05]]},
    ]
    assert promoted(scored[:1], known, Objective("error", direction="max"))[0]["losses"] == [[-0.5, -0.4]]


def test_generations_are_put_together_by_their_fidelities() -> None:
    history = [
        {"generation": 1},
        {"promoted": [{"low": "1 epochs", "high": "3 epochs", "losses": [[1, 1], [2, 2]]}]},
        {"promoted": [{"low": "1 epochs", "high": "3 epochs", "losses": [[3, 0]]}]},
    ]
    brief, plain = Estimate(0, "ok", cost={"fidelity_epochs": 1.0}), Estimate(1, "ok")
    tests = [(plain, 1.0, 2.0), (brief, 9.0, 0.0), (plain, 2.0, 3.0)]
    assert agreements(history, tests) == [
        Agreement("1 epochs", "3 epochs", 3, pytest.approx(-1 / 3)),
        Agreement("the recipe's fidelity", "the test", 2, 1.0),
        Agreement("1 epochs", "the test", 1, None),
    ]
    assert agreements([], []) == []


def test_low_agreement_of_many_is_warned_of() -> None:
    assert Agreement("a", "b", 9, 0.1).warning == "" == Agreement("a", "b", 50, 0.6).warning
    assert Agreement("a", "b", 50, None).warning == ""
    told = Agreement("1 epochs", "9 epochs", 12, 0.21).warning
    assert "the order by 1 epochs says little of that by 9 epochs: Kendall tau 0.21 over 12 networks" in told
    assert str(Agreement("a", "b", 3, 0.5)) == "a to b: Kendall tau 0.50 (n 3)"
