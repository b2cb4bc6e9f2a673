"""DEAP's toolbox over evonas' encodings: the one file that imports DEAP.

`toolbox` registers `clone`, `mate`, `mutate`, `select`, `map` for individuals of any encoding. A recipe can name
DEAP's own selection operators, and DEAP's own algorithms (`algorithms.eaMuPlusLambda`) run on them. DEAP draws from the
global random streams: lend it a named one with `core.lend_global_streams`."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

from deap import base, tools

from evonas.core import Edit, Encoding, Genome, Individual, Objective, RecipeError
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
