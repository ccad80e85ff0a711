"""What an op asks of a compute unit, as amounts that each cost a fixed time: MACs, bytes, outputs, launches.

The latency of a model is then the sum of amount times cost: the amounts follow from the shapes alone, the costs are
what a fit finds (see `regression.py`). What is not linear in a shape happens here: kernels work in blocks of
channels and of pixels, so widths and maps count as the next full block, and what does not fit into the unit's own
memory also travels to the device's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from compress.types import OpRecord

# A kind of op that has MACs, and the entry of the costs it counts under.
LAYERS = ("conv", "pointwise_conv", "depthwise_conv", "grouped_conv", "conv_transpose", "conv3d", "linear", "matmul")
MOVERS = (
    "norm", "activation", "transcendental", "softmax", "elementwise", "reduce", "pool", "resize", "concat", "pad",
    "move", "shuffle", "gather",
)  # fmt: skip
FREE = frozenset({"reshape", "constant"})
# Activations that a kernel clamps or scales; any other takes a series or a table.
_PIECEWISE = frozenset(
    {"relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "leaky_relu", "prelu", "_prelu_kernel", "abs"}
)
# Activations that multiply a value by a function of itself: two passes where others take one.
_SELF_GATED = frozenset({"silu", "gelu", "mish"})
# The side of the overlapping windows that kernels for averages are made for.
_COMMON_AVERAGE = 3
# Everything an op may ask for; `steps` are counted where outputs are computed side by side (see `Layout.parallel`).
COSTS = (
    *(f"macs.{key}" for key in LAYERS), "macs.wide_depthwise", "macs.strided_depthwise", "macs.dilated",
    "outputs", "gathers", "taps", "taps.average", "steps.window", "steps.pointwise",
    *(f"bytes.{key}" for key in (*LAYERS, *MOVERS)), "bytes.self_gated", "bytes.unknown",
    "bytes.far", "bytes.weights", "ops.layer", "ops.other", "pixels.in", "bytes.in", "bytes.out", "calls",
)  # fmt: skip
# Layers whose kernels gather a window of channels for each output.
_GATHERING = frozenset({"conv", "pointwise_conv", "conv_transpose", "linear"})


@dataclass(frozen=True, slots=True)
class Layout:
    """How a unit lays tensors out.

    Kernels compute `channels` outputs at once, of a map whose sides count in steps of `rows` and `columns`; a value
    takes `value_bytes`, a weight `weight_bytes` (as a value where not given). A layer of fewer input channels than
    `window_channels` gathers them together with its window, so that only both together fill a block. What of a tensor
    lies beyond `near_bytes` goes through the device's memory. `linked` are the kinds of op that the runtime computes
    inside the kernel before them. A `parallel` unit has so many lanes that the chain of MACs behind one output takes
    time by itself.
    """

    channels: int = 1
    rows: int = 1
    columns: int = 1
    value_bytes: float = 4.0
    weight_bytes: float | None = None
    parallel: bool = False
    window_channels: int = 8
    near_bytes: float | None = None
    linked: tuple[str, ...] = ()


def padded(size: int, block: int) -> int:
    """`size` rounded up to the next full block."""
    return -(-size // block) * block


def key_of(op: OpRecord) -> str:
    """The kind an op is charged as: convolutions with a 1x1 and with a 3-D kernel apart."""
    if op.kind in ("conv", "depthwise_conv", "grouped_conv") and len(op.kernel) > 2:
        return "conv3d"
    if op.kind == "activation":
        return "activation" if op.op.rstrip("_").lower() in _PIECEWISE else "transcendental"
    if op.kind == "move" and op.input_shapes and len(op.input_shapes[0]) > 4:
        return "shuffle"
    return "pointwise_conv" if op.kind == "conv" and op.kernel and max(op.kernel) == 1 else op.kind


def amounts(op: OpRecord, layout: Layout) -> dict[str, float]:
    """What `op` asks for, by the name of the cost; empty where it is free. MACs and bytes are those of full blocks.

    More channels never ask for less of anything.
    """
    key = key_of(op)
    if op.fused_into or key in FREE or key in layout.linked:
        return {}
    if key == "attention":
        return _attention(op, layout)
    inputs = sum([prod(shape) for shape in op.input_shapes])
    outputs = prod(op.output_shape)
    if key not in LAYERS:
        return _moved(op, key if key in MOVERS else "unknown", layout)
    grown_in, grown_out, grown_macs = _grown(op, key, layout)
    macs = (op.macs or 0) * grown_macs * _grown_map(op.output_shape, layout)
    asked = {f"macs.{key}": macs, "ops.layer": 1.0}
    window, groups = prod(op.kernel), max(op.groups, 1)
    if key in _GATHERING and macs:
        asked["outputs"] = outputs * grown_out
        asked["gathers"] = (op.macs or 0) * grown_in / max(op.channels[1] // groups, 1)
        if window > 1:
            asked["taps"] = outputs * grown_out * window
    if key == "depthwise_conv" and window > 9:
        asked["macs.wide_depthwise"] = macs
    if key == "depthwise_conv" and max(op.stride, default=1) > 1:
        asked["macs.strided_depthwise"] = macs
    if op.dilation > 1:
        asked["macs.dilated"] = macs
    if layout.parallel:
        chain = window if key == "depthwise_conv" else window * op.channels[0] * grown_in / groups
        asked["steps.window" if window > 1 else "steps.pointwise"] = float(max(chain, 1))
    asked[f"bytes.{key}"] = (inputs * grown_in + outputs * grown_out) * layout.value_bytes
    sizes = [*(prod(shape) * grown_in for shape in op.input_shapes), outputs * grown_out]
    _far(asked, sizes, layout, prod(op.output_shape[:-2]) if key == "matmul" else 1.0)
    asked["bytes.weights"] = op.weight_count * grown_macs * (layout.weight_bytes or layout.value_bytes)
    return asked


def _grown(op: OpRecord, key: str, layout: Layout) -> tuple[float, float, float]:
    """By how much a layer's inputs, outputs and MACs grow when its channels fill their blocks."""
    fan_in, fan_out = op.channels
    block, groups = layout.channels, max(op.groups, 1)
    if fan_in < 1 or fan_out < 1:
        return 1.0, 1.0, 1.0
    if key == "depthwise_conv":
        return padded(fan_in, block) / fan_in, padded(fan_out, block) / fan_out, padded(fan_out, block) / fan_out
    in_full = float(padded(-(-fan_in // groups), block) * groups)
    # An image's three channels are gathered with their window: both together fill the block.
    if fan_in // groups < layout.window_channels:
        window = prod(op.kernel)
        in_full = padded(fan_in // groups * window, block) * groups / window
    grown_in = max(in_full / fan_in, 1.0)
    grown_out = padded(-(-fan_out // groups), block) * groups / fan_out
    return grown_in, grown_out, grown_in * grown_out


def total(ops: Sequence[OpRecord], layout: Layout) -> dict[str, float]:
    """What a model asks for: the sum over its ops, and what a call takes around them."""
    sums = around(ops, layout)
    for op in ops:
        for name, amount in amounts(op, layout).items():
            sums[name] = sums.get(name, 0.0) + amount
    return sums


def around(ops: Sequence[OpRecord], layout: Layout) -> dict[str, float]:
    """What a call asks for besides its ops: one call, and values in and out; an image's pixels are put in order."""
    if not ops:
        return {"calls": 1.0}
    given = ops[0].input_shapes[0] if ops[0].input_shapes else ()
    return {
        "calls": 1.0,
        "pixels.in": float(given[0] * given[2] * given[3]) if len(given) == 4 else 0.0,
        "bytes.in": prod(given) * layout.value_bytes,
        "bytes.out": prod(ops[-1].output_shape) * layout.value_bytes,
    }


def _moved(op: OpRecord, key: str, layout: Layout) -> dict[str, float]:
    """What an op without MACs asks for: its bytes, in full blocks of channels, and a launch."""
    shape = op.output_shape
    grown = _grown_heads(shape, layout) if key == "softmax" else _grown_width(shape, layout)
    sizes = [prod(each) * grown for each in (*op.input_shapes, shape)]
    moved = sum(sizes) * layout.value_bytes
    asked = {f"bytes.{key}": moved, "ops.other": 1.0}
    if key == "softmax":
        _far_slices(asked, layout, shape)
    else:
        _far(asked, sizes, layout)
    if key == "transcendental" and op.op.rstrip("_").lower() in _SELF_GATED:
        asked["bytes.self_gated"] = moved
    if key == "pool" and op.op.startswith("avg"):
        window = _average_window(op)
        if window:
            asked["taps.average"] = float(prod(shape) * window)
    return asked


def _grown_width(shape: tuple[int, ...], layout: Layout) -> float:
    """By how much a tensor grows when its channels (of a map the second axis, else the last) fill their blocks."""
    width = (shape[1] if len(shape) >= 4 else shape[-1]) if shape else 0
    return padded(width, layout.channels) / width if width else 1.0


def _grown_heads(shape: tuple[int, ...], layout: Layout) -> float:
    """By how much the scores of an attention (heads, tokens, keys) grow: heads lie where a map has its rows."""
    if not shape or not prod(shape):
        return 1.0
    return padded(shape[-1], layout.channels) / shape[-1] * _more_heads(shape, layout)


def _more_heads(shape: tuple[int, ...], layout: Layout) -> float:
    """By how much an attention's heads, the third axis from behind, grow; 1 where there is no such axis."""
    return padded(shape[-3], layout.rows) / shape[-3] if len(shape) > 2 else 1.0


def _average_window(op: OpRecord) -> int:
    """How many values an average pooling reads for each output where its windows overlap in no common way, else 0."""
    if len(op.output_shape) != 4 or not op.input_shapes:
        return 0
    (rows, columns), (rows_out, columns_out) = op.input_shapes[0][-2:], op.output_shape[-2:]
    kernel = op.kernel
    if not kernel and 0 < 2 * (rows - rows_out) < rows_out:
        kernel = (rows - rows_out + 1, columns - columns_out + 1)  # a stride of 1, nothing padded
    overlaps = bool(kernel) and kernel[0] * rows_out > rows + kernel[0]
    return prod(kernel) if overlaps and max(kernel) != _COMMON_AVERAGE else 0


def _attention(op: OpRecord, layout: Layout) -> dict[str, float]:
    """A fused attention as its two products and the softmax between them (shapes N, heads, tokens, features)."""
    query, key = op.input_shapes[0], op.input_shapes[1]
    scores = prod(query[:-1]) * key[-2]
    size = layout.value_bytes
    moved = sum([prod(shape) for shape in op.input_shapes]) + 2 * scores + prod(op.output_shape)
    grown = _grown_heads((*query[:-1], key[-2]), layout)
    asked = {
        "macs.matmul": float(op.macs or 0), "bytes.matmul": moved * size, "bytes.softmax": 2.0 * scores * size * grown,
        "ops.layer": 2.0, "ops.other": 1.0,
    }  # fmt: skip
    _far_slices(asked, layout, (*query[:-1], key[-2]))
    return asked


def _grown_map(shape: tuple[int, ...], layout: Layout) -> float:
    """By how much a map's pixels grow when both sides are rounded up; 1 for anything but an image."""
    if len(shape) != 4 or shape[2] * shape[3] == 1:
        return 1.0
    rows, columns = shape[2], shape[3]
    return padded(rows, layout.rows) * padded(columns, layout.columns) / (rows * columns)


def _far_slices(asked: dict[str, float], layout: Layout, shape: tuple[int, ...]) -> None:
    """Adds what of a softmax does not fit into the unit's own memory: it splits by its leading axes, its values not."""
    slices = prod(shape[:-2]) * _more_heads(shape, layout)
    far = asked["bytes.softmax"] - (layout.near_bytes or 0.0) * max(slices, 1.0)
    if layout.near_bytes is not None and far > 0:
        asked["bytes.far"] = far


def _far(asked: dict[str, float], sizes: Sequence[float], layout: Layout, slices: float = 1.0) -> None:
    """Adds the bytes of tensors, of so many values in full blocks, that do not fit into the unit's own memory.

    Slice by slice where the work splits so.
    """
    if layout.near_bytes is None:
        return
    near = layout.near_bytes * max(slices, 1.0)
    far = sum([max(size * layout.value_bytes - near, 0.0) for size in sizes])
    if far > 0:
        asked["bytes.far"] = far
