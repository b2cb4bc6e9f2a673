"""Breeding of direct genomes: rules, distributions, and that compiled kernels and NumPy give the same bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from evonas import native
from evonas.core import Edit, RecipeError
from evonas.encoding import breeding, hashing
from evonas.encoding.breeding import distances, found, mate, mutate
from evonas.encoding.population import NeatGenome, Population, check
from evonas.encoding.variation import BreedingSettings, DistanceSettings
from evonas.marks import MarkBook

INPUTS, OUTPUTS = 3, 2
ALL = {"add_node": 0.3, "add_link": 0.4, "remove_node": 0.25, "remove_link": 0.2, "toggle": 0.1}
needs_compiler = pytest.mark.skipif(native.library("breeding") is None, reason="no compiler: there is only NumPy's way")


def some(feed_forward: bool = True, **changes: Any) -> BreedingSettings:
    lively: dict[str, Any] = {
        "feed_forward": feed_forward, "structure": ALL, "crossover": {"average": 0.3},
        "weight": {"draw": "gauss", "perturb": "gauss"}, "response": {"mean": 1.0, "mutate": 0.2},
        "activation": {"default": "random", "options": ["sigmoid", "tanh", "sin"], "mutate": 0.1},
    }  # fmt: skip
    return BreedingSettings.model_validate({**lively, **changes})


def generations(
    rules: BreedingSettings, count: int, generations: int, threads: int = 1
) -> Iterator[tuple[Population, dict[int, tuple[Edit, ...]]]]:
    """Populations of children of random parents, and their edits."""
    book, rng = MarkBook(), np.random.default_rng(0)
    population = found(rules, count, INPUTS, OUTPUTS, 1, book)
    for seed in range(generations):
        fitter, other = rng.integers(0, count, count), rng.integers(-1, count, count)
        population = mate(population, fitter, other, rng.random(count) < 0.3, rules, seed, threads)
        population, edits = mutate(population, rng.random(count) < 0.9, rules, book, seed, threads)
        yield population, edits


def same(one: Population, other: Population) -> bool:
    names = ("node_offsets", *breeding.NODES, "link_offsets", *breeding.LINKS)
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def last(rules: BreedingSettings, count: int = 60, length: int = 15, threads: int = 1) -> Population:
    *_, (population, _) = generations(rules, count, length, threads)
    return population


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(breeding, "_kernels", lambda: None)
    return monkeypatch


# --------------------------------------------------------------------------------------------------- random numbers


def test_normals_invert_the_normal_distribution() -> None:
    at = np.arange(20_000)
    exact = [NormalDist().inv_cdf(uniform) for uniform in hashing.uniforms(7, at)]
    assert np.allclose(hashing.normals(7, at), exact, rtol=0, atol=1e-14)


def test_the_hash_is_splitmix() -> None:
    """The first outputs of SplitMix64 from state 1234567, published with the generator."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert hashing.words(1234567, np.arange(1, 4)).tolist() == expected


def test_uniforms_are_even_and_streams_differ() -> None:
    draws = hashing.uniforms(1, np.arange(100_000))
    counts = np.bincount((draws * 100).astype(int), minlength=100)
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 160  # chi-square with 99 degrees: above 160 once in 10,000
    assert draws.min() > 0 and draws.max() < 1
    assert abs(np.corrcoef(draws, hashing.uniforms(2, np.arange(100_000)))[0, 1]) < 0.02


# --------------------------------------------------------------------------------------------------------- validity


@pytest.mark.parametrize("feed_forward", [True, False])
@pytest.mark.parametrize("limits", [{}, {"hidden": 4, "connections": 12}])
def test_ten_thousand_children_are_valid(feed_forward: bool, limits: dict[str, int]) -> None:
    for population, _ in generations(some(feed_forward, bounds=limits), 200, 50):
        check(population)
        sizes = population.sizes()
        assert sizes["hidden"].max() <= limits.get("hidden", 10**6)
        assert sizes["connections"].max() <= limits.get("connections", 10**6)
    assert sizes["hidden"].max() > 1


