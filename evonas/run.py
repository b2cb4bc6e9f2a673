"""The loop: recipe in, front out. Starting and resuming are the same code; a resume replays one generation."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evonas import agreement, encoding, estimate, native, objective, pool, retention, strategy, task, tracking, zoo
from evonas import recipe as recipes
from evonas.cohort import Cohort, Scored, Scores
from evonas.core import (
    DataError,
    Estimate,
    EvonasError,
    Genome,
    Heritage,
    Individual,
    Job,
    Outcome,
    Pool,
    RecipeError,
    State,
    Strategy,
    dumps,
    seed_of,
    valid_name,
)
from evonas.estimate.stopping import Finished, finished, peers
from evonas.founders import Founder, Reader, Settled, brings_weights, settled_weights
from evonas.processes import Stop
from evonas.report.progress import Progress
from evonas.results import Run
from evonas.store import Store
from evonas.strategy.problem import Problem, affordable, begin, exhausted
from evonas.strategy.window import Window
from evonas.task.data import Data, TaskShape

Observer = Callable[[Progress], None]


class Interrupted(EvonasError):
    """A run that a signal stopped; everything committed stays (exit code 130 or 143)."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------- the loop


@dataclass(eq=False)
class _Batch:
    """A generation under way: who was born, the estimates that are there, the weights that its children begin with."""

    born: Sequence[Individual]
    known: dict[int, Estimate] = field(default_factory=dict)
    heirs: frozenset[str] = frozenset()

    @cached_property
    def ids(self) -> frozenset[int]:
        return frozenset(one.id for one in self.born)


