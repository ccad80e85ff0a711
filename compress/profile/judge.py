"""How a fit is judged: by models that it never saw, whole families at a time where there are families enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.profile.constants import HeldOut
from compress.profile.features import Layout
from compress.profile.regression import Floats, Solution, design_of
from compress.profile.tables import families_of
from compress.types import OpRecord

SPLIT = "model families, left out one at a time"
SPLIT_ROWS = "models, left out one at a time (they are of fewer than five families)"
FEWEST_FAMILIES = 5
# Student's t that 5 % lie above, by degrees of freedom (Student, 1908). With no more families than
# this has entries, the next one passes the largest score of them more often than once in ten times.
_STUDENT = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860)
_NORMAL = 1.645


@dataclass(frozen=True, slots=True)
class Rows:
    """The models behind a fit, one entry of each array per model: what they ask for, latency (ms), family, MACs."""

    names: tuple[str, ...]
    design: Floats
    measured_ms: Floats
    families: NDArray[np.str_]
    macs: Floats

    @property
    def by_family(self) -> bool:
        """Whether there are families enough to leave out whole ones."""
        return len(set(self.families)) >= FEWEST_FAMILIES

    @property
    def folds(self) -> NDArray[np.str_]:
        """What is left out together with each model: its family, or itself alone where there are too few families."""
        return self.families if self.by_family else np.array(self.names)

    @property
    def split(self) -> str:
        """What was left out, in words."""
        return SPLIT if self.by_family else SPLIT_ROWS

    @classmethod
    def of(
        cls,
        graphs: Mapping[str, Sequence[OpRecord]],
        measured_ms: Mapping[str, float],
        layout: Layout,
        families: Mapping[str, str] | None = None,
    ) -> Rows:
        """The models that have both a graph and a measurement, by default with the families in their names.

        Raises:
            DataError: no model has both.
        """
        names = tuple(sorted(set(graphs) & set(measured_ms)))
        families = families or families_of(names)
        macs = [float(sum(op.macs or 0 for op in graphs[name])) for name in names]
        return cls(
            names,
            design_of([graphs[name] for name in names], layout),
            np.array([measured_ms[name] for name in names]),
            np.array([families[name] for name in names]),
            np.array(macs),
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """What fits that never saw a model's family say of it: latency (ms), and the deviation of its logarithm."""

    predicted_ms: Floats
    deviation: Floats
    scores: Floats  # log(measured / predicted) in such deviations

    def covered(self, folds: NDArray[np.str_], families: NDArray[np.str_] | None = None) -> NDArray[np.bool_]:
        """Whether each model lies inside the 90 % interval that the other folds' scores set."""
        inside = np.zeros(len(folds), dtype=bool)
        families = folds if families is None else families
        for fold in sorted(set(folds)):
            outside = folds != fold
            low, high = limits(self.scores[outside], folds[outside], families[outside])
            scores = self.scores[~outside]
            inside[~outside] = (scores >= low) & (scores <= high)
        return inside


def limits(scores: Floats, folds: NDArray[np.str_], families: NDArray[np.str_] | None = None) -> tuple[float, float]:
    """Where nine tenths of the scores lie, every fold counting alike or every model: the wider of the two.

    A fold is a family, where not `families` says else.
    The next model comes from another family, so families and not models are what is exchangeable (conformal
    prediction with groups: Dunn, Wasserman & Ramdas, 2023); but a family of many models is also one to come back. Few
    families promise no such thing by themselves: the limits then are at least those of Student's t at the scores'
    scale, and never narrower than a normal error's.
    """
    count = len(set(folds if families is None else families))
    _, which, sizes = np.unique(folds, return_inverse=True, return_counts=True)
    # Equal scores count as one, so that a model that is there twice changes nothing.
    values, place = np.unique(scores, return_inverse=True)
    weight = np.asarray(np.bincount(place, 1.0 / sizes[which]), dtype=np.float64)
    by_fold, by_model = _middle(values, weight), _middle(values, np.ones(len(values)))
    low, high = min(by_fold[0], by_model[0]), max(by_fold[1], by_model[1])
    least = 0.0
    if count <= len(_STUDENT):
        scale = float(np.sqrt((weight * values**2).sum() / weight.sum()))
        least = max(_NORMAL, _STUDENT[count - 1] * scale)
    return min(low, -least), max(high, least)


def _middle(values: Floats, weight: Floats) -> tuple[float, float]:
    """Where the middle nine tenths of the weight on sorted values lies."""
    share = (np.cumsum(weight) - 0.5 * weight) / weight.sum()
    low, high = np.interp([0.05, 0.95], share, values)
    return float(low), float(high)


def held_out(
    rows: Rows,
    solver: Callable[[NDArray[np.bool_]], Solution],
    noise: float,
    folds: NDArray[np.str_] | None = None,
) -> Trial:
    """What fits on all other folds (by default those of the rows) say of each model."""
    predicted, deviation = np.zeros(len(rows.names)), np.zeros(len(rows.names))
    folds = rows.folds if folds is None else folds
    for fold in sorted(set(folds)):
        inside = folds == fold
        solution = solver(~inside)
        latency, shares = solution.predict(rows.design[inside])
        predicted[inside], deviation[inside] = latency, solution.deviation(shares, noise)
    return Trial(predicted, deviation, np.log(rows.measured_ms / predicted) / deviation)


def errors_of(predicted_ms: Floats, rows: Rows, coverage: float | None, split: str = "") -> HeldOut:
    """The error figures of held-out predictions; `split` says what was held out, by default what `held_out` does."""
    error = np.abs(predicted_ms / rows.measured_ms - 1)
    return HeldOut(
        split=split or rows.split,
        n=len(error),
        families=len(set(rows.families)),
        mape=float(error.mean()),
        median=float(np.median(error)),
        within_10_percent=float(np.mean(error <= 0.1)),
        within_20_percent=float(np.mean(error <= 0.2)),
        spearman=spearman(predicted_ms, rows.measured_ms),
        coverage=coverage,
    )


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation; ties are broken by order."""
    first, second = (np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])
