"""How much a child loses by an approximate morphism, and how much a short distillation gives back.

    python examples/studies/approximate.py [seed ...] [--params 3k 50k] [--flops 1M] [--parents 12] [--long]

Scikit-learn's digits; for every seed (1, 2, 3) random layer graphs within the bounds are trained for ten epochs. Twelve
that learn have a child by every approximate morphism, at a random place: narrowed by each criterion, separated, with a
smaller window, with one layer less, with one edge less. The table gives the validation error of the parent, of the
child at birth, after one epoch of distillation from the parent, and, for comparison, after one epoch of ordinary
training with the inherited weights and after one from scratch; and the share of children that distillation brings back
to the parent's error and one point more, last for those children that lost little at birth, which are all that a search
with `birth_loss` trains. Everything is measured as a run measures it: by the estimator, from jobs.

`--long` asks instead what could be given back at all: the share within one point after the distillation and as many
epochs more as the parent had, after as many from scratch, and that of the parents themselves, trained again."""

import argparse
import hashlib
import os
import platform
import tempfile
from pathlib import Path
from statistics import fmean

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from evonas import encoding, recipe
from evonas.core import Heritage, Job, generator, seed_of, stream
from evonas.encoding.dag import MUTATIONS, apply
from evonas.estimate.train import TrainEstimator
from evonas.marks import MarkBook

GENOMES, EPOCHS, POINT, BIRTH_LOSS = 12, 10, 0.01, 0.02
DISTILL = {"epochs": 1.0, "temperature": 2.0, "weight": 0.9, "lr": 0.01, "batch_size": 16}
INHERIT = {"epochs": 1, "lr": 0.05}
NARROW = ("norm", "activation", "shapley")
KINDS = [("narrow", prune) for prune in NARROW]
KINDS += [(kind, "norm") for kind in ("separate", "shrink_kernel", "remove_layer", "remove_edge")]
SPACE = {
    "kind": "dag", "dilations": [1, 2], "initial_layers": [2, 5],
    "bounds": {"min_params": "3k", "params": "50k", "flops": "1M"},
}  # fmt: skip
"""Of the random graphs; most of them are near the smallest size."""
MUTATED, WORST = 6, 0.1
"""Most ordinary mutations of a random graph, and the largest error of one that is a parent: others learned nothing that
could be kept."""
TRIES = 20
"""Places that are drawn before a graph counts as having none."""


def estimator(seed, epochs, inherit="none"):
    """The estimator of a recipe."""
    section = {"kind": "train", "epochs": epochs, "evaluate_every": 0, "device": "cpu", "inherit": inherit}
    written = {
        "seed": seed, "task": {"kind": "digits"}, "encoding": SPACE, "objectives": ["error"], "estimator": section,
    }  # fmt: skip
    return TrainEstimator(recipe.read(written).model_dump(mode="json"))


def space():
    return encoding.build(encoding.TABLE["dag"].model_validate(SPACE), (1, 8, 8), 10)


def grown(own, seed, number, book):
    """A random graph within the bounds, some mutations away from a first one."""
    rng = stream(seed, "graph", number)
    while True:
        genome = own.random(rng, book)
        for _ in range(rng.randint(0, MUTATED)):
            changed = own.mutate(genome, rng, book)
            genome = changed[0] if changed else genome
        if own.settings.bounds.violation(own.decode(genome)) is None:
            return genome, rng


def place(own, kind, genome, rng, book):
    """An edit of this kind that changes the network and keeps the bounds, or None."""
    for _ in range(TRIES):
        edit = MUTATIONS[kind][0](own, genome, rng, book)
        if edit is None:
            continue
        plan = own.decode(apply(genome, edit))
        if plan != own.decode(genome) and own.settings.bounds.violation(plan) is None:
            return edit
    return None


def error(made):
    assert made.estimate.status == "ok", made.estimate.reason
    return made.estimate.values["error"]


class Family:
    """A trained parent with its weights in a file."""

    def __init__(self, own, genome, trained, folder):
        self.own, self.genome, self.error = own, genome, error(trained)
        sha = hashlib.sha256(trained.weights).hexdigest()
        path = folder / f"{sha}.safetensors"
        path.write_bytes(trained.weights)
        self.heritage = Heritage(own.to_json(genome), str(path), sha, 0)

    def job(self, edits, seed, heir=True):
        child = self.genome
        for edit in edits:
            child = apply(child, edit)
        inherited = {"parents": (self.heritage,), "edits": tuple(edits)} if heir else {}
        return Job(1, seed, self.own.to_json(child), **inherited)


