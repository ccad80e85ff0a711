"""The form of an op: its name with what decides whether a runtime takes it, and without sizes.

"conv2d depthwise dilated", "pad reflect", "upsample_bilinear2d align_corners", "mean over the plane". The conformance
table knows each case by the forms in it, and the residency check looks a model's ops up by theirs.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx, nn

from compress.quantize.rules import Kind, rule_for

# Layers that a trace restores -> the op they stand for.
_LAYERS: dict[type[nn.Module], str] = {
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
    nn.Linear: "linear",
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm3d: "batch_norm",
    nn.GroupNorm: "group_norm",
    nn.LayerNorm: "layer_norm",
}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)

_BINARY = ("add", "sub", "mul", "div", "rsub", "maximum", "minimum", "pow")
_REDUCTIONS = ("mean", "sum", "amax", "amin", "var", "std", "logsumexp", "linalg_vector_norm", "softmax", "_softmax",
               "log_softmax", "_log_softmax", "max", "min", "cumsum")  # fmt: skip
# Arguments that say nothing, or that `_words` says better.
_SILENT = ("keepdim", "mode", "use_input_stats", "cudnn_enabled", "cudnn_enable")
_SAMPLING_MODES = ("bilinear", "nearest", "bicubic")
_SAMPLING_PADS = ("zeros", "border", "reflection")


def form_of(graph_module: fx.GraphModule, node: fx.Node) -> str:
    """The form of the op that a node computes; "" for nodes that compute nothing a runtime would run."""
    if node.op == "call_module":
        return _layer_form(graph_module.get_submodule(str(node.target)))
    if node.op != "call_function" or node.target is operator.getitem or rule_for(graph_module, node).kind is Kind.NONE:
        return ""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    name = schema.name.removeprefix("aten::")
    given = _arguments(node, schema)
    words = [name, *_words(name, node, given), *_switches(schema, given)]
    return " ".join(word for word in words if word)


def forms_of(graph_module: fx.GraphModule, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The forms in a traced model, each once, in order; layers at the paths `without` left out."""
    nodes = [node for node in graph_module.graph.nodes if not (node.op == "call_module" and node.target in without)]
    return tuple(dict.fromkeys(form for form in (form_of(graph_module, node) for node in nodes) if form))


def _layer_form(layer: Any) -> str:
    if isinstance(layer, _DROPOUTS):
        return ""
    name = _LAYERS.get(type(layer), type(layer).__name__)
    if not name.startswith("conv"):
        return name + (" plain" if name.endswith("norm") and layer.weight is None else "")
    words = [name, _grouping(layer.groups, layer.in_channels)]
    words.append("dilated" if max(layer.dilation) > 1 else "")
    words.append("output_padding" if max(layer.output_padding) > 0 else "")
    words.append(f"padding={layer.padding}" if isinstance(layer.padding, str) else "")
    return " ".join(word for word in words if word)


def _grouping(groups: int, channels: int) -> str:
    return "" if groups == 1 else "depthwise" if groups == channels else "grouped"


