"""Ops as a mobile runtime runs them: what exporters spell out is one op again, what kernels absorb is fused.

Published op tables and the readers of model files all end here, so that one network is the same ops whatever it came
as: products of matrices in rows and columns, attention as its two products, no op for what moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod

from compress.profile.spelled_out import joined, plain_name
from compress.types import OpRecord

_CLAMPS = frozenset({"relu", "relu6", "hardtanh", "clamp"})
_KERNELS = frozenset({"conv", "depthwise_conv", "grouped_conv", "conv_transpose", "linear"})
_WINDOWS = frozenset({*_KERNELS, "pool"}) - {"linear"}
_BATCH_NORMS = frozenset({"batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training"})
_ZERO_PADS = frozenset({"pad", "constant_pad_nd"})
_SLICES = frozenset({"slice", "select", "narrow"})
_PARTS = frozenset({*_SLICES, "split", "split_with_sizes", "chunk", "tensor_split", "unbind"})
_TURNS = frozenset({"roll", "flip"})
_ORDERS = frozenset({"permute", "transpose", "t", "movedim", "swapaxes"})
# What works on each value by itself, or along the last axis, whatever the axes before it are.
_ROW_WISE = frozenset({"softmax", "elementwise", "activation", "norm"})
# How far behind the scaling of its queries a written-out attention multiplies them.
_ATTENTION_REACH = 4


def lowered(ops: Iterable[OpRecord]) -> tuple[OpRecord, ...]:
    """The ops as a mobile runtime runs them, in their order."""
    apart = [part for op in ops for part in _products(_settled(op))]
    return fuse(_unpadded(_in_rows(_unscaled(joined(_with_biases(_split(apart)))))))


def _settled(op: OpRecord) -> OpRecord:
    """The op with the kind and shapes that say what it does: what moves nothing is free, what moves rows moves rows."""
    given, output = op.input_shapes[0] if op.input_shapes else (), op.output_shape
    if op.kind == "move" and plain_name(op) in _ORDERS:
        if given != output and [size for size in given if size > 1] == [size for size in output if size > 1]:
            return replace(op, kind="reshape")
        rows = _moved_rows(given, output)
        return replace(op, input_shapes=(rows[0],), output_shape=rows[1]) if rows else op
    if op.kind in ("move", "concat", "pad") and op.input_shapes == (output,) and plain_name(op) not in _TURNS:
        return replace(op, kind="reshape")
    if given == output and (op.kind == "resize" and "grid" not in op.op or "adaptive" in op.op or _one_by_one(op)):
        return replace(op, kind="reshape")
    if op.kind == "reduce" and "adaptive" in op.op and prod(output[2:]) > 1:
        return replace(op, kind="pool")
    if op.kind == "move" and plain_name(op) in _PARTS:
        axes = [axis for axis, (size, other) in enumerate(zip(given, output, strict=False)) if size != other]
        if len(given) == len(output) and len(axes) == 1 and output[axes[0]] == 1:
            return replace(op, output_shape=output[: axes[0]] + output[axes[0] + 1 :])
    return op


def _one_by_one(op: OpRecord) -> bool:
    """Whether an op pools windows of one value."""
    return op.kind == "pool" and bool(op.kernel) and prod(op.kernel) == 1


def _moved_rows(given: tuple[int, ...], output: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """What a transpose of four axes moves where the second is none of channels afterwards, None for any other.

    Heads are no channels: what is moved are the rows of their matrices. The same holds where channels come last.
    """
    if len(given) != 4 or len(output) != 4 or given[0] != output[0]:
        return None
    _, first, second, third = given
    if output[1:] in ((first, third, second), (second, first, third), (second, third, first)):
        return given[given[0] == 1 :], output[given[0] == 1 :]
    return None


def _products(op: OpRecord) -> Iterator[OpRecord]:
    """The op; products of matrices as (rows, columns) and (batch, rows, columns), a fused attention as its parts."""
    if op.kind == "linear" and op.output_shape and op.input_shapes:
        left = op.input_shapes[0]
        rows = prod(op.output_shape[:-1])
        fits = prod(left[:-1]) == rows
        shapes = ((rows, left[-1]), *op.input_shapes[1:]) if fits else op.input_shapes
        yield replace(op, input_shapes=shapes, output_shape=(rows, op.output_shape[-1]))
    elif op.kind == "matmul" and len(op.output_shape) > 3:
        shapes = tuple((prod(shape[:-2]), *shape[-2:]) for shape in op.input_shapes)
        batch = prod(op.output_shape[:-2])
        yield replace(op, input_shapes=shapes, output_shape=(batch, *op.output_shape[-2:]))
    elif plain_name(op) == "addcmul":
        yield replace(op, op="mul", input_shapes=op.input_shapes[-2:])
        yield replace(
            op, name=f"{op.name}.sum", op="add", weight_count=0, input_shapes=(op.output_shape, *op.input_shapes[:-2])
        )
    elif op.kind == "attention" and len(op.input_shapes) >= 3:
        yield from _attention(op)
    else:
        yield op


def _attention(op: OpRecord) -> Iterator[OpRecord]:
    """A fused attention as runtimes without a kernel for it run it: keys transposed, scores, softmax, values."""
    query, key, value = ((prod(shape[:-2]), *shape[-2:]) for shape in op.input_shapes[:3])
    (batch, rows, features), (_, columns, _) = query, key
    turned, scores, result = (key[0], key[2], key[1]), (batch, rows, columns), (batch, rows, value[2])

    def part(
        name: str, op_name: str, kind: str, shapes: tuple[tuple[int, ...], ...], output: tuple[int, ...], inner: int = 0
    ) -> OpRecord:
        return replace(
            op, name=f"{op.name}.{name}", op=op_name, kind=kind, macs=prod(output) * inner, weight_count=0,
            input_shapes=shapes, output_shape=output, channels=(inner, output[-1]) if inner else (0, 0),
        )  # fmt: skip

    yield part("keys", "transpose", "move", (key,), turned)
    yield part("scores", "matmul", "matmul", (query, turned), scores, features)
    for mask in op.input_shapes[3:]:
        yield part("mask", "add", "elementwise", (scores, mask), scores)
    yield part("softmax", "softmax", "softmax", (scores,), scores)
    yield part("values", "matmul", "matmul", (scores, value), result, columns)


def _split(ops: Sequence[OpRecord]) -> list[OpRecord]:
    """The ops with the slices that cut a whole tensor into equal parts, one behind the other, as one split."""
    done = list(ops)
    paid = [place for place, op in enumerate(ops) if op.kind != "reshape"]
    at = 0
    while at < len(paid):
        first, count = ops[paid[at]], 1
        if first.kind == "move" and plain_name(first) in _SLICES and first.input_shapes:
            parts = prod(first.input_shapes[0]) // max(prod(first.output_shape), 1)
            row = [ops[place] for place in paid[at : at + parts]]
            alike = all(
                (op.kind, op.input_shapes, op.output_shape) == ("move", first.input_shapes, first.output_shape)
                and plain_name(op) in _SLICES
                for op in row
            )
            if (
                parts > 1
                and len(row) == parts
                and alike
                and prod(first.output_shape) * parts == prod(first.input_shapes[0])
            ):
                count = parts
                done[paid[at]] = replace(first, op="split")
                for place in paid[at + 1 : at + parts]:
                    done[place] = replace(ops[place], kind="reshape")
        at += count
    return done


def _with_biases(ops: Sequence[OpRecord]) -> list[OpRecord]:
    """The ops with what is added to each output of a layer straight behind it as that layer's bias."""
    done: list[OpRecord] = []
    layer: int | None = None
    for op in ops:
        if layer is not None and _is_bias_of(done[layer], op):
            done[layer] = replace(done[layer], weight_count=done[layer].weight_count + op.weight_count)
            op = replace(op, fused_into=done[layer].name)
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
        clamps = op.op.rstrip("_") in _CLAMPS
        folds = (clamps or op.op in _BATCH_NORMS) and kernel is not None and _same_map(kernel, op)
        if folds and kernel is not None and (clamps or kernel.kind in _KERNELS):
            fused.append(replace(op, fused_into=kernel.name))
            kernel = None if clamps else kernel
            continue
        fused.append(op)
        kernel = op if op.kind in _KERNELS or (op.kind == "elementwise" and len(op.input_shapes) > 1) else None
    return tuple(fused)
