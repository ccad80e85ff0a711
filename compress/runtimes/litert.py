"""Runs TFLite files in LiteRT's interpreter with the XNNPACK delegate."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from compress.runtimes.inputs import InputKind, as_given
from compress.runtimes.intermediate import NOT_FLOAT, Intermediate, decoded
from compress.runtimes.session import Session


class LitertSession:
    """A TFLite file in LiteRT; XNNPACK takes every op it has a kernel for."""

    name = "LiteRT"

    def __init__(self, path: Path, threads: int) -> None:
        self.version = importlib.metadata.version("ai-edge-litert")
        self.threads = threads
        self._interpreter: Any = Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = numbered(self._interpreter, "inputs")
        self._outputs = numbered(self._interpreter, "outputs")
        self._types = input_types(self._interpreter)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one set of inputs, float32."""
        for index, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, as_taken(value, self._types[index]))
        self._interpreter.invoke()
        return [np.array(self._interpreter.get_tensor(index)) for index in self._outputs]

    def close(self) -> None:
        """Frees the interpreter."""
        self._interpreter = None


def input_types(interpreter: Any) -> dict[int, Any]:
    """The numpy type of each input tensor, by its index."""
    return {int(detail["index"]): detail["dtype"] for detail in interpreter.get_input_details()}


def as_taken(value: np.ndarray, wanted: Any) -> np.ndarray:
    """The array as a file takes it: the converter narrows integers, as those of 64 bits have few kernels."""
    given = as_given(value)
    if given.dtype.kind in "iu" and np.dtype(wanted).kind in "iu":
        return given.astype(wanted, copy=False)
    return given


def numbered(interpreter: Any, side: str) -> list[int]:
    """The tensor indices of a LiteRT interpreter's "inputs" or "outputs" in the order of the torch model's.

    The flatbuffer's own order is the converter's; the numbers in the signature's names (args_0, output_1) are ours.
    """
    signatures = interpreter._get_full_signature_list()
    if not signatures:
        details = interpreter.get_input_details() if side == "inputs" else interpreter.get_output_details()
        return [int(detail["index"]) for detail in details]
    names: dict[str, int] = next(iter(signatures.values()))[side]
    ranked = sorted(names.items(), key=lambda entry: (int("0" + "".join(filter(str.isdigit, entry[0]))), entry[0]))
    return [int(index) for _, index in ranked]


def open_session(path: Path, threads: int) -> Session:
    """The file, loaded."""
    return LitertSession(path, threads)


def input_kinds(path: Path) -> list[InputKind]:
    """The file's inputs in the order of `LitertSession.run`; a size that is left open stands as 1."""
    interpreter: Any = Interpreter(model_path=str(path), num_threads=1)
    details = {int(detail["index"]): detail for detail in interpreter.get_input_details()}
    kinds = []
    for index in numbered(interpreter, "inputs"):
        detail = details[index]
        shape = tuple(int(size) for size in detail["shape"])
        kinds.append(InputKind(shape, np.dtype(detail["dtype"]).name, -1 in detail["shape_signature"]))
    return kinds


def intermediates(path: Path, inputs: list[np.ndarray]) -> list[Intermediate]:
    """The tensors inside a TFLite file for one set of inputs, inputs and constants first, then in execution order.

    Tensors become outputs of the first subgraph, so XNNPACK runs as ever and hands each of them back.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
    graph = model.subgraphs[0]
    made = {int(index): operator for operator in graph.operators for index in operator.outputs if index >= 0}
    graph.outputs = np.array(list(dict.fromkeys([*(int(i) for i in graph.outputs), *made])), np.int32)
    content = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    interpreter: Any = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    fed = dict(zip(numbered(interpreter, "inputs"), inputs, strict=True))
    types = input_types(interpreter)
    for index, value in fed.items():
        interpreter.set_tensor(index, as_taken(value, types[index]))
    interpreter.invoke()
    names = [f"{bytes(tensor.name or b'').decode()}:{index}" for index, tensor in enumerate(graph.tensors)]
    details = {int(detail["index"]): detail for detail in interpreter.get_tensor_details()}
    constants = [i for i, tensor in enumerate(graph.tensors) if i not in made and _has_data(model, tensor)]
    found = [Intermediate(names[index], "input", (), value) for index, value in fed.items()]
    for index in (*constants, *made):
        held = _as_float(interpreter, details.get(index))
        operator = made.get(index)
        op = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) if operator is not None else ""
        reads = tuple(names[int(i)] for i in operator.inputs if i >= 0) if operator is not None else ()
        found.append(Intermediate(names[index], str(op), reads, held, operator is None))
    return found


def _has_data(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _as_float(interpreter: Any, detail: Any) -> np.ndarray:
    """A tensor as float32: as it is, or what its codes stand for; empty for plain integers."""
    if detail is None:
        return NOT_FLOAT
    value = np.array(interpreter.get_tensor(detail["index"]))
    if value.dtype in (np.float32, np.float16):
        return value.astype(np.float32)
    given = detail["quantization_parameters"]
    if not len(given["scales"]) or not np.issubdtype(value.dtype, np.integer):
        return NOT_FLOAT
    return decoded(value, given["scales"], given["zero_points"], int(given["quantized_dimension"]))
