"""Populations of grown networks for tests and benchmarks, and the same networks as neat-python holds them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from evonas.encoding.population import ACTIVATIONS, AGGREGATIONS, Population

SIX = ("identity", "relu", "sigmoid", "tanh", "sin", "gauss")
CALM = ("identity", "relu", "sigmoid", "tanh", "gauss", "clamped")
"""Without the sine of 5 z, whose chains amplify rounding."""


def grown(
    seed: int,
    count: int,
    inputs: int = 3,
    outputs: int = 2,
    hidden: int = 10,
    extra: int = 12,
    feed_forward: bool = True,
    activations: Sequence[str] = SIX,
    aggregations: Sequence[str] = ("sum",),
    disabled: float = 0.1,
) -> Population:
    """Networks grown from full connection by `hidden` splits and `extra` links in random order, some links disabled."""
    rng = np.random.default_rng(seed)
    graphs = [_graph(rng, inputs, outputs, hidden, extra, feed_forward) for _ in range(count)]
    nodes = [mark for marks, _ in graphs for mark in marks]
    links = [link for _, links in graphs for link in links]
    enabled = np.array([on for _, links in graphs for on in links.values()]) & (rng.random(len(links)) >= disabled)
    return Population(
        inputs=inputs,
        outputs=outputs,
        feed_forward=feed_forward,
        node_offsets=np.cumsum([0, *(len(marks) for marks, _ in graphs)]),
        node_mark=np.array(nodes, np.int32),
        bias=rng.normal(0, 0.5, len(nodes)),
        response=rng.normal(1, 0.1, len(nodes)),
        activation=rng.choice([ACTIVATIONS.index(name) for name in activations], len(nodes)).astype(np.uint8),
        aggregation=rng.choice([AGGREGATIONS.index(name) for name in aggregations], len(nodes)).astype(np.uint8),
        link_offsets=np.cumsum([0, *(len(links) for _, links in graphs)]),
        link_mark=np.concatenate([np.arange(len(links), dtype=np.int32) for _, links in graphs]),
        source=np.array([source for source, _ in links], np.int32),
        target=np.array([target for _, target in links], np.int32),
        weight=rng.normal(0, 1, len(links)),
        enabled=enabled.astype(np.uint8),
    )


def _graph(
    rng: np.random.Generator, inputs: int, outputs: int, hidden: int, extra: int, feed_forward: bool
) -> tuple[list[int], dict[tuple[int, int], bool]]:
    nodes = list(range(inputs, inputs + outputs))
    links = {(i, o): True for i in range(inputs) for o in nodes}
    rank = {**dict.fromkeys(range(inputs), 0.0), **dict.fromkeys(nodes, 1.0)}  # links go upwards: no cycle
    for split in rng.permuted([True] * hidden + [False] * extra):
        if split:
            live = [link for link, on in links.items() if on]
            source, target = live[rng.integers(len(live))]
            mark = nodes[-1] + int(rng.integers(1, 4))
            links |= {(source, target): False, (source, mark): True, (mark, target): True}
            rank[mark] = (rank[source] + rank[target]) / 2
            nodes.append(mark)
        else:
            ends = rng.integers(inputs + len(nodes), size=30), rng.integers(len(nodes), size=30)
            pairs = ((a if a < inputs else nodes[a - inputs], nodes[b]) for a, b in zip(*ends, strict=True))
            new = ((a, b) for a, b in pairs if (a, b) not in links and (rank[a] < rank[b] or not feed_forward))
            links |= {link: True for link in [next(new, None)] if link}
    return nodes, links


def neat_config(population: Population) -> Any:
    """What neat-python's networks read of a configuration; inputs and outputs are named by our marks."""
    from neat.activations import ActivationFunctionSet
    from neat.aggregations import AggregationFunctionSet

    keys = list(range(population.inputs + population.outputs))
    own = SimpleNamespace(
        input_keys=keys[: population.inputs],
        output_keys=keys[population.inputs :],
        activation_defs=ActivationFunctionSet(),
        aggregation_function_defs=AggregationFunctionSet(),
    )
    return SimpleNamespace(genome_config=own)


def neat_genome(population: Population, at: int) -> Any:
    """One genome with the attributes that neat-python's networks read."""
    p = population
    nodes = {
        int(p.node_mark[k]): SimpleNamespace(
            bias=float(p.bias[k]),
            response=float(p.response[k]),
            activation=ACTIVATIONS[p.activation[k]],
            aggregation=AGGREGATIONS[p.aggregation[k]],
        )
        for k in range(*p.node_offsets[at : at + 2])
    }
    links = {}
    for i in range(*p.link_offsets[at : at + 2]):
        key = int(p.source[i]), int(p.target[i])
        links[key] = SimpleNamespace(key=key, weight=float(p.weight[i]), enabled=bool(p.enabled[i]))
    return SimpleNamespace(nodes=nodes, connections=links)


def neat_networks(population: Population) -> list[Any]:
    """neat-python's own networks of all genomes."""
    from neat.nn import FeedForwardNetwork, RecurrentNetwork

    config = neat_config(population)
    kind = FeedForwardNetwork if population.feed_forward else RecurrentNetwork
    return [kind.create(neat_genome(population, i), config) for i in range(len(population))]
