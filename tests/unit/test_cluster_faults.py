"""The Ray pool under faults of its workers, on one cluster of this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import evonas
from evonas import imported, pool
from evonas.core import EvonasError, Job
from evonas.pool import RaySettings, build
from tests import clusters
from tests.contract.test_resume import HEIRS, digest
from tests.unit.test_pool import FAULTS

if not clusters.HAS_RAY:
    pytest.skip("needs ray: pip install 'evonas[ray]'", allow_module_level=True)

from evonas import cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    with clusters.joined():
        yield


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("faults") / "faults.py"
    file.write_text(FAULTS, encoding="utf-8")
    return f"{file}:Faulty"


Make = Callable[..., cluster.Cluster]


@pytest.fixture
def make(faulty: str, tmp_path: Path) -> Iterator[Make]:
    made: list[cluster.Cluster] = []
    imported.grant([faulty])

    def workers(estimator: dict[str, Any] | None = None, **settings: Any) -> cluster.Cluster:
        told = {"seed": 0, "task": {"kind": "iris"}, "estimator": {"kind": faulty, **(estimator or {})}}
        built = build(RaySettings(**settings), told, tmp_path / f"scratch{len(made)}")
        assert isinstance(built, cluster.Cluster)
        made.append(built)
        return built

    yield workers
    for one in made:
        one.close()


def outcomes(workers: cluster.Cluster, *genomes: str) -> list[Any]:
    """The outcomes of one job for each thing to do, in this order."""
    todo = [Job(i, 100 + i, {"do": genome}) for i, genome in enumerate(genomes)]
    arrived = [outcome for batch in pool.drain(workers, todo) for outcome in batch]
    assert sorted(one.estimate.id for one in arrived) == [job.id for job in todo], "one outcome per job"
    return sorted(arrived, key=lambda one: one.estimate.id)


@contextmanager
def killer(times: int, choose: Callable[[psutil.Process, int], psutil.Process]) -> Iterator[list[int]]:
    """Kills what is chosen of a seat that works, so many times, while something else goes on."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while len(killed) < times and not over.wait(0.2):
            for seat in clusters.seats(busy=True)[:1]:
                victim = choose(seat, len(killed))
                if victim.pid not in killed:
                    victim.kill()
                    killed.append(victim.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_faults_have_the_words_and_the_limits_of_processes(make: Make) -> None:
    workers = make({"time_limit": 2.0, "memory_limit": 200_000_000}, workers=1, retries=1)
    done = outcomes(workers, "fine", "unpicklable", "segfault", "system_exit", "stubborn", "greedy", "nan", "fine")
    assert [(one.estimate.status, one.estimate.reason.removesuffix(": nan")) for one in done] == [
        ("ok", ""),
        ("failed", "Unpicklable: odd"),
        ("failed", "its worker process was ended by SIGSEGV in each of 2 attempts"),
        ("failed", "SystemExit: 4"),
        ("failed", "time limit of 2 s passed"),
        ("failed", "memory limit of 200 MB passed"),
        ("failed", "ValueError: Out of range float values are not JSON compliant"),
        ("ok", ""),
    ]
    assert done[-1].weights == b"weights 107"


def test_the_job_of_a_killed_seat_is_tried_again_so_often(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    workers = make(workers=1, retries=1)
    with killer(2, lambda seat, _: seat) as killed:
        (lost,) = outcomes(workers, "sleep")
    assert len(killed) == 2
    assert lost.estimate.status == "failed" and lost.weights is None
    assert lost.estimate.reason == "its worker was lost (out of memory, or killed from outside) in each of 2 attempts"
    assert outcomes(workers, "fine")[0].estimate.status == "ok"
    assert capfd.readouterr().out == "", "Ray says nothing where results may be read"


def test_what_no_node_can_give_is_told_and_not_waited_for(make: Make) -> None:
    workers = make(cpus=1000, wait=1.5)
    workers.submit([Job(0, 0, {"do": "fine"})])
    with pytest.raises(
        EvonasError, match=r"no node of the Ray cluster has the 1000 CPU .*there is 2 CPU\): lower pool"
    ):
        workers.arrived()


def test_an_estimator_that_cannot_be_built_stops_the_run(make: Make) -> None:
    workers = make({"settings": {"broken": True}}, workers=1)
    workers.submit([Job(0, 0, {"do": "fine"})])
    with pytest.raises(EvonasError, match="a worker cannot start: RuntimeError: the estimator is broken"):
        workers.arrived()
    workers.close()
    assert not clusters.seats(busy=True)


def test_killed_seats_and_their_processes_change_nothing(tmp_path: Path) -> None:
    calm = evonas.start(HEIRS, name="calm", runs=tmp_path)

    def choose(seat: psutil.Process, killed: int) -> psutil.Process:
        """The seat itself, or the newest process below it, which trains."""
        return [seat, *seat.children(recursive=True)][-1 if killed % 2 else 0]

    with killer(4, choose) as killed:
        section = {"kind": "ray", "workers": 2, "retries": 20}
        found = evonas.start({**HEIRS, "pool": section}, name="run", runs=tmp_path)
    assert len(killed) == 4
    assert digest(found.folder) == digest(calm.folder)
