"""Tables in which networks' metrics are looked up instead of trained: benchmarks of architecture search.

The recipe says how a genome becomes a row (its tokens, one choice per place) and which columns hold which metric; there
is no code for any one benchmark."""

from __future__ import annotations

import csv
import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evonas.core import DataError, Json, RecipeError, dumps, nearest
from evonas.task.data import Array, Data, TaskShape

if TYPE_CHECKING:
    from evonas.task import MetricSettings, TabularSettings

MOST_GENOMES = 50_000_000
"""Genomes of a space that a table may cover: its index has one number for each."""

Values = NDArray[np.float64]


class TabularTask:
    """A task whose answers are known; fulfils `task.data.Task`, but has no rows to train on."""

    def __init__(self, settings: TabularSettings) -> None:
        self.settings = settings

    def shape(self) -> TaskShape:
        """What a network for it would take and give."""
        return TaskShape(tuple(self.settings.input), self.settings.outputs, "tabular")

    def load(self, seed: int) -> Data:
        """There are no rows: raises RecipeError."""
        raise RecipeError("the task is a table and has no rows to train on: set estimator.kind: lookup")

    def load_test(self, seed: int) -> tuple[Array, Array]:
        """There are no rows: raises RecipeError."""
        raise RecipeError("the task is a table and has no test rows: name columns under task.report")

    def sizes(self, seed: int) -> dict[str, int]:
        """Networks in the table."""
        return {"networks": len(self._arrays[0])}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the table's content."""
        whole = hashlib.blake2b(dumps(self.settings.model_dump(mode="json", exclude={"file"})).encode(), digest_size=16)
        with self.settings.file.open("rb") as file:
            while part := file.read(1 << 20):
                whole.update(part)
        return whole.hexdigest()

    def bound(self, space: Any) -> Table:
        """The table for the genomes of an encoding. Raises RecipeError or DataError where they do not fit."""
        if not hasattr(space, "tokens"):
            raise RecipeError(f"encoding {space.name!r} has no tokens to find a row of the table by: take kind: cell")
        return _bound(self, space)

    @cached_property
    def _arrays(self) -> tuple[Array, Mapping[str, Array]]:
        columns = _columns(self.settings.file)
        return _keys(self.settings, columns), columns

    def column(self, name: str, where: str) -> Array:
        """A column of numbers, (rows,) or (rows, n). Raises RecipeError for one that is not there."""
        columns = self._arrays[1]
        if name not in columns:
            known = sorted(columns)
            raise RecipeError(f"task.{where}: {self.settings.file.name} has no column {name!r}; {nearest(name, known)}")
        found = columns[name]
        if found.dtype.kind not in "fiub" or found.ndim not in (1, 2):
            raise RecipeError(f"task.{where}: column {name!r} holds no numbers (rows,) or (rows, trials): take another")
        if len(found) != len(self._arrays[0]):
            raise DataError(
                f"{self.settings.file.name}: column {name!r} has {len(found)} rows, the key {len(self._arrays[0])}"
            )
        return found

    @property
    def keys(self) -> Array:
        """The table's own code of each choice, (rows, places)."""
        return self._arrays[0]

    def labels(self, name: str, where: str) -> list[str]:
        """The names of a matrix column's columns."""
        columns = self._arrays[1]
        if name not in columns or columns[name].ndim != 1:
            known = sorted(key for key, one in columns.items() if one.ndim == 1 and one.dtype.kind in "US")
            raise RecipeError(f"task.{where}: {self.settings.file.name} has no names {name!r}; {nearest(name, known)}")
        return [_text(one) for one in columns[name]]


@dataclass(frozen=True, eq=False)
class Column:
    """A metric at one fidelity: (rows, trials) of which one is drawn, or (rows, 1); NaN where there is none."""

    values: Values
    counts: NDArray[np.int64]
    draws: bool

    def at(self, row: int, seed: int) -> float:
        """The value in a row; of several trials the one that the seed picks."""
        if not self.draws:
            return float(self.values[row, 0])
        count = int(self.counts[row])
        return float(self.values[row, seed % count]) if count else float("nan")


