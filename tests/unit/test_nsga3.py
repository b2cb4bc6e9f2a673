"""NSGA-III, and NSGA-II's and NSGA-III's survival beside DEAP's and pymoo's on problems with known fronts."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from typing import Any

import numpy as np
import pytest
from deap import tools
from moocore import hypervolume
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.problems.many.dtlz import DTLZ2
from pymoo.problems.multi.zdt import ZDT1
from pymoo.util.ref_dirs import get_reference_directions

from evonas import operators, pareto
from evonas import recipe as recipes
from evonas.core import Estimate, Individual, Objective, RecipeError, State, lend_global_streams
from evonas.strategy import DeapSelection, Nsga2Settings, Nsga3Settings
from evonas.strategy.nsga2 import Nsga2
from evonas.strategy.nsga3 import Nsga3
from evonas.strategy.problem import Problem, begin, settle
from tests.vectors import Vectors

TWO = tuple(Objective(f"f{i}") for i in range(2))
THREE = tuple(Objective(f"f{i}") for i in range(3))
Reals = NDArray[np.float64]


def zdt1(genes: Any) -> list[float]:
    g = 1 + 9 * sum(genes[1:]) / (len(genes) - 1)
    return [genes[0], g * (1 - (genes[0] / g) ** 0.5)]


def dtlz2(genes: Any) -> list[float]:
    """The part of the unit sphere in the positive orthant is the front. Deb, Thiele, Laumanns, Zitzler 2005."""
    a, b = (gene * np.pi / 2 for gene in genes[:2])
    g = 1 + sum((gene - 0.5) ** 2 for gene in genes[2:])
    return [float(g * np.cos(a) * np.cos(b)), float(g * np.cos(a) * np.sin(b)), float(g * np.sin(a))]


def judged(individual: Individual) -> Estimate:
    genes = individual.genome.genes  # type: ignore[attr-defined]
    return Estimate(individual.id, "ok", {f"f{i}": value for i, value in enumerate(dtlz2(genes))})


def of_two(individual: Individual) -> Estimate:
    genes = individual.genome.genes  # type: ignore[attr-defined]
    return Estimate(individual.id, "ok", {f"f{i}": value for i, value in enumerate(zdt1(genes))})


def nsga3(objectives: Any = THREE, seed: int = 1, **given: Any) -> Nsga3:
    settings = Nsga3Settings(**{"population": 28, **given})
    return Nsga3(Problem(Vectors(), objectives, seed, lambda genome: True), settings)


def nsga2(objectives: Any, seed: int = 1, **given: Any) -> Nsga2:
    settings = Nsga2Settings(**{"population": 28, **given})
    return Nsga2(Problem(Vectors(), objectives, seed, lambda genome: True), settings)


def run(search: Any, generations: int, judge: Any = judged) -> State:
    state = begin()
    for _ in range(generations):
        born, asked = search.ask(state)
        state = search.tell(asked, [(one, judge(one)) for one in born])
    return state


def losses_of(state: State) -> Reals:
    return np.array([list(state.estimates[one.id].values.values()) for one in state.population])


def cloud(count: int, objectives: int, seed: int) -> Reals:
    """Points of ZDT1 or DTLZ2 from random genes."""
    genes = np.random.default_rng(seed).random((count, 6))
    return np.array([(zdt1 if objectives == 2 else dtlz2)(row) for row in genes.tolist()])


def told(points: Reals) -> list[tuple[Individual, Estimate]]:
    """Individuals with the points as values."""
    space = Vectors()
    genomes = [space.from_tokens([i % 9] * 6) for i in range(len(points))]
    return [
        (Individual(i, genomes[i]), Estimate(i, "ok", {f"f{k}": float(value) for k, value in enumerate(row)}))
        for i, row in enumerate(points)
    ]


# ------------------------------------------------------------------------------------- the problems are the known ones


def test_the_problems_are_pymoos() -> None:
    genes = np.random.default_rng(0).random((30, 6))
    assert np.array([zdt1(row) for row in genes.tolist()]) == pytest.approx(ZDT1(n_var=6).evaluate(genes))
    theirs = DTLZ2(n_var=6, n_obj=3).evaluate(genes)
    assert np.array([dtlz2(row) for row in genes.tolist()]) == pytest.approx(theirs)


# ----------------------------------------------------------------------------------------- NSGA-II: the same survivors


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("objectives", [2, 3])
def test_nsga2_keeps_whom_deap_and_pymoo_keep(objectives: int, seed: int) -> None:
    points = cloud(56, objectives, seed)
    search = nsga2(TWO if objectives == 2 else THREE)
    ours = {one.id for one in search.tell(replace(begin(), next_id=56), told(points)).population}
    rank = pareto.ranks(points)
    merit = list(zip(rank.tolist(), (-pareto.crowding(points, rank)).tolist(), strict=True))
    last = max(merit[id] for id in ours)
    equal = {id for id in range(56) if merit[id] == last}  # of these, such as both ends of a front, any will do

    fitness = operators.fitness_class([Objective(f"f{i}") for i in range(objectives)])
    creatures = [
        operators.creature(one[0], row, fitness) for one, row in zip(told(points), points.tolist(), strict=True)
    ]
    deap = {creature.id for creature in tools.selNSGA2(creatures, 28)}
    whole, posed = Population.new(F=points, X=np.arange(56)[:, None]), PymooProblem(n_var=1, n_obj=objectives)
    kept = RankAndCrowding().do(posed, whole, n_survive=28, random_state=np.random.default_rng(0))
    pymoo = set(kept.get("X")[:, 0].tolist())
    assert len(ours) == len(deap) == len(pymoo) == 28 and len(equal) <= objectives * 2
    assert ours - equal == deap - equal == pymoo - equal


def volume(points: Reals) -> float:
    reference = [1.1] * points.shape[1]
    return float(hypervolume(points, ref=reference))


def test_nsga2_reaches_the_hypervolume_that_deap_reaches_on_zdt1() -> None:
    """Breeding is the same, survival is ours or DEAP's; the front's hypervolume is 0.877."""
    ours, theirs = [], []
    for seed in range(3):
        for into, survive in ((ours, "rank-and-crowding"), (theirs, DeapSelection(name="selNSGA2"))):
            into.append(volume(losses_of(run(nsga2(TWO, seed, survive=survive), 60, of_two))))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.02)
    assert np.mean(ours) > 0.8
    assert pareto.hypervolume(cloud(40, 2, 1), (1.1, 9.0)) == pytest.approx(
        float(hypervolume(cloud(40, 2, 1), ref=[1.1, 9.0])), rel=1e-12
    )


# ------------------------------------------------------------------------------------------------------------ NSGA-III


@pytest.mark.parametrize(("objectives", "divisions"), [(2, 9), (3, 6), (5, 3)])
def test_directions_are_das_and_dennis(objectives: int, divisions: int) -> None:
    ours = operators.directions(objectives, divisions)
    theirs = get_reference_directions("das-dennis", objectives, n_partitions=divisions)
    assert sorted(map(tuple, ours.round(9))) == sorted(map(tuple, theirs.round(9)))
    two = operators.directions(objectives, divisions, 2)
    assert two.sum(axis=1) == pytest.approx(1.0) and (two >= 0).all()
    assert len(two) == len(ours) + comb(2 + objectives - 1, 2)


@pytest.mark.parametrize(
    ("population", "inner", "expected"), [(92, None, 91), (91, None, 91), (90, None, 78), (28, 1, 24)]
)
def test_directions_are_as_many_as_the_population_has_room_for(population: int, inner: Any, expected: int) -> None:
    assert len(nsga3(population=population, inner=inner).points) == expected


class WithPymoo(Nsga3):
    """The same breeding with pymoo's survival, which keeps its points itself."""

    def tell(self, state: State, scored: Any) -> State:
        state = replace(state, memory={**state.memory, "pymoo": True})
        estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
        pool = [*state.population, *(one for one, _ in scored)]
        points = np.array([list(estimates[one.id].values.values()) for one in pool])
        survival = _SURVIVALS.setdefault(self.problem.seed, ReferenceDirectionSurvival(self.points))
        whole = Population.new(F=points, X=np.arange(len(pool))[:, None])
        kept = survival.do(
            PymooProblem(n_var=1, n_obj=3), whole, n_survive=self.settings.population,
            random_state=np.random.default_rng(state.generation),
        )  # fmt: skip
        chosen = sorted(kept.get("X")[:, 0].tolist())
        return settle(self.problem, state, scored, [pool[i] for i in chosen], estimates)


