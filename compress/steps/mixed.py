"""The search for mixed precision inside the quantize step: the room's measure and search, judged by the task."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import fx

from compress import quantize as room
from compress.errors import UnknownName
from compress.graph.cost import cost_of
from compress.job import Job
from compress.recipe import Mixed, Quantize


def choose_schemes(
    job: Job, settings: Quantize, mixed: Mixed, folded: fx.GraphModule, batches: list[Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """The scheme of each kept layer, and the search as plain data: every sensitivity and every look.

    Raises:
        Infeasible: no choice of layers stays within the drop.
    """
    prepared = room.prepare(folded, settings.scheme, settings.ranges)
    room.calibrate(prepared, batches)
    found = room.sensitivities(prepared, folded, batches)
    wanted = _quality(job, folded, mixed)
    sign = 1.0 if job.judged_task.higher_is_better else -1.0
    latencies = _Latencies(job, settings.scheme, mixed.keep, folded)

    def judge(kept: tuple[str, ...]) -> room.Choice:
        schemes = dict.fromkeys(kept, mixed.keep)
        quality = _quality(job, rounded(folded, settings, batches, schemes), mixed)
        size = room.weight_bytes(folded, settings.scheme, schemes)
        look = room.Choice(kept, quality, size, latencies.of(schemes))
        job.console.say(f"  {len(kept)} layers at {mixed.keep}: quality {quality:.4f}, weights {size:,} bytes")
        return look

    order = [one.layer for one in found]
    chosen, looks = room.choose_kept(order, judge, lambda q: sign * (wanted - q) <= mixed.max_quality_drop)
    record = {
        "float_quality": wanted,
        "sensitivities": [asdict(one) for one in found],
        "looks": [look.to_dict() for look in looks],
        "chosen": chosen.to_dict(),
        "latency": latencies.source,
    }
    return dict.fromkeys(chosen.kept, mixed.keep), record


def rounded(
    folded: fx.GraphModule, settings: Quantize, batches: list[Any], schemes: Mapping[str, str]
) -> fx.GraphModule:
    """The model as the step would leave it without training, but for learned rounding, which is too slow for each look.

    Biases are corrected where the step will correct them: on CIFAR-10's ResNet-20 at w4a8 nine layers would be kept
    for half a point without that, and one with it.
    """
    prepared = room.prepare(folded, settings.scheme, settings.ranges, schemes)
    room.calibrate(prepared, batches)
    if settings.bias_correction:
        room.correct_biases(prepared, folded, batches)
    plan, tuned = room.freeze(prepared), copy.deepcopy(folded)
    tuned.load_state_dict(room.float_weights(prepared))
    return room.apply(tuned, plan)


def _quality(job: Job, model: fx.GraphModule, mixed: Mixed) -> float:
    """The quality on the validation split (its first samples, where the recipe says so)."""
    value = job.quality(model, "validation", mixed.samples).value
    return float("nan") if value is None else value


class _Latencies:
    """Predicted latency of a mixture: each op's time at the scheme of its layer, on the target's unit."""

    def __init__(self, job: Job, scheme: str, keep: str, folded: fx.GraphModule) -> None:
        ops = cost_of(folded, job.example_inputs).ops
        self.where = {op.name: op.where for op in ops}
        try:
            self.times = {name: self._by_op(job, ops, name) for name in (scheme, keep)}
            self.source = f"predicted, {job.latency_model.name}"
        except UnknownName as error:
            self.times, self.source = {}, f"not predicted: {error}"
        self.scheme = scheme

    def _by_op(self, job: Job, ops: Any, scheme: Any) -> dict[str, float]:
        """Op -> its predicted time in ms."""
        return {cost.name: cost.latency_ms for cost in job.latency_model.predict(ops, scheme).by_op}

    def of(self, schemes: Mapping[str, str]) -> float | None:
        """The latency (ms) where `schemes` names the kept layers; None where the unit was never fitted at a scheme."""
        if not self.times:
            return None
        return sum(
            self.times[schemes.get(self.where.get(name, ""), self.scheme)][name] for name in self.times[self.scheme]
        )
