"""The process pool under every fault that a network or a user's function can cause; genomes say what a worker does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from evonas.core import EvonasError, Job, Outcome, RecipeError
from evonas.pool import Attempt, Processes, ProcessesSettings, SerialSettings, _Worker, build, drain
from evonas.processes import context, plain_main

FAULTS = '''
import ctypes, os, signal, time
from pathlib import Path
from evonas.core import Estimate, Outcome

class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.lock = lambda: None
    def __reduce__(self):
        raise TypeError("no pickle of me")

class Mute(Exception):
    def __str__(self):
        raise ValueError("no text of me")

class Faulty:
    def __init__(self, recipe, folder):
        if recipe["estimator"].get("settings", {}).get("broken"):
            raise RuntimeError("the estimator is broken")

    def estimate(self, job):
        value = getattr(self, job.genome["do"])(job.genome)
        return Outcome(Estimate(job.id, "ok", {"error": value, "pid": os.getpid()}), b"weights %d" % job.seed)

    def fine(self, _): return 0.5
    def nan(self, _): return float("nan")
    def exception(self, _): raise KeyError("lost key")
    def unpicklable(self, _): raise Unpicklable("odd", 2)
    def mute(self, _): raise Mute()
    def system_exit(self, _): raise SystemExit(4)
    def leave(self, _): os._exit(3)
    def kill(self, _): os.kill(os.getpid(), signal.SIGKILL)
    def segfault(self, _): ctypes.string_at(0)
    def sleep(self, _): time.sleep(60)
    def stubborn(self, _):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    def busy(self, _):
        import torch
        while True:
            torch.randn(1000, 1000).sum()
    def greedy(self, _):
        held = bytearray(400_000_000)
        for i in range(0, len(held), 4096):
            held[i] = 1
        time.sleep(60)
    def dies(self, genome):
        """Killed as often as the genome says, then fine."""
        marks = Path(genome["marks"])
        lives = len(list(marks.iterdir()))
        if lives < genome["times"]:
            (marks / str(lives)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(lives)
'''

Make = Callable[..., Processes]
TWICE = " in each of 2 attempts"


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("faults") / "faults.py"
    file.write_text(FAULTS, encoding="utf-8")
    return f"{file}:Faulty"


@pytest.fixture
def make(faulty: str, tmp_path: Path) -> Iterator[Make]:
    made: list[Processes] = []

    def pool(workers: int = 2, retries: int = 2, **estimator: Any) -> Processes:
        recipe = recipe_of(faulty, **estimator)
        built = build(ProcessesSettings(workers=workers, retries=retries), recipe, tmp_path / f"scratch{len(made)}")
        assert isinstance(built, Processes)
        made.append(built)
        return built

    yield pool
    for one in made:
        one.close()


def recipe_of(faulty: str, **estimator: Any) -> dict[str, Any]:
    return {"seed": 0, "task": {"kind": "iris"}, "estimator": {"kind": faulty, **estimator}}


def jobs(*genomes: str | dict[str, Any]) -> list[Job]:
    return [Job(i, 100 + i, {"do": genome} if isinstance(genome, str) else genome) for i, genome in enumerate(genomes)]


def outcomes(pool: Any, todo: list[Job]) -> dict[int, Outcome]:
    arrived = [outcome for batch in drain(pool, todo) for outcome in batch]
    assert sorted(outcome.estimate.id for outcome in arrived) == [job.id for job in todo], "one outcome per job"
    return {outcome.estimate.id: outcome for outcome in arrived}


def reason(pool: Any, do: str) -> str:
    """Why the middle one of three jobs failed; its neighbours must not notice."""
    done = outcomes(pool, jobs("fine", do, "fine"))
    assert [done[0].estimate.status, done[2].estimate.status] == ["ok", "ok"]
    assert done[1].estimate.status == "failed" and done[1].weights is None
    return done[1].estimate.reason


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("do", "said"),
    [
        ("exception", "KeyError: 'lost key'"),
        ("unpicklable", "Unpicklable: odd"),
        ("mute", "Mute: its message cannot be shown"),
        ("system_exit", "SystemExit: 4"),
        ("nan", "ValueError: Out of range float values are not JSON compliant"),
    ],
)
def test_what_an_estimate_raises_fails_it_alone(make: Make, do: str, said: str) -> None:
    done = outcomes(make(workers=1), jobs("fine", do, "fine"))
    assert done[1].estimate.reason.startswith(said)
    assert done[0].estimate.values["pid"] == done[2].estimate.values["pid"], "the worker survives an exception"


@pytest.mark.parametrize(
    ("do", "said"),
    [
        ("leave", "its worker process ended with exit code 3" + TWICE),
        ("kill", "its worker process was ended by SIGKILL (out of memory, or killed from outside)" + TWICE),
        ("segfault", "its worker process was ended by SIGSEGV" + TWICE),
    ],
)
def test_a_crash_is_retried_and_then_failed_with_its_signal(make: Make, do: str, said: str) -> None:
    assert reason(make(retries=1), do) == said


def test_without_retries_a_crash_fails_at_once(make: Make) -> None:
    assert reason(make(retries=0), "leave") == "its worker process ended with exit code 3"


@pytest.mark.parametrize("do", ["sleep", "stubborn", "busy"])
def test_a_hang_is_ended_at_its_limit_and_not_retried(make: Make, do: str, tmp_path: Path) -> None:
    pool = make(time_limit=0.3)
    outcomes(pool, jobs("fine", "fine"))  # the workers are up
    began = time.monotonic()
    assert reason(pool, do) == "time limit of 0.3 s passed"
    assert time.monotonic() - began < 0.3 + Processes.GRACE + Processes.MERCY + 1.5
    assert not alive(pool), "nothing is left of the hung worker"


def test_memory_beyond_the_limit_ends_the_worker(make: Make) -> None:
    assert reason(make(memory_limit=200_000_000), "greedy") == "memory limit of 200 MB passed"


def test_memory_below_the_limit_is_fine(make: Make) -> None:
    pool = make(memory_limit=600_000_000, time_limit=1.0)
    assert reason(pool, "greedy") == "time limit of 1 s passed"


def test_a_hundred_kills_lose_nothing(make: Make, tmp_path: Path) -> None:
    """Every job costs two workers before it is done, and comes back as from a calm run."""
    todo = []
    for i in range(50):
        marks = tmp_path / str(i)
        marks.mkdir()
        todo.append({"do": "dies", "times": 2, "marks": str(marks)})
    done = outcomes(make(retries=2), jobs(*todo))
    assert all(outcome.estimate.values["error"] == 2.0 for outcome in done.values())
    assert all(outcome.weights == b"weights %d" % (100 + id) for id, outcome in done.items())


def test_an_estimator_that_cannot_be_built_stops_the_run(make: Make) -> None:
    pool = make(settings={"broken": True})
    with pytest.raises(EvonasError, match="a worker cannot start: RuntimeError: the estimator is broken"):
        outcomes(pool, jobs("fine"))
    assert not alive(pool)


def test_an_idle_worker_that_was_killed_costs_nothing(make: Make) -> None:
    pool = make(workers=1)
    (pid,) = {outcome.estimate.values["pid"] for outcome in outcomes(pool, jobs("fine")).values()}
    os.kill(int(pid), signal.SIGKILL)
    psutil.wait_procs([psutil.Process(int(pid))] if psutil.pid_exists(int(pid)) else [], timeout=5)
    assert outcomes(pool, jobs("fine"))[0].estimate.status == "ok"


def test_a_worker_that_was_killed_before_its_first_job_costs_nothing(make: Make) -> None:
    """It was started ahead of need, and is not heard before it has something to do."""
    pool = make(workers=1, retries=0)
    ahead = pool._new()
    assert ahead is not None
    pool._idle.append(ahead)
    ahead.process.kill()
    ahead.process.join(5)
    assert ahead.process.exitcode == -signal.SIGKILL
    assert outcomes(pool, jobs("fine"))[0].estimate.status == "ok"


# ----------------------------------------------------------------------------------------------------- process reuse


def test_tiny_estimates_share_a_process(make: Make) -> None:
    done = outcomes(make(workers=1), jobs(*["fine"] * 20))
    assert len({outcome.estimate.values["pid"] for outcome in done.values()}) == 1


def test_a_long_estimate_has_a_process_of_its_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "RETIRE", 0.0)
    pool = make(workers=1)
    outcomes(pool, jobs("fine", "fine"))
    before = psutil.Process().num_fds()
    done = outcomes(pool, jobs(*["fine"] * 20))
    assert len({outcome.estimate.values["pid"] for outcome in done.values()}) == 20
    assert psutil.Process().num_fds() <= before + 5, "what is over leaves nothing open"
    assert not alive(pool)


def test_workers_start_where_there_is_no_forkserver(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: spawned processes, kept for many jobs since their start is dear."""
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    monkeypatch.setattr(Processes, "RETIRE", 0.0)
    pool = make(workers=1)
    done = outcomes(pool, jobs("fine", "exception", "fine", "fine"))
    assert [done[i].estimate.status for i in range(4)] == ["ok", "failed", "ok", "ok"]
    assert len({done[i].estimate.values["pid"] for i in (0, 2, 3)}) == 1
    assert reason(make(workers=1, retries=1), "kill").startswith("its worker process was ended by SIGKILL")


