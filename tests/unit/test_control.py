"""Gymnasium environments, played by whole populations."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evonas.core import RecipeError
from evonas.encoding.population import ACTIVATIONS, Population
from evonas.phenotype.population import Programs, pack
from evonas.task import ControlSettings, build, located
from evonas.task.control import ControlTask

gymnasium = pytest.importorskip("gymnasium", reason="needs pip install 'evonas[control]'")
spaces = gymnasium.spaces

SEED = 5


def linear(weights: NDArray[np.float64], biases: NDArray[np.float64], *, loop: float | None = None) -> Programs:
    """Networks without hidden nodes, outputs = weights^T x + bias: (n, inputs, outputs), (n, outputs). With `loop` they
    are recurrent, each output fed with itself by that weight."""
    n, inputs, outputs = weights.shape
    source, target = (
        grid.ravel() for grid in np.meshgrid(range(inputs), range(inputs, inputs + outputs), indexing="ij")
    )
    if loop is not None:
        own = np.arange(inputs, inputs + outputs)
        source, target = np.append(source, own), np.append(target, own)
        weights = np.concatenate([weights.reshape(n, -1), np.full((n, outputs), loop)], axis=1)
    links = len(source)
    population = Population(
        inputs=inputs,
        outputs=outputs,
        feed_forward=loop is None,
        node_offsets=np.arange(n + 1) * outputs,
        node_mark=np.tile(np.arange(inputs, inputs + outputs), n),
        bias=biases.ravel(),
        response=np.ones(n * outputs),
        activation=np.full(n * outputs, ACTIVATIONS.index("identity")),
        aggregation=np.zeros(n * outputs),
        link_offsets=np.arange(n + 1) * links,
        link_mark=np.tile(np.arange(links) + inputs + outputs, n),
        source=np.tile(source, n),
        target=np.tile(target, n),
        weight=weights.ravel(),
        enabled=np.ones(n * links),
    )
    return pack(population)


def constant(values: Sequence[Sequence[float]], inputs: int) -> Programs:
    """Networks that say the same whatever they see: values (n, outputs)."""
    biases = np.array(values, dtype=np.float64)
    return linear(np.zeros((len(biases), inputs, biases.shape[1])), biases)


def random_networks(task: ControlTask, n: int) -> Programs:
    random, shape = np.random.default_rng(1), task.shape()
    return linear(random.normal(size=(n, shape.input[0], shape.outputs)), random.normal(size=(n, shape.outputs)))


def task_of(environment: str, **settings: Any) -> ControlTask:
    made = build(ControlSettings(environment=environment, **settings))
    assert isinstance(made, ControlTask)
    return made


def here(name: str) -> str:
    return f"{__name__}:{name}"


# ----------------------------------------------------------------------------------------- environments of these tests


class Counting(gymnasium.Env[Any, Any]):
    """Rewards 1 a step until its length, which the seed decides; observes the step's number."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.length, self.now = int(self.np_random.integers(2, 9)), 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert self.now < self.length, "stepped beyond its end"
        self.now += 1
        return self._seen(), self.rewarded(action), self.now == self.length, False, {}

    def rewarded(self, action: Any) -> float:
        return 1.0

    def _seen(self) -> Any:
        return np.array([self.now], dtype=np.float32)


class Acting(Counting):
    """Rewards with its action's first number, in any space."""

    def __init__(self, space: Any) -> None:
        self.action_space = space

    def rewarded(self, action: Any) -> float:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        return float(np.ravel(action)[0])


class Echo(Counting):
    """Rewards with the action, a number from -10 to 10."""

    action_space = spaces.Box(-10, 10, (1,), np.float32)

    def rewarded(self, action: Any) -> float:
        return float(action[0])


class Raising(Counting):
    """Raises at the second step of action 1."""

    def rewarded(self, action: Any) -> float:
        if action == 1 and self.now == 2:
            raise RuntimeError("the physics broke")
        return 1.0


