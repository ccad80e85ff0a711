"""Projected GAN (Sauer et al. 2021): small heads judge the features of a frozen network, mixed at random.

The network that judges must not be the one that measures: what a head learned to please is no longer evidence.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from compress.adversarial.discriminators.base import Discriminator, activated
from compress.errors import RecipeError

_HEAD_SIDE = 8  # a head halves its map until it has at most this many positions a side


class Projected(Discriminator):
    """A head per scale of `extractor`'s features; extractor and mixing never learn, though gradient passes through.

    Args:
        in_channels: channels of the samples, which the extractor has to take.
        size: side of the samples in pixels.
        extractor: maps samples to a list of maps, from fine to coarse; it is frozen here, in eval mode.
        width: channels of the finest mixed map; a scale further down has twice as many, up to 8 times.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        extractor: nn.Module,
        width: int = 64,
        classes: int = 0,
        timed: bool = False,
    ) -> None:
        extractor.eval()
        with torch.no_grad():
            found = extractor(torch.zeros(1, in_channels, size, size))
        if not isinstance(found, (list, tuple)) or not all(isinstance(m, Tensor) and m.dim() == 4 for m in found):
            raise RecipeError(
                "the extractor of a projected discriminator has to return a list of feature maps (N, C, H, W)"
            )
        widths = [width * min(2**k, 8) for k in range(len(found))]
        towers = [_tower(channels, min(maps.shape[2:])) for channels, maps in zip(widths, found, strict=True)]
        heads = [spectral_norm(nn.Conv2d(channels, 1, 1)) for channels in widths]
        super().__init__(towers, heads, widths, classes, timed)
        self.frozen = nn.ModuleDict({"extractor": extractor, "mixing": Mixing([m.shape[1] for m in found], widths)})
        self.frozen.requires_grad_(False)

    def inputs(self, x: Tensor) -> list[Tensor]:
        """The mixed features, from fine to coarse."""
        mixed: list[Tensor] = self.frozen["mixing"](self.frozen["extractor"](x))
        return mixed

    def train(self, mode: bool = True) -> Self:
        """Switch the heads to training; the frozen part stays in eval mode."""
        super().train(mode)
        self.frozen.eval()
        return self


class Mixing(nn.Module):
    """Random mixing across channels (1x1), then across scales: each coarser mix is added to the next finer one.

    Without it heads look at the few channels that tell most. All weights are as drawn.
    """

    def __init__(self, before: list[int], after: list[int]) -> None:
        super().__init__()
        self.channels = nn.ModuleList(nn.Conv2d(b, a, 1, bias=False) for b, a in zip(before, after, strict=True))
        # Entry k brings scale k + 1 to the width of scale k.
        self.scales = nn.ModuleList(
            nn.Conv2d(coarse, fine, 3, padding=1, bias=False) for fine, coarse in pairwise(after)
        )
        for layer in [*self.channels, *self.scales]:
            nn.init.kaiming_normal_(layer.get_parameter("weight"), nonlinearity="linear")

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps mixed, each at its own resolution."""
        mixed = [mix(m) for mix, m in zip(self.channels, maps, strict=True)]
        for k in reversed(range(len(self.scales))):
            finer = mixed[k].shape[2:]
            up = F.interpolate(mixed[k + 1], size=finer, mode="bilinear", align_corners=False)
            mixed[k] = mixed[k] + self.scales[k](up)
        return mixed


def _tower(channels: int, side: int) -> nn.Sequential:
    """Spectrally normalized convolutions of stride 2 down to 8 positions a side, and one over what is left."""
    layers = []
    while side > _HEAD_SIDE:
        layers.append(activated(spectral_norm(nn.Conv2d(channels, channels, 4, 2, padding=1))))
        side //= 2
    layers.append(activated(spectral_norm(nn.Conv2d(channels, channels, min(4, side)))))
    return nn.Sequential(*layers)
