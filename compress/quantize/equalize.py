"""Cross-layer equalization: the channels between two layers are rescaled so that both layers' weights fit one scale.

f(x / s) * s = f(x) for s > 0 wherever f is positively homogeneous: nothing, relu, leaky relu, pooling. So the output
channel i of one layer may be divided by s_i and the input channel i of the next multiplied by it: the network computes
what it did, and with s_i = sqrt(r1_i / r2_i) channel i has the same range sqrt(r1_i r2_i) in both (Nagel et al.,
Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.1).

relu6 and other clamps are not homogeneous. The paper makes them plain relus, which changes the network; here a channel
behind such a clamp is rescaled only as far as calibration data shows that it stays clear of the bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.graph.fold import tensor_readers
from compress.graph.layers import LAYERS
from compress.quantize.batches import Predict, channel_axis_of, over_channels, watch_batches
from compress.quantize.clamps import clamp_bounds

aten = torch.ops.aten

ROUNDS = 20  # passes over all pairs at most; a chain of layers settles in about as many as it has layers
_SETTLED = 1e-3  # a pass that moves no channel by more than 0.1 % is the last
HEADROOM = 2.0  # a channel behind a clamp stays at this factor below the bound, by what calibration saw
_DEAD = 2.0**-10  # share of the largest range below which a channel counts as dead

# Ops that let a positive factor per channel through. Channels lie on axis 1, behind a linear layer on the last.
_HOMOGENEOUS = (aten.leaky_relu.default, aten.clone.default, aten.contiguous.default, aten.alias.default)
_POOLINGS = (
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers that only each other's channels lie between; `clamp` is the node that bounds them from above."""

    first: str
    second: str
    clamp: str = ""
    bound: float = float("inf")


def equalize(
    folded: fx.GraphModule, batches: Iterable[Any] = (), predict: Predict | None = None
) -> tuple[list[str], dict[str, str]]:
    """Equalize the weights of all pairs of layers, in place; what was done and, by layer, what was not and why.

    Args:
        folded: a traced model with its batch norms folded.
        batches: calibration batches; needed only where a clamp like relu6 stands between two layers.
        predict: runs the model on a batch; by default the model is called with the batch.

    Returns:
        "first > second" for each pair whose channels moved, and {first layer: reason} for those left alone.
    """
    pairs, skipped = find_pairs(folded)
    seen = _largest_inputs(folded, [pair for pair in pairs if pair.clamp], batches, predict)
    usable = [pair for pair in pairs if not pair.clamp or pair.clamp in seen]
    for pair in pairs:
        if pair not in usable:
            skipped[pair.first] = f"its clamp at {pair.bound:g} needs calibration data to be rescaled under"
    moved: Counter[Pair] = Counter()
    for _ in range(ROUNDS):
        changes = {pair: _equalize_pair(folded, pair, seen) for pair in usable}
        moved.update({pair: 1 for pair, change in changes.items() if change > _SETTLED})
        if max(changes.values(), default=0.0) <= _SETTLED:
            break
    return [f"{pair.first} > {pair.second}" for pair in usable if moved[pair]], skipped


def find_pairs(folded: fx.GraphModule) -> tuple[list[Pair], dict[str, str]]:
    """The pairs of layers to equalize in graph order, and for each other layer why it begins none."""
    calls = Counter(str(node.target) for node in folded.graph.nodes if node.op == "call_module")
    pairs: list[Pair] = []
    skipped: dict[str, str] = {}
    for node in folded.graph.nodes:
        if _layer(folded, node) is None:
            continue
        found = _follow(folded, node, calls)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            skipped[str(node.target)] = found
    return pairs, skipped


def _follow(folded: fx.GraphModule, start: fx.Node, calls: Counter[str]) -> Pair | str:
    """The pair that begins with a layer, or why there is none."""
    node, clamp, bound, first = start, "", float("inf"), _layer(folded, start)
    if calls[str(start.target)] > 1:
        return "it is used in several places"
    while True:
        readers = tensor_readers(node)
        if len(readers) != 1:
            return f"{node.name} has {len(readers)} readers"
        source, node = node, readers[0]
        second = _layer(folded, node)
        if second is not None:
            break
        bounds = clamp_bounds(node)
        if bounds is not None and bounds[0] in (0.0, None):
            if bounds[1] is not None:
                if clamp or bounds[1] <= 0:
                    return f"{node.name} is no clamp that a rescaled channel can pass"
                clamp, bound = node.name, bounds[1]
        elif not _passes(node, first):
            return f"{node.name} does not let a factor per channel through"
    if calls[str(node.target)] > 1:
        return f"{node.target} is used in several places"
    if _width(first, output=True) != _width(second, output=False) or not _on_one_axis(first, second, source):
        return f"{node.target} does not take its channels one by one"
    return Pair(str(start.target), str(node.target), clamp, bound)


