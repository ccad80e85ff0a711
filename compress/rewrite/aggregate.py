"""Dense connections with fewer feature maps alive: sums instead of concatenations, exactly, or thinned ones.

A convolution of a concatenation is the sum of convolutions of its parts. Summed up as soon as each part is there, no
part waits for the others and no concatenation is written: the same numbers, but for their rounding, in less memory. It
takes more and smaller ops, so it is done only where the stretch of the graph around it then needs less memory.

"thin" goes further, towards the multi-scale feature aggregation of memory-efficient super-resolution (Cheng et al.
2021, "MFAGAN"): convolutions inside a dense block read only what came last (and the block's input), the one that closes
the block aggregates all. The weights of what they read stay; the net is to be trained again.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.errors import ModelError
from compress.graph.layers import forget_unused
from compress.rewrite.concats import CONVOLUTIONS, Reader, families, is_concat, live_bytes, parts_of, readers
from compress.rewrite.edits import aten, calls_of, emit, filled, in_words, layer_at, put
from compress.rewrite.rewrite_plan import SiteRewrite
from compress.rewrite.settings import RewriteSettings


def plan(
    graph_module: fx.GraphModule, settings: RewriteSettings, example_inputs: Sequence[Tensor]
) -> list[SiteRewrite]:
    """What becomes of each convolution that reads a concatenation; changes nothing.

    With "thin", what is thinned comes first and sums are planned for the rest, on the thinned model.
    """
    names = settings.sites.get("aggregate")
    if settings.aggregate == "accumulate":
        return _plan_sums(graph_module, example_inputs, names)
    thinned = _plan_thin(graph_module, settings, example_inputs)
    done = [site for site in thinned if site.form and (names is None or site.place in names)]
    work = copy.deepcopy(graph_module)
    apply(work, done)
    places = {site.place for site in done}
    sums = [site for site in _plan_sums(work, example_inputs, names) if site.form or site.place not in places]
    why = {site.place: site.after for site in thinned if not site.form}
    stays = [replace(s, after=f"not thinned: {why[s.place]}; {s.after}") if s.place in why else s for s in sums]
    return done + stays


def apply(graph_module: fx.GraphModule, sites: Sequence[SiteRewrite]) -> None:
    """Thin and take apart the convolutions of these places, in place."""
    for site in sites:
        if site.form == "thin":
            _thin(graph_module, site)
    sums = [site for site in sites if site.form == "accumulate"]
    if sums:
        _take_apart(graph_module, sums)
    forget_unused(graph_module)


def _plan_sums(
    graph_module: fx.GraphModule, example_inputs: Sequence[Tensor], names: Collection[str] | None
) -> list[SiteRewrite]:
    """Sums where they save memory, the reason elsewhere."""
    found, refused = readers(graph_module, example_inputs)
    sites = {reader.path: _sum_site(graph_module, reader) for reader in found}
    tried = [reader for reader in found if names is None or reader.path in names]
    before, after = live_bytes(graph_module, example_inputs), {}
    groups = families(tried)
    # A group may have been held up by the memory that another, since refused, would have saved: until nothing changes.
    while groups:
        work = copy.deepcopy(graph_module)
        apply(work, [sites[reader.path] for group in groups for reader in group])
        after = live_bytes(work, example_inputs)
        peaks = [_peaks(graph_module.graph, group, before, after) for group in groups]
        kept = [group for group, (was, becomes) in zip(groups, peaks, strict=True) if becomes < was]
        for group, (was, becomes) in zip(groups, peaks, strict=True):
            if group not in kept:
                text = f"sums would need {becomes:,} bytes at once around it, no fewer than the {was:,} now"
                sites |= {r.path: replace(sites[r.path], form="", after=text, values={}) for r in group}
        if len(kept) == len(groups):
            break
        groups = kept
    untouched = [
        SiteRewrite("aggregate", path, "", in_words(graph_module.get_submodule(path)), reason)
        for path, reason in refused.items()
    ]
    return [*sites.values(), *untouched]


def _sum_site(graph_module: fx.GraphModule, reader: Reader) -> SiteRewrite:
    text = " + ".join(str(width) for width in reader.widths)
    before = f"{in_words(graph_module.get_submodule(reader.path))} of a concatenation of {text}"
    after = f"a sum of {len(reader.parts)} convolutions, exact"
    return SiteRewrite("aggregate", reader.path, "accumulate", before, after, {"widths": list(reader.widths)})


def _peaks(graph: fx.Graph, group: Sequence[Reader], before: dict[str, int], after: dict[str, int]) -> tuple[int, int]:
    """The most bytes alive around a group, before and after: between two nodes that are in both graphs."""
    names = [node.name for node in graph.nodes]
    first = min(names.index(part.name) for reader in group for part in reader.parts)
    last = max(names.index(reader.node.name) for reader in group) + 1
    start = next(name for name in reversed(names[: first + 1]) if name in after)
    end = next(name for name in names[last:] if name in after)
    return _most_between(before, start, end), _most_between(after, start, end)


def _most_between(live: dict[str, int], start: str, end: str) -> int:
    names = list(live)
    return max(live[name] for name in names[names.index(start) : names.index(end) + 1])


def _plan_thin(
    graph_module: fx.GraphModule, settings: RewriteSettings, example_inputs: Sequence[Tensor]
) -> list[SiteRewrite]:
    """Which convolutions of dense blocks read less: those whose parts a later one reads again, and more."""
    found, _ = readers(graph_module, example_inputs)
    sites = []
    for i, reader in enumerate(found):
        before = f"{in_words(graph_module.get_submodule(reader.path))} of {len(reader.parts)} earlier outputs"
        count = len(reader.parts)
        again = any(other.parts[:count] == reader.parts != other.parts for other in found[i + 1 :])
        kept = [count - 1] if settings.thin_reads == "last" else [0, count - 1]
        if not again:
            reason = "no later convolution reads again what it reads"
            sites.append(SiteRewrite("aggregate", reader.path, "", before, reason))
        elif len(kept) == count:
            reason = "it reads no more than the block's input and the last output"
            sites.append(SiteRewrite("aggregate", reader.path, "", before, reason))
        else:
            what = "the block's input and the last" if len(kept) > 1 else "the last"
            values = {"widths": list(reader.widths), "kept": kept}
            sites.append(SiteRewrite("aggregate", reader.path, "thin", before, f"reads only {what}", values))
    return sites


def _found(graph_module: fx.GraphModule, site: SiteRewrite) -> tuple[fx.Node, Any, tuple[fx.Node, ...], list[Tensor]]:
    """The call, the layer, the parts it reads and its weight for each part (float64).

    Raises:
        ModelError: this model's layer reads something else than the plan's.
    """
    layer = layer_at(graph_module, site.place, CONVOLUTIONS)
    node, widths = calls_of(graph_module.graph, site.place)[0], site.values["widths"]
    parts = parts_of(node.args[0]) if is_concat(node.args[0]) else ()  # type: ignore[arg-type]
    if len(parts) != len(widths) or sum(widths) != layer.in_channels:
        text = f"the plan expects '{site.place}' to read {len(widths)} outputs with {sum(widths)} channels in all"
        raise ModelError(f"{text}; in this model it reads {len(parts)} with {layer.in_channels}; plan anew")
    return node, layer, parts, list(layer.weight.detach().double().split(widths, 1))


def _thin(graph_module: fx.GraphModule, site: SiteRewrite) -> None:
    node, layer, parts, weights = _found(graph_module, site)
    kept = [int(i) for i in site.values["kept"]]
    bias = None if layer.bias is None else layer.bias.detach()
    made = _part(layer, [weights[i] for i in kept], bias)
    source = parts[kept[0]]
    if len(kept) > 1:
        source = emit(node, node, aten.cat.default, [parts[i] for i in kept], 1)
    node.replace_input_with(node.args[0], source)  # type: ignore[arg-type]
    put(graph_module, site.place, made)


def _part(layer: Any, weights: Sequence[Tensor], bias: Tensor | None) -> nn.Module:
    """The layer with only these slices (out, width, *kernel) of its weight."""
    weight = torch.cat(list(weights), 1)
    made = type(layer)(
        weight.shape[1], layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        bias=bias is not None, device="meta",
    )  # fmt: skip
    return filled(made, layer.weight, weight, bias)


def _take_apart(graph_module: fx.GraphModule, sites: Sequence[SiteRewrite]) -> None:
    """Turn each convolution into a sum of one per part, each computed as soon as its part is there.

    A part that others read after the convolution lives on anyway: its term is added last, at the convolution's own
    place, so that the sum takes memory no sooner than it must.
    """
    order = {node: i for i, node in enumerate(graph_module.graph.nodes)}
    going = _going(graph_module.graph, {site.place for site in sites})
    inputs_end = [node for node in order if node.op == "placeholder"][-1]
    tail: dict[fx.Node, fx.Node] = {}  # where a part is there -> the last node that was put behind it
    for site in sorted(sites, key=lambda s: order[calls_of(graph_module.graph, s.place)[0]]):
        node, layer, parts, weights = _found(graph_module, site)
        lives_on = [any(order.get(r, 0) > order[node] for r in part.users if r not in going) for part in parts]
        terms = sorted(range(len(parts)), key=lambda i: (lives_on[i], order[parts[i]]))
        total: fx.Node | None = None
        graph_module.delete_submodule(site.place)
        for count, i in enumerate(terms):
            path = f"{site.place}.part{i}"
            bias = layer.bias.detach() if layer.bias is not None and count == 0 else None
            graph_module.add_submodule(path, _part(layer, [weights[i]], bias))
            part = parts[i]
            start = inputs_end if part.op == "placeholder" else part
            before = node if lives_on[i] else tail.get(start, start).next
            term = emit(before, node, path, part)
            total = term if total is None else emit(before, node, aten.add.Tensor, total, term)
            if not lives_on[i]:
                tail[start] = total
        assert total is not None
        node.replace_all_uses_with(total)
        graph_module.graph.erase_node(node)


def _going(graph: fx.Graph, paths: set[str]) -> set[fx.Node]:
    """The concatenations that nobody reads any more once these convolutions are taken apart, and these calls."""
    going = {node for node in graph.nodes if node.op == "call_module" and str(node.target) in paths}
    for node in reversed(graph.nodes):
        if is_concat(node) and all(user in going for user in node.users):
            going.add(node)
    return going
