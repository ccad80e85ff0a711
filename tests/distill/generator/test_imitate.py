"""The slots that all generator methods share, on the plain method: terms, taps, remembered teachers, the adversary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.distill.generator import Imitate, Options, Terms
from compress.distill.generator.base import gram, same_crop
from compress.distill.generator.memory import Remembered
from compress.distill.generator.taps import chosen_taps
from compress.errors import CompressError, ModelError, RecipeError
from compress.tasks import ImageToImage
from tests.distill.generator.small import (
    INPUTS,
    LIGHT,
    batch_of,
    error,
    has_gradient,
    learner_of,
    pair,
    paired,
    pictures,
    taught,
)


def method(student: Any, teacher: Any, task: Any, /, **options: Any) -> Imitate:
    return Imitate(teacher, student, INPUTS, Imitate.options_from(options), task.with_teacher(teacher))


def test_the_terms_by_hand() -> None:
    teacher, student = pair()
    task = paired(data_range=1.0)
    made = method(student, teacher, task, teacher={"pixel": 2.0}, target={"pixel": 3.0, "norm": "l2"})
    batch = batch_of(task)
    found = {name: term.detach() for name, term in made.loss(learner_of(made, student), batch).items()}
    with torch.no_grad():
        ours, theirs = student(*batch.inputs), teacher(*batch.inputs)
    assert set(found) == {"pixel", "target pixel"}
    assert float(found["pixel"]) == pytest.approx(2 * float((2 * (ours - theirs)).abs().mean()), rel=1e-3)
    assert float(found["target pixel"]) == pytest.approx(
        3 * float((2 * (ours - batch.target)).square().mean()), rel=1e-5
    )


def test_a_copy_of_the_teacher_has_nothing_to_learn() -> None:
    teacher, student = pair(cut=False)
    made = method(student, teacher, paired(), teacher={"pixel": 1.0, "norm": "l2"})
    terms = made.loss(learner_of(made, student), batch_of(made.task))
    assert float(terms["pixel"].detach()) == pytest.approx(0.0, abs=1e-6)  # remembered as float16


def test_only_the_student_and_its_connectors_get_a_gradient() -> None:
    teacher, student = pair()
    made = method(student, teacher, paired(), feature=1.0)
    learner = learner_of(made, student)
    learner.requires_grad_(True)
    torch.stack(list(made.loss(learner, batch_of(made.task)).values())).sum().backward()
    assert made.extra is not None and has_gradient(made.extra) and has_gradient(student)
    assert not has_gradient(teacher)


def test_taps_lie_over_the_depth_and_may_be_named() -> None:
    teacher, student = pair()
    assert chosen_taps(teacher, student, ()) == ["encoder.3", "decoder.0"]
    assert chosen_taps(teacher, student, ("encoder.3",)) == ["encoder.3"]
    with pytest.raises(ModelError, match=r"no layer 'decoder\.9'; it has encoder\.0"):
        chosen_taps(teacher, student, ("decoder.9",))


def test_an_identical_feature_costs_nothing_through_an_identity() -> None:
    teacher, student = pair(cut=False)
    made = method(student, teacher, paired(), feature=1.0)
    learner = learner_of(made, student)
    assert made.extra is not None
    for connector in made.extra["connectors"]:  # type: ignore[index]
        nn.init.dirac_(connector.weight)
        nn.init.zeros_(connector.bias)
    assert float(made.loss(learner, batch_of(made.task))["feature"].detach()) == pytest.approx(0.0, abs=1e-6)


class Counting(nn.Module):
    """Counts the samples that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return 2 * x


def test_a_remembered_teacher_is_asked_once_for_each_sample() -> None:
    task = ImageToImage(pictures(8), pictures(4, 1), pictures(4, 2))
    teacher = Counting()
    remembered = Remembered(teacher)
    batch = task.train_batch(torch.tensor([3, 5]), torch.Generator())
    assert batch.sample_ids is not None
    for _ in range(3):
        torch.testing.assert_close(remembered(batch), 2 * batch.inputs[0], atol=2e-3, rtol=0)
    assert teacher.seen == 2
    again = task.train_batch(torch.tensor([5, 1]), torch.Generator())
    remembered(again)
    assert teacher.seen == 3
    remembered(replace(again, sample_ids=None))  # drawn anew: nothing may be remembered
    assert teacher.seen == 5


def test_what_does_not_fit_is_computed_every_time() -> None:
    task = ImageToImage(pictures(8), pictures(4, 1), pictures(4, 2))
    teacher = Counting()
    remembered = Remembered(teacher, limit_bytes=200)  # one picture of 64 float16 values
    batch = task.train_batch(torch.tensor([0, 1]), torch.Generator())
    first = remembered(batch)
    assert torch.equal(first, remembered(batch)) and teacher.seen == 3


def test_a_students_gan_loss_reaches_the_student_and_no_discriminator() -> None:
    teacher, student = pair()
    made = method(student, teacher, paired(), teacher={"pixel": 0.0}, gan=0.5, adversary=LIGHT)
    learner = learner_of(made, student)
    learner.requires_grad_(True)
    terms = made.loss(learner, batch_of(made.task))
    assert set(terms) == {"gan"} and made.adversary is not None
    terms["gan"].backward()
    assert has_gradient(student) and not has_gradient(made.adversary)
    for parameter in student.parameters():
        parameter.grad = None
    turn = made.discriminator_loss({"discriminator": made.adversary}, batch_of(made.task))
    torch.stack(list(turn.values())).sum().backward()
    assert has_gradient(made.adversary) and not has_gradient(student)
    assert set(made.adversary_stats()) >= {"sign_real", "sign_fake"}


