"""VSD in one step: Nguyen and Tran 2024, "SwiftBrush".

The fake score is the teacher with a low-rank change of its weights, so that one network is held, not two. Prompts are
all that is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.diffusion import Denoiser, guided, per_sample
from compress.distill.diffusion.base import copy_of
from compress.distill.diffusion.score import ScoreDistillation, ScoreOptions, towards
from compress.distill.lora import adapt


@dataclass(frozen=True)
class VsdOptions(ScoreOptions):
    """The paper's settings."""

    rank: int = 64
    betas: tuple[float, float] = (0.9, 0.999)
    earliest: float = 0.02
    """The smallest time that is compared at, of the cosine schedule's 0 to 1."""
    latest: float = 0.981
    """The largest one."""


class Vsd(ScoreDistillation):
    """sigma_t^2 (e_teacher - e_fake) at the samples, sigma_t that of a variance preserving schedule."""

    Options = VsdOptions
    options: VsdOptions

    def make_fake(self) -> nn.Module:
        """The teacher with low-rank changes on all its convolutions and linear layers; only these learn."""
        network = copy_of(self.teacher)
        adapt(network, self.options.rank)
        return network

    def draw_levels(self, count: int) -> Tensor:
        """Levels whose times are even on the cosine schedule."""
        span = self.options.latest - self.options.earliest
        time = self.options.earliest + span * torch.rand(count, device=self.device)
        return torch.tan(time * (math.pi / 2))

    def student_terms(
        self, made: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...], fake: Denoiser
    ) -> dict[str, Tensor]:
        """The gradient, through the samples alone."""
        with torch.no_grad():
            real = self.real(x, level, *condition)
            seen = guided(fake, self.options.fake_guidance, torch.zeros_like)(x, level, *condition)
            weight = per_sample(level / (1 + level**2), made)  # sigma_t^2 / level, of the noise to the clean sample
        return {"variational": towards(made, weight * (seen - real))}
