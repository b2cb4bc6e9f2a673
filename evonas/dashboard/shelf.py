"""The runs of a folder as the pages read them: opened for each request, with what is dear to read kept between them.

What a run holds changes with its commits, which the file `tip` counts; as long as that stands still, everything that
was read holds. Threads may call any method."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import psutil

from evonas import recipe as recipes
from evonas.cohort import Everyone
from evonas.core import DataError, EvonasError, RecipeError, dumps, loads
from evonas.report import views
from evonas.results import Run
from evonas.store import Store

_T = TypeVar("_T")

Revision = tuple[object, ...]
"""Differs whenever a run may hold something new."""

KEPT = 8
"""Runs whose individuals stay in memory; 100,000 of them take 8 MB."""


@dataclass
class _Kept:
    """What was read of one run: views by name, each with the revision it was read at."""

    lock: RLock = field(default_factory=RLock)
    birth: object = None
    recipe: tuple[str, recipes.Recipe] | None = None
    everyone: Everyone | None = None
    values: dict[str, tuple[Revision, Any]] = field(default_factory=dict)


class Shelf:
    """A folder of run folders, for reading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: dict[str, _Kept] = {}
        self._cards: dict[str, tuple[Revision, views.Card]] = {}
        self._lock, self._listing = RLock(), RLock()

    def names(self) -> list[str]:
        """Runs by name; a link that leads out of the folder is none."""
        try:
            entries = [entry.name for entry in os.scandir(self.folder)]
        except OSError:
            return []
        return sorted(name for name in entries if self._is_run(name))

    def path(self, name: str) -> Path:
        """The folder of a run. RecipeError for a name that is none: nothing outside the shelf has one."""
        if not self._is_run(name):
            raise RecipeError(f"no run {name[:80]!r} in {self.folder}")
        return self.folder / name

    def _is_run(self, name: str) -> bool:
        if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            return False
        path = os.path.join(self.folder, name)
        try:
            inside = not os.path.islink(path) or Path(path).resolve().parent == self.folder.resolve()
            return inside and os.path.isfile(os.path.join(path, "run.sqlite"))
        except (OSError, ValueError):
            return False

    def revision(self, name: str) -> Revision:
        """What is compared to see whether a run has moved on: cheap, nothing is opened."""
        path = self.folder / name
        return _file(path / "tip"), _file(path / "run.sqlite"), _writer(path)

    def shown(self) -> Revision:
        """The revision of the whole shelf."""
        return tuple((name, *self.revision(name)) for name in self.names())

    def cards(self) -> list[views.Card]:
        """All runs, newest first; what has not changed is not read again."""
        with self._listing:  # two threads that read 200 runs at once take longer than one after the other
            found = [self.card(name) for name in self.names()]
        return sorted(found, key=lambda card: (-(card.started or 0), card.name))

    def card(self, name: str) -> views.Card:
        """A run as a list shows it; one that cannot be read says why."""
        revision = self.revision(name)
        known = self._cards.get(name)
        if known is not None and known[0] == revision and known[1].status != "running":
            return known[1]
        try:
            with self._opened(self.path(name)) as store:
                # the lock itself is tried only where someone says to hold it
                made = views.card(store, (store.folder / "owner").exists() and store.locked())
        except EvonasError as error:
            made = views.Card(name, "unreadable", problem=str(error))
        self._cards[name] = revision, made
        return made

    def read_ahead(self) -> None:
        """Reads the list and the newest run, which is what most readers open: the first page comes at once."""
        cards = self.cards()
        newest = next((card.name for card in cards if not card.problem), None)
        with suppress(EvonasError):  # a page says so when it is asked for
            if newest is not None:
                self.front(newest)

    @contextmanager
    def open(self, name: str) -> Iterator[Run]:
        """A run for reading, for the length of a request. RecipeError, DataError, StorageError."""
        with self._opened(self.path(name)) as store:
            yield Run(store, self._recipe(name, store))

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Store]:
        with Store.open(path) as store:
            yield store

    def _recipe(self, name: str, store: Store) -> recipes.Recipe:
        """The run's recipe, checked once: that takes longer than to read the run."""
        kept, text = self._of(name), dumps(store.recipe)
        if kept.recipe is None or kept.recipe[0] != text:
            kept.recipe = text, recipes.from_json(store.recipe)
        return kept.recipe[1]

    # what is dear to read ------------------------------------------------------------------------------------

    def front(self, name: str) -> views.Front:
        """Everyone of a run with its fronts."""
        return self._value(name, "front", lambda run: views.front(run, self._everyone(run)))

    def trend(self, name: str) -> views.Trend:
        """A run's hypervolume."""
        return self._value(name, "trend", lambda run: views.trend(run, self._everyone(run)))

    def species(self, name: str) -> views.SpeciesHistory:
        """A run's species over its generations."""
        return self._value(name, "species", views.species)

    def distances(self, name: str) -> views.Distances:
        """How far the species' representatives are apart."""
        return self._value(name, "distances", lambda run: views.distances(run, views.species(run)))

    def failures(self, name: str) -> list[views.Failure]:
        """A run's failures by reason."""
        return self._value(name, "failures", lambda run: views.failures(self._everyone(run)))

    def summaries(self, name: str, ids: tuple[int, ...]) -> Mapping[int, str]:
        """Networks in a few words, by id."""
        return self._value(name, f"summaries {ids}", lambda run: _summaries(run, ids))

    def _value(self, name: str, key: str, read: Callable[[Run], _T]) -> _T:
        """What `read` gives for a run, from memory as long as the run stands still."""
        self.path(name)
        kept = self._of(name)
        with kept.lock:
            revision = self.revision(name)
            known = kept.values.get(key)
            if known is not None and known[0] == revision:
                found: _T = known[1]
                return found
            with self.open(name) as run:
                made = read(run)
            kept.values = {k: v for k, v in kept.values.items() if v[0] == revision}
            kept.values[key] = revision, made
            return made

    def _of(self, name: str) -> _Kept:
        with self._lock:
            kept = self._kept.pop(name, None) or _Kept()
            birth = _inode(self.folder / name / "run.sqlite")
            if kept.birth != birth:  # another run under the same name
                kept = _Kept(birth=birth)
            self._kept[name] = kept  # the last used is the last to go
            while len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
            return kept

    def _everyone(self, run: Run) -> Everyone:
        """Everyone of a run: what finished generations hold is read once, only what may have changed is read again."""
        kept = self._of(run.name)
        with kept.lock:
            newest = run.store.newest
            known = kept.everyone
            since = int(known.births[-1]) + 1 if known is not None and len(known) else 0
            fresh = run.everyone(since)
            whole = fresh if known is None or not len(known) else Everyone.joined([known, fresh])
            kept.everyone = whole.before(newest)
            return whole


def _writer(path: Path) -> object:
    """Who says to write to a run and whether that process is still there: one that was killed says nothing more."""
    try:
        owner = loads((path / "owner").read_bytes())
        return owner["process"], psutil.pid_exists(owner["process"])
    except (OSError, DataError, KeyError, TypeError, ValueError):
        return None


def _file(path: Path) -> object:
    try:
        found = path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino
    except OSError:
        return None


def _inode(path: Path) -> object:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _summaries(run: Run, ids: tuple[int, ...]) -> dict[int, str]:
    kept = run.store.kept(ids)
    individuals = run.store.individuals([id for id in ids if id in kept], run.encoding.from_json)
    return {one.id: run.encoding.summary(one.genome) for one in individuals}
