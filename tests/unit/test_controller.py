"""Controllers: exact gradients, draws that follow the probabilities, and the objectives that move them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from evonas.strategy import PpoSettings, ReinforceSettings, controller
from evonas.strategy.controller import Baseline, Table
from evonas.strategy.lessons import Lesson, Record
from evonas.strategy.lstm import Lstm, picked
from evonas.strategy.ppo import slopes

SIZES = (3, 5, 1, 2)
TOKENS = np.array([[0, 4, 0, 1], [2, 0, 0, 0], [2, 4, 0, 1]])


def made(kind: str, rate: float = 0.05) -> Any:
    settings = ReinforceSettings(controller=kind, units=8, learning_rate=rate)  # type: ignore[arg-type]
    return controller.policy(settings, [range(size) for size in SIZES], 1)


@pytest.fixture(params=["table", "lstm"])
def policy(request: pytest.FixtureRequest) -> Any:
    """One that has learnt something already."""
    found = made(request.param)
    for _ in range(10):
        found.ascend(TOKENS, lambda logs: np.array([[1.0], [-0.5], [0.3]]) * np.ones_like(logs), 0.0)
    return found


def all_tokens() -> Any:
    return np.stack(np.meshgrid(*map(range, SIZES), indexing="ij"), -1).reshape(-1, len(SIZES))


def test_probabilities_sum_to_1_over_all_genomes(policy: Any) -> None:
    assert np.exp(policy.logs(all_tokens()).sum(axis=1)).sum() == pytest.approx(1.0, abs=1e-6)


def test_draws_follow_the_probabilities(policy: Any) -> None:
    every, rng = all_tokens(), Random(1)
    counts = Counter(policy.draw(rng) for _ in range(3000))
    shares = np.exp(policy.logs(every).sum(axis=1))
    expected = shares * 3000
    common = expected >= 5
    seen = np.array([counts[tuple(row)] for row in every.tolist()])
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum()
    assert seen.sum() == 3000 and statistic < chi2.ppf(0.9999, common.sum())


def test_rewarded_genomes_become_likelier(policy: Any) -> None:
    before = policy.logs(TOKENS).sum(axis=1)
    for _ in range(5):
        policy.ascend(TOKENS, lambda logs: np.array([[1.0], [0.0], [0.0]]) * np.ones_like(logs), 0.0)
    assert policy.logs(TOKENS).sum(axis=1)[0] > before[0]


@pytest.mark.parametrize("kind", ["table", "lstm"])
def test_entropy_keeps_the_shares_even(kind: str) -> None:
    far, even = {}, np.log(1 / np.array(SIZES))
    for entropy in (0.0, 3.0):
        policy = made(kind, 0.01)
        for _ in range(100):
            policy.ascend(TOKENS, lambda logs: np.ones_like(logs) / 3, entropy)
        far[entropy] = np.abs(np.exp(policy.logs(TOKENS)) - np.exp(even)).max()
    assert far[0.0] > 0.2 and far[3.0] < far[0.0] / 2


def test_equal_seeds_make_equal_controllers() -> None:
    one, same, other = (Lstm(SIZES, 8, 0.01, seed) for seed in (1, 1, 2))
    assert (one.logs(TOKENS) == same.logs(TOKENS)).all() and (one.logs(TOKENS) != other.logs(TOKENS)).any()


def test_the_table_moves_as_autograd_and_torch_adam_move_it() -> None:
    table = Table(SIZES, 0.05)
    logits = torch.zeros((len(SIZES), max(SIZES)), dtype=torch.float64, requires_grad=True)
    lacking = torch.arange(max(SIZES)) >= torch.tensor(SIZES)[:, None]
    adam = torch.optim.Adam([logits], lr=0.05)
    rng = np.random.default_rng(3)
    for _ in range(20):
        weights = rng.normal(size=TOKENS.shape)
        table.ascend(TOKENS, lambda logs, weights=weights: weights, 0.3)  # type: ignore[misc]
        whole = torch.log_softmax(logits.masked_fill(lacking, -1e9), 1)
        chosen = whole[torch.arange(len(SIZES)), torch.from_numpy(TOKENS)]
        loss = -(torch.from_numpy(weights) * chosen).sum() + 0.3 * (whole.exp() * whole).sum()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    assert table.logs(TOKENS) == pytest.approx(chosen_logs(logits, lacking), abs=1e-12)


def chosen_logs(logits: torch.Tensor, lacking: torch.Tensor) -> Any:
    whole = torch.log_softmax(logits.masked_fill(lacking, -1e9), 1)
    return whole[torch.arange(len(SIZES)), torch.from_numpy(TOKENS)].detach().numpy()


def test_choices_depend_on_those_before_in_the_lstm_alone() -> None:
    """Rewarded: the second place follows the first. Independent shares cannot learn it."""
    pairs = np.array([[0, 0, 0, 0], [0, 4, 0, 0], [2, 0, 0, 0], [2, 4, 0, 0]])
    wanted = np.array([[1.0], [-1.0], [-1.0], [1.0]])
    one, other = made("lstm", 0.02), made("table", 0.02)
    for policy in (one, other):
        for _ in range(150):
            policy.ascend(pairs, lambda logs: wanted * np.exp(logs), 0.0)
    given = one.logs(pairs)[:, 1]
    assert given[0] - given[1] > 2 and given[3] - given[2] > 2
    assert other.logs(pairs)[0, 1] == pytest.approx(other.logs(pairs)[2, 1])


def test_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    policy = made("lstm")
    policy.ascend(TOKENS, np.ones_like, 0.0)
    policy.draw(Random(1))
    assert torch.get_num_threads() == before


def test_the_table_loads_no_torch() -> None:
    code = (
        "from evonas import strategy; from tests.vectors import problem; from evonas.strategy.problem import begin\n"
        "strategy.build(strategy.ReinforceSettings(controller='table'), problem()).ask(begin())\n"
        "import sys; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("level", [0.0, 0.3, 0.9999999])
def test_picked_stays_within_the_row(level: float) -> None:
    class Fixed(Random):
        def random(self) -> float:
            return level

    assert picked([0.25, 0.75 - 1e-9], Fixed()) == (0 if level < 0.25 else 1)


def test_the_clipped_objective_has_these_slopes() -> None:
    """Against differences of min(r A, clip(r, 1 - c, 1 + c) A). Schulman et al. 2017, equation 7."""

    def objective(logs: Any) -> Any:
        ratios = np.exp(logs - before)
        return np.minimum(ratios * above, np.clip(ratios, 0.8, 1.2) * above)

    rng = np.random.default_rng(5)
    before, above = -rng.random((200, 6)), rng.normal(size=(200, 1))
    logs = before + rng.normal(scale=0.3, size=before.shape)
    step = 1e-7
    numeric = (objective(logs + step) - objective(logs - step)) / (2 * step)
    assert slopes(logs, before, above, 0.2) == pytest.approx(numeric, abs=1e-6)
    assert (slopes(logs, before, above, 0.2) == 0).any()


def test_the_baseline_is_a_moving_average() -> None:
    record, baseline = Record(), Baseline(0.9)
    lessons = [Lesson((0,), (0.0, loss)) for loss in (3.0, 1.0, 2.0, 4.0)]
    record.add(lessons)
    rewards = np.array([0.375, 0.875, 0.625, 0.125])
    assert baseline.advantages(lessons, record)[:, 0] == pytest.approx(rewards - 0.5)
    assert baseline.advantages(lessons[1:2], record)[:, 0] == pytest.approx([0.375])
    assert baseline.value == pytest.approx(0.9 * 0.5 + 0.1 * 0.875)


def test_ppo_takes_several_steps_of_one_batch() -> None:
    from evonas.strategy.ppo import Careful
    from tests.vectors import problem

    moved = []
    for epochs in (1, 6):
        student = Careful(problem(), PpoSettings(controller="table", learning_rate=0.01, epochs=epochs))
        record, lessons = Record(), [Lesson((0,) * 6, (0.0, 1.0)), Lesson((1,) * 6, (0.0, 2.0))]
        record.add(lessons)
        student.learn(0, lessons, record)
        logs = student.policy.logs(np.array([lesson.tokens for lesson in lessons]))
        moved.append(float(logs[0, 0] - logs[1, 0]))
    assert 0 < moved[0] < moved[1] / 3
