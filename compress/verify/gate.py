"""The gate an artifact passes before it ships: run on held inputs, compared with the model, judged by a threshold."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from compress.errors import CheckFailed, CompressError, ToolError
from compress.files import sha256_of
from compress.runtimes import available, load_to_check
from compress.runtimes.session import Session
from compress.types import Artifact
from compress.verify.parity import Parity, compare
from compress.verify.structure import Finding, check
from compress.verify.thresholds import Threshold, threshold_of

Reference = Callable[..., Sequence[np.ndarray]]


@dataclass(frozen=True, slots=True)
class Verification:
    """What the gate found. Error figures are None where the artifact could not be run.

    `sqnr_db` is over all samples, `sqnr_db_min` the worst single sample's. `ran_on` names the runtime, its version
    and this machine's CPU, or says "not run here: ..." and why; for a Core ML package away from a Mac it names the
    reference evaluator. `checks` lists what was looked at besides the numbers.
    """

    format: str
    path: str
    ran_on: str
    passed: bool
    reason: str
    max_error: float | None = None
    mean_error: float | None = None
    max_relative_error: float | None = None
    sqnr_db: float | None = None
    sqnr_db_min: float | None = None
    samples: int = 0
    checks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON data."""
        record = asdict(self)
        record["checks"] = list(self.checks)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The finding back from plain JSON data."""
        return cls(**{**record, "checks": tuple(record.get("checks", ()))})


def verify_artifact(
    artifact: Artifact,
    folder: str | Path,
    reference: Reference,
    inputs: Sequence[tuple[np.ndarray, ...]],
    threshold: Threshold | None = None,
    program: Any = None,
) -> Verification:
    """Runs an artifact on held inputs and judges its distance from the reference; never raises for a bad artifact.

    Args:
        artifact: the description the exporter gave.
        folder: where `artifact.path` lies.
        reference: the model's outputs for one set of inputs; for w8a8 the fake-quantized program's.
        inputs: one tuple of float32 arrays, batch 1, per sample.
        threshold: the limits; the scheme's own by default (see `thresholds`).
        program: the exported program behind the artifact: what the structure of a Core ML package is held against where
            Core ML is not. Without it only the package itself is looked at.
    """
    path = Path(folder) / artifact.path
    limits = threshold or threshold_of(artifact.scheme)
    try:
        if not path.exists() or sha256_of(path) != artifact.sha256:
            state = "has changed since it was exported" if path.exists() else "is missing"
            return Verification(artifact.format, artifact.path, "not run here", False, f"the file {state}")
        absent = available(artifact.format)
        if absent is not None and artifact.format != "coreml":
            return Verification(artifact.format, artifact.path, f"not run here: {absent}", False, absent)
        if absent is not None:
            return _evaluate(artifact, path, reference, inputs, limits, check(path, artifact, program), absent)
        return _run(artifact, path, reference, inputs, limits)
    except CompressError as error:
        return Verification(artifact.format, artifact.path, "not run here", False, str(error))


def _evaluate(
    artifact: Artifact, path: Path, reference: Reference, inputs: Sequence[tuple[np.ndarray, ...]], limits: Threshold,
    findings: Sequence[Finding], absent: str,
) -> Verification:  # fmt: skip
    """The finding on a Core ML package away from a Mac: its structure, and its numbers by the reference evaluator.

    Where the evaluator does not know all its operations, the structure alone decides, and the reason says so.
    """
    lines = tuple(str(finding) for finding in findings)
    wrong = [str(finding) for finding in findings if not finding.passed]
    try:
        found = _run(artifact, path, reference, inputs, limits)
    except ToolError as refusal:
        reason = "; ".join(wrong) or f"structure checked, numbers not: {absent}, and {refusal}"
        found = Verification(artifact.format, artifact.path, f"not run here: {absent}", not wrong, reason)
    except CompressError as error:
        wrong.append(str(error))
        found = Verification(artifact.format, artifact.path, f"not run here: {absent}", False, "; ".join(wrong))
    else:
        reasons = [*wrong, *([] if found.passed else [found.reason])]
        found = replace(found, passed=not reasons, reason="; ".join(reasons) or found.reason)
    return replace(found, checks=lines)


def _run(
    artifact: Artifact, path: Path, reference: Reference, inputs: Sequence[tuple[np.ndarray, ...]], limits: Threshold
) -> Verification:
    if not inputs:
        raise CheckFailed("verification got no samples; hand it at least one held input")
    session = load_to_check(path, artifact.format)
    try:
        pairs = [(list(reference(*sample)), answer(session, sample)) for sample in inputs]
        ran_on = describe(session)
    finally:
        session.close()
    wanted, given = zip(*pairs, strict=True)
    return found_on(artifact, ran_on, wanted, given, limits)


def found_on(
    artifact: Artifact, ran_on: str, wanted: Sequence[Sequence[np.ndarray]], given: Sequence[Sequence[np.ndarray]],
    limits: Threshold,
) -> Verification:  # fmt: skip
    """The finding on an artifact's outputs `given` where the model gives `wanted`, one entry per sample.

    Raises:
        CheckFailed: another number of outputs, or other shapes.
    """
    worst = min(distance([left], [right]).sqnr_db for left, right in zip(wanted, given, strict=True))
    overall = distance(wanted, given)
    reason = judge(overall, limits)
    return Verification(
        artifact.format, artifact.path, ran_on, not reason, reason or "within the threshold",
        max_error=overall.max_error, mean_error=overall.mean_error, max_relative_error=overall.max_relative_error,
        sqnr_db=overall.sqnr_db, sqnr_db_min=worst, samples=len(given),
    )  # fmt: skip


def answer(session: Session, sample: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a loaded artifact for one sample.

    Raises:
        CheckFailed: its runtime gives up; each has exceptions of its own.
    """
    try:
        return list(session.run(*sample))
    except CompressError:
        raise
    except Exception as error:
        words = (str(error).strip() or repr(error)).splitlines()[0]
        raise CheckFailed(f"{session.name} cannot run it: {words}") from error


