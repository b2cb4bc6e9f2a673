"""Species keep identity, age and representative over the generations."""

from __future__ import annotations

import numpy as np

from evonas.core import Individual, Species
from evonas.species import pairwise, speciate, steer
from tests.vectors import Vector


def people(*values: float, first: int = 0) -> list[Individual]:
    return [Individual(first + i, Vector((value,))) for i, value in enumerate(values)]


def distance(a: Vector, b: Vector) -> float:
    return abs(a.genes[0] - b.genes[0])


def divide(
    population: list[Individual], previous: tuple[Species, ...] = (), generation: int = 1
) -> tuple[Species, ...]:
    genomes = [one.genome for one in population]
    ids = np.array([one.id for one in population])
    losses = np.array([genome.genes[0] for genome in genomes])  # type: ignore[attr-defined]
    following = max((one.id + 1 for one in previous), default=1)
    return speciate(population, ids, previous, pairwise(distance, genomes), 0.3, generation, losses, following)


def test_members_lie_within_the_threshold_of_their_representative() -> None:
    species = divide(people(0.0, 0.1, 0.5, 0.6, 0.95))
    assert [one.members for one in species] == [(0, 1), (2, 3), (4,)]
    assert [one.id for one in species] == [1, 2, 3]


def test_species_keep_id_and_birth_and_drift_with_their_members() -> None:
    first = divide(people(0.0, 0.5))
    second = divide(people(0.2, 0.55, first=10), first, 2)
    assert [(one.id, one.born) for one in second] == [(1, 1), (2, 1)]
    assert second[0].representative.id == 10
    third = divide(people(0.4, first=20), second, 3)
    assert [(one.id, one.members) for one in third] == [(1, (20,))], "0.4 is near what species 1 has become"


def test_extinct_species_vanish_and_their_ids_are_not_reused() -> None:
    first = divide(people(0.0, 0.9))
    second = divide(people(0.9, 0.4, first=10), first, 2)
    assert [one.id for one in second] == [2, 3]


def test_best_and_improvement_are_remembered() -> None:
    first = divide(people(0.2))
    second = divide(people(0.25, first=1), first, 2)
    assert (second[0].best, second[0].improved) == (0.2, 1)
    third = divide(people(0.1, first=2), second, 3)
    assert (third[0].best, third[0].improved) == (0.1, 3)


def test_the_threshold_is_steered_to_the_target() -> None:
    assert steer(1.0, 9, 4, 0.5) == 1.5
    assert steer(1.0, 16, 4, 0.5) == 1.5**3, "as many as there may be"
    assert steer(1.0, 4, 4, 0.5) == 1.0
    assert steer(1.5, 2, 4, 0.5) == 1.0
    assert steer(1.0, 9, None, 0.1) == 1.0
