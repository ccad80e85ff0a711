"""MobileStyleGan: the terms at every resolution, the part taken over from the teacher, and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.distill import Learner
from compress.distill.generator.mobile_stylegan import MobileStyleGan, coarse_heads
from compress.errors import ModelError
from compress.graph.trace import trace
from compress.students import MobileStyleGan as Student
from compress.students.mobile_stylegan import haar
from compress.tasks import Generation
from tests.distill.generator.small import LIGHT, has_gradient, same, state, taught

LATENT = (torch.zeros(1, 8),)
QUIET = {"teacher": {"perceptual": 0}, "gan": 0}


class Teacher(nn.Module):
    """(N, 8) to (N, 1, 16, 16) through a mapping network of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = Student(8, (4,), mapping=2).mapping
        self.first, self.coarse = nn.Linear(8, 64), nn.Conv2d(4, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(self.mapping(z)).unflatten(1, (4, 4, 4)), 0.2)
        x = F.leaky_relu(self.coarse(x), 0.2)
        x = F.leaky_relu(self.conv(F.interpolate(x, scale_factor=2.0)), 0.2)
        return self.last(F.interpolate(x, scale_factor=2.0)).tanh()


def teacher_graph() -> fx.GraphModule:
    torch.manual_seed(0)
    return trace(Teacher().eval(), LATENT)


def method(options: dict[str, Any], size: int = 64) -> tuple[MobileStyleGan, fx.GraphModule]:
    """The method for a student of 4 -> 8 -> 16 pixels, and the student."""
    teacher = teacher_graph()
    task = Generation.from_noise(8, train_size=size, test_size=16).with_teacher(teacher)
    torch.manual_seed(1)
    student = trace(Student(8, (8, 8), mapping=2, colours=1).eval(), LATENT)
    return MobileStyleGan(teacher, student, LATENT, MobileStyleGan.options_from(options), task), student


def batch(found: MobileStyleGan, count: int = 4) -> Any:
    return found.task.train_batch(torch.arange(count), torch.Generator())


def test_a_head_at_each_resolution_below_the_output_s_half() -> None:
    torch.manual_seed(0)
    scales, heads = coarse_heads(trace(Student(8, (8, 8, 4), mapping=1).eval(), LATENT), LATENT)
    assert len(scales) == 2  # 4 and 8; at 16 the output itself is made
    assert [(head.in_channels, head.out_channels) for head in heads] == [(8, 12), (8, 12)]


def test_a_student_that_gives_the_teacher_s_picture_is_charged_for_its_heads_alone() -> None:
    teacher = teacher_graph()
    task = Generation.from_noise(8, train_size=8, test_size=8).with_teacher(teacher)
    found = MobileStyleGan(teacher, teacher, LATENT, MobileStyleGan.options_from(QUIET), task)
    learner, samples = Learner(teacher, found.extra), batch(found)
    for head in found.extra["heads"]:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    terms = found.loss(learner, samples)
    wanted = F.interpolate(teacher(*samples.inputs), size=8, mode="area")
    expected = wanted.abs().mean() + wanted.square().mean()
    assert terms["pyramid"].item() == pytest.approx(expected.item(), rel=1e-3)
    coarse = haar(wanted)
    assert terms["wavelet"].item() == pytest.approx((coarse.abs().mean() + coarse.square().mean()).item(), rel=1e-3)


def test_the_gradient_of_a_coarse_head_reaches_only_what_comes_before() -> None:
    found, student = method(QUIET)
    learner = Learner(student, found.extra)
    found.loss(learner, batch(found))  # catches the features
    found.loss(learner, batch(found))
    sum(next(iter(found._coarse())).square().mean().unsqueeze(0)).backward()
    assert has_gradient(student.first) and has_gradient(found.extra["heads"][0])
    assert not has_gradient(student.blocks) and not has_gradient(student.to_wavelets)


def test_the_wavelet_term_weighs_what_pixels_hardly_show() -> None:
    """A checkerboard of small size is 1 / 4 of its coefficients and 4 of 4 pixels, but half as large there."""
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None] * 0.1
    assert float(haar(board).abs().amax()) == pytest.approx(0.2)
    assert int((haar(board).abs() > 1e-6).flatten(2).any(2).sum()) == 1


def test_the_shared_part_is_the_teacher_s_before_and_after(tmp_path: Path) -> None:
    found, student = method({**QUIET, "shared": "mapping"})
    assert same(state(student.mapping), state(found.teacher.mapping))
    first = state(student.first)
    taught(found, student, tmp_path)
    assert same(state(student.mapping), state(found.teacher.mapping))
    assert not same(state(student.first), first)


def test_without_sharing_it_learns_too(tmp_path: Path) -> None:
    found, student = method(QUIET)
    mapping = state(student.mapping)
    taught(found, student, tmp_path)
    assert not same(state(student.mapping), mapping)


def test_training_comes_closer_at_every_resolution(tmp_path: Path) -> None:
    found, student = method({**QUIET, "shared": "mapping"}, size=128)
    learner = Learner(student, found.extra)
    before = found.loss(learner, batch(found, 32))
    taught(found, student, tmp_path, epochs=8, rate=5e-3)
    after = found.loss(learner, batch(found, 32))
    for name in ("pyramid", "wavelet"):
        assert float(after[name].detach()) < 0.8 * float(before[name].detach())


def test_its_discriminator_plays_along(tmp_path: Path) -> None:
    found, student = method({**QUIET, "gan": 0.5, "adversary": LIGHT})
    assert found.adversary is not None
    before = state(found.adversary.discriminator)
    result = taught(found, student, tmp_path, epochs=1)
    assert not same(state(found.adversary.discriminator), before)
    assert result.history[-1]["student.gan"] > 0


def test_a_part_that_differs_is_named() -> None:
    with pytest.raises(ModelError, match="'first' is not the same part"):
        method({**QUIET, "shared": "first"})


def test_other_outputs_are_refused() -> None:
    linear = trace(nn.Linear(8, 8).eval(), LATENT)
    with pytest.raises(ModelError, match="square images"):
        coarse_heads(linear, LATENT)
