"""Whether a run folder says the truth: its rows, its weights, and that every decision follows from those before it.

The run's own loop is followed once more. Its record stands in for the workers, so nothing is trained; what the loop
would write is compared with what is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evonas import recipe as recipes
from evonas import retention
from evonas import run as engine
from evonas.cohort import Cohort, Scored, Scores, cohort_to_bytes
from evonas.core import DataError, Estimate, EvonasError, Genome, Individual, Job, Json, Outcome, Pool, State
from evonas.processes import Stop
from evonas.results import Run
from evonas.store import Store, species_to_json, state_to_json
from evonas.strategy.problem import begin

__all__ = [
    "Difference", "Following", "RecordEnds", "Scoring", "Stored", "Verdict", "followed", "recipes_of", "searching",
    "tunes", "verify",
]  # fmt: skip

Told = Callable[[int, int], None]
"""Hears how many generations of how many have been followed."""

CLOSE = 1e-9
"""Relative difference of statistics that counts as none: libraries may add in another order. Decisions are exact."""


class Difference(DataError):
    """What is stored is not what follows."""


class RecordEnds(Exception):
    """The loop asks for what nobody had estimated yet."""


@dataclass
class Verdict:
    """What `verify` found: rows by table, weights files, generations and individuals that follow, and what is wrong.

    `first` is the generation that the replay began after: 0, or the oldest that is stored where genes were changed by
    training, or where a repair lost what came before."""

    run: str
    generations: int
    commits: int
    rows: Mapping[str, int]
    weights: int = 0
    weights_bytes: int = 0
    unneeded: int = 0
    first: int = 0
    followed: int = 0
    individuals: int = 0
    species: int = 0
    fronts: int = 0
    states: int = 0
    ahead: int = 0
    """Individuals of generations that are not finished."""
    why_not_all: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.problems


# ------------------------------------------------------------------------------------------------------- the record


class _Record(Store):
    """A run folder open for reading in the place of one that is written: every write is a comparison."""

    reached: State | None = None
    """The state of the generation that was followed last."""
    until: int | None = None
    """The generation at which to stop and take up another recipe."""
    lost: int | None = None
    """The first generation under way of which nobody is stored."""
    verdict: Verdict
    space: Any
    told: Told

    def begin(self, verdict: Verdict, space: Any, told: Told) -> None:
        """Sets out to compare; counts go into the verdict."""
        self.verdict, self.space, self.told = verdict, space, told
        self._compared: set[int] = set()
        self._last = self.newest

    @property
    def compared(self) -> set[int]:
        """Ids of the individuals that followed."""
        return self._compared

    def lay(self, individuals: Sequence[Individual]) -> None:
        """Births must be those that are stored, with their genomes."""
        generation = individuals[0].birth if individuals else 0
        stored = {
            one.id: one for one in self.individuals(self.kept([one.id for one in individuals]), self.space.from_json)
        }
        if not stored and generation >= self._last:
            self.lost = generation
            raise RecordEnds
        for one in individuals:
            self._compare_birth(one, stored.get(one.id))
        self._compared |= stored.keys()
        if generation >= self._last:
            self.verdict.ahead += len(stored)

    def _compare_birth(self, one: Individual, stored: Individual | None) -> None:
        who = f"individual {one.id} of generation {one.birth + 1}"
        if stored is None:
            raise Difference(f"{who} is not stored and follows, as genome {one.genome.key}")
        for what, was, now in (
            ("genome", stored.genome.key, one.genome.key),
            ("parents", stored.parents, one.parents),
            ("birth", stored.birth, one.birth),
            ("edits", [edit.to_json() for edit in stored.edits], [edit.to_json() for edit in one.edits]),
        ):
            _compare(f"{who}: {what}", was, now)

    def commit(self, outcomes: Sequence[Outcome]) -> dict[int, Estimate]:
        """Estimates are those that are stored."""
        return self.estimates([outcome.estimate.id for outcome in outcomes])

    def commit_generation(self, state: State, stats: Mapping[str, Json]) -> None:
        """Row, species, front and state must be those that are stored."""
        self._compare_generation(state, stats, [species_to_json(one) for one in state.species])

    def commit_cohort(
        self,
        state: State,
        stats: Mapping[str, Json],
        scored: Scored,
        keep: set[int],
        pack: Callable[[Sequence[Genome]], bytes],
        snapshot: bool = False,
    ) -> None:
        """As `commit_generation`; of the individuals those that are kept one by one, with their estimates."""
        born = [scored.born[int(at)] for at in np.flatnonzero(np.isin(scored.born.ids, list(keep)))]
        if state.generation > self._last:
            raise RecordEnds
        if born:
            self.lay(born)
        stored = self.estimates([one.id for one in born])
        for one in born:
            what = f"estimate of individual {one.id} of generation {one.birth + 1}"
            _compare(what, _bare(stored.get(one.id)), _bare(scored.scores[one.id]))
        species = [species_to_json(one, sorted(keep & {one.champion})) for one in state.species]
        self._compare_generation(state, stats, species)

    def _compare_generation(self, state: State, stats: Mapping[str, Json], species: Json) -> None:
        generation, verdict = state.generation, self.verdict
        if generation > self._last:
            raise RecordEnds
        head = f"generation {generation}"
        _compare(f"{head}: front", self.front(generation), list(state.front))
        for was, now in _beside(self.species(generation), species, f"{head}: species"):
            _compare(f"{head}: species {now['species']}", {k: v for k, v in was.items() if k != "generation"}, now)
        self._compare_row(generation, state, stats)
        self._compare_state(state)
        self.reached = state
        verdict.followed += 1
        verdict.species += len(species)
        verdict.fronts += 1
        self.told(generation, self._last)
        if generation == self.until:
            raise RecordEnds

    def _compare_row(self, generation: int, state: State, stats: Mapping[str, Json]) -> None:
        """What both the row and the replay count: an older version may have counted less."""
        (row,) = self.generations_of(generation)
        told = {**stats, "evaluations": state.evaluations}
        for key in row.keys() & told.keys() - _MEASURED:
            _compare(f"generation {generation}: {key}", row[key], told[key], close=True)

    def _compare_state(self, state: State) -> None:
        stored = self.state_of(state.generation, self.space.from_json, getattr(self.space, "unpack_state", None))
        if stored is None:
            return
        head = f"state {state.generation}"
        if isinstance(state.population, Cohort) or isinstance(stored.population, Cohort):
            self._compare_cohorts(head, stored, state)
        else:
            was, now = state_to_json(stored), state_to_json(state)
            for key in now:
                _compare(f"{head}: {key}", was[key], now[key])
        self.verdict.states += 1

    def _compare_cohorts(self, head: str, stored: State, state: State) -> None:
        if not isinstance(stored.population, Cohort) or not isinstance(state.population, Cohort):
            raise Difference(f"{head}: its population is stored in another form than it follows")
        for was, now in zip(stored.population, state.population, strict=False):
            self._compare_birth(now, was) if was.genome.key != now.genome.key or was.id != now.id else None
        _compare(f"{head}: size of the population", len(stored.population), len(state.population))
        bytes_ = [cohort_to_bytes(one.population, self.space.pack_state) for one in (stored, state)]  # type: ignore[arg-type]
        if bytes_[0] != bytes_[1]:
            raise Difference(f"{head}: its population is stored with other genes, parents or edits than follow")
        for key in ("next_id", "front", "evaluations", "memory"):
            _compare(f"{head}: {key}", getattr(stored, key), getattr(state, key))
        _compare(f"{head}: marks", stored.marks.to_json(), state.marks.to_json())

    # what a replay has no business with

    def snapshot(self, state: State, pack: Callable[[Sequence[Genome]], bytes]) -> None:
        """Nothing: states are compared as they come."""

    def collect(self, keep: Any) -> int:
        """Deletes nothing."""
        return 0

    def event(self, kind: str, text: str, data: Json = None) -> None:
        """Notes nothing."""


_MEASURED = {"seconds", "engine_seconds", "time", "generation"}
"""Entries of a generation's row that were measured, and its key."""


