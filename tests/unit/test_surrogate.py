"""Surrogate-assisted search and Bayesian optimisation: what they learn from, propose and choose; in recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import evonas
from evonas import recipe, strategy
from evonas.core import Estimate, Individual, Objective, State, Strategy
from evonas.encoding.cell import CellEncoding, CellSettings
from evonas.encoding.dag import DagEncoding, DagSettings
from evonas.recipe import InvalidRecipe
from evonas.strategy import BayesianSettings, RandomSettings, SurrogateSettings
from evonas.strategy.problem import Problem, begin
from evonas.strategy.proposals import MOST, Past
from evonas.strategy.surrogate import Axes, Bend, Spread
from tests.vectors import Vector, Vectors, problem

Judge = Callable[[Individual], Estimate]
LOSS = (Objective("loss"),)
TWO = (Objective("f1", cheap=True), Objective("f2"))
KINDS: dict[str, Any] = {"bayesian": BayesianSettings, "surrogate": SurrogateSettings}


def valley(individual: Individual) -> Estimate:
    """A loss of six genes, 0 at .7 each, where pairs of them count together."""
    genes = np.array(individual.genome.genes) - 0.7  # type: ignore[attr-defined]
    return Estimate(individual.id, "ok", {"loss": float((genes**2).sum() + ((genes[::2] + genes[1::2]) ** 2).sum())})


def step(search: Strategy, state: State, judge: Judge = valley) -> State:
    born, asked = search.ask(state)
    return search.tell(asked, [(one, judge(one)) for one in born])


def run(search: Strategy, generations: int, judge: Judge = valley) -> State:
    state = begin()
    for _ in range(generations):
        state = step(search, state, judge)
    return state


def made(kind: str, seed: int = 1, objectives: tuple[Objective, ...] = LOSS, posed: Any = None, **given: Any) -> Any:
    settings = KINDS[kind](**{"population": 10, "strangers": 20, **given})
    return strategy.build(settings, posed or problem(seed, objectives))


def best(state: State) -> float:
    return min(one.values["loss"] for one in state.estimates.values())


# ---------------------------------------------------------------------------------------------------------- the search


@pytest.mark.parametrize(
    ("kind", "given"), [("bayesian", {}), ("surrogate", {}), ("surrogate", {"predictor": "ridge"})], ids=str
)
def test_it_finds_more_than_random_search(kind: str, given: dict[str, Any]) -> None:
    """60 of 15,625 cells, five seeds, on costs of single choices and of pairs of neighbours."""
    space, rng = CellEncoding(CellSettings(space="nasbench201"), (3, 8, 8), 10), np.random.default_rng(5)  # type: ignore[call-arg]
    single, pairs = rng.random((6, 5)), rng.random((5, 5, 5))

    def judge(one: Individual) -> Estimate:
        tokens = space.tokens(one.genome)  # type: ignore[arg-type]
        loss = sum(single[place, op] for place, op in enumerate(tokens))
        loss += sum(pairs[place, a, b] for place, (a, b) in enumerate(pairwise(tokens)))
        return Estimate(one.id, "ok", {"loss": float(loss)})

    def found(settings: Any, generations: int) -> list[float]:
        posed = [Problem(space, LOSS, seed, lambda genome: True) for seed in range(5)]
        return [best(run(strategy.build(settings, one), generations, judge)) for one in posed]

    mine = found(KINDS[kind](population=20, offspring=2, **given), 21)
    theirs = found(RandomSettings(population=60, generations=1), 1)
    assert all(one < other for one, other in zip(mine, theirs, strict=True))
    assert np.mean(mine) < np.mean(theirs) - 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_everyone_is_kept_and_nobody_estimated_twice(kind: str) -> None:
    state = run(made(kind, offspring=3), 8)
    assert [one.id for one in state.population] == list(range(10 + 7 * 3))
    assert len({one.genome.key for one in state.population}) == len(state.population)


@pytest.mark.parametrize("kind", KINDS)
def test_children_are_mutations_of_the_best(kind: str) -> None:
    search = made(kind, parents=2, strangers=0, offspring=4)
    state = run(search, 3)
    order = sorted(state.population, key=lambda one: (state.estimates[one.id].values["loss"], one.id))
    born, _ = search.ask(state)
    assert {child.parents for child in born} <= {(one.id,) for one in order[:2]}
    assert all(len(child.edits) == 1 for child in born)


@pytest.mark.parametrize("kind", KINDS)
def test_who_failed_is_not_proposed_again(kind: str) -> None:
    """A choice that always fails would look promising for ever."""
    tried: list[str] = []

    def judge(individual: Individual) -> Estimate:
        if individual.birth > 1:
            tried.append(individual.genome.key)
            return Estimate.failed(individual.id, "boom")
        return valley(individual)

    state = run(made(kind), 12, judge)
    assert len(tried) == len(set(tried)) == 10 == len(state.memory["failed"])
    assert all(one.birth <= 1 for one in state.population)


@pytest.mark.parametrize("kind", KINDS)
def test_founders_lead_the_first_generation(kind: str) -> None:
    founders = [Vector((0.1 * i,) * 6) for i in range(3)]
    posed = replace(problem(1, LOSS), founders=tuple(founders))
    born, _ = made(kind, posed=posed).ask(begin())
    assert [one.genome for one in born[:3]] == founders and len(born) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_an_exhausted_space_repeats_the_best(kind: str) -> None:
    class One(Vectors):
        def random(self, rng: Any, marks: Any) -> Vector:
            return Vector((0.5,) * 6)

        def mutate(self, genome: Vector, rng: Any, marks: Any) -> Any:
            return None

    posed = Problem(One(), LOSS, 1, lambda genome: True)
    search = made(kind, posed=posed, population=2, offspring=3)
    (copy,) = search.ask(step(search, begin()))[0]
    assert copy.edits == () and copy.parents[0] in (0, 1) and copy.genome == Vector((0.5,) * 6)


@pytest.mark.parametrize("kind", KINDS)
def test_layer_graphs_are_searched(kind: str) -> None:
    space = DagEncoding(DagSettings(), (1, 8, 8), 10)

    def judge(individual: Individual) -> Estimate:
        plan = space.decode(individual.genome)  # type: ignore[arg-type]
        return Estimate(individual.id, "ok", {"loss": abs(np.log10(1 + plan.params) - 4.5) + 0.1 * abs(plan.depth - 6)})

    posed = Problem(space, LOSS, 1, lambda genome: True)
    state = run(made(kind, posed=posed, population=8, children=15), 14, judge)
    first = min(state.estimates[id].values["loss"] for id in range(8))
    assert best(state) < 0.5 * first
    assert len({len(space.features(one.genome)) for one in state.population}) == 1


def test_predictors_learn_from_the_best_of_many() -> None:
    many = [Individual(i, Vector((0.5,) * 6)) for i in range(MOST + 50)]
    estimates = {one.id: Estimate(one.id, "ok", {"loss": float(one.id)}) for one in many}
    state = replace(begin(), population=tuple(reversed(many)), estimates=estimates)
    past = Past.of(problem(1, LOSS), state)
    assert {one.id for one in past.members} == set(range(MOST)) and len(past.losses) == len(past.rank) == MOST


# ------------------------------------------------------------------------------------------------- several objectives


def past_of(search: Any, count: int = 20) -> tuple[Past, State]:
    state = begin()
    rng = np.random.default_rng(3)
    members = tuple(Individual(i, Vector(tuple(row))) for i, row in enumerate(rng.random((count, 6)).tolist()))
    rows = [{"f1": one.genome.genes[0], "f2": 1.0 + one.id} for one in members]  # type: ignore[attr-defined]
    estimates = {i: Estimate(i, "ok", row) for i, row in enumerate(rows)}
    state = replace(state, population=members, estimates=estimates, next_id=count)
    return Past.of(search.problem, state), state


def test_cheap_objectives_are_known_and_the_rest_predicted() -> None:
    search = made("surrogate", objectives=TWO)
    past, _ = past_of(search)
    pool = [Vector((x, 0, 0, 0, 0, 0)) for x in (0.1, 0.4, 0.9)]
    spread = Spread(search.problem, past, pool, 0)
    assert spread.scores == pytest.approx(Bend.of(past.losses[:, 1:]).scores(past.losses[:, 1:]))
    # all three certain to be better than anyone: the one of the least f1 covers most
    gains = spread.gain(np.log(np.full((3, 1), 0.5)), np.full((3, 1), 1e-9), [])
    assert gains[0] > gains[1] > gains[2] > 0
    # after the first nothing is left for those behind it
    assert (spread.gain(np.log(np.full((3, 1), 0.5)), np.full((3, 1), 1e-9), [0])[1:] < 1e-9).all()
    # dominated for certain, and perhaps not
    worse = np.log(np.full((3, 1), 25.0))
    assert (spread.gain(worse, np.full((3, 1), 1e-9), []) == 0).all()
    assert (spread.gain(worse, np.full((3, 1), 9.0), []) > 0).all()


def test_a_cheap_value_that_is_no_number_gains_nothing() -> None:
    search = made("surrogate", objectives=TWO, posed=replace(problem(1, TWO), cheap=lambda genome: {"f1": np.nan}))
    past, _ = past_of(search)
    spread = Spread(search.problem, past, [Vector((0.1,) * 6)], 0)
    assert spread.gain(np.zeros((1, 1)), np.ones((1, 1)), []).tolist() == [0.0]


def test_what_breaks_a_constraint_gains_nothing() -> None:
    limited = (TWO[0], Objective("f2", max=0.4))
    search = made("surrogate", objectives=limited)
    past, _ = past_of(search)
    spread = Spread(search.problem, past, [Vector((0.1,) * 6)] * 2, 0)
    gains = spread.gain(np.log([[0.9], [0.5]]), np.full((2, 1), 1e-9), [])
    assert gains[0] < gains[1] < 0, "nobody keeps it yet: the least breaker"
    kept = Past(past.members, np.vstack([past.losses[:-1], [0.9, 0.3]]), past.rank)
    kept = replace(kept, rank=search.problem.order(kept.losses)[0])
    spread = Spread(search.problem, kept, [Vector((0.1,) * 6)] * 2, 0)
    gains = spread.gain(np.log([[0.5], [0.35]]), np.full((2, 1), 1e-9), [])
    assert gains[0] == 0 < gains[1]


def test_scores_keep_order_and_are_bent_beyond_the_median() -> None:
    losses = np.array([[1.0, -2.0], [np.e, 0.0], [np.e**2, 1.0], [np.e**5, 4.0], [np.e**9, 400.0]])
    bend = Bend.of(losses)
    scores = bend.scores(losses)
    assert bend.logs.tolist() == [True, False] and bend.losses(scores) == pytest.approx(losses)
    assert scores[:3] == pytest.approx(np.array([[0.0, -2.0], [1.0, 0.0], [2.0, 1.0]])), "as they are up to the median"
    assert scores[3:, 0] == pytest.approx(2 + 2 * np.log1p([1.5, 3.5]))
    assert (np.diff(scores, axis=0) > 0).all()
    # far beyond what was seen, and where nothing lies apart
    assert (bend.losses(np.full((1, 2), 1e6)) > 1e300).all()
    flat = Bend.of(np.full((4, 1), 3.0))
    assert flat.losses(flat.scores(np.array([[2.0], [3.0], [5.0]]))) == pytest.approx(np.array([[2.0], [3.0], [5.0]]))


def test_with_several_objectives_a_plane_is_part_of_the_process() -> None:
    """A loss that adds up is told far from all that was seen; with one objective predictions draw back to the mean."""
    rng = np.random.default_rng(4)
    known, far = [Vector(tuple(row)) for row in rng.random((40, 6)).tolist()], Vector((3.0,) * 6)
    scores = np.array([sum(one.genes) for one in known])

    def told(objectives: tuple[Objective, ...]) -> float:
        return float(made("surrogate", objectives=objectives)._model(known, [far]).predict(scores)[0][0])

    assert told(LOSS) < 6 < 12 < told(TWO) < 19


def test_axes_end_where_what_counts_does() -> None:
    axes = Axes.between(np.array([1.0, 0.0]), np.array([1000.0, 4.0]))
    unit = axes.unit(np.array([[1.0, 0.0], [np.sqrt(1000.0), 2.0], [1000.0, 4.0], [np.inf, 5.0]]))
    assert unit == pytest.approx(np.array([[0, 0], [0.5, 0.5], [1, 1], [np.inf, 1.25]]))


def test_all_objectives_cheap_and_none() -> None:
    """Nothing to predict, and everything."""
    for objectives in ((Objective("f1", cheap=True), Objective("f1b", cheap=True)), (Objective("f1"), Objective("f2"))):

        def judge(one: Individual, names: Any = objectives) -> Estimate:
            genes = one.genome.genes  # type: ignore[attr-defined]
            return Estimate(one.id, "ok", {names[0].name: genes[0], names[1].name: 1 - genes[0] + genes[1]})

        cheap = lambda genome: {"f1": genome.genes[0], "f1b": 1 - genome.genes[0] + genome.genes[1]}  # noqa: E731
        posed = replace(problem(1, objectives), cheap=cheap)
        search = made("surrogate", posed=posed, objectives=objectives, offspring=2)
        state = run(search, 8, judge)
        found = [
            state.estimates[id].values[objectives[1].name] + state.estimates[id].values["f1"] for id in state.front
        ]
        assert len(state.population) == 10 + 14 and min(found) < 1.1


# ----------------------------------------------------------------------------------------------------- in a recipe

LOOKUP: dict[str, Any] = {
    "task": {"kind": "digits"},
    "objectives": ["params", {"name": "depth", "direction": "max"}],
    "encoding": {"bounds": {"params": "60k", "flops": "6M"}},
    "estimator": {"kind": "lookup"},
    "pool": {"kind": "serial"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_cut_goes_on_to_the_same_bits(kind: str, tmp_path: Any) -> None:
    given = {"kind": kind, "population": 6, "offspring": 2, "children": 8, "strangers": 4}
    whole = {**LOOKUP, "strategy": {**given, "generations": 5}}
    with evonas.start(whole, name="whole", runs=tmp_path) as one:
        expected = one.store.digest([])
    evonas.start({**LOOKUP, "strategy": {**given, "generations": 2}}, name="cut", runs=tmp_path).close()
    with evonas.resume(tmp_path / "cut", generations=5) as other:
        assert other.store.digest([]) == expected


def test_an_encoding_without_the_face_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match=r"'surrogate' needs genomes as numbers \(face features\), which encoding"):
        recipe.read("task: {kind: digits}\nencoding: {kind: neat}\nstrategy: {kind: surrogate}\n")