@dataclass(frozen=True)
class _Search:
    """One run under way: its folder, its strategy, its workers, and who watches; of a new one also its founders."""

    run: Run
    strategy: Strategy
    workers: Pool
    watch: _Watch
    stop: Stop
    founders: Sequence[Settled] = ()
    past: _Past = field(default_factory=lambda: _Past())
    flight: deque[_Batch] = field(default_factory=deque)
    failures: _Failures = field(default_factory=lambda: _Failures())

    def follow(self, state: State) -> State:
        """Generations until the recipe's last one, until its goal is first reached, or until nothing is asked for."""
        self._take_up(state)
        while state.generation < self.run.recipe.strategy.generations and not exhausted(self.budget, state):
            before, after = state, self.generation(state)
            if after is None:
                self.run.store.event("exhausted", f"the strategy asks for nothing after {state.evaluations} estimates")
                break
            state = after
            if _goal(before) is None and _goal(state) is not None:
                break
        return state

    @property
    def budget(self) -> Mapping[str, float]:
        """What the run may spend."""
        return self.run.recipe.budget.limits

    @cached_property
    def window(self) -> Window:
        """How many generations are under way at once."""
        return Window.of(self.run.recipe.strategy, self.strategy, self.run.encoding, self.budget)

    def caught_up(self, state: State) -> State:
        """The newest state: generations after the last snapshot of a population are bred again from their scores."""
        for generation in range(state.generation + 1, self.run.store.newest + 1):
            try:
                scores = self.run.store.journal(generation)
            except DataError as error:
                self.run.store.event("damage", f"generation {generation} is estimated again: {error}")
                break
            if scores is None:
                break
            born, asked = self.strategy.ask(state)
            state = self.strategy.tell(asked, Scored(self._cohort(born), scores))
        return state

    def generation(self, state: State) -> State | None:
        """One generation, which commits with its state in one transaction; None where nothing is asked for."""
        began = time.monotonic()
        whole = whole_population(self.workers)
        state = self._asked(state, lay=whole is None)
        if not self.flight:
            return None
        done = self._awaited(state) if whole is None else self._together(whole, self.flight[0].born, state)
        done = replace(done, scored=affordable(self.budget, state, done.scored))
        self.flight.popleft()
        state = self.window.tell(state, done.scored, [batch.born for batch in self.flight])
        with self.stop.held():
            stats = self.run.statistics(state, done.scored)
            self._commit(state, stats | {"engine_seconds": time.monotonic() - began - done.seconds}, done)
        self.watch.generation(state, stats, done.failed)
        self.failures.told(state, done.scored)
        return state

    def _asked(self, state: State, lay: bool) -> State:
        """The state after as many generations were asked for as may be under way; `lay` begins their estimates."""
        while (asked := self.window.ask(state, [batch.born for batch in self.flight])) is not None:
            born, after = asked
            untold = self.flight[0].born[0].id if self.flight else born[0].id
            self.flight.append(self._begun(born, state, untold) if lay else _Batch(born))
            state = after
        return state

    def _take_up(self, state: State) -> None:
        """Begins again what was under way when the state was committed: asked for and not told."""
        if self.window.size == 1:
            return
        ids = [id for id in self.run.store.born_since(state.generation) if id < state.next_id]
        waiting = self.run.store.individuals(ids, self.run.encoding.from_json)
        for birth, born in groupby(waiting, key=lambda one: one.birth):
            # those born since this one had not been told when it was asked for; of the first nobody can be born before
            untold = self.run.store.born_since(max(birth - self.window.size + 1, min(birth, 1)))[0]
            self.flight.append(self._begun(tuple(born), state, untold))

    def _begun(self, born: Sequence[Individual], state: State, untold: int) -> _Batch:
        """A generation whose births are laid and whose estimates are under way; `untold` is the lowest id of those who
        had not been told when it was asked for."""
        store = self.run.store
        with self.stop.held():
            store.lay(born)
        known = store.estimates([individual.id for individual in born])
        jobs = self.jobs([one for one in born if one.id not in known], state, untold)
        self.workers.submit(jobs)
        return _Batch(born, known, frozenset(one.sha256 for job in jobs for one in job.parents))

    def _awaited(self, state: State) -> _Done:
        """The oldest generation under way. Every estimate commits as it arrives, so that a killed run loses only those
        that no worker has finished."""
        batch, seconds = self.flight[0], 0.0
        self.watch.batch(state, batch.known.values(), len(batch.born))
        while len(batch.known) < len(batch.born):
            began = time.monotonic()
            outcomes = self.workers.arrived()
            seconds += time.monotonic() - began
            if not outcomes:
                lost = len(batch.born) - len(batch.known)
                raise EvonasError(f"pool {self.run.recipe.pool.kind} gave no outcome for {lost} of its jobs")
            self._file(outcomes)
            self.watch.batch(state, batch.known.values(), len(batch.born))
        return _Done([(individual, batch.known[individual.id]) for individual in batch.born], seconds)

    def _file(self, outcomes: Sequence[Outcome]) -> None:
        with self.stop.held():
            stored = self.run.store.commit(outcomes)
        for batch in self.flight:
            batch.known |= {id: one for id, one in stored.items() if id in batch.ids}

    def _together(self, whole: Whole, born: Sequence[Individual], asked: State) -> _Done:
        """The whole population at once; its scores are kept with the generation."""
        cohort = self._cohort(born)
        began = time.monotonic()
        scored, scores = whole(cohort, seed_of(self.run.recipe.seed, "estimate", asked.generation))
        seconds = time.monotonic() - began
        told = Scored(scored, scores.checked(self.run.objectives))
        return _Done(told, seconds, changed=scored is not cohort, alone=not isinstance(born, Cohort))

    def _cohort(self, born: Sequence[Individual]) -> Cohort:
        return born if isinstance(born, Cohort) else Cohort.of(born, self.run.encoding.population)

    def _commit(self, state: State, stats: Mapping[str, Any], done: _Done) -> None:
        store, space = self.run.store, self.run.encoding
        scored = done.scored
        if isinstance(scored, Scored) and not done.alone:
            keep = self.run.kept(state, scored)
            store.commit_cohort(state, stats, scored, keep, space.pack_state, snapshot=done.changed)
            return
        if done.alone:
            store.lay([individual for individual, _ in scored])
            store.commit([Outcome(estimate) for _, estimate in scored])
        store.commit_generation(state, stats)
        self.collect(state)

    def settle(self, state: State) -> None:
        """Leaves a run so that opening it breeds nothing again."""
        if isinstance(state.population, Cohort):
            with self.stop.held():
                self.run.store.snapshot(state, self.run.encoding.pack_state)

    def jobs(self, due: Sequence[Individual], state: State, first: int = 0) -> list[Job]:
        """The estimates to compute as plain data, their seeds named by the run's seed and the individual's id.
        Where trainings may be ended early, those of ids below `first` judge them: all that was told by then.

        With inherited weights a child's job names those of its parents; where one of them has none, the child begins
        from scratch. Raises DataError for weights that are missing or damaged."""
        space, seed, due = self.run.encoding, self.run.recipe.seed, _costly_first(self.run, self.workers, due)
        left, passed = self._left(due, state), self._passed(first)
        jobs = []
        for one in due:
            heirs = one.parents and left.keys() >= set(one.parents)
            parents, edits = (tuple(left[id] for id in one.parents), one.edits) if heirs else (self._brought(one), ())
            named = seed_of(seed, "estimate", one.id)
            at = fidelity_of(self.strategy, state, one)
            told = peers(passed, self._sizes(one.genome), bool(parents), at) if passed else ()
            jobs.append(Job(one.id, named, space.to_json(one.genome), one.genome, parents, edits, at, told))
        return jobs

    def _passed(self, first: int) -> Sequence[Finished]:
        """Trainings of earlier generations that went to their end, where the recipe ends others; each is read once."""
        if getattr(self.run.recipe.estimator, "stop", None) is None:
            return ()
        return self.past.before(first, self.run)

    def _sizes(self, genome: Genome) -> tuple[float, ...]:
        """The losses of a genome's cheap objectives."""
        values = objective.cheap_values(self.run.encoding.decode(genome), self.run.recipe.objectives)
        return tuple(one.loss(values[one.name]) for one in self.run.objectives if one.cheap)

    def _left(self, due: Sequence[Individual], state: State) -> dict[int, Heritage]:
        """What the parents of those to be estimated have left, by id. It depends on the state and the recipe alone:
        files that a later collection will delete do not count."""
        if not estimate.inherits(self.run.recipe.estimator):
            return {}
        store = self.run.store
        wanted = {id for one in due for id in one.parents}
        known = {id: state.estimates[id] for id in wanted if id in state.estimates}
        if self.run.recipe.store.keep_weights == "all" or self.window.size > 1:
            known |= store.estimates(wanted - known.keys())
        return {id: heritage(store, id, one.weights) for id, one in known.items() if one.weights}

    def _brought(self, one: Individual) -> tuple[Heritage, ...]:
        """What a founder from a module or a run begins with: weights of its own genome."""
        founder = self.founders[one.id] if one.id < len(self.founders) else None
        if founder is None or founder.weights is None or founder.key != one.genome.key:
            return ()
        path = self.run.store.weights_file(founder.weights).resolve()
        return (Heritage(self.run.encoding.to_json(one.genome), str(path), founder.weights),)

    def collect(self, state: State) -> None:
        """Deletes the weights of the dead. Population, front, tested networks and the parents of those under way keep
        theirs, and those who were born after this state: where an older one is replayed they are not trained again."""
        if self.run.recipe.store.keep_weights != "all":
            heirs = {sha for batch in self.flight for sha in batch.heirs}
            since = self.flight[0].born[0].id if self.flight else state.next_id
            self.run.store.collect(retention.kept(self.run, state) | heirs | self.run.store.weights_since(since))


