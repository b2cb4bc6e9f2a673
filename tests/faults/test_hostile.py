"""Files from strangers are shown or refused in clear words: they run no code, take no memory and leave their folder
never."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evonas
from evonas import arrays, imported, recipe
from evonas.core import DataError, EvonasError, RecipeError, loads, valid_name
from evonas.encoding.population import Population
from evonas.phenotype import network
from evonas.report import document, html, tables
from evonas.store import Store
from tests import fabricated
from tests.clusters import needs_ray
from tests.conftest import Call, once
from tests.fabricated import Made
from tests.faults import eater
from tests.faults.corpus import CORPUS

ROOT = Path(__file__).resolve().parents[2]


def told(module: str, *arguments: object, seconds: float) -> Any:
    """What a process that eats hostile files prints. Its limits are its own: it must not take the test's memory."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.faults.{module}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop(imported.ALLOW, None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=seconds)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------------------- the corpus


@pytest.fixture(scope="session")
def eaten(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of the corpus, eaten by one process."""
    folder = once(
        tmp_path_factory, "eaten", lambda part: (part / "found").write_text(json.dumps(told("corpus", seconds=280)))
    )
    found: dict[str, Any] = json.loads((folder / "found").read_text())
    return found


@pytest.mark.parametrize("name", CORPUS)
def test_hostile_files_are_refused_in_clear_words(name: str, eaten: dict[str, Any]) -> None:
    assert not eaten[name]["fault"]
    assert re.search(CORPUS[name].told, eaten[name]["said"])


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("genome", 250_000), ("recipe", 150_000), ("weights", 250_000), ("database", 200_000), ("study", 50_000),
        ("config", 40_000), ("table", 30_000), ("npz", 30_000),
    ],
)  # fmt: skip
def test_a_million_mutated_bytes_give_clear_errors_only(kind: str, size: int) -> None:
    found = told("eater", kind, 1, size, seconds=1400)
    assert found["bytes"] >= size and not found["faults"], "\n\n".join(found["faults"])


# --------------------------------------------------------------------------------------------------- code of others

OWN = """
from pathlib import Path

from evonas.core import Estimate, Outcome
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.pool import Serial
from evonas.task.toys import MAKERS

Path(__file__).with_name("ran").touch()


def encoding(settings, input_shape, outputs):
    return DagEncoding(DagSettings(), input_shape, outputs)


def values(genome, plan):
    return {"mine": plan.params}


def small(plan):
    return plan.depth
"""
LOOKUP: dict[str, Any] = {
    "task": {"kind": "iris"},
    "objectives": ["params"],
    "strategy": {"population": 4, "generations": 2},
    "estimator": {"kind": "lookup"},
    "pool": {"kind": "serial"},
}
PLACES: dict[str, dict[str, Any]] = {
    "task.kind": {"task": {"kind": "FILE:task"}},
    "encoding.kind": {"encoding": {"kind": "FILE:encoding"}},
    "strategy.kind": {"strategy": {"kind": "FILE:strategy", "population": 4, "generations": 2}},
    "estimator.kind": {"estimator": {"kind": "FILE:estimator"}},
    "pool.kind": {"pool": {"kind": "FILE:pool"}},
    "task.function": {"task": {"kind": "function", "function": "FILE:rows"}},
    "estimator.function": {"estimator": {"kind": "lookup", "function": "FILE:values"}},
    "objectives.0.function": {"objectives": [{"name": "small", "function": "FILE:small", "cheap": True}]},
    "pool.address": {"pool": {"kind": "ray", "address": "own.py:6379"}},
    "encoding.initial.0": {"encoding": {"kind": "dag", "initial": ["FILE:net"]}},
}


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with somebody's code, in a process that was granted nothing."""
    monkeypatch.delenv(imported.ALLOW)
    before = imported.granted()
    (tmp_path / "own.py").write_text(OWN)
    imported._granted.clear()
    yield tmp_path
    imported._granted.clear()
    imported.grant(before)


def written(folder: Path, rooms: dict[str, Any]) -> Path:
    """A recipe's file that names the code beside it."""
    path = folder / "theirs.yaml"
    path.write_text(json.dumps(LOOKUP | rooms).replace("FILE", str(folder / "own.py")))
    return path


def ran(folder: Path) -> bool:
    return (folder / "ran").exists()


@needs_ray
@pytest.mark.parametrize(
    ("address", "elsewhere"),
    [
        ("auto", False), ("127.0.0.1:6379", False), ("127.9.9.9:1", False), ("localhost:1", False), ("[::1]:1", False),
        ("127.evil.example:6379", True), ("autoevil.example:6379", True), ("localhost.evil.example:1", True),
        ("10.0.0.7:6379", True), ("0.0.0.0:6379", True), ("[2001:db8::1]:1", True),
    ],
)  # fmt: skip
def test_a_ray_head_elsewhere_is_code_of_others(stranger: Path, address: str, elsewhere: bool) -> None:
    read = recipe.read(LOOKUP | {"pool": {"kind": "ray", "address": address}})
    assert bool(recipe.own_code(read)) is elsewhere


@pytest.mark.parametrize("place", PLACES)
def test_no_command_imports_what_a_recipe_names(place: str, stranger: Path, call: Call) -> None:
    path = written(stranger, PLACES[place])
    for command in ("check", "run"):
        code, _, complaint = call(command, path, "--runs", stranger / "runs")
        assert code == 2 and place in complaint and "--allow-code" in complaint and "own.py:" in complaint
    assert not ran(stranger) and not (stranger / "runs").exists()


def test_a_study_imports_nothing_either(stranger: Path, call: Call) -> None:
    path = stranger / "study.yaml"
    path.write_text(json.dumps({
        "study": "theirs", "seeds": 1, "recipe": LOOKUP, "arms": {
            "a": {"encoding": {"kind": f"{stranger / 'own.py'}:encoding"}}, "b": {},
        },
    }))  # fmt: skip
    code, _, complaint = call("study", path, "--runs", stranger)
    assert code == 2 and "--allow-code" in complaint and not ran(stranger)


@pytest.mark.parametrize("granted", ["flag", "environment", "python"])
def test_what_the_user_allows_is_imported(
    granted: str, stranger: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(stranger, PLACES["encoding.kind"])
    if granted == "python":
        assert evonas.start(path, name="theirs", runs=stranger, allow_code=True).front()
        assert imported.is_granted(f"{stranger / 'own.py'}:encoding") and not imported.is_granted("os:system")
    else:
        if granted == "environment":
            monkeypatch.setenv(imported.ALLOW, "1")
        flags = ["--allow-code"] if granted == "flag" else []
        assert call("run", path, "--runs", stranger, *flags)[0] == 0
        assert imported.granted() == ["*"] * (granted == "environment")
    assert ran(stranger)


def test_worker_processes_are_told_what_their_driver_was_granted(stranger: Path) -> None:
    rooms = {"estimator": {"kind": "lookup", "function": "FILE:values"}, "pool": {"kind": "processes", "workers": 1},
             "objectives": [{"name": "mine", "kind": "score"}]}  # fmt: skip
    with evonas.start(written(stranger, rooms), runs=stranger, allow_code=True) as run:
        assert {row.status for row in run.individuals()} == {"ok"}


def test_a_strangers_run_is_shown_without_its_code(stranger: Path, call: Call) -> None:
    evonas.start(written(stranger, PLACES["encoding.kind"]), name="theirs", runs=stranger, allow_code=True).close()
    (stranger / "ran").unlink()
    imported._granted.clear()
    for command in (["show"], ["front"], ["front", "--all"], ["species"], ["lineage", "best"], ["front", "-f", "csv"]):
        code, shown, complaint = call(command[0], "theirs", *command[1:], "--runs", stranger)
        assert code == 0 and shown and not complaint, complaint
    for command in (["genome", "best"], ["export", "best"]):
        code, _, complaint = call(command[0], "theirs", *command[1:], "--runs", stranger)
        assert code == 2 and "--allow-code" in complaint
    code, _, complaint = call("resume", "theirs", "--generations", "+1", "--runs", stranger)
    assert code == 2 and "encoding.kind" in complaint and "--allow-code" in complaint
    (stranger / "own.py").unlink()
    assert call("list", "--runs", stranger)[0] == 0 and call("show", "theirs", "--runs", stranger)[0] == 0
    assert not ran(stranger)


def test_metrics_that_load_networks_are_code(stranger: Path) -> None:
    pytest.importorskip("torchmetrics")
    from evonas import objective

    for metric, refused in (("torchmetrics.F1Score", False), ("torchmetrics.MetricTracker", True)):
        (measure,) = objective.parse([{"name": "x", "metric": metric, "direction": "max"}])
        if refused:
            with pytest.raises(RecipeError, match="--allow-code"):
                objective._metric_class(measure)
        else:
            assert objective._metric_class(measure)


# ------------------------------------------------------------------------------------------------ names and folders


@pytest.mark.parametrize("name", ["../x", "a/b", "a..b", "con", "LPT1.txt", "a\nb", "-x", "x" * 65, "", "a\0", "ａ"])
def test_names_that_are_no_folders_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="is not allowed"):
        valid_name(name)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run."""
    runs = tmp_path_factory.mktemp("finished")
    evonas.start(LOOKUP, name="small", runs=runs).close()
    return runs / "small"


@pytest.fixture
def victim(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to play tricks with."""
    return Path(shutil.copytree(finished, tmp_path / "small"))


@pytest.mark.parametrize(
    "name", ["tip", "lock", "owner", "recipe.yaml", "weights", "scratch", "run.sqlite-wal", "x.tmp"]
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_in_a_run_folder_are_refused(name: str, kind: str, victim: Path) -> None:
    target = victim.parent / "precious"
    target.write_text("precious")
    place = victim / name
    if place.is_dir():
        place.rename(victim.parent / "moved")
    place.unlink(missing_ok=True)
    place.symlink_to(target) if kind == "link" else os.mkfifo(place)
    for write in (False, True):
        with pytest.raises(DataError, match=f"{name} is (a link|no plain file)"):
            Store.open(victim, write=write)
    assert target.read_text() == "precious"


@pytest.mark.parametrize("name", ["tip", "recipe.yaml"])
def test_a_small_file_of_a_terabyte_is_not_read(name: str, victim: Path) -> None:
    os.truncate(victim / name, 1 << 40)
    with pytest.warns(UserWarning, match=name.partition(".")[0]), Store.open(victim) as store:
        assert store.generations()


def test_weights_are_found_by_their_hash_alone_and_never_through_a_link(victim: Path) -> None:
    sha = "0" * 64
    with Store.open(victim) as store:
        for name in ("../../../etc/passwd", "x" * 64, sha[:-1], f"{sha}/..", ""):
            with pytest.raises(DataError, match="names no weights"):
                store.weights(name)
        (victim / "weights" / f"{sha}.safetensors").symlink_to("/etc/passwd")
        with pytest.raises(DataError, match="is a link or a pipe"):
            store.weights(sha)


def test_weights_larger_than_their_network_are_not_read(victim: Path) -> None:
    sha = "1" * 64
    path = victim / "weights" / f"{sha}.safetensors"
    path.touch()
    os.truncate(path, 1 << 40)
    with Store.open(victim) as store, pytest.raises(DataError, match=r"1,099,511,627,776 bytes, its network's weights"):
        store.weights(sha, most=10_000)


# ------------------------------------------------------------------------------------------------- words of others

PAYLOADS = (
    "<script>hacked()</script>", "<img src=x onerror=hacked()>", "'\"><svg/onload=hacked()>",
    "</title><script>hacked()", "javascript:hacked()", "{{7*7}}${7*7}<%= 7 %>", "=cmd|' /C calc'!A0", "@SUM(1+1)",
    "+1+cmd|'x'!A0", "-2+3+cmd|'x'!A0", "\x1b[2J\x1b]0;hacked\x07", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31m red", "a\rb\nc\td", "\u202e reversed", "[bold red]markup[/]", "[x](javascript:hacked())",
    "![x](http://x/y.png)", "a | b \\| c `code`", "<!--", "]]>", "\0",
)  # fmt: skip
"""Texts that a browser, a terminal, a spreadsheet or Markdown might take for more than text."""


@pytest.fixture(scope="session")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose failures, events and parents' names are payloads."""
    folder = tmp_path_factory.mktemp("words") / "failing"
    fabricated.write(folder, Made(fabricated.RECIPE, 24, 4, failures=PAYLOADS, failing=0.9))
    with Store.open(folder, write=True) as store:
        for payload in PAYLOADS:
            store.event(payload, payload, {payload: payload})
    return folder


def test_a_terminal_shows_payloads_as_text(failing: Path, call: Call) -> None:
    for command in (
        ["show"],
        ["front", "--all"],
        ["front", "--all", "-f", "markdown"],
        ["front", "--all", "-f", "csv"],
    ):
        code, shown, complaint = call(command[0], failing.name, *command[1:], "--runs", failing.parent)
        assert code == 0 and not complaint
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)


def test_spreadsheets_and_markdown_take_no_payload_for_more_than_text(failing: Path) -> None:
    with evonas.open(failing) as run:
        table = tables.individuals(run.individuals(), run.objectives)
    told = (tables.Table((tables.Column("=1+1", "=1+1"),), tuple((one,) for one in PAYLOADS)), table)
    for one in told:
        cells = re.findall(r'(?:^|,)"?([^",\n]*)', tables.to_csv(one), re.MULTILINE)
        assert not [cell for cell in cells if re.match(r"[=+@\t\r]|-\D", cell)]
        shown = tables.to_markdown(one)
        assert "<" not in shown and not re.search(r"(?<!\\)[\[\]`]", shown)
        assert {line.replace("\\\\", "").replace("\\|", "").count("|") for line in shown.splitlines()} == {
            len(one.columns) + 1
        }


def test_pages_show_payloads_as_text(failing: Path) -> None:
    with evonas.open(failing) as run:
        pages = [document.document(run, interactive=False), html.run(run), run._repr_html_()]
    table = tables.Table((tables.Column("x", PAYLOADS[0]),), tuple((one,) for one in PAYLOADS))
    pages += [html.table(table, PAYLOADS[0]), html.facts([(one, one) for one in PAYLOADS])]
    for page in pages:
        assert not re.search(r"<script>hacked|<img src=x|<svg/onload|</title><script", page)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
        assert not re.search(r"""(href|src)\s*=\s*["']?javascript:""", page)


# ------------------------------------------------------------------------------------------------------ any content

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["task", "params", "flops", "genome", "name", "about", "source", "x"])
SECTIONS = st.sampled_from(["task", "encoding", "objectives", "strategy", "estimator", "pool", "seed", "x"])


