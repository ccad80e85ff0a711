"""One tensor inside an artifact while it runs.

A runtime module reads them out of a copy of the file whose intermediate tensors are outputs too. That one way serves
all runtimes and keeps their kernels and delegates. What it cannot keep is fusing across a tensor that is now an
output: an op that only a fused kernel computes wrongly comes out right in the copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOT_FLOAT = np.zeros(0, np.float32)
"""The value of a tensor of plain integers: it is named for what it links, and cannot be compared."""


@dataclass(frozen=True, slots=True)
class Intermediate:
    """One tensor of an artifact: what it held, in float32, in the artifact's own layout.

    `op` is the artifact's op that made it ("Conv", "CONV_2D", "XNNConv2d"), "" for a constant; `reads` names the
    tensors which that op read. Integer codes are given as the numbers they stand for, by the file's own scales; other
    integers as NOT_FLOAT.
    """

    name: str
    op: str
    reads: tuple[str, ...]
    value: np.ndarray
    constant: bool = False


def decoded(codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, axis: int) -> np.ndarray:
    """The float32 numbers that integer codes stand for: (code - zero point) * scale, per slice of `axis` or for all."""

    def spread(values: np.ndarray) -> np.ndarray:
        shape = [-1 if dim == axis and np.size(values) > 1 else 1 for dim in range(codes.ndim)]
        return np.asarray(values, np.float64).reshape(shape)

    return np.asarray((codes.astype(np.float64) - spread(zero_points)) * spread(scales), np.float32)
