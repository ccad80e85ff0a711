"""The prune step: importances from a few batches, a plan against the budget, the cut, and fresh norm statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from compress import prune as room
from compress.checkpoint import Student
from compress.entry import load_entry
from compress.errors import UnknownName
from compress.graph.groups import AT_OUTPUT, WidthModel, dependency_graph, raw_groups
from compress.graph.surgery import apply_edits, cut_and_kept
from compress.job import Job
from compress.recipe import Prune
from compress.steps.outcome import Outcome, model_figures
from compress.types import Edit, ResolutionEdit


def run(job: Job, index: int, settings: Prune, folder: Path, student: Student) -> Outcome:
    """Plan and cut; the student keeps its weights where it keeps its channels."""
    model = student.model
    plan = make_plan(job, model, settings)
    before = model_figures(job, model, "float32")
    cut = make_cut(job, model, plan.edits, settings.refit, settings.batches)
    record = plan.to_dict()
    return Outcome(
        f"removed {room.describe(plan.edits)}",
        before,
        model_figures(job, cut, "float32"),
        plan=record,
        table=plan.table(),
        warnings=[f"{layer} was left alone: {why}" for layer, why in plan.pinned.items() if why != AT_OUTPUT],
        student=Student(cut, [*student.plans, {"kind": "prune", "edits": record["edits"]}]),
    )


def make_plan(job: Job, model: fx.GraphModule, settings: Prune) -> room.PrunePlan:
    """The prune plan for a model; reads and changes nothing."""
    widths = WidthModel(model, job.example_inputs)
    scores = channel_scores(job, model, settings.importance, settings.batches, [g.layer for g in widths.free])
    if settings.ratio == "auto":
        return room.plan_budget(widths, scores, job.cost_model(), job.limits, settings.max_ratio)
    return room.plan_ratio(widths, scores, job.cost_model(), settings.ratio, settings.max_ratio)


def make_cut(job: Job, model: fx.GraphModule, edits: Sequence[Edit], refit: bool, batches: int) -> fx.GraphModule:
    """The edited model, the layers behind its cuts refitted if asked, its norms carried over to their new inputs."""
    # What is refitted answers as the uncut model does at the same resolution.
    sizes = [edit for edit in edits if isinstance(edit, ResolutionEdit)]
    if sizes:
        model = apply_edits(model, sizes, job.example_inputs)
        edits = [edit for edit in edits if edit not in sizes]
    cut, kept = cut_and_kept(model, edits, job.example_inputs)
    if edits:
        drawn = [batch.inputs for batch in job.train_batches(batches)]
        inputs = [torch.cat(values) for values in zip(*drawn, strict=True)]
        room.refit(cut, model, kept, inputs, solve=refit)
    return cut


def channel_scores(
    job: Job, model: fx.GraphModule, name: str, batches: int, layers: Iterable[str]
) -> dict[str, Tensor]:
    """The importance of every channel of the groups with these roots, of which none may be pinned.

    In a pinned group torch-pruning's channel numbers need not exist: behind a pixel shuffle, say, there are fewer.
    """
    importance = room.IMPORTANCES.get(name)
    if importance is None:
        if ":" not in name:
            raise UnknownName("importance", name, room.IMPORTANCES)
        importance = load_entry(name, job.recipe_folder)
    found = raw_groups(dependency_graph(model, job.example_inputs), model)
    groups = {layer: found[layer] for layer in layers}

    def backward() -> None:
        model.eval()
        model.requires_grad_(True)
        for batch in job.train_batches(batches):
            surrogate_loss(job, model(*batch.inputs), batch.target).backward()  # type: ignore[no-untyped-call]

    with torch.enable_grad():
        return importance(model, groups, backward)


def surrogate_loss(job: Job, output: Tensor, target: Any) -> Tensor:
    """A loss whose gradient says what matters: the task's own, or without labels the model's confidence in itself.

    Matching a teacher the student still equals has no gradient, so unlabelled logits are held against their own
    highest class, and any other output against zero (its energy).
    """
    if target is not None and job.task.labelled:
        return job.task.loss(output, target)
    if output.dim() == 2:
        return F.cross_entropy(output, output.detach().argmax(1))
    return output.square().mean()
