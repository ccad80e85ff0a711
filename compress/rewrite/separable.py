"""Convolutions as products of thinner ones: depthwise and pointwise, or a column and a row.

For each input channel a kernel is a matrix (outputs, taps); its best approximation of rank r is r spatial filters, each
with a weight to every output: r depthwise maps and a pointwise convolution (Guo et al. 2018, "Network Decoupling"). Of
large kernels the other matrix is better, (inputs * rows, outputs * columns): a vertical convolution to R channels and a
horizontal one (Jaderberg et al. 2014). Both are singular value decompositions, nearest in the weights' norm, and exact
where the kernel has that rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.errors import ModelError
from compress.rewrite.edits import calls_of, emit, filled, in_words, layer_at, modules_called, sizes, tied
from compress.rewrite.rewrite_plan import SiteRewrite
from compress.rewrite.settings import RewriteSettings

LEAVES = {"depthwise": ("depthwise", "pointwise"), "pair": ("column", "row")}
"""Form -> the names of its two convolutions, under the path of the one they replace."""


def plan(graph_module: fx.GraphModule, settings: RewriteSettings) -> list[SiteRewrite]:
    """What becomes of each convolution whose kernel is large enough for the settings; changes nothing."""
    least = settings.large_kernel if settings.separable == "large" else 3
    found = []
    for path, layer in modules_called(graph_module, (nn.Conv2d,)).items():
        if min(layer.kernel_size) >= least:
            found.append(_site(path, layer, settings, tied(graph_module, path)))
    return found


def apply(graph_module: fx.GraphModule, sites: Iterable[SiteRewrite]) -> None:
    """Put the two thinner convolutions in the place of each layer, in place."""
    for site in sites:
        _apply(graph_module, site)


def _apply(graph_module: fx.GraphModule, site: SiteRewrite) -> None:
    layer, rank = layer_at(graph_module, site.place, (nn.Conv2d,)), int(site.values["rank"])
    made = _depthwise(layer, rank) if site.form == "depthwise" else _pair(layer, rank)
    paths = [f"{site.place}.{leaf}" for leaf in LEAVES[site.form]]
    graph_module.delete_submodule(site.place)
    for path, part in zip(paths, made, strict=True):
        graph_module.add_submodule(path, part)
    for node in calls_of(graph_module.graph, site.place):
        value = emit(node, node, paths[1], emit(node, node, paths[0], node.args[0]))
        node.replace_all_uses_with(value)
        graph_module.graph.erase_node(node)


def _site(path: str, layer: Any, settings: RewriteSettings, obstacle: str) -> SiteRewrite:
    form, before = settings.separable_form, in_words(layer)
    reason = obstacle or _obstacle(layer, settings)
    if reason:
        return SiteRewrite("separable", path, "", before, reason)
    rank = settings.rank if form == "depthwise" else pair_rank(layer.weight, settings.pair_energy)
    kernel, sides = layer.kernel_size, layer.weight.shape[:2]
    parts = (kernel[0] * kernel[1], sides[0]) if form == "depthwise" else (kernel[0] * sides[1], kernel[1] * sides[0])
    weights = rank * (sides[1] * sum(parts) if form == "depthwise" else sum(parts))
    if weights >= layer.weight.numel():
        text = f"at rank {rank} the two would have {weights:,} weights, no fewer than the {layer.weight.numel():,} now"
        return SiteRewrite("separable", path, "", before, text)
    missed = _missed(layer, rank, form)
    what = f"depthwise {sizes(kernel)} and pointwise" if form == "depthwise" else f"{kernel[0]}x1 and 1x{kernel[1]}"
    after = f"{what}, rank {rank}, {weights / layer.weight.numel():.1%} of the weights, {missed:.1%} of them missed"
    return SiteRewrite("separable", path, form, before, after, {"rank": rank})


def _obstacle(layer: Any, settings: RewriteSettings) -> str:
    if layer.groups > 1:
        return f"it has {layer.groups} groups"
    narrow = min(layer.in_channels, layer.out_channels)
    if settings.separable_form == "depthwise" and narrow < settings.min_channels:
        return f"it has {narrow} channels on one side, fewer than {settings.min_channels}"
    return ""


def _matrix(weight: Tensor, form: str) -> Tensor:
    """The kernel (out, in, kH, kW) as the matrices whose rank the form bounds, in float64.

    (in, out, kH * kW) for the depthwise form, (in * kH, out * kW) for the pair.
    """
    weight = weight.detach().double()
    if form == "depthwise":
        return weight.flatten(2).transpose(0, 1)
    return weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def _missed(layer: Any, rank: int, form: str) -> float:
    """The norm of the weights that a rank leaves out, as a share of all."""
    values = torch.linalg.svdvals(_matrix(layer.weight, form))
    return float(values[..., rank:].norm() / values.norm().clamp_min(1e-30))


def pair_rank(weight: Tensor, energy: float) -> int:
    """The smallest rank of the pair that keeps this share of the kernel's squared norm."""
    squares = torch.linalg.svdvals(_matrix(weight, "pair")).square().cumsum(0)
    if squares[-1] == 0:
        return 1
    return min(int((squares < squares[-1] * energy).sum()) + 1, len(squares))


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two factors of the nearest matrix of a rank, of equal norms: (..., m, rank) and (..., rank, n)."""
    if rank > min(matrix.shape[-2:]):
        raise ModelError(f"the plan asks for rank {rank} of a {sizes(matrix.shape[-2:])} kernel; plan anew")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    roots = values[..., :rank].sqrt()
    return left[..., :rank] * roots.unsqueeze(-2), roots.unsqueeze(-1) * right[..., :rank, :]


def _depthwise(layer: Any, rank: int) -> tuple[nn.Module, nn.Module]:
    """The depthwise and the pointwise convolution, with `rank` maps for each input channel."""
    to_outputs, filters = _factors(_matrix(layer.weight, "depthwise"), rank)  # (in, out, rank), (in, rank, taps)
    maps = layer.in_channels * rank
    depthwise = nn.Conv2d(
        layer.in_channels, maps, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        groups=layer.in_channels, bias=False, device="meta",
    )  # fmt: skip
    pointwise = nn.Conv2d(maps, layer.out_channels, 1, device="meta")
    bias = None if layer.bias is None else layer.bias.detach()
    spread = to_outputs.permute(1, 0, 2).reshape(layer.out_channels, maps, 1, 1)
    return (
        filled(depthwise, layer.weight, filters.reshape(maps, 1, *layer.kernel_size), None),
        filled(pointwise, layer.weight, spread, bias),
    )


def _pair(layer: Any, rank: int) -> tuple[nn.Module, nn.Module]:
    """The vertical convolution to `rank` channels and the horizontal one behind it."""
    height, width = layer.kernel_size
    columns, rows = _factors(_matrix(layer.weight, "pair"), rank)  # (in * kH, rank), (rank, out * kW)
    padding = (layer.padding,) * 2 if isinstance(layer.padding, str) else ((layer.padding[0], 0), (0, layer.padding[1]))
    (down, across), (tall, wide) = layer.stride, layer.dilation
    column = nn.Conv2d(
        layer.in_channels, rank, (height, 1), (down, 1), padding[0], (tall, 1), bias=False, device="meta"
    )  # fmt: skip
    row = nn.Conv2d(rank, layer.out_channels, (1, width), (1, across), padding[1], (1, wide), device="meta")
    bias = None if layer.bias is None else layer.bias.detach()
    column_weight = columns.reshape(layer.in_channels, height, 1, rank).permute(3, 0, 1, 2)
    row_weight = rows.reshape(rank, layer.out_channels, 1, width).transpose(0, 1)
    return filled(column, layer.weight, column_weight, None), filled(row, layer.weight, row_weight, bias)
