"""What every morphism promises, over the table: exact ones keep the function, in evaluation and training, and are
followed by learning; every edit is replayed from JSON; impossible places are refused with their reason."""

from __future__ import annotations

from random import Random

import pytest
import torch

from evonas.core import Edit, dumps, loads
from evonas.encoding import morph
from evonas.encoding.dag import MUTATIONS, PRESETS, DagEncoding, DagSettings, apply
from evonas.encoding.genes import DagGenome
from evonas.marks import MarkBook
from evonas.phenotype import network
from evonas.phenotype.inherit import Probe, inherit
from tests.morphs import SPACE, difference, genomes, images, in_order, lively, loaded, output, parent, places, probe
from tests.unit.graphs import Graph, chain

COUNT = 5
MODES = {"insert_normed": (False,)}
"""A calibrated norm undoes itself with its own statistics; a batch's are others."""


@pytest.fixture(scope="module", params=morph.PROPOSALS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def found(kind: str) -> list[tuple[DagGenome, Edit]]:
    return places(kind, COUNT)


def test_exact_ones_keep_the_function_in_float64(kind: str, found: list[tuple[DagGenome, Edit]]) -> None:
    for genome, edit in found:
        before = lively(genome)
        made = inherit(SPACE, [parent(genome, before)], [edit], apply(genome, edit), 1, probe())
        assert made.exact == (kind in morph.EXACT)
        after = loaded(apply(genome, edit), made.tensors)
        for training in MODES.get(kind, (False, True)):
            gap = difference(output(after, training, images()), output(before, training, images()))
            assert gap <= 1e-12 if kind in morph.EXACT else gap < 100, f"{edit} of {genome.text}"


def test_default_forms_keep_it_bit_for_bit(kind: str) -> None:
    """With sums in a fixed order in float32: what was added adds exactly nothing."""
    if kind not in morph.BIT_FOR_BIT:
        pytest.skip("exact but for rounding")
    x = images(6).to(torch.float32)
    for genome, edit in places(kind, 3, first=1000):
        before = lively(genome, torch.float32)
        made = inherit(SPACE, [parent(genome, before)], [edit], apply(genome, edit), 1)
        after = loaded(apply(genome, edit), made.tensors, torch.float32)
        before, after = in_order(before), in_order(after)
        for training in (False, True):
            assert torch.equal(output(after, training, x), output(before, training, x)), f"{edit} of {genome.text}"


def test_rounding_stays_within_what_is_said(kind: str, found: list[tuple[DagGenome, Edit]]) -> None:
    if kind not in morph.EXACT:
        pytest.skip("approximate")
    x = images().to(torch.float32)
    for genome, edit in found:
        before = lively(genome, torch.float32)
        made = inherit(SPACE, [parent(genome, before)], [edit], apply(genome, edit), 1, probe(torch.float32))
        after = loaded(apply(genome, edit), made.tensors, torch.float32)
        for training in MODES.get(kind, (False, True)):
            assert difference(output(after, training, x), output(before, training, x)) <= 5e-6, str(edit)


def test_a_gradient_step_reaches_the_new_genes(kind: str, found: list[tuple[DagGenome, Edit]]) -> None:
    """What was put in learns: after two steps the numbers of every gene that the edit made have moved."""
    target = probe().y
    for genome, edit in found[:4]:
        child = apply(genome, edit)
        made = inherit(SPACE, [parent(genome, lively(genome))], [edit], child, 1, probe())
        network = loaded(child, made.tensors).train()
        optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
        for _ in range(2):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images()), target).backward()
            optimiser.step()
        assert not torch.equal(output(network, False, images()), output(loaded(child, made.tensors), False, images()))
        names = {f"layer{mark}" for mark in edit.made} | {f"edge{mark}" for mark in edit.made}
        for name, value in network.named_parameters():
            if name.partition(".")[0] in names and name.endswith(("weight", "scale")):
                assert not torch.equal(value, made.tensors[name]), f"{name} does not learn after {edit}"


