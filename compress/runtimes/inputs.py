"""What a file takes: the shape and type of each input, and arrays that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compress.errors import InputError

_SEED = 0


@dataclass(frozen=True, slots=True)
class InputKind:
    """One input of a file. `assumed` says that a size was left open in the file and stands here as 1."""

    shape: tuple[int, ...]
    dtype: str  # as numpy names it: "float32"
    assumed: bool = False

    def __str__(self) -> str:
        """As `--input` has it: "1x3x224x224", or "1x128:int64"."""
        shape = "x".join(map(str, self.shape)) or "1"
        return shape if self.dtype == "float32" else f"{shape}:{self.dtype}"


def as_given(value: np.ndarray, wanted: str = "float32") -> np.ndarray:
    """The array as a runtime takes it: contiguous; integers, booleans and halves as they are, all else as `wanted`.

    `wanted` is float64 where the file says so; of any other type float32 is right.
    """
    plain = value.dtype.kind in "biu" or value.dtype == np.float16
    other = np.float64 if wanted == "float64" else np.float32
    return np.ascontiguousarray(value, value.dtype if plain else other)


def random_inputs(kinds: Sequence[InputKind]) -> list[np.ndarray]:
    """One random array per input, the same at every call.

    Floats are normal; integers of 8 bits fill their range; wider ones are 0 or 1, which are legal indices of any
    table.

    Raises:
        InputError: an input holds something else, such as text.
    """
    for kind in kinds:
        if not _is_number(kind.dtype):
            raise InputError(f"an input holds {kind.dtype}: values are made up for floats, integers and booleans only")
    generator = np.random.default_rng(_SEED)
    return [_random(kind, generator) for kind in kinds]


def _is_number(dtype: str) -> bool:
    """Whether numpy has this type, as floats, integers or booleans."""
    try:
        return np.dtype(dtype).kind in "fiub"
    except TypeError:
        return False


def _random(kind: InputKind, generator: np.random.Generator) -> np.ndarray:
    dtype: np.dtype[Any] = np.dtype(kind.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(kind.shape).astype(dtype)
    if dtype.itemsize > 1 or dtype.kind == "b":
        return generator.integers(0, 2, kind.shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max + 1, kind.shape).astype(dtype)
