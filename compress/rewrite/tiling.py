"""A large picture through a fixed small model: tile by tile, with enough around each tile to be exact.

The memory of a convolutional model grows with its picture; a tile of fixed shape bounds it, and is what a phone's
runtime is compiled for. Tiles overlap by a halo on each side whose output is thrown away. Tiles at the picture's border
lie flush with it, so that the model pads where it would have padded; with a halo that covers the receptive field and no
op that sees the whole picture, the tiles put together are the model's own output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx

from compress.errors import DataError, Infeasible, ModelError
from compress.graph.cost import cost_of
from compress.rewrite.receptive import receptive_field


@dataclass(frozen=True)
class TilePlan:
    """The tile to work in, and what it costs at the size of the example.

    Attributes:
        tile_px: input pixels of a tile along each axis, halo included.
        halo_px: of these, on each side, those that only serve the middle.
        scale: output pixels per input pixel.
        multiple_px: what tiles' places are multiples of; the picture's sides have to be, too.
        tiles: how many cover the picture.
        peak_activation_bytes: counted for one tile.
        whole_peak_activation_bytes: counted for the picture at once.
        pixels_computed: pixels of all tiles together, relative to the picture's.
        inexact_because: the ops that see the whole picture; where there are any, tiles give something else.
    """

    tile_px: tuple[int, ...]
    halo_px: tuple[int, ...]
    scale: tuple[Fraction, ...]
    multiple_px: tuple[int, ...]
    tiles: int
    peak_activation_bytes: int
    whole_peak_activation_bytes: int
    pixels_computed: float
    inexact_because: tuple[str, ...] = ()


def tiled(
    predict: Callable[[Tensor], Any],
    image: Tensor,
    tile_px: Sequence[int],
    halo_px: Sequence[int],
    scale: Sequence[Fraction | int],
    multiple_px: Sequence[int] | None = None,
) -> Tensor:
    """The model's output for a picture, computed in tiles of one shape.

    Args:
        predict: takes a tensor (N, C, *tile_px), gives the output (N, C', *tile_px * scale) as a tensor or an array.
        image: (N, C, *spatial), no side smaller than the tile's.
        tile_px: pixels of a tile along each axis, halo included.
        halo_px: pixels of a tile, on each side, whose output is thrown away (but at the picture's border).
        scale: output pixels per input pixel along each axis.
        multiple_px: tiles begin at multiples of this; needed where the model has strides.

    Raises:
        DataError: the picture is smaller than a tile, or its sides are no multiples.
        ModelError: the model's output does not have the size of its tile times the scale.
    """
    sides, scales = image.shape[2:], [Fraction(s) for s in scale]
    multiples = multiple_px or (1,) * len(sides)
    spans = [_spans(*axis) for axis in zip(sides, tile_px, halo_px, multiples, strict=True)]
    output: Tensor | None = None
    for places in itertools.product(*spans):
        piece = [slice(p.start, p.start + t) for p, t in zip(places, tile_px, strict=True)]
        answer = torch.as_tensor(predict(image[:, :, *piece].contiguous()))
        expected = tuple(t * s for t, s in zip(tile_px, scales, strict=True))
        if tuple(answer.shape[2:]) != expected:
            want = "x".join(str(size) for size in expected)
            raise ModelError(f"a tile gives {tuple(answer.shape)} instead of {want} pixels; check the scale")
        if output is None:
            output = answer.new_empty(*answer.shape[:2], *(int(n * s) for n, s in zip(sides, scales, strict=True)))
        to = [place.kept(factor, 0) for place, factor in zip(places, scales, strict=True)]
        of = [place.kept(factor, place.start) for place, factor in zip(places, scales, strict=True)]
        output[:, :, *to] = answer[:, :, *of]
    assert output is not None
    return output


@dataclass(frozen=True)
class _Span:
    """A tile along one axis: it begins at `start` and counts for the pixels from `first` to before `last`."""

    start: int
    first: int
    last: int

    def kept(self, scale: Fraction, origin: int) -> slice:
        """The output pixels that it counts for, as seen from the input pixel `origin`."""
        return slice(int((self.first - origin) * scale), int((self.last - origin) * scale))


def _spans(side: int, tile: int, halo: int, multiple: int) -> list[_Span]:
    """The tiles that cover an axis; the last one lies flush with the end."""
    if side < tile:
        raise DataError(f"the picture has {side} pixels along an axis where a tile has {tile}; pad it to that")
    if any(size % multiple for size in (side, tile, halo)):
        raise DataError(f"picture, tile and halo ({side}, {tile}, {halo} pixels) have to be multiples of {multiple}")
    step = tile - 2 * halo
    if side > tile and step <= 0:
        raise DataError(f"a tile of {tile} pixels is all halo ({halo} on each side); take a larger one")
    starts = [*range(0, side - tile, step), side - tile] if side > tile else [0]
    spans, done = [], 0
    for start in starts:
        last = side if start == side - tile else start + tile - halo
        spans.append(_Span(start, done, last))
        done = last
    return spans


def tile_plan(model: fx.GraphModule, example_inputs: Sequence[Tensor], max_memory_bytes: int) -> TilePlan:
    """The largest tile, square where the picture is wide enough, whose activations stay below a limit.

    Args:
        model: a traced model.
        example_inputs: the picture's size, (N, C, *spatial); counted at batch size 1.
        max_memory_bytes: for the float32 activations that are alive at once.

    Raises:
        ModelError: the model takes no one picture, or works at one size only.
        Infeasible: the smallest tile with a pixel of its own needs more; carries its plan.
    """
    field, picture = receptive_field(model, example_inputs), example_inputs[0][:1]
    whole = cost_of(model, [picture]).peak_activation_bytes
    sides = tuple(picture.shape[2:])

    def planned(side: int) -> TilePlan:
        # A tile has at least one multiple of its own; an axis that is shorter than the tile is taken whole.
        tile = tuple(
            min(n, max(side // m * m, 2 * h + m))
            for n, m, h in zip(sides, field.multiple_px, field.halo_px, strict=True)
        )
        peak = whole if tile == sides else _peak(model, picture, tile)
        counts = [len(_spans(*a)) for a in zip(sides, tile, field.halo_px, field.multiple_px, strict=True)]
        computed = math.prod(counts) * math.prod(tile) / math.prod(sides)
        return TilePlan(
            tile, field.halo_px, field.scale, field.multiple_px, math.prod(counts), peak, whole, computed,
            field.global_ops if tile != sides else (),
        )  # fmt: skip

    step = math.lcm(*field.multiple_px)
    low, high = 1, -(-max(sides) // step)
    best = planned(low * step)
    if best.peak_activation_bytes > max_memory_bytes:
        size = "x".join(str(n) for n in best.tile_px)
        needed = f"{best.peak_activation_bytes:,} bytes where {max_memory_bytes:,} are allowed"
        record = {"tile_px": list(best.tile_px), "peak_activation_bytes": best.peak_activation_bytes}
        raise Infeasible(f"the smallest tile, {size} pixels, needs {needed}; raise the limit", record, "peak memory")
    while low < high:  # the peak grows with the tile
        middle = (low + high + 1) // 2
        trial = planned(middle * step)
        if trial.peak_activation_bytes <= max_memory_bytes:
            low, best = middle, trial
        else:
            high = middle - 1
    return best


def _peak(model: fx.GraphModule, picture: Tensor, tile: tuple[int, ...]) -> int:
    try:
        return cost_of(model, [picture.new_empty(*picture.shape[:2], *tile)]).peak_activation_bytes
    except Exception as error:  # a view with the old sizes in it fails in whatever way torch likes
        reason = str(error).splitlines()[0]
        raise ModelError(f"the model works at one size only, not at {tile} pixels ({reason})") from error
