"""Environments of Gymnasium as tasks: a whole population plays at once, with one batched network evaluation a step.

Row r of a game is episode r % episodes of individual r // episodes. Rows whose episode has ended wait for the
others and nothing resets by itself, so a return is that of one whole episode and no more."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from itertools import compress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from evonas import arrays, imported
from evonas.core import EvonasError, RecipeError, nearest, seed_of
from evonas.native import cores
from evonas.phenotype.population import Programs, Stepper
from evonas.processes import die_with, plain_main
from evonas.task.data import Played, PlayTask, TaskShape

if TYPE_CHECKING:
    from evonas.task import ControlSettings

__all__ = ["ControlTask"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

LANES = 1024
"""Environments of one process at most: 1,024 of LunarLander take 130 MB. More episodes play in turn."""

MAX_INPUTS = 10_000
"""Refuse observations of more numbers: direct genomes have no use for the pixels of a screen."""


# ------------------------------------------------------------------------------------------------------------- spaces


@dataclass(frozen=True, slots=True)
class Senses:
    """How observations become inputs: a batch of them to (rows, size) float32."""

    size: int
    read: Callable[[Any], Array]


@dataclass(frozen=True, slots=True)
class Deeds:
    """How outputs (rows, size) become one action for each row."""

    size: int
    act: Callable[[Array], Any]


def senses(space: Any, settings: ControlSettings) -> Senses:
    """Box flattened, Discrete one-hot, and what Gymnasium itself can flatten. Raises RecipeError for the rest."""
    spaces = _gymnasium().spaces
    if isinstance(space, spaces.Box):
        size = math.prod(space.shape)
        found = Senses(size, lambda batch: np.asarray(batch, dtype=np.float32).reshape(len(batch), size))
    elif isinstance(space, spaces.Discrete):
        one_hot = np.eye(int(space.n), dtype=np.float32)
        found = Senses(int(space.n), lambda batch: one_hot[np.asarray(batch, dtype=np.int64) - int(space.start)])
    elif space.is_np_flattenable:
        flat = spaces.utils.flatten
        size = int(spaces.utils.flatdim(space))
        found = Senses(size, lambda batch: np.array([flat(space, one) for one in batch], dtype=np.float32))
    else:
        raise _unfit(settings, "observes", space, "wrap it so that observations are a Box of numbers")
    if not 1 <= found.size <= MAX_INPUTS:
        raise _unfit(settings, "observes", space, f"wrap it so that an observation has 1 to {MAX_INPUTS:,} numbers")
    return _scaled(found, settings)


def _scaled(found: Senses, settings: ControlSettings) -> Senses:
    if settings.scale is None:
        return found
    if len(settings.scale) not in (1, found.size):
        who = f"environment {settings.environment!r} observes {found.size} numbers"
        raise RecipeError(f"scale has {len(settings.scale)} factors, {who}: give one for each, or one for all")
    factors = np.array(settings.scale, dtype=np.float32)
    return Senses(found.size, lambda batch: found.read(batch) * factors)


def deeds(space: Any, settings: ControlSettings) -> Deeds:
    """Choices by the highest output or a threshold, continuous actions linearly. Raises RecipeError for the rest."""
    spaces = _gymnasium().spaces
    low, high = settings.output_range
    middle = (low + high) / 2
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        if space.n == 2 and settings.actions == "auto":
            return Deeds(1, lambda y: ((y[:, 0] > middle) + start).tolist())
        return Deeds(int(space.n), lambda y: (y.argmax(axis=1) + start).tolist())
    if isinstance(space, spaces.MultiBinary):
        shape = space.shape
        return Deeds(math.prod(shape), lambda y: (y > middle).astype(space.dtype).reshape(len(y), *shape))
    if isinstance(space, spaces.MultiDiscrete):
        return _choices(space)
    if isinstance(space, spaces.Box):
        return _continuous(space, settings)
    raise _unfit(
        settings, "acts by", space, "wrap it so that actions are Discrete, MultiDiscrete, MultiBinary or a Box"
    )


def _choices(space: Any) -> Deeds:
    """MultiDiscrete: as many outputs for each choice as it has options, of which the highest is taken."""
    options = space.nvec.ravel()
    edges = np.cumsum(options)[:-1]

    def act(y: Array) -> Array:
        chosen: Array = np.stack([part.argmax(axis=1) for part in np.split(y, edges, axis=1)], axis=1)
        actions: Array = (chosen.reshape(len(y), *space.shape) + space.start).astype(space.dtype)
        return actions

    return Deeds(int(options.sum()), act)


def _continuous(space: Any, settings: ControlSettings) -> Deeds:
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise _unfit(settings, "acts by", space, "wrap it so that every action has a lowest and a highest value")
    low, high = settings.output_range
    floor, width = space.low.astype(np.float64), space.high.astype(np.float64) - space.low
    whole = space.dtype.kind in "iu"

    def act(y: Array) -> Array:
        share = np.clip((y.astype(np.float64) - low) / (high - low), 0, 1).reshape(len(y), *space.shape)
        value = floor + share * width
        actions: Array = (np.rint(value) if whole else value).astype(space.dtype)
        return actions

    return Deeds(math.prod(space.shape), act)


def _unfit(settings: ControlSettings, does: str, space: Any, cure: str) -> RecipeError:
    what = str(space) if len(str(space)) < 120 else f"{type(space).__name__} of shape {space.shape}"
    return RecipeError(
        f"environment {settings.environment!r} {does} {what}, which fits no network: {cure} "
        "and name what makes it: environment: file.py:name"
    )


# ------------------------------------------------------------------------------------------------- making environments


def _gymnasium() -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on the standard output
    try:
        import gymnasium
    except ImportError:
        raise RecipeError(
            "task 'gymnasium' needs a package that is not installed: pip install 'evonas[control]'"
        ) from None
    return gymnasium


def made(settings: ControlSettings) -> Any:
    """One environment. Raises RecipeError where there is none such, or it cannot be made as asked."""
    gymnasium = _gymnasium()
    name = settings.environment
    if ":" in name and not imported.is_granted(name):  # gymnasium imports the package of `package:Name-v0`
        raise RecipeError(imported.refusal(name))
    try:
        environment = (
            _own(settings)
            if _is_own(name)
            else gymnasium.make(
                name, max_episode_steps=settings.max_steps, disable_env_checker=True, **settings.arguments
            )
        )
    except EvonasError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        why = _line(error)
        cure = "" if "pip install" in why else "; try pip install 'evonas[control]'"
        raise RecipeError(f"environment {name!r} needs more: {why}{cure}") from None
    except (gymnasium.error.Error, ImportError) as error:
        why = _line(error).partition(". Did you mean")[0]  # it names no version
        raise RecipeError(f"environment {name!r} cannot be had: {why}; {_like(name, gymnasium)}") from None
    except Exception as error:
        given = f"with arguments {settings.arguments}" if settings.arguments else "without arguments"
        what = f"{type(error).__name__}: {_line(error)}"
        raise RecipeError(f"environment {name!r} cannot be made {given}: {what}: correct task.arguments") from error
    _refuse_endless(environment, settings, gymnasium)
    return environment


def _is_own(name: str) -> bool:
    """Whether it names an object; `package:Name-v0` is an id that the package registers."""
    return ":" in name and re.search(r"-v\d+$", name) is None


def _own(settings: ControlSettings) -> Any:
    gymnasium = _gymnasium()
    environment = imported.load(settings.environment)(**settings.arguments)
    if not isinstance(environment, gymnasium.Env):
        kind = type(environment).__name__
        raise RecipeError(f"{settings.environment!r} makes a {kind}: name what makes a gymnasium.Env")
    if settings.max_steps is not None:
        return gymnasium.wrappers.TimeLimit(environment, settings.max_steps)
    return environment


def _refuse_endless(environment: Any, settings: ControlSettings, gymnasium: Any) -> None:
    """Without a limit one good network would play for ever; a user's own environment may have a limit of its own."""
    spec = environment.spec
    limited = settings.max_steps is not None or _is_own(settings.environment)
    if not limited and (spec is None or spec.max_episode_steps is None):
        raise RecipeError(
            f"environment {settings.environment!r} has no limit of steps: set task.max_steps, say to 1000"
        )


