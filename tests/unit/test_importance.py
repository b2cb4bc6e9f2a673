"""Importance of channels: Shapley's axioms on random games, absent channels against cut ones, scores for pruning."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations as orders
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor, nn

from evonas.core import DataError, RecipeError
from evonas.encoding.decode import decode
from evonas.encoding.plan import Plan
from evonas.phenotype.importance import (
    CRITERIA,
    Criterion,
    Game,
    Mask,
    Masked,
    channel_scores,
    exact_values,
    game,
    sampled_values,
)
from evonas.phenotype.network import Network, build, load, tensors, to_bytes

from .graphs import Graph, chain, resnet20

STUDY = Path(__file__).resolve().parents[2] / "examples" / "studies" / "shapley.py"

Worths = NDArray[np.float64]
"""(2^players,): what each coalition is worth, by the number that has its players' bits."""


def tables(players: st.SearchStrategy[int]) -> st.SearchStrategy[Worths]:
    return players.flatmap(lambda n: hnp.arrays(np.float64, 2**n, elements=st.floats(-100, 100)))


def of_table(worths: Worths) -> tuple[Game, int]:
    players = len(worths).bit_length() - 1
    bits = 1 << np.arange(players)
    return lambda present: float(worths[present @ bits]), players


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def solutions(players: int) -> list[Callable[[Game], NDArray[np.float64]]]:
    """Every way to the values, with fixed draws."""
    return [
        lambda value: exact_values(value, players),
        lambda value: sampled_values(value, players, 6, draws()),
        lambda value: sampled_values(value, players, 6, draws(), antithetic=True),
    ]


# ------------------------------------------------------------------------------------------------------------ axioms


@given(tables(st.integers(1, 6)))
@settings(max_examples=40, deadline=None)
def test_efficiency_values_add_up_to_what_all_are_worth(worths: Worths) -> None:
    value, players = of_table(worths)
    for solution in solutions(players):
        total = solution(value).sum()
        assert abs(total - (worths[-1] - worths[0])) <= 1e-12 * max(1.0, np.abs(worths).max())


@given(tables(st.integers(2, 6)))
@settings(max_examples=40, deadline=None)
def test_symmetry_players_who_are_interchangeable_get_the_same(worths: Worths) -> None:
    value, players = of_table(worths)
    swap = np.r_[1, 0, 2:players]
    values = exact_values(lambda present: value(present) + value(present[swap]), players)
    assert values[0] == pytest.approx(values[1], rel=0, abs=1e-12 * max(1.0, np.abs(worths).max()))


@given(tables(st.integers(1, 5)), st.data())
@settings(max_examples=40, deadline=None)
def test_a_player_who_adds_nothing_gets_nothing(worths: Worths, data: st.DataObject) -> None:
    value, players = of_table(worths)
    idle = data.draw(st.integers(0, players))
    for solution in solutions(players + 1):
        assert solution(lambda present: value(np.delete(present, idle)))[idle] == 0


@given(tables(st.just(4)), tables(st.just(4)))
@settings(max_examples=40, deadline=None)
def test_additivity_values_of_a_sum_of_games_are_sums_of_values(first: Worths, second: Worths) -> None:
    for solution in solutions(4):
        parts = solution(of_table(first)[0]) + solution(of_table(second)[0])
        np.testing.assert_allclose(solution(of_table(first + second)[0]), parts, rtol=0, atol=1e-10)


@given(tables(st.integers(1, 5)))
@settings(max_examples=30, deadline=None)
def test_exact_values_are_the_mean_over_all_orders(worths: Worths) -> None:
    value, players = of_table(worths)
    slow = np.zeros(players)
    for order in orders(range(players)):
        present = np.zeros(players, dtype=bool)
        for player in order:
            before = value(present)
            present[player] = True
            slow[player] += (value(present) - before) / factorial(players)
    np.testing.assert_allclose(exact_values(value, players), slow, rtol=0, atol=1e-10)


@given(tables(st.just(2)), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_walk_and_its_reverse_are_exact_for_two_players(worths: Worths, seed: int) -> None:
    value, _ = of_table(worths)
    sampled = sampled_values(value, 2, 2, draws(seed), antithetic=True)
    np.testing.assert_allclose(sampled, exact_values(value, 2), rtol=0, atol=1e-12 * max(1.0, np.abs(worths).max()))


def test_a_game_may_keep_its_masks_and_has_the_full_and_the_empty_one() -> None:
    seen: list[Mask] = []

    def value(present: Mask) -> float:
        seen.append(present)
        return float(present.sum())

    exact_values(value, 3)
    assert len({mask.tobytes() for mask in seen}) == 8
    seen.clear()
    sampled_values(value, 3, 2, draws())
    assert [int(mask.sum()) for mask in seen] == [3, 0, 2, 1, 2, 1]


def test_too_many_players_or_too_few_are_refused() -> None:
    for players in (0, 13):
        with pytest.raises(RecipeError, match=f"{players} players cannot be enumerated: give 1 to 12"):
            exact_values(lambda _: 0.0, players)
    for players, walks in ((0, 4), (4, 0)):
        with pytest.raises(RecipeError, match="give no values: take at least one of each"):
            sampled_values(lambda _: 0.0, players, walks, draws())


# ---------------------------------------------------------------------------------------------------------- sampling


def test_the_error_falls_with_the_root_of_the_permutations() -> None:
    value, players = of_table(draws(7).normal(size=2**10))
    exact = exact_values(value, players)
    walks = (16, 64, 256, 1024, 4096)
    errors = [
        np.mean([
            np.square(sampled_values(value, players, count, draws(100 + i)) - exact).mean()
            for i in range(min(48, 8192 // count))
        ]) ** 0.5
        for count in walks
    ]  # fmt: skip
    slope = np.polyfit(np.log(walks), np.log(errors), 1)[0]
    assert -0.56 < slope < -0.44, (slope, errors)


def saturating(players: int) -> Game:
    """A monotone game that is lost with half of the players, the first ones weighing most."""
    weights = np.linspace(2, 1, players)
    return lambda present: float(max(0.0, 2 * weights @ present / weights.sum() - 1))


@pytest.mark.parametrize("tolerance", [0.01, 0.1, 0.3])
def test_truncation_saves_evaluations_and_costs_no_player_more_than_its_tolerance(tolerance: float) -> None:
    players, walks, calls = 16, 40, 0
    value = saturating(players)

    def counted(present: Mask) -> float:
        nonlocal calls
        calls += 1
        return value(present)

    whole = sampled_values(counted, players, walks, draws())
    assert calls == walks * (players - 1) + 2
    calls = 0
    short = sampled_values(counted, players, walks, draws(), tolerance)
    assert calls < 0.65 * (walks * (players - 1) + 2)
    assert ((whole - short) >= -1e-15).all() and ((whole - short) < tolerance).all()
    assert 1 - tolerance < short.sum() <= 1


def test_a_game_that_nobody_matters_to_takes_two_evaluations() -> None:
    seen: list[Mask] = []

    def value(present: Mask) -> float:
        seen.append(present)
        return 0.5

    assert (sampled_values(value, 8, 10, draws(), tolerance=0.01) == 0).all()
    assert len(seen) == 2


# ---------------------------------------------------------------------------------------------------- absent channels


def shaken(plan: Plan, seed: int = 0) -> Network:
    """A network whose scales, shifts and statistics are not those of a new one, in evaluation mode."""
    network = build(plan, seed=seed)
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.dim() == 1 and value.is_floating_point():
                drawn = torch.rand(value.shape, generator=numbers)
                value.copy_(0.5 + drawn if name.endswith(("weight", "running_var")) else drawn - 0.5)
    return network.eval()


def branched() -> Plan:
    """Two convolutions that meet: one feeds a depthwise layer, both a norm behind their concatenation."""
    graph = Graph()
    first = graph.layer("conv", channels=6, kernel=3, norm="batch", activation="sigmoid")
    second = graph.layer("conv", 0, channels=4, kernel=3, activation="relu")
    separable = graph.layer("separable", first, channels=5, kernel=3, norm="batch", activation="relu")
    joined = graph.layer("identity", first, second, norm="batch", activation="sigmoid", merge="concat")
    graph.layer("output", separable, joined, merge="concat", reduce="flatten")
    return decode(graph.genome(), (3, 6, 6), 4)


def narrowed(network: Network, kept: list[int]) -> Network:
    """`branched()` with fewer channels in its first layer, cut by hand."""
    graph = Graph()
    first = graph.layer("conv", channels=len(kept), kernel=3, norm="batch", activation="sigmoid")
    second = graph.layer("conv", 0, channels=4, kernel=3, activation="relu")
    separable = graph.layer("separable", first, channels=5, kernel=3, norm="batch", activation="relu")
    joined = graph.layer("identity", first, second, norm="batch", activation="sigmoid", merge="concat")
    graph.layer("output", separable, joined, merge="concat", reduce="flatten")
    small = build(decode(graph.genome(), (3, 6, 6), 4))
    joint = [*kept, 6, 7, 8, 9]
    pixels = [36 * channel + pixel for channel in [*range(5), *[5 + i for i in joint]] for pixel in range(36)]
    named = {}
    for name, value in tensors(network).items():
        if value.dim() == 0:
            named[name] = value
        elif name.startswith((f"layer{first}.", f"layer{separable}.depthwise")):
            named[name] = value[kept]
        elif name == f"layer{separable}.pointwise.weight":
            named[name] = value[:, kept]
        elif name.startswith(f"layer{joined}."):
            named[name] = value[joint]
        else:
            named[name] = value[:, pixels] if name == "layer1.linear.weight" else value
    load(small, named)
    return small.eval()


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4, 5], [0, 2, 5], [1], [3, 4]])
def test_absent_channels_are_those_of_a_network_without_them(kept: list[int]) -> None:
    network, x = shaken(branched()), torch.randn(16, 3, 6, 6)
    present = np.isin(np.arange(6), kept)
    with torch.no_grad():
        expected = narrowed(network, kept)(x)
    torch.testing.assert_close(Masked(network, ["layer2"], x)(present), expected, rtol=1e-5, atol=1e-5)


