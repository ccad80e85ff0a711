"""ML program operations on stored weights and integer codes: quantize, dequantize, palettes, sparse tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.runtimes.mil.given import along, ints, whole
from compress.runtimes.mil.values import WORDS, as_declared, unpacked

_RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def _per_axis(values: Tensor | None, x: Tensor, axis: Any) -> Tensor:
    """Scales or zero points as float32, shaped to go with x; 0 where there are none."""
    if values is None:
        return torch.zeros(())
    wide = values.to(torch.float32)
    return along(wide, x.dim(), whole(axis) if wide.dim() else 0)


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Any = 0
) -> Tensor:
    """round(x / scale) + zero point, within the type's range; halves are rounded to even."""
    codes = torch.round(input / _per_axis(scale, input, axis)) + _per_axis(zero_point, input, axis)
    return as_declared(codes.clamp(*_RANGES[output_dtype]), WORDS[output_dtype])


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Any = 0) -> Tensor:
    """(code - zero point) scale."""
    return (input.to(torch.float32) - _per_axis(zero_point, input, axis)) * _per_axis(scale, input, axis)


def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Any) -> Tensor:
    """(code - zero point) scale, of a weight."""
    return dequantize(quantized_data, scale, zero_point, axis)


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """A weight in another type."""
    return as_declared(source_val, WORDS[output_dtype])


def _blocks(values: Tensor, shape: torch.Size) -> Tensor:
    """Values, one per block, repeated to the shape of what the blocks are of."""
    for axis, size in enumerate(shape):
        values = values.repeat_interleave(size // values.shape[axis], axis)
    return values


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """(code - offset) scale, of a weight, with one scale per block."""
    shift = _blocks(offset.to(torch.float32), data.shape) if offset is not None else torch.zeros(())
    return (data.to(torch.float32) - shift) * _blocks(scale.to(torch.float32), data.shape)


def constexpr_lut_to_dense(indices: Tensor, lut: Tensor, shape: Any = None, vector_axis: Any = None) -> Tensor:
    """A weight from its palette: iOS 16 packs the indices into bytes and has one table; iOS 18 has one per block."""
    if shape is not None:
        bits, sizes = int(lut.numel()).bit_length() - 1, ints(shape)
        return lut[torch.from_numpy(_unpack(indices, bits, sizes)).to(torch.int64)].reshape(sizes)
    count, length = lut.shape[-2:]
    tables = _blocks_of_tables(lut, indices.shape).reshape(-1, count, length)
    taken = tables[torch.arange(indices.numel()), indices.reshape(-1).to(torch.int64)]
    taken = taken.reshape(*indices.shape, length)
    if length == 1:
        return taken.squeeze(-1)
    axis = whole(vector_axis) % indices.dim()
    return taken.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _blocks_of_tables(lut: Tensor, shape: torch.Size) -> Tensor:
    for axis, size in enumerate(shape):
        lut = lut.repeat_interleave(size // lut.shape[axis], axis)
    return lut


def _unpack(packed: Tensor, bits: int, sizes: list[int]) -> np.ndarray:
    return unpacked(packed.numpy(), bits, int(np.prod(sizes)))


def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Any = None) -> Tensor:
    """A weight from its values that are not zero; iOS 16 packs the mask into bytes."""
    if shape is not None:
        sizes = ints(shape)
        mask = torch.from_numpy(_unpack(mask, 1, sizes)).reshape(sizes)
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> list[Tensor]:
    """(the mask, (code - offset) scale of the values that are not zero)."""
    dense = constexpr_sparse_to_dense(nonzero_data, data_mask)
    return [data_mask, constexpr_blockwise_shift_scale(dense, scale, offset)[data_mask != 0]]


def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: Any = None
) -> list[Tensor]:
    """(the mask, widened where the palette holds vectors; the palette's values where it holds)."""
    dense = constexpr_lut_to_dense(
        constexpr_sparse_to_dense(indices_nonzero_data, indices_mask), lut, vector_axis=vector_axis
    )
    wide = indices_mask
    if vector_axis is not None:
        wide = wide.repeat_interleave(lut.shape[-1], whole(vector_axis))
    return [wide, dense[wide != 0]]


OPS: dict[str, Callable[..., Any]] = {
    "quantize": quantize, "dequantize": dequantize, "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_cast": constexpr_cast, "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_lut_to_dense": constexpr_lut_to_dense, "constexpr_sparse_to_dense": constexpr_sparse_to_dense,
    "constexpr_lut_to_sparse": constexpr_lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": constexpr_sparse_blockwise_shift_scale,
}  # fmt: skip
