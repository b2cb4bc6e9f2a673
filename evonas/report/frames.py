"""A run's data as pandas DataFrames, and tables as files. pandas is loaded when a frame is asked for.

Exact values: what the run folder holds, in each objective's own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evonas.core import RecipeError, StorageError
from evonas.report import tables
from evonas.report.tables import Table, plain

if TYPE_CHECKING:
    import pandas

    from evonas.results import Row, Run

What = Literal["individuals", "front", "generations", "species", "curves", "tests"]
ENDINGS = (".csv", ".json", ".md", ".parquet")
"""Files that a table is written to."""


def frame(run: Run, what: What = "individuals") -> pandas.DataFrame:
    """A run's data as a DataFrame: `individuals` or the `front` with values, costs and parents, `generations`,
    `species` over the generations, learning `curves` a row per epoch, or `tests`. RecipeError for another, or without
    the extra evonas[data]."""
    if what not in _RECORDS:
        raise RecipeError(f"a frame of {plain(what)!r} is not known; known: {', '.join(_RECORDS)}")
    _need("pandas")
    import pandas

    return pandas.DataFrame.from_records(_RECORDS[what](run))


def of_table(table: Table) -> pandas.DataFrame:
    """A table's exact values as a DataFrame. RecipeError without the extra evonas[data]."""
    _need("pandas")
    import pandas

    return pandas.DataFrame.from_records(table.records(), columns=[column.key for column in table.columns])


def _individuals(run: Run) -> list[dict[str, Any]]:
    return _rows(run.individuals())


def _front(run: Run) -> list[dict[str, Any]]:
    return _rows(run.front())


def _rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One mapping per individual; those of values, costs and tests that anyone has are columns of all."""
    values, tested = _keys(row.values for row in rows), _keys(row.tested for row in rows)
    costs = [key for key in _keys(row.cost for row in rows) if "/" not in key]  # not of single genes
    return [
        {
            "id": row.id,
            **{name: row.values.get(name) for name in values},
            **{f"test_{name}": row.tested.get(name) for name in tested},
            **{f"cost_{name}": row.cost.get(name) for name in costs},
            "status": row.status, "reason": row.reason, "front": row.front, "knee": row.knee, "species": row.species,
            "birth": row.birth, "parents": list(row.parents), "network": row.summary, "genome": row.key,
        }
        for row in rows
    ]  # fmt: skip


def _generations(run: Run) -> list[dict[str, Any]]:
    table = tables.generations(run.generations(), run.objectives)
    return table.records()


def _species(run: Run) -> list[dict[str, Any]]:
    return [dict(one) for one in run.species()]


def _curves(run: Run) -> list[dict[str, Any]]:
    return [{"id": id, **point} for id, one in run.store.estimates().items() for point in one.curve]


def _tests(run: Run) -> list[dict[str, Any]]:
    return [{"id": test["id"], "seed": str(test["seed"]), **test["values"]} for test in run.store.tests()]


_RECORDS = {
    "individuals": _individuals, "front": _front, "generations": _generations, "species": _species, "curves": _curves,
    "tests": _tests,
}  # fmt: skip


def _keys(mappings: Any) -> list[str]:
    return list({key: None for one in mappings for key in one})


# ------------------------------------------------------------------------------------------------------------ files


def write(table: Table, path: Path) -> Path:
    """Writes a table's exact values; the ending of the name (.csv, .json, .md, .parquet) says how. RecipeError for
    another, or where Parquet's extra is missing; StorageError."""
    written = {".csv": tables.to_csv, ".json": tables.to_json, ".md": tables.to_markdown}
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise RecipeError(f"no table format {path.suffix!r}: end the file's name with {', '.join(ENDINGS)}")
    content = _parquet(table) if ending == ".parquet" else written[ending](table).encode()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def _parquet(table: Table) -> bytes:
    import io

    _need("pyarrow", "Parquet files")
    import pyarrow
    from pyarrow import parquet

    columns: Mapping[str, list[Any]] = {
        column.key: [row[at] for row in table.rows] for at, column in enumerate(table.columns)
    }
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(dict(columns)), buffer, compression="zstd")
    return buffer.getvalue()


def _need(library: str, what: str = "DataFrames") -> None:
    if find_spec(library) is None:
        raise RecipeError(f"{what} need {library}: install evonas[data]")
