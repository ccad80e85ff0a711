"""Runs ExecuTorch programs (.pte) in the ExecuTorch runtime with its XNNPACK and portable kernels."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.runtimes.inputs import InputKind, as_given
from compress.runtimes.intermediate import NOT_FLOAT, Intermediate, decoded
from compress.runtimes.session import Session


class ExecutorchSession:
    """A .pte file in ExecuTorch's Python runtime."""

    name = "ExecuTorch"

    def __init__(self, path: Path, threads: int) -> None:
        from executorch.extension.pybindings import portable_lib  # noqa: F401 - registers the kernels
        from executorch.runtime import Runtime

        self.version = importlib.metadata.version("executorch")
        self.threads = threads
        _set_threads(threads)
        self._program: Any = Runtime.get().load_program(path.read_bytes())
        self._method: Any = self._program.load_method("forward")

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one set of inputs, float32."""
        _set_threads(self.threads)
        tensors = [torch.from_numpy(np.array(as_given(value))) for value in inputs]
        return [np.array(value.numpy()) for value in self._method.execute(tensors)]

    def close(self) -> None:
        """Frees the method and the program."""
        self._method = self._program = None


def _set_threads(threads: int) -> None:
    """Gives the runtime's one thread pool, which all its programs share, this many threads."""
    from executorch.extension.pybindings import _C

    if _C._threadpool_get_thread_count() != threads:
        _C._unsafe_reset_threadpool(threads)


def open_session(path: Path, threads: int) -> Session:
    """The file, loaded."""
    return ExecutorchSession(path, threads)


# torch's numbers of element types (c10/core/ScalarType.h), which a .pte file holds.
_NUMPY_NAMES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64",
                11: "bool"}  # fmt: skip


def input_kinds(path: Path) -> list[InputKind]:
    """The inputs of the program's forward method, in order; sizes are the largest that the program takes."""
    from executorch.extension.pybindings import portable_lib  # noqa: F401 - registers the kernels
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path.read_bytes())
    described: Any = program.load_method("forward").metadata  # type: ignore[union-attr]
    tensors = [described.input_tensor_meta(index) for index in range(described.num_inputs())]
    names = [_NUMPY_NAMES.get(tensor.dtype(), f"torch's type {tensor.dtype()}") for tensor in tensors]
    return [InputKind(tuple(map(int, tensor.sizes())), name) for tensor, name in zip(tensors, names, strict=True)]


def intermediates(path: Path, inputs: list[np.ndarray]) -> list[Intermediate]:
    """The tensors inside a .pte file for one set of inputs, in execution order; its constants are not among them."""
    from compress.runtimes.pte import exposed

    copy = exposed(path.read_bytes())
    from executorch.extension.pybindings import portable_lib  # noqa: F401 - registers the kernels
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(copy.content)
    method: Any = program.load_method("forward")
    _set_threads(1)
    tensors = [torch.from_numpy(np.array(value, np.float32, order="C")) for value in inputs]
    pairs = zip(copy.outputs, method.execute(tensors), strict=True)
    named = [(entry, value) for entry, value in pairs if entry is not None]
    found = [Intermediate(name, "input", (), value) for name, value in zip(copy.inputs, inputs, strict=True)]
    for entry, value in sorted(named, key=lambda pair: pair[0].position):
        array = np.array(value.numpy())
        if entry.scale is not None:
            array = decoded(array, np.array([entry.scale]), np.array([entry.zero_point]), 0)
        array = array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else NOT_FLOAT
        found.append(Intermediate(entry.name, entry.op, entry.reads, array))
    return found
