"""Points of the plane (N, 2) in clusters: a ring of 8 or a grid of 25, where lost modes can be counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from compress.adversarial.discriminators.base import Discriminator, activated

_NEAR = 3.0  # deviations from a centre within which a point belongs to it
_SHARE = 0.1  # of the points that a mode would have if all were hit alike, from which on it counts as hit


@dataclass(frozen=True)
class Clusters:
    """An even mixture of round Gaussians: `centres` (M, 2), all with the same `deviation`."""

    centres: Tensor
    deviation: float

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """So many points, (count, 2)."""
        chosen = torch.randint(len(self.centres), (count,), generator=generator)
        return self.centres[chosen] + self.deviation * torch.randn(count, 2, generator=generator)

    def modes_hit(self, points_N2: Tensor) -> int:
        """How many centres have at least a tenth of their even share of the points within 3 deviations."""
        near_NM = torch.cdist(points_N2, self.centres) <= _NEAR * self.deviation
        return int((near_NM.sum(0) >= _SHARE * len(points_N2) / len(self.centres)).sum())

    def share_near(self, points_N2: Tensor) -> float:
        """The share of the points within 3 deviations of a centre; of true ones it is 0.989."""
        near_NM = torch.cdist(points_N2, self.centres) <= _NEAR * self.deviation
        return float(near_NM.any(1).double().mean())

    def distance(self, points_N2: Tensor, generator: torch.Generator) -> float:
        """The energy distance (Székely and Rizzo, 2013) of the points to as many true ones; 0 for one distribution."""
        made, real = points_N2.double(), self.draw(len(points_N2), generator).double()
        across, within = torch.cdist(made, real).mean(), (_spread(made) + _spread(real)) / 2
        return float(2 * (across - within))


def ring() -> Clusters:
    """8 clusters on a circle of radius 2, deviation 0.1."""
    angles = torch.arange(8) * (2 * math.pi / 8)
    return Clusters(2 * torch.stack([angles.cos(), angles.sin()], 1), 0.1)


def grid() -> Clusters:
    """25 clusters, 5 by 5 at distance 1, deviation 0.05."""
    along = torch.arange(-2.0, 3.0)
    return Clusters(torch.cartesian_prod(along, along), 0.05)


def generator(latent: int = 2, width: int = 64) -> nn.Module:
    """A new network from noise (N, latent) to points: three hidden layers, weights from the global random state."""
    widths = [latent, width, width, width]
    hidden = [nn.Sequential(nn.Linear(before, after), nn.ReLU()) for before, after in pairwise(widths)]
    return nn.Sequential(*hidden, nn.Linear(width, 2))


def discriminator(width: int = 64, timed: bool = False) -> Discriminator:
    """A new network that judges points, as deep as the generator; its weights come from the global random state."""
    widths = [2, width, width, width]
    layers = [activated(nn.Linear(before, after)) for before, after in pairwise(widths)]
    # A head reads channels at positions; here there is one.
    tower = nn.Sequential(*layers, nn.Unflatten(1, (width, 1)))
    return Discriminator([tower], [nn.Conv1d(width, 1, 1)], [width], timed=timed)


def _spread(points_NC: Tensor) -> Tensor:
    """The mean distance of two different points."""
    count = len(points_NC)
    return torch.cdist(points_NC, points_NC).sum() / (count * (count - 1))
