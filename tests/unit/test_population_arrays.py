"""Populations as arrays: equal to lists of genomes in everything, and nothing invalid is let in."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.core import DataError, dumps, loads
from evonas.encoding import population as arrays
from evonas.encoding.population import ACTIVATIONS, AGGREGATIONS, NeatGenome, Population

INPUTS, OUTPUTS = 3, 2
unhurried = settings(deadline=None)


def drawn(rng: Random, feed_forward: bool = True) -> NeatGenome:
    """A valid genome of up to six hidden nodes; in a feed-forward one every link leads to a node drawn later."""
    marks = rng.sample(range(INPUTS + OUTPUTS, 200), 30)
    hidden = marks[: rng.randint(0, 6)]
    nodes = [
        [mark, rng.gauss(0, 1), rng.gauss(1, 1), rng.choice(ACTIVATIONS), rng.choice(AGGREGATIONS)]
        for mark in (*range(INPUTS, INPUTS + OUTPUTS), *hidden)
    ]
    order = [*range(INPUTS), *hidden, *range(INPUTS, INPUTS + OUTPUTS)]
    pairs = [
        (a, b)
        for i, a in enumerate(order)
        for j, b in enumerate(order)
        if b >= INPUTS and (i < j if feed_forward else True)
    ]
    ends = rng.sample(pairs, rng.randint(0, min(len(pairs), 12)))
    links = [[mark, a, b, rng.gauss(0, 1), rng.random() < 0.7] for mark, (a, b) in zip(marks[8:], ends, strict=False)]
    return NeatGenome.of(INPUTS, OUTPUTS, feed_forward, nodes, links)


@st.composite
def genomes(draw: st.DrawFn, least: int = 1) -> list[NeatGenome]:
    seeds = draw(st.lists(st.integers(0, 2**32), min_size=least, max_size=8))
    feed_forward = draw(st.booleans())
    return [drawn(Random(seed), feed_forward) for seed in seeds]


def content(population: Population) -> list[str]:
    return [dumps(arrays.to_json(genome)) for genome in population]


# ------------------------------------------------------------------------------------------------- made of others


@unhurried
@given(genomes(), st.data())
def test_take_of_and_joined_are_what_lists_would_be(made: list[NeatGenome], data: st.DataObject) -> None:
    texts = [genome.text for genome in made]
    population = Population.of(made)
    assert len(population) == len(made) and content(population) == texts and list(population) == made
    arrays.check(population)
    at = data.draw(st.lists(st.integers(0, len(made) - 1)))
    assert content(population.take(at)) == [texts[i] for i in at]
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(made), max_size=len(made))))
    assert content(population.take(mask)) == [text for text, kept in zip(texts, mask, strict=True) if kept]
    assert content(population[1:]) == texts[1:] and content(population[::-1]) == texts[::-1]
    both = Population.joined([population, population.take(at), population[1:]])
    assert content(both) == texts + [texts[i] for i in at] + texts[1:]
    mixed = [both[i] for i in range(len(both))][::-2] + made
    assert content(Population.of(mixed)) == [genome.text for genome in mixed]
    arrays.check(both)


def test_genomes_are_seen_where_they_lie() -> None:
    population = Population.of([drawn(Random(i)) for i in range(5)])
    genome = population[-2]
    assert genome.at == 3 and genome.bias.base is population.bias
    assert len(genome.alone) == 1 and genome.alone[0] == genome
    with pytest.raises(IndexError):
        population[5]
    with pytest.raises(IndexError, match="positions 0 to 5 are not all among 5"):
        population.take([0, 5])
    with pytest.raises(ValueError, match="read-only"):
        genome.weight[:] = 0


def test_shapes_that_differ_are_not_joined() -> None:
    one, other = drawn(Random(1)), drawn(Random(1), feed_forward=False)
    with pytest.raises(ValueError, match=r"3 inputs and 2 outputs, feed-forward and of .* recurrent cannot be joined"):
        Population.of([one, other])
    with pytest.raises(ValueError, match=r"no genomes .* use Population\.empty"):
        Population.of([])
    empty = Population.empty(3, 2, True)
    assert len(empty) == 0 and list(Population.joined([empty, one.alone])) == [one]
    assert len(one.alone.take([])) == 0
    assert len(Population.from_bytes(empty.to_bytes())) == 0


@unhurried
@given(genomes())
def test_sizes_are_counted_gene_by_gene(made: list[NeatGenome]) -> None:
    population = Population.of(made)
    sizes = population.sizes()
    for i, genome in enumerate(made):
        nodes, links = arrays.rows(genome)
        used = sum(link[4] for link in links)
        expected = [len(nodes), len(nodes) - OUTPUTS, used, len(links), used + len(nodes)]
        assert [sizes[name][i] for name in ("nodes", "hidden", "links", "connections", "params")] == expected
    assert population.alive() == frozenset(range(INPUTS)).union(*[genome.marks for genome in made])


def test_a_large_population_is_small() -> None:
    """100,000 genomes of XOR's size: no object for any of them."""
    one = NeatGenome.of(
        2, 1, True, [[2, 0, 1, "sigmoid", "sum"], [5, 0, 1, "sigmoid", "sum"]],
        [[3, 0, 2, 1, True], [4, 1, 2, 1, False], [6, 1, 5, 1, True], [7, 5, 2, 1, True]],
    )  # fmt: skip
    many = one.alone.take(np.zeros(100_000, dtype=int))
    assert many.nbytes < 20e6 and len(many) == 100_000 and many[99_999] == one


