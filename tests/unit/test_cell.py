"""Cells: tokens, edits, and that the networks they become are the published ones, to the last parameter."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evonas import run as runs
from evonas import zoo
from evonas.core import DataError, RecipeError, dumps, loads
from evonas.encoding.cell import WAYS, CellEncoding, CellGenome, CellSettings, apply, difference, mark_of, place_of
from evonas.encoding.lowering import CellOp, described
from evonas.encoding.plan import Plan
from evonas.marks import MarkBook
from evonas.phenotype import export, network
from evonas.phenotype.inherit import Parent, inherit

CIFAR = (3, 32, 32)
ENDS = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""Edges of a NAS-Bench-201 cell in the order of its tokens."""
NONE, SKIP, CONV1, CONV3, POOL = range(5)
SMALL: dict[str, dict[str, Any]] = {
    "nasbench201": {"space": "nasbench201", "skeleton": {"channels": 4, "repeats": 2}},
    "nasnet": {"space": "nasnet", "skeleton": {"channels": 4, "repeats": 1, "stages": 2}},
    "darts": {"space": "darts", "skeleton": {"channels": 4, "repeats": 1, "stages": 2}},
    "macro": {"space": "macro", "skeleton": {"channels": 4}},
    "all": {
        "edges": "all", "inputs": 2, "nodes": 3, "output": "all", "ops": list(get_args(CellOp)),
        "cells": ["normal", "reduction"], "skeleton": {"channels": 4, "repeats": 1, "stages": 2, "reduce": "cell"},
    },
    "joined": {
        "inputs": 1, "nodes": 2, "output": [[0, 1, 2]],
        "skeleton": {"channels": 4, "repeats": 1, "stages": 2, "reduce": "cell"},
    },
}  # fmt: skip


def space(name: str = "nasbench201", shape: tuple[int, ...] = (1, 8, 8), outputs: int = 5) -> CellEncoding:
    return CellEncoding(CellSettings(**SMALL[name]), shape, outputs)


def full(name: str, outputs: int = 10) -> CellEncoding:
    return CellEncoding(CellSettings(space=name), CIFAR, outputs)  # type: ignore[arg-type]


def genomes(encoding: CellEncoding, count: int, seed: int = 0) -> list[CellGenome]:
    rng = Random(seed)
    return [encoding.random(rng, MarkBook()) for _ in range(count)]


def dead(tokens: Sequence[int]) -> bool:
    """Whether a NAS-Bench-201 cell has a convolution that is on no way from its input to its output."""
    fed, heard = {0}, {3}
    for _ in ENDS:
        fed |= {b for (a, b), op in zip(ENDS, tokens, strict=True) if op != NONE and a in fed}
        heard |= {a for (a, b), op in zip(ENDS, tokens, strict=True) if op != NONE and b in heard}
    ways = zip(ENDS, tokens, strict=True)
    return any(op in (CONV1, CONV3) and not (a in fed and b in heard) for (a, b), op in ways)


def built(plan: Plan, seed: int = 0) -> network.Network:
    return network.build(plan, seed)


def counted(plan: Plan) -> tuple[int, int]:
    """Parameters and FLOPs as torch counts them."""
    module = network.build(plan, None, "meta").eval()
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *plan.steps[0].shape, device="meta"))
    return sum(p.numel() for p in module.parameters()), int(counter.get_total_flops())


# ------------------------------------------------------------------------------------------------------------ counts


def test_parameters_of_nasbench201_are_its_formula() -> None:
    encoding = full("nasbench201")
    for genome in genomes(encoding, 300):
        tokens = encoding.tokens(genome)
        params = 73_306 + 28_000 * tokens.count(CONV1) + 243_040 * tokens.count(CONV3)
        flops = 7_783_040 + 3_932_160 * tokens.count(CONV1) + 35_389_440 * tokens.count(CONV3)
        plan = encoding.decode(genome)
        if dead(tokens):
            assert plan.params < params and plan.flops < 2 * flops
        else:
            assert (plan.params, plan.flops) == (params, 2 * flops)


