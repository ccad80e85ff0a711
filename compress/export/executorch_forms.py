"""Rewriting a program into the forms that XNNPACK takes through ExecuTorch: float16, and 4-bit weights in groups.

XNNPACK has no kernel that takes float values and a stored weight as such. Its 4-bit linear layers round their inputs to
8 bits as they run, which the graph has to spell out; its float16 kernels take values and weights of float16 alike.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram, export
from torch.fx import Graph, GraphModule, Node

from compress.export.holds import Use
from compress.export.program import DEQUANTIZE_GROUP, calls, has_ranges, op_name, sample_inputs, without_unused
from compress.export.resizes import ANTIALIASED, BICUBIC, BILINEAR, NEAREST_EXACT, as_products, has_inexact_scale
from compress.export.weights import fold_weights, stored_weights
from compress.graph.site import Site

ops = torch.ops.quantized_decomposed
aten = torch.ops.aten

INSTANCE_NORM = "aten.instance_norm"
_LEAST_HALF = torch.finfo(torch.float16).smallest_normal  # 2**-14


def is_half(program: ExportedProgram) -> bool:
    """Whether every stored weight is float16 and no value is quantized, so that the whole program can be."""
    weights = stored_weights(program)
    return bool(weights) and all(weight.kind == "float16" for weight in weights) and not has_ranges(program)


def has_groups(program: ExportedProgram) -> bool:
    """Whether a weight is stored in groups."""
    return any(weight.group for weight in stored_weights(program))


def has_scale_per_group(use: Use) -> bool:
    """Whether a layer is a transposed convolution with groups that has scales along its inputs: one for each group."""
    return use.kind == "conv_transpose" and use.weight.kind == "integer" and use.weight.axis == 0


def halved(program: ExportedProgram) -> ExportedProgram:
    """The program in float16, which still takes and gives float32."""
    folded, _ = fold_weights(program)
    module = copy.deepcopy(_module(folded)).half()  # a copy: the program shares its tensors with the model
    for node in module.graph.nodes:
        node.args = tuple(_halved(argument) for argument in node.args)
        node.kwargs = {key: _halved(argument) for key, argument in node.kwargs.items()}
    for node in list(module.graph.nodes):
        if node.op == "placeholder":
            _cast_behind(module.graph, node, torch.float16)
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    for source in output.all_input_nodes:
        with module.graph.inserting_before(output):
            cast = module.graph.call_function(aten._to_copy.default, (source,), {"dtype": torch.float32})
        cast.meta = dict(source.meta)
        output.replace_input_with(source, cast)
    return _exported(module, program)


def with_rounded_inputs(program: ExportedProgram) -> ExportedProgram:
    """The program with the inputs of its layers in groups rounded to 8 bits per row, as XNNPACK rounds them."""
    module = _module(program)
    for node in list(module.graph.nodes):
        if op_name(node) == DEQUANTIZE_GROUP:
            _spell_out_zero_points(module, node)
            for reader in list(node.users):
                _round_input(module.graph, reader)
    return _exported(module, program)


def spelled_out(program: ExportedProgram) -> ExportedProgram:
    """The program with ops that XNNPACK does not take, or that stop its exporter, in forms that it takes."""
    program = as_products(program, _is_left_outside)
    table = _BESIDE_INTEGERS if has_ranges(program) else _BESIDE_FLOATS
    if not any(op_name(node) in table for node in calls(program)):
        return program
    ready = without_unused(program)
    for node in list(calls(ready)):
        if op_name(node) in table:
            table[op_name(node)](Site(node))
    ready.graph.lint()
    ready.graph_module.recompile()
    return ready


def _is_left_outside(node: Node) -> bool:
    """Whether XNNPACK drops the scale of a resize, or its exporter takes the resize apart into dozens of ops."""
    if op_name(node) == BILINEAR:
        return has_inexact_scale(node)
    return op_name(node) in (BICUBIC, NEAREST_EXACT, *ANTIALIASED)


def _plane_maximum(site: Site) -> None:
    """The maximum over the plane is a max pooling as large as the plane."""
    source, keeps = site.given["self"], site.given["keepdim"]
    shape = source.meta["val"].shape
    if keeps and len(shape) == 4 and {int(axis) % 4 for axis in site.given["dim"]} == {2, 3}:
        site.becomes(aten.max_pool2d.default, source, list(shape[2:]), list(shape[2:]))


def _norm_of_signals(site: Site) -> None:
    """A batch norm of signals as one of images with one row: beside integers the exporter stops at the former."""
    source, rest = site.node.args[0], site.node.args[1:]
    assert isinstance(source, Node)
    if source.meta["val"].dim() == 3:
        image = site.before(aten.unsqueeze.default, source, 2)
        site.becomes(aten.squeeze.dim, site.before(aten.batch_norm.default, image, *rest), 2)


def _soft_relu(site: Site) -> None:
    """Softplus, log(1 + exp(x)), as relu(x) + log(1 + exp(-|x|)): ops that XNNPACK takes.

    Where it hands values out between its own ops, beside integers, its runtime stops. The sum's rounding is far below
    that of the integers.
    """
    if site.given["beta"] == 1 and site.given["threshold"] >= _SOFT_UP_TO:
        site.becomes(aten.add.Tensor, *_soft_relu_terms(site, site.given["self"]))


def _soft_relu_terms(site: Site, x: Node) -> tuple[Node, Node]:
    decay = site.before(aten.exp.default, site.before(aten.neg.default, site.before(aten.abs.default, x)))
    return site.before(aten.relu.default, x), site.before(aten.log.default, site.before(aten.add.Tensor, decay, 1.0))


def _mish(site: Site) -> None:
    """X times the tanh of its softplus, which is written as above."""
    x = site.given["self"]
    soft = site.before(aten.add.Tensor, *_soft_relu_terms(site, x))
    site.becomes(aten.mul.Tensor, x, site.before(aten.tanh.default, soft))


_SOFT_UP_TO = 20  # torch's default; from there on log(1 + exp(x)) is x in float32
_Forms = dict[str, Callable[[Site], None]]
_BESIDE_FLOATS: _Forms = {"aten.amax": _plane_maximum}  # beside integers XNNPACK's runtime does not load it
_BESIDE_INTEGERS: _Forms = {
    "aten.batch_norm": _norm_of_signals,
    "aten.softplus": _soft_relu,
    "aten.mish": _mish,
}


def with_plane_norms(program: ExportedProgram) -> ExportedProgram:
    """The program with each instance norm as the plain ops that it is made of, which XNNPACK takes.

    ExecuTorch's own kernel adds the sums of every run to what lay in memory before release 1.2 (its pull request
    17503), so that a second run, or memory used before, gives wrong numbers. And every release takes the variance as
    E[x^2] - E[x]^2, which float32 cannot hold for planes far from zero.
    """
    if not plane_norms(program):
        return program
    ready = without_unused(program)
    for node in plane_norms(ready):
        _spell_out_norm(Site(node))
    ready.graph.lint()
    ready.graph_module.recompile()
    return ready


def plane_norms(program: ExportedProgram) -> list[Node]:
    """The instance norms of a program that take the statistics of their own input."""
    return [node for node in calls(program) if op_name(node) == INSTANCE_NORM and Site(node).given["use_input_stats"]]


def _spell_out_norm(site: Site) -> None:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps), per plane; a signal is an image with one row."""
    value, eps = site.node.meta["val"], site.given["eps"]
    dims = value.dim()
    x = site.before(aten.unsqueeze.default, site.given["input"], 2) if dims == 3 else site.given["input"]
    if value.dtype is torch.float16:
        eps = max(eps, _LEAST_HALF)  # below it XNNPACK gives NaN for a plane of one colour on ARM
    plane = list(range(2, max(dims, 4)))
    away = site.before(aten.sub.Tensor, x, site.before(aten.mean.dim, x, plane, True))
    variance = site.before(aten.mean.dim, site.before(aten.mul.Tensor, away, away), plane, True)
    scale = site.before(aten.rsqrt.default, site.before(aten.add.Tensor, variance, eps))
    found = site.before(aten.mul.Tensor, away, scale)
    for name, target in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
        if site.given[name] is not None:
            found = site.before(
                target, found, site.before(aten.reshape.default, site.given[name], [-1, *[1] * len(plane)])
            )
    if dims == 3:
        found = site.before(aten.squeeze.dim, found, 2)
    site.becomes(found.target, *found.args)  # under the norm's own name: the program may give it out
    site.graph.erase_node(found)