@dataclass(frozen=True, eq=False)
class Table:
    """A table bound to an encoding: values by genome, metric and fidelity, and the simulated clock."""

    task: TabularTask
    space: Any

    @cached_property
    def _weights(self) -> tuple[int, ...]:
        """What each place counts for in the number of a genome."""
        sizes = [len(options) for options in self.space.choices]
        return tuple(prod(sizes[i + 1 :]) for i in range(len(sizes)))

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """The row of each genome by its number, -1 where there is none."""
        keys, choices = self.task.keys, self.space.choices
        if keys.shape[1] != len(choices):
            raise RecipeError(
                f"task.key: the table has {keys.shape[1]} choices per row, encoding {self.space.name!r} has "
                f"{len(choices)}: compare encoding.nodes and encoding.edges"
            )
        if self.space.size > MOST_GENOMES:
            raise RecipeError(f"the space has {self.space.size:,} genomes, a table covers at most {MOST_GENOMES:,}")
        tokens = [self._tokens(keys[:, i], options) for i, options in enumerate(choices)]
        codes: NDArray[np.int64] = np.stack(tokens, axis=1) @ np.array(self._weights, dtype=np.int64)
        index = np.full(self.space.size, -1, dtype=np.int64)
        order, first = np.unique(codes, return_index=True)
        if len(order) < len(keys):
            twice = np.setdiff1d(np.arange(len(keys)), first)[0]
            again = int(np.flatnonzero(codes == codes[twice])[0])
            raise DataError(
                f"{self.task.settings.file.name}: rows {again} and {twice} are one architecture: remove one of them"
            )
        index[codes] = np.arange(len(keys))
        return index

    def _tokens(self, codes: Array, options: Sequence[str]) -> NDArray[np.int64]:
        """The encoding's tokens for the table's codes at one place."""
        words = self.task.settings.key.words or list(options)
        lost = [word for word in words if word not in options]
        if lost:
            raise RecipeError(f"task.key.words: {lost[0]!r} is no choice of the encoding; {nearest(lost[0], options)}")
        strange = codes[(codes < 0) | (codes >= len(words))]
        if len(strange):
            file = self.task.settings.file.name
            raise DataError(f"{file}: code {strange[0]} has no word: task.key.words has {len(words)}, give it them all")
        return np.array([options.index(word) for word in words], dtype=np.int64)[codes]

    def row(self, genome: Any) -> int:
        """The row of a genome. Raises DataError where the table has none."""
        number = 0
        for token, weight in zip(self.space.tokens(genome), self._weights, strict=True):
            number += token * weight
        row = int(self.index[number])
        if row < 0:
            raise DataError(f"the table has no row for {genome.key[:8]} (choices {list(self.space.tokens(genome))})")
        return row

    def genomes(self) -> list[Any]:
        """The genome of every row."""
        choices = self.space.choices
        columns = [self._tokens(self.task.keys[:, i], choices[i]) for i in range(len(choices))]
        return [self.space.from_tokens(tokens) for tokens in zip(*[c.tolist() for c in columns], strict=True)]

    # ------------------------------------------------------------------------------------------------------ values

    def epochs(self, wanted: float | None) -> int | None:
        """The fidelity that is looked up: the one wanted, else the highest; None where the table knows only one.

        Raises RecipeError for a fidelity that a metric lacks."""
        known = sorted({epochs for one in self.task.settings.metrics.values() for epochs in one.fidelities})
        if not known:
            return None
        if wanted is not None and wanted not in known:
            raise RecipeError(f"{wanted:g} epochs are no fidelity of the table: known are {', '.join(map(str, known))}")
        return known[-1] if wanted is None else int(wanted)

    @cached_property
    def _cache(self) -> dict[tuple[str, str, int | None], Column]:
        return {}

    def column(self, section: str, name: str, epochs: int | None) -> Column:
        """A metric of `metrics` at a fidelity, or of `report` at its own highest. Raises RecipeError, DataError."""
        at = (section, name, epochs)
        if at not in self._cache:
            known: Mapping[str, MetricSettings] = getattr(self.task.settings, section)
            if name not in known:
                raise RecipeError(f"task.{section} has no {name!r}; {nearest(name, list(known))}")
            self._cache[at] = self._read(known[name], f"{section}.{name}", epochs, section == "report")
        return self._cache[at]

    def means(self, section: str, name: str, epochs: int | None) -> Values:
        """A metric for every row, (rows,): the mean of its trials, NaN where there is none."""
        values = self.column(section, name, epochs).values
        there = np.isfinite(values)
        total = np.where(there, values, 0.0).sum(axis=1)
        return np.asarray(np.where(there.any(axis=1), total / np.maximum(there.sum(axis=1), 1), np.nan))

    def need(self, section: str, names: Sequence[str], epochs: int | None) -> None:
        """Raises RecipeError or DataError for a metric that is not there, before anything is looked up."""
        for name in names:
            self.column(section, name, epochs)
        if self.task.settings.cost is not None:
            self.seconds(0, epochs)

    def values(self, section: str, names: Sequence[str], row: int, epochs: int | None, seed: int) -> dict[str, float]:
        """Metrics by name of one row."""
        return {name: self.column(section, name, epochs).at(row, seed) for name in names}

    def seconds(self, row: int, epochs: float | None) -> float:
        """The simulated training time; 0 where the table keeps none."""
        settings = self.task.settings.cost
        if settings is None:
            return 0.0
        share = 1.0 if epochs is None or settings.epochs is None else epochs / settings.epochs
        return float(self._clock[row]) * share

    @cached_property
    def _clock(self) -> Values:
        settings = self.task.settings.cost
        assert settings is not None
        clock = np.asarray(self.task.column(settings.column, "cost.column"), dtype=np.float64)
        lost = np.flatnonzero(~np.isfinite(clock) | (clock < 0)) if clock.ndim == 1 else np.zeros(1, dtype=np.int64)
        if len(lost):
            file = self.task.settings.file.name
            raise DataError(f"{file}: row {lost[0]} of {settings.column!r} is no time: the clock needs one a row")
        return clock

    def _read(self, settings: MetricSettings, where: str, epochs: int | None, highest: bool = False) -> Column:
        if highest and settings.fidelities:
            epochs = settings.fidelities[-1]
        name = settings.column if isinstance(settings.column, str) else settings.column.get(epochs or 0)
        if name is None:
            known = ", ".join(map(str, settings.fidelities))
            raise RecipeError(f"task.{where}: no column for {epochs} epochs: there are {known}")
        found = np.asarray(self.task.column(name, f"{where}.column"), dtype=np.float64)
        return _column(self._picked(found, settings, where), settings)

    def _picked(self, found: Values, settings: MetricSettings, where: str) -> Values:
        """(rows, trials): of a matrix whose columns have names the named one."""
        if found.ndim == 1:
            return found[:, None]
        if settings.among is None:
            return found
        labels = self.task.labels(settings.among, f"{where}.among")
        if settings.pick not in labels:
            known = nearest(str(settings.pick), labels)
            raise RecipeError(f"task.{where}.pick: {settings.pick!r} is not known; {known}")
        if len(labels) != found.shape[1]:
            raise DataError(f"task.{where}.among: {len(labels)} names for a matrix of {found.shape[1]} columns")
        return found[:, [labels.index(str(settings.pick))]]


