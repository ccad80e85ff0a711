"""Rewriting a program into the forms that Core ML's converter takes: arguments written out, rare ops by common ones.

Its converter counts arguments rather than reading their defaults, and knows no shuffle of channels, no wrapped border
and no choice between a tensor and a number. Each form computes the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from compress.export.program import DEQUANTIZE, MOVES_DATA, QUANTIZE, calls, op_name
from compress.export.resizes import ANTIALIASED, BICUBIC, BILINEAR, NEAREST_EXACT, has_inexact_scale
from compress.graph.site import Site

aten = torch.ops.aten


def spell_out(program: ExportedProgram) -> ExportedProgram:
    """The program itself, with the ops that the converter refuses or misreads in the forms that it takes."""
    for node in list(calls(program)):
        rewrite = _FORMS.get(op_name(node))
        if rewrite is not None:
            rewrite(Site(node))
    program.graph.lint()
    program.graph_module.recompile()
    return program


def is_refused_resize(node: Node) -> bool:
    """Whether the converter knows no such resize, drops its scale, or leaves out its antialiasing."""
    if op_name(node) == NEAREST_EXACT:
        return not _is_whole(node)
    return op_name(node) in (BICUBIC, *ANTIALIASED) or (op_name(node) == BILINEAR and has_inexact_scale(node))


def _is_whole(node: Node) -> bool:
    """Whether a resize is by whole numbers."""
    before, after = node.all_input_nodes[0].meta["val"].shape[2:], node.meta["val"].shape[2:]
    return not any(new % old for old, new in zip(before, after, strict=True)) and not has_inexact_scale(node)


def _pool(site: Site) -> None:
    """Write out a stride: the converter does not know that it defaults to the kernel."""
    node = site.node
    if len(node.args) == 2 or not node.args[2]:
        node.args = (*node.args[:2], node.args[1], *node.args[3:])


def _root_mean_square(site: Site) -> None:
    """Write out the number that keeps the root off zero; torch's default is the type's smallest step."""
    given = site.given
    eps = torch.finfo(site.node.meta["val"].dtype).eps if given["eps"] is None else given["eps"]
    site.becomes(site.node.target, given["input"], given["normalized_shape"], given["weight"], eps)


def _shuffle(site: Site) -> None:
    """Channels dealt to hands: two reshapes and a transposition."""
    source, groups = site.given["self"], site.given["groups"]
    batch, channels, *plane = source.meta["val"].shape
    hands = site.before(aten.reshape.default, source, [batch, groups, channels // groups, *plane])
    dealt = site.before(aten.transpose.int, hands, 1, 2)
    site.becomes(aten.reshape.default, dealt, [batch, channels, *plane])


def _reciprocal(site: Site) -> None:
    """One over a tensor: Core ML's op for it adds 1e-4 below the line."""
    one = site.before(aten.full.default, [1], 1.0)
    site.becomes(aten.div.Tensor, one, site.given["self"])


def _high_rank(site: Site) -> None:
    """No rounding of a value with six axes, which Core ML cannot hold as integers, where it is rounded already."""
    node, source = site.node, site.node.args[0]
    assert isinstance(source, Node)
    grid = node.args[1:]
    origin = source
    while op_name(origin) in MOVES_DATA:
        origin = origin.all_input_nodes[0]
    readers = list(node.users)
    is_same = op_name(origin) == DEQUANTIZE and origin.args[1:] == grid
    if source.meta["val"].dim() <= _MOST_AXES or not is_same or any(op_name(r) != DEQUANTIZE for r in readers):
        return
    for reader in readers:
        Site(reader).is_replaced_by(source)
    site.graph.erase_node(node)


_MOST_AXES = 5


def _choice(site: Site) -> None:
    """A choice between a tensor and a number: the number as a tensor."""
    if "other" not in site.given or not site.node.meta["val"].is_floating_point():
        return  # the overload that lists places, or a choice between whole numbers
    for name in ("self", "other"):
        if not isinstance(site.given[name], Node):
            site.given[name] = site.before(aten.full.default, [1], float(site.given[name]))
    site.becomes(aten.where.self, *(site.given[name] for name in ("condition", "self", "other")))


def _wrap(site: Site) -> None:
    """A wrapped border: the other end of the tensor in front of it and behind it, along one axis after the other."""
    source, sides = site.given["self"], site.given["pad"]
    if site.given.get("mode") != "circular" or min(sides) < 0:
        return
    for place in range(0, len(sides), 2):
        axis = source.meta["val"].dim() - 1 - place // 2
        size, (before, behind) = source.meta["val"].shape[axis], sides[place : place + 2]
        parts = [site.before(aten.slice.Tensor, source, axis, size - before, size)] if before else []
        parts += [source] + ([site.before(aten.slice.Tensor, source, axis, 0, behind)] if behind else [])
        source = site.before(aten.cat.default, parts, axis) if len(parts) > 1 else source
    site.is_replaced_by(source)


def _nearest_exact(site: Site) -> None:
    """Resizing by whole numbers: the nearest pixel by its center is the nearest by its corner."""
    if _is_whole(site.node):
        given = site.given
        site.becomes(aten.upsample_nearest2d.vec, given["input"], given["output_size"], given["scale_factors"])


_FORMS: dict[str, Callable[[Site], None]] = {
    **dict.fromkeys(("aten.max_pool1d", "aten.max_pool2d", "aten.max_pool2d_with_indices", "aten.max_pool3d"), _pool),
    "aten.avg_pool2d": _pool,
    "aten.rms_norm": _root_mean_square,
    "aten.channel_shuffle": _shuffle,
    "aten.reciprocal": _reciprocal,
    QUANTIZE: _high_rank,
    "aten.where": _choice,
    "aten.pad": _wrap,
    "aten._upsample_nearest_exact2d": _nearest_exact,
}
