"""Sections that choose their settings by `kind`, and everything that is wrong with a mapping, in words.

pydantic finds all mistakes at once; each becomes one line here, with place, value, range and the nearest known word."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from evonas.core import Json, Settings, nearest
from evonas.imported import Imported

Place = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top."""

_IMPORT = "package.module:object"


@dataclass(frozen=True)
class Section:
    """Marks a field whose `kind` picks its settings from a room's table; `default` is the kind where none is said.

    With `imports` the kind may also be a user's own object, `package.module:object`, with these settings."""

    table: Mapping[str, type[Settings]]
    default: str | None = None
    imports: type[Imported] | None = None

    def kind(self, value: Any) -> str | None:
        """The kind that a section's value asks for, or None where it says none."""
        if isinstance(value, BaseModel):
            return self._branch(str(getattr(value, "kind", "")))
        if not isinstance(value, Mapping):
            return None
        kind = value.get("kind", self.default)
        return self._branch(kind) if isinstance(kind, str) else None if kind is None else repr(kind)

    def _branch(self, kind: str) -> str:
        return _IMPORT if self.imports and ":" in kind else kind

    def model(self, value: Any) -> type[Settings] | None:
        """The settings class for a section's value, or None for an unknown kind."""
        kind = self.kind(value)
        return self.imports if kind == _IMPORT else self.table.get(kind or "")

    def models(self) -> list[type[Settings]]:
        """All that a section may hold."""
        return [*self.table.values(), *([self.imports] if self.imports else [])]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {kind: handler.generate_schema(model) for kind, model in self.table.items()}
        if self.imports:
            choices[_IMPORT] = handler.generate_schema(self.imports)
        return core_schema.tagged_union_schema(choices, discriminator=self.kind)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # a section may leave its kind out, and then several branches may fit: editors must not call that an error
        written = handler(schema)
        return {"anyOf": written["oneOf"]} if "oneOf" in written else written


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong: where, and what in one line."""

    place: Place
    text: str
    line: int | None = None


# --------------------------------------------------------------------------------------------- finding the mistakes


def mistakes(root: type[BaseModel], raw: Mapping[str, Json]) -> list[Mistake]:
    """Everything in `raw` that `root` refuses, in the order of the places; empty if it is valid."""
    found = list(_wrong_booleans(root, raw))
    unknown: list[Place] = []
    for _ in range(2):
        # a section with an unknown key never reaches its own rules: once more without such keys
        try:
            root.model_validate(_without(raw, unknown))
        except ValidationError as error:
            errors = error.errors(include_url=False)
            found += _explained(root, raw, errors, {mistake.place for mistake in found})
            unknown = [_place(one, raw) for one in errors if one["type"] == "extra_forbidden"]
        if not unknown:
            break
    return found


def _without(value: Json, places: Sequence[Place]) -> Json:
    """A copy without the keys at some places."""
    if not places:
        return value
    inner = {
        key: [place[1:] for place in places if place[0] == key and len(place) > 1] for key in {p[0] for p in places}
    }
    if isinstance(value, Mapping):
        gone = {place[0] for place in places if len(place) == 1}
        return {key: _without(one, inner.get(key, ())) for key, one in value.items() if key not in gone}
    return [_without(one, inner.get(i, ())) for i, one in enumerate(value)]


def _explained(
    root: type[BaseModel], raw: Mapping[str, Json], errors: Sequence[ErrorDetails], known: set[Place]
) -> Iterator[Mistake]:
    """One mistake per place: the branches of a union that a value might have been meant for are told together."""
    groups: dict[Place, list[ErrorDetails]] = {}
    for error in errors:
        groups.setdefault(_place(error, raw), []).append(error)
    for place, group in groups.items():
        deeper = any(len(other) > len(place) and other[: len(place)] == place for other in groups)
        if deeper:
            # a section that fits no branch: its own keys say why, the other branches' "must be text" would mislead;
            # pydantic also calls a list too short whose items are wrong
            group = [error for error in group if not error["type"].endswith(("_type", "literal_error", "too_short"))]
        mistake = _told(root, raw, place, group) if group else None
        if mistake is not None and mistake.place not in known:
            yield mistake


def _place(error: ErrorDetails, raw: Json) -> Place:
    """pydantic's location without the names of union branches, which are no keys."""
    place: list[str | int] = []
    here = raw
    for depth, part in enumerate(error["loc"]):
        held = part in here if isinstance(here, Mapping) else isinstance(part, int) and _has(here, part)
        if held:
            here = here[part]
        elif not (error["type"] == "missing" and depth == len(error["loc"]) - 1):
            continue
        place.append(part)
    return tuple(place)


def _has(value: Json, position: int) -> bool:
    return isinstance(value, (list, tuple)) and 0 <= position < len(value)


