"""What a task is: its shape, its data, and the checks and the split that every set of rows goes through.

Everything here is NumPy. Readers (`images.py`, `table.py`) hand over raw arrays; `rows` checks them and names the file
and the row of what is wrong; `SplitTask` divides them once by seed into training, validation and test."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from evonas import limits
from evonas.core import DataError, RecipeError, generator, nearest

if TYPE_CHECKING:
    from evonas.phenotype.population import Programs

__all__ = [
    "Array", "Data", "Form", "Origin", "PlayTask", "Played", "Rows", "Source", "SplitTask", "Task", "TaskShape", "rows",
]  # fmt: skip

Array = NDArray[Any]
Goal = Literal["auto", "classification", "regression"]
Layout = Literal["auto", "nchw", "nhwc"]

MAX_BYTES = limits.DATA_BYTES


@dataclass(frozen=True, slots=True)
class TaskShape:
    """What a network for the task takes and gives: `input` is (channels, height, width) or (features,), `outputs` the
    number of classes, of target values or, for control, of numbers to act on; `labels` names the classes and is empty
    for the others."""

    input: tuple[int, ...]
    outputs: int
    kind: Literal["classification", "regression", "control", "tabular"]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What the search may see: training and validation rows, never a test row.

    x: uint8 or float32, (n, c, h, w) or (n, features), contiguous, in the set's own units. y: int64 (n,) or float32
    (n, outputs). `mean` and `std` are float32 per channel or feature, `target_mean` and `target_std` per output (one 0
    and one 1 for classification); all four come from the training rows alone, and no std is 0."""

    x_train: Array
    y_train: Array
    x_valid: Array
    y_valid: Array
    mean: Array
    std: Array
    target_mean: Array
    target_std: Array
    shape: TaskShape


class Task(Protocol):
    """What is to be solved. Equal seeds give equal, disjoint parts, in any process."""

    def shape(self) -> TaskShape: ...
    def load(self, seed: int) -> Data: ...
    def load_test(self, seed: int) -> tuple[Array, Array]: ...
    def sizes(self, seed: int) -> dict[str, int]: ...


class Played(dict[str, Array]):
    """What a population reached in a task that is played: values by name, (n,) float64, `fitness` first where there is
    one, NaN where a network was not measured. `failed` says by position why one has no values."""

    def __init__(self, values: Mapping[str, Array], failed: Mapping[int, str] | None = None) -> None:
        super().__init__(values)
        self.failed: Mapping[int, str] = failed or {}


class PlayTask(ABC):
    """A task without rows: a whole population acts in it. Equal programs and seeds give equal values."""

    @abstractmethod
    def shape(self) -> TaskShape:
        """What a network sees and gives, of kind `control`."""

    @abstractmethod
    def rollout(self, programs: Programs, seed: int, threads: int = 1) -> Played:
        """Values of every network in the search; `seed` names this generation's episodes."""

    @abstractmethod
    def test(self, programs: Programs, seed: int) -> Played:
        """Values of every network after the search, over situations that the search did not show."""

    def load(self, seed: int) -> Data:
        """There are no rows: raises RecipeError."""
        raise RecipeError("the task is played and has no rows to train on: set estimator.kind: population")

    def load_test(self, seed: int) -> tuple[Array, Array]:
        """There are no rows: raises RecipeError."""
        raise RecipeError("the task is played and has no test rows: set estimator.kind: population")

    def sizes(self, seed: int) -> dict[str, int]:
        """Rows per part: none."""
        return {}


