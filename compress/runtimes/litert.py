"""Runs TFLite files in LiteRT's interpreter with the XNNPACK delegate."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

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

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one set of inputs, float32."""
        for index, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, np.ascontiguousarray(value, np.float32))
        self._interpreter.invoke()
        return [np.array(self._interpreter.get_tensor(index)) for index in self._outputs]

    def close(self) -> None:
        """Frees the interpreter."""
        self._interpreter = None


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
