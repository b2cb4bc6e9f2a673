"""Morphisms of layer graphs, the genome's side: edits that keep the network's function, and those that nearly do.

Each proposal draws a place, writes the edit and has it judged: `refusal` decodes parent and child and compares them
step by step, so that a place where a sum would need a projection, an image another size or a group norm other groups
is refused with its reason. What the weights become stands in `phenotype/inherit.py`, which reads the same `Graft`.
Elsken, Metzen and Hutter 2019 (LEMONADE), section 3; Chen, Goodfellow and Shlens 2016 (Net2Net)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any

from evonas.core import Edit
from evonas.encoding.channels import HANDED_ON, Layout, Span, layouts
from evonas.encoding.decode import group_count
from evonas.encoding.genes import NEUTRAL, USES, DagGenome, EdgeGene, LayerGene
from evonas.encoding.plan import Plan, Step
from evonas.marks import OUTPUT, MarkBook

if TYPE_CHECKING:
    from evonas.encoding.dag import DagEncoding

EXACT = (
    "insert_layer", "insert_normed", "insert_block", "widen", "replicate", "grow_branch", "skip_sum", "skip_concat",
    "enlarge_kernel", "dilate_kernel", "split_layer",
)  # fmt: skip
"""Edits that keep the function."""

BIT_FOR_BIT = tuple(op for op in EXACT if op not in ("insert_normed", "replicate", "split_layer"))
"""Those whose default form adds exact zeros only; the others keep it up to rounding: see `ROUNDING`."""

ROUNDING: Mapping[str, float] = {"insert_normed": 1.5e-6, "replicate": 1.7e-6, "split_layer": 6.6e-7}
"""Largest relative differences of outputs that were measured in evaluation, float32, at 1,000 places each. In training
batch statistics magnify them for `replicate`, up to 5.2e-5; `insert_normed` is exact in evaluation alone."""

APPROXIMATE = ("narrow", "separate", "shrink_kernel", "remove_layer", "remove_edge")
"""Morphisms that change the function little: what follows them is a short distillation, if the recipe says so."""

_WIDTHS = ("in_channels", "channels")
_WINDOW = ("kernel", "padding", "dilation")


# ------------------------------------------------------------------------------------------------ what an edit means


@dataclass(frozen=True)
class Graft:
    """What an edit does to the channels and to the weights of new genes, by the names of the child's steps.

    - stands: steps whose output has the channels of another step, or these
    - zero: steps whose last scale is 0 at birth
    - identity: steps that hand on their input, `normed` ones behind a calibrated norm
    - rows: new steps whose filters are another one's of the parent, as (step, first filter)
    - copies: per step (source channel, share of the source's columns) of each new channel
    - reshaped: the step whose window may differ; appended: the merge that gets one more input
    - halves: a layer and its second half; factored: a convolution that becomes depthwise and pointwise"""

    stands: Mapping[str, Layout | str] = field(default_factory=dict)
    zero: frozenset[str] = frozenset()
    identity: frozenset[str] = frozenset()
    normed: frozenset[str] = frozenset()
    rows: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    copies: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    reshaped: str | None = None
    appended: str | None = None
    halves: tuple[str, str] | None = None
    factored: str | None = None


def graft(edit: Edit, genome: DagGenome) -> Graft:
    """What an edit of a genome means for its weights; nothing particular for edits that are no morphisms."""
    made = [f"layer{mark}" for mark in edit.made]
    match edit.op:
        case "insert_layer" | "insert_normed":
            new = made[0]
            normed = frozenset([new] if edit.op == "insert_normed" else [])
            return Graft(_standing(edit, genome, new), identity=frozenset([new]), normed=normed)
        case "insert_block":
            return Graft(_standing(edit, genome, made[2]), zero=frozenset([made[1]]))
        case "grow_branch" | "skip_sum":
            # a gate, a branch's last layer or the projection of the new edge
            silent = {name for mark in edit.made for name in (f"layer{mark}", f"edge{mark}")}
            return Graft(zero=frozenset(silent) if edit.args["join"] == "sum" else frozenset())
        case "skip_concat":
            return Graft(appended=f"layer{edit.where[1]}_merge")
        case "enlarge_kernel" | "dilate_kernel" | "shrink_kernel":
            return Graft(reshaped=f"layer{edit.where[0]}")
        case "replicate":
            pairs = [(int(source), float(share)) for source, share in edit.args["copies"]]
            return Graft(copies={f"layer{mark}": pairs for mark in edit.where})
        case "split_layer":
            first, second = f"layer{edit.where[0]}", made[0]
            kept, more = edit.args["halves"]
            half: Layout = (Span(first, kept, more),)
            projections = {
                f"edge{new[0]}": (f"edge{old.mark}", 0)
                for new, old in zip(edit.args["edges"], genome.incoming[edit.where[0]], strict=False)
            }
            return Graft({second: half}, rows={second: (first, kept), **projections}, halves=(first, second))
        case "separate":
            return Graft(factored=f"layer{edit.where[0]}")
    return Graft()


def _standing(edit: Edit, genome: DagGenome, new: str) -> dict[str, Layout | str]:
    """What is put into an edge hands on the channels of the edge's source; the sum behind it keeps their names, though
    the new edge may now be the second of its two."""
    split = next(edge for edge in genome.edges if edge.mark == edit.where[0])
    first = next(edge for edge in genome.live_edges if edge.target == split.target)
    stands: dict[str, Layout | str] = {new: f"layer{split.source}"}
    if first is split and genome.layer[split.target].merge == "sum":
        stands[f"layer{split.target}_merge"] = f"layer{split.source}"
    return stands


# ----------------------------------------------------------------------------------------------- where it is possible


def refusal(space: DagEncoding, genome: DagGenome, edit: Edit) -> str | None:
    """Why an edit does not keep the function of a genome's network, or None where it does."""
    child = grafted(genome, edit) if edit.op in PROPOSALS else None
    if child is None or edit.op not in EXACT:
        return f"{edit.op} is no exact morphism; exact are: {', '.join(EXACT)}"
    return _Comparison(space.decode(genome), space.decode(child), edit, graft(edit, genome)).reason()


@dataclass(frozen=True)
class _Comparison:
    """A parent's plan beside its child's: the same steps in the same order, but for what the edit put in."""

    before: Plan
    after: Plan
    edit: Edit
    graft: Graft

    @cached_property
    def _known(self) -> frozenset[str]:
        """Names of the parent's steps."""
        return frozenset([step.name for step in self.before.steps])

    def reason(self) -> str | None:
        """The first difference that the edit does not account for."""
        for step in self.after.steps:
            if step.name not in self._known and not self._accounted(step):
                return f"{_words(step)} would be needed, which is not there"
        after = {step.name: step for step in self.after.steps}
        for old in self.before.steps[1:]:
            new = after.get(old.name)
            if new is None:
                return f"{_words(old)} would go: the edge is pooled or projected"
            if why := self._changed(old, new):
                return why
        return None if self._reshapes() else "the window already covers the image"

    def _changed(self, old: Step, new: Step) -> str | None:
        if old.op != new.op:
            return f"{_words(old)} would become {new.op}"
        if old.settings is new.settings and old.shape == new.shape:  # decoding remembers what a gene becomes
            return self._rewired(old, new)
        if old.shape[1:] != new.shape[1:]:
            return f"{_words(old)} would have the size {new.shape[1:]} instead of {old.shape[1:]}"
        free = _WIDTHS + (_WINDOW if old.name == self.graft.reshaped else ())
        for name, value in old.settings.items():
            if name not in free and new.settings[name] != value:
                return f"{name} of {_words(old)} would change from {value} to {new.settings[name]}"
        return self._regrouped(old, new) or self._rewired(old, new)

    def _regrouped(self, old: Step, new: Step) -> str | None:
        """A group norm keeps the function if every group stays as it is and new ones come behind."""
        widths = [("norm", old.shape[0], new.shape[0])]
        if old.op == "separable":
            widths.append(("depthwise_norm", old.settings["in_channels"], new.settings["in_channels"]))
        for name, was, now in widths:
            if old.settings.get(name) != "group" or was == now:
                continue
            if was // group_count(was) != now // group_count(now) or not self._behind(old, new, name):
                return f"the groups of {_words(old)} would mix old channels with new ones"
        return None

    def _behind(self, old: Step, new: Step, norm: str) -> bool:
        """Whether the channels that a norm sees begin with those it saw."""
        if norm == "norm" and old.op != "identity":
            return not self.graft.copies
        was, now = (
            layouts(plan)[plan.steps[step.inputs[0]].name] for plan, step in ((self.before, old), (self.after, new))
        )
        return len(was) == 1 and len(now) == 1 and not self.graft.copies

    def _rewired(self, old: Step, new: Step) -> str | None:
        """Whether the step takes what it took, in the same order; terms of a sum of two may change places."""
        was = [self.before.steps[i].name for i in old.inputs]
        if was == [self.after.steps[i].name for i in new.inputs]:
            return None
        inputs = [self._resolved(self.after.steps[i]) for i in new.inputs]
        known = [name for name in inputs if name is not None]
        if inputs[0] is None or (old.op == "concat" and inputs[: len(known)] != known):
            return f"a new input of {_words(old)} would stand before an old one"
        now = [name for i, name in enumerate(known) if not self._second_half(name, known[i - 1] if i else None)]
        if self.graft.appended == new.name and len(now) > len(was):
            now = now[: len(was)]
        if now == was or (old.op == "sum" and len(was) == 2 and sorted(now) == sorted(was)):
            return None
        return f"the inputs of {_words(old)} would come in another order"

    def _resolved(self, step: Step) -> str | None:
        """What an input stands for: itself, the step it replaces, or None where it is new and silent."""
        name, other = step.name, self.graft.stands.get(step.name)
        if name in self._known:
            return name
        if isinstance(other, str):
            return other
        if name.endswith("_merge") and name.removesuffix("_merge") not in self._made:
            return self._resolved(self.after.steps[step.inputs[0]])
        return name if self.graft.halves and name == self.graft.halves[1] else None

    def _second_half(self, name: str, last: str | None) -> bool:
        return self.graft.halves is not None and (last, name) == self.graft.halves

    @cached_property
    def _made(self) -> set[str]:
        return {f"{kind}{mark}" for mark in self.edit.made for kind in ("layer", "edge")}

    def _accounted(self, step: Step) -> bool:
        """Whether a step that was not there belongs to a gene that the edit made, or joins an input to the old one."""
        owner = step.name.partition("_")[0]
        if owner in self._made:
            return True
        if not step.name.endswith("_merge"):
            return False
        first = self._resolved(self.after.steps[step.inputs[0]])
        others = [self.after.steps[i] for i in step.inputs[1:]]
        if self.graft.halves:
            return (first, others[0].name) == self.graft.halves and len(others) == 1
        if self.graft.appended == step.name:
            return len(others) == 1
        return first is not None and all(self._resolved(one) is None for one in others)

    def _reshapes(self) -> bool:
        """Whether an edit of a window changes the network at all: on small images a window keeps few taps."""
        if self.graft.reshaped is None:
            return True
        kernels = [
            step.settings["kernel"]
            for plan in (self.before, self.after)
            for step in plan.steps
            if step.name == self.graft.reshaped and "kernel" in step.settings
        ]
        return len(kernels) == 2 and kernels[0] != kernels[1]


def _words(step: Step) -> str:
    return f"{step.op.replace('_', ' ')} of {step.name}"


def tied(plan: Plan, mark: int) -> tuple[int, ...] | str:
    """Marks of the layers that must have as many channels as the layer `mark`, itself among them, ascending; or why
    their number cannot change. A sum ties the widths of all inputs that reach it without a projection."""
    group = widths(plan)
    names = {step.name: i for i, step in enumerate(plan.steps)}
    at = names.get(f"layer{mark}")
    if at is None:
        return f"layer {mark} is not built"
    marks = []
    for i, step in enumerate(plan.steps):
        if group[i] != group[at]:
            continue
        if step.op in ("input", "concat", "flatten"):
            return f"layer {mark} is added to {_words(step)}, whose channels cannot be chosen"
        if step.op in ("conv", "separable", "linear") and step.name.startswith("layer"):
            marks.append(int(step.name.removeprefix("layer")))
    return "the task chooses the number of outputs" if OUTPUT in marks else tuple(sorted(marks))


def widths(plan: Plan) -> list[int]:
    """A number per step, equal where the numbers of channels must be."""
    group: list[int] = []
    for i, step in enumerate(plan.steps):
        same = (
            step.inputs
            if step.op == "sum"
            else step.inputs[:1]
            if step.op in HANDED_ON or step.op == "global_pool"
            else ()
        )
        numbers = {group[j] for j in same}
        lowest = min(numbers, default=i)
        group = [lowest if one in numbers else one for one in group]
        group.append(lowest)
    return group


# ------------------------------------------------------------------------------------------------- applying an edit


def grafted(genome: DagGenome, edit: Edit) -> DagGenome:
    """The child of a morphism: layers that are new or other than before, edges that are new, edges that are gone."""
    if edit.op in ("widen", "replicate", "narrow"):
        layers = [genome.layer[mark].changed({"channels": edit.args["channels"]}) for mark in edit.where]
        return DagGenome.of({**genome.layer, **{gene.mark: gene for gene in layers}}.values(), genome.edges)
    if edit.op in ("enlarge_kernel", "dilate_kernel", "shrink_kernel", "separate"):
        gene = genome.layer[edit.where[0]].changed(edit.args)
        return DagGenome.of({**genome.layer, gene.mark: gene}.values(), genome.edges)
    layers = [LayerGene(**item) for item in edit.args["layers"]]
    gone = set(edit.args.get("gone", ()))
    edges = [edge for edge in genome.edges if edge.mark not in gone]
    edges += [EdgeGene(*item) for item in edit.args["edges"]]
    return DagGenome.of({**genome.layer, **{gene.mark: gene for gene in layers}}.values(), edges)


# ---------------------------------------------------------------------------------------------------- proposing edits


@dataclass(frozen=True)
class _Site:
    """A genome with its plan, and what both say about a layer."""

    space: DagEncoding
    genome: DagGenome
    plan: Plan
    steps: Mapping[str, Step]

    @staticmethod
    def of(space: DagEncoding, genome: DagGenome) -> _Site:
        plan = space.decode(genome)
        return _Site(space, genome, plan, {step.name: step for step in plan.steps})

    def shape(self, mark: int) -> tuple[int, ...]:
        """The shape of a live layer's output."""
        return self.steps[f"layer{mark}"].shape

    def weighted(self) -> list[int]:
        """Marks of the live layers with filters or units of their own to choose."""
        return [mark for mark in self.genome.live[1:-1] if "channels" in USES[self.genome.layer[mark].op]]

    def into(self, mark: int) -> Step:
        """The step whose output a layer takes, merged but not yet reduced to features."""
        name = f"layer{mark}"
        first = self.steps.get(f"{name}_reduce", self.steps[name])
        return self.plan.steps[first.inputs[0]]

    def inputs(self, mark: int) -> int:
        """How many live edges lead into a layer."""
        return sum(edge.target == mark for edge in self.genome.live_edges)

    def positive(self, name: str) -> str | None:
        """The activation that leaves a step's output as it is: relu6 or relu where nothing negative comes out of it."""
        step = self.steps[name]
        if step.op in ("conv", "separable", "linear", "identity") and step.settings["activation"] != "linear":
            return {"relu": "relu", "relu6": "relu6", "sigmoid": "relu"}.get(step.settings["activation"])
        if step.op in ("conv", "separable", "linear", "gate", "input") or step.settings.get("norm", "none") != "none":
            return None
        found = {self.positive(self.plan.steps[i].name) for i in step.inputs}
        if None in found:
            return None
        return "relu6" if found == {"relu6"} and step.op not in ("sum", "dropout") else "relu"


def _judged(space: DagEncoding, genome: DagGenome, edit: Edit | None) -> Edit | None:
    """The edit, or None where the place is impossible."""
    return None if edit is None or refusal(space, genome, edit) else edit


def _new(mark: int, layer: Mapping[str, Any]) -> dict[str, Any]:
    return {"mark": mark, **layer}


def _kind(space: DagEncoding, shape: Sequence[int], rng: Random, channels: int, **given: Any) -> dict[str, Any]:
    """A new convolution, or a dense layer on features, that keeps the size; norm and activation as the recipe has."""
    settings = space.settings
    layer: dict[str, Any] = {"op": "dense" if len(shape) == 1 else "conv", "channels": channels}
    layer["norm"], layer["activation"] = rng.choice(settings.norms), rng.choice(settings.activations)
    if len(shape) > 1:
        layer["kernel"] = rng.choice(settings.kernels)
    return {**layer, **given}


def _path(genome: DagGenome, source: int, target: int, marks: MarkBook) -> tuple[int, list[list[int]]]:
    """The mark of a new layer between two others, and its edges as [mark, source, target]."""
    mark = marks.node(source, target, genome.layer)
    return mark, [[marks.edge(source, mark), source, mark], [marks.edge(mark, target), mark, target]]


def _insertion(op: str) -> Proposal:
    def propose(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
        if space.full(genome):
            return None
        site, edge = _Site.of(space, genome), rng.choice(genome.live_edges)
        shape = site.shape(edge.source)
        activation = site.positive(f"layer{edge.source}") or "linear"
        norm = "batch" if op == "insert_normed" else "none"
        layer = _kind(space, shape, rng, shape[0], norm=norm, activation=activation)
        mark, edges = _path(genome, edge.source, edge.target, marks)
        made = (mark, *[one[0] for one in edges])
        args = {"layers": [_new(mark, layer)], "edges": edges, "gone": [edge.mark]}
        return _judged(space, genome, Edit(op, (edge.mark,), made, args))

    return propose


def _propose_block(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    """x becomes x + f(x): two layers whose last scale is 0, beside the old edge."""
    if len(genome.layers) - 2 + 3 > space.settings.layers[1]:
        return None
    site, edge = _Site.of(space, genome), rng.choice(genome.live_edges)
    source, shape = edge.source, site.shape(edge.source)
    taken = set(genome.layer)
    total = marks.node(source, edge.target, taken)
    last = marks.node(source, total, taken | {total})
    first = marks.node(source, last, taken | {total, last})
    ends = [(source, total), (source, first), (first, last), (last, total), (total, edge.target)]
    edges = [[marks.edge(*pair), *pair] for pair in ends]
    layers = [
        _new(first, _kind(space, shape, rng, shape[0])),
        _new(last, _kind(space, shape, rng, shape[0], activation="linear")),
        _new(total, {"op": "identity", "activation": site.positive(f"layer{source}") or "linear", "merge": "sum"}),
    ]
    made = (first, last, total, *[one[0] for one in edges])
    args = {"layers": layers, "edges": edges, "gone": [edge.mark]}
    return _judged(space, genome, Edit("insert_block", (edge.mark,), made, args))


def _propose_widen(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    found = _resized(space, genome, rng, wider=True)
    return None if found is None else _judged(space, genome, Edit("widen", found[0], (), {"channels": found[1]}))


def _propose_replicate(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    """Net2Wider: new filters are copies, and the columns of what was copied are divided among the copies unevenly, so
    that they do not stay equal. Chen, Goodfellow and Shlens 2016, 2.2."""
    found = _resized(space, genome, rng, wider=True)
    if found is None:
        return None
    old = genome.layer[found[0][0]].channels
    copies = [[rng.randrange(old), round(rng.uniform(0.3, 0.7), 3)] for _ in range(found[1] - old)]
    args = {"channels": found[1], "copies": copies}
    return _judged(space, genome, Edit("replicate", found[0], (), args))


def _propose_narrow(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    found = _resized(space, genome, rng, wider=False)
    return None if found is None else Edit("narrow", found[0], (), {"channels": found[1]})


def _resized(space: DagEncoding, genome: DagGenome, rng: Random, wider: bool) -> tuple[tuple[int, ...], int] | None:
    """A layer with those whose widths are tied to it, and one of the next two numbers of channels."""
    site = _Site.of(space, genome)
    places = site.weighted()
    if not places:
        return None
    group = tied(site.plan, rng.choice(places))
    if isinstance(group, str):
        return None
    now = genome.layer[group[0]].channels
    ordered = sorted(space.settings.channels, reverse=not wider)
    others = [one for one in ordered if (one > now if wider else one < now)]
    return (group, rng.choice(others[:2])) if others else None


def _join(site: _Site, target: int, rng: Random) -> tuple[str, list[dict[str, Any]]]:
    """How a further input would join those of a layer, and the layer's gene where it has to say so."""
    gene = site.genome.layer[target]
    if site.inputs(target) > 1:
        return gene.merge, []
    join = rng.choice(site.space.settings.merges)
    return join, [] if gene.merge == join else [gene.changed({"merge": join}).to_json()]


def _forward_pair(genome: DagGenome, rng: Random) -> tuple[int, int] | None:
    """Two live layers, the first before the second, that no edge joins."""
    live = genome.live
    for _ in range(8):
        i, j = sorted((int(rng.random() * len(live)), int(rng.random() * len(live))))
        if i != j and not any(edge.source == live[i] for edge in genome.incoming[live[j]]):
            return live[i], live[j]
    return None


def _propose_branch(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    if space.full(genome):
        return None
    site, live = _Site.of(space, genome), genome.live
    i, j = sorted(rng.sample(range(len(live)), 2))
    source, target = live[i], live[j]
    join, changed = _join(site, target, rng)
    shape, given = site.shape(source), {}
    channels = site.into(target).shape[0] if join == "sum" else rng.choice(space.settings.channels)
    if join == "sum":  # behind a scale of 0 a rectifier would pass no gradient
        given = {"activation": "linear"}
    mark, edges = _path(genome, source, target, marks)
    layer = _new(mark, _kind(space, shape, rng, channels, **given))
    args = {"layers": [*changed, layer], "edges": edges, "join": join}
    made = (mark, *[one[0] for one in edges])
    return _judged(space, genome, Edit("grow_branch", (source, target), made, args))


def _propose_skip(op: str) -> Proposal:
    def propose(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
        pair = _forward_pair(genome, rng)
        join = op.removeprefix("skip_")
        if pair is None or space.full(genome):
            return None
        site, (source, target) = _Site.of(space, genome), pair
        gene = genome.layer[target]
        if site.inputs(target) > 1 and gene.merge != join:
            return None
        changed = [] if gene.merge == join else [gene.changed({"merge": join}).to_json()]
        if join == "sum" and site.shape(source)[0] == site.into(target).shape[0]:
            mark, edges = _path(genome, source, target, marks)
            args = {"layers": [*changed, {"mark": mark, "op": "gate"}], "edges": edges, "join": join}
            made = (mark, *[one[0] for one in edges])
            return _judged(space, genome, Edit(op, pair, made, args))
        edge = [marks.edge(source, target), source, target]
        return _judged(space, genome, Edit(op, pair, (edge[0],), {"layers": changed, "edges": [edge], "join": join}))

    return propose


def _propose_kernel(op: str) -> Proposal:
    def propose(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
        fitting = [gene for gene in _windowed(genome) if op != "dilate_kernel" or gene.kernel == 1]
        if not fitting:
            return None
        gene, larger = rng.choice(fitting), op != "shrink_kernel"
        others = [one for one in space.settings.kernels if (one > gene.kernel if larger else one < gene.kernel)]
        if not others:
            return None
        args: dict[str, Any] = {"kernel": min(others) if larger else max(others)}
        if op == "dilate_kernel":
            wide = [one for one in space.settings.dilations if one > 1]
            if not wide:
                return None
            args["dilation"] = rng.choice(wide)
        edit = Edit(op, (gene.mark,), (), args)
        return _judged(space, genome, edit) if larger else edit

    return propose


def _windowed(genome: DagGenome) -> list[LayerGene]:
    """The live convolutions that pad what they see, so that their windows can grow and shrink around a centre."""
    live = [genome.layer[mark] for mark in genome.live]
    return [gene for gene in live if gene.op in ("conv", "separable") and gene.padding == "same"]


def _propose_split(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    """A layer becomes two with half of its filters each, joined by concatenation."""
    if space.full(genome):
        return None
    fitting = [genome.layer[mark] for mark in _Site.of(space, genome).weighted()]
    fitting = [gene for gene in fitting if gene.channels > 1 and gene.norm != "group"]
    if not fitting:
        return None
    gene = rng.choice(fitting)
    kept = gene.channels // 2
    followers = [edge.target for edge in genome.live_edges if edge.source == gene.mark]
    second = marks.node(gene.mark, followers[0], genome.layer)
    sources = [edge.source for edge in genome.incoming[gene.mark]]
    pairs = [(source, second) for source in sources] + [(second, target) for target in followers]
    edges = [[marks.edge(*pair), *pair] for pair in pairs]
    halves = [gene.changed({"channels": kept}), gene.changed({"channels": gene.channels - kept})._replace(mark=second)]
    others = [genome.layer[target].changed({"merge": "concat"}) for target in followers]
    args = {
        "layers": [one.to_json() for one in (*halves, *others)],
        "edges": edges,
        "halves": [kept, gene.channels - kept],
    }
    return _judged(space, genome, Edit("split_layer", (gene.mark,), (second, *[one[0] for one in edges]), args))


def _propose_separate(space: DagEncoding, genome: DagGenome, rng: Random, marks: MarkBook) -> Edit | None:
    """A convolution becomes a depthwise and a pointwise one."""
    site = _Site.of(space, genome)
    fitting = [
        gene
        for gene in _windowed(genome)
        if gene.op == "conv" and max(site.steps[f"layer{gene.mark}"].settings.get("kernel", (1,))) > 1
    ]
    if not fitting:
        return None
    gene = rng.choice(fitting)
    args = {name: value for name, value in gene.attributes().items() if value != NEUTRAL[name]}
    return Edit("separate", (gene.mark,), (), {**args, "op": "separable"})


Proposal = Callable[["DagEncoding", DagGenome, Random, MarkBook], Edit | None]

PROPOSALS: Mapping[str, Proposal] = {
    "insert_layer": _insertion("insert_layer"),
    "insert_normed": _insertion("insert_normed"),
    "insert_block": _propose_block,
    "widen": _propose_widen,
    "replicate": _propose_replicate,
    "grow_branch": _propose_branch,
    "skip_sum": _propose_skip("skip_sum"),
    "skip_concat": _propose_skip("skip_concat"),
    "enlarge_kernel": _propose_kernel("enlarge_kernel"),
    "dilate_kernel": _propose_kernel("dilate_kernel"),
    "split_layer": _propose_split,
    "narrow": _propose_narrow,
    "separate": _propose_separate,
    "shrink_kernel": _propose_kernel("shrink_kernel"),
}
"""The table of morphisms: what proposes an edit, None where the drawn place is impossible."""
