"""A run as users see it: its front, individuals, species, lineages and trained networks, read from the run folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evonas import agreement, encoding, objective, pareto, shapes, task
from evonas import recipe as recipes
from evonas.cohort import Everyone, Scored
from evonas.core import DataError, Estimate, Genome, Individual, Objective, RecipeError, State
from evonas.estimate import inherits
from evonas.store import Store

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from evonas.encoding.plan import Plan
    from evonas.phenotype.export import Card
    from evonas.report.frames import What
    from evonas.report.pictures import Plot


Exported = Literal["module", "onnx", "torch-export", "genome"]
"""What a network is exported to."""


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
    cost: Mapping[str, float] = field(default_factory=dict)


class Rows(list[Row]):
    """Individuals of one run, in order; a notebook shows them as a table."""

    def __init__(self, rows: Iterable[Row], run: Run) -> None:
        super().__init__(rows)
        self._run = run

    def _repr_html_(self) -> str:
        from evonas.report import html

        return html.rows(self, self._run)


@dataclass(frozen=True)
class Bequest:
    """Where the numbers of one gene's tensors in a trained network come from.

    `parents`: which share each parent gave, by id; what is missing was new at birth. `first`: in which ancestor, or the
    individual itself, which share was drawn first; all of those trained since have trained it."""

    gene: str
    op: str
    params: int
    parents: Mapping[int, float]
    first: Mapping[int, float]


@dataclass(frozen=True)
class Saved:
    """What ending trainings early has saved: how many were ended, and epochs, also as a share of what all had taken."""

    pruned: int
    epochs: float
    share: float


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

    def _repr_html_(self) -> str:
        """What a notebook shows: the run in a few words, its front as a figure and as a table."""
        from evonas.report import html

        return html.run(self)

    @property
    def plot(self) -> Plot:
        """The run's figures, as matplotlib Figures and as files: `run.plot.front("front.pdf")`."""
        from evonas.report.pictures import Plot

        return Plot(self)

    def to_frame(self, what: What = "individuals") -> pandas.DataFrame:
        """The run's data as a pandas DataFrame (needs the extra evonas[data]): `individuals`, `front`, `generations`,
        `species`, `curves`, `tests`."""
        from evonas.report import frames

        return frames.frame(self, what)

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
        return tuple(map(objective.described, objective.parse(self.recipe.objectives)))

    @cached_property
    def task(self) -> task.Task:
        return task.build(self.recipe.task)

    @cached_property
    def encoding(self) -> Any:
        return encoding.readable(self.recipe.encoding, *shapes.shape_of(self.store.about))

    @property
    def status(self) -> str:
        """`running` (another process holds the folder), `finished`, or `interrupted`."""
        if self.store.locked():
            return "running"
        done = len(self.generations()) >= self.recipe.strategy.generations
        return "finished" if done or self.solved is not None or self.store.ended() else "interrupted"

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
        return [{"best": {}, "failed": 0, "species": 0, **row} for row in self.store.generations()]

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
        return Rows(sorted(rows, key=lambda row: (first.loss(row.values[first.name]), row.id)), self)

    def individuals(self) -> list[Row]:
        """Every individual of the run, by id."""
        return Rows(self._rows(None), self)

    def rows(self, ids: Sequence[int]) -> list[Row]:
        """Some individuals, in this order; RecipeError for one that is not in the run."""
        return Rows(self._rows(ids), self)

    def everyone(self, since: int = 0) -> Everyone:
        """All individuals as arrays, born in generation `since` or later; a million of them take a few seconds."""
        return self.store.everyone(since)

    def knee(self) -> int | None:
        """Id of the front member with the best trade-off, None on fronts of fewer than three.

        Objectives whose values span orders of magnitude, such as sizes, count by their logarithm."""
        ids = self.store.front()
        estimates = self.store.estimates(ids)
        return self.knee_of([estimates[id] for id in sorted(estimates)])

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
        return Rows(self._rows(sorted(family)), self)

    def bequests(self, id: int) -> list[Bequest]:
        """By gene of an individual's network, whose weights it was born with: its parents', and of whom they had them.

        Raises RecipeError for a run without inherited weights."""
        if not inherits(self.recipe.estimator):
            raise RecipeError(f"{self.name} inherits no weights: every network was trained from scratch; set "
                              "estimator.inherit: weights in a recipe")  # fmt: skip
        found: dict[int, dict[str, Bequest]] = {}
        for row in self.lineage(id):
            found[row.id] = self._bequests(row, found)
        return list(found[id].values())

    def _bequests(self, row: Row, elders: Mapping[int, Mapping[str, Bequest]]) -> dict[str, Bequest]:
        given: dict[str, dict[int, float]] = {}
        for key, share in row.cost.items():
            if key.startswith("inherited/") and row.parents:  # a founder that began with weights has none
                _, at, gene = key.split("/")
                given.setdefault(gene, {})[row.parents[int(at)]] = share
        made = {}
        for step in self.plan(row.id).steps:
            if step.params:
                shares = given.get(step.name, {})
                made[step.name] = Bequest(
                    step.name, step.op, step.params, shares, _first(row.id, step.name, shares, elders)
                )
        return made

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
        """The weights that `network` takes, as safetensors bytes, checked against their SHA-256; without the state of
        the optimiser, which their file may hold for children that inherit them."""
        from evonas.phenotype import network

        final = [test["weights"] for test in self.store.tests() if test["id"] == id and test["weights"]]
        estimate = self.estimate(id)
        sha = final[-1] if final else estimate.weights if estimate else None
        if sha is not None and self.store.has_weights(sha):
            return network.bare(self.store.weights(sha, network.most_bytes(self.plan(id))))
        if sha is None and (plan := self.plan(id)).is_graph:
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

    def export(self, id: int, folder: str | Path, to: Exported = "module") -> tuple[Path, ...]:
        """Writes the network as a self-contained PyTorch module with weights and genome, as an ONNX file (needs the
        extra evonas[onnx]), as a torch.export program, or its genome alone; beside it a model card, `README.md`.
        Returns the files' paths."""
        from evonas.phenotype.export import write
        from evonas.report import card

        files = self._export(id, Path(folder), to)
        readme = Path(folder) / "README.md"
        if readme.exists() and card.HEAD not in readme.read_text("utf-8", "replace"):
            readme = Path(folder) / f"{files[0].stem}.md"  # somebody's own README stays
        written = card.text(self, id, to, [file.name for file in files])
        return (*files, write(readme, written.encode()))

    def _export(self, id: int, folder: Path, to: Exported) -> tuple[Path, ...]:
        from evonas.phenotype import export

        name = f"{self.name}-{id}"
        if to == "genome":
            return (export.export_genome(self._entry(id), folder / f"{name}.json"),)
        plan, weights, card = self.plan(id), self.weights(id), self._card(id)
        if to == "onnx":
            return (export.export_onnx(plan, weights, folder / f"{name}.onnx", card),)
        if to == "torch-export":
            return (export.export_program(plan, weights, folder / f"{name}.pt2", card),)
        return export.export_module(plan, weights, folder, name, card)

    def _entry(self, id: int) -> dict[str, Any]:
        """A genome as the zoo keeps one: with what it is for, so that it can be shown without its run."""
        about, plan, (row,) = self.about["task"], self.plan(id), self.rows([id])
        known = [one.name for one in self.objectives if one.name in row.values]
        norm = getattr(self.recipe.encoding, "edge_norm", None)
        structure = getattr(self.recipe.encoding, "structure", None)
        return {
            "name": f"{self.name}-{id}",
            "about": ", ".join(f"{name} {row.values[name]:.6g}" for name in known),
            "source": f"evonas {self.about['evonas']}, run {self.name}, individual {id}",
            "task": {"kind": self.recipe.task.kind, "input": about["input"], "outputs": about["outputs"]},
            "params": plan.params,
            "flops": plan.flops,
            **({} if norm is None else {"edge_norm": norm}),
            **({} if structure is None else {"settings": structure}),
            "genome": self.encoding.to_json(self.genome(id)),
        }

    def _card(self, id: int) -> Card:
        """What the individual's network is for."""
        from evonas.phenotype.export import Card

        row = self._rows([id])[0]
        facts: dict[str, str | float] = {"run": self.name, "individual": id, **row.values}
        facts |= {f"test {name}": value for name, value in row.tested.items()}
        genome = self.encoding.to_json(self.genome(id))
        if hasattr(self.task, "rollout"):
            return Card("control", facts=facts, genome=genome)
        shape = self.task.shape()
        if shape.kind == "tabular":
            return Card("classification", facts=facts, genome=genome)
        data = self.task.load(self.recipe.seed)
        regression = data.shape.kind == "regression"
        return Card(
            kind=shape.kind,
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
        reached the goal; of one that was estimated as a whole also every value's mean and deviation. Where weights are
        inherited, `inheritance` holds how many did so, the samples trained, the epochs saved against training all from
        scratch, and the mean error before any training. Where trainings are ended early, `stopping` holds how many
        were, the epochs trained and the epochs saved; where some were looked at again more closely, `promoted` holds
        them."""
        front = [state.estimates[id] for id in state.front]
        shared = {
            "evaluations": state.evaluations,
            "hypervolume": self._hypervolume(front, state.memory.get("reference")),
            "best": {one.name: _best(one, front) for one in self.objectives} if front else {},
            "species": len(state.species),
            "solved": state.memory.get("solved"),
        }
        if not isinstance(scored, Scored):
            failed = sum(estimate.status == "failed" for _, estimate in scored)
            costs = [estimate.cost for _, estimate in scored]
            return {
                **shared, "failed": failed, **self._inheritance(costs), **self._stopping(costs),
                **self._promoted(scored),
            }  # fmt: skip
        scores = scored.scores
        spread = {name: _spread(column[scores.ok]) for name, column in scores.columns.items()}
        found = {name: one for name, one in spread.items() if one is not None}
        return {**shared, "failed": len(scores.failed), "spread": found}

    def _inheritance(self, costs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        settings = self.recipe.estimator
        if not inherits(settings):
            return {}
        births = [cost["birth_error"] for cost in costs if "birth_error" in cost]
        ledger = {
            "children": sum("inherited" in cost for cost in costs),
            "samples": sum(cost.get("samples", 0) for cost in costs),
            "epochs_saved": sum(settings.epochs - _planned(cost) for cost in costs if _comparable(cost)),
            "birth_error": sum(births) / len(births) if births else None,
        }
        return {"inheritance": ledger}

    def _stopping(self, costs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        settings = self.recipe.estimator
        untrained = inherits(settings) and settings.inherit.birth_loss is not None
        if getattr(settings, "stop", None) is None and not untrained:
            return {}
        ledger = {
            "pruned": sum("epochs_saved" in cost for cost in costs),
            "epochs": sum(cost.get("epochs", 0) for cost in costs),
            "epochs_saved": sum(cost.get("epochs_saved", 0) for cost in costs),
        }
        return {"stopping": ledger}

    def _promoted(self, scored: Sequence[tuple[Individual, Estimate]]) -> dict[str, Any]:
        again = [one.parents[0] for one, _ in scored if len(one.parents) == 1 and not one.edits]
        found = agreement.promoted(scored, self.store.estimates(again), self.objectives[0]) if again else []
        return {"promoted": found} if found else {}

    def saved(self) -> Saved | None:
        """What ending trainings early has saved so far; None where the recipe ends none."""
        ledgers = [row["stopping"] for row in self.generations() if "stopping" in row]
        if not ledgers:
            return None
        pruned, done, saved = (sum(one[key] for one in ledgers) for key in ("pruned", "epochs", "epochs_saved"))
        return Saved(pruned, saved, saved / (done + saved) if saved else 0.0)

    def agreements(self) -> list[agreement.Agreement]:
        """How far the order at the fidelities of the search is that of closer looks: of those who were promoted, and of
        those whom `evonas test` trained to the end. By the first objective."""
        return agreement.agreements(self.generations(), self._tested())

    def _tested(self) -> list[tuple[Estimate, float, float]]:
        """Losses of the first objective in the search and in the test; of a table by what it reports."""
        first, pairs = self.objectives[0], list[tuple[Estimate, float, float]]()
        for test in self.store.tests():
            found = self.estimate(test["id"])
            told = test["values"].get(first.name)
            sign = 1.0 if first.direction == "min" else -1.0
            if told is None and test["values"]:
                name, told = next(iter(test["values"].items()))
                sign = self._sign(name)
            if found is not None and found.status == "ok" and told is not None:
                pairs.append((found, first.loss(found.values[first.name]), sign * told))
        return pairs

    def _sign(self, name: str) -> float:
        """Which way a table's report is better, as the whole table says: -1 where it rises as the first loss falls."""
        table = self.task.bound(self.encoding)  # type: ignore[attr-defined]
        first, epochs = self.objectives[0], table.epochs(None)
        told = [table.column(*at, epochs).values[:, 0] for at in (("metrics", first.name), ("report", name))]
        there = np.isfinite(told).all(axis=0)
        return float(np.sign(np.corrcoef(told[0][there], told[1][there])[0, 1]) * first.loss(1.0))

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
        signs = [1.0 if one.direction == "min" else -1.0 for one in self.objectives]
        losses: list[list[float]] = (np.array(list(map(self._values, estimates)), dtype=np.float64) * signs).tolist()
        return losses

    def _values(self, estimate: Estimate) -> list[float]:
        """The objectives' values, (objectives,). Raises DataError where one is missing, which no run leaves so."""
        try:
            return [estimate.values[one.name] for one in self.objectives]
        except KeyError as missing:
            text = f"individual {estimate.id} is {estimate.status} without a value of {missing}"
            raise DataError(f"{self.folder} is damaged: {text}: `evonas verify {self.name}`") from None

    def _scaled(self, estimates: Sequence[Estimate]) -> list[list[float]]:
        """Losses with objectives that span orders of magnitude, such as sizes, on a logarithmic scale."""
        columns = []
        table = list(map(self._values, estimates))
        for at, one in enumerate(self.objectives):
            values = [row[at] for row in table]
            wide = min(values) > 0 and max(values) > pareto.WIDE * min(values)
            columns.append([one.loss(math.log(value) if wide else value) for value in values])
        return [list(row) for row in zip(*columns, strict=True)]

    def knee_of(self, front: Sequence[Estimate]) -> int | None:
        """Id of the one with the best trade-off among estimates, None of fewer than three."""
        at = pareto.knee(self._scaled(front)) if front else None
        return None if at is None else front[at].id

    def _front_ids(self) -> str:
        ids = [str(id) for id in self.store.front()]
        return ", ".join(ids[:12]) + (" ..." if len(ids) > 12 else "") if ids else "none yet"

    def _rows(self, ids: Sequence[int] | None) -> list[Row]:
        estimates = self.store.estimates(ids)
        front = self.store.front()
        knee = self.knee_of([estimates[id] for id in front if id in estimates])
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
                    estimate.cost if estimate else {},
                )
            )
        return rows


def _planned(cost: Mapping[str, float]) -> float:
    """The epochs that a training would have taken to its end."""
    return cost["epochs"] + cost.get("epochs_saved", 0)


def _comparable(cost: Mapping[str, float]) -> bool:
    """Whether a training took the epochs that the recipe says, not those that the strategy asked for."""
    return "epochs" in cost and "fidelity_epochs" not in cost


def _first(
    id: int, gene: str, shares: Mapping[int, float], elders: Mapping[int, Mapping[str, Bequest]]
) -> dict[int, float]:
    """In whom a gene's numbers were drawn: a parent's share as it is divided there; of a layer that was divided itself,
    and has another name in the parent, the parent stands for all."""
    first: dict[int, float] = {}
    if (own := 1 - sum(shares.values())) > 1e-12:
        first[id] = own
    for parent, share in shares.items():
        known = elders.get(parent, {}).get(gene)
        for ancestor, part in (known.first if known else {parent: 1.0}).items():
            first[ancestor] = first.get(ancestor, 0.0) + share * part
    return dict(sorted(first.items()))


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
