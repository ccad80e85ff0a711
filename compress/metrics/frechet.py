"""The Fréchet distance of two sets of images, as a named backbone sees them.

The figure depends on the backbone as much as on the images: it is always given with the backbone's name, and it is
comparable with no figure taken on another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.errors import DataError


@dataclass(frozen=True)
class Features:
    """A backbone that turns images, RGB in [0, 1] (N, 3, H, W), into feature rows (N, D); `name` goes into reports."""

    name: str
    compute: Callable[[Tensor], Tensor]


def frechet_distance(first_ND: Tensor, second_ND: Tensor) -> float:
    """The squared Fréchet distance of the two Gaussians that fit the rows (Dowson and Landau, 1982).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in the features' own unit squared; 0 where mean and covariance agree.
    With fewer rows than features the covariances are singular: the figure is defined, but biased upwards.

    Raises:
        DataError: a set has fewer than two rows, or the sets have different widths.
    """
    if first_ND.dim() != 2 or second_ND.dim() != 2 or first_ND.shape[1] != second_ND.shape[1]:
        shapes = f"{tuple(first_ND.shape)} and {tuple(second_ND.shape)}"
        raise DataError(f"the Fréchet distance needs two sets of feature rows of one width, not {shapes}")
    if min(len(first_ND), len(second_ND)) < 2:
        raise DataError("the Fréchet distance needs at least two images on either side; give it more")
    first, second = first_ND.double(), second_ND.double()
    root = _root(_covariance(first))
    # tr (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2).
    eigenvalues = torch.linalg.eigvalsh(root @ _covariance(second) @ root).clamp(min=0)
    shared = eigenvalues.sqrt().sum()
    spread = first.var(0).sum() + second.var(0).sum() - 2 * shared
    return float((first.mean(0) - second.mean(0)).square().sum() + spread.clamp(min=0))


def _covariance(rows_ND: Tensor) -> Tensor:
    centred = rows_ND - rows_ND.mean(0)
    return centred.T @ centred / (len(rows_ND) - 1)


def _root(matrix_DD: Tensor) -> Tensor:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix_DD)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
