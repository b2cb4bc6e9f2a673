"""The recipe: the configuration of a run. YAML in and out, checked as a whole, every mistake told at once.

A section's `kind` picks its settings from the table of its room, so that a new encoding or strategy is known here as
soon as its table lists it. Nothing heavy is imported: a bad recipe is refused before torch loads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from evonas import encoding, estimate, imported, objective, pool, strategy, task, yaml
from evonas.core import Count, Json, RecipeError, Settings, nearest, valid_name
from evonas.estimate import FinalSettings
from evonas.imported import Imported
from evonas.objective import ObjectiveSettings
from evonas.tracking import WRITERS, TrackerSettings
from evonas.validation import Mistake, Place, Section, descriptions, mistakes, models, section_of, show, spelled

VERSION = 1
"""The recipe version that this evonas writes; it reads all up to this one."""

RESUMABLE = (
    "strategy.generations", "budget", "pool", "estimator.time_limit", "estimator.memory_limit", "final", "tracking",
)  # fmt: skip
"""What a resume may change: how long, where, under which guards and who is told, never what is searched."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


class InvalidRecipe(RecipeError):
    """A recipe with mistakes; `mistakes` holds them one by one, the message one line each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.mistakes = tuple(lines)


# ----------------------------------------------------------------------------------------------------- the sections


def _run_name(name: str) -> str:
    try:
        return valid_name(name)
    except RecipeError as error:
        raise ValueError(str(error)) from None


class StoreSettings(Settings):
    """What the run folder keeps."""

    individuals: Literal["auto", "all", "champions"] = "auto"
    """Individuals to keep: all, or the front with each generation's champions of the species, which is what auto does
    where whole populations are estimated at once. Either way a run resumes exactly."""

    keep_weights: Literal["champions", "front", "all"] = "front"
    """Trained weights to keep: those of the front and the population, of every individual, or of the champions alone:
    the best of the front in each objective, its knee, and the best of each species. Where weights are inherited the
    champions' are those of front and population too, since children begin with them. Networks that were tested keep
    theirs."""
    keep_generations: int = Field(default=0, ge=0)
    """Also keep the weights of everyone who was born in so many of the last generations."""


class BudgetSettings(Settings):
    """What a run may spend; the first limit that is reached ends it, even before its last generation."""

    evaluations: Annotated[Count, Field(ge=1)] | None = None
    """Estimates."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training rows, those of all estimates together."""
    seconds: float | None = Field(default=None, gt=0)
    """Seconds of all trainings together, whatever ran side by side; of a table's simulated clock where it keeps one.
    The estimate that passes the limit still counts."""

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: value for name, value in self if value is not None}


class _OrName:
    """Tells editors that a bare name stands for an objective's section."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": objective.names()}, handler(schema)]}


class _OrKind:
    """Tells editors that a bare kind stands for a tracker's section."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(WRITERS)}, handler(schema)]}


_Task = Annotated[Any, Section(task.TABLE, imports=Imported)]
_Encoding = Annotated[Any, Section(encoding.TABLE, "dag", imports=encoding.ImportedEncoding)]
_Strategy = Annotated[Any, Section(strategy.TABLE, "nsga2", imports=strategy.ImportedStrategy)]
_Estimator = Annotated[Any, Section(estimate.TABLE, "train", imports=Imported)]
_Pool = Annotated[Any, Section(pool.TABLE, "processes", imports=Imported)]


class Recipe(Settings):
    """One search: what is solved, what is searched, by which objectives and strategy, and how it is estimated."""

    version: int = Field(default=VERSION, ge=1)
    """Version of the recipe's form."""
    name: Annotated[str, AfterValidator(_run_name)] = "run"
    """Name of the run and its folder; by default the recipe file's."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Names every random stream: the same recipe and seed give the same run."""
    task: _Task
    """What is to be solved, such as `{kind: digits}`."""
    encoding: _Encoding = Field(default={}, validate_default=True)
    """Search space: how genomes are made, changed and decoded."""
    objectives: tuple[Annotated[ObjectiveSettings, _OrName()], ...] = Field(min_length=1)
    """What is minimised or maximised, such as `[error, params]`."""
    strategy: _Strategy = Field(default={}, validate_default=True)
    """Search strategy: who is born next."""
    estimator: _Estimator = Field(default={}, validate_default=True)
    """Performance estimation: how good an individual is."""
    budget: BudgetSettings = BudgetSettings()
    """What the run may spend, beside `strategy.generations`."""
    pool: _Pool = Field(default={}, validate_default=True)
    """Where estimates are computed."""
    final: FinalSettings = FinalSettings()
    """The last training of chosen networks by `evonas test`; what is not written here is as in `estimator`."""
    store: StoreSettings = StoreSettings()
    """What the run folder keeps."""
    tracking: tuple[Annotated[TrackerSettings, _OrKind()], ...] = ()
    """Who is told the run's numbers while it goes on, such as `[tensorboard]`; it decides nothing."""


# ---------------------------------------------------------------------------------------------------------- reading


def read(source: str | Path | Mapping[str, Json], overrides: Mapping[str, str] = _NOTHING) -> Recipe:
    """The recipe in a file, a YAML text or a mapping, with `--set`-like overrides (`{"strategy.generations": "20"}`).

    Relative paths in a file are taken from its folder. Raises InvalidRecipe with every mistake there is, each with
    line, place, value, allowed range and the nearest known word."""
    return _checked(_overridden(_draft(source), overrides))


def from_json(data: Mapping[str, Json]) -> Recipe:
    """A resolved recipe, as a run folder keeps it. Code and files that it names need not be here: whoever runs it will
    be told."""
    return _checked(Draft("the run's recipe", dict(data)), _KEPT)


def override(recipe: Recipe, overrides: Mapping[str, str]) -> Recipe:
    """The recipe with some values changed, given as YAML text by dotted path. Raises InvalidRecipe."""
    return _checked(_overridden(Draft("recipe", recipe.model_dump(mode="json")), overrides))


@dataclass(frozen=True)
class Draft:
    """A recipe or a study before it is checked: its values, where each was written, and what single ones have wrong."""

    label: str
    data: Mapping[str, Json]
    lines: Mapping[Place, int] = field(default_factory=dict)
    folder: Path | None = None
    wrong: tuple[Mistake, ...] = ()
    overridden: frozenset[Place] = frozenset()

    def told(self, mistake: Mistake) -> str:
        """One line: where it was written, its place, what is wrong."""
        place = mistake.place
        what = f"{spelled(place)}: {mistake.text}" if place else mistake.text
        if self._overridden(mistake):
            return f"--set: {what}"
        line = self._line(mistake)
        return f"{self.label}:{line}: {what}" if line else f"{self.label}: {what}"

    def order(self, mistake: Mistake) -> tuple[bool, int]:
        """Sorting key: in the order of the file, overrides last."""
        return self._overridden(mistake), self._line(mistake)

    def refuse(self, wrong: Sequence[Mistake]) -> None:
        """Raises InvalidRecipe with every mistake there is, in the order of the file, each told once."""
        if wrong:
            raise InvalidRecipe(list(dict.fromkeys(map(self.told, sorted(wrong, key=self.order)))))

    def _overridden(self, mistake: Mistake) -> bool:
        return any(mistake.place[: len(one)] == one for one in self.overridden)

    def _line(self, mistake: Mistake) -> int:
        """Where the mistake was written, or else the section it belongs to; 0 if nowhere."""
        places = (mistake.place[:depth] for depth in range(len(mistake.place), -1, -1))
        return mistake.line or next((self.lines[place] for place in places if place in self.lines), 0)


def _draft(source: str | Path | Mapping[str, Json]) -> Draft:
    if isinstance(source, Mapping):
        return Draft("recipe", dict(source))
    if isinstance(source, str) and ("\n" in source or ": " in source or source.lstrip().startswith("{")):
        return _parsed("recipe", source)
    path = Path(source)
    return named_after(path, "name", "run", _parsed(str(path), text_of(path, "recipe", _nearby)))


def text_of(path: Path, what: str, nearby: Callable[[Path], str]) -> str:
    """The text of a recipe's or a study's file. Raises RecipeError; `nearby` says what to take where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(yaml.MAX_BYTES + 1).decode("utf-8")
    except FileNotFoundError:
        raise RecipeError(f"no {what} {spelled((str(path),))}: {nearby(path)}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start}): save the {what} as UTF-8") from None
    except OSError as error:
        raise RecipeError(f"cannot read the {what} {path}: {error.strerror or error}") from None


def named_after(path: Path, key: str, fallback: str, draft: Draft) -> Draft:
    """A file's draft with the file's name under `key`, unless it says one, and the folder that paths are taken from."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-_") or fallback
    return replace(draft, data={key: stem[:64], **draft.data}, folder=path.resolve().parent)


def _nearby(path: Path) -> str:
    """Which recipes there are beside a path, in the working directory and in examples/."""
    folders = dict.fromkeys((path.parent, Path(), Path("examples")))
    found = [str(one) for folder in folders if folder.is_dir() for one in sorted(folder.glob("*.y*ml"))]
    if not found:
        return "write one with: evonas init"
    return nearest(str(path), list(dict.fromkeys(found))[:20])


def _parsed(label: str, text: str) -> Draft:
    draft = parsed(label, text, "recipe", "write a recipe, or let evonas init write one")
    # a section without entries is one whose entries are all commented out
    data = {key: value for key, value in draft.data.items() if value is not None or (key,) not in draft.lines}
    return replace(draft, data=data)


def parsed(label: str, text: str, what: str, cure: str) -> Draft:
    """The draft in a YAML text. Raises InvalidRecipe for what is no YAML, or no mapping."""
    try:
        document = yaml.parse(text)
    except yaml.YamlSyntaxError as error:
        raise InvalidRecipe([f"{label}:{error.line}:{error.column}: not valid YAML: {error}"]) from None
    if document.data is None:
        raise InvalidRecipe([f"{label}: empty: {cure}"])
    if not isinstance(document.data, dict):
        raise InvalidRecipe([f"{label}:1: {show(document.data)} is not allowed: a {what} is lines of key: value"])
    flaws = tuple(Mistake(flaw.place, flaw.text, flaw.line) for flaw in document.flaws)
    return Draft(label, document.data, document.lines, wrong=flaws)


def _overridden(draft: Draft, overrides: Mapping[str, str]) -> Draft:
    data, wrong = dict(draft.data), list(draft.wrong)
    places = []
    for path, text in overrides.items():
        place = tuple(int(part) if part.isdigit() else part for part in path.split("."))
        places.append(place)
        try:
            data = _with(data, place, _value(text))
        except RecipeError as error:
            wrong.append(Mistake(place, str(error)))
    return replace(draft, data=data, wrong=tuple(wrong), overridden=frozenset(places))


def _value(text: str) -> Json:
    try:
        return yaml.scalar(text)
    except yaml.YamlSyntaxError as error:
        raise RecipeError(f"{show(text)} is not valid YAML: {error}") from None


