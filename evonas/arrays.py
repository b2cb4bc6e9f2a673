"""Named arrays with notes as bytes: the safetensors format, and never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonas.core import DataError, Json, dumps, loads


def to_bytes(arrays: Mapping[str, NDArray[Any]], notes: Json = None) -> bytes:
    """Equal arrays and notes give equal bytes: the notes are one entry, since safetensors orders several at will."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(one) for name, one in arrays.items()}, {"notes": dumps(notes)})


def from_bytes(data: bytes) -> tuple[dict[str, NDArray[Any]], Json]:
    """Arrays and notes again; raises DataError for bytes that are none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        return arrays, loads(loads(data[8 : 8 + size])["__metadata__"]["notes"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{len(data)} bytes are no arrays of a run: {str(error)[:100]}") from None


def checked(arrays: Mapping[str, NDArray[Any]], name: str, dtype: type[np.generic]) -> NDArray[Any]:
    """One of the arrays, if it is there and of this type; else DataError."""
    found = arrays.get(name)
    if found is None or found.dtype != dtype:
        raise DataError(f"array {name!r} of a run is missing or no {np.dtype(dtype)}")
    return found