@pytest.mark.parametrize(("dataset", "outputs"), [("cifar10", 10), ("cifar100", 100)])
def test_parameters_of_nasbench201_are_its_table(shared_data: Path, dataset: str, outputs: int) -> None:
    """A thousand of its cells; its FLOPs count the biases of the classifier, and are kept in single precision."""
    encoding = full("nasbench201", outputs)
    with np.load(shared_data / "nasbench201" / "nasbench201.npz") as table:
        cells, params, flops = table["ops"], table[f"{dataset}_params_m"], table[f"{dataset}_flops_m"]
    whole = 0
    for row in range(0, len(cells), 15):
        tokens = [int(op) for op in cells[row]]
        if not dead(tokens):
            plan = encoding.decode(encoding.from_tokens(tokens))
            assert plan.params == round(float(params[row]) * 1e6)
            assert plan.flops / 2 + outputs == pytest.approx(float(flops[row]) * 1e6, rel=1e-7)
            whole += 1
    assert whole > 700


def test_parameters_of_nasbench_macro_are_its_table(shared_data: Path) -> None:
    encoding = full("macro")
    with np.load(shared_data / "nasbench_macro" / "nasbench_macro_cifar10.npz") as table:
        chains, params, flops = table["arch"], table["params"], table["flops"]
    for row in range(0, len(chains), 13):
        plan = encoding.decode(encoding.from_tokens([int(op) for op in chains[row]]))
        assert (plan.params, plan.flops) == (params[row], 2 * flops[row])


@pytest.mark.parametrize("name", SMALL)
def test_parameters_and_flops_are_torchs_own(name: str) -> None:
    for seed, shape in enumerate(((3, 32, 32), (2, 7, 5), (1, 1, 9))):
        encoding = space(name, shape)
        for genome in genomes(encoding, 2, seed):
            plan = encoding.decode(genome)
            assert (plan.params, plan.flops) == counted(plan)


def test_cells_that_recur_are_built_once() -> None:
    """Lowering is cheap because equal parts are the same objects."""
    encoding = full("nasbench201")
    steps = {step.name: step for step in encoding.decode(encoding.from_tokens([CONV3] * 6)).steps}
    first, second = (steps[f"cell{i}_edge130_conv_3x3"].settings for i in (0, 1))
    assert first is second


# --------------------------------------------------------------------------------------------------- the same by hand


