"""A student that is the teacher with a part added: its own weights are the teacher's, and the part is what learns.

Such students are in `compress.students.conditioned`; the part ships with them, as the student of the recipe has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions
from compress.errors import ModelError
from compress.train import OptimizerSettings, Player


@dataclass(frozen=True)
class AddedOptions(DiffusionOptions):
    """What methods with an added part share."""

    inherit: bool = True
    """Whether the student's weights of the teacher's names begin as the teacher's; false where a step before did it."""
    whole: bool = False
    """Whether the teacher's own weights learn too, and not the added part alone."""


class Added(DiffusionMethod):
    """The weights that the student and the teacher have by the same names are the teacher's, and stay what they are."""

    Options = AddedOptions
    options: AddedOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """Give the student the teacher's weights."""
        self.theirs = set(self.teacher.state_dict())
        held = set(student.state_dict())
        missing = sorted(self.theirs - held)
        if missing:
            raise ModelError(
                f"distill: the student does not hold the teacher's network: it has no '{missing[0]}'; make both with "
                "one of compress.students.conditioned"
            )
        if held == self.theirs and not self.options.whole:
            raise ModelError(
                "distill: the student has no part beside the teacher's network that could learn; make it with one of "
                "compress.students.conditioned"
            )
        if self.options.inherit:
            inherit(student, self.teacher.state_dict())

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The student's player; what is the teacher's is no longer trained, and its norms keep their statistics."""
        if not self.options.whole:
            for name, parameter in learner.get_submodule("student").named_parameters():
                parameter.requires_grad_(name not in self.theirs)
            learner.keep_norms = True  # type: ignore[assignment]
        return super().players(learner, optimizer)


def inherit(student: nn.Module, weights: Mapping[str, Any]) -> None:
    """Put weights into a student by their names, in place; its part `copied` gets those of the part `base` that fit.

    Raises:
        ModelError: a weight has another shape in the student.
    """
    with torch.no_grad():
        for name, value in student.state_dict().items():
            part, _, rest = name.partition(".")
            given = weights.get(f"base.{rest}" if part == "copied" else name)
            if given is None or (part == "copied" and given.shape != value.shape):
                continue
            if given.shape != value.shape:
                shapes = f"{tuple(value.shape)}, not the teacher's {tuple(given.shape)}"
                raise ModelError(f"distill: the student's '{name}' has shape {shapes}")
            value.copy_(given)
