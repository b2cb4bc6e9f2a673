"""Tables of a run: exact values for CSV and JSON, short ones for people. Nothing here prints or writes.

A `Run` goes in, a `Table` comes out; names and reasons, which others may have chosen, are shown as plain text only."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evonas.core import Json, Objective, RecipeError, nearest
from evonas.report import rails

if TYPE_CHECKING:
    from evonas.encoding.plan import Plan
    from evonas.results import Bequest, Row, Run
    from evonas.zoo import Entry

Show = Callable[[Any], str]


# ---------------------------------------------------------------------------------------------------------- numbers


def plain(text: object) -> str:
    """Text without control characters and direction marks, which could redraw a terminal: `\\x1b` in their place."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def number(value: float) -> str:
    """A number for people: 4 significant digits, 12345 -> `12.35k`, 0.034567 -> `0.03457`."""
    if isinstance(value, int) and abs(value) < 10_000:
        return str(value)
    if abs(value) >= 1e15:  # no suffix reaches there
        return f"{value:.4g}"
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        # 999,960,000 rounds to 1G rather than to 1000M
        if abs(value) >= limit * 0.99995:
            return f"{value / (1e3 if suffix == 'k' else limit):.4g}{suffix}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time for people: `4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The course of the last values as a row of bars."""
    values = [value for value in values if math.isfinite(value)][-width:]
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def _exact(value: Any) -> str:
    return str(value)


def _mark(value: Any) -> str:
    return "knee" if value else ""


