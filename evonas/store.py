"""The run folder: a SQLite database whose every row carries a hash, and weights files named by their SHA-256.

The only module that writes. `run.sqlite` has one writer (a lock file) and any number of readers, who never write and
never checkpoint. Three things together make damage visible: each row's hash covers its table, key and content; the
ledger row counts and sums the hashes of every table, so that no row can vanish; the file `tip` counts commits outside
the database, so that a cut write-ahead log is seen. `recipe.yaml` is a copy for people, the database is what counts."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
import sqlite3
import stat
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from filelock import FileLock, Timeout

from evonas import files, limits, shapes, yaml
from evonas.cohort import (
    STATUSES,
    Cohort,
    Everyone,
    Scored,
    Scores,
    cohort_from_bytes,
    cohort_to_bytes,
    scores_from_bytes,
    scores_to_bytes,
)
from evonas.core import (
    DataError,
    Edit,
    Estimate,
    Genome,
    Individual,
    Json,
    LockedError,
    Outcome,
    RecipeError,
    Species,
    State,
    StorageError,
    dumps,
    loads,
    valid_name,
)
from evonas.marks import Marks

__all__ = [
    "COLUMNS", "FORMAT", "Birth", "Litter", "Passed", "Recovered", "Row", "Store", "StoreWarning",
    "estimate_of", "genuine", "holder", "in_use", "species_to_json", "state_from_json", "state_to_json",
]  # fmt: skip

FORMAT, SINCE = 2, "0.1.0"
"""The format of the run folder, and the first version of evonas that reads it."""

KEPT_STATES = 3
"""How many of the newest states stay: a damaged one can be replayed from the one before."""

PAGE_BYTES = 8192
LOCK_SECONDS = 0.5
BUSY_SECONDS = 5.0

Row = tuple[Any, ...]
"""A table's row without its hash: the key first."""


class Birth(NamedTuple):
    """How an individual came to be, without its genome, of which there is the key."""

    id: int
    birth: int
    key: str
    parents: tuple[int, ...]
    edits: tuple[Edit, ...]


class Passed(NamedTuple):
    """A generation that has passed; `failed` is None where that was not counted."""

    generation: int
    evaluations: int
    hypervolume: float | None
    seconds: float | None
    time: float
    failed: int | None


@dataclass(frozen=True)
class Recovered:
    """Rows by table that a new folder begins with, and the generation that they reach."""

    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    generation: int | None = None


class Litter(NamedTuple):
    """A file or folder of a run that nothing needs any more: of which kind, where, and its bytes."""

    kind: str
    path: Path
    bytes: int


_TABLES: dict[str, tuple[str, ...]] = {
    "meta": ("name TEXT PRIMARY KEY", "value TEXT"),
    "ledger": ("id INTEGER PRIMARY KEY", "body TEXT"),
    "genomes": ("key TEXT PRIMARY KEY", "body TEXT"),
    "individuals": ("id INTEGER PRIMARY KEY", "birth INTEGER", "key TEXT", "parents TEXT", "edits TEXT"),
    "estimates": (
        "id INTEGER PRIMARY KEY", "status TEXT", "objectives TEXT", "reason TEXT", "curve TEXT", "cost TEXT",
        "weights TEXT", "arrived INTEGER", "time REAL",
    ),
    "generations": (
        "generation INTEGER PRIMARY KEY", "evaluations INTEGER", "hypervolume REAL", "seconds REAL", "time REAL",
        "stats TEXT",
    ),
    "species": ("generation INTEGER PRIMARY KEY", "body TEXT"),
    "fronts": ("generation INTEGER PRIMARY KEY", "body TEXT"),
    "states": ("generation INTEGER PRIMARY KEY", "body TEXT"),
    "cohorts": ("generation INTEGER PRIMARY KEY", "population BLOB", "representatives BLOB", "scores BLOB"),
    "journal": ("generation INTEGER PRIMARY KEY", "scores BLOB"),
    "events": ("number INTEGER PRIMARY KEY", "time REAL", "kind TEXT", "text TEXT", "data TEXT"),
    "tests": (
        "number INTEGER PRIMARY KEY", "individual INTEGER", "seed TEXT", "objectives TEXT", "curve TEXT", "cost TEXT",
        "weights TEXT", "time REAL",
    ),
}  # fmt: skip
"""Columns by table, the key first. Second comes the column `hash`, where a scan of it touches no overflow page."""

COLUMNS: Mapping[str, tuple[str, ...]] = _TABLES
"""For those who read rows off damaged pages."""

_KEY = {table: columns[0].split()[0] for table, columns in _TABLES.items()}
_SCHEMA = {
    table: f"CREATE TABLE {table} ({columns[0]}, hash BLOB, {', '.join(columns[1:])})"
    for table, columns in _TABLES.items()
}
_COUNTED = ("genomes", "individuals", "estimates", "generations", "species", "fronts", "events", "tests")
"""Tables that the ledger counts. Not the states: a damaged one gives way to an older one instead of ending the run."""

_EMPTY = {"hypervolume", "seconds", "weights"}
_HELD = {"TEXT": str, "INTEGER": int, "REAL": float, "BLOB": bytes}
_TYPES = {
    table: set(product(*(
        (_HELD[kind], type(None)) if name in _EMPTY else (_HELD[kind],)
        for name, kind, *_ in (column.split() for column in columns)
    )))
    for table, columns in _TABLES.items()
}  # fmt: skip
"""What types the cells of a row may have: SQLite itself would take any."""

_ADDED = ("cohorts", "journal")
"""Tables that runs of format 1 lack: they get them when they are next written to."""

SNAPSHOT_SHARE = 0.05
"""Largest share of the time that goes into snapshots of a population; between them only scores are kept, and the
generations since the last one are bred again from these."""

_SHA = re.compile(r"[0-9a-f]{64}")
_TIP = re.compile(r"(\d{20}) ([0-9a-f]{32})\n")
_SUM = 1 << 128
_REFUSED = {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM,
}  # fmt: skip
_RECIPE_HEAD = "# The recipe this run was started with, in full. A copy to read: the run follows run.sqlite.\n"


_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
"""JSON in the order of its keys: what is read back iterates as what was written did."""


class StoreWarning(UserWarning):
    """Damage that was noticed and worked around; nothing that was read is wrong."""


# ------------------------------------------------------------------------------------------------ states as JSON


def state_to_json(state: State) -> Json:
    """A state as JSON; individuals and estimates by id, since the store has them already."""
    return {
        "generation": state.generation,
        "next_id": state.next_id,
        "population": [individual.id for individual in state.population],
        "estimates": list(state.estimates),
        "front": list(state.front),
        "species": [species_to_json(one) for one in state.species],
        "marks": state.marks.to_json(),
        "evaluations": state.evaluations,
        "memory": dict(state.memory),
    }


def state_from_json(data: Json, individuals: Mapping[int, Individual], estimates: Mapping[int, Estimate]) -> State:
    """The state again, from the individuals and estimates that it names."""
    return State(
        generation=data["generation"],
        next_id=data["next_id"],
        population=tuple(individuals[id] for id in data["population"]),
        estimates={id: estimates[id] for id in data["estimates"]},
        front=tuple(data["front"]),
        species=tuple(
            _species_from_json(one, individuals[one["representative"]], one["members"]) for one in data["species"]
        ),
        marks=Marks.from_json(data["marks"]),
        evaluations=data["evaluations"],
        memory=data["memory"],
    )


def _cohort_state_to_json(state: State) -> Json:
    """A state whose population is a cohort, without what its arrays hold."""
    estimates = state.estimates
    assert isinstance(estimates, Scores)
    return {
        "cohort": len(state.population),
        "generation": state.generation,
        "next_id": state.next_id,
        "others": list(estimates.others),
        "front": list(state.front),
        "species": [species_to_json(one) for one in state.species],
        "marks": state.marks.to_json(),
        "evaluations": state.evaluations,
        "memory": dict(state.memory),
    }


def _cohort_state_from_json(
    data: Json, packed: Row, unpack: Callable[[bytes], Sequence[Genome]], others: Mapping[int, Estimate]
) -> State:
    """The state again, from the arrays that were stored beside it."""
    _, population, representatives, scores = packed
    told = scores_from_bytes(scores)
    standing = cohort_from_bytes(representatives, unpack) if representatives else ()
    return State(
        generation=data["generation"],
        next_id=data["next_id"],
        population=cohort_from_bytes(population, unpack),
        estimates=replace(told, others={id: others[id] for id in data["others"]}),
        front=tuple(data["front"]),
        species=tuple(_species_from_json(one, standing[at], one["members"]) for at, one in enumerate(data["species"])),
        marks=Marks.from_json(data["marks"]),
        evaluations=data["evaluations"],
        memory=data["memory"],
    )