class Cell201(nn.Module):
    """A NAS-Bench-201 cell: node j is the sum of its edges' operations."""

    def __init__(self, tokens: Sequence[int], channels: int) -> None:
        super().__init__()
        self.ways = nn.ModuleList(way201(op, channels, channels) for op in tokens)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for j in (1, 2, 3):
            ways = [(a, way) for (a, b), way in zip(ENDS, self.ways, strict=True) if b == j]
            nodes.append(sum(way(nodes[a]) for a, way in ways))  # type: ignore[arg-type]
        return nodes[3]


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def way201(op: int, before: int, after: int, stride: int = 1) -> nn.Module:
    if op in (CONV1, CONV3):
        size = 1 if op == CONV1 else 3
        return nn.Sequential(
            nn.ReLU(), nn.Conv2d(before, after, size, stride, size // 2, bias=False), nn.BatchNorm2d(after)
        )
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return {NONE: Nothing(), SKIP: nn.Identity(), POOL: pool}[op]


class Residual201(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(way201(CONV3, before, after, 2), way201(CONV3, after, after))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(before, after, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.shortcut(x) + self.branch(x)
        return result


def network201(tokens: Sequence[int], channels: int, repeats: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
    for stage in range(3):
        if stage:
            layers.append(Residual201(channels, 2 * channels))
            channels *= 2
        layers += [Cell201(tokens, channels) for _ in range(repeats)]
    head = (nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))
    return nn.Sequential(*layers, *head)


@pytest.mark.parametrize("tokens", [(CONV3, NONE, CONV1, SKIP, POOL, CONV3), (POOL, SKIP, SKIP, CONV1, CONV3, CONV1)])
def test_a_nasbench201_network_is_the_one_written_by_hand(tokens: tuple[int, ...]) -> None:
    """Both list their tensors from input to output, edges of a cell by target and source."""
    encoding = space("nasbench201", CIFAR)
    ours = built(encoding.decode(encoding.from_tokens(tokens)), seed=1).eval()
    theirs = network201(tokens, 4, 2, 5).eval()
    state = theirs.state_dict()
    assert [value.shape for value in ours.state_dict().values()] == [state[key].shape for key in state]
    theirs.load_state_dict(dict(zip(state, ours.state_dict().values(), strict=True)))
    x = torch.randn(2, *CIFAR, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 6)])
def test_a_factorised_reduction_sees_every_second_pixel_twice(size: tuple[int, int]) -> None:
    """A skip that halves the image: one half of its channels from even places, the other from odd ones."""
    settings = CellSettings(
        nodes=1,
        ops=("skip", "none"),
        skeleton={"channels": 2, "repeats": 1, "stages": 2, "reduce": "cell"},  # type: ignore[arg-type]
    )
    encoding = CellEncoding(settings, (1, *size), 3)
    module = built(encoding.decode(encoding.from_tokens([0])), seed=3).eval()
    seen: list[Tensor] = []
    parts = dict(module.named_modules())
    parts["cell1_in0"].register_forward_hook(lambda part, given, output: seen.append(output))
    norm = parts["cell1_edge130_skip_norm"]
    norm.register_forward_hook(lambda part, given, output: seen.append(output))
    module(torch.randn(2, 1, *size))
    before = torch.relu(seen[0])
    down, right = (int(extent > 1) for extent in size)
    after = torch.zeros_like(before)
    after[:, :, : size[0] - down, : size[1] - right] = before[:, :, down:, right:]
    steps = tuple(1 if extent == 1 else 2 for extent in size)
    kernels = [parts[f"cell1_edge130_skip_{name}.conv"].weight for name in ("first", "second")]
    images = [x[:, :, :: steps[0], :: steps[1]] for x in (before, after)]
    halves = [nn.functional.conv2d(x, kernel) for x, kernel in zip(images, kernels, strict=True)]
    torch.testing.assert_close(seen[1], norm(torch.cat(halves, 1)))


# ------------------------------------------------------------------------------------------------- what is cut off


@pytest.mark.parametrize("name", ["nasbench201", "all", "joined"])
def test_a_cell_that_is_cut_off_hands_on_zeros(name: str) -> None:
    encoding = space(name)
    nothing = encoding.from_tokens([options.index("none") for options in encoding.choices])
    plan = encoding.decode(nothing)
    module = built(plan)
    x = torch.randn(4, 1, 8, 8)
    if name != "joined":  # whose cells hand on their input beside their nodes
        assert torch.equal(module.eval()(x)[0], module(x)[1])
    module.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert any(step.op == "zero" for step in plan.steps)
    assert (plan.params, plan.flops) == counted(plan)


def test_a_cut_cell_keeps_its_skeleton() -> None:
    encoding = full("nasbench201")
    assert encoding.decode(encoding.from_tokens([NONE] * 6)).params == 73_306


def test_operations_on_no_way_are_not_built() -> None:
    encoding = space()
    plan = encoding.decode(encoding.from_tokens([NONE, CONV1, CONV3, CONV3, SKIP, NONE]))
    names = {step.name for step in plan.steps}
    assert {"cell0_edge386_conv_3x3"} == {name for name in names if name.startswith("cell0_edge")}


# ---------------------------------------------------------------------------------------------------- tokens and edits


@pytest.mark.parametrize("name", SMALL)
def test_tokens_say_the_whole_genome(name: str) -> None:
    encoding = space(name)
    for genome in genomes(encoding, 50):
        tokens = encoding.tokens(genome)
        assert encoding.from_tokens(tokens) == genome
        assert all(0 <= token < len(options) for token, options in zip(tokens, encoding.choices, strict=True))
        row, ops = encoding.features(genome), encoding.settings.ops
        counts = sum(map(len, encoding.choices))
        assert len(row) == counts + 2 * len(ops) + len(genome.cells) * (1 + 3 * (len(ops) + 1))
        assert row[counts : counts + len(ops)] == [sum(edge.op == op for edge in genome.edges) for op in ops]


@pytest.mark.parametrize("name", ["nasbench201", "darts", "nasnet", "macro"])
def test_features_tell_of_the_ways_through_a_cell(name: str) -> None:
    """Against all ways, written out one by one."""
    encoding = space(name)
    ops = encoding.settings.ops
    for genome in genomes(encoding, 12):
        cells = described(genome.names, genome.cells, encoding._layout)
        expected: list[float] = []
        for edges, built, outputs in zip(genome.cells, cells.built, cells.outputs, strict=True):
            there = [edge for edge in edges if edge.mark in built]

            def ways(node: int, there: Any = there) -> list[list[str]]:
                if node < encoding.settings.inputs:
                    return [[]]
                return [[*way, edge.op] for edge in there if edge.target == node for way in ways(edge.source)]

            found = [way for node in outputs for way in ways(node)]
            steps = [[*(way.count(op) for op in ops), sum(op != "skip" for op in way)] for way in found]
            table = np.array(steps or [[0] * (len(ops) + 1)], dtype=float)
            expected += [np.log2(1 + len(found)), *table.max(axis=0), *table.min(axis=0), *table.mean(axis=0)]
        assert encoding.features(genome)[-len(expected) :] == pytest.approx([WAYS * value for value in expected])


def test_features_see_what_works_alone() -> None:
    encoding = space()

    def seen(*tokens: int) -> list[int]:
        """What each place is seen to hold, -1 for nothing."""
        row = encoding.features(encoding.from_tokens(tokens))
        parts = [row[at : at + 5] for at in range(0, 30, 5)]
        assert all(sum(part) in (0, 1) for part in parts)
        return [part.index(1) if 1 in part else -1 for part in parts]

    whole = (CONV3, CONV1, SKIP, POOL, CONV1, CONV3)
    assert seen(*whole) == list(whole)
    assert seen(NONE, CONV1, CONV3, SKIP, POOL, CONV1) == [-1, CONV1, -1, SKIP, -1, CONV1], "node 1 is fed by nobody"
    assert seen(CONV3, CONV1, NONE, SKIP, NONE, CONV1) == [-1, CONV1, -1, SKIP, -1, CONV1], "nobody reads node 1"
    assert seen(CONV3, CONV1, SKIP, NONE, NONE, NONE) == [-1] * 6
    dead, other = (encoding.from_tokens((NONE, CONV1, op, SKIP, POOL, CONV1)) for op in (CONV3, POOL))
    assert encoding.features(dead) != encoding.features(other), "operations are counted where they do not work, too"
    every = space("darts")
    (genome,) = genomes(every, 1)
    assert sum(every.features(genome)[: sum(map(len, every.choices))]) == len(every.choices), "all nodes are handed on"


def test_all_genomes_of_a_space_are_listed() -> None:
    encoding = space()
    keys = {genome.key for genome in encoding.all()}
    assert encoding.size == len(keys) == 15_625
    # two edges that are chosen in another order make the same cell
    chosen = CellEncoding(CellSettings(inputs=2, nodes=1, edges="two", ops=("skip", "conv_1x1")), (1, 8, 8), 2)
    assert chosen.size == 16 and len({genome.key for genome in chosen.all()}) == 10


@pytest.mark.parametrize("name", SMALL)
def test_an_edit_makes_the_child(name: str) -> None:
    encoding, rng = space(name), Random(1)
    parents = genomes(encoding, 60)
    for parent, other in zip(parents, reversed(parents), strict=True):
        made = encoding.mutate(parent, rng, MarkBook())
        assert made is not None
        child, edits = encoding.mate(made[0], other, rng, MarkBook())
        for before, after, steps in ((parent, made[0], made[1]), (made[0], child, edits)):
            for step in steps:
                again = type(step).from_json(loads(dumps(step.to_json())))
                before = apply(before, again)
            assert before == after
        encoding.check(child)


def test_a_mutation_makes_one_choice_anew() -> None:
    encoding, rng = space(), Random(2)
    for genome in genomes(encoding, 40):
        made = encoding.mutate(genome, rng, MarkBook())
        assert made is not None
        changed = [a != b for a, b in zip(encoding.tokens(genome), encoding.tokens(made[0]), strict=True)]
        assert sum(changed) == 1 and encoding.distance(genome, made[0]) == pytest.approx(1 / 6)


def test_marks_say_their_place() -> None:
    places = [(c, s, t, n) for c in range(2) for t in range(1, 34) for s in range(t) for n in range(2)]
    marks = [mark_of(*place) for place in places]
    assert len(set(marks)) == len(marks) and min(marks) > 1
    assert [place_of(mark) for mark in marks] == places


@pytest.mark.parametrize("name", ["nasbench201", "darts", "nasnet"])
def test_names_of_steps_stay_where_the_cell_changes_elsewhere(name: str) -> None:
    """Weights go by these names: every tensor of an edge that was kept has its name and shape still, in every cell."""
    encoding, rng = space(name, CIFAR), Random(3)
    kept = 0
    for genome in genomes(encoding, 8):
        made = encoding.mutate(genome, rng, MarkBook())
        assert made is not None
        old, new = (network.build(encoding.decode(one), None, "meta").state_dict() for one in (genome, made[0]))
        gone, come = set(genome.edges) - set(made[0].edges), set(made[0].edges) - set(genome.edges)
        touched = {f"_edge{edge.mark}_{edge.op}" for edge in gone | come}
        for key in old.keys() & new.keys():
            if not any(part in key for part in touched) and "_in" not in key and "layer1" not in key:
                assert old[key].shape == new[key].shape
                kept += 1
    assert kept > 200


# ----------------------------------------------------------------------------------------------------------- mistakes


GOOD = {"encoding": "cell", "format": 1, "cells": {"cell": [[130, 0, 1, "skip"]]}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "encoding is not 'cell'"),
        ({**GOOD, "encoding": "dag"}, "encoding is not 'cell'"),
        ({**GOOD, "format": 9}, "format 9, this evonas reads 1"),
        ({**GOOD, "cells": []}, "no mapping of one or two cells"),
        ({**GOOD, "cells": {"cell": 3}}, "no list of at most"),
        ({**GOOD, "cells": {"cell": [[130, 0, 1]]}}, r"is no edge \[mark, source, target, op\]"),
        ({**GOOD, "cells": {"cell": [[130, 0, 1, "conv3"]]}}, "op 'conv3' is not known; did you mean 'conv_"),
        ({**GOOD, "cells": {"cell": [[131, 0, 2, "skip"]]}}, "with its place's mark"),
        ({**GOOD, "cells": {"cell": [[130, False, True, "skip"]]}}, "is no edge"),
        ({**GOOD, "cells": {"cell": [[-1, 0, 1, "skip"]]}}, "is no edge"),
        ({**GOOD, "cells": {"cell": [[10**30, 0, 1, "skip"]]}}, "is no edge"),
    ],
)
def test_a_bad_genome_is_named(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        space().from_json(data)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"cell": [[130, 0, 1, "skip"]]}, "edges are not those of this space"),
        ({"cell": [[130, 0, 1, "sep_conv_3x3"]]}, "op 'sep_conv_3x3' is not in ops"),
        ({"normal": [[130, 0, 1, "skip"]]}, "cells normal, this space has cell"),
    ],
)
def test_a_genome_of_another_space_is_refused(cells: Any, message: str) -> None:
    encoding = space()
    with pytest.raises(DataError, match=message):
        encoding.check(encoding.from_json({**GOOD, "cells": cells}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cells": ["reduction", "normal"]}, "take cell alone, or normal and then reduction"),
        ({"cells": ["normal", "reduction"]}, "skeleton.reduce: residual never uses"),
        ({"edges": "chain", "inputs": 2}, "a chain reads one cell"),
        ({"edges": "chain"}, "ops has none, which cuts a chain off"),
        ({"skeleton": {"reduce": "chain"}}, "skeleton.reduce is chain: it needs edges: chain"),
        ({"ops": ["skip"]}, "list at least two"),
        ({"output": [[1], [2]]}, "output lists the nodes of 2 cells, there are 1"),
        ({"output": [[4]]}, "not different numbers of nodes, 0 to 3"),
        ({"output": [[]]}, "not different numbers of nodes"),
        ({"space": "nasbench101"}, "nasbench201"),
    ],
)
def test_settings_that_contradict_each_other_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CellSettings(**settings)


