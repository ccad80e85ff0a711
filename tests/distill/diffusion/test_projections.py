"""Self-corrected and idempotent distillation: what each term is, who learns by it, and students it has nothing for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.distill.diffusion.dmd import Dmd
from compress.distill.diffusion.idempotent import Idempotent, idempotent_table
from compress.distill.diffusion.self_corrected import SelfCorrected
from compress.distill.diffusion.trajectory import euler_step
from compress.tasks.diffusion import Noised
from compress.train import OptimizerSettings
from tests.distill.diffusion.common import SAYS_CLEAN, STD, batch_of, bed, method
from tests.distill.diffusion.test_trajectory import WithExtra, exact, flowed

FIRST = 4.0


def seeded(compute: Callable[[], Any], seed: int = 3) -> Any:
    torch.manual_seed(seed)
    return compute()


def gradients(loss: Tensor, network: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(network.parameters())))


# SCFlow


class Bends(nn.Module):
    """Says a x + b level + c: neither straight nor consistent."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(value)) for value in (0.3, 0.2, 0.5))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.a * x + self.b * time.reshape(-1, 1, 1, 1) + self.c


class Straight(nn.Module):
    """Says a e + b of pure noise e at the first level, and the same all along the line from there to that sample."""

    def __init__(self, a: float = 0.5, b: float = 2.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        level = time.reshape(-1, 1, 1, 1)
        return torch.where(level == FIRST, self.a * x / level, self.a * (x - self.b) / (self.a + level)) + self.b


class Curved(nn.Module):
    """Says the end of the exact path."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return flowed(x, time, torch.zeros_like(time))


def corrected(student: nn.Module | None = None, progress: float = 1.0, **options: Any) -> tuple[Any, Any, Any]:
    """(the method, the learner, a batch); without a discriminator unless one is asked for."""
    task = bed((FIRST, 0.0))
    found, student = method(SelfCorrected, task, student=student or Bends(), **{"gan": 0.0, "metric": "l2", **options})
    found.progress = progress
    return found, WithExtra(student, found.extra), batch_of(task)


def said_at(found: Any, learner: Any, batch: Any) -> tuple[Tensor, ...]:
    """(what the student says, what it says of the next point, of the point before, the next points' times)."""
    now, then, before = seeded(lambda: found.draw_levels(64))
    x = batch.target.clean + now.reshape(-1, 1, 1, 1) * batch.target.noise
    there, back = (
        learner(euler_step(exact, x, now, level, ()), level).detach() for level in (then, before)
    )  # the average has not moved from the student yet
    return learner(x, now), there, back, then / (1 + then)


def test_points_are_neighbours_in_the_flow_s_time() -> None:
    found, _, _ = corrected(longest=0.1)
    now, then, before = (level / (1 + level) for level in seeded(lambda: found.draw_levels(4000)))
    latest = FIRST / (1 + FIRST)
    assert 0.00099 < float(now.min()) < 0.01 and float(before.max()) <= latest + 1e-6
    for one, other in ((then, now), (now, before)):
        assert float((other - one).min()) >= -1e-6 and 0.095 < float((other - one).max()) <= 0.1 + 1e-6


def test_the_next_point_is_the_target_and_the_sample_itself_near_the_end() -> None:
    found, learner, batch = corrected(progress=0.0)
    said, wanted, _, time = said_at(found, learner, batch)
    wanted = torch.where((time < 0.4).reshape(-1, 1, 1, 1), batch.target.clean, wanted)
    loss = seeded(lambda: found.own_terms(learner, batch))
    assert set(loss) == {"consistency"}
    torch.testing.assert_close(loss["consistency"], (said - wanted).square().mean())
    plain = gradients((said - wanted).square().mean(), learner.student)
    torch.testing.assert_close(gradients(loss["consistency"], learner.student), plain)
    assert all(p.grad is None for p in learner.extra.parameters())
    whole, learner, batch = corrected(progress=0.0, truncation=1.0)
    said = said_at(whole, learner, batch)[0]
    regression = (said - batch.target.clean).square().mean()
    torch.testing.assert_close(seeded(lambda: whole.own_terms(learner, batch))["consistency"], regression)


def test_the_point_before_is_a_target_too_once_the_training_is_under_way() -> None:
    found, learner, batch = corrected(bidirectional=0.3, reflow=0.0)
    said, _, before, _ = said_at(found, learner, batch)
    plain = 0.3 * (said - before).square().mean()
    loss = seeded(lambda: found.own_terms(learner, batch))
    assert set(loss) == {"consistency", "bidirectional"}
    torch.testing.assert_close(gradients(loss["bidirectional"], learner.student), gradients(plain, learner.student))
    base, _, _ = corrected(bidirectional=0.0, reflow=0.0)
    alone = seeded(lambda: base.own_terms(learner, batch))
    assert set(alone) == {"consistency"} and torch.equal(alone["consistency"], loss["consistency"])


def test_only_a_student_of_straight_lines_is_on_the_line() -> None:
    errors = {}
    for student in (Straight(), Curved(), Bends()):
        found, _, _ = corrected()
        level = 0.1 + 3 * torch.rand(64, generator=torch.Generator().manual_seed(0))
        errors[type(student)] = float(seeded(lambda m=found, s=student, at=level: m.off_the_line(s, at, ())).detach())
    assert errors[Straight] < 1e-10 and errors[Curved] > 1e-3 and errors[Bends] > 1e-3


def test_the_one_step_sample_on_the_line_learns_nothing() -> None:
    found, learner, _ = corrected()
    level = torch.full((64,), 1.3)
    noise = seeded(lambda: torch.randn(64, 1, 1, 1))
    made = learner(FIRST * noise, torch.full((64,), FIRST)).detach()
    plain = (learner(made + 1.3 * noise, level) - made).square().mean()
    loss = seeded(lambda: found.off_the_line(found.denoiser(learner), level, ()))
    torch.testing.assert_close(gradients(loss, learner.student), gradients(plain, learner.student))


def test_the_average_follows_and_is_the_judge() -> None:
    found, learner, batch = corrected(progress=0.0, truncation=0.0, average=0.9)
    before = float(learner.extra["average"].c.detach())
    with torch.no_grad():
        learner.student.c.add_(1.0)
    loss = float(seeded(lambda: found.own_terms(learner, batch))["consistency"].detach())
    assert float(learner.extra["average"].c.detach()) == pytest.approx(before + 0.1)
    at_once, learner, batch = corrected(progress=0.0, truncation=0.0, average=0.0)
    with torch.no_grad():
        learner.student.c.add_(1.0)
    assert loss > float(seeded(lambda: at_once.own_terms(learner, batch))["consistency"].detach()) + 0.3


def test_a_discriminator_judges_one_step_samples_where_one_is_asked_for() -> None:
    seen: list[Tensor] = []

    class Listens(Bends):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            seen.append(time)
            return super().forward(x, time)

    found, learner, batch = corrected(gan=0.1)
    settings = OptimizerSettings("adamw", 1e-3)
    assert [player.name for player in found.players(learner, settings)] == ["discriminator", "student"]
    alone, _, _ = corrected()
    assert [player.name for player in alone.players(learner, settings)] == ["student"]
    found.made(Listens(), batch)
    assert seen[0].tolist() == [FIRST] * 64
    modules = {"student": learner, "discriminator": found.judge}
    terms = found.student_loss(modules, batch)
    assert set(terms) == {"consistency", "bidirectional", "reflow", "gan"}
    terms["gan"].backward()
    assert learner.student.c.grad is not None and all(p.grad is None for p in found.judge.parameters())
    told = found.discriminator_loss(modules, batch)
    assert set(told) == {"adversarial", "penalty"} and float(told["penalty"].detach()) > 0


# SIGN


class Plane(nn.Module):
    """The exact denoiser of samples (1, 1, 2) whose first number is from N(0, c^2) and whose second is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.layer.weight)
        self.register_buffer("mask", torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        level = time.reshape(-1, 1, 1, 1)
        found: Tensor = self.layer(self.mask * x * STD**2 / (STD**2 + level**2))
        return found


class Matrix(nn.Module):
    """A linear map of the two numbers; it begins as one that changes nothing."""

    def __init__(self, first: float = 1.0, second: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.diag(torch.tensor([first, second])))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x @ self.weight + 0 * time.reshape(-1, 1, 1, 1)


def plane() -> Any:
    task = bed((1.0, 0.0))
    samples = torch.zeros(256, 1, 1, 2)
    samples[..., 0] = STD * torch.randn(256, 1, 1, generator=torch.Generator().manual_seed(0))
    task.clean, task.real = samples[:128], {"validation": samples[128:192], "test": samples[192:]}
    return task


def projecting(student: nn.Module | None = None, **options: Any) -> tuple[Any, Any, Any]:
    """(the method, what it plays with, a batch)."""
    task = plane()
    found, student = method(Idempotent, task, teacher=Plane(), student=student or Matrix(), **options)
    return found, {"student": student, "fake": found.fake}, batch_of(task)


def test_a_projection_onto_the_data_has_nothing_to_learn_from_being_one() -> None:
    terms = {}
    for name, student in (("onto", Matrix(1.0, 0.0)), ("identity", Matrix()), ("shrinks", Matrix(0.5, 0.0))):
        found, modules, batch = projecting(student)
        losses = seeded(lambda m=found, p=modules, b=batch: m.student_loss(p, b))
        assert set(losses) == {"distribution", "reconstruct", "idempotent", "flow"}
        terms[name] = {key: float(value.detach()) for key, value in losses.items()}
    assert terms["onto"]["reconstruct"] == terms["onto"]["idempotent"] == 0.0
    assert terms["identity"]["reconstruct"] == terms["identity"]["idempotent"] == 0.0  # of noise it makes noise
    assert terms["identity"]["flow"] > terms["onto"]["flow"] > 0  # which the path tells from samples
    assert terms["shrinks"]["reconstruct"] > 0.01 and terms["shrinks"]["idempotent"] > 0.01


def test_what_is_made_learns_to_stay_and_the_map_that_it_stays_under_does_not() -> None:
    """d/da (a' a z - a z)^2 with a' = a held still: 2 (a - 1)^2 a z^2, not the derivative of (a^2 - a)^2 z^2."""
    found, modules, batch = projecting(Matrix(0.6, 0.0), reconstruct=0.0, flow=0.0)
    loss = seeded(lambda: found.student_loss(modules, batch))["idempotent"]
    (gradient,) = torch.autograd.grad(loss, modules["student"].weight)
    power = float(loss.detach()) / (0.6**2 - 0.6) ** 2  # the mean of z^2
    assert float(gradient[0, 0]) == pytest.approx(2 * (0.6 - 1) ** 2 * 0.6 * power, rel=1e-4)
    assert all(p.requires_grad for p in modules["student"].parameters())


def test_points_of_one_path_have_one_projection_and_the_next_is_the_target() -> None:
    found, modules, batch = projecting(Matrix(0.7, 0.4), points=10, lowest=0.05)
    student, noised = modules["student"], batch.target
    loss = seeded(lambda: found.along_the_path(student, noised, ()))
    steps = torch.arange(10) / 9
    levels = (1.0 + steps * (0.05 ** (1 / 7) - 1.0)) ** 7
    number = seeded(lambda: torch.randint(9, (64,)))
    now, then = levels[number], levels[number + 1]
    x = noised.clean + now.reshape(-1, 1, 1, 1) * noised.noise
    following = euler_step(Plane(), x, now, then, ())
    plain = (x @ student.weight - (following @ student.weight).detach()).square().mean()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradients(loss, student), gradients(plain, student))


def test_without_its_terms_it_is_dmd_in_one_step() -> None:
    found, modules, batch = projecting(Matrix(0.7, 0.4), reconstruct=0.0, idempotent=0.0, flow=0.0)
    plain, _ = method(Dmd, plane(), teacher=Plane(), student=Matrix())
    given = {"student": modules["student"], "fake": Matrix(0.3, 0.3)}
    ours, theirs = (seeded(lambda m=each: m.student_loss(given, batch)) for each in (found, plain))
    assert set(ours) == {"distribution"} and torch.equal(ours["distribution"], theirs["distribution"])
    assert float(ours["distribution"].detach()) > 0


def test_it_is_applied_once_or_again() -> None:
    task = plane()
    task.sampler = idempotent_table(SAYS_CLEAN, 1.0, times=2)
    student = Matrix(0.5, 0.2)
    noise = torch.randn(8, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    for times in (1, 2, 3):
        made = idempotent_table(SAYS_CLEAN, 1.0, times).run(student, noise)
        torch.testing.assert_close(made, noise * torch.tensor([0.5, 0.2]) ** times)
    found, _ = method(Idempotent, task, teacher=Plane(), student=student)
    made = seeded(lambda: found.rollout(found.denoiser(student), 8, ()))  # a sample to learn from is one projection
    torch.testing.assert_close(
        made, seeded(lambda: (torch.randint(1, ()), torch.randn(8, 1, 1, 2)))[1] @ student.weight
    )


def test_what_lies_off_the_data_is_brought_back() -> None:
    """Real samples do not say what to do with the second number; the path does."""
    left = {}
    for flow in (1.0, 0.0):
        found, modules, _ = projecting(Matrix(), flow=flow)
        student = modules["student"]
        optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
        for step in range(60):
            torch.manual_seed(step)
            noise = torch.randn(64, 1, 1, 2)
            batch = replace(batch_of(found.task), target=Noised(found.task.clean[:64], noise, torch.ones(64), None))
            optimizer.zero_grad()
            sum(found.student_loss(modules, batch).values()).backward()
            optimizer.step()
        left[flow] = float(student.weight[1, 1].detach())
        assert float(student.weight[0, 0].detach()) == pytest.approx(1.0, abs=0.4)
    assert abs(left[1.0]) < 0.3 and left[0.0] > 0.8
