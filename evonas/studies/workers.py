"""Searches in memory, spread over processes: batches of seeds out, what is remembered of them back, as JSON.

A process that is killed loses its batch alone, which another one does again; a search that fails ends its arm."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from evonas import imported
from evonas.core import EvonasError, Json, dumps, loads
from evonas.processes import cause, context, die_with, environment, plain_main
from evonas.recipe import Recipe, from_json
from evonas.simulate import Simulator
from evonas.studies.looks import Looks, of_trace

BATCH = 1.5
"""Seconds of searches that are handed out, and written down, at once."""

PROBE, MOST = 2, 500
"""Seeds of an arm's first batch, which shows how long they take, and of its largest."""

RETRIES = 2
"""How often the batch of a killed process is done again."""


@dataclass
class Plot:
    """The searches of one recipe that are still to be done, and how long one takes, as far as that is known."""

    key: str
    recipe: Recipe
    waiting: deque[int]
    seconds: float = 0.0
    done: int = 0
    broken: str = ""

    @property
    def each(self) -> float | None:
        """Seconds of one search, None while there was none."""
        return self.seconds / self.done if self.done else None


@dataclass(frozen=True)
class Batch:
    """Some searches of a plot."""

    plot: Plot
    seeds: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """As a message to a process."""
        recipe = self.plot.recipe.model_dump(mode="json")
        order = {"key": self.plot.key, "recipe": recipe, "seeds": list(self.seeds), "code": imported.granted()}
        return dumps(order).encode()


@dataclass(frozen=True)
class Finished:
    """What came of a batch: its looks, or why its searches failed."""

    plot: Plot
    seeds: tuple[int, ...]
    looks: Looks | None = None
    failure: str = ""


class Queue:
    """Plots in order; the first batches of all come first, so that a mistake in any shows at once."""

    def __init__(self, plots: Sequence[Plot]) -> None:
        self._plots = list(plots)
        self._probes = deque(plots)

    def next(self, workers: int) -> Batch | None:
        """The next searches to do, None where all are given out."""
        while self._probes:
            plot = self._probes.popleft()
            if plot.waiting:
                return Batch(plot, _taken(plot.waiting, PROBE))
        for plot in self._plots:
            if plot.waiting and not plot.broken:
                return Batch(plot, _taken(plot.waiting, _size(plot, workers)))
        return None

    def back(self, batch: Batch) -> None:
        """Takes back what a lost process has not done."""
        batch.plot.waiting.extendleft(reversed(batch.seeds))


def _taken(waiting: deque[int], count: int) -> tuple[int, ...]:
    return tuple(waiting.popleft() for _ in range(min(count, len(waiting))))


