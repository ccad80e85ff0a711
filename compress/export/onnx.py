"""Write an ONNX file, checked in onnxruntime's optimizer for the ops that would run in float.

The int8 file holds QuantizeLinear/DequantizeLinear pairs that onnxruntime fuses into integer kernels. Activations are
stored as uint8 with the zero point moved by 128: the same numbers, but on x86 onnxruntime's int8-to-uint8 rewriting
stops at a value that two ops read (every residual block) and leaves those ops in float. Weights of 4 bits and 16-bit
values need operator set 21; 4-bit and float16 weights are written by `onnx_weights`.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import ExportedProgram

from compress.export import onnx_weights
from compress.export.onnx_forms import rounded_before_clamps, with_averages_as_products
from compress.export.program import (
    QUANTIZE,
    calls,
    float_compute_ops,
    has_ranges,
    op_name,
    output_names,
    tally,
    user_inputs,
    without_unused,
)
from compress.export.weights import Weight, fold_weights, stored_weights

SUFFIX = ".onnx"
OPSET = 18  # the oldest the exporter writes without conversion, so the oldest phone runtimes read it
_INTEGERS = (TensorProto.INT8, TensorProto.UINT8)
_INTEGER_OPS = ("QuantizeLinear", "DequantizeLinear", "QGemm", "MatMulInteger", "ConvInteger", "MatMulIntegerToFloat")
_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Concat", "Slice", "Split",
          "MaxPool", "DepthToSpace", "SpaceToDepth", "Gather", "Resize", "Expand", "Pad", "Shape", "Cast")  # fmt: skip


def write(program: ExportedProgram, scheme: str, path: Path) -> dict[str, Any]:
    """Writes the file and returns the Artifact fields that ONNX knows."""
    ready = rounded_before_clamps(with_averages_as_products(program))
    folded, weights = fold_weights(ready, lambda weight: weight.form != "int8")
    model, places = _convert(folded, _opset(program, weights))
    integers = has_ranges(program)
    if integers:
        _store_activations_unsigned(model)
    _use_global_pooling(model)
    onnx_weights.store_weights(model, weights)
    _strip(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    inputs = user_inputs(program)
    float_ops = _float_ops(path, places, program) if integers else ()
    notes = ("activations stored as uint8: the int8 numbers moved by 128",) if _has_int8_values(program) else ()
    return {
        "input_names": tuple(value.name for value in model.graph.input),
        "output_names": tuple(value.name for value in model.graph.output),
        "input_shapes": tuple(shape for _, shape in inputs),
        "delegate": _delegate(program, weights),
        "float_ops": float_ops,
        "tool_versions": {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")},
        "notes": (*notes, *_rounded_by_the_runtime(program, float_ops)),
    }


def _rounded_by_the_runtime(program: ExportedProgram, float_ops: tuple[str, ...]) -> tuple[str, ...]:
    """A line for each layer that the plan keeps in float and onnxruntime computes in integers all the same.

    Between quantized values it rounds float weights to 8 bits when it loads a file (its weight-bias quantization).
    """
    kept = [line.split(" (")[0] for line in float_compute_ops(program) if "its weight is not an integer" in line]
    lost = [line for line in kept if not any(f"{line[line.index(' at ') :]} (" in found for found in float_ops)]
    return tuple(f"{line} is kept in float by the plan, but onnxruntime rounds its weight to 8 bits" for line in lost)


def _opset(program: ExportedProgram, weights: list[Weight]) -> int:
    """The oldest operator set that can hold the program."""
    wide = any(op_name(node) == QUANTIZE and node.args[5] is torch.int16 for node in calls(program))
    return onnx_weights.OPSET if wide or any(weight.kind == "integer" for weight in weights) else OPSET


def _has_int8_values(program: ExportedProgram) -> bool:
    return any(op_name(node) == QUANTIZE and node.args[5] is torch.int8 for node in calls(program))


def _delegate(program: ExportedProgram, weights: list[Weight]) -> str:
    """What executes the file, and on what numbers where the weights are not what is computed with."""
    if weights and not has_ranges(program):
        forms = sorted({weight.form for weight in stored_weights(program)})
        return f"onnxruntime CPU, in float32: {' and '.join(forms)} weights are made float again"
    return "onnxruntime CPU"


def _convert(program: ExportedProgram, opset: int) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The ONNX model, and node name -> module path."""
    lean = without_unused(program)
    exported = torch.onnx.export(
        lean, dynamo=True, opset_version=opset, verbose=False,
        input_names=[name for name, _ in user_inputs(program)], output_names=list(output_names(program)),
    )  # fmt: skip
    if exported is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = exported.model_proto
    return model, {node.name: _place(node) for node in model.graph.node}


