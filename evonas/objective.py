"""The table of objectives: what is measured of a network, in which unit and direction, and whether it needs training.

Cheap objectives come from the plan alone, so that violators are never trained; the others from a trained network.
This module loads no torch until something trained is measured."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from evonas import imported
from evonas.core import Genome, Objective, Quantity, RecipeError, Settings, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evonas.encoding.plan import Plan

__all__ = [
    "TABLE",
    "Entry",
    "Measure",
    "ObjectiveSettings",
    "Part",
    "Screen",
    "Trial",
    "cheap_values",
    "check",
    "combined",
    "contradictions",
    "described",
    "is_cheap",
    "measure",
    "names",
    "parse",
    "resolve",
    "sources",
]


# -------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Trial:
    """What an objective may look at once a network has trained.

    `outputs` (n, k) float32 and `targets` (n,) or (n, k) belong to the held-out rows, in the targets' own units.
    `data` is what a user's function gets beside the network. `seconds` is the time that training took."""

    plan: Plan
    network: nn.Module
    data: Any
    outputs: Tensor
    targets: Tensor
    input: tuple[int, ...]
    kind: str
    device: Any
    seconds: float


class Reading(NamedTuple):
    """A measured value and, for a time, its interquartile range."""

    value: float
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table: how the objective is described, and how it is had from a plan or from a trial."""

    objective: Objective
    of_plan: Callable[[Plan], float] | None = None
    of_trial: Callable[[Trial, Measure], Reading] | None = None
    tasks: tuple[str, ...] = ("classification", "regression")

    @property
    def recorded(self) -> bool:
        """Whether only an estimator or a task of its own kind knows the value, by the objective's name."""
        return self.of_plan is None and self.of_trial is None


def _error(trial: Trial, _: Measure) -> Reading:
    if trial.kind == "regression":
        return Reading(float((trial.outputs - trial.targets).square().mean()))
    return Reading(1.0 - _hits(trial))


def _accuracy(trial: Trial, _: Measure) -> Reading:
    return Reading(_hits(trial))


def _hits(trial: Trial) -> float:
    """Share of rows whose largest output is the target; NaN where an output is not finite, since argmax hides it."""
    if not bool(trial.outputs.isfinite().all()):
        return math.nan
    return int((trial.outputs.argmax(1) == trial.targets).sum()) / len(trial.targets)


def _loss(trial: Trial, _: Measure) -> Reading:
    from torch.nn import functional

    loss = functional.mse_loss if trial.kind == "regression" else functional.cross_entropy
    return Reading(float(loss(trial.outputs, trial.targets)))


def _latency(trial: Trial, settings: Measure) -> Reading:
    """Median time of one forward pass in ms (torch.utils.benchmark, blocked autorange)."""
    import torch
    from torch.utils.benchmark import Timer

    assert settings.batch is not None and settings.threads is not None
    drawn = torch.Generator().manual_seed(0)
    batch = torch.randn(settings.batch, *trial.input, generator=drawn).to(trial.device)
    if len(trial.input) == 3:
        batch = batch.contiguous(memory_format=torch.channels_last)
    network = trial.network.eval()
    with torch.inference_mode():
        timer = Timer("network(batch)", globals={"network": network, "batch": batch}, num_threads=settings.threads)
        times = timer.blocked_autorange(min_run_time=0.2)
    return Reading(times.median * 1e3, times.iqr * 1e3)


def _metric(trial: Trial, settings: Measure) -> Reading:
    """Any torchmetrics metric; `task` and `num_classes` are filled in where its constructor asks for them."""
    metric = _metric_class(settings)
    known = {"task": "multiclass", "num_classes": trial.outputs.shape[1]} if trial.kind == "classification" else {}
    wanted = _parameters(metric)
    given = {**{name: value for name, value in known.items() if name in wanted}, **settings.args}
    try:
        measured = metric(**given)
        _refuse_wrong_way(measured, settings)
        return Reading(float(measured(trial.outputs.cpu(), trial.targets.cpu())))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"objective {settings.name!r}: {settings.metric}({given}) does not work: {error}") from None


