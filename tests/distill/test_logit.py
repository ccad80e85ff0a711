"""Logit distillation (FunMatch): exact limits, one view for both, no labels needed, patience pays."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from compress.distill import Learner, Logit, Settings, kl_divergence
from tests.distill.common import INPUTS, batch, pair


def test_a_student_equal_to_its_teacher_has_no_loss() -> None:
    teacher, student = pair(cut=False)
    loss = Logit(teacher, student, INPUTS, Settings()).loss(Learner(student.eval()), batch())
    assert set(loss) == {"kd"}
    assert float(loss["kd"]) == pytest.approx(0, abs=1e-6)


def test_divergence_equals_the_definition_averaged_over_samples() -> None:
    student, teacher = torch.randn(6, 10), torch.randn(6, 10)
    p, q = F.softmax(teacher / 3, 1), F.softmax(student / 3, 1)
    expected = (p * (p / q).log()).sum(1).mean() * 9
    assert float(kl_divergence(student, teacher, 3.0)) == pytest.approx(float(expected), rel=1e-5)


def test_gradient_in_the_high_temperature_limit_is_that_of_matching_centred_logits() -> None:
    student, teacher = torch.randn(4, 10, requires_grad=True), torch.randn(4, 10)
    kl_divergence(student, teacher, 1e3).backward()
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    assert torch.allclose(student.grad, centred.detach() / 10 / 4, atol=1e-4)


def test_teacher_and_student_see_the_very_same_view() -> None:
    teacher, student = pair()
    seen: dict[str, torch.Tensor] = {}
    teacher.stem.register_forward_hook(lambda m, i, o: seen.__setitem__("teacher", i[0]))
    student.stem.register_forward_hook(lambda m, i, o: seen.__setitem__("student", i[0]))
    method = Logit(teacher, student, INPUTS, Settings(mixup=1.0))
    view = method.view(batch(), torch.Generator().manual_seed(0))
    assert not torch.equal(view.inputs[0], batch().inputs[0]), "mixup must mix"
    assert view.target is None, "labels do not fit mixed images"
    method.loss(Learner(student), view)
    assert seen["teacher"] is seen["student"]


def test_labels_enter_by_their_weight_only() -> None:
    teacher, student = pair()
    student.eval()
    pure = Logit(teacher, student, INPUTS, Settings(), F.cross_entropy).loss(Learner(student), batch())
    mixed = Logit(teacher, student, INPUTS, Settings(label_weight=0.25), F.cross_entropy).loss(
        Learner(student), batch()
    )
    assert set(pure) == {"kd"}
    assert float(mixed["kd"]) == pytest.approx(0.75 * float(pure["kd"]), rel=1e-5)
    expected = 0.25 * F.cross_entropy(student(*batch().inputs), batch().target)
    assert float(mixed["label"]) == pytest.approx(float(expected), rel=1e-5)


def test_only_the_student_gets_gradients() -> None:
    teacher, student = pair()
    loss = Logit(teacher, student, INPUTS, Settings()).loss(Learner(student), batch())
    loss["kd"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unlabelled_images_with_a_teacher_beat_few_labels(seed: int) -> None:
    """Card 94's robust row in small: a linear student, 400 unlabelled points with a teacher against 20 labels."""
    torch.manual_seed(seed)
    truth = torch.randn(10, 4)
    images, held = torch.randn(400, 10), torch.randn(1000, 10)
    labels = (images @ truth).argmax(1)

    def trained(loss) -> float:  # type: ignore[no-untyped-def]
        weight = torch.zeros(10, 4, requires_grad=True)
        optimizer = torch.optim.Adam([weight], 0.05)
        for _ in range(200):
            optimizer.zero_grad()
            loss(weight).backward()
            optimizer.step()
        return float(((held @ weight).argmax(1) == (held @ truth).argmax(1)).float().mean())

    taught = trained(lambda w: kl_divergence(images @ w, images @ truth, 1.0))
    few_labels = trained(lambda w: F.cross_entropy(images[:20] @ w, labels[:20]))
    assert taught > few_labels + 0.08


def test_kept_norms_keep_their_statistics_while_their_weights_learn() -> None:
    for keep in (True, False):
        teacher, student = pair()
        learner = Learner(student, keep_norms=keep).train()
        norm = student.get_submodule("block1.bn1")
        before, weight = norm.running_mean.clone(), norm.weight.clone()
        loss = Logit(teacher, student, INPUTS, Settings()).loss(learner, batch())
        sum(loss.values()).backward()
        torch.optim.SGD(learner.parameters(), 0.1).step()
        assert torch.equal(norm.running_mean, before) == keep
        assert not torch.equal(norm.weight, weight)