class _Past:
    """Trainings that went to their end, as they were read from the store."""

    def __init__(self) -> None:
        self._known: list[Finished] = []
        self._next = 0

    def before(self, first: int, run: Run) -> Sequence[Finished]:
        """Those with an id below `first`, by id."""
        for one in run.store.estimates(range(self._next, first)).values():
            sizes = tuple(o.loss(one.values[o.name]) for o in run.objectives if o.cheap and one.status == "ok")
            if (told := finished(one, sizes)) is not None:
                self._known.append(told)
        self._next = max(first, self._next)
        return self._known


def fidelity_of(chosen: Strategy, state: State, one: Individual) -> Mapping[str, float]:
    """How closely a strategy wants one of those it asked for to be looked at; nothing where it does not say."""
    face: Callable[[State, Individual], Mapping[str, float]] | None = getattr(chosen, "fidelity", None)
    return face(state, one) if face else {}


def heritage(store: Store, id: int, sha: str) -> Heritage:
    """An individual's trained weights as children inherit them. Raises DataError where their file is not intact."""
    return Heritage(store.genome_json(id), str(store.weights_file(sha).resolve()), sha, id)


Whole = Callable[[Cohort, int], tuple[Cohort, Scores]]
"""An estimator's `score`: a cohort and a seed in; its scores out, with the cohort as tuning may have changed it."""


def whole_population(workers: Pool) -> Whole | None:
    """The face of an estimator that takes a whole generation at once, None where estimates are made one by one."""
    found: Whole | None = getattr(getattr(workers, "estimator", None), "score", None)
    return found


@dataclass(frozen=True)
class _Done:
    """An estimated generation: what the strategy is told, the seconds that estimating took, whether it changed genes,
    and whether the strategy keeps its individuals one by one though they were estimated at once."""

    scored: Sequence[tuple[Individual, Estimate]]
    seconds: float
    changed: bool = False
    alone: bool = False

    @property
    def failed(self) -> int:
        if isinstance(self.scored, Scored):
            return len(self.scored.scores.failed)
        return sum(estimate.status == "failed" for _, estimate in self.scored)


HOPELESS = 10
"""Networks that must have failed where they are estimated one by one: a table's first may happen to have no value."""

IN_A_ROW = 50
"""Networks that fail one after the other before a run stops that has bred from others: a disk that went away, a
changed driver. Where nine of ten fail for good reasons, one run in 200 is stopped in vain, and can be resumed."""


class _Failures:
    """Counts how many have failed in a row since the run was started or resumed."""

    def __init__(self) -> None:
        self._row = 0

    def told(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> None:
        """Raises EvonasError where going on makes no sense."""
        refuse_hopeless(state, scored)
        if isinstance(scored, Scored):
            return
        for _, told in scored:
            self._row = self._row + 1 if told.status == "failed" else 0
        if self._row >= IN_A_ROW:
            raise EvonasError(
                f"the last {self._row} networks failed, up to generation {state.generation}, the last with: "
                f"{scored[-1][1].reason}; mend that and resume the run"
            )


def refuse_hopeless(state: State, scored: Sequence[tuple[Individual, Estimate]]) -> None:
    """Stops a run whose generation failed to the last individual and left nothing to breed from."""
    if not len(state.population) and not state.front and (len(scored) > 1 or state.evaluations >= HOPELESS):
        reasons = [estimate.reason for _, estimate in scored]
        raise EvonasError(
            f"all {len(reasons)} networks of generation {state.generation} failed, the first with: {reasons[0]}; "
            "mend that and resume the run, or change the recipe"
        )


# ------------------------------------------------------------------------------------------------------ the public


def start(
    recipe: recipes.Recipe | str | Path | Mapping[str, Any],
    *,
    name: str | None = None,
    runs: str | Path = "runs",
    overrides: Mapping[str, str] | None = None,
    observer: Observer | None = None,
    allow_code: bool = False,
) -> Run:
    """Starts a run from a recipe (a model, a file, or a mapping) and follows it to its end.

    The folder is `runs/name`; without a name the recipe's, with a number where that is taken. What the recipe names as
    `file.py:object` or `package.module:object` is imported with `allow_code` alone. Raises RecipeError, DataError,
    LockedError (the name is taken), StorageError, Interrupted."""
    checked = recipe if isinstance(recipe, recipes.Recipe) else recipes.read(recipe, overrides or {})
    recipes.permit(checked, allow_code)
    folder = Path(runs) / (valid_name(name) if name else _free_name(Path(runs), checked.name))
    facts = about(checked)
    founders = _refuse_unfit(checked, facts["task"], Path(runs))
    store = Store.create(folder, checked.model_dump(mode="json"), facts)
    return _follow(store, observer, recipe=checked, founders=founders)


def resume(
    run: Run | str | Path,
    *,
    generations: str | int | None = None,
    recipe: recipes.Recipe | str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, str] | None = None,
    observer: Observer | None = None,
    allow_code: bool = False,
) -> Run:
    """Goes on with an interrupted, killed or finished run exactly where it stood.

    `generations` is a new total, or `"+20"` for twenty more. A `recipe` or `overrides` may change limits only; any
    other difference is refused with the differing keys (RecipeError). `allow_code` is as in `start`."""
    store = Store.open(run.folder if isinstance(run, Run) else Path(run), write=True)
    try:
        recipes.permit(_relimit(store, generations, recipe, overrides or {}), allow_code)
        _note_changes(store)
    except BaseException:
        store.close()
        raise
    return _follow(store, observer, onward=generations is not None)


