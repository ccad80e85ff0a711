"""Rewriting a program into the forms that litert-torch takes: transposed convolutions without padding or with SAME.

Its converter turns a transposed convolution into TFLite's op where nothing is cut off its edges (padding 0), or just
what makes the output `stride` times the input (TFLite's SAME); of any other it leaves an op behind that no file can
hold. What it makes of an output padding is zeros, where torch continues the convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from compress.export.program import CLAMPS, calls, op_name, user_inputs, without_unused
from compress.export.resizes import ANTIALIASED, BILINEAR, as_products, has_inexact_scale
from compress.graph.site import Site

aten = torch.ops.aten

_CONVOLUTIONS = ("aten.conv1d", "aten.conv2d")
_DIMS = {"aten.conv_transpose1d": 1, "aten.conv_transpose2d": 2}
_DEFAULTS = (None, None, None, 1, 0, 0, 1, 1)  # input, weight, bias, stride, padding, output_padding, groups, dilation


def prepared(program: ExportedProgram) -> ExportedProgram:
    """A copy of the program in the forms that the converter takes, and takes rightly; it computes the same."""
    ready = uncropped(as_products(program, _is_refused_resize))
    inputs = {name for name, _ in user_inputs(ready)}
    for node in list(calls(ready)):
        if node.target is aten.upsample_nearest2d.vec and _is_fractional(node):
            _pick_pixels(Site(node))
        elif op_name(node) in _CONVOLUTIONS and _is_computed(node.args[1], inputs):
            _flatten_between(Site(node), 1)
    ready.graph.lint()
    ready.graph_module.recompile()
    return ready


def _is_refused_resize(node: Node) -> bool:
    """Whether the converter knows no such resize, or drops its scale."""
    return op_name(node) in ANTIALIASED or (op_name(node) == BILINEAR and has_inexact_scale(node))


def _is_fractional(node: Node) -> bool:
    """Whether a resize is by no whole number: what TFLite's own op does then is not what torch does."""
    (source,), sizes = node.all_input_nodes, node.meta["val"].shape[2:]
    ratios = zip(source.meta["val"].shape[2:], sizes, strict=True)
    return any(new % old for old, new in ratios) or has_inexact_scale(node)


def _pick_pixels(site: Site) -> None:
    """Resize by the overload that the converter writes as a choice of rows and columns, not as TFLite's op."""
    scales = site.given["scale_factors"] or (None, None)
    site.becomes(aten.upsample_nearest2d.default, site.given["input"], list(site.node.meta["val"].shape[2:]), *scales)


def _is_computed(weight: object, inputs: set[str]) -> bool:
    """Whether a weight is made of the model's input, as style generators make theirs."""
    if not isinstance(weight, Node) or weight.op != "call_function":
        return isinstance(weight, Node) and weight.name in inputs
    return any(_is_computed(source, inputs) for source in weight.all_input_nodes)


def _flatten_between(site: Site, place: int) -> None:
    """Flatten an argument and restore it: the converter would take a weight with four axes for an image."""
    source = site.node.args[place]
    assert isinstance(source, Node)
    flat = site.before(aten.reshape.default, source, [-1])
    shaped = site.before(aten.reshape.default, flat, list(source.meta["val"].shape))
    site.node.update_arg(place, shaped)


def uncropped(program: ExportedProgram) -> ExportedProgram:
    """A copy of the program whose transposed convolutions the converter takes; it computes the same, bit for bit.

    A convolution that it would refuse gives its whole output, with padding 0, and a slice behind it, and behind the
    activation that one kernel computes with it, takes what the padding would have left. Weights and scales stay.
    """
    ready = without_unused(program)
    for node in list(ready.graph.nodes):
        if op_name(node) in _DIMS and not _is_taken(node):
            _crop_behind(ready.graph, node)
    _name_outputs(ready)
    ready.graph.lint()
    ready.graph_module.recompile()
    return ready


def _name_outputs(program: ExportedProgram) -> None:
    """Note in the program's signature which nodes give its outputs now, in place."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    for spec, node in zip(program.graph_signature.output_specs, output.args[0], strict=True):
        if isinstance(node, Node):
            spec.arg.name = node.name


def _is_taken(node: Node) -> bool:
    """Whether the converter takes a transposed convolution as it is, and rightly."""
    stride, padding, output_padding, dilation = (_setting(node, place) for place in (3, 4, 5, 7))
    weight = node.args[1]
    assert isinstance(weight, Node)
    kernel = weight.meta["val"].shape[2:]
    if max(dilation) > 1 or not any(padding):
        return True  # dilated ones are refused in every form; an output padding behind the whole output is zeros
    is_same = all(k - s == 2 * p for k, s, p in zip(kernel, stride, padding, strict=True))
    return is_same and not any(output_padding)


def _setting(node: Node, place: int) -> tuple[int, ...]:
    """A setting of a transposed convolution, one number for each dimension."""
    value: Any = node.args[place] if len(node.args) > place else _DEFAULTS[place]
    dims = _DIMS[op_name(node)]
    values = list(value) if isinstance(value, Sequence) else [value]
    return tuple(values * dims) if len(values) == 1 else tuple(values)


def _crop_behind(graph: Graph, node: Node) -> None:
    """Makes a convolution give its whole output and cuts that behind its activation, in place.

    Output i of a padded convolution is output i + padding of the whole one. An output padding that reaches farther than
    the padding cut off stays one.
    """
    stride, padding, output_padding, dilation = (_setting(node, place) for place in (3, 4, 5, 7))
    sizes = tuple(node.meta["val"].shape[2:])
    farther = [max(o - p, 0) for p, o in zip(padding, output_padding, strict=True)]
    given = (*node.args, *_DEFAULTS[len(node.args) :])
    tail = _tail(node)
    node.args = (*given[:3], list(stride), [0] * len(padding), farther, given[6], list(dilation))
    node.meta["val"] = _value(node)
    if tail is not node:
        tail.meta["val"] = _value(tail)
    cut = tail
    readers = list(tail.users)
    for axis, (start, size) in enumerate(zip(padding, sizes, strict=True), 2):
        with graph.inserting_after(cut):
            cut = graph.call_function(aten.slice.Tensor, (cut, axis, start, start + size))
        cut.meta = dict(tail.meta)
        cut.meta["val"] = _value(cut)
    for reader in readers:
        reader.replace_input_with(tail, cut)


def _tail(node: Node) -> Node:
    """The activation that one kernel computes with a convolution, or the convolution itself."""
    reader = next(iter(node.users), None)
    return reader if reader is not None and len(node.users) == 1 and op_name(reader) in CLAMPS else node


def _value(node: Node) -> Any:
    """The shape and type of what a node gives, as the export would have noted it."""
    fed = torch.fx.node.map_arg(node.args, lambda source: source.meta["val"])
    assert callable(node.target)
    return node.target(*fed, **node.kwargs)
