"""NEAT's reproduction: who has children with whom, how many, and what is remembered between generations."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from evonas import strategy
from evonas.cohort import Cohort, Scored, Scores
from evonas.core import Edit, Estimate, EvonasError, Individual, Objective, RecipeError, State
from evonas.encoding import build
from evonas.encoding.variation import NeatSettings, Structure
from evonas.marks import MarkBook
from evonas.phenotype.population import reference
from evonas.strategy import NeatStrategySettings, Nsga2Settings, SpeciationSettings
from evonas.strategy.neat import ALONE, Neat, Pairing
from evonas.strategy.problem import Problem, begin
from tests.vectors import Vector, Vectors

MAX = (Objective("height", direction="max"),)
DIVIDED = SpeciationSettings(threshold=1.2, target=None)


def height(individual: Individual) -> Estimate:
    """Highest, 0, where all genes are 0.7."""
    genes = np.array(individual.genome.genes)  # type: ignore[attr-defined]
    return Estimate(individual.id, "ok", {"height": -float(((genes - 0.7) ** 2).sum()), "first": float(genes[0])})


def neat(
    encoding: Any = None, objectives: tuple[Objective, ...] = MAX, screen: Any = None, seed: int = 1, **given: Any
) -> Neat:
    made = NeatStrategySettings(**{"population": 40, "speciation": DIVIDED, **given})
    posed = Problem(encoding or Vectors(), objectives, seed, screen or (lambda _: True), speciation=made.speciation)
    built = strategy.build(made, posed)
    assert isinstance(built, Neat)
    return built


Judge = Callable[[Individual], Estimate]


def step(search: Neat, state: State, judge: Judge = height) -> State:
    born, asked = search.ask(state)
    return search.tell(asked, [(individual, judge(individual)) for individual in born])


def run(search: Neat, generations: int, judge: Judge = height) -> State:
    state = begin()
    for _ in range(generations):
        state = step(search, state, judge)
    return state


def plan(search: Neat, state: State) -> Pairing:
    made = search.plan(state)
    assert made is not None
    return made


def homes(state: State) -> dict[int, int]:
    return {id: one.id for one in state.species for id in one.members}


# ------------------------------------------------------------------------------------------------ the fast lane's toy


class Crowd(Sequence[Vector]):
    """Vectors as one array."""

    def __init__(self, genes: np.ndarray) -> None:
        self.genes = genes

    def __len__(self) -> int:
        return len(self.genes)

    def __getitem__(self, at: Any) -> Any:
        return Vector(tuple(self.genes[at].tolist()))

    def take(self, at: np.ndarray) -> Crowd:
        return Crowd(self.genes[at])


@dataclass(frozen=True)
class Crowds(Vectors):
    """Vectors that are bred a population at a time."""

    def population(self, genomes: Sequence[Vector]) -> Crowd:
        return Crowd(np.array([genome.genes for genome in genomes]))

    def found(self, count: int, seed: int, book: MarkBook) -> Crowd:
        return Crowd(np.random.default_rng(seed).random((count, self.genes)))

    def distances(self, some: Crowd, representatives: Crowd) -> np.ndarray:
        gaps: np.ndarray = np.abs(some.genes[:, None] - representatives.genes[None]).sum(axis=2)
        return gaps

    def breed(
        self, adults: Crowd, fitter: Any, other: Any, equal: Any, mutated: Any, seed: int, book: MarkBook
    ) -> tuple[Crowd, Mapping[int, tuple[Edit, ...]]]:
        rng = np.random.default_rng(seed)
        mixed = (other != ALONE)[:, None] & (rng.random((len(fitter), self.genes)) < 0.5)
        genes = np.where(mixed, adults.genes[other], adults.genes[fitter])
        nudged = mutated[:, None] & (rng.random(genes.shape) < 0.3)
        genes = np.where(nudged, np.clip(genes + rng.normal(0, 0.15, genes.shape), 0, 1), genes)
        return Crowd(genes), {int(i): (Edit("nudge"),) for i in np.flatnonzero(nudged.any(axis=1))}


def scores(born: Cohort, failed: Mapping[int, str] | None = None) -> Scores:
    genes = born.genomes.genes  # type: ignore[attr-defined]
    columns = {"height": -((genes - 0.7) ** 2).sum(axis=1), "first": genes[:, 0].copy()}
    return Scores(born.ids, columns, failed or {})


def leap(search: Neat, state: State) -> State:
    born, asked = search.ask(state)
    assert isinstance(born, Cohort)
    return search.tell(asked, Scored(born, scores(born)))


def seen(state: State) -> Any:
    """A cohort's state as values that compare."""
    return replace(state, population=tuple(state.population), estimates=dict(state.estimates))


