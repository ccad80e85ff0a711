"""The reader of Qt resource files: names in folders, packed and plain content, and what is no such file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from compress.errors import DataError
from examples.qt_resources import FOLDER, ZLIB, ZSTANDARD, files_inside


def resource_file(path: Path, version: int) -> Path:
    """A file with folder/plain.png, folder/packed.png and folder/other.png (zstandard) as Qt's compiler lays it out."""
    words, contents = ["folder", "plain.png", "packed.png", "other.png"], [b"plain", b"packed" * 9, b"other"]
    names, name_at = b"", {}
    for word in words:
        name_at[word] = len(names)
        names += struct.pack(">HI", len(word), 0) + word.encode("utf-16-be")
    stored = [contents[0], struct.pack(">I", len(contents[1])) + zlib.compress(contents[1]), contents[2]]
    data, data_at = b"", []
    for one in stored:
        data_at.append(len(data))
        data += struct.pack(">I", len(one)) + one
    changed = b"" if version == 1 else bytes(8)
    tree = struct.pack(">IHII", 0, FOLDER, 1, 1) + changed
    tree += struct.pack(">IHII", name_at["folder"], FOLDER, 3, 2) + changed
    for word, flags, offset in zip(words[1:], (0, ZLIB, ZSTANDARD), data_at, strict=True):
        tree += struct.pack(">IHHHI", name_at[word], flags, 0, 0, offset) + changed
    header = 20
    places = (header, header + len(tree), header + len(tree) + len(data))
    path.write_bytes(b"qres" + struct.pack(">4I", version, *places) + tree + data + names)
    return path


@pytest.mark.parametrize("version", [1, 2])
def test_every_file_comes_out_under_its_path(tmp_path: Path, version: int) -> None:
    found = dict(files_inside(resource_file(tmp_path / "some.rcc", version)))
    assert found == {"folder/plain.png": b"plain", "folder/packed.png": b"packed" * 9}


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.rcc").write_bytes(b"something else")
    with pytest.raises(DataError, match="not a Qt resource file"):
        list(files_inside(tmp_path / "some.rcc"))
