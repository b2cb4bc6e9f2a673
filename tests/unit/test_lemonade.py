"""LEMONADE: its density and draws against slow obvious versions, its population against brute force, its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import sqrtm
from scipy.stats import chi2, gaussian_kde
from sklearn.neighbors import KernelDensity

import evonas
from evonas import preview, recipe
from evonas.core import Edit, Estimate, Individual, Objective, State
from evonas.recipe import InvalidRecipe
from evonas.strategy import LemonadeSettings, SpeciationSettings
from evonas.strategy.lemonade import Density, Lemonade, accepted
from evonas.strategy.problem import ATTEMPTS, Problem, begin
from tests.vectors import Vector, Vectors

THREE = (Objective("error"), Objective("params", cheap=True), Objective("latency", cheap=True))
Judge = Callable[[Individual], Estimate]


def sizes(genome: Any) -> dict[str, float]:
    """Two cheap objectives that span orders of magnitude."""
    return {"params": 10 ** (3 * genome.genes[0]), "latency": 10 ** (2 * genome.genes[1])}


def judge(individual: Individual) -> Estimate:
    """Larger is better, up to the largest there is; the other genes are best at 0."""
    first, second, *rest = individual.genome.genes  # type: ignore[attr-defined]
    error = (1 - first) ** 2 + (1 - second) ** 2 + sum(rest) / len(rest)
    return Estimate(individual.id, "ok", {"error": error, **sizes(individual.genome)})


def lemonade(
    objectives: tuple[Objective, ...] = THREE,
    founders: Sequence[Vector] = (),
    screen: Any = None,
    seed: int = 1,
    encoding: Any = None,
    cheap: Callable[[Any], Mapping[str, float]] = sizes,
    **given: Any,
) -> Lemonade:
    made = LemonadeSettings(**given)
    keep = screen or (lambda genome: True)
    posed = Problem(encoding or Vectors(), objectives, seed, keep, tuple(founders), speciation=made.speciation)
    return Lemonade(replace(posed, cheap=cheap), made)


def step(search: Lemonade, state: State, judge: Judge = judge) -> State:
    born, asked = search.ask(state)
    return search.tell(asked, [(individual, judge(individual)) for individual in born])


def run(search: Lemonade, generations: int, judge: Judge = judge) -> State:
    state = begin()
    for _ in range(generations):
        state = step(search, state, judge)
    return state


def centred(values: Any) -> Any:
    return values - np.mean(values)


# ------------------------------------------------------------------------------------------------------- the density


def test_one_axis_is_as_scipy_has_it() -> None:
    rng = np.random.default_rng(1)
    for count in (2, 5, 40):
        points, rows = rng.normal(-5, 1, (count, 1)), rng.uniform(-7, -3, (30, 1))
        expected = gaussian_kde(points[:, 0], "scott").logpdf(rows[:, 0])
        assert np.allclose(centred(Density.of(points).log(rows)), centred(expected), atol=1e-9)


def test_several_axes_are_as_scikit_learn_has_them() -> None:
    """Its one bandwidth for all axes is ours on points of no correlation; a share 1/n of it is taken off before."""
    rng = np.random.default_rng(2)
    for count, axes in ((3, 2), (50, 2), (20, 3)):
        mixed = rng.normal(0, 1, (axes, axes))
        points = rng.normal(0, 1, (count, axes)) @ mixed - 10
        rows = rng.normal(0, 1, (25, axes)) @ mixed - 10
        covariance = np.cov(points.T)
        kept = np.where(np.eye(axes) > 0, covariance, covariance * (1 - 1 / count))
        white = np.linalg.inv(sqrtm(kept))
        kernel = KernelDensity(bandwidth=count ** (-1 / (axes + 4))).fit(points @ white)
        expected = kernel.score_samples(rows @ white)
        assert np.allclose(centred(Density.of(points).log(rows)), centred(expected), atol=1e-9)


def test_what_is_usual_on_each_axis_may_be_rare() -> None:
    """A long thin network among sizes that grow together."""
    sizes = np.linspace(1, 2, 20)[:, None] + np.random.default_rng(6).normal(0, 0.02, (20, 2))
    among, beside = Density.of(sizes).log(np.array([[1.4, 1.4], [1.2, 1.6]]))
    assert beside < among - 3


@given(arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.floats(-1e170, 1e170)))
@example(np.outer([3, 1, 3, 0], [-7e-159, -2e-162, -2e-162]))
@example(np.array([[1e160, 1.0], [-1e160, 2.0], [0.0, 3.0]]))
def test_whatever_the_points_are_there_is_a_density(points: Any) -> None:
    with np.errstate(over="ignore"):
        assert np.isfinite(Density.of(points).log(np.vstack([points, np.ones_like(points)]))).all()


def test_points_that_agree_on_two_axes_leave_a_density() -> None:
    line = np.linspace(1, 2, 7)[:, None].repeat(2, axis=1)
    told = Density.of(line).log(np.array([[1.5, 1.5], [1.5, 1.6], [1.5, 1.9]]))
    assert np.isfinite(told).all() and told[0] > told[1] > told[2]


@pytest.mark.parametrize("widest", [0.5, 6.0])
def test_positive_values_are_logarithmic(widest: float) -> None:
    """As sizes within a front are, whether they lie three-fold or orders of magnitude apart."""
    rng = np.random.default_rng(3)
    logs, rows = rng.uniform(-widest, 0, (30, 2)), rng.uniform(-widest, 0.5, (20, 2))
    linear = Density.of(logs).log(rows)
    assert np.allclose(centred(Density.of(300 * 10**logs).log(300 * 10**rows)), centred(linear), atol=1e-9)
    mixed = Density.of(np.column_stack([logs[:, 0], 10 ** logs[:, 1]])), np.column_stack([rows[:, 0], 10 ** rows[:, 1]])
    assert np.allclose(centred(mixed[0].log(mixed[1])), centred(linear), atol=1e-9), "negative values stay linear"


def test_by_scale_auto_only_orders_of_magnitude_are_logarithmic() -> None:
    rng = np.random.default_rng(3)
    for factor, logarithmic in ((15, False), (25, True)):
        sizes = 300 * factor ** np.append(rng.random(28), (0, 1))[:, None]
        auto, log = Density.of(sizes, "auto").log(sizes), Density.of(sizes).log(sizes)
        assert np.array_equal(auto, log) == logarithmic
        assert logarithmic or auto[-1] < log[-1] - 0.3, "the largest is rarer by differences"


def test_what_is_no_positive_number_lies_below_the_smallest() -> None:
    density = Density.of(np.array([[1.0], [10.0], [100.0]]))
    below, least, far = density.log(np.array([[0.0], [1.0], [0.05]]))
    assert np.isfinite(below) and below == far < least


def test_axes_without_spread_say_nothing() -> None:
    rng = np.random.default_rng(4)
    points, rows = rng.random((9, 1)), rng.random((7, 2))
    both = np.hstack([points, np.full((9, 1), 3.0)])
    assert np.allclose(Density.of(both).log(rows), Density.of(points).log(rows[:, :1]))


@pytest.mark.parametrize("points", [[[4.0, 5.0]], [[4.0, 5.0]] * 3, [[], []]], ids=["one", "equal", "no axis"])
def test_without_any_spread_all_places_are_alike(points: list[list[float]]) -> None:
    array = np.array(points).reshape(len(points), -1)
    rows = np.random.default_rng(5).random((6, array.shape[1]))
    assert np.ptp(Density.of(array).log(rows)) == 0


@given(st.lists(st.tuples(*[st.floats(0, 1e9, allow_subnormal=False)] * 2), min_size=1, max_size=12))
def test_the_density_is_a_number_everywhere(points: list[tuple[float, float]]) -> None:
    density = Density.of(np.array(points))
    found = density.log(np.array([*points, (0.0, 0.0), (1e12, 1e-12), (1e300, 0.0)]))
    assert np.isfinite(found).all()


def test_far_away_is_still_told_apart() -> None:
    near, far, farther = Density.of(np.array([[1.0], [2.0]])).log(np.array([[3.0], [1e3], [1e4]]))
    assert near > far > farther > -np.inf


# --------------------------------------------------------------------------------------------------------- the draws


def unlikely(counts: Any, shares: Any) -> bool:
    """Whether counts are as far from the expected as one time in 10,000 (chi-square)."""
    expected = np.asarray(shares) / np.sum(shares) * np.sum(counts)
    statistic = float((((np.asarray(counts) - expected) ** 2) / expected).sum())
    return statistic > chi2.ppf(0.9999, len(expected) - 1)


def test_draws_without_replacement_are_in_proportion() -> None:
    """One after the other, each in proportion to the weights that are left."""
    weights, rng = np.array([1.0, 2.0, 3.0, 6.0]), np.random.default_rng(6)
    found = Counter(tuple(accepted(np.log(weights), 2, rng).tolist()) for _ in range(12_000))
    total = weights.sum()
    share = Counter[tuple[int, ...]]()
    for i, j in permutations(range(4), 2):
        share[tuple(sorted((i, j)))] += weights[i] / total * weights[j] / (total - weights[i])
    assert not unlikely([found[pair] for pair in share], list(share.values()))
    assert unlikely([found[pair] for pair in share], [1.0] * len(share)), "the bound tells them from uniform draws"


def test_weights_of_any_size_are_drawn_by() -> None:
    rng = np.random.default_rng(7)
    assert accepted(np.array([0.0, 1e6, -1e6, 2e6]), 2, rng).tolist() == [1, 3]
    assert accepted(np.zeros(3), 5, rng).tolist() == [0, 1, 2]


LINE = [Vector((place, 0.0, 0, 0, 0, 0)) for place in (0.1, 0.12, 0.14, 0.5, 0.9)]
"""Three of about one size, one larger, one largest."""


def _parents(**given: Any) -> tuple[Any, Any]:
    """How often each of LINE is a parent, and the inverse of the density there by scipy."""
    one = (Objective("error"), Objective("params", cheap=True))
    search = lemonade(one, LINE, population=5, proposals=4000, offspring=4000, **given)
    state = step(search, begin())
    assert [individual.genome for individual in state.population] == LINE
    born, _ = search.ask(state)
    assert len(born) == 4000
    logs = np.log([sizes(genome)["params"] for genome in LINE])
    count = Counter(child.parents[0] for child in born)
    return [count[i] for i in range(5)], 1 / gaussian_kde(logs, "scott")(logs)


def test_parents_are_drawn_in_inverse_proportion_to_the_density() -> None:
    counts, rarity = _parents()
    assert rarity.max() > 1.5 * rarity.min()
    assert not unlikely(counts, rarity)
    assert unlikely(counts, np.ones(5))


def test_without_density_parents_are_drawn_alike() -> None:
    counts, rarity = _parents(density=False)
    assert not unlikely(counts, np.ones(5))
    assert unlikely(counts, rarity)


def test_second_parents_are_drawn_like_the_first() -> None:
    one = (Objective("error"), Objective("params", cheap=True))
    search = lemonade(one, LINE, population=5, proposals=4000, offspring=4000, crossover=1.0)
    born, _ = search.ask(step(search, begin()))
    pairs = Counter(child.parents for child in born)
    logs = np.log([sizes(genome)["params"] for genome in LINE])
    rarity = 1 / gaussian_kde(logs, "scott")(logs)
    total = rarity.sum()
    share = {(i, j): rarity[i] * rarity[j] / (total - rarity[i]) for i, j in permutations(range(5), 2)}
    assert not unlikely([pairs[pair] for pair in share], list(share.values()))


def test_accepted_children_are_some_of_those_proposed_and_rarer() -> None:
    """The proposals are the same however many of them are accepted."""
    few, all_ = (lemonade(founders=CORNER, population=5, proposals=40, offspring=count) for count in (5, 40))
    state, gains = run(few, 2), []
    for _ in range(8):
        proposed = [child.genome for child in all_.ask(state)[0]]
        chosen = [child.genome for child in few.ask(state)[0]]
        places = [proposed.index(genome) for genome in chosen]
        assert len(places) == 5 and places == sorted(places)
        rarity = -Density.of(few.cheap([one.genome for one in state.population])).log(few.cheap(proposed))
        gains.append(rarity[places].mean() - rarity.mean())
        state = step(few, state)
    assert np.mean(gains) > 0.5


# ---------------------------------------------------------------------------------------------------- the population


def brute_front(seen: Mapping[int, Sequence[float]]) -> list[int]:
    """Ids that nobody else dominates; of equal ones the lowest."""

    def beaten(id: int) -> bool:
        mine = np.array(seen[id])
        return any(
            (other <= mine).all() and ((other < mine).any() or rival < id)
            for rival, other in ((rival, np.array(row)) for rival, row in seen.items() if rival != id)
        )

    return [id for id in sorted(seen) if not beaten(id)]


@pytest.mark.parametrize("crossover", [0.0, 0.7])
def test_the_population_is_what_nobody_dominates(crossover: float) -> None:
    seen: dict[int, list[float]] = {}

    def remembered(individual: Individual) -> Estimate:
        if individual.id % 7 == 3:
            return Estimate.failed(individual.id, "boom")
        rounded = {name: round(value, 1) for name, value in judge(individual).values.items()}
        seen[individual.id] = list(rounded.values())
        return Estimate(individual.id, "ok", rounded)

    search, state = lemonade(crossover=crossover), begin()
    for _ in range(8):
        state = step(search, state, remembered)
        ids = [individual.id for individual in state.population]
        assert ids == list(state.front) == brute_front(seen)
    assert len(state.population) > 8


def test_a_limit_keeps_the_least_crowded_of_the_front() -> None:
    search, state = lemonade(limit=6), begin()
    for _ in range(8):
        state = step(search, state)
        ids = {individual.id for individual in state.population}
        assert ids <= set(state.front) and len(ids) <= 6
    sizes = {id: state.estimates[id].values["params"] for id in state.front}
    assert len(state.front) > 6 == len(ids)
    assert min(sizes.values()) in {sizes[id] for id in ids}, "the ends are never crowded"


def test_constraint_breakers_are_kept_out_as_soon_as_anyone_keeps_them() -> None:
    strict = (Objective("error", max=1.2), *THREE[1:])
    search, state, ever = lemonade(strict, population=4, proposals=12, offspring=4), begin(), False
    for _ in range(25):
        state = step(search, state)
        errors = [state.estimates[one.id].values["error"] for one in state.population]
        ever = ever or bool(state.front)
        assert all(error <= 1.2 for error in errors) if ever else len(errors) == 1
        assert bool(state.front) == ever
    assert ever


def test_while_all_break_constraints_the_least_breaker_has_the_children() -> None:
    hopeless = (Objective("error", max=-1.0), *THREE[1:])
    search, state, least = lemonade(hopeless), begin(), np.inf
    for _ in range(6):
        state = step(search, state)
        (one,) = state.population
        error = state.estimates[one.id].values["error"]
        assert error <= least and not state.front
        least = error


# ----------------------------------------------------------------------------------------------------- the proposals


def test_founders_lead_the_first_generation() -> None:
    born, _ = lemonade(founders=LINE, population=7).ask(begin())
    assert [one.genome for one in born[:5]] == LINE
    assert len(born) == 7 and all(one.parents == () for one in born)


def test_members_are_trained_on_each_once_a_generation() -> None:
    search = lemonade(continued=0.5, offspring=32)
    state, again, others = begin(), 0, 0
    for _ in range(5):
        adults = {one.id: one.genome.key for one in state.population}
        born, asked = search.ask(state)
        if adults:
            same = [child for child in born if not child.edits]
            assert all(adults[child.parents[0]] == child.genome.key for child in same)
            assert len({child.parents for child in same}) == len(same)
            again, others = again + len(same), others + len(born) - len(same)
        state = search.tell(asked, [(child, judge(child)) for child in born])
    assert again and others
    assert all(child.edits for child in lemonade(offspring=32).ask(state)[0])


def test_those_trained_least_are_trained_on_first() -> None:
    """The number of trainings is that of a member's line, and counts where a member gained nothing by it, too."""
    search = lemonade(continued=0.4, offspring=8, population=6)
    state, trained, chosen, gained = begin(), Counter[int](), 0, {}
    for _ in range(12):
        born, asked = search.ask(state)
        again = {child.parents[0] for child in born if child.parents and not child.edits}
        rest = {one.id for one in state.population} - again
        assert max((trained[id] for id in again), default=0) <= min((trained[id] for id in rest), default=99)
        for child in born:
            trained[child.id] = trained[child.parents[0]] + 1 if child.parents else 1
            gained[child.id] = gained.get(child.parents[0], 0.0) if child.parents else 0.0
            gained[child.id] += 0.01 if child.parents and not child.edits and child.parents[0] % 2 else 0.0
        trained.update(again)
        chosen += len(again)
        scores = [(child, judge(child)) for child in born]
        state = search.tell(
            asked,
            [
                (child, replace(one, values={**one.values, "error": one.values["error"] - gained[child.id]}))
                for child, one in scores
            ],
        )
        alive = {one.id for one in state.population}
        assert {int(id) for id in state.memory["trained"]} == alive
    assert chosen > 20


