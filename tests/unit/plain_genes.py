"""Direct genomes as plain data, the settings of a plan's step `graph`, and neat-python's networks of them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

from evonas.encoding.plan import Plan, Step
from evonas.encoding.variation import ACTIVATIONS, AGGREGATIONS

XOR: dict[str, Any] = {
    "inputs": 2, "outputs": 1, "feed_forward": True,
    "nodes": [[2, 0.3, 1.0, "sigmoid", "sum"], [3, -0.5, 1.0, "tanh", "max"]],
    "links": [[4, 0, 2, 1.5, True], [5, 1, 2, -2.25, False], [6, 1, 3, 2.0, True], [7, 3, 2, -3.125, True],
              [8, 0, 3, 0.5, True]],
}  # fmt: skip


def genes(
    rng: Random, inputs: int = 3, outputs: int = 2, hidden: int = 6, density: float = 0.4, feed_forward: bool = True,
    activations: Sequence[str] = ACTIVATIONS, aggregations: Sequence[str] = AGGREGATIONS,
) -> dict[str, Any]:  # fmt: skip
    """A random genome; hidden nodes stand in a random order, which feed-forward links follow."""
    first = inputs + outputs
    marks = range(inputs, first + hidden)
    height = {**{mark: rng.random() for mark in marks}, **dict.fromkeys(range(inputs), -1.0)}
    height |= dict.fromkeys(range(inputs, first), 2.0)
    nodes = [[m, rng.uniform(-1, 1), rng.uniform(0.5, 1.5), rng.choice(activations), rng.choice(aggregations)]
             for m in marks]  # fmt: skip
    ends = [(s, t) for s in range(first + hidden) for t in marks if not feed_forward or height[s] < height[t]]
    kept = [pair for pair in ends if rng.random() < density]
    links = [[first + hidden + i, *pair, rng.uniform(-1, 1), rng.random() < 0.8] for i, pair in enumerate(kept)]
    return {"inputs": inputs, "outputs": outputs, "feed_forward": feed_forward, "nodes": nodes, "links": links}


def plan_of(genes: dict[str, Any]) -> Plan:
    enabled = sum(link[4] for link in genes["links"])
    graph = Step("graph", "graph", (0,), (genes["outputs"],), genes, enabled + len(genes["nodes"]), 2 * enabled)
    return Plan((Step("layer0", "input", (), (genes["inputs"],)), graph))


def neat_python(genes: dict[str, Any]) -> tuple[Any, Any]:
    """The genome and the configuration that neat-python makes its networks from."""
    import neat
    from neat.activations import ActivationFunctionSet
    from neat.aggregations import AggregationFunctionSet
    from neat.genes import DefaultConnectionGene, DefaultNodeGene

    def key(mark: int) -> int:
        return -mark - 1 if mark < genes["inputs"] else mark - genes["inputs"]

    genome = neat.DefaultGenome(0)
    for mark, bias, response, activation, aggregation in genes["nodes"]:
        node = DefaultNodeGene(key(mark))
        node.bias, node.response, node.activation, node.aggregation = bias, response, activation, aggregation
        genome.nodes[node.key] = node
    for mark, source, target, weight, enabled in genes["links"]:
        link = DefaultConnectionGene((key(source), key(target)), innovation=mark)
        link.weight, link.enabled = weight, enabled
        genome.connections[link.key] = link
    config = SimpleNamespace(
        input_keys=[-i - 1 for i in range(genes["inputs"])], output_keys=list(range(genes["outputs"])),
        feed_forward=genes["feed_forward"], activation_defs=ActivationFunctionSet(),
        aggregation_function_defs=AggregationFunctionSet(),
    )  # fmt: skip
    return genome, SimpleNamespace(genome_config=config)


def neat_python_network(genes: dict[str, Any]) -> Any:
    import neat

    kind = neat.nn.FeedForwardNetwork if genes["feed_forward"] else neat.nn.RecurrentNetwork
    return kind.create(*neat_python(genes))
