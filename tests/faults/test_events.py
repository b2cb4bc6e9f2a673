"""What else may happen to a run: signals, a clock that jumps, a folder that is moved, files that are cut or locked,
losses that are no numbers. Each ends as it was promised, with its exit code."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

import evonas
from evonas.recipe import read
from evonas.yaml import dump
from tests.conftest import once
from tests.faults.nursery import PATIENCE, ROOT, Nursery, alive, fair, until
from tests.faults.test_driver_kills import RUNS, digest, heard, lasting, standing

CALL = "tests.faults.drivers:command"
SERIAL: dict[str, Any] = {"pool": {"kind": "serial"}}
KNOWN: dict[str, Any] = {
    "name": "run",
    "task": {"kind": "iris"},
    "objectives": ["params", {"name": "score", "direction": "max"}],
    "encoding": {"bounds": {"params": "5k"}},
    "strategy": {"kind": "nsga2", "population": 12, "generations": 4},
    **SERIAL,
}
"""Estimates by a function that a test writes."""


def written(folder: Path, recipe: dict[str, Any]) -> str:
    """A recipe as a file."""
    file = folder / "run.yaml"
    file.write_text(dump(read({"name": "run", **recipe}).model_dump(mode="json")))
    return str(file)


def function(folder: Path, text: str) -> dict[str, Any]:
    """A recipe whose estimates are what a function says."""
    (folder / "own.py").write_text(text)
    objectives = ["params", {"name": "score", "direction": "max", "function": f"{folder}/own.py:values"}]
    return {**KNOWN, "objectives": objectives, "estimator": {"kind": "lookup", "function": f"{folder}/own.py:values"}}


def called(nursery: Nursery, folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Exit code and output of a command line."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    child = nursery.born(log, CALL, *arguments, "--runs", str(folder))
    return child.ended(), child.said()


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return lasting({**RUNS["lemonade"], **SERIAL}, 5)


@pytest.fixture(scope="module")
def calm(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose children inherited weights; nobody changes it."""
    return once(tmp_path_factory, "calm-heirs", lambda runs: evonas.start(small, name="run", runs=runs).close()) / "run"


@pytest.fixture
def own(calm: Path, tmp_path: Path) -> Path:
    """A copy, to do to it what one likes."""
    return Path(shutil.copytree(calm, tmp_path / "run"))


# ---------------------------------------------------------------------------------------------------------- signals


SLOW = """
import signal, time
from pathlib import Path
from evonas.core import Estimate, Outcome

class Slow:
    def __init__(self, recipe, folder): pass
    def estimate(self, job):
        if job.id >= 4:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (Path(__file__).parent / f"asleep-{job.id}").touch()
            time.sleep(600)
        return Outcome(Estimate(job.id, "ok", {"error": 0.5, "params": job.id}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signalled_driver_leaves_in_time_and_nobody_behind(tmp_path: Path, signum: int) -> None:
    """The program itself, with workers that hear no SIGTERM: what was committed stays, nothing runs on."""
    (tmp_path / "slow.py").write_text(SLOW)
    pool = {"kind": "processes", "workers": 2}
    recipe = {**RUNS["nsga2"], "estimator": {"kind": f"{tmp_path}/slow.py:Slow"}, "pool": pool}
    command = [sys.executable, "-m", "evonas", "run", written(tmp_path, lasting(recipe, 2)), "--runs", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    try:
        assert until(lambda: driver.poll() is not None or len(list(tmp_path.glob("asleep-*"))) == 2, PATIENCE)
        family = psutil.Process(driver.pid).children(recursive=True)
        assert len(family) >= 3, "a server and two workers"
        began = time.monotonic()
        os.killpg(driver.pid, signum) if signum == signal.SIGINT else driver.send_signal(signum)
        _, said = driver.communicate(timeout=PATIENCE)
        assert time.monotonic() - began < fair(10)
    finally:
        driver.kill()
    assert driver.returncode == (-signum if signum == signal.SIGKILL else 128 + signum), said
    assert until(lambda: not any(map(alive, family)), fair(3)), [one.cmdline() for one in family if alive(one)]
    assert b"Traceback" not in said
    assert standing(tmp_path / "run") == ({0, 1, 2, 3}, 1)


# ------------------------------------------------------------------------------------------- clocks, places, drivers


@pytest.mark.parametrize("kind", ["lemonade", "neat"])
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    recipe = lasting({**RUNS[kind], **SERIAL}, 5)
    expected = digest(evonas.start(recipe, name="calm", runs=tmp_path).folder)
    real, looks = time.time, count()
    monkeypatch.setattr(time, "time", lambda: real() - 86400 * next(looks))  # a day back at every look
    with evonas.start(recipe, name="run", runs=tmp_path) as run:
        assert digest(run.folder) == expected
        assert all(row["seconds"] >= 0 and row.get("engine_seconds", 0) >= 0 for row in run.generations())
        assert all(one.cost.get("seconds", 0) >= 0 for one in run.store.estimates().values())
        seconds = [row["time"] for row in run.generations()]
        assert seconds == sorted(seconds, reverse=True), "the clock did jump"


def test_a_folder_is_moved_and_copied_while_its_run_is_stopped(
    nursery: Nursery, tmp_path: Path, small: dict[str, Any], calm: Path
) -> None:
    """Killed in the middle, so that scratch files and a lock are left; names and places of parents' weights change."""
    old, told, log = tmp_path / "old" / "run", tmp_path / "told", tmp_path / "log"
    parallel = {**small, "pool": {"kind": "processes", "workers": 2}}
    driver = nursery.born(log, "tests.faults.drivers:follow", parallel, str(old), str(told))
    assert until(lambda: heard(told, 14), PATIENCE), driver.said()
    driver.signalled(signal.SIGKILL)
    assert driver.ended() == -signal.SIGKILL and 5 <= len(standing(old)[0]) < 16
    copy = Path(shutil.copytree(old, tmp_path / "elsewhere" / "copy"))
    moved = old.rename(tmp_path / "moved")
    for folder in (copy, moved):
        driver = nursery.born(log, "tests.faults.drivers:follow", small, str(folder), str(told))
        assert driver.ended() == 0, driver.said()
        assert digest(folder) == digest(calm)


