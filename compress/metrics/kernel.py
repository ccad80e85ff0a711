"""The kernel distance of two sets of images, as a named backbone sees them: unbiased, so small sets can be compared.

Legend: N and M rows (images), D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.metrics.rows import checked_rows

_BLOCK_ROWS = 1024  # at a time, so that 50,000 images do not ask for a matrix of 20 GB


def kernel_distance(first_ND: Tensor, second_MD: Tensor) -> float:
    """The squared maximum mean discrepancy under the kernel (x . y / D + 1)^3 (Binkowski et al., 2018).

    The U-statistic over all pairs of different rows, with no subsets drawn. Where both sets come from one distribution
    it is 0 on average, so single figures may lie below 0; this holds for any number of rows. Like the Fréchet
    distance it depends on the backbone, and is given with the backbone's name.

    Raises:
        DataError: a set has fewer than two rows, the sets have different widths, or a feature is not finite.
    """
    first, second = checked_rows(first_ND, second_MD, 2, "the kernel distance")
    across = _kernel_sum(first, second) / (len(first) * len(second))
    return _mean_of_pairs(first) + _mean_of_pairs(second) - 2 * across


def _mean_of_pairs(rows_ND: Tensor) -> float:
    """The kernel's mean over all pairs of different rows."""
    own_N = _kernel(rows_ND.square().sum(1), rows_ND.shape[1])
    return (_kernel_sum(rows_ND, rows_ND) - float(own_N.sum())) / (len(rows_ND) * (len(rows_ND) - 1))


def _kernel_sum(first_ND: Tensor, second_MD: Tensor) -> float:
    sums = [_kernel(block @ second_MD.T, first_ND.shape[1]).sum() for block in first_ND.split(_BLOCK_ROWS)]
    return float(torch.stack(sums).sum())


def _kernel(products: Tensor, width: int) -> Tensor:
    return (products / width + 1) ** 3
