"""The inside of a worker process: takes jobs from a pipe, sends outcomes back as JSON and bytes, never a pickle.

Messages to the driver begin with a letter: R ready (and whether the process should be kept), X could not start,
E an estimate, which is followed by a message with its weights; and, of final trainings, P a point of the curve."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from evonas import estimate, imported
from evonas.core import Estimate, Estimator, Job, Outcome, Watched, dumps, loads
from evonas.processes import die_with

READY, BROKEN, ESTIMATE, POINT = b"R", b"X", b"E", b"P"
KEEP = READY + b"keep"
"""A ready worker whose start was dear (a CUDA context) asks to be kept for later jobs."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker process is started with: the resolved recipe, the folder of staged rows, its number, and what the
    driver may import."""

    recipe: Any
    folder: str | None
    final: bool
    slot: int
    directory: str
    code: Sequence[str] = ()

    def to_bytes(self) -> bytes:
        return dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Assignment:
        return Assignment(**loads(data))


def main(pipe: Connection, life: Connection, assignment: bytes) -> None:
    """Works until the driver says stop, or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides what it means
    threading.Thread(target=die_with, args=(life,), daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            given = Assignment.from_bytes(assignment)
            estimator, greeting = _start(given)
        except Exception as error:
            pipe.send_bytes(BROKEN + estimate.told(error).encode(errors="replace"))
            return
        pipe.send_bytes(greeting)
        if estimate.watched(given.recipe, given.final):
            estimator = _Told(cast(Watched, estimator), pipe)
        while message := pipe.recv_bytes():
            told, weights = encoded(estimator, Job.from_json(loads(message)))
            pipe.send_bytes(ESTIMATE + told)
            pipe.send_bytes(weights)


@dataclass(frozen=True, slots=True)
class _Told:
    """An estimator whose learning curve the driver hears of."""

    estimator: Watched
    pipe: Connection

    def estimate(self, job: Job) -> Outcome:
        return self.estimator.estimate(job, self._tell)

    def _tell(self, point: Mapping[str, float]) -> None:
        with suppress(OSError):  # the driver is no more, and soon this process
            self.pipe.send_bytes(POINT + dumps(dict(point)).encode())


def _start(assignment: Assignment) -> tuple[Estimator, bytes]:
    os.chdir(assignment.directory)
    imported.grant(assignment.code)
    folder = Path(assignment.folder) if assignment.folder is not None else None
    if assignment.slot:
        _spread(assignment.slot)
    estimator = estimate.build(assignment.recipe, folder, assignment.final)
    device = getattr(estimator, "device", None)
    return estimator, KEEP if device is not None and device.type == "cuda" else READY


def _spread(slot: int) -> None:
    """Shares several GPUs among the workers."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())


def encoded(estimator: Estimator, job: Job) -> tuple[bytes, bytes]:
    """The outcome of a job as JSON and weights; whatever an estimator lets out becomes a failed estimate."""
    try:
        outcome = estimator.estimate(job)
        return dumps(outcome.estimate.to_json()).encode(), outcome.weights or b""
    except BaseException as error:
        failed = Estimate.failed(job.id, estimate.told(error))
        return dumps(failed.to_json()).encode(), b""


def decoded(told: bytes, weights: bytes) -> Outcome:
    """The outcome that `encoded` wrote."""
    return Outcome(Estimate.from_json(loads(told)), weights or None)
