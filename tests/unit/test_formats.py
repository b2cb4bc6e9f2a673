"""Run folders and genome files of older formats open and go on; newer ones are refused with the version they need."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import evonas
from evonas import store as store_module
from evonas import zoo
from evonas.core import DataError
from evonas.encoding import genes
from evonas.store import FORMAT, Store
from evonas.verify import verify
from tests.samples import NAMES, restored
from tests.unit.test_verify import image


def form(folder: Path) -> int:
    with Store.open(folder) as store:
        return int(store._meta["format"]["format"])


def test_there_is_a_sample_of_every_format() -> None:
    assert {int(name.split("-")[1]) for name in NAMES} == set(range(1, FORMAT + 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_opens_as_it_is_and_follows(tmp_path: Path, name: str) -> None:
    folder = restored(name, tmp_path)
    before = image(folder)
    with evonas.open(folder) as run:
        assert run.status == "finished" and run.front() and len(run.generations()) == 2
    found = verify(folder)
    assert found.sound and found.followed == 2, found.problems
    assert image(folder) == before, "reading changes nothing"


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_goes_on_to_the_same_front_as_a_run_of_today(tmp_path: Path, name: str) -> None:
    folder, number = restored(name, tmp_path), int(name.split("-")[1])
    old = (folder / "run.sqlite").read_bytes()
    grown = evonas.resume(folder, generations=5)
    today = evonas.start(grown.recipe, name="today", runs=tmp_path)
    assert [row.id for row in grown.front()] == [row.id for row in today.front()]
    assert grown.store.digest() == today.store.digest()
    assert verify(folder).sound and form(folder) == FORMAT
    backup = folder / f"run.format-{number}.sqlite"
    assert backup.exists() == (number < FORMAT)
    if number < FORMAT:
        _same_content(backup, old, tmp_path / "old.sqlite")


def _same_content(backup: Path, old: bytes, there: Path) -> None:
    there.write_bytes(old)
    dumps = []
    for path in (backup, there):
        db = sqlite3.connect(path)
        dumps.append(list(db.iterdump()))
        db.close()
    assert dumps[0] == dumps[1]


def test_a_migration_that_was_killed_is_made_again_over_its_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = restored("format-1", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_put_meta", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Store.open(folder, write=True)
    assert form(folder) == 1 and (folder / "run.format-1.sqlite").exists()
    evonas.resume(folder, generations=3)
    assert form(folder) == FORMAT and verify(folder).sound


def test_a_full_disk_during_the_backup_leaves_the_run_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = restored("format-1", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_back_up", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(evonas.core.StorageError, match="disk full"):
            Store.open(folder, write=True)
    assert form(folder) == 1 and verify(folder).sound


@pytest.mark.parametrize("number", [FORMAT + 1, 99])
def test_a_newer_run_folder_is_refused_with_the_version_it_needs(tmp_path: Path, number: int) -> None:
    folder = restored("format-2", tmp_path)
    row = ("format", f'{{"format":{number},"since":"9.1.0"}}')
    db = sqlite3.connect(folder / "run.sqlite")
    with db:
        db.execute(
            "UPDATE meta SET hash = ?, value = ? WHERE name = 'format'", (store_module._stamp("meta", row), row[1])
        )
    db.close()
    before = image(folder)
    for attempt in (lambda: evonas.open(folder), lambda: evonas.resume(folder), lambda: verify(folder)):
        with pytest.raises(DataError, match=rf"run format {number}.*up to {FORMAT}: install evonas 9\.1\.0 or newer"):
            attempt()
    assert {name: data for name, data in image(folder).items() if name != "lock"} == before


# ----------------------------------------------------------------------------------------------------- genome files

GENOMES: dict[str, dict[str, Any]] = {
    "dag": {"encoding": "dag", "format": 1, "layers": [], "edges": [[2, 0, 1]]},
    "cell": {"encoding": "cell", "format": 1, "cells": {"cell": [[130, 0, 1, "skip"]]}},
    "neat": {
        "encoding": "neat", "format": 1, "inputs": 1, "outputs": 1, "feed_forward": True, "nodes": [], "links": [],
    },
}  # fmt: skip
"""Genome files of format 1, the only one so far."""


@pytest.mark.parametrize("kind", GENOMES)
def test_a_newer_genome_is_refused(kind: str) -> None:
    from evonas.encoding import cell, population

    read = {"dag": genes.from_json, "cell": cell.read, "neat": population.from_json}[kind]
    for number in (2, 99, None, "1"):
        with pytest.raises(DataError, match=r"format .*evonas"):
            read({**GENOMES[kind], "format": number})


def test_a_newer_genome_file_names_the_version_that_wrote_it(tmp_path: Path) -> None:
    genome = {**GENOMES["dag"], "format": 2}
    path = tmp_path / "late.json"

    class Layers:
        from_json = staticmethod(genes.from_json)
        check = staticmethod(genes.check)

    path.write_text(json.dumps({"source": "evonas 9.1.0, run first, individual 3", "genome": genome}))
    with pytest.raises(DataError, match=r"late\.json: genome: format 2 .*evonas 9\.1\.0 wrote the file: install that"):
        zoo.load(path, Layers)  # type: ignore[arg-type]
    path.write_text(json.dumps(genome))
    with pytest.raises(DataError, match=r"format 2 is not 1: a newer evonas may read it$"):
        zoo.load(path, Layers)  # type: ignore[arg-type]
