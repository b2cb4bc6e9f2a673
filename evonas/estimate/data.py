"""A task's rows as an estimator takes them, laid once into a folder from which all workers read them without a copy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from evonas import estimate, task
from evonas.core import DataError, generator
from evonas.task.data import Array, Data, TaskShape

__all__ = ["Data", "part", "prepare", "stage", "staged"]

ARRAYS = ("x_train", "y_train", "x_valid", "y_valid", "mean", "std", "target_mean", "target_std")


def prepare(recipe: Mapping[str, Any], final: bool = False) -> Data:
    """The recipe's rows with images as (n, h, w, c): what a search may see, or with `final` the test rows held out.

    Raises DataError, RecipeError."""
    source = task.build(estimate.read(task.TABLE, recipe["task"], "task"))
    seed = int(recipe["seed"])
    data = source.load(seed)
    section = recipe["final"] if final else recipe["estimator"]
    if final:
        x, y = source.load_test(seed)
        data = replace(_joined(data) if section.get("validation", True) else data, x_valid=x, y_valid=y)
    if not section.get("fresh"):
        data = _shared(data, float(section.get("share", 1.0)), seed)
    return replace(data, x_train=_last(data.x_train), x_valid=_last(data.x_valid))


def _joined(data: Data) -> Data:
    """Training and validation rows in one."""
    return replace(
        data,
        x_train=np.concatenate([data.x_train, data.x_valid]),
        y_train=np.concatenate([data.y_train, data.y_valid]),
    )


def _shared(data: Data, share: float, seed: int) -> Data:
    """A share of the training rows, the same for every individual of a run."""
    if share >= 1.0:
        return data
    kept = part(len(data.x_train), share, seed)
    return replace(data, x_train=data.x_train[kept], y_train=data.y_train[kept])


def part(count: int, share: float, seed: int) -> Array:
    """Positions of a share of some rows, ascending; those of a smaller share are among those of a larger one."""
    return np.sort(generator(seed, "share").permutation(count)[: max(1, round(share * count))])


def _last(x: Array) -> Array:
    """Images with channels last; one channel needs no copy."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def stage(data: Data, folder: Path) -> None:
    """Lays the rows into a folder as .npy files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(data, name), allow_pickle=False)
    (folder / "shape.json").write_text(json.dumps(asdict(data.shape)), encoding="utf-8")


def staged(folder: Path) -> Data:
    """The rows that `stage` laid into a folder, mapped into memory and shared by all that do so. Raises DataError.

    The mapping is copy-on-write since torch takes no read-only arrays; nothing writes to it."""
    try:
        shape = json.loads((folder / "shape.json").read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in ARRAYS}
    except (OSError, ValueError) as error:
        raise DataError(f"the workers' data in {folder} cannot be read: {error}; start the run again") from None
    known = TaskShape(tuple(shape["input"]), shape["outputs"], shape["kind"], tuple(shape["labels"]))
    return Data(**{name: np.asarray(array) for name, array in arrays.items()}, shape=known)
