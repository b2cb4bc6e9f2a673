"""Run folders of every format that was ever released, as SQL dumps written by the last evonas that wrote that format.

A new format gets a folder here before it is released; those that are there are never changed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

FOLDER = Path(__file__).parent / "samples"
NAMES = tuple(sorted(path.name for path in FOLDER.iterdir()))


def restored(name: str, runs: Path) -> Path:
    """A sample as the run folder that it was."""
    folder = runs / name
    (folder / "weights").mkdir(parents=True)
    for file in ("recipe.yaml", "tip"):
        shutil.copy(FOLDER / name / file, folder / file)
    db = sqlite3.connect(folder / "run.sqlite")
    db.executescript((FOLDER / name / "run.sql").read_text())
    db.close()
    return folder
