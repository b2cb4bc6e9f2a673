"""What every strategy shares: the problem it is given, how individuals are born, and how a generation is settled."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonas import pareto
from evonas.cohort import Cohort, Scored, Scores
from evonas.core import Edit, Encoding, Estimate, Genome, Individual, Objective, RecipeError, Species, State, stream
from evonas.marks import MarkBook, Marks
from evonas.species import Gaps, most_species, speciate, steer
from evonas.strategy import SpeciationSettings

Ids = NDArray[np.int64]

Varied = tuple[Genome, tuple[Edit, ...]]
"""A child's genome, and the edits that made it of its first parent's in order."""

ATTEMPTS = 50
"""Draws after which a place in the population is filled with what there is: a space can be nearly exhausted."""


@dataclass(frozen=True)
class Problem:
    """What a strategy searches: encoding, objectives and seed, the founders, and the screen at birth.

    `screen(genome)` says whether a genome keeps all bounds and the constraints on cheap objectives; one that does not
    is never trained. `enrol(genomes, book)` gives founders from outside their marks in this run. `cheap(genome)` gives
    the values of the cheap objectives by name, without training. `budget` is what a run may spend: evaluations, epochs,
    seconds. `inherits` says whether trainings begin with the parents' weights."""

    encoding: Encoding
    objectives: tuple[Objective, ...]
    seed: int
    screen: Callable[[Genome], bool]
    founders: tuple[Genome, ...] = ()
    enrol: Callable[[Sequence[Genome], MarkBook], Sequence[Genome]] = lambda genomes, book: genomes
    speciation: SpeciationSettings | None = None
    cheap: Callable[[Genome], Mapping[str, float]] = lambda genome: {}
    budget: Mapping[str, float] = field(default_factory=dict)
    inherits: bool = False

    @cached_property
    def scalar(self) -> Objective | None:
        """The only objective, if there is one without constraints: then numbers are compared without arrays, which
        takes a tenth of the time where generations are of one individual."""
        one = self.objectives[0]
        return one if len(self.objectives) == 1 and one.max is None and one.min is None else None

    def losses(self, estimates: Iterable[Estimate]) -> pareto.Losses:
        """Objective values to minimise, (individuals, objectives)."""
        names = [o.name for o in self.objectives]
        rows = [[estimate.values[name] for name in names] for estimate in estimates]
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(names)) * self._signs

    @cached_property
    def _signs(self) -> list[float]:
        return [1.0 if o.direction == "min" else -1.0 for o in self.objectives]

    def losses_of(self, estimates: Mapping[int, Estimate], ids: Ids) -> pareto.Losses:
        """`losses` of those with these ids, (ids, objectives); NaN where one failed."""
        return columns(estimates, ids, [o.name for o in self.objectives]) * self._signs

    def violations(self, losses: pareto.Losses) -> NDArray[np.float64]:
        """How far each row lies beyond the constraints, each in units of its limit, (n, objectives) -> (n,)."""
        total = np.zeros(len(losses))
        for o, column in zip(self.objectives, losses.T, strict=True):
            value = column if o.direction == "min" else -column
            if o.max is not None:
                total += np.maximum(value - o.max, 0.0) / _unit(o.max)
            if o.min is not None:
                total += np.maximum(o.min - value, 0.0) / _unit(o.min)
        return total

    def order(self, losses: pareto.Losses) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ranks and crowding; who breaks a constraint ranks after all who keep it, by how far. Deb et al. 2002, VI."""
        beyond = self.violations(losses)
        rank = np.zeros(len(losses), dtype=np.int64)
        kept = beyond == 0
        if kept.any():
            rank[kept] = pareto.ranks(losses[kept])
        if not kept.all():
            rank[~kept] = rank[kept].max(initial=-1) + 1 + np.unique(beyond[~kept], return_inverse=True)[1]
        return rank, pareto.crowding(losses, rank)

    def merit(self, estimate: Estimate) -> tuple[float, float]:
        """How far an estimate breaks the constraints, then its loss by the first objective: the less, the better."""
        first = self.objectives[0]
        beyond = 0.0 if self.scalar else float(self.violations(self.losses([estimate]))[0])
        return beyond, first.loss(estimate.values[first.name])

    def best(self, pool: Iterable[Individual], estimates: Mapping[int, Estimate]) -> list[Individual]:
        """The one of most merit, of equals the eldest; none of none."""
        found = min(pool, key=lambda one: (*self.merit(estimates[one.id]), one.id), default=None)
        return [] if found is None else [found]

    def front(self, ids: Ids, losses: pareto.Losses) -> Ids:
        """Ids of the non-dominated among those that keep the constraints, ascending; of equal ones the lowest."""
        feasible = np.flatnonzero(self.violations(losses) == 0)
        feasible = feasible[np.argsort(ids[feasible], kind="stable")]
        mask = pareto.non_dominated(losses[feasible]) if len(feasible) else np.zeros(0, dtype=bool)
        front: Ids = ids[feasible[mask]]
        return front

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


def _unit(limit: float) -> float:
    return max(abs(limit or 1.0), 1e-12)


def columns(estimates: Mapping[int, Estimate], ids: Ids, names: Sequence[str]) -> NDArray[np.float64]:
    """Recorded values by name, (ids, names); NaN where one was not measured or the estimate failed."""
    at = _positions(estimates, ids)
    if at is None or not isinstance(estimates, Scores):
        rows = [estimates[id].values if estimates[id].status == "ok" else {} for id in ids.tolist()]
        return np.array([[row.get(name, np.nan) for name in names] for row in rows]).reshape(len(ids), len(names))
    nothing = np.full(len(estimates.ids), np.nan)
    table = np.stack([estimates.columns.get(name, nothing)[at] for name in names], axis=1)
    table[~estimates.ok[at]] = np.nan
    return table


def _positions(estimates: Mapping[int, Estimate], ids: Ids) -> Ids | None:
    """Where the arrays hold these ids; None where they do not hold them all."""
    if not isinstance(estimates, Scores) or not len(estimates.ids):
        return None
    at = np.minimum(np.searchsorted(estimates.ids, ids), len(estimates.ids) - 1)
    return at if (estimates.ids[at] == ids).all() else None


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


def mutated(problem: Problem, genome: Genome, rng: Random, book: MarkBook) -> Varied | None:
    """One mutation of a genome; None where it finds no place or the child does not pass the screen."""
    made = problem.encoding.mutate(genome, rng, book)
    return made if made is not None and problem.screen(made[0]) else None


def unseen(draw: Callable[[], Varied | None], seen: Container[str]) -> Varied | None:
    """The first of some draws whose genome's key is not `seen`; None where ATTEMPTS find none."""
    for _ in range(ATTEMPTS):
        made = draw()
        if made is not None and made[0].key not in seen:
            return made
    return None


