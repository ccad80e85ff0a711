"""DMD2: Yin et al. 2024, "Improved Distribution Matching Distillation for Fast Image Synthesis".

The difference of the two denoisers is the gradient of the reverse KL divergence; it reaches the samples only, not the
networks that see them. The fake score plays five times for one turn of the student, which took the place of DMD's
regression loss. `weight` turns the gradient into that of another f-divergence, where a discriminator says how real a
sample is (FVGen, Teng et al. 2025; f-distill, Xu et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.diffusion import Denoiser, guided, per_sample
from compress.distill.diffusion.heads import NoisedHead
from compress.distill.diffusion.score import ScoreDistillation, ScoreOptions, teacher_error, towards

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "softened_reverse_kl", "hellinger", "jeffreys"]

# h(r) for the ratio r = p_real / p_fake: what each divergence's gradient is, as a multiple of the reverse KL's. The
# softened reverse KL, KL((p_r + p_f) / 2 || p_r), has 1 / (2 (1 + r)), not the 1 / r that its paper prints.
WEIGHTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": torch.ones_like,
    "forward_kl": lambda r: r,
    "jensen_shannon": lambda r: r / (1 + r),
    "softened_reverse_kl": lambda r: 1 / (2 * (1 + r)),
    "hellinger": torch.sqrt,
    "jeffreys": lambda r: 1 + r,
}
RATIO_LIMITS = (0.05, 20.0)


@dataclass(frozen=True)
class DmdOptions(ScoreOptions):
    """The paper's settings, with its discriminator off: it needs real samples."""

    turns: int = 5
    share: float = 0.98
    gan: float = 0.0
    """Weight of the student's loss against a discriminator on the fake score's features; the paper's is 0.003."""
    gan_fake: float = 0.01
    """Weight of the discriminator's own loss, beside the fake score's."""
    weight: Divergence = "reverse_kl"
    """The divergence; any but the reverse KL asks the discriminator for the ratio, and so needs `gan`."""


class Dmd(ScoreDistillation):
    """(x_f - x_r) over the teacher's own error, at the samples; and a head on the fake score that tells real ones."""

    Options = DmdOptions
    options: DmdOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The fake score, with a head where the options ask for one."""
        super().prepare(student, example_inputs)
        self.has_head = False
        if self.options.gan or self.options.weight != "reverse_kl":
            self.begin_head(example_inputs)

    def begin_head(self, example_inputs: Sequence[Tensor]) -> None:
        """Give the fake score a head that tells real samples from made ones."""
        self.fake, self.has_head = NoisedHead(self.fake, example_inputs), True

    def fake_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Denoising; with a discriminator, telling real samples from made ones, both with noise."""
        terms = super().fake_loss(modules, batch)
        if self.has_head:
            terms["discriminator"] = self.telling_apart(modules, batch)
        return terms

    def telling_apart(self, modules: Mapping[str, nn.Module], batch: Any) -> Tensor:
        """The head's weighted loss on real samples and made ones of the same conditions, both with noise."""
        clean, count = batch.target.clean, len(batch)
        condition = self.condition(count) if batch.target.condition is None else (batch.target.condition,)
        with torch.no_grad():
            made = self.rollout(self.denoiser(modules["student"]), count, condition)
        level = self.draw_levels(count)
        real, fake = (self.verdict(modules["fake"], each, level, condition) for each in (clean, made))
        return self.options.gan_fake * (F.softplus(-real) + F.softplus(fake)).mean()

    def verdict(self, head: Any, samples: Tensor, level: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """How real samples look with noise of a level: logits (N,)."""
        x = samples + per_sample(level, samples) * self.noise(len(samples))
        factors = self.task.teacher_preconditioning(level)
        logits: Tensor = head.logits(per_sample(factors.scale, x) * x, factors.time, *condition)
        return logits

    def student_terms(
        self, made: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...], fake: Denoiser
    ) -> dict[str, Tensor]:
        """The gradient, through the samples alone."""
        with torch.no_grad():
            real = self.real(x, level, *condition)
            seen = guided(fake, self.options.fake_guidance, torch.zeros_like)(x, level, *condition)
            gradient = (seen - real) / teacher_error(made, real)
            if self.options.weight != "reverse_kl":
                gradient = gradient * self.divergence_weight(fake.module, made, level, condition)
        terms = {"distribution": towards(made, gradient)}
        if self.options.gan:
            logits = self.verdict(fake.module, made, self.draw_levels(len(made)), condition)
            terms["gan"] = self.options.gan * F.softplus(-logits).mean()
        return terms

    def divergence_weight(self, head: Any, made: Tensor, level: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """h(r) of each sample, clipped and of mean 1: (N, 1, 1, 1)."""
        ratio = torch.exp(self.verdict(head, made, level, condition)).clamp(*RATIO_LIMITS)
        weight = WEIGHTS[self.options.weight](ratio)
        return per_sample(weight / weight.mean(), made)
