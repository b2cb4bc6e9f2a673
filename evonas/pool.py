"""Worker pools: where estimates are computed. `serial` in this process, `processes` in others on this machine.

A lost process loses its own job alone; what hangs is ended at its limit; every job gives exactly one outcome."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from evonas import estimate, imported
from evonas.core import Estimate, Estimator, EvonasError, Job, Outcome, Pool, Settings, dumps
from evonas.estimate import worker
from evonas.imported import Imported
from evonas.processes import cause, context, environment, plain_main

# ---------------------------------------------------------------------------------------------------------- settings


class SerialSettings(Settings):
    """One estimate after another in the driver's own process: simplest, and no guard against what crashes or hangs."""

    kind: Literal["serial"] = "serial"


class ProcessesSettings(Settings):
    """Estimates in processes of this machine, each with its own limits."""

    kind: Literal["processes"] = "processes"
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    """Processes at work at a time; auto takes as many as there are cores for (or GPUs, where training runs on them)."""
    retries: int = Field(default=2, ge=0, le=100)
    """How often the job of a killed or crashed process is tried again, with the same seed, before it has failed."""


TABLE: dict[str, type[Settings]] = {"serial": SerialSettings, "processes": ProcessesSettings}


def build(settings: Settings, recipe: Mapping[str, Any], scratch: Path, final: bool = False) -> Pool:
    """The pool that the settings describe, for the estimator of a resolved recipe; one that takes whole populations
    works in this process, with threads of its own.

    `scratch` is a folder of the pool's own: emptied now and removed when it closes. `final` computes the recipe's final
    trainings on the test rows. Raises RecipeError, DataError for what no estimate could mend."""
    if recipe["estimator"].get("kind") == "population":
        return Serial(estimate.build(recipe, None, final))
    if isinstance(settings, ProcessesSettings):
        return Processes(settings, recipe, scratch, final)
    if isinstance(settings, Imported):
        made: Pool = imported.load(settings.kind)(settings, recipe, scratch, final)
        return made
    return Serial(estimate.build(recipe, None, final))


# ------------------------------------------------------------------------------------------------------------ serial


class Serial:
    """Estimates in this process, in the order of the jobs."""

    workers = 1
    BATCH = 0.05
    """Seconds of outcomes that are handed over at once, so that a thousand quick ones cost few commits."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator

    def run(self, jobs: Sequence[Job]) -> Iterator[list[Outcome]]:
        """Exactly one outcome per job."""
        batch: list[Outcome] = []
        began = time.monotonic()
        for job in jobs:
            batch.append(self.estimator.estimate(job))
            if time.monotonic() - began >= self.BATCH:
                yield batch
                batch, began = [], time.monotonic()
        if batch:
            yield batch

    def close(self) -> None:
        """Ends what the estimator itself may have started."""
        if close := getattr(self.estimator, "close", None):
            close()


# --------------------------------------------------------------------------------------------------------- processes


@dataclass(slots=True)
class _Attempt:
    """A job and how many processes it has cost."""

    job: Job
    lost: int = 0


class _Worker:
    """The driver's end of one worker process."""

    def __init__(self, context: Any, assignment: worker.Assignment) -> None:
        self.pipe, theirs = context.Pipe()
        their_life, self._life = context.Pipe(duplex=False)
        arguments = (theirs, their_life, assignment.to_bytes())
        self.slot = assignment.slot
        self.process: BaseProcess = context.Process(target=worker.main, args=arguments, daemon=True)
        with plain_main(), environment():
            self.process.start()
        theirs.close()
        their_life.close()
        self.attempt: _Attempt | None = None
        self.ready = self.keep = False
        self.worked = 0.0
        self._since = time.monotonic()
        self._memory = 0

    def give(self, attempt: _Attempt) -> None:
        """Sends a job. Raises OSError where the process is gone."""
        self.attempt = attempt
        self.pipe.send_bytes(dumps(attempt.job.to_json()).encode())
        self._start_clock()

    def greeted(self, message: bytes) -> None:
        """The process is up; its first job begins now."""
        self.ready, self.keep = True, message == worker.KEEP
        self._start_clock()

    def _start_clock(self) -> None:
        self._since = time.monotonic()
        with suppress(Exception):  # gone already: its pipe will tell
            self._memory = estimate.private_memory(self.process.pid)

    def finished(self) -> None:
        """Its job is done."""
        self.worked += self.elapsed
        self.attempt = None

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._since

    def grown(self) -> int:
        """Bytes that the process has taken since its job began."""
        with suppress(Exception):
            return estimate.private_memory(self.process.pid) - self._memory
        return 0

    def dismiss(self) -> None:
        """Asks the process to end by itself; it has nothing to do."""
        with suppress(OSError):
            self.pipe.send_bytes(b"")
        self._hang_up()

    def bury(self, grace: float) -> int | None:
        """Sees the process end, by SIGKILL after `grace` seconds, and gives its exit code."""
        self.process.join(grace)
        if self.process.is_alive():
            self.process.kill()
        self.process.join(5)
        self._hang_up()
        return self.process.exitcode

    def _hang_up(self) -> None:
        self.pipe.close()
        self._life.close()


