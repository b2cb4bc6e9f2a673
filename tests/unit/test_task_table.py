"""NumPy files, CSV, the user's function and the sets of scikit-learn: what is read, what is refused in which words."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evonas import task
from evonas.core import DataError, EvonasError, RecipeError
from evonas.imported import Imported
from evonas.task import ArraysSettings, CsvSettings, FunctionSettings, NpzSettings, table
from evonas.task.data import SplitTask
from evonas.task.table import KNOWN

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)), np.arange(30) % 3


def build(settings: Any) -> SplitTask:
    made = task.build(settings)
    assert isinstance(made, SplitTask)
    return made


# ------------------------------------------------------------------------------------------ sets of scikit-learn


@pytest.mark.parametrize(
    ("kind", "rows", "counts"),
    [
        ("digits", 1797, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
        ("iris", 150, [50, 50, 50]),
        ("wine", 178, [59, 71, 48]),
        ("breast_cancer", 569, [212, 357]),
        ("diabetes", 442, None),
    ],
)
def test_the_sets_of_scikit_learn_have_their_known_sizes_and_classes(
    kind: str, rows: int, counts: list[int] | None
) -> None:
    from sklearn import datasets

    made = build(task.TABLE[kind]())
    assert sum(made.sizes(0).values()) == rows
    source = made._source.rows
    assert source.shape == made.shape() == KNOWN[kind]
    if counts:
        assert np.bincount(source.y).tolist() == counts
        assert source.shape.labels == tuple(map(str, getattr(datasets, f"load_{kind}")().target_names))


@pytest.mark.parametrize("kind", ["digits", "iris", "wine", "breast_cancer"])
def test_rows_are_those_of_scikit_learns_loaders_with_and_without_its_file(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn import datasets

    with monkeypatch.context() as only:
        only.delattr(datasets, f"load_{kind}")
        read = table._shipped(kind)
    monkeypatch.setitem(table._FILES, kind, "moved.csv")
    for x, y in (read, table._shipped(kind)):
        bunch = getattr(datasets, f"load_{kind}")()
        assert np.array_equal(x, bunch.data) and np.array_equal(y, bunch.target)


def test_digits_are_small_grey_images() -> None:
    data = build(task.TABLE["digits"]()).load(0)
    assert data.x_train.dtype == np.uint8 and data.x_train.shape[1:] == (1, 8, 8) and data.x_train.max() == 16


# ---------------------------------------------------------------------------------------------------- NumPy files


def test_mnist_1d(shared_data: Path) -> None:
    path = shared_data / "mnist1d" / "mnist1d.npz"
    made = build(NpzSettings(file=path, as_image=(1, 1, 40)))
    assert made.sizes(0) == {"train": 3200, "validation": 800, "test": 1000}
    assert made.shape().input == (1, 1, 40) and made.shape().outputs == 10
    with np.load(path) as fields:
        np.testing.assert_array_equal(made.load_test(5)[0].reshape(1000, 40), fields["x_test"])
        np.testing.assert_array_equal(made.load_test(5)[1], fields["y_test"])


def test_arrays_of_other_names_and_orders(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", pixels=np.asfortranarray(X), cls=Y, more=X[:6], morecls=Y[:6])
    settings = NpzSettings(file=tmp_path / "a.npz", x="pixels", y="cls", x_test="more", y_test="morecls")
    made = build(settings)
    assert made.sizes(0)["test"] == 6
    np.testing.assert_array_equal(made._source.rows.x, X.astype(np.float32))


def test_labels_of_a_test_set_are_checked_against_the_training_set(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y, x_test=X[:3], y_test=[0, 3, 1])
    made = build(NpzSettings(file=tmp_path / "a.npz"))
    made.load(0)
    with pytest.raises(DataError, match=r"a\.npz: y_test, row 1: label 3 is out of range 0\.\.2"):
        made.sizes(0)


def saved(**fields: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **fields)


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def flipped(path: Path) -> None:
    np.savez(path, x=X, y=Y)
    data = bytearray(path.read_bytes())
    data[600] ^= 4  # in the numbers of x
    path.write_bytes(data)


def cut(path: Path) -> None:
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:700])


def member(header: str, data: bytes = b"") -> Callable[[Path], None]:
    """An archive whose x has a hand-written header."""

    def write(path: Path) -> None:
        text = header.ljust(117).encode() + b"\n"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
            archive.writestr("y.npy", b"")

    return write


DAMAGED_NPZ: dict[str, tuple[type[EvonasError], Callable[[Path], None], str]] = {
    "no zip": (DataError, content(b"hello"), r"a\.npz cannot be read: BadZipFile"),
    "empty file": (DataError, content(b""), r"a\.npz cannot be read: BadZipFile"),
    "cut": (DataError, cut, r"a\.npz cannot be read: BadZipFile"),
    "flipped bit": (DataError, flipped, r"a\.npz: x cannot be read: BadZipFile: Bad CRC-32"),
    "pickle": (
        DataError,
        saved(x=np.array([{}, 1], dtype=object), y=[0, 1]),
        r"a\.npz: x holds pickled objects, which could run code: save it as a plain array",
    ),
    "size bomb": (
        DataError,
        member("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 10000000)}"),
        r"a\.npz: x would take 80,000,000,000,000 bytes, more than 8,000,000,000: raise max_bytes",
    ),
    "negative": (
        DataError,
        member("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, 4)}"),
        r"a\.npz: x has the impossible shape \(-2, 4\)",
    ),
    "short": (
        DataError,
        member("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 4)}", b"12345678"),
        r"a\.npz: x is cut off: 8 of 64 bytes",
    ),
    "header of code": (DataError, member("__import__('os').system('true')"), r"a\.npz: x cannot be read: ValueError"),
    "other names": (
        RecipeError,
        saved(xs=X, y=Y),
        r"a\.npz has no array 'x_train' or 'x'; did you mean 'xs'\? .*by x:",
    ),
    "half a test set": (RecipeError, saved(x=X, y=Y, x_test=X), r"has a test array 'x_test' without its pair"),
    "text in x": (DataError, saved(x=[["a"]] * 30, y=Y), r"a\.npz: x holds <U1 values"),
    "nan": (DataError, saved(x=np.where(np.arange(4) == 2, np.nan, X), y=Y), r"a\.npz: x, row 0, column 2: nan"),
    "other length": (DataError, saved(x=X, y=Y[:-1]), r"a\.npz: x has 30 rows, \S+a\.npz: y has 29"),
    "empty arrays": (DataError, saved(x=X[:0], y=Y[:0]), r"a\.npz: x is empty, shape \(0, 4\)"),
}


@pytest.mark.parametrize("case", DAMAGED_NPZ)
def test_a_bad_npz_is_refused(tmp_path: Path, case: str) -> None:
    kind, write, message = DAMAGED_NPZ[case]
    write(tmp_path / "a.npz")
    with pytest.raises(kind, match=message):
        build(NpzSettings(file=tmp_path / "a.npz")).sizes(0)


def test_given_names_and_missing_files_come_with_the_nearest(tmp_path: Path) -> None:
    np.savez(tmp_path / "flowers.npz", x=X, y=Y)
    with pytest.raises(RecipeError, match=r"no file 'flower\.npz' in .*: did you mean 'flowers\.npz'\?"):
        build(NpzSettings(file=tmp_path / "flower.npz")).shape()
    with pytest.raises(RecipeError, match=r"no file '.*nowhere/a\.npz': the folder around it does not exist either"):
        build(NpzSettings(file=tmp_path / "nowhere" / "a.npz")).shape()
    with pytest.raises(RecipeError, match=r"' is no file: name a file"):
        build(NpzSettings(file=tmp_path)).shape()
    with pytest.raises(RecipeError, match=r"has no array 'yy'; did you mean 'y'\? known: x, y"):
        build(NpzSettings(file=tmp_path / "flowers.npz", y="yy")).shape()
    with pytest.raises(RecipeError, match=r"has no array 'z'; known: x, y"):
        build(NpzSettings(file=tmp_path / "flowers.npz", x_test="z")).shape()


def test_classes_fix_the_range_of_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    with pytest.raises(DataError, match=r"y, row 2: label 2 is out of range 0\.\.1: number"):
        build(NpzSettings(file=tmp_path / "a.npz", classes=2)).shape()
    with pytest.raises(DataError, match=r"class '3' has 0 rows, the split needs 3"):
        build(NpzSettings(file=tmp_path / "a.npz", classes=4)).shape()


def test_a_size_limit_is_kept_before_anything_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    with pytest.raises(DataError, match=r"x would take 960 bytes, more than 959"):
        build(NpzSettings(file=tmp_path / "a.npz", max_bytes=959)).shape()
    assert build(NpzSettings(file=tmp_path / "a.npz", max_bytes=960)).shape().outputs == 3


def test_bad_npy_files_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", np.array([None] * 30))
    settings = ArraysSettings(x=tmp_path / "x.npy", y=tmp_path / "y.npy")
    with pytest.raises(DataError, match=r"y\.npy holds pickled objects"):
        build(settings).shape()
    np.save(tmp_path / "y.npy", Y)
    whole = (tmp_path / "x.npy").read_bytes()
    for length in (0, 5, 9, 60, len(whole) - 1):
        (tmp_path / "x.npy").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.npy (cannot be read|is cut off)"):
            build(settings).shape()
    (tmp_path / "x.npy").write_bytes(whole)
    assert build(settings).shape().outputs == 3


def test_a_test_set_of_npy_files_needs_both() -> None:
    with pytest.raises(ValueError, match="x_test and y_test"):
        ArraysSettings(x=Path("x.npy"), y=Path("y.npy"), x_test=Path("z.npy"))


# ------------------------------------------------------------------------------------------------------------ CSV


def csv(folder: Path, text: str, name: str = "t.csv", **fields: Any) -> SplitTask:
    (folder / name).write_bytes(text.encode())
    return build(CsvSettings(file=folder / name, **fields))


ROWS = [f"{k},{k * 0.5},{'ab'[k % 2]}" for k in range(12)]


@pytest.mark.parametrize(
    ("text", "fields", "inputs", "labels"),
    [
        ("u,v,name\n" + "\n".join(ROWS), {}, (2,), ("a", "b")),
        ("u,v,name\n" + "\n".join(ROWS), {"target": "name"}, (2,), ("a", "b")),
        ("u,v,name\n" + "\n".join(ROWS), {"target": 2, "features": ["v"]}, (1,), ("a", "b")),
        ("u,v,name\n" + "\n".join(ROWS), {"target": -1, "features": [1, "u"]}, (2,), ("a", "b")),
        ("\n".join(ROWS), {}, (2,), ("a", "b")),
        ("\r\n".join(ROWS) + "\r\n\r\n", {}, (2,), ("a", "b")),
        ("\ufeff" + "\n".join(ROWS), {}, (2,), ("a", "b")),
        ("\n".join(ROWS).replace(",", ";"), {}, (2,), ("a", "b")),
        ("\n".join(ROWS).replace(",", "\t"), {}, (2,), ("a", "b")),
        ("\n".join(ROWS).replace(",", "  "), {"delimiter": " "}, (2,), ("a", "b")),
        ("1,2,3\n" + "\n".join(ROWS), {"header": True}, (2,), ("a", "b")),
        ('"u","v, w",name\n' + "\n".join(ROWS), {}, (2,), ("a", "b")),
        ("name,u\n" + "\n".join(f"{10 - k % 2}.0,{k}" for k in range(12)), {"target": 0}, (1,), ("9", "10")),
    ],
)
def test_tables_of_many_habits(
    tmp_path: Path, text: str, fields: dict[str, Any], inputs: tuple[int, ...], labels: tuple[str, ...]
) -> None:
    made = csv(tmp_path, text, **fields)
    assert made.shape().input == inputs and made.shape().labels == labels
    assert sum(made.sizes(0).values()) == 12


def test_a_table_of_numbers_is_a_regression(tmp_path: Path) -> None:
    text = "\n".join(f"{k},{k / 8}" for k in range(12))
    made = csv(tmp_path, text)
    assert made.shape().kind == "regression" and made._source.rows.y[:, 0].tolist() == [k / 8 for k in range(12)]
    whole = csv(tmp_path, "\n".join(f"{k},{k * k}" for k in range(12)), goal="regression")
    assert whole.shape().kind == "regression"
    with pytest.raises(DataError, match=r"class '0' has 1 rows, .*goal: regression"):
        csv(tmp_path, "\n".join(f"{k},{k * k}" for k in range(12))).shape()


def test_a_test_table_keeps_columns_and_classes(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("u,v,name\n1,2,b\n3,4,a")
    text = "u,v,name\n" + "\n".join(ROWS)
    made = csv(tmp_path, text, test_file=tmp_path / "test.csv")
    assert made.sizes(0) == {"train": 10, "validation": 2, "test": 2} and made.load_test(0)[1].tolist() == [1, 0]
    (tmp_path / "test.csv").write_text("u,v,name\n1,2,b\n3,4,c")
    with pytest.raises(DataError, match=r"test\.csv, line 3: class 'c' is not in the training set; known: a, b"):
        made.sizes(0)
    (tmp_path / "test.csv").write_text("u,w,name\n1,2,b\n3,4,c")
    with pytest.raises(DataError, match=r"test\.csv has columns u, w, name, not u, v, name: make both alike"):
        made.sizes(0)


BAD_TABLES: dict[str, tuple[type[EvonasError], str, dict[str, Any], str]] = {
    "empty": (DataError, "", {}, r"t\.csv is empty: give a line"),
    "header only": (DataError, "u,v,name\n", {}, r"t\.csv has a header and no rows"),
    "one column": (DataError, "u\n1\n2", {}, r"t\.csv has one column, 'u': give .* or set delimiter:"),
    "word": (
        DataError,
        "u,v,name\n1,2,a\n\n1,x3,b",
        {},
        r"t\.csv, line 4, column 'v': 'x3' is no number: write one, or leave the column out of `features`",
    ),
    "no value": (DataError, "u,v,name\n1,2,a\n1,,b", {}, r"line 3, column 'v': no value \(''\): fill it in"),
    "missing mark": (DataError, "u,v,name\n1,2,a\n1,?,b", {}, r"line 3, column 'v': no value \('\?'\)"),
    "nan": (DataError, "u,v,name\n1,2,a\n1,nan,b", {}, r"t\.csv, line 3, column 'v': nan is no finite float32"),
    "no target": (DataError, "u,v,name\n1,2,a\n1,2,", {}, r"line 3, column 'name': no value: fill it in"),
    "missing target": (
        DataError,
        "u,v\n" + "\n".join(["1,0.5"] * 9 + ["1,NA"]),
        {},
        r"t\.csv, line 11, column 'v': 'NA' is no number",
    ),
    "short line": (DataError, "u,v,name\n1,2,a\n1,b", {}, r"t\.csv, line 3: 2 columns, not 3: complete the line"),
    "long line": (DataError, "u,v,name\n1,2,a,9", {}, r"t\.csv, line 2: 4 columns, not 3"),
    "open quote": (DataError, 'u,v,name\n1,2,a\n"1,2,b\n', {}, r"t\.csv, line 3: unexpected end of data"),
    "twice": (DataError, "u,u,name\n1,2,a", {}, r"t\.csv: two columns are named 'u'"),
    "target unknown": (
        RecipeError,
        "u,v,name\n1,2,a",
        {"target": "nam"},
        r"target: \S+t\.csv has no column 'nam'; did you mean 'name'\?",
    ),
    "target too far": (RecipeError, "u,v,name\n1,2,a", {"target": 3}, r"has no column 3; it has columns 0 to 2"),
    "feature unknown": (RecipeError, "u,v,name\n1,2,a", {"features": ["w"]}, r"features: \S+ has no column 'w'; known"),
    "target as feature": (RecipeError, "u,v,name\n1,2,a", {"features": ["u", "name"]}, r"not the target 'name'"),
    "no features": (RecipeError, "u,v,name\n1,2,a", {"features": []}, r"features: \[\]: name at least one column"),
    "too large": (DataError, "\n".join(ROWS), {"max_bytes": 100}, r"would take 112 bytes, more than 100"),
    "text for regression": (
        DataError,
        "\n".join(ROWS),
        {"goal": "regression"},
        r"t\.csv, line 1, column '2': 'a' is no number",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    kind, text, fields, message = BAD_TABLES[case]
    with pytest.raises(kind, match=message):
        csv(tmp_path, text, **fields).sizes(0)


def test_a_table_in_another_coding_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"u,v\n1,a\n2,\xe9\n")
    with pytest.raises(DataError, match=r"t\.csv, line 3: not UTF-8 text: save the table as UTF-8"):
        build(CsvSettings(file=tmp_path / "t.csv")).shape()


def test_a_huge_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv, line 2: field larger than field limit"):
        csv(tmp_path, "u,v\n" + "1" * 200_000 + ",2\n").shape()


# ------------------------------------------------------------------------------------------- the user's function


def function(folder: Path, body: str, **fields: Any) -> SplitTask:
    """A task from `def data(...)` with this body."""
    path = folder / f"mine{abs(hash(body))}.py"
    path.write_text(f"import numpy as np\n\n\ndef data(n=30):\n    {body}\n")
    return build(FunctionSettings(function=f"{path}:data", **fields))


@pytest.mark.parametrize(
    "body",
    [
        "return np.zeros((n, 2)), np.arange(n) % 2",
        "return [[0, 1]] * n, [k % 2 for k in range(n)]",
        "return np.zeros((n, 2)), np.arange(n) % 2, np.zeros((4, 2)), np.array([0, 1, 1, 0])",
        "return {'x': np.zeros((n, 2)), 'y': np.arange(n) % 2, 'labels': ['no', 'yes']}",
        "return {'x_train': np.zeros((n, 2)), 'y_train': np.arange(n) % 2}",
    ],
)
def test_what_a_function_may_return(tmp_path: Path, body: str) -> None:
    made = function(tmp_path, body, arguments={"n": 20})
    assert made.shape().input == (2,) and made.shape().outputs == 2
    assert made.shape().labels == (("no", "yes") if "yes" in body else ("0", "1"))
    total = made.sizes(0)
    assert sum(total.values()) == (24 if "4, 2" in body else 20) and (total["test"] == 4)


BAD_FUNCTIONS: dict[str, tuple[type[EvonasError], str, str]] = {
    "raises": (DataError, "raise KeyError('column\\nage')", r"raised KeyError: .*age.*\nat .*mine\d+\.py, line 5: "),
    "exits": (DataError, "raise SystemExit(3)", r"raised SystemExit: 3\nat "),
    "imports nothing": (DataError, "import nosuchmodule_", r"raised ModuleNotFoundError: No module named "),
    "nothing": (DataError, "pass", r"returned a NoneType: return x, y or"),
    "three": (DataError, "return 1, 2, 3", r"returned a tuple of 3: return x, y or"),
    "unknown key": (DataError, "return {'x': 1, 'z': 2}", r"returned an unknown key 'z'; known: x, y"),
    "no y": (DataError, "return {'x': 1}", r"returned x: return x and y, and x_test together with y_test"),
    "nan": (
        DataError,
        "return np.full((n, 2), np.nan), np.arange(n) % 2",
        r"mine\d+\.py:data: x, row 0, column 0: nan is no",
    ),
    "other length": (DataError, "return np.zeros((n, 2)), [0, 1]", r"data: x has 30 rows, \S+:data: y has 2"),
    "labels": (DataError, "return {'x': [[1]] * n, 'y': np.arange(n) % 3, 'labels': 'ab'}", r"label 2 is out of range"),
    "empty": (DataError, "return [], []", r"data: x is empty"),
}


@pytest.mark.parametrize("case", BAD_FUNCTIONS)
def test_a_function_that_goes_wrong_is_reported_in_two_lines(tmp_path: Path, case: str) -> None:
    kind, body, message = BAD_FUNCTIONS[case]
    with pytest.raises(kind, match=message) as caught:
        function(tmp_path, body).sizes(0)
    assert str(caught.value).count("\n") <= 1


def test_wrong_arguments_and_places_of_a_function(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raised TypeError: data\(\) got an unexpected keyword argument 'm'"):
        function(tmp_path, "return 1", arguments={"m": 1}).shape()
    with pytest.raises(RecipeError, match=r"nosuch\.module:data"):
        build(FunctionSettings(function="nosuch.module:data")).shape()
    with pytest.raises(RecipeError, match=r"gone\.py"):
        build(FunctionSettings(function=f"{tmp_path / 'gone.py'}:data")).shape()
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(EvonasError, match=r"broken\.py:data .*ZeroDivisionError"):
        build(FunctionSettings(function=f"{tmp_path / 'broken.py'}:data")).shape()
    with pytest.raises(ValueError, match="function"):
        FunctionSettings(function="data")


def test_a_function_leaves_the_global_random_streams_alone(tmp_path: Path) -> None:
    body = "return np.random.normal(size=(n, 2)), np.random.permutation(np.arange(n) % 2)"
    before = np.random.get_state()[1].tolist()
    first, again = (function(tmp_path, body).load(0).x_train for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.random.get_state()[1].tolist() == before


# ----------------------------------------------------------------------------------------------------- the table


def test_a_users_own_task_stands_in_the_place_of_a_kind(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from evonas import task\n\ndef small(rows):\n    return task.build(task.TABLE['digits'](limit=rows))\n\n"
        "def nothing():\n    return 3\n"
    )
    made = task.build(Imported(kind=f"{tmp_path / 'own.py'}:small", settings={"rows": 100}))
    assert made.sizes(0)["train"] == 100
    with pytest.raises(RecipeError, match=r"own\.py:nothing is no task, it lacks shape, load, load_test, sizes"):
        task.build(Imported(kind=f"{tmp_path / 'own.py'}:nothing"))
    with pytest.raises(RecipeError, match=r"own\.py:small .*unexpected keyword argument 'row'"):
        task.build(Imported(kind=f"{tmp_path / 'own.py'}:small", settings={"row": 100}))


def test_relative_paths_are_taken_from_the_recipes_folder(tmp_path: Path) -> None:
    located = task.located(NpzSettings(file=Path("data/a.npz")), tmp_path)
    assert located.file == tmp_path / "data" / "a.npz" and task.located(located, Path("/other")) == located
    assert task.located(FunctionSettings(function="a.py:f"), tmp_path).function == f"{tmp_path / 'a.py'}:f"
    assert task.located(FunctionSettings(function="a.b:f"), tmp_path).function == "a.b:f"
    assert task.located(task.TABLE["fashion-mnist"](), tmp_path) == task.TABLE["fashion-mnist"]()
    assert task.located(Imported(kind="a.py:f"), tmp_path).kind == f"{tmp_path / 'a.py'}:f"


@pytest.mark.parametrize(
    "fields",
    [
        {"validation": 0},
        {"validation": 1.5},
        {"validation": -0.1},
        {"validation": "many"},
        {"test": 0.0},
        {"limit": 1},
        {"limit": 2.5},
        {"colour": 1},
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        task.TABLE["digits"](**fields)


def test_shares_are_fractions_or_counts() -> None:
    settings = task.TABLE["digits"].model_validate({"validation": 0.25, "test": "1k", "limit": "0.5k"})
    assert settings.model_dump(mode="json") == {
        "kind": "digits",
        "validation": 0.25,
        "test": 1000,
        "limit": 500,
    }
    assert build(settings).sizes(0) == {"train": 500, "validation": 199, "test": 1000}
