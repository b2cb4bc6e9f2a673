"""Direct genomes as arrays: a whole NEAT population in one set of flat arrays, and one genome as a view into them.

Nodes are named by marks: inputs 0 .. inputs-1 (they have no gene), outputs inputs .. inputs+outputs-1, hidden nodes the
marks the registry gave them. Every genome's genes stand sorted by mark, so the outputs come first among its nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evonas import limits
from evonas.core import DataError, dumps, nearest
from evonas.encoding.variation import ACTIVATIONS, AGGREGATIONS

Ints = NDArray[np.int32]
Offsets = NDArray[np.int64]
Reals = NDArray[np.float64]
Codes = NDArray[np.uint8]

MAX_MARK = 2**31 - 1
MAX_NODES, MAX_LINKS, MAX_ENDS = limits.NODES, limits.LINKS, limits.ENDS
"""Most genes of a genome, most inputs and outputs: checked before anything is sized after them."""

MAX_VALUE = float(np.finfo(np.float32).max)
"""Networks compute in float32."""

FORMAT = 1

_NODES = {"node_mark": "i4", "bias": "f8", "response": "f8", "activation": "u1", "aggregation": "u1"}
_LINKS = {"link_mark": "i4", "source": "i4", "target": "i4", "weight": "f8", "enabled": "u1"}
_ARRAYS = {"node_offsets": "i8", **_NODES, "link_offsets": "i8", **_LINKS}


@dataclass(frozen=True, eq=False, repr=False)
class Population(Sequence["NeatGenome"]):
    """n direct genomes for one task shape. It takes over the arrays it is given and makes them read-only.

    Genome i owns nodes `node_offsets[i]:node_offsets[i+1]` and links `link_offsets[i]:link_offsets[i+1]`. A link goes
    from the node `source` to the node `target`, both marks; it and both its ends are in the same genome."""

    inputs: int
    outputs: int
    feed_forward: bool
    node_offsets: Offsets  # (n+1,)
    node_mark: Ints  # (nodes,)
    bias: Reals
    response: Reals
    activation: Codes
    aggregation: Codes
    link_offsets: Offsets  # (n+1,)
    link_mark: Ints  # (links,)
    source: Ints
    target: Ints
    weight: Reals
    enabled: Codes  # 0 or 1

    def __post_init__(self) -> None:
        for name, kind in _ARRAYS.items():
            array = np.ascontiguousarray(getattr(self, name), dtype=kind)
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    # ------------------------------------------------------------------------------------------------- as a sequence

    def __len__(self) -> int:
        return len(self.node_offsets) - 1

    @overload
    def __getitem__(self, at: int) -> NeatGenome: ...
    @overload
    def __getitem__(self, at: slice) -> Population: ...
    def __getitem__(self, at: int | slice) -> NeatGenome | Population:
        if isinstance(at, slice):
            return self.take(np.arange(len(self))[at])
        return NeatGenome(self, range(len(self))[at])

    def __repr__(self) -> str:
        return f"Population({len(self)} genomes, {len(self.node_mark)} nodes, {len(self.link_mark)} links)"

    def __reduce__(self) -> tuple[Any, ...]:
        return Population, (self.inputs, self.outputs, self.feed_forward, *[getattr(self, name) for name in _ARRAYS])

    # ------------------------------------------------------------------------------------------------ made of others

    @staticmethod
    def empty(inputs: int, outputs: int, feed_forward: bool) -> Population:
        """No genomes, for a task shape."""
        arrays = {name: np.zeros(int(name.endswith("offsets")), kind) for name, kind in _ARRAYS.items()}
        return Population(inputs, outputs, feed_forward, **arrays)

    @staticmethod
    def of(genomes: Sequence[NeatGenome]) -> Population:
        """The given genomes, at least one, in their order; fast where they are views into few populations."""
        if isinstance(genomes, Population):
            return genomes
        if not genomes:
            raise ValueError("no genomes are given, so their inputs and outputs are not known: use Population.empty")
        places: dict[int, list[int]] = {}
        for i, genome in enumerate(genomes):
            places.setdefault(id(genome.population), []).append(i)
        parts = [genomes[own[0]].population.take([genomes[i].at for i in own]) for own in places.values()]
        if len(parts) == 1:
            return parts[0]
        order = np.concatenate([np.asarray(own) for own in places.values()])
        return Population.joined(parts).take(np.argsort(order, kind="stable"))

    @staticmethod
    def joined(populations: Sequence[Population]) -> Population:
        """The genomes of several populations, at least one, of the same task shape, one after the other."""
        first = populations[0]
        if len(populations) == 1:
            return first
        for other in populations:
            if other.shape != first.shape:
                raise ValueError(f"genomes of {_shape(*first.shape)} and of {_shape(*other.shape)} cannot be joined")
        arrays = {name: [getattr(one, name) for one in populations] for name in _ARRAYS}
        return first._with({
            name: _chained(parts) if name.endswith("offsets") else np.concatenate(parts)
            for name, parts in arrays.items()
        })  # fmt: skip

    def take(self, indices: ArrayLike) -> Population:
        """The genomes at `indices`, (k,) integers from 0, or where a mask (n,) is true; a copy."""
        at = np.asarray(indices)
        at = np.flatnonzero(at) if at.dtype == bool else at.astype(np.int64, copy=False)
        if len(at) and (at.min() < 0 or at.max() >= len(self)):
            raise IndexError(f"positions {at.min()} to {at.max()} are not all among {len(self)} genomes")
        node_offsets, nodes = _gather(self.node_offsets, at)
        link_offsets, links = _gather(self.link_offsets, at)
        return self._with({
            "node_offsets": node_offsets, **{name: getattr(self, name).take(nodes) for name in _NODES},
            "link_offsets": link_offsets, **{name: getattr(self, name).take(links) for name in _LINKS},
        })  # fmt: skip

    def _with(self, arrays: Mapping[str, Any]) -> Population:
        """Other genomes of the same task shape."""
        return Population(self.inputs, self.outputs, self.feed_forward, **arrays)

    # ------------------------------------------------------------------------------------------------------ measures

    @property
    def shape(self) -> tuple[int, int, bool]:
        """Inputs, outputs, and whether links make no cycle: what genomes of one population share."""
        return self.inputs, self.outputs, self.feed_forward

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(self, name).nbytes for name in _ARRAYS)

    def sizes(self) -> dict[str, NDArray[np.int64]]:
        """Counts of every genome, (n,) each: `nodes` and of these `hidden`, `links` that are enabled, `connections`
        whether enabled or not, and `params`: the enabled links' weights and the nodes' biases."""
        nodes, connections = np.diff(self.node_offsets), np.diff(self.link_offsets)
        enabled = np.concatenate(([0], np.cumsum(self.enabled, dtype=np.int64)))
        links = enabled[self.link_offsets[1:]] - enabled[self.link_offsets[:-1]]
        return {
            "nodes": nodes, "hidden": nodes - self.outputs, "links": links, "connections": connections,
            "params": links + nodes,
        }  # fmt: skip

    def alive(self) -> frozenset[int]:
        """The marks of all genes of all genomes, inputs and outputs with them."""
        marks = np.union1d(self.node_mark, self.link_mark)
        return frozenset(range(self.inputs + self.outputs)).union(marks.tolist())

    # --------------------------------------------------------------------------------------------------------- bytes

    def to_bytes(self) -> bytes:
        """The arrays in the safetensors format."""
        from safetensors.numpy import save

        shape = np.array([FORMAT, *self.shape], dtype=np.int64)
        return save({"shape": shape, **{name: getattr(self, name) for name in _ARRAYS}})

    @staticmethod
    def from_bytes(content: bytes) -> Population:
        """Reads what `to_bytes` wrote and checks every genome; DataError names what is wrong."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(content)
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"population: not in the safetensors format: {str(error)[:120]}") from None
        for name, kind in {"shape": "i8", **_ARRAYS}.items():
            array = arrays.get(name)
            if array is None or array.ndim != 1 or array.dtype != np.dtype(kind):
                found = "missing" if array is None else f"{array.dtype} of shape {array.shape}"
                raise DataError(f"population: array {name!r} is {found}, expected {np.dtype(kind)} in one dimension")
        shape = arrays["shape"].tolist()
        if len(shape) != 4 or shape[0] != FORMAT:
            raise DataError(f"population: format {shape[:1]} is not {FORMAT}: a newer evonas may read it")
        population = Population(shape[1], shape[2], bool(shape[3]), **{name: arrays[name] for name in _ARRAYS})
        check(population)
        return population


