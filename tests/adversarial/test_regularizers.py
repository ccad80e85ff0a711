"""Penalties equal their closed forms; rare application keeps the expected gradient; the approximation is as close as it
is said to be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from compress.adversarial import PENALTIES, Discriminator, Regularizer, clip_weights
from compress.adversarial.regularizers import (
    Judge,
    adaptive_mix,
    approximate_r1,
    gradient_penalty,
    r1,
    r2,
    zero_centered,
)
from compress.errors import RecipeError

REAL, FAKE = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(6, 3)


class Quadratic(nn.Module):
    """D(x) = a/2 ||x||^2 + <b, x>: its gradient is a x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.a / 2 * x.square().sum(1, keepdim=True) + x @ self.b[:, None]


def squared_gradient(x: Tensor) -> float:
    return (0.7 * x + torch.tensor([1.0, -2.0, 0.5])).square().sum(1).mean().item()


def test_squared_gradients_are_exact() -> None:
    judge = Quadratic()
    assert r1(judge, REAL, FAKE).item() == pytest.approx(squared_gradient(REAL))
    assert r2(judge, REAL, FAKE).item() == pytest.approx(squared_gradient(FAKE))
    assert zero_centered(judge, REAL, FAKE).item() == pytest.approx(squared_gradient(REAL) + squared_gradient(FAKE))


def test_the_unit_penalty_is_zero_for_unit_gradients_and_only_there() -> None:
    unit = torch.tensor([[0.6], [0.8], [0.0]])
    assert gradient_penalty(lambda x: x @ unit, REAL, FAKE).item() == pytest.approx(0, abs=1e-6)
    assert gradient_penalty(lambda x: x @ (3 * unit), REAL, FAKE).item() == pytest.approx(4, rel=1e-4)
    flat = nn.Parameter(torch.zeros(3, 1))
    (slope,) = torch.autograd.grad(gradient_penalty(lambda x: x @ flat, REAL, FAKE), flat)
    assert bool(slope.isfinite().all())


def test_the_unit_penalty_looks_between_real_and_fake() -> None:
    seen = []
    gradient_penalty(lambda x: seen.append(x.detach()) or x, torch.ones(500, 1), torch.zeros(500, 1))
    assert 0 <= seen[0].min() < 0.05 and 0.95 < seen[0].max() <= 1


def test_a_patch_discriminator_is_penalized_as_much_on_a_larger_image() -> None:
    def judge(x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True).expand(-1, 1, 7, 7)

    image = torch.randn(2, 1, 4, 4)
    one = r1(lambda x: judge(x)[..., :1, :1], image, image)
    assert r1(judge, image, image).item() == pytest.approx(one.item(), rel=1e-5)
    assert r1(lambda x: [judge(x), judge(x)], image, image).item() == pytest.approx(one.item(), rel=1e-5)


def test_the_approximation_is_unbiased_for_small_steps_and_low_for_large_ones() -> None:
    """D(x) = tanh(s x) with s^2 = 1.24 on N(0, 1): 0.528 exactly, and 0.454 with steps of half the deviation.

    Any tanh of a linear map of white data comes down to this case; s is that of a simulation done apart.
    """
    x = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(1))

    def judge(x: Tensor) -> Tensor:
        return torch.tanh(1.113 * x)

    assert r1(judge, x, x).item() == pytest.approx(0.528, abs=0.004)
    assert approximate_r1(judge, x, x, share=0.1).item() == pytest.approx(0.5255, abs=0.006)
    assert approximate_r1(judge, x, x).item() == pytest.approx(0.528, abs=0.006)
    assert approximate_r1(judge, x, x, share=0.5).item() == pytest.approx(0.455, abs=0.01)
    # The step is measured in the data's own deviation, not in units.
    narrow = approximate_r1(lambda x: judge(10 * x), 0.1 * x, x, share=0.5).item() / 100
    assert narrow == pytest.approx(0.455, abs=0.01)


def test_the_approximation_survives_a_spectral_norm_that_moves_in_training() -> None:
    layer = spectral_norm(nn.Linear(3, 1), n_power_iterations=1)
    norm = approximate_r1(layer, REAL.repeat(500, 1), FAKE).item()
    assert norm == pytest.approx(1, rel=0.1)  # a linear map of spectral norm 1


def test_a_rare_penalty_has_the_same_expected_gradient() -> None:
    judge = Quadratic()

    def gradient(penalty: Regularizer, steps: int = 16) -> Tensor:
        due = [penalty(judge, REAL, FAKE) for step in range(steps) if penalty.is_due(step)]
        assert len(due) == steps // penalty.every
        return torch.autograd.grad(torch.stack(due).sum() / steps, judge.b)[0]

    assert torch.allclose(gradient(Regularizer("r1", 0.3)), gradient(Regularizer("r1", 0.3, every=8)), rtol=1e-5)


def test_gamma_is_halved_for_squared_gradients_and_lambda_is_not() -> None:
    judge = Quadratic()
    for name in ("r1", "r2", "zero_centered"):
        expected = 5.0 * PENALTIES[name][0](judge, REAL, FAKE).item()
        assert Regularizer(name, weight=10.0)(judge, REAL, FAKE).item() == pytest.approx(expected)
    assert Regularizer("gradient_penalty", 10.0)(lambda x: x @ torch.tensor([[3.0], [0], [0]]), REAL, FAKE).item() == (
        pytest.approx(40, rel=1e-4)
    )


class Points(Discriminator):
    """Judges points by a hidden layer."""

    def __init__(self, bend: nn.Module) -> None:
        super().__init__([nn.Sequential(nn.Sequential(nn.Linear(3, 32), bend))], [nn.Linear(32, 1)], [32])


def test_mixing_costs_nothing_where_features_are_linear_and_something_where_they_bend() -> None:
    x, y = 5 * torch.randn(400, 3), 5 * torch.randn(400, 3)
    straight, bent = (adaptive_mix(Judge(Points(bend)), x, y).item() for bend in (nn.Identity(), nn.ReLU()))
    assert straight < 0.01 < 0.02 < bent


def test_mixing_straightens_the_features() -> None:
    x, y, judge = 3 * torch.randn(100, 3), 3 * torch.randn(100, 3), Judge(Points(nn.ReLU()))
    optimizer = torch.optim.Adam(judge.discriminator.parameters(), lr=0.03)
    first = adaptive_mix(judge, x, y).item()
    for _ in range(60):
        optimizer.zero_grad()
        adaptive_mix(judge, x, y).backward()
        optimizer.step()
    assert adaptive_mix(judge, x, y).item() < 0.6 * first


@pytest.mark.parametrize("name", [name for name in PENALTIES if name not in ("adaptive_mix", "manifold")])
def test_no_gradient_reaches_the_samples(name: str) -> None:
    real, fake, judge = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_(), Quadratic()
    PENALTIES[name][0](judge, real, fake).backward()
    assert real.grad is None and fake.grad is None and judge.b.grad is not None


def test_gradients_are_penalized_in_full_precision_under_autocast() -> None:
    judge = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    exact = r1(judge, REAL, FAKE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(r1(judge, REAL, FAKE), exact)


def test_clipping_bounds_what_learns_and_nothing_else() -> None:
    layer = nn.Linear(50, 50)
    frozen = layer.bias.requires_grad_(False).clone()
    clip_weights(layer, 0.01)
    assert layer.weight.abs().max().item() == pytest.approx(0.01) and torch.equal(layer.bias, frozen)
    with pytest.raises(RecipeError, match="weight_clip"):
        clip_weights(layer, 0.0)