def _species_from_json(one: Json, representative: Individual, members: Sequence[int]) -> Species:
    return Species(
        one["species"], representative, tuple(members), one["born"], one["best"], one["improved"], one.get("champion")
    )


def species_to_json(species: Species, members: Sequence[int] | None = None) -> Json:
    """A species as JSON, with all its members or with those given."""
    return {
        **({} if species.champion is None else {"champion": species.champion}),
        "species": species.id,
        "size": len(species.members),
        "representative": species.representative.id,
        "born": species.born,
        "best": species.best,
        "improved": species.improved,
        "members": list(species.members if members is None else members),
    }


def _named(data: Json) -> tuple[set[int], set[int]]:
    """Ids of the individuals and of the estimates that a state in JSON names."""
    return {*data["population"], *(one["representative"] for one in data["species"])}, set(data["estimates"])


# --------------------------------------------------------------------------------------------- hashes and ledger


def _stamp(table: str, row: Sequence[Any]) -> bytes:
    """The hash of one row. Texts carry their length, so that no two rows are spelt alike (as JSON: 4 x slower)."""
    cells = [_spelt(cell) for cell in row]
    return hashlib.blake2b(",".join((table, *cells)).encode(), digest_size=16).digest()


def _spelt(cell: Any) -> str:
    if isinstance(cell, bytes):
        return f"blob {hashlib.blake2b(cell, digest_size=16).hexdigest()}"
    return f"{len(cell)}:{cell}" if isinstance(cell, str) else repr(cell)


def genuine(table: str, row: Sequence[Any], stamp: object) -> bool:
    """Whether a row is what was once written into this table: its hash says so."""
    try:
        return isinstance(stamp, bytes) and _stamp(table, row) == stamp
    except (UnicodeEncodeError, ValueError):  # text that is none
        return False


@dataclass(slots=True)
class _Ledger:
    """How many commits were made, the newest generation, and per table: rows, sum of integer keys, sum of hashes."""

    commits: int = 0
    generation: int | None = None
    tables: dict[str, list[int]] = field(default_factory=lambda: {table: [0, 0, 0] for table in _COUNTED})

    def count(self, table: str, stamped: Iterable[Row], sign: int = 1) -> None:
        """Adds rows (key, hash, ...) to a table's sums, or takes them away."""
        if table in self.tables:
            rows, keys, total = _sums(stamped)
            entry = self.tables[table]
            entry[:] = entry[0] + sign * rows, entry[1] + sign * keys, (entry[2] + sign * total) % _SUM

    def rows(self, table: str) -> int:
        return self.tables[table][0]


def _sums(stamped: Iterable[Row]) -> tuple[int, int, int]:
    rows = keys = total = 0
    for key, stamp, *_ in stamped:
        rows += 1
        keys += key if isinstance(key, int) else 0
        total += int.from_bytes(stamp, "big")
    return rows, keys, total % _SUM


# ---------------------------------------------------------------------------------------------------- the store


