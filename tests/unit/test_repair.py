"""`evonas repair`: whatever is damaged, the new folder opens, follows, goes on, and says what was lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evonas
from evonas import cli
from evonas.core import DataError, LockedError
from evonas.repair import Repaired, repair
from evonas.salvage import carved, salvage
from evonas.store import COLUMNS, PAGE_BYTES, Store
from evonas.verify import verify
from tests.contract.test_resume import HEIRS, LOOKUP, NEAT, SIDES, digest
from tests.samples import NAMES, restored
from tests.unit.test_verify import TUNED, image

SMALL: dict[str, Any] = {**LOOKUP, "strategy": {"kind": "nsga2", "population": 8, "generations": 5}}
TRAIN: dict[str, Any] = {
    "task": {"kind": "digits", "limit": 80},
    "objectives": ["error", "params"],
    "encoding": {"bounds": {"flops": "100k"}},
    "strategy": {"kind": "nsga2", "population": 3, "generations": 3},
    "estimator": {"kind": "train", "epochs": 1},
    "pool": {"kind": "serial"},
}
KINDS = {"lookup": SMALL, "train": TRAIN, "heirs": HEIRS, "neat": NEAT, "sides": SIDES, "tuned": TUNED}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Finished runs by kind, made when they are first asked for."""
    made: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in made:
            made[kind] = evonas.start(KINDS[kind], name=kind, runs=tmp_path_factory.mktemp(kind)).folder
        return made[kind]

    return run


def damaged(folder: Path, tmp_path: Path, *statements: str) -> Path:
    """A copy of a run in which statements changed the database behind the store's back."""
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    if statements:
        db = sqlite3.connect(copy / "run.sqlite")
        with db:
            for statement in statements:
                assert db.execute(statement).rowcount > 0, statement
        db.close()
    return copy


def recovered(folder: Path) -> Repaired:
    """The repaired run: it opens, follows and left the damaged one alone."""
    before = image(folder)
    found = repair(folder)
    assert image(folder) == before, "the damaged folder is only read"
    verdict = verify(found.folder)
    assert verdict.sound, verdict.problems
    assert sorted(path.name for path in folder.parent.iterdir() if path.name.startswith("repair.")) == []
    with evonas.open(found.folder) as run:
        assert [event["kind"] for event in run.events()][-1] == "repaired"
        assert len(run.generations()) == found.generations
    for loss in found.tables:
        assert loss.now >= loss.before or loss.told or loss.table in ("states", "cohorts")
    return found


def gone_on(found: Repaired) -> str:
    """The digest of the repaired run after a resume."""
    evonas.resume(found.folder)
    assert verify(found.folder).sound
    return digest(found.folder)


# ------------------------------------------------------------------------------------------------------- what is lost

LOSSES: dict[str, tuple[str, list[str], int, list[int]]] = {
    "nothing": ("lookup", [], 5, []),
    "estimates": ("lookup", ["UPDATE estimates SET status = 'failed' WHERE id IN (20, 30)"], 2, [20, 30]),
    "births": (
        "lookup",
        ["DELETE FROM individuals WHERE id = 11", "UPDATE genomes SET body = '{}' WHERE rowid = 5"],
        5,
        [],
    ),
    "fronts": ("lookup", ["DELETE FROM fronts WHERE generation = 2", "DELETE FROM species"], 5, []),
    "states": ("lookup", ["DELETE FROM states", "UPDATE generations SET evaluations = 0"], 5, []),
    "ledger": ("lookup", ["DELETE FROM ledger"], 5, []),
    "about": ("lookup", ["DELETE FROM meta WHERE name = 'about'"], 5, []),
    "recipe": ("lookup", ["UPDATE meta SET value = '{}' WHERE name = 'recipe'"], 5, []),
    "trained estimates": ("train", ["DELETE FROM estimates WHERE id = 4"], 1, [4]),
    "a line of a journal before the last state": (
        "neat",
        ["UPDATE journal SET scores = x'00' WHERE generation = 3"],
        8,
        [],
    ),
    "every state of a population": ("neat", ["DELETE FROM states", "UPDATE cohorts SET population = x'00'"], 8, []),
    "an estimate of a population": ("sides", ["DELETE FROM estimates WHERE id = 9"], 1, [9]),
    "genes that training changed": ("tuned", ["DELETE FROM individuals WHERE birth = 2"], 8, []),
}
INCOMPLETE = {"a line of a journal before the last state", "genes that training changed"}
"""What nothing can bring back; the run goes on all the same."""


