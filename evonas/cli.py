"""The command line: parse, call, print. The only module that prints; data go to stdout, everything else to stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from evonas import imported
from evonas.core import DataError, EvonasError, LockedError, Quantity, RecipeError, StorageError, nearest
from evonas.report import tables, upkeep
from evonas.report.progress import Progress
from evonas.report.tables import Table, duration, number, plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from evonas.core import Genome, Json
    from evonas.encoding.plan import Plan
    from evonas.preview import Preview, Range
    from evonas.results import Row, Run
    from evonas.run import Observer
    from evonas.studies.engine import StudyProgress
    from evonas.studies.findings import Findings

RUNS = "runs"
_RAILED = 60
"""Ancestors that a lineage draws rails for; of more these would be wider than the table."""

ERROR, FAILED = 70, 74
"""Exit codes for what evonas did not foresee, and for what the file system refused."""


class Format(StrEnum):
    """How a table is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


class Exported(StrEnum):
    """What a network is exported to."""

    module = "module"
    onnx = "onnx"
    torch_export = "torch-export"
    genome = "genome"


class Figured(StrEnum):
    """What a picture of a study shows."""

    best = "best"
    hypervolume = "hypervolume"


app = typer.Typer(
    name="evonas",
    help="Evolve neural network architectures; get a Pareto front of trained PyTorch networks.",
    epilog="First steps:  evonas init  |  evonas check recipe.yaml  |  evonas run recipe.yaml  |  evonas front recipe",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
_RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder.", show_default=False)]
_Id = Annotated[str, typer.Argument(metavar="ID", help="An individual's id, 'knee' or 'best'.", show_default=False)]
_Runs = Annotated[Path, typer.Option("--runs", envvar="EVONAS_RUNS", help="The folder of run folders.")]
_Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be repeated.")
]
_Workers = Annotated[str | None, typer.Option("--workers", metavar="N", help="Processes at work at a time.")]
_Pool = Annotated[str | None, typer.Option("--pool", metavar="KIND", help="Where to train: processes, serial, ray.")]
_Json = Annotated[bool, typer.Option("--json", help="Print progress and front as JSON lines.")]
_Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="A picture (.svg, .png, .pdf) or the table (.csv, .json, .md, .parquet)."),
]
_Format = Annotated[Format, typer.Option("--format", "-f", help="How to print.")]


# ------------------------------------------------------------------------------------------------- starting searches


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("recipe.yaml"),
    task: Annotated[str, typer.Option("--task", help="What is to be solved, such as digits or csv.")] = "digits",
) -> None:
    """Write a commented recipe to start from.

    Example: evonas init flowers.yaml --task iris
    """
    from evonas import recipe

    _write_new(path, recipe.starter(task, str(path)))
    _say(f"wrote {path}; next:")
    _suggest([(f"evonas check {path}", "sizes and cost"), (f"evonas run {path}", "the search")])


@app.command()
def check(recipe: _RecipePath, set_: _Set = [], runs: _Runs = Path(RUNS)) -> None:  # noqa: B006
    """Check a recipe and reckon its sizes and cost, without training.

    Example: evonas check examples/digits.yaml --set strategy.generations=40
    Example: evonas check mine.yaml --allow-code
    """
    from evonas import recipe as recipes

    checked = recipes.read(recipe, _overrides(set_))
    from evonas.preview import preview

    _print_preview(str(recipe), preview(checked, runs))


@app.command()
def run(
    recipe: _RecipePath,
    name: Annotated[str | None, typer.Option("--name", help="The run's name; the recipe's unless given.")] = None,
    runs: _Runs = Path(RUNS),
    seed: Annotated[int | None, typer.Option("--seed", help="The seed, in place of the recipe's.")] = None,
    set_: _Set = [],  # noqa: B006
    workers: _Workers = None,
    pool: _Pool = None,
    as_json: _Json = False,
) -> None:
    """Run a search to its end. Ctrl-C stops it cleanly; `evonas resume` goes on exactly where it stood.

    Example: evonas run examples/digits.yaml --name first --set strategy.generations=20 --workers 2
    Example: evonas run mine.yaml --allow-code
    """
    from evonas import recipe as recipes

    changes = _overrides(set_, {"seed": seed, "pool.kind": pool, "pool.workers": workers})
    checked = recipes.read(recipe, changes)
    from evonas import run as engine

    with _watching(as_json) as observer:
        found = engine.start(checked, name=name, runs=runs, observer=observer)
    with found:
        _print_result(found, runs, as_json)


