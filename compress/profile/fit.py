"""Fits the costs in `profiles/` to published measurements: `compress profile fit TABLES_FOLDER`.

Which rows of which table serve a unit stands in its target's file (`calibration`); the code knows no device. Errors
and intervals come from leaving out one whole model family at a time (`judge.py`). Deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError, RecipeError
from compress.profile.adaptable import Solver, relative_solver
from compress.profile.constants import Costs, Profile, Spread, write_profile
from compress.profile.features import COSTS, Layout
from compress.profile.judge import Rows, Trial, errors_of, held_out, limits
from compress.profile.priors import NOISE, Kind, as_matrix, priors
from compress.profile.regression import Floats, Solution, solve
from compress.profile.tables import families_in, read_graphs, read_latencies
from compress.resources import data_folder
from compress.targets import Calibration, Target, list_targets, load_target
from compress.types import Scheme

COMMAND = "compress profile fit TABLES_FOLDER"
# A model whose row in a direction of uncertainty is below this share of a logarithm does not show in the file.
_SMALL = 0.02
# A 90 % interval never reaches less than this far to either side: repeated jobs on one phone agree within 10 % in 97 %.
_NARROWEST = 0.07


@dataclass(frozen=True, slots=True)
class UnitFit:
    """All that one fit needs: the rows of a unit at a runtime and scheme, and what fits the costs to chosen ones.

    `shown` counts the models of its relatives (the fits it starts from) behind each cost; zeros where it has none.
    """

    target: str
    unit: str
    runtime: str
    scheme: Scheme
    kind: Kind
    layout: Layout
    rows: Rows
    solver: Solver
    source: str
    shown: Floats

    def trial(self) -> Trial:
        """What fits that never saw a model say of it."""
        return held_out(self.rows, self.solver, NOISE[self.kind])

    def costs(self) -> Costs:
        """The costs, with their errors on models that no fit saw."""
        costs = fit_costs(self.rows, self.kind, self.layout, self.source, self.solver)
        seen = {cost: max(costs.seen[cost], int(count)) for cost, count in zip(COSTS, self.shown, strict=True)}
        return costs.model_copy(update={"seen": seen})


def fit_costs(rows: Rows, kind: Kind, layout: Layout, source: str, solver: Solver | None = None) -> Costs:
    """The costs that explain the rows, with their errors on families that no fit saw."""
    noise = NOISE[kind]
    solver = solver or solver_for(rows, kind, layout)
    trial = held_out(rows, solver, noise)
    solution = solver(np.ones(len(rows.names), dtype=bool))
    low, high = limits(trial.scores, rows.folds, rows.families)
    coverage = float(trial.covered(rows.folds, rows.families).mean())
    return costs_from(solution, rows, layout, noise, (-low, high), trial.predicted_ms, coverage, source)


def costs_from(
    solution: Solution,
    rows: Rows,
    layout: Layout,
    noise: float,
    reach: tuple[float, float],
    held_out_ms: Floats,
    coverage: float | None,
    source: str,
    split: str = "",
) -> Costs:
    """A solution as a profile holds it; `reach`: how many deviations the 90 % interval goes below and above."""
    fitted, _ = solution.predict(rows.design)
    low, high = (max(limit, _NARROWEST / noise) for limit in reach)
    return Costs(
        layout=layout,
        ns_per={cost: float(value) for cost, value in zip(COSTS, np.exp(solution.log_costs), strict=True)},
        seen={cost: int(count) for cost, count in zip(COSTS, (rows.design > 0).sum(axis=0), strict=True)},
        spread=Spread(noise=noise, low=low, high=high, directions=_directions(solution.covariance)),
        macs_range=(float(rows.macs.min()), float(rows.macs.max())),
        n=len(rows.names),
        fitted_mape=float(np.mean(np.abs(fitted / rows.measured_ms - 1))),
        held_out=errors_of(held_out_ms, rows, coverage, split),
        rows=source,
    )


def solver_for(rows: Rows, kind: Kind, layout: Layout) -> Solver:
    """What fits the costs of a kind of unit to chosen rows; its priors, too, are scaled by those rows alone."""

    def solver(chosen: NDArray[np.bool_]) -> Solution:
        ns_per_mac = rows.measured_ms[chosen] * 1e6 / np.maximum(rows.macs[chosen], 1.0)
        known = as_matrix(priors(kind, ns_per_mac, layout.value_bytes))
        return solve(rows.design[chosen], rows.measured_ms[chosen], known, NOISE[kind])

    return solver


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


def fit_of(tables: Path, target: Target, unit: str, runtime: str, scheme: Scheme) -> UnitFit:
    """The fit of one unit at a runtime and scheme, to the rows that its target names in the tables.

    Raises:
        RecipeError: the target names no rows for it, or a layout that is none.
        DataError: there are fewer than two rows that have a graph, or a table or column is missing.
    """
    described = target.unit(unit)
    calibration = described.calibration
    wanted = calibration.rows.get(runtime, {}).get(scheme) if calibration else None
    if calibration is None or wanted is None:
        raise RecipeError(f"target {target.name}: unit {unit} was not measured with {runtime} at {scheme}")
    place = calibration.elsewhere.get(runtime, calibration)
    measured = read_latencies(tables, place.table, wanted)
    layout = layout_of(calibration, scheme)
    families = families_in(tables, place.graphs, measured)
    rows = Rows.of(read_graphs(tables, place.graphs), measured, layout, families)
    text = f"{place.table}: " + ", ".join(f"{column}={value}" for column, value in wanted.items())
    if len(rows.names) < 2:
        raise DataError(f"{text}: only {rows.names[0]} has a graph; a fit takes at least two models")
    alone = solver_for(rows, described.kind, layout)
    fit = UnitFit(target.name, unit, runtime, scheme, described.kind, layout, rows, alone, text, np.zeros(len(COSTS)))
    like = calibration.like.get(runtime, {}).get(scheme)
    if like is None:
        return fit
    base = fit_of(tables, load_target(like.target), like.unit, like.runtime, like.scheme)
    return replace(
        fit,
        solver=relative_solver(rows, base.rows, base.solver, NOISE[described.kind]),
        source=f"{text}; starting from {like.target} {like.unit}, {like.runtime}, {like.scheme} ({base.source})",
        shown=np.maximum(base.shown, (base.rows.design > 0).sum(axis=0)),
    )


def unit_fits(tables: Path, target: Target, unit: str, calibration: Calibration) -> Iterator[UnitFit]:
    """Every fit of one compute unit."""
    for runtime, schemes in calibration.rows.items():
        for scheme in schemes:
            yield fit_of(tables, target, unit, runtime, scheme)


def fit_unit(tables: Path, target: Target, unit: str, calibration: Calibration) -> Profile:
    """The profile of one compute unit, fitted to the rows its target names in the tables."""
    runtimes: dict[str, dict[Scheme, Costs]] = {}
    for fit in unit_fits(tables, target, unit, calibration):
        runtimes.setdefault(fit.runtime, {})[fit.scheme] = fit.costs()
    sources = [calibration.source, *(place.source for place in calibration.elsewhere.values())]
    return Profile(
        target=target.name, unit=unit, setting=calibration.setting, versions=calibration.versions,
        runtimes=runtimes, source="; ".join(dict.fromkeys(sources)),
        fit_command=COMMAND, date=date.today().isoformat(),
    )  # fmt: skip


def calibrated_units(only: Sequence[str] = ()) -> list[tuple[Target, str, str, Calibration]]:
    """Every compute unit whose target says which published rows it was measured in, with its profile's file name."""
    return [
        (target, name, unit.profile, unit.calibration)
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
    for target, name, file, calibration in calibrated_units(only):
        profile = fit_unit(tables, target, name, calibration)
        write_profile(profile, folder / file)
        written.append(folder / file)
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
