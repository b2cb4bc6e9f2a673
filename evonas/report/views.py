"""What the dashboard and the report draw, as plain values read from a run: columns of a whole run, not objects.

Pure over a `Run`: nothing here draws, and nothing writes. `Everyone` of a run may be handed in where it is known
already, since reading 100,000 individuals takes most of a second."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evonas import pareto
from evonas.cohort import Everyone, positions
from evonas.core import Edit, Json, Objective, RecipeError, dumps, nearest
from evonas.report.layout import layered
from evonas.store import Birth, Store

if TYPE_CHECKING:
    from evonas.results import Run

Reals = NDArray[np.float64]
Ints = NDArray[np.int64]

REACH = 3000
"""Ancestors that are looked at; beyond them only first parents are."""

ORDER, BORN, SPECIES = "evaluation", "born", "species"
"""Axes and colours that every run has: the order of birth, the generation of birth, the species."""

CLOUD = 2000
"""Dots that stand for everyone in a figure; of more individuals, some stand for several."""

_GRIDS = (200, 140, 100, 80, 64)
"""Columns of the grids that individuals are put together by, finest first."""

CROWD = 300
"""Ancestors that a family tree shows; of more only those nearest along first parents."""


# ------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Card:
    """A run in a list of runs. `trend` is its hypervolume by generation; `started` is in seconds since
    1970, None where not known; `solved` is who reached the goal; `problem` says why a damaged one cannot be read, and
    then nothing else is told."""

    name: str
    status: str
    generation: int = 0
    generations: int = 0
    evaluations: int = 0
    failed: int = 0
    seconds: float = 0.0
    best: Mapping[str, float] = field(default_factory=dict)
    hypervolume: float | None = None
    trend: tuple[float, ...] = ()
    task: str = ""
    strategy: str = ""
    encoding: str = ""
    seed: int = 0
    started: float | None = None
    solved: int | None = None
    problem: str = ""


def card(store: Store, running: bool) -> Card:
    """A run as a list shows it, from its store alone: a recipe need not be checked to be named."""
    passed, newest, recipe = store.history(), store.latest(), store.recipe
    done = len(passed) >= recipe["strategy"]["generations"] or newest.get("solved") is not None or store.ended()
    return Card(
        name=store.folder.name,
        status="running" if running else "finished" if done else "interrupted",
        generation=len(passed),
        generations=recipe["strategy"]["generations"],
        evaluations=passed[-1].evaluations if passed else 0,
        failed=sum(one.failed or 0 for one in passed),
        seconds=sum(one.seconds or 0.0 for one in passed),
        best=newest.get("best", {}),
        hypervolume=newest.get("hypervolume"),
        trend=tuple(one.hypervolume for one in passed if one.hypervolume is not None),
        task=str(recipe["task"]["kind"]),
        strategy=str(recipe["strategy"]["kind"]),
        encoding=str(recipe["encoding"]["kind"]),
        seed=recipe["seed"],
        started=_moment(store.about.get("started")),
        solved=newest.get("solved"),
    )


def _moment(text: Json) -> float | None:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError):
        return None


# ------------------------------------------------------------------------------------------------------------ front


@dataclass(frozen=True)
class Axis:
    """Something to draw along: a value that was measured, an objective if it has a direction."""

    name: str
    unit: str = ""
    direction: str = ""
    limits: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """The name with its unit and, of an objective, which way is better."""
        better = {"min": "lower is better", "max": "higher is better"}.get(self.direction)
        return ", ".join(part for part in (f"{self.name} ({self.unit})" if self.unit else self.name, better) if part)

    def loss(self, values: Reals) -> Reals:
        """The values as something to minimise; of losses the values again."""
        return -values if self.direction == "max" else values

    def loss_of(self, value: float) -> float:
        """One value as something to minimise; of a loss the value again."""
        return -value if self.direction == "max" else value


@dataclass(frozen=True, eq=False)
class Front:
    """Everyone of a run who was estimated, with the fronts over its generations.

    `ids`, `born` and `species` are (n,), 0 standing for no species; `columns` hold each axis' values (n,), NaN where
    one was not measured; `fronts[g - 1]` are ids after generation g."""

    run: str
    axes: Mapping[str, Axis]
    objectives: tuple[str, ...]
    ids: Ints
    born: Ints
    species: Ints
    columns: Mapping[str, Reals]
    fronts: tuple[tuple[int, ...], ...]
    knee: int | None = None
    tested: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    def positions(self, ids: Iterable[int]) -> Ints:
        """Where those with these ids are; who is not here is left out."""
        return positions(self.ids, list(ids))

    def default_axes(self) -> tuple[str, str]:
        """What lies across and up unless told: the second objective and the first, or the order of birth."""
        return (self.objectives[1] if len(self.objectives) > 1 else ORDER), self.objectives[0]

    def axis(self, name: str) -> Axis:
        """RecipeError with the nearest names for one that was not measured."""
        if name not in self.axes:
            raise RecipeError(f"{name!r} was not measured in {self.run}; {nearest(name, list(self.axes))}")
        return self.axes[name]

    def best_within(self, limits: Mapping[str, float]) -> int | None:
        """The individual with the best first objective among those that keep every limit, None if nobody does.

        A limit is the most where less is better, else the least."""
        good = np.isfinite(self.columns[self.objectives[0]])
        for name, limit in limits.items():
            axis = self.axis(name)
            values = axis.loss(self.columns[name])
            good &= values <= axis.loss_of(limit)  # NaN compares false
        if not good.any():
            return None
        losses = self.axes[self.objectives[0]].loss(self.columns[self.objectives[0]])
        return int(self.ids[np.flatnonzero(good)[np.argmin(losses[good])]])


def front(run: Run, everyone: Everyone | None = None) -> Front:
    """Everyone of a run and its fronts, read once for all of its figures."""
    everyone = run.everyone() if everyone is None else everyone
    objectives = {one.name: _axis(one) for one in run.objectives}
    ok = everyone.status == 0
    for name in objectives:
        ok &= np.isfinite(everyone.columns.get(name, np.full(len(everyone), np.nan)))
    ids, born = everyone.ids[ok], everyone.births[ok]
    columns = {name: column[ok] for name, column in everyone.columns.items()}
    columns = {
        name: columns.get(name, np.zeros(len(ids))) for name in [*objectives, *sorted(columns.keys() - objectives)]
    }
    columns |= {BORN: born.astype(np.float64), ORDER: ids.astype(np.float64)}
    axes = {name: objectives.get(name, Axis(name)) for name in columns}
    tested = {test["id"]: test["values"] for test in run.store.tests()}
    fronts = tuple(tuple(ids) for ids in run.store.fronts().values())
    return Front(
        run.name, axes, tuple(objectives), ids, born, _species_of(run, ids), columns, fronts, run.knee(), tested
    )


def _axis(objective: Objective) -> Axis:
    limits = tuple(limit for limit in (objective.min, objective.max) if limit is not None)
    return Axis(objective.name, objective.unit, objective.direction, limits)


def _species_of(run: Run, ids: Ints) -> Ints:
    """The species that each was last a member of, 0 where that is not known."""
    home = np.zeros(int(ids[-1]) + 1 if len(ids) else 1, dtype=np.int64)
    for one in run.store.species():
        members = [id for id in one["members"] if id < len(home)]
        home[members] = one["species"]
    return home[ids] if len(ids) else np.zeros(0, dtype=np.int64)


def spans_orders(values: Reals) -> bool:
    """Whether a logarithmic scale shows these values better."""
    good = values[np.isfinite(values)]
    return bool(len(good) and good.min() > 0 and good.max() > pareto.WIDE * good.min())


def thinned(x: Reals, y: Reals, cells: tuple[int, int]) -> tuple[Ints, Ints]:
    """Positions of one point for each cell of a grid over these points, and how many share its cell.

    Points that would hide each other are drawn once."""
    if not len(x):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    cell = _cell(x, cells[0]) * cells[1] + _cell(y, cells[1])
    _, first, count = np.unique(cell, return_index=True, return_counts=True)
    order = np.argsort(first)
    return first[order].astype(np.int64), count[order].astype(np.int64)


def cloud(x: Reals, y: Reals, most: int = CLOUD) -> tuple[Ints, Ints]:
    """`thinned` by the finest of a few grids that leaves about `most` points or fewer, so that a figure of 100,000 is
    as light as one of 2,000: a browser takes 0.4 ms for each."""
    first, count = np.arange(len(x)), np.ones(len(x), dtype=np.int64)
    for columns in _GRIDS:
        if len(first) <= most:
            break
        first, count = thinned(x, y, (columns, columns * 9 // 16))
    return first, count


def _cell(values: Reals, cells: int) -> Ints:
    low, high = values.min(), values.max()
    share = (values - low) / (high - low) if high > low else np.zeros(len(values))
    return np.minimum((share * cells).astype(np.int64), cells - 1)


# ------------------------------------------------------------------------------------------------------ hypervolume


@dataclass(frozen=True, eq=False)
class Trend:
    """Hypervolume after each generation, all (g,): over evaluations, over seconds of the run, over samples trained."""

    run: str
    generations: Ints
    hypervolume: Reals
    evaluations: Reals
    seconds: Reals
    samples: Reals

    def over(self, cost: str) -> Reals:
        """What lies across: `evaluations`, `seconds` or `samples`. RecipeError for anything else."""
        if cost not in COSTS:
            raise RecipeError(f"hypervolume over {cost!r} is not known; {nearest(cost, list(COSTS))}")
        found: Reals = getattr(self, cost)
        return found


COSTS = {"evaluations": "evaluations", "seconds": "time (s)", "samples": "samples trained"}
"""What hypervolume may be drawn over, with the words for it."""


def trend(run: Run, everyone: Everyone | None = None) -> Trend:
    """A run's hypervolume; generations without one are left out. Samples are 0 where nothing was trained."""
    rows = run.generations()
    numbers = np.array([row["generation"] for row in rows], dtype=np.int64)
    volume = np.array(
        [math.nan if row["hypervolume"] is None else row["hypervolume"] for row in rows], dtype=np.float64
    )
    evaluations = np.array([row["evaluations"] for row in rows], dtype=np.float64)
    seconds: Reals = np.cumsum([row["seconds"] or 0.0 for row in rows], dtype=np.float64)
    samples: Reals = np.zeros(len(rows))
    if everyone is not None and len(everyone) and len(rows):
        by_birth = np.bincount(everyone.births, everyone.samples, minlength=len(rows))
        samples = np.cumsum(by_birth, dtype=np.float64)[numbers - 1]
    known = np.isfinite(volume)
    return Trend(run.name, numbers[known], volume[known], evaluations[known], seconds[known], samples[known])


