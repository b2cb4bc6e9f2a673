"""Tasks: what is to be solved. The table of kinds, their settings, and `build`, which loads readers only when asked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from evonas import imported
from evonas.core import Count, EvonasError, Quantity, RecipeError, Settings, nearest

if TYPE_CHECKING:
    from evonas.task.data import Data as Data
    from evonas.task.data import PlayTask as PlayTask
    from evonas.task.data import Task as Task
    from evonas.task.data import TaskShape as TaskShape

__all__ = ["TABLE", "TaskSettings", "build", "located"]


def _share(value: float) -> float:
    if 0 < value < 1:
        return value
    if value >= 1 and value == int(value):
        return int(value)
    raise ValueError("give a fraction between 0 and 1, or a whole number of rows")


Share = Annotated[
    Quantity,
    AfterValidator(_share),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, {"type": "integer", "minimum": 1}]}
    ),
]
"""A part of the rows: a fraction in (0, 1) or a count of rows."""

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<otherwise>[^{}]*))?\}")


def _expanded(value: object) -> object:
    """A path with the environment's variables in their places."""
    return _VARIABLE.sub(_variable, value) if isinstance(value, str) else value


def _variable(found: re.Match[str]) -> str:
    name, otherwise = found["name"], found["otherwise"]
    value = os.environ.get(name) or otherwise
    if value is None:
        raise ValueError(f"the environment has no {name}: set it, or write ${{{name}:-the/usual/place}}")
    return value


File = Annotated[Path, BeforeValidator(_expanded)]
"""A path; `${NAME}` stands for a variable of the environment, `${NAME:-data}` for `data` where there is none."""

Side = Annotated[int, Field(ge=1, le=4096)]
ImageShape = tuple[Annotated[int, Field(ge=1, le=1024)], Side, Side]
Goal = Literal["auto", "classification", "regression"]
Layout = Literal["auto", "nchw", "nhwc"]
S = TypeVar("S", bound=Settings)


class TaskSettings(Settings):
    """What every task has: how its rows are divided. The split depends on the run's seed and on nothing else."""

    validation: Share = 0.2
    """Rows kept apart to score networks during the search: a fraction of those that are not test rows, or a count."""
    limit: Annotated[Count, Field(ge=2)] | None = None
    """Train on this many rows only, classes in proportion: a cheap version of the task. All rows by default."""


class _Divided(TaskSettings):
    test: Share | None = None
    """Rows never seen in the search: a fraction or a count. By default the set's own test set, else 0.2."""


class _Sized(_Divided):
    max_bytes: Annotated[Count, Field(ge=1)] = 8_000_000_000
    """Refuse a file whose arrays would take more memory than this many bytes."""


class DigitsSettings(_Divided):
    """1,797 handwritten digits of 8x8 pixels, 10 classes; ships with scikit-learn."""

    kind: Literal["digits"] = "digits"


class IrisSettings(_Divided):
    """150 flowers, 4 features, 3 classes; ships with scikit-learn."""

    kind: Literal["iris"] = "iris"


class WineSettings(_Divided):
    """178 wines, 13 features, 3 classes; ships with scikit-learn."""

    kind: Literal["wine"] = "wine"


class BreastCancerSettings(_Divided):
    """569 tumours, 30 features, 2 classes; ships with scikit-learn."""

    kind: Literal["breast_cancer"] = "breast_cancer"


class DiabetesSettings(_Divided):
    """442 patients, 10 features, disease progression as a number; ships with scikit-learn."""

    kind: Literal["diabetes"] = "diabetes"


class FashionMnistSettings(TaskSettings):
    """Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 grey pixels, 10 classes."""

    kind: Literal["fashion-mnist"] = "fashion-mnist"
    validation: Share = 0.1
    """Rows kept apart to score networks during the search: a fraction of the training images, or a count."""
    folder: File | None = None
    """Folder of the four IDX files, plain or .gz. By default $EVONAS_FASHION_MNIST, then where Debian's package
    dataset-fashion-mnist puts them, then the user's cache, into which they are downloaded once (30 MB)."""


