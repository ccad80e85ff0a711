"""Progressive distillation with a discriminator, and learning from cached pairs: who is shown what, and when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.diffusion import heun, karras_levels, table_of
from compress.distill import Learner
from compress.distill.diffusion.heads import encoder_layers
from compress.distill.diffusion.lightning import Lightning
from compress.distill.diffusion.pairs_gan import PairsGan
from compress.distill.diffusion.progressive import Progressive
from compress.distill.diffusion.trajectory import euler_step
from compress.distill.lora import Lora
from compress.errors import RecipeError
from compress.train import OptimizerSettings
from tests.distill.diffusion.common import SAYS_CLEAN, batch_of, bed, euler, method

ADAM = OptimizerSettings("adamw", 1e-3)


class Picture(nn.Module):
    """A denoiser of 8 x 8 samples with a convolution at a lower resolution."""

    def __init__(self, conditions: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 1, 1)
        self.asks = nn.Linear(conditions, 8, bias=False) if conditions else None

    def forward(self, x: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        deep = self.down(x)
        if self.asks is not None:
            deep = deep + self.asks(condition[0])[:, :, None, None]
        deep = deep.relu() + 0 * time.reshape(-1, 1, 1, 1)
        return self.up(nn.functional.interpolate(deep, scale_factor=2.0))


class Shift(nn.Module):
    """Says a constant picture, and a little of what it is given."""

    def __init__(self, value: float = -1.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        return self.value + 0.1 * x + 0 * time.reshape(-1, 1, 1, 1)


class Bright(nn.Module):
    """A teacher that says a picture of ones and a little of what it is given; it has layers to read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = Picture()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return 1 + 0.1 * x + 0 * self.read(x, time)


def pictures(levels: tuple[float, ...], sampler: Any = euler, **settings: Any) -> Any:
    task = bed((*levels, 0.0), sampler, **settings)
    samples = 1 + 0.3 * torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    task.clean, task.real = samples[:128], {"validation": samples[128:192], "test": samples[192:]}
    return task


# SDXL-Lightning


def ladder(epoch: int, student: Any = Shift, **options: Any) -> tuple[Any, Learner, dict[str, Any], Any]:
    """The method in an epoch of four: two rounds, the first with the squared error."""
    task = pictures((4.0, 1.0))
    found, learning = method(Lightning, task, teacher=Bright(), student=student(), halvings=2, **options)
    learner = Learner(learning, found.extra).requires_grad_(True)
    for each in range(epoch + 1):
        found.on_epoch(each, 4)
    return found, learner, {"student": learner, "discriminator": found.judge}, batch_of(task, 16)


def test_rounds_without_a_discriminator_are_progressive_distillation_to_the_bit() -> None:
    found, learner, modules, batch = ladder(0)
    plain, _ = method(Progressive, pictures((4.0, 1.0)), teacher=Bright(), student=Shift(), halvings=2)
    losses = []
    for rule in (
        lambda: found.student_loss(modules, batch),
        lambda: plain.loss(Learner(learner.student, plain.extra), batch),
    ):
        torch.manual_seed(3)
        losses.append(rule())
    assert list(losses[0]) == ["target"] and torch.equal(losses[0]["target"], losses[1]["target"])
    found.discriminator_loss(modules, batch)["waiting"].backward()
    assert all(float(p.grad.abs().sum()) == 0.0 for p in found.judge.parameters())


def test_a_round_begins_with_both_ends_and_closes_with_where_a_step_lands_alone() -> None:
    shown = []
    for epoch in range(4):
        found, _, modules, batch = ladder(epoch)
        terms = found.discriminator_loss(modules, batch)
        if found.is_squared:
            shown.append("none")
            continue
        terms["adversarial"].backward()
        heads = {
            name: any(p.grad is not None for p in getattr(found.judge, name).parameters()) for name in ("head", "pair")
        }
        shown.append("pair" if heads == {"head": False, "pair": True} else "alone" if heads["head"] else "?")
    assert shown == ["none", "none", "pair", "alone"]


