"""SDXL-Lightning: Lin et al. 2024, "SDXL-Lightning: Progressive Adversarial Diffusion Distillation".

Progressive distillation whose later rounds ask a discriminator where the squared error would blur. It is a copy of the
teacher and is first shown a step's both ends, so that a student is right only where it lands as the teacher does from
the same point; at the end of a round it is shown where the step lands alone, which lets a student that is too small
leave the teacher's path where that is ugly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.adversarial import frozen
from compress.diffusion import per_sample
from compress.distill.diffusion.base import copy_of, no_loss
from compress.distill.diffusion.heads import NoisedHead, head_of
from compress.distill.diffusion.progressive import Progressive, ProgressiveOptions
from compress.distill.diffusion.trajectory import euler_step
from compress.distill.lora import adapt, merge_lora, train_loras
from compress.train import OptimizerSettings, Player


@dataclass(frozen=True)
class LightningOptions(ProgressiveOptions):
    """The ladder, and who judges on which rung."""

    squared: int = 1
    """Rounds, the first ones, with the squared error of progressive distillation; as many as `halvings`: that alone."""
    alone: float = 0.5
    """Share of each further round, its end, in which the discriminator is shown where a step lands, and no more."""
    looks: tuple[float, ...] = (0.1, 0.7, 1.6, 4.1)
    """Noise levels that the discriminator looks at, one drawn for each sample; what is noisier stays as it is."""
    rank: int = 0
    """Of the low-rank changes of all convolutions and linear layers that alone are trained; 0: everything is."""
    discriminator_learning_rate: float = 1e-4
    turns: int = 1
    """Turns of the discriminator for one of the student."""


class Lightning(Progressive):
    """One step of the student where two steps of its teacher land, as a discriminator sees it."""

    Options = LightningOptions
    options: LightningOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The teacher of the next round, and the discriminator."""
        if self.options.rank:
            adapt(student, self.options.rank)
        super().prepare(student, example_inputs)
        self.judge = PairHead(copy_of(self.teacher), example_inputs)

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The discriminator, then the student."""
        if self.options.rank:
            train_loras(learner)
        rate = OptimizerSettings(
            "adamw", self.options.discriminator_learning_rate, weight_decay=0.0, clip_norm=0.0, betas=(0.0, 0.99)
        )
        student = self.student_player(learner, optimizer, self.student_loss, self.options.turns)
        return [Player("discriminator", self.judge, self.discriminator_loss, rate), student]

    def finish(self, student: nn.Module) -> None:
        """Low-rank changes become part of the weights."""
        merge_lora(student)

    # Where in the ladder the training is

    @property
    def round(self) -> int:
        """The number of the round."""
        extra: Any = self.extra
        return int(extra.round)

    @property
    def is_squared(self) -> bool:
        """Whether this round has no discriminator."""
        return self.round < self.options.squared

    @property
    def is_alone(self) -> bool:
        """Whether the discriminator is shown where a step lands, and no more."""
        return self.progress * self.options.halvings - self.round >= 1 - self.options.alone - 1e-9  # 0.4999 is 0.5

    # Whose turn it is

    def verdicts(
        self, judge: Any, landings: Sequence[Tensor], x: Tensor, now: Tensor, then: Tensor, condition: Any
    ) -> list[Tensor]:
        """Logits (N,) of each of several batches of landings at levels `then` of one step from x, all noised alike."""
        look = torch.tensor(self.options.looks, device=self.device)[torch.randint(len(self.options.looks), (len(x),))]
        level = torch.maximum(look.to(then.dtype), then)
        noise = per_sample((level**2 - then**2).sqrt(), x) * self.noise(len(x))
        before = self.teacher_inputs(x, now, condition)
        ends = [self.teacher_inputs(landed + noise, level, condition) for landed in landings]
        return [judge.logits(*end) if self.is_alone else judge.pair_logits(before, end) for end in ends]

    def discriminator_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Telling the teacher's landings from the student's."""
        judge, learner = modules["discriminator"], modules["student"]
        if self.is_squared:
            return {"waiting": no_loss(judge)}
        x, now, then, condition, reached = self.jump(learner, batch)
        with torch.no_grad():
            made = euler_step(self.denoiser(learner), x, now, then, condition)
        real, fake = self.verdicts(judge, (reached, made), x, now, then, condition)
        return {"adversarial": (F.softplus(-real) + F.softplus(fake)).mean()}

    def student_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Landing where the discriminator takes it for the teacher."""
        judge, learner = modules["discriminator"], modules["student"]
        if self.is_squared:
            return self.loss(learner, batch)
        with frozen(judge):
            x, now, then, condition, _ = self.jump(learner, batch)
            made = euler_step(self.denoiser(learner), x, now, then, condition)
            (fake,) = self.verdicts(judge, (made,), x, now, then, condition)
            return {"adversarial": F.softplus(-fake).mean()}


class PairHead(NoisedHead):
    """A head on one point's features, and another on those of a step's two ends side by side."""

    def __init__(self, network: nn.Module, example_inputs: Sequence[Tensor], width: int = 64) -> None:
        super().__init__(network, example_inputs, width)
        channels: Any = self.head[0].in_channels
        self.pair = head_of(2 * channels, width)

    def pair_logits(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
        """How much a step looks like the teacher's: (N,), from the network's inputs at its ends."""
        logits: Tensor = self.pair(torch.cat([self.features(*before), self.features(*after)], 1)).mean((1, 2, 3))
        return logits
