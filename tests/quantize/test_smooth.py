"""SmoothQuant: outliers behind a norm move into the weights, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from compress.quantize import apply, plan, smooth
from compress.quantize.smooth import smoothing_factors
from tests.quantize.nets import Attending, sqnr_db, traced


@pytest.fixture
def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(32, 6, 16)


@torch.no_grad()
def test_the_function_stays_and_the_outliers_go(tokens: Tensor) -> None:
    folded = traced(Attending(outliers=40.0), tokens)
    before = folded(tokens)
    done, skipped = smooth(folded, [tokens])
    assert set(done) == {"norm1", "norm2"} and skipped == {} and min(done.values()) > 20.0
    torch.testing.assert_close(folded(tokens), before, rtol=1e-4, atol=1e-5)
    again, reasons = smooth(folded, [tokens])
    assert again == {} and "no outliers" in reasons["norm1"]


@torch.no_grad()
def test_int8_gains_where_there_are_outliers(tokens: Tensor) -> None:
    folded = traced(Attending(outliers=40.0), tokens)
    better = copy.deepcopy(folded)
    smooth(better, [tokens])
    plain, smoothed = (sqnr_db(folded(tokens), apply(m, plan(m, "w8a8", [tokens]))(tokens)) for m in (folded, better))
    assert smoothed > plain + 6.0, (plain, smoothed)
    even = traced(Attending(), tokens)
    kept = copy.deepcopy(even.state_dict())
    assert smooth(even, [tokens])[0] == {}
    assert all(torch.equal(value, kept[name]) for name, value in even.state_dict().items())


def test_the_factors_are_the_published_ones_and_spare_empty_channels() -> None:
    factors = smoothing_factors(torch.tensor([16.0, 1.0, 0.0]), torch.tensor([4.0, 4.0, 1.0]), 0.5)
    assert factors.tolist() == [2.0, 0.5, 1.0]
    assert smoothing_factors(torch.tensor([16.0]), torch.tensor([4.0]), 1.0).tolist() == [16.0]


def test_a_norm_with_other_readers_or_no_scale_is_left_alone_and_named(tokens: Tensor) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.after, self.fc = nn.LayerNorm(16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.after(x)
            return y + self.fc(y)

    done, skipped = smooth(traced(Odd(), tokens), [tokens * torch.logspace(0, 2, 16)])
    assert done == {} and "add" in skipped["after"]
