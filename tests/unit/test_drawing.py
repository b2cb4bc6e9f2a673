"""Drawings of direct genomes: every gene is there, nothing overlaps, colour and width say the weight."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from evonas import zoo
from evonas.encoding.cell import CellEncoding, CellSettings
from evonas.report import cells, drawing, figures, graphs, tables
from evonas.report.layout import layered
from tests.unit.plain_genes import XOR, genes, plan_of


def svg(figure: Figure) -> str:
    content = figures.render(figure, "svg").decode()
    ElementTree.fromstring(content)
    return content


def node_boxes(figure: Figure) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right, bottom of each node by its mark, in inches."""
    ax = figure.axes[0]
    boxes = [a.get_bbox() for a in ax.get_children() if isinstance(a, FancyBboxPatch)]
    found = {}
    for text in ax.texts:
        x, y = text.get_position()
        if text.get_text().isdigit():
            (box,) = (b for b in boxes if b.x0 < x < b.x1 and min(b.y0, b.y1) < y < max(b.y0, b.y1))
            found[text.get_text()] = (box.x0, min(box.y0, box.y1), box.x1, max(box.y0, box.y1))
    return found


def link_lines(figure: Figure) -> list[FancyArrowPatch]:
    return [artist for artist in figure.axes[0].get_children() if isinstance(artist, FancyArrowPatch)]


def test_a_direct_genome_shows_signs_sizes_and_what_is_disabled() -> None:
    figure = drawing.draw(plan_of(XOR), title="xor, individual 7")
    content = svg(figure)
    for words in ("xor, individual 7", "2 input  ·  1 hidden  ·  1 output", "4 links, 1 disabled  ·  feed-forward",
                  "max, tanh", "sigmoid", "|weight| = 3.12", "positive", "negative", "disabled"):  # fmt: skip
        assert words in content
    lines = link_lines(figure)
    assert len(lines) == 5
    solid = sorted(
        (line.get_linewidth(), to_hex(line.get_edgecolor())) for line in lines if line.get_linestyle() == "-"
    )
    assert [colour.upper() for _, colour in solid] == [graphs.POSITIVE] * 3 + [graphs.NEGATIVE]
    assert solid[-1][0] > 2 * solid[0][0], "width is the weight's size"
    assert sum(line.get_linestyle() != "-" for line in lines) == 1
    left = {mark: box[0] for mark, box in node_boxes(figure).items()}
    assert left["0"] == left["1"] < left["3"] < left["2"], "inputs left, outputs right"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30), st.booleans())
def test_nodes_of_direct_genomes_never_touch_and_lie_in_the_picture(seed: int, hidden: int, feed_forward: bool) -> None:
    found = genes(Random(seed), inputs=4, hidden=hidden, density=2 / (hidden + 4), feed_forward=feed_forward)
    figure = drawing.draw(plan_of(found))
    boxes = list(node_boxes(figure).values())
    assert len(boxes) == 6 + hidden and len(link_lines(figure)) == len(found["links"])
    for i, a in enumerate(boxes):
        assert all(a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1] for b in boxes[:i])
    width, height = figure.get_size_inches()
    assert (
        all(b[1] > 0 and b[3] < height for b in boxes) and max(b[2] for b in boxes) - min(b[0] for b in boxes) < width
    )
    bottom = figure.axes[0].get_ylim()[0]
    for line in link_lines(figure):
        extent = line.get_path().get_extents()
        assert min(extent.y0, extent.y1) > 0 and max(extent.y0, extent.y1) < bottom


def test_of_many_inputs_only_used_ones_are_drawn() -> None:
    used = {**XOR, "inputs": 784, "nodes": [[784, 0.0, 1.0, "sigmoid", "sum"]],
            "links": [[785, 5, 784, 1.0, True], [786, 700, 784, -1.0, True]]}  # fmt: skip
    figure = drawing.draw(plan_of(used))
    assert set(node_boxes(figure)) == {"5", "700", "784"}
    assert "784 input  ·  0 hidden  ·  1 output" in svg(figure)


def test_a_genome_without_links_is_drawn() -> None:
    assert set(node_boxes(drawing.draw(plan_of({**XOR, "links": []})))) == {"0", "1", "2", "3"}


def test_text_of_a_direct_genome() -> None:
    lines = [line.split() for line in drawing.text(plan_of(XOR)).splitlines()]
    assert lines[0] == ["mark", "node", "function", "bias", "response", "takes", "weight·source"]
    assert lines[1] == ["3", "hidden", "max,", "tanh", "-0.5", "1", "+0.5·0", "+2·1"]
    assert lines[2] == ["2", "output", "sigmoid", "0.3", "1", "+1.5·0", "(-2.25·1)", "-3.12·3"]
    looped = {**XOR, "feed_forward": False, "links": [*XOR["links"], [9, 2, 3, 0.75, True]]}
    assert "+0.75·2'" in drawing.text(plan_of(looped)), "the last step's value"


