"""The ops of a LiteRT file: its operators with their shapes, channels moved to where the other readers have them."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from compress.errors import InputError, ToolMissing
from compress.profile.lowering import lowered
from compress.types import OpRecord

# TFLite op -> (kind, name as the other readers call it).
_OPS = {
    op: (kind, name)
    for kind, entries in {
        "activation": "RELU:relu RELU6:relu6 RELU_N1_TO_1:clamp LEAKY_RELU:leaky_relu PRELU:prelu LOGISTIC:sigmoid "
        "TANH:tanh HARD_SWISH:hardswish ELU:elu GELU:gelu EXP:exp LOG:log SIN:sin COS:cos SQRT:sqrt RSQRT:rsqrt",
        "softmax": "SOFTMAX:softmax LOG_SOFTMAX:log_softmax",
        "elementwise": "ADD:add SUB:sub MUL:mul DIV:div POW:pow SQUARE:mul MINIMUM:minimum MAXIMUM:maximum NEG:neg "
        "ABS:abs SELECT:where SELECT_V2:where EQUAL:eq GREATER:gt LESS:lt NOT_EQUAL:ne LOGICAL_NOT:logical_not "
        "LOGICAL_AND:logical_and FLOOR:floor ROUND:round SQUARED_DIFFERENCE:sub GREATER_EQUAL:ge LESS_EQUAL:le",
        "norm": "L2_NORMALIZATION:normalize LOCAL_RESPONSE_NORMALIZATION:norm",
        "reduce": "MEAN:mean SUM:sum REDUCE_MAX:amax REDUCE_MIN:amin ARG_MAX:argmax ARG_MIN:argmin CUMSUM:cumsum",
        "pool": "MAX_POOL_2D:max_pool2d AVERAGE_POOL_2D:avg_pool2d",
        "resize": "RESIZE_BILINEAR:upsample RESIZE_NEAREST_NEIGHBOR:upsample",
        "concat": "CONCATENATION:cat PACK:stack",
        "pad": "PAD:pad PADV2:pad MIRROR_PAD:pad",
        "move": "TRANSPOSE:permute SLICE:slice STRIDED_SLICE:slice SPLIT:split SPLIT_V:split TILE:repeat "
        "DEPTH_TO_SPACE:pixel_shuffle SPACE_TO_DEPTH:pixel_unshuffle UNPACK:unbind REVERSE_V2:flip "
        "SPACE_TO_BATCH_ND:move BATCH_TO_SPACE_ND:move",
        "gather": "GATHER:embedding GATHER_ND:gather EMBEDDING_LOOKUP:embedding",
        "reshape": "RESHAPE:view SQUEEZE:squeeze EXPAND_DIMS:unsqueeze CAST:to BROADCAST_TO:expand QUANTIZE:alias "
        "DEQUANTIZE:alias SHAPE:alias FILL:alias RANGE:alias",
    }.items()
    for op, _, name in (entry.partition(":") for entry in entries.split())
}
_LAYERS = {
    "CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise_conv", "TRANSPOSE_CONV": "conv_transpose",
    "FULLY_CONNECTED": "linear", "BATCH_MATMUL": "matmul",
}  # fmt: skip


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
        model = tflite.read(path.read_bytes())
        graph = model.subgraphs[0]
        records = [_record(tflite, model, graph, place) for place in range(len(graph.operators))]
    except (OSError, AttributeError, IndexError, TypeError, ValueError, struct.error) as error:
        raise InputError(f"{path}: not a LiteRT model that can be read ({type(error).__name__})") from error
    return lowered([record for record in records if record is not None])


def _record(tflite: Any, model: Any, graph: Any, place: int) -> OpRecord | None:
    """One operator as a record; None where nothing is computed at run time."""
    operator = graph.operators[place]
    op = tflite.op_of(model, operator)
    tensors = [graph.tensors[index] for index in operator.inputs if index >= 0]
    fed = [tensor for tensor in tensors if not tflite.is_constant(model, tensor)]
    held = [tensor for tensor in tensors if tflite.is_constant(model, tensor)]
    if not fed:
        return None
    output = graph.tensors[operator.outputs[0]]
    kind, name = _OPS.get(op, ("other", op.lower()))
    base: dict[str, Any] = {
        "name": f"{op}_{place}",
        "op": name,
        "where": tflite.name_of(output).split(";")[0],
        "input_shapes": tuple(_channels_second(tflite.shape_of(tensor)) for tensor in fed),
        "output_shape": _channels_second(tflite.shape_of(output)),
        "weight_count": 0 if kind == "gather" else sum(math.prod(tflite.shape_of(tensor)) for tensor in held),
    }
    if op in _LAYERS:
        shapes = [tflite.shape_of(tensor) for tensor in tensors]
        return _layer(_LAYERS[op], shapes, tflite.shape_of(output), operator.builtinOptions, base)
    if kind == "pool":
        options = operator.builtinOptions
        base["kernel"] = (int(options.filterHeight), int(options.filterWidth))
        base["stride"] = (int(options.strideH), int(options.strideW))
    if len(base["output_shape"]) < 2 and kind == "other":
        return None  # arithmetic on shapes
    return OpRecord(kind=kind, macs=None if kind == "other" else 0, **base)


def _layer(
    kind: str, shapes: list[tuple[int, ...]], output: tuple[int, ...], options: Any, base: dict[str, Any]
) -> OpRecord:
    """A layer; TFLite has channels last, weights as (out, height, width, in), transposed inputs third."""
    base = base | {"op": kind}
    if kind in ("linear", "matmul"):
        macs = math.prod(output) * shapes[0][-1]
        return OpRecord(kind=kind, macs=macs, channels=(shapes[0][-1], output[-1]), **base)
    source, weight = (shapes[2], shapes[1]) if kind == "conv_transpose" else (shapes[0], shapes[1])
    channels, window = (source[-1], output[-1]), weight[1:3]
    groups = channels[0] if kind == "depthwise_conv" else max(channels[0] // weight[3], 1)
    if kind == "conv" and groups > 1:
        kind = "grouped_conv"
    positions = math.prod((source if kind == "conv_transpose" else output)[:3])
    return OpRecord(
        kind=kind, macs=positions * math.prod(weight[1:]) * (1 if kind == "depthwise_conv" else weight[0]),
        channels=channels, kernel=window, stride=(int(options.strideH), int(options.strideW)), groups=groups,
        dilation=max(int(getattr(options, "dilationHFactor", 1)), 1), **base,
    )  # fmt: skip


def _channels_second(shape: tuple[int, ...]) -> tuple[int, ...]:
    """An image's shape with its channels second; any other as it is."""
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape
