"""Tasks: what is to be solved. The table of kinds, their settings, and `build`, which loads readers only when asked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from evonas import imported
from evonas.core import Count, EvonasError, Quantity, RecipeError, Settings, nearest

if TYPE_CHECKING:
    from evonas.task.data import Data as Data
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
    folder: Path | None = None
    """Folder of the four IDX files, plain or .gz. By default $EVONAS_FASHION_MNIST, then where Debian's package
    dataset-fashion-mnist puts them, then the user's cache, into which they are downloaded once (30 MB)."""


class Cifar10Settings(_Sized):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 RGB pixels, 10 classes."""

    kind: Literal["cifar-10"] = "cifar-10"
    validation: Share = 0.1
    """Rows kept apart to score networks during the search: a fraction of the training images, or a count."""
    folder: Path | None = None
    """Folder of the official binary version (data_batch_1.bin ...), of its cifar-10-binary.tar.gz or of one .npz. By
    default $EVONAS_CIFAR10, then the user's cache, into which the binary version is downloaded once (170 MB)."""
    file: Path | None = None
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
    file: Path
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
    x: Path
    """The samples' .npy file."""
    y: Path
    """The targets' .npy file."""
    x_test: Path | None = None
    """The test samples' .npy file."""
    y_test: Path | None = None
    """The test targets' .npy file."""

    @model_validator(mode="after")
    def _test_set_is_whole(self) -> ArraysSettings:
        if (self.x_test is None) != (self.y_test is None):
            raise ValueError("a test set needs both x_test and y_test: give the other one, too")
        return self


class CsvSettings(_Sized):
    """A text table of numeric features and one target column."""

    kind: Literal["csv"] = "csv"
    file: Path
    """The table, UTF-8."""
    test_file: Path | None = None
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
    folder: Path
    """The folder of class folders."""
    test_folder: Path | None = None
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


TABLE: dict[str, type[TaskSettings]] = {
    settings.model_fields["kind"].default: settings
    for settings in (
        DigitsSettings, IrisSettings, WineSettings, BreastCancerSettings, DiabetesSettings, FashionMnistSettings,
        Cifar10Settings, NpzSettings, ArraysSettings, CsvSettings, ImageFolderSettings, FunctionSettings,
    )
}  # fmt: skip
"""Kind in a recipe -> its settings."""


def build(settings: Settings) -> Task:
    """The task that the settings describe; nothing is read until it is asked. Raises RecipeError for an unknown kind.

    A kind `package.module:object` names the user's own task: it is called with the section's `settings`."""
    from evonas.task import images, table
    from evonas.task.data import SplitTask

    kind: str = getattr(settings, "kind", "")
    if not isinstance(settings, TaskSettings):
        return _imported(kind, getattr(settings, "settings", {}))
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
    missing = [face for face in ("shape", "load", "load_test", "sizes") if not callable(getattr(task, face, None))]
    if missing:
        raise RecipeError(f"{kind} is no task, it lacks {', '.join(missing)}: see evonas.task.data.Task")
    return cast("Task", task)


def located(settings: S, folder: Path) -> S:
    """The settings with relative paths taken from `folder`, a recipe's own, so that they hold in any other."""
    changes: dict[str, Any] = {name: folder / value.expanduser() for name, value in settings if isinstance(value, Path)}
    for name in ("kind", "function"):
        if ".py:" in (place := str(getattr(settings, name, ""))):
            changes[name] = str(folder / Path(place).expanduser())
    return settings.model_copy(update=changes)
