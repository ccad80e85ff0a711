"""Runs Core ML packages on macOS; elsewhere `compress.runtimes.available` says why not."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

from compress.runtimes.session import Session


class CoremlSession:
    """A Core ML package on this Mac's CPU."""

    name = "Core ML"

    def __init__(self, path: Path, threads: int) -> None:
        import coremltools as ct

        self.version = importlib.metadata.version("coremltools")
        self.threads = threads  # Core ML chooses for itself; kept for the record
        self._model: Any = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)
        description = self._model.get_spec().description
        self._inputs = [entry.name for entry in description.input]
        self._outputs = [entry.name for entry in description.output]

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one set of inputs, float32."""
        feeds = {
            name: np.ascontiguousarray(value, np.float32) for name, value in zip(self._inputs, inputs, strict=True)
        }
        found = self._model.predict(feeds)
        return [np.asarray(found[name], np.float32) for name in self._outputs]

    def close(self) -> None:
        """Frees the model."""
        self._model = None


def open_session(path: Path, threads: int) -> Session:
    """The package, loaded."""
    return CoremlSession(path, threads)
