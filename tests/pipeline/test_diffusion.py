"""A diffusion model through the whole pipeline: trained, shrunk, cut to one step, quantized, and run without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.errors import CompressError
from compress.pipeline import RunResult, run
from compress.recipe import make_recipe

TRAINING = {"optimizer": "adamw", "learning_rate": 0.002, "weight_decay": 0.0, "clip_norm": 1.0}


def go(folder: Path, *steps: dict[str, Any], **data: Any) -> RunResult:
    record = {
        "name": "blobs",
        "teacher": {"entry": "tests/pipeline/painted.py:teacher", "train": {**TRAINING, "epochs": 6}},
        "task": {"entry": "tests/pipeline/painted.py:task"}, "data": data, "train": {"threads": 1},
        "steps": list(steps),
    }  # fmt: skip
    return run(make_recipe(record), folder, recipe_folder=folder.parent, quiet=True)


QUICK = {"runs": 5, "warm_up": 1, "baseline": False}


def test_from_a_trained_teacher_to_a_folder_that_runs_without_torch(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = go(
        folder,
        {"prune": {"importance": "magnitude", "ratio": 0.3}},
        {"distill": {"method": "score_matching", "epochs": 2, **TRAINING}},
        {"distill": {"method": "sid", "options": {"lowest": 0.05, "highest": 10.0}, "epochs": 2, **TRAINING}},
        {"quantize": {"scheme": "w8a8", "calibration_batches": 2}},
        {"export": {"formats": ["onnx", "litert"]}},
        {"verify": {"samples": 4, "min_sqnr_db": 5.0, "max_quality_gap": 50.0}},
        {"profile": QUICK},
        steps=2,
    )
    assert result.report is not None and result.exit_code in (0, 1)
    assert [row.name for row in result.report.references] == ["teacher, 1 step"]
    assert result.report.student.more_qualities["network evaluations per sample"].value == 2
    assert result.report.teacher.more_qualities["network evaluations per sample"].value == 11
    artifacts = folder / "artifacts"
    manifest = json.loads((artifacts / "pipeline.json").read_text())
    assert set(manifest["models"]["denoiser"]) == {"onnx float32", "onnx w8a8", "litert float32", "litert w8a8"}
    assert len(manifest["sampler"]["rows"]) == 3 and np.array(manifest["conditions"]).shape == (2, 2)
    program = (
        "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:];"
        " runpy.run_path(sys.argv[0], run_name='__main__')"
    )

    def runner(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, str(artifacts / "run_pipeline.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    for model in ("onnx float32", "litert float32"):
        checked = runner("--check", "--model", model)
        assert checked.returncode == 0, checked.stderr
        assert float(checked.stdout.split(":")[1].split(" dB")[0]) > 80
    drawn = runner("--model", "litert w8a8", "--count", "4", "--condition", "1", "--out", "four.png")
    assert drawn.returncode == 0 and (tmp_path / "four.png").read_bytes()[:4] == b"\x89PNG"
    assert "no condition 7; there are 0 to 1" in runner("--condition", "7").stderr
    assert "no model 'onnx w4' here" in runner("--model", "onnx w4").stderr


def test_a_sampler_learns_on_the_quantized_network_and_leaves_its_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    steps: list[dict[str, Any]] = [
        {"quantize": {"scheme": "w8a8", "calibration_batches": 2}},
        {"solver": {"pairs": 64, "epochs": 6, "learning_rate": 0.02}},
        {"export": {"formats": ["onnx"]}},
        {"profile": QUICK},
    ]
    first = go(folder, *steps, steps=3, solver=True)
    assert first.report is not None
    record = json.loads((folder / "steps/02-solver/record.json").read_text())["outcome"]
    losses = [row["distance"] for row in record["history"]]
    assert losses[-1] < losses[0] and record["extra"]["numbers"] == 1 + 3 + 6 + 3
    manifest = json.loads((folder / "artifacts/pipeline.json").read_text())
    assert manifest["sampler"] == record["extra"]["sampler"] and "learned" in manifest["sampler"]["name"]
    assert first.report.student.quality is not None and "learned solver" in first.report.student.quality.source
    again = go(folder, *steps, steps=3, solver=True)  # nothing is run, and the sampler is the learned one again
    assert again.report is not None and again.report.student.quality == first.report.student.quality
    without = go(tmp_path / "plain", steps[0], *steps[2:], steps=3, solver=True)
    assert without.report is not None
    hashes = [{a.format + a.scheme: a.sha256 for a in r.report.artifacts} for r in (first, without) if r.report]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"solver": {}}, {"quantize": {}}], "quantize after solver"),
        ([{"export": {}}, {"solver": {}}], "solver after export"),
    ],
)
def test_orders_that_cannot_work_are_refused(tmp_path: Path, steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        go(tmp_path / "run", *steps)


def test_a_sampler_with_fresh_noise_cannot_be_learned(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match="draws noise on the way"):
        go(tmp_path / "run", {"solver": {"pairs": 8, "epochs": 1}}, steps=2)
