"""Two folders of pictures that belong together by name: the input and the output wanted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from compress.tasks.folders import (
    KEEP_BYTES,
    SHARES,
    Found,
    Pieces,
    Skipped,
    Where,
    check_enough,
    list_files,
    look_at,
    split_found,
)
from compress.tasks.pictures import Tiling, cut_tiles, picture_size, tiles_in

PairedSplits = tuple[tuple[Pieces, Pieces], tuple[Pieces, Pieces], tuple[Pieces, Pieces]]


def split_pairs(
    inputs: Where,
    targets: Where,
    side: int,
    *,
    short_side: int | None = None,
    tiles: int | None = None,
    shares: Sequence[float] = SHARES,
    at_least: int = 1,
    keep_bytes: int = KEEP_BYTES,
) -> PairedSplits:
    """The (train, validation, test) tiles of two folders' pictures, each as (input tiles, target tiles) place by place.

    Pictures belong together whose names are the same but for the ending. Those without a partner, or with one of
    another size, are left out with the reason. Everything else is as with `split_pictures`.
    """
    tiling = Tiling(side, short_side, tiles)
    firsts, skipped = look_at(list_files(inputs), partial(tiles_in, tiling=tiling))
    seconds, more = look_at(list_files(targets), partial(tiles_in, tiling=tiling))
    pairs, lonely = _partners(firsts, seconds)
    skipped += more + lonely
    splits = split_found([first for first, _ in pairs], shares)
    check_enough(inputs, "pairs of pictures", splits, skipped, at_least)
    partner, cut = {first.key: second for first, second in pairs}, partial(cut_tiles, tiling=tiling)
    train, validation, test = (
        (Pieces(split, cut, skipped, keep_bytes), Pieces([partner[one.key] for one in split], cut, (), keep_bytes))
        for split in splits
    )
    return train, validation, test


def _partners(firsts: Sequence[Found], seconds: Sequence[Found]) -> tuple[list[tuple[Found, Found]], list[Skipped]]:
    """The pairs of one name and one size, and the files that are in none."""
    (inputs, skipped), (targets, more) = _by_name(firsts), _by_name(seconds)
    skipped += more
    skipped += [Skipped(inputs[key].file, f"no usable target is named {key}") for key in inputs if key not in targets]
    skipped += [Skipped(targets[key].file, f"no usable input is named {key}") for key in targets if key not in inputs]
    pairs = []
    for key in [key for key in inputs if key in targets]:
        first, second = inputs[key], targets[key]
        if picture_size(first.file) == picture_size(second.file):
            pairs.append((first, second))
        else:
            skipped.append(Skipped(first.file, f"its target {second.file.name} has another size"))
    return pairs, skipped


def _by_name(found: Sequence[Found]) -> tuple[dict[str, Found], list[Skipped]]:
    """The files by name, the first of those that share one; and the others."""
    named: dict[str, Found] = {}
    for one in found:
        named.setdefault(one.key, one)
    twice = [one for one in found if named[one.key] is not one]
    return named, [Skipped(one.file, f"{named[one.key].file.name} has the same name") for one in twice]
