"""The Fréchet distance of two sets of images, as a named backbone sees them.

The figure depends on the backbone as much as on the images: it is always given with the backbone's name, and it is
comparable with no figure taken on another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compress.metrics.rows import checked_rows

# What is measured on feature rows. "FID" and "KID" are not among them: these names are those of one backbone's figures.
Statistic = Literal["Fréchet distance", "kernel distance", "precision", "recall", "density", "coverage"]


@dataclass(frozen=True)
class Features:
    """A backbone that turns images, RGB in [0, 1] (N, 3, H, W), into feature rows (N, D); `name` goes into reports."""

    name: str
    compute: Callable[[Tensor], Tensor]


def figure_name(statistic: Statistic, features: Features) -> str:
    """What a report calls a figure on feature rows: "Fréchet distance on AlexNet conv5 (ImageNet)"."""
    return f"{statistic} on {features.name}"


def frechet_distance(first_ND: Tensor, second_MD: Tensor) -> float:
    """The squared Fréchet distance of the two Gaussians that fit the rows (Dowson and Landau, 1982).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in the features' own unit squared; 0 where mean and covariance agree.
    It is biased upwards, by about a constant over the number of rows: compare figures of as many rows only. With fewer
    rows than features the covariances are singular; the figure is still defined, and that bias is most of it.

    Raises:
        DataError: a set has fewer than two rows, the sets have different widths, or a feature is not finite.
    """
    first, second = checked_rows(first_ND, second_MD, 2, "the Fréchet distance")
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
