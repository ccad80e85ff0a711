import base64
import struct
import zlib

import numpy as np
import pytest

from compress.errors import DataError
from compress.report.png import data_uri, encode, to_pixels


def decode(content):
    """The pixels of a PNG with unfiltered rows, each chunk's checksum checked: written from the specification."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        assert struct.unpack(">I", content[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    channels = {0: 1, 4: 2, 2: 3, 6: 4}[colour]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_come_back(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    assert np.array_equal(decode(encode(pixels)), pixels)


def test_grey_without_channels_and_raw_bytes():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(decode(encode(pixels))[:, :, 0], pixels)
    uri = data_uri(pixels.tobytes(), (3, 4, 1))
    assert uri == data_uri(pixels)
    assert np.array_equal(decode(base64.b64decode(uri.removeprefix("data:image/png;base64,")))[:, :, 0], pixels)


def test_an_image_library_agrees():
    library = pytest.importorskip("PIL.Image", reason="Pillow is not installed: the PNG is checked by our decoder only")
    import io

    pixels = np.random.default_rng(1).integers(0, 256, (9, 4, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(library.open(io.BytesIO(encode(pixels)))), pixels)


def test_float_pictures_are_clipped_and_turned():
    image = np.array([[[0.0, 2.0]], [[-1.0, 0.5]], [[1.0, np.nan]]])  # (3, 1, 2)
    assert to_pixels(image).tolist() == [[[0, 0, 255], [255, 128, 0]]]


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 3)), np.zeros((2, 2, 5), np.uint8), np.zeros((0, 2, 3), np.uint8)])
def test_other_arrays_are_refused(bad):
    with pytest.raises(DataError, match="uint8"):
        encode(bad)


def test_raw_bytes_of_another_length_are_refused():
    with pytest.raises(DataError, match="shape"):
        data_uri(b"abc", (2, 2, 3))
