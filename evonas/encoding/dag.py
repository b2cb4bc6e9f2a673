"""The layer-graph encoding: how genomes are made, mutated, mated and compared. Decoding rules are in `decode.py`.

Every mutation only *proposes* an edit; `apply` alone makes the child from it. An edit is data, so the history of a run
can be replayed, and what inherits weights reads the same edits. Stanley and Miikkulainen 2002, section 3, for layers
after Irwin-Harris et al. 2019."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import log2
from random import Random
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from evonas.core import Count, DataError, Edit, Settings, nearest
from evonas.encoding import genes, morph
from evonas.encoding.decode import decode
from evonas.encoding.genes import (
    MAX_EDGES,
    NEUTRAL,
    USES,
    Activation,
    DagGenome,
    EdgeGene,
    LayerGene,
    LayerOp,
    Merge,
    Norm,
    Reduce,
)
from evonas.encoding.plan import Plan, Shape
from evonas.marks import INPUT, OUTPUT, MarkBook

# --------------------------------------------------------------------------------------------------------- settings

T = TypeVar("T")


def _different(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise ValueError("is empty: list at least one value")
    if len(set(values)) < len(values):
        raise ValueError("lists a value twice")
    return values


def _ascending(values: tuple[int, int]) -> tuple[int, int]:
    if values[0] > values[1]:
        raise ValueError(f"runs from {values[0]} down to {values[1]}: write the smaller number first")
    return values


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"{value} is even: a kernel has a centre only if it is odd")
    return value


Channels = Annotated[int, Field(ge=1, le=8192)]
Kernel = Annotated[int, Field(ge=1, le=31), AfterValidator(_odd)]
PoolKernel = Annotated[int, Field(ge=2, le=31)]
Dilation = Annotated[int, Field(ge=1, le=16)]
Rate = Annotated[float, Field(ge=0.0, le=0.95)]
Weight = Annotated[float, Field(ge=0.0)]
LayerCount = Annotated[int, Field(ge=0, le=500)]
EditCount = Annotated[int, Field(ge=1, le=20)]
Span = Annotated[tuple[T, T], AfterValidator(_ascending)]
"""A smallest and a largest number."""
Initial = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""Names or paths; a single one may stand without brackets."""
Choices = Annotated[tuple[T, ...], AfterValidator(_different)]
"""What a mutation may draw from; at least one, none twice."""


class Bounds(Settings):
    """Limits that a network must keep at birth; none where a field is null. Violators are never trained."""

    params: Annotated[Count, Field(ge=1)] | None = None
    """Largest number of trainable parameters (100k, 1.5M)."""
    flops: Annotated[Count, Field(ge=1)] | None = None
    """Largest number of floating-point operations of one sample's forward pass (20M)."""
    depth: Annotated[int, Field(ge=1)] | None = None
    """Largest number of layers with parameters on a path from input to output."""
    memory: Annotated[Count, Field(ge=4)] | None = None
    """Largest peak activation memory of one sample in bytes of float32 (4M)."""
    min_params: Annotated[Count, Field(ge=0)] = 0
    """Smallest number of trainable parameters."""
    min_depth: Annotated[int, Field(ge=0)] = 0
    """Smallest number of layers with parameters on the longest path from input to output."""

    def violation(self, plan: Plan) -> str | None:
        """Which bound the plan breaks, as `params 120000 > 100000`, or None."""
        for name in ("params", "flops", "depth", "memory"):
            most = getattr(self, name)
            if most is not None and (value := getattr(plan, name)) > most:
                return f"{name} {value} > {most}"
        if plan.params < self.min_params:
            return f"params {plan.params} < {self.min_params}"
        if self.min_depth and plan.depth < self.min_depth:
            return f"depth {plan.depth} < {self.min_depth}"
        return None


