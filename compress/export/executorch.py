"""Write an ExecuTorch program (.pte) lowered to XNNPACK, with every op that stays outside the delegate named."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from compress.errors import ToolError, UnsupportedOp
from compress.export import executorch_forms as forms
from compress.export.holds import uses
from compress.export.program import (
    float_compute_ops,
    has_ranges,
    op_name,
    tally,
    user_inputs,
    where_of,
    without_unused,
)
from compress.export.refusal import find_op
from compress.export.weights import fold_weights, stored_weights

SUFFIX = ".pte"
_NOT_COMPUTE = ("getitem", "executorch_call_delegate", "alloc")


def write(program: ExportedProgram, scheme: str, path: Path) -> dict[str, Any]:
    """Writes the file and returns the Artifact fields that ExecuTorch knows.

    Raises:
        UnsupportedOp: an op is in no kernel library of the runtime.
    """
    ready, notes = _prepared(program)
    lowered, finished = _lower(forms.with_plane_norms(ready))
    _check_kernels(finished, program)
    path.write_bytes(bytes(finished.buffer))
    outside = tally(_left_outside(lowered))
    integers = has_ranges(program)
    planned = _float_ops(ready) if integers else ()
    inputs = user_inputs(program)
    return {
        "input_names": tuple(name for name, _ in inputs),
        "output_names": tuple(f"output_{i}" for i in range(len(lowered.graph_signature.user_outputs))),
        "input_shapes": tuple(shape for _, shape in inputs),
        "delegate": _delegate(lowered),
        "float_ops": (*planned, *outside) if integers else (),
        "tool_versions": {name: importlib.metadata.version(name) for name in ("torch", "executorch")},
        "notes": notes if integers else (*notes, *(f"on the portable kernels: {line}" for line in outside)),
    }


def _prepared(program: ExportedProgram) -> tuple[ExportedProgram, tuple[str, ...]]:
    """(the program in the form that XNNPACK takes, what there is to say about that)."""
    program = forms.spelled_out(program)
    if forms.is_half(program):
        wide = any(use.kind != "linear" for use in uses(program))
        stored = ("XNNPACK's exporter writes the weights of convolutions as float32",) if wide else ()
        return forms.halved(program), ("computes in float16 throughout", *stored)
    notes = []
    if forms.has_groups(program):
        program = forms.with_rounded_inputs(program)
        notes.append("layers with weights in groups round their inputs to 8 bits as they run")
    grouped = {use.weight.key for use in uses(program) if forms.has_scale_per_group(use)}
    if grouped:
        program, _ = fold_weights(program, lambda weight: weight.key in grouped)
        named = ", ".join(sorted(key.removesuffix(".weight") for key in grouped))
        notes.append(f"stored as float32, for XNNPACK takes a scale per group in no transposed convolution: {named}")
    halves = [weight for weight in stored_weights(program) if weight.kind == "float16"]
    if halves:
        program, _ = fold_weights(program, lambda weight: weight.kind == "float16")
        named = ", ".join(weight.key.removesuffix(".weight") for weight in halves)
        notes.append(f"float16 weights are stored as float32 beside other kinds, for XNNPACK takes no mixture: {named}")
    return program, tuple(notes)


def _float_ops(program: ExportedProgram) -> tuple[str, ...]:
    """The ops that compute on floats as the program stands, and the norms between integers, which do so in any case."""
    lines = float_compute_ops(program)
    norms = [f"{forms.INSTANCE_NORM} at {where_of(node) or node.name} (" for node in forms.plane_norms(program)]
    unnamed = [norm for norm in norms if not any(line.startswith(norm) for line in lines)]
    return (*lines, *tally(f"{norm}XNNPACK has no integer kernel)" for norm in unnamed))


def _delegate(lowered: ExportedProgram) -> str:
    """How many parts of the finished program XNNPACK computes, and how many of its ops: "XNNPACK (2 parts, 11 ops)"."""
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    parts = [module for module in lowered.graph_module.children() if isinstance(module, LoweredBackendModule)]
    nodes = [node for part in parts for node in part.original_module.graph.nodes if node.op == "call_function"]
    taken = sum(_is_compute(node) for node in nodes)
    if not parts:
        return "ExecuTorch's portable kernels: XNNPACK took nothing"
    return f"XNNPACK ({len(parts)} part{'s' if len(parts) != 1 else ''}, {taken} op{'s' if taken != 1 else ''})"


def _is_compute(node: Node) -> bool:
    """Whether a node of an edge program computes something, rather than quantizing or picking from a list."""
    name = _edge_name(node)
    quantizes = "quantize" in name or "choose_qparams" in name
    return not quantizes and not any(word in str(node.target) for word in _NOT_COMPUTE)


def _lower(program: ExportedProgram) -> tuple[ExportedProgram, Any]:
    """(the edge program after partitioning, the finished ExecuTorch program)."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(without_unused(program), partitioner=[XnnpackPartitioner()])
    return edge.exported_program(), edge.to_executorch()


def _left_outside(lowered: ExportedProgram) -> list[str]:
    """One line for each op that XNNPACK did not take."""
    lines = []
    for node in lowered.graph.nodes:
        if node.op != "call_function" or any(word in str(node.target) for word in _NOT_COMPUTE):
            continue
        lines.append(f"{_edge_name(node)} at {where_of(node) or node.name} (XNNPACK does not take it)")
    return lines


def _edge_name(node: Node) -> str:
    """The ATen name of an edge op: "aten.add"."""
    name = op_name(node)
    return name.removeprefix("executorch_exir_dialects_edge__ops_") or str(node.target)


def _check_kernels(finished: Any, program: ExportedProgram) -> None:
    """Refuses the first op of the finished program that the runtime has no kernel for."""
    from executorch.runtime import Runtime

    registry = Runtime.get().operator_registry.operator_names
    for plan in finished.executorch_program.execution_plan:
        for operator in plan.operators:
            full = f"{operator.name}.{operator.overload}" if operator.overload else operator.name
            if full in registry:
                continue
            node = find_op(program, operator.name)
            raise UnsupportedOp(
                operator.name.replace("::", "."), where_of(node), "executorch", "the runtime has no kernel for it"
            )
    if not finished.buffer:
        raise ToolError("executorch: lowering gave an empty program")
