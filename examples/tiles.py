"""Square tiles of photographs, in three parts split by file: no picture, and no picture's name, gives tiles to two.

The photographs are those of examples/photographs.py, fetched on first use, or a folder of your own.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compress.tasks.base import Stored
from compress.tasks.pictures import split_pictures
from examples.fetch import cache_folder
from examples.photographs import game_photographs, wallpapers

SPLIT = (0, 0, 0, 0, 1, 2)
"""Train, validation or test, in turn."""
Parts = tuple[Stored, Stored, Stored]


def tiles(side: int, short_sides: Sequence[int], counts: Sequence[int], path: str = "") -> Parts:
    """Train, validation and test tiles, uint8 (3, side, side) each.

    Args:
        side: of a tile, in pixels.
        short_sides: the sizes that a photograph is looked at in, in turn; those that would enlarge it are left out.
        counts: tiles of a photograph for training, and for validation and test.
        path: a folder of your own photographs, cut at the first size; by default those that are fetched.
    """
    if path:
        return split_pictures(path, side, short_side=short_sides[0], tiles=counts[0], at_least=2)
    return _fetched(side, tuple(short_sides), tuple(counts))


@cache
def _fetched(side: int, short_sides: tuple[int, ...], counts: tuple[int, int]) -> Parts:
    """The tiles of the fetched photographs, cut once and kept beside them."""
    sizes = "-".join(str(number) for number in (side, *short_sides, "x", *counts))
    kept = cache_folder() / f"tiles-{sizes}.npz"
    if not kept.is_file():
        parts = {str(number): part.numpy() for number, part in enumerate(_cut(side, short_sides, counts))}
        with tempfile.NamedTemporaryFile(dir=kept.parent, suffix=".npz", delete=False) as unfinished:
            np.savez(unfinished, **parts)
        os.replace(unfinished.name, kept)
    with np.load(kept) as found:
        train, validation, test = (torch.from_numpy(found[str(number)]) for number in range(3))
    return train, validation, test


def _cut(side: int, short_sides: tuple[int, ...], counts: tuple[int, int]) -> list[Tensor]:
    places = torch.Generator().manual_seed(0)
    parts: list[list[Tensor]] = [[], [], []]
    for split, picture in _photographs(max(short_sides)):
        sizes = [short for short in short_sides if side <= short <= min(picture.size)]
        for number in range(counts[min(split, 1)] if sizes else 0):
            parts[split].append(_tile(picture, side, sizes[number % len(sizes)], places))
    return [torch.stack(part) for part in parts]


def _photographs(short_side: int) -> Iterator[tuple[int, Image.Image]]:
    """Yields the split and the picture of every photograph."""
    for number, file in enumerate(wallpapers()):
        yield SPLIT[number % len(SPLIT)], _opened(file, 2 * short_side)
    for name, picture in game_photographs():
        plain = "".join(letter for letter in name.lower() if letter.isalpha())  # great_pyramid, greatPyramid2
        yield SPLIT[zlib.crc32(plain.encode()) % len(SPLIT)], picture.convert("RGB")


def _opened(file: Path, short_side: int) -> Image.Image:
    """A photograph with a short side of about so many pixels, or fewer if it has them."""
    photograph = Image.open(file)
    factor = short_side / min(photograph.size)
    if factor < 1:  # a JPEG is decoded at a part of its size: much faster
        photograph.draft("RGB", tuple(round(2 * factor * length) for length in photograph.size))
    photograph = photograph.convert("RGB")
    factor = short_side / min(photograph.size)
    if factor >= 1:
        return photograph
    return photograph.resize(tuple(round(factor * length) for length in photograph.size), Image.Resampling.LANCZOS)


def _tile(picture: Image.Image, side: int, short_side: int, places: torch.Generator) -> Tensor:
    """A square from anywhere in a picture whose short side becomes `short_side` pixels."""
    factor = short_side / min(picture.size)
    size = tuple(max(side, round(length * factor)) for length in picture.size)
    pixels = torch.from_numpy(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).copy()).permute(2, 0, 1)
    top, left = (int(torch.randint(room - side + 1, (), generator=places)) for room in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side].contiguous()
