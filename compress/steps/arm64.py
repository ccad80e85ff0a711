"""The artifacts of a finished run on emulated ARM: what `compress verify --arch arm64` adds to the verify step."""

from __future__ import annotations

from typing import Any

from compress.checkpoint import Student, load_weights, rebuild
from compress.errors import RunFolderError
from compress.files import read_json, write_json
from compress.job import Job
from compress.recipe import Verify
from compress.runtimes.arm64.root import ARCH, Root
from compress.steps.export import ARTIFACTS
from compress.steps.reference import torch_reference
from compress.steps.verify import held_samples, limits_of
from compress.types import Artifact
from compress.verify.arm64 import verify_emulated


def verify_run(job: Job, root: Root) -> list[dict[str, Any]]:
    """One row of plain data per artifact of a run whose verify step is done; also written as `arm64.json` there.

    The inputs, the reference and the limits are those of the verify step.
    """
    records = _records(job)
    settings: Verify = next(step.settings for step in reversed(job.recipe.steps) if step.verb == "verify")
    student, samples = _student(job, records), held_samples(job, settings.samples)
    exported = next(record for record in reversed(records) if record["verb"] == "export")["outcome"]["extra"]
    artifacts = [Artifact.from_dict(entry) for entry in exported["artifacts"]]
    rows = []
    with job.console.progress(f"verify on {ARCH}") as bar:
        for number, artifact in enumerate(artifacts):
            bar.update(number, len(artifacts), f"{artifact.format} {artifact.scheme}")
            model = student.model if artifact.scheme == "float32" else student.final
            limits = limits_of(settings, artifact.scheme, student, samples)
            found = verify_emulated(root, artifact, job.folder / ARTIFACTS, torch_reference(model), samples, limits)
            rows.append({**found.to_dict(), "scheme": artifact.scheme})
    write_json(job.folder / f"{ARCH}.json", {"system": root.describe(), "rows": rows})
    return rows


def _records(job: Job) -> list[dict[str, Any]]:
    """What each finished step left, in order.

    Raises:
        RunFolderError: the run has not come to its verify step.
    """
    paths = [job.step_folder(index) / "record.json" for index in range(len(job.verbs))]
    records = [read_json(path) for path in paths if path.is_file()]
    if "verify" not in [record["verb"] for record in records]:
        raise RunFolderError(f"{job.folder}: its artifacts are not verified yet; compress verify {job.folder} does it")
    return records


def _student(job: Job, records: list[dict[str, Any]]) -> Student:
    """The student that was exported, rebuilt from the last step that changed it."""
    record = next(record for record in reversed(records) if record.get("plans") is not None)
    weights = load_weights(job.step_folder(record["index"]) / "weights.safetensors")
    return rebuild(job.base, record["plans"], weights, job.example_inputs)


HEADERS = ["ARTIFACT", "RAN ON", "MAX ERROR", "SQNR", "FROM THIS HOST", "CHECK"]


def cells(row: dict[str, Any]) -> list[str]:
    """A row of `verify_run` as a person reads it; "–" where there is no figure."""
    host = row["host"]
    return [
        f"{row['format']} {row['scheme']}",
        row["ran_on"],
        "–" if row["max_error"] is None else f"{row['max_error']:.2g}",
        "–" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB",
        "–" if host is None else f"{host['max_error']:.2g} ({host['sqnr_db']:.1f} dB, {row['host_ran_on']})",
        "passed" if row["passed"] and row["samples"] else row["reason"],
    ]
