"""The Ray pool's end on a node: a seat takes one job at a time and has it computed in a process of its own, under the
limits and with the words of `processes`. It takes and gives bytes, never an object.

On the driver's node everything lies where the driver laid it. On others the rows come through the object store and lie
in files once per node, and weights come with each job."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import ray
from filelock import FileLock

from evonas import imported
from evonas.core import DataError, EvonasError, Job, StorageError, dumps, loads
from evonas.estimate import told
from evonas.estimate.worker import BROKEN, ESTIMATE, READY
from evonas.pool import Processes, ProcessesSettings

LACKS = b"L"
"""A seat on another node than the driver's asks for the rows."""

Answer = tuple[bytes, bytes]
"""What a seat says, beginning with a letter as in `estimate.worker`, and weights."""


def versions() -> dict[str, str]:
    """What must be equal everywhere for equal results."""
    return {package: version(package) for package in ("evonas", "torch", "numpy")}


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a seat is told at its start: the resolved recipe, the driver's node, the folder of staged rows there, where
    the driver works, what it may import, its process and when that began, and its versions."""

    recipe: Any
    final: bool
    retries: int
    home: str
    folder: str | None
    directory: str
    code: Sequence[str]
    driver: tuple[int, float]
    versions: Mapping[str, str] = field(default_factory=versions)

    def to_bytes(self) -> bytes:
        return dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Assignment:
        return Assignment(**loads(data))


class Seat:
    """A Ray actor. Its methods raise nothing: what is wrong is an answer."""

    def __init__(self) -> None:
        self._pool: Processes | None = None
        self._held: list[Path] = []
        self._away = False

    def start(self, assignment: bytes, rows: Sequence[Any]) -> Answer:
        """Makes ready; `rows` holds a reference to them where the seat has asked for it."""
        try:
            return self._start(Assignment.from_bytes(assignment), rows), b""
        except Exception as error:
            return BROKEN + f"a worker cannot start: {told(error)}".encode(errors="replace"), b""

    def _start(self, given: Assignment, rows: Sequence[Any]) -> bytes:
        _refuse_other(given.versions)
        node = str(ray.get_runtime_context().get_node_id())
        self._away = node != given.home
        if self._away and given.folder and not rows:
            return LACKS
        for needed in (psutil.Process().parent(), None if self._away else _running(*given.driver)):
            if needed is not None:
                threading.Thread(target=_end_with, args=[needed], daemon=True).start()
        imported.grant(given.code)
        if Path(given.directory).is_dir():
            os.chdir(given.directory)
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # an estimate that takes no GPU of the node sees none
        if self._away:
            self._hold(f"seat-{os.getpid()}")
        folder = self._rows(rows[0]) if self._away and given.folder else given.folder
        staged = Path(folder) if folder else None
        settings = ProcessesSettings(workers=1, retries=given.retries)
        unused = Path(tempfile.gettempdir(), f"evonas-unused-{os.getpid()}")  # the rows lie elsewhere
        self._pool = Processes(settings, given.recipe, unused, given.final, lambda *_: staged)
        return READY + node.encode()

    def estimate(self, message: bytes, weights: Sequence[Any]) -> Answer:
        """The estimate of a job; `weights` refers to the parents' where the seat is not on the driver's node."""
        try:
            assert self._pool is not None, "a seat starts before it estimates"
            self._pool.submit([self._here(Job.from_json(loads(message)), weights)])
            (outcome,) = self._pool.arrived()
        except EvonasError as error:
            return BROKEN + told(error).encode(errors="replace"), b""
        except Exception:
            os._exit(1)  # what it takes to start a process is gone, such as its server: another seat tries again
        return ESTIMATE + dumps(outcome.estimate.to_json()).encode(), outcome.weights or b""

    def leave(self) -> None:
        """Takes away what this seat laid on its node, even while it is at work."""
        for folder in self._held:
            with suppress(EvonasError, OSError), _alone() as base:
                _mark(folder).unlink(missing_ok=True)
                _sweep(base)

    def _here(self, job: Job, weights: Sequence[Any]) -> Job:
        """The job with its parents' weights in files of this node; their SHA-256 is checked when they are read."""
        parents = list(job.parents)
        for at, reference in enumerate(weights):
            file = self._held[0] / f"parent{at}.safetensors"
            file.write_bytes(ray.get(reference))
            parents[at] = replace(parents[at], path=str(file))
        return replace(job, parents=tuple(parents))

    def _rows(self, reference: Any) -> Path:
        key, files = ray.get(reference)
        folder = self._hold(key)
        with _alone():
            _lay(folder, key, files)
        return folder

    def _hold(self, name: str) -> Path:
        """A folder of this node that stays while this process lives."""
        with _alone() as base:
            _sweep(base)
            folder = base / name
            folder.mkdir(exist_ok=True)
            _mark(folder).touch()
        self._held.append(folder)
        return folder


def _running(pid: int, began: float) -> psutil.Process | None:
    """A process of this node by its pid and when it began. A driver that lives in a container of its own cannot be seen
    from here: that pid is another's or nobody's."""
    with suppress(psutil.Error):
        if abs((found := psutil.Process(pid)).create_time() - began) < 1:
            return found
    return None


def _end_with(needed: psutil.Process) -> None:
    """Ends this process with its node's Ray, or its driver: Ray itself takes seconds to notice that one is gone."""
    needed.wait()
    os._exit(1)


def _refuse_other(expected: Mapping[str, str]) -> None:
    """Raises EvonasError where this node would give other results than the driver's."""
    here = versions()
    for package, wanted in expected.items():
        if here[package] != wanted:
            where = f"node {ray.util.get_node_ip_address()} has {package} {here[package]}"
            raise EvonasError(f"{where}, the driver {wanted}: install the same everywhere")


# ------------------------------------------------------------------------------------------------ files on other nodes


def digest(files: Mapping[str, Any]) -> str:
    """The SHA-256 of some files' names and bytes."""
    found = sha256()
    for name, content in sorted(files.items()):
        found.update(f"{name}:{len(content)}:".encode())
        found.update(content)
    return found.hexdigest()


def _lay(folder: Path, key: str, files: Mapping[str, Any]) -> None:
    """Writes the rows, if no seat of this node did before. Raises DataError where they are not what was sent."""
    if (folder / "whole").exists():
        return
    if digest(files) != key:
        raise DataError("the rows that came through the object store do not have their SHA-256: start the run again")
    for name, content in files.items():
        content.tofile(folder / name)
    (folder / "whole").touch()


@contextmanager
def _alone() -> Iterator[Path]:
    """The node's folder for what the seats of a user share, while no other seat changes it. Raises StorageError."""
    base = Path(tempfile.gettempdir()) / f"evonas-{getpass.getuser()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if (own := getattr(os, "getuid", None)) and base.stat().st_uid != own():
        raise StorageError(f"{base} belongs to another user: remove it, or set TMPDIR where the node's Ray is started")
    with FileLock(base / "lock"):
        yield base


def _mark(folder: Path) -> Path:
    return folder / f"user-{os.getpid()}"


def _sweep(base: Path) -> None:
    """Removes folders whose users are all gone, however they ended."""
    for folder in base.iterdir():
        users = [int(mark.name.removeprefix("user-")) for mark in folder.glob("user-*")]
        if folder.is_dir() and not any(map(psutil.pid_exists, users)):
            shutil.rmtree(folder, ignore_errors=True)
