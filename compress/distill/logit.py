"""Logit distillation on one consistent view: Beyer et al. 2022, "A good teacher is patient and consistent" (FunMatch).

Teacher and student see the very same augmented (and, if asked, mixed) images; no labels are needed. With
`label_weight` it is the mixture of Hinton et al. 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.distill.base import LabelLoss, Settings, kl_divergence, mix_pairs
from compress.graph.fold import fold_batch_norms


class Logit:
    """(1 - a) T^2 KL(teacher || student) + a label loss, with a = `label_weight` (0 by default: no labels)."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        settings: Settings,
        label_loss: LabelLoss | None = None,
    ) -> None:
        self.tapped = teacher.eval().requires_grad_(False)
        self.teacher = fold_batch_norms(teacher)  # answers the same, a third faster
        self.settings, self.label_loss = settings, label_loss
        self.extra: nn.Module | None = None

    def view(self, batch: Any, generator: torch.Generator) -> Any:
        """The batch, mixed pairwise with the set chance; teacher and student both see the result."""
        return mix_pairs(batch, self.settings.mixup, generator)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The terms `kd` and, with labels, `label`."""
        with torch.no_grad():
            target = self.teacher(*batch.inputs)
        return self.output_terms(learner(*batch.inputs), target, batch)

    def output_terms(self, output: Tensor, target: Tensor, batch: Any) -> dict[str, Tensor]:
        """The loss terms of the student's `output` against the teacher's, `target`; the feature methods share them."""
        weight = self.settings.label_weight if self.label_loss is not None and batch.target is not None else 0.0
        terms = {"kd": (1 - weight) * kl_divergence(output, target, self.settings.temperature)}
        if weight and self.label_loss is not None:
            terms["label"] = weight * self.label_loss(output, batch.target)
        return terms