def _with(data: Json, place: Place, value: Json, above: Place = ()) -> Json:
    """A copy of `data` with one value changed; missing sections on the way are made. RecipeError for other values."""
    if not place:
        return value
    part, rest, here = place[0], place[1:], (*above, place[0])
    if isinstance(data, list):
        if not isinstance(part, int) or part >= len(data):
            raise RecipeError(f"{spelled(above)} has entries 0 to {len(data) - 1}, none {show(part)}")
        return [_with(one, rest, value, here) if i == part else one for i, one in enumerate(data)]
    if data is not None and not isinstance(data, Mapping):
        raise RecipeError(f"{spelled(above)} is {show(data)} and has no entries to set")
    section = dict(data or {})
    if part == "kind" and not rest:
        section = _convertible(section, above, value)
    key = str(part)
    return {**section, key: _with(section.get(key), rest, value, here)}


def merged(base: Json, changes: Json, place: Place = ()) -> Json:
    """A recipe's mapping with changes laid over it, section over section. Where they choose another `kind`, what only
    the old kind has goes; a section within a section goes as a whole."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping):
        return changes
    section = dict(base)
    if "kind" in changes and changes["kind"] != base.get("kind"):
        section = _convertible(section, place, changes["kind"]) if len(place) == 1 else {}
    return {**section, **{key: merged(section.get(key), value, (*place, key)) for key, value in changes.items()}}


def _convertible(section: dict[str, Json], place: Place, kind: Json) -> dict[str, Json]:
    """A section without the keys that only its old kind has, so that `--set strategy.kind=random` is enough."""
    described = Recipe.model_fields.get(str(place[0])) if len(place) == 1 else None
    chooser = section_of(described)
    old, new = (chooser.model(one) if chooser else None for one in (section, {"kind": kind}))
    if old is None or new is None or old is new:
        return section
    return {key: value for key, value in section.items() if key in new.model_fields or key not in old.model_fields}


# ------------------------------------------------------------------------------------------------------- whose code


def _elsewhere(address: str) -> bool:
    """Whether a Ray cluster's address is, or may be, on another machine: of names only localhost is known."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return address != "auto" and host != "localhost"


def own_code(recipe: Recipe) -> dict[Place, str]:
    """What a recipe would import, by its place: objects in the place of table entries, functions, environments and
    modules that a search begins from; and a cluster elsewhere, which could run anything here."""
    named: dict[Place, object] = {(room, "kind"): getattr(recipe, room).kind for room in _ROOMS}
    named |= {("task", key): getattr(recipe.task, key, None) for key in ("function", "environment")}
    named["estimator", "function"] = getattr(recipe.estimator, "function", None)
    address = getattr(recipe.pool, "address", None)  # the head of a Ray cluster sends pickles
    named["pool", "address"] = address if address and _elsewhere(address) else None
    for i, one in enumerate(recipe.objectives):
        named["objectives", i, "function"] = one.function
        named |= {("objectives", i, "of", at, "function"): part.function for at, part in enumerate(one.of)}
    for i, entry in enumerate(getattr(recipe.encoding, "initial", ())):
        named["encoding", "initial", i] = entry if imported.is_path(entry) and not entry.startswith("run:") else None
    return {place: what for place, what in named.items() if isinstance(what, str) and ":" in what}


def permit(recipe: Recipe, allow_code: bool = False) -> None:
    """Grants what a recipe would import where its user allows that; else InvalidRecipe with every path that is not
    granted yet."""
    code = own_code(recipe)
    if allow_code:
        imported.grant(code.values())
    refused = [Mistake(place, imported.refusal(path)) for place, path in code.items() if not imported.is_granted(path)]
    Draft("recipe", {}).refuse(refused)


# --------------------------------------------------------------------------------------------------------- checking


def _checked(draft: Draft, rules: Sequence[Rule] | None = None) -> Recipe:
    _refuse_newer(draft)
    recipe, wrong = examined(draft.data, draft.folder, draft.wrong, RULES if rules is None else rules)
    draft.refuse(wrong)
    assert recipe is not None, "only a draft with mistakes has no sound part"
    return recipe


def examined(
    data: Mapping[str, Json],
    folder: Path | None = None,
    wrong: Sequence[Mistake] = (),
    rules: Sequence[Rule] | None = None,
) -> tuple[Recipe | None, list[Mistake]]:
    """The recipe that a mapping describes, with relative paths taken from `folder`, and everything that is wrong with
    it beside what was `wrong` already; with mistakes it is their part that is sound, or None."""
    wrong = list(wrong)
    flawed = {mistake.place for mistake in wrong}
    # a value that could not be read stands as null: what pydantic says of the null is no mistake of the user's
    wrong += [mistake for mistake in mistakes(Recipe, data) if mistake.place not in flawed]
    recipe = _sound_part(data, wrong)
    if recipe is not None:
        recipe = _located(recipe, folder)
        spoilt = {mistake.place[0] for mistake in wrong if mistake.place}
        wrong += [mistake for rule in rules or RULES if not spoilt & rule.needs for mistake in rule.broken(recipe)]
    return recipe, wrong


def _refuse_newer(draft: Draft) -> None:
    version = draft.data.get("version", VERSION)
    if isinstance(version, int) and version > VERSION:
        mistake = Mistake(
            ("version",),
            f"written for recipe version {version}, this evonas reads up to {VERSION}: upgrade evonas",
        )
        raise InvalidRecipe([draft.told(mistake)])


_SOUND: Mapping[str, Json] = {"task": {"kind": "digits"}, "objectives": ["error"]}


def _sound_part(data: Mapping[str, Json], wrong: Sequence[Mistake]) -> Recipe | None:
    """The recipe with its wrong sections replaced, so that the rules can judge the others; None if even that fails."""
    if any(not mistake.place for mistake in wrong):
        return None
    spoilt = {mistake.place[0] for mistake in wrong}
    sound = {**_SOUND, **{key: value for key, value in data.items() if key not in spoilt}}
    return Recipe.model_validate(_inherited(sound))


