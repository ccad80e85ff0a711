"""Which entries of its input each op reads: the rules behind a receptive field, one for each kind of op.

Every value of a graph has `scale` entries per input pixel along an axis, and its entry o depends on the input pixels
from o / scale - before to o / scale + after (Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural
Networks"). Each op changes these three numbers; an op that has no such numbers sees the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.graph.cost import KIND_OF, op_name

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LOCAL_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
_WHOLE = (0, 0, torch.iinfo(torch.int64).max, 1)  # a slice's axis, start, end and step where none are given
_ALONG_AN_AXIS = {"softmax": 1, "_softmax": 1, "mean": 1, "sum": 1, "amax": 1, "amin": 1} | dict.fromkeys(
    ("chunk", "split", "split_with_sizes"), 2
)
"""Op -> which of its arguments says along which axis it works."""
_LOCAL_OPS = ("alias", "clone", "contiguous", "detach", "dropout", "_to_copy", "channel_shuffle")


@dataclass(frozen=True)
class Axis:
    """How a value sees one axis of the input: entries per pixel, and its reach to both sides in pixels."""

    scale: Fraction = Fraction(1)
    before: Fraction = Fraction(0)
    after: Fraction = Fraction(0)

    def read(self, stride: Fraction | int, first: Fraction | int, last: Fraction | int) -> Axis:
        """The axis of a value whose entry o reads the entries stride * o + first to stride * o + last of this one."""
        stride, scale = Fraction(stride), self.scale
        return Axis(scale / stride, self.before - Fraction(first) / scale, self.after + Fraction(last) / scale)


class SeesAll(Exception):
    """An op that sees the whole picture; its text is the reason."""


def axes_of(
    model: fx.GraphModule,
    node: fx.Node,
    sources: list[fx.Node],
    seen: dict[fx.Node, tuple[Axis, ...]],
    values: dict[fx.Node, Any],
) -> tuple[Axis, ...]:
    """What a node sees along each axis."""
    axes = seen[sources[0]]
    if node.op == "call_module":
        return _of_layer(model.get_submodule(str(node.target)), axes)
    name = op_name(node)
    if name in _RULES:
        return _RULES[name](node, axes, values)
    if name in _LOCAL_OPS or KIND_OF.get(name) in ("activation", "elementwise") or name in ("cat", "concat"):
        return _joined(node, name, sources, seen, values)
    if name == "getitem" or (name in _ALONG_AN_AXIS and _works_on_channels(node, name, values)):
        return axes
    raise SeesAll(f"{name} sees the whole picture, or is not known to see only a part")


def _works_on_channels(node: fx.Node, name: str, values: dict[fx.Node, Any]) -> bool:
    place = _ALONG_AN_AXIS[name]
    given = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
    was, now = values[node.all_input_nodes[0]], values[node]
    kept = not isinstance(now, Tensor) or now.dim() == was.dim()
    return given in (1, [1]) and kept


def _joined(
    node: fx.Node,
    name: str,
    sources: list[fx.Node],
    seen: dict[fx.Node, tuple[Axis, ...]],
    values: dict[fx.Node, Any],
) -> tuple[Axis, ...]:
    """What an elementwise op or a concatenation of channels sees: the union of what its operands see."""
    if name in ("cat", "concat") and (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) != 1:
        raise SeesAll("it concatenates along an axis of the picture")
    for source in node.all_input_nodes:
        held = values[source]
        fixed = source not in seen and isinstance(held, Tensor)
        if fixed and any(size > 1 for size in held.shape[-len(seen[sources[0]]) :] if held.dim() > 1):
            raise SeesAll(f"{name} with a value of fixed size")
    parts = [seen[source] for source in sources]
    if len({tuple(axis.scale for axis in part) for part in parts}) > 1:
        raise SeesAll(f"{name} of values at several scales")
    return tuple(
        Axis(same[0].scale, max(a.before for a in same), max(a.after for a in same))
        for same in zip(*parts, strict=True)
    )


def _of_layer(layer: Any, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    if isinstance(layer, _LOCAL_LAYERS):
        return axes
    if not isinstance(layer, _CONVOLUTIONS + _TRANSPOSED):
        raise SeesAll(f"{type(layer).__name__} sees the whole picture, or is not known to see only a part")
    reaches = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    paddings = _paddings(layer.padding, reaches)
    if isinstance(layer, _CONVOLUTIONS):
        return _windows(axes, layer.stride, paddings, reaches)
    numbers = zip(axes, layer.stride, paddings, reaches, strict=True)
    # Entry o reads the entries i with o = s i - p + t, t from 0 to the kernel's reach.
    return tuple(a.read(Fraction(1, s), Fraction(p - reach, s), Fraction(p, s)) for a, s, p, reach in numbers)


def _paddings(given: Any, reaches: Sequence[int]) -> tuple[int, ...]:
    if given == "same":
        return tuple(reach // 2 for reach in reaches)
    return (0,) * len(reaches) if given == "valid" else tuple(given)


def _windows(
    axes: tuple[Axis, ...], strides: Sequence[int], paddings: Sequence[int], reaches: Sequence[int]
) -> tuple[Axis, ...]:
    numbers = zip(axes, strides, paddings, reaches, strict=True)
    return tuple(axis.read(s, -p, reach - p) for axis, s, p, reach in numbers)


def _pool(node: fx.Node, axes: tuple[Axis, ...], values: dict[fx.Node, Any]) -> tuple[Axis, ...]:
    is_max = "max" in op_name(node)
    given = [_per_axis(node.args[i] if len(node.args) > i else None, len(axes)) for i in range(1, 5)]
    kernel = given[0] or (1,) * len(axes)
    stride, padding = given[1] or kernel, given[2] or (0,) * len(axes)
    dilation = (given[3] if is_max else None) or (1,) * len(axes)
    return _windows(axes, stride, padding, [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)])


def _per_axis(given: Any, count: int) -> tuple[int, ...] | None:
    """A setting for each axis; None where nothing is given."""
    if given is None or given == [] or isinstance(given, bool):
        return None
    entries = list(given) if isinstance(given, (list, tuple)) else [given]
    return tuple(entries * count if len(entries) == 1 else entries)


def _resize(node: fx.Node, axes: tuple[Axis, ...], values: dict[fx.Node, Any]) -> tuple[Axis, ...]:
    """Nearest and linear resizing by fixed factors; a fixed size or aligned corners depend on the whole picture."""
    name, factors = op_name(node), node.args[-1]  # (input, size, aligned corners where it is linear, factors)
    nearest = "nearest" in name
    if not isinstance(factors, (list, tuple)) or node.args[1] is not None:
        raise SeesAll("it resizes to a fixed size")
    if not nearest and node.args[2]:
        raise SeesAll("it resizes with aligned corners")
    found = []
    for axis, factor in zip(axes, _fractions(factors), strict=True):
        if nearest:  # entry o reads the floor of o / factor
            lost = 1 - 1 / factor if factor.denominator == 1 else Fraction(1)
            found.append(axis.read(1 / factor, -lost, 0))
        else:  # entry o reads around (o + 1/2) / factor - 1/2, one entry to both sides, a cubic two
            centre, reach = (1 / factor - 1) / 2, 2 if "cubic" in name else 1
            found.append(axis.read(1 / factor, centre - reach, centre + reach))
    return tuple(found)


def _fractions(factors: Sequence[Any]) -> list[Fraction]:
    return [Fraction(factor).limit_denominator(64) for factor in factors]


def _shuffle(node: fx.Node, axes: tuple[Axis, ...], values: dict[fx.Node, Any]) -> tuple[Axis, ...]:
    factor: Any = node.args[1]
    if op_name(node) == "pixel_shuffle":
        return tuple(axis.read(Fraction(1, factor), -Fraction(factor - 1, factor), 0) for axis in axes)
    return tuple(axis.read(factor, 0, factor - 1) for axis in axes)


def _pad(node: fx.Node, axes: tuple[Axis, ...], values: dict[fx.Node, Any]) -> tuple[Axis, ...]:
    sides: Any = node.args[1]
    if len(node.args) > 2 and node.args[2] == "circular":
        raise SeesAll("it pads with the other end of the picture")
    found = list(axes)
    for i in range(0, len(sides), 2):  # counted from the last axis
        if i // 2 < len(axes):
            found[-1 - i // 2] = found[-1 - i // 2].read(1, -sides[i], -sides[i])
    return tuple(found)


def _slice(node: fx.Node, axes: tuple[Axis, ...], values: dict[fx.Node, Any]) -> tuple[Axis, ...]:
    given: list[Any] = [*node.args[1:], *_WHOLE[len(node.args) - 1 :]]
    axis, start, end, step = given
    if axis in (0, 1):
        return axes
    if not all(isinstance(number, int) for number in given) or step != 1:
        raise SeesAll("it takes a part of the picture that is computed, or not every pixel")
    if start < 0 or 0 <= end < values[node.all_input_nodes[0]].shape[axis]:
        raise SeesAll("it takes a part of the picture of fixed size")
    found = list(axes)
    found[axis - 2] = found[axis - 2].read(1, start, start)
    return tuple(found)


_RULES: dict[str, Callable[[fx.Node, tuple[Axis, ...], dict[fx.Node, Any]], tuple[Axis, ...]]] = {
    **dict.fromkeys(("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d"), _pool),
    **dict.fromkeys(
        ("upsample_nearest1d", "upsample_nearest2d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d"),
        _resize,
    ),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _shuffle),
    **dict.fromkeys(("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d"), _pad),
    "slice": _slice,
}
