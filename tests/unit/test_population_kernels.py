"""The ways without a C compiler give what each network gives alone: numba's tiles and steps, torch's merged levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evonas.encoding.population import ACTIVATIONS, AGGREGATIONS, Population
from evonas.phenotype import population_torch
from evonas.phenotype.merged import merge
from evonas.phenotype.population import pack
from tests.unit.networks import activation, aggregate, alone, grown

pytest.importorskip("numba")
from evonas.phenotype import population_numba

WAYS = pytest.mark.parametrize("way", [population_numba, population_torch], ids=["numba", "torch"])
TAME = tuple(name for name in ACTIVATIONS if name not in ("inv", "exp", "cube", "square", "log"))


def expected(population: Population, x: np.ndarray[Any, Any], steps: int = 0) -> np.ndarray[Any, Any]:
    own = [
        torch.tensor(x if x.ndim == (3 if steps else 2) else x[i], dtype=torch.float64) for i in range(len(population))
    ]
    return np.stack([alone(population, i, one, steps).numpy() for i, one in enumerate(own)])


@WAYS
@pytest.mark.parametrize("batch", [1, 16, 64, 100])
def test_many_inputs(way: Any, batch: int) -> None:
    population = grown(12, activations=TAME, aggregations=AGGREGATIONS[:1], seed=batch)
    programs = pack(population)
    x = np.random.default_rng(1).normal(size=(batch, 8)).astype("f4")
    assert way.activate(programs, x) == pytest.approx(expected(population, x), abs=1e-4)
    own = np.random.default_rng(2).normal(size=(12, batch, 8)).astype("f4")
    assert way.activate(programs, own) == pytest.approx(expected(population, own), abs=1e-4)


@WAYS
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(way: Any, name: str) -> None:
    population = one_node(name, "sum", 1)
    x = np.concatenate([np.linspace(-14, 14, 257), [0.0, 1e-9, -1e-9, 30, -30]]).astype("f4")[:, None]
    made = way.activate(pack(population), x)[0, :, 0]
    assert made == pytest.approx(
        activation(name, torch.tensor(x[:, 0], dtype=torch.float64)).numpy(), rel=1e-5, abs=1e-5
    )


@WAYS
@pytest.mark.parametrize("links", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_every_aggregation(way: Any, name: str, links: int) -> None:
    population = one_node("identity", name, links)
    x = np.random.default_rng(links).normal(size=(20, max(1, links))).astype("f4")
    terms = [torch.tensor(x[:, i], dtype=torch.float64) for i in range(links)]
    made = way.activate(pack(population), x)[0, :, 0]
    assert made == pytest.approx(aggregate(name, terms, torch.zeros(20, dtype=torch.float64)).numpy(), abs=1e-5)


def one_node(activation_name: str, aggregation_name: str, links: int) -> Population:
    inputs = max(1, links)
    edges = np.arange(links)
    return Population(
        inputs=inputs, outputs=1, feed_forward=True,
        node_offsets=np.array([0, 1]), node_mark=np.array([inputs]), bias=np.zeros(1), response=np.ones(1),
        activation=np.array([ACTIVATIONS.index(activation_name)]),
        aggregation=np.array([AGGREGATIONS.index(aggregation_name)]),
        link_offsets=np.array([0, links]), link_mark=edges + inputs + 1, source=edges, target=np.full(links, inputs),
        weight=np.ones(links), enabled=np.ones(links),
    )  # fmt: skip


@WAYS
def test_recurrent_sequence(way: Any) -> None:
    population = grown(10, 3, 2, splits=6, links=9, activations=("tanh", "sigmoid"), feed_forward=False, seed=3)
    x = np.random.default_rng(1).normal(size=(5, 20, 3)).astype("f4")
    made = way.sequence(pack(population), x)
    assert made == pytest.approx(expected(population, x, 5), abs=1e-4)
    own = np.repeat(x[None], 10, 0)
    assert way.sequence(pack(population), own) == pytest.approx(made, abs=1e-6)


@WAYS
@pytest.mark.parametrize("feed_forward", [True, False])
@pytest.mark.parametrize("copies", [1, 3])
def test_steps_are_a_sequence(way: Any, feed_forward: bool, copies: int) -> None:
    population = grown(
        130, 3, 2, splits=6, links=9, activations=("tanh", "gauss"), aggregations=("sum", "max", "median"),
        feed_forward=feed_forward, seed=4,
    )  # fmt: skip
    programs = pack(population)
    x = np.random.default_rng(1).normal(size=(130, 4, copies, 3)).astype("f4")
    stepper = way.Stepper(programs, copies=copies)
    made = np.stack([stepper.step(x[:, t].reshape(-1, 3)).copy() for t in range(4)], 1)
    sequence = way.sequence(programs, x).transpose(0, 2, 1, 3).reshape(-1, 4, 2)
    assert made == pytest.approx(sequence, abs=1e-5)
    stepper.reset(np.array([0, 5]))
    again = stepper.step(x[:, 0].reshape(-1, 3)).copy()
    assert again[[0, 5]] == pytest.approx(made[[0, 5], 0], abs=1e-6)
    if not feed_forward:
        assert np.abs(again - made[:, 0]).max() > 1e-3


@WAYS
def test_several_activations_per_step(way: Any) -> None:
    programs = pack(grown(9, 3, 2, splits=6, links=9, activations=("tanh",), feed_forward=False))
    x = np.random.default_rng(1).normal(size=(9, 3)).astype("f4")
    once = way.Stepper(programs)
    once.step(x)
    assert way.Stepper(programs, activations=2).step(x) == pytest.approx(once.step(x), abs=1e-6)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population_numba, "CHUNK", 16)
    programs = pack(grown(200))
    x = np.random.default_rng(1).normal(size=(64, 8)).astype("f4")
    whole = population_numba.activate(programs, x)
    assert (population_numba.activate(programs, x, threads=3) == whole).all()
    one, many = population_numba.Stepper(programs), population_numba.Stepper(programs, threads=2)
    rows = np.random.default_rng(2).normal(size=(200, 8)).astype("f4")
    assert (one.step(rows) == many.step(rows)).all()


@WAYS
def test_nan_stays_with_its_network(way: Any) -> None:
    population = grown(6, activations=("identity", "relu", "tanh"))
    weight = population.weight.copy()
    weight[int(population.link_offsets[2]) : int(population.link_offsets[3])] = np.nan
    arrays = {name: getattr(population, name) for name in Population.__dataclass_fields__}
    broken = way.activate(pack(Population(**{**arrays, "weight": weight})), np.ones((20, 8), dtype="f4"))
    whole = way.activate(pack(population), np.ones((20, 8), dtype="f4"))
    assert np.isnan(broken[2]).any()
    assert (np.delete(broken, 2, 0) == np.delete(whole, 2, 0)).all()


def test_merged_graph_holds_every_node_and_link_once() -> None:
    programs = pack(grown(20))
    for copies, chunk in ((0, 0), (1, 0), (1, 8)):
        graph = merge(programs, copies, chunk)
        assert sorted(graph.order) == list(range(len(programs.bias)))
        assert sorted(graph.links) == list(range(len(programs.link_slot)))
        assert (graph.runs[1:, 3] == graph.runs[:-1, 4]).all()
        place = np.repeat(np.arange(len(graph.order)), np.diff(graph.start))
        assert (graph.source < graph.base + place).all(), "a link reads what is computed before"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same() -> None:
    programs = pack(grown(50))
    x = np.random.default_rng(1).normal(size=(64, 8)).astype("f4")
    there = population_torch.activate(programs, x, device="cuda")
    assert there == pytest.approx(population_torch.activate(programs, x), abs=1e-4)
