"""Plain factors go into the layers around them: the same function, no multiplication left where one could go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.graph.fold import fold_batch_norms
from compress.graph.trace import trace

aten = torch.ops.aten


class Net(nn.Module):
    """Two convolutions with any function of the two between."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.function = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.a, self.b)


def folded(function) -> tuple[Net, fx.GraphModule, Tensor]:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net = Net(function).eval()
    return net, fold_batch_norms(trace(net, (x,))), x


def multiplications(module: fx.GraphModule) -> int:
    return sum(node.target in (aten.mul.Tensor, aten.div.Tensor) for node in module.graph.nodes)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, a, b: b(a(x) * 0.2),  # into the layer before
        lambda x, a, b: b(a(x) / -3),
        lambda x, a, b: b(F.leaky_relu((a(x) + a(x).flip(2)) / 3, 0.1)),  # into the layer behind
        lambda x, a, b: b(F.max_pool2d((a(x).tanh() * 0.5).relu(), 2)),
    ],
)
def test_a_factor_beside_a_layer_is_folded_exactly(function) -> None:
    net, module, x = folded(function)
    assert multiplications(module) == 0
    torch.testing.assert_close(module(x), net(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x, a, b: (lambda y: b(y) + y.mean())(a(x).tanh() * 0.2), 1),  # a reader that is no layer
        (lambda x, a, b: b((a(x).tanh() * -0.2).relu()), 1),  # a negative factor does not pass a relu
        (lambda x, a, b: b((a(x).tanh() * 0.2).sigmoid()), 1),  # nor any factor a sigmoid
        (lambda x, a, b: a(x) * 0.2 + F.conv2d(x, a.weight), 1),  # the weight is read by itself too
        (lambda x, a, b: b(a(x).tanh() * x[:, :1, 1:-1, 1:-1]), 1),  # no plain number
    ],
)
def test_a_factor_that_would_change_another_value_stays(function, left: int) -> None:
    net, module, x = folded(function)
    assert multiplications(module) == left
    torch.testing.assert_close(module(x), net(x), rtol=1e-5, atol=1e-6)


def test_the_traced_model_keeps_its_weights() -> None:
    x = torch.randn(1, 3, 8, 8)
    traced = trace(Net(lambda x, a, b: b(a(x) * 0.2)).eval(), (x,))
    before = {name: value.clone() for name, value in traced.state_dict().items()}
    fold_batch_norms(traced)
    assert all(torch.equal(value, before[name]) for name, value in traced.state_dict().items())
