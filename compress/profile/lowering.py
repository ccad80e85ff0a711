"""Ops as a mobile runtime runs them: what exporters spell out is one op again, what kernels absorb is fused.

Published op tables and the readers of model files all end here, so that one network is the same ops whatever it came
as: products of matrices in rows and columns, attention as its two products, no op for what moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

from compress.profile.one_form import in_one_form
from compress.profile.spelled_out import joined, plain_name
from compress.types import OpRecord

_CLAMPS = frozenset({"relu", "relu6", "hardtanh", "clamp"})
_KERNELS = frozenset({"conv", "depthwise_conv", "grouped_conv", "conv_transpose", "linear"})
_WINDOWS = frozenset({*_KERNELS, "pool"}) - {"linear"}
_BATCH_NORMS = frozenset({"batch_norm", "native_batch_norm", "native_batch_norm_legit_no_training"})
_ZERO_PADS = frozenset({"pad", "constant_pad_nd"})
# What works on each value by itself, or along the last axis, whatever the axes before it are.
_ROW_WISE = frozenset({"softmax", "elementwise", "activation", "norm"})
# How far behind the scaling of its queries a written-out attention multiplies them.
_ATTENTION_REACH = 4


def lowered(ops: Iterable[OpRecord]) -> tuple[OpRecord, ...]:
    """The ops as a mobile runtime runs them, in their order."""
    return fuse(_unpadded(_in_rows(_unscaled(joined(_with_biases(in_one_form(list(ops))))))))


def _with_biases(ops: Sequence[OpRecord]) -> list[OpRecord]:
    """The ops with what is added to each output of a layer straight behind it as that layer's bias."""
    done: list[OpRecord] = []
    layer: int | None = None
    for op in ops:
        if layer is not None and _is_bias_of(done[layer], op):
            done[layer] = replace(done[layer], weight_count=done[layer].weight_count + op.weight_count)
            op = replace(op, weight_count=0, fused_into=done[layer].name)
            layer = None
        elif op.kind in _KERNELS:
            layer = len(done)
        elif op.kind != "reshape":
            layer = None
        done.append(op)
    return done


def _is_bias_of(layer: OpRecord, op: OpRecord) -> bool:
    """Whether an op adds one weight to each output channel of a layer, and nothing else."""
    return (
        plain_name(op) == "add"
        and len(op.input_shapes) == 1
        and op.weight_count == layer.channels[1] > 1
        and _same_map(layer, op)
    )


def _same_map(layer: OpRecord, op: OpRecord) -> bool:
    """Whether an op gives what a layer gives, be it in other rows."""
    if layer.kind != "linear":
        return op.output_shape == layer.output_shape
    return prod(op.output_shape) == prod(layer.output_shape) and op.output_shape[-1:] == layer.output_shape[-1:]


def _unscaled(ops: list[OpRecord]) -> list[OpRecord]:
    """The ops without the scaling of queries, keys or scores, which runtimes fold into the product beside it."""
    paid = [op for op in ops if op.kind != "reshape"]
    multiplied = [op.kind == "matmul" for op in paid]
    free = {
        id(op)
        for place, op in enumerate(paid)
        if plain_name(op) in ("mul", "div") and len(op.input_shapes) == 1 and not op.weight_count
        and len(op.output_shape) >= 3 and any(multiplied[place + 1 : place + 1 + _ATTENTION_REACH])
    }  # fmt: skip
    return [replace(op, kind="reshape") if id(op) in free else op for op in ops]


def _in_rows(ops: Sequence[OpRecord]) -> list[OpRecord]:
    """The ops with what works on the rows of a product of matrices as rows too: their last axis is their width."""
    done: list[OpRecord] = []
    rows: tuple[int, ...] = ()
    for op in ops:
        shape = op.output_shape
        if op.kind in ("linear", "matmul"):
            rows = shape
        elif op.kind in _ROW_WISE and len(shape) > 3:
            if "layer_norm" in op.op and op.weight_count in (0, shape[-1], 2 * shape[-1]):
                rows = (prod(shape[:-1]), shape[-1])
            if rows and rows[-1] == shape[-1] and prod(rows) == prod(shape):
                inputs = tuple(rows if given == shape else given for given in op.input_shapes)
                op = replace(op, input_shapes=inputs, output_shape=rows)
        elif op.kind != "reshape" and op.kind not in _ROW_WISE:
            rows = ()
        done.append(op)
    return done


def _unpadded(ops: Sequence[OpRecord]) -> list[OpRecord]:
    """The ops with zeros around a map put there by the kernel that reads them next."""
    done = list(ops)
    pad: int | None = None
    for place, op in enumerate(ops):
        if pad is not None and op.kind in _WINDOWS and op.input_shapes[:1] == (ops[pad].output_shape,):
            done[pad] = replace(ops[pad], fused_into=op.name)
            done[place] = replace(op, input_shapes=(ops[pad].input_shapes[0], *op.input_shapes[1:]))
        if op.kind != "reshape":
            pad = place if op.kind == "pad" and op.op in _ZERO_PADS and op.input_shapes else None
    return done


def fuse(ops: Iterable[OpRecord]) -> tuple[OpRecord, ...]:
    """The ops with `fused_into` set as a mobile runtime fuses them.

    A batch norm straight after a convolution folds into it; a clamp (ReLU, ReLU6) into the kernel before it; an
    addition of two maps takes the clamp after it.
    """
    fused: list[OpRecord] = []
    kernel: OpRecord | None = None
    for op in ops:
        if op.kind == "reshape" or op.fused_into:
            fused.append(op)
            continue
        clamps = op.op.rstrip("_") in _CLAMPS and kernel is not None and kernel.kind != "norm"
        folds = plain_name(op) in _BATCH_NORMS and kernel is not None and kernel.kind != "elementwise"
        if (clamps or folds) and kernel is not None and _same_map(kernel, op):
            fused.append(replace(op, fused_into=kernel.name))
            kernel = None if clamps else kernel
            continue
        fused.append(op)
        scales = op.kind == "norm" and op.kernel  # a convolution of one value for each channel
        kernel = (
            op if scales or op.kind in _KERNELS or (op.kind == "elementwise" and len(op.input_shapes) > 1) else None
        )
    return tuple(fused)
