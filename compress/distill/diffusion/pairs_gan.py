"""Diffusion2GAN: Kang et al. 2024, "Distilling Diffusion Models into Conditional GANs".

What the teacher's sampler makes of noises is computed once; the student then learns to go from noise to sample in one
step as one learns to translate pictures. The distance is of features, of both sides under the same random augmentation:
differences that one view does not show are seen in another. Beside it stands a discriminator that knows noise and
condition, and takes a real sample of another condition for false.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.adversarial import LOSSES, Augment, Regularizer, frozen
from compress.distill.diffusion.base import DiffusionOptions, copy_of
from compress.distill.diffusion.heads import NoisedHead, encoder_layers, outputs_of
from compress.distill.diffusion.offline_pairs import FromPairs
from compress.errors import RecipeError
from compress.tasks.diffusion import Noised
from compress.train import OptimizerSettings, Player


@dataclass(frozen=True)
class PairsGanOptions(DiffusionOptions):
    """One step from cached pairs."""

    pairs: int = 4096
    """Pairs of noise and sample that the teacher makes, with its own sampler, before the first step."""
    augment: tuple[str, ...] = ("flip", "rotation", "translation", "cutout")
    """What both sides of the distance go through, each half of the time; none: they are compared as they are."""
    perceptual: float = 1.0
    gan: float = 0.1
    """Weight of the student's loss against the discriminator; 0: there is none."""
    told: float = 0.05
    """The noise level that teacher and discriminator are told where they look at samples without noise."""
    r1: float = 0.1
    """Gamma of the R1 penalty on a single real sample."""
    r1_every: int = 16
    """Turns of the discriminator between two penalties, each so many times as heavy."""
    discriminator_learning_rate: float = 2e-4


class PairsGan(FromPairs):
    """Regression on the teacher's pairs, and a conditional GAN."""

    Options = PairsGanOptions
    options: PairsGanOptions  # type: ignore[assignment]

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The layers that the distance reads, and the discriminator."""
        if len(self.levels) != 1:
            raise RecipeError(f"distill: pairs are learned in one step, and the task's sampler has {len(self.levels)}")
        self.augment = Augment(self.options.augment)
        self.layers = encoder_layers(self.teacher, example_inputs)
        self.regularizer = Regularizer("r1", self.options.r1, self.options.r1_every)
        self.judge = PairJudge(copy_of(self.teacher), example_inputs) if self.options.gan else None

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The discriminator, where there is one, and the student."""
        student = self.student_player(learner, optimizer, self.student_loss)
        if self.judge is None:
            return [student]
        rate = OptimizerSettings(
            "adamw", self.options.discriminator_learning_rate, weight_decay=0.0, clip_norm=0.0, betas=(0.0, 0.99)
        )
        return [Player("discriminator", self.judge, self.discriminator_loss, rate), student]

    # Whose turn it is

    def made(self, learner: nn.Module, noised: Noised) -> Tensor:
        """What the student makes of the pairs' noises."""
        return self.generate(self.denoiser(learner), noised.noise, given(noised))

    def perceptual(self, made: Tensor, wanted: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """The distance of the teacher's features of both (N,): of unit length at each position, as LPIPS has them."""
        # Side by side in one picture's channels, both get the same augmentation.
        seen = self.augment(torch.cat([made, wanted], 1), 0.5).chunk(2, 1)
        level = torch.full((len(made),), self.options.told, device=self.device)
        inputs = [self.teacher_inputs(samples, level, condition) for samples in seen]
        pairs = zip(*(outputs_of(self.teacher, self.layers, each) for each in inputs), strict=True)
        apart = [(F.normalize(ours) - F.normalize(theirs)).square().sum(1).mean((1, 2)) for ours, theirs in pairs]
        return torch.stack(apart).sum(0)

    def verdict(self, judge: Any, samples: Tensor, noise: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """Logits (N,) of samples as what a noise and a condition become."""
        level = torch.full((len(samples),), self.options.told, device=self.device)
        x, *others = self.teacher_inputs(samples, level, condition)
        logits: Tensor = judge.logits(x + judge.see(noise), *others)
        return logits

    def discriminator_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Telling the teacher's samples from the student's, and from those of other conditions."""
        judge: Any = modules["discriminator"]
        noised, condition = batch.target, given(batch.target)
        with torch.no_grad():
            made = self.made(modules["student"], noised)
        real, fake = (self.verdict(judge, each, noised.noise, condition) for each in (noised.clean, made))
        terms = {"adversarial": LOSSES["non_saturating"].discriminator(real, fake)}
        if condition:
            other = condition[0].roll(1, 0)
            differs = (other != condition[0]).flatten(1).any(1)
            if bool(differs.any()):
                mixed = self.verdict(judge, noised.clean[differs], noised.noise[differs], (other[differs],))
                terms["mismatched"] = F.softplus(mixed).mean()
        if self.regularizer.is_due(int(judge.steps)):

            def score(samples: Tensor) -> Tensor:
                return self.verdict(judge, samples, noised.noise[:1], tuple(c[:1] for c in condition))[:, None]

            terms["penalty"] = self.regularizer(score, noised.clean[:1], made[:1])  # type: ignore[arg-type]
        judge.steps.add_(1)
        return terms

    def student_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Making what the teacher made, and being taken for it."""
        noised, condition = batch.target, given(batch.target)
        made = self.made(modules["student"], noised)
        terms = {"perceptual": self.options.perceptual * self.perceptual(made, noised.clean, condition).mean()}
        if self.options.gan:
            judge = modules["discriminator"]
            with frozen(judge):
                fake = self.verdict(judge, made, noised.noise, condition)
                terms["gan"] = self.options.gan * LOSSES["non_saturating"].generator(None, fake)
        return terms


class PairJudge(NoisedHead):
    """A head that sees a sample and, through a layer that begins at zero, the noise that it should have come from."""

    steps: Tensor

    def __init__(self, network: nn.Module, example_inputs: Sequence[Tensor], width: int = 64) -> None:
        super().__init__(network, example_inputs, width)
        channels = example_inputs[0].shape[1]
        self.see = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.see.weight)
        assert self.see.bias is not None
        nn.init.zeros_(self.see.bias)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))


def given(noised: Noised) -> tuple[Tensor, ...]:
    """The conditions of samples, where there are some."""
    return () if noised.condition is None else (noised.condition,)
