"""Worker pools: where estimates are computed. `serial` in this process, `processes` in others on this machine, `ray` on
the nodes of a cluster.

A lost process loses its own job alone; what hangs is ended at its limit; every job gives exactly one outcome."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator

from evonas import estimate, imported
from evonas.core import (
    Count,
    Estimate,
    Estimator,
    EvonasError,
    Job,
    Outcome,
    Pool,
    RecipeError,
    Settings,
    Watched,
    dumps,
    loads,
)
from evonas.estimate import worker
from evonas.imported import Imported
from evonas.processes import cause, context, deaf, environment, plain_main

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


class RaySettings(Settings):
    """Estimates on the nodes of a Ray cluster, which may join and leave. Needs `pip install 'evonas[ray]'`."""

    kind: Literal["ray"] = "ray"
    address: str | None = Field(default=None, pattern=r"^(auto|[^\s:/]+:\d{1,5}|\[[\da-fA-F:]+\]:\d{1,5})$")
    """auto or host:port of a cluster that is there, on a node of which the driver runs; null starts one on this machine
    that ends with the run."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    """Estimates at a time; auto takes as many as the living nodes have room for."""
    cpus: Literal["auto"] | Annotated[float, Field(gt=0, le=1024)] = "auto"
    """CPUs that an estimate takes of a node, such as 0.5; auto takes as many as a training has threads."""
    gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=1024)] = "auto"
    """GPUs that an estimate takes of a node; 0.25 lets four networks share one. auto takes one where training runs on
    cuda and a node has any."""
    memory: Count | None = Field(default=None, ge=1_000_000)
    """Bytes (also 500M, 2G) that an estimate takes of a node's memory as Ray counts it; null means none."""
    retries: int = Field(default=2, ge=0, le=100)
    """How often the job of a killed process or a lost node is tried again, with the same seed, before it has failed."""
    wait: float = Field(default=300.0, gt=0)
    """Seconds without a single worker on any node after which a run stops with an error."""

    @field_validator("gpus")
    @classmethod
    def _whole(cls, gpus: float | str) -> float | str:
        if isinstance(gpus, float) and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus {gpus:g} is not allowed: give a fraction of one, or a whole number")
        return gpus


TABLE: dict[str, type[Settings]] = {"serial": SerialSettings, "processes": ProcessesSettings, "ray": RaySettings}


def check(settings: Settings) -> None:
    """Raises RecipeError where a pool needs a package that is not installed."""
    if isinstance(settings, RaySettings) and find_spec("ray") is None:
        raise RecipeError("pool 'ray' needs ray, which is not installed: pip install 'evonas[ray]'")


Listener = Callable[[int, Mapping[str, float]], None]
"""Called with an individual's id and each point of the learning curve of its final training, as it comes."""


def build(
    settings: Settings, recipe: Mapping[str, Any], scratch: Path, final: bool = False, listener: Listener | None = None
) -> Pool:
    """The pool that the settings describe, for the estimator of a resolved recipe; one that takes whole populations
    works in this process, with threads of its own.

    `scratch` is a folder of the pool's own: emptied now and removed when it closes. `final` computes the recipe's final
    trainings on the test rows; `serial` and `processes` tell `listener` of their epochs. Raises RecipeError, DataError
    for what no estimate could mend."""
    if recipe["estimator"].get("kind") == "population":
        return Serial(estimate.build(recipe, None, final))
    if isinstance(settings, ProcessesSettings):
        return Processes(settings, recipe, scratch, final, listener=listener)
    if isinstance(settings, RaySettings):
        check(settings)
        from evonas.cluster import Cluster

        return Cluster(settings, recipe, scratch, final)
    if isinstance(settings, Imported):
        made: Pool = imported.load(settings.kind)(settings, recipe, scratch, final)
        return made
    return Serial(estimate.build(recipe, None, final), listener if estimate.watched(recipe, final) else None)


