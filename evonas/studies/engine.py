"""A study carried out: what is missing is searched, what is there is kept, and both are told together.

Searches over tables are done in memory and leave summaries; those that train are ordinary runs in the study's
folder."""

from __future__ import annotations

import ast
import hashlib
import shutil
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from evonas import estimate, run
from evonas import recipe as recipes
from evonas.core import DataError, EvonasError, Json, RecipeError, dumps
from evonas.processes import Stop
from evonas.report.progress import Progress
from evonas.results import Run
from evonas.run import Interrupted
from evonas.simulate import Simulator
from evonas.strategy.problem import Problem
from evonas.studies import Cell, Study, read, workers
from evonas.studies.findings import At, Findings
from evonas.studies.ledger import Ledger
from evonas.studies.looks import Looks, of_run

VERSIONS = ("evonas", "numpy", "torch")
"""Whose versions decide what a search gives."""

_IRRELEVANT = {"name", "seed", "version", "pool", "store", "final", "tracking"}
"""Sections of a recipe that decide nothing of a search in memory."""


@dataclass(frozen=True, slots=True)
class StudyProgress:
    """One message of a study to its observer: at the `start`, after searches were done, while a `run` trains, at the
    end.

    `counts` holds the searches that are there and those that are wanted by (arm, task); `seconds` are since the start,
    `eta` those that are left, None while there is nothing to reckon them from."""

    kind: Literal["start", "done", "run", "end"]
    study: str
    counts: Mapping[At, tuple[int, int]]
    arm: str = ""
    task: str = ""
    seed: int | None = None
    run: Progress | None = None
    workers: int = 1
    seconds: float = 0.0
    eta: float | None = None

    @property
    def done(self) -> int:
        """Searches that are there."""
        return sum(done for done, _ in self.counts.values())

    @property
    def total(self) -> int:
        """Searches that are wanted."""
        return sum(wanted for _, wanted in self.counts.values())


Observer = Callable[[StudyProgress], None]


def study(
    source: Study | str | Path | Mapping[str, Json],
    *,
    runs: str | Path = "runs",
    seeds: int | None = None,
    workers: int | None = None,
    only: Sequence[str] = (),
    tasks: Sequence[str] = (),
    fresh: bool = False,
    observer: Observer | None = None,
    allow_code: bool = False,
) -> Findings:
    """Carries a study out (a file, a YAML text or a mapping) and gives what it found; what was found before is kept.

    Its folder is `runs/studies/NAME`. `seeds` is a number of seeds for every arm; `only` and `tasks` name arms and
    tasks to search for, all unless given; `fresh` forgets what was found of them. An arm that cannot be carried out is
    told in `failures`. Code that its recipes name is imported with `allow_code` alone. Raises RecipeError, DataError,
    LockedError, StorageError, Interrupted."""
    chosen = source if isinstance(source, Study) else read(source)
    for cell in chosen.cells:
        recipes.permit(cell.recipe, allow_code)
    if seeds is not None:
        chosen = chosen.with_seeds(seeds)
    folder = Path(runs) / "studies" / chosen.name
    work = _Work(chosen, chosen.only(only, tasks), folder, workers or estimate.capacity({}), observer)
    if fresh:
        work.forget()
    if work.missing():
        work.carry_out()
    return work.findings()


# --------------------------------------------------------------------------------------------------------- identity


def key_of(cell: Cell, searched: Simulator | None) -> str:
    """Names what a cell's searches give but for the seed: its recipe, data, versions, and the code that searches."""
    recipe = cell.recipe.model_dump(mode="json", exclude=_IRRELEVANT)
    about: dict[str, Json] = {"versions": _versions()}
    if searched is not None:
        del recipe["task"]["file"]
        about |= {"data": searched.table.task.fingerprint, "code": _code(searched)}
    told = dumps({"recipe": recipe, **about})
    return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


@cache
def _versions() -> Mapping[str, str]:
    return {name: metadata.version(name) for name in VERSIONS}


def _code(searched: Simulator) -> str:
    """A hash of the code that makes, varies and looks up networks: whoever works on a strategy is never shown what an
    older one gave."""
    parts = (type(searched.strategy(0)), type(searched.space), type(searched), Problem)
    modules = [part.__module__ for part in parts]
    modules += _relatives(modules[0])
    return hashlib.blake2b("".join(map(_hash_of, modules)).encode(), digest_size=8).hexdigest()


