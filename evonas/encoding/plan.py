"""The plan: what an encoding decodes to. A topologically sorted list of steps with shapes and counts, as plain data.

No torch here: parameters and FLOPs are counted by hand, and a contract test holds them equal to torch's own counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal, NamedTuple

StepOp = Literal[
    "input", "conv", "separable", "linear", "max_pool", "avg_pool", "identity", "dropout", "gate",
    "sum", "concat", "global_pool", "flatten", "shift", "zero", "graph",
]  # fmt: skip

Shape = tuple[int, ...]
"""(channels, height, width) of an image, or (features,); never with the batch."""


class Step(NamedTuple):
    """One operation of a plan.

    `name` is the module's name and carries the mark (`layer5`, `edge7`, without parameters also `layer5_merge`,
    `layer5_reduce`, `edge7_pool`); parameters of the network are named after it. `inputs` are indices of earlier steps.
    `flops` are per sample, counted as torch counts: two per multiply-add of convolutions and matrix products, nothing
    else. `settings`, where pairs are (vertical, horizontal):

    - conv: in_channels, channels, kernel, stride, padding, dilation (pairs), groups, bias, norm, activation
    - separable: the same and depthwise_norm; the stride, kernel and dilation are the depthwise convolution's
    - linear: in_channels, channels, bias, norm, activation
    - max_pool, avg_pool: kernel, stride, padding (pairs), ceil; padding never counts
    - identity: norm, activation; dropout: rate
    - shift: by, the pixels (vertical, horizontal) that an image moves up and left, zeros coming after it
    - graph, a direct genome's network: inputs, outputs, feed_forward, activations (steps per input, 1), nodes as rows
      (mark, bias, response, activation, aggregation) and links as rows (mark, source, target, weight, enabled), hidden
      (number of nodes), depth

    The others have none; a gate multiplies by one number, its only parameter, and `zero` by 0."""

    name: str
    op: StepOp
    inputs: tuple[int, ...]
    shape: Shape
    settings: Mapping[str, Any] = {}
    params: int = 0
    flops: int = 0

    @property
    def passes(self) -> bool:
        """Whether inference hands on the input's own memory."""
        if self.op == "identity":
            return self.settings == {"norm": "none", "activation": "linear"}
        return self.op in ("dropout", "flatten")

    @property
    def inner(self) -> int:
        """Numbers that inference holds beside input and output: a separable step's depthwise image, hidden nodes."""
        if self.op == "separable":
            return prod((self.settings["in_channels"], *self.shape[1:]))
        return int(self.settings["hidden"]) if self.op == "graph" else 0


class Cells(NamedTuple):
    """What a plan repeats, for drawings: by cell its name, its edges (mark, source, target, op), those of them that are
    built, and the nodes that it hands on. Nodes below `inputs` are earlier cells."""

    names: tuple[str, ...]
    edges: tuple[tuple[tuple[int, int, int, str], ...], ...]
    built: tuple[frozenset[int], ...]
    outputs: tuple[tuple[int, ...], ...]
    inputs: int


@dataclass(frozen=True)
class Plan:
    """A network as data: steps in execution order; the last one is the output, shape (outputs,). `cells` are those that
    it repeats, if it does."""

    steps: tuple[Step, ...]
    cells: Cells | None = None

    @property
    def is_graph(self) -> bool:
        """Whether it is a direct genome's network of single nodes."""
        return self.steps[-1].op == "graph"

    def running(self, activations: int) -> Plan:
        """A direct genome's network that takes so many steps on one input."""
        last = self.steps[-1]
        return Plan((*self.steps[:-1], last._replace(settings={**last.settings, "activations": activations})))

    @cached_property
    def params(self) -> int:
        """Trainable parameters."""
        return sum([step.params for step in self.steps])

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of one sample's forward pass."""
        return sum([step.flops for step in self.steps])

    @cached_property
    def depth(self) -> int:
        """The largest number of steps with parameters on a path from input to output; a graph counts with its own."""
        deepest: list[int] = []
        for _, op, inputs, _, settings, params, _ in self.steps:
            below = [deepest[i] for i in inputs]
            own = settings["depth"] if op == "graph" else params > 0
            deepest.append((max(below) if below else 0) + own)
        return deepest[-1]

    @cached_property
    def memory(self) -> int:
        """Peak activation memory of one sample's inference, bytes in float32: the largest sum of tensors alive at once,
        with one tensor per step (norm and activation work in place) and what a step holds inside."""
        owner: list[int] = []
        for i, step in enumerate(self.steps):
            owner.append(owner[step.inputs[0]] if step.passes else i)
        last = list(range(len(self.steps)))
        for i, step in enumerate(self.steps):
            for j in step.inputs:
                last[owner[j]] = i
        peak = alive = 0
        for i, step in enumerate(self.steps):
            alive += prod(step.shape) if owner[i] == i else 0
            peak = max(peak, alive + step.inner)
            done = {owner[j] for j in (*step.inputs, i)}
            alive -= sum(prod(self.steps[j].shape) for j in done if last[j] == i)
        return 4 * peak
