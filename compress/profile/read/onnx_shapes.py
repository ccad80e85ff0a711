"""The shape of every tensor of an ONNX model: free sizes put in, arithmetic on shapes worked out, weights left unread.

Exporters write shapes as little programs (Shape, Gather, Concat, ... into a Reshape), which runtimes fold away when they
load the model. The same happens here, so that what is left are the ops that run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.errors import InputError
from compress.profile.read.sizes import free_sizes

# Constants of more values than this are weights: nothing reads them to know a shape.
_MOST_VALUES = 1024
# One round infers shapes as far as it can, then folds what those make known.
_MOST_ROUNDS = 12
# Their value is not known, or not the same at each run.
_NEVER_FOLDED = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Loop", "Scan"}
)
_LAYOUT = frozenset({"DequantizeLinear", "QuantizeLinear"})


def load(path: Path, shapes: Sequence[Sequence[int]], notes: list[str]) -> Any:
    """The model at `path` with the shape of every tensor that can be known, as `onnx` has it; its weights are empty.

    Args:
        path: an .onnx file; files that hold its weights outside need not be there.
        shapes: of its inputs, where it leaves sizes free; by default a free batch size is 1.
        notes: what had to be assumed is added here.

    Raises:
        InputError: a size other than the batch is free, and no shapes are given.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    if not model.graph.node:
        raise ValueError("it has no graph")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    known: dict[str, Any] = {}
    for tensor in model.graph.initializer:
        _keep_small(tensor, path.parent, known)
    _put_in_sizes(model.graph, shapes, notes)
    for _ in range(_MOST_ROUNDS):
        _forget_open_shapes(model.graph)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
        if not _fold(model, known):
            break
    return model


def _keep_small(tensor: Any, folder: Path, known: dict[str, Any]) -> None:
    """Notes the value of a small constant; leaves of a large one only its shape."""
    from onnx import TensorProto, external_data_helper, numpy_helper

    outside = tensor.data_location == TensorProto.EXTERNAL
    if math.prod(tensor.dims) <= _MOST_VALUES:
        if outside:
            try:
                external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            except (OSError, ValueError, RuntimeError):
                return  # the file with the weights is not here; what they are matters only to shapes
            tensor.data_location = TensorProto.DEFAULT
        known[tensor.name] = numpy_helper.to_array(tensor)
    else:
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT


def _put_in_sizes(graph: Any, shapes: Sequence[Sequence[int]], notes: list[str]) -> None:
    """Gives every free size of the model's inputs its value, in place; shapes that follow from one are inferred anew."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {entry.name: entry.type.tensor_type.shape for entry in graph.input if entry.name not in weights}
    named = {
        name: [size.dim_value if size.dim_value > 0 else size.dim_param or f"{name}[{axis}]" for axis, size in enumerate(shape.dim)]
        for name, shape in inputs.items()
    }  # fmt: skip
    found = free_sizes(named, shapes, notes)
    if not found:
        return
    for name, shape in inputs.items():
        for size, what in zip(shape.dim, named[name], strict=True):
            size.dim_value = found.get(what, size.dim_value)


def _forget_open_shapes(graph: Any) -> None:
    """Drops what a file says of shapes that it leaves open, in place: it would stand where they can be inferred."""
    kept = [entry for entry in graph.value_info if all(size.dim_value for size in entry.type.tensor_type.shape.dim)]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for entry in graph.output:
        if any(not size.dim_value for size in entry.type.tensor_type.shape.dim):
            entry.type.tensor_type.ClearField("shape")


def shapes_of(graph: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by name; sizes that are not known are 0."""
    found = {tensor.name: tuple(int(size) for size in tensor.dims) for tensor in graph.initializer}
    for entry in (*graph.value_info, *graph.output, *graph.input):
        kind = entry.type.tensor_type
        if kind.HasField("shape"):
            found[entry.name] = tuple(int(size.dim_value) for size in kind.shape.dim)
    return found


def numbers(graph: Any) -> dict[str, float]:
    """The constants that are a single number, by name."""
    from onnx import numpy_helper

    single = (tensor for tensor in graph.initializer if math.prod(tensor.dims) == 1)
    return {tensor.name: numpy_helper.to_array(tensor).reshape(-1)[0].item() for tensor in single}


def _fold(model: Any, known: dict[str, Any]) -> bool:
    """Replaces the nodes whose small results are known by those results, in place; whether there were any."""
    graph, shapes = model.graph, shapes_of(model.graph)
    kept, folded = [], False
    for node in graph.node:
        values = _value(node, known, shapes, model)
        if node.op_type == "If" and node.input[0] in known:
            kept += _branch(node, bool(known[node.input[0]].any()), graph)
            folded = True
        elif values is None:
            kept.append(node)
        else:
            known |= values
            _hold(graph, values)
            folded = True
    if folded:
        del graph.node[:]
        graph.node.extend(kept)
    return folded


def _hold(graph: Any, values: dict[str, Any]) -> None:
    from onnx import numpy_helper

    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())


def _branch(node: Any, taken: bool, graph: Any) -> list[Any]:
    """The nodes of the branch that an If takes, their results under the If's names."""
    from onnx import helper

    body = next(entry.g for entry in node.attribute if entry.name == ("then_branch" if taken else "else_branch"))
    graph.initializer.extend(body.initializer)
    graph.value_info.extend(body.value_info)
    ends = zip(body.output, node.output, strict=True)
    return [*body.node, *(helper.make_node("Identity", [inner.name], [outer]) for inner, outer in ends)]


def _value(node: Any, known: dict[str, Any], shapes: dict[str, tuple[int, ...]], model: Any) -> dict[str, Any] | None:
    """The results of a node by name where they are small and known already, else None."""
    import numpy as np
    from onnx import numpy_helper

    if node.op_type in ("Shape", "Size"):
        shape = shapes.get(node.input[0])
        if shape is None or 0 in shape:
            return None
        given = {entry.name: entry.i for entry in node.attribute}
        part = shape[given.get("start", 0) : given.get("end", len(shape))]
        return {node.output[0]: np.array(part if node.op_type == "Shape" else math.prod(shape), np.int64)}
    if node.op_type == "Constant":
        tensor = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if tensor is not None:
            small = math.prod(tensor.dims) <= _MOST_VALUES
            return {node.output[0]: numpy_helper.to_array(tensor)} if small else None
    if node.op_type in _NEVER_FOLDED | _LAYOUT or any(name and name not in known for name in node.input):
        return None
    if any(math.prod(shapes.get(name, (1,))) > _MOST_VALUES for name in node.output):
        return None
    if any(entry.HasField("g") for entry in node.attribute):
        return None
    return _evaluated(node, known, model)


def _evaluated(node: Any, known: dict[str, Any], model: Any) -> dict[str, Any] | None:
    """The results of a node by ONNX's reference; None where it has none, or they are large."""
    import numpy as np
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [name for name in dict.fromkeys(node.input) if name]
    graph = helper.make_graph(
        [node], "one", [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(known[name].dtype), None) for name in names],
        [helper.make_value_info(name, helper.make_tensor_type_proto(0, None)) for name in node.output if name],
    )  # fmt: skip
    try:
        one = helper.make_model(graph, opset_imports=model.opset_import)
        results = ReferenceEvaluator(one).run(None, {name: known[name] for name in names})
    except Exception:  # an op that the reference lacks, or cannot do: many unrelated types
        return None
    found = {name: np.asarray(value) for name, value in zip(filter(None, node.output), results, strict=False)}
    return found if all(value.size <= _MOST_VALUES for value in found.values()) else None


__all__ = ["InputError", "load", "shapes_of"]