def test_a_second_driver_is_refused_with_73(nursery: Nursery, tmp_path: Path) -> None:
    endless = lasting({**RUNS["neat"], **SERIAL}, 100_000)
    told = tmp_path / "told"
    first = nursery.born(tmp_path / "log1", "tests.faults.drivers:follow", endless, str(tmp_path / "run"), str(told))
    assert until(lambda: heard(told, 2), PATIENCE), first.said()
    code, said = called(nursery, tmp_path, "resume", "run")
    first.signalled(signal.SIGKILL)
    first.ended()
    assert code == 73 and f"in use by process {first.pid}" in said
    assert called(nursery, tmp_path, "resume", "run", "--generations", str(standing(tmp_path / "run")[1] + 1))[0] == 0


# ----------------------------------------------------------------------------------------------------- hurt files


@pytest.mark.parametrize("hurt", ["cut", "empty", "missing"])
def test_weights_that_are_cut_or_missing_stop_the_run_with_65(nursery: Nursery, own: Path, hurt: str) -> None:
    contents = {path: path.read_bytes() for path in (own / "weights").iterdir()}
    for path, content in contents.items():
        path.unlink() if hurt == "missing" else path.write_bytes(content[: len(content) // 2 if hurt == "cut" else 0])
    code, said = called(nursery, own.parent, "resume", "run", "--generations", "+2")
    assert code == 65 and "restore it from a backup" in said and "Traceback" not in said
    before = standing(own)
    for path, content in contents.items():
        path.write_bytes(content)
    assert called(nursery, own.parent, "resume", "run", "--generations", "+2")[0] == 0
    assert before[0] < standing(own)[0]


def test_a_corrupted_database_is_refused_with_65_and_left_as_it_is(nursery: Nursery, own: Path) -> None:
    path = own / "run.sqlite"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    path.write_bytes(content)
    code, said = called(nursery, own.parent, "resume", "run", "--generations", "+2")
    assert code == 65 and "is damaged" in said and "restore" in said and "Traceback" not in said
    assert path.read_bytes() == content


def test_a_database_that_another_program_locks_stops_the_run_with_74(nursery: Nursery, own: Path) -> None:
    with closing(sqlite3.connect(own / "run.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        code, said = called(nursery, own.parent, "resume", "run", "--generations", "+2")
        assert code == 74 and "is locked by another program" in said and "Traceback" not in said
        other.execute("ROLLBACK")
    assert called(nursery, own.parent, "resume", "run", "--generations", "+2")[0] == 0


# --------------------------------------------------------------------------------------------------- no numbers


ODD = """
def values(genome, plan):
    odd = {0: float("nan"), 1: float("inf"), 2: -float("inf"), 3: 1e400}.get(plan.params % 7)
    return {"score": plan.params / 100 if odd is None else odd}
"""


def test_what_is_no_number_fails_and_reaches_nothing(tmp_path: Path) -> None:
    with evonas.start(function(tmp_path, ODD), runs=tmp_path) as run:
        estimates = run.store.estimates()
        failed = [one for one in estimates.values() if one.status == "failed"]
        good = [one for one in estimates.values() if one.status == "ok"]
        assert failed and good
        assert all("nan" in one.reason or "inf" in one.reason for one in failed)
        assert all(math.isfinite(value) for one in good for value in one.values.values())
        assert {row.id for row in run.front()} <= {one.id for one in good}
        assert all(math.isfinite(row["hypervolume"]) for row in run.generations())
        state = run.state()
        assert state is not None and {one.id for one in state.population} <= {one.id for one in good}


# ---------------------------------------------------------------------------------------------------- exit codes


def test_what_is_wrong_from_the_start_has_its_exit_code(nursery: Nursery, tmp_path: Path) -> None:
    """Those of a recipe, of data, of a taken name, of a run in which everything fails, and of one that is well."""
    fine = written(tmp_path, lasting({**RUNS["nsga2"], **SERIAL}, 1))
    assert called(nursery, tmp_path, "run", fine)[0] == 0
    assert called(nursery, tmp_path, "run", fine, "--name", "run")[0] == 73
    assert called(nursery, tmp_path, "run", fine, "--set", "strategy.population=none")[0] == 2
    (tmp_path / "rows.csv").write_text("a,b,label\n1,x,0\n2,,1\n")
    csv = written(tmp_path, {**RUNS["nsga2"], "task": {"kind": "csv", "file": str(tmp_path / "rows.csv")}})
    code, said = called(nursery, tmp_path, "run", csv)
    assert code == 65, said
    broken = function(tmp_path, "def values(genome, plan):\n    raise ValueError('no table today')\n")
    code, said = called(nursery, tmp_path, "run", written(tmp_path, broken), "--name", "broken")
    assert code == 70 and "all 12 networks of generation 1 failed" in said and "no table today" in said
