"""DEAP's toolbox over evonas' encodings: the one file that imports DEAP.

`toolbox` registers `clone`, `mate`, `mutate`, `select`, `map` for individuals of any encoding. A recipe can name
DEAP's own selection operators, and DEAP's own algorithms (`algorithms.eaMuPlusLambda`) run on them. DEAP draws from the
global random streams: lend it a named one with `core.lend_global_streams`."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
from deap import algorithms, base, tools
from numpy.typing import NDArray

from evonas.core import Edit, Encoding, Estimate, Genome, Individual, Objective, RecipeError
from evonas.marks import MarkBook


class Creature:
    """What DEAP's operators handle: a frozen genome with a DEAP fitness, and the record of how it was made."""

    __slots__ = ("edits", "fitness", "genome", "id", "parents")

    def __init__(
        self,
        genome: Genome,
        fitness: base.Fitness,
        id: int | None = None,
        parents: tuple[int, ...] = (),
        edits: tuple[Edit, ...] = (),
    ) -> None:
        self.genome, self.fitness, self.id, self.parents, self.edits = genome, fitness, id, parents, edits

    def __len__(self) -> int:
        """Number of genes: what DEAP's parsimony operators (`selDoubleTournament`) weigh."""
        return len(getattr(self.genome, "marks", ()))

    def __bool__(self) -> bool:
        return True


def fitness_class(objectives: Sequence[Objective]) -> type[base.Fitness]:
    """A DEAP fitness with weight -1 for each minimised objective and +1 for each maximised one."""
    weights = tuple(-1.0 if objective.direction == "min" else 1.0 for objective in objectives)
    return type("Fitness", (base.Fitness,), {"weights": weights})


def clone(creature: Creature) -> Creature:
    """A copy with its own fitness; genomes are frozen and shared. A clone's parent is the one it was cloned from."""
    fitness = type(creature.fitness)()
    fitness.wvalues = creature.fitness.wvalues
    if creature.id is None:
        return Creature(creature.genome, fitness, None, creature.parents, creature.edits)
    return Creature(creature.genome, fitness, None, (creature.id,), ())


def _lent() -> random.Random:
    """A stream drawn from the global one, which the caller was lent."""
    return random.Random(random.getrandbits(64))


def mutate(creature: Creature, encoding: Encoding, book: MarkBook) -> tuple[Creature]:
    """DEAP's `mutate`: the creature with one mutation of its encoding; unchanged where none is applicable."""
    changed = encoding.mutate(creature.genome, _lent(), book)
    if changed is None:
        return (creature,)
    genome, edits = changed
    return (Creature(genome, type(creature.fitness)(), None, creature.parents, creature.edits + edits),)


def mate(first: Creature, second: Creature, encoding: Encoding, book: MarkBook) -> tuple[Creature, Creature]:
    """DEAP's `mate`: two children by crossover aligned by marks; each takes unmatched genes from its first parent."""
    if first.fitness.valid and second.fitness.valid and second.fitness.dominates(first.fitness):
        first, second = second, first
    children = []
    for a, b in ((first, second), (second, first)):
        genome, edits = encoding.mate(a.genome, b.genome, _lent(), book)
        parents = tuple(dict.fromkeys((*a.parents, *b.parents)))
        children.append(Creature(genome, type(a.fitness)(), None, parents, edits))
    return children[0], children[1]


def toolbox(
    encoding: Encoding, book: MarkBook, select: Callable[..., list[Creature]], map: Callable[..., Any] = map
) -> base.Toolbox:
    """A `deap.base.Toolbox` with `clone`, `mate`, `mutate`, `select` and `map` for this encoding and mark registry."""
    box = base.Toolbox()
    box.register("clone", clone)
    box.register("mate", mate, encoding=encoding, book=book)
    box.register("mutate", mutate, encoding=encoding, book=book)
    box.register("select", select)
    box.register("map", map)
    return box


