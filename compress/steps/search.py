"""The search step: Optuna proposes widths, depth and resolution, inherited weights and predicted cost judge.

That is `method: trials`. The two other methods train weights that all candidates share, and have files of their own.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from torch import fx

from compress import search as room
from compress.checkpoint import Student
from compress.distill import Learner
from compress.errors import Infeasible, RecipeError
from compress.graph.cost import cost_of
from compress.graph.groups import WidthModel
from compress.graph.surgery import apply_edits
from compress.job import Job
from compress.recipe import Prune, Search
from compress.steps import search_ladder, search_supernet
from compress.steps.outcome import Outcome, StepFunction, model_figures
from compress.steps.prune import channel_scores, make_cut, make_plan
from compress.steps.search_shared import SCORE_BATCHES, Lesson, later, recovery_settings, space_of
from compress.train import LoopSettings, OptimizerSettings, Player, fit
from compress.types import Edit

QUICK_PLAN = {"importance": "magnitude", "batches": 1}
"""Whether the prune step can meet the budget depends on widths alone, so any importance will do to find out."""


def run(job: Job, index: int, settings: Search, folder: Path, student: Student) -> Outcome:
    """Search by the recipe's method, choose, and cut the student accordingly."""
    return METHODS[settings.method](job, index, settings, folder, student)


def _recover(job: Job, settings: Search, candidate: fx.GraphModule, lesson: Lesson) -> None:
    """A few distillation steps in the one loop, so that a candidate is judged by what it can become, in place."""
    optimizer = OptimizerSettings(learning_rate=settings.recovery_learning_rate, warm_up_share=0.0)
    batch_size = min(job.task.batch_size, job.task.train_size())
    size = min(settings.recovery_steps * batch_size, job.task.train_size())
    loop = LoopSettings(max(1, settings.recovery_steps * batch_size // size), batch_size, job.recipe.seed, math.inf)
    with tempfile.TemporaryDirectory() as scratch:
        player = Player(
            "model", Learner(candidate), lambda m, batch: lesson.loss_of(batch)(m["model"], batch), optimizer
        )
        fit([player], lesson.draw, size, loop, job.fabric, Path(scratch))
    candidate.eval()


def _completed(job: Job, candidate: fx.GraphModule, settings: Prune) -> fx.GraphModule:
    """The candidate as the later prune step would leave it, so that all are judged inside the budget.

    A candidate that pruning cannot bring inside stays as it is: its figures then say so.
    """
    try:
        plan = make_plan(job, candidate, settings)
    except Infeasible:
        return candidate
    return make_cut(job, candidate, plan.edits, settings.refit, settings.batches)


def run_trials(job: Job, index: int, settings: Search, folder: Path, student: Student) -> Outcome:
    """Propose candidates, judge each by itself on inherited weights, and cut the student as the best one is."""
    model, inputs = student.model, job.example_inputs
    widths = WidthModel(model, inputs)
    cost = job.cost_model()
    space = space_of(job, settings, model, widths)
    scores = channel_scores(job, model, settings.importance, SCORE_BATCHES, [g.layer for g in widths.free])
    prunes = [prune for prune in later(job, index, "prune") if prune.ratio == "auto"]
    if settings.complete and not prunes:
        raise RecipeError("search.complete: there is no later prune step with ratio: auto to complete candidates as")
    lesson = Lesson(job, recovery_settings(job, index), model) if settings.recovery_steps else None

    def judge(edits: tuple[Edit, ...]) -> tuple[float, dict[str, float]]:
        candidate = make_cut(job, model, edits, settings.refit, settings.calibration_batches)
        if settings.complete:
            candidate = _completed(job, candidate, prunes[0])
        figures = cost.figures(cost_of(candidate, inputs).ops)
        if lesson is not None:
            _recover(job, settings, candidate, lesson)
        quality = job.quality(candidate, "validation", settings.quick_samples)
        return float(quality.value or 0.0), figures

    def finishable(edits: tuple[Edit, ...]) -> bool:
        try:
            make_plan(job, apply_edits(model, edits, inputs), prunes[0].model_copy(update=QUICK_PLAN))
        except Infeasible:
            return False
        return True

    with job.console.progress("search") as bar:
        plan = room.search(
            space,
            scores,
            judge,
            job.limits,
            trials=settings.trials,
            population=settings.population,
            seed=job.recipe.seed,
            storage=settings.storage or f"sqlite:///{folder / 'study.db'}",
            private=settings.storage is None,
            higher_is_better=job.task.higher_is_better,
            must_meet=not prunes,
            finishable=finishable,
            pinned={g.layer: g.pinned for g in widths.groups if g.pinned},
            watch=bar.update,
        )
    before = model_figures(job, model, "float32")
    chosen = make_cut(job, model, plan.edits, settings.refit, 2 * settings.calibration_batches)
    record = plan.to_dict()
    on_front = sum(trial["on_front"] for trial in plan.trials)
    return Outcome(
        f"trial {plan.chosen} of {len(plan.trials)} ({on_front} on the front, {plan.space_size:.3g} candidates)",
        before,
        model_figures(job, chosen, "float32"),
        plan=record,
        table=plan.table(),
        extra={"trials": record["trials"], "chosen": plan.chosen, "quality_name": job.task.quality_name},
        student=Student(chosen, [*student.plans, {"kind": "search", "edits": record["edits"]}]),
    )


METHODS: dict[str, StepFunction] = {
    "trials": run_trials,
    "supernet": search_supernet.run,
    "ladder": search_ladder.run,
}
