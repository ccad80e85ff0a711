"""Score forgetting: Chen et al. 2024, "Score Forgetting Distillation".

A class is forgotten while the steps are cut: for it the teacher is asked for another class, or for nothing in
particular, and the student for itself. All other classes are learned as by SiD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.distill.diffusion.sid import Sid, SidOptions
from compress.errors import RecipeError


@dataclass(frozen=True)
class UnlearnOptions(SidOptions):
    """SiD's settings, and what is forgotten."""

    forget: int = 0
    """The number of the condition to forget, among the task's."""
    substitute: int = -1
    """What the teacher is asked for instead; -1: for nothing in particular."""


class Unlearn(Sid):
    """SiD with the teacher's condition replaced."""

    Options = UnlearnOptions
    options: UnlearnOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """SiD's networks; refuses conditions that the task has not."""
        super().prepare(student, example_inputs)
        forget, substitute = self.options.forget, self.options.substitute
        known = 0 if self.task.asked is None else len(self.task.asked)
        if max(forget, substitute) >= known or forget == substitute:
            raise RecipeError(
                f"distill.options: forget {forget} and substitute {substitute} must be two of the task's {known} "
                "conditions, by number from 0"
            )

    @property
    def real(self) -> Callable[..., Tensor]:
        """The teacher, which is asked for something else where the forgotten condition is meant."""
        teacher = super().real

        def denoise(x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
            return teacher(x, level, self.replaced(condition))

        return denoise

    def replaced(self, condition: Tensor) -> Tensor:
        """Condition rows (N, K) with the forgotten one replaced."""
        assert self.task.asked is not None
        asked = self.task.asked.to(condition)
        other = asked[self.options.substitute] if self.options.substitute >= 0 else torch.zeros_like(asked[0])
        forgotten = (condition == asked[self.options.forget]).all(1)
        return torch.where(forgotten[:, None], other, condition)
