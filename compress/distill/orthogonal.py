"""VkD: Miles et al. 2024, "V_kD: Improving Knowledge Distillation using Orthogonal Projections".

The student's pooled feature passes through a projection with orthonormal rows, which cannot distort it: whatever the
loss asks must be learned by the student itself. The target is the teacher's feature after a parameter-free LayerNorm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from compress.distill.base import LabelLoss, Settings, Tap, run_taps, shared_layer
from compress.distill.logit import Logit

LAST = 1.0


def orthogonal_projection(student_width: int, teacher_width: int) -> nn.Linear:
    """A linear map d_s -> d_t without bias whose weight W (d_t, d_s) keeps W^T W = I throughout training.

    With d_t >= d_s every inner product of student features is preserved. With d_t < d_s that is impossible; then
    W W^T = I, the transposed property: no direction of the teacher's space is stretched.
    """
    layer = nn.Linear(student_width, teacher_width, bias=False)
    parametrizations.orthogonal(layer, orthogonal_map="householder")
    return layer


class Orthogonal(Logit):
    """Logit distillation plus w smooth-L1(projection(pooled student feature), LayerNorm(pooled teacher feature))."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        settings: Settings,
        label_loss: LabelLoss | None = None,
    ) -> None:
        super().__init__(teacher, student, example_inputs, settings, label_loss)
        self.layers = shared_layer(teacher, student, settings, LAST)
        theirs, ours = run_taps(teacher, student, self.layers, example_inputs)
        self.extra = orthogonal_projection(ours.shape[1], theirs.shape[1])

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The terms of the logit loss and `feature`."""
        with Tap(learner.student, self.layers[1]) as ours:  # type: ignore[arg-type]
            output = learner(*batch.inputs)
        with torch.no_grad(), Tap(self.tapped, self.layers[0]) as theirs:
            target = self.tapped(*batch.inputs)
        target_ND = F.layer_norm(_pooled(theirs.caught), theirs.caught.shape[1:2])
        projected_ND = learner.extra(_pooled(ours.caught))  # type: ignore[operator]
        feature = F.smooth_l1_loss(projected_ND.float(), target_ND)
        return {**self.output_terms(output, target, batch), "feature": self.settings.feature_weight * feature}


def _pooled(feature: Tensor) -> Tensor:
    """A feature map (N, D, H, W) or tokens (N, L, D) as one vector (N, D) per sample."""
    return feature.float().mean((2, 3)) if feature.dim() == 4 else feature.float().mean(1)
