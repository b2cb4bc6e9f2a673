"""The store under kills, full disks, flipped bits, cut files, second writers and readers at work."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evonas import store as store_module
from evonas.core import DataError, LockedError, Outcome, RecipeError, State, StorageError
from evonas.store import Store, StoreWarning
from tests.unit.test_store import ABOUT, RECIPE, Toy, advance, ask, begin, outcome, search

KILLED = 9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "toy"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[State, str]:
    """The state and the digest of the toy search without any fault."""
    folder = tmp_path_factory.mktemp("calm") / "toy"
    state = search(folder)
    return state, digest(folder)


def digest(folder: Path) -> str:
    with Store.open(folder) as store:
        return store.digest()


# --------------------------------------------------------------------------------------------------------- children


def fork(work: Callable[[], None]) -> int:
    """Runs `work` in a child that shares no file position or lock; its exit status is 0, or 1 after an exception."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"child: {type(error).__name__}: {error}\n".encode())
            os._exit(1)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Heard:
    """A pipe through which a child tells the ids of commits that have returned."""

    def __init__(self) -> None:
        self.source, self.sink = os.pipe()

    def tell(self, ids: list[int]) -> None:
        REAL_WRITE(self.sink, (json.dumps(ids) + "\n").encode())

    def ids(self) -> set[int]:
        os.close(self.sink)
        with open(self.source) as lines:
            return {id for line in lines for id in json.loads(line)}


REAL_WRITE = os.write


