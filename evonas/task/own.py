"""A user's own fitness function, of a whole population of networks at once or of one network at a time."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from evonas import imported, native
from evonas.core import EvonasError, RecipeError, lend_global_streams, seed_of
from evonas.phenotype.population import Programs, Stepper, activate
from evonas.task.data import Array, Played, PlayTask, TaskShape

if TYPE_CHECKING:
    from evonas.task import FitnessSettings

Floats = NDArray[np.float32]


class Networks(Sequence["Network"]):
    """A population's networks as a fitness function sees them: all at once, or one by index.

    `seed` is this generation's, for whatever a function draws; global `random` and `numpy.random` are seeded by it."""

    def __init__(self, programs: Programs, seed: int, threads: int = 1) -> None:
        self.seed = seed
        self.inputs, self.outputs = programs.inputs, programs.outputs
        self._programs, self._threads = programs, threads
        self._stepper: Stepper | None = None

    def __len__(self) -> int:
        return self._programs.n

    @overload
    def __getitem__(self, at: int) -> Network: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Network]: ...
    def __getitem__(self, at: int | slice) -> Network | Sequence[Network]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return Network(Networks(self._programs.take([range(len(self))[at]]), self.seed))

    def __iter__(self) -> Iterator[Network]:
        return (self[i] for i in range(len(self)))

    def __call__(self, x: Any) -> Floats:
        """Outputs (n, rows, outputs) for rows (rows, inputs) that all networks get, or (n, rows, inputs)."""
        return activate(self._programs, self._numbers(x, (2, 3)), self._threads)

    def step(self, x: Any) -> Floats:
        """Outputs (n, outputs) for one input each (n, inputs); recurrent networks remember. With (n, copies, inputs)
        every network stands in several episodes at once and gives (n, copies, outputs)."""
        values = self._numbers(x, (2, 3))
        copies = values.shape[1] if values.ndim == 3 else 1
        if len(values) != len(self):
            raise ValueError(f"step takes one input for each of {len(self)} networks, x has shape {values.shape}")
        if self._stepper is None or self._stepper.copies != copies:
            self._stepper = Stepper(self._programs, copies, self._threads)
        made = self._stepper.step(values.reshape(-1, self.inputs))
        return made.reshape(*values.shape[:-1], self.outputs).copy()

    def reset(self) -> None:
        """Recurrent networks forget."""
        if self._stepper is not None:
            self._stepper.reset()

    def _numbers(self, x: Any, dimensions: tuple[int, ...]) -> Floats:
        values = np.asarray(x, dtype=np.float32)
        if values.ndim not in dimensions or values.shape[-1] != self.inputs:
            raise ValueError(f"networks take {self.inputs} inputs, x has shape {values.shape}: give it (..., inputs)")
        return np.ascontiguousarray(values)


class Network:
    """One network as a fitness function sees it."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self.seed, self.inputs, self.outputs = networks.seed, networks.inputs, networks.outputs

    def __call__(self, x: Any) -> Floats:
        """Outputs (rows, outputs) for rows (rows, inputs); (outputs,) for one row."""
        values = np.asarray(x, dtype=np.float32)
        made: Floats = self._networks(np.atleast_2d(values))[0]
        return made[0] if values.ndim == 1 else made

    def step(self, x: Any) -> Floats:
        """Outputs (outputs,) for one input (inputs,); a recurrent network remembers."""
        made: Floats = self._networks.step(np.asarray(x, dtype=np.float32)[None])[0]
        return made

    def reset(self) -> None:
        """A recurrent network forgets."""
        self._networks.reset()


class OwnFitness(PlayTask):
    """What the user's function returns, by name; a bare number or array is the fitness."""

    def __init__(self, settings: FitnessSettings) -> None:
        imported.check(settings.function, "task.function: ")
        self._settings = settings

    def shape(self) -> TaskShape:
        return TaskShape((self._settings.inputs,), self._settings.outputs, "control")

    def rollout(self, programs: Programs, seed: int, threads: int = 1) -> Played:
        """What the function says. Raises RecipeError where it raises or returns what is no value for a network."""
        with lend_global_streams(seed, "fitness"):
            if self._settings.takes == "population":
                return self._of_population(Networks(programs, seed, threads))
            return self._of_each(Networks(programs, seed))

    def test(self, programs: Programs, seed: int) -> Played:
        """The same function with another seed."""
        return self.rollout(programs, seed_of(seed, "test"), native.cores())

    def _call(self, networks: Networks | Network) -> Any:
        return imported.load(self._settings.function)(networks, **self._settings.arguments)

    def _of_population(self, networks: Networks) -> Played:
        name = self._settings.function
        try:
            returned = self._call(networks)
        except EvonasError:
            raise
        except (Exception, SystemExit) as error:
            raise RecipeError(f"{name} {_raised(error)}: correct the function or `arguments`") from error
        named = returned if isinstance(returned, Mapping) else {"fitness": returned}
        return Played({str(key): _column(value, len(networks), f"{name}: {key}") for key, value in named.items()})

    def _of_each(self, networks: Networks) -> Played:
        """One network's exception or wrong value is its own failure, unless all of them have one."""
        values: dict[str, Array] = {}
        failed: dict[int, str] = {}
        for i, network in enumerate(networks):
            try:
                returned = self._call(network)
                named = returned if isinstance(returned, Mapping) else {"fitness": returned}
                for key, value in named.items():
                    values.setdefault(str(key), np.full(len(networks), np.nan))[i] = _number(value, str(key))
            except EvonasError:
                raise
            except (Exception, SystemExit) as error:
                failed[i] = f"{self._settings.function} {_raised(error)}"
        if failed and len(failed) == len(networks):
            raise RecipeError(f"{failed[0]}, for every network: correct the function or `arguments`")
        return Played(values, failed)


def _raised(error: BaseException) -> str:
    """`raised ValueError: why, at mine.py, line 7`, or what a value was that is none."""
    if isinstance(error, _NoNumber):
        return str(error)
    # where the user's code went wrong, even if it was evonas that refused what it was given
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    where = f", at {own[-1].filename}, line {own[-1].lineno}" if own else ""
    return f"raised {type(error).__name__}: {_text(error)}".removesuffix(": ") + where


def _text(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())[:200]
    except Exception:
        return "its message cannot be shown"


class _NoNumber(Exception):
    """What a function returned is no number."""


def _number(value: Any, key: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _NoNumber(f"returned {key} {str(value)[:60]!r} ({type(value).__name__}), not a number") from None


def _column(value: Any, count: int, what: str) -> Array:
    """One number per network, (n,) float64, or RecipeError."""
    cure = f"return an array of shape ({count},), one number for each network"
    try:
        column = None if np.iscomplexobj(value) else np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        column = None
    if column is None or value is None:  # NumPy takes None for a number
        raise RecipeError(f"{what} is {type(value).__name__}, not numbers: {cure}")
    if column.shape != (count,):
        raise RecipeError(f"{what} has shape {column.shape} for {count} networks: {cure}")
    return column
