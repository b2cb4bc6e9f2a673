"""The Ray pool: what it asks for and refuses, what lies on other nodes, and runs whose workers and nodes die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import evonas
from evonas import pool, recipe
from evonas.core import DataError, EvonasError, RecipeError
from evonas.pool import RaySettings, build
from tests import clusters
from tests.contract.test_resume import HEIRS, digest

IRIS: dict[str, Any] = {"task": {"kind": "iris"}, "objectives": ["error", "params"]}

# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "head.example:6379", "[::1]:6379", None])
def test_an_address_is_a_cluster_or_none(address: str | None) -> None:
    assert RaySettings(address=address).address == address


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"address": "ray://head:10001"}, "pool.address: 'ray://head:10001'"),
        ({"gpus": 1.5}, "gpus 1.5 is not allowed: give a fraction of one, or a whole number"),
        ({"gpus": -1}, "pool.gpus: -1"),
        ({"cpus": 0}, "pool.cpus: 0"),
        ({"workers": 0}, "pool.workers: 0"),
        ({"retires": 1}, "did you mean 'retries'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        recipe.read({**IRIS, "pool": {"kind": "ray", **section}})
    assert said in str(refused.value)


def test_without_the_extra_the_recipe_says_which_one_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pool, "find_spec", lambda _: None)
    wanted = "pool 'ray' needs ray, which is not installed: pip install 'evonas\\[ray\\]'"
    with pytest.raises(RecipeError, match=f"pool.kind: {wanted}"):
        recipe.read({**IRIS, "pool": {"kind": "ray"}})
    with pytest.raises(RecipeError, match=wanted):
        build(RaySettings(), {"estimator": {"kind": "lookup"}}, tmp_path / "scratch")
    kept = recipe.read({**IRIS, "pool": {"kind": "serial"}}).model_dump(mode="json")
    assert recipe.from_json({**kept, "pool": {"kind": "ray"}}).pool == RaySettings(), "a run can be looked at without"


def test_a_run_changes_pools_by_their_kind_alone() -> None:
    """As `evonas resume --pool` does: what the other kind does not know goes, what both know stays."""
    ray = recipe.read({**IRIS, "pool": {"kind": "ray", "gpus": 0.5, "workers": 3, "retries": 1}}) if HAS else None
    serial = recipe.read({**IRIS, "pool": {"kind": "processes", "workers": 3}})
    if ray is not None:
        assert recipe.override(ray, {"pool.kind": "processes"}).pool == pool.ProcessesSettings(workers=3, retries=1)
        assert recipe.override(serial, {"pool.kind": "ray"}).pool == RaySettings(workers=3)


HAS = clusters.HAS_RAY
if not HAS:
    pytest.skip("needs ray: pip install 'evonas[ray]'", allow_module_level=True)

from evonas import cluster, seat  # noqa: E402


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([node(CPU=4.0), node(CPU=3.0)], {"CPU": 2.0}, 3),
        ([node(CPU=4.0), node(alive=False, CPU=4.0)], {"CPU": 1.0}, 4),
        ([node(CPU=4.0)], {"CPU": 0.5}, 8),
        ([node(CPU=3.0)], {"CPU": 0.3}, 10),
        ([node(CPU=4.0)], {"CPU": 1.0, "GPU": 1.0}, 0),
        ([node(CPU=64.0, GPU=2.0)], {"CPU": 1.0, "GPU": 0.4}, 4),
        ([node(CPU=64.0, GPU=4.0)], {"CPU": 1.0, "GPU": 0.25}, 16),
        ([node(CPU=64.0, GPU=5.0)], {"CPU": 1.0, "GPU": 2.0}, 2),
        ([node(CPU=8.0, memory=4e9)], {"CPU": 1.0, "memory": 1.5e9}, 2),
        ([], {"CPU": 1.0}, 0),
    ],
)
def test_slots_are_what_the_living_nodes_have_room_for(nodes: Any, asked: dict[str, float], expected: int) -> None:
    assert cluster.slots(nodes, asked) == expected


@pytest.mark.parametrize(
    ("settings", "section", "expected"),
    [
        ({}, {"threads": 3, "device": "cpu"}, {"CPU": 3.0}),
        ({}, {}, {"CPU": 1.0}),
        ({}, {"threads": 1, "device": "auto"}, {"CPU": 1.0, "GPU": 1.0}),
        ({"gpus": 0}, {"threads": 1, "device": "auto"}, {"CPU": 1.0}),
        ({"gpus": 0.25, "cpus": 0.5, "memory": "2G"}, {"device": "cuda"}, {"CPU": 0.5, "GPU": 0.25, "memory": 2e9}),
    ],
)
def test_an_estimate_asks_for_what_the_recipe_says(settings: Any, section: Any, expected: dict[str, float]) -> None:
    asked = cluster.asked_of(RaySettings(**settings), section, [node(CPU=4.0, GPU=1.0)])
    assert asked == expected


def test_cuda_asks_for_a_gpu_even_before_a_node_has_one() -> None:
    assert cluster.asked_of(RaySettings(), {"device": "cuda"}, [node(CPU=1.0)])["GPU"] == 1
    assert "GPU" not in cluster.asked_of(RaySettings(), {"device": "auto"}, [node(CPU=1.0)])


# ---------------------------------------------------------------------------------------------- files on other nodes


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with seat._alone() as found:
        return found


def test_rows_lie_once_on_a_node_and_go_with_their_last_user(base: Path) -> None:
    files = {"x.npy": np.arange(9, dtype=np.uint8), "shape.json": np.frombuffer(b"{}", np.uint8)}
    key = seat.digest(files)
    one = seat.Seat()
    folder = one._hold(key)
    seat._lay(folder, key, files)
    written = (folder / "x.npy").stat().st_mtime_ns
    assert (folder / "x.npy").read_bytes() == bytes(range(9)) and (folder / "shape.json").read_bytes() == b"{}"
    seat._lay(folder, key, {})
    assert (folder / "x.npy").stat().st_mtime_ns == written
    (folder / f"user-{os.getppid()}").touch()
    one.leave()
    assert folder.is_dir(), "another process still uses it"
    (folder / f"user-{os.getppid()}").unlink()
    one.leave()
    assert not folder.exists()


def test_what_killed_seats_left_is_swept_by_the_next(base: Path) -> None:
    dead = next(pid for pid in range(4_000_000, 5_000_000) if not psutil.pid_exists(pid))
    for name in ("rows", f"seat-{dead}"):
        (base / name).mkdir()
        (base / name / f"user-{dead}").touch()
    seat.Seat()._hold("mine")
    assert [one.name for one in base.iterdir() if one.is_dir()] == ["mine"]


def test_damaged_rows_are_refused(base: Path) -> None:
    one = seat.Seat()
    with pytest.raises(DataError, match="do not have their SHA-256"):
        seat._lay(one._hold("rows"), "0" * 64, {"x.npy": np.zeros(3, np.uint8)})
    assert not (base / "rows" / "x.npy").exists()


def test_another_version_on_a_node_is_refused() -> None:
    with pytest.raises(EvonasError, match=r"has torch .*, the driver 0.1: install the same everywhere"):
        seat._refuse_other({**seat.versions(), "torch": "0.1"})


def test_nobody_at_an_address_is_told_at_once(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    told = {"seed": 0, "task": {"kind": "iris"}, "estimator": {"kind": "lookup"}}
    with pytest.raises(RecipeError, match=r"pool\.address 127\.0\.0\.1:9: no Ray cluster answers .*`ray start --head`"):
        build(RaySettings(address="127.0.0.1:9"), told, tmp_path / "scratch")
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "scratch").exists()


@pytest.mark.slow
def test_a_cluster_of_this_machine_that_can_never_do_is_refused(tmp_path: Path) -> None:
    told = {"seed": 0, "task": {"kind": "iris"}, "estimator": {"kind": "lookup"}}
    with pytest.raises(RecipeError, match=r"no node of the Ray cluster has the 1 CPU, 3 GPU .*: lower pool\.cpus"):
        build(RaySettings(gpus=3), told, tmp_path / "scratch")
    import ray

    assert not ray.is_initialized()


# ------------------------------------------------------------------------------------------------------------- runs

RUN: dict[str, Any] = {**HEIRS, "strategy": {"kind": "nsga2", "population": 4, "generations": 4}}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest(evonas.start(RUN, name="calm", runs=tmp_path_factory.mktemp("calm")).folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_serial_processes_and_ray_give_identical_databases(tmp_path: Path, calm: str) -> None:
    for section in ({"kind": "processes", "workers": 2}, {"kind": "ray", "workers": 2}):
        found = evonas.start({**RUN, "pool": section}, name=section["kind"], runs=tmp_path)
        assert digest(found.folder) == calm
    import ray

    assert not ray.is_initialized(), "a cluster that a run started ends with it"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nodes_that_die_and_join_in_mid_run_change_nothing(tmp_path: Path, calm: str) -> None:
    """The driver's node has no CPU to give, so that rows and weights go through the object store."""
    with clusters.nodes(0, 1, 1) as ray_nodes:
        victim = sorted(ray_nodes.worker_nodes, key=lambda one: one.node_id)[0]
        seen = []

        def disturb(progress: Any) -> None:
            if progress.kind == "batch" and progress.generation >= 2 and not seen:
                raylet = victim.all_processes["raylet"][0].process.pid
                seen.extend(one for one in clusters.seats() if one.ppid() == raylet)
                if seen:
                    ray_nodes.remove_node(victim, allow_graceful=False)
                    ray_nodes.add_node(num_cpus=1, **clusters.SMALL)

        found = evonas.start({**RUN, "pool": {"kind": "ray"}}, name="run", runs=tmp_path, observer=disturb)
        assert seen, "the node that died had a worker"
        assert digest(found.folder) == calm
        with seat._alone() as base:
            assert not [one.name for one in base.iterdir() if one.is_dir()], "nothing stays on the nodes"


