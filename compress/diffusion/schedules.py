"""Noise schedules: how much signal and how much noise there is at a time, and which time has a given noise level.

Every schedule draws x_t = signal(t) x0 + noise(t) e with e standard normal. Two schedules differ in their clock and in
a factor of x_t only, so that all maths here is done in one coordinate, the noise level

    level(t) = noise(t) / signal(t),        x = x_t / signal(t) = x0 + level e

which is Karras et al.'s sigma (2022). Times and levels are tensors of any shape; what is float64 stays float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from compress.errors import DataError


class Schedule(ABC):
    """A clock for the noise; `name` is what manifests call it."""

    name: str

    @abstractmethod
    def signal(self, time: Tensor) -> Tensor:
        """The factor of the clean sample in x_t."""

    @abstractmethod
    def noise(self, time: Tensor) -> Tensor:
        """The factor of the standard normal noise in x_t."""

    @abstractmethod
    def time(self, level: Tensor) -> Tensor:
        """The time that has a noise level."""

    def level(self, time: Tensor) -> Tensor:
        """The noise level of a time."""
        return self.noise(time) / self.signal(time)

    def signal_at(self, level: Tensor) -> Tensor:
        """The factor of the clean sample at a noise level."""
        return self.signal(self.time(level))


class Edm(Schedule):
    """Variance exploding: the time is the noise level (Karras et al., 2022)."""

    name = "edm"

    def signal(self, time: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(time)

    def noise(self, time: Tensor) -> Tensor:
        """The time itself."""
        return time

    def time(self, level: Tensor) -> Tensor:
        """The level itself."""
        return level


class Flow(Schedule):
    """A straight line from data (time 0) to noise (time 1): x_t = (1 - t) x0 + t e (Lipman et al., 2023)."""

    name = "flow"

    def signal(self, time: Tensor) -> Tensor:
        """1 - t."""
        return 1 - time

    def noise(self, time: Tensor) -> Tensor:
        """The time itself."""
        return time

    def time(self, level: Tensor) -> Tensor:
        """Level / (1 + level)."""
        return level / (1 + level)


class Cosine(Schedule):
    """Variance preserving: x_t = cos(pi t / 2) x0 + sin(pi t / 2) e for times in [0, 1] (Nichol and Dhariwal, 2021)."""

    name = "cosine"

    def signal(self, time: Tensor) -> Tensor:
        """cos(pi t / 2)."""
        return torch.cos(time * (math.pi / 2))

    def noise(self, time: Tensor) -> Tensor:
        """sin(pi t / 2)."""
        return torch.sin(time * (math.pi / 2))

    def time(self, level: Tensor) -> Tensor:
        """2 / pi times the level's arcus tangent."""
        return torch.atan(level) * (2 / math.pi)


class Trig(Schedule):
    """x_t = cos(t) x0 + sin(t) z for noise z as wide as the data, and times in [0, pi / 2] (Lu and Song, 2025).

    Args:
        data_std: the standard deviation of the data.
    """

    name = "trig"

    def __init__(self, data_std: float = 0.5) -> None:
        self.data_std = data_std

    def signal(self, time: Tensor) -> Tensor:
        """Cos t."""
        return torch.cos(time)

    def noise(self, time: Tensor) -> Tensor:
        """data_std sin t."""
        return self.data_std * torch.sin(time)

    def time(self, level: Tensor) -> Tensor:
        """The arcus tangent of level / data_std."""
        return torch.atan(level / self.data_std)


class Discrete(Schedule):
    """Variance preserving on numbered steps, as DDPM has it (Ho et al., 2020); between steps log-levels are linear.

    Args:
        signal_power: the share of signal power ("alphas_cumprod") after each step, falling, each in (0, 1).

    Raises:
        DataError: the shares do not fall, or leave (0, 1).
    """

    name = "discrete"

    def __init__(self, signal_power: Sequence[float] | Tensor) -> None:
        power = torch.as_tensor(signal_power, dtype=torch.float64)
        if power.dim() != 1 or len(power) < 2 or not bool(((power > 0) & (power < 1)).all()):
            raise DataError("a discrete schedule needs two or more shares of signal power, each between 0 and 1")
        if not bool((power.diff() < 0).all()):
            raise DataError("the shares of signal power of a discrete schedule must fall from step to step")
        self.log_levels = 0.5 * torch.log((1 - power) / power)

    @classmethod
    def of_betas(cls, betas: Sequence[float] | Tensor) -> Discrete:
        """The schedule that adds noise of variance `betas[i]` in step i."""
        return cls(torch.cumprod(1 - torch.as_tensor(betas, dtype=torch.float64), 0))

    def level(self, time: Tensor) -> Tensor:
        """The noise level of a step number, whole or not."""
        table = self.log_levels.to(time.device)
        position = time.double().clamp(0, len(table) - 1)
        low = position.floor().long().clamp(max=len(table) - 2)
        share = position - low
        return torch.exp(table[low] * (1 - share) + table[low + 1] * share).to(_floating(time))

    def signal(self, time: Tensor) -> Tensor:
        """1 / sqrt(1 + level^2)."""
        return 1 / torch.sqrt(1 + self.level(time) ** 2)

    def noise(self, time: Tensor) -> Tensor:
        """Level / sqrt(1 + level^2)."""
        level = self.level(time)
        return level / torch.sqrt(1 + level**2)

    def time(self, level: Tensor) -> Tensor:
        """The step number, whole or not, that has a noise level; levels beyond the table have that of its end."""
        table = self.log_levels.to(level.device)
        wanted = torch.log(level.double()).clamp(table[0], table[-1])
        high = torch.searchsorted(table, wanted.contiguous()).clamp(1, len(table) - 1)
        share = (wanted - table[high - 1]) / (table[high] - table[high - 1])
        return (high - 1 + share).to(_floating(level))

    def signal_at(self, level: Tensor) -> Tensor:
        """1 / sqrt(1 + level^2), for levels beyond the table too."""
        return 1 / torch.sqrt(1 + level**2)


def _floating(like: Tensor) -> torch.dtype:
    return like.dtype if like.is_floating_point() else torch.float32


def karras_levels(steps: int, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Tensor:
    """The noise levels of Karras et al. (2022, eq. 5), falling, and 0 at the end: float64 (steps + 1,)."""
    share = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    levels = (high ** (1 / rho) + share * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])