def distance(wanted: Sequence[Sequence[np.ndarray]], given: Sequence[Sequence[np.ndarray]]) -> Parity:
    """How far the outputs `given` are from `wanted`, over all outputs of all samples.

    Raises:
        CheckFailed: another number of outputs, or other shapes.
    """
    for lefts, rights in zip(wanted, given, strict=True):
        if len(lefts) != len(rights):
            raise CheckFailed(f"the artifact gives {len(rights)} outputs where the model gives {len(lefts)}")
        for left, right in zip(lefts, rights, strict=True):
            if left.shape != right.shape:
                raise CheckFailed(f"the artifact gives shape {right.shape} where the model gives {left.shape}")
    return compare(*(np.concatenate([x.ravel() for sample in side for x in sample]) for side in (wanted, given)))


def judge(parity: Parity, limits: Threshold) -> str:
    """Why the parity misses the limits, or "" where it keeps them."""
    if not parity.finite:
        return "the artifact gives NaN or infinite numbers"
    error, sqnr = limits.max_relative_error, limits.min_sqnr_db
    if error is not None and parity.max_relative_error > error:
        return f"the largest error is {parity.max_relative_error:.2g} of the range, the limit {error:.2g}"
    if sqnr is not None and parity.sqnr_db < sqnr:
        return f"SQNR is {parity.sqnr_db:.1f} dB, the limit {sqnr:.1f} dB"
    return ""


def describe(session: Session) -> str:
    """What ran: "onnxruntime 1.32.0, x86_64 CPU, 1 thread"."""
    threads = f"{session.threads} thread{'s' if session.threads != 1 else ''}"
    return f"{session.name} {session.version}, {platform.machine()} CPU, {threads}"


def predictor(session: Session, output: int = 0) -> Callable[..., np.ndarray]:
    """A function from input batches (N, ...) to the artifact's `output`-th output (N, ...), one sample at a time.

    It raises CheckFailed where the runtime gives up.
    """

    def predict(*inputs: np.ndarray) -> np.ndarray:
        samples = ([x[i : i + 1] for x in inputs] for i in range(len(inputs[0])))
        return np.concatenate([answer(session, sample)[output] for sample in samples])

    return predict
