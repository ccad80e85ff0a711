"""Weights that a model computes from its parameters at every call, computed once: weight norm, spectral norm, scaling.

Weight normalization (Salimans and Kingma, 2016) and spectral normalization (Miyato et al., 2018), as hooks or as
parametrizations, reach the trace as ops on parameters alone. In eval mode their result never changes, so it can stand
in their place as the layer's own weight: then the layer is one again that pruning, quantizing and every runtime knows.
Training goes on from that weight, without the norm.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

log = logging.getLogger(__name__)


def fold_computed_weights(graph_module: fx.GraphModule, layers: Collection[Any]) -> None:
    """Replace weights and biases of layers that follow from parameters alone by parameters of their value, in place.

    Args:
        graph_module: a model as `torch.export` gives it, in functional ATen ops.
        layers: the ops whose second and third argument are a weight and a bias.
    """
    graph = graph_module.graph
    fixed = _fixed_nodes(graph)
    for node in list(graph.nodes):
        if node.target not in layers:
            continue
        for source, leaf in zip(node.args[1:3], ("weight", "bias"), strict=False):
            if isinstance(source, fx.Node) and source.op == "call_function" and source in fixed:
                _fold(graph_module, node, source, leaf, fixed)


def _fixed_nodes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value follows from parameters and buffers alone."""
    fixed: set[fx.Node] = set()
    for node in graph.nodes:
        is_op = node.op == "call_function" and bool(node.all_input_nodes)
        if node.op == "get_attr" or (is_op and all(source in fixed for source in node.all_input_nodes)):
            fixed.add(node)
    return fixed


def _fold(graph_module: fx.GraphModule, layer: fx.Node, source: fx.Node, leaf: str, fixed: set[fx.Node]) -> None:
    """Put the value of `source` in its place as a parameter, for all who read it."""
    with torch.no_grad():
        value = _value(graph_module, source)
    path = _layer_path(graph_module, layer, leaf, fixed)
    owner = graph_module.get_submodule(path) if path else graph_module
    name = leaf if path else f"{layer.name}_{leaf}"
    owner.register_parameter(name, nn.Parameter(value.detach().clone()))
    with graph_module.graph.inserting_before(source):
        held = graph_module.graph.get_attr(f"{path}.{name}" if path else name)
    held.meta = dict(source.meta)
    log.info("the %s of %s is computed from parameters alone; its value stands in its place", leaf, path or layer.name)
    source.replace_all_uses_with(held)
    _erase_unread(source)


def _erase_unread(node: fx.Node) -> None:
    if not node.users:
        sources = node.all_input_nodes
        node.graph.erase_node(node)
        for source in sources:
            _erase_unread(source)


def _value(graph_module: fx.GraphModule, node: fx.Node) -> Tensor:
    """What a node computes from parameters."""
    if node.op == "get_attr":
        held: Any = graph_module
        for part in str(node.target).split("."):
            held = getattr(held, part)
        return held
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda source: _value(graph_module, source))
    assert callable(node.target)
    result: Tensor = node.target(*args, **kwargs)
    return result


def _layer_path(graph_module: fx.GraphModule, layer: fx.Node, leaf: str, fixed: set[fx.Node]) -> str:
    """The module that makes the layer's call, where its own parameters serve this layer alone and `leaf` is free."""
    stack = list((layer.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    owned = [n for n in layer.graph.nodes if n.op == "get_attr" and str(n.target).startswith(f"{path}.")]
    serves = {reader for node in owned for reader in _readers(node, fixed)}
    if not path or serves != {layer} or hasattr(graph_module.get_submodule(path), leaf):
        return ""
    return path


def _readers(node: fx.Node, fixed: set[fx.Node]) -> set[fx.Node]:
    """The nodes with run-time inputs that a parameter reaches, also through ops on parameters alone."""
    found: set[fx.Node] = set()
    for reader in node.users:
        found |= _readers(reader, fixed) if reader in fixed else {reader}
    return found
