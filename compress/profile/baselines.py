"""Predictors that a reader would try first: latency from MACs alone, and gradient boosting on eight figures of a graph.

Both are fitted to, and judged on, the same rows and folds as the latency model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.errors import ToolMissing
from compress.profile.features import COSTS
from compress.profile.judge import Rows
from compress.profile.regression import Floats

_MATRIX = tuple(f"macs.{key}" for key in ("linear", "matmul"))
_CONVOLUTIONS = tuple(f"macs.{key}" for key in ("conv", "pointwise_conv", "conv_transpose", "conv3d"))
_NARROW = ("macs.depthwise_conv", "macs.grouped_conv")


@dataclass(frozen=True, slots=True)
class Baseline:
    """A predictor from the design and latencies of models seen and the design of those asked for.

    `fewest` is how many models it takes for its predictions to mean anything.
    """

    predict: Callable[[Floats, Floats, Floats], Floats]
    fewest: int

    def held_out(self, rows: Rows) -> Floats:
        """What the baseline, fitted to all other folds, says of each model (ms)."""
        predicted = np.zeros(len(rows.names))
        folds = rows.folds
        for fold in sorted(set(folds)):
            inside = folds == fold
            predicted[inside] = self.predict(rows.design[~inside], rows.measured_ms[~inside], rows.design[inside])
        return predicted


def _macs(design: Floats) -> Floats:
    """The MACs of each model, at padded widths."""
    columns = [COSTS.index(cost) for cost in (*_MATRIX, *_CONVOLUTIONS, *_NARROW)]
    return np.asarray(np.maximum(design[:, columns].sum(axis=1), 1.0))


def _by_macs(seen: Floats, measured_ms: Floats, asked: Floats) -> Floats:
    """A straight line through log latency over log MACs; of slope 1 where the MACs seen are all the same."""
    known = np.log(_macs(seen))
    if np.ptp(known) == 0:
        return np.asarray(np.exp(np.log(measured_ms).mean() - known[0]) * _macs(asked))
    slope, offset = np.polyfit(known, np.log(measured_ms), 1)
    return np.asarray(np.exp(offset + slope * np.log(_macs(asked))))


def _features(design: Floats) -> Floats:
    """Eight figures of each graph, as logarithms: MACs by group, bytes moved, weights, launches."""

    def column(costs: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(design[:, [COSTS.index(cost) for cost in costs]].sum(axis=1))

    moved = [cost for cost in COSTS if cost.startswith("bytes.") and cost not in ("bytes.weights", "bytes.far")]
    figures = [
        _macs(design), column(_CONVOLUTIONS), column(_NARROW), column(_MATRIX), column(moved),
        column(["bytes.weights"]), column(["ops.layer"]), column(["ops.other"]),
    ]  # fmt: skip
    return np.asarray(np.log1p(np.stack(figures, axis=1)))


def _by_boosting(seen: Floats, measured_ms: Floats, asked: Floats) -> Floats:
    """Gradient boosting on the eight figures of `_features`, with the library's settings but for a fixed seed."""
    try:
        from sklearn import config_context
        from sklearn.ensemble import GradientBoostingRegressor
    except ImportError as error:
        raise ToolMissing("scikit-learn (needed by the evaluation only)", "fit") from error
    model = GradientBoostingRegressor(random_state=0)
    with config_context(skip_parameter_validation=True):  # a third of the time, 100 trees at a time
        model.fit(_features(seen), np.log(measured_ms))
    return np.asarray(np.exp(model.predict(_features(asked))))


BASELINES: dict[str, Baseline] = {
    "MACs alone": Baseline(_by_macs, fewest=2),
    # With fewer, every tree is a list of the models it saw.
    "gradient boosting": Baseline(_by_boosting, fewest=10),
}
