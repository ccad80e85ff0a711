"""SFD: Zhou et al. 2024, "Simple and Fast Distillation of Diffusion Models" (here `sfd_traj`; another SFD unlearns).

The student walks its own path with its few Euler steps; at each it learns where the teacher, from the very same point,
gets with several fine steps. Minutes of training, a handful of evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.diffusion.samplers import free_step
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions, Metric, distance
from compress.distill.diffusion.trajectory import euler_step, refined, solve


@dataclass(frozen=True)
class SfdTrajOptions(DiffusionOptions):
    """The paper's settings."""

    fine_steps: int = 4
    """The teacher's steps for one of the student's."""
    order: int = 3
    """Of the teacher's DPM-Solver++."""
    metric: Metric = "l1"
    path: Literal["student", "teacher"] = "student"
    """Whose path the points are on; the teacher's is the paper's ablation."""
    free_from: float = 0.0
    """The level from which a first step is taken that asks no network, as `euler_free_start` does; 0: none is."""


class SfdTraj(DiffusionMethod):
    """d(student's Euler step, teacher's fine steps) from a random point of the student's own path."""

    Options = SfdTrajOptions
    options: SfdTrajOptions

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The distance at the end of one step."""
        count = len(batch)
        condition = self.condition(count)
        free = self.options.free_from > 0
        levels = [*([self.options.free_from] if free else []), *self.levels, 0.0]
        number = int(torch.randint(int(free), len(levels) - 1, ()))
        ours, teacher = self.denoiser(learner), self.real
        with torch.no_grad():
            x = levels[0] * self.noise(count)
            for step in range(number):
                x = self._walk(ours, teacher, x, levels, step, condition)
            wanted = solve(teacher, x, self._fine(levels, number), condition, self.options.order)
        now, then = (torch.full((count,), level, device=self.device) for level in levels[number : number + 2])
        reached = euler_step(ours, x, now, then, condition)
        return {"step": distance(reached, wanted, self.options.metric).mean()}

    def _walk(self, ours: Any, teacher: Any, x: Tensor, levels: list[float], step: int, condition: Any) -> Tensor:
        if step == 0 and self.options.free_from:
            return free_step(x, levels[0], levels[1])
        if self.options.path == "teacher":
            return solve(teacher, x, self._fine(levels, step), condition, self.options.order)
        now, then = (torch.full((len(x),), level, device=x.device) for level in levels[step : step + 2])
        return euler_step(ours, x, now, then, condition)

    def _fine(self, levels: list[float], step: int) -> list[float]:
        return refined(levels[step : step + 2], self.options.fine_steps)