# ------------------------------------------------------------------------------------------------------- round trips


@unhurried
@given(genomes())
def test_bytes_json_and_pickles_give_the_same_genomes(made: list[NeatGenome]) -> None:
    population = Population.of(made)
    again = Population.from_bytes(population.to_bytes())
    assert list(again) == made and again.shape == population.shape
    assert list(pickle.loads(pickle.dumps(population))) == made
    for genome in made:
        read = arrays.from_json(loads(genome.text))
        assert read == genome and read.key == genome.key and hash(read) == hash(genome) and read.text == genome.text
        assert pickle.loads(pickle.dumps(genome)) == genome == copy.deepcopy(genome)


def test_a_pickled_genome_does_not_carry_its_population() -> None:
    many = drawn(Random(3)).alone.take(np.zeros(10_000, dtype=int))
    assert len(pickle.dumps(many[7])) < 5_000


@unhurried
@given(st.integers(0, 2**32), st.data())
def test_keys_tell_any_change(seed: int, data: st.DataObject) -> None:
    genome = drawn(Random(seed))
    form = arrays.to_json(genome)
    what = data.draw(st.sampled_from([name for name in ("nodes", "links") if form[name]]))
    row = data.draw(st.sampled_from(form[what]))
    place = data.draw(st.integers(0, 4))
    old = row[place]
    row[place] = {bool: lambda: not old, int: lambda: old + 1000, float: lambda: old + 0.5}.get(
        type(old), lambda: next(word for word in (*ACTIVATIONS, *AGGREGATIONS) if word != old
                                and (word in ACTIVATIONS) == (old in ACTIVATIONS))
    )()  # fmt: skip
    changed = NeatGenome.of(INPUTS, OUTPUTS, True, form["nodes"], form["links"])
    assert changed != genome and changed.key != genome.key


def test_keys_are_equal_in_every_process() -> None:
    code = (
        "from evonas.encoding.population import NeatGenome\n"
        "print(NeatGenome.of(1, 1, True, [[1, 0.5, 1, 'tanh', 'sum']], [[2, 0, 1, -1.5, True]]).key)"
    )
    printed = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    }
    here = NeatGenome.of(1, 1, True, [[1, 0.5, 1, "tanh", "sum"]], [[2, 0, 1, -1.5, True]])
    assert printed == {here.key} and len(here.key) == 32


# ---------------------------------------------------------------------------------------------------------- validity


def rows() -> dict[str, Any]:
    """Two inputs, one output, a hidden node."""
    return {
        "encoding": "neat", "format": 1, "inputs": 2, "outputs": 1, "feed_forward": True,
        "nodes": [[2, 0.5, 1.0, "sigmoid", "sum"], [5, 0.0, 1.0, "tanh", "max"]],
        "links": [[3, 0, 2, 1.5, True], [4, 1, 2, -1.0, False], [6, 1, 5, 1.0, True], [7, 5, 2, -1.0, True]],
    }  # fmt: skip