def _inherited(data: Mapping[str, Json]) -> Mapping[str, Json]:
    """The final training takes from the estimator what it does not say itself, but never its cuts in data and time."""
    search = data.get("estimator", {})
    if not isinstance(search, Mapping) or search.get("kind", "train") != "train":
        return data
    own = {"share", *FinalSettings.__annotations__}
    final = dict(data.get("final", {}))
    for key, value in search.items():
        if key not in own:
            final[key] = _merged(value, final[key]) if key in final else value
    return {**data, "final": final}


def _merged(base: Json, changes: Json) -> Json:
    """Section over section, unless the changes choose another kind."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping):
        return changes
    return {**base, **changes} if changes.get("kind", base.get("kind")) == base.get("kind") else changes


def _located(recipe: Recipe, folder: Path | None) -> Recipe:
    """Paths in the recipe's file are relative to it, wherever evonas is called from."""
    if folder is None:
        return recipe
    named = [_function_in(one, "function", folder) for one in recipe.objectives]
    changes: dict[str, Any] = {"objectives": tuple(_parts_in(one, folder) for one in named)}
    for room in _ROOMS:
        settings = task.located(recipe.task, folder) if room == "task" else getattr(recipe, room)
        changes[room] = _function_in(_function_in(settings, "kind", folder), "function", folder)
    changes["tracking"] = tuple(_tracker_in(one, folder) for one in recipe.tracking)
    initial = getattr(recipe.encoding, "initial", ())
    found = tuple(_founder_in(one, folder) for one in initial)
    if found != initial:
        changes["encoding"] = changes["encoding"].model_copy(update={"initial": found})
    return recipe.model_copy(update=changes)


def _tracker_in(settings: TrackerSettings, folder: Path) -> TrackerSettings:
    """The settings with a folder taken from `folder`; addresses of servers as they are."""
    if settings.kind != "tensorboard" or settings.to is None:
        return settings
    return settings.model_copy(update={"to": str(folder / Path(settings.to).expanduser())})


def _founder_in(entry: str, folder: Path) -> str:
    """A genome file, a module's file or a run's path (`run:./path/to/run`) taken from `folder`; names as they are."""
    if entry.startswith("run:"):
        where = entry.removeprefix("run:")
        return f"run:{folder / Path(where).expanduser()}" if where.startswith((".", "~")) else entry
    if entry.endswith(".json"):
        return str(folder / Path(entry).expanduser())
    return _path_in(entry, folder)


def _function_in(settings: Any, key: str, folder: Path) -> Any:
    """The settings with `file.py:object` under `key` taken from `folder`."""
    named = getattr(settings, key, None)
    if not isinstance(named, str) or ".py:" not in named:
        return settings
    return settings.model_copy(update={key: _path_in(named, folder)})


def _parts_in(settings: ObjectiveSettings, folder: Path) -> ObjectiveSettings:
    """The settings with the functions of a scalar's parts taken from `folder`."""
    return settings.model_copy(update={"of": tuple(_function_in(part, "function", folder) for part in settings.of)})


def _path_in(path: str, folder: Path) -> str:
    """`file.py:object` with the file taken from `folder`; any other text as it is."""
    file, _, name = path.rpartition(":")
    return f"{folder / Path(file).expanduser()}:{name}" if file.endswith(".py") else path


@dataclass(frozen=True)
class Rule:
    """Something that must hold between settings; it is asked only if the sections it needs are sound themselves."""

    needs: frozenset[str]
    broken: Callable[[Recipe], Iterator[Mistake]]


def _names_twice(recipe: Recipe) -> Iterator[Mistake]:
    seen: set[str] = set()
    for i, one in enumerate(recipe.objectives):
        if one.name in seen:
            cure = f"remove one, or give it a name of its own and `kind: {one.kind}`"
            yield Mistake(("objectives", i), f"objective {one.name!r} is listed twice: {cure}")
        seen.add(one.name)
    if len(seen) == len(recipe.objectives):
        yield from (Mistake(("objectives",), text) for text in objective.contradictions(recipe.objectives))


def _sources(recipe: Recipe) -> Iterator[tuple[int, objective.Measure]]:
    """What is measured for the objectives, each with the place of the objective that asks for it."""
    for source in objective.sources(recipe.objectives):
        asking = (i for i, one in enumerate(recipe.objectives) if source.name in (one.name, *(p.name for p in one.of)))
        yield next(asking), source


def _objectives_absent(recipe: Recipe) -> Iterator[Mistake]:
    for i, one in enumerate(recipe.objectives):
        try:
            objective.resolve([one])
        except RecipeError as error:
            yield Mistake(("objectives", i), str(error))


def _untrained_objectives(recipe: Recipe) -> Iterator[Mistake]:
    if not isinstance(recipe.estimator, estimate.LookupSettings) or recipe.estimator.function is not None:
        return
    if isinstance(recipe.task, task.TabularSettings):
        yield from _not_in_the_table(recipe, recipe.task)
        return
    for i, one in _sources(recipe):
        if not objective.is_cheap(one) and not objective.TABLE[one.kind].recorded:
            cure = "set estimator.kind: train, or name an estimator.function that knows it"
            yield Mistake(("objectives", i), f"{one.name!r} needs training, and estimator 'lookup' does none: {cure}")


