"""The quantize step: fold the norms, calibrate, train through the rounding where asked, and fix the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress import quantize as room
from compress.checkpoint import Student
from compress.distill import Learner, Logit, Settings
from compress.graph.fold import fold_batch_norms
from compress.job import Job
from compress.recipe import Quantize
from compress.steps.outcome import Outcome, model_figures
from compress.steps.training import train
from compress.types import Number

RANGES_LEARN_SHARE = 0.5
"""Share of the epochs in which activation ranges still move; then they are frozen and only weights learn."""


def run(job: Job, index: int, settings: Quantize, folder: Path, student: Student) -> Outcome:
    """Quantize the student; with `qat_epochs` it learns from the float teacher while rounded."""
    before = model_figures(job, student.model, "float32")
    folded = fold_batch_norms(student.model)
    prepared = room.prepare(folded, settings.scheme, ranges=settings.ranges)
    room.calibrate(prepared, (batch.inputs for batch in job.train_batches(settings.calibration_batches)))
    history: list[dict[str, Any]] = []
    if settings.qat_epochs:
        history = _train(job, index, settings, folder, prepared)
    room.set_state(prepared, "frozen")
    plan = room.freeze(prepared)
    folded.load_state_dict(room.float_weights(prepared))
    quantized = room.apply(folded, plan)
    record = {"kind": "quantize", **plan.to_dict()}
    after = model_figures(job, folded, settings.scheme)
    after["quality"] = job.quality(quantized, "validation")
    after["params"] = Number(before["params"].value, "parameters", "counted")
    floats = [f"{node} stays float: {reason}" for node, reason in plan.float_ops.items()]
    return Outcome(
        f"{settings.scheme}, {len(plan.weights)} layers, "
        + (f"{settings.qat_epochs} epochs of training" if settings.qat_epochs else "post-training"),
        before,
        after,
        plan=record,
        table=plan.table(),
        history=history,
        warnings=floats,
        student=Student(student.model, [*student.plans, record], folded, quantized),
    )


def _train(job: Job, index: int, settings: Quantize, folder: Path, prepared: Any) -> list[dict[str, Any]]:
    shared = Settings(settings.temperature, settings.label_weight)
    method = Logit(job.teacher, prepared, job.example_inputs, shared, job.task.loss if job.task.labelled else None)
    learner = Learner(prepared)
    freeze_at = max(1, round(settings.qat_epochs * RANGES_LEARN_SHARE))

    def on_epoch(epoch: int) -> None:
        room.set_state(prepared, "train" if epoch < freeze_at else "frozen")

    result = train(
        job,
        index,
        folder,
        learner,
        lambda m, batch: method.loss(m["model"], batch),
        job.judged_task.train_batch,
        settings,
        judge=prepared,
        epochs=settings.qat_epochs,
        on_epoch=on_epoch,
    )
    return result.history