class MutationWeights(Settings):
    """How often each kind of mutation is drawn, relative to the others; 0 turns it off."""

    add_layer: Weight = 3.0
    """Put a new layer into an edge."""
    add_branch: Weight = 1.0
    """Put a new layer on a new path between two connected layers."""
    add_edge: Weight = 1.5
    """Connect two layers."""
    remove_layer: Weight = 2.0
    """Take a layer out and connect its neighbours."""
    remove_edge: Weight = 1.5
    """Take out an edge that no layer depends on."""
    change_op: Weight = 1.0
    """Make a layer another operation."""
    change_channels: Weight = 3.0
    """Change a layer's filters or units."""
    change_kernel: Weight = 1.0
    """Change the size of a layer's window."""
    change_stride: Weight = 1.0
    """Change a layer's stride, and so the resolution behind it."""
    change_dilation: Weight = 0.5
    """Change the spacing of a convolution's taps."""
    change_activation: Weight = 1.0
    """Change a layer's activation."""
    change_norm: Weight = 1.0
    """Change a layer's normalisation."""
    change_merge: Weight = 0.5
    """Change how a layer with several inputs joins them."""
    change_reduce: Weight = 0.5
    """Change how a dense layer or the output turns an image into features."""
    change_rate: Weight = 0.5
    """Change a dropout's rate."""
    insert_layer: Weight = 0.0
    """Put a layer that computes the identity into an edge (exact)."""
    insert_normed: Weight = 0.0
    """The same with a batch norm that undoes itself, calibrated on some rows (exact in evaluation)."""
    insert_block: Weight = 0.0
    """Put a residual block of two layers whose last scale is 0 into an edge (exact)."""
    widen: Weight = 0.0
    """Give a layer more filters or units, which nothing listens to at first (exact)."""
    replicate: Weight = 0.0
    """Give a layer copies of its filters, dividing what listens to them (Net2Wider; exact but for rounding)."""
    grow_branch: Weight = 0.0
    """Put a layer beside a path, silent at first (exact)."""
    skip_sum: Weight = 0.0
    """Add one layer's output to another's input through a gate that is closed at first (exact)."""
    skip_concat: Weight = 0.0
    """Join one layer's output to another's input, which does not listen to it at first (exact)."""
    enlarge_kernel: Weight = 0.0
    """Put a border of zeros around a window (exact)."""
    dilate_kernel: Weight = 0.0
    """Make a window of one tap a wide and dilated one (exact)."""
    split_layer: Weight = 0.0
    """Divide a layer into two with half of the filters each (exact but for rounding)."""
    narrow: Weight = 0.0
    """Take the least important filters or units away (approximate)."""
    separate: Weight = 0.0
    """Make a convolution a depthwise and a pointwise one, its best approximation of rank 1 (approximate)."""
    shrink_kernel: Weight = 0.0
    """Cut the border of a window off (approximate)."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: object) -> object:
        """`morphisms` stands for those edits alone that keep the function, or nearly."""
        if isinstance(value, str):
            if value not in PRESETS:
                raise ValueError(f"{value!r} is not known; {nearest(value, list(PRESETS))}")
            return {**dict.fromkeys(cls.model_fields, 0.0), **PRESETS[value]}
        return value

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("every mutation has weight 0: no child would differ from its parent")
        return self


PRESETS: Mapping[str, Mapping[str, float]] = {
    "exact": {
        "insert_layer": 1.0, "insert_block": 2.0, "widen": 3.0, "grow_branch": 1.0, "skip_sum": 1.0, "skip_concat": 1.0,
        "enlarge_kernel": 1.0, "dilate_kernel": 0.5, "split_layer": 0.5,
    },
    "morphisms": {
        "insert_layer": 1.0, "insert_block": 2.0, "widen": 3.0, "grow_branch": 1.0, "skip_sum": 1.0, "skip_concat": 1.0,
        "enlarge_kernel": 1.0, "dilate_kernel": 0.5, "split_layer": 0.5, "narrow": 3.0, "separate": 1.0,
        "shrink_kernel": 0.5, "remove_layer": 1.5, "remove_edge": 1.0,
    },
}  # fmt: skip
"""Words that stand for the weights of mutations: all others are 0."""


class Compatibility(Settings):
    """Coefficients of the compatibility distance excess * E / N + disjoint * D / N + attributes * W, where N counts the
    genes of the larger genome and W is the mean difference of matching layers, 0 to 1."""

    excess: Weight = 1.0
    """Weight of genes beyond the other genome's last mark (c1)."""
    disjoint: Weight = 1.0
    """Weight of genes that the other genome lacks within its marks (c2)."""
    attributes: Weight = 0.5
    """Weight of the mean attribute difference of matching layers (c3)."""


