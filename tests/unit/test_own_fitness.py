"""A user's own fitness function: what it is given, and what becomes of what it returns or raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evonas import task
from evonas.core import RecipeError
from evonas.encoding.population import NeatGenome, Population
from evonas.phenotype.population import Programs, Stepper, activate, pack
from evonas.task.data import Played
from evonas.task.own import Networks

NODES = [[2, 0.5, 1.0, "identity", "sum"]]


def programs(count: int = 3, feed_forward: bool = True) -> Programs:
    """Network i gives (i + 1) * x0 + 0.5, and if recurrent its last value on top."""
    loop = [] if feed_forward else [[4, 2, 2, 1.0, True]]
    return pack(Population.of([
        NeatGenome.of(2, 1, feed_forward, NODES, [[3, 0, 2, i + 1.0, True], *loop]) for i in range(count)
    ]))  # fmt: skip


def played(folder: Path, code: str, seed: int = 1, count: int = 3, **fields: Any) -> Played:
    (folder / "mine.py").write_text(f"import random\nimport numpy as np\ndef f({code}\n")
    settings = task.TABLE["fitness"](function=f"{folder / 'mine.py'}:f", inputs=2, outputs=1, **fields)
    built: Any = task.build(settings)
    found: Played = built.rollout(programs(count), seed)
    return found


def test_the_shape_is_what_the_recipe_says() -> None:
    shape = task.build(task.TABLE["fitness"](function="math:sqrt", inputs=4, outputs=2)).shape()
    assert (shape.input, shape.outputs, shape.kind) == ((4,), 2, "control")


# ---------------------------------------------------------------------------------------------------- what it is given


def test_networks_compute_all_at_once() -> None:
    networks, x = Networks(programs(), seed=9), [[1, 0], [2, 0], [3, 7]]
    assert (len(networks), networks.inputs, networks.outputs, networks.seed) == (3, 2, 1, 9)
    np.testing.assert_allclose(networks(x)[:, :, 0], [[1.5, 2.5, 3.5], [2.5, 4.5, 6.5], [3.5, 6.5, 9.5]])
    own = np.arange(6).reshape(3, 1, 2)
    np.testing.assert_array_equal(networks(own), activate(programs(), own.astype(np.float32)))


def test_one_network_computes_rows_or_one_row() -> None:
    network = Networks(programs(), seed=9)[2]
    np.testing.assert_allclose(network([[1, 0], [2, 0]]), [[3.5], [6.5]])
    np.testing.assert_allclose(network([1, 0]), [3.5])
    assert (network.inputs, network.outputs, network.seed) == (2, 1, 9)
    assert len(Networks(programs(), 0)[1:]) == 2 and len(list(Networks(programs(), 0))) == 3
    with pytest.raises(IndexError):
        Networks(programs(), 0)[3]


def test_steps_remember_until_they_are_reset() -> None:
    networks, x = Networks(programs(2, feed_forward=False), 0), np.ones((2, 2))
    stepper = Stepper(programs(2, feed_forward=False))
    for _ in range(3):
        np.testing.assert_array_equal(networks.step(x), stepper.step(x))
    assert networks.step(x)[0, 0] == 6.0
    networks.reset()
    np.testing.assert_allclose(networks.step(x)[:, 0], [1.5, 2.5])
    one = networks[0]
    assert [float(one.step([1, 1])[0]) for _ in range(2)] == [1.5, 3.0]
    one.reset()
    assert float(one.step([1, 1])[0]) == 1.5


def test_a_network_can_be_in_several_episodes_at_once() -> None:
    networks = Networks(programs(2, feed_forward=False), 0)
    x = np.array([[[0, 0], [1, 0], [2, 0]], [[0, 0], [1, 0], [2, 0]]])
    np.testing.assert_allclose(networks.step(x)[..., 0], [[0.5, 1.5, 2.5], [0.5, 2.5, 4.5]])
    np.testing.assert_allclose(networks.step(x)[..., 0], [[1, 3, 5], [1, 5, 9]])


def test_arrays_of_another_width_are_refused() -> None:
    networks = Networks(programs(), 0)
    with pytest.raises(ValueError, match=r"networks take 2 inputs, x has shape \(1, 3\)"):
        networks([[1, 2, 3]])
    with pytest.raises(ValueError, match=r"one input for each of 3 networks, x has shape \(2, 2\)"):
        networks.step(np.zeros((2, 2)))


# -------------------------------------------------------------------------------------------------- a whole population


def test_an_array_is_the_fitness(tmp_path: Path) -> None:
    found = played(tmp_path, "networks):\n  return networks([[1, 0]])[:, 0, 0]")
    assert {name: column.tolist() for name, column in found.items()} == {"fitness": [1.5, 2.5, 3.5]}
    assert not found.failed


def test_a_dict_holds_several_values_and_arguments_arrive(tmp_path: Path) -> None:
    code = "networks, scale):\n  n = len(networks)\n  return {'fitness': [scale] * n, 'near': np.arange(n)}"
    found = played(tmp_path, code, arguments={"scale": 2})
    assert found["fitness"].tolist() == [2, 2, 2] and found["near"].tolist() == [0, 1, 2]
    assert all(column.dtype == np.float64 for column in found.values())


def test_random_draws_follow_the_generations_seed(tmp_path: Path) -> None:
    code = "networks):\n  return np.random.rand(3) + random.random() + networks.seed"
    first, again, other = (played(tmp_path, code, seed=seed)["fitness"].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("networks):\n  return np.zeros((3, 1))", r"f: fitness has shape \(3, 1\) for 3 networks: return an array of "),
        ("networks):\n  return 1.0", r"f: fitness has shape \(\) for 3 networks: return an array of shape \(3,\)"),
        ("networks):\n  return {'a': [1, 2]}", r"f: a has shape \(2,\) for 3 networks"),
        ("networks):\n  return ['x', 'y', 'z']", "f: fitness is list, not numbers"),
        ("networks):\n  return None", "f: fitness is NoneType, not numbers"),
        ("networks):\n  return 1 / 0", "f raised ZeroDivisionError: division by zero, at .*mine.py, line 4: correct"),
        ("networks, more):\n  return 1", "f raised TypeError: .*more.*: correct the function or `arguments`"),
        ("networks):\n  return networks([[1]])", "raised ValueError: networks take 2 inputs"),
    ],
)
def test_a_wrong_function_is_an_error_that_names_the_cure(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        played(tmp_path, code)


# --------------------------------------------------------------------------------------------------------- one network


def test_each_network_alone(tmp_path: Path) -> None:
    found = played(tmp_path, "network):\n  return network([1, 0])[0]", takes="network")
    assert found["fitness"].tolist() == [1.5, 2.5, 3.5]


def test_what_one_network_does_wrong_is_its_own_failure(tmp_path: Path) -> None:
    code = (
        "network):\n  y = float(network([1, 0])[0])\n  if y > 3: raise OverflowError('too large')\n"
        "  return 'high' if y > 2 else {'fitness': y, 'size': 1}"
    )
    found = played(tmp_path, code, takes="network")
    assert found["fitness"][0] == 1.5 and np.isnan(found["fitness"][1:]).all()
    assert found["size"][0] == 1 and sorted(found.failed) == [1, 2]
    assert "returned fitness 'high' (str), not a number" in found.failed[1]
    assert "raised OverflowError: too large, at" in found.failed[2]


def test_a_function_that_never_works_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"raised KeyError: 'x', at .*, for every network: correct the function"):
        played(tmp_path, "network):\n  return {}['x']", takes="network")


def test_the_test_has_another_seed(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def f(networks):\n  return [networks.seed % 1000] * len(networks)\n")
    built: Any = task.build(task.TABLE["fitness"](function=f"{tmp_path / 'own.py'}:f", inputs=2, outputs=1))
    assert (
        built.rollout(programs(), 5)["fitness"].tolist() == [5, 5, 5] != built.test(programs(), 5)["fitness"].tolist()
    )


def test_a_function_that_is_not_there(tmp_path: Path) -> None:
    def built(where: str) -> Any:
        return task.build(task.TABLE["fitness"](function=where, inputs=2, outputs=1))

    with pytest.raises(RecipeError, match=r"no file .*none\.py"):
        built(f"{tmp_path / 'none.py'}:f")
    (tmp_path / "some.py").write_text("def g(networks):\n  return [0] * len(networks)\n")
    with pytest.raises(RecipeError, match=r"has no 'f'; .*known: g"):
        built(f"{tmp_path / 'some.py'}:f").rollout(programs(), 0)
