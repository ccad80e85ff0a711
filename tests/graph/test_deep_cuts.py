"""Groups of coupled channels: what can be cut, and what is pinned with the reason."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.graph.groups import WidthModel
from compress.graph.trace import trace


class Gated(nn.Module):
    """A convolution whose halves meet in a product, as in a gated unit, between two plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.both = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(self.first(x).relu()).chunk(2, 1)
        return self.last(value * gate.sigmoid())


def test_a_group_that_breaks_when_half_of_it_goes_is_pinned() -> None:
    inputs = (torch.randn(1, 3, 4, 4),)
    widths = WidthModel(trace(Gated(), inputs), inputs)
    pinned = {group.layer: group.pinned for group in widths.groups}
    assert "half of it breaks" in pinned["both"] or "breaks the model" in pinned["both"]
    assert pinned["first"] == ""  # and nothing else is
