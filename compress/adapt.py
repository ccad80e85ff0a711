"""Own measurements in, an adapted target out: the work behind `compress profile calibrate`."""

from __future__ import annotations

import csv
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
from compress.profile.fit import Rows
from compress.resources import data_folder
from compress.targets import Target, list_targets, load_target
from compress.types import OpRecord, Scheme

_COLUMNS = ("model", "latency_ms")


@dataclass(frozen=True, slots=True)
class Adapted:
    """A calibrated target: where it lies, what it started from, and how well it does."""

    target: Path
    profile: Path
    base: str
    calibration: Calibration
    tried: dict[str, float]


def adapt(
    measurements: Path, name: str, like: str = "", unit: str = "cpu", scheme: Scheme = "float32", out: Path = Path(".")
) -> Adapted:
    """Writes a target and a profile for a device that was measured a few times.

    Args:
        measurements: a CSV file with the columns model (see `estimate`), latency_ms and, for torch models, input.
        name: what the new target is to be called.
        like: the shipped target to start from; by default the one that does best on the measurements.
        unit: the compute unit that was measured.
        scheme: what the models were measured in.
        out: the folder to write NAME.yaml and NAME-UNIT.json to.

    Raises:
        InputError: a file or a model cannot be read.
        DataError: there are too few measurements, or no shipped profile is of this kind.
    """
    ops, measured = _read(measurements)
    source = f"{measurements.name}: {len(measured)} measurements"
    found: dict[str, Calibration] = {}
    for base, costs in _bases(like, unit, scheme):
        found[base] = calibrate(costs, Rows.of(ops, measured, costs.layout), source)
    if not found:
        raise DataError(f"no shipped target has a profile of a {unit} at {scheme} to start from")
    best = min(found, key=lambda base: found[base].mape_after)
    described = load_target(best)
    profile = _profile(name, unit, described, found[best].costs, scheme, source)
    out.mkdir(parents=True, exist_ok=True)
    written = out / f"{name}-{unit}.json"
    write_profile(profile, written)
    target = out / f"{name}.yaml"
    target.write_text(yaml.safe_dump(_target(name, unit, described, written.name, scheme, source), sort_keys=False))
    return Adapted(target, written, best, found[best], {base: each.mape_after for base, each in found.items()})


def _read(path: Path) -> tuple[dict[str, tuple[OpRecord, ...]], dict[str, float]]:
    """The ops and latency (ms) of each model measured."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read the measurements: {error}") from error
    if not rows or any(column not in rows[0] for column in _COLUMNS):
        raise InputError(f"{path}: expected a CSV file with the columns {', '.join(_COLUMNS)} (and input)")
    ops: dict[str, tuple[OpRecord, ...]] = {}
    times: dict[str, list[float]] = {}
    for number, row in enumerate(rows, 2):
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


def _bases(like: str, unit: str, scheme: Scheme) -> list[tuple[str, Costs]]:
    """The shipped costs that an adaptation may start from: the first runtime of each target that has the unit."""
    found = []
    for name in [like] if like else list_targets():
        described = load_target(name).units.get(unit)
        if described is None or not described.profile:
            continue
        costs = read_profile(data_folder("profiles") / described.profile).schemes().get(scheme)
        if costs is not None:
            found.append((name, costs))
    return found


def _profile(name: str, unit: str, base: Target, costs: Costs, scheme: Scheme, source: str) -> Profile:
    old = read_profile(data_folder("profiles") / base.unit(unit).profile)
    runtime = next(iter(old.runtimes))
    return Profile(
        target=name,
        unit=unit,
        setting=f"adapted from {base.name}",
        versions={runtime: old.versions[runtime]},
        runtimes={runtime: {scheme: costs}},
        source=source,
        fit_command="compress profile calibrate",
        date=date.today().isoformat(),
    )


def _target(name: str, unit: str, base: Target, profile: str, scheme: Scheme, source: str) -> dict[str, Any]:
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
        "soc": "not stated",
        "sources": {"soc": "not stated", f"{unit}.profile": source},
        "units": {unit: record},
    }
