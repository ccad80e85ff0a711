"""Learned solvers: Oganov et al. 2025, "GAS: Generalized Adversarial Solver".

A few dozen numbers of a sampler are trained, and no weight of the network: its noise levels, the level that the
network is told at each step, and corrections of the factors of DPM-Solver++. What comes out is a table of constants as
any other, so that the same network files, quantized ones too, make better pictures in as few evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion.preconditioning import Preconditioning
from compress.diffusion.samplers import dpmpp
from compress.diffusion.tables import Row, SamplerTable


class LearnedSolver(nn.Module):
    """DPM-Solver++ with free numbers; untrained it is DPM-Solver++.

    Args:
        levels: where it begins: noise levels that fall to 0; the first and the last but one stay.
        preconditioning: that of the network.
        order: of the solver.
    """

    highest: Tensor
    span: Tensor

    def __init__(self, levels: Sequence[float] | Tensor, preconditioning: Preconditioning, order: int = 3) -> None:
        super().__init__()
        start = torch.as_tensor(levels, dtype=torch.float64)
        self.preconditioning, self.order, self.steps = preconditioning, order, len(start) - 1
        logs = start[:-1].log()
        self.register_buffer("highest", logs[:1])
        self.register_buffer("span", (logs[0] - logs[-1]).reshape(1))
        # Stick-breaking: each level goes a share of the way that is left, so that levels fall whatever is learned.
        left = (logs[:-1] - logs[-1]).clamp(min=1e-12)
        shares = (-logs.diff() / left)[:-1] if self.steps > 2 else torch.zeros(0, dtype=torch.float64)
        self.breaks = nn.Parameter(torch.logit(shares.clamp(1e-6, 1 - 1e-6)))
        self.shifts = nn.Parameter(torch.zeros(self.steps, dtype=torch.float64))
        size = self.steps + 1
        self.starts = nn.Parameter(torch.zeros(size, dtype=torch.float64))
        self.factors = nn.Parameter(torch.zeros(size, self.steps, dtype=torch.float64))

    @property
    def numbers(self) -> int:
        """How many numbers are learned."""
        free = self.steps * (self.steps + 1) // 2 + self.steps  # of factors only those below the diagonal are used
        return len(self.breaks) + len(self.shifts) + free

    def levels(self) -> list[Any]:
        """The noise levels now: tensors, and 0 at the end."""
        left, logs = self.span, [self.highest]
        for share in torch.sigmoid(self.breaks):
            step = left * share
            left = left - step
            logs.append(logs[-1] - step)
        if self.steps > 1:
            logs.append(self.highest - self.span)
        return [log.exp().squeeze(0) for log in logs] + [0.0]

    def rows(self) -> list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """(start, outputs, time, scale) of each sample on the way, differentiable; see `SamplerTable`."""
        levels, unit = self.levels(), torch.eye(self.steps + 1, dtype=torch.float64, device=self.shifts.device)
        found: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = []

        def corrected(x: Tensor) -> Tensor:
            number = len(found)
            change = torch.cat([self.starts[number : number + 1], self.factors[number]])
            used = torch.arange(self.steps + 1, device=x.device) <= number
            return x + change * used * (number > 0)

        def denoise(x: Tensor, level: Any) -> Tensor:
            x = corrected(x)
            number = len(found)
            here = self.preconditioning(level)
            told = self.preconditioning(level * torch.exp(self.shifts[number])).time
            found.append((x[0], x[1 : 1 + number], told, here.scale))
            return here.skip * x + here.out * unit[number + 1]

        end = corrected(dpmpp(self.order)(denoise, levels[0] * unit[0], levels, lambda number: unit[0]))
        return [*found, (end[0], end[1:], None, None)]

    def forward(self, network: Callable[..., Tensor], first: Tensor, *condition: Any) -> Tensor:
        """As `run`."""
        return self.run(network, first, *condition)

    def run(self, network: Callable[..., Tensor], first: Tensor, *condition: Any) -> Tensor:
        """The pictures (N, ...) of the first noise, differentiable in the solver's numbers."""
        outputs: list[Tensor] = []
        for start, factors, time, scale in self.rows():
            x = start.to(first.dtype) * first
            for factor, output in zip(factors, outputs, strict=True):
                x = x + factor.to(first.dtype) * output
            if time is None or scale is None:
                return x
            times = time.to(first.dtype).expand(len(first))
            outputs.append(network(scale.to(first.dtype) * x, times, *condition).to(first.dtype))
        raise AssertionError("the last row has no time")

    @torch.no_grad()
    def table(self) -> SamplerTable:
        """The solver as a table of constants."""
        levels = [float(level) for level in self.levels()]
        rows = [
            Row(
                float(start),
                tuple(float(f) for f in factors),
                (),
                None if time is None else float(time),
                None if scale is None else float(scale),
                None if time is None else level,
            )
            for (start, factors, time, scale), level in zip(self.rows(), levels, strict=True)
        ]
        return SamplerTable(f"learned solver, {self.steps} steps", tuple(rows))


def quantized_forward(quantized: Callable[..., Tensor], smooth: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A network that answers as the quantized one does and has the float one's gradient."""

    def network(*inputs: Any) -> Tensor:
        with torch.no_grad():
            answer = quantized(*inputs)
        slope = smooth(*inputs)
        return slope + (answer - slope).detach()

    return network
