"""The layer-graph encoding: decoding rules against torch's own counts, published sizes, mutations, bad files."""

from __future__ import annotations

import copy
import gc
import json
import random
import weakref
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from evonas.core import DataError, Edit, dumps, loads
from evonas.encoding import genes
from evonas.encoding.dag import MUTATIONS, Bounds, DagEncoding, DagSettings, MutationWeights, apply
from evonas.encoding.decode import decode, group_count
from evonas.encoding.genes import CHOICES, USES, DagGenome, EdgeGene, LayerGene
from evonas.encoding.plan import Plan, Step
from evonas.marks import INPUT, OUTPUT, MarkBook, Marks
from evonas.phenotype.network import build

from .graphs import Graph, chain, lenet, resnet20

CONV = {"op": "conv", "channels": 8, "kernel": 3}
WIDE = DagSettings(
    channels=(1, 3, 7, 8, 16),
    kernels=(1, 3, 5, 7),
    pool_kernels=(2, 3, 4, 5),
    dilations=(1, 2, 3),
    activations=CHOICES["activation"],
    norms=("none", "batch", "group"),
    reduces=("mean", "flatten"),
    layers=(0, 14),
)


def steps_of(genome: DagGenome, shape: tuple[int, ...], outputs: int = 10) -> dict[str, Step]:
    return {step.name: step for step in decode(genome, shape, outputs).steps}


def assert_counts_are_torchs(plan: Plan) -> None:
    """Parameters, FLOPs and every step's shape as torch has them."""
    network = build(plan).eval()
    shapes = {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _m, _i, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *plan.steps[0].shape))  # on the meta device it takes three times as long
    assert shapes == {step.name: step.shape for step in plan.steps[1:]}
    assert plan.params == sum(parameter.numel() for parameter in network.parameters())
    assert plan.flops == counter.get_total_flops()
    own = {step.name: step.params for step in plan.steps[1:]}
    assert own == {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}


# --------------------------------------------------------------------------------------------- decoding and counts


def every_setting() -> list[dict[str, Any]]:
    """Each operation with each value of each attribute, the others at a usual value."""
    usual = {"channels": 6, "kernel": 3, "stride": 2, "rate": 0.2}
    values = {**CHOICES, "channels": (1, 7, 12), "kernel": (1, 2, 3, 4, 5, 9), "stride": (1, 2), "dilation": (1, 2, 5),
              "rate": (0.0, 0.5)}  # fmt: skip
    found = []
    for op, uses in USES.items():
        base = {"op": op, **{name: value for name, value in usual.items() if name in uses}}
        for name in uses:
            found += [{**base, name: value} for value in values[name]]
    even = [layer for layer in found if layer.get("kernel", 1) % 2 == 0]
    return [layer for layer in found if layer not in even or layer["op"].endswith("pool")]


@pytest.mark.parametrize("shape", [(3, 9, 6), (2, 1, 11), (4, 1, 1), (5,), (1,)])
def test_counts_and_shapes_of_every_operation_and_setting_equal_torchs(shape: tuple[int, ...]) -> None:
    for layer in every_setting():
        if layer["op"] == "output":
            genome = chain(CONV, **{name: value for name, value in layer.items() if name != "op"})
        elif layer["op"] != "input":
            genome = chain(layer, layer)
        genes.check(genome)
        assert_counts_are_torchs(decode(genome, shape, 3))


@cache
def random_genomes(shape: tuple[int, ...], count: int) -> tuple[list[DagGenome], Marks]:
    """Genomes of random walks, and the registry after them."""
    encoding, rng, marks = DagEncoding(WIDE, shape, 3), random.Random(str(shape)), MarkBook()
    found: list[DagGenome] = []
    genome = encoding.random(rng, marks)
    for step in range(4 * count):
        result = encoding.mutate(genome, rng, marks)
        genome = result[0] if result and step % 60 else encoding.random(rng, marks)
        if step % 4 == 3:
            found.append(genome)
    return found, marks.close()


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 40), (1, 28, 28), (13,)])
def test_counts_and_shapes_of_random_genomes_equal_torchs(shape: tuple[int, ...]) -> None:
    """80 genomes of each of four shapes."""
    for genome in random_genomes(shape, 80)[0]:
        assert_counts_are_torchs(decode(genome, shape, 3))


