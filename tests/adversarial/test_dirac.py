"""The Dirac-GAN (Mescheder et al. 2018): one real point at 0, one fake at theta, D(x) = psi x; what converges?

The radii are those of a separate simulation with the gradients written out by hand: simultaneous gradient descent from
(1, 1) at rate 0.05, the largest of the last 500 of 4000 steps.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from compress.adversarial import LOSSES, Regularizer, clip_weights

RATE, REAL = 0.05, torch.zeros(1, 1)


class Slope(nn.Module):
    """D(x) = psi x."""

    def __init__(self) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.psi * x


def radius(loss_name: str, penalty: Regularizer | None = None, clip: float = 0.0, steps: int = 4000) -> float:
    """The largest distance from the equilibrium over the last 500 steps."""
    loss, judge, theta = LOSSES[loss_name], Slope(), torch.ones(1, 1, requires_grad=True)
    largest = 0.0
    for step in range(steps):
        for_theta = loss.generator(judge(REAL), judge(theta))
        (theta_slope,) = torch.autograd.grad(for_theta, theta)
        for_psi = loss.discriminator(judge(REAL), judge(theta.detach()))
        if penalty is not None:
            for_psi = for_psi + penalty(judge, REAL, theta)
        (psi_slope,) = torch.autograd.grad(for_psi, judge.psi)
        with torch.no_grad():
            theta -= RATE * theta_slope
            judge.psi -= RATE * psi_slope
        if clip:
            clip_weights(judge, clip)
        if step >= steps - 500:
            largest = max(largest, math.hypot(theta.item(), judge.psi.item()))
    return largest


@pytest.mark.parametrize("loss", ["non_saturating", "relativistic"])
def test_a_loss_alone_goes_in_circles(loss: str) -> None:
    assert radius(loss) == pytest.approx(0.34, abs=0.01)


@pytest.mark.parametrize(
    ("loss", "penalty"),
    [("non_saturating", "r1"), ("non_saturating", "r2"), ("relativistic", "zero_centered"), ("wasserstein", "r1")],
)
def test_with_zero_centered_gradients_it_arrives(loss: str, penalty: str) -> None:
    assert radius(loss, Regularizer(penalty, weight=0.5), steps=1500) < 1e-3


def test_a_critic_leaves_for_good() -> None:
    assert radius("wasserstein") == pytest.approx(209, abs=1)


def test_a_clipped_critic_circles_at_the_clip() -> None:
    assert radius("wasserstein", clip=1.0, steps=1000) == pytest.approx(1.07, abs=0.02)


def test_a_critic_with_unit_gradients_does_not_arrive() -> None:
    assert radius("wasserstein", Regularizer("gradient_penalty", weight=0.5), steps=2000) == pytest.approx(
        1.53, abs=0.02
    )