class Store:
    """One run folder, open for reading or as its only writer. A context manager.

    Every method raises DataError where what it reads is damaged, and StorageError where the file system refuses."""

    def __init__(self, folder: Path, db: sqlite3.Connection, lock: FileLock | None = None) -> None:
        self.folder = folder
        self._db = db
        self._lock = lock
        self._tip: int | None = None
        self._since = time.monotonic()
        self._shot, self._shot_cost = -math.inf, 0.0
        self._meta: dict[str, Json] = {}

    # opening and closing ------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, folder: Path, recipe: Mapping[str, Json], about: Mapping[str, Json], recovered: Recovered | None = None
    ) -> Self:
        """A new run folder, open for writing; `run.sqlite` appears last, so a half-made folder is no run.

        `recovered` rows of another folder are in it from the beginning. What a kill left of an earlier attempt is
        replaced. Raises LockedError where a run or anything else is there."""
        valid_name(folder.name)
        with _guarded(folder, "creating"):
            _refuse_taken(folder)
            (folder / "weights").mkdir(parents=True, exist_ok=True)
            lock = _acquire(folder)
        try:
            with _guarded(folder, "creating"):
                _refuse_taken(folder)
                _remove_unfinished(folder)
                _make(folder, recipe, about, recovered or Recovered())
            return cls._writer(folder, lock)
        except BaseException:
            _release(folder, lock)
            raise

    @classmethod
    def open(cls, folder: Path, *, write: bool = False) -> Self:
        """A run folder for reading, or with `write` as its only writer, after every row has been checked.

        Raises DataError for what is no run, is damaged or has a newer format, LockedError where another writer is."""
        _refuse_foreign(folder)
        if not write:
            store = cls(folder, _connect(folder, "ro"))
            try:
                store._inspect()
            except BaseException:
                store.close()
                raise
            return store
        with _guarded(folder, "opening"):
            lock = _acquire(folder)
        try:
            with _guarded(folder, "opening"):
                _remove_unfinished(folder)
                _roll_back(folder)
            with cls(folder, _connect(folder, "ro")) as reader:
                notes = reader._inspect(thorough=True)
            store = cls._writer(folder, lock)
        except BaseException:
            _release(folder, lock)
            raise
        for note in notes:
            store.event("damage", note)
        return store

    @classmethod
    def _writer(cls, folder: Path, lock: FileLock) -> Self:
        """The open writer over a folder that was checked. Nothing has been changed before this point."""
        store = cls(folder, _connect(folder, "rw"), lock)
        try:
            with _guarded(folder, "opening"):
                store._db.execute("PRAGMA journal_mode=WAL")
                store._db.execute("PRAGMA synchronous=NORMAL")
                store._migrate()
                store._read_meta()
                store._mend_recipe()
                store._tip = os.open(folder / "tip", os.O_WRONLY | os.O_CREAT, 0o644)
                store._write_tip(store._read_ledger().commits)
                os.ftruncate(store._tip, len(_tip_text(0)))
        except BaseException:
            store._lock = None
            store.close()
            raise
        return store

    def close(self) -> None:
        """Ends use; a writer moves its log into `run.sqlite` and makes it durable. Twice is once."""
        try:
            if self._lock is not None:
                self._settle()
        finally:
            self._db.close()
            if self._tip is not None:
                os.close(self._tip)
            if self._lock is not None:
                _release(self.folder, self._lock)
            self._tip = self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _migrate(self) -> None:
        """Brings a run of an older format up to this one; what older versions wrote stays as it is, and a copy of the
        database as it was stays beside it."""
        known = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
        missing = [table for table in _ADDED if table not in known]
        if not missing:
            return
        self._read_meta()
        self._back_up(self.folder / f"run.format-{self._meta['format']['format']}.sqlite")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for table in missing:
                self._db.execute(_SCHEMA[table])
            self._put_meta("format", {"format": FORMAT, "since": SINCE})
            self._db.execute("COMMIT")
        finally:
            _end(self._db)

    def _back_up(self, path: Path) -> None:
        """A copy of the database as it is, durable before anything is changed; one from a migration that was killed is
        whole and stays."""
        if path.exists():
            return
        unfinished = path.with_name(path.name + ".tmp")
        with closing(sqlite3.connect(unfinished)) as copy:
            self._db.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # the copy says that it has a log where the original has one
        files.sync(unfinished)
        os.replace(unfinished, path)
        files.sync(self.folder)

    def _settle(self) -> None:
        """Checkpoints, and leaves WAL mode so that the finished folder can be read where nothing can be written."""
        try:
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with suppress(sqlite3.OperationalError):  # a reader is connected: the log stays, empty
                self._db.execute("PRAGMA busy_timeout=0")
                self._db.execute("PRAGMA journal_mode=DELETE")
            files.sync(self.folder / "run.sqlite")
            files.sync(self.folder / "tip")
            files.sync(self.folder)
        except (sqlite3.Error, OSError) as error:
            warnings.warn(
                f"{self.folder}: the log could not be moved into run.sqlite ({error}); it holds every commit, keep "
                "run.sqlite-wal with the folder",
                StoreWarning,
                stacklevel=3,
            )

    @property
    def recipe(self) -> dict[str, Json]:
        """The resolved recipe."""
        return dict(self._meta["recipe"])

    @property
    def about(self) -> dict[str, Json]:
        """What the run was started with: versions, seed, threads, processor, hardware."""
        return dict(self._meta["about"])

    def locked(self) -> bool:
        """Whether a writer holds the folder now."""
        if self._lock is not None:
            return True
        return in_use(self.folder)

    @property
    def holder(self) -> str:
        """Who holds the folder, or held it last: a process and its host."""
        return holder(self.folder)

    # writing ------------------------------------------------------------------------------------------------

    def lay(self, individuals: Sequence[Individual]) -> None:
        """Births, before they are estimated. Those laid already are ignored; another with the same id is DataError."""
        rows = {individual.id: _birth_row(individual) for individual in individuals}
        with self._snapshot():
            known = self._find("individuals", rows)
            keys = {row[2] for id, row in rows.items() if id not in known}
            genomes = {individual.genome.key: individual.genome for individual in individuals}
            missing = sorted(keys - self._find("genomes", keys).keys())
        for id, row in known.items():
            if row != rows[id]:
                raise DataError(
                    f"{self.folder}: individual {id} was born as genome {row[2]} and would now be {rows[id][2]}: the "
                    "run would go on differently; resume with the evonas version, recipe and task it began with"
                )
        if len(known) == len(rows):
            return
        with self._transaction() as ledger:
            self._insert(ledger, "genomes", [(key, genomes[key].text) for key in missing])
            self._insert(ledger, "individuals", [row for id, row in rows.items() if id not in known])

    def commit(self, outcomes: Sequence[Outcome]) -> dict[int, Estimate]:
        """Estimates as they arrive: weights files first, then all rows in one transaction. Gives them as stored, by id.

        Weights name themselves: `Estimate.weights` becomes their SHA-256. An id that has an estimate keeps it."""
        ids = {outcome.estimate.id for outcome in outcomes}
        known = self.estimates(ids)
        fresh = {o.estimate.id: o for o in reversed(outcomes) if o.estimate.id not in known}
        self._refuse_unborn(fresh)
        hashes = self._save([o.weights for o in fresh.values() if o.weights is not None])
        stored = {id: _with_weights(o, hashes) for id, o in sorted(fresh.items())}
        if stored:
            with self._transaction() as ledger:
                first, now = ledger.rows("estimates"), time.time()
                order = [outcome.estimate.id for outcome in outcomes if outcome.estimate.id in stored]
                arrived = {id: first + i for i, id in enumerate(dict.fromkeys(order))}
                rows = [_estimate_row(estimate, arrived[id], now) for id, estimate in stored.items()]
                self._insert(ledger, "estimates", rows)
        return {id: stored.get(id) or known[id] for id in sorted(ids)}

    def commit_generation(self, state: State, stats: Mapping[str, Json]) -> None:
        """A finished generation in one transaction: its row, species, front and the state that the next follows from.

        `stats` may hold `hypervolume` and `seconds` (else the time since the last generation) besides anything else.
        Generations from this one on, which an older state is replayed over, are replaced."""
        generation, body = state.generation, state_to_json(state)
        individuals, estimates = _named(body)
        self._refuse_unborn(individuals | estimates | set(state.front))
        row = self._generation_row(state, stats)
        with self._transaction() as ledger:
            self._replace_generation(ledger, row, body["species"], body["front"])
            self._insert(ledger, "states", [(generation, _json(body))])
        self._since = time.monotonic()

    def commit_cohort(
        self,
        state: State,
        stats: Mapping[str, Json],
        scored: Scored,
        keep: set[int],
        pack: Callable[[Sequence[Genome]], bytes],
        snapshot: bool = False,
    ) -> None:
        """A finished generation that was estimated as a whole, in one transaction.

        Of the individuals born in it those in `keep` are kept, with their estimates. The scores of all go into the
        journal; the population itself is written with `snapshot`, or when the last time is long enough ago."""
        kept = [scored.born[int(at)] for at in np.flatnonzero(np.isin(scored.born.ids, list(keep)))]
        row = self._generation_row(state, stats)
        species = [species_to_json(one, sorted(keep & {one.champion})) for one in state.species]
        with self._transaction() as ledger:
            known = self._find("individuals", [one.id for one in kept])
            born = [one for one in kept if one.id not in known]
            genomes = {one.genome.key: one.genome for one in born}
            missing = sorted(genomes.keys() - self._find("genomes", genomes).keys())
            self._insert(ledger, "genomes", [(key, genomes[key].text) for key in missing])
            self._insert(ledger, "individuals", [_birth_row(one) for one in born])
            first, now = ledger.rows("estimates"), time.time()
            estimates = [_estimate_row(scored.scores[one.id], first + i, now) for i, one in enumerate(born)]
            self._insert(ledger, "estimates", estimates)
            self._replace_generation(ledger, row, species, list(state.front))
            self._insert(ledger, "journal", [(state.generation, scores_to_bytes(scored.scores))])
            if snapshot or time.monotonic() - self._shot > self._shot_cost / SNAPSHOT_SHARE:
                self._put_snapshot(ledger, state, pack)
        self._since = time.monotonic()

    def snapshot(self, state: State, pack: Callable[[Sequence[Genome]], bytes]) -> None:
        """Writes the state of a cohort where its last generation left that out, so that nothing must be bred again."""
        with self._transaction() as ledger:
            if not self._find("states", [state.generation]):
                self._put_snapshot(ledger, state, pack)

    def _put_snapshot(self, ledger: _Ledger, state: State, pack: Callable[[Sequence[Genome]], bytes]) -> None:
        began = time.monotonic()
        population, estimates = state.population, state.estimates
        assert isinstance(population, Cohort)
        assert isinstance(estimates, Scores)
        for table in ("states", "cohorts"):
            old = self._db.execute(f"SELECT generation FROM {table} ORDER BY generation DESC").fetchall()
            if len(old) >= KEPT_STATES:
                self._delete(ledger, table, "generation <= ?", old[KEPT_STATES - 1][0])
        representatives = Cohort.of([one.representative for one in state.species], lambda genomes: genomes)
        blobs = (
            cohort_to_bytes(population, pack),
            cohort_to_bytes(representatives, pack) if state.species else b"",
            scores_to_bytes(estimates),
        )
        self._insert(ledger, "states", [(state.generation, _json(_cohort_state_to_json(state)))])
        self._insert(ledger, "cohorts", [(state.generation, *blobs)])
        self._shot = time.monotonic()
        # the commit, which writes the same bytes once more, is not over yet
        self._shot_cost = 2 * (self._shot - began)

    def _generation_row(self, state: State, stats: Mapping[str, Json]) -> Row:
        rest = {name: value for name, value in stats.items() if name not in ("hypervolume", "seconds", "evaluations")}
        seconds = _real(stats.get("seconds", time.monotonic() - self._since))
        return (
            state.generation, state.evaluations, _real(stats.get("hypervolume")), seconds, time.time(), _json(rest),
        )  # fmt: skip

    def _replace_generation(self, ledger: _Ledger, row: Row, species: Json, front: Json) -> None:
        """Writes what every finished generation has, over what an older state may have left of it."""
        generation = row[0]
        for table in ("generations", "species", "fronts", "states", *_ADDED):
            self._delete(ledger, table, "generation >= ?", generation)
        if not self._db.execute("SELECT 1 FROM cohorts").fetchone():
            self._delete(ledger, "states", "generation <= ?", generation - KEPT_STATES)
        self._insert(ledger, "generations", [row])
        self._insert(ledger, "species", [(generation, _json(species))])
        self._insert(ledger, "fronts", [(generation, _json(front))])
        ledger.generation = generation

    def event(self, kind: str, text: str, data: Json = None) -> None:
        """Records that something happened to the run."""
        with self._transaction() as ledger:
            row = (ledger.rows("events"), time.time(), _plain(kind), _plain(text), _json(data))
            self._insert(ledger, "events", [row])

    def record_test(
        self,
        id: int,
        seed: int,
        values: Mapping[str, float],
        curve: Sequence[Mapping[str, float]] = (),
        cost: Mapping[str, float] | None = None,
        weights: bytes | None = None,
    ) -> str | None:
        """A final training and its values on the test set: the record that the test set was touched.

        Returns the SHA-256 of its weights."""
        self._refuse_unborn([id])
        sha = self._save([weights])[weights] if weights is not None else None
        texts = (_json(dict(values)), _json([dict(point) for point in curve]), _json(dict(cost or {})))
        with self._transaction() as ledger:
            self._insert(ledger, "tests", [(ledger.rows("tests"), id, str(seed), *texts, sha, time.time())])
        return sha

    def save_weights(self, weights: bytes) -> str:
        """Writes weights that no estimate brings, as founders have them; their SHA-256. The next collection deletes
        them unless it is told to keep them."""
        if self._lock is None:
            raise StorageError(f"{self.folder} is open for reading only")
        return self._save([weights])[weights]

    def adopt(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Adds rows of another folder to those there are, in one transaction; rows whose keys are there already stay
        as they are."""
        with self._transaction() as ledger:
            for table, some in rows.items():
                known = self._find(table, [row[0] for row in some])
                self._insert(ledger, table, [row for row in some if row[0] not in known])

    def forget(self, table: str, keys: Collection[Any]) -> None:
        """Takes rows out."""
        with self._transaction() as ledger:
            for key in keys:
                self._delete(ledger, table, f"{_KEY[table]} = ?", key)

    def rows_of(self, table: str) -> dict[Any, Row]:
        """All rows of a table by key, each checked against its hash."""
        with self._snapshot():
            found = self._db.execute(f"SELECT * FROM {table} NOT INDEXED").fetchall() if self._has(table) else []
            return {key: self._checked(table, stamp, (key, *cells)) for key, stamp, *cells in found}

    def relimit(self, recipe: Mapping[str, Json]) -> None:
        """Puts another resolved recipe in place; whether it may differ is the caller's to decide."""
        text = _recipe_text(recipe)
        before = self._meta["recipe.yaml"]["sha256"]
        with self._transaction():
            self._put_meta("recipe", dict(recipe))
            self._put_meta("recipe.yaml", {"sha256": _sha256(text), "before": before})
        self._read_meta()
        with _guarded(self.folder, "writing"):
            files.put(self.folder / "recipe.yaml", text)
            files.sync(self.folder)

    def collect(self, keep: Collection[str]) -> int:
        """Deletes the weights files that are not in `keep`; returns how many bytes that freed."""
        freed = 0
        with _guarded(self.folder, "deleting weights in"), os.scandir(self.folder / "weights") as entries:
            there = {entry.name.removesuffix(".safetensors"): entry for entry in entries}
            dead = [entry for sha, entry in there.items() if _SHA.fullmatch(sha) and sha not in keep]
            if dead and _log_size(self.folder):
                # durable first: a power cut must not bring back a state whose children would inherit what is gone
                files.sync(self.folder / "run.sqlite-wal")
            for entry in dead:
                freed += entry.stat().st_size
                os.unlink(entry.path)
        return freed

    def sweep(self, litter: Iterable[Litter]) -> None:
        """Deletes what `litter` found, files and whole folders; links are deleted and not followed."""
        if self._lock is None:
            raise StorageError(f"{self.folder} is open for reading only")
        with _guarded(self.folder, "deleting files of"):
            if _log_size(self.folder):
                files.sync(self.folder / "run.sqlite-wal")  # as in `collect`
            for one in litter:
                if one.path.is_dir() and not one.path.is_symlink():
                    shutil.rmtree(one.path)
                else:
                    one.path.unlink(missing_ok=True)
            files.sync(self.folder)

    def compact(self) -> None:
        """Gives the pages of the database that nothing uses back to the file system; needs as much room meanwhile."""
        if self._lock is None:
            raise StorageError(f"{self.folder} is open for reading only")
        with _guarded(self.folder, "compacting"):
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # reading ------------------------------------------------------------------------------------------------

    @property
    def newest(self) -> int:
        """The newest finished generation, 0 before the first."""
        with self._snapshot():
            return self._read_ledger().generation or 0

    def load_state(
        self, decode: Callable[[Json], Genome], unpack: Callable[[bytes], Sequence[Genome]] | None = None
    ) -> State | None:
        """The newest state there is, None before the first. Where `newest` is further, the journal leads there.

        Where it is damaged, an older intact one is taken with a StoreWarning; the loop then replays what follows it."""
        with self._snapshot():
            newest = self._read_ledger().generation
            query = "SELECT generation FROM states WHERE generation BETWEEN 1 AND ? ORDER BY generation DESC"
            stored = [row[0] for row in self._db.execute(query, (newest or 0,))]  # a damaged key may lie anywhere
            journaled = self._journaled()
        if newest is None:
            return None
        damage: DataError | None = None
        if not journaled and newest not in stored:
            damage = self._damage("states", newest)
        for generation in stored:
            try:
                state = self._state(generation, decode, unpack)
            except DataError as error:
                damage = damage or error
                continue
            if damage is not None:
                self._note(f"state {newest} is damaged; going on from generation {generation} ({damage})")
            return state
        raise damage or self._damage("states")

    def stored_states(self) -> list[int]:
        """The generations whose states are stored, oldest first."""
        with self._snapshot():
            query = "SELECT generation FROM states WHERE generation > 0 ORDER BY generation"
            return [generation for (generation,) in self._db.execute(query)]

    def state_of(
        self, generation: int, decode: Callable[[Json], Genome], unpack: Callable[[bytes], Sequence[Genome]] | None
    ) -> State | None:
        """The state after a generation, None where it is not stored. Raises DataError where it is not intact."""
        return self._state(generation, decode, unpack) if generation in self.stored_states() else None

    def journal(self, generation: int) -> Scores | None:
        """The scores of everyone born in a generation that was estimated as a whole; None where it was not."""
        with self._snapshot():
            found = self._find("journal", [generation]) if self._has("journal") else {}
        return scores_from_bytes(found[generation][1]) if generation in found else None

    def _journaled(self) -> bool:
        """Whether generations were estimated as a whole, so that the journal leads on from an older state."""
        return self._has("journal") and self._db.execute("SELECT 1 FROM journal").fetchone() is not None

    def _journal(self, since: int = 0) -> Iterator[tuple[int, Scores]]:
        if self._has("journal"):
            query = "SELECT * FROM journal WHERE generation >= ? ORDER BY generation"
            for generation, stamp, scores in self._db.execute(query, (since,)):
                yield generation, scores_from_bytes(self._checked("journal", stamp, (generation, scores))[1])

    def individual(self, id: int, decode: Callable[[Json], Genome]) -> Individual:
        """One individual; RecipeError naming the highest id where there is none such."""
        return self.individuals([id], decode)[0]

    def individuals(self, ids: Iterable[int] | None, decode: Callable[[Json], Genome]) -> list[Individual]:
        """Individuals in the order of `ids`, or all by id; equal genomes share one object."""
        wanted = None if ids is None else list(ids)
        with self._snapshot():
            rows = self._births(wanted)
            bodies = self._bodies({row[2] for row in rows}, wanted is None)
        genomes = {key: decode(loads(body)) for key, body in bodies.items()}
        return [
            Individual(id, genomes[key], _parents(parents), _edits(edits), birth)
            for id, birth, key, parents, edits in rows
        ]

    def genome_json(self, id: int) -> Json:
        """The genome of an individual as JSON."""
        with self._snapshot():
            key = self._births([id])[0][2]
            return loads(self._bodies({key})[key])

    def birth(self, id: int) -> Birth:
        """How an individual was born; RecipeError naming the highest id where there is none such."""
        with self._snapshot():
            return _birth(self._births([id])[0])

    def births(self, ids: Iterable[int]) -> dict[int, Birth]:
        """How individuals were born, by id; those that were not kept are left out."""
        with self._snapshot():
            return {id: _birth(row) for id, row in self._find("individuals", ids).items()}

    def born_since(self, generation: int) -> list[int]:
        """Ids of those who were born in a generation or later, ascending."""
        with self._snapshot():
            query = "SELECT id FROM individuals WHERE birth >= ? ORDER BY id"
            return [row[0] for row in self._db.execute(query, (generation,))]

    def parents(self, id: int) -> tuple[int, ...]:
        """The parents of an individual, by id."""
        with self._snapshot():
            return _parents(self._births([id])[0][3])

    def edits(self, id: int) -> tuple[Edit, ...]:
        """The edits that made an individual of its parents."""
        with self._snapshot():
            return _edits(self._births([id])[0][4])

    def estimate(self, id: int) -> Estimate | None:
        """The estimate of an individual, None while it is still to come."""
        return self.estimates([id]).get(id)

    def estimates(self, ids: Iterable[int] | None = None) -> dict[int, Estimate]:
        """Estimates by id, in the order of `ids` (those that exist), or all by id."""
        with self._snapshot():
            if ids is None:
                return {row[0]: estimate_of(row) for row in self._all("estimates")}
            wanted = list(ids)
            found = self._find("estimates", wanted)
        return {id: estimate_of(found[id]) for id in wanted if id in found}

    def kept(self, ids: Iterable[int]) -> set[int]:
        """Those of the ids whose individuals are here; of whole populations only some are kept."""
        with self._snapshot():
            return set(self._find("individuals", ids))

    def finished(self, ids: Iterable[int] | None = None) -> set[int]:
        """Ids that have an estimate, of `ids` or of all."""
        with self._snapshot():
            return {row[0] for row in self._all("estimates")} if ids is None else set(self._find("estimates", ids))

    def arrivals(self) -> list[int]:
        """Ids in the order in which their estimates arrived."""
        with self._snapshot():
            return [row[0] for row in sorted(self._all("estimates"), key=lambda row: row[7])]

    def generations(self) -> list[dict[str, Json]]:
        """One mapping per generation: generation, evaluations, hypervolume, seconds, time, the rest of its stats."""
        with self._snapshot():
            return [_generation(row) for row in self._all("generations")]

    def generations_of(self, generation: int) -> list[dict[str, Json]]:
        """One generation as `generations` gives it; none for 0, before the first."""
        with self._snapshot():
            return [_generation(row) for row in self._of_generation("generations", generation)]

    def history(self) -> list[Passed]:
        """How the run went, generation by generation, without the rest of their stats.

        For drawing: rows are not checked one by one, which takes ten times as long; `generations` does."""
        with self._snapshot():
            return [_passed(row) for row in self._db.execute(_HISTORY)]

    def latest(self) -> dict[str, Json]:
        """The newest generation as `generations` gives it; empty before the first."""
        with self._snapshot():
            newest = self._read_ledger().generation or 0
            return next(map(_generation, self._of_generation("generations", newest)), {})

    def species(self, generation: int | None = None) -> list[dict[str, Json]]:
        """Species after `generation`, or after every generation.

        Each has generation, species (its id), size, representative (an id), born, best, improved, members (ids)."""
        with self._snapshot():
            rows = list(self._all("species")) if generation is None else self._of_generation("species", generation)
            return [{"generation": row[0], **one} for row in rows for one in shapes.species(loads(row[1]))]

    def front(self, generation: int | None = None) -> list[int]:
        """Ids of the front after `generation`, by default the newest; empty before the first."""
        with self._snapshot():
            if generation is None:
                generation = self._read_ledger().generation or 0
            rows = self._of_generation("fronts", generation)
            return [id for row in rows for id in shapes.ids(loads(row[1]), "a front")]

    def fronts(self) -> dict[int, list[int]]:
        """Ids of the front by generation, after each that is finished."""
        with self._snapshot():
            return {generation: shapes.ids(loads(body), "a front") for generation, body in self._all("fronts")}

    def everyone(self, since: int = 0) -> Everyone:
        """All individuals born in generation `since` or later as arrays, also those of whole populations that were not
        kept one by one.

        For drawing: rows are counted against the ledger but not checked one by one, which takes five times as long.
        What is to be relied on is read by `estimates`."""
        with self._snapshot():
            if self._journaled():
                return Everyone.joined([Everyone.told(at - 1, told) for at, told in self._journal(since + 1)])
            rows = self._db.execute(_EVERYONE, (since,)).fetchall()
            count, keys = self._db.execute("SELECT count(*), sum(id) FROM estimates NOT INDEXED").fetchone()
            if [count, keys or 0] != self._read_ledger().tables["estimates"][:2]:
                raise self._damage("estimates")
        return _everyone(rows)

    def events(self) -> list[dict[str, Json]]:
        """What happened to the run, in order: time, kind, text, data."""
        with self._snapshot():
            return [
                {"time": row[1], "kind": row[2], "text": row[3], "data": loads(row[4])} for row in self._all("events")
            ]

    def ended(self) -> bool:
        """Whether the run came to its end and nobody went on with it since: its generations, its budget, its goal, or
        whatever its strategy asked for were reached."""
        told = [event["kind"] for event in self.events() if event["kind"] in ("finished", "resumed", "interrupted")]
        return told[-1:] == ["finished"]

    def tests(self) -> list[dict[str, Json]]:
        """The final trainings, in order: id (of the individual), seed, values, curve, cost, weights (SHA-256), time."""
        with self._snapshot():
            rows = list(self._all("tests"))
        return [
            {
                "id": row[1], "seed": _seed(row[2]), "values": shapes.numbers(loads(row[3]), "values"),
                "curve": list(shapes.curve(loads(row[4]))), "cost": shapes.numbers(loads(row[5]), "a cost"),
                "weights": shapes.sha(row[6]), "time": row[7],
            }
            for row in rows
        ]  # fmt: skip

    def has_weights(self, sha: str) -> bool:
        """Whether the weights file is there; `weights` says whether it is intact."""
        return self._weights_path(sha).is_file()

    def weights(self, sha: str, most: int = limits.WEIGHTS_BYTES) -> bytes:
        """A weights file as safetensors bytes, checked against the SHA-256 it is named by. DataError, before anything
        is read, where it has more than `most` bytes."""
        path = self._weights_path(sha)
        with _guarded(self.folder, "reading"):
            try:
                _refuse_larger(path, most)
                data = path.read_bytes()
            except FileNotFoundError:
                raise DataError(
                    f"{path} is missing; restore it from a backup, or train the network again from its genome"
                ) from None
        if _sha256(data) != sha:
            raise DataError(
                f"{path} is damaged: its {len(data)} bytes do not have the SHA-256 it is named by; restore it from a "
                "backup, or train the network again from its genome"
            )
        return data

    def weights_file(self, sha: str) -> Path:
        """The path of a weights file, after its content was checked as `weights` does."""
        self.weights(sha)
        return self._weights_path(sha)

    def weights_since(self, first: int) -> set[str]:
        """SHA-256 of the weights of all individuals whose ids are `first` or above."""
        with self._snapshot():
            found = self._db.execute("SELECT * FROM estimates WHERE id >= ?", (first,))
            rows = [self._checked("estimates", stamp, (id, *cells)) for id, stamp, *cells in found]
        return {sha for row in rows if (sha := estimate_of(row).weights)}

    def weights_born(self, generation: int) -> set[str]:
        """SHA-256 of the weights of all individuals that were born in a generation or later."""
        return {one.weights for one in self.estimates(self.born_since(generation)).values() if one.weights}

    def waiting(self) -> list[int]:
        """Ids of those who were born and have no estimate yet, ascending."""
        with self._snapshot():
            return [id for (id,) in self._db.execute(_WAITING)]

    def named_weights(self) -> dict[str, int]:
        """Every weights file that an estimate or a final training names, with the individual whose it is."""
        named = {one.weights: id for id, one in self.estimates().items() if one.weights}
        return named | {test["weights"]: test["id"] for test in self.tests() if test["weights"]}

    def present_weights(self) -> dict[str, int]:
        """The weights files that are there, by SHA-256, with their bytes."""
        with _guarded(self.folder, "reading"), suppress(FileNotFoundError):
            return {
                path.stem: path.stat().st_size
                for path in sorted((self.folder / "weights").glob("*.safetensors"))
                if _SHA.fullmatch(path.stem)
            }
        return {}

    def litter(self, keep: Collection[str]) -> list[Litter]:
        """What may be deleted: weights that are not in `keep`, unfinished files, the scratch folder of workers that are
        gone, copies that a migration left. Means nothing while a writer is at work."""
        weights = self.folder / "weights"
        found = [
            *(("weights", weights / f"{sha}.safetensors") for sha in self.present_weights() if sha not in keep),
            *(("unfinished", path) for path in _unfinished(self.folder)),
            *(("scratch", path) for path in self.folder.glob("scratch")),
            *(("older format", path) for path in self.folder.glob("run.format-*.sqlite")),
        ]
        with _guarded(self.folder, "reading"):
            return [Litter(kind, path, _bytes_of(path)) for kind, path in found]

    def spare_bytes(self) -> int:
        """Bytes of the database that nothing uses; `compact` frees them."""
        with _guarded(self.folder, "reading"):
            (pages,) = self._db.execute("PRAGMA freelist_count").fetchone()
            (size,) = self._db.execute("PRAGMA page_size").fetchone()
        return int(pages * size)

    def size(self) -> int:
        """Bytes of all files of the run."""
        with _guarded(self.folder, "reading"):
            return _bytes_of(self.folder)

    def inspect(self) -> dict[str, int]:
        """Checks every row of every table against its hash and all against the ledger; how many there are, by table.

        Raises DataError naming the first that is damaged."""
        self._inspect(thorough=True)
        with self._snapshot():
            for table in ("states", *_ADDED):
                if self._has(table):
                    for key, stamp, *cells in self._db.execute(f"SELECT * FROM {table}"):
                        self._checked(table, stamp, (key, *cells))
            tables = [table for table in _TABLES if self._has(table)]
            return {
                table: self._db.execute(f"SELECT count(*) FROM {table} NOT INDEXED").fetchone()[0] for table in tables
            }

    def commits(self) -> int:
        """How many transactions were committed since the run began."""
        with self._snapshot():
            return self._read_ledger().commits

    def digest(self, measured: Collection[str] = ()) -> str:
        """A hash of what the recipe decides: equal for an uninterrupted run and one that was killed and resumed.

        Covers individuals, genomes, parents, edits, estimates with their weights' hashes, species, fronts and the
        newest state; leaves out times, costs, failures' reasons and the values of `measured` objectives."""
        hasher = hashlib.blake2b(digest_size=16)
        skipped = {"seconds", *measured}
        with self._snapshot():
            newest = self._read_ledger().generation or 0
            bodies = {key: _sha256(body.encode()) for key, body in self._all("genomes")}
            for row in self._all("individuals"):
                hasher.update(_stamp("individuals", (*row, bodies.get(row[2]))))
            for row in self._all("estimates"):
                one = estimate_of(row)
                values, *curve = [
                    {name: value for name, value in point.items() if name not in skipped}
                    for point in (one.values, *one.curve)
                ]
                hasher.update(_stamp("estimates", (one.id, one.status, dumps(values), dumps(curve), one.weights)))
            for table in ("species", "fronts"):
                for row in self._all(table):
                    hasher.update(_stamp(table, row))
            for row in self._all("generations"):
                hasher.update(_stamp("generations", row[:2]))
            journaled = self._journaled()
            kept = self._find("states", [newest]).values() if journaled else self._of_generation("states", newest)
            for row in kept:
                hasher.update(_stamp("states", row))
            packed = self._find("cohorts", [newest]) if self._has("cohorts") else {}
            for generation, *standing, scores in packed.values():
                hasher.update(_stamp("cohorts", (generation, *standing, _without_cost(scores_from_bytes(scores)))))
            for generation, told in self._journal():
                hasher.update(_stamp("journal", (generation, _without_cost(told))))
        return hasher.hexdigest()

    # rows ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Reads inside see one moment of the database, whatever the writer does meanwhile."""
        with _guarded(self.folder, "reading"):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                _end(self._db)

    @contextmanager
    def _transaction(self) -> Iterator[_Ledger]:
        """Writes inside happen together or not at all. The ledger is read anew: a signal can never leave it behind."""
        if self._lock is None:
            raise StorageError(f"{self.folder} is open for reading only")
        with _guarded(self.folder, "writing"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                ledger = self._read_ledger()
                yield ledger
                ledger.commits += 1
                row = _ledger_row(ledger)
                self._db.execute("UPDATE ledger SET hash = ?, body = ? WHERE id = 1", (_stamp("ledger", row), row[1]))
                self._db.execute("COMMIT")
            finally:
                _end(self._db)
            self._write_tip(ledger.commits)

    def _insert(self, ledger: _Ledger, table: str, rows: Sequence[Row]) -> None:
        stamped = [(row[0], _stamp(table, row), *row[1:]) for row in rows]
        marks = ", ".join("?" * (len(_TABLES[table]) + 1))
        self._db.executemany(f"INSERT INTO {table} VALUES ({marks})", stamped)
        ledger.count(table, stamped)

    def _delete(self, ledger: _Ledger, table: str, where: str, *values: Any) -> None:
        doomed = self._db.execute(f"SELECT {_KEY[table]}, hash FROM {table} WHERE {where}", values).fetchall()
        if doomed:
            self._db.execute(f"DELETE FROM {table} WHERE {where}", values)
            ledger.count(table, doomed, -1)

    def _all(self, table: str) -> Iterator[Row]:
        """Every row of a table in its order; at the end DataError unless these are all that the ledger counted."""
        rows = keys = total = 0
        for key, stamp, *cells in self._db.execute(f"SELECT * FROM {table} NOT INDEXED ORDER BY rowid"):
            yield self._checked(table, stamp, (key, *cells))
            rows += 1
            keys += key if isinstance(key, int) else 0
            total += int.from_bytes(stamp, "big")
        if [rows, keys, total % _SUM] != self._read_ledger().tables[table]:
            raise self._damage(table)

    def _find(self, table: str, keys: Iterable[Any]) -> dict[Any, Row]:
        """Rows by key; what is missing was never written, or DataError is raised."""
        wanted = list(keys)
        query = f"SELECT * FROM {table} WHERE {_KEY[table]} IN (SELECT value FROM json_each(?))"
        found = {
            key: self._checked(table, stamp, (key, *cells))
            for key, stamp, *cells in self._db.execute(query, (_json(wanted),))
        }
        missing = set(wanted) - found.keys()
        if missing and self._lock is None and table in _COUNTED:
            self._refuse_lost(table, missing)
        return found

    def _refuse_lost(self, table: str, missing: set[Any]) -> None:
        """DataError if a search tree leads past rows that are there, or if rows went missing altogether.

        A reader asks this; a writer has checked the whole database when it opened."""
        keys = [key for (key,) in self._db.execute(f"SELECT {_KEY[table]} FROM {table} NOT INDEXED")]
        rows, total, _ = self._read_ledger().tables[table]
        if len(keys) != rows or sum(key for key in keys if isinstance(key, int)) != total or missing & set(keys):
            raise self._damage(table)

    def _checked(self, table: str, stamp: bytes, row: Row) -> Row:
        if _stamp(table, row) != stamp or tuple(map(type, row)) not in _TYPES[table]:
            raise self._damage(table, row[0])
        return row

    def _has(self, table: str) -> bool:
        """Whether the database has this table: runs of format 1 lack some until they are written to."""
        query = "SELECT 1 FROM sqlite_master WHERE name = ?"
        return self._db.execute(query, (table,)).fetchone() is not None

    def _births(self, ids: Sequence[int] | None) -> list[Row]:
        if ids is None:
            return list(self._all("individuals"))
        found = self._find("individuals", ids)
        for id in ids:
            if id not in found:
                (highest,) = self._db.execute("SELECT max(id) FROM individuals").fetchone()
                known = "it has none yet" if highest is None else f"the highest id is {highest}"
                if highest is not None and 0 <= id < highest:
                    known = "it was not kept; `store: {individuals: all}` in a recipe keeps every one"
                raise RecipeError(f"no individual {id} in {self.folder.name}: {known}")
        return [found[id] for id in ids]

    def _bodies(self, keys: set[str], every: bool = False) -> dict[str, str]:
        """Genomes as JSON text by key."""
        bodies = {row[0]: row[1] for row in (self._all("genomes") if every else self._find("genomes", keys).values())}
        if lost := keys - bodies.keys():
            raise self._damage("genomes", min(lost))
        return bodies

    def _of_generation(self, table: str, generation: int) -> list[Row]:
        """The one row of a finished generation; none for generation 0, before the first."""
        found = list(self._find(table, [generation]).values())
        newest = self._read_ledger().generation or 0
        if not 0 <= generation <= newest:
            raise RecipeError(f"no generation {generation} in {self.folder.name}: it has finished {newest}")
        if not found and generation:
            raise self._damage(table, generation)
        return found

    def _state(
        self, generation: int, decode: Callable[[Json], Genome], unpack: Callable[[bytes], Sequence[Genome]] | None
    ) -> State:
        with self._snapshot():
            (row,) = self._of_generation("states", generation)
            packed = self._find("cohorts", [generation]).get(generation) if self._has("cohorts") else None
        data = loads(row[1])
        try:
            if "cohort" in data:
                if packed is None or unpack is None:
                    raise self._damage("cohorts", generation)
                others = self.estimates(data["others"])
                return _cohort_state_from_json(data, packed, unpack, others)
            individuals, estimates = _named(data)
            born = {individual.id: individual for individual in self.individuals(sorted(individuals), decode)}
            return state_from_json(data, born, self.estimates(sorted(estimates)))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecipeError):
            raise self._damage("states, individuals or estimates") from None

    def _refuse_unborn(self, ids: Iterable[int]) -> None:
        """ValueError for ids that no birth was laid for: such a row could never be read again."""
        wanted = sorted(set(ids))
        query = "SELECT count(*) FROM individuals WHERE id IN (SELECT value FROM json_each(?))"
        with self._snapshot():
            (known,) = self._db.execute(query, (_json(wanted),)).fetchone()
        if known != len(wanted):
            raise ValueError(f"{len(wanted) - known} of the individuals {wanted[:8]}... were never laid")

    def _damage(self, table: str, key: Any = None) -> DataError:
        where = f"table {table}" + (" lost or gained rows" if key is None else f", row {key!r} does not match its hash")
        return _damaged(self.folder, where)

    # inspection and records outside the tables --------------------------------------------------------------

    def _inspect(self, thorough: bool = False) -> list[str]:
        """Reads what the run is and raises DataError for damage; what can be worked around is warned of and returned.

        A thorough inspection reads every row; otherwise each is checked when it is read."""
        before = _read_tip(self.folder)
        with self._snapshot():
            schema = dict(self._db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
            if schema.get("meta", _SCHEMA["meta"]) != _SCHEMA["meta"]:  # a view could reckon for ever
                raise _damaged(self.folder, "its tables are not those of a run")
            self._read_meta()
            older = {table: text for table, text in _SCHEMA.items() if table not in _ADDED}
            if schema not in (_SCHEMA, older):
                raise _damaged(self.folder, "its tables are not those of a run")
            commits = self._read_ledger().commits
            if thorough:
                (verdict,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
                if verdict != "ok":
                    raise _damaged(self.folder, " ".join(str(verdict).split())[:200])
                for table in _COUNTED:
                    for _ in self._all(table):
                        pass
        notes = []
        if before is None:
            notes.append(f"{self.folder / 'tip'} is damaged or missing: whether the last commits are there is unknown")
        elif before > commits:
            notes.append(
                f"{self.folder}: the last {before - commits} of {before} commits are gone (run.sqlite-wal was cut, or "
                "the machine lost power); everything before them is intact, and resuming computes them again"
            )
        if (self._recipe_file() or "missing") not in self._meta["recipe.yaml"].values():
            notes.append(
                f"{self.folder / 'recipe.yaml'} was changed or is missing; the run follows its own copy in run.sqlite: "
                "to change a limit use `evonas resume`, for anything else start a new run"
            )
        for note in notes:
            warnings.warn(note, StoreWarning, stacklevel=4)
        return notes

    def _note(self, text: str) -> None:
        """Warns of damage that was worked around, and records it where this store may write."""
        warnings.warn(f"{self.folder}: {text}", StoreWarning, stacklevel=4)
        if self._lock is not None:
            self.event("damage", text)

    def _read_meta(self) -> None:
        rows = self._db.execute("SELECT name, hash, value FROM meta").fetchall()
        self._meta = {row[0]: loads(row[1]) for row in (self._checked("meta", r[1], (r[0], r[2])) for r in rows)}
        if "format" not in self._meta:
            raise self._damage("meta")
        shapes.meta(self._meta)
        form = self._meta["format"]
        if form["format"] > FORMAT:
            raise DataError(
                f"{self.folder} has run format {form['format']}, this evonas reads formats up to {FORMAT}: install "
                f"evonas {form['since']} or newer"
            )
        if self._meta.keys() != {"format", "recipe", "recipe.yaml", "about"}:
            raise self._damage("meta")

    def _put_meta(self, name: str, value: Json) -> None:
        row = (name, _json(value))
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, _stamp("meta", row), row[1]))

    def _read_ledger(self) -> _Ledger:
        found = self._db.execute("SELECT id, hash, body FROM ledger").fetchall()
        if len(found) != 1:
            raise self._damage("ledger")
        id, stamp, body = found[0]
        return _Ledger(**shapes.ledger(loads(self._checked("ledger", stamp, (id, body))[1]), _COUNTED))

    def _write_tip(self, commits: int) -> None:
        if self._tip is not None:
            os.pwrite(self._tip, _tip_text(commits), 0)

    def _recipe_file(self) -> str | None:
        try:
            return _sha256(_small(self.folder / "recipe.yaml"))
        except OSError:
            return None

    def _mend_recipe(self) -> None:
        """Writes `recipe.yaml` anew where it is missing, or where a kill came between the database and it."""
        if self._recipe_file() in (None, self._meta["recipe.yaml"]["before"]):
            self.relimit(self.recipe)

    def _weights_path(self, sha: str) -> Path:
        if not _SHA.fullmatch(sha):
            raise DataError(f"{sha[:80]!r} names no weights: 64 hexadecimal digits do")
        return self.folder / "weights" / f"{sha}.safetensors"

    def _save(self, contents: Sequence[bytes]) -> dict[bytes, str]:
        """Writes weights files, durable before any row can name them; their SHA-256 by content."""
        hashes = {content: _sha256(content) for content in contents}
        if hashes:
            with _guarded(self.folder, "writing"):
                for content, sha in hashes.items():
                    files.put(self._weights_path(sha), content)
                files.sync(self.folder / "weights")
        return hashes


# -------------------------------------------------------------------------------------------------- rows of types


def _birth_row(individual: Individual) -> Row:
    edits = _json([edit.to_json() for edit in individual.edits])
    return individual.id, individual.birth, individual.genome.key, _json(list(individual.parents)), edits


def _birth(row: Row) -> Birth:
    id, birth, key, parents, edits = row
    return Birth(id, birth, key, _parents(parents), _edits(edits))


def _parents(text: str) -> tuple[int, ...]:
    return tuple(shapes.ids(loads(text), "parents"))


def _without_cost(scores: Scores) -> bytes:
    return scores_to_bytes(replace(scores, cost={}))


def _edits(text: str) -> tuple[Edit, ...]:
    return tuple(Edit.from_json(data) for data in shapes.edits(loads(text)))


def _estimate_row(estimate: Estimate, arrived: int, now: float) -> Row:
    data = estimate.to_json()
    try:
        texts = _json(data["values"]), _plain(estimate.reason), _json(data["curve"]), _json(data["cost"])
    except ValueError as error:
        raise DataError(f"the estimate of individual {estimate.id} is not finite: {error}") from None
    return estimate.id, estimate.status, *texts, estimate.weights, arrived, now


def estimate_of(row: Row) -> Estimate:
    """An estimate as its row tells it."""
    id, status, values, reason, curve, cost, weights, *_ = row
    measured, spent = shapes.numbers(loads(values), "values"), shapes.numbers(loads(cost), "a cost")
    return Estimate(id, shapes.status(status), measured, reason, shapes.curve(loads(curve)), spent, shapes.sha(weights))


_HISTORY = """
SELECT generation, evaluations, hypervolume, seconds, time, json_extract(stats, '$.failed') FROM generations
ORDER BY generation"""


def _passed(row: Row) -> Passed:
    generation, evaluations, hypervolume, seconds, time, failed = row
    for value in (generation, evaluations):
        shapes.count(value, "a generation")
    for value in (hypervolume, seconds, time):
        shapes.optional(shapes.number, value, "a generation")
    return Passed(
        generation, evaluations, hypervolume, seconds, time, shapes.optional(shapes.count, failed, "failures")
    )


def _generation(row: Row) -> dict[str, Json]:
    names = ("generation", "evaluations", "hypervolume", "seconds", "time")
    return {**shapes.statistics(loads(row[5])), **dict(zip(names, row[:5], strict=True))}


_WAITING = """
SELECT i.id FROM individuals i LEFT JOIN estimates e ON e.id = i.id WHERE e.id IS NULL ORDER BY i.id"""

_EVERYONE = """
SELECT i.id, i.birth, e.status, e.objectives, e.reason, json_extract(e.cost, '$.seconds'),
       json_extract(e.cost, '$.samples')
FROM individuals i LEFT JOIN estimates e ON e.id = i.id WHERE i.birth >= ? ORDER BY i.id"""


def _everyone(rows: Sequence[Row]) -> Everyone:
    ids, births, status, values, reasons, seconds, samples = zip(*rows, strict=True) if rows else [()] * 7
    # one text for all: read three times as fast as one by one
    told = [shapes.numbers(one, "values") for one in loads(f"[{','.join([text or '{}' for text in values])}]")]
    names = dict.fromkeys(name for one in told for name in one)
    return Everyone(
        np.array(ids, dtype=np.int64),
        np.array(births, dtype=np.int64),
        np.array([STATUSES.index(shapes.status(one) if one else "waiting") for one in status], dtype=np.uint8),
        {name: np.array([one.get(name, math.nan) for one in told], dtype=np.float64) for name in names},
        {at: why for at, why in enumerate(reasons) if why and status[at] == "failed"},
        np.array([one or 0.0 for one in seconds], dtype=np.float64),
        np.array([one or 0.0 for one in samples], dtype=np.float64),
    )


def _seed(text: str) -> int:
    """The seed of a final training; with 64 bits it is longer than the database's own numbers."""
    return int(text) if text.isdecimal() and len(text) <= 20 else shapes.count(text, "a seed")


def _with_weights(outcome: Outcome, hashes: Mapping[bytes, str]) -> Estimate:
    if outcome.weights is None:
        return outcome.estimate
    sha = hashes[outcome.weights]
    if outcome.estimate.weights not in (None, sha):
        raise DataError(f"the weights of individual {outcome.estimate.id} changed on their way: their SHA-256 is {sha}")
    return replace(outcome.estimate, weights=sha)


def _ledger_row(ledger: _Ledger) -> Row:
    return 1, _json({"commits": ledger.commits, "generation": ledger.generation, "tables": ledger.tables})


def _real(value: float | None) -> float | None:
    """A number as the database gives it back: a finite float, and zero without a sign."""
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{value} cannot be stored: a finite number or None can")
    return None if value is None else float(value) + 0.0


def _plain(text: str) -> str:
    """Text that the database can hold: lone surrogates, as in undecodable file names, are replaced."""
    return text.encode("utf-8", "replace").decode()


# -------------------------------------------------------------------------------------------- files and processes


def _make(folder: Path, recipe: Mapping[str, Json], about: Mapping[str, Json], recovered: Recovered) -> None:
    """Fills a new folder; the rename of `run.sqlite` into place makes it a run."""
    text = _recipe_text(recipe)
    files.put(folder / "recipe.yaml", text)
    files.put(folder / "tip", _tip_text(0))
    meta = {
        "format": {"format": FORMAT, "since": SINCE},
        "recipe": dict(recipe),
        "recipe.yaml": {"sha256": _sha256(text), "before": None},
        "about": dict(about),
    }
    unfinished = folder / "run.sqlite.tmp"
    with closing(sqlite3.connect(unfinished, isolation_level=None)) as db:
        # a file that is no run yet needs no journal: it is made durable as a whole before it gets its name
        db.execute("PRAGMA journal_mode=OFF")
        db.execute("PRAGMA synchronous=OFF")
        db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        db.execute("BEGIN")
        for statement in _SCHEMA.values():
            db.execute(statement)
        for row in ((name, _json(value)) for name, value in meta.items()):
            db.execute("INSERT INTO meta VALUES (?, ?, ?)", (row[0], _stamp("meta", row), row[1]))
        ledger = _Ledger(generation=recovered.generation)
        for table, rows in recovered.rows.items():
            stamped = [(row[0], _stamp(table, row), *row[1:]) for row in rows]
            db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * (len(_TABLES[table]) + 1))})", stamped)
            ledger.count(table, stamped)
        row = _ledger_row(ledger)
        db.execute("INSERT INTO ledger VALUES (?, ?, ?)", (row[0], _stamp("ledger", row), row[1]))
        db.execute("COMMIT")
    files.sync(unfinished)
    os.replace(unfinished, folder / "run.sqlite")
    files.sync(folder)
    files.sync(folder.parent)


