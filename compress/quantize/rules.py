"""Which values an int8 model keeps in int8: a table, op kind -> rule.

The table holds what XNNPACK (through ExecuTorch), LiteRT full int8, ONNX Runtime and Core ML all take:

    kind     range of the op's output                            why
    LAYER    its own, behind the activation that it absorbs      XNNPACK absorbs relu and hardtanh, nothing else
    OWN      its own                                             every runtime rescales between inputs and output
    FIXED    the one that its mathematics gives                  LiteRT accepts no other
    SHARE    that of its input                                   LiteRT demands equal scales; no value grows
    JOIN     one for all its inputs and its output               LiteRT and XNNPACK concatenate bytes
    SPLIT    its items have that of its input                    as SHARE, for ops that return a list
    FLOAT    none: it computes in float, and is named with the reason
    NONE     it is no float tensor: sizes, shape arithmetic, assertions

SHARE ops come in two sorts: those that only move values (`moves`; a quantized value stays on the grid) and those that
compute new ones between the old ones (average pooling, bilinear resize).
"""

from __future__ import annotations

import enum
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from compress.graph.layers import LAYERS
from compress.quantize.clamps import argument, clamp_bounds
from compress.quantize.float_reasons import reason_for_layer, reason_for_op

aten = torch.ops.aten


class Kind(enum.Enum):
    """How an op's output is quantized; the module's docstring says what each member means."""

    LAYER = "layer"
    OWN = "own"
    FIXED = "fixed"
    SHARE = "share"
    JOIN = "join"
    SPLIT = "split"
    FLOAT = "float"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule for one node; `reason` belongs to FLOAT, `fixed` (low, high) to FIXED, `moves` to SHARE."""

    kind: Kind
    reason: str = ""
    fixed: tuple[float, float] | None = None
    moves: bool = True


NONE = Rule(Kind.NONE)
OWN = Rule(Kind.OWN)
SHARE = Rule(Kind.SHARE)
BLEND = Rule(Kind.SHARE, moves=False)

# Two float tensors in, one out. The int8 kernels take quantized tensors on both sides and no plain number.
_BINARY = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor)

_OWN = (
    aten.mean.dim,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.silu.default,
    aten.gelu.default,
    aten.elu.default,
    aten.leaky_relu.default,
)

# The ranges behind LiteRT's fixed parameters at 8 bits: logistic and softmax 1/256 and -128, tanh 1/128 and 0,
# log-softmax 16/256 and 127. At 16 bits all of them have 1/32768 and 0, and log-softmax has no kernel.
_FIXED_16 = (-32767 / 32768, 32767 / 32768)
_NO_16 = (aten.log_softmax.int, aten._log_softmax.default)
_FIXED = {
    aten.sigmoid.default: (0.0, 255 / 256),
    aten.softmax.int: (0.0, 255 / 256),
    aten._softmax.default: (0.0, 255 / 256),
    aten.tanh.default: (-1.0, 127 / 128),
    aten.log_softmax.int: (-255 / 16, 0.0),
    aten._log_softmax.default: (-255 / 16, 0.0),
}

_MOVES = (
    aten.alias.default,
    aten.channel_shuffle.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.flip.default,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.movedim.int,
    aten.narrow.default,
    aten.permute.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.repeat.default,
    aten.reshape.default,
    aten.roll.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.t.default,
    aten.transpose.int,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.upsample_nearest2d.default,
    aten.upsample_nearest2d.vec,
    aten.view.default,
)

_BLENDS = (
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.upsample_bilinear2d.default,
    aten.upsample_bilinear2d.vec,
)

_SPLITS = (
    aten.chunk.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unbind.int,
)

_JOINS = (aten.cat.default, aten.concat.default, aten.stack.default)

_PADS = (aten.pad.default, aten.constant_pad_nd.default)

_NOT_TENSORS = (aten.sym_size.int, aten.sym_numel.default, aten._assert_scalar.default)

_TABLE: dict[Any, Rule] = {
    **dict.fromkeys(_OWN, OWN),
    **{op: Rule(Kind.FIXED, fixed=fixed) for op, fixed in _FIXED.items()},
    **dict.fromkeys(_MOVES, SHARE),
    **dict.fromkeys(_BLENDS, BLEND),
    **dict.fromkeys(_SPLITS, Rule(Kind.SPLIT)),
    **dict.fromkeys(_JOINS, Rule(Kind.JOIN)),
    **dict.fromkeys(_NOT_TENSORS, NONE),
}

# Activations that cut or bend one value at a time: between such an op and one in float there is nothing to round.
_FOLLOWING = (
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.silu.default,
    aten.gelu.default,
    aten.elu.default,
    aten.leaky_relu.default,
)


def rule_for(graph_module: fx.GraphModule, node: fx.Node) -> Rule:
    """The rule for one node of a traced model."""
    if node.op == "call_module":
        return _layer_rule(graph_module.get_submodule(str(node.target)))
    if node.op != "call_function" or _no_float_tensor(node):
        return NONE
    if node.target in _BINARY:
        return _binary_rule(node)
    if clamp_bounds(node) is not None:
        return _clamp_rule(node)
    if node.target in _PADS:
        return _pad_rule(node)
    if node.target is aten.adaptive_avg_pool2d.default:
        # To one pixel it is a mean, which rescales in every runtime; to more it becomes an average pooling.
        size = node.args[1]
        return OWN if all(side == 1 for side in (size if isinstance(size, (list, tuple)) else [size])) else BLEND
    if node.target is operator.getitem:
        return SHARE if isinstance(node.args[0], fx.Node) and node.args[0].target in _SPLITS else NONE
    if node.target in _TABLE:
        return _TABLE[node.target]
    return Rule(Kind.FLOAT, reason_for_op(node.target))


def fixed_range(rule: Rule, node: fx.Node, bits: int) -> tuple[float, float] | None:
    """The range that a FIXED op's mathematics gives at `bits`; None where there is no kernel at these bits."""
    if bits == 8:
        return rule.fixed
    return None if node.target in _NO_16 else _FIXED_16


