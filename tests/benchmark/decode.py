"""Times of everything that a layer graph goes through before it is trained (microseconds per genome, the smallest of
repeats), and of the interpreter against plain torch code of the same network (ratios, side by side in one process).

python tests/benchmark/decode.py [layers per genome]"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from evonas.core import dumps
from evonas.encoding import genes
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.encoding.decode import decode
from evonas.encoding.genes import DagGenome, EdgeGene, LayerGene
from evonas.marks import MarkBook
from evonas.phenotype.network import Network, build

COUNT, REPEATS = 400, 7
SHAPE, OUTPUTS = (1, 28, 28), 10


def population(layers: int) -> tuple[DagEncoding, list[DagGenome], MarkBook]:
    """Genomes of about `layers` layers, grown from one by mutation."""
    encoding = DagEncoding(DagSettings(layers=(layers - 1, layers + 1)), SHAPE, OUTPUTS)
    rng, marks = random.Random(1), MarkBook()
    start, grown = encoding.random(rng, marks), []
    while len(grown) < COUNT:
        genome = start
        for _ in range(4 * layers):
            result = encoding.mutate(genome, rng, marks)
            genome = result[0] if result else genome
        grown.append(genome)
    return encoding, grown, marks


def fastest(work: Callable[[int, DagGenome, list[DagGenome]], object], grown: list[DagGenome]) -> float:
    """Seconds per genome; each repeat has fresh genomes that remember nothing."""
    times = []
    for _ in range(REPEATS):
        fresh = [DagGenome(genome.layers, genome.edges) for genome in grown]
        start = time.perf_counter()
        for i, genome in enumerate(fresh):
            work(i, genome, fresh)
        times.append((time.perf_counter() - start) / len(fresh))
    return min(times)


def breeding(layers: int) -> None:
    encoding, grown, marks = population(layers)
    rng, texts = random.Random(2), [genes.to_json(genome) for genome in grown]

    def birth(i: int, genome: DagGenome, others: list[DagGenome]) -> None:
        child, _ = encoding.mate(genome, others[i - 1], rng, marks)
        result = encoding.mutate(child, rng, marks)
        plan = decode.__wrapped__(result[0] if result else child, SHAPE, OUTPUTS)
        _ = plan.params, plan.flops, plan.depth

    work: dict[str, Callable[[int, DagGenome, list[DagGenome]], object]] = {
        "mutate (1-2 edits)": lambda i, genome, others: encoding.mutate(genome, rng, marks),
        "mate": lambda i, genome, others: encoding.mate(genome, others[i - 1], rng, marks),
        "decode": lambda i, genome, others: decode.__wrapped__(genome, SHAPE, OUTPUTS),
        "mate + mutate + decode + counts": birth,
        "key": lambda i, genome, others: genome.key,
        "to_json": lambda i, genome, others: genes.to_json(genome),
        "dumps(to_json)": lambda i, genome, others: dumps(genes.to_json(genome)),
        "from_json": lambda i, genome, others: genes.from_json(texts[i]),
        "check": lambda i, genome, others: genes.check(genome),
        "distance": lambda i, genome, others: encoding.distance(genome, others[i - 1]),
        "random": lambda i, genome, others: encoding.random(rng, marks),
    }
    mean = sum(len(genome.layers) - 2 for genome in grown) / COUNT, sum(len(genome.edges) for genome in grown) / COUNT
    print(f"{COUNT} genomes of {mean[0]:.1f} layers and {mean[1]:.1f} edges, microseconds each")
    for name, one in work.items():
        print(f"  {name:34}{1e6 * fastest(one, grown):9.1f}")
    plans = [encoding.decode(genome) for genome in grown[:40]]
    build(plans[0], seed=1)
    start = time.perf_counter()
    for plan in plans:
        build(plan, seed=1)
    print(f"  {'build and initialise (torch)':34}{1e6 * (time.perf_counter() - start) / len(plans):9.1f}")


class Plain(nn.Module):
    """A small residual network as one writes it by hand."""

    def __init__(self, blocks: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
                nn.BatchNorm2d(channels),
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(channels, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = (x + block(x)).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def interpreted(blocks: int, channels: int) -> Network:
    """The same network as a genome."""
    conv = {"op": "conv", "channels": channels, "kernel": 3, "norm": "batch"}
    layers = [LayerGene(0, "input"), LayerGene(1, "output"), LayerGene(2, **conv, stride=2, activation="relu")]
    edges, last, mark = [EdgeGene(3, 0, 2)], 2, 4
    for _ in range(blocks):
        layers += [LayerGene(mark, **conv, activation="relu"), LayerGene(mark + 1, **conv),
                   LayerGene(mark + 2, "identity", activation="relu")]  # fmt: skip
        ends = [(last, mark), (mark, mark + 1), (last, mark + 2), (mark + 1, mark + 2)]
        edges += [EdgeGene(mark + 3 + i, *pair) for i, pair in enumerate(ends)]
        last, mark = mark + 2, mark + 7
    genome = DagGenome.of(layers, [*edges, EdgeGene(mark, last, 1)])
    genes.check(genome)
    return build(decode(genome, SHAPE, OUTPUTS), seed=1)


def interpreter() -> None:
    print("interpreter against plain torch code, forward and backward, milliseconds (ratio)")
    for blocks, channels, batch in ((3, 4, 1), (3, 8, 32), (3, 16, 128)):
        networks = {"plain": Plain(blocks, channels), "evonas": interpreted(blocks, channels)}
        x, best = torch.randn(batch, *SHAPE), dict.fromkeys(networks, float("inf"))
        for _ in range(30):
            for name, network in networks.items():
                start = time.perf_counter()
                network(x).square().sum().backward()
                best[name] = min(best[name], time.perf_counter() - start)
        print(f"  {blocks} blocks, {channels:2} channels, batch {batch:3}: {1e3 * best['plain']:8.3f}"
              f" {1e3 * best['evonas']:8.3f}  ({best['plain'] / best['evonas']:.2f}x the speed)")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    breeding(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    interpreter()
