"""What every kind of task keeps: a split fixed by the seed, no test row in the search, checked and lazily read data."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evonas import task
from evonas.core import Settings
from evonas.task.data import Array, Data, Task
from evonas.validation import descriptions

RNG = np.random.default_rng(0)


def write_idx(path: Path, values: Array) -> None:
    """uint8 values as a gzipped IDX file."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(extent.to_bytes(4, "big") for extent in values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes(), 1))


def labels(count: int, classes: int) -> Array:
    return np.arange(count) % classes


def images(count: int, *shape: int) -> Array:
    """Distinct uint8 images, so that a row can be told from any other."""
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def fashion(folder: Path) -> dict[str, Any]:
    for part, count in (("train", 60), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images(count, 28, 28))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels(count, 10))
    return {"folder": folder, "validation": 20}


def cifar(folder: Path) -> dict[str, Any]:
    for name in [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]:
        records = np.hstack([labels(20, 10)[:, None], images(20, 3072)])
        (folder / name).write_bytes(records.astype(np.uint8).tobytes())
    return {"folder": folder}


def npz(folder: Path) -> dict[str, Any]:
    np.savez(folder / "set.npz", x=RNG.normal(size=(40, 6)), y=labels(40, 4))
    return {"file": folder / "set.npz", "as_image": [1, 2, 3]}


def arrays(folder: Path) -> dict[str, Any]:
    sizes = {"x": (40, 5, 4), "y": (40, 2), "x_test": (10, 5, 4), "y_test": (10, 2)}
    for name, size in sizes.items():
        np.save(folder / f"{name}.npy", RNG.normal(size=size))
    return {name: folder / f"{name}.npy" for name in sizes}


def table(folder: Path) -> dict[str, Any]:
    lines = ["length,width,name"] + [f"{RNG.normal()},{RNG.normal()},{'abc'[k % 3]}" for k in range(30)]
    (folder / "set.csv").write_text("\n".join(lines))
    return {"file": folder / "set.csv", "target": "name"}


def image_folder(folder: Path) -> dict[str, Any]:
    from PIL import Image

    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for k in range(8):
            Image.fromarray(images(1, 6, 5, 3)[0]).save(folder / name / f"{k}.png")
    return {"folder": folder}


def function(folder: Path) -> dict[str, Any]:
    (folder / "mine.py").write_text(
        "import numpy as np\ndef data(count):\n    return np.random.normal(size=(count, 3)), np.arange(count) % 2\n"
    )
    return {"function": f"{folder / 'mine.py'}:data", "arguments": {"count": 30}}


MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "fashion-mnist": fashion, "cifar-10": cifar, "npz": npz, "arrays": arrays, "csv": table,
    "image-folder": image_folder, "function": function,
}  # fmt: skip
OFFICIAL_TEST = ("fashion-mnist", "cifar-10", "arrays")


@pytest.fixture(params=sorted(kind for kind, settings in task.TABLE.items() if issubclass(settings, task.TaskSettings)))
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    fields = MAKERS[request.param](tmp_path) if request.param in MAKERS else {}
    return task.TABLE[request.param](**fields)


@pytest.fixture
def made(settings: Settings) -> Task:
    return task.build(settings)


def hashes(x: Array, y: Array) -> Counter[bytes]:
    """How often each row occurs."""
    return Counter(hashlib.sha256(a.tobytes() + b.tobytes()).digest() for a, b in zip(x, y, strict=True))


def search_rows(data: Data) -> Counter[bytes]:
    return hashes(data.x_train, data.y_train) + hashes(data.x_valid, data.y_valid)


def test_arrays_have_the_form_that_the_shape_promises(made: Task) -> None:
    data, shape = made.load(0), made.shape()
    assert data.shape == shape
    for x, y in ((data.x_train, data.y_train), (data.x_valid, data.y_valid), made.load_test(0)):
        assert x.shape == (len(y), *shape.input) and len(y) > 0
        assert x.dtype in (np.uint8, np.float32) and x.flags.c_contiguous and x.flags.writeable
        if shape.kind == "classification":
            assert y.dtype == np.int64 and y.shape == (len(x),) and set(y) == set(range(shape.outputs))
        else:
            assert y.dtype == np.float32 and y.shape == (len(x), shape.outputs) and np.isfinite(y).all()


