"""Tables: exact values for machines, short ones for people, hostile text made harmless."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace
from typing import Any

import pytest

from evonas.core import Edit, Objective, RecipeError
from evonas.encoding.plan import Plan, Step
from evonas.report import live, tables
from evonas.report.progress import Progress
from evonas.report.tables import Column, Table
from evonas.results import Row

ERROR, PARAMS = Objective("error"), Objective("params", cheap=True)
ACCURACY = Objective("accuracy", direction="max")


def row(
    id: int, *, status: str = "ok", knee: bool = False, tested: dict[str, float] | None = None, **values: float
) -> Row:
    return Row(
        id,
        values,
        status,
        "" if status == "ok" else "diverged",
        f"conv{id}",
        f"key{id}",
        (),
        id // 4,
        1,
        True,
        knee,
        tested or {},
    )


FRONT = [
    row(7, error=0.0123456789, params=101_234.0),
    row(3, knee=True, error=0.05, params=9_000.0),
    row(5, error=0.2, params=57.0),
]


def run(name: str, front: list[Row], objectives: tuple[Objective, ...] = (ERROR, PARAMS), **extra: Any) -> Any:
    """What tables read of a run."""
    recipe = SimpleNamespace(
        strategy=SimpleNamespace(kind="nsga2", generations=4), task=SimpleNamespace(kind="digits"), seed=1
    )
    history = [{"evaluations": len(front), "failed": 1, "best": {"error": 0.1}}]
    fields = {"name": name, "recipe": recipe, "objectives": objectives, "status": "finished", **extra}
    return SimpleNamespace(**fields, front=lambda: front, individuals=lambda: front, generations=lambda: history)


# ---------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (57, "57"), (9999, "9999"), (57.0, "57"), (101_234, "101.2k"), (12_345.0, "12.35k"), (1_234_567, "1.235M"),
        (999_960_000, "1G"), (2.5e12, "2.5T"), (0.034567, "0.03457"), (-20_000, "-20k"), (0.0, "0"), (1e-9, "1e-09"),
    ],
)  # fmt: skip
def test_numbers_for_people(value: float, text: str) -> None:
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (4.21, "4.2 s"), (42.4, "42 s"), (59.9, "60 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


def test_control_characters_and_direction_marks_become_visible() -> None:
    assert tables.plain("a\x1b[31m[red]b\u202ec\n") == "a\\x1b[31m[red]b\\u202ec\\n"
    assert tables.plain("größe 網") == "größe 網"


# ------------------------------------------------------------------------------------------------------ individuals


def test_a_front_keeps_exact_values_and_marks_the_knee() -> None:
    table = tables.individuals(FRONT, (ERROR, PARAMS))
    assert table.marked == {1}
    assert [column.key for column in table.columns] == ["id", "error", "params", "knee", "species", "birth", "network"]
    assert table.records()[0]["error"] == 0.0123456789
    assert table.shown()[0][:3] == ["7", "0.01235", "101.2k"]
    assert table.shown()[1][3] == "knee"


def test_csv_and_json_hold_every_digit() -> None:
    table = tables.individuals(FRONT, (ERROR, PARAMS))
    records = json.loads(tables.to_json(table))
    assert [record["error"] for record in records] == [0.0123456789, 0.05, 0.2]
    read = list(csv.DictReader(io.StringIO(tables.to_csv(table))))
    assert [float(one["error"]) for one in read] == [0.0123456789, 0.05, 0.2]
    assert read[1]["knee"] == "True"


def test_markdown_escapes_bars() -> None:
    table = Table((Column("a", "a"), Column("b", "b", right=False)), ((1, "x|y"),))
    assert tables.to_markdown(table) == "| a | b |\n| ---: | :--- |\n| 1 | x\\|y |\n"


def test_failures_show_their_reason_and_test_values_of_trained_objectives_only() -> None:
    rows = [row(1, tested={"error": 0.3, "params": 5.0}, error=0.2, params=5.0), row(2, status="failed")]
    table = tables.individuals(rows, (ERROR, PARAMS))
    keys = [column.key for column in table.columns]
    assert "test_error" in keys
    assert "test_params" not in keys
    assert table.records()[1]["reason"] == "diverged"
    assert table.shown()[1][keys.index("error")] == ""


def test_headings_tell_unit_and_what_is_maximised() -> None:
    assert tables.objective_column(Objective("latency", "ms")).title == "latency [ms]"
    assert tables.objective_column(ACCURACY).title == "accuracy ↑"


def test_rows_are_ordered_best_first_whatever_the_direction() -> None:
    rows = [row(1, accuracy=0.5), row(2, accuracy=0.9), row(3)]
    assert [one.id for one in tables.ordered(rows, ACCURACY)] == [2, 1, 3]
    assert [one.id for one in tables.ordered(FRONT, PARAMS)] == [5, 3, 7]


def test_a_budget_is_a_most_or_a_least() -> None:
    assert [one.id for one in tables.within(FRONT, [(PARAMS, 10_000)])] == [3, 5]
    rows = [row(1, accuracy=0.5), row(2, accuracy=0.9)]
    assert [one.id for one in tables.within(rows, [(ACCURACY, 0.6)])] == [2]


def test_a_budget_that_nobody_keeps_tells_the_best() -> None:
    with pytest.raises(RecipeError, match=r"^no network has params <= 10: the best params is 57$"):
        tables.within(FRONT, [(PARAMS, 10)])
    with pytest.raises(RecipeError, match=r"error <= 0.02 and params <= 100: none keeps all of these at once"):
        tables.within(FRONT, [(ERROR, 0.02), (PARAMS, 100)])


def test_an_unknown_objective_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"objective 'parms' is not one of this run's; did you mean 'params'\?"):
        tables.find((ERROR, PARAMS), "parms")


def test_a_lineage_lists_parents_and_edits() -> None:
    edits = {3: (Edit("add_layer", (4,), (5, 6, 7), {"op": "conv"}),)}
    table = tables.lineage([row(1, error=0.5), row(3, error=0.4)], edits, (ERROR,))
    assert table.shown()[1] == ["0", "3", "", "0.4", "add_layer at 4 (op conv)"]
    assert table.records()[0]["edits"] == []


# ------------------------------------------------------------------------------------------------------------- runs


def test_the_history_of_species_has_one_line_for_each_that_ever_lived() -> None:
    def one(generation: int, species: int, size: int, best: float, improved: int) -> dict[str, Any]:
        return {
            "generation": generation, "species": species, "size": size, "best": best, "representative": 4, "born": 1,
            "improved": improved, "members": [],
        }  # fmt: skip

    lived = [one(1, 1, 9, -0.5, 1), one(2, 1, 4, -0.9, 2), one(2, 2, 5, -0.2, 2), one(3, 2, 6, -0.2, 2)]
    table = tables.species_history(lived[::-1], (ACCURACY,))
    keys = ("species", "born", "last", "largest", "best", "improved")
    assert [tuple(record[key] for key in keys) for record in table.records()] == [
        (1, 1, 2, 9, 0.9, 2),
        (2, 1, 3, 6, 0.2, 2),
    ]
    assert tables.species_history([], (ACCURACY,)).rows == ()


def test_species_are_those_of_the_newest_generation() -> None:
    def one(generation: int, species: int) -> dict[str, Any]:
        return {
            "generation": generation, "species": species, "size": 2, "best": -0.9, "representative": 4, "born": 1,
            "improved": 2, "members": [4, 5],
        }  # fmt: skip

    table = tables.species([one(1, 1), one(2, 1), one(2, 2)], (ACCURACY,))
    assert [record["species"] for record in table.records()] == [1, 2]
    assert table.records()[0]["best"] == 0.9
    assert table.shown()[0][-1] == "4, 5"
    assert tables.species([], (ACCURACY,)).rows == ()


def test_generations_without_a_front_have_empty_cells() -> None:
    history = [
        {"generation": 1, "evaluations": 4, "failed": 4, "best": {}, "hypervolume": None, "species": 0, "seconds": 61.0}
    ]
    assert tables.generations(history, (ERROR,)).shown() == [["1", "4", "4", "", "", "0", "1 min 01 s"]]


def test_the_list_of_runs_shows_hostile_names_as_text() -> None:
    assert tables.runs([run("x\x1b[31m", FRONT)]).shown()[0] == [
        "x\\x1b[31m", "finished", "1", "4", "3", "digits", "nsga2", "error 0.1",
    ]  # fmt: skip


def test_runs_are_compared_below_one_shared_reference_point() -> None:
    better = [row(0, error=0.1, params=100.0), row(1, error=0.2, params=50.0)]
    worse = [row(0, error=0.3, params=200.0)]
    first, second = tables.compare([run("a", better), run("b", worse)]).records()
    # worst values 0.3 and 200, plus a tenth of the ranges 0.2 and 150
    assert first["hypervolume"] == pytest.approx((0.32 - 0.2) * (215 - 50) + (0.2 - 0.1) * (215 - 100))
    assert second["hypervolume"] == pytest.approx((0.32 - 0.3) * (215 - 200))
    assert first["hypervolume_at_equal"] == pytest.approx((0.32 - 0.1) * (215 - 100))
    assert (first["best_params"], second["best_params"]) == (50.0, 200.0)


def test_runs_of_other_objectives_are_not_compared() -> None:
    with pytest.raises(RecipeError, match="a has the objectives error, params, b has error: compare runs of the same"):
        tables.compare([run("a", FRONT), run("b", FRONT, (ERROR,))])


def test_layers_of_a_plan() -> None:
    plan = Plan((Step("input", "input", (), (1, 8, 8)), Step("layer1", "linear", (0,), (10,), {}, 650, 1280)))
    assert tables.layers(plan).shown()[1] == ["layer1", "linear", "input", "10", "650", "1280"]


# -------------------------------------------------------------------------------------------------------- live view

PROGRESS = Progress(
    "generation", "first\x1b[0m", 3, 10, objectives=(ERROR, PARAMS), evaluations=60, failures=2, species=4, workers=2,
    best={"error": 0.0123, "params": 1234}, hypervolume=0.9, front=((0.0123, 1e5), (0.2, 1234)), seconds=75, eta=200,
)  # fmt: skip


def test_a_generation_in_one_line() -> None:
    assert live.line(PROGRESS) == (
        "generation 3/10, 60 evaluated by 2 workers, 2 failed, error 0.0123, params 1234, hypervolume 0.9, front 2, "
        "4 species, 1 min 15 s, about 3 min 20 s left"
    )


def test_the_panel_fits_80_columns_and_shows_hostile_names_as_text() -> None:
    from rich.console import Console

    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(live.panel(PROGRESS, [0.1, 0.5, 0.9]))
    shown = console.export_text()
    assert "evonas run first\\x1b[0m" in shown
    assert "3 of 10" in shown
    assert "▁▅█" in shown or "▁▄█" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_panel_of_a_run_that_has_just_begun() -> None:
    from rich.console import Console

    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(live.panel(Progress("start", "first", 0, 10)))
    assert "0 of 10" in console.export_text()


def test_the_scatter_puts_small_values_low_and_left() -> None:
    lines = live.scatter([(0.1, 1.0), (0.2, 2.0)], (ERROR, PARAMS), width=4, height=2)
    assert lines == ["error", "0.2 │   ●", "0.1 │●   ", "    └────", "     1  2 params"]
    assert live.scatter([(0.1, 1.0)], (ERROR, PARAMS)) == []
    assert live.scatter([(0.1,), (0.2,)], (ERROR,)) == []


def test_the_scatter_of_equal_points_is_drawn() -> None:
    assert len(live.scatter([(0.1, 1.0), (0.1, 1.0)], (ERROR, PARAMS))) == 11


def test_the_sparkline_keeps_to_its_width() -> None:
    assert live.sparkline([]) == ""
    assert live.sparkline([1.0, 1.0]) == "▁▁"
    assert live.sparkline(list(range(100)), width=3) == "▁▅█"
