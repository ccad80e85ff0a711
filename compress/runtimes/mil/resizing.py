"""ML program operations that resample images: resizes, grids, affine maps.

Where an operation's documentation leaves open which pixel it takes, and the readings differ, it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.runtimes.mil.given import flag, ints, number, whole

_CLOSE = 1e-4  # of a pixel: scales are stored as float32, so 7 / 3 may come a little short


def points(size: int, out: int, mode: str) -> Tensor:
    """Where along an axis of `size` pixels the `out` samples lie, in pixels, by the sampling mode's definition."""
    index = torch.arange(out, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        alone = (size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0
        found = index * (size - 1) / (out - 1) if out > 1 else index + alone
    elif mode == "DEFAULT":
        found = index * size / out
    elif mode == "OFFSET_CORNERS":
        found = (index + 0.5) * max(1, size - 1) / out
    else:
        found = (index + 0.5) * size / out - 0.5
    return found.clamp(0, size - 1)


def _linear(x: Tensor, dim: int, at: Tensor) -> Tensor:
    """`x` sampled at points along one axis, linearly between neighbours."""
    low = at.floor().to(torch.int64)
    shape = [1] * x.dim()
    shape[dim] = -1
    share = (at - low).to(x.dtype).reshape(shape)
    high = (low + 1).clamp(max=x.shape[dim] - 1)
    return x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share


def _bilinear(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    x = _linear(x, x.dim() - 2, points(x.shape[-2], height, mode))
    return _linear(x, x.dim() - 1, points(x.shape[-1], width, mode))


def resize_bilinear(
    x: Tensor, target_size_height: Any = 1, target_size_width: Any = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """`x` in another size of its last two axes, linear between pixels."""
    return _bilinear(x, whole(target_size_height), whole(target_size_width), sampling_mode)


def upsample_bilinear(
    x: Tensor, scale_factor_height: Any = 1, scale_factor_width: Any = 1, align_corners: Any = True,
    half_pixel_centers: Any = None,
) -> Tensor:  # fmt: skip
    """`x` enlarged by factors, linear between pixels; the spacing follows from the sizes, not from the factors."""
    aligned = flag(align_corners)
    half = not aligned if half_pixel_centers is None else flag(half_pixel_centers)
    if aligned and half:
        raise NotImplementedError("align_corners together with half_pixel_centers")
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS" if half else "DEFAULT"
    height, width = _enlarged(x.shape[-2], scale_factor_height), _enlarged(x.shape[-1], scale_factor_width)
    return _bilinear(x, height, width, mode)


def resize(
    x: Tensor, shape: Any, resized_dims: Any, interpolation_mode: str = "LINEAR", sampling_mode: str = "DEFAULT"
) -> Tensor:
    """`x` with its last `resized_dims` axes in the sizes at the end of `shape`; 0 keeps a size."""
    count = whole(resized_dims)
    for offset, size in enumerate(ints(shape)[-count:]):
        dim = x.dim() - count + offset
        x = _linear(x, dim, points(x.shape[dim], size or x.shape[dim], sampling_mode))
    return x


def _enlarged(size: int, scale: Any) -> int:
    return int(size * number(scale) + _CLOSE)


def _nearest(x: Tensor, dim: int, out: int, other: Tensor) -> Tensor:
    """Each sample from the pixel it falls on; refused where the `other` reading of the points names another pixel."""
    size = x.shape[dim]
    evenly = torch.arange(out, dtype=torch.float64) * size / out
    taken, also = ((at + _CLOSE).floor().clamp(max=size - 1) for at in (evenly, other))
    if not torch.equal(taken, also):
        raise NotImplementedError(f"from {size} to {out} pixels: its documentation does not say which it takes")
    return x.index_select(dim, taken.to(torch.int64))


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Any = 1, scale_factor_width: Any = 1) -> Tensor:
    """`x` enlarged by factors, each pixel repeated."""
    for dim, factor in ((x.dim() - 2, number(scale_factor_height)), (x.dim() - 1, number(scale_factor_width))):
        out = _enlarged(x.shape[dim], factor)
        x = _nearest(x, dim, out, torch.arange(out, dtype=torch.float64) / factor)
    return x


def resize_nearest_neighbor(x: Tensor, target_size_height: Any, target_size_width: Any) -> Tensor:
    """`x` in another size of its last two axes, each sample from one pixel."""
    for dim, out in ((x.dim() - 2, whole(target_size_height)), (x.dim() - 1, whole(target_size_width))):
        x = _nearest(x, dim, out, (torch.arange(out, dtype=torch.float64) + 0.5) * x.shape[dim] / out)
    return x


_PADDINGS = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}


def resample(
    x: Tensor, coordinates: Tensor, sampling_mode: str, padding_mode: str, padding_value: Any, coordinates_mode: str,
    align_corners: Any,
) -> Tensor:  # fmt: skip
    """`x` at the points (x, y) of `coordinates` (N, H, W, 2)."""
    # torch has one reflection per meaning of its own coordinates: about pixel centres when corners are aligned (the
    # edge is not repeated: "reflection"), about pixel edges when not ("symmetric"). So pixels are turned into those.
    sizes = torch.tensor([x.shape[-1], x.shape[-2]], dtype=torch.float32)
    at = _pixels(coordinates.to(torch.float32), sizes, coordinates_mode, flag(align_corners))
    aligned = padding_mode == "reflection"
    grid = 2 * at / (sizes - 1).clamp(min=1) - 1 if aligned else (2 * at + 1) / sizes - 1
    outside = number(padding_value) if padding_mode == "constant" else 0.0
    return F.grid_sample(x - outside, grid, sampling_mode, _PADDINGS[padding_mode], align_corners=aligned) + outside


def _pixels(coordinates: Tensor, sizes: Tensor, mode: str, aligned: bool) -> Tensor:
    """Coordinates in pixels: 0 is the centre of the first."""
    if mode == "unnormalized":
        return coordinates
    share = (coordinates + 1) / 2 if mode == "normalized_minus_one_to_one" else coordinates
    return share * (sizes - 1) if aligned else share * sizes - 0.5


def affine(
    x: Tensor, transform_matrix: Tensor, output_height: Any, output_width: Any, sampling_mode: str, padding_mode: str,
    padding_value: Any, coordinates_mode: str, align_corners: Any,
) -> Tensor:  # fmt: skip
    """`x` sampled where a linear map (D, 6) sends each output pixel, in coordinates from -1 to 1."""
    shape = [x.shape[0], x.shape[1], whole(output_height), whole(output_width)]
    maps = transform_matrix.reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    grid = F.affine_grid(maps, shape, align_corners=flag(align_corners))
    return resample(x, grid, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


def crop(x: Tensor, crop_height: Any, crop_width: Any) -> Tensor:
    """`x` without rows and columns at its edges."""
    (top, bottom), (left, right) = ints(crop_height), ints(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


OPS: dict[str, Callable[..., Any]] = {
    "resize_bilinear": resize_bilinear, "upsample_bilinear": upsample_bilinear, "resize": resize,
    "upsample_nearest_neighbor": upsample_nearest_neighbor, "resize_nearest_neighbor": resize_nearest_neighbor,
    "resample": resample, "affine": affine, "crop": crop,
}  # fmt: skip
