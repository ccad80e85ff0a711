"""The traced form of a model: an fx graph of ordinary `torch.nn` layers and functional ATen ops.

`torch.export` sees any model as a flat graph of ATen ops. This file turns that graph back into layers: a convolution
whose weight is a parameter becomes an `nn.Conv2d` again, under the parameter's own name, so that state dicts keep their
keys, batch normalization and dropout train again, and torch-pruning finds the layers it knows. Whatever is not a layer
stays the functional op it was. Every later step edits this form and never the user's Python.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from compress.errors import ModelError
from compress.graph.computed import fold_computed_weights

log = logging.getLogger(__name__)
aten = torch.ops.aten


def trace(model: nn.Module, example_inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The model as layers and ATen ops, in eval mode, with a free batch size where the model allows one.

    Args:
        model: the module to trace; it is put into eval mode and shares its parameters with the result, but for
            weights that it computes anew at each call (weight norm, spectral norm): their value is a new parameter.
        example_inputs: one tensor per input, batch first (N, ...).

    Raises:
        ModelError: `torch.export` cannot trace the model; names the line of the user's code.
    """
    program = export_program(model, example_inputs)
    if any(_writes_through_view(node) for node in program.graph.nodes):
        # Writes through views need torch's own functionalization; it costs the dropout layers, so only then.
        program = program.run_decompositions({})
    # An exported module refuses train() and eval(): take its graph and parameters, leave its class.
    exported = program.module(check_guards=False)
    graph_module = fx.GraphModule(exported, exported.graph)
    functionalize(graph_module.graph)
    fold_computed_weights(graph_module, _WEIGHTED)
    restore_layers(graph_module)
    graph_module.eval()
    return graph_module


def export_program(model: nn.Module, example_inputs: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """The model as an exported program in functional ATen ops, batch size free where the model allows one.

    Raises:
        ModelError: `torch.export` cannot trace the model; names the line of the user's code.
    """
    model.eval()
    example_inputs = [x.contiguous() for x in example_inputs]  # the program fixes the memory order of what it was shown
    inputs = tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in example_inputs)
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    try:
        program = torch.export.export(model, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    except Exception as free_batch_error:  # torch.export raises many unrelated types
        try:
            program = torch.export.export(model, tuple(example_inputs))
        except Exception as error:
            raise _untraceable(error) from error
        size = example_inputs[0].shape[0]
        reason = str(free_batch_error).strip().splitlines()[0]
        log.warning("the model fixes its batch size at %d: %s", size, reason)
    return program


def export_static(graph_module: nn.Module, example_inputs: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """The traced model as an exported program at the batch size of `example_inputs` (1, for artifacts)."""
    graph_module.eval()
    try:
        return torch.export.export(graph_module, tuple(x.contiguous() for x in example_inputs))
    except Exception as error:
        raise _untraceable(error) from error


def _untraceable(error: BaseException) -> ModelError:
    """A ModelError that points at the deepest line of code that is neither torch's nor this package's."""
    while isinstance(error.__cause__, Exception) and not isinstance(error, GuardOnDataDependentSymNode):
        error = error.__cause__
    ours = os.path.dirname(os.path.dirname(__file__))
    torch_folder = os.path.dirname(torch.__file__)
    theirs = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((torch_folder, ours, "<")) and "contextlib" not in frame.filename
    ]
    place = f"{theirs[-1].filename}:{theirs[-1].lineno}: {theirs[-1].line}" if theirs else "an unknown line"
    text = str(error)
    # torch.export names the user's line in its message when the frame itself is gone (dynamo re-raises).
    for line in text.splitlines():
        if not theirs and line.strip().startswith("File ") and torch_folder not in line:
            place = line.strip()
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return ModelError(f"torch.export cannot trace the model at {place} ({reason}); rewrite that line without it")


def functionalize(graph: fx.Graph) -> None:
    """Replace in-place ops (`relu_`, `add_`) by their functional twins, in place; later readers see the new value."""
    for node in list(graph.nodes):
        twin = _functional_twin(node)
        if twin is None:
            continue
        written = node.args[0]
        with graph.inserting_after(node):
            pure = graph.call_function(twin, node.args, dict(node.kwargs))
        pure.meta = dict(node.meta)
        node.replace_all_uses_with(pure)
        order = {n: i for i, n in enumerate(graph.nodes)}
        for reader in list(written.users):
            if reader is not pure and order[reader] > order[pure]:
                reader.replace_input_with(written, pure)
        graph.erase_node(node)


def _functional_twin(node: fx.Node) -> Any:
    """The functional overload of an in-place ATen call; None for anything else."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = node.target._schema.name.removeprefix("aten::")
    if not name.endswith("_") or name.startswith("_") or not hasattr(aten, name[:-1]):
        return None
    return getattr(getattr(aten, name[:-1]), node.target._overloadname, None)


def _writes_through_view(node: fx.Node) -> bool:
    """Whether an in-place op writes into a view of another tensor, which a simple rename cannot express."""
    if _functional_twin(node) is None:
        return False
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_function":
        return True  # writing into an input or a parameter
    schema = getattr(source.target, "_schema", None)
    return schema is None or any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)


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
_WEIGHTED = tuple(op for op in _BUILDERS if "conv" in str(op) or op is aten.linear.default)
