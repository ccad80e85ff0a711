"""The profile step: measured on this host, predicted on the target; the two are never mixed."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from compress import export as exporters
from compress import quantize, runtimes
from compress.checkpoint import Student
from compress.errors import ToolError
from compress.graph.cost import cost_of
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static
from compress.job import Job
from compress.profile.measure import measure, measure_alternately
from compress.profile.measure_memory import peak_memory
from compress.recipe import Profile
from compress.steps.export import ARTIFACTS
from compress.steps.outcome import Outcome
from compress.steps.verify import held_samples
from compress.types import Artifact

BASELINE_FORMAT = "onnx"
LOADER = "compress.runtimes:load"


def run(job: Job, index: int, settings: Profile, folder: Path, student: Student) -> Outcome:
    """Measure every artifact that runs here, the teacher's beside them, and predict all of them on the target."""
    artifacts = [Artifact.from_dict(a) for a in job.extra_of("export")["artifacts"]]
    (sample,) = held_samples(job, 1)
    rows = []
    with job.console.progress("profile") as bar:
        for number, artifact in enumerate(artifacts):
            bar.update(number, len(artifacts), f"{artifact.format} {artifact.scheme}")
            rows.append(_measure(job, settings, artifact, sample, student))
        baseline = _baseline(job, settings, folder, artifacts, sample) if settings.baseline else []
    quantized = [row for row in baseline if row["name"].endswith("w8a8")]
    warnings = _slower(quantized) + _predicted_slower(job, rows)
    measured = sum(row["latency"] is not None for row in rows)
    return Outcome(
        f"{measured} artifacts measured on this host, {len(rows)} predicted on {job.target.name} {job.recipe.unit}",
        warnings=warnings,
        extra={"rows": rows, "baseline": baseline},
    )


def _measure(job: Job, settings: Profile, artifact: Artifact, sample: Any, student: Student) -> dict[str, Any]:
    cost = job.cost_model(artifact.scheme)  # type: ignore[arg-type]
    predicted = cost.latency_of(cost_of(student.model, job.example_inputs).ops)
    row: dict[str, Any] = {
        "format": artifact.format,
        "scheme": artifact.scheme,
        "path": artifact.path,
        "predicted_latency": predicted.to_dict(),
        "latency": None,
    }
    absent = runtimes.available(artifact.format)
    if absent is not None:
        row["reason"] = absent
        return row
    path = job.folder / ARTIFACTS / artifact.path
    done = measure(
        lambda: runtimes.load(path, artifact.format),
        sample,
        runs=settings.runs,
        warm_up=settings.warm_up,
        label=artifact.format,
        memory=lambda: peak_memory(LOADER, [str(path), artifact.format], sample),
    )
    row |= {
        "latency": done.latency.to_dict(),
        "latency_p90": done.latency_p90.to_dict(),
        "load_ms": done.load.to_dict(),
        "peak_memory_bytes": done.peak_memory.to_dict(),
    }
    return row


def _baseline(
    job: Job, settings: Profile, folder: Path, artifacts: list[Artifact], sample: Any
) -> list[dict[str, Any]]:
    """Teacher and student, float and quantized, through one runtime, measured in turns."""
    if exporters.available(BASELINE_FORMAT) is not None:
        return []
    files: dict[str, tuple[Path, int]] = {}
    for scheme, program in _teacher_programs(job).items():
        try:
            made = exporters.export(program, BASELINE_FORMAT, scheme, folder, f"teacher-{scheme}")
        except ToolError as error:
            job.console.warn(f"the teacher's {scheme} baseline was not written: {error}")
            continue
        files[f"teacher {scheme}"] = (folder / made.path, made.size_bytes)
    for artifact in artifacts:
        if artifact.format == BASELINE_FORMAT:
            files[f"student {artifact.scheme}"] = (job.folder / ARTIFACTS / artifact.path, artifact.size_bytes)
    sessions = {name: runtimes.load(path, BASELINE_FORMAT) for name, (path, _) in files.items()}
    measured = measure_alternately(sessions, sample, rounds=settings.runs, warm_up=settings.warm_up)
    return [
        {
            "name": name,
            "format": BASELINE_FORMAT,
            "latency": done.latency.to_dict(),
            "latency_p90": done.latency_p90.to_dict(),
            "size_bytes": files[name][1],
        }
        for name, done in measured.items()
    ]


def _teacher_programs(job: Job) -> dict[str, Any]:
    """The teacher as it came, and quantized post-training with the student's scheme."""
    programs = {"float32": export_static(job.traced_teacher, job.example_inputs)}
    if job.recipe.scheme != "float32":
        folded = fold_batch_norms(job.traced_teacher)
        plan = quantize.plan(folded, job.recipe.scheme, [batch.inputs for batch in job.train_batches(4)])
        programs[job.recipe.scheme] = export_static(quantize.apply(folded, plan), job.example_inputs)
    return programs


def _slower(rows: list[dict[str, Any]]) -> list[str]:
    """A warning where the student's quantized file is not faster than the teacher's on this host."""
    times = {row["name"].split()[0]: row["latency"]["value"] for row in rows}
    if {"teacher", "student"} <= times.keys() and times["student"] >= times["teacher"]:
        return [
            f"on this host the quantized student takes {times['student']:.3f} ms, the quantized teacher "
            f"{times['teacher']:.3f} ms: fewer MACs, but not faster here"
        ]
    return []


def _predicted_slower(job: Job, rows: list[dict[str, Any]]) -> list[str]:
    """A warning where quantizing is predicted to make the student slower on the target than leaving it float."""
    predicted = {row["scheme"]: row["predicted_latency"]["value"] for row in rows}
    scheme = job.recipe.scheme
    if scheme == "float32" or "float32" not in predicted or predicted.get(scheme, 0.0) <= predicted["float32"]:
        return []
    return [
        f"on {job.target.name} {job.recipe.unit} the {scheme} student is predicted to take {predicted[scheme]:.3g} ms, "
        f"in float32 {predicted['float32']:.3g} ms: quantizing shrinks the file but may not speed it up there"
    ]


def environment_versions() -> dict[str, str]:
    """The versions of everything whose version changes results, of what is installed."""
    names = (
        "torch", "torchao", "torch-pruning", "lightning-fabric", "onnx", "onnxruntime", "litert-torch",
        "ai-edge-litert", "ai-edge-quantizer", "executorch", "coremltools", "nncf", "optuna", "numpy",
    )  # fmt: skip
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