def test_children_are_new_and_pass_the_screen() -> None:
    search = lemonade(screen=lambda genome: genome.genes[2] < 0.5, offspring=32)
    state = begin()
    for _ in range(5):
        before = {one.genome.key for one in state.population}
        born, asked = search.ask(state)
        keys = [child.genome.key for child in born]
        assert len(set(keys)) == len(keys) and before.isdisjoint(keys)
        assert all(child.genome.genes[2] < 0.5 for child in born)  # type: ignore[attr-defined]
        state = search.tell(asked, [(child, judge(child)) for child in born])


def test_mating_is_the_first_edit_and_names_the_second_parent() -> None:
    search = lemonade(crossover=0.5, offspring=32)
    state, mated = run(search, 3), 0
    members = {one.id for one in state.population}
    for child in search.ask(state)[0]:
        assert set(child.parents) <= members and len(set(child.parents)) == len(child.parents)
        assert [edit.op for edit in child.edits] == ["mate", "nudge"][-len(child.parents) :]
        mated += len(child.parents) == 2
    assert 8 <= mated <= 24


def test_who_gave_nothing_is_no_parent() -> None:
    class Selfish(Vectors):
        def mate(self, fitter: Vector, other: Vector, rng: Any, marks: Any) -> tuple[Vector, tuple[Edit, ...]]:
            return fitter, ()

    search = lemonade(encoding=Selfish(), crossover=1.0)
    born, _ = search.ask(run(search, 2))
    assert all(len(child.parents) == 1 for child in born)


