"""FitNets: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets". The student's middle predicts the teacher's.

A regressor (a 1x1 convolution, linear because the taps sit before the nonlinearity) maps the student's feature to the
teacher's width; it exists only while training. Trained in one stage with the logit loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.distill.base import LabelLoss, Settings, Tap, run_taps, shared_layer
from compress.distill.logit import Logit

MIDDLE = 0.5


class Hint(Logit):
    """Logit distillation plus w / 2 ||teacher feature - regressor(student feature)||^2, per element, at mid depth."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        settings: Settings,
        label_loss: LabelLoss | None = None,
    ) -> None:
        super().__init__(teacher, student, example_inputs, settings, label_loss)
        self.layers = shared_layer(teacher, student, settings, MIDDLE)
        theirs, ours = run_taps(teacher, student, self.layers, example_inputs)
        # A pooled student map is compared at the smaller of the two resolutions (see loss).
        self.extra = nn.Conv2d(ours.shape[1], theirs.shape[1], 1)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The terms of the logit loss and `hint`."""
        with Tap(learner.student, self.layers[1]) as ours:  # type: ignore[arg-type]
            output = learner(*batch.inputs)
        with torch.no_grad(), Tap(self.tapped, self.layers[0]) as theirs:
            target = self.tapped(*batch.inputs)
        predicted_NCHW, hint_NCHW = learner.extra(ours.caught), theirs.caught  # type: ignore[operator]
        (height, width), (hint_height, hint_width) = predicted_NCHW.shape[2:], hint_NCHW.shape[2:]
        size = min(height, hint_height), min(width, hint_width)
        predicted_NCHW = nn.functional.adaptive_avg_pool2d(predicted_NCHW, size)
        hint_NCHW = nn.functional.adaptive_avg_pool2d(hint_NCHW, size)
        squared = 0.5 * (predicted_NCHW.float() - hint_NCHW.float()).square().mean()
        return {**self.output_terms(output, target, batch), "hint": self.settings.feature_weight * squared}