def exit_at(n: int) -> None:
    """Makes this process end without cleaning up at its n-th write, sync, rename or commit, a write half done."""
    left = [n]

    def step(half: Callable[[], object] = lambda: None) -> None:
        left[0] -= 1
        if left[0] == 0:
            half()
            os._exit(KILLED)

    def before(name: str) -> None:
        real = getattr(os, name)

        def patched(*args: Any) -> Any:
            step()
            return real(*args)

        setattr(os, name, patched)

    for name in ("fsync", "replace", "pwrite", "ftruncate", "unlink"):
        before(name)

    def write(file: int, data: bytes) -> int:
        step(lambda: REAL_WRITE(file, bytes(data[: len(data) // 2])))
        return REAL_WRITE(file, data)

    os.write = write  # type: ignore[assignment]

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            ends = sql.startswith(("COMMIT", "PRAGMA journal_mode", "PRAGMA wal_checkpoint"))
            if ends:
                step()
            cursor = super().execute(sql, *args)
            if ends:
                step()
            return cursor

    real_connect = sqlite3.connect
    sqlite3.connect = lambda *args, **kwargs: real_connect(*args, factory=Connection, **kwargs)  # type: ignore[assignment]


# ------------------------------------------------------------------------------------------------------------ kills


@pytest.mark.slow
def test_a_kill_at_every_write_sync_rename_and_commit_loses_nothing(tmp_path: Path) -> None:
    state = search(tmp_path / "calm", generations=1)
    expected = digest(tmp_path / "calm")
    for n in range(1, 1000):
        folder, heard = tmp_path / f"n{n}", Heard()

        def work(folder: Path = folder, heard: Heard = heard, n: int = n) -> None:
            exit_at(n)
            search(folder, generations=1, told=heard.tell)

        status = ended(fork(work))
        committed = heard.ids()
        assert status in (0, KILLED)
        if (folder / "run.sqlite").exists():
            with Store.open(folder) as store:
                assert store.finished() >= committed, n
        else:
            assert not committed
        assert search(folder, generations=1) == state, n
        assert digest(folder) == expected, n
        assert not list(folder.rglob("*.tmp*")), n
        shutil.rmtree(folder)
        if status == 0:
            break
    assert n > 40, "the hook no longer sees the writes"


@pytest.mark.slow
def test_a_resumed_run_killed_at_every_point_still_ends_the_same(tmp_path: Path, calm: tuple[State, str]) -> None:
    start = tmp_path / "start"
    search(start, generations=2)
    for n in range(1, 1000):
        folder = tmp_path / f"n{n}"
        shutil.copytree(start, folder)

        def work(folder: Path = folder, n: int = n) -> None:
            exit_at(n)
            search(folder)

        status = ended(fork(work))
        assert search(folder) == calm[0] and digest(folder) == calm[1], n
        shutil.rmtree(folder)
        if status == 0:
            break
    assert n > 20, "the hook no longer sees the writes"


def reopened(folder: Path) -> Store:
    """The store for reading; one that was killed while it closed says so, and a writer puts it in order."""
    try:
        return Store.open(folder)
    except StorageError as error:
        if "was killed while it was closed" not in str(error):
            raise
        return Store.open(folder, write=True)


@pytest.mark.slow
def test_kills_at_random_moments_lose_no_commit(tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    state = search(calm, generations=30)
    folder, chance, committed, kills = tmp_path / "toy", random.Random(1), set[int](), 0
    for _ in range(400):
        heard = Heard()

        def work(heard: Heard = heard) -> None:
            search(folder, generations=30, told=heard.tell)

        child = fork(work)
        time.sleep(chance.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        status = ended(child)
        kills += status == -signal.SIGKILL
        committed |= heard.ids()
        if (folder / "run.sqlite").exists():
            with reopened(folder) as store:
                assert store.finished() >= committed
        if status == 0:
            break
    assert kills > 0 and search(folder, generations=30) == state
    assert digest(folder) == digest(calm)


def test_weights_are_durable_before_the_row_that_names_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    names: dict[int, str] = {}

    def noting(name: str, describe: Callable[..., str]) -> None:
        real = getattr(os, name)

        def patched(*args: Any) -> Any:
            result = real(*args)
            steps.append(f"{name} {describe(result, *args)}")
            return result

        monkeypatch.setattr(os, name, patched)

    def opened(file: int, path: Any, *_: Any) -> str:
        names[file] = Path(path).suffix or Path(path).name
        return names[file]

    with Store.create(folder, RECIPE, ABOUT) as store:
        store.lay(ask(begin()))
        store._db.set_trace_callback(
            lambda sql: steps.append(sql.split()[0]) if sql.startswith(("INSERT", "COMMIT")) else None
        )
        noting("open", opened)
        noting("write", lambda _, file, __: names[file])
        noting("fsync", lambda _, file: names[file])
        noting("replace", lambda _, source, target: Path(target).suffix)
        store.commit([Outcome(outcome(ask(begin())[1]).estimate, b"tensors")])
        monkeypatch.undo()
        store._db.set_trace_callback(None)
        rows = [i for i, step in enumerate(steps) if step in ("INSERT", "COMMIT")]
        store.close()
    order = ["open .tmp", "write .tmp", "fsync .tmp", "replace .safetensors", "open weights", "fsync weights"]
    assert steps[: rows[0]] == order
    assert [steps[i] for i in rows] == ["INSERT", "COMMIT"] or [steps[i] for i in rows][-1] == "COMMIT"


# ---------------------------------------------------------------------------------------------------- file systems


@contextmanager
def mounted(point: Path, *options: str) -> Iterator[Path]:
    point.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(point)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this system lets the tests mount nothing: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


@pytest.mark.parametrize("kilobytes", [200, 310, 420, 560, 700])
def test_a_full_disk_keeps_every_commit_and_the_run_goes_on_after_space_is_freed(
    tmp_path: Path, kilobytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = tmp_path / "calm"
    state = search(calm, generations=40)
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs") as disk:
        folder, committed = disk / "toy", set[int]()
        with pytest.raises(
            StorageError, match=r"disk full while \w+ .*toy; free space, then `evonas resume toy`"
        ) as caught:
            search(folder, generations=40, told=committed.update)
        assert caught.value.exit_code == 74
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        if committed:
            with Store.open(folder) as store:
                assert store.finished() >= committed
        assert search(folder, generations=40) == state
        assert digest(folder) == digest(calm)


def test_a_file_size_limit_reads_as_a_full_disk_too(tmp_path: Path) -> None:
    folder, calm = tmp_path / "toy", tmp_path / "calm"
    state = search(calm, generations=20)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with pytest.raises(StorageError, match=r"disk full|file system failed"):
            search(folder, generations=20)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        assert ended(fork(work)) == 0
    assert search(folder, generations=20) == state
    assert digest(folder) == digest(calm)


def test_a_full_disk_in_the_middle_of_a_run_leaves_the_store_usable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.create(folder, RECIPE, ABOUT) as store:
        store.lay(ask(begin()))

        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StorageError, match="disk full while writing"):
                store.commit([outcome(ask(begin())[1])])
        assert store.finished() == set() and os.listdir(folder / "weights") == []
        store.commit([outcome(ask(begin())[1])])
        assert store.finished() == {1}


def test_a_read_only_folder_can_be_read_and_says_why_it_cannot_be_written(
    tmp_path: Path, calm: tuple[State, str]
) -> None:
    search(tmp_path / "runs" / "toy")
    with mounted(tmp_path / "frozen", "--bind", "-o", "ro", str(tmp_path / "runs")) as runs:
        if os.access(runs, os.W_OK):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(runs)], check=True)
        assert digest(runs / "toy") == calm[1]
        with Store.open(runs / "toy") as store:
            assert not store.locked()
        with pytest.raises(StorageError, match="cannot be written"):
            Store.open(runs / "toy", write=True)
        with pytest.raises(StorageError, match="cannot be written"):
            Store.create(runs / "new", RECIPE, ABOUT)


def test_a_run_closed_under_a_reader_can_still_be_read_from_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "toy"
    store = Store.create(folder, RECIPE, ABOUT)
    with Store.open(folder) as reader:
        advance(store, 2)
        expected = reader.digest()
        store.close()
    with mounted(tmp_path / "frozen", "--bind", "-o", "ro", str(tmp_path / "runs")) as runs:
        if os.access(runs, os.W_OK):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(runs)], check=True)
        assert digest(runs / "toy") == expected


def test_a_hot_journal_is_rolled_back_by_the_next_writer_only(folder: Path, calm: tuple[State, str]) -> None:
    search(folder)

    def work() -> None:
        db = sqlite3.connect(folder / "run.sqlite", isolation_level=None)
        db.execute("PRAGMA cache_size=1")
        db.execute("BEGIN")
        db.execute("UPDATE individuals SET edits = hex(zeroblob(20000))")
        os._exit(KILLED)

    assert ended(fork(work)) == KILLED
    assert (folder / "run.sqlite-journal").stat().st_size > 0
    with pytest.raises(StorageError, match=r"killed while it was closed; `evonas resume toy`"):
        digest(folder)
    assert search(folder) == calm[0]
    assert digest(folder) == calm[1]


def test_another_program_on_the_database_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.05)
    with Store.create(folder, RECIPE, ABOUT) as store:
        other = sqlite3.connect(folder / "run.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked by another program"):
            store.event("x", "y")
        other.execute("ROLLBACK")
        other.close()
        store.event("x", "y")


# --------------------------------------------------------------------------------------------------------- damage


IDS = range(15)

READS: dict[str, Callable[[Store], Any]] = {
    "recipe": lambda store: (store.recipe, store.about),
    "state": lambda store: store.load_state(Toy.from_json),
    "individuals": lambda store: store.individuals(None, Toy.from_json),
    "some": lambda store: store.individuals([9, 3], Toy.from_json),
    "genome": lambda store: store.genome_json(6),
    "parents": lambda store: (store.parents(5), store.edits(5)),
    "estimates": lambda store: store.estimates(),
    "estimate": lambda store: [store.estimate(id) for id in (0, 7, 14, 99)],
    "finished": lambda store: (store.finished(), store.arrivals()),
    "generations": lambda store: store.generations(),
    "species": lambda store: (store.species(), store.species(2)),
    "front": lambda store: (store.front(), store.front(1)),
    "events": lambda store: store.events(),
    "tests": lambda store: store.tests(),
    "digest": lambda store: store.digest(),
}


def readings(folder: Path, write: bool = False) -> dict[str, Any]:
    """What every reading method gives, by name; those that raise DataError are left out."""
    try:
        store = Store.open(folder, write=write)
    except DataError:
        return {}
    found: dict[str, Any] = {}
    with store:
        for name, read in READS.items():
            try:
                found[name] = read(store)
            except DataError:
                pass
            except RecipeError as error:
                found[name] = str(error)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed run with something in every table."""
    folder = tmp_path_factory.mktemp("finished") / "toy"
    search(folder)
    with Store.open(folder, write=True) as store:
        store.event("resumed", "at generation 3", {"process": 5})
        store.record_test(4, 3, {"error": 0.08}, [{"epoch": 1, "loss": 0.5}], {"seconds": 9}, b"final")
    return folder


def flips(path: Path, count: int, seed: int) -> list[tuple[int, int]]:
    """One bit of every byte of a file's header, and of `count` other bytes that lie near used ones (0 means all)."""
    data, chance = path.read_bytes(), random.Random(seed)
    used = [place for place in range(100, len(data)) if any(data[max(0, place - 8) : place + 8])]
    rest = sorted(chance.sample(used, count)) if count else used
    return [(place, chance.randrange(8)) for place in [*range(100), *rest]]


@contextmanager
def flipped(path: Path, place: int, bit: int) -> Iterator[None]:
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([data[place] ^ (1 << bit)]))
    try:
        yield
    finally:
        path.write_bytes(data)