def absorbs(graph_module: fx.GraphModule, producer: fx.Node, activation: fx.Node) -> bool:
    """Whether the int8 kernel of `producer` computes `activation` too, in all four runtimes.

    XNNPACK's convolutions and linear layers absorb relu and hardtanh, its addition relu alone.
    """
    bounds = clamp_bounds(activation)
    if bounds is None:
        return False
    kind = rule_for(graph_module, producer).kind
    if kind is Kind.LAYER:
        return bounds == (0.0, None) or None not in bounds
    return kind is Kind.OWN and producer.target is aten.add.Tensor and bounds == (0.0, None)


def follows(activation: fx.Node) -> bool:
    """Whether an op is an activation that computes in float where the op that it alone reads does."""
    return activation.target in _FOLLOWING or clamp_bounds(activation) is not None


def _layer_rule(layer: nn.Module) -> Rule:
    if isinstance(layer, LAYERS):
        return Rule(Kind.LAYER)
    return Rule(Kind.FLOAT, reason_for_layer(type(layer).__name__))


def _clamp_rule(node: fx.Node) -> Rule:
    """The rule of a clamp that stands alone: zero must lie inside its bounds for its input's range to serve."""
    low, high = clamp_bounds(node) or (None, None)
    if (low is None or low <= 0.0) and (high is None or high >= 0.0):
        return BLEND
    return Rule(Kind.FLOAT, "its bounds leave out zero, which every int8 range contains")


def _binary_rule(node: fx.Node) -> Rule:
    if node.kwargs.get("alpha", 1) != 1:
        return Rule(Kind.FLOAT, "int8 kernels add without a factor (alpha)")
    operands = (*node.args, *node.kwargs.values())[:2]
    if any(not isinstance(operand, fx.Node) or _no_float_tensor(operand) for operand in operands):
        return Rule(Kind.FLOAT, "one operand is a plain number; int8 kernels take two tensors")
    return OWN


def _pad_rule(node: fx.Node) -> Rule:
    is_constant = node.target is aten.constant_pad_nd.default
    mode = "constant" if is_constant else argument(node, 2, "mode", "constant")
    value = argument(node, 2 if is_constant else 3, "value", None)
    if mode == "constant" and value not in (None, 0, 0.0):
        return Rule(Kind.FLOAT, "it pads with another value than zero")
    return SHARE


def _no_float_tensor(node: fx.Node) -> bool:
    """Whether the node is known to carry something else than a float tensor, or a list of them."""
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if value is None:  # an edited graph may have lost its recorded values
        is_arithmetic = getattr(node.target, "__module__", "") == "_operator" and node.target is not operator.getitem
        return is_arithmetic or node.target in _NOT_TENSORS
    return not isinstance(value, torch.Tensor) or not value.is_floating_point()