# ---------------------------------------------------------------------------------------------------------- species


@dataclass(frozen=True, eq=False)
class SpeciesHistory:
    """Sizes of species over generations, (s, g), 0 where one does not live; `ids` in order of birth."""

    run: str
    ids: tuple[int, ...]
    generations: Ints
    sizes: Ints
    newest: tuple[Mapping[str, Any], ...]
    """The species of the last generation: species, size, representative, born, best, improved, members."""


def species(run: Run) -> SpeciesHistory:
    """The species of every generation."""
    rows = run.species()
    count = len(run.generations())
    numbers = np.arange(1, count + 1)
    ids = sorted({row["species"] for row in rows})
    at = {id: i for i, id in enumerate(ids)}
    sizes = np.zeros((len(ids), len(numbers)), dtype=np.int64)
    for row in rows:
        if row["generation"] <= count:
            sizes[at[row["species"]], row["generation"] - 1] = row["size"]
    newest = tuple(row for row in rows if row["generation"] == count)
    return SpeciesHistory(run.name, tuple(ids), numbers, sizes, newest)


@dataclass(frozen=True, eq=False)
class Distances:
    """Compatibility distances between species, (s, s), measured between the individuals of these ids.

    They are the species' representatives; for those in `stand_ins` their champions, where the representative itself
    was not kept."""

    species: tuple[int, ...]
    ids: tuple[int, ...]
    values: Reals
    stand_ins: tuple[int, ...] = ()


