"""Drivers that start in milliseconds: one process imports evonas and torch, starts no thread, and forks them.

The server that evonas forks its workers from is started once, too, by evonas' own code, and shared by all drivers."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
"""Seconds after which a test gives up on a process that should have ended by itself."""


# --------------------------------------------------------------------------------------------- the test's own side


@dataclass(frozen=True)
class Child:
    """A process of the nursery: its id, what it prints, and how it ended."""

    nursery: Nursery
    pid: int
    log: Path

    def ended(self, seconds: float = PATIENCE) -> int | None:
        """Its exit code, negative for a signal, or None where it still runs after so many seconds."""
        code = self.nursery.asked({"wait": self.pid, "seconds": seconds})
        return code if code is None else int(code)

    def signalled(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")


class Nursery:
    """Forks processes on demand. A context manager: whatever it started has ended afterwards."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "EVONAS_ALLOW_CODE": "1"}
        command = [sys.executable, "-m", "tests.faults.nursery"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, cwd=ROOT)
        self.asked({})  # it is up

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.emptied()
        self._process.communicate()  # which closes its input

    def emptied(self) -> None:
        """Ends all drivers and workers that a test may have left."""
        server = self.asked({})
        drivers = [one for one in psutil.Process(self._process.pid).children() if one.pid != server]
        for one in [*drivers, *self.workers()]:
            with suppress(psutil.NoSuchProcess):  # which a zombie is, too
                if "resource_tracker" not in " ".join(one.cmdline()):
                    one.kill()

    def asked(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def born(self, log: Path, work: str, *arguments: Any) -> Child:
        """A process that calls `package.module:function`; what the function returns is its exit code."""
        return Child(self, self.asked({"work": work, "arguments": arguments, "log": str(log)}), log)

    def workers(self) -> list[psutil.Process]:
        """The worker processes of all drivers that still run."""
        try:
            return [one for one in psutil.Process(self.asked({})).children() if alive(one)]
        except psutil.NoSuchProcess:
            return []

    def struck(self, chance: Random) -> bool:
        """Kills a worker at random, if there is one."""
        found = self.workers()
        with suppress(psutil.NoSuchProcess, IndexError):
            chance.choice(found).kill()
            return True
        return False

    def deserted(self, seconds: float = 3.0) -> bool:
        """Whether no worker is left after so many seconds."""
        return until(lambda: not self.workers(), fair(seconds))


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def fair(seconds: float) -> float:
    """So many seconds of a machine that has nothing else to do; more where others are at work on it."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


# ----------------------------------------------------------------------------------------------- the nursery itself

LOADED = [
    "evonas.run", "evonas.cli", "evonas.estimate.preload", "evonas.estimate.population", "evonas.pool",
    "evonas.report.tables", "sklearn.datasets", "tests.faults.drivers",
]  # fmt: skip


def main() -> None:
    """Answers questions, one a line: `work` forks a process and tells its id, `wait` tells how one ended."""
    from multiprocessing import forkserver

    from evonas import processes

    for name in LOADED:
        importlib.import_module(name)
    context, _ = processes.context("evonas.estimate.preload")
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if "work" in question:
            _warm(context, server)
            answer: Any = _forked(question, server)
        elif "wait" in question:
            answer = _waited(question["wait"], question["seconds"])
        else:
            answer = server._forkserver_pid
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _warm(context: Any, server: Any) -> None:
    """Waits until the server has loaded everything and forks in milliseconds. A driver that was killed while it asked
    for a worker took it along: another one is started."""
    while True:
        server.ensure_running()
        first = context.Process(target=int)
        with suppress(OSError, EOFError):
            first.start()
            first.join()
            if first.exitcode == 0:
                return


def _waited(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(min(0.002, max(deadline - time.monotonic(), 0.0)))


def _forked(question: dict[str, Any], server: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _plug(question["log"])
        _share(server)
        module, _, name = question["work"].partition(":")
        code = int(getattr(importlib.import_module(module), name)(*question["arguments"]))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        code = 1
    os._exit(code)


def _plug(log: str) -> None:
    """A session of its own, and a file for what it prints; the nursery's pipes are not its."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)


def _share(server: Any) -> None:
    """Lets this process use the server of its parent, which it may not wait for as for a child of its own."""
    from multiprocessing import forkserver

    server.ensure_running = lambda: None
    forkserver.ensure_running = server.ensure_running


if __name__ == "__main__":
    main()
