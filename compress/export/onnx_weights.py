"""Stored weights in an ONNX model: float initializers become 4-bit integers or float16 with the op that undoes it.

The exporter of torch knows neither 4-bit initializers nor groups, so the model is exported with float weights, whose
values are exactly those the codes stand for; each is found again by value and written as it is meant to be stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.errors import ToolError
from compress.export.weights import Weight

OPSET = 21  # the first with 4-bit integers, with DequantizeLinear in blocks, and with 16-bit QuantizeLinear
_LEAST = 32  # values from which a float16 copy with its Cast node is smaller than float32


def store_weights(model: onnx.ModelProto, weights: list[Weight]) -> None:
    """Writes each weight's stored form in the place of its float initializer, in place.

    Raises:
        ToolError: a weight is not among the model's initializers.
    """
    arrays = {
        entry.name: numpy_helper.to_array(entry)
        for entry in model.graph.initializer
        if entry.data_type == TensorProto.FLOAT and len(entry.dims) > 1
    }
    stored: set[str] = set()
    for weight in weights:
        name, turned = _find(arrays, weight)
        if name not in stored:  # two layers of equal weights may share one initializer
            stored.add(name)
            _store(model, name, weight, turned)


def _find(arrays: dict[str, np.ndarray], weight: Weight) -> tuple[str, bool]:
    """(the initializer that holds a weight, whether it is transposed), by name where that fits, else by value."""
    values = weight.values.numpy()
    for name in sorted(arrays, key=lambda name: name != weight.key):
        if arrays[name].shape == values.shape and np.array_equal(arrays[name], values):
            return name, False
        if values.ndim == 2 and arrays[name].shape == values.T.shape and np.array_equal(arrays[name], values.T):
            return name, True
    raise ToolError(f"onnx: the weight of {weight.key or weight.name} is not in the exported model; report this")


def _store(model: onnx.ModelProto, name: str, weight: Weight, turned: bool) -> None:
    codes = weight.codes.numpy()
    if weight.kind == "float16":
        if codes.size >= _LEAST:
            node = helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
            _replace(model, name, [numpy_helper.from_array(codes.T if turned else codes, f"{name}.half")], node)
        return
    scales = weight.scales.numpy().astype(np.float32)
    axis = weight.axis
    settings: dict[str, Any] = {"block_size": weight.group} if weight.group else {}
    if weight.group:
        scales = scales.reshape(len(codes), -1)
    if axis is not None:
        settings["axis"] = 1 - axis if turned else axis
    if turned:
        codes, scales = codes.T, (scales.T if weight.group else scales)
    new = [
        _four_bits(codes, f"{name}.int4") if weight.bits == 4 else numpy_helper.from_array(codes, f"{name}.int8"),
        numpy_helper.from_array(np.ascontiguousarray(scales if axis is not None else scales[0]), f"{name}.scale"),
    ]
    _replace(model, name, new, helper.make_node("DequantizeLinear", [entry.name for entry in new], [name], **settings))


def _replace(model: onnx.ModelProto, name: str, new: list[TensorProto], node: onnx.NodeProto) -> None:
    """Puts `node`, which makes the value `name` of the initializers `new`, in the place of the initializer `name`."""
    kept = [entry for entry in model.graph.initializer if entry.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *new])
    model.graph.node.insert(0, node)


def _four_bits(codes: np.ndarray, name: str) -> TensorProto:
    """Integers -8..7 as a 4-bit tensor: two to a byte, the first in the low half."""
    flat = np.ascontiguousarray(codes).astype(np.int8).ravel()
    flat = np.append(flat, np.int8(0)) if flat.size % 2 else flat
    packed = (flat[0::2] & 0x0F).astype(np.uint8) | ((flat[1::2] & 0x0F).astype(np.uint8) << 4)
    return TensorProto(name=name, data_type=TensorProto.INT4, dims=codes.shape, raw_data=packed.tobytes())
