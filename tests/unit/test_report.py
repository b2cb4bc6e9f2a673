"""Figures of a run, its data as frames, what notebooks show, and the report: a page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

import evonas
from evonas.core import Edit, Objective, RecipeError, StorageError
from evonas.report import document, figures, frames, html, pictures, tables
from evonas.results import Run
from tests import fabricated
from tests.fabricated import Made

FAMILY: dict[str, Any] = {
    "name": "family",
    "task": {"kind": "digits"},
    "encoding": {"kind": "dag", "mutations": "morphisms", "channels": [2, 4, 6], "bounds": {"params": 3000}},
    "objectives": ["error", "params"],
    "strategy": {"kind": "lemonade", "population": 4, "offspring": 4, "proposals": 6, "generations": 4},
    "estimator": {"kind": "train", "epochs": 2, "share": 0.2, "inherit": {"kind": "weights", "epochs": 1}},
    "pool": {"kind": "serial"},
}
XOR: dict[str, Any] = {
    "name": "xor",
    "task": {"kind": "xor"},
    "encoding": {"kind": "neat"},
    "objectives": ["fitness"],
    "strategy": {"kind": "neat", "population": 40, "generations": 3},
    "estimator": {"kind": "population"},
}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $x$ \x1b[31m \u202e"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run `family` with inherited weights, a direct run `xor`, a made-up run `failing` with hostile reasons
    and three objectives, and `empty`, which has finished no generation."""
    folder = tmp_path_factory.mktemp("report")
    evonas.start(FAMILY, runs=folder).close()
    evonas.start(XOR, runs=folder).close()
    three = {**fabricated.RECIPE, "objectives": ["error", "params", "flops"]}
    fabricated.write(folder / "failing", Made(three, failures=(HOSTILE, "diverged at epoch 2"), failing=0.2))
    fabricated.write(folder / "empty", Made(fabricated.RECIPE, finished=0))
    return folder


@pytest.fixture
def family(runs: Path) -> Run:
    return evonas.open(runs / "family")


@pytest.fixture
def xor(runs: Path) -> Run:
    return evonas.open(runs / "xor")


# --------------------------------------------------------------------------------------------------------- pictures


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_every_figure_of_a_run_is_a_file(family: Run, tmp_path: Path) -> None:
    last, plot = family.individuals()[-1].id, family.plot
    draw = {
        "front": lambda path: plot.front(path),
        "history": lambda path: plot.history(path),
        "hypervolume": lambda path: plot.hypervolume(path, over="samples"),
        "species": lambda path: plot.species(path),
        "lineage": lambda path: plot.lineage(last, path),
        "curve": lambda path: plot.curve(last, path),
        "network": lambda path: plot.network(last, path),
    }
    heads = [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")]
    for i, (name, one) in enumerate(draw.items()):
        ending, head = heads[i % len(heads)]
        path = tmp_path / f"{name}{ending}"
        assert isinstance(one(path), Figure)
        assert path.read_bytes().startswith(head)


def test_pdf_files_carry_their_fonts_as_truetype(family: Run, tmp_path: Path) -> None:
    family.plot.front(tmp_path / "front.pdf")
    content = (tmp_path / "front.pdf").read_bytes()
    assert b"/FontFile2" in content and b"/Type3" not in content
    streams = re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL)
    assert any(zlib.decompressobj().decompress(one)[:4] == b"\0\1\0\0" for one in streams if one[:1] == b"\x78")


def test_the_front_is_drawn_over_the_objectives_asked_for(runs: Path) -> None:
    run = evonas.open(runs / "failing")
    labels = {
        (): ("params", "error"),
        ("flops",): ("flops", "error"),
        ("error",): ("error", "params"),
        ("flops", "params"): ("flops", "params"),
    }
    for names, (x, y) in labels.items():
        ax = run.plot.front(**dict(zip(("across", "up"), names, strict=False))).axes[0]
        assert ax.get_xlabel().startswith(x) and ax.get_ylabel().startswith(y)
    assert run.plot.front(up="flops").axes[0].get_xlabel().startswith("error")
    with pytest.raises(RecipeError, match="did you mean 'params'"):
        run.plot.front(across="parms")


