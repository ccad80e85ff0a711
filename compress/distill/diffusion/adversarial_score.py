"""ASD: Wei et al. 2024, "Adversarial Score Distillation: When score distillation meets GAN".

Teacher and fake score are one discriminator: what tells real samples from the student's is the ratio of the two
densities. VSD trains half of it, the fake score on the student's samples; the whole objective of a Wasserstein GAN
also takes the fake score away from the real ones, for which the teacher's word on the same noised samples stands. The
fake score then says more than the student's distribution: it leans away from the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.diffusion import Denoiser
from compress.distill.diffusion.base import raw_loss
from compress.distill.diffusion.vsd import Vsd, VsdOptions
from compress.errors import RecipeError


@dataclass(frozen=True)
class AsdOptions(VsdOptions):
    """The settings of the authors' code."""

    real_side: float = -0.75
    """Weight of the fake score's distance to the teacher without guidance. Negative: the fake score is to differ, and
    settles at (D_student + real_side D_teacher) / (1 + real_side); 0: VSD. At -1 and below nothing holds it."""


class Asd(Vsd):
    """VSD's gradient, with a fake score that is trained on both sides of the discriminator's objective."""

    Options = AsdOptions
    options: AsdOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """VSD's networks."""
        if self.options.real_side <= -1:
            raise RecipeError(f"distill.options.real_side is {self.options.real_side:g}; it must be above -1")
        super().prepare(student, example_inputs)

    def fake_terms(
        self, made: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...], fake: Denoiser
    ) -> dict[str, Tensor]:
        """Denoising of the student's samples, and the teacher's word on them."""
        terms = super().fake_terms(made, x, level, condition, fake)
        if self.options.real_side:
            with torch.no_grad():
                told = self.as_teacher(self.teacher, 1.0)(x, level, *condition)
            terms["real"] = self.options.real_side * raw_loss(fake, told, x, level, condition).mean()
        return terms