def _chained(offsets: Sequence[Offsets]) -> Offsets:
    """Offsets into arrays that are put one after the other."""
    bases = np.cumsum([0, *[one[-1] for one in offsets[:-1]]])
    return np.concatenate([[0], *[one[1:] + base for one, base in zip(offsets, bases, strict=True)]])


def _gather(offsets: Offsets, at: Offsets) -> tuple[Offsets, Offsets]:
    """New offsets of the genomes `at`, and the old positions of all their genes in order."""
    starts = offsets[at]
    ends = np.zeros(len(at) + 1, dtype=np.int64)
    np.cumsum(offsets[at + 1] - starts, out=ends[1:])
    places = np.repeat(starts - ends[:-1], np.diff(ends))
    places += np.arange(len(places))
    return ends, places


def _shape(inputs: int, outputs: int, feed_forward: bool) -> str:
    return f"{inputs} inputs and {outputs} outputs, {'feed-forward' if feed_forward else 'recurrent'}"


# ------------------------------------------------------------------------------------------------------- one genome


@dataclass(frozen=True, eq=False, repr=False)
class NeatGenome:
    """One genome: place `at` of a population, whose arrays it shows. Equal where the genes are equal."""

    population: Population
    at: int

    @staticmethod
    def of(
        inputs: int, outputs: int, feed_forward: bool, nodes: Iterable[Sequence[Any]], links: Iterable[Sequence[Any]]
    ) -> NeatGenome:
        """A genome from genes in any order: nodes [mark, bias, response, activation, aggregation] by name, links [mark,
        source, target, weight, enabled]. They are not checked."""
        coded = [
            (mark, bias, response, ACTIVATIONS.index(activation), AGGREGATIONS.index(aggregation))
            for mark, bias, response, activation, aggregation in sorted(nodes, key=_mark)
        ]
        genes = _columns(coded, _NODES, "node_offsets") | _columns(sorted(links, key=_mark), _LINKS, "link_offsets")
        return NeatGenome(Population(inputs, outputs, feed_forward, **genes), 0)

    @property
    def inputs(self) -> int:
        return self.population.inputs

    @property
    def outputs(self) -> int:
        return self.population.outputs

    @property
    def feed_forward(self) -> bool:
        return self.population.feed_forward

    @cached_property
    def nodes(self) -> slice:
        """Where its nodes are in the population's arrays."""
        return slice(int(self.population.node_offsets[self.at]), int(self.population.node_offsets[self.at + 1]))

    @cached_property
    def links(self) -> slice:
        """Where its links are in the population's arrays."""
        return slice(int(self.population.link_offsets[self.at]), int(self.population.link_offsets[self.at + 1]))

    @property
    def node_mark(self) -> Ints:
        return self.population.node_mark[self.nodes]

    @property
    def bias(self) -> Reals:
        return self.population.bias[self.nodes]

    @property
    def response(self) -> Reals:
        return self.population.response[self.nodes]

    @property
    def activation(self) -> Codes:
        return self.population.activation[self.nodes]

    @property
    def aggregation(self) -> Codes:
        return self.population.aggregation[self.nodes]

    @property
    def link_mark(self) -> Ints:
        return self.population.link_mark[self.links]

    @property
    def source(self) -> Ints:
        return self.population.source[self.links]

    @property
    def target(self) -> Ints:
        return self.population.target[self.links]

    @property
    def weight(self) -> Reals:
        return self.population.weight[self.links]

    @property
    def enabled(self) -> Codes:
        return self.population.enabled[self.links]

    @property
    def alone(self) -> Population:
        """A population of this genome only, which keeps no other alive."""
        return self.population if len(self.population) == 1 else self.population.take([self.at])

    @cached_property
    def key(self) -> str:
        """BLAKE2b of the content, 32 hexadecimal digits."""
        shape = np.array([*self.population.shape, len(self.node_mark)], dtype="<i8")
        content = hashlib.blake2b(shape.tobytes(), digest_size=16)
        for name, kind in {**_NODES, **_LINKS}.items():
            content.update(getattr(self, name).astype(f"<{kind}", copy=False).tobytes())
        return content.hexdigest()

    @cached_property
    def text(self) -> str:
        """The canonical JSON text."""
        return dumps(to_json(self))

    @cached_property
    def marks(self) -> frozenset[int]:
        """The marks of all genes."""
        return frozenset((*self.node_mark.tolist(), *self.link_mark.tolist()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NeatGenome) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"NeatGenome({self.key[:8]}: {len(self.node_mark)} nodes, {len(self.link_mark)} links)"

    def __reduce__(self) -> tuple[Any, ...]:
        return NeatGenome, (self.alone, 0)


def _mark(gene: Sequence[Any]) -> Any:
    return gene[0]


def _columns(rows: Sequence[Sequence[Any]], kinds: Mapping[str, str], offsets: str) -> dict[str, NDArray[Any]]:
    """The arrays of one genome's nodes or links, given as rows."""
    columns = {name: np.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(kinds.items())}
    return {offsets: np.array([0, len(rows)]), **columns}


# --------------------------------------------------------------------------------------------------------- validity


def check(population: Population) -> None:
    """Raises DataError unless every genome is valid: sizes within limits, finite numbers and known codes, unique
    ascending marks, links between nodes of the genome, none twice, and where feed-forward no cycle."""
    _check_layout(population)
    _check_values(population)
    _check_marks(population)
    _check_links(population)


def _check_layout(population: Population) -> None:
    inputs, outputs = population.inputs, population.outputs
    if not (0 < inputs <= MAX_ENDS and 0 < outputs <= MAX_ENDS):
        raise DataError(f"genome: {inputs} inputs and {outputs} outputs; each is from 1 to {MAX_ENDS:,}")
    for offsets, names, most in (("node_offsets", _NODES, MAX_NODES), ("link_offsets", _LINKS, MAX_LINKS)):
        edges = getattr(population, offsets)
        lengths = {len(getattr(population, name)) for name in names}
        counts = np.diff(edges)
        if not len(edges) or edges[0] or (counts < 0).any() or lengths != {int(edges[-1])}:
            raise DataError(f"population: {offsets} do not ascend from 0 to the length of {', '.join(names)}")
        if (at := _first(counts > most)) is not None:
            raise DataError(f"{_name(population, at)}: {counts[at]:,} {offsets[:4]}s are too many; at most {most:,}")
    if len(population.node_offsets) != len(population.link_offsets):
        raise DataError(f"population: nodes of {len(population)} genomes, links of {len(population.link_offsets) - 1}")


def _check_values(population: Population) -> None:
    for name in ("bias", "response", "weight"):
        values = getattr(population, name)
        if (at := _first(~(np.abs(values) <= MAX_VALUE))) is not None:
            raise DataError(f"{_gene(population, name, at)}: {name} is {values[at]}, write a finite float32 number")
    for name, most in (("activation", len(ACTIVATIONS)), ("aggregation", len(AGGREGATIONS)), ("enabled", 2)):
        codes = getattr(population, name)
        if (at := _first(codes >= most)) is not None:
            raise DataError(f"{_gene(population, name, at)}: {name} has code {codes[at]}, known are 0 to {most - 1}")


def _check_marks(population: Population) -> None:
    inputs, ends = population.inputs, population.inputs + population.outputs
    starts, counts = population.node_offsets[:-1], np.diff(population.node_offsets)
    if (at := _first(counts < population.outputs)) is not None:
        raise DataError(f"{_name(population, at)}: {counts[at]} nodes; the {population.outputs} outputs have one each")
    places = (starts[:, None] + np.arange(population.outputs)).ravel()
    wrong = population.node_mark[places] != np.tile(np.arange(inputs, ends), len(population))
    if (at := _first(wrong)) is not None:
        owner, output = divmod(at, population.outputs)
        raise DataError(f"{_name(population, owner)}: the node of output {output} is missing; the outputs' marks are "
                        f"{inputs} to {ends - 1}, after the inputs'")  # fmt: skip
    for name, offsets in (("node_mark", population.node_offsets), ("link_mark", population.link_offsets)):
        marks = getattr(population, name)
        down = np.diff(marks) <= 0
        inner = offsets[(offsets > 0) & (offsets < len(marks))]
        down[inner - 1] = False
        if (at := _first(down)) is not None:
            found = f"{marks[at]}, then {marks[at + 1]}"
            raise DataError(f"{_gene(population, name, at)}: marks are not ascending and unique: {found}")
    if (at := _first(population.link_mark < ends)) is not None:
        raise DataError(f"{_gene(population, 'link_mark', at)}: marks below {ends} are inputs and outputs, not links")


def _check_links(population: Population) -> None:
    nodes, links = _owned(population.node_offsets), _owned(population.link_offsets)
    known = nodes | population.node_mark
    if (at := _first(_find(known, links | population.link_mark) >= 0)) is not None:
        raise DataError(f"{_gene(population, 'link_mark', at)}: a node has this mark too; every gene needs its own")
    source, target = _find(known, links | population.source), _find(known, links | population.target)
    is_input = (population.source >= 0) & (population.source < population.inputs)
    if (at := _first((target < 0) | ((source < 0) & ~is_input))) is not None:
        ends = f"from {population.source[at]} to {population.target[at]}"
        why = "no link ends at an input" if 0 <= population.target[at] < population.inputs else "it lacks such a node"
        raise DataError(f"{_gene(population, 'link_mark', at)}: it goes {ends}, but {why}")
    _check_twice(population, np.where(is_input, population.source, source + population.inputs), target)
    if population.feed_forward:
        inner = ~is_input
        cyclic = _cyclic(source[inner], target[inner], len(known))
        if len(cyclic):
            owner = int(np.searchsorted(population.node_offsets, cyclic[0], "right")) - 1
            marks = population.node_mark[cyclic[:12]].tolist()
            raise DataError(f"{_name(population, owner)}: nodes {marks} are on a cycle; a feed-forward genome has none")


def _check_twice(population: Population, source: Offsets, target: Offsets) -> None:
    pairs = target * (population.inputs + len(population.node_mark)) + source
    order = np.argsort(pairs, kind="stable")
    if (at := _first(np.diff(pairs[order]) == 0)) is not None:
        one = int(order[at + 1])
        ends = f"from {population.source[one]} to {population.target[one]}"
        raise DataError(f"{_gene(population, 'link_mark', one)}: it is the second {ends}; remove it")


def _owned(offsets: Offsets) -> Offsets:
    """The genome of every gene, in the bits above a mark."""
    return np.repeat(np.arange(len(offsets) - 1) << 32, np.diff(offsets))


def _find(ascending: Offsets, wanted: Offsets) -> Offsets:
    """Where each of `wanted` stands, or -1."""
    if not len(ascending):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[at] == wanted, at, -1)