@pytest.mark.parametrize("bytes_", [50_000, 300])
def test_tiny_jobs_wait_at_their_worker_and_only_the_one_under_way_shares_its_fate(
    make: Make, monkeypatch: pytest.MonkeyPatch, bytes_: int
) -> None:
    monkeypatch.setattr("evonas.pool._Worker.BYTES", bytes_)
    whole, held = _Worker.give, []

    def given(self: _Worker, attempt: Attempt) -> bool:
        taken = whole(self, attempt)
        held.append((len(self.attempts), sum(self._sizes)))
        return taken

    monkeypatch.setattr(_Worker, "give", given)
    pool, bad = make(retries=1, time_limit=1.0), {150: "kill", 220: "sleep", 260: "segfault", 299: "exception"}
    done = outcomes(pool, jobs(*(bad.get(i, "fine") for i in range(300))))
    assert {id for id, outcome in done.items() if outcome.estimate.status == "failed"} == set(bad)
    assert max(many for many, _ in held) > 1 and max(size for _, size in held) <= bytes_


@pytest.mark.parametrize(("times", "status"), [(2, "ok"), (3, "failed")])
def test_a_process_that_is_killed_while_it_starts_is_one_try(
    make: Make, monkeypatch: pytest.MonkeyPatch, times: int, status: str
) -> None:
    from evonas import pool as module

    starts, whole = [], module._Worker

    def killed(*arguments: Any) -> Any:
        starts.append(arguments)
        if len(starts) <= times:
            raise BrokenPipeError
        return whole(*arguments)

    monkeypatch.setattr(module, "_Worker", killed)
    (outcome,) = outcomes(make(workers=1), jobs("fine")).values()
    assert outcome.estimate.status == status
    assert (status == "ok") != outcome.estimate.reason.startswith("its worker process was lost at its start")


