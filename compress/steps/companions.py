"""The networks that are shipped beside the student as they are: exported in its scheme, each file run and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress import export as room
from compress import quantize, verify
from compress.errors import ToolError
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from compress.job import Job
from compress.recipe import Export
from compress.steps.reference import torch_reference
from compress.tasks import Companion

CHECKED = 8
"""Examples that a companion's file is compared on; the others calibrate it."""


def export_companions(job: Job, settings: Export, target: Path, scheme: str) -> list[dict[str, Any]]:
    """Writes every companion of the task in every format; returns a row per file, also for those that were refused.

    A row has `name`, `format`, `scheme`, `path`, `size_bytes`, `passed` and `reason`, and in dB `sqnr_db` against the
    torch network of the same scheme and `rounding_db`, how far that one is from the float network.
    """
    rows: list[dict[str, Any]] = []
    for companion in job.task.companions():
        rows += _export(job, companion, settings, target, scheme)
    return rows


def _export(job: Job, companion: Companion, settings: Export, target: Path, scheme: str) -> list[dict[str, Any]]:
    calibrating, checked = companion.examples[CHECKED:] or companion.examples, companion.examples[:CHECKED]
    original = fold_batch_norms(trace(companion.network, companion.examples[0]))
    model: Any = original
    if scheme != "float32":
        model = quantize.apply(original, quantize.plan(original, scheme, calibrating))
    samples = [tuple(x.contiguous().numpy() for x in example) for example in checked]
    reference, exact = torch_reference(model), torch_reference(original)
    own = verify.compare(exact(*samples[0])[0], reference(*samples[0])[0])
    limits = verify.threshold_of(scheme)
    if scheme != "float32":
        limits = verify.beside_own_noise(limits, own.sqnr_db)
    program = export_static(model, companion.examples[0])
    rows = []
    for format in settings.formats:
        job.console.say(f"  writing {companion.name}, {format} {scheme}")
        row = {"name": companion.name, "format": format, "scheme": scheme, "rounding_db": own.sqnr_db}
        try:
            made = room.export(program, format, scheme, target, f"{job.recipe.name}-{companion.name}-{scheme}")
        except ToolError as error:
            job.console.warn(str(error))
            rows.append(row | {"path": "", "size_bytes": None, "sqnr_db": None, "passed": False, "reason": str(error)})
            continue
        found = verify.verify_artifact(made, target, reference, samples, limits, program)
        rows.append(
            row
            | {"path": made.path, "size_bytes": made.size_bytes, "sqnr_db": found.sqnr_db, "ran_on": found.ran_on}
            | {"passed": found.passed, "reason": found.reason}
        )
    return rows
