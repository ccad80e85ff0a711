"""Learned rounding: each weight goes up or down, whichever keeps the layer's output, instead of to the nearest integer.

Rounding to nearest is not the best a layer can do: errors of weights that go together can cancel. For every weight
a variable V says how far it goes from its floor, h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1), and V is learned to keep the
layer's output on calibration data, plus a penalty sum 1 - |2 h - 1|^b that drives h to 0 or 1 as b falls from 20 to 2
(Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, 2020, equations 21 to 25). Layers are done
in the order of the graph; each sees the inputs that the rounded layers before it give, and aims at the float output.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from compress.quantize.batches import Predict, channel_axis_of, over_channels, watch_batches
from compress.quantize.fake_quant import FakeQuantLayer
from compress.quantize.layers import PER_TENSOR
from compress.quantize.network import quantized_layers

STEPS = 1000  # per layer; the paper takes 10,000, and nine tenths of the gain come with the first thousand or so
_LEARNING_RATE = 1e-2
_PENALTY = 0.01  # lambda of the paper
_WARM_UP = 0.2  # share of the steps before the penalty sets in
_FIRST_POWER, _LAST_POWER = 20.0, 2.0
_LOW, _HIGH = -0.1, 1.1  # gamma and zeta: h reaches 0 and 1 with V still finite
_BATCH = 32
_SAMPLES = 512  # inputs kept per layer; what calibration gives beyond is not looked at
_BOUND = 1e-3  # a weight this close to an integer stays there; so the largest ones, which set the scale, never move


def learn_rounding(
    prepared: fx.GraphModule,
    folded: fx.GraphModule,
    batches: Iterable[Any],
    steps: int = STEPS,
    predict: Predict | None = None,
) -> dict[str, float]:
    """Move every weight of a calibrated network's integer layers onto the learned one of its two integers, in place.

    `freeze` and `apply` then round to that very integer. The result depends on the batches only: no random state is
    read or left behind.

    Args:
        prepared: from `prepare`, calibrated.
        folded: the float model it was made of.
        batches: calibration batches.
        steps: optimizer steps per layer.
        predict: runs a model on a batch; by default the model is called with it.

    Returns:
        {layer: share of its weights that went another way than to the nearest integer}.
    """
    kept, layers = list(batches), quantized_layers(prepared)
    called = dict.fromkeys(str(node.target) for node in prepared.graph.nodes if node.op == "call_module")
    moved: dict[str, float] = {}
    for path in called:
        if path not in layers or layers[path].precision.weights != "integer":
            continue
        inputs = _caught(prepared, kept, path, predict, want_input=True)
        goals = _caught(folded, kept, path, predict, want_input=False)
        axis = channel_axis_of(folded.get_submodule(path), goals)
        moved[path] = _round_layer(layers[path], inputs, goals, axis, steps)
    return moved


def rounding_share(variable: Tensor) -> Tensor:
    """h(V): how far each weight goes from its floor towards its ceiling, 0 to 1."""
    return (torch.sigmoid(variable) * (_HIGH - _LOW) + _LOW).clamp(0.0, 1.0)


def rounding_variable(share: Tensor) -> Tensor:
    """The V whose h(V) is `share`, which lies in 0..1: where the learning starts, the float weight itself."""
    return -torch.log((_HIGH - _LOW) / (share - _LOW) - 1.0)


def penalty(share: Tensor, power: float) -> Tensor:
    """The sum of 1 - |2 h - 1|^b: a scalar, 0 where every share is 0 or 1."""
    return (1.0 - (2.0 * share - 1.0).abs().pow(power)).sum()


def _round_layer(layer: FakeQuantLayer, inputs: Tensor, goals: Tensor, axis: int, steps: int) -> float:
    """Learn one layer's rounding and write its weight onto the integers, in place; the share that left the nearest."""
    weight = layer.weight.detach()
    scale = spread_scales(layer)
    ratio = weight * (1.0 / scale)
    floor, nearest = ratio.floor(), ratio.round()
    free = ((ratio - floor) > _BOUND) & ((ratio - floor) < 1.0 - _BOUND)
    variable = rounding_variable(ratio - floor).requires_grad_(True)
    optimizer = torch.optim.Adam([variable], lr=_LEARNING_RATE)
    generator = torch.Generator().manual_seed(0)
    bias: Any = layer.bias
    bias = None if bias is None else bias.detach()
    rest = over_channels(goals, axis)
    for step in range(steps):
        chosen = torch.randint(0, len(inputs), (min(_BATCH, len(inputs)),), generator=generator)
        share = rounding_share(variable)
        integers = torch.where(free, floor + share, nearest).clamp(-layer.weight_max, layer.weight_max)
        output = layer.op(inputs[chosen], integers * scale, bias, *layer.settings)
        loss = (output - goals[chosen]).square().mean(rest).sum()
        power = _power(step / steps)
        if power:
            loss = loss + _PENALTY * penalty(share[free], power)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        learned = torch.where(free, floor + (rounding_share(variable) >= 0.5), nearest)
        learned = learned.clamp(-layer.weight_max, layer.weight_max)
        layer.weight.copy_(learned * scale)
        return float((learned != nearest.clamp(-layer.weight_max, layer.weight_max)).float().mean())


def spread_scales(layer: FakeQuantLayer) -> Tensor:
    """The layer's scales, each in the place of the weights it belongs to: they broadcast to the weight's shape."""
    scales, weight = layer.scales().detach(), layer.weight
    if layer.group:
        return scales[:, None].expand(-1, layer.group).reshape(weight.shape)
    if layer.axis == PER_TENSOR:
        return scales
    return scales.reshape([-1 if d == layer.axis else 1 for d in range(weight.dim())])


def _power(progress: float) -> float:
    """The penalty's power at a share of the steps; 0 while it is switched off."""
    if progress < _WARM_UP:
        return 0.0
    return _FIRST_POWER + (_LAST_POWER - _FIRST_POWER) * (progress - _WARM_UP) / (1.0 - _WARM_UP)


def _caught(
    network: fx.GraphModule, batches: Iterable[Any], path: str, predict: Predict | None, want_input: bool
) -> Tensor:
    """What one layer takes in, or gives out, on the batches: float32 (samples, ...)."""
    values: list[Tensor] = []

    def watch(_: str, x: Tensor, output: Tensor) -> None:
        if sum(map(len, values)) < _SAMPLES:
            values.append((x if want_input else output).float())

    watch_batches(network, batches, [path], watch, predict)
    return torch.cat(values)[:_SAMPLES]