def families(seed, folder, count=GENOMES):
    """Trained parents of one seed, each with a stream and a book of marks for its children."""
    own, teacher = space(), estimator(seed, EPOCHS, INHERIT)
    number = 0
    while count:
        number, book = number + 1, MarkBook()
        genome, rng = grown(own, seed, number, book)
        trained = teacher.estimate(Job(0, seed_of(seed, "parent", number), own.to_json(genome)))
        if error(trained) <= WORST:
            count -= 1
            yield number, Family(own, genome, trained, folder), rng, book


def measured(seed, folder, distill=DISTILL, inherit=INHERIT, kinds=KINDS, count=GENOMES, compare=True):
    """Rows (morphism, criterion, errors of the parent, at birth, distilled, trained, from scratch)."""
    taught = {prune: estimator(seed, EPOCHS, {**inherit, "prune": prune, "distill": distill}) for prune in NARROW}
    plain = {prune: estimator(seed, EPOCHS, {**inherit, "prune": prune}) for prune in NARROW}
    scratch = estimator(seed, 1)
    for number, family, rng, book in families(seed, folder, count):
        edits = {kind: place(family.own, kind, family.genome, rng, book) for kind, _ in KINDS}
        for kind, prune in kinds:
            if edits[kind] is None:
                continue
            key = seed_of(seed, f"child/{kind}", number)
            cost = taught[prune].estimate(family.job([edits[kind]], key)).estimate.cost
            row = [family.error, cost["birth_error"], cost["distilled_error"]]
            if compare:
                row.append(error(plain[prune].estimate(family.job([edits[kind]], key))))
                row.append(error(scratch.estimate(family.job([edits[kind]], key, heir=False))))
            yield kind, prune, row


def longer(seed, folder, count):
    """Rows (errors of the parent, of the child after long training, after as long a one from scratch, and of the
    parent's graph trained again)."""
    taught = estimator(seed, EPOCHS, {**INHERIT, "epochs": EPOCHS, "prune": "activation", "distill": DISTILL})
    scratch = estimator(seed, EPOCHS)
    for number, family, rng, book in families(seed, folder, count):
        again = error(scratch.estimate(family.job([], seed_of(seed, "again", number), heir=False)))
        for kind in dict(KINDS):
            edit = place(family.own, kind, family.genome, rng, book)
            if edit is not None:
                key = seed_of(seed, f"child/{kind}", number)
                trained = error(taught.estimate(family.job([edit], key)))
                new = error(scratch.estimate(family.job([edit], key, heir=False)))
                yield [family.error, trained, new, again]


def back(rows, at=2):
    """Share of the children whose distilled error is their parent's and a point more at most, or whose error in another
    column is, with its standard error from 1,000 draws of children with replacement."""
    good = torch.tensor([float(row[at] <= row[0] + POINT + 1e-9) for row in rows])
    draws = generator(0, "bootstrap").integers(len(good), size=(1000, len(good)))
    return good.mean().item(), good[torch.from_numpy(draws)].mean(1).std().item()


def table(found):
    """The Markdown table."""
    print("| morphism | children | parent | at birth | distilled | trained | from scratch | within 1 point |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    every = [row for *_, row in found]
    groups = {
        f"narrow, {prune}" if kind == "narrow" else kind: [row for *name, row in found if name == [kind, prune]]
        for kind, prune in KINDS
    }
    groups["all"] = every
    groups[f"birth_loss: {BIRTH_LOSS}"] = [row for row in every if row[1] - row[0] <= BIRTH_LOSS]
    for name, rows in groups.items():
        if not rows:
            continue
        errors = " | ".join(f"{fmean(column):.2%}" for column in zip(*rows, strict=True))
        share, deviation = back(rows)
        print(f"| {name} | {len(rows)} | {errors} | {share:.0%} ± {deviation:.0%} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--params", nargs=2, default=["3k", "50k"], metavar=("LEAST", "MOST"), help="of the graphs")
    parser.add_argument("--flops", default="1M", help="most of a graph")
    parser.add_argument("--parents", type=int, default=GENOMES, help="for each seed")
    parser.add_argument("--long", action="store_true", help="what long trainings give back")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    SPACE["bounds"] = dict(zip(("min_params", "params", "flops"), (*chosen.params, chosen.flops), strict=True))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in chosen.seeds:
            found += (longer if chosen.long else measured)(seed, Path(folder), count=chosen.parents)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {platform.machine()}; validation")
    print(f"errors on digits, seeds {chosen.seeds}, {SPACE['bounds']}; distillation {DISTILL}, rate {INHERIT['lr']}\n")
    if chosen.long:
        print(f"{len(found)} children; within a point after {EPOCHS} epochs:")
        for at, name in enumerate(("inherited weights", "from scratch", "the parents again"), start=1):
            share, deviation = back(found, at)
            print(f"  {name} {share:.0%} ± {deviation:.0%}")
    else:
        table(found)


if __name__ == "__main__":
    main()
