"""Rare ops come out of a trace as common ones that give the same numbers at every batch size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.graph.plain_forms import PLAIN_FORMS
from compress.graph.trace import trace

aten = torch.ops.aten
SHAPE = (4, 6, 8)  # behind the batch


class Of(nn.Module):
    """A function of two tensors as a module."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y)


def targets(traced: fx.GraphModule) -> list[object]:
    return [node.target for node in traced.graph.nodes if node.op == "call_function"]


def traced_of(function: Callable[[Tensor, Tensor], Tensor]) -> fx.GraphModule:
    return trace(Of(function), (torch.randn(1, *SHAPE), torch.randn(1, *SHAPE)))


EXACT = {
    "one minus": lambda x, y: 1.0 - x,
    "integer minus": lambda x, y: 3 - x,
    "minus, scaled by a power of two": lambda x, y: torch.rsub(x, 1.5, alpha=4),
    "swapped": lambda x, y: torch.rsub(x, y),
    "sum scaled by a power of two": lambda x, y: torch.add(x, y, alpha=0.25),
    "sum with a scaled number": lambda x, y: torch.add(x, 0.3, alpha=2),
    "of whole numbers": lambda x, y: torch.add((x * 4).to(torch.int64), (y * 4).to(torch.int64), alpha=3),
    "whole numbers swapped": lambda x, y: 7 - (x * 4).to(torch.int64),
    "adaptive maximum of the plane": lambda x, y: F.adaptive_max_pool2d(x, 1),
    "adaptive maximum by a divisor": lambda x, y: F.adaptive_max_pool2d(x, (3, 2)),
    "crop": lambda x, y: F.pad(x, (-1, -2, -1, 0)),
    "crop and pad": lambda x, y: F.pad(x, (-1, 2, 0, -3), value=0.5),
    "crop of channels": lambda x, y: F.pad(x, (0, 0, 1, 0, -2, 0)),
    "repeat": lambda x, y: x.repeat(1, 3, 1, 1),
    "repeat of the batch": lambda x, y: x.repeat(2, 1, 1, 1),
}

# In these torch rounds once where the plain form rounds twice.
ROUNDED = {
    "scaled sum": lambda x, y: torch.add(x, y, alpha=0.3),
    "scaled difference": lambda x, y: torch.sub(x, y, alpha=0.7),
    "in place": lambda x, y: (x * 1).add_(y, alpha=0.3),
    "swapped and scaled": lambda x, y: torch.rsub(x, y, alpha=0.7),
    "blend near the start": lambda x, y: torch.lerp(x, y, 0.3),
    "blend near the end": lambda x, y: torch.lerp(x, y, 0.9),
    "blend by a tensor": lambda x, y: torch.lerp(x, y, torch.sigmoid(x)),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_plain_form_is_equal(name: str) -> None:
    traced = traced_of(EXACT[name])
    assert not _rare(traced)
    for batch in (1, 3):
        x, y = torch.randn(batch, *SHAPE), torch.randn(batch, *SHAPE)
        assert torch.equal(traced(x, y), EXACT[name](x, y))


@pytest.mark.parametrize("name", ROUNDED)
def test_the_plain_form_is_equal_but_for_one_rounding(name: str) -> None:
    traced = traced_of(ROUNDED[name])
    assert not _rare(traced)
    for batch in (1, 3):
        x, y = torch.randn(batch, *SHAPE), torch.randn(batch, *SHAPE)
        largest = torch.maximum(x.abs(), y.abs()).max() * 2  # of the terms, whose step is what a rounding moves
        assert (traced(x, y) - ROUNDED[name](x, y)).abs().max() <= torch.finfo(torch.float32).eps * largest


def _rare(traced: fx.GraphModule) -> list[object]:
    """The ops of the table that are still in a graph, but for sums without a factor."""
    found = [node for node in traced.graph.nodes if node.op == "call_function" and node.target in PLAIN_FORMS]
    sums = (aten.add.Tensor, aten.sub.Tensor)
    pads = (aten.constant_pad_nd.default,)
    return [
        node
        for node in found
        if not (node.target in sums and node.kwargs.get("alpha", 1) == 1)
        and not (node.target in pads and min(node.args[1]) >= 0)
    ]


LEFT = {
    "with the places of the maxima": (
        lambda x, y: F.adaptive_max_pool2d(x, 2, return_indices=True)[1].float(),
        aten.adaptive_max_pool2d.default,
    ),
    "to no divisor": (lambda x, y: F.adaptive_max_pool2d(x, 4), aten.adaptive_max_pool2d.default),
    "along two axes": (lambda x, y: x.repeat(1, 2, 2, 1), aten.repeat.default),
    "many times": (lambda x, y: x.repeat(1, 20, 1, 1), aten.repeat.default),
    "with a new axis": (lambda x, y: x.repeat(2, 1, 1, 1, 1), aten.repeat.default),
    "a plain pad": (lambda x, y: F.pad(x, (1, 0, 2, 0)), aten.pad.default),
    "statistics of its own": (lambda x, y: F.instance_norm(x), aten.instance_norm.default),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_plain_form_stays(name: str) -> None:
    function, target = LEFT[name]
    traced = traced_of(function)
    assert target in targets(traced)
    x, y = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    assert torch.equal(traced(x, y), function(x, y))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kind", "shape"), [(nn.InstanceNorm1d, (4, 9)), (nn.InstanceNorm2d, (4, 6, 8)),
                                             (nn.InstanceNorm3d, (4, 3, 3, 3))])  # fmt: skip
def test_an_instance_norm_with_kept_statistics_is_a_batch_norm(
    kind: type[nn.Module], shape: tuple[int, ...], affine: bool
) -> None:
    norm = kind(4, eps=1e-3, affine=affine, track_running_stats=True).eval()
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.1, 2.0)
    traced = trace(nn.Sequential(norm), (torch.randn(1, *shape),))
    assert any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in traced.modules())
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        assert torch.allclose(traced(x), norm(x), rtol=3e-7, atol=3e-7)


def test_a_model_without_rare_ops_is_traced_as_before() -> None:
    traced = traced_of(lambda x, y: torch.relu(x + y) - 0.5)
    assert targets(traced) == [aten.add.Tensor, aten.relu.default, aten.sub.Tensor]
