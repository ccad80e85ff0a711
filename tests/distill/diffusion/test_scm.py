"""Continuous consistency where the answer is known: N(0, s^2) on the trigonometric flow, whose paths stand still."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.diffusion import renoise, table_of
from compress.diffusion.preconditioning import trig
from compress.distill.diffusion.scm import AsTrigonometric, Scm
from compress.train import OptimizerSettings
from tests.distill.diffusion.common import SAYS_CLEAN, Gaussian, bed, method

STD = 0.5


class Consistent(nn.Module):
    """F = -tan(t / 2) x, a times: consistent for a = 1, since a path of N(0, s^2) stands still."""

    def __init__(self, a: float = 1.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return -self.a * torch.tan(time / 2).reshape(-1, 1, 1, 1) * x


def task() -> Any:
    found = bed(teacher_preconditioning=SAYS_CLEAN)
    found.clean = STD * torch.randn(128, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    found.preconditioning = trig(STD)
    found.sampler = table_of("one", renoise, [40.0, 0.0], trig(STD))
    return found


def make(student: nn.Module, **options: Any) -> Any:
    chosen = {"gan": 0.0, "normalize": 0.0, "warm_up": 0.0, **options}
    return method(Scm, task(), teacher=Gaussian(0.0, STD), student=student, **chosen)


def test_the_tangent_is_zero_where_the_student_is_consistent() -> None:
    for a, zero in ((1.0, True), (0.8, False)):
        found, student = make(Consistent(a))
        time = torch.linspace(0.1, 1.4, 64)
        x = STD * torch.randn(64, 1, 1, 1)
        speed = torch.zeros_like(x)  # the paths stand still
        before, change = found.along(student, x, speed, time, ())
        size = float(found.tangent(x, before, change, speed, time).detach().abs().max())
        assert (size < 1e-6) == zero


def test_training_finds_the_consistent_one() -> None:
    found, student = make(Consistent(0.2))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    for step in range(300):
        batch = found.task.train_batch(torch.arange(128), torch.Generator().manual_seed(step))
        torch.manual_seed(step)
        optimizer.zero_grad()
        found.student_loss({"student": student}, batch)["consistency"].backward()
        optimizer.step()
    assert float(student.a) == pytest.approx(1.0, abs=0.08)


def test_the_teacher_s_speed_is_that_of_its_path() -> None:
    """For N(0, s^2) the teacher says cos(t) x, so that dx / dt = 0 at every time."""
    found, _ = make(Consistent())
    time = torch.linspace(0.1, 1.4, 32)
    x = STD * torch.randn(32, 1, 1, 1)
    cosine, sine = (f(time).reshape(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
    clean = found.real(x / cosine, STD * time.tan())
    torch.testing.assert_close((cosine * x - clean) / sine, torch.zeros_like(x), rtol=0, atol=1e-5)


def test_a_normalized_tangent_is_bounded_and_a_warm_up_begins_with_the_flow_alone() -> None:
    found, student = make(Consistent(0.2), normalize=0.1, warm_up=0.5)
    time, x = torch.full((16,), 1.2), 100 * torch.randn(16, 1, 1, 1)
    before, change = found.along(student, x, torch.zeros_like(x), time, ())
    found.progress = 0.0
    first = found.tangent(x, before, change, torch.zeros_like(x), time)
    assert float(first.detach().abs().max()) <= 1.0
    plain, _ = make(Consistent(0.2), warm_up=0.5)
    plain.progress = 0.0
    cosine = time.cos().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(plain.tangent(x, before, change, torch.zeros_like(x), time), -(cosine**2) * STD * before)


def test_with_a_head_there_are_two_players_and_without_one() -> None:
    with_head, student = make(Consistent(), gan=0.5)
    rate = OptimizerSettings("adamw", 1e-3)
    assert [p.name for p in with_head.players(student, rate)] == ["discriminator", "student"]
    without, student = make(Consistent())
    assert [p.name for p in without.players(student, rate)] == ["student"]


def test_a_flow_network_says_the_same_in_the_other_clock() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(64, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    time = 0.05 + 1.4 * torch.rand(64, generator=generator, dtype=torch.float64)
    seen: list[Tensor] = []

    class Truth(nn.Module):
        def forward(self, x: Tensor, share: Tensor) -> Tensor:
            t = share.reshape(-1, 1, 1, 1)
            seen.append(x - ((1 - t) * clean + t * noise))
            return noise - clean

    cosine, sine = (f(time).reshape(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
    raw = AsTrigonometric(Truth())(cosine * clean + sine * noise, time)
    torch.testing.assert_close(seen[0], torch.zeros_like(clean), rtol=0, atol=1e-12)
    torch.testing.assert_close(cosine * (cosine * clean + sine * noise) - sine * raw, clean, rtol=1e-9, atol=1e-9)