def _module(program: ExportedProgram) -> GraphModule:
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    return module


def _exported(module: GraphModule, program: ExportedProgram) -> ExportedProgram:
    module.graph.lint()
    module.recompile()
    return export(module, sample_inputs(program))


def _halved(argument: Any) -> Any:
    return torch.float16 if argument is torch.float32 else argument


def _cast_behind(graph: Graph, node: Node, dtype: torch.dtype) -> None:
    readers = list(node.users)
    with graph.inserting_after(node):
        cast = graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})
    cast.meta = dict(node.meta)
    for reader in readers:
        reader.replace_input_with(node, cast)


def _spell_out_zero_points(module: GraphModule, node: Node) -> None:
    """Gives a dequantize op the zero points and the range -8..7 by which XNNPACK knows 4-bit weights."""
    codes, scales, _, _, top, *rest = node.args
    name = f"_zero_points_{node.name}"
    held: Any = module
    for part in str(scales.target).split("."):  # type: ignore[union-attr]
        held = getattr(held, part)
    module.register_buffer(name, torch.zeros(held.shape, dtype=torch.int8))
    with module.graph.inserting_before(node):
        zeros = module.graph.get_attr(name)
    node.args = (codes, scales, zeros, -8, top, *rest)


def _round_input(graph: Graph, layer: Node) -> None:
    """Puts the ops in front of a layer that choose a range for each row of its input and round to it."""
    source = layer.args[0]
    assert isinstance(source, Node)
    bounds = (-128, 127, torch.int8)
    with graph.inserting_before(layer):
        chosen = graph.call_function(ops.choose_qparams_per_token_asymmetric.default, (source, torch.int8))
        scale, zero = (graph.call_function(operator.getitem, (chosen, index)) for index in (0, 1))
        codes = graph.call_function(ops.quantize_per_token.default, (source, scale, zero, *bounds))
        back = graph.call_function(ops.dequantize_per_token.default, (codes, scale, zero, *bounds, torch.float32))
    for node in (chosen, scale, zero, codes, back):
        node.meta = {key: value for key, value in layer.meta.items() if key != "val"}
    layer.args = (back, *layer.args[1:])
