"""NEAT with a fitness function of your own, which takes the whole population at once.

    python examples/own_fitness.py

Networks of one input learn a wave. `networks(x)` gives the outputs of all networks for all rows in one call, a thousand
times faster than one network at a time; `takes: network` would hand them over one by one."""

import tempfile
from pathlib import Path

import numpy as np

import evonas

X = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
WAVE = 0.5 + 0.4 * np.sin(4 * X[:, 0])


def score(networks):
    """Fitness and error of every network, arrays of (networks,); outputs are (networks, rows, outputs)."""
    error = np.square(networks(X)[:, :, 0] - WAVE).mean(axis=1)
    return {"fitness": 1 / (1 + error), "error": error}


RECIPE = {
    "task": {"kind": "fitness", "function": f"{Path(__file__).resolve()}:score", "inputs": 1, "outputs": 1},
    "encoding": {
        "kind": "neat",
        "activation": {"default": "random", "options": ["sigmoid", "tanh", "sin", "gauss"]},
        "weight": {"power": 0.5},
        "bias": {"power": 0.5},
    },
    "objectives": ["fitness"],
    "strategy": {"kind": "neat", "population": 500, "generations": 60, "goal": {"fitness": 0.999}},
    "estimator": {"kind": "population"},
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run = evonas.start(RECIPE, name="wave", runs=folder, allow_code=True)  # it imports this file
        best = run.front()[0]
        print(f"individual {best.id}: {best.summary}, mean squared error {run.estimate(best.id).values['error']:.5f}")
        print(f"after {run.generations()[-1]['evaluations']:,} networks")
        network = run.network(best.id)  # a torch.nn.Module
        print(f"as a PyTorch module it has {sum(p.numel() for p in network.parameters() if p.requires_grad)} weights")
