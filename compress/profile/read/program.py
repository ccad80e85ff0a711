"""The ops of an exported program: every ATen call with its shapes, as the other readers give them."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_flatten, tree_map

from compress.errors import ModelError
from compress.graph.cost import where
from compress.graph.trace import untraceable
from compress.profile.lowering import lowered
from compress.profile.read.calls import Calls, Watch, op_of, tensors_in
from compress.profile.read.sizes import free_sizes
from compress.types import OpRecord


def read_model(model: nn.Module, example_inputs: Sequence[Tensor]) -> tuple[OpRecord, ...]:
    """The ops of a torch model at the shapes of its inputs, as a mobile runtime runs them.

    Raises:
        ModelError: `torch.export` cannot trace the model; names the line of the user's code.
    """
    model.eval()
    try:
        with torch.no_grad():
            program = torch.export.export(model, tuple(example_inputs), strict=False)
    except Exception as error:
        raise untraceable(error) from error
    return read_program(program)


def read_running(model: nn.Module, example_inputs: Sequence[Tensor]) -> tuple[OpRecord, ...]:
    """The ops that a torch model runs on these inputs: for one that decides by values, so that it cannot be traced.

    Raises:
        ModelError: the model fails on them.
    """
    model.eval()
    calls = Calls()
    calls.hold(*model.parameters(), *model.buffers())

    def see(func: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls.add(func, args, kwargs, output, f"{op_of(func)}_{len(calls.records)}", "")

    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # one op that hides all others
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), Watch(see):
                model(*example_inputs)
    except Exception as error:
        raise ModelError(
            f"the model fails on its example inputs: {next(iter(str(error).splitlines()), error)}"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return lowered(calls.records)


def read_program(
    program: ExportedProgram, shapes: Sequence[Sequence[int]] = (), notes: list[str] | None = None
) -> tuple[OpRecord, ...]:
    """The ops of an exported program, as a mobile runtime runs them; quantize and dequantize ops count nothing.

    Args:
        program: what `torch.export` gave.
        shapes: of its inputs, where it leaves sizes free; by default a free batch size is 1.
        notes: what had to be assumed is added here.

    Raises:
        InputError: it leaves another size free than the batch, and no shapes are given.
        ModelError: it computes nothing.
    """
    reader = _Reader(_free_sizes(program, shapes, notes if notes is not None else []))
    constants = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT and hasattr(spec.arg, "name")
    }
    reader.read(program.graph_module, constants)
    if not reader.calls.records:
        raise ModelError("the program computes nothing from its inputs")
    return lowered(reader.calls.records)


def _free_sizes(program: ExportedProgram, shapes: Sequence[Sequence[int]], notes: list[str]) -> dict[Any, int]:
    """What each free size of the inputs is, by its symbol."""
    given = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = {
        spec.arg.name: [_size_or_symbol(size) for size in given[spec.arg.name].shape]
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(given.get(getattr(spec.arg, "name", "")), Tensor)
    }  # fmt: skip
    return free_sizes(inputs, shapes, notes)


def _size_or_symbol(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


class _Reader:
    """Walks a graph with the shapes of its values, free sizes put in."""

    def __init__(self, sizes: Mapping[Any, int]) -> None:
        self.calls, self.sizes = Calls(), sizes
        self.done: dict[Hashable, Any] = {}

    def read(self, module: fx.GraphModule, constants: set[str], fed: Sequence[Any] | None = None) -> Any:
        """Adds the ops of a graph and returns what it gives; `fed` has its inputs where another graph runs it."""
        values: dict[fx.Node, Any] = {}
        given = iter(fed or ())
        for node in module.graph.nodes:
            if node.op == "output":
                return tree_map(lambda arg: values.get(arg, arg) if isinstance(arg, fx.Node) else arg, node.args[0])
            if node.op == "get_attr" and isinstance(getattr(module, str(node.target), None), fx.GraphModule):
                values[node] = getattr(module, str(node.target))
            elif node.op == "placeholder" and fed is not None:
                values[node] = next(given)
            else:
                values[node] = self._value(node, values)
                if node.op == "get_attr" or node.name in constants:
                    self.calls.hold(*tensors_in(values[node]))
        return None

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """What a node gives; a call is added to the ops."""
        if node.op != "call_function":
            return self._sized(node.meta.get("val"))
        args, kwargs = (
            tree_map(lambda arg: values[arg] if isinstance(arg, fx.Node) else arg, part)
            for part in (node.args, node.kwargs)
        )
        if node.target is operator.getitem:
            return args[0][args[1]]
        inner = [arg for arg in args if isinstance(arg, fx.GraphModule)]
        if len(inner) == 1:  # a part that runs under other settings (no_grad, autocast)
            return self.read(inner[0], set(), [arg for arg in args[args.index(inner[0]) + 1 :]])
        once = _identity(node, args, kwargs)
        if once is not None and once in self.done:  # converters compute the same thing once
            return self.done[once]
        output = self._sized(node.meta.get("val"))
        if once is not None:
            self.done[once] = output
        self.calls.add(node.target, args, kwargs, output, node.name, where(node))
        return output

    def _sized(self, value: Any) -> Any:
        """A node's fake value with every size a number: tensors on the meta device."""
        return tree_map(self._one_sized, value)

    def _one_sized(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.empty([self._number(size) for size in value.shape], dtype=value.dtype, device="meta")
        return self._number(value) if isinstance(value, torch.SymInt) else value

    def _number(self, size: Any) -> int:
        """A size as a number; 1 where it follows from values, not from shapes."""
        if not isinstance(size, torch.SymInt):
            return int(size)
        number = size.node.expr.xreplace(dict(self.sizes))
        return int(number) if getattr(number, "is_number", True) else 1


def _identity(node: fx.Node, args: Any, kwargs: Any) -> Hashable | None:
    """What tells a call from any other of another result; None where it may write, or draws numbers."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.is_mutable or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return None
    leaves, structure = tree_flatten((args, kwargs))
    parts = tuple((id(leaf) if isinstance(leaf, Tensor) else repr(leaf), type(leaf)) for leaf in leaves)
    return (node.target, structure, parts)
