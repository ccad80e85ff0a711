"""Why ops compute in float in an int8 model, in words: for those that no common int8 kernel takes."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

_LAYERS = (
    ("BatchNorm", "a batch norm that could not be folded has no int8 kernel"),
    ("GroupNorm", "group norm has no int8 kernel"),
    ("LayerNorm", "layer norm has no int8 kernel"),
)

_OPS: dict[Any, str] = {
    aten.group_norm.default: "group norm has no int8 kernel",
    aten.instance_norm.default: "instance norm has no int8 kernel",
    aten.layer_norm.default: "layer norm has no int8 kernel",
    aten.scaled_dot_product_attention.default: "attention as one op has no int8 kernel",
    aten.sin.default: "sine has no int8 kernel",
    aten.cos.default: "cosine has no int8 kernel",
    aten.div.Tensor: "division has no int8 kernel",
}


def reason_for_op(op: Any) -> str:
    """Why an ATen op that the table of rules does not have stays float."""
    return _OPS.get(op, f"no rule for {op}")


def reason_for_layer(name: str) -> str:
    """Why a layer that is neither a convolution nor linear stays float, by its class's name."""
    return next((text for prefix, text in _LAYERS if name.startswith(prefix)), f"no rule for the layer {name}")