# ---------------------------------------------------------------------------------------------------------- checks


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an array comes from, for messages: a file or set, what it calls its i-th row, and its columns' names."""

    name: str
    place: Callable[[int], str] = "row {}".format
    columns: tuple[str, ...] = ()

    def at(self, row: int, column: Sequence[int] = ()) -> str:
        """`flowers.csv, line 17, column 'petal'`."""
        where = f"{self.name}, {self.place(int(row))}"
        if not column:
            return where
        first = int(column[0])
        name = repr(self.columns[first]) if self.columns else ", ".join(map(str, column))
        return f"{where}, column {name}"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Checked samples in the form that `Data` describes."""

    x: Array
    y: Array
    shape: TaskShape
    origin: Origin


@dataclass(frozen=True, slots=True)
class Form:
    """How raw arrays are meant: as classes or values, which classes, which axis holds channels, which image shape."""

    goal: Goal = "auto"
    labels: tuple[str, ...] | None = None
    layout: Layout = "auto"
    as_image: tuple[int, int, int] | None = None

    def like(self, shape: TaskShape) -> Form:
        """The form of a test set: it keeps the classes of its training set."""
        goal: Goal = "classification" if shape.kind == "classification" else "regression"
        return replace(self, goal=goal, labels=shape.labels or None)


def rows(x: object, y: object, x_origin: Origin, y_origin: Origin, form: Form) -> Rows:
    """Checks raw arrays and brings them into the form of `Data`.

    Raises DataError naming file and row for contents, RecipeError for settings that do not fit the arrays."""
    features = _features(_numeric(x, x_origin), x_origin, form)
    targets, shape = _targets(_array(y), y_origin, form, features.shape[1:])
    if len(features) != len(targets):
        raise DataError(
            f"{x_origin.name} has {len(features)} rows, {y_origin.name} has {len(targets)}: give every row one target"
        )
    return Rows(features, targets, shape, y_origin)


def _array(value: object) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError):  # ragged nested lists
        return np.asarray(value, dtype=object)


def _numeric(value: object, origin: Origin) -> Array:
    """The value as uint8, int64 or float32 with at least one row; no number is NaN or infinite in float32."""
    array = _array(value)
    if array.dtype.kind not in "buif":
        raise DataError(f"{origin.name} holds {array.dtype} values: give plain numbers, all rows of one length")
    if array.ndim == 0 or array.size == 0:
        raise DataError(f"{origin.name} is empty, shape {array.shape}: give at least one row")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f" and array.max() <= np.iinfo(np.int64).max:
        return array.astype(np.int64)
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        row, *column = np.argwhere(~finite)[0].tolist()
        value = array[(row, *column)]
        raise DataError(f"{origin.at(row, column)}: {value} is no finite float32: fill it in or remove the row")
    return array


def _features(x: Array, origin: Origin, form: Form) -> Array:
    """(n, features) float32 or (n, c, h, w) uint8 or float32, contiguous."""
    if form.as_image is not None:
        have, want = math.prod(x.shape[1:]), math.prod(form.as_image)
        if have != want:
            shape = list(form.as_image)
            raise RecipeError(f"as_image: {shape} has {want} values, a row of {origin.name} {have}: make them equal")
        x = x.reshape(len(x), *form.as_image)
    elif x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and _is_nhwc(x.shape, origin, form.layout):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim not in (2, 4):
        forms = "(rows, features), (rows, height, width) or (rows, channels, height, width)"
        raise DataError(f"{origin.name} has shape {x.shape}: give {forms}")
    keep = x.ndim == 4 and x.dtype == np.uint8  # a quarter of the device memory, and exact
    return np.ascontiguousarray(x if keep else x.astype(np.float32, copy=False))


def _is_nhwc(shape: tuple[int, ...], origin: Origin, layout: Layout) -> bool:
    if layout != "auto":
        return layout == "nhwc"
    first, last = shape[1] <= 4, shape[3] <= 4  # grey, grey + alpha, RGB, RGB + alpha
    if first == last:
        raise RecipeError(
            f"{origin.name} has shape {shape}: are channels first or last? set layout: nchw or layout: nhwc"
        )
    return last


def _targets(y: Array, origin: Origin, form: Form, input_shape: tuple[int, ...]) -> tuple[Array, TaskShape]:
    goal, labels = form.goal, form.labels
    if y.dtype.kind in "SU" and goal != "regression":
        if y.ndim != 1:
            raise DataError(f"{origin.name} has shape {y.shape}: give one class name a row")
        y, labels = numbered(y.astype(str).tolist(), origin, labels)
    y = _numeric(y, origin)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if goal == "auto":
        goal = "classification" if labels is not None else _goal_of(y, origin)
    if goal == "regression":
        y = np.ascontiguousarray(y.reshape(len(y), -1).astype(np.float32, copy=False))
        return y, TaskShape(input_shape, y.shape[1], "regression")
    numbers, classes = _class_numbers(y, origin, None if labels is None else len(labels))
    names = labels if labels is not None else tuple(map(str, range(classes)))
    return numbers, TaskShape(input_shape, classes, "classification", names)


def _goal_of(y: Array, origin: Origin) -> Goal:
    if y.dtype.kind != "f":
        return "classification"
    if y.ndim == 1 and (y == np.floor(y)).all():
        raise RecipeError(
            f"{origin.name} holds whole numbers as floats, classes or values? set goal: classification or regression"
        )
    return "regression"


def numbered(names: Sequence[str], origin: Origin, labels: tuple[str, ...] | None) -> tuple[Array, tuple[str, ...]]:
    """Class names as numbers (n,) in the order of `labels`, or sorted where there are none (numbers by value)."""
    known = labels if labels is not None else class_names(set(names))
    number = {name: i for i, name in enumerate(known)}
    for row, name in enumerate(names):
        if name not in number:
            raise DataError(f"{origin.at(row)}: class {name!r} is not in the training set; {nearest(name, known)}")
    return np.array([number[name] for name in names], dtype=np.int64), known


def class_names(names: Collection[str]) -> tuple[str, ...]:
    """Distinct class names in order: numbers by value, else by letters."""
    try:
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _class_numbers(y: Array, origin: Origin, classes: int | None) -> tuple[Array, int]:
    """int64 (n,) in 0..classes-1 and `classes`; where that is None the labels must be 0, 1, 2 ... without a gap."""
    if y.ndim != 1:
        raise DataError(f"{origin.name} has shape {y.shape}: give one class number a row (of one-hot rows the argmax)")
    numbers = y.astype(np.int64)
    broken = np.flatnonzero(numbers != y)
    if len(broken):
        label = y[broken[0]]
        raise DataError(f"{origin.at(broken[0])}: label {label} is no whole number: number the classes 0, 1, 2 ...")
    top = classes if classes is not None else len(np.unique(numbers))
    outside = np.flatnonzero((numbers < 0) | (numbers >= top))
    if len(outside):
        row = outside[0]
        rule = f"0..{top - 1}" if classes is not None else f"0..{top - 1} of {top} distinct labels"
        raise DataError(
            f"{origin.at(row)}: label {numbers[row]} is out of range {rule}: number the classes 0, 1, 2 ..."
        )
    return numbers, top


# ----------------------------------------------------------------------------------------------------------- split


def _quota(counts: Array, take: int, most: Array) -> Array:
    """How many of each class to take: in proportion, between 1 and `most`, `take` in all (largest remainders)."""
    exact = counts * (take / counts.sum())
    quota: Array = np.clip(np.floor(exact).astype(np.int64), 1, most)
    while missing := take - int(quota.sum()):
        step = 1 if missing > 0 else -1
        free = quota < most if step > 0 else quota > 1
        order = np.argsort(np.where(free, step * (quota - exact), np.inf), kind="stable")
        quota[order[: min(abs(missing), int(free.sum()))]] += step
    return quota


def _divide(strata: Array, order: Array, take: int, what: str, origin: Origin, leave: int = 1) -> tuple[Array, Array]:
    """`order` (row numbers, shuffled) as (taken, left), both in that order and with the classes in proportion.

    Every class has a row among the taken and `leave` among the left."""
    counts = np.bincount(strata[order])
    present = np.flatnonzero(counts)
    least, most = len(present), len(order) - leave * len(present)
    if not least <= take <= most:
        raise RecipeError(
            f"{what}: {take} of {len(order)} rows of {origin.name} cannot be taken: choose {least} to {most}, "
            "so that every class is in every part"
        )
    quota = np.zeros_like(counts)
    quota[present] = _quota(counts[present], take, counts[present] - leave)
    by_class = order[np.argsort(strata[order], kind="stable")]
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(strata), dtype=bool)
    chosen[by_class[rank < quota[strata[by_class]]]] = True
    inside = chosen[order]
    return order[inside], order[~inside]


def _count(share: float, total: int) -> int:
    """A share of `total` rows as a number of rows: below 1 a fraction, else a count."""
    return max(1, round(share * total)) if share < 1 else int(share)


def _strata(data: Rows) -> Array:
    return data.y if data.shape.kind == "classification" else np.zeros(len(data.y), dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a reader hands over: rows to divide, and how to read the official test set where there is one."""

    rows: Rows
    test: Callable[[], Rows] | None = None


