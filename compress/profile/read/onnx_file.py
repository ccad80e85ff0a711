"""The ops of an ONNX file: its nodes with their shapes, as the other readers give them. Quantized files in QDQ form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from compress.errors import InputError, ToolMissing
from compress.profile.lowering import lowered
from compress.types import OpRecord

# ONNX op -> (kind, name as the other readers call it).
_OPS = {
    op: (kind, name)
    for kind, entries in {
        "activation": "Relu:relu Clip:clamp LeakyRelu:leaky_relu PRelu:prelu Sigmoid:sigmoid Tanh:tanh Erf:erf "
        "HardSwish:hardswish HardSigmoid:hardsigmoid Elu:elu Gelu:gelu Softplus:softplus Mish:mish Exp:exp Log:log "
        "Sin:sin Cos:cos Sqrt:sqrt Reciprocal:reciprocal Selu:selu Celu:celu Swish:silu",
        "softmax": "Softmax:softmax LogSoftmax:log_softmax",
        "elementwise": "Add:add Sub:sub Mul:mul Div:div Pow:pow Min:minimum Max:maximum Neg:neg Abs:abs Where:where "
        "Equal:eq Greater:gt Less:lt GreaterOrEqual:ge LessOrEqual:le Not:logical_not And:logical_and Floor:floor "
        "Round:round Sign:sign Mod:remainder Sum:add Mean:mean",
        "norm": "BatchNormalization:batch_norm InstanceNormalization:instance_norm LayerNormalization:layer_norm "
        "GroupNormalization:group_norm RMSNormalization:rms_norm LpNormalization:normalize",
        "reduce": "GlobalAveragePool:mean GlobalMaxPool:amax ReduceMean:mean ReduceSum:sum ReduceMax:amax "
        "ReduceMin:amin ReduceL2:norm ReduceL1:norm ReduceProd:prod ArgMax:argmax ArgMin:argmin CumSum:cumsum",
        "pool": "MaxPool:max_pool2d AveragePool:avg_pool2d LpPool:pool",
        "resize": "Resize:upsample Upsample:upsample GridSample:grid_sampler",
        "concat": "Concat:cat",
        "pad": "Pad:pad",
        "move": "Transpose:permute Slice:slice Split:split Tile:repeat DepthToSpace:pixel_shuffle "
        "SpaceToDepth:pixel_unshuffle",
        "gather": "Gather:embedding GatherElements:gather GatherND:gather",
        "reshape": "Reshape:view Flatten:flatten Squeeze:squeeze Unsqueeze:unsqueeze Expand:expand Identity:alias "
        "Cast:to Dropout:dropout CastLike:to",
    }.items()
    for op, _, name in (entry.partition(":") for entry in entries.split())
}
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_NOTHING = frozenset({"Constant", "ConstantOfShape", "Shape", "Size", "Range"})


def read_onnx(path: Path) -> tuple[OpRecord, ...]:
    """The ops of an ONNX file at batch size 1, as a mobile runtime runs them.

    Raises:
        InputError: the file is no ONNX model, or the shapes in it are not fixed.
        ToolMissing: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ToolMissing("onnx", "onnx") from error
    try:
        model = onnx.load(str(path))
        _fix_batch(model)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    except Exception as error:  # protobuf and onnx raise many unrelated types
        raise InputError(f"{path}: not an ONNX model that can be read: {str(error).splitlines()[0]}") from error
    return lowered(_Graph(model.graph, path).records())


def _fix_batch(model: Any) -> None:
    """Gives every free size of the model's inputs the value 1."""
    for entry in model.graph.input:
        for size in entry.type.tensor_type.shape.dim:
            if not size.dim_value:
                size.dim_value = 1


