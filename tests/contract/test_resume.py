"""A run that is killed anywhere and resumed equals the run that nobody disturbed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import evonas
from evonas.core import DataError, EvonasError, Job, LockedError, Outcome, RecipeError
from evonas.run import Interrupted

LOOKUP: dict[str, Any] = {
    "task": {"kind": "digits"},
    "objectives": ["params", {"name": "flops", "direction": "max"}],
    "encoding": {"bounds": {"params": "60k", "flops": "6M"}},
    "strategy": {"kind": "nsga2", "population": 24, "generations": 12},
    "estimator": {"kind": "lookup"},
    "pool": {"kind": "serial"},
}
TRAIN: dict[str, Any] = {
    "task": {"kind": "digits", "limit": 200},
    "objectives": ["error", "params"],
    "encoding": {"bounds": {"flops": "500k"}},
    "strategy": {"kind": "nsga2", "population": 4, "generations": 3},
    "estimator": {"kind": "train", "epochs": 1},
    "pool": {"kind": "processes", "workers": 2},
}
HEIRS: dict[str, Any] = {
    "task": {"kind": "digits", "limit": 80},
    "objectives": ["error", "params"],
    "encoding": {"bounds": {"flops": "100k"}, "mutations": "morphisms"},
    "strategy": {"kind": "nsga2", "population": 3, "generations": 3},
    "estimator": {"kind": "train", "epochs": 2, "inherit": {"epochs": 1, "distill": {"epochs": 0.5}}},
    "pool": {"kind": "serial"},
}
"""Children that begin with their parents' weights."""
NEAT: dict[str, Any] = {
    "task": {"kind": "parity", "bits": 3},
    "objectives": ["fitness"],
    "encoding": {"kind": "neat", "structure": {"add_node": 0.2, "add_link": 0.3}},
    "strategy": {"kind": "neat", "population": 30, "generations": 8},
    "estimator": {"kind": "population", "threads": 1},
}
DRIVER = """
import json, os, sys
import evonas

def tell(progress):
    if progress.kind == "start":
        print("begun", flush=True)

recipe, folder = json.loads(sys.argv[1]), sys.argv[2]
if os.path.exists(folder + "/run.sqlite"):
    evonas.resume(folder, observer=tell)
else:
    evonas.start(recipe, name=os.path.basename(folder), runs=os.path.dirname(folder), observer=tell)
"""


def digest(folder: Path) -> str:
    with evonas.open(folder) as run:
        assert run.status == "finished"
        return run.store.digest([one.name for one in run.objectives if one.measured])


