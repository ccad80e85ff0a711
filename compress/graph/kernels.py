"""The kernel size a convolution works at: the middle of its kernel, with as much less padding, at the same output size.

The third elastic dimension of Cai et al. 2020, "Once-for-All": small kernels are the centres of the large ones, without
their transformation matrices. The padding to take away is the layer's own or that of a pad op before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from compress.errors import ModelError
from compress.types import KernelEdit

aten = torch.ops.aten
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PADS = (aten.pad.default, aten.constant_pad_nd.default, aten.reflection_pad1d.default, aten.reflection_pad2d.default)


def kernel_sizes(graph_module: fx.GraphModule, least: int = 3) -> dict[str, tuple[int, ...]]:
    """For each convolution with a choice: the odd sizes, from `least` to its own, that its kernel can be cropped to."""
    found = {}
    for path, layer in graph_module.named_modules():
        if isinstance(layer, CONVS) and not _why_not(graph_module, path, layer.kernel_size[0]):
            own = layer.kernel_size[0]
            sizes = [size for size in range(least, own + 1, 2) if not _why_not(graph_module, path, size)]
            if len(sizes) > 1:
                found[path] = tuple(sizes)
    return found


def crop_kernel(graph_module: fx.GraphModule, edit: KernelEdit) -> None:
    """Keep the middle of a convolution's kernel and take the padding that the rest needed, in place.

    Raises:
        ModelError: the model has no such convolution, or not enough padding around it to keep the output's size.
    """
    layer = _layer(graph_module, edit)
    ring, dims = (edit.size_before - edit.size) // 2, len(layer.kernel_size)
    weight = layer.weight.detach()
    for axis in range(2, weight.dim()):
        weight = weight.narrow(axis, ring, edit.size)
    layer.weight = nn.Parameter(weight.clone(), layer.weight.requires_grad)
    layer.kernel_size = (edit.size,) * dims
    less = [ring * d for d in layer.dilation]
    pad = _pad_before(graph_module, edit.layer)
    if layer.padding == "same":
        _renew_border(layer)  # the padding itself follows the kernel
    elif _enough(_padding(layer), less):
        layer.padding = tuple(own - gone for own, gone in zip(_padding(layer), less, strict=True))
        _renew_border(layer)
    elif pad is not None:
        left = [own - gone for own, gone in zip(_amounts(pad), _both_ends(less), strict=True)]
        pad.args = (pad.args[0], left, *pad.args[2:])
        graph_module.recompile()


def _renew_border(layer: Any) -> None:
    """Bring up to date what torch keeps of a layer's padding since it was made, and pads mirrored borders by."""
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        ends = [(total // 2, total - total // 2) for total in totals]
    else:
        ends = [(pad, pad) for pad in layer.padding]
    layer._reversed_padding_repeated_twice = [side for pair in reversed(ends) for side in pair]


@torch.no_grad()
def mask_kernel(graph_module: fx.GraphModule, edit: KernelEdit) -> None:
    """Zero the taps that `crop_kernel` takes away, in place: a model that answers as the cropped one does."""
    weight: Any = graph_module.get_submodule(edit.layer).weight
    ring = (edit.size_before - edit.size) // 2
    dims = weight.dim() - 2
    weight.mul_(F.pad(weight.new_ones((edit.size,) * dims), [ring, ring] * dims))


def _layer(graph_module: fx.GraphModule, edit: KernelEdit) -> Any:
    """The convolution of an edit that fits the model."""
    try:
        layer = graph_module.get_submodule(edit.layer)
    except AttributeError as error:
        raise ModelError(f"the plan crops the kernel of '{edit.layer}', which this model does not have") from error
    size = layer.kernel_size[0] if isinstance(layer, CONVS) else None
    if size != edit.size_before:
        raise ModelError(
            f"the plan expects '{edit.layer}' to have kernels of {edit.size_before}; this model has {size}"
        )
    reason = _why_not(graph_module, edit.layer, edit.size)
    if reason:
        raise ModelError(f"the kernel of '{edit.layer}' cannot be cropped to {edit.size}: {reason}")
    return layer


def _why_not(graph_module: fx.GraphModule, path: str, size: int) -> str:
    """Why a convolution's kernel cannot have `size` taps in each direction; "" where it can."""
    layer: Any = graph_module.get_submodule(path)
    own = layer.kernel_size[0]
    if len(set(layer.kernel_size)) > 1 or own % 2 == 0:
        return f"it is {'x'.join(map(str, layer.kernel_size))}, not square and odd"
    if size % 2 == 0 or not 1 <= size <= own:
        return f"only odd sizes up to {own} are its centre"
    less = [(own - size) // 2 * d for d in layer.dilation]
    pad = _pad_before(graph_module, path)
    enough = layer.padding == "same" or _enough(_padding(layer), less)
    if enough or (pad is not None and _enough(_amounts(pad), _both_ends(less))):
        return ""
    return "there is too little padding around it to take away"


def _padding(layer: Any) -> tuple[int, ...]:
    """What a convolution that does not pad to the same size adds to both ends of each axis."""
    return (0,) * len(layer.kernel_size) if isinstance(layer.padding, str) else tuple(layer.padding)


def _enough(amounts: Sequence[int], less: Sequence[int]) -> bool:
    """Whether a padding of the same axes can lose as much."""
    return len(amounts) == len(less) and all(own >= gone for own, gone in zip(amounts, less, strict=True))


def _pad_before(graph_module: fx.GraphModule, path: str) -> fx.Node | None:
    """The pad op whose result the layer, called once, alone reads; None where there is none."""
    calls = [n for n in graph_module.graph.nodes if n.op == "call_module" and n.target == path]
    source = calls[0].args[0] if len(calls) == 1 else None
    is_pad = isinstance(source, fx.Node) and source.target in _PADS and len(source.users) == 1
    return source if is_pad and isinstance(source, fx.Node) else None


def _amounts(pad: fx.Node) -> list[int]:
    """What a pad op adds, as torch counts: both ends of the last axis, then of the one before it."""
    return [int(amount) for amount in pad.args[1]]  # type: ignore[arg-type, union-attr]


def _both_ends(less: Sequence[int]) -> list[int]:
    return [amount for axis in reversed(less) for amount in (axis, axis)]
