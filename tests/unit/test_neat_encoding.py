"""The direct encoding: whole populations stay valid, marks mean one thing in a run, plans count what genomes hold."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import networkx as nx
import numpy as np
import pytest

from evonas import zoo
from evonas.core import DataError, Edit, RecipeError, dumps, loads
from evonas.encoding import TABLE, build, neat
from evonas.encoding import population as arrays
from evonas.encoding.neat import NeatEncoding, depth
from evonas.encoding.population import NeatGenome, Population
from evonas.encoding.variation import NeatSettings
from evonas.marks import MarkBook, Marks

GROWING: dict[str, Any] = {
    "structure": {"add_node": 0.3, "add_link": 0.4, "remove_node": 0.05, "remove_link": 0.05, "toggle": 0.1},
    "activation": {"options": ["sigmoid", "tanh", "gauss"], "mutate": 0.1},
}


def space(inputs: int = 3, outputs: int = 2, **settings: Any) -> NeatEncoding:
    return NeatEncoding(NeatSettings(**settings), (inputs,), outputs)


def bred(
    encoding: NeatEncoding, adults: Population, generation: int, book: MarkBook
) -> tuple[Population, dict[int, tuple[Edit, ...]]]:
    """As many children: some of one parent, some of equal ones, most mutated."""
    rng = np.random.default_rng(generation)
    count = len(adults)
    fitter, other = rng.integers(0, count, (2, count))
    other = np.where(rng.random(count) < 0.25, -1, other)
    return encoding.breed(adults, fitter, other, rng.random(count) < 0.2, rng.random(count) < 0.9, generation, book)


def evolved(encoding: NeatEncoding, generations: int, count: int = 60, seed: int = 1) -> tuple[Population, MarkBook]:
    book = MarkBook()
    genomes = encoding.found(count, seed, book)
    for generation in range(generations):
        genomes, _ = bred(encoding, genomes, generation, book)
    return genomes, book


# --------------------------------------------------------------------------------------------------- whole populations


@pytest.mark.parametrize("feed_forward", [True, False])
@pytest.mark.parametrize("connection", ["none", "full", "fraction", "single"])
def test_ten_thousand_children_stay_valid(feed_forward: bool, connection: str) -> None:
    """2,500 mutations and crossovers for each of eight spaces; a link's mark names its two ends all over the run."""
    encoding = space(feed_forward=feed_forward, initial_connection=connection, **GROWING)
    book = MarkBook()
    genomes = encoding.found(125, 3, book)
    ends: dict[int, set[tuple[int, int]]] = defaultdict(set)
    marks: dict[tuple[int, int], set[int]] = defaultdict(set)
    for generation in range(20):
        genomes, _ = bred(encoding, genomes, generation, book)
        assert len(genomes) == 125
        arrays.check(genomes)
        triples = (genomes.link_mark.tolist(), genomes.source.tolist(), genomes.target.tolist())
        for mark, source, target in zip(*triples, strict=True):
            ends[mark].add((source, target))
            marks[source, target].add(mark)
        assert max(genomes.alive()) < book.free
    assert all(len(pairs) == 1 for pairs in ends.values()) and all(len(found) == 1 for found in marks.values())
    assert genomes.sizes()["hidden"].max() > 3


def test_the_same_change_twice_in_a_run_gets_the_same_mark() -> None:
    encoding = space(structure={"add_node": 0.5, "add_link": 0.5})
    book = MarkBook()
    parent = encoding.found(1, 1, book)
    nobody, made = np.full(400, -1), defaultdict(set)
    copies = parent.take(np.zeros(400, dtype=int))
    flags = np.ones(400, dtype=bool)
    _, edits = encoding.breed(copies, np.arange(400), nobody, ~flags, flags, 5, book)
    for edit in (edit for some in edits.values() for edit in some[:1]):
        made[edit.op, edit.where].add(edit.made)
    assert len(made) > 5 and all(len(marks) == 1 for marks in made.values())


def test_a_resumed_run_hands_out_the_marks_of_the_uninterrupted_one() -> None:
    encoding = space(**GROWING)
    genomes, book = evolved(encoding, 5)
    kept = dumps(book.close().to_json()), encoding.pack_state(genomes)
    onward = bred(encoding, genomes, 99, book)
    resumed = Marks.from_json(loads(kept[0])).open()
    again = bred(encoding, encoding.unpack_state(kept[1]), 99, resumed)
    assert list(again[0]) == list(onward[0]) and again[1] == onward[1] and resumed.close() == book.close()
    new = {mark for edits in onward[1].values() for edit in edits if edit.op == "add_node" for mark in edit.made}
    assert new and min(new - genomes.alive()) >= encoding.inputs + encoding.outputs


