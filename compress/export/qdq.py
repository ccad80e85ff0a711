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
    """An int8 weight: `codes` with one symmetric scale per slice along `axis`; `values` is what it stands for."""

    name: str
    codes: Tensor
    scales: Tensor
    axis: int

    @property
    def values(self) -> Tensor:
        """The weight in float32, as the program's dequantize op computes it."""
        shape = [1] * self.codes.dim()
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
        if op_name(node) == DEQUANTIZE_CHANNEL:
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
    """Replaces a dequantize_per_channel of constants by a float buffer."""
    module = stripped.module
    codes, scales = (_constant(module, node.args[index]) for index in (0, 1))
    axis = node.args[3]
    assert isinstance(axis, int)
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
