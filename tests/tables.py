"""Small tables of networks for tests of benchmarks and studies: cells of three edges with three operations each."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPS = ("none", "skip", "conv_3x3")
ENCODING: dict[str, Any] = {"kind": "cell", "space": "nasbench201", "nodes": 2, "ops": list(OPS)}
KEYS = np.array(list(product(range(3), repeat=3)), dtype=np.uint8)
"""The code of each choice, (27, 3)."""


def columns(seed: int = 0) -> dict[str, NDArray[Any]]:
    """A metric at two fidelities, one of them with trials, sizes, and times, a row for each of the 27 networks."""
    rng = np.random.default_rng(seed)
    true = 60 + 10 * KEYS.sum(axis=1) / 6 + rng.normal(0, 3, 27)
    trials = true[:, None] + rng.normal(0, 0.5, (27, 3))
    trials[::2, 2] = np.nan
    return {
        "ops": KEYS, "early": true + rng.normal(0, 2, 27), "late": trials, "test": true,
        "size": 0.1 + KEYS.sum(axis=1) * 0.3, "time": 100.0 + 50 * KEYS.sum(axis=1),
    }  # fmt: skip


def written(folder: Path, **changes: NDArray[Any] | None) -> Path:
    """The table as an .npz file, with some columns changed or, where None, left out."""
    held = {name: values for name, values in (columns() | changes).items() if values is not None}
    path = folder / "table.npz"
    np.savez(path, **held)
    return path


def recipe(file: Path | str, **sections: Any) -> dict[str, Any]:
    """A recipe over the table: error after 4 epochs, regularised evolution, 20 evaluations."""
    return {
        "task": {
            "kind": "tabular", "file": str(file), "key": {"column": "ops", "words": list(OPS)},
            "metrics": {"error": {"column": {"4": "early", "20": "late"}, "complement": 100}, "params": "size"},
            "report": {"test": "test"}, "cost": {"column": "time", "epochs": 20},
        },
        "encoding": ENCODING,
        "objectives": ["error"],
        "strategy": {"kind": "regularized", "population": 5, "sample": 2, "generations": 1000, "speciation": None},
        "estimator": {"kind": "lookup", "epochs": 4},
        "budget": {"evaluations": 20},
        **sections,
    }  # fmt: skip
