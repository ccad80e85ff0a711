"""Runs ONNX files in onnxruntime's CPU provider."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from compress.runtimes.inputs import InputKind, as_given
from compress.runtimes.intermediate import NOT_FLOAT, Intermediate
from compress.runtimes.session import Session

# ONNX element types by their names in numpy, where these differ.
_NUMPY_NAMES = {"float": "float32", "double": "float64"}


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
        self._wanted = {entry.name: _numpy_name(entry.type) for entry in self._session.get_inputs()}

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one set of inputs, float32."""
        assert self._session is not None, "the session is closed"
        wanted = zip(self._wanted.items(), inputs, strict=True)
        feeds = {name: as_given(value, dtype) for (name, dtype), value in wanted}
        return [np.asarray(value) for value in self._session.run(None, feeds)]

    def close(self) -> None:
        """Frees the session."""
        self._session = None


def _numpy_name(element: str) -> str:
    """How numpy names what onnxruntime calls "tensor(float)"; its own name where numpy has no such type."""
    name = element.removeprefix("tensor(").removesuffix(")")
    return _NUMPY_NAMES.get(name, name)


def open_session(path: Path, threads: int) -> Session:
    """The file, loaded."""
    return OnnxSession(path, threads)


def input_kinds(path: Path) -> list[InputKind]:
    """The file's inputs, in order; a size that is left open stands as 1, as in onnxruntime's own performance test."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kinds = []
    for entry in session.get_inputs():
        fixed = [isinstance(size, int) and size > 0 for size in entry.shape]
        shape = tuple(size if known else 1 for size, known in zip(entry.shape, fixed, strict=True))
        kinds.append(InputKind(shape, _numpy_name(entry.type), not all(fixed)))
    return kinds


def intermediates(path: Path, inputs: list[np.ndarray]) -> list[Intermediate]:
    """The tensors inside an ONNX file for one set of inputs, inputs and constants first, then in execution order."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    held = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    own = [entry.name for entry in model.graph.output]
    made = [name for node in model.graph.node for name in node.output if name and name not in own]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {
        entry.name: np.ascontiguousarray(x, np.float32) for entry, x in zip(session.get_inputs(), inputs, strict=True)
    }
    values = dict(zip((*own, *made), session.run(None, feeds), strict=True))
    found = [Intermediate(name, "input", (), value) for name, value in feeds.items()]
    found += [Intermediate(name, "", (), value, True) for name, value in held.items() if value.dtype == np.float32]
    constants = set(held)
    for node in model.graph.node:
        reads = tuple(name for name in node.input if name)
        constant = bool(reads) and constants.issuperset(reads)
        constants.update(node.output if constant else ())
        for name in node.output:
            value = values.get(name, NOT_FLOAT)
            value = value if value.dtype in (np.float32, np.float16) else NOT_FLOAT  # codes: see DequantizeLinear
            found.append(Intermediate(name, node.op_type, reads, value.astype(np.float32), constant))
    return found
