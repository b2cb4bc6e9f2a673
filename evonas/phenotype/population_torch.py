"""Networks of packed programs by torch's own operations, on any device: one `embedding_bag` per level of the merged
networks, and its gradients by hand, because autograd would copy all values at every level (measured: 3 times slower).

All sums run in a fixed order: no atomic additions, so results repeat bit for bit on a CUDA device too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from evonas.encoding.variation import ACTIVATIONS, AGGREGATIONS
from evonas.phenotype.merged import Merged, merge

if TYPE_CHECKING:
    from evonas.phenotype.population import Programs

Floats = NDArray[np.float32]

SUM = AGGREGATIONS.index("sum")
Genes = tuple[Tensor, Tensor, Tensor]
"""Weights (links,), biases (nodes,) and responses (nodes,)."""


# ------------------------------------------------------------------------------------------------- activations


def _steep(z: Tensor) -> Tensor:
    return (5 * z).clamp(-60, 60)


def _inside(z: Tensor, limit: float) -> Tensor:
    return (z.abs() < limit).to(z.dtype)


SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772

FORMULAS: dict[str, Any] = {
    "sigmoid": lambda z: torch.sigmoid(5 * z),
    "tanh": lambda z: torch.tanh(2.5 * z),
    "sin": lambda z: torch.sin(_steep(z)),
    "gauss": lambda z: torch.exp(-5 * z.square()),
    "relu": torch.relu,
    "elu": lambda z: torch.where(z > 0, z, torch.expm1(z.clamp(max=0))),
    "lelu": lambda z: torch.where(z > 0, z, 0.005 * z),
    "selu": lambda z: SCALE * torch.where(z > 0, z, ALPHA * torch.expm1(z.clamp(max=0))),
    "softplus": lambda z: 0.2 * torch.nn.functional.softplus(_steep(z), threshold=60),
    "identity": lambda z: z,
    "clamped": lambda z: z.clamp(-1, 1),
    "inv": lambda z: torch.where(z == 0, 0.0, 1 / z),
    "log": lambda z: torch.log(z.clamp(min=1e-7)),
    "exp": lambda z: torch.exp(z.clamp(-60, 60)),
    "abs": torch.abs,
    "hat": lambda z: (1 - z.abs()).clamp(min=0),
    "square": torch.square,
    "cube": lambda z: z * z * z,
}
"""neat-python 2.0's activations, with its scaling; without its clamping where that changes less than 1e-25."""

SLOPES: dict[str, Any] = {
    "sigmoid": lambda z, y: 5 * y * (1 - y) * _inside(z, 12),
    "tanh": lambda z, y: 2.5 * (1 - y * y) * _inside(z, 24),
    "sin": lambda z, y: 5 * torch.cos(5 * z) * _inside(z, 12),
    "gauss": lambda z, y: -10 * z * y * _inside(z, 3.4),
    "relu": lambda z, y: (z > 0).to(z.dtype),
    "elu": lambda z, y: torch.where(z > 0, 1.0, y + 1),
    "lelu": lambda z, y: torch.where(z > 0, 1.0, 0.005),
    "selu": lambda z, y: torch.where(z > 0, SCALE, y + SCALE * ALPHA),
    "softplus": lambda z, y: torch.sigmoid(5 * z) * _inside(z, 12),
    "identity": lambda z, y: torch.ones_like(z),
    "clamped": lambda z, y: _inside(z, 1),
    "inv": lambda z, y: -y * y,
    "log": lambda z, y: torch.where(z > 1e-7, 1 / z, 0.0),
    "exp": lambda z, y: y * _inside(z, 60),
    "abs": lambda z, y: torch.sign(z),
    "hat": lambda z, y: -torch.sign(z) * _inside(z, 1),
    "square": lambda z, y: 2 * z,
    "cube": lambda z, y: 3 * z * z,
}
"""Their derivatives by what went in, z, and what came out, y."""


# ------------------------------------------------------------------------------------------------- aggregations


