"""A real Chromium, driven headless, in front of a dashboard of real and made-up runs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

pytest.importorskip("dash", reason="needs the extra evonas[dashboard]")
pytest.importorskip("selenium", reason="needs selenium")

from selenium import webdriver
from selenium.common.exceptions import JavascriptException, StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

import evonas
from evonas.dashboard.server import Server
from tests import fabricated
from tests.conftest import once
from tests.fabricated import Made

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")

INHERITING: dict[str, Any] = {
    "name": "lemonade",
    "task": {"kind": "digits"},
    "encoding": {"kind": "dag", "mutations": "morphisms", "channels": [2, 4, 6, 8], "bounds": {"params": 3000}},
    "objectives": ["error", "params"],
    "strategy": {
        "kind": "lemonade",
        "population": 4,
        "offspring": 4,
        "proposals": 6,
        "generations": 3,
        "crossover": 0.3,
    },
    "estimator": {"kind": "train", "epochs": 1, "share": 0.1, "inherit": {"kind": "weights", "epochs": 1}},
    "pool": {"kind": "serial"},
}
NEAT: dict[str, Any] = {
    "name": "neat", "seed": 3, "task": {"kind": "xor"}, "encoding": {"kind": "neat"}, "objectives": ["fitness"],
    "strategy": {"kind": "neat", "population": 150, "generations": 12}, "estimator": {"kind": "population"},
}  # fmt: skip
HOSTILE = [
    "<img src=x onerror=hacked()>",
    "'\"><svg onload=hacked()>",
    "a'b\"c & d %s ${hacked()}",
    "..%2f..%2fetc",
    "网 größe",
    "x" * 150,
]
REASONS = ["<script>hacked()</script>", "<img src=x onerror=hacked()>", "loss is nan in epoch 3", "l" * 480]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind; a copy, since another process's browser must not change what this one's test has hashed."""
    filled = once(tmp_path_factory, "every-kind", every_kind)
    return Path(shutil.copytree(filled, tmp_path_factory.mktemp("browser") / "runs"))


def every_kind(runs: Path) -> None:
    """Fills a folder with runs."""
    shutil.copytree(ROOT / "runs" / "sample-digits", runs / "sample-digits")
    for recipe in (INHERITING, NEAT):
        evonas.start(recipe, runs=runs).close()
    three = {
        **fabricated.RECIPE,
        "objectives": ["error", {"name": "params", "max": "50k", "unit": "<b>n</b>"}, "flops"],
    }
    fabricated.write(runs / "three-objectives", Made(three, 40, 12, failures=REASONS, failing=0.1))
    for seed in (1, 2, 3):
        fabricated.write(runs / f"seeds-{seed}", Made({**fabricated.RECIPE, "seed": seed}, 12, 8, seed=seed))
    fabricated.write(runs / "empty", Made(fabricated.RECIPE, 4, 10, finished=0))
    damaged = fabricated.write(runs / "damaged", Made(fabricated.RECIPE, 4, 1)) / "run.sqlite"
    damaged.write_bytes(damaged.read_bytes()[:9000])
    for i, name in enumerate(HOSTILE):
        made = Made(fabricated.RECIPE, 8, 3, failures=REASONS, failing=0.3)
        fabricated.write(runs / f"hostile-{i}", made).rename(runs / name)


@pytest.fixture(scope="session")
def served(folder: Path) -> Iterator[Server]:
    server = Server(folder, port=0)
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    if None in _programs():
        pytest.skip("no Chromium with its chromedriver: apt-get install chromium chromium-driver")
    with browser() as started:
        yield started


def _programs() -> tuple[str | None, str | None]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return program, shutil.which("chromedriver")


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """A headless Chromium that asks nobody but the pages it is given."""
    program, driver = _programs()
    assert program is not None and driver is not None
    options = Options()
    options.binary_location = program
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--window-size=1440,960",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()


