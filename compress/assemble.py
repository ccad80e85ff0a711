"""From the steps' records to the report: every figure with its origin, the budget judged on what really came out."""

from __future__ import annotations

import base64
import os
import platform
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compress import runtimes
from compress.checkpoint import Student, load_weights, rebuild
from compress.errors import UnknownName
from compress.graph.cost import cost_of
from compress.job import Job
from compress.profile.measure import cpu_name
from compress.recipe import OtherTarget
from compress.report.png import data_uri
from compress.report.schema import (
    ArtifactRow,
    BaselineRow,
    BudgetRow,
    CompanionRow,
    Environment,
    Figure,
    Figures,
    LayerRow,
    OtherTargetRow,
    Pareto,
    ParetoPoint,
    ReferenceRow,
    Report,
    SampleRow,
    StepRow,
    UseRow,
)
from compress.search import front, label
from compress.steps.export import ARTIFACTS
from compress.steps.profile import environment_versions
from compress.steps.verify import runtime_predictor
from compress.tasks.audio import wav_bytes
from compress.types import Scheme

Records = list[dict[str, Any]]


def assemble(job: Job, records: Records, command: str, started: str) -> Report:
    """The report of a finished run."""
    student = _last_student(job, records)
    by_verb = {record["verb"]: record["outcome"]["extra"] for record in records}
    artifacts = _artifacts(by_verb)
    teacher_figures = _teacher(job, by_verb["teacher"])
    judged_on = teacher_figures.quality.n if teacher_figures.quality else None
    student_figures = _student(job, student, by_verb, artifacts, judged_on)
    also = _also(job, student)
    budget = _budget(job, teacher_figures, student_figures, also)
    failed = any(record["outcome"]["failed"] for record in records)
    unmet = any(not row.met for row in budget)
    refused = any(record["outcome"]["exit_code"] == 4 for record in records)
    return Report(
        name=job.recipe.name,
        command=command,
        recipe=job.recipe.to_dict(),
        target=_target(job),
        quality_name=job.task.quality_name,
        higher_is_better=job.task.higher_is_better,
        environment=_environment(job, started),
        teacher=teacher_figures,
        student=student_figures,
        references=[ReferenceRow(**row) for row in by_verb["teacher"]["references"]],
        artifacts=artifacts,
        companions=[CompanionRow(**row) for row in by_verb.get("export", {}).get("companions", [])],
        budget=budget,
        also=also,
        uses=_uses(job, by_verb, teacher_figures, student),
        steps=[_step(record) for record in records],
        pareto=_pareto(by_verb.get("search")),
        layers=_layers(job, student),
        baseline=[BaselineRow(**row) for row in by_verb.get("profile", {}).get("baseline", [])],
        samples=_samples(job, student, artifacts),
        warnings=[w for record in records for w in record["outcome"]["warnings"]],
        exit_code=1 if failed else 3 if unmet else 4 if refused else 0,
    )


def _last_student(job: Job, records: Records) -> Student:
    record = next(r for r in reversed(records) if r.get("plans") is not None)
    path = job.step_folder(record["index"]) / "weights.safetensors"
    return rebuild(job.base, record["plans"], load_weights(path), job.example_inputs)


def _teacher(job: Job, extra: Mapping[str, Any]) -> Figures:
    cost = job.teacher_cost
    return Figures(
        quality=Figure.model_validate(extra["test_quality"]),
        params=Figure(value=cost.params, unit="parameters"),
        macs=Figure(value=cost.macs, unit="MACs"),
        size_bytes=Figure(value=cost.params * 4, unit="bytes", source="float32 parameters"),
        peak_activation_bytes=Figure(value=cost.peak_activation_bytes, unit="bytes", source="float32, batch size 1"),
        latency=Figure.of(job.cost_model("float32").latency_of(cost.ops)),
        more_qualities={name: Figure.model_validate(q) for name, q in extra["more_qualities"].items()},
        unknown_ops=dict(cost.unknown_ops),
        scheme="float32",
    )


