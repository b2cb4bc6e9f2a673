"""Performance estimation: how good is an individual. Add an estimator by writing its settings here and its file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from evonas import imported, objective
from evonas.core import Count, Estimator, EvonasError, RecipeError, Settings, StorageError, nearest
from evonas.imported import Imported
from evonas.objective import Listed

Device = Literal["auto", "cpu", "cuda", "mps"]


class Optimizer(Settings):
    """The optimiser; norms and biases are never decayed."""

    kind: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW (Loshchilov and Hutter 2019)."""
    lr: float = Field(default=0.2, gt=0, le=100)
    """Highest learning rate; 0.2 for sgd and 0.01 for adamw unless given, which suits short trainings."""
    weight_decay: float = Field(default=5e-4, ge=0, le=10)
    """Weight decay; 5e-4 for sgd and 0.05 for adamw unless given."""
    momentum: float | None = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd."""
    nesterov: bool | None = True
    """Nesterov's form of the momentum of sgd."""
    betas: tuple[float, float] | None = None
    """Decay of adamw's two moments; 0.9 and 0.999 unless given."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, value: object) -> object:
        """A bare kind as a mapping, with the defaults of that kind."""
        value = {"kind": value} if isinstance(value, str) else value
        if not isinstance(value, Mapping):
            return value
        return {**_OPTIMIZERS.get(str(value.get("kind", "sgd")), {}), **value}

    @model_validator(mode="after")
    def _fits(self) -> Optimizer:
        foreign = ("betas",) if self.kind == "sgd" else ("momentum", "nesterov")
        for key in foreign:
            if getattr(self, key) is not None:
                raise ValueError(f"{self.kind} takes no {key!r}: leave it out or choose the other kind")
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must both be at least 0 and below 1")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0: raise it or set nesterov: false")
        return self


_OPTIMIZERS: dict[str, dict[str, object]] = {
    "sgd": {"lr": 0.2, "weight_decay": 5e-4, "momentum": 0.9, "nesterov": True, "betas": None},
    "adamw": {"lr": 0.01, "weight_decay": 0.05, "momentum": None, "nesterov": None, "betas": (0.9, 0.999)},
}


class Schedule(Settings):
    """The learning rate over the training, changed at every step."""

    kind: Literal["constant", "cosine", "warm_restarts"] = "cosine"
    """constant; cosine to the end; or cosine with warm restarts (SGDR, Loshchilov and Hutter 2017)."""
    warmup: float = Field(default=0.0, ge=0, le=1000)
    """Epochs in which the rate rises linearly from 0 before the schedule begins; may be a fraction."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Lowest rate as a share of the highest."""
    period: float = Field(default=1.0, gt=0, le=100_000)
    """For warm_restarts: epochs of the first period (T_0)."""
    factor: float = Field(default=2.0, ge=1, le=100)
    """For warm_restarts: each period is this much longer than the last (T_mult)."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value


class Augment(Settings):
    """Random changes to every training image, made on the device; 0 and false switch them off."""

    shift: int = Field(default=0, ge=0, le=256)
    """Pixels by which an image is padded on every side before a random crop of its own size."""
    flip: bool = False
    """Mirror left and right with probability one half."""
    cutout: int = Field(default=0, ge=0, le=512)
    """Side of a square set to the mean at a random place (DeVries and Taylor 2017)."""

    @property
    def active(self) -> bool:
        return bool(self.shift or self.flip or self.cutout)


class Distill(Settings):
    """A short training towards the first parent's outputs, for children that an edit made differ from it, before they
    are trained as all are; without dropout, since those outputs are of evaluation. Hinton, Vinyals and Dean 2015."""

    epochs: float = Field(default=1.0, gt=0, le=1000)
    """Passes over the training rows; may be a fraction. The rate falls from the highest to 0 in a cosine."""
    temperature: float = Field(default=2.0, gt=0, le=1000)
    """By what the logits of parent and child are divided before they are compared; a regression's are compared as they
    are, by their squared distance."""
    weight: float = Field(default=0.9, gt=0, le=1)
    """Share of the parent's outputs in the loss; the rest is the loss on the targets."""
    lr: float | None = Field(default=None, gt=0, le=100)
    """Highest learning rate; null means a tenth of that of children with inherited weights, since a high one undoes
    what was carried over."""
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000)
    """Rows per step; null means as many as in training. Where an epoch has few steps, small ones bring more."""


