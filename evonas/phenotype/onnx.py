"""A network as the bytes of an ONNX file, by torch's own exporter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from evonas.core import RecipeError
from evonas.phenotype.graph import GraphNetwork
from evonas.phenotype.network import Network


class Deployed(nn.Module):
    """A network between the data's own units: (batch, *input shape) -> (batch, outputs), each with its state if it is
    recurrent."""

    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, network: Network, **numbers: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        shape = (-1,) + (1,) * (len(network.plan.steps[0].shape) - 1)
        for name, values in numbers.items():
            value = torch.tensor(tuple(values) or (float(name.endswith("std")),), dtype=torch.float32)
            self.register_buffer(name, value if name.startswith("target") else value.view(shape))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network((x - self.mean) / self.std)
        return output * self.target_std + self.target_mean


class DeployedStep(Deployed):
    """One step of a recurrent network, its state as an argument and a result."""

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        graph = self.network.get_submodule("graph")
        assert isinstance(graph, GraphNetwork)
        x = (x - self.mean) / self.std
        for _ in range(graph.activations):
            output, state = graph.advance(x, state)
        return output * self.target_std + self.target_mean, state


def content(
    network: Network,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    target_mean: Sequence[float] = (),
    target_std: Sequence[float] = (),
) -> bytes:
    """An ONNX file: `input` (batch, *shape) -> `output` (batch, outputs), with the numbers that normalise built in.

    Recurrent networks have `state` (batch, size) and `next_state` beside them. RecipeError without the extra."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise RecipeError(f"ONNX files need {' and '.join(missing)}: install evonas[onnx]")
    recurrent = [m for m in network.children() if isinstance(m, GraphNetwork) and not m.feed_forward]
    numbers = {"mean": mean, "std": std, "target_mean": target_mean, "target_std": target_std}
    # two rows: a batch of one would be taken for a constant
    example: tuple[Tensor, ...] = (torch.zeros(2, *network.plan.steps[0].shape),)
    inputs, outputs = ["input"], ["output"]
    if recurrent:
        example += (torch.zeros(2, recurrent[0].size),)
        inputs, outputs = ["input", "state"], ["output", "next_state"]
    deployed = (DeployedStep if recurrent else Deployed)(network, **numbers).eval()
    batch = torch.export.Dim("batch")
    with _quiet():
        program = torch.onnx.export(
            deployed,
            example,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in example),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return _bare(program.model_proto)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress, and what it says of libraries that no network here needs, to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _bare(model: Any) -> bytes:
    """The file without the exporter's notes, nine tenths of it, which name this machine's folders and source lines."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    made: bytes = model.SerializeToString()
    return made
