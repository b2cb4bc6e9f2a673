"""Workers that are killed from outside at random moments, and estimates that kill, crash, hang, devour memory and raise
what nobody can pickle: nobody else notices, and nothing is left of them."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import evonas
from evonas.core import Job, Outcome
from evonas.pool import Processes, ProcessesSettings
from tests.faults.nursery import PATIENCE, Nursery, fair, until
from tests.faults.nursery import alive as running
from tests.faults.test_driver_kills import RUNS, digest, heard, lasting, standing
from tests.unit.test_pool import FAULTS, alive, jobs, outcomes, recipe_of

KILLS = 200
STRUCK = (
    FAULTS
    + '''

import random

class Struck(Faulty):
    """A fine estimate is a number that follows from the job's seed."""

    def estimate(self, job):
        self.seed = job.seed
        return super().estimate(job)

    def fine(self, _): return random.Random(self.seed).random()

    def greedy(self, _):
        held = b"x" * 400_000_000
        time.sleep(60)

    def struck(self, genome):
        """Ended by a signal as often as the genome says, then fine."""
        marks = Path(genome["marks"])
        for nth in range(genome["times"]):
            if not (marks / str(nth)).exists():
                (marks / str(nth)).touch()
                os.kill(os.getpid(), genome["signal"])
        return self.fine(genome)
