"""Attention that phones can afford: no softmax, no attention over long maps, one projection for keys and values.

The rules of Zhao et al. (2023, "MobileDiffusion"): a softmax over thousands of keys is what a phone's accelerator does
worst, self-attention at high resolution brings little, and keys and values may share their projection. ReLU over the
number of keys stands in for the softmax (Wortsman et al. 2023, "Replacing softmax with ReLU in vision transformers").
None is exact: a distill step heals what they change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from compress.graph.cost import propagate_shapes
from compress.rewrite.edits import aten, calls_of, emit, in_words
from compress.rewrite.rewrite_plan import SiteRewrite

_FUSED = aten.scaled_dot_product_attention.default
_SOFTMAX = (aten.softmax.int, aten._softmax.default)
_PRODUCTS = (aten.matmul.default, aten.bmm.default)
_SUMS = (aten.add.Tensor, aten.add_.Tensor)
# What stands between a projection and the product that takes it, without mixing its channels' values.
_MOVES = (
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.transpose.int, aten.permute.default,
    aten.contiguous.default, aten.clone.default, aten.expand.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.unsqueeze.default, aten.squeeze.dim,
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One attention: the node that weights values by scores (fused), or the softmax in front of a product."""

    node: fx.Node
    keys: int
    """How many keys there are."""
    values: fx.Node
    scale: float = 1.0
    """Of the scores, where the node takes queries and keys themselves."""

    @property
    def fused(self) -> bool:
        """Whether queries, keys and values go into one node."""
        return self.node.target == _FUSED


def sites_of(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> list[Site]:
    """Every attention of a traced model, in order."""
    values = propagate_shapes(graph_module, example_inputs)
    found = []
    for node in graph_module.graph.nodes:
        if node.target == _FUSED:
            query, keys = (values[each].shape for each in node.args[:2])
            scale = node.kwargs.get("scale") or 1 / math.sqrt(query[-1])
            found.append(Site(node, int(keys[-2]), node.args[2], float(scale)))
        elif _is_softmax(graph_module, node, values):
            product = next((u for u in node.users if u.target in _PRODUCTS and u.args[0] is node), None)
            if product is not None:
                found.append(Site(node, int(values[node].shape[-1]), product.args[1]))
    return found


def plan_softmax(
    graph_module: fx.GraphModule, choice: str, longest: int, example_inputs: Sequence[Tensor]
) -> list[SiteRewrite]:
    """What becomes of each attention: ReLU for its softmax, or nothing of it at all; changes nothing."""
    found = []
    for site in sites_of(graph_module, example_inputs):
        before, name = f"attention over {site.keys} keys", site.node.name
        if choice == "relu":
            reason = _masked(site)
            after = reason or f"ReLU over {site.keys} in place of the softmax"
            made = {"keys": site.keys, "scale": site.scale}
            found.append(
                SiteRewrite("attention", name, "" if reason else "relu", before, after, {} if reason else made)
            )
            continue
        reason = f"it has no more than {longest} keys" if site.keys <= longest else ""
        reason = reason or ("" if _residual(site) else "nothing is added to it that it was made of")
        found.append(SiteRewrite("attention", name, "" if reason else "drop", before, reason or "left out"))
    return found


def apply_softmax(graph_module: fx.GraphModule, sites: Iterable[SiteRewrite]) -> None:
    """Rewrite the attentions, in place."""
    nodes = {node.name: node for node in graph_module.graph.nodes}
    for site in sites:
        node = nodes[site.place]
        if site.form == "relu":
            _relu(node, site.values)
        else:
            made = Site(node, 0, node)
            total, kept = _residual(made) or (node, node)
            total.replace_all_uses_with(kept)
        graph_module.graph.eliminate_dead_code()


def _relu(node: fx.Node, values: Mapping[str, Any]) -> None:
    """Put ReLU(scores) / keys in the place of softmax(scores)."""
    if node.target == _FUSED:
        query, key, value = node.args[:3]
        scores = emit(node, node, aten.matmul.default, query, emit(node, node, aten.transpose.int, key, -2, -1))
        scores = emit(node, node, aten.mul.Tensor, scores, values["scale"] / values["keys"])
        weights = emit(node, node, aten.relu.default, scores)
        made = emit(node, node, aten.matmul.default, weights, value)
    else:
        scores = emit(node, node, aten.mul.Tensor, node.args[0], 1 / values["keys"])
        made = emit(node, node, aten.relu.default, scores)
    node.replace_all_uses_with(made)


def plan_keys(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> list[SiteRewrite]:
    """Which attentions can take their keys for values; changes nothing."""
    found = []
    for site in sites_of(graph_module, example_inputs):
        key, value = _projection(graph_module, _keys(site)), _projection(graph_module, site.values)
        reason, layers = _unlike(graph_module, key, value), {}
        if key is not None and value is not None:
            layers = {"key": str(key.target), "value": str(value.target)}
        before = f"keys by {layers['key']}, values by {layers['value']}" if layers else "keys and values"
        after = reason or f"both by {layers['value']} ({in_words_of(graph_module, layers['value'])})"
        found.append(SiteRewrite("keys", site.node.name, "" if reason else "share", before, after, layers))
    return found


def apply_keys(graph_module: fx.GraphModule, sites: Iterable[SiteRewrite]) -> None:
    """Let keys be projected as values are, in place: what is passed on stays as it was, whom it goes to is learned."""
    for site in sites:
        (key,), (value,) = (calls_of(graph_module.graph, site.values[name]) for name in ("key", "value"))
        if value in _behind(key):  # the value's projection has to stand in front of all that takes it
            key.append(value)
        key.replace_all_uses_with(value)
        graph_module.graph.erase_node(key)
        graph_module.delete_submodule(site.values["key"])


def in_words_of(graph_module: fx.GraphModule, path: str) -> str:
    """A projection in words."""
    layer: Any = graph_module.get_submodule(path)
    return in_words(layer) if isinstance(layer, nn.Conv2d) else f"Linear {layer.in_features}>{layer.out_features}"


def _behind(node: fx.Node) -> set[fx.Node]:
    """The nodes of the graph that come after a node."""
    found, now = set(), node.next
    while now.op != "root":
        found.add(now)
        now = now.next
    return found


def _keys(site: Site) -> fx.Node | None:
    """The node of an attention's keys."""
    if site.fused:
        return site.node.args[1]  # type: ignore[return-value]
    now = site.node.args[0]
    while isinstance(now, fx.Node) and now.target not in _PRODUCTS:
        now = now.args[0] if now.args else None
    return now.args[1] if isinstance(now, fx.Node) else None  # type: ignore[return-value]


def _projection(graph_module: fx.GraphModule, node: Any) -> fx.Node | None:
    """The layer that makes a value, behind what only moves it; None where something else does."""
    while isinstance(node, fx.Node) and node.target in _MOVES:
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    layer = graph_module.get_submodule(str(node.target))
    return (
        node if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)) else None
    )