class Inherit(Settings):
    """Whether children begin with their parents' trained weights, carried by the marks of their genes (Lamarckian
    inheritance; Elsken, Metzen and Hutter 2019), and how they are trained then."""

    kind: Literal["none", "weights"] = "none"
    """none: every training begins from scratch. weights: children begin with what their parents learned."""
    epochs: int | None = Field(default=None, ge=1, le=100_000)
    """Passes over the training rows with inherited weights; null means as many as from scratch."""
    lr: float | None = Field(default=None, gt=0, le=100)
    """Highest learning rate with inherited weights; null means the optimiser's."""
    moments: bool = True
    """Carry the optimiser's state on, too; weights files are then two to three times as large."""
    prune: Literal["norm", "activation", "shapley"] = "norm"
    """Which channels a narrowed layer keeps: those with the largest weights, with the strongest activation, or with the
    largest Shapley value for the loss; the last two look at training rows."""
    birth_loss: float | None = Field(default=None, gt=0)
    """Most that a child's error on the validation rows may be above its first parent's at birth for it to be trained;
    others are `pruned`. Only edits that do not keep the function lose anything. Null means all are trained."""
    distill: Distill | None = None
    """Distillation from the first parent, for children of edits that do not keep the function; null means none."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, value: object) -> object:
        """A bare kind as a mapping; settings without a kind are those of inherited weights."""
        if isinstance(value, str):
            return {"kind": value}
        return {"kind": "weights", **value} if isinstance(value, Mapping) and value else value


class Stop(Settings):
    """Ends trainings that look hopeless beside those of earlier generations, by their errors on the validation rows. An
    ended one is `pruned`: it counts as seen and has no value, so it is on no front and has no children.

    With sizes among the objectives an individual is compared with those alone that are no larger in any of them."""

    median: bool = True
    """The median rule (Golovin et al. 2017): ends a training whose least error so far is above the median of the
    others' mean errors up to the same epoch."""
    probability: float | None = Field(default=0.02, gt=0, lt=1)
    """Extrapolation of learning curves (Domhan, Springenberg and Hutter 2015): ends a training whose probability of
    ending better than the best so far is below this. Null switches it off."""
    after: float = Field(default=0.2, ge=0, lt=1)
    """Share of the epochs in which nothing is ended."""
    peers: int = Field(default=8, ge=3, le=100)
    """Finished trainings below which nothing is ended."""

    @model_validator(mode="after")
    def _some(self) -> Stop:
        if not self.median and self.probability is None:
            raise ValueError("both rules are off: switch one on, or leave stop out")
        return self


class TrainSettings(Settings):
    """Training with PyTorch for a number of epochs, from scratch or from the parents' weights, then measuring on the
    validation rows."""

    kind: Literal["train"] = "train"
    epochs: int = Field(default=10, ge=1, le=100_000)
    """Passes over the training rows."""
    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    """Rows per step; with fewer training rows than that, all of them. Small ones learn more in few epochs."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the training rows to train on, drawn once per run: a cheaper, less faithful estimate. Rows drawn for a
    smaller share are among those drawn for a larger one."""
    fresh: bool = False
    """Draw the share anew for every epoch of every training: heirs come to see all rows with their ancestors' weights,
    where one share would be learned by heart. False keeps to one share, the same for all."""
    resolution: float = Field(default=1.0, gt=0, le=1)
    """Share of an image's side: smaller images, averaged over their pixels, for training and validation alike."""
    width: float = Field(default=1.0, gt=0, le=1)
    """Share of the channels of every layer (encoding dag); sizes among the objectives stay those of the whole network,
    and the narrow one's weights are not kept."""
    optimizer: Optimizer = Optimizer()
    """The optimiser with its settings; a bare name stands for its defaults."""
    schedule: Schedule = Schedule()
    """The learning rate over the training; a bare name stands for its defaults."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target's probability spread over all classes in the training loss."""
    augment: Augment = Augment()
    """Random changes to training images."""
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; larger ones are scaled down. Null means no limit."""
    average: float | None = Field(default=None, gt=0, lt=1)
    """Decay per step of an exponential moving average of the weights (such as 0.95) that is measured and kept instead
    of the last weights; it gains with a constant rate, not with cosine. Null means none."""
    inherit: Inherit = Inherit()
    """Whether children begin with their parents' weights; a bare name, none or weights, stands for its defaults."""
    evaluate_every: int = Field(default=1, ge=0, le=100_000)
    """Epochs between looks at the validation error for the learning curve; 0 means at the end alone."""
    stop: Stop | None = None
    """Ends hopeless trainings early; `{}` stands for its defaults, null for none."""
    device: Device = "auto"
    """Where to train; auto takes cuda, then mps, then cpu."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward pass; auto takes bf16 where the hardware has it and the network gains by it."""
    channels_last: Literal["auto"] | bool = "auto"
    """Memory layout of images; auto takes channels last wherever it measured faster: cpu and cuda."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Threads of one training on the CPU; more workers beat more threads."""
    time_limit: float | None = Field(default=3600.0, gt=0)
    """Seconds that one estimate may take before it counts as failed; null means no limit, and hangs are not noticed."""
    memory_limit: Count | None = Field(default=None, ge=1_000_000)
    """Bytes (also 500M, 2G) that one estimate may take beyond an idle worker before it counts as failed."""


