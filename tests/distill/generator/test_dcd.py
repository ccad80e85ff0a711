"""Dcd: features are compared through the discriminator, which learns beside and gets no gradient from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx
from torch.nn import functional as F

from compress.distill.generator.dcd import Dcd, connector
from compress.distill.generator.taps import Features
from compress.errors import RecipeError
from compress.tasks import ImageToImage
from tests.distill.generator.small import (
    INPUTS,
    LIGHT,
    batch_of,
    has_gradient,
    learner_of,
    pair,
    paired,
    pictures,
    same,
    state,
    taught,
)

PIXELS = {"teacher": {"pixel": 1.0, "perceptual": 0.0, "style": 0.0}, "adversary": LIGHT}


def built(cut: bool = True, task: Any = None, **options: Any) -> tuple[Dcd, fx.GraphModule]:
    """The method for a fresh pair, and its student."""
    teacher, student = pair(cut)
    return Dcd(teacher, student, INPUTS, Dcd.options_from({**PIXELS, **options}), task or paired()), student


def test_equal_networks_and_connectors_are_at_distance_0() -> None:
    method, student = built(cut=False)
    learner = learner_of(method, student)
    assert float(method.loss(learner, batch_of(method.task))["dcd"].detach()) > 0.01
    learner.extra["phi_student"].load_state_dict(learner.extra["phi_teacher"].state_dict())
    terms = method.loss(learner, batch_of(method.task))
    assert float(terms["dcd"].detach()) == 0 and float(terms["pixel"].detach()) == 0


def test_the_loss_is_the_papers() -> None:
    method, student = built(judged=(0, 1), taps=("encoder.0", "decoder.0"), dcd=3.0)
    learner, batch = learner_of(method, student), batch_of(method.task)
    with torch.no_grad():
        theirs, ours = Features(method.teacher, method.points), Features(student, method.points)
        theirs(*batch.inputs), ours(*batch.inputs)
        wanted = torch.zeros(())
        tower = method.adversary.discriminator.towers[0]  # type: ignore[union-attr]
        for number, tap in enumerate(("encoder.0", "decoder.0")):
            s = learner.extra["phi_student"][number](ours.caught[tap])
            t = learner.extra["phi_teacher"][number](theirs.caught[tap])
            wanted = wanted + F.l1_loss(tower[0](s), tower[0](t))
            wanted = wanted + F.l1_loss(tower[1](tower[0](s)), tower[1](tower[0](t)))
    got = float(method.loss(learner, batch)["dcd"].detach())
    assert got == pytest.approx(3 * float(wanted), rel=1e-5)


def test_its_gradient_reaches_student_and_connectors_and_nobody_else() -> None:
    method, student = built(teacher_mode="online")
    learner = learner_of(method, student)
    method.loss(learner, batch_of(method.task))["dcd"].backward()
    assert method.adversary is not None
    assert not has_gradient(method.adversary) and not has_gradient(method.teacher)
    assert has_gradient(student.encoder) and has_gradient(learner.extra["phi_student"])
    assert has_gradient(learner.extra["phi_teacher"])
    assert all(p.requires_grad for p in method.adversary.discriminator.parameters())  # frozen for that turn only


def test_small_maps_are_judged_at_the_size_of_an_output() -> None:
    method, _ = built()
    assert method.adversary is not None
    small = torch.rand(2, 1, 2, 2)
    (seen,) = method.seen(method.adversary.discriminator, small)
    (whole,) = method.seen(method.adversary.discriminator, F.interpolate(small, size=(8, 8)))
    assert torch.equal(seen, whole)
    assert connector(torch.zeros(2, 5, 7), 1)(torch.zeros(2, 5, 7)).shape == (2, 1, 7)  # sound


def test_the_students_own_game_is_off_unless_asked_for() -> None:
    for gan, names in ((0.0, {"pixel", "dcd"}), (0.5, {"pixel", "dcd", "gan"})):
        method, student = built(gan=gan)
        assert method.loss(learner_of(method, student), batch_of(method.task)).keys() == names


def test_the_discriminator_sees_the_teachers_outputs_against_real_ones() -> None:
    method, student = built()
    batch = batch_of(method.task)
    method.loss(learner_of(method, student), batch)
    fake, real, _ = method._shown  # type: ignore[misc]
    with torch.no_grad():
        assert torch.equal(fake, method.teacher(*batch.inputs)) and torch.equal(real, batch.target)


def test_without_real_outputs_it_sees_the_students_against_the_teachers(tmp_path: Path) -> None:
    task = ImageToImage(pictures(32), pictures(8, 1), pictures(8, 2))
    method, student = built(task=task)
    batch = batch_of(task)
    method.loss(learner_of(method, student), batch)
    fake, real, _ = method._shown  # type: ignore[misc]
    with torch.no_grad():
        assert torch.equal(fake, student(*batch.inputs)) and torch.equal(real, method.teacher(*batch.inputs))
    online, student = built(task=task, teacher_mode="online")
    with pytest.raises(RecipeError, match="needs real outputs"):
        taught(online, student, tmp_path, 1)


@pytest.mark.parametrize("mode", ["frozen", "online"])
def test_who_learns(mode: str, tmp_path: Path) -> None:
    teacher, student = pair()
    method = Dcd(teacher, student, INPUTS, Dcd.options_from({**PIXELS, "teacher_mode": mode}), paired())
    assert method.adversary is not None
    handed, beside, judge = state(teacher), state(method.teacher), state(method.adversary)
    result = taught(method, student, tmp_path, 1)
    assert same(handed, state(teacher))
    assert same(beside, state(method.teacher)) == (mode == "frozen")
    assert not same(judge, state(method.adversary))
    assert ("teacher.pixel" in result.history[0]) == (mode == "online")
    assert {"student.dcd", "discriminator.adversarial"} <= result.history[0].keys()


def test_the_online_teacher_takes_its_turn_at_every_few_steps(tmp_path: Path) -> None:
    method, student = built(teacher_mode="online", teacher_every=4)
    every = {p.name: p.every for p in method.players(learner_of(method, student), None)}  # type: ignore[arg-type]
    assert every == {"student": 1, "discriminator": 4, "teacher": 4}


def test_the_student_alone_can_bring_the_features_together() -> None:
    """Connectors and discriminator stay as they are: what falls is the student's doing."""
    method, student = built(taps=("decoder.2",), judged=(0, 1))
    learner, batch = learner_of(method, student), batch_of(method.task, 32)
    learner.extra["phi_student"].load_state_dict(learner.extra["phi_teacher"].state_dict())
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        terms = method.loss(learner, batch)
        optimizer.zero_grad()
        terms["dcd"].backward()
        optimizer.step()
        losses.append(float(terms["dcd"].detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"judged: the discriminator has layers 0 to 1"):
        built(judged=(2,))
    with pytest.raises(RecipeError, match=r"lesson: every weight is 0"):
        built(teacher_mode="online", lesson={"pixel": 0}, lesson_gan=0)
    with pytest.raises(RecipeError, match=r"distill\.options\.n_dis: unknown key"):
        built(n_dis=4)
