"""The ops of a LiteRT file: its operators with their shapes, channels moved to where the other readers have them."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from compress.errors import InputError, ToolMissing
from compress.profile.lowering import lowered
from compress.profile.read.kinds import kind_of, pairs, turned_product
from compress.profile.read.layouts import Images
from compress.types import OpRecord

# TFLite op -> name as the other readers call it.
_NAMES = pairs(
    "RELU:relu RELU6:relu6 RELU_N1_TO_1:clamp RELU_0_TO_1:clamp LEAKY_RELU:leaky_relu PRELU:prelu "
    "LOGISTIC:sigmoid TANH:tanh HARD_SWISH:hardswish ELU:elu GELU:gelu EXP:exp LOG:log SIN:sin COS:cos "
    "SQRT:sqrt RSQRT:rsqrt POW:pow SQUARE:pow SOFTMAX:softmax LOG_SOFTMAX:log_softmax "
    "ADD:add ADD_N:add SUB:sub MUL:mul DIV:div MINIMUM:minimum MAXIMUM:maximum NEG:neg ABS:abs SIGN:sign "
    "SELECT:where SELECT_V2:where EQUAL:eq NOT_EQUAL:ne GREATER:gt GREATER_EQUAL:ge LESS:lt LESS_EQUAL:le "
    "LOGICAL_NOT:logical_not LOGICAL_AND:logical_and LOGICAL_OR:logical_or BITWISE_XOR:bitwise_xor FLOOR:floor "
    "CEIL:ceil ROUND:round FLOOR_DIV:floor_divide FLOOR_MOD:remainder SQUARED_DIFFERENCE:squared_difference "
    "L2_NORMALIZATION:normalize LOCAL_RESPONSE_NORMALIZATION:local_response_norm "
    "MEAN:mean SUM:sum REDUCE_MAX:amax REDUCE_MIN:amin REDUCE_PROD:prod REDUCE_ANY:any REDUCE_ALL:all "
    "ARG_MAX:argmax ARG_MIN:argmin CUMSUM:cumsum "
    "MAX_POOL_2D:max_pool2d AVERAGE_POOL_2D:avg_pool2d L2_POOL_2D:avg_pool2d "
    "RESIZE_BILINEAR:upsample RESIZE_NEAREST_NEIGHBOR:upsample CONCATENATION:cat PACK:stack "
    "PAD:pad PADV2:pad MIRROR_PAD:reflection_pad2d "
    "TRANSPOSE:permute SLICE:slice STRIDED_SLICE:slice SPLIT:split SPLIT_V:split UNPACK:unbind TILE:repeat "
    "DEPTH_TO_SPACE:pixel_shuffle SPACE_TO_DEPTH:pixel_unshuffle REVERSE_V2:flip REVERSE_SEQUENCE:flip "
    "SPACE_TO_BATCH_ND:space_to_batch BATCH_TO_SPACE_ND:batch_to_space "
    "GATHER:embedding GATHER_ND:gather EMBEDDING_LOOKUP:embedding "
    "RESHAPE:view SQUEEZE:squeeze EXPAND_DIMS:unsqueeze CAST:to BITCAST:to BROADCAST_TO:expand QUANTIZE:alias "
    "DEQUANTIZE:alias FAKE_QUANT:alias"
)
_LAYERS = {
    "CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise_conv", "TRANSPOSE_CONV": "conv_transpose",
    "FULLY_CONNECTED": "linear", "BATCH_MATMUL": "matmul",
}  # fmt: skip
_OVER_IMAGES = frozenset(
    "CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV MAX_POOL_2D AVERAGE_POOL_2D L2_POOL_2D RESIZE_BILINEAR "
    "RESIZE_NEAREST_NEIGHBOR DEPTH_TO_SPACE SPACE_TO_DEPTH SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND "
    "LOCAL_RESPONSE_NORMALIZATION".split()
)
# Kinds of op, and ops of others, that leave every value in its place, or cut along axes.
_KEEPING = frozenset({"activation", "elementwise", "concat", "pad", "norm", "reduce", "softmax"})
_KEEPING_TOO = frozenset(
    "SLICE STRIDED_SLICE SPLIT SPLIT_V CAST QUANTIZE DEQUANTIZE FAKE_QUANT REVERSE_V2 TILE".split()
)
# The activations that an operator may end in, by their numbers.
_FUSED = {1: "relu", 2: "clamp", 3: "relu6", 4: "tanh"}
# What gives the same whatever its input holds.
_CONSTANT = frozenset({"SHAPE", "RANK", "RANGE", "FILL", "ZEROS_LIKE"})


def read_litert(path: Path) -> tuple[OpRecord, ...]:
    """The ops of a LiteRT file, as its runtime runs them.

    Raises:
        InputError: the file is no LiteRT model.
        ToolMissing: ai-edge-litert is not installed.
    """
    try:
        from compress.export import tflite
    except ImportError as error:
        raise ToolMissing("ai-edge-litert", "litert") from error
    try:
        records = _Graph(tflite, tflite.read(path.read_bytes())).records()
    except (OSError, AttributeError, IndexError, TypeError, ValueError, struct.error) as error:
        raise InputError(f"{path}: not a LiteRT model that can be read: cut short, or another format") from error
    if not records:
        raise InputError(f"{path}: the model computes nothing from its inputs")
    return lowered(records)


class _Graph:
    """The operators of a model's first graph as records."""

    def __init__(self, tflite: Any, model: Any) -> None:
        self.tflite, self.model, self.graph = tflite, model, model.subgraphs[0]
        self.ops = [tflite.op_of(model, operator) for operator in self.graph.operators]
        self.held = {
            index for index, tensor in enumerate(self.graph.tensors) if tflite.is_constant(model, tensor)
        }  # fmt: skip
        self.images = Images()
        for op, operator in zip(self.ops, self.graph.operators, strict=True):
            fed = [index for index in operator.inputs if index >= 0 and index not in self.held]
            if op in _OVER_IMAGES:
                self.images.mark([*fed, *operator.outputs])
            elif op in _KEEPING_TOO or kind_of(_NAMES.get(op, op)) in _KEEPING:
                self.images.tie([*fed, *operator.outputs])
        self.images.settle()

    def records(self) -> list[OpRecord]:
        """The records of all operators that compute something at run time."""
        found = []
        for place, (op, operator) in enumerate(zip(self.ops, self.graph.operators, strict=True)):
            inputs = [index for index in operator.inputs if index >= 0]
            if op in _CONSTANT or all(index in self.held for index in inputs):
                self.held |= set(operator.outputs)
                continue
            record = self._record(op, operator, inputs, place)
            found.append(record)
            fused = _FUSED.get(getattr(operator.builtinOptions, "fusedActivationFunction", 0))
            if fused is not None:  # by itself, for the other ops that are one op may not take it in
                found.append(OpRecord(f"{record.name}.{fused}", fused, "activation", record.where, 0, 0,
                                      (record.output_shape,), record.output_shape))  # fmt: skip
        return found

    def _sizes(self, index: int) -> tuple[int, ...]:
        return tuple(self.tflite.shape_of(self.graph.tensors[index]))

    def _count(self, index: int) -> int:
        """How many weights a constant holds; a single number is a setting."""
        count = math.prod(self._sizes(index))
        return count if count > 1 else 0

    def _record(self, op: str, operator: Any, inputs: list[int], place: int) -> OpRecord:
        fed = [index for index in inputs if index not in self.held]
        held = [index for index in inputs if index in self.held]
        output = operator.outputs[0]
        name = _NAMES.get(op, self._custom_name(operator) if op == "CUSTOM" else op.lower())
        kind = kind_of(name)
        base: dict[str, Any] = {
            "name": f"{op}_{place}",
            "op": name,
            "where": self.tflite.name_of(self.graph.tensors[output]).split(";")[0],
            "input_shapes": tuple(self.images.shape(index, self._sizes(index)) for index in fed),
            "output_shape": self.images.shape(output, self._sizes(output)),
            "weight_count": 0 if kind == "gather" else sum(self._count(index) for index in held),
        }
        if op in _LAYERS:
            return self._layer(_LAYERS[op], operator, inputs, base)
        if op == "TRANSPOSE":  # what it does is in the sizes as they stand in the file
            base |= {"input_shapes": (self._sizes(inputs[0]),), "output_shape": self._sizes(output)}
            order = self.tflite.constant_of(self.model, self.graph.tensors[inputs[1]], "INT32")
            if order is not None and self.images.reordered(inputs[0], output, order.tolist()):
                kind = "reshape"
        if kind == "pool":
            options = operator.builtinOptions
            base["kernel"] = (int(options.filterHeight), int(options.filterWidth))
            base["stride"] = (int(options.strideH), int(options.strideW))
        if kind == "other" and len(base["output_shape"]) < 2:
            kind = "reshape"  # arithmetic on shapes
        return OpRecord(kind=kind, macs=None if kind == "other" else 0, **base)

    def _custom_name(self, operator: Any) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex].customCode
        return (code.decode() if isinstance(code, bytes) else str(code)).lower()

    def _layer(self, kind: str, operator: Any, inputs: list[int], base: dict[str, Any]) -> OpRecord:
        """A layer; TFLite has channels last, weights as (out, height, width, in), transposed inputs third."""
        shapes, output = [self._sizes(index) for index in inputs], self._sizes(operator.outputs[0])
        if kind in ("linear", "matmul"):
            kind = "matmul" if not {*inputs[:2]} & self.held else "linear"
            inner = shapes[0][-2] if getattr(operator.builtinOptions, "adjX", False) else shapes[0][-1]
            layer = base | {"op": kind, "channels": (inner, output[-1])}
            if inputs[0] in self.held:
                layer |= turned_product(shapes[0], output)
            return OpRecord(kind=kind, macs=math.prod(output) * inner, **layer)
        options = operator.builtinOptions
        source, weight = (shapes[2], shapes[1]) if kind == "conv_transpose" else (shapes[0], shapes[1])
        channels, window = (source[-1], output[-1]), weight[1:3]
        groups = channels[0] if kind == "depthwise_conv" else max(channels[0] // weight[3], 1)
        if kind == "conv" and groups > 1:
            kind = "depthwise_conv" if groups == channels[0] else "grouped_conv"
        positions = math.prod((source if kind == "conv_transpose" else output)[:3])
        outputs = weight[3] if base["op"] == "depthwise_conv_2d" else weight[0]
        inputs_each = 1 if base["op"] == "depthwise_conv_2d" else weight[3]
        return OpRecord(
            kind=kind, macs=positions * math.prod(window) * inputs_each * outputs,
            channels=channels, kernel=window, stride=(int(options.strideH), int(options.strideW)), groups=groups,
            dilation=max(int(getattr(options, "dilationHFactor", 1)), 1), **base | {"op": kind},
        )  # fmt: skip