@contextmanager
def hooked(network: Network, names: list[str], present: Mask) -> Iterator[None]:
    """Forward hooks that multiply what the steps put out."""

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output * torch.from_numpy(present).to(output).view(1, -1, *[1] * (output.dim() - 2))

    hooks = [network.get_submodule(name).register_forward_hook(cut) for name in names]
    yield
    for hook in hooks:
        hook.remove()


def tied() -> list[str]:
    """The steps of the second stage of a ResNet-20 whose widths its sums tie."""
    return [step.name for step in decode(resnet20(), (3, 16, 16), 10).steps if step.shape == (32, 8, 8)]


DENSE = chain({"op": "dense", "channels": 12, "activation": "tanh"}, {"op": "dense", "channels": 7})


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (decode(chain(*[{"op": "conv", "channels": 8, "kernel": 3, "norm": "batch", "activation": "relu"}] * 3),
                (3, 8, 8), 4), ["layer4"]),
        (decode(resnet20(), (3, 16, 16), 10), ["layer2"]),
        (decode(resnet20(), (3, 16, 16), 10), tied()),
        (decode(DENSE, (9,), 3), ["layer2"]),
        (decode(DENSE, (9,), 3), ["layer4"]),
        (decode(DENSE, (9,), 3), ["layer1"]),
    ],
    ids=["chain", "first of a ResNet", "tied in a ResNet", "dense", "last hidden", "outputs"],
)  # fmt: skip
def test_cached_values_equal_the_whole_network_under_masks_bit_for_bit(plan: Plan, names: list[str]) -> None:
    network, x = shaken(plan), torch.randn(4, *plan.steps[0].shape)
    masked = Masked(network, names, x)
    for seed in range(4):
        present = draws(seed).random(masked.channels) < (0.0, 0.5, 0.8, 1.1)[seed]
        with hooked(network, names, present), torch.no_grad():
            expected = network(x)
        assert torch.equal(masked(present), expected)


def test_what_no_mask_reaches_is_computed_once() -> None:
    network, x = shaken(branched()), torch.randn(2, 3, 6, 6)
    calls: list[str] = []
    for name, module in network.named_children():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    masked = Masked(network, ["layer4"], x)
    assert calls == ["layer2", "layer4", "layer6"]
    calls.clear()
    masked(np.array([True, False, True, True]))
    assert calls == ["layer8_merge", "layer8", "layer1_merge", "layer1_reduce", "layer1"]


