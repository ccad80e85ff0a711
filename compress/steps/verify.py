"""The verify step: every artifact in its real runtime against the model, value by value and by the task's quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress import runtimes
from compress import verify as room
from compress.checkpoint import Student
from compress.job import Job
from compress.recipe import Verify
from compress.steps.export import ARTIFACTS, programs
from compress.steps.outcome import Outcome
from compress.steps.reference import torch_reference
from compress.types import Artifact, Number


def run(job: Job, index: int, settings: Verify, folder: Path, student: Student) -> Outcome:
    """Verify all artifacts; one that fails its gate fails the run."""
    artifacts = [Artifact.from_dict(a) for a in job.extra_of("export")["artifacts"]]
    samples = held_samples(job, settings.samples)
    exported = programs(job, None, student)
    rows: list[dict[str, Any]] = []
    qualities: dict[str, Number] = {}
    limits = {scheme: limits_of(settings, scheme, student, samples) for scheme in {a.scheme for a in artifacts}}
    with job.console.progress("verify") as bar:
        for number, artifact in enumerate(artifacts):
            bar.update(number, len(artifacts), f"{artifact.format} {artifact.scheme}")
            model = student.model if artifact.scheme == "float32" else student.final
            if artifact.scheme not in qualities:
                qualities[artifact.scheme] = job.quality(model, "test", settings.quality_samples)
            program = exported.get(artifact.scheme)
            rows.append(_verify(job, settings, artifact, model, program, samples, qualities, limits[artifact.scheme]))
    failed = [f"{row['format']} {row['scheme']}: {row['reason']}" for row in rows if not row["passed"]]
    return Outcome(
        f"{len(rows) - len(failed)} of {len(rows)} pass, {_ran_words(rows)}",
        extra={
            "rows": rows,
            "limits": {s: asdict(limit) for s, limit in limits.items()},
            "own_quality": {scheme: q.to_dict() for scheme, q in qualities.items()},
            "uses": [row for scheme in qualities for row in _uses(job, student, scheme, qualities[scheme])],
        },
        warnings=failed,
        failed="; ".join(failed),
        exit_code=1 if failed else 0,
    )


def _verify(
    job: Job,
    settings: Verify,
    artifact: Artifact,
    model: nn.Module,
    program: Any,
    samples: list[tuple[np.ndarray, ...]],
    qualities: dict[str, Number],
    limits: room.Threshold,
) -> dict[str, Any]:
    folder = job.folder / ARTIFACTS
    found = room.verify_artifact(artifact, folder, torch_reference(model), samples, limits, program)
    row = {**found.to_dict(), "scheme": artifact.scheme, "quality": None, "more_qualities": {}}
    if found.samples:
        predict = runtime_predictor(folder / artifact.path, artifact.format)
        quality = job.judged_task.quality(predict, "test", settings.quality_samples)
        row["quality"] = quality.to_dict()
        if artifact.scheme == job.recipe.scheme:  # figures of whole sets of pictures take long
            row["more_qualities"] = {n: q.to_dict() for n, q in job.judged_task.more_qualities(predict).items()}
        gap = abs((quality.value or 0.0) - (qualities[artifact.scheme].value or 0.0))
        if found.passed and gap > settings.max_quality_gap:
            row["passed"] = False
            row["reason"] = f"its quality is {gap:.4f} from the model's own (allowed {settings.max_quality_gap:g})"
    if row["passed"]:
        room.write_golden(artifact, folder, torch_reference(model), samples, limits)
    elif (folder / artifact.path).exists():
        row["divergence"] = _divergence(folder / artifact.path, artifact, model, samples[0], row)
    return row


def _uses(job: Job, student: Student, scheme: str, own: Number) -> list[dict[str, Any]]:
    """The model of a scheme in every way in which it can be used, with its quality; the first is its own way."""
    uses = job.judged_task.uses(job.predictor(student.model if scheme == "float32" else student.final))
    return [
        {
            "name": name,
            "scheme": scheme,
            "evaluations": use.evaluations,
            "quality": (job.judged_task.quality(use.predict, "test", own.n) if number else own).to_dict(),
        }
        for number, (name, use) in enumerate(uses.items())
    ]


def limits_of(settings: Verify, scheme: str, student: Student, samples: list[tuple[np.ndarray, ...]]) -> room.Threshold:
    """What files of a scheme must keep: the recipe's word, else the scheme's, where the model is not itself noisier."""
    given = settings.limits_of(scheme)
    limits = room.threshold_of(scheme, **given)
    if scheme == "float32" or student.quantized is None or "min_sqnr_db" in given:
        return limits
    floats, rounded = torch_reference(student.model), torch_reference(student.quantized)
    outputs = [(floats(*sample)[0], rounded(*sample)[0]) for sample in samples]
    own = room.compare(*(np.concatenate(side) for side in zip(*outputs, strict=True)))
    return room.beside_own_noise(limits, own.sqnr_db)


def _ran_words(rows: list[dict[str, Any]]) -> str:
    """How many artifacts ran in their own runtime, and how many only in the reference evaluator."""
    formats = [row["format"] for row in rows if row["quality"] is not None]
    ran = sum(runtimes.available(format) is None for format in formats)
    words = f"{ran} ran in their runtime here"
    return words if ran == len(formats) else f"{words}, {len(formats) - ran} in the Core ML reference evaluator"


def _divergence(
    path: Path, artifact: Artifact, model: nn.Module, sample: tuple[np.ndarray, ...], row: dict[str, Any]
) -> dict[str, Any]:
    """Where a failed artifact leaves the model, as plain data; the verdict also goes behind the row's reason."""
    verdict = room.explain(model, path, artifact.format, artifact.scheme, sample)
    if verdict.compared:
        row["reason"] += f"; {verdict}"
    return verdict.to_dict()


def held_samples(job: Job, count: int) -> list[tuple[np.ndarray, ...]]:
    """The first test samples as batch-1 arrays."""
    found: list[tuple[np.ndarray, ...]] = []
    for batch in job.task.batches("test"):
        for i in range(len(batch)):
            found.append(tuple(x[i : i + 1].contiguous().numpy() for x in batch.inputs))
            if len(found) == count:
                return found
    return found


def runtime_predictor(path: Path, format: str) -> Callable[..., Tensor]:
    """An artifact as a function of tensors (N, ...), run sample by sample in its runtime (see `load_to_check`)."""
    predict = room.predictor(runtimes.load_to_check(path, format))
    return lambda *inputs: torch.from_numpy(predict(*(x.contiguous().numpy() for x in inputs)))
