"""The weights of a program in their stored forms: reading them, and putting plain float weights in their place.

A stored weight is a constant with the standard ops behind it that make it float again: integers (per channel, tensor or
group), float16, or indices into a palette. Some exporters take these ops as they are; for the others the program is
folded: the constant becomes the float32 weight, and the exporter writes the stored form into the file itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from compress.export.program import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNEL,
    DEQUANTIZE_GROUP,
    calls,
    constant_keys,
    constants_by_node,
    op_name,
    without_unused,
)

Kind = Literal["integer", "float16", "palette"]
_CAST = ("aten._to_copy", "aten.to")
_NOTHING = torch.zeros(0)


@dataclass(frozen=True, slots=True)
class Weight:
    """One stored weight.

    `name` is the node that reads it, `key` its name in the state dict. `codes` holds integers (int8), float16 numbers
    or palette indices (uint8), in the weight's shape. Integers have one symmetric scale per slice along `axis`, one for
    all where it is None, or, with a `group`, one for each run of that many codes: `scales` (rows, groups per row). A
    palette has `tables` (tables, entries), which share the first axis evenly.
    """

    name: str
    codes: Tensor
    scales: Tensor = _NOTHING
    axis: int | None = None
    bits: int = 8
    group: int = 0
    kind: Kind = "integer"
    tables: Tensor = _NOTHING
    key: str = ""

    @property
    def form(self) -> str:
        """The stored form in a word or two: "int8", "int4", "int4 in groups", "float16", "palette4"."""
        if self.kind == "integer":
            return f"int{self.bits} in groups" if self.group else f"int{self.bits}"
        return f"palette{self.bits}" if self.kind == "palette" else "float16"

    @property
    def values(self) -> Tensor:
        """The weight in float32, as the program's own ops compute it."""
        if self.kind == "float16":
            return self.codes.float()
        if self.kind == "palette":
            return self.tables.gather(1, self.codes.long().reshape(len(self.tables), -1)).reshape(self.codes.shape)
        if self.group:
            rows = self.codes.reshape(-1, self.group).float() * self.scales.float().reshape(-1, 1)
            return rows.reshape(self.codes.shape)
        shape = [1] * self.codes.dim()
        if self.axis is not None:
            shape[self.axis] = -1
        return self.codes.to(torch.float32) * self.scales.to(torch.float32).reshape(shape)


@dataclass(frozen=True, slots=True)
class Chain:
    """A stored weight with its place in the graph: the constant it starts from and the node that is float again."""

    weight: Weight
    start: Node
    end: Node


def chains(program: ExportedProgram) -> Iterator[Chain]:
    """Yields the stored weights in execution order of their last op; one for each place that reads them."""
    held, keys = constants_by_node(program), constant_keys(program)
    for node in calls(program):
        found = _read(node, held)
        if found is not None:
            weight, start = found
            reader = next(iter(node.users), node)
            yield Chain(_named(weight, reader.name, keys[start.name]), start, node)


def stored_weights(program: ExportedProgram) -> list[Weight]:
    """The stored weights, as `chains` yields them."""
    return [chain.weight for chain in chains(program)]


def fold_weights(
    program: ExportedProgram, wanted: Callable[[Weight], bool] = lambda weight: True
) -> tuple[ExportedProgram, list[Weight]]:
    """(a copy of the program in which the wanted stored weights are plain float32 constants, those weights)."""
    folded = without_unused(program)
    taken = [chain for chain in chains(folded) if wanted(chain.weight)]
    for chain in taken:
        chain.end.replace_all_uses_with(chain.start)
        chain.start.meta["val"] = chain.end.meta["val"]
        home = folded.state_dict if chain.weight.key in folded.state_dict else folded.constants
        home[chain.weight.key] = chain.weight.values
    for chain in taken:
        _erase(folded, chain.end)
    folded.graph_module.recompile()
    return without_unused(folded), [chain.weight for chain in taken]


def _erase(program: ExportedProgram, node: Node) -> None:
    """Erases a chain that nothing reads any more, from its end towards the constants."""
    sources = node.all_input_nodes
    program.graph_module.graph.erase_node(node)
    for source in sources:
        if source.op == "call_function" and not source.users:
            _erase(program, source)


def _named(weight: Weight, name: str, key: str) -> Weight:
    return Weight(
        name, weight.codes, weight.scales, weight.axis, weight.bits, weight.group, weight.kind, weight.tables, key
    )


def _read(node: Node, held: dict[str, Tensor]) -> tuple[Weight, Node] | None:
    """(the weight, the constant it starts from) where `node` is the last op of a stored weight, else None."""
    name, source = op_name(node), node.args[0] if node.args else None
    if not isinstance(source, Node):
        return None
    if source.name in held and name in (DEQUANTIZE, DEQUANTIZE_CHANNEL, DEQUANTIZE_GROUP):
        return _integers(node, name, held), source
    if source.name in held and name in _CAST and held[source.name].dtype is torch.float16:
        return Weight("", held[source.name], kind="float16", bits=16), source
    if name == "aten.view" and op_name(source) == "aten.gather":
        return _palette(node, source, held)
    return None


def _integers(node: Node, name: str, held: dict[str, Tensor]) -> Weight:
    codes, arguments = held[_node(node.args[0]).name], node.args
    if name == DEQUANTIZE:
        scales, axis, top = torch.tensor([_number(arguments[1])]), None, arguments[4]
    elif name == DEQUANTIZE_CHANNEL:
        scales, axis, top = held[_node(arguments[1]).name], int(_number(arguments[3])), arguments[5]
    else:
        scales, axis, top = held[_node(arguments[1]).name], 1, arguments[4]
    group = int(_number(arguments[6])) if name == DEQUANTIZE_GROUP else 0
    return Weight("", codes, scales, axis, int(_number(top)).bit_length() + 1, group)


def _palette(node: Node, gather: Node, held: dict[str, Tensor]) -> tuple[Weight, Node] | None:
    tables, index = gather.args[0], gather.args[2]
    if not (isinstance(tables, Node) and isinstance(index, Node) and tables.name in held and op_name(index) in _CAST):
        return None
    start = index.args[0]
    if not isinstance(start, Node) or start.name not in held:
        return None
    shape, rows = tuple(node.meta["val"].shape), held[tables.name]
    bits = (rows.shape[1] - 1).bit_length()
    return Weight("", held[start.name].reshape(shape), bits=bits, kind="palette", tables=rows), start


def _node(argument: Any) -> Node:
    assert isinstance(argument, Node)
    return argument


def _number(argument: Any) -> float:
    assert isinstance(argument, (int, float))
    return argument
