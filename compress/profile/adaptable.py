"""Costs that start from those of another unit: the prior of a fit to few rows, and of a calibration.

What changes from chip to chip is first how fast its arithmetic, its memory and its launches are, and only then how
its kernels compare with each other. So the costs start where the known fit has them, and the measurements may move
all costs of a group together by much and each cost by itself by little (a hierarchical prior; Gelman & Hill, 2007).
How unsure the known fit is of its costs stays as it was: few measurements cannot tell which of them were wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from compress.profile.features import COSTS
from compress.profile.judge import Rows
from compress.profile.regression import Floats, Solution, solve

Solver = Callable[[NDArray[np.bool_]], Solution]
# How far, as a standard deviation of logarithms, measurements may move: everything, one group, one cost.
_ALL, _GROUP, _EACH = 1.0, 0.5, 0.15


def adapted(start: Solution, design: Floats, measured_ms: Floats, noise: float) -> Solution:
    """The costs of `start`, moved to what explains the measurements (see `regression.solve`)."""
    moved = solve(design, measured_ms, _moves(start.log_costs), noise)
    return Solution(moved.log_costs, moved.covariance + start.covariance)


def relative_solver(rows: Rows, base: Rows, base_solver: Solver, noise: float, by_family: bool | None = None) -> Solver:
    """What fits the costs to chosen rows, starting from those of a relative of the unit (see `kept_in`)."""

    def solver(chosen: NDArray[np.bool_]) -> Solution:
        start = base_solver(kept_in(base, rows, chosen, by_family))
        return adapted(start, rows.design[chosen], rows.measured_ms[chosen], noise)

    return solver


def kept_in(base: Rows, rows: Rows, chosen: NDArray[np.bool_], by_family: bool | None = None) -> NDArray[np.bool_]:
    """Which rows of a relative are behind a fit to the chosen rows.

    What those left out is left out of the relative's too, by model and `by_family` (by default where the rows hold
    families enough): the error on it is then that on a model nobody has measured on either.
    """
    kept: NDArray[np.bool_] = ~np.isin(base.names, np.array(rows.names)[~chosen])
    if rows.by_family if by_family is None else by_family:
        kept &= ~np.isin(base.families, rows.families[~chosen])
    return kept


def _moves(start: Floats) -> tuple[Floats, Floats]:
    """The prior of an adaptation: rows A and numbers b of |A x - b|^2 over the log costs."""
    covariance = _EACH**2 * np.eye(len(COSTS)) + _ALL**2
    for group in _groups():
        covariance += _GROUP**2 * np.outer(group, group)
    root = np.linalg.cholesky(np.linalg.inv(covariance)).T
    return root, root @ start


def _groups() -> tuple[Floats, ...]:
    """Which costs belong to arithmetic, to memory and to launches."""
    memory = np.array([cost.startswith("bytes.") for cost in COSTS], dtype=float)
    launches = np.array([cost.startswith("ops.") or cost == "calls" for cost in COSTS], dtype=float)
    return 1.0 - memory - launches, memory, launches
