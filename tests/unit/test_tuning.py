"""Gradient steps of whole populations against each network alone by float64 autograd."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from evonas import native
from evonas.core import DataError, RecipeError
from evonas.encoding.population import ACTIVATIONS, AGGREGATIONS, Population
from evonas.phenotype.population import pack
from evonas.phenotype.tuning import chosen_kernel, fit
from tests.unit.networks import genes_of, grown, run

KERNELS = ["torch", *(["c"] if native.library("tuning") is not None else [])]
WAYS = pytest.mark.parametrize("kernel", KERNELS)
SMALL = {"inputs": 3, "outputs": 2, "splits": 5, "links": 4}


def data(samples: int, loss: str = "mse", seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(samples, 3))
    if loss == "cross_entropy":
        return x, random.integers(0, 2, samples)
    return x, random.uniform(0.1, 0.9, size=(samples, 2))


def measured(loss: str, made: torch.Tensor, y: Any) -> torch.Tensor:
    wanted = torch.as_tensor(y)
    if loss == "mse":
        return torch.nn.functional.mse_loss(made, wanted)
    if loss == "bce":
        return torch.nn.functional.binary_cross_entropy(made, wanted)
    return torch.nn.functional.cross_entropy(made, wanted)


def slopes_alone(population: Population, index: int, x: Any, y: Any, loss: str) -> dict[str, np.ndarray[Any, Any]]:
    genes = {name: values.requires_grad_() for name, values in genes_of(population, index).items()}
    measured(loss, run(population, index, genes, torch.as_tensor(x)), y).backward()
    return {name: (torch.zeros_like(v) if v.grad is None else v.grad).numpy() for name, v in genes.items()}


def slopes(population: Population, x: Any, y: Any, loss: str, kernel: Any) -> Population:
    """Genes that hold gradients: what one SGD step of rate 1 moves them by, from numbers that float32 holds."""
    tuned, _ = fit(
        population, pack(population), x, y, steps=1, lr=1.0, optimizer="sgd", loss=loss, responses=True, kernel=kernel
    )  # type: ignore[arg-type]
    moved = {name: getattr(population, name) - getattr(tuned, name) for name in ("weight", "bias", "response")}
    return dataclasses.replace(population, **moved)


def rounded(population: Population) -> Population:
    """Genes that float32 holds exactly."""
    return dataclasses.replace(
        population,
        **{name: getattr(population, name).astype("f4").astype("f8") for name in ("weight", "bias", "response")},
    )


def gentle(population: Population) -> Population:
    """Weights and biases that keep nodes from saturating or exploding, where float32 has no gradient to compare."""
    return rounded(dataclasses.replace(population, weight=population.weight * 0.4, bias=population.bias * 0.4))


def assert_slopes(population: Population, samples: int, loss: str, kernel: str, share: float = 1.0) -> None:
    x, y = data(samples, loss)
    made = slopes(population, x.astype("f4"), y, loss, kernel)
    good = 0
    for index in range(len(population)):
        wanted = slopes_alone(population, index, x.astype("f4").astype("f8"), y, loss)
        near = [genes_of(made, index)[name].numpy() - wanted[name] for name in ("weight", "bias", "response")]
        size = 1 + max(np.abs(values).max(initial=0) for values in wanted.values())
        good += max(np.abs(values).max(initial=0) for values in near) < 2e-5 * size
    assert good >= share * len(population)


@WAYS
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("samples", [4, 64, 100])
def test_gradients(kernel: str, loss: str, samples: int) -> None:
    assert_slopes(rounded(grown(10, **SMALL, seed=samples)), samples, loss, kernel)


@WAYS
def test_gradients_of_binary_cross_entropy(kernel: str) -> None:
    assert_slopes(gentle(grown(10, **SMALL, activations=("sigmoid",), seed=1)), 20, "bce", kernel)


@WAYS
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_of_every_activation(kernel: str, name: str) -> None:
    population = gentle(grown(12, **SMALL, activations=("tanh", "identity", name), seed=2))
    # by chance a sample stands near a pole, or a cube of cubes leaves the range where float32 can be compared
    assert_slopes(population, 16, "mse", kernel, 0.7 if name in ("inv", "log", "cube") else 1.0)


@WAYS
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_gradients_of_every_aggregation(kernel: str, name: str) -> None:
    population = grown(8, **SMALL, activations=("tanh", "gauss"), aggregations=(name, "sum"), seed=3)
    assert_slopes(rounded(population), 20, "mse", kernel)


@pytest.mark.skipif(len(KERNELS) < 2, reason="needs a C compiler")
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_both_ways_agree(optimizer: Any) -> None:
    population = grown(12, **SMALL, activations=("tanh", "sigmoid"), seed=5)
    x, y = data(90)
    made = [
        fit(population, pack(population), x, y, steps=20, batch=32, optimizer=optimizer, kernel=kernel, seed=3)  # type: ignore[arg-type]
        for kernel in KERNELS
    ]
    assert made[0][0].weight == pytest.approx(made[1][0].weight, abs=2e-4)
    assert made[0][1] == pytest.approx(made[1][1], abs=1e-4)


@WAYS
def test_adam_is_torchs(kernel: Any) -> None:
    population = rounded(grown(3, **SMALL, activations=("tanh",), seed=6))
    x, y = data(30)
    tuned, losses = fit(population, pack(population), x, y, steps=15, lr=0.02, kernel=kernel)
    for index in range(3):
        genes = genes_of(population, index)
        leaves = [genes[name].requires_grad_() for name in ("weight", "bias")]
        adam = torch.optim.Adam(leaves, lr=0.02)
        for _ in range(15):
            adam.zero_grad()
            measured("mse", run(population, index, genes, torch.as_tensor(x)), y).backward()
            for leaf in leaves:
                leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            adam.step()
        assert genes_of(tuned, index)["bias"].numpy() == pytest.approx(genes["bias"].detach().numpy(), abs=1e-3)
        last = measured("mse", run(population, index, genes, torch.as_tensor(x)), y)
        assert losses[index] == pytest.approx(last.item(), abs=1e-4)


@WAYS
def test_it_learns_xor(kernel: Any) -> None:
    population = grown(20, 2, 1, splits=4, links=3, activations=("tanh", "sigmoid"), seed=7)
    x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    _, before = fit(population, pack(population), x, y, steps=0, kernel=kernel)
    _, after = fit(population, pack(population), x, y, steps=300, lr=0.05, kernel=kernel)
    assert np.median(after) < 0.5 * np.median(before), "the optimum without the right hidden nodes is 0.25 or 0.125"
    assert after.min() < 1e-3


@WAYS
def test_a_network_that_is_not_finite_keeps_its_genes(kernel: Any) -> None:
    population = grown(6, **SMALL, activations=("tanh", "identity"), seed=8)
    weight, activation = population.weight.copy(), population.activation.copy()
    own = slice(int(population.link_offsets[2]), int(population.link_offsets[3]))
    weight[own] = 1e30
    activation[int(population.node_offsets[2]) : int(population.node_offsets[3])] = ACTIVATIONS.index("identity")
    broken = dataclasses.replace(population, weight=weight, activation=activation)
    x, y = data(40)
    tuned, losses = fit(broken, pack(broken), x, y, steps=5, kernel=kernel)
    assert np.isnan(losses[2]) and np.isfinite(np.delete(losses, 2)).all()
    assert (tuned.weight[own] == weight[own]).all()
    whole, _ = fit(population, pack(population), x, y, steps=5, kernel=kernel)
    others = np.delete(np.arange(len(weight)), np.r_[own])
    assert tuned.weight[others] == pytest.approx(whole.weight[others], abs=1e-6)


@WAYS
def test_a_network_that_diverges_keeps_its_last_finite_genes(kernel: Any) -> None:
    population = grown(4, **SMALL, activations=("identity",), seed=9)
    x, y = data(40)
    tuned, losses = fit(population, pack(population), x, y, steps=400, lr=20.0, optimizer="sgd", kernel=kernel)
    assert np.isnan(losses).all()
    assert np.isfinite(tuned.weight).all() and np.isfinite(tuned.bias).all()
    assert (tuned.weight != population.weight).any()


@WAYS
def test_no_steps_change_no_bit(kernel: Any) -> None:
    population = grown(5, **SMALL)
    x, y = data(30)
    tuned, losses = fit(population, pack(population), x, y, steps=0, kernel=kernel)
    assert (tuned.weight == population.weight).all() and (tuned.bias == population.bias).all()
    assert np.isfinite(losses).all()


@pytest.mark.skipif(len(KERNELS) < 2, reason="needs a C compiler")
def test_threads_change_nothing() -> None:
    population = grown(40, **SMALL)
    x, y = data(100)
    one, many = (fit(population, pack(population), x, y, steps=9, batch=32, threads=n, kernel="c") for n in (1, 2))
    assert (one[0].weight == many[0].weight).all() and (one[1] == many[1]).all()


def test_bad_input() -> None:
    population = grown(2, **SMALL)
    programs = pack(population)
    x, y = data(10)
    with pytest.raises(DataError, match=r"inputs have shape \(10, 2\).*3"):
        fit(population, programs, x[:, :2], y, steps=1)
    with pytest.raises(DataError, match="targets have shape"):
        fit(population, programs, x, y[:5], steps=1)
    with pytest.raises(DataError, match=r"classes must be whole numbers 0 \.\. 1"):
        fit(population, programs, x, np.full(10, 2), steps=1, loss="cross_entropy")
    with pytest.raises(RecipeError, match="'huber' is not known; known: mse"):
        fit(population, programs, x, y, steps=1, loss="huber")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="rate 0"):
        fit(population, programs, x, y, steps=1, lr=0)
    recurrent = grown(2, **SMALL, feed_forward=False)
    with pytest.raises(RecipeError, match="feed-forward"):
        fit(recurrent, pack(recurrent), x, y, steps=1)
    with pytest.raises(RecipeError, match="known: auto, c, torch"):
        chosen_kernel("numba")  # type: ignore[arg-type]