# ----------------------------------------------------------------------------------------------------------- pairing


def test_children_are_exactly_as_many_as_asked() -> None:
    for population in (2, 3, 17, 40):
        search = neat(population=population)
        state = begin()
        for _ in range(5):
            born, asked = search.ask(state)
            assert len(born) == population
            state = search.tell(asked, [(one, height(one)) for one in born])


def test_parents_are_the_fittest_of_their_species() -> None:
    search = neat(survival=0.3, interspecies=0.0)
    state = run(search, 3)
    assert len(state.species) > 1
    values = {one.id: state.estimates[one.id].values["height"] for one in state.population}
    allowed: set[int] = set()
    for one in state.species:
        ranked = sorted(one.members, key=lambda id: (-values[id], id))
        allowed |= set(ranked[: int(np.ceil(0.3 * len(ranked)))])
    born, home = search.ask(state)[0], homes(state)
    assert all(set(child.parents) <= allowed for child in born)
    assert all(len({home[id] for id in child.parents}) == 1 for child in born)
    assert any(len(child.parents) == 2 for child in born)


def test_the_fitter_parent_comes_first() -> None:
    search = neat(survival=1.0)
    state = run(search, 2)
    made, fitness = plan(search, state), search.fitness(state)
    mated = made.other != ALONE
    assert (fitness[made.fitter[mated]] >= fitness[made.other[mated]]).all()
    assert (made.fitter[mated] != made.other[mated]).all(), "nobody mates with itself"
    assert not made.equal.any()


def test_equally_fit_parents_are_told_so() -> None:
    search = neat(mutate_only=0.0, elitism=0, survival=1.0)
    state = run(search, 2, lambda one: Estimate(one.id, "ok", {"height": 1.0}))
    made = plan(search, state)
    assert (made.equal == (made.other != ALONE)).all() and made.equal.any()


def test_champions_of_large_species_are_copied_unchanged() -> None:
    search = neat()
    state = run(search, 4)
    champions = {one.champion for one in state.species if len(one.members) > 5}
    born, _ = search.ask(state)
    genomes = {one.id: one.genome for one in state.population}
    copies = {child.parents[0]: child for child in born if child.genome == genomes[child.parents[0]]}
    assert champions and champions <= copies.keys()
    assert all(copies[id or 0].edits == () and copies[id or 0].birth == state.generation for id in champions)


def test_a_champion_is_the_fittest_member() -> None:
    state = run(neat(), 4)
    for one in state.species:
        assert one.champion == max(one.members, key=lambda id: (state.estimates[id].values["height"], -id))


def test_shares_of_mutation_and_mating() -> None:
    state = run(neat(population=400), 2)
    alone = plan(neat(population=400, mutate_only=1.0, elitism=0), state)
    assert (alone.other == ALONE).all() and alone.mutated.all()
    unchanged = plan(neat(population=400, mutate_only=0.0, mate_only=1.0, elitism=0), state)
    assert (unchanged.mutated == (unchanged.other == ALONE)).all()
    usual = plan(neat(population=400, elitism=0), state)
    assert 0.15 < (usual.other == ALONE).mean() < 0.4


def test_strangers_come_from_other_species() -> None:
    state = run(neat(population=200), 2)
    home = homes(state)
    born, _ = neat(population=200, interspecies=1.0, mutate_only=0.0, elitism=0).ask(state)
    pairs = [child.parents for child in born]
    assert len(state.species) > 1 and all(home[a] != home[b] for a, b in pairs)


def test_plans_of_both_lanes_are_one() -> None:
    search = neat(Crowds())
    state = leap(search, leap(search, begin()))
    plain = replace(state, population=tuple(state.population), estimates=dict(state.estimates))
    one, other = plan(search, state), plan(neat(), plain)
    for name in ("fitter", "other", "equal", "mutated"):
        assert (getattr(one, name) == getattr(other, name)).all()


# -------------------------------------------------------------------------------------------------------- stagnation


def test_a_species_that_stagnates_has_no_children() -> None:
    search = neat(stagnation=4, species_elitism=0, population_stagnation=None, interspecies=0.0, survival=1.0)
    state = run(search, 3)
    old = state.species[0]
    state = replace(state, species=(replace(old, improved=state.generation - 4), *state.species[1:]))
    parents = {id for child in search.ask(state)[0] for id in child.parents}
    assert len(state.species) > 1 and parents and parents.isdisjoint(old.members)
    kept = neat(stagnation=4, species_elitism=99, population_stagnation=None, survival=1.0)
    assert not {id for child in kept.ask(state)[0] for id in child.parents}.isdisjoint(old.members)


