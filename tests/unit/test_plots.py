"""Interactive figures: plain JSON, both themes, every name as text, staircases that dominate what they should."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evonas
from evonas.report import plots, views
from evonas.report.plots import DARK, LIGHT, Figure, Theme
from evonas.report.views import Axis
from evonas.results import Run
from tests import fabricated
from tests.fabricated import Made

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = '<img src=x onerror="alert(1)"> %{x} $e^x$'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("runs") / "made"
    with evonas.open(fabricated.write(folder, Made(fabricated.RECIPE, 100, 5))) as run:
        yield run


@pytest.fixture(scope="module")
def sample() -> Iterator[Run]:
    with evonas.open(ROOT / "runs" / "sample-digits") as run:
        yield run


@pytest.fixture(params=[LIGHT, DARK], ids=lambda theme: theme.name)
def theme(request: pytest.FixtureRequest) -> Theme:
    return request.param  # type: ignore[no-any-return]


def unpacked(values: Any) -> list[Any]:
    """Numbers of a trace, also those that travel as base64."""
    if isinstance(values, dict):
        array = np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])
        return array.reshape([int(n) for n in values["shape"].split(",")] if "shape" in values else -1).tolist()  # type: ignore[no-any-return]
    return list(values)


def trace(figure: Figure, uid: str) -> Any:
    return next(one for one in figure["data"] if one.get("uid") == uid)


def every(run: Run, sample: Run, theme: Theme) -> list[Figure]:
    """One figure of each kind."""
    view, told, kinds = views.front(run), views.trend(run, run.everyone()), views.species(sample)
    ends = [
        (view.columns["params"][view.positions(ids)], view.columns["error"][view.positions(ids)]) for ids in view.fronts
    ]
    reached = views.attainment(HOSTILE, ends, (view.axes["params"], view.axes["error"]))
    estimate = sample.estimate(185)
    assert estimate is not None
    return [
        plots.front(view, theme),
        plots.front(view, theme, colour="species", generation=2, animated=True),
        plots.front(view, theme, "born", "error", "params", budget={"error": 0.2}),
        plots.hypervolume([told, replace(told, run=HOSTILE)], theme),
        plots.species(kinds, theme),
        plots.distances(views.distances(sample, kinds), theme),
        plots.curve(estimate.curve, theme),
        plots.lineage(views.lineage(sample, 185), theme),
        plots.attainment([reached], theme),
        plots.empty(HOSTILE, theme),
    ]


def test_every_figure_is_plain_json_in_its_theme(run: Run, sample: Run, theme: Theme) -> None:
    other = LIGHT if theme is DARK else DARK
    for figure in every(run, sample, theme):
        text = json.dumps(figure, allow_nan=False)
        assert figure["layout"]["paper_bgcolor"] == theme.ground
        assert other.ground not in text.replace("rgba(0,0,0,0)", "") and other.accent not in text


def test_names_are_text_in_every_figure(run: Run, sample: Run) -> None:
    text = json.dumps(every(run, sample, LIGHT))
    assert "<img" not in text and "$e^x$" not in text and "&lt;img" in text


def test_no_trace_needs_webgl(run: Run, sample: Run) -> None:
    kinds = {one["type"] for figure in every(run, sample, LIGHT) for one in figure["data"]}
    assert kinds <= {"scatter", "heatmap"}


def test_points_carry_ids_and_the_front_is_whole(run: Run) -> None:
    view = views.front(run)
    figure = plots.front(view, LIGHT)
    front = unpacked(trace(figure, "front")["customdata"])
    assert [int(row[0]) for row in front] == sorted(view.fronts[-1])
    shown = {int(row[0]) for row in unpacked(trace(figure, "crowd")["customdata"])}
    assert shown <= set(view.ids.tolist()) and len(shown) > 100


def test_a_generation_shows_its_own_front_and_who_was_born(run: Run) -> None:
    view = views.front(run)
    figure = plots.front(view, LIGHT, generation=2)
    assert [int(row[0]) for row in unpacked(trace(figure, "front")["customdata"])] == sorted(view.fronts[1])
    born = {int(row[0]) for row in unpacked(trace(figure, "newborn")["customdata"])}
    assert born == set(view.ids[view.born == 1].tolist())


def test_an_animation_has_a_frame_for_each_generation(run: Run) -> None:
    view = views.front(run)
    figure = plots.front(view, LIGHT, animated=True)
    assert [one["name"] for one in figure["frames"]] == ["1", "2", "3", "4", "5"]
    last = figure["frames"][-1]["data"][2]
    assert unpacked(last["x"]) == unpacked(trace(figure, "front")["x"])


def test_a_window_holds_those_within_alone(run: Run) -> None:
    view = views.front(run)
    figure = plots.front(view, LIGHT, "params", "error", window={"params": (1000.0, 2000.0)})
    assert all(1000 <= x <= 2000 for x in unpacked(trace(figure, "crowd")["x"]))


def test_budget_and_limits_are_lines_with_their_values(run: Run) -> None:
    view = views.front(run)
    figure = plots.front(view, LIGHT, budget={"params": 20_000.0})
    assert [one["x0"] for one in figure["layout"]["shapes"]] == [20_000.0]
    assert [one["text"] for one in figure["layout"]["annotations"]] == ["budget 20k"]


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=30), st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_staircase_turns_at_the_points_that_none_dominates(
    points: list[tuple[float, float]], most_across: bool, most_up: bool
) -> None:
    axes = (Axis("x", direction="max" if most_across else "min"), Axis("y", direction="max" if most_up else "min"))
    x, y = (np.array([point[i] for point in points]) for i in (0, 1))
    xs, ys = plots.staircase(x, y, axes)
    losses = [(axes[0].loss_of(a), axes[1].loss_of(b)) for a, b in points]
    best = {one for one in losses if not any(o != one and o[0] <= one[0] and o[1] <= one[1] for o in losses)}
    corners = {
        (axes[0].loss_of(a), axes[1].loss_of(b)) for a, b in zip(xs.tolist()[::2], ys.tolist()[::2], strict=True)
    }
    assert corners == best


def test_the_best_so_far_is_a_staircase_over_births(tmp_path: Path) -> None:
    recipe = {**fabricated.RECIPE, "objectives": ["error"]}
    with evonas.open(fabricated.write(tmp_path / "one", Made(recipe, 20, 4))) as run:
        view = views.front(run)
        xs, ys = (unpacked(trace(plots.front(view, LIGHT), "stairs")[way]) for way in "xy")
    best = np.minimum.accumulate(view.columns["error"])
    assert ys[0] == best[0] and ys[-1] == best[-1] and xs[-1] == view.ids[-1]
    assert all(b <= a for a, b in pairwise(ys))


def test_nothing_to_show_is_said_in_words(tmp_path: Path) -> None:
    with evonas.open(fabricated.write(tmp_path / "none", Made(fabricated.RECIPE, 4, 2, finished=0))) as run:
        figures = [
            plots.front(views.front(run), LIGHT),
            plots.hypervolume([views.trend(run)], LIGHT),
            plots.species(views.species(run), LIGHT),
            plots.curve([], LIGHT),
            plots.attainment([], LIGHT),
        ]
    for figure in figures:
        assert figure["data"] == [] and figure["layout"]["annotations"][0]["text"]


def test_arrays_travel_whole() -> None:
    values = np.arange(300.0).reshape(100, 3)
    assert unpacked(plots.packed(values)) == values.tolist()
    assert plots.packed(np.array([1.0, np.nan])) == [1.0, None]