class DagSettings(Settings):
    """Layer graphs: acyclic graphs of layers of any depth and branching. New convolutions have the first stride and the
    first dilation of their lists three times out of four, otherwise any."""

    faces: ClassVar[frozenset[str]] = frozenset({"distance", "features", "morphisms"})
    """What strategies may ask of this encoding beyond making, mutating and mating genomes."""

    kind: Literal["dag"] = "dag"
    ops: Choices[LayerOp] = ("conv", "separable", "max_pool", "avg_pool", "identity", "dense", "dropout")
    """Operations that new layers may have; convolutions are drawn four times as often as each of the others."""
    channels: Choices[Channels] = (8, 16, 24, 32, 48, 64)
    """Filters of convolutions and units of dense layers."""
    kernels: Choices[Kernel] = (3, 1, 5)
    """Kernel sizes of convolutions; odd."""
    pool_kernels: Choices[PoolKernel] = (2, 3)
    """Window sizes of pools; even ones need stride 2."""
    strides: Choices[Literal[1, 2]] = (1, 2)
    """Strides of convolutions and pools."""
    dilations: Choices[Dilation] = (1,)
    """Dilations of convolutions."""
    activations: Choices[Activation] = ("relu", "leaky_relu", "silu")
    """Activations of convolutions and dense layers."""
    norms: Choices[Norm] = ("batch",)
    """Normalisations of convolutions and dense layers."""
    edge_norm: Norm = "batch"
    """Normalisation behind the projection that an edge needs where a sum joins different channels."""
    merges: Choices[Merge] = ("sum", "concat")
    """How a layer with several inputs joins them."""
    reduces: Choices[Reduce] = ("mean",)
    """How dense layers and the output turn an image into features: global average pooling or flattening."""
    rates: Choices[Rate] = (0.1, 0.2, 0.3, 0.5)
    """Rates of dropout layers."""
    layers: Span[LayerCount] = (1, 32)
    """Fewest and most layers that mutation leads to, recessive ones included, without input and output."""
    bounds: Bounds = Bounds()
    """Limits at birth."""
    initial: Initial = ()
    """Genomes to begin with; random ones fill up the first generation. Each is a name from the zoo, a genome file
    (.json), a network of your own as `file.py:object` or `package.module:object` (an nn.Module, or what gives one when
    it is called), or a run's front as `run:NAME`, one individual of it as `run:NAME/ID`; a run that is not in the
    folder of runs is `run:./path/to/run`. Modules and runs bring their weights, which count with `estimator.inherit`
    alone."""
    initial_layers: Span[LayerCount] = (1, 4)
    """Fewest and most layers of a random first genome; never more than `layers` allows."""
    edits: Span[EditCount] = (1, 2)
    """Fewest and most edits that one mutation makes."""
    mutations: MutationWeights = MutationWeights()
    """How often each kind of mutation is drawn; `morphisms` stands for those that keep the function, exactly or nearly,
    and `exact` for the first alone."""
    union: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Probability that a crossover keeps the disjoint and excess genes of both parents, not of the fitter alone."""
    compatibility: Compatibility = Compatibility()
    """Coefficients of the distance between genomes."""

    @model_validator(mode="after")
    def _poolable(self) -> Self:
        if {"max_pool", "avg_pool"}.intersection(self.ops) and not self.windows:
            raise ValueError("pool_kernels are all even and strides lack 2: no pool is possible")
        return self

    @property
    def windows(self) -> list[tuple[int, int]]:
        """Pairs of kernel and stride that a pool may have."""
        return [(k, s) for k in self.pool_kernels for s in self.strides if k % 2 or s == 2]


# ------------------------------------------------------------------------------------------------- applying edits


def apply(genome: DagGenome, edit: Edit) -> DagGenome:
    """The child that an edit makes of a genome; DataError if the edit is not known or does not fit."""
    maker = _APPLY.get(edit.op)
    if maker is None:
        raise DataError(f"edit: op {edit.op!r} is not known; {nearest(edit.op, list(_APPLY))}")
    try:
        return maker(genome, edit)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"edit: {edit} does not fit the genome {genome.key[:8]}: {error!r}") from None


def _apply_path(genome: DagGenome, edit: Edit, source: int, target: int, edges: Sequence[EdgeGene]) -> DagGenome:
    mark, before, after = edit.made
    layer = LayerGene(mark, **edit.args)
    path = (EdgeGene(before, source, mark), EdgeGene(after, mark, target))
    return DagGenome.of((*genome.layers, layer), (*edges, *path))


def _apply_add_layer(genome: DagGenome, edit: Edit) -> DagGenome:
    (split,) = [edge for edge in genome.edges if edge.mark == edit.where[0]]
    rest = [edge for edge in genome.edges if edge is not split]
    return _apply_path(genome, edit, split.source, split.target, rest)


def _apply_add_branch(genome: DagGenome, edit: Edit) -> DagGenome:
    source, target = edit.where
    return _apply_path(genome, edit, source, target, genome.edges)


def _apply_add_edge(genome: DagGenome, edit: Edit) -> DagGenome:
    return DagGenome.of(genome.layers, (*genome.edges, EdgeGene(edit.made[0], *edit.where)))


def _apply_remove_layer(genome: DagGenome, edit: Edit) -> DagGenome:
    gone = genome.layer[edit.where[0]]
    layers = tuple([gene for gene in genome.layers if gene is not gone])
    kept = [edge for edge in genome.edges if gone.mark not in (edge.source, edge.target)]
    return DagGenome.of(layers, (*kept, *[EdgeGene(*edge) for edge in edit.args["edges"]]))


def _apply_remove_edge(genome: DagGenome, edit: Edit) -> DagGenome:
    edges = tuple([edge for edge in genome.edges if edge.mark != edit.where[0]])
    return DagGenome(genome.layers, edges)


def _apply_change(genome: DagGenome, edit: Edit) -> DagGenome:
    old = genome.layer[edit.where[0]]
    new = old.changed(edit.args)
    return DagGenome(tuple([new if gene is old else gene for gene in genome.layers]), genome.edges)


def _apply_mate(genome: DagGenome, edit: Edit) -> DagGenome:
    if not edit.args:
        return genome
    layers = {**genome.layer, **{item["mark"]: LayerGene(**item) for item in edit.args["layers"]}}
    return DagGenome.of(layers.values(), (*genome.edges, *[EdgeGene(*item) for item in edit.args["edges"]]))


# ---------------------------------------------------------------------------------------------- proposing edits


def _propose_layer(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    if space.full(genome):
        return None
    edge = rng.choice(genome.live_edges)
    return _split(genome, edge, space.draw(rng, genome.layer[edge.target]), marks)


def _split(genome: DagGenome, edge: EdgeGene, layer: dict[str, Any], marks: MarkBook) -> Edit:
    return Edit("add_layer", (edge.mark,), _path(genome, edge.source, edge.target, marks), layer)


def _path(genome: DagGenome, source: int, target: int, marks: MarkBook) -> tuple[int, int, int]:
    """The marks of a new layer between two others, and of its two edges."""
    mark = marks.node(source, target, genome.layer)
    return mark, marks.edge(source, mark), marks.edge(mark, target)


def _propose_branch(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    if space.full(genome):
        return None
    edge = rng.choice(genome.live_edges)
    source, target = edge.source, edge.target
    while target != OUTPUT and rng.random() < 0.5:
        onward = [edge.target for edge in genome.outgoing[target]]
        target = rng.choice(onward) if onward else OUTPUT
    layer = space.draw(rng, genome.layer[target], stride=1)
    return Edit("add_branch", (source, target), _path(genome, source, target, marks), layer)


def _propose_edge(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    if _crowded(genome, 1):
        return None
    order = genome.order
    for _ in range(8):  # a few draws find a free place in any genome that is not nearly complete
        i, j = int(rng.random() * len(order)), int(rng.random() * len(order))
        source, target = order[min(i, j)], order[max(i, j)]
        if i != j and source != OUTPUT and target != INPUT and not _joined(genome, source, target):
            return Edit("add_edge", (source, target), (marks.edge(source, target),))
    return None


def _crowded(genome: DagGenome, more: int) -> bool:
    return len(genome.edges) + more > MAX_EDGES


def _joined(genome: DagGenome, source: int, target: int) -> bool:
    return any(edge.source == source for edge in genome.incoming[target])


def _propose_removal(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    if len(genome.layers) - 2 <= space.settings.layers[0]:
        return None
    gone = rng.choice(genome.layers[2:]).mark
    pairs: list[tuple[int, int]] = []
    if gone in genome.live:
        before = [edge.source for edge in genome.incoming[gone]]
        after = [edge.target for edge in genome.outgoing[gone]]
        if len(before) * len(after) > 6 or _crowded(genome, 1):  # a hub's removal would tangle the graph
            return None
        pairs = [(a, b) for a in before for b in after if not _joined(genome, a, b)]
    made = [(marks.edge(a, b), a, b) for a, b in pairs]
    return Edit("remove_layer", (gone,), tuple([edge[0] for edge in made]), {"edges": [list(edge) for edge in made]})


def _propose_cut(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    """Only an edge whose ends have others, so that no live layer becomes recessive."""
    edges = genome.live_edges
    if len(edges) < 3:
        return None
    into, out = _tally([edge.target for edge in edges]), _tally([edge.source for edge in edges])
    spare = [edge for edge in edges if into[edge.target] > 1 and out[edge.source] > 1]
    return Edit("remove_edge", (rng.choice(spare).mark,)) if spare else None


def _tally(marks: list[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for mark in marks:
        counts[mark] = counts.get(mark, 0) + 1
    return counts


def _propose_op(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    inner = genome.layers[2:]
    if not inner:
        return None
    gene = rng.choice(inner)
    features = any(genome.layer[edge.target].op in ("dense", "output") for edge in genome.outgoing[gene.mark])
    others = [op for op in space.ops if op != gene.op and (op != "dense" or space.flat or features)]
    if not others:
        return None
    op = rng.choice(others)
    drawn = space.attributes(rng, op)
    kept = {name: value for name, value in gene.attributes().items() if name in drawn and name not in _WINDOW}
    return Edit("change_op", (gene.mark,), (), {**drawn, **kept})


_WINDOW = ("kernel", "stride")
"""Drawn anew with the operation: kernels of pools and of convolutions have their own choices."""


def _propose_change(attribute: str) -> Proposal:
    def propose(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
        fitting = [gene for gene in genome.layers if attribute in USES[gene.op]]
        if attribute == "merge":
            fitting = [gene for gene in fitting if len(genome.incoming[gene.mark]) > 1]
        if not fitting:
            return None
        gene = rng.choice(fitting)
        now = getattr(gene, attribute)
        others = [value for value in space.choices(gene, attribute) if value != now]
        if not others:
            return None
        return Edit(f"change_{attribute}", (gene.mark,), (), {attribute: rng.choice(others)})

    return propose


Proposal = Callable[["DagEncoding", DagGenome, Random, MarkBook], Edit | None]
Maker = Callable[[DagGenome, Edit], DagGenome]

MUTATIONS: Mapping[str, tuple[Proposal, Maker]] = {
    "add_layer": (_propose_layer, _apply_add_layer),
    "add_branch": (_propose_branch, _apply_add_branch),
    "add_edge": (_propose_edge, _apply_add_edge),
    "remove_layer": (_propose_removal, _apply_remove_layer),
    "remove_edge": (_propose_cut, _apply_remove_edge),
    "change_op": (_propose_op, _apply_change),
    **{
        f"change_{attribute}": (_propose_change(attribute), _apply_change)
        for attribute in (
            "channels", "kernel", "stride", "dilation", "activation", "norm", "merge", "reduce", "rate",
        )
    },
    **{kind: (propose, morph.grafted) for kind, propose in morph.PROPOSALS.items()},
}  # fmt: skip
"""The table of mutations: what proposes an edit (None where it finds no place), and what applies it. Its keys are the
fields of `MutationWeights` and the names of edits."""

_APPLY: Mapping[str, Maker] = {**{name: maker for name, (_, maker) in MUTATIONS.items()}, "mate": _apply_mate}


_WINDOWED = (
    "change_kernel", "change_stride", "change_dilation", "change_reduce", "enlarge_kernel", "dilate_kernel",
    "shrink_kernel", "separate",
)  # fmt: skip
"""Mutations that mean nothing on features."""


# --------------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class DagEncoding:
    """The search space of layer graphs for one task; fulfils `core.Encoding`.

    `input_shape` is (channels, height, width) or (features,)."""

    settings: DagSettings
    input_shape: Shape
    outputs: int

    @property
    def name(self) -> str:
        return "dag"

    # ------------------------------------------------------------------------------------------------------- birth

    def random(self, rng: Random, marks: MarkBook) -> DagGenome:
        """A first genome as the settings want it: small, its marks those that growing it by mutation would give."""
        genome = DagGenome((LayerGene(INPUT, "input"), LayerGene(OUTPUT, "output", reduce=self.settings.reduces[0])),
                           (EdgeGene(marks.edge(INPUT, OUTPUT), INPUT, OUTPUT),))  # fmt: skip
        count = min(rng.randint(*self.settings.initial_layers), self.settings.layers[1])
        for i in range(count):
            last = genome.incoming[OUTPUT][-1]
            genome = apply(genome, _split(genome, last, self._first(rng, i, count), marks))
        for _ in range(count // 3):
            edit = _propose_edge(self, genome, rng, marks)
            genome = apply(genome, edit) if edit else genome
        return genome

    def _first(self, rng: Random, place: int, count: int) -> dict[str, Any]:
        """A layer of a first genome. The first layers of a large image usually halve it until it is 8 wide, and
        channels come from the smaller half, so that the first generation trains quickly."""
        settings = self.settings
        weighted = [op for op in self.ops if op in ("conv", "separable")]
        last = place == count - 1
        ops = weighted if place == 0 and weighted else [op for op in self.ops if op != "dense" or self.flat or last]
        layer = self.attributes(rng, rng.choice(ops or self.ops))
        if "channels" in layer:
            smaller = sorted(settings.channels)[: (len(settings.channels) + 1) // 2]
            layer["channels"] = rng.choice(smaller)
        if "stride" in layer and layer["kernel"] % 2:
            halve = 2 in settings.strides and not self.flat and max(self.input_shape[1:]) >> place > 8
            layer["stride"] = 2 if halve and rng.random() < 0.75 else settings.strides[0]
        return layer

    # --------------------------------------------------------------------------------------------------- variation

    def mutate(self, genome: DagGenome, rng: Random, marks: MarkBook) -> tuple[DagGenome, tuple[Edit, ...]] | None:
        """A child by one or more edits, or None where no mutation finds a place."""
        child, edits = genome, []
        for _ in range(rng.randint(*self.settings.edits)):
            edit = self._propose(child, rng, marks)
            if edit is None:
                break
            child = apply(child, edit)
            edits.append(edit)
        return (child, tuple(edits)) if child != genome else None

    def _propose(self, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
        kinds, sums = self._kinds
        while kinds:
            kind = kinds[bisect(sums, rng.random() * sums[-1], hi=len(kinds) - 1)]
            edit = MUTATIONS[kind][0](self, genome, rng, marks)
            if edit is not None:
                return edit
            kinds, sums = self._sums([other for other in kinds if other != kind])
        return None

    def mate(
        self, fitter: DagGenome, other: DagGenome, rng: Random, marks: MarkBook
    ) -> tuple[DagGenome, tuple[Edit, ...]]:
        """A child of two: matching layers from either parent, disjoint and excess genes from the fitter, sometimes from
        both. The edit's `where` are the marks of the genes that came from `other`; edges go with their target."""
        theirs, chosen = other.layer, rng.getrandbits(len(fitter.layers))
        taken = [m for i, m in enumerate(fitter.layer) if chosen >> i & 1 and m in theirs and m != INPUT]
        layers = [theirs[mark].to_json() for mark in taken if theirs[mark] != fitter.layer[mark]]
        edges: list[list[int]] = []
        if rng.random() < self.settings.union:
            news, edges = _union(fitter, other)
            if len(fitter.layers) + len(news) - 2 <= self.settings.layers[1] and not _crowded(fitter, len(edges)):
                taken += [gene.mark for gene in news] + [edge[0] for edge in edges]
                layers += [gene.to_json() for gene in news]
            else:
                edges = []
        if not taken:
            return fitter, ()
        args = {"layers": layers, "edges": edges} if layers or edges else {}
        edit = Edit("mate", tuple(taken), (), args)
        return apply(fitter, edit), (edit,)

    def distance(self, a: DagGenome, b: DagGenome) -> float:
        """The compatibility distance: symmetric, 0 between equal genomes. Stanley and Miikkulainen 2002, equation 1."""
        c = self.settings.compatibility
        both = a.key, b.key
        known = _APART.get(both)
        if known is None:
            if len(_APART) >= KEPT:
                _APART.clear()
            known = _APART[both] = _apart(a, b)
        excess, disjoint, larger, difference = known
        return (c.excess * excess + c.disjoint * disjoint) / larger + c.attributes * difference

    # ------------------------------------------------------------------------------------------- reading, decoding

    def check(self, genome: DagGenome) -> None:
        """Raises DataError unless the genome is valid."""
        genes.check(genome)

    def to_json(self, genome: DagGenome) -> dict[str, Any]:
        return genes.to_json(genome)

    def from_json(self, data: object) -> DagGenome:
        """Reads and checks a genome; DataError names what is wrong."""
        return genes.from_json(data)

    def decode(self, genome: DagGenome) -> Plan:
        """The plan of a valid genome for this task's shapes."""
        return decode(genome, self.input_shape, self.outputs, self.settings.edge_norm)

    def alive(self, genome: DagGenome) -> frozenset[int]:
        """The marks of all genes."""
        return genome.marks

    def summary(self, genome: DagGenome) -> str:
        """One line for tables: `conv16k3s2 max_pool2 dense64 | 3 layers, 4 edges`."""
        words = [_word(genome.layer[mark]) for mark in genome.live[1:-1]]
        recessive = len(genome.layers) - len(genome.live)
        counts = f"{len(words)} layers, {len(genome.live_edges)} edges" + (f", {recessive} recessive" * (recessive > 0))
        return f"{' '.join(words) or 'linear'} | {counts}"

    def features(self, genome: DagGenome) -> list[float]:
        """What predictors see of the living layers: how many there are of each operation, how many have a norm and how
        many join edges; edges; depth; log2 of parameters and of FLOPs; mean log2 of channels; mean kernel; halvings
        of the image."""
        plan, layers = self.decode(genome), [genome.layer[mark] for mark in genome.live[1:-1]]
        ops, wide = [layer.op for layer in layers], [log2(layer.channels) for layer in layers if layer.channels]
        windows = [layer.kernel for layer in layers if layer.kernel > 1]
        joined = Counter(edge.target for edge in genome.live_edges)
        return [
            *(float(ops.count(op)) for op in get_args(LayerOp)),
            float(sum(layer.norm != "none" for layer in layers)), float(sum(count > 1 for count in joined.values())),
            float(len(genome.live_edges)), float(plan.depth), log2(1 + plan.params), log2(1 + plan.flops),
            sum(wide) / max(len(wide), 1), sum(windows) / max(len(windows), 1), sum(log2(one.stride) for one in layers),
        ]  # fmt: skip

    # ----------------------------------------------------------------------------------------- what may be drawn

    @cached_property
    def flat(self) -> bool:
        """Whether the task's input is a vector of features, where windows have no meaning."""
        return len(self.input_shape) == 1

    @cached_property
    def ops(self) -> list[str]:
        """The operations that differ on this task's input, each as often as it is drawn: those that learn features four
        times as often as the others."""
        if self.flat:
            return 4 * ["dense"] + [op for op in self.settings.ops if op in ("identity", "dropout")]
        return [op for op in self.settings.ops for _ in range(4 if op in ("conv", "separable") else 1)]

    def full(self, genome: DagGenome) -> bool:
        """Whether the genome has as many layers as the settings allow, or as many edges as a genome may have."""
        return len(genome.layers) - 2 >= self.settings.layers[1] or _crowded(genome, 2)

    def draw(self, rng: Random, target: LayerGene, stride: int | None = None) -> dict[str, Any]:
        """A new layer's attributes, `op` among them. A dense layer, which ends the image, goes only before the output
        or another; `stride` is kept where it is possible."""
        features = self.flat or target.op in ("dense", "output")
        ops = self.ops if features else [op for op in self.ops if op != "dense"]
        layer = self.attributes(rng, rng.choice(ops or self.ops))
        if stride in self.settings.strides and "stride" in layer and layer["kernel"] % 2:
            layer["stride"] = stride
        return layer

    def attributes(self, rng: Random, op: str) -> dict[str, Any]:
        """Random values for all that an operation uses, and the operation itself."""
        drawn: dict[str, Any] = {"op": op}
        if op in ("max_pool", "avg_pool"):
            drawn["kernel"], drawn["stride"] = rng.choice(self._windows)
        for name in USES[op]:
            if name not in drawn and name in self._drawn:
                values = self._values(op, name)
                usual = name in ("stride", "dilation") and rng.random() < 0.75
                drawn[name] = values[0] if usual else rng.choice(values)
        return drawn

    def choices(self, gene: LayerGene, name: str) -> Sequence[Any]:
        """The values that a mutation may give to an attribute of a gene."""
        if gene.op in ("max_pool", "avg_pool") and name in _WINDOW:
            if name == "kernel":
                return [kernel for kernel, stride in self._windows if stride == gene.stride]
            return [stride for kernel, stride in self._windows if kernel == gene.kernel]
        return self._values(gene.op, name)

    def _values(self, op: str, name: str) -> Sequence[Any]:
        if op == "identity" and name in ("norm", "activation"):
            return (NEUTRAL[name], *[value for value in self._drawn[name] if value != NEUTRAL[name]])
        return self._drawn[name]

    @cached_property
    def _drawn(self) -> dict[str, Sequence[Any]]:
        s = self.settings
        return {
            "channels": s.channels, "kernel": s.kernels, "stride": s.strides, "dilation": s.dilations,
            "activation": s.activations, "norm": s.norms, "merge": s.merges, "reduce": s.reduces, "rate": s.rates,
        }  # fmt: skip

    @cached_property
    def _windows(self) -> list[tuple[int, int]]:
        return self.settings.windows

    @cached_property
    def _kinds(self) -> tuple[list[str], list[float]]:
        """The mutations in use, and the running sums of their weights. On features, windows cannot change anything."""
        idle = _WINDOWED if self.flat else ()
        return self._sums([name for name in MUTATIONS if name not in idle and getattr(self.settings.mutations, name)])

    def _sums(self, kinds: list[str]) -> tuple[list[str], list[float]]:
        return kinds, list(accumulate([getattr(self.settings.mutations, name) for name in kinds]))