def _arguments(node: fx.Node, schema: Any) -> dict[str, Any]:
    """Argument name -> value, as far as they were given."""
    names = [argument.name for argument in schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _switches(schema: Any, given: dict[str, Any]) -> list[str]:
    """The flags and modes that differ from their defaults: "ceil_mode", "approximate=tanh"."""
    words = []
    for argument in schema.arguments:
        value = given.get(argument.name)
        usual = argument.default_value if argument.has_default_value() else False
        if argument.name in _SILENT:
            continue
        if isinstance(value, bool) and value != usual:
            words.append(argument.name if value else f"{argument.name}=no")
        elif isinstance(value, str) and value != usual:
            words.append(f"{argument.name}={value}")
    return words


def _words(name: str, node: fx.Node, given: dict[str, Any]) -> list[str]:
    """What an op's arguments say beyond its flags."""
    if name.startswith("conv"):
        return _convolution_words(node, given)
    if name in _BINARY:
        return [_operands(node)]
    if name in _REDUCTIONS:
        return [_axes(node, given.get("dim"))]
    if name.startswith("upsample"):
        return ["by a fraction" if _fractional(node) else ""]
    if name in ("pad", "constant_pad_nd"):
        return _pad_words(name, given)
    if "pool" in name:
        return _pool_words(name, node, given)
    if name == "grid_sampler":
        return [_SAMPLING_MODES[int(given["interpolation_mode"])], _SAMPLING_PADS[int(given["padding_mode"])]]
    if name == "instance_norm":
        return ["" if given.get("use_input_stats", True) else "with kept statistics"]
    if name == "scaled_dot_product_attention":
        return ["masked" if given.get("attn_mask") is not None else ""]
    return []


def _convolution_words(node: fx.Node, given: dict[str, Any]) -> list[str]:
    """A functional convolution: its weight is computed, or a constant that no layer owns."""
    source, weight = given["input"], given["weight"]
    value = source.meta.get("val")
    channels = int(value.shape[1]) if isinstance(value, Tensor) else 0
    grouping = _grouping(int(given.get("groups", 1)), channels)
    computed = "with a computed weight" if isinstance(weight, fx.Node) and weight.op != "get_attr" else ""
    return [grouping, "dilated" if _largest(given.get("dilation", 1)) > 1 else "", computed]


def _operands(node: fx.Node) -> str:
    """What the operands are: "number" where one is no tensor, "broadcast" where two have different shapes."""
    both = [*node.args, *node.kwargs.values()][:2]
    shapes = [_shape(one) for one in both if isinstance(one, fx.Node)]
    if len(shapes) < 2 or () in shapes:
        return "number"
    return "broadcast" if shapes[0] != shapes[1] else ""


def _axes(node: fx.Node, dim: Any) -> str:
    """Which axes are reduced: "over the plane", "over channels", "over the last axis"."""
    source = node.args[0]
    rank = len(_shape(source)) if isinstance(source, fx.Node) else 0
    axes = {int(axis) % rank for axis in (dim if isinstance(dim, (list, tuple)) else [dim])} if rank and dim else set()
    if rank and dim == 0:
        axes = {0}
    if rank == 4 and axes == {2, 3}:
        return "over the plane"
    if axes == {rank - 1}:
        return "over the last axis"
    return "over channels" if axes == {1} else "over other axes"


def _fractional(node: fx.Node) -> bool:
    """Whether a resize is by no whole number."""
    source = node.args[0]
    before, after = _shape(source) if isinstance(source, fx.Node) else (), _shape(node)
    return any(new % old for old, new in zip(before[2:], after[2:], strict=False))


def _pad_words(name: str, given: dict[str, Any]) -> list[str]:
    mode = "constant" if name == "constant_pad_nd" else str(given.get("mode", "constant"))
    value = given.get("value")
    sides = [int(side) for side in given.get("pad", ()) if isinstance(side, int)]
    return [
        mode,
        "with a number" if value not in (None, 0, 0.0) else "",
        "cropping" if min(sides, default=0) < 0 else "",
    ]


def _pool_words(name: str, node: fx.Node, given: dict[str, Any]) -> list[str]:
    if name.startswith("adaptive"):
        source = node.args[0]
        before, after = _shape(source) if isinstance(source, fx.Node) else (), _shape(node)
        sides = list(zip(before[2:], after[2:], strict=False))
        if all(new == 1 for _, new in sides):
            return ["to one"]
        return ["to a divisor" if all(new and old % new == 0 for old, new in sides) else "to no divisor"]
    padded = "padded" if _largest(given.get("padding", 0)) > 0 else ""
    return [padded, "dilated" if _largest(given.get("dilation", 1)) > 1 else ""]


def _shape(node: fx.Node) -> tuple[int, ...]:
    """The sizes behind the batch as they were traced, the batch as 0: it may be free."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return (-1,)
    return tuple(int(size) if isinstance(size, int) else 0 for size in value.shape)


def _largest(value: Any) -> int:
    values = value if isinstance(value, (list, tuple)) else [value]
    return max((int(one) for one in values), default=0)
