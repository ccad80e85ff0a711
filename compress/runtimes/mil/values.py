"""Values of an ML program: its types, and the constants in the protobuf and in the weight blobs beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.errors import InputError

Constant = Tensor | str | list[Any]
_MODEL_FOLDER = "@model_path/"


@dataclass(frozen=True, slots=True)
class Kind:
    """How an ML program's element type is read (numpy) and held here (torch), and what reads it from a blob."""

    numpy: str
    torch: torch.dtype
    reader: str
    bits: int


# The protobuf's name of an element type -> its kind. Halves are held in float32 (every half is one); where torch has no
# such integer, the next larger one that holds all its values. Numbers below 8 bits come unpacked from a blob.
KINDS: dict[str, Kind] = {
    "BOOL": Kind("bool", torch.bool, "", 8),
    "FLOAT16": Kind("float16", torch.float32, "read_fp16_data", 16),
    "FLOAT32": Kind("float32", torch.float32, "read_float_data", 32),
    "FLOAT64": Kind("float64", torch.float64, "", 64),
    "INT4": Kind("int8", torch.int8, "read_int4_data", 4),
    "INT8": Kind("int8", torch.int8, "read_int8_data", 8),
    "INT16": Kind("int16", torch.int16, "read_int16_data", 16),
    "INT32": Kind("int32", torch.int32, "read_int32_data", 32),
    "INT64": Kind("int64", torch.int64, "", 64),
    "UINT1": Kind("uint8", torch.uint8, "read_uint1_data", 1),
    "UINT2": Kind("uint8", torch.uint8, "read_uint2_data", 2),
    "UINT3": Kind("uint8", torch.uint8, "read_uint3_data", 3),
    "UINT4": Kind("uint8", torch.uint8, "read_uint4_data", 4),
    "UINT6": Kind("uint8", torch.uint8, "read_uint6_data", 6),
    "UINT8": Kind("uint8", torch.uint8, "read_uint8_data", 8),
    "UINT16": Kind("uint16", torch.int32, "read_uint16_data", 16),
    "UINT32": Kind("uint32", torch.int64, "read_uint32_data", 32),
}

# The words by which ops name types ("cast", "quantize") -> the protobuf's name.
WORDS: dict[str, str] = {
    "bool": "BOOL", "fp16": "FLOAT16", "fp32": "FLOAT32", "fp64": "FLOAT64", "int4": "INT4", "uint4": "UINT4",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32)},
}  # fmt: skip


def as_declared(value: Tensor, dtype: str) -> Tensor:
    """The value as its declared type (a key of KINDS) holds it: halves are rounded, integers cut towards zero."""
    if dtype == "FLOAT16":
        return value.to(torch.float16).to(torch.float32)
    return value.to(KINDS[dtype].torch)


class Blobs:
    """Reads tensors from the weight files of one package."""

    def __init__(self, model_folder: Path) -> None:
        self._folder = model_folder
        self._readers: dict[str, Any] = {}

    def read(self, name: str, offset: int, dtype: str) -> np.ndarray:
        """The elements at `offset` of the file that the program calls `name`, flat.

        Raises:
            InputError: there is no such file, or no blob holds this type.
        """
        reader = KINDS[dtype].reader
        path = self._folder / name.removeprefix(_MODEL_FOLDER)
        if not reader or not path.is_file():
            raise InputError(f"the weights of a Core ML package cannot be read: {path} ({dtype}); export it again")
        if name not in self._readers:
            from coremltools.libmilstoragepython import _BlobStorageReader

            self._readers[name] = _BlobStorageReader(str(path))
        found = np.asarray(getattr(self._readers[name], reader)(offset))
        return found.view(np.float16) if dtype == "FLOAT16" else found


def type_of(spec: Any) -> tuple[str, tuple[int | None, ...]]:
    """(element type, shape) of a protobuf ValueType; None stands for a size that is open. ("", ()) if no tensor."""
    if spec.WhichOneof("type") != "tensorType":
        return "", ()
    from coremltools.proto import MIL_pb2

    tensor = spec.tensorType
    known = [dim.WhichOneof("dimension") == "constant" for dim in tensor.dimensions]
    sizes = [int(dim.constant.size) if fixed else None for dim, fixed in zip(tensor.dimensions, known, strict=True)]
    return str(MIL_pb2.DataType.Name(tensor.dataType)), tuple(sizes)


def decode(spec: Any, blobs: Blobs) -> Constant:
    """The constant that a protobuf Value holds: a tensor, a word, or a list of such.

    Raises:
        InputError: it is of a kind that no ML program of ours holds, or its data do not fill its shape.
    """
    if spec.WhichOneof("value") == "immediateValue" and spec.immediateValue.WhichOneof("value") == "list":
        return [decode(entry, blobs) for entry in spec.immediateValue.list.values]
    dtype, shape = type_of(spec.type)
    if dtype == "STRING":
        return "".join(spec.immediateValue.tensor.strings.values)
    if dtype not in KINDS or None in shape:
        raise InputError(f"a Core ML package holds a constant of an unknown type ({dtype or spec.type})")
    sizes = [int(n or 0) for n in shape]
    size = math.prod(sizes)
    flat = _stored(spec, dtype, size, blobs)
    if flat.size != size:
        raise InputError(f"a Core ML package holds {flat.size} numbers where its program says {list(shape)}")
    kind = KINDS[dtype]
    wide = flat.astype({"float16": "float32", "uint16": "int32", "uint32": "int64"}.get(kind.numpy, kind.numpy))
    return torch.from_numpy(np.array(wide).reshape(sizes))


def _stored(spec: Any, dtype: str, size: int, blobs: Blobs) -> np.ndarray:
    """The elements of a Value, flat, as they are stored."""
    if spec.WhichOneof("value") == "blobFileValue":
        return blobs.read(spec.blobFileValue.fileName, int(spec.blobFileValue.offset), dtype)
    tensor, kind = spec.immediateValue.tensor, KINDS[dtype]
    field = tensor.WhichOneof("value")
    values: Any = getattr(tensor, field).values if field else ()
    if field != "bytes":
        return np.array(values, kind.numpy)
    if kind.bits >= 8:
        return np.frombuffer(values, kind.numpy)
    return unpacked(np.frombuffer(values, np.uint8), kind.bits, size, signed=dtype.startswith("INT"))


def unpacked(packed: np.ndarray, bits: int, size: int, signed: bool = False) -> np.ndarray:
    """`size` numbers of `bits` bits each from packed bytes, lowest bits first; two's complement where signed."""
    rows = np.unpackbits(packed.view(np.uint8), bitorder="little")[: size * bits].reshape(size, bits)
    numbers = (rows.astype(np.int64) << np.arange(bits)).sum(1)
    if signed:
        numbers -= (numbers >> (bits - 1)) << bits
    return numbers.astype(np.int8 if signed else np.uint8)
