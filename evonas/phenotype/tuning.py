"""Gradient steps of a whole population of direct genomes at once: learning within a lifetime, written back into the
genes (Lamarckian) by whoever keeps the population that `fit` returns.

Every network is tuned as if it were alone: its loss, its gradients, its optimiser. Compiled C where there is a
compiler, else torch, whose `device` may be a CUDA one."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evonas import native
from evonas.core import DataError, RecipeError, generator
from evonas.encoding.population import Population
from evonas.phenotype.population import Programs

Floats = NDArray[np.float32]
Reals = NDArray[np.float64]
Loss = Literal["mse", "cross_entropy", "bce"]
Optimizer = Literal["adam", "sgd"]
Kernel = Literal["auto", "c", "torch"]

LOSSES: tuple[Loss, ...] = ("mse", "cross_entropy", "bce")
"""Means over inputs (and outputs): squared error; cross-entropy of the softmax of the outputs and a class number;
binary cross-entropy of outputs that are probabilities, held within [1e-6, 1 - 1e-6] (the gradient still pulls them
back)."""

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
CHUNK_FLOATS = 1 << 21
"""Data laid out for the C kernel at a time: 8 MB."""

_FIELDS = (
    "steps", "tiles", "tile", "targets", "loss", "responses", "update", "stride", "x", "y", "share", "rates",
    "weight", "bias", "response", "kept_weight", "kept_bias", "kept_response", "first_weight", "first_bias",
    "first_response", "second_weight", "second_bias", "second_response", "losses", "alive",
)  # fmt: skip
"""As `Tuning` in kernels/tuning.c."""


@dataclasses.dataclass(frozen=True)
class _Job:
    """What is to be done, checked; `rates` (steps, 3): the rate and corrections of Adam's moments (0: plain SGD)."""

    programs: Programs
    x: Floats  # (samples, inputs)
    y: Floats  # (samples, targets)
    batches: NDArray[np.int64] | None  # (steps, batch): samples of each step; None = all of them in every step
    rates: Floats
    loss: Loss
    responses: bool


def fit(
    population: Population,
    programs: Programs,
    x: ArrayLike,
    y: ArrayLike,
    *,
    steps: int,
    batch: int | None = None,
    lr: float = 0.01,
    optimizer: Optimizer = "adam",
    loss: Loss = "mse",
    seed: int = 0,
    responses: bool = False,
    threads: int = 1,
    kernel: Kernel = "auto",
    device: str = "cpu",
) -> tuple[Population, Reals]:
    """The population with tuned weights, biases (and responses), and each network's loss over all data then, (n,).

    `programs` are the population's feed-forward networks, x (samples, inputs), y (samples, outputs) or class numbers
    (samples,). A step takes `batch` samples in shuffled rounds, the same for all networks; None = all. A network whose
    loss is not finite stops, keeps its last genes that had a finite loss, and is reported NaN. Genes that no gradient
    reaches keep every bit."""
    x, y = _data(programs, np.asarray(x), np.asarray(y), loss)
    if steps < 0 or not lr > 0 or (batch is not None and batch < 1):
        raise RecipeError(f"steps {steps}, batch {batch} and rate {lr} must be at least 0, at least 1, and above 0")
    if optimizer not in ("adam", "sgd"):
        raise RecipeError(f"optimizer {optimizer!r} is not known; known: adam, sgd")
    batches = None if batch is None or batch >= len(x) else _batches(len(x), batch, steps, seed)
    job = _Job(programs, x, y, batches, _rates(steps, lr, optimizer), loss, responses)
    if chosen_kernel(kernel, device) == "c":
        genes, losses = _fit_compiled(job, threads)
    else:
        genes, losses = _fit_torch(job, device)
    return _written(population, programs, genes), losses


def chosen_kernel(kernel: Kernel = "auto", device: str = "cpu") -> Literal["c", "torch"]:
    """What `auto` means here: compiled C, or torch on another device or without a compiler."""
    if kernel not in ("auto", "c", "torch"):
        raise RecipeError(f"kernel {kernel!r} is not known to gradient steps; known: auto, c, torch")
    if kernel == "c" and _kernel() is None:
        raise RecipeError("kernel 'c' needs a C compiler and none was found: install gcc or clang, or choose 'auto'")
    return "torch" if kernel == "torch" or (kernel == "auto" and (device != "cpu" or _kernel() is None)) else "c"


