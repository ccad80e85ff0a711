"""ML program operations over windows: convolution, transposed convolution, pooling, in one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.runtimes.mil.given import flag, ints, whole

Sides = list[tuple[int, int]]  # (before, after) per spatial dimension

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LARGEST: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def sides_of(pad_type: str, pad: Any, sizes: Sequence[int], reaches: Sequence[int], strides: Sequence[int]) -> Sides:
    """The padding of each spatial dimension; `reaches` are the window's extents with dilation.

    "same" gives ceil(size / stride) outputs; an odd rest goes behind, with "same_lower" in front.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        flat = ints(pad) if pad is not None else [0] * 2 * len(sizes)
        return list(zip(flat[::2], flat[1::2], strict=True))
    totals = [
        max(0, (math.ceil(size / stride) - 1) * stride + reach - size)
        for size, reach, stride in zip(sizes, reaches, strides, strict=True)
    ]
    halves = [(total // 2, total - total // 2) for total in totals]
    return halves if pad_type == "same" else [(after, before) for before, after in halves]


def padded(x: Tensor, sides: Sides, value: float = 0.0) -> Tensor:
    """`x` with its last dimensions padded; torch counts them from the last one."""
    return F.pad(x, [size for side in reversed(sides) for size in side], value=value)


def _spread(value: Any, count: int) -> list[int]:
    return ints(value) if value is not None else [1] * count


def _reaches(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    return [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, strides: Any = None, pad_type: str = "valid",
    pad: Any = None, dilations: Any = None, groups: Any = 1,
) -> Tensor:  # fmt: skip
    """Convolution; weight is (out, in / groups, *kernel)."""
    rank = x.dim() - 2
    steps, spaces = _spread(strides, rank), _spread(dilations, rank)
    sides = sides_of(pad_type, pad, x.shape[2:], _reaches(weight.shape[2:], spaces), steps)
    return _CONV[rank](padded(x, sides), weight, bias, steps, 0, spaces, whole(groups))


def conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, pad: Any = None, output_shape: Any = None,
    pad_type: str = "valid", strides: Any = None, dilations: Any = None, groups: Any = 1,
) -> Tensor:  # fmt: skip
    """Transposed convolution; weight is (in, out / groups, *kernel).

    The whole result is computed and cut: `pad` rows go in front; the rest lies behind, where a larger `output_shape`
    adds rows that hold the bias alone.
    """
    rank = x.dim() - 2
    steps, spaces = _spread(strides, rank), _spread(dilations, rank)
    full = _TRANSPOSED[rank](x, weight, None, steps, 0, 0, whole(groups), spaces)
    if pad_type in ("same", "same_lower"):
        wanted = [size * step for size, step in zip(x.shape[2:], steps, strict=True)]
    else:
        sides = sides_of(pad_type, pad, x.shape[2:], [], [])
        wanted = [size - before - after for size, (before, after) in zip(full.shape[2:], sides, strict=True)]
    if output_shape is not None:
        wanted = ints(output_shape)[2:]
    if pad_type in ("same", "same_lower"):
        rests = [max(0, size - out) for size, out in zip(full.shape[2:], wanted, strict=True)]
        sides = [(rest // 2 if pad_type == "same" else rest - rest // 2, 0) for rest in rests]
    cuts = [
        (-before, before + out - size) for (before, _), out, size in zip(sides, wanted, full.shape[2:], strict=True)
    ]
    cut = padded(full, cuts)
    return cut if bias is None else cut + bias.reshape(-1, *[1] * rank)


def _window(
    x: Tensor, kernel_sizes: Any, strides: Any, pad_type: str, pad: Any, ceil_mode: Any
) -> tuple[list[int], list[int], Sides, Sides]:
    """(kernel, strides, padding, rows behind it that only the last window of ceil mode reaches) of a pooling."""
    kernel, rank = ints(kernel_sizes), x.dim() - 2
    steps = _spread(strides, rank)
    sides = sides_of(pad_type, pad, x.shape[2:], kernel, steps)
    more: Sides = []
    for size, reach, step, (before, after) in zip(x.shape[2:], kernel, steps, sides, strict=True):
        room = size + before + after
        count = (room - reach + (step - 1 if flag(ceil_mode) else 0)) // step + 1
        if flag(ceil_mode) and (count - 1) * step >= size + before and before + after > 0:
            count -= 1  # a window must not start in the padding behind
        more.append((0, max(0, (count - 1) * step + reach - room)))
    return kernel, steps, sides, more


def avg_pool(
    x: Tensor, kernel_sizes: Any, pad_type: str, strides: Any = None, pad: Any = None,
    exclude_padding_from_average: Any = False, ceil_mode: Any = False,
) -> Tensor:  # fmt: skip
    """Averages over windows; the padding counts as zeros, or not at all."""
    kernel, steps, sides, more = _window(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    counted = padded(torch.ones_like(x), sides, 0.0 if flag(exclude_padding_from_average) else 1.0)
    average = _AVERAGE[len(kernel)]
    return average(padded(padded(x, sides), more), kernel, steps) / average(padded(counted, more), kernel, steps)


def max_pool(
    x: Tensor, kernel_sizes: Any, pad_type: str, strides: Any = None, pad: Any = None, ceil_mode: Any = False
) -> Tensor:
    """The largest value of each window; the padding never is."""
    kernel, steps, sides, more = _window(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    lowest = float("-inf")
    return _LARGEST[len(kernel)](padded(padded(x, sides, lowest), more, lowest), kernel, steps)


def l2_pool(
    x: Tensor, kernel_sizes: Any, pad_type: str, strides: Any = None, pad: Any = None, ceil_mode: Any = False
) -> Tensor:
    """The root of the sum of squares of each window."""
    kernel, steps, sides, more = _window(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    squares = padded(padded(x * x, sides), more)
    return (_AVERAGE[len(kernel)](squares, kernel, steps) * math.prod(kernel)).sqrt()


OPS: dict[str, Callable[..., Any]] = {
    "conv": conv, "conv_transpose": conv_transpose, "avg_pool": avg_pool, "max_pool": max_pool, "l2_pool": l2_pool,
}  # fmt: skip
