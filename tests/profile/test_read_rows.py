"""Rows come back from their CSV file as they were, with reasons; a cell that holds nonsense is named."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from compress.errors import InputError
from compress.profile.read_rows import read_rows
from compress.profile.rows import COLUMNS, FIGURES, append, figures_of
from tests.profile.test_rows import row

GOOD = {"sha256": "ab", "device": "acme A 1", "unit": "cpu", "runtime": "onnxruntime", "latency_p50_ms": "1.25"}


def written(path: Path, *records: dict[str, str], head: str = "") -> Path:
    """A CSV file with these rows, `head` in front of it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(head)
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    known = {"latency_p50_ms": (1.25, ""), "load_ms": (9.0, ""), "latency_p99_ms": (None, "too few runs")}
    before = row(figures=figures_of(known, 150), throttled=True, throttled_why="hot", notes="warm", scheme="w8a8",
                 temperature_before_c=24.7, input="1x3x8x8")  # fmt: skip
    append(path, before)
    append(path, row(threads=None, n=None, throttled=None))
    first, second = read_rows(path).values()
    assert list(read_rows(path)) == [2, 3]
    for name in ("model", "sha256", "target", "device", "soc", "os", "unit", "runtime", "threads", "n", "scheme",
                 "throttled", "throttled_why", "temperature_before_c", "notes", "command", "input"):  # fmt: skip
        assert getattr(first, name) == getattr(before, name), name
    assert {name: first.figures[name].value for name in FIGURES} == {
        name: before.figures[name].value for name in FIGURES
    }
    assert (first.figures["latency_p50_ms"].n, first.figures["load_ms"].n) == (150, 1)
    assert first.figures["latency_p50_ms"].source == "on acme A 1; rows.csv, line 2"
    assert first.figures["latency_p99_ms"].source == "too few runs"
    assert first.figures["first_ms"].source == "not reported"
    assert (second.threads, second.n, second.throttled, second.latency_is) == (None, None, None, "latency_p50_ms")
    assert not first.is_host


@pytest.mark.parametrize("device", ["this machine", "this Mac"])
def test_a_computer_that_measured_on_itself_is_a_host(tmp_path: Path, device: str) -> None:
    (found,) = read_rows(written(tmp_path / "rows.csv", GOOD | {"device": device, "target": "pixel-4"})).values()
    assert found.is_host


def test_a_spreadsheet_may_have_saved_it(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", GOOD | {"more": "x", "n": "150.0"}, head="\N{ZERO WIDTH NO-BREAK SPACE}")
    (found,) = read_rows(path).values()
    assert (found.sha256, found.n, found.figures["latency_p90_ms"].value) == ("ab", 150, None)


@pytest.mark.parametrize(("change", "words"), [
    ({"latency_p50_ms": "1,25"}, "latency_p50_ms is '1,25'"),
    ({"latency_p50_ms": "nan"}, "latency_p50_ms is 'nan'"),
    ({"latency_p50_ms": "-1"}, "latency_p50_ms is '-1'"),
    ({"latency_p50_ms": "0"}, "latency_p50_ms is 0"),
    ({"load_ms": "inf"}, "load_ms is 'inf'"),
    ({"n": "1.5"}, "n is '1.5'; it must be a whole number"),
    ({"throttled": "maybe"}, "throttled is 'maybe'"),
    ({"origin": "predicted"}, "origin is 'predicted', and only what was measured"),
])  # fmt: skip
def test_a_cell_that_holds_nonsense_is_named_with_its_line(tmp_path: Path, change: dict[str, str], words: str) -> None:
    full = dict.fromkeys(COLUMNS, "") | GOOD
    with pytest.raises(InputError, match=r"rows\.csv:3: ") as caught:
        read_rows(written(tmp_path / "rows.csv", full, full | change))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_such_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "long.csv").write_text(",".join(GOOD) + "\n" + ",".join(GOOD.values()) + ",more\n")
    (tmp_path / "semicolons.csv").write_text(";".join(GOOD) + "\n")
    (tmp_path / "open.csv").write_text(",".join(GOOD) + '\n"ab')
    for name, words in (
        ("long.csv", "long.csv:2: more cells"),
        ("semicolons.csv", "no column sha256"),
        ("open.csv", "not a CSV file"),
        ("nowhere.csv", "cannot read the measurements"),
        (".", "cannot read the measurements"),
    ):
        with pytest.raises(InputError, match=words):
            read_rows(tmp_path / name)
