"""`evonas verify`: sound runs of every kind follow, and every kind of falsehood is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evonas
from evonas import cli
from evonas.core import DataError, dumps, loads
from evonas.report.progress import Progress
from evonas.store import Store
from evonas.verify import Verdict, verify
from tests.contract.test_resume import HEIRS, LOOKUP, NEAT, SIDES

SMALL: dict[str, Any] = {**LOOKUP, "strategy": {"kind": "nsga2", "population": 8, "generations": 5}}
MORPHS = {"mutations": "morphisms", "bounds": {"params": "60k", "flops": "6M"}}
TUNED: dict[str, Any] = {
    **NEAT,
    "encoding": {**NEAT["encoding"], "feed_forward": True},
    "estimator": {"kind": "population", "threads": 1, "fine_tune": {"steps": 2, "inherit": "lamarckian"}},
}
"""Training changes genes, so that who is born is not whom the next are born of."""
RUNS: dict[str, dict[str, Any]] = {
    "nsga2": SMALL,
    "inherited": HEIRS,
    "neat": NEAT,
    "neat, all kept": {**NEAT, "store": {"individuals": "all"}},
    "populations kept one by one": SIDES,
    "tuned genes, all kept": {**TUNED, "store": {"individuals": "all"}},
    "window": {
        **LOOKUP,
        "strategy": {"kind": "regularized", "population": 6, "sample": 3, "generations": 20, "window": 4},
    },
    "lemonade": {
        **LOOKUP,
        "encoding": MORPHS,
        "strategy": {"kind": "lemonade", "population": 4, "generations": 5, "window": 2},
    },
    "budget": {**SMALL, "budget": {"evaluations": 21}},
    "founders": {**SMALL, "encoding": {**LOOKUP["encoding"], "initial": ["lenet-5"], "bounds": {"params": "200k"}}},
}


class Killed(BaseException):
    """Stands for a kill."""


def killed(recipe: dict[str, Any], runs: Path, messages: int) -> Path:
    """A run whose driver died when its observer had been told so often, or at its end where fewer messages came: of
    estimates that arrive together, as on a fast machine, one message tells."""
    heard = 0

    def dies(progress: Progress) -> None:
        nonlocal heard
        heard += 1
        if heard == messages or progress.kind == "end":
            raise Killed

    with pytest.raises(Killed):
        evonas.start(recipe, name="killed", runs=runs, observer=dies)
    return runs / "killed"


def image(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", RUNS)
def test_a_sound_run_follows_to_its_end(tmp_path: Path, kind: str) -> None:
    folder = evonas.start(RUNS[kind], name="run", runs=tmp_path).folder
    before = image(folder)
    found = verify(folder)
    assert found.sound, found.problems
    assert (found.first, found.followed, found.ahead) == (0, found.generations, 0)
    with Store.open(folder) as store:
        assert found.generations == len(store.generations()) > 2
        assert found.individuals == len(store.individuals(None, lambda data: data)) > 0  # type: ignore[arg-type, return-value]
    assert image(folder) == before, "nothing may be changed"


KILLS = [
    ("nsga2", 3), ("nsga2", 12), ("inherited", 9), ("neat", 5), ("populations kept one by one", 3), ("window", 14),
    ("lemonade", 9),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "messages"), KILLS)
def test_a_run_that_was_killed_follows_as_far_as_it_came(tmp_path: Path, kind: str, messages: int) -> None:
    folder = killed(RUNS[kind], tmp_path, messages)
    found = verify(folder)
    assert found.sound, found.problems
    with Store.open(folder) as store:
        assert found.followed == found.generations == len(store.generations())
        assert found.individuals + found.ahead == len(store.born_since(0))
    evonas.resume(folder)
    assert verify(folder).sound


def test_where_training_changed_genes_that_are_not_kept_the_oldest_state_is_the_beginning(tmp_path: Path) -> None:
    found = verify(evonas.start(TUNED, name="run", runs=tmp_path).folder)
    assert found.sound and found.first == 6 and found.followed == 2 and found.generations == 8
    assert found.why_not_all == "training changed genes, and not everyone's are kept"


def test_a_run_whose_limits_were_changed_follows_recipe_by_recipe(tmp_path: Path) -> None:
    folder = evonas.start(RUNS["budget"], name="run", runs=tmp_path).folder
    evonas.resume(folder, overrides={"budget.evaluations": "30"})
    evonas.resume(folder, overrides={"budget.evaluations": "null", "strategy.generations": "7"})
    found = verify(folder)
    assert found.sound and found.generations == 7, found.problems


def test_a_run_that_went_on_past_its_goal_follows(tmp_path: Path) -> None:
    goal = {**NEAT, "strategy": {**NEAT["strategy"], "goal": {"fitness": 5.5}}}
    folder = evonas.start(goal, name="run", runs=tmp_path).folder
    with evonas.open(folder) as run:
        assert run.solved is not None
        stopped = len(run.generations())
    evonas.resume(folder, generations=stopped + 3)
    found = verify(folder)
    assert found.sound and found.generations == stopped + 3, found.problems


def test_a_run_in_which_everything_failed_and_that_went_on_follows(tmp_path: Path) -> None:
    module = tmp_path / "broken.py"
    module.write_text("def values(genome, plan):\n    raise ValueError('no table today')\n")
    recipe = {**SMALL, "estimator": {"kind": "lookup", "function": f"{module}:values"}}
    with pytest.raises(evonas.EvonasError, match="all 8 networks"):
        evonas.start(recipe, name="run", runs=tmp_path, allow_code=True)
    module.write_text("def values(genome, plan):\n    return {'params': plan.params, 'flops': plan.flops}\n")
    from evonas import imported

    imported.found.cache_clear()
    evonas.resume(tmp_path / "run", allow_code=True)
    found = verify(tmp_path / "run", allow_code=True)
    assert found.sound and found.followed == 5, found.problems


# ---------------------------------------------------------------------------------------------------- falsehoods


def falsify(folder: Path, table: str, key: int, change: Callable[[list[Any]], None]) -> None:
    """Changes a row as a program would that keeps hashes and ledger right; `change` gets its columns after the key."""
    with Store.open(folder, write=True) as store, store._transaction() as ledger:
        row = list(store._find(table, [key])[key])
        store._delete(ledger, table, f"{'id' if table in ('individuals', 'estimates') else 'generation'} = ?", key)
        cells = row[1:]
        change(cells)
        store._insert(ledger, table, [(key, *cells)])


def _json(at: int, change: Callable[[Any], Any]) -> Callable[[list[Any]], None]:
    def changed(cells: list[Any]) -> None:
        cells[at] = dumps(change(loads(cells[at])))

    return changed


def _swapped(one: Any, other: Any) -> Callable[[list[Any]], None]:
    return lambda cells: cells.__setitem__(one, other)


FALSEHOODS: dict[str, tuple[str, int, Callable[[list[Any]], None], str]] = {
    "estimate": ("estimates", 11, _json(1, lambda told: {**told, "params": 1.0, "flops": 1e9}), r"generation 2: front"),
    "status": ("estimates", 9, _swapped(0, "failed"), r"generation [23]: "),
    "parents": ("individuals", 12, _swapped(2, "[0]"), r"individual 12 of generation 2: parents"),
    "birth": ("individuals", 12, _swapped(0, 3), r"individual 12 of generation 2: birth: 3 is stored, 1 follows"),
    "edits": ("individuals", 12, _swapped(3, "[]"), r"individual 12 of generation 2: edits"),
    "front": ("fronts", 3, _swapped(0, "[1]"), r"generation 3: front"),
    "species": (
        "species",
        4,
        _json(0, lambda all: [{**all[0], "born": 3}, *all[1:]]),
        r"generation 4: species 1, born",
    ),
    "row": ("generations", 2, _swapped(0, 99), r"generation 2: evaluations: 99 is stored, 16 follows"),
    "statistics": (
        "generations",
        2,
        _json(4, lambda told: {**told, "failed": 7}),
        r"generation 2: failed: 7 is stored, 0",
    ),
    "hypervolume": ("generations", 5, _swapped(1, 0.25), r"generation 5: hypervolume: 0.25 is stored"),
    "state": (
        "states",
        4,
        _json(0, lambda told: {**told, "next_id": 99}),
        r"state 4: next_id: 99 is stored, 32 follows",
    ),
}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evonas.start(SMALL, name="calm", runs=tmp_path_factory.mktemp("calm")).folder


@pytest.fixture
def own(calm: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calm, tmp_path / "calm"))


@pytest.mark.parametrize("kind", FALSEHOODS)
def test_the_first_difference_is_named(own: Path, kind: str) -> None:
    table, key, change, told = FALSEHOODS[kind]
    falsify(own, table, key, change)
    found = verify(own)
    assert not found.sound and len(found.problems) == 1
    assert re.search(told, found.problems[0]), found.problems[0]


def test_an_individual_too_few_or_too_many_is_named(own: Path, tmp_path: Path) -> None:
    with Store.open(own, write=True) as store, store._transaction() as ledger:
        (row,) = store._find("individuals", [13]).values()
        store._insert(ledger, "individuals", [(99, *row[1:])])
    assert verify(own).problems == ["individual 99 is stored and follows from nothing"]
    with Store.open(own, write=True) as store, store._transaction() as ledger:
        store._delete(ledger, "individuals", "id IN (99, 13)")
    assert "individual 13 of generation 2 is not stored and follows, as genome" in verify(own).problems[0]


def test_a_birth_that_was_lost_under_way_is_named_by_those_after_it(tmp_path: Path) -> None:
    folder = killed(RUNS["window"], tmp_path, 14)
    with Store.open(folder, write=True) as store:
        under_way = store.born_since(store.newest)
        assert len(under_way) > 1
        (lost,) = store.births(under_way[:1]).values()
        with store._transaction() as ledger:
            store._delete(ledger, "individuals", f"id = {lost.id}")
    assert verify(folder).problems == [f"nobody of generation {lost.birth + 1} is stored, and later ones are"]


def test_falsehoods_in_populations_are_named(tmp_path: Path) -> None:
    folder = evonas.start(NEAT, name="run", runs=tmp_path).folder
    with Store.open(folder) as store:
        (champion,) = store.front(1)
    falsify(folder, "estimates", champion, _json(1, lambda told: {**told, "fitness": 0.5}))
    assert f"estimate of individual {champion} of generation 1, values, fitness: 0.5" in verify(folder).problems[0]


def test_other_versions_are_told_where_something_differs(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    falsify(own, "fronts", 3, _swapped(0, "[1]"))
    machine = evonas.run.machine
    monkeypatch.setattr(evonas.run, "machine", lambda whole=False: {**machine(whole), "numpy": "99"})
    assert "the run was made with numpy" in verify(own).problems[0]


def test_a_damaged_row_is_an_error_that_names_the_cure(own: Path) -> None:
    import sqlite3

    with sqlite3.connect(own / "run.sqlite") as db:
        db.execute("UPDATE estimates SET status = 'failed' WHERE id = 7")
    db.close()
    with pytest.raises(DataError, match=r"table estimates, row 7 does not match its hash.*evonas repair calm"):
        verify(own)


def test_weights_that_are_missing_or_damaged_are_named_with_whose_they_are(tmp_path: Path) -> None:
    folder = evonas.start(HEIRS, name="run", runs=tmp_path).folder
    with evonas.open(folder) as run:
        shas = [estimate.weights for estimate in run.state().estimates.values() if estimate.weights]
        owners = run.store.named_weights()
    for sha, damage in zip(shas, ("gone", "cut"), strict=False):
        path = folder / "weights" / f"{sha}.safetensors"
        path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-1])
    found = verify(folder)
    assert sorted(found.problems) == sorted(
        [next(p for p in found.problems if p.startswith(f"weights of individual {owners[sha]}: ")) for sha in shas[:2]]
    )
    assert any("is missing" in one for one in found.problems) and any("is damaged" in one for one in found.problems)


# ------------------------------------------------------------------------------------------------ the command line


def test_the_command_prints_a_verdict(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["verify", str(own)]) == 0
    assert "everything follows" in capsys.readouterr().out
    assert cli.call(["verify", str(own), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sound"] and told["followed"] == 5 and told["individuals"] == 40
    falsify(own, "fronts", 3, _swapped(0, "[1]"))
    assert cli.call(["verify", str(own)]) == 65
    assert "generation 3: front" in capsys.readouterr().err


def test_a_verdict_is_sound_without_problems() -> None:
    assert Verdict("run", 0, 0, {}).sound and not Verdict("run", 0, 0, {}, problems=["x"]).sound