def test_a_population_that_stagnates_goes_on_with_its_two_best_species() -> None:
    search = neat(population_stagnation=20, stagnation=99, interspecies=0.0)
    state = run(search, 3)
    state = replace(state, generation=23, memory={**state.memory, "improved": 3})
    best = sorted(state.species, key=lambda one: -state.estimates[one.champion or 0].values["height"])[:2]
    home = homes(state)
    assert len(state.species) > 2
    parents = {home[id] for child in search.ask(state)[0] for id in child.parents}
    assert parents <= {one.id for one in best}
    later = replace(state, generation=24)
    assert len({home[id] for child in search.ask(later)[0] for id in child.parents}) > 2, "once in 20 generations"


def test_improvement_is_remembered() -> None:
    def flat(one: Individual) -> Estimate:
        return Estimate(one.id, "ok", {"height": 1.0})

    search = neat()
    state = run(search, 5, flat)
    assert state.memory["improved"] == 1
    state = step(search, state, lambda one: Estimate(one.id, "ok", {"height": 2.0}))
    assert state.memory["improved"] == 6


def test_with_several_objectives_a_species_improves_when_it_reaches_the_front() -> None:
    objectives = (Objective("height", direction="max"), Objective("first"))
    search = neat(objectives=objectives)
    state = run(search, 2)
    for _ in range(4):
        before = set(state.front)
        state = step(search, state)
        fresh = set(state.front) - before
        for one in state.species:
            assert (one.improved == state.generation) >= bool(fresh & set(one.members))
            assert one.improved < state.generation or one.born == state.generation or fresh & set(one.members)


@pytest.mark.parametrize("extinct", ["restart", "stop"])
def test_a_population_that_dies_out(extinct: str) -> None:
    search = neat(extinct=extinct)
    state = step(search, begin(), lambda one: Estimate.failed(one.id, "boom"))
    if extinct == "restart":
        assert len(search.ask(state)[0]) == 40
        return
    with pytest.raises(EvonasError, match=r"died out after generation 1: not one .* strategy\.extinct to 'restart'"):
        search.ask(state)


def test_all_species_may_stagnate() -> None:
    settings = {"stagnation": 2, "species_elitism": 0, "population_stagnation": None}
    state = run(neat(), 3)
    state = replace(state, generation=9)
    with pytest.raises(EvonasError, match="all its species have stagnated"):
        neat(extinct="stop", **settings).ask(state)
    anew, _ = neat(**settings).ask(state)
    assert len(anew) == 40 and all(child.parents == () for child in anew)


# -------------------------------------------------------------------------------------------------------------- goal


@pytest.mark.parametrize("lane", [Vectors(), Crowds()], ids=["one by one", "cohort"])
def test_the_first_who_reaches_the_goal_is_remembered(lane: Any) -> None:
    search = neat(lane, goal={"first": 0.9})
    state = begin()
    while state.memory.get("solved") is None:
        state = leap(search, state) if isinstance(lane, Crowds) else step(search, state)
    solved = int(state.memory["solved"])
    reached = [one.id for one in state.population if one.genome.genes[0] >= 0.9]  # type: ignore[attr-defined]
    assert solved == reached[0]
    assert step(search, state).memory["solved"] == solved


def test_a_goal_follows_its_objectives_direction() -> None:
    low = neat(objectives=(Objective("first"),), goal={"first": 0.05})
    state = begin()
    while state.memory.get("solved") is None:
        state = step(low, state)
    assert state.estimates[int(state.memory["solved"])].values["first"] <= 0.05


def test_goals_are_reached_together_by_one_that_did_not_fail() -> None:
    def judge(one: Individual) -> Estimate:
        even = one.id % 2 == 0
        if one.id % 10 == 3:
            return Estimate(one.id, "failed", {"height": 1.0, "more": 1.0}, "boom")
        return Estimate(one.id, "ok", {"height": float(even), "more": float(not even)})

    assert run(neat(goal={"height": 1.0, "more": 1.0}), 1, judge).memory["solved"] is None
    assert run(neat(goal={"more": 1.0}), 1, judge).memory["solved"] == 1
    with pytest.raises(RecipeError, match="'nowhere', which is not recorded"):
        run(neat(goal={"nowhere": 1.0}), 1, judge)


# ----------------------------------------------------------------------------------------------- fitness and searching


