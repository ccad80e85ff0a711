"""Crops of 32 x 32 pixels from scikit-learn's two sample photographs (real), to enlarge and to restore."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import ToolMissing
from compress.metrics import psnr_db
from compress.tasks import SuperResolution

SIDE = 32
_PERIOD, _VALIDATION, _TEST = 5, 1, 3  # of every five columns of tiles, these two are held out
_DETAIL = 0.02  # mean difference of neighbouring pixels below which a tile is sky or blur, where all methods are equal


@cache
def photos() -> tuple[Tensor, Tensor, Tensor]:
    """(train, validation, test): crops with some detail, in [0, 1], (N, 3, 32, 32); no pixel is in two of them.

    Raises:
        ToolMissing: scikit-learn, which brings them, or Pillow, which reads them, is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images

        images = load_sample_images().images
    except ImportError as error:
        raise ToolMissing("scikit-learn or Pillow", "examples") from error
    found = [_tiles(torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255) for image in images]
    tiles_NCHW, turn_N = (
        torch.cat([tiles for tiles, _ in found]),
        torch.cat([columns for _, columns in found]) % _PERIOD,
    )
    detailed_N = tiles_NCHW.diff(dim=3).abs().mean((1, 2, 3)) > _DETAIL
    masks = ((turn_N != _VALIDATION) & (turn_N != _TEST), turn_N == _VALIDATION, turn_N == _TEST)
    train, validation, test = (tiles_NCHW[mask & detailed_N] for mask in masks)
    return train, validation, test


@cache
def enlarging(scale: int = 2) -> SuperResolution:
    """The task of making photo crops from themselves at 1/scale of their size, without a teacher yet."""
    return SuperResolution(*photos(), scale=scale, batch_size=16)


def small(large_NCHW: Tensor, scale: int = 2) -> Tensor:
    """Pictures at 1/scale of their side, antialiased bicubic."""
    return F.interpolate(large_NCHW, scale_factor=1 / scale, mode="bicubic", antialias=True).clamp(0, 1)


def bicubic(small_NCHW: Tensor, scale: int = 2) -> Tensor:
    """Pictures at `scale` times their side, the baseline that a network has to beat."""
    return F.interpolate(small_NCHW, scale_factor=scale, mode="bicubic").clamp(0, 1)


@torch.no_grad()
def psnr_of(model: Callable[[Tensor], Tensor], scale: int = 2) -> float:
    """The mean PSNR in dB of the model's enlarged test crops against the real ones, in RGB, edges included."""
    _, _, test = photos()
    return float(psnr_db(model(small(test, scale)).clamp(0, 1), test, 1.0).mean())


def _tiles(picture_CHW: Tensor) -> tuple[Tensor, Tensor]:
    """(all whole 32 x 32 tiles of a picture (N, 3, 32, 32), the column of tiles that each is in (N,))."""
    tiles_CYXHW = picture_CHW.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE)
    rows, columns = tiles_CYXHW.shape[1:3]
    return tiles_CYXHW.permute(1, 2, 0, 3, 4).flatten(0, 1).contiguous(), torch.arange(columns).repeat(rows)
