"""A copy of an ExecuTorch program (.pte) that hands back every tensor inside it, XNNPACK's own included.

ExecuTorch can log intermediate tensors only of ops outside a delegate, and XNNPACK keeps none. But both the program and
XNNPACK's graphs inside it are flatbuffers whose schemas come with ExecuTorch. So the file itself is edited: each value
of an XNNPACK graph is marked as an external output and becomes one more argument of the delegate call, and every tensor
of the program gets memory of its own, so that none is overwritten before it is read.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ALIGNMENT_BYTES = 64
_SLACK_BYTES = 128  # XNNPACK may read past the end of a tensor (XNN_EXTRA_BYTES)
_NONE = 2**32 - 1  # XNN_INVALID_VALUE_ID
_EXTERNAL_OUTPUT = 2  # XNN_VALUE_FLAG_EXTERNAL_OUTPUT
_BYTES_OF = {"xnn_datatype_fp32": ("FLOAT", 4), "xnn_datatype_fp16": ("HALF", 2),
             "xnn_datatype_qint8": ("CHAR", 1), "xnn_datatype_quint8": ("BYTE", 1)}  # fmt: skip
_ALIASES = ("executorch_prim::et_view",)  # makes a view when it runs: it has no memory, and nothing new in it


@dataclass(slots=True)
class Exposed:
    """A tensor that the copy hands back: the op that made it, what that op read, and what its integer codes mean."""

    name: str
    op: str
    reads: tuple[str, ...]
    position: int  # in execution order
    scale: float | None = None
    zero_point: int = 0


@dataclass(slots=True)
class Copy:
    """The edited program, the names of its inputs, and what each of its outputs is (None where that is not known)."""

    content: bytes
    inputs: list[str]
    outputs: list[Exposed | None]


def exposed(content: bytes) -> Copy:
    """A copy of a program in which every tensor computed on the way is an output of its `forward`."""
    from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary

    file = deserialize_pte_binary(content)
    plan = next(plan for plan in file.program.execution_plan if plan.name == "forward")
    found: dict[int, Exposed] = {}  # value index -> what it is
    alias: dict[int, int] = {}
    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if type(call).__name__ == "KernelCall":
                _expose_kernel(plan, call, found, alias)
            elif type(call).__name__ == "DelegateCall":
                _expose_delegate(file.program, plan, call, found, alias)
    _spread_memory(plan)
    plan.outputs = list(dict.fromkeys([*plan.outputs, *found]))
    data = bytes(serialize_pte_binary(file, extract_delegate_segments=True))
    return Copy(data, [_name(index, alias) for index in plan.inputs], [found.get(index) for index in plan.outputs])


def _name(index: int, alias: dict[int, int]) -> str:
    return f"value {alias.get(index, index)}"


def _is_tensor(plan: Any, index: int) -> bool:
    return type(plan.values[index].val).__name__ == "Tensor"


def _expose_kernel(plan: Any, call: Any, found: dict[int, Exposed], alias: dict[int, int]) -> None:
    """Notes the result of an op outside any delegate: its last argument, in ExecuTorch's calling convention."""
    operator = plan.operators[call.op_index]
    result = call.args[-1]
    lists = [plan.values[i].val.items for i in call.args if type(plan.values[i].val).__name__.endswith("TensorList")]
    read = [index for index in (*call.args, *(i for items in lists for i in items)) if index >= 0]
    read = [index for index in dict.fromkeys(read) if index != result and _is_tensor(plan, index)]
    if operator.name in _ALIASES and read:
        alias[result] = alias.get(read[0], read[0])
        return
    results = [result] if _is_tensor(plan, result) else list(getattr(plan.values[result].val, "items", []))
    for index in results:
        if _is_tensor(plan, index) and plan.values[index].val.allocation_info is not None:
            reads = tuple(_name(i, alias) for i in read if i not in results)
            found[index] = Exposed(_name(index, alias), operator.name.replace("::", "."), reads, len(found))


def _expose_delegate(program: Any, plan: Any, call: Any, found: dict[int, Exposed], alias: dict[int, int]) -> None:
    """Marks every value of an XNNPACK graph as an output, in place; of another delegate nothing is known inside."""
    delegate = plan.delegates[call.delegate_index]
    if delegate.id != "XnnpackBackend":
        return
    held = program.backend_delegate_data[delegate.processed.index]
    graph = XnnGraph(bytes(held.data))
    names: dict[int, str] = {}
    for value, tensor in graph.tensors.items():
        if tensor["external_id"] != _NONE:
            names[value] = _name(call.args[tensor["external_id"]], alias)
    for kind, node in graph.nodes():
        value = node.get("output_id", node.get("output_value_id", _NONE))
        tensor = graph.tensors.get(value)
        if tensor is None or tensor["datatype"] not in _BYTES_OF:
            continue
        if tensor["external_id"] == _NONE:
            index = _new_tensor(plan, tensor)
            graph.make_output(value, len(call.args))
            call.args.append(index)
            names[value] = _name(index, alias)
        reads = tuple(names[read] for read in graph.reads(kind, node) if read in names)
        scale, zero_point = graph.scale_of(value)
        index = call.args[tensor["external_id"]]
        found[index] = Exposed(names[value], kind, reads, len(found), scale, zero_point)
    held.data = graph.to_bytes()