@app.command()
def resume(
    run: _RunName,
    recipe: Annotated[Path | None, typer.Argument(help="A recipe with new limits.", show_default=False)] = None,
    generations: Annotated[
        str | None, typer.Option("--generations", metavar="N|+N", help="Generations in all, or +N for N more.")
    ] = None,
    runs: _Runs = Path(RUNS),
    set_: _Set = [],  # noqa: B006
    workers: _Workers = None,
    pool: _Pool = None,
    as_json: _Json = False,
) -> None:
    """Go on with an interrupted, killed or finished run, exactly where it stood.

    Example: evonas resume first --generations +20
    """
    folder = _folder(run, runs)
    changes = _overrides(set_, {"pool.kind": pool, "pool.workers": workers})
    from evonas import run as engine

    with _watching(as_json) as observer:
        found = engine.resume(folder, generations=generations, recipe=recipe, overrides=changes, observer=observer)
    with found:
        _print_result(found, runs, as_json)


@app.command("test")
def test_(
    run: _RunName,
    ids: Annotated[str | None, typer.Option("--ids", metavar="ID,ID", help="Members to train, such as 12,40.")] = None,
    pick: Annotated[int | None, typer.Option("--pick", min=1, help="Or so many, spread over the front.")] = None,
    runs: _Runs = Path(RUNS),
    format: _Format = Format.table,
) -> None:
    """Train front members to the end by the recipe's `final` section and touch the test set once.

    Example: evonas test first --pick 3
    """
    if ids is not None and pick is not None:
        raise RecipeError("--ids and --pick both choose the networks: give one of them")
    folder = _folder(run, runs)
    from evonas import run as engine

    with engine.open(folder) as found:
        chosen = _ids(found, ids) if ids is not None else None
    with _watching(as_json=False) as observer:
        found = engine.test(folder, chosen, pick=pick, observer=observer)
    with found:
        rows = [row for row in found.individuals() if row.tested]
        _print_table(tables.individuals(rows, found.objectives), format)
        _tell_agreement(found, tested=True)


# --------------------------------------------------------------------------------------------------- looking at them


@app.command("list")
def list_(runs: _Runs = Path(RUNS), format: _Format = Format.table) -> None:
    """List the runs of a folder.

    Example: evonas list --runs runs
    """
    with ExitStack() as stack:
        found = [stack.enter_context(one) for one in _readable(runs)]
        if found or format is not Format.table:
            _print_table(tables.runs(found), format)
        else:
            _say(f"no runs in {runs} yet; start one with: evonas run RECIPE")


@app.command()
def show(run: _RunName, runs: _Runs = Path(RUNS), format: _Format = Format.table, output: _Output = None) -> None:
    """Show how a run went: its generations, what happened, and on which machine; or draw its hypervolume.

    Example: evonas show first
    Example: evonas show first -o hypervolume.svg
    """
    with _opened(run, runs) as found:
        table = tables.generations(found.generations(), found.objectives)
        if output is not None:
            _write_output(table, output, lambda path: found.plot.hypervolume(path))
            return
        if format is not Format.table:
            _print_table(table, format)
            return
        _print_facts(_run_facts(found))
        _print_table(table, format)
        for event in found.events():
            sys.stdout.write(plain(f"{event['kind']}: {event['text']}") + "\n")


@app.command()
def front(
    run: _RunName,
    runs: _Runs = Path(RUNS),
    format: _Format = Format.table,
    by: Annotated[str | None, typer.Option("--by", metavar="OBJECTIVE", help="Sort by it, best first.")] = None,
    budget: Annotated[
        list[str], typer.Option("--budget", metavar="OBJECTIVE=LIMIT", help="Only the best one within it; repeatable.")
    ] = [],  # noqa: B006
    everyone: Annotated[bool, typer.Option("--all", help="Every individual of the run, not the front alone.")] = False,
    output: _Output = None,
) -> None:
    """Print the Pareto front; the knee, the best trade-off, is marked.

    Example: evonas front first --by params
    Example: evonas front first --budget params=100k --format json
    Example: evonas front first -o front.svg
    Example: evonas front first --all -o individuals.parquet
    """
    with _opened(run, runs) as found:
        rows: Sequence[Row] = found.individuals() if everyone else found.front()
        if by is not None or budget:
            chosen = tables.find(found.objectives, by) if by is not None else found.objectives[0]
            limits = [_limit(found, one) for one in budget]
            rows = tables.ordered(tables.within(rows, limits), chosen)[: 1 if budget else None]
        table = tables.individuals(rows, found.objectives)
        if output is not None:
            several = len(found.objectives) > 1
            _write_output(table, output, lambda path: found.plot.front(path) if several else found.plot.history(path))
            return
        if format is Format.table and sys.stdout.isatty() and not (everyone or by or budget):
            _print_scatter(found, rows)
        _print_table(table, format)
        if budget and format is Format.table and sys.stdout.isatty():
            _suggest_network(found, runs, rows[0].id)


