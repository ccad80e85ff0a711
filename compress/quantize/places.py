"""Where a traced model is quantized: which values, which of them share a range, and what stays float and why.

A *value* is the output of a node, named by it. A *group* is a set of values that must have one range (a max pooling and
its input, all the inputs of a concatenation). Values come out in graph order, so the result is deterministic.

A layer may have a scheme of its own. One that computes in float asks for no quantized input; one that computes on other
bits than its neighbours reads their values on a second grid (`reads`). Ops between the layers follow the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from compress.graph.readers import tensor_readers
from compress.quantize.rules import Kind, Rule, absorbs, fixed_range, follows, rule_for
from compress.quantize.schemes import Precision, precision

_DEMANDING = (Kind.LAYER, Kind.OWN, Kind.FIXED, Kind.JOIN)
_BEFORE_FLOAT = "only ops that compute in float read it"
_BEHIND_FLOAT = "the op before it computes in float"


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
    """All quantized values (node name -> Value), the groups with a given range, the layers, and the float ops.

    `layers` are all convolutions and linear layers, also those that compute in float. `bits` is of each group;
    `reads` names, for a reader on other bits than a value's, that value and the reader's bits.
    """

    values: Mapping[str, Value]
    fixed: Mapping[str, tuple[float, float]]
    layers: tuple[str, ...]
    float_ops: Mapping[str, str]
    bits: Mapping[str, int] = field(default_factory=dict)
    reads: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def find_places(graph_module: fx.GraphModule, scheme: str = "w8a8", schemes: Mapping[str, str] | None = None) -> Places:
    """Where the folded model is quantized; reads the graph and changes nothing.

    Args:
        graph_module: a traced model with its batch norms folded.
        scheme: that of the ops between the layers, and of every layer that `schemes` does not name.
        schemes: layer path -> its own scheme.
    """
    survey = _Survey(graph_module, precision(scheme), {p: precision(s) for p, s in (schemes or {}).items()})
    return survey.places()


class _Survey:
    """One pass over the graph, readers known beforehand."""

    def __init__(self, graph_module: fx.GraphModule, default: Precision, own: Mapping[str, Precision]) -> None:
        self.nodes = list(graph_module.graph.nodes)
        self.default, self.own = default, own
        self.layers: dict[str, None] = {}
        self.rules: dict[fx.Node, Rule] = {node: self._rule(graph_module, node) for node in self.nodes}
        self.absorbed = {node for node in self.nodes if self._is_absorbed(graph_module, node)}
        self._leave_float_stretches_alone()
        self.wanted: dict[fx.Node, bool] = {}
        self.group_of: dict[fx.Node, str] = {}  # also of SPLIT nodes, whose list is no value itself
        self.values: dict[str, Value] = {}
        self.fixed: dict[str, tuple[float, float]] = {}
        self.bits: dict[str, int] = {}
        self.float_ops: dict[str, str] = {}

    def places(self) -> Places:
        """The finished survey."""
        if not self.default.activation_bits:  # weights alone: every value stays float, and is meant to
            return Places({}, {}, tuple(self.layers), {})
        for node in reversed(self.nodes):
            self.wanted[node] = any(self._wants(reader) for reader in node.users)
        for node in self.nodes:
            self._visit(node)
        return Places(self.values, self.fixed, tuple(self.layers), self.float_ops, self.bits, self._reads())

    def _rule(self, graph_module: fx.GraphModule, node: fx.Node) -> Rule:
        """The rule for a node; a layer whose own scheme leaves its values float is a FLOAT op."""
        rule = rule_for(graph_module, node)
        if rule.kind is not Kind.LAYER:
            return rule
        path = str(node.target)
        self.layers[path] = None
        own = self.own.get(path, self.default)
        return rule if own.activation_bits else Rule(Kind.FLOAT, f"the plan keeps this layer at {own.name}")

    def _is_absorbed(self, graph_module: fx.GraphModule, node: fx.Node) -> bool:
        """Whether the node is an activation inside its producer's kernel: it must be the only reader."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or len(tensor_readers(source)) != 1:
            return False
        return absorbs(graph_module, source, node)

    def _leave_float_stretches_alone(self) -> None:
        """Make the ops float that stand between float ops: to round their values there would cost and save nothing."""
        for node in reversed(self.nodes):
            if self._may_be_float(node) and self._only_float_reads(node):
                self.rules[node] = Rule(Kind.FLOAT, _BEFORE_FLOAT)
                self.absorbed.discard(node)
        for node in self.nodes:
            source = node.args[0] if node.args else None
            is_free = node not in self.absorbed and self.rules[node].kind is not Kind.FLOAT
            if not is_free or not isinstance(source, fx.Node) or not follows(node):
                continue
            if self.rules[source].kind is Kind.FLOAT and len(tensor_readers(source)) == 1:
                self.rules[node] = Rule(Kind.FLOAT, _BEHIND_FLOAT)

    def _may_be_float(self, node: fx.Node) -> bool:
        """Whether an op computes new values and is neither a layer nor computed by a layer's kernel."""
        rule = self.rules[node]
        computes = rule.kind in (Kind.OWN, Kind.FIXED, Kind.JOIN) or (rule.kind is Kind.SHARE and not rule.moves)
        in_layer = node in self.absorbed and self.rules[node.all_input_nodes[0]].kind is not Kind.OWN
        return computes and not in_layer

    def _only_float_reads(self, node: fx.Node) -> bool:
        """Whether a value ends in ops that compute in float, and in no other."""
        readers = tensor_readers(node)
        return bool(readers) and all(self._is_float_reader(reader) for reader in readers)

    def _is_float_reader(self, reader: fx.Node) -> bool:
        kind = self.rules[reader].kind
        return kind is Kind.FLOAT or (kind in (Kind.SHARE, Kind.SPLIT) and self._only_float_reads(reader))

    def _wants(self, reader: fx.Node) -> bool:
        """Whether a reader asks for a quantized input; an op that only passes values on asks for its own readers."""
        kind = self.rules[reader].kind
        return kind in _DEMANDING or (kind in (Kind.SHARE, Kind.SPLIT) and self.wanted[reader])

    def _bits_of(self, node: fx.Node) -> int:
        """How many bits an op computes on: a layer, with what it absorbs, by its scheme, all else as the network."""
        layer = node.all_input_nodes[0] if node in self.absorbed else node
        if self.rules[layer].kind is not Kind.LAYER:
            return self.default.activation_bits
        return self.own.get(str(layer.target), self.default).activation_bits

    def _bits_for_readers(self, node: fx.Node) -> int:
        """The bits of a value that no quantized op makes: those of its readers where they agree, else the network's."""
        asked = {self._bits_of(reader) for reader in node.users if self.rules[reader].kind in _DEMANDING}
        return asked.pop() if len(asked) == 1 else self.default.activation_bits

    def _visit(self, node: fx.Node) -> None:
        rule = self.rules[node]
        if node in self.absorbed:
            self._absorb(node)
        elif rule.kind in (Kind.LAYER, Kind.OWN):
            if not any(reader in self.absorbed for reader in node.users):
                self._new_group(node, self._bits_of(node))
        elif rule.kind is Kind.FIXED:
            self._fix(node, rule)
        elif rule.kind in (Kind.SHARE, Kind.SPLIT):
            self._share(node, rule)
        elif rule.kind is Kind.JOIN:
            self._join(node)
        elif rule.kind is Kind.FLOAT:
            self._stay_float(node, rule.reason)
        elif self.wanted[node] and node.op in ("placeholder", "get_attr"):
            self._new_group(node, self._bits_for_readers(node))

    def _absorb(self, node: fx.Node) -> None:
        """Quantize behind the activation; behind a layer that stays float, only for readers that ask for it."""
        if self.rules[node.all_input_nodes[0]].kind is not Kind.FLOAT:
            self._new_group(node, self._bits_of(node))
        elif self.wanted[node]:
            self._new_group(node, self._bits_for_readers(node))

    def _new_group(self, node: fx.Node, bits: int) -> None:
        self.group_of[node] = node.name
        self.values[node.name] = Value(node.name, source=True, on_grid=False)
        self.bits[node.name] = bits

    def _fix(self, node: fx.Node, rule: Rule) -> None:
        bits = self._bits_of(node)
        given = fixed_range(rule, node, bits)
        if given is None:
            self._stay_float(node, f"there is no {bits}-bit kernel for it")
            return
        self._new_group(node, bits)
        self.fixed[node.name] = given

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
        if len({self.bits[group] for group in kept}) > 1:
            self._stay_float(node, "its inputs have different bits")
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
        self.bits.pop(group, None)

    def _stay_float(self, node: fx.Node, reason: str) -> None:
        self.float_ops[node.name] = reason
        if self.wanted[node] and not any(reader in self.absorbed for reader in node.users):
            self._new_group(node, self._bits_for_readers(node))

    def _reads(self) -> dict[str, dict[str, int]]:
        """Reader -> value -> the reader's bits, where the two differ."""
        found: dict[str, dict[str, int]] = {}
        for node in self.nodes:
            if self.rules[node].kind not in (Kind.LAYER, Kind.OWN, Kind.FIXED) or node in self.absorbed:
                continue
            bits = self._bits_of(node)
            for source in node.all_input_nodes:
                group = self.group_of.get(source)
                if group is not None and self.bits[group] != bits:
                    found.setdefault(node.name, {})[source.name] = bits
        return found
