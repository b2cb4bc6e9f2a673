"""The search spaces: a table of their settings, and `build`, which binds one to a task's shapes. Torch-free."""

from __future__ import annotations

from evonas.core import Encoding, Settings
from evonas.encoding.dag import DagEncoding, DagSettings

__all__ = ["TABLE", "build"]

TABLE: dict[str, type[Settings]] = {"dag": DagSettings}
"""Settings of every encoding by its `kind`."""


def build(settings: Settings, input_shape: tuple[int, ...], outputs: int) -> Encoding:
    """The encoding for inputs of (channels, height, width) or (features,) and a number of outputs."""
    if isinstance(settings, DagSettings):
        return DagEncoding(settings, input_shape, outputs)
    raise TypeError(f"settings of {type(settings).__name__} name no encoding; known: {', '.join(TABLE)}")