@dataclass(frozen=True, eq=False)
class SplitTask:
    """Rows divided once by seed: the test part first, then validation, the rest trains.

    Classes keep their proportions in every part. `validation` and `test` are fractions below 1 or counts of rows;
    `test` must be None for a source with its own test set. `limit` trains on that many rows only. The source is read
    once and kept as long as the task object lives."""

    read: Callable[[], Source]
    validation: float
    test: float | None = None
    limit: int | None = None
    known: TaskShape | None = None

    @cached_property
    def _source(self) -> Source:
        source = _read(self.read)
        _refuse_few(source.rows, parts=2 if source.test else 3)
        if source.test and self.test is not None:
            raise RecipeError(f"test: {source.rows.origin.name} brings its own test set: leave the setting out")
        return source

    def shape(self) -> TaskShape:
        """The task's shape; nothing is read for the sets that the package knows."""
        return self.known or self._source.rows.shape

    def load(self, seed: int) -> Data:
        """Training and validation rows of this seed's split. Raises DataError, RecipeError."""
        data = self._source.rows
        train, valid, _ = self._parts(seed)
        x, y = data.x[train], data.y[train]
        mean, std = _moments(x)
        if data.shape.kind == "regression":
            target_mean, target_std = _moments(y)
        else:
            target_mean, target_std = np.zeros(1, np.float32), np.ones(1, np.float32)
        return Data(x, y, data.x[valid], data.y[valid], mean, std, target_mean, target_std, data.shape)

    def load_test(self, seed: int) -> tuple[Array, Array]:
        """The test rows (x, y); only the final test after a search asks for them."""
        official = self._official()
        if official is not None:
            return official.x, official.y
        test = self._parts(seed)[2]
        return self._source.rows.x[test], self._source.rows.y[test]

    def sizes(self, seed: int) -> dict[str, int]:
        """Rows per part; reads and checks the whole set, the test part included."""
        train, valid, test = self._parts(seed)
        official = self._official()
        return {"train": len(train), "validation": len(valid), "test": len(test if official is None else official.y)}

    def _official(self) -> Rows | None:
        if self._source.test is None:
            return None
        test, want = _read(self._source.test), self._source.rows.shape
        if test.shape != want:
            raise DataError(
                f"{test.origin.name}: the test set has shape {test.shape.input} and {test.shape.outputs} outputs, "
                f"the training set {want.input} and {want.outputs}: give both alike"
            )
        return test

    def _parts(self, seed: int) -> tuple[Array, Array, Array]:
        """Row numbers of (train, validation, test), each sorted; test is empty where the source has its own."""
        data = self._source.rows
        strata = _strata(data)
        rest = generator(seed, "split").permutation(len(strata))
        test = rest[:0]
        if self._source.test is None:
            count = _count(0.2 if self.test is None else self.test, len(rest))
            test, rest = _divide(strata, rest, count, "test", data.origin, leave=2)
        valid, train = _divide(strata, rest, _count(self.validation, len(rest)), "validation", data.origin)
        if self.limit is not None and self.limit < len(train):
            train, _ = _divide(strata, train, self.limit, "limit", data.origin, leave=0)
        return np.sort(train), np.sort(valid), np.sort(test)


