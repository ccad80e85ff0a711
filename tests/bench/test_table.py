"""The verdict's rule at its edges, and the table on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.bench import read_rows, run_case, verdict
from compress.bench.table import in_order, write_rows
from compress.errors import DataError, RunFolderError
from tests.bench.stubs import KNOWN, stub

ZERO = (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((0.1, 0.2, 9.0), "win"),  # the same sign everywhere, though within two errors of the mean
        ((-0.1, -0.2, -9.0), "loss"),
        ((-0.1, 1.0, 1.0, 1.0, 1.0), "win"),  # one seed against it, but beyond two errors
        ((0.1, -1.0, -1.0, -1.0, -1.0), "loss"),
        ((-0.1, 1.0, 1.0), "no difference"),  # mean 0.63, standard error 0.37
        ((0.0, 1.0, 2.0), "no difference"),  # a tie is no sign; mean 1, standard error 0.58
        ((0.0, 0.0, 0.0), "no difference"),
    ],
)
def test_a_verdict_needs_every_seed_or_two_standard_errors(gains: tuple[float, ...], expected: str) -> None:
    zeros = (0.0,) * len(gains)
    assert verdict(gains, zeros, higher_is_better=True) == expected
    mirrored = {"win": "loss", "loss": "win"}.get(expected, expected)
    assert verdict(gains, zeros, higher_is_better=False) == mirrored
    assert verdict(zeros, gains, higher_is_better=True) == mirrored


def test_seeds_are_paired() -> None:
    """Figures that vary more between seeds than between sides still give a verdict."""
    assert verdict((1.1, 5.1, 9.1), (1.0, 5.0, 9.0), higher_is_better=True) == "win"


def test_no_verdict_on_two_seeds_or_broken_figures() -> None:
    with pytest.raises(DataError, match="3 seeds or more"):
        verdict((1.0, 1.0), (0.0, 0.0), higher_is_better=True)
    with pytest.raises(DataError, match="NaN or infinite"):
        verdict((1.0, float("nan"), 1.0), ZERO, higher_is_better=True)


def test_rows_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    row = run_case(stub(lambda seed: (seed + 0.5, seed)), KNOWN, 3)
    write_rows(tmp_path / "t.json", [row])
    assert read_rows(tmp_path / "t.json") == [row]
    assert row.number == 119 and row.with_idea == (0.5, 1.5, 2.5) and row.verdict == "win"


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"rows": [{"method": "san"}]}))
    with pytest.raises(RunFolderError, match=r"t\.json is no table"):
        read_rows(path)


def test_rows_follow_the_cases_and_leave_with_them() -> None:
    first, second, gone = (stub(lambda seed: (1, 0), name=name) for name in ("b", "a", "gone"))
    rows = [run_case(case, KNOWN, 3) for case in (gone, second, first)]
    assert [row.name for row in in_order(rows, [first, second])] == ["b", "a"]