def _like(name: str, gymnasium: Any) -> str:
    close = get_close_matches(name, gymnasium.registry, n=4, cutoff=0.6)
    return nearest(name, close) if close else "gymnasium.pprint_registry() lists what there is"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


# --------------------------------------------------------------------------------------------------------------- play


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What one step gave the k rows that made it, by position: observations, rewards (k,), whether episodes are over
    (k,), and why it failed where an environment raised; such an episode is over, too."""

    observations: Any
    rewards: Floats
    over: NDArray[np.bool_]
    failed: Mapping[int, str]


class Stage(Protocol):
    """Environments of one process. `step` takes the rows that still play, ascending, and an action for each."""

    def reset(self, seeds: Sequence[int]) -> Turn: ...
    def step(self, rows: Array, actions: Any) -> Turn: ...


class Separate:
    """One environment for each row, made once and used again; one that raised is replaced."""

    def __init__(self, settings: ControlSettings, first: Any) -> None:
        self._settings = settings
        self._made: list[Any] = [first]

    def reset(self, seeds: Sequence[int]) -> Turn:
        self._made += [made(self._settings) for _ in range(len(seeds) - len(self._made))]
        return self._turn(range(len(seeds)), lambda _, row: (self._began(row, seeds[row]), 0.0, False, False, {}))

    def step(self, rows: Array, actions: Any) -> Turn:
        return self._turn(rows.tolist(), lambda at, row: self._made[row].step(actions[at]))

    def _began(self, row: int, seed: int) -> Any:
        observation, _ = self._made[row].reset(seed=seed)
        return observation

    def _turn(self, rows: Sequence[int], move: Callable[[int, int], Sequence[Any]]) -> Turn:
        observations, rewards, over = [], np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
        failed = {}
        for at, row in enumerate(rows):
            try:
                observation, rewards[at], terminated, truncated, _ = move(at, row)
                over[at] = terminated or truncated
            except Exception as error:  # whatever an environment raises is this episode's failure alone
                failed[at], over[at], observation = _fault(error), True, None
                self._replace(row)
            observations.append(observation)
        return Turn(observations, rewards, over, failed)

    def _replace(self, row: int) -> None:
        with suppress(Exception):
            self._made[row].close()
        self._made[row] = made(self._settings)


class Joint:
    """An environment's own form for many at once. What it does with rows that are over is not looked at."""

    def __init__(self, settings: ControlSettings) -> None:
        self._settings = settings
        self._made: Any = None
        self._actions: Array = np.zeros(0)

    def reset(self, seeds: Sequence[int]) -> Turn:
        if self._made is None or self._made.num_envs != len(seeds):
            self._made = _made_joint(self._settings, len(seeds))
        observations, _ = self._made.reset(seed=seeds[0])
        return Turn(observations, np.zeros(len(seeds)), np.zeros(len(seeds), dtype=bool), {})

    def step(self, rows: Array, actions: Any) -> Turn:
        if len(rows) == self._made.num_envs:
            self._actions = np.array(actions, dtype=self._made.single_action_space.dtype)
        else:
            self._actions[rows] = actions
        try:
            observations, rewards, terminated, truncated, _ = self._made.step(self._actions)
        except Exception as error:  # it cannot be known whose fault it was
            self._made = None
            reason = _fault(error)
            nothing, over = np.zeros(len(rows)), np.ones(len(rows), dtype=bool)
            return Turn(nothing, nothing, over, dict.fromkeys(range(len(rows)), reason))
        return Turn(observations[rows], rewards[rows].astype(np.float64), (terminated | truncated)[rows], {})


