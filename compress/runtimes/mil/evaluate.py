"""Computes an ML program operation by operation, or refuses it as a whole with everything it does not know."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.errors import CheckFailed, InputError, ToolError
from compress.runtimes.mil.program import Operation, Program, Reference
from compress.runtimes.mil.table import LISTS, OPS, is_known
from compress.runtimes.mil.values import KINDS, as_declared

EVALUATOR = "the Core ML reference evaluator"
_CONST = "const"


@dataclass(frozen=True, slots=True)
class Value:
    """One named value of a program's run: the op that made it ("" for a constant), what that read, and the tensor."""

    name: str
    op: str
    reads: tuple[str, ...]
    tensor: Tensor
    constant: bool


class Evaluator:
    """A program, ready to be computed; all that depends on constants alone is computed once, here.

    Raises:
        ToolError: the program holds operations, parameters or words that the evaluator does not know; all are listed.
        CheckFailed: the program contradicts itself.
    """

    def __init__(self, program: Program) -> None:
        unknown = list(unknown_parts(program))
        if unknown:
            raise ToolError(f"{EVALUATOR} does not know {'; '.join(unknown)}")
        _check_names(program)
        self.program = program
        self._held: dict[str, Any] = {}
        self._later: list[Operation] = []
        for operation in program.operations:
            if self._held.keys() >= set(operation.reads):
                self._held |= _results(operation, self._held)
            else:
                self._later.append(operation)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The program's outputs for one set of inputs, in its order."""
        values = self._computed(inputs)
        return [values[name] for name in self.program.outputs]

    def values(self, inputs: Sequence[Tensor]) -> list[Value]:
        """Every named tensor of one run: the inputs first, then constants, then in execution order.

        Integer codes come as they are; `code_of` says what they stand for.
        """
        values = self._computed(inputs)
        found = [Value(port.name, "input", (), values[port.name], False) for port in self.program.inputs]
        later = {id(operation) for operation in self._later}
        held = [operation for operation in self.program.operations if id(operation) not in later]
        for operation in (*held, *self._later):
            constant = id(operation) not in later
            op = "" if operation.type == _CONST else operation.type
            for port in operation.outputs:
                if isinstance(values[port.name], Tensor):
                    found.append(Value(port.name, op, operation.reads, values[port.name], constant))
        return found

    def argument(self, name: str, parameter: str) -> Any:
        """The constant bound to a parameter of the operation that makes `name`; None where there is none."""
        operation = next(entry for entry in self.program.operations if any(port.name == name for port in entry.outputs))
        bound = operation.arguments.get(parameter)
        if bound is None:
            return None
        return self._held.get(bound[0].name) if isinstance(bound[0], Reference) else bound[0]

    def _computed(self, inputs: Sequence[Tensor]) -> dict[str, Any]:
        ports = self.program.inputs
        if len(inputs) != len(ports):
            raise InputError(f"the Core ML program takes {len(ports)} inputs, not {len(inputs)}")
        values = dict(self._held)
        for port, value in zip(ports, inputs, strict=True):
            _check_shape(port.shape, tuple(value.shape), f"its input {port.name}")
            values[port.name] = as_declared(value, port.dtype)
        with torch.no_grad():
            for operation in self._later:
                values |= _results(operation, values)
        return values


def unknown_parts(program: Program) -> Iterator[str]:
    """Yields what of a program has no meaning here: "lstm at rnn_1", "clip at x: its parameter gamma"."""
    for operation in program.operations:
        place = f"{operation.type} at {operation.name or 'an unnamed place'}"
        if operation.type == _CONST:
            continue
        if operation.type not in OPS or operation.nested:
            yield place
            continue
        known = inspect.signature(OPS[operation.type]).parameters
        for name, bound in operation.arguments.items():
            if name not in known:
                yield f"{place}: its parameter {name}"
            yield from (f"{place}: {name} {word}" for word in _words(program, bound)
                        if not is_known(operation.type, name, word))  # fmt: skip
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in operation.arguments:
                yield f"{place}: it lacks its parameter {name}"
        for port in operation.outputs:
            if port.dtype not in KINDS:
                yield f"{place}: its type {port.dtype or 'is no tensor'}"


def _words(program: Program, bound: tuple[Any, ...]) -> list[str]:
    """The words among the arguments bound to a parameter, wherever they stand."""
    constants = {entry.name: entry for entry in program.operations if entry.type == _CONST}
    found = []
    for entry in bound:
        if isinstance(entry, Reference) and entry.name in constants:
            entry = constants[entry.name].arguments["val"][0]
        if isinstance(entry, str):
            found.append(entry)
    return found


def _results(operation: Operation, values: dict[str, Any]) -> dict[str, Any]:
    """The outputs of one operation by name, each of the type and shape that the program declares."""
    place = f"{operation.type} at {operation.name}"
    given = {
        name: [values[entry.name] if isinstance(entry, Reference) else entry for entry in bound]
        for name, bound in operation.arguments.items()
    }
    if operation.type == _CONST:
        return {operation.name: given["val"][0]}
    arguments = {name: bound if name in LISTS else bound[0] for name, bound in given.items()}
    try:
        found = OPS[operation.type](**arguments)
    except NotImplementedError as error:
        raise ToolError(f"{EVALUATOR} does not know {place}: {error}") from error
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckFailed(f"the Core ML program cannot be computed at {place}: {lines[0][:160]}") from error
    results = found if isinstance(found, list) else [found]
    if len(results) != len(operation.outputs):
        raise CheckFailed(f"the Core ML program names {len(operation.outputs)} outputs of {place}, not {len(results)}")
    named: dict[str, Any] = {}
    for port, value in zip(operation.outputs, results, strict=True):
        _check_shape(port.shape, tuple(value.shape), place)
        named[port.name] = as_declared(value, port.dtype)
    return named


def _check_names(program: Program) -> None:
    """Refuses a program that reads a value before it is made, or gives out one that is never made."""
    made = {port.name for port in program.inputs}
    for operation in program.operations:
        for name in operation.reads:
            if name not in made:
                raise CheckFailed(f"the Core ML program reads '{name}' at {operation.name}, where nothing made it yet")
        made.update(port.name for port in operation.outputs)
    for name in program.outputs:
        if name not in made:
            raise CheckFailed(f"the Core ML program gives out '{name}', which nothing makes")


def _check_shape(declared: tuple[int | None, ...], found: tuple[int, ...], place: str) -> None:
    fits = len(declared) == len(found) and all(a in (None, b) for a, b in zip(declared, found, strict=False))
    if not fits:
        raise CheckFailed(f"the Core ML program says shape {list(declared)} of {place}; computed, it is {list(found)}")
