"""The file of a ladder: all rungs that the search trained, in one ONNX file, each held against a file of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from compress import export as room
from compress.checkpoint import load_weights, rebuild
from compress.export.files import size_bytes_of
from compress.export.ladder import RUNG, write_ladder
from compress.files import sha256_of
from compress.graph.trace import export_static
from compress.job import Job

MAX_ERROR = 1e-6
"""The largest difference between a rung of the file and its own file, in shares of the output's largest value."""
SAMPLES = 4


def export_ladder(job: Job, folder: Path) -> dict[str, Any] | None:
    """Writes `<name>-ladder.onnx` where the recipe's search is a ladder; returns its record, else None.

    The record has `path`, `size_bytes`, `sha256` and `rungs`: each with its `share`, `rung`, its number in the file,
    and `max_error` against its own file, both run in onnxruntime on validation samples, as they are written: what the
    runtime makes of a file to be fast rounds otherwise in every file.

    Raises:
        ToolError: a rung cannot be written.
    """
    if not any(step.verb == "search" and step.settings.method == "ladder" for step in job.recipe.steps):
        return None
    rungs = job.extra_of("search")["rungs"]
    path = folder / f"{job.recipe.name}-ladder.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        alone = []
        for rung in rungs:
            program = export_static(_rebuilt(job, rung), job.example_inputs)
            made = room.export(program, "onnx", "float32", scratch, f"rung-{rung['share']}")
            alone.append(Path(scratch) / made.path)
        write_ladder(alone, path)
        errors = _errors(path, alone, _samples(job))
    return {
        "path": path.name,
        "size_bytes": size_bytes_of(path),
        "sha256": sha256_of(path),
        "rungs": [
            {"share": rung["share"], "rung": number, "max_error": errors[number]} for number, rung in enumerate(rungs)
        ],
    }


def verdict(record: dict[str, Any]) -> tuple[str, str]:
    """(what the file holds, why it fails or ""), in words."""
    shares = ", ".join(rung["share"] for rung in record["rungs"])
    worst = max(record["rungs"], key=lambda rung: rung["max_error"])
    said = f"{record['path']} holds the rungs {shares} (float32), each within {worst['max_error']:.1g} of its own file"
    if worst["max_error"] <= MAX_ERROR:
        return said, ""
    return said, (
        f"{record['path']}: rung {worst['share']} is {worst['max_error']:.2g} of the output's range from its own file "
        f"(allowed {MAX_ERROR:g}); do not ship it, and report this; the rungs' weights lie in the search step's folder"
    )


def _rebuilt(job: Job, rung: dict[str, Any]) -> fx.GraphModule:
    folder = job.step_folder(job.verbs.index("search"))
    return rebuild(job.base, rung["plans"], load_weights(folder / rung["weights"]), job.example_inputs).model


def _samples(job: Job) -> list[tuple[np.ndarray, ...]]:
    batch = next(iter(job.task.batches("validation")))
    return [tuple(x[i : i + 1].contiguous().numpy() for x in batch.inputs) for i in range(min(SAMPLES, len(batch)))]


def _errors(path: Path, alone: list[Path], samples: list[tuple[np.ndarray, ...]]) -> list[float]:
    """The largest relative difference of each rung to its own file."""
    ladder, errors = _session(path), []
    for number, file in enumerate(alone):
        single, differences = _session(file), []
        for sample in samples:
            feeds = {entry.name: x for entry, x in zip(single.get_inputs(), sample, strict=True)}
            wanted = single.run(None, feeds)[0]
            found = ladder.run(None, feeds | {RUNG: np.array(number, np.int64)})[0]
            differences.append(float(np.abs(found - wanted).max() / max(1e-12, np.abs(wanted).max())))
        errors.append(max(differences))
    return errors


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