def _made_joint(settings: ControlSettings, count: int) -> Any:
    gymnasium = _gymnasium()
    limit = {} if settings.max_steps is None else {"max_episode_steps": settings.max_steps}
    mode, name = "vector_entry_point", settings.environment
    try:
        return gymnasium.make_vec(name, count, vectorization_mode=mode, **limit, **settings.arguments)
    except Exception as error:
        cure = "leave task.vector out"
        raise RecipeError(f"environment {name!r} cannot be had for many at once: {_line(error)}: {cure}") from None


def _fault(error: Exception) -> str:
    return f"the environment raised {type(error).__name__}: {_line(error)}"


@dataclass(frozen=True, slots=True, eq=False)
class Game:
    """Returns and lengths of episodes, (n, episodes) each, and why individuals failed, by position."""

    returns: Floats
    steps: Floats
    failed: dict[int, str]


def play(stage: Stage, see: Senses, do: Deeds, programs: Programs, seeds: Sequence[int], threads: int) -> Game:
    """Every network plays one episode for each seed, all at the same time. Recurrent networks begin each at rest.

    An individual fails, with all its episodes, where an environment raises or an output or return is not finite."""
    n, episodes = programs.n, len(seeds)
    rows = np.arange(n * episodes)
    game = Game(np.zeros((n, episodes)), np.zeros((n, episodes)), {})
    returns, steps = game.returns.reshape(-1), game.steps.reshape(-1)
    x = np.zeros((len(rows), see.size), dtype=np.float32)
    brains = Stepper(programs, threads=threads, copies=episodes)
    turn = stage.reset([*seeds] * n)
    while True:
        rows, observations = _left(rows, turn, game.failed, episodes)
        if not len(rows):
            break
        x[rows] = _read(see, observations)
        y = brains.step(x)[rows]
        if not np.isfinite(y).all():
            _fail_broken(game.failed, rows[~np.isfinite(y).all(axis=1)] // episodes)
        turn = stage.step(rows, do.act(np.nan_to_num(y)))
        returns[rows] += turn.rewards
        steps[rows] += 1
    for i in np.flatnonzero(~np.isfinite(game.returns).all(axis=1)).tolist():
        game.failed.setdefault(i, f"its return is {game.returns[i].sum()}")
    return game


def _read(see: Senses, observations: Any) -> Array:
    try:
        return see.read(observations)
    except (ValueError, TypeError, IndexError) as error:
        raise RecipeError(
            f"the environment's observations are not what its observation_space says: {_line(error)}: correct either"
        ) from None


def _left(rows: Array, turn: Turn, failed: dict[int, str], episodes: int) -> tuple[Array, Any]:
    """The rows that play on, and their observations; notes who has failed."""
    for at, reason in turn.failed.items():
        failed.setdefault(int(rows[at]) // episodes, reason)
    stays = ~turn.over
    if failed:
        stays &= ~np.isin(rows // episodes, list(failed))
    if stays.all():
        return rows, turn.observations
    if isinstance(turn.observations, np.ndarray):
        return rows[stays], turn.observations[stays]
    return rows[stays], list(compress(turn.observations, stays))


def _fail_broken(failed: dict[int, str], individuals: Array) -> None:
    for i in individuals.tolist():
        failed.setdefault(i, "an output of its network is not finite")


# --------------------------------------------------------------------------------------------------------------- task


class Troupe:
    """Environments of this process, with what translates between them and networks."""

    def __init__(self, settings: ControlSettings) -> None:
        first = made(settings)
        self.see = senses(first.observation_space, settings)
        self.do = deeds(first.action_space, settings)
        self._stage: Stage = Joint(settings) if settings.vector else Separate(settings, first)

    def play(self, programs: Programs, seeds: Sequence[int], threads: int) -> Game:
        return play(self._stage, self.see, self.do, programs, seeds, threads)


class ControlTask(PlayTask):
    """An environment that whole populations play. Equal seeds give equal episodes, in any number of processes."""

    def __init__(self, settings: ControlSettings) -> None:
        self._settings = settings

    @cached_property
    def _troupe(self) -> Troupe:
        return Troupe(self._settings)

    @cached_property
    def _crew(self) -> Crew | None:
        """Helping processes; none inside a worker process, which must not have children."""
        wanted = cores() if self._settings.workers == "auto" else self._settings.workers
        return Crew(self._settings, wanted) if wanted > 1 and not multiprocessing.current_process().daemon else None

    def shape(self) -> TaskShape:
        """Numbers observed and outputs asked for. Raises RecipeError where the environment fits no network."""
        return TaskShape((self._troupe.see.size,), self._troupe.do.size, "control")

    def rollout(self, programs: Programs, seed: int, threads: int = 1) -> Played:
        """Plays the episodes of one generation: fitness, worst (the lowest return) and steps (a mean), (n,) each.

        `seed` is the generation's; it chooses the starts unless the recipe has them fixed."""
        own = seed if self._settings.seeds == "generation" else 0
        return self._values(programs, _starts(own, "episode", self._settings.episodes), threads)

    def test(self, programs: Programs, seed: int) -> Played:
        """Plays the episodes of the final test, whose starts no search has seen; the values of `rollout`."""
        return self._values(programs, _starts(seed, "test episode", self._settings.test_episodes), cores())

    def close(self) -> None:
        """Ends helping processes; the next game starts others."""
        if crew := self.__dict__.pop("_crew", None):
            crew.close()

    def _values(self, programs: Programs, seeds: Sequence[int], threads: int) -> Played:
        shape = self.shape()
        if (programs.inputs, programs.outputs) != (shape.input[0], shape.outputs):
            raise RecipeError(
                f"networks of {programs.inputs} inputs and {programs.outputs} outputs cannot play "
                f"{self._settings.environment!r}: it needs {shape.input[0]} and {shape.outputs}"
            )
        games = self._games(programs, seeds, threads)
        returns = np.concatenate([game.returns for game in games])
        steps = np.concatenate([game.steps for game in games]).mean(axis=1)
        firsts = np.cumsum([0, *(len(game.returns) for game in games)]).tolist()
        failed = {first + i: why for first, game in zip(firsts, games, strict=False) for i, why in game.failed.items()}
        kinds: dict[str, Callable[..., Floats]] = {"mean": np.mean, "min": np.min, "median": np.median}
        values = {
            "fitness": kinds[self._settings.reward](returns, axis=1),
            "worst": returns.min(axis=1),
            "steps": steps,
        }
        for value in values.values():
            value[list(failed)] = np.nan
        return Played(values, failed)

    def _games(self, programs: Programs, seeds: Sequence[int], threads: int) -> list[Game]:
        """The games of all parts of the population, in order."""
        crew = self._crew
        size = max(1, LANES // len(seeds))
        if crew:
            size = min(size, math.ceil(programs.n / (4 * crew.workers)))  # who is done early takes another part
        parts = _parts(programs.n, size)
        if crew and len(parts) > 1:
            return crew.play(programs, parts, seeds)
        return [self._troupe.play(_part(programs, part), seeds, threads) for part in parts]


Part = tuple[int, int]
"""Individuals from the first up to the second position."""


def _parts(count: int, size: int) -> list[Part]:
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def _part(programs: Programs, part: Part) -> Programs:
    return programs if part == (0, programs.n) else programs.take(np.arange(*part))


def _starts(seed: int, purpose: str, count: int) -> list[int]:
    """Seeds of episodes; of 31 bits, since environments hand them to generators that take no more."""
    return [seed_of(seed, purpose, i) >> 33 for i in range(count)]


# ---------------------------------------------------------------------------------------------------------- processes


class Crew:
    """Processes that each play parts of a population; no step waits for another process."""

    MERCY = 1.0
    """Seconds between being asked to end and being killed."""

    def __init__(self, settings: ControlSettings, workers: int) -> None:
        self.workers = workers
        self._settings = settings
        self._idle: list[_Member] = []
        self._busy: dict[Connection, _Member] = {}

    def play(self, programs: Programs, parts: Sequence[Part], seeds: Sequence[int]) -> list[Game]:
        """The games in order of their individuals. A part whose process died is halved and played again, so that in the
        end those alone fail that end their process."""
        waiting, games = deque(parts), dict[Part, Game]()
        try:
            while waiting or self._busy:
                while waiting and len(self._busy) < self.workers:
                    self._give(programs, waiting.popleft(), seeds)
                for pipe in wait(list(self._busy)):
                    member = self._busy.pop(cast(Connection, pipe))
                    if game := self._heard(member, len(seeds)):
                        games[member.part] = game
                    else:
                        waiting.extendleft(_halves(member.part))
        except BaseException:
            self.close()  # what is still being played must not answer the next question
            raise
        return [games[part] for part in sorted(games)]

    def _give(self, programs: Programs, part: Part, seeds: Sequence[int]) -> None:
        member = self._idle.pop() if self._idle else _Member(self._settings)
        member.part = part
        self._busy[member.pipe] = member
        with suppress(OSError):  # a dead process is noticed where its answer is read
            member.pipe.send_bytes(_asked(_part(programs, part), seeds))

    def _heard(self, member: _Member, episodes: int) -> Game | None:
        """The game that a process has played; None where it died and the part can be halved."""
        try:
            answer = member.pipe.recv_bytes()
        except (EOFError, OSError):
            code = member.end(self.MERCY)
            first, last = member.part
            reason = f"its environment's process ended with exit code {code}"
            nothing = np.zeros((1, episodes))
            return Game(nothing, nothing.copy(), {0: reason}) if last - first == 1 else None
        self._idle.append(member)
        found, notes = arrays.from_bytes(answer)
        if "wrong" in notes:
            raise RecipeError(notes["wrong"])
        return Game(found["returns"], found["steps"], {int(at): why for at, why in notes["failed"].items()})

    def close(self) -> None:
        """Ends all processes."""
        for member in (*self._idle, *self._busy.values()):
            member.end(self.MERCY)
        self._idle.clear()
        self._busy.clear()


_FACTS = ("n", "inputs", "outputs", "feed_forward")


def _asked(programs: Programs, seeds: Sequence[int]) -> bytes:
    """A part's networks and its episodes' seeds, as they go to a process."""
    named = {field.name: getattr(programs, field.name) for field in fields(programs) if field.name not in _FACTS}
    return arrays.to_bytes(named, {"facts": [getattr(programs, name) for name in _FACTS], "seeds": list(seeds)})


def _told(data: bytes) -> tuple[Programs, list[int]]:
    named, notes = arrays.from_bytes(data)
    return Programs(*notes["facts"], **cast(Any, named)), notes["seeds"]


def _halves(part: Part) -> list[Part]:
    first, last = part
    middle = (first + last) // 2
    return [(first, middle), (middle, last)]


class _Member:
    """The driver's end of one process that plays; it ends with the driver, or when nobody holds this end any more."""

    def __init__(self, settings: ControlSettings) -> None:
        context = multiprocessing.get_context("spawn")  # libraries of environments do not all survive a fork
        self.pipe, theirs = context.Pipe()
        their_life, self._life = context.Pipe(duplex=False)
        arguments = (theirs, their_life, settings, imported.granted())
        self.process = context.Process(target=_perform, args=arguments, daemon=True)
        with plain_main():
            self.process.start()
        theirs.close()
        their_life.close()
        self.part: Part = (0, 0)

    def end(self, mercy: float) -> int | None:
        """Sees the process end and gives its exit code."""
        self._life.close()
        self.process.join(mercy)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(mercy)
        self.pipe.close()
        return self.process.exitcode


def _perform(pipe: Connection, life: Connection, settings: ControlSettings, code: Sequence[str]) -> None:
    """The inside of a process: plays what comes until the driver is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides what it means
    threading.Thread(target=die_with, args=(life,), daemon=True).start()
    imported.grant(code)
    troupe: Troupe | None = None
    with suppress(EOFError, OSError):
        while True:
            programs, seeds = _told(pipe.recv_bytes())
            try:
                troupe = troupe or Troupe(settings)
                game = troupe.play(programs, seeds, threads=1)
                notes = {"failed": {str(at): why for at, why in game.failed.items()}}
                answer = arrays.to_bytes({"returns": game.returns, "steps": game.steps}, notes)
            except Exception as error:
                answer = arrays.to_bytes({}, {"wrong": str(error) if isinstance(error, EvonasError) else _fault(error)})
            pipe.send_bytes(answer)