def test(
    run: Run | str | Path,
    ids: Sequence[int] | None = None,
    *,
    pick: int | None = None,
    observer: Observer | None = None,
    allow_code: bool = False,
) -> Run:
    """Trains front members to the end by the recipe's `final` section and touches the test set once for each.

    `ids` chooses them, or `pick` spreads so many over the front; without either it is the whole front. Who was tested
    already keeps that result: the test set is never touched twice for one individual. Raises RecipeError for an id
    that is not in the run, EvonasError naming the reason where a training fails. `allow_code` is as in `start`."""
    with open(run.folder if isinstance(run, Run) else run) as reading:
        recipes.permit(reading.recipe, allow_code)
        chosen = _chosen(reading, ids, pick)
    store = Store.open(reading.folder, write=True)
    try:
        with Stop() as stop:
            try:
                failures = _finish(Run(store), chosen, observer, stop)
            except KeyboardInterrupt:
                again = f"evonas test {reading.name}"
                raise Interrupted(f"stopped; finished tests are kept; go on with: {again}", stop.signum) from None
    finally:
        store.close()
    if failures:
        raise EvonasError(f"{len(failures)} of {len(chosen)} final trainings failed: {'; '.join(failures)}")
    return open(store.folder)


def _finish(run: Run, chosen: Sequence[int], observer: Observer | None, stop: Stop) -> list[str]:
    """Final trainings of those who were not tested yet; the reasons of those that failed."""
    store, seed = run.store, run.recipe.seed
    tested = {one["id"] for one in store.tests()}
    due = [run.individual(id) for id in chosen if id not in tested]
    work = _Work({one.id: _cost(run, one) for one in due}, _epochs(run.recipe.final))
    watch: _Watch

    def trained(id: int, point: Mapping[str, float]) -> None:
        work.trained(id, int(point["epoch"]))
        watch.trainings(work)

    workers = pool.build(run.recipe.pool, store.recipe, store.folder / "scratch", final=True, listener=trained)
    watch = _Watch(run, observer, run.state() or begin(), workers.workers)
    failures: list[str] = []
    try:
        jobs = [_final_job(run, one) for one in _costly_first(run, workers, due)]
        watch.trainings(work)
        for outcomes in pool.drain(workers, jobs):
            with stop.held():
                for outcome in outcomes:
                    failures += _record_test(store, outcome, seed_of(seed, "final", outcome.estimate.id))
                    work.ended(outcome.estimate.id)
            watch.trainings(work)
    finally:
        workers.close()
    _tell_agreement(run, tests=True)
    return failures


def _costly_first(run: Run, workers: Pool, due: Sequence[Individual]) -> Sequence[Individual]:
    """Several workers get the costly networks first, so that none waits long for another at the end."""
    return due if workers.workers == 1 else sorted(due, key=lambda one: -_cost(run, one))


def _epochs(final: estimate.FinalSettings) -> int:
    """The epochs of one final training."""
    return (estimate.inherits(final) and final.inherit.epochs) or final.epochs


def _cost(run: Run, one: Individual) -> int:
    """What an epoch of a network costs beside others' epochs; a table's networks all cost the same."""
    return 1 if run.recipe.task.kind == "tabular" else max(1, run.encoding.decode(one.genome).flops)


class _Work:
    """How far final trainings are, their epochs counted by the cost of their networks."""

    def __init__(self, costs: Mapping[int, int], epochs: int) -> None:
        self._costs, self._epochs = costs, epochs
        self._made = dict.fromkeys(costs, 0)
        self._ended: set[int] = set()

    def trained(self, id: int, epochs: int) -> None:
        self._made[id] = epochs

    def ended(self, id: int) -> None:
        self._ended.add(id)
        self._made[id] = self._epochs

    @property
    def done(self) -> int:
        return len(self._ended)

    @property
    def total(self) -> int:
        return len(self._costs)

    @property
    def share(self) -> float:
        """Of all that is to be done."""
        made = sum(cost * self._made[id] for id, cost in self._costs.items())
        return made / (self._epochs * sum(self._costs.values())) if self._costs else 1.0


