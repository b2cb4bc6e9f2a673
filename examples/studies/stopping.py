"""What ending hopeless trainings early saves, and whether the best network is kept.

    python examples/studies/stopping.py [--tasks digits fashion] [--searches 50] [--networks 48] [--curves FOLDER]

Networks of the dag encoding are drawn and trained to their end once: scikit-learn's digits for 24 epochs, and 3 % of
Fashion-MNIST's rows for 16, with a cosine schedule. Their learning curves are kept in the folder. Then random searches
are replayed over them, each with its own draw of networks, in generations of eight: a network is judged after every
epoch beside those of earlier generations that went to their end, exactly as `estimator.stop` does in a run. A search
keeps the best if none of its networks that were ended would have been better than the best of the others.

The first run trains for a quarter of an hour for each task on one core; a replay takes a few minutes."""

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evonas import encoding, run, strategy, task
from evonas import recipe as recipes
from evonas.core import Job, generator, seed_of
from evonas.estimate import Stop
from evonas.estimate.stopping import Finished, Judge, peers
from evonas.estimate.train import TrainEstimator
from evonas.strategy.problem import begin

IMAGES = {
    "kind": "dag", "ops": ["conv", "max_pool", "avg_pool", "identity"], "kernels": [3, 5], "layers": [1, 8],
    "channels": [4, 6, 8, 12, 16, 24, 32],
}  # fmt: skip
BATCH = 8
"""Networks of a generation."""

RULES = {
    "median rule": Stop(probability=None),
    "extrapolation, P < 0.01": Stop(median=False, probability=0.01),
    "extrapolation, P < 0.02": Stop(median=False),
    "extrapolation, P < 0.05": Stop(median=False, probability=0.05),
    "both, the defaults": Stop(),
}


@dataclass(frozen=True)
class Study:
    """A task, the networks drawn for it, and how they are trained."""

    task: dict
    encoding: dict
    epochs: int
    pool: int
    share: float = 1.0


STUDIES = {
    "digits": Study(
        {"kind": "digits"},
        {"initial_layers": [1, 3], "bounds": {"min_params": 200, "params": 10_000, "flops": "400k"}}, epochs=24,
        pool=160,
    ),
    "fashion": Study(
        {"kind": "fashion-mnist", "validation": 1500},
        {"initial_layers": [2, 4], "bounds": {"min_params": 300, "params": 20_000, "flops": "500k"}}, epochs=16,
        pool=120, share=0.03,
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the curves


def recipe(name, study):
    """The recipe whose first generation is trained."""
    return recipes.read({
        "name": name, "seed": 1, "task": study.task, "encoding": IMAGES | study.encoding, "objectives": ["error"],
        "strategy": {"kind": "random", "population": study.pool, "generations": 1},
        "estimator": {
            "kind": "train", "epochs": study.epochs, "share": study.share, "device": "cpu", "precision": "fp32",
            "optimizer": {"kind": "sgd", "lr": 0.1},
        },
    })  # fmt: skip


def curves(name, study, folder):
    """Validation errors epoch by epoch of every network that could be trained, (networks, epochs)."""
    file = folder / f"{name}.json"
    known = json.loads(file.read_text()) if file.exists() else []
    if len(known) < study.pool:
        chosen = recipe(name, study)
        trainer, shape = TrainEstimator(chosen.model_dump(mode="json")), task.build(chosen.task).shape()
        space = encoding.build(chosen.encoding, shape.input, shape.outputs)
        born, _ = strategy.build(chosen.strategy, run.problem(chosen, space)).ask(begin())
        folder.mkdir(parents=True, exist_ok=True)
        for one in born[len(known) :]:
            told = trainer.estimate(Job(one.id, seed_of(1, "estimate", one.id), space.to_json(one.genome))).estimate
            known.append({"id": one.id, "status": told.status, "curve": [at.get("valid_error") for at in told.curve]})
            file.write_text(json.dumps(known))
            print(f"- {name}: {len(known)} of {study.pool} trained", end="\r", flush=True)
    return np.array([one["curve"] for one in known if one["status"] == "ok" and None not in one["curve"]])


# ------------------------------------------------------------------------------------------------------- the replay


@dataclass(frozen=True)
class Outcome:
    """Of a search: the share of the epochs saved, and how much worse its best network is than the best that was."""

    saved: float
    lost: float


def searched(pool, order, rule):
    """One search over some of the curves, in this order."""
    epochs, finished, spent = pool.shape[1], [], 0
    for first in range(0, len(order), BATCH):
        passed = tuple(finished)
        for at in order[first : first + BATCH].tolist():
            judge = Judge.of(rule, epochs, 1, peers(passed, (), False, {}), at)
            end = epochs if judge is None else ended(judge, pool[at])
            spent += end
            if end == epochs:
                finished.append(Finished(at, tuple(pool[at].tolist()), ()))
    best, kept = min(pool[at][-1] for at in order), min(one.errors[-1] for one in finished)
    return Outcome(1 - spent / (epochs * len(order)), kept - best)


def ended(judge, errors):
    """The epoch after which a training is ended, its last one if it is not."""
    points = [{"epoch": at + 1, "valid_error": float(error)} for at, error in enumerate(errors)]
    return next((at for at in range(1, len(points)) if judge(points[:at])), len(points))


def report(name, pool, rule, told, searches, networks):
    """One line: what a rule saves over many searches."""
    draws = (generator(seed, "replay").permutation(len(pool))[:networks] for seed in range(searches))
    found = [searched(pool, order, rule) for order in draws]
    saved = [one.saved for one in found]
    kept = sum(one.lost <= 0 for one in found)
    lost = statistics.mean(one.lost for one in found)
    spread = statistics.stdev(saved) if searches > 1 else 0.0
    print(f"| {name} | {told} | {statistics.mean(saved):.1%} +- {spread:.1%} | {kept} of {searches} | {lost:.5f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--searches", type=int, default=50)
    parser.add_argument("--networks", type=int, default=48, help="of each search")
    parser.add_argument("--curves", type=Path, default=Path("runs/stopping"), help="where learning curves are kept")
    chosen = parser.parse_args()
    pools = {name: curves(name, STUDIES[name], chosen.curves) for name in chosen.tasks}
    print(f"\n{chosen.searches} searches of {chosen.networks} networks in generations of {BATCH}\n")
    print("| task | rule | epochs saved | best kept | error lost |\n| :--- | :--- | ---: | ---: | ---: |")
    for name, pool in pools.items():
        for told, rule in RULES.items():
            report(name, pool, rule, told, chosen.searches, chosen.networks)


if __name__ == "__main__":
    main()