def test_channels_of_which_a_sum_keeps_one_part_stay() -> None:
    """Without one of its producers a sum goes on with the other, so that the norm behind it must not be masked."""
    graph = Graph()
    first = graph.layer("conv", channels=4, kernel=1)
    second = graph.layer("conv", 0, channels=4, kernel=1)
    graph.layer("identity", first, second, norm="batch", activation="relu")
    network, x = shaken(decode(graph.genome(), (2, 4, 4), 3)), torch.randn(5, 2, 4, 4)
    none = np.zeros(4, dtype=bool)
    with hooked(network, ["layer2"], none), torch.no_grad():
        expected = network(x)
    assert torch.equal(Masked(network, ["layer2"], x)(none), expected)
    both = Masked(network, ["layer2", f"layer{second}"], x)(none)
    torch.testing.assert_close(both, network.get_parameter("layer1.linear.bias").expand(5, 3).detach())


# ------------------------------------------------------------------------------------------------------------- scores


def handmade() -> tuple[Network, Tensor, Tensor]:
    """Two classes, told apart by the sign of the only feature. Channels 0 and 1 tell it, 2 is deaf, 3 is not heard, 4
    tells it faintly."""
    network = build(decode(chain({"op": "dense", "channels": 5, "activation": "relu"}), (1,), 2))
    named = {
        "layer2.linear.weight": torch.tensor([[3.0], [-3.0], [0.0], [2.0], [0.1]]),
        "layer2.linear.bias": torch.zeros(5),
        "layer1.linear.weight": torch.tensor([[1.0, -1.0, 5.0, 0.0, 1.0], [-1.0, 1.0, -5.0, 0.0, -1.0]]),
        "layer1.linear.bias": torch.zeros(2),
    }
    load(network, named)
    x = torch.linspace(-2, 2, 40)[:, None]
    return network, x, (x[:, 0] < 0).long()


def test_scores_of_a_network_made_by_hand() -> None:
    network, x, y = handmade()
    scores = {criterion: channel_scores(network, "layer2", criterion, x, y) for criterion in CRITERIA}
    assert scores["norm"].tolist() == pytest.approx([3, 3, 0, 2, 0.1])
    means = [float((x * weight).relu().mean()) for weight in (3, -3, 0, 2, 0.1)]
    assert scores["activation"].tolist() == pytest.approx(means)
    assert scores["shapley"][2] == scores["shapley"][3] == 0
    assert scores["shapley"][[0, 1]].min() > 5 * scores["shapley"][4] > 0
    assert all(one.shape == (5,) and one.dtype == torch.float64 for one in scores.values())


def test_values_of_a_layer_add_up_to_what_it_is_worth() -> None:
    network, x, y = handmade()
    worth = game(network, ["layer2"], x, y)
    everyone = np.ones(5, dtype=bool)
    gain = worth(everyone) - worth(~everyone)
    assert worth(~everyone) == 0.5 and gain > 0.4
    for values in (exact_values(worth, 5), sampled_values(worth, 5, 3, draws())):
        assert values.sum() == pytest.approx(gain, rel=1e-12)


def test_values_of_a_regression_are_those_of_its_squared_error() -> None:
    network, x, _ = handmade()
    y = torch.cat([x, -x], 1)
    worth = game(network, ["layer2"], x, y)
    present = np.array([True, True, False, False, False])
    expected = torch.nn.functional.mse_loss(torch.cat([3 * x, -3 * x], 1).double(), y.double())
    assert worth(present) == pytest.approx(-float(expected))
    assert channel_scores(network, "layer2", "shapley", x, y)[3] == 0


@pytest.mark.parametrize("norm", ["batch", "none", "group"])
def test_norms_see_what_a_filter_does_and_not_how_it_is_written(norm: str) -> None:
    plan = decode(chain({"op": "conv", "channels": 8, "kernel": 3, "norm": norm, "activation": "relu"}), (3, 6, 6), 4)
    network = shaken(plan)
    filters = network.get_parameter("layer2.conv.weight")
    before = channel_scores(network, "layer2", "norm")
    with torch.no_grad():
        filters[3] *= 10
    after = channel_scores(network, "layer2", "norm")
    assert after[3] / before[3] == pytest.approx(1 if norm == "batch" else 10)
    if norm != "none":
        with torch.no_grad():
            network.get_parameter("layer2.norm.weight")[3] *= -2
        assert channel_scores(network, "layer2", "norm")[3] / after[3] == pytest.approx(2)


