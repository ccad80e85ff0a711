"""Adapting a profile to another device, or to another version of a runtime, from a handful of measurements.

The costs start where the known profile has them (`adaptable.py` says how far measurements may move them).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.errors import DataError
from compress.profile.adaptable import adapted
from compress.profile.constants import Costs
from compress.profile.features import COSTS
from compress.profile.fit import costs_from
from compress.profile.judge import Rows
from compress.profile.regression import Floats, Solution

FEWEST = 3
_SPLIT = "measurements, each predicted from the others"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Adapted costs, with the error on each measurement as predicted without it: by the old costs, by the new."""

    costs: Costs
    before: Floats
    after: Floats

    @property
    def mape_before(self) -> float:
        """The mean absolute error of the old costs on the measurements."""
        return float(self.before.mean())

    @property
    def mape_after(self) -> float:
        """The mean absolute error on each measurement of costs adapted to all the others."""
        return float(self.after.mean())


def calibrate(base: Costs, rows: Rows, source: str) -> Calibration:
    """The costs of `base` adapted to the rows of another unit.

    Args:
        base: the costs to start from, of the same kind of unit and scheme.
        rows: the models measured there; `rows.design` laid out as `base.layout` says.
        source: where the measurements are from.

    Raises:
        DataError: there are fewer than three measurements.
    """
    count = len(rows.names)
    if count < FEWEST:
        raise DataError(f"{source}: {count} measurements; calibrating takes at least {FEWEST}, better 10")
    start, noise = solution_of(base), base.spread.noise
    old, _ = start.predict(rows.design)
    predicted, scores = np.zeros(count), np.zeros(count)
    for place in range(count):
        others = np.arange(count) != place
        solution = adapted(start, rows.design[others], rows.measured_ms[others], noise)
        latency, shares = solution.predict(rows.design[~others])
        predicted[place] = latency[0]
        scores[place] = np.log(rows.measured_ms[place] / latency[0]) / solution.deviation(shares, noise)[0]
    solution = adapted(start, rows.design, rows.measured_ms, noise)
    # Few scores say little about tails: the interval is never narrower than that of the profile it started from.
    low, high = max(base.spread.low, -float(scores.min())), max(base.spread.high, float(scores.max()))
    costs = costs_from(solution, rows, base.layout, noise, (low, high), predicted, None, source, _SPLIT)
    seen = {cost: max(costs.seen[cost], base.seen.get(cost, 0)) for cost in COSTS}
    return Calibration(
        costs.model_copy(update={"seen": seen}),
        np.abs(old / rows.measured_ms - 1),
        np.abs(predicted / rows.measured_ms - 1),
    )


def solution_of(costs: Costs) -> Solution:
    """The costs of a profile as the regression has them."""
    log_costs = np.log(np.maximum([costs.ns_per[cost] for cost in COSTS], 1e-12))
    root = np.array([[direction.get(cost, 0.0) for cost in COSTS] for direction in costs.spread.directions])
    covariance = root.T @ root if len(root) else np.zeros((len(COSTS), len(COSTS)))
    return Solution(log_costs, covariance)
