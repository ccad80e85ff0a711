"""DisBack: Zhang et al. 2024, "Distribution Backtracking".

A student that has just begun makes samples that the teacher has never seen, and is badly judged by it. So the teacher
is first spoiled step by step on the untrained student's samples, and its states are kept; then the student learns from
these states in reverse, the most spoiled first, and from the teacher itself in the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.distill.diffusion.base import no_loss
from compress.distill.diffusion.dmd import Dmd, DmdOptions


@dataclass(frozen=True)
class DisBackOptions(DmdOptions):
    """DMD's settings; a path of one state is DMD itself."""

    states: int = 4
    """States of the teacher that the student learns from, the teacher itself the last of them."""
    spoiling: float = 0.15
    """Share of the training in which the teacher is spoiled, and the student does not learn."""
    return_by: float = 0.6
    """Share of the training after which the teacher itself is learned from."""


class DisBack(Dmd):
    """DMD with the teacher's states, in reverse, as the real score."""

    Options = DisBackOptions
    options: DisBackOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """DMD's networks, and room for the teacher's states."""
        super().prepare(student, example_inputs)
        # With the student, so that a training that goes on after an interruption finds the path again.
        self.extra = nn.ModuleList(copy.deepcopy(self.teacher) for _ in range(self.options.states - 1))
        self.extra.register_buffer("kept", torch.zeros((), dtype=torch.long))

    @property
    def spoils(self) -> bool:
        """Whether the teacher is being spoiled now."""
        return self.options.states > 1 and self.progress < self.options.spoiling

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Keep a state of the fake score, which is what spoils, whenever another part of the spoiling is done."""
        super().on_epoch(epoch, epochs)
        extra: Any = self.extra
        due = int(self.progress / self.options.spoiling * len(extra)) if len(extra) else 0
        while int(extra.kept) < min(due, len(extra)):
            extra[int(extra.kept)].load_state_dict(self._fake_network().state_dict())
            extra.kept += 1

    def _fake_network(self) -> nn.Module:
        return self.fake.network if self.has_head else self.fake  # type: ignore[return-value]

    @property
    def real(self) -> Callable[..., Tensor]:
        """The state of the teacher whose turn it is, with the recipe's guidance."""
        extra: Any = self.extra
        done = (self.progress - self.options.spoiling) / max(1e-9, self.options.return_by - self.options.spoiling)
        place = int(extra.kept) - 1 - int(max(0.0, done) * int(extra.kept) + 1e-9)  # 2.9999 is 3
        return super().real if place < 0 else self.as_teacher(extra[place])

    def student_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """DMD's; while the teacher is spoiled the student waits."""
        if self.spoils:
            return {"waiting": no_loss(modules["student"])}
        return super().student_loss(modules, batch)
