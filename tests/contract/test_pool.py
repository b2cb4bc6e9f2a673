"""What every worker pool keeps: one outcome per job, failures as values, and the same bits as any other pool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evonas import encoding, estimate, pool
from evonas.core import Heritage, Job, Pool, stream
from evonas.marks import Marks
from tests import clusters

RECIPE: dict[str, Any] = {
    "version": 1,
    "name": "contract",
    "seed": 1,
    "task": {"kind": "digits"},
    "encoding": {"kind": "dag"},
    "objectives": ["error", "loss", "params", "flops"],
    "estimator": estimate.TrainSettings(epochs=1, share=0.3, augment=estimate.Augment(shift=1)).model_dump(mode="json"),
    "final": estimate.FinalSettings(epochs=1, share=0.3).model_dump(mode="json"),
}

KINDS: dict[str, Any] = {
    kind: settings(workers=1) if kind == "ray" else settings() for kind, settings in pool.TABLE.items()
}
OTHERS = [kind for kind in clusters.kinds(pool.TABLE) if kind.values != ("serial",)]

INHERITING: dict[str, Any] = {
    **RECIPE,
    "estimator": estimate.TrainSettings.model_validate(
        {"epochs": 1, "share": 0.3, "inherit": {"distill": {"epochs": 0.5}}}
    ).model_dump(mode="json"),
}


def jobs(count: int) -> list[Job]:
    space = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    rng, book = stream(0, "test"), Marks().open()
    return [Job(i, 50 + i, space.to_json(space.random(rng, book))) for i in range(count)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One for all pools of kind ray."""
    with clusters.joined():
        yield


@pytest.fixture(scope="module", params=clusters.kinds(pool.TABLE))
def workers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    scratch = tmp_path_factory.mktemp("pool") / "scratch"
    built = joined(request, request.param, RECIPE, scratch)
    yield built
    built.close()
    assert not scratch.exists()


def joined(request: pytest.FixtureRequest, kind: str, recipe: dict[str, Any], scratch: Path, **asked: bool) -> Pool:
    """A pool; those of kind ray share one cluster."""
    if kind == "ray":
        request.getfixturevalue("cluster")
    return pool.build(KINDS[kind], recipe, scratch, **asked)


def bits(workers: Pool, todo: list[Job]) -> dict[int, Any]:
    """Everything about the outcomes that must not depend on where they were computed."""
    arrived = [outcome for batch in pool.drain(workers, todo) for outcome in batch]
    assert sorted(outcome.estimate.id for outcome in arrived) == sorted(job.id for job in todo)
    return {outcome.estimate.id: (replace(outcome.estimate, cost={}).to_json(), outcome.weights) for outcome in arrived}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    return bits(pool.build(pool.SerialSettings(), RECIPE, tmp_path_factory.mktemp("serial")), jobs(4))


def test_outcomes_are_those_of_the_serial_pool_in_any_order(workers: Pool, expected: dict[int, Any]) -> None:
    todo = jobs(4)
    assert all(estimate["status"] == "ok" and weights for estimate, weights in expected.values())
    assert bits(workers, todo) == expected
    assert bits(workers, todo[::-1]) == expected, "neither order nor what a worker did before matters"


