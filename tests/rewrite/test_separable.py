"""Kernels as products of thinner ones: exact at their rank, the nearest below it."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from compress import rewrite
from compress.rewrite import RewriteSettings
from compress.rewrite.separable import pair_rank
from tests.rewrite.nets import close, ops, traced


def rewritten(layer: nn.Module, **settings) -> tuple[fx.GraphModule, rewrite.RewritePlan]:
    module, inputs = traced(nn.Sequential(layer), 1, layer.in_channels, 12, 13)
    chosen = RewriteSettings(separable="all", min_channels=2, **settings)
    plan = rewrite.plan(module, chosen, inputs)
    return rewrite.apply(module, plan, inputs), plan


def of_rank(rank: int, inputs: int, outputs: int, kernel: int) -> torch.Tensor:
    """A kernel that has this many spatial filters for each input channel."""
    return torch.einsum("oir,irkl->oikl", torch.randn(outputs, inputs, rank), torch.randn(inputs, rank, kernel, kernel))


ATTRIBUTES = [
    dict(padding=1),
    dict(padding=2, stride=2, bias=False),
    dict(padding=(2, 1), stride=(1, 2), dilation=(2, 1)),
    dict(padding="same"),
]


@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=str)
@pytest.mark.parametrize("rank", [1, 2])
def test_depthwise_and_pointwise_are_exact_at_the_kernels_rank(rank: int, attributes) -> None:
    layer = nn.Conv2d(4, 12, 3, **attributes)
    layer.weight.data = of_rank(rank, 4, 12, 3)
    module, plan = rewritten(layer, rank=rank)
    depthwise, pointwise = module.get_submodule("0.depthwise"), module.get_submodule("0.pointwise")
    assert depthwise.groups == 4 and depthwise.out_channels == 4 * rank and pointwise.kernel_size == (1, 1)
    assert "0.0% of them missed" in plan.sites[0].after
    x = torch.randn(2, 4, 12, 13)
    close(module(x), layer(x))


@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=str)
def test_column_and_row_are_exact_at_the_kernels_rank(attributes) -> None:
    layer = nn.Conv2d(4, 6, 7, **attributes)
    layer.weight.data = torch.einsum("rik,orl->oikl", torch.randn(3, 4, 7), torch.randn(6, 3, 7))
    module, plan = rewritten(layer, separable_form="pair", pair_energy=0.999999)
    assert plan.sites[0].values == {"rank": 3}
    assert module.get_submodule("0.column").kernel_size == (7, 1)
    assert module.get_submodule("0.row").kernel_size == (1, 7)
    x = torch.randn(2, 4, 12, 13)
    close(module(x), layer(x), 2e-5)


def test_below_its_rank_a_kernel_is_met_as_nearly_as_can_be() -> None:
    """The error is what the plan says, falls with the rank, and no change of the two kernels lowers it."""
    layer = nn.Conv2d(3, 40, 3, padding=1)
    missed = []
    for rank in (1, 2, 3):
        module, plan = rewritten(layer, rank=rank)
        filters = module.get_submodule("0.depthwise").weight.reshape(3, rank, 3, 3)
        weights = module.get_submodule("0.pointwise").weight.reshape(40, 3, rank)

        def error(filters=filters, weights=weights) -> float:
            made = torch.einsum("oir,irkl->oikl", weights, filters)
            return float(((made - layer.weight).norm() / layer.weight.norm()).detach())

        missed.append(error())
        assert f"{missed[-1]:.1%} of them missed" in plan.sites[0].after
        for _ in range(5):
            assert error(filters + 0.02 * torch.randn_like(filters), weights) > missed[-1]
            assert error(filters, weights + 0.02 * torch.randn_like(weights)) > missed[-1]
    assert missed[0] > missed[1] > missed[2]


def test_the_pairs_rank_is_the_smallest_that_keeps_the_energy() -> None:
    weight = torch.randn(6, 5, 7, 7)
    rank = pair_rank(weight, 0.8)
    squares = torch.linalg.svdvals(weight.double().permute(1, 2, 0, 3).reshape(35, 42)).square()
    assert squares[:rank].sum() >= 0.8 * squares.sum() > squares[: rank - 1].sum()
    assert pair_rank(torch.zeros(6, 5, 7, 7), 0.8) == 1


def test_figures_count_what_is_saved() -> None:
    _, plan = rewritten(nn.Conv2d(8, 16, 3, padding=1))
    pixels = 12 * 13
    assert plan.before["macs"] == pixels * 8 * 16 * 9 and plan.after["macs"] == pixels * (8 * 9 + 8 * 16)
    assert plan.after["params"] == 8 * 9 + 8 * 16 + 16


@pytest.mark.parametrize(
    ("layer", "settings", "reason"),
    [
        (nn.Conv2d(4, 8, 3, groups=2), {}, "2 groups"),
        (nn.Conv2d(1, 8, 3), {}, "1 channels on one side"),
        (nn.Conv2d(4, 2, 3), dict(rank=4), "no fewer than"),
        (nn.Conv2d(4, 2, 3), dict(separable_form="pair", pair_energy=1.0), "no fewer than"),
    ],
)
def test_what_gains_nothing_stays_and_says_why(layer: nn.Module, settings, reason: str) -> None:
    module, plan = rewritten(layer, **settings)
    assert not plan.done and reason in plan.sites[0].after
    assert ops(module) == ["Conv2d"]


def test_large_means_the_kernels_size() -> None:
    net = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 5), nn.Conv2d(16, 16, 1))
    module, inputs = traced(net, 1, 16, 12, 12)
    plan = rewrite.plan(module, RewriteSettings(separable="large"), inputs)
    assert [site.place for site in plan.sites] == ["1"]
    plan = rewrite.plan(module, RewriteSettings(separable="all"), inputs)
    assert [site.place for site in plan.done] == ["0", "1"]