def test_a_task_of_features_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"takes images .* gives 13 features: set encoding.kind: dag"):
        CellEncoding(CellSettings(), (13,), 3)


def test_a_space_fills_in_what_is_not_given() -> None:
    settings = CellSettings(space="darts", skeleton={"channels": 8})  # type: ignore[arg-type]
    assert (settings.nodes, settings.skeleton.stem, settings.skeleton.channels) == (4, "wide", 8)
    assert CellSettings(**loads(dumps(settings.model_dump(mode="json")))) == settings


# -------------------------------------------------------------------------------------------------------- inheritance


def trained(encoding: CellEncoding, genome: CellGenome, fill: float) -> Parent:
    """A parent whose every tensor holds one number, and its optimiser's twice that."""
    named = network.tensors(built(encoding.decode(genome)))
    held = {name: torch.full_like(value, fill) for name, value in named.items()}
    parameters = [name for name, _ in built(encoding.decode(genome)).named_parameters()]
    return Parent(genome, held, {"exp_avg": {name: 2 * held[name] for name in parameters}})


def test_a_child_inherits_by_name_in_every_cell() -> None:
    encoding = space()
    parent = encoding.from_tokens([CONV3, SKIP, CONV1, CONV3, CONV1, CONV3])
    child = encoding.from_tokens([CONV3, SKIP, CONV1, CONV1, CONV1, CONV3])
    given = inherit(encoding, [trained(encoding, parent, 7.0)], difference(parent, child), child, 1)
    new = {name for name, value in given.tensors.items() if not bool((value == 7).all())}
    assert new and all("_edge386_conv_1x1." in name for name in new)
    assert len({name.partition("_")[0] for name in new}) == 6, "every occurrence of the edge alike"
    assert given.tensors.keys() == built(encoding.decode(child)).state_dict().keys()
    assert 0 < given.share < 1 and not given.exact
    state = given.moments["exp_avg"]
    assert all(bool((state[name] == (0 if name in new else 14)).all()) for name in state)


