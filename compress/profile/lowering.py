"""Ops as a mobile runtime runs them: what exporters spell out is one op again, what kernels absorb is fused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from compress.types import OpRecord

# What is written for one op of a runtime, as the names of ops in a row that all give a tensor of the same shape.
_SPELLED_OUT: dict[tuple[str, ...], str] = {
    ("add", "clamp", "mul", "div"): "hardswish",
    ("add", "clamp", "div", "mul"): "hardswish",
    ("hardsigmoid", "mul"): "hardswish",
    ("add", "clamp", "div"): "hardsigmoid",
    ("sigmoid", "mul"): "silu",
    ("div", "erf", "add", "mul", "mul"): "gelu",
    ("mul", "erf", "add", "mul", "mul"): "gelu",
    ("mul", "erf", "mul", "add", "mul"): "gelu",
    ("mul", "div", "erf", "add", "mul"): "gelu",
}
_CLAMPS = frozenset({"relu", "relu6", "hardtanh", "clamp"})
_KERNELS = frozenset({"conv", "depthwise_conv", "grouped_conv", "conv_transpose", "linear"})
_BATCH_NORMS = frozenset({"batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training"})
# How far behind the scaling of its queries a written-out attention multiplies them.
_ATTENTION_REACH = 4


def lowered(ops: Iterable[OpRecord]) -> tuple[OpRecord, ...]:
    """The ops as a mobile runtime runs them, in their order."""
    return fuse(_scaled_attention(_joined(list(ops))))


def plain_name(op: OpRecord) -> str:
    """The op's name without what does not matter here: in-place marks, and which clamp it is."""
    name = op.op.rstrip("_").lower()
    return "clamp" if name in _CLAMPS and name != "relu" else name


def _joined(ops: list[OpRecord]) -> list[OpRecord]:
    """The ops with each row that stands for one op put in its place."""
    names = [plain_name(op) for op in ops]
    joined: list[OpRecord] = []
    place = 0
    while place < len(ops):
        meant, length = _spelled_out(ops, names, place)
        op = ops[place]
        joined.append(replace(op, op=meant, kind="activation", macs=0) if meant else op)
        place += length
    return joined


def _spelled_out(ops: Sequence[OpRecord], names: Sequence[str], place: int) -> tuple[str, int]:
    """The op that the row from `place` on stands for, and how long the row is; "" and 1 where it is itself."""
    for row, meant in _SPELLED_OUT.items():
        end = place + len(row)
        if tuple(names[place:end]) == row and all(op.output_shape == ops[place].output_shape for op in ops[place:end]):
            return meant, len(row)
    return "", 1


def _scaled_attention(ops: list[OpRecord]) -> list[OpRecord]:
    """The ops without the scaling of queries and keys, which runtimes fold into the product behind it."""
    kept = []
    for place, op in enumerate(ops):
        ahead = ops[place + 1 : place + 1 + _ATTENTION_REACH]
        scales = op.op == "mul" and len(op.input_shapes) == 1 and not op.weight_count
        if scales and len(op.output_shape) >= 3 and any(other.kind == "matmul" for other in ahead):
            op = replace(op, kind="reshape")
        kept.append(op)
    return kept


def fuse(ops: Iterable[OpRecord]) -> tuple[OpRecord, ...]:
    """The ops with `fused_into` set as a mobile runtime fuses them.

    A batch norm straight after a convolution folds into it; a clamp (ReLU, ReLU6) into the kernel before it; an
    addition of two maps takes the clamp after it.
    """
    fused: list[OpRecord] = []
    kernel: OpRecord | None = None
    for op in ops:
        clamps = op.op.rstrip("_") in _CLAMPS
        folds = kernel is not None and op.output_shape == kernel.output_shape and (
            (op.op in _BATCH_NORMS and kernel.kind in _KERNELS) or clamps
        )  # fmt: skip
        if folds and kernel is not None:
            fused.append(replace(op, fused_into=kernel.name))
            if clamps:
                kernel = None
            continue
        fused.append(op)
        kernel = op if op.kind in _KERNELS or (op.kind == "elementwise" and len(op.input_shapes) > 1) else None
    return tuple(fused)