def wrong(found: dict[str, Any], truth: dict[str, Any]) -> list[str]:
    return [name for name, value in found.items() if value != truth[name]]


def flip_through(folder: Path, truth: dict[str, Any], places: list[tuple[int, int]]) -> int:
    """Flips one bit at a time; returns at how many places damage was noticed, and fails at a silent wrong value."""
    noticed = 0
    older = [search(folder.with_name(f"until-{generation}"), generation) for generation in (1, 2)]
    for place, bit in places:
        with flipped(folder / "run.sqlite", place, bit), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", StoreWarning)
            found = readings(folder)
        silent = wrong(found, truth)
        if silent == ["state"] and any("is damaged; going on from" in str(one.message) for one in warned):
            silent = [] if found["state"] in older else silent
        assert not silent, f"bit {bit} of byte {place}"
        noticed += len(found) < len(truth) or bool(warned)
    return noticed


def test_a_flipped_bit_in_the_database_is_noticed_or_changes_nothing(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "toy"))
    truth = readings(folder)
    assert truth.keys() == READS.keys()
    assert flip_through(folder, truth, flips(folder / "run.sqlite", 250, seed=1)) > 100
    assert readings(folder) == truth


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_flipped_bit_in_any_byte_of_the_database_is_noticed_or_changes_nothing(
    finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "toy"))
    truth = readings(folder)
    assert flip_through(folder, truth, flips(folder / "run.sqlite", 0, seed=2)) > 5000


