"""BOOT: Gu et al. 2023, "Data-free Distillation of Denoising Diffusion Models with Bootstrapping".

No data, and no inputs but noise: the student is told a noise and a level and says the signal that the teacher's path
from that noise has there, x_t without its noise. It learns each level from its own word on a higher one and a single
step of the teacher. It is sampled in one evaluation, at the lowest level (`boot_table`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion import Preconditioning, Row, SamplerTable, per_sample
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions


@dataclass(frozen=True)
class BootOptions(DiffusionOptions):
    """Steps of the bootstrap and the weight of its beginning."""

    lowest: float = 0.02
    highest: float = 80.0
    steps: int = 32
    """Bootstrap steps from the highest to the lowest level."""
    boundary: float = 1.0
    """Weight of the student's word at the highest level against the teacher's; without it nothing holds the rest."""


class Boot(DiffusionMethod):
    """|g(e, s) - (rho g(e, t) + (1 - rho) x_teacher)|^2 / (1 - rho)^2 for s below t, rho = s / t."""

    Options = BootOptions
    options: BootOptions

    def signal(self, network: nn.Module, noise: Tensor, level: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """What the student says of a noise at levels (N,): it is given the noise at the highest level, always."""
        highest = torch.full_like(level, self.options.highest)
        fixed, told = self.task.preconditioning(highest), self.task.preconditioning(level)
        x = per_sample(highest, noise) * noise
        raw = network(per_sample(fixed.scale, x) * x, told.time, *condition)
        return per_sample(fixed.skip, x) * x + per_sample(fixed.out, x) * raw.to(x.dtype)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The bootstrap, and its beginning."""
        count = len(batch)
        noise, condition = self.noise(count), self.condition(count)
        ratio = (self.options.lowest / self.options.highest) ** (1 / self.options.steps)
        number = torch.randint(self.options.steps, (count,), device=self.device)
        level = self.options.highest * ratio**number
        with torch.no_grad():
            here = self.signal(learner, noise, level, condition)
            clean = self.real(here + per_sample(level, noise) * noise, level, *condition)
            wanted = ratio * here + (1 - ratio) * clean
        said = self.signal(learner, noise, level * ratio, condition)
        highest = torch.full((count,), self.options.highest, device=self.device)
        with torch.no_grad():
            first = self.real(per_sample(highest, noise) * noise, highest, *condition)
        begun = self.signal(learner, noise, highest, condition)
        return {
            "bootstrap": (said - wanted).square().mean() / (1 - ratio) ** 2,
            "boundary": self.options.boundary * (begun - first).square().mean(),
        }


def boot_table(preconditioning: Preconditioning, lowest: float = 0.02, highest: float = 80.0) -> SamplerTable:
    """How a BOOT student is sampled: the noise of the highest level, the time of the lowest."""
    low, high = (torch.tensor(level, dtype=torch.float64) for level in (lowest, highest))
    fixed, told = preconditioning(high), preconditioning(low)
    first = Row(highest, (), (), float(told.time), float(fixed.scale), highest)
    return SamplerTable("BOOT, 1 step", (first, Row(highest * float(fixed.skip), (float(fixed.out),))))
