"""PNAS: what grows when, and what the predictor predicts."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from evonas import strategy
from evonas.core import Estimate, Individual
from evonas.encoding.cell import CellEncoding, CellSettings
from evonas.strategy import PnasSettings
from evonas.strategy.lessons import taught
from evonas.strategy.pnas import Ensemble, Pnas, agreement
from evonas.strategy.problem import Problem, begin
from tests.unit.test_lessons import ONE, posed, run


def well(individual: Individual) -> Estimate:
    """Least, 0, where all genes are 0.75."""
    genes = individual.genome.genes  # type: ignore[attr-defined]
    return Estimate(individual.id, "ok", {"loss": sum((gene - 0.75) ** 2 for gene in genes)})


def pairwise(tokens: Any, sizes: tuple[int, ...]) -> Any:
    """1 for each choice made and for each pair of choices made, written out."""
    single = np.concatenate([np.eye(size)[column] for size, column in zip(sizes, tokens.T, strict=True)], axis=1)
    pairs = [single[:, i] * single[:, j] for i, j in combinations(range(single.shape[1]), 2)]
    return np.concatenate([single, np.stack(pairs, axis=1)], axis=1)


def test_the_kernel_is_that_of_choices_and_pairs() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 3, size=(20, 5))
    features = pairwise(tokens, (3,) * 5)
    assert agreement(tokens, tokens) == pytest.approx(features @ features.T / 15)


def test_the_predictor_is_a_ridge_regression() -> None:
    """Its members' mean equals that of regressions on the written out features."""
    rng = np.random.default_rng(2)
    tokens, rewards, unseen = rng.integers(0, 3, size=(25, 4)), rng.random(25), rng.integers(0, 3, size=(7, 4))
    features = pairwise(tokens, (3,) * 4) / np.sqrt(10)
    made = Ensemble(tokens, rewards, 5, 0.1, 1)
    predictions = []
    for member in range(5):
        rows = np.flatnonzero(made._duals[:, member])
        assert len(rows) == 20
        inner = features[rows].T @ features[rows] + 0.1 * np.eye(features.shape[1])
        weights = np.linalg.solve(inner, features[rows].T @ (rewards[rows] - rewards.mean()))
        predictions.append(rewards.mean() + pairwise(unseen, (3,) * 4) / np.sqrt(10) @ weights)
    assert made.predict(unseen) == pytest.approx(np.mean(predictions, axis=0))


def test_genomes_grow_place_by_place() -> None:
    space = posed()
    state = run(strategy.build(PnasSettings(population=6), space), 6, judge=well)
    generations = [[one.tokens for one in batch] for _, batch in taught(space, state)]
    for generation, batch in enumerate(generations[:4]):
        assert all(tokens[generation + 1 :] == (0,) * (3 - generation) for tokens in batch)
    grown = [tokens for batch in generations for tokens in batch]
    assert len(set(grown)) == 36
    assert sum(tokens[3] > 0 for batch in generations[4:] for tokens in batch) > 6, "then whole ones are proposed"


def test_steps_decide_several_places() -> None:
    space = posed()
    state = run(strategy.build(PnasSettings(population=6, step=2), space), 3)
    generations = [[one.tokens for one in batch] for _, batch in taught(space, state)]
    assert all(tokens[2:] == (0, 0) for tokens in generations[0])
    assert any(tokens[3] for tokens in generations[1])


def test_too_few_partial_genomes_are_filled_up_with_random_ones() -> None:
    space = posed()
    born, _ = strategy.build(PnasSettings(population=20), space).ask(begin())
    tokens = [space.encoding.tokens(one.genome) for one in born]  # type: ignore[attr-defined]
    assert sorted(one[0] for one in tokens[:9]) == list(range(9)) and all(one[1:] == (0, 0, 0) for one in tokens[:9])
    assert len(set(tokens)) == 20 and any(any(one[1:]) for one in tokens[9:])


def test_neutral_is_the_first_wanted_choice_that_a_place_has() -> None:
    def neutral(space: str, *wanted: str) -> tuple[int, ...]:
        encoding = CellEncoding(CellSettings.model_validate({"space": space}), (3, 32, 32), 10)
        settings = PnasSettings(neutral=wanted) if wanted else PnasSettings()
        return Pnas(Problem(encoding, ONE, 1, lambda genome: True), settings).neutral

    assert neutral("nasbench201") == (1,) * 6
    assert neutral("nasbench201", "nothing", "none") == (0,) * 6
    assert neutral("nasbench201", "conv_3x3", "skip") == (3,) * 6
    assert set(neutral("nasnet")) == {0}, "sources have no such choice"


def test_it_finds_the_best_of_a_sum_of_places() -> None:
    """60 estimates of 6,561 genomes."""
    for seed in range(3):
        state = run(strategy.build(PnasSettings(population=6), posed(seed)), 10, judge=well)
        assert min(state.estimates[one.id].values["loss"] for one in state.population) == 0