@app.command()
def species(
    run: _RunName,
    runs: _Runs = Path(RUNS),
    format: _Format = Format.table,
    history: Annotated[bool, typer.Option("--history", help="Every species that ever lived, one a line.")] = False,
    output: _Output = None,
) -> None:
    """Print the species of the last generation or of all, or draw their sizes over the generations.

    Example: evonas species first --history
    Example: evonas species first -o species.png
    """
    with _opened(run, runs) as found:
        shown = tables.species_history if history else tables.species
        table = shown(found.species(), found.objectives)
        if output is not None:
            _write_output(table, output, lambda path: found.plot.species(path))
        else:
            _print_table(table, format)


@app.command()
def lineage(
    run: _RunName,
    id: _Id,
    runs: _Runs = Path(RUNS),
    format: _Format = Format.table,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Whose weights each layer was born with, instead of the ancestors.")
    ] = False,
    output: _Output = None,
) -> None:
    """Print an individual's ancestors from the founders on, with the edits that made each; where weights are inherited,
    also the error before and after training and what it took. Or draw their errors and sizes.

    Example: evonas lineage first 42
    Example: evonas lineage first 42 --tensors
    Example: evonas lineage first knee -o lineage.svg
    """
    with _opened(run, runs) as found:
        chosen = _id(found, id)
        if tensors:
            table = tables.bequests(found.bequests(chosen))
        else:
            rows = found.lineage(chosen)
            edits = {row.id: found.individual(row.id).edits for row in rows}
            table = tables.lineage(rows, edits, found.objectives)
        if output is not None:
            _write_output(table, output, lambda path: found.plot.lineage(chosen, path))
            return
        railed = format is Format.table and not tensors and len(rows) <= _RAILED
        _print_table(tables.with_rails(table, rows) if railed else table, format)
        if tensors:
            return
        ids = {row.id for row in rows}
        if any(not ids.issuperset(row.parents) for row in rows):
            _say("ancestors are missing: the run keeps champions only; `store: {individuals: all}` keeps every one")


@app.command()
def genome(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN|GENOME", help="A run; without ID a genome's file or name.", show_default=False),
    ],
    id: Annotated[
        str | None, typer.Argument(metavar="ID", help="An individual's id, 'knee' or 'best'.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file to write: .svg, .png or .pdf drawn, or .json.")
    ] = None,
    runs: _Runs = Path(RUNS),
    format: _Format = Format.table,
) -> None:
    """Show a network: its layers as text, or drawn into a file.

    Example: evonas genome first knee
    Example: evonas genome first 42 -o network.svg
    Example: evonas genome lenet-5
    """
    if id is None:
        shown = _of_file(run, runs)
        _show_network(shown, output, format)
        return
    with _opened(run, runs) as found:
        chosen = _id(found, id)
        title, told = plain(f"{found.name}, individual {chosen}"), found.encoding.to_json(found.genome(chosen))
        _show_network(_Shown(title, found.plan(chosen), found.genome(chosen), told), output, format)


@dataclasses.dataclass(frozen=True)
class _Shown:
    """A network to show: a title, its plan and genome, and the genome as JSON."""

    title: str
    plan: Plan
    genome: Genome
    json: Json


def _of_file(name: str, runs: Path) -> _Shown:
    """A genome's file, or one of the zoo. RecipeError where a run is named and its individual is not."""
    from evonas import zoo as shelf

    if (runs / name / "run.sqlite").is_file():
        raise RecipeError(f"which network of {plain(name)}? write an id, 'knee' or 'best' after it")
    entry, read, plan = shelf.decoded(name)
    return _Shown(plain(entry.name), plan, read, entry.genome)


def _show_network(shown: _Shown, output: Path | None, format: Format) -> None:
    from evonas.report import drawing

    told = json.dumps(shown.json, indent=1) + "\n"
    if output is not None and output.suffix == ".json":
        _write(output, told)
    elif output is not None:
        drawing.save(drawing.draw(shown.plan, shown.genome, title=shown.title), output)
    elif format is Format.json:
        sys.stdout.write(told)
    elif format is Format.table:
        sys.stdout.write(drawing.text(shown.plan) + "\n")
    else:
        _print_table(tables.layers(shown.plan), format)
    if output is not None:
        _say(f"wrote {output}")


@app.command()
def report(
    run: _RunName,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; RUN.html unless given.")] = None,
    still: Annotated[bool, typer.Option("--still", help="Still figures only: a tenth of the size, no script.")] = False,
    runs: _Runs = Path(RUNS),
) -> None:
    """Write a run as one HTML file that needs nothing else, to read or send: figures, networks, tables, recipe.

    Example: evonas report first -o report.html
    """
    with _opened(run, runs) as found:
        path = output or Path(f"{found.name}.html")
        from evonas.report import document

        text = document.document(found, interactive=not still)
    _write(path, text)
    _say(f"wrote {path} ({len(text.encode()) / 1e6:.1f} MB)")


