"""Fits the costs in `profiles/` to published measurements: `compress profile fit TABLES_FOLDER`.

Which rows of which table serve a unit stands in its target's file (`calibration`); the code knows no device. Errors
and intervals come from leaving out one whole model family at a time, never single rows. Deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.errors import RecipeError
from compress.profile.constants import Costs, HeldOut, Profile, Spread, write_profile
from compress.profile.features import COSTS, Layout
from compress.profile.priors import NOISE, OVERLAPS, Kind, as_matrix, priors
from compress.profile.regression import Floats, Solution, design_of, solve
from compress.profile.tables import families_of, read_graphs, read_latencies
from compress.resources import data_folder
from compress.targets import Calibration, Target, Unit, list_targets, load_target
from compress.types import OpRecord, Scheme

SPLIT = "model families, left out one at a time"
COMMAND = "compress profile fit TABLES_FOLDER"
# A model whose row in a direction of uncertainty is below this share of a logarithm does not show in the file.
_SMALL = 0.02
# A 90 % interval never reaches less than this far to either side: repeated jobs on one phone agree within 10 % in 97 %.
_NARROWEST = 0.07


@dataclass(frozen=True, slots=True)
class Rows:
    """The models behind a fit, one entry of each array per model: what they ask for, latency (ms), family, MACs."""

    names: tuple[str, ...]
    design: Floats
    measured_ms: Floats
    families: NDArray[np.str_]
    macs: Floats

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

    def covered(self, families: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Whether each model lies inside the 90 % interval that the other families' scores set."""
        inside = np.zeros(len(families), dtype=bool)
        for family in sorted(set(families)):
            outside = families != family
            low, high = _limits(self.scores[outside], families[outside])
            scores = self.scores[~outside]
            inside[~outside] = (scores >= low) & (scores <= high)
        return inside


def fit_costs(rows: Rows, kind: Kind, layout: Layout, source: str) -> Costs:
    """The costs that explain the rows, with their errors on families that no fit saw."""
    noise = NOISE[kind]
    solver = solver_for(rows, kind, layout)
    trial = held_out(rows, solver, noise)
    solution = solver(np.ones(len(rows.names), dtype=bool))
    low, high = _limits(trial.scores, rows.families)
    coverage = float(trial.covered(rows.families).mean())
    return costs_from(solution, rows, layout, noise, (-low, high), trial.predicted_ms, coverage, source)


def costs_from(
    solution: Solution,
    rows: Rows,
    layout: Layout,
    noise: float,
    limits: tuple[float, float],
    held_out_ms: Floats,
    coverage: float | None,
    source: str,
    split: str = SPLIT,
) -> Costs:
    """A solution as a profile holds it; `limits` are those of the 90 % interval, in standard deviations."""
    fitted, _ = solution.predict(rows.design)
    low, high = (max(limit, _NARROWEST / noise) for limit in limits)
    return Costs(
        layout=layout,
        ns_per={cost: float(value) for cost, value in zip(COSTS, np.exp(solution.log_costs), strict=True)},
        overlap=solution.overlap,
        seen={cost: int(count) for cost, count in zip(COSTS, (rows.design > 0).sum(axis=0), strict=True)},
        spread=Spread(noise=noise, low=low, high=high, directions=_directions(solution.covariance)),
        macs_range=(float(rows.macs.min()), float(rows.macs.max())),
        n=len(rows.names),
        fitted_mape=float(np.mean(np.abs(fitted / rows.measured_ms - 1))),
        held_out=errors_of(held_out_ms, rows, coverage, split),
        rows=source,
    )


def solver_for(rows: Rows, kind: Kind, layout: Layout) -> Callable[[NDArray[np.bool_]], Solution]:
    """What fits the costs of a kind of unit to chosen rows; its priors, too, are scaled by those rows alone."""

    def solver(chosen: NDArray[np.bool_]) -> Solution:
        ns_per_mac = rows.measured_ms[chosen] * 1e6 / np.maximum(rows.macs[chosen], 1.0)
        known = as_matrix(priors(kind, ns_per_mac, layout.value_bytes))
        return solve(rows.design[chosen], rows.measured_ms[chosen], known, NOISE[kind], OVERLAPS[kind])

    return solver


def _limits(scores: Floats, families: NDArray[np.str_]) -> tuple[float, float]:
    """Where nine tenths of the scores lie; every family counts alike, however many models it has.

    The next model comes from another family, so families and not models are what is exchangeable (conformal
    prediction with groups: Dunn, Wasserman & Ramdas, 2023).
    """
    _, which, sizes = np.unique(families, return_inverse=True, return_counts=True)
    # Equal scores count as one, so that a model that is there twice changes nothing.
    values, place = np.unique(scores, return_inverse=True)
    weight = np.bincount(place, 1.0 / sizes[which])
    share = (np.cumsum(weight) - 0.5 * weight) / weight.sum()
    low, high = np.interp([0.05, 0.95], share, values)
    return min(float(low), 0.0), max(float(high), 0.0)


