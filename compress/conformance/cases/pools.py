"""Poolings: max and average, padded, with ceiling sizes, dilated, adaptive and global; blurring."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.conformance.case import DIFFUSION, GENERATOR, IMAGE, SIGNAL, VISION, VOCODER, VOLUME, Made, case

_ODD = (1, 8, 11, 13)
_VISION = (VISION,)


class Blur(nn.Module):
    """A fixed binomial filter per channel with stride 2, over mirrored borders (Zhang, 2019)."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        kernel = torch.outer(taps, taps) / 16
        self.register_buffer("kernel", kernel.expand(8, 1, 3, 3).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, H, W) -> (1, 8, H/2, W/2)."""
        kernel: Tensor = self.get_buffer("kernel")
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=8)


CASES = (
    case("max_pool2d", lambda x: F.max_pool2d(x, 2), IMAGE),
    case("max_pool2d_padded", lambda x: F.max_pool2d(x, 3, 2, 1), IMAGE, kinds=_VISION),
    case("max_pool2d_ceil", lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), IMAGE, kinds=_VISION),
    case("max_pool2d_ceil_odd", lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True), _ODD, kinds=_VISION),
    case("max_pool2d_dilated", lambda x: F.max_pool2d(x, 3, 1, 1, dilation=2), IMAGE, kinds=_VISION),
    case("max_pool2d_stride_1", lambda x: F.max_pool2d(x, 5, 1, 2), IMAGE, kinds=_VISION),
    case("avg_pool2d", lambda x: F.avg_pool2d(x, 2), IMAGE),
    case("avg_pool2d_padded", lambda x: F.avg_pool2d(x, 3, 2, 1), IMAGE, kinds=(VISION, GENERATOR)),
    case(
        "avg_pool2d_border_not_counted",
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        IMAGE,
        kinds=(VISION, GENERATOR),
    ),
    case("avg_pool2d_ceil", lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), IMAGE, kinds=_VISION),
    case("avg_pool2d_ceil_padded", lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), _ODD, kinds=_VISION),
    case("avg_pool2d_odd", lambda x: F.avg_pool2d(x, 3, 1, 1), _ODD, kinds=_VISION),
    case("adaptive_avg_pool2d_to_1", lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE, kinds=_VISION),
    case("adaptive_avg_pool2d_to_4", lambda x: F.adaptive_avg_pool2d(x, 4), IMAGE, kinds=_VISION),
    case("adaptive_avg_pool2d_to_5", lambda x: F.adaptive_avg_pool2d(x, 5), IMAGE, kinds=_VISION),
    case("adaptive_max_pool2d_to_1", lambda x: F.adaptive_max_pool2d(x, 1), IMAGE, kinds=_VISION),
    case("adaptive_max_pool2d_to_4", lambda x: F.adaptive_max_pool2d(x, 4), IMAGE, kinds=_VISION),
    case("max_pool1d", lambda x: F.max_pool1d(x, 2), SIGNAL, kinds=(VOCODER,)),
    case("avg_pool1d", lambda x: F.avg_pool1d(x, 4, 2, 1), SIGNAL, kinds=(VOCODER,)),
    case("adaptive_avg_pool1d_to_1", lambda x: F.adaptive_avg_pool1d(x, 1), SIGNAL, kinds=(VOCODER,)),
    case("avg_pool3d", lambda x: F.avg_pool3d(x, 2), VOLUME, kinds=(DIFFUSION,)),
    case("max_pool3d", lambda x: F.max_pool3d(x, 2), VOLUME, kinds=(DIFFUSION,)),
    case("blur_pool", Made(Blur), IMAGE, kinds=(GENERATOR, VISION)),
)