def _connect(folder: Path, mode: str) -> sqlite3.Connection:
    """A connection that reads (`ro`) or writes (`rw`); schema code is never trusted, and a reader cannot write."""
    address = (folder / "run.sqlite").resolve().as_uri()
    with _guarded(folder, "opening"):
        try:
            return _prepared(f"{address}?mode={mode}", mode)
        except sqlite3.OperationalError as error:
            if mode == "rw" or _primary(error) != sqlite3.SQLITE_CANTOPEN or _log_size(folder):
                raise
            # No log, and no place for one: a read-only disk.
            return _prepared(f"{address}?mode=ro&immutable=1", mode)


def _prepared(address: str, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(address, uri=True, isolation_level=None, timeout=BUSY_SECONDS)
    try:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.CELL_BYTES)
        db.execute("PRAGMA trusted_schema=OFF")
        db.execute("PRAGMA cell_size_check=ON")
        if mode == "ro":
            db.execute("PRAGMA query_only=ON")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _end(db: sqlite3.Connection) -> None:
    """Leaves a transaction that was not committed; after COMMIT nothing is left to do."""
    if db.in_transaction:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")


def _log_size(folder: Path) -> int:
    log = folder / "run.sqlite-wal"
    return log.stat().st_size if log.exists() else 0


def _roll_back(folder: Path) -> None:
    """Lets SQLite undo a change of journal mode that a kill cut short; a reader may not."""
    if (folder / "run.sqlite-journal").exists():
        _connect(folder, "rw").close()