def _final_job(run: Run, one: Individual) -> Job:
    """An individual's last training, from scratch or from the weights of the search. Raises RecipeError where the
    recipe wants those and there are none."""
    job = Job(one.id, seed_of(run.recipe.seed, "final", one.id), run.encoding.to_json(one.genome))
    if not estimate.inherits(run.recipe.final):
        return job
    found = run.estimate(one.id)
    if found is None or not found.weights or not run.store.has_weights(found.weights):
        raise RecipeError(
            f"individual {one.id} has no weights of the search to begin with: set final.inherit: none, or choose one "
            "of the front"
        )
    return replace(job, parents=(heritage(run.store, one.id, found.weights),))


def _record_test(store: Store, outcome: Outcome, seed: int) -> list[str]:
    """Records a final training; gives the reason where it failed, and then nothing was measured on the test rows."""
    end = outcome.estimate
    if end.status != "ok":
        store.event("test failed", f"individual {end.id}: {end.reason}")
        return [f"individual {end.id}: {end.reason}"]
    store.record_test(end.id, seed, end.values, end.curve, end.cost, outcome.weights)
    store.event("tested", f"individual {end.id}: the test set was touched", dict(end.values))
    return []


def _chosen(run: Run, ids: Sequence[int] | None, pick: int | None) -> list[int]:
    """Ids to test: those given, or `pick` of the front evenly spread from end to end, or all of it; who reached the
    run's goal counts as of the front."""
    if ids is not None:
        return [run.individual(id).id for id in dict.fromkeys(ids)]
    front = [row.id for row in run.front()]
    if not front:
        raise RecipeError(f"{run.name} has no front yet: let it run first: evonas resume {run.name}")
    if run.solved is not None and run.solved not in front:
        front.insert(0, run.solved)
    if pick is None or pick >= len(front):
        return front
    step = (len(front) - 1) / max(pick - 1, 1)
    return [front[round(i * step)] for i in range(pick)]


def open(run: str | Path, *, allow_code: bool = False) -> Run:
    """A run for reading; it may be going on in another process. Without `allow_code` nothing that its recipe names is
    imported: of an encoding of its own there are no networks then."""
    found = Run(Store.open(Path(run)))
    if allow_code:
        recipes.permit(found.recipe, allow_code)
    return found


def list_runs(runs: str | Path = "runs") -> list[Run]:
    """All runs in a folder, by name; folders that are no runs are left out."""
    folder = Path(runs)
    found = sorted(path.parent for path in folder.glob("*/run.sqlite")) if folder.is_dir() else []
    return [open(path) for path in found]


def founders_of(recipe: recipes.Recipe, space: Any, runs: Path) -> tuple[Founder, ...]:
    """What the recipe's `encoding.initial` names, with weights where the estimator inherits; runs are found in `runs`.

    Raises RecipeError or DataError."""
    weights = estimate.inherits(recipe.estimator)
    reader = Reader(space, runs, recipe.seed, recipe.task.model_dump(mode="json"), weights)
    found = tuple(founder for entry in recipe.encoding.initial for founder in reader.read(entry))
    room = getattr(recipe.strategy, "population", len(found))
    if len(found) > room:
        raise RecipeError(
            f"encoding.initial: {len(found)} genomes do not fit a population of {room}: raise strategy.population, or "
            "name single individuals as run:NAME/ID"
        )
    return found


def problem(recipe: recipes.Recipe, space: Any, founders: Sequence[Founder] = ()) -> Problem:
    """The search problem that a recipe describes over its encoding; a new run has founders."""
    cheap = _cheap(recipe, space)
    limits = objective.Screen(cheap, recipe.objectives)
    unbounded = recipe.encoding.bounds == type(recipe.encoding.bounds)()

    def broken(genome: Genome) -> str:
        return (not unbounded and recipe.encoding.bounds.violation(space.decode(genome))) or limits.why(genome)

    for one in founders:
        if why := broken(one.genome):
            cure = "raise the bound or leave it out"
            raise RecipeError(f"encoding.initial: {one.source!r} breaks a bound: {why}; {cure}")
    genomes = tuple(one.genome for one in founders)
    objectives = objective.resolve(recipe.objectives)
    screen = lambda genome: not broken(genome)  # noqa: E731
    return Problem(
        space, objectives, recipe.seed, screen, genomes, zoo.enrol, recipe.strategy.speciation, cheap,
        recipe.budget.limits, estimate.inherits(recipe.estimator),
    )  # fmt: skip


def _cheap(recipe: recipes.Recipe, space: Any) -> Callable[[Genome], Mapping[str, float]]:
    """The cheap objectives of a genome by name: read in the task's table, or off its plan."""
    if not isinstance(recipe.task, task.TabularSettings):
        return lambda genome: objective.cheap_values(space.decode(genome), recipe.objectives)
    table = task.build(recipe.task).bound(space)  # type: ignore[attr-defined]
    names = [one.name for one in objective.sources(recipe.objectives) if objective.is_cheap(one)]
    epochs = table.epochs(getattr(recipe.estimator, "epochs", None))

    def looked_up(genome: Genome) -> Mapping[str, float]:
        return objective.combined(table.values("metrics", names, table.row(genome), epochs, 0), recipe.objectives)

    return looked_up


