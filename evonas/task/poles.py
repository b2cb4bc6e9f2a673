"""Balancing poles on a cart, for a whole population at once: one or two poles by Wieland's equations as in the NEAT
papers, and Gymnasium's CartPole-v1.

Whole episodes run in a compiled kernel, network and physics in one loop. Without a compiler the same physics runs in
NumPy, bit for bit; only the networks' outputs may then differ in their last bits."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evonas import native
from evonas.core import EvonasError, seed_of
from evonas.phenotype.population import Programs, Stepper
from evonas.task.data import Played, PlayTask, TaskShape

if TYPE_CHECKING:
    from evonas.task import CartPoleSettings, DoublePoleSettings, SinglePoleSettings

Reals = NDArray[np.float64]

STATE = 6
"""x, x', t1, t1', t2, t2' in metres, radians and seconds; what a cart has fewer poles for stays 0."""

LAST = 100
"""Steps at the end of an episode over which its swaying is summed."""

TRACK = 2.4
"""Metres from the middle to either end of the track."""

FALLEN = 0.628329
"""Radians (36 degrees) at which one of two poles has fallen."""

LONG, SHORT = 100_000, 1_000
"""Control steps (of 0.02 s) that count as solved, and those of one start of the generalisation test."""

# ----------------------------------------------------------------------------------------------------------- physics


class _Game(ctypes.Structure):
    """What `kernels/poles.c` reads, in its order."""

    _fields_ = (
        ("poles", ctypes.c_int64),
        ("limit", ctypes.c_int64),
        ("activations", ctypes.c_int64),
        ("seen", ctypes.c_int64),
        ("position", ctypes.c_int64 * STATE),
        ("scale", ctypes.c_double * STATE),
        ("bias", ctypes.c_double),
        ("angle", ctypes.c_double),
    )


@dataclass(frozen=True)
class Game:
    """One way to balance: `poles` 1 or 2 (Wieland's), 0 is CartPole-v1. The network sees the numbers of the state at
    `position`, each divided by its `scale`, and where `bias` is not None that constant last. `angle` (rad) is where a
    pole has fallen; an episode lasts `limit` control steps, each after `activations` steps of the network."""

    poles: int
    position: tuple[int, ...]
    scale: tuple[float, ...]
    bias: float | None
    angle: float
    limit: int
    activations: int = 1

    @property
    def inputs(self) -> int:
        return len(self.position) + (self.bias is not None)

    @cached_property
    def packed(self) -> ctypes.Structure:
        """The same as the kernel takes it."""
        position = (ctypes.c_int64 * STATE)(*self.position)
        scale = (ctypes.c_double * STATE)(*self.scale)
        bias = math.nan if self.bias is None else self.bias
        seen = len(self.position)
        return _Game(self.poles, self.limit, self.activations, seen, position, scale, bias, self.angle)


class Episodes(NamedTuple):
    """What happened, each (n, episodes): `steps` up to and with the fall or the limit, whether it `fell`, and `wobble`,
    the sum of |x| + |x'| + |t1| + |t1'| over its last 100 standing states."""

    steps: NDArray[np.int64]
    fell: NDArray[np.bool_]
    wobble: Reals

    @property
    def balanced(self) -> NDArray[np.int64]:
        """Steps after which everything still stood."""
        return self.steps - self.fell


def play(game: Game, programs: Programs, starts: Reals, threads: int = 1) -> Episodes:
    """Plays an episode from each of `starts` (episodes, 6) with every network; its state is 0 at the start of each."""
    _refuse_misfit(game, programs)
    library = native.library("poles")
    if library is None:
        return _play_slowly(game, programs, starts)
    starts = np.ascontiguousarray(starts, dtype=np.float64)
    count = len(starts)
    total = programs.n * count
    steps, fell, wobble = np.empty(total, np.int64), np.empty(total, np.uint8), np.empty(total)
    call = _kernel(library)
    where = [array.ctypes.data for array in (starts, steps, fell, wobble)]

    def work(first: int, last: int) -> None:
        if call(programs.address, ctypes.byref(game.packed), where[0], count, first, last, *where[1:]):
            raise MemoryError("no memory for one network's values")

    native.split(work, total, threads, grain=64)
    shape = (programs.n, count)
    return Episodes(steps.reshape(shape), fell.reshape(shape) > 0, wobble.reshape(shape))