def test_moments_come_from_the_training_rows(made: Task) -> None:
    data = made.load(0)
    x = data.x_train.astype(np.float64).reshape(len(data.x_train), data.x_train.shape[1], -1)
    np.testing.assert_allclose(data.mean, x.mean(axis=(0, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(data.std, np.where(x.std(axis=(0, 2)) > 0, x.std(axis=(0, 2)), 1), rtol=1e-5)
    if data.shape.kind == "regression":
        np.testing.assert_allclose(data.target_mean, data.y_train.mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    else:
        assert data.target_mean.tolist() == [0] and data.target_std.tolist() == [1]


def test_the_seed_fixes_the_split(settings: Settings) -> None:
    first, again, other = (task.build(settings).load(seed) for seed in (3, 3, 4))
    for name in ("x_train", "y_train", "x_valid", "y_valid", "mean", "std"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert hashes(first.x_valid, first.y_valid) != hashes(other.x_valid, other.y_valid)


def test_every_row_is_in_one_part_only(settings: Settings, made: Task) -> None:
    """The three parts make up the same rows at every seed: one that stood in two of them would push another out."""
    total: dict[int, Counter[bytes]] = {}
    for seed in (0, 1):
        total[seed] = search_rows(made.load(seed)) + hashes(*made.load_test(seed))
        assert total[seed].total() == sum(made.sizes(seed).values())
    assert total[0] == total[1]


def test_no_test_row_is_in_the_search(settings: Settings, made: Task) -> None:
    kind = settings.kind  # type: ignore[attr-defined]
    seen, held = search_rows(made.load(0)), hashes(*made.load_test(0))
    doubles = 0 if kind in MAKERS else 1  # iris has two equal flowers
    assert (seen & held).total() <= doubles
    same_at_other_seed = hashes(*made.load_test(1)) == held
    assert same_at_other_seed == (kind in OFFICIAL_TEST)


def test_classes_keep_their_proportions(made: Task) -> None:
    data = made.load(0)
    if data.shape.kind == "regression":
        pytest.skip("no classes")
    parts = [np.bincount(y) / len(y) for y in (data.y_train, data.y_valid)]
    assert np.abs(parts[0] - parts[1]).max() <= 1 / len(data.y_valid) + 1 / len(data.y_train)


def test_settings_survive_json_and_build_the_same_task(settings: Settings) -> None:
    again = type(settings).model_validate(json.loads(json.dumps(settings.model_dump(mode="json"))))
    assert again == settings
    np.testing.assert_array_equal(task.build(again).load(0).x_train, task.build(settings).load(0).x_train)


def test_a_limit_trains_on_fewer_rows_and_leaves_the_other_parts(settings: Settings, made: Task) -> None:
    full = made.load(0)
    few = task.build(settings.model_copy(update={"limit": 10})).load(0)
    assert len(few.x_train) == 10 and hashes(few.x_train, few.y_train) <= hashes(full.x_train, full.y_train)
    assert few.shape.kind == "regression" or set(few.y_train) == set(full.y_train)
    np.testing.assert_array_equal(few.x_valid, full.x_valid)


def test_every_setting_has_a_description_and_refuses_unknown_keys(settings: Settings) -> None:
    assert set(type(settings).model_fields) - set(descriptions(type(settings))) == {"kind"}
    with pytest.raises(ValueError, match="Extra inputs"):
        type(settings).model_validate({**settings.model_dump(), "colour": 1})


def test_another_process_gets_the_same_rows(tmp_path: Path) -> None:
    settings = task.TABLE["function"](**function(tmp_path))
    code = (
        "import sys, json, hashlib\nfrom evonas import task\n"
        "s = task.TABLE['function'].model_validate_json(sys.argv[1])\n"
        "print(hashlib.sha256(task.build(s).load(7).x_train.tobytes()).hexdigest())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, settings.model_dump_json()], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == hashlib.sha256(task.build(settings).load(7).x_train.tobytes()).hexdigest()


def test_the_table_loads_no_library() -> None:
    code = (
        "import sys\nfrom evonas import task\n"
        "[task.TABLE[k].model_json_schema() for k in task.TABLE]\n"
        "print([m for m in ('numpy', 'torch', 'sklearn', 'PIL', 'pooch', 'deap') if m in sys.modules])\n"
        "task.build(task.TABLE['fashion-mnist']()).shape()\n"
        "print([m for m in ('torch', 'sklearn', 'PIL', 'pooch', 'deap') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.split("\n")[:2] == ["[]", "[]"]
