"""The export step: every scheme in every format; a format that refuses an op is named and the others still come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import fx, nn

from compress import export as room
from compress.checkpoint import Student
from compress.errors import CheckFailed, ToolError
from compress.export.pipeline import write_manifest
from compress.graph.trace import export_static
from compress.job import Job
from compress.recipe import Export
from compress.report.words import grouped
from compress.steps.companions import export_companions
from compress.steps.export_ladder import export_ladder, verdict
from compress.steps.outcome import Outcome
from compress.types import Artifact

ARTIFACTS = "artifacts"


def programs(job: Job, settings: Export | None, student: Student) -> dict[str, Any]:
    """The student as an exported program (batch size 1) for each scheme that is asked for."""
    models: dict[str, fx.GraphModule] = {"float32": student.model}
    if student.quantized is not None:
        models[job.recipe.scheme] = student.quantized
    asked = settings.schemes if settings is not None and settings.schemes else tuple(models)
    return {scheme: export_static(models[scheme], job.example_inputs) for scheme in asked if scheme in models}


def run(job: Job, index: int, settings: Export, folder: Path, student: Student) -> Outcome:
    """Write the artifacts into the run folder; what was trained only to teach must not be among their weights."""
    target = job.folder / ARTIFACTS
    written: list[Artifact] = []
    refused: list[dict[str, str]] = []
    for scheme, program in programs(job, settings, student).items():
        model = student.quantized if scheme != "float32" and student.quantized is not None else student.model
        assert_same_weights(program, model)
        for format in settings.formats:
            job.console.say(f"  writing {format} {scheme}")
            try:
                written.append(room.export(program, format, scheme, target, f"{job.recipe.name}-{scheme}"))
            except ToolError as error:
                job.console.warn(str(error))
                refused.append({"format": format, "scheme": scheme, "reason": str(error)})
    try:
        ladder = export_ladder(job, target)
    except ToolError as error:
        ladder = None
        refused.append({"format": "onnx", "scheme": "float32", "reason": f"the ladder's file: {error}"})
    said, failed = verdict(ladder) if ladder is not None else ("", "")
    scheme = job.recipe.scheme if student.quantized is not None else "float32"
    companions = export_companions(job, settings, target, scheme)
    bad = [
        f"{row['name']}, {row['format']} {row['scheme']}: {row['reason']}" for row in companions if not row["passed"]
    ]
    failed = "; ".join([*([failed] if failed else []), *bad])
    pipeline = write_pipeline(job, target, written, student, companions)
    return Outcome(
        f"{len(written)} artifacts" + (f", {len(refused)} refused" if refused else "") + (f"; {said}" if said else ""),
        warnings=[row["reason"] for row in refused]
        + [f"{a.format} {a.scheme}: {op} stays float" for a in written for op in grouped(a.float_ops)]
        + ([failed] if failed else []),
        extra={"artifacts": [a.to_dict() for a in written], "refused": refused, "companions": companions}
        | ({"ladder": ladder} if ladder is not None else {}),
        files=[
            *([target / ladder["path"]] if ladder is not None else []),
            *(target / row["path"] for row in companions if row["path"]),
            *pipeline,
        ],
        failed=failed,
        exit_code=1 if failed else 4 if refused else 0,
    )


def write_pipeline(
    job: Job, target: Path, written: list[Artifact], student: Student, companions: list[dict[str, Any]]
) -> list[Path]:
    """Write what a runner needs beside the artifacts, where the task says so; returns the files."""
    manifest = job.judged_task.manifest()
    if manifest is None:
        return []
    golden = {name: x.numpy() for name, x in job.judged_task.golden(job.predictor(student.model)).items()}
    models: dict[str, dict[str, str]] = {"denoiser": {f"{a.format} {a.scheme}": Path(a.path).name for a in written}}
    for row in companions:
        if row["path"]:
            models.setdefault(row["name"], {})[f"{row['format']} {row['scheme']}"] = Path(row["path"]).name
    return write_manifest(target, job.recipe.name, manifest, models, golden)


def assert_same_weights(program: Any, model: nn.Module) -> None:
    """Raise CheckFailed unless the program holds the student's tensors and no others (projectors, discriminators)."""
    exported = {name for name in program.state_dict if not name.endswith("num_batches_tracked")}
    own = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    if not exported <= own:
        raise CheckFailed(
            f"the export holds tensors that are not the student's: {', '.join(sorted(exported - own)[:3])}"
        )
    count = sum(program.state_dict[name].numel() for name in exported)
    expected = sum(model.state_dict()[name].numel() for name in own)
    if count != expected:
        raise CheckFailed(f"the export holds {count} weights, the student has {expected}")
