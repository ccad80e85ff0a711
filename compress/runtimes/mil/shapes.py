"""ML program operations that move values about without computing: shapes, pads, joins, fills."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.runtimes.mil.given import axes_of, flag, ints, number, whole


def reshape(x: Tensor, shape: Any) -> Tensor:
    """`x` in another shape; 0 keeps the size that stands as far from the end of x (1 where there is none)."""
    wanted = ints(shape)
    sizes = [1] * max(0, len(wanted) - x.dim()) + list(x.shape)
    kept = sizes[len(sizes) - len(wanted) :]
    return x.reshape([size if size else kept[index] for index, size in enumerate(wanted)])


def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[Any], ends: list[Any], end_masks: list[Any]
) -> Tensor:
    """`x` in a shape put together from parts of the shapes of other tensors."""
    sizes: list[int] = []
    for reference, begin, end, masked in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[whole(begin) : None if flag(masked) else whole(end)]
    return x.reshape(sizes)


def expand_dims(x: Tensor, axes: Any) -> Tensor:
    """`x` with axes of size 1 inserted; `axes` count in the result."""
    rank = x.dim() + len(ints(axes))
    for axis in sorted(axis % rank for axis in ints(axes)):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Any = None) -> Tensor:
    """`x` without those of the axes (all by default) that have size 1."""
    drop = axes_of(axes, x.dim())
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in drop or size != 1])


def transpose(x: Tensor, perm: Any) -> Tensor:
    """`x` with its axes in another order."""
    return x.permute(ints(perm))


def flatten2d(x: Tensor, axis: Any = 1) -> Tensor:
    """`x` as a matrix: the axes before `axis`, and those from it on."""
    return x.reshape(math.prod(x.shape[: whole(axis)]), -1)


def pixel_shuffle(x: Tensor, upscale_factor: Any) -> Tensor:
    """Channels into pixels: the output's channel is the slowest part of the input's."""
    return F.pixel_shuffle(x, whole(upscale_factor))


def pixel_unshuffle(x: Tensor, downscale_factor: Any) -> Tensor:
    """Pixels into channels: undoes `pixel_shuffle`."""
    return F.pixel_unshuffle(x, whole(downscale_factor))


def depth_to_space(x: Tensor, block_size: Any) -> Tensor:
    """Channels into pixels: the output's channel is the fastest part of the input's."""
    block, (count, channels, height, width) = whole(block_size), x.shape
    split = x.reshape(count, block, block, channels // block**2, height, width)
    return split.permute(0, 3, 4, 1, 5, 2).reshape(count, channels // block**2, height * block, width * block)


def space_to_depth(x: Tensor, block_size: Any) -> Tensor:
    """Pixels into channels: undoes `depth_to_space`."""
    block, (count, channels, height, width) = whole(block_size), x.shape
    split = x.reshape(count, channels, height // block, block, width // block, block)
    return split.permute(0, 3, 5, 1, 2, 4).reshape(count, channels * block**2, height // block, width // block)


def pad(x: Tensor, pad: Any, mode: str = "constant", constant_val: Any = 0.0) -> Tensor:
    """The last axes of x, as many as `pad` has pairs, with values before and after."""
    sizes = ints(pad)
    pairs = list(zip(sizes[::2], sizes[1::2], strict=True))
    if mode == "constant":
        return F.pad(x, [size for pair in reversed(pairs) for size in pair], value=number(constant_val))
    for axis, (before, after) in enumerate(pairs, x.dim() - len(pairs)):
        x = x.index_select(axis, _outside(x.shape[axis], before, after, mode))
    return x


def _outside(size: int, before: int, after: int, mode: str) -> Tensor:
    """Which entry of an axis stands at each place of the padded one."""
    places = torch.arange(-before, size + after)
    if mode == "replicate":
        return places.clamp(0, size - 1)
    if max(before, after) >= size:
        raise ValueError(f"an axis of {size} cannot be reflected by {max(before, after)}")
    return (size - 1) - (places.abs() - (size - 1)).abs()


def concat(values: list[Tensor], axis: Any, interleave: Any = False) -> Tensor:
    """Tensors one behind the other along an axis, or entry by entry in turns; scalars become a vector."""
    if flag(interleave):
        dim = whole(axis) % values[0].dim()
        return torch.stack(values, dim + 1).flatten(dim, dim + 1)
    return torch.cat([value.reshape(1) if value.dim() == 0 else value for value in values], whole(axis))


def stack(values: list[Tensor], axis: Any) -> Tensor:
    """Tensors along a new axis."""
    return torch.stack(values, whole(axis))


def split(x: Tensor, axis: Any, num_splits: Any = None, split_sizes: Any = None) -> list[Tensor]:
    """`x` cut along an axis, into equal parts or parts of given sizes."""
    dim = whole(axis)
    sizes = ints(split_sizes) if split_sizes is not None else x.shape[dim] // whole(num_splits)
    return list(torch.split(x, sizes, dim))


def tile(x: Tensor, reps: Any) -> Tensor:
    """`x` repeated along each axis."""
    return x.repeat(ints(reps))


def reverse(x: Tensor, axes: Any = None) -> Tensor:
    """`x` backwards along the axes (all by default)."""
    return x.flip(axes_of(axes, x.dim()))


def fill(shape: Any, value: Any = 0.0) -> Tensor:
    """One value in a shape."""
    return torch.as_tensor(value).expand(ints(shape))


def fill_like(ref_tensor: Tensor, value: Any = 0.0) -> Tensor:
    """One value in the shape of another tensor."""
    return torch.as_tensor(value).expand(ref_tensor.shape)


def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """Numbers from start, not reaching end."""
    return torch.arange(start.item(), end.item(), step.item())


def shape(x: Tensor) -> Tensor:
    """The sizes of x."""
    return torch.tensor(x.shape, dtype=torch.int32)


def band_part(x: Tensor, lower: Any = -1, upper: Any = -1) -> Tensor:
    """Matrices with zeros outside a band about the diagonal; a negative width keeps that side."""
    rows, columns = torch.arange(x.shape[-2]).reshape(-1, 1), torch.arange(x.shape[-1])
    low, high = whole(lower), whole(upper)
    keep = ((rows - columns <= low) | (low < 0)) & ((columns - rows <= high) | (high < 0))
    return torch.where(keep, x, torch.zeros_like(x))


def cumsum(x: Tensor, axis: Any = 0, exclusive: Any = False, reverse: Any = False) -> Tensor:
    """Running sums along an axis; exclusive ones leave out the entry itself."""
    dim = whole(axis)
    turned = x.flip(dim) if flag(reverse) else x
    sums = torch.cumsum(turned, dim) - (turned if flag(exclusive) else 0)
    return sums.flip(dim) if flag(reverse) else sums


def sliding_windows(x: Tensor, axis: Any, size: Any, stride: Any = 1) -> Tensor:
    """All windows along an axis; the places inside a window become the axis behind it."""
    dim = whole(axis) % x.dim()
    return x.unfold(dim, whole(size), whole(stride)).movedim(-1, dim + 1)


OPS: dict[str, Callable[..., Any]] = {
    "reshape": reshape, "reshape_like": reshape_like, "expand_dims": expand_dims, "squeeze": squeeze,
    "transpose": transpose, "flatten2d": flatten2d, "pixel_shuffle": pixel_shuffle, "pixel_unshuffle": pixel_unshuffle,
    "depth_to_space": depth_to_space, "space_to_depth": space_to_depth, "pad": pad, "concat": concat, "stack": stack,
    "split": split, "tile": tile, "reverse": reverse, "fill": fill, "fill_like": fill_like, "range_1d": range_1d,
    "shape": shape, "band_part": band_part, "cumsum": cumsum, "sliding_windows": sliding_windows,
}  # fmt: skip