class FinalSettings(TrainSettings):
    """The last training of chosen front members, after which the test set is touched once."""

    epochs: int = Field(default=50, ge=1, le=100_000)
    """Passes over the training rows."""
    evaluate_every: int = Field(default=0, ge=0, le=0)
    """Always 0: the test set is looked at once, at the end."""
    stop: None = None
    """Always null: the last training goes to its end."""
    resolution: float = Field(default=1.0, ge=1, le=1)
    """Always 1: the last training sees whole images."""
    width: float = Field(default=1.0, ge=1, le=1)
    """Always 1: the last training is of the whole network."""
    validation: bool = True
    """Train on the validation rows too, since the search no longer needs them."""
    inherit: Inherit = Inherit()
    """weights begins the last training with the weights of the search, none from scratch."""
    time_limit: float | None = Field(default=None, gt=0)
    """Seconds that one training may take before it counts as failed; null means no limit."""


class LookupSettings(Settings):
    """No training: every objective is cheap, or your own function or the task's table knows the values."""

    kind: Literal["lookup"] = "lookup"
    epochs: int | None = Field(default=None, ge=1)
    """For a task that is a table: after how many epochs it looks; the most that the table knows unless given."""
    function: str | None = Field(default=None, pattern=r"^[^:]+:[A-Za-z_][\w.]*$")
    """`package.module:object` or `file.py:object`, called as f(genome, plan) and returning values by objective name."""
    time_limit: float | None = Field(default=3600.0, gt=0)
    """Seconds that one estimate may take before a worker process is ended."""
    memory_limit: Count | None = Field(default=None, ge=1_000_000)
    """Bytes that one estimate may take beyond an idle worker process."""


class FineTune(Settings):
    """Gradient steps on the training rows before a network is scored, all networks of a generation at once."""

    steps: int = Field(default=10, ge=1, le=1_000_000)
    """Gradient steps."""
    batch: Annotated[Count, Field(ge=1)] | None = None
    """Training rows per step, drawn in rounds; all unless given."""
    lr: float = Field(default=0.01, gt=0, le=100)
    """Learning rate."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or plain gradient descent."""
    inherit: Literal["lamarckian", "baldwinian"] = "lamarckian"
    """lamarckian: tuned weights become genes. baldwinian: they count for the score only."""


class PopulationSettings(Settings):
    """A whole generation of direct genomes (NEAT) at once: packed into one program, scored in arrays."""

    kind: Literal["population"] = "population"
    fitness: Literal["squared_error", "inverse_loss", "accuracy", "paper"] = "squared_error"
    """The fitness on rows, more is better. squared_error: outputs * rows - sum of squared errors; inverse_loss:
    1 / (1 + loss), where classes' outputs count as logits: give them room beyond sigmoid's 0 to 1; accuracy; paper:
    (outputs * rows - sum of absolute errors) squared (Stanley and Miikkulainen 2002). A task that is played has its
    own."""
    kernel: Literal["auto", "c", "numba", "torch"] = "auto"
    """How networks are computed; auto takes what is fastest here."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where; cuda needs kernel torch or auto. auto takes the CPU, which is fastest unless rows are many."""
    threads: Literal["auto"] | int = "auto"
    """Threads of the CPU; auto takes all cores. The results do not depend on it."""
    activations: int = Field(default=1, ge=1, le=1_000)
    """Steps that a recurrent network is run on one row, from a state of 0, before its outputs are read."""
    rows: Annotated[Count, Field(ge=1)] | None = None
    """Score on this many validation rows, drawn once per run; all unless given."""
    fine_tune: FineTune | None = None
    """Gradient descent before scoring; null means none."""

    @model_validator(mode="after")
    def _fits(self) -> PopulationSettings:
        if isinstance(self.threads, int) and not 1 <= self.threads <= 1024:
            raise ValueError(f"threads {self.threads} is not allowed: give auto or 1 to 1024")
        if self.device == "cuda" and self.kernel not in ("auto", "torch"):
            raise ValueError(
                f"kernel {self.kernel!r} runs on the CPU, device is cuda: set kernel: torch or device: cpu"
            )
        return self


