"""Studies: many recipes x many seeds. The study file, read and checked as strictly as a recipe.

What all arms share stands once, under `recipe`; an arm, or an entry of the second axis `tasks`, holds changes to it.
Nothing heavy is imported: a bad file is refused before torch or numpy loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from evonas import objective, task
from evonas import recipe as recipes
from evonas.core import Json, Objective, Quantity, RecipeError, Settings, nearest, valid_name
from evonas.recipe import Draft, Recipe, named_after, parsed, text_of
from evonas.validation import Mistake, Place, mistakes, show

__all__ = ["Axis", "Cell", "Study", "StudySettings", "read"]

Axis = Literal["evaluations", "epochs", "seconds"]
"""What searches are compared over."""

VERSION = 1
"""The version of study files that this evonas writes; it reads all up to this one."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, int | float | str) and not isinstance(value, bool) else value


def _distinct(seeds: tuple[int, ...] | int) -> tuple[int, ...] | int:
    if isinstance(seeds, tuple) and len(set(seeds)) < len(seeds):
        raise ValueError(f"seed {next(one for one in seeds if seeds.count(one) > 1)} is listed twice: keep one")
    return seeds


def _named(name: str) -> str:
    try:
        return valid_name(name)
    except RecipeError as error:
        raise ValueError(str(error).replace("run name", "name")) from None


Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Seeds = Annotated[
    Annotated[int, Field(ge=1, le=1_000_000)] | Annotated[tuple[Seed, ...], Field(min_length=1)],
    AfterValidator(_distinct),
]
"""How many seeds, from 0 on, or which."""
Name = Annotated[str, AfterValidator(_named)]
Points = Annotated[tuple[Annotated[Quantity, Field(gt=0)], ...], BeforeValidator(_listed)]


class ReportSettings(Settings):
    """What is told of the searches: a value, and after how much of the search."""

    metric: str | None = None
    """A metric of `task.report`, or an objective: its value of the network that is best by the first objective so far.
    Unless given the first of `task.report`, else the objective; with several objectives none."""
    direction: Literal["min", "max"] | None = None
    """Whether less or more of it is better; an objective knows it by itself."""
    over: Axis = "evaluations"
    """What searches are compared over: evaluations, epochs or seconds (of a table's simulated clock where it has
    one)."""
    at: Points = ()
    """After how many of them, such as [50, 100]; what was begun before that counts. The end unless given."""


class HypervolumeSettings(Settings):
    """How the fronts of searches with several objectives are measured."""

    reference: Annotated[float, Field(gt=1)] | dict[str, float] | None = None
    """The point below which volumes are taken: a value for each objective, or a number such as 1.1 in units of the true
    front's extent, 0 its best and 1 its worst. Unless given 1.1 for a table, else the worst that any search found."""
    log10: tuple[str, ...] = ()
    """Objectives that count by their decimal logarithm."""
    exact: bool = True
    """For a table: volumes as shares of the true front's."""


class _Changes(Settings):
    task: Any = None
    """What is to be solved."""
    encoding: Any = None
    """Search space."""
    objectives: Any = None
    """What is minimised or maximised."""
    strategy: Any = None
    """Search strategy."""
    estimator: Any = None
    """Performance estimation."""
    budget: Any = None
    """What a search may spend."""
    pool: Any = None
    """Where estimates of searches that train are computed."""
    store: Any = None
    """What the run folders of searches that train keep."""


class ArmSettings(_Changes):
    """Changes to the recipe that make one arm."""

    seeds: Seeds | None = None
    """Its own number of seeds, or which."""
    published: str | float | dict[str, str | float] | None = None
    """What others report of it, of each task by its name; shown in a column of its own and used for nothing."""


class TaskChanges(_Changes):
    """Changes to the recipe that make one entry of the second axis, such as another task or another budget."""

    report: Any = None
    """What is told here, where it differs from the study's `report`."""
    hypervolume: Any = None
    """How fronts are measured here, where it differs from the study's `hypervolume`."""


