"""How exactly morphisms keep a network's function, measured in float32.

    python examples/studies/exactness.py [pairs]

Every exact morphism at `pairs` (1,000) random places of random layer graphs (convolutions, depthwise-separable ones,
batch and group norms, sums, concatenations), with weights and statistics that are not those of a new network, on
scikit-learn's digits, in evaluation and in training mode; then chains of fifty. A difference is relative to the largest
output. Where nothing but zeros is added, what is left is the order in which libraries add up: with sums in a fixed
order the difference is 0 (tests/contract/test_morphism.py)."""

import platform
import sys
from dataclasses import dataclass, field
from random import Random

import torch
from sklearn.datasets import load_digits

from evonas.encoding import morph
from evonas.encoding.dag import PRESETS, DagEncoding, DagSettings, apply
from evonas.marks import MarkBook
from evonas.phenotype import network
from evonas.phenotype.inherit import Parent, Probe, inherit

SPACE = DagEncoding(
    DagSettings(
        ops=("conv", "separable", "max_pool", "avg_pool", "identity", "dense"),
        channels=(8, 16, 24, 32),
        kernels=(1, 3, 5),
        dilations=(1, 2),
        norms=("batch", "group", "none"),
        activations=("relu", "leaky_relu", "silu", "relu6"),
        reduces=("mean", "flatten"),
        layers=(1, 80),
    ),
    (1, 8, 8),
    10,
)
IMAGES = torch.from_numpy(load_digits().images[:64]).float()[:, None] / 8 - 1
LARGEST = 300_000
"""Parameters of the largest graph that is tried."""


@dataclass
class Tally:
    """Differences in evaluation and in training mode."""

    evaluation: list = field(default_factory=list)
    training: list = field(default_factory=list)
    flipped: list = field(default_factory=list)

    def add(self, before, after):
        for training, gaps in ((False, self.evaluation), (True, self.training)):
            old, new = outputs(before, training), outputs(after, training)
            gaps.append(float((new - old).abs().max() / old.abs().max()))
            if training:
                self.flipped.append(float((new.argmax(1) != old.argmax(1)).float().mean()))

    def row(self, name):
        share = sum(gap == 0 for gap in (*self.evaluation, *self.training)) / (2 * len(self.evaluation))
        worst = f"{max(self.evaluation):.1e} | {max(self.training):.1e}"
        return f"| {name} | {len(self.evaluation)} | {worst} | {share:.1%} | {max(self.flipped):.1%} |"


def outputs(built, training):
    """What the network gives; its running statistics stay as they are."""
    kept = {name: value.clone() for name, value in built.named_buffers()}
    with torch.no_grad():
        found = built.train(training)(IMAGES)
        for name, value in built.named_buffers():
            value.copy_(kept[name])
    return found


def grown(seed):
    """A random graph with a network that is not new, or None where it is too large."""
    rng, marks = Random(seed), MarkBook()
    genome = SPACE.random(rng, marks)
    for _ in range(rng.randint(0, 8)):
        changed = SPACE.mutate(genome, rng, marks)
        genome = changed[0] if changed else genome
    plan = SPACE.decode(genome)
    if plan.params > LARGEST:
        return None
    built, draw = network.build(plan, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in built.parameters():
            if value.dim() == 1:
                value += 0.2 * torch.randn(value.shape, generator=draw)
        for _ in range(3):
            built.train()(IMAGES)
    return genome, built, rng, marks


def child_of(genome, built, edits, child, seed):
    made = inherit(SPACE, [Parent(genome, built.state_dict())], edits, child, seed, Probe(IMAGES, IMAGES[:, 0, 0, 0]))
    after = network.build(SPACE.decode(child))
    network.load(after, made.tensors)
    return after


def at_places(pairs):
    """Tallies by morphism."""
    tallies, seed = {kind: Tally() for kind in morph.EXACT}, 0
    while any(len(one.evaluation) < pairs for one in tallies.values()):
        seed += 1
        found = grown(seed)
        for kind, tally in tallies.items():
            if found is None or len(tally.evaluation) >= pairs:
                continue
            genome, built, rng, marks = found
            edit = morph.PROPOSALS[kind](SPACE, genome, rng, marks)
            if edit is not None:
                tally.add(built, child_of(genome, built, [edit], apply(genome, edit), seed))
    return tallies


def chains(count, length=50):
    """A tally of children by many edits in a row."""
    tally, kinds, seed = Tally(), list(PRESETS["exact"]), 0
    while len(tally.evaluation) < count:
        seed += 1
        found = grown(seed)
        if found is None:
            continue
        genome, built, rng, marks = found
        child, edits = genome, []
        for _ in range(40 * length):
            edit = morph.PROPOSALS[rng.choice(kinds)](SPACE, child, rng, marks)
            if edit is not None and SPACE.decode(apply(child, edit)).params <= LARGEST:
                child = apply(child, edit)
                edits.append(edit)
            if len(edits) == length:
                tally.add(built, child_of(genome, built, edits, child, seed))
                break
    return tally


def main(pairs=1000, count=50):
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {platform.machine()}, float32\n")
    print(
        "| morphism | places | largest difference, evaluation | training | exactly 0 | predictions flipped, training |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for kind, tally in at_places(pairs).items():
        print(tally.row(kind), flush=True)
    print(chains(count).row("chains of 50"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
