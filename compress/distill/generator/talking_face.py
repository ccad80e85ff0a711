"""Distillation without any adversary, for a recipe that ends in mixed precision.

"A Unified Compression Framework for Efficient Speech-Driven Talking-Face Generation" (Kim et al., 2023).

The paper is a whole recipe: blocks go and channels are cut, the student learns from the teacher without a game, and the
layers that 8-bit rounding hurts most keep 16 bits. Here is its second part. The first and the last are

    - search: {...}            # blocks and widths; or prune: {ratio: ...}
    - distill: {method: talking_face, options: {taps: [...]}}
    - quantize: {scheme: w8a8, mixed: {keep: float16, max_quality_drop: ...}}

where `mixed` ranks layers by the output error that rounding each of them makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from compress.distill.generator.base import GeneratorMethod, Options, Terms
from compress.errors import RecipeError
from compress.tasks import Task


@dataclass(frozen=True)
class TalkingFaceOptions(Options):
    """L1 to the teacher's output and to its features at the chosen blocks, and the task's own loss."""

    teacher: Terms = field(default_factory=lambda: Terms(pixel=1.0))
    feature: float = 1.0
    task_loss: float = 1.0
    """Weight of the task's loss against real outputs, where it has them: reconstruction, lip synchrony."""


class TalkingFace(GeneratorMethod):
    """Output, features and task loss. No seed decides a game: what it gives varies little from run to run.

    Raises:
        RecipeError: `gan` has a weight.
    """

    Options = TalkingFaceOptions
    options: TalkingFaceOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: TalkingFaceOptions,
        task: Task,
    ) -> None:
        if options.gan:
            raise RecipeError("distill.options.gan: talking_face trains without an adversary; take method: imitate")
        super().__init__(teacher, student, example_inputs, options, task)

    def output_terms(self, output: Tensor, wanted: Tensor, batch: Any) -> dict[str, Tensor]:
        """The distances to the teacher's output and to the real one, and the task's own loss."""
        terms = super().output_terms(output, wanted, batch)
        if self.options.task_loss and self.task.labelled and batch.target is not None:
            terms["task"] = self.options.task_loss * self.task.loss(output, batch.target)
        return terms
