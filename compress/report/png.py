"""A PNG writer of a few lines (zlib only), so that pictures stand inside the report without an image library."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG colour type: grey, grey+alpha, RGB, RGBA
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """The PNG file of `pixels`: uint8, (H, W) or (H, W, C) with C = 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA.

    Raises:
        DataError: another type or shape.
    """
    grid = np.asarray(pixels)
    if grid.ndim == 2:
        grid = grid[:, :, None]
    if grid.dtype != np.uint8 or grid.ndim != 3 or grid.shape[2] not in _COLOUR_TYPES or 0 in grid.shape:
        raise DataError(f"a picture must be uint8 (H, W, 1 to 4); got {grid.dtype} {grid.shape}")
    height, width, channels = grid.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row starts with its filter: 0, none
    rows[:, 1:] = grid.reshape(height, -1)
    body = zlib.compress(rows.tobytes(), 9)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def data_uri(pixels: NDArray[np.uint8] | bytes, shape: tuple[int, int, int] | None = None) -> str:
    """A `data:image/png` address of `pixels` (see `encode`); raw bytes need their `shape` (H, W, C)."""
    if isinstance(pixels, (bytes, bytearray)):
        if shape is None or len(pixels) != shape[0] * shape[1] * shape[2]:
            raise DataError(f"raw pixels need their (H, W, C) shape; got {len(pixels)} bytes for {shape}")
        pixels = np.frombuffer(pixels, np.uint8).reshape(shape)
    return "data:image/png;base64," + base64.b64encode(encode(pixels)).decode("ascii")


def to_pixels(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The uint8 pixels (H, W, C) of an `image` (C, H, W) in [0, 1], as a task's samples hold it; clipped outside."""
    grid = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0, 1)
    return np.ascontiguousarray(np.rint(grid * 255).astype(np.uint8).transpose(1, 2, 0))


def _chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk: length, kind, body, checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
