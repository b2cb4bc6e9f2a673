"""What strategies that learn share: everyone estimated so far as lessons, rewards by rank, and a model kept up to date.

The population is everyone who lives, and the failed are noted in the memory, so the lessons are part of the state. A
model is a function of them and the seed: a fresh process learns them all again, one under way only the last ones."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, takewhile
from random import Random
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from evonas.core import Estimate, Genome, Individual, State, stream
from evonas.strategy import LearningSettings
from evonas.strategy.problem import ATTEMPTS, Problem, asked, settle

Tokens = tuple[int, ...]
"""One choice per place."""

Merit = tuple[float, float]
"""How far the constraints are broken, then the loss of the first objective: the lower, the better."""

WORST: Merit = (math.inf, math.inf)
"""The merit of an estimate that failed."""


class Lesson(NamedTuple):
    """What one estimate teaches: a genome's tokens, and how good it was."""

    tokens: Tokens
    merit: Merit


class Record:
    """The merits of all lessons so far, in order, and the tokens that were seen."""

    def __init__(self) -> None:
        self.merits: list[Merit] = []
        self.seen: set[Tokens] = set()

    def add(self, lessons: Iterable[Lesson]) -> None:
        for lesson in lessons:
            insort(self.merits, lesson.merit)
            self.seen.add(lesson.tokens)

    def reward(self, merit: Merit) -> float:
        """Share of all lessons that are worse, of equal ones half: in [0, 1], on average 1/2, whatever the unit. Who
        failed is equal to the worst."""
        better, up_to = bisect_left(self.merits, merit), bisect_right(self.merits, merit)
        return 1.0 - (better + up_to) / (2 * len(self.merits))


class Model(Protocol):
    """What learns: from the lessons of one generation after the other, with the record that holds them already."""

    def learn(self, generation: int, lessons: Sequence[Lesson], record: Record) -> None: ...


Learning = TypeVar("Learning", bound=Model)


class Learner(Generic[Learning]):
    """A model that has learnt what a state knows. It is kept for the state asked about last, and one generation later
    learns that generation alone."""

    _model: Learning
    _record: Record

    def __init__(self, problem: Problem, make: Callable[[], Learning]) -> None:
        self._problem, self._make = problem, make
        self._known: str | None = None

    def of(self, state: State) -> tuple[Learning, Record]:
        """The model for a state, and its record; both may be read, not changed."""
        key, before = state.memory.get("lessons", ("", None))
        if key == self._known:
            return self._model, self._record
        since = state.generation - 1
        if before is None or before != self._known:
            self._model, self._record, since = self._make(), Record(), 0
        self._known = None  # until all is learnt: an error on the way leaves no half a model behind
        for generation, lessons in taught(self._problem, state, since):
            self._record.add(lessons)
            self._model.learn(generation, lessons, self._record)
        self._known = key
        return self._model, self._record


@dataclass(frozen=True)
class Taught(ABC, Generic[Learning]):
    """A strategy that draws genomes from a model of everything estimated. The reward is the rank by the first objective
    among all that was seen; the population is everyone who lives."""

    problem: Problem
    settings: LearningSettings

    @abstractmethod
    def untaught(self) -> Learning:
        """A model that has learnt nothing yet."""

    @abstractmethod
    def source(self, model: Learning, record: Record, state: State) -> Callable[[Random], Tokens]:
        """What draws the genomes of a generation from a model, which stays as it is."""

    @cached_property
    def _learner(self) -> Learner[Learning]:
        return Learner(self.problem, self.untaught)

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """`population` genomes drawn from the model."""
        model, record = self._learner.of(state)
        return conceived(self.problem, self.settings, state, self.source(model, record, state), record)

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """Everyone is kept to learn from."""
        return remembered(self.problem, state, scored)


def taught(problem: Problem, state: State, since: int = 0) -> list[tuple[int, list[Lesson]]]:
    """The lessons of each generation from `since` on, in the order of birth."""
    encoding: Any = problem.encoding
    merits = state.estimates
    living = takewhile(lambda one: one.birth >= since, reversed(state.population))
    rows = [(one.id, one.birth, encoding.tokens(one.genome), _merit(problem, merits[one.id])) for one in living]
    failed = takewhile(lambda row: row[1] >= since, reversed(state.memory.get("failed", ())))
    rows += [(id, birth, tuple(tokens), WORST) for id, birth, tokens in failed]
    rows.sort(key=lambda row: row[0])
    groups = groupby(rows, key=lambda row: row[1])
    return [(birth, [Lesson(*row[2:]) for row in group]) for birth, group in groups]


def _merit(problem: Problem, estimate: Estimate) -> Merit:
    return problem.merit(estimate) if estimate.status == "ok" else WORST


def remembered(problem: Problem, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
    """The state after a generation from which everything is kept to learn from."""
    encoding: Any = problem.encoding
    born = [individual for individual, estimate in scored if estimate.status == "ok"]
    lost = [[one.id, one.birth, list(encoding.tokens(one.genome))] for one, e in scored if e.status != "ok"]
    estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
    before = state.memory.get("lessons", ("", None))[0]
    content = (before, state.generation, [(one.id, one.genome.key, _merit(problem, e)) for one, e in scored])
    key = hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()
    memory = {"failed": [*state.memory.get("failed", ()), *lost], "lessons": [key, before]}
    return settle(problem, state, scored, (*state.population, *born), estimates, memory)


def progress(problem: Problem, settings: LearningSettings, state: State) -> float:
    """The share of the planned search that is over, 0 to 1: of the budget or the generations, what ends sooner."""
    spent = {**state.memory.get("spent", {}), "evaluations": state.evaluations}
    shares = [spent.get(key, 0.0) / limit for key, limit in problem.budget.items()]
    return float(min(1.0, max([*shares, state.generation / settings.generations])))


def conceived(
    problem: Problem, settings: LearningSettings, state: State, draw: Callable[[Random], Tokens], record: Record
) -> tuple[tuple[Individual, ...], State]:
    """What `ask` returns: `population` individuals of drawn tokens that pass the screen and, unless the settings allow
    repeats, are new; founders lead the first generation.

    Where ATTEMPTS find nothing new, a known one is estimated again; where nothing passes, it is a random genome."""
    book, encoding = state.marks.open(), cast(Any, problem.encoding)
    founders = problem.enrol(problem.founders, book) if state.generation == 0 else ()
    genomes: list[Genome] = list(founders)[: settings.population]
    mates = {encoding.tokens(genome) for genome in genomes}
    for at in range(len(genomes), settings.population):
        rng = stream(problem.seed, "conceived", state.generation, at)
        genome = _fresh(problem, draw, rng, () if settings.repeats else (record.seen, mates))
        genomes.append(genome or problem.random(state.generation, at, book, lambda candidate: False, 0))
        mates.add(encoding.tokens(genomes[-1]))
    born = tuple(Individual(state.next_id + at, genome, birth=state.generation) for at, genome in enumerate(genomes))
    return born, asked(state, born, book)


def _fresh(
    problem: Problem, draw: Callable[[Random], Tokens], rng: Random, known: Sequence[Container[Tokens]]
) -> Genome | None:
    """The first draw that passes the screen and is not known, else the last that passes it."""
    encoding: Any = problem.encoding
    fallback: Genome | None = None
    for _ in range(ATTEMPTS):
        genome: Genome = encoding.from_tokens(draw(rng))
        if problem.screen(genome):
            fallback = genome
            tokens = encoding.tokens(genome)
            if not any(tokens in group for group in known):
                return genome
    return fallback
