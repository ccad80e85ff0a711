"""Fidelity and diversity apart: are the made images like real ones, and is every kind of real image made?

The Fréchet and kernel distances mix both. All four figures here count neighbours among feature rows, so they depend on
the backbone and on the number of rows: compare only figures of one backbone and of as many rows.

Legend: N real rows, M made rows, D features, k neighbours. A ball around a row reaches to its k-th nearest neighbour
in its own set, and includes its rim: where images are copies of each other, a copy more counts as inside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.errors import DataError
from compress.metrics.rows import checked_rows

_BLOCK_ROWS = 512  # distances to this many rows at a time


def precision_recall(real_ND: Tensor, made_MD: Tensor, k: int = 3) -> tuple[float, float]:
    """(precision, recall) as shares in [0, 1] (Kynkäänniemi et al., 2019).

    Precision is the share of made rows inside the ball of any real row; recall the share of real rows inside the ball
    of any made row. One outlier has a large ball, and both figures then flatter: see `density_coverage`.

    Raises:
        DataError: a set has k rows or fewer, the sets have different widths, or a feature is not finite.
    """
    real, made = _checked(real_ND, made_MD, k, "precision and recall")
    return _share_inside(made, real, k), _share_inside(real, made, k)


def density_coverage(real_ND: Tensor, made_MD: Tensor, k: int = 5) -> tuple[float, float]:
    """(density, coverage) of the made rows around the real ones (Naeem et al., 2020).

    Density is the mean number of real balls that a made row is in, over k: 1 on average where both sets come from one
    distribution, more where the made rows crowd where real ones are dense. Coverage is the share of real balls with a
    made row in them. Only real rows have balls here, so a stray made row spoils nothing.

    Raises:
        DataError: a set has k rows or fewer, the sets have different widths, or a feature is not finite.
    """
    real, made = _checked(real_ND, made_MD, k, "density and coverage")
    radii_N = _radii(real, k)
    inside, met_N = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for block_BD in made.split(_BLOCK_ROWS):
        inside_NB = _distances(real, block_BD) <= radii_N.unsqueeze(1)
        inside += int(inside_NB.sum())
        met_N |= inside_NB.any(1)
    return inside / (k * len(made)), float(met_N.double().mean())


def _checked(real: Tensor, made: Tensor, k: int, figure: str) -> tuple[Tensor, Tensor]:
    if k < 1:
        raise DataError(f"{figure} look at k = {k} neighbours; give at least 1")
    return checked_rows(real, made, k + 1, f"{figure} with k = {k}")


def _share_inside(rows_ND: Tensor, centres_MD: Tensor, k: int) -> float:
    """The share of rows inside the ball of at least one centre."""
    radii_M = _radii(centres_MD, k)
    found = [(_distances(block, centres_MD) <= radii_M).any(1) for block in rows_ND.split(_BLOCK_ROWS)]
    return float(torch.cat(found).double().mean())


def _radii(rows_ND: Tensor, k: int) -> Tensor:
    """How far each row is from its k-th nearest neighbour in the same set: (N,). The row itself, at 0, is none."""
    nearest = [_distances(block, rows_ND).topk(k + 1, largest=False).values for block in rows_ND.split(_BLOCK_ROWS)]
    return torch.cat(nearest)[:, -1]


def _distances(first_ND: Tensor, second_MD: Tensor) -> Tensor:
    """Euclidean distances (N, M), pair by pair: by a matrix product, equal rows would not be at 0."""
    return torch.cdist(first_ND, second_MD, compute_mode="donot_use_mm_for_euclid_dist")
