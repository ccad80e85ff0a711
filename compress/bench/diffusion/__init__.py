"""The cases of the diffusion family."""

from __future__ import annotations

from compress.bench.case import Case
from compress.bench.diffusion import adversarial, conditions, evaluations, phases, score, solvers, targets, trajectory

CASES: tuple[Case, ...] = (
    *score.CASES, *trajectory.CASES, *adversarial.CASES, *targets.CASES, *phases.CASES, *conditions.CASES,
    *solvers.CASES, *evaluations.CASES,
)  # fmt: skip
