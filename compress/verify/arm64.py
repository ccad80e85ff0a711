"""The gate on emulated ARM: an artifact's outputs there against the model's, and against those of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import CompressError
from compress.files import sha256_of
from compress.runtimes import available, load
from compress.runtimes.arm64.emulate import run_artifact
from compress.runtimes.arm64.root import ARCH, FORMATS, NOT_THERE, Root
from compress.types import Artifact
from compress.verify.gate import Reference, Verification, answer, describe, distance, found_on, judge
from compress.verify.parity import Parity
from compress.verify.thresholds import Threshold, threshold_of

Sample = tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True)
class EmulatedVerification:
    """What was found on emulated ARM.

    `found` is the distance from the model's outputs, as the gate gives it for this machine. `host` is the distance
    from this machine's runtime (whose version may differ: `host_ran_on`), judged by the same threshold; None where
    that runtime is not here. There is no latency: an emulator's speed is nobody's.
    """

    found: Verification
    host: Parity | None = None
    host_ran_on: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON data."""
        host = self.host.to_dict() if self.host is not None else None
        return {**self.found.to_dict(), "arch": ARCH, "host": host, "host_ran_on": self.host_ran_on}


def verify_emulated(
    root: Root,
    artifact: Artifact,
    folder: str | Path,
    reference: Reference,
    inputs: Sequence[Sample],
    threshold: Threshold | None = None,
) -> EmulatedVerification:
    """Runs an artifact in the emulated system and judges it; never raises for a bad artifact or a crash there.

    An artifact whose format has no runtime there passes as "not run there", with the reason: nothing was found for it
    or against it.

    Args:
        root: the emulated system (`compress.runtimes.arm64.root.find_root`).
        artifact: the description the exporter gave.
        folder: where `artifact.path` lies.
        reference: the model's outputs for one set of inputs; for a quantized artifact the fake-quantized program's.
        inputs: one tuple of float32 arrays, batch 1, per sample.
        threshold: the limits; the scheme's own by default.
    """
    path = Path(folder) / artifact.path
    if artifact.format not in FORMATS:
        reason = NOT_THERE.get(artifact.format, f"{artifact.format} has no runtime on {ARCH}")
        return _unrun(artifact, True, f"not run there: {reason}")
    if not path.exists() or sha256_of(path) != artifact.sha256:
        state = "has changed since it was exported" if path.exists() else "is missing"
        return _unrun(artifact, False, f"the file {state}")
    try:
        run = run_artifact(root, path, artifact.format, inputs)
        limits = threshold or threshold_of(artifact.scheme)
        return _judged(artifact, path, run.outputs, run.ran_on, [tuple(reference(*x)) for x in inputs], inputs, limits)
    except CompressError as error:
        return _unrun(artifact, False, str(error))


def _unrun(artifact: Artifact, passed: bool, reason: str) -> EmulatedVerification:
    return EmulatedVerification(Verification(artifact.format, artifact.path, "not run there", passed, reason))


def _judged(
    artifact: Artifact,
    path: Path,
    outputs: Sequence[Sample],
    ran_on: str,
    wanted: Sequence[Sample],
    inputs: Sequence[Sample],
    limits: Threshold,
) -> EmulatedVerification:
    """The finding on outputs that came back: against the model, then against this machine's runtime."""
    found = found_on(artifact, ran_on, wanted, outputs, limits)
    host, host_ran_on = _on_this_machine(artifact, path, inputs, outputs)
    if found.passed and host is not None and (apart := judge(host, limits)):
        found = replace(found, passed=False, reason=f"it differs from {host_ran_on}: {apart}")
    return EmulatedVerification(found, host, host_ran_on)


def _on_this_machine(
    artifact: Artifact, path: Path, inputs: Sequence[Sample], outputs: Sequence[Sample]
) -> tuple[Parity | None, str]:
    """How far the emulated outputs are from those of this machine's runtime, and what that is."""
    absent = available(artifact.format)
    if absent is not None:
        return None, f"not run here: {absent}"
    session = load(path, artifact.format)
    try:
        return distance([answer(session, x) for x in inputs], outputs), describe(session)
    finally:
        session.close()