def _refuse_foreign(folder: Path) -> None:
    """DataError unless the folder has a database that SQLite will not mistake for an empty one and overwrite."""
    path = folder / "run.sqlite"
    with _guarded(folder, "opening"):
        _refuse_links(folder)
        if not path.is_file():
            if (folder / "recipe.yaml").exists() or (folder / "lock").exists():
                raise DataError(f"{folder} has no run.sqlite: its creation was cut short; start the run again")
            raise DataError(f"{folder} is no run folder: it has no run.sqlite; `evonas list` shows the runs")
        with path.open("rb") as file:
            head, size = file.read(100), os.fstat(file.fileno()).st_size
        if head[:16] != b"SQLite format 3\0" or head[18:20] not in (b"\1\1", b"\2\2"):
            raise _damaged(folder, f"its {size} bytes are no SQLite database")
        pages, page = int.from_bytes(head[28:32], "big"), int.from_bytes(head[16:18], "big")
        if size != pages * page and not _log_size(folder) and not (folder / "run.sqlite-journal").exists():
            raise _damaged(folder, f"it has {size} bytes and should have {pages * page}")


def _refuse_links(folder: Path) -> None:
    """DataError where something in the folder is a link or a pipe: to write there would change files elsewhere, and to
    read might never end."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                what = "a link" if entry.is_symlink() else "no plain file"
                raise DataError(f"{entry.path} is {what}, and a run folder holds none: put what it means in its place")


def _refuse_larger(path: Path, most: int) -> None:
    """DataError for a weights file that is larger than its network's can be, or no file at all."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} is a link or a pipe, no file: put the weights in its place")
    if found.st_size > most:
        raise DataError(f"{path} has {found.st_size:,} bytes, its network's weights at most {most:,}: restore the file")