def _passes(node: fx.Node, first: Any) -> bool:
    """Whether a positive factor per channel passes through the op unchanged."""
    if node.op != "call_function":
        return False
    if node.target in _HOMOGENEOUS:
        return True
    if isinstance(first, nn.Linear):
        return False
    if node.target is aten.mean.dim:
        axes = node.args[1] if len(node.args) > 1 else None
        return isinstance(axes, (list, tuple)) and sorted(a % 4 for a in axes) == [2, 3]
    is_flat = node.target is aten.flatten.using_ints and tuple(node.args[1:2]) == (1,)
    return node.target in _POOLINGS or is_flat


def _on_one_axis(first: Any, second: Any, source: fx.Node) -> bool:
    """Whether the second layer reads its input channels from the axis on which the first one puts its own."""
    if isinstance(first, nn.Linear) or not isinstance(second, nn.Linear):
        return isinstance(first, nn.Linear) == isinstance(second, nn.Linear)
    # A linear layer behind a convolution: only on (N, C), where pooling to one pixel or flattening took the image away.
    value = source.meta.get("val")
    return value is not None and value.dim() == 2


def channel_ids(layer: Any, output: bool) -> Tensor:
    """For each element of a layer's weight the number of its output (or input) channel: int64, the weight's shape.

    A convolution's weight is (out, in / groups, *kernel), a transposed one's (in, out / groups, *kernel): on the second
    axis channels count from the first of the element's group.
    """
    shape = layer.weight.shape
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    along = torch.arange(shape[0])
    if output != isinstance(layer, _TRANSPOSED):
        ids = along[:, None].expand(shape[0], shape[1])
    else:
        group = along // (shape[0] // groups)
        ids = group[:, None] * shape[1] + torch.arange(shape[1])
    ids = ids.reshape(shape[0], shape[1], *[1] * (len(shape) - 2))
    return ids.expand(shape).to(layer.weight.device)


def channel_ranges(layer: Any, output: bool) -> Tensor:
    """The largest weight magnitude of each output (or input) channel of a layer: float32 (channels,)."""
    ids = channel_ids(layer, output).flatten()
    magnitudes = layer.weight.detach().abs().float().flatten()
    return magnitudes.new_zeros(_width(layer, output)).scatter_reduce_(0, ids, magnitudes, "amax")


@torch.no_grad()
def rescale(layer: Any, factors: Tensor, output: bool) -> None:
    """Multiply a layer's output (or input) channels by `factors` (channels,), in place; outputs take the bias along."""
    layer.weight.mul_(factors.to(layer.weight.dtype)[channel_ids(layer, output)])
    if output and layer.bias is not None:
        layer.bias.mul_(factors.to(layer.bias.dtype))


def _equalize_pair(folded: fx.GraphModule, pair: Pair, seen: dict[str, Tensor]) -> float:
    """Equalize one pair, in place, and return the largest relative move of a channel."""
    first, second = folded.get_submodule(pair.first), folded.get_submodule(pair.second)
    before, after = channel_ranges(first, output=True), channel_ranges(second, output=False)
    factors = torch.sqrt(before / after)
    if pair.clamp:
        factors = torch.maximum(factors, seen[pair.clamp] * HEADROOM / pair.bound)
        factors = torch.where(seen[pair.clamp] * HEADROOM > pair.bound, torch.ones_like(factors), factors)
    # A channel that all but vanishes on either side has no range to share: rescaled, its bias would dwarf the others.
    alive = (before > before.amax() * _DEAD) & (after > after.amax() * _DEAD)
    factors = torch.where(alive, factors, torch.ones_like(factors))
    rescale(first, 1.0 / factors, output=True)
    rescale(second, factors, output=False)
    if pair.clamp:
        seen[pair.clamp] /= factors
    return float((factors - 1.0).abs().amax())


def _largest_inputs(
    folded: fx.GraphModule, pairs: list[Pair], batches: Iterable[Any], predict: Predict | None
) -> dict[str, Tensor]:
    """Clamp -> the largest value that calibration saw in each channel before it: float32 (channels,)."""
    clamp_behind = {pair.first: pair.clamp for pair in pairs}
    seen: dict[str, Tensor] = {}

    def keep(path: str, x: Tensor, output: Tensor) -> None:
        axis = channel_axis_of(folded.get_submodule(path), output)
        largest = output.float().clamp(min=0.0).amax(over_channels(output, axis))
        seen[clamp_behind[path]] = torch.maximum(seen.get(clamp_behind[path], torch.zeros_like(largest)), largest)

    if pairs:
        watch_batches(folded, batches, clamp_behind, keep, predict)
    return seen


def _layer(folded: fx.GraphModule, node: fx.Node) -> Any:
    """The convolution or linear layer that a node calls; None where it calls none."""
    layer = folded.get_submodule(str(node.target)) if node.op == "call_module" else None
    return layer if isinstance(layer, LAYERS) else None


def _width(layer: Any, output: bool) -> int:
    if isinstance(layer, nn.Linear):
        return int(layer.out_features if output else layer.in_features)
    return int(layer.out_channels if output else layer.in_channels)