def _kernel(library: ctypes.CDLL) -> Callable[..., int]:
    call = library.poles_play
    call.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 3
    call.restype = ctypes.c_int
    return call


def _refuse_misfit(game: Game, programs: Programs) -> None:
    if programs.inputs != game.inputs or programs.outputs > 2 - (game.poles > 0):
        raise EvonasError(
            f"networks of {programs.inputs} inputs and {programs.outputs} outputs cannot play, the task gives "
            f"{game.inputs} and takes {'1' if game.poles else '1 or 2'}: build them for the task's shape"
        )


# the same physics in NumPy: states are (6, rows), and every operation stands in the kernel's order


def _play_slowly(game: Game, programs: Programs, starts: Reals) -> Episodes:
    """First all briefly, then those that stand to the end: one good network does not make the others wait."""
    brief = min(game.limit, SHORT)
    found = _played(game, programs, starts, brief)
    standing = np.flatnonzero(~found.fell.all(axis=1))
    if brief < game.limit and len(standing):
        again = _played(game, programs.take(standing), starts, game.limit)
        for whole, part in zip(found, again, strict=True):
            whole[standing] = part
    return found


def _played(game: Game, programs: Programs, starts: Reals, limit: int) -> Episodes:
    rows = programs.n * len(starts)
    stepper = Stepper(programs, copies=len(starts), activations=game.activations)
    state = np.tile(np.asarray(starts, np.float64).T, programs.n)
    steps, up, ring = np.zeros(rows, np.int64), np.ones(rows, dtype=bool), np.zeros((LAST, rows))
    step = 0
    while step < limit and up.any():
        with np.errstate(all="ignore"):  # fallen poles go on turning, to infinity
            outputs = stepper.step(observed(game, state))
            state = acted(game, state, outputs)
            standing = stands(game, state)
        steps += up
        up &= standing
        ring[step % LAST, up] = np.abs(state[:4, up]).sum(axis=0)
        step += 1
    shape = (programs.n, len(starts))
    return Episodes(steps.reshape(shape), ~up.reshape(shape), ring.sum(axis=0).reshape(shape))


def observed(game: Game, state: Reals) -> NDArray[np.float32]:
    """What networks see of states (6, rows): (rows, inputs)."""
    seen = state[list(game.position)].T / np.array(game.scale)
    constant = [] if game.bias is None else [np.full((len(seen), 1), game.bias)]
    return np.ascontiguousarray(np.hstack([seen, *constant]), dtype=np.float32)


def stands(game: Game, state: Reals) -> NDArray[np.bool_]:
    """Which states (6, rows) are within bounds; one that is no number is not."""
    upright: NDArray[np.bool_] = (np.abs(state[0]) <= TRACK) & (np.abs(state[2]) <= game.angle)
    if game.poles == 2:
        upright &= np.abs(state[4]) <= game.angle
    return upright


def acted(game: Game, state: Reals, outputs: NDArray[np.float32]) -> Reals:
    """The states (6, rows) one control step on."""
    if game.poles == 0:
        return _cartpole(state, outputs)
    force = (np.clip(outputs[:, 0], 0, 1).astype(np.float64) - 0.5) * 20.0
    for _ in range(2):
        state = _runge_kutta(game.poles, state, force)
    return state


def _sine(t: Reals) -> Reals:
    z = t * t
    r = -2.50507602534068634195e-08 + z * 1.58969099521155010221e-10
    for part in (2.75573137070700676789e-06, -1.98412698298579493134e-04, 8.33333333332248946124e-03):
        r = part + z * r
    r = -1.66666666666666324348e-01 + z * r
    sine: Reals = t + t * z * r
    return sine


def _cosine(t: Reals) -> Reals:
    z = t * t
    half = 0.5 * z
    one = 1.0 - half
    r = 2.08757232129817482790e-09 + z * -1.13596475577881948265e-11
    for part in (-2.75573143513906633035e-07, 2.48015872894767294178e-05, -1.38888888888741095749e-03):
        r = part + z * r
    r = 4.16666666666666019037e-02 + z * r
    cosine: Reals = one + (((1.0 - one) - half) + z * z * r)
    return cosine