def test_norms_and_activations_of_tied_steps_are_added() -> None:
    network, x, names = shaken(decode(resnet20(), (3, 16, 16), 10)), torch.randn(3, 3, 16, 16), tied()
    for criterion in ("norm", "activation"):
        single: list[Tensor] = []
        for name in names:
            try:
                single.append(channel_scores(network, name, criterion, x))
            except RecipeError:
                assert criterion == "norm" and not list(network.get_submodule(name).parameters())
        torch.testing.assert_close(channel_scores(network, names, criterion, x), sum(single))


def probe(network: Network) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(3)
    x = torch.randn(20, *network.plan.steps[0].shape, generator=numbers)
    return x, torch.randint(0, 4, (20,), generator=numbers)


def test_equal_seeds_give_equal_scores_and_others_do_not() -> None:
    network = shaken(branched())
    x, y = probe(network)
    for criterion in CRITERIA:
        first, again, other = (channel_scores(network, "layer2", criterion, x, y, seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert torch.equal(first, other) == (criterion in ("norm", "activation"))


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("fails", [False, True])
def test_a_network_is_as_before(criterion: Criterion, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = shaken(branched()).train()
    network.get_submodule("layer2").eval()
    x, y = probe(network)
    before, modes = to_bytes(network), [module.training for module in network.modules()]
    with monkeypatch.context() as patch:
        if fails:
            patch.setattr(network.get_submodule("layer1"), "forward", _failing)
        try:
            channel_scores(network, "layer2", criterion, x, y, permutations=2)
            assert not fails or criterion in ("norm", "random")
        except ArithmeticError:
            assert fails
    assert to_bytes(network) == before
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.is_grad_enabled()


def _failing(_: Tensor) -> Tensor:
    raise ArithmeticError


@pytest.mark.parametrize(
    ("names", "criterion", "rows", "error", "message"),
    [
        ("layer2", "hessian", True, RecipeError, "criterion 'hessian' is not known; known: norm, activation, shapley"),
        ("layer2", "shapley", False, RecipeError, "'shapley' looks at rows of data and there are none: take norm"),
        ("layer2_merge", "norm", True, DataError, "step 'layer2_merge' is not in the network; did you mean"),
        (["layer2", "layer4"], "norm", True, DataError, r"channels \{layer2: 6, layer4: 4\} cannot be masked together"),
        ([], "norm", True, DataError, "cannot be masked together: give some of one width"),
        ("layer8", "norm", True, RecipeError, "layer8 has no filters of which to take the norm: take activation"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    names: Any, criterion: Any, rows: bool, error: type[Exception], message: str
) -> None:
    network = shaken(branched())
    x, y = probe(network) if rows else (None, None)
    with pytest.raises(error, match=message):
        channel_scores(network, names, criterion, x, y)


def test_targets_that_do_not_fit_are_refused() -> None:
    network, x, y = handmade()
    for wrong in (y[:-1], y[:, None], y.float(), y[:0]):
        with pytest.raises(DataError, match="targets have shape"):
            game(network, ["layer2"], x, wrong)
    with pytest.raises(DataError, match="targets have shape"):
        game(network, ["layer2"], x[:0], y[:0])


def test_no_score_is_nan() -> None:
    network, x, y = handmade()
    with torch.no_grad():
        network.get_parameter("layer2.linear.weight")[0] = float("nan")
    for criterion in ("norm", "activation"):
        with pytest.raises(DataError, match=f"the {criterion} of layer2 is not finite: the network's weights have"):
            channel_scores(network, "layer2", criterion, x, y)
    assert game(network, ["layer2"], x, y)(np.ones(5, dtype=bool)) == 0
    with pytest.raises(DataError, match="the shapley of layer2 is not finite"):
        channel_scores(network, "layer2", "shapley", x, torch.cat([x, x], 1))


# -------------------------------------------------------------------------------------------------------------- study


@pytest.mark.slow
def test_the_study_runs_and_finds_what_random_pruning_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("shapley_study", STUDY)
    assert spec is not None and spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    study.main(seeds=(0, 1), epochs=2, widths=(6, 8, 8), players=6, walks=(4, 16), repeats=2)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith(("| batch norm", "| no norm"))]
    assert len(rows) == 2 * (len(CRITERIA) + 3)
    lost = {(row[0].strip(), row[1].strip()): float(row[2].split("±")[0]) for row in rows}
    for network in ("batch norm", "no norm"):
        assert lost[network, "nothing pruned"] == 0
        assert lost[network, "shapley"] < lost[network, "random"]
