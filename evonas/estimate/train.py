"""Training of one network, written for speed: rows stay on the device as they are stored, batches are gathered and
augmented there, and inside a step the host never waits for the device."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from inspect import unwrap
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from evonas import encoding, estimate, objective
from evonas.core import (
    Encoding,
    Estimate,
    EvonasError,
    Genome,
    Job,
    Outcome,
    RecipeError,
    Watch,
    lend_global_streams,
    seed_of,
)
from evonas.encoding.plan import Plan
from evonas.estimate import Augment, Optimizer, Schedule, TrainSettings
from evonas.estimate.data import Data, part, prepare, staged
from evonas.estimate.fidelity import alike, narrowed, pooled, side, trained_at
from evonas.estimate.heritage import Teacher, carry_moments, kept_moments, parents
from evonas.estimate.stopping import Judge
from evonas.phenotype import network as phenotype
from evonas.phenotype.inherit import Probe, inherit
from evonas.phenotype.network import Moments
from evonas.task.data import TaskShape

__all__ = ["Limits", "Mode", "Rows", "TrainEstimator", "Trained", "distil", "predict", "rate", "train"]


class Stopped(EvonasError):
    """A training that was given up: it diverged or passed a limit."""


# --------------------------------------------------------------------------------------------------- rows on a device


@dataclass(frozen=True, eq=False)
class Rows:
    """A task's rows as tensors on one device.

    x: uint8 or float32, images (n, h, w, c), else (n, features). Targets of a regression are standardised in `y_train`
    and in their own units in `y_valid`. `scale` and `offset` normalise: x * scale + offset. Images of `x_train` are
    averaged to `reduced` of their side when they are drawn."""

    x_train: Tensor
    y_train: Tensor
    x_valid: Tensor
    y_valid: Tensor
    scale: Tensor
    offset: Tensor
    target_mean: Tensor
    target_std: Tensor
    shape: TaskShape
    reduced: float = 1.0

    @staticmethod
    def on(device: torch.device, data: Data) -> Rows:
        """Moves a task's rows to the device, once; on the CPU nothing is copied."""
        mean, std = _tile(data.mean, data.shape.input, device), _tile(data.std, data.shape.input, device)
        target_mean, target_std = _tensor(data.target_mean, device), _tensor(data.target_std, device)
        y_train = _tensor(data.y_train, device)
        if data.shape.kind == "regression":
            y_train = (y_train - target_mean) / target_std
        return Rows(
            _tensor(data.x_train, device), y_train, _tensor(data.x_valid, device), _tensor(data.y_valid, device),
            1 / std, -mean / std, target_mean, target_std, data.shape,
        )  # fmt: skip

    @property
    def device(self) -> torch.device:
        return self.x_train.device

    def at(self, share: float, resolution: float, seed: int, fresh: bool = False) -> Rows:
        """A share of the training rows, and images of a share of their side; targets keep their scale. Of fresh
        rows a training sees few, and those alone are averaged."""
        x, y = self.x_train, self.y_train
        if share < 1:
            kept = torch.from_numpy(part(len(x), share, seed)).to(self.device)
            x, y = x.index_select(0, kept), y.index_select(0, kept)
        if resolution == 1:
            return replace(self, x_train=x, y_train=y)
        tall, wide = (side(extent, resolution) for extent in self.shape.input[1:])
        scale, offset = (
            values[..., :tall, :wide].contiguous(memory_format=torch.channels_last)
            for values in (self.scale, self.offset)
        )
        shape = replace(self.shape, input=(self.shape.input[0], tall, wide))
        x, reduced = (x, resolution) if fresh else (pooled(x, resolution), 1.0)
        return replace(
            self, x_train=x, y_train=y, x_valid=pooled(self.x_valid, resolution), scale=scale, offset=offset,
            shape=shape, reduced=reduced,
        )  # fmt: skip

    def drawn(self, positions: Tensor) -> Tensor:
        """Training rows as they are stored, (b, ...)."""
        rows = self.x_train.index_select(0, positions)
        return rows if self.reduced == 1 else pooled(rows, self.reduced)

    def inputs(self, rows: Tensor) -> Tensor:
        """Rows as a network takes them: normalised float32, images (b, c, h, w) with channels last in memory."""
        x = rows.permute(0, 3, 1, 2) if rows.dim() == 4 else rows
        return torch.addcmul(self.offset, x.to(torch.float32), self.scale)


