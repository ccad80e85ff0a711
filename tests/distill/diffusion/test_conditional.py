"""A new condition for a denoiser: CoDi while steps are cut, NCT for a one-step generator, where all is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.diffusion import karras_levels
from compress.distill.diffusion import noise_consistency
from compress.distill.diffusion.conditional import Codi
from compress.distill.diffusion.noise_consistency import NoiseConsistency
from compress.errors import ModelError, RecipeError
from compress.students.conditioned import Unconditioned, WithCondition
from compress.tasks.diffusion import Noised
from compress.train import OptimizerSettings
from tests.distill.diffusion.common import MEAN, STD, Gaussian, batch_of, bed, method
from tests.distill.diffusion.test_trajectory import WithExtra

PATH: dict[str, Any] = {"points": 8, "lowest": 0.05, "highest": 4.0}
UNET = {"channels": 1, "width": 8, "multipliers": (1, 2)}


class Straight(nn.Module):
    """D(x, t) = m + (x - m) / (1 + k t): along its own steps the clean sample stays the same, whatever k is."""

    def __init__(self, k: float = 1.7) -> None:
        super().__init__()
        self.m, self.k = nn.Parameter(torch.tensor(MEAN)), nn.Parameter(torch.tensor(k))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        found: Tensor = self.m + (x - self.m) / (1 + self.k * time.reshape(-1, 1, 1, 1))
        return found


class Recording(nn.Module):
    """A student that notes the levels that it is asked at."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student, self.seen = student, []

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        self.seen.append(time.clone())
        output: Tensor = self.student(x, time)
        return output