def _refuse_taken(folder: Path) -> None:
    if (folder / "run.sqlite").exists():
        raise LockedError(
            f"{folder} holds a run already; go on with `evonas resume {folder.name}`, or choose another --name"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise LockedError(f"{folder} is a file; choose another --name")
    ours = {"recipe.yaml", "tip", "lock", "owner", "weights", "scratch"}
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in ours and ".tmp" not in p.name)
    if foreign:
        raise LockedError(f"{folder} holds other files ({', '.join(foreign[:3])}); choose another --name")


def _remove_unfinished(folder: Path) -> None:
    for path in _unfinished(folder):
        path.unlink()


def _unfinished(folder: Path) -> list[Path]:
    """Files that a kill left half written."""
    return [path for pattern in ("*.tmp", "*.tmp-journal", "weights/*.tmp") for path in sorted(folder.glob(pattern))]


def _bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count as themselves, and what vanishes meanwhile not."""
    if path.is_dir() and not path.is_symlink():
        return sum(_bytes_of(one) for one in path.iterdir())
    with suppress(FileNotFoundError):
        return path.lstat().st_size
    return 0


def _acquire(folder: Path) -> FileLock:
    """The writer's lock, or LockedError naming who has it. It ends with its process, however that ends."""
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.05)
    except Timeout:
        raise LockedError(f"{folder} is in use by {holder(folder)}; wait for it to end, or stop it there") from None
    (folder / "owner").write_text(_json({"process": os.getpid(), "host": socket.gethostname()}))
    return lock


