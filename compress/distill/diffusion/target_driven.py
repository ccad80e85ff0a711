"""TDD: Wang et al. 2024, "Target-Driven Distillation".

A consistency model that agrees with itself about the levels where it will be sampled, and about no others: its jump
from a point of the teacher's path to such a level, and its jump from the next point there. All schedules of a few
lengths are targets, so that one student serves each of them (`schedule`, with Euler steps). Some samples lose their
condition ("decoupled guidance"), so that a student of a guided teacher can itself be guided, more or less than it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.diffusion import per_sample
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions, Metric
from compress.distill.diffusion.trajectory import distance_at, euler_step

RHO = 7.0
CLOSE = 1e-6


@dataclass(frozen=True)
class TargetDrivenOptions(DiffusionOptions):
    """The paper's settings; shares are of the way from the lowest to the highest level, in Karras et al.'s steps."""

    points: int = 250
    """Points on the teacher's path."""
    steps: tuple[int, ...] = (4, 5, 6, 7, 8)
    """Lengths of the schedules whose levels are targets."""
    targets: Literal["schedules", "anywhere", "end"] = "schedules"
    """Where jumps go: to a level of the schedules, to any lower one, or to the end, as a consistency model's do."""
    reach: float = 0.26
    """How much lower, as a share, a target may be than the first level of the schedules below the point."""
    lowered: float = 0.3
    """A target of the schedules is drawn from this last part of its share, for samplers that add noise on the way."""
    unasked: float = 0.2
    """Share of samples that lose their condition, beside those that the task takes it from."""
    lowest: float = 0.002
    highest: float = 80.0
    metric: Metric = "huber"


class TargetDriven(DiffusionMethod):
    """d(jump from x_now to the target, jump from x_next there), x_next by the teacher's Euler step."""

    Options = TargetDrivenOptions
    options: TargetDrivenOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The targets' shares, rising from 0."""
        self.shares = torch.tensor(sorted({part / steps for steps in self.options.steps for part in range(steps)}))

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The distance between two jumps to the same level."""
        noised, count = batch.target, len(batch)
        condition = self.some_asked(noised.condition)
        number = torch.randint(1, self.options.points + 1, (count,), device=self.device)
        following = (number - 1) / self.options.points
        shares = (number / self.options.points, following, self.draw_targets(following))
        now, then, target = (level_of(share, self.options.lowest, self.options.highest) for share in shares)
        x = noised.clean + per_sample(now, noised.clean) * noised.noise
        student = self.denoiser(learner)
        said = euler_step(student, x, now, target, condition)
        with torch.no_grad():
            reached = euler_step(self.real, x, now, then, condition)
            wanted = euler_step(student, reached, then, target, condition)
        return {"target": distance_at(said, wanted, target, self.options.metric).mean()}

    def draw_targets(self, following: Tensor) -> Tensor:
        """The shares (N,) of targets for points whose next points have shares (N,)."""
        if self.options.targets == "end":
            return torch.zeros_like(following)
        if self.options.targets == "anywhere":
            return following * torch.rand_like(following)
        shares = self.shares.to(following.device)
        below = shares <= following[:, None] + CLOSE
        first = shares[below.sum(1) - 1]
        near = below & (shares >= first[:, None] - self.options.reach - CLOSE)
        drawn = shares[torch.multinomial(near.float(), 1)[:, 0]]
        return drawn * (1 - self.options.lowered * torch.rand_like(drawn))

    def some_asked(self, condition: Tensor | None) -> tuple[Tensor, ...]:
        """The conditions of a batch, some of them taken away."""
        if condition is None:
            return ()
        kept = torch.rand(len(condition), device=condition.device) >= self.options.unasked
        return (condition * kept[:, None],)


def level_of(share: Tensor, lowest: float, highest: float) -> Tensor:
    """The levels of shares of the way from the lowest to the highest one."""
    low, high = lowest ** (1 / RHO), highest ** (1 / RHO)
    return (low + share * (high - low)) ** RHO


def schedule(steps: int, lowest: float = 0.002, highest: float = 80.0) -> list[float]:
    """The levels of a student's sampler of so many steps; they fall and end at 0."""
    shares = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    return [*level_of(shares, lowest, highest).tolist(), 0.0]
