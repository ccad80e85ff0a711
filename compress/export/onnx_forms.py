"""Rewriting a program into the forms that onnxruntime fuses into integer kernels."""

from __future__ import annotations

from torch.export import ExportedProgram
from torch.fx import Graph, Node

from compress.export.program import CLAMPS, DEQUANTIZE, QUANTIZE, WEIGHTED, calls, has_ranges, op_name, without_unused
from compress.export.resizes import as_products, averages_less_at_the_end


def rounded_before_clamps(program: ExportedProgram) -> ExportedProgram:
    """The program with layers rounded before their activation too, where only that makes them integer.

    onnxruntime drops an activation between a layer and a quantize op when the op's lowest number is the activation's
    lowest, and computes the layer in integers; where the grid goes on below it (a relu that shares its range with
    values of both signs, in a concatenation) it computes layer and activation in float. Rounded to the very same grid
    before the activation, the numbers behind it are the same, because the activation's ends lie on the grid or are
    rounded to it either way.
    """
    if not any(_grid_behind(node) for node in calls(program)):
        return program
    ready = without_unused(program)
    for node in list(calls(ready)):
        pair = _grid_behind(node)
        if pair is not None:
            _round_before(ready.graph, node, *pair)
    ready.graph.lint()
    ready.graph_module.recompile()
    return ready


def with_averages_as_products(program: ExportedProgram) -> ExportedProgram:
    """The program with average poolings whose size is rounded up as products, where it computes in integers.

    onnxruntime's integer kernel counts whole windows at the edge as well.
    """
    return as_products(program, averages_less_at_the_end) if has_ranges(program) else program


def _grid_behind(node: Node) -> tuple[Node, Node] | None:
    """The quantize and dequantize op behind a layer's activation whose grid goes below the activation, else None."""
    layer = node.all_input_nodes[0] if node.all_input_nodes else None
    if op_name(node) not in CLAMPS or layer is None or op_name(layer) not in WEIGHTED or len(layer.users) > 1:
        return None
    readers = [user for user in node.users if op_name(user) == QUANTIZE]
    if len(readers) != 1 or len(node.users) != 1:
        return None
    _, _, zero_point, lowest, *_ = readers[0].args
    undo = [user for user in readers[0].users if op_name(user) == DEQUANTIZE]
    return (readers[0], undo[0]) if undo and zero_point != lowest else None


def _round_before(graph: Graph, clamp: Node, quantize: Node, dequantize: Node) -> None:
    """Put a copy of the pair between a layer and its activation, in place."""
    layer = clamp.all_input_nodes[0]
    with graph.inserting_before(clamp):
        rounded = graph.call_function(quantize.target, (layer, *quantize.args[1:]), dict(quantize.kwargs))  # type: ignore[arg-type]
        restored = graph.call_function(dequantize.target, (rounded, *dequantize.args[1:]), dict(dequantize.kwargs))  # type: ignore[arg-type]
    rounded.meta, restored.meta = dict(quantize.meta), dict(dequantize.meta)
    clamp.replace_input_with(layer, restored)