def _student(
    job: Job, student: Student, by_verb: Mapping[str, Any], artifacts: list[ArtifactRow], teacher_samples: int | None
) -> Figures:
    scheme: Scheme = job.recipe.scheme if student.quantized is not None else "float32"
    cost = cost_of(student.model, job.example_inputs)
    checked = by_verb.get("verify", {}).get("own_quality", {}).get(scheme)
    # Verify may have looked at fewer samples; student and teacher are compared on the same ones.
    known = checked is not None and checked["n"] == teacher_samples
    quality = Figure.model_validate(checked) if known else Figure.of(job.quality(student.final))
    sizes = [row.size_bytes for row in artifacts if row.scheme == scheme and row.size_bytes]
    size = (
        Figure(value=max(sizes), unit="bytes", source=f"the largest of {len(sizes)} {scheme} artifacts", n=len(sizes))
        if sizes
        else Figure(
            value=job.cost_model(scheme).figures(cost.ops)["size_bytes"],
            unit="bytes",
            origin="predicted",
            source="no artifact was written",
        )
    )
    more = job.judged_task.more_qualities(job.predictor(student.final))
    return Figures(
        quality=quality,
        params=Figure(value=cost.params, unit="parameters"),
        macs=Figure(value=cost.macs, unit="MACs"),
        size_bytes=size,
        peak_activation_bytes=Figure(value=cost.peak_activation_bytes, unit="bytes", source="float32, batch size 1"),
        latency=Figure.of(job.cost_model(scheme).latency_of(cost.ops)),
        more_qualities={name: Figure.of(q) for name, q in more.items()},
        unknown_ops=dict(cost.unknown_ops),
        scheme=scheme,
    )


def _artifacts(by_verb: Mapping[str, Any]) -> list[ArtifactRow]:
    rows = []
    exported = by_verb.get("export", {"artifacts": [], "refused": []})
    checked = {(r["format"], r["scheme"]): r for r in by_verb.get("verify", {}).get("rows", [])}
    profiled = {(r["format"], r["scheme"]): r for r in by_verb.get("profile", {}).get("rows", [])}
    for artifact in exported["artifacts"]:
        place = (artifact["format"], artifact["scheme"])
        check, cost = checked.get(place, {}), profiled.get(place, {})
        rows.append(
            ArtifactRow(
                format=artifact["format"],
                path=f"{ARTIFACTS}/{artifact['path']}",
                scheme=artifact["scheme"],
                size_bytes=artifact["size_bytes"],
                sha256=artifact["sha256"],
                ran_on=check.get("ran_on", ""),
                max_error=_measured(check, "max_error", ""),
                sqnr_db=_measured(check, "sqnr_db", "dB"),
                quality=check.get("quality"),
                latency=cost.get("latency"),
                latency_p90=cost.get("latency_p90"),
                load_ms=cost.get("load_ms"),
                peak_memory_bytes=cost.get("peak_memory_bytes"),
                predicted_latency=cost.get("predicted_latency"),
                passed=check.get("passed"),
                reason=check.get("reason", ""),
                delegate=artifact["delegate"],
                float_ops=artifact["float_ops"],
                notes=[*artifact["notes"], *check.get("checks", [])],
            )
        )
    for row in exported["refused"]:
        rows.append(ArtifactRow(format=row["format"], scheme=row["scheme"], passed=False, reason=row["reason"]))
    return rows


def _measured(check: Mapping[str, Any], key: str, unit: str) -> Figure | None:
    if check.get(key) is None:
        return None
    return Figure(value=check[key], unit=unit, origin="measured", n=check.get("samples"), source=check["ran_on"])


def _also(job: Job, student: Student) -> list[OtherTargetRow]:
    """Teacher and student predicted on the further devices that the recipe names."""
    scheme: Scheme = job.recipe.scheme if student.quantized is not None else "float32"
    ops = cost_of(student.model, job.example_inputs).ops
    rows = []
    for other in job.other_targets:

        def predicted(what: Any, at: Scheme, other: OtherTarget = other) -> Figure:
            try:
                return Figure.of(job.cost_model(at, other).latency_of(what))
            except UnknownName as error:  # a unit that does not compute at this scheme
                return Figure(value=None, unit="ms", origin="predicted", source=str(error))

        rows.append(
            OtherTargetRow(
                target=other.target,
                unit=other.unit,
                teacher=predicted(job.teacher_cost.ops, "float32"),
                student_float32=predicted(ops, "float32"),
                student=predicted(ops, scheme),
                limit_ms=other.latency_ms,
            )
        )
    return rows


