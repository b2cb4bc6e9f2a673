"""Searches over a table in memory: the loop of a run without its folder, for studies of many seeds.

The strategy sees what it would see in a run: same seeds, same states, same budget; only nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonas import objective, run, strategy, task
from evonas import recipe as recipes
from evonas.core import DataError, Estimate, Individual, RecipeError, State, Strategy, seed_of
from evonas.estimate import LookupSettings
from evonas.estimate.lookup import TableEstimator
from evonas.strategy.problem import Problem, affordable, begin, exhausted
from evonas.strategy.window import Window

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trace:
    """What one search looked at, in order: the table's rows (n,), -1 where it has none; losses (n, objectives), NaN
    where an estimate failed; the simulated clock after each, seconds (n,); epochs looked at (n,), NaN where the table
    knows one fidelity only."""

    rows: NDArray[np.int64]
    losses: Values
    seconds: Values
    epochs: Values

    def best(self) -> int:
        """Which of them is best by the first objective: among those of the highest fidelity, of equal ones the first.

        Raises DataError where every estimate failed."""
        losses = self.losses[:, 0]
        good = np.isfinite(losses)
        if not good.any():
            raise DataError(f"all {len(losses)} networks failed: compare the table with the encoding")
        if np.isfinite(self.epochs).any():
            good &= self.epochs == self.epochs[good].max()
        return int(np.argmin(np.where(good, losses, np.inf)))


class Simulator:
    """Searches of one recipe over its table, for any number of seeds. Raises RecipeError, DataError."""

    def __init__(self, recipe: recipes.Recipe) -> None:
        if not isinstance(recipe.task, task.TabularSettings):
            raise RecipeError(f"task {recipe.task.kind!r} is no table: only a table is searched in memory")
        if not isinstance(recipe.estimator, LookupSettings):
            raise RecipeError(
                f"estimator {recipe.estimator.kind!r} looks nothing up: only a table is searched in memory"
            )
        self.recipe = recipe
        self._estimator = TableEstimator(recipe.model_dump(mode="json"))
        self.space, self.table = self._estimator.encoding, self._estimator.table
        self.objectives = self._estimator.objectives

    @cached_property
    def _posed(self) -> Problem:
        return run.problem(self.recipe, self.space)

    def strategy(self, seed: int) -> Strategy:
        """The recipe's strategy with a seed."""
        return strategy.build(self.recipe.strategy, replace(self._posed, seed=seed))

    def search(self, seed: int) -> Trace:
        """One search to the end of its budget, its generations or what its strategy asks for."""
        chosen, budget = self.strategy(seed), self._posed.budget
        window = Window.of(self.recipe.strategy, chosen, self.space, budget)
        state, looks = begin(), _Looks()
        flight: list[Sequence[Individual]] = []
        while state.generation < self.recipe.strategy.generations and not exhausted(budget, state):
            while (asked := window.ask(state, flight)) is not None:
                flight.append(asked[0])
                state = asked[1]
            if not flight:
                break
            scored = [self._look(one, state, chosen, seed, looks) for one in flight.pop(0)]
            counted = affordable(budget, state, scored)
            looks.cut(len(scored) - len(counted))
            state = window.tell(state, counted, flight)
            run.refuse_hopeless(state, counted)
        return looks.trace()

    def _look(
        self, one: Individual, asked: State, chosen: Any, seed: int, looks: _Looks
    ) -> tuple[Individual, Estimate]:
        at = run.fidelity_of(chosen, asked, one)
        row, estimate = self._estimator.look(one.id, one.genome, seed_of(seed, "estimate", one.id), at)
        good = estimate.status == "ok"
        losses = [o.loss(estimate.values[o.name]) if good else np.nan for o in self.objectives]
        looks.add(row, losses, estimate.cost["seconds"], estimate.cost.get("epochs", np.nan))
        return one, estimate

    def report(self, name: str) -> Values:
        """A metric of `task.report` for every row of the table, the mean of its trials."""
        values: Values = self.table.means("report", name, None)
        return values

    def losses(self) -> Values:
        """What a search would see of every row of the table, (rows, objectives), of trials their mean."""
        columns = {
            name: self.table.means("metrics", name, self._estimator.epochs).tolist() for name in self._estimator.names
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        values = [objective.combined(row, self.recipe.objectives) for row in rows]
        return np.array([[one.loss(row[one.name]) for one in self.objectives] for row in values])

    @property
    def draws(self) -> bool:
        """Whether an estimate draws one of several trials."""
        return any(self.table.column("metrics", name, self._estimator.epochs).draws for name in self._estimator.names)


class _Looks:
    """What a search under way has looked at."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.losses: list[Sequence[float]] = []
        self.seconds: list[float] = []
        self.epochs: list[float] = []

    def add(self, row: int, losses: Sequence[float], seconds: float, epochs: float) -> None:
        self.rows.append(row)
        self.losses.append(losses)
        self.seconds.append(seconds)
        self.epochs.append(epochs)

    def cut(self, count: int) -> None:
        """Takes the last ones back."""
        for column in (self.rows, self.losses, self.seconds, self.epochs) if count else ():
            del column[-count:]

    def trace(self) -> Trace:
        return Trace(
            np.array(self.rows, dtype=np.int64), np.array(self.losses, dtype=np.float64), np.cumsum(self.seconds),
            np.array(self.epochs, dtype=np.float64),
        )  # fmt: skip


def simulate(
    recipe: recipes.Recipe | Mapping[str, Any] | str, seed: int | None = None, *, allow_code: bool = False
) -> Trace:
    """One search over a recipe's table, by its own seed unless another is given; code that it names is imported with
    `allow_code` alone. Raises RecipeError, DataError."""
    checked = recipe if isinstance(recipe, recipes.Recipe) else recipes.read(recipe)
    recipes.permit(checked, allow_code)
    return Simulator(checked).search(checked.seed if seed is None else seed)