def _union(fitter: DagGenome, other: DagGenome) -> tuple[list[LayerGene], list[list[int]]]:
    """The layers and edges [mark, source, target] of `other` that the fitter lacks and that close no cycle."""
    layers = [gene for gene in other.layers if gene.mark not in fitter.marks]
    known = {*fitter.layer, *[gene.mark for gene in layers]}
    onward = {mark: [edge.target for edge in fitter.outgoing.get(mark, ())] for mark in known}
    edges = []
    for edge in other.edges:
        new = edge.mark not in fitter.marks and edge.target not in onward.get(edge.source, (edge.target,))
        if new and edge.target in known and not _reaches(onward, edge.target, edge.source):
            onward[edge.source].append(edge.target)
            edges.append([edge.mark, edge.source, edge.target])
    return layers, edges


def _reaches(onward: Mapping[int, list[int]], start: int, goal: int) -> bool:
    seen, waiting = {start}, [start]
    while waiting:
        mark = waiting.pop()
        if mark == goal:
            return True
        fresh = [target for target in onward[mark] if target not in seen]
        seen.update(fresh)
        waiting += fresh
    return False


KEPT = 2**12
_APART: dict[tuple[str, str], tuple[int, int, int, float]] = {}
"""What `_apart` gave, at most KEPT times, as most of a population and of its species' representatives are those of the
generation before. By the genomes' keys, so that the dead are not kept alive for it."""