class StudySettings(Settings):
    """Many searches: arms x tasks x seeds."""

    version: int = Field(default=VERSION, ge=1, le=VERSION)
    """Version of the file's form."""
    study: Name = "study"
    """Name of the study and its folder; by default the file's."""
    recipe: Any
    """What all searches share: a recipe, or the file of one."""
    seeds: Seeds = 10
    """How many seeds, from 0 on, or a list of them."""
    tasks: dict[Name, TaskChanges] = Field(default={}, max_length=100)
    """The second axis, changes to the recipe by name: other tasks, or other budgets."""
    arms: dict[Name, ArmSettings] = Field(min_length=1, max_length=1000)
    """What is compared, changes to the recipe by name."""
    baseline: str | None = None
    """The arm that the others are tested against."""
    report: ReportSettings = ReportSettings()
    """What is told of the searches."""
    hypervolume: HypervolumeSettings = HypervolumeSettings()
    """How fronts are measured."""


# ------------------------------------------------------------------------------------------------- what comes of it


@dataclass(frozen=True)
class Cell:
    """One arm on one task: its resolved recipe, its seeds, and what is told of it. `metric` is None where only fronts
    are compared; `direction` is the metric's."""

    arm: str
    task: str
    recipe: Recipe
    seeds: tuple[int, ...]
    report: ReportSettings
    hypervolume: HypervolumeSettings
    metric: str | None
    direction: Literal["min", "max"]
    published: str = ""

    @property
    def tabular(self) -> bool:
        """Whether it is searched in memory."""
        return isinstance(self.recipe.task, task.TabularSettings)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What its searches minimise or maximise."""
        return objective.resolve(self.recipe.objectives)


@dataclass(frozen=True)
class Study:
    """A checked study: its name, its arms on its tasks in order, and the arm that the others are tested against."""

    name: str
    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    cells: tuple[Cell, ...]
    baseline: str | None

    def only(self, arms: Sequence[str], tasks: Sequence[str]) -> Study:
        """The part with some arms and tasks; none named means all. RecipeError for one that is not there."""
        for chosen, known, what in ((arms, self.arms, "arm"), (tasks, self.tasks, "task")):
            for name in chosen:
                if name not in known:
                    raise RecipeError(f"{what} {show(name)} is not in the study; {nearest(name, known)}")
        kept = [one for one in self.cells if one.arm in (arms or self.arms) and one.task in (tasks or self.tasks)]
        return replace(self, cells=tuple(kept))

    def with_seeds(self, seeds: int) -> Study:
        """The study with so many seeds for every arm."""
        return replace(self, cells=tuple(replace(one, seeds=tuple(range(seeds))) for one in self.cells))


# ---------------------------------------------------------------------------------------------------------- reading


def read(source: str | Path | Mapping[str, Json]) -> Study:
    """The study in a file, a YAML text or a mapping. Relative paths in a file are taken from its folder.

    Raises InvalidRecipe with every mistake there is, each with line, place, value and the nearest known word."""
    file = _file(source)
    flawed = {mistake.place for mistake in file.wrong}
    found = [mistake for mistake in mistakes(StudySettings, file.data) if mistake.place not in flawed]
    file.refuse([*file.wrong, *found])
    return _resolved(file, StudySettings.model_validate(file.data))


def _file(source: str | Path | Mapping[str, Json]) -> Draft:
    if isinstance(source, Mapping):
        return Draft("study", dict(source))
    if isinstance(source, str) and "\n" in source:
        return _parsed("study", source)
    path = Path(source)
    return named_after(path, "study", "study", _parsed(str(path), text_of(path, "study", _nearby)))


def _nearby(path: Path) -> str:
    """Which studies there are beside a path and among the examples."""
    folders = (path.parent, Path("examples/studies"))
    found = dict.fromkeys(str(one) for folder in folders for one in sorted(folder.glob("*.yaml")))
    return nearest(str(path), list(found)[:20]) if found else "see examples/studies/"


def _parsed(label: str, text: str) -> Draft:
    draft = parsed(label, text, "study", "see examples/studies/")
    return replace(draft, data={key: _filled(value) for key, value in draft.data.items()})


def _filled(value: Json) -> Json:
    """A section with `name:` for `name: {}`: an arm may change nothing."""
    if isinstance(value, Mapping) and any(one is None for one in value.values()):
        return {key: {} if one is None else one for key, one in value.items()}
    return value


# --------------------------------------------------------------------------------------------------------- resolving

_CHANGES = tuple(_Changes.model_fields)


@dataclass(frozen=True)
class _Layer:
    """Changes to the recipe, and where in the file they stand."""

    place: Place
    data: Mapping[str, Json]


def _resolved(file: Draft, settings: StudySettings) -> Study:
    """The cells of a sound file. Raises InvalidRecipe with the mistakes of all recipes, each told once."""
    base = _Layer(("recipe",), _base(file, settings))
    arms = {name: _layer(file, "arms", name) for name in settings.arms}
    tasks = {name: _layer(file, "tasks", name) for name in settings.tasks} or {"": _Layer((), {})}
    wrong: list[Mistake] = list(_strangers(settings))
    cells: list[Cell] = []
    for at in tasks:
        for arm in arms:
            layers = (base, tasks[at], arms[arm])
            recipe, found = recipes.examined(_merged(layers), file.folder)
            wrong += [_placed(one, layers) for one in found]
            if recipe is not None and not found:
                told = _told(file, settings, at, recipe, wrong)
                cells += [_cell(settings, arm, at, recipe, told)] if told else []
    file.refuse(wrong)
    return Study(settings.study, tuple(arms), tuple(tasks), tuple(cells), settings.baseline)


def _base(file: Draft, settings: StudySettings) -> Mapping[str, Json]:
    """What all searches share: a section of the study, or a recipe's file, whose own paths are settled here."""
    if isinstance(settings.recipe, Mapping):
        return {key: value for key, value in settings.recipe.items() if value is not None}
    if not isinstance(settings.recipe, str):
        file.refuse([Mistake(("recipe",), f"{show(settings.recipe)} is not allowed: write a recipe, or its file")])
    path = Path(settings.recipe).expanduser()
    known = recipes.read(path if file.folder is None else file.folder / path)
    return dict(known.model_dump(mode="json", exclude_unset=True, exclude={"final", "name"}))


