"""The distill step: the student learns from the teacher in the one loop; what served only the training is dropped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from compress import distill as room
from compress.checkpoint import Student
from compress.entry import load_entry
from compress.errors import UnknownName
from compress.job import Job
from compress.recipe import Distill
from compress.steps.outcome import Outcome, model_figures
from compress.steps.training import train


def run(job: Job, index: int, settings: Distill, folder: Path, student: Student) -> Outcome:
    """Train the student by the recipe's method; its structure stays."""
    before = model_figures(job, student.model, "float32")
    model = copy.deepcopy(student.model)
    method = build(job, settings, model)
    learner = room.Learner(model, method.extra, settings.norms == "keep")
    task = job.judged_task

    def draw(indices: torch.Tensor, generator: torch.Generator) -> Any:
        return method.view(task.train_batch(indices, generator), generator)

    result = train(
        job,
        index,
        folder,
        learner,
        lambda m, batch: method.loss(m["model"], batch),
        draw,
        settings,
        judge=model,
        norm_batches=settings.norm_batches,
    )
    train_only = sum(p.numel() for p in method.extra.parameters()) if method.extra is not None else 0
    after = model_figures(job, model, "float32")
    return Outcome(
        f"{settings.method}, {settings.epochs} epochs, {result.steps} steps",
        before,
        after,
        history=result.history,
        extra={"train_only_parameters": train_only, "resumed_from_step": result.resumed_from_step},
        student=Student(model, list(student.plans)),
    )


def build(job: Job, settings: Distill, student: Any) -> Any:
    """The recipe's distillation method for this teacher and student."""
    kind = room.METHODS.get(settings.method)
    if kind is None:
        if ":" not in settings.method:
            raise UnknownName("distillation method", settings.method, room.METHODS)
        kind = load_entry(settings.method, job.recipe_folder)
    shared = room.Settings(
        settings.temperature,
        settings.label_weight,
        settings.mixup,
        settings.feature_weight,
        settings.teacher_layer,
        settings.student_layer,
    )
    return kind(job.teacher, student, job.example_inputs, shared, job.task.loss if job.task.labelled else None)
