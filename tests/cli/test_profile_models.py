"""`compress profile MODEL ...`: any form of model, several at once, bad input in one line, and calibration."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from compress.cli import main
from compress.errors import DataError, InputError, UnknownName
from compress.estimate import estimate

Capture = pytest.CaptureFixture[str]
MODEL = """
import torch
from torch import nn

def small(): return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
def with_input(): return small(), torch.zeros(1, 3, 20, 20)
def tokens(): return nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 16))
def text(): return "no model"
def wide(width): return lambda: nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3))
w16, w32, w64 = wide(16), wide(32), wide(64)
def deep(): return nn.Sequential(nn.Conv2d(3, 16, 3, 2), *(nn.Conv2d(16, 16, 3, padding=1) for _ in range(8)))
def mobile(): return nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 64, 1))
"""


@pytest.fixture
def models(tmp_path: Path) -> str:
    path = tmp_path / "nets.py"
    path.write_text(MODEL)
    return str(path)


def json_of(capsys: Capture, *arguments: str, exit_code: int = 0) -> Any:
    capsys.readouterr()
    assert main(list(arguments)) == exit_code
    return json.loads(capsys.readouterr().out)


def test_one_model_gives_one_object(models: str, capsys: Capture) -> None:
    asked = ("--target", "pixel-4", "--unit", "cpu", "--scheme", "w8a8", "--input", "1x3x20x20", "--json")
    found = json_of(capsys, "profile", f"{models}:small", *asked)
    low, high = found["interval_ms"]
    assert low < found["latency_ms"] < high
    assert (found["origin"], found["scheme"], found["runtime"]) == ("predicted", "w8a8", "litert")
    assert found["macs"] == 18 * 18 * 8 * 27 + 16 * 16 * 8 * 72
    assert found["uncovered"] == []
    assert sum(op["latency_ms"] for op in found["by_op"]) == pytest.approx(found["latency_ms"])
    assert found["peak_activation_bytes"] == 8 * 18 * 18 + 8 * 18 * 18, "the ReLU between the two, at one byte a value"
    assert found["peak_memory_bytes"] == found["peak_activation_bytes"] + 8 * 27 + 8 * 72 + 16, "weights and biases"


def test_several_models_give_a_list_in_their_order(models: str, capsys: Capture) -> None:
    names = [f"{models}:{name}" for name in ("w16", "w64", "w32")]
    found = json_of(capsys, "profile", *names, "--target", "pixel-4", "--unit", "cpu", "--json")
    assert [each["model"] for each in found] == names
    assert found[0]["latency_ms"] < found[2]["latency_ms"] < found[1]["latency_ms"]


def test_a_factory_may_bring_its_input_and_an_assumed_one_is_said(models: str, capsys: Capture) -> None:
    brought = json_of(capsys, "profile", f"{models}:with_input", "--target", "galaxy-s25", "--json")
    assert brought["notes"] == [] and brought["macs"] == 18 * 18 * 8 * 27 + 16 * 16 * 8 * 72
    with pytest.warns(UserWarning, match="1x3x224x224 is assumed"):
        assumed = json_of(capsys, "profile", f"{models}:small", "--target", "galaxy-s25", "--json")
    assert "1x3x224x224" in assumed["notes"][0]


def test_integers_go_in_as_tokens(models: str) -> None:
    found = estimate(f"{models}:tokens", "galaxy-s25", inputs=["1x12:int64"])
    assert found.macs == 12 * 16 * 16


def test_a_table_for_people_names_the_slowest_ops(models: str, capsys: Capture) -> None:
    assert main(["profile", f"{models}:w64", "--target", "pixel-4", "--unit", "gpu", "--input", "1x3x64x64"]) == 0
    text = capsys.readouterr().out
    assert "90 % interval" in text and "BOUND BY" in text and "held-out" in text


@pytest.mark.parametrize(("arguments", "words"), [
    (["nets.onnx", "--target", "pixel-4", "--unit", "cpu"], "no such file"),
    (["nets.md", "--target", "pixel-4", "--unit", "cpu"], "expected an .onnx"),
    (["{}:small"], "--target"),
    (["{}:small", "--target", "pixel-5"], "unknown target"),
    (["{}:small", "--target", "pixel-4"], "--unit"),
    (["{}:small", "--target", "pixel-4", "--unit", "npu"], "unknown unit"),
    (["{}:small", "--target", "pixel-4", "--unit", "cpu", "--scheme", "w3"], "unknown scheme"),
    (["{}:small", "--target", "pixel-4", "--unit", "cpu", "--runtime", "tensorrt"], "unknown runtime"),
    (["{}:small", "--target", "pixel-4", "--unit", "cpu", "--input", "3 by 3"], "expected a shape"),
    (["{}:text", "--target", "pixel-4", "--unit", "cpu"], "not a torch.nn.Module"),
    (["{}:absent", "--target", "pixel-4", "--unit", "cpu"], "unknown attribute"),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], words: str, models: str, capsys: Capture) -> None:
    assert main(["profile", *(each.format(models) for each in arguments)]) == 2
    complaint = capsys.readouterr().err.strip()
    assert words in complaint and complaint.count("\n") == 0, complaint


def measured(path: Path, models: str, factor: float, names: tuple[str, ...]) -> Path:
    """Measurements of a made-up phone that takes `factor` times as long as the Pixel 4's CPU."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "latency_ms", "input"])
        for name in names:
            latency = estimate(f"{models}:{name}", "pixel-4", "cpu", inputs=["1x3x96x96"]).prediction.latency
            writer.writerow([f"{models}:{name}", (latency.value or 0.0) * factor, "1x3x96x96"])
    return path


