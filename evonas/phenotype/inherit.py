"""What a child's tensors become: those of its parents, carried along the edits that made it, mark by mark.

Every edit is replayed with the weights: a tensor of the child is found under its gene's name in the parent, its rows
by their place in the layer, its columns by the channels that they listen to (`encoding/channels.py`), its taps around
the centre of the window. What has no counterpart starts afresh, columns for new channels at 0, so that an old filter
does not hear them at first. One rule thus serves morphisms, ordinary mutations and crossover.

Cells are simpler: a child takes every tensor of its parents' that has its name (cell, mark, operation) and shape.
Real et al. 2017, section 3.4 (inheritance where shapes match); Elsken, Metzen and Hutter 2019; Chen, Goodfellow and
Shlens 2016."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evonas.core import DataError, Edit, Encoding, Genome, seed_of
from evonas.encoding import cell, morph
from evonas.encoding.cell import CellGenome
from evonas.encoding.channels import Labels, labels, layouts
from evonas.encoding.dag import apply
from evonas.encoding.genes import DagGenome
from evonas.encoding.morph import Graft
from evonas.encoding.plan import Plan, Step
from evonas.phenotype import network
from evonas.phenotype.importance import channel_scores
from evonas.phenotype.refit import refit

__all__ = ["Inheritance", "Parent", "Probe", "inherit"]

Named = Mapping[str, Tensor]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Parent:
    """A parent's genome, the tensors of its network by name, and its optimiser's by state and parameter."""

    genome: Genome
    tensors: Named
    moments: Mapping[str, Named] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """Some training rows for what must look at data: norms to calibrate, filters to judge. `x` as the network takes
    it, `y` the targets."""

    x: Tensor
    y: Tensor
    criterion: Literal["norm", "activation", "shapley", "random"] = "norm"


@dataclass(frozen=True)
class Inheritance:
    """What a child begins with.

    `tensors` is its network's complete state, `moments` its optimiser's. `share` of its parameters came from a parent;
    `sources` says by gene (`layer5`, `edge7`) which share from which parent (position). `exact`: no edit changed the
    function."""

    tensors: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    share: float
    exact: bool
    sources: Mapping[str, Mapping[int, float]]


def inherit(
    encoding: Encoding,
    parents: Sequence[Parent],
    edits: Sequence[Edit],
    child: Genome,
    seed: int,
    probe: Probe | None = None,
) -> Inheritance:
    """What the edits make of the parents' weights. `seed` draws the new ones, as `network.build` would.

    The edits are those of the first parent, in order; a `mate` comes first and takes genes from the second one.
    With a `probe`, layers behind an approximate edit are fitted to the parent's outputs (`refit.py`).
    Raises DataError where they do not lead to the child, or a parent's tensors are not its genome's."""
    if isinstance(child, CellGenome):
        return _by_name(encoding, parents, edits, child, seed)
    now = _Stage.of(encoding, parents[0], 1)
    for edit in edits:
        now = _Step(encoding, now, edit, seed, probe).taken(parents[1:])
    _check_child(now.genome, parents[0].genome, edits, child)
    return Inheritance(
        dict(now.tensors),
        {state: {name: named[name] for name in now.trained if name in named} for state, named in now.moments.items()},
        *_shares(now.origins, now.trained, exact=all(edit.op in morph.EXACT for edit in edits)),
    )


def _check_child(made: Genome, parent: Genome, edits: Sequence[Edit], child: Genome) -> None:
    if made.key != child.key:
        raise DataError(
            f"inheritance: {len(edits)} edits of {parent.key[:8]} lead to {made.key[:8]}, not to {child.key[:8]}: "
            "are they of another parent?"
        )


def _shares(origins: Named, parameters: Sequence[str], exact: bool) -> tuple[float, bool, dict[str, dict[int, float]]]:
    counts: dict[str, dict[int, int]] = {}
    for name in parameters:
        gene = counts.setdefault(name.partition(".")[0], {})
        for parent, count in enumerate(torch.bincount(origins[name].flatten(), minlength=3).tolist()):
            gene[parent] = gene.get(parent, 0) + count
    total = sum(sum(gene.values()) for gene in counts.values())
    new = sum(gene.get(0, 0) for gene in counts.values())
    sources = {
        name: {parent - 1: count / sum(gene.values()) for parent, count in gene.items() if parent and count}
        for name, gene in counts.items()
    }
    return (1 - new / total if total else 1.0), exact, sources


# --------------------------------------------------------------------------------------------------------------- cells


def _by_name(
    encoding: Encoding, parents: Sequence[Parent], edits: Sequence[Edit], child: CellGenome, seed: int
) -> Inheritance:
    """Cells: each tensor of the parent that gave its gene, or else of the other, where one has its name and shape."""
    made = parents[0].genome
    for edit in edits:
        assert isinstance(made, CellGenome)
        made = cell.apply(made, edit)
    _check_child(made, parents[0].genome, edits, child)
    taken = {mark for edit in edits if edit.op == "mate" for mark in edit.made}
    built = network.build(encoding.decode(child), seed_of(seed, "weights"))
    tensors, origins = {}, {}
    for name, fresh in network.tensors(built).items():
        found = _CELL_GENE.match(name)
        order = reversed(range(len(parents))) if found and int(found[1]) in taken else range(len(parents))
        giver = next((i for i in order if _fits(parents[i].tensors.get(name), fresh)), None)
        tensors[name] = fresh if giver is None else parents[giver].tensors[name].clone()
        origins[name] = torch.full(fresh.shape, 0 if giver is None else giver + 1, dtype=torch.int8)
    parameters = _parameters(built)
    return Inheritance(
        tensors,
        {state: _moments(state, parents, origins, tensors, parameters) for state in parents[0].moments},
        *_shares(origins, parameters, exact=not edits),
    )


_CELL_GENE = re.compile(r"cell\d+_edge(\d+)_")


def _fits(value: Tensor | None, wanted: Tensor) -> bool:
    return value is not None and value.shape == wanted.shape


def _moments(
    state: str, parents: Sequence[Parent], origins: Named, tensors: Named, parameters: Sequence[str]
) -> dict[str, Tensor]:
    """An optimiser's state for the parameters, of the parents that gave them; zeros for new ones."""
    found = {}
    for name in parameters:
        giver = int(origins[name].flatten()[0]) - 1
        held = parents[giver].moments.get(state, {}).get(name) if giver >= 0 else None
        found[name] = torch.zeros_like(tensors[name]) if held is None else held.clone()
    return found