def _column(values: Values, settings: MetricSettings) -> Column:
    """Values as the metric wants them, trials that are there first."""
    if settings.complement is not None:
        values = settings.complement - values
    if settings.log10:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log10(values)
    there = np.isfinite(values)
    counts = there.sum(axis=1)
    if settings.trial == "mean":
        total = np.where(there, values, 0.0).sum(axis=1)
        values = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)[:, None]
    elif isinstance(settings.trial, int):
        if settings.trial >= values.shape[1]:
            raise RecipeError(f"task: trial {settings.trial} is not there: trials are 0 to {values.shape[1] - 1}")
        values = values[:, [settings.trial]]
    else:
        values = np.take_along_axis(values, np.argsort(~there, axis=1, kind="stable"), axis=1)
    return Column(values, counts, values.shape[1] > 1)


@lru_cache(maxsize=8)
def _bound(task: TabularTask, space: Any) -> Table:
    table = Table(task, space)
    _ = table.index  # what does not fit shows now, not as a thousand failed estimates
    return table


def task_of(settings: TabularSettings) -> TabularTask:
    """The task of some settings; one table is read once, as long as its file does not change.

    Raises DataError where there is no such file."""
    try:
        stamp = settings.file.stat()
    except OSError as error:
        raise DataError(f"cannot read the table {settings.file}: {error.strerror}: correct task.file") from None
    known = (dumps(settings.model_dump(mode="json")), stamp.st_mtime_ns, stamp.st_size)
    if known not in _TASKS:
        _TASKS.clear()  # studies search one table at a time
        _TASKS[known] = TabularTask(settings)
    return _TASKS[known]


