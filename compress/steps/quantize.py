"""The quantize step: fold the norms, calibrate, train through the rounding where asked, and fix the plan.

The order is fixed: what reshapes the float model comes first (equalize, smooth), then which layers keep more bits, then
ranges, then how weights round, then biases, then training.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress import quantize as room
from compress.checkpoint import Student
from compress.distill import Learner, Logit, Settings
from compress.graph.fold import fold_batch_norms
from compress.job import Job
from compress.recipe import Quantize
from compress.report.words import grouped
from compress.steps.distill import has_options, method_of
from compress.steps.mixed import choose_schemes
from compress.steps.outcome import Outcome, model_figures
from compress.steps.search_shared import Lesson
from compress.steps.training import networks_of, train
from compress.types import Number

RANGES_LEARN_SHARE = 0.5
"""Share of the epochs in which activation ranges still move; then they are frozen and only weights learn."""


def run(job: Job, index: int, settings: Quantize, folder: Path, student: Student) -> Outcome:
    """Quantize the student; with `qat_epochs` it learns from the float teacher while rounded."""
    before = model_figures(job, student.model, "float32")
    folded = fold_batch_norms(student.model)
    batches = [batch.inputs for batch in job.calibration_batches(settings.calibration_batches, student.model)]
    extra = reshape(folded, settings, batches)
    schemes: dict[str, str] = {}
    if settings.mixed is not None:
        schemes, extra["mixed"] = choose_schemes(job, settings, settings.mixed, folded, batches)
    prepared = room.prepare(folded, settings.scheme, settings.ranges, schemes)
    room.calibrate(prepared, batches)
    extra |= tune(prepared, folded, settings, batches)
    history: list[dict[str, Any]] = []
    if settings.qat_epochs:
        history = _train(job, index, settings, folder, prepared, folded, student.model)
    room.set_state(prepared, "frozen")
    plan = room.freeze(prepared)
    folded.load_state_dict(room.float_weights(prepared))
    quantized = room.apply(folded, plan)
    record = {"kind": "quantize", **plan.to_dict()}
    after = model_figures(job, folded, settings.scheme)
    after["quality"] = job.quality(quantized, "validation")
    after["params"] = Number(before["params"].value, "parameters", "counted")
    floats = [f"{line} stays float" for line in grouped(_floats(plan))]
    return Outcome(
        _summary(settings, plan, schemes),
        before,
        after,
        plan=record,
        table=plan.table(),
        history=history,
        warnings=floats,
        extra=extra,
        student=Student(student.model, [*student.plans, record], folded, quantized),
    )


def _floats(plan: room.QuantPlan) -> list[str]:
    """One line, "OP at NODE (reason)", for each op that stays float: a node is named after its op, a number behind."""
    return [f"{re.sub(r'_[0-9]+$', '', node)} at {node} ({reason})" for node, reason in plan.float_ops.items()]


def reshape(folded: fx.GraphModule, settings: Quantize, batches: list[Any]) -> dict[str, Any]:
    """Move factors between the float model's layers where asked, in place; what was done, as plain data."""
    done: dict[str, Any] = {}
    if settings.equalize:
        pairs, skipped = room.equalize(folded, batches)
        done["equalized"] = {"pairs": pairs, "skipped": skipped}
    if settings.smooth:
        norms, skipped = room.smooth(folded, batches)
        done["smoothed"] = {"norms": norms, "skipped": skipped}
    return done


def tune(prepared: fx.GraphModule, folded: fx.GraphModule, settings: Quantize, batches: list[Any]) -> dict[str, Any]:
    """Improve a calibrated network's rounding as asked, in place, and make ready what training will learn."""
    done: dict[str, Any] = {}
    if settings.codebook == "even":
        done["even_points"] = room.spread_evenly(prepared, settings.bucket)
    if settings.codebook == "points":
        done["learned_points"] = room.learn_points(prepared, settings.bucket)
    if settings.rounding == "adaround":
        done["rounded_elsewhere"] = room.learn_rounding(prepared, folded, batches, settings.rounding_steps)
    if settings.bias_correction and settings.codebook != "points":
        shifts, without = room.correct_biases(prepared, folded, batches)
        done["bias_shifts"] = {"layers": shifts, "without_bias": without}
    if settings.steps == "lsq":
        done["learned_steps"] = room.learn_steps(prepared)
    return done


def _summary(settings: Quantize, plan: room.QuantPlan, schemes: dict[str, str]) -> str:
    kept = f", {len(schemes)} of them kept at {next(iter(schemes.values()))}" if schemes else ""
    count = len({*plan.weights, *plan.codebooks, *schemes})
    how = f"{settings.qat_epochs} epochs of training" if settings.qat_epochs else "post-training"
    return f"{settings.scheme}, {count} layers{kept}, {how}"


def _train(
    job: Job,
    index: int,
    settings: Quantize,
    folder: Path,
    prepared: fx.GraphModule,
    folded: fx.GraphModule,
    model: fx.GraphModule,
) -> list[dict[str, Any]]:
    draw, loss, teachers = _lesson(job, index, settings, prepared, folded, model)
    learner = Learner(prepared)
    # Learned steps are no ranges that follow the batches: they learn to the end.
    share = 1.0 if settings.steps == "lsq" else RANGES_LEARN_SHARE
    freeze_at = max(1, round(settings.qat_epochs * share))

    def on_epoch(epoch: int) -> None:
        room.set_state(prepared, "train" if epoch < freeze_at else "frozen")

    result = train(
        job,
        index,
        folder,
        learner,
        loss,
        draw,
        settings,
        judge=prepared,
        epochs=settings.qat_epochs,
        on_epoch=on_epoch,
        teachers=teachers,
    )
    return result.history


def _lesson(
    job: Job,
    index: int,
    settings: Quantize,
    prepared: fx.GraphModule,
    folded: fx.GraphModule,
    model: fx.GraphModule,
) -> tuple[Callable[[Tensor, torch.Generator], Any], Callable[[Any, Any], dict[str, Tensor]], list[nn.Module]]:
    """How batches are drawn, what is minimized, and the networks that this asks.

    A generator learns rounded by the terms that it learned by before. Everything else imitates logits; learned points
    imitate the very model whose weights they stand for (Polino et al. 2018, section 4).
    """
    earlier = [step.settings for step in job.recipe.steps[: index - 1] if step.verb == "distill"]
    if earlier and has_options(method_of(earlier[-1], job.recipe_folder)):
        lesson = Lesson(job, earlier[-1], model)
        asked = networks_of(lesson.method)
        return lesson.draw, lambda m, batch: lesson.loss_of(batch)(m["model"], batch), asked
    shared = Settings(settings.temperature, settings.label_weight)
    teacher = fold_batch_norms(folded) if settings.codebook == "points" else job.teacher
    method = Logit(teacher, prepared, job.example_inputs, shared, job.task.loss if job.task.labelled else None)
    return job.judged_task.train_batch, lambda m, batch: method.loss(m["model"], batch), networks_of(method)
