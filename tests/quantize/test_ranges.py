"""Entropy ranges: what of a distribution the integers must keep."""

from __future__ import annotations

import torch
from torch import nn

from compress.graph.trace import trace
from compress.quantize import plan
from compress.quantize.ranges import BINS, choose, divergences, histogram, squared_errors

LOW, HIGH = torch.tensor(0.0), torch.tensor(64.0)


def centers() -> torch.Tensor:
    return (torch.arange(BINS) + 0.5) * HIGH / BINS


def test_the_divergence_is_zero_where_every_bin_has_its_own_level_and_nothing_is_cut() -> None:
    counts = torch.rand(BINS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = divergences(centers(), counts, LOW[None], HIGH[None], 0, BINS - 1)
    assert float(exact) < 1e-12
    coarse = divergences(centers(), counts, LOW[None], HIGH[None], 0, 15)
    assert float(coarse) > 1e-3, "sixteen levels cannot hold noise over 2048 bins"


def test_the_divergence_is_that_of_the_definition() -> None:
    """Four filled bins, two levels: worked out by hand."""
    counts = torch.zeros(BINS, dtype=torch.float64)
    counts[[10, 20, 1500, 2000]] = torch.tensor([3.0, 1.0, 2.0, 2.0], dtype=torch.float64)
    found = divergences(centers(), counts, LOW[None], HIGH[None], 0, 1)
    seen = torch.tensor([3.0, 1.0, 2.0, 2.0]) / 8
    spread = torch.tensor([2.0, 2.0, 2.0, 2.0]) / 8
    assert abs(float(found) - float((seen * (seen / spread).log()).sum())) < 1e-6


def test_a_flat_distribution_is_kept_whole_and_a_stray_value_is_cut_off() -> None:
    flat = torch.ones(BINS, dtype=torch.float64)
    low, high = choose("entropy", LOW, HIGH, flat, -128, 127)
    assert (float(low), float(high)) == (0.0, 64.0)
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).abs()
    values[0] = 64.0
    counts = histogram(values, LOW, HIGH)
    _, cut = choose("entropy", LOW, HIGH, counts, -8, 7)
    _, whole = choose("minmax", LOW, HIGH, counts, -8, 7)
    assert float(whole) == 64.0 and float(cut) < 20.0


def test_each_loss_is_smallest_where_its_own_range_was_chosen() -> None:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).abs() ** 3
    high = values.max()
    counts = histogram(values, LOW, high)
    bins = (torch.arange(BINS) + 0.5) * high / BINS
    ends = torch.stack([choose(ranges, LOW, high, counts, -8, 7)[1] for ranges in ("entropy", "mse", "minmax")])
    for loss, best in ((divergences, 0), (squared_errors, 1)):
        losses = loss(bins, counts, torch.zeros(3), ends, -8, 7)
        assert int(losses.argmin()) == best and float(losses[2]) > float(losses[best])


def test_a_plan_may_be_made_with_entropy_ranges() -> None:
    torch.manual_seed(0)
    seen = torch.randn(32, 1, 32, 32)
    seen[0, 0, 0, 0] = 60.0
    folded = trace(nn.Sequential(nn.Conv2d(1, 1, 1)).eval(), (seen[:2],))
    scales = {r: plan(folded, "w8a8", seen.split(8), r).activations["input_1"][0] for r in ("entropy", "minmax")}
    assert scales["entropy"] < 0.5 * scales["minmax"]
