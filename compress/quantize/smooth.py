"""SmoothQuant: outlier channels of a layer norm's output are moved into the weights of the linear layers behind it.

A few channels of a transformer's activations are tens of times larger than the others, and one scale for all rounds the
others away. Y = (X / s) (s W): with s_j = max|X_j|^a / max|W_j|^(1-a) the channel is divided by s_j inside the norm's
own scale and shift, and the weights that read it are multiplied by s_j (Xiao et al., SmoothQuant, 2022, equation 4).
The network computes what it did, and no op is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.graph.fold import tensor_readers
from compress.quantize.batches import Predict, over_channels, watch_batches

STRENGTH = 0.5  # a: how much of the outliers the weights take; the paper's value for most networks
OUTLIER = 4.0  # a norm is smoothed where its largest channel is this many times the median one


@dataclass(frozen=True, slots=True)
class Outlet:
    """A layer norm whose output is read by linear layers only."""

    norm: str
    readers: tuple[str, ...]


def smooth(
    folded: fx.GraphModule,
    batches: Iterable[Any],
    strength: float = STRENGTH,
    outlier: float = OUTLIER,
    predict: Predict | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Smooth every layer norm whose output has outlier channels, in place; what was done, and what was not and why.

    Args:
        folded: a traced model.
        batches: calibration batches, for the largest magnitude of each channel.
        strength: the share a of the outliers that moves into the weights, 0 to 1.
        outlier: least ratio of the largest channel to the median one.
        predict: runs the model on a batch; by default the model is called with it.

    Returns:
        {norm: how many times its largest channel was the median one} for those smoothed, and {norm: reason}.
    """
    outlets, skipped = find_outlets(folded)
    seen = _magnitudes(folded, outlets, batches, predict)
    done: dict[str, float] = {}
    for outlet in outlets:
        largest = seen[outlet.norm]
        ratio = float(largest.amax() / largest.median().clamp(min=torch.finfo(torch.float32).tiny))
        if ratio < outlier:
            skipped[outlet.norm] = f"no outliers: its largest channel is {ratio:.1f} times the median one"
            continue
        _move(folded, outlet, largest, strength)
        done[outlet.norm] = ratio
    return done, skipped


def find_outlets(folded: fx.GraphModule) -> tuple[list[Outlet], dict[str, str]]:
    """The layer norms that can be smoothed, in graph order, and for each other one why it cannot."""
    calls = Counter(str(node.target) for node in folded.graph.nodes if node.op == "call_module")
    outlets: list[Outlet] = []
    skipped: dict[str, str] = {}
    for node in folded.graph.nodes:
        norm = folded.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, nn.LayerNorm):
            continue
        readers = tensor_readers(node)
        others = [reader.name for reader in readers if not _is_linear(folded, reader)]
        paths = tuple(dict.fromkeys(str(reader.target) for reader in readers))
        if norm.weight is None or len(norm.normalized_shape) != 1:
            skipped[str(node.target)] = "it has no scale per channel to fold into"
        elif others or not paths:
            skipped[str(node.target)] = f"{', '.join(others) or 'the output'} reads it beside linear layers"
        elif any(calls[path] > 1 for path in (str(node.target), *paths)):
            skipped[str(node.target)] = "it or a layer behind it is used in several places"
        else:
            outlets.append(Outlet(str(node.target), paths))
    return outlets, skipped


def smoothing_factors(activations: Tensor, weights: Tensor, strength: float) -> Tensor:
    """s_j = max|X_j|^a / max|W_j|^(1-a): (channels,), 1 where a channel or its weights are all zero."""
    factors = activations.pow(strength) / weights.pow(1.0 - strength)
    return torch.where((activations > 0) & (weights > 0), factors, torch.ones_like(factors))


@torch.no_grad()
def _move(folded: fx.GraphModule, outlet: Outlet, largest: Tensor, strength: float) -> None:
    """Divide the norm's channels and multiply the readers' weights, in place."""
    norm: Any = folded.get_submodule(outlet.norm)
    readers: list[Any] = [folded.get_submodule(path) for path in outlet.readers]
    weights = torch.stack([reader.weight.detach().abs().float().amax(0) for reader in readers]).amax(0)
    factors = smoothing_factors(largest, weights, strength)
    norm.weight.div_(factors)
    if norm.bias is not None:
        norm.bias.div_(factors)
    for reader in readers:
        reader.weight.mul_(factors)


def _magnitudes(
    folded: fx.GraphModule, outlets: list[Outlet], batches: Iterable[Any], predict: Predict | None
) -> dict[str, Tensor]:
    """Norm -> the largest magnitude of each channel of its output: float32 (channels,)."""
    seen: dict[str, Tensor] = {}

    def keep(path: str, x: Tensor, output: Tensor) -> None:
        largest = output.float().abs().amax(over_channels(output, -1))
        seen[path] = torch.maximum(seen.get(path, torch.zeros_like(largest)), largest)

    watch_batches(folded, batches, [outlet.norm for outlet in outlets], keep, predict)
    return seen


def _is_linear(folded: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(folded.get_submodule(str(node.target)), nn.Linear)
