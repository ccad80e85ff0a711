"""Mixtures of round Gaussians: data whose denoisers, scores and samples are known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Equally likely Gaussians of one standard deviation around `means` (K, D)."""

    means: Tensor
    std: float

    @classmethod
    def ring(cls, count: int = 8, radius: float = 2.0, std: float = 0.1) -> Mixture:
        """`count` modes on a circle."""
        angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
        return cls(radius * torch.stack([angles.cos(), angles.sin()], 1), std)

    @classmethod
    def gaussian(cls, mean: float = 0.0, std: float = 0.5) -> Mixture:
        """A single Gaussian on a line."""
        return cls(torch.full((1, 1), mean, dtype=torch.float64), std)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples (count, D)."""
        which = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[which] + self.std * noise

    def denoise(self, x: Tensor, level: Tensor | float) -> Tensor:
        """E[x0 | x0 + level e = x] for x (N, D) at levels (N,) or one."""
        level_N1 = torch.as_tensor(level, dtype=x.dtype).expand(len(x))[:, None]
        means = self.means.to(x)
        variance = self.std**2 + level_N1**2
        distance_NK = (x[:, None] - means[None]).square().sum(-1)
        share_NK = torch.softmax(-distance_NK / (2 * variance), 1)
        return (share_NK @ means * level_N1**2 + x * self.std**2) / variance
