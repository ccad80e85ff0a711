"""CoDi: Mei et al. 2024, "CoDi: Conditional Diffusion Distillation for Higher-Fidelity and Faster Image Generation".

A new condition is learned while the steps are cut, in one stage. The student (`WithCondition`) begins as the teacher,
which knows nothing of the condition; it learns to see the same noise in two points of its own path, a DDIM step apart,
and the clean sample that goes with the condition. With `whole: false` only the encoder learns (PE-CoDi).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.diffusion import karras_levels, per_sample
from compress.distill.diffusion.added import Added, AddedOptions
from compress.distill.diffusion.base import Metric, distance, follow
from compress.distill.diffusion.trajectory import euler_step


@dataclass(frozen=True)
class CodiOptions(AddedOptions):
    """Weights of the two terms, and the path."""

    whole: bool = True
    """Whether the denoiser learns too; false: the condition's encoder alone (PE-CoDi)."""
    consistency: float = 1.0
    """Weight of the distance between the noises that two neighbours on a path show."""
    clean: float = 1.0
    """Weight of the distance to the clean sample."""
    target: Literal["student", "average"] = "average"
    """Who says the noise of the next point: the student itself, without gradient, or its running average."""
    average: float = 0.95
    """How slowly the average follows."""
    points: int = 40
    """Points on a path."""
    lowest: float = 0.002
    highest: float = 80.0
    metric: Metric = "l2"


class Codi(Added):
    """d(e_target(x_s), e(x_t)) + d(x_0, D(x_t)) with x_s the student's own step from x_t; one t for a batch."""

    Options = CodiOptions
    options: CodiOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The teacher's weights for the student, and its running average, where that is the target."""
        super().prepare(student, example_inputs)
        self.extra = nn.ModuleDict({"average": copy.deepcopy(student)}) if self.options.target == "average" else None

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The two terms."""
        levels = karras_levels(self.options.points, self.options.lowest, self.options.highest)[:-1].float()
        noised, count = batch.target, len(batch)
        condition = () if noised.condition is None else (noised.condition,)
        number = int(torch.randint(len(levels) - 1, ()))
        now, then = (torch.full((count,), float(level), device=self.device) for level in levels[number : number + 2])
        x = noised.clean + per_sample(now, noised.clean) * noised.noise
        state = torch.get_rng_state()
        clean = self.denoiser(learner)(x, now, *condition)
        seen = (x - clean) / per_sample(now, x)
        with torch.no_grad():
            following = euler_step(lambda *_: clean, x, now, then, ())
            torch.set_rng_state(state)  # the same dropout in both
            wanted = self.denoiser(self.judge(learner)).noise(following, then, *condition)
        return {
            "consistency": self.options.consistency * distance(seen, wanted, self.options.metric).mean(),
            "clean": self.options.clean * distance(clean, noised.clean, self.options.metric).mean(),
        }

    def judge(self, learner: Any) -> nn.Module:
        """The network whose word counts, brought up to date."""
        if self.options.target == "student":
            return learner  # type: ignore[no-any-return]
        average: nn.Module = learner.extra["average"]
        follow(average, learner.student, self.options.average)
        return average
