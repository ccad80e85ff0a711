"""Write an ONNX file, checked in onnxruntime's optimizer for the ops that would run in float.

The int8 file holds QuantizeLinear/DequantizeLinear pairs that onnxruntime fuses into integer kernels. Activations are
stored as uint8 with the zero point moved by 128: the same numbers, but on x86 onnxruntime's int8-to-uint8 rewriting
stops at a value that two ops read (every residual block) and leaves those ops in float.
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

from compress.export.program import float_compute_ops, output_names, tally, user_inputs, without_unused

SUFFIX = ".onnx"
OPSET = 18  # the oldest the exporter writes without conversion, so the oldest phone runtimes read it
_INT8_KINDS = (TensorProto.INT8, TensorProto.UINT8)
_INTEGER_OPS = ("QuantizeLinear", "DequantizeLinear", "QGemm", "MatMulInteger", "ConvInteger", "MatMulIntegerToFloat")
_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Concat", "Slice", "Split",
          "MaxPool", "DepthToSpace", "SpaceToDepth", "Gather", "Resize", "Expand", "Pad", "Shape", "Cast")  # fmt: skip


def write(program: ExportedProgram, scheme: str, path: Path) -> dict[str, Any]:
    """Writes the file and returns the Artifact fields that ONNX knows."""
    model, places = _convert(program)
    if scheme == "w8a8":
        _store_activations_unsigned(model)
    _use_global_pooling(model)
    _strip(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    inputs = user_inputs(program)
    return {
        "input_names": tuple(value.name for value in model.graph.input),
        "output_names": tuple(value.name for value in model.graph.output),
        "input_shapes": tuple(shape for _, shape in inputs),
        "delegate": "onnxruntime CPU",
        "float_ops": _float_ops(path, places, program) if scheme == "w8a8" else (),
        "tool_versions": {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")},
        "notes": ("activations stored as uint8: the int8 numbers moved by 128",) if scheme == "w8a8" else (),
    }


def _convert(program: ExportedProgram) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The ONNX model, and node name -> module path."""
    lean = without_unused(program)
    exported = torch.onnx.export(
        lean, dynamo=True, opset_version=OPSET, verbose=False,
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
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in arrays:
            continue
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
    integer = {entry.name for entry in model.graph.initializer if entry.data_type in _INT8_KINDS}
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
