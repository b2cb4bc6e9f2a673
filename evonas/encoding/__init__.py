"""The search spaces: a table of their settings, and `build`, which binds one to a task's shapes. Torch-free."""

from __future__ import annotations

from evonas import imported
from evonas.core import Encoding, Settings
from evonas.encoding.cell import CellEncoding, CellSettings
from evonas.encoding.dag import Bounds, DagEncoding, DagSettings, Initial
from evonas.encoding.variation import NeatSettings
from evonas.imported import Imported

__all__ = ["TABLE", "ImportedEncoding", "build"]

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
