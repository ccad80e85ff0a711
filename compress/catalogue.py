"""What can be chosen: devices with what stands behind their predictions, and formats with what this machine can do."""

from __future__ import annotations

from functools import cache
from typing import Any

from compress import export, runtimes
from compress.profile.constants import Profile, read_profile
from compress.resources import data_folder
from compress.targets import Hardware, list_targets, load_target

# A fit to no more models than this is said to rest on few.
_FEW = 10


def target_rows() -> list[dict[str, Any]]:
    """One row of plain data per compute unit of every shipped target."""
    return [row for name in list_targets() for row in _unit_rows(name)]


def _unit_rows(name: str) -> list[dict[str, Any]]:
    target = load_target(name)
    return [
        {
            "name": name,
            "title": target.title,
            "soc": target.soc,
            "unit": unit_name,
            "kind": unit.kind,
            "hardware": made_of(target.hardware, unit.kind),
            "memory": target.hardware.memory,
            "os": unit.os,
            "runtimes": list(unit.runtimes),
            "schemes": list(unit.schemes),
            "channel_multiple": {scheme: unit.multiple_for(scheme) for scheme in unit.schemes},
            "profile": stands_behind(unit.profile),
            "fits": fits_of(unit.profile),
            "notes": unit.notes,
        }
        for unit_name, unit in target.units.items()
    ]


def made_of(hardware: Hardware, kind: str) -> str:
    """What a unit of this kind is made of, in one line; "" where no source states it."""
    if kind != "cpu":
        return hardware.gpu if kind == "gpu" else hardware.npu
    clocks = (f" {cores.ghz:g} GHz" if cores.ghz else "" for cores in hardware.cpu)
    return " + ".join(
        f"{cores.count} x {cores.design}{clock}" for cores, clock in zip(hardware.cpu, clocks, strict=True)
    )


def stands_behind(profile_name: str) -> str:
    """What a unit's predictions rest on, in one line; the errors are those on models left out of the fit."""
    if not profile_name:
        return "nothing measured: no prediction"
    fits: dict[str, list[str]] = {}
    for fit in fits_of(profile_name):
        few = "" if fit["n"] > _FEW else " (few)"
        fits.setdefault(fit["runtime"], []).append(f"{fit['scheme']} {fit['n']} models, error {fit['error']:.0%}{few}")
    known = " | ".join(f"{runtime}: {'; '.join(lines)}" for runtime, lines in fits.items())
    return f"{known} ({_profile(profile_name).source})"


def fits_of(profile_name: str) -> list[dict[str, Any]]:
    """One row of plain data for each runtime and scheme of a profile: how many measurements, the error on others."""
    if not profile_name:
        return []
    return [
        {
            "runtime": runtime,
            "scheme": scheme,
            "n": costs.n,
            "families": costs.held_out.families,
            "error": costs.held_out.mape,
            "coverage": costs.held_out.coverage,
            "left_out": costs.held_out.split,
        }
        for runtime, schemes in _profile(profile_name).runtimes.items()
        for scheme, costs in schemes.items()
    ]


@cache
def _profile(name: str) -> Profile:
    return read_profile(data_folder("profiles") / name)


def format_rows() -> list[dict[str, str]]:
    """One row per export format: can it be written here, can it run here; "yes", or why not and what to install."""
    return [
        {"format": name, "write": export.available(name) or "yes", "run": runtimes.available(name) or "yes"}
        for name in export.EXPORTERS
    ]