def test_a_genome_crossed_with_itself_is_itself() -> None:
    encoding = space(**GROWING)
    genomes, book = evolved(encoding, 8)
    at, flags = np.arange(len(genomes)), np.zeros(len(genomes), dtype=bool)
    children, edits = encoding.breed(genomes, at, at, flags, flags, 1, book)
    assert list(children) == list(genomes) and not edits
    for genome in genomes:
        assert encoding.mate(genome, genome, Random(1), book) == (genome, ())


def test_faces_for_one_genome_are_those_for_many() -> None:
    encoding = space(**GROWING)
    genomes, book = evolved(encoding, 6, 20)
    distances = encoding.distances(genomes, genomes[:3])
    assert distances.shape == (20, 3)
    for i, genome in enumerate(genomes):
        assert [encoding.distance(genome, one) for one in genomes[:3]] == distances[i].tolist()
        encoding.check(genome)
    assert encoding.random(Random(1), book) == encoding.found(1, Random(1).getrandbits(64), book)[0]
    child, edits = encoding.mate(genomes[0], genomes[1], Random(2), book)
    assert child.link_mark.tolist() == genomes[0].link_mark.tolist()
    assert [edit.op for edit in edits] == ["mate"] and edits[0].args["genes"] > 0


def test_no_genomes_are_no_trouble() -> None:
    encoding, book = space(bounds={"hidden": 7, "depth": 2}), MarkBook()
    none, some = encoding.found(0, 1, book), encoding.found(3, 1, book)
    assert len(none) == 0 and encoding.distances(none, some).shape == (0, 3)
    assert encoding.distances(some, encoding.population(())).shape == (3, 0)
    nobody, flags = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    assert len(encoding.breed(some, nobody, nobody, flags, flags, 1, book)[0]) == 0


def test_a_mutation_says_what_it_changed() -> None:
    genome = space().random(Random(1), MarkBook())
    still = space(mutate_weights=0.0, structure={"add_node": 0.0, "add_link": 0.0})
    assert still.mutate(genome, Random(1), MarkBook()) is None
    values = space(mutate_weights=1.0, structure={"add_node": 0.0, "add_link": 0.0})
    child, edits = values.mutate(genome, Random(1), MarkBook()) or (genome, ())
    assert child != genome and [edit.op for edit in edits] == ["change_values"] and edits[0].args["genes"] > 0
    grown, edits = space(structure={"add_node": 1.0}).mutate(genome, Random(1), MarkBook()) or (genome, ())
    assert len(grown.node_mark) == 3 and edits[0].op == "add_node"


# -------------------------------------------------------------------------------------------------------------- bounds


def test_bounds_are_kept_at_birth() -> None:
    free = space(structure={"add_node": 0.5, "add_link": 0.5})
    tight = space(structure={"add_node": 0.5, "add_link": 0.5}, bounds={"hidden": 2, "connections": 12, "depth": 2})
    adults, _ = evolved(tight, 12)
    sizes = adults.sizes()
    assert sizes["hidden"].max() == 2 and sizes["connections"].max() <= 12 and max(map(depth, adults)) == 2
    grown, _ = evolved(free, 4)
    bounds = tight.settings.bounds
    told = [bounds.violation(free.decode(genome)) is not None for genome in grown]
    assert neat._broken(bounds, grown).tolist() == told and any(told)


def test_a_child_beyond_a_bound_is_a_copy_of_its_fitter_parent() -> None:
    encoding = space(structure={"add_node": 1.0}, bounds={"depth": 1})
    adults, book = evolved(encoding, 0, 10)
    order = np.arange(10)[::-1].copy()
    children, edits = encoding.breed(adults, order, np.full(10, -1), order < 0, order >= 0, 1, book)
    assert list(children) == list(adults)[::-1] and not edits


def test_a_violated_bound_is_told() -> None:
    genome = space().random(Random(1), MarkBook())
    plan = space().decode(genome)
    for bounds, message in (
        ({"hidden": 0}, None),
        ({"connections": 5}, "connections 6 > 5"),
        ({"params": 7}, "params 8 > 7"),
        ({"depth": 1}, None),
        ({}, None),
    ):
        assert NeatSettings(bounds=bounds).bounds.violation(plan) == message  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"none of 5 first genomes keeps encoding.bounds \(params 8 > 5\): raise the"):
        space(bounds={"params": 5}).found(5, 1, MarkBook())
    mixed = space(initial_hidden=(0, 2), bounds={"params": 14}).found(50, 1, MarkBook())
    assert mixed.sizes()["nodes"].max() == 3 and len(mixed) == 50