TABLE: dict[str, type[Settings]] = {
    "train": TrainSettings,
    "lookup": LookupSettings,
    "population": PopulationSettings,
}


def read(
    table: Mapping[str, type[Settings]], section: Mapping[str, Any], what: str, imports: type[Imported] = Imported
) -> Any:
    """The settings that a section of a resolved recipe holds, `imports` for a user's own object. Raises RecipeError."""
    kind = str(section.get("kind"))
    if ":" in kind:
        return imports.model_validate(dict(section))
    if kind not in table:
        raise RecipeError(f"{what} {kind!r} is not known; {nearest(kind, list(table))}")
    try:
        return table[kind].model_validate(dict(section))
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{what}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def training(recipe: Mapping[str, Any], final: bool) -> TrainSettings:
    """How a resolved recipe trains: in the search, or at the end. Raises RecipeError."""
    name, settings = ("final", FinalSettings) if final else ("estimator", TrainSettings)
    read_settings: TrainSettings = read({"train": settings}, {"kind": "train", **recipe[name]}, name)
    return read_settings


def inherits(settings: Settings) -> bool:
    """Whether an estimator begins with inherited weights where there are any."""
    return isinstance(settings, TrainSettings) and settings.inherit.kind == "weights"


def check(settings: Settings, objectives: Listed, input_shape: tuple[int, ...], kind: str) -> None:
    """Raises RecipeError where an estimator cannot serve the objectives or a task of this shape and kind."""
    if isinstance(settings, PopulationSettings):
        _check_population(settings, objectives, kind)
        return
    if kind == "control":
        raise RecipeError("the task is played and has no rows to train on: set estimator.kind: population")
    if kind == "tabular":
        if not isinstance(settings, (LookupSettings, Imported)):
            raise RecipeError("the task is a table and has no rows to train on: set estimator.kind: lookup")
        return
    objective.check(objectives, kind)
    if isinstance(settings, LookupSettings):
        _check_lookup(settings, objectives)
    elif isinstance(settings, TrainSettings):
        _check_training(settings, input_shape, kind)


def _check_lookup(settings: LookupSettings, objectives: Listed) -> None:
    if settings.function is not None:
        imported.check(settings.function, "estimator.function: ")
        return
    for one in objective.sources(objective.parse(objectives)):
        if not objective.is_cheap(one):
            raise RecipeError(
                f"objective {one.name!r} needs training, and estimator 'lookup' does none: "
                "set estimator.kind: train, or name an estimator.function that knows it"
            )


_ON_ROWS = ("accuracy", "error", "loss")
_ANYWHERE = ("fitness", "score")


def _check_population(settings: PopulationSettings, objectives: Listed, kind: str) -> None:
    known = _ANYWHERE if kind == "control" else _ANYWHERE + _ON_ROWS
    for one in objective.sources(objective.parse(objectives)):
        if one.kind in known or objective.is_cheap(one):
            continue
        if one.kind in _ON_ROWS:
            cure = "take fitness, or kind: score for another value that the task records"
            raise RecipeError(f"objective {one.name!r} is for rows of data, the task is played: {cure}")
        cure = f"take {', '.join(known)} or a size, or set estimator.kind: train"
        raise RecipeError(f"objective {one.name!r} needs a trained network, estimator 'population' trains none: {cure}")
    if settings.fine_tune is not None and kind == "control":
        raise RecipeError("fine_tune needs training rows, the task is played: leave fine_tune out")


