"""Checks a Core ML package where it cannot run: read back from disk and compared with the program it was made from.

It says that the right ops, interfaces and weights are in the file; what they compute, the reference evaluator says
(`compress.runtimes.mil`), where it knows all the ops.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.errors import ToolMissing
from compress.export import missing_tool
from compress.runtimes.mil.program import Program, read_model, read_program
from compress.runtimes.quiet import quietly
from compress.types import Artifact

# torch ops -> the Core ML ops they may become. Only ops that no conversion pass fuses away or splits.
_COUNTERPARTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("aten.conv2d", "aten.conv1d", "aten.conv3d"): ("conv",),
    ("aten.conv_transpose2d", "aten.conv_transpose1d", "aten.conv_transpose3d"): ("conv_transpose",),
    ("aten.linear",): ("linear", "matmul"),
    ("aten.cat",): ("concat",),
    ("aten.max_pool2d",): ("max_pool",),
    ("aten.avg_pool2d",): ("avg_pool",),
}
_EXACT = ("conv", "conv_transpose")  # the other counts are the least: attention adds matmuls, adaptive pools others
_FLOAT32 = 65568  # ArrayFeatureType.FLOAT32 of the Core ML specification
_STORED = "constexpr_"  # the ops that make a stored weight float again
_LEAST_WEIGHT_BYTES = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, whether it is right, and what was seen."""

    name: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {'ok' if self.passed else 'WRONG'} ({self.detail})"


def check(path: Path, artifact: Artifact, program: Any = None) -> list[Finding]:
    """What a `.mlpackage` holds, against its description and, where given, the exported program it was made from.

    Raises:
        ToolMissing: coremltools, which reads the file, is not installed.
    """
    if missing_tool("coreml") is not None:
        raise ToolMissing("coremltools", "coreml")
    try:
        with quietly():
            spec, saved = read_model(path), read_program(path)
    except Exception as error:
        return [Finding("file", False, f"cannot be read back: {str(error).splitlines()[0] if str(error) else error!r}")]
    findings = [_interface(spec, artifact), _weight_file(path)]
    if program is not None:
        findings += [*_op_counts(saved, program), _weights(saved, program)]
    return findings


def _constants(saved: Program) -> list[Tensor]:
    """The tensors that are written out in a package, plain ones and the codes and scales of stored weights."""
    bound = (entry for op in saved.operations for entries in op.arguments.values() for entry in entries)
    return [entry for entry in bound if isinstance(entry, Tensor)]


def _interface(spec: Any, artifact: Artifact) -> Finding:
    """Names, shapes and float32 type of what goes in and out."""
    inputs, outputs = spec.description.input, spec.description.output
    shapes = tuple(tuple(int(size) for size in entry.type.multiArrayType.shape) for entry in inputs)
    names = (tuple(entry.name for entry in inputs), tuple(entry.name for entry in outputs))
    types = {entry.type.multiArrayType.dataType for entry in (*inputs, *outputs)}
    right = names == (artifact.input_names, artifact.output_names) and shapes == artifact.input_shapes
    detail = f"{', '.join(names[0])} {list(shapes)} -> {', '.join(names[1])}"
    if types != {_FLOAT32}:
        return Finding("interface", False, f"{detail}; not all float32")
    return Finding("interface", right, detail)


def _weight_file(path: Path) -> Finding:
    files = [file for file in path.rglob("weight.bin") if file.stat().st_size >= _LEAST_WEIGHT_BYTES]
    size = sum(file.stat().st_size for file in files)
    return Finding("weight file", bool(files), f"{size} bytes")


def _op_counts(saved: Program, program: Any) -> list[Finding]:
    """Ops that must appear as often as in the program, and quantize ops where it has them."""
    from compress.export.program import has_ranges, op_counts
    from compress.export.weights import stored_weights

    wanted, held = op_counts(program), Counter(operation.type for operation in saved.operations)
    findings = []
    for sources, targets in _COUNTERPARTS.items():
        expected, seen = sum(wanted[name] for name in sources), sum(held[name] for name in targets)
        if expected or (seen and targets[0] in _EXACT):
            right = seen == expected if targets[0] in _EXACT else seen >= expected
            findings.append(Finding(targets[0], right, f"{seen} of {expected}"))
    integers = sum(weight.kind == "integer" for weight in stored_weights(program))
    if integers or has_ranges(program):
        folded = sum(count for name, count in held.items() if name.startswith(_STORED))
        both = (held["quantize"] > 0 and held["dequantize"] > 0) or not has_ranges(program)
        detail = f"{held['quantize']} quantize, {held['dequantize']} dequantize, {folded} of {integers} weights"
        findings.append(Finding("quantize ops", both and folded == integers, detail))
    return findings


def _weights(saved: Program, program: Any) -> Finding:
    """Whether every integer weight of the program is in the file, code for code, and every other one by its shape."""
    from compress.export.program import constants_by_node
    from compress.export.weights import fold_weights

    constants = _constants(saved)
    kinds = Counter(str(value.dtype).removeprefix("torch.") for value in constants if value.numel() > 1)
    summary = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    plain, weights = fold_weights(program)
    wanted = {tuple(value.shape) for value in constants_by_node(plain).values() if value.dim() >= 2}
    stored = {port.shape for op in saved.operations if op.type.startswith(_STORED) for port in op.outputs}
    missing = wanted - {tuple(value.shape) for value in constants} - stored
    held = {(tuple(value.shape), _bytes(value)) for value in constants if value.dtype is torch.int8}
    integers = [weight for weight in weights if weight.kind == "integer"]
    lost = [weight.name for weight in integers if (tuple(weight.codes.shape), _bytes(weight.codes)) not in held]
    said = f"{summary}; shapes missing: {sorted(missing) or 'none'}"
    if integers:
        said += f"; codes missing: {', '.join(lost) or 'none'}"
    return Finding("weights", not missing and not lost, said)


def _bytes(codes: Tensor) -> bytes:
    return codes.contiguous().numpy().tobytes()
