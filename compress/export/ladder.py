"""One ONNX file for several widths of a network, chosen as it runs (a ladder; Hou et al. 2021, "Slimmable GANs").

The file has one more input, `rung`: 0 is the narrowest. It holds the widest rung's weights once; a narrower rung reads
the leading part of each, and brings along only what is its own (its norms). So the file is about as large as the widest
rung alone, and each rung computes what its own file would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.errors import ModelError
from compress.export.files import write_whole

RUNG = "rung"
_SHARED = "shared/"


def write_ladder(rungs: Sequence[Path], path: Path) -> None:
    """Write the file that holds all rungs, given as the ONNX files of each alone, from narrow to wide.

    Raises:
        ModelError: the rungs take or give different values, or there are fewer than two.
    """
    models = [onnx.load(str(rung)) for rung in rungs]
    if len(models) < 2:
        raise ModelError("a ladder has at least two rungs; export the one there is as a file of its own")
    faces = {_face(model) for model in models}
    if len(faces) > 1:
        raise ModelError("the rungs of a ladder take and give the same values; these differ in names or shapes")
    write_whole(path, lambda target: onnx.save(_merged(models), str(target)))


def _face(model: onnx.ModelProto) -> tuple[bytes, ...]:
    return tuple(value.SerializeToString() for value in (*model.graph.input, *model.graph.output))


def _merged(models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    widest = models[-1].graph
    whole = {held.name: numpy_helper.to_array(held) for held in widest.initializer}
    branch = _branch(models[-1].graph, len(models) - 1, whole)
    nodes: list[onnx.NodeProto] = []
    for number in reversed(range(len(models) - 1)):
        narrow = _branch(models[number].graph, number, whole)
        nodes = _choice(number, narrow, branch)
        branch = helper.make_graph(nodes, f"from_rung_{number}", [], _renamed_outputs(widest, f"chosen_{number}/"))
    rung = helper.make_tensor_value_info(RUNG, TensorProto.INT64, [])
    renamed = [
        helper.make_node("Identity", [f"chosen_0/{out.name}"], [out.name], f"give_{out.name}") for out in widest.output
    ]
    graph = helper.make_graph(
        [*nodes, *renamed], "ladder", [*widest.input, rung], list(widest.output),
        [numpy_helper.from_array(array, _SHARED + name) for name, array in whole.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=list(models[-1].opset_import), ir_version=models[-1].ir_version)
    made.functions.extend(models[-1].functions)
    onnx.checker.check_model(made)
    return made


def _choice(number: int, narrow: onnx.GraphProto, wider: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that run `narrow` where `number` is the rung asked for, and `wider` otherwise."""
    outputs = [f"chosen_{number}/{value.name.partition('/')[2]}" for value in narrow.output]
    asked = numpy_helper.from_array(np.array(number, np.int64))
    return [
        helper.make_node("Constant", [], [f"number_{number}"], f"number_{number}", value=asked),
        helper.make_node("Equal", [RUNG, f"number_{number}"], [f"is_{number}"], f"is_{number}"),
        helper.make_node(
            "If", [f"is_{number}"], outputs, f"choose_{number}", then_branch=narrow, else_branch=wider
        ),
    ]  # fmt: skip


def _branch(graph: onnx.GraphProto, number: int, whole: Mapping[str, np.ndarray]) -> onnx.GraphProto:
    """A rung as a branch: its values renamed, its weights read from the shared ones where they are part of them."""
    prefix = f"rung_{number}/"
    names = {value.name: value.name for value in graph.input}
    nodes, own = [], []
    for held in graph.initializer:
        array = numpy_helper.to_array(held)
        shared = whole.get(held.name)
        if shared is not None and shared.shape == array.shape and np.array_equal(shared, array):
            names[held.name] = _SHARED + held.name
            continue
        names[held.name] = prefix + held.name
        if shared is not None and _leads(array, shared):
            nodes += _leading(_SHARED + held.name, names[held.name], array.shape)
        else:
            own.append(numpy_helper.from_array(array, names[held.name]))
    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        for position, name in enumerate(node.output):
            names[name] = prefix + name if name else ""
            copy.output[position] = names[name]
        for position, name in enumerate(node.input):
            copy.input[position] = names.get(name, name)
        nodes.append(copy)
    return helper.make_graph(nodes, f"rung_{number}", [], _renamed_outputs(graph, prefix), own)


def _leads(part: np.ndarray, whole: np.ndarray) -> bool:
    """Whether an array is the leading part of another along each axis."""
    if (
        part.ndim != whole.ndim
        or part.dtype != whole.dtype
        or any(a > b for a, b in zip(part.shape, whole.shape, strict=True))
    ):
        return False
    return bool(np.array_equal(whole[tuple(slice(0, length) for length in part.shape)], part))


def _leading(source: str, target: str, shape: tuple[int, ...]) -> list[onnx.NodeProto]:
    """The nodes that cut the leading part of a shared weight; runtimes do it once, when they load the file."""
    zeros, ends = (np.zeros(len(shape), np.int64), np.array(shape, np.int64))
    return [
        helper.make_node("Constant", [], [f"{target}/starts"], value=numpy_helper.from_array(zeros)),
        helper.make_node("Constant", [], [f"{target}/ends"], value=numpy_helper.from_array(ends)),
        helper.make_node("Slice", [source, f"{target}/starts", f"{target}/ends"], [target], f"{target}/lead"),
    ]


def _renamed_outputs(graph: onnx.GraphProto, prefix: str) -> list[onnx.ValueInfoProto]:
    made = []
    for value in graph.output:
        renamed = onnx.ValueInfoProto()
        renamed.CopyFrom(value)
        renamed.name = prefix + value.name
        made.append(renamed)
    return made
