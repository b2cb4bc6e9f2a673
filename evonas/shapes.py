"""What the rows of a run's database hold, once their JSON is read: a hash says that a row is as it was written, and not
by whom. Every function gives what it was given, or raises DataError where nothing of evonas could have written it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn, TypeVar

from evonas.core import DataError, Json

T = TypeVar("T")

_MOST = 2**63
_SHA = re.compile(r"[0-9a-f]{64}")
_LONE = re.compile("[\ud800-\udfff]")


def _refuse(value: object, what: str) -> NoReturn:
    shown = ascii(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise DataError(f"the run's database holds {shown} for {what}: evonas did not write that, get the run anew")


def count(value: Any, what: str) -> int:
    """A whole number from 0 to 2**63 - 1, such as an id."""
    return value if type(value) is int and 0 <= value < _MOST else _refuse(value, what)


def number(value: Any, what: str) -> float:
    """A finite number that a float can hold."""
    if type(value) is float and math.isfinite(value):
        return value
    return value if type(value) is int and -_MOST < value < _MOST else _refuse(value, what)


def text(value: Any, what: str) -> str:
    """Text that can be encoded."""
    return value if type(value) is str and not _LONE.search(value) else _refuse(value, what)


def mapping(value: Any, what: str) -> dict[str, Json]:
    """A mapping from names that can be encoded."""
    if type(value) is not dict:
        _refuse(value, what)
    names = "".join(value)
    return value if names.isascii() or not _LONE.search(names) else _refuse(value, what)


def listed(value: Any, what: str) -> list[Json]:
    """A list."""
    return value if type(value) is list else _refuse(value, what)


def numbers(value: Any, what: str) -> dict[str, float]:
    """Numbers by name."""
    told = mapping(value, what)
    for one in told.values():
        if type(one) is not float:  # one that was read from JSON is finite
            number(one, what)
    return told


def curve(value: Any) -> tuple[dict[str, float], ...]:
    """A learning curve."""
    return tuple([numbers(point, "a learning curve") for point in listed(value, "a learning curve")])


def ids(value: Any, what: str) -> list[int]:
    """Ids, or marks."""
    for one in listed(value, what):
        count(one, what)
    return value  # type: ignore[no-any-return]


def optional(check: Callable[[Any, str], T], value: Any, what: str) -> T | None:
    """What passes a check, or None."""
    return None if value is None else check(value, what)


def sha(value: Any) -> str | None:
    """The name of a weights file, or None."""
    named = optional(text, value, "a weights file")
    return named if named is None or _SHA.fullmatch(named) else _refuse(named, "a weights file")


def status(value: Any) -> Any:
    """How it stands with an estimate."""
    return value if value in ("ok", "failed", "pruned") else _refuse(value, "the status of an estimate")


def edits(value: Any) -> list[dict[str, Json]]:
    """The edits that made an individual."""
    for one in listed(value, "edits"):
        told = mapping(one, "an edit")
        text(told.get("op"), "an edit's op")
        mapping(told.get("args"), "an edit's args")
        ids(told.get("where"), "an edit's where")
        ids(told.get("made"), "an edit's made")
    return value  # type: ignore[no-any-return]


def species(value: Any) -> list[dict[str, Json]]:
    """The species after a generation."""
    for one in listed(value, "species"):
        told = mapping(one, "a species")
        for name in ("species", "size", "representative", "born", "improved"):
            count(told.get(name), f"a species' {name}")
        optional(number, told.get("best", ""), "a species' best")
        optional(count, told.get("champion"), "a species' champion")
        ids(told.get("members"), "a species' members")
    return value  # type: ignore[no-any-return]


def statistics(value: Any) -> dict[str, Json]:
    """What is stored about a generation: of what is there, everything is what it should be."""
    told = mapping(value, "a generation's statistics")
    for name, check in _STATISTICS.items():
        if name in told:
            check(told[name], f"a generation's {name}")
    return told


def _ledger(value: Any, what: str) -> None:
    for one in mapping(value, what).values():
        optional(number, one, what)


def _spread(value: Any, what: str) -> None:
    for one in mapping(value, what).values():
        for key in ("mean", "deviation"):
            number(numbers(one, what).get(key), what)


def _promoted(value: Any, what: str) -> None:
    for one in listed(value, what):
        told = mapping(one, what)
        text(told.get("low"), what)
        text(told.get("high"), what)
        for pair in listed(told.get("losses"), what):
            if len(listed(pair, what)) != 2:
                _refuse(pair, what)
            for loss in pair:
                number(loss, what)


_STATISTICS: Mapping[str, Callable[[Any, str], Any]] = {
    "best": numbers, "failed": count, "species": count, "engine_seconds": number, "inheritance": _ledger,
    "stopping": _ledger, "spread": _spread, "promoted": _promoted,
    "solved": lambda value, what: optional(count, value, what),
}  # fmt: skip


def ledger(value: Any, tables: Collection[str]) -> dict[str, Json]:
    """The counts of commits and rows."""
    told = mapping(value, "the ledger")
    if told.keys() != {"commits", "generation", "tables"} or mapping(told["tables"], "the ledger").keys() != {*tables}:
        _refuse(value, "the ledger")
    count(told["commits"], "the ledger")
    optional(count, told["generation"], "the ledger")
    for sums in told["tables"].values():
        if [type(one) for one in listed(sums, "the ledger")] != [int] * 3:
            _refuse(sums, "the ledger")
    return told


def meta(value: Mapping[str, Any]) -> None:
    """What a run says of itself, as far as it is there: its format, its recipe, and what it was started with."""
    form = mapping(value.get("format"), "the format")
    count(form.get("format"), "the format")
    text(form.get("since"), "the format")
    for name in value.keys() - {"format"}:
        mapping(value[name], name)
    recipe, about = value.get("recipe", {}), value.get("about", {})
    for name in ("task", "encoding", "strategy"):
        if name in recipe:
            text(mapping(recipe[name], f"the recipe's {name}").get("kind", ""), f"the recipe's {name}")
    if "generations" in recipe.get("strategy", {}):
        count(recipe["strategy"]["generations"], "the recipe's strategy.generations")
    if "task" in about:
        _task(mapping(about["task"], "the task"))
    for name in about.keys() - {"task"}:
        if type(about[name]) in (dict, list):
            _refuse(about[name], name)


def shape_of(about: Mapping[str, Any]) -> tuple[tuple[int, ...], int]:
    """The input's shape and the number of outputs of a run's task."""
    told = mapping(about.get("task"), "the task")
    return tuple(ids(told.get("input"), "the task's input")), count(told.get("outputs"), "the task's outputs")


def _task(about: Mapping[str, Any]) -> None:
    for side in ids(about.get("input", []), "the task's input"):
        number(side, "the task's input")
    count(about.get("outputs", 0), "the task's outputs")
    for name in listed(about.get("labels", []), "the task's labels"):
        text(name, "the task's labels")
