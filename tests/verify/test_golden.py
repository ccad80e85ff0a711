"""Golden data: written with an artifact, enough to check it by, and refused in one line where they do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from compress.cli import main
from compress.errors import CheckFailed, InputError
from compress.export import available as can_export
from compress.export import export
from compress.types import Artifact
from compress.verify import GOLDEN_SAMPLES, check_golden, threshold_of, write_golden
from compress.verify.golden import golden_paths
from tests.export.programs import float_program, int8_program, reference, samples


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    """An ONNX int8 artifact with its golden data."""
    folder = tmp_path_factory.mktemp("golden")
    artifact = export(int8_program(), "onnx", "w8a8", folder, "net")
    write_golden(artifact, folder, reference(int8_program()), samples(6), threshold_of("w8a8"))
    return folder, artifact


@pytest.fixture
def copied(made: tuple[Path, Artifact], tmp_path: Path) -> Path:
    """The artifact with its golden data, to damage."""
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    return folder / made[1].path


def test_what_is_written(made: tuple[Path, Artifact]) -> None:
    folder, artifact = made
    description, tensors = golden_paths(folder / artifact.path)
    assert sorted(path.name for path in folder.iterdir()) == ["net.onnx", description.name, tensors.name]
    assert (description.name, tensors.name) == ("net.onnx.artifact.json", "net.onnx.golden.safetensors")
    record = json.loads(description.read_text())
    assert Artifact.from_dict(record["artifact"]) == artifact
    assert record["tolerance"] == {"max_relative_error": None, "min_sqnr_db": 20.0}
    assert record["golden"]["samples"] == GOLDEN_SAMPLES and "onnxruntime" in record["ran_on"]
    assert {"torch", "onnx", "compress"} <= set(record["versions"])
    arrays = load_file(tensors)
    assert set(arrays) == {"input.x", "reference.output", "output.output"}
    assert arrays["input.x"].shape == (GOLDEN_SAMPLES, 1, 3, 16, 16) and arrays["reference.output"].shape[2] == 5
    wanted = reference(int8_program())(*samples(6)[1])[0]
    assert np.array_equal(arrays["reference.output"][1], wanted)


def test_a_round_trip_passes_and_gives_what_was_recorded(made: tuple[Path, Artifact]) -> None:
    found = check_golden(made[0] / made[1].path)
    assert found.passed and found.samples == GOLDEN_SAMPLES
    assert found.recorded is not None and found.recorded.sqnr_db == 300.0  # the same runtime on the same machine
    assert found.reference.sqnr_db > 20.0
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_runtime_that_computes_something_else_fails(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.runtimes.onnxruntime import OnnxSession

    run = OnnxSession.run
    monkeypatch.setattr(OnnxSession, "run", lambda self, *x: [1.2 * value for value in run(self, *x)])
    found = check_golden(copied)
    assert not found.passed and "limit 20.0 dB" in found.reason and "FAILED" in str(found)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)


def _other_artifact(path: Path) -> None:
    export(float_program(), "onnx", "float32", path.parent, path.stem)


def _edit(path: Path, change: Any) -> None:
    description, _ = golden_paths(path)
    record = json.loads(description.read_text())
    change(record)
    description.write_text(json.dumps(record))


DAMAGE = {
    "a bit of the tensors": (lambda p: flip(golden_paths(p)[1], -9), "SHA-256"),
    "the tensors cut": (lambda p: golden_paths(p)[1].write_bytes(golden_paths(p)[1].read_bytes()[:99]), "SHA-256"),
    "no tensors": (lambda p: golden_paths(p)[1].unlink(), "there is no"),
    "no description": (lambda p: golden_paths(p)[0].unlink(), "there is no"),
    "half a description": (lambda p: golden_paths(p)[0].write_text('{"form": 1, "art'), "damaged"),
    "an empty description": (lambda p: golden_paths(p)[0].write_text("[]"), "damaged"),
    "no tolerance": (lambda p: _edit(p, lambda r: r.pop("tolerance")), "damaged"),
    "a newer form": (lambda p: _edit(p, lambda r: r.update(form=2)), "form 2"),
    "another artifact": (_other_artifact, "not the file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_fit_is_refused_in_one_line(damage: str, copied: Path) -> None:
    spoil, words = DAMAGE[damage]
    spoil(copied)
    with pytest.raises(InputError, match=words) as refused:
        check_golden(copied)
    assert "\n" not in str(refused.value) and str(copied.parent) in str(refused.value)


def test_the_command_line(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--golden", str(copied)]) == 0
    assert "net.onnx: passed" in capsys.readouterr().out
    assert main(["verify", "--golden", str(copied), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    flip(golden_paths(copied)[1], -1)
    assert main(["verify", "--golden", str(copied)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_golden_data_need_a_sample(made: tuple[Path, Artifact], tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="at least one"):
        write_golden(made[1], tmp_path, reference(int8_program()), [], threshold_of("w8a8"))
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_cannot_run_here_still_carries_the_models_answers(tmp_path: Path) -> None:
    from compress.runtimes import available

    if available("coreml") is None or can_export("coreml"):
        pytest.skip("Core ML runs here, or cannot be written here")
    artifact = export(float_program(), "coreml", "float32", tmp_path, "net")
    description = write_golden(artifact, tmp_path, reference(float_program()), samples(2), threshold_of("float32"))
    record = json.loads(description.read_text())
    assert record["ran_on"].startswith("not run here") and record["golden"]["samples"] == 2
    arrays = load_file(golden_paths(tmp_path / artifact.path)[1])
    assert not [name for name in arrays if name.startswith("output.")] and len(arrays) == 2
