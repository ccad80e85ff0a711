"""Own measurements in, an adapted target out: the work behind `compress profile calibrate`."""

from __future__ import annotations

import csv
import re
import warnings
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from compress.errors import DataError, InputError
from compress.estimate import read
from compress.profile.calibrate import Calibration, calibrate
from compress.profile.constants import Costs, Profile, read_profile, write_profile
from compress.profile.judge import Rows
from compress.profile.latency import ALIASES
from compress.resources import data_folder
from compress.targets import Target, list_targets, load_target
from compress.types import OpRecord, Scheme

# What a target may be called: its files go by that name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COLUMNS = ("model", "latency_ms")
# What rows say of how they were measured, and what they must all agree on where they say it.
_CONDITIONS = ("device", "soc", "os", "runtime", "runtime_version", "threads")
_ONE = {"device": "devices", "runtime": "runtimes", "threads": "numbers of threads"}


@dataclass(frozen=True, slots=True)
class Adapted:
    """A calibrated target: where it lies, what it started from, and how well it does."""

    target: Path
    profile: Path
    base: str
    calibration: Calibration
    tried: dict[str, float]


def adapt(
    measurements: Path,
    name: str,
    like: str = "",
    unit: str = "cpu",
    scheme: Scheme = "float32",
    runtime: str = "",
    out: Path = Path("."),
) -> Adapted:
    """Writes a target and a profile for a device that was measured a few times.

    Args:
        measurements: a CSV file with the columns model (see `estimate`), latency_ms and, for torch models, input, as
            `compress profile --measure --out` writes it: rows of another unit or scheme, and throttled ones, are left
            out with a warning. The others must be of one device, runtime and number of threads, where they say so.
        name: the device that was measured: a shipped target, or what a new one is to be called.
        like: the shipped target to start from; by default the device itself if it is shipped with a profile of the
            unit, or else the one that does best on the measurements.
        unit: the compute unit that was measured.
        scheme: what the models were measured in.
        runtime: the runtime of the profiles to start from; by default the one that does best.
        out: the folder to write NAME.yaml and NAME-UNIT.json to.

    Raises:
        InputError: the name is none, a file or a model cannot be read, or the rows are of several devices.
        DataError: there are too few measurements, or no shipped profile is of this kind.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"target '{name}': a name takes letters, digits, '.', '_' and '-', and files are named after it"
        )
    rows = _rows(measurements, unit, scheme)
    conditions = _conditions(measurements, rows)
    ops, measured = _read(measurements, rows)
    source = f"{measurements.name}: {len(measured)} measurements{_described(conditions)}"
    found: dict[tuple[str, str], Calibration] = {}
    for base, known_as, costs in _bases(like, name, unit, scheme, ALIASES.get(runtime, runtime)):
        found[base, known_as] = calibrate(costs, Rows.of(ops, measured, costs.layout), source)
    if not found:
        with_runtime = f" with {runtime}" if runtime else ""
        raise DataError(f"no shipped target has a profile of a {unit} at {scheme}{with_runtime} to start from")
    best = min(found, key=lambda base: found[base].mape_after)
    described = load_target(best[0])
    profile = _profile(name, unit, described, best[1], found[best].costs, scheme, source, conditions)
    out.mkdir(parents=True, exist_ok=True)
    written = out / f"{name}-{unit}.json"
    write_profile(profile, written)
    target = out / f"{name}.yaml"
    made = _target(name, unit, described, written.name, scheme, source, conditions)
    target.write_text(yaml.safe_dump(made, sort_keys=False))
    tried = {" ".join(base): each.mape_after for base, each in found.items()}
    return Adapted(target, written, " ".join(best), found[best], tried)


def _rows(path: Path, unit: str, scheme: str) -> dict[int, dict[str, str]]:
    """The rows that say something of this unit and scheme, by their lines."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read the measurements: {error}") from error
    if not rows or any(column not in rows[0] for column in _COLUMNS):
        raise InputError(f"{path}: expected a CSV file with the columns {', '.join(_COLUMNS)} (and input)")
    unfit = {number: why for number, row in enumerate(rows, 2) if (why := _unfit(row, unit, scheme))}
    if unfit:
        left_out = ", ".join(f"line {number} ({why})" for number, why in unfit.items())
        warnings.warn(f"{path}: left out {left_out}", stacklevel=3)
    if len(unfit) == len(rows):
        raise DataError(f"{path}: no row is left: all are throttled, or of another unit than {unit} at {scheme}")
    return {number: row for number, row in enumerate(rows, 2) if number not in unfit}


