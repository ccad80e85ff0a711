"""NCT: Luo et al. 2025, "Noise Consistency Training".

A one-step generator learns a condition that it never knew, from its own samples alone: no data, and no many-step
teacher. What a sample of the frozen generator shows (the task's `seen_in`) is the condition that its noise should
answer; the noise is then replaced by another bit by bit, and the answer must not change. Held back by the first noise's
own sample, or all answers would become one; how strongly, is found by dual ascent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion import per_sample
from compress.distill.diffusion.added import Added, AddedOptions
from compress.distill.diffusion.base import Metric, distance
from compress.errors import RecipeError


@dataclass(frozen=True)
class NoiseConsistencyOptions(AddedOptions):
    """The path of the noise, and what holds its beginning."""

    points: int = 20
    """Steps from the noise to another one that knows nothing of it."""
    boundary: float = 1.0
    """Weight, at first, of the distance to the frozen generator's own sample."""
    margin: float = 0.01
    """The distance up to which that weight falls, and beyond which it rises."""
    ascent: float = 0.01
    """How fast it does."""
    metric: Metric = "l2"


class NoiseConsistency(Added):
    """d(f(z_k+1, c), f(z_k, c)) + lambda d(f(z_0, c), g(z_0)), z_k = cos(a_k) z + sin(a_k) e, c what g(z_0) shows."""

    Options = NoiseConsistencyOptions
    options: NoiseConsistencyOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The generator's weights for the student, and the weight of the boundary."""
        super().prepare(student, example_inputs)
        if self.task.seen_in is None or self.asked is None:
            raise RecipeError("distill: noise consistency asks for what samples show; give the task `seen_in`, `asked`")
        # With the student, so that a training that goes on after an interruption finds it again.
        self.extra = nn.Module()
        self.extra.register_buffer("boundary", torch.tensor(self.options.boundary))

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The consistency and the boundary, whose weight then moves by how far it is from its margin."""
        extra: Any = learner.get_submodule("extra")
        count, student = len(batch), self.denoiser(learner)
        latent, other = self.noise(count), self.noise(count)
        with torch.no_grad():
            made, condition = self.shown(latent)
        number = torch.randint(self.options.points, (count,), device=self.device)
        far = self.generate(student, self.turned(latent, other, number + 1), condition)
        with torch.no_grad():
            near = self.generate(student, self.turned(latent, other, number), condition)
        begun = distance(self.generate(student, latent, condition), made, self.options.metric).mean()
        weight = extra.boundary.clone()
        if self.options.ascent:
            extra.boundary.add_(self.options.ascent * (begun.detach() - self.options.margin)).clamp_(min=0)
        return {
            "consistency": distance(far, near, self.options.metric).mean(),
            "boundary": weight * begun,
        }

    def shown(self, latent: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(the frozen generator's samples, condition rows that ask for what they show)."""
        assert self.task.seen_in is not None
        asked = self.condition(len(latent))
        made = self.generate(self.real, latent, asked)
        seen = self.task.seen_in(made).to(made)
        return made, tuple(torch.cat([rows[:, : -seen.shape[1]], seen], 1) for rows in asked)

    def turned(self, latent: Tensor, other: Tensor, number: Tensor) -> Tensor:
        """Standard normal noise of which less and less is the first one: all of it at number 0, none at `points`."""
        angle = per_sample(number / self.options.points * (math.pi / 2), latent)
        return torch.cos(angle) * latent + torch.sin(angle) * other
