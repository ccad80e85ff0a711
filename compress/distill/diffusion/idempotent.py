"""SIGN: Zaman et al. 2025, "Score-based Idempotent Distillation of Diffusion Models".

The student is a projection: of noise it makes a sample, a sample it leaves as it is, and what is between, noised or
damaged, it brings back. So it can be applied once or again (`idempotent_table`), and to anything. It is told one
level, the first of the task's sampler, whatever it is given. In the place of an adversary, the teacher's score moves
what is made of noise to the data, as DMD does, and its path says which points have the same projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.adversarial import frozen
from compress.diffusion import Preconditioning, Row, SamplerTable, karras_levels, per_sample
from compress.distill.diffusion.base import Metric, distance
from compress.distill.diffusion.dmd import Dmd, DmdOptions
from compress.distill.diffusion.trajectory import euler_step


@dataclass(frozen=True)
class IdempotentOptions(DmdOptions):
    """DMD's settings, and the weights of what makes a projection; without these it is DMD in one step."""

    reconstruct: float = 1.0
    """Weight of f(x) = x on real samples."""
    idempotent: float = 1.0
    """Weight of f(f(z)) = f(z)."""
    flow: float = 1.0
    """Weight of f(x_now) = f(x_next) on the teacher's path."""
    points: int = 40
    """Points on that path, up to the student's level."""
    metric: Metric = "l2"


class Idempotent(Dmd):
    """DMD's gradient on f(z), d(f(x), x), d(f'(f(z)), f(z)) with f' held still, and d(f(x_now), f(x_next))."""

    Options = IdempotentOptions
    options: IdempotentOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """DMD's networks; samples of the student are projections of pure noise, however often its sampler projects."""
        super().prepare(student, example_inputs)
        self.levels = self.levels[:1]

    def student_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """All terms, each with draws of its own."""
        terms = super().student_loss(modules, batch)
        student, noised = modules["student"], batch.target
        condition = () if noised.condition is None else (noised.condition,)
        if self.options.reconstruct:
            error = self.apart(self.projected(student, noised.clean, condition), noised.clean)
            terms["reconstruct"] = self.options.reconstruct * error
        if self.options.idempotent:
            asked = self.condition(len(batch))
            made = self.generate(self.denoiser(student), self.noise(len(batch)), asked)
            with frozen(student):  # the second time learns nothing: what is made is to come to where it stays
                error = self.apart(self.projected(student, made, asked), made)
            terms["idempotent"] = self.options.idempotent * error
        if self.options.flow:
            terms["flow"] = self.options.flow * self.along_the_path(student, noised, condition)
        return terms

    def projected(self, network: nn.Module, x: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """The student's projection of anything (N, C, H, W)."""
        return self.denoiser(network)(x, torch.full((len(x),), self.levels[0], device=x.device), *condition)

    def along_the_path(self, student: nn.Module, noised: Any, condition: tuple[Tensor, ...]) -> Tensor:
        """The distance between the projections of a point and of the next one, which learns nothing."""
        levels = karras_levels(self.options.points, self.options.lowest, self.levels[0])[:-1].float()
        number = torch.randint(len(levels) - 1, (len(noised.clean),))
        now, then = levels[number].to(self.device), levels[number + 1].to(self.device)
        x = noised.clean + per_sample(now, noised.clean) * noised.noise
        said = self.projected(student, x, condition)
        with torch.no_grad():
            following = euler_step(self.real, x, now, then, condition)
            wanted = self.projected(student, following, condition)
        return self.apart(said, wanted)

    def apart(self, one: Tensor, other: Tensor) -> Tensor:
        """The mean distance of samples."""
        return distance(one, other, self.options.metric).mean()


def idempotent_table(preconditioning: Preconditioning, level: float, times: int = 1) -> SamplerTable:
    """How samples are made of noise, or by `run` of anything over `level`: by projecting it, once or several times."""
    here = preconditioning(torch.tensor(level, dtype=torch.float64))
    start, outputs, rows = level, list[float](), list[Row]()
    for _ in range(times):
        rows.append(Row(start, tuple(outputs), (), float(here.time), float(here.scale), level))
        start, outputs = float(here.skip) * start, [*(float(here.skip) * each for each in outputs), float(here.out)]
    return SamplerTable(f"{times} projections", (*rows, Row(start, tuple(outputs))))
