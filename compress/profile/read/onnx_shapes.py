"""The shape of every tensor of an ONNX model: free sizes put in, arithmetic on shapes worked out, weights left unread.

Exporters write shapes as little programs (Shape, Gather, Concat, ... into a Reshape), which runtimes fold away when
they load the model. The same happens here, so that what is left are the ops that run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.profile.read.sizes import free_sizes

Shape = tuple[int, ...]
# Constants of more values than this are weights: nothing reads them to know a shape.
_MOST_VALUES = 1024
# What differs from run to run, has no value yet, or says how values are stored.
_NEVER_FOLDED = frozenset(
    "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Multinomial Bernoulli Loop Scan If "
    "QuantizeLinear DequantizeLinear".split()
)


@dataclass(slots=True)
class Settled:
    """A model as its runtime has it once it is loaded.

    `nodes` are those that are left, in their order; `shapes` has the shape of each tensor that has a fixed one,
    `weights` the names of those known beforehand, `values` what small ones of them hold.
    """

    opset: list[Any]
    nodes: list[Any] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    weights: set[str] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)

    def number(self, name: str) -> float | None:
        """What a constant of one value holds; None for any other tensor."""
        value = self.values.get(name)
        return value.reshape(-1)[0].item() if value is not None and value.size == 1 else None


def settled(path: Path, shapes: Sequence[Sequence[int]], notes: list[str]) -> Settled:
    """The model at `path` as its runtime has it once it is loaded.

    Args:
        path: an .onnx file; files that hold its weights outside need not be there.
        shapes: of its inputs, where it leaves sizes free; by default a free batch size is 1.
        notes: what had to be assumed is added here.

    Raises:
        InputError: a size other than the batch is free, and no shapes are given.
        ValueError: there is no graph in the file.
    """
    import onnx
    from onnx import inliner

    model = onnx.load(str(path), load_external_data=False)
    if not model.graph.node:
        raise ValueError("it has no graph")
    if model.functions:
        model = inliner.inline_local_functions(model)
    found = Settled(list(model.opset_import))
    _put_in_sizes(model.graph, shapes, notes)
    for entry in (*model.graph.value_info, *model.graph.output, *model.graph.input):
        found.types[entry.name] = entry.type
        _note_shape(found, entry.name)
    _hold(found, model.graph.initializer, path.parent)
    _walk(found, model.graph.node, path.parent)
    return found


def _put_in_sizes(graph: Any, shapes: Sequence[Sequence[int]], notes: list[str]) -> None:
    """Gives every free size of the model's inputs its value, in place."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {entry.name: entry.type.tensor_type.shape.dim for entry in graph.input if entry.name not in weights}
    named = {
        name: [size.dim_value or size.dim_param or f"{name}[{axis}]" for axis, size in enumerate(sizes)]
        for name, sizes in inputs.items()
    }
    found = free_sizes(named, shapes, notes)
    for name, sizes in inputs.items():
        for size, what in zip(sizes, named[name], strict=True):
            size.dim_value = found.get(what, size.dim_value)


def _note_shape(found: Settled, name: str) -> None:
    """Notes a tensor's shape from its type, where all of it is fixed."""
    kind = found.types[name].tensor_type
    if kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim):
        found.shapes[name] = tuple(int(size.dim_value) for size in kind.shape.dim)


def _hold(found: Settled, tensors: Iterable[Any], folder: Path) -> None:
    """Notes constants: the shape of each, the value of a small one."""
    from onnx import helper

    for tensor in tensors:
        found.weights.add(tensor.name)
        found.shapes[tensor.name] = tuple(int(size) for size in tensor.dims)
        found.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        value = _small_value(tensor, folder)
        if value is not None:
            found.values[tensor.name] = value


