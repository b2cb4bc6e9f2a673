"""Carrying weights along edits: by marks, through crossover, with buffers and the optimiser's state."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from evonas.core import DataError, Edit
from evonas.encoding import morph
from evonas.encoding.channels import Span, labels, layouts
from evonas.encoding.dag import MUTATIONS, DagEncoding, DagSettings, apply
from evonas.encoding.genes import DagGenome
from evonas.marks import MarkBook
from evonas.phenotype import network
from evonas.phenotype.inherit import Parent, Probe, inherit, matched
from tests.morphs import SPACE, difference, genomes, images, lively, loaded, output, parent, probe
from tests.unit.graphs import Graph, chain

CONV = {"op": "conv", "channels": 8, "kernel": 3, "norm": "batch", "activation": "relu"}


def moments(genome: DagGenome, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    built = network.build(SPACE.decode(genome))
    named = {name: torch.randn(value.shape, generator=draw) for name, value in built.named_parameters()}
    return {"exp_avg": named, "step": {name: torch.tensor(7.0) for name in named}}


# ----------------------------------------------------------------------------------------------------------- channels


def test_channels_are_named_by_who_made_them_and_by_their_way() -> None:
    graph = Graph()
    first, second = graph.layer("conv", 0, channels=2), graph.layer("conv", 0, channels=3)
    pool = graph.layer("max_pool", first, kernel=3)
    joined = graph.layer("conv", first, second, pool, channels=1, merge="concat")
    found = layouts(SPACE.decode(graph.genome()))
    own = [Span(f"layer{first}", 0, 2), Span(f"layer{second}", 0, 3)]
    assert list(found[f"layer{joined}_merge"]) == [*own, Span(f"layer{first}", 0, 2, (f"layer{pool}",))]
    listed = labels(found[f"layer{joined}_merge"])
    assert matched(listed, labels(tuple(own))).tolist() == [0, 1, 2, 3, 4, -1, -1]
    assert matched(listed, list(reversed(listed))).tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert matched(listed[:2], listed[5:]).tolist() == [0, 1], "the same channels by another way, none by this one"


def test_a_second_way_from_a_layer_is_not_taken_for_the_first() -> None:
    """6 hands 20 on to 9, which listens to 20 itself already: the old columns stay with the old way."""
    graph = Graph()
    first, other = graph.layer("conv", 0, channels=4, kernel=3), graph.layer("conv", 0, channels=4)
    pool = graph.layer("avg_pool", first, kernel=3, merge="concat")
    graph.layer("conv", pool, other, channels=4, merge="concat")
    genome = graph.genome()
    edge = [90, other, pool]
    edit = Edit("skip_concat", (other, pool), (90,), {"layers": [], "edges": [edge], "join": "concat"})
    assert morph.refusal(SPACE, genome, edit) is None
    before, child = lively(genome), apply(genome, edit)
    made = inherit(SPACE, [parent(genome, before)], [edit], child, 1)
    assert difference(output(loaded(child, made.tensors), False, images()), output(before, False, images())) < 1e-12


# ------------------------------------------------------------------------------------------------------- continuation


def test_no_edit_is_a_continuation() -> None:
    genome = chain(CONV, CONV)
    built = lively(genome)
    made = inherit(SPACE, [replace(parent(genome, built), moments=moments(genome))], [], genome, 3)
    assert made.share == 1.0 and made.exact and all(gene == {0: 1.0} for gene in made.sources.values())
    assert made.tensors.keys() == built.state_dict().keys()
    assert all(torch.equal(value, made.tensors[name]) for name, value in built.state_dict().items())
    assert made.moments.keys() == {"exp_avg", "step"}


def test_wrong_edits_and_weights_are_refused() -> None:
    genome = chain(CONV, CONV)
    built = lively(genome)
    with pytest.raises(DataError, match=r"0 edits of .* are they of another parent"):
        inherit(SPACE, [parent(genome, built)], [], chain(CONV), 3)
    partly = {name: value for name, value in built.state_dict().items() if "layer2" not in name}
    with pytest.raises(DataError, match=r"the parent's weights lack layer2\.conv\.weight"):
        inherit(SPACE, [Parent(genome, partly)], [], genome, 3)


# -------------------------------------------------------------------------------------------------- buffers, optimiser


def test_buffers_and_the_optimisers_state_follow_their_channels() -> None:
    genome = chain(CONV, CONV)
    first, second = genome.layers[2].mark, genome.layers[3].mark
    before, state = lively(genome), moments(genome)
    edit = Edit("widen", (first,), (), {"channels": 12})
    child = apply(genome, edit)
    made = inherit(SPACE, [replace(parent(genome, before), moments=state)], [edit], child, 3)
    old, name = before.state_dict(), f"layer{first}.norm.running_var"
    assert torch.equal(made.tensors[name][:8], old[name]) and bool((made.tensors[name][8:] == 1).all())
    assert made.tensors[f"layer{first}.norm.num_batches_tracked"] == 3
    average = made.moments["exp_avg"]
    assert torch.equal(average[f"layer{second}.conv.weight"][:, :8], state["exp_avg"][f"layer{second}.conv.weight"])
    assert not average[f"layer{second}.conv.weight"][:, 8:].any() and not average[f"layer{first}.conv.weight"][8:].any()
    assert made.moments["step"][f"layer{first}.conv.weight"] == 7
    shapes = {key: value.shape for key, value in network.build(SPACE.decode(child)).named_parameters()}
    assert {key: value.shape for key, value in average.items()} == shapes
    taken = 8 * 9 + 8 * 2 + 8 * 8 * 9 + 8 * 2 + 8 * 10 + 10
    assert made.share == pytest.approx(taken / SPACE.decode(child).params)


def test_new_weights_are_drawn_by_the_seed_alone() -> None:
    genome = chain(CONV)
    mark = genome.layers[2].mark
    edit = Edit("widen", (mark,), (), {"channels": 16})
    one, two, other = (
        inherit(SPACE, [parent(genome, lively(genome))], [edit], apply(genome, edit), seed) for seed in (1, 1, 2)
    )
    name = f"layer{mark}.conv.weight"
    assert torch.equal(one.tensors[name], two.tensors[name])
    assert torch.equal(one.tensors[name][:8], other.tensors[name][:8])
    assert not torch.equal(one.tensors[name][8:], other.tensors[name][8:])


# --------------------------------------------------------------------------------------------------------- approximate


def test_narrowing_keeps_the_strongest_filters_and_what_listens_to_them() -> None:
    genome = chain(CONV, CONV)
    first, second = genome.layers[2].mark, genome.layers[3].mark
    before = lively(genome)
    weak = [1, 4, 6]
    with torch.no_grad():
        before.get_parameter(f"layer{first}.norm.weight")[weak] = 0.0
        before.get_parameter(f"layer{first}.norm.bias")[weak] = 0.0
    edit = Edit("narrow", (first,), (), {"channels": 5})
    child = apply(genome, edit)
    made = inherit(SPACE, [parent(genome, before)], [edit], child, 3)
    kept, old = [0, 2, 3, 5, 7], before.state_dict()
    assert torch.equal(made.tensors[f"layer{first}.conv.weight"], old[f"layer{first}.conv.weight"][kept])
    assert torch.equal(made.tensors[f"layer{second}.conv.weight"], old[f"layer{second}.conv.weight"][:, kept])
    assert torch.equal(made.tensors[f"layer{first}.norm.running_mean"], old[f"layer{first}.norm.running_mean"][kept])
    assert not made.exact and made.share == 1.0
    # what fell silent is not missed
    assert difference(output(loaded(child, made.tensors), False, images()), output(before, False, images())) < 1e-12


@pytest.mark.parametrize("criterion", ["norm", "activation", "shapley", "random"])
def test_every_criterion_prunes_tied_layers_together(criterion: str) -> None:
    graph = Graph()
    first = graph.layer("conv", 0, channels=8, kernel=3, activation="relu")
    second = graph.layer("conv", 0, channels=8, kernel=3, activation="relu")
    graph.layer("identity", first, second)
    genome = graph.genome()
    before = lively(genome, torch.float32)
    edit = Edit("narrow", (first, second), (), {"channels": 4})
    seen = replace(probe(torch.float32), criterion=criterion)  # type: ignore[arg-type]
    made = inherit(SPACE, [parent(genome, before)], [edit], apply(genome, edit), 3, seen)
    old = before.state_dict()

    def kept(mark: int) -> list[int]:
        ours, theirs = made.tensors[f"layer{mark}.conv.weight"], old[f"layer{mark}.conv.weight"]
        return [next(i for i, row in enumerate(theirs) if torch.equal(row, one)) for one in ours]

    assert kept(first) == kept(second) == sorted(kept(first))


def test_a_separated_convolution_is_its_best_approximation_of_rank_one() -> None:
    genome = chain({"op": "conv", "channels": 6, "kernel": 3}, {"op": "conv", "channels": 5, "kernel": 3})
    mark = genome.layers[3].mark
    before = lively(genome)
    edit = Edit("separate", (mark,), (), {"op": "separable", "channels": 5, "kernel": 3})
    made = inherit(SPACE, [parent(genome, before)], [edit], apply(genome, edit), 3)
    wide = before.state_dict()[f"layer{mark}.conv.weight"]
    depth, point = made.tensors[f"layer{mark}.depthwise.weight"], made.tensors[f"layer{mark}.pointwise.weight"]
    product = point[:, :, 0, 0, None, None] * depth[:, 0][None]
    for channel in range(6):
        singular = torch.linalg.svdvals(wide[:, channel].reshape(5, 9))
        assert (wide - product)[:, channel].norm() == pytest.approx(float(singular[1:].norm()), rel=1e-9)
    exact = chain({"op": "conv", "channels": 6, "kernel": 3}, {"op": "conv", "channels": 5, "kernel": 3})
    single = lively(exact)
    with torch.no_grad():
        row, tap = torch.randn(5, 6, 1, 1).double(), torch.randn(1, 6, 3, 3).double()
        single.get_parameter(f"layer{mark}.conv.weight").copy_(row * tap)
    made = inherit(SPACE, [parent(exact, single)], [edit], apply(exact, edit), 3)
    after = loaded(apply(exact, edit), made.tensors)
    assert difference(output(after, False, images()), output(single, False, images())) < 1e-12


def test_a_smaller_window_keeps_its_centre() -> None:
    genome = chain({"op": "conv", "channels": 4, "kernel": 5})
    mark = genome.layers[2].mark
    before = lively(genome)
    edit = Edit("shrink_kernel", (mark,), (), {"kernel": 3})
    made = inherit(SPACE, [parent(genome, before)], [edit], apply(genome, edit), 3)
    old = before.state_dict()[f"layer{mark}.conv.weight"]
    assert torch.equal(made.tensors[f"layer{mark}.conv.weight"], old[:, :, 1:4, 1:4])


@pytest.mark.parametrize("op", ["widen", "replicate"])
def test_a_projection_follows_the_channels_that_it_is_added_to(op: str) -> None:
    """New channels of the first of two concatenated layers stand in the middle of the sum."""
    graph = Graph()
    first = graph.layer("conv", 0, channels=2, kernel=3, norm="batch")
    second = graph.layer("conv", 0, channels=3, kernel=3)
    joined = graph.layer("identity", first, second, merge="concat")
    graph.layer("identity", joined, 0, merge="sum")
    genome = graph.genome()
    copies = [[0, 0.4], [1, 0.5], [0, 0.6]]
    edit = Edit(op, (first,), (), {"channels": 5, **({"copies": copies} if op == "replicate" else {})})
    before, child = lively(genome), apply(genome, edit)
    assert morph.refusal(SPACE, genome, edit) is None
    made = inherit(SPACE, [parent(genome, before)], [edit], child, 1)
    for training in (False, True):
        gap = difference(output(loaded(child, made.tensors), training, images()), output(before, training, images()))
        assert gap < 1e-12


@pytest.mark.parametrize("kind", morph.APPROXIMATE)
def test_rows_to_look_at_bring_children_closer_to_their_parent(kind: str) -> None:
    """Layers behind the edit are fitted: on other rows the outputs differ less than with the carried weights alone."""
    x = images(240).float()
    seen, unseen = Probe(x[:200], torch.zeros(200)), x[200:]
    gaps = []
    for start in range(100):
        genome, rng, marks = next(genomes(start * 5))
        edit = MUTATIONS[kind][0](SPACE, genome, rng, marks)
        if edit is None or SPACE.decode(apply(genome, edit)) == SPACE.decode(genome):
            continue
        before, child = lively(genome, torch.float32), apply(genome, edit)
        wanted = output(before, False, unseen)
        found = [inherit(SPACE, [parent(genome, before)], [edit], child, 1, one) for one in (None, seen)]
        assert found[0].share == found[1].share and found[0].tensors.keys() == found[1].tensors.keys()
        outputs = [output(loaded(child, one.tensors, torch.float32), False, unseen) for one in found]
        gaps.append([float((one - wanted).square().mean() / wanted.var()) for one in outputs])
        if len(gaps) == 8:
            break
    plain, fitted = np.array(gaps).T
    assert np.median(fitted) < 0.5 * np.median(plain), gaps


def test_what_the_edit_does_not_reach_is_not_fitted() -> None:
    genome = chain(CONV, CONV, CONV)
    first, second, third = (gene.mark for gene in genome.layers[2:5])
    before = lively(genome, torch.float32)
    edit = Edit("narrow", (second,), (), {"channels": 5})
    made = inherit(SPACE, [parent(genome, before)], [edit], apply(genome, edit), 1, probe(torch.float32))
    old = before.state_dict()
    assert all(
        torch.equal(value, old[name]) for name, value in made.tensors.items() if name.startswith(f"layer{first}.")
    )
    rows, name = made.tensors[f"layer{second}.conv.weight"], f"layer{third}.conv.weight"
    assert all(any(torch.equal(row, one) for one in old[f"layer{second}.conv.weight"]) for row in rows)
    assert made.tensors[name].shape == (8, 5, 3, 3) and not torch.equal(made.tensors[name], old[name][:, :5])


def test_a_fit_finds_a_function_that_can_be_had() -> None:
    """A layer loses filters that say no more than others, only less loudly: the layer behind it makes up for it."""
    genome = chain({**CONV, "activation": "linear"}, CONV)
    first = genome.layers[2].mark
    before = lively(genome)
    with torch.no_grad():
        for name, value in before.state_dict().items():
            if name.startswith(f"layer{first}.") and value.dim():
                value[4:] = value[:4] * (0.5 if name.endswith(("norm.weight", "norm.bias")) else 1.0)
    edit = Edit("narrow", (first,), (), {"channels": 4})
    child = apply(genome, edit)
    gaps = []
    for rows in (None, probe()):
        made = inherit(SPACE, [parent(genome, before)], [edit], child, 1, rows)
        gaps.append(difference(output(loaded(child, made.tensors), False, images()), output(before, False, images())))
    assert gaps[1] < 0.25 * gaps[0], gaps


# ------------------------------------------------------------------------------------------- any mutation, crossover


def test_ten_ordinary_mutations_in_a_row_always_carry() -> None:
    """Whatever mutations do, the child gets a complete and finite state, and no weight of the parent twice."""
    shares = []
    for start in range(12):
        genome, rng, marks = next(genomes(start * 7))
        child, edits = genome, []
        for _ in range(10):
            changed = SPACE.mutate(child, rng, marks)
            if changed is not None and SPACE.decode(changed[0]).params < 60_000:
                child, edits = changed[0], edits + list(changed[1])
        made = inherit(SPACE, [parent(genome, lively(genome))], edits, child, 1, probe())
        built = loaded(child, made.tensors)
        assert bool(output(built, False, images()).isfinite().all())
        was, now = SPACE.decode(genome).params, SPACE.decode(child).params
        assert made.share * now <= was + 1e-6
        shares.append(made.share * now / was)
    assert min(shares) > 0


@pytest.mark.parametrize("given", [4, 12])
@pytest.mark.parametrize("new", [{"op": "identity"}, {"op": "conv", "channels": 8, "kernel": 3}])
def test_a_norm_of_filters_is_none_of_channels_that_are_handed_on(new: dict[str, Any], given: int) -> None:
    """Where an operation of another kind takes a layer's place, its norm begins anew, whatever the widths."""
    old: dict[str, Any] = CONV if new["op"] == "identity" else {"op": "identity", "norm": "batch"}
    genome = chain({**CONV, "channels": given}, old)
    mark = genome.live[2]
    edit = Edit("change_op", (mark,), (), {**new, "norm": "batch"})
    before, child = lively(genome), apply(genome, edit)
    made = inherit(SPACE, [parent(genome, before)], [edit], child, 1)
    assert bool((made.tensors[f"layer{mark}.norm.running_var"] == 1).all())
    assert made.sources[f"layer{mark}"] == {}, "nothing of it is the parent's"