SPENT = ("epochs", "seconds")
"""What a budget counts beside evaluations: costs of the estimates."""


def exhausted(budget: Mapping[str, float], state: State) -> bool:
    """Whether a run has spent what it may."""
    spent = state.memory.get("spent", {})
    done = {"evaluations": state.evaluations, **spent}
    return any(done.get(key, 0) >= limit for key, limit in budget.items())


def left(budget: Mapping[str, float], state: State) -> int | None:
    """Evaluations that the budget still allows; None for any number."""
    return int(budget["evaluations"]) - state.evaluations if "evaluations" in budget else None


def affordable(
    budget: Mapping[str, float], state: State, scored: Sequence[tuple[Individual, Estimate]]
) -> Sequence[tuple[Individual, Estimate]]:
    """Those that the budget still allows, in the order they were asked for: the first that passes it ends the run, and
    those after it do not count."""
    costs = [key for key in SPENT if key in budget]
    if not costs or isinstance(scored, Scored):
        return scored
    total = dict(state.memory.get("spent", {}))
    for i, (_, estimate) in enumerate(scored):
        for key in costs:
            total[key] = total.get(key, 0.0) + estimate.cost.get(key, 0.0)
        if any(total[key] >= budget[key] for key in costs):
            return scored[: i + 1]
    return scored


