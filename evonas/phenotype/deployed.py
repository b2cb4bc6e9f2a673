"""A network between the data's own units, as other programs take it; and as the bytes of a torch.export file (.pt2)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evonas.core import DataError
from evonas.phenotype.graph import GraphNetwork
from evonas.phenotype.network import Network

TOLERANCE = 1e-4
"""Largest difference between a network and what it was exported to, relative to the largest output."""


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


@dataclass(frozen=True)
class Deployment:
    """A module to hand over, with the names of its arguments and results and how many rows may vary: all of them."""

    module: Deployed
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(
        network: Network,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        target_mean: Sequence[float] = (),
        target_std: Sequence[float] = (),
    ) -> Deployment:
        """`input` (batch, *shape) -> `output` (batch, outputs), the numbers that normalise built in; a recurrent one
        takes `state` (batch, size) and gives `next_state` beside them."""
        numbers = {"mean": mean, "std": std, "target_mean": target_mean, "target_std": target_std}
        shape = network.plan.steps[0].shape
        recurrent = [m for m in network.children() if isinstance(m, GraphNetwork) and not m.feed_forward]
        if recurrent:
            module: Deployed = DeployedStep(network, **numbers).eval()
            return Deployment(module, ("input", "state"), ("output", "next_state"), (shape, (recurrent[0].size,)))
        return Deployment(Deployed(network, **numbers).eval(), ("input",), ("output",), (shape,))

    def example(self, rows: int, seed: int | None = None) -> tuple[Tensor, ...]:
        """Arguments of so many rows: zeros, or normal draws by a seed in about the units of the data."""
        if seed is None:
            return tuple(torch.zeros(rows, *shape) for shape in self.shapes)
        draw = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(rows, *shape, generator=draw) for shape in self.shapes]
        return (drawn[0] * self.module.std + self.module.mean, *drawn[1:])

    @property
    def dynamic(self) -> tuple[dict[int, Any], ...]:
        """The number of rows, as torch's exporters are told that it varies."""
        batch = torch.export.Dim("batch")
        return tuple({0: batch} for _ in self.shapes)

    def check(self, found: Any, what: str) -> None:
        """Raises DataError unless `found`, called with the same arguments, gives what the module gives."""
        for rows in (2, 5):
            arguments = self.example(rows, seed=rows)
            with torch.no_grad():
                expected, given = self.module(*arguments), found(*arguments)
            for ours, theirs in zip(_several(expected), _several(given), strict=True):
                limit = TOLERANCE * max(1.0, float(ours.nan_to_num(0, 0, 0).abs().max()))
                if not torch.isclose(ours, theirs, rtol=0, atol=limit, equal_nan=True).all():
                    raise DataError(
                        f"{what} differs from the network by up to {float((ours - theirs).abs().max()):.3g}, allowed "
                        f"is {limit:.3g}: nothing was written; export to a module instead"
                    )


def _several(value: Any) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def program(deployment: Deployment) -> bytes:
    """A torch.export file for any number of rows, after it was loaded again and gave the same outputs.

    It holds no example inputs. torch reads such files with pickle where they ask for it, so those of strangers are not
    to be loaded; this one holds plain tensors only."""
    with _calm(), torch.no_grad():
        exported = torch.export.export(deployment.module, deployment.example(2), dynamic_shapes=deployment.dynamic)
        exported.example_inputs = None
        for node in exported.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names this machine's folders
        buffer = io.BytesIO()
        torch.export.save(exported, buffer)
        loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
        deployment.check(loaded, "the torch.export file")
    return buffer.getvalue()


@contextmanager
def _calm() -> Iterator[None]:
    """Keeps to itself what the exporter says of features that no network here uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
