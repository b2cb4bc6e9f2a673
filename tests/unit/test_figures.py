"""Figures and drawings: what they show, that they are files with equal bytes, and that hostile names are only text."""

from __future__ import annotations

import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from evonas.core import Objective, RecipeError, StorageError
from evonas.encoding.plan import Plan, Step
from evonas.report import drawing, figures
from evonas.report.layout import layered

ERROR = Objective("error", "fraction")
PARAMS = Objective("params", "", cheap=True, max=50_000)
ACCURACY = Objective("accuracy", "fraction", direction="max")
HOSTILE = r"$\frac{<script>alert(1)</script>&\n"


def svg(figure: Figure) -> str:
    content = figures.render(figure, "svg").decode()
    ElementTree.fromstring(content)
    return content


def line_points(figure: Figure, index: int = 0) -> list[tuple[float, float]]:
    points = figure.axes[0].get_lines()[index].get_xydata()
    return [(float(x), float(y)) for x, y in np.asarray(points)]


# ---------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.0512, "0.0512"), (999, "999"), (999.6, "1k"), (61706, "61.7k"), (999_600, "1M"), (-2e9, "-2G")],
)
def test_short_numbers(value: float, expected: str) -> None:
    assert figures.short(value) == expected


def test_front_staircase_follows_the_directions() -> None:
    points = {1: (100.0, 0.3), 2: (200.0, 0.2), 3: (400.0, 0.1), 4: (300.0, 0.5), 5: (10.0, math.nan)}
    figure = figures.front((PARAMS, ERROR), points, [1, 2, 3, 5], knee=2)
    assert line_points(figure) == [(100, 0.3), (200, 0.3), (200, 0.2), (400, 0.2), (400, 0.1)]
    higher = {id: (x, 1 - y) for id, (x, y) in points.items()}
    figure = figures.front((PARAMS, ACCURACY), higher, [1, 2, 3])
    assert line_points(figure) == [(100, 0.7), (200, 0.7), (200, 0.8), (400, 0.8), (400, 0.9)]
    assert "higher is better" in figure.axes[0].get_ylabel()


def test_front_members_that_are_not_best_in_the_two_shown_have_no_step() -> None:
    """A front over three objectives holds points that two of them call dominated."""
    figure = figures.front((PARAMS, ERROR), {1: (1.0, 1.0), 2: (2.0, 2.0), 3: (3.0, 0.5)}, [1, 2, 3])
    assert line_points(figure) == [(1, 1), (3, 1), (3, 0.5)]


@pytest.mark.parametrize(("objective", "sign"), [(ERROR, 1), (ACCURACY, -1)])
def test_a_few_far_worse_individuals_do_not_squeeze_the_front(objective: Objective, sign: int) -> None:
    """They lie at the end of their axis, behind all others."""
    good = {id: (100.0 + id, sign * (0.1 + 0.01 * id)) for id in range(20)}
    usual = figures.front((PARAMS, objective), good, [0]).axes[0]
    figure = figures.front((PARAMS, objective), good | {20: (110.0, sign * 0.9), 21: (112.0, sign * 0.8)}, [0])
    squeezed = figure.axes[0]
    assert abs(np.subtract(*squeezed.get_ylim())) < 1.3 * abs(np.subtract(*usual.get_ylim()))
    assert squeezed.get_legend_handles_labels()[1] == ["others", "2 beyond", "front"]
    near, far, _ = squeezed.collections
    assert len(near.get_offsets()) == 19 and far.get_offsets()[:, 0].tolist() == [110, 112]
    assert min(abs(far.get_offsets()[:, 1])) > max(abs(near.get_offsets()[:, 1]))


def test_far_worse_individuals_lie_at_the_end_of_a_logarithmic_axis_too() -> None:
    good = {id: (1000.0 * id, 0.5 - 0.01 * id) for id in range(1, 21)}
    (ax,) = figures.front((PARAMS, ERROR), good | {21: (1e12, 0.6)}, [20]).axes
    assert ax.get_xscale() == "log" and ax.get_xlim()[1] < 50_000
    ((x, y),) = ax.collections[1].get_offsets().tolist()
    assert 20_000 < x < 30_000 and y < 0.6, "worse than most in both"


def test_front_axes_are_logarithmic_where_values_span_decades() -> None:
    wide = figures.front((PARAMS, ERROR), {1: (100.0, 0.3), 2: (100_000.0, 0.2)}, [1, 2])
    assert (wide.axes[0].get_xscale(), wide.axes[0].get_yscale()) == ("log", "linear")
    zero = figures.front((PARAMS, ERROR), {1: (0.0, 0.3), 2: (100_000.0, 0.2)}, [1, 2])
    assert zero.axes[0].get_xscale() == "linear"