class Unbounded(Counting):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Endless(Counting):
    """Pays infinitely."""

    def rewarded(self, action: Any) -> float:
        return float("inf") if action == 1 else 1.0


class Misshapen(Counting):
    """Observes other than its space says."""

    def _seen(self) -> Any:
        return np.zeros(3)


class Outdated(Counting):
    """Has the interface of old."""

    def step(self, action: Any) -> Any:
        return self._seen(), 1.0, True, {}


class Dying(Counting):
    """Ends its whole process at action 1."""

    def rewarded(self, action: Any) -> float:
        if action == 1:
            import os

            os._exit(9)
        return 1.0


class Seeing(Counting):
    """Observes anything from a space."""

    def __init__(self, space: Any) -> None:
        self.observation_space = space

    def _seen(self) -> Any:
        return self.observation_space.sample()


def choices() -> Acting:
    return Acting(spaces.MultiDiscrete([3, 2], start=[4, 0]))


def switches() -> Acting:
    return Acting(spaces.MultiBinary(2))


def offset() -> Acting:
    return Acting(spaces.Discrete(3, start=-1))


def joints() -> Acting:
    return Acting(spaces.Box(np.array([-2.0, 0.0]), np.array([6.0, 1.0]), dtype=np.float64))


def notches() -> Acting:
    return Acting(spaces.Box(0, 10, (1,), np.int64))


def sees_one_of_three() -> Seeing:
    return Seeing(spaces.Discrete(3, start=5))


def sees_both() -> Seeing:
    return Seeing(spaces.Dict({"a": spaces.Box(-1, 1, (2, 2)), "b": spaces.Discrete(3)}))


def sees_graphs() -> Seeing:
    return Seeing(spaces.Graph(spaces.Box(0, 1, (1,)), None))


def sees_a_screen() -> Seeing:
    return Seeing(spaces.Box(0, 255, (210, 160, 3), np.uint8))


# -------------------------------------------------------------------------------------------------------------- play


def alone(environment: Any, seed: int, act: Any) -> tuple[float, int]:
    """Return and length of one episode, played step by step."""
    observation, _ = environment.reset(seed=seed)
    total, steps, over = 0.0, 0, False
    while not over:
        observation, reward, terminated, truncated, _ = environment.step(act(observation))
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    return total, steps


@pytest.mark.parametrize("environment", ["CartPole-v1", "Acrobot-v1", "LunarLander-v3"])
def test_returns_are_those_of_every_network_alone(environment: str) -> None:
    if environment == "LunarLander-v3":
        pytest.importorskip("Box2D", reason="needs pip install 'evonas[control]'")
    task = task_of(environment, episodes=2, actions="argmax", max_steps=120)
    n, (inputs,), outputs = 4, task.shape().input, task.shape().outputs
    random = np.random.default_rng(0)
    weights, biases = random.normal(size=(n, inputs, outputs)), random.normal(size=(n, outputs))
    seeds: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        from evonas.task import control

        starts = control._starts
        patch.setattr(control, "_starts", lambda *given: seeds.extend(starts(*given)) or starts(*given))
        played = task.rollout(linear(weights, biases), SEED)
    single = gymnasium.make(environment, max_episode_steps=120)
    assert len(seeds) == 2
    for i in range(n):

        def act(seen: Any, i: int = i) -> int:
            return int((seen.astype(np.float64) @ weights[i] + biases[i]).argmax())

        games = [alone(single, seed, act) for seed in seeds]
        assert played["fitness"][i] == pytest.approx(np.mean([total for total, _ in games]), abs=1e-9)
        assert played["worst"][i] == pytest.approx(min(total for total, _ in games), abs=1e-9)
        assert played["steps"][i] == np.mean([steps for _, steps in games])


