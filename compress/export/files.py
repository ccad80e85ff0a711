"""Writing artifacts to disk: whole or not at all, and with the hash and size that identify them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.errors import RunFolderError

_BLOCK_BYTES = 1 << 20


def files_under(path: Path) -> list[Path]:
    """The files of an artifact in a fixed order: itself, or everything below it where it is a folder."""
    if path.is_dir():
        return sorted(entry for entry in path.rglob("*") if entry.is_file())
    return [path]


def sha256_of(path: Path) -> str:
    """The hex SHA-256 of a file, or of a folder: of its files' names and contents in sorted order."""
    digest = hashlib.sha256()
    for file in files_under(path):
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def size_bytes_of(path: Path) -> int:
    """The bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in files_under(path))


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """Yields a fresh hidden folder beside `target`, on the same file system, and removes it afterwards.

    Raises:
        RunFolderError: the folder of `target` cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise RunFolderError(f"cannot write {target}: {error.strerror}; choose another output folder") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """Puts what `write(path)` produces at `target` in one rename; where `write` raises, nothing is left behind.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written.
    """
    with scratch_beside(target) as scratch:
        draft = scratch / target.name
        try:
            write(draft)
            if target.is_dir():  # a folder cannot be renamed over a full one: move the old one out of the way
                os.replace(target, scratch / "previous")
            os.replace(draft, target)
        except OSError as error:
            reason = error.strerror or str(error).splitlines()[0]
            raise RunFolderError(f"cannot write {target}: {reason}; free space or choose another folder") from error
