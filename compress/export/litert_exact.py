"""Setting a quantized TFLite model's scales, weight codes and biases to exactly those of the program it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from compress.export import tflite
from compress.export.qdq import Range
from compress.export.weights import Weight

# op -> where its input, weight and bias stand among its operands
WEIGHTED = {"CONV_2D": (0, 1, 2), "DEPTHWISE_CONV_2D": (0, 1, 2), "FULLY_CONNECTED": (0, 1, 2),
             "TRANSPOSE_CONV": (2, 1, 3)}  # fmt: skip
_SAME_SCALE = 1e-5  # ai-edge-quantizer recomputes a scale from min and max in float32: off by 1e-7, never by 1e-5


def match_weights(model: Any, weights: list[Weight]) -> dict[str, Weight]:
    """TFLite tensor name -> the program weight it holds in float, found by value."""
    found: dict[str, Weight] = {}
    for tensor in model.subgraphs[0].tensors:
        held = tflite.constant_of(model, tensor)
        if held is None or held.ndim < 2:
            continue
        for weight in weights:
            if held.size == weight.codes.numel() and _place_weight(held, weight) is not None:
                found[tflite.name_of(tensor)] = weight
                break
    return found


def _orders(rank: int) -> list[tuple[int, ...]]:
    """The axis orders a converter stores a weight in: as it is, OIHW -> OHWI, OIHW -> IHWO (depthwise, transposed)."""
    plain = tuple(range(rank))
    if rank < 3:
        return [plain]
    return [plain, (0, *plain[2:], 1), (*plain[1:], 0)]


def _place_weight(held: np.ndarray, weight: Weight, channel: int | None = None) -> tuple[int, ...] | None:
    """The axis order in which `held` is the weight, its channels at axis `channel` where given; None if it is not."""
    values = weight.values.numpy()
    for order in _orders(values.ndim):
        if None not in (channel, weight.axis) and order.index(weight.axis) != channel:
            continue
        turned = values.transpose(order)
        if turned.shape == held.shape and np.array_equal(turned, held):
            return order
    return None


def set_exactly(result: Any, model: Any, ranges: Iterable[Range], codes: dict[str, Weight]) -> dict[str, str]:
    """Sets scales, weight codes and biases to the program's own; returns tensor name -> why one could not be."""
    unset: dict[str, str] = {}
    graph = result.subgraphs[0]
    floats = {tflite.name_of(tensor): tensor for tensor in model.subgraphs[0].tensors}
    for tensor in graph.tensors:
        name = tflite.name_of(tensor)
        if name in codes and tflite.is_type(tensor, "INT8", "INT4"):
            held = tflite.constant_of(model, floats[name])
            assert held is not None
            if not _set_weight(result, tensor, held, codes[name]):
                unset[name] = "its weight was rounded anew (LiteRT's kernel wants other channels scaled)"
        elif tflite.is_constant(result, tensor):
            continue  # a weight that was not found among the program's: the caller names it
        elif tflite.is_type(tensor, "INT8", "INT16") and not _snap(tensor, ranges):
            unset[name] = "its scale is the one LiteRT's kernel asks for, not the program's"
    for operator in graph.operators:
        if tflite.op_of(result, operator) in WEIGHTED:
            _set_bias(result, model, floats, operator)
    return unset


def _snap(tensor: Any, ranges: Iterable[Range]) -> bool:
    """Sets an activation's scale to the program's where it is the same but for rounding; False where none is."""
    given = tensor.quantization
    if given is None or given.scale is None or len(given.scale) != 1 or not len(given.zeroPoint):
        return True
    for value in ranges:
        near = abs(float(given.scale[0]) / value.scale - 1.0) < _SAME_SCALE
        if near and int(given.zeroPoint[0]) == value.zero_point:
            given.scale = np.array([value.scale], np.float32)
            return True
    return False


def _set_weight(result: Any, tensor: Any, held: np.ndarray, weight: Weight) -> bool:
    """Writes the program's codes and scales; False where the kernel wants its scales along another axis."""
    codes = weight.codes.numpy().astype(np.int8)
    if weight.group:
        return _set_groups(result, tensor, codes, weight)
    axis = int(tensor.quantization.quantizedDimension)
    order = _place_weight(held, weight, axis)
    if order is None:
        return False
    tflite.set_codes(result, tensor, codes.transpose(order))
    scales = weight.scales.numpy().astype(np.float32)
    count = len(tensor.quantization.scale)  # one per channel, also where the program has one for all
    tensor.quantization.scale = np.broadcast_to(scales, (count,)).copy()
    tensor.quantization.zeroPoint = np.zeros(count, np.int64)
    return True


def _set_groups(result: Any, tensor: Any, codes: np.ndarray, weight: Weight) -> bool:
    """Writes the codes and scales of a weight in groups; False where the file has another size of group."""
    details = tensor.quantization.details
    if details is None or int(details.blockSize) != weight.group:
        return False
    tflite.set_codes(result, tensor, codes)
    scales = weight.scales.numpy().reshape(len(codes), -1).astype(np.float16)
    tflite.set_constant(result, result.subgraphs[0].tensors[int(details.scales)], scales)
    return True


def _set_bias(result: Any, model: Any, floats: dict[str, Any], operator: Any) -> None:
    """Rounds a bias to integers at input scale times weight scale: int32, or int64 between 16-bit values."""
    tensors = result.subgraphs[0].tensors
    places = WEIGHTED[tflite.op_of(result, operator)]
    if len(operator.inputs) <= places[2] or operator.inputs[places[2]] < 0:
        return
    source, weight, bias = (tensors[int(operator.inputs[place])] for place in places)
    original = floats.get(tflite.name_of(bias))
    if not tflite.is_type(bias, "INT32", "INT64") or original is None:
        return
    held = tflite.constant_of(model, original)
    assert held is not None
    scales = np.float64(source.quantization.scale[0]) * np.asarray(weight.quantization.scale, np.float64)
    kind = np.int32 if tflite.is_type(bias, "INT32") else np.int64
    limits = np.iinfo(kind)
    values = np.clip(np.rint(held.astype(np.float64) / scales), limits.min, limits.max).astype(kind)
    tflite.set_constant(result, bias, values)
    bias.quantization.scale = scales.astype(np.float32)
    bias.quantization.zeroPoint = np.zeros(len(scales), np.int64)
