"""The activations that cut a value to an interval, in all the ways that ATen writes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def clamp_bounds(node: fx.Node) -> tuple[float | None, float | None] | None:
    """The (low, high) to which an op cuts its input, relu included; None where it is no such op."""
    if node.op != "call_function":
        return None
    if node.target is aten.relu.default:
        return (0.0, None)
    if node.target is aten.relu6.default:
        return (0.0, 6.0)
    if node.target is aten.hardtanh.default:
        return _bound(node, 1, "min_val", -1.0), _bound(node, 2, "max_val", 1.0)
    if node.target in (aten.clamp.default, aten.clip.default):
        return _bound(node, 1, "min", None), _bound(node, 2, "max", None)
    return None


def _bound(node: fx.Node, place: int, name: str, default: float | None) -> float | None:
    value = argument(node, place, name, default)
    return None if value is None else float(value)


def argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    """An argument of a call, however it was passed."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
