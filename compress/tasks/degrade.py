"""What makes a low-resolution picture out of a high-resolution one: the question that super-resolution answers.

A degradation takes one picture, RGB in [0, 1] (3, H, W), and draws all its randomness from the generator it is handed.
What comes out has eight bits, as pictures do.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import DataError
from compress.tasks.pictures import pillow

Degrade = Callable[[Tensor, torch.Generator], Tensor]
Span = tuple[float, float]
_KINDS = ("bilinear", "bicubic", "area")


@dataclass(frozen=True)
class Bicubic:
    """A picture at 1/scale of its size by an antialiased bicubic filter, the one that Pillow has; nothing is random."""

    scale: int

    def __call__(self, picture_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """The small picture; the generator is left alone."""
        return eight_bits(resized(picture_CHW, _small(picture_CHW, self.scale), "bicubic"))


@dataclass(frozen=True)
class Blind:
    """A picture at 1/scale of its size that was blurred, resized, made noisy and compressed in an order drawn anew.

    One round of what Real-ESRGAN (Wang et al., 2021) trains against, with its strengths, in the shuffled order of
    BSRGAN (Zhang et al., 2021); then a bicubic resize to the size wanted.

    Args:
        scale: how many times smaller the result is.
        blur_px: standard deviations of the Gaussian, along each of two axes; half of the blurs are round.
        resize: factors of the resize on the way, up or down.
        noise: standard deviations of Gaussian noise, of the range; two of five times the same in all colours.
        jpeg_quality: Pillow's, 1 to 95.
    """

    scale: int
    blur_px: Span = (0.2, 3.0)
    resize: Span = (0.15, 1.5)
    noise: Span = (1 / 255, 30 / 255)
    jpeg_quality: tuple[int, int] = (30, 95)

    def __call__(self, picture_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """The small picture, another one for each state of the generator."""
        small, picture = _small(picture_CHW, self.scale), picture_CHW
        steps = (self._blurred, self._resized, self._noisy, self._compressed)
        for step in torch.randperm(len(steps), generator=generator).tolist():
            picture = steps[step](picture, generator)
        return eight_bits(resized(picture, small, "bicubic"))

    def _blurred(self, picture_CHW: Tensor, generator: torch.Generator) -> Tensor:
        wide, other = _uniform(self.blur_px, generator), _uniform(self.blur_px, generator)
        narrow = wide if _uniform((0, 1), generator) < 0.5 else other
        return blurred(picture_CHW, (wide, narrow), _uniform((0, math.pi), generator))

    def _resized(self, picture_CHW: Tensor, generator: torch.Generator) -> Tensor:
        factor = _uniform(self.resize, generator)
        kind = _KINDS[int(torch.randint(len(_KINDS), (), generator=generator))]
        height, width = (max(1, round(length * factor)) for length in picture_CHW.shape[1:])
        return resized(picture_CHW, (height, width), kind).clamp(0, 1)

    def _noisy(self, picture_CHW: Tensor, generator: torch.Generator) -> Tensor:
        strength, grey = _uniform(self.noise, generator), _uniform((0, 1), generator) < 0.4
        shape = (1, *picture_CHW.shape[1:]) if grey else picture_CHW.shape
        return (picture_CHW + strength * torch.randn(shape, generator=generator)).clamp(0, 1)

    def _compressed(self, picture_CHW: Tensor, generator: torch.Generator) -> Tensor:
        low, high = self.jpeg_quality
        return through_jpeg(picture_CHW, int(torch.randint(low, high + 1, (), generator=generator)))


def eight_bits(picture: Tensor) -> Tensor:
    """The picture clamped to [0, 1], at the nearest of the 256 levels that a file can hold."""
    return (picture.clamp(0, 1) * 255).round() / 255


def resized(picture_CHW: Tensor, size: tuple[int, int], kind: str) -> Tensor:
    """The picture at another (height, width), antialiased where it shrinks; bicubic may overshoot the range."""
    settings = {} if kind == "area" else {"antialias": True, "align_corners": False}
    return F.interpolate(picture_CHW[None], size, mode=kind, **settings)[0]


def blurred(picture_CHW: Tensor, sigmas_px: Span, angle: float) -> Tensor:
    """The picture under a Gaussian with the given deviations along two axes, the first turned by `angle` from the rows.

    The picture is mirrored at its edges; the kernel reaches three deviations, and no farther than the picture does.
    """
    reach = min(math.ceil(3 * max(sigmas_px)), min(picture_CHW.shape[1:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=picture_CHW.dtype)
    down, right = torch.meshgrid(offsets, offsets, indexing="ij")
    along = right * math.cos(angle) + down * math.sin(angle)
    across = down * math.cos(angle) - right * math.sin(angle)
    kernel = torch.exp(-((along / sigmas_px[0]) ** 2 + (across / sigmas_px[1]) ** 2) / 2)
    padded = F.pad(picture_CHW[:, None], (reach,) * 4, mode="reflect")  # each colour by itself
    return F.conv2d(padded, (kernel / kernel.sum())[None, None])[:, 0]


def through_jpeg(picture_CHW: Tensor, quality: int) -> Tensor:
    """The picture as it comes back from a JPEG file.

    Raises:
        ToolMissing: Pillow is not installed.
    """
    images, _ = pillow()
    pixels = (picture_CHW.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    file = io.BytesIO()
    images.fromarray(pixels.numpy()).save(file, "JPEG", quality=quality)
    back = np.asarray(images.open(file))
    return torch.from_numpy(back.copy()).permute(2, 0, 1).to(picture_CHW.dtype) / 255


def _small(picture_CHW: Tensor, scale: int) -> tuple[int, int]:
    height, width = picture_CHW.shape[1:]
    if height % scale or width % scale:
        raise DataError(f"a picture of {width} x {height} pixels has no 1/{scale} of its size; cut it to a multiple")
    return height // scale, width // scale


def _uniform(span: Span, generator: torch.Generator) -> float:
    return span[0] + (span[1] - span[0]) * float(torch.rand((), generator=generator))
