"""The gate an artifact passes before it ships: run on held inputs, compared with the model, judged by a threshold."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from compress.errors import CheckFailed, CompressError
from compress.files import sha256_of
from compress.runtimes import available, load
from compress.runtimes.session import Session
from compress.types import Artifact
from compress.verify.parity import Parity, compare
from compress.verify.structure import check

Reference = Callable[..., Sequence[np.ndarray]]


@dataclass(frozen=True, slots=True)
class Threshold:
    """What an artifact must keep: each limit that is not None.

    `max_relative_error` bounds the largest error over the reference's largest magnitude, over all samples;
    `min_sqnr_db` bounds the SQNR over all samples.
    """

    max_relative_error: float | None = None
    min_sqnr_db: float | None = None


# float32: other kernels, other summation order; measured 1e-7 to 1e-5 of the range, so 1e-3 is a wrong graph.
# w8a8, against the program's own fake quantization: what is left are roundings that fall the other way; 34 dB on a
# 60-layer MobileNet, more on smaller nets. A wrong scale or weight costs tens of dB, so 20 dB is the line.
THRESHOLDS: dict[str, Threshold] = {
    "float32": Threshold(max_relative_error=1e-3),
    "w8a8": Threshold(min_sqnr_db=20.0),
}


@dataclass(frozen=True, slots=True)
class Verification:
    """What the gate found. Error figures are None where the artifact could not be run.

    `sqnr_db` is over all samples, `sqnr_db_min` the worst single sample's. `ran_on` names the runtime, its version
    and this machine's CPU, or says "not run here: ..." and why. `checks` lists what was looked at instead.
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
        threshold: the limits; THRESHOLDS[artifact.scheme] by default.
        program: the exported program behind the artifact: what a Core ML package that cannot run here is checked
            against. Without it only the package itself is looked at.
    """
    path = Path(folder) / artifact.path
    limits = threshold or THRESHOLDS[artifact.scheme]
    try:
        if not path.exists() or sha256_of(path) != artifact.sha256:
            state = "has changed since it was exported" if path.exists() else "is missing"
            return Verification(artifact.format, artifact.path, "not run here", False, f"the file {state}")
        absent = available(artifact.format)
        if absent is not None:
            return _unrun(artifact, path, absent, program)
        return _run(artifact, path, reference, inputs, limits)
    except CompressError as error:
        return Verification(artifact.format, artifact.path, "not run here", False, str(error))


def _unrun(artifact: Artifact, path: Path, absent: str, program: Any) -> Verification:
    """The finding on an artifact whose runtime is not here: its structure, for Core ML; a refusal for the rest."""
    ran_on = f"not run here: {absent}"
    if artifact.format != "coreml":
        return Verification(artifact.format, artifact.path, ran_on, False, absent)
    findings = check(path, artifact, program)
    wrong = [str(finding) for finding in findings if not finding.passed]
    reason = "; ".join(wrong) or "structure checked, numbers not: " + absent
    lines = tuple(str(finding) for finding in findings)
    return Verification(artifact.format, artifact.path, ran_on, not wrong, reason, checks=lines)


def _run(
    artifact: Artifact, path: Path, reference: Reference, inputs: Sequence[tuple[np.ndarray, ...]], limits: Threshold
) -> Verification:
    if not inputs:
        raise CheckFailed("verification got no samples; hand it at least one held input")
    session = load(path, artifact.format)
    try:
        pairs = [_pair(reference, session, sample) for sample in inputs]
        ran_on = describe(session)
    finally:
        session.close()
    worst = min(compare(wanted, given).sqnr_db for wanted, given in pairs)
    overall = compare(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    reason = _judge(overall, limits)
    return Verification(
        artifact.format, artifact.path, ran_on, not reason, reason or "within the threshold",
        max_error=overall.max_error, mean_error=overall.mean_error, max_relative_error=overall.max_relative_error,
        sqnr_db=overall.sqnr_db, sqnr_db_min=worst, samples=len(inputs),
    )  # fmt: skip


def _pair(reference: Reference, session: Session, sample: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(reference, output) for one sample, all outputs in one flat array each."""
    wanted, given = list(reference(*sample)), session.run(*sample)
    if len(wanted) != len(given):
        raise CheckFailed(f"the artifact gives {len(given)} outputs where the model gives {len(wanted)}")
    for left, right in zip(wanted, given, strict=True):
        if left.shape != right.shape:
            raise CheckFailed(f"the artifact gives shape {right.shape} where the model gives {left.shape}")
    return np.concatenate([value.ravel() for value in wanted]), np.concatenate([value.ravel() for value in given])


def _judge(parity: Parity, limits: Threshold) -> str:
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


def predictor(session: Session, output: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a batch (N, ...) to the artifact's `output`-th output (N, ...), one sample at a time."""

    def predict(batch: np.ndarray) -> np.ndarray:
        rows = [session.run(batch[index : index + 1])[output] for index in range(len(batch))]
        return np.concatenate(rows)

    return predict