@needs_compiler
@pytest.mark.parametrize("feed_forward", [True, False])
@pytest.mark.parametrize("single", [True, False])
def test_kernels_and_numpy_agree_bit_for_bit(feed_forward: bool, single: bool, slowly: pytest.MonkeyPatch) -> None:
    rules = some(feed_forward, structure={**ALL, "single": single})
    without = list(generations(rules, 60, 12))
    slowly.undo()
    for threads in (1, 2):
        for (one, edits), (other, others) in zip(generations(rules, 60, 12, threads), without, strict=True):
            assert same(one, other) and edits == others


def test_parents_stay_as_they_were() -> None:
    population = last(some())
    before = population.take(np.arange(len(population)))
    everyone = np.ones(len(population), bool)
    book = MarkBook()
    book.reserve(10_000)
    mate(population, np.arange(60), np.arange(60)[::-1], everyone, some(), 1)
    mutate(population, everyone, some(), book, 1)
    assert same(before, population)


def test_only_the_chosen_are_mutated() -> None:
    population, which, book = last(some()), np.arange(60) % 3 == 0, MarkBook()
    book.reserve(10_000)
    children, edits = mutate(population, which, some(mutate_weights=1.0), book, 5)
    changed = np.array([one != other for one, other in zip(population, children, strict=True)])
    assert not changed[~which].any() and changed[which].all()
    assert edits and all(which[i] for i in edits)


# ---------------------------------------------------------------------------------------------------- first genomes


@pytest.mark.parametrize(("kind", "links"), [("none", 0), ("full", 6), ("fraction", 3), ("single", 2)])
def test_first_links(kind: str, links: int) -> None:
    population = found(some(initial_connection=kind), 50, INPUTS, OUTPUTS, 3, MarkBook())
    check(population)
    assert (population.sizes()["connections"] == links).all()
    if kind == "single":
        pairs = population.source.reshape(-1, 2)
        assert (pairs[:, 0] == pairs[:, 1]).all() and set(pairs[:, 0].tolist()) == {0, 1, 2}
    if kind == "fraction":
        assert len({tuple(genome.link_mark.tolist()) for genome in population}) > 10


def test_first_genomes_may_have_hidden_nodes() -> None:
    population = found(some(initial_hidden=[1, 4]), 200, INPUTS, OUTPUTS, 3, MarkBook())
    check(population)
    sizes = population.sizes()
    assert set(sizes["hidden"].tolist()) == {1, 2, 3, 4}
    assert (sizes["connections"] == 6 + 5 * sizes["hidden"]).all()
    marks = set(population.node_mark.tolist())
    assert len(marks) == OUTPUTS + 4, "the same first node has the same mark in every genome"
    assert some(initial_hidden=3).initial_hidden == (3, 3)


def test_first_values_follow_their_distribution() -> None:
    rules = some(weight={"mean": 1.0, "deviation": 0.5, "draw": "gauss"}, bias={"deviation": 2.0, "draw": "uniform"})
    population = found(rules, 4000, INPUTS, OUTPUTS, 3, MarkBook())
    assert population.weight.mean() == pytest.approx(1.0, abs=0.02)
    assert population.weight.std() == pytest.approx(0.5, abs=0.02)
    assert population.bias.min() >= -2 and population.bias.max() <= 2
    assert population.bias.std() == pytest.approx(2 / np.sqrt(3), abs=0.03)
    assert np.bincount(population.activation, minlength=3)[:3].min() > 2400


def test_too_many_first_links_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"6 links, more than bounds.connections 5: raise it"):
        found(some(bounds={"connections": 5}), 10, INPUTS, OUTPUTS, 3, MarkBook())


# -------------------------------------------------------------------------------------------------------- crossover


def genome(nodes: dict[int, float], links: list[tuple[int, int, int, float, bool]]) -> NeatGenome:
    rows = [(mark, bias, 1.0, "sigmoid", "sum") for mark, bias in nodes.items()]
    return NeatGenome.of(1, 1, True, rows, links)


