"""Convolutions that read a concatenation: what they read, how they hang together, and how much memory that keeps alive.

Rewrites of dense connections (`aggregate`) start from here and change nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from compress.graph.cost import propagate_shapes
from compress.rewrite.edits import aten, modules_called, tied

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Reader:
    """A convolution at `path`, called by `node`, that reads the concatenation of `parts` with these `widths`."""

    path: str
    node: fx.Node
    parts: tuple[fx.Node, ...]
    widths: tuple[int, ...]


def is_concat(node: object) -> bool:
    """Whether a node concatenates along the channels."""
    if not isinstance(node, fx.Node) or node.target not in (aten.cat.default, aten.concat.default):
        return False
    axis: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return bool(axis == 1)


def parts_of(node: fx.Node) -> tuple[fx.Node, ...]:
    """What a concatenation is made of, concatenations inside it taken apart."""
    sources: Any = node.args[0]
    return tuple(part for source in sources for part in (parts_of(source) if is_concat(source) else (source,)))


def readers(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> tuple[list[Reader], dict[str, str]]:
    """The convolutions that read a concatenation, in order, and why others that do cannot be rewritten, by path."""
    values = propagate_shapes(graph_module, example_inputs)
    found, refused = [], {}
    for path, layer in modules_called(graph_module, CONVOLUTIONS).items():
        calls = [n for n in graph_module.graph.nodes if n.op == "call_module" and n.target == path]
        if not any(is_concat(node.args[0]) and len(parts_of(node.args[0])) > 1 for node in calls):
            continue
        if len(calls) > 1 or tied(graph_module, path):
            refused[path] = tied(graph_module, path) or "it is called in several places"
        elif layer.groups > 1:
            refused[path] = f"it has {layer.groups} groups"
        else:
            parts = parts_of(calls[0].args[0])
            found.append(Reader(path, calls[0], parts, tuple(int(values[part].shape[1]) for part in parts)))
    return found, refused


def families(found: Sequence[Reader]) -> list[list[Reader]]:
    """The readers in groups: those that share a part hang together, as in a dense block."""
    groups: list[list[Reader]] = []
    for reader in found:
        shared = [g for g in groups if any({*reader.parts} & {*other.parts} for other in g)]
        groups = [g for g in groups if not any(g is s for s in shared)]
        groups.append([*(other for g in shared for other in g), reader])
    return groups


def live_bytes(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> dict[str, int]:
    """The float32 bytes alive while each node computes, by its name; a buffer lives until its last reader, or a view's.

    The largest of them is `cost_of`'s peak. A value is a view where it shares its source's storage.
    """
    values = propagate_shapes(graph_module, example_inputs)
    root: dict[fx.Node, fx.Node] = {}
    last: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        sources = node.all_input_nodes
        is_view = (
            node.op == "call_function" and bool(sources) and _storage(values[node]) == _storage(values[sources[0]])
        )
        root[node] = root[sources[0]] if is_view else node
        last |= {root[source]: node for source in sources}
    alive: dict[fx.Node, int] = {}
    found = {}
    for node in graph_module.graph.nodes:
        value = values[node]
        if isinstance(value, Tensor) and root[node] is node and node.op not in ("get_attr", "output"):
            alive[node] = value.numel() * 4
        found[node.name] = sum(alive.values())
        for source in node.all_input_nodes:
            if last[root[source]] is node:
                alive.pop(root[source], None)
    return found


def _storage(value: Any) -> int | None:
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    return first.untyped_storage()._cdata if isinstance(first, Tensor) else None
