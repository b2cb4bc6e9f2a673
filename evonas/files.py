"""Files that are durable when a function returns: whole under their name, or not there. Failures are left as they come:
who writes knows what to tell of them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["pour", "put", "sync"]


def pour(file: int, data: bytes) -> None:
    """Writes all of the data to an open file, and to the disk."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.fsync(file)


def put(path: Path, data: bytes) -> None:
    """A file that is either whole and durable under its name, or as it was; the folder is the caller's to sync."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            pour(file, data)
        finally:
            os.close(file)
        os.replace(unfinished, path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Brings a file or a folder's entries to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
