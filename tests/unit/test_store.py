"""The store as the loop and the reports use it. test_store_faults.py breaks it, with the toy search from here."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from evonas import files, yaml
from evonas import store as store_module
from evonas.core import (
    DataError,
    Edit,
    Estimate,
    Individual,
    LockedError,
    Outcome,
    RecipeError,
    Species,
    State,
    StorageError,
    dumps,
    loads,
    seed_of,
    valid_name,
)
from evonas.encoding.genes import from_json
from evonas.marks import Marks
from evonas.store import FORMAT, Store, state_from_json, state_to_json

RECIPE = {"version": 1, "name": "toy", "seed": 7, "strategy": {"kind": "nsga2", "rate": 1e-3}, "pool": None}
ABOUT = {"evonas": "0.1.0", "threads": 1, "task": {"input": [1, 8, 8], "outputs": 10}}
POPULATION = 5


# --------------------------------------------------------------------------------- a toy search with pure ask and tell


@dataclass(frozen=True)
class Toy:
    """A genome that is a number; ids 10 apart share it, so that genomes repeat within a run."""

    number: int

    @property
    def key(self) -> str:
        return hashlib.sha256(str(self.number).encode()).hexdigest()[:24]

    @property
    def text(self) -> str:
        return dumps({"number": self.number, "genes": [{"mark": 2, "op": "conv"}] * 3})

    @staticmethod
    def from_json(data: Any) -> Toy:
        return Toy(data["number"])


def begin() -> State:
    return State(0, 0, (), {}, (), (), Marks())


def ask(state: State, size: int = POPULATION) -> list[Individual]:
    born = []
    for id in range(state.next_id, state.next_id + size):
        parents = tuple(one.id for one in state.population[: id % 3])
        edits = (Edit("add_edge", (2, id), (id + 3,), {"rate": id / 7}),) if parents else ()
        born.append(Individual(id, Toy(id % 10), parents, edits, state.generation + 1))
    return born


def outcome(individual: Individual) -> Outcome:
    id = individual.id
    if id % 4 == 3:
        return Outcome(Estimate.failed(id, f"loss is NaN in epoch {id}", {"seconds": 0.5}))
    error = seed_of(7, "error", id) / 2**64
    curve = ({"epoch": 1, "loss": error + 1, "seconds": 0.1}, {"epoch": 2, "loss": error, "seconds": 0.2})
    weights = hashlib.sha256(str(id).encode()).digest() * 8 if id % 3 else None
    values = {"params": 100 * id, "error": error}
    return Outcome(Estimate(id, "ok", values, curve=curve, cost={"seconds": 0.3}), weights)


def tell(state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
    everyone = {one.id: one for one in (*state.population, *(individual for individual, _ in scored))}
    estimates = {**state.estimates, **{individual.id: estimate for individual, estimate in scored}}
    ok = sorted((e.values["error"], id) for id, e in estimates.items() if e.status == "ok" and id in everyone)
    best = [id for _, id in ok[:POPULATION]]
    species = tuple(
        Species(i + 1, everyone[best[i]], tuple(best[i::2]), 1, ok[i][0], state.generation)
        for i in range(len(best[:2]))
    )
    return State(
        state.generation + 1,
        scored[-1][0].id + 1,
        tuple(everyone[id] for id in best),
        {id: estimates[id] for id in best},
        tuple(sorted(best[:2])),
        species,
        Marks(9 + state.generation, {(0, 1): 2, (1, 2): 5 + state.generation}, {(0, 1): (3, 4)}),
        state.evaluations + len(scored),
        {"stalled": state.generation, "reference": [1.0, 2.5]},
    )


def advance(store: Store, generations: int, told: Callable[[list[int]], None] = lambda ids: None) -> State:
    """The loop of run.py over the toy search; `told` hears the ids of every commit that has returned."""
    state = store.load_state(Toy.from_json) or begin()
    while state.generation < generations:
        born = ask(state)
        store.lay(born)
        known = store.estimates([one.id for one in born])
        waiting = [one for one in born if one.id not in known]
        for batch in (waiting[2:], waiting[:2]):
            if batch:
                known |= store.commit([outcome(one) for one in batch])
                told([one.id for one in batch])
        state = tell(state, [(one, known[one.id]) for one in born])
        store.commit_generation(state, {"hypervolume": 0.5 * state.generation, "failed": 1})
    return state


def search(folder: Path, generations: int = 3, told: Callable[[list[int]], None] = lambda ids: None) -> State:
    """Starts the toy search in a folder, or goes on with it."""
    begun = (folder / "run.sqlite").exists()
    with Store.open(folder, write=True) if begun else Store.create(folder, RECIPE, ABOUT) as store:
        return advance(store, generations, told)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "toy"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store.create(folder, RECIPE, ABOUT) as store:
        yield store


# ------------------------------------------------------------------------------------------------------ round trips


def test_a_run_comes_back_as_it_was(folder: Path) -> None:
    state = search(folder)
    with Store.open(folder) as store:
        assert store.recipe == RECIPE and store.about == ABOUT
        loaded = store.load_state(Toy.from_json)
        assert loaded == state and list(loaded.memory) == list(state.memory)
        assert store.front() == list(state.front) and store.front(3) == store.front()
        everyone = store.individuals(None, Toy.from_json)
        assert [one.id for one in everyone] == list(range(15))
        assert everyone[:5] == ask(begin())
        for one in everyone:
            assert store.individual(one.id, Toy.from_json) == one
            assert (store.parents(one.id), store.edits(one.id)) == (one.parents, one.edits)
            assert store.genome_json(one.id) == loads(one.genome.text)
            expected = outcome(one).estimate
            stored = store.estimate(one.id)
            assert stored is not None and replace(stored, weights=None) == expected
        assert store.finished() == set(range(15)) and store.finished([3, 99]) == {3}
        assert store.arrivals()[:5] == [2, 3, 4, 0, 1]


def test_equal_genomes_are_stored_and_decoded_once(folder: Path) -> None:
    search(folder)
    decoded: list[Any] = []

    def decode(data: Any) -> Toy:
        decoded.append(data)
        return Toy.from_json(data)

    with Store.open(folder) as store:
        everyone = store.individuals(None, decode)
    assert len(decoded) == 10
    assert everyone[12].genome is everyone[2].genome


def test_individuals_and_estimates_come_in_the_order_asked_for(folder: Path) -> None:
    search(folder)
    with Store.open(folder) as store:
        assert [one.id for one in store.individuals([7, 2, 11], Toy.from_json)] == [7, 2, 11]
        assert list(store.estimates([7, 99, 2])) == [7, 2]


def test_generations_species_and_stats(folder: Path) -> None:
    state = search(folder)
    with Store.open(folder) as store:
        rows = store.generations()
        assert [row["generation"] for row in rows] == [1, 2, 3]
        assert [row["evaluations"] for row in rows] == [5, 10, 15]
        assert [row["hypervolume"] for row in rows] == [0.5, 1.0, 1.5]
        assert all(row["failed"] == 1 and row["seconds"] >= 0 for row in rows)
        newest = store.species(3)
        assert [(one["species"], one["representative"], one["members"]) for one in newest] == [
            (one.id, one.representative.id, list(one.members)) for one in state.species
        ]
        assert len(store.species()) == sum(len(store.species(g)) for g in (1, 2, 3))


def test_before_the_first_generation_everything_is_empty(store: Store) -> None:
    assert store.load_state(Toy.from_json) is None
    assert store.front() == store.front(0) == store.species() == store.species(0) == []
    assert store.generations() == store.events() == store.tests() == []
    assert store.individuals(None, Toy.from_json) == [] and store.estimates() == {}


def test_unknown_ids_and_generations_name_what_there_is(folder: Path) -> None:
    search(folder)
    with Store.open(folder) as store:
        with pytest.raises(RecipeError, match="no individual 15 in toy: the highest id is 14"):
            store.individual(15, Toy.from_json)
        with pytest.raises(RecipeError, match="no generation 4 in toy: it has finished 3"):
            store.front(4)
        assert store.estimate(15) is None


def test_events_and_tests_are_kept_in_order(folder: Path) -> None:
    search(folder)
    with Store.open(folder, write=True) as store:
        store.event("resumed", "at generation 3", {"process": 5})
        store.event("warning", "a name that is no text: \udcff")
        sha = store.record_test(4, 2**64 - 1, {"error": 0.08}, [{"epoch": 1, "loss": 0.5}], {"seconds": 9}, b"final")
        store.record_test(4, 2, {"error": 0.09})
        noted = [(event["kind"], event["data"]) for event in store.events()]
        assert noted == [("resumed", {"process": 5}), ("warning", None)]
        first, second = store.tests()
        assert first["id"] == 4 and first["seed"] == 2**64 - 1 and first["values"] == {"error": 0.08}
        assert first["weights"] == sha and store.weights(first["weights"]) == b"final"
        assert second["weights"] is None and second["curve"] == []


def test_a_state_round_trips_through_json(folder: Path) -> None:
    state = search(folder)
    data = loads(store_module.dumps(state_to_json(state)))
    individuals = {one.id: one for one in (*state.population, *(s.representative for s in state.species))}
    assert state_from_json(data, individuals, state.estimates) == state


# ----------------------------------------------------------------------------------------------- births and estimates


def test_births_laid_again_are_ignored_and_different_ones_refused(store: Store) -> None:
    born = ask(begin())
    store.lay(born)
    before = store.digest()
    store.lay(born)
    assert store.digest() == before
    for other in (replace(born[1], genome=Toy(77)), replace(born[1], birth=9), replace(born[1], parents=(0,))):
        with pytest.raises(DataError, match=r"individual 1 was born as genome .*resume with the evonas version"):
            store.lay([born[0], other])
    assert store.digest() == before


def test_a_second_estimate_is_ignored_and_the_first_returned(store: Store) -> None:
    store.lay(ask(begin()))
    first = store.commit([Outcome(Estimate(2, "ok", {"error": 0.25}), b"first")])
    again = store.commit([Outcome(Estimate(2, "ok", {"error": 0.75}), b"second"), Outcome(Estimate(4, "pruned"))])
    assert again[2] == first[2] == store.estimate(2)
    assert again[4] == Estimate(4, "pruned")
    assert not store.has_weights(hashlib.sha256(b"second").hexdigest())


def test_weights_name_themselves(store: Store) -> None:
    store.lay(ask(begin()))
    sha = hashlib.sha256(b"tensors").hexdigest()
    committed = store.commit([Outcome(Estimate(id, "ok", {"error": 0.5}), b"tensors") for id in (0, 1)])
    assert committed[0].weights == committed[1].weights == sha
    assert store.weights(sha) == b"tensors"
    with pytest.raises(DataError, match="weights of individual 2 changed on their way"):
        store.commit([Outcome(Estimate(2, "ok", weights="0" * 64), b"tensors")])
    assert store.estimate(2) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_never_reach_the_database(store: Store, bad: float) -> None:
    store.lay(ask(begin()))
    fields: list[dict[str, Any]] = [{"values": {"error": bad}}, {"cost": {"seconds": bad}}, {"curve": ({"loss": bad},)}]
    for estimate in (Estimate(0, "ok", **one) for one in fields):
        with pytest.raises(DataError, match="individual 0 is not finite"):
            store.commit([Outcome(estimate)])
    with pytest.raises(ValueError, match="cannot be stored"):
        store.commit_generation(replace(begin(), generation=1), {"hypervolume": bad})
    assert store.estimates() == {} and store.generations() == []


def test_a_row_for_an_individual_that_was_never_laid_is_refused(store: Store) -> None:
    store.lay(ask(begin()))
    with pytest.raises(ValueError, match="never laid"):
        store.commit([Outcome(Estimate(99, "ok"))])
    with pytest.raises(ValueError, match="never laid"):
        store.commit_generation(replace(begin(), generation=1, front=(99,)), {})
    with pytest.raises(ValueError, match="never laid"):
        store.record_test(99, 0, {})


@pytest.mark.parametrize("number", [0.0, -0.0, 1e-308, 1 / 3, 2**53 + 1.0, None])
def test_every_number_keeps_its_hash(folder: Path, number: float | None) -> None:
    with Store.create(folder, RECIPE, ABOUT) as store:
        store.commit_generation(replace(begin(), generation=1), {"hypervolume": number, "seconds": 3})
    with Store.open(folder) as store:
        assert store.generations()[0]["hypervolume"] == number


def test_an_interrupted_transaction_leaves_no_trace(store: Store) -> None:
    store.lay(ask(begin()))
    before = store.digest()

    class Interrupting(Toy):
        @property
        def text(self) -> str:
            raise KeyboardInterrupt

    late = ask(replace(begin(), next_id=5))
    late[-1] = replace(late[-1], genome=Interrupting(8))
    with pytest.raises(KeyboardInterrupt):
        store.lay(late)
    assert store.digest() == before
    store.lay(ask(replace(begin(), next_id=5)))
    assert len(store.individuals(None, Toy.from_json)) == 10


# ------------------------------------------------------------------------------------------------ states and resume


def test_only_the_newest_states_are_kept(folder: Path) -> None:
    search(folder, generations=6)
    with sqlite3.connect(folder / "run.sqlite") as db:
        kept = [generation for (generation,) in db.execute("SELECT generation FROM states")]
    db.close()
    assert kept == [4, 5, 6]


def test_stopping_at_any_point_and_going_on_gives_the_same_digest(folder: Path, tmp_path: Path) -> None:
    state = search(folder)
    with Store.open(folder) as store:
        expected = store.digest()

    class Stop(Exception):
        pass

    for stop in range(1, 6):
        other = tmp_path / "runs" / f"stopped-{stop}"
        heard: list[int] = []

        def told(ids: list[int], heard: list[int] = heard, stop: int = stop) -> None:
            heard.extend(ids)
            if len(heard) >= 3 * stop:
                raise Stop

        with pytest.raises(Stop):
            search(other, told=told)
        assert search(other) == state
        with Store.open(other) as store:
            assert store.digest() == expected


def test_a_damaged_newest_state_gives_way_to_an_older_one_with_a_warning(folder: Path) -> None:
    state = search(folder)
    with Store.open(folder) as store:
        expected = store.digest()
    _edit(folder, "UPDATE states SET body = replace(body, '\"stalled\":2', '\"stalled\":3') WHERE generation = 3")
    warns = pytest.warns(store_module.StoreWarning, match="state 3 is damaged; going on from generation 2")
    with Store.open(folder) as store, warns:
        older = store.load_state(Toy.from_json)
    assert older is not None and older.generation == 2
    with pytest.warns(store_module.StoreWarning, match="going on from generation 2"):
        assert search(folder) == state
    with Store.open(folder) as store:
        assert store.digest() == expected
        assert [event["kind"] for event in store.events()] == ["damage"]


def test_without_an_intact_state_the_run_is_refused(folder: Path) -> None:
    search(folder)
    _edit(folder, "DELETE FROM states")
    with Store.open(folder) as store, pytest.raises(DataError, match="table states"):
        store.load_state(Toy.from_json)


def _edit(folder: Path, statement: str) -> None:
    db = sqlite3.connect(folder / "run.sqlite")
    with db:
        assert db.execute(statement).rowcount > 0
    db.close()


# --------------------------------------------------------------------------------------------------------- digests


def test_the_digest_sees_content_and_not_times(folder: Path, tmp_path: Path) -> None:
    def digest(name: str, estimate: Estimate, **birth: Any) -> str:
        with Store.create(tmp_path / name, RECIPE, ABOUT) as store:
            store.lay([replace(ask(begin())[0], **birth)])
            store.commit([Outcome(estimate)])
            return store.digest(measured=["latency"])

    curve = ({"loss": 1.0, "seconds": 3.0},)
    base = Estimate(0, "ok", {"error": 0.5, "latency": 1.0}, curve=curve, cost={"seconds": 1.0})
    same = [
        replace(base, values={"latency": 2.0, "error": 0.5}),
        replace(base, cost={"seconds": 9.0}),
        replace(base, curve=({"loss": 1.0, "seconds": 4.0},)),
    ]
    other = [
        replace(base, values={"error": 0.6, "latency": 1.0}),
        replace(base, status="failed"),
        replace(base, curve=({"loss": 2.0, "seconds": 3.0},)),
        replace(base, weights="0" * 64),
    ]
    reference = digest("reference", base)
    assert [digest(f"same-{i}", one) for i, one in enumerate(same)] == [reference] * 3
    births = [{"genome": Toy(3)}, {"parents": (0,)}, {"edits": (Edit("x"),)}, {"birth": 2}]
    changed = [digest(f"other-{i}", one) for i, one in enumerate(other)]
    changed += [digest(f"birth-{i}", base, **one) for i, one in enumerate(births)]
    assert len({reference, *changed}) == 1 + len(changed)


# ------------------------------------------------------------------------------------------- weights, recipe, folder


def test_collect_deletes_what_is_not_kept(folder: Path) -> None:
    search(folder)
    with Store.open(folder, write=True) as store:
        shas = [estimate.weights for estimate in store.estimates().values() if estimate.weights]
        (folder / "weights" / "note.txt").write_text("mine")
        freed = store.collect({shas[0]})
        assert freed == 256 * (len(set(shas)) - 1)
        assert [store.has_weights(sha) for sha in shas] == [True] + [False] * (len(shas) - 1)
        assert (folder / "weights" / "note.txt").exists()
        with pytest.raises(DataError, match="is missing"):
            store.weights(shas[1])


def test_the_log_is_durable_before_weights_are_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after it must not bring back a state whose children would inherit what is gone."""
    done: list[str] = []
    sync, unlink = files.sync, os.unlink
    advance(store, 2)
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", lambda path: [done.append(path.name), sync(path)][1])
        patch.setattr(os, "unlink", lambda path: [done.append(Path(path).suffix), unlink(path)][1])
        store.collect({estimate.weights for estimate in store.estimates().values() if estimate.weights})
        assert done == [], "nothing was dead"
        store.collect(set())
    assert done[0] == "run.sqlite-wal" and set(done[1:]) == {".safetensors"}


