"""A plan written into a model as standard quantize/dequantize ops: what every exporter reads.

The result holds `torch.ops.quantized_decomposed` ops, int8 weight buffers and plain ATen ops, and no class of ours. It
has the form that PT2E made common: each value is quantized once and dequantized anew for each of its readers, so that
a delegate can take op by op.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, fx, nn

from compress.errors import ModelError
from compress.quantize.clamps import clamp_bounds
from compress.quantize.layers import PER_TENSOR, functional_form, integer_weight
from compress.quantize.quant_plan import Activation, QuantPlan
from compress.quantize.rules import LAYERS
from compress.quantize.schemes import precision

# Importing torch.ao.quantization.fx._decomposed is what registers the ops.
Form = tuple[Any, tuple[Any, ...], bool]  # a layer's op, its arguments behind the bias, whether it has a bias
aten = torch.ops.aten
ops = torch.ops.quantized_decomposed


def apply(folded: fx.GraphModule, plan: QuantPlan) -> fx.GraphModule:
    """The quantized copy of a folded model; deterministic, needs no data, and the input is untouched.

    Raises:
        ModelError: the plan names a value or a layer that this model has not, or a layer of other width.
        UnknownName: the plan's scheme is not known.
    """
    _check(folded, plan)
    quantized = copy.deepcopy(folded).eval()
    nodes = {node.name: node for node in quantized.graph.nodes}
    for name, activation in plan.activations.items():
        _insert_pair(quantized.graph, nodes[name], activation)
    forms = {path: _hold_integers(quantized, path, plan) for path in plan.weights}
    for node in nodes.values():
        if node.op == "call_module" and node.target in forms:
            _lower_layer(quantized.graph, node, plan, forms[node.target])
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
    missing = next((name for name in (*plan.activations, *plan.float_ops) if name not in names), None)
    if missing is not None:
        raise ModelError(f"the quantization plan belongs to another model: this one has no node '{missing}'")
    layers = {path: module for path, module in folded.named_modules() if isinstance(module, LAYERS)}
    for path, (axis, scales) in plan.weights.items():
        if path not in layers:
            raise ModelError(f"the quantization plan belongs to another model: this one has no layer '{path}'")
        width = 1 if axis == PER_TENSOR else layers[path].weight.shape[axis]
        if len(scales) != width:
            raise ModelError(
                f"the quantization plan belongs to another model: layer '{path}' has {width} channels "
                f"and the plan {len(scales)} scales"
            )


def _insert_pair(graph: fx.Graph, node: fx.Node, activation: Activation) -> None:
    """Quantize the value of `node` once and dequantize it for each reader, in place."""
    scale, zero_point, qmin, qmax = activation
    readers = list(node.users)
    settings = (scale, zero_point, qmin, qmax, torch.int8)
    with graph.inserting_after(node):
        quantized = graph.call_function(ops.quantize_per_tensor.default, (node, *settings))
    quantized.meta = {key: value for key, value in node.meta.items() if key != "val"}
    for reader in readers:
        with graph.inserting_before(reader):
            back = graph.call_function(ops.dequantize_per_tensor.default, (quantized, *settings))
        back.meta = dict(node.meta)
        reader.replace_input_with(node, back)


def _hold_integers(quantized: fx.GraphModule, path: str, plan: QuantPlan) -> Form:
    """Put integers in the place of a layer, in place, and return the op that it was.

    The integers keep the name `<path>.weight`; `weight_scale` and `weight_zero_point` stand beside them, where the
    weight has a scale per channel, and the float bias where the layer had one.
    """
    layer, (axis, scales) = quantized.get_submodule(path), plan.weights[path]
    weight: Tensor = layer.weight  # type: ignore[assignment]
    scale = torch.tensor(scales, dtype=torch.float32, device=weight.device)
    holder = nn.Module()
    holder.register_buffer("weight", integer_weight(weight, scale, axis, precision(plan.scheme).weight_max))
    if axis != PER_TENSOR:
        holder.register_buffer("weight_scale", scale)
        holder.register_buffer("weight_zero_point", torch.zeros(len(scales), dtype=torch.int64, device=weight.device))
    if isinstance(layer.bias, Tensor):
        holder.register_parameter("bias", nn.Parameter(layer.bias.detach().clone(), requires_grad=False))
    owner, _, leaf = path.rpartition(".")
    setattr(quantized.get_submodule(owner), leaf, holder)
    op, settings = functional_form(layer)
    return op, settings, layer.bias is not None


def _lower_layer(graph: fx.Graph, node: fx.Node, plan: QuantPlan, form: Form) -> None:
    """Turn one call of a layer into its functional op on the dequantized weight, in place; the node keeps its name."""
    path, (op, settings, has_bias) = str(node.target), form
    axis, scales = plan.weights[path]
    weight_max = precision(plan.scheme).weight_max
    bounds = (-weight_max, weight_max, torch.int8)
    with graph.inserting_before(node):
        integers = graph.get_attr(f"{path}.weight")
        if axis == PER_TENSOR:
            weight = graph.call_function(ops.dequantize_per_tensor.default, (integers, scales[0], 0, *bounds))
        else:
            each, zeros = graph.get_attr(f"{path}.weight_scale"), graph.get_attr(f"{path}.weight_zero_point")
            weight = graph.call_function(ops.dequantize_per_channel.default, (integers, each, zeros, axis, *bounds))
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
