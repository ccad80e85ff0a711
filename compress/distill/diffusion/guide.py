"""Guidance by a guide: Hsiao et al. 2024, "Plug-and-Play Diffusion Distillation".

Classifier-free guidance asks the denoiser twice. A light guide beside the frozen denoiser (`WithGuide`) learns to
change its features so that it says at once what guidance says; it fits the denoiser's fine-tuned relatives too. The
teacher is `ClassifierFree`, the denoiser with guidance by the weight that is the last number of the condition rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.distill.diffusion.added import Added, AddedOptions
from compress.distill.diffusion.base import raw_loss
from compress.errors import RecipeError


@dataclass(frozen=True)
class GuideOptions(AddedOptions):
    """Which guidance is learned."""

    weights: tuple[float, float] = (2.0, 9.0)
    """The weights of guidance are drawn evenly between these."""


class Guide(Added):
    """|F_guide(x, c, w) - F_guided(x, c, w)|^2 in the student's raw outputs, on real samples with noise."""

    Options = GuideOptions
    options: GuideOptions

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The squared error of the raw output."""
        noised = batch.target
        condition = (self.weighted(noised.condition),)
        with torch.no_grad():
            clean = self.real(noised.x, noised.level, *condition)
        return {"guidance": raw_loss(self.denoiser(learner), clean, noised.x, noised.level, condition).mean()}

    def weighted(self, rows: Tensor | None) -> Tensor:
        """Condition rows (N, K + 1) whose last number, the weight of guidance, is drawn anew."""
        if rows is None:
            raise RecipeError("distill: condition rows tell a guide the weight of guidance, and the task has none")
        low, high = self.options.weights
        weight = low + (high - low) * torch.rand(len(rows), 1, device=self.device)
        return torch.cat([rows[:, :-1], weight.to(rows)], 1)
