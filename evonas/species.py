"""Species: genomes within a compatibility distance of one representative, followed over the generations.

Speciation is independent of encoding and strategy: it needs only a distance. Stanley and Miikkulainen 2002, 3.3."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from evonas.core import Individual, Settings, Species

Distance = Callable[[Any, Any], float]


class SpeciationSettings(Settings):
    """How the population is divided into species."""

    threshold: float = Field(default=1.0, gt=0)
    """Compatibility distance to a representative within which a genome belongs to its species."""
    target: int | None = Field(default=6, ge=1)
    """Number of species that the threshold is steered towards; null keeps the threshold fixed."""
    step: float = Field(default=0.1, gt=0, lt=1)
    """Share by which the threshold changes per generation while the number of species is off target."""
    restrict_mating: bool = False
    """Mate only within a species; the species are otherwise for inspection."""


def speciate(
    population: Sequence[Individual],
    previous: Sequence[Species],
    distance: Distance,
    threshold: float,
    generation: int,
    losses: Mapping[int, float],
    next_id: int,
) -> tuple[Species, ...]:
    """Assigns each individual to the first species whose representative lies within `threshold`.

    Species keep their id and birth; a living species' next representative is its member nearest to the last one, so
    that it drifts slowly and stays the same species. `losses` (by id, minimised) keep `best` and `improved`."""
    groups: list[tuple[Species, list[tuple[float, Individual]]]] = [(species, []) for species in previous]
    for individual in sorted(population, key=lambda member: member.id):
        for species, members in groups:
            apart = distance(individual.genome, species.representative.genome)
            if apart < threshold:
                members.append((apart, individual))
                break
        else:
            founder = Species(next_id, individual, (), generation, None, generation)
            groups.append((founder, [(0.0, individual)]))
            next_id += 1
    return tuple(_aged(species, members, losses, generation) for species, members in groups if members)


def _aged(
    species: Species, members: list[tuple[float, Individual]], losses: Mapping[int, float], generation: int
) -> Species:
    nearest = min(members, key=lambda pair: (pair[0], pair[1].id))[1]
    best = min(losses[member.id] for _, member in members)
    better = species.best is None or best < species.best
    return replace(
        species,
        representative=nearest,
        members=tuple(member.id for _, member in members),
        best=best if better else species.best,
        improved=generation if better else species.improved,
    )


def steer(threshold: float, count: int, settings: SpeciationSettings) -> float:
    """The next generation's threshold: wider when there are more species than the target, narrower when fewer."""
    if settings.target is None or count == settings.target:
        return threshold
    return threshold * (1 + settings.step) if count > settings.target else threshold / (1 + settings.step)
