"""Errors are one line on stderr and an exit code; `--json` keeps stdout for JSON. A stand-in runs the recipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from compress import errors
from compress.cli import main
from compress.recipe import Recipe, load_recipe

RECIPE = """\
name: small
teacher: {entry: "task.py:teacher"}
task: {entry: "task.py:task"}
steps: [prune, distill, quantize, export, verify]
"""
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@dataclass
class Result:
    """What the pipeline's `run` gives back."""

    folder: Path
    report: Any
    exit_code: int


class FakePipeline(ModuleType):
    """A pipeline that remembers what it was asked and answers as told."""

    def __init__(self, folder: Path) -> None:
        super().__init__("compress.pipeline")
        self.folder = folder
        self.asked: dict[str, Any] = {}
        self.answer: Any = 0
        self.says = ""

    def run(self, recipe: Recipe, out: Path, **more: Any) -> Result:
        self.asked = {"recipe": recipe, "out": out, **more}
        if isinstance(self.answer, BaseException):
            raise self.answer
        print("printed by user code")
        os.write(1, b"printed by a native library\n")
        self.folder.mkdir(exist_ok=True)
        (self.folder / "report.json").write_text(json.dumps({"exit_code": self.answer}) + "\n")
        return Result(self.folder, None if more["until"] else {"name": recipe.name}, self.answer)

    def dry_run(self, recipe: Recipe, recipe_folder: Path) -> dict[str, Any]:
        self.asked = {"recipe": recipe, "recipe_folder": recipe_folder}
        if isinstance(self.answer, BaseException):
            raise self.answer
        return {"name": recipe.name, "steps": [{"verb": step.verb} for step in recipe.steps]}

    def load_run(self, folder: Path) -> tuple[Recipe, Path]:
        return load_recipe(self.folder.parent / "recipe.yaml"), self.folder.parent


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePipeline:
    fake = FakePipeline(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "compress.pipeline", fake)
    monkeypatch.setattr("compress.pipeline", fake, raising=False)
    monkeypatch.setattr("compress.report.print_report", lambda report, *_: print(f"report of {report['name']}"))
    return fake


# What is handed to the pipeline


def test_run_hands_the_recipe_over(recipe: Path, pipeline: FakePipeline, capsys: Capture) -> None:
    assert main(["run", str(recipe), "--out", "there", "--seed", "5", "--set", "distill.epochs=2"]) == 0
    asked = pipeline.asked
    assert asked["out"] == Path("there") and asked["recipe_folder"] == recipe.parent
    assert asked["recipe"].seed == 5 and asked["recipe"].steps[1].settings.epochs == 2
    assert asked["until"] is None and asked["resume"] is False
    assert asked["command"] == f"compress run {recipe} --out there --seed 5 --set distill.epochs=2"
    assert "report of small" in capsys.readouterr().out


def test_the_run_folder_is_named_after_the_recipe(recipe: Path, pipeline: FakePipeline) -> None:
    assert main(["run", str(recipe), "--resume"]) == 0
    assert pipeline.asked["out"] == Path("runs/small") and pipeline.asked["resume"] is True


@pytest.mark.parametrize("verb", ["prune", "distill", "quantize", "export", "verify"])
def test_a_step_alone_stops_after_it(recipe: Path, pipeline: FakePipeline, verb: str, capsys: Capture) -> None:
    assert main([verb, str(recipe)]) == 0
    assert pipeline.asked["until"] == verb
    assert "done: " in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["search", "profile"])
def test_a_step_the_recipe_lacks_is_refused(recipe: Path, pipeline: FakePipeline, verb: str, capsys: Capture) -> None:
    assert main([verb, str(recipe)]) == 2
    assert pipeline.asked == {}
    assert f"error: {recipe}: steps: the recipe has no {verb} step; add '- {verb}: {{}}'" in capsys.readouterr().err


def test_an_earlier_run_folder_goes_on_where_it_lies(recipe: Path, pipeline: FakePipeline) -> None:
    pipeline.folder.mkdir()
    assert main(["report", str(pipeline.folder), "--set", "budget.latency_ms=3"]) == 0
    assert pipeline.asked["out"] == pipeline.folder and pipeline.asked["recipe_folder"] == recipe.parent
    assert pipeline.asked["recipe"].budget.latency_ms == 3 and pipeline.asked["until"] is None


