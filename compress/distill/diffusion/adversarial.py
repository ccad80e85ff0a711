"""Adversarial distillation: a discriminator on a denoiser's own features says how a student's samples differ.

LADD (Sauer et al. 2024): heads on the frozen teacher, noised samples, and the teacher's own samples for real ones.
ADD (Sauer et al. 2023): real data at hardly any noise, beside the distance to what the teacher makes of the student's
noised samples. APT (Lin et al. 2025): the discriminator is a whole copy of the teacher, the penalty an approximation
that needs no second derivative. They are settings of one method.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.adversarial import LOSSES, PENALTIES, frozen
from compress.diffusion import per_sample
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions
from compress.distill.diffusion.heads import NoisedHead
from compress.errors import RecipeError
from compress.train import OptimizerSettings, Player


@dataclass(frozen=True)
class AdversarialOptions(DiffusionOptions):
    """LADD's settings."""

    adversarial_loss: str = "hinge"
    penalty: str = "none"
    penalty_weight: float = 0.0
    real: Literal["data", "teacher"] = "teacher"
    """What is real: the task's samples, or the teacher's (made on the spot, by the task's teacher sampler)."""
    trunk: Literal["frozen", "copy"] = "frozen"
    """Whether the discriminator's trunk is the teacher as it is, or a copy that learns."""
    noise_mean: float = 1.0
    """Of the logit of the flow time at which the discriminator looks; higher is coarser."""
    noise_std: float = 1.0
    largest_share: float = 0.5
    """Chance that a student's sample begins from pure noise, not from a noised real one."""
    gan: float = 1.0
    distil: float = 0.0
    """Weight of the distance to the teacher's answer on the student's own noised samples."""
    discriminator_learning_rate: float = 2e-4
    turns: int = 1
    """Turns of the discriminator for one of the student."""


