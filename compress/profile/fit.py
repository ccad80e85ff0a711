"""Fits the constants in `profiles/` to published measurements: python -m compress.profile.fit TABLES_FOLDER.

Which rows of which table serve a unit stands in its target's file (`calibration`); the code knows no device. The
constants are non-negative (fitted as logarithms) and minimise the squared log ratio of predicted to measured
latency; errors and the interval come from leaving out one whole model family at a time. Deterministic.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.profile.constants import HeldOut, Profile, SchemeConstants, write_profile
from compress.profile.regression import Design, Floats, Unknowns, constants_of, predict, solve
from compress.profile.tables import family_of, read_graphs, read_latencies
from compress.resources import data_folder
from compress.targets import Calibration, Unit, list_targets, load_target
from compress.types import OpRecord, Scheme

# Shares of the shorter of arithmetic and memory time that may hide behind the longer; held-out error decides.
_OVERLAPS = (1.0, 0.5, 0.0)
# A 90 % interval is never narrower than this: repeated jobs on one phone agree within 10 % in 97 % of cases.
_NARROWEST = (0.93, 1.07)


def fit_scheme(
    ops: dict[str, tuple[OpRecord, ...]],
    measured_ms: dict[str, float],
    families_of: dict[str, str],
    unknowns: Unknowns,
    rows: str,
) -> SchemeConstants:
    """The constants that explain `measured_ms` (model -> ms), with their errors on families that no fit saw.

    The overlap is the one with the smallest mean held-out error, among three. `families_of` names each model's
    family, `rows` says where the measurements are from.
    """
    models = sorted(set(ops) & set(measured_ms))
    design = Design.of([ops[model] for model in models], [measured_ms[model] for model in models], unknowns)
    families = np.array([families_of[model] for model in models])
    tried = [replace(unknowns, overlap=overlap) for overlap in _OVERLAPS]
    held_out = [_held_out(design, families, each) for each in tried]
    best = int(np.argmin([np.mean(np.abs(each / design.measured - 1)) for each in held_out]))
    solution = solve(design, tried[best])
    fitted = predict(design, solution, tried[best].overlap)
    errors = _errors(held_out[best], design.measured, len(set(families)))
    total_macs = [sum(op.macs or 0 for op in ops[model]) for model in models]
    return SchemeConstants(
        **constants_of(design, solution, tried[best]),
        interval=(min(errors.ratio_p05, _NARROWEST[0]), max(errors.ratio_p95, _NARROWEST[1])),
        macs_range=(min(total_macs), max(total_macs)),
        n=len(models),
        fitted_mape=float(np.mean(np.abs(fitted / design.measured - 1))),
        held_out=errors,
        rows=rows,
    )


def _held_out(design: Design, families: NDArray[np.str_], unknowns: Unknowns) -> Floats:
    """Each model's latency (ms) as predicted by a fit that never saw its family."""
    held_out = np.zeros_like(design.measured)
    for family in sorted(set(families)):
        outside = families != family
        solution = solve(design.subset(outside), unknowns)
        held_out[~outside] = predict(design, solution, unknowns.overlap)[~outside]
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
    first, second = (np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def fit_unit(folder: Path, target: str, unit: str, described: Unit, calibration: Calibration) -> Profile:
    """The profile of one compute unit, fitted to the rows its target names in the tables of `folder`."""
    graphs = {model: ops for model, ops in read_graphs(folder, calibration.graphs).items() if not _has_3d(ops)}
    blocks: dict[Scheme, int] = {scheme: described.multiple_for(scheme) for scheme in calibration.rows}
    families = {model: family_of(model) for model in graphs}
    schemes: dict[Scheme, SchemeConstants] = {}
    for scheme, rows in calibration.rows.items():
        measured = read_latencies(folder, calibration.table, rows)
        text = f"{calibration.table}: " + ", ".join(f"{column}={value}" for column, value in rows.items())
        unknowns = Unknowns(
            block=blocks[scheme],
            bytes_per_value=calibration.bytes_per_value[scheme],
            linked_kinds=calibration.linked_kinds,
            parallel=described.kind == "gpu",
        )
        schemes[scheme] = fit_scheme(graphs, measured, families, unknowns, text)
    return Profile(
        target=target, unit=unit, runtime=calibration.runtime, setting=calibration.setting,
        channel_block=blocks, schemes=schemes, source=calibration.source,
        fit_command="python -m compress.profile.fit TABLES_FOLDER", date=date.today().isoformat(),
    )  # fmt: skip


def _has_3d(ops: tuple[OpRecord, ...]) -> bool:
    """Whether the model has a 3-D kernel: mobile runtimes run those far off any roofline, so no fit covers them."""
    return any(len(op.kernel) > 2 for op in ops)


def main(arguments: list[str] | None = None) -> None:
    """Writes the profile of every calibrated unit (or of those named) and prints one line for each scheme."""
    parser = argparse.ArgumentParser(prog="python -m compress.profile.fit", description=__doc__)
    parser.add_argument("tables", type=Path, help="folder of the published tables")
    parser.add_argument("--only", nargs="*", default=[], metavar="TARGET", help="fit these targets only")
    parser.add_argument("--out", type=Path, help="folder to write to (default: profiles/)")
    chosen = parser.parse_args(arguments)
    folder = chosen.out or data_folder("profiles")
    for name in chosen.only or list_targets():
        target = load_target(name)
        for unit, described in target.units.items():
            if described.calibration is None:
                continue
            profile = fit_unit(chosen.tables, target.name, unit, described, described.calibration)
            write_profile(profile, folder / described.profile)
            for scheme, constants in profile.schemes.items():
                print(report_line(f"{target.name} {unit} {scheme}", constants))


def report_line(label: str, constants: SchemeConstants) -> str:
    """One line on a fit: how many models, how well it fits them and those it never saw."""
    held = constants.held_out
    return (
        f"{label}: n={constants.n} overlap={constants.overlap} fitted {constants.fitted_mape:.1%}, held out "
        f"{held.mape:.1%} ({held.within_10_percent:.0%} within 10 %, Spearman {held.spearman:.3f}, 90 % of "
        f"measured/predicted in {held.ratio_p05:.2f}-{held.ratio_p95:.2f})"
    )


if __name__ == "__main__":
    try:
        main()
    except CompressError as error:
        raise SystemExit(f"error: {error}") from error
