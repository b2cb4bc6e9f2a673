"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evonas import cli
from evonas.core import DataError, LockedError, StorageError
from evonas.report.progress import Progress
from tests.conftest import Call

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "init", "check", "run", "resume", "list", "show", "front", "species", "lineage", "genome", "export", "test",
    "compare", "zoo", "schema", "report", "study",
]  # fmt: skip

CHEAP = """\
task: {kind: digits}
objectives: [params, {name: depth, direction: max}]
encoding: {bounds: {params: 20k}}
estimator: {kind: lookup}
strategy: {population: 8, generations: 3}
pool: {kind: serial}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two finished runs that trained nothing: `cheap` and `random`."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "cheap.yaml").write_text(CHEAP)
    for more in ((), ("--set", "strategy.kind=random", "--name", "random")):
        assert cli.call(["run", str(folder / "cheap.yaml"), "--runs", str(folder / "runs"), *more]) == 0
    return folder / "runs"


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished runs that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def front_of(call: Call, runs: Path, *options: str) -> list[dict[str, Any]]:
    code, out, _ = call("front", "cheap", "--runs", runs, "--format", "json", *options)
    assert code == 0
    records: list[dict[str, Any]] = json.loads(out)
    return records


# ------------------------------------------------------------------------------------------------------ help, version


def test_help_lists_every_command(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for command in COMMANDS:
        assert f" {command} " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_teaches_by_example(call: Call, command: str) -> None:
    code, out, _ = call(command, "--help")
    assert code == 0
    assert f"Example: evonas {command}" in out


def test_version(call: Call) -> None:
    code, out, _ = call("--version")
    assert code == 0
    assert out.startswith("evonas ")


def test_a_misspelt_command_or_option_names_the_nearest(call: Call) -> None:
    code, _, err = call("frnt")
    assert code == 2
    assert "front" in err
    code, _, err = call("run", "x.yaml", "--wokers", "2")
    assert code == 2
    assert "--workers" in err


def test_help_and_a_bad_recipe_load_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("task: {kind: digts}\nobjectives: [error]\n")
    heavy = ["torch", "deap", "sklearn", "moocore", "pymoo", "matplotlib", "scipy", "networkx", "numpy"]
    code = (
        "import sys; from evonas import cli\n"
        f"codes = cli.call(['--help']), cli.call(['check', {str(tmp_path / 'bad.yaml')!r}])\n"
        f"print(codes, [name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.splitlines()[-1] == "(0, 2) []"


# ------------------------------------------------------------------------------------------------- errors, exit codes


def test_one_mistake_is_one_line(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("task: {kind: digts}\nobjectives: [error]\n")
    code, out, err = call("check", path)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}:1: task.kind: 'digts' is not known; did you mean 'digits'?")
    assert err.count("\n") == 1


def test_several_mistakes_are_counted_and_listed(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("task: {kind: digts}\nobjectives: [eror]\n")
    code, _, err = call("run", path, "--set", "seed=x", "--runs", tmp_path / "runs")
    assert code == 2
    assert [line[: line.find("is not")] for line in err.splitlines()] == [
        "error: 3 mistake", f"  {path}:1: task.kind: 'digts' ", f"  {path}:2: objectives.0: objective 'eror' ",
        "  --set: seed: 'x' ",
    ]  # fmt: skip
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (DataError("row 3 is NaN: mend it"), 65, "error: row 3 is NaN: mend it\n"),
        (LockedError("in use by process 7"), 73, "error: in use by process 7\n"),
        (StorageError("disk full"), 74, "error: disk full\n"),
        (OSError(28, "No space left on device", "/x"), 74, "error: No space left on device: /x\n"),
        (KeyError("x"), 70, "error: evonas failed: KeyError: 'x'; run again with --debug and report what it prints\n"),
        (ValueError("a\x1b[31m\nb"), 70, "error: evonas failed: ValueError: a\\x1b[31m b; run again with --debug"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_failure_is_a_line_and_an_exit_code(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, told: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("evonas.zoo.entries", fail)
    left, out, err = call("zoo")
    assert (left, out) == (code, "")
    assert err.startswith(told)
    assert err.count("\n") <= 1


def test_debug_shows_the_traceback_wherever_it_stands(call: Call) -> None:
    code, _, err = call("front", "nothing", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert "Traceback" not in call("front", "nothing")[2]


def test_an_interrupted_run_is_told_without_an_error(call: Call, monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    from evonas import run as engine

    def stop(*_: object, **__: object) -> None:
        raise engine.Interrupted("stopped after generation 2 of 9; go on with: evonas resume cheap", signal.SIGTERM)

    monkeypatch.setattr(engine, "resume", stop)
    assert call("resume", "cheap", "--runs", runs) == (
        143, "", "stopped after generation 2 of 9; go on with: evonas resume cheap\n",
    )  # fmt: skip


def test_an_unknown_run_names_the_nearest(call: Call, runs: Path, tmp_path: Path) -> None:
    code, _, err = call("front", "chaep", "--runs", runs)
    assert code == 2
    assert err == f"error: no run 'chaep' in {runs}; did you mean 'cheap'? known: cheap, random\n"
    _, _, err = call("front", "chaep\x1b[31m", "--runs", tmp_path / "none")
    assert (
        err
        == f"error: no run 'chaep\\x1b[31m': {tmp_path / 'none'} holds none yet; start one with: evonas run RECIPE\n"
    )


def test_a_warning_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> Iterator[Any]:
        warnings.warn("state 3 is damaged:\nan older one is taken", stacklevel=1)
        return iter(())

    monkeypatch.setattr("evonas.zoo.entries", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        code, _, err = call("zoo")
    assert (code, err) == (0, "warning: state 3 is damaged: an older one is taken\n")


# ------------------------------------------------------------------------------------------------------- init, check


def test_init_writes_a_recipe_that_check_accepts(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # a long path wraps elsewhere
    path = tmp_path / "mine.yaml"
    code, _, err = call("init", path, "--task", "iris")
    assert code == 0
    assert f"evonas run {path}" in err
    code, out, err = call("check", path, "--set", "strategy.population=4")
    assert (code, err) == (0, "")
    assert "input 4, 3 outputs; rows: 96 train, 24 validation, 30 test" in out
    assert "4 drawn: params" in out
    assert "40, 8 epochs each" in out
    assert "about" in out


def test_init_overwrites_nothing(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("precious")
    code, _, err = call("init", tmp_path / "mine.yaml")
    assert code == 73
    assert "exists already" in err
    assert (tmp_path / "mine.yaml").read_text() == "precious"


def test_init_for_an_unknown_task_or_folder(call: Call, tmp_path: Path) -> None:
    assert "did you mean 'digits'" in call("init", tmp_path / "a.yaml", "--task", "digts")[2]
    code, _, err = call("init", tmp_path / "none" / "a.yaml")
    assert code == 74
    assert "cannot write" in err


def test_check_tells_what_the_task_says_of_its_data(call: Call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("task: {kind: csv, file: gone.csv}\nobjectives: [error]\n")
    code, _, err = call("check", tmp_path / "r.yaml")
    assert code in (2, 65)
    assert "gone.csv" in err


def test_set_without_a_value(call: Call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(CHEAP)
    code, _, err = call("check", tmp_path / "r.yaml", "--set", "seed")
    assert code == 2
    assert err == "error: --set 'seed' is no key=value: write for example --set strategy.generations=20\n"


# -------------------------------------------------------------------------------------------------------- run, resume


def test_run_prints_the_front_and_the_next_commands(call: Call, tmp_path: Path) -> None:
    (tmp_path / "cheap.yaml").write_text(CHEAP)
    code, out, err = call("run", tmp_path / "cheap.yaml", "--runs", tmp_path / "runs", "--name", "one", "--seed", "3")
    assert code == 0
    assert out.split()[:2] == ["id", "params"]
    assert "\x1b" not in out + err
    lines = err.splitlines()
    assert [line.split(":")[0].split(",")[0] for line in lines[:3]] == [f"generation {i}/3" for i in (1, 2, 3)]
    for command in ("lineage", "export", "report", "test", "resume"):
        assert any(line.startswith(f"  evonas {command} one --runs {tmp_path / 'runs'} ") for line in lines)


def test_run_as_json_lines(call: Call, tmp_path: Path) -> None:
    (tmp_path / "cheap.yaml").write_text(CHEAP)
    code, out, err = call("run", tmp_path / "cheap.yaml", "--runs", tmp_path / "runs", "--json")
    assert (code, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["kind"] for event in events] == ["start", *["generation"] * 3, "end", "front"]
    assert events[1]["objectives"] == ["params", "depth"]
    assert events[-1]["run"] == "cheap"
    assert {"id", "params", "depth"} <= set(events[-1]["front"][0])


def test_options_stand_for_overrides(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evonas import run as engine

    seen: list[Any] = []

    def start(recipe: Any, **options: Any) -> Any:
        seen.append((recipe, options))
        raise LockedError("seen")

    monkeypatch.setattr(engine, "start", start)
    (tmp_path / "cheap.yaml").write_text(CHEAP)
    options = ("--seed", "9", "--workers", "3", "--pool", "processes", "--set", "strategy.generations=7")
    assert call("run", tmp_path / "cheap.yaml", *options)[0] == 73
    ((recipe, given),) = seen
    assert (recipe.seed, recipe.pool.kind, recipe.pool.workers, recipe.strategy.generations) == (9, "processes", 3, 7)
    assert (given["name"], given["runs"]) == (None, Path("runs"))


def test_resume_goes_on_and_refuses_another_search(call: Call, runs: Path) -> None:
    code, _, err = call("resume", "cheap", "--generations", "+1", "--runs", runs)
    assert code == 0
    assert "generation 4/4" in err
    code, _, err = call("resume", "cheap", "--set", "strategy.population=9", "--runs", runs)
    assert code == 2
    assert "strategy.population: 8 in the run, 9 now" in err
    assert "mistakes" not in err


def test_the_environment_names_the_folder_of_runs(call: Call, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVONAS_RUNS", str(runs))
    assert call("front", "cheap")[0] == 0


def test_a_terminal_sees_a_live_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.openpty()
    with closing(os.fdopen(writing, "w")) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with cli._watching(as_json=False) as observer:
            observer(Progress("generation", "first", 2, 9, hypervolume=0.5, species=3))
        terminal.flush()
        shown = ""
        while "species" not in shown and select.select([reading], [], [], 20.0)[0]:  # it comes in parts
            shown += os.read(reading, 100_000).decode("utf-8", "replace")
    os.close(reading)
    assert "evonas run first" in shown
    assert "2 of 9" in shown


# ---------------------------------------------------------------------------------------------------------- looking


def test_list_shows_runs_and_warns_of_damaged_ones(call: Call, runs: Path) -> None:
    (runs / "broken").mkdir()
    (runs / "broken" / "run.sqlite").write_bytes(b"no database")
    code, out, err = call("list", "--runs", runs, "--format", "csv")
    assert code == 0
    assert [line.split(",")[0] for line in out.splitlines()] == ["name", "cheap", "random"]
    assert err.startswith("warning: ")
    assert "broken" in err


def test_list_of_nothing_says_how_to_begin(call: Call, tmp_path: Path) -> None:
    code, out, err = call("list", "--runs", tmp_path)
    assert (code, out) == (0, "")
    assert "evonas run RECIPE" in err
    assert call("list", "--runs", tmp_path, "--format", "json")[1] == "[]\n"


def test_show_tells_how_a_run_went(call: Call, runs: Path) -> None:
    code, out, _ = call("show", "cheap", "--runs", runs)
    assert code == 0
    assert "cheap, finished, 3 of 3 generations" in out
    assert "nsga2 on dag, seed 0" in out
    assert "finished: " in out
    generations = json.loads(call("show", "cheap", "--runs", runs, "--format", "json")[1])
    assert [one["generation"] for one in generations] == [1, 2, 3]


def test_front_in_every_format_holds_the_same_rows(call: Call, runs: Path) -> None:
    records = front_of(call, runs)
    ids = [str(record["id"]) for record in records]
    for format in ("table", "csv", "markdown"):
        out = call("front", "cheap", "--runs", runs, "--format", format)[1]
        cells = [line.replace("|", " ").replace(",", " ").split()[0] for line in out.splitlines()]
        assert [cell for cell in cells if cell.isdigit()] == ids
        assert "\x1b" not in out


def test_front_by_and_within_a_budget(call: Call, runs: Path) -> None:
    depths = [record["depth"] for record in front_of(call, runs, "--by", "depth")]
    assert depths == sorted(depths, reverse=True)
    everyone = front_of(call, runs, "--all")
    assert len(everyone) == 24
    limit = sorted(record["params"] for record in everyone)[5]
    (best,) = front_of(call, runs, "--budget", f"params={limit}", "--by", "depth")
    assert best["params"] <= limit
    code, _, err = call("front", "cheap", "--runs", runs, "--budget", "params=1")
    assert code == 2
    assert "no network has params <= 1: the best params is" in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--by", "parms"), "objective 'parms' is not one of this run's; did you mean 'params'? known: params, depth"),
        (("--budget", "params=x"), "--budget 'params=x' has no limit that is a number: write --budget params=100k"),
        (("--budget", "params"), "--budget 'params' has no limit: write --budget params=100k"),
    ],
)
def test_front_tells_what_it_does_not_understand(call: Call, runs: Path, options: tuple[str, str], told: str) -> None:
    assert call("front", "cheap", "--runs", runs, *options) == (2, "", f"error: {told}\n")


def test_species_lineage_and_compare(call: Call, runs: Path) -> None:
    assert "members" in call("species", "cheap", "--runs", runs)[1]
    assert "largest" in call("species", "cheap", "--runs", runs, "--history")[1]
    last = front_of(call, runs)[0]["id"]
    ancestors = json.loads(call("lineage", "cheap", last, "--runs", runs, "--format", "json")[1])
    assert ancestors[-1]["id"] == last
    assert {parent for one in ancestors for parent in one["parents"]} <= {one["id"] for one in ancestors}
    compared = json.loads(call("compare", "cheap", "random", "--runs", runs, "--format", "json")[1])
    assert [one["strategy"] for one in compared] == ["nsga2", "random"]
    code, _, err = call("compare", "cheap", "--runs", runs)
    assert code == 2
    assert "compare needs two runs or more" in err


def test_genome_as_text_json_and_picture(call: Call, runs: Path, tmp_path: Path) -> None:
    id = front_of(call, runs)[0]["id"]
    assert "params" in call("genome", "cheap", id, "--runs", runs)[1]
    genes = json.loads(call("genome", "cheap", id, "--runs", runs, "--format", "json")[1])
    assert call("genome", "cheap", id, "--runs", runs, "-o", tmp_path / "g.json")[0] == 0
    assert json.loads((tmp_path / "g.json").read_text()) == genes
    assert call("genome", "cheap", id, "--runs", runs, "-o", tmp_path / "g.svg")[0] == 0
    assert "<svg" in (tmp_path / "g.svg").read_text()
    code, _, err = call("genome", "cheap", id, "--runs", runs, "-o", tmp_path / "g.bmp")
    assert code == 2
    assert ".svg" in err


@pytest.mark.parametrize(
    ("id", "told"),
    [
        ("9999", "no individual 9999 in cheap: the highest id is 23"),
        ("x", "'x' is no individual's id: write a number of evonas front cheap, 'knee' or 'best'"),
        ("²", "'²' is no individual's id: write a number of evonas front cheap, 'knee' or 'best'"),
    ],
)
def test_an_unknown_id_is_told(call: Call, runs: Path, id: str, told: str) -> None:
    code, _, err = call("genome", "cheap", id, "--runs", runs)
    assert (code, err) == (2, f"error: {told}\n")


def test_export_of_an_untrained_network_says_why_not(call: Call, runs: Path) -> None:
    code, _, err = call("export", "cheap", "0", "--runs", runs)
    assert code == 2
    assert "has no weights" in err


def test_test_takes_ids_or_a_number_of_picks(call: Call, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evonas import run as engine

    seen: list[Any] = []

    def tested(folder: Path, ids: Any, *, pick: Any, observer: Any) -> Any:
        seen.append((folder.name, ids, pick))
        for share, seconds in (0.5, 30.0), (0.6, 40.0), (0.7, 51.0):
            observer(Progress("test", "cheap", 3, 3, done=1, total=2, share=share, seconds=seconds))
        return engine.open(folder)

    monkeypatch.setattr(engine, "test", tested)
    code, _, err = call("test", "cheap", "--ids", "3, 5", "--runs", runs)
    lines = ["tested: 1 of 2 (50% of the work), 30 s", "tested: 1 of 2 (70% of the work), 51 s"]
    assert (code, err.splitlines()) == (0, lines), "a line when one is done, or after a while"
    assert call("test", "cheap", "--pick", "2", "--runs", runs)[0] == 0
    assert seen == [("cheap", [3, 5], None), ("cheap", None, 2)]
    assert "give one of them" in call("test", "cheap", "--pick", "2", "--ids", "3", "--runs", runs)[2]


def test_zoo_and_schema(call: Call) -> None:
    assert "lenet-5" in [one["name"] for one in json.loads(call("zoo", "--format", "json")[1])]
    assert "strategy" in json.loads(call("schema")[1])["properties"]


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "evonas", "schema"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert json.loads(done.stdout)["title"] == "Recipe"


@pytest.mark.parametrize("command", ["front", "species"])
def test_front_and_species_as_pictures(call: Call, runs: Path, tmp_path: Path, command: str) -> None:
    picture = tmp_path / f"{command}.svg"
    code, out, err = call(command, "cheap", "--runs", runs, "-o", picture)
    assert (code, out) == (0, "") and f"wrote {picture}" in err
    assert picture.read_text().startswith("<?xml")
    code, _, err = call(command, "cheap", "--runs", runs, "-o", tmp_path / "front.gif")
    assert code == 2 and "no format '.gif': end the file's name with .svg, .png, .pdf, .csv" in err


def test_final_trainings_are_told_one_by_one(call: Call, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "task: {kind: iris}\nobjectives: [error, params]\nstrategy: {population: 3, generations: 1}\n"
        "estimator: {epochs: 1}\nfinal: {epochs: 1}\npool: {kind: serial}\n"
    )
    assert call("run", recipe, "--runs", tmp_path)[0] == 0
    code, out, err = call("test", "tiny", "--runs", tmp_path, "--pick", 1, "--format", "json")
    assert code == 0
    assert "tested: 1 of 1" in err
    (row,) = json.loads(out)
    assert 0 <= row["test_error"] <= 1
