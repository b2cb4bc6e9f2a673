"""What every process that works for the driver has in common: how it starts and is stopped, and that it never outlives
the driver."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import FrameType, ModuleType
from typing import Any


@contextmanager
def plain_main() -> Iterator[None]:
    """Keeps multiprocessing from running the user's script again in the process, guarded by `__main__` or not."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def die_with(life: Connection) -> None:
    """Ends this process when the driver's end of the pipe closes, however the driver ended; for a thread."""
    with suppress(EOFError, OSError):
        life.recv_bytes()
    os._exit(0)


def context(preload: str) -> tuple[Any, bool]:
    """How processes start here, and whether they are forked from a server; the first to start one says which module it
    has loaded."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn"), False
    from multiprocessing import forkserver, resource_tracker

    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload([preload])
    resource_tracker.ensure_running()  # now: its start unblocks SIGINT on Python 3.11
    with environment(), deaf():
        forkserver.ensure_running()
    return chosen, True


@contextmanager
def deaf(*more: signal.Signals) -> Iterator[None]:
    """What starts here never hears Ctrl-C, not even before its first line: the driver decides what it means, once the
    start is over. Not on Windows."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *more})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def environment() -> Iterator[None]:
    """What workers inherit: the same modules, and threads that sleep instead of spinning when they wait (with busy
    neighbours spinning ones were 20 times slower)."""
    wanted = {
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(os.path.abspath(path) for path in sys.path)),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def cause(code: int | None) -> str:
    """What an exit code says, in words."""
    if code is None:
        return "was lost"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was ended by {name}" + (" (out of memory, or killed from outside)" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"


class Stop:
    """SIGINT and SIGTERM as KeyboardInterrupt, held back while a commit is written; a second one leaves at once."""

    def __init__(self) -> None:
        self.signum = int(signal.SIGINT)
        self._pending = self._holding = False
        self._before: dict[int, Any] = {}

    @property
    def signal_name(self) -> str:
        return signal.Signals(self.signum).name

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, signum: int, _: FrameType | None) -> None:
        if self._pending:
            os._exit(128 + signum)
        self.signum, self._pending = signum, True
        if not self._holding:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """While inside, a signal waits until the end."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending:
            raise KeyboardInterrupt