# --------------------------------------------------------------------------------------------- starting, resuming


def _follow(
    store: Store,
    observer: Observer | None,
    onward: bool = False,
    recipe: recipes.Recipe | None = None,
    founders: Sequence[Founder] | None = None,
) -> Run:
    """Runs the loop over an open, writable store and hands the run back for reading; `onward` even past its goal.

    `founders` are those of a run that has just been made, if they were read already."""
    run = Run(store, recipe)
    workers: Pool | None = None
    trackers = _trackers(run)
    try:
        with Stop() as stop, _rare_collections():
            try:
                state = run.state() or begin()
                workers = pool.build(run.recipe.pool, store.recipe, store.folder / "scratch")
                search = searching(run, state, workers, stop, observer, trackers, founders)
                state = search.caught_up(state)
                if onward or _goal(state) is None:
                    state = search.follow(state)
                search.settle(state)
            except KeyboardInterrupt:
                trackers.follow(_points(run))
                trackers.close(3.0)
                raise _interrupted(run, stop) from None
        ended = f"{_told_goal(state)}{_told_saved(run)}"
        store.event("finished", f"{state.generation} generations, {state.evaluations} estimates{ended}")
        _tell_agreement(run, tests=False)
        search.watch.end(state)
    finally:
        if workers is not None:
            workers.close()
        trackers.close()
        store.close()
    return Run(Store.open(store.folder), run.recipe)


def searching(
    run: Run,
    state: State,
    workers: Pool,
    stop: Stop,
    observer: Observer | None = None,
    trackers: tracking.Trackers | None = None,
    founders: Sequence[Founder] | None = None,
) -> _Search:
    """The loop over a run and its workers, to be followed from a state on."""
    settled = _settled(run, founders)
    first = [Founder(one.source, run.encoding.from_json(one.genome)) for one in settled]
    posed = problem(run.recipe, run.encoding, first)
    watch = _Watch(run, observer, state, workers.workers, trackers)
    return _Search(run, strategy.build(run.recipe.strategy, posed), workers, watch, stop, settled)


def _trackers(run: Run) -> tracking.Trackers:
    """Who is told the run's numbers; what a tracker cannot do is a warning and an event of the run, once."""

    def warn(why: str) -> None:
        run.store.event("warning", why)
        warnings.warn(why, stacklevel=2)

    recipe = run.recipe
    facts = {
        "task": recipe.task.kind, "encoding": recipe.encoding.kind, "strategy": recipe.strategy.kind,
        "estimator": recipe.estimator.kind, "seed": str(recipe.seed),
        "objectives": ", ".join(one.name for one in run.objectives), "evonas": run.about["evonas"],
    }  # fmt: skip
    key = tracking.key_of(run.about, run.name)
    return tracking.Trackers(recipe.tracking, tracking.Identity(run.name, run.folder, key, facts), warn)


def _points(run: Run) -> list[tracking.Point]:
    return tracking.scalars(run.generations(), run.store.fronts()) if run.recipe.tracking else []


def _ending(run: Run) -> tracking.Ending:
    """What the trackers are told at the end: the front as a table and as a picture."""
    from evonas.report import figures, tables

    table = tables.individuals(run.front(), run.objectives)
    figure = run.plot.front() if len(run.objectives) > 1 else run.plot.history()
    picture = figures.render(figure, "png")
    return tracking.Ending(len(run.generations()), tables.to_markdown(table), tables.to_csv(table), picture)


def _settled(run: Run, founders: Sequence[Founder] | None) -> tuple[Settled, ...]:
    """The founders as the run folder keeps them. They are read once: a resume needs neither files nor other runs, and
    does not mind what became of them."""
    store, space = run.store, run.encoding
    kept = next((event["data"] for event in run.events() if event["kind"] == "founders"), None)
    if kept is not None:
        return tuple(map(Settled.from_json, kept))
    if founders is None:
        founders = founders_of(run.recipe, space, run.folder.parent)
    settled = []
    for one, genome in zip(founders, zoo.enrol([one.genome for one in founders], begin().marks.open()), strict=True):
        weights = settled_weights(one, genome, space)
        sha = None if weights is None else store.save_weights(weights)
        settled.append(Settled(one.source, space.to_json(one.genome), genome.key, sha))
    if settled:
        store.event("founders", _told(settled, run.recipe), [one.to_json() for one in settled])
    return tuple(settled)


def _told(founders: Sequence[Settled], recipe: recipes.Recipe) -> str:
    """One line: the first individuals by id with where they come from."""
    words = [f"{i}: {one.source}{' with weights' if one.weights else ''}" for i, one in enumerate(founders[:8])]
    words += [f"and {len(founders) - 8} more"] * (len(founders) > 8)
    trained = isinstance(recipe.estimator, estimate.TrainSettings) and not estimate.inherits(recipe.estimator)
    if trained and any(map(brings_weights, recipe.encoding.initial)):
        words.append("their weights do not count: estimator.inherit is none")
    return "; ".join(words)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Lets Python look for reference cycles less often: genomes hold none, and looking took a third of the engine's
    time at a population of 1,000 (1,560 individuals per CPU second, 2,190 with these thresholds)."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _goal(state: State) -> int | None:
    """The individual that reached the recipe's goal first."""
    found: int | None = state.memory.get("solved")
    return found


