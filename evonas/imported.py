"""A user's own code in a recipe: `package.module:object` or `file.py:object`, wherever a table entry may stand.

Recipes and run folders come from strangers, too: nothing is imported before its path was granted, by `--allow-code`, by
`allow_code=True` or by EVONAS_ALLOW_CODE=1. Worker processes are told what their driver was granted."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from evonas.core import RecipeError, Settings, nearest

PATH = r"^[^:\s]\S*:[A-Za-z_][\w.]*$"
"""What `package.module:object` and `file.py:object` look like."""


ALLOW = "EVONAS_ALLOW_CODE"
"""The environment variable that grants every path where it is 1."""

_EVERY = "*"
_granted: set[str] = set()


class Imported(Settings):
    """A user's own object in the place of a table entry, with settings that only it can check."""

    kind: str = Field(pattern=PATH)
    """Must be `package.module:object`, or `file.py:object` beside the recipe."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Whatever it takes."""


def is_path(text: str) -> bool:
    """Whether a text names an object of a module or a file."""
    return re.fullmatch(PATH, text) is not None


def grant(paths: Iterable[str]) -> None:
    """Lets this process import what some paths name, from now on."""
    _granted.update(paths)


def granted() -> list[str]:
    """What this process may import, as its workers have to be told."""
    return sorted({*_granted, _EVERY} if os.environ.get(ALLOW) == "1" else _granted)


def is_granted(path: str) -> bool:
    """Whether this process may import what a path names."""
    return not _granted.isdisjoint((path, _EVERY)) or os.environ.get(ALLOW) == "1"


@contextmanager
def everything() -> Iterator[None]:
    """Lets this process import what any path names meanwhile: the user said `--allow-code`."""
    before = frozenset(_granted)
    _granted.add(_EVERY)
    try:
        yield
    finally:
        _granted.clear()
        _granted.update(before)


def refusal(path: str) -> str:
    """Why a path is not imported, and what allows it."""
    return (
        f"{path!r} is code of others, or a cluster that may send some, and would run here with your rights: if you "
        f"trust it, add --allow-code (in Python allow_code=True, or set {ALLOW}=1)"
    )


def check(path: str, who: str = "") -> None:
    """Raises RecipeError where the file or the package that an import path names is not there; imports nothing."""
    module, _, _ = path.rpartition(":")
    if module.endswith(".py"):
        if not _file(module).is_file():
            raise RecipeError(f"{who}no file {module!r} in {Path.cwd()}: correct the path in {path!r}")
    elif not _is_there(module.partition(".")[0]):
        raise RecipeError(f"{who}no module {module.partition('.')[0]!r}: install it or correct {path!r}")


def _file(module: str) -> Path:
    """The path of a file; `~` stays where there is no such user."""
    try:
        return Path(module).expanduser()
    except RuntimeError:
        return Path(module)


def _is_there(package: str) -> bool:
    try:
        return bool(package) and importlib.util.find_spec(package) is not None
    except ValueError:  # a module that was made by hand, such as __main__
        return package in sys.modules


def load(path: str) -> Any:
    """What `package.module:object` or `file.py:object` names, if that was granted. Raises RecipeError when it was not,
    and when there is none such."""
    if not is_granted(path):
        raise RecipeError(refusal(path))
    return found(path)


@lru_cache(maxsize=64)
def found(path: str) -> Any:
    """What a path that was granted names."""
    where, _, name = path.rpartition(":")
    try:
        module = _module_of_file(_file(where)) if where.endswith(".py") else importlib.import_module(where)
        named: Any = module
        for part in name.split("."):
            named = getattr(named, part)
    except (ImportError, OSError, SyntaxError) as error:
        raise RecipeError(f"{path!r} cannot be imported: {type(error).__name__}: {error}") from error
    except AttributeError:
        public = [key for key in vars(module) if not key.startswith("_")]
        raise RecipeError(f"{where!r} has no {name!r}; {nearest(name, public or ['nothing'])}") from None
    if not callable(named):
        raise RecipeError(f"{path!r} is a {type(named).__name__}: name a function")
    return named


def _module_of_file(path: Path) -> Any:
    """The file as a module; its folder is importable meanwhile, as for a script."""
    spec = importlib.util.spec_from_file_location(f"evonas_user_{path.stem}", path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _importable(path.resolve().parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
