"""Reading a `torch.export.ExportedProgram`: its inputs, its ops and where they stand, what is quantized in it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputKind
from torch.fx import Node

QUANTIZE = "quantized_decomposed.quantize_per_tensor"
DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor"
DEQUANTIZE_CHANNEL = "quantized_decomposed.dequantize_per_channel"
DEQUANTIZE_GROUP = "quantized_decomposed.dequantize_per_channel_group"
QDQ = (QUANTIZE, DEQUANTIZE, DEQUANTIZE_CHANNEL, DEQUANTIZE_GROUP)

# Ops that only move values: they cost an int8 kernel nothing and need no range of their own.
MOVES_DATA = (
    "aten.view", "aten._unsafe_view", "aten.reshape", "aten.flatten", "aten.permute", "aten.transpose",
    "aten.squeeze", "aten.unsqueeze", "aten.clone", "aten.contiguous", "aten.expand", "aten.slice", "aten.select",
    "aten.dropout", "aten.alias", "aten.detach", "aten.split", "aten.chunk", "aten.t", "aten.unbind",
)  # fmt: skip


def op_name(node: Node) -> str:
    """The op a call node makes, without its overload: "aten.conv2d"; "" for placeholders and the output."""
    if node.op != "call_function":
        return ""
    target = node.target
    schema = getattr(target, "_schema", None)
    name = str(schema.name) if schema is not None else str(getattr(target, "__name__", target))
    return name.replace("::", ".")  # a schema says "aten::conv2d"


def where_of(node: Node | None) -> str:
    """The path of the module that made `node` ("features.3.conv"), or the class whose forward holds it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values()) if node is not None else []
    if not stack:
        return ""
    path, kind = stack[-1]
    name = kind if isinstance(kind, str) else kind.__qualname__
    if str(path).startswith("L['self']"):  # strict tracing writes paths as L['self'].a.b
        path = str(path).removeprefix("L['self']").lstrip(".")
    return str(path) or f"the forward of {name.rsplit('.', 1)[-1]}"


def calls(program: ExportedProgram) -> Iterator[Node]:
    """Yields the call nodes of the program's graph in execution order."""
    return (node for node in program.graph.nodes if node.op == "call_function")


def is_quantized(program: ExportedProgram) -> bool:
    """Whether the program holds quantize or dequantize ops."""
    return any(op_name(node) in QDQ for node in calls(program))


def has_ranges(program: ExportedProgram) -> bool:
    """Whether the program quantizes values, not weights alone."""
    return any(op_name(node) == QUANTIZE for node in calls(program))


def user_inputs(program: ExportedProgram) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of each tensor that the caller hands in, in order."""
    return [(name, tuple(int(size) for size in value.shape)) for name, value in _input_values(program)]


def input_dtypes(program: ExportedProgram) -> list[torch.dtype]:
    """The type of each tensor that the caller hands in, in order."""
    return [value.dtype for _, value in _input_values(program)]


def _input_values(program: ExportedProgram) -> list[tuple[str, torch.Tensor]]:
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [(name, nodes[name].meta["val"]) for name in names]


def output_count(program: ExportedProgram) -> int:
    """How many tensors the program hands back."""
    return sum(spec.kind is OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs)


def output_names(program: ExportedProgram) -> tuple[str, ...]:
    """The names artifacts give their outputs: "output", or "output_0", "output_1", ... where there are several."""
    count = output_count(program)
    return ("output",) if count == 1 else tuple(f"output_{index}" for index in range(count))


def sample_inputs(program: ExportedProgram) -> tuple[torch.Tensor, ...]:
    """Zeros in the shapes and types that the program takes: enough to trace it again."""
    inputs = zip(user_inputs(program), input_dtypes(program), strict=True)
    return tuple(torch.zeros(shape, dtype=dtype) for (_, shape), dtype in inputs)


def without_unused(program: ExportedProgram) -> ExportedProgram:
    """A copy of the program without the parameters and buffers that no op reads.

    Quantizing leaves the float weights beside the int8 ones; a batch norm leaves its step counter. Some exporters
    would carry them into the file.
    """
    kept_kinds = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    graph_module = copy.deepcopy(program.graph_module)
    signature = copy.deepcopy(program.graph_signature)
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    pairs = zip(signature.input_specs, placeholders, strict=True)
    _follow_names(signature, {spec.arg.name: node.name for spec, node in pairs})
    unread = {node.name: node for node in placeholders if not node.users}
    dropped = [spec for spec in signature.input_specs if spec.kind in kept_kinds and spec.arg.name in unread]
    for spec in dropped:
        graph_module.graph.erase_node(unread[spec.arg.name])
    targets = {spec.target for spec in dropped}
    signature.input_specs = [spec for spec in signature.input_specs if spec not in dropped]
    graph_module.recompile()
    return ExportedProgram(
        root=graph_module, graph=graph_module.graph, graph_signature=signature,
        state_dict={key: value for key, value in program.state_dict.items() if key not in targets},
        range_constraints=program.range_constraints, module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants={key: value for key, value in program.constants.items() if key not in targets},
        verifiers=program.verifiers,
    )  # fmt: skip


def _follow_names(signature: ExportGraphSignature, names: dict[str, str]) -> None:
    """Renames the signature's arguments: copying a graph renames a placeholder called like a builtin ("input")."""
    for argument in [spec.arg for spec in signature.input_specs] + [spec.arg for spec in signature.output_specs]:
        new = names.get(getattr(argument, "name", ""))
        if new:
            argument.name = new


