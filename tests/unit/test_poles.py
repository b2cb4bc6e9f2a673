"""Pole balancing: the papers' physics and check values, the kernel against NumPy and Gymnasium's CartPole-v1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from evonas import native, task
from evonas.core import EvonasError, RecipeError
from evonas.encoding.population import NeatGenome, Population
from evonas.phenotype.population import Programs, Stepper, pack
from evonas.task import CartPoleSettings, DoublePoleSettings, SinglePoleSettings, poles
from evonas.task.poles import START, Episodes, Game, Poles

MASTER = (-0.532, -0.341, -1.94, -4.51, 2.107, 1.292)
"""Weights of one sigmoid neuron that balances two poles with velocities for good."""

DOUBLE = Game(2, (0, 1, 2, 3, 4, 5), (4.8, 2.0, 0.52, 2.0, 0.52, 2.0), None, poles.FALLEN, 1_000)

compiled = pytest.mark.skipif(native.library("poles") is None, reason="no C compiler here")


def neurons(weights: Sequence[Sequence[float]], bias: float = 0.0, activation: str = "sigmoid") -> Programs:
    """Networks of one neuron each, fed by every input."""
    genomes = []
    for row in weights:
        inputs = len(row)
        links = [[inputs + 1 + i, i, inputs, weight, True] for i, weight in enumerate(row)]
        genomes.append(NeatGenome.of(inputs, 1, True, [[inputs, bias, 1.0, activation, "sum"]], links))
    return pack(Population.of(genomes))


def random_neurons(count: int, inputs: int, seed: int = 0) -> Programs:
    return neurons(np.random.default_rng(seed).normal(0, 2, (count, inputs)).tolist())


def doubled(**fields: Any) -> Poles:
    return Poles(DoublePoleSettings(**{"bias": None, **fields}))


# ----------------------------------------------------------------------------------------------------------- physics


def test_one_step_from_the_start_gives_the_known_state() -> None:
    state = poles.acted(DOUBLE, START.T, np.array([[0.5]], np.float32))
    known = [-9.98382457e-06, -9.98931471e-04, 7.02206787e-02, 2.20794723e-02, 1.50431825e-04, 1.51220335e-02]
    np.testing.assert_allclose(state[:, 0], known, rtol=1e-8)


def test_without_a_force_the_pole_falls_at_step_23() -> None:
    found = poles.play(DOUBLE, neurons([[0.0] * 6]), START)
    assert found.steps.tolist() == [[23]] and found.fell.tolist() == [[True]] and found.balanced.tolist() == [[22]]


def test_an_episode_that_stands_ends_at_its_limit() -> None:
    found = poles.play(Game(2, DOUBLE.position, DOUBLE.scale, None, poles.FALLEN, 10), neurons([[0.0] * 6]), START)
    assert found.steps.tolist() == [[10]] and not found.fell.any()


@given(st.floats(-0.78, 0.78))
def test_polynomials_equal_sine_and_cosine(angle: float) -> None:
    t = np.array([angle])
    assert poles._sine(t)[0] == pytest.approx(math.sin(angle), rel=4e-16, abs=1e-300)
    assert poles._cosine(t)[0] == pytest.approx(math.cos(angle), rel=4e-16)


def test_a_far_too_strong_output_pushes_with_ten_newton() -> None:
    strong, full = (poles.acted(DOUBLE, START.T, np.array([[y]], np.float32)) for y in (7.0, 1.0))
    np.testing.assert_array_equal(strong, full)


def test_an_output_that_is_no_number_falls_at_once() -> None:
    endless = [[node, 1e20, 1.0, "cube", "sum"] for node in (7, 8)]  # infinite in float32
    nodes, links = [[6, 0.0, 1.0, "identity", "sum"], *endless], [[9, 7, 6, 1.0, True], [10, 8, 6, -1.0, True]]
    broken = pack(Population.of([NeatGenome.of(6, 1, True, nodes, links)]))
    for played in (poles.play, poles._play_slowly):
        found = played(DOUBLE, broken, START)
        assert found.steps.tolist() == [[1]] and found.fell.all()


def test_one_pole_falls_later_than_the_longer_of_two() -> None:
    single = Game(1, (0, 1, 2, 3), DOUBLE.scale[:4], None, poles.FALLEN, 1_000)
    alone = poles.play(single, neurons([[0.0] * 4]), START).steps[0, 0]
    assert alone > poles.play(DOUBLE, neurons([[0.0] * 6]), START).steps[0, 0]


# ------------------------------------------------------------------------------------------------ kernel and NumPy


def parity(game: Game, programs: Programs, starts: Any, exact: bool) -> None:
    fast, slow = poles.play(game, programs, starts), poles._play_slowly(game, programs, starts)
    np.testing.assert_array_equal(fast.steps, slow.steps)
    np.testing.assert_array_equal(fast.fell, slow.fell)
    np.testing.assert_allclose(fast.wobble, slow.wobble, rtol=0 if exact else 1e-3)


@compiled
@pytest.mark.parametrize("kind", ["single", "double", "cartpole"])
def test_kernel_and_numpy_give_the_same_bits_where_outputs_do(kind: str) -> None:
    """Outputs 8 t1 + 0.5 and such are exact in float32 however they are summed."""
    game = {
        "single": Game(1, (2,), (1.0,), None, poles.FALLEN / 3, 200),
        "double": Game(2, (2,), (1.0,), None, poles.FALLEN, 200),
        "cartpole": Game(0, (2,), (1.0,), None, 0.2094395102393195, 200),
    }[kind]
    programs = neurons([[8.0], [4.0], [-1.0], [0.0], [2.0]], bias=0.5, activation="identity")
    parity(game, programs, poles.generalisation_starts()[::50], exact=True)


@compiled
def test_kernel_and_numpy_agree_on_grown_networks() -> None:
    """Briefly and gently: two poles under a steep network double a difference in the last bit at every step."""
    brief = Game(2, DOUBLE.position, DOUBLE.scale, None, poles.FALLEN, 25)
    parity(brief, neurons(np.random.default_rng(0).normal(0, 0.5, (60, 6)).tolist()), START, exact=False)
    blind = Game(2, (0, 2, 4), (4.8, 0.52, 0.52), 0.5, poles.FALLEN, 25, activations=2)
    parity(blind, recurrent(), poles.generalisation_starts()[:40], exact=False)


def recurrent() -> Programs:
    """Networks of 4 inputs whose output sees itself and a hidden node one step late."""
    rng = np.random.default_rng(3)
    ends = [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4), (1, 5), (2, 5), (5, 5), (5, 4)]
    nodes = [[4, 0.0, 1.0, "sigmoid", "sum"], [5, 0.1, 1.0, "tanh", "sum"]]
    return pack(Population.of([
        NeatGenome.of(4, 1, False, nodes, [[6 + i, *pair, float(rng.normal()), True] for i, pair in enumerate(ends)])
        for _ in range(20)
    ]))  # fmt: skip


def whole(found: Episodes) -> list[Any]:
    return [array.tolist() for array in found]


@compiled
@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 9))
def test_an_episode_does_not_depend_on_its_neighbours(networks: int, episodes: int, seed: int) -> None:
    """Neither on threads nor on which other networks and starts are played beside it, nor on memories of before."""
    programs, starts = recurrent().take(np.arange(networks) % 20), poles.generalisation_starts()[seed::17][:episodes]
    game = Game(2, (0, 2, 4), (4.8, 0.52, 0.52), 0.5, poles.FALLEN, 300)
    together = poles.play(game, programs, starts, threads=2)
    assert whole(together) == whole(poles.play(game, programs, starts))
    at, start = networks // 2, len(starts) // 2
    alone = poles.play(game, programs.take([at]), starts[[start]])
    assert [array[0, 0] for array in alone] == [array[at, start] for array in together]


def test_without_a_compiler_good_networks_are_played_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The brief round for all, then the long one for those that stood."""
    monkeypatch.setattr(poles, "SHORT", 50)
    game = Game(2, DOUBLE.position, DOUBLE.scale, None, poles.FALLEN, 200)
    found = poles._play_slowly(game, neurons([[0.0] * 6, MASTER, [0.0] * 6]), START)
    assert found.steps.tolist() == [[23], [200], [23]] and found.fell.tolist() == [[True], [False], [True]]
    assert found.wobble[1] == poles._played(game, neurons([MASTER]), START, 200).wobble[0]


