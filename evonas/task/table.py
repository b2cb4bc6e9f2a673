"""Tables and arrays: the sets that scikit-learn ships, NumPy files, CSV, and the user's own function."""

from __future__ import annotations

import csv
import math
import traceback
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from evonas import imported
from evonas.core import DataError, EvonasError, RecipeError, lend_global_streams, nearest
from evonas.task.data import (
    Array,
    Form,
    Origin,
    Rows,
    Source,
    TaskShape,
    existing,
    filled,
    numbered,
    refuse_large,
    rows,
    unreadable,
)  # fmt: skip

if TYPE_CHECKING:
    from evonas.task import ArraysSettings, CsvSettings, FunctionSettings, NpzSettings, TaskSettings

__all__ = ["KNOWN", "READERS"]

# ------------------------------------------------------------------------------------------ sets of scikit-learn

KNOWN = {
    "digits": TaskShape((1, 8, 8), 10, "classification", tuple("0123456789")),
    "iris": TaskShape((4,), 3, "classification", ("setosa", "versicolor", "virginica")),
    "wine": TaskShape((13,), 3, "classification", ("class_0", "class_1", "class_2")),
    "breast_cancer": TaskShape((30,), 2, "classification", ("malignant", "benign")),
    "diabetes": TaskShape((10,), 1, "regression"),
}


_FILES = {"digits": "digits.csv.gz", "iris": "iris.csv", "wine": "wine_data.csv", "breast_cancer": "breast_cancer.csv"}
"""In scikit-learn's package: comma-separated, the target last, all but that of digits under one line of names."""


def _bundled(kind: str, settings: TaskSettings) -> Source:
    """A set of scikit-learn; digits as uint8 images of 0..16."""
    x, y = _shipped(kind)
    if kind == "digits":
        x = x.reshape(-1, 8, 8).astype(np.uint8)
    form = Form().like(KNOWN[kind])
    return Source(rows(x, y, Origin(kind), Origin(kind), form))


def _shipped(kind: str) -> tuple[Array, Array]:
    """Inputs and targets, from the file where it is known: importing scikit-learn takes as long as importing torch."""
    package = find_spec("sklearn")
    if package is not None and package.origin is not None and kind in _FILES:
        path = Path(package.origin).parent / "datasets" / "data" / _FILES[kind]
        if path.exists():
            table = np.loadtxt(path, delimiter=",", skiprows=0 if kind == "digits" else 1)
            return table[:, :-1], table[:, -1].astype(int)
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{kind}")()
    return bunch.data, bunch.target


# ---------------------------------------------------------------------------------------------------- NumPy files

