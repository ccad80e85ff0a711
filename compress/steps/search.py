"""The search step: Optuna proposes widths, depth and resolution, inherited weights and predicted cost judge."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from torch import fx

from compress import search as room
from compress.checkpoint import Student
from compress.distill import Learner, Logit, Settings
from compress.errors import Infeasible, RecipeError
from compress.graph.cost import cost_of
from compress.graph.groups import WidthModel, residual_blocks
from compress.graph.resolution import legal_sizes
from compress.graph.surgery import apply_edits
from compress.job import Job
from compress.profile.budget import useful_widths
from compress.recipe import Prune, Search
from compress.steps.outcome import Outcome, model_figures
from compress.steps.prune import channel_scores, make_cut, make_plan
from compress.train import LoopSettings, OptimizerSettings, Player, fit
from compress.types import Edit

QUICK_PLAN = {"importance": "magnitude", "batches": 1}
"""Whether the prune step can meet the budget depends on widths alone, so any importance will do to find out."""


def _recover(job: Job, settings: Search, candidate: fx.GraphModule) -> None:
    """A few distillation steps in the one loop, so that a candidate is judged by what it can become, in place."""
    method = Logit(job.teacher, candidate, job.example_inputs, Settings())
    optimizer = OptimizerSettings(learning_rate=settings.recovery_learning_rate, warm_up_share=0.0)
    batch_size = min(job.task.batch_size, job.task.train_size())
    size = min(settings.recovery_steps * batch_size, job.task.train_size())
    loop = LoopSettings(max(1, settings.recovery_steps * batch_size // size), batch_size, job.recipe.seed, math.inf)
    with tempfile.TemporaryDirectory() as scratch:
        player = Player("model", Learner(candidate), lambda m, batch: method.loss(m["model"], batch), optimizer)
        fit([player], job.task.train_batch, size, loop, job.fabric, Path(scratch))
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


def run(job: Job, index: int, settings: Search, folder: Path, student: Student) -> Outcome:
    """Search, choose, and cut the student accordingly."""
    model, inputs = student.model, job.example_inputs
    widths = WidthModel(model, inputs)
    blocks = residual_blocks(model, inputs)
    cost = job.cost_model()
    sizes: tuple[tuple[int, int], ...] = ()
    if "resolution" in settings.space:
        sizes = legal_sizes(model, inputs, settings.resolution_multiple, settings.min_resolution)
        if not sizes:
            raise RecipeError(
                "search.space: this model works at no other resolution (sides from search.min_resolution "
                f"{settings.min_resolution:g} up, in steps of search.resolution_multiple "
                f"{settings.resolution_multiple} pixels); change these, or take width_depth "
                "where the output follows the input's size"
            )
    space = room.make_space(useful_widths(widths, cost, settings.min_width, job.limits), blocks, sizes, settings.space)
    scores = channel_scores(job, model, settings.importance, batches=8)
    later = [step for step in job.recipe.steps[index:] if step.verb == "prune" and step.settings.ratio == "auto"]
    if settings.complete and not later:
        raise RecipeError("search.complete: there is no later prune step with ratio: auto to complete candidates as")

    def judge(edits: tuple[Edit, ...]) -> tuple[float, dict[str, float]]:
        candidate = make_cut(job, model, edits, settings.refit, settings.calibration_batches)
        if settings.complete:
            candidate = _completed(job, candidate, later[0].settings)
        figures = cost.figures(cost_of(candidate, inputs).ops)
        if settings.recovery_steps:
            _recover(job, settings, candidate)
        quality = job.quality(candidate, "validation", settings.quick_samples)
        return float(quality.value or 0.0), figures

    def finishable(edits: tuple[Edit, ...]) -> bool:
        try:
            make_plan(job, apply_edits(model, edits, inputs), later[0].settings.model_copy(update=QUICK_PLAN))
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
            must_meet=not later,
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