ROUNDS = 64


def _cyclic(source: Offsets, target: Offsets, count: int) -> list[int]:
    """The nodes on a cycle or between two, of `count`; links are peeled from the inputs on (Kahn 1962)."""
    # a round is one pass over all genomes; what is deeper is rare and goes link by link, so that no chain is quadratic
    for _ in range(ROUNDS):
        reached = np.zeros(count, dtype=bool)
        reached[target] = True
        kept = reached[source]
        if not len(source) or kept.all():
            break
        source, target = source[kept], target[kept]
    return _unsorted(source.tolist(), target.tolist())


def _unsorted(source: list[int], target: list[int]) -> list[int]:
    """The nodes that topological sorting does not reach."""
    onward: dict[int, list[int]] = {node: [] for node in (*source, *target)}
    waiting = dict.fromkeys(onward, 0)
    for a, b in zip(source, target, strict=True):
        onward[a].append(b)
        waiting[b] += 1
    ready = [node for node, count in waiting.items() if not count]
    for node in ready:
        for after in onward[node]:
            waiting[after] -= 1
            if not waiting[after]:
                ready.append(after)
    return sorted(waiting.keys() - set(ready))


def _first(bad: NDArray[np.bool_]) -> int | None:
    """Where the first true one is."""
    return int(bad.argmax()) if bad.any() else None