_BROKEN = (OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile and numpy raise for a damaged file."""


def _form(settings: ArraysSettings | FunctionSettings | NpzSettings) -> Form:
    labels = tuple(map(str, range(settings.classes))) if settings.classes else None
    return Form(settings.goal, labels, settings.layout, settings.as_image)


def _npz(settings: NpzSettings) -> Source:
    given = {"x": settings.x, "y": settings.y, "x_test": settings.x_test, "y_test": settings.y_test}
    return npz_source(existing(settings.file), given, _form(settings), settings.max_bytes)


def npz_source(path: Path, given: Mapping[str, str | None], form: Form, max_bytes: int) -> Source:
    """The rows of an .npz file; `given` maps x, y, x_test, y_test to array names where they are not the usual ones."""
    names = npz_names(path)
    x, y = _npz_key(path, names, given, "x"), _npz_key(path, names, given, "y")
    x_test, y_test = _npz_test_keys(path, names, given)
    load = partial(npz_array, path, max_bytes=max_bytes)
    train = rows(load(x), load(y), Origin(f"{path}: {x}"), Origin(f"{path}: {y}"), form)
    if not (x_test and y_test):
        return Source(train)
    origins = Origin(f"{path}: {x_test}"), Origin(f"{path}: {y_test}")
    return Source(train, lambda: rows(load(x_test), load(y_test), *origins, form.like(train.shape)))


def npz_names(path: Path) -> list[str]:
    """Names of the arrays in an .npz file. Raises DataError for a file that is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except _BROKEN as error:
        raise unreadable(str(path), error) from None


def _npz_key(path: Path, names: Sequence[str], given: Mapping[str, str | None], role: str) -> str:
    wanted = given.get(role)
    usual = [wanted] if wanted else [f"{role}_train", role]
    for name in usual:
        if name in names:
            return name
    raise RecipeError(
        f"{path} has no array {' or '.join(map(repr, usual))}; {nearest(usual[-1], names)}: name one by {role}:"
    )


def _npz_test_keys(path: Path, names: Sequence[str], given: Mapping[str, str | None]) -> tuple[str | None, str | None]:
    x, y = (role if given.get(role) is None and role in names else given.get(role) for role in ("x_test", "y_test"))
    for name in (x, y):
        if name is not None and name not in names:
            raise RecipeError(f"{path} has no array {name!r}; {nearest(name, names)}")
    if (x is None) != (y is None):
        raise RecipeError(f"{path} has a test array {x or y!r} without its pair: name both by x_test: and y_test:")
    return x, y


def npz_array(path: Path, name: str, max_bytes: int) -> Array:
    """One array of an .npz file. Raises DataError for objects (pickle), damage, or a header beyond `max_bytes`."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = name if name in archive.namelist() else f"{name}.npy"
            with archive.open(member) as file:
                return _npy_array(file, f"{path}: {name}", max_bytes)
    except _BROKEN as error:
        raise unreadable(f"{path}: {name}", error) from None


def _npy_array(file: IO[bytes], name: str, max_bytes: int) -> Array:
    """The array of an open .npy stream, its header checked before anything is allocated."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = headers[np.lib.format.read_magic(file)](file)
    if dtype.hasobject:
        raise DataError(f"{name} holds pickled objects, which could run code: save it as a plain array of numbers")
    if any(extent < 0 for extent in shape):
        raise DataError(f"{name} has the impossible shape {shape}: get or write the file again")
    refuse_large(math.prod(shape) * dtype.itemsize, name, max_bytes)
    flat = filled(file, (math.prod(shape),), dtype, name)
    return flat.reshape(shape, order="F" if fortran else "C")


def _arrays(settings: ArraysSettings) -> Source:
    x, y = existing(settings.x), existing(settings.y)
    train = _npy_rows(x, y, _form(settings), settings.max_bytes)
    if settings.x_test is None or settings.y_test is None:
        return Source(train)
    x_test, y_test = existing(settings.x_test), existing(settings.y_test)
    return Source(train, partial(_npy_rows, x_test, y_test, _form(settings).like(train.shape), settings.max_bytes))


def _npy_rows(x: Path, y: Path, form: Form, max_bytes: int) -> Rows:
    samples, targets = (_npy_file(path, max_bytes) for path in (x, y))
    return rows(samples, targets, Origin(str(x)), Origin(str(y)), form)


def _npy_file(path: Path, max_bytes: int) -> Array:
    try:
        with path.open("rb") as file:
            return _npy_array(file, str(path), max_bytes)
    except _BROKEN as error:
        raise unreadable(str(path), error) from None


# ------------------------------------------------------------------------------------------------------------ CSV

_DELIMITERS = (",", ";", "\t", "|")
_MISSING = frozenset(("", "?", "na", "n/a", "nan", "null", "none"))


@dataclass(frozen=True, slots=True)
class _Columns:
    """Names of all columns, and positions of the target and the features."""

    names: tuple[str, ...]
    target: int
    features: tuple[int, ...]
    header: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The cells of a table that a task needs, with the line of each row."""

    x: Array
    targets: list[str]
    lines: array[int]


def _csv(settings: CsvSettings) -> Source:
    path = existing(settings.file)
    delimiter = _delimiter(path) if settings.delimiter == "auto" else settings.delimiter
    columns = _columns(path, delimiter, settings)
    train = _csv_rows(path, delimiter, columns, settings, None)
    if settings.test_file is None:
        return Source(train)
    test = existing(settings.test_file)
    return Source(train, lambda: _csv_rows(test, delimiter, columns, settings, train))


def _lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number (from 1) and cells of every line that is not blank. Raises DataError for what is no text table."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for cells in reader:
                number = reader.line_num
                if any(cell.strip() for cell in cells):
                    yield number, [cell.strip() for cell in cells]
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {_undecodable(path)}: not UTF-8 text: save the table as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {number + 1}: {error}: write the table as plain CSV") from None
    except OSError as error:
        raise unreadable(str(path), error) from None


def _undecodable(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _delimiter(path: Path) -> str:
    """Whichever sign makes most columns of the first line; a comma where none makes any."""

    def columns(sign: str) -> int:
        try:
            return len(next(_lines(path, sign), (0, []))[1])
        except DataError:  # quotes that only another sign's cells have
            return 0

    return max(_DELIMITERS, key=columns)


def _columns(path: Path, delimiter: str, settings: CsvSettings) -> _Columns:
    first = next(_lines(path, delimiter), (0, []))[1]
    if not first:
        raise DataError(f"{path} is empty: give a line for every row")
    if len(first) < 2:
        raise DataError(f"{path} has one column, {first[0][:40]!r}: give a target and a feature, or set delimiter:")
    named = isinstance(settings.target, str) or any(isinstance(name, str) for name in settings.features or ())
    header = settings.header if settings.header != "auto" else named or _has_words(first, settings.target)
    names = tuple(first) if header else tuple(map(str, range(len(first))))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: two columns are named {twice!r}: give each its own name")
    target = _position(settings.target, names, path, "target")
    chosen = settings.features if settings.features is not None else [i for i in range(len(names)) if i != target]
    features = tuple(_position(column, names, path, "features") for column in chosen)
    if not features or target in features:
        raise RecipeError(f"features: {list(chosen)}: name at least one column, and not the target {names[target]!r}")
    return _Columns(names, target, features, header)


def _has_words(cells: Sequence[str], target: str | int) -> bool:
    """Whether a feature of a table's first line is no number, so that the line must be a header."""
    skipped = target % len(cells) if isinstance(target, int) else -1
    features = [cell for i, cell in enumerate(cells) if i != skipped]
    return any(_number(cell) is None and cell.lower() not in _MISSING for cell in features)


def _position(column: str | int, names: Sequence[str], path: Path, setting: str) -> int:
    if isinstance(column, str) and column in names:
        return names.index(column)
    if isinstance(column, int) and -len(names) <= column < len(names):
        return column % len(names)
    hint = nearest(column, names) if isinstance(column, str) else f"it has columns 0 to {len(names) - 1}"
    raise RecipeError(f"{setting}: {path} has no column {column!r}; {hint}")


def _csv_rows(path: Path, delimiter: str, columns: _Columns, settings: CsvSettings, train: Rows | None) -> Rows:
    table = _table(path, delimiter, columns, settings.max_bytes)
    place = "line {}".format
    x_origin = Origin(str(path), lambda row: place(table.lines[row]), tuple(columns.names[i] for i in columns.features))
    y_origin = Origin(str(path), lambda row: place(table.lines[row]), (columns.names[columns.target],))
    form = Form(settings.goal, as_image=settings.as_image)
    form = form.like(train.shape) if train else form
    y, form = _csv_targets(table.targets, y_origin, form)
    return rows(table.x, y, x_origin, y_origin, form)


def _table(path: Path, delimiter: str, columns: _Columns, max_bytes: int) -> _Table:
    values, targets, lines = array("d"), list[str](), array("q")
    content = _lines(path, delimiter)
    if columns.header:
        _, names = next(content, (0, []))
        if tuple(names) != columns.names:
            raise DataError(f"{path} has columns {', '.join(names)}, not {', '.join(columns.names)}: make both alike")
    for line, cells in content:
        if len(cells) != len(columns.names):
            raise DataError(f"{path}, line {line}: {len(cells)} columns, not {len(columns.names)}: complete the line")
        try:
            values.extend([float(cells[i]) for i in columns.features])
        except ValueError:
            raise _no_number(path, line, cells, columns) from None
        targets.append(cells[columns.target])
        lines.append(line)
        refuse_large(len(values) * values.itemsize, str(path), max_bytes)
    if not lines:
        raise DataError(f"{path} has a header and no rows: give at least one row")
    return _Table(np.array(values).reshape(len(lines), -1), targets, lines)


def _no_number(path: Path, line: int, cells: Sequence[str], columns: _Columns) -> DataError:
    bad = next(i for i in columns.features if _number(cells[i]) is None)
    where = f"{path}, line {line}, column {columns.names[bad]!r}"
    if cells[bad].lower() in _MISSING:
        return DataError(f"{where}: no value ({cells[bad]!r}): fill it in or remove the line")
    return DataError(f"{where}: {cells[bad][:40]!r} is no number: write one, or leave the column out of `features`")


def _csv_targets(cells: list[str], origin: Origin, form: Form) -> tuple[Array, Form]:
    """Targets as numbers, and the form with its goal settled: text and whole numbers are classes."""
    for row, cell in enumerate(cells):
        if not cell:
            raise DataError(f"{origin.at(row, (0,))}: no value: fill it in or remove the line")
    numbers = [_number(cell) for cell in cells]
    words = [cell for cell, number in zip(cells, numbers, strict=True) if number is None]
    whole = all(number.is_integer() for number in numbers if number is not None)
    if form.goal == "regression" or (form.goal == "auto" and not whole and {*map(str.lower, words)} <= _MISSING):
        if words:
            row = cells.index(words[0])
            raise DataError(f"{origin.at(row, (0,))}: {words[0][:40]!r} is no number: write one or remove the line")
        return np.array(numbers, dtype=np.float64), replace(form, goal="regression", labels=None)
    names = cells if words or not whole else [str(int(number)) for number in numbers if number is not None]
    classes, labels = numbered(names, origin, form.labels)
    return classes, replace(form, goal="classification", labels=labels)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------- the user's function

_RETURNED = ("x", "y", "x_test", "y_test", "x_train", "y_train", "labels")


def _function(settings: FunctionSettings) -> Source:
    result = _called(settings)
    arrays = _returned(result, settings.function)
    form = _form(settings)
    if "labels" in arrays:
        form = replace(form, labels=tuple(map(str, arrays["labels"])))
    name = settings.function
    train = rows(arrays["x"], arrays["y"], Origin(f"{name}: x"), Origin(f"{name}: y"), form)
    if "x_test" not in arrays:
        return Source(train)
    origins = Origin(f"{name}: x_test"), Origin(f"{name}: y_test")
    return Source(train, lambda: rows(arrays["x_test"], arrays["y_test"], *origins, form.like(train.shape)))


def _called(settings: FunctionSettings) -> Any:
    """What the function returns; the global random streams are fixed meanwhile, so that every process gets the same."""
    try:
        with lend_global_streams(0, "task function"):
            return imported.load(settings.function)(**settings.arguments)
    except EvonasError:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"task function {settings.function} raised {type(error).__name__}: {' '.join(str(error).split())[:200]}\n"
            f"at {last.filename}, line {last.lineno}: correct the function or its `arguments`"
        ) from error


def _returned(result: Any, name: str) -> dict[str, Any]:
    """The arrays by name: x, y and perhaps x_test, y_test, labels."""
    if isinstance(result, Mapping):
        for key in result:
            if key not in _RETURNED:
                raise DataError(f"{name} returned an unknown key {key!r}; {nearest(str(key), _RETURNED)}")
        arrays = {key.removesuffix("_train"): value for key, value in result.items()}
    elif isinstance(result, (tuple, list)) and len(result) in (2, 4):
        arrays = dict(zip(_RETURNED, result, strict=False))
    else:
        size = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
        kind = type(result).__name__
        raise DataError(f"{name} returned a {kind}{size}: return x, y or x, y, x_test, y_test or a dict of them")
    if not {"x", "y"} <= arrays.keys() or ("x_test" in arrays) != ("y_test" in arrays):
        raise DataError(f"{name} returned {', '.join(arrays)}: return x and y, and x_test together with y_test")
    return arrays


READERS: dict[str, Callable[[Any], Source]] = {
    **{kind: partial(_bundled, kind) for kind in KNOWN},
    "npz": _npz,
    "arrays": _arrays,
    "csv": _csv,
    "function": _function,
}
