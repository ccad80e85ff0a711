"""Where a traced model is quantized: which values, which of them share a range, and what stays float and why.

A *value* is the output of a node, named by it. A *group* is a set of values that must have one range (a max pooling and
its input, all the inputs of a concatenation). Values come out in graph order, so the result is deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from compress.graph.fold import tensor_readers
from compress.quantize.rules import Kind, Rule, absorbs, rule_for

_DEMANDING = (Kind.LAYER, Kind.OWN, Kind.FIXED, Kind.JOIN)


@dataclass(frozen=True, slots=True)
class Value:
    """One quantized value: its group (named by the group's first value) and how it takes part in it.

    `source` values widen the group's range; the others lie inside it. `on_grid` values are only moved copies of
    quantized ones, so that quantizing them again changes nothing.
    """

    group: str
    source: bool
    on_grid: bool


@dataclass(frozen=True, slots=True)
class Places:
    """All quantized values (node name -> Value), the groups with a given range, the layers, and the float ops."""

    values: Mapping[str, Value]
    fixed: Mapping[str, tuple[float, float]]
    layers: tuple[str, ...]
    float_ops: Mapping[str, str]


def find_places(graph_module: fx.GraphModule) -> Places:
    """Where the folded model is quantized; reads the graph and changes nothing."""
    return _Survey(graph_module).places()


class _Survey:
    """One pass over the graph, readers known beforehand."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.nodes = list(graph_module.graph.nodes)
        self.rules: dict[fx.Node, Rule] = {node: rule_for(graph_module, node) for node in self.nodes}
        self.absorbed = {node for node in self.nodes if self._is_absorbed(graph_module, node)}
        self.wanted: dict[fx.Node, bool] = {}
        self.group_of: dict[fx.Node, str] = {}  # also of SPLIT nodes, whose list is no value itself
        self.values: dict[str, Value] = {}
        self.fixed: dict[str, tuple[float, float]] = {}
        self.float_ops: dict[str, str] = {}
        self.layers: dict[str, None] = {}

    def places(self) -> Places:
        """The finished survey."""
        for node in reversed(self.nodes):
            self.wanted[node] = any(self._wants(reader) for reader in node.users)
        for node in self.nodes:
            self._visit(node)
        return Places(self.values, self.fixed, tuple(self.layers), self.float_ops)

    def _is_absorbed(self, graph_module: fx.GraphModule, node: fx.Node) -> bool:
        """Whether the node is an activation inside its producer's kernel: it must be the only reader."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or len(tensor_readers(source)) != 1:
            return False
        return absorbs(graph_module, source, node)

    def _wants(self, reader: fx.Node) -> bool:
        """Whether a reader asks for a quantized input; an op that only passes values on asks for its own readers."""
        kind = self.rules[reader].kind
        return kind in _DEMANDING or (kind in (Kind.SHARE, Kind.SPLIT) and self.wanted[reader])

    def _visit(self, node: fx.Node) -> None:
        rule = self.rules[node]
        if node in self.absorbed:
            self._new_group(node)
        elif rule.kind in (Kind.LAYER, Kind.OWN):
            if rule.kind is Kind.LAYER:
                self.layers[str(node.target)] = None
            if not any(reader in self.absorbed for reader in node.users):
                self._new_group(node)
        elif rule.kind is Kind.FIXED:
            self._new_group(node)
            self.fixed[node.name] = rule.fixed or (0.0, 0.0)
        elif rule.kind in (Kind.SHARE, Kind.SPLIT):
            self._share(node, rule)
        elif rule.kind is Kind.JOIN:
            self._join(node)
        elif rule.kind is Kind.FLOAT:
            self._stay_float(node, rule.reason)
        elif self.wanted[node] and node.op in ("placeholder", "get_attr"):
            self._new_group(node)

    def _new_group(self, node: fx.Node) -> None:
        self.group_of[node] = node.name
        self.values[node.name] = Value(node.name, source=True, on_grid=False)

    def _share(self, node: fx.Node, rule: Rule) -> None:
        group = self.group_of.get(node.args[0])  # type: ignore[arg-type]
        if group is None:
            return  # it moves a float value: nothing to do, nothing lost
        self.group_of[node] = group
        if rule.kind is Kind.SHARE:
            self.values[node.name] = Value(group, source=False, on_grid=rule.moves)

    def _join(self, node: fx.Node) -> None:
        groups = [self.group_of.get(source) for source in node.all_input_nodes]
        if None in groups:
            self._stay_float(node, "one of its inputs is no float activation")
            return
        kept = [group for group in groups if group is not None]
        if len({self.fixed.get(group) for group in kept}) > 1:
            self._stay_float(node, "one of its inputs has a fixed range (sigmoid, softmax, tanh) and another has not")
            return
        for group in kept[1:]:
            self._merge(group, kept[0])
        self.group_of[node] = kept[0]
        self.values[node.name] = Value(kept[0], source=False, on_grid=True)

    def _merge(self, group: str, into: str) -> None:
        """Give every value of `group` the range of `into`."""
        if group == into:
            return
        self.group_of = {node: into if name == group else name for node, name in self.group_of.items()}
        for name, value in self.values.items():
            if value.group == group:
                self.values[name] = Value(into, value.source, value.on_grid)
        self.fixed.pop(group, None)

    def _stay_float(self, node: fx.Node, reason: str) -> None:
        self.float_ops[node.name] = reason
        if self.wanted[node]:
            self._new_group(node)