def _not_in_the_table(recipe: Recipe, table: task.TabularSettings) -> Iterator[Mistake]:
    for i, one in _sources(recipe):
        if one.name not in table.metrics:
            text = f"{one.name!r} is no metric of the task's table; {nearest(one.name, list(table.metrics))}"
            yield Mistake(("objectives", i), text)
        elif one.kind in ("function", "metric"):
            yield Mistake(("objectives", i), f"{one.name!r} is read from the task's table: leave {one.kind} out")


def _no_table(recipe: Recipe) -> Iterator[Mistake]:
    """A table is looked up, and only a table has fidelities to look at."""
    lookup = isinstance(recipe.estimator, estimate.LookupSettings)
    table = isinstance(recipe.task, task.TabularSettings)
    if table and not lookup and not isinstance(recipe.estimator, Imported):
        text = f"{recipe.estimator.kind!r} needs rows to train on, the task is a table: set estimator.kind: lookup"
        yield Mistake(("estimator", "kind"), text)
    if lookup and not table and recipe.estimator.epochs is not None:
        text = "lookup trains nothing: leave epochs out, or set estimator.kind: train"
        yield Mistake(("estimator", "epochs"), text)


def _uncounted(recipe: Recipe) -> Iterator[Mistake]:
    """A limit on what no estimate costs would never end a run."""
    looks = isinstance(recipe.estimator, estimate.LookupSettings)
    whole = isinstance(recipe.estimator, estimate.PopulationSettings)
    table = recipe.task if isinstance(recipe.task, task.TabularSettings) else None
    fidelities = table is not None and any(one.fidelities for one in table.metrics.values())
    lost = {"epochs": whole or (looks and not fidelities), "seconds": whole or (table is not None and not table.cost)}
    for key, uncounted in lost.items():
        if uncounted and key in recipe.budget.limits:
            cost = "task.cost is missing" if key == "seconds" and table else f"estimator {recipe.estimator.kind!r}"
            text = f"nothing here costs {key} ({cost}): set budget.evaluations, or strategy.generations alone"
            yield Mistake(("budget", key), text)


def _no_window(recipe: Recipe) -> Iterator[Mistake]:
    """A whole population is estimated at once: nothing else can be under way."""
    size = getattr(recipe.strategy, "window", 1)
    if size > 1 and isinstance(recipe.estimator, estimate.PopulationSettings):
        text = f"{size} generations at once are not for estimator 'population', which takes each as a whole: set 1"
        yield Mistake(("strategy", "window"), text)


def _faceless(recipe: Recipe) -> Iterator[Mistake]:
    """What a strategy asks of an encoding beyond making, mutating and mating."""
    has = getattr(recipe.encoding, "faces", None)
    if has is None:
        return
    for face in getattr(recipe.strategy, "needs", ()):
        if face not in has:
            able = [kind for kind, one in encoding.TABLE.items() if face in getattr(one, "faces", ())]
            text = f"{recipe.strategy.kind!r} needs {FACES[face]}, which encoding {recipe.encoding.kind!r} lacks"
            cure = f"set encoding.kind: {' or '.join(able)}" if able else "take another strategy"
            yield Mistake(("strategy", "kind"), f"{text}: {cure}")


FACES = {
    "tokens": "genomes as choices (face tokens)",
    "features": "genomes as numbers (face features)",
    "distance": "a distance between genomes (face distance)",
    "morphisms": "edits that keep the function (face morphisms)",
}
"""What a strategy may need of an encoding, in words."""


def _recorded_by_none(recipe: Recipe) -> Iterator[Mistake]:
    """Fitness and scores come from a population's estimator, or from a user's own."""
    own = isinstance(recipe.estimator, Imported) or getattr(recipe.estimator, "function", None) is not None
    known = own or isinstance(recipe.task, task.TabularSettings)
    if known or isinstance(recipe.estimator, estimate.PopulationSettings):
        return
    for i, one in _sources(recipe):
        if objective.TABLE[one.kind].recorded:
            cure = "set estimator.kind: population, with encoding.kind: neat"
            yield Mistake(("objectives", i), f"{one.name!r} is recorded by estimator 'population' only: {cure}")


def _no_whole_population(recipe: Recipe) -> Iterator[Mistake]:
    """The estimator of whole populations takes direct genomes, and is the one that plays."""
    whole = isinstance(recipe.estimator, estimate.PopulationSettings)
    if whole and recipe.encoding.kind in ("cell", "dag"):
        cure = "set encoding.kind: neat, or estimator.kind: train"
        text = f"'population' takes direct genomes, encoding is {recipe.encoding.kind!r}: {cure}"
        yield Mistake(("estimator", "kind"), text)
    if isinstance(recipe.task, task.PlaySettings) and not whole and not isinstance(recipe.estimator, Imported):
        text = f"task {recipe.task.kind!r} is played, not trained on: set estimator.kind: population"
        yield Mistake(("estimator", "kind"), text)


def _nothing_to_inherit(recipe: Recipe) -> Iterator[Mistake]:
    """Weights are carried over between layer graphs; a direct genome's weights are its genes."""
    for room in ("estimator", "final"):
        if recipe.encoding.kind == "neat" and estimate.inherits(getattr(recipe, room)):
            text = "'weights' is for layer graphs, encoding is 'neat': set encoding.kind: dag, or inherit: none"
            yield Mistake((room, "inherit"), text)


def _nothing_to_continue(recipe: Recipe) -> Iterator[Mistake]:
    """Without inherited weights a member that is trained on would only be trained anew."""
    if getattr(recipe.strategy, "continued", 0) and not estimate.inherits(recipe.estimator):
        cure = "set estimator.inherit: weights, or continued: 0"
        yield Mistake(("strategy", "continued"), f"there are no weights to go on from: {cure}")


