"""A run as users see it: its front, individuals, species, lineages and trained networks, read from the run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evonas import encoding, objective, pareto, task
from evonas import recipe as recipes
from evonas.cohort import Scored
from evonas.core import Estimate, Genome, Individual, Objective, RecipeError, State
from evonas.store import Store

if TYPE_CHECKING:
    from torch import nn

    from evonas.encoding.plan import Plan
    from evonas.phenotype.export import Card


@dataclass(frozen=True)
class Row:
    """One individual as tables show it: its estimate beside what its genome says."""

    id: int
    values: Mapping[str, float]
    status: str
    reason: str
    summary: str
    key: str
    parents: tuple[int, ...]
    birth: int
    species: int | None
    front: bool
    knee: bool
    tested: Mapping[str, float]


class Run:
    """A run folder as users see it: `front()`, `network(id)`, `species()`, `lineage(id)`, `resume()`."""

    def __init__(self, store: Store, recipe: recipes.Recipe | None = None) -> None:
        """`recipe` is the stored one where that is known: to check it again takes as long as a small generation."""
        self.store = store
        self.recipe = recipe or recipes.from_json(store.recipe)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<evonas run {self.name!r}: {self.status}, {len(self.generations())} generations>"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def folder(self) -> Path:
        return self.store.folder

    @property
    def about(self) -> Mapping[str, Any]:
        """Versions, seed, threads, processor and hardware that the run was started with."""
        return self.store.about

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        return objective.resolve(self.recipe.objectives)

    @cached_property
    def task(self) -> task.Task:
        return task.build(self.recipe.task)

    @cached_property
    def encoding(self) -> Any:
        shape = self.store.about["task"]
        return encoding.build(self.recipe.encoding, tuple(shape["input"]), shape["outputs"])

    @property
    def status(self) -> str:
        """`running` (another process holds the folder), `finished`, or `interrupted`."""
        if self.store.locked():
            return "running"
        done = len(self.generations()) >= self.recipe.strategy.generations
        return "finished" if done or self.solved is not None else "interrupted"

    @property
    def solved(self) -> int | None:
        """The individual that first reached the recipe's goal, None where none has or none is set."""
        return next((row["solved"] for row in self.generations() if row.get("solved") is not None), None)

    def state(self) -> State | None:
        """The newest state that is stored in full, None before the first."""
        return self.store.load_state(self.encoding.from_json, getattr(self.encoding, "unpack_state", None))

    # reading --------------------------------------------------------------------------------------------------

    def generations(self) -> list[dict[str, Any]]:
        """One mapping per completed generation: number, evaluations, hypervolume, failures, seconds, best values."""
        return self.store.generations()

    def events(self) -> list[dict[str, Any]]:
        """What happened to the run: started, resumed, warnings, tests."""
        return self.store.events()

    def individual(self, id: int) -> Individual:
        """One individual; raises RecipeError naming the highest id where there is none such."""
        return self.store.individual(id, self.encoding.from_json)

    def estimate(self, id: int) -> Estimate | None:
        """Its estimate, or None while it is still to come."""
        return self.store.estimate(id)

    def genome(self, id: int) -> Genome:
        return self.individual(id).genome

    def plan(self, id: int) -> Plan:
        """The network of an individual as data: steps with shapes, parameters and FLOPs."""
        plan: Plan = self.encoding.decode(self.genome(id))
        return plan.running(self._activations) if plan.is_graph else plan

    @property
    def _activations(self) -> int:
        """Steps that a direct genome's network takes on one input: the task says it, or the estimator."""
        return max(getattr(settings, "activations", 1) for settings in (self.recipe.task, self.recipe.estimator))

    def front(self, generation: int | None = None) -> list[Row]:
        """The run's Pareto front (after `generation`, by default the last), sorted by the first objective."""
        ids = self.store.front(generation)
        rows = self._rows(ids)
        first = self.objectives[0]
        return sorted(rows, key=lambda row: (first.loss(row.values[first.name]), row.id))

    def individuals(self) -> list[Row]:
        """Every individual of the run, by id."""
        return self._rows(None)

    def knee(self) -> int | None:
        """Id of the front member with the best trade-off, None on fronts of fewer than three.

        Objectives whose values span orders of magnitude, such as sizes, count by their logarithm."""
        ids = self.store.front()
        estimates = self.store.estimates(ids)
        return self._knee([estimates[id] for id in sorted(estimates)])

    def species(self) -> list[dict[str, Any]]:
        """Species over the generations: species (its id), generation, size, best, representative, born, improved."""
        return self.store.species()

    def lineage(self, id: int) -> list[Row]:
        """The individual's ancestors from the founders on, itself last, in order of birth; only those that are kept."""
        family = {self.individual(id).id}
        pending = [id]
        while pending:
            parents = self.store.kept(self.individual(pending.pop()).parents) - family
            family |= parents
            pending += sorted(parents)
        return self._rows(sorted(family))

    def network(self, id: int) -> nn.Module:
        """The trained network of an individual, in evaluation mode on the CPU.

        It takes inputs normalised by the mean and deviation of the task's data (`run.task.load(seed)`); those of a
        regression give outputs standardised by its targets. `export` writes both into the module's `predict`.

        One that `evonas test` trained to the end comes with those weights, any other with the search's; a direct
        genome's are its genes where it was not trained. Raises RecipeError where its weights were not kept
        (`store.keep_weights: front` keeps the front and the population)."""
        from evonas.phenotype import network

        built = network.build(self.plan(id))
        network.load(built, network.from_bytes(self.weights(id)))
        return built.eval()

    def weights(self, id: int) -> bytes:
        """The weights that `network` takes, as safetensors bytes, checked against their SHA-256."""
        final = [test["weights"] for test in self.store.tests() if test["id"] == id and test["weights"]]
        estimate = self.estimate(id)
        sha = final[-1] if final else estimate.weights if estimate else None
        if sha is not None and self.store.has_weights(sha):
            return self.store.weights(sha)
        if sha is None and (plan := self.plan(id)).is_graph:
            from evonas.phenotype import network

            return network.to_bytes(network.build(plan))
        if sha is not None:
            why = f"they were not kept: store.keep_weights is {self.recipe.store.keep_weights!r}"
        else:
            why = (
                "it is not estimated yet"
                if estimate is None
                else f"{estimate.status}, {estimate.reason or 'untrained'}"
            )
        raise RecipeError(f"individual {id} has no weights ({why}); choose one of the front: {self._front_ids()}")

    def export(self, id: int, folder: str | Path, to: Literal["module", "onnx"] = "module") -> tuple[Path, ...]:
        """Writes the network as a self-contained PyTorch module with weights and genome, or as an ONNX file (needs the
        extra evonas[onnx]); returns the files' paths."""
        from evonas.phenotype.export import export_module, export_onnx

        plan, weights, card, name = self.plan(id), self.weights(id), self._card(id), f"{self.name}-{id}"
        if to == "onnx":
            return (export_onnx(plan, weights, Path(folder) / f"{name}.onnx", card),)
        return export_module(plan, weights, folder, name, card)

    def _card(self, id: int) -> Card:
        """What the individual's network is for."""
        from evonas.phenotype.export import Card

        row = self._rows([id])[0]
        facts: dict[str, str | float] = {"run": self.name, "individual": id, **row.values}
        facts |= {f"test {name}": value for name, value in row.tested.items()}
        genome = self.encoding.to_json(self.genome(id))
        if hasattr(self.task, "rollout"):
            return Card("control", facts=facts, genome=genome)
        data = self.task.load(self.recipe.seed)
        regression = data.shape.kind == "regression"
        return Card(
            kind=data.shape.kind,
            mean=data.mean.tolist(),
            std=data.std.tolist(),
            labels=data.shape.labels,
            target_mean=data.target_mean.tolist() if regression else (),
            target_std=data.target_std.tolist() if regression else (),
            facts=facts,
            genome=genome,
        )

    def close(self) -> None:
        self.store.close()

    def statistics(self, state: State, scored: Sequence[tuple[Individual, Estimate]] = ()) -> dict[str, Any]:
        """What is stored about a generation: evaluations, failures, hypervolume, species, best value per objective, who
        reached the goal; of one that was estimated as a whole also every value's mean and deviation."""
        front = [state.estimates[id] for id in state.front]
        shared = {
            "evaluations": state.evaluations,
            "hypervolume": self._hypervolume(front, state.memory.get("reference")),
            "best": {one.name: _best(one, front) for one in self.objectives} if front else {},
            "species": len(state.species),
            "solved": state.memory.get("solved"),
        }
        if not isinstance(scored, Scored):
            return {**shared, "failed": sum(estimate.status == "failed" for _, estimate in scored)}
        scores = scored.scores
        spread = {name: _spread(column[scores.ok]) for name, column in scores.columns.items()}
        found = {name: one for name, one in spread.items() if one is not None}
        return {**shared, "failed": len(scores.failed), "spread": found}

    def kept(self, state: State, scored: Scored) -> set[int]:
        """Ids of a generation that the recipe keeps one by one: all, or the front and the species' champions."""
        if self.recipe.store.individuals == "all":
            return {int(id) for id in scored.born.ids}
        champions = {one.champion for one in state.species if one.champion is not None}
        solved = state.memory.get("solved")
        return champions | set(state.front) | ({solved} if solved is not None else set())

    def _hypervolume(self, front: Sequence[Estimate], reference: Sequence[float] | None) -> float | None:
        if reference is None or not front:
            return None
        return pareto.hypervolume(self._losses(front), reference)

    def _losses(self, estimates: Sequence[Estimate]) -> list[list[float]]:
        return [[o.loss(estimate.values[o.name]) for o in self.objectives] for estimate in estimates]

    def _scaled(self, estimates: Sequence[Estimate]) -> list[list[float]]:
        """Losses with objectives that span orders of magnitude, such as sizes, on a logarithmic scale."""
        columns = []
        for one in self.objectives:
            values = [estimate.values[one.name] for estimate in estimates]
            wide = min(values) > 0 and max(values) > pareto.WIDE * min(values)
            columns.append([one.loss(math.log(value) if wide else value) for value in values])
        return [list(row) for row in zip(*columns, strict=True)]

    def _knee(self, front: Sequence[Estimate]) -> int | None:
        at = pareto.knee(self._scaled(front)) if front else None
        return None if at is None else front[at].id

    def _front_ids(self) -> str:
        ids = [str(id) for id in self.store.front()]
        return ", ".join(ids[:12]) + (" ..." if len(ids) > 12 else "") if ids else "none yet"

    def _rows(self, ids: Sequence[int] | None) -> list[Row]:
        estimates = self.store.estimates(ids)
        front = self.store.front()
        knee = self._knee([estimates[id] for id in front if id in estimates])
        tested = {test["id"]: test["values"] for test in self.store.tests()}
        individuals = list(self.store.individuals(ids, self.encoding.from_json))
        finished = len(self.generations())
        # of who left the population, the species of its birth
        lives = sorted({*(min(one.birth + 1, finished) for one in individuals), finished})
        species = {id: one["species"] for at in lives for one in self.store.species(at) for id in one["members"]}
        rows = []
        for individual in individuals:
            estimate = estimates.get(individual.id)
            rows.append(
                Row(
                    individual.id,
                    estimate.values if estimate else {},
                    estimate.status if estimate else "waiting",
                    estimate.reason if estimate else "",
                    self.encoding.summary(individual.genome),
                    individual.genome.key,
                    individual.parents,
                    individual.birth,
                    species.get(individual.id),
                    individual.id in front,
                    individual.id == knee,
                    tested.get(individual.id, {}),
                )
            )
        return rows


def _spread(values: Any) -> dict[str, float] | None:
    """Mean and standard deviation of what was measured; None where nothing finite was."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # huge values; JSON knows no infinity
        mean, deviation = finite.mean(), finite.std()
    return {"mean": float(mean), "deviation": float(deviation)} if np.isfinite([mean, deviation]).all() else None


def _best(objective: Objective, estimates: Sequence[Estimate]) -> float:
    values = [estimate.values[objective.name] for estimate in estimates]
    return min(values) if objective.direction == "min" else max(values)