def double_batch(count: int = 64) -> Any:
    generator = torch.Generator().manual_seed(2)
    clean, noise = (torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    batch = batch_of(bed(), count)
    return type(batch)(batch.inputs, Noised(MEAN + STD * clean, noise, torch.ones(count), None))


def codi(student: nn.Module, **options: Any) -> tuple[Any, nn.Module]:
    found, learning = method(Codi, teacher=type(student)(), student=student, inherit=False, **{**PATH, **options})
    return found, WithExtra(learning, found.extra).double()


@pytest.mark.parametrize("k", [0.3, 1.7])
@pytest.mark.parametrize("target", ["student", "average"])
def test_where_own_steps_keep_the_clean_sample_the_same_noise_is_seen(k: float, target: str) -> None:
    found, learner = codi(Straight(k), target=target)
    assert float(found.loss(learner, double_batch())["consistency"]) < 1e-15
    found, learner = codi(Gaussian(), target=target)  # the best denoiser's own steps are not on its clean samples
    assert float(found.loss(learner, double_batch())["consistency"]) > 1e-3


def test_only_the_first_point_has_a_gradient_and_the_average_says_the_noise_of_the_next() -> None:
    """The noises differ by (D(x_t) - D_average(x_s)) / s, and D(x_t) moves the first of them by -1 / t."""
    found, learner = codi(Gaussian(), average=1.0, clean=0.0)
    with torch.no_grad():
        learner.extra["average"].std.mul_(0.7)
    student = Recording(learner.student)
    batch, recorded = double_batch(), WithExtra(student, learner.extra)
    loss = found.loss(recorded, batch)["consistency"]
    (now,) = student.seen
    levels = [float(level) for level in karras_levels(8, 0.05, 4.0)[:-1]]
    number = min(range(8), key=lambda k: abs(levels[k] - float(now[0])))
    then = torch.full_like(now, levels[number + 1])
    t, s = (level.reshape(-1, 1, 1, 1) for level in (now, then))
    x = batch.target.clean + t * batch.target.noise
    clean = found.denoiser(learner.student)(x, now)
    with torch.no_grad():
        judged = found.denoiser(learner.extra["average"])(clean + s * (x - clean) / t, then)
        assert float(loss) == pytest.approx(float(((clean - judged) / s).square().mean()), rel=1e-6)
    moved = (2 * ((clean - judged) / (s * t)).detach() * clean).mean()
    learned = [learner.student.mean, learner.student.std]
    for one, other in zip(torch.autograd.grad(loss, learned), torch.autograd.grad(moved, learned), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


def test_a_batch_has_one_level_and_the_batches_all_of_them() -> None:
    found, learner = codi(Gaussian(), target="student")
    learner.student = Recording(learner.student)
    for _ in range(60):
        found.loss(learner, double_batch(4))
    assert all(float(level.std()) == 0 for level in learner.student.seen)
    first, then = ({round(float(level[0]), 4) for level in learner.student.seen[start::2]} for start in (0, 1))
    levels = [round(float(level), 4) for level in karras_levels(8, 0.05, 4.0)[:-1]]
    assert first == {*levels[:-1]} and then == {*levels[1:]}


def test_without_consistency_it_is_learning_to_denoise() -> None:
    found, learner = codi(Gaussian(), consistency=0.0)
    batch = double_batch()
    torch.manual_seed(1)
    terms = found.loss(learner, batch)
    torch.manual_seed(1)
    level = karras_levels(8, 0.05, 4.0)[int(torch.randint(7, ()))].float().expand(64)
    x = batch.target.clean + level.reshape(-1, 1, 1, 1) * batch.target.noise
    plain = (found.denoiser(learner.student)(x, level) - batch.target.clean).square().mean()
    learned = [learner.student.mean, learner.student.std]
    both = (torch.autograd.grad(each, learned) for each in (sum(terms.values()), plain))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def plain(kind: Any, task: Any, teacher: nn.Module, student: nn.Module, **options: Any) -> tuple[Any, nn.Module]:
    """A method with networks that were not traced, which takes a second each."""
    return kind(teacher, student, task.example_inputs(), kind.options_from(options), task), student


# The student of pictures: samples (1, 8, 8) are a condition (1, 4, 4) enlarged, and a little more


def pictures(**settings: Any) -> Any:
    task = bed(conditions=torch.zeros(128, 16), drop=0.0, **settings)
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(256, 1, 4, 4, generator=generator)
    samples = F.interpolate(small, scale_factor=2.0) + 0.1 * torch.randn(256, 1, 8, 8, generator=generator)
    task.clean, task.real = samples[:128], {"validation": samples[128:192], "test": samples[192:]}
    task.conditions = small[:128].flatten(1)
    task.asked = small[128:].flatten(1)
    return task


def teacher_of_pictures() -> Unconditioned:
    torch.manual_seed(0)
    teacher = Unconditioned(UNET)
    nn.init.normal_(teacher.base.last.weight, std=0.1)
    return teacher


class Renamed(nn.Module):
    """A student that holds the teacher's network by another name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Unconditioned(UNET)

    def forward(self, x: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        output: Tensor = self.inner(x, time, rows)
        return output


def test_the_student_begins_as_the_teacher_and_its_encoder_as_a_copy() -> None:
    task = pictures()
    found, student = plain(Codi, task, teacher_of_pictures(), WithCondition(UNET, (1, 4, 4)))
    batch = batch_of(task, 8)
    torch.testing.assert_close(student(*batch.inputs), found.teacher(*batch.inputs))
    held, known = student.state_dict(), found.teacher.state_dict()
    copied = [name for name in held if name.startswith("copied.")]
    assert copied and all(torch.equal(held[name], known[f"base.{name[7:]}"]) for name in copied)
    _, untouched = plain(Codi, task, teacher_of_pictures(), WithCondition(UNET, (1, 4, 4)), inherit=False)
    assert not torch.equal(untouched.state_dict()["base.first.weight"], known["base.first.weight"])
    with pytest.raises(ModelError, match=r"has no 'base\."):
        plain(Codi, task, teacher_of_pictures(), Renamed())
    with pytest.raises(ModelError, match="shape"):
        plain(Codi, task, teacher_of_pictures(), WithCondition({**UNET, "width": 4}, (1, 4, 4)))
    with pytest.raises(ModelError, match="no part beside"):
        plain(Codi, task, teacher_of_pictures(), teacher_of_pictures(), whole=False)


@pytest.mark.parametrize("whole", [True, False])
def test_the_encoder_learns_the_condition_and_the_denoiser_only_where_it_may(whole: bool) -> None:
    task = pictures()
    teacher, student = teacher_of_pictures(), WithCondition(UNET, (1, 4, 4))
    found, _ = plain(Codi, task, teacher, student, whole=whole, **{**PATH, "lowest": 0.5})
    learner = WithExtra(student, found.extra)
    (player,) = found.players(learner, OptimizerSettings("adamw", 3e-3))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=1e-2)

    def error(rows: Tensor) -> float:
        level = torch.full((64,), 4.0)
        x = task.real["test"] + 4 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return float((found.denoiser(student)(x, level, rows) - task.real["test"]).square().mean())

    for step in range(40):
        batch = task.train_batch(torch.arange(64), torch.Generator().manual_seed(step))
        torch.manual_seed(step)
        optimizer.zero_grad()
        sum(player.loss({"student": learner}, batch).values()).backward()
        optimizer.step()
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name in moved for name in before if name.startswith(("copied.first", "shares")))
    assert any(name.startswith("base.") for name in moved) == whole
    answering, other = error(task.asked[64:]), error(task.asked[64:].flip(0))
    assert answering < 0.6 * other
    if not whole:
        assert sum(p.numel() for p in learned) < 0.5 * sum(p.numel() for p in student.parameters())


# NCT: the generator says its noise z = (z1, z2), and z1 is what is asked for


class Generator(nn.Module):
    """The frozen generator g(z) = z of the noise behind its input; it does not look at the condition."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.base.weight)

    def forward(self, x: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        noise = x.flatten(1) / time[:, None]
        output: Tensor = (self.base(noise) + 0 * rows).reshape(x.shape)
        return output


class Answering(Generator):
    """f(z, c) = g(z) + A z + b c."""

    def __init__(self) -> None:
        super().__init__()
        self.change, self.answer = nn.Linear(2, 2, bias=False), nn.Linear(1, 2, bias=False)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.answer.weight)

    def forward(self, x: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        noise = x.flatten(1) / time[:, None]
        return super().forward(x, time, rows) + (self.change(noise) + self.answer(rows)).reshape(x.shape)


def nct(**options: Any) -> tuple[Any, Any]:
    task = bed(conditions=torch.zeros(128, 1), drop=0.0, seen_in=lambda samples: samples.flatten(1)[:, :1])
    samples = torch.randn(256, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    task.clean, task.real = samples[:128], {"validation": samples[128:192], "test": samples[192:]}
    found, student = method(NoiseConsistency, task, Generator(), Answering(), **options)
    learner = WithExtra(student, found.extra)
    found.players(learner, OptimizerSettings("adamw", 1e-2))
    return found, learner


def test_only_what_was_added_learns_and_a_task_must_say_what_is_seen() -> None:
    _, learner = nct()
    assert {name for name, p in learner.student.named_parameters() if not p.requires_grad} == {"base.weight"}
    with pytest.raises(RecipeError, match="seen_in"):
        plain(NoiseConsistency, bed(), Gaussian(), Gaussian(), whole=True)


@pytest.mark.parametrize("points", [1, 4])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_at_rest_the_condition_is_answered_in_full_and_the_rest_is_as_free_as_the_boundary_is_heavy(
    points: int, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """f = (c, a z2) with a = w / (w + 1 - r), r the correlation of neighbours: all of w's pull against the shrinking.

    The draws are made such that their moments are exactly those of the standard normal.
    """
    found, learner = nct(points=points, boundary=weight, ascent=0.0)
    found.teacher.double()
    learner.double()
    white = torch.linalg.qr(torch.randn(50, 4, dtype=torch.float64))[0] * math.sqrt(50)
    draws = [white[:, start : start + 2].reshape(50, 1, 1, 2).repeat(points, 1, 1, 1) for start in (0, 2)]
    numbers = torch.arange(points).repeat_interleave(50)

    def gradient(a: float) -> float:
        with torch.no_grad():
            learner.student.change.weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, a - 1]]))
            learner.student.answer.weight.copy_(torch.tensor([[1.0], [0.0]]))
        waiting = iter(draws)
        monkeypatch.setattr(found, "noise", lambda count: next(waiting))
        monkeypatch.setattr(found, "condition", lambda count: (torch.zeros(50 * points, 1, dtype=torch.float64),))
        with monkeypatch.context() as drawing:
            drawing.setattr(noise_consistency.torch, "randint", lambda *_, **__: numbers)
            terms = found.loss(learner, numbers)
        learned = [learner.student.change.weight, learner.student.answer.weight]
        return max(float(g.abs().max()) for g in torch.autograd.grad(sum(terms.values()), learned))

    shrinking = 1 - math.cos(math.pi / 2 / points)
    assert gradient(weight / (weight + shrinking)) < 1e-7
    assert gradient(1.0) > 0.9 * shrinking and gradient(0.3 * weight / (weight + shrinking) + 0.1) > 1e-3


def test_the_boundary_s_weight_follows_its_margin_and_is_kept_with_the_student() -> None:
    found, learner = nct(boundary=0.5, margin=0.2, ascent=0.1)
    batch = batch_of(found.task)
    with torch.no_grad():
        learner.student.change.weight.copy_(torch.eye(2))  # f(z) = 2 z: about 1 from g
    torch.manual_seed(0)
    begun = float(found.loss(learner, batch)["boundary"]) / 0.5
    assert begun > 0.8 and float(learner.extra.boundary) == pytest.approx(0.5 + 0.1 * (begun - 0.2), rel=1e-5)
    with torch.no_grad():
        learner.student.change.weight.zero_()  # f = g
    for _ in range(60):
        found.loss(learner, batch)
    assert float(learner.extra.boundary) == 0.0 and "extra.boundary" in learner.state_dict()
    fixed, learner = nct(boundary=0.5, ascent=0.0)
    fixed.loss(learner, batch)
    assert float(learner.extra.boundary) == 0.5


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_it_learns_to_answer_and_without_the_boundary_all_answers_become_one(weight: float) -> None:
    found, learner = nct(points=5, boundary=weight, ascent=0.0)
    optimizer = torch.optim.Adam([p for p in learner.student.parameters() if p.requires_grad], lr=0.05)
    for step in range(400):
        torch.manual_seed(step)
        optimizer.zero_grad()
        sum(found.loss(learner, torch.zeros(64)).values()).backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 400)
    latent = torch.randn(2000, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = found.generate(found.denoiser(learner.student), latent, (torch.full((2000, 1), 1.5),)).flatten(1)
    spread = weight / (weight + 1 - math.cos(math.pi / 10))
    if weight:
        assert float((made[:, 0] - 1.5).abs().mean()) < 0.1
    assert float(made[:, 1].std()) == pytest.approx(spread, abs=0.1)
