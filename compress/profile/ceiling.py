"""The noise ceiling: how well a measurement repeats, which no prediction of that measurement can beat for long.

A predictor that knew every model's time on the device would still miss the next job by as much as jobs differ. So the
figures are those of a prediction: what a job says of the next one of the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from compress.profile.fit import UnitFit
from compress.profile.judge import spearman
from compress.profile.regression import Floats
from compress.profile.tables import read_rows
from compress.targets import Calibration

NO_REPEATS = "no repeats"
# Below this many pairs, a share or a rank correlation says nothing.
FEWEST_PAIRS = 5
# A table of the newest job of each model may have a sibling that holds all jobs of all releases.
_NEWEST, _ALL = "_latest", "_history"
# One row is one job where a table has this column: without it, a repeat cannot be told from a figure printed twice.
_JOB = "job_id"
# What has to be the same for two jobs to be of one model; as many layers, because models change between releases.
_MODEL = ("model_id", "component", "component_precision", "layers_total")
# Any of these may be empty (a runtime has but some of them); all are where nothing is known of the tools.
_VERSIONS = ("qairt", "tflite_ver", "onnx_runtime_ver")


@dataclass(frozen=True, slots=True)
class Repeats:
    """Pairs of jobs, each with the job of the same model that came before it: the earlier one as a prediction.

    `mape` and `median` are of |earlier - later| / later.
    """

    pairs: int
    models: int
    mape: float
    median: float
    within_10_percent: float
    within_20_percent: float
    spearman: float


@dataclass(frozen=True, slots=True)
class Ceiling:
    """How well measurements repeat with the same versions of the tools, and with other ones; None without repeats."""

    same_versions: Repeats | None
    other_versions: Repeats | None
    source: str

    def to_dict(self) -> dict[str, Any]:
        """The ceiling as plain JSON data."""
        return asdict(self)


def ceiling_of(tables: Path, calibration: Calibration, fit: UnitFit) -> Ceiling:
    """The noise ceiling of a fit: over all jobs of its models with its settings, where the tables tell jobs apart."""
    table = calibration.elsewhere.get(fit.runtime, calibration).table
    everything = table.replace(_NEWEST, _ALL)
    if not (tables / everything).exists():
        everything = table
    frame = read_rows(tables, everything, calibration.rows[fit.runtime][fit.scheme])
    if _JOB not in frame.columns:
        return Ceiling(None, None, f"{NO_REPEATS}: {everything} has one figure for each model")
    same, other = repeats_in(frame.to_dict("records"), fit.rows.names)
    none = same is None and other is None
    return Ceiling(same, other, f"{NO_REPEATS} in {everything}" if none else everything)


def repeats_in(jobs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[Repeats | None, Repeats | None]:
    """The repeats among jobs of these models: pairs of the same versions of the tools, and pairs of different ones.

    A job that several devices share counts once. Each job meets the one before it only, or models that are measured
    often would count for most.
    """
    wanted = set(names)
    once = {job[_JOB]: job for job in jobs if _text(job[_JOB]) and _named(job) & wanted}
    models: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for job in sorted(once.values(), key=lambda job: (str(job["date"]), str(job[_JOB]))):
        models.setdefault(tuple(_text(job[column]) for column in _MODEL), []).append(job)
    pairs: dict[bool, list[tuple[str, float, float]]] = {True: [], False: []}
    for key, of_model in models.items():
        for earlier, later in pairwise(of_model):
            before, after = ([_text(job.get(version)) for version in _VERSIONS] for job in (earlier, later))
            if any(before) and any(after):
                pair = ("/".join(key[:2]), float(earlier["latency_ms"]), float(later["latency_ms"]))
                pairs[before == after].append(pair)
    return _judged(pairs[True]), _judged(pairs[False])


def _judged(pairs: Sequence[tuple[str, float, float]]) -> Repeats | None:
    """The figures of pairs of jobs; None where there are too few."""
    if len(pairs) < FEWEST_PAIRS:
        return None
    earlier, later = (np.array([pair[place] for pair in pairs]) for place in (1, 2))
    error: Floats = np.abs(earlier / later - 1)
    return Repeats(
        pairs=len(pairs),
        models=len({model for model, _, _ in pairs}),
        mape=float(error.mean()),
        median=float(np.median(error)),
        within_10_percent=float(np.mean(error <= 0.1)),
        within_20_percent=float(np.mean(error <= 0.2)),
        spearman=spearman(earlier, later),
    )


def _named(job: Mapping[str, Any]) -> set[str]:
    """The names a fit may have for the model of a job: its own, or with the component."""
    return {str(job["model_id"]), f"{job['model_id']}/{job.get('component')}"}


def _text(cell: Any) -> str:
    """A cell as text, "" where it is empty."""
    return "" if cell is None or cell != cell else str(cell)
