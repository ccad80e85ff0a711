"""The table of a family: one row per case with both sides' figures, the verdict, and what the card says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, Self

from compress.bench.case import Case
from compress.errors import DataError, RunFolderError
from compress.files import read_json, write_text

Verdict = Literal["win", "no difference", "loss", "failed"]
LEAST_SEEDS = 3
_MARGIN = 2.0  # standard errors of the mean difference


@dataclass(frozen=True)
class Row:
    """What a case came to: `with_idea` and `without` have one figure per seed, in the order of `seeds`.

    `number` is the method's in the list of methods, None for what is no published method. `reason` says why a case
    failed; then it has no figures. `made` has the tools' versions and the date.
    """

    method: str
    number: int | None
    title: str
    name: str
    question: str
    metric: str
    unit: str
    higher_is_better: bool
    card: str
    seeds: tuple[int, ...]
    with_idea: tuple[float, ...]
    without: tuple[float, ...]
    verdict: Verdict
    reason: str
    cpu_seconds: float
    made: Mapping[str, str]

    @property
    def key(self) -> tuple[str, str]:
        """(method, name): what a row is found by."""
        return self.method, self.name

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The row back from plain data."""
        values = {field.name: record[field.name] for field in fields(cls)}
        for name in ("seeds", "with_idea", "without"):
            values[name] = tuple(values[name])
        return cls(**values)


def verdict(with_idea: Sequence[float], without: Sequence[float], higher_is_better: bool) -> Verdict:
    """Who is better: one side in every seed, or by more than 2 standard errors of the mean difference per seed.

    Raises:
        DataError: there are fewer than 3 seeds, or a figure is NaN or infinite.
    """
    if len(with_idea) != len(without) or len(with_idea) < LEAST_SEEDS:
        counts = f"{len(with_idea)} and {len(without)}"
        raise DataError(f"a verdict takes {LEAST_SEEDS} seeds or more on both sides, not {counts}; raise --seeds")
    if not all(map(math.isfinite, (*with_idea, *without))):
        raise DataError(f"a figure is NaN or infinite: {[*with_idea]} with, {[*without]} without")
    sign = 1 if higher_is_better else -1
    gains = [sign * (a - b) for a, b in zip(with_idea, without, strict=True)]
    error = stdev(gains) / math.sqrt(len(gains))
    if all(gain > 0 for gain in gains) or mean(gains) > _MARGIN * error:
        return "win"
    if all(gain < 0 for gain in gains) or mean(gains) < -_MARGIN * error:
        return "loss"
    return "no difference"


def read_rows(path: Path) -> list[Row]:
    """The rows of a table on disk; none where there is no file.

    Raises:
        RunFolderError: the file is there and is no such table.
    """
    if not path.is_file():
        return []
    try:
        return [Row.from_dict(record) for record in read_json(path)["rows"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path} is no table of the methods bench ({error}); remove it and run again") from error


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write the table."""
    records = [asdict(row) for row in rows]
    write_text(path, json.dumps({"schema_version": 1, "rows": records}, indent=1, allow_nan=False) + "\n")


def in_order(rows: Iterable[Row], cases: Sequence[Case]) -> list[Row]:
    """The rows in the order of the cases; rows of cases that are no more are left out."""
    places = {(case.method, case.name): place for place, case in enumerate(cases)}
    return sorted((row for row in rows if row.key in places), key=lambda row: places[row.key])
