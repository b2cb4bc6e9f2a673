"""Studies: the file, the results that survive a kill, what is told of them, and the command."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import evonas
from evonas import pareto, studies, yaml
from evonas.core import DataError, EvonasError, LockedError, Objective, RecipeError, StorageError
from evonas.recipe import InvalidRecipe
from evonas.report import studies as told
from evonas.simulate import Simulator
from evonas.studies import engine, ledger, looks, statistics, workers
from evonas.studies.ledger import Ledger
from evonas.studies.looks import Looks
from tests import tables
from tests.conftest import Call

ROOT = Path(__file__).resolve().parents[2]
RANDOM = {"strategy": {"kind": "random", "population": 1}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tables.written(tmp_path)


def plan(file: Path, **keys: Any) -> dict[str, Any]:
    """A study of random search against regularised evolution on the small table."""
    return {
        "study": "small",
        "recipe": tables.recipe(file),
        "seeds": 6,
        "arms": {"random": RANDOM, "regularized": {}},
        "baseline": "random",
        "report": {"metric": "test", "direction": "max", "at": [10, 20]},
        **keys,
    }


def done(data: dict[str, Any], tmp_path: Path, **options: Any) -> Any:
    return evonas.study(data, runs=tmp_path / "runs", **{"workers": 1, **options})


def content(found: Any) -> list[tuple[Any, ...]]:
    """Everything that is told, for comparisons."""
    return [tuple(row) for row in told.long(found).rows]


# ------------------------------------------------------------------------------------------------------------ the file


def mistakes(data: Any, **changes: Any) -> list[str]:
    with pytest.raises(InvalidRecipe) as found:
        studies.read({**data, **changes})
    return list(found.value.mistakes)


def test_arms_are_changes_to_one_recipe_and_tasks_a_second_axis(file: Path) -> None:
    data = plan(
        file,
        tasks={"early": {}, "late": {"estimator": {"epochs": 20}, "report": {"over": "seconds", "at": "1k"}}},
        arms={"random": RANDOM | {"seeds": [3, 9]}, "wide": {"strategy": {"population": 8}}},
    )
    study = studies.read(data)
    cells = {(cell.arm, cell.task): cell for cell in study.cells}
    assert list(cells) == [("random", "early"), ("wide", "early"), ("random", "late"), ("wide", "late")]
    assert [cell.recipe.estimator.epochs for cell in cells.values()] == [4, 4, 20, 20]
    assert cells["random", "early"].seeds == (3, 9) and cells["wide", "early"].seeds == tuple(range(6))
    wide = cells["wide", "late"].recipe.strategy
    assert (wide.kind, wide.population, wide.sample) == ("regularized", 8, 2)
    # another kind keeps what it has itself, and drops what only the old one had
    other = cells["random", "late"].recipe.strategy
    assert (other.kind, other.generations, hasattr(other, "sample")) == ("random", 1000, False)
    assert (cells["wide", "late"].report.over, cells["wide", "late"].report.at) == ("seconds", (1000.0,))
    assert cells["wide", "early"].report.at == (10.0, 20.0)


def test_the_base_may_be_a_recipes_file_whose_paths_are_its_own(file: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    shutil.copy(file, tmp_path / "recipes" / "table.npz")
    (tmp_path / "recipes" / "base.yaml").write_text(yaml.dump(tables.recipe("table.npz")))
    data = {key: value for key, value in plan(file).items() if key not in ("study", "recipe")}
    (tmp_path / "mine.yaml").write_text(yaml.dump({"recipe": "recipes/base.yaml", **data}))
    study = studies.read(tmp_path / "mine.yaml")
    assert study.name == "mine"
    assert {cell.recipe.task.file for cell in study.cells} == {tmp_path / "recipes" / "table.npz"}


def test_mistakes_are_told_all_at_once_with_their_lines(file: Path, tmp_path: Path) -> None:
    text = "\n".join([
        "recipe:",
        f"  task: {{kind: tabular, file: {file}, key: {{column: ops}}, metrics: {{error: early}}}}",
        "  encoding: {kind: cell, nodes: 2, ops: [none, skip, conv_3x3]}",
        "  objectives: [error]",
        "  estimator: {kind: lookup}",
        "  objectifs: [error]",
        "tasks:",
        "  one: {budget: {evaluation: 9}}",
        "arms:",
        "  random: {strategy: {kind: randm}}",
        "  regularized: {strategy: {kind: regularized, populaton: 5}}",
        "baseline: rendom",
        "report: {metric: tst}",
    ])  # fmt: skip
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRecipe) as found:
        studies.read(path)
    lines = [line.removeprefix(f"{path}:") for line in found.value.mistakes]
    assert [line.partition(":")[0] for line in lines] == ["6", "8", "10", "11", "12"]
    for line, words in zip(lines, [
        "recipe.objectifs: not known; did you mean 'objectives'?",
        "tasks.one.budget.evaluation: not known; did you mean 'evaluations'?",
        "arms.random.strategy.kind: 'randm' is not known; did you mean 'random'?",
        "arms.regularized.strategy.populaton: not known; did you mean 'population'?",
        "baseline: 'rendom' is no arm; did you mean 'random'?",
    ], strict=True):  # fmt: skip
        assert words in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": {}}, "arms: "),
        ({"armz": {}}, "armz: not known; did you mean 'arms'?"),
        ({"arms": {"a/b": {}}}, "not allowed"),
        ({"arms": {"a": {"seed": 3}}}, "arms.a.seed: not known; did you mean 'seeds'?"),
        ({"seeds": [1, 2, 1]}, "seed 1 is listed twice"),
        ({"seeds": 0}, "seeds: 0 is not allowed"),
        ({"seeds": True}, "seeds: true is not allowed"),
        ({"report": {"metric": "tset"}}, "report.metric: 'tset' is neither in task.report nor an objective"),
        ({"report": {"metric": "test"}}, "report.direction: missing: min or max"),
        ({"report": {"metric": "error", "direction": "max"}}, "objective 'error' is minimised: leave direction out"),
        ({"report": {"at": [0]}}, "report.at.0: 0 is not allowed: must be"),
        ({"report": {"over": "days"}}, "report.over: 'days' is not known"),
        ({"hypervolume": {"log10": ["param"]}}, "hypervolume.log10.0: 'param' is no objective"),
        ({"hypervolume": {"reference": {"params": 3}}}, "misses the objective 'error'"),
        ({"hypervolume": {"reference": 0.5}}, "hypervolume.reference: 0.5 is not allowed"),
        ({"arms": {"a": {"published": {"x": 1}}}}, "arms.a.published.x: no task of this name"),
        ({"tasks": {"x": {"report": {"att": 3}}}}, "tasks.x.report.att: not known; did you mean 'at'?"),
        ({"tasks": {"x": {"report": 3}}}, "tasks.x.report: 3 is not allowed: must be a section"),
        ({"recipe": 3}, "recipe: 3 is not allowed"),
        ({"arms": {"a": {"encoding": {"kind": "neat"}, "strategy": {"kind": "grid"}}}}, "strategy.kind: 'grid' needs"),
    ],
)  # fmt: skip
def test_what_a_study_file_must_not_say(file: Path, changes: dict[str, Any], words: str) -> None:
    assert any(words in line for line in mistakes(plan(file), **changes)), mistakes(plan(file), **changes)


def test_a_bad_study_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("recipe: {task: {kind: digts}, objectives: [error]}\narms: {a: {}}\n")
    heavy = ["torch", "deap", "sklearn", "moocore", "pymoo", "matplotlib", "scipy", "networkx", "numpy"]
    code = (
        "import sys; from evonas import cli\n"
        f"code = cli.call(['study', {str(tmp_path / 'bad.yaml')!r}])\n"
        f"print(code, [name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stderr.splitlines()[-1] == "2 []"
    assert "did you mean 'digits'?" in ended.stderr


# --------------------------------------------------------------------------------------------------- carrying it out


def test_searches_are_those_of_the_simulator(file: Path, tmp_path: Path) -> None:
    found = done(plan(file), tmp_path)
    test = tables.columns()["test"]
    for cell in found.study.cells:
        searched = Simulator(cell.recipe)
        for i, seed in enumerate(cell.seeds):
            trace = searched.search(seed)
            for at in (1, 7, 20):
                losses = trace.losses[:at, 0]
                value = test[trace.rows[int(np.argmin(losses))]]
                assert found.values(cell, "metric", [at])[i, 0] == value
        told_of = [one for one in found.summaries() if one.arm == cell.arm and one.at == 20]
        values = found.values(cell, "metric", [20])[:, 0]
        assert told_of[0].mean == pytest.approx(values.mean()) and told_of[0].n == 6
        assert told_of[0].deviation == pytest.approx(values.std(ddof=1))


def test_what_is_there_is_kept_and_more_seeds_only_add(file: Path, tmp_path: Path) -> None:
    found = done(plan(file), tmp_path)
    path = found.folder / "results.jsonl"
    before = path.read_bytes()
    assert content(done(plan(file), tmp_path)) == content(found)
    assert path.read_bytes() == before
    more = done(plan(file), tmp_path, seeds=9)
    assert path.read_bytes().startswith(before) and more.searches == 18
    assert content(more) == content(done(plan(file, seeds=9), tmp_path / "other"))
    assert content(done(plan(file), tmp_path)) == content(found)


def test_processes_give_the_same_as_one(file: Path, tmp_path: Path) -> None:
    alone = done(plan(file, seeds=12), tmp_path / "alone")
    together = done(plan(file, seeds=12), tmp_path / "together", workers=2)
    assert content(together) == content(alone)


def test_a_changed_arm_is_done_again_and_the_others_are_kept(file: Path, tmp_path: Path) -> None:
    first = done(plan(file), tmp_path)
    asked: list[tuple[str, int]] = []

    def watch(progress: engine.StudyProgress) -> None:
        asked.extend(
            [(arm, there) for (arm, _), (there, _) in progress.counts.items()] if progress.kind == "start" else []
        )

    arms = {"random": RANDOM, "regularized": {"strategy": {"sample": 3}}}
    changed = done(plan(file, arms=arms), tmp_path, observer=watch)
    assert asked == [("random", 6), ("regularized", 0)]
    assert content(changed) != content(first)
    assert content(done(plan(file), tmp_path, observer=watch)) == content(first)  # changed back: it was not forgotten
    assert len(asked) == 2
    tables.written(tmp_path, early=tables.columns()["early"] + 1)  # other data are another search
    done(plan(file), tmp_path, observer=watch)
    assert asked[2:] == [("random", 0), ("regularized", 0)]


def test_reports_are_changed_without_searching_again(file: Path, tmp_path: Path) -> None:
    done(plan(file), tmp_path)

    def refuse(progress: engine.StudyProgress) -> None:
        raise AssertionError(progress)

    found = done(plan(file, report={"metric": "error", "over": "seconds", "at": [300]}), tmp_path, observer=refuse)
    cell = found.study.cells[0]
    trace = Simulator(cell.recipe).search(0)
    begun = np.r_[0, trace.seconds[:-1]] < 300
    assert found.values(cell, "metric", [300])[0, 0] == trace.losses[begun, 0].min()


def test_only_some_arms_and_fresh_ones(file: Path, tmp_path: Path) -> None:
    found = done(plan(file), tmp_path, only=["random"])
    assert [cell.arm for cell in found.cells.values()] == ["random"]
    found = done(plan(file), tmp_path, only=["regularized"])
    assert [cell.arm for cell in found.cells.values()] == ["random", "regularized"]
    lines = Ledger(found.folder).lines
    again = done(plan(file), tmp_path, only=["regularized"], fresh=True)
    assert content(again) == content(found)
    assert [line for line in Ledger(found.folder).lines if line["arm"] == "random"] == [
        line for line in lines if line["arm"] == "random"
    ]
    with pytest.raises(RecipeError, match="arm 'rondom' is not in the study; did you mean 'random'"):
        done(plan(file), tmp_path, only=["rondom"])


def test_an_arm_that_fails_is_told_and_stops_no_other(file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "class Broken:\n"
        "    def __init__(self, problem, settings): self.problem = problem\n"
        "    def ask(self, state): raise ValueError(f'no luck with {self.problem.seed}')\n"
        "    def tell(self, state, scored): return state\n"
    )
    arms = {"broken": {"strategy": {"kind": f"{tmp_path / 'broken.py'}:Broken"}}, "random": RANDOM}
    for count in (1, 2):
        found = done(plan(file, arms=arms), tmp_path / str(count), workers=count)
        assert found.failures == ("broken: seed 0: ValueError: no luck with 0",)
        assert [(cell.arm, len(found.looks(cell).seeds)) for cell in found.cells.values()] == [("random", 6)]


def test_an_arm_whose_processes_die_is_told(file: Path, tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os, signal\n"
        "class Deadly:\n"
        "    def __init__(self, problem, settings): pass\n"
        "    def ask(self, state): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    def tell(self, state, scored): return state\n"
    )
    arms = {"deadly": {"strategy": {"kind": f"{tmp_path / 'deadly.py'}:Deadly"}}, "random": RANDOM}
    found = done(plan(file, arms=arms), tmp_path, workers=2)
    assert "deadly: its process was ended by SIGKILL" in found.failures[0] and "3 attempts" in found.failures[0]
    assert [(cell.arm, len(found.looks(cell).seeds)) for cell in found.cells.values()] == [("random", 6)]


def test_a_killed_study_goes_on_to_what_an_uninterrupted_one_gives(file: Path, tmp_path: Path) -> None:
    data = plan(file, seeds=120)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.dump(data))
    command = [sys.executable, "-m", "evonas", "study", str(path), "--runs", str(tmp_path / "runs"), "--workers", "2"]
    results = tmp_path / "runs" / "studies" / "small" / "results.jsonl"
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (results.exists() and results.read_bytes().count(b"\n") >= 3):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    child.kill()
    child.wait()
    assert 0 < sum(len(line["looks"]["seeds"]) for line in Ledger(results.parent).lines) < 240
    with results.open("ab") as torn:
        torn.write(b"0123 half a li")
    resumed = done(data, tmp_path)
    assert resumed.searches == 240
    assert content(resumed) == content(done(data, tmp_path / "calm"))


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_says_so(file: Path, tmp_path: Path) -> None:
    data = plan(file, seeds=4000)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.dump(data))
    command = [sys.executable, "-m", "evonas", "study", str(path), "--runs", str(tmp_path / "runs"), "--workers", "2"]
    results = tmp_path / "runs" / "studies" / "small" / "results.jsonl"
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (results.exists() and results.read_bytes().count(b"\n") >= 3):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    kept = sum(len(line["looks"]["seeds"]) for line in Ledger(results.parent).lines)
    assert f"stopped; {kept:,} of 8,000 searches are kept; the same command goes on" in err
    assert "Traceback" not in err


def test_runs_that_train_are_runs_of_their_own(tmp_path: Path) -> None:
    data = {
        "study": "runs",
        "recipe": {
            "task": {"kind": "digits"}, "objectives": ["params", {"name": "depth", "direction": "max"}],
            "encoding": {"bounds": {"params": "20k"}}, "estimator": {"kind": "lookup"},
            "strategy": {"population": 6, "generations": 2}, "pool": {"kind": "serial"},
        },
        "seeds": 2,
        "arms": {"nsga2": {}, "random": {"strategy": {"kind": "random"}}},
        "baseline": "random",
        "report": {"metric": "params", "at": [6, 12]},
    }  # fmt: skip
    found = done(data, tmp_path)
    assert found.searches == 4 and not found.failures
    for cell in found.cells.values():
        (folder,) = found.folder.glob(f"{cell.arm}-*")
        for i, seed in enumerate(cell.seeds):
            with evonas.open(folder / f"seed-{seed}") as one:
                assert one.recipe.seed == seed
                values = [row.values["params"] for row in one.individuals()]
            assert found.values(cell, "metric", [6, 12])[i].tolist() == [min(values[:6]), min(values)]
    # what was interrupted goes on, what was lost of the results is read again, and nothing is trained twice
    with Ledger(found.folder) as kept:
        kept.replace([])
    before = {path: path.stat().st_mtime_ns for path in found.folder.glob("*/seed-*/weights/*")}
    assert content(done(data, tmp_path)) == content(found)
    assert {path: path.stat().st_mtime_ns for path in found.folder.glob("*/seed-*/weights/*")} == before
    # another search has a folder of its own
    data["arms"]["nsga2"] = {"strategy": {"population": 4}}
    done(data, tmp_path)
    assert len(list(found.folder.glob("nsga2-*"))) == 2


# ------------------------------------------------------------------------------------------------------- the results


def test_a_line_survives_or_is_seen_to_be_damaged(tmp_path: Path) -> None:
    with Ledger(tmp_path) as made:
        for i in range(4):
            made.append({"key": str(i)})
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        if whole[:cut].count(b"\n"):
            assert [line["key"] for line in Ledger(tmp_path).lines] == [
                str(i) for i in range(whole[:cut].count(b"\n") - 1)
            ]
        else:
            assert Ledger(tmp_path).lines == []
    first = whole.index(b"\n") + 1
    for at in range(first, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        found = Ledger(tmp_path)
        assert found.lost >= 1 or len(found.lines) < 4
        assert all(line == {"key": line["key"]} and line["key"] in "0123" for line in found.lines)


def test_a_damaged_line_is_warned_of_and_searched_again(file: Path, tmp_path: Path) -> None:
    found = done(plan(file), tmp_path)
    path = found.folder / "results.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b'"seeds":[0', b'"seeds":[7')
    path.write_bytes(b"\n".join(lines))
    with pytest.warns(UserWarning, match="had 1 damaged lines: their searches are done again"):
        again = done(plan(file), tmp_path)
    assert content(again) == content(found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert content(done(plan(file), tmp_path)) == content(found)


def test_a_strange_file_is_refused(file: Path, tmp_path: Path) -> None:
    found = done(plan(file), tmp_path)
    path = found.folder / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"not ours\n" + whole)
    with pytest.raises(DataError, match="damaged in its first line, or no results of a study"):
        done(plan(file), tmp_path)
    path.write_bytes(ledger._encoded({"study results": 99}))
    with pytest.raises(DataError, match="written by a newer evonas"):
        done(plan(file), tmp_path)


def test_a_full_disk_is_said_and_leaves_the_file_as_it_was(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done(plan(file, seeds=3), tmp_path)
    path = first.folder / "results.jsonl"
    before, write = path.read_bytes(), os.write

    def full(file: int, data: Any) -> int:
        if len(data) > 30:
            return write(file, data[:30])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match=r"disk full while writing .*free space, then run the study again"):
        done(plan(file), tmp_path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert content(done(plan(file), tmp_path)) == content(done(plan(file), tmp_path / "other"))


def test_two_at_a_time_are_refused_and_readers_are_not(file: Path, tmp_path: Path) -> None:
    found = done(plan(file), tmp_path)
    with Ledger(found.folder):
        with pytest.raises(LockedError, match="at work in another process"):
            done(plan(file, seeds=7), tmp_path)
        assert content(done(plan(file), tmp_path)) == content(found)


def test_looks_come_back_from_json_as_they_were(file: Path) -> None:
    recipe = studies.read(plan(file)).cells[1].recipe
    searched = Simulator(recipe)
    parts = [looks.of_trace(searched.search(seed), seed, searched.objectives) for seed in (4, 0, 2)]
    whole = Looks.joined(parts)
    again = Looks.from_json(json.loads(json.dumps(whole.to_json())))
    chosen = whole.chosen([0, 4, 99])
    assert chosen.seeds.tolist() == [0, 4]
    for name in whole.to_json():
        assert np.array_equal(getattr(again, name), getattr(whole, name))
        assert np.array_equal(getattr(chosen, name), getattr(Looks.joined([parts[1], parts[0]]), name))
    with pytest.raises(DataError, match="not what this evonas writes"):
        Looks.from_json({**whole.to_json(), "rows": [1, 2]})


def test_batches_reach_every_seed_once(file: Path) -> None:
    recipe = studies.read(plan(file)).cells[0].recipe
    from collections import deque

    plots = [workers.Plot(str(i), recipe, deque(range(count))) for i, count in enumerate((40, 1, 7))]
    queue, given = workers.Queue(plots), []
    while (batch := queue.next(3)) is not None:
        batch.plot.seconds, batch.plot.done = batch.plot.seconds + 1, batch.plot.done + len(batch.seeds)
        given += [(batch.plot.key, seed) for seed in batch.seeds]
        if len(given) == 9:  # a lost process gives its batch back
            queue.back(batch)
            given = given[: -len(batch.seeds)]
    assert sorted(given) == sorted((str(i), seed) for i, count in enumerate((40, 1, 7)) for seed in range(count))


# -------------------------------------------------------------------------------------------------------- statistics


def test_the_rank_test_is_scipys() -> None:
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for trial in range(200):
        m, n = rng.integers(1, 30, 2)
        ours, theirs = rng.normal(size=m), rng.normal(0.5, size=n)
        if trial % 2:
            ours, theirs = ours.round(), theirs.round()
        if len(np.unique(np.r_[ours, theirs])) == 1:
            continue
        p, wins = statistics.rank_test(ours, theirs)
        expected = scipy.mannwhitneyu(ours, theirs, alternative="two-sided")
        assert p == pytest.approx(expected.pvalue, abs=1e-12)
        assert wins == pytest.approx(expected.statistic / (m * n))


def test_the_rank_test_of_few_is_exact_by_enumeration() -> None:
    ours, theirs = np.array([3.0, 5.0, 9.0]), np.array([1.0, 2.0, 4.0, 6.0])
    everyone = np.r_[ours, theirs]
    u = [sum((a > b) for a in chosen for b in set(everyone) - set(chosen)) for chosen in combinations(everyone, 3)]
    seen = sum((a > b) for a in ours for b in theirs)
    expected = 2 * np.mean(np.array(u) >= max(seen, 12 - seen))
    assert statistics.rank_test(ours, theirs)[0] == pytest.approx(min(expected, 1.0))


def test_equal_values_are_no_difference() -> None:
    for count in (1, 3, 20):
        assert statistics.rank_test(np.ones(count), np.ones(count + 1)) == (1.0, 0.5)


def test_holm_as_it_is_defined() -> None:
    assert statistics.holm({}) == {}
    adjusted = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert adjusted == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5})
    rng = np.random.default_rng(1)
    for _ in range(20):
        chances = {str(i): float(p) for i, p in enumerate(rng.random(6) ** 3)}
        ordered = sorted(chances, key=chances.__getitem__)
        for place, name in enumerate(ordered):
            slow = max(min(1.0, (6 - j) * chances[ordered[j]]) for j in range(place + 1))
            assert statistics.holm(chances)[name] == pytest.approx(slow)


def test_random_search_in_closed_form_by_enumeration() -> None:
    losses = np.array([2.0, 1.0, np.nan, 1.0, 3.0])
    values = np.array([10.0, 20.0, 99.0, 40.0, 5.0])
    for n in (1, 2, 4):
        reached = []
        for rows in np.ndindex(*(5,) * n):
            good = [row for row in rows if row != 2]
            if good:
                reached.append(values[min(good, key=lambda row: losses[row])])  # of equals the first drawn
        mean, deviation = statistics.random_search(losses, values, [n])
        assert mean[0] == pytest.approx(np.mean(reached))
        assert deviation[0] == pytest.approx(np.std(reached))


@pytest.mark.slow
def test_random_search_lies_within_three_standard_errors_of_its_closed_form(file: Path, tmp_path: Path) -> None:
    found = done(plan(file, seeds=400, arms={"random": RANDOM}), tmp_path)
    exact = [one for one in found.summaries() if one.arm == statistics.EXACT]
    assert [one.at for one in exact] == [10, 20] and all(one.n == 0 for one in exact)
    for one in exact:
        (simulated,) = [other for other in found.summaries() if other.arm == "random" and other.at == one.at]
        assert abs(simulated.mean - one.mean) <= 3 * one.deviation / 20
        assert one.away == pytest.approx(abs(simulated.mean - one.mean) / (one.deviation / 20))


@pytest.mark.parametrize(
    "changes",
    [
        {"estimator": {"kind": "lookup", "epochs": 20}},  # the signal has trials
        {"objectives": ["error", "params"]},
        {"objectives": [{"name": "error", "max": 40}]},
        {"encoding": {**tables.ENCODING, "ops": [*tables.OPS, "conv_1x1"]}},  # rows are missing
    ],
)
def test_where_there_is_no_closed_form_none_is_told(file: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    found = done(plan(file, seeds=2, recipe=tables.recipe(file, **changes), arms={"random": {
        "strategy": {"kind": "random", "population": 20}}}), tmp_path)  # fmt: skip
    assert found.cells and found.exact("", [10]) == []


def test_hypervolumes_are_those_of_what_was_seen(file: Path, tmp_path: Path) -> None:
    recipe = tables.recipe(file, objectives=["error", "params"])
    found = done(plan(file, recipe=recipe, hypervolume={"log10": ["params"]}, report={"at": [5, 20]}), tmp_path)
    held = tables.columns()
    table = np.stack([100 - held["early"], np.log10(held["size"])], axis=1)
    front = table[pareto.non_dominated(table)]
    low, extent = front.min(axis=0), np.ptp(front, axis=0)
    whole = pareto.hypervolume((table - low) / extent, [1.1, 1.1])
    for cell in found.study.cells:
        for i, seed in enumerate(cell.seeds):
            rows = Simulator(cell.recipe).search(seed).rows
            for j, at in enumerate((5, 20)):
                expected = pareto.hypervolume((table[rows[:at]] - low) / extent, [1.1, 1.1]) / whole
                assert found.values(cell, "hypervolume", [5, 20])[i, j] == pytest.approx(expected)
    assert {one.name for one in found.summaries()} == {"share of the front"}
    assert all(0 <= one.mean <= 1 for one in found.summaries())


def test_reference_points_in_their_own_units_and_without_shares(file: Path, tmp_path: Path) -> None:
    recipe = tables.recipe(file, objectives=["error", {"name": "params", "max": 1.5}])
    measured = {"reference": {"error": 100, "params": 2}, "exact": False}
    found = done(plan(file, recipe=recipe, hypervolume=measured, report={"at": [20]}), tmp_path)
    (cell, _) = found.study.cells
    trace = Simulator(cell.recipe).search(0)
    kept = trace.losses[trace.losses[:, 1] <= 1.5]
    assert found.values(cell, "hypervolume", [20])[0, 0] == pytest.approx(pareto.hypervolume(kept, [100, 2]))


def test_what_is_maximised_has_a_logarithm_too() -> None:
    plain = statistics.plain_scale([1.0, -1.0], [False, True])
    scale = statistics.below_values(plain, [2.0, -1.0])
    assert scale(np.array([[1.0, -100.0]])).tolist() == [[1.0, -2.0]]
    assert scale.reference == (2.0, 0.0)


def test_best_so_far_at_the_highest_fidelity(file: Path) -> None:
    """A closer look counts, however it compares with rougher ones before it."""
    one = np.ones(1)
    seen = Looks(
        np.array([0]), np.array([4]), 4 * one, 4 * one, np.array([0]), np.array([4]), np.arange(4), np.arange(4.0),
        np.arange(4.0), np.array([5, 6, 7, 8]), np.array([4.0, 4.0, 20.0, 20.0]),
        np.array([[0.3], [0.1], [0.2], [0.15]]),
    )  # fmt: skip
    reached = statistics.best_so_far(seen, np.array([1.0, 2.0, 3.0, 4.0]), "evaluations", [1, 2, 3, 4, 9])
    assert reached.tolist() == [[1.0, 2.0, 3.0, 4.0, 4.0]]
    losses = np.column_stack([seen.losses, seen.losses])
    scale = statistics.below_values(statistics.plain_scale([1.0, 1.0], [False, False]), [1.0, 1.0])
    volumes = statistics.hypervolumes(replace(seen, losses=losses), scale, "evaluations", [1, 2, 3])
    assert volumes[0].tolist() == pytest.approx([0.49, 0.81, 0.64])


def test_constraints_decide_what_counts() -> None:
    losses = np.array([[1.0, 9.0], [2.0, 3.0], [np.nan, 1.0]])
    goals = (Objective("error"), Objective("params", max=5.0))
    assert looks.allowed(losses, goals).tolist() == [False, True, False]
    assert looks.allowed(-losses, (Objective("a", direction="max", min=2.0),) * 2).tolist() == [False, True, False]


# ------------------------------------------------------------------------------------------------------ what is shown


def test_the_command_carries_out_and_prints(
    call: Call, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # a long path wraps elsewhere
    data = plan(file, tasks={"near": {}, "far": {"estimator": {"epochs": 20}}})
    data["arms"]["regularized"] = {"published": {"near": "71.2 ± 0.4"}}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.dump(data))
    options = ("study", path, "--runs", tmp_path / "runs", "--workers", 1)
    code, out, err = call(*options)
    assert code == 0
    assert "24 searches, 480 evaluations" in out and "random (exact)" in out and "71.2 ± 0.4" in out
    assert "24 of 24 searches" in err
    code, again, err = call(*options)
    assert (code, again, err) == (0, out, "")
    code, out, _ = call(*options, "--format", "json")
    records = json.loads(out)
    assert {record["arm"] for record in records} == {"random", "regularized", "random (exact)"}
    assert {(record["task"], record["at"]) for record in records} == {(t, a) for t in ("near", "far") for a in (10, 20)}
    code, out, _ = call(*options, "--format", "markdown")
    assert code == 0 and out.startswith("| task | arm | n | test at 10 |")
    code, out, _ = call(*options, "--format", "csv")
    assert len(out.splitlines()) == 1 + len(records)
    for name in ("best.svg", "best.png", "best.pdf", "all.csv"):
        assert call(*options, "-o", tmp_path / name)[0] == 0
        assert (tmp_path / name).stat().st_size > 500
    code, _, err = call(*options, "-o", tmp_path / "front.svg", "--figure", "hypervolume")
    assert code == 2 and "needs two objectives or more" in err
    code, _, err = call(*options, "--only", "rando")
    assert code == 2 and "did you mean 'random'?" in err
    code, _, err = call("study", tmp_path / "smal.yaml")
    assert code == 2 and "small.yaml" in err


def test_a_failed_arm_is_an_error_after_the_table(call: Call, file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "class Broken:\n"
        "    def __init__(self, problem, settings): pass\n"
        "    def ask(self, state): raise ValueError('no luck')\n"
        "    def tell(self, state, scored): return state\n"
    )
    path = tmp_path / "small.yaml"
    path.write_text(
        yaml.dump(plan(file, arms={"broken": {"strategy": {"kind": "broken.py:Broken"}}, "random": RANDOM}))
    )
    code, out, err = call("study", path, "--runs", tmp_path / "runs", "--workers", 1)
    assert code == EvonasError.exit_code
    assert "random" in out and "broken: seed 0: ValueError: no luck" in err


def test_the_table_says_who_is_better(file: Path, tmp_path: Path) -> None:
    data = plan(file, seeds=30, arms={
        "random": RANDOM, "blind": {**RANDOM, "budget": {"evaluations": 2}}, "all": {"strategy": {"kind": "grid"}},
    })  # fmt: skip
    data["recipe"]["budget"] = {"evaluations": 27}
    data["report"] = {"metric": "error", "at": 27}
    table = done(data, tmp_path).table()
    shown = {row[0]: row for row in table.shown()}
    assert [column.title for column in table.columns] == ["arm", "n", "error at 27", "against random"]
    assert shown["blind"][-1] == "worse, p < 0.001"
    assert shown["random"][-1] == ""
    assert shown["all"][-1].startswith("better")
    assert [table.rows[i][0] for i in table.marked] == ["all"]


@pytest.mark.parametrize(
    ("deviation", "text"),
    [
        (0.362, "93.73 ± 0.36"), (1.263, "93.73 ± 1.26"), (0.00713, "93.7304 ± 0.0071"), (7026.7, "94 ± 7027"),
        (12.3, "94 ± 12"), (0.0, "93.7304 ± 0.0000"),
    ],
)  # fmt: skip
def test_means_have_as_many_decimals_as_their_deviations(deviation: float, text: str) -> None:
    one = statistics.Summary("", "a", "metric", "test", "evaluations", 1, 5, 93.7304, deviation, 0.1)
    assert told._spread([one])([one.mean, one.deviation]) == text
    crowd = [replace(one, deviation=0.3)] * 3
    assert told._spread([one, *crowd])([one.mean, one.deviation]) == f"93.73 ± {deviation:.2f}"


def test_figures_show_every_arm_with_its_interval(file: Path, tmp_path: Path) -> None:
    recipe = tables.recipe(file, objectives=["error", "params"])
    data = plan(file, recipe=recipe, tasks={"near": {}, "far": {"report": {"over": "seconds", "at": [400]}}})
    found = done(data, tmp_path)
    for figure in (found.plot.best(), found.plot.hypervolume(tmp_path / "share.svg")):
        assert isinstance(figure, Figure)
        panes = figure.axes
        assert [ax.get_title(loc="left") for ax in panes] == ["near", "far"]
        assert [ax.get_xlabel() for ax in panes] == ["evaluations", "seconds of training"]
        for ax in panes:
            names = [text.get_text() for text in ax.get_legend().get_texts()]
            assert sorted(names) == ["random", "regularized"]
    assert (tmp_path / "share.svg").read_bytes().startswith(b"<?xml")
    (curve, *_) = found.curves("near", "metric")
    values = found.values(found.cells["random", "near"], "metric", curve.x.tolist())
    assert curve.mean.tolist() == pytest.approx(values.mean(axis=0).tolist())
    assert curve.half.tolist() == pytest.approx((1.959964 * values.std(axis=0, ddof=1) / 6**0.5).tolist())


def test_a_frame_of_what_was_found(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    frame = done(plan(file), tmp_path).to_frame()
    assert len(frame) == 6 and set(frame["arm"]) == {"random", "regularized", "random (exact)"}


def test_progress_tells_what_is_left(file: Path, tmp_path: Path) -> None:
    heard: list[engine.StudyProgress] = []
    done(plan(file), tmp_path, observer=heard.append)
    assert (heard[0].kind, heard[0].done, heard[0].total) == ("start", 0, 12)
    assert (heard[-1].kind, heard[-1].done) == ("end", 12)
    assert [one.done for one in heard] == sorted(one.done for one in heard)
    assert "12 of 12 searches, regularized: 6 of 6" in told.line(heard[-2])
    from rich.console import Console

    console = Console(width=100, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    console.print(told.panel(heard[1]))
    console.file.close()
    assert "regularized" in (text := console.export_text()) and "of 12 searches" in text
