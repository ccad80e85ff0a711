"""Adversarial distillation: who sees what, what each setting adds, and that a game on a Gaussian is won."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.distill.diffusion.adversarial import Add, Apt, Ladd
from compress.errors import RecipeError
from compress.train import OptimizerSettings
from tests.distill.diffusion.common import Gaussian, batch_of, bed, method


class Picture(nn.Module):
    """A denoiser of 8 x 8 samples with a convolution at a lower resolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        deep = self.down(x).relu()
        return self.up(nn.functional.interpolate(deep, scale_factor=2.0)) + 0 * time.reshape(-1, 1, 1, 1)


class Shift(nn.Module):
    """A generator that says a constant picture, whatever it is given, plus a little of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.value + 0.1 * x / time.reshape(-1, 1, 1, 1)


def pictures() -> Any:
    task = bed((2.5, 0.8, 0.0))
    samples = 1 + 0.3 * torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    task.clean, task.real = samples[:128], {"validation": samples[128:192], "test": samples[192:]}
    return task


def make(kind: Any, **options: Any) -> tuple[Any, nn.Module, Any]:
    task = pictures()
    found, student = method(kind, task, teacher=Picture(), student=Shift(), **options)
    return found, student, batch_of(task, 32)


@pytest.mark.parametrize("kind", [Ladd, Add, Apt])
def test_each_learns_in_its_own_turn_and_the_teacher_never(kind: Any) -> None:
    found, student, batch = make(kind)
    modules = {"student": student, "discriminator": found.judge}
    before = {k: v.clone() for k, v in found.teacher.state_dict().items()}
    sum(found.student_loss(modules, batch).values()).backward()
    assert student.value.grad is not None and all(p.grad is None for p in found.judge.parameters())
    student.zero_grad(set_to_none=True)
    sum(found.discriminator_loss(modules, batch).values()).backward()
    assert student.value.grad is None and float(found.judge.head[0].weight.grad.abs().sum()) > 0
    trunk = [p.grad for p in found.judge.network.parameters()]
    assert (any(g is not None for g in trunk)) == (kind is Apt)
    assert all(torch.equal(v, before[k]) for k, v in found.teacher.state_dict().items())
    assert all(p.grad is None for p in found.teacher.parameters())


def test_what_is_real_is_the_teacher_s_or_the_data_s() -> None:
    found, _, batch = make(Ladd)
    torch.manual_seed(0)
    theirs = found.real_samples(batch)
    torch.manual_seed(0)
    noises = torch.stack([found.noise(32) for _ in range(2)], 1)  # the bed's sampler draws one on the way
    assert torch.equal(theirs, found.task.make_of(found.teacher, noises, None, found.task.teacher_sampler))
    found, _, batch = make(Add)
    assert torch.equal(found.real_samples(batch), batch.target.clean)


def test_more_noise_for_the_discriminator_is_a_coarser_look() -> None:
    medians = []
    for mean in (-4.0, 0.0, 2.0):
        found, _, _ = make(Ladd, noise_mean=mean)
        torch.manual_seed(0)
        medians.append(float(found.looks(2000).median()))
    assert medians[0] < 0.05 < medians[1] < 2.0 < medians[2]


def test_samples_begin_from_pure_noise_or_from_noised_data() -> None:
    seen: list[Tensor] = []

    class Listens(Shift):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x, time)

    for share, mean in ((1.0, 0.0), (0.0, 1.0)):
        found, _, batch = make(Ladd, largest_share=share)
        seen.clear()
        torch.manual_seed(0)
        found.made(Listens(), batch)
        assert float(seen[0].mean()) == pytest.approx(mean, abs=0.15)


def test_the_teacher_s_word_gives_no_gradient_to_its_input() -> None:
    found, _, _ = make(Add)
    made = torch.randn(16, 1, 8, 8, requires_grad=True)
    torch.manual_seed(3)
    found.agreement(made, ()).backward()
    torch.manual_seed(3)
    level = torch.exp(-1.2 + 1.2 * torch.randn(16))
    told = found.real(made.detach() + level.reshape(-1, 1, 1, 1) * found.noise(16), level).detach()
    wanted = 2 * (made - told).detach() / torch.sqrt(1 + level**2).reshape(-1, 1, 1, 1) / made.numel()
    torch.testing.assert_close(made.grad, wanted)


@pytest.mark.parametrize("kind", [Ladd, Apt])
def test_a_game_moves_the_student_to_the_data(kind: Any) -> None:
    found, student, _ = make(kind, real="data", noise_mean=-1.0)
    rates = {"student": 0.02, "discriminator": 0.002}
    modules = {"student": student, "discriminator": found.judge}
    players = found.players(student, OptimizerSettings("adamw", 0.02))
    optimizers = {
        p.name: torch.optim.Adam([q for q in p.module.parameters() if q.requires_grad], rates[p.name], (0.0, 0.99))
        for p in players
    }
    for step in range(150):
        batch = found.task.train_batch(torch.randperm(128)[:32], torch.Generator().manual_seed(step))
        for player in players:
            torch.manual_seed(step)
            optimizers[player.name].zero_grad()
            sum(player.loss(modules, batch).values()).backward()
            optimizers[player.name].step()
    assert float(student.value) == pytest.approx(1.0, abs=0.5)  # it began at -1


def test_wrong_settings_are_named() -> None:
    with pytest.raises(RecipeError, match=r"distill\.options\.adversarial_loss is 'hings'; it can be"):
        make(Ladd, adversarial_loss="hings")
    with pytest.raises(RecipeError, match=r"distill\.options\.penalty is 'r9'; it can be none"):
        make(Ladd, penalty="r9")
    with pytest.raises(Exception, match="no convolution whose features"):
        method(Ladd, bed(), teacher=NoConvolution(), student=Gaussian())


class NoConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.value * x + 0 * time.reshape(-1, 1, 1, 1)