def _links(plan: Plan) -> float:
    return float(sum(link[4] for link in _graph(plan, "links")["links"]))


def _hidden(plan: Plan) -> float:
    graph = _graph(plan, "hidden")
    return len(graph["nodes"]) - int(graph["outputs"])


def _graph(plan: Plan, objective: str) -> Mapping[str, Any]:
    """The genes of a direct genome's network."""
    if not plan.is_graph:
        raise RecipeError(f"objective {objective!r} counts the genes of encoding 'neat': take params or depth here")
    return plan.steps[-1].settings


def _function(trial: Trial, settings: Measure) -> Reading:
    return Reading(_number(imported.load(str(settings.function))(trial.network, trial.data), settings))


DATA = ("classification", "regression")
ANY = (*DATA, "control")
"""Kinds of tasks: with rows and targets, and all."""

TABLE: dict[str, Entry] = {
    entry.objective.name: entry
    for entry in (
        Entry(Objective("error"), of_trial=_error),
        Entry(Objective("accuracy", direction="max"), of_trial=_accuracy, tasks=("classification",)),
        Entry(Objective("loss"), of_trial=_loss),
        Entry(Objective("params", cheap=True), lambda plan: plan.params, tasks=ANY),
        Entry(Objective("flops", "FLOP", cheap=True), lambda plan: plan.flops, tasks=ANY),
        Entry(Objective("memory", "B", cheap=True), lambda plan: plan.memory, tasks=ANY),
        Entry(Objective("depth", "layers", cheap=True), lambda plan: plan.depth, tasks=ANY),
        Entry(Objective("links", cheap=True), _links, tasks=ANY),
        Entry(Objective("hidden", "nodes", cheap=True), _hidden, tasks=ANY),
        Entry(Objective("fitness", direction="max"), tasks=ANY),
        Entry(Objective("score", direction="max"), tasks=ANY),
        Entry(Objective("latency", "ms", measured=True), of_trial=_latency),
        Entry(Objective("train_seconds", "s", measured=True), of_trial=lambda trial, _: Reading(trial.seconds)),
        Entry(Objective("metric"), of_trial=_metric),
        Entry(Objective("function"), of_trial=_function, tasks=ANY),
        Entry(Objective("scalar", direction="max"), tasks=ANY),
    )
}
"""Objectives by name. `metric`, `function` and `scalar` are what a recipe's own `metric:`, `function:` and `of:`
become; `score` is a value that the task or its fitness function records under the objective's own name."""


# --------------------------------------------------------------------------------------------------------- settings


class Measure(Settings):
    """Something to be measured of a network; a bare name such as `error` stands for `{name: error}`."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")
    """What the objective is called in tables; one of the table (error, accuracy, loss, params, flops, memory, depth,
    links, hidden, fitness, latency, train_seconds) unless `metric`, `function` or `kind` says what it is."""
    kind: str = ""
    """Which entry of the table is meant, where `name` is a name of your own; `score` is a value that the task or your
    fitness function records under that name. Usually left out."""
    direction: Literal["min", "max"] | None = None
    """Whether less or more is better; the table's own unless given, and required with `metric`."""
    metric: str | None = Field(default=None, pattern=r"^torchmetrics(\.[A-Za-z_]\w*)+$")
    """A torchmetrics metric by its import path, such as torchmetrics.F1Score (needs the extra evonas[metrics])."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Settings of the metric, such as average: macro; task and num_classes are filled in."""
    function: str | None = Field(default=None, pattern=r"^[^:]+:[A-Za-z_][\w.]*$")
    """Your own function, `package.module:object` or `file.py:object`: f(network, data) -> float after training, or
    f(plan) -> float with `cheap: true`."""
    cheap: bool = False
    """For `function`: it takes the plan and needs no training. For `score`: the task's table knows it at birth."""
    measured: bool = False
    """For `function`: it reads a clock or a meter, so it is taken once and left out when runs are compared."""
    batch: int | None = Field(default=None, ge=1, le=65536)
    """For latency: samples per forward pass, 1 unless given."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """For latency: threads of the forward pass, 1 unless given."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, value: object) -> object:
        """A bare name as a mapping, with the kind that follows from it."""
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            return value
        kind = value.get("kind") or next((kind for key, kind in _SAID_BY.items() if value.get(key)), value["name"])
        defaults = {key: what for key, what in _DEFAULTS.get(kind, {}).items() if key in cls.model_fields}
        return {**defaults, **value, "kind": kind}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _refuse_unknown(self)
        _refuse_foreign(self)
        if self.kind == "metric" and self.direction is None:
            raise ValueError(f"objective {self.name!r}: say direction: max or min, what is better for {self.metric}")
        return self

    @property
    def goal(self) -> Literal["min", "max"]:
        """Whether less or more is better."""
        return self.direction or TABLE[self.kind].objective.direction


