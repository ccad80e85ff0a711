"""Layers back out of a flat graph: ATen calls whose weights are parameters become `torch.nn` layers again.

A convolution's parameters keep their names, so that state dicts keep their keys, batch normalization and dropout train
again, and torch-pruning finds the layers it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
"""What has a weight that multiplies: the layers that are cut, scaled and quantized."""
BATCH_NORM = nn.modules.batchnorm._BatchNorm


def restore_layers(graph_module: fx.GraphModule) -> None:
    """Replace ATen layer ops whose weights are parameters by `torch.nn` layers, in place, keeping parameter names."""
    graph = graph_module.graph
    made: dict[str, nn.Module] = {}
    for node in list(graph.nodes):
        builder = _BUILDERS.get(node.target) if node.op == "call_function" else None
        built = builder(graph_module, node) if builder else None
        if built is None:
            continue
        path, layer = built
        if path in made and not _same_layer(made[path], layer):
            continue  # one weight used with two sets of attributes stays functional
        if path not in made:
            made[path] = layer
            graph_module.add_submodule(path, layer)
        with graph.inserting_before(node):
            call = graph.call_module(path, (node.args[0],))
        call.meta = dict(node.meta)
        for reader in [node] if _is_single(node) else list(node.users):
            reader.replace_all_uses_with(call)  # the decomposed batch norm returns a tuple; take its first item
        for dead in (*node.users, node):
            graph.erase_node(dead)
    forget_unused(graph_module)


def forget_unused(graph_module: fx.GraphModule) -> None:
    """Drop nodes, parameters and modules that the graph no longer uses, and compile it anew."""
    graph = graph_module.graph
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or _has_effect(node))
    graph_module.delete_all_unused_submodules()
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    called = tuple(f"{node.target}." for node in graph.nodes if node.op == "call_module")
    for name in [n for n, _ in graph_module.named_parameters()] + [n for n, _ in graph_module.named_buffers()]:
        if name not in used and not name.startswith(called):
            owner, _, leaf = name.rpartition(".")
            delattr(graph_module.get_submodule(owner), leaf)
    graph.lint()
    graph_module.recompile()


def _has_effect(node: fx.Node) -> bool:
    return node.op == "call_function" and "assert" in str(node.target)


def _is_single(node: fx.Node) -> bool:
    return len(node.target._schema.returns) == 1  # type: ignore[union-attr]


def _same_layer(first: nn.Module, second: nn.Module) -> bool:
    return type(first) is type(second) and first.extra_repr() == second.extra_repr()


def _parameter(graph_module: fx.GraphModule, node: Any) -> tuple[str, Tensor] | None:
    """The dotted name and value of a parameter or buffer node; None for anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, leaf = str(node.target).rpartition(".")
    value = getattr(graph_module.get_submodule(owner), leaf)
    return (str(node.target), value) if isinstance(value, Tensor) else None


def _argument(node: fx.Node, index: int, default: Any = None) -> Any:
    """Positional argument `index` of an ATen call, by the op's schema when it was passed by name."""
    if index < len(node.args):
        return node.args[index]
    schema = node.target._schema.arguments[index]  # type: ignore[union-attr]
    if schema.name in node.kwargs:
        return node.kwargs[schema.name]
    return schema.default_value if schema.has_default_value() else default


