"""The Ray pool: estimates on the nodes of a cluster, each in a seat that takes its share of CPUs, GPUs and memory.

Ray places the seats and carries bytes; when to try again and when to give up is decided here. A lost node loses only
what it had under way, and that is computed again elsewhere from the same seed."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from evonas import estimate, imported
from evonas.core import EvonasError, Heritage, Job, Outcome, RecipeError, dumps
from evonas.estimate.worker import BROKEN, READY, decoded
from evonas.pool import Attempt, Processes, RaySettings
from evonas.seat import LACKS, Assignment, Seat, digest

ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_agent_register_timeout_ms": "120000"}
"""What a cluster that is started here is told unless the user says otherwise: nothing is sent to Ray's makers, and a
busy machine has time to start it."""

STORE = 80 * 2**20
"""Bytes of the object store of a cluster that is started here: on one node rows and weights do not pass through it."""

# ------------------------------------------------------------------------------------------------------- the cluster


def connect(settings: RaySettings, cpus: float) -> bool:
    """Joins a cluster, or starts one with room for the workers that are asked for; tells whether this process did so
    just now and is to leave it. Raises RecipeError where nobody answers."""
    if ray.is_initialized():
        return False
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with _undisturbed():
            if settings.address is None:
                _start(_cores(settings, cpus))
            else:
                _knock(settings.address)
                ray.init(settings.address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises bare ones, too
        what = "no Ray cluster could be started" if settings.address is None else "no Ray cluster answers"
        cure = "start one with `ray start --head` and join it on this machine, or leave pool.address out"
        raise RecipeError(f"pool.address {settings.address}: {what} ({_line(error)}): {cure}") from None
    return True


def _start(cpus: int) -> None:
    """A cluster of this machine, at the second attempt where a busy one was too slow for Ray's limit of 30 s."""
    local = {"num_cpus": cpus, "object_store_memory": STORE, "include_dashboard": False}
    quiet = {"log_to_driver": False, "configure_logging": False}
    try:
        ray.init("local", **local, **quiet)
    except Exception:
        ray.shutdown()
        ray.init("local", **local, **quiet)


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at host:port; Ray itself would try for a minute."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _cores(settings: RaySettings, cpus: float) -> int:
    """CPUs of a cluster on this machine alone: its own, or what so many workers need."""
    own = estimate.capacity({"device": "cpu"})
    return own if settings.workers == "auto" else max(own, math.ceil(settings.workers * cpus))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ray takes SIGTERM for itself and talks; the driver keeps its own ways."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray._private.worker._worker_logs_enabled = False  # it tells of lost workers on stdout, where results may be read
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def asked_of(settings: RaySettings, section: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What an estimate takes of a node, by the names of Ray's resources."""
    gpus = settings.gpus
    if gpus == "auto":
        there = any(_has(node, "GPU") for node in nodes)
        gpus = float(section.get("device") == "cuda" or (section.get("device") == "auto" and there))
    asked = {"CPU": cpus_of(settings, section), "GPU": gpus, "memory": float(settings.memory or 0)}
    return {name: amount for name, amount in asked.items() if amount}


def cpus_of(settings: RaySettings, section: Mapping[str, Any]) -> float:
    """CPUs that an estimate takes: as many as a training has threads, unless the recipe says."""
    return float(section.get("threads", 1)) if settings.cpus == "auto" else settings.cpus


def slots(nodes: Iterable[Mapping[str, Any]], asked: Mapping[str, float]) -> int:
    """Estimates that the living nodes have room for at a time; a share of a GPU lies on one."""
    return sum(min(_fits(_has(node, name), name, amount) for name, amount in asked.items()) for node in nodes)


def _fits(there: float, name: str, amount: float) -> int:
    each = 1e-9 + 1 / amount
    return int(there) * int(each) if name == "GPU" and amount < 1 else int(1e-9 + there / amount)


def _has(node: Mapping[str, Any], name: str) -> float:
    return float(node["Resources"].get(name, 0.0)) if node["Alive"] else 0.0


def _told(resources: Mapping[str, float]) -> str:
    """Resources in words: 2 CPU, 0.5 GPU, 4 GB memory."""
    words = [f"{n / 1e9:.3g} GB memory" if name == "memory" else f"{n:g} {name}" for name, n in resources.items()]
    return ", ".join(words)


def _line(error: BaseException) -> str:
    """The first line of what Ray says, which may be a page."""
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)


# ---------------------------------------------------------------------------------------------------------- the pool


@dataclass(slots=True, eq=False)
class _Worker:
    """The driver's end of a seat: on which node it is, once it said so, and its job."""

    seat: Any
    node: str = ""
    attempt: Attempt | None = None
    since: float = 0.0