def test_restricted_mating_keeps_to_the_species() -> None:
    divided = SpeciationSettings(threshold=1.0, target=None, restrict_mating=True)
    search = lemonade(crossover=1.0, speciation=divided, offspring=32)
    state = run(search, 4)
    home = {id: one.id for one in state.species for id in one.members}
    born, _ = search.ask(state)
    assert len(state.species) > 1 and any(len(child.parents) == 2 for child in born)
    assert all(len({home[id] for id in child.parents}) == 1 for child in born)


def test_sizes_that_are_no_numbers_are_not_proposed() -> None:
    def cheap(genome: Any) -> dict[str, float]:
        return {**sizes(genome), "params": np.nan if genome.genes[2] > 0.6 else sizes(genome)["params"]}

    search = lemonade(founders=[Vector((0.5, 0.5, 0.5, 0, 0, 0))], population=1, cheap=cheap, offspring=32)
    state = step(search, begin())
    for _ in range(4):
        born, asked = search.ask(state)
        assert born and all(child.genome.genes[2] <= 0.6 for child in born)  # type: ignore[attr-defined]
        state = search.tell(asked, [(child, judge(child)) for child in born])


@dataclass(frozen=True)
class Bits(Vectors):
    """Six places of 0 or 1 of which the first alone changes: two genomes from one founder."""

    def mutate(self, genome: Vector, rng: Any, marks: Any) -> tuple[Vector, tuple[Edit, ...]]:
        return Vector((1.0 - genome.genes[0], *genome.genes[1:])), (Edit("flip", (0,)),)