def _place(node: onnx.NodeProto) -> str:
    """The module path that the exporter noted on a node: its longest name scope but the op itself."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [scope.strip(" '\"") for scope in entry.value.strip("[]").split(",")]
            return scopes[-2] if len(scopes) > 1 else ""
    return ""


def _strip(model: onnx.ModelProto) -> None:
    """Drops the exporter's notes (source lines, class names) and shortens the names of quantize ops and values.

    In a small model they are most of the bytes.
    """
    del model.graph.value_info[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.ClearField("doc_string")
    for entry in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del entry.metadata_props[:]
        entry.ClearField("doc_string")
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.ClearField("name")
        node.input[:] = [_short(name) for name in node.input]
        node.output[:] = [_short(name) for name in node.output]


def _short(name: str) -> str:
    """The exporter's name of a quantized value, shortened: "dequantize_per_tensor_7" is "dq_7"."""
    return re.sub(r"^(de)?quantize_per_(tensor|channel)", lambda found: f"{'d' if found[1] else ''}q" +
                  ("c" if found[2] == "channel" else ""), name)  # fmt: skip


def _store_activations_unsigned(model: onnx.ModelProto) -> None:
    """Moves the zero points of activations from int8 to uint8 (+128); weights stay int8."""
    arrays = {entry.name: entry for entry in model.graph.initializer}
    moved: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays:
            continue  # a weight; a parameter that is quantized as the file runs is an activation like any other
        if len(node.input) < 3 or arrays[node.input[2]].data_type != TensorProto.INT8:
            continue
        old = node.input[2]
        if old not in moved:
            moved[old] = f"{old}_u8"
            value = (numpy_helper.to_array(arrays[old]).astype(np.int16) + 128).astype(np.uint8)
            model.graph.initializer.append(numpy_helper.from_array(value, moved[old]))
        node.input[2] = moved[old]
    _drop_unread(model)


def _use_global_pooling(model: onnx.ModelProto) -> None:
    """Turns a mean over the last two of four axes into GlobalAveragePool, which has an integer kernel."""
    arrays = {entry.name: entry for entry in model.graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.value_info}
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in arrays:
            continue
        axes = sorted(int(axis) for axis in numpy_helper.to_array(arrays[node.input[1]]).ravel())
        keeps = all(helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "keepdims")
        if keeps and axes in ([-2, -1], [2, 3]) and ranks.get(node.output[0]) == 4:
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]
    _drop_unread(model)


def _drop_unread(model: onnx.ModelProto) -> None:
    read = {name for node in model.graph.node for name in node.input} | {out.name for out in model.graph.output}
    kept = [entry for entry in model.graph.initializer if entry.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _float_ops(path: Path, places: dict[str, str], program: ExportedProgram) -> tuple[str, ...]:
    """What onnxruntime would still compute in float after fusing, each with the reason as far as it is known."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    draft = path.with_suffix(".optimized.onnx")
    options.optimized_model_filepath = str(draft)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(str(draft))
    draft.unlink()
    planned = float_compute_ops(program)
    integer = {entry.name for entry in model.graph.initializer if entry.data_type in _INTEGERS}
    lines = []
    for node in model.graph.node:
        moves = node.op_type in _MOVES and node.input and node.input[0] in integer
        if moves or node.op_type in ("QuantizeLinear", "QGemm") or node.op_type.startswith("QLinear"):
            integer.update(node.output)
        elif node.op_type not in _INTEGER_OPS:
            where = places.get(node.name, node.name) or "the model's own forward"
            reason = _reason(where, planned)
            lines.append(f"{node.op_type} at {where} ({reason})")
    return tally(lines)


def _reason(where: str, planned: tuple[str, ...]) -> str:
    given = [line for line in planned if f" at {where} " in line]
    if given:
        return given[0].rsplit("(", 1)[-1].rstrip(")")
    return "onnxruntime has no integer kernel for this pattern"
