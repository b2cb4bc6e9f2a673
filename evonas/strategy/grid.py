"""Grid search: every genome of a space of choices, one after the other. Bergstra and Bengio 2012 say why a random
search finds more with less where few choices matter: the grid is for spaces small enough to be exact about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from math import gcd, prod
from typing import Any

from evonas.core import Estimate, Genome, Individual, RecipeError, State
from evonas.strategy import GridSettings
from evonas.strategy.problem import Problem, asked, settle

BARREN = 100_000
"""Points in a row that break a bound, after which the search for the next one is given up."""


@dataclass(frozen=True)
class Grid:
    """The population is the last batch; an empty ask is the end. The memory's `grid` says how far it has come: `next`
    is the point that comes next, and `asked` what it is after each individual that is being estimated."""

    problem: Problem
    settings: GridSettings

    def ask(self, state: State) -> tuple[tuple[Individual, ...], State]:
        """The next points that pass the screen, none at the end; founders lead the first batch."""
        book, at = state.marks.open(), int(state.memory.get("grid", {}).get("next", 0))
        founders = [] if state.generation else list(self.problem.enrol(self.problem.founders, book))
        found = [(genome, at) for genome in founders[: self.settings.population]]
        found += islice(self._points(at), self.settings.population - len(found))
        if not found and not state.generation:
            raise _barren(f"none of the grid's {self.lattice.count} genomes")
        genomes = enumerate(genome for genome, _ in found)
        born = tuple(Individual(state.next_id + i, genome, birth=state.generation) for i, genome in genomes)
        memory = {**state.memory, "grid": {"next": at, "asked": [after for _, after in found]}}
        return born, replace(asked(state, born, book), memory=memory)

    @cached_property
    def lattice(self) -> Lattice:
        """The points of the grid."""
        encoding: Any = self.problem.encoding
        return Lattice(tuple(map(len, encoding.choices)), self.settings.every, self.settings.order == "spread")

    def _points(self, at: int) -> Iterator[tuple[Genome, int]]:
        """The genomes from a point on that pass the screen, each with the point after it; of the ways to write one and
        the same genome only the encoding's own."""
        encoding: Any = self.problem.encoding
        barren = 0
        while at < self.lattice.count:
            tokens = self.lattice.tokens(at)
            at += 1
            genome: Genome = encoding.from_tokens(tokens)
            if encoding.tokens(genome) == tokens and self.problem.screen(genome):
                yield genome, at
                barren = 0
            barren += 1
            if barren > BARREN:
                raise _barren(f"none of {BARREN} genomes of the grid in a row")

    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State:
        """The batch's successes become the population; who was not estimated comes next."""
        alive = [individual for individual, estimate in scored if estimate.status == "ok"]
        estimates = {estimate.id: estimate for _, estimate in scored}
        grid = state.memory["grid"]
        memory = {"grid": {"next": grid["asked"][len(scored) - 1] if scored else grid["next"]}}
        return settle(self.problem, state, scored, alive, estimates, memory)


@dataclass(frozen=True)
class Lattice:
    """The points of a grid by number: `sizes` choices at each place, of which each `every`-th is taken."""

    sizes: tuple[int, ...]
    every: int = 1
    spread: bool = False

    @cached_property
    def count(self) -> int:
        """Number of points."""
        return prod(-(-size // self.every) for size in self.sizes)

    @cached_property
    def _step(self) -> int:
        """A step of 1; or of the golden section of the count, which leaves no large gap wherever one stops (Knuth 1973,
        Fibonacci hashing), made coprime to it so that every point is met."""
        step = self.count * 618_033_988_749_895 // 10**15 if self.spread else 1
        return next(one for one in range(max(step, 1), self.count + 1) if gcd(one, self.count) == 1)

    def tokens(self, at: int) -> tuple[int, ...]:
        """The point with a number, 0 to count - 1; the last place counts fastest."""
        left, digits = at * self._step % self.count, []
        for size in reversed(self.sizes):
            left, digit = divmod(left, -(-size // self.every))
            digits.append(digit * self.every)
        return tuple(reversed(digits))


def _barren(who: str) -> RecipeError:
    return RecipeError(
        f"{who} keeps the recipe's bounds and limits: raise encoding.bounds or an objective's max, or set "
        "strategy.order: spread"
    )