@pytest.mark.parametrize("what", LOSSES)
def test_what_was_lost_is_said_and_made_good(calm: Callable[[str], Path], tmp_path: Path, what: str) -> None:
    kind, statements, reached, again = LOSSES[what]
    found = recovered(damaged(calm(kind), tmp_path, *statements))
    assert (found.generations, list(found.again)) == (reached, again)
    assert found.newest == max(reached, len(evonas.open(calm(kind)).generations()))
    assert (gone_on(found) == digest(calm(kind))) == (what not in INCOMPLETE)


def test_only_what_is_lost_is_estimated_again(
    calm: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evonas.estimate.train import TrainEstimator

    found = recovered(damaged(calm("train"), tmp_path, "DELETE FROM estimates WHERE id IN (2, 7)"))
    seen: list[int] = []
    whole = TrainEstimator.estimate
    monkeypatch.setattr(TrainEstimator, "estimate", lambda self, job: [seen.append(job.id), whole(self, job)][1])
    assert gone_on(found) == digest(calm("train"))
    assert seen == [2, 7]


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_lost_weights_are_trained_again_where_nothing_was_inherited(
    calm: Callable[[str], Path], tmp_path: Path, damage: str
) -> None:
    folder = damaged(calm("train"), tmp_path)
    path = sorted((folder / "weights").iterdir())[0]
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-1])
    found = recovered(folder)
    assert len(found.again) == 1 and any("are lost: trained again" in note for note in found.notes)
    assert gone_on(found) == digest(calm("train"))
    assert {one.name for one in (found.folder / "weights").iterdir()} == {
        one.name for one in (calm("train") / "weights").iterdir()
    }


def test_where_a_childs_inheritance_is_gone_the_newest_state_is_the_beginning(
    calm: Callable[[str], Path], tmp_path: Path
) -> None:
    found = recovered(damaged(calm("heirs"), tmp_path, "DELETE FROM estimates WHERE id = 4"))
    assert (found.generations, found.begun, list(found.lost), list(found.again)) == (3, 3, [4], [])
    longer = evonas.resume(found.folder, generations=4)
    assert len(longer.generations()) == 4 and longer.front() and verify(found.folder).sound


def test_children_of_lost_weights_begin_from_scratch(calm: Callable[[str], Path], tmp_path: Path) -> None:
    folder = damaged(calm("heirs"), tmp_path)
    for path in (folder / "weights").iterdir():
        path.write_bytes(b"")
    found = recovered(folder)
    assert found.weights == 0 and len(found.lost_weights) > 1
    assert any("children begin from scratch" in note for note in found.notes)
    assert len(evonas.resume(found.folder, generations=4).generations()) == 4
    assert verify(found.folder).sound


def test_founders_events_and_tests_are_taken_over(tmp_path: Path) -> None:
    encoding = {**LOOKUP["encoding"], "initial": ["lenet-5"], "bounds": {"params": "200k"}}
    folder = evonas.start({**SMALL, "encoding": encoding}, name="run", runs=tmp_path).folder
    with Store.open(folder, write=True) as store:
        store.event("noted", "first")
        store.record_test(3, 1, {"params": 5.0})
        store.record_test(4, 1, {"params": 6.0})
    with sqlite3.connect(folder / "run.sqlite") as db:
        db.execute("UPDATE tests SET individual = 9 WHERE number = 0")
        db.execute("DELETE FROM events WHERE number = 1")
    db.close()
    found = recovered(folder)
    with Store.open(found.folder, write=True) as store:
        assert [(test["id"], test["values"]) for test in store.tests()] == [(4, {"params": 6.0})]
        assert [event["kind"] for event in store.events()] == ["founders", "noted", "repaired"]
        store.event("more", "numbers go on without a gap")
        store.record_test(5, 1, {})
    assert {loss.table: loss.told for loss in found.tables if loss.told} == {
        "tests": "1 of 2 tests gone",
        "events": "1 of 3 events gone",
    }


# --------------------------------------------------------------------------------------------------- files and pages