def _size(plot: Plot, workers: int) -> int:
    """So many seeds that they take BATCH seconds, and that all workers have something to do until the end."""
    wanted = PROBE if plot.each is None else int(BATCH / max(plot.each, 1e-9))
    return max(1, min(wanted, MOST, -(-len(plot.waiting) // workers)))


def finished(plots: Sequence[Plot], workers: int) -> Generator[Finished, None, None]:
    """All searches of the plots as they are done, in this process or in several. Closing it ends the processes."""
    count = min(workers, sum(len(plot.waiting) for plot in plots))
    queue = Queue(plots)
    for one in _together(queue, count) if count > 1 else _alone(queue):
        if one.looks is None:
            one.plot.broken = one.failure
            one.plot.waiting.clear()
        else:
            one.plot.done += len(one.seeds)
        yield one


def _alone(queue: Queue) -> Iterator[Finished]:
    while (batch := queue.next(1)) is not None:
        began = time.monotonic()
        told = _done(batch.plot.key, batch.plot.recipe, batch.seeds)
        batch.plot.seconds += time.monotonic() - began
        yield Finished(batch.plot, batch.seeds, *told)


# --------------------------------------------------------------------------------------------------------- processes


@dataclass
class _Worker:
    """The driver's end of a process."""

    context: Any
    batch: Batch | None = None
    began: float = 0.0
    pipe: Connection = field(init=False)

    def __post_init__(self) -> None:
        self.pipe, theirs = self.context.Pipe()
        their_life, self._life = self.context.Pipe(duplex=False)
        self.process = self.context.Process(target=main, args=(theirs, their_life, os.getcwd()), daemon=True)
        with plain_main(), environment():
            self.process.start()
        theirs.close()
        their_life.close()

    def give(self, batch: Batch) -> None:
        """Sends searches to do. OSError where the process is gone."""
        self.batch, self.began = batch, time.monotonic()
        self.pipe.send_bytes(batch.to_bytes())

    def end(self) -> int | None:
        """Ends the process, whatever it does, and gives its exit code."""
        self.process.join(0.1 if self.batch is not None else 0)
        code: int | None = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join(5)
        self.pipe.close()
        self._life.close()
        return code


def _together(queue: Queue, count: int) -> Iterator[Finished]:
    chosen, _ = context("evonas.studies.workers")
    team = [_Worker(chosen) for _ in range(count)]
    lost: dict[tuple[str, tuple[int, ...]], int] = {}
    try:
        idle = list(team)
        while True:
            _give(queue, idle, count)
            busy = {one.pipe: one for one in team if one.batch is not None}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[cast(Connection, pipe)]
                told = _heard(worker)
                if told is not None:
                    idle.append(worker)
                    yield told
                    continue
                team.remove(worker)
                failure = _lost(queue, worker, lost)
                fresh = _Worker(chosen)
                team.append(fresh)
                idle.append(fresh)
                if failure is not None:
                    yield failure
    finally:
        for worker in team:
            worker.end()


def _give(queue: Queue, idle: list[_Worker], count: int) -> None:
    while idle and (batch := queue.next(count)) is not None:
        with suppress(OSError):  # gone already: its pipe will tell
            idle.pop().give(batch)


def _heard(worker: _Worker) -> Finished | None:
    """What a worker has to say; None where it is gone."""
    batch = worker.batch
    assert batch is not None
    try:
        told = loads(worker.pipe.recv_bytes())
    except (EOFError, OSError):
        return None
    batch.plot.seconds += told["seconds"]
    worker.batch = None
    looks = None if told["looks"] is None else Looks.from_json(told["looks"])
    return Finished(batch.plot, batch.seeds, looks, told["failure"])


def _lost(queue: Queue, worker: _Worker, lost: dict[tuple[str, tuple[int, ...]], int]) -> Finished | None:
    """Gives the searches of a dead process to another one, until they have cost too many."""
    batch = worker.batch
    assert batch is not None
    why = cause(worker.end())
    at = (batch.plot.key, batch.seeds[:1])
    lost[at] = lost.get(at, 0) + 1
    if lost[at] <= RETRIES:
        queue.back(batch)
        return None
    return Finished(batch.plot, batch.seeds, None, f"its process {why} in each of {lost[at]} attempts")


def main(pipe: Connection, life: Connection, directory: str) -> None:
    """The inside of a process: searches until the driver says stop, or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides what it means
    threading.Thread(target=die_with, args=(life,), daemon=True).start()
    os.chdir(directory)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while message := pipe.recv_bytes():
            pipe.send_bytes(_answered(loads(message)))


def _answered(order: Json) -> bytes:
    began = time.monotonic()
    imported.grant(order["code"])
    looks, failure = _done(order["key"], order["recipe"], order["seeds"])
    told = None if looks is None else looks.to_json()
    return dumps({"looks": told, "failure": failure, "seconds": time.monotonic() - began}).encode()


def _done(key: str, recipe: Recipe | Json, seeds: Sequence[int]) -> tuple[Looks | None, str]:
    """What is remembered of some searches, or why one of them failed."""
    parts: list[Looks] = []
    for seed in seeds:
        try:
            searched = _simulator(key, _Held(recipe))
            parts.append(of_trace(searched.search(seed), seed, searched.objectives))
        except Exception as error:
            told = str(error) if isinstance(error, EvonasError) else f"{type(error).__name__}: {error}"
            return None, f"seed {seed}: {' '.join(told.split())[:500]}"
    return Looks.joined(parts), ""


@dataclass(frozen=True)
class _Held:
    """A recipe beside its key: equal to any other, for the key says which it is."""

    recipe: Recipe | Json = field(compare=False)


@lru_cache(maxsize=4)
def _simulator(key: str, held: _Held) -> Simulator:
    return Simulator(held.recipe if isinstance(held.recipe, Recipe) else from_json(held.recipe))
