"""Searches that train shared weights: the student keeps the limits and repeats, a ladder's file is its rungs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from compress import search as room
from compress.checkpoint import load_weights, rebuild
from compress.distill import Logit
from compress.errors import Infeasible
from compress.graph.cost import cost_of
from compress.graph.trace import trace
from compress.pipeline import RunResult, compress_objects
from compress.steps import export_ladder
from tests.pipeline import painter

TRAINING = {"epochs": 3, "optimizer": "adamw", "learning_rate": 5e-3, "weight_decay": 0.0, "checkpoint_every_s": 0}
SUPERNET: dict[str, Any] = {
    "method": "supernet", "space": "width_depth_kernel", "training": TRAINING, "randoms": 1, "trials": 6,
    "population": 4, "calibration_batches": 2, "max_peak_activation_bytes": 40_000,
}  # fmt: skip
LADDER: dict[str, Any] = {
    "method": "ladder", "training": TRAINING, "widths": (0.33, 0.67, 1.0), "calibration_batches": 2,
}  # fmt: skip
TAUGHT = {"distill": {"method": "imitate", "epochs": 0, "options": {"teacher": {"norm": "l2"}}}}
EXPORT = {"export": {"formats": ["onnx"]}}


def go(out: Path, search: dict[str, Any], *steps: Any, macs_ratio: float = 0.5) -> RunResult:
    """Run a search, and what comes after it, on the small painter."""
    return compress_objects(
        painter.teacher(), painter.task(), name="painter", budget={"macs_ratio": macs_ratio}, out=out, quiet=True,
        steps=[{"search": search}, *(steps or (TAUGHT,))], train={"threads": 1},
    )  # fmt: skip


def record_of(folder: Path, step: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "steps" / step / "record.json").read_text())
    return found


def peak(model: Any) -> int:
    return cost_of(model, painter.task().example_inputs()).peak_activation_bytes


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return go(tmp_path_factory.mktemp("supernet") / "run", SUPERNET)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return go(tmp_path_factory.mktemp("ladder") / "run", LADDER, TAUGHT, EXPORT)


def rebuilt(folder: Path, plans: Any, weights: str) -> Any:
    inputs = painter.task().example_inputs()
    path = folder / "steps/01-search" / weights
    return rebuild(trace(painter.teacher(), inputs), plans, load_weights(path), inputs).model


def test_the_student_of_a_supernet_keeps_the_limits_and_is_the_best_of_them(supernet: RunResult) -> None:
    assert supernet.report is not None and supernet.report.student.macs and supernet.report.teacher.macs
    assert supernet.report.student.macs.value <= 0.5 * supernet.report.teacher.macs.value
    record = record_of(supernet.folder, "01-search")
    student = rebuilt(supernet.folder, record["plans"], "weights.safetensors")
    assert (
        peak(student)
        <= SUPERNET["max_peak_activation_bytes"]
        < peak(trace(painter.teacher(), (torch.zeros(1, 3, 8, 8),)))
    )
    trials = record["outcome"]["extra"]["trials"]
    assert len({json.dumps(trial["choice"]) for trial in trials}) >= 4
    chosen = trials[record["outcome"]["extra"]["chosen"]]
    assert chosen["quality"] == max(trial["quality"] for trial in trials)
    assert chosen["macs"] == supernet.report.student.macs.value
    assert record["outcome"]["after"]["quality"]["value"] == pytest.approx(chosen["quality"], abs=1e-4)
    assert len(record["outcome"]["history"]) == 3 and "pixel" in record["outcome"]["history"][0]


def test_the_plan_replays_to_the_very_student(supernet: RunResult) -> None:
    record = record_of(supernet.folder, "01-search")
    student, task = rebuilt(supernet.folder, record["plans"], "weights.safetensors"), painter.task()

    @torch.no_grad()
    def teacher(*x: torch.Tensor) -> torch.Tensor:
        return painter.teacher()(*x)

    @torch.no_grad()
    def predict(*x: torch.Tensor) -> torch.Tensor:
        return student.eval()(*x)

    quality = task.with_teacher(teacher).quality(predict, "validation").value
    assert quality == pytest.approx(record["outcome"]["after"]["quality"]["value"], abs=1e-4)


def test_a_second_run_does_nothing_again(supernet: RunResult) -> None:
    before = record_of(supernet.folder, "01-search")
    again = go(supernet.folder, SUPERNET)
    assert record_of(supernet.folder, "01-search") == before and again.exit_code == supernet.exit_code


def test_a_supernet_killed_in_training_ends_as_an_undisturbed_one(
    supernet: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, whole = 0, room.sandwich_loss

    def dies(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(room, "sandwich_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", SUPERNET)
    monkeypatch.setattr(room, "sandwich_loss", whole)
    go(tmp_path / "run", SUPERNET)
    first, second = (record_of(folder, "01-search")["outcome"] for folder in (supernet.folder, tmp_path / "run"))
    assert second["extra"]["resumed_from_step"] == 5
    assert second["extra"]["trials"] == first["extra"]["trials"] and second["after"] == first["after"]


def test_subnets_are_better_for_the_training(supernet: RunResult, tmp_path: Path) -> None:
    go(tmp_path / "run", {**SUPERNET, "training": {**TRAINING, "epochs": 0}})
    trained, raw = (
        record_of(f, "01-search")["outcome"]["after"]["quality"] for f in (supernet.folder, tmp_path / "run")
    )
    assert trained["value"] > raw["value"] + 1.0  # dB


def test_in_place_all_but_the_largest_learn_from_it(tmp_path: Path) -> None:
    go(tmp_path / "run", {**SUPERNET, "in_place": True, "trials": 1, "training": {**TRAINING, "epochs": 1}})
    (row,) = record_of(tmp_path / "run", "01-search")["outcome"]["history"]
    assert row["imitation"] > 0 and row["pixel"] > 0


def test_the_widest_rung_inside_the_limits_is_the_student(ladder: RunResult) -> None:
    assert ladder.report is not None and ladder.report.pareto is not None and ladder.report.teacher.macs
    record = record_of(ladder.folder, "01-search")
    rungs = record["outcome"]["extra"]["trials"]
    limit = 0.5 * ladder.report.teacher.macs.value
    assert [row["macs"] <= limit for row in rungs] == [True, True, False]
    assert record["outcome"]["extra"]["chosen"] == 1 == ladder.report.pareto.chosen
    assert ladder.report.student.macs is not None and ladder.report.student.macs.value == rungs[1]["macs"]
    assert [point.quality.value for point in ladder.report.pareto.points] == [row["quality"] for row in rungs]
    assert "stepwise" in record["outcome"]["history"][0]
    model = rebuilt(ladder.folder, record["plans"], "weights.safetensors")
    kept = record["outcome"]["extra"]["rungs"][1]
    same = rebuilt(ladder.folder, kept["plans"], kept["weights"])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))


def test_the_ladders_file_is_its_rungs(ladder: RunResult) -> None:
    record = record_of(ladder.folder, "03-export")
    made = record["outcome"]["extra"]["ladder"]
    assert "artifacts/painter-ladder.onnx" in record["files"] and made["path"] == "painter-ladder.onnx"
    assert "holds the rungs 0.33, 0.67, 1 (float32)" in record["outcome"]["summary"]
    assert [rung["max_error"] <= 1e-6 for rung in made["rungs"]] == [True] * 3
    session = onnxruntime.InferenceSession(str(ladder.folder / "artifacts/painter-ladder.onnx"))
    x = torch.randn(1, 3, 8, 8)
    found = []
    for rung in record_of(ladder.folder, "01-search")["outcome"]["extra"]["rungs"]:
        feeds = {session.get_inputs()[0].name: x.numpy(), "rung": np.array(len(found), np.int64)}
        found.append(session.run(None, feeds)[0])
        with torch.no_grad():
            wanted = rebuilt(ladder.folder, rung["plans"], rung["weights"]).eval()(x)
        np.testing.assert_allclose(found[-1], wanted.numpy(), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_ladders_file_with_rungs_in_each_others_place_fails_the_run(
    ladder: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export_ladder.write_ladder
    monkeypatch.setattr(export_ladder, "write_ladder", lambda rungs, path: write(rungs[::-1], path))
    formats = {"export": {"formats": ["onnx"], "schemes": ["float32"]}}  # other settings: the step is done again
    result = go(shutil.copytree(ladder.folder, tmp_path / "run"), LADDER, TAUGHT, formats)
    assert result.exit_code == 1
    assert "painter-ladder.onnx: rung" in record_of(result.folder, "03-export")["outcome"]["failed"]


def test_a_ladder_without_a_rung_that_fits_names_the_closest(tmp_path: Path) -> None:
    search = {**LADDER, "training": {**TRAINING, "epochs": 0}, "widths": (0.34, 0.35, 1.0)}
    with pytest.raises(Infeasible, match=r"no rung of the ladder meets the budget: the closest \(0\.3[45]\) has macs"):
        go(tmp_path / "run", search, macs_ratio=0.01)
    assert json.loads((tmp_path / "run/infeasible.json").read_text())["limit"].startswith("macs")


def test_candidates_of_a_generator_recover_by_its_own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> Any:
        raise AssertionError("these are no logits")

    monkeypatch.setattr(Logit, "output_terms", wrong)
    search = {"space": "width_kernel", "trials": 4, "recovery_steps": 3, "refit": False}
    go(tmp_path / "run", search, macs_ratio=0.75)
    record = record_of(tmp_path / "run", "01-search")
    assert any("kernel:first" in trial["choice"] for trial in record["outcome"]["extra"]["trials"])
