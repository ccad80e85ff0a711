"""The only edits of a traced model's structure: resolution, whole blocks, kernels, channels; the cut is proven clean.

A cut is proven by a second copy in which the same channels and taps are masked (every weight that reads them is
zeroed): on random inputs the sliced model must answer as the masked one does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from compress.errors import CheckFailed, ModelError
from compress.graph.cost import op_name
from compress.graph.groups import cut, dependency_graph, is_output_side
from compress.graph.kernels import crop_kernel, mask_kernel
from compress.graph.layers import BATCH_NORM, LAYERS, forget_unused
from compress.graph.resolution import resize_input
from compress.types import BlockEdit, ChannelEdit, Edit, KernelEdit, ResolutionEdit

TOLERANCE = 1e-4


def apply_edits(
    graph_module: fx.GraphModule, edits: Iterable[Edit], example_inputs: Sequence[Tensor], check: bool = True
) -> fx.GraphModule:
    """A copy of the model with the edits made: resolution, blocks, kernels, then channels; the original is left alone.

    Raises:
        ModelError: an edit names a layer, width, kernel or block that the model does not have.
        CheckFailed: the sliced model does not equal the masked one to 1e-4 of the output's range.
    """
    return cut_and_kept(graph_module, edits, example_inputs, check)[0]


def cut_and_kept(
    graph_module: fx.GraphModule, edits: Iterable[Edit], example_inputs: Sequence[Tensor], check: bool = True
) -> tuple[fx.GraphModule, dict[str, list[int]]]:
    """As `apply_edits`, and the numbers of the output channels that each cut layer or norm still has, by its path."""
    edits = list(edits)
    kept: dict[str, list[int]] = {}
    sliced = copy.deepcopy(graph_module)
    for edit in edits:
        if isinstance(edit, ResolutionEdit):
            resize_input(sliced, edit.size, example_inputs)
        elif isinstance(edit, BlockEdit):
            remove_block(sliced, edit.block)
    crops = [edit for edit in edits if isinstance(edit, KernelEdit)]
    cuts = [edit for edit in edits if isinstance(edit, ChannelEdit) and edit.remove]
    if not cuts and not crops:
        return sliced, kept
    masked = copy.deepcopy(sliced) if check else None
    for crop in crops:
        crop_kernel(sliced, crop)
        if masked is not None:
            mask_kernel(masked, crop)
    alive: dict[str, list[int]] = {}
    graph = dependency_graph(sliced, example_inputs)
    for edit in cuts:
        _check_fits(sliced, edit)
        group = cut(graph, sliced, edit.layer, edit.remove)
        _count_out(graph_module, sliced, graph, group, kept)
        if masked is not None:
            _mask(masked, sliced, graph, group, alive)
    if masked is not None:
        check_equal(sliced, masked, example_inputs)
    return sliced, kept


def _count_out(
    original: fx.GraphModule,
    sliced: fx.GraphModule,
    graph: tp.DependencyGraph,
    group: tp.Group,
    kept: dict[str, list[int]],
) -> None:
    """Strike a group's removed channels from the lists of what its layers put out."""
    paths = {id(module): path for path, module in sliced.named_modules()}
    for dep, indices in group:
        path = paths.get(id(dep.target.module))
        if path is None or not is_output_side(graph, dep) or not isinstance(dep.target.module, (*LAYERS, BATCH_NORM)):
            continue
        layer: Any = original.get_submodule(path)
        width = next(
            getattr(layer, name) for name in ("out_channels", "out_features", "num_features") if hasattr(layer, name)
        )
        left = kept.get(path, list(range(width)))
        gone = {left[int(i)] for i in indices}
        kept[path] = [i for i in left if i not in gone]


def _check_fits(gm: fx.GraphModule, edit: ChannelEdit) -> None:
    try:
        layer = gm.get_submodule(edit.layer)
    except AttributeError as error:
        raise ModelError(f"the plan cuts layer '{edit.layer}', which this model does not have") from error
    width = layer.out_channels if hasattr(layer, "out_channels") else getattr(layer, "out_features", None)
    if width != edit.width:
        raise ModelError(f"the plan expects '{edit.layer}' to have {edit.width} channels; this model has {width}")


@torch.no_grad()
def _mask(
    masked: fx.GraphModule,
    sliced: fx.GraphModule,
    graph: tp.DependencyGraph,
    group: tp.Group,
    alive: dict[str, list[int]],
) -> None:
    """Zero, in the masked copy, every weight that reads one of the group's removed channels.

    `alive` maps a layer to the original numbers of the input channels it still has: a layer behind a concatenation
    is cut once per group, and later cuts count in what the earlier ones left.
    """
    paths = {id(module): path for path, module in sliced.named_modules()}
    for dep, indices in group:
        path = paths.get(id(dep.target.module))
        if path is None or is_output_side(graph, dep):
            continue
        layer: Any = masked.get_submodule(path)
        transposed = isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
        if getattr(layer, "weight", None) is None:
            continue
        axis = 0 if transposed else 1
        left = alive.setdefault(path, list(range(layer.weight.shape[axis])))
        gone = {left[int(i)] for i in indices}
        layer.weight.index_fill_(axis, torch.tensor(sorted(gone)), 0.0)
        alive[path] = [i for i in left if i not in gone]


def check_equal(sliced: fx.GraphModule, masked: fx.GraphModule, example_inputs: Sequence[Tensor]) -> float:
    """The largest difference of the two models on random inputs, relative to the output's range.

    Raises:
        CheckFailed: it is above 1e-4.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn((2, *x.shape[1:]), generator=generator).to(x.dtype) for x in example_inputs]
    with torch.no_grad():
        got, want = sliced(*inputs), masked(*inputs)
    error = float((got - want).abs().max() / want.abs().max().clamp_min(1e-6))
    if not error <= TOLERANCE:
        raise CheckFailed(f"the sliced model differs from the masked one by {error:.1e} of its range (allowed 1e-4)")
    return error


def remove_block(graph_module: fx.GraphModule, name: str) -> None:
    """Replace the residual sum `name` by its skip path, in place.

    Raises:
        ModelError: the model has no such sum.
    """
    nodes = {node.name: node for node in graph_module.graph.nodes}
    node = nodes.get(name)
    if node is None or node.op != "call_function" or op_name(node) != "add":
        raise ModelError(f"the plan removes block '{name}', which this model does not have")
    order = {n: i for i, n in enumerate(graph_module.graph.nodes)}
    skip = min(node.all_input_nodes, key=lambda n: order[n])
    node.replace_all_uses_with(skip)
    graph_module.graph.erase_node(node)
    forget_unused(graph_module)
