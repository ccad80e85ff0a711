"""A published table of a runtime's own layers (ncnn's, as its loader reports them) as op records, for the fit only.

Shapes are written "(width, height, depth, channels, dims)", where `dims` says how many of them count. The table holds
no weights of `Gemm` and `MultiHeadAttention`; they follow from the shapes, with heads of 64 features as usual.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from compress.profile.lowering import lowered
from compress.types import OpRecord

Shape = tuple[int, ...]
# What a layer is, as (kind, op); those that are not named count as ops of no known kind.
_KINDS = {
    "BatchNorm": ("norm", "batch_norm"),
    "LayerNorm": ("norm", "layer_norm"),
    "LRN": ("norm", "local_response_norm"),
    "BinaryOp": ("elementwise", "add"),
    "Eltwise": ("elementwise", "add"),
    "Concat": ("concat", "cat"),
    "Crop": ("move", "slice"),
    "Slice": ("move", "split"),
    "Permute": ("move", "permute"),
    "ShuffleChannel": ("move", "channel_shuffle"),
    "Padding": ("pad", "pad"),
    "Interp": ("resize", "upsample_nearest2d"),
    "Softmax": ("softmax", "softmax"),
    "GELU": ("activation", "gelu"),
    "ReLU": ("activation", "relu"),
    "Sigmoid": ("activation", "sigmoid"),
    "HardSigmoid": ("activation", "hardsigmoid"),
    "HardSwish": ("activation", "hardswish"),
}
# Layers that hand a tensor on as it is.
_FREE = frozenset({"Input", "MemoryData", "Split", "Flatten", "Reshape", "Noop"})
_CONVOLUTIONS = {"Convolution": False, "ConvolutionDepthWise": False, "DeconvolutionDepthWise": True}
_PRODUCTS = ("InnerProduct", "Gemm")
_HEAD = 64
_VERSION = re.compile(r"_?v\d+")


def graphs_of_layers(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[OpRecord, ...]]:
    """The ops of every model in the rows of a table of layers, which come in the order of execution."""
    models: dict[str, list[OpRecord]] = {}
    for row in rows:
        if row["type"] not in _FREE:
            models.setdefault(str(row["model"]), []).extend(_ops(row))
    return {model: lowered(ops) for model, ops in models.items()}


def plain_model(name: str) -> str:
    """A model's name without the versions of its parts, so that a detector goes with its backbone's family."""
    return _VERSION.sub("", name)


def _ops(row: Mapping[str, Any]) -> list[OpRecord]:
    """The ops that one layer stands for."""
    kind = str(row["type"])
    given, output = _shape(row["in_shape"]), _shape(row["out_shape"]) or _shape(row["in_shape"])
    name = str(row["i"])
    if kind == "MultiHeadAttention":
        return _attention(name, given)
    if kind in _CONVOLUTIONS:
        return [_convolution(row, name, given, output, _CONVOLUTIONS[kind])]
    if kind in _PRODUCTS:
        fan_in = prod(given) if kind == "InnerProduct" else given[-1]
        return [_linear(name, given, output, fan_in)]
    inputs: tuple[Shape, ...] = (given,)
    if kind == "Pooling":
        whole = len(output) < 4 or output[-2:] == (1, 1)
        meant, op = ("reduce", "mean") if whole else ("pool", "max_pool2d")
    else:
        meant, op = _KINDS.get(kind, ("other", kind))
    if kind == "Concat":
        inputs = (output,)  # all inputs together are the output
    elif meant == "elementwise":
        inputs = (output,) * len(str(row["inputs"]).split(";"))
    elif kind == "ShuffleChannel":
        inputs = ((given[0], 2, given[1] // 2, *given[2:]),)
    return [OpRecord(name, op, meant, "", None if meant == "other" else 0, 0, inputs, output)]


def _convolution(row: Mapping[str, Any], name: str, given: Shape, output: Shape, transposed: bool) -> OpRecord:
    """A convolution; where the table gives no stride or groups they are 1."""
    fan_in, fan_out = given[1], output[1]
    groups, side, step = (int(_number(row[column], 1)) for column in ("group", "kernel", "stride"))
    kind = "conv_transpose" if transposed else "conv"
    if groups > 1 and not transposed:
        kind = "depthwise_conv" if groups == fan_in else "grouped_conv"
    op, weights = "conv_transpose2d" if transposed else "conv2d", int(row["params"])
    return OpRecord(
        name, op, kind, "", int(row["macs"]), weights, (given,), output, (fan_in, fan_out), (side, side),
        (step, step), groups,
    )  # fmt: skip


def _linear(name: str, given: Shape, output: Shape, fan_in: int) -> OpRecord:
    """A product with a matrix of weights, over the last axis."""
    weights = fan_in * output[-1]
    macs = prod(output) * fan_in
    return OpRecord(name, "linear", "linear", "", macs, weights, (given,), output, (fan_in, output[-1]))


def _attention(name: str, given: Shape) -> list[OpRecord]:
    """A whole attention block: the three projections as one, the attention, and the projection after it."""
    tokens, width = given[-2:]
    wide = (*given[:-1], 3 * width)
    heads = (1, max(width // _HEAD, 1), tokens, min(width, _HEAD))
    attention = OpRecord(
        f"{name}.attention", "scaled_dot_product_attention", "attention", "", 2 * tokens**2 * width, 0,
        (heads,) * 3, heads, (heads[-1], heads[-1]),
    )  # fmt: skip
    first, last = _linear(f"{name}.in", given, wide, width), _linear(f"{name}.out", given, given, width)
    return [first, attention, last]


def _shape(text: Any) -> Shape:
    """A shape as (1, channels, height, width), (1, height, width) or (1, width); () where there is none."""
    sizes = [int(part) for part in re.findall(r"\d+", str(text))]
    if len(sizes) != 5:
        return ()
    width, height, _, channels, dims = sizes
    return {1: (1, width), 2: (1, height, width)}.get(dims, (1, channels, height, width))


def _number(value: Any, otherwise: float) -> float:
    """The number in a cell, `otherwise` where the cell is empty."""
    number = float(value) if str(value) not in ("", "None") else otherwise
    return otherwise if number != number else number
