"""Q-learning: what the table learns, and how much is left to chance."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from pydantic import ValidationError

from evonas.strategy import QLearningSettings
from evonas.strategy.lessons import Lesson, Record
from evonas.strategy.problem import Problem, begin
from evonas.strategy.q_learning import UNKNOWN, QLearning, Values
from tests.unit.test_lessons import posed


def table(**given: object) -> Values:
    return Values(posed(genes=3), QLearningSettings(**{"replay": 0, "learning_rate": 0.5, **given}))  # type: ignore[arg-type]


def taught(values: Values, *rows: tuple[tuple[int, ...], float]) -> Record:
    record, lessons = Record(), [Lesson(tokens, (0.0, loss)) for tokens, loss in rows]
    record.add(lessons)
    values.learn(0, lessons, record)
    return record


def test_a_value_moves_towards_the_best_way_on() -> None:
    """Two genomes, rewards 3/4 and 1/4, from the last choice back. Baker et al. 2017, equation 3."""
    values = table()
    taught(values, ((1, 2, 3), 1.0), ((1, 2, 4), 2.0))
    assert values.at(2, (1, 2))[3:5] == [0.625, 0.375]
    assert values.at(1, (1,))[2] == 0.59375
    assert values.at(0, ())[1] == 0.5625


def test_later_values_count_for_less_by_the_discount() -> None:
    values = table(learning_rate=1.0, discount=0.5)
    taught(values, ((0, 0, 0), 1.0))
    assert values.at(2, (0, 0))[0] == 0.5 and values.at(1, (0,))[0] == 0.25 and values.at(0, ())[0] == 0.25


@pytest.mark.parametrize(("state", "shared"), [("previous", True), ("prefix", False)])
def test_the_state_is_the_choice_before_or_all_before(state: str, shared: bool) -> None:
    values = table(state=state)
    taught(values, ((1, 2, 3), 1.0), ((4, 4, 4), 2.0))
    assert (values.at(2, (7, 2))[3] > UNKNOWN) is shared


def test_replay_learns_on() -> None:
    once, often = table(), table(replay=200)
    for values in (once, often):
        taught(values, ((1, 2, 3), 1.0), ((4, 4, 4), 2.0))
    assert often.at(0, ())[1] > once.at(0, ())[1] and often.at(0, ())[1] == pytest.approx(0.75, abs=1e-3)


def test_greedy_choices_are_the_best_and_ties_are_broken_by_chance() -> None:
    values = table(replay=100)
    taught(values, ((1, 2, 3), 1.0), ((4, 4, 4), 2.0))
    assert {values.draw(Random(i), 0.0) for i in range(20)} == {(1, 2, 3)}
    assert len({table().draw(Random(i), 0.0) for i in range(20)}) > 10
    assert len({values.draw(Random(i), 1.0) for i in range(20)}) > 10


def test_epsilon_falls_from_1_as_the_plan_is_worked_off() -> None:
    settings = QLearningSettings(explore=0.2, settle=0.6, epsilon=0.1)
    space: Problem = posed(budget={"evaluations": 100})
    found = [QLearning(space, settings).epsilon(replace(begin(), evaluations=n)) for n in (0, 19, 20, 40, 60, 99)]
    assert found == pytest.approx([1.0, 1.0, 1.0, 0.55, 0.1, 0.1])


def test_a_schedule_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"explore 0.5 ends after settle 0.3: raise settle"):
        QLearningSettings(explore=0.5, settle=0.3)