def _budget(job: Job, teacher: Figures, student: Figures, also: list[OtherTargetRow]) -> list[BudgetRow]:
    budget, rows = job.recipe.budget, []

    def add(limit: str, value: float, actual: Figure | None, upper: bool, note: str = "") -> None:
        got = actual.value if actual is not None else None
        met = got is not None and (got <= value if upper else got >= value)
        rows.append(BudgetRow(limit=limit, value=value, actual=actual, met=met, note=note))

    often = f", all {job.task.evaluations} evaluations" if job.task.evaluations > 1 else ""
    if budget.latency_ms is not None:
        where = f"{job.target.name} {job.recipe.unit}"
        add("latency_ms", budget.latency_ms, _in_all(job, student.latency), True, f"predicted on {where}{often}")
    for other in also:
        if other.limit_ms is not None:
            where = f"{other.target} {other.unit}"
            add("latency_ms", other.limit_ms, _in_all(job, other.student), True, f"predicted on {where}{often}")
    if budget.size_bytes is not None:
        add("size_bytes", budget.size_bytes, student.size_bytes, True)
    if budget.macs is not None:
        add("macs", budget.macs, student.macs, True)
    if budget.macs_ratio is not None and student.macs and teacher.macs:
        ratio = Figure(value=(student.macs.value or 0) / (teacher.macs.value or 1), unit="of the teacher's")
        add("macs_ratio", budget.macs_ratio, ratio, True)
    better = job.task.higher_is_better
    if budget.min_quality is not None:
        add("min_quality", budget.min_quality, student.quality, not better)
    if budget.max_quality_drop is not None and student.quality and teacher.quality:
        drop = (teacher.quality.value or 0) - (student.quality.value or 0)
        figure = Figure(
            value=drop if better else -drop, unit=student.quality.unit, origin="measured", n=student.quality.n
        )
        add("max_quality_drop", budget.max_quality_drop, figure, True)
    return rows


def _in_all(job: Job, latency: Figure | None) -> Figure | None:
    """A latency of one evaluation as that of all which one output takes."""
    return None if latency is None else _repeated(latency, job.task.evaluations)


def _repeated(figure: Figure, count: int) -> Figure:
    """A figure of one evaluation as that of several."""
    if count == 1 or figure.value is None:
        return figure
    ends = [end if end is None else end * count for end in figure.interval or ()]
    interval = (ends[0], ends[1]) if ends else None
    return figure.model_copy(update={"value": figure.value * count, "interval": interval})


def _uses(job: Job, by_verb: Mapping[str, Any], teacher: Figures, student: Student) -> list[UseRow]:
    """Teacher and student in every way of use that was judged, with what it takes on the target."""
    known = {row["name"]: row["quality"] for row in by_verb["teacher"]["references"]}
    ways = job.judged_task.uses(job.teacher_predict)
    found: list[tuple[Any, str, Scheme, int, Any]] = [
        ("teacher", name, "float32", use.evaluations, known.get(name, by_verb["teacher"]["test_quality"]))
        for name, use in ways.items()
    ]
    for row in by_verb.get("verify", {}).get("uses", []):
        found.append(("student", row["name"], row["scheme"], row["evaluations"], row["quality"]))
    cost = cost_of(student.model, job.example_inputs)
    rows = []
    for model, name, scheme, evaluations, quality in found:
        counted = job.teacher_cost if model == "teacher" else cost
        latency = Figure.of(job.cost_model(scheme).latency_of(counted.ops))
        rows.append(
            UseRow(
                model=model, name=name, scheme=scheme, evaluations=evaluations, quality=Figure.model_validate(quality),
                macs=Figure(value=evaluations * counted.macs, unit="MACs"), latency_ms=_repeated(latency, evaluations),
            )
        )  # fmt: skip
    points = [(r.quality.value, r.latency_ms.value) for r in rows if r.quality and r.latency_ms]
    on_front = front(points, job.task.higher_is_better)  # type: ignore[arg-type]
    return [row.model_copy(update={"on_front": number in on_front}) for number, row in enumerate(rows)]


