"""Whether crossover by marks helps children that inherit weights.

    python examples/studies/crossover.py [seed ...]

Short LEMONADE runs on scikit-learn's digits give trained networks of common descent. Pairs of them are mated, and each
child is trained for one epoch from three beginnings: every gene's weights from the parent that gave the gene; all that
fits from the fitter parent alone; and from scratch. Beside them stand the parents after one more epoch each. Table:
mean validation errors, and paired differences with their standard error."""

import os
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import evonas
from evonas import recipe
from evonas.core import Heritage, Job, seed_of, stream
from evonas.estimate.heritage import parents
from evonas.estimate.train import TrainEstimator
from evonas.marks import MarkBook
from evonas.phenotype.inherit import inherit

PAIRS, MIXED, WORST = 20, 0.1, 0.3
"""Children per run, the least share of a child's numbers that comes from each parent, and a parent's largest error."""
INHERIT = {"epochs": 1, "lr": 0.05}


def written(seed, begin=INHERIT, epochs=5):
    return {
        "seed": seed,
        "task": {"kind": "digits"},
        "objectives": ["error", "params"],
        "encoding": {
            "kind": "dag", "mutations": "morphisms", "initial_layers": [2, 4], "union": 0.2,
            "bounds": {"min_params": "2k", "params": "30k", "flops": "800k"},
        },
        "strategy": {
            "kind": "lemonade", "population": 4, "proposals": 12, "offspring": 6, "generations": 4,
        },
        "estimator": {
            "kind": "train", "epochs": epochs, "evaluate_every": 0, "device": "cpu", "inherit": begin,
        },
        "store": {"keep_weights": "all"},
        "pool": {"kind": "serial"},
    }  # fmt: skip


def estimator(seed, **changes):
    return TrainEstimator(recipe.read(written(seed, **changes)).model_dump(mode="json"))


def relatives(run):
    """Genome, error and heritage of all in a run that learned something, by id."""
    found = {}
    for row in run.individuals():
        estimate = run.estimate(row.id)
        if estimate.status == "ok" and estimate.values["error"] <= WORST:
            path, genome = run.store.weights_file(estimate.weights).resolve(), run.genome(row.id)
            found[row.id] = (
                genome,
                estimate.values["error"],
                Heritage(run.encoding.to_json(genome), str(path), estimate.weights, row.id),
            )
    return found


def mated(run, living, rng):
    """Two relatives, the fitter first, and the edit of a child that has some weights of both."""
    book = MarkBook()
    for _ in range(10_000):
        pair = sorted(rng.sample(sorted(living), 2), key=lambda id: living[id][1])
        genomes = [living[id][0] for id in pair]
        child, edits = run.encoding.mate(*genomes, rng, book)
        if not edits or run.encoding.settings.bounds.violation(run.encoding.decode(child)):
            continue
        if share(run.encoding, [living[id][2] for id in pair], edits, child) >= MIXED:
            return pair, child, edits
    raise SystemExit("no two relatives have enough in common: take another seed")


def share(space, left, edits, child):
    """The smaller of the two parents' shares of the child's numbers."""
    sizes = {}
    for step in space.decode(child).steps:
        gene = step.name.partition("_")[0]
        sizes[gene] = sizes.get(gene, 0) + step.params
    given = inherit(space, parents(left, space, False), edits, child, 0).sources
    total = sum(sizes.values())
    return min(sum(sizes[gene] * one.get(parent, 0.0) for gene, one in given.items()) / total for parent in (0, 1))


def error(made):
    assert made.estimate.status == "ok", made.estimate.reason
    return made.estimate.values["error"]


def at_birth(made):
    return made.estimate.cost["birth_error"]


def children(seed, folder):
    """Rows of errors: after an epoch by marks, from the fitter alone, from scratch, of the parents after an epoch more
    (mean), of the fitter after one more; at birth by marks and from the fitter; and whether the graph is new."""
    run = evonas.start(written(seed), runs=folder, name=f"crossover-{seed}")
    heir, plain = estimator(seed), estimator(seed, begin="none", epochs=1)
    living, rng, further, rows = relatives(run), stream(seed, "pairs"), {}, []
    for number in range(PAIRS):
        pair, child, edits = mated(run, living, rng)
        key = seed_of(seed, "child", number)
        for id in pair:
            if id not in further:
                genome, _, left = living[id]
                own = Job(id, seed_of(seed, "further", id), run.encoding.to_json(genome), parents=(left,))
                further[id] = error(heir.estimate(own))
        job = Job(number, key, run.encoding.to_json(child), edits=edits)
        both, one = (
            heir.estimate(replace(job, parents=tuple(living[id][2] for id in givers))) for givers in (pair, pair[:1])
        )
        scratch = error(plain.estimate(replace(job, edits=())))
        olds = [further[id] for id in pair]
        row = [error(both), error(one), scratch, fmean(olds), olds[0], at_birth(both), at_birth(one)]
        rows.append((row, child != living[pair[0]][0]))
    return rows


def line(name, rows):
    """A row of the table, and below it the paired differences."""
    if len(rows) < 2:
        return
    errors = " | ".join(f"{fmean(column):.2%}" for column in zip(*rows, strict=True))
    print(f"| {name} | {len(rows)} | {errors} |")


def differences(name, rows):
    """By marks less everything else, with the standard error of the mean of paired differences."""
    if len(rows) < 2:
        return
    others = ("the fitter alone", "scratch", "the parents, an epoch on", "the fitter, an epoch on")
    for at, other in enumerate(others, 1):
        gaps = [row[0] - row[at] for row in rows]
        deviation = stdev(gaps) / len(gaps) ** 0.5
        better, worse = sum(gap < 0 for gap in gaps), sum(gap > 0 for gap in gaps)
        print(f"{name}, by marks less {other}: {fmean(gaps):+.2%} ± {deviation:.2%}; {better} better, {worse} worse")


def main(*seeds):
    torch.set_num_threads(1)
    seeds = seeds or (1, 2, 3)
    with tempfile.TemporaryDirectory() as folder:
        found = [row for seed in seeds for row in children(seed, Path(folder))]
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {platform.machine()}; digits,")
    print(f"runs with seeds {list(seeds)}, validation errors after one epoch\n")
    print("| children | n | by marks | fitter alone | scratch | parents | fitter | birth, marks | birth, fitter |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    groups = {
        "all": [row for row, _ in found],
        "with the fitter's graph": [row for row, new in found if not new],
        "with a new graph": [row for row, new in found if new],
    }
    for name, rows in groups.items():
        line(name, rows)
    print()
    for name, rows in groups.items():
        differences(name, rows)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
