"""Transposed convolutions as plain ones: at low resolution with a pixel shuffle, or behind a nearest resize.

Along one axis a transposed convolution gives y[o] = sum of w[t] x[i] over all o = s i - p + d t. The outputs whose
numbers leave the same rest by the stride s read the input with the same few weights: s plain convolutions, interleaved
(the sub-pixel convolution of Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?"). That is
exact. A resize by s and a convolution with v (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts") computes
phase weights A v; the v whose phase weights are nearest to the transposed kernel's is a least-squares solution, exact
where the kernel is a box of s taps convolved with another kernel. All of it is a matrix on each axis.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.rewrite.edits import (
    calls_of,
    cropped,
    emit,
    filled,
    in_words,
    layer_at,
    modules_called,
    padded,
    put,
    sizes,
    tied,
)
from compress.rewrite.rewrite_plan import SiteRewrite

aten = torch.ops.aten

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_RESIZES = (aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec)


@dataclass(frozen=True)
class Axis:
    """One axis of a plain convolution in a transposed one's place.

    `matrix` makes its taps from the transposed kernel's: (s, taps, k) with a shuffle, (taps, k) behind a resize. `pad`
    and `crop` are what is put around its input and taken off its output, before and after. `left_over` and `whole` are
    matrices (phase weights, k): what the new taps miss of the transposed kernel's phase weights, and all of these.
    """

    matrix: Tensor
    pad: tuple[int, int]
    crop: tuple[int, int] = (0, 0)
    left_over: Tensor | None = None
    whole: Tensor | None = None


def plan(graph_module: fx.GraphModule, form: str) -> list[SiteRewrite]:
    """What becomes of each transposed convolution; changes nothing.

    Args:
        graph_module: a traced model.
        form: "pixel_shuffle" or "resize".
    """
    found = []
    for path, layer in modules_called(graph_module, (*TRANSPOSED, nn.ConvTranspose3d)).items():
        reason = tied(graph_module, path) or _obstacle(layer, form)
        after = reason or _after(layer, form)
        found.append(SiteRewrite("upsample", path, "" if reason else form, in_words(layer), after))
    return found


def apply(graph_module: fx.GraphModule, sites: Iterable[SiteRewrite]) -> None:
    """Put the plain convolution in the place of each transposed one, in place."""
    for site in sites:
        _apply(graph_module, site)


def _apply(graph_module: fx.GraphModule, site: SiteRewrite) -> None:
    layer = layer_at(graph_module, site.place, TRANSPOSED)
    axes = _axes(layer, site.form)
    for node in calls_of(graph_module.graph, site.place):
        value: Any = node.args[0]
        if site.form == "resize" and max(layer.stride) > 1:
            scales = [float(s) for s in layer.stride]
            value = emit(node, node, _RESIZES[len(axes) - 1], value, None, scales)
        value, padding = padded(node, node, value, [axis.pad for axis in axes])
        value = emit(node, node, site.place, value)
        if site.form == "pixel_shuffle":
            value = _shuffled(node, value, layer.stride)
        for number, axis in enumerate(axes, start=2):
            value = cropped(node, node, value, number, *axis.crop)
        node.replace_all_uses_with(value)
        graph_module.graph.erase_node(node)
    put(graph_module, site.place, _convolution(layer, axes, padding))


def _obstacle(layer: Any, form: str) -> str:
    if not isinstance(layer, TRANSPOSED):
        return "it works in three dimensions, which no mobile runtime shuffles"
    if form == "resize" and max(layer.dilation) > 1:
        return "its kernel is dilated, which no small convolution behind a resize comes near"
    return ""


def _after(layer: Any, form: str) -> str:
    axes = _axes(layer, form)
    made = in_words(_convolution(layer, axes, (0,) * len(axes)))
    if max(layer.stride) == 1:
        return f"{made}, exact"
    if form == "pixel_shuffle":
        return f"{made}, pixel shuffle {sizes(layer.stride)}, exact"
    return f"nearest resize {sizes(layer.stride)}, {made}, {_missed(layer, axes):.1%} of the kernel missed"


def _axes(layer: Any, form: str) -> list[Axis]:
    numbers = zip(
        layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation, strict=True
    )  # fmt: skip
    return [shuffle_axis(*axis) if form == "pixel_shuffle" else resize_axis(*axis[:4]) for axis in numbers]


def shuffle_axis(kernel: int, stride: int, padding: int, output_padding: int, dilation: int) -> Axis:
    """One axis of the exact form: the fewest taps that some crop at the beginning allows, then the smallest crop."""
    # The output has stride * L + longer entries where the input has L.
    longer = dilation * (kernel - 1) + output_padding + 1 - stride - 2 * padding
    choices = [_reached(kernel, stride, padding - crop, dilation) for crop in range(stride)]
    spans = [max(offsets) - min(offsets) for offsets in ([e for _, e, _ in choice] for choice in choices)]
    crop = spans.index(min(spans))
    lowest = min(e for _, e, _ in choices[crop])
    matrix = torch.zeros(stride, spans[crop] + 1, kernel, dtype=torch.float64)
    for phase, offset, tap in choices[crop]:
        matrix[phase, offset - lowest, tap] = 1
    more = -(-(longer + crop) // stride)  # entries of the convolution beyond L, rounded up
    pad = (-lowest, more + lowest + spans[crop])
    return Axis(matrix, pad, (crop, stride * more - crop - longer))


def _reached(kernel: int, stride: int, padding: int, dilation: int) -> list[tuple[int, int, int]]:
    """(phase, offset, tap): output s q + phase reads input q + offset with the tap."""
    steps = [(phase, phase + padding - dilation * tap, tap) for phase in range(stride) for tap in range(kernel)]
    return [(phase, step // stride, tap) for phase, step, tap in steps if step % stride == 0]


def resize_axis(kernel: int, stride: int, padding: int, output_padding: int) -> Axis:
    """One axis of the least-squares form: an odd number of taps that spans at least what the kernel does."""
    span = max(kernel - stride + 1, 1)
    taps = span if stride == 1 else max(span + 1 - span % 2, 3)
    before = span - 1 - padding + (taps - span + 1) // 2
    longer = kernel + output_padding - stride - 2 * padding
    wanted = _reached(kernel, stride, padding, 1)
    # Output s q + r reads entry s q + r + j - before of the resized input, which is input entry q + its floor by s.
    given = [(phase, (phase + j - before) // stride, j) for phase in range(stride) for j in range(taps)]
    rows = {key: i for i, key in enumerate(sorted({(phase, offset) for phase, offset, _ in wanted + given}))}
    spread, whole = (torch.zeros(len(rows), width, dtype=torch.float64) for width in (taps, kernel))
    for phase, offset, j in given:
        spread[rows[phase, offset], j] += 1
    for phase, offset, tap in wanted:
        whole[rows[phase, offset], tap] = 1
    matrix = torch.linalg.lstsq(spread, whole, driver="gelsd").solution
    return Axis(matrix, (before, longer - before + taps - 1), left_over=whole - spread @ matrix, whole=whole)


def _weight(layer: Any) -> Tensor:
    """The transposed kernel (out, in / groups, kH, kW) in float64; one-dimensional ones with kH = 1."""
    weight = layer.weight.detach().double()
    weight = weight.unsqueeze(2) if weight.dim() == 3 else weight
    in_channels, per_group = weight.shape[:2]
    grouped = weight.reshape(layer.groups, in_channels // layer.groups, per_group, *weight.shape[2:])
    return grouped.transpose(1, 2).reshape(-1, in_channels // layer.groups, *weight.shape[2:])


def _matrices(matrices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One matrix for each of two axes."""
    one = torch.ones((1,) * matrices[0].dim(), dtype=torch.float64)
    return (one, matrices[0]) if len(matrices) == 1 else (matrices[0], matrices[1])