def test_episodes_end_once_and_are_the_same_for_all_individuals() -> None:
    played = task_of(here("Counting"), episodes=6).rollout(constant([[0.0], [1.0], [0.3]], 1), SEED)
    assert len(set(played["fitness"])) == 1  # the seeds alone decide the lengths
    assert played["fitness"].tolist() == played["steps"].tolist()
    assert 2 <= played["worst"][0] < played["fitness"][0]


def test_seeds_of_generations_differ_unless_they_are_fixed() -> None:
    networks = constant([[0.0]], 1)
    free, fixed = task_of(here("Counting"), episodes=4), task_of(here("Counting"), episodes=4, seeds="fixed")
    assert len({float(free.rollout(networks, seed)["fitness"][0]) for seed in range(8)}) > 1
    assert len({float(fixed.rollout(networks, seed)["fitness"][0]) for seed in range(8)}) == 1
    assert free.rollout(networks, 3) == free.rollout(networks, 3)


def test_a_second_game_is_as_the_first_though_environments_are_used_again() -> None:
    pytest.importorskip("Box2D", reason="needs pip install 'evonas[control]'")
    task = task_of("LunarLander-v3", max_steps=60)
    networks = random_networks(task, 6)
    first, other, again = task.rollout(networks, 1), task.rollout(networks, 2), task.rollout(networks, 1)
    assert first["fitness"].tolist() == again["fitness"].tolist() != other["fitness"].tolist()


def test_processes_and_parts_play_the_same_games() -> None:
    task, helped = task_of("CartPole-v1", episodes=3), task_of("CartPole-v1", episodes=3, workers=2)
    networks = random_networks(task, 30)
    expected = task.rollout(networks, SEED)
    assert len(set(expected["fitness"])) > 5
    try:
        for _ in range(2):
            played = helped.rollout(networks, SEED)
            assert {name: value.tolist() for name, value in played.items()} == {
                name: value.tolist() for name, value in expected.items()
            }
    finally:
        helped.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evonas.task.control.LANES", 12)
        assert task.rollout(networks, SEED)["fitness"].tolist() == expected["fitness"].tolist()


def test_an_environment_of_many_is_stepped_as_one() -> None:
    task = task_of("CartPole-v1", vector=True, episodes=2)
    networks = random_networks(task, 20)
    played = task.rollout(networks, SEED)
    assert played["fitness"].tolist() == played["steps"].tolist() == task.rollout(networks, SEED)["fitness"].tolist()
    assert (played["worst"] >= 8).all()  # no episode of CartPole is shorter
    balanced = linear(np.array([[[0.1], [0.5], [4.0], [1.0]]]), np.array([[0.5]]))
    assert task.rollout(balanced, SEED)["worst"][0] == 500


def test_recurrent_networks_begin_every_episode_at_rest() -> None:
    counted = linear(np.zeros((1, 1, 1)), np.array([[1.0]]), loop=1.0)  # gives 1, 2, 3 ...
    task = task_of(here("Echo"), output_range=(-10, 10), episodes=5)
    played = task.rollout(counted, SEED)
    for _ in range(2):
        assert task.rollout(counted, SEED)["fitness"].tolist() == played["fitness"].tolist()
    length = task.rollout(constant([[1.0]], 1), SEED)["worst"][0]
    assert played["worst"][0] == pytest.approx(length * (length + 1) / 2)


def test_the_test_has_starts_of_its_own() -> None:
    task = task_of(here("Counting"), test_episodes=40)
    tested = task.test(constant([[0.0], [1.0]], 1), SEED)
    assert tested["worst"].tolist() == [2.0, 2.0] and 4 < tested["fitness"][0] < 7
    assert tested["fitness"][0] == task.test(constant([[0.0]], 1), SEED)["fitness"][0]


def test_fitness_may_be_the_lowest_or_the_middle_return() -> None:
    networks = constant([[0.0]], 1)
    by = {
        kind: task_of(here("Counting"), episodes=5, reward=kind).rollout(networks, SEED) for kind in ("min", "median")
    }
    assert by["min"]["fitness"][0] == by["min"]["worst"][0]
    assert by["median"]["fitness"][0] == int(by["median"]["fitness"][0]) >= by["min"]["worst"][0]


