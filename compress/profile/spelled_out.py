"""Ops that exporters and users write as several: the rows of ops that stand for one, found by their names in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from compress.types import OpRecord

_NAMES = {
    **dict.fromkeys(("relu6", "hardtanh", "clip"), "clamp"),
    **dict.fromkeys(("safe_softmax",), "softmax"),
    **dict.fromkeys(("square",), "pow"),
    **dict.fromkeys(("reduce_mean",), "mean"),
}
# Names of ops in a row, all of one shape -> the activation they are.
_ACTIVATIONS = {
    tuple(row.split()): meant
    for meant, rows in {
        "hardswish": (
            "add clamp mul div", "add clamp div mul", "add clamp mul mul", "add clamp clamp div mul",
            "add clamp clamp mul div", "hardsigmoid mul",
        ),
        "hardsigmoid": ("add clamp div", "add clamp clamp div"),
        "silu": ("sigmoid mul",),
        "mish": ("softplus tanh mul",),
        "softplus": ("softplus gt where",),
        "gelu": (
            "div erf add mul mul", "mul erf add mul mul", "mul erf mul add mul", "mul div erf add mul",
            "mul mul erf add mul", "pow mul add mul tanh add mul mul", "mul pow mul add mul tanh add mul",
            "mul mul mul add mul tanh add mul mul", "mul mul mul mul add mul tanh add mul",
            "pow mul add mul tanh mul add mul",
        ),
    }.items()
    for row in rows
}  # fmt: skip
# Names in a row that work along an axis, so that some of them give one value for each: the norm they are.
_NORMS = {
    tuple(row.split()): meant
    for meant, rows in {
        "layer_norm": (
            "mean sub pow mean add sqrt div mul add", "mean sub pow mean add rsqrt mul mul add",
            "mean sub mul mean add sqrt div mul add", "mean sub mul mean add rsqrt mul mul add",
            "mean sub pow mean add sqrt div", "mean sub mul mean add sqrt div",
            "mean squared_difference mean add rsqrt mul mul mul sub add",
            "mean squared_difference mean add rsqrt mul sub mul add mul add",
            "mean squared_difference mean add rsqrt mul sub mul add",
        ),
        "group_norm": ("instance_norm mul add", "instance_norm mul"),
        "batch_norm": ("sub mul mul add", "mul mul add", "sub mul add", "mul add"),
    }.items()
    for row in rows
}  # fmt: skip
# A softmax that gives zeros instead of no numbers where all is masked.
_SOFTMAXES = {
    ("softmax", "isnan", "where"): "softmax",
    ("softmax", "eq", "logical_not", "any", "logical_not", "where"): "softmax",
}
_LONGEST = max(len(row) for rows in (_ACTIVATIONS, _NORMS, _SOFTMAXES) for row in rows)
_FIRST = {row[0] for rows in (_ACTIVATIONS, _NORMS, _SOFTMAXES) for row in rows}


def plain_name(op: OpRecord) -> str:
    """The op's name without what does not matter here: in-place marks, inner forms, and which clamp it is."""
    name = op.op.lower().strip("_")
    return _NAMES.get(name, name)


def joined(ops: Sequence[OpRecord]) -> list[OpRecord]:
    """The ops with each row that stands for one op put in its place; what is free may stand between them."""
    paid = [place for place, op in enumerate(ops) if op.kind != "reshape" and not op.fused_into]
    names = [plain_name(ops[place]) for place in paid]
    kept: dict[int, OpRecord] = dict(enumerate(ops))
    at = 0
    while at < len(paid):
        one, length = _one_of(ops, paid, names, at) if names[at] in _FIRST else (None, 1)
        if one is not None:
            for place in paid[at : at + length]:
                del kept[place]
            kept[paid[at]] = one
        at += length
    return [kept[place] for place in sorted(kept)]


def _one_of(ops: Sequence[OpRecord], paid: Sequence[int], names: Sequence[str], at: int) -> tuple[OpRecord | None, int]:
    """The op that the row from `at` on stands for, and how long the row is; None and 1 where it is itself."""
    for length in range(min(_LONGEST, len(paid) - at), 1, -1):
        row = tuple(names[at : at + length])
        found = [ops[place] for place in paid[at : at + length]]
        first, last = found[0], found[-1]
        shape = last.output_shape
        if row in _NORMS and _along_an_axis(row, found):
            weights = sum(op.weight_count for op in found)
            return replace(first, op=_NORMS[row], kind="norm", macs=0, weight_count=weights,
                           input_shapes=(shape,), output_shape=shape), length  # fmt: skip
        if row in _SOFTMAXES and prod(first.output_shape) == prod(shape):
            return first, length
        if row in _ACTIVATIONS and all(op.output_shape == shape for op in found):
            return replace(first, op=_ACTIVATIONS[row], kind="activation", macs=0, weight_count=0,
                           input_shapes=(shape,)), length  # fmt: skip
    return None, 1


def _along_an_axis(row: tuple[str, ...], found: Sequence[OpRecord]) -> bool:
    """Whether the ops keep one shape, but for values that stand for a whole axis, and end in a scale and a shift."""
    full = prod(found[-1].output_shape)
    sizes = {prod(op.output_shape) for op in found}
    if max(sizes) != full or len(sizes) > 2:
        return False
    if set(row) <= {"sub", "mul", "add"}:
        return all(_by_channel(op) for op in found)
    # A converter that multiplies means and deviations out leaves no weights at the end, or moves them elsewhere.
    ends = found[-2:] if row[-2:] == ("mul", "add") else found[-1:]
    return "squared_difference" in row or row[-1] == "div" or all(op.weight_count > 1 for op in ends)


def _by_channel(op: OpRecord) -> bool:
    """Whether an op has one weight for each channel of a map, and no other operand."""
    return len(op.output_shape) > 3 and op.weight_count == op.output_shape[1] and len(op.input_shapes) == 1
