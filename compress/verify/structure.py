"""Checks a Core ML package where it cannot run: read back from disk and compared with the program it was made from.

It says that the right ops, interfaces and weights are in the file; it does not say that they compute the right numbers.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import ToolMissing
from compress.export import missing_tool
from compress.runtimes.quiet import quietly
from compress.types import Artifact

# torch op -> the Core ML ops it may become. Only ops that no conversion pass fuses away or splits.
_COUNTERPARTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("aten.conv2d", "aten.conv1d", "aten.conv3d"): ("conv",),
    ("aten.conv_transpose2d",): ("conv_transpose",),
    ("aten.linear",): ("linear", "matmul"),
    ("aten.cat",): ("concat",),
    ("aten.max_pool2d",): ("max_pool",),
    ("aten.avg_pool2d",): ("avg_pool",),
}
_FLOAT32 = 65568  # ArrayFeatureType.FLOAT32 of the Core ML specification
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
        with quietly(), tempfile.TemporaryDirectory() as scratch:  # coremltools writes into what it reads
            spec, constants = _read(Path(shutil.copytree(path, Path(scratch) / path.name)))
    except Exception as error:
        return [Finding("file", False, f"cannot be read back: {str(error).splitlines()[0] if str(error) else error!r}")]
    findings = [_interface(spec, artifact), _weight_file(path)]
    if program is not None:
        findings += [*_op_counts(spec, program), _weights(constants, artifact, program)]
    return findings


def _read(path: Path) -> tuple[Any, list[np.ndarray]]:
    """(the specification, every constant tensor with its weights) from the package on disk."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load as load_program

    spec = ct.utils.load_spec(str(path))
    weights = path / "Data" / "com.apple.CoreML" / "weights"
    program = load_program(spec, spec.specificationVersion, str(weights))
    return spec, [value for function in program.functions.values() for value in _constants(function)]


def _constants(function: Any) -> Iterator[np.ndarray]:
    """Yields the arrays in a function's constant ops: plain ones, and the codes and scales of compressed ones."""
    for operation in function.operations:
        if operation.op_type == "const":
            value = operation.outputs[0].val
            if isinstance(value, np.ndarray):
                yield value
        elif operation.op_type.startswith("constexpr"):
            for name in ("quantized_data", "scale"):
                source = getattr(operation, name, None)
                if source is not None and isinstance(source.val, np.ndarray):
                    yield source.val


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


def _op_counts(spec: Any, program: Any) -> list[Finding]:
    """Ops that must appear as often as in the program, and quantize ops where it has them."""
    from compress.export.coreml import op_counts_of
    from compress.export.program import int8_weight_count, is_quantized, op_counts

    wanted, held = op_counts(program), op_counts_of(spec)
    findings = []
    for sources, targets in _COUNTERPARTS.items():
        expected, seen = sum(wanted[name] for name in sources), sum(held[name] for name in targets)
        if expected or seen:
            findings.append(Finding(targets[0], expected == seen, f"{seen} of {expected}"))
    if is_quantized(program):
        folded = sum(count for name, count in held.items() if name.startswith("constexpr"))
        weights = int8_weight_count(program)
        both = held["quantize"] > 0 and held["dequantize"] > 0 and folded == weights
        detail = f"{held['quantize']} quantize, {held['dequantize']} dequantize, {folded} of {weights} weights"
        findings.append(Finding("quantize ops", both, detail))
    return findings


def _weights(constants: list[np.ndarray], artifact: Artifact, program: Any) -> Finding:
    """Whether every int8 weight of the program is in the file, code for code; or, in float, as many weights."""
    from compress.export.program import constants_by_node

    types = Counter(str(value.dtype) for value in constants if value.size > 1)
    summary = ", ".join(f"{count} {kind}" for kind, count in sorted(types.items()))
    tensors = constants_by_node(program)
    if artifact.scheme != "w8a8":
        wanted = {tuple(value.shape) for value in tensors.values() if value.dim() >= 2}
        missing = wanted - {value.shape for value in constants}
        return Finding("weights", not missing, f"{summary}; shapes missing: {sorted(missing) or 'none'}")
    held = {(value.shape, value.tobytes()) for value in constants if value.dtype == np.int8}
    codes = {name: value.numpy() for name, value in tensors.items() if str(value.dtype) == "torch.int8"}
    lost = [name for name, value in codes.items() if (value.shape, value.tobytes()) not in held]
    return Finding("weights", bool(codes) and not lost, f"{summary}; codes missing: {', '.join(lost) or 'none'}")