# ------------------------------------------------------------------------------------------------------------ spaces


def reward_a_step(task: ControlTask, outputs: Sequence[Sequence[float]]) -> list[float]:
    played = task.rollout(constant(outputs, task.shape().input[0]), SEED)
    assert not played.failed
    return (played["fitness"] / played["steps"]).tolist()


@pytest.mark.parametrize(
    ("name", "settings", "outputs", "expected"),
    [
        ("offset", {}, [[3, 1, 2], [1, 3, 2], [1, 2, 3]], [-1, 0, 1]),
        ("choices", {}, [[0, 0, 9, 1, 0], [5, 4, 3, 0, 1]], [6, 4]),
        ("switches", {}, [[0.4, 0.9], [0.6, 0.0]], [0, 1]),
        ("joints", {}, [[0.0, 0.5], [0.25, 9], [1.5, 0]], [-2, 0, 6]),
        ("joints", {"output_range": (-1, 1)}, [[0.0, 0], [-1, 0], [7, 0]], [2, -2, 6]),
        ("notches", {}, [[0.52], [0.58]], [5, 6]),
    ],
)
def test_outputs_become_actions(name: str, settings: Any, outputs: Any, expected: list[float]) -> None:
    task = task_of(here(name), **settings)
    assert task.shape().outputs == len(outputs[0])
    assert reward_a_step(task, outputs) == pytest.approx(expected)


def test_two_actions_share_one_output_unless_asked_otherwise() -> None:
    assert task_of("CartPole-v1").shape().outputs == 1
    assert task_of("CartPole-v1", actions="argmax").shape().outputs == 2
    assert task_of("CartPole-v1").shape().kind == "control"


@pytest.mark.parametrize(("name", "size"), [("sees_one_of_three", 3), ("sees_both", 7)])
def test_observations_are_flattened(name: str, size: int) -> None:
    task = task_of(here(name))
    assert task.shape().input == (size,)
    assert (task.rollout(constant([[0.0]], size), SEED)["fitness"] >= 2).all()


def test_one_hot_observations_have_one_one() -> None:
    from evonas.task.control import senses

    read = senses(spaces.Discrete(3, start=5), ControlSettings(environment="any")).read
    assert read([5, 7]).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_observations_are_scaled() -> None:
    ramp = linear(np.array([[[1.0]]]), np.array([[0.0]]))
    plain, scaled = (task_of(here("Echo"), output_range=(-10, 10), **kind) for kind in ({}, {"scale": (0.5,)}))
    assert scaled.rollout(ramp, SEED)["fitness"][0] == pytest.approx(plain.rollout(ramp, SEED)["fitness"][0] / 2)


# ---------------------------------------------------------------------------------------------------------- failures


def test_an_environment_that_raises_fails_its_individual_alone() -> None:
    task = task_of(here("Raising"), episodes=3)
    for _ in range(2):
        played = task.rollout(constant([[0.0], [1.0], [0.2]], 1), SEED)
        assert dict(played.failed) == {1: "the environment raised RuntimeError: the physics broke"}
        assert np.isnan(played["fitness"]).tolist() == [False, True, False]
        assert played["fitness"][0] == played["steps"][0]


def test_an_environment_that_contradicts_itself_is_named() -> None:
    with pytest.raises(RecipeError, match="not what its observation_space says"):
        task_of(here("Misshapen")).rollout(constant([[0.0]], 1), SEED)
    played = task_of(here("Outdated")).rollout(constant([[0.0]], 1), SEED)
    assert "not enough values to unpack" in played.failed[0]


def test_what_is_not_finite_fails() -> None:
    task = task_of(here("Endless"))
    played = task.rollout(constant([[0.0], [1.0], [np.nan]], 1), SEED)
    assert set(played.failed) == {1, 2}
    assert "return is inf" in played.failed[1] and "output of its network is not finite" in played.failed[2]