def in_use(folder: Path) -> bool:
    """Whether a writer of any process holds a folder now."""
    path = folder / "lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _release(folder: Path, lock: FileLock) -> None:
    with suppress(OSError):
        (folder / "owner").unlink(missing_ok=True)
    lock.release()


def holder(folder: Path) -> str:
    """Who holds a folder, or held it last: a process and its host."""
    try:
        owner = loads(_small(folder / "owner"))
        return f"process {owner['process']} on host {owner['host']}"
    except (OSError, DataError, KeyError, TypeError):
        return "another process"


def _read_tip(folder: Path) -> int | None:
    """How many commits the folder has seen, None where the file is damaged or missing."""
    try:
        text = _small(folder / "tip")
    except OSError:
        return None
    match = _TIP.fullmatch(text.decode("ascii", "replace"))
    return int(match[1]) if match and _tip_text(int(match[1])) == text else None


def _small(path: Path) -> bytes:
    """The content of one of a run's small files; what is longer than these can be is cut off."""
    with path.open("rb") as file:
        return file.read(limits.TEXT_BYTES)


def _tip_text(commits: int) -> bytes:
    count = f"{commits:020d}"
    return f"{count} {_stamp('tip', [count]).hex()}\n".encode()


def _recipe_text(recipe: Mapping[str, Json]) -> bytes:
    return (_RECIPE_HEAD + yaml.dump(dict(recipe))).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ----------------------------------------------------------------------------------------------- what went wrong