ONE = genome({1: 0.0, 2: 0.5}, [(10, 0, 1, 1.0, True), (11, 0, 2, 1.0, True), (12, 2, 1, 1.0, True)])
TWO = genome({1: 1.0, 3: 0.7}, [(10, 0, 1, 2.0, True), (13, 0, 3, 2.0, True), (14, 3, 1, 2.0, True)])


def bred(fitter: int, other: int, equal: bool, rules: BreedingSettings | None = None, count: int = 4000) -> Population:
    pair = Population.of([ONE, TWO])
    filled = np.full(count, fitter), np.full(count, other), np.full(count, equal)
    children = mate(pair, *filled, rules or BreedingSettings(), 9)
    check(children)
    return children


def test_disjoint_genes_come_from_the_fitter() -> None:
    for fitter, marks in ((0, [10, 11, 12]), (1, [10, 13, 14])):
        assert (bred(fitter, 1 - fitter, False).link_mark.reshape(-1, 3) == marks).all()


def test_equal_parents_give_the_genes_of_both() -> None:
    children = bred(0, 1, True)
    assert (children.link_mark.reshape(-1, 5) == [10, 11, 12, 13, 14]).all()
    assert (children.node_mark.reshape(-1, 3) == [1, 2, 3]).all()


def test_matching_genes_come_from_either_at_random() -> None:
    children = bred(0, 1, False)
    weights, biases = children.weight[::3], children.bias[::2]
    assert set(weights.tolist()) == {1.0, 2.0} and weights.mean() == pytest.approx(1.5, abs=0.03)
    assert set(biases.tolist()) == {0.0, 1.0} and biases.mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(weights, biases)[0, 1]) < 0.06


def test_matching_genes_may_be_averaged() -> None:
    rules = BreedingSettings.model_validate({"crossover": {"average": 0.25}})
    weights = bred(0, 1, False, rules).weight[::3]
    assert np.mean(weights == 1.5) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("way", ["kernel", "numpy"])
def test_three_quarters_of_the_disabled_stay_so(way: str, request: pytest.FixtureRequest) -> None:
    if way == "numpy":
        request.getfixturevalue("slowly")
    book = MarkBook()
    rules = BreedingSettings()
    parents = found(rules, 2, 30, 30, 1, book)
    half = np.arange(len(parents.enabled)) < len(parents.enabled) // 2
    mixed = Population(*parents.shape, *[
        (~half).astype(np.uint8) if name == "enabled" else getattr(parents, name)
        for name in ("node_offsets", *breeding.NODES, "link_offsets", *breeding.LINKS)
    ])  # fmt: skip
    for fitter, other in ((0, 1), (1, 0)):
        children = mate(mixed, np.full(20, fitter), np.full(20, other), np.zeros(20, bool), rules, 4)
        assert children.enabled.mean() == pytest.approx(0.25, abs=0.012)