class Flips(Vectors):
    """Six places of 0 or 1: 64 genomes."""

    def mutate(self, genome: Vector, rng: Any, marks: Any) -> tuple[Vector, tuple[Edit, ...]]:
        at = rng.randrange(6)
        genes = [1.0 - gene if i == at else gene for i, gene in enumerate(genome.genes)]
        return Vector(tuple(genes)), (Edit("flip", (at,)),)


@pytest.mark.parametrize("inherits", [False, True])
def test_nobody_is_estimated_twice_unless_weights_are_inherited(inherits: bool) -> None:
    search = lemonade(encoding=Flips(), founders=[Vector((0.0,) * 6)], population=1, offspring=2)
    search = replace(search, problem=replace(search.problem, inherits=inherits))
    state, born = begin(), []
    for _ in range(7):
        made, asked = search.ask(state)
        born += [one.genome.key for one in made]
        state = search.tell(asked, [(one, judge(one)) for one in made])
    assert (len(set(born)) == len(born)) != inherits
    assert len(state.memory.get("seen", ())) == (0 if inherits else len(born))


def test_an_exhausted_space_repeats_a_parent() -> None:
    search = lemonade(encoding=Bits(), founders=[Vector((1.0, 0, 0, 0, 0, 0))], population=1, proposals=3, offspring=2)
    state = run(search, 2)
    assert {one.genome.genes[0] for one in state.population} == {0.0, 1.0}  # type: ignore[attr-defined]
    born, _ = search.ask(state)
    (copy,) = born
    genomes = {one.id: one.genome for one in state.population}
    assert copy.genome == genomes[copy.parents[0]] and copy.edits == () and len(copy.parents) == 1
    assert copy.id == state.next_id