_SURVIVALS: dict[int, ReferenceDirectionSurvival] = {}


def test_nsga3_reaches_the_hypervolume_that_pymoo_reaches_on_dtlz2() -> None:
    """The sphere's hypervolume below (1.1, 1.1, 1.1) is 1.331 - pi / 6 = 0.807, of 28 points at most about 0.71."""
    ours, theirs = [], []
    for seed in range(3):
        search = nsga3(seed=seed)
        ours.append(volume(losses_of(run(search, 60))))
        theirs.append(volume(losses_of(run(WithPymoo(search.problem, search.settings), 60))))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.02)
    assert np.mean(ours) > 0.6


def test_survivors_are_those_of_deap_with_a_memory() -> None:
    """`selNSGA3WithMemory` on the same pools and streams."""
    search, select = nsga3(), None
    state = begin()
    for generation in range(8):
        born, asked = search.ask(state)
        scored = [(one, judged(one)) for one in born]
        after = search.tell(asked, scored)
        if generation:
            pool = [*state.population, *born]
            values = {**state.estimates, **{e.id: e for _, e in scored}}
            select = select or tools.selNSGA3WithMemory(search.points)
            creatures = operators.creatures(pool, [values[one.id] for one in pool], THREE)
            with lend_global_streams(1, "survive", generation):
                chosen = select(creatures, 28)
            assert {one.id for one in chosen} == {one.id for one in after.population}
        state = after


