"""Instance norms as fixed affine maps: no statistics of the picture at run time, and mostly no op at all.

An instance norm divides each channel by its own spread in this very picture. Where that hardly differs from one picture
to the next, a scale and a shift per channel say the same. The best ones over some batches are a regression of the
norm's output on its input, which has a closed form in each picture's mean and variance, and so has the error that is
left. They go into the convolution before the norm where it has no other reader; elsewhere they become a convolution
with one tap per channel. Belousov 2021, "MobileStyleGAN", replaces the demodulation of StyleGAN2 in the same spirit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.errors import DataError, ModelError
from compress.graph.readers import tensor_readers
from compress.rewrite.edits import emit, filled, inputs_of, layer_at, parameter, tied
from compress.rewrite.rewrite_plan import SiteRewrite

aten = torch.ops.aten

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class _Sums:
    """Sums over pixels and pictures of one norm's input x and its output y before gamma and beta, per channel."""

    def __init__(self) -> None:
        self.pixels: float = 0
        self.x: Tensor | float = 0
        self.xx: Tensor | float = 0
        self.xy: Tensor | float = 0
        self.yy: Tensor | float = 0

    def add(self, x: Tensor, eps: float) -> None:
        """Take in a batch (N, C, *spatial)."""
        values = x.detach().double().flatten(2)
        mean, variance = values.mean(2), values.var(2, unbiased=False)
        count = values.shape[2]
        self.pixels += count * len(values)
        self.x += count * mean.sum(0)
        self.xx += count * (variance + mean.square()).sum(0)
        self.xy += count * (variance / (variance + eps).sqrt()).sum(0)
        self.yy += count * (variance / (variance + eps)).sum(0)

    def regression(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scale, shift, mean square of y and of the error, each (C,): y is near scale * x + shift."""
        x, xx, xy, yy = (torch.as_tensor(s) / self.pixels for s in (self.x, self.xx, self.xy, self.yy))
        spread = (xx - x.square()).clamp_min(1e-30)
        scale = xy / spread
        return scale, -scale * x, yy, (yy - xy.square() / spread).clamp_min(0)


def plan(graph_module: fx.GraphModule, limit: float, batches: Iterable[Any] | None) -> list[SiteRewrite]:
    """What becomes of each instance norm, by the error of its replacement on the batches; changes nothing.

    Args:
        graph_module: a traced model.
        limit: the largest error, relative to the spread of what the norm gives.
        batches: each a tensor (N, ...) or a sequence that begins with the model's inputs.

    Raises:
        DataError: there are norms and no batches.
    """
    nodes = [node for node in graph_module.graph.nodes if _is_norm(node)]
    sums = _measured(graph_module, nodes, batches or ()) if nodes else {}
    found = []
    for node in nodes:
        scale, shift, yy, left = sums[node].regression()
        gamma = _held(graph_module, node.args[1])
        weight = torch.ones_like(yy) if gamma is None else gamma.detach().double().square()
        error = float(((weight * left).sum() / (weight * yy).sum().clamp_min(1e-30)).sqrt())
        before = f"InstanceNorm of {len(scale)} channels"
        if not error <= limit:
            text = f"fixed statistics give an error of {error:.3g} of its spread, above {limit:g}"
            found.append(SiteRewrite("norms", node.name, "", before, text, {"error": error}))
            continue
        source = _layer_before(graph_module, node)
        form = "affine" if source is None else "folded"
        where = "a fixed scale and shift" if source is None else f"folded into {source.target}"
        values = {"error": error, "scale": scale.tolist(), "shift": shift.tolist()}
        found.append(SiteRewrite("norms", node.name, form, before, f"{where}, error {error:.3g} of its spread", values))
    return found


def apply(graph_module: fx.GraphModule, sites: Iterable[SiteRewrite]) -> None:
    """Put the fixed scale and shift in the place of each norm, in place."""
    for site in sites:
        _apply(graph_module, site)


def _apply(graph_module: fx.GraphModule, site: SiteRewrite) -> None:
    node = next((n for n in graph_module.graph.nodes if n.name == site.place), None)
    if node is None or not _is_norm(node):
        raise ModelError(f"the plan rewrites instance norm '{site.place}', which this model does not have; plan anew")
    scale, shift = (torch.tensor(site.values[key], dtype=torch.float64) for key in ("scale", "shift"))
    gamma, beta = (_held(graph_module, node.args[i]) for i in (1, 2))
    if gamma is not None:
        scale, shift = scale * gamma.detach().double().cpu(), shift * gamma.detach().double().cpu()
    if beta is not None:
        shift = shift + beta.detach().double().cpu()
    value: Any = node.args[0]
    if site.form == "folded":
        source = _layer_before(graph_module, node)
        if source is None:
            raise ModelError(f"nothing before instance norm '{site.place}' takes its scale and shift; plan anew")
        _fold(layer_at(graph_module, str(source.target), _CONVOLUTIONS + _TRANSPOSED), scale, shift)
    else:
        path = f"{site.place}_affine"
        graph_module.add_submodule(path, _pointwise(graph_module, node, scale, shift))
        value = emit(node, node, path, value)
    node.replace_all_uses_with(value)
    graph_module.graph.erase_node(node)


def _is_norm(node: fx.Node) -> bool:
    """Whether a node normalizes by the statistics of its own input."""
    return node.op == "call_function" and node.target is aten.instance_norm.default and bool(node.args[5])


def _held(graph_module: fx.GraphModule, node: Any) -> Tensor | None:
    """The parameter that a node reads; None for no node."""
    if node is None:
        return None
    owner, _, leaf = str(node.target).rpartition(".")
    return getattr(graph_module.get_submodule(owner), leaf)


@torch.no_grad()
def _measured(graph_module: fx.GraphModule, nodes: list[fx.Node], batches: Iterable[Any]) -> dict[fx.Node, _Sums]:
    """The sums of each norm over all batches."""
    sums = {node: _Sums() for node in nodes}

    class Watching(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            if node in sums:
                sums[node].add(self.env[node.args[0]], float(node.args[7]))  # type: ignore[index, arg-type]
            return super().run_node(node)

    for batch in batches:
        Watching(graph_module).run(*inputs_of(graph_module, batch))
    if not sums[nodes[0]].pixels:
        raise DataError("rewrite.norms: fixing instance norms needs batches to measure them on; hand some over")
    return sums


def _layer_before(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The call of a convolution that can take the norm's scale and shift."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(tensor_readers(source)) > 1:
        return None
    layer: Any = graph_module.get_submodule(str(source.target))
    calls = sum(n.op == "call_module" and n.target == source.target for n in graph_module.graph.nodes)
    fits = isinstance(layer, _CONVOLUTIONS) or (isinstance(layer, _TRANSPOSED) and layer.groups == 1)
    return source if fits and calls == 1 and not tied(graph_module, str(source.target)) else None


def _fold(layer: Any, scale: Tensor, shift: Tensor) -> None:
    """Write scale and shift (C,) into a convolution's weight and bias, in place."""
    weight = layer.weight.detach().double()
    scale, shift = scale.to(weight.device), shift.to(weight.device)
    axis = 1 if isinstance(layer, _TRANSPOSED) else 0
    spread = [1] * weight.dim()
    spread[axis] = -1
    bias = shift if layer.bias is None else layer.bias.detach().double() * scale + shift
    like = layer.weight
    layer.weight, layer.bias = parameter(like, weight * scale.reshape(spread)), parameter(like, bias)


def _pointwise(graph_module: fx.GraphModule, node: fx.Node, scale: Tensor, shift: Tensor) -> nn.Module:
    """The scale and shift (C,) as a convolution of one tap per channel, in the norm's dimensions."""
    dims = node.meta["val"].dim() - 2
    kind: Any = _CONVOLUTIONS[dims - 1]
    layer = kind(len(scale), len(scale), 1, groups=len(scale), device="meta")
    like = next(graph_module.parameters())
    return filled(layer, like, scale.reshape(-1, 1, *[1] * dims).to(like.device), shift.to(like.device))