def test_a_screen_that_nothing_passes_is_asked_so_often_and_no_more() -> None:
    founder, asked = Vector((0.5,) * 6), []

    def screen(genome: Vector) -> bool:
        asked.append(genome)
        return genome == founder

    search = lemonade(founders=[founder], screen=screen, population=1, proposals=4, offspring=2)
    born, _ = search.ask(step(search, begin()))
    assert [child.genome for child in born] == [founder]
    assert len(asked) == 4 * ATTEMPTS


# ----------------------------------------------------------------------------------------------------------- quality

CORNER = [Vector((0.02 * k, 0.02 * k, 0.5, 0.5, 0.5, 0.5)) for k in range(1, 6)]
"""A few small networks to begin with, as the paper does."""


def occupied(state: State) -> int:
    """How many of the 25 cells of the two cheap axes have a member of the front."""
    genes = [one.genome.genes[:2] for one in state.population]  # type: ignore[attr-defined]
    return len({(min(int(5 * a), 4), min(int(5 * b), 4)) for a, b in genes})


def test_density_spreads_the_front_over_the_cheap_axes() -> None:
    """100 estimates from five small networks; measured 10 to 15 cells of 25 with density, 2 to 8 without it."""
    for seed in range(3):
        with_, without = (
            occupied(run(lemonade(founders=CORNER, seed=seed, population=5, proposals=20, offspring=5, density=on), 20))
            for on in (True, False)
        )
        assert with_ >= 9 and with_ > 1.4 * without


