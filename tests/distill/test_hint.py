"""FitNets hints: the regressor sizes itself, learns, lowers the hint loss, and never enters the student."""

from __future__ import annotations

import pytest
import torch

from compress.distill import Hint, Learner, Settings
from compress.errors import ModelError
from tests.distill.common import INPUTS, batch, pair


def _learner(weight: float = 1.0) -> tuple[Hint, Learner]:
    teacher, student = pair()
    method = Hint(
        teacher,
        student,
        INPUTS,
        Settings(feature_weight=weight, teacher_layer="block1.bn2", student_layer="block1.bn2"),
    )
    return method, Learner(student, method.extra)


def test_the_regressor_maps_the_students_width_to_the_teachers() -> None:
    method, _ = _learner()
    assert (method.extra.in_channels, method.extra.out_channels) == (8, 16)


def test_an_identical_student_with_an_identity_regressor_has_no_hint_loss() -> None:
    teacher, student = pair(cut=False)
    method = Hint(teacher, student, INPUTS, Settings())
    method.extra.weight.data = torch.eye(len(method.extra.weight)).view_as(method.extra.weight)
    method.extra.bias.data.zero_()
    hint = method.loss(Learner(student.eval(), method.extra), batch())["hint"]
    assert hint.item() == pytest.approx(0, abs=1e-10)


def test_the_hint_reaches_only_what_lies_before_the_tap() -> None:
    method, learner = _learner()
    method.loss(learner, batch())["hint"].backward()
    touched = {name for name, p in learner.student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"stem.weight", "block1.conv2.weight"} <= touched
    assert not any(name.startswith(("block2", "down", "head")) for name in touched)
    assert method.extra.weight.grad is not None


def test_training_lowers_the_hint_loss_and_its_ablation_does_not() -> None:
    def after(weight: float) -> float:
        method, learner = _learner(weight)
        optimizer = torch.optim.SGD(learner.parameters(), 0.05)
        for _ in range(30):
            optimizer.zero_grad()
            sum(method.loss(learner, batch()).values()).backward()
            optimizer.step()
        return float(method.loss(learner, batch())["hint"]) / max(weight, 1e-9)

    start_method, start_learner = _learner()
    start = float(start_method.loss(start_learner, batch())["hint"])
    assert after(5.0) < 0.7 * start
    assert after(5.0) < 0.8 * after(1e-6)


def test_an_unknown_layer_is_named() -> None:
    teacher, student = pair()
    with pytest.raises(ModelError, match="no layer 'nowhere'"):
        Hint(teacher, student, INPUTS, Settings(teacher_layer="nowhere", student_layer="stem"))
