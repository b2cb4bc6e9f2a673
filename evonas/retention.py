"""What a run folder keeps of the weights that were trained: the recipe's policy, what a resume needs, and `gc`, which
deletes the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evonas.cohort import Scores
from evonas.core import LockedError, State
from evonas.estimate import inherits
from evonas.results import Run
from evonas.store import Litter, Store

__all__ = ["Collection", "gc", "gone", "kept", "needed"]

SPARE = 1 << 16
"""Bytes of a database that must be unused before it is written anew."""


def kept(run: Run, state: State) -> set[str]:
    """SHA-256 of the weights that the recipe's policy keeps after a generation, with those of tested networks.

    Where weights are inherited that is all of the population and the front: any of them may be a parent next."""
    store, settings = run.store, run.recipe.store
    if settings.keep_weights == "all":
        return set(store.named_weights()) | _founders(store)
    living = _living(state)
    if settings.keep_weights == "champions" and not inherits(run.recipe.estimator):
        champions = _champions(run, state)
        living = {id: sha for id, sha in living.items() if id in champions}
    tested = {test["weights"] for test in store.tests()}
    recent = settings.keep_generations
    young = store.weights_born(max(state.generation - recent, 0)) if recent else set()
    return {sha for sha in {*living.values(), *tested} if sha} | young


def _living(state: State) -> dict[int, str | None]:
    """Weights of the population and the front by id; of what is scored in arrays there are none."""
    told = state.estimates
    known = told.others if isinstance(told, Scores) else told
    return {id: one.weights for id, one in known.items()}


def _champions(run: Run, state: State) -> set[int]:
    """The best of the front in each objective, its knee, the best of each species, and who reached the goal."""
    front = [state.estimates[id] for id in state.front]
    best = {
        min(front, key=lambda one: (objective.loss(one.values[objective.name]), one.id)).id
        for objective in run.objectives
        if front
    }
    knee, solved = run.knee_of(front), state.memory.get("solved")
    return {*best, *(one for one in (knee, solved) if one is not None), *_heads(run, state)}


def _heads(run: Run, state: State) -> set[int]:
    first = run.objectives[0]

    def loss(id: int) -> tuple[float, int]:
        return first.loss(state.estimates[id].values[first.name]), id

    return {min(one.members, key=loss) if one.champion is None else one.champion for one in state.species}


def needed(run: Run, state: State | None) -> set[str]:
    """SHA-256 of the weights that must be in the folder now: those that the policy keeps, those of who was born after
    the state, so that nobody is trained again, and those that children still to be trained begin with."""
    store = run.store
    if state is None:
        return set(store.named_weights()) | _founders(store)
    first = min([state.next_id, *store.born_since(state.generation)])
    return kept(run, state) | _heirlooms(run) | store.weights_since(first)


def gone(store: Store) -> set[str]:
    """Weights of those who had died when a repair went back to a time when they lived: that they are missing is no
    fault."""
    told = [event["data"] for event in store.events() if event["kind"] == "repaired"]
    return {sha for data in told for sha in data["gone"]}


def _heirlooms(run: Run) -> set[str]:
    """Weights of the parents of those under way, who may have left the population since."""
    if getattr(run.recipe.strategy, "window", 1) == 1 or not inherits(run.recipe.estimator):
        return set()
    parents = {id for one in run.store.births(run.store.waiting()).values() for id in one.parents}
    return {one.weights for one in run.store.estimates(parents).values() if one.weights}


def _founders(store: Store) -> set[str]:
    """Weights that founders brought, until their training begins with them."""
    told = [event["data"] for event in store.events() if event["kind"] == "founders"]
    return {one["weights"] for founders in told for one in founders if one["weights"]}


# ---------------------------------------------------------------------------------------------------- collecting


@dataclass(frozen=True)
class Collection:
    """What `gc` deleted, or would delete: the files, bytes of the database that are given back, and the bytes of the
    folder before and after."""

    folder: Path
    litter: Sequence[Litter]
    spare: int
    before: int
    after: int
    kept: int
    """Weights files that stay."""

    @property
    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Files and bytes of each kind."""
        kinds = dict.fromkeys(one.kind for one in self.litter)
        return {
            kind: (
                sum(one.kind == kind for one in self.litter),
                sum(one.bytes for one in self.litter if one.kind == kind),
            )
            for kind in kinds
        }


def gc(folder: Path, dry_run: bool = False) -> Collection:
    """Deletes what neither the recipe's policy keeps nor a resume needs, and gives back what the database has spare.

    Raises LockedError while a writer is at work, DataError for a damaged folder. `dry_run` changes nothing."""
    with Store.open(folder) as store:
        if store.locked():
            raise LockedError(f"{folder} is in use by {store.holder}: collect when it has ended")
        planned = _planned(store)
    if dry_run or not (planned.litter or planned.spare):
        return planned
    with Store.open(folder, write=True) as store:
        again = _planned(store)
        store.sweep(again.litter)
        if again.spare:
            store.compact()
        freed = planned.before - planned.after
        store.event(
            "collected", f"{freed:,} bytes were given back", {name: n for name, (n, _) in planned.by_kind.items()}
        )
    with Store.open(folder) as store:
        return Collection(folder, planned.litter, planned.spare, planned.before, store.size(), planned.kept)


def _planned(store: Store) -> Collection:
    run = Run(store)
    keep = needed(run, run.state())
    litter, spare, before = store.litter(keep), store.spare_bytes(), store.size()
    spare = spare if spare >= SPARE else 0
    after = before - spare - sum(one.bytes for one in litter)
    there = store.present_weights()
    return Collection(store.folder, litter, spare, before, after, sum(sha in keep for sha in there))
