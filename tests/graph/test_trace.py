"""The traced form answers as the model does, keeps its parameter names, trains, and refuses what cannot be traced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.graph.trace import export_static, trace
from tests.models import Concatenating, TinyResNet, Upsampling, randomize_norms

CASES = [(TinyResNet, (1, 8, 8)), (Concatenating, (3, 8, 8)), (Upsampling, (3, 8, 8))]


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_traced_model_answers_as_the_model_at_any_batch_size(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    model = randomize_norms(kind()).eval()
    traced = trace(model, (torch.randn(1, *shape),))
    for batch in (1, 5):
        x = torch.randn(batch, *shape)
        assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_parameter_names_are_kept(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    model = kind()
    assert set(trace(model, (torch.randn(1, *shape),)).state_dict()) == set(model.state_dict())


def test_norms_and_dropout_come_alive_in_train_mode() -> None:
    traced = trace(TinyResNet(), (torch.randn(1, 1, 8, 8),)).train()
    x = torch.randn(16, 1, 8, 8)
    before = traced.get_submodule("norm").running_mean.clone()
    first, second = traced(x), traced(x)
    assert not torch.equal(traced.get_submodule("norm").running_mean, before)
    assert not torch.equal(first, second), "dropout must draw anew"


def test_a_write_into_a_view_is_seen_by_later_readers() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x))
            y[:, 0].add_(1.0)
            return y

    model = Writes().eval()
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(trace(model, (x,))(x), model(x), atol=1e-6)


def test_an_untraceable_model_names_the_line() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:  # the line at fault
                return x
            return -x

    with pytest.raises(ModelError, match=r"test_trace\.py.*x\.sum\(\) > 0"):
        trace(Branches(), (torch.randn(1, 3),))


def test_static_export_has_batch_one() -> None:
    x = torch.randn(1, 1, 8, 8)
    program = export_static(trace(TinyResNet(), (x,)), (x,))
    assert program.module()(x).shape == (1, 4)


def test_the_memory_order_of_the_example_does_not_reach_the_program() -> None:
    """Pictures read row by row come as permuted views; a program that kept their order fails in ExecuTorch."""
    x = torch.randn(1, 8, 8, 3).permute(0, 3, 1, 2)
    model = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (x,))
    program = export_static(model, (x,))
    values = [node.meta["val"] for node in program.graph.nodes if hasattr(node.meta.get("val"), "is_contiguous")]
    assert values and all(value.is_contiguous() for value in values)