def held_out(rows: Rows, solver: Callable[[NDArray[np.bool_]], Solution], noise: float) -> Trial:
    """What fits on all other families say of each model."""
    predicted, deviation = np.zeros(len(rows.names)), np.zeros(len(rows.names))
    for family in sorted(set(rows.families)):
        inside = rows.families == family
        solution = solver(~inside)
        latency, shares = solution.predict(rows.design[inside])
        predicted[inside], deviation[inside] = latency, solution.deviation(shares, noise)
    return Trial(predicted, deviation, np.log(rows.measured_ms / predicted) / deviation)


def errors_of(predicted_ms: Floats, rows: Rows, coverage: float | None, split: str = SPLIT) -> HeldOut:
    """The error figures of held-out predictions."""
    error = np.abs(predicted_ms / rows.measured_ms - 1)
    return HeldOut(
        split=split,
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


def _directions(covariance: Floats) -> tuple[dict[str, float], ...]:
    """The square root of a covariance as few sparse vectors over the costs."""
    values, vectors = np.linalg.eigh(covariance)
    found = []
    for value, vector in zip(values[::-1], vectors.T[::-1], strict=True):
        direction = np.sqrt(max(value, 0.0)) * vector
        entries = {cost: float(x) for cost, x in zip(COSTS, direction, strict=True) if abs(x) >= _SMALL}
        if entries:
            found.append(entries)
    return tuple(found)


def layout_of(calibration: Calibration, scheme: Scheme) -> Layout:
    """How tensors of this scheme lie in the unit; raises RecipeError where the target says what no layout has."""
    given = calibration.layout.get("all", {}) | calibration.layout.get(scheme, {})
    try:
        return Layout(**given | {"linked": tuple(given.get("linked", ()))})
    except TypeError as error:
        raise RecipeError(f"calibration.layout: {error}") from error


def fit_unit(folder: Path, target: Target, unit: str, described: Unit, calibration: Calibration) -> Profile:
    """The profile of one compute unit, fitted to the rows its target names in the tables of `folder`."""
    graphs = read_graphs(folder, calibration.graphs)
    runtimes: dict[str, dict[Scheme, Costs]] = {}
    for runtime, schemes in calibration.rows.items():
        for scheme, wanted in schemes.items():
            layout = layout_of(calibration, scheme)
            measured = read_latencies(folder, calibration.table, wanted)
            rows = Rows.of(graphs, measured, layout)
            text = f"{calibration.table}: " + ", ".join(f"{column}={value}" for column, value in wanted.items())
            costs = fit_costs(rows, described.kind, layout, text)
            runtimes.setdefault(runtime, {})[scheme] = costs
    return Profile(
        target=target.name, unit=unit, setting=calibration.setting, versions=calibration.versions,
        runtimes=runtimes, source=calibration.source,
        fit_command=COMMAND, date=date.today().isoformat(),
    )  # fmt: skip


def calibrated_units(only: Sequence[str] = ()) -> list[tuple[Target, str, Unit, Calibration]]:
    """Every compute unit whose target says which published rows it was measured in; of the targets named, or of all."""
    return [
        (target, name, unit, unit.calibration)
        for target in map(load_target, only or list_targets())
        for name, unit in target.units.items()
        if unit.calibration is not None
    ]


def fit_all(
    tables: Path, only: Sequence[str] = (), out: Path | None = None, done: Callable[[str], None] = print
) -> list[Path]:
    """Writes the profile of every calibrated unit; `done` gets one line for each runtime and scheme."""
    folder = out or data_folder("profiles")
    written = []
    for target, name, unit, calibration in calibrated_units(only):
        profile = fit_unit(tables, target, name, unit, calibration)
        write_profile(profile, folder / unit.profile)
        written.append(folder / unit.profile)
        for runtime, schemes in profile.runtimes.items():
            for scheme, costs in schemes.items():
                done(report_line(f"{target.name} {name} {runtime} {scheme}", costs))
    return written


def report_line(label: str, costs: Costs) -> str:
    """One line on a fit: how many models, how well it fits them and those it never saw."""
    held = costs.held_out
    coverage = f", 90 % intervals hold {held.coverage:.0%}" if held.coverage is not None else ""
    return (
        f"{label}: n={costs.n} in {held.families} families, fitted {costs.fitted_mape:.1%}, held out {held.mape:.1%} "
        f"({held.within_10_percent:.0%} within 10 %, Spearman {held.spearman:.3f}{coverage})"
    )
