"""Folders of pictures as tiles: every common file and mode becomes RGB, and what cannot be read is named and left out.

Pillow reads the files; it is needed here and nowhere else in the room. Colour profiles are not applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.errors import ToolMissing
from compress.tasks.folders import (
    KEEP_BYTES,
    SHARES,
    NotUsable,
    Pieces,
    Where,
    check_enough,
    list_files,
    look_at,
    split_found,
)

Splits = tuple[Pieces, Pieces, Pieces]
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap height and width


@dataclass(frozen=True)
class Tiling:
    """How a picture becomes tiles: a grid of squares, evenly spread, that do not overlap.

    Args:
        side: of a tile, in pixels.
        short_side: pictures are first shrunk until their short side has so many pixels; None leaves them as they are.
        most: tiles to a picture at most (a grid with one tile has it in the middle); None for as many as there are.
    """

    side: int
    short_side: int | None = None
    most: int | None = None

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) at which a picture of `size` is cut.

        Raises:
            NotUsable: it is too small.
        """
        short = self.short_side or min(size)
        if min(size) < max(short, self.side) or short < self.side:
            raise NotUsable(f"{size[1]} x {size[0]} pixels; {max(self.short_side or 0, self.side)} a side are needed")
        height, width = (round(length * short / min(size)) for length in size)
        return height, width

    def places(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """The (top, left) corners of the tiles in a picture of `size`."""
        rows, columns = size[0] // self.side, size[1] // self.side
        while self.most is not None and rows * columns > self.most:
            rows, columns = (rows - 1, columns) if rows > columns else (rows, columns - 1)
        downs, rights = _spread(size[0] - self.side, rows), _spread(size[1] - self.side, columns)
        return [(top, left) for top in downs for left in rights]


def read_picture(file: Path, tiling: Tiling | None = None) -> Tensor:
    """A picture as uint8 RGB (3, H, W), turned as its EXIF data says, at the size that `tiling` cuts it.

    What is transparent shows white; 16-bit grey loses its lower eight bits; of several frames the first is taken.

    Raises:
        NotUsable: it cannot be read, or is too small.
        ToolMissing: Pillow is not installed.
    """
    images, ops = pillow()
    with _opened(file) as image:
        size = None if tiling is None else tiling.size(_size(image))
        if size is not None and image.format == "JPEG":
            image.draft(None, (2 * max(size), 2 * max(size)))  # decoded at a part of its size: much faster
        picture = _rgb(ops.exif_transpose(image))
        if size is not None and picture.size != size[::-1]:
            picture = picture.resize(size[::-1], images.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).contiguous()


def split_pictures(
    where: Where,
    side: int,
    *,
    short_side: int | None = None,
    tiles: int | None = None,
    shares: Sequence[float] = SHARES,
    at_least: int = 1,
    keep_bytes: int = KEEP_BYTES,
) -> Splits:
    """The (train, validation, test) tiles of a folder's pictures, uint8 (3, side, side) each, read when asked for.

    The splits are by picture, by a hash of its name: tiles of one picture are in one split, and pictures that are added
    later move none. Every file is decoded once here, or a damaged one would be found in the middle of a training.

    Args:
        where: a folder (with all folders in it) or the files.
        side, short_side, tiles: see `Tiling` (tiles: its `most`).
        shares: of the splits.
        at_least: pictures that each split needs.
        keep_bytes: decoded tiles kept in memory, for each split.

    Raises:
        DataError: the folder does not exist, or a split has too few pictures.
        ToolMissing: Pillow is not installed.
    """
    tiling = Tiling(side, short_side, tiles)
    found, skipped = look_at(list_files(where), partial(tiles_in, tiling=tiling))
    splits = split_found(found, shares)
    check_enough(where, "pictures", splits, skipped, at_least)
    cut = partial(cut_tiles, tiling=tiling)
    train, validation, test = (Pieces(split, cut, skipped, keep_bytes) for split in splits)
    return train, validation, test


def tiles_in(file: Path, tiling: Tiling) -> int:
    """How many tiles a picture gives; it is decoded to the end, a JPEG at an eighth of its size."""
    with _opened(file) as image:
        size = tiling.size(_size(image))
        if image.format == "JPEG":
            image.draft(None, (1, 1))
        _rgb(image)
        return len(tiling.places(size))


def cut_tiles(file: Path, tiling: Tiling) -> Tensor:
    """All tiles of a picture: uint8 (tiles, 3, side, side)."""
    picture, side = read_picture(file, tiling), tiling.side
    places = tiling.places((picture.shape[1], picture.shape[2]))
    return torch.stack([picture[:, top : top + side, left : left + side] for top, left in places])


def _spread(room: int, count: int) -> list[int]:
    """`count` offsets from 0 to `room`, evenly; a single one is in the middle."""
    return [room // 2] if count == 1 else [i * room // (count - 1) for i in range(count)]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The file as an image of Pillow's; whatever goes wrong with it inside is a reason not to use it."""
    images, _ = pillow()
    try:
        with images.open(file) as image:
            yield image
    except images.UnidentifiedImageError as error:
        raise NotUsable("not a picture that Pillow reads") from error
    except (NotUsable, ToolMissing):
        raise
    except Exception as error:  # decoders of damaged files raise anything
        raise NotUsable(f"{type(error).__name__}: {error}") from error


def _size(image: Any) -> tuple[int, int]:
    """The (height, width) of an image once it is turned as its EXIF data says."""
    width, height = image.size
    return (width, height) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (height, width)


def picture_size(file: Path) -> tuple[int, int]:
    """The (height, width) of a picture, turned as its EXIF data says."""
    with _opened(file) as image:
        return _size(image)


def _rgb(image: Any) -> Any:
    """An image in any mode as RGB."""
    images, _ = pillow()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return images.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in _ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _eight_bits(grey_HW: np.ndarray, mode: str) -> np.ndarray:
    """Grey levels of 16 bits as 8 bits."""
    if mode == "F" or grey_HW.min() < 0 or grey_HW.max() > 65535:
        raise NotUsable(f"its pixels (mode {mode}) have no range that could be known; save it with 8 or 16 bits")
    return (grey_HW.astype(np.uint32) >> 8).astype(np.uint8)


def pillow() -> tuple[Any, Any]:
    """Pillow's modules Image and ImageOps.

    Raises:
        ToolMissing: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise ToolMissing("Pillow, which reads pictures,", "examples") from error
    return Image, ImageOps
