"""The words of evonas as frozen types: individuals, estimates, objectives, edits, jobs, state; plus the named random
streams, the JSON codec and the errors. Everything else imports from here; this module imports nothing of evonas."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, BeforeValidator, ConfigDict

if TYPE_CHECKING:
    import numpy as np

    from evonas.encoding.plan import Plan
    from evonas.marks import MarkBook, Marks

__all__ = [
    "FIDELITIES",
    "Count",
    "DataError",
    "Edit",
    "Encoding",
    "Estimate",
    "Estimator",
    "EvonasError",
    "Genome",
    "Heritage",
    "Individual",
    "Job",
    "LockedError",
    "Objective",
    "Outcome",
    "Pool",
    "RecipeError",
    "Settings",
    "Species",
    "State",
    "StorageError",
    "Strategy",
    "dumps",
    "generator",
    "lend_global_streams",
    "loads",
    "nearest",
    "seed_of",
    "stream",
    "valid_name",
]

Json = Any
"""A value that JSON can hold: dict with str keys, list, str, int, finite float, bool, None."""


# ---------------------------------------------------------------------------------------------------------- errors


class EvonasError(Exception):
    """A failure whose message names cause, value and cure; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 70


class RecipeError(EvonasError):
    """A recipe or a command that cannot be carried out as written (exit code 2)."""

    exit_code = 2


class DataError(EvonasError):
    """A data, genome, weights or database file that is not what it should be (exit code 65)."""

    exit_code = 65


class LockedError(EvonasError):
    """A run folder that exists already or is in use by another process (exit code 73)."""

    exit_code = 73


class StorageError(EvonasError):
    """The file system refused: disk full, read-only, permission (exit code 74)."""

    exit_code = 74


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def valid_name(name: str) -> str:
    """The name of a run, if it can be a folder on every system; else RecipeError."""
    if not _NAME.fullmatch(name) or ".." in name or name.endswith(".") or _DEVICE.fullmatch(name):
        raise RecipeError(
            f"run name {name[:80]!r} is not allowed: 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter "
            "or digit, without '..' and no device name such as 'con'"
        )
    return name


def nearest(word: str, known: Sequence[str]) -> str:
    """The sentence part `did you mean 'x'? known: ...` for a misspelt `word`."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


# -------------------------------------------------------------------------------------------------------- settings


class Settings(BaseModel):
    """Base of every recipe section: frozen, and a key it does not know is an error."""

    # built when first used, and docstrings read only where they are shown: a bad recipe is refused 0.1 s sooner
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


_SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}


def _count(value: object) -> object:
    """Reads `100k`, `1.5M`, `2G` as integers and leaves everything else to pydantic."""
    if isinstance(value, str) and value[-1:] in _SUFFIXES:
        try:
            number = float(value[:-1])
        except ValueError:
            return value
        return round(number * _SUFFIXES[value[-1]])
    return value


Count = Annotated[int, BeforeValidator(_count)]
"""An integer that a recipe may write with a suffix: `100k`, `1.5M`, `2G`."""

Quantity = Annotated[float, BeforeValidator(_count)]
"""A number that a recipe may write with a suffix: `100k`, `1.5M`, `2G`."""


# ------------------------------------------------------------------------------------------------------ JSON codec


def dumps(value: Json) -> str:
    """Canonical JSON: sorted keys, no blanks, floats by repr; NaN and infinity raise ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def loads(text: str | bytes) -> Json:
    """Reads JSON and refuses NaN, infinity (also written as 1e999), whole numbers of more than 4,300 digits and nesting
    too deep, raising DataError."""

    def refuse(word: str) -> float:
        raise DataError(f"{word!r} is no JSON number: write a finite one")

    def finite(word: str) -> float:
        number = float(word)
        return number if math.isfinite(number) else refuse(word)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {type(error).__name__}: {str(error)[:120]}") from None


# -------------------------------------------------------------------------------------------- named random streams


