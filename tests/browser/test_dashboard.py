"""The dashboard as a reader sees it: every view, every click, hostile names, runs that go on."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

import evonas
from evonas.dashboard.parts import address, comparison
from evonas.dashboard.server import Server
from tests import fabricated
from tests.browser.conftest import HOSTILE, ROOT, Page, watched
from tests.fabricated import Made


def best(folder: Path, run: str) -> int:
    with evonas.open(folder / run) as opened:
        return opened.store.front()[-1]


def child(folder: Path, run: str) -> int:
    """The youngest individual with edits whose first parent was kept."""
    with evonas.open(folder / run) as opened:
        store = opened.store
        rows = sorted(opened.individuals(), key=lambda row: -row.id)
        return next(row.id for row in rows if row.parents and store.edits(row.id) and store.kept(row.parents[:1]))


def views_of(folder: Path) -> dict[str, tuple[str, str]]:
    """Views by name: their address, and what is there once they are drawn."""
    return {
        "runs": ("/", ".runs table"),
        "front": (address("sample-digits"), "#members table"),
        "front-three": (address("three-objectives", colour="flops", generation="8"), "#members table"),
        "front-one": (address("neat"), "#members table"),
        "species": (address("sample-digits", "species"), "#species-table table"),
        "species-neat": (address("neat", "species"), "#species-table table"),
        "individual": (address("lemonade", "individual", child(folder, "lemonade")), "#network canvas"),
        "individual-neat": (address("neat", "individual", best(folder, "neat")), "#network canvas"),
        "lineage": (address("lemonade", "lineage", child(folder, "lemonade")), "#tree .js-plotly-plot"),
        "compare": (comparison(["seeds-1", "seeds-2", "seeds-3", "sample-digits"]), "#compare-table table"),
        "log": (address("three-objectives", "log"), "#failures table"),
    }


FIGURES = {
    "front": ["scatter", "hypervolume"],
    "species": ["species-areas", "distances"],
    "lineage": ["tree"],
    "compare": ["attainment", "compare-hypervolume"],
}


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_opens_in_both_themes(page: Page, folder: Path, shots: Path, theme: str) -> None:
    page.theme(theme)
    before = _hashed(folder)
    for name, (path, wait) in views_of(folder).items():
        page.open(path, wait)
        for figure in FIGURES.get(name.split("-")[0], []):
            assert page.drawn(figure)["n"] > 0, f"{figure} of {name} has nothing"
        assert page.script("return document.documentElement.dataset.theme") == theme
        page.shot(shots / f"{name}-{theme}.png")
        with Image.open(shots / f"{name}-{theme}.png") as picture:
            corner = picture.convert("L").getpixel((3, picture.height - 3))
            assert (corner > 200) == (theme == "light"), "the page has its theme's ground"
    assert _hashed(folder) == before, "looking changes nothing"


def test_runs_are_filtered_sorted_and_compared(page: Page) -> None:
    page.open("/", ".runs table")
    assert page.told(".runs", "damaged") and "is damaged" in page.text(".runs")
    box = page.find("#filter")
    box.send_keys("digits nsga2 finished")
    page.until(lambda: "neat" not in page.text(".runs") or None)
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("nothing has this")
    page.told(".runs", "None of")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("seeds")
    page.until(lambda: len(page.all(".runs tbody tr")) == 3 or None)
    for row in page.all(".runs tbody input[type=checkbox]")[:2]:
        row.click()
    page.told("#picked", "2 chosen")
    page.find("#compare").click()
    page.told("#compare-table", "±")
    assert page.address().startswith("/compare?run=seeds-")
    assert page.drawn("attainment")["n"] >= 4


def test_a_run_is_opened_from_the_list_and_its_tabs_lead_around(page: Page) -> None:
    page.open("/", ".runs table")
    next(link for link in page.all(".runs a.name") if link.text == "sample-digits").click()
    page.told("nav .here", "Front")
    for words, wait in [
        ("Species", "#species-table table"),
        ("Lineage", "#tree"),
        ("Recipe and log", "#recipe"),
        ("Front", "#members table"),
    ]:
        next(link for link in page.all("nav a.tab") if link.text == words).click()
        page.find(wait)
        page.told("nav .here", words)
    assert page.address().startswith("/run/sample-digits/front")
    page.find(".brand").click()
    page.find(".runs table")


def test_a_point_leads_to_its_individual_and_on_along_the_front(page: Page, folder: Path) -> None:
    page.open(address("sample-digits"), "#members table")
    page.click_at(*page.point("scatter", "front", 2))
    with evonas.open(folder / "sample-digits") as run:
        chosen = run.store.front()[2]
    page.told("h1", f"Individual {chosen}")
    assert page.address() == address("sample-digits", "individual", chosen)
    page.find("#network canvas")
    next(link for link in page.all(".title a") if "front" in link.text).click()
    page.until(lambda: page.find("h1").text != f"Individual {chosen}" or None)
    next(link for link in page.all(".title a") if link.text == "lineage").click()
    page.told("h1", "Lineage")


def test_the_table_of_members_leads_to_individuals_without_a_mouse(page: Page) -> None:
    page.open(address("sample-digits"), "#members table")
    link = page.find("#members tbody a")
    words = link.text
    page.script("arguments[0].focus()", link)
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    page.told("h1", f"Individual {words}")


def test_controls_change_the_figure_and_the_address_keeps_them(page: Page) -> None:
    page.open(address("three-objectives"), "#members table")
    assert page.drawn("scatter")["names"][0].startswith("all ")
    page.find("#budget").send_keys("params<=2k")
    page.told("#within", "Best within params ≤ 2000")
    page.until(lambda: page.drawn("scatter")["words"] or None)
    page.until(lambda: "budget=params" in page.address() or None)
    page.find("#generation input").send_keys(Keys.ARROW_LEFT) if page.all("#generation input") else None
    found = page.script(
        "dash_clientside.set_props('generation', {value: 5});"
        "dash_clientside.set_props('colour', {value: 'flops'}); return 1"
    )
    assert found == 1
    page.told("#generation-words", "generation 5 of 12")
    page.until(lambda: "front after 5" in " ".join(page.drawn("scatter")["names"]) or None)
    page.until(lambda: ("generation=5" in page.address() and "colour=flops" in page.address()) or None)
    shared = page.address()
    page.open(shared, "#members table")
    page.told("#generation-words", "generation 5 of 12")
    assert "front after 5" in " ".join(page.drawn("scatter")["names"])
    page.told("#within", "Best within params ≤ 2000")


def test_a_budget_that_is_none_is_told(page: Page) -> None:
    page.open(address("sample-digits", budget="prams=3"), "#members table")
    page.told("#within", "did you mean 'params'")


def test_generations_are_played(page: Page) -> None:
    page.open(address("sample-digits", generation="10"), "#members table")
    page.drawn("scatter")
    page.find("#play").click()
    page.told("#play", "pause")
    page.told("#generation-words", "generation 12 of 12")
    page.told("#play", "play")
    page.until(lambda: any(name.startswith("front (") for name in page.drawn("scatter")["names"]) or None)


def test_the_slider_moves_by_keys(page: Page) -> None:
    page.open(address("sample-digits"), "#members table")
    thumb = page.find("#generation [role=slider]")
    thumb.send_keys(Keys.ARROW_LEFT)
    page.told("#generation-words", "generation 11 of 12")


def test_hypervolume_is_drawn_over_each_cost(page: Page) -> None:
    page.open(address("sample-digits"), "#members table")
    title = "const p = document.querySelector('#hypervolume .js-plotly-plot'); return p && p.layout.xaxis.title.text"
    for label in page.all("#over label")[::-1]:
        label.click()
        page.until(lambda: page.script(title) == label.text or None, label.text)  # noqa: B023


def test_an_area_shows_the_members_of_its_species(page: Page) -> None:
    page.open(address("sample-digits", "species"), "#species-table table")
    page.drawn("species-areas")
    box = page.script(
        "const b = document.querySelector('#species-areas .nsewdrag').getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]"
    )
    page.click_at(box[0] + 0.3 * box[2], box[1] + 0.93 * box[3])
    page.told("#members-of h2", "Species 1")
    page.until(lambda: "species=1" in page.address() or None)
    page.find("#members-of tbody a").click()
    page.told("h1", "Individual")
    page.open(address("sample-digits", "species", species="3"), "#members-of table")
    page.told("#members-of h2", "Species 3")


def test_a_node_and_a_link_tell_what_they_are(page: Page, folder: Path) -> None:
    page.open(address("neat", "individual", best(folder, "neat")), "#network canvas")
    page.until(lambda: page.script("return document.querySelector('#network')._cyreg ? 1 : 0"))
    for kind in ("node", "edge"):
        x, y = page.script(
            "const h = document.querySelector('#network'), cy = h._cyreg.cy, b = h.getBoundingClientRect();"
            f"const e = cy.{kind}s()[0]; const p = e.isNode() ? e.renderedPosition() : e.renderedMidpoint();"
            "return [b.left + p.x, b.top + p.y]"
        )
        page.click_at(x, y)
        page.told("#picked-gene", "weight" if kind == "edge" else ":")
    style = page.script(
        "return document.querySelector('#network')._cyreg.cy.edges()"
        ".map(e => [e.data('weight'), e.style('line-color'), e.numericStyle('width')])"
    )
    widths = [width for _, _, width in sorted(style, key=lambda row: abs(row[0]))]
    assert widths == sorted(widths) or any(row[2] == 1 for row in style)
    assert (
        len(
            {colour for weight, colour, _ in style if weight > 0}
            & {colour for weight, colour, _ in style if weight < 0}
        )
        <= 1
    )


def test_an_individual_tells_its_edits_and_whose_weights_it_has(page: Page, folder: Path) -> None:
    id = child(folder, "lemonade")
    page.open(address("lemonade", "individual", id), "#network canvas")
    with evonas.open(folder / "lemonade") as run:
        edits, parents = run.store.edits(id), run.store.parents(id)
        bequests = [one for one in run.bequests(id) if one.parents]
    text = page.text("main")
    assert (
        all(edit.op.replace("_", " ") in text for edit in edits)
        and f"Changed since parent {parents[0]}".lower() in text.lower()
    ) or edits
    assert "weights from parent" in text and bequests
    assert page.drawn("curve")["n"] > 0


def test_downloads_are_the_runs_own_files(page: Page, folder: Path) -> None:
    with evonas.open(folder / "sample-digits") as run:
        id = run.store.front()[0]
        weights = run.weights(id)
    page.open(address("sample-digits", "individual", id), ".downloads a")
    for link in page.all(".downloads a")[:3]:
        code = (
            "const done = arguments[1];"
            "fetch(arguments[0]).then(a => a.arrayBuffer().then(b => done([a.status, b.byteLength])))"
        )
        status, size = page.browser.execute_async_script(code, link.get_attribute("href"))
        assert status == 200 and size > 100
        if "weights" in link.text:
            assert size == len(weights)


def test_the_family_tree_leads_to_ancestors(page: Page, folder: Path) -> None:
    id = child(folder, "lemonade")
    page.open(address("lemonade", "lineage", id), "#tree .js-plotly-plot")
    page.click_at(*page.point("tree", "trunk", 0))
    page.told("h1", "Individual")
    assert page.address() != address("lemonade", "individual", id)


def test_the_theme_is_changed_and_kept(page: Page) -> None:
    page.theme("light")
    page.open(address("sample-digits"), "#members table")
    page.find("#theme").click()
    page.until(lambda: page.script("return document.documentElement.dataset.theme") == "dark" or None)
    page.until(
        lambda: (
            page.script(
                "const p = document.querySelector('#scatter .js-plotly-plot');"
                "return p && p.layout && p.layout.paper_bgcolor"
            )
            == "#15181d"
            or None
        )
    )
    page.open("/", ".runs table")
    assert page.script("return document.documentElement.dataset.theme") == "dark"


def test_every_control_has_a_name_and_can_be_reached_by_keys(page: Page) -> None:
    page.open(address("sample-digits"), "#members table")
    page.find("body").send_keys(Keys.TAB)
    assert "skip" in page.browser.switch_to.active_element.text
    reached = set()
    for _ in range(40):
        active = page.browser.switch_to.active_element
        reached.add(active.get_attribute("id") or active.get_attribute("class") or active.text)
        active.send_keys(Keys.TAB)
    assert {"theme", "budget", "play"} <= reached, reached
    unnamed = (
        "return [...document.querySelectorAll('button, a, input')].filter(e => e.offsetParent && !(e.innerText || "
        "e.getAttribute('aria-label') || e.placeholder || e.title || (e.labels && e.labels.length)))"
        ".map(e => e.outerHTML)"
    )
    assert page.script(unnamed) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (address("empty"), "no individual has been measured yet"),
        (address("empty", "species"), "no species yet"),
        (address("empty", "lineage"), "Nobody has been estimated yet"),
        (address("empty", "log"), "Nobody has failed"),
        (address("nobody"), "no run 'nobody'"),
        (address("damaged"), "is damaged"),
        ("/nowhere", "There is no page"),
        (address("sample-digits", "individual", 99999), "the highest id is 191"),
        ("/compare", "Choose two runs or more"),
        (comparison(["sample-digits", "neat"]), "Left out: neat has the objectives fitness"),
        (address("neat", "individual", 3), "its values are known, but not its network"),
    ],
)
def test_what_is_not_there_is_said_in_plain_words(page: Page, path: str, words: str) -> None:
    page.open(path)
    page.until(lambda: words in page.text("main") or words in " ".join(_figure_words(page)) or None, words)


def _figure_words(page: Page) -> list[str]:
    code = (
        "return [...document.querySelectorAll('.js-plotly-plot')]"
        ".flatMap(p => ((p.layout || {}).annotations || []).map(a => a.text))"
    )
    return list(page.script(code))


# ------------------------------------------------------------------------------------------------------- hostility


def test_hostile_names_are_text(page: Page) -> None:
    page.open("/", ".runs table")
    assert all(name in page.text(".runs") for name in HOSTILE)
    for name in HOSTILE[1:4]:
        page.open(address(name), "#members table")
        assert page.find(".run-name").text.startswith(name[:20])
        _nothing_runs(page)
    page.open(comparison(HOSTILE), "#compare-table table")
    page.drawn("attainment")
    assert all(name in page.text("#compare-table") for name in HOSTILE)
    _nothing_runs(page)


def test_hostile_reasons_are_text_on_every_page(page: Page) -> None:
    name = HOSTILE[0]
    for view, wait in [("species", "#species-table table"), ("lineage", "#tree"), ("log", "#failures table")]:
        page.open(address(name, view), wait)
        _nothing_runs(page)
    assert "<script>hacked()</script>" in page.text("#failures") and "<img src=x onerror=hacked()>" in page.text(
        "#failures"
    )
    page.find("#failures tbody a").click()
    page.told("main", "failed")
    _nothing_runs(page)


def _nothing_runs(page: Page) -> None:
    assert (
        page.script("return document.querySelectorAll('main script, main img, main svg[onload], [onerror]').length")
        == 0
    )
    assert page.script("return typeof window.hacked") == "undefined"


def test_words_in_an_address_are_text(page: Page) -> None:
    evil = quote("<img src=x onerror=hacked()>")
    for path in (
        f"/{evil}",
        f"/run/{evil}/front",
        f"/run/sample-digits/front?budget={evil}%3D3&across={evil}&filter={evil}",
        f"/?filter={evil}",
    ):
        page.open(path)
        page.until(lambda: page.script("return document.querySelector('main').innerText.length > 0"))
        assert page.script("return document.querySelectorAll('[onerror]').length") == 0


def test_a_token_is_shown_once_and_then_known(chromium: webdriver.Chrome, folder: Path) -> None:
    server = Server(folder, port=0, token="abc def")
    server.start()
    try:
        page = Page(chromium, server.address)
        page.browser.delete_all_cookies()
        page.browser.get(page.base + "/")
        page.told("body", "token is needed")
        page.browser.get(server.address)
        page.find(".runs table")
        assert page.address() == "/"
        page.complaints(), page.foreign()
    finally:
        server.close()


def _hashed(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ------------------------------------------------------------------------------------------------------------ live


@pytest.fixture
def going_on(tmp_path: Path, chromium: webdriver.Chrome) -> Iterator[tuple[Page, Path]]:
    """A dashboard over a folder that runs come into."""
    server = Server(tmp_path / "runs", port=0)
    server.start()
    for page in watched(Page(chromium, server.address)):
        yield page, tmp_path / "runs"
    server.close()


def test_a_new_run_and_its_generations_come_by_themselves(going_on: tuple[Page, Path]) -> None:
    page, runs = going_on
    page.open("/")
    page.told(".runs", "yet")
    runs.mkdir()
    writing = fabricated.growing(runs / "live", Made(fabricated.RECIPE, 10, 4))
    next(writing)
    page.told(".runs", "1 of 4")
    assert "running" in page.text(".runs")
    page.open(address("live"), "#members table")
    for generation in range(2, 5):
        assert next(writing) == generation
        page.told("#state", f"{generation} of 4 generations")
        page.told("#generation-words", f"generation {generation} of {generation}")
        page.until(lambda: f"all {len(_ok(runs / 'live'))}" in page.drawn("scatter")["names"] or None)
    assert next(writing, None) is None
    page.told("#state", "finished")


def _ok(folder: Path) -> list[int]:
    with evonas.open(folder) as run:
        return [row.id for row in run.individuals() if row.status == "ok"]


@pytest.mark.slow
def test_a_search_in_another_process_is_followed_until_it_is_stopped(going_on: tuple[Page, Path]) -> None:
    page, runs = going_on
    runs.mkdir()
    search = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "evonas",
            "run",
            "examples/double-pole-no-velocity.yaml",
            "--runs",
            str(runs),
            "--name",
            "poles",
            "--set",
            "strategy.population=100",
            "--set",
            "strategy.generations=100000",
            "--set",
            "strategy.goal.generalises=10000",
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        page.until(lambda: (runs / "poles" / "run.sqlite").exists() or None, seconds=60)
        page.open(address("poles"))
        page.told("#state", "running")
        seen = page.until(lambda: _passed(page) or None, seconds=30)
        page.until(lambda: _passed(page) > seen or None, "another generation")
        page.until(lambda: page.drawn("hypervolume")["n"] or None)
    finally:
        search.send_signal(signal.SIGINT)
        search.wait(60)
    page.told("#state", "interrupted")


def _passed(page: Page) -> int:
    return int(page.text("#state").replace("\n", " ").partition(" of ")[0].split()[-1])
