"""What a traced model costs on paper: MACs, parameters, bytes and peak activation memory, op by op.

MACs are multiply-accumulates of convolutions, linear layers and matrix products at batch size 1; elementwise ops,
norms and pooling count as zero MACs (they cost memory traffic, which the latency model sees in the shapes). An op in
neither table is reported by name as not known: its cost is never guessed.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from compress.types import ModelCost, OpRecord

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)

# ATen op -> kind, for ops without MACs of their own.
_KINDS = {
    "reshape": "view reshape flatten unsqueeze squeeze contiguous clone detach alias expand unflatten "
    "_assert_tensor_metadata _to_copy to dropout sym_size lift_fresh_copy",
    "move": "permute transpose t select slice chunk split split_with_sizes unbind movedim swapaxes pixel_shuffle "
    "pixel_unshuffle channel_shuffle repeat repeat_interleave roll flip im2col col2im unfold",
    "activation": "relu hardtanh clamp clamp_min clamp_max sigmoid tanh gelu silu hardswish hardsigmoid leaky_relu elu "
    "prelu softplus mish relu6 celu selu glu",
    "softmax": "softmax log_softmax",
    "elementwise": "add sub mul div neg pow sqrt rsqrt exp log abs maximum minimum sin cos where rsub reciprocal "
    "square addcmul lerp sign floor ceil round eq ne gt lt ge le logical_and logical_not bitwise_not masked_fill",
    "pool": "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_max_pool2d",
    "reduce": "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum amax amin max min var std norm "
    "linalg_vector_norm argmax argmin cumsum",
    "resize": "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_nearest1d upsample_linear1d "
    "grid_sampler interpolate _upsample_bilinear2d_aa",
    "concat": "cat stack concat concatenate",
    "pad": "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad2d",
    "norm": "batch_norm instance_norm group_norm layer_norm rms_norm normalize",
    "gather": "embedding index gather index_select",
    "other": "arange full zeros ones zeros_like ones_like full_like linspace scalar_tensor topk triu tril",
}
KIND_OF = {op: kind for kind, ops in _KINDS.items() for op in ops.split()}
# Views of the same memory: they hold no buffer of their own.
_VIEWS = frozenset(
    _KINDS["reshape"].split()
    + "permute transpose t select slice chunk split split_with_sizes unbind movedim swapaxes".split()
)
_PRODUCTS = ("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "scaled_dot_product_attention", "linear")


def propagate_shapes(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> dict[fx.Node, Any]:
    """The fake value (shape and dtype, no data) of every node, at the batch size of `example_inputs`."""
    values: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            values[node] = super().run_node(node)
            return values[node]

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        Recorder(graph_module).run(*[mode.from_tensor(x) for x in example_inputs])
    return values


def cost_of(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> ModelCost:
    """The cost of a traced model at the given inputs' shapes (batch size 1 for every published figure)."""
    values = propagate_shapes(graph_module, example_inputs)
    records = [_record(graph_module, node, values) for node in graph_module.graph.nodes]
    ops = _mark_fused(graph_module, [record for record in records if record is not None])
    unknown = Counter(op.op for op in ops if op.macs is None)
    state = list(graph_module.state_dict().values())
    return ModelCost(
        params=sum(p.numel() for p in graph_module.parameters()),
        macs=sum(op.macs or 0 for op in ops),
        size_bytes=sum(t.numel() * t.element_size() for t in state),
        peak_activation_bytes=_peak_activation_bytes(graph_module, values),
        ops=tuple(ops),
        unknown_ops=dict(unknown),
    )


def op_name(node: fx.Node) -> str:
    """The plain name of a function node's op ("add", "conv2d"), without overload or namespace."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1].rstrip("_").removesuffix(".default")
    return getattr(target, "__name__", str(target))


def where(node: fx.Node) -> str:
    """The module path of a node in the user's model ("" at the top)."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()] if stack else []
    return str(paths[-1]) if paths else (str(node.target) if node.op == "call_module" else "")


def _shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, (tuple, list)):
        return _shape(value[0]) if value else ()
    return tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else ()


