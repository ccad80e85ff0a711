"""MFAGAN: the discriminator is distilled too.

"MFAGAN: A Compression Framework for Memory-Efficient On-Device Super-Resolution GAN" (Cheng et al., 2021).

A discriminator of full strength soon tells a small generator's outputs from real ones and gives it nothing to learn
from. A second one judges the teacher, whose outputs are hard to tell; the student's imitates its features and logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.adversarial import AdversarySettings, Condition, Discriminator
from compress.distill.generator.base import GeneratorMethod, Options, Terms
from compress.errors import RecipeError
from compress.tasks import Task
from compress.train import OptimizerSettings, Player


@dataclass(frozen=True)
class MfaganOptions(Options):
    """L1 to the teacher's output, its features, a light game, and the discriminator's own distillation."""

    teacher: Terms = field(default_factory=lambda: Terms(pixel=1.0))
    feature: float = 1.0
    gan: float = 0.005
    adversary: AdversarySettings = field(default_factory=lambda: AdversarySettings(discriminator="patch"))
    judge_feature: float = 1.0
    """Weight of the L1 between the two discriminators' features."""
    judge_logit: float = 1.0
    """Weight of the L1 between their logits."""


class Mfagan(GeneratorMethod):
    """The shared terms, and a discriminator that learns from the teacher's.

    Raises:
        RecipeError: `gan` is 0.
    """

    Options = MfaganOptions
    options: MfaganOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: MfaganOptions,
        task: Task,
    ) -> None:
        if not options.gan:
            raise RecipeError("distill.options.gan: mfagan distils a discriminator; give the game a weight above 0")
        super().__init__(teacher, student, example_inputs, options, task)
        self.model_judge = self.make_adversary(teacher, example_inputs)
        self._wanted: Tensor | None = None

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The student's player, its discriminator's, and that of the teacher's discriminator."""
        student, judge = super().players(learner, optimizer)
        model = replace(judge, name="teacher_judge", module=self.model_judge, loss=self.model_judge_loss, stats=None)
        return [student, judge, model]

    def adversarial_terms(self, output: Tensor, wanted: Tensor, batch: Any) -> dict[str, Tensor]:
        """The student's adversarial loss; the teacher's discriminator is to see the same outputs of the teacher."""
        self._wanted = wanted.detach()
        return super().adversarial_terms(output, wanted, batch)

    def discriminator_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """The discriminator's adversarial terms, and its distance from the teacher's on real and fake samples."""
        terms = super().discriminator_loss(modules, batch)
        assert self._fake is not None and self._wanted is not None
        if self.progress < self.options.gan_start:
            return terms
        seen = self.as_seen(torch.cat([self._fake, self.real(self._wanted, batch)]))
        label = self.label(batch)
        judge: Any = modules["discriminator"]
        terms |= self.imitated(judge.discriminator, seen, None if label is None else torch.cat([label, label]))
        return terms

    def imitated(self, judge: Discriminator, seen: Tensor, label: Tensor | None) -> dict[str, Tensor]:
        """How far a discriminator's features and logits are from those of the teacher's, which gets no gradient."""
        clean = seen.new_zeros(len(seen)) if self.options.adversary.noise else None
        condition = Condition(label, clean)
        model = self.model_judge.discriminator
        with torch.no_grad():
            features, logits = model.features(seen), model(seen, condition)
        return {
            "judge feature": self.options.judge_feature * mean_l1(judge.features(seen), features),
            "judge logit": self.options.judge_logit * mean_l1(judge(seen, condition), logits),
        }

    def model_judge_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """The loss of the teacher's discriminator: the teacher's outputs against real ones.

        Raises:
            RecipeError: there are no real outputs.
        """
        assert self._wanted is not None
        real = self.real(self._wanted, batch)
        if real is self._wanted:
            raise RecipeError(
                "distill.options.real: the teacher's discriminator of mfagan needs real outputs beside the teacher's; "
                "take a task with targets, or method: imitate"
            )
        judge: Any = modules["teacher_judge"]
        turn = judge.discriminator_loss(self.as_seen(self._wanted), self.as_seen(real), self.label(batch))
        return turn.terms  # type: ignore[no-any-return]


def mean_l1(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The mean over pairs of their mean absolute difference."""
    return torch.stack([F.l1_loss(a, b) for a, b in zip(first, second, strict=True)]).mean()
