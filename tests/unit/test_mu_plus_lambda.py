"""The (mu + lambda) family: member by member what DEAP's own loops give, and what evonas adds."""

from __future__ import annotations

from typing import Any

import pytest
from deap import algorithms, tools

from evonas import operators
from evonas.core import Estimate, Individual, Objective, State, lend_global_streams
from evonas.marks import MarkBook
from evonas.operators import Creature
from evonas.strategy import MuPlusLambdaSettings
from evonas.strategy.mu_plus_lambda import MuPlusLambda
from evonas.strategy.problem import Problem, begin
from tests.vectors import Vectors

ONE = (Objective("loss"),)
SEED = 4


def loss(genome: Any) -> float:
    return float(sum((gene - 0.7) ** 2 for gene in genome.genes))


def judge(one: Individual) -> Estimate:
    return Estimate(one.id, "ok", {"loss": loss(one.genome)})


def search_of(objectives: Any = ONE, screen: Any = None, **given: Any) -> MuPlusLambda:
    problem = Problem(Vectors(), objectives, SEED, screen or (lambda genome: True))
    return MuPlusLambda(problem, MuPlusLambdaSettings(**{"population": 10, **given}))


def step(search: MuPlusLambda, state: State, judge: Any = judge) -> State:
    born, asked = search.ask(state)
    return search.tell(asked, [(one, judge(one)) for one in born])


def run(search: MuPlusLambda, generations: int, judge: Any = judge) -> State:
    state = begin()
    for _ in range(generations):
        state = step(search, state, judge)
    return state


def members(state: State) -> list[Any]:
    genomes = {one.id: one.genome for one in state.population}
    return [genomes[id] for id in state.memory["members"]]


# ------------------------------------------------------------------------------------------------------------- parity


def by_deap(search: MuPlusLambda, generations: int) -> list[list[Any]]:
    """The genomes of every generation, repeats included, when DEAP's functions run on the same streams."""
    settings, fitness = search.settings, operators.fitness_class(ONE)
    chosen = settings.selection
    select = lambda creatures, k: getattr(tools, chosen.name)(creatures, k, **chosen.settings)  # noqa: E731
    box = operators.toolbox(search.problem.encoding, MarkBook(), select)
    first, _ = search.ask(begin())
    population = [Creature(one.genome, fitness()) for one in first]
    history = []
    for generation in range(generations):
        children = population
        if generation:
            with lend_global_streams(SEED, "breed", generation):
                if settings.algorithm == "generational":
                    parents = select(population, len(population))
                    children = algorithms.varAnd(parents, box, settings.crossover, settings.mutation)
                else:
                    count = settings.offspring or settings.population
                    children = algorithms.varOr(population, box, count, settings.crossover, settings.mutation)
        for one in children:
            if not one.fitness.valid:
                one.fitness.values = (loss(one.genome),)
        if generation and settings.algorithm != "generational":
            with lend_global_streams(SEED, "survive", generation):
                pool = population + children if settings.algorithm == "plus" else children
                children = select(pool, settings.population)
        population = children
        history.append([one.genome for one in population])
    return history


TOURNAMENT = {"name": "selTournament", "settings": {"tournsize": 3}}


@pytest.mark.parametrize(
    "given",
    [
        {"algorithm": "plus"},
        {"algorithm": "plus", "offspring": 25, "select": TOURNAMENT},
        {"algorithm": "plus", "offspring": 4, "select": {"name": "selRoulette"}},
        {"algorithm": "comma", "offspring": 30},
        {"algorithm": "comma", "offspring": 12, "select": TOURNAMENT},
        {"algorithm": "generational", "crossover": 0.7, "mutation": 0.4},
        {"algorithm": "generational", "select": {"name": "selStochasticUniversalSampling"}},
    ],
    ids=str,
)
def test_every_generation_is_what_deap_makes_of_it(given: dict[str, Any]) -> None:
    search = search_of(repeats=True, **given)
    expected, state = by_deap(search, 12), begin()
    for generation in range(12):
        state = step(search, state)
        assert members(state) == expected[generation], generation


# ---------------------------------------------------------------------------------------------------- beside parity


def test_copies_are_not_estimated_again() -> None:
    search = search_of(crossover=0.1, mutation=0.2, offspring=40, algorithm="comma")
    state = run(search, 1)
    born, asked = search.ask(state)
    assert 1 <= len(born) < 30
    copies = [id for id in asked.memory["offspring"] if id < 10]
    assert len(copies) + len(born) == 40
    assert {one.id for one in state.population} >= set(copies)


