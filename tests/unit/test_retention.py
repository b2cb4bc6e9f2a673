"""Which weights a recipe keeps, and `evonas gc`: what nobody needs goes, what a resume needs stays."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import evonas
from evonas import cli, retention
from evonas.core import DataError, LockedError, RecipeError
from evonas.store import Store
from evonas.verify import verify
from tests.contract.test_resume import HEIRS, LOOKUP, digest
from tests.unit.test_verify import image, killed

TRAIN: dict[str, Any] = {
    "task": {"kind": "digits", "limit": 80},
    "objectives": ["error", "params"],
    "encoding": {"bounds": {"flops": "100k"}},
    "strategy": {"kind": "nsga2", "population": 4, "generations": 3},
    "estimator": {"kind": "train", "epochs": 1},
    "pool": {"kind": "serial"},
}


def there(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "weights").iterdir()}


def kept(tmp_path: Path, recipe: dict[str, Any], **store: Any) -> tuple[Path, set[str]]:
    """A run under a policy, and the weights that are in its folder."""
    folder = evonas.start({**recipe, "store": store}, name=f"run-{len(list(tmp_path.iterdir()))}", runs=tmp_path).folder
    return folder, there(folder)


# ------------------------------------------------------------------------------------------------------- policies


def test_policies_keep_what_they_say(tmp_path: Path) -> None:
    folder, everyone = kept(tmp_path, TRAIN, keep_weights="all")
    with evonas.open(folder) as run:
        owners, state = run.store.named_weights(), run.state()
        assert state is not None and everyone == set(owners)
        front = {one.weights for one in state.estimates.values()}
        best = {
            min((state.estimates[id] for id in state.front), key=lambda one: (one.values[name], one.id)).weights
            for name in ("error", "params")
        }
        knee = run.knee()
        heads = {state.estimates[min(one.members, key=lambda id: state.estimates[id].values["error"])].weights
                 for one in state.species}  # fmt: skip
        youngest = run.store.weights_born(2)
    assert kept(tmp_path, TRAIN)[1] == front
    champions = best | heads | ({state.estimates[knee].weights} if knee is not None else set())
    assert kept(tmp_path, TRAIN, keep_weights="champions")[1] == champions <= front
    assert kept(tmp_path, TRAIN, keep_weights="champions", keep_generations=1)[1] == champions | youngest
    assert kept(tmp_path, TRAIN, keep_generations=3)[1] == everyone > front


def test_where_weights_are_inherited_champions_leave_the_population_its_own(tmp_path: Path) -> None:
    whole, few = kept(tmp_path, HEIRS), kept(tmp_path, HEIRS, keep_weights="champions")
    assert few[1] == whole[1]
    longer = {**HEIRS, "strategy": {**HEIRS["strategy"], "generations": 4}}
    evonas.resume(few[0], generations=4)
    assert digest(few[0]) == digest(evonas.start(longer, name="longer", runs=tmp_path).folder)


def test_an_unknown_policy_is_refused_with_those_there_are() -> None:
    with pytest.raises(RecipeError, match="known: champions, front, all"):
        evonas.start({**LOOKUP, "store": {"keep_weights": "champion"}}, runs="nowhere")


# ------------------------------------------------------------------------------------------------------------- gc


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evonas.start(HEIRS, name="calm", runs=tmp_path_factory.mktemp("calm")).folder


@pytest.fixture
def littered(calm: Path, tmp_path: Path) -> Path:
    """A finished run with everything beside it that may be left behind."""
    folder = Path(shutil.copytree(calm, tmp_path / "calm"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.tex").write_text("mine")
    (folder / "weights" / f"{'0' * 64}.safetensors").write_bytes(b"x" * 1000)
    (folder / "weights" / "note.txt").write_text("mine")
    (folder / "weights" / f"{'1' * 64}.safetensors.tmp").write_bytes(b"x" * 500)
    (folder / "recipe.yaml.tmp").write_bytes(b"x" * 50)
    (folder / "scratch" / "rows").mkdir(parents=True)
    (folder / "scratch" / "rows" / "x_train").write_bytes(b"x" * 2000)
    (folder / "scratch" / "link").symlink_to(outside)
    (folder / "run.format-1.sqlite").write_bytes(b"x" * 3000)
    with Store.open(folder, write=True) as store:
        store.event("noise", "x" * 400_000)
        with store._transaction() as ledger:
            store._delete(ledger, "events", "kind = 'noise' AND number >= ?", 0)
    # opening for writing takes unfinished files away
    (folder / "weights" / f"{'1' * 64}.safetensors.tmp").write_bytes(b"x" * 500)
    (folder / "recipe.yaml.tmp").write_bytes(b"x" * 50)
    return folder


def test_a_dry_run_says_what_goes_and_changes_nothing(littered: Path) -> None:
    before = image(littered)
    found = retention.gc(littered, dry_run=True)
    assert image(littered) == before
    assert {kind: count for kind, (count, _) in found.by_kind.items()} == {
        "weights": 1, "unfinished": 2, "scratch": 1, "older format": 1,
    }  # fmt: skip
    assert found.by_kind["unfinished"][1] == 550 and found.by_kind["scratch"][1] >= 2000
    assert found.spare > 300_000
    assert found.before == sum(map(len, before.values())) + (littered / "scratch" / "link").lstat().st_size


def test_what_nobody_needs_goes_and_all_else_stays(littered: Path, calm: Path, tmp_path: Path) -> None:
    planned = retention.gc(littered, dry_run=True)
    found = retention.gc(littered)
    assert [one.path for one in found.litter] == [one.path for one in planned.litter]
    assert not any(one.path.exists() for one in found.litter)
    assert there(littered) == there(calm) | {"note"}
    assert (tmp_path / "outside" / "thesis.tex").read_text() == "mine"
    assert found.after == sum(map(len, image(littered).values())) < found.before - 300_000
    assert abs(found.after - planned.after) < 20_000
    assert digest(littered) == digest(calm) and verify(littered).sound
    again = retention.gc(littered)
    assert not again.litter and not again.spare and again.before == again.after == found.after


@pytest.mark.parametrize("messages", [2, 5, 9, 13])
@pytest.mark.parametrize("policy", ["front", "champions", "all"])
def test_a_run_that_was_killed_and_collected_goes_on_as_if_nothing_had_been(
    tmp_path: Path, messages: int, policy: str
) -> None:
    recipe = {**HEIRS, "store": {"keep_weights": policy}}
    expected = digest(evonas.start(recipe, name="calm", runs=tmp_path).folder)
    folder = killed(recipe, tmp_path, messages)
    retention.gc(folder)
    assert digest(evonas.resume(folder).folder) == expected


def test_weights_that_parents_of_a_window_left_behind_stay(tmp_path: Path) -> None:
    strategy = {"kind": "lemonade", "population": 3, "offspring": 2, "proposals": 4, "generations": 5, "window": 3}
    recipe = {**HEIRS, "strategy": strategy}
    expected = digest(evonas.start(recipe, name="calm", runs=tmp_path).folder)
    folder = killed(recipe, tmp_path, 12)
    retention.gc(folder)
    assert digest(evonas.resume(folder).folder) == expected


def test_founders_weights_stay_until_they_were_trained(tmp_path: Path, calm: Path) -> None:
    shutil.copytree(calm, tmp_path / "calm")
    with evonas.open(calm) as run:
        (first, *_) = run.front()
    recipe = {**HEIRS, "encoding": {**HEIRS["encoding"], "initial": [f"run:calm/{first.id}"]}}
    expected = digest(evonas.start(recipe, name="whole", runs=tmp_path).folder)
    folder = killed(recipe, tmp_path, 2)
    brought = there(folder)
    assert brought
    retention.gc(folder)
    assert there(folder) == brought
    assert digest(evonas.resume(folder).folder) == expected


def test_a_run_that_somebody_writes_is_refused(littered: Path) -> None:
    with Store.open(littered, write=True), pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
        retention.gc(littered, dry_run=True)


@pytest.mark.parametrize("alive", [True, False])
def test_a_damaged_folder_is_left_alone(littered: Path, alive: bool) -> None:
    """Damage to the living shows at once, that to the dead when the writer has cleared unfinished files away."""
    with evonas.open(littered) as run:
        state = run.state()
        assert state is not None
        damaged = min(row.id for row in run.individuals() if (row.id in state.estimates) is alive)
    with sqlite3.connect(littered / "run.sqlite") as db:
        assert db.execute("UPDATE estimates SET weights = NULL WHERE id = ?", (damaged,)).rowcount == 1
    db.close()
    before = image(littered)
    with pytest.raises(DataError, match="evonas repair calm"):
        retention.gc(littered)
    assert image(littered) == {name: data for name, data in before.items() if alive or not name.endswith(".tmp")}


def test_the_command_says_sizes_before_and_after(littered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["gc", str(littered), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dry_run"] and {one["path"] for one in told["files"]} >= {"scratch", "recipe.yaml.tmp"}
    assert cli.call(["gc", str(littered)]) == 0
    assert " before, " in capsys.readouterr().out
    assert cli.call(["gc", str(littered)]) == 0
    assert "nothing  to collect" in capsys.readouterr().out