def _convolution(layer: Any, axes: list[Axis], padding: tuple[int, ...]) -> nn.Module:
    """The plain convolution with the transposed one's weights brought into its own form."""
    rows, columns = _matrices([axis.matrix for axis in axes])
    phases = 1
    if rows.dim() == 3:  # channel c of phase (i, j) is number (c * s + i) * s + j, as a pixel shuffle wants it
        weight = torch.einsum("ockl,iak,jbl->oijcab", _weight(layer), rows, columns).flatten(0, 2)
        phases = rows.shape[0] * columns.shape[0]
    else:
        weight = torch.einsum("ockl,ak,bl->ocab", _weight(layer), rows, columns)
    weight = weight.squeeze(2) if len(axes) == 1 else weight
    bias = None if layer.bias is None else layer.bias.detach().double().repeat_interleave(phases)
    kind: Any = _CONVOLUTIONS[len(axes) - 1]
    channels = (layer.in_channels, weight.shape[0])
    made = kind(*channels, tuple(weight.shape[2:]), padding=padding, groups=layer.groups, device="meta")
    return filled(made, layer.weight, weight, bias)


def _missed(layer: Any, axes: list[Axis]) -> float:
    """The norm of what the resized form misses of the kernel's phase weights, as a share of theirs."""
    weight = _weight(layer)
    whole_rows, whole_columns = _matrices([a.whole for a in axes if a.whole is not None])
    left_rows, left_columns = _matrices([a.left_over for a in axes if a.left_over is not None])
    if len(axes) == 1:
        left_rows = torch.zeros_like(left_rows)
    whole = torch.einsum("ockl,ak,bl->ocab", weight, whole_rows, whole_columns)
    kept = torch.einsum("ockl,ak,bl->ocab", weight, whole_rows - left_rows, whole_columns - left_columns)
    return float((whole - kept).norm() / whole.norm().clamp_min(1e-30))


def _shuffled(node: fx.Node, value: fx.Node, stride: tuple[int, ...]) -> fx.Node:
    """The phases (N, C * s * s, *spatial) interleaved to (N, C, *s spatial)."""
    if max(stride) == 1:
        return value
    if len(stride) == 2 and stride[0] == stride[1]:
        return emit(node, node, aten.pixel_shuffle.default, value, stride[0])
    for axis in reversed(range(len(stride))):  # the last axis' phases are the innermost channels
        if stride[axis] > 1:
            phases = emit(node, node, aten.unflatten.int, value, 1, [-1, stride[axis]])
            order = [0, 1, *(d + 3 for d in range(len(stride)))]
            order.insert(3 + axis, 2)
            moved = emit(node, node, aten.permute.default, phases, order)
            value = emit(node, node, aten.flatten.using_ints, moved, 2 + axis, 3 + axis)
    return value