# ------------------------------------------------------------------------------------------------- the papers' tasks


def test_shapes_follow_the_settings() -> None:
    def inputs(settings: Any) -> tuple[int, ...]:
        shape = task.build(settings).shape()
        assert (shape.outputs, shape.kind) == (1, "control")
        return shape.input

    assert inputs(DoublePoleSettings()) == (7,) and inputs(DoublePoleSettings(bias=None)) == (6,)
    assert inputs(DoublePoleSettings(velocities=False)) == (4,)
    assert inputs(SinglePoleSettings()) == (5,) and inputs(SinglePoleSettings(velocities=False)) == (3,)
    assert inputs(CartPoleSettings()) == (4,) and inputs(CartPoleSettings(bias=1.0)) == (5,)


def test_defaults_follow_the_velocities() -> None:
    seeing, blind = DoublePoleSettings(), DoublePoleSettings(velocities=False)
    assert (seeing.fitness, seeing.limit, seeing.check) == ("steps", 100_000, "never")
    assert (blind.fitness, blind.limit, blind.check) == ("damping", 1_000, "balanced")
    assert DoublePoleSettings.model_validate(blind.model_dump()) == blind
    with pytest.raises(ValidationError, match="damping is defined over 1000 steps, limit is 500"):
        DoublePoleSettings(velocities=False, limit=500)


