"""The rewrite step: cheaper forms in the place of costly ones; what only comes near is healed by a distill step."""

from __future__ import annotations

from pathlib import Path

from torch import fx

from compress import rewrite as room
from compress.checkpoint import Student
from compress.job import Job
from compress.recipe import Rewrite
from compress.steps.outcome import Outcome, model_figures


def run(job: Job, index: int, settings: Rewrite, folder: Path, student: Student) -> Outcome:
    """Plan the passes that the recipe asks for, and apply them."""
    model = student.model
    plan = make_plan(job, model, settings)
    before = model_figures(job, model, "float32")
    rewritten = room.apply(model, plan, job.example_inputs)
    record = plan.to_dict()
    return Outcome(
        plan.summary(),
        before,
        model_figures(job, rewritten, "float32"),
        plan=record,
        table=plan.table(),
        warnings=plan.warnings(),
        student=Student(rewritten, [*student.plans, record]),
    )


def make_plan(job: Job, model: fx.GraphModule, settings: Rewrite) -> room.RewritePlan:
    """The rewrites of a model; reads and changes nothing."""
    batches = [batch.inputs for batch in job.train_batches(settings.batches)]
    return room.plan(model, room.settings_from(settings.model_dump()), job.example_inputs, batches)