def _new_tensor(plan: Any, tensor: dict[str, Any]) -> int:
    """The index of a new tensor of the program that holds a value of an XNNPACK graph."""
    from executorch.exir import schema
    from executorch.exir.scalar_type import ScalarType

    kind, _ = _BYTES_OF[tensor["datatype"]]
    dims = [int(size) for size in tensor["dims"]]
    plan.values.append(schema.EValue(schema.Tensor(
        scalar_type=ScalarType[kind], storage_offset=0, sizes=dims, dim_order=list(range(len(dims))),
        requires_grad=False, layout=0, data_buffer_idx=0, allocation_info=schema.AllocationDetails(1, 0, 0),
        shape_dynamism=schema.TensorShapeDynamism.STATIC,
    )))  # fmt: skip
    return len(plan.values) - 1


def _spread_memory(plan: Any) -> None:
    """Gives each planned tensor memory that no other shares, in place: the planner reuses it as soon as it can."""
    ends: dict[int, int] = {}
    for entry in plan.values:
        tensor = entry.val
        if type(tensor).__name__ != "Tensor" or tensor.allocation_info is None:
            continue
        place = tensor.allocation_info
        start = ends.get(place.memory_id, 0)
        place.memory_offset_low, place.memory_offset_high = start % 2**32, start // 2**32
        count = 8 * max(1, _product(tensor.sizes)) + _SLACK_BYTES  # 8 bytes: the widest element there is
        ends[place.memory_id] = -(-(start + count) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    sizes = plan.non_const_buffer_sizes
    sizes.extend([0] * (max(ends, default=0) + 1 - len(sizes)))
    for memory, end in ends.items():
        sizes[memory] = max(sizes[memory], end)


def _product(sizes: list[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


class XnnGraph:
    """An XNNPACK payload as plain data: `tensors` by value id (images with channels last), nodes in execution order."""

    def __init__(self, payload: bytes) -> None:
        from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader

        header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
        start, end = header.flatbuffer_offset, header.flatbuffer_offset + header.flatbuffer_size
        self._graph = _to_json(payload[start:end])
        begin = header.constant_data_offset
        self._constants = payload[begin : begin + header.constant_data_size]
        self._values: dict[int, dict[str, Any]] = {}
        for entry in self._graph["xvalues"]:
            value = entry["xvalue_union"]
            self._values[(value.get("tensor_value") or value)["id_out"]] = value
        self.tensors = {index: value.get("tensor_value") or value for index, value in self._values.items()}

    def nodes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields (kind, fields) of each node: ("XNNConv2d", {"input1_id": 3, ...})."""
        for node in self._graph["xnodes"]:
            yield node["xnode_union_type"], node["xnode_union"]

    def clamped(self) -> list[bool]:
        """Whether each node, in execution order, ends in a clamp of what it gives."""
        return ["output_min_max" in node for node in self._graph["xnodes"]]

    def reads(self, kind: str, node: dict[str, Any]) -> list[int]:
        """The values a node reads that are computed at run time."""
        keys = [key for key in node if key.endswith("_id") and not key.startswith("output")]
        if kind.startswith("XNNConcatenate"):  # it has fields for five inputs, whatever it joins
            keys = keys[: int(kind.removeprefix("XNNConcatenate"))]
        ids = [node[key] for key in keys]
        return [i for i in ids if i in self.tensors and not self.tensors[i]["constant_buffer_idx"]]

    def scale_of(self, value: int) -> tuple[float | None, int]:
        """(scale, zero point) of a value's integer codes; (None, 0) for floats."""
        given = self._values[value].get("quant_params") or {}
        return (given["scale"], given.get("zero_point", 0)) if isinstance(given.get("scale"), float) else (None, 0)

    def make_output(self, value: int, external_id: int) -> None:
        """Marks a value as the graph's external output number `external_id`."""
        tensor = self.tensors[value]
        tensor["external_id"] = external_id
        tensor["flags"] |= _EXTERNAL_OUTPUT
        self._graph["output_ids"].append(value)
        self._graph["num_externs"] = max(self._graph["num_externs"], external_id + 1)

    def to_bytes(self) -> bytes:
        """The payload again."""
        from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import CONSTANT_TENSOR_ALIGNMENT as align
        from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader

        flat = _from_json(self._graph)
        start = -(-XNNHeader.EXPECTED_LENGTH // align) * align
        begin = start + -(-len(flat) // align) * align
        header = XNNHeader(start, len(flat), begin, len(self._constants)).to_bytes()
        return header.ljust(start, b"\0") + flat.ljust(begin - start, b"\0") + self._constants


def _flatc(folder: Path, *arguments: str) -> None:
    """Runs the flatbuffer compiler that ExecuTorch carries, on XNNPACK's schema, in `folder`."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _get_flatc_path

    (folder / "schema.fbs").write_bytes(_get_schema_bytes())
    subprocess.run([_get_flatc_path(), "-o", str(folder), *arguments], check=True, capture_output=True)


def _to_json(flat: bytes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "graph.bin").write_bytes(flat)
        _flatc(folder, "--json", "--strict-json", "--defaults-json", "--raw-binary",
               str(folder / "schema.fbs"), "--", str(folder / "graph.bin"))  # fmt: skip
        text = (folder / "graph.json").read_text()
    found: dict[str, Any] = json.loads(re.sub(r"(?<=: )([+-]?)inf\b", r"\1Infinity", text).replace("+Inf", "Inf"))
    return found


def _from_json(graph: dict[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = re.sub(r"(?<=: )(-?)Infinity\b", r'"\1inf"', json.dumps(graph))
        (folder / "graph.json").write_text(text)
        _flatc(folder, "--binary", str(folder / "schema.fbs"), str(folder / "graph.json"))
        return (folder / "graph.bin").read_bytes()
