"""Score distillation: the student's samples are moved to where the teacher sees more of the data than of them.

One loop for all: a second network, the fake score, learns to denoise what the student makes; the difference between
it and the teacher, on the student's samples with noise, is the gradient of a divergence between the two
distributions. What tells the methods apart is the rule that makes a loss of the two denoisers (`student_terms`), where
the teacher's side comes from (`real`), the noise levels, and who plays how often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.adversarial import frozen
from compress.diffusion import Denoiser, per_sample
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions, copy_of, raw_loss
from compress.train import OptimizerSettings, Player

SMALLEST_ERROR = 1e-5


@dataclass(frozen=True)
class ScoreOptions(DiffusionOptions):
    """What score distillations share."""

    fake_guidance: float = 1.0
    """Guidance of the fake score where the student is judged by it; below 1 it turns away from the condition."""
    fake_learning_rate: float = 0.0
    """Of the fake score; 0: the student's."""
    turns: int = 1
    """Turns of the fake score for one of the student (5: DMD2's two time scales)."""
    lowest: float = 0.002
    """The smallest noise level that student and teacher are compared at."""
    highest: float = 80.0
    """The largest one."""
    share: float = 0.8
    """Share of the way from the lowest to the highest level, in Karras et al.'s steps, that levels are drawn from."""
    rho: float = 7.0
    """How strongly those steps lean to low levels."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Of the fake score's Adam: no momentum, as what it learns moves."""


class ScoreDistillation(DiffusionMethod):
    """The loop; a method says what `student_terms` are."""

    Options = ScoreOptions
    options: ScoreOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The fake score."""
        self.fake = self.make_fake()

    def make_fake(self) -> nn.Module:
        """The network that learns the student's distribution: a copy of the teacher."""
        return copy_of(self.teacher)

    def fake_denoiser(self, module: Any) -> Denoiser:
        """The fake score as a denoiser; it speaks the teacher's language, whose copy it is."""
        return Denoiser(module, self.task.teacher_preconditioning)

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The fake score first, then the student, which sees what it has just learned."""
        rate = self.options.fake_learning_rate or optimizer.learning_rate
        adam = OptimizerSettings(
            "adamw", rate, weight_decay=0.0, schedule=optimizer.schedule, clip_norm=10.0, betas=self.options.betas
        )
        student = self.student_player(learner, optimizer, self.student_loss, self.options.turns)
        return [Player("fake", self.fake, self.fake_loss, adam), student]

    def fake_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """The fake score learns to denoise what the student makes."""
        count = len(batch)
        condition = self.condition(count)
        with torch.no_grad():
            made = self.rollout(self.denoiser(modules["student"]), count, condition)
        task = self.task
        level = torch.exp(task.level_mean + task.level_std * torch.randn(count, device=self.device))
        x = made + per_sample(level, made) * self.noise(count)
        return self.fake_terms(made, x, level, condition, self.fake_denoiser(modules["fake"]))

    def fake_terms(
        self, made: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...], fake: Denoiser
    ) -> dict[str, Tensor]:
        """Named terms that the fake score learns by, of the student's samples and the same with noise of `level`."""
        return {"denoise": raw_loss(fake, made, x, level, condition).mean()}

    def student_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """The rule, on samples that the student makes now."""
        count = len(batch)
        condition = self.condition(count)
        with frozen(modules["fake"]):
            made = self.rollout(self.denoiser(modules["student"]), count, condition)
            level = self.draw_levels(count)
            x = made + per_sample(level, made) * self.noise(count)
            return self.student_terms(made, x, level, condition, self.fake_denoiser(modules["fake"]))

    def draw_levels(self, count: int) -> Tensor:
        """Noise levels (count,), even in Karras et al.'s steps up to `share`."""
        low, high = self.options.lowest ** (1 / self.options.rho), self.options.highest ** (1 / self.options.rho)
        share = self.options.share * torch.rand(count, device=self.device)
        return (low + share * (high - low)) ** self.options.rho

    def student_terms(
        self, made: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...], fake: Denoiser
    ) -> dict[str, Tensor]:
        """Named terms whose gradient moves the student.

        Args:
            made: the student's samples (N, C, H, W), with gradient.
            x: the same with noise of `level` (N,), with gradient.
            fake: the fake score; its parameters get no gradient here.
        """
        raise NotImplementedError


def towards(made: Tensor, gradient: Tensor) -> Tensor:
    """A loss whose gradient at the samples is `gradient` / N: half the squared distance to where it would move them."""
    target = (made - torch.nan_to_num(gradient)).detach()
    return 0.5 * (made - target).square().flatten(1).sum(1).mean()


def teacher_error(made: Tensor, real: Tensor) -> Tensor:
    """The mean absolute error of the teacher on each sample, (N, 1, 1, 1), detached: what gradients are divided by."""
    error = (made - real).abs().flatten(1).mean(1).detach().clamp(min=SMALLEST_ERROR)
    return per_sample(error, made)