def _nothing_to_stop_by(recipe: Recipe) -> Iterator[Mistake]:
    """Trainings are ended by their validation errors, beside networks that are no larger."""
    if getattr(recipe.estimator, "stop", None) is None:
        return
    if not recipe.estimator.evaluate_every:
        cure = "set evaluate_every: 1, or leave stop out"
        yield Mistake(("estimator", "stop"), f"there are no errors to judge by: {cure}")
    for i, one in _sources(recipe):
        if objective.TABLE[one.kind].objective.measured or (one.kind == "function" and not one.cheap):
            text = f"{one.name!r} is not known before a training's end, and stop ends it earlier"
            yield Mistake(("objectives", i), f"{text}: leave estimator.stop out, or this objective")


def _narrow_without_channels(recipe: Recipe) -> Iterator[Mistake]:
    """Width is of layers' channels; and narrow weights fit no whole network."""
    width, place = getattr(recipe.estimator, "width", 1.0), ("estimator", "width")
    if width < 1 and recipe.encoding.kind != "dag":
        text = f"{width:g} narrows layer graphs, encoding is {recipe.encoding.kind!r}"
        yield Mistake(place, f"{text}: set encoding.kind: dag, or width: 1")
    if width < 1 and estimate.inherits(recipe.estimator):
        yield Mistake(place, f"{width:g} leaves no weights to inherit: set width: 1, or inherit: none")


def _no_fidelity(recipe: Recipe) -> Iterator[Mistake]:
    """Strategies that look at several fidelities need an estimator that has them, and fidelities that there are."""
    levels: Sequence[float] = getattr(recipe.strategy, "levels", ())
    if levels and isinstance(recipe.task, task.TabularSettings):
        yield from _not_looked_up(recipe, levels)
    elif levels and isinstance(recipe.estimator, estimate.TrainSettings):
        yield from _not_trained(recipe, levels)
    elif levels and not isinstance(recipe.estimator, Imported):
        text = f"{recipe.strategy.kind!r} asks for fidelities, estimator {recipe.estimator.kind!r} has none"
        yield Mistake(("strategy", "kind"), f"{text}: set estimator.kind: train")


def _not_looked_up(recipe: Recipe, levels: Sequence[float]) -> Iterator[Mistake]:
    known = sorted({at for one in recipe.task.metrics.values() for at in one.fidelities})
    resource, lost = recipe.strategy.resource, [at for at in levels if at not in known]
    if resource != "epochs" or lost:
        what = f"{lost[0]:g} epochs" if resource == "epochs" else resource
        rungs = f"set resource: epochs and rungs: [{', '.join(map(str, known))}]"
        cure = rungs if len(known) > 1 else "take another strategy"
        yield Mistake(("strategy", "kind"), f"{what} is no fidelity of the task's table: {cure}")


def _not_trained(recipe: Recipe, levels: Sequence[float]) -> Iterator[Mistake]:
    resource, place = recipe.strategy.resource, ("strategy", "resource")
    if resource in ("resolution", "width") and estimate.inherits(recipe.estimator):
        text = f"{resource!r} changes the shapes of weights, which are inherited"
        yield Mistake(place, f"{text}: set estimator.inherit: none, or resource: epochs")
    if resource == "width" and recipe.encoding.kind != "dag":
        text = f"'width' narrows layer graphs, encoding is {recipe.encoding.kind!r}"
        yield Mistake(place, f"{text}: set resource: epochs")
    if resource == "share" and max(levels) > recipe.estimator.share:
        text = f"{max(levels):g} is more than estimator.share {recipe.estimator.share:g}"
        yield Mistake(("strategy", "max"), f"{text}: lower max, or raise that")


def _initial_too_many(recipe: Recipe) -> Iterator[Mistake]:
    genomes = len(getattr(recipe.encoding, "initial", ()))
    population = getattr(recipe.strategy, "population", genomes)
    if genomes > population:
        cure = "raise strategy.population or start from fewer"
        yield Mistake(("encoding", "initial"), f"{genomes} genomes do not fit a population of {population}: {cure}")


def _one_objective(recipe: Recipe) -> Iterator[Mistake]:
    """Reference directions lie between objectives."""
    if isinstance(recipe.strategy, strategy.Nsga3Settings) and len(recipe.objectives) < 2:
        cure = "add one, or set strategy.kind: mu_plus_lambda"
        yield Mistake(("objectives",), f"strategy 'nsga3' needs two objectives or more: {cure}")


def _nothing_cheap(recipe: Recipe) -> Iterator[Mistake]:
    """LEMONADE looks at the cheap objectives before it trains."""
    if isinstance(recipe.strategy, strategy.LemonadeSettings) and not any(map(objective.is_cheap, recipe.objectives)):
        known = ", ".join(name for name, one in objective.TABLE.items() if one.of_plan is not None)
        cure = f"add one of {known}, or a function with `cheap: true`; or set strategy.kind: nsga2"
        yield Mistake(("objectives",), f"strategy 'lemonade' needs an objective that takes no training: {cure}")


def _own_code_absent(room: str) -> Callable[[Recipe], Iterator[Mistake]]:
    def broken(recipe: Recipe) -> Iterator[Mistake]:
        settings = getattr(recipe, room)
        if isinstance(settings, Imported):
            try:
                imported.check(settings.kind)
            except RecipeError as error:
                yield Mistake((room, "kind"), str(error))

    return broken


def _pool_absent(recipe: Recipe) -> Iterator[Mistake]:
    try:
        pool.check(recipe.pool)
    except RecipeError as error:
        yield Mistake(("pool", "kind"), str(error))


