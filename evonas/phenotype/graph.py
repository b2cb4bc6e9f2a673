"""One direct genome's network as a torch module, with neat-python's semantics: feed-forward, or recurrent with a state.

`evonas export` copies the source of everything in PARTS into the file it writes: it may use nothing but torch, the
standard library and each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def activation(name: str, z: Tensor) -> Tensor:
    """An activation by its name, with neat-python's scaling and limits. KeyError if unknown."""
    table: dict[str, Callable[[Tensor], Tensor]] = {
        "sigmoid": lambda z: (5 * z).clamp(-60, 60).sigmoid(),
        "tanh": lambda z: (2.5 * z).clamp(-60, 60).tanh(),
        "sin": lambda z: (5 * z).clamp(-60, 60).sin(),
        "gauss": lambda z: (-5 * z.clamp(-3.4, 3.4).square()).exp(),
        "relu": lambda z: z.relu(),
        # the exponential of what is above 0 is never used, but its infinity would spoil the gradient
        "elu": lambda z: torch.where(z > 0, z, z.clamp(max=0).exp() - 1),
        "lelu": lambda z: torch.where(z > 0, z, 0.005 * z),
        "selu": lambda z: torch.where(z > 0, z, 1.6732632423543772 * (z.clamp(max=0).exp() - 1)) * 1.0507009873554805,
        "softplus": lambda z: 0.2 * functional.softplus((5 * z).clamp(-60, 60), threshold=30),
        "identity": lambda z: z,
        "clamped": lambda z: z.clamp(-1, 1),
        "inv": lambda z: torch.where(z == 0, z, 1 / torch.where(z == 0, 1, z)),
        "log": lambda z: z.clamp(min=1e-7).log(),
        "exp": lambda z: z.clamp(-60, 60).exp(),
        "abs": lambda z: z.abs(),
        "hat": lambda z: (1 - z.abs()).relu(),
        "square": lambda z: z * z,
        "cube": lambda z: z * z * z,
    }
    return table[name](z)