def test_front_marks_the_knee_and_the_constraint() -> None:
    points = {1: (100.0, 0.3), 2: (100_000.0, 0.2)}
    content = svg(figures.front((PARAMS, ERROR), points, [1, 2], knee=1))
    assert "knee: individual 1" in content
    assert "params, lower is better" in content and "error (fraction), lower is better" in content
    figure = figures.front((PARAMS, ERROR), points, [1, 2])
    assert line_points(figure, 1)[0][0] == 50_000


def test_species_bands_stack_to_the_population() -> None:
    figure = figures.species([{1: 10}, {1: 6, 2: 4}, {2: 7, 5: 3}])
    bands = figure.axes[0].collections
    assert len(bands) == 3
    tops = [band.get_datalim(figure.axes[0].transData).y1 for band in bands]
    assert tops[-1] == pytest.approx(10)
    assert {text.get_text() for text in figure.axes[0].texts} == {"1", "2", "5"}
    assert figure.axes[0].get_xlim() == (0.5, 3.5), "generations count from 1"


def test_curves_show_every_run_and_metric() -> None:
    content = svg(figures.hypervolume({"nsga2": [(10, 0.1), (20, 0.4)], "random": [(10, 0.1), (20, 0.2)]}))
    assert "nsga2" in content and "random" in content and "evaluations (individuals)" in content
    curve = [{"epoch": 1, "loss": 2.0, "error": 0.5, "seconds": 1.0}, {"epoch": 2, "loss": math.nan, "error": 0.4}]
    figure = figures.learning_curves({"individual 3": curve})
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "error"]
    assert line_points(figure)[0] == (1, 2.0) and math.isnan(line_points(figure)[1][1])


def test_a_curve_may_begin_with_inherited_weights() -> None:
    """Its first point, of epoch 0, has no loss: one epoch's loss alone is still seen, as a dot."""
    figure = figures.learning_curves({"child": [{"epoch": 0, "error": 0.2}, {"epoch": 1, "loss": 2.0, "error": 0.1}]})
    error, loss = (ax.lines[0] for ax in figure.axes)
    assert list(error.get_xdata()) == [0, 1] and error.get_marker() in ("", "None")
    assert loss.get_marker() == "o"


@pytest.mark.parametrize(
    "figure",
    [
        figures.front((PARAMS, ERROR), {}, []),
        figures.species([]),
        figures.hypervolume({"run": []}),
        figures.learning_curves({}),
    ],
    ids=["front", "species", "hypervolume", "learning"],
)
def test_nothing_to_show_says_so(figure: Figure) -> None:
    assert any(text.get_text().startswith(("no ", "nothing ")) for text in figure.axes[0].texts)
    assert figures.render(figure, "png").startswith(b"\x89PNG")


def test_hostile_names_are_only_text() -> None:
    for figure in (
        figures.front((PARAMS, ERROR), {1: (1.0, 1.0)}, [1], title=HOSTILE),
        figures.hypervolume({HOSTILE: [(1, 1)], "b": [(1, 1)]}),
        figures.learning_curves({HOSTILE: [{HOSTILE: 1.0}], "b": [{HOSTILE: 2.0}]}),
        drawing.draw(residual(), title=HOSTILE),
    ):
        content = svg(figure)
        assert "<script>" not in content and "&lt;script&gt;" in content
        assert figures.render(figure, "png").startswith(b"\x89PNG")


def test_files(tmp_path: Path) -> None:
    figure = figures.species([{1: 3}])
    for ending, start in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        path = figures.save(figure, tmp_path / f"species.{ending}")
        assert path.read_bytes().startswith(start)
        again = figures.render(figures.species([{1: 3}]), ending)
        assert again == path.read_bytes()
    with pytest.raises(RecipeError, match=r"no picture format 'gif'.*\.svg, \.png or \.pdf"):
        figures.save(figure, tmp_path / "species.gif")
    with pytest.raises(StorageError, match="cannot write the picture"):
        figures.save(figure, tmp_path / "nowhere" / "species.svg")


def test_matplotlib_settings_stay_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    figures.render(figures.species([{1: 3}]), "svg")
    drawing.draw(residual())
    assert dict(matplotlib.rcParams) == before
    code = "import sys, evonas.report.drawing; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ----------------------------------------------------------------------------------------------------------- layout


@st.composite
def graphs(draw: st.DrawFn, largest: int = 24) -> list[list[int]]:
    """Nodes in topological order, each with a few earlier ones as inputs."""
    size = draw(st.integers(1, largest))
    return [[]] + [sorted(draw(st.sets(st.integers(0, i - 1), min_size=1, max_size=min(i, 4)))) for i in range(1, size)]