def _layer(file: Draft, section: str, name: str) -> _Layer:
    data = file.data[section][name]
    return _Layer((section, name), {key: value for key, value in data.items() if key in _CHANGES})


def _merged(layers: Sequence[_Layer]) -> Mapping[str, Json]:
    data: Json = {}
    for layer in layers:
        data = recipes.merged(data, layer.data)
    return dict(data)


def _placed(mistake: Mistake, layers: Sequence[_Layer]) -> Mistake:
    """A mistake of a recipe where the study's file has it: in the last layer that says anything so deep."""
    for depth in range(len(mistake.place), 0, -1):
        for layer in reversed(layers):
            if _has(layer.data, mistake.place[:depth]):
                return Mistake((*layer.place, *mistake.place), mistake.text)
    return Mistake(("recipe", *mistake.place), mistake.text)


def _has(data: Json, place: Place) -> bool:
    for part in place:
        keys = data if isinstance(data, Mapping) else range(len(data)) if isinstance(data, list | tuple) else ()
        if part not in keys:
            return False
        data = data[part]
    return True


def _strangers(settings: StudySettings) -> Iterator[Mistake]:
    """Names of arms and tasks that are none."""
    if settings.baseline is not None and settings.baseline not in settings.arms:
        known = nearest(settings.baseline, list(settings.arms))
        yield Mistake(("baseline",), f"{show(settings.baseline)} is no arm; {known}")
    for arm, one in settings.arms.items():
        for name in one.published if isinstance(one.published, Mapping) else ():
            if name not in settings.tasks:
                known = nearest(name, list(settings.tasks)) if settings.tasks else "the study has no tasks"
                yield Mistake(("arms", arm, "published", name), f"no task of this name; {known}")


# ------------------------------------------------------------------------------------------------------ what is told


@dataclass(frozen=True)
class _Told:
    report: ReportSettings
    hypervolume: HypervolumeSettings
    metric: str | None
    direction: Literal["min", "max"]


