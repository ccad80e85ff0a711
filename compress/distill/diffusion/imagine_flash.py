"""Imagine Flash: Kohler et al. 2024, "Imagine Flash: Accelerating Emu Diffusion Models with Backward Distillation".

The student learns on its own path, from pure noise on, so that no signal of real samples leaks into what it is given
(backward distillation). The teacher is not asked what it makes of that point, but of what the student says there with
less noise: of its structure where there is much noise left, of details where there is little (shifted
reconstruction). The first step keeps the noise that was drawn, which needs no prediction (noise correction); it is in
the sampler too, `corrected`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.diffusion import euler, per_sample
from compress.diffusion.samplers import Denoise, Fresh
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions, Metric, distance
from compress.distill.diffusion.trajectory import refined, solve


@dataclass(frozen=True)
class ImagineFlashOptions(DiffusionOptions):
    """Three ideas, each with its ablation."""

    path: Literal["student", "data"] = "student"
    """Whose points the student learns on: its own, or noised real samples."""
    shift: float = 0.5
    """The noise level that the teacher starts from, as a share of the student's; 1: from the student's own point."""
    fresh: bool = False
    """Whether the teacher's noise is drawn anew, or is the one that the student sees in its point."""
    correction: bool = True
    """Whether the first step keeps the noise that was drawn, as the sampler `corrected` does and `euler` does not."""
    teacher_steps: int = 4
    """Of the teacher, from its level to the end."""
    order: int = 3
    """Of its DPM-Solver++."""
    metric: Metric = "l2"


class ImagineFlash(DiffusionMethod):
    """d(x_student, the teacher's sample from x_student + shift level e)."""

    Options = ImagineFlashOptions
    options: ImagineFlashOptions

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The distance at a random step, the same for the whole batch."""
        number, student = int(torch.randint(len(self.levels), ())), self.denoiser(learner)
        if self.options.path == "student":
            condition = self.condition(len(batch))
            with torch.no_grad():
                x = self.walked(student, number, len(batch), condition)
        else:
            noised = batch.target
            condition = () if noised.condition is None else (noised.condition,)
            x = noised.clean + self.levels[number] * noised.noise
        level = torch.full((len(x),), self.levels[number], device=x.device)
        said = student(x, level, *condition)
        with torch.no_grad():
            wanted = self.reconstruction(said, x, level, condition)
        return {"reconstruction": distance(said, wanted, self.options.metric).mean()}

    def walked(self, student: Any, number: int, count: int, condition: tuple[Tensor, ...]) -> Tensor:
        """The student's points at the level of a number, on its own path from pure noise."""
        walk = corrected if self.options.correction else euler
        first = self.levels[0] * self.noise(count)

        def denoise(x: Tensor, level: float) -> Tensor:
            return student(x, torch.full((count,), level, device=x.device), *condition)  # type: ignore[no-any-return]

        return walk(denoise, first, self.levels[: number + 1], lambda number: first)

    def reconstruction(self, said: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """What the teacher makes of the student's word with noise of a lower level."""
        own = (x - said) / per_sample(level, x)
        noise = self.noise(len(x)) if self.options.fresh else own
        start = self.options.shift * float(level[0])
        levels = refined([start, 0.0], self.options.teacher_steps)
        return solve(self.real, said + start * noise, levels, condition, self.options.order)


def corrected(denoise: Denoise, x: Tensor, levels: Sequence[float], fresh: Fresh) -> Tensor:
    """Euler steps of which the first keeps the noise that x is made of, in place of the one that is predicted.

    x = level e has no signal, so the noise in it is known; with the predicted one the next point lacks a share of the
    signal, then / now, and with it some of the samples' mean colour.
    """
    if len(levels) < 2:
        return x
    return euler(denoise, denoise(x, levels[0]) + levels[1] / levels[0] * x, levels[1:], fresh)
