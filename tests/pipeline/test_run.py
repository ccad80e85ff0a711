"""The whole way on a tiny model: what is reported, what is done twice (nothing), what a change repeats (itself)."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from compress import files
from compress.checkpoint import load_weights, rebuild
from compress.errors import CheckFailed, Infeasible, RecipeError, RunFolderError
from compress.graph.trace import export_static, trace
from compress.pipeline import RunResult, compress_objects, dry_run
from compress.steps.export import assert_same_weights
from tests.models import TinyResNet
from tests.pipeline import tiny
from tests.pipeline.conftest import HERE, RECIPE, go, recipe


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(folder.glob("steps/*/record.json"))}


def _copy(finished: RunResult, to: Path) -> Path:
    shutil.copytree(finished.folder, to)
    return to


def test_the_report_has_what_was_promised(finished: RunResult) -> None:
    report = json.loads((finished.folder / "report.json").read_text())
    for model in ("teacher", "student"):
        for figure in ("quality", "params", "macs", "size_bytes"):
            assert report[model][figure]["value"] > 0
            assert report[model][figure]["origin"] in ("measured", "counted", "predicted")
    assert {a["scheme"] for a in report["artifacts"]} == {"float32", "w8a8"}
    for artifact in report["artifacts"]:
        path = finished.folder / artifact["path"]
        assert files.sha256_of(path) == artifact["sha256"]
        assert path.stat().st_size == artifact["size_bytes"]
        assert artifact["passed"] and "onnxruntime" in artifact["ran_on"]
        assert artifact["latency"]["origin"] == "measured"
        assert artifact["predicted_latency"]["origin"] == "predicted"
        assert artifact["predicted_latency"]["interval"]
    assert {row["limit"]: row["met"] for row in report["budget"]} == {"macs_ratio": True, "min_quality": True}
    assert [s["verb"] for s in report["steps"]] == ["teacher", *[next(iter(s)) for s in RECIPE["steps"]]]
    assert finished.exit_code == 0


def test_the_artifact_computes_what_the_checkpoint_does(finished: RunResult) -> None:
    record = _records(finished.folder)["04-quantize"]
    inputs = tiny.task().example_inputs()
    weights = load_weights(finished.folder / "steps/04-quantize/weights.safetensors")
    student = rebuild(trace(tiny.teacher(), inputs), record["plans"], weights, inputs)
    session = onnxruntime.InferenceSession(finished.folder / "artifacts/tiny-w8a8.onnx")
    x = tiny.images(1, 7)[0].numpy()
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    with torch.no_grad():
        want = student.final(torch.from_numpy(x)).numpy()
    assert np.abs(got - want).max() <= 0.1 * np.abs(want).max()


def test_a_second_run_does_nothing_over(finished: RunResult) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*") if p.is_file() and p.suffix != ".lock"}
    again = go(finished.folder)
    changed = [p.name for p, time in before.items() if p.stat().st_mtime_ns != time]
    assert set(changed) <= {"recipe.json", ".lock"}
    assert again.report == finished.report


def test_a_changed_step_repeats_itself_and_what_follows_only(finished: RunResult, tmp_path: Path) -> None:
    folder = _copy(finished, tmp_path / "run")
    before = _records(folder)
    steps = copy.deepcopy(RECIPE["steps"])
    steps[3]["quantize"]["ranges"] = "minmax"
    go(folder, recipe(steps=steps))
    after = _records(folder)
    assert [n for n in before if before[n]["key"] != after[n]["key"]] == [
        "04-quantize", "05-export", "06-verify", "07-profile",
    ]  # fmt: skip
    assert before["03-distill"] == after["03-distill"]


def test_a_changed_limit_that_only_the_report_judges_trains_nothing(finished: RunResult, tmp_path: Path) -> None:
    folder = _copy(finished, tmp_path / "run")
    before = _records(folder)
    result = go(folder, recipe(budget={"macs_ratio": 0.6, "min_quality": 0.99999}))
    after = _records(folder)
    assert before["00-teacher"] == after["00-teacher"]
    quality = result.report.student.quality.value
    assert result.exit_code == (0 if quality >= 0.99999 else 3)


def test_teacher_and_student_are_compared_on_the_same_samples(finished: RunResult, tmp_path: Path) -> None:
    steps = copy.deepcopy(RECIPE["steps"])
    steps[5] = {"verify": {"samples": 8, "quality_samples": 8}}
    few = go(_copy(finished, tmp_path / "run"), recipe(steps=steps)).report
    assert few.student.quality == finished.report.student.quality
    assert few.student.quality.n == few.teacher.quality.n > few.artifacts[0].quality.n


def test_damaged_weights_are_found_said_and_made_again(
    finished: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _copy(finished, tmp_path / "run")
    weights = folder / "steps/03-distill/weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[: len(good) // 2])
    from compress.pipeline import run

    run(recipe(), folder, recipe_folder=HERE, quiet=False)
    said = " ".join(capsys.readouterr().err.split())
    assert "weights.safetensors is damaged or missing" in said and "distill is run again" in said
    assert weights.read_bytes() == good, "the same seed gives the same weights"


def test_a_step_made_again_does_not_stand_in_for_the_sound_ones_behind_it(finished: RunResult, tmp_path: Path) -> None:
    folder = _copy(finished, tmp_path / "run")
    weights = {name: folder / f"steps/{name}/weights.safetensors" for name in ("00-teacher", "03-distill")}
    good = {name: path.read_bytes() for name, path in weights.items()}
    for path in weights.values():
        path.unlink()
    go(folder)  # teacher and distill are made again; the prune between them is sound and stays
    assert {name: path.read_bytes() for name, path in weights.items()} == good


def test_two_runs_of_one_recipe_give_identical_weights(finished: RunResult, tmp_path: Path) -> None:
    go(tmp_path / "run", until="quantize")
    for name in ("00-teacher", "02-prune", "03-distill", "04-quantize"):
        path = f"steps/{name}/weights.safetensors"
        assert (tmp_path / "run" / path).read_bytes() == (finished.folder / path).read_bytes(), name


def test_a_folder_of_another_recipe_and_a_folder_in_use_are_refused(finished: RunResult, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="another recipe"):
        go(finished.folder, recipe(name="other"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match=r"thesis\.txt"):
        go(tmp_path / "mine")
    import fcntl

    with open(finished.folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunFolderError, match="another process"):
            go(finished.folder)


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run"):
        go(tmp_path / "nothing", resume=True)


def test_an_impossible_budget_names_the_limit_and_keeps_the_closest_plan(finished: RunResult, tmp_path: Path) -> None:
    folder = _copy(finished, tmp_path / "run")
    with pytest.raises(Infeasible, match="macs") as caught:
        go(folder, recipe(budget={"macs": 10}, steps=[{"prune": {"batches": 1}}]))
    assert caught.value.exit_code == 3
    closest = json.loads((folder / "infeasible.json").read_text())
    assert closest["closest"]["after"]["macs"] < closest["closest"]["before"]["macs"]
    assert closest["limit"].startswith("macs")


def test_dry_run_predicts_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = dry_run(recipe(), HERE)
    prune = next(step for step in plan["steps"] if step["verb"] == "prune")
    assert prune["predicted"]["after"]["macs"] <= 0.6 * plan["teacher"]["macs"]
    assert plan["teacher"]["latency"]["origin"] == "predicted"
    assert list(tmp_path.iterdir()) == []


def test_a_completing_search_judges_every_candidate_inside_the_budget(tmp_path: Path) -> None:
    search = {"space": "depth", "trials": 4, "complete": True, "recovery_steps": 2, "quick_samples": 64}
    steps = [{"search": search}, {"prune": {"batches": 1}}]
    made = recipe(teacher={"entry": "tests/pipeline/tiny.py:teacher"}, budget={"macs_ratio": 0.6}, steps=steps)
    result = go(tmp_path / "run", made)
    limit = 0.6 * result.report.teacher.macs.value
    trials = json.loads((tmp_path / "run/steps/01-search/plan.json").read_text())["trials"]
    assert len(trials) == 4 and all(trial["macs"] <= limit for trial in trials)
    assert len({json.dumps(trial["choice"]) for trial in trials[:3]}) >= 2, "the first candidates must differ"
    assert result.report.student.macs.value <= limit
    alone = recipe(teacher=made.teacher.model_dump(), budget={"macs_ratio": 0.6}, steps=[{"search": search}])
    with pytest.raises(RecipeError, match=r"search\.complete: there is no later prune step"):
        go(tmp_path / "alone", alone)


def test_steps_may_repeat_and_the_unlabelled_student_agrees(tmp_path: Path) -> None:
    steps = [
        {"prune": {"ratio": 0.25, "batches": 1}},
        {"distill": {"epochs": 1}},
        {"prune": {"ratio": 0.25, "batches": 1, "importance": "magnitude"}},
        {"distill": {"epochs": 1, "method": "hint"}},
    ]
    made = recipe(
        teacher={"entry": "tests/pipeline/tiny.py:teacher"},
        task={"entry": "tests/pipeline/tiny.py:unlabelled_task"},
        budget={},
        steps=steps,
    )
    report = go(tmp_path / "run", made).report
    assert report.quality_name == "top-1 agreement with the teacher"
    assert report.teacher.quality.value == 1.0
    assert report.steps[3].after["macs"].value < report.steps[1].after["macs"].value


def test_the_python_door_gives_the_same_pipeline(tmp_path: Path) -> None:
    from compress import compress

    torch.manual_seed(0)
    steps = [{"distill": {"epochs": 1}}, {"export": {"formats": ["onnx"]}}, {"verify": {"samples": 4}}]
    model = TinyResNet()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = compress(model, tiny.task(), steps=steps, out=tmp_path / "run", quiet=True)
    assert result.report.artifacts[0].passed
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the user's model is left alone"
    again = compress_objects(model, tiny.task(), target="host", steps=steps, out=tmp_path / "run", quiet=True)
    assert again.report == result.report


def test_weights_that_are_not_the_students_are_kept_out_of_the_export() -> None:
    x = torch.randn(1, 1, 8, 8)
    model = trace(TinyResNet(), (x,))
    program = export_static(model, (x,))
    assert_same_weights(program, model)
    with_projector = torch.nn.Sequential(trace(TinyResNet(), (x,)), torch.nn.Linear(4, 4))
    with pytest.raises(CheckFailed, match="not the student's"):
        assert_same_weights(export_static(with_projector, (x,)), model)
