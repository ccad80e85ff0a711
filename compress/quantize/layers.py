"""A layer as one functional op, and its weight as integers: what fake quantization and the final graph share.

Both must compute the same thing to the bit, so both take the op and the weight scales from here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compress.quantize.schemes import Precision

aten = torch.ops.aten

PER_TENSOR = -1  # in place of an axis: one scale for the whole weight
_CONVOLUTIONS: dict[Any, tuple[Any, Any]] = {
    nn.Conv1d: (aten.conv1d.default, aten.conv1d.padding),
    nn.Conv2d: (aten.conv2d.default, aten.conv2d.padding),
    nn.Conv3d: (aten.conv3d.default, aten.conv3d.padding),
}
_TRANSPOSED: dict[Any, Any] = {
    nn.ConvTranspose1d: aten.conv_transpose1d.default,
    nn.ConvTranspose2d: aten.conv_transpose2d.input,
    nn.ConvTranspose3d: aten.conv_transpose3d.input,
}

# A channel whose weights all but vanish (a dying filter, folded with its batch norm) would get a scale so small that
# its bias overflows int32, whose unit is input scale x weight scale. 2^-10 of the layer's largest scale keeps the
# rounding error of such a channel a thousandth of that of the largest one, with which it shares the output's scale.
_SMALLEST_SCALE = 2.0**-10


def functional_form(layer: Any) -> tuple[Any, tuple[Any, ...]]:
    """The ATen op of a layer and its arguments behind (input, weight, bias)."""
    if isinstance(layer, nn.Linear):
        return aten.linear.default, ()
    for kind, (plain, named_padding) in _CONVOLUTIONS.items():
        if isinstance(layer, kind):
            op = named_padding if isinstance(layer.padding, str) else plain
            padding = layer.padding if isinstance(layer.padding, str) else list(layer.padding)
            return op, (list(layer.stride), padding, list(layer.dilation), layer.groups)
    op = next(op for kind, op in _TRANSPOSED.items() if isinstance(layer, kind))
    return op, (
        list(layer.stride),
        list(layer.padding),
        list(layer.output_padding),
        layer.groups,
        list(layer.dilation),
    )


def channel_axis(layer: Any) -> int:
    """The weight axis with one scale per index: output channels; inputs for a transposed convolution with groups.

    The weight of a transposed convolution is (in, out / groups, *kernel): with groups its output channels lie on two
    axes. It has one scale per group, repeated for each input channel of the group (`channels_per_scale`).
    """
    if type(layer) in _TRANSPOSED:
        return 1 if layer.groups == 1 else 0
    return 0


def channels_per_scale(layer: Any) -> int:
    """How many neighbours along the channel axis share one scale: 1, but in transposed convolutions with groups."""
    return layer.in_channels // layer.groups if type(layer) in _TRANSPOSED and layer.groups > 1 else 1


def group_size(layer: Any, precision: Precision) -> int:
    """How many inputs of a layer share a scale under a scheme with groups; 0 where each channel has one scale.

    Linear layers only, whose inputs divide evenly: LiteRT and XNNPACK take groups nowhere else.
    """
    fits = isinstance(layer, nn.Linear) and precision.group and layer.in_features % precision.group == 0
    return precision.group if fits else 0


def weight_scales(weight: Tensor, axis: int, weight_max: int, group: int = 0, shared: int = 1) -> Tensor:
    """The scale of each channel, max|w| / weight_max, held off zero: float32 (channels,), or (1,) per tensor.

    With `group`, one scale for each run of that many weights in row-major order: (weights / group,). With `shared`,
    each run of that many channels has the largest one's.
    """
    magnitude = weight.detach().abs().float()
    if group:
        largest = magnitude.reshape(-1, group).amax(1)
    elif axis == PER_TENSOR:
        largest = magnitude.amax().reshape(1)
    else:
        largest = magnitude.amax([d for d in range(weight.dim()) if d != axis])
        largest = largest.reshape(-1, shared).amax(1).repeat_interleave(shared)
    scales = largest / weight_max
    floor = torch.where(scales.amax() > 0, scales.amax() * _SMALLEST_SCALE, torch.ones_like(scales.amax()))
    scales = torch.maximum(scales, floor)
    return (
        scales.bfloat16().float() if group else scales
    )  # as LiteRT and XNNPACK store them: no format rounds them anew


def fake_quantize_weight(weight: Tensor, scales: Tensor, axis: int, weight_max: int, group: int = 0) -> Tensor:
    """The weight rounded to its integers, as floats; the gradient passes straight through the rounding."""
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=scales.device)
    if group:
        rows = torch.fake_quantize_per_channel_affine(
            weight.reshape(-1, group), scales, zeros, 0, -weight_max, weight_max
        )
        return rows.reshape(weight.shape)
    if axis == PER_TENSOR:
        return torch.fake_quantize_per_tensor_affine(weight, scales[0], zeros[0], -weight_max, weight_max)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, axis, -weight_max, weight_max)


def integer_weight(weight: Tensor, scales: Tensor, axis: int, weight_max: int, group: int = 0) -> Tensor:
    """The weight's integers, int8, rounded as `fake_quantize_weight` rounds."""
    if group:
        return integer_weight(weight.reshape(-1, group), scales, 0, weight_max).reshape(weight.shape)
    shape = [1] * weight.dim()
    if axis != PER_TENSOR:
        shape[axis] = -1
    inverse = (1.0 / scales).reshape(shape)
    return torch.round(weight.detach() * inverse).clamp(-weight_max, weight_max).to(torch.int8)
