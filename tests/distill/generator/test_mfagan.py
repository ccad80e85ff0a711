"""Mfagan: the student's discriminator imitates that of the teacher, and does not overpower the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from compress.distill.generator.mfagan import Mfagan
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


def built(task: Any = None, **options: Any) -> tuple[Mfagan, fx.GraphModule]:
    """The method for a fresh pair, and its student."""
    teacher, student = pair()
    given = {"adversary": {**LIGHT, "penalty": "none"}, **options}
    return Mfagan(teacher, student, INPUTS, Mfagan.options_from(given), task or paired()), student


def test_equal_discriminators_have_nothing_to_learn_from_each_other() -> None:
    method, _ = built()
    assert method.adversary is not None
    seen = torch.randn(4, 1, 8, 8)
    assert float(method.imitated(method.adversary.discriminator, seen, None)["judge feature"].detach()) > 0
    method.adversary.load_state_dict(method.model_judge.state_dict())
    terms = method.imitated(method.adversary.discriminator, seen, None)
    assert [float(term.detach()) for term in terms.values()] == [0, 0]


def test_the_imitation_teaches_the_students_discriminator_alone() -> None:
    method, student = built()
    assert method.adversary is not None
    batch = batch_of(method.task)
    method.loss(learner_of(method, student), batch)
    terms = method.discriminator_loss({"discriminator": method.adversary}, batch)
    (terms["judge feature"] + terms["judge logit"]).backward()
    assert has_gradient(method.adversary) and not has_gradient(method.model_judge) and not has_gradient(student)


def test_both_discriminators_and_the_student_learn_and_the_teacher_does_not(tmp_path: Path) -> None:
    method, student = built()
    assert method.adversary is not None
    watched = {"teacher": method.teacher, "judge": method.adversary, "model": method.model_judge, "student": student}
    before = {name: state(module) for name, module in watched.items()}
    history = taught(method, student, tmp_path, 1).history
    assert [name for name, module in watched.items() if same(before[name], state(module))] == ["teacher"]
    wanted = {"student.gan", "student.feature", "discriminator.judge logit", "teacher_judge.adversarial"}
    assert wanted <= history[0].keys()


def test_a_distilled_discriminator_is_less_sure(tmp_path: Path) -> None:
    """The ablation: the same game with the imitation switched off."""
    signs = {}
    for weight in (0.0, 10.0):
        method, student = built(
            judge_feature=weight, judge_logit=weight, adversary_learning_rate=5e-3, gan=0.001, feature=0,
            adversary={**LIGHT, "penalty": "none", "loss": "hinge"},
        )  # fmt: skip
        with torch.no_grad():  # a teacher whose outputs are nearly real ones, so that they are hard to tell
            method.teacher.forward = lambda x: 1 - x + 0.01 * torch.sin(50 * x)
        method.remembered.teacher = method.teacher
        stats = taught(method, student, tmp_path / str(weight), 8, 1e-5).history[-1]["stats"]
        signs[weight] = stats["sign_real"] + stats["sign_fake"]
    assert signs[10.0] < signs[0.0] - 0.2


def test_a_noised_discriminator_is_imitated_on_clean_samples() -> None:
    method, _ = built(adversary={**LIGHT, "noise": True})
    assert method.adversary is not None
    terms = method.imitated(method.adversary.discriminator, torch.randn(2, 1, 8, 8), None)
    assert all(bool(torch.isfinite(term)) for term in terms.values())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="give the game a weight above 0"):
        built(gan=0)
    method, student = built(task=ImageToImage(pictures(32), pictures(8, 1), pictures(8, 2)))
    with pytest.raises(RecipeError, match="needs real outputs beside the teacher's"):
        taught(method, student, tmp_path, 1)
