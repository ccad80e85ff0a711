"""Write an ExecuTorch program (.pte) lowered to XNNPACK, with every op that stays outside the delegate named."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from compress.errors import ToolError, UnsupportedOp
from compress.export.program import float_compute_ops, op_name, tally, user_inputs, where_of, without_unused
from compress.export.refusal import find_op

SUFFIX = ".pte"
_NOT_COMPUTE = ("getitem", "executorch_call_delegate", "alloc")


def write(program: ExportedProgram, scheme: str, path: Path) -> dict[str, Any]:
    """Writes the file and returns the Artifact fields that ExecuTorch knows.

    Raises:
        UnsupportedOp: an op is in no kernel library of the runtime.
    """
    lowered, finished = _lower(program)
    _check_kernels(finished, program)
    path.write_bytes(bytes(finished.buffer))
    outside = tally(_left_outside(lowered))
    delegates = sum("call_delegate" in str(node.target) for node in lowered.graph.nodes if node.op == "call_function")
    planned = float_compute_ops(program) if scheme == "w8a8" else ()
    inputs = user_inputs(program)
    return {
        "input_names": tuple(name for name, _ in inputs),
        "output_names": tuple(f"output_{i}" for i in range(len(lowered.graph_signature.user_outputs))),
        "input_shapes": tuple(shape for _, shape in inputs),
        "delegate": f"XNNPACK ({delegates} part{'s' if delegates != 1 else ''})",
        "float_ops": (*planned, *outside) if scheme == "w8a8" else (),
        "tool_versions": {name: importlib.metadata.version(name) for name in ("torch", "executorch")},
        "notes": () if scheme == "w8a8" else tuple(f"on the portable kernels: {line}" for line in outside),
    }


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
