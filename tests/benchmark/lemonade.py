"""What LEMONADE costs beside the training: the engine per child, the Pareto update, and inheriting.

    python tests/benchmark/lemonade.py [engine] [pareto] [inherit]

Processor time of one core. Goals: under 10 ms per child at a population of 300 (sampling by density, morphisms, hashes,
Pareto update, storing in a run folder); a Pareto update of 10,000 records in under 5 ms; carrying weights over and
building the network in under 2 % of a training epoch. For the tasks stand random rows of their shape and number."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

import evonas
from evonas import encoding, recipe
from evonas.core import Edit, Heritage, Job, Objective, State, stream
from evonas.encoding.dag import MUTATIONS, apply
from evonas.encoding.plan import Plan
from evonas.estimate import train as training
from evonas.estimate.data import stage
from evonas.estimate.train import TrainEstimator
from evonas.marks import MarkBook
from evonas.pool import Serial
from evonas.store import Store
from evonas.strategy.lemonade import Lemonade
from evonas.strategy.problem import Problem
from evonas.task.data import Data, TaskShape
from tests.benchmark.engine import Clock
from tests.unit.graphs import chain

POPULATION = 300

# ----------------------------------------------------------------------------------------------------------- engine


def known(genome: Any, plan: Plan) -> dict[str, float]:
    """An error that falls with the size and is a little different for every genome."""
    luck = int(genome.key[:8], 16) / 2**32
    return {"error": 1 / (1 + plan.params / 5e3 + plan.depth / 10) + 0.2 * luck}


def engine(proposals: int, offspring: int, children: int = 600) -> None:
    """A run on a free estimator; generations count from when the front is as large as the limit on."""
    clock, began = Clock(), [0.0, 0]
    names = ("ask", "tell", "cheap", "_varied", "_parents")
    for owner, methods in ((Lemonade, names), (Store, ("lay", "commit", "commit_generation", "collect"))):
        for name in methods:
            clock.wrap(owner, name)
    clock.wrap(Serial, "arrived")
    written = {
        "seed": 1,
        "task": {"kind": "digits"},
        "objectives": ["error", "params", {"name": "flops", "direction": "max"}],
        "encoding": {"kind": "dag", "mutations": "morphisms", "bounds": {"params": "100k", "flops": "10M"}},
        "strategy": {
            "kind": "lemonade", "population": POPULATION, "limit": POPULATION, "proposals": proposals,
            "offspring": offspring, "crossover": 0.1, "generations": 10_000,
        },
        "estimator": {"kind": "lookup", "function": f"{Path(__file__).resolve()}:known"},
        "pool": {"kind": "serial"},
    }  # fmt: skip
    layers: list[int] = []

    class Enough(Exception):
        pass

    tell = Lemonade.tell

    def told(self: Lemonade, state: State, scored: Any) -> State:
        after = tell(self, state, scored)
        layers[:] = [len(one.genome.layers) - 2 for one in after.population]  # type: ignore[attr-defined]
        return after

    Lemonade.tell = told  # type: ignore[method-assign]

    def observer(progress: Any) -> None:
        if progress.kind != "generation":
            return
        if not began[1] and len(layers) >= POPULATION:
            began[:] = time.process_time(), progress.evaluations
            clock.seconds.clear()
        if began[1] and progress.evaluations - began[1] >= children:
            raise Enough

    try:
        with tempfile.TemporaryDirectory() as folder:
            evonas.start(written, runs=Path(folder), observer=observer, allow_code=True)
    except Enough:
        spent = time.process_time() - began[0]
    finally:
        Lemonade.tell = tell  # type: ignore[method-assign]
    own = spent - clock.seconds["arrived"]
    each = 1e3 * own / children
    print(f"\n{offspring} children of {proposals} proposals; {len(layers)} on the front, {np.mean(layers):.0f} layers")
    print(f"  {each:.2f} ms per child, {each * offspring / proposals:.2f} ms per proposal")
    for name, seconds in clock.seconds.items():
        print(f"    {name:18} {1e3 * seconds / children:7.2f} ms per child")


# ----------------------------------------------------------------------------------------------------------- pareto


def least(work: Callable[[], Any], rounds: int = 9) -> float:
    """Least processor seconds of some calls."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def pareto(records: int = 10_000) -> None:
    """The front of so many records, as `tell` finds it."""
    print(f"\nfront of {records} records")
    rng = np.random.default_rng(1)
    for count in (2, 3, 4):
        objectives = tuple(Objective(f"f{i}") for i in range(count))
        problem = Problem(None, objectives, 1, lambda genome: True)  # type: ignore[arg-type]
        losses, ids = rng.random((records, count)), np.arange(records)
        sphere = np.abs(rng.normal(size=(records, count)))
        sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
        for what, rows in (("random", losses), ("all on the front", 2 - sphere)):
            found = len(problem.front(ids, rows))
            seconds = least(partial(problem.front, ids, rows))
            print(f"  {count} objectives, {what:17} {found:6} non-dominated {1e3 * seconds:8.2f} ms")


