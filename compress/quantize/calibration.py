"""Post-training quantization: ranges from calibration data, and the plan from a network whose ranges stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx

from compress.errors import DataError
from compress.quantize.batches import Predict, run_batch
from compress.quantize.network import fake_quants, prepare, recorded, set_state, weights_now
from compress.quantize.quant_plan import Activation, QuantPlan
from compress.quantize.schemes import activation_bounds


def plan(
    folded: fx.GraphModule,
    scheme: str,
    batches: Iterable[Any],
    ranges: str = "mse",
    predict: Predict | None = None,
    schemes: Mapping[str, str] | None = None,
) -> QuantPlan:
    """The post-training plan of a folded model; reads and changes nothing.

    Args:
        folded: a traced model with its batch norms folded.
        scheme: "w8a8" and the like (`compress.quantize.schemes`).
        batches: calibration batches; each a tensor (N, ...) or a sequence that begins with the model's inputs.
        ranges: "mse", "percentile", "minmax" or "entropy".
        predict: runs the model on a batch where a batch is neither of the above.
        schemes: layer path -> its own scheme, where that is not `scheme`.

    Raises:
        DataError: no batches, or NaN in the model's values.
    """
    prepared = prepare(folded, scheme, ranges, schemes)
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
    run = predict or run_batch
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
    modules, values = fake_quants(prepared), note["places"].values
    reads = {
        reader: {name: _activation(modules[values[name].group], bits) for name, bits in wanted.items()}
        for reader, wanted in note["places"].reads.items()
    }
    weights, groups, codebooks = weights_now(prepared)
    floats = dict(note["places"].float_ops)
    return QuantPlan(note["scheme"], activations, weights, floats, note["schemes"], reads, groups, codebooks)


def _activation(module: Any, bits: int = 0) -> Activation:
    scale, zero_point = module.parameters_now(bits)
    return float(scale), int(zero_point), *activation_bounds(bits or module.bits)
