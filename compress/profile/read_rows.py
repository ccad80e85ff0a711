"""Reads rows of measurements back from the CSV file that `compress profile FILE --measure --out` wrote them to."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

from compress.errors import InputError
from compress.profile.rows import COLUMNS, FIGURES, Row, figures_of

# Without these a row cannot be told to be of a file and a device. The others may be missing: not known.
_NEEDED = ("sha256", "device", "unit", "runtime", "latency_p50_ms")
_TEXTS = ("model", "sha256", "target", "device", "soc", "os", "unit", "runtime", "runtime_version", "scheme", "input",
          "throttled_why", "governor", "date", "command")  # fmt: skip
_TRUTH = {"yes": True, "no": False, "": None}


def read_rows(path: Path) -> dict[int, Row]:
    """The rows of a CSV file, by the lines they stand in.

    The sources of their figures name device, file and line; a figure that is missing has the reason that was noted.

    Raises:
        InputError: the file cannot be read, lacks a column, or a cell holds what it cannot; names file and line.
    """
    try:
        # Spreadsheets put a mark in front of UTF-8.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            header = tuple(reader.fieldnames or ())
            cells = {}
            for record in reader:
                cells[reader.line_num] = record
    except OSError as error:
        raise InputError(f"{path}: cannot read the measurements ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file ({error})") from error
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; it takes a file that compress profile FILE --measure --out wrote"
        )
    return {line: _row(record, path, line) for line, record in cells.items()}


def _row(record: Mapping[str | None, str], path: Path, line: int) -> Row:
    """One row of its cells; raises InputError."""
    place = f"{path}:{line}"
    if None in record:
        raise InputError(f"{place}: more cells than there are columns")
    cells = {name: (record.get(name) or "").strip() for name in COLUMNS}
    if cells["origin"] not in ("", "measured"):
        raise InputError(f"{place}: origin is '{cells['origin']}', and only what was measured is taken")
    if cells["throttled"] not in _TRUTH:
        raise InputError(f"{place}: throttled is '{cells['throttled']}'; it must be yes, no or empty")
    notes, why = _told_apart(cells["notes"])
    known = {}
    for name in FIGURES:
        value = _number(cells, name, place, least=0.0)
        if value == 0 and name.startswith("latency_"):
            raise InputError(f"{place}: {name} is 0; no inference takes no time")
        source = f"on {cells['device']}; {path.name}, line {line}"
        known[name] = (value, source if value is not None else why.get(name, "not reported"))
    return Row(
        **{name: cells[name] for name in _TEXTS},  # type: ignore[arg-type]
        threads=_count(cells, "threads", place),
        n=(n := _count(cells, "n", place)),
        figures=figures_of(known, n),
        throttled=_TRUTH[cells["throttled"]],
        temperature_before_c=_number(cells, "temperature_before_c", place),
        temperature_after_c=_number(cells, "temperature_after_c", place),
        notes=notes,
    )


def _told_apart(notes: str) -> tuple[str, dict[str, str]]:
    """The notes of a row without the reasons why figures are missing, and those reasons by figure."""
    parts = [part.partition(": ") for part in notes.split("; ")]
    why = {name: reason for name, _, reason in parts if name in FIGURES}
    return "; ".join("".join(part) for part in parts if part[0] not in FIGURES), why


def _number(cells: Mapping[str, str], name: str, place: str, least: float = float("-inf")) -> float | None:
    """The number in a cell, None where it is empty; raises InputError where it is none, or below `least`."""
    if not cells[name]:
        return None
    try:
        value = float(cells[name])
    except ValueError:
        value = float("nan")
    if not isfinite(value) or value < least:
        raise InputError(f"{place}: {name} is '{cells[name]}', which is no such number")
    return value


def _count(cells: Mapping[str, str], name: str, place: str) -> int | None:
    """The whole number in a cell, None where it is empty; raises InputError."""
    value = _number(cells, name, place, least=0.0)
    if value is not None and value != int(value):
        raise InputError(f"{place}: {name} is '{cells[name]}'; it must be a whole number")
    return None if value is None else int(value)