class Cifar10Settings(_Sized):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 RGB pixels, 10 classes."""

    kind: Literal["cifar-10"] = "cifar-10"
    validation: Share = 0.1
    """Rows kept apart to score networks during the search: a fraction of the training images, or a count."""
    folder: File | None = None
    """Folder of the official binary version (data_batch_1.bin ...), of its cifar-10-binary.tar.gz or of one .npz. By
    default $EVONAS_CIFAR10, then the user's cache, into which the binary version is downloaded once (170 MB)."""
    file: File | None = None
    """The tar.gz of the binary version, or an .npz of arrays x, y or of JPEG images (header, scan, offsets, labels)."""

    @model_validator(mode="after")
    def _one_place(self) -> Cifar10Settings:
        if self.folder and self.file:
            raise ValueError("folder and file are both given: give one of them")
        return self


class _ArraySettings(_Divided):
    goal: Goal = "auto"
    """What y means: class numbers or values to predict. auto: whole-number or text arrays are classes."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes, against which labels are checked. By default as many as y holds."""
    layout: Layout = "auto"
    """Axes of 4-dimensional x: channels first (nchw) or last (nhwc). auto: the axis of at most 4 entries has them."""
    as_image: ImageShape | None = None
    """[channels, height, width] to give every row, for images or sequences that are stored flat."""


class NpzSettings(_ArraySettings, _Sized):
    """Arrays of a NumPy .npz file; pickled objects in it are refused."""

    kind: Literal["npz"] = "npz"
    file: File
    """The .npz file."""
    x: str | None = None
    """Name of the samples' array. By default x_train or x."""
    y: str | None = None
    """Name of the targets' array. By default y_train or y."""
    x_test: str | None = None
    """Name of the test samples' array. By default x_test, where the file has it."""
    y_test: str | None = None
    """Name of the test targets' array. By default y_test, where the file has it."""


class ArraysSettings(_ArraySettings, _Sized):
    """Arrays of NumPy .npy files, one each for samples and targets; pickled objects in them are refused."""

    kind: Literal["arrays"] = "arrays"
    x: File
    """The samples' .npy file."""
    y: File
    """The targets' .npy file."""
    x_test: File | None = None
    """The test samples' .npy file."""
    y_test: File | None = None
    """The test targets' .npy file."""

    @model_validator(mode="after")
    def _test_set_is_whole(self) -> ArraysSettings:
        if (self.x_test is None) != (self.y_test is None):
            raise ValueError("a test set needs both x_test and y_test: give the other one, too")
        return self


class CsvSettings(_Sized):
    """A text table of numeric features and one target column."""

    kind: Literal["csv"] = "csv"
    file: File
    """The table, UTF-8."""
    test_file: File | None = None
    """A second table with the same columns, kept as the test set."""
    target: str | int = -1
    """Target column, by name or by position (0 first, -1 last)."""
    features: tuple[str | int, ...] | None = None
    """Feature columns, by name or position. By default all but the target."""
    delimiter: Literal["auto", ",", ";", "\t", "|", " "] = "auto"
    """Sign between columns. auto: whichever of , ; tab | makes most columns of the first line."""
    header: Literal["auto"] | bool = "auto"
    """Whether the first line names the columns. auto: it does if a feature in it is no number, or target is a name."""
    goal: Goal = "auto"
    """What the target means. auto: text or whole numbers are classes, other numbers are values to predict."""
    as_image: ImageShape | None = None
    """[channels, height, width] to give every row of features."""


class ImageFolderSettings(_Sized):
    """Images in one sub-folder per class, named by the class."""

    kind: Literal["image-folder"] = "image-folder"
    folder: File
    """The folder of class folders."""
    test_folder: File | None = None
    """A second folder with the same classes, kept as the test set."""
    size: tuple[Side, Side] | None = None
    """[height, width] to resize every image to (bilinear). By default all images must be of one size."""
    grayscale: bool = False
    """One grey channel instead of RGB."""


class FunctionSettings(_ArraySettings):
    """The user's own Python function. It returns (x, y), (x, y, x_test, y_test) or a dict with these names (x_train and
    y_train do too), and must return the same arrays at every call: each worker process calls it."""

    kind: Literal["function"] = "function"
    function: Annotated[str, Field(pattern=r"^.+:[^:]+$")]
    """Where it is: package.module:name, or path/to/file.py:name."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the call."""


# ------------------------------------------------------------------------------------- classics with all their rows


class ToySettings(Settings):
    """A small set that is searched and scored on all its rows; inputs stay as they are, outputs are 0 or 1."""

    kind: str
    bias: float | None = None
    """A constant to give as the last input, such as 1; null means none."""


class XorSettings(ToySettings):
    """Exclusive or: 2 inputs, 4 rows."""

    kind: Literal["xor"] = "xor"


