"""SANA-Sprint: Chen et al. 2025, a continuous consistency model with an adversarial head.

Consistency in the limit of neighbouring times (sCM, Lu and Song 2025): along the teacher's path what the student says
of the end does not change, and its derivative there, a Jacobian-vector product, is what it learns to make zero.
Everything is on the trigonometric flow, x_t = cos(t) x0 + sin(t) z with z as wide as the data; the student's raw output
is F in x0 = cos(t) x_t - sin(t) data_std F (preconditioning `trig`). A flow-matching network becomes such a one
without training (`AsTrigonometric`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.diffusion import per_sample
from compress.distill.diffusion.adversarial import AdversarialOptions, WithHead


@dataclass(frozen=True)
class ScmOptions(AdversarialOptions):
    """The paper's settings."""

    data_std: float = 0.5
    tangent_mean: float = 0.2
    """Of the logarithm of the time's tangent."""
    tangent_std: float = 1.6
    warm_up: float = 0.25
    """Share of the training in which the derivative's own part grows to its whole weight."""
    normalize: float = 0.1
    """g / (|g| + normalize), the norm per element; 0: as it is."""
    consistency: float = 1.0
    real: Literal["data", "teacher"] = "data"
    gan: float = 0.5
    """Of the adversarial head; 0: there is none."""
    noise_mean: float = -0.6


class Scm(WithHead):
    """Continuous consistency, and LADD's head beside it."""

    Options = ScmOptions
    options: ScmOptions

    def own_terms(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Consistency."""
        return {"consistency": self.options.consistency * self.consistency(learner, batch)}

    def consistency(self, learner: nn.Module, batch: Any) -> Tensor:
        """|F - (F + g)|^2 with g the tangent, weighted by 1 / (data_std tan t)."""
        noised, width = batch.target, self.options.data_std
        condition = () if noised.condition is None else (noised.condition,)
        drawn = self.options.tangent_mean + self.options.tangent_std * torch.randn(len(batch), device=self.device)
        time = torch.atan(torch.exp(drawn) / width)
        cosine, sine = per_sample(time.cos(), noised.clean), per_sample(time.sin(), noised.clean)
        x = cosine * noised.clean + sine * width * noised.noise
        with torch.no_grad():
            clean = self.real(x / cosine, width * time.tan(), *condition)
            speed = (cosine * x - clean) / sine  # dx / dt along the teacher's path
            before, change = self.along(learner, x, speed, time, condition)
            tangent = self.tangent(x, before, change, speed, time)
        said = learner(x / width, time, *condition).float()
        weight = 1 / (width * time.tan()).clamp(min=1e-3)
        return (weight / weight.mean() * (said - (before + tangent)).square().flatten(1).mean(1)).mean()

    def along(
        self, learner: nn.Module, x: Tensor, speed: Tensor, time: Tensor, condition: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """The student's output, and cos t sin t times its derivative along the teacher's path."""

        def output(x: Tensor, time: Tensor) -> Tensor:
            return learner(x, time, *condition)  # type: ignore[no-any-return]

        factor = time.cos() * time.sin()
        width = self.options.data_std
        with torch.autocast(x.device.type, enabled=False):
            found: Any = torch.func.jvp(
                output, (x / width, time), (per_sample(factor, x) * speed / width, factor)
            )  # scaled before, not after: near both ends the derivative itself is huge
        before, change = found
        return before, change

    def tangent(self, x: Tensor, before: Tensor, change: Tensor, speed: Tensor, time: Tensor) -> Tensor:
        """g, warmed up and normalized: zero where the student is consistent."""
        width, share = self.options.data_std, 1.0
        if self.options.warm_up:
            share = min(1.0, self.progress / self.options.warm_up)
        cosine, sine = per_sample(time.cos(), x), per_sample(time.sin(), x)
        found = -(cosine**2) * (width * before - speed) - share * (cosine * sine * x + width * change)
        if not self.options.normalize:
            return found
        size = found.flatten(1).square().mean(1).sqrt()
        return found / per_sample(size + self.options.normalize, found)


class AsTrigonometric(nn.Module):
    """A network that predicts the flow e - x0 of samples over `data_std`, as one of the trigonometric flow.

    Exact, and without training: the same point of the same path in another clock.
    """

    def __init__(self, network: nn.Module, time_factor: float = 1.0) -> None:
        super().__init__()
        self.network, self.time_factor = network, time_factor

    def forward(self, x: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """The trigonometric flow's raw output of x / data_std at times in [0, pi / 2]."""
        share = time.sin() / (time.sin() + time.cos())
        root = torch.sqrt(share**2 + (1 - share) ** 2)
        flow_x = per_sample(root, x) * x
        flow = self.network(flow_x, share * self.time_factor, *condition)
        mixed = per_sample(1 - 2 * share, x) * flow_x + per_sample(1 - 2 * share + 2 * share**2, x) * flow
        return mixed / per_sample(root, x)