class _Graph:
    """A graph's nodes as records: which names are weights, which are the same tensor, and every shape."""

    def __init__(self, graph: Any, path: Path) -> None:
        self.graph, self.path = graph, path
        self.shapes: dict[str, tuple[int, ...]] = {}
        for entry in (*graph.value_info, *graph.input, *graph.output):
            sizes = entry.type.tensor_type.shape.dim
            self.shapes[entry.name] = tuple(int(size.dim_value) for size in sizes)
        self.weights = {entry.name: tuple(int(size) for size in entry.dims) for entry in graph.initializer}
        self.same: dict[str, str] = {}  # what a quantize or dequantize node gives -> what it was

    def records(self) -> list[OpRecord]:
        """The nodes as records, in their order."""
        found = []
        for place, node in enumerate(self.graph.node):
            fed = [self._root(name) for name in node.input if name]
            if node.op_type in _NOTHING or (fed and all(name in self.weights for name in fed)):
                for name in node.output:
                    self.weights[name] = self.shapes.get(name, ())
            elif node.op_type in _QUANTIZERS:
                self.same[node.output[0]] = fed[0]
                self.shapes.setdefault(node.output[0], self.shapes.get(fed[0], ()))
            else:
                found.append(self._record(node, fed, place))
        return found

    def _root(self, name: str) -> str:
        return self.same.get(name, name)

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self.weights.get(name, self.shapes.get(name))
        if shape is None or 0 in shape:
            raise InputError(f"{self.path}: the shape of '{name}' is not fixed; export the model with fixed shapes")
        return shape

    def _record(self, node: Any, fed: list[str], place: int) -> OpRecord:
        held = [name for name in fed if name in self.weights]
        inputs = [name for name in fed if name not in self.weights]
        kind, name = _OPS.get(node.op_type, ("other", node.op_type.lower()))
        base: dict[str, Any] = {
            "name": node.name or f"{node.op_type}_{place}",
            "op": name,
            "where": node.name.strip("/").rpartition("/")[0].replace("/", "."),
            "input_shapes": tuple(self._shape(each) for each in inputs),
            "output_shape": self._shape(node.output[0]),
            "weight_count": sum(math.prod(self._shape(each)) for each in held),
        }
        given = {entry.name: entry for entry in node.attribute}
        if node.op_type in ("Conv", "ConvTranspose"):
            return self._convolution(node.op_type == "ConvTranspose", self._shape(fed[1]), given, base)
        if node.op_type in ("MatMul", "Gemm"):
            return self._product(node.op_type, fed, bool(held), given, base)
        if node.op_type == "Attention":
            query, key, value = (self._shape(each) for each in fed[:3])
            macs = math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
            return OpRecord(kind="attention", macs=macs, **base)
        if kind == "gather":
            base["weight_count"] = 0
        return OpRecord(kind=kind, macs=None if kind == "other" else 0, **base)

    def _convolution(
        self, transposed: bool, weight: tuple[int, ...], given: dict[str, Any], base: dict[str, Any]
    ) -> OpRecord:
        groups = int(given["group"].i) if "group" in given else 1
        shape, output = base["input_shapes"][0], base["output_shape"]
        kind = "conv" if groups == 1 else "depthwise_conv" if groups == shape[1] else "grouped_conv"
        rank = len(weight) - 2
        stride = tuple(given["strides"].ints) if "strides" in given else (1,) * rank
        dilation = tuple(given["dilations"].ints) if "dilations" in given else (1,) * rank
        return OpRecord(
            kind="conv_transpose" if transposed else kind,
            macs=math.prod((shape if transposed else output)[2:]) * shape[0] * math.prod(weight),
            channels=(shape[1], output[1]), kernel=weight[2:], stride=stride, groups=groups, dilation=max(dilation),
            **base | {"op": "conv_transpose" if transposed else "conv"},
        )  # fmt: skip

    def _product(
        self, op: str, fed: list[str], weighted: bool, given: dict[str, Any], base: dict[str, Any]
    ) -> OpRecord:
        left, output = self._shape(fed[0]), base["output_shape"]
        inner = left[0] if op == "Gemm" and "transA" in given and given["transA"].i else left[-1]
        kind = "linear" if weighted else "matmul"
        macs = math.prod(output) * inner
        return OpRecord(kind=kind, macs=macs, channels=(inner, output[-1]), **base | {"op": kind})