def test_calibrating_finds_a_phone_that_is_twice_as_slow(models: str, tmp_path: Path, capsys: Capture) -> None:
    rows = measured(tmp_path / "mine.csv", models, 2.0, ("w16", "w32", "w64", "deep", "mobile"))
    out = tmp_path / "out"
    found = json_of(capsys, "profile", "calibrate", str(rows), "--target", "mine", "--like", "pixel-4",
                    "--out", str(out), "--json")  # fmt: skip
    assert found["mape_before"] == pytest.approx(0.5) and found["mape_after"] < 0.05
    ours = estimate(f"{models}:small", str(out / "mine.yaml"), "cpu", inputs=["1x3x96x96"]).prediction.latency
    theirs = estimate(f"{models}:small", "pixel-4", "cpu", inputs=["1x3x96x96"]).prediction.latency
    assert ours.value == pytest.approx(2 * (theirs.value or 0.0), rel=0.1)
    assert "each predicted from the others" in ours.source


def test_calibrating_takes_the_target_that_does_best(models: str, tmp_path: Path, capsys: Capture) -> None:
    rows = measured(tmp_path / "mine.csv", models, 1.0, ("w16", "w32", "w64", "deep", "mobile"))
    found = json_of(capsys, "profile", "calibrate", str(rows), "--target", "mine", "--out", str(tmp_path), "--json")
    assert found["base"] == min(found["tried"], key=found["tried"].get) and len(found["tried"]) > 3
    assert found["tried"]["pixel-4 litert"] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a b", ".."])
def test_a_target_is_called_what_a_file_may_be(name: str, models: str, tmp_path: Path, capsys: Capture) -> None:
    rows = measured(tmp_path / "mine.csv", models, 1.0, ("w16", "w32", "w64"))
    out = tmp_path / "deep" / "out"
    assert main(["profile", "calibrate", str(rows), "--target", name, "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"error: target '{name}'")
    assert not out.exists() and [path.name for path in tmp_path.glob("*.yaml")] == []


def test_a_shipped_target_starts_from_itself(models: str, tmp_path: Path, capsys: Capture) -> None:
    rows = measured(tmp_path / "mine.csv", models, 1.3, ("w16", "w32", "w64", "deep", "mobile"))
    asked = ("profile", "calibrate", str(rows), "--target", "pixel-4", "--out", str(tmp_path), "--json")
    found = json_of(capsys, *asked)
    assert found["base"] == "pixel-4 litert" and list(found["tried"]) == ["pixel-4 litert"]
    assert found["mape_after"] < 0.05 < found["mape_before"]
    assert main([*asked, "--runtime", "qnn_dlc"]) == 2 and "qnn_dlc to start from" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "error", "words"), [
    ("name,ms\nx,1\n", InputError, "columns model, latency_ms"),
    ("model,latency_ms,input\n{0}:w16,fast,1x3x96x96\n", InputError, ":2: latency_ms must be"),
    ("model,latency_ms,input\n{0}:w16,-1,1x3x96x96\n", InputError, ":2: latency_ms must be"),
    ("model,latency_ms,input\n{0}:w16,1,1x3x96x96\n{0}:w32,1,1x3x96x96\n", DataError, "at least 3"),
])  # fmt: skip
def test_bad_measurements_are_named(text: str, error: type[Exception], words: str, models: str, tmp_path: Path) -> None:
    from compress.adapt import adapt

    path = tmp_path / "mine.csv"
    path.write_text(text.format(models))
    with pytest.raises(error, match=words):
        adapt(path, "mine", "pixel-4", out=tmp_path)
    assert not (tmp_path / "mine.yaml").exists()


def test_an_unknown_scheme_is_told_apart_from_a_model() -> None:
    with pytest.raises(UnknownName, match="w8a8"):
        estimate("net.onnx", "pixel-4", "cpu", "w8a9")  # type: ignore[arg-type]