def _tensor(array: Any, device: torch.device) -> Tensor:
    source = torch.from_numpy(array)
    if device.type == "cuda":
        return source.pin_memory().to(device, non_blocking=True)
    return source.to(device)


def _tile(values: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A value per channel repeated over the whole image: broadcasting along 3 channels would be five times slower."""
    if len(shape) == 1:
        return torch.from_numpy(values).to(device)
    full = torch.from_numpy(values).view(1, -1, 1, 1).expand(1, *shape)
    return full.contiguous(memory_format=torch.channels_last).to(device)


class Changes(NamedTuple):
    """Random changes for one epoch, drawn on the device: where each row is cropped and where its cutout lies."""

    shifts: Tensor | None
    holes: Tensor | None

    @staticmethod
    def draw(augment: Augment, count: int, size: tuple[int, ...], draws: torch.Generator) -> Changes:
        def integers(high: tuple[int, ...]) -> Tensor:
            columns = [torch.randint(0, top, (count,), generator=draws, device=draws.device) for top in high]
            return torch.stack(columns, 1)

        shifts = integers((2 * augment.shift + 1,) * 2) if augment.shift else None
        holes = integers(tuple(size)) if augment.cutout else None
        return Changes(shifts, holes)

    def part(self, start: int, stop: int) -> Changes:
        return Changes(*(None if values is None else values[start:stop] for values in self))


def shifted(images: Tensor, shifts: Tensor, pad: int) -> Tensor:
    """Crops images (b, h, w, c) of their own size out of zero-padded ones at `shifts` (b, 2) in 0..2 pad.

    Each output row is one contiguous piece of the padded batch, so a crop is a single gather of rows (3 times faster
    than gathering pixels)."""
    count, height, width, channels = images.shape
    tall, wide = height + 2 * pad, width + 2 * pad
    padded = functional.pad(images, (0, 0, pad, pad, pad, pad))
    every_row = padded.view(-1).as_strided((count * tall * wide - width + 1, width * channels), (channels, 1))
    image = torch.arange(count, device=images.device) * tall
    line = image[:, None] + shifts[:, :1] + torch.arange(height, device=images.device)
    return every_row.index_select(0, (line * wide + shifts[:, 1:]).view(-1)).view(images.shape)


def mirrored(images: Tensor) -> Tensor:
    """Mirrors the first half of a batch (b, h, w, c); rows come in random order, so each row has an even chance."""
    half = len(images) // 2
    return torch.cat([images[:half].flip(2), images[half:]])


def punched(x: Tensor, holes: Tensor, side: int) -> Tensor:
    """Sets a square around each centre (b, 2) to 0, the mean, in normalised images (b, c, h, w)."""
    low, high = side // 2, side - side // 2
    inside = [
        (span >= holes[:, axis : axis + 1] - low) & (span < holes[:, axis : axis + 1] + high)
        for axis, span in enumerate(torch.arange(extent, device=x.device) for extent in x.shape[2:])
    ]
    return x.masked_fill_((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


# ------------------------------------------------------------------------------------------------ how it is computed


@dataclass(frozen=True, slots=True)
class Mode:
    """Where and in which arithmetic a network runs; `dtype` is that of autocast, None for plain float32."""

    device: torch.device
    dtype: torch.dtype | None
    channels_last: bool

    @staticmethod
    def choose(settings: TrainSettings, device: torch.device, plan: Plan) -> Mode:
        layout = device.type != "mps" if settings.channels_last == "auto" else settings.channels_last
        return Mode(device, _precision(settings.precision, device, plan.flops), layout)

    def autocast(self) -> Any:
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device in this memory layout."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return network.to(device=self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


BF16_FLOPS = 7e6
"""Forward FLOPs of a sample (20 MFLOP with the backward pass) below which bf16 was slower than fp32 on an AMX CPU."""


def _precision(wanted: str, device: torch.device, flops: int) -> torch.dtype | None:
    if wanted == "auto":
        on_cuda = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if on_cuda or (flops >= BF16_FLOPS and _cpu_bf16(device)) else None
    if wanted == "fp16" and device.type != "cuda":
        raise RecipeError(f"precision fp16 needs cuda, the device is {device.type}: take auto, bf16 or fp32")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]


def _cpu_bf16(device: torch.device) -> bool:
    """Whether the CPU multiplies bf16 in hardware; torch has told so under these names since 2.4."""
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)


def pick_device(wanted: str) -> torch.device:
    """The device that a recipe names; `auto` takes cuda, then mps, then cpu. Raises RecipeError where there is none."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name, here in there.items() if here)
    if not there[wanted]:
        usable = ", ".join(name for name, here in there.items() if here)
        raise RecipeError(f"device {wanted!r} is not usable on this machine: take auto or {usable}")
    if wanted != "cuda":
        return torch.device(wanted)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
    return torch.device(wanted, torch.cuda.current_device())


@contextmanager
def _conditions(device: torch.device, threads: int, seed: int) -> Iterator[None]:
    """One thread count, seeded global draws (dropout) and repeatable kernels; all is as before afterwards."""
    before = torch.get_num_threads()
    cuda = [device] if device.type == "cuda" else []
    torch.set_num_threads(threads)
    try:
        with (
            _repeatable() if cuda else nullcontext(),
            torch.random.fork_rng(devices=cuda),
            lend_global_streams(seed, "estimate"),
        ):
            torch.manual_seed(seed_of(seed, "train"))
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _repeatable() -> Iterator[None]:
    """CUDA kernels that give the same bits every time; on the CPU all that networks use do so anyway."""
    strict = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, memory = torch.backends.cudnn, cast(Any, torch.utils.deterministic)
    tuned, filled = cudnn.benchmark, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.benchmark = memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=lenient)
        cudnn.benchmark, memory.fill_uninitialized_memory = tuned, filled