def test_fitness_is_the_objective_or_ranks() -> None:
    state = run(neat(), 2)
    heights = [state.estimates[one.id].values["height"] for one in state.population]
    assert neat().fitness(state).tolist() == heights
    several = neat(objectives=(*MAX, Objective("first")))
    fitness = several.fitness(state)
    rank, _ = several.problem.order(several.problem.losses(state.estimates[one.id] for one in state.population))
    assert all((fitness[rank == i].min() > fitness[rank == i + 1].max()) for i in range(rank.max()))
    assert fitness.min() >= 0


def test_who_breaks_a_constraint_is_less_fit() -> None:
    search = neat(objectives=(Objective("height", direction="max", min=-0.5),))
    state = run(neat(), 1)
    fitness = search.fitness(state)
    kept = np.array([state.estimates[one.id].values["height"] >= -0.5 for one in state.population])
    assert kept.any() and not kept.all() and fitness[kept].min() > fitness[~kept].max()


@pytest.mark.parametrize("lane", [Vectors(), Crowds()], ids=["one by one", "cohort"])
def test_it_climbs(lane: Any) -> None:
    advance = leap if isinstance(lane, Crowds) else step
    search = neat(lane)
    state = first = advance(search, begin())
    for _ in range(25):
        state = advance(search, state)
    best = [max(one.values["height"] for one in (s.estimates[id] for id in s.front)) for s in (first, state)]
    assert best[1] > best[0] / 5 and best[1] > -0.05


def test_without_speciation_the_population_is_one() -> None:
    state = run(neat(speciation=None), 8)
    assert state.species == () and len(state.population) == 40


def test_the_screen_keeps_children_unborn() -> None:
    search = neat(screen=lambda genome: genome.genes[1] < 0.6)
    state = begin()
    for _ in range(6):
        state = step(search, state)
        assert all(one.genome.genes[1] < 0.6 for one in state.population)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------- the fast lane


def test_cohorts_stay_cohorts_and_asking_is_pure() -> None:
    search = neat(Crowds())
    state = leap(search, leap(search, begin()))
    before = (random.getstate(), np.random.get_state()[1].tolist())
    (one, first), (two, second) = search.ask(state), search.ask(state)
    assert list(one) == list(two) and seen(first) == seen(second)
    assert seen(search.tell(first, Scored(one, scores(one)))) == seen(search.tell(second, Scored(two, scores(two))))  # type: ignore[arg-type]
    assert before == (random.getstate(), np.random.get_state()[1].tolist())
    assert isinstance(state.population, Cohort) and isinstance(state.estimates, Scores)
    assert [one.birth for one in one] == [2] * 40 and one[0].id == 80


def test_a_cohort_told_one_by_one_searches_alike() -> None:
    search = neat(Crowds())
    together, apart = begin(), begin()
    for _ in range(4):
        together, apart = leap(search, together), step(search, apart)
    assert [one.id for one in together.population] == [one.id for one in apart.population]
    assert [one.genome for one in together.population] == [one.genome for one in apart.population]
    assert [one.members for one in together.species] == [one.members for one in apart.species]
    assert together.front == apart.front and together.memory == apart.memory


def test_failures_leave_the_cohort() -> None:
    search = neat(Crowds())
    born, asked = search.ask(leap(search, begin()))
    assert isinstance(born, Cohort)
    judged = scores(born, {3: "boom", 39: "boom"})
    judged.columns["height"][5] = np.nan
    state = search.tell(asked, Scored(born, judged))
    dead = {int(born.ids[at]) for at in (3, 5, 39)}
    assert {one.id for one in state.population} == set(born.ids.tolist()) - dead
    assert any(one.edits for one in state.population)
    for one in state.population:
        assert one == born[born.position(one.id)] and state.estimates[one.id].status == "ok"
    assert len(search.ask(state)[0]) == 40 and dead.isdisjoint(state.front)
    assert {id for one in state.species for id in one.members} == {one.id for one in state.population}


def test_the_front_outlives_the_cohort() -> None:
    search = neat(Crowds(), elitism=0)
    state = begin()
    best = -np.inf
    for _ in range(12):
        state = leap(search, state)
        best = max(best, *(state.estimates[one.id].values["height"] for one in state.population))
        assert len(state.front) == 1 and state.estimates[state.front[0]].values["height"] == best


def test_a_cohort_that_fails_to_the_last() -> None:
    search = neat(Crowds())
    born, asked = search.ask(begin())
    assert isinstance(born, Cohort)
    state = search.tell(asked, Scored(born, scores(born, dict.fromkeys(range(40), "boom"))))
    assert not state.population and state.front == ()
    assert len(leap(search, state).population) == 40