def test_student_and_teacher_are_shown_from_the_same_point_with_the_same_noise() -> None:
    """The real landing is two Euler steps of the teacher, the made one a single step of the student, noised alike."""
    found, learner, _, batch = ladder(2, looks=(0.5,))
    seen: list[tuple[Tensor, ...]] = []

    class Judge(nn.Module):
        def pair_logits(self, before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> Tensor:
            seen.append((*before, *after))
            return before[0].mean((1, 2, 3))

    torch.manual_seed(1)
    found.discriminator_loss({"student": learner, "discriminator": Judge()}, batch)
    (x, now, real, level), (again, _, made, same) = seen
    assert torch.equal(x, again) and torch.equal(level, same)
    assert set(now.tolist()) == {4.0, 1.0} and set(level.tolist()) == {1.0, 0.5}  # 0 is raised to the look
    then = torch.where(now == 4.0, 1.0, 0.0)
    middle = ((now ** (1 / 7) + then ** (1 / 7)) / 2) ** 7
    previous = found.denoiser(found.extra["previous"])
    theirs = euler_step(previous, euler_step(previous, x, now, middle, ()), middle, then, ())
    ours = euler_step(found.denoiser(learner), x, now, then, ())
    torch.testing.assert_close(real - made, (theirs - ours).detach(), rtol=1e-4, atol=1e-5)
    noise = (real - theirs).detach()
    assert float(noise[now == 4.0].abs().max()) < 1e-5
    assert float(noise[now == 1.0].std()) == pytest.approx(0.5, rel=0.1)


def test_a_head_for_pairs_reads_both_ends() -> None:
    found, *_ = ladder(2)
    one, other = ((torch.randn(4, 1, 8, 8), torch.ones(4)) for _ in range(2))
    base = found.judge.pair_logits(one, other)
    assert base.shape == (4,) and not torch.allclose(base, found.judge.pair_logits(other, one))
    assert not torch.allclose(base, found.judge.pair_logits(one, one))


@pytest.mark.parametrize("epoch", [2, 3])
def test_each_learns_in_its_own_turn(epoch: int) -> None:
    found, learner, modules, batch = ladder(epoch)
    sum(found.student_loss(modules, batch).values()).backward()
    assert learner.student.value.grad is not None and all(p.grad is None for p in found.judge.parameters())
    learner.zero_grad(set_to_none=True)
    sum(found.discriminator_loss(modules, batch).values()).backward()
    assert all(p.grad is None for p in learner.parameters()) and all(p.grad is None for p in found.teacher.parameters())


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_game_on_a_ladder_moves_the_student_to_its_teacher(epoch: int) -> None:
    """The teacher of the second round is the student of the first, which says 1 here; the student has gone to -1."""
    found, learner, modules, _ = ladder(epoch, student=lambda: Shift(1.0))
    with torch.no_grad():
        learner.student.value.fill_(-1.0)
    players = found.players(learner, ADAM)
    rates = {"student": 0.04, "discriminator": 0.002}
    optimizers = {p.name: torch.optim.Adam(p.module.parameters(), rates[p.name], (0.0, 0.99)) for p in players}
    for step in range(80):
        batch = found.task.train_batch(torch.randperm(128)[:16], torch.Generator().manual_seed(step))
        for player in players:
            torch.manual_seed(step)
            optimizers[player.name].zero_grad()
            sum(player.loss(modules, batch).values()).backward()
            optimizers[player.name].step()
    assert float(learner.student.value.detach()) == pytest.approx(1.0, abs=0.5)


def test_low_rank_students_train_little_and_are_merged_in_the_end() -> None:
    found, learner, modules, batch = ladder(1, student=Picture, rank=2)
    plain = Picture()
    x, time = torch.randn(4, 1, 8, 8), torch.ones(4)
    torch.testing.assert_close(learner.student(x, time), plain(x, time))
    found.players(learner, ADAM)
    learning = [p for p in learner.parameters() if p.requires_grad]
    assert {p.data_ptr() for p in learning} == {
        p.data_ptr() for m in learner.modules() if isinstance(m, Lora) for p in m.parameters()
    }
    optimizer = torch.optim.SGD(learning, 0.1)
    for _ in range(2):  # first the changes' one factor, which begins at zero
        optimizer.zero_grad()
        sum(found.student_loss(modules, batch).values()).backward()
        optimizer.step()
    changed = learner.student(x, time)
    assert not torch.allclose(changed, plain(x, time))
    found.on_epoch(2, 4)
    torch.testing.assert_close(found.extra["previous"](x, time), changed)
    found.finish(learner.student)
    torch.testing.assert_close(learner.student(x, time), changed)
    assert {*learner.student.state_dict()} == {*plain.state_dict()}


# Diffusion2GAN


def paired(**options: Any) -> tuple[Any, nn.Module, dict[str, Any], Any]:
    """The method on pictures of two conditions, and a batch of pairs."""
    rows = torch.eye(2)
    task = pictures(
        (2.5,), conditions=rows[torch.arange(128) % 2], drop=0.0,
        teacher_sampler=table_of("Heun", heun, karras_levels(4, 0.05, 5.0), SAYS_CLEAN),
    )  # fmt: skip
    found, student = method(PairsGan, task, teacher=Picture(2), student=Shift(), pairs=70, **options)
    batch = found.view(batch_of(task, 16), torch.Generator().manual_seed(2))
    return found, student, {"student": student, "discriminator": found.judge}, batch


def test_pairs_are_what_the_teacher_s_sampler_makes_of_their_noises() -> None:
    found, _, _, batch = paired()
    pairs = found.pairs
    wanted = found.task.make_of(found.teacher, pairs.noise, pairs.condition, found.task.teacher_sampler)
    torch.testing.assert_close(pairs.clean, wanted.detach())
    assert pairs.condition.sum(0).tolist() == [35.0, 35.0] and set(pairs.level.tolist()) == {2.5}
    torch.manual_seed(9)  # an interruption: all is made again, and is the same
    again = paired()[0].pairs
    assert torch.equal(again.noise, pairs.noise) and torch.equal(again.clean, pairs.clean)
    assert not torch.equal(pairs.noise[:16], found.task.noises("test", 16))
    place = [int((pairs.noise == noise).flatten(1).all(1).nonzero()) for noise in batch.target.noise]
    assert torch.equal(batch.target.clean, pairs.clean[place]) and len(set(place)) > 8


def test_guidance_is_in_the_pairs() -> None:
    found, *_ = paired(guidance=3.0)
    found.task.teacher_sampler = table_of("one", euler, [5.0, 0.0], SAYS_CLEAN)
    del found.pairs  # those of the other sampler
    noise, condition = found.pairs.noise[:8], found.pairs.condition[:8]
    level = torch.full((8,), 5.0)
    asked, free = (found.teacher(5.0 * noise, level, c) for c in (condition, 0 * condition))
    torch.testing.assert_close(found.pairs.clean[:8], (free + 3 * (asked - free)).detach(), rtol=1e-4, atol=1e-5)


def test_the_distance_is_zero_for_equals_and_both_sides_are_augmented_alike() -> None:
    found, *_ = paired()
    condition = (torch.eye(2)[torch.arange(32) % 2],)
    one, other = torch.randn(2, 32, 1, 8, 8)
    assert float(found.perceptual(one, one, condition).abs().max()) == 0.0
    torch.manual_seed(0)
    assert float(found.perceptual(one, other, condition).min()) > 0.0
    assert encoder_layers(found.teacher, found.task.example_inputs()) == ["down"]


def test_many_views_leave_no_difference_unseen_where_one_does() -> None:
    """Pixels that are moved by the distance alone: two features at 4 x 4 places do not show all of 8 x 8 pixels."""
    left = {}
    for names in ((), ("flip", "rotation", "translation", "cutout")):
        found, *_ = paired(augment=names)
        generator = torch.Generator().manual_seed(4)
        wanted, made = torch.randn(2, 8, 1, 8, 8, generator=generator)
        found.layers = ["down"]
        with torch.no_grad():
            found.teacher.get_submodule("down").weight[2:].zero_()
        made.requires_grad_(True)
        optimizer = torch.optim.Adam([made], 0.03)
        condition = (torch.eye(2)[torch.arange(8) % 2],)
        for step in range(200):
            torch.manual_seed(step)
            optimizer.zero_grad()
            found.perceptual(made, wanted, condition).sum().backward()
            optimizer.step()
        left[bool(names)] = float((made - wanted).detach().square().mean().sqrt())
    assert left[True] < 0.5 * left[False]


def test_a_discriminator_begins_without_an_eye_for_the_noise_and_gets_one() -> None:
    found, _, modules, batch = paired()
    noised, condition = batch.target, (batch.target.condition,)
    verdicts = [found.verdict(found.judge, noised.clean, noise, condition) for noise in (noised.noise, -noised.noise)]
    assert torch.equal(*verdicts)
    found.discriminator_loss(modules, batch)["adversarial"].backward()
    assert float(found.judge.see.weight.grad.abs().sum()) > 0
    with torch.no_grad():
        found.judge.see.weight.fill_(0.5)
    assert not torch.equal(found.verdict(found.judge, noised.clean, -noised.noise, condition), verdicts[0])


def test_a_real_sample_of_another_condition_is_false() -> None:
    found, _, modules, batch = paired()
    asked: list[tuple[Tensor, Tensor]] = []

    def verdict(judge: Any, samples: Tensor, noise: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        asked.append((samples, condition[0]))
        return samples.mean((1, 2, 3)) + found.judge.see.weight.sum()

    found.verdict = verdict
    found.judge.steps.fill_(1)  # no penalty now
    terms = found.discriminator_loss(modules, batch)
    assert set(terms) == {"adversarial", "mismatched"} and len(asked) == 3
    samples, condition = asked[2]
    rows = [int((batch.target.clean == sample).flatten(1).all(1).nonzero()[0]) for sample in samples]
    assert 0 < len(rows) < 16  # where the neighbour has the same condition, nothing is mixed
    assert torch.equal(condition, 1 - batch.target.condition[rows])
    softplus = nn.functional.softplus(samples.mean((1, 2, 3)))
    assert float(terms["mismatched"].detach()) == pytest.approx(float(softplus.mean()), rel=1e-5)


def test_the_penalty_is_of_one_sample_at_every_sixteenth_turn() -> None:
    found, _, modules, batch = paired(r1=2.0)
    due = [step for step in range(34) if "penalty" in found.discriminator_loss(modules, batch)]
    assert due == [0, 16, 32] and int(found.judge.steps) == 34 and "steps" in found.judge.state_dict()
    found.judge.steps.zero_()
    penalty = float(found.discriminator_loss(modules, batch)["penalty"].detach())
    first = batch.target.clean[:1].clone().requires_grad_(True)
    logit = found.verdict(found.judge, first, batch.target.noise[:1], (batch.target.condition[:1],))
    (gradient,) = torch.autograd.grad(logit.sum(), first)
    assert penalty == pytest.approx(16 * 0.5 * 2.0 * float(gradient.square().sum()), rel=1e-4)


def test_without_a_discriminator_pairs_are_regression() -> None:
    found, student, _, batch = paired(gan=0.0)
    assert [player.name for player in found.players(student, ADAM)] == ["student"]
    terms = found.student_loss({"student": student}, batch)
    assert set(terms) == {"perceptual"}
    terms["perceptual"].backward()
    assert float(student.value.grad.abs()) > 0
    both, other, modules, same = paired()
    torch.manual_seed(0)
    found_terms = both.student_loss(modules, same)
    torch.manual_seed(0)
    assert torch.equal(found.student_loss({"student": student}, batch)["perceptual"], found_terms["perceptual"])
    found_terms["gan"].backward()
    assert float(other.value.grad.abs()) > 0 and all(p.grad is None for p in both.judge.parameters())


def test_more_than_one_step_is_refused() -> None:
    with pytest.raises(RecipeError, match="learned in one step, and the task's sampler has 2"):
        method(PairsGan, pictures((2.5, 1.0)), teacher=Picture(), student=Shift())