class Limits:
    """The limits of one estimate, watched from inside; a worker pool watches them from outside as well."""

    INTERVAL = 0.1
    """Seconds between looks at the memory, which cost some 20 us."""

    def __init__(self, seconds: float | None, memory: int | None, device: torch.device | None = None) -> None:
        self.began = time.monotonic()
        self._seconds, self._memory = seconds, memory
        self._cuda = device if device is not None and device.type == "cuda" else None
        self._next_look = self.began
        self._before = self._taken() if memory else 0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def check(self) -> None:
        """Raises Stopped once a limit is passed."""
        now = time.monotonic()
        if self._seconds is not None and now - self.began > self._seconds:
            raise Stopped(estimate.over_time(self._seconds))
        if self._memory is not None and now >= self._next_look:
            self._next_look = now + self.INTERVAL
            if self._taken() - self._before > self._memory:
                raise Stopped(estimate.over_memory(self._memory))

    def _taken(self) -> int:
        if self._cuda is not None:
            return torch.cuda.memory_allocated(self._cuda)
        return estimate.private_memory()


# ---------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training gave. `outputs` (n, k) are the network's on the held-out rows, in the targets' own units;
    `moments` are the optimiser's state, where the settings have it inherited. `ended` says why it did not go to its
    end, if it did not."""

    curve: tuple[dict[str, float], ...]
    outputs: Tensor
    seconds: float
    epochs: int
    samples: int
    moments: Moments = field(default_factory=dict)
    ended: str = ""


def rate(schedule: Schedule, at: float, epochs: float) -> float:
    """The learning rate as a share of the highest, `at` epochs into a training. Loshchilov and Hutter 2017, eq. 5."""
    if at < schedule.warmup:
        return at / schedule.warmup
    if schedule.kind == "constant":
        return 1.0
    since, period = at - schedule.warmup, max(epochs - schedule.warmup, 1e-9)
    if schedule.kind == "warm_restarts":
        period = schedule.period
        while since >= period:
            since, period = since - period, period * schedule.factor
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * min(since / period, 1.0)))


class _Sgd(torch.optim.SGD):
    """Without what torch.compile needs around two methods, which imports torch._dynamo at the first step: as long as
    importing torch itself, in every process that trains."""

    add_param_group = unwrap(torch.optim.SGD.add_param_group)
    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class _AdamW(torch.optim.AdamW):
    """As `_Sgd`."""

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def optimiser(network: nn.Module, settings: Optimizer, device: torch.device) -> torch.optim.Optimizer:
    """SGD or AdamW, in one fused kernel where the device has it; weight decay acts on kernels and matrices alone."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in parameters if one.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters if one.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = device.type in ("cpu", "cuda")
    if settings.kind == "sgd":
        momentum, nesterov = settings.momentum or 0.0, bool(settings.nesterov)
        return _Sgd(groups, lr=settings.lr, momentum=momentum, nesterov=nesterov, fused=fused)
    return _AdamW(groups, lr=settings.lr, betas=settings.betas or (0.9, 0.999), fused=fused)


