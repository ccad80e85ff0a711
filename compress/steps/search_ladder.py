"""The search step by a ladder: a few widths of one network are trained together, and the widest that fits is taken.

All rungs are kept: the export step writes them into one file, from which a phone takes one as it runs
(Hou et al. 2021, "Slimmable generative adversarial networks").
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from compress import search as room
from compress.checkpoint import Student, save_weights
from compress.errors import Infeasible
from compress.graph.groups import WidthModel
from compress.job import Job
from compress.profile.budget import Limits
from compress.recipe import Search
from compress.steps.outcome import Outcome, model_figures
from compress.steps.search_shared import Lesson, check_alone, lesson_settings, limits_of, sorted_base
from compress.steps.training import networks_of, train
from compress.train import FitResult
from compress.train.norms import recalibrate_norms
from compress.types import edit_to_dict


def run(job: Job, index: int, settings: Search, folder: Path, student: Student) -> Outcome:
    """Train the ladder, keep all rungs, and take the widest that meets the limits as the student."""
    check_alone(job, settings)
    widths = WidthModel(student.model, job.example_inputs)
    before = model_figures(job, student.model, "float32")
    lesson = Lesson(job, lesson_settings(job, index), student.model)
    base = sorted_base(job, settings, student.model, [group.layer for group in widths.free])
    multiple = job.cost_model().latency.channel_multiple
    ladder = room.Ladder(base, job.example_inputs, settings.widths, multiple)
    trained = _train(job, index, settings, folder, ladder, lesson)
    rungs = [_rung(job, settings, ladder, number) for number in range(len(ladder.shares))]
    plan = _choose(job, ladder, widths, limits_of(job, settings), rungs)
    record = plan.to_dict()
    kept = _keep(folder, ladder, student, rungs)
    return Outcome(
        f"ladder, {trained.steps} steps; rung {ladder.shares[plan.chosen]:g} of "
        f"{', '.join(f'{share:g}' for share in ladder.shares)}",
        before,
        model_figures(job, rungs[plan.chosen], "float32"),
        plan=record,
        table=plan.table(),
        history=trained.history,
        warnings=_alike(ladder),
        extra={
            "trials": record["trials"],
            "chosen": plan.chosen,
            "quality_name": job.task.quality_name,
            "resumed_from_step": trained.resumed_from_step,
            "rungs": kept,
        },
        files=[folder / rung["weights"] for rung in kept],
        student=Student(rungs[plan.chosen], kept[plan.chosen]["plans"]),
    )


def _train(job: Job, index: int, settings: Search, folder: Path, ladder: room.Ladder, lesson: Lesson) -> FitResult:
    """Train all rungs in place; the quality on the way is the widest one's."""

    def loss(modules: Mapping[str, Any], batch: Any) -> dict[str, Tensor]:
        return room.ladder_loss(ladder, batch, lesson.loss_of(batch), settings.alpha)

    return train(
        job,
        index,
        folder,
        ladder,
        loss,
        lesson.draw,
        settings.training,
        judge=ladder,
        teachers=networks_of(lesson.method),
    )


def _rung(job: Job, settings: Search, ladder: room.Ladder, number: int) -> fx.GraphModule:
    """A rung as it is cut out, its norms' statistics measured anew."""
    cut = ladder.physical(number)
    recalibrate_norms(cut, job.train_batches(settings.calibration_batches))
    return cut


def _choose(
    job: Job, ladder: room.Ladder, widths: WidthModel, limits: Limits, rungs: list[fx.GraphModule]
) -> room.SearchPlan:
    """The widest rung inside the limits, with the figures of all.

    Raises:
        Infeasible: there is none; carries the closest.
    """
    predict, own = room.predictor(ladder, job.cost_model()), {group.layer: group.width for group in widths.free}
    rows: list[dict[str, Any]] = []
    for number, (edits, cut) in enumerate(zip(ladder.rungs.values(), rungs, strict=True)):
        removed = {edit.layer: len(edit.remove) for edit in edits}  # type: ignore[union-attr]
        choice = {f"width:{layer}": width - removed.get(layer, 0) for layer, width in own.items()}
        quality = float(job.quality(cut, "validation").value or 0.0)
        rows.append({"number": number, "quality": quality, **predict(edits), "choice": choice})
    on_front = room.front([(row["quality"], row["latency_ms"]) for row in rows], job.task.higher_is_better)
    rows = [row | {"on_front": row["number"] in on_front} for row in rows]
    chosen = min(range(len(rows)), key=lambda number: (limits.excess(rows[number]), -number))
    name = f"{ladder.shares[chosen]:g}"
    plan = room.SearchPlan(ladder.rungs[name], chosen, tuple(rows), len(rows))
    if broken := limits.worst(rows[chosen]):
        raise Infeasible(
            f"no rung of the ladder meets the budget: the closest ({name}) has {broken}; "
            "raise that limit, or begin search.widths with a smaller share",
            plan.to_dict(),
            broken,
        )
    return plan


def _alike(ladder: room.Ladder) -> list[str]:
    """A warning for each two neighbours that became one width."""
    names = list(ladder.rungs)
    return [
        f"the rungs {narrow} and {wide} have the same widths: on this target they come in steps; leave one out"
        for narrow, wide in itertools.pairwise(names)
        if ladder.rungs[narrow] == ladder.rungs[wide]
    ]


def _keep(folder: Path, ladder: room.Ladder, student: Student, rungs: list[fx.GraphModule]) -> list[dict[str, Any]]:
    """Writes the rungs' weights into the step's folder; returns each one's share, plans and file, in order."""
    kept = []
    for (name, edits), cut in zip(ladder.rungs.items(), rungs, strict=True):
        plans = [*student.plans, {"kind": "search", "edits": [edit_to_dict(edit) for edit in edits]}]
        file = f"rung-{name}.safetensors"
        save_weights(folder / file, Student(cut).weights())
        kept.append({"share": name, "plans": plans, "weights": file})
    return kept
