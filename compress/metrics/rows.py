"""What every figure on two sets of feature rows asks of them.

Legend: N and M rows (images), D features.
"""

from __future__ import annotations

from torch import Tensor

from compress.errors import DataError


def checked_rows(first_ND: Tensor, second_MD: Tensor, least: int, figure: str) -> tuple[Tensor, Tensor]:
    """Both sets in float64, ready for `figure` ("the Fréchet distance"), which needs `least` rows on either side.

    Raises:
        DataError: the sets are no rows of one width, a set is too small, or a feature is NaN or infinite.
    """
    if first_ND.dim() != 2 or second_MD.dim() != 2 or first_ND.shape[1] != second_MD.shape[1]:
        shapes = f"{tuple(first_ND.shape)} and {tuple(second_MD.shape)}"
        raise DataError(f"{figure} needs two sets of feature rows of one width, not {shapes}")
    counts = (len(first_ND), len(second_MD))
    if min(counts) < least:
        raise DataError(f"{figure} needs at least {least} images on either side, not {counts[0]} and {counts[1]}")
    for rows, which in ((first_ND, "first"), (second_MD, "second")):
        broken = int((~rows.isfinite()).any(1).sum())
        if broken:
            raise DataError(f"{broken} feature rows of the {which} set hold NaN or infinities: {figure} has no value")
    return first_ND.double(), second_MD.double()