def test_a_generation_of_copies_alone_is_drawn_again() -> None:
    """An empty ask would be the end of the run."""
    search = search_of(crossover=0.0, mutation=0.01, offspring=1)
    state = run(search, 1)
    for _ in range(30):
        assert search.ask(state)[0]
        state = step(search, state)


def test_children_are_new_unless_repeats_are_allowed() -> None:
    state = run(search_of(), 1)
    keys = {one.genome.key for one in state.population}
    made = [one.genome.key for one in search_of(offspring=60, crossover=0.9, mutation=0.1).ask(state)[0]]
    assert len(set(made)) == len(made) and not keys & set(made)


@pytest.mark.parametrize("algorithm", ["comma", "generational"])
def test_the_elite_stays(algorithm: str) -> None:
    """Children that are all worse take every place but the elite's."""
    search = search_of(algorithm=algorithm, elitism=2, crossover=0.3, mutation=0.7)
    state = run(search, 1)
    best = sorted(state.population, key=lambda one: loss(one.genome))[:2]
    for _ in range(4):
        state = step(search, state, lambda one: Estimate(one.id, "ok", {"loss": 50.0 + one.id}))
        assert {one.id for one in best} <= {one.id for one in state.population}
        assert len(state.memory["members"]) == 10


def test_without_elite_the_parents_of_comma_go() -> None:
    search = search_of(algorithm="comma", crossover=0.3, mutation=0.7)
    state = run(search, 1)
    after = step(search, state, lambda one: Estimate(one.id, "ok", {"loss": 50.0}))
    assert not {one.id for one in after.population} & {one.id for one in state.population}


def test_who_breaks_a_constraint_is_worse_than_all_who_keep_it() -> None:
    search = search_of((Objective("loss", min=0.5),), population=30)
    state = run(search, 1)
    values = [one.fitness.values[0] for one in search.creatures(state, [one.id for one in state.population])]
    true = [loss(one.genome) for one in state.population]
    kept = [value for value, of in zip(values, true, strict=True) if of >= 0.5]
    broken = [value for value, of in zip(values, true, strict=True) if of < 0.5]
    assert kept == [of for of in true if of >= 0.5] and broken
    assert min(broken) > max(kept)


def test_a_maximised_objective_is_maximised() -> None:
    search = search_of((Objective("fitness", direction="max"),))
    state = run(search, 15, lambda one: Estimate(one.id, "ok", {"fitness": -loss(one.genome)}))
    assert state.estimates[state.front[0]].values["fitness"] > -0.1


def test_a_screen_is_kept() -> None:
    search = search_of(screen=lambda genome: genome.genes[0] < 0.5)
    state = run(search, 6)
    assert all(one.genome.genes[0] < 0.5 for one in state.population)  # type: ignore[attr-defined]


@pytest.mark.parametrize("algorithm", ["plus", "comma", "generational"])
def test_failures_leave_fewer_and_none_at_all_leaves_the_old(algorithm: str) -> None:
    search = search_of(algorithm=algorithm, crossover=0.5, mutation=0.5)
    state = run(search, 2)
    before = [one.id for one in state.population]
    after = step(search, state, lambda one: Estimate.failed(one.id, "boom"))
    assert {one.id for one in after.population} <= set(before) and after.population
    assert step(search, after).population


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm": "comma", "offspring": 5}, "offspring 5 cannot fill a population of 10: raise offspring"),
        ({"algorithm": "generational", "offspring": 5}, "leave offspring 5 out"),
        ({"crossover": 0.6, "mutation": 0.5}, "exclude each other with plus: 1.1 is above 1"),
        ({"crossover": 0, "mutation": 0}, "both 0, so that nothing would ever change"),
        ({"elitism": 11}, "elitism 11 is more than the population 10"),
        ({"select": {"name": "selTournament"}}, "selTournament needs settings tournsize"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_of(**given)


def test_it_comes_closer_than_random_draws() -> None:
    for algorithm in ("plus", "comma", "generational"):
        children = 40 if algorithm == "comma" else None
        state = run(search_of(algorithm=algorithm, population=20, offspring=children, elitism=1), 15)
        assert state.estimates[state.front[0]].values["loss"] < 0.03