def _fill(layer: nn.Module, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    """The layer with the given tensors as its own parameters (shared, not copied)."""
    if weight is not None:
        layer.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    if bias is not None:
        layer.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
    return layer.eval()


def _path(name: str) -> str:
    """The layer's place in the model: the weight's name without `.weight`; odd names keep a place of their own."""
    return name.removesuffix(".weight") if name.endswith(".weight") else f"{name}_layer"


def _weight_and_bias(gm: fx.GraphModule, node: fx.Node) -> tuple[str, Tensor, Tensor | None] | None:
    weight = _parameter(gm, _argument(node, 1))
    bias_node = _argument(node, 2)
    bias = _parameter(gm, bias_node)
    if weight is None or (bias_node is not None and bias is None):
        return None  # a weight computed from the input (modulation, attention) cannot be a plain layer
    return weight[0], weight[1], bias[1] if bias else None


def _convolution(dims: int) -> Callable[[fx.GraphModule, fx.Node], tuple[str, nn.Module] | None]:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]

    def build(gm: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
        found = _weight_and_bias(gm, node)
        if found is None:
            return None
        name, weight, bias = found
        stride, padding, dilation = (_argument(node, i) for i in (3, 4, 5))
        groups = _argument(node, 6)
        layer = kind(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            _spread(stride, dims),
            padding if isinstance(padding, str) else _spread(padding, dims),
            _spread(dilation, dims),
            groups,
            bias is not None,
            device="meta",
        )
        return _path(name), _fill(layer, weight, bias)

    return build


def _transposed(dims: int) -> Callable[[fx.GraphModule, fx.Node], tuple[str, nn.Module] | None]:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]

    def build(gm: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
        found = _weight_and_bias(gm, node)
        if found is None:
            return None
        name, weight, bias = found
        stride, padding, output_padding = (_spread(_argument(node, i), dims) for i in (3, 4, 5))
        groups, dilation = _argument(node, 6), _spread(_argument(node, 7), dims)
        layer = kind(
            weight.shape[0],
            weight.shape[1] * groups,
            tuple(weight.shape[2:]),
            stride,
            padding,
            output_padding,
            groups,
            bias is not None,
            dilation,
            device="meta",
        )
        return _path(name), _fill(layer, weight, bias)

    return build


def _spread(value: Any, dims: int) -> tuple[int, ...]:
    """A per-dimension setting as a tuple: ATen allows one number, or a list of one, for all dimensions."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(values * dims) if len(values) == 1 else tuple(values)


def _linear(gm: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    found = _weight_and_bias(gm, node)
    if found is None or found[1].dim() != 2:
        return None
    name, weight, bias = found
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return _path(name), _fill(layer, weight, bias)


def _batch_norm(gm: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    weight, bias, mean, variance = (_parameter(gm, _argument(node, i)) for i in (1, 2, 3, 4))
    if mean is None or variance is None:
        return None
    value = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    dims = value.dim() if value is not None else 4
    decomposed = node.target is not aten.batch_norm.default
    momentum, eps = (_argument(node, 5), _argument(node, 6)) if decomposed else (_argument(node, 6), _argument(node, 7))
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}.get(dims, nn.BatchNorm2d)
    layer = kind(len(mean[1]), eps, momentum, affine=weight is not None, device="meta")
    layer.running_mean, layer.running_var = mean[1], variance[1]
    tracked = mean[0].removesuffix("running_mean") + "num_batches_tracked"
    layer.num_batches_tracked = _existing(gm, tracked, torch.tensor(0))
    _fill(layer, weight[1] if weight else None, bias[1] if bias else None)
    return mean[0].removesuffix(".running_mean"), layer


def _existing(gm: fx.GraphModule, name: str, default: Tensor) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    try:
        return getattr(gm.get_submodule(owner), leaf)
    except AttributeError:
        return default


def _norm(kind: str) -> Callable[[fx.GraphModule, fx.Node], tuple[str, nn.Module] | None]:
    def build(gm: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
        weight, bias = _parameter(gm, _argument(node, 2)), _parameter(gm, _argument(node, 3))
        if weight is None:
            return None
        layer: nn.Module
        if kind == "group":
            layer = nn.GroupNorm(_argument(node, 1), len(weight[1]), _argument(node, 4), device="meta")
        else:
            layer = nn.LayerNorm(list(_argument(node, 1)), _argument(node, 4), bias=bias is not None, device="meta")
        return _path(weight[0]), _fill(layer, weight[1], bias[1] if bias else None)

    return build


def _dropout(gm: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    return f"dropout_{node.name}", nn.Dropout(node.args[1]).eval()


_BUILDERS: dict[Any, Callable[[fx.GraphModule, fx.Node], tuple[str, nn.Module] | None]] = {
    aten.conv1d.default: _convolution(1),
    aten.conv2d.default: _convolution(2),
    aten.conv3d.default: _convolution(3),
    aten.conv1d.padding: _convolution(1),
    aten.conv2d.padding: _convolution(2),
    aten.conv3d.padding: _convolution(3),
    aten.conv_transpose1d.default: _transposed(1),
    aten.conv_transpose2d.input: _transposed(2),
    aten.conv_transpose3d.input: _transposed(3),
    aten.linear.default: _linear,
    aten.batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.group_norm.default: _norm("group"),
    aten.layer_norm.default: _norm("layer"),
    aten.dropout.default: _dropout,
}
WEIGHTED = tuple(op for op in _BUILDERS if "conv" in str(op) or op is aten.linear.default)