HEADLESS = """
import json, sys
from pathlib import Path
import evonas
from tests import clusters

with clusters.nodes(0, 1) as built:
    def disturb(progress):
        if progress.kind == "batch" and progress.generation == 2:
            for one in built.head_node.all_processes["gcs_server"]:
                one.process.kill()

    evonas.start(json.loads(sys.argv[1]), name="run", runs=Path(sys.argv[2]), observer=disturb)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_whose_head_died_is_resumed_elsewhere(tmp_path: Path, calm: str) -> None:
    """Ray itself ends a driver that has not reached its head for a minute."""
    long = {**RUN, "strategy": {**RUN["strategy"], "generations": 10_000}, "pool": {"kind": "ray"}}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", HEADLESS, json.dumps(long), str(tmp_path)]
    driver = subprocess.run(command, env=environment, capture_output=True, timeout=400)
    assert driver.returncode != 0 and b"Failed to connect to GCS" in driver.stdout + driver.stderr
    with evonas.open(tmp_path / "run") as run:
        assert run.status == "interrupted" and len(run.generations()) >= 2
        known = len(run.generations())
    total = max(known + 1, RUN["strategy"]["generations"])  # with the one that was under way
    expected = calm
    if total > RUN["strategy"]["generations"]:
        whole = {**RUN, "strategy": {**RUN["strategy"], "generations": total}}
        expected = digest(evonas.start(whole, name="whole", runs=tmp_path).folder)
    resumed = evonas.resume(tmp_path / "run", generations=total, overrides={"pool.kind": "serial"})
    assert digest(resumed.folder) == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_cluster_that_a_run_started_ends_with_it(tmp_path: Path, signum: int, code: int) -> None:
    """Seats and what computes below them are gone at once, what Ray itself started soon; its two agents, which compute
    nothing, notice within minutes."""
    long = {**RUN, "task": {"kind": "digits"}, "estimator": {"kind": "train", "epochs": 500}}
    (tmp_path / "long.yaml").write_text(json.dumps(long), encoding="utf-8")
    command = [sys.executable, "-m", "evonas", "run", "long.yaml", "--pool", "ray", "--workers", "1"]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True) as driver:
        below = psutil.Process(driver.pid)
        eventually(lambda: len(ours_below(below)) == 4, 120)  # a seat, its server, that one's tracker, and the estimate
        ours = ours_below(below)
        theirs = [one for one in below.children(recursive=True) if "Agent" not in line(one)]
        os.killpg(driver.pid, signum) if signum == signal.SIGINT else driver.send_signal(signum)
        assert driver.wait(60) == code
    _, left = psutil.wait_procs(ours, timeout=3)
    assert not [line(one) for one in left if line(one)]
    _, left = psutil.wait_procs(theirs, timeout=20)
    assert not [line(one) for one in left if line(one)]


def ours_below(driver: psutil.Process) -> list[psutil.Process]:
    """The seats below a driver, and all that is below them."""
    seats = [one for one in driver.children(recursive=True) if line(one).startswith("ray::Seat")]
    return [process for seat in seats for process in (seat, *seat.children(recursive=True))]


def line(process: psutil.Process) -> str:
    """A process's command line, empty where it is no more."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def eventually(what: Callable[[], bool], seconds: float) -> None:
    """Waits until something is so."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come in time"
        time.sleep(0.1)