def _course(sizes: Sequence[int], width: int = 32) -> str:
    """Sizes as a row of bars from 0 on; of a long life each bar is the mean of some generations."""
    each = -(-len(sizes) // width)
    means = [sum(part) / len(part) for part in (sizes[i : i + each] for i in range(0, len(sizes), each))]
    top = max(means, default=0) or 1
    return "".join(_BARS[round(size / top * (len(_BARS) - 1))] for size in means)


def _listed(value: Iterable[Any]) -> str:
    return ", ".join(plain(one) for one in value)


# ----------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its key in CSV and JSON, its heading for people, and how its values are shown to them."""

    key: str
    title: str
    show: Show = _exact
    right: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of exact values; `marked` holds the positions of rows that stand out."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Json, ...], ...]
    marked: frozenset[int] = frozenset()

    def shown(self) -> list[list[str]]:
        """The rows as people read them; a missing value is an empty text."""
        return [
            [
                "" if value is None else plain(column.show(value))
                for column, value in zip(self.columns, row, strict=True)
            ]
            for row in self.rows
        ]

    def records(self) -> list[dict[str, Json]]:
        """The rows as mappings of exact values."""
        keys = [column.key for column in self.columns]
        return [dict(zip(keys, row, strict=True)) for row in self.rows]


def to_csv(table: Table) -> str:
    """Exact values as CSV with a line of keys; lists and mappings are joined by blanks, missing values are empty. Text
    that a spreadsheet would take for a formula gets an apostrophe before it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(column.key) for column in table.columns])
    writer.writerows([[_cell(value) for value in row] for row in table.rows])
    return buffer.getvalue()


def to_json(table: Table) -> str:
    """Exact values as a JSON list with one object per row."""
    return json.dumps(table.records(), indent=2, allow_nan=False) + "\n"


def to_markdown(table: Table) -> str:
    """What people read, as a Markdown table for notes and reports."""
    heads = [_marked(plain(column.title)) or " " for column in table.columns]
    rules = ["---:" if column.right else ":---" for column in table.columns]
    lines = [heads, rules, *([_marked(cell) for cell in row] for row in table.shown())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _marked(text: str) -> str:
    """Text as Markdown shows it: neither an end of its cell, nor a link, a picture, code or HTML."""
    return re.sub(r"([\\|\[\]`!])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def _cell(value: Json) -> Json:
    if isinstance(value, (list, tuple)):
        return _inert(" ".join(map(plain, value)))
    if isinstance(value, Mapping):
        return _inert(" ".join(f"{plain(key)}={plain(held)}" for key, held in value.items()))
    return _inert(plain(value)) if isinstance(value, str) else value


def _inert(text: str) -> str:
    """Text that no spreadsheet reckons."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


# ------------------------------------------------------------------------------------------------------- individuals


def with_rails(table: Table, rows: Sequence[Row]) -> Table:
    """A table of ancestors with rails before it that join children to their parents."""
    at = {row.id: i for i, row in enumerate(rows)}
    drawn = rails.drawn([[at[parent] for parent in row.parents if parent in at] for row in rows])
    lines = tuple((rail, *row) for rail, row in zip(drawn, table.rows, strict=True))
    return Table((Column("rails", "", right=False), *table.columns), lines, table.marked)


def individuals(rows: Sequence[Row], objectives: Sequence[Objective]) -> Table:
    """Individuals with objective values, network, species and birth; test values and failures where there are any."""
    cheap = {one.name for one in objectives if one.cheap}
    tested = list(dict.fromkeys(name for row in rows for name in row.tested if name not in cheap))
    failed = any(row.status != "ok" for row in rows)
    columns = [
        Column("id", "id"),
        *(objective_column(one) for one in objectives),
        *(Column(f"test_{name}", f"test {name}", _shown_as(name, objectives)) for name in tested),
        Column("knee", "", _mark, right=False),
        Column("species", "species"),
        Column("birth", "born"),
        Column("network", "network", right=False),
        *([Column("status", "status", right=False), Column("reason", "reason", right=False)] if failed else []),
    ]
    return Table(
        tuple(columns),
        tuple(_individual(row, objectives, tested, failed) for row in rows),
        frozenset(i for i, row in enumerate(rows) if row.knee),
    )


def _individual(row: Row, objectives: Sequence[Objective], tested: Sequence[str], failed: bool) -> tuple[Json, ...]:
    values = [row.values.get(one.name) for one in objectives]
    tests = [row.tested.get(name) for name in tested]
    state = [row.status, row.reason] if failed else []
    return (row.id, *values, *tests, row.knee, row.species, row.birth, row.summary, *state)


def objective_column(objective: Objective) -> Column:
    """An objective as a column: its unit and, for what is maximised, its direction in the heading."""
    unit = f" [{objective.unit}]" if objective.unit else ""
    return Column(objective.name, f"{objective.name}{unit}{' ↑' if objective.direction == 'max' else ''}", number)


def _shown_as(name: str, objectives: Sequence[Objective]) -> Show:
    return next((objective_column(one).show for one in objectives if one.name == name), number)


def find(objectives: Sequence[Objective], name: str) -> Objective:
    """The objective of that name; RecipeError with the nearest."""
    for objective in objectives:
        if objective.name == name:
            return objective
    raise RecipeError(f"objective {name!r} is not one of this run's; {nearest(name, [o.name for o in objectives])}")


def ordered(rows: Iterable[Row], objective: Objective) -> list[Row]:
    """Rows by one objective, best first; those without a value at the end."""

    def merit(row: Row) -> tuple[float, int]:
        value = row.values.get(objective.name)
        return (math.inf if value is None else objective.loss(value)), row.id

    return sorted(rows, key=merit)


def within(rows: Iterable[Row], limits: Sequence[tuple[Objective, float]]) -> list[Row]:
    """Rows that keep every limit: at most it where less is better, else at least it. RecipeError if none does."""
    rows = [row for row in rows if all(one.name in row.values for one, _ in limits)]
    kept = [row for row in rows if all(one.loss(row.values[one.name]) <= one.loss(limit) for one, limit in limits)]
    if kept or not rows:
        return kept
    best = [(one, min((row.values[one.name] for row in rows), key=one.loss), limit) for one, limit in limits]
    out_of_reach = [
        f"the best {one.name} is {number(value)}" for one, value, limit in best if one.loss(value) > one.loss(limit)
    ]
    wanted = " and ".join(
        f"{one.name} {'<=' if one.direction == 'min' else '>='} {number(limit)}" for one, limit in limits
    )
    raise RecipeError(f"no network has {wanted}: {'; '.join(out_of_reach) or 'none keeps all of these at once'}")


def lineage(rows: Sequence[Row], edits: Mapping[int, Sequence[object]], objectives: Sequence[Objective]) -> Table:
    """Ancestors from the founders to the child: parents, the edits that made each, objective values; where weights were
    inherited, also their share, the error before any training and after distillation, and what training took."""
    costs = [column for column in _INHERITED if any(column.key in row.cost for row in rows)]
    if costs:
        costs += _TRAINED
    columns = (
        Column("birth", "born"),
        Column("id", "id"),
        Column("parents", "parents", _listed, right=False),
        *costs,
        *(objective_column(one) for one in objectives),
        Column("edits", "edits", lambda made: "; ".join(map(str, made)), right=False),
    )
    made = {row.id: [str(edit) for edit in edits.get(row.id, ())] for row in rows}
    return Table(
        columns,
        tuple(
            (
                row.birth,
                row.id,
                list(row.parents),
                *(row.cost.get(column.key) for column in costs),
                *(row.values.get(one.name) for one in objectives),
                made[row.id],
            )
            for row in rows
        ),
    )


def _percent(value: float) -> str:
    return f"{value:.0%}"


_INHERITED = (
    Column("inherited", "inherited", _percent),
    Column("birth_error", "error at birth", number),
    Column("distilled_error", "distilled", number),
)
_TRAINED = (Column("epochs", "epochs", number), Column("samples", "samples", number))


def bequests(found: Iterable[Bequest]) -> Table:
    """By gene of a network: which parents its numbers came from, and in whom they were first drawn."""

    def shares(value: Mapping[str, float]) -> str:
        return ", ".join(f"{who} {_percent(share)}" if share < 1 else str(who) for who, share in value.items())

    columns = (
        Column("gene", "gene", right=False),
        Column("op", "layer", right=False),
        Column("params", "params", number),
        Column("parents", "from parent", shares, right=False),
        Column("first", "first drawn in", shares, right=False),
    )
    rows = [
        (
            one.gene,
            one.op,
            one.params,
            *({str(id): share for id, share in held.items()} for held in (one.parents, one.first)),
        )
        for one in found
    ]
    return Table(columns, tuple(rows))


# -------------------------------------------------------------------------------------------------------------- runs


def species_history(history: Sequence[Mapping[str, Any]], objectives: Sequence[Objective]) -> Table:
    """Every species that ever lived: when it was born and last seen, its largest size, its best value and when, and
    its size over its generations."""
    first = objectives[0]
    columns = (
        Column("species", "species"),
        Column("born", "born"),
        Column("last", "last"),
        Column("largest", "largest"),
        Column("best", f"best {first.name}", number),
        Column("improved", "improved"),
        Column("sizes", "size over its life", _course, right=False),
    )
    lives: dict[int, list[Mapping[str, Any]]] = {}
    for one in sorted(history, key=lambda one: one["generation"]):
        lives.setdefault(one["species"], []).append(one)
    return Table(
        columns,
        tuple(
            (
                id,
                life[-1]["born"],
                life[-1]["generation"],
                max(one["size"] for one in life),
                None if life[-1]["best"] is None else first.loss(life[-1]["best"]),
                life[-1]["improved"],
                [one["size"] for one in life],
            )
            for id, life in sorted(lives.items())
        ),
    )


def species(history: Sequence[Mapping[str, Any]], objectives: Sequence[Objective]) -> Table:
    """The species of the newest generation: size, age, best value of the first objective, when it last improved."""
    newest = max((one["generation"] for one in history), default=None)
    first = objectives[0]
    columns = (
        Column("species", "species"),
        Column("size", "size"),
        Column("best", f"best {first.name}", number),
        Column("representative", "representative"),
        Column("born", "born"),
        Column("improved", "improved"),
        Column("members", "members", _listed, right=False),
    )
    living = [one for one in history if one["generation"] == newest]
    return Table(
        columns,
        tuple(
            (
                one["species"],
                one["size"],
                # stored as a loss; for what is maximised the loss is the negative value
                None if one["best"] is None else first.loss(one["best"]),
                one["representative"],
                one["born"],
                one["improved"],
                list(one["members"]),
            )
            for one in living
        ),
    )


def generations(history: Sequence[Mapping[str, Any]], objectives: Sequence[Objective]) -> Table:
    """One row per generation: evaluations, failures, the front's best values, hypervolume, species, time."""
    columns = (
        Column("generation", "gen."),
        Column("evaluations", "evaluated"),
        Column("failed", "failed"),
        *(Column(f"best_{one.name}", f"best {one.name}", number) for one in objectives),
        Column("hypervolume", "hypervolume", number),
        Column("species", "species"),
        Column("seconds", "time", duration),
    )
    return Table(columns, tuple(_generation(one, objectives) for one in history))


def _generation(one: Mapping[str, Any], objectives: Sequence[Objective]) -> tuple[Json, ...]:
    best = [one["best"].get(objective.name) for objective in objectives]
    return (
        one["generation"],
        one["evaluations"],
        one["failed"],
        *best,
        one["hypervolume"],
        one["species"],
        one["seconds"],
    )


def runs(found: Sequence[Run]) -> Table:
    """Runs of a folder: state, progress, task, objectives with the best values so far."""
    columns = (
        Column("name", "name", right=False),
        Column("status", "status", right=False),
        Column("generation", "gen."),
        Column("generations", "of"),
        Column("evaluations", "evaluated"),
        Column("task", "task", right=False),
        Column("strategy", "strategy", right=False),
        Column("best", "best", _best, right=False),
    )
    return Table(columns, tuple(_run(one) for one in found))


def _run(run: Run) -> tuple[Json, ...]:
    history = run.generations()
    last: Mapping[str, Any] = history[-1] if history else {"evaluations": 0, "best": {}}
    recipe = run.recipe
    return (
        run.name, run.status, len(history), recipe.strategy.generations, last["evaluations"], recipe.task.kind,
        recipe.strategy.kind, dict(last.get("best", {})),
    )  # fmt: skip


def _best(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())


def compare(compared: Sequence[Run]) -> Table:
    """Runs side by side: hypervolume below one shared reference point, at the end and at equal numbers of evaluations.

    The reference point is the worst value of each objective over all fronts, plus a tenth of its range. Raises
    RecipeError where the runs' objectives differ."""
    objectives = _shared_objectives(compared)
    fronts = [run.front() for run in compared]
    reference = _reference([row for front in fronts for row in front], objectives)
    evaluations = [run.generations()[-1]["evaluations"] if run.generations() else 0 for run in compared]
    equal = min(evaluations)
    columns = (
        Column("run", "run", right=False),
        Column("strategy", "strategy", right=False),
        Column("seed", "seed"),
        Column("evaluations", "evaluated"),
        Column("failed", "failed"),
        Column("front", "front"),
        *(Column(f"best_{one.name}", f"best {one.name}", number) for one in objectives),
        Column("hypervolume", "hypervolume", number),
        Column("hypervolume_at_equal", f"at {equal}", number),
    )
    rows = []
    for run, front, count in zip(compared, fronts, evaluations, strict=True):
        early = [row for row in run.individuals()[:equal] if row.status == "ok" and _feasible(row, objectives)]
        rows.append((
            run.name, run.recipe.strategy.kind, run.recipe.seed, count, sum(one["failed"] for one in run.generations()),
            len(front), *(_extreme(front, one) for one in objectives), _hypervolume(front, objectives, reference),
            _hypervolume(early, objectives, reference),
        ))  # fmt: skip
    return Table(columns, tuple(rows))


def _shared_objectives(compared: Sequence[Run]) -> Sequence[Objective]:
    first = compared[0].objectives
    for run in compared[1:]:
        if [(o.name, o.unit, o.direction) for o in run.objectives] != [(o.name, o.unit, o.direction) for o in first]:
            names = [", ".join(o.name for o in one.objectives) for one in (compared[0], run)]
            differ = f"{plain(compared[0].name)} has the objectives {names[0]}, {plain(run.name)} has {names[1]}"
            raise RecipeError(f"{differ}: compare runs of the same objectives")
    return first


def _feasible(row: Row, objectives: Sequence[Objective]) -> bool:
    return all(one.violation(row.values[one.name]) == 0 for one in objectives)


def _losses(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[list[float]]:
    return [[one.loss(row.values[one.name]) for one in objectives] for row in rows]


def _reference(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[float]:
    columns = list(zip(*_losses(rows, objectives), strict=True))
    return [max(column) + 0.1 * ((max(column) - min(column)) or abs(max(column)) or 1.0) for column in columns]


def _hypervolume(rows: Sequence[Row], objectives: Sequence[Objective], reference: Sequence[float]) -> float | None:
    from evonas import pareto

    return pareto.hypervolume(_losses(rows, objectives), reference) if rows else None


def _extreme(rows: Sequence[Row], objective: Objective) -> float | None:
    return min((row.values[objective.name] for row in rows), key=objective.loss, default=None)


# ------------------------------------------------------------------------------------------------------------- zoo


def zoo(entries: Iterable[Entry]) -> Table:
    """The zoo's genomes with their tasks and sizes."""
    columns = (
        Column("name", "name", right=False),
        Column("task", "task", right=False),
        Column("input", "input", lambda shape: "x".join(map(str, shape)), right=False),
        Column("params", "params", number),
        Column("flops", "FLOPs", number),
        Column("about", "about", right=False),
        Column("source", "source", right=False),
    )
    return Table(columns, tuple((e.name, e.task, list(e.input), e.params, e.flops, e.about, e.source) for e in entries))


def layers(plan: Plan) -> Table:
    """The steps of a network: operation, inputs, output shape, parameters, FLOPs; of a direct genome its `genes`."""
    if plan.steps[-1].op == "graph":
        return genes(plan)
    columns = (
        Column("name", "name", right=False),
        Column("op", "operation", right=False),
        Column("inputs", "from", _listed, right=False),
        Column("shape", "shape", lambda shape: "x".join(map(str, shape)), right=False),
        Column("params", "params", number),
        Column("flops", "FLOPs", number),
    )
    names = [step.name for step in plan.steps]
    return Table(
        columns,
        tuple(
            (step.name, step.op, [names[i] for i in step.inputs], list(step.shape), step.params, step.flops)
            for step in plan.steps
        ),
    )


def genes(plan: Plan) -> Table:
    """A direct genome's genes: a row per node that is no input, then a row per link."""
    columns = (
        Column("gene", "gene", right=False),
        Column("mark", "mark"),
        Column("source", "from"),
        Column("target", "to"),
        Column("weight", "weight", number),
        Column("enabled", "enabled", lambda on: "yes" if on else "no", right=False),
        Column("bias", "bias", number),
        Column("response", "response", number),
        Column("activation", "activation", right=False),
        Column("aggregation", "aggregation", right=False),
    )
    graph = plan.steps[-1].settings
    first = graph["inputs"] + graph["outputs"]
    nodes = [
        ("hidden" if row[0] >= first else "output", row[0], None, None, None, None, *row[1:]) for row in graph["nodes"]
    ]
    links = [("link", *row[:4], bool(row[4]), None, None, None, None) for row in graph["links"]]
    return Table(columns, (*nodes, *links))
