"""Recovers a damaged run folder into a new one: what is whole is taken over, what follows from it is bred again, and
what is lost is said.

Births, fronts, species and states follow from the recipe and the estimates, so the run's own loop is followed over the
estimates that are whole, as far as they reach. Where one is lost and can be made again, the new folder stops before it
and keeps all later ones: a resume makes that one and finds the others. Where it cannot, the newest whole state is the
beginning."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evonas import files, retention
from evonas import recipe as recipes
from evonas import run as engine
from evonas.cohort import Cohort, Scored, scores_from_bytes
from evonas.core import DataError, Estimate, Genome, Json, LockedError, RecipeError, State, dumps, loads, valid_name
from evonas.estimate import inherits
from evonas.results import Run
from evonas.salvage import Salvage, salvage
from evonas.store import Recovered, Row, Store, estimate_of, holder, in_use
from evonas.strategy.problem import begin
from evonas.verify import RecordEnds, Scoring, Stored, followed, recipes_of, searching, tunes

__all__ = ["Loss", "Repaired", "repair"]

SHOWN = (
    "genomes", "individuals", "estimates", "generations", "species", "fronts", "states", "journal", "cohorts", "events",
    "tests",
)  # fmt: skip


@dataclass(frozen=True)
class Loss:
    """One table: rows that the ledger counted (None where it is lost or does not count them), those that are whole, and
    those of the new folder."""

    table: str
    counted: int | None
    whole: int
    now: int

    @property
    def before(self) -> int:
        """How many there were, as far as is known."""
        return max(self.counted or 0, self.whole)

    @property
    def told(self) -> str:
        """What is gone, in words; empty where nothing is. Old states give way by themselves."""
        gone = self.before - self.now if self.table not in ("states", "cohorts") else 0
        return f"{gone} of {self.before} {self.table} gone" if gone > 0 else ""


@dataclass(frozen=True)
class Repaired:
    """What `repair` recovered: the new folder, table by table, and how far its run has come of how far it had."""

    damaged: Path
    folder: Path
    tables: Sequence[Loss]
    generations: int
    newest: int
    begun: int
    """The generation before which nothing could be bred again; 0 where all could."""
    again: Sequence[int]
    """Individuals that a resume estimates again."""
    lost: Sequence[int]
    """Individuals whose estimates are lost for good."""
    weights: int
    lost_weights: Sequence[str]
    notes: Sequence[str]


class _Rebuilt(Store):
    """The new folder while the loop is followed over it."""

    reached: State | None = None
    until: int | None = None
    found: Salvage
    quiet = True

    def commit_generation(self, state: State, stats: Mapping[str, Json]) -> None:
        """As a run does it."""
        super().commit_generation(state, stats)
        self._passed(state)

    def commit_cohort(
        self,
        state: State,
        stats: Mapping[str, Json],
        scored: Scored,
        keep: set[int],
        pack: Callable[[Sequence[Genome]], bytes],
        snapshot: bool = False,
    ) -> None:
        """As a run does it."""
        super().commit_cohort(state, stats, scored, keep, pack, snapshot)
        self._passed(state)

    def _passed(self, state: State) -> None:
        self.reached = state
        if state.generation == self.until:
            raise RecordEnds

    def _generation_row(self, state: State, stats: Mapping[str, Json]) -> Row:
        """The row as it was, with its times, where it tells the same."""
        row = super()._generation_row(state, stats)
        old = self.found.rows["generations"].get(state.generation)
        return old if old is not None and old[1] == row[1] and _close(old[2], row[2]) else row

    def collect(self, keep: Collection[str]) -> int:
        """Deletes nothing while it is not known how far the run reaches."""
        return 0

    def event(self, kind: str, text: str, data: Json = None) -> None:
        """Nothing happens to a run that is only followed."""
        if not self.quiet:
            super().event(kind, text, data)


def _close(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isclose(one, other, rel_tol=1e-9))


@dataclass
class _Work:
    """One repair under way."""

    found: Salvage
    recipe: recipes.Recipe
    about: Mapping[str, Json]
    place: Path
    notes: list[str] = field(default_factory=list)

    @property
    def journaled(self) -> bool:
        """Whether whole populations were scored, whose individuals are not kept one by one."""
        return bool(self.found.rows["journal"] or self.found.rows["cohorts"])

    @property
    def bred_from_genes(self) -> bool:
        """Whether what training made of genes is lost with those who were not kept."""
        return tunes(self.recipe) and self.journaled and self.recipe.store.individuals != "all"


def repair(folder: Path, to: Path | None = None, allow_code: bool = False) -> Repaired:
    """Recovers a run folder into a new one, `RUN-repaired` unless given; the damaged one stays as it is.

    Raises DataError where not even a recipe is left, LockedError where a writer is at work or the new folder exists."""
    new = to or folder.with_name(f"{folder.name}-repaired")
    valid_name(new.name)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: name the folder of a run")
    if in_use(folder):
        raise LockedError(f"{folder} is in use by {holder(folder)}: repair it when that has ended")
    if new.exists():
        raise LockedError(f"{new} exists already: choose another folder with --to")
    found = salvage(folder)
    recipe = _recipe(found)
    recipes.permit(recipe, allow_code)
    notes = list(found.notes)
    about = found.about
    if about is None:
        about = engine.about(recipe)
        notes.append("versions and hardware of the first start are lost: those of this machine were taken")
    place = Path(tempfile.mkdtemp(prefix="repair.", dir=new.parent))
    try:
        done = _rebuilt(_Work(found, recipe, about, place, notes), new)
        os.rename(place, new)
        files.sync(new.parent)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return done


def _recipe(found: Salvage) -> recipes.Recipe:
    try:
        return recipes.from_json(found.recipe or {})
    except RecipeError as error:
        raise DataError(
            f"{found.folder} cannot be repaired: neither run.sqlite nor recipe.yaml tells its recipe any more ("
            f"{str(error).splitlines()[0]}); restore one of them from a backup"
        ) from None


def _rebuilt(work: _Work, new: Path) -> Repaired:
    """The new folder, still under another name."""
    found = work.found
    (work.place / "weights").mkdir()
    for sha, path in found.weights.items():
        files.put(work.place / "weights" / f"{sha}.safetensors", path.read_bytes())
    begun = _chosen(work)
    if _retrained(work):
        begun = _chosen(work)
    with _Rebuilt.open(work.place, write=True) as store:
        store.quiet = False
        without = _without_weights(work, store)
        tables = _losses(work, store)
        waiting = store.births(store.waiting())
        again = [id for id, one in waiting.items() if one.birth >= store.newest]
        lost = [id for id in waiting if id not in again]
        store.event(
            "repaired",
            f"from {found.folder.name}: generation {store.newest} of {found.newest}; "
            + (", ".join(one.told for one in tables if one.told) or "no row is lost"),
            {"from": begun, "again": len(again), "gone": sorted(_missing(work, store))},
        )
        done = Repaired(
            found.folder, new, tables, store.newest, found.newest, begun, again, lost, len(found.weights), without,
            work.notes,
        )  # fmt: skip
    shutil.rmtree(work.place / "scratch", ignore_errors=True)
    return done


# ------------------------------------------------------------------------------------------------- from where to go


def _chosen(work: _Work) -> int:
    """Builds the folder from its beginning, or from the newest whole state where more is kept so; which it was."""
    found = work.found
    whole = not work.bred_from_genes and _attempt(work, 0)
    reached = _newest(work) if whole else -1
    if whole and (reached >= found.newest or _makes_up(work)):
        return 0
    for state in sorted(found.rows["states"], reverse=True):
        if max(reached, 0) < state <= found.newest and (_attempt(work, state) or _attempt(work, state, follow=False)):
            return int(state)
    if not _attempt(work, 0):
        _attempt(work, 0, follow=False)
        work.notes.append("other versions made the run, which decided otherwise: it begins anew with these")
    return 0


def _newest(work: _Work) -> int:
    with Store.open(work.place) as store:
        return store.newest


def _makes_up(work: _Work) -> bool:
    """Whether a resume can make what is lost: every individual without an estimate, with what it inherits."""
    if work.journaled:
        return False
    if not inherits(work.recipe.estimator):
        return True
    with Store.open(work.place) as store:
        due = store.births(store.waiting())
        heirs = store.estimates({id for one in due.values() for id in one.parents})
    return all(one.weights is None or one.weights in work.found.weights for one in heirs.values())


def _attempt(work: _Work, start: int, follow: bool = True) -> bool:
    """Builds the folder from a state on; False where the state is not whole, or where what follows is not what is
    stored."""
    _clear(work.place)
    found = work.found
    rows = _base(work, start)
    with _Rebuilt.create(
        work.place, work.recipe.model_dump(mode="json"), work.about, Recovered(rows, start or None)
    ) as store:
        store.found = found
        run = Run(store, work.recipe)
        try:
            state = run.state() or begin()
            state = _follow(work, run, store, state) if follow else state
        except DataError:
            return False
        if isinstance(state.population, Cohort):
            store.snapshot(state, run.encoding.pack_state)
        if follow and not _agrees(found, store):
            return False
        _adopt_the_rest(work, store)
    return True


def _clear(place: Path) -> None:
    for path in place.iterdir():
        if path.name != "weights":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _follow(work: _Work, run: Run, store: _Rebuilt, state: State) -> State:
    for recipe, until in recipes_of(run):
        store.until, store.reached = until, None
        part = Run(store, recipe)
        workers = _scoring(work, part) if recipe.estimator.kind == "population" else Stored()
        state = followed(store, searching(part, workers), state, recipe.strategy.generations)
    return state


def _scoring(work: _Work, run: Run) -> Scoring:
    """Scores of whole populations as they are left."""
    found, space = work.found, run.encoding
    journal = found.rows["journal"]
    known = {} if work.journaled else {id: estimate_of(row) for id, row in found.rows["estimates"].items()}

    def estimates(ids: Sequence[int], generation: int) -> Mapping[int, Estimate]:
        return {id: known[id] for id in ids} if known.keys() >= set(ids) else {}

    def genes(ids: Sequence[int], generation: int) -> Mapping[int, Genome]:
        rows, genomes = found.whole_individuals(), found.rows["genomes"]
        return {id: space.from_json(loads(genomes[rows[id][2]][1])) for id in ids if id in rows}

    return Scoring(
        space,
        lambda generation: scores_from_bytes(journal[generation][1]) if generation in journal else None,
        estimates,
        genes if tunes(work.recipe) else None,
    )


# ------------------------------------------------------------------------------------------------------------ rows


def _base(work: _Work, start: int) -> dict[str, list[Row]]:
    """The rows that a new folder begins with, from a generation on."""
    found = work.found
    all_of = found.rows
    individuals = found.whole_individuals()
    mine = (
        {id: row for id, row in individuals.items() if row[1] < start or _under_way(work, start, row)} if start else {}
    )
    estimates = all_of["estimates"].items()
    if work.journaled:
        estimates = {id: row for id, row in estimates if id in mine and individuals[id][1] < start}.items()
    rows: dict[str, list[Row]] = {
        "individuals": list(mine.values()),
        "genomes": _genomes(found, mine.values()),
        "estimates": _ranked([row for _, row in sorted(estimates)]),
        "events": _events(found),
    }
    if start:
        rows |= {"states": [all_of["states"][start]], **_until(work, start)}
    return rows


def _under_way(work: _Work, start: int, row: Row) -> bool:
    """Whether an individual was asked for and not told yet when a state was stored, as in a window."""
    return int(row[0]) < int(loads(work.found.rows["states"][start][1])["next_id"])


def _genomes(found: Salvage, individuals: Iterable[Row]) -> list[Row]:
    return [found.rows["genomes"][key] for key in sorted({row[2] for row in individuals})]


def _ranked(estimates: Sequence[Row]) -> list[Row]:
    """Estimates in the order in which they arrived, without gaps: the next one is numbered by how many there are."""
    order = {row[0]: at for at, row in enumerate(sorted(estimates, key=lambda row: (row[7], row[0])))}
    return [(*row[:7], order[row[0]], *row[8:]) for row in estimates]


def _events(found: Salvage) -> list[Row]:
    """Events without gaps; founders whose weights are gone begin from scratch."""
    rows = [row for _, row in sorted(found.rows["events"].items())]
    return [
        (at, *row[1:4], _founders(found, row[4]) if row[2] == "founders" else row[4]) for at, row in enumerate(rows)
    ]


def _founders(found: Salvage, text: str) -> str:
    kept = [{**one, "weights": one["weights"] if one["weights"] in found.weights else None} for one in loads(text)]
    return dumps(kept)


def _until(work: _Work, start: int) -> dict[str, list[Row]]:
    """What every generation up to one has; what is lost of them is told empty."""
    found = work.found.rows
    rows: dict[str, list[Row]] = {"generations": [], "species": [], "fronts": []}
    evaluations, holes = 0, set[int]()
    for generation in range(1, start + 1):
        row = found["generations"].get(generation)
        holes |= {generation} if row is None else set()
        row = row or (generation, evaluations, None, None, 0.0, dumps(_UNKNOWN))
        evaluations = row[1]
        rows["generations"].append(row)
        for table in ("species", "fronts"):
            holes |= {generation} if generation not in found[table] else set()
            rows[table].append(found[table].get(generation, (generation, "[]")))
    if holes:
        work.notes.append(f"row, species or front of generations {_listed(sorted(holes))} are lost and told empty")
    kept = {"journal": [row for generation, row in sorted(found["journal"].items()) if generation <= start]}
    return {**rows, **kept, "cohorts": [found["cohorts"][start]] if start in found["cohorts"] else []}


_UNKNOWN: dict[str, Json] = {"failed": 0, "best": {}, "species": 0, "solved": None, "lost": True}
"""What is told of a generation whose row is lost."""


def _agrees(found: Salvage, store: Store) -> bool:
    """Whether what was bred again is what is left of the old folder."""
    for table in ("individuals", "species", "fronts"):
        for key, row in store.rows_of(table).items():
            if found.rows[table].get(key, row) != row:
                return False
    return True


def _adopt_the_rest(work: _Work, store: _Rebuilt) -> None:
    """Individuals that were born later with their estimates, and tests; what belongs to nobody goes."""
    found = work.found
    known = store.rows_of("individuals")
    later = {} if work.journaled else {id: row for id, row in found.whole_individuals().items() if id not in known}
    store.adopt({"genomes": _genomes(found, later.values()), "individuals": list(later.values())})
    alive = known.keys() | later.keys()
    store.forget("estimates", [id for id in store.rows_of("estimates") if id not in alive])
    tests = [row for _, row in sorted(found.rows["tests"].items()) if row[1] in alive]
    store.adopt({"tests": [(at, *row[1:]) for at, row in enumerate(tests)]})


# --------------------------------------------------------------------------------------------------------- weights


def _retrained(work: _Work) -> bool:
    """Takes away the estimates whose weights are lost, where a resume can make both again."""
    if inherits(work.recipe.estimator):
        return False
    with Store.open(work.place) as store:
        lost = _lost(work, store)
    ids = sorted(id for id, row in work.found.rows["estimates"].items() if row[6] in lost)
    for id in ids:
        del work.found.rows["estimates"][id]
    if ids:
        work.notes.append(f"the weights of individuals {_listed(ids)} are lost: trained again, with their estimates")
    return bool(ids)


def _missing(work: _Work, store: Store) -> set[str]:
    """Weights that the run would need where it stands, and that are not there."""
    run = Run(store, work.recipe)
    return retention.needed(run, run.state()) - work.found.weights.keys()


def _lost(work: _Work, store: Store) -> set[str]:
    """Weights that the damaged run needed where it had come to; those of who had died before were deleted long ago."""
    found, rows = work.found, work.found.rows
    if store.newest >= found.newest:
        return _missing(work, store)
    named = {id: row[6] for id, row in rows["estimates"].items() if row[6]}
    whose = set(named) if work.recipe.store.keep_weights == "all" else _living(work)
    tested = {row[6] for row in rows["tests"].values() if row[6]}
    damaged = {sha for sha in named.values() if sha in found.damaged_weights}
    return ({named[id] for id in whose if id in named} | tested | damaged) - found.weights.keys()


def _living(work: _Work) -> set[int]:
    """Ids of the population and the front at the newest time of which they are known, and of who was born later."""
    rows, newest = work.found.rows, work.found.newest
    if work.recipe.store.keep_weights == "champions":
        return set()
    state = rows["states"].get(newest)
    if state is None:
        return set(loads(rows["fronts"][newest][1])) if newest in rows["fronts"] else set()
    told = loads(state[1])
    later = {id for id in rows["estimates"] if id >= told["next_id"]}
    return later if "cohort" in told else {*told["estimates"], *later}


def _without_weights(work: _Work, store: Store) -> list[str]:
    """Estimates and tests whose weights are lost name none any more; whose they were."""
    missing = _lost(work, store)
    lost = []
    for table in ("estimates", "tests"):
        rows = {key: row for key, row in store.rows_of(table).items() if row[6] in missing}
        store.forget(table, rows.keys())
        store.adopt({table: [(*row[:6], None, *row[7:]) for row in rows.values()]})
        lost += [f"individual {row[0] if table == 'estimates' else row[1]}" for row in rows.values()]
    if lost and inherits(work.recipe.estimator):
        work.notes.append(f"the weights of {_listed(lost)} are lost: their children begin from scratch")
    return lost


def _losses(work: _Work, store: Store) -> list[Loss]:
    newest = work.found.newest
    counted = dict.fromkeys(("generations", "species", "fronts"), newest) | dict(work.found.expected or {})
    counted |= {"journal": newest} if work.journaled else {}
    rows = work.found.rows
    return [Loss(table, counted.get(table), len(rows[table]), len(store.rows_of(table))) for table in SHOWN]


def _listed(numbers: Sequence[Any]) -> str:
    """Some numbers, and of many the first and how many more."""
    shown = ", ".join(map(str, numbers[:12]))
    return shown if len(numbers) <= 12 else f"{shown} and {len(numbers) - 12} more"