def _unlike(graph_module: fx.GraphModule, key: fx.Node | None, value: fx.Node | None) -> str:
    """Why keys and values cannot share a projection; "" where they can."""
    if key is None or value is None:
        return "keys or values are not made by one layer each"
    if key is value:
        return "they share it already"
    if key.args != value.args:
        return "they are projected from different things"
    layers = [graph_module.get_submodule(str(node.target)) for node in (key, value)]
    shapes = [tuple(layer.get_parameter("weight").shape) for layer in layers]
    if shapes[0] != shapes[1]:
        return f"their projections differ in shape, {shapes[0]} and {shapes[1]}"
    if any(len(calls_of(graph_module.graph, str(node.target))) > 1 for node in (key, value)):
        return "a projection is used more than once"
    return ""


def _is_softmax(graph_module: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Whether a node is a softmax over the last axis."""
    axis: Any = node.args[1] if node.target in _SOFTMAX else None
    if node.op == "call_module":
        layer = graph_module.get_submodule(str(node.target))
        axis = layer.dim if isinstance(layer, nn.Softmax) else None
    return axis is not None and axis in (-1, values[node].dim() - 1)


def _masked(site: Site) -> str:
    """Why a softmax has to stay; "" where it has not."""
    if not site.fused:
        return ""
    masked = site.node.kwargs.get("attn_mask") is not None or (
        len(site.node.args) > 3 and site.node.args[3] is not None
    )
    causal = site.node.kwargs.get("is_causal") or (len(site.node.args) > 5 and site.node.args[5])
    return (
        "it has a mask: ReLU makes nothing of a score of minus infinity, and something of all others"
        if masked or causal
        else ""
    )


def _residual(site: Site) -> tuple[fx.Node, fx.Node] | None:
    """(the sum that an attention goes into, what it is added to), where that is what it was made of."""
    made_of: set[fx.Node] = set()
    waiting = list(site.node.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node not in made_of:
            made_of.add(node)
            waiting += node.all_input_nodes
    now = site.node
    while len(now.users) == 1:
        user = next(iter(now.users))
        if user.target in _SUMS and len(user.args) == 2:
            other = user.args[1] if user.args[0] is now else user.args[0]
            if isinstance(other, fx.Node) and other in made_of:
                return user, other
        now = user
    return None