def distances(run: Run, history: SpeciesHistory, most: int = 40) -> Distances:
    """Distances between the largest species, `most` of them at most; those of whom nobody was kept are left out."""
    shown = sorted(history.newest, key=lambda one: (-one["size"], one["species"]))[:most]
    asked = [id for one in shown for id in (one["representative"], one.get("champion")) if id is not None]
    kept = run.store.kept(asked)
    chosen: dict[int, int] = {}
    for one in sorted(shown, key=lambda one: int(one["species"])):
        found = next((id for id in (one["representative"], one.get("champion")) if id in kept), None)
        if found is not None:
            chosen[one["species"]] = found
    genomes = [one.genome for one in run.store.individuals(chosen.values(), run.encoding.from_json)] if chosen else []
    values = np.zeros((len(genomes), len(genomes)))
    for i, genome in enumerate(genomes):
        for j in range(i):
            values[i, j] = values[j, i] = run.encoding.distance(genome, genomes[j])
    own = {one["species"]: one["representative"] for one in shown}
    stand_ins = tuple(id for id, chosen_id in chosen.items() if own[id] != chosen_id)
    return Distances(tuple(chosen), tuple(chosen.values()), values, stand_ins)


# ---------------------------------------------------------------------------------------------------------- lineage


@dataclass(frozen=True)
class Ancestor:
    """One member of a family tree: `place` is its row in the drawing, `trunk` whether it is the individual itself or
    reached from it by first parents alone."""

    id: int
    born: int
    parents: tuple[int, ...]
    edits: tuple[Edit, ...]
    values: Mapping[str, float]
    place: float
    trunk: bool
    cost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineage:
    """The ancestors of an individual in order of birth, itself last.

    `unknown` are parents that the run did not keep, `hidden` how many more ancestors there are at least."""

    run: str
    id: int
    axes: Mapping[str, Axis]
    members: tuple[Ancestor, ...]
    unknown: tuple[int, ...] = ()
    hidden: int = 0

    @property
    def trunk(self) -> list[Ancestor]:
        """From the founder along first parents to the individual."""
        return [one for one in self.members if one.trunk]


