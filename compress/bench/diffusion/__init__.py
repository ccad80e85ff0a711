"""The cases of the diffusion family."""

from __future__ import annotations

from compress.bench.case import Case
from compress.bench.diffusion import adversarial, score, trajectory

CASES: tuple[Case, ...] = (*score.CASES, *trajectory.CASES, *adversarial.CASES)