class Processes:
    """Estimates in processes that are forked from one server with torch loaded, or spawned where there is no fork.

    A process takes jobs until it has worked for a second, so that long estimates have one each and tiny ones share the
    start. Rows are laid into files once and mapped by all workers."""

    RETIRE = 1.0
    """Seconds of work after which a process makes place for a fresh one; its start takes about 0.02 s."""
    GRACE = 1.0
    """Seconds beyond the time limit before a process that did not stop by itself is ended."""
    START = 120.0
    """Seconds that a process may take to start."""
    MERCY = 0.5
    """Seconds between SIGTERM and SIGKILL."""
    LOOK = 0.05
    """Seconds between looks at the memory of workers with a limit."""

    def __init__(
        self, settings: ProcessesSettings, recipe: Mapping[str, Any], scratch: Path, final: bool = False
    ) -> None:
        section = recipe["final" if final else "estimator"]
        self._recipe, self._final, self._scratch = recipe, final, scratch
        self._retries = settings.retries
        self._time_limit, self._memory_limit = section.get("time_limit"), section.get("memory_limit")
        self.workers = settings.workers if settings.workers != "auto" else estimate.capacity(section)
        self._context, self._forks = context("evonas.estimate.preload")
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, _Worker] = {}
        shutil.rmtree(scratch, ignore_errors=True)
        self._folder = estimate.stage(recipe, scratch, final)

    # running ----------------------------------------------------------------------------------------------------

    def run(self, jobs: Sequence[Job]) -> Iterator[list[Outcome]]:
        """Exactly one outcome per job, as they arrive. Raises EvonasError where workers cannot start at all."""
        waiting = deque(_Attempt(job) for job in jobs)
        try:
            while waiting or self._busy:
                arrived = [*self._assign(waiting), *self._received(waiting), *self._expired()]
                if arrived:
                    yield arrived
        finally:
            self._end(self._busy.values())
            self._busy.clear()

    def _assign(self, waiting: deque[_Attempt]) -> list[Outcome]:
        """Gives jobs to idle and new workers; outcomes only where a job has lost its last worker."""
        lost = []
        while waiting and len(self._busy) < self.workers:
            attempt = waiting.popleft()
            chosen = self._idle.pop() if self._idle else self._new()
            try:
                chosen.give(attempt)
                self._busy[chosen.pipe] = chosen
            except OSError:
                lost += self._retried(chosen, attempt, waiting)
        return lost

    def _new(self) -> _Worker:
        taken = {busy.slot for busy in self._busy.values()}
        slot = next(number for number in range(self.workers) if number not in taken)
        folder = None if self._folder is None else str(self._folder)
        return _Worker(self._context, worker.Assignment(self._recipe, folder, self._final, slot, os.getcwd()))

    def _received(self, waiting: deque[_Attempt]) -> list[Outcome]:
        """Waits until a worker has something to say or a limit may be passed, and takes what there is."""
        outcomes = []
        for pipe in wait(list(self._busy), self._patience()):
            outcomes += self._heard(self._busy[cast(Connection, pipe)], waiting)
        return outcomes

    def _heard(self, chosen: _Worker, waiting: deque[_Attempt]) -> list[Outcome]:
        attempt = chosen.attempt
        assert attempt is not None
        try:
            message = chosen.pipe.recv_bytes()
            weights = chosen.pipe.recv_bytes() if message[:1] == worker.ESTIMATE else b""
        except (EOFError, OSError):
            del self._busy[chosen.pipe]
            return self._retried(chosen, attempt, waiting)
        if message[:1] == worker.READY:
            chosen.greeted(message)
            return []
        del self._busy[chosen.pipe]
        if message[:1] == worker.BROKEN:
            chosen.bury(self.MERCY)
            raise EvonasError(f"a worker cannot start: {message[1:].decode()}")
        chosen.finished()
        self._release(chosen)
        return [worker.decoded(message[1:], weights)]

    def _release(self, chosen: _Worker) -> None:
        if self._forks and not chosen.keep and chosen.worked >= self.RETIRE:
            chosen.dismiss()
        else:
            self._idle.append(chosen)

    def _retried(self, lost: _Worker, attempt: _Attempt, waiting: deque[_Attempt]) -> list[Outcome]:
        """The job of a dead worker goes to the front of the queue, until it has cost too many."""
        why = cause(lost.bury(self.MERCY))
        attempt.lost += 1
        if attempt.lost <= self._retries:
            waiting.appendleft(attempt)
            return []
        often = f" in each of {attempt.lost} attempts" if attempt.lost > 1 else ""
        return [Outcome(Estimate.failed(attempt.job.id, f"its worker process {why}{often}"))]

    # limits -----------------------------------------------------------------------------------------------------

    def _patience(self) -> float | None:
        """Seconds until a limit may be passed, or None where there is none."""
        left = [self._allowed(busy) - busy.elapsed for busy in self._busy.values()]
        soonest = min([*left, self.LOOK] if self._memory_limit else left, default=0.0)
        return None if soonest == float("inf") else max(soonest, 0.0)

    def _allowed(self, busy: _Worker) -> float:
        if not busy.ready:
            return self.START
        return float("inf") if self._time_limit is None else self._time_limit + self.GRACE

    def _expired(self) -> list[Outcome]:
        """Ends the workers that passed a limit and have not said anything; a hang is not tried again."""
        outcomes = []
        for busy in list(self._busy.values()):
            reason = self._broken(busy)
            if reason is None or busy.pipe.poll():
                continue
            assert busy.attempt is not None
            del self._busy[busy.pipe]
            self._end([busy])
            cost = {"seconds": busy.elapsed}
            outcomes.append(Outcome(Estimate.failed(busy.attempt.job.id, reason, cost)))
        return outcomes

    def _broken(self, busy: _Worker) -> str | None:
        """Which limit a worker has passed."""
        if busy.elapsed >= self._allowed(busy):
            if not busy.ready:
                return f"its worker process did not start within {self.START:g} s"
            return estimate.over_time(self._time_limit)
        if self._memory_limit and busy.ready and busy.grown() > self._memory_limit:
            return estimate.over_memory(self._memory_limit)
        return None

    # closing ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends all workers within a second and removes the scratch folder."""
        self._end([*self._busy.values(), *self._idle])
        self._busy.clear()
        self._idle.clear()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _end(self, workers: Iterable[_Worker]) -> None:
        """Ends processes by SIGTERM and, where that does not help, by SIGKILL."""
        ending = list(workers)
        for one in ending:
            one.process.terminate()
        until = time.monotonic() + self.MERCY
        for one in ending:
            one.bury(max(until - time.monotonic(), 0.0))
