"""How far one array is from another: largest error, mean error, and SQNR in dB."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from compress.errors import CheckFailed

# JSON has no infinity. Equal arrays have an infinite SQNR; it is written as this cap, which unequal float32 arrays
# cannot reach (one last bit of difference in a million elements is 200 dB).
EXACT_DB = 300.0


@dataclass(frozen=True, slots=True)
class Parity:
    """The distance of an output from its reference, all finite numbers.

    `max_error` and `mean_error` are absolute, in the output's own unit; `max_relative_error` is `max_error` over the
    largest magnitude of the reference. `sqnr_db` is 10 log10(signal power / error power), within -300..300; 300
    means equal. Where the output holds NaN or infinities, `finite` is False, the SQNR -300 and the errors are those
    of its finite elements.
    """

    max_error: float
    sqnr_db: float
    mean_error: float
    max_relative_error: float
    finite: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON data."""
        return asdict(self)


def compare(reference: np.ndarray, output: np.ndarray) -> Parity:
    """The distance of `output` from `reference`, computed in float64.

    Raises:
        CheckFailed: the shapes differ, or the reference itself is empty or not finite.
    """
    if reference.shape != output.shape:
        raise CheckFailed(f"the artifact gives shape {output.shape} where the model gives {reference.shape}")
    wanted, given = reference.astype(np.float64), output.astype(np.float64)
    if wanted.size == 0 or not np.isfinite(wanted).all():
        raise CheckFailed("the reference output is empty, NaN or infinite: there is nothing to compare with")
    sound = np.isfinite(given)
    error = np.abs(np.where(sound, given, wanted) - wanted)
    largest = float(error.max())
    finite = bool(sound.all())
    return Parity(
        max_error=largest,
        sqnr_db=_sqnr_db(float((wanted**2).sum()), float((error**2).sum())) if finite else -EXACT_DB,
        mean_error=float(error.mean()),
        max_relative_error=_ratio(largest, float(np.abs(wanted).max())),
        finite=finite,
    )


def _sqnr_db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return EXACT_DB
    if signal == 0.0:
        return -EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10.0 * math.log10(signal / noise)))


def _ratio(error: float, scale: float) -> float:
    """The error over the scale; over a reference that is zero everywhere, the error itself."""
    return error / scale if scale > 0.0 else error