def _small_value(tensor: Any, folder: Path) -> Any:
    """What a small constant holds; None for a large one, and where the file that holds it is not here."""
    from onnx import numpy_helper

    if math.prod(tensor.dims) > _MOST_VALUES:
        return None
    try:
        return numpy_helper.to_array(tensor, str(folder))
    except Exception:  # no such file, or 4-bit codes that numpy has no type for: many unrelated types
        return None


def _walk(found: Settled, nodes: Iterable[Any], folder: Path) -> None:
    """Adds the nodes that are left, the shapes of what they give, and the values of what is known beforehand."""
    for node in nodes:
        taken = found.number(node.input[0]) if node.op_type == "If" else None
        if taken is not None:
            _walk_branch(found, node, bool(taken), folder)
            continue
        constant = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if node.op_type == "Constant" and constant is not None:
            constant.name = node.output[0]
            _hold(found, [constant], folder)
            continue
        values = _value(found, node)
        if values is not None:
            from onnx import numpy_helper

            _hold(found, [numpy_helper.from_array(value, name) for name, value in values.items()], folder)
            continue
        _infer(found, node)
        found.nodes.append(node)


def _walk_branch(found: Settled, node: Any, taken: bool, folder: Path) -> None:
    """Adds the branch that an If takes, its results under the If's names."""
    from onnx import helper

    body = next(entry.g for entry in node.attribute if entry.name == ("then_branch" if taken else "else_branch"))
    _hold(found, body.initializer, folder)
    ends = zip(body.output, node.output, strict=True)
    ends_named = [helper.make_node("Identity", [inner.name], [outer]) for inner, outer in ends]
    _walk(found, [*body.node, *ends_named], folder)


def _infer(found: Settled, node: Any) -> None:
    """Notes the types of what a node gives; what the file itself says stands where they cannot be inferred."""
    from onnx import defs, numpy_helper, shape_inference

    version = next((each.version for each in found.opset if each.domain == node.domain), 1)
    fed = [name for name in dict.fromkeys(node.input) if name]
    try:
        given = shape_inference.infer_node_outputs(
            defs.get_schema(node.op_type, version, node.domain),
            node,
            {name: found.types[name] for name in fed},
            {name: numpy_helper.from_array(found.values[name], name) for name in fed if name in found.values},
            opset_imports=found.opset,
        )
    except Exception:  # another domain's op, or one that what it is given does not fit: many unrelated types
        return
    for name, kind in given.items():
        before = found.shapes.get(name)
        found.types[name] = kind
        _note_shape(found, name)
        if name not in found.shapes and before is not None:
            found.shapes[name] = before


def _value(found: Settled, node: Any) -> dict[str, Any] | None:
    """The results of a node by name where they are small and known already, else None."""
    import numpy as np

    if node.op_type in ("Shape", "Size"):
        shape = found.shapes.get(node.input[0])
        if shape is None:
            return None
        given = {entry.name: entry.i for entry in node.attribute}
        part = shape[given.get("start", 0) : given.get("end", len(shape))]
        return {node.output[0]: np.array(part if node.op_type == "Shape" else math.prod(shape), np.int64)}
    if node.op_type in _NEVER_FOLDED or any(name and name not in found.values for name in node.input):
        return None
    return _evaluated(found, node)


def _evaluated(found: Settled, node: Any) -> dict[str, Any] | None:
    """The results of a node by ONNX's reference; None where it has none, or they are large."""
    import numpy as np
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [name for name in dict.fromkeys(node.input) if name]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_value_info(name, found.types[name]) for name in names],
        [helper.make_value_info(name, helper.make_tensor_type_proto(0, None)) for name in node.output if name],
    )
    try:
        one = helper.make_model(graph, opset_imports=found.opset)
        results = ReferenceEvaluator(one).run(None, {name: found.values[name] for name in names})
    except Exception:  # an op that the reference lacks, or cannot do: many unrelated types
        return None
    given = {name: np.asarray(value) for name, value in zip(filter(None, node.output), results, strict=False)}
    return given if all(value.size <= _MOST_VALUES for value in given.values()) else None