_ROOMS = ("task", "encoding", "strategy", "estimator", "pool")
_HERE = (
    *(Rule(frozenset({room}), _own_code_absent(room)) for room in _ROOMS),
    Rule(frozenset({"objectives"}), _objectives_absent),
    Rule(frozenset({"pool"}), _pool_absent),
)
"""What must be here for a recipe to be run."""

_KEPT = (
    Rule(frozenset({"objectives"}), _names_twice),
    Rule(frozenset({"task", "objectives", "estimator"}), _untrained_objectives),
    Rule(frozenset({"task", "objectives", "estimator"}), _recorded_by_none),
    Rule(frozenset({"task", "estimator"}), _no_table),
    Rule(frozenset({"task", "estimator", "budget"}), _uncounted),
    Rule(frozenset({"encoding", "strategy"}), _faceless),
    Rule(frozenset({"strategy", "estimator"}), _no_window),
    Rule(frozenset({"task", "encoding", "estimator"}), _no_whole_population),
    Rule(frozenset({"encoding", "estimator", "final"}), _nothing_to_inherit),
    Rule(frozenset({"strategy", "estimator"}), _nothing_to_continue),
    Rule(frozenset({"objectives", "estimator"}), _nothing_to_stop_by),
    Rule(frozenset({"encoding", "estimator"}), _narrow_without_channels),
    Rule(frozenset({"task", "encoding", "strategy", "estimator"}), _no_fidelity),
    Rule(frozenset({"encoding", "strategy"}), _initial_too_many),
    Rule(frozenset({"objectives", "strategy"}), _nothing_cheap),
    Rule(frozenset({"objectives", "strategy"}), _one_objective),
)
RULES = (*_HERE, *_KEPT)


# ------------------------------------------------------------------------------------------------ writing, comparing


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `read` gives an equal recipe back."""
    return yaml.dump(recipe.model_dump(mode="json"))


def schema() -> dict[str, Any]:
    """The JSON schema of recipes, for editors; every key with its description."""
    written = Recipe.model_json_schema()
    by_title = {part["title"]: part for part in (written, *written["$defs"].values()) if "title" in part}
    for model in models(Recipe):
        for name, text in descriptions(model).items():
            by_title[model.__name__]["properties"][name]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **written}


def differing(a: Recipe, b: Recipe) -> list[tuple[str, Json, Json]]:
    """Where two recipes differ, as (dotted path, value in `a`, value in `b`); the run's name is no difference."""
    left, right = (_flat(one.model_dump(mode="json", exclude={"name"})) for one in (a, b))
    paths = dict.fromkeys((*left, *right))
    return [(path, left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)]


def _flat(value: Json, path: str = "") -> dict[str, Json]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items or not value:
        return {path: value}
    flat: dict[str, Json] = {}
    for key, inner in items:
        flat |= _flat(inner, f"{path}.{key}" if path else str(key))
    return flat


def resumable(path: str) -> bool:
    """Whether a resume may change the value at a dotted path."""
    return any(path == one or path.startswith(f"{one}.") for one in RESUMABLE)


# ----------------------------------------------------------------------------------------------- a recipe to start from

_STARTER = """\
# A search with evonas. Check it: evonas check {file}   Run it: evonas run {file}
# Only task and objectives are needed; every other key has a default. All keys and their ranges: evonas schema
version: 1
name: {name}
seed: 0  # names every random stream: the same recipe and seed give the same run

# What is to be solved. {about}
# Other kinds: {tasks}
task:
{task}

# The search space. dag: graphs of layers of any depth and branching. Kinds: {encodings}
encoding:
  kind: dag
  ops: [conv, separable, max_pool, avg_pool, identity, dense, dropout]  # what new layers may be
  channels: [8, 16, 24, 32, 48, 64]  # filters and units to draw from
  # mutations: morphisms  # edits that keep the function, exactly or nearly: for estimator.inherit
  bounds: {{params: 200k, depth: 20}}  # networks beyond them are never trained
  initial: []  # genomes to begin with: names of `evonas zoo`, files, run:NAME, or file.py:module

# What is minimised or maximised. Names: {objectives}
# A constraint: {{name: params, max: 100k}}. Your own: {{name: mine, function: my_file.py:my_function}}
objectives: [{goals}]

# Who is born next. nsga2: Pareto ranks and crowding (Deb et al. 2002). random: the baseline. Kinds: {strategies}
strategy:
  kind: nsga2
  population: 16
  generations: 10  # go on later with: evonas resume {name} --generations +10

# What the run may spend beside that: {{evaluations: 200}}, {{epochs: 1000}} or {{seconds: 3600}} of training.
budget: {{}}

# How good a network is. train: trained from scratch, scored on the validation rows. Kinds: {estimators}
estimator:
  kind: train
  epochs: 8
  # inherit: {{epochs: 1}}  # children begin with their parents' weights; strategy lemonade is made for that
  # stop: {{}}  # ends trainings early that look hopeless beside those of earlier generations
  batch_size: 64
  optimizer: {{kind: adamw, lr: 0.003}}  # or sgd
  schedule: {{kind: cosine, warmup: 1}}  # or constant, warm_restarts
  time_limit: 600  # seconds; a network that takes longer counts as failed

# Where networks are trained. processes: on this machine, a crash fails one network only. Kinds: {pools}
pool:
  kind: processes
  workers: auto

# The last training by `evonas test`, which touches the test rows once; the rest is as in estimator.
final:
  epochs: 30

# What the run folder keeps: weights of the front and the population, or of all.
store:
  keep_weights: front

# Who else is told the run's numbers: tensorboard (evonas[tensorboard]), mlflow (evonas[mlflow]).
tracking: []
"""

_NEAT_STARTER = """\
# Neuroevolution with evonas. Check it: evonas check {file}   Run it: evonas run {file}
# Only task, encoding.kind, objectives, strategy.kind and estimator.kind are needed; all keys: evonas schema
version: 1
name: {name}
seed: 0  # names every random stream: the same recipe and seed give the same run

# What is to be solved. {about}
# Other kinds: {tasks}
task:
{task}

# The search space. neat: networks of single nodes and links that grow from few (Stanley and Miikkulainen 2002).
# Kinds: {encodings}
encoding:
  kind: neat
  feed_forward: true  # false allows cycles: networks with a memory
  initial_connection: full  # or none, fraction, single
  activation: {{default: sigmoid, options: [sigmoid]}}  # add tanh, relu, sin, gauss ... to choose from
  structure: {{add_node: 0.03, add_link: 0.1, remove_node: 0.01, remove_link: 0.03}}  # probabilities per child

# What is maximised or minimised; add links or hidden with strategy.kind nsga2 to trade size for fitness.
objectives: [fitness]

# Who is born next. neat: species that share their fitness. Kinds: {strategies}
strategy:
  kind: neat
  population: 150
  generations: 100  # go on later with: evonas resume {name} --generations +50
  goal: {{}}  # such as {{fitness: 3.9}}: the run ends when an individual reaches it
  speciation: {{threshold: 3.0, target: 8}}  # the threshold is steered towards so many species

# What the run may spend beside that, such as {{evaluations: 10k}}.
budget: {{}}

# How good a network is. population: a whole generation as one compiled program. Kinds: {estimators}
estimator:
  kind: population

# What the run folder keeps: the front and the species' champions, or all individuals.
store:
  individuals: champions

# Who else is told the run's numbers: tensorboard (evonas[tensorboard]), mlflow (evonas[mlflow]).
tracking: []
"""


_TABLE_STARTER = """\
# A search over a table of known networks. Check it: evonas check {file}   Run it: evonas run {file}
# All keys and their ranges: evonas schema   Many seeds and strategies at once: evonas study
version: 1
name: {name}
seed: 0  # names every random stream: the same recipe and seed give the same run

# What is to be solved. {about}
# Other kinds: {tasks}
task:
  kind: tabular
  file: table.npz  # arrays with a row per network, or a .csv with a header
  key: {{column: ops, words: [none, skip, conv_1x1, conv_3x3, avg_pool_3x3]}}  # what the numbers in it mean
  metrics:  # what the search sees; columns by epochs are fidelities
    error: {{column: {{12: valid_12, 200: valid_200}}, complement: 100}}
    params: params
  report: {{test: test_200}}  # what is told afterwards
  cost: {{column: train_seconds, epochs: 200}}  # the simulated clock

# The search space; it must give the choices that the key's numbers mean. Kinds: {encodings}
encoding: {{kind: cell, space: nasbench201}}

# What is minimised or maximised: names of task.metrics. Names with a meaning of their own: {objectives}
objectives: [{goals}]

# Who is born next. Kinds: {strategies}
strategy: {{kind: nsga2, population: 20, generations: 1000}}

# What the run may spend: evaluations, epochs, or seconds of the simulated clock.
budget: {{evaluations: 500}}

# How good a network is. lookup: as the table says, after so many epochs. Kinds: {estimators}
estimator: {{kind: lookup, epochs: 200}}

# Where that is done; a table needs no processes. Kinds: {pools}
pool: {{kind: serial}}

# Nothing is trained to the end: `evonas test` looks task.report up.
final: {{}}

# What the run folder keeps: all individuals.
store: {{}}

# Who else is told the run's numbers: tensorboard (evonas[tensorboard]), mlflow (evonas[mlflow]).
tracking: []
"""


def starter(kind: str, file: str = "recipe.yaml") -> str:
    """A commented recipe to start from, for a task of this kind. RecipeError for an unknown kind."""
    if kind not in task.TABLE:
        raise RecipeError(f"task {show(kind)} is not known; {nearest(kind, list(task.TABLE))}")
    settings = task.TABLE[kind]
    rooms = {"tasks": task, "encodings": encoding, "strategies": strategy, "estimators": estimate, "pools": pool}
    kinds = {word: ", ".join(room.TABLE) for word, room in rooms.items()}
    return _template(settings).format(
        file=file,
        name=kind,
        about=" ".join((settings.__doc__ or "").split()),
        task=_starting_task(kind, settings),
        objectives=", ".join(objective.names()),
        goals="error, params",
        **kinds,
    )


def _template(settings: type[Settings]) -> str:
    if issubclass(settings, task.TabularSettings):
        return _TABLE_STARTER
    return _STARTER if issubclass(settings, task.TaskSettings) else _NEAT_STARTER


def _starting_task(kind: str, settings: type[Settings]) -> str:
    """The lines of a task's section: its kind, what it cannot do without, and how it is divided."""
    lines = [f"  kind: {kind}"]
    about = descriptions(settings)
    for name, one in settings.model_fields.items():
        if one.is_required():
            value = _PLACEHOLDERS.get(name, "data")
            lines.append(f"  {name}: {value}  # {about.get(name, '')}")
    if "validation" in settings.model_fields:
        default = settings.model_fields["validation"].default
        lines.append(f"  validation: {default}  # rows kept apart to score networks during the search")
    return "\n".join(lines)


_PLACEHOLDERS = {
    "file": "data.csv", "x": "x.npy", "y": "y.npy", "function": "my_file.py:my_function", "inputs": 4, "outputs": 2,
    "environment": "LunarLander-v3",
}  # fmt: skip
"""What to write for a key that only the user knows."""
