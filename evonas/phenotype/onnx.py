"""A network as the bytes of an ONNX file, by torch's own exporter, checked by onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any

import torch
from torch import Tensor

from evonas.core import RecipeError
from evonas.phenotype.deployed import Deployment


def content(deployment: Deployment) -> bytes:
    """An ONNX file: `input` (batch, *shape) -> `output` (batch, outputs), with the numbers that normalise built in.

    Recurrent networks have `state` (batch, size) and `next_state` beside them. Where onnxruntime is installed the file
    is run and compared with the network. RecipeError without the extra, DataError where the outputs differ."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise RecipeError(f"ONNX files need {' and '.join(missing)}: install evonas[onnx]")
    with _quiet():
        program = torch.onnx.export(
            deployment.module,
            deployment.example(2),  # two rows: a batch of one would be taken for a constant
            input_names=list(deployment.inputs),
            output_names=list(deployment.outputs),
            dynamic_shapes=deployment.dynamic,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    made = _bare(program.model_proto)
    if find_spec("onnxruntime") is not None:
        deployment.check(_session(made, deployment.inputs), "the ONNX file")
    return made


def _session(made: bytes, inputs: Sequence[str]) -> Callable[..., list[Tensor]]:
    """An ONNX file as a function of tensors, run by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])

    def run(*arguments: Tensor) -> list[Tensor]:
        fed = {name: one.numpy() for name, one in zip(inputs, arguments, strict=True)}
        return [torch.from_numpy(one) for one in session.run(None, fed)]

    return run


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