@cache
def _hash_of(module: str) -> str:
    """A hash of what a module does, whatever its comments and docstrings say."""
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    return hashlib.blake2b(ast.dump(tree).encode(), digest_size=8).hexdigest()


def _relatives(module: str) -> list[str]:
    """Modules of its own package that a module imports."""
    package = module.rpartition(".")[0]
    found = {node.module for node in ast.walk(_tree(module)) if isinstance(node, ast.ImportFrom) and node.module}
    return sorted(name for name in found if package and name.startswith(f"{package}."))


def _tree(module: str) -> ast.Module:
    file = getattr(sys.modules.get(module), "__file__", None)
    return ast.parse(Path(file).read_bytes() if file else b"")


# ------------------------------------------------------------------------------------------------------------- work


class _Work:
    """A study under way: which part of it is wanted, what is there, and what is missing."""

    def __init__(self, study: Study, wanted: Study, folder: Path, count: int, observer: Observer | None) -> None:
        self.study, self.folder, self.count, self.observer = study, folder, count, observer
        self.cells = {(cell.arm, cell.task): cell for cell in study.cells}
        self.wanted = [(cell.arm, cell.task) for cell in wanted.cells]
        self.searched = {at: _simulator(cell) for at, cell in self.cells.items()}
        self.keys = {at: key_of(cell, self.searched[at]) for at, cell in self.cells.items()}
        self.ledger = Ledger(folder)
        self.failures: list[str] = []
        self.plots: list[workers.Plot] = []
        self.began = time.monotonic()
        self._gather()

    def _gather(self) -> None:
        """What the results say of the study's cells."""
        parts: dict[str, list[Looks]] = {key: [] for key in self.keys.values()}
        for line in self.ledger.lines:
            if line.get("key") in parts:
                parts[line["key"]].append(Looks.from_json(line["looks"]))
        self.found = parts
        self.there = {key: {seed for one in looks for seed in one.seeds.tolist()} for key, looks in parts.items()}

    def findings(self) -> Findings:
        """What was found, of each cell by its own seeds."""
        chosen = {}
        for at, key in self.keys.items():
            if self.there[key].intersection(self.cells[at].seeds):
                chosen[at] = Looks.joined(self.found[key]).chosen(self.cells[at].seeds)
        return Findings(self.study, self.folder, chosen, self.searched, tuple(self.failures))

    def missing(self) -> dict[At, list[int]]:
        """Seeds that are still to be searched, by cell; of cells that are alike only the first has to."""
        result: dict[At, list[int]] = {}
        asked = {key: set(seeds) for key, seeds in self.there.items()}
        for at in self.wanted:
            known = asked[self.keys[at]]
            if due := [seed for seed in self.cells[at].seeds if seed not in known]:
                result[at] = due
                known.update(due)
        return result

    def forget(self) -> None:
        """Drops what was found of the wanted cells, and the runs of those that train."""
        gone = {self.keys[at] for at in self.wanted}
        with self.ledger as ledger:
            ledger.replace([line for line in ledger.lines if line.get("key") not in gone])
            for at in self.wanted:
                if not self.cells[at].tabular:
                    shutil.rmtree(self._runs_of(self.cells[at]), ignore_errors=True)
        self._gather()

    # carrying out -----------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Searches what is missing; a signal ends it, and what was finished is kept."""
        with Stop() as stop:
            try:
                with self.ledger as ledger:
                    if ledger.mended:
                        text = f"{ledger.path} had {ledger.mended} damaged lines: their searches are done again"
                        warnings.warn(text, stacklevel=2)
                    self._gather()
                    due = self.missing()
                    self._tell("start")
                    self._search({at: seeds for at, seeds in due.items() if self.cells[at].tabular}, stop)
                    for at, seeds in due.items():
                        if not self.cells[at].tabular:
                            self._train(at, seeds, stop)
            except KeyboardInterrupt:
                raise self._interrupted(stop.signum) from None
        self._tell("end")

    def _search(self, due: Mapping[At, Sequence[int]], stop: Stop) -> None:
        """Searches over tables, in batches that are written down as they come."""
        cells = {self.keys[at]: self.cells[at] for at in due}
        self.plots = [workers.Plot(self.keys[at], self.cells[at].recipe, deque(seeds)) for at, seeds in due.items()]
        # several batches of an arm that fails may be under way: one reason is enough, and not that of who was faster
        failed: dict[str, str] = {}
        with closing(workers.finished(self.plots, self.count)) as arriving:
            for one in arriving:
                cell = cells[one.plot.key]
                if one.looks is None:
                    told = f"{_called(cell)}: {one.failure}"
                    failed[one.plot.key] = min(told, failed.get(one.plot.key, told))
                else:
                    with stop.held():
                        self._record(cell, one.looks)
                self._tell("done", arm=cell.arm, task=cell.task)
        self.failures += failed.values()

    def _record(self, cell: Cell, looks: Looks) -> None:
        key = self.keys[cell.arm, cell.task]
        line = {"key": key, "arm": cell.arm, "task": cell.task, "versions": _versions(), "looks": looks.to_json()}
        self.ledger.append(line)
        self.found[key].append(looks)
        self.there[key].update(looks.seeds.tolist())

    def _train(self, at: At, seeds: Sequence[int], stop: Stop) -> None:
        """Runs of a cell that trains, one after the other; each spreads its estimates over the workers itself."""
        cell = self.cells[at]
        for seed in seeds:
            try:
                with self._run(cell, seed) as found:
                    looks = of_run(found, seed)
            except Interrupted as error:
                raise self._interrupted(error.exit_code - 128) from None
            except EvonasError as error:
                self.failures.append(f"{_called(cell)}: seed {seed}: {error}")
                return
            with stop.held():
                self._record(cell, looks)
            self._tell("done", arm=cell.arm, task=cell.task, seed=seed)

    def _run(self, cell: Cell, seed: int) -> Run:
        """The finished run of one seed: begun, gone on with, or as it is."""

        def follow(progress: Progress) -> None:
            self._tell("run", arm=cell.arm, task=cell.task, seed=seed, run=progress)

        name = f"seed-{seed}"
        changes = {"seed": str(seed), "name": name}
        if cell.recipe.pool.kind == "processes":
            changes["pool.workers"] = str(self.count)
        recipe = recipes.override(cell.recipe, changes)
        folder = self._runs_of(cell)
        if (folder / name / "run.sqlite").is_file():
            return run.resume(folder / name, recipe=recipe, observer=follow)
        return run.start(recipe, name=name, runs=folder, observer=follow)

    def _runs_of(self, cell: Cell) -> Path:
        """Where the runs of a cell lie; another search has another folder, so that no change of an arm loses any."""
        decisive = cell.recipe.model_dump(mode="json", exclude={"name", "seed", "version"})
        for path in recipes.RESUMABLE:
            section, _, key = path.partition(".")
            (decisive[section] if key else decisive).pop(key or section, None)
        mark = hashlib.blake2b(dumps(decisive).encode(), digest_size=4).hexdigest()
        return self.folder / "-".join(part for part in (cell.task, cell.arm, mark) if part)

    def _interrupted(self, signum: int) -> Interrupted:
        counts = self._counts().values()
        done, total = sum(done for done, _ in counts), sum(wanted for _, wanted in counts)
        return Interrupted(f"stopped; {done:,} of {total:,} searches are kept; the same command goes on", signum)

    # telling ----------------------------------------------------------------------------------------------------

    def _counts(self) -> dict[At, tuple[int, int]]:
        """Searches that are there, and those that are wanted, by cell."""
        seeds = {at: self.cells[at].seeds for at in self.wanted}
        return {at: (len(self.there[self.keys[at]].intersection(one)), len(one)) for at, one in seeds.items()}

    def _tell(self, kind: Literal["start", "done", "run", "end"], **facts: Any) -> None:
        if self.observer is not None:
            passed = time.monotonic() - self.began
            told = StudyProgress(
                kind, self.study.name, self._counts(), workers=self.count, seconds=passed, eta=self._eta(), **facts
            )
            self.observer(told)

    def _eta(self) -> float | None:
        """Seconds that searches in memory still take; of arms that none was done of as long as of the others."""
        known = [plot.each for plot in self.plots if plot.each is not None]
        if not known:
            return None
        usual = sum(known) / len(known)
        left = sum(len(plot.waiting) * (usual if plot.each is None else plot.each) for plot in self.plots)
        return left / self.count


def _simulator(cell: Cell) -> Simulator | None:
    """What searches a cell in memory; an error in its recipe or its table names the cell."""
    if not cell.tabular:
        return None
    try:
        return Simulator(cell.recipe)
    except (RecipeError, DataError) as error:
        raise type(error)(f"{_called(cell)}: {error}") from None


def _called(cell: Cell) -> str:
    return f"{cell.arm} on {cell.task}" if cell.task else cell.arm
