"""What each format can hold: which stored weights, in which layers, between which values; asked before writing.

The table is what the formats' own tools write and their runtimes compute (versions as of 2026-11): a pair of stored
weight and values that is not in it is refused with the op, its place and the reason, and the other formats still come
out. Sources: ONNX operator set 21 (DequantizeLinear: 4-bit and blocked inputs); ai-edge-quantizer 0.10,
default_policy.py; executorch 1.5, backends/xnnpack/partition/config/gemm_configs.py and operators/node_visitor.py;
coremltools 9, the MIL ops constexpr_blockwise_shift_scale, constexpr_lut_to_dense and quantize.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from compress.errors import UnsupportedOp
from compress.export.program import DEQUANTIZE, MOVES_DATA, QUANTIZE, WEIGHTED, calls, op_name, where_of
from compress.export.weights import Weight, chains

_ALL = ("conv", "grouped_conv", "depthwise_conv", "conv_transpose", "linear")
_PLAIN = ("conv", "grouped_conv", "linear")
_LINEAR = ("linear",)

# format -> (stored weight, values) -> the kinds of layer that may have them. Layers with float32 weights fit anywhere.
HOLDS: dict[str, dict[tuple[str, str], tuple[str, ...]]] = {
    "onnx": {
        ("int8", "int8"): _ALL, ("int8", "int16"): _ALL, ("int8", "float"): _ALL,
        ("int4", "int8"): _ALL, ("int4", "int16"): _ALL, ("int4", "float"): _ALL,
        ("int4 in groups", "int8"): _LINEAR, ("int4 in groups", "int16"): _LINEAR, ("int4 in groups", "float"): _LINEAR,
        ("float16", "float"): _ALL,
    },
    "litert": {
        ("int8", "int8"): _ALL, ("int8", "int16"): _ALL, ("int8", "float"): _ALL,
        ("int4", "int8"): _PLAIN, ("int4", "int16"): _PLAIN, ("int4", "float"): _PLAIN,
        ("int4 in groups", "float"): _LINEAR,
        ("float16", "float"): _ALL,
    },
    "executorch": {
        ("int8", "int8"): _ALL, ("int8", "float"): _ALL,
        ("int4 in groups", "float"): _LINEAR,
        ("float16", "float"): _ALL,
    },
    "coreml": {
        ("int8", "int8"): _ALL, ("int8", "float"): _ALL,
        ("int4", "int8"): _ALL, ("int4", "float"): _ALL,
        ("int4 in groups", "int8"): _LINEAR, ("int4 in groups", "float"): _LINEAR,
        ("float16", "float"): _ALL, ("palette4", "float"): _ALL, ("palette6", "float"): _ALL,
    },
}  # fmt: skip

_NO_TABLE = "it has no weight that is looked up in a table; only Core ML has"
_NO_16 = "its quantized values have 8 bits"
# (format, what is asked for) -> why not: of the stored weight, or of the values.
_WHY = {
    ("onnx", "palette"): _NO_TABLE,
    ("litert", "palette"): _NO_TABLE,
    ("executorch", "palette"): _NO_TABLE,
    ("litert", "int4"): "its 4-bit weights are for linear layers and for convolutions that are not depthwise",
    ("litert", "int4 in groups"): "groups are for linear layers between float values",
    ("executorch", "int4"): "XNNPACK's 4-bit weights are for linear layers between float values, in groups",
    ("executorch", "int16"): f"XNNPACK: {_NO_16}",
    ("coreml", "int16"): f"Core ML: {_NO_16}",
}
_GROUPS = {"litert": (32, 64, 128, 256)}  # sizes of group that a format has; any where it is not named


@dataclass(frozen=True, slots=True)
class Use:
    """How one layer is stored and computed: its call, its kind, its weight's form and its values ("float", "int8")."""

    node: Node
    kind: str
    weight: Weight
    values: str


def uses(program: ExportedProgram) -> list[Use]:
    """Every layer with a stored weight, in execution order."""
    found = []
    for chain in chains(program):
        for reader in chain.end.users:
            if op_name(reader) in WEIGHTED:
                found.append(Use(reader, kind_of(reader), chain.weight, _values(reader, chain.weight)))
    return found


def kind_of(layer: Node) -> str:
    """The kind of a layer: "conv", "grouped_conv", "depthwise_conv", "conv_transpose" or "linear"."""
    name = op_name(layer)
    if name == "aten.linear":
        return "linear"
    if "transpose" in name:
        return "conv_transpose"
    groups = layer.args[6] if len(layer.args) > 6 else layer.kwargs.get("groups", 1)
    weight = layer.args[1]
    assert isinstance(weight, Node)
    if groups == 1:
        return "conv"
    return "depthwise_conv" if weight.meta["val"].shape[1] == 1 else "grouped_conv"


def _values(layer: Node, weight: Weight) -> str:
    """What a layer computes on: the type its input was quantized to; float where its weight is not made of integers."""
    source = layer.args[0]
    while isinstance(source, Node) and op_name(source) in MOVES_DATA:
        source = source.all_input_nodes[0]
    if weight.kind != "integer" or not isinstance(source, Node) or op_name(source) != DEQUANTIZE:
        return "float"
    return "int16" if source.args[5] is torch.int16 else "int8"


def refuse(program: ExportedProgram, format: str) -> None:
    """Raises UnsupportedOp at the first layer or value of the program that the format cannot hold."""
    held = HOLDS[format]
    for use in uses(program):
        form = use.weight.form
        sizes = _GROUPS.get(format)
        fits = use.kind in held.get((form, use.values), ()) and (not use.weight.group or not sizes or
                                                                  use.weight.group in sizes)  # fmt: skip
        if not fits:
            _raise(use.node, format, f"{form} weights of a {use.kind} between {use.values} values", form, use.values)
    wide = [node for node in calls(program) if op_name(node) == QUANTIZE and node.args[5] is torch.int16]
    if wide and (format, "int16") in _WHY:
        source = wide[0].all_input_nodes[0]
        _raise(source, format, "16-bit values", "", "int16")


def _raise(node: Node, format: str, what: str, form: str, values: str) -> None:
    asked = (values, form, "palette" if form.startswith("palette") else form)
    why = next((_WHY[format, name] for name in asked if (format, name) in _WHY), "its tools write no such layer")
    raise UnsupportedOp(op_name(node) or node.name, where_of(node), format, f"{what}: {why}")
