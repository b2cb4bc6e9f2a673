"""The search spaces: a table of their settings, and `build`, which binds one to a task's shapes. Torch-free."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from evonas import imported
from evonas.core import Encoding, Genome, Json, RecipeError, Settings, dumps, loads
from evonas.encoding.cell import CellEncoding, CellSettings
from evonas.encoding.dag import Bounds, DagEncoding, DagSettings, Initial
from evonas.encoding.variation import NeatSettings
from evonas.imported import Imported

__all__ = ["TABLE", "ImportedEncoding", "Unread", "build", "readable"]

TABLE: dict[str, type[Settings]] = {"cell": CellSettings, "dag": DagSettings, "neat": NeatSettings}
"""Settings of every encoding by its `kind`."""


class ImportedEncoding(Imported):
    """A user's own encoding, called with its settings, the input's shape and the number of outputs."""

    bounds: Bounds = Bounds()
    """Limits at birth."""
    initial: Initial = ()
    """Genomes to begin with: paths of genome files that the encoding reads, or runs of it (`run:NAME`)."""


def build(settings: Settings, input_shape: tuple[int, ...], outputs: int) -> Encoding:
    """The encoding for inputs of (channels, height, width) or (features,) and a number of outputs."""
    if isinstance(settings, DagSettings):
        return DagEncoding(settings, input_shape, outputs)
    if isinstance(settings, CellSettings):
        return CellEncoding(settings, input_shape, outputs)
    if isinstance(settings, NeatSettings):
        from evonas.encoding.neat import NeatEncoding

        return NeatEncoding(settings, input_shape, outputs)
    if isinstance(settings, ImportedEncoding):
        made: Encoding = imported.load(settings.kind)(settings.settings, input_shape, outputs)
        return made
    raise TypeError(f"settings of {type(settings).__name__} name no encoding; known: {', '.join(TABLE)}")


def readable(settings: Settings, input_shape: tuple[int, ...], outputs: int) -> Encoding | Unread:
    """What shows a run's genomes: its encoding or, where that is code that was not granted, one that builds nothing."""
    if isinstance(settings, ImportedEncoding) and not imported.is_granted(settings.kind):
        return Unread(settings.kind)
    return build(settings, input_shape, outputs)


@dataclass(frozen=True)
class UnreadGenome:
    """A genome that nobody here understands, as it was stored."""

    text: str

    @cached_property
    def key(self) -> str:
        """BLAKE2b of the content, 32 hexadecimal digits."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Unread:
    """Stands for an encoding whose code may not run here: genomes are kept as they are, and no network is built."""

    name: str

    def from_json(self, data: Json) -> UnreadGenome:
        return UnreadGenome(dumps(data))

    def to_json(self, genome: Genome) -> Json:
        return loads(genome.text)

    def summary(self, genome: Genome) -> str:
        """That there is nothing to say of it."""
        return "code not allowed"

    def decode(self, genome: Genome) -> NoReturn:
        """Raises RecipeError: only the encoding's own code knows the network."""
        raise RecipeError(imported.refusal(self.name))

    def distance(self, a: Genome, b: Genome) -> NoReturn:
        """Raises RecipeError: only the encoding's own code knows the distance."""
        raise RecipeError(imported.refusal(self.name))