def _bags(values: Tensor, rows: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows of values, one per stretch of `rows`."""
    if not len(rows):
        return values.new_zeros(len(offsets) - 1, values.shape[1])
    made: Tensor = embedding_bag(rows, values, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True)
    return made


def _filled(terms: Tensor, there: Tensor, filler: float) -> Tensor:
    return terms.masked_fill(~there[:, :, None], filler)


def _median(terms: Tensor, there: Tensor) -> Tensor:
    ranked = _filled(terms, there, torch.inf).sort(1).values
    count = there.sum(1)[:, None, None].expand(-1, 1, terms.shape[2])
    low, high = (count - 1).clamp(min=0) // 2, count // 2
    return (ranked.gather(1, low)[:, 0] + ranked.gather(1, high)[:, 0]) / 2


def _maxabs(terms: Tensor, there: Tensor) -> Tensor:
    farthest = _filled(terms.abs(), there, -1.0).argmax(1, keepdim=True)
    return terms.gather(1, farthest)[:, 0]


REDUCTIONS: dict[str, Any] = {
    "product": lambda terms, there: _filled(terms, there, 1.0).prod(1),
    "min": lambda terms, there: _filled(terms, there, torch.inf).amin(1),
    "max": lambda terms, there: _filled(terms, there, -torch.inf).amax(1),
    "maxabs": _maxabs,
    "median": _median,
    "mean": lambda terms, there: _filled(terms, there, 0.0).sum(1) / there.sum(1).clamp(min=1)[:, None],
}
"""Aggregations other than the sum, terms (nodes, most links, batch) -> (nodes, batch); `there` says which terms are."""


def _reduced(name: str, terms: Tensor, there: Tensor) -> Tensor:
    """Aggregations, with neat-python's answers for no terms: 1 for a product, else 0."""
    empty = float(name == "product")
    if not there.shape[1]:
        return terms.new_full((len(there), terms.shape[2]), empty)
    made: Tensor = REDUCTIONS[name](terms, there)
    return torch.where(there.any(1)[:, None], made, empty)


# -------------------------------------------------------------------------------------------------------- graph


@dataclass(frozen=True, eq=False)
class _Rare:
    """A stretch of nodes of a level with an aggregation that is not the sum."""

    aggregation: str
    nodes: slice
    links: slice
    there: Tensor  # (nodes, most links): which terms are


@dataclass(frozen=True, eq=False)
class _Level:
    """Nodes that need none of each other, the links into them, and the links that read them."""

    nodes: slice
    rows: slice
    links: slice
    offsets: Tensor  # (nodes + 1,), into the links
    alike: list[tuple[str, slice, slice]]  # activation, nodes, rows
    rare: list[_Rare]
    summed: Tensor  # links into sums that read these nodes, node by node
    summed_offsets: Tensor
    other: Tensor  # the same for other aggregations
    other_offsets: Tensor


class Graph:
    """Networks merged, on a device: outputs, and gradients, from flat genes in the order of the merged graph."""

    def __init__(self, programs: Programs, copies: int = 0, device: str | torch.device = "cpu") -> None:
        graph = merge(programs, copies)
        self.device = torch.device(device)
        self.base, self.rows, self.shape = graph.base, graph.rows, graph.outputs.shape
        flat = (graph.order, graph.owner, graph.links, graph.source)
        self.order, self.owner, self.links, self.source = (self._index(values) for values in flat)
        target = np.repeat(np.arange(len(graph.order)), np.diff(graph.start))
        self.target, self.outputs = self._index(target), self._index(graph.outputs.reshape(-1))
        sums = programs.aggregation[graph.order][target] == SUM
        self.others, self.start = self._index(np.flatnonzero(~sums)), self._index(graph.start)
        self.levels = list(self._levels(graph, sums))
        kinds = programs.activation[graph.order]
        self.kinds = [(ACTIVATIONS[kind], self._index(np.flatnonzero(kinds == kind))) for kind in np.unique(kinds)]

    def _index(self, values: NDArray[Any]) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values, dtype=np.int64), device=self.device)

    def _levels(self, graph: Merged, sums: NDArray[np.bool_]) -> Iterator[_Level]:
        readers = []
        for chosen in (np.flatnonzero(sums), np.flatnonzero(~sums)):
            links = chosen[np.argsort(graph.source[chosen], kind="stable")]
            readers.append((links, np.searchsorted(graph.source[links], np.arange(graph.rows + 1))))
        for _, group in groupby(graph.runs.tolist(), key=itemgetter(0)):
            runs = list(group)
            nodes = slice(runs[0][3], runs[-1][4])
            rows = self._rows(nodes)
            reading = []
            for links, edges in readers:
                own = edges[rows.start : rows.stop + 1]
                reading += [self._index(links[own[0] : own[-1]]), self._index(own - own[0])]
            offsets = graph.start[nodes.start : nodes.stop + 1]
            alike = [slice(same[0][3], same[-1][4]) for same in (list(g) for _, g in groupby(runs, key=itemgetter(1)))]
            names = [ACTIVATIONS[kind] for kind, _ in groupby(runs, key=itemgetter(1))]
            yield _Level(
                nodes, rows, slice(int(offsets[0]), int(offsets[-1])), self._index(offsets - offsets[0]),
                [(name, own, self._rows(own)) for name, own in zip(names, alike, strict=True)],
                [self._rare(graph, run) for run in runs if run[2] != SUM], *reading,
            )  # fmt: skip

    def _rows(self, nodes: slice) -> slice:
        return slice(self.base + nodes.start, self.base + nodes.stop)

    def _rare(self, graph: Merged, run: list[int]) -> _Rare:
        _, _, aggregation, first, last = run
        counts = np.diff(graph.start[first : last + 1])
        there = torch.as_tensor(np.arange(int(counts.max(initial=0))) < counts[:, None], device=self.device)
        links = slice(int(graph.start[first]), int(graph.start[last]))
        return _Rare(AGGREGATIONS[aggregation], slice(first, last), links, there)

    def genes(self, programs: Programs) -> Genes:
        """The programs' numbers in the order of the merged graph, on the device."""
        flat = (programs.link_weight, programs.bias, programs.response)
        weight, bias, response = (torch.tensor(values, device=self.device) for values in flat)
        return weight[self.links], bias[self.order], response[self.order]

    def in_programs(self, genes: Genes) -> tuple[Floats, Floats, Floats]:
        """The inverse of `genes`, for programs merged without copies."""
        weight, bias, response = (torch.empty_like(values) for values in genes)
        weight[self.links], bias[self.order], response[self.order] = genes
        return weight.cpu().numpy(), bias.cpu().numpy(), response.cpu().numpy()

    def values(self, batch: int, like: Tensor) -> Tensor:
        """Values of all rows before the first step, 0: (rows, batch)."""
        return like.new_zeros(self.rows, batch)

    def forward(self, x: Tensor, genes: Genes, before: Tensor, now: Tensor, totals: Tensor | None = None) -> Tensor:
        """One step of all nodes, from the values `before` (feed-forward: the same as `now`) into the values `now`.

        x (batch, inputs) or (r, batch, inputs) -> (r, batch, outputs). `totals` (nodes, batch) receives the
        aggregations."""
        weight, bias, response = genes
        totals = torch.empty_like(now[self.base :]) if totals is None else totals
        before[: self.base] = x.T if x.ndim == 2 else x.transpose(1, 2).reshape(self.base, -1)
        for level in self.levels:
            own = level.nodes
            totals[own] = _bags(before, self.source[level.links], level.offsets, weight[level.links])
            for rare in level.rare:
                totals[rare.nodes] = _reduced(rare.aggregation, self._terms(rare, before, weight), rare.there)
            torch.addcmul(bias[own, None], response[own, None], totals[own], out=now[level.rows])
            for activation, _, rows in level.alike:
                if activation != "identity":
                    now[rows] = FORMULAS[activation](now[rows])
        return now[self.outputs].view(*self.shape, -1).transpose(1, 2)

    def _terms(self, rare: _Rare, values: Tensor, weight: Tensor) -> Tensor:
        """weight * value of the links into some nodes: (nodes, most links, batch), 0 where there is none."""
        terms = values.new_zeros(*rare.there.shape, values.shape[1])
        terms[rare.there] = values[self.source[rare.links]] * weight[rare.links, None]
        return terms

    def backward(self, genes: Genes, values: Tensor, totals: Tensor, passed: Tensor) -> Genes:
        """Gradients of feed-forward networks' genes from those passed to their outputs, (r, batch, outputs).

        Levels from the last to the first: what a node's readers pass back, times the node's slope."""
        weight, bias, response = genes
        inner = torch.addcmul(bias[:, None], response[:, None], totals)
        slope = torch.empty_like(totals)
        for name, nodes in self.kinds:
            out = values.index_select(0, self.base + nodes)
            slope.index_copy_(0, nodes, SLOPES[name](inner.index_select(0, nodes), out))
        steep = slope * response[:, None]
        made = torch.zeros_like(totals)  # what reaches each node's value ..
        made[self.outputs - self.base] = passed.transpose(1, 2).reshape(len(self.outputs), -1)
        back = torch.empty_like(totals)  # .. and its aggregation
        by_link = values.new_zeros(len(self.source) if len(self.others) else 0, values.shape[1])
        for level in reversed(self.levels):
            own = made[level.nodes]
            if len(level.summed):
                own += _bags(back, self.target[level.summed], level.summed_offsets, weight[level.summed])
            if len(level.other):
                own += _bags(by_link, level.other, level.other_offsets, weight[level.other])
            torch.mul(own, steep[level.nodes], out=back[level.nodes])
            for rare in level.rare:
                by_link[rare.links] = self._shares(rare, values, weight, back[rare.nodes])
        slope *= made
        return self._weights(genes, values, back, by_link), slope.sum(1), (slope * totals).sum(1)

    def _shares(self, rare: _Rare, values: Tensor, weight: Tensor, passed: Tensor) -> Tensor:
        """What each term of an aggregation that is not a sum receives of the gradient passed to it: (links, batch)."""
        if not rare.there.shape[1]:
            return passed[:0]
        with torch.enable_grad():
            terms = self._terms(rare, values, weight).requires_grad_()
            shares = torch.autograd.grad(_reduced(rare.aggregation, terms, rare.there), terms, passed)[0]
        return shares[rare.there]

    def _weights(self, genes: Genes, values: Tensor, back: Tensor, by_link: Tensor) -> Tensor:
        """Gradients of the weights: over each link, the sum of value times what came back."""
        weight = genes[0].detach().requires_grad_()
        with torch.enable_grad():  # the gradient of a bag's weights needs no gathered copy of values: 2 times as fast
            sums = _bags(values, self.source, self.start, weight)
        made = torch.autograd.grad(sums, weight, back)[0] if len(weight) else torch.zeros_like(weight)
        if len(self.others):
            made[self.others] = (values[self.source[self.others]] * by_link[self.others]).sum(1)
        return made


