"""YAML 1.2 as plain data that knows its line numbers; hostile text is refused with a line, a column and a reason."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

from evonas import limits
from evonas.core import Json, RecipeError

MAX_BYTES, MAX_DEPTH, MAX_VALUES, MAX_DIGITS = (
    limits.RECIPE_BYTES, limits.RECIPE_DEPTH, limits.RECIPE_VALUES, limits.RECIPE_DIGITS,
)  # fmt: skip

Place = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """A value that YAML can write but a recipe cannot hold; null stands in its place."""

    place: Place
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed text: its value, the line (from 1) of every key and list item, and what is wrong with single values."""

    data: Json
    lines: Mapping[Place, int]
    flaws: tuple[Flaw, ...]


class YamlSyntaxError(RecipeError):
    """Text that is no YAML; `line` and `column` count from 1."""

    def __init__(self, text: str, line: int = 1, column: int = 1) -> None:
        super().__init__(text)
        self.line, self.column = line, column


def parse(text: str) -> Document:
    """Reads one YAML 1.2 document; duplicate keys, foreign tags and infinite numbers come back as flaws.

    Raises YamlSyntaxError for what is no YAML, or is larger, deeper or more aliased than a recipe needs to be."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise YamlSyntaxError(f"larger than {MAX_BYTES // 1024} KiB: name data and genomes by their files")
    yaml = YAML(typ="safe", pure=True)
    try:
        return _Reader(yaml, yaml.parse(text)).document()
    except MarkedYAMLError as error:
        raise _located(error) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        raise YamlSyntaxError(f"character {_code(error.character)} is not allowed in YAML", line, column) from None
    except (YAMLError, ValueError) as error:
        raise YamlSyntaxError(" ".join(str(error).split())[:200]) from None


def scalar(text: str) -> Json:
    """The value of a short YAML text such as `20`, `1e-3`, `true` or `[a, b]`; RecipeError if it is none."""
    document = parse(text)
    if document.flaws:
        raise RecipeError(document.flaws[0].text)
    return document.data


def dump(data: Json) -> str:
    """Plain data as YAML 1.2 in the order of its keys; `parse` gives the same data back.

    Written here because ruamel's emitter takes 40 ms for a recipe, as long as a whole search on a quick task."""
    if isinstance(data, Mapping | list) and data:
        return "\n".join(_lines(data)) + "\n"
    return _inline(data) + "\n"


def _lines(data: Json, indent: str = "") -> list[str]:
    """The lines of a mapping or list that is not empty; lists of scalars stand on one line."""
    lines: list[str] = []
    items = data.items() if isinstance(data, Mapping) else ((None, value) for value in data)
    for key, value in items:
        head = f"{indent}-" if key is None else f"{indent}{_inline(key)}:"
        if not _is_deep(value):
            lines.append(f"{head} {_inline(value)}")
            continue
        inner = _lines(value, indent + "  ")
        if key is None:  # the first line of an entry stands beside its dash
            inner[0] = f"{head} {inner[0].lstrip()}"
        else:
            lines.append(head)
        lines += inner
    return lines


def _is_deep(value: Json) -> bool:
    if value is None or isinstance(value, str | int | float):  # most are, and to ask for a mapping takes long
        return False
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list | tuple) and any(isinstance(one, Mapping | list | tuple) and one for one in value)


_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+-]*")
_RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def _inline(value: Json) -> str:
    if isinstance(value, str):
        return _word(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_inline, value))}]"
    if isinstance(value, Mapping):
        return "{}"
    return repr(value) if isinstance(value, float) else json.dumps(value)