# ------------------------------------------------------------------------------------------------- one edit at a time


@dataclass(frozen=True)
class _Stage:
    """A genome on the way from parent to child with its tensors, of which `trained` names the parameters; `origins`
    says of each number which parent gave it (1, 2, or 0 for new)."""

    genome: DagGenome
    plan: Plan
    tensors: Named
    moments: Mapping[str, Named]
    origins: Named
    trained: Sequence[str]

    @staticmethod
    def of(encoding: Encoding, parent: Parent, number: int) -> _Stage:
        assert isinstance(parent.genome, DagGenome)
        plan = encoding.decode(parent.genome)
        built = network.build(plan)
        for name, value in built.state_dict().items():
            if name not in parent.tensors or parent.tensors[name].shape != value.shape:
                raise DataError(f"inheritance: the parent's weights lack {name} of {tuple(value.shape)}")
        origins = {name: torch.full(value.shape, number, dtype=torch.int8) for name, value in parent.tensors.items()}
        return _Stage(parent.genome, plan, parent.tensors, parent.moments, origins, _parameters(built))

    @property
    def labelled(self) -> dict[str, Labels]:
        return {name: labels(layout) for name, layout in layouts(self.plan).items()}


def _parameters(built: network.Network) -> list[str]:
    return [name for name, _ in built.named_parameters()]


