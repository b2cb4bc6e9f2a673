"""Monte Carlo tree search: where the descent goes, and what the tree counts."""

from __future__ import annotations

import math
from itertools import product
from random import Random

import pytest

from evonas import strategy
from evonas.strategy import MctsSettings, lessons
from evonas.strategy.lessons import Lesson, Record
from evonas.strategy.mcts import Descent, Tree
from tests.unit.test_lessons import posed, run


def tree(*rows: tuple[tuple[int, ...], float], sizes: tuple[int, ...] = (3, 2, 2)) -> Tree:
    grown, record = Tree(sizes), Record()
    taught = [Lesson(tokens, (0.0, loss)) for tokens, loss in rows]
    record.add(taught)
    grown.learn(0, taught, record)
    return grown


def test_nodes_count_visits_rewards_and_different_genomes() -> None:
    grown = tree(((0, 0, 0), 1.0), ((0, 0, 0), 1.0), ((0, 1, 1), 2.0), ((2, 0, 0), 3.0))
    node = grown.nodes[(0,)]
    assert (node.visits, node.different, node.total) == (3, 2, pytest.approx(0.75 + 0.75 + 0.375))
    assert grown.nodes[()].visits == 4 and grown.left(()) == 12 - 3 and grown.left((0,)) == 2 and grown.left((1,)) == 4


def test_what_was_never_tried_comes_first() -> None:
    grown = tree(((0, 0, 0), 1.0), ((2, 0, 0), 3.0))
    assert {Descent(grown, 0.1, False)(Random(i))[0] for i in range(10)} == {1}


@pytest.mark.parametrize("exploration", [0.0, 0.1, 1.0, 10.0])
def test_the_choice_is_that_of_the_formula(exploration: float) -> None:
    """Kocsis and Szepesvari 2006, equation 1: mean + c sqrt(2 ln N / n)."""
    rows = [((first, second, 0), float(loss)) for loss, (first, second) in enumerate([(0, 0), (0, 1), (1, 0), (2, 1)])]
    grown = tree(*rows)
    means = {0: (0.875 + 0.625) / 2, 1: 0.375, 2: 0.125}
    visits = {0: 2, 1: 1, 2: 1}
    scores = {way: means[way] + exploration * math.sqrt(2 * math.log(4) / visits[way]) for way in means}
    assert Descent(grown, exploration, True)(Random(1))[0] == max(scores, key=scores.__getitem__)


def test_ways_of_one_generation_part() -> None:
    grown = tree(((0, 0, 0), 1.0), ((1, 0, 0), 1.0), ((2, 0, 0), 1.0))
    descent, rng = Descent(grown, 1.0, False), Random(1)
    assert sorted(descent(rng)[0] for _ in range(3)) == [0, 1, 2]


def test_a_small_space_is_seen_to_the_last() -> None:
    grown, record, seen = Tree((3, 2, 2)), Record(), []
    for generation in range(4):
        descent = Descent(grown, 0.1, False)
        born = [descent(Random(100 * generation + at)) for at in range(3)]
        taught = [Lesson(tokens, (0.0, float(sum(tokens)))) for tokens in born]
        record.add(taught)
        grown.learn(generation, taught, record)
        seen += born
    assert sorted(seen) == list(product(range(3), range(2), range(2)))
    assert len(Descent(grown, 0.1, False)(Random(1))) == 3, "then it goes on with what is good"


def test_good_beginnings_are_visited_more_often() -> None:
    space = posed()
    state = run(strategy.build(MctsSettings(), space), 150)
    merits: dict[int, list[float]] = {}
    for _, batch in lessons.taught(space, state):
        for one in batch:
            merits.setdefault(one.tokens[0], []).append(one.merit[1])
    counts = [len(merits[first]) for first in range(9)]
    assert counts.index(max(counts)) in (4, 5, 6, 7, 8) and max(counts) > 2 * min(counts)
