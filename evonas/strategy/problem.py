"""What every strategy shares: the problem it is given, how individuals are born, and how a generation is settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evonas import pareto
from evonas.core import Encoding, Estimate, Genome, Individual, Objective, RecipeError, Species, State, stream
from evonas.marks import MarkBook, Marks
from evonas.species import SpeciationSettings, speciate, steer

ATTEMPTS = 50
"""Draws after which a place in the population is filled with what there is: a space can be nearly exhausted."""


@dataclass(frozen=True)
class Problem:
    """What a strategy searches: encoding, objectives and seed, the founders, and the screen at birth.

    `screen(genome)` says whether a genome keeps all bounds and the constraints on cheap objectives; one that does not
    is never trained. `enrol(genomes, book)` gives founders from outside their marks in this run."""

    encoding: Encoding
    objectives: tuple[Objective, ...]
    seed: int
    screen: Callable[[Genome], bool]
    founders: tuple[Genome, ...] = ()
    enrol: Callable[[Sequence[Genome], MarkBook], Sequence[Genome]] = lambda genomes, book: genomes
    speciation: SpeciationSettings | None = None

    def losses(self, estimates: Iterable[Estimate]) -> pareto.Losses:
        """Objective values to minimise, (individuals, objectives)."""
        rows = [[o.loss(estimate.values[o.name]) for o in self.objectives] for estimate in estimates]
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(self.objectives))

    def violations(self, estimates: Iterable[Estimate]) -> np.ndarray:
        """How far each estimate lies beyond the constraints, each in units of its limit, (individuals,)."""
        return np.array(
            [sum(_relative(o, estimate.values[o.name]) for o in self.objectives) for estimate in estimates], dtype=float
        )

    def random(self, generation: int, place: int, book: MarkBook, seen: Callable[[Genome], bool], steps: int) -> Genome:
        """A random genome that passes the screen: the encoding's own draw followed by up to `steps` mutations."""
        rng = stream(self.seed, "random genome", generation, place)
        fallback: Genome | None = None
        for _ in range(ATTEMPTS):
            genome = self.encoding.random(rng, book)
            if not self.screen(genome):
                continue
            for _ in range(rng.randint(0, steps) if steps else 0):
                changed = self.encoding.mutate(genome, rng, book)
                if changed is not None and self.screen(changed[0]):
                    genome = changed[0]
            fallback = genome
            if not seen(genome):
                return genome
        if fallback is None:
            raise RecipeError(
                f"none of {ATTEMPTS} random networks keeps the recipe's bounds and limits: "
                "raise encoding.bounds or an objective's max, or allow smaller layers"
            )
        return fallback


def _relative(objective: Objective, value: float) -> float:
    limit = objective.max if objective.max is not None and value > objective.max else objective.min
    return objective.violation(value) / max(abs(limit or 1.0), 1e-12)


def begin() -> State:
    """The state before the first generation."""
    return State(0, 0, (), {}, (), (), Marks())


def first_generation(problem: Problem, state: State, count: int, book: MarkBook, steps: int = 0) -> list[Individual]:
    """The recipe's founders, filled up with random genomes."""
    genomes = list(problem.enrol(problem.founders, book))[:count]
    return drawn(problem, state, count, book, steps, genomes)


def drawn(
    problem: Problem, state: State, count: int, book: MarkBook, steps: int = 0, genomes: Sequence[Genome] = ()
) -> list[Individual]:
    """`count` individuals: the given genomes, then random ones that differ from each other where the space allows."""
    chosen = list(genomes)
    keys = {genome.key for genome in chosen}
    for place in range(len(chosen), count):
        genome = problem.random(state.generation, place, book, lambda candidate: candidate.key in keys, steps)
        keys.add(genome.key)
        chosen.append(genome)
    return [Individual(state.next_id + i, genome, birth=state.generation) for i, genome in enumerate(chosen)]


def asked(state: State, born: Sequence[Individual], book: MarkBook) -> State:
    """The state after `ask`: ids and marks are handed out."""
    return replace(state, next_id=state.next_id + len(born), marks=book.close())


def settle(
    problem: Problem,
    state: State,
    scored: Sequence[tuple[Individual, Estimate]],
    survivors: Sequence[Individual],
    estimates: Mapping[int, Estimate],
    memory: Mapping[str, object] | None = None,
) -> State:
    """The state after a generation: survivors, the run's front, species, and marks of living genes only."""
    front, front_estimates = _front(problem, state, [estimate for _, estimate in scored])
    reference = state.memory.get("reference") or _reference(problem, [estimate for _, estimate in scored])
    kept = {individual.id: estimates[individual.id] for individual in survivors}
    notes = {**state.memory, **(memory or {}), "reference": reference}
    species, notes = _species(problem, state, survivors, kept, notes)
    alive = {mark for individual in survivors for mark in problem.encoding.alive(individual.genome)}
    return replace(
        state,
        generation=state.generation + 1,
        population=tuple(survivors),
        estimates={**kept, **front_estimates},
        front=front,
        species=species,
        marks=state.marks.living(alive),
        evaluations=state.evaluations + len(scored),
        memory=notes,
    )


def _front(problem: Problem, state: State, scored: Sequence[Estimate]) -> tuple[tuple[int, ...], dict[int, Estimate]]:
    """The non-dominated over everything estimated so far; of equal ones the lowest id; constraint violators never."""
    fresh = [estimate for estimate in scored if estimate.status == "ok"]
    candidates = sorted([*(state.estimates[id] for id in state.front), *fresh], key=lambda estimate: estimate.id)
    kept = problem.violations(candidates) == 0
    feasible = [estimate for estimate, keeps in zip(candidates, kept, strict=True) if keeps]
    mask = pareto.non_dominated(problem.losses(feasible)) if feasible else np.zeros(0, dtype=bool)
    front = {estimate.id: estimate for estimate, best in zip(feasible, mask, strict=True) if best}
    return tuple(front), front


def _reference(problem: Problem, scored: Sequence[Estimate]) -> list[float] | None:
    """The reference point for hypervolumes, in losses: the worst values of the first generation and a tenth more."""
    losses = problem.losses([estimate for estimate in scored if estimate.status == "ok"])
    if not len(losses):
        return None
    worst, span = losses.max(axis=0), np.ptp(losses, axis=0)
    return [float(value) for value in worst + 0.1 * np.where(span > 0, span, np.abs(worst) + 1e-9)]


def _species(
    problem: Problem,
    state: State,
    survivors: Sequence[Individual],
    estimates: Mapping[int, Estimate],
    notes: Mapping[str, object],
) -> tuple[tuple[Species, ...], dict[str, object]]:
    settings = problem.speciation
    if settings is None or not survivors:
        return (), dict(notes)
    threshold = float(notes.get("threshold", settings.threshold))  # type: ignore[arg-type]
    next_id = int(notes.get("next_species", 1))  # type: ignore[call-overload]
    first = problem.objectives[0]
    losses = {id: first.loss(estimate.values[first.name]) for id, estimate in estimates.items()}
    species = speciate(
        survivors, state.species, problem.encoding.distance, threshold, state.generation + 1, losses, next_id
    )
    following = max([next_id, *(one.id + 1 for one in species)])
    return species, {
        **notes,
        "threshold": steer(threshold, len(species), settings),
        "next_species": following,
    }