def _step(record: Mapping[str, Any]) -> StepRow:
    outcome = record["outcome"]
    return StepRow(
        index=record["index"],
        verb=record["verb"],
        title=record["verb"],
        key=record["key"],
        seconds=record["seconds"],
        reused=record["reused"],
        settings=record["settings"],
        summary=outcome["summary"],
        before=outcome["before"],
        after=outcome["after"],
        history=outcome["history"],
        plan=[_plan_row(row) for row in outcome["table"]],
        warnings=outcome["warnings"],
    )


def _plan_row(row: Any) -> dict[str, Any]:
    return row if isinstance(row, dict) else dict(zip(("what", "before", "after"), row, strict=True))


def _pareto(extra: Mapping[str, Any] | None) -> Pareto | None:
    if extra is None:
        return None
    points = [
        ParetoPoint(
            number=t["number"],
            quality=t["quality"],
            latency_ms=t["latency_ms"],
            macs=t["macs"],
            on_front=t["on_front"],
            chosen=t["number"] == extra["chosen"],
            label=label(t["choice"]),
        )
        for t in extra["trials"]
    ]
    return Pareto(points=points, chosen=extra["chosen"], quality_name=extra["quality_name"])


def _layers(job: Job, student: Student) -> list[LayerRow]:
    """Layer by layer on the target: the teacher in float, the student in the scheme it ends in."""
    scheme: Scheme = job.recipe.scheme if student.quantized is not None else "float32"
    before, after = job.teacher_cost, cost_of(student.model, job.example_inputs)
    times_before = _times(job, before.ops, "float32")
    times_after = _times(job, after.ops, scheme)
    later = {op.name: op for op in after.ops}
    rows = []
    for op in before.ops:
        if op.fused_into or op.kind == "reshape":
            continue
        now = later.get(op.name)
        first, second = times_before.get(op.name), times_after.get(op.name)
        rows.append(
            LayerRow(
                name=op.name,
                where=op.where,
                kind=op.kind,
                macs_before=op.macs,
                macs_after=now.macs if now else None,
                channels_before=op.channels[1] or None,
                channels_after=(now.channels[1] or None) if now else None,
                latency_before_ms=first.latency_ms if first else None,
                latency_after_ms=second.latency_ms if second else None,
                bound=second.bound if second else "",
            )
        )
    return rows


def _times(job: Job, ops: Any, scheme: Scheme) -> dict[str, Any]:
    return {cost.name: cost for cost in job.latency_model.predict(ops, scheme).by_op}


def _samples(job: Job, student: Student, artifacts: list[ArtifactRow]) -> list[SampleRow]:
    models = {"teacher": job.teacher_predict, "student": job.predictor(student.model)}
    files = [row for row in artifacts if row.scheme == job.recipe.scheme and row.ran_on and row.quality]
    for row in files:
        if runtimes.available(row.format) is None:
            models[f"{row.format} {row.scheme}"] = runtime_predictor(job.folder / row.path, row.format)
    if student.quantized is not None and len(models) == 2:  # no file of it runs here
        models[f"student {job.recipe.scheme}"] = job.predictor(student.quantized)
    rows = []
    for sample in job.judged_task.samples(models):
        outputs = {n: o if isinstance(o, str) else _picture(o) for n, o in sample.outputs.items()}
        sounds = {n: _sound(sound, sample.sample_rate or 0) for n, sound in sample.sounds.items()}
        rows.append(SampleRow(image=_picture(sample.image), target=sample.target, outputs=outputs, sounds=sounds))
    return rows


def _sound(sound_S: Tensor, sample_rate: int) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(wav_bytes(sound_S, sample_rate)).decode()}"


def _picture(image_CHW: Tensor) -> str:
    pixels = (image_CHW.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return data_uri(pixels.numpy())


def _target(job: Job) -> dict[str, Any]:
    target = job.target
    record = {"name": target.name, "unit": job.recipe.unit, "soc": target.soc, "sources": target.sources}
    if target.title:
        record["title"] = target.title
    return record


def _environment(job: Job, started: str) -> Environment:
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=cpu_name(),
        cores=os.cpu_count(),
        versions=environment_versions(),
        threads=job.threads,
        training_precision=job.devices.precision,
        seed=job.recipe.seed,
        started=started,
        finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
