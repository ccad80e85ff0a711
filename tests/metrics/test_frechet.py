"""The Fréchet distance where its value is known, its two parts one by one, and against two other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from compress.errors import DataError
from compress.metrics import Features, figure_name, frechet_distance

ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 7.0))


def test_a_set_has_no_distance_from_itself_in_any_order() -> None:
    assert frechet_distance(ROWS, ROWS) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(ROWS, ROWS.flip(0)) == pytest.approx(0.0, abs=1e-6)


def test_moving_a_set_costs_the_square_of_the_way() -> None:
    way = torch.tensor([3.0, 0, 0, 4.0, 0, 0])
    assert frechet_distance(ROWS, ROWS + way) == pytest.approx(25.0, rel=1e-5)


def test_stretching_a_set_costs_its_spread() -> None:
    """With C2 = k^2 C1 and equal means the distance is (k - 1)^2 tr C1."""
    centred = ROWS - ROWS.mean(0)
    wanted = 4.0 * float(centred.double().var(0).sum())
    assert frechet_distance(centred, 3 * centred) == pytest.approx(wanted, rel=1e-5)


def test_spreads_that_do_not_commute() -> None:
    """Against the definition, with the square root of the product itself."""
    other = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)) @ torch.randn(
        6, 6, generator=torch.Generator().manual_seed(2)
    )
    first, second = torch.cov(ROWS.double().T), torch.cov(other.double().T)
    shared = torch.linalg.eigvals(first @ second).sqrt().sum().real
    means = (ROWS.double().mean(0) - other.double().mean(0)).square().sum()
    wanted = float(means + first.trace() + second.trace() - 2 * shared)
    assert frechet_distance(ROWS, other) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(other, ROWS) == pytest.approx(wanted, rel=1e-6)


def test_fewer_images_than_features_still_give_a_figure() -> None:
    assert frechet_distance(ROWS[:3], ROWS[:3]) == pytest.approx(0.0, abs=1e-4)


class Rows(nn.Identity):
    """A backbone whose images are feature rows already."""

    num_features = 6


def test_against_two_other_implementations() -> None:
    other = torch.randn(70, 6, generator=torch.Generator().manual_seed(3)).exp()
    found = frechet_distance(ROWS, other)
    theirs = FrechetInceptionDistance(feature=Rows())
    theirs.update(ROWS, real=True)
    theirs.update(other, real=False)
    assert found == pytest.approx(float(theirs.compute()), rel=1e-5)
    first, second = ROWS.double().numpy(), other.double().numpy()
    c1, c2 = np.cov(first.T), np.cov(second.T)
    shared = np.trace(scipy.linalg.sqrtm(c1 @ c2).real)
    wanted = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(c1) + np.trace(c2) - 2 * shared
    assert found == pytest.approx(float(wanted), rel=1e-9)


def test_a_figure_is_named_by_its_backbone() -> None:
    features = Features("mean colours", lambda images: images.mean((2, 3)))
    assert figure_name("kernel distance", features) == "kernel distance on mean colours"


def test_what_has_no_spread_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2 images on either side, not 1 and 40"):
        frechet_distance(ROWS[:1], ROWS)
    with pytest.raises(DataError, match="of one width"):
        frechet_distance(ROWS, ROWS[:, :3])
    broken = ROWS.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(DataError, match="1 feature rows of the second set hold NaN"):
        frechet_distance(ROWS, broken)