@app.command()
def export(
    run: _RunName,
    id: _Id,
    to: Annotated[Exported, typer.Option("--to", help="What to write.")] = Exported.module,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The folder to write.")] = None,
    runs: _Runs = Path(RUNS),
) -> None:
    """Write a network as a self-contained PyTorch module with its weights and its genome, as an ONNX file, as a
    torch.export program (.pt2), or its genome alone; beside each a model card.

    Example: evonas export first knee -o exported
    Example: evonas export first best --to onnx
    """
    with _opened(run, runs) as found:
        chosen = _id(found, id)
        if output is not None and output.suffix in (".onnx", ".pt2", ".json", ".py"):
            raise RecipeError(f"-o {output} names a folder: write --to {to.value} -o {output.parent}")
        folder = output or Path(f"{found.name}-{chosen}")
        files = found.export(chosen, folder, to.value)
    _say(f"wrote {folder}: {', '.join(file.name for file in files)}")


@app.command()
def convert(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="neat-python's file (INI).", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The recipe to write.")] = Path("recipe.yaml"),
) -> None:
    """Turn a neat-python configuration file into a recipe; every key that cannot be carried over is named.

    Example: evonas convert config-feedforward -o xor.yaml
    """
    from evonas.neat_python import convert as converted

    text, notes = converted(config)
    _write_new(output, text)
    for note in notes:
        _say(f"note: {note}")
    _say(f"wrote {output}; next:")
    _suggest([(f"evonas check {output}", "what it will do"), (f"evonas run {output}", "the search")])


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study, a YAML file.", show_default=False)],
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, metavar="N", help="So many seeds for every arm.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Processes at work; all cores unless given.")
    ] = None,
    only: Annotated[list[str], typer.Option("--only", metavar="ARM", help="Search for this arm; repeatable.")] = [],  # noqa: B006
    task: Annotated[list[str], typer.Option("--task", metavar="TASK", help="Search on this task; repeatable.")] = [],  # noqa: B006
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was found of them, and begin anew.")] = False,
    runs: _Runs = Path(RUNS),
    format: _Format = Format.table,
    output: _Output = None,
    figure: Annotated[
        Figured | None, typer.Option("--figure", help="What a picture shows; hypervolume where there are fronts.")
    ] = None,
) -> None:
    """Carry out a study, many recipes x many seeds, and print what it found; what is there already is kept.

    Example: evonas study examples/studies/nasbench201.yaml --seeds 20
    Example: evonas study examples/studies/nasbench201.yaml -o best.pdf
    """
    from evonas import studies

    read = studies.read(file)
    from evonas.studies import engine

    with _following() as observer:
        found = engine.study(
            read, runs=runs, seeds=seeds, workers=workers, only=only, tasks=task, fresh=fresh, observer=observer
        )
    _print_study(found, file, format, output, figure)
    if found.failures:
        raise EvonasError("\n".join(found.failures))


@app.command()
def compare(
    run: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Runs' names or folders.", show_default=False)],
    runs: _Runs = Path(RUNS),
    format: _Format = Format.table,
) -> None:
    """Compare runs of the same objectives: hypervolume, best values, failures, at the end and at equal cost.

    Example: evonas compare first random
    """
    if len(run) < 2:
        raise RecipeError(f"compare needs two runs or more, such as: evonas compare {plain(run[0])} OTHER")
    from evonas import run as engine

    folders = [_folder(one, runs) for one in run]
    with ExitStack() as stack:
        _print_table(tables.compare([stack.enter_context(engine.open(one)) for one in folders]), format)