def test_table_of_genes() -> None:
    table = tables.layers(plan_of(XOR))
    records = table.records()
    assert [row["gene"] for row in records] == ["output", "hidden", "link", "link", "link", "link", "link"]
    assert records[1] == {"gene": "hidden", "mark": 3, "source": None, "target": None, "weight": None, "enabled": None,
                          "bias": -0.5, "response": 1.0, "activation": "tanh", "aggregation": "max"}  # fmt: skip
    assert [records[3][key] for key in ("mark", "source", "target", "weight", "enabled")] == [5, 1, 2, -2.25, False]
    assert "| link | 5 | 1 | 2 | -2.25 | no |" in tables.to_markdown(table)


def test_layers_may_stand_in_given_ranks_and_keep_their_order() -> None:
    inputs: list[list[int]] = [[], [], [], [2], [0], [3, 4]]
    layout = layered(inputs, [0.4] * 6, ranks=[0, 0, 0, 1, 2, 3], still={0})
    assert layout.rank == (0, 0, 0, 1, 2, 3)
    assert layout.x[0] < layout.x[1] < layout.x[2]
    assert len(layout.lanes[0]) == 1 and len(layout.lanes[3]) == 1


def test_species_of_long_runs_are_named_only_where_there_is_room() -> None:
    history = [{1: 100, generation: 30} for generation in range(2, 102)]
    figure = figures.species(history)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1"]
    assert len(figure.axes[0].collections) == 101


# -------------------------------------------------------------------------------------------------------------- cells


def overlapping(figure: Figure) -> list[tuple[object, object]]:
    boxes = [a.get_bbox() for a in figure.axes[0].get_children() if isinstance(a, FancyBboxPatch)]
    return [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_cells_are_drawn_once_beside_their_network() -> None:
    for name, words in {
        "nasnet-a": ("normal cell", "reduction cell", "×6", "sep conv 7×7", "output, joined", "last cell but one"),
        "nasbench201-best-cifar10": ("residual block /2", "×5", "243,040 params", "dense 10"),
    }.items():
        entry, genome, plan = zoo.decoded(name)
        figure = drawing.draw(plan, genome, title=name)
        content = svg(figure)
        assert plan.cells is not None
        marks = [f">{edge[0]}<" for edges in plan.cells.edges for edge in edges if edge[3] != "none"]
        for told in (*words, *marks, f"{entry.params:,} parameters", genome.key[:10]):
            assert told in content
        assert overlapping(figure) == []
        bottom = figure.get_size_inches()[1]
        boxes = [a.get_bbox() for a in figure.axes[0].get_children() if isinstance(a, FancyBboxPatch)]
        left, right = figure.axes[0].get_xlim()
        assert all(left < box.x0 and box.x1 < right and max(box.y0, box.y1) < bottom for box in boxes)


def test_what_a_cell_does_not_build_is_told() -> None:
    space = CellEncoding(CellSettings(space="nasbench201"), (3, 32, 32), 10)
    cut = space.decode(space.from_tokens([0, 2, 3, 0, 1, 0]))
    assert "leads nowhere, not built" in svg(drawing.draw(cut)) and "3   zeros" in svg(drawing.draw(cut))
    lines = drawing.text(cut).splitlines()
    assert lines[1:4] == ["node 1  nothing: zeros", "node 2  [conv_1x1(0)]  [conv_3x3(1)]", "node 3  [skip(1)]"]


def test_a_network_of_cells_is_told_part_by_part() -> None:
    _, _, plan = zoo.decoded("darts-v2")
    lines = [line.split() for line in drawing.text(plan).splitlines()]
    assert ["normal", "cell", "6", "144×32×32", "170,856"] in [line[:5] for line in lines]
    assert lines[-1] == ["depth", "130", "3,349,342", "1.06G"]
    parts = [line for line in lines if line[0:1] in (["conv"], ["dense"]) or line[1:2] == ["cell"]]
    assert sum(int(line[-2].replace(",", "")) for line in parts if line[-1] != "operation(node)") == 3_349_342


def test_a_chain_is_drawn_without_its_nodes() -> None:
    space = CellEncoding(CellSettings(space="macro"), (3, 32, 32), 10)
    network, chain = cells.diagrams(space.decode(space.from_tokens([0, 1, 2, 0, 1, 2, 0, 1])))
    assert len(chain.boxes) == 10 and [box.inputs for box in chain.boxes[1:]] == [(i,) for i in range(9)]
    assert [box.title for box in network.boxes][2] == "cell"
