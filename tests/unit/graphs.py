"""Layer graphs that several tests use: short ways to write them, LeNet-5 and the ResNet-20 for CIFAR."""

from __future__ import annotations

from typing import Any

from evonas.encoding.genes import DagGenome, EdgeGene, LayerGene
from evonas.marks import INPUT, OUTPUT


class Graph:
    """Writes a genome layer by layer; `at` is the mark of the last layer."""

    def __init__(self) -> None:
        self.layers = [LayerGene(INPUT, "input")]
        self.edges: list[EdgeGene] = []
        self.at = INPUT
        self._next = 2

    def layer(self, op: str, *sources: int, **attributes: Any) -> int:
        """Adds a layer behind `sources` (by default the last layer) and returns its mark."""
        mark = OUTPUT if op == "output" else self._take()
        self.layers.append(LayerGene(mark, op, **attributes))
        for source in sources or (self.at,):
            self.edges.append(EdgeGene(self._take(), source, mark))
        self.at = mark
        return mark

    def genome(self, **output: Any) -> DagGenome:
        """The finished genome; adds the output if there is none yet."""
        if all(gene.mark != OUTPUT for gene in self.layers):
            self.layer("output", **output)
        return DagGenome.of(self.layers, self.edges)

    def _take(self) -> int:
        self._next += 1
        return self._next - 1


def chain(*layers: dict[str, Any], **output: Any) -> DagGenome:
    """Layers one behind the other."""
    graph = Graph()
    for layer in layers:
        graph.layer(**layer)
    return graph.genome(**output)


def lenet() -> DagGenome:
    """LeNet-5 for 28x28 (LeCun et al. 1998, with full connections between feature maps)."""
    pool = {"op": "avg_pool", "kernel": 2, "stride": 2}
    return chain(
        {"op": "conv", "channels": 6, "kernel": 5, "activation": "tanh"},
        pool,
        {"op": "conv", "channels": 16, "kernel": 5, "padding": "valid", "activation": "tanh"},
        pool,
        {"op": "dense", "channels": 120, "reduce": "flatten", "activation": "tanh"},
        {"op": "dense", "channels": 84, "activation": "tanh"},
    )


def resnet20() -> DagGenome:
    """ResNet-20 for CIFAR with projection shortcuts (He et al. 2016, section 4.2, option B)."""
    graph = Graph()
    last = graph.layer("conv", channels=16, kernel=3, norm="batch", activation="relu")
    for stage, channels in enumerate((16, 32, 64)):
        for block in range(3):
            stride = 2 if stage and not block else 1
            graph.layer("conv", last, channels=channels, kernel=3, stride=stride, norm="batch", activation="relu")
            end = graph.layer("conv", channels=channels, kernel=3, norm="batch")
            last = graph.layer("identity", end, last, activation="relu")
    return graph.genome()
