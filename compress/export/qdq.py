"""Taking a quantized program apart: the same model in float, and the int8 ranges and weights that were in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from compress.export.program import DEQUANTIZE, DEQUANTIZE_CHANNEL, QUANTIZE, op_name


@dataclass(frozen=True, slots=True)
class Range:
    """The int8 range of one activation: value = scale * (code - zero_point), code in qmin..qmax."""

    scale: float
    zero_point: int
    qmin: int = -128
    qmax: int = 127

    @property
    def low(self) -> float:
        """The smallest value the range holds."""
        return (self.qmin - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """The largest value the range holds."""
        return (self.qmax - self.zero_point) * self.scale


@dataclass(frozen=True, slots=True)
class Weight:
    """An int8 weight: `codes` with one symmetric scale per slice along `axis`, or one for all where it is None."""

    name: str
    codes: Tensor
    scales: Tensor
    axis: int | None

    @property
    def values(self) -> Tensor:
        """The weight in float32, as the program's dequantize op computes it."""
        shape = [1] * self.codes.dim()
        if self.axis is not None:
            shape[self.axis] = -1
        return self.codes.to(torch.float32) * self.scales.to(torch.float32).reshape(shape)


@dataclass(slots=True)
class Stripped:
    """A quantized program in float: `module` computes without rounding, `ranges` maps node name -> its ranges."""

    module: GraphModule
    ranges: dict[str, list[Range]] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)


def strip(program: ExportedProgram) -> Stripped:
    """The program without its quantize and dequantize ops; weights become the floats their int8 codes stand for."""
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    stripped = Stripped(module)
    for node in list(module.graph.nodes):
        constant = bool(node.args) and isinstance(node.args[0], Node) and node.args[0].op == "get_attr"
        if op_name(node) in (DEQUANTIZE, DEQUANTIZE_CHANNEL) and constant:
            _fold_weight(stripped, node)
    for node in list(module.graph.nodes):
        if op_name(node) == QUANTIZE:
            _lift_range(stripped, node)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    _drop_unread(module)
    module.recompile()
    return stripped


def _fold_weight(stripped: Stripped, node: Node) -> None:
    """Replaces a dequantize of int8 constants by a float buffer."""
    module = stripped.module
    codes = _constant(module, node.args[0])
    axis: int | None = None
    if op_name(node) == DEQUANTIZE_CHANNEL:
        scales, axis = _constant(module, node.args[1]), int(node.args[3])  # type: ignore[arg-type]
    else:
        scales = torch.tensor([float(node.args[1])])  # type: ignore[arg-type]
    user = next(iter(node.users), node)
    weight = Weight(user.name, codes, scales, axis)
    stripped.weights.append(weight)
    name = f"_float_weight_{len(stripped.weights)}"
    module.register_buffer(name, weight.values)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta = dict(node.meta)
    node.replace_all_uses_with(constant)
    module.graph.erase_node(node)


def _lift_range(stripped: Stripped, node: Node) -> None:
    """Removes a quantize op and the dequantize ops behind it, keeping the range under the value's node."""
    source, scale, zero_point, qmin, qmax = node.args[:5]
    assert isinstance(source, Node)
    value = Range(float(scale), int(zero_point), int(qmin), int(qmax))  # type: ignore[arg-type]
    kept = stripped.ranges.setdefault(source.name, [])
    if value not in kept:
        kept.append(value)
    for user in list(node.users):
        if op_name(user) == DEQUANTIZE:
            user.replace_all_uses_with(source)
            stripped.module.graph.erase_node(user)


def _constant(module: GraphModule, argument: object) -> Tensor:
    assert isinstance(argument, Node) and argument.op == "get_attr"
    value: object = module
    for part in str(argument.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value.detach()


def _drop_unread(module: GraphModule) -> None:
    """Removes parameters and buffers that no node reads (int8 codes, scales, the float originals)."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    held = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    for name in held:
        if name not in read:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)


class Recorder(torch.fx.Interpreter):
    """Runs a float module and keeps the tensor each node computed, in `values` by node name."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> object:
        """The node's result, kept where it is a float tensor of a placeholder or a call."""
        result = super().run_node(n)
        if n.op in ("placeholder", "call_function") and isinstance(result, Tensor) and result.is_floating_point():
            self.values[n.name] = result.detach()
        return result
