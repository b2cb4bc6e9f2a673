"""Random NEAT populations for tests and benchmarks, and each of their networks computed alone, slowly and obviously."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from evonas.encoding.population import ACTIVATIONS, AGGREGATIONS, Population

SIX = ("identity", "relu", "sigmoid", "tanh", "sin", "gauss")
"""The mixture the reference measurements were taken with."""


def grown(
    count: int,
    inputs: int = 8,
    outputs: int = 4,
    *,
    splits: int = 31,
    links: int = 22,
    activations: Sequence[str] = SIX,
    aggregations: Sequence[str] = ("sum",),
    feed_forward: bool = True,
    seed: int = 0,
) -> Population:
    """`count` genomes grown from fully connected ones by splitting links and adding links; the defaults make networks
    of about 35 nodes and 88 links."""
    random = np.random.default_rng(seed)
    genomes = [_grown(random, inputs, outputs, splits, links, feed_forward) for _ in range(count)]
    nodes = np.array([outputs + splits] * count)
    sizes = np.array([len(source) for source, _, _ in genomes])
    total = int(nodes.sum())
    mark = np.tile(np.arange(inputs, inputs + outputs + splits, dtype=np.int32), count)
    source, target, enabled = (np.concatenate(column) for column in zip(*genomes, strict=True))
    return Population(
        inputs=inputs,
        outputs=outputs,
        feed_forward=feed_forward,
        node_offsets=_offsets(nodes),
        node_mark=mark,
        bias=random.normal(0, 0.5, total),
        response=random.normal(1, 0.1, total),
        activation=random.choice([ACTIVATIONS.index(a) for a in activations], total).astype(np.uint8),
        aggregation=random.choice([AGGREGATIONS.index(a) for a in aggregations], total).astype(np.uint8),
        link_offsets=_offsets(sizes),
        link_mark=np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
        source=source.astype(np.int32),
        target=target.astype(np.int32),
        weight=random.normal(0, 0.7, int(sizes.sum())),
        enabled=enabled.astype(np.uint8),
    )


def _grown(
    random: np.random.Generator, inputs: int, outputs: int, splits: int, links: int, feed_forward: bool
) -> tuple[list[int], list[int], list[int]]:
    place = {mark: 0.0 if mark < inputs else 1.0 for mark in range(inputs + outputs)}
    edges = {(a, b): 1 for a in range(inputs) for b in range(inputs, inputs + outputs)}
    for mark in range(inputs + outputs, inputs + outputs + splits):
        alive = [edge for edge, enabled in edges.items() if enabled]
        a, b = alive[random.integers(len(alive))]
        place[mark] = place[a] + (place[b] - place[a]) * random.uniform(0.3, 0.7)
        edges[a, b] = 0
        edges[a, mark] = edges[mark, b] = 1
    ends = np.array(sorted(place))
    while links:
        a, b = (int(end) for end in random.choice(ends, 2))
        forward = place[a] < place[b] if feed_forward else b >= inputs
        if forward and (a, b) not in edges:
            edges[a, b] = 1
            links -= 1
    return [a for a, _ in edges], [b for _, b in edges], list(edges.values())


def _offsets(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


# ------------------------------------------------------------------------------------------- each network alone


def alone(population: Population, index: int, x: torch.Tensor, steps: int = 0) -> torch.Tensor:
    """Network `index` by autograd's own operations in the precision of `x`, x (batch, inputs) -> (batch, outputs);
    with `steps`, x (steps, batch, inputs) and a recurrent network: (steps, batch, outputs)."""
    genes = genes_of(population, index, x.dtype)
    return run(population, index, genes, x, steps)


def genes_of(population: Population, index: int, kind: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """The numbers of one genome as tensors: weight, bias, response."""
    nodes = slice(*(int(edge) for edge in population.node_offsets[index : index + 2]))
    links = slice(*(int(edge) for edge in population.link_offsets[index : index + 2]))
    return {
        "weight": torch.tensor(population.weight[links], dtype=kind),
        "bias": torch.tensor(population.bias[nodes], dtype=kind),
        "response": torch.tensor(population.response[nodes], dtype=kind),
    }


def run(
    population: Population, index: int, genes: dict[str, torch.Tensor], x: torch.Tensor, steps: int = 0
) -> torch.Tensor:
    """As `alone`, with genes given."""
    first, last = (int(edge) for edge in population.node_offsets[index : index + 2])
    marks = [int(mark) for mark in population.node_mark[first:last]]
    incoming: dict[int, list[tuple[int, int]]] = {mark: [] for mark in marks}
    begin, end = (int(edge) for edge in population.link_offsets[index : index + 2])
    for place in range(begin, end):
        if population.enabled[place]:
            incoming[int(population.target[place])].append((int(population.source[place]), place - begin))

    def node(mark: int, value: dict[int, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        at = marks.index(mark)
        terms = [value[source] * genes["weight"][link] for source, link in incoming[mark]]
        total = aggregate(AGGREGATIONS[population.aggregation[first + at]], terms, like)
        return activation(
            ACTIVATIONS[population.activation[first + at]], genes["bias"][at] + genes["response"][at] * total
        )

    outputs = range(population.inputs, population.inputs + population.outputs)
    if not steps:
        value: dict[int, torch.Tensor] = {i: x[:, i] for i in range(population.inputs)}

        def visit(mark: int) -> None:
            if mark not in value:
                for source, _ in incoming[mark]:
                    visit(source)
                value[mark] = node(mark, value, x[:, 0])

        for mark in outputs:
            visit(mark)
        return torch.stack([value[mark] for mark in outputs], 1)
    state = {mark: torch.zeros_like(x[0, :, 0]) for mark in marks}
    seen = []
    for step in range(steps):
        before = {**state, **{i: x[step, :, i] for i in range(population.inputs)}}
        state = {mark: node(mark, before, x[0, :, 0]) if incoming[mark] else state[mark] for mark in marks}
        seen.append(torch.stack([state[mark] for mark in outputs], 1))
    return torch.stack(seen)


def activation(name: str, z: torch.Tensor) -> torch.Tensor:
    """neat-python 2.0's activation functions."""
    five = torch.clamp(5 * z, -60, 60)
    table = {
        "sigmoid": lambda: torch.sigmoid(five),
        "tanh": lambda: torch.tanh(torch.clamp(2.5 * z, -60, 60)),
        "sin": lambda: torch.sin(five),
        "gauss": lambda: torch.exp(-5 * torch.clamp(z, -3.4, 3.4) ** 2),
        "relu": lambda: torch.relu(z),
        "elu": lambda: torch.where(z > 0, z, torch.expm1(torch.clamp(z, max=0))),
        "lelu": lambda: torch.where(z > 0, z, 0.005 * z),
        "selu": lambda: (
            1.0507009873554805 * torch.where(z > 0, z, 1.6732632423543772 * torch.expm1(torch.clamp(z, max=0)))
        ),
        "softplus": lambda: 0.2 * torch.log(1 + torch.exp(five)),
        "identity": lambda: z,
        "clamped": lambda: torch.clamp(z, -1, 1),
        "inv": lambda: torch.where(z == 0, torch.zeros_like(z), 1 / torch.where(z == 0, torch.ones_like(z), z)),
        "log": lambda: torch.log(torch.clamp(z, min=1e-7)),
        "exp": lambda: torch.exp(torch.clamp(z, -60, 60)),
        "abs": lambda: torch.abs(z),
        "hat": lambda: torch.clamp(1 - torch.abs(z), min=0),
        "square": lambda: z**2,
        "cube": lambda: z**3,
    }
    return table[name]()


def aggregate(name: str, terms: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """neat-python 2.0's aggregation functions, and what they give for no terms."""
    if not terms:
        return torch.ones_like(like) if name == "product" else torch.zeros_like(like)
    rows = torch.stack(terms)
    if name == "maxabs":
        return rows.gather(0, rows.abs().argmax(0, keepdim=True))[0]
    if name == "median":
        order = rows.sort(0).values
        return (order[(len(terms) - 1) // 2] + order[len(terms) // 2]) / 2
    table = {"sum": rows.sum, "product": rows.prod, "min": rows.amin, "max": rows.amax, "mean": rows.mean}
    return table[name](0)
