"""SCFlow: Dao et al. 2024, "Self-Corrected Flow Distillation for Consistent One-Step and Few-Step Text-to-Image ...".

A consistency model on the straight flow, corrected by itself: on the line from a noise to the one-step sample of it,
it is to say that sample ("reflow"), and a point of the teacher's path is to agree with the noisier one before it as
well as with the next ("bidirectional"). A discriminator judges the one-step samples. Times are the flow's, t = level /
(1 + level); its Euler steps are those of all other methods here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.diffusion import per_sample
from compress.distill.diffusion.adversarial import AdversarialOptions, WithHead
from compress.distill.diffusion.base import Metric, distance, follow
from compress.distill.diffusion.trajectory import euler_step

EARLIEST = 1e-3


@dataclass(frozen=True)
class SelfCorrectedOptions(AdversarialOptions):
    """The paper's settings; the discriminator sees samples with hardly any noise, and those from pure noise alone."""

    adversarial_loss: str = "non_saturating"
    penalty: str = "r1"
    penalty_weight: float = 1.0
    real: Literal["data", "teacher"] = "data"
    trunk: Literal["frozen", "copy"] = "copy"
    noise_mean: float = -4.0
    noise_std: float = 0.5
    largest_share: float = 1.0
    gan: float = 0.1
    discriminator_learning_rate: float = 1e-4
    reflow: float = 0.1
    """Weight of the one-step sample's line."""
    bidirectional: float = 0.1
    """Weight of the agreement with the point before."""
    warm_up: float = 0.01
    """Share of the training after which these two begin."""
    longest: float = 0.1
    """The longest step between two points of a path, in time."""
    truncation: float = 0.4
    """Before this time the next point's target is the sample itself, not what the student says of it."""
    average: float = 0.9
    """How slowly the running average follows that is the target."""
    metric: Metric = "huber"


class SelfCorrected(WithHead):
    """d(f(x_t), f_average(x_earlier)) + d(f(x_t), f_average(x_later)) + |f(line to f(noise)) - f(noise)|^2."""

    Options = SelfCorrectedOptions
    options: SelfCorrectedOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The discriminator, and the student's running average."""
        super().prepare(student, example_inputs)
        self.extra = nn.ModuleDict({"average": copy.deepcopy(student)})

    def own_terms(self, learner: Any, batch: Any) -> dict[str, Tensor]:
        """Consistency with the next point and, once the training is under way, the two corrections."""
        noised, student = batch.target, self.denoiser(learner)
        condition = () if noised.condition is None else (noised.condition,)
        now, then, before = self.draw_levels(len(batch))
        x = noised.clean + per_sample(now, noised.clean) * noised.noise
        said = student(x, now, *condition)
        follow(learner.extra["average"], learner.student, self.options.average)
        target = self.denoiser(learner.extra["average"])
        with torch.no_grad():
            clean = self.real(x, now, *condition)

            def moved(level: Tensor) -> Tensor:
                """What the average says where the teacher's step to a level ends."""
                return target(euler_step(lambda *_: clean, x, now, level, ()), level, *condition)

            wanted = moved(then)
            known = then / (1 + then) < self.options.truncation
            wanted = torch.where(known[:, None, None, None], noised.clean, wanted)
        terms = {"consistency": distance(said, wanted, self.options.metric).mean()}
        if self.progress < self.options.warm_up:
            return terms
        if self.options.bidirectional:
            with torch.no_grad():
                wanted = moved(before)
            agreement = distance(said, wanted, self.options.metric).mean()
            terms["bidirectional"] = self.options.bidirectional * agreement
        if self.options.reflow:
            terms["reflow"] = self.options.reflow * self.off_the_line(student, now, condition)
        return terms

    def draw_levels(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Levels (N,) of points on paths, of the next points and of those before; even in the flow's time."""
        latest = self.levels[0] / (1 + self.levels[0])
        time, down, up = torch.rand(3, count, device=self.device)
        time = latest * time
        earlier = time - down * time.clamp(max=self.options.longest)
        later = time + up * (latest - time).clamp(max=self.options.longest)
        clocks = torch.stack([time, earlier, later]).clamp(min=EARLIEST)
        return tuple(clocks / (1 - clocks))  # type: ignore[return-value]

    def off_the_line(self, student: Any, level: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """The squared error of what the student says on the lines from noises to its one-step samples of them."""
        noise = self.noise(len(level))
        with torch.no_grad():
            made = self.generate(student, noise, condition)
        return (student(made + per_sample(level, made) * noise, level, *condition) - made).square().mean()
