"""A user's own code in a recipe: `package.module:object` or `file.py:object`, wherever a table entry may stand."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from evonas.core import RecipeError, Settings, nearest

PATH = r"^[^:\s]\S*:[A-Za-z_][\w.]*$"
"""What `package.module:object` and `file.py:object` look like."""


class Imported(Settings):
    """A user's own object in the place of a table entry, with settings that only it can check."""

    kind: str = Field(pattern=PATH)
    """Must be `package.module:object`, or `file.py:object` beside the recipe."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Whatever it takes."""


def is_path(text: str) -> bool:
    """Whether a text names an object of a module or a file."""
    return re.fullmatch(PATH, text) is not None


def check(path: str, who: str = "") -> None:
    """Raises RecipeError where the file or the package that an import path names is not there; imports nothing."""
    module, _, _ = path.rpartition(":")
    if module.endswith(".py"):
        if not Path(module).expanduser().is_file():
            raise RecipeError(f"{who}no file {module!r} in {Path.cwd()}: correct the path in {path!r}")
    elif importlib.util.find_spec(module.partition(".")[0]) is None:
        raise RecipeError(f"{who}no module {module.partition('.')[0]!r}: install it or correct {path!r}")


@lru_cache(maxsize=64)
def load(path: str) -> Any:
    """What `package.module:object` or `file.py:object` names. Raises RecipeError when there is none such."""
    where, _, name = path.rpartition(":")
    try:
        module = _module_of_file(Path(where).expanduser()) if where.endswith(".py") else importlib.import_module(where)
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, OSError, SyntaxError) as error:
        raise RecipeError(f"{path!r} cannot be imported: {type(error).__name__}: {error}") from error
    except AttributeError:
        public = [key for key in vars(module) if not key.startswith("_")]
        raise RecipeError(f"{where!r} has no {name!r}; {nearest(name, public or ['nothing'])}") from None
    if not callable(found):
        raise RecipeError(f"{path!r} is a {type(found).__name__}: name a function")
    return found


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
