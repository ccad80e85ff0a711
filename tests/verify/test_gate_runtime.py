"""A file that its runtime cannot run is a failed check with the runtime's words, not a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.files import sha256_of
from compress.types import Artifact
from compress.verify import gate


class _Broken:
    """A session whose runtime gives up."""

    name, version, threads = "SomeRuntime", "1.0", 1

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        raise RuntimeError("kernel call failed\nand much more")

    def close(self) -> None:
        pass


def test_a_runtime_that_gives_up_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"anything")
    monkeypatch.setattr(gate, "load_to_check", lambda path, format: _Broken())
    artifact = Artifact("onnx", "model.onnx", "float32", 8, sha256_of(file))
    sample = (np.zeros((1, 3), np.float32),)
    found = gate.verify_artifact(artifact, tmp_path, lambda *x: [x[0]], [sample])
    assert not found.passed
    assert found.reason == "SomeRuntime cannot run it: kernel call failed"
