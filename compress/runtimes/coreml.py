"""Runs Core ML packages: on macOS in Core ML itself, anywhere in a reference evaluator of the saved program.

The evaluator (`compress.runtimes.mil`) is for checking numbers where there is no Mac. It is not Core ML, its session
says so by name, and it is never timed.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import CheckFailed
from compress.runtimes.intermediate import Intermediate, decoded
from compress.runtimes.session import Session
from compress.version import __version__

if TYPE_CHECKING:
    from compress.runtimes.mil import Evaluator, Value

_QUANTIZE = "quantize"


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


class ReferenceSession:
    """A Core ML package's saved program, computed by the reference evaluator: for numbers, never for times."""

    name = "Core ML program, reference evaluator (not Core ML itself)"

    def __init__(self, path: Path, threads: int = 1) -> None:
        from compress.runtimes.mil import Evaluator, read_program

        self.version = __version__  # the evaluator is part of this toolchain
        self.threads = threads
        self._evaluator: Evaluator | None = Evaluator(read_program(path))

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one set of inputs, float32.

        Raises:
            ToolError: an operation is used in a way that its documentation leaves open; CheckFailed: the program
            contradicts itself.
        """
        outputs = self._ready().run(_tensors(inputs))
        return [np.array(value.numpy(), np.float32) for value in outputs]

    def intermediates(self, *inputs: np.ndarray) -> list[Intermediate]:
        """Every float tensor of one run and what the integer codes stand for: inputs, constants, execution order."""
        evaluator = self._ready()
        shown = (_shown(evaluator, value) for value in evaluator.values(_tensors(inputs)))
        return [value for value in shown if value is not None]

    def close(self) -> None:
        """Frees the program and its weights."""
        self._evaluator = None

    def _ready(self) -> Evaluator:
        if self._evaluator is None:
            raise CheckFailed("the Core ML reference session is closed; open it again")
        return self._evaluator


def _tensors(inputs: tuple[np.ndarray, ...]) -> list[Any]:
    import torch

    return [torch.from_numpy(np.array(value, np.float32, order="C")) for value in inputs]


def _shown(evaluator: Evaluator, value: Value) -> Intermediate | None:
    """A value as float32: as it is, or what the codes of a quantize operation stand for; None for other integers."""
    array = np.array(value.tensor.numpy())
    if value.op == _QUANTIZE:
        scales, zero_points, axis = (evaluator.argument(value.name, name) for name in ("scale", "zero_point", "axis"))
        zeros = np.zeros(1) if zero_points is None else zero_points.numpy()
        array = decoded(array, scales.numpy(), zeros, int(axis) if axis is not None else 0)
    if array.dtype != np.float32:
        return None
    return Intermediate(value.name, value.op, value.reads, array, value.constant)


def open_session(path: Path, threads: int) -> Session:
    """The package, loaded in Core ML."""
    return CoremlSession(path, threads)


def open_reference(path: Path, threads: int = 1) -> ReferenceSession:
    """The package's program, read back from disk for the reference evaluator.

    Raises:
        ToolError: it holds operations or parameters that the evaluator does not know; all of them are listed.
        InputError, CheckFailed: the package is broken, or its program contradicts itself.
    """
    return ReferenceSession(path, threads)


def intermediates(path: Path, inputs: list[np.ndarray]) -> list[Intermediate]:
    """The tensors inside a package for one set of inputs, by the reference evaluator: Core ML shows none of its own."""
    session = open_reference(path)
    try:
        return session.intermediates(*inputs)
    finally:
        session.close()