@dataclass(frozen=True)
class _Step:
    """One edit with what it is applied to."""

    encoding: Encoding
    before: _Stage
    edit: Edit
    seed: int
    probe: Probe | None

    def taken(self, others: Sequence[Parent]) -> _Stage:
        """The stage after the edit."""
        genome = apply(self.before.genome, self.edit)
        plan = self.encoding.decode(genome)
        givers = [self.before]
        if self.edit.op == "mate" and others:
            givers.append(_Stage.of(self.encoding, others[0], 2))
        graft = morph.graft(self.edit, self.before.genome)
        carrier = _Carrier(plan, givers, graft, self._giver(genome, givers), self._kept())
        built = network.build(plan, seed_of(self.seed, "weights"))
        fresh = network.tensors(built)
        dtype = next(
            (value.dtype for value in self.before.tensors.values() if value.is_floating_point()), torch.float32
        )
        fresh = {name: value.to(dtype) if value.is_floating_point() else value for name, value in fresh.items()}
        tensors = carrier.carried([giver.tensors for giver in givers], fresh)
        self._special(graft, plan, tensors)
        fitted: frozenset[str] = frozenset()
        if self.edit.op in morph.APPROXIMATE and self.probe is not None:
            fitted = self._mended(plan, tensors, carrier.kept)
        nothing = {name: torch.zeros_like(value) for name, value in fresh.items()}
        moments = {
            state: carrier.carried([giver.moments.get(state, {}) for giver in givers], _like(named, nothing))
            for state, named in self.before.moments.items()
        }
        for named in moments.values():  # steps towards weights that were replaced lead astray
            named.update({name: torch.zeros_like(value) for name, value in named.items() if name in fitted})
        unborn = {name: torch.zeros(value.shape, dtype=torch.int8) for name, value in fresh.items()}
        origins = carrier.carried([giver.origins for giver in givers], unborn)
        return _Stage(genome, plan, tensors, moments, origins, _parameters(built))

    def _giver(self, genome: DagGenome, givers: Sequence[_Stage]) -> Callable[[str], int]:
        """Which parent gives a step's tensors: the one that gave the gene; edges go with their target."""
        if len(givers) == 1:
            return lambda name: 0
        taken, targets = set(self.edit.where), {edge.mark: edge.target for edge in genome.edges}

        def giver(name: str) -> int:
            mark = int(name.removeprefix("layer").removeprefix("edge"))
            theirs = mark in taken or (name.startswith("edge") and targets[mark] in taken)
            has = [any(key.startswith(f"{name}.") for key in one.tensors) for one in givers]
            return int((theirs and has[1]) or not has[0])

        return giver

    def _kept(self) -> dict[str, Indices]:
        """Which filters stay in layers that are narrowed, by the probe's criterion; those of tied layers together."""
        if self.edit.op != "narrow":
            return {}
        names = [f"layer{mark}" for mark in self.edit.where]
        live = [name for name in names if any(step.name == name for step in self.before.plan.steps)]
        count = int(self.edit.args["channels"])
        if not live:
            return {}
        built = network.build(self.before.plan)
        network.load(built, self.before.tensors)
        probe, seed = self.probe, seed_of(self.seed, "narrow")
        criterion = probe.criterion if probe is not None else "norm"
        x, y = (probe.x, probe.y) if probe is not None else (None, None)
        scores = channel_scores(built, [*live, *_projections(self.before.plan, live[0])], criterion, x, y, seed=seed)
        best = scores.argsort(descending=True, stable=True)[:count].sort().values
        return dict.fromkeys(live, best.numpy())

    def _special(self, graft: Graft, plan: Plan, tensors: dict[str, Tensor]) -> None:
        """Weights of new genes that are not drawn: zeros, identities, calibrated norms, factors."""
        steps = {step.name: step for step in plan.steps}
        for name in graft.zero & steps.keys():
            _silence(name, steps[name], tensors)
        for name in graft.identity & steps.keys():
            _hand_on(name, steps[name], tensors)
        for name in graft.normed & steps.keys():
            self._calibrate(name, graft, tensors)
        if graft.factored in steps:
            _factor(str(graft.factored), steps[str(graft.factored)], self.before.tensors, tensors)

    def _mended(self, plan: Plan, tensors: dict[str, Tensor], kept: Mapping[str, Indices]) -> frozenset[str]:
        """Layers that get another input or window are fitted to what the parent's give; the names of what changed."""
        assert self.probe is not None
        before, after = network.build(self.before.plan), network.build(plan)
        for built, named in ((before, self.before.tensors), (after, tensors)):
            built.to(self.probe.x.dtype)
            network.load(built, named)
        refit(before, after, self.probe.x, kept)
        mended = {name: value.to(tensors[name].dtype) for name, value in after.state_dict().items()}
        changed = frozenset(name for name, value in mended.items() if not torch.equal(value, tensors[name]))
        tensors.update(mended)
        return changed

    def _calibrate(self, name: str, graft: Graft, tensors: dict[str, Tensor]) -> None:
        """Running statistics of what comes, and a scale and shift that undo them. One pass over the probe's rows."""
        if self.probe is None:
            raise DataError("inheritance: a calibrated norm needs some rows to look at; none were given")
        before = network.build(self.before.plan)
        before.to(next(value.dtype for value in self.before.tensors.values() if value.is_floating_point()))
        network.load(before, self.before.tensors)
        seen = _output(before.eval(), str(graft.stands[name]), self.probe.x)
        axes = [axis for axis in range(seen.dim()) if axis != 1]
        mean, spread = seen.mean(axes), seen.var(axes, unbiased=seen.numel() > seen.shape[1])
        tensors[f"{name}.norm.running_mean"] = mean
        tensors[f"{name}.norm.running_var"] = spread
        tensors[f"{name}.norm.weight"] = (spread + nn.BatchNorm1d(1).eps).sqrt()
        tensors[f"{name}.norm.bias"] = mean.clone()