@pytest.mark.parametrize("seed", range(10))
def test_damage_anywhere_leaves_a_run_that_goes_on_the_same(
    calm: Callable[[str], Path], tmp_path: Path, seed: int
) -> None:
    """A row, a page, a part of a file, or a whole file: what the recipe decides comes back, once it is resumed."""
    chance = random.Random(seed)
    folder = damaged(calm("lookup"), tmp_path)
    path = folder / "run.sqlite"
    data = bytearray(path.read_bytes())
    page = chance.randrange(len(data) // PAGE_BYTES) * PAGE_BYTES
    match chance.choice(["zeros", "noise", "cut", "bit", "gone"]):
        case "zeros":
            data[page : page + PAGE_BYTES] = bytes(PAGE_BYTES)
        case "noise":
            data[page : page + PAGE_BYTES] = chance.randbytes(PAGE_BYTES)
        case "cut":
            del data[chance.randrange(len(data)) :]
        case "bit":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "gone":
            data.clear()
    path.write_bytes(data)
    for name in chance.sample(["tip", "lock"], chance.randrange(3)):
        (folder / name).unlink()
    assert gone_on(recovered(folder)) == digest(calm("lookup"))


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is on the disk when a driver is killed: most of it in the log."""
    place = tmp_path_factory.mktemp("crashed")

    def copies(progress: Any) -> None:
        if progress.kind == "generation" and progress.generation == 4:
            shutil.copytree(place / "run", place / "copy")

    evonas.start(SMALL, name="run", runs=place, observer=copies)
    assert (place / "copy" / "run.sqlite-wal").stat().st_size > 10 * PAGE_BYTES
    return place / "copy"


@pytest.mark.parametrize("share", [0.0, 0.35, 0.7, 1.0])
def test_a_log_that_is_cut_or_damaged_gives_what_is_left_of_it(
    crashed: Path, calm: Callable[[str], Path], tmp_path: Path, share: float
) -> None:
    folder = damaged(crashed, tmp_path)
    (folder / "run.sqlite-shm").unlink(missing_ok=True)
    log = (folder / "run.sqlite-wal").read_bytes()
    at = int(share * (len(log) - 1))
    # a byte that is wrong ends the log for SQLite; the pages behind it are whole
    (folder / "run.sqlite-wal").write_bytes(log[:at] + bytes([log[at] ^ 255]) + log[at + 1 :])
    beyond = recovered(folder)
    assert beyond.generations >= 3
    shutil.rmtree(beyond.folder)
    (folder / "run.sqlite-wal").write_bytes(log[:at])
    assert gone_on(recovered(folder)) == digest(calm("lookup"))


def test_pages_hold_every_row_that_sqlite_reads(calm: Callable[[str], Path]) -> None:
    for kind in ("lookup", "neat"):
        taken: dict[str, dict[Any, Any]] = {table: {} for table in COLUMNS}
        for table, row in carved(calm(kind)):
            taken[table].setdefault(row[0], row)
        with Store.open(calm(kind)) as store:
            for table in COLUMNS.keys() - {"meta", "ledger"}:
                read = store.rows_of(table)
                assert {key: taken[table].get(key) for key in read} == read, table


@pytest.mark.parametrize("name", NAMES)
def test_older_formats_are_repaired_into_todays(tmp_path: Path, name: str) -> None:
    folder = restored(name, tmp_path)
    with sqlite3.connect(folder / "run.sqlite") as db:
        db.execute("UPDATE fronts SET body = '[]'")
    db.close()
    found = recovered(folder)
    assert found.generations == 2
    with evonas.open(found.folder) as run:
        assert run.front()


# ------------------------------------------------------------------------------------------------------------ refusals


def test_without_any_recipe_nothing_can_be_repaired(calm: Callable[[str], Path], tmp_path: Path) -> None:
    folder = damaged(calm("lookup"), tmp_path, "DELETE FROM meta")
    (folder / "recipe.yaml").write_text(": nothing")
    with pytest.raises(DataError, match=r"cannot be repaired: neither run.sqlite nor recipe.yaml"):
        repair(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_in_use_and_a_folder_that_is_there_are_refused(calm: Callable[[str], Path], tmp_path: Path) -> None:
    folder = damaged(calm("lookup"), tmp_path)
    with Store.open(folder, write=True), pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
        repair(folder)
    (tmp_path / "run-repaired").mkdir()
    with pytest.raises(LockedError, match="exists already: choose another folder with --to"):
        repair(folder)
    with pytest.raises(DataError, match="is no folder"):
        repair(tmp_path / "none")


def test_the_command_says_what_was_lost(
    calm: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = damaged(calm("lookup"), tmp_path, "DELETE FROM estimates WHERE id = 30")
    assert cli.call(["repair", str(folder), "--to", str(tmp_path / "new"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["again"] == [30] and told["folder"] == str(tmp_path / "new")
    assert cli.call(["repair", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "1 individual without estimate (30)" in printed and "1 made again when it is resumed" in printed
    assert cli.call(["repair", str(folder)]) == 73
    assert not salvage(folder).notes
