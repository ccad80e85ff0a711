"""SnapFusion: Li et al. 2023, "SnapFusion: Text-to-Image Diffusion Model on Mobile Devices within Two Seconds".

Progressive distillation that knows of guidance: for some batches it is the guided outputs of student and teacher that
are compared, by a weight drawn anew, so that the student, which is guided when it is used, is right there. How often,
trades fidelity to the condition against closeness to the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion import guided
from compress.distill.diffusion.base import raw_loss
from compress.distill.diffusion.progressive import Progressive, ProgressiveOptions


@dataclass(frozen=True)
class SnapfusionOptions(ProgressiveOptions):
    """How often outputs are guided, and by how much."""

    guided_share: float = 0.1
    """Chance that a batch compares guided outputs; the teacher's own `guidance` stays 1."""
    weights: tuple[float, float] = (2.0, 14.0)
    """The weight of guidance is drawn evenly between these."""
    original: float = 0.0
    """Weight of learning from the data as the teacher did, beside it."""


class Snapfusion(Progressive):
    """Progressive distillation of guided outputs, some of the time."""

    Options = SnapfusionOptions
    options: SnapfusionOptions
    weight = 1.0
    """Of guidance, for the batch at hand."""

    def as_compared(self, denoiser: Any) -> Callable[..., Tensor]:
        """A denoiser with the guidance of the batch at hand."""
        return guided(denoiser, self.weight, torch.zeros_like)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The target's error, and the data's."""
        low, high = self.options.weights
        is_guided = bool(torch.rand(()) < self.options.guided_share) and batch.target.condition is not None
        self.weight = low + (high - low) * float(torch.rand(())) if is_guided else 1.0
        terms = super().loss(learner, batch)
        if self.options.original:
            noised = batch.target
            condition = () if noised.condition is None else (noised.condition,)
            own = raw_loss(self.denoiser(learner), noised.clean, noised.x, noised.level, condition)
            terms["original"] = self.options.original * own.mean()
        return terms
