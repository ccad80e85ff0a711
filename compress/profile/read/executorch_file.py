"""The ops of an ExecuTorch file: those of its own kernels, and those inside XNNPACK's graphs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from compress.errors import InputError, ToolMissing
from compress.profile.lowering import lowered
from compress.profile.read.kinds import kind_of, pairs
from compress.profile.read.layouts import Images
from compress.runtimes.quiet import quietly
from compress.types import OpRecord

# XNNPACK's node -> name as the other readers call it.
_NAMES = pairs(
    "Clamp:clamp Hardswish:hardswish Sigmoid:sigmoid Tanh:tanh Gelu:gelu ELU:elu LeakyReLU:leaky_relu "
    "PReLU:prelu Exp:exp Log:log SquareRoot:sqrt ReciprocalSquareRoot:rsqrt Sin:sin Cos:cos Square:pow "
    "Softmax:softmax Add:add Subtract:sub Multiply:mul Div:div Minimum:minimum Maximum:maximum Negate:neg "
    "Abs:abs Floor:floor Ceiling:ceil GlobalAvgPooling2d:mean StaticMean:mean AvgPooling2d:avg_pool2d "
    "MaxPooling2d:max_pool2d ArgMaxPooling2d:max_pool2d StaticResizeBilinear2D:upsample Concatenate2:cat "
    "Concatenate3:cat Concatenate4:cat Concatenate5:cat StaticConstantPad:pad StaticTranspose:permute "
    "StaticSlice:slice StaticReshape:view Convert:to Copy:alias"
)
_CONVOLUTIONS = {
    "Conv2d": "conv", "DepthwiseConv2d": "depthwise_conv", "ConvTranspose2d": "conv_transpose",
}  # fmt: skip
_OVER_IMAGES = frozenset({*_CONVOLUTIONS, "AvgPooling2d", "MaxPooling2d", "ArgMaxPooling2d", "GlobalAvgPooling2d",
                          "StaticResizeBilinear2D"})  # fmt: skip
_KEEPING = frozenset({"activation", "elementwise", "concat", "pad", "softmax", "reduce"})
_KEEPING_TOO = frozenset({"StaticSlice", "Convert", "Copy"})


def read_executorch(path: Path) -> tuple[OpRecord, ...]:
    """The ops of an ExecuTorch file, as its runtime runs them.

    Raises:
        InputError: the file is no ExecuTorch program, or a delegate other than XNNPACK hides its ops.
        ToolMissing: executorch is not installed.
    """
    try:
        with quietly():
            from executorch.exir._serialize._program import deserialize_pte_binary
    except ImportError as error:
        raise ToolMissing("executorch", "executorch") from error
    try:
        program = deserialize_pte_binary(path.read_bytes()).program
        plan = next(plan for plan in program.execution_plan if plan.name == "forward")
    except Exception as error:  # flatc and the deserializer raise many unrelated types
        raise InputError(f"{path}: not an ExecuTorch program that can be read: cut short, or another format") from error
    try:
        records = list(_records(program, plan, path))
    except (KeyError, IndexError, AttributeError, OSError, CalledProcessError) as error:
        raise InputError(f"{path}: not an ExecuTorch program that can be read: a part of it is missing") from error
    if not records:
        raise InputError(f"{path}: the program computes nothing from its inputs")
    return lowered(records)


def _records(program: Any, plan: Any, path: Path) -> Iterator[OpRecord]:
    """The records of every instruction, in execution order."""
    from compress.runtimes.pte import XnnGraph

    kernels = _Kernels(plan)
    for place, instruction in enumerate(each for chain in plan.chains for each in chain.instructions):
        call = instruction.instr_args
        kind = type(call).__name__
        if kind == "KernelCall":
            yield from kernels.records(call, place)
        elif kind == "DelegateCall":
            delegate = plan.delegates[call.delegate_index]
            if delegate.id != "XnnpackBackend":
                raise InputError(
                    f"{path}: the ops inside the delegate {delegate.id} cannot be read; give the .pt2 file"
                )
            content = program.backend_delegate_data[delegate.processed.index]
            graph = _Xnnpack(XnnGraph(bytes(content.data)), str(place))
            yield from graph.records(kernels, call.args)


class _Xnnpack:
    """The nodes of one XNNPACK graph as records."""

    def __init__(self, graph: Any, place: str) -> None:
        self.graph, self.place = graph, place
        self.held = {value for value, tensor in graph.tensors.items() if tensor["constant_buffer_idx"]}
        self.sizes = {value: tuple(int(d) for d in tensor["dims"]) for value, tensor in graph.tensors.items()}
        self.images = Images()
        for full, node in graph.nodes():
            name = full.removeprefix("XNN")
            ends = [*graph.reads(full, node), _output(node)]
            if name in _OVER_IMAGES:
                self.images.mark(ends)
            elif name in _KEEPING_TOO or kind_of(_NAMES.get(name, name)) in _KEEPING:
                self.images.tie(ends)
        self.images.settle()

    def records(self, kernels: _Kernels, args: list[int]) -> Iterator[OpRecord]:
        """Yields the nodes in execution order; `args` are the program's values that it is called with."""
        outside = {
            value: args[tensor["external_id"]]
            for value, tensor in self.graph.tensors.items()
            if tensor["external_id"] < len(args)
        }
        self.held |= {value for value, index in outside.items() if kernels.holds(index)}
        for number, ((full, node), clamped) in enumerate(zip(self.graph.nodes(), self.graph.clamped(), strict=True)):
            if all(value in self.held for value in self.graph.reads(full, node)):
                self.held.add(_output(node))
                if _output(node) in outside:
                    kernels.hold(outside[_output(node)])
            else:
                record = self._record(full, node, f"{self.place}.{number}")
                yield record
                if clamped and record.op != "clamp":  # by itself: the other ops that are this node may not take it in
                    yield OpRecord(f"{record.name}.clamp", "clamp", "activation", "", 0, 0, (record.output_shape,),
                                   record.output_shape)  # fmt: skip

    def _shape(self, value: int) -> tuple[int, ...]:
        return self.images.shape(value, self.sizes[value])

    def _record(self, full: str, node: dict[str, Any], place: str) -> OpRecord:
        name = full.removeprefix("XNN")
        output = _output(node)
        read = [value for value in self.graph.reads(full, node) if value not in self.held]
        keys = [key for key in node if key.endswith("_id") and not key.startswith("output")]
        held = [self.sizes[node[key]] for key in keys if node[key] in self.held]
        base: dict[str, Any] = {
            "name": f"{name}_{place}",
            "op": _NAMES.get(name, name.lower()),
            "where": "",
            "input_shapes": tuple(self._shape(value) for value in read),
            "output_shape": self._shape(output),
            "weight_count": sum(math.prod(sizes) for sizes in held if math.prod(sizes) > 1),
        }
        if name in _CONVOLUTIONS:
            return _convolution(_CONVOLUTIONS[name], node, base)
        if name in ("FullyConnected", "BatchMatrixMultiply"):
            layer = "linear" if held else "matmul"
            left, shape = base["input_shapes"][0], base["output_shape"]
            macs, channels = math.prod(shape) * left[-1], (left[-1], shape[-1])
            return OpRecord(kind=layer, macs=macs, channels=channels, **base | {"op": layer})
        if name == "ScaledDotProductAttention":
            query, key, value = (self.sizes[node[f"{part}_id"]] for part in ("query", "key", "value"))
            macs = math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
            base |= {"input_shapes": (query, key, value, ()), "weight_count": 0}
            return OpRecord(kind="attention", macs=macs, channels=(query[-1], value[-1]), **base)
        if name == "StaticTranspose":  # what it does is in the sizes as they stand in the file
            base |= {"input_shapes": (self.sizes[read[0]],), "output_shape": self.sizes[output]}
        kind = kind_of(base["op"])
        cube = len(set(base["output_shape"][1:])) == 1  # whose shapes do not tell what a transpose does
        if name == "StaticTranspose" and cube and self.images.reordered(read[0], output, node["perm"]):
            kind = "reshape"
        if kind == "pool" and "pooling_height" in node:
            base["kernel"] = (int(node["pooling_height"]), int(node["pooling_width"]))
            base["stride"] = (int(node["stride_height"]), int(node["stride_width"]))
        return OpRecord(kind=kind, macs=None if kind == "other" else 0, **base)


