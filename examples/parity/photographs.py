"""Photograph tiles, split by file: no picture gives tiles to two splits.

The photographs are the wallpapers of examples/photographs.py, fetched on first use.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from examples.photographs import wallpapers

SHORT_SIDE = 256
# Where the tiles of a picture lie, as shares of the room there is (down, right).
PLACES = ((0.5, 0.5), (0.2, 0.2), (0.8, 0.8), (0.2, 0.8), (0.8, 0.2))
TILES = (4, 2, 2)  # of a picture, in train, validation and test


def tiles(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Train, validation and test tiles, uint8 (N, 3, side, side), of photographs whose short side is 256 pixels."""
    parts: list[list[Tensor]] = [[], [], []]
    for number, picture in enumerate(pictures()):
        split = (0, 0, 0, 0, 1, 2)[number % 6]
        for down, right in PLACES[: TILES[split]]:
            top, left = round(down * (picture.shape[1] - side)), round(right * (picture.shape[2] - side))
            parts[split].append(picture[:, top : top + side, left : left + side])
    train, validation, test = (torch.stack(part) for part in parts)
    return train, validation, test


@cache
def pictures() -> list[Tensor]:
    """Every photograph once, uint8 (3, H, W), in a fixed order."""
    return [_small(file) for file in wallpapers()]


def _small(file: Path) -> Tensor:
    """A photograph with a short side of 256 pixels."""
    photograph = Image.open(file)
    factor = SHORT_SIDE / min(photograph.size)
    size = tuple(round(length * factor) for length in photograph.size)
    photograph.draft("RGB", (2 * size[0], 2 * size[1]))  # a JPEG is decoded at a part of its size: much faster
    small = photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).contiguous()
