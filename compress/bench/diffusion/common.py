"""What the diffusion cases share: a student of the digits' denoiser, distilled and judged by the samples it makes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from compress.bench.beds import digits_diffusion as bed
from compress.bench.case import Case, Run
from compress.bench.train import distil
from compress.diffusion import Preconditioning, SamplerTable, euler, karras, karras_levels, renoise, table_of
from compress.distill.diffusion import DiffusionMethod
from compress.tasks import Diffusion

FRECHET = "Fréchet distance on a digit classifier"
ONE_LEVEL = 2.5
"""The noise level of a one-step student's latent."""
EPOCHS, RATE = 60, 3e-4
BED = f"a denoiser of 8 x 8 digits (18 Heun steps, width {bed.WIDTH})"


def few_steps(*levels: float) -> SamplerTable:
    """The sampler that denoises at each level, with fresh noise between."""
    return table_of(f"{len(levels)} steps", renoise, [*levels, 0.0], karras(bed.DATA_STD))


def euler_steps(count: int) -> SamplerTable:
    """Euler steps on Karras et al.'s levels."""
    return table_of(f"{count} Euler steps", euler, karras_levels(count, bed.LOWEST, bed.HIGHEST), karras(bed.DATA_STD))


class TwoTimes(nn.Module):
    """A denoiser beside flow maps, which take a second time: it does not look at it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, until: Tensor, condition: Tensor) -> Tensor:
        """The raw outputs."""
        output: Tensor = self.network(x, time, condition)
        return output


def student_of(
    kind: type[DiffusionMethod],
    options: Mapping[str, Any],
    sampler: SamplerTable,
    seed: int,
    *,
    epochs: int = EPOCHS,
    rate: float = RATE,
    network: Callable[[], nn.Module] | None = None,
    preconditioning: Preconditioning | None = None,
) -> tuple[nn.Module, Diffusion]:
    """(a student distilled from the teacher, the task that judges it); by default it begins as the teacher's copy."""
    task = bed.task(sampler, preconditioning)
    teacher = TwoTimes(bed.teacher()) if task.takes_until else bed.teacher()
    student = distil(
        kind, options, teacher, network or (lambda: copy.deepcopy(bed.teacher())), task,
        seed=seed, epochs=epochs, learning_rate=rate,
    )  # fmt: skip
    return student, task


def frechet(student: nn.Module, task: Diffusion) -> float:
    """The Fréchet distance of the student's samples to digits that it never saw."""
    value = task.quality(student).value
    assert value is not None
    return value


def teacher_frechet(sampler: SamplerTable) -> float:
    """The teacher's own with another sampler."""
    return frechet(bed.teacher(), bed.task(sampler))


def versus(
    kind: type[DiffusionMethod],
    sampler: SamplerTable,
    with_idea: Mapping[str, Any],
    without: Mapping[str, Any],
    **settings: Any,
) -> Run:
    """The case of one method with two settings of its options."""

    def run(seed: int) -> tuple[float, float]:
        first, second = (
            frechet(*student_of(kind, options, sampler, seed, **settings)) for options in (with_idea, without)
        )
        return first, second

    return run


def case(
    method: str, name: str, question: str, card: str, run: Run, metric: str = FRECHET, higher: bool = False
) -> Case:
    """A case on the digits' denoiser."""
    return Case(method, name, question, metric, "", higher, card, run)
