"""Further devices in a recipe: predictions beside the target's, limits of their own, nothing made again for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.errors import CompressError
from compress.pipeline import RunResult, run
from compress.recipe import make_recipe


def go(folder: Path, *also: dict[str, Any]) -> RunResult:
    record = {
        "name": "tiny", "teacher": {"entry": "tests/pipeline/tiny.py:teacher"}, "target": "pixel-4",
        "task": {"entry": "tests/pipeline/tiny.py:task"}, "train": {"threads": 1},
        "steps": [
            {"quantize": {"calibration_batches": 1}},
            {"export": {"formats": ["onnx"]}},
            {"profile": {"runs": 5, "warm_up": 1, "baseline": False, "also": list(also)}},
        ],
    }  # fmt: skip
    return run(make_recipe(record), folder, recipe_folder=folder.parent, quiet=True)


def test_other_devices_are_predicted_without_a_step_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert go(folder).exit_code == 0
    records = {path: path.read_text() for path in folder.glob("steps/*/record.json")}
    assert go(folder, {"target": "raspberry-pi-5"}, {"target": "galaxy-s24", "unit": "npu"}).exit_code == 0
    assert {path: path.read_text() for path in records} == records
    report = json.loads((folder / "report.json").read_text())
    assert [f"{row['target']} {row['unit']}" for row in report["also"]] == ["raspberry-pi-5 cpu", "galaxy-s24 npu"]
    for row in report["also"]:
        for figure in (row["teacher"], row["student_float32"], row["student"]):
            assert figure["value"] > 0 and figure["origin"] == "predicted" and figure["interval"] is not None
    assert len({row["student"]["value"] for row in report["also"]} | {report["student"]["latency"]["value"]}) == 3
    page = (folder / "report.html").read_text()
    assert "Other targets" in page and 'data-key="also.1.student"' in page


def test_a_unit_without_the_student_s_scheme_has_no_figure_and_says_why(tmp_path: Path) -> None:
    result = go(tmp_path / "run", {"target": "pixel-4", "unit": "gpu"})
    assert result.exit_code == 0 and result.report is not None
    (row,) = result.report.also
    assert row.student_float32 is not None and row.student_float32.value
    assert row.student is not None and row.student.value is None and "w8a8" in row.student.source


def test_a_limit_on_another_device_is_a_limit_of_the_budget(tmp_path: Path) -> None:
    assert go(tmp_path / "wide", {"target": "raspberry-pi-5", "latency_ms": 1000.0}).exit_code == 0
    narrow = go(tmp_path / "narrow", {"target": "raspberry-pi-5", "latency_ms": 1e-6})
    assert narrow.exit_code == 3 and narrow.report is not None
    row = next(row for row in narrow.report.budget if row.limit == "latency_ms")
    assert row.met is False and row.note == "predicted on raspberry-pi-5 cpu"


def test_a_device_that_there_is_not_is_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match="galaxy-s2400"):
        go(tmp_path / "run", {"target": "galaxy-s2400"})
    with pytest.raises(CompressError, match="npu"):
        go(tmp_path / "run", {"target": "raspberry-pi-5", "unit": "npu"})
    assert not (tmp_path / "run" / "steps").exists()