def test_the_next_process_starts_while_the_others_work(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "RETIRE", 0.0)
    pool = make(workers=1)
    pool.submit(jobs(*["fine"] * 5))
    first = pool.arrived()[0].estimate.values["pid"]
    ahead = {one.process.pid for one in (*pool._idle, *pool._busy.values())}
    then = pool.arrived()[0].estimate.values["pid"]
    assert then in ahead - {first}


def test_jobs_that_come_later_do_not_wait_for_those_under_way(make: Make) -> None:
    pool = make()
    pool.submit(jobs("sleep", "fine"))
    assert [outcome.estimate.id for outcome in pool.arrived()] == [1]
    pool.submit([Job(7, 0, {"do": "fine"})])
    assert [outcome.estimate.id for outcome in pool.arrived()] == [7], "the sleeper still sleeps"


def test_close_ends_busy_workers_within_a_second_and_removes_the_scratch_folder(make: Make) -> None:
    pool = make()
    pool.submit(jobs("fine", "stubborn", "stubborn"))
    assert pool.arrived()
    time.sleep(0.1)  # so that the stubborn ones have their handler in place; without it the test is only easier
    scratch = pool._scratch
    assert scratch.is_dir()
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 1.5
    assert not alive(pool) and not scratch.exists()


def test_a_stale_scratch_folder_is_emptied(faulty: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "old.npy").write_text("left by a killed run")
    pool = build(ProcessesSettings(workers=1), recipe_of(faulty), scratch)
    assert not (scratch / "old.npy").exists()
    pool.close()