@lru_cache(maxsize=1024)
def _word(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and text.lower() not in _RESERVED else _quoted(text)


def _quoted(text: str) -> str:
    """In double quotes, where everything unprintable is spelled out."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    code = ord(character)
    if character.isprintable() and code != 0xFEFF:
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _located(error: MarkedYAMLError) -> YamlSyntaxError:
    """ruamel's many lines as one: what it was reading, and what it met."""
    mark = error.problem_mark or error.context_mark
    text = ", ".join(part for part in (error.context, error.problem) if part)
    return YamlSyntaxError(text) if mark is None else YamlSyntaxError(text, mark.line + 1, mark.column + 1)


def _code(character: Any) -> str:
    return f"U+{ord(character) if isinstance(character, str) else int(character):04X}"


@dataclass(frozen=True, slots=True)
class _Anchored:
    """What an alias stands for, and how many values it holds."""

    data: Json
    values: int


class _Reader:
    """Builds plain data from YAML's events in one pass, noting lines and flaws on the way."""

    def __init__(self, yaml: YAML, events: Iterator[Any]) -> None:
        self.events, self.resolver, self.construct = events, yaml.resolver, yaml.constructor
        self.lines: dict[Place, int] = {}
        self.flaws: list[Flaw] = []
        self.anchors: dict[str, _Anchored] = {}
        self.values = self.depth = 0

    def document(self) -> Document:
        data, documents = None, 0
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _at(event, "a second document begins here: write one recipe a file")
                data = self.value(next(self.events), ())
        return Document(data, self.lines, tuple(self.flaws))

    def value(self, event: Any, place: Place) -> Json:
        """The value that an event begins, read to its end."""
        before, self.values = self.values, self.values + 1
        self.lines.setdefault(place, event.start_mark.line + 1)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _at(event, f"nested more than {MAX_DEPTH} levels deep")
        data = self._kinds[type(event)](self, event, place)
        self.depth -= 1
        if event.anchor is not None and not isinstance(event, AliasEvent):
            self.anchors[event.anchor] = _Anchored(data, self.values - before)
        return data

    def _alias(self, event: Any, _: Place) -> Json:
        known = self.anchors.get(event.anchor)
        if known is None:
            raise _at(event, f"the alias '*{event.anchor}' stands for nothing before it")
        self.values += known.values
        if self.values > MAX_VALUES:
            raise _at(event, "its aliases expand to too many values: write them out")
        return known.data

    def _sequence(self, _: Any, place: Place) -> Json:
        items: list[Json] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(self.value(event, (*place, len(items))))
        return items

    def _mapping(self, _: Any, place: Place) -> Json:
        data: dict[str, Json] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, ScalarEvent):
                self.flaws.append(Flaw(place, line, "a key must be a word, not a list or a section"))
                self._skip(event)
                continue
            inner = (*place, str(event.value))
            if inner[-1] in data:
                self.flaws.append(Flaw(inner, line, f"written twice, first in line {self.lines[inner]}: keep one"))
                self._skip()
                continue
            self.lines[inner] = line
            data[str(event.value)] = self.value(next(self.events), inner)
        return data

    def _skip(self, *events: Any) -> None:
        """Reads over values that cannot be kept, without a trace."""
        lines, flaws = dict(self.lines), list(self.flaws)
        for event in events:
            self.value(event, ())
        self.value(next(self.events), ())
        self.lines, self.flaws = lines, flaws

    def _scalar(self, event: Any, place: Place) -> Json:
        tag = str(event.tag or self.resolver.resolve(ScalarNode, event.value, event.implicit))
        node = ScalarNode(tag, event.value)
        kind, text = tag.removeprefix("tag:yaml.org,2002:"), str(event.value)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return bool(self.construct.construct_yaml_bool(node))
            if kind == "int":
                return self._integer(node, text)
            if kind == "float":
                return self._finite(node, text)
            if kind in ("str", "timestamp"):
                return text
            raise ValueError(f"the tag {tag!r} is not allowed: write plain values")
        except ValueError as error:
            self.flaws.append(Flaw(place, event.start_mark.line + 1, str(error)))
            return None

    def _integer(self, node: ScalarNode, text: str) -> int:
        if len(text) > MAX_DIGITS:
            raise ValueError(f"{text[:12]}... is not allowed: a whole number of more than {MAX_DIGITS} digits")
        return int(self.construct.construct_yaml_int(node))

    def _finite(self, node: ScalarNode, text: str) -> float:
        value = float(self.construct.construct_yaml_float(node))
        if not math.isfinite(value):
            raise ValueError(f"{text} is not allowed: must be a finite number")
        return value

    _kinds: ClassVar[Mapping[type[Any], Callable[[_Reader, Any, Place], Json]]] = {
        AliasEvent: _alias,
        MappingStartEvent: _mapping,
        ScalarEvent: _scalar,
        SequenceStartEvent: _sequence,
    }


def _at(event: Any, text: str) -> YamlSyntaxError:
    return YamlSyntaxError(text, event.start_mark.line + 1, event.start_mark.column + 1)