def _projections(plan: Plan, name: str) -> list[str]:
    """Projections on edges whose channels are added to a layer's: they lose a channel with it."""
    numbers = dict(zip([step.name for step in plan.steps], morph.widths(plan), strict=True))
    return [
        step.name
        for step in plan.steps
        if step.params and step.name.startswith("edge") and numbers[step.name] == numbers[name]
    ]


@torch.no_grad()
def _output(built: network.Network, name: str, x: Tensor) -> Tensor:
    """What a step of a network gives for these inputs."""
    if name == built.plan.steps[0].name:
        return x
    seen: list[Tensor] = []
    hook = built.get_submodule(name).register_forward_hook(lambda module, given, output: seen.append(output))
    try:
        built(x)
    finally:
        hook.remove()
    return seen[0]


def _like(named: Named, nothing: Named) -> dict[str, Tensor]:
    """Zeros for every parameter that the optimiser has a state of; a step count has no shape."""
    scalar = any(value.dim() == 0 for value in named.values())
    known = {name: value for name, value in nothing.items() if value.is_floating_point() and "running_" not in name}
    return {name: torch.zeros(()) for name in known} if scalar else known


def _silence(name: str, step: Step, tensors: dict[str, Tensor]) -> None:
    """The last scale at 0: a norm's, a gate's, or the weights where neither is."""
    for part in ("norm.weight", "scale"):
        if f"{name}.{part}" in tensors:
            tensors[f"{name}.{part}"].zero_()
            return
    last = {"separable": "pointwise", "conv": "conv", "linear": "linear"}[step.op]
    tensors[f"{name}.{last}.weight"].zero_()