def _bare(estimate: Estimate | None) -> Json:
    """An estimate without what it took: that of a whole population is shared among its members."""
    return None if estimate is None else replace(estimate, cost={}).to_json()


def _beside(was: Sequence[Any], now: Sequence[Any], what: str) -> Iterator[tuple[Any, Any]]:
    yield from zip(was, now, strict=False)
    if len(was) != len(now):
        raise Difference(f"{what}: {len(was)} are stored, {len(now)} follow")


def _compare(what: str, was: Any, now: Any, close: bool = False) -> None:
    """Raises Difference naming the first place where two JSON values differ."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in (was.keys() & now.keys()) if close else (was.keys() | now.keys()):
            _compare(f"{what}, {key}", was.get(key), now.get(key), close)
    elif isinstance(was, (list, tuple)) and isinstance(now, (list, tuple)) and len(was) == len(now):
        for at, (one, other) in enumerate(zip(was, now, strict=True)):
            _compare(f"{what}, {at + 1} of {len(was)}" if one != other else what, one, other, close)
    elif was != now and not (close and _near(was, now)):
        raise Difference(f"{what}: {_short(was)} is stored, {_short(now)} follows")


def _near(was: Any, now: Any) -> bool:
    numbers = isinstance(was, (int, float)) and isinstance(now, (int, float))
    return numbers and math.isclose(was, now, rel_tol=CLOSE, abs_tol=CLOSE)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


# ---------------------------------------------------------------------------------------------------- the workers


class Stored:
    """Stands in for the workers of individuals that are estimated one by one: what is missing ends the record."""

    workers = 1

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes nothing: whoever waits for it will be told that the record ends."""

    def arrived(self) -> list[Outcome]:
        """Never anything."""
        raise RecordEnds

    def close(self) -> None:
        """Nothing to close."""


