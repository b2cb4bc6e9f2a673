"""A tiny encoding for tests of strategies: vectors in [0, 1]^n, so that ZDT's known fronts can be searched."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from evonas.core import Edit, Estimate, Individual, Objective, dumps
from evonas.marks import MarkBook
from evonas.strategy import SpeciationSettings
from evonas.strategy.problem import Problem

LEVELS = 9
"""Steps of a gene as a token."""

OBJECTIVES = (Objective("f1", cheap=True), Objective("f2"))


@dataclass(frozen=True)
class Vector:
    genes: tuple[float, ...]

    @property
    def key(self) -> str:
        return ",".join(map(repr, self.genes))

    @property
    def text(self) -> str:
        return dumps(list(self.genes))


@dataclass(frozen=True)
class Vectors:
    """A mutation nudges one gene, a crossover is uniform. As tokens a gene is one of LEVELS equal steps."""

    genes: int = 6
    name: str = "vectors"

    def random(self, rng: random.Random, marks: MarkBook) -> Vector:
        return Vector(tuple(rng.random() for _ in range(self.genes)))

    def mutate(self, genome: Vector, rng: random.Random, marks: MarkBook) -> tuple[Vector, tuple[Edit, ...]]:
        place, genes = rng.randrange(self.genes), list(genome.genes)
        genes[place] = min(1.0, max(0.0, genes[place] + rng.gauss(0, 0.15)))
        return Vector(tuple(genes)), (Edit("nudge", (place,), args={"to": genes[place]}),)

    def mate(
        self, fitter: Vector, other: Vector, rng: random.Random, marks: MarkBook
    ) -> tuple[Vector, tuple[Edit, ...]]:
        pairs = zip(fitter.genes, other.genes, strict=True)
        return Vector(tuple(rng.choice(pair) for pair in pairs)), (Edit("mate"),)

    def distance(self, a: Vector, b: Vector) -> float:
        return sum(abs(x - y) for x, y in zip(a.genes, b.genes, strict=True))

    def check(self, genome: Vector) -> None:
        assert all(0 <= gene <= 1 for gene in genome.genes)

    def to_json(self, genome: Vector) -> Any:
        return list(genome.genes)

    def from_json(self, data: Any) -> Vector:
        return Vector(tuple(data))

    def decode(self, genome: Vector) -> Any:
        raise AssertionError("vectors have no network")

    @property
    def choices(self) -> tuple[tuple[str, ...], ...]:
        return (tuple(map(str, range(LEVELS))),) * self.genes

    @property
    def size(self) -> int:
        return LEVELS**self.genes

    def tokens(self, genome: Vector) -> tuple[int, ...]:
        return tuple(round(gene * (LEVELS - 1)) for gene in genome.genes)

    def from_tokens(self, tokens: Sequence[int]) -> Vector:
        return Vector(tuple(token / (LEVELS - 1) for token in tokens))

    def difference(self, parent: Vector, child: Vector) -> tuple[Edit, ...]:
        changed = [i for i, (a, b) in enumerate(zip(parent.genes, child.genes, strict=True)) if a != b]
        return tuple(Edit("nudge", (place,), args={"to": child.genes[place]}) for place in changed)

    def all(self) -> Iterator[Vector]:
        return map(self.from_tokens, product(range(LEVELS), repeat=self.genes))

    def features(self, genome: Vector) -> list[float]:
        return list(genome.genes)

    def summary(self, genome: Vector) -> str:
        return genome.key

    def alive(self, genome: Vector) -> frozenset[int]:
        return frozenset({0, 1})


def zdt1(individual: Individual) -> Estimate:
    """ZDT1 (Zitzler, Deb, Thiele 2000): front f2 = 1 - sqrt(f1)."""
    first, *rest = individual.genome.genes  # type: ignore[attr-defined]
    g = 1 + 9 * sum(rest) / len(rest)
    return Estimate(individual.id, "ok", {"f1": first, "f2": g * (1 - (first / g) ** 0.5)})


def problem(seed: int = 1, objectives: tuple[Objective, ...] = OBJECTIVES, **fields: Any) -> Problem:
    return Problem(
        Vectors(), objectives, seed, lambda genome: True, speciation=SpeciationSettings(), cheap=first_gene, **fields
    )


def first_gene(genome: Any) -> dict[str, float]:
    """ZDT1's f1 takes no evaluation of the other genes: it plays the cheap objective."""
    return {"f1": genome.genes[0]}