def _told(file: Draft, settings: StudySettings, at: str, recipe: Recipe, wrong: list[Mistake]) -> _Told | None:
    """What is told of a cell; None where its own words are wrong, which `wrong` then holds."""
    own = file.data.get("tasks", {}).get(at, {})
    before = len(wrong)
    report = _section(ReportSettings, file.data.get("report"), own.get("report"), ("tasks", at, "report"), wrong)
    measured = _section(
        HypervolumeSettings, file.data.get("hypervolume"), own.get("hypervolume"), ("tasks", at, "hypervolume"), wrong
    )
    goals = objective.resolve(recipe.objectives)
    where: Place = ("tasks", at) if "hypervolume" in own else ()
    wrong += [Mistake((*where, *one.place), one.text) for one in _unknown_objectives(measured, goals)]
    where = ("tasks", at, "report") if "report" in own else ("report",)
    metric, direction, mistake = _metric(report, recipe, goals)
    if mistake is not None:
        wrong.append(Mistake((*where, *mistake.place), mistake.text))
    return None if len(wrong) > before else _Told(report, measured, metric, direction)


def _section(model: Any, shared: Json, own: Json, place: Place, wrong: list[Mistake]) -> Any:
    """A section of the study with a task's changes to it."""
    found = mistakes(model, own) if isinstance(own, Mapping) else []
    if own is not None and not isinstance(own, Mapping):
        found = [Mistake((), f"{show(own)} is not allowed: must be a section")]
    wrong += [Mistake((*place, *one.place), one.text) for one in found]
    return model.model_validate({**(shared or {}), **(own or {} if not found else {})})


def _metric(
    report: ReportSettings, recipe: Recipe, goals: Sequence[Objective]
) -> tuple[str | None, Literal["min", "max"], Mistake | None]:
    """The reported metric and its direction, or what is wrong with it."""
    extra = list(getattr(recipe.task, "report", None) or ())
    by_name = {one.name: one for one in goals}
    name = report.metric
    if name is None:
        name = None if len(goals) > 1 else extra[0] if extra else goals[0].name
    if name is None:
        return None, "max", None
    if name in extra:
        direction = report.direction or (by_name[name].direction if name in by_name else _usual(name))
        if direction is None:
            return name, "max", Mistake(("direction",), f"missing: min or max, whether less or more {name!r} is better")
        return name, direction, None
    if name not in by_name:
        known = nearest(name, [*extra, *by_name])
        return name, "max", Mistake(("metric",), f"{show(name)} is neither in task.report nor an objective; {known}")
    own = by_name[name].direction
    if report.direction not in (None, own):
        return name, own, Mistake(("direction",), f"objective {name!r} is {own}imised: leave direction out")
    return name, own, None


def _usual(name: str) -> Literal["min", "max"] | None:
    """The direction of a metric that is called like one of the objectives that evonas knows."""
    known = objective.TABLE.get(name)
    return None if known is None else known.objective.direction


def _unknown_objectives(measured: HypervolumeSettings, goals: Sequence[Objective]) -> Iterator[Mistake]:
    """Names of the hypervolume's settings that are no objectives, and objectives that they miss."""
    names = [one.name for one in goals]
    for i, name in enumerate(measured.log10):
        if name not in names:
            yield Mistake(("hypervolume", "log10", i), f"{show(name)} is no objective; {nearest(name, names)}")
    if isinstance(measured.reference, Mapping):
        for name in measured.reference:
            if name not in names:
                yield Mistake(("hypervolume", "reference", name), f"no objective; {nearest(name, names)}")
            elif name in measured.log10 and measured.reference[name] <= 0:
                yield Mistake(("hypervolume", "reference", name), "must be more than 0: it counts by its logarithm")
        for name in names:
            if name not in measured.reference:
                yield Mistake(("hypervolume", "reference"), f"misses the objective {name!r}: give its worst value")


def _cell(settings: StudySettings, arm: str, at: str, recipe: Recipe, told: _Told) -> Cell:
    own = settings.arms[arm]
    seeds = own.seeds if own.seeds is not None else settings.seeds
    published = own.published.get(at, "") if isinstance(own.published, Mapping) else own.published
    return Cell(
        arm, at, recipe, tuple(range(seeds)) if isinstance(seeds, int) else seeds, told.report, told.hypervolume,
        told.metric, told.direction, "" if published is None else str(published),
    )  # fmt: skip
