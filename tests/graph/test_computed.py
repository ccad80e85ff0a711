"""Weights computed from parameters become the layer's own: the model answers the same and its layers are layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from compress.graph.trace import trace
from compress.quantize.places import find_places

NORMS = {
    "weight norm": parametrizations.weight_norm,
    "weight norm as a hook": nn.utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm as a hook": nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NORMS)
def test_normed_weights_become_plain_ones(name: str) -> None:
    torch.manual_seed(0)
    normed = NORMS[name]
    net = nn.Sequential(
        normed(nn.Conv1d(4, 6, 3)), nn.ReLU(), normed(nn.ConvTranspose1d(6, 4, 4, 2)), normed(nn.Linear(18, 3))
    ).eval()
    x = torch.randn(2, 4, 10)
    traced = trace(net, (x,))
    assert torch.equal(traced(x), net(x))
    assert set(traced.state_dict()) == {f"{place}.{leaf}" for place in (0, 2, 3) for leaf in ("weight", "bias")}
    assert find_places(traced).layers == ("0", "2", "3") and not find_places(traced).float_ops
    assert all(parameter.requires_grad for parameter in traced.parameters())


class Scaled(nn.Module):
    """Equalized learning rate (Karras et al., 2018) with a bias of its own scale, beside a layer in the same module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4))
        self.inner = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.conv2d(x, self.weight * 0.3, self.bias * 0.1))


def test_a_scaled_weight_beside_other_layers_gets_a_place_of_its_own() -> None:
    net = nn.Sequential(Scaled(), nn.ReLU()).eval()
    x = torch.randn(2, 3, 6, 6)
    traced = trace(net, (x,))
    assert torch.equal(traced(x), net(x))
    assert len(find_places(traced).layers) == 2
    assert "0.inner.weight" in traced.state_dict()


class Modulated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean())


def test_a_weight_that_follows_from_the_input_stays_computed() -> None:
    net, x = Modulated().eval(), torch.randn(2, 3, 6, 6)
    traced = trace(net, (x,))
    assert torch.allclose(traced(x), net(x)) and not torch.equal(traced(x), traced(2 * x) / 2)
    assert find_places(traced).layers == ()