def test_scales_do_not_matter() -> None:
    """Objectives in millions and in thousandths give the same survivors."""
    scales = (1e6, 1e-3, 1.0)

    def scaled(one: Individual) -> Estimate:
        values = judged(one).values
        return Estimate(
            one.id, "ok", {name: value * by for (name, value), by in zip(values.items(), scales, strict=True)}
        )

    plain, other = run(nsga3(), 2), run(nsga3(), 2, scaled)
    assert [one.id for one in plain.population] == [one.id for one in other.population]


def test_who_keeps_the_constraints_survives_first() -> None:
    limited = (Objective("f0", max=0.4), *THREE[1:])
    search = nsga3(limited)
    state = run(search, 12)
    assert all(state.estimates[one.id].values["f0"] <= 0.4 for one in state.population)
    born, asked = search.ask(begin())
    pairs = [(one, judged(one)) for one in born]
    few = nsga3((Objective("f0", max=0.0), *THREE[1:]), population=5)
    beyond = few.tell(asked, pairs).population
    least = sorted(pairs, key=lambda pair: (pair[1].values["f0"], pair[0].id))[:5]
    assert {one.id for one in beyond} == {one.id for one, _ in least}


def test_one_objective_has_no_directions() -> None:
    with pytest.raises(RecipeError, match="'nsga3' needs two objectives or more"):
        nsga3(TWO[:1])
    recipe = {"task": {"kind": "digits"}, "objectives": ["error"], "strategy": {"kind": "nsga3"}}
    with pytest.raises(recipes.InvalidRecipe, match=r"add one, or set strategy\.kind: mu_plus_lambda"):
        recipes.read(recipe)