class Ladd(DiffusionMethod):
    """The student against a discriminator; see the module."""

    Options = AdversarialOptions
    options: AdversarialOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The discriminator."""
        known = {"adversarial_loss": [*LOSSES], "penalty": ["none", *PENALTIES]}
        for name, values in known.items():
            given = getattr(self.options, name)
            if given not in values:
                raise RecipeError(f"distill.options.{name} is '{given}'; it can be {', '.join(values)}")
        self.judge_loss = LOSSES[self.options.adversarial_loss]
        trunk = copy.deepcopy(self.teacher).requires_grad_(self.options.trunk == "copy")
        self.judge = NoisedHead(trunk, example_inputs)

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The discriminator, then the student."""
        rate = OptimizerSettings(
            "adamw", self.options.discriminator_learning_rate, weight_decay=0.0, clip_norm=0.0, betas=(0.0, 0.99)
        )
        student = self.student_player(learner, optimizer, self.student_loss, self.options.turns)
        return [Player("discriminator", self.judge, self.discriminator_loss, rate), student]

    # What student and discriminator see

    def made(self, learner: nn.Module, batch: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(the student's samples, their conditions): from pure noise, or from real samples at one of its levels."""
        noised, count = batch.target, len(batch)
        condition = () if noised.condition is None else (noised.condition,)
        number = torch.randint(len(self.levels), (count,), device=self.device)
        pure = torch.rand(count, device=self.device) < self.options.largest_share
        level = torch.tensor(self.levels, device=self.device)[torch.where(pure, 0, number)]
        begun = per_sample((~pure).to(noised.clean.dtype), noised.clean) * noised.clean
        x = begun + per_sample(level, noised.clean) * self.noise(count)
        return self.denoiser(learner)(x, level, *condition), condition

    def real_samples(self, batch: Any) -> Tensor:
        """What the discriminator takes for real, of the batch's conditions."""
        if self.options.real == "data":
            return batch.target.clean  # type: ignore[no-any-return]
        with torch.no_grad():
            sampler, count = self.task.teacher_sampler, len(batch)
            noises = torch.stack([self.noise(count) for _ in range(1 + sampler.fresh_noises)], 1)
            return self.task.make_of(self.teacher, noises, batch.target.condition, sampler)

    def looks(self, count: int) -> Tensor:
        """Noise levels (count,) at which the discriminator looks, drawn by their flow time."""
        logit = self.options.noise_mean + self.options.noise_std * torch.randn(count, device=self.device)
        time = torch.sigmoid(logit).clamp(1e-3, 0.98)
        return time / (1 - time)

    def verdict(
        self, judge: Any, samples: Tensor, noise: Tensor, level: Tensor, condition: tuple[Tensor, ...]
    ) -> Tensor:
        """Logits (N,) of samples with noise."""
        x = samples + per_sample(level, samples) * noise
        logits: Tensor = judge.logits(*self.teacher_inputs(x, level, condition))
        return logits

    # Whose turn it is

    def discriminator_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Telling real from made samples with the same noise, and the penalty."""
        judge, real, count = modules["discriminator"], self.real_samples(batch), len(batch)
        with torch.no_grad():
            made, condition = self.made(modules["student"], batch)
        level, noise = self.looks(count), self.noise(count)
        verdicts = [self.verdict(judge, each, noise, level, condition) for each in (real, made)]
        terms = {"adversarial": self.judge_loss.discriminator(*verdicts)}
        if self.options.penalty != "none":
            penalty, factor = PENALTIES[self.options.penalty]

            def score(samples: Tensor) -> Tensor:
                return self.verdict(judge, samples, noise, level, condition)[:, None]

            terms["penalty"] = self.options.penalty_weight * factor * penalty(score, real, made)  # type: ignore[arg-type]
        return terms

    def student_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Being taken for real, and agreeing with the teacher."""
        judge, count = modules["discriminator"], len(batch)
        with frozen(judge):
            made, condition = self.made(modules["student"], batch)
            level, noise = self.looks(count), self.noise(count)
            wanted = self.verdict(judge, self.real_samples(batch), noise, level, condition)
            given = self.verdict(judge, made, noise, level, condition)
            terms = {"gan": self.options.gan * self.judge_loss.generator(wanted.detach(), given)}
        if self.options.distil:
            terms["distil"] = self.options.distil * self.agreement(made, condition)
        return terms

    def agreement(self, made: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """|x - x_teacher|^2 of the student's own samples with noise, the more weight the less noise.

        No gradient reaches the teacher's input.
        """
        count = len(made)
        level = torch.exp(self.task.level_mean + self.task.level_std * torch.randn(count, device=self.device))
        with torch.no_grad():
            told = self.real(made.detach() + per_sample(level, made) * self.noise(count), level, *condition)
        weight = per_sample(1 / torch.sqrt(1 + level**2), made)
        return (weight * (made - told).square()).flatten(1).mean(1).mean()


class WithHead(Ladd):
    """Terms of a method's own, and LADD's head beside them where `gan` asks for one."""

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The discriminator, where there is one, and the student."""
        both = super().players(learner, optimizer)
        return both if self.options.gan else both[1:]

    def student_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """The method's own terms, and being taken for real."""
        terms = super().student_loss(modules, batch) if self.options.gan else {}
        return {**self.own_terms(modules["student"], batch), **terms}

    def own_terms(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Named terms that need no discriminator."""
        raise NotImplementedError


@dataclass(frozen=True)
class AddOptions(AdversarialOptions):
    """ADD's settings: pictures as they are, real data, hinge with R1, and the teacher's word."""

    penalty: str = "r1"
    penalty_weight: float = 1e-5
    real: Literal["data", "teacher"] = "data"
    noise_mean: float = -4.0
    noise_std: float = 0.5
    distil: float = 2.5


class Add(Ladd):
    """ADD; the frozen features are the denoiser's own at hardly any noise, where a task brings no others."""

    Options = AddOptions


@dataclass(frozen=True)
class AptOptions(AdversarialOptions):
    """APT's settings: one step, real data, a copy of the teacher as discriminator."""

    adversarial_loss: str = "non_saturating"
    penalty: str = "approximate_r1"
    penalty_weight: float = 0.02
    real: Literal["data", "teacher"] = "data"
    trunk: Literal["frozen", "copy"] = "copy"
    noise_mean: float = 0.0
    largest_share: float = 1.0
    discriminator_learning_rate: float = 1e-4


class Apt(Ladd):
    """APT: Lin et al. 2025, "Diffusion Adversarial Post-Training for One-Step Video Generation"."""

    Options = AptOptions
