"""What inherited weights save, and the front that they buy.

    python examples/studies/inheritance.py [--tasks digits mnist1d fashion] [--seeds 5] [--scale 1.0] [--runs FOLDER]

Searches of the same space, for every seed on the same split of the same rows: LEMONADE with inherited weights; its
twin, the same recipe with `inherit: none` and therefore without `continued`, which has no weights to go on from; NSGA-
II and random search, from scratch as well. All train every network for `epochs`, founders and children alike. That is
short for weights that begin at random, and whoever may choose trains longer then: one NSGA-II more has `patient`
epochs. All evolutions begin with the same eight networks, four plain ones and four random ones. All searches end with
the same number of trained samples, those of founders and of distillation counted: each goes on as long as one more
generation cannot pass the budget.

The hypervolume is that of validation error and log10 of the parameters below the error of guessing and the largest
size, as a share of the rectangle down to error 0 and the smallest size. Validation rows were seen by the search, and
who looks at more networks finds more that are lucky on them: the same front, as the search left it, is therefore
measured on test rows as well. `--final` also trains five members of each front anew, all methods alike.

Finished runs in the folder are read, unfinished ones go on. Several processes may share a folder if each has other
seeds. MNIST-1D is looked for in $EVONAS_DATA."""

import argparse
import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from itertools import accumulate, pairwise
from math import inf, log10
from pathlib import Path

import numpy as np
import torch

import evonas
from evonas import pareto, task
from evonas import recipe as recipes
from evonas.encoding.dag import MutationWeights