R = TypeVar("R")


def _read(reader: Callable[[], R]) -> R:
    try:
        return reader()
    except (OSError, MemoryError) as error:
        raise unreadable("the task's data", error) from None


def _refuse_few(data: Rows, parts: int) -> None:
    """Every class needs a row in every part, and there must be something to tell apart."""
    if data.shape.kind == "regression":
        if len(data.y) < parts:
            raise DataError(f"{data.origin.name}: {len(data.y)} rows are too few for {parts} parts: give more rows")
        return
    if data.shape.outputs < 2:
        raise DataError(f"{data.origin.name}: every label is {data.shape.labels[0]!r}: give at least two classes")
    counts = np.bincount(data.y, minlength=data.shape.outputs)
    few = int(counts.argmin())
    if counts[few] < parts:
        raise DataError(
            f"{data.origin.name}: class {data.shape.labels[few]!r} has {counts[few]} rows, the split needs {parts}: "
            "add rows or leave the class out (numbers to predict instead of classes: set goal: regression)"
        )


def _moments(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation per channel or feature, float32, computed in float64; a std of 0 becomes 1."""
    mean, variance = _moments_of_bytes(x) if x.dtype == np.uint8 else _moments_of_floats(x)
    return mean.astype(np.float32), np.where(variance > 0, np.sqrt(variance), 1).astype(np.float32)


def _moments_of_bytes(x: Array) -> tuple[Array, Array]:
    """From a histogram: exact, and three times faster than two passes over Fashion-MNIST."""
    counts = np.zeros((x.shape[1], 256), dtype=np.int64)
    for chunk in _chunks(x):
        for channel in range(x.shape[1]):
            counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    share = counts / counts[0].sum()
    values = np.arange(256.0)
    mean = share @ values
    return mean, (share * np.square(values - mean[:, None])).sum(axis=1)


def _moments_of_floats(x: Array) -> tuple[Array, Array]:
    """In two passes: squares of large numbers would cancel."""
    axes = (0, 2, 3) if x.ndim == 4 else (0,)
    size = x.size // x.shape[1]
    mean = np.sum([chunk.sum(axis=axes, dtype=np.float64) for chunk in _chunks(x)], axis=0) / size
    middle = mean.reshape(-1, 1, 1) if x.ndim == 4 else mean
    return mean, np.sum([np.square(chunk - middle).sum(axis=axes) for chunk in _chunks(x)], axis=0) / size


def _chunks(x: Array, length: int = 1024) -> list[Array]:
    return [x[start : start + length] for start in range(0, len(x), length)]


# ----------------------------------------------------------------------------------------------------------- files


def existing(path: Path, what: Literal["file", "folder"] = "file") -> Path:
    """The path with `~` expanded, or RecipeError with the nearest names in its folder."""
    path = path.expanduser()
    try:
        if path.is_dir() if what == "folder" else path.is_file():
            return path
        names = sorted(entry.name for entry in path.parent.iterdir())
    except FileNotFoundError:
        raise RecipeError(f"no {what} {str(path)!r}: the folder around it does not exist either") from None
    except OSError as error:
        raise unreadable(str(path), error) from None
    if path.name in names:
        raise RecipeError(f"{str(path)!r} is no {what}: name a {what}")
    hint = nearest(path.name, names or ["nothing"])
    raise RecipeError(f"no {what} {path.name!r} in {path.parent}: {hint if len(hint) < 300 else hint[:300] + ' ...'}")


def refuse_large(size: int, name: str, max_bytes: int) -> None:
    """DataError where a file claims more than `max_bytes`, before anything is allocated."""
    if size > max_bytes:
        raise DataError(f"{name} would take {size:,} bytes, more than {max_bytes:,}: raise max_bytes if that is meant")


def filled(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Array:
    """An array read from the rest of an open file, which must hold exactly its bytes, else DataError."""
    array = np.empty(math.prod(shape), dtype)
    space, have = array.view(np.uint8).data, 0
    while have < len(space) and (content := file.read(min(len(space) - have, 1 << 24))):
        space[have : have + len(content)] = content
        have += len(content)
    if have < len(space):
        raise DataError(f"{name} is cut off: {have:,} of {len(space):,} bytes are there: get or write the file again")
    if file.read(1):
        raise DataError(f"{name} is longer than the {len(space):,} bytes of its array: get or write the file again")
    return array.reshape(shape)


def unreadable(name: str, error: Exception) -> DataError:
    """The error for a file that a library could not read."""
    return DataError(f"{name} cannot be read: {type(error).__name__}: {str(error)[:200]}: get or write the file again")
