"""Ugc: teachers learn from the labelled share only, and the student follows them on every sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from compress.distill.generator.ugc import Ugc
from compress.errors import RecipeError
from compress.tasks import Batch
from tests.distill.generator.small import (
    INPUTS,
    LIGHT,
    batch_of,
    error,
    has_gradient,
    learner_of,
    pair,
    paired,
    same,
    state,
    taught,
)


def built(task: Any = None, partner: bool = False, **options: Any) -> tuple[Ugc, fx.GraphModule]:
    """The method for a fresh pair, and its student."""
    teacher, student = pair()
    second = pair(seed=1)[0] if partner else None
    given = {"adversary": LIGHT, **options}
    return Ugc(teacher, student, INPUTS, Ugc.options_from(given), task or paired(), second), student


def test_the_asked_share_is_labelled_and_always_the_same_samples() -> None:
    for share in (0.1, 0.25, 0.5):
        method, _ = built(labelled=share)
        ids = torch.arange(1000)
        batch = Batch((torch.zeros(1000, 1),), torch.zeros(1000, 1), ids)
        rows = method.rows(batch)
        assert abs(len(rows) - 1000 * share) <= 2
        order = torch.randperm(1000)
        shuffled = replace(batch, sample_ids=ids[order])
        assert torch.equal(ids[order][method.rows(shuffled)].sort().values, ids[rows])


def test_labels_outside_the_share_are_never_looked_at(tmp_path: Path) -> None:
    """The contract of few labels: with every other target broken, nothing changes, bit for bit."""
    states = []
    for broken in (False, True):
        task = paired()
        if broken:
            rows = (torch.arange(64).double() * 0.6180339887498949 % 1 >= 0.25).nonzero()[:, 0]
            task._others["train"] = task._others["train"].index_fill(0, rows, float("nan"))
        torch.manual_seed(3)
        method, student = built(task, target={"pixel": 1.0})
        taught(method, student, tmp_path / str(broken), 2)
        states.append({**state(student), **{f"teacher.{k}": v for k, v in state(method.teacher).items()}})
    assert same(*states)


def test_all_labels_are_the_limit_of_the_share() -> None:
    whole, _ = built(labelled=1.0)
    batch = batch_of(whole.task)
    assert whole.rows(batch) == slice(None)
    assert whole.rows(replace(batch, sample_ids=None)) == slice(None)


def test_the_students_loss_reaches_no_teacher_and_no_discriminator() -> None:
    method, student = built(partner=True)
    sum(method.loss(learner_of(method, student), batch_of(method.task)).values()).backward()  # type: ignore[union-attr]
    assert method.adversary is not None
    assert not any(has_gradient(net) for net in (*method.teachers, method.adversary)) and has_gradient(student)


def test_two_teachers_are_imitated_alike() -> None:
    method, student = built(partner=True, feature=0)
    batch = batch_of(method.task)
    got = method.loss(learner_of(method, student), batch)["pixel"]
    with torch.no_grad():
        output = student(*batch.inputs)
        wanted = [2 * (output - net(*batch.inputs)).abs().mean() for net in method.teachers]
    assert torch.allclose(got, torch.stack(wanted).mean())


def test_the_discriminator_sees_the_labelled_outputs_of_each_teacher_in_turn() -> None:
    method, student = built(partner=True)
    batch = batch_of(method.task, 16)
    method.loss(learner_of(method, student), batch)
    fake, real, _ = method._shown  # type: ignore[misc]
    rows = method.rows(batch)
    with torch.no_grad():
        outputs = [net(*batch.inputs) for net in method.teachers]
    assert torch.equal(real, batch.target[rows])
    assert torch.allclose(fake, torch.stack([outputs[int(row) % 2][row] for row in rows]), atol=1e-6)


def test_the_teachers_learn_on_copies(tmp_path: Path) -> None:
    teacher, student = pair()
    partner = pair(seed=1)[0]
    handed = state(teacher), state(partner)
    method = Ugc(teacher, student, INPUTS, Ugc.options_from({"adversary": LIGHT}), paired(), partner)
    before = [state(net) for net in method.teachers]
    history = taught(method, student, tmp_path, 1).history
    assert same(handed[0], state(teacher)) and same(handed[1], state(partner))
    assert not any(same(old, state(net)) for old, net in zip(before, method.teachers, strict=True))
    assert {"teacher.pixel", "teacher_2.gan", "student.feature"} <= history[0].keys()


def test_a_batch_without_a_label_is_a_turn_without_a_lesson() -> None:
    method, student = built()
    batch = batch_of(method.task)
    none = replace(batch, sample_ids=torch.full((8,), 1))  # the sample number 1 has no label
    assert len(method.rows(none)) == 0
    terms = method.loss(learner_of(method, student), none)
    assert terms.keys() == {"pixel", "feature"}
    for turn in (
        built(teacher={"pixel": 0}, feature=0, target={"pixel": 1})[0].loss(learner_of(method, student), none),
        method.lesson_loss("teacher", {"teacher": method.teacher}, none),
        method.discriminator_loss({"discriminator": method.adversary}, none),  # type: ignore[dict-item]
    ):
        assert turn.keys() == {"waiting"} and float(turn["waiting"].detach()) == 0
        turn["waiting"].backward()


def test_what_the_teacher_learns_reaches_the_student(tmp_path: Path) -> None:
    """The ablation: a teacher that stays as untrained as it was. The student looks at no label either way."""
    errors = {}
    for rate in (0.0, 5e-3):
        torch.manual_seed(0)
        method, student = built(teacher_learning_rate=rate, lesson_gan=0.1)
        taught(method, student, tmp_path / str(rate), 12, 5e-3)
        errors[rate] = error(student, method.task)  # type: ignore[arg-type]
    assert errors[5e-3] < 0.6 * errors[0.0]


def test_what_does_not_fit_is_refused() -> None:
    method, _ = built()
    with pytest.raises(RecipeError, match="the task varies its training samples"):
        method.rows(replace(batch_of(method.task), sample_ids=None))