def test_a_writer_refuses_a_damaged_database_or_reads_the_truth(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "toy"))
    truth = readings(folder)
    refused = 0
    for place, bit in flips(folder / "run.sqlite", 100, seed=3)[::2]:
        with warnings.catch_warnings(), flipped(folder / "run.sqlite", place, bit):
            warnings.simplefilter("ignore", StoreWarning)
            before = (folder / "run.sqlite").read_bytes()
            found = readings(folder, write=True)
            for name in ("state", "events"):  # an older state with a warning is right, and is written down as an event
                found.pop(name, None)
            assert not wrong(found, truth), f"bit {bit} of byte {place}"
            if not found:
                refused += 1
                assert (folder / "run.sqlite").read_bytes() == before, "a refused database was changed"
    assert refused > 20


def test_a_cut_database_is_noticed_at_every_length(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "toy"))
    truth, path = readings(folder), folder / "run.sqlite"
    data = path.read_bytes()
    page = store_module.PAGE_BYTES
    lengths = {0, 1, 15, 16, 99, 100, 511, 512, len(data) - 1}
    lengths |= {*range(page, len(data), page), *range(700, len(data), 1499)}
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        found = readings(folder)
        assert not wrong(found, truth) and len(found) < len(truth), length
        with pytest.raises(DataError):
            Store.open(folder, write=True)
        assert path.read_bytes() == data[:length]


def test_damage_is_told_by_table_and_row_with_a_cure(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "toy"))
    db = sqlite3.connect(folder / "run.sqlite", isolation_level=None)
    db.execute("UPDATE estimates SET objectives = replace(objectives, '0.', '1.') WHERE id = 4")
    db.close()
    with Store.open(folder) as store:
        with pytest.raises(DataError, match=r"estimates, row 4 does not match its hash; restore .*`evonas repair"):
            store.estimate(4)
        assert store.estimate(5) is not None
    with pytest.raises(DataError, match="row 4"):
        Store.open(folder, write=True)