def test_weights_of_those_born_since(store: Store) -> None:
    advance(store, 2)
    known = store.estimates()
    for first in (0, 5, max(known), max(known) + 1):
        expected = {one.weights for id, one in known.items() if id >= first and one.weights}
        assert store.weights_since(first) == expected
        assert all(store.weights_file(sha).read_bytes() == store.weights(sha) for sha in expected)


@pytest.mark.parametrize("sha", ["", "../../recipe", "0" * 63, "0" * 65, "G" * 64, "0" * 64 + "\n"])
def test_only_a_hash_names_weights(store: Store, sha: str) -> None:
    for ask_for in (store.weights, store.has_weights):
        with pytest.raises(DataError, match="names no weights"):
            ask_for(sha)


def test_recipe_yaml_is_the_recipe_for_people(folder: Path, store: Store) -> None:
    assert yaml.parse((folder / "recipe.yaml").read_text()).data == RECIPE
    store.relimit({**RECIPE, "seed": 8})
    assert yaml.parse((folder / "recipe.yaml").read_text()).data == store.recipe == {**RECIPE, "seed": 8}
    store.close()
    with Store.open(folder) as reader:
        assert reader.recipe["seed"] == 8


def test_an_edited_recipe_is_noticed_and_a_lost_one_written_again(folder: Path) -> None:
    search(folder)
    path = folder / "recipe.yaml"
    text = path.read_text()
    path.write_text(text.replace("7", "8"))
    for write in (False, True):
        with pytest.warns(store_module.StoreWarning, match="recipe.yaml was changed"):
            Store.open(folder, write=write).close()
    path.unlink()
    with pytest.warns(store_module.StoreWarning, match="missing"):
        Store.open(folder, write=True).close()
    assert path.read_text() == text


