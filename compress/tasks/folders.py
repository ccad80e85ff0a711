"""Folders of files as samples: which files there are, which split each is in, and pieces of them, read on use."""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from torch import Tensor

from compress.errors import DataError

log = logging.getLogger(__name__)

Where = str | Path | Sequence[str | Path]
"""A folder, or the files themselves."""
SHARES = (0.8, 0.1, 0.1)
KEEP_BYTES = 1 << 30
_NAMED = 3  # how many of the files left out a warning names


@dataclass(frozen=True)
class Skipped:
    """A file that is left out, and why."""

    file: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """A file that can be used: its name in the folder without its ending, and how many pieces it gives."""

    key: str
    file: Path
    pieces: int


class NotUsable(Exception):
    """A file has to be left out; the message says why."""


class Pieces:
    """Equal pieces of files, read when asked for; `skipped` are the files left out.

    Whoever reads a file gets all its pieces at once, and those of the files used last are kept: the next piece of the
    same file costs nothing. What is kept never exceeds `keep_bytes`, however large the folder is; of a folder that does
    not fit, nearly every piece drawn at random costs a file.

    Args:
        found: the files, with the number of pieces of each.
        read: all pieces of a file, (pieces, ...).
        skipped: the files that were left out.
        keep_bytes: how much may be kept in memory.
    """

    def __init__(
        self,
        found: Sequence[Found],
        read: Callable[[Path], Tensor],
        skipped: Sequence[Skipped] = (),
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self.found, self.skipped = tuple(found), tuple(skipped)
        self.keep_bytes = keep_bytes
        self._read = read
        self._ends = list(accumulate(one.pieces for one in self.found))
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._kept_bytes = 0

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(f"piece {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        return self._file(number)[index - (self._ends[number - 1] if number else 0)]

    def _file(self, number: int) -> Tensor:
        """All pieces of a file: kept ones, or read anew."""
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        one = self.found[number]
        try:
            pieces = self._read(one.file)
        except NotUsable as error:
            raise DataError(
                f"{one.file} can no longer be read ({error}); it could when the folder was listed"
            ) from error
        if len(pieces) != one.pieces:
            raise DataError(f"{one.file} has changed since its folder was listed; start again")
        self._kept[number] = pieces
        self._kept_bytes += pieces.nbytes
        while self._kept_bytes > self.keep_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return pieces


def list_files(where: Where) -> list[tuple[str, Path]]:
    """The files of a folder and the folders in it, or those given, with their names without endings; in a fixed order.

    Hidden files are not looked at.

    Raises:
        DataError: there is no such folder.
    """
    if not isinstance(where, (str, Path)):
        return sorted((Path(file).stem, Path(file)) for file in where)
    folder = Path(where)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; check the data path in the task file")
    inside = [(file.relative_to(folder), file) for file in folder.rglob("*") if file.is_file()]
    shown = [(name, file) for name, file in inside if not any(part.startswith(".") for part in name.parts)]
    return sorted((name.with_suffix("").as_posix(), file) for name, file in shown)


def look_at(files: Sequence[tuple[str, Path]], pieces_in: Callable[[Path], int]) -> tuple[list[Found], list[Skipped]]:
    """The files that `pieces_in` can use, and those it refuses by raising NotUsable."""
    found, skipped = [], []
    for key, file in files:
        try:
            found.append(Found(key, file, pieces_in(file)))
        except NotUsable as error:
            skipped.append(Skipped(file, str(error)))
    return found, skipped


def split_of(key: str, shares: Sequence[float]) -> int:
    """Which of the splits a file belongs to, by a hash of its name: other files that come or go do not move it."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big") / 2**56 * sum(shares)
    return min(bisect_right(list(accumulate(shares)), place), len(shares) - 1)


def split_found(found: Sequence[Found], shares: Sequence[float]) -> list[list[Found]]:
    """The files of each split, in order."""
    splits: list[list[Found]] = [[] for _ in shares]
    for one in found:
        splits[split_of(one.key, shares)].append(one)
    return splits


def check_enough(
    where: Where, what: str, splits: Sequence[Sequence[Found]], skipped: Sequence[Skipped], at_least: int
) -> None:
    """Warns of the files left out.

    Raises:
        DataError: a split has fewer files than it needs.
    """
    place, usable = name_of(where), sum(len(split) for split in splits)
    first = "; ".join(f"{one.file.name}: {one.reason}" for one in skipped[:_NAMED])
    left_out = f"{len(skipped)} of {usable + len(skipped)} files are left out ({first})" if skipped else ""
    for name, split in zip(("train", "validation", "test"), splits, strict=True):
        if len(split) < at_least:
            raise DataError(
                f"{place}: the {name} split gets {len(split)} of {usable} usable {what}, and needs {at_least}; "
                f"add {what} or change shares" + (f"; {left_out}" if left_out else "")
            )
    if left_out:
        log.warning("%s: %s%s", place, left_out, ", and more" if len(skipped) > _NAMED else "")


def name_of(where: Where) -> str:
    """What to call the folder or the list of files in a message."""
    return str(where) if isinstance(where, (str, Path)) else f"a list of {len(where)} files"