def test_edits_are_replayed_from_json_and_leave_the_parent(kind: str, found: list[tuple[DagGenome, Edit]]) -> None:
    for genome, edit in found:
        text = genome.text
        child = apply(genome, edit)
        SPACE.check(child)
        again = apply(genome, Edit.from_json(loads(dumps(edit.to_json()))))
        assert child == again and child.key != genome.key and genome.text == text


def test_approximate_ones_keep_more_than_a_new_network(kind: str, found: list[tuple[DagGenome, Edit]]) -> None:
    """Most of the weights are the parent's, and nothing is NaN."""
    for genome, edit in found:
        made = inherit(SPACE, [parent(genome, lively(genome))], [edit], apply(genome, edit), 1, probe())
        assert all(value.isfinite().all() for value in made.tensors.values())
        assert 0 <= made.share <= 1 and sum(len(gene) for gene in made.sources.values()) > 0


def test_presets_name_mutations_of_the_table() -> None:
    for weights in PRESETS.values():
        assert weights.keys() <= MUTATIONS.keys()
    assert PRESETS["exact"].keys() <= set(morph.EXACT)
    assert {*morph.BIT_FOR_BIT, *morph.ROUNDING} == set(morph.EXACT)
    assert PRESETS["morphisms"].keys() <= {*morph.EXACT, *morph.APPROXIMATE}


def test_no_place_is_none() -> None:
    empty = chain()
    rng, marks = Random(0), MarkBook()
    marks.reserve(50)
    for kind in ("widen", "replicate", "narrow", "enlarge_kernel", "dilate_kernel", "split_layer", "separate"):
        assert morph.PROPOSALS[kind](SPACE, empty, rng, marks) is None


# ------------------------------------------------------------------------------------------------- refused, and why


def summed(**second: object) -> DagGenome:
    """0 -> 3 (conv) -> 7 -> output; 0 -> 5 -> 7 (sum)."""
    graph = Graph()
    first = graph.layer("conv", 0, channels=8, kernel=3, norm="batch")
    other = graph.layer("conv", 0, **{"channels": 8, "kernel": 3, **second})
    graph.layer("identity", first, other, merge="sum")
    return graph.genome()


def mark_of(genome: DagGenome, nth: int) -> int:
    return genome.layers[2 + nth].mark


def test_a_sum_ties_the_widths_of_its_producers() -> None:
    genome = summed()
    first, second = mark_of(genome, 0), mark_of(genome, 1)
    assert morph.tied(SPACE.decode(genome), first) == (first, second)
    alone = Edit("widen", (first,), (), {"channels": 12})
    assert "would be needed, which is not there" in str(morph.refusal(SPACE, genome, alone))
    assert morph.refusal(SPACE, genome, Edit("widen", (first, second), (), {"channels": 12})) is None


def test_a_sum_with_the_input_or_a_concatenation_fixes_its_widths() -> None:
    graph = Graph()
    first = graph.layer("conv", 0, channels=1, kernel=3)
    graph.layer("identity", first, 0, merge="sum")
    genome = graph.genome()
    assert morph.tied(SPACE.decode(genome), first) == (
        f"layer {first} is added to input of layer0, whose channels cannot be chosen"
    )
    graph = Graph()
    one, two = graph.layer("conv", 0, channels=4), graph.layer("conv", 0, channels=4)
    joined = graph.layer("identity", one, two, merge="concat")
    other = graph.layer("conv", 0, channels=8)
    graph.layer("identity", joined, other, merge="sum")
    assert "concat of" in str(morph.tied(SPACE.decode(graph.genome()), other))
    assert morph.tied(SPACE.decode(chain({"op": "conv", "channels": 4})), 1) == "the task chooses the number of outputs"


def test_a_group_norm_refuses_channels_that_would_mix_with_its_groups() -> None:
    genome = chain({"op": "conv", "channels": 8, "kernel": 3, "norm": "group"})
    mark = mark_of(genome, 0)
    assert morph.refusal(SPACE, genome, Edit("widen", (mark,), (), {"channels": 12})) is None, "one group more"
    mixed = Edit("widen", (mark,), (), {"channels": 9})
    assert "would mix old channels with new ones" in str(morph.refusal(SPACE, genome, mixed))


