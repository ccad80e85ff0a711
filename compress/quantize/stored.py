"""A layer's weight in its stored form, and the standard ops that make it float again: what the final graph holds.

    integers, a scale per channel   dequantize_per_channel or dequantize_per_tensor (quantized_decomposed)
    integers in groups              dequantize_per_channel_group
    float16                         _to_copy to float32
    a palette                       gather from the tables, then view as the weight

The stored tensor keeps the name `<path>.weight`; `weight_scale`, `weight_zero_point` and `weight_tables` stand beside
it where the form has them, and the float bias where the layer had one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, fx, nn

from compress.errors import ModelError
from compress.graph.layers import LAYERS
from compress.quantize.layers import PER_TENSOR, functional_form, integer_weight
from compress.quantize.palette import table_indices
from compress.quantize.quant_plan import QuantPlan
from compress.quantize.schemes import precision

# Importing torch.ao.quantization.fx._decomposed is what registers the ops.
Form = tuple[Any, tuple[Any, ...], bool]  # a layer's op, its arguments behind the bias, whether it has a bias
aten = torch.ops.aten
ops = torch.ops.quantized_decomposed


def stored_layers(folded: fx.GraphModule, plan: QuantPlan) -> list[str]:
    """The paths of the layers whose weight is stored in another form than float32."""
    layers = [path for path, module in folded.named_modules() if isinstance(module, LAYERS)]
    halves = [path for path in layers if plan.scheme_of(path) == "float16"]
    return list(dict.fromkeys((*plan.weights, *plan.codebooks, *halves)))


def check_weights(folded: fx.GraphModule, plan: QuantPlan) -> None:
    """Raise ModelError at the first weight of the plan that the model does not bear out."""
    layers = {path: module for path, module in folded.named_modules() if isinstance(module, LAYERS)}
    for path in (*plan.weights, *plan.codebooks, *plan.schemes):
        precision(plan.scheme_of(path))
        if path not in layers:
            raise ModelError(f"the quantization plan belongs to another model: this one has no layer '{path}'")
    for path, (axis, scales) in plan.weights.items():
        _check_scales(path, layers[path], axis, len(scales), plan.groups.get(path, 0))
    for path, (axis, tables) in plan.codebooks.items():
        width: int = layers[path].weight.shape[0]  # type: ignore[union-attr, assignment]
        if axis not in (0, PER_TENSOR) or width % len(tables) or (axis == PER_TENSOR and len(tables) > 1):
            raise ModelError(
                f"layer '{path}' cannot have {len(tables)} tables along axis {axis}; one for all, or along axis 0 as "
                f"many as divide its {width} channels"
            )


def _check_scales(path: str, layer: Any, axis: int, count: int, group: int) -> None:
    shape = layer.weight.shape
    if group:
        if not isinstance(layer, nn.Linear) or shape[1] % group or axis != 1:
            raise ModelError(f"layer '{path}' cannot have groups of {group}: they are for inputs of linear layers")
        width, what = shape.numel() // group, "groups"
    else:
        width, what = (1 if axis == PER_TENSOR else shape[axis]), "channels"
    if count != width:
        raise ModelError(
            f"the quantization plan belongs to another model: layer '{path}' has {width} {what} "
            f"and the plan {count} scales"
        )


def hold(quantized: fx.GraphModule, path: str, plan: QuantPlan) -> Form:
    """Put the stored form in the place of a layer, in place, and return the op that the layer was."""
    layer: Any = quantized.get_submodule(path)
    holder = nn.Module()
    if path in plan.codebooks:
        _hold_palette(holder, layer.weight, torch.tensor(plan.codebooks[path][1], device=layer.weight.device))
    elif path in plan.weights:
        _hold_integers(holder, layer.weight, path, plan)
    else:
        holder.register_buffer("weight", layer.weight.detach().half())
    if isinstance(layer.bias, Tensor):
        holder.register_parameter("bias", nn.Parameter(layer.bias.detach().clone(), requires_grad=False))
    owner, _, leaf = path.rpartition(".")
    setattr(quantized.get_submodule(owner), leaf, holder)
    op, settings = functional_form(layer)
    return op, settings, layer.bias is not None


def _hold_integers(holder: nn.Module, weight: Tensor, path: str, plan: QuantPlan) -> None:
    axis, scales = plan.weights[path]
    group, top = plan.groups.get(path, 0), precision(plan.scheme_of(path)).weight_max
    scale = torch.tensor(scales, dtype=torch.float32, device=weight.device)
    holder.register_buffer("weight", integer_weight(weight, scale, axis, top, group))
    if group:
        holder.register_buffer("weight_scale", scale.reshape(len(weight), -1))
    elif axis != PER_TENSOR:
        holder.register_buffer("weight_scale", scale)
        holder.register_buffer("weight_zero_point", torch.zeros(len(scales), dtype=torch.int64, device=weight.device))


def _hold_palette(holder: nn.Module, weight: Tensor, tables: Tensor) -> None:
    indices = table_indices(weight, tables).to(torch.uint8)
    holder.register_buffer("weight", indices.reshape(len(tables), -1))
    holder.register_buffer("weight_tables", tables)


def weight_node(graph: fx.Graph, path: str, plan: QuantPlan, shape: tuple[int, ...]) -> fx.Node:
    """The ops that turn the stored weight of a layer into float32, at the graph's insertion point."""
    held = graph.get_attr(f"{path}.weight")
    if path in plan.codebooks:
        indices = graph.call_function(aten._to_copy.default, (held,), {"dtype": torch.int64})
        found = graph.call_function(aten.gather.default, (graph.get_attr(f"{path}.weight_tables"), 1, indices))
        return graph.call_function(aten.view.default, (found, list(shape)))
    if path not in plan.weights:
        return graph.call_function(aten._to_copy.default, (held,), {"dtype": torch.float32})
    (axis, scales), top = plan.weights[path], precision(plan.scheme_of(path)).weight_max
    bounds = (-top, top, torch.int8)
    if path in plan.groups:
        scale = graph.get_attr(f"{path}.weight_scale")
        settings = (*bounds, plan.groups[path], torch.float32)
        return graph.call_function(ops.dequantize_per_channel_group.default, (held, scale, None, *settings))
    if axis == PER_TENSOR:
        return graph.call_function(ops.dequantize_per_tensor.default, (held, scales[0], 0, *bounds))
    each, zeros = graph.get_attr(f"{path}.weight_scale"), graph.get_attr(f"{path}.weight_zero_point")
    return graph.call_function(ops.dequantize_per_channel.default, (held, each, zeros, axis, *bounds))