@pytest.mark.parametrize("statement", [
    "DELETE FROM estimates WHERE id = 4",
    "DELETE FROM individuals WHERE id = 14",
    "UPDATE estimates SET id = 77 WHERE id = 4",
    "DELETE FROM events",
    "DELETE FROM fronts WHERE generation = 2",
    "INSERT INTO fronts SELECT 4, hash, body FROM fronts WHERE generation = 3",
    "DELETE FROM genomes WHERE rowid = 1",
    "DELETE FROM meta WHERE name = 'about'",
    "UPDATE meta SET value = '{}' WHERE name = 'recipe'",
    "DELETE FROM ledger",
    "UPDATE ledger SET body = replace(body, '15', '14')",
    "DROP TABLE species",
])  # fmt: skip
def test_rows_that_vanish_move_or_appear_are_noticed(finished: Path, tmp_path: Path, statement: str) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "toy"))
    truth = readings(folder)
    db = sqlite3.connect(folder / "run.sqlite", isolation_level=None)
    db.execute(statement)
    db.close()
    found = readings(folder)
    assert not wrong(found, truth) and len(found) < len(truth)
    with pytest.raises(DataError, match="is damaged"):
        Store.open(folder, write=True)


def test_a_flipped_bit_or_a_cut_in_weights_is_always_noticed(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "toy"))
    with Store.open(folder) as store:
        sha = next(estimate.weights for estimate in store.estimates().values() if estimate.weights)
        path = folder / "weights" / f"{sha}.safetensors"
        data = path.read_bytes()
        assert store.weights(sha) == data
        for place in range(len(data)):
            with flipped(path, place, place % 8), pytest.raises(DataError, match=f"{sha}.safetensors is damaged"):
                store.weights(sha)
        for length in range(len(data)):
            path.write_bytes(data[:length])
            with pytest.raises(DataError, match="is damaged"):
                store.weights(sha)


@pytest.mark.parametrize("name", ["recipe.yaml", "tip"])
def test_damage_to_the_small_files_is_warned_of_and_no_value_changes(finished: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "toy"))
    truth, path = readings(folder), folder / name
    data = path.read_bytes()
    for place in range(len(data)):
        with flipped(path, place, place % 8), pytest.warns(StoreWarning, match=name):
            Store.open(folder).close()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.warns(StoreWarning, match=name):
            found = readings(folder)
        assert found == truth
        if length == 7:
            break
    path.unlink()
    with pytest.warns(StoreWarning, match=name):
        assert readings(folder) == truth
    with pytest.warns(StoreWarning, match=name):
        Store.open(folder, write=True).close()
    with Store.open(folder) as store:
        assert "damage" in {event["kind"] for event in store.events()}


