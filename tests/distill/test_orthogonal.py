"""VkD: the projection keeps inner products through every step, and its target does not move with scale."""

from __future__ import annotations

import torch

from compress.distill import Learner, Orthogonal, Settings
from compress.distill.orthogonal import orthogonal_projection
from tests.distill.common import INPUTS, batch, pair


def _gram(x: torch.Tensor) -> torch.Tensor:
    return x @ x.T


def test_inner_products_are_preserved_and_stay_so_while_training() -> None:
    torch.manual_seed(0)
    projection = orthogonal_projection(8, 16)
    optimizer = torch.optim.SGD(projection.parameters(), 0.5)
    x, target = torch.randn(6, 8), torch.randn(6, 16)
    start = projection.weight.detach().clone()
    for _ in range(10):
        optimizer.zero_grad()
        (projection(x) - target).square().sum().backward()
        optimizer.step()
        assert torch.allclose(_gram(projection(x)), _gram(x), atol=1e-4)
        assert torch.allclose(projection.weight.T @ projection.weight, torch.eye(8), atol=1e-5)
    assert not torch.allclose(projection.weight, start, atol=1e-2), "it must have learned"


def test_a_wider_student_keeps_the_transposed_property() -> None:
    weight = orthogonal_projection(16, 8).weight
    assert torch.allclose(weight @ weight.T, torch.eye(8), atol=1e-5)


def test_an_unconstrained_projection_does_not_preserve_inner_products() -> None:
    """The ablation: the property is the parametrization's doing."""
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    plain = torch.nn.Linear(8, 16, bias=False)
    assert not torch.allclose(_gram(plain(x)), _gram(x), atol=1e-1)


def test_the_feature_loss_reaches_the_student_and_ignores_the_teachers_scale() -> None:
    teacher, student = pair()
    method = Orthogonal(teacher, student, INPUTS, Settings(teacher_layer="block2.bn2", student_layer="block2.bn2"))
    learner = Learner(student.eval(), method.extra)
    terms = method.loss(learner, batch())
    terms["feature"].backward()
    assert student.stem.weight.grad.abs().sum() > 0
    teacher.block2.bn2.weight.data *= 7
    teacher.block2.bn2.bias.data *= 7
    again = method.loss(learner, batch())["feature"]
    assert torch.allclose(again, terms["feature"], atol=1e-4)


def test_the_projection_never_enters_the_student() -> None:
    teacher, student = pair()
    before = set(student.state_dict())
    method = Orthogonal(teacher, student, INPUTS, Settings())
    Learner(student, method.extra)
    assert set(student.state_dict()) == before
