"""Multiplications by a plain number folded into the layers around them: int8 kernels take no plain numbers.

A factor behind a layer goes into that layer's weight and bias: c (W x + b) = (c W) x + c b. A positive factor in front
of layers goes into their weights, also through what lies between where that commutes with it: f(c x) = c f(x) for
relu, leaky relu and all that only moves or averages values. The scaled residual branches of super-resolution nets (Lim
et al., 2017) and the averaged ones of vocoders (Kong et al., 2020) are such factors. One rounding of every weight.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx, nn

from compress.graph.layers import LAYERS
from compress.graph.readers import tensor_readers

aten = torch.ops.aten

_COMMUTES = (
    aten.relu.default,
    aten.leaky_relu.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.reshape.default,
    aten.view.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
)


def fold_factors(graph_module: fx.GraphModule) -> None:
    """Fold each factor that it can into the layer before it or the layers behind it, in place; the others stay."""
    calls = _uses(graph_module.graph)
    for node in list(graph_module.graph.nodes):
        factor = _factor(node)
        if factor is None:
            continue
        source = node.args[0]
        before = _layer(graph_module, source, calls)
        behind = _layers_behind(graph_module, node, calls)
        if before is not None and len(tensor_readers(source)) == 1:
            _scale(before, factor, bias=True)
        elif behind and factor > 0:
            for layer in behind:
                _scale(layer, factor, bias=False)
        else:
            continue
        node.replace_all_uses_with(source)
        graph_module.graph.erase_node(node)


def _uses(graph: fx.Graph) -> Counter[str]:
    """Module path -> how often it is called, or one of its parameters is read by itself."""
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    read = [str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"]
    return Counter(called + read)


def _factor(node: fx.Node) -> float | None:
    """The plain number that a node multiplies its first argument with; None where it does something else."""
    if node.op != "call_function" or node.target not in (aten.mul.Tensor, aten.div.Tensor) or node.kwargs:
        return None
    source, number = node.args
    if not isinstance(source, fx.Node) or isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    value = source.meta.get("val")
    if value is None or not value.is_floating_point() or number == 0:
        return None
    return float(number) if node.target is aten.mul.Tensor else 1.0 / number


def _layer(graph_module: fx.GraphModule, node: Any, calls: Counter[str]) -> nn.Module | None:
    """The layer that a node calls, where it is called nowhere else."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or calls[str(node.target)] > 1:
        return None
    module = graph_module.get_submodule(str(node.target))
    return module if isinstance(module, LAYERS) else None


def _layers_behind(graph_module: fx.GraphModule, node: fx.Node, calls: Counter[str]) -> list[nn.Module]:
    """The layers that alone take what a node gives, through ops that commute with a factor; empty where others do."""
    found: list[nn.Module] = []
    for reader in tensor_readers(node):
        layer = _layer(graph_module, reader, calls)
        if layer is not None:
            found.append(layer)
            continue
        further = _layers_behind(graph_module, reader, calls) if reader.target in _COMMUTES else []
        if not further:
            return []
        found += further
    return found


@torch.no_grad()
def _scale(layer: nn.Module, factor: float, bias: bool) -> None:
    """Multiply a layer's weight, and its bias where asked, in place of its parameters."""
    for name in ("weight", "bias") if bias else ("weight",):
        held = getattr(layer, name)
        if held is not None:
            value = (held.detach().double() * factor).to(held.dtype)
            setattr(layer, name, nn.Parameter(value, requires_grad=held.requires_grad))
