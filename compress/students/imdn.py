"""IMDN: Hui et al. 2019, "Lightweight Image Super-Resolution with Information Multi-distillation Network".

A super-resolution network for phones: each block keeps a quarter of its channels after every convolution and lets the
rest go on, so that few feature maps are alive at a time.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.05
Attention = Literal["contrast", "mean", "none"]


class ChannelAttention(nn.Module):
    """Scales channels by what they hold: their mean, and in the paper their standard deviation too ("contrast").

    It looks at the whole image, so a network that has it gives other pixels when an image is cut into tiles.
    """

    def __init__(self, channels: int, reduction: int = 16, contrast: bool = True) -> None:
        super().__init__()
        self.contrast = contrast
        middle = max(4, channels // reduction)
        self.squeeze, self.excite = nn.Conv2d(channels, middle, 1), nn.Conv2d(middle, channels, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The input with each channel scaled by a factor in (0, 1)."""
        mean = x_NCHW.mean((2, 3), keepdim=True)
        if self.contrast:
            mean = mean + ((x_NCHW - mean).square().mean((2, 3), keepdim=True) + 1e-12).sqrt()
        return x_NCHW * self.excite(self.squeeze(mean).relu()).sigmoid()


class Block(nn.Module):
    """An information multi-distillation block: three times keep a quarter and go on with the rest."""

    def __init__(self, channels: int, attention: Attention) -> None:
        super().__init__()
        self.kept = channels // 4
        rest = channels - self.kept
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2, self.conv3 = nn.Conv2d(rest, channels, 3, padding=1), nn.Conv2d(rest, channels, 3, padding=1)
        self.conv4 = nn.Conv2d(rest, self.kept, 3, padding=1)
        self.attention = (
            nn.Identity() if attention == "none" else ChannelAttention(4 * self.kept, contrast=attention == "contrast")
        )
        self.fuse = nn.Conv2d(4 * self.kept, channels, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Features of the same shape."""
        kept, rest = [], x_NCHW
        for conv in (self.conv1, self.conv2, self.conv3):
            y = F.leaky_relu(conv(rest), SLOPE)
            kept.append(y[:, : self.kept])
            rest = y[:, self.kept :]
        kept.append(self.conv4(rest))
        return x_NCHW + self.fuse(self.attention(torch.cat(kept, 1)))


class Imdn(nn.Module):
    """Images (N, 3, H, W) to (N, 3, scale H, scale W).

    Args:
        channels: width, a multiple of four.
        blocks: how many blocks in a row; all of them are fused at the end.
        scale: how many times the side.
        attention: "contrast" as published; "mean" and "none" are cheaper on integers, and "none" is exact in tiles.
        anchor: add the input, enlarged without interpolation, to the output: the network then learns the difference
            (Du et al. 2021, "Anchor-based Plain Net"); a published IMDN learns the image itself.
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 6,
        scale: int = 4,
        attention: Attention = "contrast",
        anchor: bool = False,
    ) -> None:
        super().__init__()
        self.scale, self.anchor = scale, anchor
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(channels, attention) for _ in range(blocks))
        self.gather = nn.Conv2d(blocks * channels, channels, 1)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The enlarged images, not clamped."""
        first = y = self.first(x_NCHW)
        found = []
        for block in self.blocks:
            y = block(y)
            found.append(y)
        y = self.middle(F.leaky_relu(self.gather(torch.cat(found, 1)), SLOPE)) + first
        y = self.last(y)
        if self.anchor:
            y = y + x_NCHW.repeat_interleave(self.scale**2, 1)
        return F.pixel_shuffle(y, self.scale)
