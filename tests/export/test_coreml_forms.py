"""What Core ML's converter refuses or misreads is written in forms that it takes, which compute the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress import quantize
from compress.export.coreml_forms import is_refused_resize, spell_out
from compress.export.program import QUANTIZE, calls, op_counts, op_name, without_unused
from compress.graph.trace import export_static, trace

IMAGE, SIGNAL = (1, 8, 6, 9), (1, 8, 12)


class Of(nn.Module):
    """A function of a tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def spelled(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]):
    x = torch.randn(shape)
    given = export_static(trace(Of(function), (x,)), (x,))
    return given, spell_out(without_unused(given).run_decompositions({})), x


# function, shape, the op that goes, the op that comes
CASES = {
    "channel shuffle": (lambda x: F.channel_shuffle(x, 2), IMAGE, "aten.channel_shuffle", "aten.reshape"),
    "wrapped border": (lambda x: F.pad(x, (1, 2, 3, 0), mode="circular"), IMAGE, "aten.pad", "aten.cat"),
    "wrapped signal": (lambda x: F.pad(x, (2, 1), mode="circular"), SIGNAL, "aten.pad", "aten.cat"),
    "nearest exact": (
        lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact"),
        IMAGE,
        "aten._upsample_nearest_exact2d",
        "aten.upsample_nearest2d",
    ),
    "reciprocal": (lambda x: 1 / x, IMAGE, "aten.reciprocal", "aten.div"),
    "choice": (lambda x: torch.where(x > 0, x, -1e4), IMAGE, "", "aten.where"),
    "choice of two numbers": (lambda x: torch.where(x > 0, 2.0, -1.0), IMAGE, "", "aten.where"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_form_is_equal(name: str) -> None:
    function, shape, gone, come = CASES[name]
    given, ready, x = spelled(function, shape)
    assert torch.equal(ready.module()(x), function(x))
    assert come in op_counts(ready) or come in {op_name(node) for node in calls(ready)}
    assert gone not in {op_name(node) for node in calls(ready)}
    assert [op_name(n) for n in calls(given)] == [
        op_name(n) for n in calls(export_static(trace(Of(function), (x,)), (x,)))
    ]


@pytest.mark.parametrize(
    ("pool", "shape"),
    [(F.max_pool1d, SIGNAL), (F.max_pool2d, IMAGE), (F.max_pool3d, (1, 2, 4, 4, 4)), (F.avg_pool2d, IMAGE)],
)
def test_a_stride_that_is_the_kernel_is_written_out(pool: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    _, ready, x = spelled(lambda x: pool(x, 2), shape)
    (node,) = calls(ready)
    assert len(node.args) >= 3 and list(node.args[2]) == list(node.args[1])
    assert torch.equal(ready.module()(x), pool(x, 2))


def test_the_step_of_a_root_mean_square_is_written_out() -> None:
    norm = nn.RMSNorm(12)
    _, ready, x = spelled(norm, SIGNAL)
    (node,) = calls(ready)
    assert len(node.args) == 4 and node.args[3] == torch.finfo(torch.float32).eps
    assert torch.equal(ready.module()(x), norm(x))


@pytest.mark.parametrize(("how", "refused"), [
    ({"scale_factor": 2.0, "mode": "bicubic"}, True),
    ({"scale_factor": 1.5, "mode": "bilinear"}, True),  # 9 pixels become 13, not 13.5
    ({"size": (9, 13), "mode": "bilinear"}, False),
    ({"scale_factor": 1.5, "mode": "bilinear", "align_corners": True}, False),
    ({"size": (3, 4), "mode": "bilinear", "antialias": True}, True),
    ({"size": (9, 13), "mode": "nearest-exact"}, True),
    ({"scale_factor": 2.0, "mode": "nearest-exact"}, False),
])  # fmt: skip
def test_which_resizes_are_refused(how: dict, refused: bool) -> None:
    x = torch.randn(IMAGE)
    given = export_static(trace(Of(lambda x: F.interpolate(x, **how)), (x,)), (x,))
    assert [is_refused_resize(node) for node in calls(given)] == [refused]


class Blocks(nn.Module):
    """Blocks of pixels into channels by a reshape to six axes, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = (1, 4, 6, 8)
        y = self.stem(x).reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return self.head(y.reshape(n, c * 4, h // 2, w // 2))


def test_values_with_six_axes_are_not_rounded_twice() -> None:
    samples = [(torch.randn(1, 3, 6, 8),) for _ in range(3)]
    model = trace(Blocks().eval(), samples[0])
    given = export_static(quantize.apply(model, quantize.plan(model, "w8a8", samples)), samples[0])
    ready = spell_out(without_unused(given).run_decompositions({}))
    ranks = [[n.meta["val"].dim() for n in calls(one) if op_name(n) == QUANTIZE] for one in (given, ready)]
    assert max(ranks[0]) == 6 and max(ranks[1]) < 6
    for (x,) in samples:
        assert torch.equal(ready.module()(x), given.module()(x))