# ---------------------------------------------------------------------------------------------------------- inheriting


WIDTHS = ((8, 16), (16, 32, 32), (32, 64, 64))
"""Filters of three networks; the first layer halves the image."""
KINDS = ("widen", "insert_block", "narrow", "separate", "remove_layer")
TASKS = {"fashion-mnist": ((1, 28, 28), 54_000, 50), "digits": ((1, 8, 8), 1_149, 1)}
"""Shape and number of training rows, and how many times fewer an epoch is measured on."""


def layered(widths: tuple[int, ...]) -> Any:
    """A chain of convolutions with batch norms."""
    layer = {"op": "conv", "kernel": 3, "norm": "batch", "activation": "relu"}
    return chain(*[{**layer, "channels": width, "stride": 2 if i == 0 else 1} for i, width in enumerate(widths)])


def random_rows(shape: tuple[int, ...], count: int) -> Data:
    """Rows as a task has them; what is in the images costs nothing."""
    draws = np.random.default_rng(0)
    x, y = draws.integers(0, 256, (count, *shape[1:], 1), dtype=np.uint8), draws.integers(0, 10, count)
    ones, zeros = np.ones(1, np.float32), np.zeros(1, np.float32)
    known = TaskShape(shape, 10, "classification", tuple(map(str, range(10))))
    return Data(x, y, x[:8], y[:8], 127 * ones, 70 * ones, zeros, ones, known)


def estimator(kind: str, folder: Path, count: int, inherit: Any = "none") -> TrainEstimator:
    """An estimator on so many random rows."""
    stage(random_rows(TASKS[kind][0], count), folder)
    section = {"kind": "train", "epochs": 1, "evaluate_every": 0, "device": "cpu", "precision": "fp32"}
    written = {"task": {"kind": kind}, "objectives": ["error"], "estimator": {**section, "inherit": inherit}}
    return TrainEstimator(recipe.read(written).model_dump(mode="json"), folder)


def edited(space: Any, genome: Any, kind: str) -> tuple[Any, tuple[Edit, ...]]:
    """A child by one edit of this kind."""
    marks = MarkBook()
    marks.reserve(genome.newest + 1)
    for at in range(100):
        edit = MUTATIONS[kind][0](space, genome, stream(at, kind), marks)
        if edit is not None:
            return apply(genome, edit), (edit,)
    raise AssertionError(f"no place for {kind}")


def inheriting(rounds: int = 3) -> None:
    """Seconds of carrying and building by morphism, beside those of an epoch."""
    print("\nan epoch, and carrying and building as a share of it")
    training.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    for kind, (shape, count, times) in TASKS.items():
        space: Any = encoding.build(encoding.TABLE["dag"](), shape, 10)
        with tempfile.TemporaryDirectory() as place:
            plain = estimator(kind, Path(place) / "plain", count // times)
            heir = estimator(kind, Path(place) / "heir", training.PROBE_ROWS, {"epochs": 1})
            for widths in WIDTHS:
                genome = layered(widths)
                scratch = [plain.estimate(Job(0, 1, space.to_json(genome))) for _ in range(rounds)]
                epoch = times * min(one.estimate.cost["seconds"] for one in scratch)
                shares = [(op, carried(space, heir, genome, op, rounds, Path(place))) for op in KINDS]
                told = "; ".join(f"{op} {1e3 * seconds:.1f} ms {seconds / epoch:.2%}" for op, seconds in shares)
                print(f"  {kind}, {space.decode(genome).params:,} params: epoch {epoch:.2f} s; {told}", flush=True)


def carried(space: Any, heir: TrainEstimator, genome: Any, op: str, rounds: int, place: Path) -> float:
    """Least seconds of carrying a parent's weights over into a child by one edit, and building that."""
    trained = heir.estimate(Job(0, 1, space.to_json(genome))).weights
    assert trained is not None
    (path := place / "weights").write_bytes(trained)
    parent = Heritage(space.to_json(genome), str(path), hashlib.sha256(trained).hexdigest(), 0)
    child, edits = edited(space, genome, op)
    job = Job(1, 1, space.to_json(child), parents=(parent,), edits=edits)
    return min(heir.estimate(job).estimate.cost["carry_seconds"] for _ in range(rounds))


def main(*parts: str) -> None:
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    if not parts or "engine" in parts:
        engine(32, 8)
        engine(300, 300)
    if not parts or "pareto" in parts:
        pareto()
    if not parts or "inherit" in parts:
        inheriting()


if __name__ == "__main__":
    main(*sys.argv[1:])
