"""Reading what is inside a compiled Qt resource file (.rcc, formats 1 to 3), where Qt programs keep their images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from compress.errors import DataError

ZLIB, FOLDER, ZSTANDARD = 1, 2, 4


def files_inside(resource_file: Path) -> Iterator[tuple[str, bytes]]:
    """The path and content of every file in a .rcc, those packed with zstandard left out.

    Raises:
        DataError: it is no Qt resource file.
    """
    content = resource_file.read_bytes()
    if content[:4] != b"qres":
        raise DataError(f"{resource_file}: not a Qt resource file")
    version, tree, data, names = struct.unpack(">4I", content[4:20])
    node_size = 14 if version == 1 else 22

    def name_at(offset: int) -> str:
        start = names + offset
        length = struct.unpack(">H", content[start : start + 2])[0]
        return content[start + 6 : start + 6 + 2 * length].decode("utf-16-be")

    def walk(number: int, folder: str) -> Iterator[tuple[str, bytes]]:
        start = tree + number * node_size
        name_offset, flags = struct.unpack(">IH", content[start : start + 6])
        path = f"{folder}/{name_at(name_offset)}" if number else ""
        if flags & FOLDER:
            count, first = struct.unpack(">II", content[start + 6 : start + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
        elif not flags & ZSTANDARD:
            begin = data + struct.unpack(">I", content[start + 10 : start + 14])[0]
            size = struct.unpack(">I", content[begin : begin + 4])[0]
            packed = content[begin + 4 : begin + 4 + size]
            yield path.removeprefix("/"), zlib.decompress(packed[4:]) if flags & ZLIB else packed

    yield from walk(0, "")
