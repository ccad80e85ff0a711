"""Learned solvers on the digits' denoiser, as it is and on integers: the numbers of a sampler, no weight."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from compress import quantize
from compress.bench.beds import digits_diffusion as bed
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.diffusion.common import BED, case, frechet
from compress.diffusion import SamplerTable, dpmpp, karras, karras_levels, table_of
from compress.diffusion.learned import LearnedSolver, quantized_forward
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import trace

STEPS, ORDER, PAIRS, TURNS, BATCH, RATE = 4, 3, 512, 400, 64, 5e-3
CALIBRATION_BATCHES = 16


def base_table(steps: int = STEPS) -> SamplerTable:
    """DPM-Solver++ in a few steps, which an untrained solver is."""
    levels = karras_levels(steps, bed.LOWEST, bed.HIGHEST)
    return table_of(f"DPM-Solver++, {steps} steps", dpmpp(ORDER), levels, karras(bed.DATA_STD))


@cache
def rounded(scheme: str) -> nn.Module:
    """The teacher on integers, post-training, calibrated on what the base sampler asks."""
    task = bed.task(base_table())
    folded = fold_batch_norms(trace(bed.teacher(), task.example_inputs()))
    batches = [batch.inputs for batch in task.calibration(bed.teacher(), CALIBRATION_BATCHES)]
    return quantize.apply(folded, quantize.plan(folded, scheme, batches)).eval()


@cache
def known() -> tuple[Tensor, Tensor, Tensor]:
    """(noises, conditions, the teacher's own samples of them)."""
    task = bed.task(base_table())
    noises, conditions = task.noises("train", PAIRS), task.conditions_of(PAIRS)
    assert conditions is not None
    with torch.no_grad():
        return noises, conditions, task.make_of(bed.teacher(), noises, conditions, task.teacher_sampler)


def learned(network: Callable[..., Tensor], seed: int) -> SamplerTable:
    """The sampler that a network learns; samples are to come near the teacher's own, in pixels."""
    noises, conditions, wanted = known()
    with seeded(seed):
        solver = LearnedSolver(karras_levels(STEPS, bed.LOWEST, bed.HIGHEST), karras(bed.DATA_STD), ORDER)
        optimizer = torch.optim.Adam(solver.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TURNS)
        for _ in range(TURNS):
            chosen = torch.randint(PAIRS, (BATCH,))
            optimizer.zero_grad()
            (solver(network, noises[chosen], conditions[chosen]) - wanted[chosen]).abs().mean().backward()
            optimizer.step()
            schedule.step()
    return solver.table()


def _float(seed: int) -> tuple[float, float]:
    return frechet(bed.teacher(), bed.task(learned(bed.teacher(), seed))), frechet(
        bed.teacher(), bed.task(base_table())
    )


def _rounded(scheme: str, other: Callable[[int], Any]) -> Callable[[int], tuple[float, float]]:
    def run(seed: int) -> tuple[float, float]:
        network = rounded(scheme)
        table = learned(quantized_forward(network, bed.teacher()), seed)
        return frechet(network, bed.task(table)), frechet(network, bed.task(other(seed)))

    return run


CASES: tuple[Case, ...] = (
    case(
        "gas", "four steps", f"Four learned steps, against DPM-Solver++ at four; {BED}, {TURNS} turns.",
        "the distance to the teacher falls by 40 % or more.", _float,
    ),
    case(
        "gas", "after rounding, w8a8", f"Learned on the w8a8 network, against DPM-Solver++ on the same; {BED}.",
        "part of what rounding lost is won back.", _rounded("w8a8", lambda seed: base_table()),
    ),
    case(
        "gas", "after rounding, w4a8", f"Learned on the w4a8 network, against DPM-Solver++ on the same; {BED}.",
        "part of what rounding lost is won back.", _rounded("w4a8", lambda seed: base_table()),
    ),
    case(
        "gas", "for the rounded network, w4a8",
        f"Learned on the w4a8 network, against learned on the float one and used on the w4a8 one; {BED}.",
        "the numbers fit the network that they were learned on.",
        _rounded("w4a8", lambda seed: learned(bed.teacher(), seed)),
    ),
)  # fmt: skip