def with_link(*link: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: data["links"].append(list(link))


def with_value(what: str, row: int, place: int, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: data[what][row].__setitem__(place, value)


BAD: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda data: data.update(encoding="dag"), "encoding is 'dag', expected 'neat'"),
    (lambda data: data.update(format=2), "format 2 is not 1"),
    (lambda data: data.update(more=1), r"unknown keys \['more'\]; known: encoding"),
    (lambda data: data.update(inputs=0), "inputs is 0, expected an integer from 1"),
    (lambda data: data.update(inputs=10**9), "inputs is 1000000000, expected"),
    (lambda data: data.update(outputs=True), "outputs is True"),
    (lambda data: data.update(outputs=2), "the node of output 1 is missing; the outputs' marks are 2 to 3"),
    (lambda data: data.update(outputs=3), "2 nodes; the 3 outputs have one each"),
    (lambda data: data.update(feed_forward=1), "feed_forward is 1, expected true or false"),
    (lambda data: data.update(nodes={}), "nodes is dict, expected a list"),
    (lambda data: data.update(links=[0] * 1_000_001), "links is a list of 1000001, expected a list of at most 1000000"),
    (lambda data: data["nodes"].pop(0), "the node of output 0 is missing"),
    (lambda data: data["nodes"].append([5, 0, 1, "sin", "sum"]), "node 5: marks are not ascending and unique: 5, then"),
    (lambda data: data["nodes"][1].pop(), r"node \[5, 0.0, 1.0, 'tanh'\] is not \[mark, bias"),
    (with_value("nodes", 1, 0, 1), "the node of output 0 is missing"),
    (with_value("nodes", 1, 0, 2**31), "node .* is not"),
    (with_value("nodes", 1, 0, 5.0), "node .* is not"),
    (with_value("nodes", 0, 1, float("nan")), "node .* is not"),
    (with_value("nodes", 0, 1, 10**400), "node .* is not"),
    (with_value("nodes", 0, 2, 1e39), "node .* is not"),
    (with_value("nodes", 0, 3, "sigmiod"), r"node 2: activation 'sigmiod' is not known; did you mean 'sigmoid'\?"),
    (with_value("nodes", 0, 4, ["sum"]), "node 2: aggregation .* is not known"),
    (with_link(8, 0, 5, float("inf"), True), r"link \[8, 0, 5, inf, True\] is not \[mark, source"),
    (with_link(8, 0, 5, 1.0, 1), "link .* is not"),
    (with_link(8, -1, 5, 1.0, True), "link .* is not"),
    (with_link(8, 9, 5, 1.0, True), "link 8: it goes from 9 to 5, but it lacks such a node"),
    (with_link(8, 0, 9, 1.0, True), "link 8: it goes from 0 to 9, but it lacks such a node"),
    (with_link(8, 5, 1, 1.0, True), "link 8: it goes from 5 to 1, but no link ends at an input"),
    (with_link(8, 0, 2, 1.0, True), "link 8: it is the second from 0 to 2; remove it"),
    (with_link(7, 0, 5, 1.0, True), "link 7: marks are not ascending and unique: 7, then 7"),
    (with_link(5, 0, 5, 1.0, True), "link 5: a node has this mark too; every gene needs its own"),
    (with_link(2, 0, 5, 1.0, True), "link 2: marks below 3 are inputs and outputs"),
    (with_link(8, 2, 5, 1.0, False), r"nodes \[2, 5\] are on a cycle; a feed-forward genome has none"),
    (with_link(8, 5, 5, 1.0, True), r"nodes \[.*5.*\] are on a cycle"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_bad_genome_is_named(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    data = rows()
    assert arrays.to_json(arrays.from_json(rows())) == data
    change(data)
    with pytest.raises(DataError, match=f"^genome: {message}"):
        arrays.from_json(data)


@pytest.mark.parametrize("data", [None, [], 3, "neat", {}, {"encoding": []}, {"encoding": "neat"}])
def test_what_is_no_genome_is_refused(data: Any) -> None:
    with pytest.raises(DataError, match=r"^genome: "):
        arrays.from_json(data)


def test_cycles_are_allowed_where_they_are_meant() -> None:
    data = rows()
    data["feed_forward"] = False
    data["links"] += [[8, 2, 5, 1.0, True], [9, 5, 5, 1.0, True]]
    assert arrays.from_json(data).feed_forward is False


def test_a_genome_that_nobody_sorted_is_refused() -> None:
    good = arrays.from_json(rows()).population
    for name, message in (("node_mark", "the node of output 0 is missing"), ("link_mark", "link 7: marks are not")):
        turned = Population(*good.shape, **{**fields(good), name: getattr(good, name)[::-1]})
        with pytest.raises(DataError, match=f"^genome: {message}"):
            arrays.check(turned)
    with pytest.raises(DataError, match=r"genome 2 of 3: link 3: weight is nan, write a finite float32 number"):
        arrays.check(Population.joined([good, good, changed(good, "weight", np.full(4, np.nan))]))
    with pytest.raises(DataError, match=r"node 2: activation has code 18, known are 0 to 17"):
        arrays.check(changed(good, "activation", np.full(2, 18)))
    with pytest.raises(DataError, match=r"link 3: enabled has code 2, known are 0 to 1"):
        arrays.check(changed(good, "enabled", np.full(4, 2)))


def fields(population: Population) -> dict[str, Any]:
    names = list(Population.__dataclass_fields__)[3:]
    return {name: getattr(population, name) for name in names}


def changed(population: Population, name: str, values: Any) -> Population:
    return Population(*population.shape, **{**fields(population), name: values})


@unhurried
@given(st.integers(0, 2**32), st.booleans())
def test_cycles_are_found_as_a_search_finds_them(seed: int, long: bool) -> None:
    rng = Random(seed)
    count = 200 if long else 8
    links = {(i, i + 1) for i in range(count - 1)} if long else set()  # deeper than the rounds over all genomes
    links |= {(rng.randrange(count), rng.randrange(count)) for _ in range(rng.randrange(6))}
    source, target = np.array(sorted(links), dtype=np.int64).reshape(-1, 2).T
    reached = [{b for a, b in links if a == node} for node in range(count)]
    cyclic = False
    for start in range(count):
        seen, waiting = set(), list(reached[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += reached[node]
        cyclic |= start in seen
    assert bool(arrays._cyclic(source, target, count)) == cyclic


def test_a_chain_as_long_as_allowed_is_checked_in_time() -> None:
    count = 100_000
    hidden = np.arange(2, 2 + count)
    nodes = np.concatenate([[1], hidden])
    source, target = np.concatenate([[0], hidden]), np.concatenate([hidden, [1]])
    marks = np.arange(2 + count, 2 + count + len(source))
    ones, zeros = np.ones(len(nodes)), np.zeros(len(nodes))
    chain = Population(
        1, 1, True, np.array([0, len(nodes)]), nodes, ones, ones, zeros, zeros,
        np.array([0, len(source)]), marks, source, target, np.ones(len(source)), np.ones(len(source)),
    )  # fmt: skip
    arrays.check(chain)


# -------------------------------------------------------------------------------------------------------- hostile bytes


@unhurried
@given(st.data())
def test_damaged_bytes_raise_data_errors_and_nothing_else(data: st.DataObject) -> None:
    good = Population.of([drawn(Random(i)) for i in range(3)]).to_bytes()
    kind = data.draw(st.sampled_from(["cut", "flip", "random"]))
    if kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    elif kind == "random":
        bad = data.draw(st.binary(max_size=200))
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    with suppress(DataError):
        arrays.check(Population.from_bytes(bad))


def test_missing_and_foreign_arrays_are_named() -> None:
    from safetensors.numpy import load, save

    arrays_of = load(arrays.from_json(rows()).population.to_bytes())
    for change, message in (
        ({"bias": None}, "array 'bias' is missing, expected float64"),
        ({"bias": np.zeros(2, np.float32)}, "array 'bias' is float32 of shape"),
        ({"bias": np.zeros(3)}, "node_offsets do not ascend from 0 to the length of node_mark, bias"),
        ({"link_offsets": np.array([0, 2, 4])}, "nodes of 1 genomes, links of 2"),
        ({"link_offsets": np.array([4, 0])}, "link_offsets do not ascend"),
        ({"shape": np.array([2, 2, 1, 1])}, r"format \[2\] is not 1: a newer evonas"),
        ({"shape": np.zeros(0, np.int64)}, r"format \[\] is not 1"),
        ({"shape": np.array([1, 0, 1, 1])}, "0 inputs and 1 outputs; each is from 1"),
    ):
        kept = {name: array for name, array in {**arrays_of, **change}.items() if array is not None}
        with pytest.raises(DataError, match=message):
            Population.from_bytes(save(kept))
