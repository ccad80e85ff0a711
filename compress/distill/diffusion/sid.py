"""SiD: Zhou et al. 2024, "Score identity Distillation". And its few-step form, Zhou et al. 2025.

A loss, not only a gradient: an estimate of the Fisher divergence between teacher and student, whose bias `alpha` takes
away. The gradient passes through the samples, through their noised versions and through both denoisers' inputs. With
several steps in the task's sampler one network serves all of them, and the mixture of what all steps make is matched
to the data (`alpha: 1` there). `guidance: 1` and `fake_guidance` below 1 are the paper's Zero-CFG and Anti-CFG.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compress.diffusion import Denoiser, guided
from compress.distill.diffusion.score import ScoreDistillation, ScoreOptions, teacher_error


@dataclass(frozen=True)
class SidOptions(ScoreOptions):
    """The paper's settings."""

    alpha: float = 1.2
    """How much of the estimate's bias is taken away: 0 none, 1 all in expectation; beyond 1.2 it diverges."""
    through_noised: bool = True
    """Whether the gradient passes through the noised samples; cutting it is the paper's ablation."""


class Sid(ScoreDistillation):
    """(x_r - x_f) . ((x_r - x_g) - alpha (x_r - x_f)), over the teacher's own error."""

    Options = SidOptions
    options: SidOptions

    def student_terms(
        self, made: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...], fake: Denoiser
    ) -> dict[str, Tensor]:
        """The estimate of the divergence, per sample a sum over pixels."""
        x = x if self.options.through_noised else x.detach()
        real = self.real(x, level, *condition)
        seen = guided(fake, self.options.fake_guidance, lambda rows: rows * 0)(x, level, *condition)
        difference = real - seen
        estimate = difference * ((real - made) - self.options.alpha * difference) / teacher_error(made, real)
        return {"sid": estimate.flatten(1).sum(1).mean()}
