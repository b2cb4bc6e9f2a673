"""DEAP's toolbox on evonas individuals."""

from __future__ import annotations

import random

import numpy as np
import pytest
from deap import algorithms, tools

from evonas import pareto
from evonas.core import Objective, RecipeError, lend_global_streams
from evonas.marks import MarkBook
from evonas.operators import Creature, clone, fitness_class, selection, toolbox
from tests.vectors import OBJECTIVES, Vectors

FITNESS = fitness_class(OBJECTIVES)


def evolve(seed: int) -> list[Creature]:
    """DEAP's own eaMuPlusLambda on ZDT1."""
    space, book = Vectors(), MarkBook()
    box = toolbox(space, book, select=tools.selNSGA2)

    def evaluate(creature: Creature) -> tuple[float, float]:
        first, *rest = creature.genome.genes  # type: ignore[attr-defined]
        g = 1 + 9 * sum(rest) / len(rest)
        return first, g * (1 - (first / g) ** 0.5)

    box.register("evaluate", evaluate)
    population = [Creature(space.random(random.Random(i), book), FITNESS()) for i in range(20)]
    with lend_global_streams(seed, "test"):
        final, _ = algorithms.eaMuPlusLambda(population, box, 20, 20, 0.4, 0.5, 30, verbose=False)
    return final  # type: ignore[no-any-return]


def test_ea_mu_plus_lambda_runs_and_improves() -> None:
    losses = [creature.fitness.values for creature in evolve(1)]
    assert pareto.hypervolume(losses, (1.1, 1.1)) > 0.5


def test_a_lent_stream_makes_deap_repeat_and_restores_the_global_one() -> None:
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = [creature.genome for creature in evolve(1)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert [creature.genome for creature in evolve(1)] == first
    assert [creature.genome for creature in evolve(2)] != first


def test_weights_follow_the_directions() -> None:
    assert fitness_class((Objective("a"), Objective("b", direction="max"))).weights == (-1.0, 1.0)


def test_clones_share_the_frozen_genome_but_not_the_fitness() -> None:
    adult = Creature(Vectors().random(random.Random(0), MarkBook()), FITNESS((1.0, 2.0)), id=7)
    copy = clone(adult)
    del copy.fitness.values
    assert adult.fitness.valid and copy.genome is adult.genome
    assert copy.parents == (7,) and copy.id is None


@pytest.mark.parametrize(("name", "settings"), [("selTournamentDCD", {}), ("selTournament", {"tournsize": 0})])
def test_what_deap_refuses_is_told_with_its_settings(name: str, settings: dict[str, int]) -> None:
    creatures = [Creature(Vectors().random(random.Random(0), MarkBook()), FITNESS((1.0, 2.0)), id=i) for i in range(3)]
    with pytest.raises(RecipeError, match=f"DEAP's {name} cannot select"):
        selection(name, settings, 2)(creatures, 4)