class Scoring(Stored):
    """Stands in for the workers of whole populations: `journal` has the scores of a generation, `estimates` those of
    single individuals, `genes` what training made of genomes."""

    def __init__(
        self,
        space: Any,
        journal: Callable[[int], Scores | None],
        estimates: Callable[[Sequence[int], int], Mapping[int, Estimate]],
        genes: Callable[[Sequence[int], int], Mapping[int, Genome]] | None,
    ) -> None:
        self._space, self._journal, self._estimates, self._genes = space, journal, estimates, genes
        self.estimator = self

    def score(self, cohort: Cohort, seed: int) -> tuple[Cohort, Scores]:
        """The scores of a generation, with the genes that training gave it."""
        generation, ids = int(cohort.births[0]) + 1, cohort.ids.tolist()
        scores = self._journal(generation)
        if scores is None:
            scores = _gathered(cohort, self._estimates(ids, generation))
        if self._genes is None:
            return cohort, scores
        known = self._genes(ids, generation)
        return replace(
            cohort, genomes=self._space.population([known.get(one.id, one.genome) for one in cohort])
        ), scores


def _scoring(record: _Record, run: Run) -> Scoring:
    space = run.encoding

    def genes(ids: Sequence[int], generation: int) -> Mapping[int, Genome]:
        state = record.state_of(generation, space.from_json, getattr(space, "unpack_state", None))
        known = {one.id: one.genome for one in record.individuals(record.kept(ids), space.from_json)}
        return known | ({one.id: one.genome for one in state.population} if state is not None else {})

    def estimates(ids: Sequence[int], generation: int) -> Mapping[int, Estimate]:
        found = record.estimates(ids)
        return found if len(found) == len(ids) or generation <= record.newest else {}

    return Scoring(space, record.journal, estimates, genes if tunes(run.recipe) else None)


def tunes(recipe: recipes.Recipe) -> bool:
    """Whether training changes genes, so that those who are born are not those that the next are born of."""
    tuning: Any = getattr(recipe.estimator, "fine_tune", None)
    return getattr(tuning, "inherit", None) == "lamarckian"


def _gathered(cohort: Cohort, estimates: Mapping[int, Estimate]) -> Scores:
    """Single estimates as the arrays that they were written from."""
    if not estimates:
        raise RecordEnds
    ids = cohort.ids.tolist()
    told = [estimates[id] for id in ids if id in estimates]
    if len(told) != len(ids):
        raise Difference(f"generation {int(cohort.births[0]) + 1}: {len(told)} of its {len(ids)} estimates are stored")
    names = dict.fromkeys(name for one in told for name in one.values)
    columns = {name: np.array([one.values.get(name, math.nan) for one in told]) for name in names}
    failed = {at: one.reason for at, one in enumerate(told) if one.status != "ok"}
    return Scores(cohort.ids, columns, failed, told[0].cost)


# ------------------------------------------------------------------------------------------------------ verifying


def verify(folder: Path, told: Told = lambda done, total: None, allow_code: bool = False) -> Verdict:
    """Checks a run folder without training or changing anything. What is wrong with weights or decisions is in the
    verdict.

    Raises DataError where the database itself is damaged, RecipeError where its code is not allowed."""
    with _Record.open(folder) as record:
        rows, commits = record.inspect(), record.commits()
        recipe = recipes.from_json(record.recipe)
        recipes.permit(recipe, allow_code)
        run = Run(record, recipe)
        verdict = Verdict(run.name, record.newest, commits, rows)
        _check_weights(run, verdict)
        record.begin(verdict, run.encoding, told)
        try:
            if rows["individuals"] or rows["generations"]:
                _follow(record, run)
        except Difference as difference:
            verdict.problems.append(f"{difference}{_elsewhere(run)}")
        except DataError as error:  # such as weights that a child still to be trained begins with
            verdict.problems += [str(error)] * (not verdict.problems)
        verdict.individuals = len(record.compared) - verdict.ahead
        return verdict