'''
)

Make = Callable[..., Processes]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Pools of two workers for the estimator above."""
    file = tmp_path / "struck.py"
    file.write_text(STRUCK, encoding="utf-8")
    made: list[Processes] = []

    def pool(retries: int = 2, **estimator: Any) -> Processes:
        recipe = recipe_of(f"{file}:Struck", **estimator)
        made.append(Processes(ProcessesSettings(workers=2, retries=retries), recipe, tmp_path / f"at{len(made)}"))
        return made[-1]

    yield pool
    for one in made:
        one.close()


# ------------------------------------------------------------------------------------------------- from outside


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_kills_of_random_workers_change_nothing(nursery: Nursery, tmp_path: Path) -> None:
    recipe = {**RUNS["nsga2"], "pool": {"kind": "processes", "workers": 2, "retries": 100}}
    folder, told, log, chance = tmp_path / "run", tmp_path / "told", tmp_path / "log", random.Random(3)
    endless = (lasting(recipe, 100_000), str(folder), str(told))
    driver = nursery.born(log, "tests.faults.drivers:follow", *endless)
    steps = 0
    for kill in range(KILLS):
        steps += kill % 2  # every other one waits until the run went on
        assert until(partial(heard, told, steps), PATIENCE), driver.said()
        assert driver.ended(chance.uniform(0, 0.2)) is None, driver.said()
        assert until(lambda: nursery.struck(chance), PATIENCE), driver.said()
    driver.signalled(signal.SIGTERM)
    assert driver.ended(fair(10)) is not None, "a signal is heard within ten seconds"
    assert nursery.deserted(), "no worker outlives its driver"
    last = standing(folder)[1] + 2
    driver = nursery.born(log, "tests.faults.drivers:follow", *endless, last)
    assert driver.ended() == 0, driver.said()
    whole = lasting({**recipe, "pool": {"kind": "serial"}}, last)
    calm = nursery.born(log, "tests.faults.drivers:follow", whole, str(tmp_path / "calm"), str(told))
    assert calm.ended() == 0, calm.said()
    with evonas.open(folder) as run:
        assert {estimate.status for estimate in run.store.estimates().values()} == {"ok"}
    assert digest(folder) == digest(tmp_path / "calm")


def test_an_idle_worker_that_is_killed_costs_nobody_a_try(make: Make) -> None:
    pool = make(retries=0)
    outcomes(pool, jobs("fine", "fine", "fine"))
    idle = [psutil.Process(one.process.pid) for one in pool._idle]
    for one in idle:
        one.kill()
    assert idle and until(lambda: not any(map(psutil.pid_exists, [one.pid for one in idle])), 5)
    assert {outcome.estimate.status for outcome in outcomes(pool, jobs("fine", "fine", "fine")).values()} == {"ok"}


@pytest.mark.slow
def test_another_server_is_started_for_one_that_was_killed(make: Make) -> None:
    pool = make()
    outcomes(pool, jobs("fine"))
    (server,) = [one for one in psutil.Process().children() if "forkserver" in " ".join(one.cmdline())]
    server.kill()
    assert until(lambda: not running(server), 5)
    done = outcomes(pool, jobs("fine", "leave", "fine", "fine"))
    assert [done[i].estimate.status for i in range(4)] == ["ok", "failed", "ok", "ok"]
    assert not alive(pool)


# -------------------------------------------------------------------------------------------------- from inside


ESTIMATES = 1500
STRICKEN = {signal.SIGKILL: 510, signal.SIGSEGV: 30}
"""How many are ended by a signal twice before they are fine."""
ALWAYS = {
    "kill": 15, "segfault": 15, "leave": 15, "greedy": 12, "sleep": 3, "stubborn": 3, "busy": 3, "unpicklable": 40,
    "mute": 20, "system_exit": 20, "nan": 20,
}  # fmt: skip
"""How many never come to a result."""


def mixture(marks: Path, calm: bool) -> list[Job]:
    """Estimates in a fixed disorder, and among them what kills; a calm one meets no signal from outside."""
    genomes: list[dict[str, Any]] = [
        {"do": "struck", "times": 0 if calm else 2, "signal": int(signum), "marks": str(marks / f"{int(signum)}-{i}")}
        for signum, count in STRICKEN.items()
        for i in range(count)
    ]
    genomes += [{"do": do} for do, count in ALWAYS.items() for _ in range(count)]
    genomes += [{"do": "fine"} for _ in range(ESTIMATES - len(genomes))]
    random.Random(5).shuffle(genomes)
    for genome in genomes:
        if "marks" in genome:
            Path(genome["marks"]).mkdir(parents=True, exist_ok=True)
    return [Job(i, 100 + i, genome) for i, genome in enumerate(genomes)]


def told(outcome: Outcome) -> tuple[str, str, float | None, bytes | None]:
    """What must not depend on where and how often an estimate was made."""
    one = outcome.estimate
    return one.status, one.reason, one.values.get("error"), outcome.weights


SAID = {
    "kill": "was ended by SIGKILL", "segfault": "was ended by SIGSEGV", "leave": "ended with exit code 3",
    "greedy": "memory limit of 200 MB passed", "sleep": "time limit of 3 s passed",
    "stubborn": "time limit of 3 s passed", "busy": "time limit of 3 s passed", "unpicklable": "Unpicklable: odd",
    "mute": "its message cannot be shown", "system_exit": "SystemExit: 4", "nan": "not JSON compliant",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_kills_among_fifteen_hundred_estimates_lose_no_innocent(make: Make, tmp_path: Path) -> None:
    limits = {"time_limit": 3.0, "memory_limit": 200_000_000}
    wild, calm = mixture(tmp_path / "marks", calm=False), mixture(tmp_path / "marks", calm=True)
    pool = make(**limits)
    found = {id: told(outcome) for id, outcome in outcomes(pool, wild).items()}
    kills = len(list((tmp_path / "marks").glob("9-*/*")))
    assert kills == 2 * STRICKEN[signal.SIGKILL], "each of those that were fine in the end was killed twice"
    assert not alive(pool)
    innocent = [job for job in calm if job.genome["do"] in ("fine", "struck")]
    expected = {id: told(outcome) for id, outcome in outcomes(make(**limits), innocent).items()}
    assert {found[job.id][0] for job in innocent} == {"ok"}
    assert {job.id: found[job.id] for job in innocent} == expected
    for job in wild:
        if job.genome["do"] in SAID:
            status, reason, value, weights = found[job.id]
            assert (status, value, weights) == ("failed", None, None) and SAID[job.genome["do"]] in reason


def test_a_worker_that_died_leaves_no_handle_open(make: Make) -> None:
    pool = make(retries=1)
    outcomes(pool, jobs("fine"))
    before = psutil.Process().num_fds()
    outcomes(pool, jobs(*["kill"] * 6))
    assert psutil.Process().num_fds() <= before + 4, "those of two workers"
