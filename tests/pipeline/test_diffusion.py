"""A diffusion model through the whole pipeline: trained, shrunk, cut to one step, quantized, and run without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.errors import CompressError
from compress.pipeline import RunResult, run
from compress.recipe import make_recipe

TRAINING = {"optimizer": "adamw", "learning_rate": 0.002, "weight_decay": 0.0, "clip_norm": 1.0}


def without_torch(here: Path, artifacts: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The folder's own runner, where torch cannot be imported."""
    program = (
        "import sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[0][:-16]);"
        " import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", program, str(artifacts / "run_pipeline.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)


def go(folder: Path, *steps: dict[str, Any], task: str = "task", **data: Any) -> RunResult:
    record = {
        "name": "blobs",
        "teacher": {"entry": "tests/pipeline/painted.py:teacher", "train": {**TRAINING, "epochs": 6}},
        "task": {"entry": f"tests/pipeline/painted.py:{task}"}, "data": data, "train": {"threads": 1},
        "budget": {"latency_ms": 1000.0},
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
    uses = {(row.model, row.scheme, row.name): row for row in result.report.uses}
    own, single = uses["student", "w8a8", "few"], uses["student", "w8a8", "a single step"]
    assert (own.evaluations, single.evaluations, uses["teacher", "float32", "heun"].evaluations) == (2, 1, 11)
    assert own.quality == result.report.student.quality and own.macs.value == 2 * result.report.student.macs.value
    assert own.latency_ms.value == pytest.approx(2 * single.latency_ms.value)
    assert single.latency_ms.value == result.report.student.latency.value and len(uses) == 6
    assert single.quality.value != own.quality.value and any(row.on_front for row in result.report.uses)
    (limit,) = result.report.budget
    assert limit.actual.value == pytest.approx(own.latency_ms.value) and "all 2 evaluations" in limit.note
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'id="uses"' in page and "a single step" in page and 'id="plot-uses"' in page
    artifacts = folder / "artifacts"
    manifest = json.loads((artifacts / "pipeline.json").read_text())
    assert set(manifest["models"]["denoiser"]) == {"onnx float32", "onnx w8a8", "litert float32", "litert w8a8"}
    assert len(manifest["sampler"]["rows"]) == 3 and np.array(manifest["conditions"]).shape == (2, 2)

    def runner(*arguments: str) -> subprocess.CompletedProcess[str]:
        return without_torch(tmp_path, artifacts, *arguments)

    for model in ("onnx float32", "litert float32"):
        checked = runner("--check", "--model", model)
        assert checked.returncode == 0, checked.stderr
        assert float(checked.stdout.split(":")[1].split(" dB")[0]) > 80
    drawn = runner("--model", "litert w8a8", "--count", "4", "--condition", "1", "--out", "four.png")
    assert drawn.returncode == 0 and (tmp_path / "four.png").read_bytes()[:4] == b"\x89PNG"
    assert "no condition 7; there are 0 to 1" in runner("--condition", "7").stderr
    assert "no model 'onnx w4' here" in runner("--model", "onnx w4").stderr


def test_text_encoder_and_decoder_are_shipped_and_a_prompt_becomes_a_picture(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = go(
        folder,
        {"quantize": {"scheme": "w8a8", "calibration_batches": 2}},
        {"export": {"formats": ["onnx", "litert"]}},
        task="worded",
    )
    assert result.exit_code == 0 and result.report is not None
    rows = {(row.name, row.format): row for row in result.report.companions}
    assert set(rows) == {(name, form) for name in ("text_encoder", "decoder") for form in ("onnx", "litert")}
    assert all(row.passed and row.sqnr_db.value > 25 and row.size_bytes > 0 for row in rows.values())
    assert 'id="companions"' in (folder / "report.html").read_text(encoding="utf-8")
    artifacts, pictures = folder / "artifacts", {}
    for model in ("onnx w8a8", "litert w8a8"):
        checked = without_torch(tmp_path, artifacts, "--check", "--model", model)
        assert checked.returncode == 0 and float(checked.stdout.split(":")[1].split(" dB")[0]) > 15, checked.stderr
        for side in ("left", "RIGHT!"):
            out = f"{side[0]}-{model[0]}.png"
            drawn = without_torch(tmp_path, artifacts, "--prompt", f"a blob, {side}", "--count", "1", "--out", out)
            assert drawn.returncode == 0, drawn.stderr
            pictures[side, model] = Image.open(tmp_path / out)
    assert {picture.size for picture in pictures.values()} == {(16, 16)}
    assert list(pictures["left", "onnx w8a8"].getdata()) != list(pictures["RIGHT!", "onnx w8a8"].getdata())


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