def test_a_process_that_dies_costs_only_who_killed_it() -> None:
    task = task_of(here("Dying"), workers=2)
    try:
        played = task.rollout(constant([[0.0]] * 9 + [[1.0]] + [[0.0]] * 6, 1), SEED)
    finally:
        task.close()
    assert dict(played.failed) == {9: "its environment's process ended with exit code 9"}
    assert len(set(np.delete(played["fitness"], 9))) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment": "CartPoel-v1"}, "CartPoel-v1' .*did you mean 'CartPole-v1'"),
        ({"environment": "CartPole-v7"}, "CartPole-v7' .*did you mean 'CartPole-v"),
        ({"environment": "Nothing/Of-v0"}, "pprint_registry"),
        ({"environment": "no_such_package:Name-v0"}, "no_such_package"),
        ({"environment": "CartPole-v1", "arguments": {"gravitas": 1}}, "correct task.arguments"),
        ({"environment": here("sees_graphs")}, r"observes Graph.*fits no network: wrap it"),
        ({"environment": here("sees_a_screen")}, r"observes Box.*1 to 10,000 numbers"),
        ({"environment": here("Unbounded")}, "lowest and a highest"),
        ({"environment": here("alone")}, "correct task.arguments"),
        ({"environment": here("Nothing")}, "has no 'Nothing'"),
        ({"environment": here("here"), "arguments": {"name": "x"}}, "makes a str: name what makes a gymnasium.Env"),
        ({"environment": "CartPole-v1", "scale": (1.0, 2.0)}, "scale has 2 factors.*observes 4 numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_played_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        task_of(**settings).shape()


def test_an_environment_without_a_limit_is_refused() -> None:
    gymnasium.register("evonas/Counting-v0", Counting)
    try:
        with pytest.raises(RecipeError, match=r"no limit of steps: set task\.max_steps"):
            task_of("evonas/Counting-v0").shape()
        assert task_of("evonas/Counting-v0", max_steps=2).rollout(constant([[0.0]], 1), SEED)["steps"][0] == 2
    finally:
        del gymnasium.registry["evonas/Counting-v0"]


def test_a_form_for_many_that_is_not_there_is_refused() -> None:
    task = task_of("Acrobot-v1", vector=True)
    with pytest.raises(RecipeError, match=r"many at once.*leave task\.vector out"):
        task.rollout(random_networks(task, 2), SEED)


def test_networks_of_another_shape_are_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"networks of 3 inputs and 1 outputs cannot play 'CartPole-v1'.*needs 4 and 1"
    ):
        task_of("CartPole-v1").rollout(constant([[0.0]], 3), SEED)


def test_an_empty_output_range_is_refused() -> None:
    with pytest.raises(ValueError, match="give the lower number first"):
        ControlSettings(environment="Pendulum-v1", output_range=(1, 0))


def test_an_environment_of_many_is_not_divided_among_processes() -> None:
    with pytest.raises(ValueError, match="workers is 2: leave one of them out"):
        ControlSettings(environment="CartPole-v1", vector=True, workers=2)


def test_an_environment_of_your_own_is_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import gymnasium\ndef make(length):\n    return gymnasium.make('CartPole-v1', max_episode_steps=length)\n"
    )
    settings = ControlSettings(environment="own.py:make", arguments={"length": 9})
    played = ControlTask(located(settings, tmp_path)).rollout(constant([[0.0]], 4), SEED)
    assert 8 <= played["steps"][0] <= 9


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "from evonas.task import ControlSettings, build\n"
        "build(ControlSettings(environment='CartPole-v1')).shape()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "RecipeError" in done.stderr and "pip install 'evonas[control]'" in done.stderr


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; from evonas.task import ControlSettings, build\n"
        "build(ControlSettings(environment='CartPole-v1'))\n"
        "assert not {'gymnasium', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
