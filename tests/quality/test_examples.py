"""The examples: every recipe is valid, the scripts run, and the main job finds good networks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import evonas
from evonas import recipe

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path: Path) -> None:
    read = recipe.read(path)
    assert read.name == path.stem
    assert recipe.read(recipe.to_yaml(read)) == read


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_reaches_its_floor(tmp_path: Path) -> None:
    """`make run`'s search: at most 4 % validation error below 20,000 parameters, and 12 % below 5,000."""
    front = evonas.start(EXAMPLES / "digits.yaml", runs=tmp_path).front()
    assert min(row.values["error"] for row in front if row.values["params"] < 20_000) <= 0.04
    assert min(row.values["error"] for row in front if row.values["params"] < 5_000) <= 0.12


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_script_runs(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "error" in done.stdout


def test_the_sample_run_opens_on_a_fresh_clone() -> None:
    folder = EXAMPLES.parent / "runs" / "sample-digits"
    before = sorted(folder.rglob("*"))
    with evonas.open(folder) as run:
        assert run.status == "finished"
        assert all(sum(p.numel() for p in run.network(row.id).parameters()) for row in run.front())
    assert sorted(folder.rglob("*")) == before, "reading writes nothing"
    assert sum(path.stat().st_size for path in before) < 2_000_000