def _name(population: Population, at: int) -> str:
    return "genome" if len(population) == 1 else f"genome {at} of {len(population)}"


def _gene(population: Population, array: str, at: int) -> str:
    """The genome and gene that an entry of an array belongs to."""
    what = "node" if array in _NODES else "link"
    offsets, marks = getattr(population, f"{what}_offsets"), getattr(population, f"{what}_mark")
    owner = int(np.searchsorted(offsets, at, "right")) - 1
    return f"{_name(population, owner)}: {what} {marks[at]}"


# ------------------------------------------------------------------------------------------------------------- JSON


def to_json(genome: NeatGenome) -> dict[str, Any]:
    """The genome as plain JSON: nodes [mark, bias, response, activation, aggregation], links [mark, source, target,
    weight, enabled]."""
    nodes, links = rows(genome)
    return {
        "encoding": "neat", "format": FORMAT, "inputs": genome.inputs, "outputs": genome.outputs,
        "feed_forward": genome.feed_forward, "nodes": nodes, "links": links,
    }  # fmt: skip


def rows(genome: NeatGenome) -> tuple[list[list[Any]], list[list[Any]]]:
    """The genes as plain lists: nodes and links as `to_json` writes them."""
    activations = [ACTIVATIONS[code] for code in genome.activation.tolist()]
    aggregations = [AGGREGATIONS[code] for code in genome.aggregation.tolist()]
    values = genome.node_mark.tolist(), genome.bias.tolist(), genome.response.tolist()
    ends = genome.link_mark.tolist(), genome.source.tolist(), genome.target.tolist()
    nodes = [list(row) for row in zip(*values, activations, aggregations, strict=True)]
    enabled = genome.enabled.astype(bool).tolist()
    return nodes, [list(row) for row in zip(*ends, genome.weight.tolist(), enabled, strict=True)]