@given(seed=st.integers(0, 2**32), feed_forward=st.booleans(), equal=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_genome_mated_with_itself_is_itself(seed: int, feed_forward: bool, equal: bool) -> None:
    population = last(some(feed_forward), 20, 6)
    everyone = np.arange(20)
    for other in (everyone, np.full(20, -1)):
        assert same(mate(population, everyone, other, np.full(20, equal), some(feed_forward), seed), population)


def test_no_union_of_equals_closes_a_cycle() -> None:
    one = NeatGenome.of(1, 1, True, ONE_WAY, [(10, 0, 2, 1.0, True), (11, 2, 3, 1.0, True), (12, 3, 1, 1.0, True)])
    two = NeatGenome.of(1, 1, True, ONE_WAY, [(13, 0, 3, 1.0, True), (14, 3, 2, 1.0, True), (15, 2, 1, 1.0, True)])
    child = mate(Population.of([one, two]), np.zeros(1), np.ones(1), np.ones(1, bool), BreedingSettings(), 1)
    check(child)
    assert child.link_mark.tolist() == [10, 11, 12, 13, 15]


ONE_WAY = [(mark, 0.0, 1.0, "sigmoid", "sum") for mark in (1, 2, 3)]


# --------------------------------------------------------------------------------------------------------- mutation


@pytest.mark.parametrize("way", ["kernel", "numpy"])
def test_weights_are_perturbed_or_redrawn_at_their_rates(way: str, request: pytest.FixtureRequest) -> None:
    if way == "numpy":
        request.getfixturevalue("slowly")
    number = {"mutate": 0.6, "replace": 0.3, "power": 0.1, "perturb": "uniform", "min": -100, "max": 100, "mean": 50.0}
    rules = BreedingSettings.model_validate(
        {"weight": number, "mutate_weights": 0.5, "structure": {"add_node": 0, "add_link": 0}}
    )
    population = found(rules, 1000, 10, 5, 1, MarkBook())
    population = Population(*population.shape, *[
        np.zeros_like(population.weight) if name == "weight" else getattr(population, name)
        for name in ("node_offsets", *breeding.NODES, "link_offsets", *breeding.LINKS)
    ])  # fmt: skip
    children, edits = mutate(population, np.ones(1000, bool), rules, MarkBook(), 2)
    weights = children.weight.reshape(1000, 50)
    touched = (weights != 0).any(axis=1)
    assert not edits and touched.mean() == pytest.approx(0.5, abs=0.05)
    size = np.abs(weights[touched])
    assert np.mean((size > 0) & (size <= 0.1)) == pytest.approx(0.6, abs=0.02)
    assert np.mean(size >= 49) == pytest.approx(0.3, abs=0.02)


def one_change(name: str, population: Population, book: MarkBook, **changes: Any) -> tuple[Population, dict[int, Any]]:
    structure = {**dict.fromkeys(ALL, 0.0), name: 1.0}
    rules = some(population.feed_forward, structure=structure, **changes)
    return mutate(population, np.ones(len(population), bool), rules.model_copy(update={"mutate_weights": 0.0}), book, 3)


def test_a_split_link_is_disabled_and_passed_on() -> None:
    book = MarkBook()
    parents = found(some(), 300, INPUTS, OUTPUTS, 1, book)
    children, edits = one_change("add_node", parents, book, activation={})
    check(children)
    assert len(edits) == 300
    made: dict[int, set[tuple[int, ...]]] = {}
    for i, (edit,) in edits.items():
        child, parent = children[i], parents[i]
        node, into, out = edit.made
        links = {mark: k for k, mark in enumerate(child.link_mark.tolist())}
        old = links[edit.where[0]]
        assert edit.op == "add_node" and child.enabled[[old, links[into], links[out]]].tolist() == [0, 1, 1]
        assert child.weight[links[into]] == 1.0 and child.weight[links[out]] == parent.weight[old]
        assert child.source[links[into]] == child.source[old] and child.target[links[into]] == node
        assert child.source[links[out]] == node and child.target[links[out]] == child.target[old]
        at = child.node_mark.tolist().index(node)
        assert (child.bias[at], child.response[at], child.activation[at]) == (0.0, 1.0, 0)
        made.setdefault(edit.where[0], set()).add(edit.made)
    assert all(len(marks) == 1 for marks in made.values()) and len(made) == 6, "same change, same marks"
    assert len({mark for marks in made.values() for one in marks for mark in one}) == 18


def test_a_new_link_has_the_mark_of_its_ends() -> None:
    book = MarkBook()
    parents = last(some(), 100, 10)
    book.reserve(100_000)
    children, edits = one_change("add_link", parents, book)
    check(children)
    marks: dict[tuple[int, ...], int] = {}
    for i, (edit,) in edits.items():
        if edit.op == "add_link":
            assert marks.setdefault(edit.where, edit.made[0]) == edit.made[0]
            assert len(children[i].link_mark) == len(parents[i].link_mark) + 1
        else:
            at = parents[i].link_mark.tolist().index(edit.where[0])
            assert edit.args == {"enabled": True} and not parents[i].enabled[at] and children[i].enabled[at]
    assert len(set(marks.values())) == len(marks) > 20
    assert {edit.op for own in edits.values() for edit in own} == {"add_link", "toggle"}


def test_a_recurrent_network_can_get_every_link() -> None:
    book = MarkBook()
    population = found(some(False, initial_connection="none"), 200, 1, 2, 1, book)
    for _ in range(4):
        population, _ = one_change("add_link", population, book)
    ends = set(zip(population.source.tolist(), population.target.tolist(), strict=True))
    assert ends == set(itertools.product((0, 1, 2), (1, 2)))


def test_removed_genes_and_their_links_are_gone() -> None:
    parents, book = last(some(), 100, 10), MarkBook()
    children, edits = one_change("remove_node", parents, book)
    check(children)
    assert set(edits) == set(np.flatnonzero(parents.sizes()["hidden"]).tolist())
    for i, (edit,) in edits.items():
        assert set(parents[i].node_mark.tolist()) - set(children[i].node_mark.tolist()) == set(edit.where)
    children, edits = one_change("remove_link", parents, book)
    for i, (edit,) in edits.items():
        assert set(parents[i].link_mark.tolist()) - set(children[i].link_mark.tolist()) == set(edit.where)
    children, edits = one_change("toggle", parents, book)
    assert ((children.enabled != parents.enabled).sum()) == len(edits) == (parents.sizes()["connections"] > 0).sum()


@pytest.mark.parametrize("single", [True, False])
def test_structural_mutations_happen_at_their_rates(single: bool) -> None:
    book = MarkBook()
    rates = {"add_node": 0.1, "add_link": 0.2, "remove_link": 0.15, "toggle": 0.05}
    rules = some(False, structure={**rates, "single": single})
    population = found(rules, 4000, INPUTS, OUTPUTS, 1, book)
    _, edits = mutate(population, np.ones(4000, bool), rules, book, 3)
    counts = dict.fromkeys(rates, 0)
    for own in edits.values():
        for edit in own:
            counts[edit.op] += 1
    assert {name: count / 4000 for name, count in counts.items()} == pytest.approx(rates, abs=0.025)
    assert (max(map(len, edits.values())) == 1) == single


# --------------------------------------------------------------------------------------------------------- distance


def slow_distance(one: NeatGenome, other: NeatGenome, rules: DistanceSettings) -> float:
    """Equation 1 for one pair, gene by gene."""
    ours = dict(zip(one.link_mark.tolist(), one.weight.tolist(), strict=True))
    theirs = dict(zip(other.link_mark.tolist(), other.weight.tolist(), strict=True))
    matching = ours.keys() & theirs.keys()
    newest = min(max(ours, default=-1), max(theirs, default=-1))
    unmatched = ours.keys() ^ theirs.keys()
    excess = sum(mark > newest for mark in unmatched)
    size = max(len(ours), len(theirs))
    scale = size if rules.formula == "paper" and size >= 20 else 1
    apart = sum(abs(ours[mark] - theirs[mark]) for mark in matching) / max(len(matching), 1)
    gap = rules.excess * excess + rules.disjoint * (len(unmatched) - excess)
    return gap / scale + rules.weight * apart


@pytest.mark.parametrize("way", ["kernel", "numpy"])
@pytest.mark.parametrize("formula", ["paper", "counts"])
@pytest.mark.parametrize("excess", [1.0, 2.5])
def test_distances_are_those_of_each_pair(
    formula: Any, excess: float, way: str, request: pytest.FixtureRequest
) -> None:
    population = last(some(initial_connection="single"), 40, 12)
    if way == "numpy":
        request.getfixturevalue("slowly")
    rules = DistanceSettings(formula=formula, excess=excess)
    table = distances(population, population, rules)
    expected = [[slow_distance(one, other, rules) for other in population] for one in population]
    assert np.allclose(table, expected, rtol=1e-12, atol=0)
    assert (table == table.T).all() and not table.diagonal().any()


def test_normalised_distances_are_those_of_neat_python() -> None:
    neat = pytest.importorskip("neat")
    population = last(some(), 30, 10)

    class Config:
        compatibility_disjoint_coefficient = 1.3
        compatibility_weight_coefficient = 0.6

    def translated(genome: NeatGenome) -> Any:
        made = neat.DefaultGenome(0)
        columns = (genome.node_mark, genome.bias, genome.response, genome.activation, genome.aggregation)
        for mark, *values in zip(*(column.tolist() for column in columns), strict=True):
            gene = neat.genes.DefaultNodeGene(mark)
            gene.bias, gene.response, gene.activation, gene.aggregation = values
            gene.time_constant = 1.0
            made.nodes[mark] = gene
        columns = (genome.link_mark, genome.source, genome.target, genome.weight, genome.enabled)
        for mark, source, target, weight, enabled in zip(*(column.tolist() for column in columns), strict=True):
            link = neat.genes.DefaultConnectionGene((source, target), innovation=mark)
            link.weight, link.enabled = weight, bool(enabled)
            made.connections[source, target] = link
        return made

    genomes = [translated(genome) for genome in population]
    expected = [[one.distance(other, Config) for other in genomes] for one in genomes]
    rules = DistanceSettings(formula="normalised", disjoint=1.3, weight=0.6)
    assert np.allclose(distances(population, population, rules), expected, rtol=1e-12, atol=0)


@needs_compiler
@pytest.mark.parametrize("formula", ["paper", "counts", "normalised"])
def test_distances_agree_bit_for_bit(formula: Any, slowly: pytest.MonkeyPatch) -> None:
    population = last(some(), 50, 10)
    rules = DistanceSettings(formula=formula, excess=0.7)
    without = distances(population, population[:37], rules)
    slowly.undo()
    for threads in (1, 2):
        assert np.array_equal(distances(population, population[:37], rules, threads), without)


def test_distances_of_genomes_without_links() -> None:
    population = found(some(initial_connection="none"), 3, INPUTS, OUTPUTS, 1, MarkBook())
    for formula in ("paper", "counts"):
        assert not distances(population, population, DistanceSettings(formula=formula)).any()


@pytest.mark.parametrize("way", ["kernel", "numpy"])
def test_nothing_breeds_nothing(way: str, request: pytest.FixtureRequest) -> None:
    if way == "numpy":
        request.getfixturevalue("slowly")
    rules, book = some(), MarkBook()
    population = found(rules, 3, INPUTS, OUTPUTS, 1, book)
    none = np.zeros(0, np.int64)
    children = mate(population, none, none, none > 0, rules, 1)
    children, edits = mutate(children, none > 0, rules, book, 1)
    assert len(children) == 0 and not edits
    assert distances(children, population, rules.distance).shape == (0, 3)
    assert distances(population, children, rules.distance).shape == (3, 0)


# --------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"activation": {"options": ["sigmoidd"]}}, "'sigmoidd' is not known; did you mean 'sigmoid'"),
        ({"activation": {"default": "tahn"}}, "did you mean 'tanh'"),
        ({"aggregation": {"options": ["sum", "sum"]}}, "options lists one twice"),
        ({"aggregation": {"options": []}}, "at least 1 item"),
        ({"weight": {"min": 2.0, "max": 2.0}}, "min 2 is not below max 2"),
        ({"weight": {"min": 1.0}}, "mean 0 lies outside 1 .. 8"),
        ({"structure": {"add_node": -0.1}}, "greater than or equal to 0"),
        ({"structure": {"add_nod": 0.1}}, "Extra inputs"),
        ({"initial_hidden": [3, 1]}, "runs from 3 down to 1"),
        ({"initial_hidden": [1, 5], "bounds": {"hidden": 4}}, "initial_hidden 5 is above bounds.hidden 4"),
        ({"initial_connection": "ful"}, "'none', 'full'"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BreedingSettings.model_validate(wrong)