_SAID_BY = {"metric": "metric", "function": "function", "of": "scalar"}
"""Kinds that follow from a key."""
_DEFAULTS: dict[str, dict[str, Any]] = {"latency": {"batch": 1, "threads": 1}, "scalar": {"form": "sum"}}
"""Values of keys that only one kind has."""

MEASURING = ("kind", "direction", "metric", "args", "function", "cheap", "measured", "batch", "threads")
"""Keys that say how something is measured: one name is measured in one way."""


class Part(Measure):
    """What goes into a scalar objective, measured like an objective but not necessarily one."""

    weight: float | None = Field(default=None, ge=0, le=1e9)
    """For sum and tchebycheff: what the part counts for, 1 unless given."""
    range: tuple[Quantity, Quantity] | None = None
    """For sum and tchebycheff: the values that count as 0 and as 1, so that units do not matter."""
    target: Quantity | None = None
    """For product: what the value is divided by, 1 unless given. For tchebycheff: the value to come near to, the better
    end of the range unless given."""
    exponent: float | tuple[float, float] | None = None
    """For product: the power, or one where the target is kept and one where it is missed; 1 unless given, -1 where the
    part and the whole have opposite directions. MnasNet's latency has -0.07, or [0, -1] for a hard target."""
    max: Quantity | None = None
    """Threshold: above it the whole is `otherwise`."""
    min: Quantity | None = None
    """Threshold: below it the whole is `otherwise`."""


