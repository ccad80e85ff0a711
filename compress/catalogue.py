"""What can be chosen: devices with what stands behind their predictions, and formats with what this machine can do."""

from __future__ import annotations

from typing import Any

from compress import export, runtimes
from compress.profile.constants import read_profile
from compress.resources import data_folder
from compress.targets import list_targets, load_target


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
            "os": unit.os,
            "runtimes": list(unit.runtimes),
            "schemes": list(unit.schemes),
            "channel_multiple": {scheme: unit.multiple_for(scheme) for scheme in unit.schemes},
            "profile": stands_behind(unit.profile),
            "notes": unit.notes,
        }
        for unit_name, unit in target.units.items()
    ]


def stands_behind(profile_name: str) -> str:
    """What a unit's predictions rest on, in one line; the errors are those on models left out of the fit."""
    if not profile_name:
        return "nothing measured: no prediction"
    profile = read_profile(data_folder("profiles") / profile_name)
    fits = []
    for runtime, schemes in profile.runtimes.items():
        known = (f"{scheme} {costs.n} models, error {costs.held_out.mape:.0%}" for scheme, costs in schemes.items())
        fits.append(f"{runtime}: {'; '.join(known)}")
    return f"{' | '.join(fits)} ({profile.source})"


def format_rows() -> list[dict[str, str]]:
    """One row per export format: can it be written here, can it run here; "yes", or why not and what to install."""
    return [
        {"format": name, "write": export.available(name) or "yes", "run": runtimes.available(name) or "yes"}
        for name in export.EXPORTERS
    ]
