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


def activate(x: Tensor, slope: float) -> Tensor:
    """The leaky ReLU of a slope below zero; a plain one where that is 0."""
    return F.leaky_relu(x, slope) if slope else x.relu()


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

    def __init__(self, channels: int, attention: Attention, slope: float = SLOPE) -> None:
        super().__init__()
        self.slope = slope
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
            y = activate(conv(rest), self.slope)
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
        anchor: begin with the input, enlarged without interpolation, added to the output: what is learned is the
            difference (Du et al. 2021, "Anchor-based Plain Net"). A 1x1 convolution does it, as every runtime has one
            on integers. A published IMDN learns the image itself.
        slope: of the activations below zero, .05 as published; 0 makes them ReLUs, which runtimes fuse on integers.
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 6,
        scale: int = 4,
        attention: Attention = "contrast",
        anchor: bool = False,
        slope: float = SLOPE,
    ) -> None:
        super().__init__()
        self.scale, self.slope = scale, slope
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(channels, attention, slope) for _ in range(blocks))
        self.gather = nn.Conv2d(blocks * channels, channels, 1)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)
        self.anchor = _repeat(scale**2) if anchor else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The enlarged images, not clamped."""
        first = y = self.first(x_NCHW)
        found = []
        for block in self.blocks:
            y = block(y)
            found.append(y)
        y = self.middle(activate(self.gather(torch.cat(found, 1)), self.slope)) + first
        y = self.last(y)
        if self.anchor is not None:
            y = y + self.anchor(x_NCHW)
        return F.pixel_shuffle(y, self.scale)


def _repeat(times: int) -> nn.Conv2d:
    """A 1x1 convolution that gives each of three colours so many times in a row."""
    layer = nn.Conv2d(3, 3 * times, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3).repeat_interleave(times, 0)[:, :, None, None])
    return layer