class _Average:
    """An exponential moving average of a network's parameters and running statistics."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        tensors = [*network.parameters(), *network.buffers()]
        self._live = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
        self._mean = [tensor.clone() for tensor in self._live]
        self._decay, self._steps = decay, 0

    def update(self) -> None:
        """Takes a step in; early on with less memory, so that the start does not linger."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._mean, self._live, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The network holds the average meanwhile."""
        last = [tensor.clone() for tensor in self._live]
        self.keep()
        yield
        torch._foreach_copy_(self._live, last)

    def keep(self) -> None:
        torch._foreach_copy_(self._live, self._mean)


def train(
    network: nn.Module,
    rows: Rows,
    settings: TrainSettings,
    mode: Mode,
    seed: int,
    limits: Limits,
    watch: Watch | None = None,
    moments: Moments | None = None,
    heir: bool = False,
    judge: Judge | None = None,
) -> Trained:
    """Trains a network on `rows` where it lies, its optimiser beginning with `moments` where there are any, and
    evaluates it on the held-out rows. An `heir`'s norms observe anew before each look: see `_Loop.settle`.
    A `judge` may end it after any look at those rows.

    Equal arguments give equal bits on one kind of device. Raises Stopped when the loss is no longer finite or a limit
    is passed."""
    loop = _Loop(network, rows, settings, mode, seed, moments, heir=heir)
    curve: list[dict[str, float]] = []
    outputs: Tensor | None = None
    ended, epoch = "", 0
    for epoch in range(1, settings.epochs + 1):
        loss = float(loop.epoch(epoch - 1, limits))
        if not math.isfinite(loss):
            raise Stopped(f"diverged: the loss is {loss} in epoch {epoch}; a lower optimizer.lr or a clip may help")
        point = {"epoch": epoch, "loss": loss, "lr": loop.rate}
        last = epoch == settings.epochs
        if last or (settings.evaluate_every and epoch % settings.evaluate_every == 0):
            outputs = loop.evaluate(last)
            point |= _finite("valid_error", _error(outputs, rows))
        curve.append(point)
        if watch is not None:
            watch(point)
        if judge is not None and (ended := judge(curve)):
            break
    assert outputs is not None
    samples = epoch * loop.steps * loop.batch
    return Trained(tuple(curve), outputs, limits.elapsed, epoch, samples, loop.moments(), ended)


@dataclass(frozen=True, eq=False)
class Distilled:
    """What a distillation took: passes over the training rows and samples; and the optimiser's state after it."""

    epochs: float
    samples: int
    moments: Moments


def distil(
    network: nn.Module,
    teacher: Teacher,
    rows: Rows,
    settings: TrainSettings,
    mode: Mode,
    seed: int,
    limits: Limits,
    moments: Moments | None = None,
) -> Distilled:
    """Trains a network towards its teacher's outputs on the training rows, as long as the teacher's settings say.

    Raises Stopped as `train` does."""
    chosen = teacher.settings
    optimizer = settings.optimizer.model_copy(update={"lr": chosen.lr or 0.1 * settings.optimizer.lr})
    batch = chosen.batch_size or settings.batch_size
    changes = {"optimizer": optimizer, "schedule": Schedule(), "average": None, "batch_size": batch}
    course = settings.model_copy(update=changes)
    loop = _Loop(network, rows, course, mode, seed_of(seed, "distil"), moments, teacher, heir=True)
    wanted, done = max(1, round(chosen.epochs * loop.steps)), 0
    while done < wanted:
        steps = min(loop.steps, wanted - done)
        loss = float(loop.epoch(done / loop.steps, limits, steps))
        if not math.isfinite(loss):
            raise Stopped(f"diverged: the loss is {loss} in the distillation; a lower inherit.distill.lr may help")
        done += steps
    loop.settle()
    samples = done * loop.batch
    return Distilled(samples / (loop.steps * loop.batch), samples, loop.moments())


OBSERVED, AT_A_TIME = 512, 256
"""Training rows from which an heir's norms take their statistics, and most in one batch."""


@contextmanager
def _plain_means(norms: Sequence[nn.BatchNorm1d | nn.BatchNorm2d]) -> Iterator[None]:
    """Running statistics are the plain mean of the batches that come meanwhile."""
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    yield
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


