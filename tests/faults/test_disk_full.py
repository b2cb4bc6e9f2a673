"""A disk that is full at random moments, fifty times over one run: a clean stop with its exit code, nothing committed
lost, and the run goes on as soon as there is space."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from evonas.recipe import read
from evonas.yaml import dump
from tests.faults.nursery import Nursery
from tests.faults.test_driver_kills import RUNS, digest, lasting, standing
from tests.unit.test_store_faults import mounted

FULL = 50


def resized(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def used(disk: Path) -> int:
    room = os.statvfs(disk)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["nsga2", "neat"])
def test_a_disk_that_is_full_fifty_times_loses_nothing(nursery: Nursery, tmp_path: Path, kind: str) -> None:
    recipe, log, chance = tmp_path / "run.yaml", tmp_path / "log", random.Random(kind)
    recipe.write_text(dump(read(lasting({**RUNS[kind], "name": "run"}, 2)).model_dump(mode="json")))
    command = "tests.faults.drivers:command"
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64m", "tmpfs") as disk:
        begun = nursery.born(log, command, "run", str(recipe), "--runs", str(disk))
        assert begun.ended() == 0, begun.said()
        ids = standing(disk / "run")[0]
        for nth in range(FULL):
            resized(disk, used(disk) + chance.randrange(4096, 400_000))
            log.unlink()
            driver = nursery.born(log, command, "resume", "run", "--generations", "100000", "--runs", str(disk))
            assert driver.ended() == 74, f"{nth}: {driver.said()}"
            assert "; free space" in driver.said() and "Traceback" not in driver.said(), driver.said()
            resized(disk, 64 << 20)
            before, (ids, generation) = ids, standing(disk / "run")
            assert before <= ids, f"{nth} lost {sorted(before - ids)}"
        assert nursery.deserted()
        last = str(generation + 2)
        driver = nursery.born(log, command, "resume", "run", "--generations", last, "--runs", str(disk))
        assert driver.ended() == 0, driver.said()
        calm = nursery.born(log, command, "run", str(recipe), "--runs", str(tmp_path), "--name", "calm", "--set",
                            f"strategy.generations={last}")  # fmt: skip
        assert calm.ended() == 0, calm.said()
        assert generation > 2, "no generation fitted"
        assert digest(disk / "run") == digest(tmp_path / "calm")
        assert not list((disk / "run").rglob("*.tmp*"))
