"""GELU as SiLU: nearly the same curve, one op and a table on phones (Zhao et al. 2023, "MobileDiffusion")."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx, nn

from compress.rewrite.edits import aten, emit, put
from compress.rewrite.rewrite_plan import SiteRewrite

_GELU = aten.gelu.default


def plan(graph_module: fx.GraphModule) -> list[SiteRewrite]:
    """Every GELU, whether a layer or a call; changes nothing."""
    return [
        SiteRewrite("activations", _place(node), "silu", "GELU", "SiLU")
        for node in graph_module.graph.nodes
        if node.target == _GELU or _is_layer(graph_module, node)
    ]


def apply(graph_module: fx.GraphModule, sites: Iterable[SiteRewrite]) -> None:
    """Put SiLUs in their places, in place."""
    places = {site.place for site in sites}
    for node in list(graph_module.graph.nodes):
        if _place(node) not in places:
            continue
        if _is_layer(graph_module, node):
            put(graph_module, str(node.target), nn.SiLU())
        elif node.target == _GELU:
            node.replace_all_uses_with(emit(node, node, aten.silu.default, node.args[0]))
            graph_module.graph.erase_node(node)


def _is_layer(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(graph_module.get_submodule(str(node.target)), nn.GELU)


def _place(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name
