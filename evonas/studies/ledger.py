"""The results of a study: a file of lines, each with a hash, to which finished searches are appended.

The only writer of `results.jsonl`. A line is whole and on the disk before the next one begins; a killed process leaves
at most one torn line, which is cut off when the file is opened again."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from evonas import files
from evonas.core import DataError, Json, LockedError, StorageError, dumps, loads

FORMAT = 1
"""The format of the file; a newer one is refused."""

LOCK_SECONDS = 0.5


class Ledger:
    """Lines of results, in the order in which they were written: JSON objects. `lost` counts lines that are damaged,
    `mended` those that were left out when it was opened for writing.

    Open for reading only, or, as a context, for writing by this process alone. Raises DataError for a file that is none
    of a study or was written by a newer evonas, LockedError where another process writes, StorageError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self._lock: FileLock | None = None
        self.mended = 0
        self.lines, self.lost, self._sound = self._read()

    def __enter__(self) -> Ledger:
        with _refusals(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            try:
                lock.acquire(timeout=LOCK_SECONDS)
            except Timeout:
                raise LockedError(
                    f"{self.folder} is at work in another process: wait for it, or end it with Ctrl-C"
                ) from None
        self._lock = lock
        try:
            self.lines, self.lost, self._sound = self._read()
            self.mended = self.lost
            if self.lost or not self._sound:
                self.replace(self.lines)
        except BaseException:
            lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def append(self, line: Mapping[str, Json]) -> None:
        """Adds a line; it is on the disk when this returns, or the file is as it was."""
        with _refusals(self.path):
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                size = os.fstat(file).st_size
                try:
                    files.pour(file, _encoded(line))
                except BaseException:
                    os.ftruncate(file, size)
                    raise
            finally:
                os.close(file)
        self.lines.append(dict(line))

    def replace(self, lines: Iterable[Mapping[str, Json]]) -> None:
        """Puts other lines in place of all; whole and durable, or not at all."""
        kept = [dict(line) for line in lines]
        with _refusals(self.path):
            files.put(self.path, b"".join(map(_encoded, [_HEAD, *kept])))
            files.sync(self.folder)
        self.lines, self.lost, self._sound = kept, 0, True

    def _read(self) -> tuple[list[dict[str, Json]], int, bool]:
        """The sound lines, the number of damaged ones, and whether the file is there and ends with a whole line."""
        try:
            parts = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return [], 0, False
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror or error}") from None
        torn = parts.pop()
        if not parts:  # killed before its first line was whole
            return [], 0, False
        read = list(map(_decoded, parts))
        self._refuse_strange(read[0])
        good = [line for line in read[1:] if line is not None]
        return good, len(read) - 1 - len(good), not torn

    def _refuse_strange(self, head: Mapping[str, Json] | None) -> None:
        if head is None or "study results" not in head:
            raise DataError(
                f"{self.path} is damaged in its first line, or no results of a study: move it away, and the study "
                "begins anew"
            )
        if head["study results"] > FORMAT:
            raise DataError(
                f"{self.path} was written by a newer evonas (format {head['study results']}): upgrade evonas"
            )


_HEAD: Mapping[str, Json] = {"study results": FORMAT}


def _encoded(line: Mapping[str, Json]) -> bytes:
    body = dumps(dict(line)).encode()
    return _stamp(body) + b" " + body + b"\n"


def _decoded(line: bytes) -> dict[str, Json] | None:
    """A line's content, None where it is not what was written."""
    stamp, _, body = line.partition(b" ")
    if stamp != _stamp(body):
        return None
    try:
        content = loads(body)
    except DataError:
        return None
    return content if isinstance(content, dict) else None


def _stamp(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=12).hexdigest().encode()


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the file system says as an error with a cure."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            text = f"disk full while writing {path}; free space, then run the study again: what was finished is kept"
            raise StorageError(text) from error
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; run the study again when that is mended"
        ) from error
