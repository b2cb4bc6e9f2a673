"""Tables of networks: what a row says, and what is said of tables that are wrong."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evonas import estimate, run, task
from evonas import recipe as recipes
from evonas.core import DataError, EvonasError, Job, RecipeError, seed_of
from evonas.simulate import Simulator, simulate
from evonas.studies.looks import bettering
from tests import tables

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tables.written(tmp_path)


def made(file: Path, **sections: Any) -> recipes.Recipe:
    return recipes.read(tables.recipe(file, **sections))


def edited(file: Path, change: Change) -> recipes.Recipe:
    data = tables.recipe(file)
    change(data)
    return recipes.read(data)


# ----------------------------------------------------------------------------------------------------- what is there


def test_every_genome_has_the_row_of_its_choices(file: Path) -> None:
    table = Simulator(made(file)).table
    for row, genome in enumerate(table.genomes()):
        assert table.row(genome) == row
        assert tuple(table.space.tokens(genome)) == tuple(tables.KEYS[row])


def test_words_may_stand_in_another_order_than_the_encodings(tmp_path: Path) -> None:
    turned = (2, 0, 1)  # the table's code of none, skip, conv_3x3
    file = tables.written(tmp_path, ops=np.array(turned, dtype=np.uint8)[tables.KEYS])
    words = [tables.OPS[turned.index(code)] for code in range(3)]

    def change(data: dict[str, Any]) -> None:
        data["task"]["key"]["words"] = words

    table = Simulator(edited(file, change)).table
    for row, genome in enumerate(table.genomes()):
        assert [table.space.choices[0][token] for token in table.space.tokens(genome)] == [
            tables.OPS[choice] for choice in tables.KEYS[row]
        ]


def test_a_csv_of_words_or_of_digits_is_the_same_table(file: Path, tmp_path: Path) -> None:
    held = tables.columns()
    head = ["a", "b", "c", "code", "early", "test", "size", "time"]
    rows = [
        [*(tables.OPS[op] for op in key), "".join(map(str, key)), *(held[name][i] for name in head[4:])]
        for i, key in enumerate(tables.KEYS.tolist())
    ]
    other = tmp_path / "table.csv"
    with other.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([head, *rows])
    expected = simulate(made(file, estimator={"kind": "lookup", "epochs": 4}), 3)
    for column in (["a", "b", "c"], "code"):
        data = tables.recipe(other, estimator={"kind": "lookup"})
        data["task"] |= {"key": {"column": column, "words": list(tables.OPS)}, "report": {"test": "test"}}
        data["task"]["metrics"] = {"error": {"column": "early", "complement": 100}}
        data["task"]["cost"] = {"column": "time"}
        found = simulate(data, 3)
        assert found.rows.tolist() == expected.rows.tolist()
        assert found.losses.tolist() == expected.losses.tolist()


def test_a_run_and_the_simulator_look_up_the_same(file: Path, tmp_path: Path) -> None:
    for epochs in (4, 20):  # one value, and one of two or three trials by the individual's seed
        recipe = made(file, estimator={"kind": "lookup", "epochs": epochs}, pool={"kind": "serial"}, seed=5)
        trace = simulate(recipe)
        with run.start(recipe, runs=tmp_path, name=f"at-{epochs}") as found:
            rows = found.individuals()
        assert [row.values["error"] for row in rows] == trace.losses[:, 0].tolist()
        assert np.cumsum([row.cost["seconds"] for row in rows]).tolist() == trace.seconds.tolist()


def test_trials_are_drawn_from_those_that_are_there(file: Path) -> None:
    table = Simulator(made(file)).table
    column, held = table.column("metrics", "error", 20), tables.columns()["late"]
    for row in range(27):
        there = 100 - held[row][np.isfinite(held[row])]
        drawn = {column.at(row, seed_of(1, "estimate", i)) for i in range(60)}
        assert drawn == set(there.tolist())
        assert table.means("metrics", "error", 20)[row] == pytest.approx(there.mean())


def test_the_clock_goes_in_proportion_to_the_epochs(file: Path) -> None:
    trace = simulate(made(file, budget={"seconds": 500}))
    each = tables.columns()["time"][trace.rows] * 4 / 20
    assert np.diff(trace.seconds, prepend=0).tolist() == pytest.approx(each.tolist())
    assert trace.seconds[-2] < 500 <= trace.seconds[-1]  # the one that passes the limit still counts


def test_a_network_reported_at_its_own_fidelity(file: Path) -> None:
    """What is told after a search does not depend on how closely the search looked."""

    def change(data: dict[str, Any]) -> None:
        data["task"]["report"] = {"late": {"column": {"20": "late"}, "trial": "mean"}}

    recipe = edited(file, change)
    final = estimate.build(recipe.model_dump(mode="json"), final=True)
    searched = Simulator(recipe)
    genome = searched.table.genomes()[4]
    told = final.estimate(Job(0, 1, None, genome)).estimate
    assert told.values["late"] == pytest.approx(searched.report("late")[4])


def test_one_name_among_many(tmp_path: Path) -> None:
    file = tables.written(tmp_path, latency=np.arange(54.0).reshape(27, 2), devices=np.array(["phone", "board"]))

    def change(data: dict[str, Any]) -> None:
        data["task"]["metrics"]["latency"] = {"column": "latency", "among": "devices", "pick": "board"}
        data["objectives"] = ["error", "latency"]

    assert Simulator(edited(file, change)).losses()[:, 1].tolist() == np.arange(1.0, 54.0, 2.0).tolist()


# -------------------------------------------------------------------------------------------- what is wrong with them


def at_once(recipe: Mapping[str, Any] | recipes.Recipe) -> str:
    """The message of a recipe that is refused before anything is looked up, by the simulator and by a run alike."""
    checked = recipe if isinstance(recipe, recipes.Recipe) else recipes.read(recipe)
    with pytest.raises((RecipeError, DataError)) as found:
        Simulator(checked)
    with pytest.raises((RecipeError, DataError)) as again:
        estimate.build(checked.model_dump(mode="json"))
    assert str(again.value) == str(found.value)
    return str(found.value)


def test_duplicated_architectures_are_named(tmp_path: Path) -> None:
    twice = tables.KEYS.copy()
    twice[9] = twice[4]
    assert "rows 4 and 9 are one architecture" in at_once(made(tables.written(tmp_path, ops=twice)))


def test_missing_rows_are_failed_estimates(tmp_path: Path) -> None:
    kept = {name: values[:20] for name, values in tables.columns().items()}
    recipe = made(tables.written(tmp_path, **kept), pool={"kind": "serial"}, strategy={
        "kind": "random", "population": 20, "generations": 3, "speciation": None,
    })  # fmt: skip
    trace = simulate(recipe)
    lost = trace.rows < 0
    assert lost.any() and not lost.all()
    assert np.isnan(trace.losses[lost]).all() and np.isfinite(trace.losses[~lost]).all()
    assert trace.rows[trace.best()] >= 0
    with run.start(recipe, runs=tmp_path / "runs") as found:
        failed = [row for row in found.individuals() if row.status == "failed"]
    assert len(failed) == lost.sum()
    assert all("the table has no row for" in row.reason for row in failed)


def test_nan_metrics_are_failed_estimates(tmp_path: Path) -> None:
    early = tables.columns()["early"]
    early[tables.KEYS[:, 0] == 2] = np.nan
    trace = simulate(made(tables.written(tmp_path, early=early)))
    lost = tables.KEYS[trace.rows, 0] == 2
    assert lost.any()
    assert (np.isnan(trace.losses[:, 0]) == lost).all()
    assert not lost[trace.best()]


def test_a_table_of_nan_alone_ends_the_search_with_its_reason(tmp_path: Path) -> None:
    recipe = made(tables.written(tmp_path, early=np.full(27, np.nan)))
    with pytest.raises(EvonasError, match=r"all 5 networks of generation 1 failed.*'error' is nan"):
        simulate(recipe)


def test_nan_after_the_search_is_a_failed_test(tmp_path: Path) -> None:
    recipe = made(tables.written(tmp_path, test=np.full(27, np.nan)))
    final = estimate.build(recipe.model_dump(mode="json"), final=True)
    told = final.estimate(Job(0, 1, None, Simulator(recipe).table.genomes()[3])).estimate
    assert (told.status, dict(told.values)) == ("failed", {})
    assert "the table has no test for" in told.reason


def test_an_unknown_fidelity_is_refused(file: Path) -> None:
    message = at_once(made(file, estimator={"kind": "lookup", "epochs": 12}))
    assert "12 epochs are no fidelity of the table: known are 4, 20" in message


def test_a_metric_without_the_fidelity_is_named(file: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["task"]["metrics"]["params"] = {"column": {"20": "size"}}
        data["objectives"] = ["error", "params"]

    assert "metrics.params: no column for 4 epochs: there are 20" in at_once(edited(file, change))


def test_a_fidelity_that_a_strategy_asks_for_and_the_table_lacks(file: Path) -> None:
    estimator = estimate.build(made(file).model_dump(mode="json"))
    genome = Simulator(made(file)).table.genomes()[0]
    told = estimator.estimate(Job(0, 1, None, genome, fidelity={"epochs": 7})).estimate
    assert told.status == "failed" and "7 epochs are no fidelity" in told.reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"early": None}, "has no column 'early'"),
        ({"early": np.zeros(26)}, "column 'early' has 26 rows, the key 27"),
        ({"early": np.array(["good"] * 27)}, "column 'early' holds no numbers"),
        ({"ops": None}, "has no 'ops'"),
        ({"ops": tables.KEYS + 1}, "code 3 has no word: task.key.words has 3"),
        ({"ops": tables.KEYS.astype(float) / 2}, "numbers that are no codes"),
        ({"ops": tables.KEYS[:, :2]}, "the table has 2 choices per row"),
        ({"ops": np.zeros((0, 3), dtype=int)}, "the table has no rows"),
        ({"ops": np.array(3)}, "holds neither numbers nor text"),
        ({"time": np.full(27, np.nan)}, "row 0 of 'time' is no time"),
        ({"time": np.full(27, -1.0)}, "row 0 of 'time' is no time"),
    ],
)  # fmt: skip
def test_bad_columns_are_refused_at_once(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in at_once(made(tables.written(tmp_path, **changes)))


def test_a_name_that_is_not_among_the_names(tmp_path: Path) -> None:
    file = tables.written(tmp_path, latency=np.zeros((27, 2)), devices=np.array(["phone", "board", "chip"]))

    def change(data: dict[str, Any], pick: str = "fone") -> None:
        data["task"]["metrics"]["latency"] = {"column": "latency", "among": "devices", "pick": pick}
        data["objectives"] = ["latency"]

    assert "'fone' is not known; did you mean 'phone'?" in at_once(edited(file, change))
    assert "3 names for a matrix of 2 columns" in at_once(edited(file, lambda data: change(data, "phone")))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x93NUMPY", b"ops,error\n1,2,3\n", b"a,a\n1,2\n"])
@pytest.mark.parametrize("name", ["table.npz", "table.csv"])
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = at_once(made(tmp_path / name))
    assert "is no table" in message or "has no 'ops'" in message


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    file = tables.written(tmp_path, early=np.array([{}] * 27, dtype=object))
    assert "is no table" in at_once(made(file))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot read the table" in at_once(made(tmp_path / "absent.npz"))


# ----------------------------------------------------------------------------------------- what the recipe must be


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"encoding": {"kind": "neat"}, "strategy": {"kind": "grid"}}, "needs genomes as choices"),
        ({"objectives": ["latency"]}, "'latency' is no metric of the task's table"),
        ({"estimator": {"kind": "train"}}, "set estimator.kind: lookup"),
    ],
)
def test_what_does_not_fit_a_table_is_refused_with_the_recipe(file: Path, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        made(file, **sections)


def test_an_encoding_without_choices_is_refused(file: Path) -> None:
    assert "has no tokens" in at_once(made(file, encoding={"kind": "dag"}))


def test_keys_of_metrics_are_checked_like_all_others(file: Path) -> None:
    data = tables.recipe(file)
    data["task"]["metrics"]["error"]["complment"] = 1
    with pytest.raises(RecipeError, match=r"task.metrics.error.complment: not known; did you mean 'complement'"):
        recipes.read(data)


def test_the_environment_says_where_data_lie(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVONAS_TEST_DATA", raising=False)
    (tmp_path / "recipe.yaml").write_text("\n".join([
        "objectives: [error]", "encoding: {kind: cell}", "estimator: {kind: lookup}",
        "task: {kind: tabular, file: '${EVONAS_TEST_DATA:-data}/table.npz', key: {column: a}, metrics: {error: b}}",
    ]))  # fmt: skip

    def found() -> Path:
        settings: task.TabularSettings = recipes.read(tmp_path / "recipe.yaml").task
        return settings.file

    assert found() == tmp_path / "data" / "table.npz"
    monkeypatch.setenv("EVONAS_TEST_DATA", "/elsewhere")
    assert found() == Path("/elsewhere/table.npz")
    monkeypatch.delenv("EVONAS_TEST_DATA")
    with pytest.raises(RecipeError, match="the environment has no EVONAS_TEST_DATA: set it"):
        made("${EVONAS_TEST_DATA}/table.npz")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- what bettered others


def test_bettering_as_a_slow_search_finds_it() -> None:
    rng = np.random.default_rng(0)
    for trial in range(60):
        goals = 1 + trial % 3
        losses = rng.integers(0, 6, (30, goals)).astype(float)
        fidelity = np.sort(rng.integers(0, 1 + trial % 2 * 2, 30)).astype(float)
        allowed = rng.random(30) < 0.8
        slow = []
        for i in range(30):
            before = [
                j for j in range(i) if allowed[j] and fidelity[j] == max(fidelity[: i + 1][allowed[: i + 1]], default=0)
            ]
            top = allowed[i] and fidelity[i] >= max(fidelity[:i][allowed[:i]], default=0)
            if top and not any((losses[j] <= losses[i]).all() for j in before):
                slow.append(i)
        assert list(bettering(losses, fidelity, allowed)) == slow


@pytest.mark.parametrize(("dataset", "valid", "test"), [("cifar10", 39.77, 54.30), ("cifar100", 15.03, 15.61)])
def test_the_cell_that_darts_collapses_to_looks_up_as_published(
    shared_data: Path, dataset: str, valid: float, test: float
) -> None:
    """Only skips: what DARTS and ENAS end with on NAS-Bench-201 (Dong and Yang 2020)."""
    section = {
        "kind": "tabular",
        "file": str(shared_data / "nasbench201" / "nasbench201.npz"),
        "key": {"column": "ops", "words": ["none", "skip", "conv_1x1", "conv_3x3", "avg_pool_3x3"]},
        "metrics": {"accuracy": {"column": f"{dataset}_valid_200"}},
        "report": {"test": f"{dataset}_test_200"},
    }
    recipe = {
        "task": section, "encoding": {"kind": "cell", "space": "nasbench201"}, "objectives": ["accuracy"],
        "strategy": {"kind": "random", "generations": 1}, "estimator": {"kind": "lookup"},
    }  # fmt: skip
    found = Simulator(recipes.read(recipe))
    row = found.table.row(found.space.from_tokens([1] * 6))
    seen = found.table.values("metrics", ["accuracy"], row, found.table.epochs(None), 0)["accuracy"]
    assert round(seen, 2) == valid and round(float(found.report("test")[row]), 2) == test
