"""What was measured on devices, put beside the artifacts it is of: the CSV files of the profile step's `measured`.

The files are read whenever a report is made and are no part of what the profile step depends on: a file that is added
or grows later reaches the report without anything being measured on this host, or trained, again.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from compress.entry import locate_file
from compress.errors import InputError, RecipeError
from compress.files import sha256_of
from compress.job import Job
from compress.profile.read_rows import read_rows
from compress.profile.rows import Row
from compress.report.figure import Figure
from compress.report.measured import MeasuredRow, MeasurementFile
from compress.report.schema import SCHEMA_VERSION, ArtifactRow, Report

SETTING = "measured"
"""The setting of the profile step that names the files."""
_HOST_TARGET = "host"
_NAMED = 6  # so many rows of other files are named in the warning
_FIGURES = ("latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "latency_mean_ms", "first_ms", "load_ms",
            "peak_memory_bytes")  # fmt: skip
_SAME = ("device", "is_host", "soc", "os", "unit", "runtime", "runtime_version", "threads", "n", "latency_is",
         "throttled", "throttled_why", "governor", "temperature_before_c", "temperature_after_c", "date",
         "command")  # fmt: skip
Files = list[tuple[MeasurementFile, dict[int, Row]]]


def read_measured(job: Job) -> Files:
    """The files of measurements that the recipe names, each with its rows by line.

    Raises:
        RecipeError: a file is missing or cannot be read; names key and file.
    """
    files: Files = []
    for name in _names(job):
        try:
            path = locate_file(name, job.recipe_folder)
        except InputError as error:
            where = f"{job.recipe_folder} or above, nor in {Path.cwd()}"
            hint = "until the artifacts are measured, leave the key out"
            raise RecipeError(f"profile.{SETTING}: no file {name} in {where}; {hint}") from error
        try:
            rows = read_rows(path)
            files.append((MeasurementFile(path=name, sha256=sha256_of(path), rows=len(rows), matched=0), rows))
        except InputError as error:
            raise RecipeError(f"profile.{SETTING}: {error}") from error
    return files


def add_measured(report: Report, job: Job) -> bool:
    """Put the rows of the recipe's measurements beside the artifacts they are of; True where that changed the report.

    What an earlier version of the files left in the report goes. Rows that are of no artifact are named in a warning.

    Raises:
        RecipeError: see `read_measured`.
    """
    before = report.to_dict()
    files = read_measured(job)
    for artifact in report.artifacts:
        artifact.measured = [
            _measured(row, file.path, line, artifact, job)
            for file, rows in files
            for line, row in rows.items()
            if row.sha256 and row.sha256 == artifact.sha256
        ]
    known = {artifact.sha256 for artifact in report.artifacts if artifact.sha256}
    others: list[str] = []
    for file, rows in files:
        left_out = {line: row for line, row in rows.items() if row.sha256 not in known}
        others += [_named(row, file.path, line) for line, row in left_out.items()]
        file.matched = len(rows) - len(left_out)
    report.measurements = [file for file, _ in files]
    report.warnings = [warning for step in report.steps for warning in step.warnings] + _left_out(others)
    _note_setting(report, _names(job))
    if report.to_dict() == before:
        return False
    report.schema_version = SCHEMA_VERSION
    return True


def _names(job: Job) -> list[str]:
    """The files that the recipe names, as it names them."""
    return [name for step in job.recipe.steps if step.verb == "profile" for name in step.settings.measured]


def _named(row: Row, file: str, line: int) -> str:
    """A row as a warning names it."""
    return f"{file} line {line} ({row.model or 'no name'}, sha256 {row.sha256[:8] or 'missing'})"


def _left_out(others: list[str]) -> list[str]:
    """One warning that names the rows of other files; none where there are none."""
    if not others:
        return []
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    named = ", ".join(others[:_NAMED])
    return [f"left out, measured on files that are not of this run (exporting again makes other files): {named}{more}"]


def _note_setting(report: Report, names: list[str]) -> None:
    """Put the names of the files into the recipe and settings that the report shows, where they are others."""
    profiles = [step["profile"] for step in report.recipe.get("steps", []) if "profile" in step]
    for settings in [*profiles, *(step.settings for step in report.steps if step.verb == "profile")]:
        if settings.get(SETTING, []) != names:
            settings[SETTING] = names


def _measured(row: Row, file: str, line: int, artifact: ArtifactRow, job: Job) -> MeasuredRow:
    """The row of the report: its figures, and the prediction held against them where it is for the same."""
    why = _not_compared(row, artifact, job)
    compared = {"not_compared": why} if why else _compared(row, artifact)
    return MeasuredRow(
        file=file,
        line=line,
        **{name: getattr(row, name) for name in _SAME},
        **{name: Figure.of(row.figures[name]) for name in _FIGURES},
        **compared,
        notes=[*([row.notes] if row.notes else []), *([] if why else _reservations(row, artifact, job))],
    )


def _not_compared(row: Row, artifact: ArtifactRow, job: Job) -> str:
    """Why the artifact's prediction is not held against the row; "" where it is for the same."""
    target, unit = job.target, job.recipe.unit
    if row.latency.value is None:
        return "no latency was reported"
    if artifact.predicted_latency is None or artifact.predicted_latency.value is None:
        return "nothing is predicted for this file"
    if row.is_host != (target.name == _HOST_TARGET):
        return f"measured on {'a host' if row.is_host else 'a device'}, predicted for {target.name} {unit}"
    if not row.is_host and row.target not in ("", row.device) and not _names_target(row, job):
        return f"measured as {row.target}, predicted for {target.name}"
    if row.unit != unit:
        return f"measured on {row.unit or 'a unit not known'}, predicted for {target.name} {unit}"
    if row.scheme not in ("", artifact.scheme):
        return f"noted as {row.scheme}, predicted for {artifact.scheme}"
    return ""


def _names_target(row: Row, job: Job) -> bool:
    """Whether a row was noted as one of the recipe's target, by its name or its file."""
    return row.target == job.recipe.target or Path(row.target).name.removesuffix(".yaml") == job.target.name


def _compared(row: Row, artifact: ArtifactRow) -> Mapping[str, Any]:
    """The error of the prediction, as a share of what was measured, and whether that lies in the interval."""
    predicted, latency_ms = artifact.predicted_latency, row.latency.value
    assert predicted is not None and predicted.value is not None and latency_ms is not None
    low, high = predicted.interval or (None, None)
    is_inside = (low if low is not None else -inf) <= latency_ms <= (high if high is not None else inf)
    return {
        "prediction_error_percent": 100 * (predicted.value / latency_ms - 1),
        "in_interval": is_inside if predicted.interval is not None else None,
    }


def _reservations(row: Row, artifact: ArtifactRow, job: Job) -> list[str]:
    """What is to be known of a comparison that is made."""
    found, target = [], job.target
    runtime = getattr(job.latency_model, "first_runtime", "")
    if runtime and runtime != artifact.format:
        found.append(f"predicted for {runtime} files, measured as {artifact.format} in {row.runtime}")
    is_named = row.is_host or _names_target(row, job) or row.device.casefold() == target.title.casefold()
    if not is_named:
        found.append(f"predicted for {target.name}; the row does not say that {row.device} is one (--target does)")
    return found