def alive(pool: Processes) -> list[int]:
    """Processes that still run although the pool has given them up."""
    known = {held.process.pid for held in (*pool._idle, *pool._busy.values())}
    server = next((one for one in psutil.Process().children() if "forkserver" in " ".join(one.cmdline())), None)
    mine = server.children() if server else []
    return running([one for one in mine if one.pid not in known])


def running(processes: list[psutil.Process]) -> list[int]:
    """Those that still run after at most three seconds; one that ended and that nobody has collected does not run."""
    until = time.monotonic() + 3
    while True:
        left = [one.pid for one in processes if runs(one)]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.02)


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# ---------------------------------------------------------------------------------------------- the driver's own end

DRIVER = """
import sys
from pathlib import Path
from evonas.core import Job
from evonas.pool import ProcessesSettings, build, drain

print("driver runs", flush=True)
recipe = {"seed": 0, "task": {"kind": "iris"}, "estimator": {"kind": sys.argv[1]}}
pool = build(ProcessesSettings(workers=2), recipe, Path(sys.argv[2]))
try:
    done = drain(pool, [Job(0, 0, {"do": "fine"}), Job(1, 1, {"do": "sleep"}), Job(2, 2, {"do": "sleep"})])
    print(next(done)[0].estimate.status, flush=True)
    print(*[one.process.pid for one in (*pool._busy.values(), *pool._idle)], flush=True)
    list(done)
except KeyboardInterrupt:
    pool.close()
    print("closed", flush=True)
"""


@pytest.fixture
def driver(faulty: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A script without a `__main__` guard, run in a process group of its own."""
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER), encoding="utf-8")
    command = [sys.executable, str(script), faulty, str(tmp_path / "scratch")]
    root = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as process:
        yield process
        process.kill()


def workers_of(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    assert driver.stdout is not None
    assert driver.stdout.readline() == "driver runs\n"
    assert driver.stdout.readline() == "ok\n"
    found = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
    assert found
    return found


@pytest.mark.slow
def test_no_worker_outlives_a_killed_driver(driver: subprocess.Popen[str]) -> None:
    found = workers_of(driver)
    driver.kill()
    assert not running(found)


def test_ctrl_c_ends_all_workers_without_a_word_from_them(driver: subprocess.Popen[str]) -> None:
    found = workers_of(driver)
    began = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: every process of the group gets it
    out, err = driver.communicate(timeout=20)
    assert out == "closed\n" and driver.returncode == 0, "the script's own lines come once: no worker ran it again"
    assert err == ""
    assert time.monotonic() - began < 10
    assert not running(found)


def test_ctrl_c_does_not_reach_a_worker_before_its_first_line() -> None:
    methods, forks = context("evonas.estimate.preload")
    if not forks:
        pytest.skip("no forkserver here")
    with plain_main():
        process = methods.Process(target=signal.raise_signal, args=(signal.SIGINT,))
        process.start()
    process.join(60)
    assert process.exitcode == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "the driver itself still hears it"


# ------------------------------------------------------------------------------------------------------------ serial


def test_serial_hands_quick_outcomes_over_in_few_batches(tmp_path: Path) -> None:
    class Quick:
        def estimate(self, job: Job) -> Outcome:
            from evonas.core import Estimate

            return Outcome(Estimate(job.id, "ok", {"error": 0.0}))

    from evonas.pool import Serial

    batches = list(drain(Serial(Quick()), jobs(*["fine"] * 1000)))
    assert sum(map(len, batches)) == 1000
    assert len(batches) < 20


def test_serial_reports_a_wrong_estimator_as_a_recipe_error(tmp_path: Path) -> None:
    recipe = {"seed": 0, "task": {"kind": "iris"}, "estimator": {"kind": "trane"}, "objectives": ["error"]}
    with pytest.raises(RecipeError, match=r"estimator 'trane' is not known; did you mean 'train'\?"):
        build(SerialSettings(), recipe, tmp_path)
