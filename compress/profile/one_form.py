"""Ops in the form that every source of them is brought to: what moves nothing is free, matrices have rows and columns.

One op comes in many shapes: a product of matrices with its batch spread over several axes, an attention in one op or in
five, an image with its channels second or last. Costs follow from shapes, so the shapes have to say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from compress.profile.spelled_out import plain_name
from compress.types import OpRecord

_SLICES = frozenset({"slice", "select", "narrow"})
_PARTS = frozenset({*_SLICES, "split", "split_with_sizes", "chunk", "tensor_split", "unbind"})
_CONVOLUTIONS = frozenset({"conv", "depthwise_conv", "grouped_conv"})
_TURNS = frozenset({"roll", "flip"})
_ORDERS = frozenset({"permute", "transpose", "t", "movedim", "swapaxes"})
_WITHOUT_WEIGHTS = frozenset({"reshape", "move", "pad", "resize", "reduce", "pool"})
# How far behind a transpose of keys the product stands that reads them.
_ATTENTION_REACH = 4
# How many ops, free ones counted, may stand between one slice of a tensor and the next.
_SPLIT_REACH = 8


def in_one_form(ops: Sequence[OpRecord]) -> list[OpRecord]:
    """The ops with shapes that say what each does, a fused attention as its parts; see `lowering.lowered`."""
    return _split([part for op in _in_place(ops) for part in _products(_settled(op))])


def _in_place(ops: Sequence[OpRecord]) -> list[OpRecord]:
    """The ops without transposes that only say in which order an image's axes are counted, and those undone at once.

    Mobile runtimes hold images with their channels last, whatever the network says. The keys of an attention that are
    turned in one step look the same, but a product of matrices reads them.
    """
    done = list(ops)
    paid = [place for place, op in enumerate(ops) if op.kind != "reshape"]
    for at, place in enumerate(paid):
        op = ops[place]
        if op.kind != "move" or plain_name(op) not in _ORDERS or not op.input_shapes:
            continue
        given, output = op.input_shapes[0], op.output_shape
        behind = [ops[other] for other in paid[at + 1 : at + 1 + _ATTENTION_REACH]]
        if len(given) == len(output) == 4 and given[0] == output[0]:
            last, second = (*given[2:], given[1]), (given[3], *given[1:3])
            read = any(other.kind == "matmul" and output in other.input_shapes for other in behind)
            if output[1:] in (last, second) and _moved_rows(given, output) is None and not read:
                done[place] = replace(op, kind="reshape")
        if behind and given != output and _undoes(behind[0], op):
            done[place], done[paid[at + 1]] = replace(op, kind="reshape"), replace(behind[0], kind="reshape")
    return done


def _undoes(later: OpRecord, op: OpRecord) -> bool:
    """Whether a transpose puts back what the one before it moved."""
    if later.kind != "move" or plain_name(later) not in _ORDERS:
        return False
    return (later.input_shapes, later.output_shape) == ((op.output_shape,), op.input_shapes[0])


def _settled(op: OpRecord) -> OpRecord:
    """The op with the kind and shapes that say what it does: what moves nothing is free, what moves rows moves rows."""
    if op.kind in _WITHOUT_WEIGHTS and op.weight_count:
        op = replace(op, weight_count=0)  # constants beside it say where to cut, or how large to make it
    if not op.input_shapes and op.macs == 0:
        return replace(op, kind="reshape")  # known before the network runs
    given, output = op.input_shapes[0] if op.input_shapes else (), op.output_shape
    if op.kind in _CONVOLUTIONS and max(op.stride, default=1) > 1 and output[2:] > given[2:]:
        return replace(op, kind="conv_transpose")  # a stride makes a map larger only where it is transposed
    if op.kind == "move" and plain_name(op) in _ORDERS:
        if given != output and [size for size in given if size > 1] == [size for size in output if size > 1]:
            return replace(op, kind="reshape")
        rows = _moved_rows(given, output)
        return replace(op, input_shapes=(rows[0],), output_shape=rows[1]) if rows else op
    if op.kind in ("move", "concat", "pad") and op.input_shapes == (output,) and plain_name(op) not in _TURNS:
        return replace(op, kind="reshape")
    if given == output and _gives_each_value(op):
        return replace(op, kind="reshape")
    if op.kind == "depthwise_conv" and prod(op.kernel) == 1 and given == output:
        return replace(op, kind="norm", macs=0)  # it scales and shifts each channel
    if op.kind == "reduce" and "adaptive" in op.op and prod(output[2:]) > 1:
        return replace(op, kind="pool")
    if op.kind == "move" and plain_name(op) in _PARTS:
        axes = [axis for axis, (size, other) in enumerate(zip(given, output, strict=False)) if size != other]
        if len(given) == len(output) and len(axes) == 1 and output[axes[0]] == 1:
            return replace(op, output_shape=output[: axes[0]] + output[axes[0] + 1 :])
    return op


def _gives_each_value(op: OpRecord) -> bool:
    """Whether an op that keeps the shape of a map keeps its values too: windows of one value, a resize to its size."""
    one = op.kind == "pool" and bool(op.kernel) and prod(op.kernel) == 1
    return one or "adaptive" in op.op or (op.kind == "resize" and "grid" not in op.op)


def _moved_rows(given: tuple[int, ...], output: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """A transpose of (batch, heads, rows, columns) as one of matrices or of their rows, None for any other.

    Heads are no channels, so that their number is no width.
    """
    if len(given) != 4 or len(output) != 4 or given[0] != output[0]:
        return None
    _, first, second, third = given
    if output[1:] in ((first, third, second), (second, first, third)):
        return (given[0] * first, *given[2:]), (output[0] * output[1], *output[2:])
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
    (batch, rows, features), columns = query, key[1]
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
    for mask in op.input_shapes[3:]:  # () where it is known beforehand
        yield part("mask", "add", "elementwise", (scores, mask) if mask else (scores,), scores)
    yield part("softmax", "softmax", "softmax", (scores,), scores)
    yield part("values", "matmul", "matmul", (scores, value), result, columns)


def _split(ops: Sequence[OpRecord]) -> list[OpRecord]:
    """The ops with the slices that cut a whole tensor into equal parts, close to each other, as one split."""
    done = list(ops)
    slices = [
        place for place, op in enumerate(ops)
        if op.kind == "move" and plain_name(op) in _SLICES and op.input_shapes and 0 not in op.output_shape
    ]  # fmt: skip
    taken: set[int] = set()
    for at, place in enumerate(slices):
        first = ops[place]
        parts, rest = divmod(prod(first.input_shapes[0]), prod(first.output_shape))
        if place in taken or parts < 2 or rest:
            continue
        near = [other for other in slices[at:] if other < place + _SPLIT_REACH * parts and other not in taken]
        alike = [other for other in near if _same_shapes(ops[other], first)]
        if len(alike) >= parts:
            done[place] = replace(first, op="split")
            for other in alike[1:parts]:
                done[other] = replace(ops[other], kind="reshape")
            taken |= set(alike[:parts])
    return done


def _same_shapes(op: OpRecord, other: OpRecord) -> bool:
    return (op.input_shapes, op.output_shape) == (other.input_shapes, other.output_shape)
