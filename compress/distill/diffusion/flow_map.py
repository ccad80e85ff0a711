"""Align Your Flow: Sabour et al. 2025, "Scaling Continuous-Time Flow Map Distillation".

The student goes from any time to any earlier one in a single step, so that one artifact serves any number of steps.
Everything here is on the straight flow, x_t = (1 - t) x0 + t e; the student's raw output is the mean flow between two
times (preconditioning `flow_prediction`, a network that takes a second time), f(x_t, t -> s) = x_t + (s - t) F.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion import Row, SamplerTable, per_sample
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions


@dataclass(frozen=True)
class FlowMapOptions(DiffusionOptions):
    """The paper's settings."""

    tangent: float = 0.99
    """How far the tangent is warmed up: 0 is plain flow matching, 1 the whole derivative along the teacher's path."""
    warm_up: float = 0.5
    """Share of the training that the warm-up takes."""
    normalize: float = 0.1
    """g / (|g| + normalize), the norm per element; 0: the tangent as it is."""
    time_mean: float = -0.8
    """Of the logit of the later time."""
    time_std: float = 1.0
    latest: float = 0.9999
    """The latest time."""


class FlowMap(DiffusionMethod):
    """The Eulerian objective: along the teacher's path, f(x_t, t -> s) does not depend on t."""

    Options = FlowMapOptions
    options: FlowMapOptions

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Half the squared distance to where the tangent moves the student."""
        noised = batch.target
        condition = () if noised.condition is None else (noised.condition,)
        count = len(batch)
        logit = self.options.time_mean + self.options.time_std * torch.randn(count, device=self.device)
        time = torch.sigmoid(logit).clamp(1e-3, self.options.latest)
        until = time * torch.rand(count, device=self.device)
        x = per_sample(1 - time, noised.clean) * noised.clean + per_sample(time, noised.clean) * noised.noise
        with torch.no_grad():
            clean = self.real(x / per_sample(1 - time, x), time / (1 - time), *condition)
            flow = (x - clean) / per_sample(time, x)
            before, change = self.along(learner, x, flow, time, until, condition)
            tangent = self.tangent(before, change, flow, time, until)
        said = learner(x, time, until, *condition).float()
        return {"flow": 0.5 * (said - (before + tangent)).square().flatten(1).mean(1).mean()}

    def along(
        self, learner: nn.Module, x: Tensor, flow: Tensor, time: Tensor, until: Tensor, condition: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """The student's output, and its derivative along the teacher's path: a Jacobian-vector product."""

        def output(x: Tensor, time: Tensor) -> Tensor:
            return learner(x, time, until, *condition)  # type: ignore[no-any-return]

        with torch.autocast(x.device.type, enabled=False):  # a derivative of what bfloat16 has rounded is noise
            found: Any = torch.func.jvp(output, (x, time), (flow, torch.ones_like(time)))
        before, change = found
        return before, change

    def tangent(self, before: Tensor, change: Tensor, flow: Tensor, time: Tensor, until: Tensor) -> Tensor:
        """Where the output is to move: -(d f / dt), the map's derivative along the path, warmed up and normalized."""
        share = self.options.tangent * min(1.0, self.progress / self.options.warm_up if self.options.warm_up else 1.0)
        found = (flow - before) + share * per_sample(until - time, before) * change
        if not self.options.normalize:
            return found
        size = found.flatten(1).square().mean(1).sqrt()
        return found / per_sample(size + self.options.normalize, found)


def flow_map_table(times: Sequence[float]) -> SamplerTable:
    """How a flow map is sampled: in one step from each time to the next, from noise at the first; times end at 0."""
    rows: list[Row] = []
    outputs: list[float] = []
    for now, then in pairwise(times):
        level = now / (1 - now)
        rows.append(Row(times[0], tuple(outputs), (), now, 1.0, level, then))
        outputs.append(then - now)
    return SamplerTable(f"flow map, {len(rows)} steps", (*rows, Row(times[0], tuple(outputs))))