def _conditions(path: Path, rows: dict[int, dict[str, str]]) -> dict[str, str]:
    """What all rows were measured on and with, as far as they say; raises InputError where they differ."""
    found: dict[str, str] = {}
    for column in _CONDITIONS:
        values = list(dict.fromkeys(row[column] for row in rows.values() if row.get(column)))
        if len(values) > 1 and column in _ONE:
            several = ", ".join(values)
            raise InputError(
                f"{path}: rows of several {_ONE[column]} ({several}): a profile is of one, keep one's rows"
            )
        found[column] = values[0] if len(values) == 1 else ""
    return found


def _described(conditions: dict[str, str]) -> str:
    """What was measured on and with, to stand behind the name of a file; "" where the rows do not say."""
    soc = f" ({conditions['soc']})" if conditions["soc"] else ""
    threads = f"{conditions['threads']} threads" if conditions["threads"] != "1" else "one thread"
    parts = [
        f"{conditions['device']}{soc}" if conditions["device"] else "",
        conditions["os"],
        f"{conditions['runtime']} {conditions['runtime_version']}".strip(),
        threads if conditions["threads"] else "",
    ]
    known = ", ".join(part for part in parts if part)
    return f" on {known}" if conditions["device"] else f", {known}" if known else ""


def _read(path: Path, rows: dict[int, dict[str, str]]) -> tuple[dict[str, tuple[OpRecord, ...]], dict[str, float]]:
    """The ops and latency (ms) of each model measured."""
    ops: dict[str, tuple[OpRecord, ...]] = {}
    times: dict[str, list[float]] = {}
    for number, row in rows.items():
        try:
            latency_ms = float(row["latency_ms"])
        except (TypeError, ValueError):
            latency_ms = 0.0
        if not 0 < latency_ms < float("inf"):
            raise InputError(f"{path}:{number}: latency_ms must be a positive number, got '{row['latency_ms']}'")
        shapes = tuple((row.get("input") or "").split())
        name = " ".join((row["model"], *shapes))
        if name not in ops:
            ops[name], _ = read(row["model"], shapes)
        times.setdefault(name, []).append(latency_ms)
    return ops, {name: float(np.median(each)) for name, each in times.items()}


def _unfit(row: dict[str, str], unit: str, scheme: str) -> str:
    """Why a measured row says nothing of this unit and scheme; "" where it does, or does not say what it is of."""
    for column, wanted in (("unit", unit), ("scheme", scheme)):
        if (row.get(column) or wanted) != wanted:
            return f"{column} {row[column]}, not {wanted}"
    return "throttled" if row.get("throttled") == "yes" else ""


def _bases(like: str, name: str, unit: str, scheme: Scheme, runtime: str) -> list[tuple[str, str, Costs]]:
    """The shipped costs that an adaptation may start from, each with its target and runtime."""
    found = []
    for base in [like] if like else list_targets():
        described = load_target(base).units.get(unit)
        if described is None or not described.profile:
            continue
        runtimes = read_profile(data_folder("profiles") / described.profile).runtimes
        found += [
            (base, known_as, schemes[scheme])
            for known_as, schemes in runtimes.items()
            if scheme in schemes and runtime in ("", known_as)
        ]
    own = [each for each in found if each[0] == name]
    return found if like else own or found


def _profile(
    name: str,
    unit: str,
    base: Target,
    runtime: str,
    costs: Costs,
    scheme: Scheme,
    source: str,
    conditions: dict[str, str],
) -> Profile:
    old = read_profile(data_folder("profiles") / base.unit(unit).profile)
    return Profile(
        target=name,
        unit=unit,
        setting=f"adapted from {base.name}",
        versions={runtime: f"{conditions['runtime']} {conditions['runtime_version']}".strip() or old.versions[runtime]},
        runtimes={runtime: {scheme: costs}},
        source=source,
        fit_command="compress profile calibrate",
        date=date.today().isoformat(),
    )


def _target(
    name: str, unit: str, base: Target, profile: str, scheme: Scheme, source: str, conditions: dict[str, str]
) -> dict[str, Any]:
    """The target file of the new device: what the old one allows, with the new profile."""
    record = base.unit(unit).model_dump(mode="json", exclude={"calibration"})
    multiples = record["channel_multiple"]
    record |= {
        "profile": profile,
        "schemes": [scheme],
        "channel_multiple": multiples if isinstance(multiples, int) else multiples[scheme],
        "notes": f"what it allows is copied from {base.name}: check it",
    }
    return {
        "name": name,
        "title": name,
        "soc": conditions["soc"] or "not stated",
        "sources": {"soc": source if conditions["soc"] else "not stated", f"{unit}.profile": source},
        "units": {unit: record},
    }
