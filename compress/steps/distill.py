"""The distill step: the student learns from the teacher in the one loop; what served only the training is dropped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from compress import distill as room
from compress.checkpoint import Student
from compress.distill.playing import Playing
from compress.entry import load_entry
from compress.errors import RecipeError, UnknownName
from compress.job import Job
from compress.recipe import Distill
from compress.steps.outcome import Outcome, model_figures
from compress.steps.training import networks_of, train
from compress.train.health import Guard, LoopGuard

PROBE = 64
"""Samples on which the guard compares student and teacher after each epoch."""


def run(job: Job, index: int, settings: Distill, folder: Path, student: Student) -> Outcome:
    """Train the student by the recipe's method; its structure stays."""
    before = model_figures(job, student.model, "float32")
    model = copy.deepcopy(student.model)
    method = build(job, settings, model)
    learner = room.Learner(model, method.extra, settings.norms == "keep")
    task = job.judged_task

    def draw(indices: torch.Tensor, generator: torch.Generator) -> Any:
        return method.view(task.train_batch(indices, generator), generator)

    plays = isinstance(method, Playing)
    result = train(
        job,
        index,
        folder,
        learner,
        lambda m, batch: method.loss(m["model"], batch),
        draw,
        settings,
        judge=model,
        on_epoch=(lambda epoch: method.on_epoch(epoch, settings.epochs)) if plays else None,
        norm_batches=settings.norm_batches,
        players=(lambda optimizer: method.players(learner, optimizer)) if plays else None,
        guard=_guard(job, method, model) if plays else None,
        teachers=networks_of(method),
    )
    if plays:
        method.finish(model)
    train_only = sum(p.numel() for p in method.extra.parameters()) if method.extra is not None else 0
    after = model_figures(job, model, "float32")
    return Outcome(
        f"{settings.method}, {settings.epochs} epochs, {result.steps} steps",
        before,
        after,
        history=result.history,
        warnings=[f"epoch {row['epoch'] + 1}: {text}" for row in result.history for text in row.get("findings", [])],
        extra={"train_only_parameters": train_only, "resumed_from_step": result.resumed_from_step},
        student=Student(model, list(student.plans)),
    )


def has_options(kind: Any) -> bool:
    """Whether a class is a distillation method with options and players of its own."""
    return isinstance(kind, type) and issubclass(kind, Playing)


def check(job: Job) -> None:
    """Refuse a distillation that cannot begin, before anything is computed.

    Raises:
        CompressError: a method that there is not, or a setting of one.
    """
    for step in job.recipe.steps:
        if step.verb == "distill":
            kind = method_of(step.settings, job.recipe_folder)
            if has_options(kind):
                kind.options_from(step.settings.options)
            elif step.settings.options:
                raise RecipeError(f"distill.options: {step.settings.method} has none; see `compress schema`")


def _guard(job: Job, method: Playing, model: torch.nn.Module) -> LoopGuard | None:
    """What watches over a training with a discriminator: student and teacher on the first validation samples."""
    if method.adversary is None:
        return None
    batches, count = [], 0
    for batch in job.task.batches("validation"):
        batches.append(batch)
        count += len(batch)
        if count >= PROBE:
            break
    predict = job.predictor(model)
    wanted = torch.cat([job.teacher_predict(*batch.inputs) for batch in batches])

    def probe() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([predict(*batch.inputs) for batch in batches]), wanted

    return LoopGuard(Guard(), probe, ("student", "discriminator"))


def method_of(settings: Distill, folder: Path) -> Any:
    """The class of the distillation method that a recipe names."""
    kind = room.METHODS.get(settings.method)
    if kind is None:
        if ":" not in settings.method:
            raise UnknownName("distillation method", settings.method, room.METHODS)
        kind = load_entry(settings.method, folder)
    return kind


def build(job: Job, settings: Distill, student: Any) -> Any:
    """The recipe's distillation method for this teacher and student."""
    kind = method_of(settings, job.recipe_folder)
    if has_options(kind):
        options = kind.options_from(settings.options)
        return kind(job.teacher, student, job.example_inputs, options, job.judged_task)
    shared = room.Settings(
        settings.temperature,
        settings.label_weight,
        settings.mixup,
        settings.feature_weight,
        settings.teacher_layer,
        settings.student_layer,
    )
    return kind(job.teacher, student, job.example_inputs, shared, job.task.loss if job.task.labelled else None)
