"""What a scheme takes over float on the same unit and runtime: predicted against measured, on held-out families.

Both predictions come from fits that left out the same families, so neither had seen the model's. Beside them stands
what needs no model of the latency at all: the median ratio of the other families.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.profile.adaptable import relative_solver
from compress.profile.judge import SPLIT, SPLIT_ROWS, Trial, held_out
from compress.profile.priors import NOISE
from compress.profile.regression import Floats
from compress.profile.trials import Fits, Tried
from compress.types import Scheme

FLOAT: Scheme = "float32"


@dataclass(frozen=True, slots=True)
class RatioErrors:
    """Errors of predicted ratios, as |log(predicted / measured)|, and what they say of models slower than float.

    `flagged` counts those of the slower ones that the prediction calls slower, `false_alarms` those of the others.
    """

    mean_abs_log: float
    median_abs_log: float
    flagged: int
    false_alarms: int


@dataclass(frozen=True, slots=True)
class JudgedRatio:
    """One scheme over float, over the models measured in both; `slower` counts those that took longer than float."""

    target: str
    unit: str
    runtime: str
    scheme: Scheme
    split: str
    n: int
    families: int
    slower: int
    model: RatioErrors
    median_of_others: RatioErrors | None
    pairs: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """The judgement as plain JSON data."""
        return asdict(self)


def ratios(fits: Fits, all_tried: Sequence[Tried]) -> list[JudgedRatio]:
    """Every scheme over float on the same target, unit and runtime."""
    floats = {(t.fit.target, t.fit.unit, t.fit.runtime): t for t in all_tried if t.fit.scheme == FLOAT}
    found = []
    for other in all_tried:
        base = floats.get((other.fit.target, other.fit.unit, other.fit.runtime))
        if base is None or base is other or not set(base.fit.rows.names) & set(other.fit.rows.names):
            continue
        by_family = base.fit.rows.by_family or other.fit.rows.by_family
        trials = tuple(_without_families(fits, t) if by_family else t.trial for t in (base, other))
        found.append(judged_ratio(base, other, trials[0], trials[1], by_family))
    return found


def judged_ratio(base: Tried, other: Tried, base_trial: Trial, trial: Trial, by_family: bool) -> JudgedRatio:
    """The ratio of two trials (each in the order of its own rows), judged on the models that both hold."""
    names = sorted(set(base.fit.rows.names) & set(other.fit.rows.names))
    of_base, of_other = (np.array([t.fit.rows.names.index(name) for name in names]) for t in (base, other))
    families = other.fit.rows.families[of_other]
    measured = other.fit.rows.measured_ms[of_other] / base.fit.rows.measured_ms[of_base]
    predicted = trial.predicted_ms[of_other] / base_trial.predicted_ms[of_base]
    folds = families if by_family else np.array(names)
    others = median_of_others(measured, folds)
    pairs = tuple(
        {"model": names[i], "measured": float(measured[i]), "predicted": float(predicted[i])}
        | ({"median_of_others": float(others[i])} if others is not None else {})
        for i in range(len(names))
    )
    fit, split = other.fit, SPLIT if by_family else SPLIT_ROWS
    return _judged(fit.target, fit.unit, fit.runtime, fit.scheme, split, len(set(families)), pairs)


def pooled(judged: Sequence[JudgedRatio]) -> list[JudgedRatio]:
    """Each unit and scheme over all targets and runtimes, as if of one table; `families` is that of the largest."""
    groups: dict[tuple[str, Scheme], list[JudgedRatio]] = {}
    for each in judged:
        groups.setdefault((each.unit, each.scheme), []).append(each)
    return [
        _judged("all", unit, "all", scheme, SPLIT, max(each.families for each in group),
                tuple(pair for each in group for pair in each.pairs))
        for (unit, scheme), group in sorted(groups.items())
    ]  # fmt: skip


def _judged(
    target: str, unit: str, runtime: str, scheme: Scheme, split: str, families: int, pairs: tuple[dict[str, Any], ...]
) -> JudgedRatio:
    """The judgement of pairs of ratios, by name."""
    measured, predicted = (np.array([pair[key] for pair in pairs]) for key in ("measured", "predicted"))
    others = [pair["median_of_others"] for pair in pairs if "median_of_others" in pair]
    return JudgedRatio(
        target=target,
        unit=unit,
        runtime=runtime,
        scheme=scheme,
        split=split,
        n=len(pairs),
        families=families,
        slower=int((measured > 1).sum()),
        model=ratio_errors(predicted, measured),
        median_of_others=ratio_errors(np.array(others), measured) if len(others) == len(pairs) else None,
        pairs=pairs,
    )


def ratio_errors(predicted: Floats, measured: Floats) -> RatioErrors:
    """The errors of predicted ratios."""
    error = np.abs(np.log(predicted / measured))
    slower = measured > 1
    called = predicted > 1
    return RatioErrors(
        mean_abs_log=float(error.mean()),
        median_abs_log=float(np.median(error)),
        flagged=int((called & slower).sum()),
        false_alarms=int((called & ~slower).sum()),
    )


def median_of_others(measured: Floats, folds: NDArray[np.str_]) -> Floats | None:
    """For each model, the median ratio of the models in all other folds; None where there is one fold."""
    if len(set(folds)) < 2:
        return None
    return np.array([np.median(measured[folds != own]) for own in folds])


def _without_families(fits: Fits, tried: Tried) -> Trial:
    """What fits that saw nothing of a model's family say of it, also where single models were left out before."""
    fit, base = tried.fit, fits.relative(tried.fit)
    if fit.rows.by_family:
        return tried.trial
    noise = NOISE[fit.kind]
    solver = fit.solver if base is None else relative_solver(fit.rows, base.rows, base.solver, noise, by_family=True)
    return held_out(fit.rows, solver, noise, fit.rows.families)
