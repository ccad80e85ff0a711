"""How good the predictions are: every fit judged on families it never saw, beside simple baselines on the same rows.

The baselines are those a reader would try first: latency from MACs alone, and gradient boosting on eight figures of
the graph. Both are fitted and judged on the same folds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import ToolMissing
from compress.profile.constants import HeldOut, rounded
from compress.profile.features import COSTS
from compress.profile.fit import SPLIT, Rows, calibrated_units, errors_of, held_out, layout_of, solver_for
from compress.profile.priors import NOISE
from compress.profile.regression import Floats
from compress.profile.tables import read_graphs, read_latencies
from compress.types import Scheme

# A baseline: the design and latencies of the models it may see, and the design of those it must predict.
Baseline = Callable[[Floats, Floats, Floats], Floats]
_MATRIX = tuple(f"macs.{key}" for key in ("linear", "matmul"))
_CONVOLUTIONS = tuple(f"macs.{key}" for key in ("conv", "pointwise_conv", "conv_transpose", "conv3d"))
_NARROW = ("macs.depthwise_conv", "macs.grouped_conv")


@dataclass(frozen=True, slots=True)
class Judged:
    """One fit's errors on held-out families, those of the baselines, and every held-out prediction behind them."""

    target: str
    unit: str
    runtime: str
    scheme: Scheme
    model: HeldOut
    baselines: dict[str, HeldOut]
    predictions: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """The judgement as plain JSON data."""
        record = asdict(self)
        record["model"] = self.model.model_dump()
        record["baselines"] = {name: errors.model_dump() for name, errors in self.baselines.items()}
        return record


def evaluate(tables: Path, only: Sequence[str] = ()) -> list[Judged]:
    """Every calibrated unit's fits, judged on model families left out one at a time.

    Raises:
        DataError: a table is missing.
        ToolMissing: pandas, pyarrow or scikit-learn is not installed.
    """
    judged = []
    for target, name, unit, calibration in calibrated_units(only):
        graphs = read_graphs(tables, calibration.graphs)
        for runtime, schemes in calibration.rows.items():
            for scheme, wanted in schemes.items():
                layout = layout_of(calibration, scheme)
                rows = Rows.of(graphs, read_latencies(tables, calibration.table, wanted), layout)
                trial = held_out(rows, solver_for(rows, unit.kind, layout), NOISE[unit.kind])
                inside = trial.covered(rows.families)
                baselines = {
                    label: errors_of(_left_out(rows, baseline), rows, None) for label, baseline in BASELINES.items()
                }
                predictions = tuple(
                    {"model": model, "family": str(family), "measured_ms": float(measured),
                     "predicted_ms": float(predicted), "inside": bool(within)}
                    for model, family, measured, predicted, within in zip(
                        rows.names, rows.families, rows.measured_ms, trial.predicted_ms, inside, strict=True
                    )
                )  # fmt: skip
                errors = errors_of(trial.predicted_ms, rows, float(inside.mean()))
                judged.append(Judged(target.name, name, runtime, scheme, errors, baselines, predictions))
    return judged


def write(judged: Sequence[Judged], folder: Path) -> None:
    """Writes the evaluation to `folder` as evaluation.json and as a page."""
    from compress.profile.page import render

    folder.mkdir(parents=True, exist_ok=True)
    today = date.today().isoformat()
    record = {"date": today, "split": SPLIT, "fits": [rounded(each.to_dict()) for each in judged]}
    (folder / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "evaluation.html").write_text(render(judged, today), encoding="utf-8")


def _left_out(rows: Rows, baseline: Baseline) -> Floats:
    """What a baseline fitted to all other families says of each model."""
    predicted = np.zeros(len(rows.names))
    for family in sorted(set(rows.families)):
        inside = rows.families == family
        predicted[inside] = baseline(rows.design[~inside], rows.measured_ms[~inside], rows.design[inside])
    return predicted


def _macs(design: Floats) -> Floats:
    """The MACs of each model, at padded widths."""
    columns = [COSTS.index(cost) for cost in COSTS if cost.startswith("macs.") and cost.removeprefix("macs.") in _KINDS]
    return np.asarray(np.maximum(design[:, columns].sum(axis=1), 1.0))


_KINDS = tuple(cost.removeprefix("macs.") for cost in (*_MATRIX, *_CONVOLUTIONS, *_NARROW))


def _by_macs(seen: Floats, measured_ms: Floats, asked: Floats) -> Floats:
    """A straight line through log latency over log MACs."""
    slope, offset = np.polyfit(np.log(_macs(seen)), np.log(measured_ms), 1)
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
        from sklearn.ensemble import GradientBoostingRegressor
    except ImportError as error:
        raise ToolMissing("scikit-learn (needed by the evaluation only)", "fit") from error
    model = GradientBoostingRegressor(random_state=0)
    model.fit(_features(seen), np.log(measured_ms))
    return np.asarray(np.exp(model.predict(_features(asked))))


BASELINES: dict[str, Baseline] = {"MACs alone": _by_macs, "gradient boosting": _by_boosting}
