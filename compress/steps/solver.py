"""The solver step: a few dozen numbers of the sampler learn, for the network as it is by then, quantized or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.checkpoint import Student
from compress.diffusion import SamplerTable
from compress.diffusion.learned import LearnedSolver, quantized_forward
from compress.errors import RecipeError
from compress.job import Job
from compress.recipe import Solver
from compress.steps.outcome import Outcome, model_figures
from compress.tasks import Diffusion
from compress.train import LoopSettings, OptimizerSettings, Player, fit


def run(job: Job, index: int, settings: Solver, folder: Path, student: Student) -> Outcome:
    """Train the sampler's numbers against the teacher's own samples of the same noises."""
    task = diffusion_task(job)
    scheme = job.recipe.scheme if student.quantized is not None else "float32"
    before = model_figures(job, student.model, "float32")
    before["quality"] = job.quality(student.final, "validation")
    noises, conditions = task.noises("train", settings.pairs), task.conditions_of(settings.pairs)
    with torch.no_grad():
        wanted = task.make_of(job.teacher_predict, noises, conditions, task.teacher_sampler)
    solver = LearnedSolver([*task.sampler.levels, 0.0], task.preconditioning, settings.order)
    network = _network(task, student)

    def draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        condition = () if conditions is None else (conditions[indices],)
        return (noises[indices], wanted[indices], *condition)

    def loss(modules: Mapping[str, nn.Module], batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        first, target, *condition = batch
        difference = modules["solver"](network, first, *condition) - target
        return {"distance": difference.abs().mean() if settings.distance == "l1" else difference.square().mean()}

    optimizer = OptimizerSettings("adamw", settings.learning_rate, weight_decay=0.0, clip_norm=1.0)
    loop = LoopSettings(
        settings.epochs, settings.batch_size, job.recipe.seed * 1_000 + index, settings.checkpoint_every_s
    )
    with job.console.progress("solver") as bar:
        result = fit(
            [Player("solver", solver, loss, optimizer)],
            draw, settings.pairs, loop, job.float_fabric, folder, watch=bar.watch,
        )  # fmt: skip
    table = solver.table()
    use_sampler(job, table.to_dict())
    after = model_figures(job, student.model, scheme)
    after["quality"] = job.quality(student.final, "validation")
    return Outcome(
        f"{solver.numbers} numbers of a sampler of {solver.steps} steps, {result.steps} steps of training",
        before,
        after,
        history=result.history,
        extra={"sampler": table.to_dict(), "numbers": solver.numbers},
    )


def _network(task: Diffusion, student: Student) -> Callable[..., Tensor]:
    """The student's network as the solver asks it: it answers as it will be shipped, and has a gradient."""
    smooth = student.model.eval().requires_grad_(False)
    answer: Any = smooth if student.quantized is None else quantized_forward(student.quantized.eval(), smooth)
    return task.with_until(answer)


def diffusion_task(job: Job) -> Diffusion:
    """The recipe's task, which has to be one of diffusion.

    Raises:
        RecipeError: it is not.
    """
    task = job.judged_task
    if not isinstance(task, Diffusion):
        raise RecipeError(f"solver: there is no sampler to learn in a {type(task).__name__} task")
    if task.sampler.fresh_noises:
        raise RecipeError("solver: the task's sampler draws noise on the way; a learned one does not, take euler's")
    return task


def use_sampler(job: Job, record: Mapping[str, Any]) -> None:
    """From here on samples of the student are made by another sampler."""
    task = job.judged_task
    assert isinstance(task, Diffusion)
    task.sampler = SamplerTable.from_dict(record)
    task.forget_samples()
