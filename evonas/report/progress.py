"""How far a run is, as a value: what the loop tells its observer and the live view shows. Imports only the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evonas.core import Objective


@dataclass(frozen=True, slots=True)
class Progress:
    """One message of a run to its observer.

    `kind` says when: at the `start`, after estimates of a `batch` arrived, after a `generation` was committed, at the
    `end`; `test` after final trainings arrived, and after their epochs where the pool tells of them, `share` being what
    is done of their work. `generation` counts completed generations; `done` of `total` estimates of the batch under way
    are there. `best` and `front` hold objective values in their own units, `front` in the order of `objectives`;
    `reason` is why the last estimate failed. `hypervolume` is None before the first front. Times in seconds; `eta` is
    None while there is nothing to reckon it from."""

    kind: Literal["start", "batch", "generation", "test", "end"]
    run: str
    generation: int
    generations: int
    folder: str = ""
    objectives: tuple[Objective, ...] = ()
    done: int = 0
    total: int = 0
    evaluations: int = 0
    failures: int = 0
    best: Mapping[str, float] = field(default_factory=dict)
    hypervolume: float | None = None
    front: tuple[tuple[float, ...], ...] = ()
    species: int = 0
    workers: int = 1
    share: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    eta: float | None = None