def test_a_figure_of_many_points_shows_all_of_the_front_and_one_of_those_that_hide_each_other() -> None:
    x = np.repeat(np.linspace(1, 2, 50), 1000)
    seen = _front({"params": x, "error": np.tile(np.linspace(0, 1, 1000), 50)}, front=(7, 49_999))
    drawn = pictures._points(seen, (Objective("params"), Objective("error")))
    assert {7, 49_999} <= drawn.keys() and len(drawn) <= 50 * 100 + 2
    assert all(drawn[id] == (x[id], seen.columns["error"][id]) for id in list(drawn)[::97])


def _front(columns: dict[str, Any], front: tuple[int, ...]) -> Any:
    from evonas.report.views import Axis, Front

    count = len(columns["params"])
    zeros = np.zeros(count, dtype=np.int64)
    axes = {name: Axis(name, direction="min") for name in columns}
    return Front("run", axes, ("error", "params"), np.arange(count), zeros, zeros, columns, (front,))


def test_one_objective_has_a_history_instead_of_a_front(xor: Run) -> None:
    with pytest.raises(RecipeError, match=r"one objective.*run\.plot\.history"):
        xor.plot.front()
    ax = xor.plot.history().axes[0]
    best = [float(y) for y in ax.get_lines()[-1].get_ydata()]
    assert best == sorted(best) and best == [row["best"]["fitness"] for row in xor.generations()]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mean ± deviation", "best of the front"]


def test_the_learning_curve_begins_with_the_error_at_birth(family: Run) -> None:
    child = next(row for row in family.individuals() if "birth_error" in row.cost)
    ax = next(ax for ax in family.plot.curve(child.id).axes if ax.get_ylabel() == "valid_error")
    line = ax.get_lines()[0]
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (0, child.cost["birth_error"])
    assert ax.get_xlabel() == "epoch (0: at birth, before training)"


def test_who_was_not_trained_has_no_learning_curve(xor: Run) -> None:
    with pytest.raises(RecipeError, match="no learning curve: it was not trained"):
        xor.plot.curve(xor.front()[0].id)


def test_the_lineage_shows_error_and_size_of_every_ancestor(family: Run) -> None:
    last = family.individuals()[-1]
    rows = family.lineage(last.id)
    figure = family.plot.lineage(last.id)
    for ax, name in zip(figure.axes, ("error", "params"), strict=True):
        shown = {(float(x), float(y)) for points in ax.collections for x, y in np.asarray(points.get_offsets())}
        assert {(float(row.birth), float(row.values[name])) for row in rows} <= shown
        assert ax.get_ylabel().startswith(name)
    told = next(text for text in texts(figure) if "a founder" in text)
    assert all(str(edit) in told for edit in family.individual(last.id).edits)


def test_a_long_lineage_tells_its_ends() -> None:
    family = {i: figures.Kin(i, (i - 1,) if i else (), (1.0 / (i + 1),), edits=f"widen at {i}") for i in range(60)}
    shown = texts(figures.lineage([Objective("error")], family, 59))
    told = next(text for text in shown if "…" in text)
    assert told.splitlines()[1].startswith("1: widen") and told.splitlines()[-1] == "59: widen at 59"
    assert "… 47 more …" in told and len(told.splitlines()) == 14


def test_hypervolume_over_what_was_not_recorded_says_so(xor: Run) -> None:
    with pytest.raises(RecipeError, match="recorded no samples"):
        xor.plot.hypervolume(over="samples")
    with pytest.raises(RecipeError, match="'joules' is not known"):
        xor.plot.hypervolume(over="joules")


def test_empty_lists_of_an_edit_are_not_told() -> None:
    assert str(Edit("remove_layer", (9,), args={"edges": []})) == "remove_layer at 9"


# ----------------------------------------------------------------------------------------------------------- frames


