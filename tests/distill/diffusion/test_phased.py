"""Score distillation by halves and in parts: ASD against VSD, and Phased DMD's target between two noise levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.bench.beds.mixture import Mixture
from compress.diffusion import Denoiser
from compress.distill.diffusion import score
from compress.distill.diffusion.adversarial_score import Asd
from compress.distill.diffusion.dmd import Dmd
from compress.distill.diffusion.phased_dmd import PhasedDmd, clean_behind
from compress.distill.diffusion.vsd import Vsd
from compress.errors import RecipeError
from compress.train import OptimizerSettings
from tests.distill.diffusion.common import MEAN, SAYS_CLEAN, STD, Gaussian, Linear, batch_of, bed, euler, method


class Says(nn.Module):
    """Says what it is told, whatever it is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.detach().clone())

    def forward(self, x: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        return self.value


# ASD


@pytest.mark.parametrize("side", [-0.75, -0.3, 0.5])
def test_both_sides_hold_the_fake_score_between_samples_and_teacher_or_beyond(side: float) -> None:
    """The loss is smallest at (made + side told) / (1 + side), for every sample: for -0.75 at 4 made - 3 told."""
    found, _ = method(Asd, real_side=side)
    found.teacher.double()
    made, noise = torch.randn(2, 16, 1, 1, 1, dtype=torch.float64)
    level = torch.rand(16, dtype=torch.float64) + 0.5
    x = made + level.reshape(-1, 1, 1, 1) * noise
    told = found.teacher(x, level)
    for shift in (0.0, 0.1):
        fake = Says((made + side * told) / (1 + side) + shift)
        # raw_loss compares in single precision what the network says; the wanted values stay double.
        sum(found.fake_terms(made, x, level, (), Denoiser(fake, SAYS_CLEAN)).values()).backward()
        wanted = torch.full_like(made, 2 * (1 + side) * shift / 16)
        torch.testing.assert_close(fake.value.grad, wanted, rtol=1e-5, atol=1e-7)


def trained(kind: type[Vsd], **options: Any) -> list[Tensor]:
    torch.manual_seed(0)  # the low-rank changes begin at random
    found, student = method(kind, student=Linear(), rank=1, **options)
    modules = {"student": student, "fake": found.fake}
    players = found.players(student, OptimizerSettings("adamw", 1e-2))
    optimizers = [torch.optim.Adam([p for p in each.module.parameters() if p.requires_grad], 0.05) for each in players]
    batch = batch_of(found.task)
    for step in range(5):
        for player, optimizer in zip(players, optimizers, strict=True):
            torch.manual_seed(step)
            optimizer.zero_grad()
            sum(player.loss(modules, batch).values()).backward()
            optimizer.step()
    return [p.detach() for module in modules.values() for p in module.parameters()]


def test_without_the_real_side_asd_is_vsd_to_the_bit() -> None:
    plain, half, whole = trained(Vsd), trained(Asd, real_side=0.0), trained(Asd)
    assert all(torch.equal(a, b) for a, b in zip(plain, half, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, whole, strict=True))


class Conditional(nn.Module):
    """Says the mean of the condition's row; 0 for none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0], [3.0]]))
        self.layer = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.layer.weight)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        found: Tensor = self.layer(x * 0 + (condition @ self.weight).reshape(-1, 1, 1, 1))
        return found


@pytest.mark.parametrize("side", [-0.75, 0.0])
def test_guidance_counts_for_as_little_as_the_fake_score_leans_away(side: float) -> None:
    """Nothing moves where the student is at D_c + (1 + side) (w - 1) (D_c - D_0): at -0.75, a quarter of VSD's way."""
    rows = torch.eye(2)
    task = bed(conditions=rows[torch.arange(128) % 2], drop=0.0)
    found, _ = method(Asd, task, teacher=Conditional(), student=Conditional(), guidance=5.0, real_side=side)
    condition, level, x = rows[torch.tensor([0, 1])], torch.ones(2), torch.randn(2, 1, 1, 1)
    alone = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    student = alone + (1 + side) * 4 * alone
    fake = Says(torch.zeros(2, 1, 1, 1))
    optimizer = torch.optim.LBFGS(fake.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found_loss = sum(found.fake_terms(student, x, level, (condition,), Denoiser(fake, SAYS_CLEAN)).values())
        found_loss.backward()
        return found_loss

    optimizer.step(loss)
    made = student.clone().requires_grad_(True)
    found.student_terms(made, x, level, (condition,), Denoiser(fake, SAYS_CLEAN))["variational"].backward()
    assert float(made.grad.abs().max()) < 1e-4


def test_a_real_side_that_nothing_holds_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"real_side is -1; it must be above -1"):
        method(Asd, real_side=-1.0)


# Phased DMD


@pytest.mark.parametrize("end", [0.0, 0.3, 1.0])
def test_the_target_between_two_levels_is_the_clean_sample_in_expectation(end: float) -> None:
    """E[target | x_t] = E[x0 | x_t] for four points on a line, by integration; x_s itself is far from it."""
    data = Mixture(torch.tensor([[-1.5], [-0.5], [0.7], [1.6]], dtype=torch.float64), 1e-9)
    added = torch.tensor(0.8, dtype=torch.float64)
    total = float(torch.hypot(added, torch.tensor(end, dtype=torch.float64)))
    points = torch.linspace(-3, 3, 41, dtype=torch.float64)
    wanted = data.denoise(points[:, None], total).flatten()
    if end:
        grid = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
        density = torch.exp(-((grid[:, None] - data.means.T) ** 2) / (2 * end**2)).sum(1)
    else:
        grid, density = data.means.flatten(), torch.ones(4, dtype=torch.float64)
    expected, naive = [], []
    for x in points:
        weight = density * torch.exp(-((x - grid) ** 2) / (2 * added**2))
        target = clean_behind(grid, x.expand_as(grid), end, added.expand_as(grid))
        expected.append((weight * target).sum() / weight.sum())
        naive.append((weight * grid).sum() / weight.sum())
    torch.testing.assert_close(torch.stack(expected), wanted, rtol=1e-9, atol=1e-9)
    bias = float((torch.stack(naive) - wanted).square().mean().sqrt())
    assert (bias > 0.05) == (end > 0)


class Affine(nn.Module):
    """Says a(level) x + b(level) at each of a few levels."""

    def __init__(self, levels: list[float], a: float = 0.1, b: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels))
        self.a, self.b = (nn.Parameter(torch.full((len(levels),), value)) for value in (a, b))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        here = (time[:, None] - self.levels[None]).abs().argmin(1)
        return self.a[here].reshape(-1, 1, 1, 1) * x + self.b[here].reshape(-1, 1, 1, 1)


