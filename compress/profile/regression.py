"""The regression behind a profile: the costs that explain measured latencies best, and how sure that makes them.

Costs are positive and differ by orders of magnitude, so everything happens in their logarithms: the fit minimises the
log ratio of predicted to measured latency, by the likelihood of Student's t (a model far off, such as one that a
compiler fell over, pulls little; Lange, Little & Taylor, 1989), plus the priors, by damped Gauss-Newton steps. The
same curvature gives the covariance of the costs (Laplace's approximation; MacKay, 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError
from compress.profile.constants import MOST_LOWERED
from compress.profile.features import COSTS, Layout, total
from compress.types import OpRecord

Floats = NDArray[np.float64]

_STEPS, _DAMPING = 80, 1e-2
# The degrees of freedom of Student's t: the fewer, the less a model far off counts.
_FREEDOM, _FREEDOM_AT_FIRST = 2.0, 30.0


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

    def predict(self, design: Floats) -> tuple[Floats, Floats]:
        """The latency (ms) of each row of `design`, and the share of each cost in it (rows sum to 1).

        The latency is not the median but what has the smallest expected relative error: a figure twice too high is
        further off than one half too low. Of a log-normal variable with variance s^2 that is the median times
        exp(-s^2) (Gneiting, 2011). Here s^2 is what the costs are unsure of; the noise is much the same for all models.
        """
        median, shares = _predict(self.log_costs, design)
        return median * np.exp(-np.minimum(self._variance(shares), MOST_LOWERED)), shares

    def deviation(self, shares: Floats, noise: float) -> Floats:
        """The standard deviation of the logarithm of each latency, from the costs' own and the noise."""
        return np.asarray(np.sqrt(self._variance(shares) + noise**2))

    def _variance(self, shares: Floats) -> Floats:
        """The variance of the logarithm of each latency that is due to the costs."""
        return np.asarray(np.einsum("ij,jk,ik->i", shares, self.covariance, shares))


def _predict(log_costs: Floats, design: Floats) -> tuple[Floats, Floats]:
    """Latency (ms) and its derivative by each log cost, over the latency."""
    parts = design * np.exp(log_costs) * 1e-6
    sums = parts.sum(axis=1)
    return sums, parts / sums[:, None]


def solve(
    design: Floats,
    measured_ms: Floats,
    priors: tuple[Floats, Floats],
    noise: float,
) -> Solution:
    """The costs that explain `measured_ms` best under the priors.

    Args:
        design: what each model asks for (models, costs).
        measured_ms: latency of each model (models,).
        priors: rows A and numbers b of |A x - b|^2 over the log costs (`priors.as_matrix`).
        noise: the log error that counts as one standard deviation.
    """
    rows, targets = priors
    place: Floats = np.linalg.lstsq(rows, targets, rcond=None)[0].astype(np.float64)
    # Models far off count in full at first, so that a cost that explains them is found before they are given up on.
    for freedom in (_FREEDOM_AT_FIRST, _FREEDOM):
        place = _descend(place, design, np.log(measured_ms), priors, noise, freedom)
    predicted, shares = _predict(place, design)
    weight = _weight((np.log(predicted) - np.log(measured_ms)) / noise, _FREEDOM)
    covariance: Floats = np.linalg.inv(_curvature(shares, weight, noise, rows)).astype(np.float64)
    return Solution(place, covariance)


def _descend(
    place: Floats, design: Floats, target: Floats, priors: tuple[Floats, Floats], noise: float, freedom: float
) -> Floats:
    """The log costs of least loss that damped Gauss-Newton steps from `place` on lead to."""
    rows, targets = priors

    def losses(at: Floats) -> tuple[float, Floats, Floats]:
        predicted, shares = _predict(at, design)
        error = (np.log(predicted) - target) / noise
        away = rows @ at - targets
        misfit = 0.5 * (freedom + 1) * np.log1p(error**2 / freedom)
        return float(misfit.sum() + 0.5 * (away**2).sum()), error, shares

    loss, error, shares = losses(place)
    damping = _DAMPING
    for _ in range(_STEPS):
        weight = _weight(error, freedom)
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
    return place


def _weight(error: Floats, freedom: float) -> Floats:
    """How much each model pulls, by its error in standard deviations."""
    return np.asarray((freedom + 1) / (freedom + error**2))


def _curvature(shares: Floats, weight: Floats, noise: float, rows: Floats) -> Floats:
    """The Gauss-Newton approximation of the loss's second derivative."""
    return np.asarray((shares * weight[:, None]).T @ shares / noise**2 + rows.T @ rows)