def drain(workers: Pool, jobs: Sequence[Job]) -> Iterator[list[Outcome]]:
    """The outcomes of a pool that has nothing else to do, as they arrive."""
    workers.submit(jobs)
    while arrived := workers.arrived():
        yield arrived


# ------------------------------------------------------------------------------------------------------------ serial


class Serial:
    """Estimates in this process, in the order of the jobs."""

    workers = 1
    BATCH = 0.05
    """Seconds of outcomes that are handed over at once, so that a thousand quick ones cost few commits."""

    def __init__(self, estimator: Estimator, listener: Listener | None = None) -> None:
        self.estimator, self._listener = estimator, listener
        self._waiting: deque[Job] = deque()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Jobs that wait until `arrived` computes them."""
        self._waiting.extend(jobs)

    def arrived(self) -> list[Outcome]:
        """At least one outcome while there are jobs."""
        batch: list[Outcome] = []
        until = time.monotonic() + self.BATCH
        while self._waiting and (not batch or time.monotonic() < until):
            batch.append(self._estimate(self._waiting.popleft()))
        return batch

    def _estimate(self, job: Job) -> Outcome:
        if self._listener is None:
            return self.estimator.estimate(job)
        return cast(Watched, self.estimator).estimate(job, partial(self._listener, job.id))

    def close(self) -> None:
        """Ends what the estimator itself may have started."""
        if close := getattr(self.estimator, "close", None):
            close()


# --------------------------------------------------------------------------------------------------------- processes


@dataclass(slots=True)
class Attempt:
    """A job and how many workers it has cost."""

    job: Job
    lost: int = 0

    def lost_again(self, why: str, retries: int) -> Outcome | None:
        """Counts one more worker; the failed estimate where it was one too many, None where the job has another try."""
        self.lost += 1
        if self.lost <= retries:
            return None
        often = f" in each of {self.lost} attempts" if self.lost > 1 else ""
        return Outcome(Estimate.failed(self.job.id, f"{why}{often}"))


class _Worker:
    """The driver's end of one worker process, and the jobs that it has: the first is under way, others are tiny ones
    that wait there, so that it never waits for the driver."""

    AHEAD = 0.1
    """Seconds of work that a process may have before it."""
    MOST = 64
    BYTES = 50_000
    """Most jobs, and bytes of them, that it may have: the pipe must take them while it sends an outcome itself."""

    def __init__(self, context: Any, forks: bool, assignment: worker.Assignment, watched: bool) -> None:
        self.pipe, theirs = context.Pipe()
        their_life, self._life = context.Pipe(duplex=False)
        arguments = (theirs, their_life, assignment.to_bytes())
        self.slot = assignment.slot
        self.process: BaseProcess = context.Process(target=worker.main, args=arguments, daemon=True)
        # half a start would leave a process that waits for the rest; one that is forked from a server has its own mask
        with plain_main(), environment(), deaf(signal.SIGTERM) if forks else nullcontext():
            self.process.start()
        theirs.close()
        their_life.close()
        self.attempts: deque[Attempt] = deque()
        self.ready = self.keep = self.full = False
        self.worked = 0.0
        self._done = 0
        self._sizes: deque[int] = deque()
        self._watched = watched
        self._since = time.monotonic()
        self._memory = 0

    def give(self, attempt: Attempt) -> bool:
        """Sends a job, unless it is one too many. Raises OSError where the process is gone."""
        message = dumps(attempt.job.to_json()).encode()
        if self.attempts and sum(self._sizes) + len(message) > self.BYTES:
            return False
        self.pipe.send_bytes(message)
        self.attempts.append(attempt)
        self._sizes.append(len(message))
        if len(self.attempts) == 1:
            self._start_clock()
        return True

    @property
    def room(self) -> int:
        """How many more jobs it may have beside the one under way, by how long those before took."""
        if self.full or not self._done or not self.worked:
            return 0
        return min(int(self.AHEAD * self._done / self.worked), self.MOST) - len(self.attempts)

    def greeted(self, message: bytes) -> None:
        """The process is up; its first job begins now."""
        self.ready, self.keep = True, message == worker.KEEP
        self._start_clock()

    def _start_clock(self) -> None:
        self._since = time.monotonic()
        if self._watched:
            with suppress(Exception):  # gone already: its pipe will tell
                self._memory = estimate.private_memory(self.process.pid)

    def finished(self) -> None:
        """Its first job is done, and the next begins."""
        self.worked += self.elapsed
        self._done += 1
        self.attempts.popleft()
        self._sizes.popleft()
        self._start_clock()

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
    start; the next one starts meanwhile. Rows are laid into files once and mapped by all workers."""

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
    BATCH = 0.02
    """Seconds for which tiny jobs are gathered before they are handed over."""

    def __init__(
        self,
        settings: ProcessesSettings,
        recipe: Mapping[str, Any],
        scratch: Path,
        final: bool = False,
        stage: Callable[[Mapping[str, Any], Path, bool], Path | None] = estimate.stage,
        listener: Listener | None = None,
    ) -> None:
        section = recipe["final" if final else "estimator"]
        self._recipe, self._final, self._scratch = recipe, final, scratch
        self._retries, self._listener = settings.retries, listener
        self._time_limit, self._memory_limit = section.get("time_limit"), section.get("memory_limit")
        self.workers = settings.workers if settings.workers != "auto" else estimate.capacity(section)
        self._context, self._forks = context("evonas.estimate.preload")
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, _Worker] = {}
        self._waiting: deque[Attempt] = deque()
        self._lost: list[Outcome] = []
        shutil.rmtree(scratch, ignore_errors=True)
        self._folder = stage(recipe, scratch, final)

    # running ----------------------------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[Job]) -> None:
        """Jobs for the next workers that are free, some of which begin at once."""
        self._waiting.extend(Attempt(job) for job in jobs)
        self._lost += self._assign()

    def arrived(self) -> list[Outcome]:
        """At least one outcome while there are jobs, as they arrive. Raises EvonasError where workers cannot start at
        all."""
        arrived, self._lost = self._lost, []
        while not arrived and (self._waiting or self._busy):
            arrived = [*self._assign(), *self._received(), *self._expired()]
        until = time.monotonic() + self.BATCH
        while arrived and self._quick() and (left := until - time.monotonic()) > 0:
            arrived += [*self._assign(), *self._received(left)]
        return arrived

    def _quick(self) -> bool:
        """Whether workers are at tiny jobs, of which many are handed over at once, so that they cost few commits."""
        return any(len(busy.attempts) > 1 for busy in self._busy.values())

    def _assign(self) -> list[Outcome]:
        """Gives jobs to idle and new workers, and tiny ones to workers that will soon be done; outcomes only where a
        job has lost its last worker."""
        lost = []
        while self._waiting and len(self._busy) < self.workers:
            attempt = self._waiting.popleft()
            idle = bool(self._idle)
            chosen = self._idle.pop() if idle else self._new()
            if chosen is None:
                lost += self._retried("was lost at its start", attempt)
                continue
            try:
                chosen.give(attempt)
                self._busy[chosen.pipe] = chosen
            except OSError:
                why = cause(chosen.bury(self.MERCY))
                if idle:  # it died while it had nothing to do: that is no try of this job
                    self._waiting.appendleft(attempt)
                else:
                    lost += self._retried(why, attempt)
        busy = self._busy.values()
        while self._waiting and (roomy := [one for one in busy if one.room > 0 and not self._old(one)]):
            self._ahead(max(roomy, key=lambda one: one.room))
        if self._waiting and self._forks and not self._idle and all(one.ready and not one.keep for one in busy):
            self._idle += filter(None, [self._new()])  # it starts while the others work
        return lost

    def _ahead(self, chosen: _Worker) -> None:
        """One more job for a worker that is at another; where it takes none, it gets no more before it is free."""
        try:
            chosen.full = not chosen.give(self._waiting[0])
        except OSError:  # its death is heard of when its outcomes have been read
            chosen.full = True
        if not chosen.full:
            self._waiting.popleft()

    def _old(self, chosen: _Worker) -> bool:
        """Whether it makes place for a fresh process when it is free."""
        return self._forks and not chosen.keep and chosen.worked >= self.RETIRE

    def _new(self) -> _Worker | None:
        """A fresh process; None where it was killed before it had read what it is to do."""
        taken = {busy.slot for busy in self._busy.values()}
        slot = next((number for number in range(self.workers) if number not in taken), 0)
        folder = None if self._folder is None else str(self._folder)
        code = imported.granted()
        assignment = worker.Assignment(self._recipe, folder, self._final, slot, os.getcwd(), code)
        try:
            return _Worker(self._context, self._forks, assignment, self._memory_limit is not None)
        except (BrokenPipeError, ConnectionResetError, EOFError):
            return None

    def _received(self, most: float | None = None) -> list[Outcome]:
        """Waits until a worker has something to say or a limit may be passed, `most` seconds, and takes what there
        is."""
        patience = self._patience()
        shortest = min((one for one in (patience, most) if one is not None), default=None)
        outcomes = []
        for pipe in wait(list(self._busy), shortest):
            outcomes += self._heard(self._busy[cast(Connection, pipe)])
        return outcomes

    def _heard(self, chosen: _Worker) -> list[Outcome]:
        try:
            message = chosen.pipe.recv_bytes()
            weights = chosen.pipe.recv_bytes() if message[:1] == worker.ESTIMATE else b""
        except (EOFError, OSError):
            first, *others = self._given_back(chosen)
            self._waiting.extendleft(reversed(others))  # the process died of its first job, not of these
            return self._retried(cause(chosen.bury(self.MERCY)), first)
        if message[:1] == worker.READY:
            chosen.greeted(message)
            return []
        if message[:1] == worker.BROKEN:
            del self._busy[chosen.pipe]
            chosen.bury(self.MERCY)
            raise EvonasError(f"a worker cannot start: {message[1:].decode()}")
        if message[:1] == worker.POINT:
            if self._listener is not None:
                self._listener(chosen.attempts[0].job.id, loads(message[1:]))
            return []
        chosen.finished()
        if not chosen.attempts:
            self._release(chosen)
        return [worker.decoded(message[1:], weights)]

    def _given_back(self, chosen: _Worker) -> list[Attempt]:
        """The jobs of a worker that computes none of them any more."""
        del self._busy[chosen.pipe]
        attempts = list(chosen.attempts)
        chosen.attempts.clear()
        return attempts

    def _release(self, chosen: _Worker) -> None:
        del self._busy[chosen.pipe]
        chosen.full = False
        if self._old(chosen):
            chosen.dismiss()
        else:
            self._idle.append(chosen)

    def _retried(self, why: str, attempt: Attempt) -> list[Outcome]:
        """The job of a dead worker goes to the front of the queue, until it has cost too many."""
        failed = attempt.lost_again(f"its worker process {why}", self._retries)
        if failed is None:
            self._waiting.appendleft(attempt)
            return []
        return [failed]

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
            cost = {"seconds": busy.elapsed}
            first, *others = self._given_back(busy)
            self._waiting.extendleft(reversed(others))
            self._end([busy])
            outcomes.append(Outcome(Estimate.failed(first.job.id, reason, cost)))
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
        self._waiting.clear()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _end(self, workers: Iterable[_Worker]) -> None:
        """Ends processes by SIGTERM and, where that does not help, by SIGKILL."""
        ending = list(workers)
        for one in ending:
            one.process.terminate()
        until = time.monotonic() + self.MERCY
        for one in ending:
            one.bury(max(until - time.monotonic(), 0.0))