_TASKS: dict[tuple[str, int, int], TabularTask] = {}


# ------------------------------------------------------------------------------------------------------------ files


def _columns(file: Path) -> Mapping[str, Array]:
    try:
        if file.suffix == ".npz":
            # opened here: NumPy leaves a file open that it finds to be none of its own
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        return _csv(file)
    except (OSError, ValueError, EOFError, KeyError, csv.Error, zipfile.BadZipFile, zlib.error) as error:
        cure = "give an .npz of plain arrays or a .csv with a header"
        raise DataError(f"{file} is no table: {str(error)[:120]}: {cure}") from None


def _csv(file: Path) -> Mapping[str, Array]:
    """The columns of a CSV file: numbers where all cells are, an empty cell being NaN, else text."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        rows = list(csv.reader(opened))
    if len(rows) < 2:
        raise ValueError("it has no rows")
    header, body = rows[0], rows[1:]
    twice = [name for i, name in enumerate(header) if name in header[:i]]
    if twice:
        raise ValueError(f"its header has {twice[0]!r} twice")
    for i, row in enumerate(body):
        if len(row) != len(header):
            raise ValueError(f"line {i + 2} has {len(row)} cells, the header {len(header)}")
    return {name: _numbers([row[i] for row in body]) for i, name in enumerate(header)}


def _numbers(cells: Sequence[str]) -> Array:
    # a leading zero is a digit of a key, not a number's
    if any(len(cell) > 1 and cell[0] == "0" and cell.isdigit() for cell in cells):
        return np.array(cells)
    try:
        return np.array([float(cell) if cell.strip() else np.nan for cell in cells])
    except ValueError:
        return np.array(cells)


def _keys(settings: TabularSettings, columns: Mapping[str, Array]) -> Array:
    """The table's code of each choice, (rows, places), whole numbers."""
    key = settings.key
    names = [key.column] if isinstance(key.column, str) else list(key.column)
    for name in names:
        if name not in columns:
            raise RecipeError(
                f"task.key.column: {settings.file.name} has no {name!r}; {nearest(name, sorted(columns))}"
            )
    parts = [_codes(columns[name], name, key.words) for name in names]
    if len({len(part) for part in parts}) > 1:
        raise DataError(f"{settings.file.name}: the key's columns have different numbers of rows")
    return np.concatenate(parts, axis=1)


def _codes(column: Array, name: str, words: Sequence[str] | None) -> Array:
    if column.ndim not in ((1,) if column.dtype.kind in "US" else (1, 2)) or column.dtype.kind not in "USiufb":
        raise DataError(f"task.key.column: {name!r} holds neither numbers nor text, a row each: name another column")
    if not column.size:
        raise DataError(f"task.key.column: {name!r} is empty: the table has no rows")
    if column.dtype.kind in "US":
        texts = [_text(one) for one in column]
        if words and all(text in words for text in texts):
            return np.array([[words.index(text)] for text in texts])
        if len(set(map(len, texts))) != 1 or not all(text.isascii() and text.isdigit() for text in texts):
            raise DataError(f"task.key.column: {name!r} holds neither words of task.key.words nor digits of one length")
        return np.array([[int(digit) for digit in text] for text in texts])
    whole = column.reshape(len(column), -1)
    if not np.isfinite(whole).all() or (whole != np.floor(whole)).any():
        raise DataError(f"task.key.column: {name!r} holds numbers that are no codes (0, 1, 2, ...)")
    return whole.astype(np.int64)


def _text(value: Json) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
