"""SDXS: Song et al. 2024, "SDXS: Real-Time One-Step Latent Diffusion Models with Image Conditions".

One step without a discriminator. First the student's samples are to look like the teacher's of the same noises to the
teacher's own encoder (structural similarity of its maps, which blurs less than squares do). Then VSD takes over at the
lower noise levels, from the top down: what is settled at the highest ones stays with feature matching.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.distill.diffusion.heads import encoder_layers, outputs_of
from compress.distill.diffusion.offline_pairs import FromPairs
from compress.distill.diffusion.vsd import Vsd, VsdOptions
from compress.errors import RecipeError

WINDOW = 3
_SMALL, _SMALL_SPREAD = 0.01, 0.03


@dataclass(frozen=True)
class SdxsOptions(VsdOptions):
    """One step from cached pairs and the fake score."""

    pairs: int = 4096
    """Pairs of noise and sample that the teacher makes before the first step."""
    matching: float = 1.0
    """Weight of the features' distance."""
    warm_up: float = 0.25
    """Share of the training with the features alone."""
    lowered: float = 0.5
    """Share of the times that VSD covers at the end; it begins with all of them."""
    told: float = 0.05
    """The noise level that the teacher is told where it looks at samples without noise."""


class Sdxs(FromPairs, Vsd):
    """1 - SSIM of the teacher's features, and VSD up to a time that falls."""

    Options = SdxsOptions
    options: SdxsOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """VSD's networks, and the layers that are compared."""
        if len(self.levels) != 1:
            raise RecipeError(f"distill: SDXS is for one step, and the task's sampler has {len(self.levels)}")
        super().prepare(student, example_inputs)
        self.layers = encoder_layers(self.teacher, example_inputs)

    @property
    def covered(self) -> float:
        """The share of the times that VSD covers now."""
        done = max(0.0, self.progress - self.options.warm_up) / (1 - self.options.warm_up)
        return 1 - (1 - self.options.lowered) * done

    def draw_levels(self, count: int) -> Tensor:
        """Levels whose times are even on the cosine schedule, up to the share that is covered."""
        span = self.covered * (self.options.latest - self.options.earliest)
        time = self.options.earliest + span * torch.rand(count, device=self.device)
        return torch.tan(time * (math.pi / 2))

    def student_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Looking like the teacher's samples and, after the warm-up, VSD."""
        terms = {} if self.progress < self.options.warm_up else super().student_loss(modules, batch)
        if self.options.matching:
            noised = batch.target
            condition = () if noised.condition is None else (noised.condition,)
            made = self.generate(self.denoiser(modules["student"]), noised.noise, condition)
            terms["features"] = self.options.matching * self.apart(made, noised.clean, condition).mean()
        return terms

    def apart(self, made: Tensor, wanted: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """1 - SSIM of the teacher's features of two batches of samples: (N,), the mean over layers."""
        level = torch.full((len(made),), self.options.told, device=self.device)
        ours = outputs_of(self.teacher, self.layers, self.teacher_inputs(made, level, condition))
        with torch.no_grad():
            theirs = outputs_of(self.teacher, self.layers, self.teacher_inputs(wanted, level, condition))
        return torch.stack([1 - similarity(one, other) for one, other in zip(ours, theirs, strict=True)]).mean(0)


def similarity(maps: Tensor, reference: Tensor) -> Tensor:
    """The structural similarity (Wang et al., 2004) of feature maps (N, C, H, W): (N,), in even windows of 3 x 3."""
    span = (reference.amax((2, 3), keepdim=True) - reference.amin((2, 3), keepdim=True)).clamp(min=1e-6)

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, WINDOW, 1, WINDOW // 2, count_include_pad=False)

    one, other = mean(maps), mean(reference)
    spread = mean(maps.square()) - one.square() + mean(reference.square()) - other.square()
    together = mean(maps * reference) - one * other
    small, small_spread = (_SMALL * span).square(), (_SMALL_SPREAD * span).square()
    found = (2 * one * other + small) * (2 * together + small_spread)
    return (found / ((one.square() + other.square() + small) * (spread + small_spread))).mean((1, 2, 3))
