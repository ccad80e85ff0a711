"""Each runtime loads what the exporters write, says what it is, and refuses the rest in one line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.errors import InputError, ToolError, ToolMissing, UnknownName
from compress.export import available as can_export
from compress.export import export
from compress.runtimes import RUNTIMES, TOOLS, Session, available, load
from compress.runtimes.quiet import quietly
from compress.verify import predictor
from tests.export.programs import float_program, reference, samples

RUNNABLE = ("onnx", "litert", "executorch")


def artifact(format: str, folder: Path) -> Path:
    reason = can_export(format) or available(format)
    if reason:
        pytest.skip(reason)
    return folder / export(float_program(), format, "float32", folder, "net").path


@pytest.mark.parametrize("format", RUNNABLE)
def test_a_session_runs_and_says_what_it_is(format: str, tmp_path: Path) -> None:
    session = load(artifact(format, tmp_path), format)
    assert isinstance(session, Session)
    assert session.name and session.version[0].isdigit() and session.threads == 1
    (x,) = samples(1)[0]
    outputs = session.run(x)
    assert [(value.shape, value.dtype) for value in outputs] == [((1, 5), np.float32)]
    kept = outputs[0].copy()
    session.run(x * 3.0 + 1.0)
    assert np.array_equal(outputs[0], kept)  # an output is the caller's own, not a view into the runtime
    strided = np.asfortranarray(x.astype(np.float64))
    assert np.array_equal(session.run(strided)[0], kept)
    batch = np.concatenate([sample[0] for sample in samples(3)])
    wanted = np.concatenate([reference(float_program())(batch[i : i + 1])[0] for i in range(3)])
    assert np.allclose(predictor(session)(batch), wanted, atol=1e-5)
    session.close()


@pytest.mark.parametrize("format", RUNNABLE)
def test_a_file_that_is_not_of_the_format_is_an_input_error(format: str, tmp_path: Path) -> None:
    reason = available(format)
    if reason:
        pytest.skip(reason)
    path = tmp_path / "broken"
    path.write_bytes(b"this is no model")
    with pytest.raises(InputError, match="broken") as caught:
        load(path, format)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no artifact"):
        load(tmp_path / "absent", format)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs on a Mac")
def test_coreml_says_where_it_runs(tmp_path: Path) -> None:
    assert available("coreml") == "Core ML runs on macOS only"
    with pytest.raises(ToolError):
        load(tmp_path, "coreml")


@pytest.mark.parametrize("format", RUNNABLE)
def test_a_missing_runtime_says_what_to_install(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    reason = available(format)
    assert reason is not None and f"[{TOOLS[format][1]}]" in reason
    with pytest.raises(ToolMissing):
        load(tmp_path, format)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="litert"):
        available("lite-rt")
    assert set(RUNTIMES) == set(TOOLS)


def test_quietly_silences_python_and_c_and_lets_errors_out(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    with pytest.raises(ValueError, match="heard"), quietly():
        print("python")
        os.write(1, b"c code\n")
        os.write(2, b"c errors\n")
        raise ValueError("heard")
    print("afterwards")
    said = capfd.readouterr()
    assert said.out == "afterwards\n" and said.err == ""
