"""What every process that works for the driver has in common: how it starts, and that it never outlives the driver."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import ModuleType


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