def _change(poles: int, s: Reals, force: Reals) -> Reals:
    """Wieland's equations: the change of states (6, rows) under forces (rows,) in newton."""
    gravity, friction = -9.8, 2e-6
    push, inertia, poled = force, np.zeros_like(force), []
    for i, (mass, half) in enumerate(((0.1, 0.5), (0.01, 0.05))[:poles]):
        speed, moment = s[3 + 2 * i], half * mass
        sn, cs, turn = _sine(s[2 + 2 * i]), _cosine(s[2 + 2 * i]), speed * (friction / moment)
        push = push + (moment * speed * speed * sn + 0.75 * mass * cs * (turn + gravity * sn))
        inertia = inertia + mass * (1.0 - 0.75 * cs * cs)
        poled.append((half, speed, sn, cs, turn))
    change = np.zeros_like(s)
    change[0], change[1] = s[1], push / (inertia + 1.0)
    for i, (half, speed, sn, cs, turn) in enumerate(poled):
        change[2 + 2 * i] = speed
        change[3 + 2 * i] = (-0.75 / half) * (change[1] * cs + gravity * sn + turn)
    return change


def _runge_kutta(poles: int, s: Reals, force: Reals, h: float = 0.01) -> Reals:
    a = _change(poles, s, force)
    b = _change(poles, s + 0.5 * h * a, force)
    c = _change(poles, s + 0.5 * h * b, force)
    d = _change(poles, s + h * c, force)
    return s + h / 6.0 * (a + 2.0 * b + 2.0 * c + d)


def _cartpole(s: Reals, outputs: NDArray[np.float32]) -> Reals:
    """Barto, Sutton and Anderson 1983 as Gymnasium writes it: two actions, explicit Euler, 0.02 s."""
    right = outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs[:, 1] > outputs[:, 0]
    force, gravity, pole, total, length, tau = np.where(right, 10.0, -10.0), 9.8, 0.1, 0.1 + 1.0, 0.5, 0.02
    cs, sn, moment = _cosine(s[2]), _sine(s[2]), pole * length
    temp = (force + moment * (s[3] * s[3]) * sn) / total
    turn = (gravity * sn - cs * temp) / (length * (4.0 / 3.0 - pole * (cs * cs) / total))
    cart = temp - moment * turn * cs / total
    rest = np.zeros_like(s[4])
    return s + tau * np.array([s[1], cart, s[3], turn, rest, rest])


# ------------------------------------------------------------------------------------------------- the papers' tasks

START = np.array([[0.0, 0.0, 0.07, 0.0, 0.0, 0.0]])
"""Where every episode of the search begins: the long pole leans by 4 degrees."""


def generalisation_starts() -> Reals:
    """The 625 starts, (625, 6): x, x', t1, t1' over five values each. Gruau, Whitley and Pyeatt 1996."""
    grid = np.array(list(product((0.05, 0.25, 0.5, 0.75, 0.95), repeat=4)))
    starts = np.zeros((len(grid), STATE))
    starts[:, :4] = grid * (4.32, 2.70, 0.12566304, 0.30019504) - (2.16, 1.35, 0.06283152, 0.15009752)
    return starts


def damping(balanced: NDArray[np.int64], wobble: Reals) -> Reals:
    """Gruau's fitness over 1,000 steps: 0.1 balanced / 1000 + 0.9 f, f = 0.75 / wobble of the last 100 steps, 0 where
    no more than 100 were balanced. Stanley and Miikkulainen 2002, 4.3.2."""
    calm = np.where(balanced > LAST, 0.75 / np.maximum(wobble, 1e-9), 0.0)
    return 0.1 * balanced / SHORT + 0.9 * calm