def test_children_of_two_take_each_gene_with_its_weights() -> None:
    """Crossover by marks: a layer that came from the second parent has the second parent's tensors."""
    marks, rng = MarkBook(), Random(4)
    space, seen = DagEncoding(DagSettings(union=0.5, channels=(4, 8)), (1, 8, 8), 10), [0, 0]
    for _ in range(12):
        ancestor = space.random(rng, marks)
        both = []
        for _ in range(2):
            genome = ancestor
            for _ in range(4):
                changed = space.mutate(genome, rng, marks)
                genome = changed[0] if changed else genome
            both.append(genome)
        child, edits = space.mate(both[0], both[1], rng, marks)
        givers = []
        for number, genome in enumerate(both):
            built = network.build(space.decode(genome), 1)
            tensors = {
                name: torch.full_like(value, number + 1.0) if value.is_floating_point() else value
                for name, value in built.state_dict().items()
            }
            givers.append(Parent(genome, tensors))
        made = inherit(space, givers, edits, child, 1)
        taken = set(edits[0].where) if edits else set()
        for gene, sources in made.sources.items():
            both_have = all(any(name.startswith(f"{gene}.") for name in one.tensors) for one in givers)
            if gene.startswith("layer") and sources and both_have:
                giver = int(int(gene.removeprefix("layer")) in taken)
                assert sources.keys() == {giver}
                weights = [value for name, value in made.tensors.items() if name.startswith(f"{gene}.conv.weight")]
                assert all(set(value.flatten().tolist()) & {1.0, 2.0} == {giver + 1.0} for value in weights)
                seen[giver] += 1
    assert min(seen) > 5


def test_crossover_with_oneself_is_a_continuation() -> None:
    genome, rng, marks = next(genomes(3))
    child, edits = SPACE.mate(genome, genome, rng, marks)
    one = parent(genome, lively(genome))
    made = inherit(SPACE, [one, one], edits, child, 1)
    assert child == genome and made.share == 1.0
    assert all(torch.equal(value, made.tensors[name]) for name, value in one.tensors.items())
