"""Resizes in all modes and alignments, by size and by scale, and the shuffles that change resolution."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from compress.conformance.case import DIFFUSION, GENERATOR, SIGNAL, VISION, VOCODER, VOLUME, Case, Made, case

_SMALL = (1, 8, 6, 9)
_PICTURES = (VISION, GENERATOR, DIFFUSION)


def _resize(name: str, shape: tuple[int, ...] = _SMALL, kinds: tuple[str, ...] = _PICTURES, **how: Any) -> Case:
    return case(name, partial(F.interpolate, **how), shape, kinds=kinds)


def channel_shuffle(x: Tensor) -> Tensor:
    """Channels dealt to two hands (ShuffleNet, Zhang et al., 2018), written with reshapes."""
    n, c, h, w = x.shape
    return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def space_to_depth(x: Tensor) -> Tensor:
    """Blocks of 2 x 2 pixels into channels, written with reshapes."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, c * 4, h // 2, w // 2)


CASES = (
    _resize("nearest_by_scale", scale_factor=2.0, mode="nearest"),
    _resize("nearest_by_size", size=(12, 18), mode="nearest"),
    _resize("nearest_to_a_fraction", size=(10, 13), mode="nearest"),
    _resize("nearest_by_a_fraction", scale_factor=1.5, mode="nearest"),
    _resize("nearest_down", scale_factor=1 / 3, mode="nearest"),
    _resize("nearest_exact", scale_factor=2.0, mode="nearest-exact"),
    _resize("nearest_exact_to_a_fraction", size=(10, 13), mode="nearest-exact"),
    _resize("bilinear_by_scale", scale_factor=2.0, mode="bilinear"),
    _resize("bilinear_by_size", size=(12, 18), mode="bilinear"),
    _resize("bilinear_aligned", scale_factor=2.0, mode="bilinear", align_corners=True),
    _resize("bilinear_aligned_by_size", size=(12, 18), mode="bilinear", align_corners=True),
    _resize("bilinear_to_a_fraction", size=(10, 13), mode="bilinear"),
    _resize("bilinear_by_a_fraction", scale_factor=1.5, mode="bilinear"),
    _resize("bilinear_down", size=(3, 4), mode="bilinear"),
    _resize("bilinear_antialiased", size=(3, 4), mode="bilinear", antialias=True),
    _resize("bicubic_by_scale", scale_factor=2.0, mode="bicubic", kinds=(GENERATOR,)),
    _resize("bicubic_aligned", scale_factor=2.0, mode="bicubic", align_corners=True, kinds=(GENERATOR,)),
    _resize("area_down", size=(3, 3), mode="area", kinds=(GENERATOR, DIFFUSION)),
    _resize("nearest_1d", SIGNAL, (VOCODER,), scale_factor=2.0, mode="nearest"),
    _resize("linear_1d", SIGNAL, (VOCODER,), scale_factor=2.0, mode="linear"),
    _resize("linear_1d_aligned", SIGNAL, (VOCODER,), scale_factor=2.0, mode="linear", align_corners=True),
    _resize("nearest_3d", VOLUME, (DIFFUSION,), scale_factor=2.0, mode="nearest"),
    _resize("trilinear", VOLUME, (DIFFUSION,), scale_factor=2.0, mode="trilinear"),
    case("pixel_shuffle", Made(lambda: nn.PixelShuffle(2)), _SMALL, kinds=(GENERATOR,)),
    case("pixel_unshuffle", Made(lambda: nn.PixelUnshuffle(2)), (1, 8, 6, 8), kinds=(GENERATOR, DIFFUSION)),
    case("channel_shuffle", Made(lambda: nn.ChannelShuffle(2)), _SMALL, kinds=(VISION,)),
    case("channel_shuffle_written_out", channel_shuffle, _SMALL, kinds=(VISION,)),
    case("space_to_depth_written_out", space_to_depth, (1, 8, 6, 8), kinds=(VISION, GENERATOR)),
)
