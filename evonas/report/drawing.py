"""A network as a picture (SVG, PNG, PDF) and as a compact text for terminals, both from its plan.

Layer graphs are drawn here, step by step; `graphs` draws direct genomes' networks, `cells` those of repeated cells."""

from __future__ import annotations

from matplotlib.figure import Figure

from evonas.core import Genome
from evonas.encoding.plan import Plan
from evonas.report import cards, cells, graphs, rails
from evonas.report.cards import COLOURS, describe, extent, flops, mark
from evonas.report.figures import MARGIN, headed, save, short, styled

__all__ = ["COLOURS", "describe", "draw", "mark", "save", "text"]


@styled
def draw(plan: Plan, genome: Genome | None = None, *, title: str = "") -> Figure:
    """A plan as a picture from input (top) to output (bottom); its size follows from the network's.

    With its `genome`, the heading names the genome's key."""
    key = genome.key[:10] if genome is not None else ""
    if plan.is_graph:
        return graphs.draw(plan.steps[-1].settings, title, key)
    if plan.cells is not None:
        return cells.draw(plan, title, key)
    facts = [f"{plan.params:,} parameters  ·  {flops(plan.flops)}", f"depth {plan.depth}"]
    facts[1] += f"  ·  genome {key}" if key else ""
    top = 0.2 * (len(facts) + bool(title)) + 0.22 + MARGIN
    scene = cards.scene([cards.card(step) for step in plan.steps], [step.inputs for step in plan.steps], top)
    figure, ax = headed(title, facts, scene.sides(), scene.ranks[-1][1])
    cards.paint(ax, scene)
    return figure


# ------------------------------------------------------------------------------------------------------------- text


def text(plan: Plan) -> str:
    """A plan as lines of text: rails that show where tensors go, then mark, operation, shape, parameters and FLOPs; a
    direct genome's network by `graphs.text`, repeated cells by `cells.text`."""
    if plan.is_graph:
        return graphs.text(plan.steps[-1].settings)
    if plan.cells is not None:
        return cells.text(plan)
    drawn = rails.drawn([step.inputs for step in plan.steps])
    rows = [("", "mark", "operation", "shape", "params", "FLOPs")]
    for step, rail in zip(plan.steps, drawn, strict=True):
        name, after = describe(step)
        rows.append((
            rail, mark(step), f"{name}{', ' if after else ''}{after}", extent(step.shape),
            f"{step.params:,}" if step.params else "", short(step.flops) if step.flops else "",
        ))  # fmt: skip
    rows.append(("", "", f"depth {plan.depth}", "", f"{plan.params:,}", short(plan.flops)))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ("  ".join(cell.rjust(w) if i in (1, 4, 5) else cell.ljust(w)
                       for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows)  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)