def _told(root: type[BaseModel], raw: Mapping[str, Json], place: Place, group: Sequence[ErrorDetails]) -> Mistake:
    first, value, entry = group[0], _at(raw, place), entry_at(root, raw, place)
    field = entry.field if entry else None
    kind = first["type"]
    if kind == "missing":
        few = isinstance(place[-1], int)
        return Mistake(place, "missing: the list is too short" if few else f"missing{_described(entry)}")
    if kind == "extra_forbidden":
        return Mistake(place, f"not known; {nearest(str(place[-1]), _known(root, raw, place[:-1]))}")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_kind(section_of(field), place, value)
    if kind in ("value_error", "assertion_error"):
        return Mistake(place, _refused(value, str(first.get("ctx", {}).get("error", first["msg"]))))
    if kind == "string_pattern_mismatch" and entry is not None and entry.description:
        return Mistake(place, f"{show(value)} is not allowed{_described(entry)}")
    if all(error["type"] == "literal_error" for error in group):
        options = [option for error in group for option in _options(error)]
        return Mistake(place, f"{show(value)} is not known; {nearest(str(value), options)}")
    needs = sorted({_needed(error, field) for error in group}, key=lambda need: (not need.startswith("'"), need))
    return Mistake(place, f"{show(value)} is not allowed: must be {' or '.join(needs)}")


def _refused(value: Json, why: str) -> str:
    """A validator's own words, with the value in front where they lack it."""
    told = isinstance(value, (Mapping, list, tuple)) or value is None or str(value) in why
    return why if told else f"{show(value)} is not allowed: {why}"


def _wrong_kind(section: Section | None, place: Place, value: Json) -> Mistake:
    known = list(section.table) if section else []
    if not isinstance(value, Mapping):
        return Mistake(place, f"{show(value)} is not allowed: must be a section such as {{kind: {known[0]}}}")
    place = (*place, "kind")
    if value.get("kind") is None:
        return Mistake(place, f"missing; known: {', '.join(known)}")
    return Mistake(place, f"{show(value['kind'])} is not known; {nearest(str(value['kind']), known)}")


def _wrong_booleans(root: type[BaseModel], raw: Mapping[str, Json]) -> Iterator[Mistake]:
    """`true` where a number belongs: pydantic would read it as 1."""
    for place, value in _leaves(raw):
        entry = entry_at(root, raw, place) if isinstance(value, bool) else None
        if entry is None:
            continue
        types = set(_types(entry.field.annotation))
        if types & {int, float} and not types & {bool, Any}:
            word = "a number" if float in types else "a whole number"
            yield Mistake(place, f"{show(value)} is not allowed: must be {word}{_bounded(entry.field)}")


def _leaves(value: Json, place: Place = ()) -> Iterator[tuple[Place, Json]]:
    items: Iterable[tuple[Any, Json]] = ()
    if value is None or isinstance(value, (str, int, float)):
        yield place, value
    elif isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield place, value
    for key, inner in items:
        yield from _leaves(inner, (*place, key))


# ------------------------------------------------------------------------------------------------ walking the models


@dataclass(frozen=True)
class Entry:
    """A field with the model and the name it has there."""

    model: type[BaseModel]
    name: str

    @property
    def field(self) -> FieldInfo:
        return self.model.model_fields[self.name]

    @property
    def description(self) -> str:
        return descriptions(self.model).get(self.name, "")


def entry_at(root: type[BaseModel], raw: Json, place: Place) -> Entry | None:
    """The field that describes a place; a list's own for its items; None where no model knows the place."""
    holders: Sequence[type[BaseModel]] = (root,)
    entry, named = None, False
    for depth, part in enumerate(place):
        value = _at(raw, place[: depth + 1])
        if named:  # the key is a name of the user's own
            named = False
        elif isinstance(part, str):
            entry = next((Entry(model, part) for model in holders if part in model.model_fields), None)
            if entry is None:
                return None
            holders = _models(entry.field, value)
            named = bool(holders) and get_origin(entry.field.annotation) is dict
        holders = _fitting(holders, value)
    return entry