def _apart(a: DagGenome, b: DagGenome) -> tuple[int, int, int, float]:
    """Excess and disjoint genes of two genomes, the larger number of genes, and how far matching layers differ."""
    limit, odd = min(a.newest, b.newest), a.marks ^ b.marks
    excess = sum([mark > limit for mark in odd])
    matching = [(gene, b.layer[mark]) for mark, gene in a.layer.items() if mark in b.layer]
    difference = sum([_difference(x, y) for x, y in matching if x is not y]) / len(matching)
    return excess, len(odd) - excess, max(len(a.marks), len(b.marks)), difference


def _difference(a: LayerGene, b: LayerGene) -> float:
    """How far two matching genes differ, 0 to 1: 1 for another operation, else the mean over attributes of the relative
    difference of numbers and of 0 or 1 for words. After Jin et al. 2019, appendix (layer distance)."""
    if a.op != b.op:
        return 1.0
    total, names = 0.0, USES[a.op]
    for name in names:
        x, y = getattr(a, name), getattr(b, name)
        if x != y:
            total += 1.0 if isinstance(x, str) else abs(x - y) / max(x, y)
    return total / len(names) if names else 0.0


def _word(gene: LayerGene) -> str:
    """A layer in a few letters: operation, channels, kernel k, stride s, dilation d."""
    parts = [gene.op, str(gene.channels) if gene.channels else ""]
    if "kernel" in USES[gene.op]:
        parts += [f"k{gene.kernel}", f"s{gene.stride}" * (gene.stride > 1), f"d{gene.dilation}" * (gene.dilation > 1)]
    return "".join(parts)
