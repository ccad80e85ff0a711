"""Fits the constants in `profiles/` to published measurements: python -m compress.profile.fit TABLES_FOLDER

Which rows of which table serve a unit stands in its target's file (`calibration`); the code knows no device. The
constants are non-negative (fitted as logarithms) and minimise the squared log ratio of predicted to measured
latency; errors and the interval come from leaving out one whole model family at a time. Deterministic.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import numpy as np

from compress.profile.constants import HeldOut, Profile, SchemeConstants, write_profile
from compress.profile.regression import Design, Floats, constants_of, predict, solve
from compress.profile.tables import family_of, read_graphs, read_latencies
from compress.resources import data_folder
from compress.targets import Calibration, Unit, list_targets, load_target
from compress.types import OpRecord, Scheme

# Shares of the shorter of arithmetic and memory time that may hide behind the longer; held-out error decides.
_OVERLAPS = (1.0, 0.5, 0.0)
# A 90 % interval is never narrower than this: repeated jobs on one phone agree within 10 % in 97 % of cases.
_NARROWEST = (0.93, 1.07)


def fit_scheme(ops: dict[str, tuple[OpRecord, ...]], measured_ms: dict[str, float], multiple: int,
               bytes_per_value: int, rows: str) -> SchemeConstants:  # fmt: skip
    """The constants that explain `measured_ms` (model -> ms), with their held-out errors.

    The overlap is the one with the smallest mean held-out error, among three.
    """
    models = sorted(set(ops) & set(measured_ms))
    design = Design.of([ops[model] for model in models], [measured_ms[model] for model in models], multiple,
                       bytes_per_value)  # fmt: skip
    families = np.array([family_of(model) for model in models])
    best: tuple[float, float, Floats] | None = None
    for overlap in _OVERLAPS:
        held_out = _held_out(design, families, overlap)
        error = float(np.mean(np.abs(held_out / design.measured - 1)))
        if best is None or error < best[0]:
            best = (error, overlap, held_out)
    assert best is not None  # noqa: S101 - _OVERLAPS is not empty
    _, overlap, held_out = best
    solution = solve(design, overlap)
    fitted = predict(design, solution, overlap)
    errors = _errors(held_out, design.measured, len(set(families)))
    total_macs = [sum(op.macs or 0 for op in ops[model]) for model in models]
    return SchemeConstants(
        **constants_of(design, solution),
        overlap=overlap,
        activation_bytes=bytes_per_value,
        weight_bytes=bytes_per_value,
        interval=(min(errors.ratio_p05, _NARROWEST[0]), max(errors.ratio_p95, _NARROWEST[1])),
        macs_range=(min(total_macs), max(total_macs)),
        n=len(models),
        fitted_mape=float(np.mean(np.abs(fitted / design.measured - 1))),
        held_out=errors,
        rows=rows,
    )


def _held_out(design: Design, families: np.ndarray, overlap: float) -> Floats:
    """Each model's latency (ms) as predicted by a fit that never saw its family."""
    held_out = np.zeros_like(design.measured)
    for family in sorted(set(families)):
        outside = families != family
        held_out[~outside] = predict(design, solve(design.subset(outside), overlap), overlap)[~outside]
    return held_out


def _errors(predicted: Floats, measured: Floats, families: int) -> HeldOut:
    """The error figures of held-out predictions."""
    error = np.abs(predicted / measured - 1)
    low, high = np.quantile(measured / predicted, [0.05, 0.95])
    return HeldOut(
        split="model families, left out one at a time",
        n=len(measured),
        families=families,
        mape=float(error.mean()),
        within_10_percent=float(np.mean(error <= 0.1)),
        spearman=_spearman(predicted, measured),
        ratio_p05=float(low),
        ratio_p95=float(high),
    )


def _spearman(a: Floats, b: Floats) -> float:
    """Rank correlation; ties are broken by order."""
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def fit_unit(folder: Path, target: str, unit: str, described: Unit, calibration: Calibration) -> Profile:
    """The profile of one compute unit, fitted to the rows its target names in the tables of `folder`."""
    graphs = read_graphs(folder, calibration.graphs)
    multiples: dict[Scheme, int] = {scheme: described.multiple_for(scheme) for scheme in calibration.rows}
    schemes: dict[Scheme, SchemeConstants] = {}
    for scheme, rows in calibration.rows.items():
        measured = read_latencies(folder, calibration.table, rows)
        text = f"{calibration.table}: " + ", ".join(f"{column}={value}" for column, value in rows.items())
        schemes[scheme] = fit_scheme(graphs, measured, multiples[scheme], calibration.bytes_per_value[scheme], text)
    return Profile(
        target=target, unit=unit, runtime=calibration.runtime, setting=calibration.setting,
        channel_multiple=multiples, schemes=schemes, source=calibration.source,
        fit_command="python -m compress.profile.fit TABLES_FOLDER", date=date.today().isoformat(),
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Writes the profile of every calibrated unit (or of those named) and prints one line for each scheme."""
    parser = argparse.ArgumentParser(prog="python -m compress.profile.fit", description=__doc__)
    parser.add_argument("tables", type=Path, help="folder of the published tables")
    parser.add_argument("--only", nargs="*", default=[], metavar="TARGET", help="fit these targets only")
    chosen = parser.parse_args(arguments)
    for name in chosen.only or list_targets():
        for unit, described in load_target(name).units.items():
            if described.calibration is None:
                continue
            profile = fit_unit(chosen.tables, name, unit, described, described.calibration)
            write_profile(profile, data_folder("profiles") / described.profile)
            for scheme, constants in profile.schemes.items():
                held = constants.held_out
                print(f"{name} {unit} {scheme}: n={constants.n} overlap={constants.overlap} fitted {constants.fitted_mape:.1%}, "
                      f"held out {held.mape:.1%} ({held.within_10_percent:.0%} within 10 %, Spearman {held.spearman:.3f}, "
                      f"90 % of measured/predicted in {held.ratio_p05:.2f}-{held.ratio_p95:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