@pytest.fixture(scope="module")
def heirs(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Children of one trained parent, and one whose parent's file is not what it should be."""
    folder = tmp_path_factory.mktemp("heirs")
    serial = pool.build(pool.SerialSettings(), INHERITING, folder / "scratch")
    parent = jobs(1)[0]
    (outcome,) = next(pool.drain(serial, [parent]))
    assert outcome.weights is not None
    (folder / "parent.safetensors").write_bytes(outcome.weights)
    sha = hashlib.sha256(outcome.weights).hexdigest()
    left = Heritage(parent.genome, str(folder / "parent.safetensors"), sha, 0)
    space = encoding.build(encoding.TABLE["dag"](), (1, 8, 8), 10)
    genome = space.from_json(parent.genome)
    made = []
    for i in range(3):
        child = space.mutate(genome, stream(i, "child"), Marks(1000).open())
        assert child is not None
        made.append(Job(10 + i, 60 + i, space.to_json(child[0]), parents=(left,), edits=child[1]))
    return [*made, replace(made[0], id=20, parents=(replace(left, sha256="0" * 64),))]


@pytest.fixture(scope="module")
def inherited(heirs: list[Job], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    return bits(pool.build(pool.SerialSettings(), INHERITING, tmp_path_factory.mktemp("serial")), heirs)


@pytest.mark.parametrize("kind", OTHERS)
def test_inherited_weights_are_carried_to_every_pool(
    request: pytest.FixtureRequest, heirs: list[Job], inherited: dict[int, Any], tmp_path: Path, kind: str
) -> None:
    other = joined(request, kind, INHERITING, tmp_path / "scratch")
    assert bits(other, heirs) == inherited
    other.close()


def test_heirs_are_looked_at_at_birth_and_one_with_a_wrong_file_fails_alone(
    heirs: list[Job], inherited: dict[int, Any]
) -> None:
    assert [inherited[job.id][0]["status"] for job in heirs] == ["ok", "ok", "ok", "failed"]
    assert "do not have the SHA-256" in inherited[20][0]["reason"]
    assert all(
        "valid_error" in inherited[id][0]["curve"][0] and inherited[id][0]["curve"][0]["epoch"] == 0 for id in (10, 11)
    )


def test_a_genome_that_cannot_be_built_fails_alone(workers: Pool, expected: dict[int, Any]) -> None:
    good = jobs(2)
    found = bits(workers, [good[0], Job(9, 1, {"layers": "none"}), good[1]])
    assert found[9][0]["status"] == "failed" and found[9][0]["reason"]
    assert {id: found[id] for id in (0, 1)} == {id: expected[id] for id in (0, 1)}


def test_no_jobs_no_outcomes(workers: Pool) -> None:
    assert workers.arrived() == []
    workers.submit([])
    assert workers.arrived() == []
    assert workers.workers >= 1


def test_jobs_may_come_while_others_are_under_way(workers: Pool, expected: dict[int, Any]) -> None:
    todo = jobs(4)
    workers.submit(todo[:2])
    arrived = workers.arrived()
    assert arrived
    workers.submit(todo[2:])
    while more := workers.arrived():
        arrived += more
    told = {one.estimate.id: (replace(one.estimate, cost={}).to_json(), one.weights) for one in arrived}
    assert len(arrived) == 4 and told == expected


@pytest.mark.parametrize("kind", ["serial", "processes"])
def test_the_epochs_of_final_trainings_are_told_as_they_come(kind: str, tmp_path: Path) -> None:
    told: list[tuple[int, Mapping[str, float]]] = []
    recipe = {**RECIPE, "final": {**RECIPE["final"], "epochs": 3}}

    def tell(id: int, point: Mapping[str, float]) -> None:
        told.append((id, point))

    built = pool.build(KINDS[kind], recipe, tmp_path / kind, final=True, listener=tell)
    outcomes = [outcome.estimate for batch in pool.drain(built, jobs(2)) for outcome in batch]
    built.close()
    assert {one.id: [point for id, point in told if id == one.id] for one in outcomes} == {
        one.id: list(one.curve) for one in outcomes
    }
    assert len(told) == 6


def test_the_epochs_of_a_search_are_not_told(tmp_path: Path) -> None:
    told: list[int] = []
    for kind in ("serial", "processes"):
        built = pool.build(KINDS[kind], RECIPE, tmp_path / kind, listener=lambda id, _: told.append(id))
        assert bits(built, jobs(1))
        built.close()
    assert not told


@pytest.mark.parametrize("kind", OTHERS)
def test_the_final_training_is_the_same_in_every_pool(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    serial = bits(pool.build(pool.SerialSettings(), RECIPE, tmp_path / "serial", final=True), jobs(1))
    other = joined(request, kind, RECIPE, tmp_path / "scratch", final=True)
    assert bits(other, jobs(1)) == serial
    other.close()
    assert serial[0][0]["status"] == "ok"