def test_damping_is_the_papers_formula() -> None:
    fitness = poles.damping(np.array([1_000, 100, 500]), np.array([10.0, 10.0, 20.0]))
    np.testing.assert_allclose(fitness, [0.1 + 0.9 * 0.075, 0.01, 0.05 + 0.9 * 0.0375])


def test_wobble_sums_the_last_hundred_standing_states() -> None:
    game = Game(2, DOUBLE.position, DOUBLE.scale, None, poles.FALLEN, 130)
    programs, state, sums = neurons([MASTER]), START.T, []
    stepper = Stepper(programs)
    for _ in range(130):
        state = poles.acted(game, state, stepper.step(poles.observed(game, state)))
        sums.append(np.abs(state[:4, 0]).sum())
    np.testing.assert_allclose(poles.play(game, programs, START).wobble[0, 0], sum(sums[-100:]), rtol=1e-4)


def test_the_625_starts() -> None:
    starts = poles.generalisation_starts()
    assert starts.shape == (625, 6) and len(np.unique(starts, axis=0)) == 625 and not starts[:, 4:].any()
    np.testing.assert_allclose(starts.min(axis=0)[:4], [-1.944, -1.215, -0.056548368, -0.135087768])
    np.testing.assert_allclose(starts.max(axis=0), -starts.min(axis=0), atol=1e-12)


@compiled
def test_a_good_network_is_solved_and_generalises() -> None:
    played = doubled().rollout(neurons([[0.0] * 6, MASTER]), seed=0)
    assert list(played) == ["fitness", "steps"] and played["fitness"].tolist() == [22, 100_000]
    tested = doubled().test(neurons([[0.0] * 6, MASTER]), seed=0)
    assert tested["balanced"].tolist() == tested["fitness"].tolist() == [22, 100_000]
    at_rest = 5  # of the starts need no push: the cart stands anywhere, the poles upright
    assert tested["generalises"][0] == at_rest and tested["generalises"][1] >= 200


@compiled
def test_only_the_generations_best_is_checked() -> None:
    programs = neurons([[0.0] * 6, MASTER, MASTER, [1.0] * 6])
    played = doubled(fitness="damping").rollout(programs, seed=0)
    assert played["steps"].tolist() == [22, 1_000, 1_000, played["steps"][3]]
    assert np.flatnonzero(np.isfinite(played["balanced"])).tolist() == [1]
    assert played["balanced"][1] == 100_000 and played["generalises"][1] >= 200


@compiled
def test_of_equals_one_is_checked() -> None:
    other = [weight * 1.02 for weight in MASTER]
    played = doubled(fitness="damping", checks=2).rollout(neurons([MASTER, MASTER, other, [0.0] * 6]), seed=0)
    assert played["steps"].tolist() == [1_000, 1_000, 1_000, 22]
    assert np.isfinite(played["balanced"]).tolist() == [True, False, True, False]


def test_a_best_that_falls_is_checked_only_if_the_recipe_says_so() -> None:
    programs = neurons([[0.0] * 6, [1.0] * 6])
    careful = doubled(fitness="damping").rollout(programs, seed=0)
    assert np.isnan(careful["balanced"]).all() and np.isnan(careful["generalises"]).all()
    always = doubled(fitness="damping", check="always").rollout(programs, seed=0)
    champion = int(always["fitness"].argmax())
    assert always["balanced"][champion] == always["steps"][champion] and np.isnan(always["generalises"]).all()
    assert list(doubled(fitness="damping", check="never").rollout(programs, seed=0)) == ["fitness", "steps"]