class Page:
    """A reader at a dashboard. What the browser complains of and where it asks are looked at when the test is over."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser, self.base = browser, address.partition("?")[0].rstrip("/")

    def open(self, path: str, wait: str = "main > *") -> None:
        self.browser.get(self.base + path)
        self.find(wait)

    def find(self, selector: str, seconds: float = 20) -> WebElement:
        """The first shown element; it may still be on its way."""
        return self.until(lambda: next((e for e in self.all(selector) if e.is_displayed()), None), selector, seconds)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def until(self, found: Callable[[], T | None], what: str = "", seconds: float = 20) -> T:
        """What `found` gives as soon as it is something; what React replaces meanwhile is looked for again."""
        end = time.monotonic() + seconds
        while True:
            try:
                if value := found():
                    return value
            except (StaleElementReferenceException, JavascriptException):
                pass
            assert time.monotonic() < end, (
                f"{what or 'it'} did not come within {seconds} s at {self.browser.current_url}"
            )
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        return self.until(lambda: self.find(selector).text, selector)

    def told(self, selector: str, words: str, seconds: float = 20) -> str:
        """Waits until an element says something."""
        return self.until(
            lambda: t if words in (t := self.find(selector).text) else None, f"{words!r} in {selector}", seconds
        )

    def script(self, code: str, *arguments: Any) -> Any:
        return self.browser.execute_script(code, *arguments)

    def drawn(self, id: str) -> Any:
        """The data of a figure that plotly has drawn."""
        code = (
            f"const p = document.querySelector('#{id} .js-plotly-plot'); return p && p._fullLayout ? JSON.stringify("
            "{n: p.data.length, names: p.data.map(t => t.name),"
            " words: (p.layout.annotations || []).map(a => a.text)}) : null"
        )
        return json.loads(self.until(lambda: self.script(code), f"figure {id}"))

    def point(self, id: str, uid: str, index: int = 0) -> tuple[float, float]:
        """Where a trace's point is on the screen."""
        code = (
            f"const p = document.querySelector('#{id} .js-plotly-plot');"
            f"const at = p._fullData.findIndex(t => t.uid === {json.dumps(uid)});"
            f"const g = p.calcdata[at][0].trace; const x = p._fullLayout[g.xaxis === 'x' ? 'xaxis' : g.xaxis];"
            f"const d = p.calcdata[at][{index}]; const box = p.querySelector('.nsewdrag').getBoundingClientRect();"
            "return [box.left + p._fullLayout.xaxis.c2p(d.x), box.top + p._fullLayout.yaxis.c2p(d.y)]"
        )
        self.drawn(id)
        found = self.until(lambda: self.script(code), f"point {index} of {uid}")
        return found[0], found[1]

    def point_at(self, x: float, y: float) -> None:
        """Moves the pointer there, and gives plotly the time to see it: it looks 20 times a second."""
        for dx in (-1, 0):
            action = ActionBuilder(self.browser)
            action.pointer_action.move_to_location(round(x) + dx, round(y))
            action.perform()
            time.sleep(0.1)

    def press(self, x: float, y: float) -> None:
        action = ActionBuilder(self.browser)
        action.pointer_action.move_to_location(round(x), round(y)).click()
        action.perform()

    def click_at(self, x: float, y: float) -> None:
        """A click there; plotly takes the point that the pointer was seen over before."""
        self.point_at(x, y)
        self.press(x, y)

    def address(self) -> str:
        return str(self.browser.current_url)[len(self.base) :]

    def theme(self, name: str) -> None:
        """The theme that the next page comes in."""
        self.browser.get(self.base + "/assets/icon.svg")
        self.browser.add_cookie({"name": "evonas-theme", "value": name})

    def shot(self, path: Path) -> None:
        """The whole page as a picture."""
        height = self.script("return document.documentElement.scrollHeight")
        self.browser.set_window_size(1440, min(max(height + 140, 800), 2400))
        self.until(lambda: self.script("return document.fonts.status === 'loaded'"))
        time.sleep(0.2)  # figures take their new size when the browser next draws
        self.browser.save_screenshot(str(path))
        self.browser.set_window_size(1440, 960)

    def complaints(self) -> list[str]:
        """Errors on the console since the last look."""
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]

    def foreign(self) -> list[str]:
        """Addresses that were asked since the last look and are not this dashboard's."""
        events = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
        own = urlsplit(self.base).netloc
        return [
            url
            for url in asked
            if urlsplit(url).scheme not in ("data", "blob", "about", "chrome") and urlsplit(url).netloc != own
        ]


@pytest.fixture
def page(chromium: webdriver.Chrome, served: Server) -> Iterator[Page]:
    """A page over all runs; a console error or a request off the machine fails the test that caused it."""
    yield from watched(Page(chromium, served.address))


def watched(page: Page) -> Iterator[Page]:
    page.browser.get("about:blank")
    page.browser.delete_all_cookies()
    page.complaints(), page.foreign()
    yield page
    assert page.complaints() == []
    assert page.foreign() == []


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: EVONAS_SCREENSHOTS, or a folder of this session."""
    chosen = os.environ.get("EVONAS_SCREENSHOTS")
    folder = Path(chosen) if chosen else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