def code_of(read: Callable[..., object], *arguments: Any) -> int:
    """The exit code that a reader's refusal leads to; 0 where it reads."""
    try:
        read(*arguments)
    except EvonasError as error:
        return error.exit_code
    return 0


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (loads, arrays.from_bytes, network.parts_from_bytes, network.bare, Population.from_bytes):
        assert code_of(read, data) in (0, 65)


@settings(deadline=None, max_examples=120)
@given(st.dictionaries(KEYS, JSON), st.sampled_from(["dag", "neat", "cell"]), st.dictionaries(st.text(), JSON))
def test_any_json_is_a_genome_or_refused(data: dict[str, Any], encoding: str, genes: dict[str, Any]) -> None:
    whole = {
        "name": "n", "about": "", "source": "", "task": {"kind": "k", "input": [2], "outputs": 2}, "params": 1,
        "flops": 1, "genome": {"encoding": encoding, "format": 1, **genes}, **data,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        assert code_of(eater.genome, json.dumps(whole).encode(), Path(folder)) in (0, 65)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(SECTIONS, JSON))
def test_any_mapping_is_a_recipe_or_refused(data: dict[str, Any]) -> None:
    assert code_of(recipe.read, {"task": {"kind": "iris"}, "objectives": ["error"], **data}) in (0, 2)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=120))
def test_any_text_is_a_recipe_or_refused(text: str) -> None:
    assert code_of(recipe.read, f"task: {{kind: iris}}\nobjectives: [error]\n{text}") in (0, 2)


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_any_forged_row_is_shown_or_refused(finished: Path, seed: int) -> None:
    data, _ = eater.forged(random.Random(seed), (finished / "run.sqlite").read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        assert code_of(eater.database, data, Path(folder)) in (0, 2, 65)
