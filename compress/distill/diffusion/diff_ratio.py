"""DiffRatio: Zheng et al. 2025, one-step models without a teacher's score.

A classifier of noised samples, real or made, says the logarithm of the ratio of the two densities; its gradient takes
the place of the difference of two scores. Only the teacher's weights are used: the classifier and the student begin
from them, as features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion import Denoiser, per_sample
from compress.distill.diffusion.dmd import Dmd, DmdOptions
from compress.distill.diffusion.score import SMALLEST_ERROR, towards


@dataclass(frozen=True)
class DiffRatioOptions(DmdOptions):
    """DMD's settings without what asks the teacher; the task needs real samples."""

    turns: int = 1
    gan_fake: float = 1.0


class DiffRatio(Dmd):
    """-level^2 times the gradient of the classifier's logit, at the samples."""

    Options = DiffRatioOptions
    options: DiffRatioOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The fake score, whose head is the classifier."""
        super().prepare(student, example_inputs)
        self.begin_head(example_inputs)

    def fake_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Telling real samples from made ones at all noise levels."""
        return {"ratio": self.telling_apart(modules, batch)}

    def student_terms(
        self, made: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...], fake: Denoiser
    ) -> dict[str, Tensor]:
        """The gradient of the log-ratio, through the samples alone."""
        given = x.detach().requires_grad_(True)
        factors = self.task.teacher_preconditioning(level)
        head: Any = fake.network
        logits = head.logits(per_sample(factors.scale, given) * given, factors.time, *condition)
        (slope,) = torch.autograd.grad(logits.sum(), given)
        gradient = -(per_sample(level, made) ** 2) * slope
        size = gradient.abs().flatten(1).mean(1).clamp(min=SMALLEST_ERROR)
        return {"ratio": towards(made, gradient / per_sample(size, made))}
