"""Post-training quantization: ranges from calibration data, and the plan from a network whose ranges stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from compress.errors import DataError
from compress.quantize.network import fake_quants, prepare, quantized_layers, recorded, set_state
from compress.quantize.quant_plan import Activation, QuantPlan, Weight

Predict = Callable[[fx.GraphModule, Any], Any]


def plan(
    folded: fx.GraphModule, scheme: str, batches: Iterable[Any], ranges: str = "mse", predict: Predict | None = None
) -> QuantPlan:
    """The post-training plan of a folded model; reads and changes nothing.

    Args:
        folded: a traced model with its batch norms folded.
        scheme: "w8a8".
        batches: calibration batches; each a tensor (N, ...) or a sequence that begins with the model's inputs.
        ranges: "mse", "percentile" or "minmax".
        predict: runs the model on a batch where a batch is neither of the above.

    Raises:
        DataError: no batches, or NaN in the model's values.
    """
    prepared = prepare(folded, scheme, ranges)
    calibrate(prepared, batches, predict)
    return freeze(prepared)


@torch.no_grad()
def calibrate(prepared: fx.GraphModule, batches: Iterable[Any], predict: Predict | None = None) -> None:
    """Choose every activation range from data, in place, and leave the network in the state "train".

    The batches are gone through twice: for the extremes, then for the histograms between them.

    Raises:
        DataError: there is no batch, or a value is NaN or infinite (named).
    """
    kept = list(batches)
    if not kept:
        raise DataError("calibration got no batch; give the quantize step at least one")
    was_training = prepared.training
    run = predict or _predict
    prepared.eval()
    set_state(prepared, "observe")
    modules = fake_quants(prepared).values()
    for module in modules:
        module.reset()
    for batch in kept:
        run(prepared, batch)
    for module in modules:
        module.start_counting()
    if recorded(prepared)["ranges"] != "minmax":
        for batch in kept:
            run(prepared, batch)
    for module in modules:
        module.settle(recorded(prepared)["ranges"])
    set_state(prepared, "train")
    prepared.train(was_training)


@torch.no_grad()
def freeze(prepared: fx.GraphModule) -> QuantPlan:
    """The plan of a calibrated or trained network, which is left in eval mode and in the state "frozen"."""
    set_state(prepared.eval(), "frozen")
    note = recorded(prepared)
    of_group = {name: _activation(module) for name, module in fake_quants(prepared).items()}
    activations = {name: of_group[value.group] for name, value in note["places"].values.items()}
    layers = quantized_layers(prepared)
    weights: dict[str, Weight] = {
        path: (layers[path].axis, tuple(float(scale) for scale in layers[path].scales()))
        for path in note["places"].layers
    }
    return QuantPlan(note["scheme"], activations, weights, dict(note["places"].float_ops))


def _activation(module: Any) -> Activation:
    scale, zero_point = module.parameters_now()
    return float(scale), int(zero_point), module.qmin, module.qmax


def _predict(prepared: fx.GraphModule, batch: Any) -> Any:
    """Run the network on a batch: a tensor, or a sequence that begins with the model's inputs."""
    count = sum(node.op == "placeholder" for node in prepared.graph.nodes)
    parts = [batch] if isinstance(batch, Tensor) else list(batch)[:count]
    if len(parts) < count:
        raise DataError(f"a calibration batch holds {len(parts)} tensors where the model takes {count}")
    parameter = next(prepared.parameters())
    return prepared(*(part.to(parameter.device) for part in parts))