def _spent(problem: Problem, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> dict[str, object]:
    """The memory's entry of what was spent so far, where a budget counts it."""
    costs = [key for key in SPENT if key in problem.budget]
    if not costs or isinstance(scored, Scored):
        return {}
    before = state.memory.get("spent", {})
    return {"spent": {key: before.get(key, 0.0) + sum(e.cost.get(key, 0.0) for _, e in scored) for key in costs}}


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
    """The state after a generation: survivors, the run's front, species, and marks of living genes only.

    A cohort that survives stays one, its scores too."""
    fresh = scored.scores if isinstance(scored, Scored) else {estimate.id: estimate for _, estimate in scored}
    reference = state.memory.get("reference")
    if problem.scalar and reference and isinstance(fresh, dict):
        front, front_estimates = _best(problem.scalar, state, fresh)
    else:
        ids, losses = _finished(problem, fresh)
        front, front_estimates = _front(problem, state, fresh, ids, losses)
        reference = reference or _reference(losses)
    notes = {**state.memory, **(memory or {}), "reference": reference}
    notes |= _spent(problem, state, scored)
    species, notes = _species(problem, state, survivors, estimates, notes)
    return replace(
        state,
        generation=state.generation + 1,
        population=survivors if isinstance(survivors, Cohort) else tuple(survivors),
        estimates=_kept(survivors, estimates, front_estimates),
        front=front,
        species=species,
        marks=state.marks.living(alive(problem.encoding, survivors)),
        evaluations=state.evaluations + len(scored),
        memory=notes,
    )


def ids_of(individuals: Sequence[Individual]) -> Ids:
    """Their ids, (n,)."""
    if isinstance(individuals, Cohort):
        return individuals.ids
    return np.array([individual.id for individual in individuals], dtype=np.int64)


def _finished(problem: Problem, fresh: Mapping[int, Estimate]) -> tuple[Ids, pareto.Losses]:
    """Ids and losses of the estimates that did not fail, in their order."""
    if isinstance(fresh, Scores):
        losses = problem.losses_of(fresh, fresh.ids)
        good = np.isfinite(losses).all(axis=1)
        return fresh.ids[good], losses[good]
    good_ones = [estimate for estimate in fresh.values() if estimate.status == "ok"]
    return np.array([estimate.id for estimate in good_ones], dtype=np.int64), problem.losses(good_ones)


def _front(
    problem: Problem, state: State, fresh: Mapping[int, Estimate], ids: Ids, losses: pareto.Losses
) -> tuple[tuple[int, ...], dict[int, Estimate]]:
    """The non-dominated over everything estimated so far; of equal ones the lowest id; constraint violators never."""
    before = [state.estimates[id] for id in state.front]
    ids = np.concatenate([np.array(state.front, dtype=np.int64), ids])
    losses = np.concatenate([problem.losses(before), losses])
    front = {id: fresh[id] if id in fresh else state.estimates[id] for id in problem.front(ids, losses).tolist()}
    return tuple(front), front


def _best(
    objective: Objective, state: State, fresh: Mapping[int, Estimate]
) -> tuple[tuple[int, ...], dict[int, Estimate]]:
    """The best over everything estimated so far; of equal ones the lowest id."""
    known = [state.estimates[id] for id in state.front] + [one for one in fresh.values() if one.status == "ok"]
    if not known:
        return (), {}
    best = min(known, key=lambda one: (objective.loss(one.values[objective.name]), one.id))
    return (best.id,), {best.id: best}


def _reference(losses: pareto.Losses) -> list[float] | None:
    """The reference point for hypervolumes, in losses: the worst values of the first generation and a tenth more."""
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
    members = survivors if isinstance(survivors, Cohort) else sorted(survivors, key=lambda member: member.id)
    ids = ids_of(members)
    genomes = members.genomes if isinstance(members, Cohort) else [member.genome for member in members]
    species = speciate(
        members, ids, state.species, Gaps.between(problem.encoding, genomes), threshold, state.generation + 1,
        _first_losses(problem, estimates, ids), next_id, most_species(settings.target),
    )  # fmt: skip
    following = max([next_id, *(one.id + 1 for one in species)])
    return species, {
        **notes,
        "threshold": steer(threshold, len(species), settings.target, settings.step),
        "next_species": following,
    }


def _first_losses(problem: Problem, estimates: Mapping[int, Estimate], ids: Ids) -> NDArray[Any]:
    """Losses of the first objective, (ids,); whole numbers stay whole."""
    if isinstance(estimates, Scores):
        return problem.losses_of(estimates, ids)[:, 0]
    first = problem.objectives[0]
    return np.array([first.loss(estimates[id].values[first.name]) for id in ids.tolist()])


def _kept(
    survivors: Sequence[Individual], estimates: Mapping[int, Estimate], front: Mapping[int, Estimate]
) -> Mapping[int, Estimate]:
    """Estimates of the survivors and of the front; scores stay arrays where they are the survivors' own."""
    if isinstance(survivors, Cohort) and isinstance(estimates, Scores):
        mine = set(np.intersect1d(survivors.ids, np.fromiter(front, dtype=np.int64)).tolist())
        return replace(estimates, others={id: one for id, one in front.items() if id not in mine})
    return {**{individual.id: estimates[individual.id] for individual in survivors}, **front}


def alive(encoding: Encoding, individuals: Sequence[Individual]) -> set[int]:
    """Marks of the nodes that live in them, read off the arrays where the genomes are a population."""
    genomes: Any = getattr(individuals, "genomes", None)
    if hasattr(genomes, "node_mark"):
        return {*range(genomes.inputs), *np.flatnonzero(np.bincount(genomes.node_mark)).tolist()}
    return {mark for individual in individuals for mark in encoding.alive(individual.genome)}
