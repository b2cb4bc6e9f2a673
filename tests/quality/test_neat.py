"""NEAT's recipes solve their tasks, and as soon as they are said to: floors with room for chance, over fixed seeds.

Mean evaluations over more seeds are printed by tests/benchmark/solving.py."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

import evonas
from evonas import recipe

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def evaluations(name: str, seed: int, runs: Path) -> int:
    """How many networks were estimated until the goal was reached."""
    run = evonas.start(
        recipe.read(EXAMPLES / f"{name}.yaml", {"seed": str(seed), "estimator.threads": "1"}),
        name=f"{name}-{seed}",
        runs=runs,
    )
    assert run.solved is not None, f"seed {seed} of {name} is not solved"
    return int(run.generations()[-1]["evaluations"])


@pytest.mark.parametrize(
    ("name", "seeds", "most"),
    [("xor", 12, 4_755), ("double-pole", 8, 3_600), ("cartpole", 6, 1_500)],
)
def test_a_classic_is_solved_in_time(tmp_path: Path, name: str, seeds: int, most: int) -> None:
    """The paper's own means, and four generations more than neat-python's 375 for CartPole's stricter goal."""
    assert fmean(evaluations(name, seed, tmp_path) for seed in range(seeds)) <= most


@pytest.mark.slow
def test_poles_are_balanced_without_velocities_and_from_other_starts(tmp_path: Path) -> None:
    seeds = range(6)
    assert fmean(evaluations("double-pole-no-velocity", seed, tmp_path) for seed in seeds) <= 33_184
    for seed in seeds:
        run = evonas.open(tmp_path / f"double-pole-no-velocity-{seed}")
        assert run.solved is not None
        found = run.estimate(run.solved)
        assert found is not None and found.values["generalises"] >= 250 and found.values["balanced"] == 100_000


@pytest.mark.slow
def test_two_objectives_give_a_front(tmp_path: Path) -> None:
    """NEAT's genomes under NSGA-II: accuracy on wines against links, from few links on."""
    run = evonas.start(
        {
            "task": {"kind": "wine"},
            "encoding": {
                "kind": "neat",
                "initial_connection": "single",
                "structure": {"add_node": 0.05, "add_link": 0.5, "remove_link": 0.1},
            },
            "objectives": ["accuracy", "links"],
            "strategy": {"kind": "nsga2", "population": 60, "generations": 40},
            "estimator": {"kind": "population", "threads": 1},
        },
        name="front",
        runs=tmp_path,
    )
    front = [(row.values["links"], row.values["accuracy"]) for row in run.front()]
    assert len(front) >= 4
    assert max(accuracy for _, accuracy in front) >= 0.9
    assert sorted(front) == sorted(front, key=lambda point: point[1]), "more links, more accuracy"


def test_a_goal_ends_a_run_of_layer_graphs_too(tmp_path: Path) -> None:
    run = evonas.start(
        {
            "task": {"kind": "digits"},
            "objectives": [{"name": "params", "direction": "max"}],
            "strategy": {"kind": "neat", "population": 10, "generations": 30, "goal": {"params": 3_000}},
            "estimator": {"kind": "lookup"},
            "pool": {"kind": "serial"},
        },
        name="layers",
        runs=tmp_path,
    )
    assert run.solved is not None and run.status == "finished" and len(run.generations()) < 30
    assert run.front()[0].values["params"] >= 3_000