def _output(node: dict[str, Any]) -> int:
    return int(node.get("output_id", node.get("output_value_id", -1)))


def _convolution(kind: str, node: dict[str, Any], base: dict[str, Any]) -> OpRecord:
    """A convolution; a depthwise one has one input channel in each group."""
    groups = int(node["groups"])
    source, output = base["input_shapes"][0], base["output_shape"]
    if kind == "conv" and groups > 1:
        kind = "depthwise_conv" if groups == source[1] else "grouped_conv"
    window = (int(node["kernel_height"]), int(node["kernel_width"]))
    positions = math.prod((source if kind == "conv_transpose" else output)[2:]) * output[0]
    per_position = math.prod(window) * source[1] * output[1] // groups
    return OpRecord(
        kind=kind, macs=positions * per_position, channels=(source[1], output[1]), kernel=window,
        stride=(int(node["subsampling_height"]), int(node["subsampling_width"])), groups=groups,
        dilation=max(int(node["dilation_height"]), 1), **base | {"op": "conv"},
    )  # fmt: skip


class _Kernels:
    """Calls of ExecuTorch's own kernels, as the ATen calls that they are."""

    def __init__(self, plan: Any) -> None:
        from compress.profile.read.calls import Calls

        self.plan, self.calls = plan, Calls()
        self.tensors: dict[int, Any] = {}

    def records(self, call: Any, place: int) -> list[OpRecord]:
        """The records of one call: none where it computes nothing from the program's inputs."""
        import torch

        operator = self.plan.operators[call.op_index]
        namespace, _, name = operator.name.partition("::")
        if namespace == "executorch_prim":
            return []
        packet = getattr(getattr(torch.ops, namespace), name, None)
        target = getattr(packet, operator.overload or "default", None)
        values = [self._value(index) for index in call.args]
        before = len(self.calls.records)
        if target is None:  # no such op in this torch: its last argument is where the result goes
            self.calls.add(operator.name, values[:-1], {}, values[-1], f"{name}_{place}", "")
        else:
            schema = target._schema.arguments
            given = {argument.name: value for argument, value in zip(schema, values, strict=False)}
            results = [given.pop(argument.name) for argument in schema if argument.is_out and argument.name in given]
            self.calls.add(target, (), given, results, f"{name}_{place}", "")
        return self.calls.records[before:]

    def holds(self, index: int) -> bool:
        """Whether a value of the program is known before it runs."""
        value = self.plan.values[index].val
        return type(value).__name__ == "Tensor" and self.calls.holds(self._tensor(index, value))

    def hold(self, index: int) -> None:
        """Notes a tensor of the program as known before it runs."""
        self.calls.hold(self._tensor(index, self.plan.values[index].val))

    def _value(self, index: int) -> Any:
        """A value of the program as an argument of an ATen call; tensors have a shape only."""
        value = self.plan.values[index].val
        kind = type(value).__name__
        if kind == "Tensor":
            return self._tensor(index, value)
        if kind in ("TensorList", "OptionalTensorList"):
            return [self._value(item) if item >= 0 else None for item in value.items]
        if kind == "IntList":
            return [self._value(item) for item in value.items]
        if kind in ("DoubleList", "BoolList"):
            return list(value.items)
        return next(
            (
                getattr(value, name)
                for name in ("int_val", "bool_val", "double_val", "string_val")
                if hasattr(value, name)
            ),
            None,
        )

    def _tensor(self, index: int, value: Any) -> Any:
        import torch

        if index not in self.tensors:
            self.tensors[index] = torch.empty(tuple(value.sizes), device="meta")
            if value.data_buffer_idx != 0:
                self.calls.hold(self.tensors[index])
        return self.tensors[index]