def _check_training(settings: TrainSettings, input_shape: tuple[int, ...], kind: str) -> None:
    if settings.augment.active and len(input_shape) != 3:
        raise RecipeError(f"augment is for images, the task has {input_shape[0]} plain features: leave augment out")
    smoothing, cutout = settings.label_smoothing, settings.augment.cutout
    if smoothing and kind == "regression":
        raise RecipeError(f"label_smoothing {smoothing} is for classes, the task is a regression: set it to 0")
    if settings.resolution < 1 and len(input_shape) != 3:
        what = f"the task has {input_shape[0]} plain features"
        raise RecipeError(f"resolution {settings.resolution:g} is for images, {what}: set it to 1")
    if len(input_shape) == 3 and cutout > min(input_shape[1:]):
        raise RecipeError(f"augment.cutout {cutout} is larger than the image {input_shape[1:]}: make it smaller")


def stage(recipe: Mapping[str, Any], folder: Path, final: bool = False) -> Path | None:
    """Lays the rows that all workers share into a folder, or gives None where the estimator needs none; loads no torch.

    Raises RecipeError, DataError, StorageError."""
    kind = _kind(recipe, final)
    if kind in ("lookup", "population"):
        return None
    from evonas.estimate import data

    rows = data.prepare(recipe, final)
    if kind == "train":
        check(training(recipe, final), recipe["objectives"], rows.shape.input, rows.shape.kind)
    try:
        data.stage(rows, folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StorageError(
            f"cannot write the task's rows into {folder} ({error.strerror or error}); free space there and try again"
        ) from error
    return folder


def _kind(recipe: Mapping[str, Any], final: bool) -> str:
    """Which estimator does the work: at the end one that trains, unless whole populations are scored without or a table
    knows the answers."""
    kind = str(recipe["estimator"].get("kind"))
    if recipe["task"].get("kind") == "tabular":
        return kind
    return "train" if final and kind != "population" else kind


def watched(recipe: Mapping[str, Any], final: bool) -> bool:
    """Whether the driver hears of every epoch: of final trainings, which are long."""
    return final and _kind(recipe, final) == "train"


def capacity(section: Mapping[str, Any]) -> int:
    """How many estimates this machine computes at a time: one per GPU, or per `threads` cores that it may use."""
    if section.get("device") in ("auto", "cuda"):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.device_count()
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, _quota()) // int(section.get("threads", 1)))


def _quota() -> int:
    """Cores that a container may use (cgroup version 2), or a large number where none says."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 20


def over_time(seconds: float) -> str:
    """The reason of an estimate that passed its time limit."""
    return f"time limit of {seconds:g} s passed"


def over_memory(limit: int) -> str:
    """The reason of an estimate that passed its memory limit."""
    return f"memory limit of {limit / 1e6:g} MB passed"


def private_memory(process: int | None = None) -> int:
    """Bytes of memory that a process (by default this one) has for itself; mapped files are shared and do not count."""
    import psutil

    info = psutil.Process(process).memory_info()
    return int(info.rss - getattr(info, "shared", 0))


def told(error: BaseException) -> str:
    """An exception in one line; evonas' own errors speak for themselves. Never raises, whatever the exception does."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "its message cannot be shown"
    return text if isinstance(error, EvonasError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def build(recipe: Mapping[str, Any], folder: Path | None = None, final: bool = False) -> Estimator:
    """The estimator of a resolved recipe. `folder` may hold the rows that `stage` laid there; else the task is loaded.

    `final` gives the training of the recipe's `final` section, measured on the test rows. Your own estimator
    (`package.module:object`) is called with the recipe and the folder. Raises RecipeError, DataError."""
    kind = _kind(recipe, final)
    if ":" in kind:
        made: Estimator = imported.load(kind)(recipe, folder)
        return made
    if kind == "lookup":
        from evonas.estimate.lookup import LookupEstimator, TableEstimator

        return TableEstimator(recipe, final) if recipe["task"].get("kind") == "tabular" else LookupEstimator(recipe)
    if kind == "population":
        from evonas.estimate.population import PopulationEstimator

        return PopulationEstimator(recipe, folder, final)
    from evonas.estimate.train import TrainEstimator

    return TrainEstimator(recipe, folder, final)


__all__ = [
    "TABLE",
    "Augment",
    "Distill",
    "FinalSettings",
    "FineTune",
    "Inherit",
    "LookupSettings",
    "Optimizer",
    "PopulationSettings",
    "Schedule",
    "Stop",
    "TrainSettings",
    "build",
    "check",
    "inherits",
    "over_memory",
    "over_time",
    "private_memory",
    "read",
    "stage",
    "told",
    "training",
]
