"""Batch-norm folding is exact for every kind of layer, and says what it leaves."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from compress.graph.fold import fold_batch_norms, fold_behind_grouped_transposed, kept_batch_norms
from compress.graph.trace import trace


def lively(norm: nn.Module) -> nn.Module:
    """The batch norm with random parameters and statistics, and an eps that would be noticed if it were dropped."""
    norm.eps = 0.1
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.05, 2.0)
    return norm


LAYERS = {
    "conv": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), (4, 9, 9)),
    "conv without bias": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (4, 9, 9)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (4, 9, 9)),
    "depthwise": (nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8), (4, 9, 9)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), nn.BatchNorm2d(6), (4, 5, 5)),
    "transposed grouped": (nn.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=False), nn.BatchNorm2d(6), (4, 5, 5)),
    "transposed depthwise": (nn.ConvTranspose2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), (4, 5, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (4, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), (2, 4, 4, 4)),
    "linear": (nn.Linear(5, 7), nn.BatchNorm1d(7), (5,)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_fold_is_exact(kind: str) -> None:
    torch.manual_seed(0)
    layer, norm, shape = copy.deepcopy(LAYERS[kind])
    model = nn.Sequential(layer, lively(norm), nn.Dropout(0.5), nn.ReLU()).eval()
    traced = trace(model, (torch.randn(2, *shape),))
    before = {name: tensor.clone() for name, tensor in traced.state_dict().items()}
    folded = fold_batch_norms(traced)
    x = torch.randn(3, *shape)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    assert kept_batch_norms(folded) == {}
    assert not any(isinstance(module, (nn.Dropout, nn.modules.batchnorm._BatchNorm)) for module in folded.modules())
    assert set(folded.state_dict()) == {"0.weight", "0.bias"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in traced.state_dict().items()), "the input changed"
    torch.testing.assert_close(folded.train()(x), model(x), rtol=1e-5, atol=1e-5)  # no dropout is left to fire


def test_norm_without_affine_folds() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)).eval()
    nn.init.uniform_(model[1].running_mean)
    folded = fold_batch_norms(trace(model, (torch.randn(2, 3, 4, 4),)))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    assert len(list(folded.graph.nodes)) == 3


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), lively(nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class NormFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = lively(nn.BatchNorm2d(3)), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.norm(x)))


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), lively(nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x)))


class NormOfSteps(nn.Module):
    """BatchNorm1d over the steps of (N, L, C), here with as many steps as features."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(5, 4), lively(nn.BatchNorm1d(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x.flatten(2)[:, :4, :5]))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (TwoReaders, "conv has another reader"),
        (NormFirst, "no convolution"),
        (UsedTwice, "conv is used in several places"),
        (NormOfSteps, "another axis"),
    ],
)
def test_what_cannot_be_folded_stays_and_is_named(
    kind: type[nn.Module], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(2, 4, 6, 6)[:, : 4 if kind is NormOfSteps else 3]
    with caplog.at_level(logging.WARNING):
        folded = fold_batch_norms(trace(model, (x,)))
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    assert "norm stays as it is" in caplog.text and reason in caplog.text
    (kept,) = kept_batch_norms(folded).values()
    assert reason in kept


@pytest.mark.parametrize(("groups", "folds"), [(1, False), (2, True)])
def test_norms_behind_grouped_transposed_convolutions_alone_are_folded_for_export(groups: int, folds: bool) -> None:
    up = nn.ConvTranspose2d(4, 6, 3, 2, groups=groups, bias=False)
    net = nn.Sequential(up, lively(nn.BatchNorm2d(6)), nn.ReLU(), lively(nn.BatchNorm2d(6))).eval()
    x = torch.randn(1, 4, 5, 5)
    traced = trace(net, (x,))
    before = {name: value.clone() for name, value in traced.state_dict().items()}
    folded = fold_behind_grouped_transposed(traced)
    assert (folded is not traced) == folds
    assert torch.allclose(folded(x), net(x), atol=1e-5)
    assert len(kept_batch_norms(folded)) == (1 if folds else 2)
    assert all(torch.equal(before[name], value) for name, value in traced.state_dict().items()), "the model changed"
