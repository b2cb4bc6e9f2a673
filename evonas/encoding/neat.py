"""The direct encoding: every node and every link of a network is a gene. Stanley and Miikkulainen 2002.

Whole populations are made, bred and compared at once (`found`, `breed`, `distances`); the faces for a single genome are
the same on a population of one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonas import native
from evonas.core import DataError, Edit, RecipeError
from evonas.encoding import breeding, population
from evonas.encoding.plan import Plan, Shape, Step
from evonas.encoding.population import NeatGenome, Population
from evonas.encoding.variation import NeatBounds, NeatSettings
from evonas.marks import MarkBook

Positions = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class NeatEncoding:
    """The search space of direct genomes for one task; fulfils `core.Encoding`.

    `input_shape` is (features,) or (channels, height, width), which is flattened."""

    settings: NeatSettings
    input_shape: Shape
    outputs: int

    @property
    def name(self) -> str:
        return "neat"

    @cached_property
    def inputs(self) -> int:
        """Numbers that the network is given."""
        return prod(self.input_shape)

    # ------------------------------------------------------------------------------------------- whole populations

    def found(self, count: int, seed: int, book: MarkBook) -> Population:
        """First genomes; in place of one that breaks a bound stands one that keeps them.

        Raises RecipeError where none keeps them."""
        self._reserve(book)
        genomes = breeding.found(self.settings, count, self.inputs, self.outputs, seed, book)
        broken = _broken(self.settings.bounds, genomes)
        if not broken.any():
            return genomes
        kept = np.flatnonzero(~broken)
        if not len(kept):
            why = self.settings.bounds.violation(self.decode(genomes[0]))
            raise RecipeError(
                f"none of {count} first genomes keeps encoding.bounds ({why}): raise the bound, or connect less at "
                "first with encoding.initial_connection"
            )
        places = np.arange(count)
        return genomes.take(np.where(broken, kept[places % len(kept)], places))

    def breed(
        self, adults: Population, fitter: Positions, other: Positions, equal: Flags, mutated: Flags, seed: int,
        book: MarkBook,
    ) -> tuple[Population, dict[int, tuple[Edit, ...]]]:  # fmt: skip
        """k children and the structural edits of those that have some, by position.

        `fitter` and `other` are the parents' positions, (k,); where `other` is -1 or the same there is one parent;
        where `equal`, both parents' genes are inherited; those `mutated` are. A child that breaks a bound becomes a
        copy of its fitter parent."""
        self._reserve(book)
        threads = native.cores()
        bred = breeding.mate(adults, fitter, other, equal, self.settings, seed, threads)
        children, edits = breeding.mutate(bred, mutated, self.settings, book, seed, threads)
        broken = _broken(self.settings.bounds, children)
        if not broken.any():
            return children, edits
        both = Population.joined([children, adults])
        children = both.take(np.where(broken, len(children) + fitter, np.arange(len(children))))
        return children, {i: made for i, made in edits.items() if not broken[i]}

    def distances(self, genomes: Population, representatives: Population) -> NDArray[np.float64]:
        """Compatibility distances, (n, representatives). Stanley and Miikkulainen 2002, equation 1."""
        if not len(representatives):
            return np.zeros((len(genomes), 0))
        return breeding.distances(genomes, representatives, self.settings.distance, native.cores())

    def population(self, genomes: Sequence[NeatGenome]) -> Population:
        """Any genomes as one population, in their order."""
        if len(genomes):
            return Population.of(genomes)
        return Population.empty(self.inputs, self.outputs, self.settings.feed_forward)

    def pack_state(self, genomes: Sequence[NeatGenome]) -> bytes:
        """The genomes as bytes that `unpack_state` reads."""
        return self.population(genomes).to_bytes()

    def unpack_state(self, content: bytes) -> Population:
        """Reads and checks what `pack_state` wrote; DataError names what is wrong."""
        genomes = Population.from_bytes(content)
        self._check_fit(genomes)
        return genomes

    # --------------------------------------------------------------------------------------------------- one genome

    def random(self, rng: Random, marks: MarkBook) -> NeatGenome:
        """A first genome as the settings want it."""
        self._reserve(marks)
        return breeding.found(self.settings, 1, self.inputs, self.outputs, rng.getrandbits(64), marks)[0]

    def mutate(self, genome: NeatGenome, rng: Random, marks: MarkBook) -> tuple[NeatGenome, tuple[Edit, ...]] | None:
        """A child by one round of mutations, or None where no gene is touched."""
        self._reserve(marks)
        children, edits = breeding.mutate(
            genome.alone, np.ones(1, dtype=bool), self.settings, marks, rng.getrandbits(64)
        )
        child = children[0]
        if child == genome:
            return None
        return child, edits.get(0) or (_changes("change_values", genome, child),)

    def mate(
        self, fitter: NeatGenome, other: NeatGenome, rng: Random, marks: MarkBook
    ) -> tuple[NeatGenome, tuple[Edit, ...]]:
        """A child of two: matching genes from either parent, disjoint and excess genes from the fitter."""
        if fitter == other:
            return fitter, ()
        pair = Population.of([fitter, other])
        one, two, equal = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64), np.zeros(1, dtype=bool)
        child = breeding.mate(pair, one, two, equal, self.settings, rng.getrandbits(64))[0]
        return (fitter, ()) if child == fitter else (child, (_changes("mate", fitter, child),))

    def distance(self, a: NeatGenome, b: NeatGenome) -> float:
        """The compatibility distance: symmetric, 0 between equal genomes."""
        return float(self.distances(a.alone, b.alone)[0, 0])

    # ------------------------------------------------------------------------------------------- reading, decoding

    def check(self, genome: NeatGenome) -> None:
        """Raises DataError unless the genome is valid and made for this task."""
        population.check(genome.alone)
        self._check_fit(genome.population)

    def to_json(self, genome: NeatGenome) -> dict[str, Any]:
        return population.to_json(genome)

    def from_json(self, data: object) -> NeatGenome:
        """Reads and checks a genome from outside; DataError names what is wrong."""
        genome = population.from_json(data)
        self._check_fit(genome.population)
        return genome

    def decode(self, genome: NeatGenome) -> Plan:
        """The network as a plan: the input, flattened if it is an image, and one step with all nodes and links."""
        steps = [Step("layer0", "input", (), self.input_shape)]
        if len(self.input_shape) > 1:
            steps.append(Step("flatten", "flatten", (0,), (self.inputs,)))
        nodes, links = population.rows(genome)
        used = int(genome.enabled.sum())
        settings = {
            "inputs": self.inputs, "outputs": self.outputs, "feed_forward": genome.feed_forward, "nodes": nodes,
            "links": links, "hidden": len(nodes) - self.outputs, "depth": depth(genome),
        }  # fmt: skip
        graph = Step("graph", "graph", (len(steps) - 1,), (self.outputs,), settings, used + len(nodes), 2 * used)
        return Plan((*steps, graph))

    def alive(self, genome: NeatGenome) -> frozenset[int]:
        """The marks of all genes, inputs and outputs with them."""
        return genome.marks.union(range(self.inputs + self.outputs))

    def summary(self, genome: NeatGenome) -> str:
        """The genome in a few words: hidden nodes, enabled links and all links."""
        used, links = int(genome.enabled.sum()), len(genome.link_mark)
        return f"{len(genome.node_mark) - self.outputs} hidden, {used} of {links} links"

    # ------------------------------------------------------------------------------------------------------ details

    def _reserve(self, book: MarkBook) -> None:
        book.reserve(self.inputs + self.outputs)

    def _check_fit(self, genomes: Population) -> None:
        if (genomes.inputs, genomes.outputs) != (self.inputs, self.outputs):
            raise DataError(
                f"genome: it has {genomes.inputs} inputs and {genomes.outputs} outputs, but the task has {self.inputs} "
                f"and {self.outputs}: choose a genome made for this task"
            )
        if genomes.feed_forward != self.settings.feed_forward:
            kinds = ("recurrent", "feed-forward")
            raise DataError(
                f"genome: it is {kinds[genomes.feed_forward]}, the recipe's networks are "
                f"{kinds[self.settings.feed_forward]}: set encoding.feed_forward: {str(genomes.feed_forward).lower()}"
            )


def _changes(op: str, before: NeatGenome, after: NeatGenome) -> Edit:
    """An edit that says how many genes a child has otherwise than its parent."""
    known = {tuple(row) for genes in population.rows(before) for row in genes}
    changed = sum([tuple(row) not in known for genes in population.rows(after) for row in genes])
    return Edit(op, (), (), {"genes": changed})


# ------------------------------------------------------------------------------------------------------------ depth


def _broken(bounds: NeatBounds, genomes: Population) -> Flags:
    """Which genomes break a bound, (n,)."""
    sizes, broken = genomes.sizes(), np.zeros(len(genomes), dtype=bool)
    for name in ("hidden", "connections", "params"):
        most = getattr(bounds, name)
        if most is not None:
            broken |= sizes[name] > most
    if bounds.depth is not None:
        broken |= np.array([depth(genome) > bounds.depth for genome in genomes], dtype=bool)
    return broken


def depth(genome: NeatGenome) -> int:
    """The largest number of nodes on a path of enabled links from input to output; in a recurrent network the number of
    steps until the inputs have reached every output that they can reach."""
    inner = genome.enabled.astype(bool) & (genome.source >= genome.inputs)
    onward: dict[int, list[int]] = defaultdict(list)
    for source, target in zip(genome.source[inner].tolist(), genome.target[inner].tolist(), strict=True):
        onward[source].append(target)
    marks = genome.node_mark.tolist()
    if genome.feed_forward:
        levels = _longest(marks, onward)
    else:
        fed = genome.enabled.astype(bool) & (genome.source < genome.inputs)
        levels = _shortest(np.unique(genome.target[fed]).tolist(), onward)
    return max([levels.get(mark, 1) for mark in marks[: genome.outputs]])


def _longest(marks: Sequence[int], onward: Mapping[int, list[int]]) -> dict[int, int]:
    """Nodes on the longest path that ends at each node of an acyclic graph."""
    waiting = Counter([target for targets in onward.values() for target in targets])
    levels, ready = dict.fromkeys(marks, 1), [mark for mark in marks if not waiting[mark]]
    for mark in ready:
        for target in onward.get(mark, ()):
            levels[target] = max(levels[target], levels[mark] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return levels


def _shortest(starts: Sequence[int], onward: Mapping[int, list[int]]) -> dict[int, int]:
    """Nodes on the shortest path to each node that can be reached from the `starts`."""
    levels, ready = dict.fromkeys(starts, 1), list(starts)
    for mark in ready:
        for target in onward.get(mark, ()):
            if target not in levels:
                levels[target] = levels[mark] + 1
                ready.append(target)
    return levels
