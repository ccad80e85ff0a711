"""Runs ONNX files in onnxruntime's CPU provider."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from compress.runtimes.session import Session


class OnnxSession:
    """An ONNX file in onnxruntime, all graph optimizations on."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.version: str = onnxruntime.__version__
        self.threads = threads
        self._session: onnxruntime.InferenceSession | None = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._names = [entry.name for entry in self._session.get_inputs()]

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one set of inputs, float32."""
        assert self._session is not None, "the session is closed"
        feeds = {name: np.ascontiguousarray(value, np.float32) for name, value in zip(self._names, inputs, strict=True)}
        return [np.asarray(value) for value in self._session.run(None, feeds)]

    def close(self) -> None:
        """Frees the session."""
        self._session = None


def open_session(path: Path, threads: int) -> Session:
    """The file, loaded."""
    return OnnxSession(path, threads)