def _record(gm: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> OpRecord | None:
    """The node's op record; None for inputs, outputs, attributes and integer bookkeeping."""
    if node.op not in ("call_function", "call_module") or not isinstance(values.get(node), (Tensor, tuple, list)):
        return None
    if node.target is operator.getitem:
        return None
    inputs = tuple(_shape(values[n]) for n in node.all_input_nodes if isinstance(values.get(n), Tensor))
    output = _shape(values[node])
    if node.op == "call_module":
        return _layer_record(node, gm.get_submodule(str(node.target)), inputs, output)
    name = op_name(node)
    base: dict[str, Any] = {
        "name": node.name,
        "op": name,
        "where": where(node),
        "input_shapes": inputs,
        "output_shape": output,
    }
    if name in _PRODUCTS:
        macs = _product_macs(name, node, inputs, output)
        kind = "attention" if "attention" in name else "matmul"
        return OpRecord(kind=kind, macs=macs, weight_count=0, channels=(inputs[0][-1], output[-1]), **base)
    if name.startswith("conv"):
        return _functional_conv(name, node, inputs, output, base)
    known = KIND_OF.get(name)
    if known == "gather":  # it reads the rows it gives, not the table
        held = [n for n in node.all_input_nodes if n.op != "get_attr"]
        base["input_shapes"] = tuple(_shape(values[n]) for n in held if isinstance(values.get(n), Tensor))
    return OpRecord(kind=known or "other", macs=0 if known else None, weight_count=0, **base)


def _layer_record(
    node: fx.Node, layer: nn.Module, inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...]
) -> OpRecord | None:
    weights = sum(p.numel() for p in layer.parameters())
    base: dict[str, Any] = {
        "name": node.name,
        "op": type(layer).__name__,
        "where": str(node.target),
        "input_shapes": inputs,
        "output_shape": output,
        "weight_count": weights,
    }
    if isinstance(layer, _CONVS + _TRANSPOSED):
        transposed = isinstance(layer, _TRANSPOSED)
        positions = math.prod((inputs[0] if transposed else output)[2:])
        macs = positions * layer.weight.numel()
        base |= {
            "channels": (layer.in_channels, layer.out_channels),
            "kernel": tuple(layer.kernel_size),
            "stride": tuple(layer.stride),
            "groups": layer.groups,
            "dilation": max(layer.dilation),
        }
        return OpRecord(kind=_conv_kind(transposed, layer.groups, layer.in_channels), macs=macs, **base)
    if isinstance(layer, nn.Linear):
        macs = math.prod(output[1:-1]) * layer.weight.numel()
        return OpRecord(kind="linear", macs=macs, channels=(layer.in_features, layer.out_features), **base)
    if isinstance(layer, _NORMS):
        return OpRecord(kind="norm", macs=0, **base)
    return OpRecord(kind="reshape", macs=0, **base)  # dropout: nothing at inference


def _conv_kind(transposed: bool, groups: int, inputs: int) -> str:
    if transposed:
        return "conv_transpose"
    if groups == 1:
        return "conv"
    return "depthwise_conv" if groups == inputs else "grouped_conv"


def _functional_conv(
    name: str, node: fx.Node, inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...], base: dict[str, Any]
) -> OpRecord:
    """A convolution whose weight is computed (spectral norm, modulation): counted, but it has no weights to prune."""
    weight, transposed = inputs[1], "transpose" in name
    positions = math.prod((inputs[0] if transposed else output)[2:])
    groups = inputs[0][1] // (weight[0] if transposed else weight[1]) if not transposed else 1
    return OpRecord(
        kind=_conv_kind(transposed, groups, inputs[0][1]),
        macs=positions * math.prod(weight),
        weight_count=math.prod(weight),
        channels=(inputs[0][1], output[1]),
        kernel=tuple(weight[2:]),
        groups=groups,
        **base,
    )


def _product_macs(name: str, node: fx.Node, inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...]) -> int | None:
    if name == "scaled_dot_product_attention":
        query, key, value = inputs[:3]
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    if name == "einsum":
        equation = str(node.args[0]).replace(" ", "")
        terms = equation.split("->")[0].split(",")
        if "." in equation or len(terms) != len(inputs):
            return None
        sizes = {
            letter: size
            for term, shape in zip(terms, inputs, strict=True)
            for letter, size in zip(term, shape, strict=False)
        }
        return math.prod(sizes.values())
    left = inputs[1] if name in ("addmm", "baddbmm") else inputs[0]
    return math.prod(output) * left[-1]


def _mark_fused(gm: fx.GraphModule, ops: list[OpRecord]) -> list[OpRecord]:
    """Norms after a convolution and activations after anything with one reader run inside its kernel."""
    by_name = {op.name: op for op in ops}
    absorbing = {"conv", "depthwise_conv", "grouped_conv", "conv_transpose", "linear"}
    for node in gm.graph.nodes:
        op, sources = by_name.get(node.name), node.all_input_nodes
        if op is None or op.kind not in ("norm", "activation") or not sources or len(sources[0].users) != 1:
            continue
        source = by_name.get(sources[0].name)
        if source is None:
            continue
        root = by_name[source.fused_into] if source.fused_into else source
        batch_norm = op.kind == "norm" and op.op.startswith("BatchNorm")
        simple = op.op in ("relu", "hardtanh", "clamp", "clamp_min", "relu6")
        if (batch_norm and root.kind in absorbing) or (simple and root.kind in absorbing | {"elementwise"}):
            by_name[op.name] = OpRecord(**{**_fields(op), "fused_into": root.name})
    return list(by_name.values())


def _fields(op: OpRecord) -> dict[str, Any]:
    return {name: getattr(op, name) for name in OpRecord.__dataclass_fields__}


def _peak_activation_bytes(gm: fx.GraphModule, values: dict[fx.Node, Any]) -> int:
    """The largest sum of live float32 activations, each freed after the last reader of it or of a view of it."""
    root: dict[fx.Node, fx.Node] = {}
    last_use: dict[fx.Node, fx.Node] = {}
    for node in gm.graph.nodes:
        sources = node.all_input_nodes
        view = node.op == "call_function" and op_name(node) in _VIEWS and len(sources) > 0
        root[node] = root[sources[0]] if view else node
        for source in sources:
            last_use[root[source]] = node
    live: dict[fx.Node, int] = {}
    peak = 0
    for node in gm.graph.nodes:
        value = values.get(node)
        if isinstance(value, Tensor) and root[node] is node and node.op not in ("get_attr", "output"):
            live[node] = value.numel() * 4
        peak = max(peak, sum(live.values()))
        for source in node.all_input_nodes:
            if last_use[root[source]] is node:
                live.pop(root[source], None)
    return peak