def _told_saved(run: Run) -> str:
    """What ending trainings early has saved."""
    saved = run.saved()
    if saved is None:
        return ""
    return f"; {saved.pruned} trainings were ended early, which saved {saved.epochs:g} epochs ({saved.share:.0%})"


def _tell_agreement(run: Run, tests: bool) -> None:
    """Records how far fidelities agree: of promotions, or of the search and the tests. Low agreement is a warning."""
    for one in run.agreements():
        if (one.high == agreement.TEST) == tests:
            run.store.event("warning" if one.warning else "agreement", one.warning or str(one))


def _told_goal(state: State) -> str:
    return "" if _goal(state) is None else f"; the goal was reached by individual {_goal(state)}"


def _interrupted(run: Run, stop: Stop) -> Interrupted:
    done, total = len(run.generations()), run.recipe.strategy.generations
    run.store.event("interrupted", f"stopped by {stop.signal_name} after generation {done}")
    return Interrupted(
        f"stopped after generation {done} of {total}; nothing finished is lost; go on with: evonas resume {run.name}",
        stop.signum,
    )


def _relimit(
    store: Store,
    generations: str | int | None,
    recipe: recipes.Recipe | str | Path | Mapping[str, Any] | None,
    overrides: Mapping[str, str],
) -> recipes.Recipe:
    """The recipe to go on with: the stored one with new limits, which are written down. Refuses one that differs in
    more than limits."""
    old = recipes.from_json(store.recipe)
    new = old
    if recipe is not None:
        new = recipe if isinstance(recipe, recipes.Recipe) else recipes.read(recipe)
    if overrides:
        new = recipes.override(new, overrides)
    if generations is not None:
        total = _total(generations, len(store.generations()))
        new = recipes.override(new, {"strategy.generations": str(total)})
    changed = recipes.differing(old, new)
    refused = [difference for difference in changed if not recipes.resumable(difference[0])]
    if refused:
        lines = "\n".join(f"  {path}: {was!r} in the run, {now!r} now" for path, was, now in refused)
        raise RecipeError(
            f"{store.folder.name} cannot go on with another recipe; these keys differ:\n{lines}\n"
            "start a new run instead, or resume without a recipe"
        )
    if changed:
        store.relimit(new.model_dump(mode="json"))
        text = "; ".join(f"{path}: {was!r} -> {now!r}" for path, was, now in changed)
        store.event("limits", text, {"generation": len(store.generations()), "changed": [list(one) for one in changed]})
    return new


def _total(generations: str | int, done: int) -> int:
    text = str(generations)
    try:
        total = done + int(text) if text.startswith("+") else int(text)
    except ValueError:
        raise RecipeError(
            f"--generations {text!r} is no number: write a total such as 40, or +20 for twenty more"
        ) from None
    if total < done or total < 1:
        raise RecipeError(f"--generations {text}: the run has {done} generations already; write +N for N more")
    return total


def _note_changes(store: Store) -> None:
    """Records a resume, and where it cannot be bit-identical because the software or processor changed.

    Raises DataError where the data are no longer those that the run began with."""
    now, was = about(recipes.from_json(store.recipe)), store.about
    if now["task"] != was["task"]:
        keys = [key for key in was["task"] if now["task"].get(key) != was["task"][key]]
        raise DataError(
            f"the data of task {store.recipe['task']['kind']!r} changed since {store.folder.name} began "
            f"({', '.join(keys)}): restore them, or start a new run"
        )
    store.event("resumed", f"at generation {len(store.generations())}", {"process": os.getpid()})
    decisive = ("torch", "numpy", "cpu_capability", "cuda", "kernels")
    differing = [key for key in decisive if key in was and now.get(key) != was[key]]
    if differing:
        text = "; ".join(f"{key} {was[key]} -> {now.get(key)}" for key in differing)
        store.event("warning", f"this resume is not bit-identical to an uninterrupted run: {text}")


def _refuse_unfit(recipe: recipes.Recipe, shape: Mapping[str, Any], runs: Path) -> tuple[Founder, ...]:
    """Raises RecipeError or DataError for what only shows beside the data, before there is a folder; the founders."""
    space = encoding.build(recipe.encoding, tuple(shape["input"]), shape["outputs"])
    estimate.check(recipe.estimator, recipe.objectives, tuple(shape["input"]), shape["kind"])
    founders = founders_of(recipe, space, runs)
    posed = problem(recipe, space, founders)
    strategy.build(recipe.strategy, posed)
    posed.random(0, 0, begin().marks.open(), lambda genome: False, 0)
    return founders


def _free_name(runs: Path, name: str) -> str:
    if not (runs / name).exists():
        return name
    number = 2
    while (runs / f"{name}-{number}").exists():
        number += 1
    return f"{name}-{number}"


