"""A measurement as a row: what ran, on what, how long, under which conditions; as CSV for `calibrate`, and as JSON."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from compress.errors import InputError
from compress.files import refusal
from compress.types import Number

# What is measured, in the order of the columns. Times are ms, memory bytes.
FIGURES = ("latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "latency_mean_ms",
           "latency_min_ms", "first_ms", "load_ms", "peak_memory_bytes")  # fmt: skip
# latency_ms, which `compress profile calibrate` reads, is the first of these that is known.
_STANDS_FOR = ("latency_p50_ms", "latency_mean_ms")
# What a computer that measures on itself has as its `device`.
HOST, MAC = "this machine", "this Mac"


@dataclass(frozen=True, slots=True)
class Row:
    """One file, measured on one device.

    `input` lists the input shapes ("1x3x224x224"), "" where they are not known. `figures` has a Number for every name
    in FIGURES: one that is not known has the value None and says why in its source. `throttled` is None where nobody
    looked; `throttled_why` has a sentence per sign. Temperatures are °C. `environment` is what else is known of the
    device (JSON only).
    """

    model: str
    sha256: str
    target: str
    device: str
    soc: str
    os: str
    unit: str
    runtime: str
    runtime_version: str
    threads: int | None
    n: int | None
    figures: Mapping[str, Number]
    date: str
    command: str
    input: str = ""
    scheme: str = ""
    throttled: bool | None = None
    throttled_why: str = ""
    governor: str = ""
    temperature_before_c: float | None = None
    temperature_after_c: float | None = None
    notes: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latency(self) -> Number:
        """The figure that stands for the row: the median, or the mean where nothing else was reported."""
        known = [self.figures[name] for name in _STANDS_FOR if self.figures[name].value is not None]
        return known[0] if known else self.figures[_STANDS_FOR[0]]

    @property
    def latency_is(self) -> str:
        """The name of the figure that stands for the row, "" where there is none."""
        return next((name for name in _STANDS_FOR if self.figures[name].value is not None), "")

    @property
    def is_host(self) -> bool:
        """Whether a computer measured on itself, whatever target was noted."""
        return self.device in (HOST, MAC)

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON data: figures with unit, origin and source."""
        record = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "figures"}
        record["environment"] = dict(self.environment)
        record |= {"latency_ms": self.latency.value, "latency_is": self.latency_is, "origin": "measured"}
        return record | {"figures": {name: self.figures[name].to_dict() for name in FIGURES}}

    def to_csv(self) -> dict[str, str]:
        """The row as the text of each column (see COLUMNS); "" stands for what is not known."""
        record: dict[str, Any] = {name: getattr(self, name, None) for name in COLUMNS}  # latency_is among them
        record |= {name: self.figures[name].value for name in FIGURES}
        record["latency_ms"] = self.latency.value
        record["origin"] = "measured"
        unknown = [f"{name}: {self.figures[name].source}" for name in FIGURES if self.figures[name].value is None]
        record["notes"] = "; ".join([*([self.notes] if self.notes else []), *unknown])
        return {name: _text(record[name]) for name in COLUMNS}


COLUMNS = (
    "model", "latency_ms", "latency_is", "input", "origin", *FIGURES, "n", "target", "device", "soc", "os", "unit",
    "runtime", "runtime_version", "scheme", "threads", "throttled", "throttled_why", "governor",
    "temperature_before_c", "temperature_after_c", "sha256", "date", "command", "notes",
)  # fmt: skip


def of_times(times_ms: Sequence[float]) -> dict[str, float]:
    """The latency figures of single runs, by their names in FIGURES."""
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times_ms, [50, 90, 95, 99]))
    return {
        "latency_p50_ms": p50,
        "latency_p90_ms": p90,
        "latency_p95_ms": p95,
        "latency_p99_ms": p99,
        "latency_mean_ms": fmean(times_ms),
        "latency_min_ms": min(times_ms),
    }


def figures_of(known: Mapping[str, tuple[float | None, str]], n: int | None) -> dict[str, Number]:
    """A Number for every name in FIGURES from (value, source); one that is missing says so."""
    found = {}
    for name in FIGURES:
        value, source = known.get(name, (None, "not reported"))
        unit = "bytes" if name.endswith("bytes") else "ms"
        single = name in ("first_ms", "load_ms", "peak_memory_bytes")
        count = None if value is None else 1 if single else n
        found[name] = Number(value, unit, "measured", count, source=source)
    return found


def append(path: Path, row: Row) -> None:
    """Adds a row at the end of a CSV file, which is made with its header where there is none.

    Raises:
        InputError: the file has other columns, or is no text. RunFolderError: it cannot be written.
    """
    check(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row.to_csv())
    except OSError as error:
        raise refusal(error, path) from error


def check(path: Path) -> None:
    """Tries whether rows can be added to `path`: better before an hour of measuring than after.

    Raises:
        InputError: it is a folder, or has other columns. RunFolderError: it cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; --out takes the name of a CSV file with --measure")
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise refusal(error, path) from error
    if is_new or path.stat().st_size == 0:
        return
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read what is there already: {error}") from error
    if tuple(header) != COLUMNS:
        raise InputError(f"{path}: holds other columns than measurements have; choose another name")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