def seed_of(seed: int, purpose: str, *key: int) -> int:
    """A 64-bit seed named by the run's seed, a purpose and a key such as an individual's id; a pure function."""
    text = ":".join((str(seed), purpose, *map(str, key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def stream(seed: int, purpose: str, *key: int) -> Random:
    """The named stream of scalar draws: equal names give equal draws, on any machine and in any order."""
    return Random(seed_of(seed, purpose, *key))


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """The named stream of array draws (NumPy's PCG64)."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(seed_of(seed, purpose, *key)))


@contextmanager
def lend_global_streams(seed: int, purpose: str, *key: int) -> Iterator[None]:
    """Lends a named stream to code that draws from global `random` and `numpy.random` (DEAP), then restores both."""
    import numpy as np

    scalar, array = random.getstate(), np.random.get_state()
    random.seed(seed_of(seed, purpose, *key))
    np.random.seed(seed_of(seed, purpose + "/numpy", *key) & 0xFFFFFFFF)
    try:
        yield
    finally:
        random.setstate(scalar)
        np.random.set_state(array)


# ----------------------------------------------------------------------------------------------------- frozen data


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to a genome, as data: what (`op`), where (marks), sizes (`args`), and the marks it made."""

    op: str
    where: tuple[int, ...] = ()
    made: tuple[int, ...] = ()
    args: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> Json:
        return {"op": self.op, "where": list(self.where), "made": list(self.made), "args": dict(self.args)}

    @staticmethod
    def from_json(data: Json) -> Edit:
        return Edit(data["op"], tuple(data["where"]), tuple(data["made"]), data["args"])

    def __str__(self) -> str:
        args = ", ".join(_told(name, value) for name, value in self.args.items() if value != [])
        where = f" at {', '.join(map(str, self.where))}" if self.where else ""
        return self.op + where + (f" ({args})" if args else "")


def _told(name: str, value: Json) -> str:
    """An argument of an edit in a few words: of several genes their number."""
    several = isinstance(value, list) and value and isinstance(value[0], (list, dict))
    return f"{len(value)} {name}" if several else f"{name} {value}"


@runtime_checkable
class Genome(Protocol):
    """A frozen set of genes in one encoding: `text` is its canonical JSON, `key` a hash of it, equal in any process."""

    @property
    def key(self) -> str: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Individual:
    """One member of a run: id, genome, parents, the edits that made it from them, and its generation of birth."""

    id: int
    genome: Genome
    parents: tuple[int, ...] = ()
    edits: tuple[Edit, ...] = ()
    birth: int = 0


Status = Literal["ok", "failed", "pruned"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """How good an individual is: finite objective values, or a status that says why there are none.

    `values` are in each objective's own unit and direction. `curve` has one mapping per epoch, and one of epoch 0 where
    training began with inherited weights. `cost` holds `seconds`, `epochs`, `samples` and, of what was inherited,
    `inherited` (share of the parameters), `inherited/1/layer5` (of a gene's, from the second parent), `exact` (1 where
    no edit changed the function), `carry_seconds`, `birth_error` and, after a distillation, `distilled_error` and
    `distilled_samples`; also `fidelity_epochs` and the like where the strategy asked for one, and `epochs_saved` where
    the training was ended early or not begun: such an individual is `pruned`, counts as seen, and is never a parent.
    `weights` is the SHA-256 of the weights file, or None."""

    id: int
    status: Status
    values: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    curve: tuple[Mapping[str, float], ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    weights: str | None = None

    @staticmethod
    def failed(id: int, reason: str, cost: Mapping[str, float] | None = None, **fields: Any) -> Estimate:
        """A failure as a result: `reason` in one line."""
        return Estimate(id, "failed", reason=" ".join(reason.split())[:500], cost=cost or {}, **fields)

    def checked(self, objectives: Sequence[Objective]) -> Estimate:
        """This estimate, or a failed one where a value is missing or not finite: NaN never reaches selection."""
        if self.status != "ok":
            return replace(self, values={k: v for k, v in self.values.items() if math.isfinite(v)})
        for objective in objectives:
            value = self.values.get(objective.name)
            if value is None or not math.isfinite(value):
                why = "has no value" if value is None else f"is {value}"
                return Estimate.failed(self.id, f"objective {objective.name!r} {why}", self.cost, curve=self.curve)
        return self

    def to_json(self) -> Json:
        return {
            "id": self.id, "status": self.status, "values": dict(self.values), "reason": self.reason,
            "curve": [dict(point) for point in self.curve], "cost": dict(self.cost), "weights": self.weights,
        }  # fmt: skip

    @staticmethod
    def from_json(data: Json) -> Estimate:
        return Estimate(**{**data, "curve": tuple(data["curve"])})


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised or maximised. A `cheap` one needs no training; a `measured` one (a time) is taken once, stored,
    and left out when two runs are compared bit by bit. `max`/`min` are constraints in the objective's own unit."""

    name: str
    unit: str = ""
    direction: Literal["min", "max"] = "min"
    cheap: bool = False
    measured: bool = False
    max: float | None = None
    min: float | None = None

    def loss(self, value: float) -> float:
        """The value as something to minimise."""
        return value if self.direction == "min" else -value

    def violation(self, value: float) -> float:
        """How far the value lies beyond its constraint, >= 0; 0 means it is kept."""
        over = value - self.max if self.max is not None else 0.0
        under = self.min - value if self.min is not None else 0.0
        return max(over, under, 0.0)


@dataclass(frozen=True, slots=True)
class Heritage:
    """A parent's trained weights by reference: its genome, and a safetensors file with the SHA-256 that it must have.

    `id` is the parent's in this run, None where the file comes from elsewhere."""

    genome: Json
    path: str
    sha256: str
    id: int | None = None


FIDELITIES = ("epochs", "share", "resolution", "width")
"""How closely an estimate may look: passes over the training rows, and the shares of the rows, of an image's side and
of the layers' channels."""


@dataclass(frozen=True, slots=True)
class Job:
    """One estimate to compute, as plain data that can travel to any process or machine.

    `born` is the genome itself, for estimators in the driver's own process; it never travels. `parents` are those whose
    weights the network begins with, none for a training from scratch: `edits`, in order, made its genome of the first
    one's, and the other parent of a `mate` is the second. `fidelity` is how closely to look, by FIDELITIES; what it
    does not name is as in the recipe."""

    id: int
    seed: int
    genome: Json
    born: Genome | None = field(default=None, compare=False, repr=False)
    parents: tuple[Heritage, ...] = ()
    edits: tuple[Edit, ...] = ()
    fidelity: Mapping[str, float] = field(default_factory=dict)
    peers: tuple[tuple[float, ...], ...] = ()

    def to_json(self) -> Json:
        parents = [asdict(parent) for parent in self.parents]
        edits = [edit.to_json() for edit in self.edits]
        return {
            "id": self.id, "seed": self.seed, "genome": self.genome, "parents": parents, "edits": edits,
            "fidelity": dict(self.fidelity), "peers": [list(curve) for curve in self.peers],
        }  # fmt: skip

    @staticmethod
    def from_json(data: Json) -> Job:
        parents = tuple(Heritage(**parent) for parent in data["parents"])
        edits = tuple(Edit.from_json(edit) for edit in data["edits"])
        return Job(
            data["id"], data["seed"], data["genome"], parents=parents, edits=edits, fidelity=data["fidelity"],
            peers=tuple(map(tuple, data["peers"])),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes back for a job: its estimate and, where it trained, the network's weights as safetensors bytes."""

    estimate: Estimate
    weights: bytes | None = None


@dataclass(frozen=True, slots=True)
class Species:
    """Genomes within a compatibility distance of one representative, with its history over the run.

    `best` is the smallest loss it ever had, at generation `improved`; `champion` is the best of its members now."""

    id: int
    representative: Individual
    members: tuple[int, ...]
    born: int
    best: float | None = None
    improved: int = 0
    champion: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Everything the next generation follows from, as a value: the strategy's `ask` and `tell` are pure over it.

    `generation` counts completed generations. `estimates` covers the population and the front. `front` holds the ids of
    the non-dominated individuals over all estimates so far, ascending. `memory` is the strategy's own JSON."""

    generation: int
    next_id: int
    population: Sequence[Individual]
    estimates: Mapping[int, Estimate]
    front: tuple[int, ...]
    species: tuple[Species, ...]
    marks: Marks
    evaluations: int = 0
    memory: Mapping[str, Json] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------- protocols


class Encoding(Protocol):
    """A search space bound to a task's input shape and number of outputs. Genomes are never changed in place."""

    @property
    def name(self) -> str: ...

    def random(self, rng: Random, marks: MarkBook) -> Genome: ...
    def mutate(self, genome: Any, rng: Random, marks: MarkBook) -> tuple[Genome, tuple[Edit, ...]] | None: ...
    def mate(self, fitter: Any, other: Any, rng: Random, marks: MarkBook) -> tuple[Genome, tuple[Edit, ...]]: ...
    def distance(self, a: Any, b: Any) -> float: ...
    def check(self, genome: Any) -> None: ...
    def to_json(self, genome: Any) -> Json: ...
    def from_json(self, data: Json) -> Genome: ...
    def decode(self, genome: Any) -> Plan: ...
    def alive(self, genome: Any) -> frozenset[int]: ...


class Strategy(Protocol):
    """Who is born next; an empty `ask` ends the run. Both faces are pure: same arguments, same result, no tensor, no
    file."""

    def ask(self, state: State) -> tuple[Sequence[Individual], State]: ...
    def tell(self, state: State, scored: Sequence[tuple[Individual, Estimate]]) -> State: ...


class Estimator(Protocol):
    """How good is it: trains or looks up one individual. What a network does wrong is a failed estimate, no error."""

    def estimate(self, job: Job) -> Outcome: ...


Watch = Callable[[Mapping[str, float]], None]
"""Called with each point of a learning curve as it comes."""


class Watched(Estimator, Protocol):
    """An estimator that tells of each point of the learning curve."""

    def estimate(self, job: Job, watch: Watch | None = None) -> Outcome: ...


class Pool(Protocol):
    """Where estimates are computed. Every job that is submitted yields exactly one outcome, in any order.

    `submit` hands jobs over, at any time; `arrived` waits for outcomes and gives those there are, none only where
    nothing is outstanding."""

    workers: int

    def submit(self, jobs: Sequence[Job]) -> None: ...
    def arrived(self) -> list[Outcome]: ...
    def close(self) -> None: ...
