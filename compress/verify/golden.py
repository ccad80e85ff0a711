"""Golden data that travel with an artifact, so that an app can check itself on the device it runs on.

Beside `net.tflite` stand

- `net.tflite.artifact.json`: what the file is (format, scheme, names and shapes, SHA-256, tool versions), how near its
  outputs have to come, and what ran it here;
- `net.tflite.golden.safetensors`: for each input and output, float32 in the model's layout, the samples stacked along
  a new first axis: `input.NAME`, `reference.NAME` (the model's own outputs) and, where the artifact ran here,
  `output.NAME` (the artifact's).

A check runs sample i of every input, joins the outputs of all samples, and holds them against `reference.*` by the
tolerance: `max_relative_error` bounds the largest error over the largest magnitude of the reference, `min_sqnr_db`
bounds 10 log10(reference power / error power). `output.*` says how near the device is to the machine that wrote them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from compress.errors import CheckFailed, InputError
from compress.files import sha256_of, write_bytes, write_json
from compress.runtimes import available, load_to_check
from compress.types import Artifact
from compress.verify.gate import Reference, answer, describe, judge
from compress.verify.parity import Parity, compare
from compress.verify.thresholds import Threshold
from compress.version import __version__

GOLDEN_SAMPLES = 4  # enough to tell a wrong file from a right one; an image model's golden file stays in the megabytes
_FORM = 1  # of the two files; a reader refuses what is newer


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """What an artifact did on its golden inputs here: its distance from the model, and from where it was made."""

    path: str
    ran_on: str
    passed: bool
    reason: str
    reference: Parity
    recorded: Parity | None
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON data."""
        return asdict(self)

    def __str__(self) -> str:
        there = f", {self.recorded.sqnr_db:.1f} dB from where it was made" if self.recorded else ""
        state = "passed" if self.passed else f"FAILED ({self.reason})"
        figures = f"SQNR {self.reference.sqnr_db:.1f} dB, largest error {self.reference.max_error:.2g}"
        return f"{self.path}: {state}, {figures} on {self.samples} samples{there}; ran on {self.ran_on}"


def golden_paths(artifact_path: Path) -> tuple[Path, Path]:
    """Where an artifact's description and its golden tensors lie: beside it, named after it."""
    name = artifact_path.name
    return artifact_path.with_name(f"{name}.artifact.json"), artifact_path.with_name(f"{name}.golden.safetensors")


def write_golden(
    artifact: Artifact,
    folder: str | Path,
    reference: Reference,
    inputs: Sequence[tuple[np.ndarray, ...]],
    threshold: Threshold,
) -> Path:
    """Writes an artifact's golden data beside it and returns the path of the description.

    The artifact is run where its runtime is here; where it is not, its own outputs are left out and the description
    says why. Each file is whole or absent, the description last, so that it never names tensors that are not there.

    Raises:
        CheckFailed: there are no inputs. RunFolderError: the folder cannot be written.
    """
    path = Path(folder) / artifact.path
    description, tensors = golden_paths(path)
    samples = [tuple(np.ascontiguousarray(x, np.float32) for x in sample) for sample in inputs[:GOLDEN_SAMPLES]]
    if not samples:
        raise CheckFailed(f"{path}: golden data need at least one held sample")
    arrays = _stacked("input", artifact.input_names, samples)
    arrays |= _stacked("reference", artifact.output_names, [tuple(reference(*sample)) for sample in samples])
    absent = available(artifact.format)
    ran_on = f"not run here: {absent}"
    if absent is None:
        outputs, ran_on = _run(path, artifact.format, samples)
        arrays |= _stacked("output", artifact.output_names, outputs)
    content = save_arrays(arrays)
    write_bytes(tensors, content)
    record = {
        "form": _FORM,
        "artifact": artifact.to_dict(),
        "tolerance": {"max_relative_error": threshold.max_relative_error, "min_sqnr_db": threshold.min_sqnr_db},
        "golden": {"path": tensors.name, "sha256": hashlib.sha256(content).hexdigest(), "samples": len(samples)},
        "layout": "float32, the torch model's layout (NCHW); one call per sample",
        "ran_on": ran_on,
        "versions": {**artifact.tool_versions, "compress": __version__},
    }
    write_json(description, record)
    return description


def check_golden(artifact_path: str | Path) -> GoldenCheck:
    """Runs an artifact on its golden inputs in its real runtime here, and judges it by the tolerance beside it.

    Raises:
        InputError: the artifact, its description or its golden tensors are missing, damaged or of another export.
        ToolError: the runtime is not here; of a Core ML package away from a Mac: the evaluator does not know its ops.
    """
    path = Path(artifact_path)
    record, arrays = _read(path)
    artifact = Artifact.from_dict(record["artifact"])
    samples = list(zip(*(arrays[f"input.{name}"] for name in artifact.input_names), strict=True))
    outputs, ran_on = _run(path, artifact.format, samples)
    given = _joined(list(_stacked("output", artifact.output_names, outputs).values()))
    wanted = _joined([arrays[f"reference.{name}"] for name in artifact.output_names])
    recorded = [arrays[f"output.{name}"] for name in artifact.output_names if f"output.{name}" in arrays]
    parity = compare(wanted, given)
    reason = judge(parity, Threshold(**record["tolerance"]))
    before = compare(_joined(recorded), given) if recorded else None
    return GoldenCheck(path.name, ran_on, not reason, reason or "within the tolerance", parity, before, len(samples))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(description, tensors) of an artifact's golden data, checked against each other and against the artifact."""
    description, tensors = golden_paths(path)
    for file in (path, description, tensors):
        if not file.exists():
            raise InputError(f"there is no {file}; the verify step writes an artifact's golden data beside it")
    try:
        record = json.loads(description.read_text(encoding="utf-8"))
        form, golden = record["form"], record["golden"]
        artifact, _ = Artifact.from_dict(record["artifact"]), Threshold(**record["tolerance"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{description} is damaged ({_first_line(error)}); verify the artifact again") from error
    if form != _FORM:
        raise InputError(f"{description} is of form {form}, this version reads form {_FORM}; verify the artifact again")
    if sha256_of(path) != artifact.sha256:
        raise InputError(f"{path} is not the file that its golden data were made for; verify it again")
    if sha256_of(tensors) != golden["sha256"]:
        raise InputError(f"{tensors} is damaged or of another export (its SHA-256 differs); verify the artifact again")
    try:
        arrays = load_arrays(tensors.read_bytes())
    except SafetensorError as error:
        raise InputError(f"{tensors} is damaged ({_first_line(error)}); verify the artifact again") from error
    names = [f"input.{n}" for n in artifact.input_names] + [f"reference.{n}" for n in artifact.output_names]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(f"{tensors} lacks {', '.join(missing)}; verify the artifact again")
    return record, arrays


def _run(path: Path, format: str, samples: Sequence[Sequence[np.ndarray]]) -> tuple[list[tuple[np.ndarray, ...]], str]:
    """(the artifact's outputs for each sample, what ran it)."""
    session = load_to_check(path, format)
    try:
        return [tuple(answer(session, sample)) for sample in samples], describe(session)
    finally:
        session.close()


def _stacked(kind: str, names: Sequence[str], samples: Sequence[Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """`kind.NAME` -> the samples of that input or output, stacked along a new first axis."""
    columns: Mapping[str, Sequence[np.ndarray]] = dict(zip(names, zip(*samples, strict=True), strict=True))
    return {f"{kind}.{name}": np.stack([np.asarray(x, np.float32) for x in rows]) for name, rows in columns.items()}


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