def test_a_child_of_two_takes_genes_with_their_weights() -> None:
    encoding, rng = space(), Random(5)
    first, second = encoding.from_tokens([CONV3] * 6), encoding.from_tokens([CONV1] * 6)
    child, edits = encoding.mate(first, second, rng, MarkBook())
    given = inherit(encoding, [trained(encoding, first, 1.0), trained(encoding, second, 2.0)], edits, child, 1)
    for name, value in given.tensors.items():
        assert bool((value == (2.0 if "_conv_1x1." in name else 1.0)).all())
    assert given.share == 1.0


def test_edits_of_another_parent_are_refused() -> None:
    encoding = space()
    first, second = encoding.from_tokens([CONV3] * 6), encoding.from_tokens([CONV1] * 6)
    with pytest.raises(DataError, match=r"not to .*are they of another parent"):
        inherit(encoding, [trained(encoding, first, 1.0)], [], second, 1)


# ------------------------------------------------------------------------------------------------------------ exports


@pytest.mark.parametrize("name", ["nasbench201", "nasnet", "darts", "macro", "all"])
def test_an_exported_module_is_the_network(name: str, tmp_path: Path) -> None:
    encoding = space(name, (3, 9, 8))
    plan = encoding.decode(genomes(encoding, 1, seed=7)[0])
    ours = built(plan, seed=2).eval()
    export.export_module(plan, network.to_bytes(ours), tmp_path, "cells")
    spec = importlib.util.spec_from_file_location("cells", tmp_path / "cells.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = torch.randn(3, 3, 9, 8)
    torch.testing.assert_close(module.load()(x), ours(x))


def test_an_onnx_file_has_shifts_and_zeros(tmp_path: Path) -> None:
    """The exporter runs the file beside the network and refuses where they differ."""
    pytest.importorskip("onnxruntime", reason="needs the extra evonas[onnx]")
    pytest.importorskip("onnxscript", reason="needs the extra evonas[onnx]")
    encoding = space("all", (1, 8, 8))
    tokens = [options.index("skip" if i % 3 else "none") for i, options in enumerate(encoding.choices)]
    tokens[0] = tokens[1] = 0
    plan = encoding.decode(encoding.from_tokens(tokens))
    assert {"shift", "zero"} <= {step.op for step in plan.steps}
    path = export.export_onnx(plan, network.to_bytes(built(plan, seed=1)), tmp_path / "cells.onnx")
    assert path.stat().st_size > 1000


# ---------------------------------------------------------------------------------------------------------------- run


def test_cells_are_searched_like_any_other_genomes(tmp_path: Path) -> None:
    """A run that inherits, from a genome file: kept, read again, and gone on with."""
    encoding = CellEncoding(CellSettings(**SMALL["nasbench201"]), (1, 8, 8), 10)
    founder = encoding.from_tokens([CONV3, SKIP, NONE, SKIP, CONV1, SKIP])
    (tmp_path / "founder.json").write_text(json.dumps(encoding.to_json(founder)))
    recipe = {
        "name": "cells", "seed": 4, "task": {"kind": "digits", "limit": 200}, "objectives": ["error", "params"],
        "encoding": {"kind": "cell", **SMALL["nasbench201"], "initial": [str(tmp_path / "founder.json")]},
        "strategy": {"kind": "nsga2", "population": 4, "generations": 2, "crossover": 0.5},
        "estimator": {"kind": "train", "epochs": 1, "inherit": "weights"}, "pool": {"kind": "serial"},
    }  # fmt: skip
    with runs.start(recipe, runs=tmp_path) as run:
        everyone = run.individuals()
        assert len(everyone) == 8 and run.genome(0) == founder
        best = run.front()[0].id
        assert run.network(best)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
        assert any("inherited" in estimate.cost for one in everyone if (estimate := run.estimate(one.id)) is not None)
        path = run.export(best, tmp_path / "out", "genome")[0]
    again, genome, plan = zoo.decoded(path)
    assert again.settings["skeleton"]["channels"] == 4 and plan.params == again.params
    assert isinstance(genome, CellGenome)
