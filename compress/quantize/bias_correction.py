"""Bias correction: rounding shifts the mean of a layer's output, and the layer's bias takes the shift back.

The rounding errors of a channel's weights do not sum to zero, and behind a relu the inputs all have one sign: the mean
of the output moves. The shift is measured on calibration data, layer by layer in the order of the graph, with every
layer before it already corrected, and subtracted from the bias (Nagel et al., Data-Free Quantization Through Weight
Equalization and Bias Correction, 2019, section 4.2 and appendix D).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from compress.quantize.batches import Predict, channel_axis_of, over_channels, watch_batches
from compress.quantize.network import quantized_layers


@torch.no_grad()
def correct_biases(
    prepared: fx.GraphModule, folded: fx.GraphModule, batches: Iterable[Any], predict: Predict | None = None
) -> tuple[dict[str, float], list[str]]:
    """Correct the biases of a calibrated network's layers, in place.

    Args:
        prepared: from `prepare`, calibrated, so that it computes rounded.
        folded: the float model it was made of.
        batches: calibration batches.
        predict: runs a model on a batch; by default the model is called with it.

    Returns:
        {layer: the largest shift taken back, as a share of the output's standard deviation}, and the layers that have
        no bias to correct.
    """
    kept = list(batches)
    layers = quantized_layers(prepared)
    paths = [path for path in _in_order(prepared, layers) if layers[path].bias is not None]
    means, deviations = channel_statistics(folded, folded, kept, paths, predict)
    shifts: dict[str, float] = {}
    for path in paths:
        now, _ = channel_statistics(prepared, folded, kept, [path], predict)
        shift = now[path] - means[path]
        bias: Tensor = layers[path].bias  # type: ignore[assignment]
        bias.sub_(shift.to(bias.dtype))
        shifts[path] = float((shift.abs() / deviations[path].clamp(min=1e-12)).amax())
    return shifts, [path for path in layers if path not in shifts]


def channel_statistics(
    network: fx.GraphModule,
    folded: fx.GraphModule,
    batches: Iterable[Any],
    paths: Iterable[str],
    predict: Predict | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The mean and standard deviation of each output channel of the named layers: {path: float64 (channels,)}, twice.

    `folded` tells of what kind the layers are, and so where their channels lie.
    """
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(path: str, x: Tensor, output: Tensor) -> None:
        rest = over_channels(output, channel_axis_of(folded.get_submodule(path), output))
        values = output.double()
        sums[path] = sums.get(path, 0) + values.sum(rest)
        squares[path] = squares.get(path, 0) + values.square().sum(rest)
        counts[path] = counts.get(path, 0) + output.numel() // len(sums[path])

    watch_batches(network, batches, list(paths), watch, predict)
    means = {path: total / counts[path] for path, total in sums.items()}
    deviations = {path: (squares[path] / counts[path] - means[path].square()).clamp(min=0).sqrt() for path in means}
    return means, deviations


def _in_order(prepared: fx.GraphModule, layers: Any) -> list[str]:
    """The layers' paths in the order in which the graph first calls them."""
    called = [str(node.target) for node in prepared.graph.nodes if node.op == "call_module"]
    return [path for path in dict.fromkeys(called) if path in layers]