def test_a_recipe_cut_off_between_database_and_file_is_written_at_the_next_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(folder)
    with Store.open(folder, write=True) as store, monkeypatch.context() as patch:
        patch.setattr(files, "put", _raise_keyboard_interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.relimit({**RECIPE, "seed": 9})
    Store.open(folder, write=True).close()
    assert yaml.parse((folder / "recipe.yaml").read_text()).data == {**RECIPE, "seed": 9}


def _raise_keyboard_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_closed_run_is_one_database_file_that_readers_leave_alone(folder: Path) -> None:
    search(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with Store.open(folder) as store:
        store.digest()
        assert not store.locked()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    names = {path.name for path in folder.iterdir()}
    assert names == {"run.sqlite", "recipe.yaml", "weights", "lock", "tip"}


def test_a_reader_cannot_write(folder: Path) -> None:
    search(folder)
    with Store.open(folder) as store:
        with pytest.raises(StorageError, match="open for reading only"):
            store.event("x", "y")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store._db.execute("DELETE FROM events")


def test_a_folder_that_is_taken_is_refused(folder: Path) -> None:
    search(folder)
    with pytest.raises(LockedError, match=r"holds a run already.*evonas resume toy"):
        Store.create(folder, RECIPE, ABOUT)
    other = folder.with_name("other")
    other.mkdir()
    (other / "thesis.tex").write_text("")
    with pytest.raises(LockedError, match="holds other files"):
        Store.create(other, RECIPE, ABOUT)
    assert os.listdir(other) == ["thesis.tex"]
    file = folder.with_name("file")
    file.write_text("")
    with pytest.raises(LockedError, match="is a file"):
        Store.create(file, RECIPE, ABOUT)


def test_what_is_no_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no run folder.*evonas list"):
        Store.open(tmp_path)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("")
    with pytest.raises(DataError, match="creation was cut short; start the run again"):
        Store.open(folder)
    (folder / "run.sqlite").write_bytes(b"PK\x03\x04" * 1000)
    with pytest.raises(DataError, match="no SQLite database"):
        Store.open(folder)
    (folder / "run.sqlite").unlink()
    other = sqlite3.connect(folder / "run.sqlite")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(DataError, match="no such table: meta"):
        Store.open(folder, write=True)


def test_a_newer_format_names_the_version_it_needs(folder: Path) -> None:
    search(folder)
    row = ("format", '{"format":3,"since":"9.1.0"}')
    db = sqlite3.connect(folder / "run.sqlite")
    with db:
        stamp = store_module._stamp("meta", row)
        db.execute("UPDATE meta SET hash = ?, value = ? WHERE name = 'format'", (stamp, row[1]))
        db.execute("CREATE TABLE novelty (id)")
    db.close()
    message = r"run format 3, this evonas reads formats up to 2: install evonas 9\.1\.0 or newer"
    for write in (False, True):
        with pytest.raises(DataError, match=message):
            Store.open(folder, write=write)


def test_a_schema_with_anything_more_in_it_is_refused(folder: Path) -> None:
    search(folder)
    db = sqlite3.connect(folder / "run.sqlite")
    db.execute("CREATE VIEW v AS SELECT * FROM estimates")
    db.close()
    with pytest.raises(DataError, match="tables are not those of a run"):
        Store.open(folder)


@pytest.mark.parametrize("name", ["digits", "a", "run-2.1_x", "0", "x" * 64, "console", "a.b"])
def test_names_that_are_allowed(name: str) -> None:
    assert valid_name(name) == name


HOSTILE = ["", ".", "..", "a..b", "a/b", "a\\b", ".hidden", "-x", "x" * 65, "a b", "ä", "a\n", "a.", "a:b"]


@pytest.mark.parametrize("name", [*HOSTILE, "con", "NUL.txt", "com1"])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(RecipeError, match="is not allowed"):
        valid_name(name)


def test_create_refuses_a_bad_name_before_it_makes_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        Store.create(tmp_path / "a b", RECIPE, ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_open_and_nothing_is_kept_per_individual(folder: Path) -> None:
    search(folder, generations=2)
    handles = len(os.listdir("/proc/self/fd"))
    for generations in range(3, 9):
        search(folder, generations)
        with Store.open(folder) as store:
            store.digest()
    assert len(os.listdir("/proc/self/fd")) == handles
    with Store.open(folder, write=True) as store:
        size = _held(store)
        advance(store, 20)
        assert _held(store) == size


def _held(store: Store) -> int:
    moving = ("_db", "_lock", "_since", "_shot", "_shot_cost")
    return len(repr({name: value for name, value in vars(store).items() if name not in moving}))


SAMPLE = Path(__file__).resolve().parents[2] / "runs" / "sample-digits"


def test_a_run_of_format_1_is_read_and_brought_up_to_date(tmp_path: Path) -> None:
    """The sample run was written before whole populations had tables."""
    folder = Path(shutil.copytree(SAMPLE, tmp_path / "sample-digits"))
    with Store.open(folder) as store:
        before, form = store.digest(), store._meta["format"]["format"]
        assert store.journal(1) is None and form == 1
    with Store.open(folder, write=True) as store:
        assert store._meta["format"]["format"] == FORMAT
        store.event("looked at", "")
    with Store.open(folder) as store:
        assert store.digest() == before and store._meta["format"]["format"] == FORMAT


@pytest.mark.parametrize("key", [0, -1, 99])
def test_a_state_under_an_impossible_generation_is_damage(tmp_path: Path, key: int) -> None:
    folder = Path(shutil.copytree(SAMPLE, tmp_path / "sample-digits"))
    with sqlite3.connect(folder / "run.sqlite") as db:
        db.execute("UPDATE states SET generation = ? WHERE generation = (SELECT max(generation) FROM states)", (key,))
    db.close()
    with (
        Store.open(folder) as store,
        pytest.warns(store_module.StoreWarning, match="state 12 is damaged; going on from generation 11"),
    ):
        state = store.load_state(from_json)
    assert state is not None and state.generation == 11