def test_frames_hold_what_the_run_holds(family: Run) -> None:
    pytest.importorskip("pandas")
    frame = family.to_frame()
    rows = family.individuals()
    assert frame["id"].tolist() == [row.id for row in rows]
    assert frame["error"].tolist() == [row.values["error"] for row in rows]
    assert frame["parents"].tolist() == [list(row.parents) for row in rows]
    assert frame["cost_samples"].sum() == sum(row.cost["samples"] for row in rows)
    assert not any("/" in name for name in frame.columns)
    assert family.to_frame("front")["id"].tolist() == [row.id for row in family.front()]
    assert len(family.to_frame("generations")) == 4
    curves = family.to_frame("curves")
    assert len(curves) == sum(len(one.curve) for one in family.store.estimates().values())
    with pytest.raises(RecipeError, match="'people' is not known"):
        family.to_frame("people")  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", frames.ENDINGS)
def test_a_table_as_a_file_keeps_exact_values(family: Run, tmp_path: Path, ending: str) -> None:
    table = tables.individuals(family.front(), family.objectives)
    path = frames.write(table, tmp_path / f"front{ending}")
    if ending == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table(path).to_pylist() == table.records()
    elif ending == ".json":
        assert json.loads(path.read_text()) == table.records()
    else:
        expected = tables.to_csv(table) if ending == ".csv" else tables.to_markdown(table)
        assert path.read_text() == expected