def test_lenet_5_has_its_published_size() -> None:
    plan = decode(lenet(), (1, 28, 28), 10)
    assert plan.params == 61_706
    assert [step.shape for step in plan.steps] == [
        (1, 28, 28), (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (400,), (120,), (84,), (10,)
    ]  # fmt: skip
    assert plan.depth == 5
    assert_counts_are_torchs(plan)


def test_resnet_20_has_its_published_size_and_projections() -> None:
    plan = decode(resnet20(), (3, 32, 32), 10)
    assert plan.params == 272_474
    projections = [step for step in plan.steps if step.name.startswith("edge") and step.op == "conv"]
    assert [step.params for step in projections] == [16 * 32 + 64, 32 * 64 + 128]
    assert plan.depth == 20
    assert_counts_are_torchs(plan)


def test_same_padding_gives_the_size_divided_by_the_stride_rounded_up() -> None:
    for op, kernel, stride, size in product(("conv", "max_pool"), (1, 2, 3, 4, 7), (1, 2), (1, 2, 3, 8, 9)):
        if kernel % 2 or (op == "max_pool" and stride == 2):
            layer = {"op": op, "kernel": kernel, "stride": stride} | ({"channels": 4} if op == "conv" else {})
            assert steps_of(chain(layer), (4, size, 1))["layer2"].shape == (4, -(-size // stride), 1)


def test_valid_padding_becomes_same_where_the_image_is_smaller_than_the_window() -> None:
    layer = {"op": "conv", "channels": 4, "kernel": 5, "padding": "valid"}
    assert steps_of(chain(layer), (1, 9, 9))["layer2"].shape == (4, 5, 5)
    assert steps_of(chain(layer), (1, 9, 4))["layer2"].shape == (4, 9, 4)
    assert steps_of(chain(layer), (1, 1, 9))["layer2"].shape == (4, 1, 5)


def test_kernels_keep_only_the_taps_that_can_touch_the_image() -> None:
    layer = {"op": "conv", "channels": 1, "kernel": 7, "dilation": 2}
    assert steps_of(chain(layer), (1, 1, 40))["layer2"].settings["kernel"] == (1, 7)
    assert steps_of(chain(layer), (1, 3, 5))["layer2"].settings["kernel"] == (3, 5)
    assert steps_of(chain(layer), (1, 2, 40))["layer2"].settings["kernel"] == (1, 7)


def test_left_out_taps_would_have_changed_nothing() -> None:
    """A 7x7 convolution of a 3x2 image equals the decoded 5x3 one with the middle of its weights."""
    small = build(decode(chain({"op": "conv", "channels": 1, "kernel": 7}), (1, 3, 2), 2), seed=1)
    weight, bias = small.get_parameter("layer2.conv.weight"), small.get_parameter("layer2.conv.bias")
    assert weight.shape == (1, 1, 5, 3)
    whole = torch.randn(1, 1, 7, 7)
    whole[:, :, 1:6, 2:5] = weight.detach()
    x = torch.randn(2, 1, 3, 2)
    expected = torch.nn.functional.conv2d(x, whole, bias, padding=3)
    torch.testing.assert_close(small.get_submodule("layer2")(x), expected)


def joined(merge: str, first: dict[str, Any], second: dict[str, Any]) -> DagGenome:
    """Layers 2 and 4 on the input, joined by the identity 6 whose edges are 7 (from 2) and 8 (from 4)."""
    graph = Graph()
    a = graph.layer(first["op"], INPUT, **{name: value for name, value in first.items() if name != "op"})
    b = graph.layer(second["op"], INPUT, **{name: value for name, value in second.items() if name != "op"})
    graph.layer("identity", a, b, merge=merge)
    return graph.genome()


def test_a_sum_has_the_channels_of_its_oldest_edge_and_projects_the_others() -> None:
    wide = {"op": "conv", "channels": 12, "kernel": 3}
    steps = steps_of(joined("sum", CONV, wide), (1, 6, 6))
    assert steps["layer6_merge"].shape == (8, 6, 6) and steps["edge8"].settings["norm"] == "batch"
    assert steps["edge8"].params == 12 * 8 + 16 and "edge7" not in steps
    assert steps_of(joined("sum", wide, CONV), (1, 6, 6))["layer6_merge"].shape == (12, 6, 6)


def test_concatenation_joins_in_the_order_of_marks() -> None:
    steps = steps_of(joined("concat", CONV, {"op": "conv", "channels": 12, "kernel": 3}), (1, 6, 6))
    assert steps["layer6_merge"].shape == (20, 6, 6) and steps["layer6_merge"].op == "concat"


def test_images_are_pooled_to_the_smallest_exactly() -> None:
    """Through every pair of sizes that strides and valid padding can lead to."""
    for size in range(1, 24):
        narrow = {"op": "conv", "channels": 8, "kernel": 3, "stride": 2}
        steps = steps_of(joined("sum", CONV, narrow), (1, size, 2 * size))
        assert steps["layer6_merge"].shape == (8, -(-size // 2), size)
        valid = {"op": "conv", "channels": 8, "kernel": 7, "padding": "valid"}
        plan = decode(joined("concat", CONV, valid), (1, size, 23), 3)
        assert_counts_are_torchs(plan)


def test_features_turn_images_beside_them_into_features() -> None:
    steps = steps_of(joined("concat", CONV, {"op": "dense", "channels": 5}), (1, 6, 6))
    assert steps["edge7_pool"].op == "global_pool" and steps["layer6_merge"].shape == (13,)


def test_recessive_layers_stay_in_the_genome_and_out_of_the_plan() -> None:
    whole = chain(CONV)
    dead = DagGenome.of((*whole.layers, LayerGene(50, "dropout", rate=0.5), LayerGene(51, "identity")),
                        (*whole.edges, EdgeGene(52, INPUT, 50), EdgeGene(53, 51, OUTPUT)))  # fmt: skip
    genes.check(dead)
    assert decode(dead, (1, 6, 6), 3).steps == decode(whole, (1, 6, 6), 3).steps
    assert dead.live == [0, 2, 1] and dead.marks > whole.marks
    assert DagEncoding(WIDE, (1, 6, 6), 3).summary(dead) == "conv8k3 | 1 layers, 2 edges, 2 recessive"


def test_live_layers_are_those_on_a_path_from_input_to_output() -> None:
    """Against all simple paths, listed one by one."""

    def on_paths(genome: DagGenome) -> set[int]:
        found, waiting = set(), [[INPUT]]
        while waiting:
            path = waiting.pop()
            if path[-1] == OUTPUT:
                found.update(path)
            waiting += [[*path, edge.target] for edge in genome.edges if edge.source == path[-1]]
        return found

    rng = random.Random(4)
    for _ in range(200):
        marks = [0, 2, 3, 4, 5, 6, 1]
        pairs = [(a, b) for i, a in enumerate(marks) for b in marks[i + 1 :] if rng.random() < 0.3]
        edges = [EdgeGene(10 + i, a, b) for i, (a, b) in enumerate(pairs)]
        layers = [LayerGene(0, "input"), LayerGene(1, "output"), *[LayerGene(m, "identity") for m in marks[1:-1]]]
        genome = DagGenome.of(layers, edges)
        assert set(genome.live) == on_paths(genome)
        assert genome.live_edges == tuple(e for e in genome.edges if {e.source, e.target} <= on_paths(genome))


def test_groups_of_a_group_norm_divide_the_channels() -> None:
    assert [group_count(channels) for channels in (1, 2, 7, 8, 12, 16, 24, 32, 48, 64, 100)] == [
        1, 1, 1, 2, 3, 4, 6, 8, 8, 8, 5
    ]  # fmt: skip
    for channels in range(1, 200):
        assert channels % group_count(channels) == 0


def test_memory_counts_the_tensors_alive_at_once() -> None:
    """By hand: input 2x4x4 = 32, conv 8 channels = 128; both while it runs, then features 8, output 3."""
    assert decode(chain(CONV), (2, 4, 4), 3).memory == 4 * (32 + 128)
    steps = decode(joined("sum", CONV, CONV), (2, 4, 4), 3)
    assert steps.memory == 4 * (128 + 128 + 128)
    assert decode(chain(CONV, {"op": "dropout", "rate": 0.1}), (2, 4, 4), 3).memory == 4 * (32 + 128)
    assert decode(chain(CONV, {"op": "identity", "activation": "relu"}), (2, 4, 4), 3).memory == 4 * (128 + 128)
    separable = chain({"op": "separable", "channels": 2, "kernel": 3})
    assert decode(separable, (2, 4, 4), 3).memory == 4 * (32 + 32 + 32)


# ------------------------------------------------------------------------------------------------- mutations, edits


def test_the_table_of_mutations_and_the_weights_name_the_same() -> None:
    assert list(MUTATIONS) == list(MutationWeights.model_fields)


@pytest.mark.parametrize("kind", MUTATIONS)
def test_every_mutation_finds_a_place_changes_something_and_is_replayed_from_json(kind: str) -> None:
    encoding, rng, found = DagEncoding(WIDE, (1, 28, 28), 3), random.Random(kind), 0
    population, registry = random_genomes((1, 28, 28), 80)
    marks = registry.open()
    for genome in population:
        edit = MUTATIONS[kind][0](encoding, genome, rng, marks)
        if edit is None:
            continue
        found += 1
        child = apply(genome, edit)
        genes.check(child)
        assert edit.op == kind and child != genome
        assert apply(genome, Edit.from_json(loads(dumps(edit.to_json())))) == child
        assert set(edit.made) == child.marks - genome.marks
        if kind.startswith("change_"):
            assert [gene.mark for gene in child.layers] == [gene.mark for gene in genome.layers]
            different = [gene.mark for gene in child.layers if gene != genome.layer[gene.mark]]
            assert different == list(edit.where) and child.edges == genome.edges
    assert found >= 5


def test_children_are_replayed_from_their_edits() -> None:
    encoding, rng = DagEncoding(WIDE, (3, 5, 7), 3), random.Random(1)
    population, registry = random_genomes((3, 5, 7), 80)
    marks = registry.open()
    for a, b in zip(population, reversed(population), strict=True):
        for result in (encoding.mutate(a, rng, marks), encoding.mate(a, b, rng, marks)):
            if result:
                child, edits = result
                again = a
                for edit in edits:
                    again = apply(again, Edit.from_json(loads(dumps(edit.to_json()))))
                assert again == child


def test_no_mutation_makes_a_live_layer_recessive() -> None:
    encoding, rng, marks = DagEncoding(DagSettings(), (1, 8, 8), 3), random.Random(1), MarkBook()
    genome = encoding.random(rng, marks)
    for _ in range(600):
        result = encoding.mutate(genome, rng, marks)
        genome = result[0] if result else genome
        assert len(genome.live) == len(genome.layers)


def test_mutation_keeps_the_number_of_layers() -> None:
    settings = DagSettings(layers=(2, 5), initial_layers=(2, 2))
    encoding, rng, marks = DagEncoding(settings, (1, 8, 8), 3), random.Random(1), MarkBook()
    genome, sizes = encoding.random(rng, marks), Counter[int]()
    for _ in range(400):
        result = encoding.mutate(genome, rng, marks)
        genome = result[0] if result else genome
        sizes[len(genome.layers) - 2] += 1
    assert set(sizes) == {2, 3, 4, 5}


def test_mutation_without_a_place_is_none() -> None:
    weights = dict.fromkeys(MutationWeights.model_fields, 0.0)
    encoding = DagEncoding(DagSettings(mutations={**weights, "change_rate": 1.0}), (1, 8, 8), 3)
    assert encoding.mutate(chain(CONV), random.Random(0), MarkBook()) is None


def test_mutations_are_drawn_by_weight() -> None:
    weights = dict.fromkeys(MutationWeights.model_fields, 0.0)
    settings = DagSettings(mutations={**weights, "add_layer": 3.0, "change_channels": 1.0}, edits=(1, 1))
    encoding, genome, counts = DagEncoding(settings, (1, 8, 8), 3), chain(CONV), Counter[str]()
    for seed in range(800):
        result = encoding.mutate(genome, random.Random(seed), MarkBook())
        assert result is not None
        counts[result[1][0].op] += 1
    assert set(counts) == {"add_layer", "change_channels"} and 540 < counts["add_layer"] < 660


def test_bad_edits_are_data_errors() -> None:
    genome = chain(CONV)
    with pytest.raises(DataError, match=r"op 'add_layr' is not known; did you mean 'add_layer'\?"):
        apply(genome, Edit("add_layr"))
    for edit in (
        Edit("change_channels", (99,), (), {"channels": 8}),
        Edit("change_channels", (2,), (), {"chanels": 8}),
        Edit("add_layer", (99,), (5, 6, 7), CONV),
        Edit("add_layer", (3,), (5,), CONV),
        Edit("remove_layer", (2,)),
        Edit("mate", (2,), (), {"layers": [{"op": "conv"}], "edges": []}),
    ):
        with pytest.raises(DataError, match="does not fit the genome"):
            apply(genome, edit)


# ------------------------------------------------------------------------------------- birth, crossover, distance


def test_first_genomes_have_the_layers_asked_for_and_share_marks() -> None:
    encoding, marks = DagEncoding(DagSettings(initial_layers=(3, 6)), (3, 32, 32), 3), MarkBook()
    population = [encoding.random(random.Random(seed), marks) for seed in range(60)]
    assert {len(genome.layers) - 2 for genome in population} == {3, 4, 5, 6}
    assert all(set(a.layer) & set(b.layer) > {INPUT, OUTPUT} for a in population for b in population)
    assert max(encoding.decode(genome).flops for genome in population) < 100e6


def test_first_genomes_never_have_more_layers_than_are_allowed() -> None:
    encoding = DagEncoding(DagSettings(initial_layers=(3, 6), layers=(0, 2)), (1, 8, 8), 3)
    assert {len(encoding.random(random.Random(seed), MarkBook()).layers) for seed in range(20)} == {4}


def test_first_genomes_of_one_layer() -> None:
    encoding = DagEncoding(DagSettings(initial_layers=(1, 1)), (1, 8, 8), 3)
    for seed in range(20):
        genome = encoding.random(random.Random(seed), MarkBook())
        assert len(genome.layers) == 3 and genome.layers[2].op in ("conv", "separable")


def test_crossover_takes_matching_layers_from_either_and_the_rest_from_the_fitter() -> None:
    encoding = DagEncoding(DagSettings(union=0.0), (1, 8, 8), 3)
    fitter = chain(CONV, {"op": "dropout", "rate": 0.5})
    other = chain({**CONV, "channels": 16})
    origins = Counter[int]()
    for seed in range(200):
        child, edits = encoding.mate(fitter, other, random.Random(seed), MarkBook())
        origins[child.layer[2].channels] += 1
        assert child.edges == fitter.edges and child.layer[4] == fitter.layer[4]
        from_other = edits[0].where if edits else ()
        assert (2 in from_other) == (child.layer[2].channels == 16)
    assert set(origins) == {8, 16} and 70 < origins[8] < 130


def test_a_union_keeps_the_genes_of_both_and_closes_no_cycle() -> None:
    encoding, marks = DagEncoding(DagSettings(union=1.0), (1, 8, 8), 3), MarkBook()
    layers = (LayerGene(0, "input"), LayerGene(1, "output"), LayerGene(2, "identity"), LayerGene(3, "identity"))
    ends = {(0, 2): 10, (2, 3): 11, (3, 1): 12, (0, 3): 13, (3, 2): 14, (2, 1): 15}
    edges = {pair: EdgeGene(mark, *pair) for pair, mark in ends.items()}
    fitter = DagGenome.of(layers, [edges[0, 2], edges[2, 3], edges[3, 1]])
    other = DagGenome.of((*layers, LayerGene(20, "dropout")),
                         [edges[0, 3], edges[3, 2], edges[2, 1], EdgeGene(21, 0, 20), EdgeGene(22, 20, 1)])  # fmt: skip
    child, (edit,) = encoding.mate(fitter, other, random.Random(0), marks)
    genes.check(child)
    assert child.marks == fitter.marks | other.marks - {14}
    assert {20, 21, 22, 13, 15} <= set(edit.where)


def test_distance_counts_excess_disjoint_and_attribute_differences() -> None:
    compatibility = {"excess": 1.0, "disjoint": 10.0, "attributes": 100.0}
    encoding = DagEncoding(DagSettings(compatibility=compatibility), (1, 8, 8), 3)
    a = chain(CONV)  # marks 0 1 2 | 3 4
    b = chain({**CONV, "channels": 16}, {"op": "identity"})  # marks 0 1 2 4 | 3 5 6
    attributes = (1 - 8 / 16) / len(USES["conv"]) / 3
    assert encoding.distance(a, b) == pytest.approx((2 * 1.0 + 0 * 10.0) / 7 + 100.0 * attributes)
    c = chain({"op": "dense", "channels": 8})
    assert encoding.distance(a, c) == pytest.approx(100.0 * 1 / 3)
    late = DagGenome.of(a.layers, (*a.edges, EdgeGene(30, 0, 1)))
    early = DagGenome.of((*a.layers, LayerGene(20, "identity")),
                         (*a.edges, EdgeGene(21, 0, 20), EdgeGene(40, 20, 1)))  # fmt: skip
    assert encoding.distance(late, early) == pytest.approx((1 * 1.0 + 3 * 10.0) / 8)


def test_summary_is_one_line() -> None:
    encoding = DagEncoding(DagSettings(), (1, 28, 28), 10)
    assert encoding.summary(lenet()) == (
        "conv6k5 avg_poolk2s2 conv16k5 avg_poolk2s2 dense120 dense84 | 6 layers, 7 edges"
    )
    assert encoding.summary(chain()) == "linear | 0 layers, 1 edges"


# ----------------------------------------------------------------------------------------- settings and bad files


@pytest.mark.parametrize(
    ("values", "place", "message"),
    [
        ({"ops": ["conv", "cnov"]}, ("ops", 1), "Input should be 'conv', 'separable'"),
        ({"ops": []}, ("ops",), "list at least one value"),
        ({"ops": ["conv", "conv"]}, ("ops",), "lists a value twice"),
        ({"kernels": [3, 4]}, ("kernels", 1), "4 is even"),
        ({"channels": [0]}, ("channels", 0), "greater than or equal to 1"),
        ({"channels": [10**9]}, ("channels", 0), "less than or equal to 8192"),
        ({"strides": [3]}, ("strides", 0), "Input should be 1 or 2"),
        ({"rates": [float("nan")]}, ("rates", 0), "finite number"),
        ({"layers": [5, 2]}, ("layers",), "write the smaller number first"),
        ({"mutations": {"add_layr": 1}}, ("mutations", "add_layr"), "Extra inputs are not permitted"),
        ({"mutations": {"add_layer": -1}}, ("mutations", "add_layer"), "greater than or equal to 0"),
        ({"mutations": dict.fromkeys(MutationWeights.model_fields, 0)}, ("mutations",), "every mutation has weight 0"),
        ({"bounds": {"params": "10x"}}, ("bounds", "params"), "valid integer"),
        ({"bounds": {"params": 0}}, ("bounds", "params"), "greater than or equal to 1"),
        ({"pool_kernels": [2], "strides": [1]}, (), "no pool is possible"),
    ],
)
def test_wrong_settings_say_where_and_why(values: dict[str, Any], place: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DagSettings(**values)
    (error,) = caught.value.errors()
    assert error["loc"] == place and message in error["msg"]


def test_bounds_read_suffixes_and_name_what_is_violated() -> None:
    plan = decode(lenet(), (1, 28, 28), 10)
    assert Bounds(params="62k", flops="1M", depth=5, memory="100k").violation(plan) is None
    assert Bounds(params="61k").violation(plan) == "params 61706 > 61000"
    assert Bounds(flops="500k").violation(plan) == f"flops {plan.flops} > 500000"
    assert Bounds(depth=4).violation(plan) == "depth 5 > 4"
    assert Bounds(memory=1000).violation(plan) == f"memory {plan.memory} > 1000"
    assert Bounds(min_params="1M").violation(plan) == "params 61706 < 1000000"
    assert Bounds(min_depth=6).violation(plan) == "depth 5 < 6"


GOOD = {
    "encoding": "dag", "format": 1,
    "layers": [
        {"mark": 0, "op": "input"}, {"mark": 1, "op": "output"}, {"mark": 2, "op": "conv", "channels": 8, "kernel": 3},
    ],
    "edges": [[3, 0, 2], [4, 2, 1]],
}  # fmt: skip


def changed(**top: Any) -> dict[str, Any]:
    return {**GOOD, **top}


def with_layer(**layer: Any) -> dict[str, Any]:
    return changed(layers=[*GOOD["layers"][:2], {**GOOD["layers"][2], **layer}])  # type: ignore[index]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "encoding is 'NoneType', expected 'dag'"),
        ([], "encoding is 'list'"),
        (changed(encoding="neat"), "encoding is 'neat', expected 'dag'"),
        (changed(format=2), "format 2 is not 1: a newer evonas"),
        (changed(extra=1), r"unknown keys \['extra'\]"),
        (changed(layers={}), "layers is dict, expected a list"),
        (changed(layers=[{"mark": 0, "op": "input"}] * 100_000), "layers is a list of 100000"),
        (changed(layers=["conv"]), "layer conv is no object"),
        (changed(edges=[[3, 0]]), r"edge \[3, 0\] is not \[mark, source, target\]"),
        (changed(edges=[[3, 0, 2.5]]), r"is not \[mark, source, target\]"),
        (changed(edges=[[3, 0, 9], [4, 2, 1]]), "edge 3 joins 0 and 9: no such layer"),
        (changed(edges=[[3, 0, 2], [4, 2, 1], [5, 0, 2]]), "edge 5 is the second from 0 to 2"),
        (changed(edges=[[3, 0, 2], [3, 2, 1]]), "marks of edges are not ascending and unique"),
        (changed(edges=[[3, 0, 2], [2, 2, 1]]), r"marks \[2\] name a layer and an edge"),
        (changed(edges=[[3, 0, 2], [4, 2, 2]]), "on a cycle"),
        (changed(edges=[[3, 0, 2]]), "no path from the input"),
        (changed(edges=[]), "no path from the input"),
        (changed(edges=[[3, 0, 2], [4, 2, 1], [5, 1, 2]]), "on a cycle or behind one"),
        (changed(edges=[[3, 0, 1], [4, 2, 0]]), r"leads into the input \(0\)"),
        (changed(layers=[{"mark": 0, "op": "input"}], edges=[]), "the input .* and the output"),
        (with_layer(mark=-1), "no object with an integer mark"),
        (with_layer(mark=2**60), "no object with an integer mark"),
        (with_layer(mark=True), "no object with an integer mark"),
        (with_layer(op="cnov"), "layer 2: op 'cnov' is not known; did you mean 'conv'"),
        (with_layer(op="input"), "layer 2: op is 'input'; mark 0 is the input"),
        (with_layer(op=["conv"]), "is not known"),
        (with_layer(channel=3), "unknown 'channel'; did you mean 'channels'"),
        (with_layer(channels=0), "channels 0 is no integer from 1 to 8192"),
        (with_layer(channels=10**12), "channels 1000000000000 is no integer"),
        (with_layer(channels="8"), "channels '8' is no integer"),
        (with_layer(channels=8.0), "channels 8.0 is no integer"),
        (with_layer(channels=None), "channels None is no integer"),
        (with_layer(kernel=4), "kernel 4 is even"),
        (with_layer(kernel=99), "kernel 99 is no integer from 1 to 31"),
        (with_layer(stride=3), "stride 3 is no integer from 1 to 2"),
        (with_layer(activation="rleu"), "activation 'rleu' is not known; did you mean 'relu'"),
        (with_layer(activation={}), "activation {} is not known"),
        (with_layer(rate=0.5), "conv has no rate"),
    ],
)  # fmt: skip
def test_wrong_genome_files_are_refused_with_the_cause(data: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        genes.from_json(data)


def test_dropout_rates_are_checked() -> None:
    for rate in (-0.1, 1.0, "0.1", True):
        layer = {"mark": 2, "op": "dropout", "rate": rate}
        with pytest.raises(DataError, match="rate"):
            genes.from_json(changed(layers=[*GOOD["layers"][:2], layer]))  # type: ignore[index]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=3), JSON, st.booleans())
@example([2, 2, 1], 10**18, False)
def test_no_damage_to_a_genome_file_is_anything_but_a_data_error(where: list[int], value: Any, remove: bool) -> None:
    """A value anywhere in the file is replaced or taken out: it reads as a valid genome or is refused."""
    data = json.loads(json.dumps(genes.to_json(lenet())))
    place: Any = data
    for step in where[:-1]:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        inner = place[keys[step % len(keys)]]
        if not isinstance(inner, dict | list) or not inner:
            break
        place = inner
    keys = list(place) if isinstance(place, dict) else range(len(place))
    if remove:
        del place[keys[where[-1] % len(keys)]]
    else:
        place[keys[where[-1] % len(keys)]] = value
    try:
        genome = genes.from_json(data)
    except DataError:
        return
    assert decode(genome, (1, 28, 28), 10).steps[-1].shape == (10,)


def test_json_is_compact_and_versioned() -> None:
    assert genes.to_json(chain(CONV)) == GOOD
    genome = resnet20()
    assert genome.text == dumps(genes.to_json(genome))
    assert len(genome.text) < 4000


def test_the_key_hashes_the_content() -> None:
    assert chain(CONV).key == chain(CONV).key == "2a896a383b4c71c5d16f5418568e59fa"
    assert chain({**CONV, "kernel": 5}).key != chain(CONV).key
    assert replace(chain(CONV), edges=chain(CONV).edges).key == chain(CONV).key


def test_what_is_remembered_of_a_genome_does_not_travel() -> None:
    genome = chain(CONV)
    assert hash(genome) == hash(chain(CONV)) and genome.key
    assert set(vars(genome)) > {"layers", "edges"} == set(vars(copy.copy(genome))), "a hash is of one process only"
    assert copy.copy(genome) == genome


def test_a_distance_is_remembered_and_its_genomes_are_not() -> None:
    space = DagEncoding(DagSettings(), (1, 8, 8), 10)
    one, two = chain({**CONV, "channels": 17}), chain({**CONV, "channels": 19})
    apart, dead = space.distance(one, two), weakref.ref(two)
    assert apart > 0
    del two
    gc.collect()
    assert dead() is None
    assert space.distance(one, chain({**CONV, "channels": 19})) == apart


def test_features_count_what_lives() -> None:
    space = DagEncoding(DagSettings(), (1, 8, 8), 10)
    one = space.features(chain(CONV))
    two = space.features(chain(CONV, {**CONV, "channels": 32, "stride": 2, "norm": "batch"}))
    assert len(one) == len(two) and one[0] == 1 and two[0] == 2, "the first feature counts convolutions"
    plan = space.decode(chain(CONV))
    assert 2 ** one[-5] == pytest.approx(1 + plan.params) and 2 ** one[-4] == pytest.approx(1 + plan.flops)
    # channels 8 and 32 on average 16; both kernels are 3; the second layer halves the image
    assert (one[-3], one[-2], one[-1]) == (3, 3, 0) and (two[-3], two[-2], two[-1]) == (4, 3, 1)
    assert all(value == value for value in space.features(chain())), "a genome without layers has features, too"
