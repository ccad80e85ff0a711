"""Mixed precision by measured sensitivity: the layers that rounding hurts most keep more bits, as few as will do.

Each layer is measured twice on calibration data: with only this layer rounded, and with all but this one. Both give
the share of noise in the output that it answers for. The layers are then kept in the order of that share until the
task's quality is within the asked drop, and kept ones that turn out not to be needed are given back (the selective rule
of "A Unified Compression Framework for Efficient Speech-Driven Talking-Face Generation", 2023: rank by output error;
the worst remain float16).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.errors import Infeasible
from compress.graph.layers import LAYERS
from compress.quantize.batches import Predict, run_batch
from compress.quantize.fake_quant import ActivationFakeQuant
from compress.quantize.network import fake_quants, quantized_layers
from compress.quantize.schemes import precision

_SCALE_BYTES = 4  # a float32 scale per channel or group, a float32 table entry


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What rounding one layer does to the network's output, in dB of signal over noise (SQNR) against the float model.

    `alone_db`: only this layer rounded (low where it is sensitive). `without_db`: all but this one (high where it is).
    `harm` is the noise it answers for, in shares of the signal's power: the mean of both views.
    """

    layer: str
    alone_db: float
    without_db: float
    harm: float


@dataclass(frozen=True, slots=True)
class Choice:
    """One look of the search: the layers kept at more bits, and what the network is then."""

    kept: tuple[str, ...]
    quality: float
    size_bytes: int
    latency_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain JSON data."""
        return {**asdict(self), "kept": list(self.kept)}


@torch.no_grad()
def sensitivities(
    prepared: fx.GraphModule, folded: fx.GraphModule, batches: Iterable[Any], predict: Predict | None = None
) -> list[Sensitivity]:
    """What rounding each layer does to the output, the most harmful layer first.

    A layer's rounding is that of its weight and of the value behind it. The network is left as it was.

    Args:
        prepared: from `prepare`, calibrated.
        folded: the float model it was made of.
        batches: calibration batches.
        predict: runs a model on a batch; by default the model is called with it.
    """
    kept, run = list(batches), predict or run_batch
    was_training = prepared.training
    prepared.eval()
    goals = [_output(run(folded.eval(), batch)) for batch in kept]

    def noise(rounded: Collection[str], others: bool) -> float:
        with _rounding_only(prepared, rounded, others):
            return noise_share(goals, (_output(run(prepared, batch)) for batch in kept))

    layers = list(quantized_layers(prepared))
    everything = noise(layers, others=True)
    found = []
    for layer in layers:
        alone = noise([layer], others=False)
        without = noise([other for other in layers if other != layer], others=True)
        harm = (alone + everything - without) / 2
        found.append(Sensitivity(layer, _decibels(alone), _decibels(without), harm))
    prepared.train(was_training)
    return sorted(found, key=lambda one: -one.harm)


def choose_kept(
    order: Sequence[str], judge: Callable[[tuple[str, ...]], Choice], good_enough: Callable[[float], bool]
) -> tuple[Choice, list[Choice]]:
    """The choice with few kept layers whose quality is good enough, and every look in the order it was taken.

    Layers are kept one by one in `order` until the quality will do; then each is tried without, the last one first, and
    left out where the quality still will do. What remains has no layer too many.

    Raises:
        Infeasible: not even with all layers kept; carries the best look.
    """
    looks: list[Choice] = []
    for count in range(len(order) + 1):
        looks.append(judge(tuple(order[:count])))
        if good_enough(looks[-1].quality):
            break
    else:
        raise Infeasible(
            f"no choice of layers keeps the asked quality: {looks[-1].quality:.4g} with all {len(order)} of them kept; "
            "allow a larger drop, or give the kept layers more bits",
            looks[-1].to_dict(),
            "max_quality_drop",
        )
    chosen = looks[-1]
    for layer in reversed(chosen.kept[:-1]):  # the last one was needed: without it the quality would not do
        look = judge(tuple(other for other in chosen.kept if other != layer))
        looks.append(look)
        if good_enough(look.quality):
            chosen = look
    return chosen, looks


def weight_bytes(folded: nn.Module, scheme: str, schemes: Mapping[str, str]) -> int:
    """What the weights and biases of the layers take in storage: bits of their schemes, scales, tables, float32 biases.

    Args:
        folded: the model.
        scheme: of every layer that `schemes` does not name.
        schemes: layer path -> its own scheme.
    """
    total = 0.0
    for path, layer in folded.named_modules():
        if not isinstance(layer, LAYERS):
            continue
        bits = precision(schemes.get(path, scheme))
        weight: Tensor = layer.weight
        total += weight.numel() * bits.weight_bits / 8
        total += 0 if layer.bias is None else layer.bias.numel() * 4
        if bits.weights == "integer":
            total += _SCALE_BYTES * (weight.numel() / bits.group if bits.group else weight.shape[0])
        elif bits.weights == "palette":
            total += _SCALE_BYTES * 2**bits.weight_bits
    return math.ceil(total)


def noise_share(goals: Sequence[Tensor], outputs: Iterable[Tensor]) -> float:
    """The power of outputs minus goals over the power of the goals: 0 where they are equal."""
    noise = signal = 0.0
    for goal, output in zip(goals, outputs, strict=True):
        noise += float((output.double() - goal.double()).square().sum())
        signal += float(goal.double().square().sum())
    return noise / max(signal, torch.finfo(torch.float64).tiny)


def _decibels(share: float) -> float:
    return -10.0 * math.log10(share) if share > 0 else math.inf


def _output(result: Any) -> Tensor:
    """The first tensor of what a network returns."""
    while isinstance(result, (tuple, list)):
        result = result[0]
    assert isinstance(result, Tensor)
    return result


@contextmanager
def _rounding_only(prepared: fx.GraphModule, layers: Collection[str], others: bool) -> Iterator[None]:
    """For a while only these layers round their weight and the value behind them; all other values by `others`."""
    behind = groups_behind(prepared)
    owned = {group for groups in behind.values() for group in groups}
    wanted = {group for layer in layers for group in behind[layer]}
    modules = quantized_layers(prepared)
    before = {path: module.enabled for path, module in modules.items()}
    with ExitStack() as stack:
        for group, module in fake_quants(prepared).items():
            if group not in wanted and (group in owned or not others):
                handle = module.register_forward_hook(lambda module, inputs, output: inputs[0])
                stack.callback(handle.remove)
        for path, layer in modules.items():
            layer.enabled = path in layers
        try:
            yield
        finally:
            for path, layer in modules.items():
                layer.enabled = before[path]


def groups_behind(prepared: fx.GraphModule) -> dict[str, list[str]]:
    """Layer path -> the groups in which its output is rounded, directly or behind the activation it absorbs."""
    names = {id(module): name for name, module in fake_quants(prepared).items()}
    behind: dict[str, list[str]] = {path: [] for path in quantized_layers(prepared)}
    for node in prepared.graph.nodes:
        if node.op != "call_module" or str(node.target) not in behind:
            continue
        readers = list(node.users)
        for reader in readers + [second for first in readers if _is_activation(first) for second in first.users]:
            module = prepared.get_submodule(str(reader.target)) if reader.op == "call_module" else None
            if isinstance(module, ActivationFakeQuant) and reader.args[0] in (node, *readers):
                behind[str(node.target)].append(names[id(module)])
    return {path: list(dict.fromkeys(groups)) for path, groups in behind.items()}


def _is_activation(node: fx.Node) -> bool:
    return node.op == "call_function" and len(node.all_input_nodes) == 1