# ---------------------------------------------------------------------------------------------------- reading, decoding


def slow_depth(genome: NeatGenome) -> int:
    """By networkx: nodes on the longest path to an output, or on the shortest from the inputs."""
    nodes, links = arrays.rows(genome)
    graph = nx.DiGraph([(source, target) for _, source, target, _, enabled in links if enabled])
    graph.add_nodes_from([*range(genome.inputs), *[node[0] for node in nodes]])
    outputs = range(genome.inputs, genome.inputs + genome.outputs)
    if not genome.feed_forward:
        reached = nx.multi_source_dijkstra_path_length(graph, set(range(genome.inputs)))
        return max(reached.get(output, 1) for output in outputs)
    found = []
    for output in outputs:
        above = graph.subgraph({output, *nx.ancestors(graph, output)} - set(range(genome.inputs)))
        found.append(nx.dag_longest_path_length(above) + 1)
    return max(found)


@pytest.mark.parametrize("feed_forward", [True, False])
def test_plans_count_what_the_genome_holds(feed_forward: bool) -> None:
    encoding = space(feed_forward=feed_forward, **GROWING)
    genomes, _ = evolved(encoding, 12)
    sizes = genomes.sizes()
    for i, genome in enumerate(genomes):
        plan = encoding.decode(genome)
        assert [step.op for step in plan.steps] == ["input", "graph"] and plan.steps[-1].shape == (2,)
        assert plan.params == sizes["params"][i] and plan.flops == 2 * sizes["links"][i]
        assert plan.depth == depth(genome) == slow_depth(genome)
        assert plan.memory == 4 * (3 + sizes["nodes"][i])
        graph = loads(dumps(plan.steps[-1].settings))
        assert graph["nodes"] == arrays.to_json(genome)["nodes"] and graph["hidden"] == sizes["hidden"][i]
    assert max(map(depth, genomes)) > 2


def test_an_image_is_flattened_first() -> None:
    encoding = build(TABLE["neat"](), (1, 2, 3), 2)
    plan = encoding.decode(encoding.random(Random(1), MarkBook()))
    assert [(step.op, step.shape) for step in plan.steps] == [("input", (1, 2, 3)), ("flatten", (6,)), ("graph", (2,))]


def test_a_genome_of_another_task_is_refused() -> None:
    book = MarkBook()
    genome = space(4, 1).random(Random(1), book)
    message = "it has 4 inputs and 1 outputs, but the task has 3 and 2: choose a genome made for this task"
    for face in (lambda: space().check(genome), lambda: space().from_json(space(4, 1).to_json(genome)),
                 lambda: space().unpack_state(space(4, 1).pack_state([genome]))):  # fmt: skip
        with pytest.raises(DataError, match=message):
            face()
    recurrent = space(feed_forward=False).random(Random(1), book)
    with pytest.raises(DataError, match=r"it is recurrent, .* are feed-forward: set encoding.feed_forward: false"):
        space().check(recurrent)


def test_states_round_trip() -> None:
    encoding = space(**GROWING)
    genomes, _ = evolved(encoding, 6)
    assert list(encoding.unpack_state(encoding.pack_state(genomes))) == list(genomes)
    some = [genomes[5], genomes[3], genomes[5]]
    assert list(encoding.unpack_state(encoding.pack_state(some))) == some
    assert list(encoding.unpack_state(encoding.pack_state(()))) == []
    assert list(encoding.population(genomes)) == list(genomes)


def test_a_genome_in_a_few_words() -> None:
    genome = NeatGenome.of(
        2, 1, True, [[2, 0, 1, "sigmoid", "sum"], [5, 0, 1, "sigmoid", "sum"]],
        [[3, 0, 2, 1, False], [4, 1, 2, 1, True], [6, 0, 5, 1, True]],
    )  # fmt: skip
    encoding = space(2, 1)
    assert encoding.summary(genome) == "1 hidden, 2 of 3 links"
    assert encoding.alive(genome) == frozenset(range(7))


# ---------------------------------------------------------------------------------------------------------------- zoo


