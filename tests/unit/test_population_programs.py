"""Packed programs and their kernels, against genes read naively in float64 and against neat-python's networks."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.core import DataError, RecipeError
from evonas.encoding.population import ACTIVATIONS, AGGREGATIONS, Population
from evonas.phenotype import population as room
from evonas.phenotype.population import (
    Programs,
    Stepper,
    activate,
    chosen_kernel,
    pack,
    reference,
    reference_sequence,
    sequence,
)
from tests.populations import CALM, SIX, grown, neat_networks

compiled = pytest.mark.skipif(chosen_kernel() != "c", reason="needs a C compiler")
KERNELS = [
    pytest.param("c", marks=compiled),
    pytest.param("numba", marks=pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="needs numba")),
    "torch",
    "numpy",
]
TOLERANCE = 1e-5
"""Of float32 kernels against float64, absolute or relative, on networks without chains of sines."""


def same(a: Programs, b: Programs) -> None:
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert np.array_equal(one, other), field.name
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None), field.name


def error(made: Any, true: Any) -> float:
    assert made.shape == true.shape and made.dtype == np.float32
    return float(np.max(np.abs(made - true) / np.maximum(1, np.abs(true))))


def single(
    nodes: list[tuple[str, str, float]],
    links: list[tuple[int, int, float]],
    inputs: int = 1,
    outputs: int = 1,
    feed_forward: bool = False,
) -> Population:
    """One genome: nodes (activation, aggregation, bias) from mark `inputs` on, links (source, target, weight)."""
    return Population(
        inputs=inputs,
        outputs=outputs,
        feed_forward=feed_forward,
        node_offsets=np.array([0, len(nodes)]),
        node_mark=np.arange(inputs, inputs + len(nodes), dtype=np.int32),
        bias=np.array([bias for _, _, bias in nodes]),
        response=np.ones(len(nodes)),
        activation=np.array([ACTIVATIONS.index(name) for name, _, _ in nodes], np.uint8),
        aggregation=np.array([AGGREGATIONS.index(name) for _, name, _ in nodes], np.uint8),
        link_offsets=np.array([0, len(links)]),
        link_mark=np.arange(len(links), dtype=np.int32),
        source=np.array([source for source, _, _ in links], np.int32),
        target=np.array([target for _, target, _ in links], np.int32),
        weight=np.array([weight for _, _, weight in links]),
        enabled=np.ones(len(links), np.uint8),
    )


# --------------------------------------------------------------------------------------------------------------- pack


@compiled
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), feed_forward=st.booleans(), disabled=st.floats(0, 0.9), hidden=st.integers(0, 30))
def test_compiled_pack_equals_numpys(seed: int, feed_forward: bool, disabled: float, hidden: int) -> None:
    genes = grown(seed, 7, hidden=hidden, feed_forward=feed_forward, disabled=disabled, activations=ACTIVATIONS)
    same(pack(genes), room._pack_numpy(genes, np.arange(7)))
    chosen = np.array([3, 3, 0, 6])
    same(pack(genes, chosen), room._pack_numpy(genes, chosen))
    same(pack(genes, chosen), pack(genes).take(chosen))


@compiled
def test_pack_does_not_depend_on_threads() -> None:
    genes = grown(1, 200)
    same(pack(genes), pack(genes, threads=3))


@pytest.mark.parametrize("feed_forward", [True, False])
def test_programs_are_ordered_and_lead_back_to_genes(feed_forward: bool) -> None:
    genes = grown(2, 30, hidden=20, feed_forward=feed_forward)
    p = pack(genes)
    for i in range(p.n):
        own = slice(*p.node_offsets[i : i + 2])
        rank = p.level[own].astype(int) * 100 + p.activation[own]
        assert (np.diff(rank) >= 0).all()
    real = p.node_gene >= 0
    assert np.array_equal(genes.node_mark[p.node_gene[real]], p.node_mark[real])
    assert np.array_equal(genes.weight[p.link_gene].astype(np.float32), p.link_weight)
    assert genes.enabled[p.link_gene].all()
    if feed_forward:
        place = np.arange(len(p.bias)) - np.repeat(p.node_offsets[:-1], np.diff(p.node_offsets)) + p.inputs
        assert (p.link_slot < np.repeat(place, np.diff(p.link_offsets))).all()


def test_what_outputs_do_not_need_is_pruned() -> None:
    genes = single([("tanh", "sum", 0.1)] * 3, [(0, 1, 1.0), (0, 2, 1.0), (1, 3, 1.0)], feed_forward=True)
    assert pack(genes).node_mark.tolist() == [1]


def test_empty_populations_pack() -> None:
    none = pack(Population.empty(3, 2, True))
    assert none.n == 0 and activate(none, np.zeros((5, 3))).shape == (0, 5, 2)


@pytest.mark.parametrize(
    "packed", [pytest.param(pack, marks=compiled), lambda genes: room._pack_numpy(genes, np.arange(len(genes)))]
)
@pytest.mark.parametrize(
    "links", [[(1, 2, 1.0), (2, 1, 1.0)], [(7, 1, 1.0)], [(0, 7, 1.0)], [(1, 0, 1.0)], [(1, 1, 1.0)]]
)
def test_broken_genomes_are_refused(packed: Any, links: list[tuple[int, int, float]]) -> None:
    genes = single([("tanh", "sum", 0.0)] * 2, links, feed_forward=True)
    with pytest.raises(DataError, match=r"genome 0 has a link from or to a node it lacks or a cycle.*repair it"):
        packed(genes)


# ------------------------------------------------------------------------------------------------------- against peers


@pytest.mark.parametrize("feed_forward", [True, False])
@pytest.mark.parametrize("disabled", [0.0, 0.4])
def test_outputs_are_neat_pythons(feed_forward: bool, disabled: float) -> None:
    pytest.importorskip("neat")
    kinds = {"activations": CALM, "aggregations": AGGREGATIONS, "disabled": disabled}
    genes = grown(3, 60, feed_forward=feed_forward, **kinds)
    x = np.random.default_rng(0).normal(size=(4, 1, genes.inputs)).astype(np.float32)
    peers = neat_networks(genes)
    true = np.array([[[net.activate(row[0].tolist())] for row in x] for net in peers])
    np.testing.assert_allclose(reference_sequence(genes, x), true, rtol=1e-12, atol=1e-12)
    assert error(sequence(pack(genes), x), true) < TOLERANCE


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_neat_pythons(name: str) -> None:
    activations = pytest.importorskip("neat.activations").ActivationFunctionSet()
    z = np.concatenate([np.linspace(-80, 80, 1601), [0.0, 1e-9, -1e-9, 3.4, -3.4]]).astype(np.float32)
    true = np.array([activations.get(name)(float(one)) for one in z])
    genes = single([(name, "sum", 0.0)], [(0, 1, 1.0)], feed_forward=True)
    np.testing.assert_allclose(reference(genes, z[:, None])[0, :, 0], true, rtol=1e-12, atol=1e-12)
    made = activate(pack(genes), z[:, None])[0, :, 0]
    np.testing.assert_allclose(made, true, rtol=1e-5, atol=1e-5)


def test_nodes_without_links() -> None:
    """Feed-forward: act(bias), a product of nothing being 1; recurrent: 0, whatever the bias; both as neat-python."""
    nodes = [("identity", "sum", 0.25), ("identity", "product", 0.25)]
    x = np.zeros((1, 1), np.float32)
    assert activate(pack(single(nodes, [], outputs=2, feed_forward=True)), x).tolist() == [[[0.25, 1.25]]]
    idle = pack(single(nodes, [], outputs=2))
    assert activate(idle, x).tolist() == [[[0.0, 0.0]]]
    assert idle.node_gene.tolist() == [-1, -1]


def test_an_idle_recurrent_node_still_counts_in_an_aggregation() -> None:
    nodes = [("identity", "min", 0.0), ("identity", "sum", 5.0)]
    genes = single(nodes, [(0, 1, 1.0), (2, 1, 1.0)])
    assert activate(pack(genes), np.array([[3.0]])).tolist() == [[[0.0]]]


# ------------------------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("batch", [1, 3, 16, 33, 100])
def test_kernels_agree_on_batches(kernel: Any, batch: int) -> None:
    genes = grown(4, 25, hidden=15, activations=CALM)
    programs = pack(genes)
    rng = np.random.default_rng(batch)
    for x in (rng.normal(size=(batch, 3)), rng.normal(size=(25, batch, 3))):
        assert error(activate(programs, x, kernel=kernel), reference(programs, x.astype(np.float32))) < TOLERANCE


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_know_every_kind(kernel: Any) -> None:
    for activation in ACTIVATIONS:
        genes = grown(5, 8, hidden=3, extra=8, activations=[activation], aggregations=AGGREGATIONS)
        programs = pack(genes)
        x = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
        true = reference(programs, x)
        fine = np.abs(true) < 1e6
        made = activate(programs, x, kernel=kernel)
        gaps = np.abs(made - true)[fine] / np.maximum(1, np.abs(true[fine]))
        # inv and log have poles, sin(5 z) chains amplify: the few inputs beside them are allowed more
        assert np.quantile(gaps, 0.9) < 5 * TOLERANCE, activation


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_agree_on_sequences(kernel: Any) -> None:
    for feed_forward in (False, True):
        programs = pack(grown(6, 20, feed_forward=feed_forward, activations=("sigmoid", "tanh", "gauss")))
        rng = np.random.default_rng(2)
        for x in (rng.normal(size=(6, 5, 3)), rng.normal(size=(20, 6, 5, 3))):
            true = reference_sequence(programs, x.astype(np.float32))
            assert error(sequence(programs, x, kernel=kernel), true) < 3 * TOLERANCE


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("feed_forward", [True, False])
@pytest.mark.parametrize("copies", [1, 2, 5])
@pytest.mark.parametrize("activations", [1, 2])
def test_steps_equal_a_sequence(kernel: Any, feed_forward: bool, copies: int, activations: int) -> None:
    programs = pack(
        grown(7, 30, feed_forward=feed_forward, activations=("sigmoid", "tanh", "gauss"), aggregations=AGGREGATIONS)
    )
    x = np.random.default_rng(3).normal(size=(5, 30 * copies, 3)).astype(np.float32)
    stepper = Stepper(programs, copies=copies, kernel=kernel, activations=activations)
    for _ in range(2):
        made = np.stack([stepper.step(rows).copy() for rows in x])
        stepper.reset()
        held = x if feed_forward else np.repeat(x, activations, axis=0)
        own = held.reshape(len(held), 30, copies, 3).swapaxes(0, 1)
        true = reference_sequence(programs, own)[:, (0 if feed_forward else activations - 1) :: len(held) // len(x)]
        assert error(made, true.swapaxes(0, 1).reshape(made.shape)) < 3 * TOLERANCE


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("copies", [1, 5])
def test_rows_can_be_reset_alone(kernel: Any, copies: int) -> None:
    programs = pack(grown(8, 40, feed_forward=False, activations=("sigmoid", "tanh")))
    x = np.random.default_rng(4).normal(size=(40 * copies, 3)).astype(np.float32)
    stepper = Stepper(programs, copies=copies, kernel=kernel)
    first = stepper.step(x).copy()
    second = stepper.step(x).copy()
    stepper.reset()
    stepper.step(x)
    which = np.zeros(len(x), bool)
    which[[0, 7, len(x) - 1]] = True
    stepper.reset(which)
    again = stepper.step(x)
    np.testing.assert_allclose(again[which], first[which], atol=1e-6)
    np.testing.assert_allclose(again[~which], second[~which], atol=1e-6)


@compiled
def test_activations_hold_the_input() -> None:
    programs = pack(grown(9, 10, feed_forward=False, activations=("sigmoid", "tanh")))
    x = np.random.default_rng(5).normal(size=(7, 3)).astype(np.float32)
    held = sequence(programs, np.repeat(x[None], 4, axis=0))[:, -1]
    np.testing.assert_array_equal(activate(programs, x, activations=4), held)


@compiled
def test_results_do_not_depend_on_threads_or_neighbours() -> None:
    programs = pack(grown(10, 150, activations=SIX))
    x = np.random.default_rng(6).normal(size=(70, 3)).astype(np.float32)
    whole = activate(programs, x)
    np.testing.assert_array_equal(whole, activate(programs, x, threads=3))
    np.testing.assert_array_equal(whole[[5, 9]], activate(programs.take([5, 9]), x))


@compiled
def test_an_infinite_input_stays_with_its_network() -> None:
    programs = pack(grown(11, 30, activations=("relu", "identity")))
    x = np.ones((30, 3), np.float32)
    calm = Stepper(programs).step(x).copy()
    x[4] = np.inf
    wild = Stepper(programs).step(x)
    others = np.arange(30) != 4
    np.testing.assert_array_equal(wild[others], calm[others])


@compiled
def test_large_networks_pass() -> None:
    programs = pack(grown(12, 2, inputs=30, outputs=20, hidden=600, extra=900, activations=("tanh", "sigmoid")))
    x = np.random.default_rng(7).normal(size=(9, 30)).astype(np.float32)
    true = reference(programs, x)
    assert error(activate(programs, x), true) < 1e-3
    assert error(Stepper(programs).step(np.stack([x[0], x[0]])), true[:, 0]) < 1e-3


# -------------------------------------------------------------------------------------------------------------- errors


def test_wrong_shapes_are_named() -> None:
    programs = pack(grown(13, 4))
    with pytest.raises(DataError, match=r"inputs have shape \(5, 2\); 4 networks of 3 inputs take \(batch, 3\)"):
        activate(programs, np.zeros((5, 2)))
    with pytest.raises(DataError, match=r"inputs have shape \(5, 6, 3\); .*\(4, batch, 3\)"):
        activate(programs, np.zeros((5, 6, 3)))
    with pytest.raises(DataError, match=r"inputs have shape \(3, 3\), not \(4, 3\)"):
        Stepper(programs).step(np.zeros((3, 3)))


def test_unknown_kernels_are_named() -> None:
    with pytest.raises(RecipeError, match="kernel 'cuda' is not known; known: auto, c, numba, torch, numpy"):
        chosen_kernel("cuda")  # type: ignore[arg-type]
