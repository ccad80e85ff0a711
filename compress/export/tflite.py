"""Reading and editing a TFLite flatbuffer in memory: tensors, constants, short names, running it tensor by tensor.

Works on the object form of LiteRT's own schema (`ModelT`), so nothing here depends on how the bytes are laid out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert.tools import flatbuffer_utils

from compress.runtimes.litert import as_taken, input_types, numbered

_TYPES = {"FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32}
_OPERATORS = {
    value: name for name, value in vars(flatbuffer_utils.schema_fb.BuiltinOperator).items() if isinstance(value, int)
}


def read(content: bytes) -> Any:
    """The model as editable objects."""
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def to_bytes(model: Any) -> bytes:
    """The model as the bytes of a .tflite file."""
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def name_of(tensor: Any) -> str:
    """A tensor's name."""
    return tensor.name.decode() if isinstance(tensor.name, bytes) else str(tensor.name)


def op_of(model: Any, operator: Any) -> str:
    """The op an operator runs: "CONV_2D"."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files have only the narrow field
    return _OPERATORS.get(number, str(number))


def is_type(tensor: Any, *kinds: str) -> bool:
    """Whether a tensor holds one of `kinds` ("FLOAT32", "INT8", "INT4", "INT32", ...)."""
    return any(tensor.type == getattr(flatbuffer_utils.schema_fb.TensorType, kind) for kind in kinds)


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether a tensor's value stands in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def shape_of(tensor: Any) -> tuple[int, ...]:
    """A tensor's shape; () for a scalar."""
    return tuple(int(size) for size in tensor.shape) if tensor.shape is not None else ()


def constant_of(model: Any, tensor: Any, kind: str = "FLOAT32") -> np.ndarray | None:
    """A tensor's constant value, or None where it is computed at run time or holds another type."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0 or not is_type(tensor, kind):
        return None
    return np.frombuffer(bytes(data), _TYPES[kind]).reshape(shape_of(tensor))


def set_constant(model: Any, tensor: Any, value: np.ndarray) -> None:
    """Overwrites a tensor's constant; its shape and type must be those of `value`."""
    model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)


def set_codes(model: Any, tensor: Any, codes: np.ndarray) -> None:
    """Overwrites a constant of integers with int8 codes; 4-bit ones lie two to a byte, the first in the low half."""
    if not is_type(tensor, "INT4"):
        set_constant(model, tensor, codes)
        return
    flat = np.ascontiguousarray(codes).ravel()
    flat = np.append(flat, np.int8(0)) if flat.size % 2 else flat
    halves = (flat & 0x0F).astype(np.uint8)
    model.buffers[tensor.buffer].data = halves[0::2] | (halves[1::2] << 4)


def shorten_names(model: Any) -> None:
    """Renames every tensor but the model's inputs and outputs to its module path and index: "features.3.conv#17".

    The converter names a tensor after every class on the way to it, often twice: in a small model these names take
    more room than the weights. Unique names are also what the quantizer asks for.
    """
    for graph in model.subgraphs:
        fixed = {int(index) for index in (*graph.inputs, *graph.outputs)}
        for index, tensor in enumerate(graph.tensors):
            if index not in fixed:
                tensor.name = f"{_module_path(name_of(tensor))}#{index}".encode()


def _module_path(name: str) -> str:
    """The module path in a converter's name: "a.B/c.Conv2d_stem/d.Conv_0;1" is "stem.0"."""
    first = next((part for part in name.split(";") if part), "")
    steps = [step.rsplit(".", 1)[-1] for step in first.split("/")[1:]]
    return ".".join(step.split("_", 1)[1] for step in steps if "_" in step)


def run_tensors(content: bytes, inputs: list[np.ndarray]) -> dict[int, np.ndarray]:
    """Runs a model on its plain kernels and returns every float tensor's value by index, constants included.

    Scratch tensors that kernels add behind the model's own while they run are left out.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content, experimental_preserve_all_tensors=True, num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )  # fmt: skip
    interpreter.allocate_tensors()
    types = input_types(interpreter)
    for index, value in zip(numbered(interpreter, "inputs"), inputs, strict=True):
        interpreter.set_tensor(index, as_taken(value, types[index]))
    interpreter.invoke()
    count = len(read(content).subgraphs[0].tensors)
    values = {}
    for detail in interpreter.get_tensor_details():
        if detail["dtype"] is np.float32 and detail["index"] < count:
            try:
                values[detail["index"]] = np.array(interpreter.get_tensor(detail["index"]))
            except ValueError:  # a tensor that no op of this run touched
                continue
    return values
