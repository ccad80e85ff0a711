"""Ops with a plainer equal: each is put into the form that every runtime computes, and computes rightly.

Converters know the common ops well and the rare ones badly: they refuse them, or drop an argument and write a file that
computes something else. What comes out here stands in the traced model itself, so that its reference, the quantizer and
all formats see the same plain graph. Each rewrite gives the same numbers, but for the rounding of its largest term
where torch computes a product and a sum in one step.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from compress.graph.site import Site

aten = torch.ops.aten


def use_plain_forms(graph: fx.Graph) -> None:
    """Replace each op of the table by its plain form, in place."""
    for node in list(graph.nodes):
        rewrite = PLAIN_FORMS.get(node.target) if node.op == "call_function" else None
        if rewrite is not None:
            rewrite(Site(node))


def _swapped_difference(site: Site) -> None:
    """A difference with its operands swapped: LiteRT's converter swaps them back where one is a number."""
    x, other, alpha = (site.given[name] for name in ("self", "other", "alpha"))
    if _is_tensor(other):
        site.becomes(aten.sub.Tensor, other, x if alpha == 1 else site.before(aten.mul.Tensor, x, _number(alpha, x)))
    else:  # times -1, which folds into a layer
        site.becomes(aten.add.Tensor, site.before(aten.mul.Tensor, x, _number(-alpha, x)), other)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)


def _number(value: float, beside: fx.Node) -> float:
    """A number of the kind of the tensor that it meets: ExecuTorch casts an integer beside floats as it runs."""
    return float(value) if beside.meta["val"].is_floating_point() else value


def _scaled_sum(site: Site) -> None:
    """A sum or difference with a factor (alpha): Core ML's converter drops the factor, LiteRT's stops at it."""
    x, other, alpha = (site.given[name] for name in ("self", "other", "alpha"))
    if alpha == 1 or (isinstance(other, fx.Node) and not _is_tensor(other)):
        return
    scaled = site.before(aten.mul.Tensor, other, _number(alpha, other)) if _is_tensor(other) else other * alpha
    site.becomes(site.node.target, x, scaled)


def _blend(site: Site) -> None:
    """A linear interpolation, from the end that is nearer, as torch computes it; Core ML has none."""
    start, end, weight = (site.given[name] for name in ("self", "end", "weight"))
    between = site.before(aten.sub.Tensor, end, start)
    if isinstance(weight, fx.Node) or abs(weight) < 0.5:
        site.becomes(aten.add.Tensor, start, site.before(aten.mul.Tensor, between, weight))
    else:
        site.becomes(aten.sub.Tensor, end, site.before(aten.mul.Tensor, between, 1 - weight))


def _tracked_instance_norm(site: Site) -> None:
    """An instance norm with kept statistics is a batch norm; Core ML's converter ignores the statistics."""
    given = site.given
    if given["use_input_stats"]:
        return
    names = ("input", "weight", "bias", "running_mean", "running_var")
    site.becomes(
        aten.batch_norm.default, *(given[name] for name in names), False, given["momentum"], given["eps"], False
    )


def _adaptive_max_pool(site: Site) -> None:
    """The maximum over the plane, or a max pooling where the output's sides divide the input's."""
    picked = [reader for reader in site.node.users if reader.users]
    if any(reader.target is not operator.getitem or reader.args[1] != 0 for reader in picked):
        return  # someone reads where the maxima are
    source = site.given["self"]
    before, after = source.meta["val"].shape[-2:], site.given["output_size"]
    if list(after) == [1, 1]:
        plain = site.before(aten.amax.default, source, [-2, -1], True)
    elif all(isinstance(size, int) for size in (*before, *after)) and before[0] % after[0] == before[1] % after[1] == 0:
        kernel = [before[0] // after[0], before[1] // after[1]]
        plain = site.before(aten.max_pool2d.default, source, kernel, kernel)
    else:
        return
    for reader in list(site.node.users):
        reader.replace_all_uses_with(plain)
        site.graph.erase_node(reader)
    site.graph.erase_node(site.node)


def _crop(site: Site) -> None:
    """A pad by negative numbers is a slice; ExecuTorch and Core ML take no such pad."""
    sides = site.given["pad"]
    value = site.given.get("value")
    is_constant = site.given.get("mode", "constant") == "constant"
    if not is_constant or not all(isinstance(side, int) for side in sides) or min(sides, default=0) >= 0:
        return
    source = site.given["self"]
    cut = source
    for place in range(0, len(sides), 2):
        start, end = (max(-side, 0) for side in sides[place : place + 2])
        if start or end:
            axis = source.meta["val"].dim() - 1 - place // 2
            cut = site.before(aten.slice.Tensor, cut, axis, start, -end if end else _END)
    kept = [max(side, 0) for side in sides]
    if any(kept):
        site.becomes(aten.constant_pad_nd.default, cut, kept, value or 0)
    else:
        site.is_replaced_by(cut)


def _repeated(site: Site) -> None:
    """A repetition along one axis is a concatenation; LiteRT's converter mixes up its axes."""
    source, repeats = site.given["self"], site.given["repeats"]
    longer = [axis for axis, times in enumerate(repeats) if times != 1]
    value: Tensor = source.meta["val"]
    if len(longer) != 1 or len(repeats) != value.dim() or not _is_few(repeats[longer[0]]):
        return
    site.becomes(aten.cat.default, [source] * repeats[longer[0]], longer[0])


def _is_few(times: Any) -> bool:
    return isinstance(times, int) and 1 < times <= _FEW


_END = torch.iinfo(torch.int64).max  # how a trace writes a slice to the end
_FEW = 4  # times that a concatenation may hold one tensor: beyond, a repeat is the shorter program

PLAIN_FORMS: dict[Any, Callable[[Site], None]] = {
    aten.rsub.Scalar: _swapped_difference,
    aten.rsub.Tensor: _swapped_difference,
    aten.add.Tensor: _scaled_sum,
    aten.sub.Tensor: _scaled_sum,
    aten.lerp.Scalar: _blend,
    aten.lerp.Tensor: _blend,
    aten.instance_norm.default: _tracked_instance_norm,
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.pad.default: _crop,
    aten.constant_pad_nd.default: _crop,
    aten.repeat.default: _repeated,
}
"""Op -> what puts a call of it into its plain form, or leaves it."""
