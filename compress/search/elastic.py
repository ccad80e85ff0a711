"""How a subnet reads the weights of a whole network: which positions along each axis of each tensor it keeps.

The edits are made on a copy whose tensors hold the numbers of their own elements: what is left in each tensor of the
cut copy then says which elements those are, whatever cut them. Channels, taps and blocks go axis by axis, so a few
positions per axis say it all; neighbours are read as a view. Put in order of importance (Cai et al. 2020,
"Once-for-All"), the channels that stay are the first ones, and all of it is views.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from compress.errors import ModelError
from compress.graph.groups import dependency_graph, is_output_side, raw_groups
from compress.graph.layers import BATCH_NORM, LAYERS
from compress.graph.surgery import apply_edits, check_equal
from compress.types import Edit

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True)
class Pick:
    """The positions that a subnet keeps along one axis: `count` of them from `start`, or the scattered `positions`."""

    axis: int
    start: int
    count: int
    positions: Tensor | None

    def of(self, tensor: Tensor) -> Tensor:
        """The kept part of a tensor: a view where the positions lie side by side."""
        if self.positions is None:
            return tensor.narrow(self.axis, self.start, self.count)
        return tensor.index_select(self.axis, self.positions.to(tensor.device))


@dataclass(frozen=True)
class Structure:
    """A cut network whose own tensors are stand-ins without memory, and where each finds its values.

    `picks` maps every parameter and buffer of `network` to the axes along which it is a part of the tensor of the same
    name in the whole network.
    """

    network: fx.GraphModule
    picks: Mapping[str, tuple[Pick, ...]]

    def part(self, name: str, whole: Tensor) -> Tensor:
        """What the structure's tensor `name` is of the whole network's."""
        for pick in self.picks[name]:
            whole = pick.of(whole)
        return whole


class Numbered:
    """A copy of a network whose tensors hold their element numbers, from which structures are cut."""

    def __init__(self, base: fx.GraphModule, example_inputs: Sequence[Tensor]) -> None:
        largest = max((p.numel() for p in base.parameters()), default=0)
        dtype = torch.float32 if largest <= _EXACT_IN_FLOAT32 else torch.float64
        self.shapes = {name: tensor.shape for name, tensor in _tensors(base)}
        self.dtypes = {name: tensor.dtype for name, tensor in _tensors(base)}
        self.example_inputs = [x.to("cpu", dtype) if x.is_floating_point() else x.cpu() for x in example_inputs]
        self.network = copy.deepcopy(base).to("cpu", dtype).eval()
        for _, tensor in _tensors(self.network):
            if tensor.is_floating_point():
                tensor.data = torch.arange(tensor.numel(), dtype=dtype).view(tensor.shape)

    def structure(self, edits: Iterable[Edit]) -> Structure:
        """The structure that the edits leave.

        Raises:
            ModelError: an edit does not fit the network.
        """
        network = apply_edits(self.network, edits, self.example_inputs, check=False)
        picks = {name: self._picks(name, tensor) for name, tensor in _tensors(network)}
        for name, tensor in _tensors(network.requires_grad_(False)):
            if tensor.is_floating_point():
                tensor.data = torch.zeros((), dtype=self.dtypes[name]).expand(tensor.shape)
        return Structure(network, picks)

    def _picks(self, name: str, numbers: Tensor) -> tuple[Pick, ...]:
        shape = self.shapes[name]
        if numbers.shape == shape:
            return ()  # cuts keep the order, so that all is left means that nothing has moved
        rest, axes = numbers.long(), range(numbers.dim())
        whole, picks = torch.zeros_like(rest), []
        for axis in axes:
            stride = shape[axis + 1 :].numel()
            line = rest[tuple(slice(None) if other == axis else 0 for other in axes)]
            positions = line // stride % shape[axis]
            whole += (positions * stride).view([-1 if other == axis else 1 for other in axes])
            if len(positions) < shape[axis]:
                picks.append(_pick(axis, positions))
        if not torch.equal(whole, rest):
            raise ModelError(f"'{name}' is cut in a way that is no choice of positions along its axes; leave it whole")
        return tuple(picks)


def _pick(axis: int, positions: Tensor) -> Pick:
    start, count = int(positions[0]), len(positions)
    side_by_side = torch.equal(positions, torch.arange(start, start + count))
    return Pick(axis, start, count, None if side_by_side else positions)


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def leading(widths: Mapping[str, int]) -> dict[str, Tensor]:
    """Scores, for `Space.edits`, that fall from each group's first channel to its last: the leading channels stay."""
    return {layer: torch.arange(width, 0, -1.0) for layer, width in widths.items()}