@settings(max_examples=60, deadline=None)
@given(graphs(), st.data())
def test_no_box_overlaps_another_or_an_edge(inputs: list[list[int]], data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.floats(0.1, 3), min_size=len(inputs), max_size=len(inputs)))
    layout = layered(inputs, widths)
    boxes = [(layout.rank[i], layout.x[i] - w / 2, layout.x[i] + w / 2) for i, w in enumerate(widths)]
    for target, sources in enumerate(inputs):
        for source in sources:
            assert layout.rank[source] < layout.rank[target]
            passed = range(layout.rank[source] + 1, layout.rank[target])
            assert len(layout.lanes[source]) >= len(passed)
            for r, x in zip(passed, layout.lanes[source], strict=False):
                assert not any(rank == r and left < x < right for rank, left, right in boxes)
    for i, (rank, left, right) in enumerate(boxes):
        assert all(right <= a + 1e-6 or b <= left + 1e-6 for r, a, b in boxes[i + 1 :] if r == rank)


def test_the_longest_path_is_a_straight_line() -> None:
    layout = layered([[], [0], [1], [0, 2], [3], [3, 4]], [1.0] * 6)
    assert layout.rank == (0, 1, 2, 3, 4, 5)
    assert layout.x == pytest.approx([0.0] * 6, abs=1e-3)
    # the edge from 0 to 3 passes ranks 1 and 2 in one straight lane beside the boxes
    assert len(layout.lanes[0]) == 2 and len({round(x, 6) for x in layout.lanes[0]}) == 1
    assert abs(layout.lanes[0][0]) > 0.5


# ---------------------------------------------------------------------------------------------------------- drawing


def residual() -> Plan:
    """A convolution, a residual block around a second one, and a classifier."""
    conv = {"kernel": (3, 3), "stride": (1, 1), "dilation": (1, 1), "norm": "batch", "activation": "relu"}
    return Plan((
        Step("layer0", "input", (), (3, 8, 8)),
        Step("layer2", "conv", (0,), (16, 8, 8), {**conv, "stride": (2, 2)}, 1234, 5_000_000),
        Step("layer3", "conv", (1,), (16, 8, 8), conv, 2336, 100),
        Step("layer4_merge", "sum", (1, 2), (16, 8, 8)),
        Step("layer1_reduce", "global_pool", (3,), (16,)),
        Step("layer1", "linear", (4,), (10,), {"activation": "linear", "norm": "none"}, 170, 320),
    ))  # fmt: skip


def test_drawing_says_what_each_step_is() -> None:
    content = svg(drawing.draw(residual(), title="lenet"))
    for words in ("lenet", "3,740 parameters", "5 MFLOPs", "conv 3×3 /2, 16", "dense 10", "+   16×8×8"):
        assert words in content
    assert "batch norm, relu  ·  16×8×8  ·  1,234 params" in content


def test_drawing_grows_with_the_network_and_a_png_never_outgrows_agg() -> None:
    def chain(length: int) -> Plan:
        conv = {"kernel": (3, 3), "norm": "none", "activation": "relu"}
        first = Step("layer0", "input", (), (3, 8, 8))
        return Plan((first, *(Step(f"layer{i + 2}", "conv", (i,), (4, 8, 8), conv, 9) for i in range(length))))

    short, tall = drawing.draw(chain(5)), drawing.draw(chain(600))
    assert tall.get_figheight() > 40 * short.get_figheight()
    assert short.dpi == 150 and tall.get_figheight() * tall.dpi <= 60_000


def test_text_drawing() -> None:
    lines = drawing.text(residual()).splitlines()
    assert lines[0].split() == ["mark", "operation", "shape", "params", "FLOPs"]
    assert [line.split()[0] for line in lines[1:-1]] == ["●", "●", "├─●", "●─╯", "●", "●"]
    assert " ".join(lines[2].split()) == "● 2 conv 3×3 /2, 16, batch norm, relu 16×8×8 1,234 5M"
    assert lines[-1].split() == ["depth", "3", "3,740", "5M"]


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_rails_tell_where_tensors_go(inputs: list[list[int]]) -> None:
    """Reading the rails back gives the graph that was drawn."""
    steps = tuple(Step(f"layer{i}", "identity", tuple(sources), (1,)) for i, sources in enumerate(inputs))
    lines = drawing.text(Plan(steps)).splitlines()
    rails = [line[: lines[0].index("mark") - 2] for line in lines[1:-1]]
    last = {source: i for i, sources in enumerate(inputs) for source in sources}
    columns: dict[int, int] = {}
    for i, rail in enumerate(rails):
        cells = rail[::2]
        (here,) = (c for c, cell in enumerate(cells) if cell == "●")
        taken = {c for c, cell in enumerate(cells) if cell in "├┤┼╯╰┴"} | ({here} & columns.keys())
        assert sorted(columns[c] for c in taken) == inputs[i]
        assert all(cells[c] == "│" for c in columns.keys() - taken)
        for c in [c for c in taken if last[columns[c]] == i]:
            del columns[c]
        if i in last:
            columns[here] = i
