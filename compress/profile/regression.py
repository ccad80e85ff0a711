"""The regression behind a profile: the costs that explain measured latencies best, and how sure that makes them.

Costs are positive and differ by orders of magnitude, so everything happens in their logarithms: the fit minimises the
log ratio of predicted to measured latency (soft L1: a model far off pulls linearly) plus the priors, by damped
Gauss-Newton steps. The same curvature gives the covariance of the costs (Laplace's approximation; MacKay, 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError
from compress.profile.features import COSTS, Layout, Overlap, total
from compress.types import OpRecord

Floats = NDArray[np.float64]

_STEPS, _DAMPING = 80, 1e-2


def design_of(models: Sequence[Sequence[OpRecord]], layout: Layout) -> Floats:
    """What each model asks for, one row each, one column for each of `COSTS`; raises DataError without models."""
    if not models:
        raise DataError("no model has both a graph and a measurement in these tables")
    totals = [total(ops, layout) for ops in models]
    return np.array([[asked.get(cost, 0.0) for cost in COSTS] for asked in totals])


@dataclass(frozen=True, slots=True)
class Solution:
    """The logarithms of the costs (ns) and their covariance, in the order of `COSTS`."""

    log_costs: Floats
    covariance: Floats
    overlap: Overlap | None

    def predict(self, design: Floats) -> tuple[Floats, Floats]:
        """The latency (ms) of each row of `design`, and the share of each cost in it (rows sum to about 1)."""
        return _predict(self.log_costs, design, self.overlap)

    def deviation(self, shares: Floats, noise: float) -> Floats:
        """The standard deviation of the logarithm of each latency, from the costs' own and the noise."""
        return np.asarray(np.sqrt(np.einsum("ij,jk,ik->i", shares, self.covariance, shares) + noise**2))


def _predict(log_costs: Floats, design: Floats, overlap: Overlap | None) -> tuple[Floats, Floats]:
    """Latency (ms) and its derivative by each log cost, over the latency."""
    parts = design * np.exp(log_costs) * 1e-6
    if overlap is not None:
        engines = [[COSTS.index(cost) for cost in costs] for costs in overlap.engines.values()]
        busy = np.stack([parts[:, columns].sum(axis=1) for columns in engines])
        both = (busy**overlap.power).sum(axis=0) ** (1 / overlap.power)
        for columns, time in zip(engines, busy, strict=True):
            parts[:, columns] *= ((time / np.maximum(both, 1e-12)) ** (overlap.power - 1))[:, None]
    sums = parts.sum(axis=1)
    return sums, parts / sums[:, None]


def solve(
    design: Floats,
    measured_ms: Floats,
    priors: tuple[Floats, Floats],
    noise: float,
    overlap: Overlap | None = None,
) -> Solution:
    """The costs that explain `measured_ms` best under the priors.

    Args:
        design: what each model asks for (models, costs).
        measured_ms: latency of each model (models,).
        priors: rows A and numbers b of |A x - b|^2 over the log costs (`priors.as_matrix`).
        noise: the log error that counts as one standard deviation.
        overlap: the engines of the unit that work side by side, if it has any.
    """
    rows, targets = priors
    target = np.log(measured_ms)
    place: Floats = np.linalg.lstsq(rows, targets, rcond=None)[0].astype(np.float64)

    def losses(at: Floats) -> tuple[float, Floats, Floats]:
        predicted, shares = _predict(at, design, overlap)
        error = (np.log(predicted) - target) / noise
        away = rows @ at - targets
        return float((np.sqrt(1 + error**2) - 1).sum() + 0.5 * (away**2).sum()), error, shares

    loss, error, shares = losses(place)
    damping = _DAMPING
    for _ in range(_STEPS):
        weight = 1 / np.sqrt(1 + error**2)
        gradient = shares.T @ (weight * error) / noise + rows.T @ (rows @ place - targets)
        curvature = _curvature(shares, weight, noise, rows)
        moved = loss
        while damping < 1e9:
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), -gradient)
            tried: Floats = place + np.clip(step, -1.0, 1.0).astype(np.float64)
            moved, tried_error, tried_shares = losses(tried)
            if moved < loss:
                place, error, shares = tried, tried_error, tried_shares
                damping = max(damping / 5, 1e-9)
                break
            damping *= 5
        if loss - moved < 1e-7:
            break
        loss = moved
    weight = 1 / np.sqrt(1 + error**2)
    covariance: Floats = np.linalg.inv(_curvature(shares, weight, noise, rows)).astype(np.float64)
    return Solution(place, covariance, overlap)


def _curvature(shares: Floats, weight: Floats, noise: float, rows: Floats) -> Floats:
    """The Gauss-Newton approximation of the loss's second derivative."""
    return np.asarray((shares * weight[:, None]).T @ shares / noise**2 + rows.T @ rows)