class Activate(torch.autograd.Function):
    """Outputs of feed-forward networks as a function of their genes.

    `Activate.apply(x, graph, weight, bias, response)`: x (batch, inputs) or (r, batch, inputs), genes in the merged
    order -> (r, batch, outputs). x receives no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Graph, weight: Tensor, bias: Tensor, response: Tensor) -> Tensor:
        values = graph.values(x.shape[-2], weight)
        totals = torch.empty_like(values[graph.base :])
        made = graph.forward(x, (weight, bias, response), values, values, totals)
        ctx.graph = graph
        ctx.save_for_backward(weight, bias, response, values, totals)
        return made

    @staticmethod
    def backward(ctx: Any, *passed: Tensor) -> tuple[None, None, Tensor, Tensor, Tensor]:
        *genes, values, totals = ctx.saved_tensors
        return None, None, *ctx.graph.backward(tuple(genes), values, totals, passed[0])


# ----------------------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def activate(programs: Programs, x: Floats, device: str | torch.device = "cpu") -> Floats:
    """Outputs of feed-forward networks, x (batch, inputs) or (n, batch, inputs) -> (n, batch, outputs)."""
    return sequence(programs, x[..., None, :, :], device)[:, 0]


@torch.no_grad()
def sequence(programs: Programs, x: Floats, device: str | torch.device = "cpu") -> Floats:
    """Outputs at every step, the state of recurrent networks starting at 0; x (steps, batch, inputs) or
    (n, steps, batch, inputs) -> (n, steps, batch, outputs)."""
    graph = Graph(programs, int(x.ndim == 4), device)
    genes = graph.genes(programs)
    inputs = torch.tensor(x, device=graph.device)
    now = graph.values(x.shape[-2], genes[0])
    before = now if programs.feed_forward else torch.zeros_like(now)
    made = []
    for step in inputs.unbind(-3):
        now, before = before, now
        made.append(graph.forward(step, genes, before, now))
    return torch.stack(made, 1).cpu().numpy()


class Stepper:
    """Networks that take one input each per call and keep their state; each has `copies` rows, side by side."""

    @torch.no_grad()
    def __init__(
        self, programs: Programs, copies: int = 1, activations: int = 1, device: str | torch.device = "cpu"
    ) -> None:
        self._graph = Graph(programs, copies, device)
        self._genes = self._graph.genes(programs)
        self._copies, self._activations = copies, activations
        self._now = self._graph.values(1, self._genes[0])
        self._before = self._now if programs.feed_forward else torch.zeros_like(self._now)

    @torch.no_grad()
    def step(self, x: Floats) -> Floats:
        """Outputs of the next step, x (rows, inputs) -> (rows, outputs)."""
        inputs = torch.tensor(x, device=self._graph.device)[:, None]
        for _ in range(self._activations):
            self._now, self._before = self._before, self._now
            made = self._graph.forward(inputs, self._genes, self._before, self._now)
        return made[:, 0].cpu().numpy()

    def reset(self, rows: NDArray[np.int64]) -> None:
        """State 0 again for these rows."""
        own = torch.isin(self._graph.owner, torch.as_tensor(rows, device=self._graph.device))
        self._now[self._graph.base :][own] = 0