def constant_keys(program: ExportedProgram) -> dict[str, str]:
    """Node name -> its key in the state dict or among the constants, of every tensor the program holds."""
    return {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target is not None}


def constants_by_node(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Node name -> tensor, of every parameter, buffer and constant the graph reads."""
    found: dict[str, torch.Tensor] = {}
    for spec in program.graph_signature.input_specs:
        key = spec.target
        if key is None:
            continue
        value = program.state_dict.get(key, program.constants.get(key))
        if isinstance(value, torch.Tensor):
            found[spec.arg.name] = value.detach()
    return found


def int8_weight_count(program: ExportedProgram) -> int:
    """How many dequantize ops read a constant: the int8 weights."""
    constants = set(constants_by_node(program))
    undo = [node for node in calls(program) if op_name(node) in (DEQUANTIZE, DEQUANTIZE_CHANNEL)]
    return sum(source.name in constants for node in undo for source in node.all_input_nodes[:1])


def float_compute_ops(program: ExportedProgram) -> tuple[str, ...]:
    """The ops of a quantized program that compute on floats: "aten.softmax at head (no int8 range in the program)".

    An op counts as int8 when each float tensor it reads comes out of a dequantize op, and its result, or that of
    the activation behind it, goes into a quantize op.
    """
    if not has_ranges(program):
        return ()  # float, or weights alone: every op is meant to compute on floats
    constants = set(constants_by_node(program))
    lines = []
    for node in calls(program):
        name = op_name(node)
        skipped = name in QDQ or name in MOVES_DATA or name == "getitem" or _restores(node, constants)
        if skipped or not _is_float(node):
            continue
        reason = _float_reason(node, constants)
        if reason:
            lines.append(f"{name} at {where_of(node) or node.name} ({reason})")
    return tally(lines)


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


_RESTORING = ("aten._to_copy", "aten.to", "aten.gather", "aten.view")  # what makes a stored weight float again
WEIGHTED = ("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.conv_transpose1d", "aten.conv_transpose2d",
            "aten.conv_transpose3d", "aten.linear")  # fmt: skip
CLAMPS = ("aten.relu", "aten.relu_", "aten.hardtanh", "aten.hardtanh_", "aten.clamp", "aten.relu6")


def _float_reason(node: Node, constants: set[str]) -> str:
    """Why `node` computes on floats, or "" where it is an int8 op."""
    name = op_name(node)
    for source in _float_inputs(node):
        source = _through_moves(source)
        if op_name(source) in (DEQUANTIZE, DEQUANTIZE_CHANNEL) or _restores(source, constants):
            continue
        if name in CLAMPS and len(source.users) == 1 and source.op == "call_function":
            continue  # an activation behind its op: one int8 kernel does both
        return f"its input {source.name} is not quantized"
    if not _reaches_quantize(node):
        return "its output is not quantized"
    weight = node.args[1] if name in WEIGHTED else None
    if isinstance(weight, Node) and _restores(weight, constants):
        return "its weight is not an integer"
    return ""


def _restores(node: Node, constants: set[str]) -> bool:
    """Whether a node is a constant, or one of the ops that make a stored float16 or palette weight float again."""
    if node.name in constants:
        return True
    sources = node.all_input_nodes
    return op_name(node) in _RESTORING and bool(sources) and all(_restores(source, constants) for source in sources)


def _float_inputs(node: Node) -> list[Node]:
    return [source for source in node.all_input_nodes if _is_float(source)]


def _through_moves(node: Node) -> Node:
    while op_name(node) in MOVES_DATA or op_name(node) == "getitem":
        node = node.all_input_nodes[0]
    return node


def _reaches_quantize(node: Node) -> bool:
    for user in node.users:
        if op_name(user) == QUANTIZE:
            continue
        passes = op_name(user) in MOVES_DATA or op_name(user) in CLAMPS
        if not passes or not _reaches_quantize(user):
            return False
    return bool(node.users)


def tally(lines: Iterable[str]) -> tuple[str, ...]:
    """The lines without repeats, in order, each repeated one with how often it came: "aten.abs at 0, 4 times"."""
    counts = Counter(lines)
    return tuple(line if count == 1 else f"{line}, {count} times" for line, count in counts.items())


def op_counts(program: ExportedProgram) -> Counter[str]:
    """How often each op is called, the data movers and bookkeeping left out."""
    names = (op_name(node) for node in calls(program))
    return Counter(name for name in names if name not in MOVES_DATA and name != "getitem")