def _models(field: FieldInfo, value: Json) -> Sequence[type[BaseModel]]:
    section = section_of(field)
    if section is None:
        return [one for one in _types(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    model = section.model(value)
    return [] if model is None else [model]


def _fitting(holders: Sequence[type[BaseModel]], value: Json) -> Sequence[type[BaseModel]]:
    """Of several models those that a value's `kind` asks for; all where it names none."""
    kind = value.get("kind") if isinstance(value, Mapping) else None
    named = [one for one in holders if "kind" in one.model_fields and one.model_fields["kind"].default == kind]
    return named or holders


def models(root: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and all that its fields and tables lead to, each once."""
    seen, pending = set(), [root]
    while pending:
        model = pending.pop()
        if model in seen:
            continue
        seen.add(model)
        yield model
        for field in model.model_fields.values():
            section = section_of(field)
            pending += section.models() if section else _models(field, None)


@lru_cache(maxsize=256)
def descriptions(model: type[BaseModel]) -> Mapping[str, str]:
    """The attribute docstrings of a model and its bases by field, each in one line."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base.__module__.partition(".")[0] != "pydantic":
            body = _body(base)
            for line, after in pairwise(body):
                if (
                    isinstance(line, ast.AnnAssign)
                    and isinstance(line.target, ast.Name)
                    and isinstance(after, ast.Expr)
                ):
                    found[line.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return {name: text for name, text in found.items() if name in model.model_fields}


def _body(model: type[BaseModel]) -> list[ast.stmt]:
    """The statements of a class; none where its source is out of reach."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    except (OSError, TypeError, SyntaxError):
        return []
    return tree.body if isinstance(tree, ast.ClassDef) else []


def section_of(field: FieldInfo | None) -> Section | None:
    """The table of kinds that a field chooses from, None for other fields."""
    return next((one for one in field.metadata if isinstance(one, Section)), None) if field else None


def _types(annotation: Any) -> Iterator[Any]:
    """The plain types within an annotation: unions, lists and Annotated taken apart."""
    inner = get_args(annotation)
    if not inner or get_origin(annotation) is Literal:
        yield annotation
    for one in inner if get_origin(annotation) is not Literal else ():
        yield from _types(one)


def _known(root: type[BaseModel], raw: Json, place: Place) -> list[str]:
    """The keys that the section at `place` may hold."""
    if not place:
        return list(root.model_fields)
    entry, value = entry_at(root, raw, place), _at(raw, place)
    holders = _fitting(_models(entry.field, value), value) if entry else ()
    return list(dict.fromkeys(name for model in holders for name in model.model_fields))


def _at(raw: Json, place: Place) -> Json:
    for part in place:
        if isinstance(raw, Mapping):
            raw = raw.get(part)
        elif isinstance(part, int) and _has(raw, part):
            raw = raw[part]
        else:
            return None
    return raw


# ---------------------------------------------------------------------------------------------------- words for them

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a section",
    "mapping": "a section",
    "model": "a section",
    "none": "null",
}
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_LONGEST = 60


def show(value: Json) -> str:
    """A value as a recipe would write it, in one short line without control characters."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, (Mapping, list, tuple)):
        if not value:
            return "{}" if isinstance(value, Mapping) else "[]"
        return "a section" if isinstance(value, Mapping) else "a list"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def spelled(place: Place) -> str:
    """A place as `--set` writes it: `objectives.0.max`; control characters and endless keys made harmless."""
    parts = (str(part) for part in place)
    return ".".join((part if part.isprintable() else ascii(part)[1:-1])[:_LONGEST] for part in parts)


def _needed(error: ErrorDetails, field: FieldInfo | None) -> str:
    """What a value must be: `a whole number, at least 1`."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind in ("too_short", "too_long"):
        few = kind == "too_short"
        return f"a list of {'at least' if few else 'at most'} {context['min_length' if few else 'max_length']}"
    if kind in ("string_too_short", "string_too_long"):
        few = kind == "string_too_short"
        return f"text of {'at least' if few else 'at most'} {context['min_length' if few else 'max_length']} characters"
    if kind == "string_pattern_mismatch":
        return f"text like {context['pattern']}"
    word = _WORDS.get(kind.split("_")[0])
    if word is not None and kind != "multiple_of":
        return f"{word}{_bounded(field)}"
    return _bounds(field) or _bound(context) or error["msg"].removeprefix("Input should be ")


def _bounded(field: FieldInfo | None) -> str:
    bounds = _bounds(field)
    return f", {bounds}" if bounds else ""


def _bounds(field: FieldInfo | None) -> str:
    """A field's allowed range in words; empty where it has none, or several."""
    if field is None:
        return ""
    limits: dict[str, Any] = {}
    for constraint in (*field.metadata, *_constraints(field.annotation)):
        for name in _LIMITS:
            if hasattr(constraint, name):
                if limits.get(name, getattr(constraint, name)) != getattr(constraint, name):
                    return ""
                limits[name] = getattr(constraint, name)
    return _bound(limits)


def _constraints(annotation: Any) -> Iterator[Any]:
    """What Annotated says within an annotation."""
    if get_origin(annotation) is Annotated:
        for one in annotation.__metadata__:
            yield from one.metadata if isinstance(one, FieldInfo) else (one,)
    for one in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from _constraints(one)


def _bound(limits: Mapping[str, Any]) -> str:
    if "ge" in limits and "le" in limits:
        return f"from {limits['ge']} to {limits['le']}"
    return " and ".join(f"{word} {limits[name]}" for name, word in _LIMITS.items() if name in limits)


def _options(error: ErrorDetails) -> list[str]:
    return [option.strip("'") for option in re.split(r", | or ", str(error["ctx"]["expected"]))]


def _described(entry: Entry | None) -> str:
    """A field's own description after a missing key or a misshapen text."""
    text = entry.description if entry else ""
    return f": {text[0].lower()}{text[1:]}" if text else ""