_KEYS = ("encoding", "format", "inputs", "outputs", "feed_forward", "nodes", "links")


def from_json(data: object) -> NeatGenome:
    """Reads and checks a genome from outside; DataError names what is wrong. Genes may come in any order."""
    if not isinstance(data, Mapping) or data.get("encoding") != "neat":
        found = data.get("encoding") if isinstance(data, Mapping) else type(data).__name__
        raise DataError(f"genome: encoding is {str(found)[:80]!r}, expected 'neat': is this a genome file of NEAT?")
    if data.get("format") != FORMAT:
        raise DataError(f"genome: format {str(data.get('format'))[:80]} is not {FORMAT}: a newer evonas may read it")
    unknown = sorted(map(str, set(data) - set(_KEYS)))
    if unknown:
        raise DataError(f"genome: unknown keys {unknown[:5]}; known: {', '.join(_KEYS)}")
    inputs, outputs = (_size(data, name) for name in ("inputs", "outputs"))
    feed_forward = data.get("feed_forward")
    if not isinstance(feed_forward, bool):
        raise DataError(f"genome: feed_forward is {str(feed_forward)[:80]}, expected true or false")
    nodes = [_node(row) for row in _items(data, "nodes", MAX_NODES)]
    links = [_link(row) for row in _items(data, "links", MAX_LINKS)]
    genome = NeatGenome.of(inputs, outputs, feed_forward, nodes, links)
    check(genome.population)
    return genome