def test_a_window_that_covers_the_image_cannot_grow() -> None:
    genome = chain({"op": "conv", "channels": 4, "kernel": 15})
    edit = Edit("enlarge_kernel", (mark_of(genome, 0),), (), {"kernel": 17})
    assert morph.refusal(SPACE, genome, edit) == "the window already covers the image"


def test_a_smaller_image_beside_a_larger_one_is_refused() -> None:
    """Images that meet are pooled to the smallest: a smaller one would shrink those that are there."""
    graph = Graph()
    large = graph.layer("conv", 0, channels=4, kernel=3)
    small = graph.layer("max_pool", 0, kernel=2, stride=2)
    graph.layer("conv", large, channels=4, kernel=3)
    last = graph.layer("identity", graph.at, merge="concat")
    graph.layer("output", last, small, merge="concat")
    genome = graph.genome()
    edit = Edit("skip_concat", (small, last), (90,), {"layers": [], "edges": [[90, small, last]], "join": "concat"})
    assert "max pool of edge" in str(morph.refusal(SPACE, genome, edit)), "of the edge that is there"
    edit = Edit("skip_concat", (large, last), (90,), {"layers": [], "edges": [[90, large, last]], "join": "concat"})
    assert morph.refusal(SPACE, genome, edit) is None


def test_what_is_no_exact_morphism_says_so() -> None:
    genome = chain({"op": "conv", "channels": 8, "kernel": 3})
    edit = Edit("narrow", (mark_of(genome, 0),), (), {"channels": 4})
    assert "narrow is no exact morphism; exact are: insert_layer" in str(morph.refusal(SPACE, genome, edit))


# ------------------------------------------------------------------------------------------------------------ chains


def test_a_chain_of_fifty_keeps_the_function() -> None:
    kinds = list(PRESETS["exact"])
    for start in (0, 40):
        genome, rng, marks = next(genomes(start))
        before = lively(genome)
        child, edits = genome, []
        while len(edits) < 50:
            edit = morph.PROPOSALS[rng.choice(kinds)](SPACE, child, rng, marks)
            if edit is not None and SPACE.decode(apply(child, edit)).params < 100_000:
                child = apply(child, edit)
                edits.append(edit)
        made = inherit(SPACE, [parent(genome, before)], edits, child, 1)
        after = loaded(child, made.tensors)
        for training in (False, True):
            assert difference(output(after, training, images()), output(before, training, images())) <= 1e-10


# ------------------------------------------------------------------------------------------------ any kind of input


@pytest.mark.parametrize("shape", [(13,), (3, 5, 7), (1, 1, 40), (2, 1, 1), (1,)], ids=str)
def test_walks_of_morphisms_stay_valid_and_exact_on_any_input(shape: tuple[int, ...]) -> None:
    settings = {
        "channels": (1, 3, 7, 8, 16),
        "norms": ("batch", "group", "none"),
        "dilations": (1, 2),
        "layers": (0, 30),
    }
    ordinary = DagEncoding(DagSettings(**settings), shape, 4)
    space = DagEncoding(DagSettings(**settings, mutations="morphisms"), shape, 4)
    x = torch.randn(16, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = Probe(x, torch.zeros(16, dtype=torch.int64))
    exact = 0
    for seed in range(6):
        rng, marks = Random(seed), MarkBook()
        genome = ordinary.random(rng, marks)
        for _ in range(10):
            changed = space.mutate(genome, rng, marks)
            if changed is None or space.decode(changed[0]).params > 40_000:
                continue
            child, edits = changed
            space.check(child)
            before, after = (network.build(space.decode(one), seed).double() for one in (genome, child))
            made = inherit(space, [parent(genome, before)], edits, child, 1, seen)
            network.load(after, made.tensors)
            draws = any(step.op == "dropout" for step in space.decode(child).steps)
            for training in (False,) if draws else (False, True):
                gap = difference(output(after, training, x), output(before, training, x))
                assert gap <= 1e-10 or not made.exact, f"{[str(edit) for edit in edits]} of {genome.text}"
            exact += made.exact
            genome = child
    assert exact > 10