class _Loop:
    """One network's training under way."""

    def __init__(
        self,
        network: nn.Module,
        rows: Rows,
        settings: TrainSettings,
        mode: Mode,
        seed: int,
        moments: Moments | None = None,
        teacher: Teacher | None = None,
        heir: bool = False,
    ) -> None:
        self.rate = 0.0
        count = len(rows.x_train)
        self._drawn = max(1, round(settings.share * count)) if settings.fresh else count
        self.batch = min(settings.batch_size, self._drawn)
        self.steps = self._drawn // self.batch
        self._network, self._rows, self._settings, self._mode = network, rows, settings, mode
        self._draws = torch.Generator(mode.device).manual_seed(seed_of(seed, "batches"))
        self._look = seed_of(seed, "norms")
        self._teacher, self._epochs = teacher, teacher.settings.epochs if teacher else settings.epochs
        self._optimiser = optimiser(network, settings.optimizer, mode.device)
        if moments:
            carry_moments(network, self._optimiser, moments)
        self._parameters = list(network.parameters())
        self._scaler = torch.amp.GradScaler(mode.device.type, enabled=mode.dtype is torch.float16)
        self._average = _Average(network, settings.average) if settings.average else None
        parts = network.modules() if heir else ()
        self._norms = [part for part in parts if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]

    def epoch(self, done: float, limits: Limits, steps: int | None = None) -> Tensor:
        """One pass over the rows, or over a share drawn anew, in a new order, the rest that fills no batch left out; or
        its first `steps`. The mean loss, on the device.

        Nothing in here waits for the device."""
        steps = self.steps if steps is None else steps
        rows, batch, augment = self._rows, self.batch, self._settings.augment
        order = torch.randperm(len(rows.x_train), generator=self._draws, device=rows.device)[: self._drawn]
        changes = Changes.draw(augment, len(order), rows.shape.input[1:], self._draws)
        total = torch.zeros((), device=rows.device)
        self._learning()
        for step in range(steps):
            limits.check()
            self._set_rate(done + (step + 0.5) / self.steps)
            start, stop = step * batch, (step + 1) * batch
            chosen = order[start:stop]
            x = self._inputs(rows.drawn(chosen), changes.part(start, stop))
            total += self._step(x, rows.y_train.index_select(0, chosen))
        return total / steps

    def _learning(self) -> None:
        """Training mode, but no dropout where a teacher's outputs are the target: they are those of evaluation, and
        dropout in front of a norm would lift the variance that the norm sees (Li et al. 2019)."""
        self._network.train()
        if self._teacher is not None:
            for part in self._network.modules():
                if isinstance(part, nn.Dropout | nn.Dropout2d):
                    part.eval()

    @torch.no_grad()
    def settle(self) -> None:
        """Has an heir's norms observe what its weights make of some training rows; the training to come stays the same.

        An edit changes what the norms behind it see, and in a short training at a high rate the weights run ahead of an
        average over its steps: 53 children of approximate morphisms had a mean error of 20.4 % after an epoch of digits
        (18 steps) at rate 0.1, and 10.6 % with statistics taken anew. Wu and Johnson 2021, section 3."""
        if not self._norms:
            return
        device, size = self._rows.device, self._rows.shape.input[1:]
        draws = torch.Generator(device).manual_seed(self._look)
        count = min(OBSERVED, self._drawn)
        order = torch.randperm(len(self._rows.x_train), generator=draws, device=device)[:count]
        changes = Changes.draw(self._settings.augment, count, size, draws)
        parts = math.ceil(count / AT_A_TIME)
        self._learning()
        lent = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])  # dropout draws
        with lent, _plain_means(self._norms), self._mode.autocast():
            for start, stop in pairwise(count * i // parts for i in range(parts + 1)):
                self._network(self._inputs(self._rows.drawn(order[start:stop]), changes.part(start, stop)))

    def _inputs(self, chosen: Tensor, changes: Changes) -> Tensor:
        augment = self._settings.augment
        if changes.shifts is not None:
            chosen = shifted(chosen, changes.shifts, augment.shift)
        if augment.flip:
            chosen = mirrored(chosen)
        x = self._rows.inputs(chosen)
        return x if changes.holes is None else punched(x, changes.holes, augment.cutout)

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        with self._mode.autocast():
            outputs = self._network(x)
        loss = self._loss(outputs.float(), x, y)
        for parameter in self._parameters:  # zero_grad does the same in 30 us
            parameter.grad = None
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._settings.clip is not None:
            self._scaler.unscale_(self._optimiser)
            nn.utils.clip_grad_norm_(self._parameters, self._settings.clip)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        if self._average is not None:
            self._average.update()
        return loss.detach()

    def _loss(self, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if self._rows.shape.kind == "regression":
            hard = functional.mse_loss(outputs, y)
        else:
            hard = functional.cross_entropy(outputs, y, label_smoothing=self._settings.label_smoothing)
        if self._teacher is None:
            return hard
        with self._mode.autocast():
            wanted = self._teacher.outputs(x)
        return self._teacher.loss(outputs, wanted.float(), hard)

    def moments(self) -> Moments:
        """The optimiser's state, where children inherit it."""
        wanted = self._settings.inherit
        kept = wanted.kind == "weights" and wanted.moments
        return kept_moments(self._network, self._optimiser) if kept else {}

    def _set_rate(self, at: float) -> None:
        self.rate = self._settings.optimizer.lr * rate(self._settings.schedule, at, self._epochs)
        for group in self._optimiser.param_groups:
            group["lr"] = self.rate

    def evaluate(self, last: bool) -> Tensor:
        """Outputs on the held-out rows; after the last epoch the network keeps its average."""
        if last and self._average is not None:
            self._average.keep()
        with nullcontext() if last or self._average is None else self._average.swapped():
            self.settle()
            return predict(self._network, self._rows, self._mode)


def predict(network: nn.Module, rows: Rows, mode: Mode) -> Tensor:
    """Outputs on the held-out rows, (n, k) float32, in the targets' own units; puts the network in evaluation mode."""
    size = 4096 if mode.device.type == "cuda" else 256
    network.eval()
    with torch.inference_mode():
        parts = []
        for start in range(0, len(rows.x_valid), size):
            x = rows.inputs(rows.x_valid[start : start + size])
            with mode.autocast():
                parts.append(network(x).float())
        outputs = torch.cat(parts)
        return outputs * rows.target_std + rows.target_mean if rows.shape.kind == "regression" else outputs


def _error(outputs: Tensor, rows: Rows) -> float:
    if rows.shape.kind == "regression":
        return float((outputs - rows.y_valid).square().mean())
    return 1.0 - int((outputs.argmax(1) == rows.y_valid).sum()) / len(rows.y_valid)


def _finite(name: str, value: float) -> dict[str, float]:
    """A value under its name, or nothing: a run's records hold finite numbers only."""
    return {name: value} if math.isfinite(value) else {}


# ------------------------------------------------------------------------------------------------------- the estimator


PROBE_ROWS = 256
"""Training rows to calibrate norms by, and for criteria of pruning that look at data."""


@dataclass(frozen=True, eq=False)
class _Look:
    """How closely one individual is looked at: settings, rows, the encoding for their shape, and the network that is
    trained; `whole` says whether it is the individual's own, `fits` whether its weights fit that."""

    settings: TrainSettings
    rows: Rows
    encoding: Encoding
    plan: Plan
    whole: bool
    fits: bool


@dataclass(frozen=True, eq=False)
class _Begun:
    """A network before its training: how it is trained, with which state of the optimiser, and what has been done."""

    network: nn.Module
    settings: TrainSettings
    moments: Moments = field(default_factory=dict)
    curve: tuple[dict[str, float], ...] = ()
    epochs: float = 0
    samples: int = 0
    ledger: Mapping[str, float] = field(default_factory=dict)
    ended: str = ""
    """Why there is no training."""


class TrainEstimator:
    """Trains one network, from scratch or from its parents' weights, and measures every objective of the recipe.

    `folder` may hold the rows that `evonas.estimate.data.stage` laid there; else the task is loaded. With `final` the
    recipe's `final` section says how, and the test rows, not the validation rows, are held out."""

    def __init__(self, recipe: Mapping[str, Any], folder: Path | None = None, final: bool = False) -> None:
        self._settings, self._final = estimate.training(recipe, final), final
        self._objectives = objective.parse(recipe["objectives"])
        data = staged(folder) if folder is not None else prepare(recipe, final)
        estimate.check(self._settings, self._objectives, data.shape.input, data.shape.kind)
        self.device = pick_device(self._settings.device)
        _precision(self._settings.precision, self.device, flops=0)  # a wrong one shows here, not in every estimate
        self._rows, self._seed = Rows.on(self.device, data), int(recipe["seed"])
        self._space = estimate.read(encoding.TABLE, recipe["encoding"], "encoding", encoding.ImportedEncoding)
        self._encoding = encoding.build(self._space, data.shape.input, data.shape.outputs)
        self._views: dict[tuple[float, float], tuple[Rows, Encoding]] = {(1.0, 1.0): (self._rows, self._encoding)}

    def estimate(self, job: Job, watch: Watch | None = None) -> Outcome:
        """The outcome of one job. Whatever its network does becomes a failed estimate; only interrupts pass through."""
        limits = Limits(self._settings.time_limit, self._settings.memory_limit, self.device)
        cheap: dict[str, float] = {}
        try:
            with _conditions(self.device, self._settings.threads, job.seed):
                genome = self._encoding.from_json(job.genome)
                whole = self._encoding.decode(genome)
                cheap = objective.cheap_values(whole, self._objectives)
                look = self._look(trained_at(self._settings, job.fidelity), genome, whole)
                return self._measured(job, genome, look, cheap, limits, watch)
        except (Exception, SystemExit) as error:
            reason = _reason(error, self.device)
        self._tidy()
        return Outcome(Estimate.failed(job.id, reason, {"seconds": limits.elapsed}, values=cheap))

    def _look(self, settings: TrainSettings, genome: Genome, whole: Plan) -> _Look:
        """The rows and the network at the fidelity of some settings; rows of one fidelity are made once."""
        at = (1.0 if settings.fresh else settings.share / self._settings.share, settings.resolution)
        if at not in self._views:
            rows = self._rows.at(*at, self._seed, settings.fresh)
            shape = rows.shape
            self._views[at] = (rows, encoding.build(self._space, shape.input, shape.outputs))
        rows, space = self._views[at]
        reduced = settings.width < 1 or settings.resolution < 1
        plan = space.decode(narrowed(genome, settings.width) if settings.width < 1 else genome) if reduced else whole
        return _Look(settings, rows, space, plan, not reduced, alike(plan, whole))

    def _measured(
        self, job: Job, genome: Genome, look: _Look, cheap: Mapping[str, float], limits: Limits, watch: Watch | None
    ) -> Outcome:
        mode = Mode.choose(look.settings, self.device, look.plan)
        begun = self._begun(job, genome, look, mode, limits)
        if watch is not None:
            for point in begun.curve:
                watch(point)
        network, settings = begun.network, begun.settings
        told = {f"fidelity_{key}": float(of) for key, of in job.fidelity.items()}
        told |= begun.ledger
        if begun.ended:
            saved = settings.epochs + (settings.inherit.distill.epochs if settings.inherit.distill else 0)
            cost = {"seconds": limits.elapsed, "epochs": 0, "samples": 0, "epochs_saved": saved, **told}
            return Outcome(Estimate(job.id, "pruned", cheap, begun.ended, begun.curve, cost))
        heir = "inherited" in begun.ledger
        judge = Judge.of(settings.stop, settings.epochs, settings.evaluate_every, job.peers, job.seed)
        trained = train(network, look.rows, settings, mode, job.seed, limits, watch, begun.moments, heir, judge)
        epochs, samples = begun.epochs + trained.epochs, begun.samples + trained.samples
        cost = {"seconds": limits.elapsed, "epochs": epochs, "samples": samples, **told}
        curve = (*begun.curve, *trained.curve)
        if trained.ended:
            cost["epochs_saved"] = settings.epochs - trained.epochs
            return Outcome(Estimate(job.id, "pruned", cheap, trained.ended, curve, cost))
        values, spreads = self._values(network, look, trained)
        values = values if look.whole else objective.combined({**values, **cheap}, self._objectives)
        measured = Estimate(job.id, "ok", values, curve=curve, cost={**cost, **spreads})
        checked = measured.checked([objective.described(one) for one in self._objectives])
        if checked.status != "ok" or not look.fits:
            return Outcome(checked)
        # nobody inherits from a final training
        return Outcome(checked, phenotype.to_bytes(network, {} if self._final else trained.moments))

    def _values(
        self, network: nn.Module, look: _Look, trained: Trained
    ) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """The objectives of a trained network, and the spread of those that are times."""
        shape, targets = look.rows.shape, look.rows.y_valid
        trial = objective.Trial(
            look.plan, network, look.rows, trained.outputs, targets, shape.input, shape.kind, self.device,
            trained.seconds,
        )  # fmt: skip
        return objective.measure(trial, self._objectives)

    # inheriting -------------------------------------------------------------------------------------------------

    def _begun(self, job: Job, genome: Genome, look: _Look, mode: Mode, limits: Limits) -> _Begun:
        """A new network, or one with its parents' weights: measured at birth and, where an edit changed what the first
        parent does, after a distillation. Parents' weights fit whole networks."""
        if not job.parents or not estimate.inherits(look.settings) or not look.fits:
            network = phenotype.build(look.plan, seed_of(job.seed, "weights"), "cpu")
            return _Begun(mode.place(network), look.settings)
        began, chosen = time.monotonic(), look.settings.inherit
        family = parents(job.parents, self._encoding, chosen.moments)
        seed = seed_of(job.seed, "weights")
        given = inherit(look.encoding, family, job.edits, genome, seed, self._probe(look.rows, job.seed))
        network = phenotype.build(look.plan)
        phenotype.load(network, given.tensors)
        placed = mode.place(network)
        ledger = {
            "inherited": given.share,
            "exact": float(given.exact),
            "carry_seconds": time.monotonic() - began,
            **{f"inherited/{at}/{gene}": share for gene, of in given.sources.items() for at, share in of.items()},
        }
        born = _Begun(placed, _with_weights(look.settings), given.moments, ledger=ledger)
        born = self._looked(born, look, mode, "birth")
        if given.exact or (chosen.distill is None and chosen.birth_loss is None):
            return born
        parent = phenotype.build(look.encoding.decode(family[0].genome))
        phenotype.load(parent, family[0].tensors)
        first = mode.place(parent).eval()
        if ended := self._hopeless(born, first, look, mode):
            return replace(born, ended=ended)
        return born if chosen.distill is None else self._taught(born, first, look, mode, job.seed, limits)

    def _hopeless(self, born: _Begun, parent: nn.Module, look: _Look, mode: Mode) -> str:
        """Why a child is not to be trained; empty where it is."""
        most, error = look.settings.inherit.birth_loss, born.ledger.get("birth_error")
        if most is None or error is None:
            return ""
        before = _error(predict(parent, look.rows, mode), look.rows)
        if error - before <= most:
            return ""
        return f"not trained: error {error:.3g} at birth, {before:.3g} of its parent; inherit.birth_loss is {most:g}"

    def _taught(self, born: _Begun, parent: nn.Module, look: _Look, mode: Mode, seed: int, limits: Limits) -> _Begun:
        """A child after its distillation from a parent."""
        wanted = born.settings.inherit.distill
        assert wanted is not None
        teacher = Teacher(parent, wanted, look.rows.shape.kind != "regression")
        done = distil(born.network, teacher, look.rows, born.settings, mode, seed, limits, born.moments)
        ledger = {**born.ledger, "distilled_samples": done.samples}
        taught = replace(born, moments=done.moments, epochs=done.epochs, samples=done.samples, ledger=ledger)
        return self._looked(taught, look, mode, "distilled")

    def _looked(self, begun: _Begun, look: _Look, mode: Mode, when: str) -> _Begun:
        """With the error on the validation rows before the training; the final training's test rows are looked at once,
        at its end."""
        if self._final:
            return begun
        error = _finite("valid_error", _error(predict(begun.network, look.rows, mode), look.rows))
        if not error:
            return begun
        point: dict[str, float] = {"epoch": 0, **error}
        ledger = {**begun.ledger, f"{when}_error": error["valid_error"]}
        return replace(begun, curve=(point,) if when == "birth" else begun.curve, ledger=ledger)

    def _probe(self, rows: Rows, seed: int) -> Probe:
        """Training rows for what looks at data, as the training will see them; drawn by the job's seed."""
        draws = torch.Generator().manual_seed(seed_of(seed, "probe"))
        chosen = torch.randperm(len(rows.x_train), generator=draws)[:PROBE_ROWS].to(self.device)
        x, y = rows.inputs(rows.drawn(chosen)), rows.y_train[chosen]
        return Probe(x.cpu(), y.cpu(), self._settings.inherit.prune)

    def _tidy(self) -> None:
        """Gives the memory of a failed network back, so that the next one does not fail for want of it."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _reason(error: BaseException, device: torch.device) -> str:
    text = estimate.told(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
        return f"out of memory on {device.type}: a smaller network, batch_size or fewer workers would fit"
    return text


def _with_weights(settings: TrainSettings) -> TrainSettings:
    """How a child with inherited weights is trained."""
    chosen, optimizer = settings.inherit, settings.optimizer
    changed = optimizer.model_copy(update={"lr": chosen.lr or optimizer.lr})
    return settings.model_copy(update={"epochs": chosen.epochs or settings.epochs, "optimizer": changed})
