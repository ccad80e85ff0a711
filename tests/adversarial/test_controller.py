"""The controller holds a confidence; the noise it lengthens lets gradients through and joins what is disjoint."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.adversarial import LOSSES, DiffusionNoise, SignController
from compress.adversarial.noise import CLEAN_SLOTS, LONGEST, SHORTEST, SLOTS


def test_it_rises_while_real_samples_are_known_by_heart_and_falls_else() -> None:
    controller = SignController(ramp_images=1000, every=4)
    for _ in range(40):
        controller.update(torch.ones(10), images=10)
    assert controller.value.item() == pytest.approx(0.4)
    for _ in range(20):
        controller.update(torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0]), images=10)  # mean sign 0.2, below 0.6
    assert controller.value.item() == pytest.approx(0.2)


def test_it_moves_every_fourth_batch_by_the_images_seen() -> None:
    controller = SignController(ramp_images=1000, every=4)
    moved = [controller.update(torch.ones(8), images=8) for _ in range(8)]
    assert moved == [False, False, False, True] * 2 and controller.value.item() == pytest.approx(64 / 1000)


def test_it_stays_between_zero_and_its_limit() -> None:
    controller = SignController(ramp_images=10, limit=0.8, start=0.9)
    assert controller.value.item() == pytest.approx(0.8)
    for sign in (1, -1):
        for _ in range(8):
            controller.update(sign * torch.ones(4), images=4)
        assert controller.value.item() == pytest.approx(0.8 if sign > 0 else 0.0)


def test_it_resumes_from_its_state_between_two_moves() -> None:
    controller, resumed = SignController(ramp_images=100), SignController(ramp_images=100)
    for _ in range(6):
        controller.update(torch.ones(4), images=4)
    resumed.load_state_dict(controller.state_dict())
    for each in (controller, resumed):
        each.update(torch.ones(4), images=4)
        assert each.update(torch.ones(4), images=4)
    assert torch.equal(controller.value, resumed.value) and controller.value.item() == pytest.approx(0.32)


def full_length() -> DiffusionNoise:
    return DiffusionNoise(SignController(start=1.0))


def test_the_chain_stays_between_its_lengths() -> None:
    noise = DiffusionNoise(SignController(ramp_images=50))
    assert noise.length == SHORTEST
    for sign, expected in ((1, LONGEST), (-1, SHORTEST)):
        for _ in range(40):
            noise.update(sign * torch.ones(5), images=5)
            assert SHORTEST <= noise.length <= LONGEST and int(noise.slots.max()) <= noise.length
        assert noise.length == expected


def test_half_the_slots_are_clean_and_the_others_favour_long_times() -> None:
    noise = full_length()
    drawn = []
    for _ in range(200):
        noise.draw_slots()
        assert int((noise.slots == 0).sum()) == CLEAN_SLOTS == SLOTS // 2
        drawn.append(noise.slots[CLEAN_SLOTS:].clone())
    # P(t) proportional to t on 1..T has the mean 2 T / 3.
    assert torch.cat(drawn).float().mean().item() == pytest.approx(2 / 3 * LONGEST, rel=0.03)
    assert (noise.draw_times(4000) == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_noise_has_the_moments_of_its_schedule() -> None:
    noise, times = full_length(), torch.full((20_000,), 300)
    kept = (1 - torch.linspace(1e-4, 2e-2, LONGEST).double())[:300].prod().item()
    noised = noise(torch.ones(20_000, 1), times)
    assert noised.mean().item() == pytest.approx(kept**0.5, abs=1e-3)
    assert noised.std().item() == pytest.approx(0.05 * (1 - kept) ** 0.5, rel=0.03)
    assert torch.equal(noise(torch.ones(5, 1), torch.zeros(5, dtype=torch.long)), torch.ones(5, 1))


def test_the_gradient_passes_scaled_by_what_is_kept() -> None:
    noise, x = full_length(), torch.randn(3, 2, requires_grad=True)
    noise(x, torch.tensor([0, 100, 1000])).sum().backward()
    betas = torch.linspace(1e-4, 2e-2, LONGEST)
    expected = torch.stack([torch.ones(()), (1 - betas[:100]).prod().sqrt(), (1 - betas).prod().sqrt()])
    assert x.grad is not None and torch.allclose(x.grad, expected[:, None].expand(3, 2), rtol=1e-4)


def test_resumed_noise_draws_what_it_would_have_drawn() -> None:
    first, second = full_length(), DiffusionNoise(SignController())
    second.load_state_dict(first.state_dict())
    assert second.length == LONGEST
    for noise in (first, second):
        torch.manual_seed(4)
        noise.seen = noise(torch.ones(32, 1), noise.draw_times(32))
    assert torch.equal(first.seen, second.seen)


def slope_at_the_generator(noise: DiffusionNoise | None) -> float:
    """|d loss / d fake| of a saturating loss for two points far apart, against the best discriminator there is."""
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(judge.parameters(), lr=0.02)

    def shown(value: float) -> tuple[Tensor, Tensor]:
        x = torch.full((256, 1), value)
        times = noise.draw_times(256) if noise else torch.zeros(256, dtype=torch.long)
        return (noise(x, times) if noise else x), times[:, None] / LONGEST

    loss = LOSSES["non_saturating"]
    for _ in range(300):
        value = loss.discriminator(judge(torch.cat(shown(1.0), 1)), judge(torch.cat(shown(-1.0), 1)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    fake = torch.full((4000, 1), -1.0, requires_grad=True)
    times = noise.draw_times(4000) if noise else torch.zeros(4000, dtype=torch.long)
    seen = noise(fake, times) if noise else fake
    # The minimax side, log(1 - D): where supports are disjoint its slope is next to nothing.
    value = -nn.functional.softplus(judge(torch.cat([seen, times[:, None] / LONGEST], 1))).mean()
    return torch.autograd.grad(value, fake)[0].sum().abs().item()


def test_noise_gives_a_slope_where_the_sets_are_disjoint() -> None:
    noise = DiffusionNoise(SignController(start=1.0), deviation=1.0)
    assert slope_at_the_generator(noise) > 20 * slope_at_the_generator(None)