# -------------------------------------------------------------------------------------------------- direct genomes


ONE = (Objective("fitness", direction="max"),)
TWO = (*ONE, Objective("links"))


def xor(objectives: tuple[Objective, ...] = ONE, structure: Structure | None = None, **given: Any) -> Neat:
    encoding = build(NeatSettings(structure=structure or Structure()), (2,), 1)
    made = NeatStrategySettings(**{"population": 60, "speciation": SpeciationSettings(target=6), **given})
    built = strategy.build(made, Problem(encoding, objectives, 1, lambda _: True, speciation=made.speciation))
    assert isinstance(built, Neat)
    return built


XOR, AND = (0, 1, 1, 0), (0, 0, 0, 1)


def judged(born: Cohort, wanted: Sequence[int] = XOR) -> Scores:
    """Fitness on exclusive or and the number of links, of the genomes' own networks."""
    rows = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    wrong = reference(born.genomes, rows)[:, :, 0] - np.array(wanted)
    links = born.genomes.sizes()["links"].astype(float)
    return Scores(born.ids, {"fitness": 4 - (wrong**2).sum(axis=1), "links": links})


def evolve(search: Neat, state: State, generations: int, wanted: Sequence[int] = XOR) -> State:
    for _ in range(generations):
        born, asked = search.ask(state)
        assert isinstance(born, Cohort)
        state = search.tell(asked, Scored(born, judged(born, wanted)))
    return state


def values(state: State) -> Any:
    return (
        [(one.id, one.parents, one.edits, one.genome.text) for one in state.population],
        [(one.id, one.members, one.born, one.best, one.improved, one.champion) for one in state.species],
        state.front, state.marks, state.memory, dict(state.estimates),
    )  # fmt: skip


def test_direct_genomes_grow_and_improve() -> None:
    search = xor(goal={"fitness": 2.9})
    state = evolve(search, begin(), 12)
    best = state.estimates[state.front[0]].values["fitness"]
    hidden = state.population.genomes.sizes()["hidden"]  # type: ignore[attr-defined]
    assert best > 2.5 and hidden.max() > 0
    assert all(one.id < state.next_id and one.birth == 11 for one in state.population)
    for one in state.population[:10]:
        search.problem.encoding.check(one.genome)


def test_direct_genomes_replay() -> None:
    state = evolve(xor(), begin(), 5)
    again = begin()
    for _ in range(5):
        again = evolve(xor(), again, 1)
    assert values(state) == values(again)


def test_a_restored_state_goes_on_alike() -> None:
    """Representatives and estimates come back from a run folder as genomes of their own and as scores."""
    search = xor()
    state = evolve(search, begin(), 6)
    encoding: Any = search.problem.encoding
    population = state.population
    assert isinstance(population, Cohort)
    restored = replace(
        state,
        population=replace(population, genomes=encoding.unpack_state(encoding.pack_state(population.genomes))),
        species=tuple(
            replace(one, representative=replace(
                one.representative, genome=encoding.from_json(encoding.to_json(one.representative.genome))
            ))
            for one in state.species
        ),
    )  # fmt: skip
    assert values(evolve(search, state, 4)) == values(evolve(search, restored, 4))


def test_the_same_structure_has_the_same_marks_in_all_genomes() -> None:
    state = evolve(xor(population=200), begin(), 10)
    genomes: Any = state.population.genomes  # type: ignore[attr-defined]
    ends = {(int(m), int(s), int(t)) for m, s, t in zip(genomes.link_mark, genomes.source, genomes.target, strict=True)}
    assert len(ends) == len({mark for mark, _, _ in ends}) == len({pair[1:] for pair in ends})
    assert genomes.link_mark.max() < state.marks.next


def test_several_objectives_make_a_front_of_direct_genomes() -> None:
    search = xor(structure=Structure(remove_link=0.2), objectives=TWO)
    state = evolve(search, begin(), 10, AND)
    front = [state.estimates[id].values for id in state.front]
    assert len(front) > 1 and len({one["links"] for one in front}) == len(front)


def test_direct_genomes_search_under_nsga2() -> None:
    posed = xor(structure=Structure(remove_link=0.2), objectives=TWO).problem
    search = strategy.build(Nsga2Settings(population=20, generations=5), posed)
    state = begin()
    for _ in range(5):
        born, asked = search.ask(state)
        cohort = Cohort.of(born, posed.encoding.population)  # type: ignore[attr-defined]
        state = search.tell(asked, Scored(cohort, judged(cohort, AND)))
    assert len(state.population) == 20 and len(state.front) > 1 and state.species