def _hand_on(name: str, step: Step, tensors: dict[str, Tensor]) -> None:
    """A kernel that gives back its input."""
    part = "conv" if step.op == "conv" else "linear"
    weight = tensors[f"{name}.{part}.weight"].zero_()
    centre = tuple(size // 2 for size in weight.shape[2:])
    for channel in range(len(weight)):
        weight[(channel, channel, *centre)] = 1.0


def _factor(name: str, step: Step, parent: Named, tensors: dict[str, Tensor]) -> None:
    """The best depthwise and pointwise kernels: per input channel the first singular vectors of its kernels, the
    larger share where it is needed. Norm and bias behind them stay the parent's."""
    kernels = parent.get(f"{name}.conv.weight")
    if kernels is None or step.op != "separable":
        return
    rows, columns = kernels.shape[:2]
    matrices = kernels.permute(1, 0, 2, 3).reshape(columns, rows, -1)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    root = s[:, 0].sqrt()
    tensors[f"{name}.depthwise.weight"] = (root[:, None] * v[:, 0]).reshape(columns, 1, *kernels.shape[2:])
    tensors[f"{name}.pointwise.weight"] = (root[:, None] * u[:, :, 0]).T.reshape(rows, columns, 1, 1)
    if f"{name}.conv.bias" in parent:
        tensors[f"{name}.pointwise.bias"] = parent[f"{name}.conv.bias"].clone()


# ------------------------------------------------------------------------------------------------- tensor by tensor


@dataclass(frozen=True)
class _Axis:
    """Where the entries along one axis come from, (n,), -1 for new ones, and by what factor."""

    source: Indices
    factor: NDArray[np.float64] | None = None

    @cached_property
    def known(self) -> Indices:
        return np.flatnonzero(self.source >= 0)

    @cached_property
    def same(self) -> bool:
        """Whether every entry stays where it is."""
        return self.factor is None and np.array_equal(self.source, np.arange(len(self.source)))


class _Carrier:
    """Carries named tensors of one or two parents over into the shapes of a child's network."""

    def __init__(
        self,
        plan: Plan,
        givers: Sequence[_Stage],
        graft: Graft,
        giver: Callable[[str], int],
        kept: Mapping[str, Indices],
    ) -> None:
        self._plan, self._graft, self._giver, self.kept = plan, graft, giver, kept
        self._child = {name: labels(layout) for name, layout in layouts(plan, graft.stands).items()}
        self._parents = [one.labelled for one in givers]
        self._steps = [{step.name: step for step in one.plan.steps} for one in givers]
        self._plans = [one.plan for one in givers]
        self._totals = {
            plan.steps[i].name: step.name
            for step in plan.steps
            if step.op == "sum"
            for i in step.inputs
            if plan.steps[i].name.startswith("edge")
        }
        self._axes: dict[tuple[str, str], tuple[_Axis, _Axis]] = {}

    def carried(self, sources: Sequence[Named], fresh: Named) -> dict[str, Tensor]:
        """Every tensor of the child: the parents' entries where they have them, else those of `fresh`, but 0 where an
        old filter would listen to a new channel. Whole numbers (origins) are copied as they are."""
        made = {}
        for step in self._plan.steps[1:]:
            prefix = f"{step.name}."
            for name in [key for key in fresh if key.startswith(prefix)]:
                made[name] = self._tensor(step, name.removeprefix(prefix), sources, fresh[name])
        return made

    def _tensor(self, step: Step, part: str, sources: Sequence[Named], fresh: Tensor) -> Tensor:
        origin, _ = self._graft.rows.get(step.name, (step.name, 0))
        number = self._giver(step.name)
        source = sources[number].get(f"{origin}.{part}")
        if source is None or source.dim() != fresh.dim():
            return fresh.clone()
        if fresh.dim() == 0 or step.op == "gate":
            return source.clone()
        rows, columns = self._both(step, part, number)
        before = self._before(step, number)
        # of an operation of another kind nothing fits: a norm of filters is none of handed on channels
        if len(rows.source) != fresh.shape[0] or (before and _makes(before, part) != _makes(step, part)):
            return fresh.clone()
        listens = fresh.dim() > 1 and "depthwise" not in part
        if source.shape == fresh.shape and rows.same and (columns.same or not listens):
            return source.to(fresh.dtype, copy=True)
        made = fresh.clone()
        _put(made, source, rows, columns if listens else None)
        return made

    def _both(self, step: Step, part: str, number: int) -> tuple[_Axis, _Axis]:
        """Where rows and columns of a step's tensors come from: rows are the step's own channels, but where every
        channel is handled by itself they are those of its input."""
        own = _makes(step, part)
        key = (step.name, "own" if own else "handed on")
        if key not in self._axes:
            before = self._before(step, number)
            columns = self._columns(step, before, number)
            rows = self._rows(step, before, number) if own else columns
            self._axes[key] = rows, columns
        return self._axes[key]

    def _before(self, step: Step, number: int) -> Step | None:
        origin, _ = self._graft.rows.get(step.name, (step.name, 0))
        return self._steps[number].get(origin)

    def _rows(self, step: Step, before: Step | None, number: int) -> _Axis:
        """A layer's own channels by their place; a projection's are those of the sum that it is added to."""
        count = step.shape[0]
        source = np.full(count, -1, dtype=np.int64)
        if before is None:
            return _Axis(source)
        total = self._totals.get(step.name)
        if total in self._parents[number] and total is not None:
            return _Axis(matched(self._aliased(self._child[total])[0], self._parents[number][total]))
        if step.name in self.kept:
            return _Axis(self.kept[step.name])
        _, first = self._graft.rows.get(step.name, (step.name, 0))
        there = min(count, before.shape[0] - first)
        source[:there] = np.arange(first, first + there)
        for i, (copied, _) in enumerate(self._graft.copies.get(step.name, ())):
            source[before.shape[0] + i] = copied
        return _Axis(source)

    def _columns(self, step: Step, before: Step | None, number: int) -> _Axis:
        """Columns by the channels that they listen to; where none is known, as after another layer took the place of
        the one before, by their order."""
        listening = self._child[self._plan.steps[step.inputs[0]].name]
        size = step.settings.get("in_channels", step.shape[0])
        if before is None:
            return _Axis(np.full(size, -1, dtype=np.int64))
        plan = self._plans[number]
        heard = self._parents[number][plan.steps[before.inputs[0]].name]
        aliased, factors = self._aliased(listening)
        source = matched(aliased, heard)
        if not (source >= 0).any():
            source = np.where(np.arange(len(source)) < len(heard), np.arange(len(source)), -1)
        repeat, was = size // len(listening), before.settings.get("in_channels", before.shape[0]) // len(heard)
        if repeat != was:  # an image of another size was flattened
            return _Axis(np.full(size, -1, dtype=np.int64))
        if repeat > 1:
            inner = np.arange(repeat)
            source = np.where(source[:, None] >= 0, source[:, None] * repeat + inner, -1).reshape(-1)
            factors = None if factors is None else factors.repeat(repeat)
        return _Axis(source, factors)

    def _aliased(self, listening: Labels) -> tuple[Labels, NDArray[np.float64] | None]:
        """Channels under the names that the parent has for them: copies under those of what was copied, with the share
        of the columns that they get; channels of narrowed layers under those of the filters that stayed."""
        if self.kept:
            return [
                (name, int(self.kept[name][place]), nth) if name in self.kept else (name, place, nth)
                for name, place, nth in listening
            ], None
        if not self._graft.copies:
            return listening, None
        shares = {name: _shared(pairs, self._widths(name)) for name, pairs in self._graft.copies.items()}
        named, factors = [], np.ones(len(listening))
        for i, (name, place, trail) in enumerate(listening):
            where, share = shares[name][place] if name in shares else (place, 1.0)
            named.append((name, where, trail))
            factors[i] = share
        return named, factors

    def _widths(self, name: str) -> int:
        return self._steps[0][name].shape[0]


def _makes(step: Step, part: str) -> bool:
    """Whether the rows of a part of a step are channels that it makes, not those that it is given."""
    return step.op in ("conv", "separable", "linear") and "depthwise" not in part


def matched(child: Labels, parent: Labels) -> Indices:
    """For every channel of the child's tensor where the parent's has it, (child channels,); -1 where it has none.

    A channel that comes by another way than it did takes the place of one that has gone: behind a new pool, say."""
    places = {label: at for at, label in enumerate(parent)}
    found = [places.get(label, -1) for label in child]
    gone: dict[tuple[str, int], list[int]] = {}
    for at in sorted(set(range(len(parent))).difference(found)):
        gone.setdefault(parent[at][:2], []).append(at)
    for i, (name, place, _) in enumerate(child):
        if found[i] < 0 and gone.get((name, place)):
            found[i] = gone[name, place].pop(0)
    return np.array(found, dtype=np.int64)


def _shared(copies: Sequence[tuple[int, float]], before: int) -> list[tuple[int, float]]:
    """Per channel of a widened layer: whose copy it is, and which share of that one's columns it gets; the shares of
    all copies of one channel add up to 1."""
    shared = [(place, 1.0) for place in range(before)]
    for source, share in copies:
        left = shared[source][1]
        shared[source] = (source, left * (1 - share))
        shared.append((source, left * share))
    return shared


def _put(made: Tensor, source: Tensor, rows: _Axis, columns: _Axis | None) -> None:
    """Copies entries of `source` into `made` where rows and columns have a counterpart, windows around their centre;
    columns and taps without one become 0 in rows that have one."""
    known, given = rows.known, rows.source[rows.known]
    if not len(known):
        return
    into, out_of = torch.from_numpy(known), torch.from_numpy(given)
    block = source[out_of]
    if columns is not None:
        found = columns.known
        block = block[:, torch.from_numpy(columns.source[found])]
        if columns.factor is not None and block.is_floating_point():
            factor = torch.from_numpy(columns.factor[found]).to(block.dtype)
            block = block * factor.view(1, -1, *[1] * (block.dim() - 2))
        wide = torch.zeros((len(known), made.shape[1], *block.shape[2:]), dtype=block.dtype)
        wide[:, torch.from_numpy(found)] = block
        block = wide
    if made.dim() > 2 and block.shape[2:] != made.shape[2:]:
        block = _centred(block, made.shape[2:])
    made[into] = block.to(made.dtype)


def _centred(block: Tensor, size: Sequence[int]) -> Tensor:
    """Windows (..., h, w) cut or padded with 0 to another size around their centre."""
    made = torch.zeros((*block.shape[:2], *size), dtype=block.dtype)
    here, there = [slice(None)] * 2, [slice(None)] * 2
    for old, new in zip(block.shape[2:], size, strict=True):
        least = min(old, new)
        here.append(slice((new - least) // 2, (new - least) // 2 + least))
        there.append(slice((old - least) // 2, (old - least) // 2 + least))
    made[tuple(here)] = block[tuple(there)]
    return made