class Poles(PlayTask):
    """One or two poles on a cart: `balanced` steps as fitness, or damping, which rewards calm.

    Values: fitness, steps; and where a network is checked (else NaN) `balanced` of 100,000 steps and, if it stood all
    of them, `generalises`, the number of 625 other starts from which it balances 1,000 steps."""

    def __init__(self, settings: SinglePoleSettings | DoublePoleSettings) -> None:
        poles = 2 if settings.kind == "double-pole" else 1
        scale = (4.8, 2.0, 0.52, 2.0, 0.52, 2.0)[: 2 + 2 * poles]
        step = 1 if settings.velocities else 2
        self._settings = settings
        self._game = Game(
            poles,
            tuple(range(0, len(scale), step)),
            scale[::step],
            settings.bias,
            FALLEN if poles == 2 else FALLEN / 3,
            settings.limit,
            settings.activations,
        )

    def shape(self) -> TaskShape:
        return TaskShape((self._game.inputs,), 1, "control")

    def rollout(self, programs: Programs, seed: int, threads: int = 1) -> Played:
        """The fitness from the one start there is; nothing in it is random."""
        played = self._searched(programs, threads)
        if self._settings.check == "never":
            return played
        best = self._best(played)
        for name, values in self._checked(programs.take(best), threads).items():
            played[name] = np.full(programs.n, np.nan)
            played[name][best] = values
        return played

    def test(self, programs: Programs, seed: int) -> Played:
        """The search's values, balanced steps of 100,000, and how many of the 625 starts every network masters."""
        threads = native.cores()
        return Played(self._searched(programs, threads) | self._checked(programs, threads, always=True))

    def _searched(self, programs: Programs, threads: int) -> Played:
        episodes = play(self._game, programs, START, threads)
        balanced, wobble = episodes.balanced[:, 0], episodes.wobble[:, 0]
        steps = balanced.astype(np.float64)
        fitness = damping(balanced, wobble) if self._settings.fitness == "damping" else steps.copy()
        return Played({"fitness": fitness, "steps": steps})

    def _best(self, played: Played) -> NDArray[np.int64]:
        """Positions of the best that may be checked, the first of each fitness: equals would be checked in vain."""
        able = played["steps"] == self._game.limit
        if self._settings.check == "always":
            able[:] = True
        _, firsts = np.unique(np.where(able, -played["fitness"], np.inf), return_index=True)
        chosen: NDArray[np.int64] = firsts[able[firsts]][: self._settings.checks]
        return chosen

    def _checked(self, programs: Programs, threads: int, always: bool = False) -> dict[str, Reals]:
        balanced = play(self._lasting(LONG), programs, START, threads).balanced[:, 0].astype(np.float64)
        generalises = np.full(programs.n, np.nan)
        able = np.arange(programs.n) if always else np.flatnonzero(balanced == LONG)
        if len(able):
            fell = play(self._lasting(SHORT), programs.take(able), generalisation_starts(), threads).fell
            generalises[able] = (~fell).sum(axis=1)
        return {"balanced": balanced, "generalises": generalises}

    def _lasting(self, limit: int) -> Game:
        return replace(self._game, limit=limit)


# ------------------------------------------------------------------------------------------------------- CartPole-v1


class CartPole(PlayTask):
    """Gymnasium's CartPole-v1: equal physics, starts and end. Values: fitness, the mean reward over the episodes, 500
    at most, and worst, the lowest."""

    def __init__(self, settings: CartPoleSettings) -> None:
        self._settings = settings
        angle = 12 * 2 * math.pi / 360
        self._game = Game(0, (0, 1, 2, 3), (1.0,) * 4, settings.bias, angle, settings.limit, settings.activations)

    def shape(self) -> TaskShape:
        return TaskShape((self._game.inputs,), self._settings.outputs, "control")

    def rollout(self, programs: Programs, seed: int, threads: int = 1) -> Played:
        """Rewards over episodes that all networks of the generation share."""
        own = seed if self._settings.seeds == "generation" else 0
        return self._rewards(programs, _seeds(own, "episode", self._settings.episodes), threads)

    def test(self, programs: Programs, seed: int) -> Played:
        """Rewards over episodes that the search did not show."""
        return self._rewards(programs, _seeds(seed, "test episode", self._settings.test_episodes), native.cores())

    def _rewards(self, programs: Programs, seeds: list[int], threads: int) -> Played:
        steps = play(self._game, programs, cartpole_starts(seeds), threads).steps
        return Played({"fitness": steps.mean(axis=1), "worst": steps.min(axis=1).astype(np.float64)})


def _seeds(seed: int, purpose: str, count: int) -> list[int]:
    """Seeds of episodes, the same as those of Gymnasium's environments in `control.py`."""
    return [seed_of(seed, purpose, i) >> 33 for i in range(count)]


def cartpole_starts(seeds: list[int]) -> Reals:
    """The states (episodes, 6) that `reset(seed=...)` of Gymnasium's CartPole-v1 gives for each seed."""
    starts = np.zeros((len(seeds), STATE))
    for row, seed in zip(starts, seeds, strict=True):
        row[:4] = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).uniform(-0.05, 0.05, 4)
    return starts
