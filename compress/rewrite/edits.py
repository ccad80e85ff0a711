"""The few edits of a graph that all rewrites are made of, and how a layer is named to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.errors import DataError, ModelError

aten = torch.ops.aten
_END = torch.iinfo(torch.int64).max  # how a trace writes a slice to the end


def calls_of(graph: fx.Graph, path: str) -> list[fx.Node]:
    """The nodes that call the module at `path`."""
    return [node for node in graph.nodes if node.op == "call_module" and str(node.target) == path]


def layer_at(graph_module: fx.GraphModule, path: str, kinds: tuple[type[nn.Module], ...]) -> Any:
    """The layer at `path`.

    Raises:
        ModelError: there is none of these kinds.
    """
    try:
        layer = graph_module.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"the plan rewrites layer '{path}', which this model does not have; plan anew") from error
    if not isinstance(layer, kinds):
        raise ModelError(f"the plan rewrites '{path}', which is a {type(layer).__name__} in this model; plan anew")
    return layer


def modules_called(graph_module: fx.GraphModule, kinds: tuple[type[nn.Module], ...]) -> dict[str, Any]:
    """The layers of these kinds that the graph calls, by path, in order."""
    found = {}
    for node in graph_module.graph.nodes:
        layer = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, kinds):
            found[str(node.target)] = layer
    return found


def tied(graph_module: fx.GraphModule, path: str) -> str:
    """Why the module at `path` cannot give way to another: its parameters are read by themselves too; "" if not."""
    read = any(node.op == "get_attr" and str(node.target).startswith(f"{path}.") for node in graph_module.graph.nodes)
    return "its weights are read elsewhere too" if read else ""


def inputs_of(graph_module: fx.GraphModule, batch: Any) -> list[Tensor]:
    """The model's inputs out of a batch: a tensor (N, ...), or a sequence that begins with them.

    Raises:
        DataError: the batch holds fewer tensors than the model takes.
    """
    count = sum(node.op == "placeholder" for node in graph_module.graph.nodes)
    parts = [batch] if isinstance(batch, Tensor) else list(batch)[:count]
    if len(parts) < count:
        raise DataError(f"a batch holds {len(parts)} tensors where the model takes {count}; hand over all its inputs")
    device = next(graph_module.parameters()).device
    return [part.to(device) for part in parts]


def put(graph_module: fx.GraphModule, path: str, layer: nn.Module) -> None:
    """Set the module at `path`, in place of what is there."""
    graph_module.delete_submodule(path)
    graph_module.add_submodule(path, layer)


def emit(before: fx.Node, place: fx.Node, target: Any, *args: Any) -> fx.Node:
    """A new node in front of `before` that calls an op or, by its path, a module; it notes where `place` stands."""
    graph = before.graph
    with graph.inserting_before(before):
        made = graph.call_module(target, args) if isinstance(target, str) else graph.call_function(target, args)
    made.meta = {key: value for key, value in place.meta.items() if key in ("nn_module_stack", "stack_trace")}
    return made


def cropped(before: fx.Node, place: fx.Node, source: fx.Node, axis: int, first: int, last: int) -> fx.Node:
    """The source without its `first` and `last` entries along an axis; itself where both are 0."""
    if not first and not last:
        return source
    return emit(before, place, aten.slice.Tensor, source, axis, first, -last if last else _END)


def padded(
    before: fx.Node, place: fx.Node, source: fx.Node, sides: Sequence[tuple[int, int]]
) -> tuple[fx.Node, tuple[int, ...]]:
    """The source with zeros around it (negative: cropped), and what of it a convolution's own padding can do instead.

    Args:
        before: where new nodes go.
        place: the node that they stand for.
        source: (N, C, *spatial).
        sides: (before, after) for each spatial axis.
    """
    if all(first == last >= 0 for first, last in sides):
        return source, tuple(first for first, _ in sides)
    for axis, (first, last) in enumerate(sides, start=2):
        source = cropped(before, place, source, axis, max(-first, 0), max(-last, 0))
    kept = [max(side, 0) for pair in reversed(sides) for side in pair]  # the op counts from the last axis
    if any(kept):
        source = emit(before, place, aten.constant_pad_nd.default, source, kept)
    return source, (0,) * len(sides)


def parameter(like: Tensor, value: Tensor) -> nn.Parameter:
    """A value computed in float64 as a parameter of the kind of another."""
    return nn.Parameter(value.to(like.dtype).contiguous(), requires_grad=like.requires_grad)


def filled(layer: Any, like: Tensor, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The layer, in eval mode, with these values as its parameters."""
    layer.weight = parameter(like, weight)
    layer.bias = None if bias is None else parameter(like, bias)
    made: nn.Module = layer.eval()
    return made


def sizes(values: Sequence[int]) -> str:
    """A kernel or a stride in words: "3x3"."""
    return "x".join(str(value) for value in values)


def in_words(layer: Any) -> str:
    """A convolution in words: "Conv2d 64>128 3x3 stride 2x2"."""
    stride = f" stride {sizes(layer.stride)}" if max(layer.stride) > 1 else ""
    groups = f" groups {layer.groups}" if layer.groups > 1 else ""
    kernel = sizes(layer.kernel_size)
    return f"{type(layer).__name__} {layer.in_channels}>{layer.out_channels} {kernel}{stride}{groups}"
