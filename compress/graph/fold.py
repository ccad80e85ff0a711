"""Batch normalization folded into the layer before it, and dropout removed: the form that int8 runtimes expect.

In eval mode BN(y) = gamma * (y - mean) / sqrt(var + eps) + beta is an affine map per channel, so it can be written
into the weight and bias of the convolution or linear layer that made y (Jacob et al., 2018, section 3.2). The
arithmetic runs in float64: the fold is exact up to one float32 rounding of every weight.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.graph.factors import fold_factors
from compress.graph.readers import tensor_readers

log = logging.getLogger(__name__)
aten = torch.ops.aten

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_DROPOUT_LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPOUT_OPS = (
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
)


def fold_batch_norms(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A new module without dropout whose batch norms and plain factors are folded into layers; the input is untouched.

    A batch norm that cannot be folded stays where it is and is named, with the reason, in the log.

    Args:
        graph_module: a traced model (`compress.graph.trace`); its running statistics are what is folded.
    """
    folded = copy.deepcopy(graph_module).eval()
    remove_dropout(folded)
    calls = _calls(folded)
    for node in list(folded.graph.nodes):
        if not isinstance(_layer(folded, node), BATCH_NORMS):
            continue
        obstacle = _obstacle(folded, node, calls)
        if obstacle:
            log.warning("batch norm %s stays as it is: %s", node.target, obstacle)
        else:
            _fold(folded, node)
    fold_factors(folded)
    folded.graph.lint()
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def fold_behind_grouped_transposed(graph_module: fx.GraphModule) -> fx.GraphModule:
    """The module with its batch norms behind transposed convolutions with groups folded; itself where it has none.

    Core ML's and ExecuTorch's converters fold batch norms too, and mix up the channels of just these: one writes a
    file that computes something else, the other stops.
    """
    calls = _calls(graph_module)
    norms = [node for node in graph_module.graph.nodes if isinstance(_layer(graph_module, node), BATCH_NORMS)]
    names = {node.name for node in norms if _is_grouped_transposed(_layer(graph_module, node.args[0]))}
    names -= {node.name for node in norms if _obstacle(graph_module, node, calls)}
    if not names:
        return graph_module
    folded = copy.deepcopy(graph_module)
    for node in list(folded.graph.nodes):
        if node.name in names:
            _fold(folded, node)
    folded.graph.lint()
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def _is_grouped_transposed(layer: Any) -> bool:
    return isinstance(layer, _TRANSPOSED) and layer.groups > 1


def kept_batch_norms(graph_module: fx.GraphModule) -> dict[str, str]:
    """Node name -> why it cannot be folded, for every batch norm that is still in the graph."""
    calls = _calls(graph_module)
    norms = [node for node in graph_module.graph.nodes if isinstance(_layer(graph_module, node), BATCH_NORMS)]
    return {node.name: _obstacle(graph_module, node, calls) or "not folded yet" for node in norms}


def remove_dropout(graph_module: fx.GraphModule) -> None:
    """Take every dropout out of the graph, in place; a deployed model has none."""
    for node in list(graph_module.graph.nodes):
        is_op = node.op == "call_function" and node.target in _DROPOUT_OPS
        if is_op or isinstance(_layer(graph_module, node), _DROPOUT_LAYERS):
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()


def _layer(graph_module: fx.GraphModule, node: object) -> Any:
    """The module that a node calls; None where it calls none."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return graph_module.get_submodule(str(node.target))


def _calls(graph_module: fx.GraphModule) -> Counter[str]:
    return Counter(str(node.target) for node in graph_module.graph.nodes if node.op == "call_module")


def _obstacle(graph_module: fx.GraphModule, norm_node: fx.Node, calls: Counter[str]) -> str:
    """Why this batch norm cannot be folded; "" where it can."""
    source = norm_node.args[0]
    layer = _layer(graph_module, source)
    if not isinstance(source, fx.Node) or not isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)):
        return "no convolution or linear layer stands directly before it"
    if len(tensor_readers(source)) > 1:
        return f"{source.target} has another reader"
    if calls[str(source.target)] > 1:
        return f"{source.target} is used in several places"
    if isinstance(layer, nn.Linear) and not _normalizes_features(norm_node, source, layer):
        return f"it normalizes another axis than the features of {source.target}"
    return ""


def _normalizes_features(norm_node: fx.Node, source: fx.Node, layer: nn.Linear) -> bool:
    """Whether BatchNorm1d after a linear layer works on its features: on (N, C) it does, on (N, L, C) it takes L."""
    value = source.meta.get("val", norm_node.meta.get("val"))
    return value is None or value.dim() == 2


def _fold(graph_module: fx.GraphModule, norm_node: fx.Node) -> None:
    """Write the batch norm into the layer before it and erase its node, in place."""
    source = norm_node.args[0]
    layer, norm = _layer(graph_module, source), _layer(graph_module, norm_node)
    assert isinstance(source, fx.Node)
    scale, shift = _affine(norm)
    weight = layer.weight
    bias = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach().double()
    layer.weight = _like(weight, weight.detach().double() * _spread(scale, layer))
    layer.bias = _like(weight, bias * scale + shift)
    norm_node.replace_all_uses_with(source)
    graph_module.graph.erase_node(norm_node)


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """The batch norm as y = scale * x + shift: two float64 tensors (C,)."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    scale = gamma / torch.sqrt(variance + norm.eps)
    return scale, beta - mean * scale


def _spread(scale: Tensor, layer: Any) -> Tensor:
    """The per-channel scale (C,) shaped to multiply the layer's weight.

    A transposed convolution keeps its weight as (in, out / groups, *kernel), and output channel g * out / groups + j
    belongs to the input channels of group g: its scale is a matrix (in, out / groups).
    """
    weight: Tensor = layer.weight
    if isinstance(layer, _TRANSPOSED):
        groups = layer.groups
        per_group = scale.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
        return per_group.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.dim() - 2))
    return scale.reshape(-1, *[1] * (weight.dim() - 1))


def _like(parameter: Tensor, value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(parameter.dtype), requires_grad=parameter.requires_grad)