def _data(programs: Programs, x: NDArray[Any], y: NDArray[Any], loss: Loss) -> tuple[Floats, Floats]:
    """Both as (samples, ...) float32. DataError where they do not fit the networks or each other."""
    if not programs.feed_forward:
        raise RecipeError("gradient steps need feed-forward networks: set feed_forward: true, or do not tune")
    if loss not in LOSSES:
        raise RecipeError(f"loss {loss!r} is not known; known: {', '.join(LOSSES)}")
    if x.ndim != 2 or x.shape[1] != programs.inputs or not len(x):
        raise DataError(f"inputs have shape {x.shape}; the networks take (samples, {programs.inputs}), samples >= 1")
    outputs = 1 if loss == "cross_entropy" else programs.outputs
    wanted = y[:, None] if y.ndim == 1 and outputs == 1 else y
    if wanted.shape != (len(x), outputs):
        raise DataError(f"targets have shape {y.shape}; {loss} of {len(x)} samples takes ({len(x)}, {outputs})")
    if loss == "cross_entropy" and not np.isin(wanted, np.arange(programs.outputs)).all():
        raise DataError(f"classes must be whole numbers 0 .. {programs.outputs - 1}, one per output")
    return np.ascontiguousarray(x, dtype=np.float32), np.ascontiguousarray(wanted, dtype=np.float32)