def xor(hidden: int = 5, first: int = 6) -> NeatGenome:
    """Two inputs, one output, a node put between input 0 and the output; marks as a file may have them."""
    return NeatGenome.of(
        2, 1, True, [[2, 0.1, 1, "sigmoid", "sum"], [hidden, 0.2, 1, "tanh", "sum"]],
        [[3, 0, 2, 1.5, False], [4, 1, 2, -1.0, True], [first, 0, hidden, 1.0, True],
         [first + 1, hidden, 2, 2.0, True], [first + 2, 1, hidden, 3.0, True]],
    )  # fmt: skip


def test_a_file_of_a_direct_genome_is_loaded(tmp_path: Path) -> None:
    encoding = space(2, 1)
    told, bare = tmp_path / "told.json", tmp_path / "bare.json"
    told.write_text(json.dumps({"name": "xor", "task": {"kind": "xor"}, "genome": encoding.to_json(xor())}))
    bare.write_text(xor().text)
    assert zoo.load(told, encoding) == zoo.load(bare, encoding) == xor()
    with pytest.raises(DataError, match=r"bare\.json: genome: it has 2 inputs"):
        zoo.load(bare, space(3, 1))
    with pytest.raises(DataError, match=r"bare\.json: genome: encoding is 'neat', expected 'dag'"):
        zoo.load(bare, build(TABLE["dag"](), (2,), 1))


def test_enrolled_founders_share_marks_with_what_the_run_grows() -> None:
    book = MarkBook()
    encoding = space(2, 1, structure={"add_node": 1.0})
    grown = encoding.found(1, 1, book)
    first, again, other = zoo.enrol([xor(), xor(), xor(hidden=90, first=20)], book)
    assert first == again == other
    arrays.check(first.population)  # type: ignore[attr-defined]
    assert set(grown.link_mark.tolist()) <= first.marks  # type: ignore[attr-defined]
    wide = grown.take(np.zeros(40, dtype=int))
    nobody, flags = np.full(40, -1), np.ones(40, dtype=bool)
    _, edits = encoding.breed(wide, np.arange(40), nobody, ~flags, flags, 1, book)
    splits = {edit.where: set(edit.made) for some in edits.values() for edit in some if edit.op == "add_node"}
    assert any(made <= first.marks for made in splits.values())  # type: ignore[attr-defined]


def test_enrolled_founders_are_the_same_networks() -> None:
    """Up to the names of hidden nodes: a graph isomorphism that keeps inputs, outputs and all values."""
    encoding = space(**GROWING)
    genomes, _ = evolved(encoding, 12, 30)
    book = MarkBook()
    for before, after in zip(genomes, zoo.enrol(list(genomes), book), strict=True):
        assert isinstance(after, NeatGenome)
        encoding.check(after)
        assert nx.is_isomorphic(labelled(before), labelled(after), _same, _same)
    assert zoo.enrol(list(genomes), book) == zoo.enrol(list(genomes), MarkBook(book.close()))
    assert zoo.enrol([], book) == ()


def labelled(genome: NeatGenome) -> nx.DiGraph:
    graph = nx.DiGraph()
    nodes, links = arrays.rows(genome)
    graph.add_nodes_from((mark, {"values": [mark]}) for mark in range(genome.inputs))
    for mark, *values in nodes:
        graph.add_node(mark, values=[*values, mark if mark < genome.inputs + genome.outputs else "hidden"])
    graph.add_edges_from((a, b, {"values": values}) for _, a, b, *values in links)
    return graph


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(a["values"] == b["values"])


# --------------------------------------------------------------------------------------------------------------- DEAP


def test_deap_breeds_direct_genomes() -> None:
    from evonas.core import Individual, Objective
    from evonas.operators import creature, fitness_class, selection, toolbox

    encoding, book = space(**GROWING), MarkBook()
    genomes = encoding.found(8, 1, book)
    objectives = (Objective("fitness", direction="max"), Objective("links"))
    fitness = fitness_class(objectives)
    made = [creature(Individual(i, one), (float(i), 6.0), fitness) for i, one in enumerate(genomes)]
    box = toolbox(encoding, book, selection("selNSGA2", {}, 2))
    chosen = box.select(made, 4)
    assert len(chosen) == 4 and len(chosen[0]) == len(chosen[0].genome.marks) == 8
    child, other = box.mate(*map(box.clone, chosen[:2]))
    (mutant,) = box.mutate(child)
    for one in (child, other, mutant):
        encoding.check(one.genome)