DATA = Path(os.environ.get("EVONAS_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
MUTATIONS = {
    **MutationWeights.model_validate("morphisms").model_dump(),
    "separate": 0.0, "insert_layer": 0.0, "insert_normed": 1.0, "split_layer": 0.0, "narrow": 6.0, "shrink_kernel": 1.0,
    "remove_layer": 1.0,
}  # fmt: skip
"""Morphisms, often towards smaller networks. Without depthwise convolutions, which CPUs train slowly; every new layer
comes with a norm, since those without one do not bear the learning rate."""
ENCODING = {
    "kind": "dag", "ops": ["conv", "max_pool", "avg_pool", "identity"], "mutations": MUTATIONS, "edits": [1, 3],
    "kernels": [3, 1, 5], "channels": [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96], "initial_layers": [2, 3],
    "layers": [1, 20],
}  # fmt: skip
WIDTHS = (2, 4, 8, 16)
"""Of the plain founders: three convolutions, each twice as wide as the one before, with pooling between them, as those
of Elsken, Metzen and Hutter 2019 are."""
FOUNDERS, OFFSPRING, PROPOSALS, CONTINUED = 8, 4, 20, 0.4
DISTILLED, FINAL = 0.2, 50
"""Epochs of distillation after approximate edits, and of the last training."""


@dataclass(frozen=True)
class Study:
    """A task and how its networks are searched; `networks` trained patiently make the budget at scale 1."""

    task: dict | None
    params: tuple
    patient: int
    networks: int
    epochs: int = 4
    batch: int = 64
    lr: float = 0.2
    augment: dict = field(default_factory=dict)
    share: float = 1.0


STUDIES = {
    "digits": Study(
        {"kind": "digits"}, params=(496, 50_000), patient=24, networks=20, batch=32, lr=0.1, augment={"shift": 1},
    ),
    "mnist1d": Study(
        {"kind": "npz", "file": str(DATA / "mnist1d" / "mnist1d.npz"), "as_image": [1, 1, 40]},
        params=(244, 20_000), patient=20, networks=20,
    ),
    "fashion": Study(None, params=(496, 50_000), patient=20, networks=12, share=0.1),
}  # fmt: skip
"""The smallest size is that of the smallest founder. Fashion-MNIST (None: the file is made here) has images of 14x14,
each pixel the mean of four, and an epoch of it is a tenth of the training rows, drawn anew for every epoch."""
CLASSES, FLOPS = 10, "2M"


# ------------------------------------------------------------------------------------------------------ the methods

METHODS = {
    "LEMONADE, inherited weights": ("lemonade", "weights", False),
    "LEMONADE, from scratch": ("lemonade", "none", False),
    "NSGA-II, from scratch": ("nsga2", "none", False),
    "random search, from scratch": ("random", "none", False),
    "NSGA-II, from scratch, patient": ("nsga2", "none", True),
}
"""Strategy, what children inherit, and whether trainings are long."""
OURS, TWIN, *RIVALS = METHODS


def recipe(study, method, seed, name, folder):
    """The recipe of one search; how long it goes on is the budget's matter."""
    kind, inherit, _ = METHODS[method]
    heirs = inherit == "weights"
    strategy = {
        "lemonade": {
            "population": FOUNDERS, "offspring": OFFSPRING, "proposals": PROPOSALS, "continued": CONTINUED * heirs,
            "scale": "auto",  # what the README's table was measured with; it tells what `log` changes
        },
        "nsga2": {"population": FOUNDERS, "offspring": OFFSPRING},
        "random": {"population": OFFSPRING},
    }[kind]  # fmt: skip
    low, high = study.params
    return {
        "name": name,
        "seed": seed,
        "task": study.task or halved(folder),
        "encoding": {
            **ENCODING, "bounds": {"min_params": low, "params": high, "flops": FLOPS},
            "initial": [] if kind == "random" else plain(folder),
        },
        "objectives": ["error", "params"],
        "strategy": {"kind": kind, "generations": 1, **strategy},
        "estimator": {
            "kind": "train", "epochs": epochs(study, method), "evaluate_every": 0, "share": study.share,
            "fresh": study.share < 1, "device": "cpu", "precision": "fp32", "batch_size": study.batch,
            "augment": study.augment, "optimizer": {"kind": "sgd", "lr": study.lr},
            "inherit": {"distill": {"epochs": DISTILLED}} if heirs else "none",
        },
        "pool": {"kind": "serial"},
        "final": {"epochs": FINAL, "inherit": "none"},
    }  # fmt: skip


def epochs(study, method):
    """Of one training."""
    return study.patient if METHODS[method][2] else study.epochs


def plain(folder):
    """Files of the plain founders."""
    found = []
    for width in WIDTHS:
        wide = [
            {"op": "conv", "channels": times * width, "kernel": 3, "norm": "batch", "activation": "relu"}
            for times in (1, 2, 4)
        ]
        pool = {"op": "max_pool", "kernel": 2, "stride": 2}
        layers = [{"op": "input"}, {"op": "output", "reduce": "mean"}, wide[0], pool, wide[1], pool, wide[2]]
        order = [0, 2, 3, 4, 5, 6, 1]
        genome = {
            "encoding": "dag",
            "format": 1,
            "layers": [{"mark": mark, **layer} for mark, layer in enumerate(layers)],
            "edges": [[len(layers) + at, *ends] for at, ends in enumerate(pairwise(order))],
        }
        path = (folder / f"plain-{width}.json").absolute()
        written(path, lambda part, genome=genome: part.write_text(json.dumps(genome), encoding="utf-8"))
        found.append(str(path))
    return found


def halved(folder):
    """Fashion-MNIST at half the side, in a file that is made once."""
    path = (folder / "fashion-14x14.npz").absolute()
    if not path.exists():
        whole = task.build(task.FashionMnistSettings())
        rows, (x_test, y_test) = whole.load(0), whole.load_test(0)
        x, y = np.concatenate([rows.x_train, rows.x_valid]), np.concatenate([rows.y_train, rows.y_valid])
        written(path, lambda part: np.savez(part, x=small(x), y=y, x_test=small(x_test), y_test=y_test))
    return {"kind": "npz", "file": str(path), "layout": "nchw", "validation": 5000}


def written(path, write):
    """A whole file or none, since another process may look for it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{os.getpid()}-{path.name}")
    write(part)
    part.replace(path)


def small(x):
    """Images (n, 1, h, w) with each pixel the mean of four, uint8."""
    count, _, height, width = x.shape
    return x.reshape(count, 1, height // 2, 2, width // 2, 2).mean((3, 5)).round().astype(np.uint8)


def searched(study, method, seed, scale, name, runs):
    """The run of one search, begun, gone on with or read, whatever is needed."""
    wanted, folder = recipe(study, method, seed, name, runs / "given"), runs / name
    run = evonas.open(folder) if folder.exists() else evonas.start(wanted, runs=runs)
    kept = run.recipe.model_copy(update={"strategy": run.recipe.strategy.model_copy(update={"generations": 1})})
    if kept != recipes.read(wanted):
        raise SystemExit(f"{folder} was made with other settings: give another --runs")
    if run.status == "interrupted":
        run = evonas.resume(run)
    epoch = epoch_samples(study, run)
    most = OFFSPRING * epoch * (epochs(study, method) + DISTILLED * (METHODS[method][1] == "weights"))
    while (more := int((budget(study, scale, epoch) - sum(samples(study, run))) // most)) > 0:
        run = evonas.resume(run, generations=f"+{more}")
    return run


def epoch_samples(study, run):
    """Samples of one epoch: batches are full."""
    return round(study.share * run.about["task"]["sizes"]["train"]) // study.batch * study.batch


def budget(study, scale, epoch):
    return round(study.networks * scale) * study.patient * epoch


def samples(study, run):
    """Trained samples by generation, those of distillation too; a training that failed counts in full."""
    full = run.recipe.estimator.epochs * epoch_samples(study, run)
    spent = [0] * len(run.generations())
    for row in run.individuals():
        spent[row.birth] += row.cost.get("samples", full)
    return spent


# ----------------------------------------------------------------------------------------------------- what they are


def volume(study, points):
    """The share of the rectangle that (error, parameters) dominate."""
    low, high = map(log10, study.params)
    guess = 1 - 1 / CLASSES
    losses = [[error, log10(params)] for error, params in points]
    return pareto.hypervolume(losses, [guess, high]) / (guess * (high - low)) if losses else 0.0


def volumes(study, run):
    """The hypervolume after every generation."""
    rows = [row for row in run.individuals() if row.status == "ok"]
    return [
        volume(study, [(row.values["error"], row.values["params"]) for row in rows if row.birth <= generation])
        for generation in range(len(run.generations()))
    ]


def on_test_rows(study, run):
    """The front's hypervolume with the search's own weights, measured on rows that no search sees."""
    data, (x, y) = run.task.load(run.recipe.seed), run.task.load_test(run.recipe.seed)
    shape = (1, -1, *[1] * (x.ndim - 2))
    inputs = torch.from_numpy((x - data.mean.reshape(shape)) / data.std.reshape(shape)).float()
    points = []
    for row in run.front():
        with torch.inference_mode():
            told = torch.cat([run.network(row.id)(part) for part in inputs.split(500)]).argmax(1).numpy()
        points.append((float(np.mean(told != y)), row.values["params"]))
    return volume(study, points)


def trained_anew(study, run):
    """The hypervolume of five of the front on test rows after the recipe's final training from scratch."""
    tested = [row for row in evonas.test(run, pick=5).front() if row.tested]
    return volume(study, [(row.tested["error"], row.values["params"]) for row in tested])


@dataclass(frozen=True)
class Result:
    """What one search reached: hypervolumes and samples so far by generation, and the rest."""

    volumes: list
    samples: list
    networks: int
    failed: int
    seconds: float
    test: float
    anew: float | None

    @staticmethod
    def of(study, run, final):
        rows = run.individuals()
        return Result(
            volumes(study, run),
            list(accumulate(samples(study, run))),
            len(rows),
            sum(row.status != "ok" for row in rows),
            sum(one["seconds"] for one in run.generations()),
            on_test_rows(study, run),
            trained_anew(study, run) if final else None,
        )

    def samples_to(self, volume):
        """Trained samples at the end of the first generation that reaches a hypervolume."""
        return next((spent for spent, now in zip(self.samples, self.volumes, strict=True) if now >= volume), inf)


# -------------------------------------------------------------------------------------------------------- the tables


def spread(values, digits=3):
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def report(name, results, final):
    """Tables of one task; `results[method]` holds those of each seed."""
    seeds = len(results[OURS])
    head = ["method", "hypervolume", "on test rows", *["trained anew, test rows"] * final, "samples", "networks", "s"]
    print(f"\n## {name}, {seeds} seeds\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for method, found in results.items():
        cells = [spread([one.volumes[-1] for one in found]), spread([one.test for one in found])]
        if final:
            cells.append(spread([one.anew for one in found]))
        cells += [spread([one.samples[-1] for one in found], 0), spread([one.networks for one in found], 0)]
        cells += [spread([one.seconds for one in found], 0)]
        failed = sum(one.failed for one in found)
        print(f"| {method}{f' ({failed} failed)' * (failed > 0)} | {' | '.join(cells)} |")
    ratios = [
        ours.samples_to(twin.volumes[-1]) / twin.samples[-1]
        for ours, twin in zip(results[OURS], results[TWIN], strict=True)
    ]
    told = ", ".join("never" if ratio == inf else f"{ratio:.2f}" for ratio in ratios)
    average = "-" if inf in ratios else f"{statistics.mean(ratios):.2f}"
    print(f"\nSamples until the twin's final hypervolume, as a share of the twin's: {told}; mean {average}.")
    for rival in RIVALS:
        pairs = list(zip(results[OURS], results[rival], strict=True))
        wins = {
            "validation": sum(ours.volumes[-1] > other.volumes[-1] for ours, other in pairs),
            "test rows": sum(ours.test > other.test for ours, other in pairs),
        }
        if final:
            wins["trained anew"] = sum(ours.anew > other.anew for ours, other in pairs)
        counts = ", ".join(f"{kind} {count} of {seeds}" for kind, count in wins.items())
        print(f"Higher than {rival}: {counts}.")


@cache
def machine():
    """Versions and processor."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    processor = f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
    return f"evonas {metadata.version('evonas')}, torch {torch.__version__}, {processor}, one thread"


def _cpuinfo():
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=STUDIES, default=["digits", "mnist1d"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--scale", type=float, default=1.0, help="of the budget")
    parser.add_argument("--runs", type=Path, default=Path("runs/inheritance"))
    parser.add_argument("--final", action="store_true", help="train five of every front anew, for the test rows")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    for name in chosen.tasks:
        results = {method: [] for method in METHODS}
        for seed in range(chosen.first, chosen.first + chosen.seeds):
            for method in METHODS:
                kind, inherit, patient = METHODS[method]
                called = f"{name}-{kind}-{inherit}{'-patient' * patient}-x{chosen.scale:g}-{seed}".replace(".", "_")
                run = searched(STUDIES[name], method, seed, chosen.scale, called, chosen.runs)
                results[method].append(Result.of(STUDIES[name], run, chosen.final))
                last = results[method][-1]
                print(f"- {called}: {last.volumes[-1]:.3f}, {last.samples[-1]:,} samples", flush=True)
        report(name, results, chosen.final)


if __name__ == "__main__":
    main()
