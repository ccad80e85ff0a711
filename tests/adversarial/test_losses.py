"""Each loss is its formula, each scale weighs the same, and a margin is positive where the discriminator is right."""

from __future__ import annotations

import math

import pytest
import torch

from compress.adversarial import LOSSES
from compress.errors import DataError

R, F = torch.tensor([[0.5], [2.0]]), torch.tensor([[-0.25], [1.0]])


def sp(u: float) -> float:
    return math.log1p(math.exp(u))


EXPECTED = {
    "hinge": ((0.5 + 0) / 2 + (0.75 + 2) / 2, -(0.75) / 2),
    "non_saturating": ((sp(-0.5) + sp(-2)) / 2 + (sp(-0.25) + sp(1)) / 2, (sp(0.25) + sp(-1)) / 2),
    "wasserstein": (-1.25 + 0.375, -0.375),
    "least_squares": ((0.25 + 1) / 2 + (0.0625 + 1) / 2, (1.5625 + 0) / 2),
    "relativistic": ((sp(-0.75) + sp(-1)) / 2, (sp(0.75) + sp(1)) / 2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_formula(name: str) -> None:
    loss = LOSSES[name]
    discriminator, generator = EXPECTED[name]
    assert loss.discriminator(R, F).item() == pytest.approx(discriminator)
    assert loss.generator(R, F).item() == pytest.approx(generator)


@pytest.mark.parametrize("name", LOSSES)
def test_scales_weigh_the_same_whatever_their_size(name: str) -> None:
    loss = LOSSES[name]
    small, large = (
        (torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2)),
        (torch.randn(2, 1, 9, 9), torch.randn(2, 1, 9, 9)),
    )
    both = [[s, g] for s, g in zip(small, large, strict=True)]
    for side in ("discriminator", "generator"):
        value = getattr(loss, side)
        assert value(*both).item() == pytest.approx((value(*small).item() + value(*large).item()) / 2, rel=1e-5)


def test_only_losses_without_a_boundary_ignore_a_shift_of_all_logits() -> None:
    moved = {n: abs(loss.discriminator(R + 3, F + 3) - loss.discriminator(R, F)).item() for n, loss in LOSSES.items()}
    assert {name for name, change in moved.items() if change < 1e-6} == {"wasserstein", "relativistic"}


@pytest.mark.parametrize("name", LOSSES)
def test_margins_are_positive_where_the_discriminator_is_right(name: str) -> None:
    of_real, of_fake = LOSSES[name].margins([torch.tensor([[2.0], [2.0]])], [torch.tensor([[-1.0], [3.0]])])
    relative = name in ("wasserstein", "relativistic")
    assert of_real.sign().tolist() == ([1, -1] if relative else [1, 1])
    assert of_fake.sign().tolist() == [1, -1]


def test_least_squares_draws_the_line_halfway_between_its_targets() -> None:
    of_real, of_fake = LOSSES["least_squares"].margins(torch.tensor([0.4]), torch.tensor([0.4]))
    assert of_real.item() < 0 < of_fake.item()


def test_a_generator_is_pushed_up_by_every_loss() -> None:
    for loss in LOSSES.values():
        fake = torch.zeros(4, 1, requires_grad=True)
        (slope,) = torch.autograd.grad(loss.generator(torch.ones(4, 1), fake), fake)
        assert bool((slope < 0).all())


def test_pairs_of_different_size_are_refused() -> None:
    with pytest.raises(DataError, match="pairs real and fake samples"):
        LOSSES["relativistic"].discriminator(torch.zeros(3, 1), torch.zeros(4, 1))
    with pytest.raises(DataError, match="give the real logits too"):
        LOSSES["relativistic"].generator(None, torch.zeros(4, 1))