def _batches(samples: int, batch: int, steps: int, seed: int) -> NDArray[np.int64]:
    """Samples of each step, (steps, batch): every sample once, in a new order, before any comes again."""
    random = generator(seed, "tuning")
    rounds = -(-steps * batch // samples)
    return np.concatenate([random.permutation(samples) for _ in range(max(1, rounds))])[: steps * batch].reshape(
        steps, batch
    )


def _rates(steps: int, lr: float, optimizer: Optimizer) -> Floats:
    step = np.arange(1, steps + 1, dtype=np.float64)
    corrections = (1 / (1 - BETA1**step), 1 / (1 - BETA2**step)) if optimizer == "adam" else (step * 0, step * 0)
    return np.stack([np.full(steps, lr), *corrections], 1).astype(np.float32)


def _written(population: Population, programs: Programs, genes: tuple[Floats, Floats, Floats]) -> Population:
    """The population with the programs' tuned numbers in its genes."""
    old = (programs.link_weight, programs.bias, programs.response)
    where = (programs.link_gene, programs.node_gene, programs.node_gene)
    new = {}
    for name, tuned, before, place in zip(("weight", "bias", "response"), genes, old, where, strict=True):
        values = getattr(population, name).copy()
        changed = tuned != before
        values[place[changed]] = tuned[changed]
        new[name] = values
    return dataclasses.replace(population, **new)


# --------------------------------------------------------------------------------------------------------- compiled


@cache
def _kernel() -> Callable[..., int] | None:
    library = native.library("tuning")
    if library is None:
        return None
    function: Callable[..., int] = library.tune_networks
    library.tune_networks.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    return function


def _fit_compiled(job: _Job, threads: int) -> tuple[tuple[Floats, Floats, Floats], Reals]:
    p = job.programs
    genes = p.link_weight.copy(), p.bias.copy(), p.response.copy()
    kept = [values.copy() for values in genes]
    moments = [np.zeros_like(values) for values in (*genes, *genes)]
    state: dict[str, Any] = dict(zip(_FIELDS[12:24], (*genes, *kept, *moments), strict=True))
    state |= {"losses": np.full(p.n, np.nan), "alive": np.ones(p.n, dtype=np.uint8)}
    whole = _laid(job, np.arange(len(job.x))[None])
    if job.batches is None:
        _call(job, threads, {**state, **whole, "stride": 0, "update": 1, "steps": len(job.rates), "rates": job.rates})
    else:
        rows = max(1, CHUNK_FLOATS // (job.batches.shape[1] * (p.inputs + job.y.shape[1])))
        for first in range(0, len(job.batches), rows):
            part = slice(first, first + rows)
            laid = _laid(job, job.batches[part])
            steps = len(job.batches[part])
            _call(job, threads, {**state, **laid, "update": 1, "steps": steps, "rates": job.rates[part]})
    _call(job, threads, {**state, **whole, "update": 0, "steps": 1, "rates": job.rates})
    return genes, state["losses"]


def _laid(job: _Job, rows: NDArray[np.int64]) -> dict[str, Any]:
    """The data of steps, rows (steps, batch), as the kernel's tiles: (steps * tiles, columns, tile)."""
    steps, batch = rows.shape
    tile = 16 if batch <= 16 else 64
    tiles = -(-batch // tile)
    # tiles are filled up with real samples of share 0: nothing that the network has not seen can become infinite
    filled = np.concatenate([rows, np.repeat(rows[:, :1], tiles * tile - batch, axis=1)], 1)
    share = np.zeros((steps, tiles * tile), dtype=np.float32)
    share[:, :batch] = 1 / batch

    def turned(data: Floats) -> Floats:
        own = data[filled].reshape(steps * tiles, tile, data.shape[1])
        return np.ascontiguousarray(own.transpose(0, 2, 1))

    return {
        "tiles": tiles, "tile": tile, "stride": tiles, "targets": job.y.shape[1],
        "x": turned(job.x), "y": turned(job.y), "share": share,
    }  # fmt: skip


def _call(job: _Job, threads: int, held: dict[str, Any]) -> None:
    held = {**held, "loss": LOSSES.index(job.loss), "responses": job.responses}
    fields = (held[name] for name in _FIELDS)
    table = np.array([int(v.ctypes.data) if isinstance(v, np.ndarray) else int(v) for v in fields], dtype=np.int64)
    tune, address, own = _kernel(), job.programs.address, int(table.ctypes.data)
    assert tune is not None

    def work(first: int, last: int) -> None:
        if tune(address, own, first, last):
            raise MemoryError("no memory for the gradients of networks")

    native.split(work, job.programs.n, threads, grain=4)


# ------------------------------------------------------------------------------------------------------------- torch


def _fit_torch(job: _Job, device: str) -> tuple[tuple[Floats, Floats, Floats], Reals]:
    import torch

    from evonas.phenotype.population_torch import Activate, Genes, Graph

    apply: Callable[..., torch.Tensor] = Activate.apply

    p = job.programs
    graph = Graph(p, 0, device)
    x, y = (torch.tensor(data, device=graph.device) for data in (job.x, job.y))
    genes = graph.genes(p)
    kept = genes
    moments = [(torch.zeros_like(one), torch.zeros_like(one)) for one in genes]
    alive = torch.ones(p.n, dtype=torch.bool, device=graph.device)
    network = graph.owner[graph.target], graph.owner, graph.owner
    tuned = (True, True, job.responses)

    def each(values: Iterable[torch.Tensor]) -> Genes:
        weight, bias, response = values
        return weight, bias, response

    def survivors(new: Genes, old: Genes) -> Genes:
        return each(torch.where(alive[of], a, b) for of, a, b in zip(network, new, old, strict=True))

    for step, (rate, *corrections) in enumerate(job.rates.tolist()):
        rows = slice(None) if job.batches is None else torch.as_tensor(job.batches[step], device=graph.device)
        leaves = [one.detach().requires_grad_() for one in genes]
        losses = _losses(job.loss, apply(x[rows], graph, *leaves), y[rows])
        slopes = torch.autograd.grad(losses.sum(), leaves)
        alive = alive & losses.detach().isfinite()
        kept = survivors(genes, kept)
        genes = each(
            torch.where(alive[of], _moved(one, slope, own, rate, *corrections), one) if wanted else one
            for of, one, slope, own, wanted in zip(network, kept, slopes, moments, tuned, strict=True)
        )
    with torch.no_grad():
        losses = _losses(job.loss, apply(x, graph, *genes), y)
    alive = alive & losses.isfinite()
    genes = survivors(genes, kept)
    losses = torch.where(alive, losses, torch.nan)
    return graph.in_programs(genes), losses.double().cpu().numpy()


def _moved(gene: Any, slope: Any, moments: tuple[Any, Any], rate: float, first: float, second: float) -> Any:
    """A gene after one step; Adam's moments change in place."""
    if not first:
        return gene - rate * slope
    mean, square = moments
    mean.lerp_(slope, 1 - BETA1)
    square.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
    return gene - rate * (mean * first) / ((square * second).sqrt() + EPSILON)


def _losses(loss: Loss, made: Any, wanted: Any) -> Any:
    """Each network's loss: made (n, batch, outputs), wanted (batch, targets) -> (n,)."""
    from torch.nn.functional import binary_cross_entropy, cross_entropy

    wanted = wanted.expand(len(made), *wanted.shape)
    if loss == "mse":
        return (made - wanted).square().mean((1, 2))
    if loss == "bce":
        held = made + (made.clamp(1e-6, 1 - 1e-6) - made).detach()
        # outputs beyond 0 or 1 by more than a rounding must not reach torch's own check of its range
        return binary_cross_entropy(held.clamp(0, 1), wanted, reduction="none").mean((1, 2))
    return cross_entropy(made.transpose(1, 2), wanted[..., 0].long(), reduction="none").mean(1)
