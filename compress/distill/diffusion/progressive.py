"""Progressive distillation: Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models".

Round by round the student learns to do in one step what its teacher does in two, and then becomes the teacher. The
last round's steps are those of the task's sampler (`euler`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion import per_sample
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions, begin_round, rounds_of
from compress.distill.diffusion.trajectory import euler_step, refined, x_target


@dataclass(frozen=True)
class ProgressiveOptions(DiffusionOptions):
    """How many rounds; each has as many epochs as the others."""

    halvings: int = 3
    """Rounds in which the steps are halved: the first teacher takes 2^halvings times the task's sampler's."""
    data_std: float = 0.5
    """Of the samples; below this noise level errors count more, as they do in the noise that is left."""


class Progressive(DiffusionMethod):
    """max(1, SNR) |x_student - x_target|^2, with the target that makes one step of two."""

    Options = ProgressiveOptions
    options: ProgressiveOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The teacher of the next round."""
        self.extra, self.student = rounds_of(student), student

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """At the beginning of a round, what the student has become is the next teacher."""
        super().on_epoch(epoch, epochs)
        begin_round(self.extra, self.student, epoch * self.options.halvings // epochs)

    def grids(self, round: int) -> tuple[list[float], list[float]]:
        """(the student's levels, the teacher's) in a round; each ends at 0."""
        levels = [*self.levels, 0.0]
        for _ in range(self.options.halvings - 1 - round):
            levels = refined(levels)
        return levels, refined(levels)

    def as_compared(self, denoiser: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A denoiser, teacher's or student's, as its outputs are compared."""
        return denoiser

    def jump(self, learner: nn.Module, batch: Any) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...], Tensor]:
        """(x, its levels, those a step further down, conditions, where two steps of the teacher get from x)."""
        extra: Any = learner.extra
        round = int(extra.round)
        before = self.as_compared(self.real if round == 0 else self.denoiser(extra["previous"]))
        ours, theirs = (torch.tensor(grid, device=self.device) for grid in self.grids(round))
        noised = batch.target
        condition = () if noised.condition is None else (noised.condition,)
        number = torch.randint(len(ours) - 1, (len(batch),), device=self.device)
        now, middle, then = theirs[2 * number], theirs[2 * number + 1], theirs[2 * number + 2]
        x = noised.clean + per_sample(now, noised.clean) * noised.noise
        with torch.no_grad():
            halfway = euler_step(before, x, now, middle, condition)
            return x, now, then, condition, euler_step(before, halfway, middle, then, condition)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The weighted squared error of the clean sample."""
        x, now, then, condition, reached = self.jump(learner, batch)
        target = x_target(x, reached, now, then)
        weight = (self.options.data_std / now).square().clamp(min=1)
        found = self.as_compared(self.denoiser(learner))(x, now, *condition)
        return {"target": (weight * (found - target).square().flatten(1).mean(1)).mean()}