def test_a_table_for_parquet_may_hold_lists_and_gaps(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = (tables.Column("parents", ""), tables.Column("error", ""))
    table = tables.Table(columns, (([1, 2], 0.5), ([], None)))
    assert parquet.read_table(frames.write(table, tmp_path / "t.parquet")).to_pylist() == table.records()


def test_what_frames_need_is_named(family: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frames, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"DataFrames need pandas: install evonas\[data\]"):
        family.to_frame()
    table = tables.individuals(family.front(), family.objectives)
    with pytest.raises(RecipeError, match=r"Parquet files need pyarrow: install evonas\[data\]"):
        frames.write(table, tmp_path / "t.parquet")
    with pytest.raises(RecipeError, match=r"no table format '\.xls'"):
        frames.write(table, tmp_path / "t.xls")
    with pytest.raises(StorageError, match="cannot write"):
        frames.write(table, tmp_path / "no" / "t.csv")


# ------------------------------------------------------------------------------------------------------------- html


class Page(HTMLParser):
    """The tags of a page with their attributes, its texts, and what is in each script and style."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words, self.scripts = "", []  # type: ignore[var-annotated]
        self._inside = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words += data


def test_hostile_text_stays_text_in_tables_facts_and_figures() -> None:
    table = tables.Table((tables.Column("name", HOSTILE),), ((HOSTILE,),))
    objectives = (Objective(HOSTILE, HOSTILE), Objective("params"))
    figure = figures.front(objectives, {1: (1.0, 2.0), 2: (2.0, 1.0)}, [1, 2], title=HOSTILE)
    shown = html.table(table, HOSTILE) + html.facts([(HOSTILE, HOSTILE)]) + html.drawn(figure, HOSTILE, "key")
    page = Page(shown + html.picture(figure, HOSTILE))
    assert not {"script", "iframe"} & {tag for tag, _ in page.tags}
    assert [attributes["src"][:22] for tag, attributes in page.tags if tag == "img"] == ["data:image/svg+xml;bas"]  # type: ignore[index]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<script>alert(1)</script>" in page.words and "\\x1b[31m" in page.words and "\u202e" not in page.words


def test_figures_of_a_page_share_no_ids_and_follow_its_theme(family: Run) -> None:
    both = html.drawn(family.plot.front(), "a", "one") + html.drawn(family.plot.species(), "b", "two")
    ids = re.findall(r'\bid="([^"]+)"', both)
    assert len(ids) == len(set(ids)) and all(id.startswith(("one-", "two-")) for id in ids)
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', both)
    assert used and set(used) <= set(ids)
    assert "var(--paper,#ffffff)" in both and not re.search(r"(?<![,\w])#262a30", both)


def test_notebooks_show_runs_and_rows(family: Run, xor: Run, runs: Path) -> None:
    for run in (family, xor, evonas.open(runs / "failing"), evonas.open(runs / "empty")):
        page = Page(run._repr_html_())
        assert run.name in page.words
        assert "script" not in {tag for tag, _ in page.tags}
    front = family.front()
    shown = Page(front._repr_html_())  # type: ignore[attr-defined]
    assert all(str(row.id) in shown.words and row.summary in shown.words for row in front)
    assert front == list(front) and isinstance(family.individuals()[:2], list)


# ----------------------------------------------------------------------------------------------------------- report


@pytest.fixture(scope="module", params=["family", "xor", "failing", "empty"])
def page(request: pytest.FixtureRequest, runs: Path) -> tuple[Run, str]:
    run = evonas.open(runs / request.param)
    return run, document.document(run)


def test_a_report_needs_nothing_else(page: tuple[Run, str]) -> None:
    parsed = Page(page[1])
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
        assert not any(name.startswith("on") for name in attributes)
    assert not {"iframe", "link", "object", "embed", "form", "base"} & {tag for tag, _ in parsed.tags}
    assert "@import" not in page[1].partition("</style>")[0]
    ids = [attributes["id"] for _, attributes in parsed.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_only_the_reports_own_scripts_may_run(page: tuple[Run, str]) -> None:
    parsed = Page(page[1])
    metas = [attributes for tag, attributes in parsed.tags if tag == "meta"]
    (policy,) = (one["content"] for one in metas if one.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe-eval" not in policy
    kinds = [attributes.get("type") for tag, attributes in parsed.tags if tag == "script"]
    for kind, content in zip(kinds, parsed.scripts, strict=True):
        if kind is None:
            assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy
        else:
            assert kind == "application/json" and json.loads(content)


def test_a_report_tells_the_run(page: tuple[Run, str]) -> None:
    run, content = page
    words = Page(content).words
    for row in run.front():
        assert row.summary in words
    assert run.about["task"]["fingerprint"] in words and f"evonas run recipe.yaml --name {run.name}" in words
    if run.name == "failing":
        assert "diverged at epoch" in words and "<script>alert(" in words


def test_hostile_reasons_stay_text_in_a_report(runs: Path) -> None:
    content = document.document(evonas.open(runs / "failing"), interactive=False)
    page = Page(content)
    assert page.scripts == [] and "<script>alert(" in page.words and not re.search("<img|<script>alert", content)


def test_without_plotly_a_report_has_still_figures(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = evonas.open(runs / "family")
    still = document.document(run, interactive=False)
    monkeypatch.setattr(document, "find_spec", lambda name: None)
    assert document.document(run) == still
    page = Page(still)
    assert page.scripts == [] and "script-src 'none'" in still
    assert sum(tag == "svg" for tag, _ in page.tags) >= 8
    assert len(still.encode()) < 600_000


def test_the_dark_twin_is_the_light_one_with_its_changes() -> None:
    light = {"data": [{"x": [1, 2], "c": "#fff"}, {"m": {"a": 1, "b": [1, {"c": 2}]}}], "layout": {"t": "x"}}
    dark = {"data": [{"x": [1, 2], "c": "#000"}, {"m": {"a": 1, "b": [1, {"c": 3}]}}], "layout": {"t": [1]}}
    changes = document._changes(light, dark)
    assert len(changes) == 3
    made: Any = json.loads(json.dumps(light))
    for place, value in changes:
        inner = made
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
    assert made == dark


def test_a_report_of_many_individuals_stays_small(tmp_path: Path) -> None:
    """Points that would hide each other are drawn once: ten times as many individuals are not ten times as large."""
    sizes = []
    for count in (60, 600):
        made = Made(fabricated.RECIPE, per_generation=count, generations=3)
        folder = fabricated.write(tmp_path / f"run{count}", made)
        sizes.append(len(document.document(evonas.open(folder), interactive=False)))
    assert sizes[1] < 3 * sizes[0]


def test_reading_a_run_loads_neither_matplotlib_nor_pandas_before_they_are_used() -> None:
    import subprocess

    heavy = ("matplotlib", "pandas", "plotly", "mlflow", "tensorboardX")
    code = f"import evonas.results, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
