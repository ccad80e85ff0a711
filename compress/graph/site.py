"""One node of a graph that is to become other ops: what was given to it, and how to put others in its place."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import fx


class Site:
    """A call of an ATen op in a graph: its arguments by name, and the two edits that a rewrite is made of."""

    def __init__(self, node: fx.Node) -> None:
        self.node, self.graph = node, node.graph
        arguments = node.target._schema.arguments  # type: ignore[union-attr]
        names = [argument.name for argument in arguments]
        usual = {argument.name: argument.default_value for argument in arguments}
        self.given: dict[str, Any] = {**usual, **dict(zip(names, node.args, strict=False)), **node.kwargs}

    def before(self, target: Any, *args: Any) -> fx.Node:
        """A new node in front of this one, which notes the same place in the model, and what it gives."""
        with self.graph.inserting_before(self.node):
            made = self.graph.call_function(target, args)
        made.meta = {key: value for key, value in self.node.meta.items() if key in ("nn_module_stack", "stack_trace")}
        with getattr(self.node.meta["val"], "fake_mode", nullcontext()):
            made.meta["val"] = target(*fx.node.map_arg(args, lambda source: source.meta["val"]))
        return made

    def becomes(self, target: Any, *args: Any) -> None:
        """Turn the node itself into another call that gives the same; its name and its readers stay."""
        self.node.target, self.node.args, self.node.kwargs = target, args, {}

    def is_replaced_by(self, other: fx.Node) -> None:
        """Hand the node's readers to another one, and erase it."""
        self.node.replace_all_uses_with(other)
        self.graph.erase_node(self.node)
