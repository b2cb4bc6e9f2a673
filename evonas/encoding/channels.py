"""Where every channel of a plan comes from: what inherits weights matches columns and normalised channels by it.

A channel is named by the step that made it, its place there, and the layers that handed it on, so that two ways from
one layer to another are told apart. Sums keep the names of their first input: a later edge renames nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from evonas.encoding.plan import Plan, StepOp

HANDED_ON: frozenset[StepOp] = frozenset({"max_pool", "avg_pool", "identity", "dropout", "gate"})
"""Operations of layers that handle every channel by itself."""

MAKERS: frozenset[StepOp] = frozenset({"input", "conv", "separable", "linear"})
"""Operations whose output channels are new ones; all others hand on those of their inputs."""


class Span(NamedTuple):
    """Neighbouring channels that one step made: `size` of them, the first being its channel `first`; `trail` are the
    layers that have handed them on."""

    origin: str
    first: int
    size: int
    trail: tuple[str, ...] = ()


Layout = tuple[Span, ...]
"""The channels of a tensor in order."""


def layouts(plan: Plan, stands: Mapping[str, Layout | str] | None = None) -> dict[str, Layout]:
    """The layout of every step's output, by the step's name.

    `stands` gives the output of some steps another layout, or that of an earlier step: a layer put into an edge as the
    identity hands on the channels that it was given."""
    found: dict[str, Layout] = {}
    for step in plan.steps:
        inputs = [found[plan.steps[i].name] for i in step.inputs]
        if step.op in MAKERS:
            layout: Layout = (Span(step.name, 0, step.shape[0]),)
        elif step.op == "concat":
            layout = tuple(span for one in inputs for span in one)
        else:
            layout = inputs[0]
        if step.op in HANDED_ON and not step.name.startswith("edge"):
            layout = tuple(span._replace(trail=(*span.trail, step.name)) for span in layout)
        other = stands.get(step.name) if stands else None
        if other is not None:
            layout = found[other] if isinstance(other, str) else other
        found[step.name] = layout
    return found


Labels = list[tuple[str, int, tuple[str, ...]]]
"""Per channel: who made it, its place there, and who handed it on."""


def labels(layout: Layout) -> Labels:
    """The channels of a layout one by one."""
    return [(origin, place, trail) for origin, first, size, trail in layout for place in range(first, first + size)]