class Spread(nn.Module):
    """The exact denoiser of a Gaussian whose variance is free; below 0 too, where it says of what is no noised data."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        level = time.reshape(-1, 1, 1, 1)
        return self.mean + self.variance / (self.variance + level**2) * (x - self.mean)


LEVELS = [4.0, 1.0]
OPTIONS: dict[str, Any] = {"lowest": 0.3, "highest": 6.0, "share": 1.0, "rho": 1e6}


def two_phases(**options: Any) -> tuple[Any, nn.Module]:
    task = bed((*LEVELS, 0.0), euler, level_mean=0.0, level_std=0.7)
    return method(PhasedDmd, task, student=Affine(LEVELS), **{**OPTIONS, **options})


def play(found: Any, student: nn.Module, steps: int, rate: float = 0.08) -> None:
    """The fake score learns from what the student makes, and the student from it."""
    modules = {"student": student, "fake": found.fake}
    losses = {"fake": found.fake_loss, "student": found.student_loss}
    optimizers = {name: torch.optim.Adam(modules[name].parameters(), rate, (0.0, 0.999)) for name in losses}
    batch = batch_of(found.task, 128)
    for step in range(steps):
        for name, optimizer in optimizers.items():
            torch.manual_seed(step)
            optimizer.zero_grad()
            sum(losses[name](modules, batch).values()).backward()
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / steps)


def test_phases_lead_from_noise_to_data_by_way_of_the_teacher_s_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """N(0, 4^2) to N(2, 0.5^2 + 1), then to N(2, 0.5^2); the fake score learns by the target under test."""
    monkeypatch.setattr(score, "SMALLEST_ERROR", 0.3)
    torch.manual_seed(0)
    found, student = two_phases(kept=0.0)
    found.fake = Spread()
    found.on_epoch(0, 2)
    play(found, student, 200)
    torch.manual_seed(1)
    middle = found.rollout(found.denoiser(student), 4000, ()).detach()
    assert float(middle.mean()) == pytest.approx(MEAN, abs=0.12)
    assert float(middle.std()) == pytest.approx((STD**2 + 1) ** 0.5, rel=0.12)
    found.on_epoch(1, 2)
    play(found, student, 200)
    made = found.rollout(found.denoiser(student), 4000, ()).detach()
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.12) and float(made.std()) == pytest.approx(STD, rel=0.25)


def test_one_phase_of_one_step_is_dmd_to_the_bit() -> None:
    losses = []
    for kind, options in ((Dmd, {}), (PhasedDmd, {"phases": 1})):
        found, student = method(kind, student=Linear(), **options)
        modules = {"student": student, "fake": Gaussian(0.0, 1.0)}
        for loss in (found.fake_loss, found.student_loss):
            torch.manual_seed(5)
            terms = loss(modules, batch_of(found.task))
            sum(terms.values()).backward()
            losses.append(
                (list(terms), [p.grad.clone() for m in modules.values() for p in m.parameters() if p.grad is not None])
            )
    for (names, gradients), (others, wanted) in zip(losses[:2], losses[2:], strict=True):
        assert names == others and all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))


def test_earlier_phases_make_the_inputs_and_learn_nothing_but_what_they_were() -> None:
    found, student = two_phases()
    found.on_epoch(0, 2)
    assert (found.steps, found.end) == ((0, 1), 1.0)
    with torch.no_grad():
        student.a.copy_(torch.tensor([0.1, 0.2]))
    found.on_epoch(1, 2)
    assert (found.steps, found.end) == ((1, 2), 0.0) and "round" in found.extra.state_dict()
    with torch.no_grad():
        student.a.copy_(torch.tensor([0.5, 0.2]))
    torch.manual_seed(3)
    made = found.rollout(found.denoiser(student), 8, ())
    torch.manual_seed(3)
    torch.randint(1, 2, ())
    x = 4.0 * found.noise(8)
    middle = 0.25 * x + 0.75 * (0.1 * x + 1)  # by the copy
    torch.testing.assert_close(made, 0.2 * middle + 1)
    made.sum().backward()
    assert float(student.a.grad[0]) == 0.0 and float(student.a.grad[1]) != 0.0
    assert all(p.grad is None for p in found.extra.parameters())
    student.zero_grad()
    found.change(found.denoiser(student), 64).backward()
    assert float(student.a.grad[0]) > 0.0 and float(student.a.grad[1]) == 0.0  # back from 0.5 to 0.1


def test_samples_are_compared_above_a_phase_s_end_alone() -> None:
    found, student = two_phases()
    seen: list[Tensor] = []

    class Listens(Gaussian):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            seen.append(time)
            return super().forward(x, time)

    for epoch, lowest in ((0, 1.0), (1, 0.0)):
        found.on_epoch(epoch, 2)
        seen.clear()
        modules = {"student": student, "fake": Listens()}
        found.fake_loss(modules, batch_of(found.task))
        found.student_loss(modules, batch_of(found.task))
        assert len(seen) == 2 and all(float(time.min()) >= lowest for time in seen)
        assert min(float(time.min()) for time in seen) < lowest + 0.6


def test_a_random_step_of_a_phase_leads_to_its_end_with_a_gradient_there_alone() -> None:
    levels = (4.0, 2.0, 1.0, 0.5)
    found, _ = method(PhasedDmd, bed((*levels, 0.0), euler), student=Affine([*levels]))
    found.on_epoch(1, 2)
    lasts = set()
    for seed in range(20):
        asked: list[tuple[float, bool]] = []

        def denoise(x: Tensor, level: Tensor, asked: list[tuple[float, bool]] = asked) -> Tensor:
            asked.append((float(level[0]), torch.is_grad_enabled()))
            return x * 0 + 7

        torch.manual_seed(seed)
        assert torch.equal(found.rollout(denoise, 4, ()), torch.full((4, 1, 1, 1), 7.0))
        assert [grad for _, grad in asked] == [False] * (len(asked) - 1) + [True]
        assert [level for level, _ in asked] == [1.0, 0.5][: len(asked)]
        lasts.add(len(asked))
    assert lasts == {1, 2}


def test_what_phases_cannot_do_is_named() -> None:
    with pytest.raises(RecipeError, match="2 steps cannot be shared out among 3 phases"):
        two_phases(phases=3)
    with pytest.raises(RecipeError, match="phased DMD has no discriminator"):
        two_phases(gan=0.1)
