"""Training throughput beside a hand-written PyTorch loop, and what a worker process costs per estimate.

    python tests/benchmark/training.py [rounds]

Both loops train the same networks from the same weights on preloaded random images, in turn, in one process on one
thread; ratios come from the best of some rounds of each. Goals: a throughput of at least 0.95 of the plain loop's, less
than 30 ms per estimate in a process of its own."""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evonas import encoding, estimate, pool
from evonas.core import Job, stream
from evonas.encoding.plan import Plan
from evonas.estimate import Optimizer, TrainSettings
from evonas.estimate.train import Limits, Mode, Rows, train
from evonas.marks import Marks
from evonas.phenotype import network
from evonas.task.data import Data, TaskShape

CPU = torch.device("cpu")
BATCH, COUNT = 128, 1280


def synthetic(shape: tuple[int, ...]) -> Data:
    """Random images (n, h, w, c) or features (n, f), as the estimator takes them."""
    draws = np.random.default_rng(0)
    count = COUNT * (10 if len(shape) == 1 else 1)
    x = draws.integers(0, 256, (count, *shape[1:], shape[0]), dtype=np.uint8)
    if len(shape) == 1:
        x = x.astype(np.float32)
    y = draws.integers(0, 10, count)
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    mean, std = np.full(shape[0], 127, np.float32), np.full(shape[0], 70, np.float32)
    known = TaskShape(shape, 10, "classification", tuple(map(str, range(10))))
    return Data(x, y, x[:8], y[:8], mean, std, zero, one, known)


def plans(shape: tuple[int, ...], count: int) -> list[Plan]:
    """Random networks of growing size."""
    space: Any = encoding.build(encoding.TABLE["dag"](), shape, 10)
    rng, book = stream(1, "benchmark"), Marks().open()
    found: list[Plan] = []
    while len(found) < count:
        genome = space.random(rng, book)
        for _ in range(6 * len(found)):
            changed = space.mutate(genome, rng, book)
            genome = changed[0] if changed else genome
        plan = space.decode(genome)
        if plan.flops < 5e6:
            found.append(plan)
    return found


def plain(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """What one writes by hand for speed: normalised floats preloaded, channels last, fused SGD; no limits, no curve."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    net.train()
    order = torch.randperm(len(x))
    for start in range(0, len(x), BATCH):
        chosen = order[start : start + BATCH]
        loss = nn.functional.cross_entropy(net(x[chosen]), y[chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def best(rounds: int, *candidates: partial[Any]) -> list[float]:
    """The shortest time of each, taken in turn."""
    shortest = [float("inf")] * len(candidates)
    for _ in range(rounds + 1):
        for i, candidate in enumerate(candidates):
            began = time.perf_counter()
            candidate()
            shortest[i] = min(shortest[i], time.perf_counter() - began)
    return shortest


def throughput(rounds: int) -> None:
    settings = TrainSettings(epochs=1, batch_size=BATCH, evaluate_every=0, optimizer=Optimizer(lr=0.01))
    mode = Mode(CPU, None, True)
    print(f"{'network':28} {'plain':>12} {'evonas':>12}   ratio")
    for shape in ((64,), (1, 28, 28), (3, 32, 32)):
        rows = Rows.on(CPU, synthetic(shape))
        x, y = rows.inputs(rows.x_train), rows.y_train
        for plan in plans(shape, 4):
            nets = [mode.place(network.build(plan, 1)) for _ in range(2)]
            ours = partial(train, nets[1], rows, settings, mode, 1, Limits(3600, None))
            times = best(rounds, partial(plain, nets[0], x, y), ours)
            rates = [len(x) / seconds for seconds in times]
            name = f"{shape} {plan.params:,} params"
            print(f"{name:28} {rates[0]:9.0f}/s {rates[1]:9.0f}/s   {rates[1] / rates[0]:.2f}")


def overhead(rounds: int) -> None:
    """Wall time of an estimate in a process of its own, less what the estimate itself took."""
    recipe = {
        "seed": 0,
        "task": {"kind": "digits"},
        "encoding": {"kind": "dag"},
        "objectives": ["error"],
        "estimator": TrainSettings(epochs=1, share=0.05, evaluate_every=0).model_dump(mode="json"),
    }
    space: Any = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    genome = space.to_json(space.random(stream(1, "benchmark"), Marks().open()))
    jobs = [Job(i, i, genome) for i in range(20)]
    for what, retire in (("a process for each estimate", 0.0), ("one process for all", float("inf"))):
        pool.Processes.RETIRE = retire
        with tempfile.TemporaryDirectory() as folder:
            workers = pool.build(pool.ProcessesSettings(workers=1), recipe, Path(folder) / "scratch")
            for _ in pool.drain(workers, jobs[:2]):
                pass
            costs = []
            for _ in range(rounds):
                began = time.perf_counter()
                outcomes = [outcome for batch in pool.drain(workers, jobs) for outcome in batch]
                inside = sum(outcome.estimate.cost["seconds"] for outcome in outcomes)
                costs.append((time.perf_counter() - began - inside) / len(jobs))
            workers.close()
        print(f"{what:28} {min(costs) * 1e3:.1f} ms per estimate beside the training")


if __name__ == "__main__":
    torch.set_num_threads(1)
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    throughput(repeats)
    overhead(repeats)
    print(f"the machine has room for {estimate.capacity({})} workers")
