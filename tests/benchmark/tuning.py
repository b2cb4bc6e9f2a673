"""Gradient steps of a whole population of different networks against each network alone in torch, in the same run.

    python tests/benchmark/tuning.py [population] [batch] [steps]

One thread. Every way takes Adam steps on the mean squared error of the same networks (about 35 nodes, 88 links, six
activations) over the same inputs; ways take turns and the fastest turn of each counts, because machines are shared.
Each network alone is dense matrices per level, autograd and torch's fused Adam, measured on a few networks.
Goal: the population at once is at least 50 times as fast as each network alone."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from evonas.encoding.population import ACTIVATIONS
from evonas.phenotype.population import Programs, pack
from evonas.phenotype.tuning import chosen_kernel, fit
from tests.unit.networks import activation, grown

TURNS, SAMPLE = 5, 6


class Alone(torch.nn.Module):
    """One network as dense matrices, one per level, from all values before it."""

    def __init__(self, programs: Programs, network: int) -> None:
        super().__init__()
        p, (first, last) = programs, (int(edge) for edge in programs.node_offsets[network : network + 2])
        level, kind = p.level[first:last], p.activation[first:last]
        edges = [0, *(np.flatnonzero(np.diff(level)) + 1).tolist(), last - first]
        self.levels = torch.nn.ParameterList()
        self.biases = torch.nn.ParameterList()
        self.masks, self.responses, self.stretches = [], [], []
        for a, z in pairwise(edges):
            weight = torch.zeros(p.inputs + a, z - a)
            for node in range(a, z):
                own = slice(*(int(edge) for edge in p.link_offsets[first + node : first + node + 2]))
                weight[p.link_slot[own].copy(), node - a] = torch.tensor(p.link_weight[own].copy())
            self.levels.append(torch.nn.Parameter(weight))
            self.masks.append((weight != 0).float())
            self.biases.append(torch.nn.Parameter(torch.tensor(p.bias[first + a : first + z].copy())))
            self.responses.append(torch.tensor(p.response[first + a : first + z]))
            cuts = [0, *(np.flatnonzero(np.diff(kind[a:z])) + 1).tolist(), z - a]
            own_stretches = pairwise(cuts)
            self.stretches.append([(ACTIVATIONS[kind[a + c]], c, d) for c, d in own_stretches])
        self.outputs = torch.tensor(p.output_slot[network * p.outputs : (network + 1) * p.outputs], dtype=torch.long)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = x
        for weight, mask, bias, response, stretches in zip(
            self.levels, self.masks, self.biases, self.responses, self.stretches, strict=True
        ):
            z = bias + response * (values @ (weight * mask))
            values = torch.cat([values, *(activation(name, z[:, a:b]) for name, a, b in stretches)], 1)
        return values[:, self.outputs]


def alone(programs: Programs, x: torch.Tensor, y: torch.Tensor, steps: int) -> list[float]:
    """Steps of the first few networks, one after the other; the losses they end with."""
    losses = []
    for network in range(SAMPLE):
        module = Alone(programs, network)
        adam = torch.optim.Adam(module.parameters(), lr=0.001, fused=True)
        for _ in range(steps):
            adam.zero_grad()
            torch.nn.functional.mse_loss(module(x), y).backward()
            adam.step()
        losses.append(torch.nn.functional.mse_loss(module(x), y).item())
    return losses


def fastest(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each way's fastest turn; the first turn warms up and does not count."""
    seconds: dict[str, float] = {name: float("inf") for name in ways}
    for turn in range(TURNS + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn:
                seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds


def main(population: int = 150, batch: int = 64, steps: int = 100) -> None:
    torch.set_num_threads(1)
    genomes = grown(population)
    programs = pack(genomes)
    random = np.random.default_rng(0)
    x = random.normal(size=(batch, 8)).astype("f4")
    y = random.normal(size=(batch, 4)).astype("f4")
    few = max(2, steps // 20)

    def tuned(kernel: str, count: int) -> Callable[[], object]:
        return lambda: fit(genomes, programs, x, y, steps=count, lr=0.001, kernel=kernel)  # type: ignore[arg-type]

    work = {"each alone (torch)": SAMPLE * few, "population, torch": population * few}
    ways: dict[str, Callable[[], object]] = {
        "each alone (torch)": lambda: alone(programs, torch.tensor(x), torch.tensor(y), few),
        "population, torch": tuned("torch", few),
    }
    if chosen_kernel() == "c":
        work["population, C"], ways["population, C"] = population * steps, tuned("c", steps)
    seconds = fastest(ways)
    rate = {name: work[name] * batch / seconds[name] / 1e6 for name in ways}
    _, losses = fit(genomes, programs, x, y, steps=few, lr=0.001)
    apart = np.abs(losses[:SAMPLE] - alone(programs, torch.tensor(x), torch.tensor(y), few)).max()

    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(f"{population} networks, {len(programs.bias) / population:.0f} nodes and "
          f"{len(programs.link_slot) / population:.0f} links each, batch {batch}, Adam, one thread")  # fmt: skip
    print(f"{'':22} {'M sample-gradients/s':>22} {'ratio':>8}")
    for name, value in rate.items():
        print(f"{name:22} {value:22.3f} {value / rate['each alone (torch)']:7.1f}x")
    print(f"losses after {few} steps differ by at most {apart:.1e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