def _size(data: Mapping[str, object], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_ENDS:
        raise DataError(f"genome: {name} is {str(value)[:80]}, expected an integer from 1 to {MAX_ENDS}")
    return value


def _items(data: Mapping[str, object], name: str, most: int) -> list[object]:
    items = data.get(name)
    if not isinstance(items, list) or len(items) > most:
        found = f"a list of {len(items)}" if isinstance(items, list) else type(items).__name__
        raise DataError(f"genome: {name} is {found}, expected a list of at most {most}")
    return items


def _node(row: object) -> list[Any]:
    if not (isinstance(row, list) and len(row) == 5 and _is_mark(row[0]) and _is_number(row[1]) and _is_number(row[2])):
        raise DataError(f"genome: node {str(row)[:80]} is not [mark, bias, response, activation, aggregation]")
    for word, known, what in ((row[3], ACTIVATIONS, "activation"), (row[4], AGGREGATIONS, "aggregation")):
        if not isinstance(word, str) or word not in known:
            hint = nearest(str(word)[:80], known)
            raise DataError(f"genome: node {row[0]}: {what} {str(word)[:80]!r} is not known; {hint}")
    return row


def _link(row: object) -> list[Any]:
    marks = isinstance(row, list) and len(row) == 5 and all(map(_is_mark, row[:3]))
    if not (isinstance(row, list) and marks and _is_number(row[3]) and isinstance(row[4], bool)):
        raise DataError(f"genome: link {str(row)[:80]} is not [mark, source, target, weight, true or false]")
    return row


def _is_mark(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_MARK


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_VALUE