def lineage(run: Run, id: int, most: int = CROWD) -> Lineage:
    """The family of an individual. RecipeError for one that is not in the run or was not kept."""
    births, unknown = _family(run, id)
    trunk = _trunk(births, id)
    shown = _nearest(births, id, trunk, most)
    estimates = run.store.estimates(shown)
    places = _places([births[one] for one in shown])
    objectives = [one.name for one in run.objectives]
    members = tuple(
        Ancestor(
            one, births[one].birth, births[one].parents, births[one].edits,
            estimates[one].values if one in estimates else {}, place, one in trunk,
            estimates[one].cost if one in estimates else {},
        )
        for one, place in zip(shown, places, strict=True)
    )  # fmt: skip
    measured = dict.fromkeys([*objectives, *(name for one in members for name in one.values)])
    known = {one.name: _axis(one) for one in run.objectives}
    axes = {name: known.get(name, Axis(name)) for name in measured}
    return Lineage(run.name, id, axes, members, tuple(sorted(unknown)), len(births) - len(shown))


def _family(run: Run, id: int) -> tuple[dict[int, Birth], set[int]]:
    """The births of the kept ancestors, and the ids of parents that were not kept.

    Of a family of thousands those nearest, and then the line of first parents alone: all of 70,000 took 2 s."""
    births, edge, unknown = {id: run.store.birth(id)}, [id], set[int]()
    while edge:
        if len(births) <= REACH:
            named = {parent for one in edge for parent in births[one].parents}
        else:
            line = _trunk(births, id)
            named = {parent for one in edge if one in line for parent in births[one].parents[:1]}
        parents = named - births.keys()
        found = run.store.births(parents)
        unknown |= parents - found.keys()
        births |= found
        edge = list(found)
    return births, unknown


def _trunk(births: Mapping[int, Birth], id: int) -> set[int]:
    trunk = {id}
    while (parents := births[id].parents) and parents[0] in births:
        id = parents[0]
        trunk.add(id)
    return trunk


def _nearest(births: Mapping[int, Birth], id: int, trunk: set[int], most: int) -> list[int]:
    """Ids to show, by birth: the trunk, and then whoever is the fewest steps away from the individual."""
    steps, edge = {id: 0}, [id]
    while edge:
        edge = list(dict.fromkeys(p for one in edge for p in births[one].parents if p in births and p not in steps))
        steps |= dict.fromkeys(edge, max(steps.values()) + 1)
    chosen = sorted(births, key=lambda one: (one not in trunk, steps[one], -one))[: max(most, len(trunk))]
    return sorted(chosen, key=lambda one: (births[one].birth, one))


