"""Trajectory distillation: the student jumps where the teacher walks along the probability flow.

What the methods share: grids of noise levels that contain each other, and the teacher's steps on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from compress.diffusion import dpmpp, per_sample
from compress.distill.diffusion.base import Metric, distance

Denoise = Callable[..., Tensor]


def refined(levels: Sequence[float], parts: int = 2, rho: float = 7.0) -> list[float]:
    """A grid with each step of another cut into parts, even in Karras et al.'s coordinate; levels fall and end at 0."""
    found: list[float] = []
    for now, then in pairwise(levels):
        low, high = then ** (1 / rho), now ** (1 / rho)
        found += [(high + (low - high) * part / parts) ** rho for part in range(parts)]
    return [*found, levels[-1]]


def euler_step(denoise: Denoise, x: Tensor, now: Tensor, then: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
    """The samples at levels `then` (N,), by one Euler (DDIM) step from levels `now` (N,)."""
    ratio = per_sample(then / now, x)
    return ratio * x + (1 - ratio) * denoise(x, now, *condition)


def heun_step(denoise: Denoise, x: Tensor, now: Tensor, then: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
    """The samples at levels `then` (N,) > 0, by one Heun step from levels `now` (N,)."""
    slope = (x - denoise(x, now, *condition)) / per_sample(now, x)
    step = per_sample(then - now, x)
    ahead = x + step * slope
    second = (ahead - denoise(ahead, then, *condition)) / per_sample(then, x)
    return x + step * (slope + second) / 2


def solve(
    denoise: Denoise, x: Tensor, levels: Sequence[float], condition: tuple[Tensor, ...], order: int = 3
) -> Tensor:
    """The samples at the last of the levels, which fall, by DPM-Solver++ steps from the first; all samples at once."""

    def at(x: Tensor, level: float) -> Tensor:
        return denoise(x, torch.full((len(x),), level, device=x.device), *condition)

    return dpmpp(order)(at, x, levels, lambda number: x)


def distance_at(output: Tensor, wanted: Tensor, level: Tensor, metric: Metric) -> Tensor:
    """The distance of samples at levels (N,), in the variance preserving coordinate: no level is larger than others."""
    power = per_sample(torch.sqrt(1 + level**2), output)
    return distance(output / power, wanted / power, metric)


def x_target(x: Tensor, reached: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """The clean sample with which one Euler step from x at levels `now` lands on `reached` at levels `then`."""
    ratio = per_sample(then / now, x)
    return (reached - ratio * x) / (1 - ratio)
