"""Resizes that a converter refuses or gets wrong, written as products with two small constant matrices.

Bilinear, bicubic, antialiased and nearest resizing all treat rows and columns apart, and each is linear: a matrix times
every row, another times every column. The matrices hold the weights that torch itself uses, so what differs is the
order of a few additions. A product costs more than the resize, and less than a resize that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.export import ExportedProgram, export
from torch.fx import GraphModule, Node

from compress.export.program import calls, op_name, sample_inputs
from compress.graph.site import Site

aten = torch.ops.aten

BILINEAR, BICUBIC, NEAREST_EXACT = (
    "aten.upsample_bilinear2d",
    "aten.upsample_bicubic2d",
    "aten._upsample_nearest_exact2d",
)
ANTIALIASED = ("aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa")
AVERAGE = "aten.avg_pool2d"
_RESIZES = (BILINEAR, BICUBIC, NEAREST_EXACT, *ANTIALIASED)


def has_inexact_scale(node: Node) -> bool:
    """Whether a resize steps by a scale that is not the ratio of its sizes: 9 pixels by 1.5 give 13, not 13.5.

    Converters keep the sizes alone. With aligned corners torch itself does.
    """
    given = Site(node).given
    scales = given.get("scale_factors")
    if scales is None or given.get("align_corners"):
        return False
    before, after = given["input"].meta["val"].shape[2:], node.meta["val"].shape[2:]
    return any(old * scale != new for old, new, scale in zip(before, after, scales, strict=True))


def averages_less_at_the_end(node: Node) -> bool:
    """Whether an average pooling's last windows reach over the edge (its size is rounded up) and count less."""
    if op_name(node) != AVERAGE:
        return False
    given = Site(node).given
    plain = not any(given["padding"]) or not given["count_include_pad"]  # else rows and columns are not apart
    size = aten.avg_pool2d.default(node.all_input_nodes[0].meta["val"], *node.args[1:4]).shape
    return bool(given["ceil_mode"]) and plain and size != node.meta["val"].shape


def as_products(program: ExportedProgram, is_refused: Callable[[Node], bool]) -> ExportedProgram:
    """The program with the resizes of images that `is_refused` names as products; itself where it names none.

    An average pooling is one only where `averages_less_at_the_end` says so: of others, the axes may not be apart.
    """

    def is_chosen(node: Node) -> bool:
        is_resize = op_name(node) in _RESIZES or averages_less_at_the_end(node)
        return is_resize and is_refused(node)

    if not any(is_chosen(node) for node in calls(program)):
        return program
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    for node in list(module.graph.nodes):
        if is_chosen(node):
            _multiply(module, Site(node))
    module.graph.lint()
    module.recompile()
    return export(module, sample_inputs(program))


def _multiply(module: GraphModule, site: Site) -> None:
    """Put two products in the place of a resize: along the width, then, turned, along the height."""
    value = site.node.all_input_nodes[0]
    for axis in (3, 2):
        name = f"_resize_{site.node.name}_{'height' if axis == 2 else 'width'}"
        matrix = weights(site.node, axis)
        module.register_buffer(name, matrix)
        with module.graph.inserting_before(site.node):
            held = module.graph.get_attr(name)
        held.meta["val"] = matrix
        value = site.before(aten.linear.default, value, held)
        value = site.before(aten.transpose.int, value, 2, 3)
    site.is_replaced_by(value)


def weights(node: Node, axis: int) -> Tensor:
    """The matrix (new, old) of a resize along an axis of (N, C, H, W): what it makes of single pixels."""
    source = node.all_input_nodes[0]
    shape = list(source.meta["val"].shape)
    size = shape[axis]
    view = [size, 1, 1, 1]
    view[axis] = size
    pixels = torch.eye(size).reshape(view).expand(size, 1, *shape[2:])
    assert callable(node.target)
    resized: Tensor = node.target(pixels.contiguous(), *node.args[1:], **node.kwargs)
    return (resized[:, 0, 0, :] if axis == 3 else resized[:, 0, :, 0]).T.contiguous()
