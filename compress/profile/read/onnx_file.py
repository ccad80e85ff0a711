"""The ops of an ONNX file: its nodes with their shapes, as the other readers give them. Quantized files in QDQ form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.errors import InputError, ToolMissing
from compress.profile.lowering import lowered
from compress.profile.read.kinds import NEUTRAL, kind_of, pairs, turned_product
from compress.profile.read.onnx_shapes import Settled, settled
from compress.types import OpRecord

# ONNX op -> name as the other readers call it.
_NAMES = pairs(
    "Relu:relu Clip:clamp LeakyRelu:leaky_relu PRelu:prelu Sigmoid:sigmoid Tanh:tanh Erf:erf "
    "HardSwish:hardswish HardSigmoid:hardsigmoid Elu:elu Gelu:gelu Softplus:softplus Softsign:softsign "
    "Mish:mish Exp:exp Log:log Sin:sin Cos:cos Tan:tan Sqrt:sqrt Reciprocal:reciprocal Selu:selu Celu:celu "
    "Swish:silu Pow:pow ThresholdedRelu:threshold Shrink:softshrink FastGelu:gelu QuickGelu:silu BiasGelu:gelu "
    "Softmax:softmax LogSoftmax:log_softmax "
    "Add:add Sub:sub Mul:mul Div:div Min:minimum Max:maximum Neg:neg Abs:abs Where:where Equal:eq Greater:gt "
    "Less:lt GreaterOrEqual:ge LessOrEqual:le Not:logical_not And:logical_and Or:logical_or Xor:logical_xor "
    "BitwiseAnd:bitwise_and BitwiseOr:bitwise_or BitwiseNot:bitwise_not Floor:floor Ceil:ceil Round:round "
    "Sign:sign Mod:remainder Sum:add Mean:add IsNaN:isnan IsInf:isinf QLinearAdd:add QLinearMul:mul "
    "QLinearSigmoid:sigmoid QLinearLeakyRelu:leaky_relu QLinearSoftmax:softmax "
    "BatchNormalization:batch_norm InstanceNormalization:instance_norm LayerNormalization:layer_norm "
    "GroupNormalization:group_norm RMSNormalization:rms_norm SimplifiedLayerNormalization:rms_norm "
    "LpNormalization:normalize LRN:local_response_norm "
    "GlobalAveragePool:mean GlobalMaxPool:amax ReduceMean:mean ReduceSum:sum ReduceMax:amax ReduceMin:amin "
    "ReduceL2:norm ReduceL1:norm ReduceSumSquare:sum ReduceLogSumExp:logsumexp ReduceProd:prod ArgMax:argmax "
    "ArgMin:argmin CumSum:cumsum QLinearGlobalAveragePool:mean QLinearReduceMean:mean "
    "MaxPool:max_pool2d AveragePool:avg_pool2d LpPool:avg_pool2d QLinearAveragePool:avg_pool2d "
    "Resize:upsample Upsample:upsample GridSample:grid_sampler AffineGrid:grid_sampler "
    "Concat:cat QLinearConcat:cat Pad:pad "
    "Transpose:permute Slice:slice Split:split Tile:repeat DepthToSpace:pixel_shuffle "
    "SpaceToDepth:pixel_unshuffle ReverseSequence:flip Col2Im:col2im "
    "Gather:embedding GatherElements:gather GatherND:gather "
    "Reshape:view Flatten:flatten Squeeze:squeeze Unsqueeze:unsqueeze Expand:expand Identity:alias Cast:to "
    "Dropout:dropout CastLike:to"
)
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# What gives the same whatever its input holds.
_CONSTANT = frozenset({"Constant", "ConstantOfShape", "Shape", "Size", "Range", "EyeLike"})
# What gives something else each time.
_DRAWN = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
# Layers -> which of their inputs are the two factors; the others are a bias and how values are quantized.
_CONVOLUTIONS = {"Conv": (0, 1), "ConvTranspose": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
_PRODUCTS = {"MatMul": (0, 1), "Gemm": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "QGemm": (0, 3)}
_BIASES = {"Conv": 2, "ConvTranspose": 2, "QLinearConv": 8, "Gemm": 2, "QGemm": 6}
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def read_onnx(path: Path, shapes: Sequence[Sequence[int]] = (), notes: list[str] | None = None) -> tuple[OpRecord, ...]:
    """The ops of an ONNX file at batch size 1, as a mobile runtime runs them.

    Args:
        path: the file.
        shapes: of its inputs, where it leaves sizes free; by default a free batch size is 1.
        notes: what had to be assumed is added here.

    Raises:
        InputError: the file is no ONNX model, or the shapes in it are not fixed.
        ToolMissing: onnx is not installed.
    """
    try:
        import onnx  # noqa: F401 - said once, before the file is looked at
    except ImportError as error:
        raise ToolMissing("onnx", "onnx") from error
    try:
        model = settled(path, shapes, notes if notes is not None else [])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # protobuf and onnx raise many unrelated types
        raise InputError(f"{path}: not an ONNX model that can be read: {_first_line(error)}") from error
    records = _Graph(model, path).records()
    if not records:
        raise InputError(f"{path}: the model computes nothing from its inputs")
    return lowered(records)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class _Graph:
    """A graph's nodes as records: which names are weights, which are the same tensor, and every shape."""

    def __init__(self, model: Settled, path: Path) -> None:
        self.model, self.path = model, path
        self.shapes, self.weights = model.shapes, set(model.weights)
        self.same: dict[str, str] = {}  # what a quantize or dequantize node gives -> what it was
        self.done: dict[object, Sequence[str]] = {}  # what tells a node from any other of another result -> its results

    def records(self) -> list[OpRecord]:
        """The nodes as records, in their order."""
        found: list[OpRecord] = []
        for place, node in enumerate(self.model.nodes):
            fed = [self._root(name) for name in node.input if name]
            if node.op_type in _CONSTANT or (fed and all(name in self.weights for name in fed)):
                self.weights |= set(node.output)
            elif node.op_type in _QUANTIZERS:
                self.same[node.output[0]] = fed[0]
            elif (first := self.done.setdefault(self._identity(node), node.output)) is not node.output:
                self.same |= dict(zip(node.output, first, strict=True))  # runtimes compute the same thing once
            else:
                found += self._records(node, place)
        return found

    def _root(self, name: str) -> str:
        return self.same.get(name, name)

    def _identity(self, node: Any) -> object:
        """What tells a node from any other of another result."""
        if node.op_type in _DRAWN:
            return id(node)
        settings = tuple(sorted(entry.SerializeToString() for entry in node.attribute))
        numbers = (self.model.number(name) for name in node.input)  # exporters write a setting out for each reader
        fed = tuple(
            self._root(name) if number is None else number for name, number in zip(node.input, numbers, strict=True)
        )
        return (node.domain, node.op_type, fed, settings, len(node.output))

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self.shapes.get(self._root(name), self.shapes.get(name))
        if shape is None or 0 in shape:
            raise InputError(f"{self.path}: the shape of '{name}' is not fixed; export the model with fixed shapes")
        return shape

    def _count(self, name: str) -> int:
        """How many weights a constant holds; a single number is a setting."""
        count = math.prod(self.shapes.get(name, ()))
        return count if count > 1 else 0

    def _records(self, node: Any, place: int) -> list[OpRecord]:
        """The records of one node."""
        given = {entry.name: entry for entry in node.attribute}
        op = _NAMES.get(node.op_type, node.op_type.lower())
        base: dict[str, Any] = {"name": node.name or f"{node.op_type}_{place}", "op": op, "where": _place(node)}
        if node.op_type in _CONVOLUTIONS:
            return [self._convolution(node, given, base)]
        if node.op_type in _PRODUCTS:
            return [self._product(node, given, base)]
        if node.op_type == "Attention" and not node.domain:
            return [self._attention(node, base)]
        if node.op_type == "Einsum" or node.op_type in _RECURRENT:
            return self._composite(node, given, base)
        return [self._other(node, given, base)]

    def _fed(self, node: Any) -> list[str]:
        return [self._root(name) for name in node.input if name]

    def _layer(self, node: Any, factors: tuple[int, int], base: dict[str, Any]) -> dict[str, Any]:
        """What every layer's record has; of its inputs, only the factors and the bias are more than settings."""
        names = [self._root(node.input[place]) for place in factors]
        bias = _BIASES.get(node.op_type, len(node.input))
        biases = [self._root(name) for name in node.input[bias : bias + 1] if name]
        return base | {
            "input_shapes": tuple(self._shape(name) for name in names if name not in self.weights),
            "output_shape": self._shape(node.output[0]),
            "weight_count": sum(math.prod(self._shape(name)) for name in (*names, *biases) if name in self.weights),
        }

    def _convolution(self, node: Any, given: dict[str, Any], base: dict[str, Any]) -> OpRecord:
        factors = _CONVOLUTIONS[node.op_type]
        base = self._layer(node, factors, base)
        shape, weight = (self._shape(node.input[place]) for place in factors)
        transposed, groups = node.op_type == "ConvTranspose", int(given["group"].i) if "group" in given else 1
        output, rank = base["output_shape"], len(weight) - 2
        kind = "conv" if groups == 1 else "depthwise_conv" if groups == shape[1] else "grouped_conv"
        return OpRecord(
            kind="conv_transpose" if transposed else kind,
            macs=math.prod((shape if transposed else output)[2:]) * shape[0] * math.prod(weight),
            channels=(shape[1], output[1]), kernel=weight[2:], stride=_ints(given, "strides", rank), groups=groups,
            dilation=max(_ints(given, "dilations", rank)), **base | {"op": "conv_transpose" if transposed else "conv"},
        )  # fmt: skip

    def _product(self, node: Any, given: dict[str, Any], base: dict[str, Any]) -> OpRecord:
        factors = _PRODUCTS[node.op_type]
        base = self._layer(node, factors, base)
        left, output = self._shape(node.input[factors[0]]), base["output_shape"]
        inner = left[0] if "transA" in given and given["transA"].i else left[-1]
        kind = "matmul" if len(base["input_shapes"]) == 2 else "linear"
        layer = base | {"op": kind, "channels": (inner, output[-1] if output else 1)}
        if self._root(node.input[factors[0]]) in self.weights:
            layer |= turned_product(left, output)
        return OpRecord(kind=kind, macs=math.prod(output) * inner, **layer)

    def _attention(self, node: Any, base: dict[str, Any]) -> OpRecord:
        """A fused attention; what masks its scores comes last."""
        shapes = [self._shape(self._root(name)) for name in node.input[:4] if name]
        query, key, value = shapes[:3]
        macs = math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
        base |= {"weight_count": 0, "input_shapes": tuple(shapes), "output_shape": self._shape(node.output[0])}
        return OpRecord(kind="attention", macs=macs, channels=(query[-1], value[-1]), **base)

    def _composite(self, node: Any, given: dict[str, Any], base: dict[str, Any]) -> list[OpRecord]:
        """The ops that torch makes of an op that stands for many, at the same shapes."""
        from compress.profile.read import composites

        tensors = [
            (self._shape(self._root(name)), self._root(name) in self.weights) if name else None for name in node.input
        ]
        if node.op_type == "Einsum":
            return composites.einsum(given["equation"].s.decode(), tensors, base["name"], base["where"])
        return composites.recurrent(node.op_type, tensors, base["name"], base["where"])

    def _other(self, node: Any, given: dict[str, Any], base: dict[str, Any]) -> OpRecord:
        """An op without MACs; where a shape follows from values, not from shapes, it is one of no known kind."""
        fed = self._fed(node)
        inputs = [self.shapes.get(name, ()) for name in fed if name not in self.weights]
        base |= {
            "input_shapes": tuple(shape for shape in inputs if shape and 0 not in shape),
            "output_shape": self.shapes.get(node.output[0], ()),
            "weight_count": sum(self._count(name) for name in fed if name in self.weights),
        }
        known = len(base["input_shapes"]) == len(inputs) and node.output[0] in self.shapes
        kind = kind_of(base["op"])
        if not known or 0 in base["output_shape"]:
            kind = kind if kind == "reshape" else "other"
            return OpRecord(kind=kind, macs=0 if kind == "reshape" else None, **base | {"output_shape": ()})
        if self._changes_nothing(node, base):
            return OpRecord(kind="reshape", macs=0, **base)
        if kind == "gather":
            base["weight_count"] = 0  # it reads the rows it gives, not the table
            if node.op_type == "Gather" and self.shapes.get(fed[1]) == () and fed[1] in self.weights:
                kind, base = "move", base | {"op": "select"}
        elif kind == "pool" and "kernel_shape" in given:
            base["kernel"] = tuple(given["kernel_shape"].ints)
            base["stride"] = _ints(given, "strides", len(base["kernel"]))
        elif kind == "pad" and given.get("mode") and given["mode"].s not in (b"", b"constant"):
            base["op"] = f"{given['mode'].s.decode()}_pad"
        elif node.op_type == "Clip" and (bounds := [name for name in node.input[1:] if name]) and len(bounds) == 1:
            base["op"] = "clamp_min" if node.input[1] else "clamp_max"
            kind = kind_of(base["op"])
        return OpRecord(kind=kind, macs=None if kind == "other" else 0, **base)

    def _changes_nothing(self, node: Any, base: dict[str, Any]) -> bool:
        """Whether a node adds nothing or multiplies by one, which a runtime drops."""
        numbers = [self.model.number(name) for name in node.input[1:]]
        return NEUTRAL.get(base["op"], "") in numbers and base["input_shapes"] == (base["output_shape"],)


def _ints(given: dict[str, Any], name: str, count: int) -> tuple[int, ...]:
    """A setting with one number for each dimension; 1 where it is not given."""
    return tuple(int(each) for each in given[name].ints) if name in given else (1,) * count


def _place(node: Any) -> str:
    """The module path of a node in the user's model ("" where the exporter left none)."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [scope.strip(" '\"") for scope in entry.value.strip("[]").split(",")]
            return scopes[-2] if len(scopes) > 1 else ""
    return str(node.name).strip("/").rpartition("/")[0].replace("/", ".")