class ObjectiveSettings(Measure):
    """One objective of a recipe; a bare name such as `error` stands for `{name: error}`."""

    unit: str | None = Field(default=None, max_length=20)
    """Unit shown in tables; the table's own unless given."""
    max: Quantity | None = None
    """Constraint: values above it do not count as solutions; a cheap objective's violators are never trained."""
    min: Quantity | None = None
    """Constraint: values below it do not count as solutions."""
    of: tuple[Part, ...] = ()
    """The parts of a scalar objective, such as [{name: accuracy, weight: 0.7}, {name: params, weight: 0.3, range: [0,
    1M]}]; they are recorded, too."""
    form: Literal["sum", "product", "tchebycheff"] | None = None
    """How a scalar is made of its parts. sum: weighted, those of the other direction taken off (MONAS, Hsu et al.
    2018). product: of powers (MnasNet, Tan et al. 2019, equation 2). tchebycheff: the largest weighted distance from a
    target, to be minimised (Miettinen 1999)."""
    otherwise: float | None = None
    """For a scalar: its value where a part breaks its max or min, 0 unless given."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"objective {self.name!r}: min {self.min} is above max {self.max}: no value keeps both")
        if self.kind == "scalar":
            _refuse_unsound(self)
        return self

    @property
    def goal(self) -> Literal["min", "max"]:
        """Whether less or more is better; a distance is minimised, other scalars are maximised unless said."""
        return "min" if self.form == "tchebycheff" else super().goal


def _refuse_unsound(whole: ObjectiveSettings) -> None:
    """A scalar whose parts make no sense in its form."""
    called = f"objective {whole.name!r}"
    if not whole.of:
        raise ValueError(f"{called}: of: is missing, it lists the parts such as [accuracy, params]")
    if whole.form == "tchebycheff" and whole.direction == "max":
        raise ValueError(f"{called}: tchebycheff is a distance: leave direction: max out")
    threshold = any(limit is not None for part in whole.of for limit in (part.max, part.min))
    if whole.goal == "min" and whole.otherwise is None and threshold:
        raise ValueError(f"{called}: a part has a threshold: say otherwise:, a value worse than all that keep it")
    names = [part.name for part in whole.of]
    for part in whole.of:
        if part.kind == "scalar" or part.name == whole.name:
            raise ValueError(f"{called}: part {part.name!r} is a scalar itself: list what it is made of")
        if names.count(part.name) > 1:
            raise ValueError(f"{called}: part {part.name!r} is listed twice: remove one, or name it and say its kind:")
        _refuse_misfit(whole, part)


def _refuse_misfit(whole: ObjectiveSettings, part: Part) -> None:
    """A part with settings that its whole's form has no use for, or that reward what is worse."""
    called = f"objective {whole.name!r}: part {part.name!r}"
    for key, forms in _OF_FORM.items():
        if getattr(part, key) is not None and whole.form not in forms:
            cure = "give an exponent" if whole.form == "product" else f"that belongs to {forms[0]}"
            raise ValueError(f"{called}: {whole.form} takes no {key}: {cure}")
    if part.range is not None and part.range[0] >= part.range[1]:
        raise ValueError(f"{called}: range {part.range[0]:g} to {part.range[1]:g} is empty: put the lesser value first")
    if whole.form == "tchebycheff" and part.target is None and part.range is None:
        raise ValueError(f"{called}: tchebycheff needs its target: the best value that can be hoped for")
    if whole.form == "product" and part.target is not None and part.target <= 0:
        raise ValueError(f"{called}: target {part.target:g} must be above 0, values are divided by it")
    sign = 1 if part.goal == whole.goal else -1
    if any(sign * power < 0 for power in _powers(whole, part)):
        worse = "more" if part.goal == "min" else "less"
        raise ValueError(f"{called}: exponent {part.exponent} would reward {worse} of it: change its sign")


_OF_FORM = {
    "weight": ("sum", "tchebycheff"),
    "range": ("sum", "tchebycheff"),
    "target": ("product", "tchebycheff"),
    "exponent": ("product",),
}
"""Forms that have a use for a part's settings."""


def _refuse_unknown(settings: Measure) -> None:
    if settings.kind not in TABLE:
        whose = "" if settings.kind == settings.name else f" {settings.name!r}: kind"
        raise ValueError(f"objective{whose} {settings.kind!r} is not known; {nearest(settings.kind, names())}")
    for key in ("metric", "function"):
        if settings.kind == key and getattr(settings, key) is None:
            raise ValueError(f"objective {settings.name!r}: {key}: is missing, it says which {key} is meant")


_ONLY = {
    "metric": ("metric",),
    "args": ("metric",),
    "function": ("function",),
    "cheap": ("function", "score"),
    "measured": ("function",),
    "batch": ("latency",),
    "threads": ("latency",),
    "of": ("scalar",),
    "form": ("scalar",),
    "otherwise": ("scalar",),
}


def _refuse_foreign(settings: Measure) -> None:
    for key, kinds in _ONLY.items():
        if getattr(settings, key, None) and settings.kind not in kinds:
            raise ValueError(f"objective {settings.name!r} takes no {key!r}: that belongs to {kinds[0]}")


def names() -> list[str]:
    """The objectives that a recipe may list by name."""
    return [name for name in TABLE if name not in ("metric", "function", "score", "scalar")]


# ------------------------------------------------------------------------------------------------------- in a recipe

Listed = Sequence["str | Mapping[str, Any] | ObjectiveSettings"]
"""Objectives as a recipe lists them: names, mappings or settings."""


def parse(objectives: Listed) -> tuple[ObjectiveSettings, ...]:
    """The settings of listed objectives. Raises RecipeError for what is unknown, missing, doubled or out of range."""
    if not objectives:
        raise RecipeError("objectives: [] is empty: list at least one, such as error")
    parsed = tuple(_parsed(one) for one in objectives)
    names = [settings.name for settings in parsed]
    for name in names:
        if names.count(name) > 1:
            cure = f"remove one, or give it a name of its own and `kind: {name}`"
            raise RecipeError(f"objective {name!r} is listed twice: {cure}")
    for text in contradictions(parsed):
        raise RecipeError(text)
    return parsed


def _parsed(one: str | Mapping[str, Any] | ObjectiveSettings) -> ObjectiveSettings:
    if isinstance(one, ObjectiveSettings):
        return one
    try:
        return ObjectiveSettings.model_validate(one)
    except ValidationError as error:
        raise RecipeError("; ".join(_said(one, part) for part in error.errors())) from None


def _said(one: object, part: Any) -> str:
    message = str(part["msg"]).removeprefix("Value error, ")
    where = ".".join(map(str, part["loc"]))
    name = one.get("name") if isinstance(one, Mapping) else one
    return f"objective {name!r}: {where}: {message}" if where else message


def contradictions(objectives: Sequence[ObjectiveSettings]) -> Iterator[str]:
    """Parts of scalars that are measured in another way than an objective, or another scalar's part, of that name."""
    known: dict[str, Measure] = {one.name: one for one in objectives}
    for whole in objectives:
        for part in whole.of:
            other = known.setdefault(part.name, part)
            if any(getattr(part, key) != getattr(other, key) for key in MEASURING):
                cure = "say the same in both places, or give it a name of its own and its kind"
                yield f"objective {whole.name!r}: part {part.name!r} is measured in two ways: {cure}"


def sources(objectives: Listed) -> tuple[Measure, ...]:
    """What must be measured for some objectives: themselves or, of scalars, the parts; every name once."""
    parsed = tuple(map(_parsed, objectives))
    known: dict[str, Measure] = {one.name: one for one in parsed if one.kind != "scalar"}
    for part in chain.from_iterable(one.of for one in parsed):
        known.setdefault(part.name, part)
    return tuple(known.values())


def resolve(objectives: Listed) -> tuple[Objective, ...]:
    """The objectives that a recipe lists, in order. Raises RecipeError, also for an extra or a file that is missing."""
    parsed = parse(objectives)
    for settings in sources(parsed):
        _refuse_missing(settings)
    return tuple(map(described, parsed))


def described(settings: ObjectiveSettings) -> Objective:
    """The objective that the settings describe."""
    base = TABLE[settings.kind].objective
    own = settings.kind == "function"
    parts = [TABLE[part.kind].objective.measured or part.measured for part in settings.of]
    return replace(
        base,
        name=settings.name,
        unit=base.unit if settings.unit is None else settings.unit,
        direction=settings.goal,
        cheap=is_cheap(settings),
        measured=settings.measured if own else base.measured or any(parts),
        max=settings.max,
        min=settings.min,
    )


def _refuse_missing(settings: Measure) -> None:
    """What a recipe names must be there before a run starts; nothing is imported for that."""
    if settings.metric and importlib.util.find_spec("torchmetrics") is None:
        raise _missing_metrics(settings)
    if settings.function:
        imported.check(settings.function, f"objective {settings.name!r}: ")


def _missing_metrics(settings: Measure) -> RecipeError:
    return RecipeError(f"objective {settings.name!r} needs torchmetrics: pip install 'evonas[metrics]'")


def check(objectives: Listed, kind: str) -> None:
    """Raises RecipeError where an objective makes no sense for a task of this kind (classification, regression)."""
    for settings in sources(parse(objectives)):
        if kind not in TABLE[settings.kind].tasks:
            whose, cure = ("rows with targets", "fitness") if kind == "control" else ("classes", "error or loss")
            raise RecipeError(f"objective {settings.name!r} is for {whose}, the task is a {kind}: take {cure}")


