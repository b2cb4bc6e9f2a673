"""What terminals show: the live view of a run in a real one, families with rails, files of tables, the report."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import evonas
from evonas import cli
from evonas.core import Objective
from evonas.report import live, rails, tables
from evonas.report.progress import Progress
from evonas.report.tables import Column, Table
from tests import fabricated
from tests.fabricated import Made

ERROR, PARAMS = Objective("error"), Objective("params", cheap=True)
CHEAP = """\
task: {kind: digits}
objectives: [params, {name: depth, direction: max}]
encoding: {bounds: {params: 20k}}
estimator: {kind: lookup}
strategy: {population: 8, generations: 3}
pool: {kind: serial}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    fabricated.write(folder / "made", Made(fabricated.RECIPE))
    return folder


def lines(renderable: Any) -> list[str]:
    written = io.StringIO()
    Console(width=100, color_system=None, force_terminal=True, file=written).print(renderable)
    return written.getvalue().splitlines()


# -------------------------------------------------------------------------------------------------------- live view


def test_the_view_counts_on_between_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    view = live.View()
    assert lines(view.panel()) == [""]
    view.tell(Progress("batch", "run", 2, 9, done=1, total=4, seconds=20.0, eta=30.0))
    now[0] += 12
    shown = "\n".join(lines(view.panel()))
    assert "2 of 9, 32 s, about 18 s left" in shown
    now[0] += 60
    assert "left" not in "\n".join(lines(view.panel()))


def test_the_view_tells_failures_with_the_last_reason() -> None:
    view = live.View()
    view.tell(Progress("batch", "run", 2, 9, failures=3, reason="diverged\x1b[2J at epoch 2 " + "x" * 200))
    shown = lines(view.panel())
    (told,) = [line for line in shown if "last failure" in line]
    assert "diverged\\x1b[2J at epoch 2" in told and "…" in told
    assert any("3 failed" in line for line in shown) and max(map(len, shown)) == 78


def test_a_line_of_a_log_tells_workers_and_why_the_last_failed() -> None:
    told = live.line(Progress("generation", "run", 2, 9, evaluations=8, failures=1, reason="diverged\n" + "x" * 99))
    assert told.startswith("generation 2/9, 8 evaluated by 1 worker, 1 failed (the last: diverged\\nxxx")
    assert "x…), front 0" in told and "\n" not in told


