"""Generators the whole way: rewritten, pruned, taught against a discriminator, trained in integers, compared."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.checkpoint import load_weights, rebuild
from compress.errors import CompressError, ModelError
from compress.graph.trace import trace
from compress.pipeline import RunResult, dry_run, run
from compress.recipe import make_recipe
from compress.train.health import Action, Finding, Guard
from tests.pipeline import generators

HERE = Path(__file__).parent
ENTRY = "tests/pipeline/generators.py:"
LIGHT = {"discriminator": "patch", "depth": 1, "width": 8}
RECIPE: dict[str, Any] = {
    "name": "painter",
    "teacher": {"entry": f"{ENTRY}wide_teacher"},
    "task": {"entry": f"{ENTRY}task"},
    "target": "host",
    "budget": {"macs_ratio": 0.2},
    "train": {"threads": 1},
    "steps": [
        {"rewrite": {"separable": "large", "options": {"separable_form": "pair"}}},
        {"prune": {"importance": "magnitude", "batches": 1, "refit": False}},
        {
            "distill": {
                "method": "imitate", "options": {"gan": 0.01, "adversary": LIGHT},
                "epochs": 8, "optimizer": "adamw", "learning_rate": 0.003, "weight_decay": 0.0, "norms": "keep",
            }
        },
        {"quantize": {"qat_epochs": 1, "calibration_batches": 1, "optimizer": "adamw", "learning_rate": 0.0005}},
        {"export": {"formats": ["onnx"]}},
        {"verify": {"samples": 4, "max_quality_gap": 3.0}},
    ],
}  # fmt: skip


def go(out: Path, quiet: bool = True, **changes: Any) -> RunResult:
    made = make_recipe(copy.deepcopy(RECIPE) | changes, "painter")
    return run(made, out, recipe_folder=HERE, quiet=quiet)


def records(folder: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("steps/*/record.json"))]
    return {record["verb"]: record for record in found}


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return go(tmp_path_factory.mktemp("painter") / "run")


def test_every_step_does_its_part(painted: RunResult) -> None:
    found = records(painted.folder)
    after = {verb: record["outcome"]["after"] for verb, record in found.items()}
    macs = {verb: figures["macs"]["value"] for verb, figures in after.items() if "macs" in figures}
    quality = {verb: after[verb]["quality"]["value"] for verb in ("prune", "distill", "quantize")}
    assert macs["prune"] <= 0.2 * macs["teacher"] and macs["rewrite"] != macs["teacher"]
    assert quality["distill"] > quality["prune"] + 1.0  # dB: healed
    assert quality["quantize"] > quality["distill"] - 3.0
    assert painted.exit_code == 0
    history = found["distill"]["outcome"]["history"]
    assert {"student.pixel", "student.gan", "discriminator.adversarial", "stats"} <= set(history[0])
    assert "pixel" in found["quantize"]["outcome"]["history"][0]  # in integers it learns by the same terms


def test_the_checkpoint_replays_all_plans(painted: RunResult) -> None:
    record = records(painted.folder)["quantize"]
    assert [plan["kind"] for plan in record["plans"]] == ["rewrite", "prune", "quantize"]
    inputs = generators.task().example_inputs()
    weights = load_weights(painted.folder / "steps/04-quantize/weights.safetensors")
    student = rebuild(trace(generators.wide_teacher(), inputs), record["plans"], weights, inputs)
    predict = lambda x: student.final(x).detach()  # noqa: E731
    task = generators.task().with_teacher(lambda x: trace(generators.wide_teacher(), inputs)(x).detach())
    stored = record["outcome"]["after"]["quality"]["value"]
    assert float(task.quality(predict, "validation").value or 0) == pytest.approx(stored, abs=1e-3)


def made_at(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted(folder.glob("steps/*/record.json"))]


def test_a_second_run_does_nothing_twice(painted: RunResult) -> None:
    before = made_at(painted.folder)
    go(painted.folder)
    assert made_at(painted.folder) == before and len(before) == 7


def test_a_dry_run_prunes_what_the_rewrite_leaves() -> None:
    plan = dry_run(make_recipe(copy.deepcopy(RECIPE), "painter"), HERE)
    rewritten, pruned = plan["steps"][:2]
    assert rewritten["verb"] == "rewrite" and len(rewritten["plan"]) >= 1
    assert pruned["predicted"]["before"]["macs"] == rewritten["predicted"]["after"]["macs"]


def test_a_student_may_start_from_another_network(tmp_path: Path) -> None:
    steps = [{"distill": {"method": "imitate", "epochs": 2, "optimizer": "adamw", "learning_rate": 0.01}},
             {"export": {"formats": ["onnx"]}}, {"verify": {"samples": 4}}]  # fmt: skip
    student = {"entry": f"{ENTRY}narrow", "arguments": {"width": 4}}
    done = go(tmp_path / "run", steps=steps, student=student, budget={})
    assert done.report is not None and done.exit_code == 0
    teacher, ours = done.report.teacher.macs, done.report.student.macs
    assert teacher and ours and (ours.value or 0) < 0.2 * (teacher.value or 0)
    first, last = records(done.folder)["teacher"], records(done.folder)["distill"]
    assert any(name.endswith("teacher.safetensors") for name in first["files"]) and last["plans"] == []
    before = made_at(done.folder)
    go(tmp_path / "run", steps=steps, student=student, budget={})
    assert made_at(done.folder) == before


def test_a_student_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"student\.entry: its output has shape \(1, 3, 8, 8\), the teacher's \(1, 3, 16"
    ):
        go(tmp_path / "run", student={"entry": f"{ENTRY}translator"})


def test_tiles_of_a_large_picture_are_planned(tmp_path: Path) -> None:
    tiles = {"picture": [96, 128], "memory_bytes": 400_000}
    done = go(
        tmp_path / "run", teacher={"entry": f"{ENTRY}translator"}, task={"entry": f"{ENTRY}translation"},
        steps=[{"rewrite": {"tiles": tiles}}], budget={},
    )  # fmt: skip
    found = records(done.folder)["rewrite"]["outcome"]
    planned = found["extra"]["tiles"]
    assert planned["tiles"] > 1 and planned["halo_px"] == [3, 3] and not found["warnings"]
    assert planned["peak_activation_bytes"] <= 400_000 < planned["whole_peak_activation_bytes"]
    assert "96x128 pixels in" in found["summary"]


def test_what_the_student_is_held_against_is_in_the_report(tmp_path: Path) -> None:
    steps = [{"distill": {"method": "imitate", "epochs": 1, "optimizer": "adamw", "learning_rate": 0.001}}]
    done = go(
        tmp_path / "run", teacher={"entry": f"{ENTRY}translator"}, task={"entry": f"{ENTRY}translation"},
        steps=steps, budget={},
    )  # fmt: skip
    assert done.report is not None
    rows = {row.name: row for row in done.report.references}
    assert set(rows) == {"the photograph itself", "grey"}
    assert all(row.quality and math.isfinite(row.quality.value or math.nan) for row in rows.values())
    assert "the photograph itself" in (done.folder / "report.html").read_text()


def test_noise_inside_a_generator_is_fixed_and_said(tmp_path: Path) -> None:
    steps = [{"export": {"formats": ["onnx"]}}, {"verify": {"samples": 4}}]
    done = go(tmp_path / "run", teacher={"entry": f"{ENTRY}noisy_teacher"}, steps=steps, budget={})
    assert done.report is not None and done.exit_code == 0
    assert any("draws noise as it runs" in warning for warning in done.report.warnings)
    assert all(row.passed for row in done.report.artifacts)


@pytest.mark.parametrize(
    ("distill", "said"),
    [
        ({"method": "imitate", "options": {"gam": 1}}, r"distill\.options\.gam: unknown key"),
        ({"method": "imitat"}, "imitate"),
        ({"method": "logit", "options": {"gan": 1}}, "has none"),
    ],
)
def test_a_wrong_method_is_refused_before_anything_runs(tmp_path: Path, distill: dict[str, Any], said: str) -> None:
    with pytest.raises(CompressError, match=said):
        go(tmp_path / "run", steps=[{"distill": distill}])
    assert not list(tmp_path.glob("run/steps/*"))


def test_a_perceptual_term_needs_a_network_to_judge_with(tmp_path: Path) -> None:
    steps = [{"distill": {"method": "imitate", "epochs": 1, "options": {"teacher": {"perceptual": 1.0}}}}]
    with pytest.raises(CompressError, match="teaches="):
        go(tmp_path / "run", steps=steps, budget={})


def test_gradients_stay_out_of_the_teacher(painted: RunResult) -> None:
    weights = load_weights(painted.folder / "steps/00-teacher/weights.safetensors")
    own = trace(generators.wide_teacher(), generators.task().example_inputs()).state_dict()
    for name, value in own.items():
        assert torch.equal(weights[f"model.{name}"], value)


def test_what_the_guard_finds_and_does_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(guard: Guard, epoch: int, *_: Any) -> list[Finding]:
        guard.last_good = epoch
        slower = Action("lower_rate", "discriminator", 0.5)
        return [Finding(epoch, "discriminator_wins", 0.99, 0.95, slower)] if epoch == 0 else []

    monkeypatch.setattr(Guard, "look", look)
    options = {"gan": 0.01, "adversary": LIGHT}
    steps = [{"distill": {"method": "imitate", "options": options, "epochs": 2, "schedule": "constant", "warm_up": 0}}]
    done = go(tmp_path / "run", steps=steps, budget={})
    said = "discriminator wins: 0.99 (limit 0.95); the learning rate of the discriminator was multiplied by 0.5"
    assert done.report is not None and f"epoch 1: {said}" in done.report.warnings
    assert done.report.steps[1].history[0].findings == [said]
    rates = [row["discriminator.learning_rate"] for row in records(done.folder)["distill"]["outcome"]["history"]]
    assert rates[1] < 0.6 * rates[0]
    assert said in (done.folder / "report.html").read_text()


def test_ops_that_stay_float_are_said_once_for_each_reason(tmp_path: Path) -> None:
    steps = [{"quantize": {"calibration_batches": 1}}]
    done = go(tmp_path / "run", teacher={"entry": f"{ENTRY}normed_teacher"}, steps=steps, budget={})
    assert done.report is not None
    said = [warning for warning in done.report.warnings if "instance_norm" in warning]
    assert len(said) == 1 and said[0].startswith("instance_norm in 2 places (") and said[0].endswith("stays float")


def test_what_stands_before_a_pixel_shuffle_is_pinned_and_the_rest_is_pruned(tmp_path: Path) -> None:
    steps = [{"rewrite": {"upsample": "pixel_shuffle"}}, {"prune": {"ratio": 0.5, "importance": "taylor"}}]
    done = go(tmp_path / "run", steps=steps, budget={})
    found = records(done.folder)["prune"]["outcome"]
    macs = [records(done.folder)[verb]["outcome"]["after"]["macs"]["value"] for verb in ("rewrite", "prune")]
    assert macs[1] < macs[0] and any("up was left alone" in warning for warning in found["warnings"])