def creature(individual: Individual, values: Sequence[float], fitness: type[base.Fitness]) -> Creature:
    """An individual with its objective values, in the objectives' order, as DEAP sees it."""
    born = Creature(individual.genome, fitness(), individual.id)
    born.fitness.values = tuple(values)
    return born


def creatures(
    members: Sequence[Individual], estimates: Sequence[Estimate], objectives: Sequence[Objective]
) -> list[Creature]:
    """The members with their estimates' values, as DEAP sees them."""
    fitness, names = fitness_class(objectives), [objective.name for objective in objectives]
    values = [[estimate.values[name] for name in names] for estimate in estimates]
    return [creature(*one, fitness) for one in zip(members, values, strict=True)]


def accepted(
    child: Creature,
    parent: Creature,
    box: base.Toolbox,
    passes: Callable[[Genome], bool],
    seen: Container[str],
    attempts: int,
) -> Creature:
    """The child, or further mutations of it and of its parent, until one passes and has a key not `seen`; where none is
    new one that passes, and where none passes a copy of the parent."""
    found: Creature | None = None
    for attempt in range(attempts):
        if passes(child.genome):
            found = child
            if child.genome.key not in seen:
                break
        origin = box.clone(parent) if found is None or attempt % 2 == 0 else found
        child = box.mutate(origin)[0]
    copy: Creature = box.clone(parent)
    return copy if found is None else found


def varied(
    creatures: list[Creature], box: base.Toolbox, count: int | None, crossover: float, mutation: float
) -> list[Creature]:
    """DEAP's `varOr` with `count` children, or its `varAnd` with one for each. Of a copy the fitness is valid."""
    if count is None:
        both: list[Creature] = algorithms.varAnd(creatures, box, crossover, mutation)
        return both
    either: list[Creature] = algorithms.varOr(creatures, box, count, crossover, mutation)
    return either


def directions(objectives: int, divisions: int, inner: int | None = None) -> NDArray[np.float64]:
    """Reference points on the plane through 1 on every axis, (points, objectives), with a second layer half as far from
    its middle. Das and Dennis 1998; Deb and Jain 2014, IV-B and V-A."""
    outer: NDArray[np.float64] = tools.uniform_reference_points(objectives, divisions)
    if inner is None:
        return outer
    return np.concatenate([outer, tools.uniform_reference_points(objectives, inner, scaling=0.5)])


def niched(
    creatures: list[Creature], k: int, points: NDArray[np.float64], known: Mapping[str, list[Any]]
) -> tuple[list[Creature], dict[str, list[Any]]]:
    """DEAP's `selNSGA3` of `k` survivors, fewer than there are, with the ideal, worst and extreme points known so far
    as JSON; the second value is what is known then."""
    ideal, worst = (np.array(known[key])[None] if known else None for key in ("ideal", "worst"))
    extremes = np.array(known["extremes"]) if known else None
    chosen, memory = tools.selNSGA3(
        creatures, k, points, best_point=ideal, worst_point=worst, extreme_points=extremes, return_memory=True
    )
    return chosen, {
        "ideal": memory.best_point.tolist(), "worst": memory.worst_point.tolist(),
        "extremes": memory.extreme_points.tolist(),
    }  # fmt: skip


def selection(name: str, settings: dict[str, Any], objectives: int) -> Callable[[list[Creature], int], list[Creature]]:
    """DEAP's selection operator with its settings; `selNSGA3` takes `divisions` for its reference points."""
    operator = getattr(tools, name)
    given = dict(settings)
    if name == "selNSGA3":
        given["ref_points"] = tools.uniform_reference_points(objectives, given.pop("divisions", 12))

    def select(creatures: list[Creature], k: int) -> list[Creature]:
        try:
            chosen: list[Creature] = operator(creatures, k, **given)
        except (ValueError, TypeError, ZeroDivisionError, IndexError) as error:
            raise RecipeError(
                f"DEAP's {name} cannot select {k} of {len(creatures)} with {given or 'its defaults'}: {error}; "
                f"its settings are {inspect.signature(operator)}"
            ) from None
        return chosen

    return select