# --------------------------------------------------------------------------------------------------------- measuring


def is_cheap(settings: Measure) -> bool:
    """Whether what is measured needs no training; a scalar does where one of its parts does."""
    if isinstance(settings, ObjectiveSettings) and settings.of:
        return all(map(is_cheap, settings.of))
    own = settings.kind in ("function", "score")
    return settings.cheap if own else TABLE[settings.kind].of_plan is not None


def cheap_values(plan: Plan, objectives: Listed) -> dict[str, float]:
    """The values of the cheap objectives and parts by name, from the plan alone; the others are left out."""
    values = {one.name: _of_plan(plan, one) for one in sources(objectives) if is_cheap(one)}
    return combined(values, objectives)


def combined(values: Mapping[str, float], objectives: Listed) -> dict[str, float]:
    """The values and those of the scalars whose parts are all among them; NaN where a part is not finite."""
    scalars = [one for one in map(_parsed, objectives) if one.of and all(part.name in values for part in one.of)]
    return {**values, **{one.name: _scalar(one, [values[part.name] for part in one.of]) for one in scalars}}


def _scalar(whole: ObjectiveSettings, values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    parts = list(zip(whole.of, values, strict=True))
    if any(not _within(part, value) for part, value in parts):
        return whole.otherwise or 0.0
    terms = (_TERMS[str(whole.form)](whole, part, value) for part, value in parts)
    try:
        return float(_JOINED[str(whole.form)](terms))
    except (ZeroDivisionError, OverflowError, TypeError):  # a power of 0 or, being complex, of what is below
        return math.nan


def _within(part: Part, value: float) -> bool:
    return (part.max is None or value <= part.max) and (part.min is None or value >= part.min)


def _weighted(whole: ObjectiveSettings, part: Part, value: float) -> float:
    """A part's share of a sum."""
    low, high = part.range or (0.0, 1.0)
    weight = 1.0 if part.weight is None else part.weight
    return (weight if part.goal == whole.goal else -weight) * (value - low) / (high - low)


def _power(whole: ObjectiveSettings, part: Part, value: float) -> float:
    """A part's factor of a product. Tan et al. 2019, equation 3."""
    target = 1.0 if part.target is None else part.target
    kept, missed = _powers(whole, part)
    keeps = value <= target if part.goal == "min" else value >= target
    made: float = (value / target) ** (kept if keeps else missed)
    return made


def _powers(whole: ObjectiveSettings, part: Part) -> tuple[float, float]:
    """The exponents where the target is kept and where it is missed."""
    if part.exponent is None:
        return (1.0, 1.0) if part.goal == whole.goal else (-1.0, -1.0)
    return part.exponent if isinstance(part.exponent, tuple) else (part.exponent, part.exponent)


def _distance(whole: ObjectiveSettings, part: Part, value: float) -> float:
    """A part's weighted distance from its target, below 0 beyond it."""
    low, high = part.range or (0.0, 1.0)
    better = low if part.goal == "min" else high
    beyond = value - (better if part.target is None else part.target)
    weight = 1.0 if part.weight is None else part.weight
    return weight * (beyond if part.goal == "min" else -beyond) / (high - low)


_TERMS: dict[str, Callable[[ObjectiveSettings, Part, float], float]] = {
    "sum": _weighted, "product": _power, "tchebycheff": _distance,
}  # fmt: skip
_JOINED: dict[str, Callable[[Iterable[float]], float]] = {"sum": sum, "product": math.prod, "tchebycheff": max}


def _of_plan(plan: Plan, settings: Measure) -> float:
    if settings.kind == "function":
        return _number(imported.load(str(settings.function))(plan), settings)
    of_plan = TABLE[settings.kind].of_plan
    assert of_plan is not None
    return of_plan(plan)


def measure(trial: Trial, objectives: Sequence[ObjectiveSettings]) -> tuple[dict[str, float], dict[str, float]]:
    """All values of a trained network by name, of objectives and of scalars' parts, and the spread of those that are
    times (`latency_iqr`).

    A value may be NaN: `Estimate.checked` turns that into a failure. Raises what a user's function raises."""
    values: dict[str, float] = {}
    spreads: dict[str, float] = {}
    for settings in sources(objectives):
        of_trial = TABLE[settings.kind].of_trial
        if of_trial is None or settings.cheap:
            values[settings.name] = _of_plan(trial.plan, settings)
            continue
        reading = of_trial(trial, settings)
        values[settings.name] = reading.value
        if reading.spread is not None:
            spreads[f"{settings.name}_iqr"] = reading.spread
    return combined(values, objectives), spreads


def _number(value: Any, settings: Measure) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        what = f"{settings.function} returned {type(value).__name__}"
        raise RecipeError(f"objective {settings.name!r}: {what}, not a number: return a float") from None


def _metric_class(settings: Measure) -> Any:
    module, _, name = str(settings.metric).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name == "torchmetrics":
            raise _missing_metrics(settings) from None
        raise RecipeError(f"objective {settings.name!r}: no module {module!r} in torchmetrics") from None
    except AttributeError:
        known = [public for public in vars(sys.modules[module]) if public[:1].isupper()]
        close = nearest(name, known).partition("known:")[0] or "see its documentation"
        raise RecipeError(f"objective {settings.name!r}: {module} has no {name!r}; {close}") from None
    _refuse_loading(found, settings)
    return found


_METRICS = tuple(f"torchmetrics.{kind}." for kind in ("classification", "regression", "nominal", "clustering"))


def _refuse_loading(metric: Any, settings: Measure) -> None:
    """Other metrics load networks that their settings name, pickled ones among them; and what is no metric might do
    anything."""
    from torchmetrics import Metric

    plain = isinstance(metric, type) and issubclass(metric, Metric) and metric.__module__.startswith(_METRICS)
    if not plain and not imported.is_granted(str(settings.metric)):
        raise RecipeError(f"objective {settings.name!r}: {imported.refusal(str(settings.metric))}")


def _refuse_wrong_way(metric: Any, settings: Measure) -> None:
    higher = metric.higher_is_better
    if higher is not None and higher != (settings.direction == "max"):
        better, cure = ("higher", "max") if higher else ("lower", "min")
        raise RecipeError(f"objective {settings.name!r}: {better} {settings.metric} is better: set direction: {cure}")


def _parameters(callable_: Any) -> frozenset[str]:
    """Names of a metric's settings; those with a `task`, such as F1Score, take theirs in `__new__`."""
    import inspect

    makers = [callable_.__init__] + ([callable_.__new__] if callable_.__new__ is not object.__new__ else [])
    return frozenset(name for maker in makers for name in inspect.signature(maker).parameters)


# ---------------------------------------------------------------------------------------------------------- at birth


class Screen:
    """Whether a genome keeps the constraints on cheap objectives, so that it may be trained.

    `values(genome)` gives the cheap objectives by name."""

    def __init__(self, values: Callable[[Genome], Mapping[str, float]], objectives: Listed) -> None:
        self._values = values
        self._limits = [
            one for one in resolve(objectives) if one.cheap and (one.max is not None or one.min is not None)
        ]

    def __call__(self, genome: Genome) -> bool:
        return not self.why(genome)

    def why(self, genome: Genome) -> str:
        """What the genome breaks, such as `params 120000 > 100000`; empty where it keeps everything."""
        if not self._limits:
            return ""
        values = self._values(genome)
        for one in self._limits:
            value = values[one.name]
            if not math.isfinite(value):
                return f"{one.name} is {value}"
            if one.violation(value) > 0:
                limit = f"> {one.max:g}" if one.max is not None and value > one.max else f"< {one.min:g}"
                return f"{one.name} {value:g} {limit}"
        return ""
