"""The search step by a supernet: one network is trained for all candidates, then evolution picks a subnet of it.

The weights are trained once, in the one loop; a candidate is the subnet as it is cut out, its norms calibrated anew, so
that its quality is what the student begins with. Channels are sorted by importance first: the leading ones stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from compress import search as room
from compress.checkpoint import Student
from compress.errors import ModelError
from compress.graph.groups import WidthModel
from compress.job import Job
from compress.recipe import Search
from compress.steps.outcome import Outcome, model_figures
from compress.steps.search_shared import Lesson, check_alone, lesson_settings, limits_of, sorted_base, space_of
from compress.steps.training import networks_of, train
from compress.train import FitResult
from compress.train.norms import recalibrate_norms
from compress.types import Edit


def run(job: Job, index: int, settings: Search, folder: Path, student: Student) -> Outcome:
    """Train the supernet, let its subnets evolve under the limits, and cut the best one out as the student."""
    check_alone(job, settings)
    widths = WidthModel(student.model, job.example_inputs)
    space = space_of(job, settings, student.model, widths, shared=True)
    if space.size == 1:
        raise ModelError(f"search.space: the model has nothing to choose from in {settings.space}; take another space")
    before = model_figures(job, student.model, "float32")
    lesson = Lesson(job, lesson_settings(job, index), student.model)
    base = sorted_base(job, settings, student.model, space.widths)
    net = room.Supernet(base, job.example_inputs, space)
    trained = _train(job, index, settings, folder, net, lesson)

    def cut(edits: tuple[Edit, ...]) -> fx.GraphModule:
        subnet = net.physical(edits)
        recalibrate_norms(subnet, job.train_batches(settings.calibration_batches))
        return subnet

    def quality(edits: tuple[Edit, ...]) -> float:
        return float(job.quality(cut(edits), "validation", settings.quick_samples).value or 0.0)

    with job.console.progress("evolution") as bar:
        plan = room.evolve(
            space,
            net.scores,
            quality,
            room.predictor(net, job.cost_model()),
            limits_of(job, settings),
            trials=settings.trials,
            population=settings.population,
            seed=job.recipe.seed,
            higher_is_better=job.task.higher_is_better,
            watch=bar.update,
        )
    record = plan.to_dict() | {"pinned": {g.layer: g.pinned for g in widths.groups if g.pinned}}
    chosen = cut(plan.edits)
    on_front = sum(trial["on_front"] for trial in plan.trials)
    return Outcome(
        f"supernet, {trained.steps} steps; subnet {plan.chosen} of {len(plan.trials)} "
        f"({on_front} on the front, {plan.space_size:.3g} candidates)",
        before,
        model_figures(job, chosen, "float32"),
        plan=record,
        table=plan.table(),
        history=trained.history,
        extra={
            "trials": record["trials"],
            "chosen": plan.chosen,
            "quality_name": job.task.quality_name,
            "resumed_from_step": trained.resumed_from_step,
        },
        student=Student(chosen, [*student.plans, {"kind": "search", "edits": record["edits"]}]),
    )


def _train(job: Job, index: int, settings: Search, folder: Path, net: room.Supernet, lesson: Lesson) -> FitResult:
    """Train the shared weights in place, by the sandwich rule; the quality on the way is the largest subnet's."""

    def loss(modules: Mapping[str, Any], batch: Any) -> dict[str, Tensor]:
        def imitate(output: Tensor, largest: Tensor) -> Tensor:
            return torch.stack(list(lesson.terms(output, largest, batch).values())).sum()

        # The loop seeds torch for each step: a resumed training draws the same subnets.
        dice = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        subnets = net.sandwich(dice, settings.randoms)
        return room.sandwich_loss(subnets, batch, lesson.loss_of(batch), imitate if settings.in_place else None)

    return train(
        job,
        index,
        folder,
        net,
        loss,
        lesson.draw,
        settings.training,
        judge=net,
        teachers=networks_of(lesson.method),
    )
