"""Samplers, each a few lines of one signature, and the tables of constants that they come down to.

A sampler is `sampler(denoise, x, levels, fresh) -> x`: `denoise(x, level)` is the clean sample expected at a noise
level, `levels` fall and end at 0, `fresh(number)` is a standard normal noise. Since all of them are linear in what
they are given, running one on unit vectors in place of samples reads off its constants (`table_of`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from compress.diffusion.preconditioning import Preconditioning
from compress.diffusion.schedules import Flow, Schedule
from compress.diffusion.tables import Row, SamplerTable
from compress.errors import InputError

Denoise = Callable[[Tensor, float], Tensor]
Fresh = Callable[[int], Tensor]
Sampler = Callable[[Denoise, Tensor, Sequence[float], Fresh], Tensor]


def euler(denoise: Denoise, x: Tensor, levels: Sequence[float], fresh: Fresh) -> Tensor:
    """Euler steps along the probability flow; the same as deterministic DDIM (Song et al., 2021)."""
    for now, then in pairwise(levels):
        x = x + (then - now) * (x - denoise(x, now)) / now
    return x


def free_step(x: Tensor, now: float, then: float) -> Tensor:
    """The first step of a path, without a network: far out all of x is noise (Dockhorn et al., 2022)."""
    return x + (then - now) * x / math.sqrt(1 + now**2)


def euler_free_start(denoise: Denoise, x: Tensor, levels: Sequence[float], fresh: Fresh) -> Tensor:
    """Euler steps of which the first asks no network."""
    return euler(denoise, free_step(x, levels[0], levels[1]), levels[1:], fresh)


def heun(denoise: Denoise, x: Tensor, levels: Sequence[float], fresh: Fresh) -> Tensor:
    """Heun's second-order steps, the last one Euler's (Karras et al., 2022, algorithm 1): 2 n - 1 evaluations."""
    for now, then in pairwise(levels):
        slope = (x - denoise(x, now)) / now
        ahead = x + (then - now) * slope
        if then > 0:
            slope = (slope + (ahead - denoise(ahead, then)) / then) / 2
        x = x + (then - now) * slope
    return x


def dpmpp(order: int) -> Sampler:
    """DPM-Solver++ in its multistep form (Lu et al., 2022); `order` 1 (DDIM), 2 or 3, lower at first and before 0."""

    def sample(denoise: Denoise, x: Tensor, levels: Sequence[float], fresh: Fresh) -> Tensor:
        known: list[Tensor] = []
        clocks = [-_log(level) for level in levels if level > 0]  # half the log-SNR
        ends = levels[-1] == 0
        for number, (now, then) in enumerate(pairwise(levels)):
            known.append(denoise(x, now))
            if then == 0:
                return known[-1]  # the last step's limit, of first order
            left = len(levels) - 1 - number if ends else order  # before the last step's limit, lower orders
            at_most = min(order, number + 1, left)
            x = _dpmpp_step(x, known, clocks, number, at_most, then / now)
        return x

    return sample


# Levels are numbers, or tensors of one number where a solver's own levels are learned.
def _log(value: Any) -> Any:
    return value.log() if isinstance(value, Tensor) else math.log(value)


def _expm1(value: Any) -> Any:
    return value.expm1() if isinstance(value, Tensor) else math.expm1(value)


def _dpmpp_step(
    x: Tensor, known: Sequence[Tensor], clocks: Sequence[Any], number: int, order: int, ratio: Any
) -> Tensor:
    """One step from clock `number` to the next; known[-1] is the newest clean sample."""
    h = clocks[number + 1] - clocks[number]
    moved = ratio * x - _expm1(-h) * known[-1]
    if order == 1:
        return moved
    r0 = (clocks[number] - clocks[number - 1]) / h
    first = (known[-1] - known[-2]) / r0
    if order == 2:
        return moved - 0.5 * _expm1(-h) * first
    r1 = (clocks[number - 1] - clocks[number - 2]) / h
    older = (known[-2] - known[-3]) / r1
    slope = first + r0 / (r0 + r1) * (first - older)
    bend = (first - older) / (r0 + r1)
    return moved + (_expm1(-h) / h + 1) * slope - ((_expm1(-h) + h) / h**2 - 0.5) * bend


def renoise(denoise: Denoise, x: Tensor, levels: Sequence[float], fresh: Fresh) -> Tensor:
    """Denoise, add fresh noise up to the next level, denoise again: how few-step students are sampled."""
    for number, (now, then) in enumerate(pairwise(levels)):
        x = denoise(x, now)
        if then > 0:
            x = x + then * fresh(number)
    return x


def table_of(
    name: str, sampler: Sampler, levels: Sequence[float] | Tensor, preconditioning: Preconditioning
) -> SamplerTable:
    """The constants of a sampler on noise levels that fall to 0, for a network with a preconditioning.

    Raises:
        InputError: the levels do not fall to 0.
    """
    steps = [float(level) for level in levels]
    if len(steps) < 2 or steps[-1] != 0 or any(b >= a for a, b in pairwise(steps)):
        raise InputError(f"the noise levels of a sampler fall and end at 0, not {steps}")
    probe = _Probe(2 * len(steps), preconditioning)
    end = sampler(probe.denoise, steps[0] * probe.unit(0), steps, probe.noise)
    return SamplerTable(name, (*probe.rows, probe.row(end)))


class _Probe:
    """Stands for a network: its samples are vectors of factors of (first noise, outputs, fresh noises)."""

    def __init__(self, most: int, preconditioning: Preconditioning) -> None:
        self.most, self.preconditioning = most, preconditioning
        self.rows: list[Row] = []
        self.drawn = 0

    def unit(self, number: int) -> Tensor:
        return torch.eye(2 * self.most + 1, dtype=torch.float64)[number]

    def noise(self, number: int) -> Tensor:
        self.drawn = max(self.drawn, number + 1)
        return self.unit(1 + self.most + number)

    def denoise(self, x: Tensor, level: float) -> Tensor:
        factors = self.preconditioning(torch.tensor(level, dtype=torch.float64))
        self.rows.append(self.row(x, float(factors.time), float(factors.scale), level))
        return factors.skip * x + factors.out * self.unit(len(self.rows))

    def row(self, x: Tensor, time: float | None = None, scale: float | None = None, level: float | None = None) -> Row:
        outputs = tuple(float(v) for v in x[1 : 1 + len(self.rows)])
        noises = tuple(float(v) for v in x[1 + self.most : 1 + self.most + self.drawn])
        return Row(float(x[0]), outputs, noises, time, scale, level)


def table_of_scheduler(scheduler: Any, steps: int, schedule: Schedule) -> SamplerTable:
    """The constants of a diffusers scheduler with `steps` steps, read off it in float64.

    The scheduler itself turns raw outputs into samples, by the prediction type that it is set to.

    Args:
        scheduler: a deterministic one; its `set_timesteps` is called.
        schedule: what the scheduler's times mean; flow schedulers count them in thousandths.

    Raises:
        InputError: the scheduler draws noise on the way, or is not linear in what it is given.
    """
    scheduler.set_timesteps(steps)
    count = len(scheduler.timesteps)
    unit = torch.eye(count + 1, dtype=torch.float64)
    x, rows = _first_width(scheduler) * unit[0], []
    for number, time in enumerate(scheduler.timesteps):
        # Schedulers want a batch of pictures; a vector of factors stands for one.
        scaled = _scaled(scheduler, x[None], time)[0]
        scale = float(scaled @ x / (x @ x))
        clock = time.double() / 1000 if isinstance(schedule, Flow) else time.double()
        level = float(schedule.level(clock))
        rows.append(Row(float(x[0]), tuple(float(v) for v in x[1 : number + 1]), (), float(time), scale, level))
        x = scheduler.step(unit[number + 1][None], time, x[None], return_dict=False)[0][0].double()
    rows.append(Row(float(x[0]), tuple(float(v) for v in x[1:])))
    table = SamplerTable(f"{type(scheduler).__name__}, {steps} steps", tuple(rows))
    _check_linear(scheduler, steps, table)
    return table


def _check_linear(scheduler: Any, steps: int, table: SamplerTable) -> None:
    """The scheduler on numbers must do what its constants say."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(table.evaluations + 1, 4, generator=generator, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    x = _first_width(scheduler) * values[:1]
    for number, time in enumerate(scheduler.timesteps):
        _scaled(scheduler, x, time)
        x = scheduler.step(values[number + 1][None], time, x, return_dict=False)[0]
    wanted = table.rows[-1].start * values[0] + torch.tensor(table.rows[-1].outputs, dtype=torch.float64) @ values[1:]
    if not torch.allclose(x[0].double(), wanted, rtol=1e-5, atol=1e-6):
        raise InputError(f"{type(scheduler).__name__} draws noise on the way or clips; it has no table of constants")


def _first_width(scheduler: Any) -> float:
    """The standard deviation of the first noise; flow schedulers begin at time 1 and do not say it."""
    return float(getattr(scheduler, "init_noise_sigma", 1.0))


def _scaled(scheduler: Any, x: Tensor, time: Tensor) -> Tensor:
    """What the network is given; schedulers that change nothing there may lack the function."""
    found: Tensor = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
    return found
