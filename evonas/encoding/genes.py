"""Layer graphs as data: the genes with their marks, the genome, what makes it valid, and its JSON.

After Irwin-Harris et al. 2019 (layers and connections of an arbitrary acyclic graph), with the historical markings of
Stanley and Miikkulainen 2002."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from evonas import limits
from evonas.core import DataError, dumps, nearest
from evonas.marks import INPUT, OUTPUT

LayerOp = Literal["conv", "separable", "max_pool", "avg_pool", "identity", "dense", "dropout", "gate"]
Activation = Literal[
    "linear", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "relu6", "hardswish"
]  # fmt: skip
Norm = Literal["none", "batch", "group"]
Merge = Literal["sum", "concat"]
Reduce = Literal["mean", "flatten"]
Padding = Literal["same", "valid"]

_WINDOW = ("kernel", "stride", "padding")
USES: Mapping[str, tuple[str, ...]] = {
    "input": (),
    "output": ("merge", "reduce"),
    "conv": ("channels", *_WINDOW, "dilation", "activation", "norm", "merge"),
    "separable": ("channels", *_WINDOW, "dilation", "activation", "norm", "merge"),
    "max_pool": (*_WINDOW, "merge"),
    "avg_pool": (*_WINDOW, "merge"),
    "identity": ("activation", "norm", "merge"),
    "dense": ("channels", "activation", "norm", "merge", "reduce"),
    "dropout": ("rate", "merge"),
    "gate": ("merge",),
}
"""The attributes that each operation uses; all others of a gene have their neutral value."""

MAX_MARK = 2**53 - 1
MAX_LAYERS, MAX_EDGES = limits.LAYERS, limits.EDGES
RANGES: Mapping[str, tuple[float, float]] = {
    "channels": (1, 8192), "kernel": (1, 31), "stride": (1, 2), "dilation": (1, 16), "rate": (0.0, 0.95),
}  # fmt: skip
CHOICES: Mapping[str, tuple[str, ...]] = {
    "activation": get_args(Activation), "norm": get_args(Norm), "merge": get_args(Merge),
    "reduce": get_args(Reduce), "padding": get_args(Padding),
}  # fmt: skip
"""What a genome file may hold: checked before anything is sized after it."""

FORMAT = 1


class LayerGene(NamedTuple):
    """A layer. `mark` 0 is the input and 1 the output; an attribute that `op` does not use keeps its neutral default.

    `channels` are filters or units; `kernel` is odd, for pools of stride 2 also even; `padding` same
    gives ceil(size / stride); `merge` says how several incoming edges join; `reduce` how an image becomes features
    (mean: global average pooling); the order is op, norm, activation. `rate` is dropout's. A gate multiplies by one
    learned number."""

    mark: int
    op: str
    channels: int = 0
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    padding: str = "same"
    activation: str = "linear"
    norm: str = "none"
    merge: str = "sum"
    reduce: str = "mean"
    rate: float = 0.0

    def attributes(self) -> dict[str, Any]:
        """The attributes that the operation uses, by name."""
        return {name: getattr(self, name) for name in USES[self.op]}

    def changed(self, values: Mapping[str, Any]) -> LayerGene:
        """This gene with other attribute values; with `op` among them, everything not given becomes neutral."""
        if "op" in values:
            return LayerGene(self.mark, **values)
        return LayerGene(self.mark, self.op, **{**self.attributes(), **values})

    def to_json(self) -> dict[str, Any]:
        """Mark, operation and what is not neutral."""
        data: dict[str, Any] = {"mark": self.mark, "op": self.op}
        for name in USES[self.op]:
            value = getattr(self, name)
            if value != NEUTRAL[name]:
                data[name] = value
        return data


NEUTRAL: Mapping[str, Any] = dict(LayerGene._field_defaults)
"""The value of an attribute that an operation does not use."""


class EdgeGene(NamedTuple):
    """A connection between two layers, by their marks. Of several edges into a layer, the lower mark comes first."""

    mark: int
    source: int
    target: int


@dataclass(frozen=True)
class DagGenome:
    """Layer genes and edge genes, each sorted by mark. Layers on no path from input to output are recessive: kept, not
    built."""

    layers: tuple[LayerGene, ...]
    edges: tuple[EdgeGene, ...]

    @staticmethod
    def of(layers: Iterable[LayerGene], edges: Iterable[EdgeGene]) -> DagGenome:
        """A genome from genes in any order."""
        return DagGenome(tuple(sorted(layers, key=_mark)), tuple(sorted(edges, key=_mark)))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Counted once: what is remembered of genomes is looked up again and again."""
        return hash((self.layers, self.edges))

    def __reduce__(self) -> tuple[Any, ...]:
        return DagGenome, (self.layers, self.edges)  # in another process the hash of the same genes is another

    @cached_property
    def text(self) -> str:
        """The canonical JSON text, equal to `dumps(to_json(genome))` but put together from remembered layers."""
        edges = ",".join([f"[{edge.mark},{edge.source},{edge.target}]" for edge in self.edges])
        layers = ",".join([_layer_text(gene) for gene in self.layers])
        return f'{{"edges":[{edges}],"encoding":"dag","format":{FORMAT},"layers":[{layers}]}}'

    @cached_property
    def key(self) -> str:
        """BLAKE2b of the content, 32 hexadecimal digits."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()

    @cached_property
    def marks(self) -> frozenset[int]:
        """The marks of all genes."""
        return frozenset([gene.mark for gene in self.layers] + [edge.mark for edge in self.edges])

    @property
    def newest(self) -> int:
        """The highest mark."""
        return max(self.layers[-1].mark, self.edges[-1].mark)

    @cached_property
    def layer(self) -> Mapping[int, LayerGene]:
        """Layer genes by mark, ascending."""
        return {gene.mark: gene for gene in self.layers}

    @cached_property
    def incoming(self) -> Mapping[int, list[EdgeGene]]:
        """The edges into each layer, ascending by mark."""
        edges: dict[int, list[EdgeGene]] = {gene.mark: [] for gene in self.layers}
        for edge in self.edges:
            edges[edge.target].append(edge)
        return edges

    @cached_property
    def outgoing(self) -> Mapping[int, list[EdgeGene]]:
        """The edges out of each layer, ascending by mark."""
        edges: dict[int, list[EdgeGene]] = {gene.mark: [] for gene in self.layers}
        for edge in self.edges:
            edges[edge.source].append(edge)
        return edges

    @cached_property
    def order(self) -> list[int]:
        """Marks of the layers so that every edge points forward (Kahn 1962); those on a cycle are missing."""
        outgoing = self.outgoing
        waiting = {mark: len(edges) for mark, edges in self.incoming.items()}
        order = [mark for mark, count in waiting.items() if not count]
        for mark in order:
            for _, _, target in outgoing[mark]:
                waiting[target] -= 1
                if not waiting[target]:
                    order.append(target)
        return order

    @cached_property
    def live(self) -> list[int]:
        """Marks of the layers on a path from input to output, in topological order."""
        order, incoming, outgoing = self.order, self.incoming, self.outgoing
        loose = [mark for mark in order if not incoming[mark]], [mark for mark in order if not outgoing[mark]]
        if loose == ([INPUT], [OUTPUT]):  # then every walk back ends at the input and every walk on at the output
            return order
        reached, needed = {INPUT}, {OUTPUT}
        for mark in order:
            if mark in reached:
                reached.update([edge.target for edge in outgoing[mark]])
        for mark in reversed(order):
            if mark in needed:
                needed.update([edge.source for edge in incoming[mark]])
        return [mark for mark in order if mark in reached and mark in needed]

    @cached_property
    def live_edges(self) -> tuple[EdgeGene, ...]:
        """The edges on a path from input to output, ascending by mark."""
        live = self.live
        if len(live) == len(self.layers):
            return self.edges
        kept = set(live)
        return tuple(edge for edge in self.edges if edge.source in kept and edge.target in kept)


@lru_cache(maxsize=2**12)
def _layer_text(gene: LayerGene) -> str:
    return dumps(gene.to_json())


def _mark(gene: LayerGene | EdgeGene) -> int:
    return gene.mark


# --------------------------------------------------------------------------------------------------------- validity


def check(genome: DagGenome) -> None:
    """Raises DataError unless the genome is valid: known attributes and sizes, unique ascending marks, edges between
    its layers, no cycle, and a path from input to output."""
    if len(genome.layers) > MAX_LAYERS or len(genome.edges) > MAX_EDGES:
        sizes = f"{len(genome.layers)} layers and {len(genome.edges)} edges"
        raise DataError(f"genome: {sizes} are too many; at most {MAX_LAYERS} and {MAX_EDGES} are allowed")
    for gene in genome.layers:
        _check_layer(gene)
    _check_marks(genome)
    _check_paths(genome)


def _check_layer(gene: LayerGene) -> None:
    if not _is_int(gene.mark, 0, MAX_MARK):
        raise DataError(f"genome: layer mark {gene.mark!r} is no integer from 0 to {MAX_MARK}")
    fixed = {INPUT: "input", OUTPUT: "output"}.get(gene.mark)
    if not isinstance(gene.op, str) or gene.op not in USES:
        raise DataError(f"genome: layer {gene.mark}: op {gene.op!r} is not known; {nearest(str(gene.op), list(USES))}")
    if (fixed or gene.op) != gene.op or (fixed is None and gene.op in ("input", "output")):
        raise DataError(f"genome: layer {gene.mark}: op is {gene.op!r}; mark 0 is the input, 1 the output, no other is")
    uses = USES[gene.op]
    for name, neutral in NEUTRAL.items():
        value = getattr(gene, name)
        if name in uses:
            _check_attribute(gene, name, value)
        elif value != neutral:
            raise DataError(f"genome: layer {gene.mark}: {gene.op} has no {name} (it is {value!r}); leave it out")
    if gene.kernel % 2 == 0 and not (gene.op in ("max_pool", "avg_pool") and gene.stride == 2):
        raise DataError(
            f"genome: layer {gene.mark}: kernel {gene.kernel} is even, which only pools of stride 2 can centre; write"
            f" {gene.kernel + 1}"
        )


def _check_attribute(gene: LayerGene, name: str, value: object) -> None:
    if name in CHOICES:
        if not isinstance(value, str) or value not in CHOICES[name]:
            hint = nearest(str(value), CHOICES[name])
            raise DataError(f"genome: layer {gene.mark}: {name} {value!r} is not known; {hint}")
        return
    low, high = RANGES[name]
    number = _is_int(value, low, high) or (name == "rate" and isinstance(value, float) and low <= value <= high)
    if not number:
        what = "number" if name == "rate" else "integer"
        raise DataError(f"genome: layer {gene.mark}: {name} {value!r} is no {what} from {low} to {high}")


def _is_int(value: object, low: float, high: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _check_marks(genome: DagGenome) -> None:
    marks = [gene.mark for gene in genome.layers]
    if marks[:2] != [INPUT, OUTPUT]:
        raise DataError(f"genome: layers begin with the marks {marks[:2]}; the input (0) and the output (1) come first")
    known = set(marks)
    ends = set()
    for edge in genome.edges:
        if not _is_int(edge.mark, 2, MAX_MARK):
            raise DataError(f"genome: edge mark {edge.mark!r} is no integer from 2 to {MAX_MARK}")
        if edge.source not in known or edge.target not in known:
            raise DataError(f"genome: edge {edge.mark} joins {edge.source!r} and {edge.target!r}: no such layer")
        if (edge.source, edge.target) in ends:
            raise DataError(f"genome: edge {edge.mark} is the second from {edge.source} to {edge.target}; remove it")
        ends.add((edge.source, edge.target))
    own = [edge.mark for edge in genome.edges]
    for what, row in (("layers", marks), ("edges", own)):
        if any(a >= b for a, b in pairwise(row)):
            raise DataError(f"genome: marks of {what} are not ascending and unique: {row[:12]}")
    both = known.intersection(own)
    if both:
        raise DataError(f"genome: marks {sorted(both)[:12]} name a layer and an edge; every gene needs its own")


def _check_paths(genome: DagGenome) -> None:
    if len(genome.order) != len(genome.layers):
        cyclic = [mark for mark in genome.layer if mark not in set(genome.order)]
        raise DataError(f"genome: layers {cyclic[:12]} are on a cycle or behind one; a layer graph has none")
    if genome.incoming[INPUT] or genome.outgoing[OUTPUT]:
        raise DataError("genome: an edge leads into the input (0) or out of the output (1); remove it")
    if INPUT not in genome.live:
        raise DataError("genome: no path from the input (0) to the output (1); add edges")


# ------------------------------------------------------------------------------------------------------------- JSON


def to_json(genome: DagGenome) -> dict[str, Any]:
    """The genome as plain JSON: layers as objects without neutral attributes, edges as [mark, source, target]."""
    return {
        "encoding": "dag",
        "format": FORMAT,
        "layers": [gene.to_json() for gene in genome.layers],
        "edges": [[edge.mark, edge.source, edge.target] for edge in genome.edges],
    }


def from_json(data: object) -> DagGenome:
    """Reads and checks a genome from outside; DataError names what is wrong. Genes may come in any order."""
    if not isinstance(data, Mapping) or data.get("encoding") != "dag":
        found = data.get("encoding") if isinstance(data, Mapping) else type(data).__name__
        raise DataError(f"genome: encoding is {found!r}, expected 'dag': is this a genome file of a layer graph?")
    if data.get("format") != FORMAT:
        raise DataError(f"genome: format {data.get('format')!r} is not {FORMAT}: a newer evonas may read it")
    unknown = sorted(map(str, set(data) - {"encoding", "format", "layers", "edges"}))
    if unknown:
        raise DataError(f"genome: unknown keys {unknown[:5]}; known: encoding, format, layers, edges")
    layers = [_layer(item) for item in _items(data, "layers", MAX_LAYERS)]
    edges = [_edge(item) for item in _items(data, "edges", MAX_EDGES)]
    genome = DagGenome.of(layers, edges)
    check(genome)
    return genome


def _items(data: Mapping[str, object], name: str, most: int) -> list[object]:
    items = data.get(name)
    if not isinstance(items, list) or len(items) > most:
        found = f"a list of {len(items)}" if isinstance(items, list) else type(items).__name__
        raise DataError(f"genome: {name} is {found}, expected a list of at most {most}")
    return items


def _layer(item: object) -> LayerGene:
    if not isinstance(item, Mapping) or not _is_int(item.get("mark"), 0, MAX_MARK) or "op" not in item:
        raise DataError(f"genome: layer {str(item)[:80]} is no object with an integer mark and an op")
    for name in item:
        if name not in NEUTRAL and name not in ("mark", "op"):
            raise DataError(f"genome: layer {item['mark']}: unknown {str(name)!r}; {nearest(str(name), list(NEUTRAL))}")
    return LayerGene(**item)


def _edge(item: object) -> EdgeGene:
    if not isinstance(item, list) or len(item) != 3 or not all(_is_int(mark, 0, MAX_MARK) for mark in item):
        raise DataError(f"genome: edge {str(item)[:80]} is not [mark, source, target] with integers")
    return EdgeGene(*item)
