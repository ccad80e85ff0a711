"""A resize as two products of matrices gives what torch's resize gives, and only where it is asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.export.program import calls, op_name
from compress.export.resizes import as_products, averages_less_at_the_end, has_inexact_scale
from compress.graph.trace import export_static, trace
from tests.export.test_coreml_forms import Of

IMAGE = (1, 3, 7, 9)

RESIZES = {
    "bilinear": {"scale_factor": 1.5, "mode": "bilinear"},
    "bilinear aligned": {"scale_factor": 1.7, "mode": "bilinear", "align_corners": True},
    "bicubic": {"scale_factor": 2.0, "mode": "bicubic"},
    "bicubic by two scales": {"scale_factor": (2.3, 0.6), "mode": "bicubic"},
    "antialiased": {"size": (3, 5), "mode": "bilinear", "antialias": True},
    "bicubic antialiased": {"size": (3, 5), "mode": "bicubic", "antialias": True},
    "nearest exact": {"size": (10, 4), "mode": "nearest-exact"},
}


@pytest.mark.parametrize("name", RESIZES)
def test_the_products_are_the_resize(name: str) -> None:
    x = torch.randn(IMAGE)
    how = RESIZES[name]
    given = export_static(trace(Of(lambda x: F.interpolate(x, **how)), (x,)), (x,))
    ready = as_products(given, lambda node: True)
    assert [op_name(node) for node in calls(ready)] == ["aten.linear", "aten.transpose"] * 2
    wanted = F.interpolate(x, **how)
    assert (ready.module()(x) - wanted).abs().max() <= 4 * torch.finfo(torch.float32).eps * x.abs().max()
    if "nearest" in name:
        assert torch.equal(ready.module()(x), wanted)
    assert as_products(given, lambda node: False) is given


class Poolings(nn.Module):
    """Average pooling with its size rounded up, then a layer."""

    def __init__(self, *how: object, **more: object) -> None:
        super().__init__()
        self.how, self.more, self.head = how, more, nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.avg_pool2d(x, *self.how, **self.more))


@pytest.mark.parametrize(("how", "more", "less"), [
    ((2, 2), {"ceil_mode": True}, True),  # 7 x 9 pixels: the last windows hold one
    ((3, 2, 1), {"ceil_mode": True}, False),  # nothing is left over
    ((2, 2, 1), {"ceil_mode": True, "count_include_pad": False}, False),
    ((4, 3, 1), {"ceil_mode": True, "count_include_pad": False}, True),
    ((2, 2), {}, False),
])  # fmt: skip
def test_poolings_that_count_less_at_the_end(how: tuple[int, ...], more: dict, less: bool) -> None:
    x = torch.randn(IMAGE)
    net = Poolings(*how, **more).eval()
    given = export_static(trace(net, (x,)), (x,))
    ready = as_products(given, averages_less_at_the_end)
    assert (ready is not given) == less
    assert torch.allclose(ready.module()(x), net(x), atol=1e-6)


@pytest.mark.parametrize("how", [(2,), (3, 2, 1), (3, 1, 1)])
def test_an_ordinary_pooling_is_no_product_whoever_asks(how: tuple[int, ...]) -> None:
    x = torch.randn(IMAGE)
    given = export_static(trace(Poolings(*how).eval(), (x,)), (x,))
    assert as_products(given, lambda node: True) is given


def test_a_scale_is_inexact_where_it_is_not_the_ratio_of_the_sizes() -> None:
    x = torch.randn(IMAGE)
    found = []
    for scale in (2.0, 1.5):
        how = {"scale_factor": scale, "mode": "bilinear"}
        given = export_static(trace(Of(lambda x, how=how: F.interpolate(x, **how)), (x,)), (x,))
        found += [has_inexact_scale(node) for node in calls(given)]
    assert found == [False, True]