def test_the_view_keeps_the_trend_of_the_hypervolume() -> None:
    view = live.View()
    for i in range(3):
        view.tell(Progress("generation", "run", i, 9, hypervolume=float(i), front=((0.1, 5.0), (0.2, 1.0)),
                           objectives=(ERROR, PARAMS)))  # fmt: skip
    shown = "\n".join(lines(view.panel()))
    assert "▁▅█" in shown or "▁▄█" in shown
    assert shown.count("●") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_run_in_a_terminal_shows_its_panel_and_then_its_front(tmp_path: Path) -> None:
    """Nothing of the panel is left over the table, and the table is whole."""
    (tmp_path / "cheap.yaml").write_text(CHEAP)
    shown = in_a_terminal("run", "cheap.yaml", cwd=tmp_path)
    assert "evonas run cheap" in shown and "hypervolume" in shown
    after = shown[shown.rindex("╰") :]
    with evonas.open(tmp_path / "runs" / "cheap") as run:
        ids = [row.id for row in run.front()]
    rows = [line.split() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", after).splitlines()]
    told = [row[0] for row in rows if row and row[0].isdigit()]
    assert [str(id) for id in ids] == told[: len(ids)]
    assert "evonas lineage cheap" in after and "evonas report cheap" in after


def in_a_terminal(*arguments: str, cwd: Path) -> str:
    """What a command writes to a terminal of 120 columns."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "50"}
    command = [sys.executable, "-m", "evonas", *arguments]
    with subprocess.Popen(command, cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        read = b"".join(_parts(ours, until=time.monotonic() + 120))
    os.close(ours)
    assert process.returncode == 0, read[-2000:]
    return read.decode()


def _parts(terminal: int, until: float) -> Iterator[bytes]:
    while time.monotonic() < until:
        if select.select([terminal], [], [], 1.0)[0]:
            with suppress(OSError):  # Linux says so that the other end is closed
                if part := os.read(terminal, 65536):
                    yield part
                    continue
            return


# -------------------------------------------------------------------------------------------------- tables and files


def test_rails_join_children_to_their_parents(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with evonas.open(runs / "made") as run:
        id = run.front()[0].id
        rows = run.lineage(id)
    at = {row.id: i for i, row in enumerate(rows)}
    expected = rails.drawn([[at[parent] for parent in row.parents] for row in rows])
    table = tables.lineage(rows, {}, (ERROR, PARAMS))
    railed = tables.with_rails(table, rows)
    assert [row[0] for row in railed.rows] == expected and [row[1:] for row in railed.rows] == list(table.rows)
    assert cli.call(["lineage", "made", str(id), "--runs", str(runs)]) == 0
    assert capsys.readouterr().out.count("●") == (len(rows) if len(rows) <= cli._RAILED else 0)
    assert cli.call(["lineage", "made", str(id), "--runs", str(runs), "-f", "csv"]) == 0
    assert "●" not in capsys.readouterr().out


def test_a_species_life_is_a_row_of_bars() -> None:
    life = [{"species": 1, "generation": g, "size": size, "best": None, "born": 1, "improved": 1}
            for g, size in enumerate([1, 4, 8, 2], start=1)]  # fmt: skip
    table = tables.species_history(life, [ERROR])
    assert table.records()[0]["sizes"] == [1, 4, 8, 2]
    assert table.shown()[0][-1] == "▂▅█▃"
    assert len(tables._course(list(range(1000)))) == 32


@pytest.mark.parametrize("command", [("front",), ("species",), ("lineage", "5"), ("show",)])
def test_commands_write_tables_and_pictures(runs: Path, tmp_path: Path, command: tuple[str, ...], capsys: Any) -> None:
    name, *rest = command
    for ending in ("csv", "svg"):
        path = tmp_path / f"{name}.{ending}"
        assert cli.call([name, "made", *rest, "--runs", str(runs), "-o", str(path)]) == 0
        assert capsys.readouterr() == ("", f"wrote {path}\n")
    assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    assert cli.call([name, "made", *rest, "--runs", str(runs), "-f", "csv"]) == 0
    assert (tmp_path / f"{name}.csv").read_text() == capsys.readouterr().out
    assert list(csv.reader((tmp_path / f"{name}.csv").open()))


def test_everyone_of_a_run_as_parquet(runs: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "all.parquet"
    assert cli.call(["front", "made", "--all", "--runs", str(runs), "-o", str(path)]) == 0
    with evonas.open(runs / "made") as run:
        assert parquet.read_table(path)["id"].to_pylist() == [row.id for row in run.individuals()]


def test_a_genome_without_id_is_of_the_zoo_or_a_file(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["genome", "lenet-5"]) == 0
    assert "61,706" in capsys.readouterr().out
    assert cli.call(["genome", "made", "--runs", str(runs)]) == 2
    assert "which network of made? write an id, 'knee' or 'best' after it" in capsys.readouterr().err
    assert cli.call(["genome", "lenet5"]) == 2
    assert "did you mean 'lenet-5'" in capsys.readouterr().err


def test_every_genome_of_the_zoo_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from evonas import zoo

    for entry in zoo.entries():
        _, _, plan = zoo.decoded(entry.name)
        assert (plan.params, plan.flops) == (entry.params, entry.flops), entry.name


def test_report_is_a_command(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.call(["report", "made", "--runs", str(runs), "--still"]) == 0
    assert capsys.readouterr().err.startswith("wrote made.html (0.")
    assert (tmp_path / "made.html").read_text().startswith("<!doctype html>")
    assert cli.call(["report", "made", "--runs", str(runs), "--still", "-o", "no/such.html"]) == 74


def test_a_budget_to_try_is_kept_by_about_half_of_the_front(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with evonas.open(runs / "made") as run:
        name, _, limit = cli._sample_budget(run).partition("=")
        kept = sum(row.values[name] <= float(limit) for row in run.front())
        assert name == "params" and 0.3 <= kept / len(run.front()) <= 0.8
    assert cli.call(["front", "made", "--runs", str(runs), "--budget", f"{name}={limit}", "-f", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_commands_are_suggested_as_they_are_called(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import shutil

    monkeypatch.setattr(sys, "argv", [".venv/bin/evonas"])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    cli._suggest([("evonas front evonas", "why")])
    assert capsys.readouterr().err == "  .venv/bin/evonas front evonas  why\n"
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/evonas")
    cli._suggest([("evonas front x", "why")])
    assert capsys.readouterr().err == "  evonas front x  why\n"


def test_a_table_with_lists_is_written_whole(tmp_path: Path) -> None:
    table = Table((Column("ids", ""),), (([1, 2],), (None,)))
    assert json.loads(tables.to_json(table)) == [{"ids": [1, 2]}, {"ids": None}]
