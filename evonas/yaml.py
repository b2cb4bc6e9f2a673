"""YAML 1.2 as plain data that knows its line numbers; hostile text is refused with a line, a column and a reason."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import Event
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from evonas.core import Json, RecipeError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_DIGITS = 100
MAX_VALUES = 20_000
"""More values than a file of MAX_BYTES can spell out: only aliases of aliases reach it."""

Place = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """A value that YAML can write but a recipe cannot hold."""

    place: Place
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed text: its value, the line (from 1) of every key and list item, and what is wrong with single values."""

    data: Json
    lines: Mapping[Place, int] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()


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
    try:
        _check_depth(text)
        node = _yaml().compose(text)
    except MarkedYAMLError as error:
        raise _located(error) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        raise YamlSyntaxError(f"character {_code(error.character)} is not allowed in YAML", line, column) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise YamlSyntaxError(" ".join(str(error).split())[:200]) from None
    reader = _Reader()
    data = None if node is None else reader.read(node, ())
    return Document(data, reader.lines, tuple(reader.flaws))


def scalar(text: str) -> Json:
    """The value of a short YAML text such as `20`, `1e-3`, `true` or `[a, b]`; RecipeError if it is none."""
    document = parse(text)
    if document.flaws:
        raise RecipeError(document.flaws[0].text)
    return document.data


def dump(data: Json) -> str:
    """Plain data as YAML 1.2 in the order of its keys; `parse` gives the same data back."""
    yaml = YAML(typ="rt", pure=True)
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 4096
    yaml.representer.ignore_aliases = lambda _: True
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    buffer = io.StringIO()
    yaml.dump(data, buffer)
    return buffer.getvalue()


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _check_depth(text: str) -> None:
    depth = 0
    for event in _yaml().parse(text):
        name = type(event).__name__
        depth += name.endswith("StartEvent") - name.endswith("EndEvent")
        if depth > MAX_DEPTH:
            raise _deep(event)


def _deep(event: Event) -> YamlSyntaxError:
    mark = event.start_mark
    return YamlSyntaxError(f"nested more than {MAX_DEPTH} levels deep", mark.line + 1, mark.column + 1)


def _located(error: MarkedYAMLError) -> YamlSyntaxError:
    """ruamel's many lines as one: what it was reading, and what it met."""
    mark = error.problem_mark or error.context_mark
    text = ", ".join(part for part in (error.context, error.problem) if part)
    if mark is None:
        return YamlSyntaxError(text)
    return YamlSyntaxError(text, mark.line + 1, mark.column + 1)


def _code(character: Any) -> str:
    return f"U+{ord(character) if isinstance(character, str) else int(character):04X}"


class _Reader:
    """Turns nodes into plain data, noting the lines and the flaws on the way."""

    def __init__(self) -> None:
        self.lines: dict[Place, int] = {}
        self.flaws: list[Flaw] = []
        self.values = 0
        self.construct = _yaml().constructor

    def read(self, node: Node, place: Place) -> Json:
        self.values += 1
        line = node.start_mark.line + 1
        if self.values > MAX_VALUES or len(place) > MAX_DEPTH:
            raise YamlSyntaxError("its aliases expand without end: write the values out", line)
        self.lines.setdefault(place, line)
        if isinstance(node, MappingNode):
            return self._mapping(node, place)
        if isinstance(node, SequenceNode):
            return [self.read(item, (*place, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, place, line)

    def _mapping(self, node: MappingNode, place: Place) -> Json:
        data: dict[str, Json] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                self.flaws.append(Flaw(place, line, "a key must be a word, not a list or a section"))
                continue
            key = str(key_node.value)
            inner = (*place, key)
            if key in data:
                self.flaws.append(Flaw(inner, line, f"written twice, first in line {self.lines[inner]}: keep one"))
                continue
            self.lines[inner] = line
            data[key] = self.read(value_node, inner)
        return data

    def _scalar(self, node: Node, place: Place, line: int) -> Json:
        kind = node.tag.removeprefix("tag:yaml.org,2002:") if node.tag else "str"
        text = str(node.value)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return bool(self.construct.construct_yaml_bool(node))
            if kind == "int":
                return self._integer(node, text)
            if kind == "float":
                return self._finite(float(self.construct.construct_yaml_float(node)), text)
            if kind in ("str", "timestamp"):
                return text
        except ValueError as error:
            self.flaws.append(Flaw(place, line, str(error)))
            return None
        self.flaws.append(Flaw(place, line, f"the tag {node.tag!r} is not allowed: write plain values"))
        return None

    def _integer(self, node: Node, text: str) -> int:
        if len(text) > MAX_DIGITS:
            raise ValueError(f"{text[:12]}... is not allowed: a whole number of more than {MAX_DIGITS} digits")
        return int(self.construct.construct_yaml_int(node))

    def _finite(self, number: float, text: str) -> float:
        if not math.isfinite(number):
            raise ValueError(f"{text} is not allowed: must be a finite number")
        return number
