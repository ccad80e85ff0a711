"""Consistency models: Song et al. 2023. With a teacher (CD) or from data alone (CT).

All points of one path of the probability flow have the same clean sample at its end: what the student says of a point
is what it says of the next one. The task's preconditioning should be `consistency`, by which the student says nothing
but its input at the smallest level.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.diffusion import karras_levels, per_sample
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions, Metric, distance, follow
from compress.distill.diffusion.trajectory import heun_step


@dataclass(frozen=True)
class ConsistencyOptions(DiffusionOptions):
    """The paper's settings."""

    teacher: bool = True
    """Whether the next point is the teacher's Heun step (CD), or the data with less of the same noise (CT)."""
    target: Literal["student", "average"] = "average"
    """Who says what the next point is: the student itself, without gradient, or its running average."""
    average: float = 0.95
    """How slowly the average follows."""
    points: int = 40
    """Points on a path."""
    growing: bool = False
    """Whether the points grow with the training from `first_points` to `points`, as for CT."""
    first_points: int = 2
    lowest: float = 0.002
    highest: float = 80.0
    metric: Metric = "l2"


class Consistency(DiffusionMethod):
    """d(f(x_next), f_target(x_now)) on neighbouring points of a path."""

    Options = ConsistencyOptions
    options: ConsistencyOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The student's running average, where that is the target."""
        self.extra = nn.ModuleDict({"average": copy.deepcopy(student)}) if self.options.target == "average" else None

    def points_now(self) -> int:
        """How many points a path has at this moment of the training."""
        chosen = self.options
        return points_of(self.progress, chosen.first_points, chosen.points) if chosen.growing else chosen.points

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The distance between what the student says of two neighbours."""
        levels = karras_levels(self.points_now(), self.options.lowest, self.options.highest)[:-1].float()
        noised = batch.target
        condition = () if noised.condition is None else (noised.condition,)
        number = torch.randint(len(levels) - 1, (len(batch),))
        now, then = levels[number].to(self.device), levels[number + 1].to(self.device)
        x = noised.clean + per_sample(now, noised.clean) * noised.noise
        judge = self.judge(learner)
        state = torch.get_rng_state()
        said = self.denoiser(learner)(x, now, *condition)
        with torch.no_grad():
            if self.options.teacher:
                following = heun_step(self.real, x, now, then, condition)
            else:
                following = noised.clean + per_sample(then, noised.clean) * noised.noise
            torch.set_rng_state(state)  # the same dropout in both
            wanted = self.denoiser(judge)(following, then, *condition)
        return {"consistency": distance(said, wanted, self.options.metric).mean()}

    def judge(self, learner: Any) -> nn.Module:
        """The network whose word counts, brought up to date."""
        if self.options.target == "student":
            return learner  # type: ignore[no-any-return]
        average: nn.Module = learner.extra["average"]
        follow(average, learner.student, self.options.average)
        return average


def points_of(progress: float, first: int, last: int) -> int:
    """Points on a path at a share k / K of the training.

    N(k) = ceil(sqrt(k / K ((last + 1)^2 - first^2) + first^2) - 1) + 1
    """
    return math.ceil(math.sqrt(progress * ((last + 1) ** 2 - first**2) + first**2) - 1) + 1
