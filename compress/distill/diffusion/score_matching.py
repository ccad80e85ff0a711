"""Teacher score matching: Song et al. 2024, "Multi-Student Diffusion Distillation for Better One-Step Generators".

The step before the steps are cut: a smaller network learns the teacher's own answers at all noise levels, and so
becomes a diffusion model that score and trajectory distillation can start from. MSD's students, each for its own share
of the conditions, are so many runs with `asked`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion import per_sample
from compress.distill.diffusion.base import DiffusionMethod


class ScoreMatching(DiffusionMethod):
    """|F_student - F_teacher|^2 in the student's raw outputs, on real samples with noise."""

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The squared error of the raw output."""
        noised = batch.target
        condition = () if noised.condition is None else (noised.condition,)
        with torch.no_grad():
            clean = self.real(noised.x, noised.level, *condition)
        factors = self.task.preconditioning(noised.level)
        raw = learner(per_sample(factors.scale, noised.x) * noised.x, factors.time, *condition)
        wanted = self.task.preconditioning.output_of(clean, noised.x, noised.level)
        return {"score": (raw.float() - wanted).square().mean()}