@app.command()
def verify(
    run: _RunName,
    runs: _Runs = Path(RUNS),
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Breed a run again from its database, without training, and confirm that every individual, species, front and
    state follows; check all rows and weights files. Names the first difference (exit code 65).

    Example: evonas verify first
    """
    folder = _folder(run, runs)
    from evonas.verify import verify as verified

    with _counting("generations") as told:
        found = verified(folder, told)
    _print_json(upkeep.verified_json(found)) if as_json else _print_facts(upkeep.verified(found))
    if not found.sound:
        raise DataError("\n".join(found.problems))


@app.command()
def gc(
    run: _RunName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted, and its size.")] = False,
    runs: _Runs = Path(RUNS),
    as_json: Annotated[bool, typer.Option("--json", help="Print every file as JSON.")] = False,
) -> None:
    """Delete what neither the recipe keeps (store.keep_weights, store.keep_generations) nor a resume needs: weights,
    unfinished files, scratch of workers that are gone; give back what the database does not use.

    Example: evonas gc first --dry-run
    """
    folder = _folder(run, runs)
    from evonas.retention import gc as collect

    found = collect(folder, dry_run)
    _print_json(upkeep.collected_json(found, dry_run)) if as_json else _print_facts(upkeep.collected(found, dry_run))


@app.command()
def repair(
    run: _RunName,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="The new folder; RUN-repaired unless given.")
    ] = None,
    runs: _Runs = Path(RUNS),
    as_json: Annotated[bool, typer.Option("--json", help="Print what was recovered and lost as JSON.")] = False,
) -> None:
    """Recover a damaged run folder into a new one, and say what was lost; the damaged one stays as it is. Rows are read
    wherever they are whole, births and fronts are bred again from the estimates that are left, and what is missing is
    estimated when the new run is resumed.

    Example: evonas repair first
    Example: evonas repair first --to runs/second
    """
    folder = runs / run if (runs / run).is_dir() else Path(run)
    from evonas.repair import repair as recover

    found = recover(folder, to)
    if as_json:
        _print_json(upkeep.repaired_json(found))
        return
    _print_facts(upkeep.repaired(found))
    _print_table(upkeep.losses(found), Format.table)
    name = found.folder.name if found.folder.parent == Path(RUNS) else str(found.folder)
    _suggest([(f"evonas verify {name}", "confirm it"), (f"evonas resume {name}", "go on with it")])


@app.command()
def zoo(format: _Format = Format.table) -> None:
    """List the zoo: published architectures that a recipe may start from (encoding.initial).

    Example: evonas zoo
    """
    from evonas import zoo as shelf

    _print_table(tables.zoo(shelf.entries()), format)


@app.command()
def dashboard(
    runs: Annotated[
        Path, typer.Argument(metavar="[RUNS]", envvar="EVONAS_RUNS", help="The folder of run folders.")
    ] = Path(RUNS),
    host: Annotated[
        str, typer.Option("--host", help="The address to serve at; others than this machine need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")] = 8050,
    token: Annotated[
        str, typer.Option("--token", envvar="EVONAS_TOKEN", help="What a browser has to show to be let in.")
    ] = "",
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Show runs in the browser, live while they go on: fronts, species, networks, lineages. It only reads.

    Example: evonas dashboard
    Example: evonas dashboard runs --port 8051 --open
    """
    from importlib.util import find_spec

    missing = [package for module, package in _DASHBOARD.items() if find_spec(module) is None]
    if missing:
        raise RecipeError(f"the dashboard needs {' and '.join(missing)}: pip install 'evonas[dashboard]'")
    from evonas.dashboard.server import Server

    server = Server(runs, host, port, token)
    _say(f"evonas dashboard of {runs}: {server.address}\nCtrl-C ends it")
    if open_:
        typer.launch(server.address)
    server.forever()


_DASHBOARD = {"dash": "dash", "dash_cytoscape": "dash-cytoscape"}
"""What the dashboard needs beside the rest: packages by their modules."""


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors.

    Example: evonas schema > recipe.schema.json
    """
    from evonas import recipe

    sys.stdout.write(json.dumps(recipe.schema(), indent=2) + "\n")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"evonas {version('evonas')}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Import what a recipe names as file.py:object: code that you trust.")
    ] = False,
) -> None:
    """Both are read in `call`, so that they may stand anywhere in the line."""


# ------------------------------------------------------------------------------------------------ errors, exit codes


def main() -> NoReturn:
    """The command `evonas`."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: Sequence[str]) -> int:
    """Carries out a command line and returns its exit code; every failure becomes a line or two on stderr."""
    debug, code = "--debug" in arguments, "--allow-code" in arguments
    warnings.showwarning = _show_warning
    try:
        with imported.everything() if code else nullcontext():
            app([one for one in arguments if one not in ("--debug", "--allow-code")], prog_name="evonas")
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        return _told(error)
    except KeyboardInterrupt:
        return 130
    return 0


def _told(error: Exception) -> int:
    """Prints what went wrong and returns the exit code that says so."""
    if isinstance(error, EvonasError):
        stopped = error.exit_code in (130, 143)
        found = getattr(error, "mistakes", ())  # of a recipe, one a line
        several = f"{len(found)} mistakes\n" + "\n".join(f"  {one}" for one in found)
        _complain(several if len(found) > 1 else str(error), "" if stopped else "error: ")
        return error.exit_code
    if isinstance(error, OSError):
        _complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return FAILED
    text = " ".join(str(error).split())[:300]
    _complain(f"evonas failed: {type(error).__name__}: {text}; run again with --debug and report what it prints")
    return ERROR


def _complain(message: str, head: str = "error: ") -> None:
    lines = [plain(line) for line in message.splitlines()] or [""]
    # rich takes a tenth of the half second that a bad recipe may take
    coloured = head and sys.stderr.isatty() and "NO_COLOR" not in os.environ
    sys.stderr.write((f"\x1b[1;31m{head}\x1b[0m" if coloured else head) + "\n".join(lines) + "\n")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _complain(" ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(message)).split()), "warning: ")


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise LockedError(f"{path} exists already: name another file, or remove it") from None
    except OSError as error:
        raise _refused("write", path, error) from None


def _refused(what: str, path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot {what} {path}: {error.strerror or error}")


# ----------------------------------------------------------------------------------------------------------- reading


def _overrides(texts: Sequence[str], options: Mapping[str, object] | None = None) -> dict[str, str]:
    """`--set key=value` and the options that stand for one, as the recipe's overrides."""
    changes = {key: str(value) for key, value in (options or {}).items() if value is not None}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise RecipeError(f"--set {text!r} is no key=value: write for example --set strategy.generations=20")
        changes[key.strip()] = value
    return changes


def _folder(run: str, runs: Path) -> Path:
    """The folder of a run that is named, or given as a path. RecipeError with the nearest names."""
    for folder in (runs / run, Path(run)):
        if (folder / "run.sqlite").is_file():
            return folder
    known = sorted(path.parent.name for path in runs.glob("*/run.sqlite")) if runs.is_dir() else []
    if not known:
        raise RecipeError(f"no run {run!r}: {runs} holds none yet; start one with: evonas run RECIPE")
    raise RecipeError(f"no run {run!r} in {runs}; {nearest(run, [plain(one) for one in known[:30]])}")


def _opened(run: str, runs: Path) -> Run:
    folder = _folder(run, runs)
    from evonas import run as engine

    return engine.open(folder)


def _readable(runs: Path) -> Iterator[Run]:
    """The runs of a folder; a damaged one is warned of and left out."""
    from evonas import run as engine

    for path in sorted(runs.glob("*/run.sqlite")) if runs.is_dir() else ():
        try:
            yield engine.open(path.parent)
        except EvonasError as error:
            _complain(str(error), "warning: ")


def _id(found: Run, text: str) -> int:
    """The id that a user names: a number, `knee`, or `best`: who reached the goal, or else in the first objective."""
    if text == "best" and found.solved is not None:
        return found.solved
    if text == "best":
        front = found.front()
        if not front:
            raise RecipeError(f"{found.name} has no front yet: let it run first: evonas resume {found.name}")
        return front[0].id
    if text == "knee":
        knee = found.knee()
        if knee is None:
            raise RecipeError(
                f"the front of {found.name} has no knee (it needs three networks): write best, or an id of evonas front"
            )
        return knee
    if not text.isascii() or not text.isdigit():
        cure = f"write a number of evonas front {found.name}, 'knee' or 'best'"
        raise RecipeError(f"{text!r} is no individual's id: {cure}")
    return int(text)


def _ids(found: Run, text: str) -> list[int]:
    return [_id(found, one.strip()) for one in text.split(",") if one.strip()]


def _limit(found: Run, text: str) -> tuple[Any, float]:
    from pydantic import TypeAdapter, ValidationError

    name, sign, value = text.partition("=")
    objective = tables.find(found.objectives, name.strip())
    try:
        return objective, TypeAdapter(Quantity).validate_python(value.strip())
    except ValidationError:
        sample = f"--budget {objective.name}=100k"
        raise RecipeError(
            f"--budget {text!r} has no limit{' that is a number' if sign else ''}: write {sample}"
        ) from None


# ---------------------------------------------------------------------------------------------------------- printing


def _out() -> Console:
    """Stdout; into a pipe no colours, and wide lines rather than broken words."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(width=wide, highlight=False, markup=False, emoji=False)


def _say(text: str) -> None:
    sys.stderr.write("\n".join(map(plain, text.split("\n"))) + "\n")


def _suggest(commands: Sequence[tuple[str, str]]) -> None:
    """Prints commands to try next, as they are called from here."""
    program = _program()
    commands = [(command.replace("evonas", program, 1), why) for command, why in commands]
    width = max(len(command) for command, _ in commands)
    for command, why in commands:
        _say(f"  {command:<{width}}  {why}")


def _program() -> str:
    """How evonas was called, where plain `evonas` would not be found: as after `make run`, which activates nothing."""
    from shutil import which

    called = Path(sys.argv[0])
    return str(called) if called.name == "evonas" and which("evonas") is None else "evonas"


def _print_table(table: Table, format: Format) -> None:
    if format is Format.table:
        _out().print(_drawn(table))
        return
    written = {Format.json: tables.to_json, Format.csv: tables.to_csv, Format.markdown: tables.to_markdown}[format]
    sys.stdout.write(written(table))


def _drawn(table: Table) -> RenderableType:
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    rows = list(table.shown())
    for at, column in enumerate(table.columns):
        longest = max([len(column.title), *(len(row[at]) for row in rows)])
        drawn.add_column(
            Text(plain(column.title)),
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="fold",
            min_width=None if column.right else min(longest, 20),
        )
    for i, row in enumerate(rows):
        drawn.add_row(*(Text(cell) for cell in row), style="bold green" if i in table.marked else None)
    return drawn


def _print_facts(facts: Sequence[tuple[str, str]]) -> None:
    from rich.table import Table as Drawn
    from rich.text import Text

    grid = Drawn.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in facts:
        grid.add_row(Text(label), Text(plain(text)))
    _out().print(grid)


def _print_json(data: Mapping[str, Json]) -> None:
    sys.stdout.write(json.dumps(data) + "\n")


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how much of long work is done: a line that is drawn anew on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _run_facts(found: Run) -> list[tuple[str, str]]:
    about, recipe = found.about, found.recipe
    done = len(found.generations())
    versions = ", ".join(f"{name} {about[name]}" for name in ("evonas", "python", "torch", "numpy") if about.get(name))
    return [
        ("run", f"{found.name}, {found.status}, {done} of {recipe.strategy.generations} generations"),
        ("folder", str(found.folder)),
        ("task", f"{recipe.task.kind}, input {_shape(about['task']['input'])}, {about['task']['outputs']} outputs"),
        ("search", f"{recipe.strategy.kind} on {recipe.encoding.kind}, seed {recipe.seed}"),
        ("objectives", ", ".join(f"{one.name} ({one.direction})" for one in found.objectives)),
        ("front", f"{len(found.front())} networks"),
        *([("goal", f"reached by individual {found.solved}")] if found.solved is not None else []),
        *([("ended early", saved)] if (saved := _saved(found)) else []),
        *([("fidelities", "; ".join(map(str, orders)))] if (orders := found.agreements()) else []),
        ("versions", versions),
        ("machine", f"{about.get('platform', '?')}, {about.get('cores', '?')} cores"),
    ]


def _saved(found: Run) -> str:
    saved = found.saved()
    if saved is None:
        return ""
    return f"{saved.pruned} trainings, which saved {number(saved.epochs)} epochs ({saved.share:.0%})"


def _tell_agreement(found: Run, tested: bool) -> None:
    """Says how far fidelities agree: of the search and the tests, or of promotions."""
    from evonas.agreement import TEST

    for one in found.agreements():
        if (one.high == TEST) == tested:
            _say(f"warning: {one.warning}" if one.warning else f"order by {one}")


def _print_preview(label: str, seen: Preview) -> None:
    rows = ", ".join(f"{count:,} {part}" for part, count in seen.rows.items())
    fed = f"; rows: {rows}" if rows else ""
    each = f"{seen.epochs} epochs each"
    if seen.later_epochs != seen.epochs:
        each = f"{seen.epochs} epochs from scratch, {seen.later_epochs} with inherited weights"
    each = f"rungs of {seen.rungs}" if seen.rungs else each
    trained = f"{each}, {number(seen.samples)} samples in all" if seen.epochs else "none trained"
    facts = [
        ("recipe", f"{label} is valid"),
        ("task", f"{seen.kind}, input {_shape(seen.input)}, {seen.outputs} outputs{fed}"),
        (
            "first networks",
            f"{seen.drawn} drawn: params {_range(seen.params)}, FLOPs {_range(seen.flops)}, depth {_range(seen.depth)}",
        ),
        ("evaluations", f"{seen.evaluations:,}, {trained}"),
    ]
    if seen.seconds is not None:
        cost = f"about {duration(seen.seconds)} on {seen.workers} workers of one core each ({number(seen.work)} FLOPs)"
        facts.append(("cost", f"{cost}, for networks like the first; they grow, so reckon with a few times that"))
    _print_facts(facts)


def _range(sizes: Range) -> str:
    return f"{number(sizes.low)} to {number(sizes.high)} (median {number(sizes.middle)})"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _write_output(table: Table, path: Path, draw: Callable[[Path], object]) -> None:
    """Writes a table, or what it shows as a picture: the ending of the name says which."""
    from evonas.report import frames

    if path.suffix.lower() in frames.ENDINGS:
        frames.write(table, path)
    elif path.suffix.lower() in (".svg", ".png", ".pdf"):
        draw(path)
    else:
        known = ", ".join((".svg", ".png", ".pdf", *frames.ENDINGS))
        raise RecipeError(f"no format {path.suffix!r}: end the file's name with {known}")
    _say(f"wrote {path}")


def _suggest_network(found: Run, runs: Path, id: int) -> None:
    name = _called(found, runs)
    _suggest([
        (f"evonas genome {name} {id}", "its layers"),
        (f"evonas lineage {name} {id}", "where it comes from: what each edit did"),
        (f"evonas export {name} {id} --to onnx", "take it away"),
    ])  # fmt: skip


def _called(found: Run, runs: Path) -> str:
    """A run as commands name it from here."""
    return found.name if str(runs) == RUNS else f"{found.name} --runs {runs}"


def _print_scatter(found: Run, rows: Sequence[Row]) -> None:
    """The front over its first two objectives, as lines of text."""
    from evonas.report import live

    names = [one.name for one in found.objectives]
    points = [[row.values[name] for name in names] for row in rows]
    for line in live.scatter(points, found.objectives):
        sys.stdout.write(line + "\n")
    sys.stdout.write("\n")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _refused("write", path, error) from None


# --------------------------------------------------------------------------------------------------------- live view


@contextmanager
def _watching(as_json: bool) -> Iterator[Observer]:
    """An observer that shows a run: JSON lines, a live panel on a terminal, else one line a generation."""
    if as_json:
        yield _print_event
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        from evonas.report import live

        view = live.View()
        console = Console(stderr=True, highlight=False)
        with Live(get_renderable=view.panel, console=console, refresh_per_second=4, transient=True) as shown:

            def follow(progress: Progress) -> None:
                view.tell(progress)
                if progress.kind not in ("batch", "test"):
                    shown.refresh()

            yield follow
    else:
        from evonas.report import live

        tested, told = -1, 0.0

        def tell(progress: Progress) -> None:
            nonlocal tested, told
            if progress.kind == "generation":
                _say(live.line(progress))
            elif progress.kind == "test" and (progress.done != tested or progress.seconds - told >= _PATIENCE):
                tested, told = progress.done, progress.seconds
                _say(live.training_line(progress))

        yield tell


@contextmanager
def _following() -> Iterator[Callable[[StudyProgress], None]]:
    """An observer that shows a study: a live panel on a terminal, else a line when an arm is done, or after a while."""
    from evonas.report import studies

    if not sys.stderr.isatty():
        told = 0.0

        def tell(progress: StudyProgress) -> None:
            nonlocal told
            done, wanted = progress.counts.get((progress.arm, progress.task), (0, 1))
            if progress.kind == "done" and (done == wanted or progress.seconds - told >= _PATIENCE):
                told = progress.seconds
                _say(studies.line(progress))

        yield tell
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True, highlight=False), refresh_per_second=4, transient=True) as shown:
        yield lambda progress: shown.update(studies.panel(progress))


_PATIENCE = 20.0
"""Seconds after which a study or final trainings say how far they are, even if nothing was done."""


def _print_study(found: Findings, file: Path, format: Format, output: Path | None, figure: Figured | None) -> None:
    from evonas.report import studies

    if output is not None:
        fronts = any("hypervolume" in found.whats(task) for task in found.tasks())
        shown = figure or (Figured.hypervolume if fronts else Figured.best)
        draw = found.plot.hypervolume if shown is Figured.hypervolume else found.plot.best
        _write_output(studies.long(found), output, draw)
        return
    if format is not Format.table:
        _print_table(studies.table(found) if format is Format.markdown else studies.long(found), format)
        return
    _print_facts(studies.facts(found))
    _print_table(found.table(), format)
    if sys.stdout.isatty() and found.cells:
        _suggest([(f"evonas study {file} -o {found.name}.svg", "the course of the searches, drawn")])


def _print_event(progress: Progress) -> None:
    if progress.kind != "batch":
        event = dataclasses.asdict(progress)
        event["objectives"] = [one.name for one in progress.objectives]
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def _print_result(found: Run, runs: Path, as_json: bool) -> None:
    """The front of a finished run and the commands to try next."""
    table = tables.individuals(found.front(), found.objectives)
    if as_json:
        result = {"kind": "front", "run": found.name, "folder": str(found.folder), "front": table.records()}
        sys.stdout.write(json.dumps(result) + "\n")
        return
    _print_table(table, Format.table)
    name = _called(found, runs)
    if found.solved is not None:
        _say(f"individual {found.solved} reached the goal after {found.generations()[-1]['evaluations']:,} evaluations")
    if saved := _saved(found):
        _say(f"ended early: {saved}")
    _tell_agreement(found, tested=False)
    best = found.solved if found.solved is not None else table.rows[0][0] if table.rows else 0
    whole = found.recipe.estimator.kind == "population"
    tested = ("", "measure it on what no search has seen") if whole else (
        " --pick 3", "train three to the end, touch the test set once"
    )  # fmt: skip
    _say(f"\n{found.folder} holds the run; next:")
    limit = _sample_budget(found)
    _suggest([
        *([(f"evonas front {name} --budget {limit}", "the best network within a budget")] if limit else []),
        (f"evonas lineage {name} {best}", "where a network comes from"),
        (f"evonas export {name} {best} --to onnx", "take it away; or as a PyTorch module: --to module"),
        (f"evonas report {name}", "everything on one page, to read or send"),
        (f"evonas test {name}{tested[0]}", tested[1]),
        (f"evonas resume {name} --generations +10", "search on"),
    ])  # fmt: skip


def _sample_budget(found: Run) -> str:
    """A limit that about half of the front keeps, `params=5000`; empty where there is little to choose."""
    front = found.front()
    if len(found.objectives) < 2 or len(front) < 3:
        return ""
    size = next((one for one in found.objectives[1:] if one.cheap), found.objectives[1])
    values = sorted(row.values[size.name] for row in front)
    return f"{size.name}={float(f'{values[len(values) // 2]:.2g}'):.10g}"