def _elsewhere(run: Run) -> str:
    """That other versions made the run, which may decide otherwise; empty where these did."""
    now, was = engine.machine(run.recipe.estimator.kind == "population"), run.about
    other = [f"{name} {was[name]}, not {now[name]}" for name in _DECISIVE if name in was and was[name] != now.get(name)]
    return f"; but the run was made with {' and '.join(other)}: verify it with those" if other else ""


_DECISIVE = ("evonas", "numpy", "deap", "moocore", "kernels")
"""What decides who is born and who lives, beside the code of the recipe itself."""


def _check_weights(run: Run, verdict: Verdict) -> None:
    """Every weights file that the run still needs must be there, and all that are there must be what they are named."""
    store = run.store
    there, owners = store.present_weights(), store.named_weights()
    wanted = retention.needed(run, run.state())
    verdict.unneeded = len(there.keys() - wanted)
    excused = retention.gone(store) - there.keys()
    for sha in sorted((wanted | there.keys()) - excused):
        try:
            verdict.weights_bytes += len(store.weights(sha))
            verdict.weights += 1
        except DataError as error:
            whose = f"weights of individual {owners[sha]}" if sha in owners else "weights of no individual"
            verdict.problems.append(f"{whose}: {error}")


def _follow(record: _Record, run: Run) -> None:
    """Follows the run from its beginning, recipe by recipe where its limits were changed."""
    verdict = record.verdict
    state = _beginning(record, run)
    verdict.first = state.generation
    for recipe, until in recipes_of(run):
        record.until, record.reached = until, None
        part = Run(record, recipe)
        workers = _scoring(record, part) if recipe.estimator.kind == "population" else Stored()
        state = followed(record, searching(part, workers), state, record.newest)
    unborn = record.births([id for id in record.born_since(verdict.first) if id not in record.compared]).values()
    if record.lost is not None and any(one.birth > record.lost for one in unborn):
        raise Difference(f"nobody of generation {record.lost + 1} is stored, and later ones are")
    if state.generation < record.newest:
        raise Difference(f"after generation {state.generation} nothing follows; {record.newest} generations are stored")
    if stray := [one.id for one in unborn if one.birth < record.newest]:
        raise Difference(f"individual {stray[0]} is stored and follows from nothing")


def _beginning(record: _Record, run: Run) -> State:
    """The state to begin from: the first, or the oldest that is stored where what came before it cannot be followed."""
    repaired = [event["data"] for event in record.events() if event["kind"] == "repaired"]
    lost = [one["from"] for one in repaired if one["from"]]
    if lost:
        record.verdict.why_not_all = "a repair could not recover all that came before"
    elif tunes(run.recipe) and record.journal(record.newest) is not None and run.recipe.store.individuals != "all":
        record.verdict.why_not_all = "training changed genes, and not everyone's are kept"
    else:
        return begin()
    decode, unpack = run.encoding.from_json, getattr(run.encoding, "unpack_state", None)
    for generation in record.stored_states():
        if generation >= max(lost, default=0) and (state := record.state_of(generation, decode, unpack)) is not None:
            return state
    return begin()


def recipes_of(run: Run) -> list[tuple[recipes.Recipe, int | None]]:
    """The recipes that the run followed, oldest first, each with the generation until which it held."""
    changes = [event["data"] for event in run.events() if event["kind"] == "limits" and event["data"]]
    found: list[tuple[recipes.Recipe, int | None]] = [(run.recipe, None)]
    for change in reversed(changes):
        undone = recipes.override(found[0][0], {path: _yaml(was) for path, was, _ in change["changed"]})
        found.insert(0, (undone, change["generation"]))
    return found


def _yaml(value: Json) -> str:
    return "null" if value is None else str(value)


class Following(Protocol):
    """A store whose run is followed once more: how far, and until where with the recipe at hand."""

    reached: State | None
    until: int | None


def followed(store: Following, search: Callable[[State], State], state: State, newest: int) -> State:
    """Where a run's own loop leads from a state on, as often as it stopped and somebody went on with it."""
    if store.until is not None and store.until <= state.generation:
        return state
    while state.generation < (newest if store.until is None else store.until) or store.reached is None:
        store.reached = None
        try:
            search(state)
        except RecordEnds:
            return store.reached or state
        except DataError:
            raise
        except EvonasError:
            pass  # the run itself stopped here
        if store.reached is None:
            return state
        state = store.reached
    return state


def searching(run: Run, workers: Pool) -> Callable[[State], State]:
    """The run's own loop, with workers who know everything that was estimated."""

    def search(state: State) -> State:
        with Stop() as stop:
            return engine.searching(run, state, workers, stop).follow(state)

    return search
