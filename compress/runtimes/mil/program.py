"""Reads the ML program out of a saved `.mlpackage`: the file's own operations, nothing rewritten on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import InputError
from compress.runtimes.mil.values import Blobs, Constant, decode, type_of

_FUNCTION = "main"


@dataclass(frozen=True, slots=True)
class Reference:
    """An argument that is the output of an earlier operation, or an input of the program."""

    name: str


@dataclass(frozen=True, slots=True)
class Port:
    """A named value of the program: its element type (a key of `values.KINDS`) and shape, None where a size is open."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: `arguments` maps a parameter's name to the references and constants bound to it."""

    type: str
    arguments: dict[str, tuple[Reference | Constant, ...]]
    outputs: tuple[Port, ...]
    nested: bool = False

    @property
    def name(self) -> str:
        """Where it stands in the program: the name of its first output."""
        return self.outputs[0].name if self.outputs else ""

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the values it reads."""
        bound = (entry for entries in self.arguments.values() for entry in entries)
        return tuple(entry.name for entry in bound if isinstance(entry, Reference))


@dataclass(frozen=True, slots=True)
class Program:
    """The operations of a package in order, what goes in, and the names of what comes out."""

    inputs: tuple[Port, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    opset: str


def model_path(package: Path) -> Path:
    """The protobuf file inside a `.mlpackage`, by its manifest.

    Raises:
        InputError: the folder holds no manifest, or the manifest names no model.
    """
    try:
        manifest = json.loads((package / "Manifest.json").read_text())
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
        return package / "Data" / str(entry["path"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{package} is no Core ML package: its Manifest.json cannot be used ({error!r})") from error


def read_model(package: Path) -> Any:
    """The protobuf of a `.mlpackage` folder: its interface and its program, without weights.

    Raises:
        InputError: a file of it is missing or broken.
    """
    from coremltools.proto import Model_pb2

    path = model_path(package)
    model = Model_pb2.Model()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # the file is missing or is no protobuf
        raise InputError(f"{path} cannot be read as a Core ML model ({error}); export it again") from error
    return model


def read_program(package: Path) -> Program:
    """The program of a `.mlpackage` folder.

    Raises:
        InputError: a file of it is missing or broken, or it holds no ML program.
    """
    path, model = model_path(package), read_model(package)
    functions = model.mlProgram.functions
    name = model.description.defaultFunctionName or _FUNCTION
    if name not in functions or functions[name].opset not in functions[name].block_specializations:
        raise InputError(f"{path} holds no ML program with a function '{name}'")
    function = functions[name]
    block, blobs = function.block_specializations[function.opset], Blobs(path.parent)
    return Program(
        inputs=tuple(_port(entry) for entry in function.inputs),
        operations=tuple(_operation(entry, blobs) for entry in block.operations),
        outputs=tuple(block.outputs),
        opset=str(function.opset),
    )


def _port(spec: Any) -> Port:
    return Port(str(spec.name), *type_of(spec.type))


def _operation(spec: Any, blobs: Blobs) -> Operation:
    """The operation; some keep their parameters as attributes, some as inputs: here both are arguments."""
    arguments: dict[str, tuple[Reference | Constant, ...]] = {
        name: (decode(value, blobs),) for name, value in spec.attributes.items() if name != "name"
    }
    for name, argument in sorted(spec.inputs.items()):  # the order of a protobuf map is not fixed
        arguments[name] = tuple(_bound(entry, blobs) for entry in argument.arguments)
    return Operation(str(spec.type), arguments, tuple(_port(entry) for entry in spec.outputs), bool(spec.blocks))


def _bound(binding: Any, blobs: Blobs) -> Reference | Constant:
    return Reference(str(binding.name)) if binding.WhichOneof("binding") == "name" else decode(binding.value, blobs)