class ParitySettings(ToySettings):
    """Whether the number of ones among the bits is odd: all 2^bits rows."""

    kind: Literal["parity"] = "parity"
    bits: int = Field(default=3, ge=2, le=16)
    """Inputs."""


class SpiralsSettings(ToySettings):
    """Which of two interlocked spirals a point belongs to: 194 points (Lang and Witbrock 1988), tested between them."""

    kind: Literal["spirals"] = "spirals"


# ------------------------------------------------------------------------------------------------------------ played


class PlaySettings(Settings):
    """A task without rows: networks act in it. Such a task needs `estimator: {kind: population}`."""

    kind: str


class _CartSettings(PlaySettings):
    bias: float | None = 0.5
    """A constant to give as the last input; null means none."""
    activations: int = Field(default=1, ge=1, le=100)
    """Steps of the network per control step, with the same inputs."""


class _PolesSettings(_CartSettings):
    velocities: bool = True
    """Whether the network sees how fast cart and poles move; without, it needs recurrent links."""
    fitness: Literal["steps", "damping"] = "steps"
    """steps: balanced ones. damping: 0.1 of the share of 1,000 steps and 0.9 of 0.75 / swaying (Gruau et al. 1996).
    Unless given, damping without velocities."""
    limit: Annotated[Count, Field(ge=1, le=1_000_000)] = 100_000
    """Control steps of an episode; 1,000 with damping unless given."""
    check: Literal["never", "balanced", "always"] = "never"
    """Whether each generation's best is checked on 100,000 steps and then on 625 other starts (values balanced and
    generalises): never, if it balanced its whole episode, or always. Unless given, balanced with damping."""
    checks: int = Field(default=1, ge=1, le=10_000)
    """How many of a generation's best are checked, those of equal fitness once. The paper checks one."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, value: object) -> object:
        """The usual fitness with and without velocities, and what goes with it."""
        if not isinstance(value, Mapping):
            return value
        blind = value.get("velocities", True) is False
        fitness = value.get("fitness", "damping" if blind else "steps")
        usual = {"limit": 1_000, "check": "balanced"} if fitness == "damping" else {}
        return {"fitness": fitness, **usual, **value}

    @model_validator(mode="after")
    def _fits(self) -> _PolesSettings:
        if self.fitness == "damping" and self.limit != 1_000:
            raise ValueError(f"fitness damping is defined over 1000 steps, limit is {self.limit}: leave limit out")
        return self


class SinglePoleSettings(_PolesSettings):
    """One pole on a cart (Wieland's equations), which has fallen at 12 degrees."""

    kind: Literal["single-pole"] = "single-pole"


class DoublePoleSettings(_PolesSettings):
    """Two poles on a cart (Wieland's equations), with or without velocities. Stanley and Miikkulainen 2002, 4."""

    kind: Literal["double-pole"] = "double-pole"


class CartPoleSettings(_CartSettings):
    """Gymnasium's CartPole-v1, compiled: mean reward over some episodes as fitness, 500 at most."""

    kind: Literal["cartpole"] = "cartpole"
    bias: float | None = None
    """A constant to give as the last input; null means none."""
    outputs: Literal[1, 2] = 1
    """1: push right above 0.5. 2: the larger output is the action."""
    episodes: int = Field(default=5, ge=1, le=10_000)
    """Episodes that each individual plays; all individuals of a generation have the same starts."""
    seeds: Literal["generation", "fixed"] = "generation"
    """Whether every generation has new starts, or all generations of all runs the same; kind gymnasium has the same."""
    test_episodes: int = Field(default=100, ge=1, le=100_000)
    """Episodes of the final test, with starts that no search has."""
    limit: Annotated[Count, Field(ge=1, le=1_000_000)] = 500
    """Steps of an episode."""


class ControlSettings(PlaySettings):
    """An environment of Gymnasium that a whole population plays at once. Needs `pip install 'evonas[control]'`."""

    kind: Literal["gymnasium"] = "gymnasium"
    environment: str = Field(min_length=1, max_length=200)
    """Its id, such as LunarLander-v3 or package:Name-v0, or your own function or class that makes one:
    package.module:name, or path/to/file.py:name."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments it is made with, such as {continuous: true}."""
    episodes: int = Field(default=1, ge=1, le=10_000)
    """Episodes that each individual plays; all individuals of a generation have the same starts."""
    seeds: Literal["generation", "fixed"] = "generation"
    """Whether every generation has new starts, or all generations of all runs the same."""
    max_steps: Annotated[Count, Field(ge=1)] | None = None
    """Steps after which an episode is cut off; the environment's own limit by default."""
    reward: Literal["mean", "min", "median"] = "mean"
    """What the fitness is: the mean, the lowest or the middle one of the episodes' returns."""
    actions: Literal["auto", "argmax"] = "auto"
    """How outputs become discrete actions. argmax: the highest of one output per action. auto: so, too, but two actions
    share one output, which takes the second above the middle of output_range."""
    output_range: tuple[float, float] = (0.0, 1.0)
    """Outputs that mean the lowest and the highest value of a continuous action; beyond them it stays there. [0, 1]
    suits sigmoid outputs, [-1, 1] tanh."""
    scale: tuple[float, ...] | None = None
    """Factors by which observations are multiplied, one for each or one for all. None by default."""
    vector: bool = False
    """Step the environment's own form for many at once, where Gymnasium has one (CartPole-v1): ten times faster,
    but individuals have different starts, drawn from one seed, and all wait for the last to end."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes among which a generation is divided, for slow environments; auto takes as many as there are cores."""
    test_episodes: int = Field(default=100, ge=1, le=100_000)
    """Episodes of the final test, with starts that no search has."""

    @model_validator(mode="after")
    def _has_a_range(self) -> ControlSettings:
        low, high = self.output_range
        if low >= high:
            raise ValueError(f"output_range [{low:g}, {high:g}] is empty: give the lower number first")
        return self

    @model_validator(mode="after")
    def _steps_one_way(self) -> ControlSettings:
        if self.vector and self.workers != 1:
            raise ValueError(f"vector steps all in one process, workers is {self.workers}: leave one of them out")
        return self


class FitnessSettings(PlaySettings):
    """The user's own fitness function, of a whole population of networks or of one network."""

    kind: Literal["fitness"] = "fitness"
    function: Annotated[str, Field(pattern=r"^.+:[^:]+$")]
    """Where it is: package.module:name, or path/to/file.py:name."""
    inputs: int = Field(ge=1, le=100_000)
    """Numbers that a network takes."""
    outputs: int = Field(ge=1, le=100_000)
    """Numbers that a network gives."""
    takes: Literal["population", "network"] = "population"
    """population: f(networks) returns an array of fitnesses or a dict of arrays; networks(x) is (n, rows, outputs).
    network: f(network) returns a number or a dict of numbers; network(x) is (rows, outputs)."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the call."""


# ------------------------------------------------------------------------------------------------------------ tables


class KeySettings(Settings):
    """How a row of a table says which architecture it is: a number for each choice."""

    column: str | tuple[str, ...]
    """The column of these numbers: an array (rows, choices) of an .npz, several columns with one choice each, or a
    column of digits such as 01220."""
    words: tuple[str, ...] | None = None
    """What the numbers 0, 1, 2 ... mean, by the names that the encoding gives its choices; the encoding's own order
    unless given."""


Epochs = Annotated[int, Field(ge=1, le=1_000_000)]


class MetricSettings(Settings):
    """A value of a table's rows; a bare name of a column stands for `{column: NAME}`."""

    column: str | dict[Epochs, str]
    """The column, or one for each number of epochs after which it was measured: {12: valid_12, 200: valid_200}."""
    complement: float | None = None
    """The value is this number less the column: 100 makes an error of an accuracy in per cent."""
    log10: bool = False
    """The value is the column's decimal logarithm."""
    among: str | None = None
    """Of a matrix (rows, things): the column that names the things ..."""
    pick: str | None = None
    """... and the name of the one that is meant."""
    trial: Literal["random", "mean"] | Annotated[int, Field(ge=0, le=10_000)] = "random"
    """Of a matrix (rows, trials) without `among`: one drawn for every individual, their mean, or the one with this
    number."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _whole(self) -> MetricSettings:
        if (self.among is None) != (self.pick is None):
            raise ValueError("among and pick go together: give the other one, too")
        if not self.column:
            raise ValueError("column is empty: name one")
        return self

    @property
    def fidelities(self) -> tuple[int, ...]:
        """The numbers of epochs that have a column of their own."""
        return () if isinstance(self.column, str) else tuple(sorted(self.column))


class CostSettings(Settings):
    """The simulated clock: what a training would have taken."""

    column: str
    """Seconds of a training."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """The epochs of that training; one of fewer epochs costs in proportion."""


class TabularSettings(Settings):
    """A table that knows every network's metrics: a benchmark, searched in seconds. Needs estimator lookup."""

    kind: Literal["tabular"] = "tabular"
    file: File
    """The table: an .npz of plain arrays, or a .csv with a header."""
    key: KeySettings
    """How a genome becomes a row."""
    metrics: dict[str, MetricSettings] = Field(min_length=1)
    """What the search sees: values by the objectives' names."""
    report: dict[str, MetricSettings] = Field(default_factory=dict)
    """What is told of networks after the search (`evonas test`, `evonas study`) and decides nothing."""
    cost: CostSettings | None = None
    """The simulated clock, which `budget.seconds` counts."""
    input: ImageShape = (3, 32, 32)
    """[channels, height, width] of the images that the networks were trained on."""
    outputs: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Their classes."""


_ROWS = (
    DigitsSettings, IrisSettings, WineSettings, BreastCancerSettings, DiabetesSettings, FashionMnistSettings,
    Cifar10Settings, NpzSettings, ArraysSettings, CsvSettings, ImageFolderSettings, FunctionSettings,
)  # fmt: skip
_TOYS = (XorSettings, ParitySettings, SpiralsSettings)
_PLAYED = (SinglePoleSettings, DoublePoleSettings, CartPoleSettings, ControlSettings, FitnessSettings)

TABLE: dict[str, type[Settings]] = {
    settings.model_fields["kind"].default: settings for settings in (*_ROWS, *_TOYS, *_PLAYED, TabularSettings)
}
"""Kind in a recipe -> its settings."""


def build(settings: Settings) -> Task:
    """The task that the settings describe; nothing is read until it is asked. Raises RecipeError for an unknown kind.

    A kind `package.module:object` names the user's own task: it is called with the section's `settings`."""
    if isinstance(settings, PlaySettings):
        return _played(settings)
    if isinstance(settings, TabularSettings):
        from evonas.task import benchmark

        return benchmark.task_of(settings)
    if isinstance(settings, ToySettings):
        from evonas.task import toys

        return toys.MAKERS[settings.kind](settings)
    if isinstance(settings, TaskSettings):
        return _split(settings)
    return _imported(getattr(settings, "kind", ""), getattr(settings, "settings", {}))


def _played(settings: PlaySettings) -> PlayTask:
    if isinstance(settings, FitnessSettings):
        from evonas.task.own import OwnFitness

        return OwnFitness(settings)
    if isinstance(settings, ControlSettings):
        from evonas.task.control import ControlTask

        return ControlTask(settings)
    from evonas.task import poles

    if isinstance(settings, CartPoleSettings):
        return poles.CartPole(settings)
    assert isinstance(settings, (SinglePoleSettings, DoublePoleSettings))
    return poles.Poles(settings)


def _split(settings: TaskSettings) -> Task:
    from evonas.task import images, table
    from evonas.task.data import SplitTask

    kind: str = getattr(settings, "kind", "")
    readers = images.READERS | table.READERS
    return SplitTask(
        partial(readers[kind], settings),
        validation=settings.validation,
        test=getattr(settings, "test", None),
        limit=settings.limit,
        known=(images.KNOWN | table.KNOWN).get(kind),
    )


def _imported(kind: str, settings: Mapping[str, Any]) -> Task:
    if ":" not in kind:
        raise RecipeError(f"task kind {kind!r} is not known; {nearest(kind, list(TABLE))}")
    try:
        task = imported.load(kind)(**settings)
    except EvonasError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise RecipeError(f"task {kind} raised {type(error).__name__}: {error}: correct it or its settings:") from error
    plays = callable(getattr(task, "rollout", None))
    faces = ("shape", "rollout", "test") if plays else ("shape", "load", "load_test", "sizes")
    missing = [face for face in faces if not callable(getattr(task, face, None))]
    if missing:
        raise RecipeError(
            f"{kind} is no task, it lacks {', '.join(missing)}: see evonas.task.data.{'Play' * plays}Task"
        )
    return cast("Task", task)


def located(settings: S, folder: Path) -> S:
    """The settings with relative paths taken from `folder`, a recipe's own, so that they hold in any other."""
    changes: dict[str, Any] = {name: folder / value.expanduser() for name, value in settings if isinstance(value, Path)}
    for name in ("kind", "function", "environment"):
        if ".py:" in (place := str(getattr(settings, name, ""))):
            changes[name] = str(folder / Path(place).expanduser())
    return settings.model_copy(update=changes)
