"""Writing artifacts to disk: whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.errors import RunFolderError
from compress.files import files_under


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