def sort_channels(
    base: fx.GraphModule, example_inputs: Sequence[Tensor], scores: Mapping[str, Tensor]
) -> fx.GraphModule:
    """A copy of the network that computes the same, the channels of each scored group from most important to least.

    Args:
        base: the traced network.
        example_inputs: one tensor per input (N, ...).
        scores: root layer of a group -> importance (width,), as `prune.importance` gives it.

    Raises:
        ModelError: a score names no group of the network, or has another width.
        CheckFailed: the sorted network does not answer as the network does.
    """
    network = copy.deepcopy(base)
    graph = dependency_graph(network, example_inputs)
    groups = raw_groups(graph, network)
    for layer, score in scores.items():
        if layer not in groups or len(groups[layer][0].idxs) != len(score):
            raise ModelError(f"the scores name '{layer}' with {len(score)} channels, which is no group of this model")
        order = torch.sort(score.cpu(), descending=True, stable=True).indices
        _permute(graph, groups[layer], order)
    check_equal(network, base, example_inputs)
    return network


@torch.no_grad()
def _permute(graph: tp.DependencyGraph, group: tp.Group, order: Tensor) -> None:
    """Bring the group's channels into an order, in all tensors that hold or read them, in place."""
    done: set[tuple[int, int]] = set()
    for item in group:
        root_of = torch.tensor(item.root_idxs)
        places = torch.tensor([int(i) for i in item.idxs])[torch.sort(root_of, stable=True).indices]
        by_channel = places.view(len(order), -1)  # (channels, places of each)
        for tensor, axis in _held_by(graph, item.dep):
            if (id(tensor), axis) not in done:
                done.add((id(tensor), axis))
                moved = tensor.index_select(axis, by_channel[order].flatten().to(tensor.device))
                tensor.index_copy_(axis, by_channel.flatten().to(tensor.device), moved)


def _held_by(graph: tp.DependencyGraph, dependency: tp.Dependency) -> list[tuple[Tensor, int]]:
    """The tensors that a member of a group brings, each with the axis along which the channels lie."""
    module = dependency.target.module
    if isinstance(module, nn.Parameter):
        return [(module, next(axis for held, axis in graph.unwrapped_parameters if held is module))]
    if isinstance(module, BATCH_NORM):
        held = (module.weight, module.bias, module.running_mean, module.running_var)
        return [(tensor, 0) for tensor in held if tensor is not None]
    if not isinstance(module, LAYERS):
        return []
    out, depthwise = is_output_side(graph, dependency), getattr(module, "groups", 1) > 1
    axis = 0 if depthwise or out != isinstance(module, _TRANSPOSED) else 1
    bias = [(module.bias, 0)] if module.bias is not None and (out or depthwise) else []
    return [(module.weight, axis), *bias]


def same_channels(
    base: fx.GraphModule, example_inputs: Sequence[Tensor], layers: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """For each group's root layer: the other layers that put out the same channels by the same numbers.

    Where a removed block takes the root away, any of them stands for the group.
    """
    graph = dependency_graph(base, example_inputs)
    groups, paths = raw_groups(graph, base), {id(module): path for path, module in base.named_modules()}
    found = {}
    for root in layers:
        numbered = list(range(len(groups[root][0].idxs)))
        members = [
            paths[id(item.dep.target.module)]
            for item in groups[root]
            if isinstance(item.dep.target.module, LAYERS)
            and is_output_side(graph, item.dep)
            and list(item.idxs) == numbered
            and list(item.root_idxs) == numbered
        ]
        found[root] = tuple(path for path in dict.fromkeys(members) if path != root)
    return found