def drive(recipe: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, json.dumps(recipe), str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def begun(recipe: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    """A driver whose loop has begun."""
    child = drive(recipe, folder)
    assert child.stdout is not None
    said = child.stdout.readline()
    assert said == b"begun\n", said.decode() + child.communicate()[0].decode()
    return child


def undisturbed(recipe: dict[str, Any], folder: Path) -> float:
    """Runs the driver to its end; returns the seconds that its loop took."""
    child = begun(recipe, folder)
    began = time.monotonic()
    output, _ = child.communicate(timeout=240)
    assert child.returncode == 0, output.decode()
    return time.monotonic() - began


def killed_until_done(recipe: dict[str, Any], folder: Path, longest: float, seed: int, kills: int) -> int:
    """Kills the driver at random moments after its loop began, `kills` times at most; returns how often it was.

    The moments are at most `longest` seconds: a share of what the undisturbed driver takes, since a fast machine has
    finished before any fixed time."""
    moments, killed = random.Random(seed), 0
    while True:
        child = begun(recipe, folder)
        try:
            output, _ = child.communicate(timeout=moments.uniform(0, longest) if killed < kills else 240)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            killed += 1
            continue
        assert child.returncode == 0, output.decode()
        return killed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_anywhere_while_training(tmp_path: Path) -> None:
    seconds = undisturbed(TRAIN, tmp_path / "calm")
    assert killed_until_done(TRAIN, tmp_path / "run", seconds / 4, 1, 12) >= 5
    assert digest(tmp_path / "run") == digest(tmp_path / "calm")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["nsga2", "lemonade"])
def test_killed_anywhere_while_weights_are_inherited(tmp_path: Path, kind: str) -> None:
    few = {"offspring": 4, "proposals": 8, "crossover": 0.3, "continued": 0.3} if kind == "lemonade" else {}
    strategy = {"kind": kind, "population": 4, "generations": 5, **few}
    heirs = {**HEIRS, "strategy": strategy, "pool": {"kind": "processes", "workers": 2}}
    calm = evonas.start({**heirs, "pool": {"kind": "serial"}}, name="calm", runs=tmp_path).folder
    seconds = undisturbed(heirs, tmp_path / "whole")
    assert killed_until_done(heirs, tmp_path / "run", seconds / 4, 4, 12) >= 5
    assert digest(tmp_path / "run") == digest(tmp_path / "whole") == digest(calm)
    assert {path.name for path in (tmp_path / "run" / "weights").iterdir()} == {
        path.name for path in (calm / "weights").iterdir()
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_anywhere_many_times(tmp_path: Path) -> None:
    long = {**LOOKUP, "strategy": {"kind": "nsga2", "population": 60, "generations": 150}}
    seconds = undisturbed(long, tmp_path / "calm")
    assert killed_until_done(long, tmp_path / "run", seconds / 6, 2, 40) >= 10
    assert digest(tmp_path / "run") == digest(tmp_path / "calm")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("keep", ["champions", "all"])
def test_whole_populations_killed_anywhere(tmp_path: Path, keep: str) -> None:
    strategy = {"kind": "neat", "population": 150, "generations": 400}
    long = {**NEAT, "strategy": strategy, "store": {"individuals": keep}}
    seconds = undisturbed(long, tmp_path / "calm")
    assert killed_until_done(long, tmp_path / "run", seconds / 8, 3, 30) >= 8
    assert digest(tmp_path / "run") == digest(tmp_path / "calm")


class Killed(BaseException):
    """Stands for a kill: nothing in evonas may catch it and go on."""


ONE_BY_ONE: dict[str, Any] = {**LOOKUP, "strategy": {"kind": "nsga2", "population": 6, "generations": 3}}
SIDES: dict[str, Any] = {
    **NEAT,
    "objectives": ["fitness", "links"],
    "strategy": {"kind": "nsga2", "population": 8, "generations": 3},
}
"""A population that is estimated as a whole for a strategy that keeps its individuals one by one."""
AHEAD: dict[str, Any] = {
    **LOOKUP,
    "strategy": {"kind": "regularized", "population": 4, "generations": 8, "sample": 3, "window": 3},
}
HEIRS_AHEAD: dict[str, Any] = {
    **HEIRS,
    "strategy": {"kind": "lemonade", "population": 3, "generations": 5, "offspring": 1, "proposals": 3, "window": 3},
    "estimator": {**HEIRS["estimator"], "stop": {"after": 0.2, "peers": 3}},
}
"""Several generations under way at once, and children of parents who may die meanwhile."""
WRITES = [
    *((ONE_BY_ONE, method) for method in ("lay", "commit", "commit_generation", "collect", "event")),
    *((HEIRS, method) for method in ("commit", "commit_generation", "collect")),
    *((NEAT, method) for method in ("commit_cohort", "snapshot", "event")),
    *((SIDES, method) for method in ("lay", "commit", "commit_generation")),
    *((AHEAD, method) for method in ("lay", "commit", "commit_generation")),
    *((HEIRS_AHEAD, method) for method in ("lay", "commit", "commit_generation", "collect")),
]


OUTCOMES: dict[str, Outcome] = {}


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was trained before is looked up, since equal jobs give equal outcomes; the parents' weights must be there."""
    from evonas.estimate.train import TrainEstimator

    whole = TrainEstimator.estimate

    def estimate(self: TrainEstimator, job: Job) -> Outcome:
        for parent in job.parents:
            assert hashlib.sha256(Path(parent.path).read_bytes()).hexdigest() == parent.sha256
        anywhere = tuple(replace(parent, path="") for parent in job.parents)
        key = f"{self._settings} {replace(job, parents=anywhere)}"
        if key not in OUTCOMES:
            OUTCOMES[key] = whole(self, job)
        return OUTCOMES[key]

    monkeypatch.setattr(TrainEstimator, "estimate", estimate)


@pytest.mark.usefixtures("looked_up")
@pytest.mark.parametrize(("small", "method"), WRITES)
@pytest.mark.parametrize("after", [False, True])
def test_dies_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], method: str, after: bool
) -> None:
    """The process dies before or after the n-th call of each writing method, for n = 1, 2, ... until none is left."""
    from evonas import store
    from evonas.store import Store

    monkeypatch.setattr(store, "SNAPSHOT_SHARE", 1e-9)  # one snapshot at the start: the journal must lead on from it
    expected = digest(evonas.start(small, name="calm", runs=tmp_path).folder)
    whole = getattr(Store, method)
    for nth in range(1, 50):
        calls = 0

        def dying(self: Store, *arguments: Any, nth: int = nth, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth and not after:
                raise Killed
            result = whole(self, *arguments, **named)
            if calls == nth:
                raise Killed
            return result

        folder = tmp_path / f"run-{nth}"
        monkeypatch.setattr(Store, method, dying)
        try:
            evonas.start(small, name=folder.name, runs=tmp_path)
        except Killed:
            monkeypatch.setattr(Store, method, whole)
            evonas.resume(folder)
            assert digest(folder) == expected, f"died at call {nth} of {method}"
        else:
            assert nth > 1 and calls < nth
            assert digest(folder) == expected
            return
    raise AssertionError("the run never ended")


def test_a_damaged_snapshot_or_journal_is_bred_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest snapshot, and then a line of the journal, are lost: an older snapshot leads to the same run."""
    import sqlite3

    from evonas import store

    calm = digest(evonas.start(NEAT, name="calm", runs=tmp_path).folder)
    for name, share, damage in (
        ("snapshot", 1.0, "UPDATE cohorts SET population = x'00' WHERE generation = 5"),
        ("journal", 1e-9, "UPDATE journal SET scores = x'00' WHERE generation = 4"),
    ):
        monkeypatch.setattr(store, "SNAPSHOT_SHARE", share)
        settle = evonas.run._Search.settle
        monkeypatch.setattr(evonas.run._Search, "settle", lambda self, state: None)
        short = {**NEAT, "strategy": {**NEAT["strategy"], "generations": 5}}
        folder = evonas.start(short, name=name, runs=tmp_path).folder
        monkeypatch.setattr(evonas.run._Search, "settle", settle)
        with sqlite3.connect(folder / "run.sqlite") as db:
            assert db.execute(damage).rowcount == 1
        db.close()
        with evonas.open(folder) as run, pytest.warns(store.StoreWarning) if name == "snapshot" else nullcontext():
            assert run.state() is not None
        evonas.resume(folder, generations=8)
        assert digest(folder) == calm, name


@pytest.mark.parametrize("recipe", [AHEAD, HEIRS_AHEAD])
def test_generations_under_way_at_once_are_the_same_in_every_pool(tmp_path: Path, recipe: dict[str, Any]) -> None:
    alone = {**recipe, "strategy": {**recipe["strategy"], "window": 1}}
    serial = digest(evonas.start(recipe, name="serial", runs=tmp_path).folder)
    processes = {**recipe, "pool": {"kind": "processes", "workers": 2}}
    assert digest(evonas.start(processes, name="processes", runs=tmp_path).folder) == serial
    assert digest(evonas.start(alone, name="alone", runs=tmp_path).folder) != serial, (
        "the window says who is born of whom"
    )


# ------------------------------------------------------------------------------------------------ inherited weights


@pytest.fixture(scope="module")
def heirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose children inherited weights."""
    return evonas.start(HEIRS, name="heirs", runs=tmp_path_factory.mktemp("heirs")).folder


@pytest.fixture
def own(heirs: Path, tmp_path: Path) -> Path:
    """A copy of that run, to do to it what one likes."""
    return Path(shutil.copytree(heirs, tmp_path / "own"))


def longer(folder: Path) -> str:
    """The digest of such a run that nobody stopped, one generation longer."""
    strategy = {**HEIRS["strategy"], "generations": 4}
    return digest(evonas.start({**HEIRS, "strategy": strategy}, name="longer", runs=folder).folder)


def estimated(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that are computed from now on."""
    from evonas.estimate.train import TrainEstimator

    seen: list[Job] = []
    whole = TrainEstimator.estimate
    monkeypatch.setattr(TrainEstimator, "estimate", lambda self, job: [seen.append(job), whole(self, job)][1])
    return seen


def test_inherited_weights_are_the_same_in_every_pool(heirs: Path, tmp_path: Path) -> None:
    processes = {**HEIRS, "pool": {"kind": "processes", "workers": 2}}
    assert digest(evonas.start(processes, name="run", runs=tmp_path).folder) == digest(heirs)


def test_a_run_of_heirs_goes_on_as_a_longer_one(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = longer(tmp_path)
    seen = estimated(monkeypatch)
    assert digest(evonas.resume(own, generations="+1").folder) == expected
    assert [job.id for job in seen] == [9, 10, 11]
    assert all(job.parents and job.edits for job in seen)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_replay_over_collected_weights_trains_nobody_again(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """The newest states are damaged. Parents of those that lie between the older state and now may be gone, their
    children's estimates are not; and the replay keeps the weights that the next generation inherits."""
    import sqlite3

    from evonas.store import StoreWarning

    expected = longer(tmp_path)
    with sqlite3.connect(own / "run.sqlite") as db:
        damage = db.execute("UPDATE states SET body = 'x' WHERE generation > ?", (3 - lost,))
        assert damage.rowcount == lost
    db.close()
    seen = estimated(monkeypatch)
    with pytest.warns(StoreWarning):
        evonas.resume(own, generations=4)
    assert [job.id for job in seen] == [9, 10, 11]
    assert digest(own) == expected


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_parents_weights_that_are_not_intact_stop_the_run_with_the_cure(own: Path, damage: str) -> None:
    for path in (own / "weights").iterdir():
        content = path.read_bytes()
        path.unlink() if damage == "gone" else path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"\.safetensors is (missing|damaged).*restore it from a backup"):
        evonas.resume(own, generations="+1")
    with evonas.open(own) as run:
        assert len(run.generations()) == 3 and len(run.store.estimates()) == 9, "nobody failed for it"


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_order_of_arrival_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    from evonas.pool import Serial

    calm = digest(evonas.start(LOOKUP, name="calm", runs=tmp_path).folder)
    whole = Serial.arrived

    def disordered(self: Serial) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while batch := whole(self):
            outcomes += batch
        if order == "reversed":
            outcomes.reverse()
        else:
            random.Random(len(outcomes)).shuffle(outcomes)
        return outcomes

    monkeypatch.setattr(Serial, "arrived", disordered)
    assert digest(evonas.start(LOOKUP, name="other", runs=tmp_path).folder) == calm


def test_more_generations_equal_a_longer_run(tmp_path: Path) -> None:
    short = {**LOOKUP, "strategy": {**LOOKUP["strategy"], "generations": 5}}
    run = evonas.start(short, name="grown", runs=tmp_path)
    assert run.status == "finished"
    grown = evonas.resume(run, generations="+7")
    assert len(grown.generations()) == 12
    assert digest(grown.folder) == digest(evonas.start(LOOKUP, name="whole", runs=tmp_path).folder)


def test_resuming_a_finished_run_adds_nothing(tmp_path: Path) -> None:
    run = evonas.start(LOOKUP, name="run", runs=tmp_path)
    before = digest(run.folder)
    assert digest(evonas.resume(run).folder) == before


def test_another_recipe_is_refused_with_the_keys(tmp_path: Path) -> None:
    run = evonas.start(LOOKUP, name="run", runs=tmp_path)
    other = {**LOOKUP, "seed": 7, "strategy": {**LOOKUP["strategy"], "population": 30}}
    with pytest.raises(RecipeError) as refused:
        evonas.resume(run, recipe=other)
    text = str(refused.value)
    assert "seed: 0 in the run, 7 now" in text and "strategy.population: 24 in the run, 30 now" in text
    assert digest(run.folder)


@pytest.mark.parametrize("generations", ["ten", "3", "-2"])
def test_impossible_generations_are_refused(tmp_path: Path, generations: str) -> None:
    run = evonas.start(LOOKUP, name="run", runs=tmp_path)
    with pytest.raises(RecipeError, match="--generations"):
        evonas.resume(run, generations=generations)


def test_two_drivers_on_one_folder(tmp_path: Path) -> None:
    long = {**LOOKUP, "strategy": {"kind": "nsga2", "population": 60, "generations": 100000}}
    child = drive(long, tmp_path / "run")
    try:
        while not list(tmp_path.glob("run/run.sqlite")):
            assert child.poll() is None, child.communicate()[0].decode()
            time.sleep(0.02)
        began = time.monotonic()
        with pytest.raises(LockedError, match=str(child.pid)):
            evonas.resume(tmp_path / "run")
        assert time.monotonic() - began < 5
        with evonas.open(tmp_path / "run") as reading:
            assert reading.status == "running"
    finally:
        child.kill()
        child.communicate()
    with evonas.open(tmp_path / "run") as reading:
        assert reading.status == "interrupted"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly(tmp_path: Path, signum: int) -> None:
    """The generation under way is left, everything finished is kept, and the exit says which signal it was."""

    def observer(progress: Any) -> None:
        if progress.kind == "batch" and progress.generation == 4:
            os.kill(os.getpid(), signum)

    before = signal.getsignal(signum)
    with pytest.raises(Interrupted, match=r"evonas resume run") as stopped:
        evonas.start(LOOKUP, name="run", runs=tmp_path, observer=observer)
    assert stopped.value.exit_code == 128 + signum
    assert signal.getsignal(signum) is before
    with evonas.open(tmp_path / "run") as reading:
        assert reading.status == "interrupted"
        assert len(reading.generations()) == 4
        assert any(event["kind"] == "interrupted" for event in reading.events())
    evonas.resume(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(evonas.start(LOOKUP, name="calm", runs=tmp_path).folder)


def test_a_run_in_which_everything_fails_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def values(genome, plan):\n    raise ValueError('no table today')\n")
    recipe = {**LOOKUP, "estimator": {"kind": "lookup", "function": f"{tmp_path}/broken.py:values"}}
    with pytest.raises(EvonasError, match=r"all 24 networks of generation 1 failed.*no table today"):
        evonas.start(recipe, name="run", runs=tmp_path)
    (tmp_path / "broken.py").write_text(
        "def values(genome, plan):\n    return {'params': plan.params, 'flops': plan.flops}\n"
    )
    from evonas import imported

    imported.found.cache_clear()
    assert evonas.resume(tmp_path / "run").front()


def test_a_run_in_which_everything_begins_to_fail_stops_and_goes_on_when_that_is_mended(tmp_path: Path) -> None:
    from evonas import imported

    values = "def values(genome, plan):\n    return {'params': plan.params, 'flops': plan.flops}\n"
    away = "from pathlib import Path\n" + values.replace(
        ":\n", f":\n    if Path({str(tmp_path / 'away')!r}).exists():\n        raise OSError('the disk is away')\n", 1
    )
    (tmp_path / "known.py").write_text(away)
    recipe = {**LOOKUP, "estimator": {"kind": "lookup", "function": f"{tmp_path}/known.py:values"}}

    def observer(progress: Any) -> None:
        if progress.kind == "generation" and progress.generation == 2:
            (tmp_path / "away").touch()

    imported.found.cache_clear()
    with pytest.raises(EvonasError, match=r"the last 72 networks failed, up to generation 5, .*the disk is away; mend"):
        evonas.start(recipe, name="run", runs=tmp_path, observer=observer)
    (tmp_path / "away").unlink()
    run = evonas.resume(tmp_path / "run")
    assert run.status == "finished" and sum(row["failed"] for row in run.generations()) == 72
