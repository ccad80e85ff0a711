"""The entropy estimate grows with spread and with modes; the code it is taken in can be made smooth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.adversarial import Adversary, AdversarySettings, Discriminator, ReplayEntropy
from compress.adversarial.entropy import REPLAY, code
from compress.adversarial.regularizers import Judge, manifold


def estimate(old: Tensor, new: Tensor) -> float:
    entropy = ReplayEntropy(old.shape[1])
    entropy.remember(old)
    return entropy(new).item()


def grid(modes: int, count: int = 1024) -> Tensor:
    """Points around the first so many places of a 5 by 5 grid."""
    picks = torch.randint(modes, (count,))
    return torch.stack([picks % 5, picks // 5], 1).float() + 0.02 * torch.randn(count, 2)


def test_it_grows_by_the_log_of_the_variance() -> None:
    old, new = torch.randn(1024, 3), torch.randn(1024, 3)
    for scale in (0.5, 2.0, 8.0):
        grown = estimate(scale * old, scale * new) - estimate(old, new)
        assert grown == pytest.approx(2 * torch.tensor(scale).log().item(), abs=1e-3)


def test_it_grows_with_the_modes_of_a_grid() -> None:
    # With fewer samples per mode each is further from its neighbour.
    found = [estimate(grid(modes), grid(modes)) for modes in (1, 5, 25)]
    assert found[0] < found[1] < found[2]


def test_a_sample_like_none_before_is_paid_most_and_moves_away() -> None:
    entropy = ReplayEntropy(2)
    assert entropy(torch.ones(4, 2)).item() == 0.0
    entropy.remember(torch.zeros(10, 2))
    x = torch.tensor([[0.1, 0.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(entropy(x), x)
    assert slope[0, 0] > 0 and slope[0, 1] == 0


def test_the_replay_keeps_the_latest() -> None:
    entropy = ReplayEntropy(1)
    for start in range(0, 1500, 100):
        entropy.remember(torch.arange(start, start + 100.0)[:, None])
    assert sorted(entropy.codes_RC.flatten().tolist()) == list(range(1500 - REPLAY, 1500))


class Bright(Discriminator):
    """Reads the brightness of the left and the right half, bent by a power."""

    def __init__(self, power: float) -> None:
        super().__init__([nn.Sequential(nn.AdaptiveAvgPool2d((1, 2)))], [nn.Conv2d(1, 1, 1)], [1])
        self.power = power

    def inputs(self, x: Tensor) -> list[Tensor]:
        return [x.abs() ** self.power]


def test_a_linear_code_that_a_small_move_leaves_is_smooth() -> None:
    x, y = torch.rand(64, 1, 16, 16) * torch.rand(64, 1, 1, 1), torch.zeros(64, 1, 16, 16)
    x[..., :4], x[..., -4:], x[:, :, :4], x[:, :, -4:] = 0, 0, 0, 0  # nothing to lose at the border
    noise = 0.05**2  # of the target
    assert manifold(Judge(Bright(1.0)), x, y).item() == pytest.approx(noise, rel=0.5)
    assert manifold(Judge(Bright(3.0)), 10 * x, y).item() > 10 * noise


def test_the_generator_is_paid_and_the_fakes_are_remembered() -> None:
    settings = AdversarySettings(loss="wasserstein", penalty="none", entropy_weight=2.0)
    adversary, x = Adversary(Bright(1.0), settings), torch.rand(4, 1, 4, 4)
    plain = adversary.generator_loss(x, x)
    adversary.discriminator_loss(0.5 * x, x)
    assert int(adversary.entropy.seen) == 4
    expected = adversary.entropy(code(adversary.discriminator.hidden(x)))
    assert adversary.generator_loss(x, x).item() == pytest.approx((plain - 2.0 * expected).item(), rel=1e-5)