# --------------------------------------------------------------------------------------- the log of a killed writer


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder as a kill leaves it, most of it in the log, and what readers saw after each of its commits."""
    place = tmp_path_factory.mktemp("crashed")
    folder, image, history = place / "live" / "toy", place / "image" / "toy", []
    with Store.create(folder, RECIPE, ABOUT) as store:
        history.append(readings(folder))
        real = store._write_tip

        def seen(commits: int) -> None:
            real(commits)
            history.append(readings(folder))

        store._write_tip = seen  # type: ignore[method-assign]
        advance(store, 3)
        shutil.copytree(folder, image)
    assert (image / "run.sqlite-wal").stat().st_size > 50_000
    return image, history


def test_a_killed_writers_log_is_read_whole_and_left_alone(
    crashed: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    image, history = crashed
    folder = Path(shutil.copytree(image, tmp_path / "toy"))
    before = {name: (folder / name).read_bytes() for name in ("run.sqlite", "run.sqlite-wal", "tip")}
    assert readings(folder) == history[-1]
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_flipped_bit_in_the_log_gives_the_truth_or_an_older_truth_with_a_warning(
    crashed: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(crashed[0], tmp_path / "toy"))
    places = flips(folder / "run.sqlite-wal", 150, seed=4)
    assert sum(_log_reading(folder, crashed[1], place, bit) for place, bit in places) > 150


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_flipped_bit_anywhere_in_the_log(crashed: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(crashed[0], tmp_path / "toy"))
    places = flips(folder / "run.sqlite-wal", 0, seed=5)[::37]
    assert sum(_log_reading(folder, crashed[1], place, bit) for place, bit in places) > 0.9 * len(places)


def _log_reading(folder: Path, history: list[dict[str, Any]], place: int, bit: int) -> bool:
    """Whether a flipped bit in the log made the store fall back; fails unless what it gave was true at some moment."""
    (folder / "run.sqlite-shm").unlink(missing_ok=True)
    with flipped(folder / "run.sqlite-wal", place, bit), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", StoreWarning)
        found = readings(folder)
    if not found or found == history[-1]:
        return False
    assert found in history, f"bit {bit} of byte {place}"
    assert any("commits are gone" in str(one.message) for one in warned), f"bit {bit} of byte {place}"
    return True


def test_a_cut_log_gives_an_older_truth_with_a_warning_and_the_run_goes_on(
    crashed: tuple[Path, list[dict[str, Any]]], tmp_path: Path, calm: tuple[State, str]
) -> None:
    image, history = crashed
    data = (image / "run.sqlite-wal").read_bytes()
    for number, length in enumerate([*range(0, len(data), 30011), len(data) - 1]):
        folder = Path(shutil.copytree(image, tmp_path / str(number) / "toy"))
        (folder / "run.sqlite-wal").write_bytes(data[:length])
        with pytest.warns(StoreWarning, match="commits are gone"):
            found = readings(folder)
        assert found in history[:-1]
        with pytest.warns(StoreWarning, match="commits are gone"):
            assert search(folder) == calm[0]
        assert digest(folder) == calm[1]
        shutil.rmtree(folder)


def test_a_lost_log_is_noticed(crashed: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(crashed[0], tmp_path / "toy"))
    for name in ("run.sqlite-wal", "run.sqlite-shm"):
        (folder / name).unlink()
    with pytest.warns(StoreWarning, match="commits are gone"):
        assert readings(folder) == crashed[1][0]


def test_a_damaged_database_under_a_log_is_noticed(crashed: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(crashed[0], tmp_path / "toy"))
    truth = crashed[1][-1]
    for place, bit in flips(folder / "run.sqlite", 50, seed=6):
        (folder / "run.sqlite-shm").unlink(missing_ok=True)
        with flipped(folder / "run.sqlite", place, bit):
            assert not wrong(readings(folder), truth), f"bit {bit} of byte {place}"


# ------------------------------------------------------------------------------------------------- other processes


def test_a_second_writer_is_refused_within_a_second_and_told_who_has_the_folder(folder: Path) -> None:
    search(folder, generations=1)
    ready, wait = os.pipe(), os.pipe()

    def work() -> None:
        with Store.open(folder, write=True):
            os.write(ready[1], b"x")
            os.read(wait[0], 1)

    child = fork(work)
    os.read(ready[0], 1)
    begin = time.monotonic()
    with pytest.raises(LockedError, match=f"in use by process {child} on host {socket.gethostname()}") as caught:
        Store.open(folder, write=True)
    assert time.monotonic() - begin < 1 and caught.value.exit_code == 73
    with Store.open(folder) as reader:
        assert reader.locked() and len(reader.generations()) == 1
    os.kill(child, signal.SIGKILL)
    ended(child)
    begin = time.monotonic()
    with Store.open(folder, write=True) as store:
        assert time.monotonic() - begin < 1 and len(store.generations()) == 1
    for pipe in (*ready, *wait):
        os.close(pipe)


def test_a_second_writer_in_the_same_process_is_refused_too(folder: Path) -> None:
    with Store.create(folder, RECIPE, ABOUT) as store:
        with pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
            Store.open(folder, write=True)
        store.event("still", "writing")
    assert not Store.open(folder, write=True).close()


def test_two_creators_at_once_make_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "toy"

    def work() -> None:
        try:
            search(folder, generations=2)
        except LockedError:
            os._exit(73)

    statuses = [ended(child) for child in [fork(work) for _ in range(4)]]
    assert statuses.count(0) >= 1 and set(statuses) <= {0, 73}
    search(folder, generations=2)


def test_readers_see_whole_generations_while_a_writer_is_at_work(folder: Path) -> None:
    Store.create(folder, RECIPE, ABOUT).close()
    child = fork(lambda: void(search(folder, generations=60)))
    with Store.open(folder) as long:
        seen, alive = [0], True
        while alive:
            alive = os.waitpid(child, os.WNOHANG)[0] == 0
            for reader in (long, Store.open(folder)):
                generations = len(reader.generations())
                estimates, individuals = reader.estimates(), reader.individuals(None, Toy.from_json)
                assert generations >= seen[-1] and 5 * generations <= len(estimates) <= len(individuals)
                state = reader.load_state(Toy.from_json)
                assert state is None or state.generation >= generations
                seen.append(generations)
                if reader is not long:
                    reader.close()
    assert seen[-1] == 60 and len(set(seen)) > 3
    Store.open(folder, write=True).close()
    assert not (folder / "run.sqlite-wal").exists()


def void(_: object) -> None:
    """Drops a value."""