def test_real_is_the_tasks_output_or_the_teachers(tmp_path: Path) -> None:
    teacher, student = pair()
    batch, wanted = batch_of(paired()), torch.zeros(8, 1, 8, 8)
    made = method(student, teacher, paired(), gan=1.0, adversary=LIGHT)
    assert made.real(wanted, batch) is batch.target
    assert made.real(wanted, replace(batch, target=None)) is wanted
    made = method(student, teacher, paired(), gan=1.0, adversary=LIGHT, real="teacher")
    assert made.real(wanted, batch) is wanted
    made = method(student, teacher, paired(), gan=1.0, adversary=LIGHT, real="target")
    with pytest.raises(RecipeError, match="no real outputs"):
        made.real(wanted, replace(batch, target=None))


def test_a_discriminator_can_wait_for_its_turn(tmp_path: Path) -> None:
    teacher, student = pair()
    made = method(student, teacher, paired(), gan=1.0, gan_start=0.5, adversary=LIGHT)
    assert made.adversary is not None
    before = [p.clone() for p in made.adversary.parameters()]
    result = taught(made, student, tmp_path, epochs=2)
    first, second = result.history
    assert "student.gan" not in first and "student.gan" in second
    assert any(not torch.equal(a, b) for a, b in zip(before, made.adversary.parameters(), strict=True))


def test_a_student_learns_what_the_teacher_does(tmp_path: Path) -> None:
    teacher, student = pair()
    task = paired(256)
    taught(method(teacher, teacher, task, teacher={"pixel": 0.0}, target={"pixel": 1.0}), teacher, tmp_path / "t", 8)
    before, wanted = error(student, task), error(teacher, task)
    taught(method(student, teacher.eval(), task), student, tmp_path / "s", 8)
    assert error(student, task) < 0.5 * before and error(student, task) < wanted + 0.5 * (before - wanted)


def test_a_data_free_task_needs_no_target(tmp_path: Path) -> None:
    teacher, student = pair()
    task = ImageToImage(pictures(32), pictures(8, 1), pictures(8, 2), batch_size=8)
    result = taught(method(student, teacher, task, gan=0.1, adversary=LIGHT), student, tmp_path, 2)
    assert {"student.pixel", "student.gan"} <= set(result.history[0]) and "stats" in result.history[0]


def test_crops_are_the_same_of_both() -> None:
    first = torch.arange(2 * 3 * 9 * 7).float().view(2, 3, 9, 7)
    a, b = same_crop(first, first + 1, 4)
    assert a.shape == (2, 3, 4, 4) and torch.equal(a + 1, b)
    assert same_crop(first, first, 8)[0].shape == (2, 3, 8, 7)


def test_a_gram_matrix_forgets_places() -> None:
    feature = torch.randn(2, 5, 4, 4)
    shuffled = feature.flatten(2)[:, :, torch.randperm(16)].view(2, 5, 4, 4)
    torch.testing.assert_close(gram(feature), gram(shuffled))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gam": 1.0}, r"distill\.options\.gam: unknown key; known: .*gan"),
        (
            {"teacher": {"pixels": 1.0}},
            r"distill\.options\.teacher\.pixels: unknown key; known: pixel, norm, perceptual",
        ),
        ({"gan": "much"}, r"distill\.options\.gan: "),
        ({"real": "photographs"}, r"distill\.options\.real: "),
        ({"adversary": {"discriminator": "patchgan"}}, "patch"),
        ({"adversary": {"penalty_weight": -1.0}}, "penalty_weight"),
    ],
)
def test_options_are_checked_at_birth(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CompressError, match=said):
        Imitate.options_from(options)


def test_options_lie_over_the_methods_own() -> None:
    made = Imitate.options_from({"teacher": {"perceptual": 0.5}, "adversary": {"discriminator": "patch"}})
    assert made.teacher == Terms(pixel=1.0, perceptual=0.5) and isinstance(made, Options)
    assert made.adversary.discriminator == "patch" and made.adversary.loss == "relativistic"


def test_a_teacher_that_no_term_asks_for_is_not_run() -> None:
    teacher, student = pair()
    made = method(student, teacher, paired(), teacher={"pixel": 0.0}, target={"pixel": 1.0})
    asked: list[Any] = []
    made.remembered = asked.append  # type: ignore[assignment]
    assert set(made.loss(learner_of(made, student), batch_of(made.task))) == {"target pixel"} and not asked
    assert method(student, teacher, paired()).reference(batch_of(paired())).shape == (8, 1, 8, 8)


def test_the_teacher_is_asked_once_a_step_however_many_play(tmp_path: Path) -> None:
    teacher, student = pair()
    splits = [pictures(32), pictures(8, 1), pictures(8, 2)]
    task = ImageToImage(*splits, batch_size=8, augment=lambda x, generator: x.flip(3))  # drawn anew: nothing is kept
    made = method(student, teacher, task, gan=0.1, adversary=LIGHT)
    asked: list[int] = []
    handle = teacher.register_forward_hook(lambda *_: asked.append(1))
    taught(made, student, tmp_path, epochs=1)
    handle.remove()
    assert len(asked) == 4  # 32 pictures in batches of 8
