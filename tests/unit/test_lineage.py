"""Lineages of a run with inherited weights: who begot whom, what it cost, and whose numbers a network was born with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import evonas
from evonas.cli import app
from evonas.core import RecipeError
from evonas.report import tables
from evonas.results import Run

RECIPE: dict[str, Any] = {
    "name": "family",
    "task": {"kind": "digits"},
    "encoding": {"kind": "dag", "mutations": "morphisms", "channels": [2, 4, 6], "bounds": {"params": 3000}},
    "objectives": ["error", "params"],
    "strategy": {
        "kind": "lemonade",
        "population": 4,
        "offspring": 4,
        "proposals": 6,
        "generations": 4,
        "crossover": 0.3,
    },
    "estimator": {
        "kind": "train",
        "epochs": 2,
        "share": 0.2,
        "inherit": {"kind": "weights", "epochs": 1, "distill": {"epochs": 0.5}},
    },
    "pool": {"kind": "serial"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return evonas.start(RECIPE, runs=tmp_path_factory.mktemp("runs"))


def test_the_table_tells_what_was_inherited_and_what_it_cost(run: Run) -> None:
    rows = run.lineage(max(row.id for row in run.individuals()))
    table = tables.lineage(rows, {}, run.objectives)
    keys = [column.key for column in table.columns]
    assert keys[:5] == ["birth", "id", "parents", "inherited", "birth_error"] and keys[-1] == "edits"
    founder, child = table.records()[0], table.records()[-1]
    assert founder["inherited"] is None and founder["epochs"] == 2
    assert 0 < child["inherited"] <= 1 and 0 <= child["birth_error"] <= 1
    assert child["epochs"] >= 1 and child["samples"] > 0


def test_every_number_of_a_network_has_an_origin(run: Run) -> None:
    seen = 0
    for row in run.individuals():
        family = {one.id for one in run.lineage(row.id)}
        found = run.bequests(row.id)
        assert sum(one.params for one in found) == row.values["params"]
        for one in found:
            assert one.parents.keys() <= set(row.parents)
            assert sum(one.parents.values()) <= 1 + 1e-9
            assert sum(one.first.values()) == pytest.approx(1)
            assert one.first.keys() <= family
        inherited = sum(one.params * sum(one.parents.values()) for one in found) / row.values["params"]
        assert inherited == pytest.approx(row.cost.get("inherited", 0.0))
        seen += inherited > 0
    assert seen > 4


def test_exact_children_begin_where_their_parents_stood(run: Run) -> None:
    rows = {row.id: row for row in run.individuals()}
    exact = [row for row in rows.values() if row.cost.get("exact") == 1 and len(row.parents) == 1]
    assert exact
    for row in exact:
        assert row.cost["birth_error"] == pytest.approx(rows[row.parents[0]].values["error"], abs=1 / 200)


def test_the_command_shows_both(run: Run) -> None:
    last = str(max(row.id for row in run.individuals()))
    where = ["--runs", str(run.folder.parent), "--format", "json"]
    told = CliRunner().invoke(app, ["lineage", run.name, last, "--tensors", *where])
    assert told.exit_code == 0, told.output
    assert {"gene", "op", "params", "parents", "first"} == json.loads(told.stdout)[0].keys()
    told = CliRunner().invoke(app, ["lineage", run.name, last, *where])
    assert json.loads(told.stdout)[-1]["id"] == int(last)


def test_a_run_without_inheritance_says_so(tmp_path: Path) -> None:
    plain = {**RECIPE, "estimator": {"kind": "lookup"}, "objectives": ["params", "depth"]}
    with (
        evonas.start(plain, runs=tmp_path) as run,
        pytest.raises(RecipeError, match=r"set estimator\.inherit: weights"),
    ):
        run.bequests(0)


def test_the_generations_keep_a_ledger(run: Run) -> None:
    ledgers = [row["inheritance"] for row in run.generations()]
    assert ledgers[0]["children"] == 0 and ledgers[0]["epochs_saved"] == 0
    for ledger in ledgers[1:]:
        assert ledger["children"] > 0 and ledger["samples"] > 0
        assert 0 <= ledger["birth_error"] <= 1
    assert sum(ledger["epochs_saved"] for ledger in ledgers) > 0
