"""Taking a quantized program apart: the same model in float, and the ranges and stored weights that were in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from compress.export.program import DEQUANTIZE, QUANTIZE, op_name
from compress.export.weights import Weight, fold_weights


@dataclass(frozen=True, slots=True)
class Range:
    """The integer range of one activation: value = scale * (code - zero_point), code in qmin..qmax."""

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

    @property
    def bits(self) -> int:
        """How many bits a code has: 8 or 16."""
        return 8 if self.qmax <= 127 else 16


@dataclass(slots=True)
class Stripped:
    """A quantized program in float: `module` computes without rounding, `ranges` maps node name -> its ranges.

    `reads` holds the second range of a value that a reader on other bits rounds once more.
    """

    module: GraphModule
    ranges: dict[str, list[Range]] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)
    reads: dict[str, Range] = field(default_factory=dict)


def strip(program: ExportedProgram) -> Stripped:
    """The program without its quantize and dequantize ops; weights become the floats their stored forms stand for."""
    folded, weights = fold_weights(program)
    module = folded.module(check_guards=False)
    assert isinstance(module, GraphModule)
    stripped = Stripped(module, weights=weights)
    for node in list(module.graph.nodes):
        if op_name(node) == QUANTIZE:
            _lift_range(stripped, node)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return stripped


def _lift_range(stripped: Stripped, node: Node) -> None:
    """Removes a quantize op and the dequantize ops behind it, keeping the range under the value's node."""
    source, scale, zero_point, qmin, qmax = node.args[:5]
    assert isinstance(source, Node)
    value = Range(float(scale), int(zero_point), int(qmin), int(qmax))  # type: ignore[arg-type]
    kept = stripped.ranges.setdefault(source.name, [])
    if any(other.bits != value.bits for other in kept):
        stripped.reads[source.name] = value  # the value's own range came first: its readers stand behind it
    elif value not in kept:
        kept.append(value)
    for user in list(node.users):
        if op_name(user) == DEQUANTIZE:
            user.replace_all_uses_with(source)
            stripped.module.graph.erase_node(user)


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