# ----------------------------------------------------------------------------------------------------- in a recipe

LOOKUP: dict[str, Any] = {
    "task": {"kind": "digits"},
    "objectives": ["params", {"name": "depth", "direction": "max"}],
    "encoding": {"bounds": {"params": "60k", "flops": "6M"}},
    "strategy": {"kind": "lemonade", "population": 6, "proposals": 12, "offspring": 4, "generations": 4},
    "estimator": {"kind": "lookup"},
    "pool": {"kind": "serial"},
}


def test_a_run_hands_its_strategy_the_cheap_objectives(tmp_path: Path) -> None:
    with evonas.start(LOOKUP, name="whole", runs=tmp_path) as whole:
        state = whole.state()
        assert state is not None and state.evaluations == 6 + 3 * 4
        assert [one.id for one in state.population] == [row.id for row in sorted(whole.front(), key=lambda r: r.id)]
        expected = whole.store.digest([])
    shorter = {**LOOKUP, "strategy": {**LOOKUP["strategy"], "generations": 2}}
    evonas.start(shorter, name="halves", runs=tmp_path).close()
    with evonas.resume(tmp_path / "halves", generations=4) as halves:
        assert halves.store.digest([]) == expected


def test_the_preview_counts_accepted_children() -> None:
    assert preview.preview(recipe.read(LOOKUP)).evaluations == 6 + 3 * 4


def test_a_cheap_objective_is_needed() -> None:
    with pytest.raises(InvalidRecipe, match="strategy 'lemonade' needs an objective that takes no training") as told:
        recipe.read("task: {kind: digits}\nobjectives: [error, latency]\nstrategy: {kind: lemonade}\n")
    assert "add one of params, flops, memory, depth" in str(told.value)
    assert str(told.value).startswith("recipe:2: objectives:")
    recipe.read("task: {kind: digits}\nobjectives: [error, flops]\nstrategy: {kind: lemonade}\n")


def test_training_on_needs_weights_to_go_on_from() -> None:
    text = "task: {kind: digits}\nobjectives: [error, flops]\nstrategy: {kind: lemonade, continued: 0.3}\n"
    with pytest.raises(InvalidRecipe, match="there are no weights to go on from: set estimator"):
        recipe.read(text)
    recipe.read(text + "estimator: {kind: train, inherit: weights}\n")


def test_no_more_can_be_accepted_than_proposed() -> None:
    with pytest.raises(InvalidRecipe, match="offspring 8 cannot be accepted of 5 proposals: raise proposals"):
        recipe.read("task: {kind: digits}\nobjectives: [error, flops]\nstrategy: {kind: lemonade, proposals: 5}\n")
