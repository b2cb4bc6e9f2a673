"""Local search with restarts: to a better neighbour until there is none, then from a new random genome.

White, Nolen and Savani 2021 ("Local search is state of the art for neural architecture search benchmarks"); Den
Ottelander et al. 2021 for neighbours in random order and the first improvement."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from evonas.core import Estimate, Genome, Individual, State, stream
from evonas.marks import MarkBook
from evonas.strategy import LocalSearchSettings
from evonas.strategy.problem import Problem, asked, first_generation, settle

LISTED = 100_000
"""Genomes of a space that is gone through one by one where random draws find nothing new."""


@dataclass(frozen=True)
class LocalSearch:
    """The population is the current genome, by the first objective. A neighbour differs in one choice. The memory's
    `seen` holds the keys of all that were estimated, the failed ones, too; an empty ask says that nothing is left."""

    problem: Problem
    settings: LocalSearchSettings

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The next neighbours not seen before, or where all were random genomes to begin anew."""
        book, seen = state.marks.open(), set(state.memory.get("seen", ()))
        born = self._neighbours(state, seen) if state.population else []
        if not born:
            born = self._beginnings(state, book, seen)
        return tuple(born), asked(state, born, book)

    def _neighbours(self, state: State, seen: set[str]) -> list[Individual]:
        encoding: Any = self.problem.encoding
        (current,) = state.population
        chosen = list(islice(self._around(current, seen), self.settings.neighbours))
        return [
            Individual(
                state.next_id + i, genome, (current.id,), encoding.difference(current.genome, genome), state.generation
            )
            for i, genome in enumerate(chosen)
        ]

    def _around(self, current: Individual, seen: set[str]) -> Iterator[Genome]:
        """Neighbours of the current genome that are not seen yet and pass the screen."""
        known = {current.genome.key, *seen}
        for genome in self._all_around(current):
            if genome.key not in known and self.problem.screen(genome):
                known.add(genome.key)
                yield genome

    def _all_around(self, current: Individual) -> list[Genome]:
        """Genomes that differ from the current one in one choice, in an order of its own. They are kept while it is the
        current one, since every step asks for them."""
        at = (current.id, current.genome.key)
        if at not in self._kept:
            encoding: Any = self.problem.encoding
            tokens = encoding.tokens(current.genome)
            moves = [(place, i) for place, options in enumerate(encoding.choices) for i in range(len(options))]
            stream(self.problem.seed, "neighbours", current.id).shuffle(moves)
            others = [(*tokens[:place], i, *tokens[place + 1 :]) for place, i in moves if i != tokens[place]]
            self._kept.clear()
            self._kept[at] = list(map(encoding.from_tokens, others))
        return self._kept[at]

    @cached_property
    def _kept(self) -> dict[tuple[int, str], list[Genome]]:
        return {}

    def _beginnings(self, state: State, book: MarkBook, seen: set[str]) -> list[Individual]:
        if not state.generation:
            return first_generation(self.problem, state, self.settings.population, book)
        genomes: list[Genome] = []
        for place in range(self.settings.population):
            genome = self._new(state, place, book, seen)
            if genome is None:
                break
            seen.add(genome.key)
            genomes.append(genome)
        return [Individual(state.next_id + i, genome, birth=state.generation) for i, genome in enumerate(genomes)]

    def _new(self, state: State, place: int, book: MarkBook, seen: Collection[str]) -> Genome | None:
        """A random genome not seen before; None where none is left, or none is found in a space too large to list."""
        encoding: Any = self.problem.encoding
        genome = self.problem.random(state.generation, place, book, lambda one: one.key in seen, 0)
        if genome.key not in seen:
            return genome
        if encoding.size > LISTED:
            return None
        left = [one for one in encoding.all() if one.key not in seen and self.problem.screen(one)]
        return stream(self.problem.seed, "left over", state.generation, place).choice(left) if left else None

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """A neighbour takes over if it is better; of new beginnings the best does, whatever was there before."""
        born = [individual for individual, estimate in scored if estimate.status == "ok"]
        estimates = {**state.estimates, **{estimate.id: estimate for _, estimate in scored}}
        anew = any(not individual.parents for individual, _ in scored)
        pool = born if anew else [*state.population, *born]
        memory = {"seen": [*state.memory.get("seen", ()), *(individual.genome.key for individual, _ in scored)]}
        return settle(self.problem, state, scored, self.problem.best(pool, estimates), estimates, memory)
