"""Rows: every figure with its reason, CSV that is only ever added to, and text that survives the way."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path
from typing import Any

import pytest

from compress.errors import InputError, RunFolderError
from compress.profile.rows import COLUMNS, FIGURES, Row, append, check, figures_of


def row(**changes: Any) -> Row:
    known = {"latency_p50_ms": (1.25, "median of 3 rounds"), "latency_mean_ms": (1.5, ""), "load_ms": (9.0, "")}
    return Row(**{
        "model": "net, the first.onnx", "sha256": "ab", "target": "mine", "device": "acme A 1", "soc": "SM0000",
        "os": "Android 15", "unit": "cpu", "runtime": "onnxruntime", "runtime_version": "", "threads": 1, "n": 150,
        "figures": figures_of(known, 150), "date": "2026-01-01", "command": "compress profile 'net, the first.onnx'",
        **changes,
    })  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_has_a_number_for_every_figure_and_says_why_one_is_missing() -> None:
    figures = row().figures
    assert tuple(figures) == FIGURES
    assert (figures["latency_p50_ms"].n, figures["load_ms"].n, figures["latency_p99_ms"].n) == (150, 1, None)
    assert figures["latency_p99_ms"].source == "not reported" and figures["peak_memory_bytes"].unit == "bytes"
    assert {number.origin for number in figures.values()} == {"measured"}


def test_rows_are_added_one_below_the_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.csv"
    append(path, row(throttled=True, throttled_why="thermal status 2\nrising", input="1x3x8x8"))
    append(path, row(threads=None, throttled=None))
    first, second = read(path)
    assert tuple(first) == COLUMNS
    assert (first["model"], first["latency_ms"], first["latency_is"], first["input"]) == (
        "net, the first.onnx", "1.25", "latency_p50_ms", "1x3x8x8")  # fmt: skip
    assert (first["throttled"], first["throttled_why"], second["throttled"]) == ("yes", "thermal status 2 rising", "")
    assert (first["threads"], second["threads"], first["origin"]) == ("1", "", "measured")
    assert first["latency_p99_ms"] == "" and "latency_p99_ms: not reported" in first["notes"]


def test_without_a_median_the_mean_stands_for_it_and_is_called_so() -> None:
    only_mean = row(figures=figures_of({"latency_mean_ms": (2.0, "")}, 10))
    assert (only_mean.to_csv()["latency_ms"], only_mean.to_csv()["latency_is"]) == ("2", "latency_mean_ms")
    assert (only_mean.to_dict()["latency_ms"], only_mean.to_dict()["latency_is"]) == (2.0, "latency_mean_ms")
    nothing = row(figures=figures_of({}, 0))
    assert (nothing.to_csv()["latency_ms"], nothing.to_csv()["latency_is"]) == ("", "")


def test_json_has_unit_origin_and_source() -> None:
    record = json.loads(json.dumps(row(environment={"states": [{"governor": "schedutil"}]}).to_dict()))
    assert (record["latency_ms"], record["origin"]) == (1.25, "measured")
    assert record["figures"]["latency_p50_ms"]["source"] == "median of 3 rounds"
    assert record["environment"]["states"][0]["governor"] == "schedutil"


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("name,ms\nx,1\n")
    with pytest.raises(InputError, match="other columns"):
        append(other, row())
    assert other.read_text() == "name,ms\nx,1\n"
    with pytest.raises(InputError, match="is a folder"):
        check(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read"):
        check(tmp_path / "binary.csv")


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (check, lambda path: append(path, row())):
        with pytest.raises(RunFolderError, match="cannot write"):
            write(tmp_path / "file" / "rows.csv")


def test_a_folder_that_takes_no_files_is_found_out_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(RunFolderError, match="the folder is read-only"):
        check(tmp_path / "rows.csv")


def test_looking_whether_rows_can_be_added_leaves_nothing_behind(tmp_path: Path) -> None:
    check(tmp_path / "new" / "rows.csv")
    assert not (tmp_path / "new" / "rows.csv").exists()
    append(tmp_path / "rows.csv", row())
    before = (tmp_path / "rows.csv").read_bytes()
    check(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes() == before