def test_networks_of_another_shape_are_refused() -> None:
    with pytest.raises(EvonasError, match="networks of 3 inputs and 1 outputs cannot play, the task gives 6 and takes"):
        doubled().rollout(neurons([[0.0] * 3]), seed=0)


def test_a_played_task_has_no_rows() -> None:
    with pytest.raises(RecipeError, match=r"no rows to train on: set estimator\.kind: population"):
        doubled().load(0)
    with pytest.raises(RecipeError, match="no test rows"):
        doubled().load_test(0)
    assert doubled().sizes(0) == {}


# ------------------------------------------------------------------------------------------------------- CartPole-v1


def rewards(environment: Any, programs: Programs, seeds: Sequence[int]) -> list[list[float]]:
    """Returns of Gymnasium's own environment, one network and episode after the other."""
    table = []
    for i in range(programs.n):
        stepper, row = Stepper(programs.take([i])), []
        for seed in seeds:
            seen, _ = environment.reset(seed=seed)
            stepper.reset()
            total, done = 0.0, False
            while not done:
                seen, reward, fell, cut, _ = environment.step(int(stepper.step(seen[None])[0, 0] > 0.5))
                total, done = total + float(reward), fell or cut
            row.append(total)
        table.append(row)
    return table


def test_cartpole_is_gymnasiums() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    environment, seeds = gymnasium.make("CartPole-v1"), list(range(4))
    tuned = [[0.0, 0.1, 1.0, 1.0], [0.1, 0.2, 1.0, 0.5], [0.0, 0.0, 1.0, 0.2]]
    programs = neurons(tuned + np.random.default_rng(5).normal(0, 2, (8, 4)).tolist())
    game = Game(0, (0, 1, 2, 3), (1.0,) * 4, None, 12 * 2 * math.pi / 360, 500)
    mine = poles.play(game, programs, poles.cartpole_starts(seeds)).steps
    assert mine.max() == 500 > mine.min()
    assert mine.tolist() == rewards(environment, programs, seeds)


def test_cartpole_states_are_gymnasiums() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    environment = gymnasium.make("CartPole-v1").unwrapped
    environment.reset(seed=7)
    state = poles.cartpole_starts([7])
    np.testing.assert_array_equal(environment.state, state[0, :4])
    game, state = Game(0, (0, 1, 2, 3), (1.0,) * 4, None, 12 * 2 * math.pi / 360, 500), state.T
    fell, steps = False, 0
    while not fell:
        action = int(environment.state[2] > 0)
        _, _, fell, _, _ = environment.step(action)
        state = poles.acted(game, state, np.array([[action]], np.float32))
        np.testing.assert_allclose(state[:4, 0], environment.state, rtol=1e-12, atol=1e-14)
        assert poles.stands(game, state)[0] != fell
        steps += 1
    assert steps > 20


def test_cartpole_equals_the_gymnasium_task_at_equal_settings() -> None:
    pytest.importorskip("gymnasium")
    programs, fields = random_neurons(6, 4, seed=5), {"episodes": 3, "test_episodes": 4}
    native_task: Any = task.build(CartPoleSettings(**fields))
    generic: Any = task.build(task.TABLE["gymnasium"](environment="CartPole-v1", **fields))
    for face in ("rollout", "test"):
        mine, other = getattr(native_task, face)(programs, 11), getattr(generic, face)(programs, 11)
        assert mine["fitness"].tolist() == other["fitness"].tolist()
        assert mine["worst"].tolist() == other["worst"].tolist()


def test_cartpole_episodes_are_named_by_the_generation() -> None:
    programs = random_neurons(20, 4, seed=5)
    fresh: Any = task.build(CartPoleSettings(episodes=2))
    fixed: Any = task.build(CartPoleSettings(episodes=2, seeds="fixed"))
    first, again, other = (fresh.rollout(programs, seed)["fitness"].tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert fixed.rollout(programs, 1)["fitness"].tolist() == fixed.rollout(programs, 2)["fitness"].tolist()


def test_two_outputs_choose_the_larger() -> None:
    nodes = [[4, 0.2, 1.0, "identity", "sum"], [5, 0.1, 1.0, "identity", "sum"]]
    left = pack(Population.of([NeatGenome.of(4, 2, True, nodes, [])]))
    always_left = neurons([[0.0] * 4], bias=0.0, activation="identity")
    two: Any = task.build(CartPoleSettings(outputs=2))
    one: Any = task.build(CartPoleSettings(outputs=1))
    assert two.rollout(left, 3)["fitness"].tolist() == one.rollout(always_left, 3)["fitness"].tolist()