@contextmanager
def _guarded(folder: Path, doing: str) -> Iterator[None]:
    """Turns what SQLite and the file system say into errors that name cause, value and cure."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        raise _translated(folder, doing, error) from error
    except UnicodeDecodeError as error:  # SQLite's message itself quotes damaged bytes
        raise _damaged(folder, str(error)) from error
    except OSError as error:
        raise _refused(folder, doing, error.errno, error.strerror or str(error)) from error


def _translated(folder: Path, doing: str, error: sqlite3.Error) -> DataError | StorageError:
    code = _primary(error)
    extended = getattr(error, "sqlite_errorcode", 0)
    if code not in _REFUSED or extended == sqlite3.SQLITE_IOERR_SHORT_READ:
        return _damaged(folder, str(error))
    if extended == sqlite3.SQLITE_READONLY_ROLLBACK:
        return StorageError(f"{folder} was killed while it was closed; `evonas resume {folder.name}` puts it in order")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(f"{folder / 'run.sqlite'} is locked by another program; close it and try again")
    number = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}.get(code)
    if code == sqlite3.SQLITE_IOERR and _is_full(folder):
        number = errno.ENOSPC
    return _refused(folder, doing, number, str(error))


def _is_full(folder: Path) -> bool:
    """Whether the disk has no room for the index of a log, of which SQLite says no more than that it failed."""
    try:
        return shutil.disk_usage(folder).free < 1 << 16
    except OSError:
        return False


def _primary(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _refused(folder: Path, doing: str, number: int | None, text: str) -> StorageError:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(
            f"disk full while {doing} {folder}; free space, then `evonas resume {folder.name}`: what was committed is "
            "intact"
        )
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageError(f"{folder} cannot be written ({text}); copy it to a place where you may write")
    return StorageError(f"the file system failed while {doing} {folder} ({text}); check the disk and try again")


def _damaged(folder: Path, where: str) -> DataError:
    return DataError(
        f"{folder / 'run.sqlite'} is damaged: {where}; restore the folder from a backup, or recover what is left with "
        f"`evonas repair {folder.name}`"
    )