def aggregation(name: str, terms: Tensor, held: Tensor) -> Tensor:
    """What nodes make of their weighted inputs, (batch, nodes, links) -> (batch, nodes); where `held` is false there is
    no link. Of a node without any it is 0, a product 1. KeyError if the name is unknown."""
    if name == "product":
        return torch.where(held, terms, 1).prod(-1)
    count = held.sum(-1)
    if name in ("sum", "mean"):
        total = torch.where(held, terms, 0).sum(-1)
        return total / count.clamp(min=1) if name == "mean" else total
    if name == "maxabs":
        first = torch.where(held, terms.abs(), -1).argmax(-1, keepdim=True)
        found = terms.gather(-1, first).squeeze(-1)
    elif name == "median":
        ranked = torch.where(held, terms, torch.inf).sort(-1).values
        middle = torch.stack(((count - 1).clamp(min=0) // 2, (count // 2).clamp(max=terms.shape[-1] - 1)), -1)
        found = ranked.gather(-1, middle.expand(terms.shape[0], -1, -1)).mean(-1)
    else:
        bound, reduce = {"max": (-torch.inf, torch.amax), "min": (torch.inf, torch.amin)}[name]
        found = reduce(torch.where(held, terms, bound), -1)
    return torch.where(count > 0, found, 0)


def levels(genes: Mapping[str, Any]) -> list[list[int]]:
    """Marks of the nodes that the outputs need, in levels that depend on earlier ones alone.

    A recurrent network has one level, without the nodes that no enabled link reaches: those stay at 0. Raises
    ValueError for a feed-forward network with a cycle."""
    inputs, nodes = genes["inputs"], [mark for mark, *_ in genes["nodes"]]
    sources: dict[int, list[int]] = {mark: [] for mark in nodes}
    for _, source, target, _, enabled in genes["links"]:
        if enabled:
            sources[target].append(source)
    pending = list(range(inputs, inputs + genes["outputs"]))
    needed = set(pending)
    while pending:
        new = {source for source in sources[pending.pop()] if source >= inputs} - needed
        needed |= new
        pending += new
    if not genes["feed_forward"]:
        fed = [mark for mark in nodes if mark in needed and sources[mark]]
        return [fed] if fed else []
    done, found, waiting = set(range(inputs)), [], [mark for mark in nodes if mark in needed]
    while waiting:
        ready = [mark for mark in waiting if done.issuperset(sources[mark])]
        if not ready:
            raise ValueError(f"the links among the nodes {waiting[:8]} form a cycle: is this network recurrent?")
        found.append(ready)
        done.update(ready)
        waiting = [mark for mark in waiting if mark not in done]
    return found


class GraphCell(nn.Module):
    """Nodes of one level whose aggregation is the same and no sum; `links` are each one's, as (position among the
    links, slot of the source)."""

    link: Tensor
    slot: Tensor
    held: Tensor

    def __init__(self, aggregation: str, links: list[list[tuple[int, int]]]) -> None:
        super().__init__()
        self.aggregation = aggregation
        fan = max(map(len, links))
        padded = [row + [(0, 0)] * (fan - len(row)) for row in links]
        pairs = torch.tensor(padded, dtype=torch.int64).view(len(links), fan, 2)
        held = torch.tensor([[i < len(row) for i in range(fan)] for row in links], dtype=torch.bool)
        self.register_buffer("link", pairs[..., 0].contiguous(), persistent=False)
        self.register_buffer("slot", pairs[..., 1].contiguous(), persistent=False)
        self.register_buffer("held", held.view(len(links), fan), persistent=False)

    def forward(self, values: Tensor, weight: Tensor) -> Tensor:
        """Values by slot (batch, slots) and all links' weights -> (batch, nodes)."""
        if self.held.shape[1] == 0:
            return values.new_full((values.shape[0], len(self.held)), float(self.aggregation == "product"))
        return aggregation(self.aggregation, values[:, self.slot] * weight[self.link], self.held)


class GraphNetwork(nn.Module):
    """A network of nodes and links, (batch, inputs) -> (batch, outputs).

    `genes` is plain data: inputs, outputs, feed_forward, nodes as [mark, bias, response, activation, aggregation] and
    links as [mark, source, target, weight, enabled], where marks below `inputs` are the inputs and the next ones the
    outputs; for recurrent networks also `activations`, the steps per input (1). A node's value is
    activation(bias + response * aggregation(weight * source)) over its enabled links.

    `weight` holds the enabled links' weights and `link_marks` their marks, `bias` and `response` the nodes' and
    `node_marks` theirs. Responses are held still unless `response.requires_grad_()` lets them go. A recurrent network
    computes every node from the previous step's values and begins with zeros: `forward` for each call, `step` where
    `reset` says so."""

    node_marks: Tensor
    link_marks: Tensor
    order: Tensor
    summed: Tensor
    result: Tensor

    def __init__(self, genes: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        links = [link for link in genes["links"] if link[4]]
        self.inputs, self.outputs = int(genes["inputs"]), int(genes["outputs"])
        self.feed_forward = bool(genes["feed_forward"])
        self.activations = int(genes.get("activations", 1))
        self.weight = nn.Parameter(torch.tensor([link[3] for link in links], dtype=dtype))
        self.bias = nn.Parameter(torch.tensor([node[1] for node in genes["nodes"]], dtype=dtype))
        response = torch.tensor([node[2] for node in genes["nodes"]], dtype=dtype)
        self.response = nn.Parameter(response, requires_grad=False)
        self.register_buffer("node_marks", torch.tensor([node[0] for node in genes["nodes"]], dtype=torch.int64))
        self.register_buffer("link_marks", torch.tensor([link[0] for link in links], dtype=torch.int64))
        self._wire(genes, links)
        self._state: Tensor | None = None

    def _wire(self, genes: Mapping[str, Any], links: list[Any]) -> None:
        """Puts the nodes in order of evaluation, each with a slot behind the inputs: by level, then sums first, then
        by activation, so that what is computed in one go lies side by side."""
        at = {node[0]: i for i, node in enumerate(genes["nodes"])}
        kinds = {node[0]: (node[4] != "sum", node[4], node[3]) for node in genes["nodes"]}
        sorted_levels = [sorted(level, key=kinds.__getitem__) for level in levels(genes)]
        order = [mark for level in sorted_levels for mark in level]
        slots = {**{mark: mark for mark in range(self.inputs)}, **{m: self.inputs + i for i, m in enumerate(order)}}
        self.size, silent = len(order), self.inputs + len(order)
        arriving: dict[int, list[tuple[int, int]]] = {mark: [] for mark in at}
        for i, (_, source, target, _, _) in enumerate(links):
            arriving[target].append((i, slots.get(source, silent)))
        self.cells = nn.ModuleList()
        self.levels = [self._level(level, kinds, arriving) for level in sorted_levels]
        summed = [(i, slots[m] - self.inputs, s) for m in order if kinds[m][1] == "sum" for i, s in arriving[m]]
        outputs = [slots.get(mark, silent) for mark in range(self.inputs, self.inputs + self.outputs)]
        self.register_buffer("order", torch.tensor([at[mark] for mark in order], dtype=torch.int64), persistent=False)
        self.register_buffer(
            "summed", torch.tensor(summed, dtype=torch.int64).view(-1, 3).T.contiguous(), persistent=False
        )
        self.register_buffer("result", torch.tensor(outputs), persistent=False)

    def _level(
        self, level: list[int], kinds: dict[int, tuple[bool, str, str]], arriving: dict[int, list[tuple[int, int]]]
    ) -> tuple[int, int, list[int], list[tuple[str, int]]]:
        """How a level is computed: its nodes, the sums among them, the cells of the others, and how many nodes in turn
        share an activation."""
        sums = sum(not kinds[mark][0] for mark in level)
        cells: dict[str, list[list[tuple[int, int]]]] = {}
        for mark in level[sums:]:
            cells.setdefault(kinds[mark][1], []).append(arriving[mark])
        first = len(self.cells)
        self.cells.extend(GraphCell(name, rows) for name, rows in cells.items())
        runs: list[tuple[str, int]] = []
        for mark in level:
            name = kinds[mark][2]
            if runs and runs[-1][0] == name:
                runs[-1] = (name, runs[-1][1] + 1)
            else:
                runs.append((name, 1))
        return len(level), sums, list(range(first, len(self.cells))), runs

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (batch, inputs) -> (batch, outputs); recurrent networks see each input `activations` times, from
        state 0."""
        if self.feed_forward:
            return torch.cat((self._checked(x), *self._computed(x, grows=True)), 1).index_select(1, self.result)
        state = x.new_zeros(x.shape[0], self.size)
        for _ in range(self.activations):
            output, state = self.advance(x, state)
        return output

    def sequence(self, x: Tensor) -> Tensor:
        """Inputs (time, batch, inputs) -> (time, batch, outputs), from state 0."""
        outputs, state = [], x.new_zeros(x.shape[1], self.size)
        for now in x:
            for _ in range(self.activations):
                output, state = self.advance(now, state)
            outputs.append(output)
        return torch.stack(outputs)

    def step(self, x: Tensor) -> Tensor:
        """The next input (batch, inputs) of an episode -> (batch, outputs), from where the last step ended."""
        state = self._state if self._state is not None else x.new_zeros(x.shape[0], self.size)
        for _ in range(self.activations):
            output, state = self.advance(x, state)
        self._state = state
        return output

    def reset(self) -> None:
        """Begins a new episode: the next step starts from zeros, with a batch of any size."""
        self._state = None

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step as a function: inputs (batch, inputs) and state (batch, size) -> outputs and the next state."""
        if self.feed_forward:
            return self.forward(x), state
        values = torch.cat((self._checked(x), functional.pad(state, (0, 1))), 1)
        # no level at all leaves a state without columns as it is
        following = torch.cat([state[:, :0], *self._computed(values, grows=False)], 1)
        return torch.cat((x, functional.pad(following, (0, 1))), 1).index_select(1, self.result), following

    def _computed(self, values: Tensor, grows: bool) -> list[Tensor]:
        """Each level's new values (batch, nodes), from those of all slots, which may grow by each level's."""
        slots = self.inputs + self.size + 1
        link, row, column = self.summed
        dense = self.weight.new_zeros(self.size, slots).index_put((row, column), self.weight[link])
        bias, response = self.bias[self.order], self.response[self.order]
        first, found = 0, []
        for count, sums, cells, runs in self.levels:
            totals = [functional.linear(values, dense[first : first + sums, : values.shape[1]])] if sums else []
            totals += [self.cells[i](values, self.weight) for i in cells]
            last = first + count
            z = bias[first:last] + response[first:last] * (torch.cat(totals, 1) if len(totals) > 1 else totals[0])
            parts = torch.split(z, [length for _, length in runs], 1)
            new = [activation(name, part) for (name, _), part in zip(runs, parts, strict=True)]
            found += new
            values = torch.cat((values, *new), 1) if grows else values
            first = last
        return found

    def _checked(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.inputs:
            raise ValueError(f"inputs of shape {tuple(x.shape)}: this network takes (batch, {self.inputs})")
        return x


PARTS = (activation, aggregation, levels, GraphCell, GraphNetwork)
"""What a network is made of, for `evonas export`."""


def genes(network: GraphNetwork) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """The network's numbers by mark, for its genome: weights of enabled links, (bias, response) of nodes."""
    weights = dict(zip(network.link_marks.tolist(), network.weight.tolist(), strict=True))
    nodes = zip(network.bias.tolist(), network.response.tolist(), strict=True)
    return weights, dict(zip(network.node_marks.tolist(), nodes, strict=True))