class Cluster:
    """Estimates in seats on the nodes of a Ray cluster, as many as there is room for; nodes may join and leave."""

    LOOK = 1.0
    """Seconds between looks at the nodes."""
    LEAVE = 3.0
    """Seconds that seats on other nodes have to tidy up."""
    SLACK = 60.0
    """Seconds beyond all limits of a job before a seat that does not answer is given up."""
    PARENTS = 64
    """Weights of parents that stay in the object store for their next child."""

    def __init__(self, settings: RaySettings, recipe: Mapping[str, Any], scratch: Path, final: bool = False) -> None:
        self._settings, self._scratch = settings, scratch
        self._section = recipe["final" if final else "estimator"]
        self._calls: dict[Any, _Worker] = {}
        self._idle: list[_Worker] = []
        self._waiting: deque[Attempt] = deque()
        self._parents: OrderedDict[str, Any] = OrderedDict()
        self._rows: Any = None
        self._looked = self._peopled = self._paused = -math.inf
        self._trouble = ""
        self._ours = False
        shutil.rmtree(scratch, ignore_errors=True)
        self._folder = estimate.stage(recipe, scratch, final)
        try:
            self._join(recipe, final)
        except BaseException:
            self.close()
            raise

    def _join(self, recipe: Mapping[str, Any], final: bool) -> None:
        settings = self._settings
        self._ours = connect(settings, cpus_of(settings, self._section))
        self._nodes: Sequence[Mapping[str, Any]] = ray.nodes()
        self._asked = asked_of(settings, self._section, self._nodes)
        if self._ours and settings.address is None and not slots(self._nodes, self._asked):
            raise RecipeError(self._nowhere())
        self._home = ray.get_runtime_context().get_node_id()
        folder = None if self._folder is None else str(self._folder.resolve())
        mine = os.getpid(), psutil.Process().create_time()
        given = Assignment(recipe, final, settings.retries, self._home, folder, os.getcwd(), imported.granted(), mine)
        self._assignment = given.to_bytes()
        self.workers = 1
        self._look()

    def _look(self) -> None:
        """Takes up nodes that joined and gives up those that left, now and then."""
        if time.monotonic() - self._looked < self.LOOK:
            return
        self._nodes = ray.nodes()
        wanted = self._settings.workers
        self.workers = max(1, slots(self._nodes, self._asked)) if wanted == "auto" else wanted
        living = {node["NodeID"] for node in self._nodes if node["Alive"]}
        self._idle = [one for one in self._idle if one.node in living]
        self._looked = time.monotonic()

    # running ----------------------------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[Job]) -> None:
        """Jobs for the next seats that are free, some of which begin at once."""
        self._waiting.extend(Attempt(job) for job in jobs)
        if jobs:
            self._assign()

    def arrived(self) -> list[Outcome]:
        """At least one outcome while there are jobs, as they arrive. Raises EvonasError where workers cannot start, or
        no node has had room for one for long."""
        arrived: list[Outcome] = []
        self._peopled = time.monotonic()
        while not arrived and (self._waiting or self._busy()):
            self._look()
            self._assign()
            arrived = [*self._received(), *self._silent()]
            self._refuse_to_wait()
        return arrived

    def _busy(self) -> list[_Worker]:
        return [one for one in self._calls.values() if one.attempt]

    def _assign(self) -> None:
        """Gives jobs to idle seats and asks for more of these while there are too few."""
        while self._waiting and self._idle:
            self._give(self._idle.pop(), self._waiting.popleft())
        needed = min(self.workers, len(self._waiting) + len(self._busy()))
        while len(self._calls) + len(self._idle) < needed and time.monotonic() >= self._paused:
            self._start(self._new(), [])

    def _new(self) -> _Worker:
        named = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
        asked = {named[name]: amount for name, amount in self._asked.items()}
        actor = ray.remote(Seat).options(max_restarts=0, max_task_retries=0, max_concurrency=2, **asked)
        return _Worker(actor.remote())

    def _start(self, one: _Worker, rows: Sequence[Any]) -> None:
        self._calls[one.seat.start.remote(self._assignment, rows)] = one

    def _give(self, one: _Worker, attempt: Attempt) -> None:
        one.attempt, one.since = attempt, time.monotonic()
        weights = [] if one.node == self._home else self._weights(attempt.job.parents)
        message = dumps(attempt.job.to_json()).encode()
        self._calls[one.seat.estimate.remote(message, weights)] = one

    def _received(self) -> list[Outcome]:
        """Waits for answers, at most until the next look at the nodes."""
        calls = list(self._calls)
        if not calls:
            time.sleep(self.LOOK / 20)
            return []
        ready, _ = ray.wait(calls, num_returns=1, timeout=self.LOOK)
        if ready:
            ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        return [outcome for call in ready for outcome in self._heard(call)]

    def _heard(self, call: Any) -> list[Outcome]:
        one = self._calls.pop(call)
        try:
            told, weights = ray.get(call)
        except RayTaskError as error:  # a seat answers always, so this one could not even be made
            raise EvonasError(f"a worker cannot start: {_line(error)}: {_SAME}") from None
        except RayError as error:
            return self._gone(one, error)
        if told[:1] == BROKEN:
            raise EvonasError(told[1:].decode())
        if told[:1] == LACKS:
            self._start(one, [self._staged()])
            return []
        self._idle.append(one)
        if told[:1] == READY:
            one.node = told[1:].decode()
            return []
        one.attempt = None
        return [decoded(told[1:], weights)]

    def _gone(self, one: _Worker, error: RayError) -> list[Outcome]:
        """The job of a lost seat goes to the front of the queue, until it has cost too many."""
        if getattr(error, "actor_init_failed", False):
            raise EvonasError(f"a worker cannot start: {_line(error)}: {_SAME}") from None
        _end(one)
        self._looked = -math.inf
        self._look()
        attempt = one.attempt
        if attempt is None:
            self._trouble, self._paused = _line(error), time.monotonic() + self.LOOK
            return []
        failed = attempt.lost_again(f"its worker {self._fate(one)}", self._settings.retries)
        if failed is None:
            self._waiting.appendleft(attempt)
            return []
        return [failed]

    def _fate(self, one: _Worker) -> str:
        living = {node["NodeID"] for node in self._nodes if node["Alive"]}
        return "was lost (out of memory, or killed from outside)" if one.node in living else "was lost with its node"

    # through the object store -----------------------------------------------------------------------------------

    def _staged(self) -> Any:
        """A reference to the rows for nodes other than the driver's, each of which takes them once."""
        if self._rows is None:
            assert self._folder is not None, "only a folder can be lacked"
            files = {path.name: np.fromfile(path, np.uint8) for path in sorted(self._folder.iterdir())}
            self._rows = ray.put((digest(files), files))
        return self._rows

    def _weights(self, parents: Sequence[Heritage]) -> list[Any]:
        """References to the parents' weights; what cannot be read here is left to be told by the estimator."""
        with suppress(OSError):
            return [self._kept(one) for one in parents]
        return []

    def _kept(self, parent: Heritage) -> Any:
        found = self._parents.pop(parent.path, None)
        self._parents[parent.path] = ray.put(Path(parent.path).read_bytes()) if found is None else found
        if len(self._parents) > self.PARENTS:
            self._parents.popitem(last=False)
        return self._parents[parent.path]

    # limits -----------------------------------------------------------------------------------------------------

    def _silent(self) -> list[Outcome]:
        """Gives up seats that say nothing although every limit that they keep themselves has passed."""
        limit = self._section.get("time_limit")
        if limit is None:
            return []
        allowed = (self._settings.retries + 1) * (limit + Processes.GRACE + Processes.START) + self.SLACK
        late = [call for call, one in self._calls.items() if one.attempt and time.monotonic() - one.since > allowed]
        gone = GetTimeoutError("no answer")
        return [outcome for call in late for outcome in self._gone(self._calls.pop(call), gone)]

    def _refuse_to_wait(self) -> None:
        """Raises EvonasError where there has been no seat for so long that there may never be one."""
        now = time.monotonic()
        if self._idle or self._busy():
            self._peopled = now
        elif self._waiting and now - self._peopled > self._settings.wait:
            raise EvonasError(self._nowhere())

    def _nowhere(self) -> str:
        """Why no seat can be had, and the cure."""
        nodes = [node for node in self._nodes if node["Alive"]]
        have = "; ".join(_told({name: _has(one, name) for name in self._asked}) for one in nodes[:5])
        if slots(nodes, self._asked):
            why = f"no worker has started on the Ray cluster for {self._settings.wait:g} s"
            what = self._trouble or "others use its resources"
            return f"{why}: {what}; wait for them or raise pool.wait, then resume"
        asked = f"the {_told(self._asked)} that an estimate takes (there is {have or 'none'})"
        cure = "lower pool.cpus, pool.gpus or pool.memory, or add such a node and resume"
        return f"no node of the Ray cluster has {asked}: {cure}"

    # closing ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends all seats, and the cluster if it was started here, and removes the scratch folder."""
        workers = [*self._calls.values(), *self._idle]
        self._calls.clear()
        self._idle.clear()
        self._waiting.clear()
        with suppress(RayError):
            leaving = [one.seat.leave.remote() for one in workers if one.node not in ("", self._home)]
            if leaving:
                ray.wait(leaving, num_returns=len(leaving), timeout=self.LEAVE)
        for one in workers:
            _end(one)
        if self._ours:
            ray.shutdown()
        shutil.rmtree(self._scratch, ignore_errors=True)


_SAME = "install the same evonas on every node"


def _end(one: _Worker) -> None:
    with suppress(RayError):
        ray.kill(one.seat)
