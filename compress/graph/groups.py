"""Which channels hang together, and which residual blocks can go: what any structural edit of a traced model may touch.

Coupled channels come from torch-pruning's dependency graph (Fang et al. 2023, DepGraph). A group that cannot be cut is
pinned, with the reason: its channels are the model's output, a norm mixes them, or a trial cut broke the shapes.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from compress.errors import ModelError
from compress.graph.cost import cost_of, op_name, propagate_shapes
from compress.graph.layers import LAYERS
from compress.types import ModelCost, OpRecord

AT_OUTPUT = "its channels are the model's output"
_MIXING = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together; `layer` (its root) has `width` of them.

    `members` are (layer path, "out" or "in") of all coupled layers; `pinned` says why the group cannot be cut ("" if
    it can).
    """

    layer: str
    width: int
    members: tuple[tuple[str, str], ...]
    pinned: str = ""


@dataclass(frozen=True)
class Block:
    """A residual block: `name` is the node of the sum, `skip` its skip path, `inside` the layers that would go."""

    name: str
    skip: str
    inside: tuple[str, ...]


def dependency_graph(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> tp.DependencyGraph:
    """torch-pruning's dependency graph of a traced model."""
    inputs = tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in example_inputs)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            return tp.DependencyGraph().build_dependency(
                graph_module, example_inputs=inputs, forward_fn=lambda model, x: model(*x), verbose=False
            )
        except Exception as error:  # torch-pruning raises plain exceptions
            raise ModelError(f"the dependency graph of the model cannot be built ({error})") from error


