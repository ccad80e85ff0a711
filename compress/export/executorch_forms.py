"""Rewriting a program into the forms that XNNPACK takes through ExecuTorch: float16, and 4-bit weights in groups.

XNNPACK has no kernel that takes float values and a stored weight as such. Its 4-bit linear layers round their inputs to
8 bits as they run, which the graph has to spell out; its float16 kernels take values and weights of float16 alike.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch.export import ExportedProgram, export
from torch.fx import Graph, GraphModule, Node

from compress.export.holds import Use
from compress.export.program import DEQUANTIZE_GROUP, has_ranges, op_name, sample_inputs
from compress.export.weights import fold_weights, stored_weights

ops = torch.ops.quantized_decomposed
aten = torch.ops.aten


def is_half(program: ExportedProgram) -> bool:
    """Whether every stored weight is float16 and no value is quantized, so that the whole program can be."""
    weights = stored_weights(program)
    return bool(weights) and all(weight.kind == "float16" for weight in weights) and not has_ranges(program)


def has_groups(program: ExportedProgram) -> bool:
    """Whether a weight is stored in groups."""
    return any(weight.group for weight in stored_weights(program))


def has_scale_per_group(use: Use) -> bool:
    """Whether a layer is a transposed convolution with groups that has scales along its inputs: one for each group."""
    return use.kind == "conv_transpose" and use.weight.kind == "integer" and use.weight.axis == 0


def halved(program: ExportedProgram) -> ExportedProgram:
    """The program in float16, which still takes and gives float32."""
    folded, _ = fold_weights(program)
    module = copy.deepcopy(_module(folded)).half()  # a copy: the program shares its tensors with the model
    for node in module.graph.nodes:
        node.args = tuple(_halved(argument) for argument in node.args)
        node.kwargs = {key: _halved(argument) for key, argument in node.kwargs.items()}
    for node in list(module.graph.nodes):
        if node.op == "placeholder":
            _cast_behind(module.graph, node, torch.float16)
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    for source in output.all_input_nodes:
        with module.graph.inserting_before(output):
            cast = module.graph.call_function(aten._to_copy.default, (source,), {"dtype": torch.float32})
        cast.meta = dict(source.meta)
        output.replace_input_with(source, cast)
    return _exported(module, program)


def with_rounded_inputs(program: ExportedProgram) -> ExportedProgram:
    """The program with the inputs of its layers in groups rounded to 8 bits per row, as XNNPACK rounds them."""
    module = _module(program)
    for node in list(module.graph.nodes):
        if op_name(node) == DEQUANTIZE_GROUP:
            _spell_out_zero_points(module, node)
            for reader in list(node.users):
                _round_input(module.graph, reader)
    return _exported(module, program)


def _module(program: ExportedProgram) -> GraphModule:
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    return module


def _exported(module: GraphModule, program: ExportedProgram) -> ExportedProgram:
    module.graph.lint()
    module.recompile()
    return export(module, sample_inputs(program))


def _halved(argument: Any) -> Any:
    return torch.float16 if argument is torch.float32 else argument


def _cast_behind(graph: Graph, node: Node, dtype: torch.dtype) -> None:
    readers = list(node.users)
    with graph.inserting_after(node):
        cast = graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})
    cast.meta = dict(node.meta)
    for reader in readers:
        reader.replace_input_with(node, cast)


def _spell_out_zero_points(module: GraphModule, node: Node) -> None:
    """Gives a dequantize op the zero points and the range -8..7 by which XNNPACK knows 4-bit weights."""
    codes, scales, _, _, top, *rest = node.args
    name = f"_zero_points_{node.name}"
    held: Any = module
    for part in str(scales.target).split("."):  # type: ignore[union-attr]
        held = getattr(held, part)
    module.register_buffer(name, torch.zeros(held.shape, dtype=torch.int8))
    with module.graph.inserting_before(node):
        zeros = module.graph.get_attr(name)
    node.args = (codes, scales, zeros, -8, top, *rest)


def _round_input(graph: Graph, layer: Node) -> None:
    """Puts the ops in front of a layer that choose a range for each row of its input and round to it."""
    source = layer.args[0]
    assert isinstance(source, Node)
    bounds = (-128, 127, torch.int8)
    with graph.inserting_before(layer):
        chosen = graph.call_function(ops.choose_qparams_per_token_asymmetric.default, (source, torch.int8))
        scale, zero = (graph.call_function(operator.getitem, (chosen, index)) for index in (0, 1))
        codes = graph.call_function(ops.quantize_per_token.default, (source, scale, zero, *bounds))
        back = graph.call_function(ops.dequantize_per_token.default, (codes, scale, zero, *bounds, torch.float32))
    for node in (chosen, scale, zero, codes, back):
        node.meta = {key: value for key, value in layer.meta.items() if key != "val"}
    layer.args = (back, *layer.args[1:])
