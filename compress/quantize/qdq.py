"""A plan written into a model as standard quantize/dequantize ops: what every exporter reads.

The result holds `torch.ops.quantized_decomposed` ops, weight buffers of integers, float16 or palette indices and plain
ATen ops, and no class of ours. It has the form that PT2E made common: each value is quantized once and dequantized anew
for each of its readers, so that a delegate can take op by op.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from torch import fx

from compress.errors import ModelError
from compress.quantize.clamps import clamp_bounds
from compress.quantize.quant_plan import Activation, QuantPlan
from compress.quantize.schemes import precision
from compress.quantize.stored import Form, check_weights, hold, stored_layers, weight_node

# Importing torch.ao.quantization.fx._decomposed is what registers the ops.
aten = torch.ops.aten
ops = torch.ops.quantized_decomposed


def apply(folded: fx.GraphModule, plan: QuantPlan) -> fx.GraphModule:
    """The quantized copy of a folded model; deterministic, needs no data, and the input is untouched.

    Raises:
        ModelError: the plan names a value or a layer that this model has not, or a layer of other width.
        UnknownName: a scheme of the plan is not known.
    """
    _check(folded, plan)
    quantized = copy.deepcopy(folded).eval()
    nodes = {node.name: node for node in quantized.graph.nodes}
    codes = {name: _insert_pair(quantized.graph, nodes[name], grid) for name, grid in plan.activations.items()}
    for reader, reads in plan.reads.items():
        for name, grid in reads.items():
            _insert_second_pair(quantized.graph, nodes[reader], codes[name], grid)
    paths = stored_layers(folded, plan)
    shapes = {path: tuple(quantized.get_submodule(path).weight.shape) for path in paths}  # type: ignore[union-attr, arg-type]
    forms = {path: hold(quantized, path, plan) for path in paths}
    for node in nodes.values():
        if node.op == "call_module" and node.target in forms:
            path = str(node.target)
            _lower_layer(quantized.graph, node, plan, forms[path], shapes[path])
        elif node.target is aten.mean.dim:
            _lower_mean(quantized.graph, node, plan)
        else:
            _lower_clamp(node)
    quantized.graph.lint()
    quantized.recompile()
    return quantized


def _check(folded: fx.GraphModule, plan: QuantPlan) -> None:
    """Raise ModelError at the first name of the plan that the model does not bear out."""
    precision(plan.scheme)
    names = {node.name for node in folded.graph.nodes}
    missing = next((name for name in (*plan.activations, *plan.float_ops, *plan.reads) if name not in names), None)
    if missing is not None:
        raise ModelError(f"the quantization plan belongs to another model: this one has no node '{missing}'")
    check_weights(folded, plan)


def _insert_pair(graph: fx.Graph, node: fx.Node, activation: Activation) -> fx.Node:
    """Quantize the value of `node` once and dequantize it for each reader, in place; the quantize node."""
    readers, settings = list(node.users), _settings(activation)
    with graph.inserting_after(node):
        quantized = graph.call_function(ops.quantize_per_tensor.default, (node, *settings))
    quantized.meta = {key: value for key, value in node.meta.items() if key != "val"}
    for reader in readers:
        with graph.inserting_before(reader):
            back = graph.call_function(ops.dequantize_per_tensor.default, (quantized, *settings))
        back.meta = dict(node.meta)
        reader.replace_input_with(node, back)
    return quantized


def _insert_second_pair(graph: fx.Graph, reader: fx.Node, codes: fx.Node, activation: Activation) -> None:
    """Round what `reader` takes from `codes` once more, to the reader's own grid, in place."""
    source = next(node for node in reader.all_input_nodes if node.args and node.args[0] is codes)
    settings = _settings(activation)
    with graph.inserting_before(reader):
        again = graph.call_function(ops.quantize_per_tensor.default, (source, *settings))
        back = graph.call_function(ops.dequantize_per_tensor.default, (again, *settings))
    again.meta = {key: value for key, value in source.meta.items() if key != "val"}
    back.meta = dict(source.meta)
    reader.replace_input_with(source, back)


def _settings(activation: Activation) -> tuple[Any, ...]:
    """The arguments of a quantize op behind its input."""
    scale, zero_point, qmin, qmax = activation
    return scale, zero_point, qmin, qmax, torch.int16 if qmax > 127 else torch.int8


def _lower_layer(graph: fx.Graph, node: fx.Node, plan: QuantPlan, form: Form, shape: tuple[int, ...]) -> None:
    """Turn one call of a layer into its functional op on the restored weight, in place; the node keeps its name."""
    path, (op, settings, has_bias) = str(node.target), form
    with graph.inserting_before(node):
        weight = weight_node(graph, path, plan, shape)
        bias = graph.get_attr(f"{path}.bias") if has_bias else None
    node.op, node.target = "call_function", op
    node.args = (node.args[0], weight, bias, *settings)


def _lower_clamp(node: fx.Node) -> None:
    """Write a clamp that int8 kernels absorb as the op they know it by, in place: relu or hardtanh."""
    if node.target not in (aten.clamp.default, aten.clip.default, aten.relu6.default):
        return
    low, high = clamp_bounds(node) or (None, None)
    if low == 0.0 and high is None:
        node.target, node.args, node.kwargs = aten.relu.default, (node.args[0],), {}
    elif low is not None and high is not None:
        node.target, node.args, node.kwargs = aten.hardtanh.default, (node.args[0], low, high), {}


def _lower_mean(graph: fx.Graph, node: fx.Node, plan: QuantPlan) -> None:
    """Write a mean over height and width as a pooling to one pixel, then flattened, in place.

    XNNPACK takes the mean of images only if it keeps both axes; the numbers are the same.
    """
    source, axes, *rest = _arguments(node)
    value = source.meta.get("val")
    rank = 0 if value is None else value.dim()
    is_pooling = rank == 4 and not node.kwargs and not any(rest) and {axis % rank for axis in axes or ()} == {2, 3}
    if not is_pooling or node.name not in plan.activations:
        return
    with graph.inserting_before(node):
        pooled = graph.call_function(aten.mean.dim, (source, [2, 3], True))
    node.target, node.args = aten.flatten.using_ints, (pooled, 1)
    _insert_pair(graph, pooled, plan.activations[node.name])


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return node.args
