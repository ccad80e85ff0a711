"""Files that are either whole or absent: everything the toolchain writes goes through a temporary name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from compress.errors import RunFolderError

_BLOCK_BYTES = 1 << 20


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: a killed process leaves the old file or the new one.

    Raises:
        RunFolderError: the folder cannot be written, or the disk is full; nothing half-written stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True) if partial.parent.is_dir() else None
        raise refusal(error, path) from error


def refusal(error: OSError, path: Path) -> RunFolderError:
    """The one-line error for a file that could not be written."""
    if error.errno == errno.ENOSPC:
        return RunFolderError(f"the disk is full while writing {path}; free some space and run again with --resume")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return RunFolderError(f"cannot write {path}: the folder is read-only; choose another with --out")
    return RunFolderError(f"cannot write {path}: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    """Write text atomically (see `write_bytes`)."""
    write_bytes(path, text.encode())


def write_json(path: Path, record: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, as no other reader would take them."""
    write_text(path, json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path} ({error}); delete it to have it made again") from error


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


def hash_of(record: Any) -> str:
    """A short hash of plain JSON data, the same on every machine."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()[:24]