def _places(family: Sequence[Birth]) -> list[float]:
    """A row for each member, so that few lines cross and the individual's own line is straight."""
    at = {one.id: i for i, one in enumerate(family)}
    inputs = [[at[parent] for parent in one.parents if at.get(parent, i) < i] for i, one in enumerate(family)]
    return list(layered(inputs, [0.5] * len(family), gap=0.5, lane=0.2).x)


# ------------------------------------------------------------------------------------------------------- attainment


@dataclass(frozen=True, eq=False)
class Attainment:
    """What runs of one kind reach in two objectives: `across` (k,) and, over it, what every run, half of them and the
    best of them attain, (k,) each, NaN where they reach nothing yet."""

    name: str
    axes: tuple[Axis, Axis]
    across: Reals
    all: Reals
    half: Reals
    best: Reals
    fronts: tuple[tuple[Reals, Reals], ...]
    """Each run's own front, (across, up)."""


def attainment(name: str, fronts: Sequence[tuple[Reals, Reals]], axes: tuple[Axis, Axis]) -> Attainment:
    """Empirical attainment surfaces of several fronts, each as values (across, up). Fonseca and Fleming 1996.

    A point is attained by a run whose front has a point that is as good in both."""
    grid = np.unique(np.concatenate([axes[0].loss(across) for across, _ in fronts]) if fronts else np.zeros(0))
    reached = np.array([_reached(grid, axes[0].loss(x), axes[1].loss(y)) for x, y in fronts]).reshape(-1, len(grid))
    ordered = np.sort(reached, axis=0)
    picks = [len(fronts) - 1, (len(fronts) - 1) // 2 if len(fronts) % 2 else len(fronts) // 2, 0]
    surfaces = [axes[1].loss(ordered[at]) if len(grid) else grid for at in picks]
    every, half, best = (np.where(np.isfinite(one), one, np.nan) for one in surfaces)
    return Attainment(name, axes, axes[0].loss(grid), every, half, best, tuple(fronts))


def _reached(grid: Reals, across: Reals, up: Reals) -> Reals:
    """The least loss up that a front has at or below each loss across; infinite where it has none."""
    order = np.argsort(across, kind="stable")
    lowest = np.r_[np.inf, np.minimum.accumulate(up[order])]
    found: Reals = lowest[np.searchsorted(across[order], grid, side="right")]
    return found


# ------------------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Group:
    """Runs that differ in seed and name alone, with a name for all of them."""

    name: str
    runs: tuple[str, ...]


def groups(recipes: Mapping[str, Mapping[str, Json]]) -> list[Group]:
    """Runs by what their recipes say besides seed, name and where they are computed; in order of first mention."""
    found: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        rest = {key: value for key, value in recipe.items() if key not in ("seed", "name", "pool", "store")}
        found.setdefault(dumps(rest), []).append(name)
    return [Group(_shared(names), tuple(names)) for names in found.values()]


def _shared(names: Sequence[str]) -> str:
    """One name for several runs: what they begin with in common, if that is something."""
    if len(names) == 1:
        return names[0]
    shortest = min(names, key=len)
    same = [all(one[at] == shortest[at] for one in names) for at in range(len(shortest))]
    common = shortest[: [*same, False].index(False)].rstrip("-_. 0123456789")
    return common or f"{names[0]} and {len(names) - 1} more"


def reference(fronts: Sequence[Front]) -> list[float]:
    """One reference point for fronts of the same objectives, in losses: the worst of each over all fronts, plus a tenth
    of its range."""
    losses = np.concatenate([_losses(one, one.fronts[-1]) for one in fronts if one.fronts])
    low, high = losses.min(axis=0), losses.max(axis=0)
    span = np.where(high > low, high - low, np.where(high != 0, np.abs(high), 1.0))
    found: list[float] = (high + 0.1 * span).tolist()
    return found


def below(view: Front, told: Trend, point: Sequence[float]) -> Trend:
    """A run's trend with the hypervolume below another reference point, so that runs can be compared."""
    volume = [pareto.hypervolume(_losses(view, view.fronts[g - 1]), point) for g in told.generations.tolist()]
    return replace(told, hypervolume=np.array(volume, dtype=np.float64))


def _losses(view: Front, ids: Iterable[int]) -> Reals:
    at = view.positions(ids)
    return np.stack([view.axes[name].loss(view.columns[name][at]) for name in view.objectives], axis=-1)


# --------------------------------------------------------------------------------------------------------- failures


@dataclass(frozen=True)
class Failure:
    """Failures for one reason: how many, some of their ids, and the generation of the last."""

    reason: str
    count: int
    ids: tuple[int, ...]
    last: int


_NUMBERS = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def failures(everyone: Everyone, examples: int = 5) -> list[Failure]:
    """Failures grouped by reason, most frequent first; reasons that differ in a number are one."""
    groups: dict[str, list[int]] = {}
    for at, reason in everyone.reasons.items():
        groups.setdefault(_NUMBERS.sub("…", reason), []).append(at)
    found = [
        Failure(
            everyone.reasons[places[0]] if len(places) == 1 else words,
            len(places),
            tuple(int(everyone.ids[at]) for at in places[:examples]),
            int(everyone.births[places].max()) + 1,
        )
        for words, places in groups.items()
    ]
    return sorted(found, key=lambda one: (-one.count, one.reason))


# ---------------------------------------------------------------------------------------------------------- changes


@dataclass(frozen=True)
class Changes:
    """What sets an individual's genes apart from its first parent's: by mark `new`, `changed` (with what, in words)
    and `gone`, nodes and links alike, and the ends of new links; None for `parent` where it has none that was kept."""

    parent: int | None = None
    new: frozenset[int] = frozenset()
    changed: Mapping[int, str] = field(default_factory=dict)
    gone: Mapping[int, str] = field(default_factory=dict)
    joined: frozenset[tuple[int, int]] = frozenset()


def changes(run: Run, id: int) -> Changes:
    """An individual's genes beside its first parent's. Weights of direct genomes are no change: all of them move."""
    parents = run.store.parents(id)
    if not parents or not run.store.kept(parents[:1]):
        return Changes()
    before, after = (_genes(run.store.genome_json(one)) for one in (parents[0], id))
    changed = {mark: _difference(before[mark], gene) for mark, gene in after.items() if before.get(mark, gene) != gene}
    gone = {mark: _gene_words(gene) for mark, gene in before.items() if mark not in after}
    new = frozenset(after.keys() - before.keys())
    joined = frozenset((after[mark]["from"], after[mark]["to"]) for mark in new if "from" in after[mark])
    return Changes(parents[0], new, changed, gone, joined)


def _genes(genome: Json) -> dict[int, dict[str, Json]]:
    """A genome's genes by mark, whatever its encoding calls them; without weights."""
    if "links" in genome:
        nodes = {mark: {"activation": what, "aggregation": how} for mark, _, _, what, how in genome["nodes"]}
        return nodes | {mark: {"from": a, "to": b, "enabled": on} for mark, a, b, _, on in genome["links"]}
    if "cells" in genome:
        edges = [edge for edges in genome["cells"].values() for edge in edges]
        return {mark: {"op": op, "from": a, "to": b} for mark, a, b, op in edges}
    layers = {
        one["mark"]: {name: value for name, value in one.items() if name != "mark"} for one in genome.get("layers", ())
    }
    return layers | {mark: {"from": a, "to": b} for mark, a, b in genome.get("edges", ())}


def _difference(before: Mapping[str, Json], after: Mapping[str, Json]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {_plainly(before.get(name))} → {_plainly(after.get(name))}" for name in names)


def _gene_words(gene: Mapping[str, Json]) -> str:
    if "from" in gene:
        return f"{gene.get('op', 'link')} {gene['from']} → {gene['to']}"
    return " ".join(str(gene[name]) for name in ("op", "channels", "activation", "aggregation") if name in gene)


def _plainly(value: Json) -> str:
    return (
        {None: "none", True: "on", False: "off"}.get(value, str(value)) if not isinstance(value, list) else str(value)
    )


def described(edit: Edit) -> tuple[str, str]:
    """An edit in words: what was done, and where with which sizes."""
    what, _, rest = str(edit).partition(" ")
    return what.replace("_", " "), rest
