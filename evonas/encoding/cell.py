"""Repeated cells: a small graph with an operation on each edge, which a skeleton repeats. Zoph et al. 2018 (NASNet),
Liu et al. 2019 (DARTS), Dong and Yang 2020 (NAS-Bench-201), Su et al. 2021 (NAS-Bench-Macro).

A gene's mark follows from its place alone (cell, source, target), so equal marks are equal places in every run and no
registry is needed. `tokens` writes a genome as one choice per place: what controllers, tables and enumerations read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from itertools import chain, product
from math import log2, prod
from operator import add
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from evonas.core import DataError, Edit, RecipeError, Settings, dumps, nearest
from evonas.encoding.dag import Bounds, Choices, Initial
from evonas.encoding.lowering import CellOp, Layout, Skeleton, described, lower
from evonas.encoding.plan import Plan, Shape
from evonas.marks import INPUT, OUTPUT, MarkBook

FORMAT = 1
FIRST = 2
"""The lowest mark: 0 and 1 are input and output, as in layer graphs."""

MOST_NODES = 64
"""Nodes of a cell, inputs included: what marks have room for."""

Tokens = tuple[int, ...]
"""One choice per place."""


# --------------------------------------------------------------------------------------------------------- settings


class CellSettings(Settings):
    """Cells: small graphs with an operation on each edge, repeated by a skeleton. `space` fills in a published one."""

    faces: ClassVar[frozenset[str]] = frozenset({"tokens", "features", "distance"})
    """What strategies may ask of this encoding beyond making, mutating and mating genomes."""

    kind: Literal["cell"] = "cell"
    space: Literal["nasbench201", "nasnet", "darts", "macro"] | None = None
    """A published space, whose values the other keys then have unless they are given: nasbench201 (5 operations on the
    6 edges of a cell of 4 nodes), nasnet (normal and reduction cells of 5 blocks, 13 operations), darts (normal and
    reduction cells of 4 nodes, 7 operations), macro (NAS-Bench-Macro's chain of 8 layers with 3 operations)."""
    cells: Choices[Literal["cell", "normal", "reduction"]] = ("cell",)
    """The cells of a genome: one that is repeated, or a normal one and a reduction one that halves the image."""
    inputs: Literal[1, 2] = 1
    """Earlier cells that a cell reads: the last one, or the last two."""
    nodes: Annotated[int, Field(ge=1, le=32)] = 3
    """Nodes that a cell computes; each is the sum of its edges."""
    edges: Literal["all", "two", "chain"] = "all"
    """Which edges lead into a node: one from every earlier node, from two nodes that are chosen, or from the last."""
    ops: Choices[CellOp] = ("none", "skip", "conv_1x1", "conv_3x3", "avg_pool_3x3")
    """Operations that an edge may have."""
    output: Literal["last", "all", "loose"] | tuple[tuple[Annotated[int, Field(ge=0)], ...], ...] = "last"
    """What a cell hands on: its last node, all its nodes joined, or those joined that no node of it reads; or for each
    of `cells` a list of those joined, by their numbers, where the cell's inputs come first."""
    skeleton: Skeleton = Skeleton()
    """How cells become a network."""
    bounds: Bounds = Bounds()
    """Limits at birth."""
    initial: Initial = ()
    """Genomes to begin with: names from the zoo, paths of genome files, or runs (`run:NAME`, `run:NAME/ID`)."""
    changes: Annotated[int, Field(ge=1, le=20)] = 1
    """Choices that one mutation makes anew, each different from before."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, value: object) -> object:
        """The keys that a published space fills in."""
        if not isinstance(value, Mapping) or value.get("space") not in SPACES:
            return value
        preset = SPACES[str(value["space"])]
        skeleton = value.get("skeleton", {})
        if isinstance(skeleton, Mapping):
            skeleton = {**preset["skeleton"], **skeleton}
        return {**preset, **value, "skeleton": skeleton}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.cells not in (("cell",), ("normal",), ("normal", "reduction")):
            raise ValueError(f"cells {', '.join(self.cells)}: take cell alone, or normal and then reduction")
        if self.edges == "chain" and self.inputs == 2:
            raise ValueError("edges is chain and inputs 2: a chain reads one cell; set inputs: 1")
        if len(self.ops) == 1 and self.edges != "two":
            raise ValueError("ops is one operation alone: all genomes would be equal; list at least two")
        self._check_chain()
        self._check_output()
        return self

    @property
    def structure(self) -> dict[str, Any]:
        """What says, beside a genome, which network it is: for files that go without their recipe."""
        return self.model_dump(mode="json", exclude={"kind", "space", "bounds", "initial", "changes"})

    def _check_chain(self) -> None:
        reduce = self.skeleton.reduce
        if len(self.cells) == 2 and reduce != "cell":
            raise ValueError(f"cells has a reduction cell that skeleton.reduce: {reduce} never uses: set it to cell")
        if self.edges == "chain" and "none" in self.ops:
            raise ValueError("ops has none, which cuts a chain off: remove it, or set edges: all")
        if reduce != "chain":
            return
        if self.edges != "chain" or self.nodes < self.skeleton.stages:
            raise ValueError(
                f"skeleton.reduce is chain: it needs edges: chain and at least as many nodes as stages; edges is "
                f"{self.edges}, nodes {self.nodes}, stages {self.skeleton.stages}"
            )

    def _check_output(self) -> None:
        if isinstance(self.output, str):
            return
        if len(self.output) != len(self.cells):
            raise ValueError(f"output lists the nodes of {len(self.output)} cells, there are {len(self.cells)}")
        for nodes in self.output:
            if not nodes or len(set(nodes)) < len(nodes) or max(nodes) >= self.inputs + self.nodes:
                most = self.inputs + self.nodes - 1
                raise ValueError(f"output: {list(nodes)} are not different numbers of nodes, 0 to {most}")


SPACES: Mapping[str, Mapping[str, Any]] = {
    "nasbench201": {
        "cells": ["cell"], "inputs": 1, "nodes": 3, "edges": "all", "output": "last",
        "ops": ["none", "skip", "conv_1x1", "conv_3x3", "avg_pool_3x3"],
        "skeleton": {
            "stem": "conv", "channels": 16, "repeats": 5, "stages": 3, "reduce": "residual", "head": "norm",
        },
    },
    "nasnet": {
        "cells": ["normal", "reduction"], "inputs": 2, "nodes": 5, "edges": "two", "output": "loose",
        "ops": [
            "skip", "conv_1x3_3x1", "conv_1x7_7x1", "dil_conv_3x3", "avg_pool_3x3", "max_pool_3x3", "max_pool_5x5",
            "max_pool_7x7", "conv_1x1", "conv_3x3", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7",
        ],
        "skeleton": {"stem": "wide", "channels": 32, "repeats": 6, "stages": 3, "reduce": "cell", "head": "plain"},
    },
    "darts": {
        "cells": ["normal", "reduction"], "inputs": 2, "nodes": 4, "edges": "two", "output": "all",
        "ops": [
            "skip", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
        ],
        "skeleton": {"stem": "wide", "channels": 36, "repeats": 6, "stages": 3, "reduce": "cell", "head": "plain"},
    },
    "macro": {
        "cells": ["cell"], "inputs": 1, "nodes": 8, "edges": "chain", "output": "last",
        "ops": ["skip", "inverted_3x3_3", "inverted_5x5_6"],
        "skeleton": {"stem": "relu", "channels": 32, "repeats": 1, "stages": 3, "reduce": "chain", "head": "wide"},
    },
}  # fmt: skip
"""The published spaces."""


# ----------------------------------------------------------------------------------------------------------- genome


class CellEdge(NamedTuple):
    """An edge of a cell: its mark, the nodes it joins (the cell's inputs come first), and the operation on it."""

    mark: int
    source: int
    target: int
    op: str


@dataclass(frozen=True)
class CellGenome:
    """The edges of each cell, sorted by target, source, operation; cells in the order of the settings."""

    names: tuple[str, ...]
    cells: tuple[tuple[CellEdge, ...], ...]

    @cached_property
    def text(self) -> str:
        """The canonical JSON text, equal to `dumps(to_json(genome))` but put together from remembered edges."""
        cells = sorted(zip(self.names, self.cells, strict=True))
        told = ",".join([f'"{name}":[{",".join([_edge_text(edge) for edge in edges])}]' for name, edges in cells])
        return f'{{"cells":{{{told}}},"encoding":"cell","format":{FORMAT}}}'

    @cached_property
    def key(self) -> str:
        """BLAKE2b of the content, 32 hexadecimal digits."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()

    @property
    def edges(self) -> Iterator[CellEdge]:
        """The genes of all cells in order."""
        return chain.from_iterable(self.cells)


def mark_of(cell: int, source: int, target: int, nth: int = 0) -> int:
    """The mark of a place: cell and edge, the `nth` of those between two nodes."""
    return FIRST + ((cell * MOST_NODES + target) * MOST_NODES + source) * 2 + nth


def place_of(mark: int) -> tuple[int, int, int, int]:
    """Cell, source, target and number of the place that a mark names."""
    rest, nth = divmod(mark - FIRST, 2)
    rest, source = divmod(rest, MOST_NODES)
    cell, target = divmod(rest, MOST_NODES)
    return cell, source, target, nth


class Ways(NamedTuple):
    """The ways to a node: how many, and how often each kind of step lies on one at most, at least, and on all."""

    number: int
    most: tuple[int, ...]
    least: tuple[int, ...]
    total: tuple[int, ...]

    def longer(self, step: Sequence[int]) -> Ways:
        """The ways with one more step; `step` counts it by kind."""
        total = _plus(self.total, [self.number * one for one in step])
        return Ways(self.number, _plus(self.most, step), _plus(self.least, step), total)

    def joined(self, other: Ways) -> Ways:
        """These ways and others."""
        most, least = tuple(map(max, self.most, other.most)), tuple(map(min, self.least, other.least))
        return Ways(self.number + other.number, most, least, _plus(self.total, other.total))


def _plus(some: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(add, some, others))


WAYS = 2.0
"""What the ways through a cell count for beside its choices. On NAS-Bench-201 (CIFAR-100, 100 random cells, 16 draws) a
process with them ranks others with a correlation of .937, with half of that .919, without .885."""


# --------------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class CellEncoding:
    """The search space of cells for one task; fulfils `core.Encoding` and the faces tokens, features and distance.

    `input_shape` is (channels, height, width)."""

    settings: CellSettings
    input_shape: Shape
    outputs: int

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3:
            raise RecipeError(
                f"encoding 'cell' takes images (channels, height, width), this task gives {self.input_shape[0]} "
                "features: set encoding.kind: dag"
            )

    @property
    def name(self) -> str:
        return "cell"

    # ------------------------------------------------------------------------------------------------------ places

    @cached_property
    def choices(self) -> tuple[tuple[str, ...], ...]:
        """What can be chosen at each place, by name. Operations on edges in order of target and source; with two chosen
        edges per node a source (`from 0`) and an operation for each of them."""
        return tuple(chain.from_iterable(self._choices for _ in self.settings.cells))

    @cached_property
    def _choices(self) -> tuple[tuple[str, ...], ...]:
        ops = tuple(self.settings.ops)
        if self.settings.edges != "two":
            return (ops,) * len(self._ends)
        nodes = range(self.settings.inputs, self.settings.inputs + self.settings.nodes)
        sources = [tuple(f"from {source}" for source in range(node)) for node in nodes]
        return tuple(chain.from_iterable((one, ops, one, ops) for one in sources))

    @cached_property
    def _ends(self) -> tuple[tuple[int, int], ...]:
        """Source and target of every edge of a cell, where they are not chosen."""
        first, nodes = self.settings.inputs, self.settings.inputs + self.settings.nodes
        if self.settings.edges == "chain":
            return tuple((node - 1, node) for node in range(first, nodes))
        return tuple((source, node) for node in range(first, nodes) for source in range(node))

    @property
    def size(self) -> int:
        """Number of ways to choose; some of them may be one and the same genome."""
        return prod(map(len, self.choices))

    def tokens(self, genome: CellGenome) -> Tokens:
        """The choice at each place, as numbers into `choices`."""
        position = self._positions
        if self.settings.edges != "two":
            return tuple([position[edge.op] for edges in genome.cells for edge in edges])
        return tuple([choice for edge in genome.edges for choice in (edge.source, position[edge.op])])

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {op: i for i, op in enumerate(self.settings.ops)}

    def from_tokens(self, tokens: Sequence[int]) -> CellGenome:
        """The genome of the choices; two edges into one node are sorted, so that equal cells are equal genomes."""
        width = len(self._choices)
        names = tuple(self.settings.cells)
        parts = [tokens[i * width : (i + 1) * width] for i in range(len(names))]
        return CellGenome(names, tuple([self._cell(i, part) for i, part in enumerate(parts)]))

    def _cell(self, cell: int, tokens: Sequence[int]) -> tuple[CellEdge, ...]:
        ops = self.settings.ops
        if self.settings.edges != "two":
            marks = self._marks[cell]
            ends = zip(marks, self._ends, tokens, strict=True)
            return tuple([_edge(mark, source, target, ops[op]) for mark, (source, target), op in ends])
        edges: list[CellEdge] = []
        for node in range(self.settings.nodes):
            s0, o0, s1, o1 = tokens[4 * node : 4 * node + 4]
            edges += _pair(cell, node + self.settings.inputs, sorted([(s0, ops[o0]), (s1, ops[o1])]))
        return tuple(edges)

    @cached_property
    def _marks(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(mark_of(i, *ends) for ends in self._ends) for i in range(len(self.settings.cells)))

    def features(self, genome: CellGenome) -> list[float]:
        """What predictors see: for each place and each choice there 1 where it was made, for a gene that works; how
        often each operation is there, and how often it works; and what the ways through each cell have in common.

        A gene works if what it computes reaches the cell's output. Cells that differ only in what does not work compute
        the same."""
        cells = described(genome.names, genome.cells, self._layout)
        works = [
            edge.mark in working for edges, working in zip(genome.cells, cells.built, strict=True) for edge in edges
        ]
        row: list[float] = []
        width = len(self.choices) // len(works)
        tokens = self.tokens(genome)
        for place, options in enumerate(self.choices):
            working = works[place // width]
            row += [float(working and tokens[place] == i) for i in range(len(options))]
        ops = [edge.op for edge in genome.edges]
        busy = [op for op, working in zip(ops, works, strict=True) if working]
        row += [float(some.count(op)) for some in (ops, busy) for op in self.settings.ops]
        parts = zip(genome.cells, cells.built, cells.outputs, strict=True)
        return row + [WAYS * value for part in parts for value in self._ways(*part)]

    def _ways(self, edges: Sequence[CellEdge], working: Container[int], handed: Sequence[int]) -> list[float]:
        """Of the ways from a cell's inputs to its outputs: the logarithm of one more than there are, and how often
        each operation, and anything but `skip`, lies on a way: at most, at least and on average."""
        kinds = len(self.settings.ops) + 1
        ways = {node: Ways(1, (0,) * kinds, (0,) * kinds, (0,) * kinds) for node in range(self.settings.inputs)}
        for edge in edges:
            if edge.mark in working:
                step = [int(i == self._positions[edge.op]) for i in range(kinds - 1)] + [int(edge.op != "skip")]
                longer = ways[edge.source].longer(step)
                ways[edge.target] = ways[edge.target].joined(longer) if edge.target in ways else longer
        ends = [ways[node] for node in handed if node in ways]
        if not ends:
            return [0.0] * (1 + 3 * kinds)
        all_ = reduce(Ways.joined, ends)
        return [log2(1 + all_.number), *all_.most, *all_.least, *(total / all_.number for total in all_.total)]

    def all(self) -> Iterator[CellGenome]:
        """Every genome of the space, some of them more than once where `edges` is two."""
        return map(self.from_tokens, product(*[range(len(options)) for options in self.choices]))

    # --------------------------------------------------------------------------------------------------- variation

    def random(self, rng: Random, marks: MarkBook) -> CellGenome:
        """A genome with every choice drawn alike."""
        return self.from_tokens([int(rng.random() * len(options)) for options in self.choices])

    def mutate(self, genome: CellGenome, rng: Random, marks: MarkBook) -> tuple[CellGenome, tuple[Edit, ...]] | None:
        """A child with some choices made anew; None where no place has another choice."""
        tokens = list(self.tokens(genome))
        open_places = self._open
        for place in rng.sample(open_places, min(self.settings.changes, len(open_places))):
            tokens[place] = _other(tokens[place], len(self.choices[place]), rng)
        child = self.from_tokens(tokens)
        return (child, difference(genome, child)) if child != genome else None

    @cached_property
    def _open(self) -> list[int]:
        return [place for place, options in enumerate(self.choices) if len(options) > 1]

    def mate(
        self, fitter: CellGenome, other: CellGenome, rng: Random, marks: MarkBook
    ) -> tuple[CellGenome, tuple[Edit, ...]]:
        """A child of two: each gene of the fitter, or what the other has at its place, with equal probability; where
        edges are chosen, both edges of a node go together."""
        cells, taken = [], []
        for mine, theirs in zip(fitter.cells, other.cells, strict=True):
            edges: list[CellEdge] = []
            for group, foreign in zip(self._groups(mine), self._groups(theirs), strict=True):
                if rng.random() < 0.5 and group != foreign:
                    taken += [edge.mark for edge in foreign]
                    group = foreign
                edges += group
            cells.append(tuple(edges))
        if not taken:
            return fitter, ()
        child = CellGenome(fitter.names, tuple(cells))
        (edit,) = difference(fitter, child)
        return child, (Edit("mate", edit.where, tuple(taken), edit.args),)

    def _groups(self, edges: tuple[CellEdge, ...]) -> list[tuple[CellEdge, ...]]:
        width = 2 if self.settings.edges == "two" else 1
        return [edges[i : i + width] for i in range(0, len(edges), width)]

    def difference(self, parent: CellGenome, child: CellGenome) -> tuple[Edit, ...]:
        """The edits that make a child of a parent, whoever chose its tokens."""
        return difference(parent, child)

    def distance(self, a: CellGenome, b: CellGenome) -> float:
        """Share of the genes that differ, 0 to 1: they have a mark that the other lacks, or another operation."""
        theirs = {edge.mark: edge.op for edge in b.edges}
        return sum(theirs.get(edge.mark) != edge.op for edge in a.edges) / len(theirs)

    # -------------------------------------------------------------------------------------------------- reading

    def check(self, genome: Any) -> None:
        """Raises DataError for a genome that is not of this space."""
        if not isinstance(genome, CellGenome):
            raise DataError(f"a {type(genome).__name__} is no genome of cells: set encoding.kind to its encoding")
        if genome.names != tuple(self.settings.cells):
            raise DataError(f"genome: cells {', '.join(genome.names)}, this space has {', '.join(self.settings.cells)}")
        for name, edges in zip(genome.names, genome.cells, strict=True):
            for edge in edges:
                if edge.op not in self.settings.ops:
                    raise DataError(
                        f"genome: {name}: op {edge.op!r} is not in ops; {nearest(edge.op, self.settings.ops)}"
                    )
        try:
            same = self.from_tokens(self.tokens(genome)) == genome
        except (ValueError, IndexError):
            same = False
        if not same:
            raise DataError("genome: its edges are not those of this space: compare nodes, edges and inputs")

    def to_json(self, genome: CellGenome) -> Any:
        cells = {name: [list(edge) for edge in edges] for name, edges in zip(genome.names, genome.cells, strict=True)}
        return {"encoding": "cell", "format": FORMAT, "cells": cells}

    def from_json(self, data: Any) -> CellGenome:
        """The genome in a file. Raises DataError naming what is wrong."""
        return read(data)

    def decode(self, genome: CellGenome) -> Plan:
        """The network: the skeleton with the cells in it. The last ones are remembered."""
        return self._decoded(genome.names, genome.cells)

    @cached_property
    def _decoded(self) -> Callable[[tuple[str, ...], tuple[tuple[CellEdge, ...], ...]], Plan]:
        # plans of twenty cells hold a thousand steps: fewer are kept than of layer graphs
        return lru_cache(maxsize=64)(
            lambda names, cells: lower(
                names, cells, self.settings.skeleton, self._layout, self.input_shape, self.outputs
            )
        )

    @cached_property
    def _layout(self) -> Layout:
        return Layout(self.settings.inputs, self.settings.nodes, self.settings.output)

    def summary(self, genome: CellGenome) -> str:
        """One line for tables: the operations into each node, `skip | conv_3x3 none | skip conv_1x1 skip`."""
        return " || ".join(map(self._told, genome.cells))

    def _told(self, edges: tuple[CellEdge, ...]) -> str:
        nodes = range(self.settings.inputs, self.settings.inputs + self.settings.nodes)
        chosen = self.settings.edges == "two"
        words = [f"{edge.op}({edge.source})" if chosen else edge.op for edge in edges]
        groups = [[word for word, edge in zip(words, edges, strict=True) if edge.target == node] for node in nodes]
        return " | ".join(map(" ".join, groups))

    def alive(self, genome: CellGenome) -> frozenset[int]:
        """Input and output alone: marks of cells need no registry."""
        return frozenset((INPUT, OUTPUT))


def apply(genome: CellGenome, edit: Edit) -> CellGenome:
    """The child that an edit makes of a genome; DataError if it does not fit."""
    try:
        gone = set(edit.where)
        made = [CellEdge(mark, *place_of(mark)[1:3], op) for mark, op in edit.args["genes"]]
        cells = []
        for i, edges in enumerate(genome.cells):
            kept = [edge for edge in edges if edge.mark not in gone]
            cells.append(tuple(sorted([*kept, *(edge for edge in made if place_of(edge.mark)[0] == i)], key=_order)))
        return CellGenome(genome.names, tuple(cells))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"edit: {edit} does not fit the genome {genome.key[:8]}: {error!r}") from None


def difference(parent: CellGenome, child: CellGenome) -> tuple[Edit, ...]:
    """The edit that makes a child of its parent: `where` are the genes that go, `genes` (mark, op) those that come."""
    mine, theirs = set(parent.edges), set(child.edges)
    gone = tuple([edge.mark for edge in parent.edges if edge not in theirs])
    come = [edge for edge in child.edges if edge not in mine]
    return (Edit("change_edges", gone, tuple([e.mark for e in come]), {"genes": [[e.mark, e.op] for e in come]}),)


def read(data: Any) -> CellGenome:
    """A genome from its JSON. Raises DataError naming what is wrong, before anything is sized after it."""
    if not isinstance(data, Mapping) or data.get("encoding") != "cell":
        raise DataError("genome: encoding is not 'cell': set encoding.kind to the genome's own")
    if data.get("format") != FORMAT:
        raise DataError(f"genome: format {data.get('format')!r}, this evonas reads {FORMAT}: upgrade evonas")
    cells = data.get("cells")
    if not isinstance(cells, Mapping) or not 1 <= len(cells) <= 2:
        raise DataError("genome: cells is no mapping of one or two cells")
    return CellGenome(tuple(map(str, cells)), tuple(_read_edges(name, edges) for name, edges in cells.items()))


def _read_edges(name: str, edges: Any) -> tuple[CellEdge, ...]:
    if not isinstance(edges, list) or len(edges) > MOST_NODES**2:
        raise DataError(f"genome: {name}: no list of at most {MOST_NODES**2} edges")
    return tuple(_read_edge(name, edge) for edge in edges)


def _read_edge(name: str, edge: Any) -> CellEdge:
    match edge:
        case [int(mark), int(source), int(target), str(op)] if _whole(mark, source, target):
            if op not in get_args(CellOp):
                raise DataError(f"genome: {name}: op {op[:40]!r} is not known; {nearest(op[:40], get_args(CellOp))}")
            if place_of(mark)[1:3] == (source, target):
                return CellEdge(mark, source, target, op)
    raise DataError(f"genome: {name}: {str(edge)[:80]} is no edge [mark, source, target, op] with its place's mark")


@lru_cache(maxsize=65536)
def _edge_text(edge: CellEdge) -> str:
    return dumps(list(edge))


def _whole(mark: int, source: int, target: int) -> bool:
    """Whether these are numbers of a place; JSON's true and false pass for numbers."""
    return bool not in (type(mark), type(source), type(target)) and mark >= FIRST and 0 <= source < target < MOST_NODES


@lru_cache(maxsize=65536)
def _edge(mark: int, source: int, target: int, op: str) -> CellEdge:
    """A gene, one object for each place and operation."""
    return CellEdge(mark, source, target, op)


def _pair(cell: int, node: int, chosen: Sequence[tuple[int, str]]) -> list[CellEdge]:
    """The two edges into a node; the second of two from one source has a mark of its own."""
    (first, one), (second, other) = chosen
    nth = int(first == second)
    return [
        _edge(mark_of(cell, first, node), first, node, one),
        _edge(mark_of(cell, second, node, nth), second, node, other),
    ]


def _other(now: int, count: int, rng: Random) -> int:
    """Another choice than the one made now, all alike."""
    drawn = int(rng.random() * (count - 1))
    return drawn + (drawn >= now)


def _order(edge: CellEdge) -> tuple[int, int, int]:
    return edge.target, edge.source, edge.mark