def test_dry_run_prints_the_plan_and_runs_nothing(recipe: Path, pipeline: FakePipeline, capsys: Capture) -> None:
    assert main(["run", str(recipe), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][0] == {"verb": "prune"}
    assert not pipeline.folder.exists()
    assert main(["run", str(recipe), "--dry-run"]) == 0
    assert "- verb: prune" in capsys.readouterr().out


# What comes back


@pytest.mark.parametrize("exit_code", [0, 1, 3])
def test_the_runs_exit_code_is_the_commands(recipe: Path, pipeline: FakePipeline, exit_code: int) -> None:
    pipeline.answer = exit_code
    assert main(["run", str(recipe)]) == exit_code


def test_json_leaves_stdout_to_the_report(
    recipe: Path, pipeline: FakePipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe), "--json"]) == 0
    captured = capfd.readouterr()
    assert captured.out == (pipeline.folder / "report.json").read_text()
    assert "printed by user code" in captured.err and "printed by a native library" in captured.err
    assert main(["prune", str(recipe), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"folder": str(pipeline.folder), "exit_code": 0}


ERRORS = [
    (errors.CheckFailed("the sliced model differs"), 1),
    (errors.TrainingDiverged("loss is NaN at step 3"), 1),
    (errors.RecipeError("recipe.yaml:3: task"), 2),
    (errors.UnknownName("target", "pixie", ["pixel"]), 2),
    (errors.WeightsError("keys do not fit"), 2),
    (errors.DataError("the test split holds\nno samples"), 2),
    (errors.RunFolderError("the folder is read-only"), 2),
    (errors.Infeasible("no plan meets the budget", {"macs": 3}, "latency_ms"), 3),
    (errors.ToolMissing("litert_torch", "litert"), 4),
    (errors.UnsupportedOp("aten.fft", "head", "litert"), 4),
]


@pytest.mark.parametrize(("error", "exit_code"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
def test_an_error_is_one_line_and_its_exit_code(
    recipe: Path, pipeline: FakePipeline, capsys: Capture, error: errors.CompressError, exit_code: int
) -> None:
    pipeline.answer = error
    assert main(["run", str(recipe)]) == exit_code == error.exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {' '.join(str(error).split())}\n"


def test_v_brings_the_traceback(recipe: Path, pipeline: FakePipeline, capsys: Capture) -> None:
    pipeline.answer = errors.CheckFailed("the sliced model differs")
    assert main(["run", str(recipe), "-v"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown and shown.endswith("error: the sliced model differs\n")


def test_an_error_under_json_is_json_too(recipe: Path, pipeline: FakePipeline, capsys: Capture) -> None:
    pipeline.answer = errors.Infeasible("no plan meets the budget", {"macs": 3, "size": float("inf")}, "latency_ms")
    assert main(["run", str(recipe), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "error": "no plan meets the budget",
        "kind": "Infeasible",
        "exit_code": 3,
        "limit": "latency_ms",
        "closest": {"macs": 3, "size": None},
    }


def test_a_bug_says_so(recipe: Path, pipeline: FakePipeline, capsys: Capture) -> None:
    pipeline.answer = ZeroDivisionError("division by zero")
    assert main(["run", str(recipe)]) == 70
    expected = "internal error: ZeroDivisionError: division by zero (run with -v for the traceback)\n"
    assert capsys.readouterr().err == expected


def test_an_interrupt_says_how_to_go_on(recipe: Path, pipeline: FakePipeline, capsys: Capture) -> None:
    pipeline.answer = KeyboardInterrupt()
    assert main(["run", str(recipe)]) == 130
    assert "--resume continues" in capsys.readouterr().err


# Arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "RECIPE"),
        (["runn", "x"], "runn"),
        (["run", "x", "--sede", "1"], "--sede"),
        (["run", "x", "--seed", "-1"], "--seed"),
        (["run", "x", "--seed", "one"], "--seed"),
    ],
    ids=["no recipe", "unknown command", "unknown flag", "negative seed", "seed in words"],
)
def test_wrong_arguments_are_exit_code_2(capsys: Capture, arguments: list[str], said: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err and "Traceback" not in captured.err


def test_a_missing_recipe_is_named(tmp_path: Path, capsys: Capture) -> None:
    assert main(["run", str(tmp_path / "none.yaml")]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path / 'none.yaml'}: cannot read the recipe (No such file or directory)\n"
    )


def test_a_wrong_override_is_refused_before_anything_runs(
    recipe: Path, pipeline: FakePipeline, capsys: Capture
) -> None:
    assert main(["run", str(recipe), "--set", "distill.epoch=2"]) == 2
    assert "did you mean epochs" in capsys.readouterr().err
    assert pipeline.asked == {}


# As processes


def process(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, env=environment, **more)


def test_python_m_compress_works(tmp_path: Path) -> None:
    done = process("compress", "run", "none.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: none.yaml: cannot read the recipe (No such file or directory)\n"
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m compress methods --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.splitlines() == ["[", "0"]
    assert done.stderr == ""
