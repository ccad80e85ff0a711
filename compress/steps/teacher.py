"""The teacher step: load the model, train it where the recipe asks, trace it, evaluate it and count what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from compress.checkpoint import Student, check_finite, save_weights
from compress.errors import DataError, RecipeError
from compress.graph.cost import cost_of
from compress.graph.noise import noise_of
from compress.graph.trace import trace
from compress.job import Job
from compress.steps.outcome import Outcome, model_figures
from compress.steps.training import train


def run(job: Job, index: int, settings: Any, folder: Path, student: Student | None) -> Outcome:
    """Load or train the teacher; its traced form becomes the base of every later step."""
    base = job.untrained_teacher()
    history: list[dict[str, Any]] = []
    train_settings = job.recipe.teacher.train
    if train_settings is not None and not job.recipe.teacher.weights:
        if not job.task.labelled:
            raise RecipeError("teacher.train: the task has no labels to learn from; give teacher.weights instead")
        task = job.task

        def loss(modules: Any, batch: Any) -> dict[str, Any]:
            return {"loss": task.loss(modules["model"](*batch.inputs), batch.target)}

        result = train(job, index, folder, base, loss, task.train_batch, train_settings, judge=base)
        history = result.history
    check_finite(base.state_dict(), "the teacher")
    _check_output(job, base)
    job.__dict__["traced_teacher"] = base
    files = []
    if job.recipe.student is not None:
        save_weights(job.teacher_weights, Student(base).weights())
        files.append(job.teacher_weights)
    figures = model_figures(job, base, "float32")
    quality = figures["quality"]
    test = job.judged_task.quality(job.teacher_predict)
    warnings = [
        f"MACs of {count} x {op} are not known and not counted" for op, count in job.teacher_cost.unknown_ops.items()
    ]
    fixed = noise_of(base)
    if fixed:
        warnings.append(
            f"the teacher draws noise as it runs, in {len(fixed)} places; every draw is fixed, or nothing could be "
            "verified: all samples of a batch get the same noise"
        )
    cost = job.teacher_cost
    summary = (
        f"{cost.params:,} parameters, {cost.macs / 1e6:.2f} M MACs, "
        f"{job.task.quality_name} {test.value:.4f} (test, n={test.n})"
    )
    extra = {
        "test_quality": test.to_dict(),
        "more_qualities": _more(job, job.teacher_predict),
        "references": _references(job),
    }
    return Outcome(
        summary, {"quality": quality}, figures,
        history=history, warnings=warnings, extra=extra, files=files, student=Student(job.base),
    )  # fmt: skip


def _more(job: Job, predict: Any) -> dict[str, Any]:
    return {name: figure.to_dict() for name, figure in job.judged_task.more_qualities(predict).items()}


def _references(job: Job) -> list[dict[str, Any]]:
    """What the student will be held against beside its teacher, as rows of the report."""
    rows = []
    for name, reference in job.judged_task.references().items():
        row: dict[str, Any] = {"name": name, "quality": job.judged_task.quality(reference.predict).to_dict()}
        if reference.module is not None:
            cost = cost_of(trace(reference.module, job.example_inputs), job.example_inputs)
            row["macs"] = cost.macs
        rows.append(row | {"more_qualities": _more(job, reference.predict)})
    return rows


def _check_output(job: Job, base: nn.Module) -> None:
    batch = next(iter(job.task.batches("validation")), None)
    if batch is None or len(batch) == 0:
        raise DataError("the task's validation split yields nothing; check the data path in the task file")
