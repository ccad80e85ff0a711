"""EM Distillation: Xie et al. 2024, "EM Distillation for One-step Diffusion Models".

The reverse KL looks for one mode; this covers all. In the E-step the student's noise and latent are moved together, by
Langevin steps, to where the data are more likely; in the M-step the student learns to say, of the moved latent, the
moved sample. With one step of the noise alone it is Diff-Instruct, the reverse KL's gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.adversarial import frozen
from compress.diffusion import Denoiser, per_sample
from compress.distill.diffusion.score import ScoreDistillation, ScoreOptions, towards


@dataclass(frozen=True)
class EmOptions(ScoreOptions):
    """The paper's step sizes (for latents of unit variance)."""

    moves: int = 4
    """Langevin steps; the paper has 16, or 8."""
    noise_step: float = 0.16
    latent_step: float = 1.6e-5
    cancel: bool = True
    """Whether the noise that the steps add is taken out of the target again."""
    share: float = 0.7


class Em(ScoreDistillation):
    """|g(z_moved) - x_moved|^2; the first level of the task's sampler is the latent's."""

    Options = EmOptions
    options: EmOptions

    def student_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """E-step and M-step on fresh latents; one-step students only."""
        count = len(batch)
        condition, student = self.condition(count), self.denoiser(modules["student"])
        fake = self.fake_denoiser(modules["fake"])
        level = self.draw_levels(count)
        latent, noise = self.noise(count), self.noise(count)
        with frozen(modules["fake"]), frozen(modules["student"]):
            latent, target = self.moved(student, fake, latent, noise, level, condition)
        made = self.generate(student, latent, condition)
        return {"expectation": towards(made, made.detach() - target)}

    def moved(
        self,
        student: Denoiser,
        fake: Denoiser,
        latent: Tensor,
        noise: Tensor,
        level: Tensor,
        condition: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        """(latents, clean targets) after the Langevin steps.

        In the coordinate x = x0 + level e, with d = (x_real - x_fake) / level^2 the difference of scores: the noise
        moves along level d - e, the latent along the student's transposed Jacobian times d, minus the latent.
        """
        steps, added = self.options, noise
        width = per_sample(level, noise)
        for _ in range(steps.moves):
            with torch.enable_grad():
                z = latent.detach().requires_grad_(True)
                clean = self.generate(student, z, condition)
                x = (clean + width * noise).detach()
                with torch.no_grad():
                    # Scores differ by (x_real - x_fake) / level^2; per unit of x this is what both chains follow.
                    pull = (self.real(x, level, *condition) - fake(x, level, *condition)) / width**2
                (back,) = torch.autograd.grad((clean * pull).sum(), z) if steps.latent_step else (torch.zeros_like(z),)
            fresh = torch.randn_like(noise)
            noise = noise + steps.noise_step * (width * pull - noise) + (2 * steps.noise_step) ** 0.5 * fresh
            added = (1 - steps.noise_step) * added + (2 * steps.noise_step) ** 0.5 * fresh
            latent = latent + steps.latent_step * (back - latent)
            if steps.latent_step:
                latent = latent + (2 * steps.latent_step) ** 0.5 * torch.randn_like(latent)
        clean = self.generate(student, latent, condition).detach()
        # What was drawn, the first noise included, carries nothing to learn; without it only the pulls are left.
        return latent, clean + width * (noise - added if steps.cancel else noise)
