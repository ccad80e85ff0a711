"""Phased DMD: Fan et al. 2025, "Few-step Distribution Matching Distillation via Score Matching within Subintervals".

The steps are learned in phases, from the noisiest on. A phase ends at a level s, and its samples x_s are matched with
the teacher's at the levels above s, where no step of a later phase has a say; the last phase ends at 0 and is DMD. What
is behind x_s is not known, so that the fake score cannot be taught to say it; `clean_behind` gives a target of the same
expectation. Earlier phases make the inputs of later ones and no longer learn: here they are a copy of the student from
before the phase, and a further term holds the student, which is one network for all phases, to what it was there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion import Denoiser, per_sample
from compress.distill.diffusion.base import begin_round, raw_loss, rounds_of
from compress.distill.diffusion.dmd import Dmd, DmdOptions
from compress.distill.diffusion.trajectory import euler_step
from compress.errors import RecipeError


@dataclass(frozen=True)
class PhasedDmdOptions(DmdOptions):
    """The paper's settings, without a discriminator. Noise is drawn as for DMD, and added on top of a phase's end."""

    phases: int = 2
    """Parts of equal length that the steps of the task's sampler (`euler`) are learned in; each has as many epochs."""
    clamp: float = 10.0
    """The fake score's weight is min(1, clamp (1 - s^2 / t^2)) at level t: just above s its target is all noise."""
    kept: float = 1.0
    """Weight of what the student said in earlier phases."""


class PhasedDmd(Dmd):
    """DMD between the levels of a phase."""

    Options = PhasedDmdOptions
    options: PhasedDmdOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """DMD's networks, and the student of the earlier phases."""
        super().prepare(student, example_inputs)
        if self.has_head:
            raise RecipeError("distill.options: phased DMD has no discriminator; leave out gan and weight")
        if len(self.levels) % self.options.phases:
            steps, phases = len(self.levels), self.options.phases
            raise RecipeError(f"distill.options.phases: {steps} steps cannot be shared out among {phases} phases")
        self.extra, self.student = rounds_of(student), student

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """At the beginning of a phase, what the student has become is what earlier phases do."""
        super().on_epoch(epoch, epochs)
        begin_round(self.extra, self.student, epoch * self.options.phases // epochs)

    # The phase that is learned now

    @property
    def steps(self) -> tuple[int, int]:
        """(its first step, the first of the next phase), by number."""
        extra: Any = self.extra
        length = len(self.levels) // self.options.phases
        return int(extra.round) * length, (int(extra.round) + 1) * length

    @property
    def end(self) -> float:
        """The level s that it ends at."""
        return [*self.levels, 0.0][self.steps[1]]

    @property
    def earlier(self) -> Denoiser:
        """The student of the earlier phases."""
        extra: Any = self.extra
        return self.denoiser(extra["previous"])

    @torch.no_grad()
    def walk(self, denoise: Callable[..., Tensor], count: int, number: int, condition: tuple[Tensor, ...]) -> Tensor:
        """Samples before a step, by the Euler steps before it: those of earlier phases by the student of then."""
        x = self.levels[0] * self.noise(count)
        for step in range(number):
            now, then = (torch.full((count,), level, device=self.device) for level in self.levels[step : step + 2])
            x = euler_step(self.earlier if step < self.steps[0] else denoise, x, now, then, condition)
        return x

    def rollout(self, denoise: Callable[..., Tensor], count: int, condition: tuple[Tensor, ...]) -> Tensor:
        """Samples at the end of the phase, where a random step of it leads at once; this step alone has a gradient."""
        last = int(torch.randint(*self.steps, ()))
        x = self.walk(denoise, count, last, condition)
        now, then = (torch.full((count,), level, device=self.device) for level in (self.levels[last], self.end))
        return euler_step(denoise, x, now, then, condition)

    # What differs from DMD: levels are those of the noise on top of the phase's end

    def total(self, level: Tensor) -> Tensor:
        """The levels (N,) of samples at the phase's end with noise of `level` on top."""
        return torch.hypot(level, torch.full_like(level, self.end))

    def fake_terms(
        self, made: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...], fake: Denoiser
    ) -> dict[str, Tensor]:
        """Denoising towards what has the clean sample's expectation."""
        total, target = self.total(level), clean_behind(made, x, self.end, level)
        weight = (self.options.clamp * (level / total).square()).clamp(max=1)
        return {"denoise": (weight * raw_loss(fake, target, x, total, condition)).mean()}

    def student_terms(
        self, made: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...], fake: Denoiser
    ) -> dict[str, Tensor]:
        """DMD's gradient."""
        return super().student_terms(made, x, self.total(level), condition, fake)

    def student_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """DMD's; from the second phase on, being what one was in the earlier ones."""
        terms = super().student_loss(modules, batch)
        if self.steps[0] and self.options.kept:
            terms["kept"] = self.options.kept * self.change(self.denoiser(modules["student"]), len(batch))
        return terms

    def change(self, denoise: Callable[..., Tensor], count: int) -> Tensor:
        """Half the squared distance between the student now and then, at a random step of the earlier phases."""
        condition, number = self.condition(count), int(torch.randint(self.steps[0], ()))
        x = self.walk(denoise, count, number, condition)
        level = torch.full((count,), self.levels[number], device=self.device)
        with torch.no_grad():
            before = self.earlier(x, level, *condition)
        return 0.5 * (denoise(x, level, *condition) - before).square().flatten(1).sum(1).mean()


def clean_behind(reached: Tensor, x: Tensor, end: float, added: Tensor) -> Tensor:
    """What a denoiser learns from samples that are not clean: x_s - (s / added)^2 (x - x_s).

    By Tweedie's formula the clean sample expected behind x is x + t^2 times the score there, and the score is the
    expectation of (x_s - x) / added^2, where t^2 = s^2 + added^2. x_s itself would teach to stop at s.

    Args:
        reached: samples x_s (N, ...) at level s, however they were made.
        x: the same with noise of the levels `added` (N,).
        end: s.
    """
    return reached - per_sample((end / added).square(), x) * (x - reached)