def raw_groups(graph: tp.DependencyGraph, graph_module: fx.GraphModule) -> dict[str, tp.Group]:
    """torch-pruning's group of each root layer, over all its channels, by the root's path."""
    paths = {id(module): path for path, module in graph_module.named_modules()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups = list(graph.get_all_groups(root_module_types=LAYERS))
    return {paths[id(group[0].dep.target.module)]: group for group in groups if id(group[0].dep.target.module) in paths}


def is_output_side(graph: tp.DependencyGraph, dependency: tp.Dependency) -> bool:
    """Whether a dependency removes output channels of its layer."""
    return bool(graph.is_out_channel_pruning_fn(dependency.handler))


def channel_groups(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> list[ChannelGroup]:
    """All channel groups of a traced model in a stable order, pinned ones included."""
    graph = dependency_graph(graph_module, example_inputs)
    paths = {id(module): path for path, module in graph_module.named_modules()}
    found = []
    for root, group in raw_groups(graph, graph_module).items():
        members = []
        for dep, _ in group:
            path = paths.get(id(dep.target.module))
            if path is not None:
                members.append((path, "out" if is_output_side(graph, dep) else "in"))
        found.append(ChannelGroup(root, len(group[0].idxs), tuple(dict.fromkeys(members))))
    order = {str(n.target): i for i, n in enumerate(graph_module.graph.nodes) if n.op == "call_module"}
    found.sort(key=lambda g: order.get(g.layer, -1))
    exposed = _layers_at_output(graph_module)
    return [replace(g, pinned=_why_pinned(g, graph_module, exposed)) for g in found]


def _why_pinned(group: ChannelGroup, gm: fx.GraphModule, exposed: set[str]) -> str:
    for path, side in group.members:
        layer = gm.get_submodule(path)
        if side == "out" and path in exposed:
            return AT_OUTPUT
        if isinstance(layer, _MIXING):
            return f"{path} ({type(layer).__name__}) normalizes over these channels together"
        groups = getattr(layer, "groups", 1)
        if groups > 1 and groups != layer.in_channels:
            return f"{path} is a grouped convolution ({groups} groups)"
    if any(user.startswith("<parameter>") for user, _ in group.members):
        return "a bare parameter is coupled to these channels"
    return ""


def _layers_at_output(gm: fx.GraphModule) -> set[str]:
    """Layers whose output channels reach the model's output without another layer mixing them."""
    exposed: set[str] = set()
    queue = list(next(n for n in gm.graph.nodes if n.op == "output").all_input_nodes)
    seen: set[fx.Node] = set()
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "call_module":
            layer = gm.get_submodule(str(node.target))
            exposed.add(str(node.target))
            depthwise = getattr(layer, "groups", 1) == getattr(layer, "in_channels", 0)
            if isinstance(layer, LAYERS) and not depthwise:
                continue
        queue.extend(node.all_input_nodes)
    return exposed


def residual_blocks(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> list[Block]:
    """Sums of a branch and its own input, of one shape: removing the branch leaves the input."""
    values = propagate_shapes(graph_module, example_inputs)
    order = {node: i for i, node in enumerate(graph_module.graph.nodes)}
    blocks = []
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or op_name(node) != "add" or len(node.all_input_nodes) != 2:
            continue
        branch, skip = sorted(node.all_input_nodes, key=lambda n: -order[n])
        inside = _between(skip, branch)
        same = isinstance(values[node], Tensor) and values[skip].shape == values[node].shape
        layers = [str(n.target) for n in reversed(inside or []) if n.op == "call_module"]
        if same and inside and any(isinstance(graph_module.get_submodule(p), LAYERS) for p in layers):
            blocks.append(Block(node.name, skip.name, tuple(layers)))
    return blocks


def _between(start: fx.Node, end: fx.Node) -> list[fx.Node] | None:
    """The nodes from `start` (exclusive) to `end`, if `end` depends on inputs through `start` alone; else None."""
    inside: list[fx.Node] = []
    queue, seen = [end], {start}
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "placeholder":
            return None
        if node.op != "get_attr":
            inside.append(node)
        queue.extend(node.all_input_nodes)
    ours = {*inside}
    if any(user not in ours for node in inside if node is not end for user in node.users):
        return None  # something outside the block reads from inside it
    return inside


def _half_cut_fails(gm: fx.GraphModule, inputs: Sequence[Tensor], groups: Sequence[ChannelGroup]) -> str | None:
    """Why a copy of the model breaks where it loses half the channels of each group; None where it does not."""
    work = copy.deepcopy(gm)
    graph = dependency_graph(work, inputs)
    try:
        with _quietly():
            for group in groups:
                cut(graph, work, group.layer, tuple(range(group.width // 2)))
            cost_of(work, inputs)
    except Exception as error:  # any failure of a trial cut only means: not this group
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class WidthModel:
    """The ops of a model at any group widths, without touching the model: made once, then microseconds per question.

    Every shape is linear in the number of channels removed from each group; the rates are read off a copy that is
    really cut, one group after the other. Groups that break the copy are pinned with the error.
    """

    def __init__(self, graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> None:
        self.groups = channel_groups(graph_module, example_inputs)
        self.base = cost_of(graph_module, example_inputs)
        self._rates: dict[str, dict[str, OpRecord]] = {}
        self._probe(graph_module, example_inputs)
        self._probe_deeper(graph_module, example_inputs)

    @property
    def free(self) -> list[ChannelGroup]:
        """The groups that may be cut."""
        return [group for group in self.groups if not group.pinned]

    def _probe(self, gm: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        work, before = copy.deepcopy(gm), self.base
        graph = dependency_graph(work, inputs)
        for index, group in enumerate(self.groups):
            if group.pinned or group.width < 2:
                self.groups[index] = replace(group, pinned=group.pinned or "it has a single channel")
                continue
            try:
                with _quietly():
                    cut(graph, work, group.layer, (0,))
                    after = cost_of(work, inputs)
            except Exception as error:  # any failure of a trial cut only means: not this group
                self.groups[index] = replace(group, pinned=f"cutting it breaks the model ({_first_line(error)})")
                work = copy.deepcopy(gm)
                graph = dependency_graph(work, inputs)
                for done in self._rates:
                    cut(graph, work, done, (0,))
                continue
            self._rates[group.layer] = _differences(before, after)
            before = after

    def _probe_deeper(self, gm: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        """Pin the groups that lose one channel well but half of them badly: what is split counts otherwise."""
        deep = [group for group in self.groups if not group.pinned and group.width > 3]
        if not deep or _half_cut_fails(gm, inputs, deep) is None:
            return
        for group in deep:
            reason = _half_cut_fails(gm, inputs, [group])
            if reason is not None:
                place = self.groups.index(group)
                self.groups[place] = replace(group, pinned=f"cutting half of it breaks the model ({reason})")

    def ops(self, removed: dict[str, int]) -> tuple[OpRecord, ...]:
        """The model's ops once `removed[layer]` channels are gone from each group (0 where not named)."""
        changes: dict[str, list[tuple[int, OpRecord]]] = {}
        for layer, count in removed.items():
            for name, rate in self._rates[layer].items() if count else ():
                changes.setdefault(name, []).append((count, rate))
        return tuple(_resized(op, changes[op.name]) if op.name in changes else op for op in self.base.ops)


@contextmanager
def _quietly() -> Iterator[None]:
    """No error log from torch about a shape that a trial cut broke on purpose."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _differences(before: ModelCost, after: ModelCost) -> dict[str, OpRecord]:
    """For each op whose shapes changed: a record holding the change (per one channel) in its shape fields."""
    later, changed = {op.name: op for op in after.ops}, {}
    for op in before.ops:
        new = later[op.name]
        if (op.input_shapes, op.output_shape, op.channels) != (new.input_shapes, new.output_shape, new.channels):
            changed[op.name] = replace(
                op,
                input_shapes=tuple(_minus(a, b) for a, b in zip(op.input_shapes, new.input_shapes, strict=True)),
                output_shape=_minus(op.output_shape, new.output_shape),
                channels=(op.channels[0] - new.channels[0], op.channels[1] - new.channels[1]),
                groups=op.groups - new.groups,
            )
    return changed


def _minus(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def _resized(op: OpRecord, changes: list[tuple[int, OpRecord]]) -> OpRecord:
    inputs, output = [list(s) for s in op.input_shapes], list(op.output_shape)
    channels, groups = list(op.channels), op.groups
    for count, rate in changes:
        for shape, delta in zip(
            [*inputs, output, channels], [*rate.input_shapes, rate.output_shape, rate.channels], strict=True
        ):
            for i, step in enumerate(delta):
                shape[i] -= count * step
        groups -= count * rate.groups
    per_weight = (op.macs or 0) / max(1, _matrix(op.channels, op.groups))
    matrix = _matrix((channels[0], channels[1]), groups)
    has_matrix = op.channels != (0, 0)
    macs = op.macs if op.macs is None or not has_matrix else round(per_weight * matrix)
    weights = _weights(op, (channels[0], channels[1]), groups) if has_matrix else _scaled(op, output)
    return replace(
        op,
        input_shapes=tuple(tuple(s) for s in inputs),
        output_shape=tuple(output),
        channels=(channels[0], channels[1]),
        groups=groups,
        macs=macs,
        weight_count=weights,
    )


def _matrix(channels: tuple[int, int], groups: int) -> int:
    return channels[0] // max(1, groups) * channels[1]


def _weights(op: OpRecord, channels: tuple[int, int], groups: int) -> int:
    taps = math.prod(op.kernel) if op.kernel else 1
    bias = op.weight_count - _matrix(op.channels, op.groups) * taps
    return _matrix(channels, groups) * taps + (channels[1] if bias == op.channels[1] else max(0, bias))


def _scaled(op: OpRecord, output: list[int]) -> int:
    return round(op.weight_count * math.prod(output) / max(1, math.prod(op.output_shape)))


def cut(graph: tp.DependencyGraph, gm: fx.GraphModule, layer: str, indices: Sequence[int]) -> Any:
    """Remove the channels from `layer` and everything coupled to it, in place; returns torch-pruning's group."""
    module = gm.get_submodule(layer)
    pruner = graph.get_pruner_of_module(module)
    group = graph.get_pruning_group(module, pruner.prune_out_channels, list(indices))
    group.prune()
    return group