def about(recipe: recipes.Recipe) -> dict[str, Any]:
    """What a run is stored with: versions, processor, threads, seed, and the shape, sizes and fingerprint of its data.

    The data are loaded for that, so that every mistake in them shows before a run folder exists."""
    chosen = task.build(recipe.task)
    shape, sizes, print_ = _task_facts(recipe, chosen)
    return {
        **machine(whole=recipe.estimator.kind == "population"),
        "threads": getattr(recipe.estimator, "threads", 1),
        "seed": recipe.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "task": {
            "input": list(shape.input),
            "outputs": shape.outputs,
            "kind": shape.kind,
            "labels": list(shape.labels),
            "sizes": sizes,
            "fingerprint": print_,
        },
    }


def _task_facts(recipe: recipes.Recipe, chosen: Any) -> tuple[TaskShape, dict[str, int], str]:
    """Shape, sizes and fingerprint of a task; one that is played has no rows, and is what its settings say."""
    if isinstance(recipe.task, task.TabularSettings):
        return chosen.shape(), chosen.sizes(recipe.seed), chosen.fingerprint
    if hasattr(chosen, "rollout"):
        settings = dumps(recipe.task.model_dump(mode="json"))
        return chosen.shape(), {}, hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()
    data = chosen.load(recipe.seed)
    return data.shape, chosen.sizes(recipe.seed), fingerprint(data)


def fingerprint(data: Data) -> str:
    """A hash of the training and validation rows: a resume with other data is refused."""
    whole = hashlib.blake2b(digest_size=16)
    for rows in (data.x_train, data.y_train, data.x_valid, data.y_valid):
        whole.update(f"{rows.shape}{rows.dtype}".encode())
        whole.update(np.ascontiguousarray(rows).data)
    return whole.hexdigest()


def machine(whole: bool = False) -> dict[str, Any]:
    """Versions and hardware that decide whether a resume can be bit-identical, of torch or of the kernels for whole
    populations."""
    return {
        **_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        **({"kernels": "compiled" if native.library("pack") else "none"} if whole else _accelerators()),
    }


@cache
def _versions() -> Mapping[str, str]:
    return {name: metadata.version(name) for name in ("evonas", "torch", "numpy", "deap", "moocore")}


def _accelerators() -> dict[str, Any]:
    import torch

    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


# ------------------------------------------------------------------------------------------------------- progress


class _Watch:
    """Turns the loop's steps into `Progress` for an observer."""

    def __init__(
        self, run: Run, observer: Observer | None, state: State, workers: int, trackers: tracking.Trackers | None = None
    ) -> None:
        self._run, self._observer, self._trackers = run, observer, trackers
        self._began, self._first = time.monotonic(), state.generation
        self._failures = sum(row["failed"] for row in run.generations())
        self._last = Progress(
            kind="start",
            run=run.name,
            folder=str(run.folder),
            generations=run.recipe.strategy.generations,
            workers=workers,
            objectives=run.objectives,
            failures=self._failures,
            **self._standing(state, run.statistics(state)),
        )
        self._send(self._last)

    def batch(self, state: State, estimates: Collection[Estimate], total: int) -> None:
        failures = self._failures + sum(estimate.status == "failed" for estimate in estimates)
        evaluations = state.evaluations + len(estimates)
        reasons = [estimate.reason for estimate in estimates if estimate.status == "failed"]
        reason = reasons[-1] if reasons else self._last.reason
        self._emit("batch", done=len(estimates), total=total, evaluations=evaluations, failures=failures, reason=reason)

    def generation(self, state: State, statistics: Mapping[str, Any], failed: int) -> None:
        self._failures += failed
        if self._observer is not None:
            self._emit("generation", done=0, total=0, failures=self._failures, **self._standing(state, statistics))
        if self._trackers is not None and self._trackers.due():
            self._trackers.follow(_points(self._run))

    def trainings(self, work: _Work) -> None:
        """Final trainings under way."""
        self._emit("test", done=work.done, total=work.total, share=work.share)

    def end(self, state: State) -> None:
        self._emit("end", **self._standing(state, self._run.statistics(state)))
        if self._trackers is not None and self._run.recipe.tracking:
            self._trackers.follow(_points(self._run))
            self._trackers.end(_ending(self._run))

    def _standing(self, state: State, statistics: Mapping[str, Any]) -> dict[str, Any]:
        names = [one.name for one in self._run.objectives]
        front = tuple(tuple(state.estimates[id].values[name] for name in names) for id in state.front)
        shown = {key: statistics[key] for key in ("evaluations", "best", "hypervolume", "species")}
        return {**shown, "generation": state.generation, "front": front}

    def _emit(self, kind: Literal["batch", "generation", "test", "end"], **changes: Any) -> None:
        self._last = replace(self._last, kind=kind, **changes)
        self._send(self._last)

    def _send(self, progress: Progress) -> None:
        if self._observer is None:
            return
        seconds = time.monotonic() - self._began
        if progress.kind == "test":
            made, left = progress.share, 1 - progress.share
        else:
            made = progress.generation - self._first + (progress.done / progress.total if progress.total else 0.0)
            left = progress.generations - self._first - made
        self._observer(replace(progress, seconds=seconds, eta=seconds / made * left if made > 0 else None))
