"""Small networks for measuring this machine: each as an ONNX file (float, or int8 with QDQ) and as op records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.types import OpRecord, Scheme

_OPSET = 17
# The scale of every activation: random networks are measured, not evaluated, so any scale does. Activations are
# uint8: with int8 ones onnxruntime leaves half the convolutions of a residual network unfused on x86-64, and the
# file takes three times as long.
_SCALE = 0.05


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a benchmark network; a convolution or a linear layer has a ReLU behind it.

    `kind` is conv (with `groups`), linear, pool (global average), or add (of what lay before the last `back` layers).
    """

    kind: str
    width: int = 0
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    back: int = 0


@dataclass(frozen=True, slots=True)
class Net:
    """A benchmark network: its family, its input (C, H, W) and its layers."""

    name: str
    family: str
    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]

    def trace(self) -> tuple[OpRecord, ...]:
        """The ops of the network at batch size 1, without the ReLUs (they fuse)."""
        shapes: list[tuple[int, ...]] = [(1, *self.input_shape)]
        ops = []
        for i, layer in enumerate(self.layers):
            ops.append(_record(f"{i}", layer, shapes))
            shapes.append(ops[-1].output_shape)
        return tuple(ops)


def _record(name: str, layer: Layer, shapes: Sequence[tuple[int, ...]]) -> OpRecord:
    """The op record of one layer that follows tensors of `shapes`."""
    taken = shapes[-1]
    inputs = (taken, shapes[-1 - layer.back]) if layer.kind == "add" else (taken,)
    kind = {"add": "elementwise", "pool": "reduce", "linear": "linear"}.get(layer.kind, "conv")
    output, macs, weights = taken, 0, 0
    if kind == "conv":
        spatial = tuple((size - 1) // layer.stride + 1 for size in taken[2:])
        output = (1, layer.width, *spatial)
        weights = layer.width * taken[1] // layer.groups * layer.kernel**2
        macs = weights * prod(spatial)
        if layer.groups > 1:
            kind = "depthwise_conv" if layer.groups == taken[1] else "grouped_conv"
    elif kind == "reduce":
        output = (1, taken[1])
    elif kind == "linear":
        output, macs = (1, layer.width), taken[1] * layer.width
        weights = macs
    channels = (taken[1], layer.width) if weights else (0, 0)
    size, stride = ((layer.kernel,) * 2, (layer.stride,) * 2) if "conv" in kind else ((), ())
    return OpRecord(name, layer.kind, kind, "", macs, weights, inputs, output, channels, size, stride, layer.groups)


@dataclass(slots=True)
class _Writer:
    """Collects ONNX nodes and constants; `int8` puts quantize/dequantize pairs around every layer."""

    int8: bool
    random: np.random.Generator
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Adds a constant; returns its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Adds a node; returns its output's name."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def quantized(self, name: str, zero_point: int = 0) -> str:
        """The tensor `name` after a quantize/dequantize pair; the tensor itself in a float network."""
        if not self.int8:
            return name
        scale = self.constant(f"{name}_scale", np.array(_SCALE, np.float32))
        zero = self.constant(f"{name}_zero", np.array(zero_point, np.uint8))
        quantized = self.node("QuantizeLinear", [name, scale, zero], f"{name}_q")
        return self.node("DequantizeLinear", [quantized, scale, zero], f"{name}_dq")

    def weight(self, name: str, shape: tuple[int, ...]) -> str:
        """A random weight, in int8 with one scale per output channel where the network is quantized."""
        value = self.random.normal(0, prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        if not self.int8:
            return self.constant(name, value)
        axes = tuple(range(1, len(shape)))
        scale = np.maximum(np.abs(value).max(axis=axes, keepdims=True) / 127, 1e-8)
        stored = self.constant(f"{name}_int8", np.round(value / scale).astype(np.int8))
        scales = self.constant(f"{name}_scale", scale.reshape(-1).astype(np.float32))
        zeros = self.constant(f"{name}_zero", np.zeros(shape[0], np.int8))
        return self.node("DequantizeLinear", [stored, scales, zeros], name, axis=0)

    def bias(self, name: str, weight: str, count: int) -> str:
        """A zero bias, in int32 with the product of input and weight scale where the network is quantized."""
        if not self.int8:
            return self.constant(name, np.zeros(count, np.float32))
        from onnx import numpy_helper

        scales = next(numpy_helper.to_array(c) for c in self.constants if c.name == f"{weight}_scale")
        stored = self.constant(f"{name}_int32", np.zeros(count, np.int32))
        scale = self.constant(f"{name}_scale", (scales * _SCALE).astype(np.float32))
        zeros = self.constant(f"{name}_zero", np.zeros(count, np.int32))
        return self.node("DequantizeLinear", [stored, scale, zeros], name, axis=0)


def to_onnx(net: Net, scheme: Scheme) -> bytes:
    """The network as the bytes of an ONNX file with random weights from a fixed seed."""
    from onnx import TensorProto, helper

    writer = _Writer(scheme == "w8a8", np.random.default_rng(0))
    tensors = [writer.quantized("input", 128)]
    for i, op in enumerate(net.trace()):
        tensors.append(_write(writer, f"t{i}", net.layers[i], op, tensors))
    shape = net.trace()[-1].output_shape
    output = writer.node("Identity", [tensors[-1]], "output")
    graph = helper.make_graph(
        writer.nodes,
        net.name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *net.input_shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, list(shape))],
        writer.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def _write(writer: _Writer, name: str, layer: Layer, op: OpRecord, tensors: Sequence[str]) -> str:
    """Adds the nodes of one layer; returns the name of what it leaves."""
    taken = tensors[-1]
    if layer.kind == "pool":
        pooled = writer.node("GlobalAveragePool", [taken], f"{name}_pool")
        return writer.quantized(writer.node("Flatten", [writer.quantized(pooled)], f"{name}_flat"))
    if layer.kind == "add":
        done = writer.node("Add", [taken, tensors[-1 - layer.back]], f"{name}_add")
    elif layer.kind == "linear":
        weight = writer.weight(f"{name}_w", (op.channels[1], op.channels[0]))
        bias = writer.bias(f"{name}_b", weight, op.channels[1])
        done = writer.node("Gemm", [taken, weight, bias], f"{name}_gemm", transB=1)
    else:
        weight = writer.weight(f"{name}_w", (op.channels[1], op.channels[0] // layer.groups, *op.kernel))
        bias = writer.bias(f"{name}_b", weight, op.channels[1])
        half = layer.kernel // 2
        done = writer.node("Conv", [taken, weight, bias], f"{name}_conv", kernel_shape=list(op.kernel),
                           pads=[half] * 4, strides=[layer.stride] * 2, group=layer.groups)  # fmt: skip
    return writer.quantized(writer.node("Relu", [done], f"{name}_relu"))
