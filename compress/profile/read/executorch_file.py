"""The ops of an ExecuTorch file: those of its own kernels, and those inside XNNPACK's graphs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.errors import InputError, ToolMissing
from compress.graph.cost import KIND_OF
from compress.profile.lowering import lowered
from compress.types import OpRecord

# XNNPACK's node -> (kind, name as the other readers call it).
_NODES = {
    node: (kind, name)
    for kind, entries in {
        "activation": "Clamp:clamp Hardswish:hardswish Sigmoid:sigmoid Tanh:tanh Gelu:gelu ELU:elu "
        "LeakyReLU:leaky_relu PReLU:prelu Exp:exp Log:log SquareRoot:sqrt ReciprocalSquareRoot:rsqrt Sin:sin Cos:cos",
        "softmax": "Softmax:softmax",
        "elementwise": "Add:add Subtract:sub Multiply:mul Divide:div Minimum:minimum Maximum:maximum Negate:neg "
        "Abs:abs Square:mul Floor:floor Ceiling:ceil",
        "reduce": "GlobalAvgPooling2d:mean StaticMean:mean",
        "pool": "AvgPooling2d:avg_pool2d MaxPooling2d:max_pool2d ArgMaxPooling2d:max_pool2d",
        "resize": "StaticResizeBilinear2D:upsample",
        "concat": "Concatenate2:cat Concatenate3:cat Concatenate4:cat Concatenate5:cat",
        "pad": "StaticConstantPad:pad",
        "move": "StaticTranspose:permute StaticSlice:slice",
        "reshape": "StaticReshape:view Convert:to Copy:alias",
    }.items()
    for node, _, name in (entry.partition(":") for entry in entries.split())
}
_CONVOLUTIONS = {
    "XNNConv2d": "conv", "XNNDepthwiseConv2d": "depthwise_conv", "XNNConvTranspose2d": "conv_transpose",
}  # fmt: skip


def read_executorch(path: Path) -> tuple[OpRecord, ...]:
    """The ops of an ExecuTorch file, as its runtime runs them.

    Raises:
        InputError: the file is no ExecuTorch program, or a delegate other than XNNPACK hides its ops.
        ToolMissing: executorch is not installed.
    """
    try:
        from executorch.exir._serialize._program import deserialize_pte_binary
    except ImportError as error:
        raise ToolMissing("executorch", "executorch") from error
    try:
        program = deserialize_pte_binary(path.read_bytes()).program
        plan = next(plan for plan in program.execution_plan if plan.name == "forward")
    except Exception as error:  # flatc and the deserializer raise many unrelated types
        raise InputError(f"{path}: not an ExecuTorch program that can be read ({type(error).__name__})") from error
    return lowered(list(_records(program, plan, path)))


def _records(program: Any, plan: Any, path: Path) -> Iterator[OpRecord]:
    """The records of every instruction, in execution order."""
    from compress.runtimes.pte import XnnGraph

    for place, instruction in enumerate(each for chain in plan.chains for each in chain.instructions):
        call = instruction.instr_args
        kind = type(call).__name__
        if kind == "KernelCall":
            record = _kernel(plan, call, place)
            if record is not None:
                yield record
        elif kind == "DelegateCall":
            delegate = plan.delegates[call.delegate_index]
            if delegate.id != "XnnpackBackend":
                raise InputError(
                    f"{path}: the ops inside the delegate {delegate.id} cannot be read; give the .pt2 file"
                )
            held = program.backend_delegate_data[delegate.processed.index]
            graph = XnnGraph(bytes(held.data))
            for number, (name, node) in enumerate(graph.nodes()):
                yield _node(graph, name, node, f"{place}.{number}")


def _node(graph: Any, name: str, node: dict[str, Any], place: str) -> OpRecord:
    """One node of an XNNPACK graph."""
    shape = {value: _channels_second(tuple(int(d) for d in tensor["dims"])) for value, tensor in graph.tensors.items()}
    read = graph.reads(name, node)
    held = [
        node[key] for key in node
        if key.endswith("_id") and not key.startswith("output") and node[key] in shape and node[key] not in read
    ]  # fmt: skip
    kind, op = _NODES.get(name.removeprefix("XNN"), ("other", name.removeprefix("XNN").lower()))
    base: dict[str, Any] = {
        "name": f"{name.removeprefix('XNN')}_{place}",
        "op": op,
        "where": "",
        "input_shapes": tuple(shape[value] for value in read),
        "output_shape": shape[node.get("output_id", node.get("output_value_id"))],
        "weight_count": sum(math.prod(shape[value]) for value in held),
    }
    if name in _CONVOLUTIONS:
        return _convolution(_CONVOLUTIONS[name], node, base)
    if name in ("XNNFullyConnected", "XNNBatchMatrixMultiply"):
        layer = "linear" if held else "matmul"
        left, output = base["input_shapes"][0], base["output_shape"]
        base = base | {"op": layer}
        return OpRecord(kind=layer, macs=math.prod(output) * left[-1], channels=(left[-1], output[-1]), **base)
    if kind == "pool" and "pooling_height" in node:
        base["kernel"] = (int(node["pooling_height"]), int(node["pooling_width"]))
        base["stride"] = (int(node["stride_height"]), int(node["stride_width"]))
    return OpRecord(kind=kind, macs=None if kind == "other" else 0, **base)


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


def _kernel(plan: Any, call: Any, place: int) -> OpRecord | None:
    """An op outside any delegate; None where it moves no tensor."""
    full = plan.operators[call.op_index].name
    name = full.rpartition("::")[2].removesuffix("_copy").removeprefix("_")
    values = [plan.values[index].val for index in call.args]
    lists = [value.items for value in values if type(value).__name__.endswith("TensorList")]
    indices = [index for index in (*call.args[:-1], *(index for items in lists for index in items)) if index >= 0]
    tensors = [plan.values[i].val for i in dict.fromkeys(indices) if type(plan.values[i].val).__name__ == "Tensor"]
    result = plan.values[call.args[-1]].val
    if type(result).__name__ != "Tensor" or full.startswith("executorch_prim"):
        return None
    fed = [each for each in tensors if each.data_buffer_idx == 0 and each is not result]
    held = [each for each in tensors if each.data_buffer_idx != 0]
    kind = KIND_OF.get(name, "norm" if "norm" in name else "other")
    return OpRecord(
        name=f"{name}_{place}", op=name, kind=kind, where="", macs=None if kind == "other" else 0,
        weight_count=0 if kind == "gather" else sum(math.prod(each.sizes) for each in held),
        input_shapes=tuple(tuple(each.sizes) for each in fed), output_shape=tuple(result.sizes),
    )  # fmt: skip


def _channels_second(shape: tuple[int, ...]) -> tuple[int, ...]:
    """An image's shape with its channels second; any other as it is."""
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape
